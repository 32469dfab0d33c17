"""Several sources as one dataset, where no clip is kin of another split's."""

import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from vimonet_jax.data import amass, attached, kin, records, survey


@dataclasses.dataclass(frozen=True)
class Found:
  """What the sources have together.

  Attributes:
    splits: number of the source and its item, of what becomes records.
    lost: clips that are left out as kin of another split's.
    parts: what each source found, without those.
    notes: what else has to be said.
  """

  splits: dict[str, list[tuple[int, Any]]]
  lost: tuple[kin.Lost, ...]
  parts: tuple[Any, ...]
  notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Joined:
  """A dataset for `builder.build`, from others.

  Records follow one another in the order of the sources. A clip that two of
  them have comes twice, in one split.

  Attributes:
    parts: the sources, e.g. `sources.Folder`, `amass.Amass`, `motionx.MotionX`,
      `attached.Attached`, `video_sets.Videos`, `babel_sets.BabelQa`: whatever
      has `source`, `image_size`, `find`, `cut`, `make`, `survey`, `identity`. A
      source may lack splits. Clips that one has `tested` without having records
      of them are kept out of training, too.
    index: HumanML3D's `index.csv`, which tells what its clips were cut from.
      Empty where no source has such clips, or one of them is an `Amass`.
    strict: whether published splits must follow the rule of `kin` within
      themselves. HumanML3D then loses 3,812 of 23,384 training clips.
  """

  name: ClassVar[str] = 'joined'
  parts: tuple[Any, ...]
  index: str = ''
  strict: bool = False

  def __post_init__(self):
    sizes = {part.image_size for part in self.parts} - {1}
    if not self.parts or len(sizes) > 1:
      raise ValueError(
        'Expected one or more sources with frames of one size, found '
        f'{len(self.parts)} with {sorted(sizes) or "none"}; give them the same '
        'image_size.'
      )
    called = [part.source for part in self.parts]
    if len(set(called)) < len(called):
      raise ValueError(
        f'Expected sources with different names, found {", ".join(called)}; '
        'give one another source=.'
      )

  @property
  def image_size(self) -> int:
    """Width and height of the frames of those that have any, pixels."""
    return max(part.image_size for part in self.parts)

  def find(self) -> Found:
    """What stays in each split, and who is left out; a split may be empty."""
    index = self._read_index()
    there = [part.find() for part in self.parts]
    members, items = [], []
    for number, (part, found) in enumerate(zip(self.parts, there, strict=True)):
      for split, some in found.splits.items():
        for item in some:
          cut = kin.resolve(part.cut(item), index)
          members.append(kin.Member(part.source, item.id, split, cut))
          items.append((number, item))
      # Who is tested elsewhere is no item, and wins like one of test.
      tested = part.tested() if hasattr(part, 'tested') else {}
      for name, cut in tested.items():
        members.append(kin.Member(part.source, name, 'test', cut))
        items.append(None)
    lost = kin.settle(members, strict=self.strict)
    left = {(one.member.source, one.member.id) for one in lost}
    splits = {split: [] for split in survey.SPLITS}
    kept = [{split: [] for split in found.splits} for found in there]
    for member, item in zip(members, items, strict=True):
      if item is not None and (member.source, member.id) not in left:
        number, clip = item
        splits[member.split].append(item)
        kept[number][member.split].append(clip)
    notes = [kin.report(lost)]
    known = {member.cut.trial.split('/')[0] for member in members}
    if not index and kin.HUMANML3D in known:
      notes.append(
        "Without index=, HumanML3D's index.csv, nobody knows which of its "
        'clips are cut from one trial: only the same clip is kept out of other '
        'splits.'
      )
    parts = (
      dataclasses.replace(found, splits=some)
      for found, some in zip(there, kept, strict=True)
    )
    return Found(splits, tuple(lost), tuple(parts), tuple(notes))

  def splits(self) -> dict[str, list[tuple[int, Any]]]:
    """What `make` is called with, for each split.

    Raises:
      ValueError: as the sources, or there is a split without records.
    """
    found = self.find()
    if empty := [split for split, items in found.splits.items() if not items]:
      raise ValueError(
        f'Expected records for {", ".join(survey.SPLITS)} in the sources '
        f'{", ".join(part.source for part in self.parts)}, found none for '
        f'{" and ".join(empty)}: {kin.report(found.lost)}; name more clips in '
        'the split files of a source, hold out more, or add a source.'
      )
    return found.splits

  def make(self, item: tuple[int, Any]) -> records.Record:
    """The record of an item."""
    number, clip = item
    return self.parts[number].make(clip)

  def identity(self) -> dict[str, Any]:
    """What decides the content, as JSON values."""
    lost = self.find().lost
    content = repr([(one.member.source, one.member.id) for one in lost])
    return {
      'parts': [part.identity() for part in self.parts],
      'left_out': hashlib.blake2s(content.encode(), digest_size=8).hexdigest(),
    }

  def survey(self, found: Found | None = None) -> survey.Survey:
    """The rows of all sources; kin of another split's are left out there."""
    found = found or self.find()
    lost = collections.Counter(
      (one.member.source, one.member.split) for one in found.lost
    )
    rows, notes = [], []
    for part, some in zip(self.parts, found.parts, strict=True):
      counted = part.survey(some)
      rows += _with_lost(counted.rows, lost)
      notes += counted.notes
    return survey.Survey(tuple(rows), (*notes, *found.notes))

  def _read_index(self) -> dict[str, kin.Row]:
    if self.index:
      return kin.read_index(self.index)
    for part in self.parts:
      base = part.base if isinstance(part, attached.Attached) else part
      if isinstance(base, amass.Amass):
        return kin.read_index(amass.find_index(pathlib.Path(base.humanml3d)))
    return {}


def _with_lost(
  rows: Sequence[survey.Row], lost: Mapping[tuple[str, str], int]
) -> list[survey.Row]:
  """The rows of a source, to which its clips that are lost are added once."""
  return [
    dataclasses.replace(
      row, left_out=row.left_out + lost.get((row.source, row.split), 0)
    )
    for row in rows
  ]
