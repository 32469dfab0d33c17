"""BVH files: a tree of joints, then a row of positions and angles a frame.

BVH names neither its joints nor its axes nor its unit of length. The names are
matched here, against those of the common tools; unit and up axis are left to
`readers.py`.
"""

import dataclasses
import os
import re

import numpy as np

from vimonet_jax.motion import skeleton

# What the common tools call our joints, after `_side_and_part`. The first that
# a file has and no joint before took is it: SMPL's and CMU's `LeftFoot` are
# different joints, which shows only by whether there is a `LeftAnkle` too.
_MIDDLE = {
  'pelvis': ('pelvis', 'hips', 'hip', 'root'),
  'neck': ('neck', 'neck1', 'neck01', 'lowerneck'),
  'head': ('head',),
}
_LIMBS = {
  'hip': ('hip', 'upleg', 'upperleg', 'thigh', 'femur'),
  'knee': ('knee', 'leg', 'lowerleg', 'loleg', 'shin', 'calf', 'tibia'),
  'ankle': ('ankle', 'foot'),
  'foot': ('toebase', 'toe', 'toes', 'toe0', 'ball', 'foot'),
  'shoulder': ('arm', 'upperarm', 'uparm', 'shldr', 'humerus', 'shoulder'),
  'collar': ('collar', 'clavicle', 'thorax', 'shoulder'),
  'elbow': ('elbow', 'forearm', 'lowerarm', 'loarm', 'radius'),
  'wrist': ('wrist', 'hand'),
}
_SIDES = {'left': 'l', 'right': 'r'}
_PARTS = '|'.join(sorted({p for parts in _LIMBS.values() for p in parts}))
# LeftLeg left_leg | L_Leg, L Leg, lLeg | lleg | Leg_L, leg.left
_SIDED = (
  re.compile(r'(?i:(?P<side>l)eft|(?P<side2>r)ight)[ _.-]*(?P<part>.+)'),
  re.compile(r'(?P<side>[lLrR])([ _.-]+|(?=[A-Z][a-z]))(?P<part>.+)'),
  re.compile(rf'(?i:(?P<side>[lr])(?P<part>{_PARTS}))$'),
  re.compile(r'(?P<part>.+)[ _.-](?P<side>[lLrR])((?i:eft|ight))?$'),
)
_CHANNEL = re.compile('[XYZ](position|rotation)')
# Bodies with fingers and faces have a few hundred, their end sites included.
_MOST_JOINTS = 1000
# What is shown of a file's own words.
_WORDS, _NAMES = 60, 80
_AXES = {'X': (1.0, 0.0, 0.0), 'Y': (0.0, 1.0, 0.0), 'Z': (0.0, 0.0, 1.0)}
# How far up the trunk SMPL's spine joints are, pelvis to neck.
_SPINE = ('spine1', 'spine2', 'spine3')
_TRUNK_LENGTHS = skeleton.BONE_LENGTHS_J[
  [skeleton.INDEX[name] for name in (*_SPINE, 'neck')]
]
_SPINE_FRACTIONS = (_TRUNK_LENGTHS.cumsum() / _TRUNK_LENGTHS.sum())[:3]


@dataclasses.dataclass(frozen=True)
class Recording:
  """What a BVH file says. K counts its joints and end sites, parents first.

  Attributes:
    names: of the K joints; an end site is called ''.
    parents: index of each joint's parent, -1 for the root.
    offsets_K3: rest position relative to the parent, in the file's unit.
    channels: for each joint what its columns are, e.g. ('Xposition', ...).
    values_TC: a row a frame; positions in the file's unit, angles in degrees.
    fps: frames per second, None where the file gives no usable frame time.
  """

  names: tuple[str, ...]
  parents: tuple[int, ...]
  offsets_K3: np.ndarray
  channels: tuple[tuple[str, ...], ...]
  values_TC: np.ndarray
  fps: float | None


