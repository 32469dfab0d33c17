import time

import numpy as np
import pytest
from scipy.spatial import transform

from vimonet_jax.motion import features, skeleton

UP = np.array([0.0, 1.0, 0.0])
LOCAL = ('positions', 'rotations', 'velocities')


def _turned(joints_TJ3, bearing_T):
  """The clip turned about the vertical, to the left where positive."""
  half = 0.5 * np.broadcast_to(bearing_T, joints_TJ3.shape[:1])
  q = np.stack([np.cos(half), 0 * half, np.sin(half), 0 * half], axis=-1)
  return skeleton.quat_rotate(q[:, None], joints_TJ3)


@pytest.fixture
def turning(clips):
  """Makes a stiff body that turns on the spot, bearing in radians a frame."""

  def make(bearing_T):
    still = np.broadcast_to(clips[0][0], (len(bearing_T), 22, 3))
    return _turned(still, bearing_T)

  return make


def _leg_length(joints):
  bones = joints[0, [5, 8]] - joints[0, [2, 5]]
  return np.linalg.norm(bones, axis=-1).sum()


def _column(motion, name):
  return motion[:, features.SLICES[name]]


def _assert_same(motion, expected, atol):
  for name in features.SLICES:
    np.testing.assert_allclose(
      _column(motion, name), _column(expected, name), atol=atol, err_msg=name
    )


# Against what HumanML3D's own scripts computed.


def test_mocap_clips_give_the_reference_features(shared):
  joints = np.load(shared('mocap/joints.npz'))
  paths = sorted(shared('mocap/oracle/new_joint_vecs').glob('*.npy'))
  assert len(paths) == 29
  for path in paths:
    clip = joints[path.stem.removeprefix('M')]
    if path.stem.startswith('M'):
      clip = skeleton.mirror(clip)
    _assert_same(features.encode(clip), np.load(path), atol=2e-4)


def test_reference_features_give_the_reference_joints(shared):
  paths = sorted(shared('mocap/oracle/new_joint_vecs').glob('*.npy'))
  paths.append(shared('humanml3d/new_joint_vecs/012314.npy'))
  for path in paths:
    expected = np.load(path.parents[1] / 'new_joints' / path.name)
    recovered = features.recover(np.load(path))
    assert recovered.dtype == np.float32
    np.testing.assert_allclose(recovered, expected, atol=1e-5)


def test_clips_as_captured_give_the_published_features(shared):
  """An official raw clip, and two of bodies with other bones."""
  official = np.load(shared('humanml3d/004822_raw_joints_and_features.npz'))
  pairs = [(official['joints'], official['hml263'])]
  for clip in ('06_12_000576', '06_15_001775'):
    path = shared('retargeted') / clip
    pairs.append([
      np.load(f'{path}_{array}.npy')
      for array in ('joints_20fps', 'features_ref')
    ])  # fmt: skip
  for joints, expected in pairs:
    _assert_same(features.encode(joints), expected, atol=1e-4)


def test_twenty_minutes_of_mocap_take_less_than_five_seconds(shared):
  joints = np.load(shared('mocap/joints.npz'))
  clips = [joints[name] for name in joints.files]
  assert len(clips) == 245
  start = time.process_time()
  for clip in clips:
    features.encode(clip)
  assert time.process_time() - start < 5


# Geometry.


@pytest.mark.parametrize('program', range(4))
def test_features_give_back_the_joints(program, clips):
  joints = clips[program]
  motion = features.encode(joints)
  assert motion.dtype == np.float32
  assert motion.shape == (len(joints) - 1, 263)
  np.testing.assert_allclose(
    features.recover(motion), features.canonicalise(joints)[:-1], atol=1e-4
  )


@pytest.mark.parametrize('bearing', [0.3, np.pi / 2, np.pi, -2.5])
def test_turning_moving_and_scaling_the_world_changes_nothing(bearing, clips):
  joints = clips[0]
  moved = 100 * (_turned(joints, bearing) + [3, -1, 20])
  _assert_same(features.encode(moved), features.encode(joints), atol=1e-5)


