"""What changes of the media cost: a table of drops, and curves over noise."""

from collections.abc import Sequence

from vimonet_jax import curves, page
from vimonet_jax.eval import benchmarks, changes, scores, scoring, tables

# From no noise to the most; variants of L2 are no steps between them.
LEVELS = ('L0', 'L1', 'L2', 'L3', 'L4')
_WAY = ('benchmark', 'split', 'judge', 'system', 'reading')
# Fewer measured levels are no curve.
_LEAST = 3


def parts(rows: Sequence[scores.Row]) -> list[str]:
  """Of an HTML page; [] without rows of changed media."""
  drops = [row for row in rows if 'drop_points' in row]
  if not drops:
    return []
  return [
    page.quiet(
      'The same questions with noise on the joints (L1 to L4), with the media '
      'of another clip (swapped), of the mirror image (mirrored), backwards '
      '(reversed) or without content (zeroed); or with their options moved '
      'round (rotated). A model that answers from the question alone loses '
      'nothing to changed media. Drops are percentage points, with paired '
      '95&#8239;% intervals.'
    ),
    *_curves(rows),
    *_table(drops),
  ]


def _table(drops: Sequence[scores.Row]) -> list[str]:
  """All answers first, and what is in each domain to be opened."""
  head = ('clean', 'changed', 'drop', 'of clean', 'other answers', 'n')
  lines = [
    page.row(
      f'{tables.HEADS[row["input"]]}, {page.escape(row["corruption"])}'
      f'<small>{page.escape(_said(row))}</small>',
      *_cells(row),
    )
    for row in drops
    if row['domain'] == scores.ALL
  ]
  found = [page.table(head, lines)]
  for some in tables.grouped(drops, *_WAY, 'input', 'corruption').values():
    lines = [
      page.row(
        tables.name_of(row['domain']),
        *_cells(row),
        kind='sum' if row['domain'] in tables.SUMS else '',
      )
      for row in tables.in_order(some)
    ]
    first = some[0]
    title = (
      f'{tables.HEADS[first["input"]]}, {first["corruption"]}: by domain '
      f'({_said(first)})'
    )
    found.append(page.details(page.escape(title), page.table(head, lines)))
  return found


def _cells(row: scores.Row) -> tuple[str, ...]:
  accuracy, points = 100 * row['accuracy'], row['drop_points']
  percent = row['drop_percent']
  return (
    f'{accuracy + points:.1f}',
    f'{accuracy:.1f}',
    f'{points:.1f}<small>{row["drop_points_low"]:.1f} to '
    f'{row["drop_points_high"]:.1f}</small>'.replace('-', '−'),
    '–' if percent is None else f'{percent:.0f}&#8239;%',
    '–' if row['changed'] is None else f'{100 * row["changed"]:.0f}&#8239;%',
    f'{row["n"]:,}',
  )


def _said(row: scores.Row) -> str:
  """Which benchmark; who judged and who answered, where that is not usual."""
  words = [row['benchmark'], row['split']]
  if row.get('reading') == benchmarks.LIKELIHOOD:
    words.append('likeliest option')
  if (system := row.get('system')) not in (None, scoring.MODEL):
    words.append(system)
  if row.get('judge'):
    words.append(f'judged by {row["judge"]}')
  return ' '.join(words[:2]) + ''.join(f', {word}' for word in words[2:])


def _curves(rows: Sequence[scores.Row]) -> list[str]:
  """Accuracy over the levels, a picture for each benchmark and judge."""
  wholes = [row for row in rows if row['domain'] == scores.ALL]
  figures = []
  for some in tables.grouped(wholes, *_WAY).values():
    lines = {}
    for (shown,), same in tables.grouped(some, 'input').items():
      by_level = {
        'L0' if row['corruption'] == changes.CLEAN else row['corruption']: row
        for row in same
      }
      there = {name: by_level[name] for name in LEVELS if name in by_level}
      if len(there) < _LEAST:
        continue
      counts = sorted({row['n'] for row in there.values()})
      n = '–'.join(f'{n:,}' for n in dict.fromkeys((counts[0], counts[-1])))
      lines[f'{tables.HEADS[shown]}, n {n}'] = {
        name: curves.Point(row['accuracy'], *tables.interval(row))
        for name, row in there.items()
      }
    if lines:
      title = f'Right answers in percent, {_said(some[0])}'
      figures.append(curves.levels(title, LEVELS, lines))
  return figures
