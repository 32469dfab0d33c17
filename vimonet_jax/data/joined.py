"""Several sources as one dataset, where no clip is kin of another split's."""

import dataclasses
import hashlib
import logging
import pathlib
from typing import Any, ClassVar

from vimonet_jax.data import amass, found, kin, records, sources


@dataclasses.dataclass(frozen=True)
class Joined:
  """A dataset for `builder.build`, from others.

  Records follow one another in the order of the sources. A clip that two of
  them have comes twice, in one split.

  Attributes:
    parts: the sources, e.g. `sources.Folder`, `amass.Amass`, `motionx.MotionX`:
      whatever has `source`, `image_size`, `surveys`, `cut`, `make`, `identity`.
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

  def splits(self) -> dict[str, list[tuple[int, Any]]]:
    """What `make` is called with, for each split; says what is left out.

    Raises:
      ValueError: as the sources, or there is a split without clips.
    """
    surveys = self.surveys()
    logging.warning('%s', found.table(surveys, sources.SPLITS))
    splits, lost = self._settle(surveys)
    logging.warning('%s', kin.report(lost))
    if empty := [split for split in sources.SPLITS if not splits.get(split)]:
      raise ValueError(
        f'Expected clips for {", ".join(sources.SPLITS)}, found none for '
        f'{" and ".join(empty)}: {kin.report(lost)}; name more clips in the '
        'split files of a source.'
      )
    return splits

  def make(self, item: tuple[int, Any]) -> records.Record:
    """The record of a clip."""
    number, clip = item
    return self.parts[number].make(clip)

  def identity(self) -> dict[str, Any]:
    """What decides the content, as JSON values."""
    _, lost = self._settle(self.surveys())
    content = repr([(one.member.source, one.member.id) for one in lost])
    return {
      'parts': [part.identity() for part in self.parts],
      'left_out': hashlib.blake2s(content.encode(), digest_size=8).hexdigest(),
    }

  def surveys(self) -> dict[str, found.Found]:
    """What there is and what is left out, for `found.table`."""
    return {k: v for part in self.parts for k, v in part.surveys().items()}

  def _settle(
    self, surveys: dict[str, found.Found]
  ) -> tuple[dict[str, list[tuple[int, Any]]], list[kin.Lost]]:
    """What stays in each split, and who is left out."""
    index = self._read_index()
    members, items = [], []
    for number, part in enumerate(self.parts):
      for split, clips in surveys[part.source].splits.items():
        for clip in clips:
          cut = kin.resolve(part.cut(clip), index)
          members.append(kin.Member(part.source, clip.id, split, cut))
          items.append((number, clip))
    lost = kin.settle(members, strict=self.strict)
    left = {(one.member.source, one.member.id) for one in lost}
    splits = {split: [] for split in sources.SPLITS}
    for member, item in zip(members, items, strict=True):
      if (member.source, member.id) not in left:
        splits[member.split].append(item)
    known = {member.cut.trial.split('/')[0] for member in members}
    if not index and kin.HUMANML3D in known:
      logging.warning(
        'Without index= nobody knows which clips of HumanML3D are cut from one '
        'trial, so only the same clip is kept out of other splits.'
      )
    return splits, lost

  def _read_index(self) -> dict[str, kin.Row]:
    if self.index:
      return kin.read_index(self.index)
    for part in self.parts:
      if isinstance(part, amass.Amass):
        return kin.read_index(amass.find_index(pathlib.Path(part.humanml3d)))
    return {}
