"""The papers' tables, made again with what was measured here below.

A table has the columns that were printed, a block of published rows, and a
block for each judge: numbers of two judges never stand in one block. Which of
our rows belong to a table the benchmark's name says, so questions of another
file, such as those of tests, are in none.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from vimonet_jax.eval import (
  activitynet_qa,
  babel_qa,
  benchmarks,
  humanml3d_captions,
  judge,
  mv_bench,
  published,
  scores,
  scoring,
  tables,
)

# A file of questions with another name is another benchmark.
_VIMONET_BENCH = 'vimonet-bench'
# Table -> our benchmark, and the input if it has several tables.
OURS: Mapping[str, tuple[str, str]] = {
  published.MOTION: (_VIMONET_BENCH, 'motion'),
  published.VIDEO: (_VIMONET_BENCH, 'video'),
  published.BABEL: (babel_qa.NAME, ''),
  published.ACTIVITYNET: (activitynet_qa.NAME, ''),
  published.MVBENCH: (mv_bench.NAME, ''),
  published.CAPTIONS: (published.CAPTIONS, ''),
  published.TOKENS: (published.TOKENS, ''),
  published.RETRIEVAL: (published.CAPTIONS, ''),
}
TITLES: Mapping[str, str] = {
  published.MOTION: 'ViMoNet-Bench, motion',
  published.VIDEO: 'ViMoNet-Bench, video',
  published.BABEL: 'BABEL-QA',
  published.ACTIVITYNET: 'ActivityNet-QA',
  published.MVBENCH: 'MVBench, seven tasks',
  published.CAPTIONS: 'HumanML3D captions, raw',
  published.TOKENS: 'HumanML3D captions, processed tokens',
  published.RETRIEVAL: 'HumanML3D captions, retrieval',
  published.ABLATION_MOTION: 'What is trained on, motion questions',
  published.ABLATION_VIDEO: 'What is trained on, video questions',
}
# Cells that nobody printed, and cells that nobody measured.
MISSING, UNMEASURED = 'n/a', '–'
# Whose rows they are, where they are the model's.
_THIS = 'this model'
# Items of the tables, and the split that they are of.
_TOTALS = {
  **{
    name: sum(published.ITEMS[name].values())
    for name in (published.MOTION, published.VIDEO)
  },
  published.BABEL: 393,
  published.ACTIVITYNET: 8000,
  published.MVBENCH: 1400,
  published.CAPTIONS: humanml3d_captions.PUBLISHED_CASES,
  published.TOKENS: humanml3d_captions.PUBLISHED_CASES,
}
_SPLIT = 'test'
# Printed as one of the two means, which are not the same.
_BOTH_MEANS = (published.MOTION, published.VIDEO, published.MVBENCH)
_HEADS = {
  scores.ALL: ('micro', 'all answers'),
  scores.MACRO: ('macro', 'mean of domains'),
}
# What an offline rule is beside the published rows; other judges are services.
_RULES = {
  (published.MOTION, judge.JUDGE): 'rules of our own, not comparable',
  (published.VIDEO, judge.JUDGE): 'rules of our own, not comparable',
  (published.ACTIVITYNET, judge.JUDGE): 'rules of our own, not comparable',
  (published.ACTIVITYNET, 'exact'): 'the very words, not comparable',
  (published.BABEL, 'strict'): 'the very answer, as published as far as known',
  (published.BABEL, 'lenient'): 'the answer is named, not comparable',
  (published.MVBENCH, 'strict'): 'the option that is named, stricter than '
  'published',
  (published.MVBENCH, 'compat'): 'the published check, which calls an answer '
  'without a word right',
}
_SERVICE = 'compare with numbers of the same judge only'


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


class Block(NamedTuple):
  """Rows that can be compared with each other."""

  title: str
  lines: tuple[Line, ...]


class Table(NamedTuple):
  """A published table and what was measured here.

  Attributes:
    title: of the table.
    columns: their names, each with what it says below the name.
    blocks: the published rows first.
    notes: about rows, by number from 1.
    remarks: to read before comparing.
  """

  title: str
  columns: tuple[tuple[str, str], ...]
  blocks: tuple[Block, ...]
  notes: tuple[str, ...]
  remarks: tuple[str, ...]


def build(
  rows: Sequence[scores.Row], *, asked: Iterable[str] = ()
) -> list[Table]:
  """The published tables that something here belongs to, in their order.

  Args:
    rows: of scores.json.
    asked: tables of `published.BENCHMARKS` that are wanted without a row, too.

  Raises:
    ValueError: a table is asked for that there is not.
  """
  asked = set(asked)
  if unknown := sorted(asked - set(published.BENCHMARKS)):
    raise ValueError(
      f'Expected tables of {", ".join(published.BENCHMARKS)}, found '
      f'{unknown[0]!r}.'
    )
  found = []
  for name in published.BENCHMARKS:
    mine = _mine(name, rows)
    if mine or name in asked:
      found.append(_table(name, mine))
  return found


# --- Which rows, and what they say -------------------------------------------


def _mine(name: str, rows: Sequence[scores.Row]) -> list[scores.Row]:
  """Our rows of a table, as they were asked: without changes of media."""
  benchmark, shown = OURS.get(name, ('', ''))
  wanted = _measure(name)
  return [
    row
    for row in rows
    if row['benchmark'] == benchmark
    and row['corruption'] in (benchmarks.CLEAN, mv_bench.ROTATED)
    and shown in ('', row['input'])
    and row.get(wanted) is not None
  ]


def _measure(name: str) -> str:
  """The column that a row must have to be in a table."""
  if _is_judged(name):
    return 'accuracy'
  return 'R@1' if name == published.RETRIEVAL else 'CIDEr'


def _is_judged(name: str) -> bool:
  return published.of(name)[0].metric in (published.ACCURACY, published.SCORE)


def _table(name: str, mine: Sequence[scores.Row]) -> Table:
  columns = _columns(name)
  counts = () if _is_judged(name) and mine == [] else ('n', 'failed')
  notes: list[str] = []
  blocks = [Block('Published', tuple(_published(name, columns, notes)))]
  remarks = [*published.REMARKS.get(name, ()), *_remarks(name, mine)]
  if not mine:
    blocks.append(Block('Measured here: nothing', ()))
  elif _is_judged(name):
    for by in dict.fromkeys(row.get('judge') or judge.JUDGE for row in mine):
      some = [r for r in mine if (r.get('judge') or judge.JUDGE) == by]
      what = _RULES.get((name, by), _SERVICE)
      blocks.append(
        Block(
          f'Measured here, judged by {by}: {what}',
          tuple(_judged(name, columns, some)),
        )
      )
  else:
    blocks.append(Block('Measured here', tuple(_described(columns, mine))))
  width = len(columns) + len(counts)
  return Table(
    TITLES[name],
    tuple(_head(c) for c in columns) + tuple((count, '') for count in counts),
    tuple(
      block._replace(lines=tuple(_filled(line, width) for line in block.lines))
      for block in blocks
    ),
    tuple(notes),
    tuple(remarks),
  )


def _head(column: str) -> tuple[str, str]:
  joint = '-' if column in scores.METRICS else ' '
  return _HEADS.get(column, (column.replace('_', joint), ''))


def _columns(name: str) -> list[str]:
  """As printed, sums last, and both means where either is printed."""
  printed = dict.fromkeys(c for row in published.of(name) for c in row.values)
  sums = [c for c in _HEADS if c in printed or name in _BOTH_MEANS]
  return [c for c in printed if c not in _HEADS] + sums


def _filled(line: Line, width: int) -> Line:
  """With empty cells where only our own rows have counts."""
  return line._replace(
    cells=line.cells + (Cell(''),) * (width - len(line.cells))
  )


def _published(name: str, columns, notes: list[str]) -> Iterator[Line]:
  """Accuracy and score of a system in one line, as they are printed."""
  counts = {**published.ITEMS.get(name, {}), scores.ALL: _TOTALS.get(name, 0)}
  if any(there := [counts.get(column) for column in columns]):
    cells = [Cell(f'{n:,}' if n else '') for n in there]
    yield Line('items', '', tuple(cells))
  rows = published.of(name)
  has_scores = any(row.metric == published.SCORE for row in rows)
  for system, source in dict.fromkeys((row.system, row.source) for row in rows):
    some = [row for row in rows if (row.system, row.source) == (system, source)]
    by_metric = {row.metric: row for row in some}
    first = some[0]
    cells = []
    for column in columns:
      main = _printed(by_metric.get(first.metric), column)
      points = _printed(by_metric.get(published.SCORE), column)
      has_none = not has_scores or {main, points} == {MISSING}
      cells.append(Cell(main, '' if has_none else points))
    number = 0
    if first.note:
      if first.note not in notes:
        notes.append(first.note)
      number = notes.index(first.note) + 1
    yield Line(system, source, tuple(cells), number, first.is_comparable)


def _printed(row: published.Published | None, column: str) -> str:
  """A value with as many digits as its row is printed with; shares in %."""
  value = row and row.values.get(column)
  if row is None or value is None:
    return MISSING
  factor = 1
  if row.metric in (published.ACCURACY, published.CAPTION):
    factor = 100 // row.scale

  def digits(number: float) -> int:
    return len(f'{factor * number:.6f}'.rstrip('0').partition('.')[2])

  longest = max(digits(x) for x in row.values.values() if x is not None)
  most = 3 if row.metric == published.DISTANCE else 2
  return f'{factor * value:.{min(longest, most)}f}'


# --- Measured here -----------------------------------------------------------


def _judged(name: str, columns, mine: Sequence[scores.Row]) -> Iterator[Line]:
  """The rows of one judge, counted in every way that differs."""
  has_scores = any(r.metric == published.SCORE for r in published.of(name))
  way = ('system', 'input', 'corruption', 'reading', 'split')
  for key, some in tables.grouped(mine, *way).items():
    by_domain = {row['domain']: row for row in some}
    label, about = _said(dict(zip(way, key, strict=True)))
    is_comparable = some[0]['split'] == _SPLIT
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
    if scores.MACRO in values:
      domains = [values[d] for d, r in by_domain.items() if 'kinds' in r]
      values[scores.MACRO] = _mean(domains, n - failed)
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
  # Several answers to a question are not as many as their number: then the
  # row's own interval is wider, and how much wider this one is nobody knows.
  is_one_each = tables.interval(row) == scores.wilson(row['accuracy'], row['n'])
  if share is not None and is_one_each:
    held = scores.wilson(share, n)
  return _Value(share, row.get('score_valid'), held, n)


def _as_paper(row: scores.Row) -> _Value:
  return _Value(
    row.get('accuracy_as_paper'),
    row.get('score_as_paper'),
    None,
    row.get('n_as_paper', row['n']),
  )


def _mean(values: Sequence[_Value], n: int) -> _Value:
  """Of the domains' means: a row's own `accuracy_valid` is over answers."""

  def over(numbers):
    there = [number for number in numbers if number is not None]
    return sum(there) / len(there) if there else None

  accuracy = over(value.accuracy for value in values)
  return _Value(accuracy, over(value.score for value in values), None, n)


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


def _described(columns, mine: Sequence[scores.Row]) -> Iterator[Line]:
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
    same = row['split'] == _SPLIT
    yield Line(label, f'split {row["split"]}', tuple(cells), 0, same)


def _remarks(name: str, mine: Sequence[scores.Row]) -> Iterator[str]:
  """What is otherwise here than in the published table."""
  whole = [r for r in mine if r['domain'] == scores.ALL or 'CIDEr' in r]
  wanted = _TOTALS.get(name)
  counts = sorted(
    {r['n'] for r in whole if r['corruption'] == benchmarks.CLEAN}
  )
  if wanted and counts and counts != [wanted]:
    there = ' and '.join(f'{n:,}' for n in counts)
    yield (
      f'Asked here: {there}, where the published table has {wanted:,}: it is '
      'not the same test.'
    )
  if others := sorted({r['split'] for r in mine} - {_SPLIT}):
    yield (
      f'† Of split {", ".join(others)}, where published numbers are of '
      f'{_SPLIT}.'
    )
  if name == published.CAPTIONS and mine:
    if not any('R@1' in row for row in mine):
      yield (
        'R-precision and MM-dist are not available here: they need an '
        'evaluator, which nobody has given.'
      )
    if not any('BERTScore' in row for row in mine):
      yield 'BERTScore is not measured; see config.eval.bertscore.'
