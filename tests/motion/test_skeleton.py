import numpy as np
from scipy.spatial import transform

from vimonet_jax.motion import skeleton

SOME = np.random.default_rng(0)


def _quats(*shape):
  q = SOME.normal(size=(*shape, 4))
  return q / np.linalg.norm(q, axis=-1, keepdims=True)


def _matrices(q):
  """An independent opinion; SciPy puts w last."""
  return transform.Rotation.from_quat(np.roll(q, -1, axis=-1)).as_matrix()


def _turned(q, v):
  return np.einsum('nij,nj->ni', _matrices(q), v)


def test_chains_follow_the_tree_and_reach_every_joint_once():
  steps = [pair for chain in skeleton.CHAINS
           for pair in zip(chain[:-1], chain[1:], strict=True)]  # fmt: skip
  assert all(skeleton.PARENTS[child] == parent for parent, child in steps)
  assert sorted(child for _, child in steps) == list(range(1, 22))
  assert all(parent < j for j, parent in enumerate(skeleton.PARENTS))


def test_bones_are_those_of_the_reference_skeleton(shared):
  path = shared('mocap/humanml3d_official/tgt_offsets.npy')
  np.testing.assert_allclose(skeleton.OFFSETS_J3, np.load(path), atol=1e-6)


def test_every_pose_has_the_same_bone_lengths():
  for offsets_J3 in (skeleton.OFFSETS_J3, skeleton.STANDING_OFFSETS_J3):
    np.testing.assert_allclose(
      np.linalg.norm(offsets_J3, axis=-1), skeleton.BONE_LENGTHS_J
    )


def test_a_standing_body_faces_z_with_its_left_at_x():
  rest = np.tile([1.0, 0.0, 0.0, 0.0], (22, 1))
  joints = skeleton.forward_kinematics(np.zeros(3), rest)
  for j, name in enumerate(skeleton.NAMES):
    side = name.startswith('left') - float(name.startswith('right'))
    assert np.sign(np.round(joints[j, 0], 6)) == side, name
  heel_to_toe = joints[[10, 11]] - joints[[7, 8]]
  assert (heel_to_toe[:, 2] > 0.1).all()
  assert joints[skeleton.INDEX['head'], 1] > joints[:15, 1].max()


def test_a_product_applies_its_right_factor_first():
  a, b, v = _quats(8), _quats(8), SOME.normal(size=(8, 3))
  np.testing.assert_allclose(
    skeleton.quat_rotate(skeleton.quat_multiply(a, b), v),
    _turned(a, _turned(b, v)),
    atol=1e-12,
  )


def test_the_inverse_turns_back():
  q, v = _quats(8), SOME.normal(size=(8, 3))
  back = skeleton.quat_rotate(skeleton.quat_inverse(q), _turned(q, v))
  np.testing.assert_allclose(back, v, atol=1e-12)


def test_matrices_and_quaternions_agree():
  q = _quats(5, 3)
  expected = _matrices(q.reshape(-1, 4)).reshape(5, 3, 3, 3)
  np.testing.assert_allclose(skeleton.quat_to_matrix(q), expected, atol=1e-12)


def test_rotation_vectors_are_axis_times_angle():
  rotvec = SOME.normal(size=(6, 3))
  rotvec[0] = 0
  expected = transform.Rotation.from_rotvec(rotvec).as_matrix()
  q = skeleton.quat_from_rotation_vector(rotvec)
  np.testing.assert_allclose(skeleton.quat_to_matrix(q), expected, atol=1e-12)


def test_6d_takes_columns_and_not_rows():
  quarter_about_z = skeleton.quat_from_axis_angle((0, 0, 1), np.pi / 2)
  np.testing.assert_allclose(
    skeleton.matrix_to_6d(skeleton.quat_to_matrix(quarter_about_z)),
    [0, 1, 0, -1, 0, 0],
    atol=1e-12,
  )


def test_the_shortest_arc_has_no_twist_and_ends_at_its_target():
  u, v = SOME.normal(size=(2, 8, 3))
  q = skeleton.quat_between(u, v)
  unit = v / np.linalg.norm(v, axis=-1, keepdims=True)
  turned = skeleton.quat_rotate(q, u) / np.linalg.norm(u, axis=-1)[:, None]
  np.testing.assert_allclose(turned, unit, atol=1e-12)
  np.testing.assert_allclose((q[:, 1:] * u).sum(-1), 0, atol=1e-12)
  assert (q[:, 0] >= 0).all()


def test_opposite_directions_have_no_shortest_arc():
  with np.errstate(invalid='ignore'):
    q = skeleton.quat_between(np.array([0, 1.0, 0]), np.array([0, -2.0, 0]))
  assert np.isnan(q).all()


def test_turning_the_root_turns_the_body_about_it():
  root, rotations = SOME.normal(size=(7, 3)), _quats(7, 22)
  turn = _quats(7)
  joints = skeleton.forward_kinematics(root, rotations)
  rotations[:, 0] = skeleton.quat_multiply(turn, rotations[:, 0])
  turned = skeleton.forward_kinematics(root, rotations)
  expected = skeleton.quat_rotate(turn[:, None], joints - root[:, None])
  np.testing.assert_allclose(turned - root[:, None], expected, atol=1e-12)


def test_a_joint_moves_what_hangs_from_it_and_nothing_else():
  rotations = np.tile([1.0, 0.0, 0.0, 0.0], (22, 1))
  before = skeleton.forward_kinematics(np.zeros(3), rotations)
  rotations[skeleton.INDEX['left_shoulder']] = _quats()
  moved = skeleton.forward_kinematics(np.zeros(3), rotations) - before
  assert set(np.flatnonzero(np.abs(moved).max(-1) > 1e-9)) == {18, 20}


def test_a_batch_is_its_frames():
  root, rotations = SOME.normal(size=(2, 3, 3)), _quats(2, 3, 22)
  batch = skeleton.forward_kinematics(root, rotations)
  np.testing.assert_array_equal(
    batch[1, 2], skeleton.forward_kinematics(root[1, 2], rotations[1, 2])
  )


def test_a_mirror_swaps_sides_and_is_its_own_inverse():
  swapped = {'left': 'right', 'right': 'left'}
  for j, name in enumerate(skeleton.NAMES):
    side, _, part = name.partition('_')
    mirrored = f'{swapped[side]}_{part}' if part else name
    assert skeleton.NAMES[skeleton.MIRROR[j]] == mirrored
  joints = SOME.normal(size=(4, 22, 3))
  mirrored = skeleton.mirror(joints)
  np.testing.assert_array_equal(skeleton.mirror(mirrored), joints)
  left, right = skeleton.INDEX['left_wrist'], skeleton.INDEX['right_wrist']
  np.testing.assert_array_equal(
    mirrored[:, left], joints[:, right] * [-1, 1, 1]
  )
