import re
import time

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vimonet_jax.motion import bvh, skeleton

CMU_FILE = 'mocap/raw/131_01.bvh'
# The 22 joints as tools call them, in SMPL's order.
MIXAMO = (
    'Hips LeftUpLeg RightUpLeg Spine LeftLeg RightLeg Spine1 LeftFoot '
    'RightFoot Spine2 LeftToeBase RightToeBase Neck LeftShoulder '
    'RightShoulder Head LeftArm RightArm LeftForeArm RightForeArm LeftHand '
    'RightHand'
)  # fmt: skip
SMPL_HUMANOID = (
    'Pelvis L_Hip R_Hip Torso L_Knee R_Knee Spine L_Ankle R_Ankle Chest L_Toe '
    'R_Toe Neck L_Thorax R_Thorax Head L_Shoulder R_Shoulder L_Elbow R_Elbow '
    'L_Wrist R_Wrist'
)  # fmt: skip
SMPL_MAYA = (
    'Pelvis L_Hip R_Hip Spine1 L_Knee R_Knee Spine2 L_Ankle R_Ankle Spine3 '
    'L_Foot R_Foot Neck L_Collar R_Collar Head L_Shoulder R_Shoulder L_Elbow '
    'R_Elbow L_Wrist R_Wrist'
)  # fmt: skip
BIPED = (
    'Pelvis L_Thigh R_Thigh Spine L_Calf R_Calf Spine1 L_Foot R_Foot Spine2 '
    'L_Toe0 R_Toe0 Neck L_Clavicle R_Clavicle Head L_UpperArm R_UpperArm '
    'L_Forearm R_Forearm L_Hand R_Hand'
)  # fmt: skip
UNREAL = (
    'pelvis thigh_l thigh_r spine_01 calf_l calf_r spine_02 foot_l foot_r '
    'spine_03 ball_l ball_r neck_01 clavicle_l clavicle_r head upperarm_l '
    'upperarm_r lowerarm_l lowerarm_r hand_l hand_r'
)  # fmt: skip
DAZ = (
    'hip lThigh rThigh abdomen lShin rShin waist lFoot rFoot chest lToe rToe '
    'neck lCollar rCollar head lShldr rShldr lForeArm rForeArm lHand rHand'
)  # fmt: skip
FAMILIES = {
  'smpl': list(skeleton.NAMES),
  'smpl_maya': [f'm_avg_{name}' for name in SMPL_MAYA.split()],
  'smpl_humanoid': SMPL_HUMANOID.split(),
  'mixamo': [f'mixamorig:{name}' for name in MIXAMO.split()],
  'motionbuilder': MIXAMO.split(),
  'biped': [f'Bip01 {name.replace("_", " ")}' for name in BIPED.split()],
  'unreal': UNREAL.split(),
  'daz': DAZ.split(),
}


def _rotations(num_frames, seed=0):
  """A body that wriggles: quaternions [T, 22, 4]."""
  rng = np.random.default_rng(seed)
  turns = rng.uniform(-0.6, 0.6, (num_frames, skeleton.NUM_JOINTS, 3))
  return skeleton.quat_from_rotation_vector(turns)


def _bvh(
  root_T3,
  rotations_TJ4,
  *,
  names=skeleton.NAMES,
  order='ZXY',
  offsets_J3=skeleton.STANDING_OFFSETS_J3,
  frame_time='0.05',
  left_out=(),
):
  """A BVH file as text; joints in `left_out` are turned into nothing."""
  columns, lines = [], ['HIERARCHY']
  to_scipy = np.array([1, 2, 3, 0])

  def add(j):
    position = [f'{axis}position' for axis in 'XYZ'] if j == 0 else []
    channels = position + [f'{axis}rotation' for axis in order]
    lines.append(f'{"JOINT" if j else "ROOT"} {names[j]}')
    lines.append('{')
    lines.append('OFFSET ' + ' '.join(f'{x:.9f}' for x in offsets_J3[j]))
    lines.append(f'CHANNELS {len(channels)} ' + ' '.join(channels))
    if j == 0:
      columns.append(root_T3)
    turn = Rotation.from_quat(rotations_TJ4[:, j][:, to_scipy])
    columns.append(turn.as_euler(order, degrees=True))
    children = [
      k for k, parent in enumerate(skeleton.PARENTS)
      if parent == j and k not in left_out
    ]  # fmt: skip
    for child in children:
      add(child)
    if not children:
      end = 0.1 * np.sign(offsets_J3[j])
      lines.extend(['End Site', '{'])
      lines.append('OFFSET ' + ' '.join(f'{x:.9f}' for x in end))
      lines.append('}')
    lines.append('}')

  add(0)
  values = np.concatenate(columns, axis=-1)
  lines += ['MOTION', f'Frames: {len(values)}', f'Frame Time: {frame_time}']
  lines += [' '.join(f'{x:.9f}' for x in row) for row in values]
  return '\n'.join(lines) + '\n'


