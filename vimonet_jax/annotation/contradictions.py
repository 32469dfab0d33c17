"""What a motion contradicts in what is said of it: sides and directions.

Models and people that look at somebody confuse left and right. A motion knows:
`measure` finds how much each side of the body does more than the other, how far
it turns and where it goes as seen from where it faces; `find` compares a text
with that. It speaks up only where the motion clearly shows the opposite of what
is said, and nothing of what is said.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from vimonet_jax.annotation import claims
from vimonet_jax.motion import skeleton

FPS = 20


class Amount(NamedTuple):
  """How much of something there is, and where there is most of it.

  Attributes:
    value: metres, or degrees of turns.
    start: first frame.
    stop: the frame after the last.
  """

  value: float
  start: int
  stop: int


# Kind of claim -> what can be said -> how much of it the motion shows.
Evidence = Mapping[str, Mapping[str, Amount]]


class _Limits(NamedTuple):
  """What counts as shown.

  Attributes:
    clear: from this amount on the opposite is clear.
    none: up to this amount what is claimed is not there,
    share: nor up to this share of the opposite.
    unit: of both.
    what: the motion does.
  """

  clear: float
  none: float
  share: float
  unit: str
  what: str


# Beside an arm that throws, the other one moves 0.1 m alone; beside a leg that
# kicks, the other moves a fifth of what that does.
_LIMITS = {
  'arm': _Limits(0.4, 0.15, 0.0, 'm', 'moves the {} arm alone'),
  'leg': _Limits(0.4, 0.12, 0.25, 'm', 'moves the {} leg alone'),
  'stance': _Limits(1.0, 0.4, 0.0, 's', 'stands on the {} foot alone'),
  'turn': _Limits(35.0, 12.0, 0.0, 'degrees', 'turns to the {}'),
  'side': _Limits(0.5, 0.1, 0.0, 'm', 'goes to the {}'),
  'way': _Limits(0.4, 0.15, 0.0, 'm', 'goes {}'),
  'fall': _Limits(0.3, 0.1, 0.0, 'm', 'falls {}'),
}
# A limb moves alone as far as it moves more than this many times the other.
_ALONE = 1.5
_SMOOTH_FRAMES = 2.0
_HEADING_FRAMES = 4.0
_TRAVEL_FRAMES = 5.0
# Where the trunk is this upright, a body has a heading.
_UPRIGHT = 0.7
# Who is about to fall leans no more than this.
_STRAIGHT = 0.95
# A foot this far above the other is off the floor.
_LIFTED_M = 0.08

_PELVIS, _NECK = skeleton.INDEX['pelvis'], skeleton.INDEX['neck']
_SIDES = ('left', 'right')


def find(text: str, evidence: Evidence) -> list[str]:
  """Sentences on what the motion contradicts in a text; mostly none."""
  return compare(claims.read(text), evidence)


def find_in_turn(question: str, answer: str, evidence: Evidence) -> list[str]:
  """The same of an answer, which may need its question to be understood."""
  return compare(claims.read_turn(question, answer), evidence)


def compare(said: Sequence[claims.Claim], evidence: Evidence) -> list[str]:
  """Claims against a motion.

  Of one kind, either all claims say the same, and then the motion must not show
  the opposite alone; or they say one thing and then the other, and then it must
  not show them the other way round.
  """
  found = []
  for kind, limits in _LIMITS.items():
    mine = [claim for claim in said if claim.kind == kind]
    values = [x for x, y in zip(mine, [None, *mine], strict=False)
              if y is None or x.value != y.value]  # fmt: skip
    if not values or kind not in evidence:
      continue
    shown = evidence[kind]
    claimed, other = shown[values[0].value], shown[_opposite(values[0].value)]
    named = limits.what.format(_opposite(values[0].value))
    if len(values) == 1:
      least = max(limits.none, limits.share * other.value)
      if other.value >= limits.clear and claimed.value <= least:
        found.append(
          f'Expected a motion as in {values[0].words!r}, found one that '
          f'{named} ({other.value:.2g} {limits.unit}) and not otherwise '
          f'({claimed.value:.2g} {limits.unit}).'
        )
    elif len(values) == 2 and mine[0].is_ordered and mine[-1].is_ordered:
      is_clear = min(claimed.value, other.value) >= limits.clear
      if is_clear and other.stop <= claimed.start:
        found.append(
          f'Expected a motion as in {values[0].words!r} and then '
          f'{values[1].words!r}, found one that first {named} and later '
          'otherwise.'
        )
  return found


# --- The motion --------------------------------------------------------------


def measure(joints_TJ3: np.ndarray) -> Evidence:
  """How much a motion shows of what can be claimed.

  Args:
    joints_TJ3: [T, 22, 3] at 20 fps, metres, y up.
  """
  joints_TJ3 = np.asarray(joints_TJ3, np.float64)
  heading_T, is_upright_T = _heading(joints_TJ3)
  ahead_T, aside_T = _travel(joints_TJ3, heading_T, is_upright_T)
  lift_T = joints_TJ3[:, _foot('left'), 1] - joints_TJ3[:, _foot('right'), 1]
  turn_T = np.degrees(np.diff(heading_T, prepend=heading_T[0]))
  return {
    'arm': _alone(_limb_speed(joints_TJ3, 'shoulder', 'wrist')),
    'leg': _alone(_limb_speed(joints_TJ3, 'hip', 'ankle')),
    'stance': {
      # Who stands on the left foot has the right one up.
      'left': _most(np.where(lift_T < -_LIFTED_M, 1, -1) / FPS),
      'right': _most(np.where(lift_T > _LIFTED_M, 1, -1) / FPS),
    },
    'turn': {'left': _most(turn_T), 'right': _most(-turn_T)},
    'side': {
      'left': _most(aside_T - np.abs(ahead_T)),
      'right': _most(-aside_T - np.abs(ahead_T)),
    },
    'way': {
      'forward': _most(ahead_T - np.abs(aside_T)),
      'backward': _most(-ahead_T - np.abs(aside_T)),
    },
    'fall': _fall(joints_TJ3, heading_T),
  }


def _most(steps_T: np.ndarray) -> Amount:
  """The largest sum of consecutive steps (Kadane), and where it is."""
  best, total, start = Amount(0.0, 0, 0), 0.0, 0
  for t, step in enumerate(steps_T):
    if total <= 0:
      total, start = 0.0, t
    total += step
    if total > best.value:
      best = Amount(float(total), start, t + 1)
  return best


def _alone(speed_ST: np.ndarray) -> dict[str, Amount]:
  """How far each of two limbs moves beyond what the other does meanwhile."""
  left_T, right_T = speed_ST
  return {
    'left': _most(left_T - _ALONE * right_T),
    'right': _most(right_T - _ALONE * left_T),
  }


def _limb_speed(joints_TJ3: np.ndarray, near: str, far: str) -> np.ndarray:
  """Metres a frame [2, T] that a limb's end moves, as the trunk sees it."""
  trunk_T33 = _trunk(joints_TJ3)
  speeds = []
  for side in _SIDES:
    limb_T3 = (
      joints_TJ3[:, skeleton.INDEX[f'{side}_{far}']]
      - joints_TJ3[:, skeleton.INDEX[f'{side}_{near}']]
    )
    seen_T3 = np.einsum('tij,tj->ti', trunk_T33, limb_T3)
    seen_T3 = ndimage.gaussian_filter1d(
      seen_T3, _SMOOTH_FRAMES, axis=0, mode='nearest'
    )
    steps_T3 = np.diff(seen_T3, axis=0, prepend=seen_T3[:1])
    speeds.append(np.linalg.norm(steps_T3, axis=-1))
  return np.stack(speeds)


