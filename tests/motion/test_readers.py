import csv
import shutil

import numpy as np
import pytest
from scipy.spatial import transform

from vimonet_jax.motion import features, readers, skeleton
from vimonet_jax.synthetic import actions


def _lie_down(joints_TJ3):
  """Turned about x: on its face along z, upon a floor at y = 0."""
  lying = joints_TJ3[..., [0, 2, 1]] * [1.0, -1.0, 1.0]
  return lying - [0.0, lying[..., 1].min(), 0.0]


def _bvh(joints_TJ3, rest_J3):
  """A BVH of position channels only, so that any joints can be written."""
  lines, order = ['HIERARCHY'], []

  def add(j):
    order.append(j)
    offset = rest_J3[j] - (rest_J3[skeleton.PARENTS[j]] if j else 0)
    lines.append(f'{"JOINT" if j else "ROOT"} {skeleton.NAMES[j]}\n{{')
    lines.append('OFFSET ' + ' '.join(map(str, offset)))
    lines.append('CHANNELS 3 Xposition Yposition Zposition')
    for child in np.flatnonzero(np.equal(skeleton.PARENTS, j)):
      add(child)
    lines.append('}')

  add(0)
  local = joints_TJ3.copy()
  local[:, 1:] -= joints_TJ3[:, list(skeleton.PARENTS[1:])]
  rows = local[:, order].reshape(len(local), -1)
  lines += ['MOTION', f'Frames: {len(rows)}', 'Frame Time: 0.05']
  return '\n'.join(lines + [' '.join(map(str, row)) for row in rows])


@pytest.fixture
def save(tmp_path):
  """Saves joints as .npy, or several arrays as .npz; returns the path."""

  def save_one(array=None, **arrays):
    path = tmp_path / ('a.npz' if arrays else 'a.npy')
    if arrays:
      np.savez(path, **arrays)
    else:
      np.save(path, array)
    return path

  return save_one


def _sentence(path, **flags):
  """The sentence that `read` fails with, after looking at its form."""
  with pytest.raises(readers.MotionFileError) as error:
    readers.read(path, **flags)
  message = str(error.value)
  assert message.startswith(f'{path}: ')
  sentence = message.removeprefix(f'{path}: ')
  assert sentence.lower().startswith('expected ')
  assert ', found ' in sentence
  assert '; ' in sentence.partition(', found ')[2], 'nothing to do is said'
  assert sentence.endswith('.')
  assert '. ' not in sentence
  assert '\n' not in sentence
  return sentence


# What a file with a frame rate, a unit and an up axis says is what comes out.


def test_joints_at_20_fps_come_back_as_they_were(save, stroll):
  joints = stroll()
  motion = readers.read(save(joints), fps=20)
  assert motion.joints.dtype == np.float32
  assert motion.features is None
  np.testing.assert_allclose(motion.joints, joints, atol=1e-6)
  assert features.encode(motion.joints).shape == (59, 263)


@pytest.mark.parametrize('scale', [1.0, 0.8, 1.2])
@pytest.mark.parametrize(
  ('unit', 'metres'),
  [('m', 1.0), ('cm', 0.01), ('mm', 0.001), ('inch', 0.0254),
   ("CMU's 1/0.45 inch", 0.0254 / 0.45)],
)  # fmt: skip
def test_units_are_seen_from_a_leg(save, unit, metres, scale, stroll):
  joints = scale * stroll()
  path = save(joints / metres)
  motion = readers.read(path, fps=20)
  np.testing.assert_allclose(motion.joints, joints, atol=1e-5)
  assert motion.notes[0].startswith(f'Unit {unit}, detected from a leg of')
  if unit in readers.UNITS:
    stated = readers.read(path, fps=20, unit=unit)
    np.testing.assert_array_equal(stated.joints, motion.joints)
    assert not any('leg' in note for note in stated.notes)


