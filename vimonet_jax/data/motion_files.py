"""Motions of a folder in HumanML3D's layout (see `sources`), from its files."""

import dataclasses
import functools
import hashlib
import os
import pathlib
import zipfile

import numpy as np

from vimonet_jax.motion import features, skeleton

# The first place that has a clip is taken. Vectors come first because they are
# what published encoders were trained on, to the bit.
PLACES = ('new_joint_vecs', 'new_joints', 'joints')
ARCHIVE = 'joints.npz'


_LEG = [skeleton.INDEX[f'left_{x}'] for x in ('hip', 'knee', 'ankle')]
_ANKLES = [skeleton.INDEX['left_ankle'], skeleton.INDEX['right_ankle']]


@dataclasses.dataclass(frozen=True)
class Motion:
  """What has to be known of a motion before a build.

  Attributes:
    rows: of features that it has or will have.
    is_damaged: whether some number is not finite.
    standing: of joints, the axis along which the body stands, e.g. `-z`.
    leg_m: of joints, from hip over knee to ankle.
    checksum: of the file.
  """

  rows: int
  is_damaged: bool
  standing: str = ''
  leg_m: float = 0.0
  checksum: str = ''


def find(root: pathlib.Path, name: str) -> str | None:
  """Where in the folder the motion of a clip is; None where it has none.

  Raises:
    ValueError: the archive cannot be read.
  """
  for place in PLACES:
    if (root / place / f'{name}.npy').exists():
      return f'{place}/{name}.npy'
  if (root / ARCHIVE).exists() and name in _archive(root / ARCHIVE):
    return ARCHIVE
  return None


def holds_features(file: str) -> bool:
  """Whether a file that `find` found has features, and not joints."""
  return file.startswith(PLACES[0])


def load(root: pathlib.Path, file: str, member: str) -> np.ndarray:
  """float32 [T, 263] features, or joints [T, 22, 3].

  Args:
    root: the folder.
    file: as `find` found it.
    member: the clip's name.

  Raises:
    ValueError: it cannot be read, or has another shape.
  """
  try:
    if file == ARCHIVE:
      array = _archive(root / file)[member]
    else:
      array = np.load(root / file)
    array = array.astype(np.float32)
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
    raise ValueError(
      f'{root / file}: expected an array that np.load can read, found '
      f'{str(e)[:80]!r}; copy the file again or take {member} out of the split '
      'files.'
    ) from e
  if holds_features(file):
    expected, fits = '[T, 263]', array.shape[1:] == (features.NUM_FEATURES,)
  else:
    expected = '[T, 22 or more, 3]'
    fits = array.shape[2:] == (3,) and array.shape[1] >= skeleton.NUM_JOINTS
  if not fits:
    raise ValueError(
      f'{root / file}, {member}: expected {expected}, found '
      f'{list(array.shape)}; save it so or take {member} out of the split '
      'files.'
    )
  return array if holds_features(file) else array[:, : skeleton.NUM_JOINTS]


def look(root: pathlib.Path, file: str, member: str) -> Motion:
  """Reads a motion once and remembers what a build must know of it.

  Raises:
    ValueError: as `load`.
  """
  # With the time, so that a file that was replaced is read anew.
  changed_ns = os.stat(root / file).st_mtime_ns
  return _look_at(root, file, member, changed_ns)


@functools.cache
def _look_at(
  root: pathlib.Path, file: str, member: str, changed_ns: int
) -> Motion:
  del changed_ns
  array = load(root, file, member)
  if not np.isfinite(array).all():
    return Motion(len(array), is_damaged=True)
  known = {'checksum': checksum(root / file)}
  if holds_features(file):
    return Motion(len(array), is_damaged=False, **known)
  return Motion(
    # Joints give one row of features fewer than there are frames.
    len(array) - 1,
    is_damaged=False,
    standing=_standing_axis(array),
    leg_m=_leg_m(array),
    **known,
  )


def checksum(path: pathlib.Path) -> str:
  """Of a file's bytes. HumanML3D has 4 GB of them, which take 5 s.

  This process remembers it: an archive has many clips.
  """
  return _checksum(path, os.stat(path).st_mtime_ns)


@functools.cache
def _checksum(path: pathlib.Path, changed_ns: int) -> str:
  del changed_ns
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'blake2b').hexdigest()


def _leg_m(joints_TJ3: np.ndarray) -> float:
  leg = joints_TJ3[:, _LEG]
  return float(np.linalg.norm(np.diff(leg, axis=1), axis=-1).sum(1).mean())


def _standing_axis(joints_TJ3: np.ndarray) -> str:
  """The axis from feet to neck."""
  feet = joints_TJ3[:, _ANKLES].mean(axis=1)
  body = (joints_TJ3[:, skeleton.INDEX['neck']] - feet).mean(axis=0)
  axis = int(np.abs(body).argmax())
  return '-' * bool(body[axis] < 0) + 'xyz'[axis]


def _archive(path: pathlib.Path):
  try:
    # With the time, so that a file that was replaced is opened anew.
    return _open_archive(path, os.stat(path).st_mtime_ns)
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
    raise ValueError(
      f'{path}: expected an archive that np.load can read, found '
      f'{str(e)[:80]!r}; copy the file again.'
    ) from e


@functools.lru_cache(maxsize=1)
def _open_archive(path: pathlib.Path, changed_ns: int):
  """An open npz file; to open one takes longer than to read a clip of it."""
  del changed_ns
  return np.load(path)
