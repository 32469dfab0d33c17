"""The figure of a timeline: a lane for each kind of event, as SVG."""

import datetime
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from vimonet_jax import page
from vimonet_jax.care import events
from vimonet_jax.data import windows

# Pixels.
_WIDTH, _LEFT, _RIGHT, _TOP, _LANE, _BOTTOM = 1100, 170, 60, 64, 62, 76
_MOST_POINTS = 900
# Characters in a line of the notice.
_NOTICE = 90
_COLOURS = (
  '#b91c1c', '#b45309', '#7c3aed', '#be185d', '#0f766e', '#1d4ed8',
)  # fmt: skip
_TICKS_S = (
  5, 10, 30, 60, 300, 600, 1800, 3600, 2 * 3600, 6 * 3600, 12 * 3600, 86400,
)  # fmt: skip


def elapsed(seconds: float) -> str:
  """`1:02:03`, with days where there are some."""
  minutes, second = divmod(int(seconds), 60)
  hours, minute = divmod(minutes, 60)
  days, hour = divmod(hours, 24)
  return (f'{days}d ' if days else '') + f'{hour}:{minute:02}:{second:02}'


def draw(
  shown: Sequence[windows.Window],
  confidences: Sequence[Mapping[str, float]],
  found: Sequence[events.Found],
  thresholds: Mapping[str, float],
  sources: Mapping[str, str],
  *,
  unseen: Sequence[tuple[float, float]] = (),
  begun_at: datetime.datetime | None = None,
  notice: str,
) -> str:
  """A lane for each kind of event, as SVG.

  Args:
    shown: windows in order of time, at least one.
    confidences: of each window, by kind.
    found: events.
    thresholds: above which an event begins, by kind.
    sources: what its confidence comes from, by kind.
    unseen: start and end of times in which nobody was seen, seconds.
    begun_at: when second 0 was, where that is known.
    notice: what whoever looks at it has to know.
  """
  first_s, last_s = shown[0].start_s, shown[-1].end_s
  if unseen:
    first_s, last_s = min(first_s, unseen[0][0]), max(last_s, unseen[-1][1])
  height = _TOP + _LANE * len(thresholds) + _BOTTOM
  bottom = height - _BOTTOM

  def x(seconds):
    share = (seconds - first_s) / max(last_s - first_s, 1e-9)
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

  begun = ''
  if begun_at:
    begun = f', begun {begun_at.isoformat(" ", "seconds")}'
  parts = [
    f'<text x="16" y="28" class="title">Timeline of {elapsed(last_s - first_s)}'
    f'{begun}</text><text x="16" y="48" class="quiet">How sure of each kind of '
    'event, by the time in the middle of a window; above a dashed line an '
    'event begins. Bars are events, with the time and the number of them.'
    '</text>'
  ]
  if unseen:
    parts.append(
      f'<text x="{_WIDTH - _RIGHT}" y="28" text-anchor="end" class="quiet">'
      'Grey: nobody was seen.</text>'
    )
  for start_s, end_s in unseen:
    width = max(x(end_s) - x(start_s), 1)
    parts.append(
      f'<rect x="{x(start_s):.1f}" y="{_TOP}" width="{width:.1f}" '
      f'height="{bottom - _TOP}" class="unseen"><title>nobody was seen, '
      f'{elapsed(start_s)} to {elapsed(end_s)}</title></rect>'
    )
  # Times with days need more room.
  most = 12.5 if last_s < 86400 else 8.5
  tick_s = next(
    (t for t in _TICKS_S if (last_s - first_s) / t <= most), _TICKS_S[-1]
  )
  for tick in np.arange(np.ceil(first_s / tick_s) * tick_s, last_s + 1, tick_s):
    parts.append(
      f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP}" y2="{bottom}"/>'
      f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle" '
      f'class="quiet">{elapsed(tick)}</text>'
    )
  middles = np.array([x((one.start_s + one.end_s) / 2) for one in shown])
  # Where windows touch, somebody was seen all the time.
  ends = [
    i for i in range(1, len(shown)) if shown[i].start_s > shown[i - 1].end_s
  ]
  for i, (kind, threshold) in enumerate(thresholds.items()):
    values = np.array([one[kind] for one in confidences])
    runs = list(
      zip(np.split(middles, ends), np.split(values, ends), strict=True)
    )
    mine = [one for one in found if one.kind == kind]
    spans = [(x(one.start_s), x(one.end_s), one) for one in mine]
    colour = _COLOURS[i % len(_COLOURS)]
    parts.append(_lane(kind, colour, _TOP + i * _LANE, threshold, runs, spans))
    parts.append(
      f'<text x="16" y="{_TOP + (i + 1) * _LANE - 6}" class="quiet small">'
      f'{sources[kind]}</text>'
    )
  for i, line in enumerate(reversed(textwrap.wrap(notice, _NOTICE))):
    parts.append(
      f'<text x="16" y="{height - 10 - 16 * i}" class="notice">'
      f'{page.escape(line)}</text>'
    )
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
    f'width="{_WIDTH}" height="{height}" role="img" aria-label="Timeline">'
    f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
    f'{"".join(parts)}</svg>\n'
  )