def test_a_leg_that_fits_no_unit_is_asked_about(save, stroll):
  path = save(0.5 * stroll())
  assert 'pass --unit, one of m, cm, mm, inch' in _sentence(path, fps=20)
  motion = readers.read(path, fps=20, unit='m')
  np.testing.assert_allclose(motion.joints, 0.5 * stroll(), atol=1e-6)


@pytest.mark.parametrize('up', ['x', 'y', 'z'])
def test_the_up_axis_is_seen_and_turned(save, up, stroll):
  joints = stroll()
  path = save(joints @ readers.TO_Y_UP[up])  # the inverse turn
  motion = readers.read(path, fps=20)
  np.testing.assert_allclose(motion.joints, joints, atol=1e-6)
  assert (
    f'Up axis {up}, detected: feet below neck along it, lowest joint at 0.00 m.'
    in motion.notes
  )
  stated = readers.read(path, fps=20, up=up)
  np.testing.assert_array_equal(stated.joints, motion.joints)
  assert not any('Up axis' in note for note in stated.notes)


def test_turning_up_keeps_left_and_right_apart():
  for turn in readers.TO_Y_UP.values():
    np.testing.assert_allclose(turn @ turn.T, np.eye(3))
    assert np.linalg.det(turn) == pytest.approx(1)
  # As HumanML3D: y and z change places, then x is negated.
  np.testing.assert_array_equal(readers.TO_Y_UP['z'] @ [1, 2, 3], [-1, 3, 2])


def test_turning_the_world_about_the_vertical_changes_nothing(save, stroll):
  joints = stroll()
  turn = skeleton.quat_from_axis_angle((0, 1, 0), 0.7)
  turned = skeleton.quat_rotate(turn, joints) + [3.0, 0.0, -2.0]
  one = features.encode(readers.read(save(joints), fps=20).joints)
  other = features.encode(readers.read(save(turned), fps=20).joints)
  np.testing.assert_allclose(other, one, atol=1e-4)


def test_a_mirrored_motion_is_the_mirror_image(save, stroll):
  joints = stroll()
  expected = skeleton.mirror(readers.read(save(joints), fps=20).joints)
  found = readers.read(save(skeleton.mirror(joints)), fps=20).joints
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_who_lies_all_the_time_shows_no_up_axis(save, stroll):
  """Along z it would stand 5 m from a floor, along no axis it stands on one."""
  turn = skeleton.quat_from_axis_angle((0, 1, 0), np.radians(45))
  for lying in (
    _lie_down(stroll()) + [0.0, 0.0, 5.0],
    skeleton.quat_rotate(turn, _lie_down(stroll())),
  ):
    assert 'pass --up, which is x, y or z.' in _sentence(save(lying), fps=20)
    motion = readers.read(save(lying), fps=20, up='y')
    np.testing.assert_allclose(motion.joints, lying, atol=1e-5)


@pytest.mark.parametrize('up', ['y', 'z'])
@pytest.mark.parametrize('heading', range(0, 360, 30))
@pytest.mark.parametrize('verb', ['lie', 'fall'])
def test_who_lies_with_the_feet_at_the_origin_is_not_stood_up(
  save, verb, heading, up
):
  """Head along an axis: all of it is as of one who stands beside a wall."""
  way = 'backward' if verb == 'fall' else ''
  program = [actions.Action(verb, direction=way)]
  lying = actions.animate(program, np.random.default_rng(0)).joints[-40:]
  body = lying[-1, skeleton.INDEX['neck']] - lying[-1, 7:9].mean(axis=0)
  turn = np.radians(heading) - np.arctan2(body[0], body[2])
  lying = skeleton.quat_rotate(
    skeleton.quat_from_axis_angle((0, 1, 0), turn), lying
  )
  lying -= lying[-1, 7:9].mean(axis=0) * [1, 0, 1]
  path = save(lying @ readers.TO_Y_UP[up])
  sentence = _sentence(path, fps=20)
  assert 'pass --up, which is x, y or z' in sentence
  if heading == 0:  # the head is where it would be of one who stands
    other = {'y': 'z', 'z': 'y'}[up]
    assert f'along {other} from ' in sentence
    assert up in sentence.partition('or lying with ')[2].partition(' up;')[0]
  np.testing.assert_allclose(
    readers.read(path, fps=20, up=up).joints, lying, atol=1e-5
  )


