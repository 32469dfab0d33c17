"""NumPy files about SMPL's joints: their places, their turns or features.

An .npy or .npz holds joints [T, 22, 3], HumanML3D features [T, 263], or
AMASS's `poses` and `trans`. Where the joints of AMASS are depends on the shape
of the body, which takes a body model to know, and the licence of that model
keeps it and its numbers out of here. HumanML3D's body moves instead, whose
bones `features.uniform_skeleton` gives to everyone anyway.
"""

import dataclasses
import os
import zipfile
from collections.abc import Mapping

import numpy as np

from vimonet_jax.motion import features, skeleton

# What SMPL's rotations turn: the standing body with its arms level, facing +z,
# y up; each joint from its parent, metres. `trans` moves SMPL's origin, which
# is some 0.2 m from its pelvis, for one subject by the same vector in every
# frame (the root turns about the pelvis). The pelvis is put where `trans` is:
# a clip is moved as a whole, which features do not see. They differ by the
# subject's directions of bones at rest (7 degrees on average from the mean SMPL
# body: 0.3 std) and the path by how the legs differ in length from these.
REST_OFFSETS_J3 = skeleton.STANDING_OFFSETS_J3.copy()
_ARMS = [skeleton.INDEX[f'{side}_{part}'] for part in ('elbow', 'wrist')
         for side in ('left', 'right')]  # fmt: skip
REST_OFFSETS_J3[_ARMS] = (
  skeleton.BONE_LENGTHS_J[_ARMS, None] * ([[1, 0, 0], [-1, 0, 0]] * 2)
)

_FPS_KEYS = ('mocap_framerate', 'mocap_frame_rate', 'fps')
_POSE_COLUMNS = 3 * skeleton.NUM_JOINTS
_LEG = [skeleton.INDEX[f'left_{name}'] for name in ('hip', 'knee', 'ankle')]
# Of all arrays: half an hour of SMPL-H at 120 fps. Zeros can be packed to a
# thousandth, so a file's own size says little.
_MOST_BYTES, _MOST_ARRAYS = 2**29, 1000
_FEATURES_LEG_M = (0.65, 1.0)  # 0.82 for everyone, unless a network drew it
# Of any feature: bodies are smaller, and no step of theirs is as long.
_LARGEST_FEATURE = 100.0


@dataclasses.dataclass(frozen=True)
class Clip:
  """A motion as its file gives it, with None where the file does not say.

  Attributes:
    joints_TJ3: float64 [T, 22, 3].
    fps: frames per second.
    unit: of length, e.g. `m`.
    up: the axis that points up.
    features: float32 [T, 263], if it is these that the file holds; the joints
      are recovered from them.
    notes: sentences that a user should know.
  """

  joints_TJ3: np.ndarray
  fps: float | None = None
  unit: str | None = None
  up: str | None = None
  features: np.ndarray | None = None
  notes: tuple[str, ...] = ()


