"""The files of a timeline: events, windows, all of it, and a figure.

    alarms.csv      an alarm a row, as it is raised
    timeline.csv    an event a row, as soon as it is over
    windows.csv     a window a row: how sure of each kind, and an answer;
                    neither where nobody was seen
    timeline.json   the same, and how it was made
    timeline.svg    confidences and events by time

Each says that it is no medical device. In the tables that is the first line,
which begins with #: pandas.read_csv(path, skiprows=1).
"""

import csv
import datetime
import glob
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vimonet_jax.care import events, figure
from vimonet_jax.data import windows

NOTICE = (
  'This is no medical device: it misses events and raises false alarms, so '
  'nobody may rely on it for the care or safety of a person.'
)
_ALARMS = ('kind', 'alarm_s', 'clock', 'start_s', 'end_s', 'confidence')
_COLUMNS = (
  'kind', 'start_s', 'end_s', 'confidence', 'alarm_s', 'source', 'clock',
)  # fmt: skip
# What belongs to a watch, with the manifests beside it.
_FILES = ('timeline.*', 'windows.csv*', 'alarms.csv*')

_FORMULAS = ('=', '+', '-', '@', '\t', '\r')


def keep(folder: str, about: Mapping[str, Any]) -> str:
  """Puts an earlier watch aside, unless it was of the same finished recording.

  Nobody may have seen it yet, and a watch that is started anew by itself, after
  a power cut, is to go on and not to wait for somebody.

  Args:
    folder: of the files.
    about: of the watch that is to begin, with `is_live` and `files`, what
      `state_of` gives of what is watched; see `Writer.close`.

  Returns:
    where the earlier one lies now; '' where nothing was put aside.
  """
  paths = [x for name in _FILES for x in glob.glob(_in(folder, name))]
  if not paths or (not about['is_live'] and _is_of(folder, about)):
    return ''
  seconds = max(os.path.getmtime(path) for path in paths)
  ended = datetime.datetime.fromtimestamp(seconds)
  named = os.path.join(folder, f'until-{ended:%Y-%m-%dT%H-%M-%S}')
  aside, number = named, 1
  while os.path.exists(aside):
    number += 1
    aside = f'{named}-{number}'
  os.mkdir(aside)
  for path in paths:
    os.rename(path, os.path.join(aside, os.path.basename(path)))
  return aside


def state_of(path: str) -> dict[str, Any]:
  """What tells a finished recording from another one under the same name."""
  found = os.stat(path)
  return {
    'path': os.path.abspath(path),
    'bytes': found.st_size,
    'mtime_ns': found.st_mtime_ns,
  }


def _in(folder: str, pattern: str) -> str:
  return os.path.join(glob.escape(folder), pattern)


def _is_of(folder: str, about: Mapping[str, Any]) -> bool:
  """Whether what lies there came to its end, and could be made again."""
  try:
    with open(os.path.join(folder, 'timeline.json'), encoding='utf-8') as f:
      fields = json.load(f)
    same = ('files', 'is_live')
    return all(fields.get(x) == about[x] for x in same)
  except (FileNotFoundError, ValueError, AttributeError):
    return False


