import numpy as np
import pytest

from vimonet_jax.motion import body_model, skeleton, smpl


def _arrays(num_vertices=40, num_betas=16, joints=52, seed=0):
  rng = np.random.default_rng(seed)
  weights = rng.uniform(size=(joints, num_vertices))
  return {
    'v_template': rng.normal(size=(num_vertices, 3)),
    'shapedirs': rng.normal(size=(num_vertices, 3, num_betas)),
    'J_regressor': weights / weights.sum(axis=1, keepdims=True),
    'kintree_table': np.zeros((2, joints)),
  }


@pytest.fixture
def folder(tmp_path):
  for seed, place in enumerate(
    ('female/model.npz', 'male/model.npz', 'SMPLX_NEUTRAL.npz')
  ):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    np.savez(tmp_path / place, **_arrays(seed=seed))
  return tmp_path


@pytest.mark.parametrize('number', [0, 3, 10, 16])
def test_joints_follow_the_skin_of_a_shaped_body(folder, number):
  betas = np.random.default_rng(9).normal(size=number)
  arrays = _arrays(seed=1)
  skin = arrays['v_template'].copy()
  for k, beta in enumerate(betas[:10]):
    skin += beta * arrays['shapedirs'][..., k]
  expected = arrays['J_regressor'] @ skin
  rest = body_model.find(folder, 'male').rest(betas)
  np.testing.assert_allclose(rest, expected[:22], atol=1e-12)


def test_each_gender_has_its_model_and_a_changed_one_is_told(folder):
  betas = np.ones(10)
  models = [body_model.find(folder, g) for g in ('female', 'male', 'neutral')]
  assert len({model.rest(betas).tobytes() for model in models}) == 3
  assert len({model.checksum() for model in models}) == 3
  assert body_model.find(folder, 'male').checksum() == models[1].checksum()
  np.savez(folder / 'male' / 'model.npz', **_arrays(seed=7))
  assert body_model.find(folder, 'male').checksum() != models[1].checksum()


def test_a_body_of_known_shape_turns_about_its_own_joints():
  """SMPL's own order: matrices down the tree, and the translation last."""
  rng = np.random.default_rng(3)
  rest = rng.normal(size=(22, 3))
  poses, trans = rng.uniform(-1, 1, (5, 66)), rng.normal(size=(5, 3))
  joints = smpl.from_poses(
    {'poses': poses, 'trans': trans}, rest_J3=rest
  ).joints_TJ3
  for t in range(5):
    turns = skeleton.quat_to_matrix(
      skeleton.quat_from_rotation_vector(poses[t].reshape(22, 3))
    )
    world = [np.eye(4)] * 22
    for j, parent in enumerate(skeleton.PARENTS):
      local = np.eye(4)
      local[:3, :3] = turns[j]
      local[:3, 3] = rest[j] - (rest[parent] if j else 0)
      world[j] = world[parent] @ local if j else local
    expected = np.stack([m[:3, 3] for m in world]) + trans[t]
    np.testing.assert_allclose(joints[t], expected, atol=1e-12)


def test_what_is_wrong_with_a_model_is_named(folder):
  with pytest.raises(ValueError, match="male, female, neutral, found 'x'"):
    body_model.find(folder, 'x')
  (folder / 'male' / 'model.npz').unlink()
  with pytest.raises(ValueError, match=r'male/model\.npz or SMPLX_MALE\.npz'):
    body_model.find(folder, 'male')
  np.savez(folder / 'male' / 'model.npz', v_template=np.zeros((4, 3)))
  with pytest.raises(ValueError, match='none for shapedirs and J_regressor'):
    body_model.find(folder, 'male')
  odd = {**_arrays(), 'J_regressor': np.zeros((52, 39))}
  np.savez(folder / 'male' / 'model.npz', **odd)
  with pytest.raises(ValueError, match=r'\[40, 3\], \[40, 3, 16\].*\[52, 39\]'):
    body_model.find(folder, 'male')
