"""Motion-X's folders as records: motion, captions, and videos where they are.

    train.txt val.txt test.txt           e.g. idea400/subset_0001/Eat_clip_1
    motion_data/smplx_322/<name>.npy     float [T, 322] at 30 fps, y up
    texts/semantic_labels/<name>.txt     one caption a line
    videos/<name>.mp4                    which its authors do not hand out

A frame of 322 numbers: turns of the root 0:3 and of 21 joints 3:66, hands to
156, jaw to 159, face to 309, translation 309:312, shape of the body 312:322
(Motion-X, `Load_motion_data.md`). The 22 joints of the body are SMPL's; hands
and faces have no place in HumanML3D's features. Joints are interpolated from 30
to 20 fps and then go the way of all others. What `amass_files` says of bodies
holds here as well, with SMPL-X's file in place of SMPL-H's.

`humanml/` are HumanML3D's clips, by its ids and, as far as was looked, in its
splits. EgoBody, GRAB and humanml are not handed out; Motion-X's scripts make
them from data that users get elsewhere, and must be run as for 30 fps.
"""

import collections
import dataclasses
import functools
import logging
import os
import pathlib
import re
from collections.abc import Collection
from typing import Any, ClassVar

import numpy as np

from vimonet_jax.data import (
  captions,
  found,
  kin,
  motion_files,
  records,
  sources,
  video,
)
from vimonet_jax.motion import body_model, readers, skeleton, smpl

FPS = 30.0
MOTIONS = 'motion_data/smplx_322'
TEXTS = ('texts/semantic_labels', 'texts/semantic_label', 'semantic_labels')
VIDEOS = ('videos', 'video')
PUBLISHED = 'motionx'
NUM_COLUMNS = 322
_POSES, _TRANS, _BETAS = slice(0, 66), slice(309, 312), slice(312, 322)
_UP = np.array([0.0, 1.0, 0.0])
# The reference's tower reads so many, and knows pictures without antialiasing.
_REFERENCE_PIXELS = 224
# So many clips of a subset do not happen to show people who lie.
_MANY = 20
# Clips of one video, or of several that were found by the same words.
_NUMBER = re.compile(r'_clip_?\d+$')


@dataclasses.dataclass(frozen=True)
class MotionX:
  """A dataset for `builder.build`, from Motion-X's folders.

  Attributes:
    path: the folder.
    licence: under which it may be used; goes into every record.
    source: what records call it.
    image_size: width and height of frames, pixels.
    num_frames: how many are taken of a video.
    body_models: folder of `SMPLX_NEUTRAL.npz`; empty to move HumanML3D's body.
    min_frames: see `sources.humanml3d`.
  """

  name: ClassVar[str] = 'motionx'
  path: str
  licence: str
  source: str = PUBLISHED
  image_size: int = 224
  num_frames: int = 8
  body_models: str = ''
  min_frames: int = records.MIN_MOTION_FRAMES

  def splits(self) -> dict[str, list[sources.Clip]]:
    """What `make` is called with, for each split; says what is left out.

    Raises:
      ValueError: as `look`, or there is a split without clips.
    """
    surveys = self.surveys()
    logging.warning('%s\n%s', self.path, found.table(surveys, sources.SPLITS))
    survey = surveys[self.source]
    sources.check_splits(survey, path=self.path, min_frames=self.min_frames)
    return survey.splits

  def make(self, item: sources.Clip) -> records.Record:
    """The record of a clip; its frames are those of the video, if it has one.

    Raises:
      ValueError: a file changed since, or there is no model of the body.
    """
    joints_TJ3 = read(item, body_models=self.body_models)
    motion_TF = sources.encode(item, joints_TJ3)
    frames = None
    if item.video:
      is_part = item.stop - item.start < len(motion_TF)
      frames = video.read_clip(
        pathlib.Path(item.root) / item.video,
        size=self.image_size,
        frames=self.num_frames,
        start_s=item.start / records.FPS if is_part else None,
        end_s=item.stop / records.FPS if is_part else None,
        antialias=self.image_size < _REFERENCE_PIXELS,
      )
    return sources.record(
      item,
      motion_TF,
      joints_TJ3,
      source=self.source,
      licence=self.licence,
      frames=frames,
    )

  def identity(self) -> dict[str, Any]:
    """What decides the content; the folder may move, its files must stay."""
    return {
      'source': self.source,
      'licence': self.licence,
      'image_size': self.image_size,
      'num_frames': self.num_frames,
      'bodies': [body.checksum() for body in self._bodies()],
      'min_frames': self.min_frames,
      'content': self.surveys()[self.source].digest(),
    }

  def surveys(self) -> dict[str, found.Found]:
    """What there is and what is left out, for `found.table`.

    Videos are counted for themselves: a clip without one is a clip still.
    """
    self._bodies()  # Now, and not some hours into a build.
    survey, videos = look(self.path, min_frames=self.min_frames)
    return {self.source: survey, f'{self.source} videos': videos}

  def cut(self, item: sources.Clip) -> kin.Cut:
    """The frames that a clip shows, of a trial that other data sets know."""
    return cut(item.member, start=item.start, stop=item.stop)

  def _bodies(self) -> list[body_model.BodyModel]:
    if not self.body_models:
      return []
    return [body_model.find(self.body_models, 'neutral')]


