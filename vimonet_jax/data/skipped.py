"""Records that are passed over because they are damaged.

A few of a large set may be; each is named, and too many end the run.
"""

import json
import logging
import os
import threading
from collections.abc import Iterator

from vimonet_jax.data import records

_MOST_NAMED = 3


class Skipped:
  """Names damaged records, counts each once, and stops at one too many.

  How often a record is met, and how often the run is started again, changes
  nothing: what was counted stands in a file. Threads that read at the same time
  may share it.
  """

  def __init__(self, limit: int, path: str | None = None):
    """Takes up the count.

    Args:
      limit: how many there may be.
      path: of a file with a line {"where", "what"} for each; None for no file.
    """
    self._limit = limit
    self._path = path
    self._found: dict[str, str] = {}
    self._lock = threading.Lock()
    if path is not None and os.path.exists(path):
      with open(path, encoding='utf-8') as f:
        # The last line may be of a process that was killed while writing.
        whole = [line for line in f if line.endswith('\n')]
      for line in map(json.loads, whole):
        self._found[line['where']] = line['what']

  def add(self, error: records.CorruptError) -> None:
    """Counts one that was met.

    Raises:
      ValueError: there are more than may be; names the first of them.
    """
    with self._lock:
      self._add(error)

  def _add(self, error: records.CorruptError) -> None:
    if error.where not in self._found:
      self._found[error.where] = error.what
      logging.warning(
        'Record left out, %s: %s. That makes %d; %d may be damaged.',
        error.where,
        error.what,
        len(self._found),
        self._limit,
      )
      self._write()
    if len(self._found) > self._limit:
      named = [f'{where}: {what}' for where, what in self._found.items()]
      more = f'; all are in {self._path}' if self._path else ''
      raise ValueError(
        f'Expected at most {self._limit} damaged records, found '
        f'{len(self._found)} ({"; ".join(named[:_MOST_NAMED])}{more}); mend '
        'the data and remove that list, or raise data.max_corrupt.'
      ) from error

  def sound(self, source) -> Iterator[records.Record]:
    """The records of a source in their order, without the damaged ones."""
    for number in range(len(source)):
      if (record := self._read(source, number)) is not None:
        yield record

  def damaged(self, source) -> list[int]:
    """The numbers of the others."""
    numbers = range(len(source))
    return [i for i in numbers if self._read(source, i) is None]

  def _read(self, source, number: int) -> records.Record | None:
    """None for a damaged record, which is counted."""
    try:
      return source[number]
    except records.CorruptError as error:
      self.add(error)
      return None

  def _write(self) -> None:
    if self._path is None:
      return
    os.makedirs(os.path.dirname(self._path), exist_ok=True)
    part = f'{self._path}.part'
    records.write_json_lines(
      part,
      ({'where': where, 'what': what} for where, what in self._found.items()),
    )
    os.replace(part, self._path)
