"""The parts of a page: a document of its own, tables, bars, curves, pictures.

Everything is a string of HTML with its style and pictures inside. Words for
readers come in as text or HTML from the caller; `escape` what is not yours.
"""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

_MAX_POINTS = 160
_NUM_COLOURS = 4


class Cell(NamedTuple):
  """A cell of a table with attributes of its own."""

  text: str
  attributes: str


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


def document(title: str, body: str) -> str:
  """The whole file."""
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{escape(title)}</title><style>{_STYLE}</style></head>\n'
    f'<body><main>\n{body}\n</main></body></html>\n'
  )


def escape(text: Any) -> str:
  return html.escape(str(text))


def section(title: str, *parts: str) -> str:
  return f'<section><h2>{escape(title)}</h2>\n{"".join(parts)}</section>\n'


def quiet(words: str) -> str:
  return f'<p class="quiet">{words}</p>'


def missing(text: str) -> str:
  """Says that there is nothing to show here, and why."""
  return f'<p class="missing">{escape(text)}</p>'


def details(summary: str, body: str) -> str:
  """What is there for those who open it."""
  return f'<details><summary>{summary}</summary>{body}</details>'


def row(label: str, *cells: str | Cell, kind: str = '') -> str:
  """A row of a table; kind is `sum`, `quiet` or nothing."""
  cells = [Cell(c, '') if isinstance(c, str) else c for c in cells]
  tds = ''.join(f'<td {cell.attributes}>{cell.text}</td>' for cell in cells)
  return f'<tr class="{kind}"><th scope="row">{label}</th>{tds}</tr>'


def table(head: Sequence[str], rows: Sequence[str], *, kind: str = '') -> str:
  """Rows under a head, which has no name for their labels.

  Args:
    head: names of the columns.
    rows: of `row` and `block`.
    kind: `paper` for long labels and numbers with more than one line.
  """
  names = ''.join(f'<th scope="col">{name}</th>' for name in head)
  return (
    f'<div class="wide"><table class="{kind}"><thead><tr><th></th>{names}</tr>'
    f'</thead><tbody>{"".join(rows)}</tbody></table></div>'
  )


def block(title: str, width: int) -> str:
  """A row of a table that is a title of those below; width in columns."""
  head = f'<th scope="rowgroup" colspan="{width}"><span>{title}</span></th>'
  return f'<tr class="block">{head}</tr>'


def footnotes(sentences: Sequence[str], *, is_numbered: bool = True) -> str:
  """Small print below a table; numbered from 1 where the table refers to it."""
  kind = 'ol' if is_numbered else 'ul'
  items = ''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)
  return f'<{kind} class="notes">{items}</{kind}>' if sentences else ''


def bars(shares: Sequence[tuple[str, float, float, float]]) -> str:
  """A bar for each (name, share, low, high), its interval as a thin line."""
  lines = ''.join(
    f'<div class="name">{name}</div><div class="track">'
    f'<i style="width:{100 * share:.1f}%"></i>'
    f'<u style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></u>'
    f'</div><div class="value">{100 * share:.1f}</div>'
    for name, share, low, high in shares
  )
  return f'<div class="bars">{lines}</div>'


