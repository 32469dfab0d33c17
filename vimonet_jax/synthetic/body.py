"""A body posed by controls: how the trunk bends, where feet and hands are.

A row of controls is easier to author than 22 joints, because a foot that does
not move is a number that does not change. `to_joints` turns rows into joints:
the trunk by forward kinematics, the four limbs by two-bone inverse kinematics.
Gaits and gestures write controls; `actions.py` joins them into clips.

Metres and degrees, y up, in the frame of an action: the pelvis starts above
the origin, the body faces +z, its left is at +x. Yaw is positive to the left,
pitch forward, roll to the left. A foot is the position of its toe, a yaw and a
pitch (positive: heel up, turning about the toe). An arm is the direction from
shoulder to wrist as the chest sees it, namely elevation (0 hanging, 90 level,
180 up) and azimuth (0 forward, 90 outward), its extension (1 straight) and the
elbow's swivel (positive outward).
"""

import dataclasses
import functools

import numpy as np

from vimonet_jax.motion import skeleton

# Columns of a row of controls.
NUM_CONTROLS = 31
PELVIS = slice(0, 3)  # x, y, z
TURN = slice(3, 6)  # pelvis yaw, pitch, roll
SPINE = slice(6, 9)  # yaw, pitch, roll of the chest relative to the pelvis
HEAD = slice(9, 11)  # yaw, pitch
X, Y, Z, YAW, PITCH, ROLL = range(6)
SPINE_YAW, SPINE_PITCH, SPINE_ROLL, HEAD_YAW, HEAD_PITCH = range(6, 11)
FEET = (slice(11, 16), slice(16, 21))  # left, right: x, y, z, yaw, pitch
ARMS = (slice(21, 25), slice(25, 29))  # elevation, azimuth, extension, swivel
SPLAY = slice(29, 31)  # knees outward, left and right

_MIRROR_ORDER = np.r_[0:11, 16:21, 11:16, 25:29, 21:25, 30, 29]
_MIRROR_SIGN = np.ones(NUM_CONTROLS)
_MIRROR_SIGN[[X, YAW, ROLL, SPINE_YAW, SPINE_ROLL, HEAD_YAW]] = -1
_MIRROR_SIGN[[11, 14, 16, 19]] = -1  # the feet's x and yaw

# The four limbs in the order left leg, right leg, left arm, right arm.
_UPPER_4 = skeleton.BONE_LENGTHS_J[[4, 5, 18, 19]]
_LOWER_4 = skeleton.BONE_LENGTHS_J[[7, 8, 20, 21]]
_FOOT_23 = skeleton.STANDING_OFFSETS_J3[[10, 11]]
_OUTWARD_2 = np.array([1.0, -1.0])
# A leg is never quite straight, so that a knee has a side to bend to.
_LEG_REACH = 0.997
_HAND_FLOOR_M = 0.03


@dataclasses.dataclass(frozen=True)
class Style:
  """How one person moves; one clip has one style.

  Attributes:
    tempo: durations are divided by it.
    vigour: large movements are scaled by it.
    swing: scales the arms' swing and the trunk's twist in gaits.
    half_stance_m: from the middle to an ankle.
    toe_out_deg: how far the toes point outward.
    lean_deg: how far the trunk leans forward at rest.
    slouch_m: how much lower than straight the pelvis is at rest.
    arms: elevation, azimuth and extension of the resting arms.
    asymmetry_deg: how differently the two arms rest and swing.
  """

  tempo: float = 1.0
  vigour: float = 1.0
  swing: float = 1.0
  half_stance_m: float = 0.09
  toe_out_deg: float = 6.0
  lean_deg: float = 2.0
  slouch_m: float = 0.01
  arms: tuple[float, float, float] = (6.0, 30.0, 0.98)
  asymmetry_deg: float = 0.0

  @classmethod
  def draw(cls, rng: np.random.Generator) -> 'Style':
    return cls(
      tempo=rng.uniform(0.9, 1.12),
      vigour=rng.uniform(0.88, 1.12),
      swing=rng.uniform(0.7, 1.3),
      half_stance_m=rng.uniform(0.075, 0.13),
      toe_out_deg=rng.uniform(0.0, 14.0),
      lean_deg=rng.uniform(-2.0, 7.0),
      slouch_m=rng.uniform(0.004, 0.016),
      arms=(rng.uniform(2, 14), rng.uniform(10, 50), rng.uniform(0.97, 0.995)),
      asymmetry_deg=rng.uniform(-5.0, 5.0),
    )

  @functools.cached_property
  def standing(self) -> np.ndarray:
    """Controls [31] of the person at rest; read only."""
    row = np.zeros(NUM_CONTROLS)
    row[Y] = 0.95 - self.slouch_m
    row[SPINE_PITCH] = self.lean_deg
    for side, outward in enumerate(_OUTWARD_2):
      foot = _FOOT_23[side]
      yaw = np.radians(self.toe_out_deg) * outward
      row[FEET[side]] = (
        outward * self.half_stance_m
        + foot[0] * np.cos(yaw)
        + foot[2] * np.sin(yaw),
        0.0,
        foot[2] * np.cos(yaw) - foot[0] * np.sin(yaw) - 0.01,
        outward * self.toe_out_deg,
        0.0,
      )
      row[ARMS[side]] = (*self.arms, 0.0)
      row[ARMS[side]][0] += 0.5 * outward * self.asymmetry_deg
    row.flags.writeable = False
    return row


