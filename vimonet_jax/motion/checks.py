"""What is odd about a motion that could be read: its likely cause, what to do.

`readers.read` refuses what can be no motion of a body. Here is what it can be
and most likely should not: joints are looked at with what bodies do. Each limit
stands with where it comes from. "Real" are 270 clips: 245 cuts of CMU's motion
capture and its raw trials, HumanML3D's, BABEL's and retargeted ones, and none
of them is found odd.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from vimonet_jax.motion import readers, skeleton

# Thigh and shank are 0.245 and 0.246 of what somebody measures from sole to
# crown (Drillis and Contini 1966; Winter, Biomechanics, figure 4.1).
_LEG_PER_HEIGHT = 0.491
# From the smallest adults to the tallest; real: 1.52 to 1.99 m.
_HEIGHT_M = (1.2, 2.3)
# Feet to neck, share along an axis. Who stands for half of the time is above
# 0.74 along y in all real clips, and above 0.9 for a tenth of it.
_STANDS, _EVER_STANDS = 0.9, 0.5
# The least that any joint of any real clip moves is 14 mm, in 1.1 s; quiet
# standing sways by about as much. 15 mm is also the least a real pelvis does.
_STILL_M = 0.005
_MOVES_M = 0.1
# Real floors are at -0.07 to 0.14; an AMASS body has its pelvis where `trans`
# is, which adds some 0.25.
_FLOOR_M = 0.5
# How far the lowest joint may be below where it is in 95% of the frames; real:
# 0.09, somebody who jumps.
_DIP_M = 0.2
# The world record over 100 m is an average of 10.4 m/s. Real pelvises stay
# below 5.3 in 95% of the frames, wrists and ankles about them below 7.4.
_SPEED_M_S = 10.0
# Ten times gravity on the fastest joint, half of the time; real: 55 at most.
# What is played six times too fast is above it in 94% of the clips that move.
_ACCELERATION_M_S2 = 100.0
# Of the pelvis, beyond its steps just before and after; real: 0.1 at most.
_JUMP_M = 0.3
_JUMP_WINDOW_FRAMES = 7
# A foot on the floor stays while the pelvis passes, so steps tell a path. The
# one that there is is 0.56 to 1.3 times as long and turned by 8 degrees at most
# in 4 of 10 real clips in which the two go together this closely.
_CLOSENESS = 0.7
_PATH_PER_STEPS = (0.45, 2.2)
_PATH_TURN_DEG = 45.0
_MOVING_M_S = 0.5
_STANCE_M = 0.25
_FEW_FRAMES = 10

_LEGS = [skeleton.CHAINS[1][1:4], skeleton.CHAINS[0][1:4]]
_FEET = [[skeleton.INDEX[f'{side}_{part}'] for part in ('ankle', 'foot')]
         for side in ('left', 'right')]  # fmt: skip
_ENDS = [skeleton.INDEX[f'{side}_{part}'] for side in ('left', 'right')
         for part in ('wrist', 'ankle')]  # fmt: skip
_NECK = skeleton.INDEX['neck']


class Finding(NamedTuple):
  """Something odd.

  Attributes:
    kind: one of `KINDS`.
    sentence: expected, found, what to do.
  """

  kind: str
  sentence: str


def find(joints_TJ3: np.ndarray) -> list[Finding]:
  """What is odd about a motion as `readers.read` gives it.

  Args:
    joints_TJ3: [T, 22, 3] at 20 fps, metres, y up; 20 frames or more.
  """
  joints_TJ3 = np.asarray(joints_TJ3, np.float64)
  found = []
  for kind, check in KINDS.items():
    if sentence := check(joints_TJ3):
      found.append(Finding(kind, sentence))
      if kind in _DECISIVE:
        break
  return found


def height_m(joints_TJ3: np.ndarray) -> float:
  """From sole to crown of somebody with legs of this length, metres."""
  bones = np.diff(joints_TJ3[:, _LEGS], axis=2)
  legs = np.linalg.norm(bones, axis=-1).sum(axis=-1)
  return float(np.median(legs)) / _LEG_PER_HEIGHT


def _still(joints_TJ3: np.ndarray) -> str:
  moved_m = np.ptp(joints_TJ3, axis=0).max()
  if moved_m > _STILL_M:
    return ''
  return (
    f'Expected somebody who moves, found {1000 * moved_m:.2g} mm in all of the '
    'clip, as of a rest pose whose animation was left out; export the file '
    'again, with its motion.'
  )


def _axes(joints_TJ3: np.ndarray) -> str:
  feet = joints_TJ3[:, sum(_FEET, [])].mean(axis=1)
  body = joints_TJ3[:, _NECK] - feet
  body /= np.linalg.norm(body, axis=-1, keepdims=True)
  upright = np.median(body, axis=0)
  axis = int(np.abs(upright).argmax())
  stands = abs(upright[axis]) > _STANDS and (axis != 1 or upright[1] < 0)
  if not stands or np.percentile(body[:, 1], 90) > _EVER_STANDS:
    return ''
  sign = '-' if upright[axis] < 0 else ''
  return (
    'Expected somebody who stands along y at some time, found a body along '
    f'{sign}{"xyz"[axis]} throughout, as of data that have {"xyz"[axis]} up '
    'and were read as y up; unless the person does lie, '
    + (
      'negate y and one other axis.'
      if axis == 1
      else f'read the joints with --up={"xyz"[axis]}.'
    )
  )


def _mirrored(joints_TJ3: np.ndarray) -> str:
  if not readers.is_mirrored(joints_TJ3):
    return ''
  return (
    'Expected feet that point forward, found them pointing backward, as where '
    'left and right are exchanged; make the file again from joints of which '
    'one axis is negated, or left and right joints change places.'
  )


def _size(joints_TJ3: np.ndarray) -> str:
  height = height_m(joints_TJ3)
  if _HEIGHT_M[0] < height < _HEIGHT_M[1]:
    return ''
  return (
    f'Expected somebody of {_HEIGHT_M[0]} to {_HEIGHT_M[1]} m, found legs of '
    f'one of {height:.2g} m, as of a length in another unit; pass the right '
    '--unit, unless this is a child or a giant.'
  )


def _place(joints_TJ3: np.ndarray) -> str:
  path_m = np.ptp(joints_TJ3[:, 0, [0, 2]], axis=0).max()
  body_m = np.ptp(joints_TJ3 - joints_TJ3[:, :1], axis=0).max()
  if path_m > _STILL_M or body_m < _MOVES_M:
    return ''
  return (
    f'Expected a pelvis that moves with the body, found it within '
    f'{1000 * path_m:.2g} mm of one place, as of joints that were saved '
    'relative to it or of an animation made "in place"; save where the pelvis '
    'is, too.'
  )


def _path(joints_TJ3: np.ndarray) -> str:
  # Positions on the floor as complex numbers: a factor is a length and a turn.
  floor_TJ = joints_TJ3[..., 0] + 1j * joints_TJ3[..., 2]
  steps_T = np.diff(floor_TJ[:, 0]) * readers.FPS
  feet_TF = floor_TJ[:, _FEET].mean(axis=-1)
  height_TF = joints_TJ3[:, _FEET, 1].mean(axis=-1)
  height_TF = (height_TF[1:] + height_TF[:-1]) / 2
  is_lower_TF = height_TF == height_TF.min(axis=1, keepdims=True)
  about_TF = np.diff(feet_TF - floor_TJ[:, :1], axis=0) * readers.FPS
  # Where a pelvis would go if the lower foot stayed.
  pushed_T = -np.where(is_lower_TF, about_TF, 0).sum(axis=1)
  counts_T = np.maximum(abs(steps_T), abs(pushed_T)) > _MOVING_M_S
  floor_m = joints_TJ3[..., 1].min()
  counts_T &= height_TF.min(axis=1) < floor_m + _STANCE_M
  steps_T, pushed_T = steps_T[counts_T], pushed_T[counts_T]
  sizes = np.linalg.norm(steps_T), np.linalg.norm(pushed_T)
  if counts_T.sum() < _FEW_FRAMES or not all(sizes):
    return ''
  together = np.vdot(pushed_T, steps_T)  # of the first, the conjugate
  if abs(together) < _CLOSENESS * sizes[0] * sizes[1]:
    return ''
  longer = abs(together) / sizes[1] ** 2
  turn_deg = abs(np.degrees(np.angle(together)))
  if turn_deg > _PATH_TURN_DEG:
    return (
      'Expected a path along the steps, found one turned from them by '
      f'{turn_deg:.0f} degrees on sliding feet, as where the path and the body '
      'have different axes; negate or exchange x and z of one of the two.'
    )
  if _PATH_PER_STEPS[0] < longer < _PATH_PER_STEPS[1]:
    return ''
  return (
    f'Expected a path as long as the steps, found it {longer:.2g} times as '
    'long on sliding feet, as of a path in another unit than the body; bring '
    'both to the same one.'
  )


def _speed(joints_TJ3: np.ndarray) -> str:
  steps_TJ3 = np.diff(joints_TJ3, axis=0) * readers.FPS
  about_TJ3 = steps_TJ3[:, _ENDS] - steps_TJ3[:, :1]
  forces_TJ3 = np.diff(steps_TJ3, axis=0) * readers.FPS
  pelvis, limbs, force = (
    np.linalg.norm(x, axis=-1).max(axis=1)
    for x in (steps_TJ3[:, :1], about_TJ3, forces_TJ3)
  )
  found = {
    'a pelvis at {:.3g} m/s': (np.percentile(pelvis, 95), _SPEED_M_S),
    'limbs at {:.3g} m/s about it': (np.percentile(limbs, 95), _SPEED_M_S),
    'joints pushed with {:.3g} m/s^2 half of the time': (
      np.median(force), _ACCELERATION_M_S2,
    ),
  }  # fmt: skip
  for what, (value, limit) in found.items():
    if value > limit:
      return (
        f'Expected joints no faster than those of a sprinter, found '
        f'{what.format(value)} where {limit:g} would be much, as of a wrong '
        'frame rate or of joints that tremble; pass the --fps that the file '
        'was recorded with, or smooth it.'
      )
  return ''


def _jump(joints_TJ3: np.ndarray) -> str:
  steps_T3 = np.diff(joints_TJ3[:, 0], axis=0)
  usual_T3 = ndimage.median_filter(
    steps_T3, (_JUMP_WINDOW_FRAMES, 1), mode='nearest'
  )
  beyond_T = np.linalg.norm(steps_T3 - usual_T3, axis=-1)
  jumps = np.flatnonzero(beyond_T > _JUMP_M)
  if not len(jumps):
    return ''
  first = jumps[0]
  return (
    'Expected a pelvis without jumps, found '
    f'{"one" if len(jumps) == 1 else len(jumps)}, the first of '
    f'{beyond_T[first]:.2g} m within {1 / readers.FPS:g} s at '
    f'{first / readers.FPS:.2f} s, as where two takes are joined or tracking '
    'was lost; cut the file there.'
  )


def _floor(joints_TJ3: np.ndarray) -> str:
  lowest_T = joints_TJ3[..., 1].min(axis=1)
  floor_m = lowest_T.min()
  dip_m = np.percentile(lowest_T, 5) - floor_m
  if dip_m > _DIP_M:
    frame = int(lowest_T.argmin())
    joint = skeleton.NAMES[joints_TJ3[frame, :, 1].argmin()]
    return (
      f'Expected feet on one floor, found {joint} {dip_m:.1g} m below it at '
      f'{frame / readers.FPS:.2f} s, where features then put the floor, so '
      'that the feet are in the air at all other times; mend or cut that '
      'moment.'
    )
  if abs(floor_m) > _FLOOR_M:
    where = 'above' if floor_m > 0 else 'below'
    return (
      f'Expected a floor at y = 0, found the lowest joint {abs(floor_m):.2g} m '
      f'{where} it, as of an origin at another height; features put the lowest '
      'joint upon the floor, so go on if the person stands there.'
    )
  return ''


# In this order: what comes first may well be the cause of what follows, and
# what is decisive leaves nothing to be looked at.
KINDS = {
  'still': _still,
  'axes': _axes,
  'mirrored': _mirrored,
  'size': _size,
  'in place': _place,
  'path': _path,
  'speed': _speed,
  'jump': _jump,
  'floor': _floor,
}
_DECISIVE = ('still', 'axes', 'speed')
