import re

import moving_bodies
import numpy as np
import pytest

from vimonet_jax.data import amass_files
from vimonet_jax.motion import features, skeleton, smpl


def _arrays(num_frames, *, seed=0, **others):
  """A trial as AMASS has it, all of its numbers arbitrary but smooth."""
  rng = np.random.default_rng(seed)
  steps = rng.normal(scale=0.01, size=(num_frames, 159)).cumsum(axis=0)
  return {
    'poses': steps[:, :156],
    'trans': steps[:, 156:],
    'mocap_framerate': 120.0,
    'betas': rng.normal(size=16),
    'gender': 'male',
    'dmpls': np.zeros((num_frames, 8)),
    **others,
  }


def _save(root, file, arrays):
  path = root / file
  path.parent.mkdir(parents=True, exist_ok=True)
  if isinstance(arrays, dict):
    np.savez(path, **arrays)
  else:
    np.save(path, arrays)
  return file


def _touch(root, file):
  (root / file).parent.mkdir(parents=True, exist_ok=True)
  (root / file).touch()


def _official(arrays, step, lead_in, first, last):
  """The cells of HumanML3D's notebook, in their order."""
  arrays = {k: np.asarray(v) for k, v in arrays.items()}
  joints = smpl.from_poses(
    {'poses': arrays['poses'][::step], 'trans': arrays['trans'][::step]}
  ).joints_TJ3
  joints = joints @ np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]])
  joints = joints[lead_in:][first:last]
  joints[..., 0] *= -1
  return joints


@pytest.mark.parametrize(
  ('subset', 'lead_in'),
  [
    ('KIT', 0),
    ('Eyes_Japan_Dataset', 60),
    ('MPI_HDM05', 60),
    ('HDM05', 60),
    ('HDM05/MPI_HDM05', 60),
    ('TotalCapture', 20),
    ('MPI_Limits', 20),
    ('PosePrior', 20),
    ('Transitions_mocap', 10),
    ('Transitions', 10),
  ],
)
def test_a_known_lead_in_is_cut_off_before_frames_are_counted(
  tmp_path, subset, lead_in
):
  arrays = _arrays(900)
  file = _save(tmp_path, f'{subset}/s1/walk_poses.npz', arrays)
  assert amass_files.look(tmp_path, file).frames == 150 - lead_in
  joints = amass_files.read(tmp_path, file, first=7, last=60)
  expected = _official(arrays, 6, lead_in, 7, 60)
  np.testing.assert_allclose(joints, expected, atol=1e-12)