@dataclasses.dataclass(frozen=True)
class Clip:
  """A body's motion in the unit and the axes of its file.

  Attributes:
    joints_TJ3: float64 [T, 22, 3].
    rest_J3: the same joints where all angles are zero.
    fps: frames per second, or None.
  """

  joints_TJ3: np.ndarray
  rest_J3: np.ndarray
  fps: float | None


def read(path: str | os.PathLike) -> Clip:
  """Reads the body in a BVH file.

  Spine joints are taken from the file where it has three between pelvis and
  neck; other numbers are spaced along its trunk as SMPL's are. A collar that
  lies on the spine, as in CMU's files, or is missing is put half way to the
  shoulder.

  Raises:
    ValueError: one sentence about what is wrong with the file.
  """
  with open(path, encoding='utf-8-sig', errors='replace') as f:
    recording = parse(f.read())
  rest_K3 = _rest_positions(recording)
  weights_JK = _weights(recording, rest_K3)
  return Clip(
    joints_TJ3=np.einsum('jk,tkc->tjc', weights_JK, positions(recording)),
    rest_J3=weights_JK @ rest_K3,
    fps=recording.fps,
  )


def parse(text: str) -> Recording:
  """Takes a BVH file apart; raises a ValueError that says what is wrong."""
  if not text.lstrip().startswith('HIERARCHY'):
    raise ValueError(
      'expected a BVH file, which begins with HIERARCHY, found '
      f'{text[:20].strip()!r}; export the motion as BVH again.'
    )
  tree, *motions = re.split(
    r'^[^\S\n]*MOTION\b', text, maxsplit=1, flags=re.M
  )
  if not motions:
    raise ValueError(
      'expected a MOTION section behind the HIERARCHY, found the end of the '
      'file; it is truncated, export it again.'
    )
  (motion,) = motions
  nodes = _parse_tree(tree)
  num_channels = sum(len(node.channels) for node in nodes)
  if not num_channels:
    raise ValueError(
      'expected CHANNELS that move the joints, found none in the HIERARCHY; '
      'export the file again, with its motion.'
    )
  head = re.match(
    r'\s*Frames:\s*(?P<frames>\d{1,12})\s*Frame\s+Time:\s*(?P<time>\S+)', motion
  )
  if head is None:
    raise ValueError(
      'expected "Frames:" and "Frame Time:" below MOTION, found '
      f'{motion[:40].strip()!r}; export the file again.'
    )
  num_frames = int(head['frames'])
  values = _numbers(motion[head.end() :].split())
  if len(values) != num_frames * num_channels:
    raise ValueError(
      f'expected {num_frames} frames of {num_channels} numbers, found '
      f'{len(values) / num_channels:.1f} frames; the file is truncated or its '
      '"Frames:" is wrong, export it again.'
    )
  frame_time = _numbers([head['time']])[0]
  return Recording(
    names=tuple(node.name for node in nodes),
    parents=tuple(node.parent for node in nodes),
    offsets_K3=np.array([node.offset for node in nodes]),
    channels=tuple(node.channels for node in nodes),
    values_TC=values.reshape(num_frames, num_channels),
    fps=1.0 / frame_time if frame_time > 0 else None,
  )


def positions(recording: Recording) -> np.ndarray:
  """Forward kinematics: [T, K, 3] in the file's unit.

  Angles turn a joint in the order of its columns, each about the axes that
  the ones before have turned. Position columns stand in for the joint's
  offset, they do not add to it.
  """
  num_frames = len(recording.values_TC)
  columns = iter(recording.values_TC.T)
  offsets, rotations = [], []
  for k, names in enumerate(recording.channels):
    offset_T3 = np.tile(recording.offsets_K3[k], (num_frames, 1))
    rotation_T4 = np.tile([1.0, 0.0, 0.0, 0.0], (num_frames, 1))
    for name in names:
      column_T, axis = next(columns), name[0]
      if name.endswith('position'):
        offset_T3[:, 'XYZ'.index(axis)] = column_T
      else:
        rotation_T4 = skeleton.quat_multiply(
          rotation_T4,
          skeleton.quat_from_axis_angle(_AXES[axis], np.radians(column_T)),
        )
    offsets.append(offset_T3)
    rotations.append(rotation_T4)
  # Offsets may change from frame to frame, so time is their second axis here.
  return skeleton.forward_kinematics(
    offsets[0], np.stack(rotations, axis=1), np.stack(offsets),
    recording.parents,
  )  # fmt: skip