@pytest.fixture
def read(tmp_path):
  def write_and_read(text):
    path = tmp_path / 'a.bvh'
    path.write_text(text)
    return bvh.read(path)

  return write_and_read


@pytest.mark.parametrize('order', ['ZXY', 'ZYX', 'XYZ', 'YZX'])
def test_a_written_motion_comes_back(read, order):
  root, rotations = np.random.default_rng(1).normal(size=(7, 3)), _rotations(7)
  clip = read(_bvh(root, rotations, order=order))
  expected = skeleton.forward_kinematics(root, rotations)
  np.testing.assert_allclose(clip.joints_TJ3, expected, atol=1e-6)
  assert clip.fps == pytest.approx(20)
  still = np.tile([1.0, 0, 0, 0], (1, skeleton.NUM_JOINTS, 1))
  rest = skeleton.forward_kinematics(np.zeros((1, 3)), still)[0]
  np.testing.assert_allclose(clip.rest_J3, rest, atol=1e-6)


@pytest.mark.parametrize('family', FAMILIES)
def test_the_names_of_common_tools_are_understood(read, family):
  root, rotations = np.zeros((3, 3)), _rotations(3)
  # Three spine joints are the file's own, wherever on the trunk they are.
  offsets = skeleton.STANDING_OFFSETS_J3.copy()
  offsets[skeleton.INDEX['spine1']] *= 2
  clip = read(
    _bvh(root, rotations, names=FAMILIES[family], offsets_J3=offsets)
  )
  expected = skeleton.forward_kinematics(root, rotations, offsets)
  np.testing.assert_allclose(clip.joints_TJ3, expected, atol=1e-6)


def test_line_ends_case_and_brackets_do_not_matter(read):
  text = _bvh(np.zeros((2, 3)), _rotations(2))
  expected = read(text).joints_TJ3
  for other in (
    text.replace('\n', '\r\n'),
    '\ufeff' + text,
    text.replace('\n{\n', ' {\n\t'),
    text.replace('Xrotation', 'XROTATION'),
    text.replace(' ', '\t'),
  ):
    np.testing.assert_array_equal(read(other).joints_TJ3, expected)


def test_positions_of_the_root_replace_its_offset(read):
  offsets = skeleton.STANDING_OFFSETS_J3.copy()
  offsets[0] = [5.0, 6.0, 7.0]
  root, rotations = np.ones((2, 3)), _rotations(2)
  clip = read(_bvh(root, rotations, offsets_J3=offsets))
  np.testing.assert_allclose(clip.joints_TJ3[:, 0], 1.0, atol=1e-6)
  np.testing.assert_allclose(clip.rest_J3[0], [5, 6, 7], atol=1e-6)


def test_a_foot_without_a_toe_ends_at_its_end_site(read):
  feet = [skeleton.INDEX['left_foot'], skeleton.INDEX['right_foot']]
  root, rotations = np.zeros((3, 3)), _rotations(3)
  joints = read(
    _bvh(root, rotations, names=MIXAMO.split(), left_out=feet)
  ).joints_TJ3
  whole = skeleton.forward_kinematics(root, rotations)
  others = [j for j in range(skeleton.NUM_JOINTS) if j not in feet]
  np.testing.assert_allclose(joints[:, others], whole[:, others], atol=1e-6)
  ankles = joints[:, [skeleton.PARENTS[j] for j in feet]]
  lengths = np.linalg.norm(joints[:, feet] - ankles, axis=-1)
  assert (lengths > 0.1).all()


