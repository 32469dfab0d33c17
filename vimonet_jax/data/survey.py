"""Before a build: what a source has, lacks and cannot read, in one table."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from vimonet_jax.data import captions, sources

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
    unreadable: files that are there and cannot be read, and malformed entries.
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


def survey(source: Any) -> Survey:
  """Looks at what a source is made of, without making records.

  Args:
    source: as `builder.build` takes it. One with a method `survey` knows best.

  Raises:
    ValueError: as the source's `splits`, where it has no other way to tell.
  """
  if hasattr(source, 'survey'):
    return source.survey()
  if isinstance(source, sources.Folder):
    return _folder(source)
  name = getattr(source, 'source', source.name)
  splits = source.splits()
  return Survey(
    tuple(
      Row(name, split, present=len(items), turns=None)
      for split, items in splits.items()
    )
  )


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


def _folder(folder: sources.Folder) -> Survey:
  """Of HumanML3D's layout; which split an id is in is in the split files."""
  found = sources.humanml3d(folder.path, min_frames=folder.min_frames)
  split_of = {}
  for split in sources.SPLITS:
    path = pathlib.Path(folder.path) / f'{split}.txt'
    names = captions.read_text(path).split() if path.exists() else ()
    split_of |= dict.fromkeys(names, split)

  def count(names, split):
    # A part of a clip has its frames behind the clip's id: 000021_20-60.
    whole = (n if n in split_of else n.rpartition('_')[0] for n in names)
    return sum(split_of[name] == split for name in whole)

  rows = tuple(
    Row(
      folder.source,
      split,
      present=len(found.splits.get(split, ())),
      missing=count(found.missing, split),
      unreadable=count(found.damaged, split),
      left_out=count(found.too_short + found.too_long, split),
      turns=sum(len(c.captions) for c in found.splits.get(split, ())),
    )
    for split in sources.SPLITS
  )
  where = os.fspath(folder.path)
  return Survey(
    rows,
    (
      *named(f'without motion or caption in {where}', found.missing),
      *named(f'with NaN or infinity in {where}', found.damaged),
      *named(f'too short in {where}', found.too_short),
      *named(f'too long in {where}', found.too_long),
    ),
  )