class Writer:
  """Writes the tables as a recording goes on, and the rest in the end.

  Attributes:
    begun_at: when second 0 was, with its offset; None as long as not known.
    found: events that are over.
    shown: windows, without what they show.
    confidences: of each window, by kind.
    answers: of each window, where something is asked.
    unseen: start and end of each time in which nobody was seen, seconds.
  """

  def __init__(
    self,
    folder: str,
    sources: Mapping[str, str],
    question: str,
    *,
    is_live: bool = False,
  ):
    """Begins anew; what is there is written over, or removed until the end.

    Args:
      folder: of the files; is made.
      sources: kind of event -> what its confidence comes from.
      question: that is asked about every window; '' for none.
      is_live: what is written cannot be seen again, so that each row is on the
        disk, whatever happens to the machine, before the next one.
    """
    self.begun_at: datetime.datetime | None = None
    self.found: list[events.Found] = []
    self.shown: list[windows.Window] = []
    self.confidences: list[Mapping[str, float]] = []
    self.answers: list[str] = []
    self.unseen: list[tuple[float, float]] = []
    self._folder = folder
    self._sources = sources
    self._question = question
    os.makedirs(folder, exist_ok=True)
    for name in 'timeline.json', 'timeline.svg':
      pathlib.Path(folder, name).unlink(missing_ok=True)
    shown = ('start_s', 'end_s', 'clock', *sources)
    if question:
      shown += ('answer',)
    self._alarms, self._events, self._windows = (
      _Table(os.path.join(folder, name), columns, is_live)
      for name, columns in (
        ('alarms.csv', _ALARMS),
        ('timeline.csv', _COLUMNS),
        ('windows.csv', shown),
      )
    )

  def at(self, seconds: float) -> datetime.datetime | None:
    """When a second of the recording was; None where nobody knows."""
    if self.begun_at is None:
      return None
    return self.begun_at + datetime.timedelta(seconds=seconds)

  def add_window(
    self,
    window: windows.Window,
    confidences: Mapping[str, float],
    answer: str = '',
  ) -> None:
    if self.unseen and self.unseen[-1][1] > window.start_s:
      self.unseen[-1] = (self.unseen[-1][0], window.start_s)
    self.shown.append(window._replace(joints=None, frames=None))
    self.confidences.append(confidences)
    self.answers.append(answer)
    shares = [f'{confidences[kind]:.4f}' for kind in self._sources]
    self._add_row(window, shares, _as_text(answer))

  def add_unseen(self, window: windows.Window) -> bool:
    """A window about which nothing is known; whether that is new."""
    start_s = max(window.start_s, self.shown[-1].end_s if self.shown else 0.0)
    is_new = not self.unseen or self.unseen[-1][1] < start_s
    if not is_new:
      start_s, _ = self.unseen.pop()
    self.unseen.append((start_s, window.end_s))
    self._add_row(window, [''] * len(self._sources), '')
    return is_new

  def _add_row(self, window, shares: Sequence[str], answer: str) -> None:
    times = (f'{window.start_s:.2f}', f'{window.end_s:.2f}')
    answers = [answer] if self._question else []
    clock = self._clock(window.start_s) or ''
    self._windows.add([*times, clock, *shares, *answers])

  def add_alarm(
    self, kind: str, window: windows.Window, confidence: float
  ) -> None:
    """The window that raised it, the moment it did."""
    alarm_s, start_s = f'{window.end_s:.2f}', f'{window.start_s:.2f}'
    clock = self._clock(window.end_s) or ''
    self._alarms.add(
      [kind, alarm_s, clock, start_s, alarm_s, f'{confidence:.4f}']
    )

  @property
  def end_s(self) -> float:
    """Where all that was watched ends."""
    shown_s = self.shown[-1].end_s if self.shown else 0.0
    return max(shown_s, self.unseen[-1][1] if self.unseen else 0.0)

  def add_event(self, found: events.Found) -> None:
    self.found.append(found)
    self._events.add(self._row(found).values())

  def _row(self, found: events.Found) -> dict[str, Any]:
    values = (
      found.kind,
      round(found.start_s, 2),
      round(found.end_s, 2),
      round(found.confidence, 4),
      round(found.alarm_s, 2),
      self._sources[found.kind],
      self._clock(found.start_s),
    )
    return dict(zip(_COLUMNS, values, strict=True))

  def _clock(self, seconds: float) -> str | None:
    at = self.at(seconds)
    return at and at.isoformat(timespec='seconds')

  def close(self, about: Mapping[str, Any]) -> None:
    """Ends the tables, and writes the rest.

    Args:
      about: how it was made, for the JSON; `thresholds` are drawn.
    """
    for table in self._alarms, self._events, self._windows:
      table.close()
    fields = {
      'notice': NOTICE,
      **about,
      'begun_at': self._clock(0.0),
      'duration_s': self.end_s,
      'unseen': self.unseen,
      'sources': dict(self._sources),
      'events': [self._row(found) for found in self.found],
    }
    if self._question:
      fields['question'] = self._question
      fields['answers'] = [
        {'start_s': x.start_s, 'end_s': x.end_s, 'answer': answer}
        for x, answer in zip(self.shown, self.answers, strict=True)
      ]
    self._write('timeline.json', json.dumps(fields, indent=1) + '\n')
    if self.shown:
      drawn = figure.draw(
        self.shown,
        self.confidences,
        self.found,
        about['thresholds'],
        self._sources,
        unseen=self.unseen,
        begun_at=self.begun_at,
        notice=NOTICE,
      )
      self._write('timeline.svg', drawn)

  def _write(self, name: str, text: str) -> None:
    path = os.path.join(self._folder, name)
    with open(f'{path}.part', 'w', encoding='utf-8') as f:
      f.write(text)
      f.flush()
      os.fsync(f.fileno())
    os.replace(f'{path}.part', path)


class _Table:
  """A CSV file that others may read while it grows."""

  def __init__(self, path: str, columns: Sequence[str], is_live: bool):
    self._is_live = is_live
    # Open as long as the table.
    self._file = open(path, 'w', encoding='utf-8', newline='')  # noqa: SIM115
    self._file.write(f'# {NOTICE}\n')
    self._csv = csv.writer(self._file)
    self.add(columns)

  def add(self, row) -> None:
    self._csv.writerow(row)
    self._file.flush()
    if self._is_live:
      os.fsync(self._file.fileno())

  def close(self) -> None:
    self._file.close()


def _as_text(answer: str) -> str:
  """What no spreadsheet takes for a formula, whoever made a model say it."""
  return f"'{answer}" if answer.startswith(_FORMULAS) else answer
