import csv
import shutil

import numpy as np
import pytest

from vimonet_jax.motion import amc, skeleton

# Bones of a CMU body and what each hangs from.
HIERARCHY = """
root lhipjoint rhipjoint lowerback
lhipjoint lfemur
lfemur ltibia
ltibia lfoot
rhipjoint rfemur
rfemur rtibia
rtibia rfoot
lowerback upperback
upperback thorax
thorax lowerneck lclavicle rclavicle
lowerneck upperneck
lclavicle lhumerus
lhumerus lradius
lradius lwrist
rclavicle rhumerus
rhumerus rradius
rradius rwrist
"""
DOFS = {'lfemur': 'rx ry rz', 'thorax': 'rz'}
AXES = {'lfemur': '0 0 90 XYZ'}


def _asf(unit=0.45, angle='deg'):
  """A body whose bones are all 2 units long and point up."""
  bones = ''
  for name in sorted(set(HIERARCHY.split()) - {'root'}):
    bones += (
      f'  begin\n    id 1\n    name {name}\n    direction 0 1 0\n    length 2\n'
      f'    axis {AXES.get(name, "0 0 0 XYZ")}\n'
    )
    if name in DOFS:
      bones += f'    dof {DOFS[name]}\n    limits (-90 90)\n           (-9 9)\n'
    bones += '  end\n'
  return (
    f'# made by a test\n:version 1.10\n:name test\n:units\n  mass 1\n'
    f'  length {unit}\n  angle {angle}\n:root\n   order TX TY TZ RX RY RZ\n'
    f'   axis XYZ\n   position 0 0 0\n   orientation 0 0 0\n:bonedata\n{bones}'
    f':hierarchy\n  begin\n{HIERARCHY}  end\n'
  )


def _amc(*frames, header=':FULLY-SPECIFIED\n:DEGREES\n'):
  text = '# made by a test\n' + header
  for number, (root, lfemur, thorax) in enumerate(frames, 1):
    text += f'{number}\nroot {root}\nlfemur {lfemur}\nthorax {thorax}\n'
  return text


STILL = ('0 0 0 0 0 0', '0 0 0', '0')


@pytest.fixture
def read(tmp_path):
  def write_and_read(frames_text, asf_text=None):
    (tmp_path / '07.asf').write_text(asf_text or _asf())
    (tmp_path / '07_01.amc').write_text(frames_text)
    joints = amc.read(tmp_path / '07_01.amc', tmp_path / '07.asf')
    return [dict(zip(skeleton.NAMES, frame, strict=True)) for frame in joints]

  return write_and_read


def test_raw_trials_give_the_joints_that_humanml3d_cuts_its_clips_from(shared):
  mocap = shared('mocap')
  with open(mocap / 'clips.csv', newline='') as f:
    rows = list(csv.DictReader(f))
  clips = np.load(mocap / 'joints.npz')
  num_compared = 0
  for path in sorted((mocap / 'raw').glob('*.amc')):
    joints = amc.read(path, amc.find_asf(path))[::6]
    for row in rows:
      if row['cmu_trial'] == path.stem:
        start, end = int(row['start_frame_20fps']), int(row['end_frame_20fps'])
        np.testing.assert_allclose(
          joints[start:end], clips[row['clip_id']], atol=5e-7
        )
        num_compared += 1
  assert num_compared == 15


def test_lengths_are_inches_times_the_unit_of_the_body(read):
  for unit in (0.45, 1.0):
    (frame,) = read(_amc(('1 0 0 0 0 0', '0 0 0', '0')), _asf(unit))
    unit_m = 0.0254 / unit
    np.testing.assert_allclose(frame['pelvis'], [unit_m, 0, 0])
    np.testing.assert_allclose(frame['left_hip'], [unit_m, 2 * unit_m, 0])
    np.testing.assert_allclose(frame['left_foot'], [unit_m, 8 * unit_m, 0])


def test_joints_without_a_bone_end_lie_half_way(read):
  (frame,) = read(_amc(STILL))
  unit_m = 0.0254 / 0.45
  np.testing.assert_allclose(frame['spine3'], [0, 5 * unit_m, 0])
  np.testing.assert_allclose(frame['left_collar'], [0, 7 * unit_m, 0])
  np.testing.assert_allclose(frame['left_shoulder'], [0, 8 * unit_m, 0])