@dataclasses.dataclass
class _Node:
  name: str
  parent: int
  offset: np.ndarray
  channels: tuple[str, ...] = ()


def _parse_tree(text: str) -> list[_Node]:
  """The joints and end sites of the HIERARCHY section, in their order."""
  nodes, open_nodes = [], [-1]
  for found in re.finditer(r'[{}]|[^{}\n]+', text):
    line = found[0]
    word, *rest = line.split() or ['']
    if word in ('ROOT', 'JOINT', 'End'):
      if len(nodes) == _MOST_JOINTS:
        raise ValueError(
          f'expected a body of at most {_MOST_JOINTS} joints, found more; '
          'export the body alone.'
        )
      if word == 'ROOT' and nodes:
        raise ValueError(
          'expected one body, found a second ROOT '
          f'({" ".join(rest)[:_WORDS]}); save each body in a file of its own.'
        )
      name = '' if word == 'End' else ' '.join(rest)
      nodes.append(_Node(name, open_nodes[-1], np.zeros(3)))
    elif word == '{' and open_nodes[-1] < len(nodes) - 1:
      open_nodes.append(len(nodes) - 1)
    elif word == '}' and len(open_nodes) > 1:
      open_nodes.pop()
    elif word == 'OFFSET' and nodes and len(rest) == 3:
      nodes[-1].offset = _numbers(rest)
    elif word == 'CHANNELS' and nodes:
      nodes[-1].channels = tuple(name.capitalize() for name in rest[1:])
      if not all(map(_CHANNEL.fullmatch, nodes[-1].channels)):
        raise ValueError(
          'expected channels such as Xposition and Zrotation, found '
          f'{" ".join(rest)[:_WORDS]}; export the motion as plain BVH.'
        )
    elif word not in ('', 'HIERARCHY'):
      raise ValueError(
        'expected ROOT, JOINT, OFFSET or CHANNELS, found '
        f'{line.strip()[:_WORDS]!r}; the file is damaged, export it again.'
      )
  if len(open_nodes) > 1 or not nodes:
    raise ValueError(
      'expected a HIERARCHY whose brackets are all closed, found '
      f'{len(open_nodes) - 1} open ones behind {len(nodes)} joints; the file '
      'is damaged, export it again.'
    )
  return nodes


def _numbers(words: list[str]) -> np.ndarray:
  try:
    return np.array(words, np.float64)
  except ValueError as e:
    raise ValueError(
      f'expected numbers, found {str(e).rpartition(": ")[2][:_WORDS]}; the '
      'file is damaged, export it again.'
    ) from None


def _rest_positions(recording: Recording) -> np.ndarray:
  """Where the K joints are when no column moves them: [K, 3]."""
  rest = []
  for parent, offset in zip(
    recording.parents, recording.offsets_K3, strict=True
  ):
    rest.append(offset if parent < 0 else rest[parent] + offset)
  return np.array(rest)


def _side_and_part(name: str) -> tuple[str, str]:
  """`LeftUpLeg`, `L_UpLeg`, `upleg.l` are all ('l', 'upleg')."""
  for pattern in _SIDED:
    if found := pattern.match(name):
      side = found['side'] or found.groupdict().get('side2')
      return side.lower(), _letters(found['part'])
  return '', _letters(name)


def _letters(text: str) -> str:
  return re.sub('[^a-z0-9]', '', text.lower())


