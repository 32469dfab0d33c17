"""Media files of benchmarks, as records that hold one clip each.

A motion longer than a model reads, 9.8 seconds, is shown from its start, and
the record's provenance says of how many frames.
"""

import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vimonet_jax.data import records, video
from vimonet_jax.motion import features, readers, smpl

# Features are made of frames and their neighbours: one frame more.
_MOST_FRAMES = records.MAX_MOTION_FRAMES + 1
# What some data sets write into names of joints, which say nothing themselves.
_FPS_IN_NAME = re.compile(r'_(\d+)fps\.np[yz]$')


class Frames(NamedTuple):
  """How a model looks at a video.

  Attributes:
    number: frames of a clip.
    size: their width and height, pixels.
    antialias: see video.read_clip.
  """

  number: int = 8
  size: int = 224
  antialias: bool = False


def motion_record(
  path: str | os.PathLike,
  *,
  id: str,
  source: str,
  split: str,
  fps: float | None = None,
  up: str | None = None,
) -> records.Record:
  """A record of the first 196 frames of a motion, at 20 fps, and its joints.

  Args:
    path: any file of motion.readers.
    id, source, split: of the record.
    fps: of joints in a NumPy file; None where the file, or a name such as
      `919_joints_30fps.npy`, says it.
    up: see readers.read.

  Raises:
    ValueError: the file is no motion, or too short to be one.
    OSError: it cannot be read.
  """
  if fps is None and (said := _FPS_IN_NAME.search(os.path.basename(path))):
    fps = float(said[1])
  motion = readers.read(path, fps=fps, up=up)
  return record_of(motion, id=id, source=source, split=split)


def says_frame_rate(path: str | os.PathLike) -> bool:
  """Whether a motion file or its name does; of sound files only joints do not.

  Of a file that cannot be read this is not known, and reading it says why.
  """
  name = os.path.basename(path).lower()
  if not name.endswith(('.npy', '.npz')) or _FPS_IN_NAME.search(name):
    return True
  try:
    return smpl.read(path).fps is not None
  except (OSError, ValueError):
    return True


def record_of(
  found: readers.Motion, *, id: str, source: str, split: str
) -> records.Record:
  """A record of the first 196 frames of a motion that has been read."""
  if found.features is None:
    joints = found.joints[:_MOST_FRAMES]
    motion = features.encode(joints)
  else:
    joints, motion = found.joints, found.features
  motion = records.trim_motion(motion)
  return records.Record(
    id,
    source,
    split,
    motion=motion.astype(np.float32),
    joints=joints[: len(motion) + 1].astype(np.float32),
    provenance={'frames': [len(motion), len(found.joints)]},
  )


def video_record(
  path: str | os.PathLike,
  frames: Frames,
  *,
  id: str,
  source: str,
  split: str,
  start_s: float | None = None,
  end_s: float | None = None,
  choose: Callable[[int, float], Sequence[int]] | None = None,
) -> records.Record:
  """A record of a few frames of a video.

  Args:
    path: any file of data.video.
    frames: how many, and how large.
    id, source, split: of the record.
    start_s, end_s: seconds of the part that is shown.
    choose: frames there are, and per second -> which to show; None spreads them
      over the part, as training does.

  Raises:
    ValueError: the file is no video, or has nothing where it is looked at.
    OSError: it cannot be read.
  """
  look = {'size': frames.size, 'antialias': frames.antialias}
  if choose is None:
    clip = video.read_clip(
      path, frames=frames.number, start_s=start_s, end_s=end_s, **look
    )
  else:
    clip = video.read_chosen(path, choose, **look)
  return records.Record(id, source, split, frames=clip)


def first_file(
  root: str | os.PathLike, places: Iterable[str]
) -> pathlib.Path | None:
  """The first of several places in a folder where there is a file."""
  paths = [pathlib.Path(root) / place for place in places]
  return next((path for path in paths if path.is_file()), None)


def check_folder(root: str | os.PathLike, what: str) -> None:
  """Raises where there is no folder at all: then not everything is missing."""
  if not os.path.isdir(root):
    raise FileNotFoundError(
      f'Expected a folder of {what}, found no {root}; correct the path.'
    )


def described(path: str | os.PathLike | None, *look: Any) -> str:
  """A file, its size and when it was changed, and how it is looked at.

  Args:
    path: the file; None, or one that is not there, is told apart from others.
    look: whatever else decides what is shown of it.
  """
  try:
    found = os.stat(path) if path else None
  except OSError:
    found = None
  size, changed = (found.st_size, found.st_mtime_ns) if found else (None, None)
  return repr((os.fspath(path or ''), size, changed, look))
