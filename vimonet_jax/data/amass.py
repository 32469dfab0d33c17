"""HumanML3D's clips, cut out of AMASS by its `index.csv`, as records.

    <path>/KIT/3/kick_high_left02_poses.npz  AMASS, "SMPL+H G"
    <path>/humanact12/humanact12/P01....npy  joints as HumanML3D hands them out
    <humanml3d>/index.csv                    clip, file and frames
    <humanml3d>/train.txt, val.txt, test.txt, texts/

See `amass_files` for what happens to a trial on the way.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from vimonet_jax.data import (
  amass_files,
  clips,
  found,
  kin,
  motion_files,
  records,
  sources,
  survey,
)
from vimonet_jax.motion import body_model, skeleton

# How much of a cut may lie behind the end of its trial. HumanML3D takes what is
# there; a frame rate that is wrong makes it half.
_MISSING_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Clip(clips.Clip):
  """A record to be.

  Attributes:
    first: its first frame in the trial, at 20 per second after the lead-in.
    last: the frame after its last one.
  """

  first: int = 0
  last: int = 0


@dataclasses.dataclass(frozen=True)
class Amass:
  """A dataset for `builder.build`, from AMASS and HumanML3D's index.

  Attributes:
    path: AMASS's folders, and `humanact12`.
    humanml3d: the folder with `index.csv`, split files and texts.
    licence: under which it may be used; goes into every record.
    source: what records call it.
    body_models: SMPL-H's folder with `male/model.npz` and `female/model.npz`;
      empty to move HumanML3D's body.
    min_frames: see `sources.humanml3d`.
  """

  name: ClassVar[str] = 'amass'
  image_size: ClassVar[int] = 1  # Its records have no frames.
  path: str
  humanml3d: str
  licence: str
  source: str = 'amass'
  body_models: str = ''
  min_frames: int = records.MIN_MOTION_FRAMES

  def splits(self) -> dict[str, list[Clip]]:
    """What `make` is called with, for each split.

    Raises:
      ValueError: as `find`, or there is a split without clips.
    """
    there = self.find()
    sources.check_splits(there, path=self.path, min_frames=self.min_frames)
    return there.splits

  def make(self, item: Clip) -> records.Record:
    """The record of a clip."""
    joints_TJ3 = amass_files.read(
      pathlib.Path(item.root),
      item.file,
      first=item.first,
      last=item.last,
      body_models=self.body_models,
    )
    if item.mirror_of:
      joints_TJ3 = skeleton.mirror(joints_TJ3)
    joints_TJ3 = joints_TJ3.astype(np.float32)
    return clips.record(
      item,
      clips.encode(item, joints_TJ3),
      joints_TJ3,
      source=self.source,
      licence=self.licence,
    )

  def identity(self) -> dict[str, Any]:
    """What decides the content; folders may move, their files must stay."""
    return {
      'source': self.source,
      'licence': self.licence,
      'min_frames': self.min_frames,
      'bodies': [body.checksum() for body in self._bodies()],
      'content': self.find().digest(),
    }

  def find(self) -> found.Found:
    """What there is, a split without clips or not; see `look`."""
    self._bodies()  # Now, and not some hours into a build.
    return look(self.path, self.humanml3d, min_frames=self.min_frames)

  def survey(self, there: found.Found | None = None) -> survey.Survey:
    """Counts what `find` finds, or what is given."""
    return survey.of_clips(self.source, there or self.find())

  def cut(self, item: Clip) -> kin.Cut:
    """The frames that a clip shows."""
    name = item.mirror_of or item.member
    return kin.humanml3d(name, start=item.start, stop=item.stop)

  def _bodies(self) -> list[body_model.BodyModel]:
    genders = ('female', 'male') if self.body_models else ()
    return [body_model.find(self.body_models, gender) for gender in genders]


def look(
  path: str | os.PathLike,
  humanml3d: str | os.PathLike,
  *,
  min_frames: int = records.MIN_MOTION_FRAMES,
) -> found.Found:
  """Clips that split files name, that AMASS has and that somebody described.

  Every trial is read once, 10 to 100 ms each, and remembered by this process.

  Raises:
    ValueError: no split files, no index, or no clip at all.
  """
  root, home = pathlib.Path(path), pathlib.Path(humanml3d)
  named = sources.listed(home)
  mirrors = sources.mirrors_of(named)
  sources.check_mirrors(home, named, mirrors)
  index_file = find_index(home)
  index = kin.read_index(index_file)
  splits, left_out = clips.gather(
    named,
    lambda name: sources.read_captions(home, name),
    lambda split, name: _whole(root, index, name, split, mirrors[name]),
    texts=sources.TEXTS,
    min_frames=min_frames,
  )
  checksums = {index_file.name: motion_files.checksum(index_file)}
  for clip in (clip for some in splits.values() for clip in some):
    checksums[clip.file] = amass_files.look(root, clip.file).checksum
  there = found.Found(splits, checksums, tuple(left_out))
  if not splits:
    raise ValueError(
      f'Expected clips of {index_file} in {root}, AMASS as it was unpacked, '
      f'found {there.summary()}; give the folder that holds CMU, KIT and so '
      'on.'
    )
  return there


def find_index(home: pathlib.Path) -> pathlib.Path:
  """`index.csv`, which the repository has beside the folder of the texts.

  Raises:
    ValueError: it is in neither place.
  """
  for folder in (home, home.parent):
    if (folder / 'index.csv').is_file():
      return folder / 'index.csv'
  raise ValueError(
    f"{home}: expected HumanML3D's index.csv in it or beside it, found none; "
    'copy it there from the HumanML3D repository.'
  )


def _whole(
  root: pathlib.Path,
  index: Mapping[str, kin.Row],
  name: str,
  split: str,
  mirror_of: str,
) -> Clip | found.LeftOut:
  """A clip of the index without its captions, or why there is none."""

  def left_out(reason, why=''):
    return found.LeftOut(split, name, reason, why)

  original = mirror_of or name
  if original not in index:
    return left_out('missing', f'{original} is not in index.csv')
  row = index[original]
  if (file := amass_files.find(root, row.source_path)) is None:
    return left_out('missing', f'no file of {kin.trial(row.source_path)}')
  trial = amass_files.look(root, file)
  if trial.error:
    return left_out('unreadable', f'{file}: {trial.error}')
  first, last = int(row.start), int(min(row.stop, trial.frames))
  if not math.isinf(row.stop) and (
    row.stop - last > _MISSING_SHARE * (row.stop - row.start)
  ):
    return left_out(
      'unreadable',
      f'{file}: expected frames {first} to {row.stop} at 20 fps, found '
      f'{trial.frames}; get the "SMPL+H G" file',
    )
  if any(first <= frame < last for frame in trial.bad):
    return left_out('damaged')
  return Clip(
    id=name,
    split=split,
    root=os.fspath(root),
    file=file,
    member=name,
    start=0,
    stop=last - first - 1,  # Joints give a row of features fewer.
    captions=(),
    mirror_of=mirror_of,
    first=first,
    last=last,
  )