def test_a_canonical_clip_stands_where_it_should_and_stays(clips):
  joints = _turned(clips[0] * 1.3, 2.0) + [1, 2, 3]
  clip = features.canonicalise(joints)
  bones = np.linalg.norm(clip[:, 1:] - clip[:, skeleton.PARENTS[1:]], axis=-1)
  np.testing.assert_allclose(
    bones, np.tile(skeleton.BONE_LENGTHS_J[1:], (len(clip), 1)), atol=1e-12
  )
  assert clip[..., 1].min() == pytest.approx(0, abs=1e-12)
  np.testing.assert_allclose(clip[0, 0, [0, 2]], 0, atol=1e-12)
  # To its right, over hips and shoulders together: -x.
  right = clip[0, 2] - clip[0, 1] + clip[0, 17] - clip[0, 16]
  assert right[0] < -0.3
  assert right[2] == pytest.approx(0, abs=1e-12)
  np.testing.assert_allclose(features.canonicalise(clip), clip, atol=1e-9)
  _assert_same(features.describe(clip), features.encode(joints), atol=1e-6)


def test_the_path_grows_with_the_legs(clips):
  joints = clips[0]
  scaled = features.uniform_skeleton(joints)
  np.testing.assert_allclose(
    scaled[:, 0], joints[:, 0] * 0.815831 / _leg_length(joints)
  )
  np.testing.assert_allclose(
    features.uniform_skeleton(2 * joints), scaled, atol=1e-9
  )


def test_a_stack_of_clips_is_its_clips(clips, motions):
  stack = np.stack([clips[i][:2] for i in range(4)])  # the shortest there are
  motions = features.encode(stack)
  assert motions.shape == (4, 1, 263)
  joints = features.recover(motions)
  for clip, motion, recovered in zip(stack, motions, joints, strict=True):
    np.testing.assert_array_equal(motion, features.encode(clip))
    np.testing.assert_array_equal(recovered, features.recover(motion))


# What the columns mean.


def test_the_slices_cover_every_column_once():
  covered = np.concatenate([
    np.arange(263)[columns] for columns in features.SLICES.values()
  ])  # fmt: skip
  np.testing.assert_array_equal(covered, np.arange(263))


def test_a_turn_to_the_left_is_half_the_angle_and_negative(turning):
  motion = features.encode(turning(np.radians(0.4) * np.arange(300)))
  rate = _column(motion, 'yaw_rate')[110:190]  # away from the smoothed ends
  np.testing.assert_allclose(rate, -np.radians(0.2), rtol=1e-3)


def test_a_straight_walk_is_one_velocity(clips):
  step = np.array([0.0, 0.0, 0.05])
  joints = clips[0][:1] + step * np.arange(30)[:, None, None]
  motion = features.encode(_turned(joints, 0.7))
  path = features.recover(motion)[:, 0]
  for steps in (
    np.diff(path, axis=0),
    _column(motion, 'velocities').reshape(-1, 22, 3),
    _column(motion, 'root_velocity'),
  ):
    speed = np.linalg.norm(steps, axis=-1)
    expected = 0.05 * 0.815831 / _leg_length(joints)
    np.testing.assert_allclose(speed, expected, rtol=1e-4)


def test_a_foot_touches_while_its_squared_step_is_small(clips):
  """The published threshold is 0.002 m^2, a slow 0.0447 m a frame."""
  clip = features.canonicalise(np.repeat(clips[0][:1], 4, axis=0))
  for step, touches in ((0.0446, 1.0), (0.0448, 0.0)):
    for column, joint in enumerate((7, 10, 8, 11)):
      moved = clip.copy()
      moved[2:, joint, 0] += step
      contacts = _column(features.describe(moved), 'contacts')
      expected = np.ones((3, 4))
      expected[1, column] = touches
      np.testing.assert_array_equal(contacts, expected)


def _joints_of_rotations(motion):
  """Joints about the root: along every chain from the heading on.

  Also along those of the arms, which start at spine3 and yet from the
  heading: a defect that published features share.
  """
  codes = _column(motion, 'rotations').reshape(len(motion), 21, 2, 3)
  x, y = codes[:, :, 0], codes[:, :, 1]
  local = np.stack([x, y, np.cross(x, y)], axis=-1)
  turned = np.concatenate([[0], np.cumsum(_column(motion, 'yaw_rate'))[:-1]])
  heading = transform.Rotation.from_rotvec(2 * turned[:, None] * UP)
  joints = np.zeros((len(motion), 22, 3))
  for chain in skeleton.CHAINS:
    rotation = heading.as_matrix()
    for parent, child in zip(chain[:-1], chain[1:], strict=True):
      rotation = rotation @ local[:, child - 1]
      bone = rotation @ skeleton.OFFSETS_J3[child]
      joints[:, child] = joints[:, parent] + bone
  return joints


def test_rotations_and_bone_lengths_give_the_joints(clips):
  joints = features.canonicalise(clips[0])[:-1]
  found = _joints_of_rotations(features.encode(clips[0]))
  np.testing.assert_allclose(found, joints - joints[:, :1], atol=1e-4)


