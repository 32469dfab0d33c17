"""A disk that is full ends a run with a sentence, whoever noticed it first."""

import contextlib
import errno
import logging
import os
import shutil
import threading
from collections.abc import Iterator

_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
# Libraries in C++ only pass on what the system says.
_WORDS = tuple(os.strerror(number) for number in _ERRNOS)


class FullError(OSError):
  """Its text says which folder has no room left, and what to do."""


@contextlib.contextmanager
def says_when_full(folder: str) -> Iterator[None]:
  """Errors that come of a full disk, even in the background, as a FullError.

  Args:
    folder: where is written; may not exist yet.
  """
  before = threading.excepthook

  def tell(thread):
    # Orbax raises again, where it is waited for, what its threads have met.
    if not is_full(thread.exc_value):
      before(thread)

  threading.excepthook = tell
  try:
    yield
  except FullError:
    raise
  except Exception as error:  # Each library has another one for it.
    if not is_full(error):
      raise
    # What still was on its way fails as well, and asyncio would tell of it.
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    raise FullError(
      f'Expected room to write to {folder}, found its disk full '
      f'({_room(folder)}); make room and repeat the command; whatever was '
      'finished before is whole.'
    ) from error
  finally:
    threading.excepthook = before


def is_full(error: BaseException | None) -> bool:
  """Whether this error, or one that it came of, is of a full disk."""
  seen = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    if isinstance(error, OSError) and error.errno in _ERRNOS:
      return True
    if any(words in str(error) for words in _WORDS):
      return True
    error = error.__cause__ or error.__context__
  return False


def _room(folder: str) -> str:
  path = os.path.abspath(folder)
  while not os.path.exists(path):
    path = os.path.dirname(path)
  usage = shutil.disk_usage(path)
  return f'{usage.free / 1e6:.1f} of {usage.total / 1e6:.1f} MB are free now'