def cut(name: str, *, start: float, stop: float) -> kin.Cut:
  """Which recording a clip is of, by its name.

      humanml/M000820                        HumanML3D's clip 000820
      GRAB/s7/cup_drink_1                    AMASS's trial of that name
      EgoBody/recording_.../body_idx_0/003   the recording, of two people
      music/subset_0002/Play_Bass_clip_58    all clips of that title

  Clips of one title may be of one video or of several; the name does not tell.

  Args:
    name: as in the split files.
    start: first frame of the clip, at 20 per second.
    stop: the one after the last.
  """
  subset, *folders, last = name.split('/')
  if subset == 'humanml':
    return kin.humanml3d(last, start=start, stop=stop)
  if subset == 'GRAB':
    return kin.Cut(PUBLISHED, name, kin.trial(name), start, stop)
  if subset == 'EgoBody' and folders:
    trial = '/'.join((PUBLISHED, subset, folders[0]))
  else:
    trial = '/'.join((PUBLISHED, subset, *folders, _NUMBER.sub('', last)))
  return kin.Cut(PUBLISHED, name, trial, start, stop, part=name)


def look(
  path: str | os.PathLike, *, min_frames: int = records.MIN_MOTION_FRAMES
) -> tuple[found.Found, found.Found]:
  """Clips that split files name and that have a motion and a caption.

  Every motion is read once, some milliseconds each, of every video the first
  frame; this process remembers both.

  Returns:
    The clips, and of these the ones that have a video.

  Raises:
    ValueError: no split files, no clip at all, captions that are not text, or
      bodies of which most do not stand along y, in all or in one subset.
  """
  root = pathlib.Path(path)
  named = sources.listed(root, _mirror_of)
  names = {name for _, name in named}
  splits, left_out, checksums = {}, [], {}
  with_video, without = {}, []
  standing = collections.defaultdict(collections.Counter)
  for split, name in named:
    file = f'{MOTIONS}/{name}.npy'
    if not (root / file).is_file():
      left_out.append(found.LeftOut(split, name, 'missing', f'no {file}'))
      continue
    if not (said := read_captions(root, name)):
      why = f'no caption in {TEXTS[0]}/{name}.txt'
      left_out.append(found.LeftOut(split, name, 'missing', why))
      continue
    motion = _motion(root / file)
    if motion.error or motion.is_damaged:
      reason = 'unreadable' if motion.error else 'damaged'
      why = f'{file}: {motion.error}' if motion.error else ''
      left_out.append(found.LeftOut(split, name, reason, why))
      continue
    watched = find_video(root, name)
    fault = _fault(root / watched) if watched else ''
    whole = sources.Clip(
      id=name,
      split=split,
      root=os.fspath(root),
      file=file,
      member=name,
      start=0,
      stop=motion.rows,
      captions=(),
      mirror_of=_mirror_of(name, names),
      video=watched if not fault else '',
    )
    clips, odd = sources.parts(whole, said, min_frames=min_frames)
    left_out += odd
    if not clips:
      continue
    splits.setdefault(split, []).extend(clips)
    for folder in ('', name.split('/')[0]):
      standing[folder][motion.standing] += 1
    checksums[file] = motion.checksum
    if whole.video:
      with_video.setdefault(split, []).extend(clips)
      checksums[watched] = motion_files.checksum(root / watched)
    else:
      reason = 'unreadable' if fault else 'missing'
      without += [found.LeftOut(split, c.id, reason, fault) for c in clips]
  survey = found.Found(splits, checksums, tuple(left_out))
  if not splits:
    raise ValueError(
      f'Expected clips with {MOTIONS} and {TEXTS[0]} in {root}, found '
      f"{survey.summary()}; give Motion-X's folder, with its split files in it."
    )
  for folder, counts in standing.items():
    if not folder or counts.total() >= _MANY:
      sources.check_up(root / MOTIONS / folder, counts)
  return survey, found.Found(with_video, {}, tuple(without))


