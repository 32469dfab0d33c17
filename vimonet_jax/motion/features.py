"""Joints to HumanML3D's 263 numbers a frame, and back.

Published motion encoders were trained on what HumanML3D's scripts compute,
defects included, so the defects are part of the format. They are kept and
named where they happen: `describe`, `_headings` and `_rotations`.

All functions take one clip or a stack of clips of one length (leading axes)
and compute in float64.

Source: HumanML3D (Guo et al. 2022), `motion_representation.ipynb`,
`common/skeleton.py` and `cal_mean_variance.ipynb`.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from vimonet_jax.motion import skeleton

NUM_FEATURES = 263
MIN_FRAMES = 2  # a row describes a step between two frames

# What each column of a row t holds. A turn to the left is negative.
SLICES = {
  'yaw_rate': slice(0, 1),  # half of the turn from t to t+1, radians
  'root_velocity': slice(1, 3),  # step t to t+1 along x and z, metres
  'root_height': slice(3, 4),  # metres
  'positions': slice(4, 67),  # joints 1..21 as seen from the root, metres
  'rotations': slice(67, 193),  # joints 1..21, two columns of a matrix each
  'velocities': slice(193, 259),  # joints 0..21, step t to t+1, metres
  'contacts': slice(259, 263),  # left ankle, left foot, right ankle and foot
}
# Groups that text-to-motion (Guo et al. 2022) amplified before it trained the
# encoders that everyone uses since.
_AMPLIFIED = ('yaw_rate', 'root_velocity', 'root_height', 'contacts')

_CONTACT_JOINTS = [skeleton.INDEX[f'{side}_{part}'] for side in
                   ('left', 'right') for part in ('ankle', 'foot')]  # fmt: skip
_CONTACT_SQUARED_M2 = 0.002  # compared with a squared step: 0.89 m/s
_HEADING_SIGMA_FRAMES = 20
_SHORTEST_BONE = 1e-6
_LEG = [skeleton.INDEX['right_knee'], skeleton.INDEX['right_ankle']]
_LEFT_HIP = skeleton.INDEX['left_hip']
_RIGHT_HIP = skeleton.INDEX['right_hip']
_LEFT_SHOULDER = skeleton.INDEX['left_shoulder']
_RIGHT_SHOULDER = skeleton.INDEX['right_shoulder']


def encode(joints_TJ3: np.ndarray) -> np.ndarray:
  """HumanML3D features of a clip, whoever moved and wherever they stood.

  The features are not normalised; see `Statistics`.

  Args:
    joints_TJ3: [..., T, 22, 3] at 20 fps, y up, in any unit of length, with at
      least 2 frames.

  Returns:
    float32 [..., T - 1, 263]; see `SLICES`.

  Raises:
    ValueError: wrong shape, too few frames, NaN, or a bone without length.
  """
  return describe(canonicalise(joints_TJ3))


def canonicalise(joints_TJ3: np.ndarray) -> np.ndarray:
  """The clip as HumanML3D looks at it, float64 [..., T, 22, 3].

  Everyone gets the same bones and starts at the origin, facing +z, on a floor
  at y = 0. A clip that is so already comes back as it was but for rounding,
  which is why none of the four steps can be switched off.

  Raises:
    ValueError: as `encode`.
  """
  joints_TJ3 = uniform_skeleton(joints_TJ3)
  return face_forward(move_to_origin(put_on_floor(joints_TJ3)))


def uniform_skeleton(joints_TJ3: np.ndarray) -> np.ndarray:
  """Gives a body HumanML3D's bones and keeps their directions.

  The root's path shrinks or grows with the legs of frame 0. (The reference
  does this by inverse and forward kinematics, in which all rotations cancel.)
  """
  joints_TJ3 = _checked(joints_TJ3)
  bones_TJ3 = _bones(joints_TJ3)
  lengths_TJ = np.linalg.norm(bones_TJ3, axis=-1)
  lengths_TJ[..., 0] = 1.0  # the root has no bone
  if lengths_TJ.min() < _SHORTEST_BONE:
    *_, frame, joint = np.argwhere(lengths_TJ < _SHORTEST_BONE)[0]
    parent = skeleton.NAMES[skeleton.PARENTS[joint]]
    raise ValueError(
      f'Expected joints apart from each other, found {skeleton.NAMES[joint]} '
      f'upon {parent} in frame {frame}, a bone without a direction; give the '
      'body its missing joint.'
    )
  directions_TJ3 = bones_TJ3 / lengths_TJ[..., None]
  legs = lengths_TJ[..., :1, _LEG].sum(-1, keepdims=True)
  scale = skeleton.BONE_LENGTHS_J[_LEG].sum() / legs
  joints = [joints_TJ3[..., 0, :] * scale]
  for j in range(1, skeleton.NUM_JOINTS):
    bone = directions_TJ3[..., j, :] * skeleton.BONE_LENGTHS_J[j]
    joints.append(joints[skeleton.PARENTS[j]] + bone)
  return np.stack(joints, axis=-2)


def put_on_floor(joints_TJ3: np.ndarray) -> np.ndarray:
  """Moves a clip up or down until its lowest joint is at y = 0."""
  floor = joints_TJ3[..., 1].min(axis=(-2, -1))
  return joints_TJ3 - floor[..., None, None, None] * np.array([0.0, 1.0, 0.0])


def move_to_origin(joints_TJ3: np.ndarray) -> np.ndarray:
  """Moves a clip along the floor until its root starts at x = z = 0."""
  start = joints_TJ3[..., :1, :1, :]
  return joints_TJ3 - start * np.array([1.0, 0.0, 1.0])


def face_forward(joints_TJ3: np.ndarray) -> np.ndarray:
  """Turns a clip about the vertical until frame 0 faces +z."""
  first_J3 = joints_TJ3[..., :1, :, :]
  across = _across(first_J3, _RIGHT_HIP, _LEFT_HIP)
  half_turn = -0.5 * _bearing(np.cross([0.0, 1.0, 0.0], across))
  return skeleton.quat_rotate(_yaw(half_turn)[..., None, :], joints_TJ3)


def describe(joints_TJ3: np.ndarray) -> np.ndarray:
  """The features of a clip that has been through `canonicalise`.

  Raises:
    ValueError: wrong shape, too few frames or NaN.
  """
  joints_TJ3 = _checked(joints_TJ3)
  here_TJ3 = joints_TJ3[..., :-1, :, :]
  steps_TJ3 = np.diff(joints_TJ3, axis=-3)
  half_T = _headings(joints_TJ3)
  heading_T4 = _yaw(half_T)
  # The root's step is turned by the heading that it leads to, everything else
  # by the heading that it starts from.
  root_step_T3 = skeleton.quat_rotate(
    heading_T4[..., 1:, :], steps_TJ3[..., 0, :]
  )
  heading_T14 = heading_T4[..., :-1, None, :]
  from_root_TJ3 = here_TJ3 - here_TJ3[..., :1, :] * np.array([1.0, 0.0, 1.0])
  positions_TJ3 = skeleton.quat_rotate(heading_T14, from_root_TJ3)
  velocities_TJ3 = skeleton.quat_rotate(heading_T14, steps_TJ3)
  rotations_TJ6 = _rotations(here_TJ3, half_T[..., :-1])
  squared_TJ = np.sum(steps_TJ3**2, axis=-1)

  groups = {
    # HumanML3D reads the half turn from the y part of a quaternion product.
    # Where the heading passes -z it jumps by pi, and arcsin folds that back
    # with the wrong sign: from there on `recover` gives a clip turned aside.
    'yaw_rate': np.arcsin(np.sin(np.diff(half_T)))[..., None],
    'root_velocity': root_step_T3[..., [0, 2]],
    'root_height': here_TJ3[..., 0, 1:2],
    'positions': _flat(positions_TJ3[..., 1:, :]),
    'rotations': _flat(rotations_TJ6[..., 1:, :]),
    'velocities': _flat(velocities_TJ3),
    'contacts': squared_TJ[..., _CONTACT_JOINTS] < _CONTACT_SQUARED_M2,
  }
  in_order = [groups[name] for name in SLICES]
  return np.concatenate(in_order, axis=-1).astype(np.float32)


def recover(features_TF: np.ndarray) -> np.ndarray:
  """Joints, float32 [..., T, 22, 3] in metres, of features [..., T, 263].

  Reads the root's motion and the positions and none of the rotations
  (`recover_from_ric` in the reference). The body starts at x = z = 0.

  Raises:
    ValueError: wrong shape.
  """
  features_TF = np.asarray(features_TF, np.float64)
  if features_TF.ndim < 2 or features_TF.shape[-1] != NUM_FEATURES:
    raise ValueError(
      f'Expected features [..., T, {NUM_FEATURES}], found '
      f'{list(features_TF.shape)}; make them with features.encode.'
    )
  part = {name: features_TF[..., columns] for name, columns in SLICES.items()}
  inverse_T4 = _yaw(-_running(part['yaw_rate'])[..., 0])
  step_T3 = np.insert(part['root_velocity'], 1, 0.0, axis=-1)
  # Step t leads to frame t+1 and is told in that frame's heading.
  floor_T3 = _running(skeleton.quat_rotate(inverse_T4[..., 1:, :], step_T3))
  others_TJ3 = part['positions'].reshape(features_TF.shape[:-1] + (-1, 3))
  root_T13 = part['root_height'][..., None] * np.array([0.0, 1.0, 0.0])
  local_TJ3 = np.concatenate([root_T13, others_TJ3], axis=-2)
  joints_TJ3 = skeleton.quat_rotate(inverse_T4[..., :-1, None, :], local_TJ3)
  return (joints_TJ3 + floor_T3[..., :-1, None, :]).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
  """What features are normalised with; belongs to one motion encoder.

  Attributes:
    mean: float32 [263].
    std: float32 [263], all above zero.
  """

  mean: np.ndarray
  std: np.ndarray

  def __post_init__(self):
    for name in ('mean', 'std'):
      value = np.asarray(getattr(self, name), np.float32)
      bad = ~np.isfinite(value) | ((value <= 0) & (name == 'std'))
      if value.shape != (NUM_FEATURES,) or bad.any():
        raise ValueError(
          f'Statistics: expected {name} as {NUM_FEATURES} finite numbers '
          f'(a std above zero), found shape {list(value.shape)} with '
          f'{bad.sum()} bad ones; take the pair that the motion encoder was '
          'trained with.'
        )
      object.__setattr__(self, name, value)

  def normalise(self, motion):
    """(motion - mean) / std of features [..., 263], NumPy or JAX."""
    return (motion - self.mean) / self.std

  def denormalise(self, motion):
    """The features [..., 263] that `normalise` made `motion` of."""
    return motion * self.std + self.mean

  @property
  def root_gain(self) -> float:
    """How many times louder the root speaks than in HumanML3D's own Std.npy.

    There the std of the root's height is 1.258 times that of the positions.
    Published motion encoders were trained with about 25; see `of`.
    """
    positions = float(np.mean(self.std[SLICES['positions']]))
    return 1.258 * positions / float(self.std[SLICES['root_height']][0])

  def save(self, path: str) -> None:
    """Writes both arrays into one .npz file, at exactly this path."""
    with open(path, 'wb') as f:
      np.savez(f, mean=self.mean, std=self.std)

  @classmethod
  def load(cls, path: str) -> 'Statistics':
    """Reads what `save` wrote."""
    with np.load(path) as arrays:
      missing = {'mean', 'std'} - set(arrays)
      if missing:
        raise ValueError(
          f'{path}: expected arrays mean and std, found '
          f'{sorted(arrays)}; write the file with Statistics.save.'
        )
      return cls(mean=arrays['mean'], std=arrays['std'])

  @classmethod
  def of(
    cls, motions: Iterable[np.ndarray], root_gain: float = 25.0
  ) -> 'Statistics':
    """Statistics of a data set, in the manner of the published encoders.

    The std is averaged within each group of `SLICES`; a group that never
    changes gets 1. The std of the root's groups and of the contacts is then
    divided by `root_gain`, so that a model sees them `root_gain` times larger:
    1 is how HumanML3D's own `Std.npy` was made, 25 comes within a few percent
    of the pair that T2M-GPT's encoder was trained with.

    Args:
      motions: features [T, 263] of each clip; read once, one at a time.
      root_gain: how much louder the root and the contacts speak.

    Raises:
      ValueError: no frames at all, or one that is not finite.
    """
    count, total, squares = 0, np.zeros(NUM_FEATURES), np.zeros(NUM_FEATURES)
    for motion in motions:
      motion = np.asarray(motion, np.float64).reshape(-1, NUM_FEATURES)
      count += len(motion)
      total += motion.sum(axis=0)
      squares += np.square(motion).sum(axis=0)
    if not count or not np.isfinite(squares).all():
      raise ValueError(
        f'Statistics.of: expected finite features, found {count} frames with '
        f'{int((~np.isfinite(squares)).sum())} columns not finite; look for '
        'the clip that is empty or broken.'
      )
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    for name, columns in SLICES.items():
      spread = std[columns].mean()
      if spread < 1e-6:  # rounding leaves 1e-8 of a value that never changes
        spread = 1.0
      std[columns] = spread / (root_gain if name in _AMPLIFIED else 1.0)
    return cls(mean=mean, std=std)


def _checked(joints_TJ3: np.ndarray) -> np.ndarray:
  """The joints in float64, or a ValueError that says what is wrong."""
  joints_TJ3 = np.asarray(joints_TJ3, np.float64)
  shape = joints_TJ3.shape
  if len(shape) < 3 or shape[-2:] != (skeleton.NUM_JOINTS, 3):
    raise ValueError(
      f'Expected joints [T, {skeleton.NUM_JOINTS}, 3], found {list(shape)}; '
      'read the clip with vimonet_jax.motion.readers.'
    )
  if shape[-3] < MIN_FRAMES:
    raise ValueError(
      f'Expected at least {MIN_FRAMES} frames of joints, found {shape[-3]}; '
      'give a longer clip.'
    )
  is_bad_T = ~np.isfinite(joints_TJ3).all(axis=(-2, -1))
  if is_bad_T.any():
    raise ValueError(
      f'Expected finite joints, found NaN or infinity in {is_bad_T.sum()} of '
      f'{is_bad_T.size} frames; cut these frames or fill them in.'
    )
  return joints_TJ3


def _bones(joints_TJ3: np.ndarray) -> np.ndarray:
  """From each joint's parent to the joint; zero for the root."""
  parents = (0,) + skeleton.PARENTS[1:]
  return joints_TJ3 - joints_TJ3[..., parents, :]


