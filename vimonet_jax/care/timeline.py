"""The files of a timeline: events, windows, all of it, and a figure.

    timeline.csv    an event a row, as soon as it is over
    windows.csv     a window a row: how sure of each kind, and an answer
    timeline.json   the same, and how it was made
    timeline.svg    confidences and events by time

Each says that it is no medical device. In the tables that is the first line,
which begins with #: pandas.read_csv(path, skiprows=1).
"""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vimonet_jax import page
from vimonet_jax.care import events
from vimonet_jax.data import windows

NOTICE = (
  'This is no medical device: it misses events and raises false alarms, so '
  'nobody may rely on it for the care or safety of a person.'
)
_COLUMNS = ('kind', 'start_s', 'end_s', 'confidence', 'alarm_s', 'source')

_FORMULAS = ('=', '+', '-', '@', '\t', '\r')

# --- The figure, in pixels ---
_WIDTH, _LEFT, _RIGHT, _TOP, _LANE, _BOTTOM = 1100, 170, 60, 64, 62, 76
_MOST_POINTS = 900
_COLOURS = (
  '#b91c1c', '#b45309', '#7c3aed', '#be185d', '#0f766e', '#1d4ed8',
)  # fmt: skip
_TICKS_S = (
  5, 10, 30, 60, 300, 600, 1800, 3600, 2 * 3600, 6 * 3600, 12 * 3600, 86400,
)  # fmt: skip


class Writer:
  """Writes the tables as a recording goes on, and the rest in the end.

  Attributes:
    found: events that are over.
    shown: windows, without what they show.
    confidences: of each window, by kind.
    answers: of each window, where something is asked.
    unseen: start and end of each time in which nobody was seen, seconds.
  """

  def __init__(self, folder: str, sources: Mapping[str, str], question: str):
    """Begins anew.

    Args:
      folder: of the files; is made.
      sources: kind of event -> what its confidence comes from.
      question: that is asked about every window; '' for none.
    """
    self.found: list[events.Found] = []
    self.shown: list[windows.Window] = []
    self.confidences: list[Mapping[str, float]] = []
    self.answers: list[str] = []
    self.unseen: list[tuple[float, float]] = []
    self._folder = folder
    self._sources = sources
    self._question = question
    os.makedirs(folder, exist_ok=True)
    columns = ['start_s', 'end_s', *sources, *(['answer'] if question else [])]
    self._events = _Table(os.path.join(folder, 'timeline.csv'), _COLUMNS)
    self._windows = _Table(os.path.join(folder, 'windows.csv'), columns)

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
    answers = [_as_text(answer)] if self._question else []
    times = (f'{window.start_s:.2f}', f'{window.end_s:.2f}')
    self._windows.add([*times, *shares, *answers])

  def add_unseen(self, window: windows.Window) -> bool:
    """A window about which nothing is known; whether that is new."""
    start_s = max(window.start_s, self.shown[-1].end_s if self.shown else 0.0)
    is_new = not self.unseen or self.unseen[-1][1] < start_s
    if not is_new:
      start_s, _ = self.unseen.pop()
    self.unseen.append((start_s, window.end_s))
    return is_new

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
    )
    return dict(zip(_COLUMNS, values, strict=True))

  def close(self, about: Mapping[str, Any]) -> None:
    """Ends the tables, and writes the rest.

    Args:
      about: how it was made, for the JSON; `thresholds` are drawn.
    """
    self._events.close()
    self._windows.close()
    fields = {
      'notice': NOTICE,
      **about,
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
      drawn = figure(
        self.shown,
        self.confidences,
        self.found,
        about['thresholds'],
        self._sources,
      )
      self._write('timeline.svg', drawn)

  def _write(self, name: str, text: str) -> None:
    path = os.path.join(self._folder, name)
    with open(f'{path}.part', 'w', encoding='utf-8') as f:
      f.write(text)
    os.replace(f'{path}.part', path)


class _Table:
  """A CSV file that others may read while it grows."""

  def __init__(self, path: str, columns: Sequence[str]):
    # Open as long as the table.
    self._file = open(path, 'w', encoding='utf-8', newline='')  # noqa: SIM115
    self._file.write(f'# {NOTICE}\n')
    self._csv = csv.writer(self._file)
    self.add(columns)

  def add(self, row) -> None:
    self._csv.writerow(row)
    self._file.flush()

  def close(self) -> None:
    self._file.close()


def _as_text(answer: str) -> str:
  """What no spreadsheet takes for a formula, whoever made a model say it."""
  return f"'{answer}" if answer.startswith(_FORMULAS) else answer


def clock(seconds: float) -> str:
  """`1:02:03`, with days where there are some."""
  minutes, second = divmod(int(seconds), 60)
  hours, minute = divmod(minutes, 60)
  days, hour = divmod(hours, 24)
  return (f'{days}d ' if days else '') + f'{hour}:{minute:02}:{second:02}'


def figure(
  shown: Sequence[windows.Window],
  confidences: Sequence[Mapping[str, float]],
  found: Sequence[events.Found],
  thresholds: Mapping[str, float],
  sources: Mapping[str, str],
) -> str:
  """A lane for each kind of event, as SVG.

  Args:
    shown: windows in order of time, at least one.
    confidences: of each window, by kind.
    found: events.
    thresholds: above which an event begins, by kind.
    sources: what its confidence comes from, by kind.
  """
  first_s, last_s = shown[0].start_s, shown[-1].end_s
  height = _TOP + _LANE * len(thresholds) + _BOTTOM
  bottom = height - _BOTTOM

  def x(seconds):
    share = (seconds - first_s) / max(last_s - first_s, 1e-9)
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

  parts = [
    f'<text x="16" y="28" class="title">Timeline of {clock(last_s - first_s)}'
    f'</text><text x="16" y="48" class="quiet">How sure of each kind of event, '
    'by the time in the middle of a window; above a dashed line an event '
    'begins. Bars are events, with the time and the number of them.</text>'
  ]
  # Times with days need more room.
  most = 12.5 if last_s < 86400 else 8.5
  tick_s = next(
    (t for t in _TICKS_S if (last_s - first_s) / t <= most), _TICKS_S[-1]
  )
  for tick in np.arange(np.ceil(first_s / tick_s) * tick_s, last_s + 1, tick_s):
    parts.append(
      f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP}" y2="{bottom}"/>'
      f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle" '
      f'class="quiet">{clock(tick)}</text>'
    )
  middles = [x((one.start_s + one.end_s) / 2) for one in shown]
  for i, (kind, threshold) in enumerate(thresholds.items()):
    values = [one[kind] for one in confidences]
    mine = [one for one in found if one.kind == kind]
    spans = [(x(one.start_s), x(one.end_s), one) for one in mine]
    colour = _COLOURS[i % len(_COLOURS)]
    parts.append(
      _lane(kind, colour, _TOP + i * _LANE, threshold, middles, values, spans)
    )
    parts.append(
      f'<text x="16" y="{_TOP + (i + 1) * _LANE - 6}" class="quiet small">'
      f'{sources[kind]}</text>'
    )
  half = NOTICE.index(', so') + 1
  for i, line in enumerate((NOTICE[:half], NOTICE[half:].strip())):
    parts.append(
      f'<text x="16" y="{height - 26 + 16 * i}" class="notice">'
      f'{page.escape(line)}</text>'
    )
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
    f'width="{_WIDTH}" height="{height}" role="img" aria-label="Timeline">'
    f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
    f'{"".join(parts)}</svg>\n'
  )


