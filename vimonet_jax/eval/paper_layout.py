"""The papers' tables for readers: parts of a page, and text for a terminal."""

import string
from collections.abc import Iterable, Iterator, Sequence

from vimonet_jax import page
from vimonet_jax.eval import paper_rows, paper_tables, scores, tables

_LEGEND = (
  'Percent of right answers, and the mean score from 0 to 5 where a judge '
  'gives one, with 95 % intervals and how many answers they are of. micro: '
  'over all answers; macro: the mean of the domains. '
  f'{paper_rows.MISSING}: not available, nobody has printed it. '
  f'{paper_rows.UNMEASURED}: not measured. †: another protocol, not '
  'comparable. Published rows are as printed.'
)

_EMPTY = (paper_rows.MISSING, paper_rows.UNMEASURED)


def parts(
  rows: Sequence[scores.Row], *, asked: Iterable[str] = ()
) -> list[str]:
  """Parts of an HTML page; [] where nothing belongs to a published table."""
  found = []
  for table in paper_tables.build(rows, asked=asked):
    heads = [
      page.escape(name) + (f'<small>{below}</small>' if below else '')
      for name, below in table.columns
    ]
    lines = []
    for block in table.blocks:
      lines.append(page.block(page.escape(block.title), 1 + len(heads)))
      lines += [_html_line(line) for line in block.lines]
    found += [
      f'<h3>{page.escape(table.title)}</h3>',
      page.table(heads, lines, kind='paper'),
      page.footnotes(table.notes),
      page.footnotes(table.remarks, is_numbered=False),
    ]
  if found:
    found.insert(0, page.quiet(_LEGEND.replace(' %', '&#8239;%')))
  return found


def _html_line(line: paper_rows.Line) -> str:
  mark = '' if line.is_comparable else '†'
  mark += f'<sup>{line.note}</sup>' if line.note else ''
  label = f'{page.escape(line.label)}{mark}<small>{page.escape(line.about)}'
  label += '</small>'
  mains = [cell.main for cell in line.cells if cell.main]
  if set(mains) == {paper_rows.MISSING}:
    words = page.Cell(
      'not available', f'class="none" colspan="{len(line.cells)}"'
    )
    return page.row(label, words, kind='quiet')
  cells = []
  for cell in line.cells:
    n = f'n {cell.n}' if cell.n else ''
    below = [cell.score and f'score {cell.score}', cell.interval, n]
    small = '<br>'.join(filter(None, below))
    is_empty = cell.main in _EMPTY
    cells.append(
      page.Cell(
        cell.main + (f'<small>{small}</small>' if small else ''),
        'class="guess"' if is_empty else '',
      )
    )
  return page.row(label, *cells)


def text(rows: Sequence[scores.Row], *, asked: Iterable[str] = ()) -> str:
  """The same tables for a terminal, with intervals and counts below."""
  found = [
    _text_table(table) for table in paper_tables.build(rows, asked=asked)
  ]
  return '\n\n'.join([*found, _LEGEND] if found else [])


def _text_table(table: paper_tables.Table) -> str:
  """Sources have letters here, since they are longer than any number."""
  cells = [[table.title, *(name for name, _ in table.columns)]]
  sources: dict[str, str] = {}
  titles = []  # Between the lines, so that they make no column wider.
  for place, block in enumerate(table.blocks):
    titles.append((len(cells) + place, block.title))
    for line in block.lines:
      letter = ''
      if line.about and block is table.blocks[0]:
        free = string.ascii_lowercase[len(sources)]
        letter = sources.setdefault(line.about, free)
        line = line._replace(about='')
      cells += _text_lines(line, letter)
  lines = tables.aligned(cells).splitlines()
  for place, title in titles:
    lines.insert(place, title)
  lines += [f'[{letter}] {source}' for source, letter in sources.items()]
  lines += [f'[{i}] {note}' for i, note in enumerate(table.notes, 1)]
  return '\n'.join([*lines, *table.remarks])


def _text_lines(line: paper_rows.Line, source: str) -> Iterator[list[str]]:
  mark = '' if line.is_comparable else ' †'
  mark += ''.join(f' [{x}]' for x in (source, line.note) if x)
  mains = [' / '.join(filter(None, cell[:2])) for cell in line.cells]
  yield [f'  {line.label}{mark}', *mains]
  below = [cell.interval for cell in line.cells]
  counts = [cell.n for cell in line.cells]
  if any(below) or line.about:
    yield [f'    {line.about}', *below]
  if any(counts):
    yield ['    n', *counts]
