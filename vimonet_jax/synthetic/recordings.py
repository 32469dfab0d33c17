"""Long recordings of one person at home; now and then something happens.

    walk turn reach | sit ......... rise | walk  FALL  lie ..... get up | walk
    ordinary life    ordinary             event  event    ordinary

A recording is a stream without an end, made piece by piece, so that days of it
need no memory. It is a pure function of (seed, split, how often what happens):
thresholds are fitted on recordings of `val`, and what is told about them comes
from `test`. Clips that a model is trained on (`world.py`) share the verbs, and
neither the draws nor what is between the verbs: long rests, standing about, a
room with walls.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vimonet_jax.motion import skeleton
from vimonet_jax.synthetic import actions, body, mishaps

SPLITS = ('val', 'test')
# Lying still is no draw of its own: it follows falls.
KINDS = (
  'fall', 'stumble', 'lying still', 'sitting down hard', 'limping',
  'wandering',
)  # fmt: skip
# Of what begins by itself, events an hour; a stranger to care homes would have
# to wait for weeks.
OFTEN = dict.fromkeys(
  ('fall', 'stumble', 'sitting down hard', 'limping', 'wandering'), 3.0
)
_LYING_STILL_SHARE = 0.6  # of falls
_LYING_STILL_S = (15.0, 60.0)
_DAZED_S = (1.0, 4.0)
_WANDERING_S = (70.0, 150.0)
# What ordinary life is made of, how often and how long (seconds).
_STANDING_S = (2.0, 25.0)
_SITTING_S = (20.0, 240.0)
_RESTING_S = (30.0, 300.0)
_ORDINARY = {
  'go': 6, 'stand': 5, 'sit': 2, 'rest': 0.7, 'reach': 3, 'bend': 1.5,
  'raise': 1, 'wave': 0.7, 'push': 0.7, 'squat': 0.7, 'turn': 1.5,
}  # fmt: skip
# The walls, metres from the middle of the room, and pieces of standing about.
_ROOM_M = (4.0, 3.0)
_HOLD_FRAMES = 200
_TRIES = 6


class Event(NamedTuple):
  """Something that happens; `kind` of KINDS, seconds of the recording."""

  kind: str
  start_s: float
  end_s: float


class Piece(NamedTuple):
  """Some seconds of a recording.

  Attributes:
    joints: float32 [T, 22, 3] metres, y up, floor at y = 0, 20 fps.
    events: that end in it.
    doing: what the person does, for people who look at it.
  """

  joints: np.ndarray
  events: tuple[Event, ...]
  doing: str


def pieces(
  seed: int, split: str, *, per_hour: dict[str, float] | None = None
) -> Iterator[Piece]:
  """A recording without an end.

  Args:
    seed: another seed is another person with another life.
    split: 'val' or 'test'.
    per_hour: how often each kind of `OFTEN` happens; what is left out does not.

  Raises:
    ValueError: no such split or kind.
  """
  if split not in SPLITS:
    raise ValueError(
      f'Expected a split of {", ".join(SPLITS)}, found {split!r}.'
    )
  per_hour = OFTEN if per_hour is None else per_hour
  if unknown := set(per_hour) - set(OFTEN):
    raise ValueError(
      f'Expected how often {", ".join(OFTEN)} happen, found '
      f'{", ".join(sorted(unknown))}; lying still follows falls.'
    )
  return _Life(seed, split, per_hour).live()


def take(
  stream: Iterator[Piece], seconds: float
) -> tuple[np.ndarray, list[Event]]:
  """The first seconds of a recording: joints [T, 22, 3], and its events."""
  some = list(cut(stream, seconds))
  events = [event for piece in some for event in piece.events]
  return np.concatenate([piece.joints for piece in some]), events


def write(
  path: str | os.PathLike, stream: Iterator[Piece], seconds: float
) -> list[Event]:
  """Writes joints [T, 22, 3] as .npy, in pieces; returns the events."""
  joints_TJ3 = np.lib.format.open_memmap(
    path, 'w+', np.float32, (_frames(seconds), skeleton.NUM_JOINTS, 3)
  )
  events, start = [], 0
  for piece in cut(stream, seconds):
    end = start + len(piece.joints)
    joints_TJ3[start:end] = piece.joints
    events += piece.events
    start = end
  joints_TJ3.flush()
  return events


def _frames(seconds: float) -> int:
  return round(seconds * actions.FPS)


def cut(stream: Iterator[Piece], seconds: float) -> Iterator[Piece]:
  """The first pieces, which last so long together; what goes on is cut off."""
  left = _frames(seconds)
  while left:
    piece = next(stream)
    events = [
      event._replace(end_s=min(event.end_s, seconds))
      for event in piece.events
      if event.start_s < seconds
    ]
    joints = piece.joints[:left]
    left -= len(joints)
    yield Piece(joints, tuple(events), piece.doing)


class _Life:
  """What a person does next, and where they are.

  Attributes:
    rng: draws everything.
    style: how they move, all the time.
    sway: what they never stop doing.
    frame: of the recording, that comes next.
    origin: x, z and yaw of the frame that controls are made in.
    row: controls [31] of the frame before, on the floor of the room.
    due_s: when each kind of event happens, or as soon as they stand.
  """

  def __init__(self, seed: int, split: str, per_hour: dict[str, float]):
    name = f'recording {split}'.encode()
    stream = int.from_bytes(hashlib.blake2s(name, digest_size=4).digest())
    self.rng = np.random.default_rng((seed, stream))
    self.style = body.Style.draw(self.rng)
    self.sway = actions.Sway.draw(self.rng)
    self.frame = 0
    self.origin = (0.0, 0.0, float(self.rng.uniform(0, 360)))
    self.row = body.place(self.style.standing[None], *self.origin)[0]
    self.per_hour = {kind: rate for kind, rate in per_hour.items() if rate > 0}
    self.due_s = {kind: self._wait(kind) for kind in self.per_hour}

  @property
  def now_s(self) -> float:
    return self.frame / actions.FPS

  def live(self) -> Iterator[Piece]:
    """Standing at the beginning of every turn of the loop."""
    doings = list(_ORDINARY)
    shares = np.array([_ORDINARY[x] for x in doings], float)
    shares /= shares.sum()
    while True:
      for kind in [x for x, due_s in self.due_s.items() if due_s <= self.now_s]:
        yield from self._happen(kind)
        self.due_s[kind] = self.now_s + self._wait(kind)
        # Nothing comes at once upon it, or nobody knows which was seen.
        yield from self._go(2)
        yield from self._hold(*_STANDING_S, 'stand')
      doing = doings[int(self.rng.choice(len(doings), p=shares))]
      yield from self._ordinary(doing)

  # --- What is ordinary -----------------------------------------------------

  def _ordinary(self, doing: str) -> Iterator[Piece]:
    if doing == 'go':
      yield from self._go(int(self.rng.integers(1, 5)))
    elif doing == 'stand':
      yield from self._hold(*_STANDING_S, 'stand')
    elif doing == 'sit':
      yield from self._down_and_up('sit', _SITTING_S, 'rise')
    elif doing == 'rest':
      yield from self._down_and_up('lie', _RESTING_S, 'getup')
    else:
      yield self._act(doing)

  def _down_and_up(self, down, seconds, up) -> Iterator[Piece]:
    origin = self.origin
    yield self._act(down)
    yield from self._hold(*seconds, down)
    # Getting up is told in the frame of going down.
    self.origin = origin
    yield self._act(up)

  def _go(self, walks: int) -> Iterator[Piece]:
    """A few steps at a time, and no further than to the walls."""
    speed = self._one(('slowly', 'quickly'))
    for _ in range(walks):
      yield from self._within_walls(
        lambda: self._controls('walk', direction='forward', speed=speed),
        'walk',
      )

  def _within_walls(self, make, doing: str) -> Iterator[Piece]:
    """Turns until what is made next stays in the room."""
    for _ in range(_TRIES):
      controls = make()
      x, z = body.place(controls, *self.origin)[:, [0, 2]].T
      if (abs(x) <= _ROOM_M[0]).all() and (abs(z) <= _ROOM_M[1]).all():
        yield self._play(controls, doing)
        return
      yield self._act('turn', side=self._side_of_the_middle())

  def _side_of_the_middle(self) -> str:
    x, z, yaw = self.origin
    # The middle is to the left where the heading's left looks at it.
    left = (math.cos(math.radians(yaw)), -math.sin(math.radians(yaw)))
    return 'left' if -x * left[0] - z * left[1] > 0 else 'right'

  def _hold(self, least_s: float, most_s: float, doing: str) -> Iterator[Piece]:
    """Stays as they are, mostly for a short time and sometimes long."""
    left = _frames(least_s * (most_s / least_s) ** self.rng.random())
    while left:
      some = min(left, _HOLD_FRAMES)
      yield self._show(np.repeat(self.row[None], some, 0), doing)
      left -= some

  # --- What is not ----------------------------------------------------------

  def _happen(self, kind: str) -> Iterator[Piece]:
    """The pieces of an event, which the first of them tells."""
    start_s = self.now_s
    if kind == 'fall':
      shown, events = self._fall()
    else:
      shown = list(_HAPPENS[kind](self))
      end_s = self.now_s
      if kind == 'sitting down hard':
        # What comes after it is rest.
        end_s = start_s + len(shown[0].joints) / actions.FPS
      events = [Event(kind, start_s, end_s)]
    yield shown[0]._replace(events=tuple(events))
    yield from shown[1:]

  def _fall(self) -> tuple[list[Piece], list[Event]]:
    start_s = self.now_s
    direction = self._one(actions.VERBS['fall'].directions)
    origin = self.origin
    shown = [self._act('fall', direction=direction)]
    down_s = self.now_s
    events = [Event('fall', start_s, down_s)]
    is_long = self.rng.random() < _LYING_STILL_SHARE
    shown += self._hold(*(_LYING_STILL_S if is_long else _DAZED_S), 'lie')
    if is_long:
      events.append(Event('lying still', down_s, self.now_s))
    self.origin = origin
    lying = body.place(self.row[None], 0.0, 0.0, -origin[2])
    x, z = _turned(origin[0], origin[1], -origin[2])
    rows = mishaps.up_again(
      body.place(lying, -x, -z, 0.0)[0], direction, self.style, self.rng
    )
    shown.append(self._play(rows, 'get up'))
    return shown, events

  def _stumble(self) -> Iterator[Piece]:
    yield from self._within_walls(lambda: self._controls('stumble'), 'stumble')

  def _sit_hard(self) -> Iterator[Piece]:
    origin = self.origin
    yield self._play(mishaps.sit_hard(self.style, self.rng), 'sit hard')
    yield from self._hold(*_SITTING_S, 'sit')
    self.origin = origin
    yield self._act('rise')

  def _limp(self) -> Iterator[Piece]:
    side = self._one(actions.VERBS['limp'].sides)
    for _ in range(int(self.rng.integers(3, 7))):
      yield from self._within_walls(
        lambda: self._controls('limp', side=side), 'limp'
      )

  def _wander(self) -> Iterator[Piece]:
    end_s = self.now_s + self.rng.uniform(*_WANDERING_S)
    while self.now_s < end_s:
      yield from self._within_walls(
        lambda: self._controls('walk', direction='forward', speed='slowly'),
        'wander',
      )
      if self.rng.random() < 0.5:
        yield self._act('turn')
      if self.rng.random() < 0.2:
        yield from self._hold(0.5, 2.0, 'wander')

  # --- From controls to pieces ----------------------------------------------

  def _act(self, verb: str, **attributes) -> Piece:
    """An action; what is not said about it is drawn."""
    return self._play(self._controls(verb, **attributes), verb)

  def _controls(self, verb: str, **attributes) -> np.ndarray:
    spec = actions.VERBS[verb]
    drawn = {
      name: attributes.get(name) or self._one(values)
      for name, values in (
        ('side', spec.sides),
        ('direction', spec.directions),
        ('count', spec.counts),
        ('speed', spec.speeds),
      )
      if values
    }
    return actions.controls_of(
      actions.Action(verb, **drawn), self.style, self.rng
    )

  def _play(self, controls: np.ndarray, doing: str) -> Piece:
    """Controls in the frame of `origin`, which moves to where they end."""
    placed = body.place(controls, *self.origin)
    x, _, z = placed[-1, body.PELVIS]
    self.origin = (float(x), float(z), float(placed[-1, body.YAW]))
    return self._show(placed, doing)

  def _show(self, placed: np.ndarray, doing: str) -> Piece:
    joints = body.to_joints(placed + self.sway.rows(self.frame, len(placed)))
    self.frame += len(placed)
    self.row = placed[-1]
    return Piece(joints, (), doing)

  def _one(self, values):
    return values[int(self.rng.integers(len(values)))]

  def _wait(self, kind: str) -> float:
    return float(self.rng.exponential(3600 / self.per_hour[kind]))


def _turned(x: float, z: float, yaw_deg: float) -> tuple[float, float]:
  """A place on the floor, turned as body.place turns it."""
  c, s = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
  return c * x + s * z, c * z - s * x


_HAPPENS = {
  'stumble': _Life._stumble,
  'sitting down hard': _Life._sit_hard,
  'limping': _Life._limp,
  'wandering': _Life._wander,
}
