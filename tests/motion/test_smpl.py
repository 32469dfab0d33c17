import io
import pathlib
import tracemalloc
import zipfile

import numpy as np
import pytest

from vimonet_jax.motion import features, skeleton, smpl

J = skeleton.INDEX


def _arrays(num_frames=4, columns=156, **others):
  arrays = {
    'poses': np.zeros((num_frames, columns)),
    'trans': np.zeros((num_frames, 3)),
  }
  return {**arrays, **others}


def _wriggle(num_frames, columns=156):
  rng = np.random.default_rng(0)
  return _arrays(
    poses=rng.uniform(-0.8, 0.8, (num_frames, columns)),
    trans=rng.normal(size=(num_frames, 3)),
  )


class _Trap:
  """Unpickling one would write a file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


def test_the_body_at_rest_holds_its_arms_level():
  rest = smpl.from_poses(_arrays()).joints_TJ3[0]
  up, left = rest[:, 1], rest[:, 0]
  assert up[J['head']] > up[J['pelvis']] > up[J['left_knee']]
  np.testing.assert_allclose(
    up[[J['left_wrist'], J['right_wrist']]], up[J['left_shoulder']], atol=0.02
  )
  assert left[J['left_wrist']] > 0.6
  assert left[J['right_wrist']] < -0.6
  feet, ankles = rest[[10, 11], 2], rest[[7, 8], 2]
  assert (feet - ankles > 0.1).all()
  # Left and right are nearly alike, and the bones are HumanML3D's.
  np.testing.assert_allclose(rest, skeleton.mirror(rest), atol=0.03)
  lengths = np.linalg.norm(rest - rest[list(skeleton.PARENTS)], axis=-1)[1:]
  np.testing.assert_allclose(lengths, skeleton.BONE_LENGTHS_J[1:])


def test_trans_moves_the_body_and_the_root_turns_it_about_the_pelvis():
  arrays = _arrays(2)
  arrays['trans'][:] = [1.0, 2.0, 3.0]
  arrays['poses'][1, 1] = np.pi / 2  # about y: the left side goes to -z
  still, turned = smpl.from_poses(arrays).joints_TJ3
  np.testing.assert_allclose(still[0], [1, 2, 3])
  np.testing.assert_allclose(turned[0], still[0])
  local = still - still[0]
  np.testing.assert_allclose(
    turned - turned[0],
    np.stack([local[:, 2], local[:, 1], -local[:, 0]], axis=-1),
    atol=1e-12,
  )


def test_features_do_not_see_where_a_subject_has_its_origin():
  arrays = _wriggle(9)
  joints = smpl.from_poses(arrays).joints_TJ3
  arrays['trans'] += [0.0, -0.22, 0.03]
  moved = smpl.from_poses(arrays).joints_TJ3
  assert np.abs(moved - joints).max() > 0.2
  np.testing.assert_allclose(
    features.encode(moved), features.encode(joints), atol=1e-6
  )


def test_an_elbow_moves_its_wrist_and_nothing_else():
  arrays = _arrays(2)
  elbow = J['left_elbow']
  arrays['poses'][1, 3 * elbow + 1] = -np.pi / 2  # the forearm goes forward
  still, bent = smpl.from_poses(arrays).joints_TJ3
  wrist = J['left_wrist']
  others = np.arange(skeleton.NUM_JOINTS) != wrist
  np.testing.assert_allclose(bent[others], still[others], atol=1e-12)
  x, y, z = smpl.REST_OFFSETS_J3[wrist]
  np.testing.assert_allclose(
    bent[wrist], still[elbow] + [-z, y, x], atol=1e-12
  )


def test_hands_and_faces_change_no_joint():
  whole = _wriggle(3, columns=165)
  expected = smpl.from_poses(whole).joints_TJ3
  for columns in (66, 72, 156):
    arrays = {**whole, 'poses': whole['poses'][:, :columns]}
    np.testing.assert_array_equal(
      smpl.from_poses(arrays).joints_TJ3, expected
    )


def test_turns_keep_the_bones():
  joints = smpl.from_poses(_wriggle(5)).joints_TJ3
  bones = joints - joints[:, list(skeleton.PARENTS)]
  np.testing.assert_allclose(
    np.linalg.norm(bones, axis=-1)[:, 1:],
    np.tile(np.linalg.norm(smpl.REST_OFFSETS_J3, axis=-1)[1:], (5, 1)),
  )


def test_amass_is_read_beside_what_is_not_an_array(tmp_path):
  path, sprung = tmp_path / 'walk_poses.npz', tmp_path / 'sprung'
  np.savez(
    path, **_wriggle(3), mocap_framerate=120.0, betas=np.zeros(16),
    gender=np.array(_Trap(sprung), dtype=object),
  )  # fmt: skip
  clip = smpl.read(path)
  np.testing.assert_array_equal(
    clip.joints_TJ3, smpl.from_poses(_wriggle(3)).joints_TJ3
  )
  assert (clip.fps, clip.unit, clip.up) == (120.0, 'm', 'z')
  assert clip.features is None
  assert 'pelvis where trans is' in ' '.join(clip.notes)
  assert not sprung.exists()


@pytest.mark.parametrize(
  'key', ['mocap_framerate', 'mocap_frame_rate', 'fps']
)
def test_the_frame_rate_has_several_names(tmp_path, key):
  np.savez(tmp_path / 'a.npz', **_arrays(), **{key: np.array([59.94])})
  assert smpl.read(tmp_path / 'a.npz').fps == pytest.approx(59.94)
  np.savez(tmp_path / 'b.npz', joints=np.zeros((3, 22, 3)), **{key: 25})
  clip = smpl.read(tmp_path / 'b.npz')
  assert (clip.fps, clip.unit, clip.up) == (25.0, None, None)


def test_pickles_are_never_loaded(tmp_path):
  sprung = tmp_path / 'sprung'
  trap = np.array([_Trap(sprung)], dtype=object)
  np.save(tmp_path / 'a.npy', trap)
  np.savez(tmp_path / 'a.npz', poses=trap)
  for name in ('a.npy', 'a.npz'):
    with pytest.raises(ValueError, match='found pickled Python objects'):
      smpl.read(tmp_path / name)
  assert not sprung.exists()
  np.load(tmp_path / 'a.npy', allow_pickle=True)
  assert sprung.exists(), 'the trap of this test is not armed'


def test_a_rate_that_is_no_number_is_none(tmp_path):
  np.savez(tmp_path / 'a.npz', **_arrays(), fps='thirty')
  assert smpl.read(tmp_path / 'a.npz').fps is None


def test_a_file_without_arrays_is_not_called_pickled(tmp_path):
  np.savez(tmp_path / 'a.npz')
  with zipfile.ZipFile(tmp_path / 'b.npz', 'w') as archive:
    archive.writestr('notes.txt', 'nothing here')
  for name in ('a.npz', 'b.npz'):
    with pytest.raises(ValueError, match='found no array at all; save'):
      smpl.read(tmp_path / name)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    (_arrays(poses=np.full((4, 66), 'x')), r'poses of real.*found <U1 \[4, 66'),
    (_arrays(poses=np.zeros((4, 66), complex)), r'poses of real.*complex128'),
    (_arrays(trans=np.full((4, 3), '1')), r'trans of real numbers, found <U1'),
    ({'x': np.zeros((4, 22, 3), complex)}, r'of real numbers, found complex'),
    ({'x': np.zeros((0, 263))}, 'features of a motion, found 0 frames; save'),
    (_arrays(columns=63), r'poses \[T, 66 or more\].*found \[4, 63\]'),
    (_arrays(columns=67), r'found \[4, 67\]'),
    (_arrays(trans=np.zeros((3, 3))), r'trans \[4, 3\].*found \[3, 3\]'),
    ({'poses': np.zeros((4, 156))}, r'trans \[4, 3\].*found none'),
    ({'x': np.zeros((4, 24, 3))}, r"float64 \[4, 24, 3\] in 'x'.*:, :22"),
    ({'x': np.zeros((4, 21, 3))}, r'found float64 \[4, 21, 3\].*NAMES'),
    ({'x': np.zeros((4, 66))}, r'found float64 \[4, 66\]'),
    ({'x': np.array(['a', 'b'])}, r'found <U1 \[2\]'),
    (
      {'a': np.zeros((4, 22, 3)), 'b': np.zeros((4, 22, 3))},
      r'one motion, found 2 \(a, b',
    ),
  ],
)
def test_arrays_of_other_shapes_are_refused(tmp_path, arrays, message):
  np.savez(tmp_path / 'a.npz', **arrays)
  with pytest.raises(ValueError, match=message):
    smpl.read(tmp_path / 'a.npz')


def test_joints_are_preferred_to_features_and_joints_by_name(tmp_path):
  joints = np.random.default_rng(0).normal(size=(4, 22, 3))
  np.savez(
    tmp_path / 'a.npz', joints=joints, others=np.zeros((4, 22, 3)),
    features=np.zeros((3, 263)),
  )  # fmt: skip
  clip = smpl.read(tmp_path / 'a.npz')
  np.testing.assert_array_equal(clip.joints_TJ3, joints)
  assert "'joints'" in clip.notes[0]


@pytest.mark.parametrize('suffix', ['npy', 'npz'])
def test_a_truncated_file_is_told(tmp_path, suffix):
  path = tmp_path / f'a.{suffix}'
  with open(path, 'wb') as f:
    (np.save if suffix == 'npy' else np.savez)(f, np.ones((40, 22, 3)))
  whole = path.read_bytes()
  for size in (7, 70, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError, match=f'truncated one of {size} bytes'):
      smpl.read(path)
  path.write_bytes(b'')
  with pytest.raises(ValueError, match="begins with b''"):
    smpl.read(path)


@pytest.fixture
def published(shared):
  return np.load(shared('humanml3d/new_joint_vecs/012314.npy'))


def test_features_are_kept_and_their_joints_recovered(
  tmp_path, published, shared
):
  joints = shared('humanml3d/new_joints/012314.npy')
  np.save(tmp_path / 'a.npy', published.astype(np.float64))
  clip = smpl.read(tmp_path / 'a.npy')
  assert clip.features.dtype == np.float32
  np.testing.assert_array_equal(clip.features, published)
  np.testing.assert_allclose(
    clip.joints_TJ3, np.load(joints), atol=1e-5
  )
  assert (clip.fps, clip.unit, clip.up) == (20.0, 'm', 'y')


def test_normalised_features_are_refused_and_soft_contacts_are_not(
  published, shared
):
  mean, std = (
    np.load(shared(f'humanml3d/{n}.npy')) for n in ('Mean', 'Std')
  )
  with pytest.raises(ValueError, match=r'not normalised.*x \* std \+ mean'):
    smpl.from_features((published - mean) / std)
  soft = published.copy()
  contacts = soft[:, features.SLICES['contacts']]
  contacts += np.where(contacts > 0.5, -0.04, 0.03)
  contacts[0, 0] = -0.1
  smpl.from_features(soft)
  contacts[3, 1] = 1.8
  with pytest.raises(ValueError, match='contacts from -0.1 to 1.8'):
    smpl.from_features(soft)
  with pytest.raises(ValueError, match='legs of 8. m'):
    smpl.from_features(np.where(np.arange(263) < 259, 100, 1) * published)


def test_what_unpacks_to_more_than_a_motion_is_not_unpacked(tmp_path):
  path = tmp_path / 'a.npz'
  zeros = io.BytesIO()
  head = {'descr': '<f8', 'fortran_order': False, 'shape': (2**26 + 1,)}
  np.lib.format.write_array_header_1_0(zeros, head)
  with (
    zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
    packed.open('joints.npy', 'w') as member,
  ):
    member.write(zeros.getvalue())
    for _ in range(2**9):
      member.write(bytes(2**20))
    member.write(bytes(8))
  assert path.stat().st_size < 2**22
  tracemalloc.start()
  with pytest.raises(ValueError, match='512 MiB in all, found 1 of 512 MiB'):
    smpl.load(path)
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()


def test_many_arrays_are_no_motion(tmp_path):
  path = tmp_path / 'a.npz'
  np.savez(path, **{f'a{i}': np.zeros(1) for i in range(1001)})
  with pytest.raises(ValueError, match='at most 1000 arrays .* found 1001 of'):
    smpl.load(path)


@pytest.mark.parametrize('suffix', ['.npy', '.npz'])
def test_a_shape_that_no_memory_has_is_told(tmp_path, suffix):
  claimed = io.BytesIO()
  head = {'descr': '<f8', 'fortran_order': False, 'shape': (10**13, 22, 3)}
  np.lib.format.write_array_header_1_0(claimed, head)
  path = tmp_path / f'a{suffix}'
  if suffix == '.npy':
    path.write_bytes(claimed.getvalue())
  else:
    with zipfile.ZipFile(path, 'w') as packed:
      packed.writestr('joints.npy', claimed.getvalue())
  with pytest.raises(ValueError, match='arrays fit into memory, found larger'):
    smpl.load(path)


def test_poses_without_frames_have_no_joints():
  arrays = {'poses': np.zeros((0, 66)), 'trans': np.zeros((0, 3))}
  assert smpl.from_poses(arrays).joints_TJ3.shape == (0, 22, 3)


def test_features_of_no_body_are_told(walk):
  made = features.encode(walk)
  made[5, features.SLICES['velocities'].start] = 1e30
  with pytest.raises(ValueError, match='below 100, found 1e.30; save them'):
    smpl.from_features(made)