def test_who_stands_still_is_asked_about_only_near_a_wall_through_0(
  save, walk
):
  still = np.repeat(walk[:1], 40, axis=0).astype(np.float64)
  for place in ([1.0, 0.0, 2.0], [-0.6, 0.0, -0.5]):
    motion = readers.read(save(still + place), fps=20)
    np.testing.assert_allclose(motion.joints, still + place, atol=1e-5)
  still[..., 2] -= still[..., 2].min()
  assert 'or lying with z up' in _sentence(save(still), fps=20)


def test_who_stands_on_no_floor_shows_no_up_axis(save, stroll):
  floating = stroll() - [0.0, 0.9, 0.0]
  assert 'pass --up' in _sentence(save(floating), fps=20)
  motion = readers.read(save(floating), fps=20, up='y')
  np.testing.assert_allclose(motion.joints, floating, atol=1e-6)


def test_image_coordinates_are_upside_down(save, stroll):
  sentence = _sentence(save(stroll() * [1.0, -1.0, -1.0]), fps=20)
  assert 'standing along -y from -1.6 m up; pass --up' in sentence
  assert 'if -y is up, negate y and another' in sentence


def test_a_bvh_body_at_rest_tells_what_one_that_lies_cannot(tmp_path, stroll):
  """A z-up file: at rest the body stands, all through the clip it lies."""
  path, from_y_up = tmp_path / 'a.bvh', readers.TO_Y_UP['z']
  rest = stroll()[0] @ from_y_up
  slanting = skeleton.quat_rotate(
    skeleton.quat_from_axis_angle((0, 1, 0), np.radians(45)),
    _lie_down(stroll()),
  )
  path.write_text(_bvh(slanting @ from_y_up, rest))
  motion = readers.read(path)
  np.testing.assert_allclose(motion.joints, slanting, atol=1e-6)
  assert 'Turned from z up to y up.' in motion.notes
  note = 'Up axis z, detected: the body at rest stands along it.'
  assert note in motion.notes
  # Along y it could be standing, were it not for the rest.
  path.write_text(_bvh(_lie_down(stroll()) @ from_y_up, rest))
  assert 'standing along z at rest and y moving' in _sentence(path)
  np.testing.assert_allclose(
    readers.read(path, up='z').joints, _lie_down(stroll()), atol=1e-6
  )


# Frame rates.


@pytest.mark.parametrize('fps', [20, 40, 120, 119.88, 120.0005, 1 / 0.0083])
def test_multiples_of_20_fps_are_thinned_out_exactly(fps, stroll):
  joints = stroll(150, fps)
  found = readers.resample(joints, fps)
  np.testing.assert_array_equal(found, joints[:: round(fps / 20)])


@pytest.mark.parametrize('fps', [24, 25, 29.97, 30, 50, 90, 100 / 3, 12.5])
def test_other_rates_are_interpolated(fps):
  """A movement of 1.5 Hz is known between the frames too."""
  def wave(times):
    return np.sin(2 * np.pi * 1.5 * times + 0.3)

  num_frames = round(4 * fps)
  found = readers.resample(wave(np.arange(num_frames) / fps)[:, None], fps)
  times = np.arange(len(found)) / 20
  assert times[-1] <= (num_frames - 1) / fps + 1e-9 < times[-1] + 0.05
  inside = slice(3, -3)  # a spline knows less of its ends
  limit = 0.02 if fps < 20 else 1e-3
  assert np.abs(found[:, 0] - wave(times))[inside].max() < limit
  nearest = wave(np.round(times * fps) / fps)
  assert np.abs(nearest - wave(times))[inside].max() > limit