def _trunk(joints_TJ3: np.ndarray) -> np.ndarray:
  """Rows: the trunk's left, up and forward, [T, 3, 3]."""
  up_T3 = _unit(joints_TJ3[:, _NECK] - joints_TJ3[:, _PELVIS])
  left_T3 = _leftward(joints_TJ3)
  left_T3 = _unit(left_T3 - (left_T3 * up_T3).sum(-1, keepdims=True) * up_T3)
  return np.stack([left_T3, up_T3, np.cross(left_T3, up_T3)], axis=1)


def _heading(joints_TJ3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Radians about y, left is more, and whether the body stands, [T] each.

  Who bends or lies has no heading, and keeps the one from before.
  """
  up_T3 = _unit(joints_TJ3[:, _NECK] - joints_TJ3[:, _PELVIS])
  is_upright_T = up_T3[:, 1] > _UPRIGHT
  forward_T3 = np.cross(_leftward(joints_TJ3), [0.0, 1.0, 0.0])
  forward_T3 = ndimage.gaussian_filter1d(
    forward_T3, _HEADING_FRAMES, axis=0, mode='nearest'
  )
  heading_T = np.unwrap(np.arctan2(forward_T3[:, 0], forward_T3[:, 2]))
  steps_T = np.diff(heading_T, prepend=heading_T[0])
  return heading_T[0] + np.cumsum(np.where(is_upright_T, steps_T, 0.0)), (
    is_upright_T
  )


def _travel(
  joints_TJ3: np.ndarray, heading_T: np.ndarray, is_upright_T: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Metres a frame that the pelvis goes ahead and to its left, [T] each."""
  path_T3 = ndimage.gaussian_filter1d(
    joints_TJ3[:, _PELVIS], _TRAVEL_FRAMES, axis=0, mode='nearest'
  )
  step_T3 = np.diff(path_T3, axis=0, prepend=path_T3[:1])
  step_T3 = step_T3 * is_upright_T[:, None]
  sine_T, cosine_T = np.sin(heading_T), np.cos(heading_T)
  ahead_T = step_T3[:, 0] * sine_T + step_T3[:, 2] * cosine_T
  aside_T = step_T3[:, 0] * cosine_T - step_T3[:, 2] * sine_T
  return ahead_T, aside_T


def _fall(joints_TJ3: np.ndarray, heading_T: np.ndarray) -> dict[str, Amount]:
  """Where the neck comes to lie, as seen by who still stands.

  Nothing where nobody falls, or where two directions are as good.
  """
  end = len(joints_TJ3)
  up_T = _unit(joints_TJ3[:, _NECK] - joints_TJ3[:, _PELVIS])[:, 1]
  start = int(np.flatnonzero(up_T > _STRAIGHT).max(initial=-1)) + 1
  found = {value: Amount(0.0, start, end) for value in claims.OPPOSITES}
  if start == 0 or up_T[-1] > _UPRIGHT:
    return found
  x, _, z = joints_TJ3[-1, _NECK] - joints_TJ3[start - 1, _NECK]
  sine, cosine = np.sin(heading_T[start]), np.cos(heading_T[start])
  ahead, aside = x * sine + z * cosine, x * cosine - z * sine
  # Beyond what the other axis has.
  for value, along, across in (
    ('forward', ahead, aside),
    ('backward', -ahead, aside),
    ('left', aside, ahead),
    ('right', -aside, ahead),
  ):
    found[value] = Amount(max(0.0, float(along - abs(across))), start, end)
  return found


def _leftward(joints_TJ3: np.ndarray) -> np.ndarray:
  """From the right hip and shoulder to the left ones, [T, 3]."""
  return sum(
    _unit(
      joints_TJ3[:, skeleton.INDEX[f'left_{part}']]
      - joints_TJ3[:, skeleton.INDEX[f'right_{part}']]
    )
    for part in ('hip', 'shoulder')
  )


def _foot(side: str) -> int:
  return skeleton.INDEX[f'{side}_ankle']


def _unit(x_T3: np.ndarray) -> np.ndarray:
  norm_T1 = np.linalg.norm(x_T3, axis=-1, keepdims=True)
  return x_T3 / np.maximum(norm_T1, 1e-9)


def _opposite(value: str) -> str:
  return claims.OPPOSITES[value]