@pytest.mark.parametrize(
  ('fps', 'step'),
  [(120, 6), (100, 5), (60, 3), (59.94, 2), (250, 12), (20, 1), (39.9, 1)],
)
def test_the_fraction_of_a_step_is_cut_off(tmp_path, fps, step):
  arrays = _arrays(300, mocap_framerate=fps)
  file = _save(tmp_path, 'KIT/3/a_poses.npz', arrays)
  assert amass_files.look(tmp_path, file).frames == -(-300 // step)
  joints = amass_files.read(tmp_path, file, first=2, last=20)
  expected = _official(arrays, step, 0, 2, 20)
  np.testing.assert_allclose(joints, expected, atol=1e-12)


def test_joints_that_humanml3d_saved_have_y_and_z_exchanged_already(tmp_path):
  saved = np.random.default_rng(0).normal(size=(100, 52, 3))
  file = _save(tmp_path, 'TotalCapture/s1/walk_poses.npy', saved)
  joints = amass_files.read(tmp_path, file, first=5, last=60)
  np.testing.assert_array_equal(joints, saved[25:80, :22] * [-1, 1, 1])
  file = _save(tmp_path, 'humanact12/humanact12/P01.npy', saved[:, :24])
  assert amass_files.look(tmp_path, file).frames == 100
  joints = amass_files.read(tmp_path, file, first=0, last=100)
  np.testing.assert_array_equal(joints, saved[:, :22])


def test_a_body_model_puts_joints_where_the_subject_has_them(tmp_path):
  rng = np.random.default_rng(1)
  shapes = {}
  for gender in ('female', 'male'):
    shapes[gender] = rng.normal(size=(22, 3)), rng.normal(size=(22, 3, 10))
    mean, shape = shapes[gender]
    _save(
      tmp_path / 'models',
      f'{gender}/model.npz',
      {'v_template': mean, 'shapedirs': shape, 'J_regressor': np.eye(22)},
    )
  for marked, used in (('male', 'male'), ('female', 'female'), ('', 'female')):
    arrays = _arrays(120, gender=marked)
    file = _save(tmp_path, f'KIT/3/{marked}a_poses.npz', arrays)
    joints = amass_files.read(
      tmp_path, file, first=0, last=20, body_models=str(tmp_path / 'models')
    )
    mean, shape = shapes[used]
    rest = mean + shape @ arrays['betas'][:10]
    bones = np.linalg.norm(rest - rest[list(skeleton.PARENTS)], axis=-1)[1:]
    found = joints - joints[:, list(skeleton.PARENTS)]
    found = np.linalg.norm(found, axis=-1)[:, 1:]
    np.testing.assert_allclose(found, np.tile(bones, (20, 1)))
    x, y, z = (arrays['trans'][::6] + rest[0]).T
    np.testing.assert_allclose(joints[:, 0], np.stack([-x, z, y], axis=-1))


@pytest.mark.parametrize(
  'place',
  [
    'BioMotionLab_NTroje/rub001/0027_circle walk_poses.npz',
    'BioMotionLab_NTroje/rub001/0027_circle_walk_poses.npz',
    'BMLrub/rub001/0027_circle_walk_stageii.npz',
    'BMLrub/BioMotionLab_NTroje/rub001/0027_circle walk_poses.npz',
    'BioMotionLab_NTroje/rub001/0027_circle walk_poses.npy',
  ],
)
def test_a_trial_is_found_under_any_of_its_names(tmp_path, place):
  wanted = './pose_data/BioMotionLab_NTroje/rub001/0027_circle walk_poses.npy'
  assert amass_files.find(tmp_path, wanted) is None
  _touch(tmp_path, place)
  assert amass_files.find(tmp_path, wanted) == place


def test_files_that_the_index_was_made_for_come_first(tmp_path):
  wanted = './pose_data/KIT/3/a_poses.npy'
  for place in ('a_stageii.npz', 'a_poses.npy', 'a_poses.npz'):
    _touch(tmp_path, f'KIT/3/{place}')
    assert amass_files.find(tmp_path, wanted) == f'KIT/3/{place}'
  wanted = './pose_data/humanact12/humanact12/P01.npy'
  _touch(tmp_path, 'humanact12/humanact12/P01.npy')
  found = amass_files.find(tmp_path, wanted)
  assert found == 'humanact12/humanact12/P01.npy'


def test_frames_that_are_not_numbers_are_told(tmp_path):
  arrays = _arrays(600)
  arrays['poses'][120:131, 40] = np.nan  # frames 20 and 21 at 20 fps
  arrays['poses'][133, 40] = np.nan  # not taken
  arrays['poses'][:, 70] = np.nan  # a hand
  arrays['trans'][300, 1] = np.inf
  file = _save(tmp_path, 'MPI_Limits/s/a_poses.npz', arrays)
  trial = amass_files.look(tmp_path, file)
  assert (trial.frames, trial.bad) == (80, (0, 1, 30))


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    (b'nonsense', 'expected a NumPy file'),
    ({'x': np.zeros(3)}, 'expected poses and trans, found x'),
    (_arrays(9, mocap_framerate=12.0), 'mocap_framerate, 20 or more, found 12'),
    (_arrays(9, mocap_framerate=np.nan), 'found nan'),
    (_arrays(9, mocap_framerate='fast'), 'found None'),
    (_arrays(9, trans=np.zeros((8, 3))), r'trans \[9, 3\] beside'),
    (_arrays(9, betas=np.full(16, np.nan)), 'betas of finite numbers'),
    (np.zeros((9, 66)), r'joints \[T, 22 or more, 3\].*\[9, 66\]'),
    (np.zeros((9, 21, 3)), r'\[9, 21, 3\]'),
    (np.full((9, 22, 3), 'x'), 'found <U1'),
  ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path, arrays, message):
  if isinstance(arrays, bytes):
    file = 'KIT/3/a_poses.npz'
    (tmp_path / 'KIT/3').mkdir(parents=True)
    (tmp_path / file).write_bytes(arrays)
  else:
    ending = 'npz' if isinstance(arrays, dict) else 'npy'
    file = _save(tmp_path, f'KIT/3/a_poses.{ending}', arrays)
  error = amass_files.look(tmp_path, file).error
  assert re.search(message, error), error
  with pytest.raises(ValueError, match=f'KIT/3/a_poses.*{message}'):
    amass_files.read(tmp_path, file, first=0, last=3)


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
  file = _save(tmp_path, 'KIT/3/a_poses.npz', _arrays(120))
  before = amass_files.look(tmp_path, file)
  assert amass_files.look(tmp_path, file) is before
  _save(tmp_path, file, _arrays(240))
  after = amass_files.look(tmp_path, file)
  assert (before.frames, after.frames) == (20, 40)
  assert before.checksum != after.checksum


def test_what_humanml3d_s_body_costs_a_real_clip(tmp_path, shared_data):
  """With rotations fitted to it; the numbers that the module states."""
  official = np.load(
    shared_data / 'humanml3d' / '004822_raw_joints_and_features.npz'
  )
  std = np.load(shared_data / 'humanml3d' / 'Std.npy')
  seen = official['joints'][:100]
  z_up = seen.astype(np.float64) @ np.array([[-1, 0, 0], [0, 0, 1], [0, 1, 0]])
  arrays = _arrays(100, mocap_framerate=20.0, trans=z_up[:, 0])
  arrays['poses'][:, :66] = moving_bodies.poses(z_up)
  file = _save(tmp_path, 'KIT/3/a_poses.npz', arrays)
  joints = amass_files.read(tmp_path, file, first=0, last=100)
  apart = np.abs(features.encode(joints) - features.encode(seen)) / std
  for name, most in (('positions', 0.12), ('rotations', 0.14)):
    mean = apart[:, features.SLICES[name]].mean()
    assert 0.05 < mean < most, (name, mean)
  hip = features.canonicalise(joints) - features.canonicalise(seen)
  assert 0.01 < np.linalg.norm(hip, axis=-1).mean() < 0.03
