"""Joints of a motion file piece by piece, so that days of them need no memory.

Only a long .npy of joints is read so: 24 h of float32 are 435 MiB there. Read,
checked and turned at once they took 4.1 GiB of memory, and take 0.11 GiB here,
Python included (2026-11-30). Everything else is read by `motion.readers`, and
is one piece.
"""

import os
from collections.abc import Iterable, Iterator

import numpy as np
from scipy import interpolate

from vimonet_jax.motion import readers, skeleton

# Frames at 20 fps that are in memory at once.
_PIECE = 12_000
# From so many places, and so many frames there, it is read off what is up, and
# of which unit they are.
_PLACES, _RUN = 60, 200
# A spline through so many more on both sides is the one through all: what a
# frame does to it is a quarter as much one frame further.
_MARGIN = 64


def read(
  path: str,
  *,
  fps: float | None = None,
  up: str | None = None,
  unit: str | None = None,
) -> Iterable[np.ndarray]:
  """Joints float32 [t, 22, 3] at 20 fps, metres, y up, one behind the other.

  All of them are looked at before the first are given.

  Args:
    path: of any file that readers.read knows.
    fps, up, unit: of it, where it does not say; see there.

  Raises:
    readers.MotionFileError: what is wrong with the file, in one sentence.
  """
  number = _long(path)
  if not number:
    return [readers.read(path, fps=fps, up=up, unit=unit).joints]
  starts = np.linspace(0, number - _RUN, _PLACES).astype(int)
  numbers = (starts[:, None] + np.arange(_RUN)).ravel()
  try:
    sample = np.concatenate([_frames(path, x, x + _RUN) for x in starts])
    fps, turn_33 = readers.settle(sample, numbers, fps=fps, up=up, unit=unit)
    _check(_pieces(path, number, fps, turn_33), fps)
  except ValueError as e:
    raise readers.MotionFileError(f'{path}: {e}') from e
  return _pieces(path, number, fps, turn_33)


def _check(pieces: Iterable[np.ndarray], fps: float) -> None:
  """Looks at all joints, and at the steps from one piece to the next."""
  of_one = readers.thinned(fps) or fps / readers.FPS
  last, first = np.empty((0, skeleton.NUM_JOINTS, 3)), 0
  for piece in pieces:
    joints = np.concatenate([last, piece])
    numbers = np.round((first + np.arange(len(joints))) * of_one).astype(int)
    readers.check_piece(joints, numbers, first / readers.FPS)
    last, first = piece[-1:], first + len(joints) - 1


def _long(path: str) -> int:
  """Frames of joints in a long .npy; 0 for whatever else there is."""
  if not path.lower().endswith('.npy') or not os.path.isfile(path):
    return 0
  try:
    shown = np.load(path, mmap_mode='r', allow_pickle=False)
  except (ValueError, OSError, EOFError):  # `readers` says what is wrong.
    return 0
  is_joints = shown.shape[1:] == (skeleton.NUM_JOINTS, 3)
  is_joints &= shown.dtype.kind in 'fiu'
  return len(shown) if is_joints and len(shown) > 2 * _PIECE else 0


def _raw(path: str, start: int, end: int) -> np.ndarray:
  # Mapped anew, since pages of a map stay in memory as long as it does.
  return np.array(np.load(path, mmap_mode='r')[start:end], np.float64)


def _pieces(
  path: str, number: int, fps: float, turn_33: np.ndarray
) -> Iterator[np.ndarray]:
  """As readers.resample and its turns make them of all frames at once."""
  step = readers.thinned(fps)
  if step:
    resampled = -(-number // step)
  else:
    resampled = int((number - 1) * readers.FPS / fps + 1e-6) + 1
  for start in range(0, resampled, _PIECE):
    wanted = np.arange(start, min(start + _PIECE, resampled))
    if step:
      joints = _frames(path, start * step, wanted[-1] * step + 1)[::step]
    else:
      times = wanted / readers.FPS
      first = max(int(times[0] * fps) - _MARGIN, 0)
      last = min(int(times[-1] * fps) + _MARGIN, number)
      joints = _frames(path, first, last)
      given = np.arange(first, last) / fps
      joints = interpolate.CubicSpline(given, joints, axis=0)(times)
    yield (joints @ turn_33).astype(np.float32)


def _frames(path: str, start: int, end: int) -> np.ndarray:
  joints = _raw(path, start, end)
  bad = ~np.isfinite(joints).all(axis=(1, 2))
  if bad.any():
    raise ValueError(
      f'expected numbers, found NaN or infinity in frame {start + bad.argmax()}'
      '; mend such frames or cut them off.'
    )
  return joints
