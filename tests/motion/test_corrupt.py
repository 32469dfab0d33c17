import dataclasses

import numpy as np
import pytest

from vimonet_jax.motion import corrupt, features, skeleton

# The noise column of the protocol, millimetres.
TABLE_MM = {'L1': 23, 'L2': 47, 'L3': 70, 'L4': 94, 'L2w': 47}


def _noise_only(name):
  return dataclasses.replace(
    corrupt.LEVELS[name], jitter_frames=0, drop_probability=0
  )


def _error_mm(clean, level, seeds=5):
  return 1000 * np.mean([
    np.linalg.norm(
      corrupt.corrupt(clean, level, np.random.default_rng(seed)) - clean,
      axis=-1,
    ).mean()
    for seed in range(seeds)
  ])  # fmt: skip


@pytest.fixture
def still(walk):
  """Somebody who stands, away from the origin."""
  return np.broadcast_to(walk[0] + [3, 0, -2], (600, 22, 3))


def test_the_ladder_is_the_protocol():
  sizes = {
    name: (v.sigma_m, v.correlation, v.jitter_frames, v.drop_probability)
    for name, v in corrupt.LEVELS.items()
  }
  assert sizes.pop('L0')[::2] == (0, 0)
  assert sizes.pop('L2_jitter')[::2] == (0, 1)
  assert sizes == {
    'L1': (0.015, 0.93, 1, 0),
    'L2': (0.030, 0.93, 1, 0),
    'L3': (0.045, 0.93, 2, 0),
    'L4': (0.060, 0.93, 4, 0.05),
    'L2w': (0.030, 0, 1, 0),
    'L2_noise': (0.030, 0.93, 0, 0),
  }


@pytest.mark.parametrize('name', TABLE_MM)
def test_the_joint_error_is_what_the_table_says(name, still):
  assert _error_mm(still, _noise_only(name)) == pytest.approx(
    TABLE_MM[name], rel=0.03
  )


def test_the_joint_error_holds_on_real_clips(shared):
  path = shared('humanml3d/004822_raw_joints_and_features.npz')
  joints = np.load(path)['joints']
  for name, error_mm in TABLE_MM.items():
    assert _error_mm(joints, _noise_only(name), seeds=20) == pytest.approx(
      error_mm, rel=0.03
    )


@pytest.mark.parametrize('correlation', [0.0, 0.5, 0.93])
def test_noise_keeps_its_size_and_drifts(correlation):
  n = corrupt.noise(
    np.zeros((4000, 22, 3)), 0.03, correlation, np.random.default_rng(1)
  )
  n /= 0.03 * corrupt.NOISE_SCALES_J[:, None]
  assert n.std() == pytest.approx(1, abs=0.03)
  assert n[0].std() == pytest.approx(1, abs=0.3)  # no run-in
  for lag in (1, 10):
    measured = np.corrcoef(n[lag:].ravel(), n[:-lag].ravel())[0, 1]
    assert measured == pytest.approx(correlation**lag, abs=0.02)
  # Joints and axes err on their own.
  together = np.corrcoef(n.reshape(len(n), -1)[::20].T)
  assert np.abs(together - np.eye(66)).max() < 0.5


def test_the_ends_of_limbs_are_seen_worst():
  scale = dict(zip(skeleton.NAMES, corrupt.NOISE_SCALES_J, strict=True))
  assert scale['left_wrist'] == scale['right_foot'] == 1.3
  assert scale['left_knee'] == scale['right_elbow'] == 1.0
  assert scale['pelvis'] == scale['left_shoulder'] == scale['neck'] == 0.8
  assert np.mean(corrupt.NOISE_SCALES_J**2) == pytest.approx(1, abs=1e-3)
  assert corrupt.NOISE_SCALES_J.mean() == pytest.approx(0.977, abs=1e-3)


def test_the_clean_level_is_the_identity(walk):
  for joints in (walk, walk.astype(np.float64)):
    seen = corrupt.corrupt(
      joints, corrupt.LEVELS['L0'], np.random.default_rng(0)
    )
    assert seen.dtype == joints.dtype
    np.testing.assert_array_equal(seen, joints)


def test_a_seed_is_a_clip_and_the_input_stays(walk):
  joints = walk
  kept = joints.copy()
  first, again, other = (
    corrupt.corrupt(joints, corrupt.LEVELS['L4'], np.random.default_rng(seed))
    for seed in (3, 3, 4)
  )
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 0.01
  np.testing.assert_array_equal(joints, kept)


def test_levels_of_one_seed_differ_in_size_only(still):
  still = still[:50]
  l1, l3 = (
    corrupt.corrupt(still, corrupt.LEVELS[name], np.random.default_rng(0))
    for name in ('L1', 'L3')
  )
  np.testing.assert_allclose((l3 - still), 3 * (l1 - still), atol=1e-12)


def test_jitter_takes_frames_off_their_time_and_in_order():
  # A clip that tells its own time.
  ramp = np.arange(200.0)[:, None, None] + np.zeros((1, 22, 3))
  for frames in (1, 2, 4):
    times = corrupt.jitter(ramp, frames, np.random.default_rng(0))[:, 3, 1]
    late = times - np.arange(200)
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert times[-1] <= 199
    assert 0.6 * frames < np.abs(late).max() <= frames  # less where sorted
    assert abs(late.mean()) < 0.1 * frames


def test_jitter_leaves_bodies_that_stand_still(still):
  np.testing.assert_allclose(
    corrupt.jitter(still, 4, np.random.default_rng(0)), still, atol=1e-12
  )


def test_jitter_does_not_average_noise_away(still):
  white, drifting = (
    _error_mm(still, corrupt.LEVELS[name]) for name in ('L2w', 'L2')
  )
  assert white == pytest.approx(47, rel=0.03)
  assert drifting == pytest.approx(47, rel=0.03)


def test_a_lost_frame_shows_the_last_kept_one():
  ramp = np.arange(4000.0)[:, None, None] + np.zeros((1, 22, 3))
  shown = corrupt.drop(ramp, 0.05, np.random.default_rng(0))[:, 0, 0]
  lost = shown != np.arange(4000)
  assert lost.mean() == pytest.approx(0.05, abs=0.01)
  assert not lost[0]
  np.testing.assert_array_equal(shown[lost], shown[np.flatnonzero(lost) - 1])


@pytest.mark.parametrize('name', corrupt.LEVELS)
def test_every_level_still_makes_features(name, walk):
  joints = corrupt.corrupt(
    walk, corrupt.LEVELS[name], np.random.default_rng(0)
  )
  assert joints.dtype == np.float32
  assert np.isfinite(features.encode(joints)).all()


@pytest.mark.parametrize(
  'wrong',
  [
    {'sigma_m': -0.1},
    {'sigma_m': np.nan},
    {'correlation': 1.0},
    {'jitter_frames': -1},
    {'drop_probability': 1.0},
  ],
)
def test_a_level_that_makes_no_sense_is_refused(wrong):
  with pytest.raises(ValueError, match='expected sizes of at least zero'):
    corrupt.Level(**wrong)


@pytest.mark.parametrize('shape', [(5, 66), (5, 24, 3), (2, 5, 22, 3)])
def test_what_is_not_a_clip_is_refused(shape):
  with pytest.raises(ValueError, match=r'Expected joints \[T, 22, 3\]'):
    corrupt.corrupt(
      np.zeros(shape), corrupt.LEVELS['L2'], np.random.default_rng(0)
    )