def test_spine_and_collars_are_placed_where_a_file_has_fewer(read):
  """Chest upon hips, shoulders upon the chest: a body of 17 joints."""
  text = 'HIERARCHY\nROOT Hips\n{\nOFFSET 0 0 0\n'
  text += 'CHANNELS 3 Xposition Yposition Zposition\n'
  for side, x in (('Left', 1), ('Right', -1)):
    text += _chain(
      (f'{side}Hip', x, 0, 0), (f'{side}Knee', 0, -4, 0),
      (f'{side}Ankle', 0, -4, 0), (f'{side}Toe', 0, 0, 1.5),
    )  # fmt: skip
  arms = ''.join(
    _chain(
      (f'{side}Shoulder', 2 * x, 1, 0), (f'{side}Elbow', 3 * x, 0, 0),
      (f'{side}Wrist', 3 * x, 0, 0),
    )  # fmt: skip
    for side, x in (('Left', 1), ('Right', -1))
  )
  text += _chain(('Chest', 0, 4, 0), inside=arms + _chain(
      ('Neck', 0, 2, 0), ('Head', 0, 1, 0)))  # fmt: skip
  text += '}\nMOTION\nFrames: 1\nFrame Time: 0.05\n0 0 0\n'
  joints = dict(zip(skeleton.NAMES, read(text).joints_TJ3[0], strict=True))
  heights = [joints[name][1] for name in ('spine1', 'spine2', 'spine3')]
  lengths = skeleton.BONE_LENGTHS_J[[3, 6, 9, 12]]
  np.testing.assert_allclose(
    heights, 6 * lengths.cumsum()[:3] / lengths.sum(), atol=1e-6
  )
  np.testing.assert_allclose(joints['left_collar'], [1, 4.5, 0])
  np.testing.assert_allclose(joints['right_collar'], [-1, 4.5, 0])


def _chain(*joints, inside=''):
  """Joints without channels, each in the one before."""
  text = ''
  for name, x, y, z in joints:
    text += f'JOINT {name}\n{{\nOFFSET {x} {y} {z}\nCHANNELS 0\n'
  return text + inside + '}\n' * len(joints)


def test_a_file_of_cmu_has_a_neck_apart_from_its_spine(shared):
  clip = bvh.read(shared(CMU_FILE))
  assert clip.joints_TJ3.shape == (994, 22, 3)
  assert clip.fps == pytest.approx(120, abs=0.01)
  np.testing.assert_allclose(
    clip.joints_TJ3[0, 0], [5.23, 16.9002, -33.8986], atol=1e-9
  )
  joints = dict(zip(skeleton.NAMES, clip.rest_J3, strict=True))
  # Down the file: Chest2 and Neck, whose `lowerneck` between lies on Chest2.
  np.testing.assert_allclose(
    joints['neck'], [-0.02928, 5.58708, 0.10484], atol=1e-5
  )
  np.testing.assert_allclose(
    joints['left_collar'],
    [-0.03023 + 3.05381 / 2, 3.97693 + 1.47088 / 2, -0.00214 - 0.01697 / 2],
    atol=1e-5,
  )
  bones = clip.rest_J3[1:] - clip.rest_J3[list(skeleton.PARENTS[1:])]
  assert (np.linalg.norm(bones, axis=-1) > 0.3).all()
  lowest = clip.joints_TJ3[..., 1].min(axis=1)
  assert (lowest > 0).all()
  assert (lowest < 2.5).all()


def test_both_ways_of_naming_cmu_joints_give_one_body(read, shared):
  """In the other, `Neck` is the joint upon the spine and `Neck1` the neck."""
  text = shared(CMU_FILE).read_text()
  other = {'lowerback': 'LowerBack', 'Chest': 'Spine', 'Chest2': 'Spine1',
           'lowerneck': 'Neck', 'Neck': 'Neck1', 'lhand': 'LeftFingerBase',
           'rhand': 'RightFingerBase'}  # fmt: skip
  for side in ('Left', 'Right'):
    for smpl, cmu in (
      ('Hip', 'UpLeg'), ('Knee', 'Leg'), ('Ankle', 'Foot'), ('Toe', 'ToeBase'),
      ('Collar', 'Shoulder'), ('Shoulder', 'Arm'), ('Elbow', 'ForeArm'),
      ('Wrist', 'Hand'),
    ):  # fmt: skip
      other[side + smpl] = side + cmu
  renamed = re.sub(
    r'JOINT (\w+)', lambda m: f'JOINT {other.get(m[1], m[1])}', text
  )
  assert renamed != text
  np.testing.assert_array_equal(read(renamed).rest_J3, read(text).rest_J3)


