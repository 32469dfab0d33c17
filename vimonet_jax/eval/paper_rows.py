"""Rows of scores as lines of a published table.

Each number comes with its interval and its count. A line is of all answers;
where some failed a second is of the others, and where a published script would
count otherwise a third is as it would.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from vimonet_jax.eval import benchmarks, mv_bench, scores, scoring, tables

# Cells that nobody printed, and cells that nobody measured.
MISSING, UNMEASURED = 'n/a', '–'
# Whose rows they are, where they are the model's.
_THIS = 'this model'
# Of the published numbers.
SPLIT = 'test'


class Cell(NamedTuple):
  """A number as it is shown, and what belongs to it; '' where it has none.

  `main` and `score` are `MISSING` where nobody printed them, `UNMEASURED` where
  nobody measured them.
  """

  main: str
  score: str = ''
  interval: str = ''
  n: str = ''


class Line(NamedTuple):
  """A row of a table.

  Attributes:
    label: who answered.
    about: where it is printed, or how it was measured.
    cells: one a column.
    note: number of a note below the table; 0 for none.
    is_comparable: whether the protocol is the table's.
  """

  label: str
  about: str
  cells: tuple[Cell, ...]
  note: int = 0
  is_comparable: bool = True


def judged(
  columns: Sequence[str], mine: Sequence[scores.Row], *, has_scores: bool
) -> Iterator[Line]:
  """The rows of one judge, counted in every way that differs.

  Args:
    columns: domains and sums, in the table's order.
    mine: rows of one benchmark and judge.
    has_scores: whether the table has scores beside its accuracies.
  """
  way = ('system', 'input', 'corruption', 'reading', 'split')
  for key, some in tables.grouped(mine, *way).items():
    by_domain = {row['domain']: row for row in some}
    label, about = _said(dict(zip(way, key, strict=True)))
    is_comparable = some[0]['split'] == SPLIT
    for words, values, n, failed in _counted(by_domain):
      cells = [_cell(values.get(c), has_scores=has_scores) for c in columns]
      counts = Cell(f'{n:,}'), Cell(f'{failed:,}')
      yield Line(
        label, f'{about}; {words}', (*cells, *counts), 0, is_comparable
      )
  chances = {row['domain']: row['chance'] for row in mine if 'chance' in row}
  if chances:
    cells = [
      Cell(f'{100 * chances[c]:.1f}' if c in chances else UNMEASURED)
      for c in columns
    ]
    yield Line('guessing', 'any of the options', (*cells, Cell(''), Cell('')))


def _counted(
  by_domain: Mapping[str, scores.Row],
) -> Iterator[tuple[str, dict[str, '_Value'], int, int]]:
  """In which way, domain -> values, answers, and how many of them failed."""
  whole = by_domain.get(scores.ALL) or next(iter(by_domain.values()))
  n, failed = whole['n'], whole['n_failed']
  words = 'of all answers, failures are wrong' if failed else 'none failed'
  yield words, {d: _of_all(r) for d, r in by_domain.items()}, n, failed
  if failed:
    values = {d: _of_valid(r) for d, r in by_domain.items()}
    yield 'of valid answers', values, n - failed, 0
  if 'accuracy_as_paper' in whole:
    values = {d: _as_paper(r) for d, r in by_domain.items()}
    yield 'as the published script counts', values, n, failed


def _said(key: Mapping[str, str | None]) -> tuple[str, str]:
  """Who answered, and what was shown, how it was read, and of which split."""
  words = [tables.INPUTS.get(key['input'] or '', 'all media')]
  if key['corruption'] == mv_bench.ROTATED:
    words.append('options moved round')
  is_chosen = key['reading'] == benchmarks.LIKELIHOOD
  words.append('likeliest option' if is_chosen else 'written')
  words.append(f'split {key["split"]}')
  system = key['system'] or scoring.MODEL
  return _THIS if system == scoring.MODEL else system, ', '.join(words)


class _Value(NamedTuple):
  """One number of a table: shares and scores where there are any."""

  accuracy: float | None
  score: float | None
  interval: tuple[float, float] | None
  n: int


def _of_all(row: scores.Row) -> _Value:
  held = tables.interval(row)
  return _Value(row['accuracy'], row.get('score'), held, row['n'])


def _of_valid(row: scores.Row) -> _Value:
  n, share = row['n'] - row['n_failed'], row.get('accuracy_valid')
  held = None
  if row.get('low_valid') is not None:  # Rows of before have none.
    held = row['low_valid'], row['high_valid']
  return _Value(share, row.get('score_valid'), held, n)


def _as_paper(row: scores.Row) -> _Value:
  return _Value(
    row.get('accuracy_as_paper'),
    row.get('score_as_paper'),
    None,
    row.get('n_as_paper', row['n']),
  )


def _cell(value: _Value | None, *, has_scores: bool) -> Cell:
  if value is None:
    return Cell(UNMEASURED)
  if value.accuracy is None:
    return Cell(UNMEASURED, n=f'{value.n:,}')
  points, held = '', ''
  if has_scores:
    points = UNMEASURED if value.score is None else f'{value.score:.2f}'
  if value.interval:
    low, high = value.interval
    held = f'{100 * low:.1f}–{100 * high:.1f}'
  return Cell(f'{100 * value.accuracy:.1f}', points, held, f'{value.n:,}')


def described(
  columns: Sequence[str], mine: Sequence[scores.Row]
) -> Iterator[Line]:
  """Captions: metrics of a whole set, which have no intervals."""
  for row in mine:
    label, _ = _said({**row, 'reading': None})
    cells = []
    for column in columns:
      value = row.get(column)
      # Distances and R-precision as printed, shares times 100.
      factor, digits = (100, 1) if 'R@1' not in columns else (1, 3)
      cells.append(
        Cell(UNMEASURED if value is None else f'{factor * value:.{digits}f}')
      )
    cells += [Cell(f'{row["n"]:,}'), Cell(f'{row["n_failed"]:,}')]
    same = row['split'] == SPLIT
    yield Line(label, f'split {row["split"]}', tuple(cells), 0, same)