def test_a_bone_opposite_to_its_convention_is_a_half_turn(clips):
  """The reference gives NaN there and its clips were thrown away."""
  joints = features.canonicalise(clips[0])
  head, neck = skeleton.INDEX['head'], skeleton.INDEX['neck']
  joints[:, neck] = np.round(joints[:, neck], 3)
  joints[:, head] = joints[:, neck] - skeleton.OFFSETS_J3[head]
  with np.errstate(all='raise'):
    motion = features.describe(joints)
  found = _joints_of_rotations(motion)
  bone = found[:, head] - found[:, neck]
  expected = np.broadcast_to(-skeleton.OFFSETS_J3[head], bone.shape)
  np.testing.assert_allclose(bone, expected, atol=1e-5)


# Defects that published features share, each kept and named.


@pytest.fixture
def twisted(clips):
  """Somebody who stands with the hips turned against the shoulders."""
  joints = clips[0][:1].copy()
  shoulders = joints[:, 17] - joints[:, 16]
  joints[:, 17] = joints[:, 16] + 0.9 * shoulders + [0, 0, 0.1]
  return features.canonicalise(np.repeat(joints, 5, axis=0))


def test_the_heading_takes_the_hips_the_wrong_way_round(twisted):
  joints = twisted
  hips = joints[0, 1] - joints[0, 2]  # left minus right
  shoulders = joints[0, 17] - joints[0, 16]  # right minus left
  x, _, z = np.cross(UP, [shoulders + hips, shoulders - hips]).T
  published, sound = np.arctan2(x, z)
  assert abs(published - sound) > 0.1
  first = _column(features.describe(joints), 'yaw_rate')[0]
  np.testing.assert_allclose(first, -published / 2, atol=1e-6)


def test_frame_0_has_no_heading_and_the_first_yaw_rate_jumps(twisted):
  rate = _column(features.describe(twisted), 'yaw_rate')
  assert abs(rate[0]) > 0.01
  np.testing.assert_allclose(rate[1:], 0, atol=1e-12)


def test_the_heading_is_smoothed_over_seconds(turning):
  """A sudden quarter turn, through a Gaussian of 20 frames cut off at 80."""
  frames, turned = np.arange(150), 30
  motion = features.encode(turning(np.where(frames < turned, 0, np.pi / 2)))
  weights = np.exp(-0.5 * (np.arange(-80, 81) / 20) ** 2)
  weights /= weights.sum()
  seen = frames[:, None] + np.arange(-80, 81)  # past the ends: the end itself
  share = ((seen >= turned) * weights).sum(axis=1)
  bearing = np.arctan2(share, 1 - share)
  rate = _column(motion, 'yaw_rate')[1:, 0]
  np.testing.assert_allclose(rate, -np.diff(bearing)[1:] / 2, atol=1e-6)
  assert np.abs(rate).max() < 0.03


def test_the_root_step_is_told_in_the_heading_that_it_leads_to(turning):
  joints = turning(np.radians(0.4) * np.arange(200))
  joints = joints + np.array([0.03, 0, 0.04]) * np.arange(200)[:, None, None]
  motion = features.encode(joints)
  root = _column(motion, 'root_velocity')
  velocity = _column(motion, 'velocities')[:, [0, 2]]
  assert np.abs(root - velocity).max() > 1e-4
  # Frame t's heading against that of t+1: exactly the yaw rate, doubled.
  bearing = np.arctan2(root[:, 0], root[:, 1]) - np.arctan2(
    velocity[:, 0], velocity[:, 1]
  )
  np.testing.assert_allclose(
    bearing, 2 * _column(motion, 'yaw_rate')[:, 0], atol=1e-5
  )


def test_where_the_heading_passes_minus_z_recover_goes_astray(turning):
  """The yaw rate has the wrong sign for one frame, officially too."""
  joints = turning(np.radians(1.5) * np.arange(200))
  joints = joints + np.array([0.02, 0, 0]) * np.arange(200)[:, None, None]
  motion = features.encode(joints)
  rate = _column(motion, 'yaw_rate')[1:-60, 0]
  wrong = 1 + np.flatnonzero(rate > 0)
  assert len(wrong) == 1
  passed = wrong[0] + 1
  assert 90 < passed < 150  # half a turn, and what smoothing puts on it
  error = np.linalg.norm(
    features.recover(motion) - features.canonicalise(joints)[:-1], axis=-1
  ).max(axis=-1)
  assert error[:passed].max() < 1e-4
  assert error[passed:].min() > 0.01


