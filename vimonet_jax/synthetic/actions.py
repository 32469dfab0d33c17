"""Verbs with side, direction, count and speed -> joints: the motion half.

A program is one to three actions of one person. Each verb makes its controls
from rest to rest (`gaits.py`, `gestures.py`); here they are mirrored to their
side, set one behind the other on the floor, and turned into joints.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from vimonet_jax.synthetic import body, gaits, gestures

FPS = 20
MAX_ACTIONS = 3
MAX_FRAMES = 196
# 40 frames of features, which are one fewer than frames of joints, and a few
# to spare for those who cut to multiples of four.
MIN_FRAMES = 44
# Shorter than this no verb can be read.
_MIN_FRAMES_PER_ACTION = 20

_SIDES = ('left', 'right')
_COUNTS = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Action:
  """One thing that a person does; empty where the verb has no such attribute.

  Attributes:
    verb: a key of `VERBS`.
    side: 'left' or 'right': the limb that acts, the leg that limps, the way
      that a turn, spin or sidestep goes.
    direction: 'forward', 'backward', 'left' or 'right'.
    count: how many times.
    speed: 'slowly' or 'quickly'.
  """

  verb: str
  side: str = ''
  direction: str = ''
  count: int = 0
  speed: str = ''


@dataclasses.dataclass(frozen=True)
class VerbSpec:
  """The values that a verb's attributes take; none where it has no such one.

  Attributes:
    sides, directions, counts, speeds: allowed values, all of them needed.
    place: 'any' goes from standing to standing; 'first' starts in another
      posture and 'last' ends in one, so they can stand only there.
  """

  sides: tuple[str, ...] = ()
  directions: tuple[str, ...] = ()
  counts: tuple[int, ...] = ()
  speeds: tuple[str, ...] = ()
  place: str = 'any'


# The splits of programs follow from this order (world.py): add at the end.
VERBS: dict[str, VerbSpec] = {
  'walk': VerbSpec(
    directions=('forward', 'backward'), speeds=('slowly', 'quickly')
  ),
  'run': VerbSpec(),
  'march': VerbSpec(),
  'turn': VerbSpec(sides=_SIDES),
  'sidestep': VerbSpec(sides=_SIDES),
  'jump': VerbSpec(counts=_COUNTS),
  'hop': VerbSpec(sides=_SIDES),
  'squat': VerbSpec(counts=_COUNTS),
  'bend': VerbSpec(),
  'wave': VerbSpec(sides=_SIDES),
  'raise': VerbSpec(sides=_SIDES),
  'reach': VerbSpec(sides=_SIDES),
  'punch': VerbSpec(sides=_SIDES, counts=_COUNTS),
  'kick': VerbSpec(sides=_SIDES),
  'clap': VerbSpec(counts=_COUNTS),
  'push': VerbSpec(),
  'throw': VerbSpec(sides=_SIDES),
  'limp': VerbSpec(sides=_SIDES),
  'stumble': VerbSpec(),
  'spin': VerbSpec(sides=_SIDES),
  'sit': VerbSpec(place='last'),
  'lie': VerbSpec(place='last'),
  'fall': VerbSpec(
    directions=('forward', 'backward', 'left', 'right'), place='last'
  ),
  'rise': VerbSpec(place='first'),
  'getup': VerbSpec(place='first'),
}

# Each takes (style, rng) and the attributes of its verb, except the side.
_MAKERS: dict[str, Callable[..., np.ndarray]] = {
  'walk': gaits.walk,
  'run': gaits.run,
  'march': gaits.march,
  'turn': gaits.turn,
  'spin': gaits.spin,
  'sidestep': gaits.sidestep,
  'limp': gaits.limp,
  'stumble': gaits.stumble,
  'wave': gestures.wave,
  'raise': gestures.lift_arm,
  'reach': gestures.reach,
  'punch': gestures.punch,
  'clap': gestures.clap,
  'push': gestures.push,
  'throw': gestures.throw,
  'kick': gestures.kick,
  'squat': gestures.squat,
  'bend': gestures.bend,
  'jump': gestures.jump,
  'hop': gestures.hop,
  'sit': gestures.sit,
  'rise': gestures.rise,
  'lie': gestures.lie,
  'getup': gestures.getup,
  'fall': gestures.fall,
}

_ATTRIBUTES = {
  'side': 'sides',
  'direction': 'directions',
  'count': 'counts',
  'speed': 'speeds',
}


@dataclasses.dataclass(frozen=True)
class Animation:
  """A clip at 20 frames a second.

  Attributes:
    joints: float32 [T, 22, 3], metres, y up, floor at y = 0. The person
      starts facing +z, the feet at the origin (`getup`: in the end).
    spans: (start, end) frames of each action; together they cover the clip.
  """

  joints: np.ndarray
  spans: tuple[tuple[int, int], ...]


def check(program: Sequence[Action]) -> None:
  """Raises a ValueError that says why a program cannot be played."""
  if not 1 <= len(program) <= MAX_ACTIONS:
    raise ValueError(
      f'Expected a program of 1 to {MAX_ACTIONS} actions, found '
      f'{len(program)}; make several clips of it.'
    )
  for i, action in enumerate(program):
    if action.verb not in VERBS:
      raise ValueError(
        f'Action {i}: expected a verb of {", ".join(VERBS)}, found '
        f'{action.verb!r}.'
      )
    spec = VERBS[action.verb]
    for name, plural in _ATTRIBUTES.items():
      allowed = getattr(spec, plural)
      value = getattr(action, name)
      if (value not in allowed) if allowed else value:
        expected = (
          f'one of {", ".join(map(str, allowed))}' if allowed else 'none'
        )
        raise ValueError(
          f'Action {i} ({action.verb}): expected as {name} {expected}, found '
          f'{value!r}.'
        )
    if spec.place == 'first' and i > 0:
      raise ValueError(
        f'Action {i} ({action.verb}): expected it first, because it does not '
        f'start on the feet, found it after {program[i - 1].verb}.'
      )
    if spec.place == 'last' and i < len(program) - 1:
      raise ValueError(
        f'Action {i} ({action.verb}): expected it last, because it does not '
        f'end on the feet, found it before {program[i + 1].verb}.'
      )


def animate(
  program: Sequence[Action],
  rng: np.random.Generator,
  max_frames: int = MAX_FRAMES,
  *,
  manner: Callable[[body.Style], body.Style] = lambda style: style,
) -> Animation:
  """Plays a program once; another `rng` is another person's way of doing it.

  Args:
    program: one to three actions.
    rng: draws the person's style and the details of each action.
    max_frames: the clip is not longer; what would be is played faster.
    manner: what becomes of the style that was drawn; see `people`.

  Returns:
    the clip, 44 to `max_frames` frames.
  """
  check(program)
  least = max(MIN_FRAMES, _MIN_FRAMES_PER_ACTION * len(program))
  if max_frames < least:
    raise ValueError(
      f'Expected max_frames of at least {least} for {len(program)} actions, '
      f'found {max_frames}.'
    )
  style = manner(body.Style.draw(rng))
  parts = [controls_of(action, style, rng) for action in program]
  before, after = rng.integers(1, 5, 2)
  parts[0] = np.concatenate([np.repeat(parts[0][:1], before, 0), parts[0]])
  missing = MIN_FRAMES - sum(map(len, parts))
  hold = np.repeat(parts[-1][-1:], max(after, missing), 0)
  parts[-1] = np.concatenate([parts[-1], hold])
  parts = _fit(parts, max_frames)

  ends = np.cumsum([len(part) for part in parts])
  spans = tuple(zip((0, *ends[:-1].tolist()), ends.tolist(), strict=True))
  controls = np.concatenate(_line_up(parts))
  sway = Sway.draw(rng)
  return Animation(
    body.to_joints(controls + sway.rows(0, len(controls))), spans
  )


def controls_of(
  action: Action, style: body.Style, rng: np.random.Generator
) -> np.ndarray:
  """Controls [T, 31] of one action, in its own frame; not checked."""
  values = {
    name: getattr(action, name)
    for name in ('direction', 'count', 'speed')
    if getattr(action, name)
  }
  controls = _MAKERS[action.verb](style, rng, **values)
  if action.side == 'right':
    return body.mirror(controls, style.standing)
  return controls


def _fit(parts: list[np.ndarray], max_frames: int) -> list[np.ndarray]:
  """The same controls, all played faster if they do not fit."""
  total = sum(map(len, parts))
  if total <= max_frames:
    return parts
  fitted = []
  for part in parts:
    length = int(len(part) * max_frames / total)
    at = np.linspace(0, len(part) - 1, length)
    low = np.minimum(at.astype(int), len(part) - 2)
    share = (at - low)[:, None]
    fitted.append((1 - share) * part[low] + share * part[low + 1])
  return fitted


def _line_up(parts: list[np.ndarray]) -> list[np.ndarray]:
  """Each part where the one before ended: on its place, with its heading."""
  x = z = yaw = 0.0
  placed = []
  for part in parts:
    placed.append(body.place(part, x, z, yaw))
    last = placed[-1][-1]
    x, _, z = last[body.PELVIS]
    yaw = last[body.YAW]
  return placed


# How far each control wanders at rest: metres and degrees. Feet stay.
_SWAY = np.zeros(body.NUM_CONTROLS)
_SWAY[body.PELVIS] = 0.008, 0.002, 0.008
_SWAY[body.TURN] = 1.0, 0.6, 0.6
_SWAY[body.SPINE] = 1.5, 1.5, 1.0
_SWAY[body.HEAD] = 4.0, 3.0
for _columns in body.ARMS:
  _SWAY[_columns] = 2.0, 3.0, 0.0, 3.0


@dataclasses.dataclass(frozen=True, eq=False)
class Sway:
  """Slow small movements of somebody who is alive.

  Attributes:
    rates: of two waves for each control, [2, 31], Hz.
    starts: their phases.
    amount: of how far a control wanders, that so much of it does.
  """

  rates: np.ndarray
  starts: np.ndarray
  amount: float

  @classmethod
  def draw(cls, rng: np.random.Generator) -> 'Sway':
    rates = rng.uniform(0.15, 0.6, (2, body.NUM_CONTROLS))
    starts = rng.uniform(0, 2 * np.pi, (2, body.NUM_CONTROLS))
    return cls(rates, starts, rng.uniform(0.3, 1.0))

  def rows(self, first: int, frames: int) -> np.ndarray:
    """What is added to controls [frames, 31] from frame `first` on."""
    t = np.arange(first, first + frames)[:, None, None] / FPS
    waves = np.sin(2 * np.pi * self.rates * t + self.starts).sum(1)
    return waves * _SWAY * self.amount
