import jax.numpy as jnp
import numpy as np
from scipy import special

from vimonet_jax.models import attention


def test_rotary_pairs_a_dimension_with_the_one_half_a_head_away():
  x = np.random.default_rng(0).normal(size=(1, 1, 1, 4)).astype(np.float32)
  turn = attention.rotary(jnp.array([[3]]), 4, 1e4)
  assert turn.cos.shape == turn.sin.shape == (1, 1, 1, 4)
  angles = 3 * 1e4 ** (-2 * np.arange(2) / 4)
  pairs = (x[..., :2] + 1j * x[..., 2:]) * np.exp(1j * angles)
  np.testing.assert_allclose(
    attention.rotate(x, turn),
    np.concatenate([pairs.real, pairs.imag], axis=-1),
    atol=1e-6,
  )


def test_scores_depend_on_the_distance_of_positions_only():
  rng = np.random.default_rng(0)
  q, k = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

  def score(q_position, k_position):
    turned = [
      attention.rotate(x, attention.rotary(jnp.array([[p]]), 8, 1e4))
      for x, p in ((q, q_position), (k, k_position))
    ]
    return float(np.sum(turned[0] * turned[1]))

  assert np.isclose(score(7, 2), score(105, 100), atol=1e-5)
  assert not np.isclose(score(7, 2), score(7, 3), atol=1e-2)


def test_the_mask_is_the_picture_in_its_docstring():
  segment_ids = jnp.array([[1, 1, 1, 2, 2, 0]])
  positions = jnp.array([[0, 1, 2, 0, 1, 0]])
  mask = attention.mask(positions, segment_ids, positions, segment_ids)
  rows = [
    line.split('|')[1].split()
    for line in attention.mask.__doc__.splitlines()
    if '|' in line
  ]
  assert np.array_equal(mask[0], np.array(rows) == 'x')


def test_kv_heads_are_shared_by_neighbouring_query_heads():
  rng = np.random.default_rng(0)
  q = rng.normal(size=(2, 3, 4, 8)).astype(np.float32)
  k, v = rng.normal(size=(2, 2, 5, 2, 8)).astype(np.float32)
  mask = rng.random((2, 3, 5)) < 0.7
  mask[..., 0] = True
  scores = np.einsum('blnh,bsnh->bnls', q, k.repeat(2, 2)) / np.sqrt(8)
  weights = np.exp(scores) * mask[:, None]
  weights /= weights.sum(-1, keepdims=True)
  want = np.einsum('bnls,bsnh->blnh', weights, v.repeat(2, 2))
  np.testing.assert_allclose(attention.attend(q, k, v, mask), want, atol=1e-5)


def test_bfloat16_scores_are_rounded_nowhere():
  rng = np.random.default_rng(0)
  q, k = jnp.asarray(rng.normal(size=(2, 1, 16, 1, 128)), jnp.bfloat16)
  # Values that give the weights back, in float32.
  v = np.eye(16, dtype=np.float32)[None, :, None]
  found = attention.attend(q, k, v, np.ones((1, 16, 16), bool))[0, :, 0]
  q, k = (np.asarray(x[0, :, 0], np.float64) for x in (q, k))
  want = special.softmax(q @ k.T / np.sqrt(128), axis=-1)
  np.testing.assert_allclose(found, want, rtol=1e-5)
