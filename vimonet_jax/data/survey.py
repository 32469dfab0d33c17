"""Before a build: what sources have, lack and cannot read, in one table.

Whatever a source has a method `survey` for: `splits` says what becomes records,
this says what does not.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from vimonet_jax.data import found as found_lib

SPLITS = ('train', 'val', 'test')
# In place of a split, for what is in none.
NO_SPLIT = '-'
_MOST_NAMED = 5
_COUNTS = ('present', 'missing', 'unreadable', 'left_out', 'turns')


@dataclasses.dataclass(frozen=True)
class Row:
  """What a source has for a split.

  Attributes:
    source: as its records call it.
    split: `train`, `val`, `test`, or `NO_SPLIT`.
    present: records to be.
    missing: clips or conversations of which the other half is not there.
    unreadable: files that are there and cannot be read, or hold what is no
      number, and malformed entries.
    left_out: what is sound and not taken, as clips that are too long.
    turns: questions with answers; None where nobody knows before the build.
  """

  source: str
  split: str
  present: int = 0
  missing: int = 0
  unreadable: int = 0
  left_out: int = 0
  turns: int | None = 0


@dataclasses.dataclass(frozen=True)
class Survey:
  """The rows of a source, and in words what stands behind their numbers.

  Attributes:
    rows: one a split.
    notes: sentences about what is missing, unreadable or left out; several may
      share one.
  """

  rows: tuple[Row, ...]
  notes: tuple[str, ...] = ()


def of_clips(source: str, found: found_lib.Found) -> Survey:
  """Of clips that split files name; a clip's caption is said of each medium."""

  def count(split, *reasons):
    return sum(c.split == split and c.reason in reasons for c in found.left_out)

  rows = [
    Row(
      source,
      split,
      present=len(found.splits.get(split, ())),
      missing=count(split, 'missing'),
      unreadable=count(split, 'unreadable', 'damaged'),
      left_out=count(split, 'too_short', 'too_long'),
      turns=sum(
        len(clip.captions) * (1 + bool(clip.video))
        for clip in found.splits.get(split, ())
      ),
    )
    for split in SPLITS
  ]
  notes = (*found.reasons(), *found.notes)
  return Survey(tuple(rows), tuple(f'{source}, {note}' for note in notes))


def text(surveys: Iterable[Survey]) -> str:
  """The table of all sources, with sums, and the notes below it."""
  surveys = list(surveys)
  rows = [row for one in surveys for row in one.rows]
  head = ['source', 'split', *(name.replace('_', ' ') for name in _COUNTS)]
  lines = [[row.source, row.split, *_cells(row)] for row in rows]
  if len(rows) > 1:
    lines.append(['all', '', *_cells(_sum(rows))])
  widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
  table = [
    '  '.join(
      cell.ljust(width) if i < 2 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    for line in (head, *lines)
  ]
  notes = [note for one in surveys for note in one.notes]
  return '\n'.join(table + ([''] if notes else []) + notes)


def named(what: str, names: Sequence[str]) -> list[str]:
  """A note that counts names and gives the first; none for no names.

  named('files cannot be read', ['a.mp4', 'b.mp4'])
  = ['2 files cannot be read: a.mp4, b.mp4']
  """
  if not names:
    return []
  shown = ', '.join(names[:_MOST_NAMED])
  more = ', ...' if len(names) > _MOST_NAMED else ''
  return [f'{len(names)} {what}: {shown}{more}']


def _cells(row: Row) -> list[str]:
  values = [getattr(row, name) for name in _COUNTS]
  return ['?' if value is None else f'{value:,}' for value in values]


def _sum(rows: Sequence[Row]) -> Row:
  def total(name):
    values = [getattr(row, name) for row in rows]
    return None if None in values else sum(values)

  return Row('', '', **{name: total(name) for name in _COUNTS})