def pose(
  standing: np.ndarray,
  *,
  pelvis: tuple[float, ...] = (),
  turn: tuple[float, ...] = (),
  spine: tuple[float, ...] = (),
  head: tuple[float, ...] = (),
  feet: tuple[float, ...] = (),
  left_foot: tuple[float, ...] = (),
  right_foot: tuple[float, ...] = (),
  arms: tuple[float, ...] = (),
  left_arm: tuple[float, ...] = (),
  right_arm: tuple[float, ...] = (),
  splay: float = 0.0,
) -> np.ndarray:
  """Controls [31] of a key pose, as differences to standing.

  Everything is added to the standing row, except arms, which replace it.
  Tuples may stop early. A foot's x and yaw are outward; `feet` and `arms`
  stand for both sides and come before a single side.
  """
  row = standing.tolist()
  for columns, change in (
    (PELVIS, pelvis),
    (TURN, turn),
    (SPINE, spine),
    (HEAD, head),
  ):
    for k, value in enumerate(change):
      row[columns.start + k] += value
  for side, foot in enumerate((left_foot or feet, right_foot or feet)):
    for k, value in enumerate(foot):
      outward = -1 if side == 1 and k in (0, 3) else 1
      row[FEET[side].start + k] += outward * value
  for side, arm in enumerate((left_arm or arms, right_arm or arms)):
    row[ARMS[side].start : ARMS[side].start + len(arm)] = arm
  row[SPLAY] = splay, splay
  return np.array(row)