def test_a_missing_joint_is_named(read):
  names = [name.replace('elbow', 'cubitus') for name in skeleton.NAMES]
  with pytest.raises(
    ValueError,
    match='found no left_elbow, right_elbow among pelvis, .*; name the joints',
  ):
    read(_bvh(np.zeros((2, 3)), _rotations(2), names=names))


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda t: t[: t.index('MOTION') - 20], 'MOTION section.*truncated'),
    (lambda t: t[:-300], 'expected 4 frames of 69 numbers, found 3.* frames'),
    (lambda t: t.replace('Frames: 4', 'Frames: 5'), 'expected 5 frames'),
    (lambda t: 'solid\n' + t, 'begins with HIERARCHY, found .solid'),
    (lambda t: t.replace('Zrotation', 'Zturn', 1), 'channels such as'),
    (lambda t: t.replace('MOTION', '}\nMOTION'), "found '}'"),
    (lambda t: t.replace('End Site\n', ''), "found '{'"),
    (lambda t: re.sub('CHANNELS.*', 'CHANNELS 0', t), 'CHANNELS that move'),
    (lambda t: t.replace('Frames:', 'Count:'), '"Frames:" and "Frame Time:"'),
    (lambda t: t.replace('0.000000000', 'zero'), "numbers, found 'zero'"),
    (
      lambda t: t.replace('MOTION', 'ROOT b\n{\nOFFSET 0 0 0\n}\nMOTION'),
      r'one body, found a second ROOT \(b\)',
    ),
  ],
)
def test_damage_is_told_in_a_sentence(damage, message):
  text = _bvh(np.zeros((4, 3)), _rotations(4))
  damaged = damage(text)
  assert damaged != text
  with pytest.raises(ValueError, match=message) as error:
    bvh.parse(damaged)
  assert str(error.value).startswith('expected')
  assert str(error.value).endswith('.')


def _nested(joints):
  return 'HIERARCHY\nROOT a\n{\n' + 'JOINT b\n{\n' * joints


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (f'{_nested(20_000)}\nMOTION', 'at most 1000 joints, found more'),
    # Each blank line once began a search through all that follow.
    ('HIERARCHY' + '\n' * 100_000, 'found the end of the file'),
    ('HIERARCHY\n' + 'x' * 10**6 + '\nMOTION\n', "found '(x{60})';"),
    (
      f'HIERARCHY\nROOT a\n{{\nCHANNELS 1 {"x" * 999}\n}}\nMOTION',
      'found 1 x{58};',
    ),
  ],
)
def test_what_is_far_too_much_is_told_at_once_and_in_short(text, message):
  start = time.process_time()
  with pytest.raises(ValueError, match=message) as error:
    bvh.parse(text)
  assert time.process_time() - start < 2
  assert len(str(error.value)) < 300


def test_a_number_of_frames_is_not_believed():
  text = _bvh(np.zeros((4, 3)), _rotations(4))
  for number, message in (
    ('9' * 12, 'expected 9{12} frames of 69 numbers, found 4.0 frames'),
    ('9' * 9999, "below MOTION, found 'Frames: 9+'"),
  ):
    with pytest.raises(ValueError, match=message):
      bvh.parse(text.replace('Frames: 4', f'Frames: {number}'))


def test_names_that_fit_nobody_are_told_in_short(read):
  names = [f'{j}{"x" * 999}' for j in range(skeleton.NUM_JOINTS)]
  with pytest.raises(ValueError, match='found no pelvis, .* among') as error:
    read(_bvh(np.zeros((2, 3)), _rotations(2), names=names))
  assert len(str(error.value)) < 2000


def test_a_frame_time_of_zero_is_no_frame_rate(read):
  text = _bvh(np.zeros((2, 3)), _rotations(2), frame_time='0')
  assert read(text).fps is None
