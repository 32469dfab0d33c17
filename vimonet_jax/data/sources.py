"""The folders that people have, as records: HumanML3D's layout.

    train.txt val.txt test.txt  one id a line; M and an id for a mirrored clip
    texts/<id>.txt              caption#word/POS ...#start#end, one a line
    new_joint_vecs/<id>.npy     float [T, 263], or one of
    new_joints/<id>.npy         float [T, 22, 3]
    joints/<id>.npy             float [T, 22 or more, 3]
    joints.npz                  all clips in one file, float [T, 22, 3] by id

All at 20 frames per second, in metres, y up.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from vimonet_jax.data import (
  captions,
  clips,
  found,
  kin,
  motion_files,
  records,
  survey,
)
from vimonet_jax.motion import features

SPLITS = survey.SPLITS
TEXTS = 'texts'
# What a leg measures, in metres: a small child's and a giant's.
_LEG_M = (0.3, 1.3)


@dataclasses.dataclass(frozen=True)
class Folder:
  """A dataset for `builder.build`, from a folder in HumanML3D's layout.

  Attributes:
    path: the folder.
    source: what records call it, e.g. `humanml3d`.
    licence: under which it may be used; goes into every record.
    min_frames: see `humanml3d`.
  """

  name: ClassVar[str] = 'folder'
  image_size: ClassVar[int] = 1  # Its records have no frames.
  path: str
  source: str
  licence: str
  min_frames: int = records.MIN_MOTION_FRAMES

  def splits(self) -> dict[str, list[clips.Clip]]:
    """What `make` is called with, for each split.

    Raises:
      ValueError: as `humanml3d`, or there is a split without clips.
    """
    there = self.find()
    check_splits(there, path=self.path, min_frames=self.min_frames)
    return there.splits

  def make(self, item: clips.Clip) -> records.Record:
    """The record of a clip."""
    return read(item, source=self.source, licence=self.licence)

  def identity(self) -> dict[str, Any]:
    """What decides the content; the folder may move, its files must stay."""
    return {
      'source': self.source,
      'licence': self.licence,
      'min_frames': self.min_frames,
      'content': self.find().digest(),
    }

  def find(self) -> found.Found:
    """What there is, a split without clips or not; see `humanml3d`."""
    return humanml3d(self.path, min_frames=self.min_frames)

  def survey(self, there: found.Found | None = None) -> survey.Survey:
    """Counts what `find` finds, or what is given."""
    return survey.of_clips(self.source, there or self.find())

  def cut(self, item: clips.Clip) -> kin.Cut:
    """The frames that a clip shows; ids of `humanml3d` are HumanML3D's."""
    name = item.mirror_of or item.member
    if self.source == kin.HUMANML3D:
      return kin.humanml3d(name, start=item.start, stop=item.stop)
    trial = f'{self.source}/{name}'
    return kin.Cut(self.source, name, trial, item.start, item.stop)


def humanml3d(
  path: str | os.PathLike, *, min_frames: int = records.MIN_MOTION_FRAMES
) -> found.Found:
  """Clips of a folder in HumanML3D's layout (see above).

  Args:
    path: the folder.
    min_frames: clips with fewer rows of features are left out. 40 is what
      published results leave out; a small set may want to keep 20, which are
      five tokens and a second.

  Raises:
    ValueError: no folder, no split file, no clip at all, a file that is not as
      it should be, or bodies of which most do not stand along y.
  """
  root = pathlib.Path(path)
  named = listed(root)
  mirrors = mirrors_of(named)
  check_mirrors(root, named, mirrors)

  def look(split: str, name: str) -> clips.Clip | found.LeftOut:
    if (file := motion_files.find(root, name)) is None:
      return found.LeftOut(split, name, 'missing', f'no motion of {name}')
    motion = motion_files.look(root, file, name)
    if motion.is_damaged:
      return found.LeftOut(split, name, 'damaged')
    return clips.Clip(
      id=name,
      split=split,
      root=os.fspath(root),
      file=file,
      member=name,
      start=0,
      stop=motion.rows,
      captions=(),
      mirror_of=mirrors[name],
    )

  splits, left_out = clips.gather(
    named,
    lambda name: read_captions(root, name),
    look,
    texts=TEXTS,
    min_frames=min_frames,
  )
  checksums, standing, legs = {}, collections.Counter(), []
  for clip in (clip for some in splits.values() for clip in some):
    motion = motion_files.look(root, clip.file, clip.member)
    checksums[clip.file] = motion.checksum
    if motion.standing:
      standing[motion.standing] += 1
      legs.append(motion.leg_m)
  there = found.Found(splits, checksums, tuple(left_out))
  if not splits:
    raise ValueError(
      f'Expected clips of {min_frames} to {clips.MAX_FRAMES} frames with '
      f'texts/ and {", ".join(motion_files.PLACES)} or {motion_files.ARCHIVE} '
      f'in {root}, found {there.summary()}.'
    )
  check_up(root, standing)
  _check_unit(root, legs)
  return there


