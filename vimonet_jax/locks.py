"""What one process at a time may do, of all that see a folder."""

import contextlib
import errno
import fcntl
import logging
import os
import platform
from collections.abc import Iterator
from typing import IO

# What file systems say that have no locks, such as some of clusters.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class HeldError(ValueError):
  """Another process is at it; its text says which, and what to do."""


@contextlib.contextmanager
def held(path: str, what: str) -> Iterator[None]:
  """Holds a lock, which ends with the process at the latest.

  Args:
    path: of the lock's file, which is there as long as somebody holds it.
    what: is done meanwhile, for the sentence.

  Raises:
    HeldError: another process holds it.
  """
  file = _taken(path, what)
  try:
    file.truncate(0)
    file.write(f'process {os.getpid()} on {platform.node()}')
    file.flush()
    yield
  finally:
    # Before it is let go of, or it might be the next one's.
    if _is_at(file, path):
      os.remove(path)
    file.close()


def _taken(path: str, what: str) -> IO[str]:
  os.makedirs(os.path.dirname(path), exist_ok=True)
  while True:
    file = open(path, 'a+', encoding='utf-8')  # noqa: SIM115
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      with file:
        file.seek(0)
        who = file.read() or 'another process'
      raise HeldError(
        f'Expected nobody else to {what}, found {who} at it; wait for it, or '
        f'choose another folder. (If it has died with its whole machine, '
        f'remove {path}.)'
      ) from None
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        file.close()
        raise
      logging.warning(
        '%s is on a file system without locks: nobody else must %s now.',
        path,
        what,
      )
      return file
    if _is_at(file, path):
      return file
    file.close()  # Its holder has removed it in between.


def _is_at(file: IO[str], path: str) -> bool:
  try:
    return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
  except FileNotFoundError:
    return False
