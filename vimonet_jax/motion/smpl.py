"""NumPy files about SMPL's joints: their places, their turns or features.

An .npy or .npz holds joints [T, 22, 3], HumanML3D features [T, 263], or
AMASS's `poses` and `trans`. Where the joints of AMASS are depends on the shape
of the body, which takes a body model to know, and the licence of that model
keeps it out of here. The mean body moves instead: HumanML3D's features give
everyone the same bones anyway, and how a joint turns does not depend on bones.
"""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from vimonet_jax.motion import features, skeleton

# The mean SMPL body at rest, arms level, facing +z, y up: each joint from its
# parent, metres, rounded to 0.1 mm; the pelvis from the model's origin, which
# is what `trans` moves. Source: the neutral SMPL humanoid published with PHC
# (Luo et al. 2023), smpl_humanoid.xml.
REST_OFFSETS_J3 = np.array([
    [-0.0018, -0.2233, 0.0282], [0.0695, -0.0914, -0.0068],
    [-0.0677, -0.0905, -0.0043], [-0.0025, 0.1090, -0.0267],
    [0.0343, -0.3752, -0.0045], [-0.0383, -0.3826, -0.0089],
    [0.0055, 0.1352, 0.0011], [-0.0136, -0.3980, -0.0437],
    [0.0158, -0.3984, -0.0423], [0.0015, 0.0529, 0.0254],
    [0.0264, -0.0558, 0.1193], [-0.0254, -0.0481, 0.1233],
    [-0.0028, 0.2139, -0.0429], [0.0788, 0.1217, -0.0341],
    [-0.0818, 0.1188, -0.0386], [0.0052, 0.0650, 0.0513],
    [0.0910, 0.0305, -0.0089], [-0.0960, 0.0326, -0.0091],
    [0.2596, -0.0128, -0.0275], [-0.2537, -0.0133, -0.0214],
    [0.2492, 0.0090, -0.0012], [-0.2553, 0.0078, -0.0056],
])  # fmt: skip

_FPS_KEYS = ('mocap_framerate', 'mocap_frame_rate', 'fps')
_POSE_COLUMNS = 3 * skeleton.NUM_JOINTS
_LEG = [skeleton.INDEX[f'left_{name}'] for name in ('hip', 'knee', 'ankle')]
_FEATURES_LEG_M = (0.65, 1.0)  # 0.82 for everyone, unless a network drew it


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
  return Clip(array.astype(np.float64), fps=_frame_rate(arrays), notes=notes)


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
  arrays = {}
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
  except Exception as e:  # of a damaged file: zip's, zlib's, even Python's own
    if 'pickle' not in str(e):
      raise ValueError(
        'expected a whole NumPy file, found a damaged or truncated one of '
        f'{os.path.getsize(path)} bytes; save or fetch it again.'
      ) from e
  if not arrays:
    raise ValueError(
      'expected an array of numbers, found pickled Python objects, which are '
      'never loaded; save the motion as floats with np.save.'
    )
  return arrays


def from_poses(arrays: Mapping[str, np.ndarray]) -> Clip:
  """The mean body, moving as in an AMASS file; z is up there.

  Args:
    arrays: `poses` [T, 66 or more], rotation vectors in radians of SMPL's
      joints (72 columns in SMPL, 156 in SMPL-H, 165 in SMPL-X, whose first 22
      joints are the same); `trans` [T, 3] metres; the frame rate under one of
      its names.

  Raises:
    ValueError: one sentence about what is wrong with them.
  """
  poses, trans = arrays['poses'], arrays.get('trans')
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
  rotations_TJ4 = skeleton.quat_from_rotation_vector(
    poses[:, :_POSE_COLUMNS].reshape(-1, skeleton.NUM_JOINTS, 3)
  )
  joints_TJ3 = skeleton.forward_kinematics(
    REST_OFFSETS_J3[0] + trans, rotations_TJ4, REST_OFFSETS_J3
  )
  notes = (
    'The shape of the body is not known here: the mean SMPL body moves.',
  )
  return Clip(joints_TJ3, _frame_rate(arrays), unit='m', up='z', notes=notes)


def from_features(features_TF: np.ndarray) -> Clip:
  """HumanML3D features: by definition 20 fps, metres and y up.

  Raises:
    ValueError: they are normalised, which no statistics here could undo.
  """
  joints_TJ3 = features.recover(features_TF)
  contacts = features_TF[:, features.SLICES['contacts']]
  bones = np.diff(joints_TJ3[:, _LEG], axis=1)
  leg = np.linalg.norm(bones, axis=-1).sum(axis=1).mean()
  # A network draws contacts about 0 and 1. NaN passes: the caller looks for it.
  if (
    np.min(contacts, initial=0.0) < -0.5
    or np.max(contacts, initial=0.0) > 1.5
    or leg < _FEATURES_LEG_M[0]
    or leg > _FEATURES_LEG_M[1]
  ):
    raise ValueError(
      'expected features in metres that are not normalised, with contacts from '
      f'0 to 1 and legs of 0.82 m, found contacts from {contacts.min():.2g} to '
      f'{contacts.max():.2g} and legs of {leg:.2g} m; undo the normalisation, '
      'x * std + mean.'
    )
  return Clip(
    joints_TJ3, fps=20.0, unit='m', up='y',
    features=np.asarray(features_TF, np.float32),
    notes=('HumanML3D features, used as they are.',),
  )  # fmt: skip


def _choose(arrays: Mapping[str, np.ndarray]) -> tuple[str, np.ndarray]:
  """The one motion among the arrays: joints rather than features."""
  numbers = {name: a for name, a in arrays.items() if a.dtype.kind in 'fiu'}
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
    f'expected joints [T, 22, 3] or features [T, 263], found {array.dtype} '
    f'{list(array.shape)}{" in " + repr(name) if name else ""}; {advice}.'
  )


def _frame_rate(arrays: Mapping[str, np.ndarray]) -> float | None:
  for key in _FPS_KEYS:
    if key in arrays and arrays[key].size == 1:
      return float(arrays[key].reshape(()))
  return None
