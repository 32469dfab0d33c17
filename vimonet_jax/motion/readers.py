"""Any motion file -> joints at 20 fps, in metres, y up.

`read` is the one door. A format that defines its frame rate, unit or up axis is
taken at its word, unless the body stands or lies along another axis; where it
does not, the body itself is the measure (a leg has
the length of a leg, a head is above its feet); where that does not settle it
either, the error asks for the flag that does. What was found and changed stands
in `Motion.notes`, what is wrong with a file in one sentence.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from scipy import interpolate

from vimonet_jax.motion import amc, bvh, skeleton, smpl

FPS = 20.0
UNITS = {'m': 1.0, 'cm': 0.01, 'mm': 0.001, 'inch': amc.INCH_M}
# Turns that make an axis point up along y. All keep left and right apart from
# each other: determinant 1. The one for z is HumanML3D's for AMASS, which swaps
# y and z when it reads a file and negates x when it cuts a clip from it.
TO_Y_UP = {
  'x': np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
  'y': np.eye(3),
  'z': np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]),
}
MIN_FRAMES = 20  # one second

# CMU's BVH conversions keep the unit of its .asf files.
_METRES = {**UNITS, "CMU's 1/0.45 inch": amc.INCH_M / 0.45}
# A leg, hip to knee to ankle. Within the first range the unit is certain: the
# ranges of no two units meet. Within the second we believe a stated unit.
_ADULT_LEG_M = (0.52, 1.1)
_HUMAN_LEG_M = (0.3, 1.3)
_TRUNK_PER_LEG = (0.4, 1.6)
_LEFT_PER_RIGHT = (0.7, 1.4)
_SHORTEST_BONE_M = 1e-4
# Most of 251 real clips stand at 0.98 or more, none below 0.74.
_UPRIGHT = 0.72
_FLOOR_M = 0.3  # how far from 0 the lowest joint may be for a floor at 0
# Who lies on a floor at 0: the lowest joint, and the pelvis above it, half of
# the time. No lying clip of 297 is stood up; 2% of 245 real ones need --up.
_BED_M, _LYING_PELVIS_M = (-0.1, 0.15), 0.45
# Left x up is forward, where the feet point: 0.4 to 0.99 for real clips, -0.16
# for someone who climbs; a mirrored file has the other sign.
_MIRRORED = -0.3
_FASTEST_M_S = 25.0
# A frame time of .0083 s means 120 fps.
_FPS_TOLERANCE = 0.005

_LEGS = skeleton.CHAINS[1][1:4], skeleton.CHAINS[0][1:4]  # left, right
_TRUNK = skeleton.CHAINS[2]
_ANKLES = [skeleton.INDEX['left_ankle'], skeleton.INDEX['right_ankle']]
_TOES = [skeleton.INDEX['left_foot'], skeleton.INDEX['right_foot']]


class MotionFileError(ValueError):
  """One sentence about a motion file: expected, found, what to do."""


@dataclasses.dataclass(frozen=True)
class Motion:
  """What a motion file shows.

  Attributes:
    joints: float32 [T, 22, 3] at 20 fps, metres, y up.
    fps: what they were recorded at, as the file or the caller says.
    features: float32 [T, 263] where the file holds HumanML3D features, to be
      used as they are; None where `features.encode` has yet to make them.
    notes: sentences about what was detected and converted.
  """

  joints: np.ndarray
  fps: float
  features: np.ndarray | None = None
  notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Source:
  """What a file says: joints as they are there, and None where it is silent.

  Attributes:
    joints_TJ3: [T, 22, 3] in the file's axes and unit.
    fps, unit, up: as the format defines them.
    rest_J3: the body at rest, which stands whatever the motion does.
    features, notes: as in `Motion`.
  """

  joints_TJ3: np.ndarray
  fps: float | None = None
  unit: str | None = None
  up: str | None = None
  rest_J3: np.ndarray | None = None
  features: np.ndarray | None = None
  notes: tuple[str, ...] = ()


def read(
  path: str | os.PathLike,
  *,
  fps: float | None = None,
  up: str | None = None,
  unit: str | None = None,
) -> Motion:
  """Reads .bvh, .amc (with its .asf), .npy or .npz.

  NumPy files hold joints [T, 22, 3], HumanML3D features [T, 263] or, in an
  .npz, AMASS's `poses` and `trans`. The whole file is read; callers trim.

  Args:
    path: the file.
    fps: its frame rate; needed for joints, which do not say. What is given here
      and below counts more than what the file says.
    up: its up axis, `x`, `y` or `z`; needed where the body does not show it.
    unit: its unit of length, one of `UNITS`; needed likewise.

  Raises:
    MotionFileError: one sentence that says what was expected, what was found
      and what to do.
  """
  try:
    _check_flag('up', up, TO_Y_UP)
    _check_flag('unit', unit, UNITS)
    source = _Source(**vars(_find_reader(pathlib.Path(path))(path)))
    return _convert(source, fps, up, unit)
  except ValueError as e:
    raise MotionFileError(f'{path}: {e}') from e


def resample(joints_TJ3: np.ndarray, fps: float) -> np.ndarray:
  """Joints at 20 fps, from frame 0 to the last one that has a full step.

  A multiple of 20 fps is thinned out: every 6th frame of 120 fps, unfiltered,
  which is how HumanML3D made its clips and what encoders have seen. Any other
  rate is interpolated by cubic splines through all frames, where HumanML3D
  would have rounded the step and changed the speed.

  Args:
    joints_TJ3: [T, ...] at `fps`.

  Returns:
    [T', ...] with T' = 1 + floor((T - 1) * 20 / fps).
  """
  if step := thinned(fps):
    return joints_TJ3[::step]
  num_frames = int((len(joints_TJ3) - 1) * FPS / fps + 1e-6) + 1
  times = np.arange(len(joints_TJ3)) / fps
  spline = interpolate.CubicSpline(times, joints_TJ3, axis=0)
  return spline(np.arange(num_frames) / FPS)


def thinned(fps: float) -> int:
  """Of how many frames one is taken; 0 where they are interpolated."""
  step = max(round(fps / FPS), 1)
  return step if abs(fps / FPS / step - 1) <= _FPS_TOLERANCE else 0


def is_mirrored(joints_TJ3: np.ndarray) -> bool:
  """Whether feet point backward, as where left is called right."""
  across = joints_TJ3[:, _LEGS[0][0]] - joints_TJ3[:, _LEGS[1][0]]
  upward = joints_TJ3[:, skeleton.INDEX['neck']] - joints_TJ3[:, 0]
  forward = np.cross(_unit(across), _unit(upward))
  feet = _unit(joints_TJ3[:, _TOES] - joints_TJ3[:, _ANKLES]).mean(axis=1)
  return bool(np.median((forward * feet).sum(axis=-1)) < _MIRRORED)


def _check_flag(name: str, value: str | None, known: Iterable[str]) -> None:
  if value is not None and value not in known:
    raise ValueError(
      f'expected --{name} to be {", ".join(known)}, found {value!r}; pass one '
      'of these.'
    )


def _find_reader(path: pathlib.Path) -> Callable:
  suffix = path.suffix.lower()
  if not path.is_file():
    raise ValueError(
      f'expected a motion file, found {"a folder" if path.is_dir() else "none"}'
      ' there; check the path.'
    )
  if suffix not in _READERS:
    advice = _ADVICE.get(suffix, 'convert it to one of these')
    raise ValueError(
      f'expected {", ".join(_READERS)}, found a file of type '
      f'{suffix or "none"}; {advice}.'
    )
  return _READERS[suffix]


def _read_amc(path: str | os.PathLike) -> _Source:
  notes = [
    f'An .amc does not say its frame rate: {amc.FPS:g} fps, as of nearly all '
    "of CMU's trials, where --fps does not say otherwise."
  ]
  asf = amc.find_asf(path)
  if asf.stem.lower() not in amc.body_names(path):
    notes.append(f'The body is {asf.name}, the only one beside the .amc.')
  return _Source(amc.read(path, asf), amc.FPS, 'm', 'y', notes=tuple(notes))


_READERS = {'.bvh': bvh.read, '.amc': _read_amc,
            '.npy': smpl.read, '.npz': smpl.read}  # fmt: skip
SUFFIXES = tuple(_READERS)
_ADVICE = {
  '.asf': 'pass the .amc beside it, which holds the motion',
  '.fbx': 'export it as .bvh',
}


def _convert(
  source: _Source, fps: float | None, up: str | None, unit: str | None
) -> Motion:
  """Checks a motion and brings it to 20 fps, metres and y up."""
  fps = _decide_fps(source, fps)
  _check_frames(source, fps)
  if source.features is not None:
    if fps != FPS or up not in (None, 'y') or unit not in (None, 'm'):
      raise ValueError(
        'expected HumanML3D features at 20 fps, y up and in metres, as they '
        f'are by definition, found {fps:g} fps, {up or "y"} up and unit '
        f'{unit or "m"}; leave out --fps, --up and --unit.'
      )
    joints_TJ3 = source.joints_TJ3.astype(np.float32)
    return Motion(joints_TJ3, fps, source.features, source.notes)
  body = _in_metres(source, up, unit, np.arange(len(source.joints_TJ3)))
  notes = [*source.notes, *body.notes]
  joints_TJ3 = resample(body.joints_TJ3 @ TO_Y_UP[body.up].T, fps)
  if len(joints_TJ3) != len(source.joints_TJ3):
    notes.append(f'Resampled from {fps:.5g} to {FPS:g} fps.')
  _check_speed(joints_TJ3)
  return Motion(joints_TJ3.astype(np.float32), fps, notes=tuple(notes))


def _decide_fps(source: _Source, fps: float | None) -> float:
  fps = source.fps if fps is None else fps
  if fps is None:
    raise ValueError(
      'expected a frame rate, found no number for it in the file; pass --fps, '
      'the frames per second it was recorded with.'
    )
  if not 5 <= fps <= 1000:
    raise ValueError(
      f'expected 5 to 1000 frames per second, found {fps:.4g}; pass the right '
      '--fps.'
    )
  return fps


def _check_frames(source: _Source, fps: float) -> None:
  values = source.joints_TJ3 if source.features is None else source.features
  num_frames = len(values)
  if num_frames * FPS / fps < MIN_FRAMES * (1 - _FPS_TOLERANCE):
    raise ValueError(
      f'expected at least {MIN_FRAMES / FPS:g} s of motion, found {num_frames} '
      f'frames at {fps:.5g} fps; pass a longer clip, or --fps if the rate is '
      'another.'
    )
  bad = ~np.isfinite(values).reshape(num_frames, -1).all(axis=1)
  if bad.any():
    raise ValueError(
      f'expected numbers, found NaN or infinity in {bad.sum()} of {num_frames} '
      f'frames, the first in frame {bad.argmax()}; mend those frames or cut '
      'them off.'
    )


def _decide_unit(source: _Source, unit: str | None) -> tuple[str, list[str]]:
  """The unit of length and, if it was detected, a note."""
  leg = np.mean([_path_length(source.joints_TJ3, leg) for leg in _LEGS])
  if not leg:
    raise ValueError(
      'expected legs, found none of any length; save where the joints are.'
    )
  fitting = [name for name, metres in _METRES.items()
             if _ADULT_LEG_M[0] < leg * metres < _ADULT_LEG_M[1]]  # fmt: skip
  stated = unit or source.unit
  if stated is None and fitting:
    return fitting[0], [f'Unit {fitting[0]}, detected from a leg of {leg:.3g}.']
  low, high = _HUMAN_LEG_M
  if stated is None:
    raise ValueError(
      f'expected legs of {low} to {high} m (hip to knee to ankle), found '
      f'{leg:.3g} of an unknown unit; pass --unit, one of {", ".join(UNITS)}.'
    )
  leg_m = leg * _METRES[stated]
  if not low < leg_m < high:
    advice = 'leave out --unit' if unit and fitting else 'scale the joints'
    if fitting and fitting[0] in UNITS:
      advice = f'pass --unit={fitting[0]}'
    raise ValueError(
      f'expected legs of {low} to {high} m (hip to knee to ankle), found '
      f'{leg_m:.3g} m where the unit is {stated}; {advice}.'
    )
  return stated, []


class _Body(NamedTuple):
  """What has been found out about a body.

  Attributes:
    joints_TJ3: [T, 22, 3] metres, in the axes of the file.
    unit: what they were in.
    up: the axis that points up.
    notes: on what was not said.
  """

  joints_TJ3: np.ndarray
  unit: str
  up: str
  notes: list[str]


def _in_metres(
  source: _Source, up: str | None, unit: str | None, numbers_T: np.ndarray
) -> _Body:
  unit, unit_notes = _decide_unit(source, unit)
  joints_TJ3 = source.joints_TJ3 * _METRES[unit]
  _check_body(joints_TJ3, numbers_T)
  up, up_notes = _decide_up(source, joints_TJ3, up)
  return _Body(joints_TJ3, unit, up, [*unit_notes, *up_notes])


def settle(
  joints_TJ3: np.ndarray,
  numbers_T: np.ndarray,
  *,
  fps: float | None,
  up: str | None,
  unit: str | None,
) -> tuple[float, np.ndarray]:
  """What `read` would make of a recording, from frames all over it.

  Args:
    joints_TJ3: [T, 22, 3] as they were recorded.
    numbers_T: which frames of the recording these are, for errors.
    fps, up, unit: as for `read`.

  Returns:
    its frames per second, and what joints [..., 3] are multiplied with to be
    in metres with y up.

  Raises:
    ValueError: as `read`, without the path.
  """
  _check_flag('up', up, TO_Y_UP)
  _check_flag('unit', unit, UNITS)
  source = _Source(joints_TJ3.astype(np.float64))
  fps = _decide_fps(source, fps)
  _check_frames(source, fps)
  body = _in_metres(source, up, unit, numbers_T)
  return fps, TO_Y_UP[body.up].T * _METRES[body.unit]


def check_piece(
  joints_TJ3: np.ndarray, numbers_T: np.ndarray, begun_s: float
) -> None:
  """Looks at each frame of a piece of a recording.

  Args:
    joints_TJ3: [T, 22, 3] at 20 fps, metres, the last frame of the piece before
      included: somebody may jump between the two.
    numbers_T: which frames of the recording these are, for errors.
    begun_s: when the first of them is, for errors.

  Raises:
    ValueError: some are no body, or it is too fast.
  """
  _check_bones(joints_TJ3, numbers_T)
  _check_speed(joints_TJ3, begun_s)


def check_stream(joints_TJ3: np.ndarray) -> None:
  """Looks at the beginning of joints that arrive, in metres and y up.

  Raises:
    ValueError: they are of another unit or order, or upside down.
  """
  leg_m = np.mean([_path_length(joints_TJ3, leg) for leg in _LEGS])
  low, high = _HUMAN_LEG_M
  if not low < leg_m < high:
    raise ValueError(
      f'expected legs of {low} to {high} m (hip to knee to ankle), found '
      f'{leg_m:.3g} m; pass --unit, one of {", ".join(UNITS)}.'
    )
  _check_body(joints_TJ3, np.arange(len(joints_TJ3)))
  if _standing_axis(joints_TJ3) == '-y':
    raise ValueError(
      'expected a body with y up, found one that stands upside down; negate y '
      'and one other axis.'
    )


def _check_body(joints_TJ3: np.ndarray, numbers_T: np.ndarray) -> None:
  """Joints that are no body: upon each other, in another order, mirrored."""
  _check_bones(joints_TJ3, numbers_T)
  left, right = (_path_length(joints_TJ3, leg) for leg in _LEGS)
  trunk = _path_length(joints_TJ3, _TRUNK)
  ratios = (left / right, _LEFT_PER_RIGHT), (trunk / left, _TRUNK_PER_LEG)
  if not all(low < ratio < high for ratio, (low, high) in ratios):
    raise ValueError(
      "expected SMPL's 22 joints in SMPL's order, found legs of "
      f'{left:.2g} and {right:.2g} m under a trunk of {trunk:.2g} m; put the '
      'joints in the order of skeleton.NAMES.'
    )
  if is_mirrored(joints_TJ3):
    raise ValueError(
      'expected feet that point forward, found them pointing backward, which '
      'exchanges left and right; negate one axis, or exchange the left and '
      'right joints.'
    )


def _check_bones(joints_TJ3: np.ndarray, numbers_T: np.ndarray) -> None:
  """Joints upon each other in some frame, which is told by its number."""
  parents = list(skeleton.PARENTS[1:])
  bones_TJ3 = joints_TJ3[:, 1:] - joints_TJ3[:, parents]
  empty_TJ = np.linalg.norm(bones_TJ3, axis=-1) < _SHORTEST_BONE_M
  if empty_TJ.any():
    frame, bone = np.argwhere(empty_TJ)[0]
    raise ValueError(
      f'expected joints apart from each other, found '
      f'{skeleton.NAMES[bone + 1]} upon {skeleton.NAMES[parents[bone]]} in '
      f'frame {numbers_T[frame]}; mend the joint, or cut off frames that are '
      'empty.'
    )


def _decide_up(
  source: _Source, joints_TJ3: np.ndarray, up: str | None
) -> tuple[str, list[str]]:
  """The up axis, and notes if it was detected or is not y."""
  # Who lies all through a clip may lie along any axis, so the axis along which
  # a body stands needs a second witness.
  standing, how = _standing_axis(joints_TJ3), ''
  if up is not None:
    agreed = found = up
  elif source.up is not None:
    agreed = source.up if standing in ('', source.up) else ''
    found = f'{standing} in a format that has {source.up} up'
  elif source.rest_J3 is not None:
    resting = _standing_axis(source.rest_J3[None])
    agreed = resting if standing in ('', resting) else ''
    found = f'{resting or "no axis"} at rest and {standing or "none"} moving'
    how = 'the body at rest stands along it'
  elif standing:
    floor_m = joints_TJ3[..., 'xyz'.index(standing[-1])].min()
    beds = _beds(joints_TJ3, standing)
    agreed = '' if beds or abs(floor_m) > _FLOOR_M else standing
    found = f'{standing} from {floor_m:.2g} m up'
    found += f', or lying with {" or ".join(beds)} up' if beds else ''
    how = f'feet below neck along it, lowest joint at {floor_m:z.2f} m'
  else:
    agreed, found = '', 'no axis'
  if agreed not in TO_Y_UP:
    advice = 'pass --up, which is x, y or z'
    if standing.startswith('-'):
      advice += f', or if {standing} is up, negate {standing[1]} and another'
    raise ValueError(
      'expected a body that shows which axis is up, found one standing along '
      f'{found}; {advice}.'
    )
  notes = [f'Up axis {agreed}, detected: {how}.'] if how else []
  if agreed != 'y':
    notes.append(f'Turned from {agreed} up to y up.')
  return agreed, notes


def _beds(joints_TJ3: np.ndarray, standing: str) -> list[str]:
  """The other axes that are up if the body lies on a floor at 0."""
  lowest_3 = joints_TJ3.min(axis=(0, 1))
  pelvis_3 = np.median(joints_TJ3[:, 0], axis=0) - lowest_3
  lying = (_BED_M[0] < lowest_3) & (lowest_3 < _BED_M[1])
  lying &= pelvis_3 < _LYING_PELVIS_M
  return [axis for axis, lies in zip('xyz', lying, strict=True)
          if lies and axis != standing[-1]]  # fmt: skip


def _standing_axis(joints_TJ3: np.ndarray) -> str:
  """The axis from feet to neck, e.g. `y` or `-z`; '' where it is none."""
  feet = joints_TJ3[:, _ANKLES].mean(axis=1)
  body = _unit(joints_TJ3[:, skeleton.INDEX['neck']] - feet)
  upright = np.median(body, axis=0)
  axis = int(np.abs(upright).argmax())
  if abs(upright[axis]) < _UPRIGHT:
    return ''
  return ('-' if upright[axis] < 0 else '') + 'xyz'[axis]


def _check_speed(joints_TJ3: np.ndarray, begun_s: float = 0.0) -> None:
  """A path in another unit than the body, or the wrong frame rate."""
  if len(joints_TJ3) < 2:
    return
  steps = np.linalg.norm(np.diff(joints_TJ3[:, 0], axis=0), axis=-1)
  if steps.max() * FPS > _FASTEST_M_S:
    raise ValueError(
      f'expected a pelvis no faster than {_FASTEST_M_S:g} m/s, found '
      f'{steps.max() * FPS:.3g} m/s at {begun_s + steps.argmax() / FPS:.2f} s; '
      'mend the path of the root, or pass the right --fps.'
    )


def _path_length(joints_TJ3: np.ndarray, path: tuple[int, ...]) -> float:
  """Length of the bones along some joints, the median over time."""
  bones = np.diff(joints_TJ3[:, path], axis=1)
  return float(np.median(np.linalg.norm(bones, axis=-1).sum(axis=1)))


def _unit(vectors: np.ndarray) -> np.ndarray:
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
