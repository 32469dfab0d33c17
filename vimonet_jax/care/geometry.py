"""What can be measured on joints, from one window of a recording to the next.

Nothing here knows a model. Heights are above the lowest point that the body has
touched lately, so a camera may stand anywhere; where somebody climbs stairs
they are wrong until that was long enough ago.
"""

import collections
from typing import NamedTuple

import numpy as np

from vimonet_jax.data import records, windows

# A floor is remembered so long, and somebody's path.
_FLOOR_S = 600.0
_PATH_S = 60.0
# Who sits on a chair has the pelvis between these, who lies on the floor below.
_SEAT_M = (0.33, 0.68)
_DROP_S, _SETTLED_S = 0.3, 0.7
_LYING_M, _STILL_M_S, _MOVING_M_S = 0.33, 0.12, 0.1
_LONG_S = 15.0
# Whoever was not seen for so long may have got up meanwhile.
_UNSEEN_S = 10.0


class _Before(NamedTuple):
  """What is remembered of a window."""

  end_s: float
  floor_m: float
  places_T2: np.ndarray
  is_moving_T: np.ndarray


class Geometry:
  """Measures windows in order of time, and remembers a minute of the path.

  Attributes:
    lying_s: how long somebody has been lying still at the end of the last one.
    down_s: how long they have been down, whether they moved there or not.
  """

  def __init__(self):
    self.lying_s = self.down_s = 0.0
    self._before: collections.deque[_Before] = collections.deque()
    self._now_s = 0.0
    self._lying_since_s: float | None = None
    self._down_since_s: float | None = None

  def measure(self, window: windows.Window) -> dict[str, float]:
    """Name -> value.

    speed              m/s, of all joints on average; who is still has little
    hard seat          m/s, the fastest drop that ends at the height of a seat
    drop to the floor  m/s, the fastest one that ends below
    lying still        0 to 1, of lying without moving for 15 s
    to and fro         0 to 1: without rest for a minute, and to nowhere
    """
    joints = window.joints
    if window.start_s > self._now_s + _UNSEEN_S:
      self._down_since_s = self._lying_since_s = None
    new = max(2, round((window.end_s - self._now_s) * records.FPS) + 1)
    self._now_s = window.end_s
    speed_T = np.linalg.norm(np.diff(joints, axis=0), axis=-1).mean(-1)
    speed_T = _smooth(speed_T * records.FPS)
    self._before.append(
      _Before(
        window.end_s,
        float(joints[..., 1].min()),
        joints[-new:, 0, ::2],
        speed_T[-new:] > _MOVING_M_S,
      )
    )
    while self._before[0].end_s < window.end_s - _FLOOR_S:
      self._before.popleft()
    height_T = joints[:, 0, 1] - min(x.floor_m for x in self._before)
    seat, floor = _drops(height_T)
    is_up_T = height_T[1:] > _LYING_M
    is_awake_T = is_up_T | (speed_T > _STILL_M_S)
    self._down_since_s = _since_s(window, is_up_T, self._down_since_s)
    self._lying_since_s = _since_s(window, is_awake_T, self._lying_since_s)
    self.down_s, self.lying_s = (
      0.0 if since_s is None else window.end_s - since_s
      for since_s in (self._down_since_s, self._lying_since_s)
    )
    return {
      'speed': float(speed_T.mean()),
      'hard seat': seat,
      'drop to the floor': floor,
      'lying still': min(self.lying_s / _LONG_S, 1.0),
      'to and fro': self._to_and_fro(window.end_s),
    }

  def _to_and_fro(self, now_s: float) -> float:
    minute = [x for x in self._before if x.end_s > now_s - _PATH_S]
    is_moving_T = np.concatenate([x.is_moving_T for x in minute])
    places_T2 = np.concatenate([x.places_T2 for x in minute])
    # Half a second at a time: who sways on the spot walks nowhere.
    steps_T2 = np.diff(places_T2[:: records.FPS // 2], axis=0)
    walked_m = np.linalg.norm(steps_T2, axis=-1).sum()
    if not walked_m:
      return 0.0
    apart_m = np.linalg.norm(places_T2[-1] - places_T2[0])
    share = is_moving_T.sum() / (_PATH_S * records.FPS)
    return float(share * (1 - apart_m / walked_m))


def _since_s(
  window: windows.Window, is_over_T: np.ndarray, since_s: float | None
) -> float | None:
  """Since when something has gone on that frames end; None where it does not.

  Args:
    since_s: the same for the window before.
  """
  if is_over_T.all():
    return None
  if is_over_T.any():
    last = len(is_over_T) - int(is_over_T[::-1].argmax())
    return window.start_s + last / records.FPS
  return window.start_s if since_s is None else since_s


def _drops(height_T: np.ndarray) -> tuple[float, float]:
  """Of the fastest drop, m/s: if it ends on a seat, and if on the floor."""
  frames = round(_DROP_S * records.FPS)
  settled = round(_SETTLED_S * records.FPS)
  if len(height_T) <= frames + settled:
    return 0.0, 0.0
  drop_T = (height_T[:-frames] - height_T[frames:]) / _DROP_S
  drop_T = drop_T[: len(height_T) - frames - settled]
  after_T = height_T[frames + settled :][: len(drop_T)]
  is_seat_T = (after_T > _SEAT_M[0]) & (after_T < _SEAT_M[1])
  is_floor_T = after_T <= _SEAT_M[0]
  seat, floor = (
    float(np.max(drop_T, where=is_there, initial=0.0))
    for is_there in (is_seat_T, is_floor_T)
  )
  return seat, floor


def _smooth(values_T: np.ndarray) -> np.ndarray:
  """Means over half a second."""
  width = records.FPS // 2
  padded = np.pad(values_T, (width // 2, width - 1 - width // 2), mode='edge')
  return np.convolve(padded, np.full(width, 1 / width), 'valid')
