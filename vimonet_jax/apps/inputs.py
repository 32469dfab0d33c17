"""Files of a motion and a video that people give, as a record to ask about.

JAX is not imported here, so that processes which only read start at once.
"""

import os
import pathlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vimonet_jax.audit import privacy
from vimonet_jax.data import records
from vimonet_jax.data import video as videos
from vimonet_jax.motion import amc, features, readers

if TYPE_CHECKING:
  from vimonet_jax.models import clip_video

# HumanML3D cuts its clips, which last ten seconds at most, before it computes
# features: somebody's stairs after a minute must not move the floor.
_LONGEST_CLIP_FRAMES = 200


class Given(NamedTuple):
  """Files that were read.

  Attributes:
    record: of their media, without a turn.
    notes: what was converted or left out, a line for each file.
  """

  record: records.Record
  notes: list[str]


def read(
  tower: 'clip_video.Config',
  *,
  motion: str | None = None,
  video: str | None = None,
  fps: float | None = None,
  up: str | None = None,
  unit: str | None = None,
  motion_only: bool = False,
) -> Given:
  """Reads files as a model does.

  Args:
    tower: what the frames are for.
    motion: a file for motion.readers, of which the first 9.8 seconds are read.
    video: a video or a folder of images, for data.video.
    fps, up, unit: of the motion file, where it does not say; see readers.read.
    motion_only: refuses a video before a file is opened; see audit/privacy.py.

  Raises:
    ValueError: a file is not what it should be, or must not be looked at
      (privacy.RefusedError).
    OSError: it cannot be read.
  """
  if video:
    privacy.check('video', motion_only=motion_only)
  clip, notes, frames = None, [], None
  if motion:
    clip, found = _read_motion(motion, fps=fps, up=up, unit=unit)
    if found:
      notes.append(f'{motion}: {" ".join(found)}')
  if video:
    frames = videos.read_clip(
      video,
      size=tower.image_size,
      frames=tower.frames,
      antialias=tower.image_size < videos.REFERENCE_PIXELS,
    )
  name = ' and '.join(path for path in (motion, video) if path) or 'nothing'
  record = records.Record(name, 'given', 'test', motion=clip, frames=frames)
  return Given(record, notes)


def files(path: str) -> list[pathlib.Path]:
  """What is read of a motion or a video: it, its images, or its body too.

  Raises:
    ValueError: a folder has no images, or an .amc no .asf.
    OSError: the folder of an .amc cannot be read; a file is not looked for.
  """
  found = pathlib.Path(path)
  if found.is_dir():
    return videos.image_files(found)
  is_angles = found.suffix.lower() == '.amc'
  return [found, amc.find_asf(found)] if is_angles else [found]


def _read_motion(
  path: str, *, fps: float | None, up: str | None, unit: str | None
) -> tuple[np.ndarray, list[str]]:
  """Features [T, 263], and what was converted."""
  found = readers.read(path, fps=fps, up=up, unit=unit)
  if found.features is None:
    length = len(found.joints) - 1
    motion = _encode(path, found.joints[:_LONGEST_CLIP_FRAMES])
  else:
    length = len(found.features)
    motion = found.features
  motion = records.trim_motion(motion)
  notes = list(found.notes)
  seconds, read_s = length / records.FPS, len(motion) / records.FPS
  if length - len(motion) >= records.FRAMES_PER_TOKEN:
    notes.append(
      f'Only the first {read_s:.1f} of {seconds:.1f} s are read: cut the file '
      'to ask about a later part.'
    )
  if len(motion) < records.MIN_MOTION_FRAMES:
    notes.append(
      f'The clip lasts {seconds:.1f} s and models are trained on '
      f'{records.MIN_MOTION_FRAMES / records.FPS:g} s or more: the answer may '
      'be a guess.'
    )
  return motion, notes


def _encode(path: str, joints_TJ3: np.ndarray) -> np.ndarray:
  try:
    return features.encode(joints_TJ3)
  except ValueError as e:
    raise readers.MotionFileError(f'{os.fspath(path)}: {e}') from e
