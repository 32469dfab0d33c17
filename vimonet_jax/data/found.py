"""What a source has of what its split files name, counted before a build.

Nothing is lost silently: whatever is named is a clip or left out for a reason,
and `table` shows several sources side by side.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Why a clip is left out. What is damaged could be read, but is not finite.
REASONS = ('missing', 'unreadable', 'damaged', 'too_short', 'too_long')
_SHOWN = 5  # names of a reason


class LeftOut(NamedTuple):
  """A clip that becomes no record.

  Attributes:
    split: that names it.
    id: its name there.
    reason: one of `REASONS`.
    why: what is wrong, where the reason alone does not say.
  """

  split: str
  id: str
  reason: str
  why: str = ''


@dataclasses.dataclass(frozen=True)
class Found:
  """What a source has of what its split files name.

  Attributes:
    splits: clips that become records, by split; no split is empty.
    checksums: of the bytes of their files, by the name of the file.
    left_out: everything else that is named.
  """

  splits: dict[str, list[Any]]
  checksums: dict[str, str] = dataclasses.field(default_factory=dict)
  left_out: tuple[LeftOut, ...] = ()

  def of(self, reason: str) -> tuple[str, ...]:
    """Ids that are left out for a reason.

    `missing` have no motion or no caption; `damaged` are motions with NaN or
    infinity, as HumanML3D itself has some; `too_short` have less than the least
    number of frames, `too_long` 200 or more.
    """
    return tuple(clip.id for clip in self.left_out if clip.reason == reason)

  def summary(self) -> str:
    """One line; whatever was left out is counted, and named if it is little."""
    present = ', '.join(f'{len(c)} {s}' for s, c in self.splits.items())
    parts = [f'present: {present or "none"}']
    for reason in REASONS:
      parts.append(_counted(reason, [c for c in self.left_out
                                     if c.reason == reason]))  # fmt: skip
    return '; '.join(parts)

  def digest(self) -> str:
    """A word that changes with clips, their files and their captions."""
    rows = [
      (clip.id, split, clip.file, clip.start, clip.stop, clip.captions)
      for split, clips in self.splits.items()
      for clip in clips
    ]
    content = repr((rows, sorted(self.checksums.items())))
    return hashlib.blake2s(content.encode(), digest_size=8).hexdigest()


def table(surveys: Mapping[str, Found], splits: Sequence[str]) -> str:
  """Several sources side by side, and below, by name, what they lack.

      source  split  present  missing  unreadable  damaged  too short  too long
      amass   train    21032      120           1        1       1850         0

  Args:
    surveys: by what the sources are called.
    splits: rows of each source.
  """
  rows = [('source', 'split', 'present', *map(_words, REASONS))]
  for source, survey in surveys.items():
    for split in splits:
      counts = [
        sum((c.split, c.reason) == (split, reason) for c in survey.left_out)
        for reason in REASONS
      ]
      present = len(survey.splits.get(split, ()))
      rows.append((source, split, *map(str, (present, *counts))))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = [
    '  '.join(
      cell.ljust(width) if i < 2 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  ]
  for source, survey in surveys.items():
    for reason in REASONS:
      if left := [c for c in survey.left_out if c.reason == reason]:
        lines.append(f'{source}, {_counted(reason, left)}')
  return '\n'.join(lines)


def _counted(reason: str, left: Sequence[LeftOut]) -> str:
  shown = ' '.join(clip.id for clip in left[:_SHOWN])
  shown += ' ...' if len(left) > _SHOWN else ''
  if why := [clip.why for clip in left if clip.why]:
    shown += f'; the first: {why[0]}'
  return f'{_words(reason)}: {len(left)}' + f' ({shown})' * bool(left)


def _words(reason: str) -> str:
  return reason.replace('_', ' ')