def read(clip: sources.Clip, *, body_models: str = '') -> np.ndarray:
  """Joints [T, 22, 3] of a clip at 20 fps, metres, y up.

  Args:
    clip: as `look` found it.
    body_models: as in `MotionX`.

  Raises:
    ValueError: the file changed since, or there is no model of the body.
  """
  path = pathlib.Path(clip.root) / clip.file
  try:
    vectors_TC = _load(path)
    rest_J3 = None
    if body_models:
      model = body_model.find(body_models, 'neutral')
      rest_J3 = model.rest(vectors_TC[0, _BETAS])
    arrays = {'poses': vectors_TC[:, _POSES], 'trans': vectors_TC[:, _TRANS]}
    joints_TJ3 = smpl.from_poses(arrays, rest_J3=rest_J3).joints_TJ3
  except ValueError as e:
    raise ValueError(f'{path}: {e}') from e
  return readers.resample(joints_TJ3, FPS).astype(np.float32)


def read_captions(root: pathlib.Path, name: str) -> list[captions.Caption]:
  """Captions of a clip: HumanML3D's lines, or a sentence a line.

  Some subsets have labels for captions, `Dance_Break_3_Step_clip_1`; they
  become words, as Motion-X's own scripts make them.
  """
  for folder in TEXTS:
    path = root / folder / f'{name}.txt'
    if path.is_file():
      break
  else:
    return []
  lines = [line.strip() for line in captions.read_text(path).splitlines()]
  lines = [line for line in lines if line]
  if lines and all(line.count('#') >= 3 for line in lines):
    return captions.read(path)
  words = [
    line if ' ' in line else _NUMBER.sub('', line).replace('_', ' ')
    for line in lines
  ]
  return [captions.Caption(line) for line in words if line]


def find_video(root: pathlib.Path, name: str) -> str:
  """Where in the folder a clip's video is; nothing where there is none."""
  for folder in VIDEOS:
    for ending in video.VIDEOS:
      if (root / folder / f'{name}{ending}').is_file():
        return f'{folder}/{name}{ending}'
  return ''


@dataclasses.dataclass(frozen=True)
class _Motion:
  """What has to be known of a motion before a build.

  Attributes:
    error: a sentence, where it cannot be read.
    is_damaged: whether some number is not finite.
    rows: of features that it will have.
    standing: the axis along which the body stands, mostly.
    checksum: of the file.
  """

  error: str = ''
  is_damaged: bool = False
  rows: int = 0
  standing: str = ''
  checksum: str = ''


def _motion(path: pathlib.Path) -> _Motion:
  # With the time, so that a file that was replaced is read anew.
  return _look_at(path, os.stat(path).st_mtime_ns)


@functools.cache
def _look_at(path: pathlib.Path, changed_ns: int) -> _Motion:
  del changed_ns
  try:
    vectors_TC = _load(path)
  except (ValueError, OSError) as e:
    return _Motion(error=str(e).rstrip('.'))
  used = [vectors_TC[:, columns] for columns in (_POSES, _TRANS, _BETAS)]
  if not all(np.isfinite(values).all() for values in used):
    return _Motion(is_damaged=True)
  rotations_T4 = skeleton.quat_from_rotation_vector(vectors_TC[:, :3])
  upright_3 = skeleton.quat_rotate(rotations_T4, _UP).mean(axis=0)
  axis = int(np.abs(upright_3).argmax())
  return _Motion(
    # Joints at 20 fps give a row of features fewer.
    rows=len(readers.resample(np.arange(len(vectors_TC)), FPS)) - 1,
    standing='-' * bool(upright_3[axis] < 0) + 'xyz'[axis],
    checksum=motion_files.checksum(path),
  )


def _load(path: pathlib.Path) -> np.ndarray:
  """float64 [T, 322] of a file.

  Raises:
    ValueError: one sentence about what is wrong with it.
  """
  arrays = smpl.load(path)
  array = arrays.get('', np.zeros(0))
  if (
    array.ndim != 2
    or array.shape[1] != NUM_COLUMNS
    or len(array) < 2
    or array.dtype.kind not in 'fiu'
  ):
    found_ = f'{array.dtype} {list(array.shape)}' if '' in arrays else 'an .npz'
    raise ValueError(
      f'expected [2 or more, {NUM_COLUMNS}] numbers of SMPL-X, found {found_}; '
      'get the file of smplx_322 again.'
    )
  return array.astype(np.float64)


@functools.cache
def _first_frame(path: pathlib.Path, changed_ns: int) -> str:
  """What is wrong with a video whose first frame cannot be had, or nothing."""
  del changed_ns
  try:
    video.read_chosen(path, lambda number, fps: [0], size=8)
  except video.VideoFileError as e:
    return str(e).rstrip('.')
  return ''


def _fault(path: pathlib.Path) -> str:
  return _first_frame(path, os.stat(path).st_mtime_ns)


def _mirror_of(name: str, names: Collection[str]) -> str:
  """The clip whose mirror image one of `humanml/` is, listed or not."""
  del names
  folder, _, last = name.rpartition('/')
  is_mirrored = folder == 'humanml' and last.startswith('M')
  return f'{folder}/{last[1:]}' if is_mirrored else ''