# What is refused.


def test_bad_joints_are_refused_in_one_sentence(clips):
  clip = clips[0]
  broken = clip.copy()
  broken[3:5, 7, 1] = np.nan
  legless = clip.copy()
  legless[:, [4, 7, 10]] = legless[:, [1]]
  for joints, message in (
    (clip[0], r'joints \[T, 22, 3\], found \[22, 3\]'),
    (clip.reshape(len(clip), 66), r'found \[\d+, 66\]'),
    (np.zeros((50, 24, 3)), r'found \[50, 24, 3\]'),
    (clip[:1], 'at least 2 frames of joints, found 1'),
    (broken, f'NaN or infinity in 2 of {len(clip)} frames'),
    (legless, 'found left_knee upon left_hip in frame 0'),
    (np.zeros((9, 22, 3)), 'found left_hip upon pelvis in frame 0'),
  ):
    with pytest.raises(ValueError, match=message) as error:
      features.encode(joints)
    assert '\n' not in str(error.value)


def test_bad_features_are_refused():
  for shape in ((263,), (10, 251)):
    with pytest.raises(ValueError, match=r'features \[..., T, 263\]'):
      features.recover(np.zeros(shape))


# Statistics.


@pytest.fixture(scope='module')
def motions(clips):
  return [features.encode(clip) for clip in clips]


def test_statistics_average_the_deviation_of_each_group(motions):
  together = np.concatenate(motions).astype(np.float64)
  statistics = features.Statistics.of(iter(motions), root_gain=1)
  np.testing.assert_allclose(statistics.mean, together.mean(0), atol=1e-6)
  for columns in features.SLICES.values():
    expected = together.std(axis=0)[columns].mean()
    np.testing.assert_allclose(statistics.std[columns], expected, rtol=1e-5)


def test_the_root_and_the_contacts_speak_louder(motions):
  plain = features.Statistics.of(motions, root_gain=1)
  loud = features.Statistics.of(motions)
  ratio = plain.std / loud.std
  for name, columns in features.SLICES.items():
    gain = 1 if name in LOCAL else 25
    np.testing.assert_allclose(ratio[columns], gain, rtol=1e-5)


def test_the_published_pairs_are_of_this_kind(shared):
  """One std in each group; the encoders' root 25 times that of HumanML3D."""
  plain = np.load(shared('humanml3d/Std.npy'))
  loud = np.load(shared('motiongpt/meta/std.npy'))
  for name, columns in features.SLICES.items():
    assert np.ptp(plain[columns]) < 1e-6 * plain[columns].max()
    ratio = plain[columns] / loud[columns]
    np.testing.assert_allclose(ratio, 1 if name in LOCAL else 25, rtol=0.02)


def test_normalised_features_are_standard_and_come_back(motions):
  statistics = features.Statistics.of(motions, root_gain=1)
  normalised = statistics.normalise(np.concatenate(motions))
  assert normalised.dtype == np.float32
  np.testing.assert_allclose(normalised.mean(axis=0), 0, atol=1e-3)
  np.testing.assert_allclose(
    statistics.denormalise(normalised), np.concatenate(motions), atol=1e-5
  )


def test_a_group_that_never_changes_stays_finite(motions):
  motion = np.tile(motions[0][:1], (50, 1))
  normalised = features.Statistics.of([motion]).normalise(motion)
  np.testing.assert_allclose(normalised, 0, atol=1e-3)


def test_statistics_come_back_from_their_file(tmp_path, motions):
  statistics = features.Statistics.of(motions)
  path = tmp_path / 'statistics'  # no ending is added
  statistics.save(path)
  loaded = features.Statistics.load(path)
  np.testing.assert_array_equal(loaded.mean, statistics.mean)
  np.testing.assert_array_equal(loaded.std, statistics.std)
  np.savez(tmp_path / 'other.npz', Mean=loaded.mean)
  with pytest.raises(ValueError, match=r"expected arrays .* found \['Mean'\]"):
    features.Statistics.load(tmp_path / 'other.npz')


def test_bad_statistics_are_refused(motions):
  good = np.ones(263)
  for mean, std in (
    (good[:10], good), (good, 0 * good), (np.nan * good, good),
  ):  # fmt: skip
    with pytest.raises(ValueError, match='Statistics: expected'):
      features.Statistics(mean=mean, std=std)
  for motions in ([], [np.full((4, 263), np.nan)]):
    with pytest.raises(ValueError, match='expected finite features'):
      features.Statistics.of(motions)