def read(path: str | os.PathLike) -> Clip:
  """Reads the one motion in an .npy or .npz file.

  Raises:
    ValueError: one sentence about what is wrong with the file.
  """
  arrays = load(path)
  if 'poses' in arrays:
    return from_poses(arrays)
  name, array = _choose(arrays)
  if array.ndim == 2:
    return from_features(array)
  notes = (f'Joints from the array {name!r}.',) if len(arrays) > 1 else ()
  return Clip(array.astype(np.float64), fps=frame_rate(arrays), notes=notes)


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The arrays of an .npz, or the array of an .npy under the name ''.

  Pickled objects, which run code when they are loaded, are passed over.
  """
  with open(path, 'rb') as f:
    start = f.read(6)
  if not start.startswith((b'\x93NUMPY', b'PK')):
    raise ValueError(
      f'expected a NumPy file, found one that begins with {start!r}; save the '
      'motion with np.save or np.savez.'
    )
  if start.startswith(b'PK'):
    _check_members(path)
  arrays, pickled = {}, False
  try:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
      return {'': loaded}
    with loaded:
      for name in loaded.files:
        try:
          arrays[name] = loaded[name]
        except ValueError as e:
          if 'pickle' not in str(e):
            raise
          pickled = True
  except MemoryError as e:
    raise ValueError(
      'expected a NumPy file whose arrays fit into memory, found larger ones '
      f'in {os.path.getsize(path)} bytes; cut the motion, or save it again if '
      'its head is damaged.'
    ) from e
  except Exception as e:  # of a damaged file: zip's, zlib's, even Python's own
    pickled = 'pickle' in str(e)
    if not pickled:
      raise ValueError(
        'expected a whole NumPy file, found a damaged or truncated one of '
        f'{os.path.getsize(path)} bytes; save or fetch it again.'
      ) from e
  # NumPy hands other members of a zip file over as bytes.
  arrays = {n: a for n, a in arrays.items() if isinstance(a, np.ndarray)}
  if not arrays:
    found = 'pickled Python objects, which are never loaded'
    raise ValueError(
      'expected an array of numbers, found '
      f'{found if pickled else "no array at all"}; save the motion as floats '
      'with np.save or np.savez.'
    )
  return arrays


def from_poses(
  arrays: Mapping[str, np.ndarray], *, rest_J3: np.ndarray | None = None
) -> Clip:
  """HumanML3D's body, moving as in an AMASS file; z is up there.

  Args:
    arrays: `poses` [T, 66 or more], rotation vectors in radians of SMPL's
      joints (72 columns in SMPL, 156 in SMPL-H, 165 in SMPL-X, whose first 22
      joints are the same); `trans` [T, 3] metres, where the pelvis is put;
      the frame rate under one of its names.
    rest_J3: where the joints of this body are at rest, as a body model gives
      them (see `body_model`); then SMPL's origin is put where `trans` is. None
      for HumanML3D's body.

  Raises:
    ValueError: one sentence about what is wrong with them.
  """
  check_poses(arrays)
  poses, trans = arrays['poses'], arrays['trans']
  rotations_TJ4 = skeleton.quat_from_rotation_vector(
    poses[:, :_POSE_COLUMNS].reshape(len(poses), skeleton.NUM_JOINTS, 3)
  )
  root_T3, offsets_J3, notes = trans, REST_OFFSETS_J3, ()
  if rest_J3 is None:
    notes = (
      "The shape of the body is not known here: HumanML3D's body moves, its "
      'pelvis where trans is.',
    )
  else:
    root_T3 = trans + rest_J3[0]
    offsets_J3 = rest_J3 - rest_J3[list(skeleton.PARENTS)]
  joints_TJ3 = skeleton.forward_kinematics(root_T3, rotations_TJ4, offsets_J3)
  return Clip(joints_TJ3, frame_rate(arrays), unit='m', up='z', notes=notes)


def check_poses(arrays: Mapping[str, np.ndarray]) -> None:
  """Raises a ValueError that says what `from_poses` would stumble over."""
  poses, trans = arrays['poses'], arrays.get('trans')
  for name, array in (('poses', poses), ('trans', trans)):
    if array is not None and not _is_numbers(array):
      raise ValueError(
        f'expected {name} of real numbers, found {array.dtype} '
        f'{list(array.shape)}; save them as floats.'
      )
  if poses.ndim != 2 or poses.shape[1] < _POSE_COLUMNS or poses.shape[1] % 3:
    raise ValueError(
      f'expected poses [T, {_POSE_COLUMNS} or more], three for each joint, '
      f'found {list(poses.shape)}; save poses of SMPL, SMPL-H or SMPL-X.'
    )
  if trans is None or trans.shape != (len(poses), 3):
    raise ValueError(
      f'expected trans [{len(poses)}, 3] beside the poses, found '
      f'{"none" if trans is None else list(trans.shape)}; save where the body '
      'is in each frame.'
    )


def from_features(features_TF: np.ndarray) -> Clip:
  """HumanML3D features: by definition 20 fps, metres and y up.

  Raises:
    ValueError: no frames, or normalised, which no statistics here could undo.
  """
  if not len(features_TF):
    raise ValueError(
      'expected features of a motion, found 0 frames; save them again, with '
      'their frames.'
    )
  joints_TJ3 = features.recover(features_TF)
  contacts = features_TF[:, features.SLICES['contacts']]
  bones = np.diff(joints_TJ3[:, _LEG], axis=1)
  leg = np.linalg.norm(bones, axis=-1).sum(axis=1).mean()
  # A network draws contacts about 0 and 1. NaN passes: the caller looks for it.
  if (
    contacts.min() < -0.5
    or contacts.max() > 1.5
    or leg < _FEATURES_LEG_M[0]
    or leg > _FEATURES_LEG_M[1]
  ):
    raise ValueError(
      'expected features in metres that are not normalised, with contacts from '
      f'0 to 1 and legs of 0.82 m, found contacts from {contacts.min():.2g} to '
      f'{contacts.max():.2g} and legs of {leg:.2g} m; undo the normalisation, '
      'x * std + mean.'
    )
  largest = np.abs(features_TF).max()
  if np.isfinite(largest) and largest > _LARGEST_FEATURE:
    raise ValueError(
      'expected features in metres and radians, all below '
      f'{_LARGEST_FEATURE:g}, found {largest:.2g}; save them again as '
      'HumanML3D computes them.'
    )
  return Clip(
    joints_TJ3, fps=20.0, unit='m', up='y',
    features=np.asarray(features_TF, np.float32),
    notes=('HumanML3D features, used as they are.',),
  )  # fmt: skip


def _check_members(path: str | os.PathLike) -> None:
  """Raises where an .npz would unpack to more than a motion, before it does.

  What zip says of a member's size holds: unpacking ends there.
  """
  try:
    with zipfile.ZipFile(path) as packed:
      members = packed.infolist()
  except zipfile.BadZipFile:  # As `load` says in its own words.
    return
  size = sum(member.file_size for member in members)
  if len(members) > _MOST_ARRAYS or size > _MOST_BYTES:
    raise ValueError(
      f'expected at most {_MOST_ARRAYS} arrays of {_MOST_BYTES >> 20} MiB in '
      f'all, found {len(members)} of {size / 2**20:.5g} MiB; save the motion '
      'alone, and cut it where it is longer.'
    )


def _choose(arrays: Mapping[str, np.ndarray]) -> tuple[str, np.ndarray]:
  """The one motion among the arrays: joints rather than features."""
  numbers = {name: a for name, a in arrays.items() if _is_numbers(a)}
  joints = [
    name for name, a in numbers.items()
    if a.ndim == 3 and a.shape[1:] == (skeleton.NUM_JOINTS, 3)
  ]  # fmt: skip
  vectors = [
    name for name, a in numbers.items()
    if a.ndim == 2 and a.shape[1] == features.NUM_FEATURES
  ]  # fmt: skip
  for names in (['joints'] if 'joints' in joints else joints, vectors):
    if len(names) == 1:
      return names[0], numbers[names[0]]
    if names:
      raise ValueError(
        f'expected one motion, found {len(names)} ({", ".join(names[:3])}, '
        '...); save the one you mean in a file of its own.'
      )
  name, array = max(arrays.items(), key=lambda item: item[1].size)
  advice = "save SMPL's 22 joints in the order of skeleton.NAMES"
  if array.ndim == 3 and array.shape[1] > skeleton.NUM_JOINTS:
    advice = "if these are SMPL's joints, save the first 22, array[:, :22]"
  raise ValueError(
    'expected joints [T, 22, 3] or features [T, 263] of real numbers, found '
    f'{array.dtype} {list(array.shape)}{" in " + repr(name) if name else ""}; '
    f'{advice}.'
  )


def frame_rate(arrays: Mapping[str, np.ndarray]) -> float | None:
  """Frames per second as a file states them, under any of their names."""
  for key in _FPS_KEYS:
    if key in arrays and arrays[key].size == 1 and _is_numbers(arrays[key]):
      return float(arrays[key].reshape(()))
  return None


def _is_numbers(array: np.ndarray) -> bool:
  return array.dtype.kind in 'fiu'