def _find_joints(recording: Recording) -> dict[str, int]:
  """Index of each of our joints that the file has under a known name."""
  # `mixamorig:Hips`, `Bip01 L Thigh`, `m_avg_Pelvis`: what all share says
  # nothing.
  names = [name.split(':')[-1] for name in recording.names]
  shared = len(os.path.commonprefix([name for name in names if name]))
  keys = {}
  for k, name in enumerate(names):
    keys.setdefault(_side_and_part(name[shared:].strip(' _.-')), k)
  wanted = [(name, '', parts) for name, parts in _MIDDLE.items()] + [
    (f'{side}_{name}', letter, parts)
    for side, letter in _SIDES.items()
    for name, parts in _LIMBS.items()
  ]
  found = {}
  for name, side, parts in wanted:
    candidates = [
      keys[side, part]
      for part in parts
      if (side, part) in keys and keys[side, part] not in found.values()
    ]
    # CMU's conversions have a `Neck` upon the spine and the neck as `Neck1`.
    apart = [k for k in candidates if recording.offsets_K3[k].any()]
    if candidates:
      found[name] = (apart or candidates)[0]
  for side in _SIDES:
    if f'{side}_foot' not in found and f'{side}_ankle' in found:
      ends = [
        k for k, parent in enumerate(recording.parents)
        if parent == found[f'{side}_ankle'] and recording.offsets_K3[k].any()
      ]  # fmt: skip
      found.update({f'{side}_foot': k for k in ends[:1]})
  return found


def _weights(recording: Recording, rest_K3: np.ndarray) -> np.ndarray:
  """Our 22 joints as weighted means of the file's: [22, K], rows sum to 1."""
  found = _find_joints(recording)
  derived = {*_SPINE, 'left_collar', 'right_collar'}
  missing = [
    name for name in skeleton.NAMES if name not in found and name not in derived
  ]
  if missing:
    names = [name[:_WORDS] for name in recording.names if name]
    names = names[:_NAMES] + ['...'] * (len(names) > _NAMES)
    raise ValueError(
      f'expected the joints of a human body, found no {", ".join(missing)} '
      f'among {", ".join(names)}; name the joints as Mixamo (LeftForeArm) or '
      'SMPL (left_elbow) do.'
    )
  weights_JK = np.zeros((skeleton.NUM_JOINTS, len(recording.names)))
  for name, k in found.items():
    weights_JK[skeleton.INDEX[name], k] = 1.0
  for side in _SIDES:
    shoulder, collar = found[f'{side}_shoulder'], found.get(f'{side}_collar')
    if collar is None or not recording.offsets_K3[collar].any():
      start = recording.parents[shoulder] if collar is None else collar
      row = weights_JK[skeleton.INDEX[f'{side}_collar']]
      row[:] = 0.0
      row[[start, shoulder]] = 0.5
  trunk = _trunk(recording, found['pelvis'], found['neck'], rest_K3)
  for i, name in enumerate(_SPINE):
    row = weights_JK[skeleton.INDEX[name]]
    if len(trunk) == 5:
      row[trunk[i + 1]] = 1.0
      continue
    lengths = np.linalg.norm(np.diff(rest_K3[trunk], axis=0), axis=-1)
    heights = np.r_[0.0, lengths.cumsum() / lengths.sum()]
    for node, share in zip(trunk, np.eye(len(trunk)), strict=True):
      row[node] = np.interp(_SPINE_FRACTIONS[i], heights, share)
  return weights_JK


def _trunk(recording: Recording, pelvis: int, neck: int, rest_K3) -> list[int]:
  """The joints from pelvis to neck, those that lie upon another left out."""
  below = {-1}
  k = pelvis
  while k >= 0:
    below.add(k)
    k = recording.parents[k]
  trunk = [neck]
  k = recording.parents[neck]
  while k not in below:
    if not np.allclose(rest_K3[k], rest_K3[trunk[-1]]):
      trunk.append(k)
    k = recording.parents[k]
  if len(trunk) > 1 and np.allclose(rest_K3[trunk[-1]], rest_K3[pelvis]):
    trunk.pop()
  return [pelvis, *reversed(trunk)]