def _across(joints_TJ3: np.ndarray, hip: int, other_hip: int) -> np.ndarray:
  """Unit vector from one side to the other, hips and shoulders together."""
  across_T3 = joints_TJ3[..., hip, :] - joints_TJ3[..., other_hip, :]
  across_T3 += (
    joints_TJ3[..., _RIGHT_SHOULDER, :] - joints_TJ3[..., _LEFT_SHOULDER, :]
  )
  norm = np.linalg.norm(across_T3, axis=-1, keepdims=True)
  return across_T3 / np.maximum(norm, 1e-12)


def _bearing(forward_T3: np.ndarray) -> np.ndarray:
  """Angle about y from +z to a direction, radians in [-pi, pi]."""
  return np.arctan2(forward_T3[..., 0], forward_T3[..., 2])


def _yaw(half_T: np.ndarray) -> np.ndarray:
  """Quaternion about y of twice the angle."""
  zero = np.zeros_like(half_T)
  return np.stack([np.cos(half_T), zero, np.sin(half_T), zero], axis=-1)


def _headings(joints_TJ3: np.ndarray) -> np.ndarray:
  """Half of the turn about y that brings each frame's heading to +z, [..., T].

  Three peculiarities that all published features share:
  - The reference unpacks its hips the wrong way round, so they pull against
    the shoulders: left hip minus right hip plus right minus left shoulder.
    (Its author keeps this: HumanML3D issues 107, 112, 119, 131.)
  - The direction is smoothed over some four seconds.
  - Frame 0 counts as facing +z whatever the smoothed direction says, which
    puts a jump into the first yaw rate.
  The angle lies in [-pi/2, pi/2]: it jumps by pi where the heading passes -z.
  """
  across_T3 = _across(joints_TJ3, _LEFT_HIP, _RIGHT_HIP)
  forward_T3 = ndimage.gaussian_filter1d(
    np.cross([0.0, 1.0, 0.0], across_T3),
    _HEADING_SIGMA_FRAMES,
    axis=-2,
    mode='nearest',
  )
  half_T = -0.5 * _bearing(forward_T3)
  half_T[..., 0] = 0.0
  return half_T