def test_a_faster_file_is_the_same_motion(save, stroll):
  slow = readers.read(save(stroll(61, 20)), fps=20).joints
  for fps, num_frames in ((120, 361), (30, 91), (50, 151)):
    motion = readers.read(save(stroll(num_frames, fps)), fps=fps)
    assert motion.fps == fps
    assert f'Resampled from {fps} to 20 fps.' in motion.notes
    assert len(motion.joints) == 61
    # The floor of a clip depends on the frames it has.
    np.testing.assert_allclose(motion.joints, slow, atol=2e-3)


def test_a_file_that_knows_its_rate_needs_no_flag(save, stroll):
  joints = stroll(91, 30)
  motion = readers.read(save(joints=joints, fps=30))
  assert len(motion.joints) == 61
  assert len(readers.read(save(joints=joints, fps=30), fps=20).joints) == 91


# Formats.


def test_features_are_handed_on_unchanged(save, stroll):
  published = features.encode(stroll())
  motion = readers.read(save(published))
  np.testing.assert_array_equal(motion.features, published)
  assert motion.fps == 20
  np.testing.assert_array_equal(motion.joints, features.recover(published))
  assert readers.read(save(published), fps=20, up='y', unit='m').features.any()
  for flags in ({'fps': 30}, {'up': 'z'}, {'unit': 'cm'}):
    assert 'leave out --fps, --up and --unit' in _sentence(
      save(published), **flags
    )


def _amass(num_frames=60, **others):
  """A body at rest, standing in AMASS's world with z up."""
  poses = np.zeros((num_frames, 156))
  poses[:, 0] = np.pi / 2
  trans = np.tile([0.4, 0.3, 0.93], (num_frames, 1))
  return {'poses': poses, 'trans': trans, 'mocap_framerate': 60.0, **others}


def test_amass_is_turned_from_z_up(save):
  motion = readers.read(save(**_amass()))
  assert len(motion.joints) == 20
  assert 'Turned from z up to y up.' in motion.notes
  body = motion.joints[0]
  assert body[skeleton.INDEX['head'], 1] > 1.2
  assert abs(body[..., 1].min()) < 0.3
  across = body[skeleton.INDEX['left_hip']] - body[skeleton.INDEX['right_hip']]
  feet = body[skeleton.INDEX['left_foot']] - body[skeleton.INDEX['left_ankle']]
  assert np.cross(across, [0.0, 1.0, 0.0]) @ feet > 0


@pytest.mark.parametrize('trans', [[0, 1.37, 4.0], [0, 1.15, 0], [0, 0, 0]])
@pytest.mark.parametrize(('roll', 'axis'), [(0.0, 'y'), (np.pi, '-y')])
def test_smpl_of_a_y_up_world_is_noticed(save, trans, roll, axis):
  """Also that of a camera, where y is down; its lowest z is near 0, too."""
  arrays = _amass()
  arrays['poses'][:, 0] = roll
  arrays['trans'][:] = trans
  sentence = _sentence(save(**arrays))
  assert f'along {axis} in a format that has z up; pass --up' in sentence
  motion = readers.read(save(**arrays), up='y')
  body = motion.joints[0, skeleton.INDEX['head']] - motion.joints[0, 7]
  assert np.sign(body[1]) == (1 if axis == 'y' else -1)


def test_smpl_of_somebody_who_lies_askew_is_believed(save):
  arrays = _amass()
  turn = transform.Rotation.from_euler('xz', [0, 45], degrees=True)
  arrays['poses'][:, :3] = turn.as_rotvec()  # the body in the plane of x and y
  arrays['trans'][:] = [0.0, 0.0, 0.1]
  motion = readers.read(save(**arrays))
  assert 'Turned from z up to y up.' in motion.notes
  assert np.ptp(motion.joints[..., 1]) < 0.4


def test_a_path_in_other_units_than_its_body_is_noticed(save):
  arrays = _amass()
  arrays['trans'][:, 0] += np.arange(60) / 60 * 100  # 1 m/s in centimetres
  assert 'pelvis no faster than 25 m/s, found 100 m/s' in _sentence(
    save(**arrays)
  )


