"""The files of Motion-X: motions, captions and videos of a clip.

A frame of 322 numbers: turns of the root 0:3 and of 21 joints 3:66, hands to
156, jaw to 159, face to 309, translation 309:312, shape of the body 312:322
(Motion-X, `Load_motion_data.md`). The 22 joints of the body are SMPL's; hands
and faces have no place in HumanML3D's features. Joints are interpolated from 30
to 20 fps and then go the way of all others. What `amass_files` says of bodies
holds here as well, with SMPL-X's file in place of SMPL-H's.
"""

import dataclasses
import functools
import os
import pathlib
import re

import numpy as np

from vimonet_jax.data import captions, motion_files, video, video_file
from vimonet_jax.motion import body_model, readers, skeleton, smpl

FPS = 30.0
MOTIONS = 'motion_data/smplx_322'
TEXTS = ('texts/semantic_labels', 'texts/semantic_label', 'semantic_labels')
VIDEOS = ('videos', 'video')
NUM_COLUMNS = 322
_POSES, _TRANS, _BETAS = slice(0, 66), slice(309, 312), slice(312, 322)
_UP = np.array([0.0, 1.0, 0.0])
# Clips of one video, or of several that were found by the same words.
_NUMBER = re.compile(r'_clip_?\d+$')


@dataclasses.dataclass(frozen=True)
class Motion:
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


def read(path: pathlib.Path, *, body_models: str = '') -> np.ndarray:
  """Joints, float32 [T, 22, 3], at 20 fps, metres, y up.

  Args:
    path: of a motion.
    body_models: folder of `SMPLX_NEUTRAL.npz`; empty to move HumanML3D's body.

  Raises:
    ValueError: the file cannot be read, or there is no model of the body.
  """
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
  lines = captions.read_lines(path)
  if any(line.count('#') >= 3 for line in lines):
    return captions.read(path)
  words = [
    line if ' ' in line else title(line).replace('_', ' ') for line in lines
  ]
  return [captions.Caption(line) for line in words if line]


def find_video(root: pathlib.Path, name: str) -> str:
  """Where in the folder a clip's video is; nothing where there is none."""
  for folder in VIDEOS:
    for ending in video.VIDEOS:
      if (root / folder / f'{name}{ending}').is_file():
        return f'{folder}/{name}{ending}'
  return ''


def title(name: str) -> str:
  """A clip's name without its number, `Play_Bass` of `Play_Bass_clip_58`."""
  return _NUMBER.sub('', name)


def fault(path: pathlib.Path) -> str:
  """What is wrong with a video whose first frame cannot be had, or nothing."""
  return _first_frame(path, os.stat(path).st_mtime_ns)


def look(path: pathlib.Path) -> Motion:
  """Reads a motion once and remembers what a build must know of it."""
  # With the time, so that a file that was replaced is read anew.
  return _look_at(path, os.stat(path).st_mtime_ns)


@functools.cache
def _look_at(path: pathlib.Path, changed_ns: int) -> Motion:
  del changed_ns
  try:
    vectors_TC = _load(path)
  except (ValueError, OSError) as e:
    return Motion(error=str(e).rstrip('.'))
  used = [vectors_TC[:, columns] for columns in (_POSES, _TRANS, _BETAS)]
  if not all(np.isfinite(values).all() for values in used):
    return Motion(is_damaged=True)
  rotations_T4 = skeleton.quat_from_rotation_vector(vectors_TC[:, :3])
  upright_3 = skeleton.quat_rotate(rotations_T4, _UP).mean(axis=0)
  axis = int(np.abs(upright_3).argmax())
  return Motion(
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
  del changed_ns
  try:
    video.read_chosen(path, lambda number, fps: [0], size=8)
  except video_file.VideoFileError as e:
    return str(e).rstrip('.')
  return ''