def image(
  kind: str, data: bytes, words: str, *, has_pixels: bool = True
) -> str:
  """A picture inside the page; kind is `gif` or `png`.

  A PNG that has few pixels shows them as squares; photographs are smoothed.
  """
  source = f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
  shown = kind if has_pixels else 'photo'
  return f'<img class="{shown}" alt="{escape(words)}" src="{source}">'


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
  title = escape(name.replace('_', ' '))
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
    f'{escape(name)}</text>'
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
    keys.append(f'<span class="{kind}">● {escape(label)}</span>')
  return (
    f'<figure class="levels"><figcaption>{escape(title)}<span>{" ".join(keys)}'
    f'</span></figcaption><svg viewBox="0 0 {width} {height}" role="img" '
    f'aria-label="{escape(title)} by level">{"".join(parts)}</svg></figure>'
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


_STYLE = """
:root { color-scheme: light dark; --paper: #fcfbf9; --card: #fff;
  --ink: #1c2125; --quiet: #687078; --line: #e4e1dc; --tint: 15 118 110;
  --accent: rgb(var(--tint)); --second: #b45309; --right: #15803d;
  --wrong: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --paper: #131619; --card: #1b1f23;
  --ink: #e4e7ea; --quiet: #98a2ab; --line: #2c3238; --tint: 45 180 166;
  --second: #f0a458; --right: #4ade80; --wrong: #f87171; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; }
main { max-width: 58rem; margin: 0 auto; padding: 1.5rem 1.1rem 4rem; }
header { display: flex; align-items: baseline; gap: .8rem; flex-wrap: wrap; }
h1 { font-size: 1.7rem; letter-spacing: -.02em; margin: 0; }
h2 { font-size: 1.2rem; letter-spacing: -.01em; margin: 0 0 .7rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .2rem; }
header p, h3 + p { margin: 0; }
section { border-top: 1px solid var(--line); margin-top: 2rem;
  padding-top: 1.3rem; }
header + section { margin-top: 1rem; }
section > h2 + h3 { margin-top: 0; color: var(--quiet); font-weight: 500; }
p { margin: .5rem 0; max-width: 44rem; }
small { display: block; font-size: .72rem; line-height: 1.15;
  color: var(--quiet); font-weight: 400; }
.quiet { color: var(--quiet); font-size: .9rem; }
.missing { color: var(--quiet); font-style: italic; }
.lead { font-size: 1.15rem; line-height: 1.45; }
.bars { display: grid; grid-template-columns: max-content 1fr 3rem; gap: .45rem
  .8rem; align-items: center; margin: 1.1rem 0 1.6rem; }
.bars .name { font-size: .92rem; }
.bars .value { text-align: right; font-weight: 600; }
.track { position: relative; height: 1.05rem; border-radius: 3px;
  background: rgb(var(--tint) / .1); }
.track i, .share i { display: block; height: 100%; border-radius: 3px;
  background: rgb(var(--tint) / .75); }
.track u { position: absolute; top: calc(50% - 1px); height: 2px;
  background: var(--ink); }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .92rem; min-width: 100%; }
th, td { padding: .34rem .55rem; text-align: right; vertical-align: middle;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th[scope=row], .plain td { text-align: left; font-weight: 500; }
th[scope=row] { padding-left: 0; white-space: normal; min-width: 5.6rem; }
dt, dd { overflow-wrap: anywhere; }
dt:not(.earlier) { white-space: pre-line; }
thead th { white-space: normal; color: var(--quiet); font-weight: 500;
  font-size: .85rem; }
.paper td, .paper th { vertical-align: baseline; }
.paper th[scope=row] { min-width: 10.5rem; }
.paper td small { margin-top: .1rem; }
sup { line-height: 0; }
tr.block th { white-space: normal; text-align: left;
  padding: .9rem 0 .3rem; font-size: .85rem; color: var(--accent); }
.block span { position: sticky; left: 0; display: inline-block;
  max-width: min(44rem, 88vw); }
td.none { text-align: left; font-style: italic; color: var(--quiet); }
.notes { font-size: .8rem; line-height: 1.4; color: var(--quiet);
  padding-left: 1.2rem; margin: .5rem 0; max-width: 44rem; }
tr.sum > * { font-weight: 600; border-bottom: 0; }
.heat { background: rgb(var(--tint) / calc(.05 + .5 * var(--v))); }
.heat small { color: inherit; opacity: .75; }
.guess { color: var(--quiet); }
.share { width: 35%; min-width: 5rem; height: 1px; }
.share i { height: .6rem; }
.plain { min-width: 0; }
.charts { display: grid; gap: .8rem; margin: .7rem 0;
  grid-template-columns: repeat(auto-fill, minmax(16.5rem, 1fr)); }
figure { margin: 0; padding: .6rem .7rem .4rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
figcaption { display: flex; justify-content: space-between; font-size: .88rem;
  margin-bottom: .3rem; }
svg { display: block; width: 100%; height: auto; }
svg line { stroke: var(--line); }
svg text { fill: var(--quiet); font-size: 9.5px; }
polyline { fill: none; stroke: var(--accent); stroke-linejoin: round; }
.raw { opacity: .3; }
.mean { stroke-width: 1.8; }
polyline.eval { stroke: var(--second); stroke-dasharray: 3 3; }
circle { fill: var(--second); }
h4 { font-size: .92rem; margin: 1.2rem 0 -.6rem; color: var(--quiet);
  font-weight: 500; }
figure.levels { max-width: 36rem; margin: .7rem 0; }
.levels figcaption span { margin-left: .5rem; }
.c0 { --hue: var(--accent); } .c1 { --hue: var(--second); }
.c2 { --hue: var(--right); } .c3 { --hue: var(--wrong); }
span.curve { color: var(--hue); white-space: nowrap; }
polyline.curve { stroke: var(--hue); stroke-width: 1.8; }
polygon.curve { fill: var(--hue); opacity: .14; }
circle.curve { fill: var(--hue); }
span.eval { color: var(--second); margin-left: .5rem; }
article { display: grid; grid-template-columns: 15rem 1fr; gap: 1.2rem;
  padding: 1rem; margin: .8rem 0; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
.media { display: grid; gap: .6rem; align-content: start; }
img { width: 100%; height: auto; display: block; border-radius: 5px;
  background: #fff; }
img.png { image-rendering: pixelated; }
dl { margin: 0; }
dt { font-weight: 600; }
dd { margin: .1rem 0 .9rem; }
dd:last-child { margin-bottom: 0; }
.earlier { color: var(--quiet); font-weight: 400; white-space: pre-line; }
dd em { display: block; color: var(--quiet); padding-left: 1.25rem; }
dd em::before { content: "expected: "; font-style: normal; }
.right { color: var(--right); }
.wrong { color: var(--wrong); }
.chip { font-size: .74rem; font-weight: 500; color: var(--quiet);
  border: 1px solid var(--line); border-radius: 99px; padding: .05rem .5rem;
  margin-left: .3rem; white-space: nowrap; }
details { margin: .5rem 0; }
summary { cursor: pointer; }
summary span { color: var(--quiet); margin-left: .6rem; font-size: .92rem; }
pre { overflow-x: auto; font-size: .8rem; line-height: 1.4; padding: .8rem;
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
@media (max-width: 38rem) { article { grid-template-columns: 1fr; }
  .media { max-width: 15rem; }
  table { font-size: .84rem; } th, td { padding: .3rem; }
  main { padding: 1rem .9rem 3rem; }
  summary span { display: block; margin-left: 1.1rem; } }
"""