def test_raw_cmu_trials_become_the_clips_of_the_pack(tmp_path, shared):
  mocap = shared('mocap')
  with open(mocap / 'clips.csv', newline='') as f:
    row = next(r for r in csv.DictReader(f) if r['cmu_trial'] == '16_33')
  clip = np.load(mocap / 'joints.npz')[row['clip_id']]
  start, end = int(row['start_frame_20fps']), int(row['end_frame_20fps'])
  motion = readers.read(mocap / 'raw/16_33.amc')
  np.testing.assert_allclose(motion.joints[start:end], clip, atol=1e-6)
  assert any('--fps' in note for note in motion.notes)
  assert len(readers.read(mocap / 'raw/16_33.amc', fps=60).joints) == 95
  oracle = mocap / 'oracle/new_joint_vecs' / f'{row["clip_id"]}.npy'
  if oracle.exists():
    np.testing.assert_allclose(
      features.encode(motion.joints[start:end]), np.load(oracle), atol=5e-4
    )


def test_real_files_are_read_without_being_told_more_than_their_rate(
  tmp_path, shared
):
  bvh_motion = readers.read(shared('mocap/raw/131_01.bvh'))
  assert bvh_motion.joints.shape == (166, 22, 3)
  assert bvh_motion.notes[0].startswith("Unit CMU's 1/0.45 inch")
  for path in shared('babel_segments').glob('*_joints_30fps.npy'):
    assert len(readers.read(path, fps=30).joints) > 180
  with np.load(shared('mocap/joints.npz')) as clips:
    asked = []
    for name in clips.files[::5]:
      joints = clips[name]
      np.save(tmp_path / 'a.npy', joints)
      try:
        motion = readers.read(tmp_path / 'a.npy', fps=20)
      except readers.MotionFileError as e:
        asked.append(str(e))
        continue
      np.testing.assert_array_equal(motion.joints, joints)
  assert len(asked) <= 5
  assert all('or lying with' in sentence for sentence in asked)


# What is wrong with a file is one sentence that names the file.


def _without_asf(path, _):
  text = ':FULLY-SPECIFIED\n:DEGREES\n1\nroot 0 0 0 0 0 0\n'
  path.with_suffix('.amc').write_text(text)
  return path.with_suffix('.amc')


def _text(suffix, text):
  def write(path, _):
    path = path.with_suffix(suffix)
    path.write_text(text)
    return path

  return write


def _array(make, **flags):
  def write(path, joints):
    np.save(path.with_suffix('.npy'), make(joints))
    return path.with_suffix('.npy')

  return write, flags


def _arrays(make):
  def write(path, joints):
    np.savez(path.with_suffix('.npz'), **make(joints))
    return path.with_suffix('.npz')

  return write, {}


def _truncated(path, joints):
  path.write_text(_bvh(joints, joints[0])[:-999])
  return path


def _holes(joints):
  joints[7, 3], joints[8, 3] = np.nan, np.inf
  return joints


def _upon(joints):
  joints[4, skeleton.INDEX['left_knee']] = joints[4, 1]
  return joints