def _rotations(joints_TJ3: np.ndarray, half_T: np.ndarray) -> np.ndarray:
  """6D rotation of each bone relative to the one before it, [..., T, 22, 6].

  A bone's own rotation is the shortest arc from `skeleton.DIRECTIONS_J3`, so
  there is no twist in it and these are not SMPL's rotations. The first bone
  of every chain is told relative to the heading, also that of the arms, which
  start at spine3.
  """
  rotations_TJ4 = _shortest_arcs(_bones(joints_TJ3))
  rotations_TJ4[..., 0, :] = _yaw(half_T)
  before = np.zeros(skeleton.NUM_JOINTS, int)
  for chain in skeleton.CHAINS:
    before[list(chain[2:])] = chain[1:-1]
  local_TJ4 = skeleton.quat_multiply(
    skeleton.quat_inverse(rotations_TJ4[..., before, :]), rotations_TJ4
  )
  return skeleton.matrix_to_6d(skeleton.quat_to_matrix(local_TJ4))


def _shortest_arcs(bones_TJ3: np.ndarray) -> np.ndarray:
  """Turns of `skeleton.DIRECTIONS_J3` into bones; the root's is arbitrary."""
  with np.errstate(invalid='ignore'):
    arcs_TJ4 = skeleton.quat_between(skeleton.DIRECTIONS_J3, bones_TJ3)
  # A bone exactly opposite to its direction: the reference gives NaN, and any
  # half turn about an axis across the bone is as good as another.
  half_turns_J4 = np.pad(
    np.roll(skeleton.DIRECTIONS_J3, 1, axis=-1), ((0, 0), (1, 0))
  )
  return np.where(np.isnan(arcs_TJ4), half_turns_J4, arcs_TJ4)


def _flat(x_TJK: np.ndarray) -> np.ndarray:
  return x_TJK.reshape(x_TJK.shape[:-2] + (-1,))


def _running(steps_TK: np.ndarray) -> np.ndarray:
  """Sums of all steps before each of T + 1 frames, from zero."""
  sums_TK = np.cumsum(steps_TK, axis=-2)
  return np.concatenate([np.zeros_like(sums_TK[..., :1, :]), sums_TK], axis=-2)
