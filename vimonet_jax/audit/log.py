"""What a server or page was asked and what came of it, without what was shown.

    config.log.file          JSON lines, to which entries are added; '': none
    config.log.secret_file   a secret: head -c 32 /dev/urandom > log.secret
    config.log.texts         keep questions and answers, not only their lengths
    config.log.addresses     keep where requests came from

    {"number": 7, "time": "2026-11-30T12:00:00.123Z", "request": "9f3c...",
     "who": "5e0d...", "media": [{"kind": "motion", "duration_s": 4.2,
     "digest": "c41a..."}], "question_characters": 24, "answer_characters": 61,
     "model": "1b7e...", "watermark": true, "policy": "77aa...",
     "outcome": "stop", "seconds": {"waited": 0.01, "answered": 0.4},
     "seal": "8d02..."}

`who` and `digest` are keyed with the secret: they tell equal ones from others
and nothing else. `seal` is keyed as well and covers the line and the seal of
the one before, so that nobody without the secret can change, remove or add a
line unnoticed, but for the last ones: from the end a log can always be cut.

What is told while it is written, a stream of a server or an answer on a page,
has two entries of one `request`: its start, with `outcome` "begun", before its
first word, and its end before it is told to be over. One without an end was cut
short by a crash; what had been told of it is not known.

What a crash has left of a line is kept in the next one, as "torn". Lines
outlive the process, not the machine: nothing waits for the disk.
"""

import contextlib
import datetime
import errno
import hmac
import json
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vimonet_jax import locks
from vimonet_jax.audit import provenance

# How the first of two entries says that another one should follow.
BEGUN = 'begun'
_LEAST_SECRET = 16  # Bytes.
_START = b'{"number": '  # Of every line.
_BLOCK = 1 << 16  # Bytes that are read at once from the end.


class Medium(NamedTuple):
  """What was shown.

  Attributes:
    kind: motion or video.
    duration_s: seconds; None where nobody knows.
    digest: see Log.keyed.
  """

  kind: str
  duration_s: float | None
  digest: str


class Log:
  """A file to which one process adds entries, from as many threads as it likes.

  Use it in a `with`, or close it.
  """

  def __init__(
    self,
    path: str,
    secret_file: str,
    *,
    texts: bool = False,
    addresses: bool = False,
  ):
    """Goes on where the file ends.

    Args:
      path: of the file, which is made where it is missing.
      secret_file: path of the secret.
      texts: keep what was said.
      addresses: keep where requests came from.

    Raises:
      ValueError: the file is no log, there is no secret, or another process is
        writing to the log (locks.HeldError).
    """
    self._keys = _keys(secret_file)
    self._texts, self._addresses = texts, addresses
    self._lock = threading.Lock()
    self._left = contextlib.ExitStack()
    with contextlib.ExitStack() as stack:
      path = os.path.abspath(path)
      stack.enter_context(locks.held(f'{path}.lock', f'write to {path}'))
      flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
      self._file = os.open(path, flags, 0o600)
      stack.callback(os.close, self._file)
      self._number, self._seal, torn = _end(self._file, path)
      if torn:
        os.ftruncate(self._file, os.fstat(self._file).st_size - len(torn))
        self._add({'torn': torn.decode(errors='replace')})
      self._left = stack.pop_all()

  def __enter__(self) -> 'Log':
    return self

  def __exit__(self, *error) -> None:
    self.close()

  def close(self) -> None:
    self._left.close()

  def keyed(self, data: bytes) -> str:
    """A digest of a medium's bytes that tells nobody else anything."""
    return hmac.digest(self._keys.names, data, 'sha256').hex()[:32]

  def add(
    self,
    *,
    request: str,
    api_key: str | None,
    media: Sequence[Medium],
    question: str,
    answer: str | None,
    model: str,
    watermark: bool,
    policy: str | None,
    outcome: str,
    seconds: Mapping[str, float],
    address: str | None = None,
  ) -> None:
    """Adds an entry.

    Args:
      request: its id.
      api_key: of who asked, of which a digest is kept; None without one.
      media: what was shown.
      question: what was asked.
      answer: what was answered, all that was told of it where it was cut
        short; None where nothing was.
      model: fingerprint of its weights.
      watermark: whether the answer is marked.
      policy: version that was accepted; None where none was.
      outcome: how it ended, in a word: `stop`, `length`, `refused`, ...; no
        message, which might quote what was shown. BEGUN where it has not.
      seconds: what took how long.
      address: where it came from, kept where the log keeps addresses.

    Raises:
      OSError: it could not be written, and nothing of it was.
    """
    entry = {
      'request': request,
      'who': None if api_key is None else self.keyed(api_key.encode()),
      'media': [x._asdict() for x in media],
      'question_characters': len(question),
      'answer_characters': None if answer is None else len(answer),
      'model': model,
      'watermark': watermark,
      'policy': policy,
      'outcome': outcome,
      'seconds': {name: round(x, 4) for name, x in seconds.items()},
    }
    if self._texts:
      entry |= {'question': question, 'answer': answer}
    if self._addresses:
      entry['address'] = address
    self._add(entry)

  def _add(self, entry: Mapping[str, Any]) -> None:
    with self._lock:
      number = self._number + 1
      line = {'number': number, 'time': _now(), **entry}
      seal = _sealed(self._keys, self._seal, line)
      _append(self._file, _written({**line, 'seal': seal}))
      self._number, self._seal = number, seal