BAD_FILES = {
  'no file': ((lambda path, _: path), {}, 'found none there; check the path'),
  'a folder': ((lambda path, _: path.parent), {}, 'found a folder'),
  'a wrong extension': (
    _text('.c3d', 'x'), {}, 'found a file of type .c3d; convert it',
  ),
  'an extension of another program': (
    _text('.fbx', 'x'), {}, 'export it as .bvh',
  ),
  'the body without its motion': (_text('.asf', 'x'), {}, 'pass the .amc'),
  'a wrong extension on text': (
    _text('.npy', 'HIERARCHY'), {}, "begins with b'HIERAR'",
  ),
  'a truncated bvh': (_truncated, {}, 'truncated'),
  'an amc without its asf': (_without_asf, {}, 'found no .asf there; put the'),
  'NaN': (
    *_array(_holes, fps=20), 'NaN or infinity in 2 of 60 frames, the first in '
    'frame 7; mend',
  ),
  'a wrong joint count': (
    *_array(lambda j: j[:, :21], fps=20), 'found float64 [60, 21, 3]',
  ),
  'three frames': (
    *_array(lambda j: j[:3], fps=20), 'at least 1 s of motion, found 3 frames',
  ),
  'no frames': (*_array(lambda j: j[:0], fps=20), 'found 0 frames'),
  'features without frames': (
    *_array(lambda j: np.zeros((0, 263))), 'found 0 frames',
  ),
  'poses that are words': (
    *_arrays(lambda j: {'poses': np.full((60, 66), 'x')}), 'found <U1 [60, 66]',
  ),
  'poses that are complex': (
    *_arrays(lambda j: {'poses': np.zeros((60, 66), complex)}), 'found complex',
  ),
  'a rate that is a word': (
    *_arrays(lambda j: {'joints': j, 'fps': 'thirty'}), 'found no number for',
  ),
  'no arrays': (*_arrays(lambda j: {}), 'found no array at all'),
  'joints that are all 0': (
    *_array(lambda j: 0 * j, fps=20, unit='m'), 'found none of any length',
  ),
  'a unit that helps nothing': (
    *_array(lambda j: 7 * j, fps=20, unit='m'), 'unit is m; scale the joints',
  ),
  'a unit off by 100': (
    *_array(lambda j: 100 * j, fps=20, unit='m'),
    'found 82.1 m where the unit is m; pass --unit=cm',
  ),
  'no unit': (*_array(lambda j: 7 * j, fps=20), 'unknown unit; pass --unit'),
  'no frame rate': (*_array(lambda j: j), 'pass --fps'),
  'seconds for a rate': (*_array(lambda j: j, fps=0.05), 'found 0.05; pass'),
  'an absurd rate': (*_array(lambda j: j, fps=1e4), '5 to 1000 frames per s'),
  'an unknown axis': (*_array(lambda j: j, up='w'), '--up to be x, y, z'),
  'an unknown unit': (*_array(lambda j: j, unit='km'), '--unit to be m, cm'),
  'mirrored joints': (
    *_array(lambda j: j * [-1.0, 1.0, 1.0], fps=20), 'negate one axis',
  ),
  'another order': (
    *_array(lambda j: j[:, ::-1], fps=20, unit='m'), 'order of skeleton.NAMES',
  ),
  'a joint upon another': (
    *_array(_upon, fps=20), 'found left_knee upon left_hip in frame 4',
  ),
  'a wrong rate': (
    *_array(lambda j: j + np.arange(60)[:, None, None] * [0, 0, 2], fps=20),
    'pelvis no faster than 25 m/s, found 40',
  ),
}  # fmt: skip


@pytest.mark.parametrize('kind', BAD_FILES)
def test_a_bad_file_gets_one_sentence(tmp_path, kind, stroll):
  make, flags, words = BAD_FILES[kind]
  sentence = _sentence(make(tmp_path / 'a.bvh', stroll()), **flags)
  assert words in sentence


def test_a_lone_body_of_another_name_is_named(tmp_path, shared):
  shutil.copy(shared('mocap/raw/16_33.amc'), tmp_path)
  for name, is_named in (('02.asf', True), ('16.asf', False)):
    shutil.copy(shared(f'mocap/raw/{name}'), tmp_path)
    notes = readers.read(tmp_path / '16_33.amc').notes
    sentence = f'The body is {name}, the only one beside the .amc.'
    assert (sentence in notes) == is_named
    assert any('The body is' in note for note in notes) == is_named


def test_a_truncated_amc_gets_one_sentence(tmp_path, shared):
  shutil.copy(shared('mocap/raw/02.asf'), tmp_path)
  whole = shared('mocap/raw/02_01.amc').read_text()
  path = tmp_path / '02_01.amc'
  path.write_text(whole[: len(whole) // 2])
  assert 'truncated' in _sentence(path)
