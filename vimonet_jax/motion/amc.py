"""CMU's motion capture: a body in an .asf file, its angles in .amc files.

Both were made by Acclaim. A bone turns by `C M C^-1`, where C is the frame that
the .asf gives it and M the angles of the .amc, and then points along its
direction:

    G(bone) = G(parent) C M C^-1,  end(bone) = end(parent) + G(bone) bone

Lengths are in inches times the unit that the .asf states (0.45 at CMU), y is
up, and no file says how many frames there are in a second.
"""

import dataclasses
import os
import pathlib

import numpy as np

from vimonet_jax.motion import skeleton

FPS = 120.0  # nearly all of CMU's trials; a few have 60
INCH_M = 0.0254

# The bone whose end is the joint. The collars and spine3 lie half way along
# the clavicles and the thorax, where Acclaim's body has no joint.
_BONES = {
  'pelvis': 'root', 'left_hip': 'lhipjoint', 'right_hip': 'rhipjoint',
  'spine1': 'lowerback', 'left_knee': 'lfemur', 'right_knee': 'rfemur',
  'spine2': 'upperback', 'left_ankle': 'ltibia', 'right_ankle': 'rtibia',
  'spine3': 'thorax', 'left_foot': 'lfoot', 'right_foot': 'rfoot',
  'neck': 'lowerneck', 'left_collar': 'lclavicle',
  'right_collar': 'rclavicle', 'head': 'upperneck',
  'left_shoulder': 'lclavicle', 'right_shoulder': 'rclavicle',
  'left_elbow': 'lhumerus', 'right_elbow': 'rhumerus',
  'left_wrist': 'lwrist', 'right_wrist': 'rwrist',
}  # fmt: skip
_HALF_WAY = ('spine3', 'left_collar', 'right_collar')
_AXES = {'x': (1.0, 0.0, 0.0), 'y': (0.0, 1.0, 0.0), 'z': (0.0, 0.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class Bone:
  """One bone of an .asf file.

  Attributes:
    parent: name of the bone that it begins at, '' for the root.
    offset_3: from its beginning to its end at rest, metres.
    frame_4: quaternion of the axes that its angles are about.
    channels: what the .amc gives of it, e.g. ('rx', 'rz').
  """

  parent: str
  offset_3: np.ndarray
  frame_4: np.ndarray
  channels: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Body:
  """An .asf file: bones by name, parents first, and metres per unit."""

  bones: dict[str, Bone]
  unit_m: float


def read(path: str | os.PathLike, asf: str | os.PathLike) -> np.ndarray:
  """Joints of an .amc file whose body is an .asf file; see `find_asf`.

  Returns:
    float64 [T, 22, 3] in metres, y up, at the file's own rate (see `FPS`).

  Raises:
    ValueError: one sentence about what is wrong with either file.
  """
  body = parse_asf(_read_text(asf))
  ends = _bone_ends(body, parse_amc(_read_text(path), body))
  joints = []
  for name in skeleton.NAMES:
    end_T3 = ends[_BONES[name]]
    if name in _HALF_WAY:
      end_T3 = 0.5 * (end_T3 + ends[body.bones[_BONES[name]].parent])
    joints.append(end_T3)
  return np.stack(joints, axis=1)


def find_asf(path: str | os.PathLike) -> pathlib.Path:
  """The .asf of an .amc: of one of its `body_names`, or the only one beside.

  Raises:
    ValueError: none beside it, or several of other names.
  """
  path = pathlib.Path(path)
  found = sorted(
    p for p in path.parent.iterdir() if p.suffix.lower() == '.asf'
  )
  for name in body_names(path):
    for asf in found:
      if asf.stem.lower() == name:
        return asf
  if len(found) == 1:
    return found[0]
  others = ', '.join(p.name for p in found[:3]) or 'no .asf there'
  raise ValueError(
    f'expected the body {path.stem.split("_")[0]}.asf beside the .amc, found '
    f'{others}; put the .asf of that subject beside the file.'
  )


def body_names(path: str | os.PathLike) -> tuple[str, str]:
  """What the .asf of `131_01.amc` is called: `131_01` or, at CMU, `131`."""
  stem = pathlib.Path(path).stem.lower()
  return stem, stem.split('_')[0]


def parse_asf(text: str) -> Body:
  """Takes an .asf file apart; raises a ValueError that says what is wrong."""
  sections = _sections(text)
  lacking = [s for s in ('units', 'bonedata', 'hierarchy') if s not in sections]
  if lacking:
    raise ValueError(
      f'expected the .asf to have :units, :bonedata and :hierarchy, found no '
      f':{lacking[0]}; the .asf is truncated, fetch it again.'
    )
  units = {words[0]: words[-1] for words in sections['units']}
  unit_m = INCH_M / _numbers([units.get('length', '1')])[0]
  to_radians = np.pi / 180 if units.get('angle', 'deg')[:3] == 'deg' else 1.0
  parents = {
    child: words[0]
    for words in sections['hierarchy'] if words[0] not in ('begin', 'end')
    for child in words[1:]
  }  # fmt: skip
  root = {words[0]: words[1:] for words in sections.get('root', [])}
  order = tuple(word.lower() for word in root.get('order', ()))
  if sorted(order) != ['rx', 'ry', 'rz', 'tx', 'ty', 'tz'] or np.any(
    _numbers(root.get('orientation', ()))
  ):
    raise ValueError(
      'expected a root in the .asf that moves and turns by TX TY TZ RX RY RZ '
      'and has no orientation of its own, found '
      f'{" ".join(root.get("order", ["no order"]))}; convert the motion to BVH.'
    )
  bones = {'root': Bone('', np.zeros(3), _turn((), ''), order)}
  for fields in _bone_fields(sections['bonedata']):
    name = ' '.join(fields.get('name', ['?']))
    channels = tuple(word.lower() for word in fields.get('dof', ()))
    if (
      name not in parents
      or [len(fields.get(f, ())) for f in ('direction', 'length', 'axis')]
      != [3, 1, 4]
      or not {*fields['axis'][-1].lower()} <= {*_AXES}
      or not {*channels} <= {'rx', 'ry', 'rz'}
    ):
      raise ValueError(
        'expected every bone of the .asf to have a parent, a direction, a '
        f'length, an axis such as "0 0 20 XYZ" and turns only, found {name} '
        'otherwise; fetch the .asf again, or convert the motion to BVH.'
      )
    *angles, axes = fields['axis']
    bones[name] = Bone(
      parent=parents[name],
      offset_3=_numbers(fields['direction'])
      * _numbers(fields['length'])
      * unit_m,
      frame_4=_turn(_numbers(angles) * to_radians, axes.lower()),
      channels=channels,
    )
  lacking = sorted(set(_BONES.values()) - set(bones))
  if lacking:
    raise ValueError(
      f'expected the bones of a CMU body in the .asf, found no '
      f'{", ".join(lacking)}; convert the motion to BVH with Mixamo or SMPL '
      'joint names.'
    )
  return Body(bones=_parents_first(bones), unit_m=unit_m)


def parse_amc(text: str, body: Body) -> dict[str, np.ndarray]:
  """The channels of each bone: [T, number of channels], lengths in metres.

  Angles come out in radians.
  """
  to_radians = np.pi / 180
  frames = []
  for line in text.splitlines():
    words = line.split()
    if not words or words[0].startswith('#'):
      continue
    if words[0].startswith(':'):
      if words[0].upper() == ':RADIANS':
        to_radians = 1.0
    elif len(words) == 1 and words[0].isdigit():
      frames.append({})
    elif not frames:
      raise ValueError(
        'expected an AMC file, whose frames begin with their number, found '
        f'{line[:20].strip()!r}; fetch the .amc again.'
      )
    else:
      frames[-1][words[0]] = words[1:]
  moving = {name: bone for name, bone in body.bones.items() if bone.channels}
  for number, frame in enumerate(frames, 1):
    for name, bone in moving.items():
      if len(frame.get(name, ())) != len(bone.channels):
        raise ValueError(
          f'expected {len(bone.channels)} numbers for {name} in frame {number} '
          f'of {len(frames)}, found {len(frame.get(name, ()))}; the .amc is '
          'truncated or belongs to another .asf.'
        )
  if not frames:
    raise ValueError(
      'expected an AMC file with frames, found none; fetch the .amc again.'
    )
  channels = {}
  for name, bone in moving.items():
    values = _numbers([frame[name] for frame in frames])
    scale = [to_radians if c[0] == 'r' else body.unit_m for c in bone.channels]
    channels[name] = values * scale
  return channels


def _bone_ends(
  body: Body, channels: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Forward kinematics: the end of each bone, [T, 3] metres."""
  num_frames = len(channels['root'])
  moves = {
    name: channels['root'][:, i]
    for i, name in enumerate(body.bones['root'].channels)
  }
  ends = {'root': np.stack([moves['tx'], moves['ty'], moves['tz']], axis=-1)}
  turns = {}
  for name, bone in body.bones.items():
    turn_T4 = np.tile([1.0, 0.0, 0.0, 0.0], (num_frames, 1))
    for i, channel in enumerate(bone.channels):
      if channel[0] == 'r':
        turn_T4 = skeleton.quat_multiply(
          skeleton.quat_from_axis_angle(
            _AXES[channel[1]], channels[name][:, i]
          ),
          turn_T4,
        )
    turn_T4 = skeleton.quat_multiply(
      skeleton.quat_multiply(bone.frame_4, turn_T4),
      skeleton.quat_inverse(bone.frame_4),
    )
    if bone.parent:
      turn_T4 = skeleton.quat_multiply(turns[bone.parent], turn_T4)
      ends[name] = ends[bone.parent] + skeleton.quat_rotate(
        turn_T4, bone.offset_3
      )
    turns[name] = turn_T4
  return ends


def _turn(angles_3: np.ndarray, axes: str) -> np.ndarray:
  """Quaternion of turns about fixed axes, the first one first."""
  q = np.array([1.0, 0.0, 0.0, 0.0])
  for angle, axis in zip(angles_3, axes, strict=False):
    q = skeleton.quat_multiply(
      skeleton.quat_from_axis_angle(_AXES[axis], angle), q
    )
  return q


def _parents_first(bones: dict[str, Bone]) -> dict[str, Bone]:
  ordered = {'root': bones['root']}
  while len(ordered) < len(bones):
    ready = {
      name: bone for name, bone in bones.items()
      if name not in ordered and bone.parent in ordered
    }  # fmt: skip
    if not ready:
      raise ValueError(
        'expected every bone of the .asf to hang from the root, found '
        f'{sorted(set(bones) - set(ordered))[0]} that does not; fetch the '
        '.asf again.'
      )
    ordered.update(ready)
  return ordered


def _sections(text: str) -> dict[str, list[list[str]]]:
  """Lines of each `:section`, as words."""
  sections, lines = {}, []
  for line in text.splitlines():
    words = line.split()
    if words and words[0].startswith(':'):
      lines = sections.setdefault(words[0][1:].lower(), [])
    elif words and not words[0].startswith('#'):
      lines.append(words)
  return sections


def _bone_fields(lines: list[list[str]]) -> list[dict[str, list[str]]]:
  """The `begin ... end` blocks of :bonedata, field name to its values."""
  bones = []
  for words in lines:
    if words[0] == 'begin':
      bones.append({})
    elif bones and words[0] != 'end':
      bones[-1][words[0]] = words[1:]
  return bones


def _numbers(words) -> np.ndarray:
  try:
    return np.array(words, np.float64)
  except ValueError as e:
    raise ValueError(
      f'expected numbers, found {str(e).rpartition(": ")[2]}; the file is '
      'damaged, fetch it again.'
    ) from None


def _read_text(path: str | os.PathLike) -> str:
  return pathlib.Path(path).read_text(encoding='utf-8', errors='replace')