def of(config) -> Log | None:
  """The log that a configuration asks for; None where it asks for none."""
  settings = config.get('log', {})
  if not settings.get('file', ''):
    return None
  return Log(
    settings['file'],
    settings['secret_file'],
    texts=settings['texts'],
    addresses=settings['addresses'],
  )


def is_log(path: str) -> bool:
  """Whether a file looks like a log."""
  if not os.path.isfile(path):
    return False
  with open(path, 'rb') as f:
    return f.read(len(_START)) == _START


def verify(path: str, secret_file: str) -> provenance.Verdict:
  """Whether lines were changed, removed or added since they were written.

  Args:
    path: of a log.
    secret_file: with which it was written.

  Raises:
    ValueError: there is no secret.
  """
  keys = _keys(secret_file)
  number, seal, entries = 0, '', 0
  wrong, torn = [], []
  with open(path, 'rb') as f:
    for place, line in enumerate(f, start=1):
      if not line.endswith(b'\n'):
        torn.append('the last line is')
        break
      entry = _parsed(line)
      if entry is None:
        wrong.append(f'line {place} is none of a log')
        continue
      found, there = entry.pop('seal'), entry['number']
      if not hmac.compare_digest(found, _sealed(keys, seal, entry)):
        is_next = there == number + 1
        what = f'line {place} changed'
        wrong.append(what if is_next else f'lines missing before line {place}')
      elif 'torn' in entry:
        torn.append(f'one before line {place} was')
      entries += 'torn' not in entry
      number, seal = there, found
  if wrong:
    more = f', and {len(wrong) - 3} more' if len(wrong) > 3 else ''
    return provenance.Verdict(
      False,
      f'Expected {path} as it was written with the secret in {secret_file}, '
      f'found: {"; ".join(wrong[:3])}{more}. Bring back a copy, and ask who '
      'could write to it.',
    )
  told = f'; {", ".join(torn)} torn, as by a crash' if torn else ''
  return provenance.Verdict(
    True, f'{path} has {entries} entries as they were written{told}.'
  )


# --- Lines and their seals ---------------------------------------------------


class _Keys(NamedTuple):
  names: bytes
  seals: bytes


def _keys(secret_file: str) -> _Keys:
  """One key for each use, from the secret."""
  if not secret_file:
    raise ValueError(
      'Expected config.log.secret_file, which keys the digests of an audit '
      'log, found none; make one that nobody else can read, away from the '
      'log: head -c 32 /dev/urandom > log.secret'
    )
  with open(secret_file, 'rb') as f:
    secret = f.read()
  if len(secret) < _LEAST_SECRET:
    raise ValueError(
      f'Expected {_LEAST_SECRET} bytes or more in {secret_file}, found '
      f'{len(secret)}; make it so: head -c 32 /dev/urandom > {secret_file}'
    )
  return _Keys(
    *(hmac.digest(secret, use, 'sha256') for use in (b'names', b'seals'))
  )


def _sealed(keys: _Keys, before: str, line: Mapping[str, Any]) -> str:
  """The seal of a line, which covers the one before."""
  text = json.dumps(
    line, sort_keys=True, separators=(',', ':'), ensure_ascii=False
  )
  return hmac.digest(keys.seals, f'{before}\n{text}'.encode(), 'sha256').hex()


def _written(entry: Mapping[str, Any]) -> bytes:
  return json.dumps(entry, ensure_ascii=False).encode() + b'\n'


def _parsed(line: bytes) -> dict[str, Any] | None:
  """An entry; None where the line is none, as `_written` writes it.

  Seals cover what is parsed. Written otherwise, the same could be read as
  something else: of a field that is there twice, others take the first.
  """
  try:
    entry = json.loads(line)
    is_written = _written(entry) == line
  except (ValueError, RecursionError):  # Bytes that are no text, too.
    return None
  is_entry = (
    is_written
    and isinstance(entry, dict)
    and isinstance(entry.get('number'), int)
    and isinstance(entry.get('seal'), str)
    and entry['seal'].isascii()
  )
  return entry if is_entry else None


def _end(file: int, path: str) -> tuple[int, str, bytes]:
  """Number and seal of the last whole line, and what is torn behind it.

  Raises:
    ValueError: that line is none of a log.
  """
  size = os.fstat(file).st_size
  tail = b''
  # Back until two line ends are there: before and behind the last whole line.
  while len(tail) < size and tail.count(b'\n') < 2:
    more = min(_BLOCK, size - len(tail))
    tail = os.pread(file, more, size - len(tail) - more) + tail
  *whole, torn = tail.split(b'\n')
  entry = {'number': 0, 'seal': ''}
  if whole:
    entry = _parsed(whole[-1] + b'\n')
  if not entry or torn[: len(_START)] != _START[: len(torn)]:
    last = torn or whole[-1]
    raise ValueError(
      f'Expected {path} to be an audit log, found {last[:40]!r} as its last '
      'line; choose another config.log.file.'
    )
  return entry['number'], entry['seal'], torn


def _append(file: int, data: bytes) -> None:
  """All of it or nothing."""
  size = os.fstat(file).st_size
  if os.write(file, data) < len(data):
    os.ftruncate(file, size)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _now() -> str:
  now = datetime.datetime.now(datetime.UTC)
  return now.isoformat(timespec='milliseconds').replace('+00:00', 'Z')
