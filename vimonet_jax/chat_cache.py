"""Replies of a paid service in a folder, and what was spent on them.

    folder/replies/3f/3fa9...c1.json   one request: what it asked, each reply
    folder/spent.jsonl                 a line when something is sent, and one
                                       when it is known what that cost
    folder/lock                        held by the one process that asks

A file takes its place whole and a line is written before its request is sent,
so a process may be killed at any moment.
"""

import contextlib
import fcntl
import itertools
import json
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

Json = dict[str, Any]

# What sums of floats may be off, in USD.
_ROUNDING_USD = 1e-9


class NoRoomError(Exception):
  """The budget has no room for one more request, whatever happens."""

  def __init__(self, needed_usd: float):
    super().__init__(f'needs up to ${needed_usd:.6f}')
    self.needed_usd = needed_usd


class Cache:
  """The replies to each request, by its key; a reply is {usd, completion}."""

  def __init__(self, folder: str):
    self.folder = folder

  def path(self, key: str) -> str:
    """Where the file of a request is, or would be."""
    return os.path.join(self.folder, 'replies', key[:2], f'{key}.json')

  def replies(self, key: str) -> list[Json]:
    """All that was answered so far; nothing where the file is damaged."""
    return self._read(key)['replies']

  def add(
    self, key: str, completion: Json, usd: float, request: Json | None = None
  ) -> list[Json]:
    """Keeps one more reply, before this returns; gives all of them.

    Args:
      key: of the request.
      completion: what the service sent.
      usd: what that cost.
      request: for those who read the file; kept from before where not given.
    """
    content = self._read(key)
    content['request'] = request or content['request']
    content['replies'].append({'usd': usd, 'completion': completion})
    path = self.path(key)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f'{path}.part', 'w', encoding='utf-8') as f:
      json.dump(content, f, ensure_ascii=False, indent=1)
      f.flush()
      os.fsync(f.fileno())  # It was paid for: it outlives a power cut, too.
    os.replace(f'{path}.part', path)
    return content['replies']

  def _read(self, key: str) -> Json:
    path = self.path(key)
    try:
      with open(path, encoding='utf-8') as f:
        content = json.load(f)
      for reply in content['replies']:
        float(reply['usd']), reply['completion'].keys()
      return {'request': content['request'], 'replies': content['replies']}
    except FileNotFoundError:
      pass
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      logging.warning('%s is damaged (%s); it is asked again.', path, error)
    return {'request': None, 'replies': []}


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
  """Keeps other processes from asking, and paying, the same at once.

  Raises:
    ValueError: another one does so now.
  """
  os.makedirs(folder, exist_ok=True)
  with open(os.path.join(folder, 'lock'), 'w') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(
        f'Expected to be the only one that asks with {folder}, found another '
        'that does so now; wait for it or name another folder.'
      ) from None
    yield


class Purse:
  """What was spent of a budget, and what requests under way may still cost.

  A request is written down at the most that it can cost, and again once that
  is known; the last line of a number counts:

      {"number": 7, "key": "3fa9...c1", "usd": 0.0108, "is_known": false}
      {"number": 7, "key": "3fa9...c1", "usd": 0.0021, "is_known": true}

  One whose reply never came stays at the most: the service may have charged it.
  """

  def __init__(self, folder: str, budget_usd: float):
    os.makedirs(folder, exist_ok=True)
    self.budget_usd = budget_usd
    path = os.path.join(folder, 'spent.jsonl')
    _cut_torn_line(path)
    self._lines = _lines(path)
    self._usd = math.fsum(line['usd'] for line in self._lines.values())
    self._under_way = set()
    self._numbers = itertools.count(max(self._lines, default=-1) + 1)
    self._changed = threading.Condition()
    self._file = open(path, 'a', encoding='utf-8', buffering=1)  # noqa: SIM115

  def __enter__(self) -> 'Purse':
    return self

  def __exit__(self, *_):
    self._file.close()

  @property
  def spent_usd(self) -> float:
    """All that was ever paid, and the most for what is not known."""
    with self._changed:
      waiting = math.fsum(self._lines[n]['usd'] for n in self._under_way)
      return max(0.0, self._usd - waiting)

  @property
  def unknown_usd(self) -> float:
    """The part of `spent_usd` for requests whose reply never came."""
    with self._changed:
      return math.fsum(
        line['usd']
        for number, line in self._lines.items()
        if not line['is_known'] and number not in self._under_way
      )

  @contextlib.contextmanager
  def reserved(
    self, key: str, most_usd: float
  ) -> Iterator[Callable[[float], None]]:
    """Sets aside what one request can cost at most, while it is under way.

    Waits for others under way, which may turn out cheaper. The block calls what
    it is given with the cost, once that is known and the reply is kept.

    Raises:
      NoRoomError: nothing is under way any more, and there is no room.
    """
    with self._changed:
      while self._usd + most_usd > self.budget_usd + _ROUNDING_USD:
        if not self._under_way:
          raise NoRoomError(most_usd)
        self._changed.wait()
      number = next(self._numbers)
      self._under_way.add(number)
      self._write(number, key, most_usd, is_known=False)

    def costs(usd: float) -> None:
      with self._changed:
        self._write(number, key, usd, is_known=True)

    try:
      yield costs
    finally:
      with self._changed:
        self._under_way.discard(number)
        self._changed.notify_all()

  def charge(self, key: str, usd: float) -> None:
    """Writes down what was paid elsewhere, in the budget or beyond it."""
    with self._changed:
      self._write(next(self._numbers), key, usd, is_known=True)

  def _write(self, number: int, key: str, usd: float, *, is_known: bool):
    line = {'number': number, 'key': key, 'usd': usd, 'is_known': is_known}
    self._file.write(json.dumps(line) + '\n')
    self._usd += usd - self._lines.get(number, {'usd': 0.0})['usd']
    self._lines[number] = line


def spent_usd(folder: str) -> float:
  """What was spent with a folder, in USD; see `Purse`."""
  lines = _lines(os.path.join(folder, 'spent.jsonl'))
  return math.fsum(line['usd'] for line in lines.values())


def _cut_torn_line(path: str) -> None:
  if os.path.exists(path):
    with open(path, 'rb+') as f:
      f.truncate(f.read().rfind(b'\n') + 1)


def _lines(path: str) -> dict[int, Json]:
  """The last line of each number; a line that is being written is left out."""
  if not os.path.exists(path):
    return {}
  with open(path, encoding='utf-8') as f:
    rows = f.read().split('\n')[:-1]
  lines = {}
  for place, row in enumerate(rows, 1):
    try:
      line = json.loads(row)
      lines[line['number']] = line
      float(line['usd']), line['key'], line['is_known']
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f'{path}, line {place}: expected what one request cost, found '
        f'{row[:60]!r}; mend that line, since the budget counts on it.'
      ) from error
  return lines