def interpolate(frames: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Smooth controls through key poses, without overshoot.

  Piecewise cubic. A control that rises through a key keeps moving, one that
  turns round there stops. Slopes are harmonic means of the secants beside a
  key, at most twice either of them, which keeps every piece monotone (Fritsch
  and Carlson 1980).

  Args:
    frames: increasing frame numbers [K], the first is 0.
    rows: controls [K, 31] at those frames.

  Returns:
    controls [T, 31], T = the last frame number rounded down, plus one.
  """
  span = np.diff(frames)[:, None]
  secant = np.diff(rows, axis=0) / span
  before, after = secant[:-1], secant[1:]
  product = before * after
  total = before + after
  slope = np.zeros_like(rows)
  np.divide(2 * product, total, out=slope[1:-1], where=product > 0)
  t = np.arange(int(frames[-1]) + 1)
  k = np.clip(np.searchsorted(frames, t, side='right') - 1, 0, len(frames) - 2)
  u = (t - frames[k])[:, None] / span[k]
  v = 1 - u
  return (
    rows[k] * (1 + 2 * u) * v**2
    + slope[k] * span[k] * u * v**2
    + rows[k + 1] * (3 - 2 * u) * u**2
    - slope[k + 1] * span[k] * u**2 * v
  )


def mirror(controls: np.ndarray, standing: np.ndarray) -> np.ndarray:
  """Controls [T, 31] with left and right exchanged, by the same person.

  Nobody is quite symmetric: what a movement changes about `standing` [31]
  changes sides, the person at rest does not.
  """
  return standing + (controls - standing)[:, _MIRROR_ORDER] * _MIRROR_SIGN


def place(
  controls: np.ndarray, x: float, z: float, yaw_deg: float
) -> np.ndarray:
  """Controls [T, 31] turned about the vertical, then moved over the floor."""
  placed = controls.copy()
  c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
  for column in (PELVIS.start, *(foot.start for foot in FEET)):
    px, pz = controls[:, column], controls[:, column + 2]
    placed[:, column] = x + c * px + s * pz
    placed[:, column + 2] = z + c * pz - s * px
  for column in (TURN.start, *(foot.start + 3 for foot in FEET)):
    placed[:, column] += yaw_deg
  return placed


def _rotation(yaw, pitch, roll) -> np.ndarray:
  """Matrices [..., 3, 3]: roll to the left first, then pitch, then yaw."""
  cy, sy = np.cos(yaw), np.sin(yaw)
  cp, sp = np.cos(pitch), np.sin(pitch)
  cr, sr = np.cos(roll), -np.sin(roll)
  matrix = np.empty((*np.shape(yaw), 3, 3))
  matrix[..., 0, 0] = cy * cr + sy * sp * sr
  matrix[..., 0, 1] = sy * sp * cr - cy * sr
  matrix[..., 0, 2] = sy * cp
  matrix[..., 1, 0] = cp * sr
  matrix[..., 1, 1] = cp * cr
  matrix[..., 1, 2] = -sp
  matrix[..., 2, 0] = cy * sp * sr - sy * cr
  matrix[..., 2, 1] = sy * sr + cy * sp * cr
  matrix[..., 2, 2] = cy * cp
  return matrix


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """np.cross for last axes of 3, five times as fast on small arrays."""
  out = np.empty(np.broadcast_shapes(a.shape, b.shape))
  for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    out[..., i] = a[..., j] * b[..., k] - a[..., k] * b[..., j]
  return out


def _unit(v: np.ndarray) -> np.ndarray:
  return v / np.sqrt(np.maximum((v * v).sum(-1, keepdims=True), 1e-12))


def _lowered(
  height_T: np.ndarray, hips_T23: np.ndarray, ankles_T23: np.ndarray
) -> np.ndarray:
  """Pelvis heights at which both legs reach their ankles.

  Args:
    height_T: the wanted pelvis heights.
    hips_T23: hips; x and z absolute, y relative to the pelvis.
    ankles_T23: where the ankles have to be.

  Returns:
    heights [T], nowhere above the wanted ones, without kinks.
  """
  reach = _LEG_REACH * (_UPPER_4 + _LOWER_4)[:2]
  apart = ((hips_T23 - ankles_T23)[..., ::2] ** 2).sum(-1)
  highest = (
    ankles_T23[..., 1]
    + np.sqrt(np.maximum(reach**2 - apart, 0.0))
    - hips_T23[..., 1]
  ).min(-1)
  excess = np.maximum(height_T - highest, 0.0)
  excess = np.concatenate(
    [excess[:1], excess[:1], excess, excess[-1:], excess[-1:]]
  )
  # Widest of three, then the mean of three: smooth and never too little.
  widest = np.maximum(np.maximum(excess[:-2], excess[1:-1]), excess[2:])
  mean = (widest[:-2] + widest[1:-1] + widest[2:]) / 3
  return height_T - mean


def _bend(
  start: np.ndarray, end: np.ndarray, towards: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Middle and end joints [T, 4, 3] of the limbs that reach from start to end.

  Out of reach, a limb points at `end` and stays straight; too close, it folds
  as far as it can. The middle joint lies on the side of `towards` [T, 4, 3].
  """
  gap = end - start
  distance = np.sqrt((gap * gap).sum(-1))
  direction = gap / np.maximum(distance, 1e-9)[..., None]
  length = _UPPER_4 + _LOWER_4
  distance = np.clip(distance, 0.2 * length, 0.9995 * length)
  along = (_UPPER_4**2 + distance**2 - _LOWER_4**2) / (2 * distance)
  aside = np.sqrt(np.maximum(_UPPER_4**2 - along**2, 0.0))
  normal = _unit(
    towards - (towards * direction).sum(-1, keepdims=True) * direction
  )
  middle = start + along[..., None] * direction + aside[..., None] * normal
  return middle, start + distance[..., None] * direction


def to_joints(controls: np.ndarray) -> np.ndarray:
  """Joints [T, 22, 3] float32 in metres of controls [T, 31]."""
  offsets = skeleton.STANDING_OFFSETS_J3
  radians = np.radians(controls)
  frames = len(controls)

  # Three vertebrae share the bend of the spine.
  angles_T33 = np.zeros((frames, 3, 3))
  angles_T33[:, 0] = radians[:, TURN]
  angles_T33[:, 1] = radians[:, SPINE] / 3
  angles_T33[:, 2, :2] = radians[:, HEAD]
  pelvis, vertebra, skull = np.moveaxis(
    _rotation(*np.moveaxis(angles_T33, -1, 0)), 1, 0
  )
  lower = pelvis @ vertebra
  middle = lower @ vertebra
  chest = middle @ vertebra

  feet_T25 = np.stack([controls[:, columns] for columns in FEET], axis=1)
  facing = np.radians(feet_T25[..., 3:])
  soles_T23 = (
    _rotation(facing[..., 0], facing[..., 1], np.zeros_like(facing[..., 0]))
    @ _FOOT_23[..., None]
  )[..., 0]
  ankles_T23 = feet_T25[..., :3] - soles_T23

  root_T3 = controls[:, PELVIS].copy()
  hips_T23 = np.einsum('tij,sj->tsi', pelvis, offsets[[1, 2]])
  root_T3[:, 1] = _lowered(
    root_T3[:, 1], hips_T23 + root_T3[:, None] * [1, 0, 1], ankles_T23
  )

  joints = np.empty((frames, skeleton.NUM_JOINTS, 3))
  joints[:, 0] = root_T3
  joints[:, [1, 2]] = root_T3[:, None] + hips_T23
  joints[:, 3] = root_T3 + pelvis @ offsets[3]
  joints[:, 6] = joints[:, 3] + lower @ offsets[6]
  joints[:, 9] = joints[:, 6] + middle @ offsets[9]
  on_chest = np.einsum('tij,sj->tsi', chest, offsets[[12, 13, 14, 16, 17]])
  joints[:, 12:15] = joints[:, 9, None] + on_chest[:, :3]
  joints[:, 16:18] = joints[:, 13:15] + on_chest[:, 3:]
  joints[:, 15] = joints[:, 12] + (chest @ skull) @ offsets[15]

  # Knees bend in the plane of the hinge: the pelvis' left, turned by splay.
  splay = radians[:, SPLAY] * _OUTWARD_2
  hinges = np.cos(splay)[..., None] * pelvis[:, None, :, 0]
  hinges = hinges - np.sin(splay)[..., None] * pelvis[:, None, :, 2]
  knees_towards = _cross(ankles_T23 - joints[:, 1:3], hinges)

  arms_T24 = np.stack([radians[:, columns] for columns in ARMS], axis=1)
  ce, ca, _, cw = np.moveaxis(np.cos(arms_T24), -1, 0)
  se, sa, _, sw = np.moveaxis(np.sin(arms_T24), -1, 0)
  sa = sa * _OUTWARD_2
  pointing = np.stack([se * sa, -ce, se * ca], axis=-1)
  below = np.stack([-ce * sa, -se, -ce * ca], axis=-1)
  beside = _cross(pointing, below) * _OUTWARD_2[:, None]
  elbows_towards = cw[..., None] * below + sw[..., None] * beside
  turned = chest[:, None] @ np.stack([pointing, elbows_towards], axis=-1)
  extension_T2 = controls[:, [columns.start + 2 for columns in ARMS]]
  span = extension_T2 * (_UPPER_4 + _LOWER_4)[2:]
  wrists_T23 = joints[:, 16:18] + span[..., None] * turned[..., 0]
  wrists_T23[..., 1] = np.maximum(wrists_T23[..., 1], _HAND_FLOOR_M)

  middles, ends = _bend(
    joints[:, [1, 2, 16, 17]],
    np.concatenate([ankles_T23, wrists_T23], axis=1),
    np.concatenate([knees_towards, turned[..., 1]], axis=1),
  )
  joints[:, [4, 5, 18, 19]] = middles
  joints[:, [7, 8, 20, 21]] = ends
  joints[:, 10:12] = ends[:, :2] + soles_T23
  return joints.astype(np.float32)