def _lane(kind, colour, top, threshold, runs, spans) -> str:
  """A kind's confidence as areas, and its events as bars above them.

  Args:
    runs: places and confidences of windows, anew behind each gap.
  """
  base, room = top + _LANE - 6, _LANE - 24

  def y(share):
    return base - share * room

  most = _MOST_POINTS / sum(len(xs) for xs, _ in runs)
  areas = [
    f'<polygon points="{_area(*_thinned(*run, most), base, y)}" '
    f'fill="{colour}" fill-opacity="0.3"/>'
    for run in runs
  ]
  right = _WIDTH - _RIGHT
  parts = [
    f'<text x="16" y="{base - 14}" class="kind">{kind}</text>',
    f'<text x="{right + 10}" y="{base - 14}" class="kind" '
    f'style="fill:{colour}">{len(spans)}</text>',
    f'<line x1="{_LEFT}" x2="{right}" y1="{base}" y2="{base}"/>',
    *areas,
    f'<line class="limit" x1="{_LEFT}" x2="{right}" y1="{y(threshold):.1f}" '
    f'y2="{y(threshold):.1f}" style="stroke:{colour}"/>',
  ]
  written = -np.inf
  for start, end, one in spans:
    title = f'{kind}, {elapsed(one.start_s)}, {one.confidence:.0%} sure'
    parts.append(
      f'<rect x="{start:.1f}" y="{top + 12}" width="{max(end - start, 3):.1f}" '
      f'height="5" fill="{colour}"><title>{title}</title></rect>'
    )
    if start > written + (72 if one.start_s >= 86400 else 48):
      parts.append(
        f'<text x="{start:.1f}" y="{top + 9}" class="time" '
        f'style="fill:{colour}">{elapsed(one.start_s)}</text>'
      )
      written = start
  return ''.join(parts)


def _area(xs, shares, base: float, y) -> str:
  """Corners; half a pixel more on both sides, for who is seen for a moment."""
  xs = [xs[0] - 0.5, *xs, xs[-1] + 0.5]
  tops = [y(share) for share in (shares[0], *shares, shares[-1])]
  points = [(xs[0], base), *zip(xs, tops, strict=True), (xs[-1], base)]
  return ' '.join(f'{a:.1f},{b:.1f}' for a, b in points)


def _thinned(xs, values, most: float) -> tuple[list[float], list[float]]:
  """Of a long recording, the highest value of neighbours.

  Args:
    most: points that are left of each.
  """
  parts = min(len(values), int(np.ceil(most * len(values))))
  return (
    [float(part[0]) for part in np.array_split(xs, parts)],
    [float(part.max()) for part in np.array_split(values, parts)],
  )


_STYLE = (
  'text{font:12px system-ui,sans-serif;fill:#1c2125}'
  '.title{font-size:17px;font-weight:600}.quiet{fill:#687078}.small{font-size:10px}'
  '.kind{font-weight:600}.time{font-size:10px}'
  '.unseen{fill:#eceae6}'
  '.notice{fill:#b91c1c;font-weight:600}'
  'line{stroke:#e4e1dc}.limit{stroke-dasharray:3 3;stroke-opacity:0.7}'
)
