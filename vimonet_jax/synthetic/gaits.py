"""Verbs that step: footsteps first, then a pelvis that travels above them.

A foot in stance does not move; while it swings, its toe goes from one place to
the next on a smooth arc. Every verb returns the rows of controls of
`body.py` that it takes, starting and ending at rest. Sided verbs are written
for the left.
"""

import dataclasses

import numpy as np

from vimonet_jax.synthetic import body

FPS = 20


@dataclasses.dataclass(frozen=True)
class Step:
  """One swing of one foot; times in frames, places relative to the start.

  Attributes:
    foot: 0 left, 1 right.
    lift: when the toe leaves the floor.
    land: when it is down again.
    x, z, yaw: where the foot goes, as a move of its place at rest.
    height: how high the toe swings.
    forward, outward: how far it swings out on the way.
    heel: how far the heel rises before the toe leaves, degrees.
  """

  foot: int
  lift: float
  land: float
  x: float = 0.0
  z: float = 0.0
  yaw: float = 0.0
  height: float = 0.08
  forward: float = 0.0
  outward: float = 0.0
  heel: float = 25.0


def _ease(u: np.ndarray) -> np.ndarray:
  """0 to 1 with no speed and no acceleration at the ends (minimum jerk)."""
  u = np.clip(u, 0.0, 1.0)
  return u**3 * (10 - 15 * u + 6 * u**2)


# A heel rises before its toe leaves, and the toe points up before landing.
_HEEL_TIMES = (-0.6, 0.0, 0.25, 0.8, 1.0)  # swings after lifting
_HEEL_PITCHES = (0.0, 1.0, 0.8, -0.3, 0.0)
_EARLIEST_LIFT = -_HEEL_TIMES[0] / (1 - _HEEL_TIMES[0])  # of the landing


def _put_feet(controls: np.ndarray, steps: list[Step]) -> None:
  """Writes the feet's controls for steps that are in order of time."""
  t = np.arange(len(controls))[:, None]
  for side, columns in enumerate(body.FEET):
    x, _, z, yaw, _ = controls[0, columns]
    mine = [step for step in steps if step.foot == side]
    # A foot that turns stands elsewhere: its place turns about the origin.
    angles = np.radians([step.yaw for step in mine])
    c, s = np.cos(angles), np.sin(angles)
    places = np.stack(
      [
        c * x + s * z + [step.x for step in mine],
        c * z - s * x + [step.z for step in mine],
        yaw + np.array([step.yaw for step in mine]),
      ],
      axis=-1,
    )
    moves = np.diff(places, axis=0, prepend=[[x, z, yaw]])
    detours = np.array([
      ((1 - 2 * side) * step.outward, step.height, step.forward)
      for step in mine
    ])  # fmt: skip
    lifts = np.array([step.lift for step in mine])
    u = (t - lifts) / (np.array([step.land for step in mine]) - lifts)
    pitches = np.interp(u, _HEEL_TIMES, _HEEL_PITCHES)
    u = np.clip(u, 0.0, 1.0)
    feet = controls[:, columns]
    feet[:, [0, 2, 3]] += (u * u * (3 - 2 * u)) @ moves
    feet[:, :3] += np.sin(np.pi * u) @ detours
    feet[:, 4] += pitches @ np.array([step.heel for step in mine])


def _rows(style: body.Style, frames: float) -> np.ndarray:
  return np.tile(style.standing, (int(np.ceil(frames)) + 1, 1))


