"""Curves on a page as inline SVG: by step, and by level with intervals.

Their colours are in the style of `page`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vimonet_jax import page

_MAX_POINTS = 160
_NUM_COLOURS = 4


class Curve(NamedTuple):
  """A metric by step; `eval_` where it was measured on other data."""

  steps: list[int]
  values: list[float]
  eval_steps: list[int]
  eval_values: list[float]


class Point(NamedTuple):
  """A share with its interval, 0 to 1."""

  share: float
  low: float
  high: float


def charts(curves: dict[str, Curve]) -> str:
  """Small curves side by side, as many as fit."""
  parts = ''.join(_chart(name, curve) for name, curve in curves.items())
  return f'<div class="charts">{parts}</div>'


def _chart(name: str, curve: Curve) -> str:
  """A curve as inline SVG: all points faint, their moving mean strong.

  Evaluations are dots joined by a dashed line. A loss that falls far gets a
  logarithmic axis.
  """
  width, height, left, bottom = 300, 130, 38, 16
  shown = np.array(curve.values + curve.eval_values, float)
  is_log = name == 'loss' and shown.min() > 0 and shown.max() > 8 * shown.min()
  ticks = _log_ticks(shown) if is_log else _ticks(shown)
  scale = math.log10 if is_log else float
  first_step = min(curve.steps + curve.eval_steps)
  last_step = max(curve.steps + curve.eval_steps)

  def x(step):
    share = (step - first_step) / max(last_step - first_step, 1)
    return left + share * (width - left - 4)

  def y(value):
    share = scale(value) - scale(ticks[0])
    share /= scale(ticks[-1]) - scale(ticks[0])
    return height - bottom - share * (height - bottom - 6)

  def line(kind, steps, values):
    points = ' '.join(
      f'{x(a):.1f},{y(b):.1f}' for a, b in zip(steps, values, strict=True)
    )
    return f'<polyline class="{kind}" points="{points}"/>'

  parts = [
    f'<line x1="{left}" x2="{width}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
    f'<text x="{left - 5}" y="{y(t) + 3:.1f}" text-anchor="end">{t:g}</text>'
    for t in ticks
  ]
  parts += [
    f'<text x="{x(step):.1f}" y="{height - 3}" text-anchor="{anchor}">{step:,}'
    '</text>'
    for step, anchor in ((first_step, 'start'), (last_step, 'end'))
  ]
  last = ''
  if curve.steps:
    steps, values = _thinned(curve.steps), _thinned(curve.values)
    parts += [line('raw', steps, values), line('mean', steps, _smooth(values))]
    last = _short(_smooth(values)[-1])
  if curve.eval_steps:
    parts.append(line('eval', curve.eval_steps, curve.eval_values))
    parts += [
      f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.5"/>'
      for a, b in zip(curve.eval_steps, curve.eval_values, strict=True)
    ]
    last += f'<span class="eval">● {_short(curve.eval_values[-1])}</span>'
  title = page.escape(name.replace('_', ' '))
  return (
    f'<figure><figcaption>{title}<b>{last}</b></figcaption>'
    f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title} by '
    f'step">{"".join(parts)}</svg></figure>'
  )


def levels(
  title: str,
  names: Sequence[str],
  curves: Mapping[str, Mapping[str, Point]],
) -> str:
  """Shares by level as inline SVG, each curve with a band for its interval.

  Args:
    title: of the picture.
    names: of the levels, from left to right.
    curves: name -> level -> share; levels that nobody measured are left out,
      and the line goes on to the next.
  """
  width, height, left, bottom = 440, 190, 38, 16
  points = [point for curve in curves.values() for point in curve.values()]
  ticks = _ticks(100 * np.array([x for p in points for x in (p.low, p.high)]))

  def x(level):
    share = names.index(level) / max(len(names) - 1, 1)
    return left + 8 + share * (width - left - 24)

  def y(share):
    share = (100 * share - ticks[0]) / (ticks[-1] - ticks[0])
    return height - bottom - share * (height - bottom - 8)

  def line(pairs):
    return ' '.join(f'{a:.1f},{b:.1f}' for a, b in pairs)

  parts = [
    f'<line x1="{left}" x2="{width}" y1="{y(t / 100):.1f}" '
    f'y2="{y(t / 100):.1f}"/><text x="{left - 5}" y="{y(t / 100) + 3:.1f}" '
    f'text-anchor="end">{t:g}</text>'
    for t in ticks
  ]
  parts += [
    f'<text x="{x(name):.1f}" y="{height - 3}" text-anchor="middle">'
    f'{page.escape(name)}</text>'
    for name in names
  ]
  keys = []
  for place, (label, curve) in enumerate(curves.items()):
    kind = f'curve c{place % _NUM_COLOURS}'
    there = [(x(name), curve[name]) for name in names if name in curve]
    band = [(at, y(p.high)) for at, p in there]
    band += [(at, y(p.low)) for at, p in reversed(there)]
    dots = [(at, y(p.share)) for at, p in there]
    parts.append(f'<polygon class="{kind}" points="{line(band)}"/>')
    parts.append(f'<polyline class="{kind}" points="{line(dots)}"/>')
    parts += [
      f'<circle class="{kind}" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>'
      for a, b in dots
    ]
    keys.append(f'<span class="{kind}">● {page.escape(label)}</span>')
  title = page.escape(title)
  return (
    f'<figure class="levels"><figcaption>{title}<span>{" ".join(keys)}</span>'
    f'</figcaption><svg viewBox="0 0 {width} {height}" role="img" '
    f'aria-label="{title} by level">{"".join(parts)}</svg></figure>'
  )


def _thinned(values: Sequence[float]) -> list[float]:
  """Means of neighbours, so that a long run draws as quickly as a short one."""
  pieces = np.array_split(values, min(len(values), _MAX_POINTS))
  return [float(np.mean(piece)) for piece in pieces]


def _smooth(values: Sequence[float]) -> list[float]:
  """Each value as the mean of the tenth of the curve around it."""
  half = len(values) // 20
  return [
    float(np.mean(values[max(i - half, 0) : i + half + 1]))
    for i in range(len(values))
  ]


def _ticks(values: np.ndarray) -> list[float]:
  """Two to six round numbers, the first and the last beyond the values."""
  low, high = float(values.min()), float(values.max())
  spread = (high - low) or abs(high) or 1.0
  unit = 10 ** math.floor(math.log10(spread))
  unit *= next(k for k in (0.2, 0.5, 1, 2, 5) if spread <= 4 * k * unit)
  first, last = math.floor(low / unit), math.ceil(high / unit)
  last = max(last, first + 1)
  return [float(f'{k * unit:.6g}') for k in range(first, last + 1)]


def _log_ticks(values: np.ndarray) -> list[float]:
  """Of 1, 2, 5, 10 ... two to six, around the values."""
  low, high = float(values.min()), float(values.max())
  powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 3)
  ticks = [float(f'{k}e{power}') for power in powers for k in (1, 2, 5)]
  first = max(i for i, tick in enumerate(ticks) if tick <= low)
  last = min(i for i, tick in enumerate(ticks) if tick >= high)
  stride = math.ceil((last - first) / 5)
  return ticks[first : last + stride : stride]


def _short(value: float) -> str:
  return f'{value:.3g}' if abs(value) < 1000 else f'{value:,.0f}'
