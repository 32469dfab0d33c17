"""What a source has of what its split files name, found before a build.

Nothing is lost silently: whatever is named is a clip or left out for a reason;
`survey` counts both.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
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
    notes: what else has to be said of them.
  """

  splits: dict[str, list[Any]]
  checksums: dict[str, str] = dataclasses.field(default_factory=dict)
  left_out: tuple[LeftOut, ...] = ()
  notes: tuple[str, ...] = ()

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
    parts = [_counted(reason, self._left(reason)) for reason in REASONS]
    return '; '.join([f'present: {present or "none"}', *parts])

  def reasons(self) -> list[str]:
    """A line for each reason that left something out, with the first names."""
    return [
      _counted(reason, left)
      for reason in REASONS
      if (left := self._left(reason))
    ]

  def digest(self) -> str:
    """A word that changes with clips, their files and their captions."""
    rows = [
      (clip.id, split, clip.file, clip.start, clip.stop, clip.captions)
      for split, clips in self.splits.items()
      for clip in clips
    ]
    content = repr((rows, sorted(self.checksums.items())))
    return hashlib.blake2s(content.encode(), digest_size=8).hexdigest()

  def _left(self, reason: str) -> list[LeftOut]:
    return [clip for clip in self.left_out if clip.reason == reason]


def _counted(reason: str, left: Sequence[LeftOut]) -> str:
  shown = ' '.join(clip.id for clip in left[:_SHOWN])
  shown += ' ...' if len(left) > _SHOWN else ''
  if why := [clip.why for clip in left if clip.why]:
    shown += f'; the first: {why[0]}'
  return f'{_words(reason)}: {len(left)}' + f' ({shown})' * bool(left)


def _words(reason: str) -> str:
  return reason.replace('_', ' ')