def test_a_bone_turns_about_the_axes_of_its_own_frame(read):
  """The femur's frame is turned by 90 degrees about z: its x is the world's y,
  its y the world's -x."""
  still, about_x, about_y, knee = read(
    _amc(
      STILL,
      ('0 0 0 0 0 0', '90 0 0', '0'),
      ('0 0 0 0 0 0', '0 90 0', '0'),
      ('0 0 0 0 0 0', '90 90 0', '0'),
    )
  )
  bone = 2 * 0.0254 / 0.45
  hip = still['left_hip']
  np.testing.assert_allclose(
    about_x['left_knee'], hip + [0, bone, 0], atol=1e-12
  )
  np.testing.assert_allclose(
    about_y['left_knee'], hip + [0, 0, -bone], atol=1e-12
  )
  # x first, then y, both about axes that stay: the bone lies along x's axis
  # and only y moves it.
  np.testing.assert_allclose(
    knee['left_knee'], hip + [0, 0, -bone], atol=1e-12
  )
  np.testing.assert_allclose(
    about_y['left_ankle'], hip + [0, 0, -2 * bone], atol=1e-12
  )


def test_the_root_turns_x_first(read):
  (frame,) = read(_amc(('0 0 0 90 0 90', '0 0 0', '0')))
  # A bone along y goes to z about x, where z leaves it.
  np.testing.assert_allclose(
    frame['left_hip'], [0, 0, 2 * 0.0254 / 0.45], atol=1e-12
  )


def test_radians_are_radians(read):
  degrees = ('0 0 0 10 20 30', '40 50 60', '70')
  radians = [
    ' '.join(str(np.radians(float(x))) for x in words.split())
    for words in degrees
  ]
  (expected,) = read(_amc(degrees))
  (found,) = read(_amc(radians, header=':FULLY-SPECIFIED\n:RADIANS\n'))
  for name in skeleton.NAMES:
    np.testing.assert_allclose(found[name], expected[name], atol=1e-9)


def test_line_ends_do_not_matter(read):
  text = _amc(STILL, ('1 2 3 10 20 30', '4 5 6', '7'))
  expected = read(text)
  found = read(text.replace('\n', '\r\n'), _asf().replace('\n', '\r\n'))
  for a, b in zip(found, expected, strict=True):
    for name in skeleton.NAMES:
      np.testing.assert_array_equal(a[name], b[name])


def test_the_body_is_found_beside_the_motion(tmp_path):
  motion = tmp_path / '07_01.amc'
  motion.touch()
  with pytest.raises(ValueError, match=r'07\.asf beside.*found no \.asf there'):
    amc.find_asf(motion)
  (tmp_path / 'someone.ASF').touch()
  assert amc.find_asf(motion).name == 'someone.ASF'
  (tmp_path / 'other.asf').touch()
  with pytest.raises(ValueError, match=r'found other\.asf, someone\.ASF; put'):
    amc.find_asf(motion)
  (tmp_path / '07.asf').touch()
  assert amc.find_asf(motion).name == '07.asf'
  (tmp_path / '07_01.asf').touch()
  assert amc.find_asf(motion).name == '07_01.asf'


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda t: t[:-12], '3 numbers for lfemur in frame 2 of 2, found 2'),
    (lambda t: t.replace('thorax 0', 'thorax 0 0'), 'another .asf'),
    (lambda t: t.replace('root 0', 'root zero'), "found 'zero'"),
    (lambda t: t[: t.index('1\n')], 'with frames, found none'),
    (lambda t: 'HIERARCHY\n' + t, "begin with their number, found 'HIERAR"),
  ],
)
def test_damage_of_the_motion_is_told(read, damage, message):
  text = _amc(STILL, STILL)
  assert damage(text) != text
  with pytest.raises(ValueError, match=message):
    read(damage(text))


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda t: t[: t.index(':hierarchy')], 'no :hierarchy.*truncated'),
    (lambda t: t.replace('lfemur', 'femur.L'), 'no lfemur'),
    (lambda t: t.replace('    direction 0 1 0\n', '', 1), 'a direction, a le'),
    (lambda t: t.replace('0 0 90 XYZ', '0 0 90 XYW'), 'an axis such as'),
    (lambda t: t.replace('dof rz', 'dof rz l'), 'turns only, found thorax'),
    (lambda t: t.replace('length 2', 'length two'), "numbers, found 'two'"),
    (lambda t: t.replace('orientation 0', 'orientation 9'), 'of its own'),
    (lambda t: t.replace('order TX', 'order'), 'TX TY TZ RX RY RZ'),
    (lambda t: t.replace('root lhip', 'toot lhip'), 'hang from the root'),
  ],
)
def test_damage_of_the_body_is_told(read, damage, message):
  text = _asf()
  assert damage(text) != text
  with pytest.raises(ValueError, match=message):
    read(_amc(STILL), damage(text))


def test_a_motion_of_another_body_is_told(tmp_path, shared):
  mocap = shared('mocap')
  shutil.copy(mocap / 'raw/02_01.amc', tmp_path)
  (tmp_path / '02.asf').write_text(_asf())
  with pytest.raises(ValueError, match='belongs to another .asf'):
    amc.read(tmp_path / '02_01.amc', tmp_path / '02.asf')