def read(clip: clips.Clip, *, source: str, licence: str) -> records.Record:
  """The record of a clip: motion, joints, and a turn for each caption.

  Args:
    clip: as `humanml3d` found it.
    source: for `Record.source`.
    licence: under which the folder may be used, for the provenance.
  """
  array = motion_files.load(pathlib.Path(clip.root), clip.file, clip.member)
  if motion_files.holds_features(clip.file):
    motion, joints = array, features.recover(array)
    # Rows of features come from one frame more. That last frame is in no row,
    # so the body stays as the last row has it; the row itself is kept.
    joints = np.concatenate([joints, joints[-1:]])
  else:
    motion, joints = clips.encode(clip, array), array
  return clips.record(clip, motion, joints, source=source, licence=licence)


def mirror_of(name: str, names: Collection[str]) -> str:
  """Whose mirror image a clip is by its name: M000612, but not Music_01."""
  other = name.removeprefix('M')
  is_mirrored = other != name and (other.isdecimal() or other in names)
  return other if is_mirrored else ''


def mirrors_of(named: Sequence[tuple[str, str]]) -> dict[str, str]:
  """The same of each clip that `listed` found."""
  names = {name for _, name in named}
  return {name: mirror_of(name, names) for name in names}


def read_captions(root: pathlib.Path, name: str) -> list[captions.Caption]:
  """Captions of a clip, none where it has no text."""
  text = root / TEXTS / f'{name}.txt'
  return captions.read(text) if text.exists() else []


def listed(root: pathlib.Path) -> list[tuple[str, str]]:
  """Split and name of every clip that the split files of a folder name.

  Raises:
    ValueError: no split file, or a clip in two splits.
  """
  files = {split: root / f'{split}.txt' for split in SPLITS}
  files = {split: file for split, file in files.items() if file.exists()}
  if not files:
    raise ValueError(
      f'Expected train.txt, val.txt or test.txt in {root}, found '
      f'{"none" if root.is_dir() else "no such folder"}; give the folder that '
      'holds the split files of a HumanML3D layout.'
    )
  named = [
    (split, name)
    for split, file in files.items()
    for name in captions.read_lines(file)
  ]
  counts = collections.Counter(name for _, name in named)
  if twice := [name for name, count in counts.items() if count > 1]:
    raise ValueError(
      f'{root}: expected every clip once in the split files, found {twice[0]} '
      f'{counts[twice[0]]} times ({len(twice)} such clips); a clip of two '
      'splits would be trained on and tested: take it out of one.'
    )
  return named


def check_mirrors(
  root: pathlib.Path,
  named: Sequence[tuple[str, str]],
  mirrors: Mapping[str, str],
) -> None:
  """Raises where a clip and its mirror image are in two splits.

  Args:
    root: the folder that is complained of.
    named: as `listed`.
    mirrors: whose mirror image a clip is, by its name; empty for none.
  """
  split_of = {name: split for split, name in named}
  for split, name in named:
    other = mirrors[name]
    if split_of.get(other, split) != split:
      raise ValueError(
        f'{root}: expected a clip and its mirror image in one split, found '
        f'{name} in {split}.txt and {other} in {split_of[other]}.txt; take '
        'one of them out.'
      )


def check_splits(
  there: found.Found, *, path: str | os.PathLike, min_frames: int
) -> None:
  """Raises where a split has no clips."""
  if empty := [split for split in SPLITS if split not in there.splits]:
    raise ValueError(
      f'{path}: expected clips for {", ".join(SPLITS)}, found none for '
      f'{" and ".join(empty)} ({there.summary()}); name some in '
      f'{" and ".join(f"{split}.txt" for split in empty)}, or lower '
      f'data.min_frames, which is {min_frames}.'
    )


def check_up(root: pathlib.Path, standing: Mapping[str, int]) -> None:
  """Raises where most bodies stand along another axis than y.

  Args:
    root: the folder that is complained of.
    standing: how many bodies stand along which axis, e.g. `-z`.
  """
  number = sum(standing.values())
  for axis, count in collections.Counter(standing).most_common(1):
    if axis != 'y' and count > number / 2:
      raise ValueError(
        f'{root}: expected joints with y up, found {count} of {number} clips '
        f'standing along {axis}; turn the joints until y points up, e.g. '
        '(x, y, z) to (-x, z, y) where z is up.'
      )


def _check_unit(root: pathlib.Path, legs: Sequence[float]) -> None:
  """Raises where most legs are no legs; features would not show it."""
  typical = float(np.median(legs)) if legs else _LEG_M[0]
  if not _LEG_M[0] <= typical <= _LEG_M[1]:
    raise ValueError(
      f'{root}: expected joints in metres, with legs of {_LEG_M[0]} to '
      f'{_LEG_M[1]} m, found {typical:.3g}; save the joints in metres.'
    )