def _stride(
  style: body.Style,
  *,
  periods: np.ndarray,
  speed: np.ndarray | float,
  duty: float,
  height: float,
  heel: float,
  arms: tuple[float, float],
  ramp: float = 1.2,
  forward: float = 0.0,
  outward: tuple[float, float] = (0.0, 0.0),
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """A straight walk or run, left foot first, to a standstill.

  Args:
    style: who walks.
    periods: frames from each landing to the next; the last step closes.
    speed: metres a second at full pace, negative backward; one or a step.
    duty: part of a foot's cycle spent on the floor; below 0.5 is running.
    height: of the swinging toe.
    heel: degrees that the heel rises behind.
    arms: elevation about which the arms swing and how far they do.
    ramp: steps that starting and stopping take.
    forward: how far a foot swings out ahead of its way.
    outward: how far the left and the right foot swing out to the side.

  Returns:
    controls [T, 31]; the phase [T], pi a step, 0 where the left foot starts;
    the pace [T], 0 at rest and 1 at full pace; the ends of the steps [K].
  """
  start = 0.5 * periods[0]
  ends = start + np.cumsum(periods)
  controls = _rows(style, ends[-1] + 0.4 * periods[-1])
  t = np.arange(len(controls), dtype=np.float64)
  marks = np.r_[start, ends]
  numbers = np.arange(len(marks), dtype=np.float64)
  phase = np.pi * np.interp(t, marks, numbers)
  pace = _ease((t - marks[0]) / (ramp * periods[0]) + 0.15) * _ease(
    (marks[-1] - t) / (ramp * periods[-1]) + 0.05
  )
  speeds = np.interp(t, ends, np.broadcast_to(speed, ends.shape))
  travel = np.cumsum(pace * speeds) / FPS
  # A foot lands where the pelvis will be half a stance later.
  middle = ends + duty * np.interp(
    numbers[1:] + 0.5, numbers[1:], np.r_[periods[1:], periods[-1]]
  )
  places = np.interp(middle, t, travel)
  places[-2:] = travel[-1]
  steps = []
  for k, (land, period) in enumerate(zip(ends, periods, strict=True)):
    swing = 2 * period * (1 - duty)
    # Not so early that the heel would have to rise before the first frame.
    lift = max(land - swing, _EARLIEST_LIFT * land)
    steps.append(
      Step(
        k % 2,
        lift,
        land,
        z=places[k],
        height=height,
        heel=heel,
        forward=forward,
        outward=outward[k % 2],
      )
    )
  _put_feet(controls, steps)
  controls[:, body.Z] += travel
  # The pelvis leans over the foot that stands and turns with the leg ahead.
  sway, forth = pace * np.sin(phase), pace * np.cos(phase)
  twist = style.swing * (-forth if np.mean(speed) < 0 else forth)
  controls[:, body.X] -= 0.02 * sway
  controls[:, body.YAW] += 6.0 * twist
  controls[:, body.ROLL] += 3.0 * sway
  controls[:, body.SPINE_YAW] -= 11.0 * twist
  for columns, sign in zip(body.ARMS, (1, -1), strict=True):
    amplitude = arms[1] * style.swing * (1 + 0.02 * sign * style.asymmetry_deg)
    controls[:, columns.start] += pace * (arms[0] - style.arms[0])
    controls[:, columns.start] += sign * amplitude * forth
  return controls, phase, pace, ends


def _blend(controls: np.ndarray, columns, value, weight: np.ndarray) -> None:
  """Moves columns towards a value where the weight [T] says so."""
  controls[:, columns] += weight[:, None] * (value - controls[:, columns])


def _either_foot_first(
  controls: np.ndarray, style: body.Style, rng: np.random.Generator
) -> np.ndarray:
  if rng.random() < 0.5:
    return controls
  return body.mirror(controls, style.standing)


def walk(
  style: body.Style, rng: np.random.Generator, direction: str, speed: str
) -> np.ndarray:
  """0.5 or 1.5 m/s, forward or backward (then a little shorter)."""
  metres, period, count = {
    'slowly': (rng.uniform(0.45, 0.58), 12.0, rng.integers(3, 5)),
    'quickly': (rng.uniform(1.4, 1.65), 8.8, rng.integers(4, 6)),
  }[speed]
  backward = direction == 'backward'
  if backward:
    metres = -metres * (1.0 if speed == 'slowly' else 0.85)
  controls, _, pace, _ = _stride(
    style,
    periods=np.full(count, period / (1 + 0.5 * (style.tempo - 1))),
    speed=metres,
    duty=0.6,
    height=0.05 + 0.03 * abs(metres),
    heel=8.0 if backward else 15 + 16 * metres,
    arms=(3.0 + 4 * abs(metres), 9 + 14 * abs(metres)),
  )
  controls[:, body.Y] -= 0.012 * pace
  controls[:, body.SPINE_PITCH] += pace * 3.0 * metres
  return _either_foot_first(controls, style, rng)


def run(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """About 2.8 m/s, with flight between the steps and bent elbows."""
  controls, phase, pace, _ = _stride(
    style,
    periods=np.full(6, 6.8 / (1 + 0.4 * (style.tempo - 1))),
    speed=rng.uniform(2.6, 3.0),
    duty=0.34,
    height=0.2,
    heel=62.0,
    arms=(40.0, 38.0),
    ramp=1.6,
  )
  # Highest in the middle of flight, which is shortly before a landing.
  controls[:, body.Y] += pace * (-0.035 + 0.035 * np.cos(2 * (phase + 0.45)))
  controls[:, body.PITCH] += 6.0 * pace
  controls[:, body.SPINE_PITCH] += 8.0 * pace
  for columns in body.ARMS:
    _blend(controls, columns.start + 1 + np.arange(2), (-8.0, 0.7), pace)
  return _either_foot_first(controls, style, rng)


def march(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """On the spot with high knees."""
  controls, _, pace, _ = _stride(
    style,
    periods=np.full(4, 10.5 / style.tempo),
    speed=0.0,
    duty=0.52,
    height=0.42 * style.vigour,
    heel=20.0,
    arms=(8.0, 34.0),
    ramp=0.6,
    forward=0.26,
  )
  controls[:, body.SPINE_PITCH] -= 4.0 * pace
  for columns in body.ARMS:
    controls[:, columns.start + 2] -= 0.12 * pace
  return _either_foot_first(controls, style, rng)


def _pivot(
  style: body.Style, angle: float, pairs: int, period: float
) -> tuple[np.ndarray, np.ndarray]:
  """Turns left on the spot by pairs of steps; also the weight [T] of it."""
  start = 0.5 * period
  count = 2 * pairs
  controls = _rows(style, start + (count + 0.6) * period)
  t = np.arange(len(controls), dtype=np.float64)
  steps = []
  for k in range(count):
    land = start + (k + 1) * period
    yaw = angle * (k // 2 + 1) / pairs
    # The outer foot ends where the inner one went.
    steps.append(
      Step(k % 2, land - 0.85 * period, land, yaw=yaw, height=0.06, heel=18.0)
    )
  _put_feet(controls, steps)
  u = np.clip((t - 0.6 * start) / ((count + 0.3) * period), 0.0, 1.0)
  weight = np.sin(np.pi * u)
  # Mostly even, with soft ends.
  controls[:, body.YAW] += angle * (0.3 * u + 0.7 * _ease(u))
  heading = np.radians(controls[:, body.YAW])
  sway = 0.02 * weight * np.sin(np.pi * np.clip((t - start) / period, 0, count))
  controls[:, body.X] -= sway * np.cos(heading)
  controls[:, body.Z] += sway * np.sin(heading)
  controls[:, body.Y] -= 0.012 * weight
  return controls, weight


def turn(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """90 to 150 degrees to the left, step by step."""
  controls, weight = _pivot(
    style, rng.uniform(90, 150), pairs=3, period=6.4 / style.tempo
  )
  controls[:, body.SPINE_YAW] += 10.0 * weight
  controls[:, body.HEAD_YAW] += 16.0 * weight
  return controls


def spin(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """Once all the way round to the left, arms out."""
  controls, weight = _pivot(style, 360.0, pairs=4, period=4.8 / style.tempo)
  lift = rng.uniform(35, 60)
  for columns in body.ARMS:
    _blend(controls, columns, (lift, 80.0, 0.95, 0.0), weight**0.5)
  return controls


def sidestep(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """Three steps to the left: the left foot leads, the right one closes."""
  period, count = 7.2 / style.tempo, 6
  width = rng.uniform(0.28, 0.36) * style.vigour
  start = 0.4 * period
  controls = _rows(style, start + (count + 0.5) * period)
  t = np.arange(len(controls), dtype=np.float64)
  steps = []
  for k in range(count):
    land = start + (k + 1) * period
    steps.append(
      Step(
        k % 2,
        land - 0.85 * period,
        land,
        x=width * (k // 2 + 1),
        height=0.06,
        heel=8.0,
      )
    )
  _put_feet(controls, steps)
  u = np.clip((t - 0.5 * start) / ((count + 0.2) * period), 0.0, 1.0)
  controls[:, body.X] += width * count / 2 * 0.5 * (u + _ease(u))
  weight = np.sin(np.pi * u)
  controls[:, body.Y] -= 0.03 * weight
  for columns in body.ARMS:
    _blend(controls, columns, (16.0, 70.0, 0.95, 0.0), weight**0.5)
  return controls


def limp(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """Forward, the left leg stiff, briefly loaded and swung round the side."""
  slow, brief = 11.0 / style.tempo, 6.0 / style.tempo
  controls, phase, pace, ends = _stride(
    style,
    periods=np.array([slow, brief] * 3)[:5],
    speed=rng.uniform(0.5, 0.65),
    duty=0.58,
    height=0.04,
    heel=4.0,
    arms=(6.0, 8.0),
    outward=(0.1, 0.0),
  )
  # Even steps swing the left leg, odd ones stand on it.
  on_left = pace * np.maximum(-np.sin(phase), 0.0)
  swing_left = pace * np.maximum(np.sin(phase), 0.0)
  controls[:, body.X] += 0.03 * on_left
  controls[:, body.Y] -= 0.07 * on_left * style.vigour
  controls[:, body.ROLL] += 10.0 * on_left - 12.0 * swing_left
  controls[:, body.SPINE_ROLL] += (
    18.0 * on_left + 6.0 * swing_left
  ) * style.vigour
  controls[:, body.SPINE_PITCH] += 8.0 * pace + 6.0 * on_left
  columns = body.ARMS[0]
  _blend(controls, columns, (22.0, -14.0, 0.86, 0.0), pace)
  return controls


def stumble(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """A walk, a trip that throws the trunk forward, hasty steps, recovery."""
  tempo = 1 + 0.5 * (style.tempo - 1)
  controls, phase, pace, ends = _stride(
    style,
    periods=np.array([9.0, 8.5, 6.5, 5.5, 6.0, 8.0]) / tempo,
    speed=np.array([1.0, 1.1, 1.7, 1.8, 1.1, 0.6]),
    duty=0.56,
    height=0.08,
    heel=28.0,
    arms=(8.0, 18.0),
  )
  t = np.arange(len(controls), dtype=np.float64)
  trip, caught = ends[1] - 2.0, ends[4]
  pitched = np.interp(
    t, (trip, trip + 6, caught - 2, caught + 7), (0, 1, 0.75, 0)
  )
  pitched = np.convolve(
    np.pad(pitched, 2, mode='edge'), np.full(5, 0.2), 'valid'
  )
  force = rng.uniform(0.9, 1.15) * style.vigour
  controls[:, body.Y] -= 0.13 * pitched
  controls[:, body.PITCH] += 22.0 * pitched * force
  controls[:, body.SPINE_PITCH] += 26.0 * pitched * force
  controls[:, body.HEAD_PITCH] -= 18.0 * pitched
  for columns in body.ARMS:
    _blend(controls, columns, (95.0, 22.0, 0.85, 0.0), pitched)
  return _either_foot_first(controls, style, rng)