def _lane(kind, colour, top, threshold, middles, values, spans) -> str:
  """A kind's confidence as an area, and its events as bars above it."""
  base, room = top + _LANE - 6, _LANE - 24

  def y(share):
    return base - share * room

  xs, shares = _thinned(middles, values)
  points = [(xs[0], base), *zip(xs, map(y, shares), strict=True)]
  points.append((xs[-1], base))
  area = ' '.join(f'{a:.1f},{b:.1f}' for a, b in points)
  right = _WIDTH - _RIGHT
  parts = [
    f'<text x="16" y="{base - 14}" class="kind">{kind}</text>',
    f'<text x="{right + 10}" y="{base - 14}" class="kind" '
    f'style="fill:{colour}">{len(spans)}</text>',
    f'<line x1="{_LEFT}" x2="{right}" y1="{base}" y2="{base}"/>',
    f'<polygon points="{area}" fill="{colour}" fill-opacity="0.3"/>',
    f'<line class="limit" x1="{_LEFT}" x2="{right}" y1="{y(threshold):.1f}" '
    f'y2="{y(threshold):.1f}" style="stroke:{colour}"/>',
  ]
  written = -np.inf
  for start, end, one in spans:
    title = f'{kind}, {clock(one.start_s)}, {one.confidence:.0%} sure'
    parts.append(
      f'<rect x="{start:.1f}" y="{top + 12}" width="{max(end - start, 3):.1f}" '
      f'height="5" fill="{colour}"><title>{title}</title></rect>'
    )
    if start > written + (72 if one.start_s >= 86400 else 48):
      parts.append(
        f'<text x="{start:.1f}" y="{top + 9}" class="time" '
        f'style="fill:{colour}">{clock(one.start_s)}</text>'
      )
      written = start
  return ''.join(parts)


def _thinned(xs, values) -> tuple[list[float], list[float]]:
  """Of a long recording, the highest value of neighbours."""
  parts = min(len(values), _MOST_POINTS)
  return (
    [float(part[0]) for part in np.array_split(xs, parts)],
    [float(part.max()) for part in np.array_split(values, parts)],
  )


_STYLE = (
  'text{font:12px system-ui,sans-serif;fill:#1c2125}'
  '.title{font-size:17px;font-weight:600}.quiet{fill:#687078}.small{font-size:10px}'
  '.kind{font-weight:600}.time{font-size:10px}'
  '.notice{fill:#b91c1c;font-weight:600}'
  'line{stroke:#e4e1dc}.limit{stroke-dasharray:3 3;stroke-opacity:0.7}'
)
