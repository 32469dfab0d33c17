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
  paper_rows,
  published,
  scores,
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
# Items of the tables.
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
  (published.ACTIVITYNET, 'contains'): 'the answer stands in it, not '
  'comparable',
  (published.BABEL, 'strict'): 'the very answer, as published as far as known',
  (published.BABEL, 'lenient'): 'the answer is named, not comparable',
  (published.MVBENCH, 'strict'): 'the option that is named, stricter than '
  'published',
  (published.MVBENCH, 'compat'): 'the published check, which calls an answer '
  'without a word right',
}
_SERVICE = 'compare with numbers of the same judge only'


class Block(NamedTuple):
  """Rows that can be compared with each other."""

  title: str
  lines: tuple[paper_rows.Line, ...]


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
    and shown in ('', row['input'], row.get('about'))
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
  has_scores = any(r.metric == published.SCORE for r in published.of(name))
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
          tuple(paper_rows.judged(columns, some, has_scores=has_scores)),
        )
      )
  else:
    blocks.append(
      Block('Measured here', tuple(paper_rows.described(columns, mine)))
    )
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


def _filled(line: paper_rows.Line, width: int) -> paper_rows.Line:
  """With empty cells where only our own rows have counts."""
  return line._replace(
    cells=line.cells + (paper_rows.Cell(''),) * (width - len(line.cells))
  )


def _published(
  name: str, columns, notes: list[str]
) -> Iterator[paper_rows.Line]:
  """Accuracy and score of a system in one line, as they are printed."""
  counts = {**published.ITEMS.get(name, {}), scores.ALL: _TOTALS.get(name, 0)}
  if any(there := [counts.get(column) for column in columns]):
    cells = [paper_rows.Cell(f'{n:,}' if n else '') for n in there]
    yield paper_rows.Line('items', '', tuple(cells))
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
      has_none = not has_scores or {main, points} == {paper_rows.MISSING}
      cells.append(paper_rows.Cell(main, '' if has_none else points))
    number = 0
    if first.note:
      if first.note not in notes:
        notes.append(first.note)
      number = notes.index(first.note) + 1
    yield paper_rows.Line(
      system, source, tuple(cells), number, first.is_comparable
    )


def _printed(row: published.Published | None, column: str) -> str:
  """A value with as many digits as its row is printed with; shares in %."""
  value = row and row.values.get(column)
  if row is None or value is None:
    return paper_rows.MISSING
  factor = 1
  if row.metric in (published.ACCURACY, published.CAPTION):
    factor = 100 // row.scale

  def digits(number: float) -> int:
    return len(f'{factor * number:.6f}'.rstrip('0').partition('.')[2])

  longest = max(digits(x) for x in row.values.values() if x is not None)
  most = 3 if row.metric == published.DISTANCE else 2
  return f'{factor * value:.{min(longest, most)}f}'


def _remarks(name: str, mine: Sequence[scores.Row]) -> Iterator[str]:
  """What is otherwise here than in the published table."""
  whole = [r for r in mine if r['domain'] == scores.ALL or 'CIDEr' in r]
  wanted = _TOTALS.get(name)
  counts = sorted(
    {r['n'] for r in whole if r['corruption'] == benchmarks.CLEAN}
  )
  # Several seeds are the same test several times.
  if wanted and any(n % wanted for n in counts):
    there = ' and '.join(f'{n:,}' for n in counts)
    yield (
      f'Asked here: {there}, where the published table has {wanted:,}: it is '
      'not the same test.'
    )
  if words := tables.damaged(mine):
    yield words
  if others := sorted({r['split'] for r in mine} - {paper_rows.SPLIT}):
    yield (
      f'† Of split {", ".join(others)}, where published numbers are of '
      f'{paper_rows.SPLIT}.'
    )
  if name == published.CAPTIONS and mine:
    if not any('R@1' in row for row in mine):
      yield (
        'R-precision and MM-dist are not available here: they need an '
        'evaluator, which nobody has given.'
      )
    if not any('BERTScore' in row for row in mine):
      yield 'BERTScore is not measured; see config.eval.bertscore.'
