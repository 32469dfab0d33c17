"""The parts of a page: a document of its own, tables, bars, pictures.

Everything is a string of HTML with its style and pictures inside. Words for
readers come in as text or HTML from the caller; `escape` what is not yours.
"""

import base64
import html
from collections.abc import Sequence
from typing import Any, NamedTuple


class Cell(NamedTuple):
  """A cell of a table with attributes of its own."""

  text: str
  attributes: str


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
