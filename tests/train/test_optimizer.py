import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vimonet_jax.train import optimizer

SHAPES = {
  'llm/embed/embedding': (16, 8),
  'llm/blocks/attn/q/kernel': (3, 8, 2, 4),
  'llm/blocks/attn/q/lora_a': (3, 8, 2),
  'llm/blocks/attn/o/kernel': (3, 2, 4, 8),
  'llm/blocks/mlp/up/kernel': (3, 8, 16),
  'llm/blocks/attn_norm/scale': (3, 8),
  'llm/head/kernel': (8, 16),
  'motion/encoder/in/kernel': (3, 4, 8),
  'translators/motion/in/kernel': (4, 8),
  'translators/motion/in/bias': (8,),
}


def _params(seed=0):
  rng = np.random.default_rng(seed)
  return {
    path: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for path, shape in SHAPES.items()
  }


def _updates(tx, params, grads):
  state = tx.init(params)
  return jax.jit(tx.update)(grads, state, params)[0]


def test_split_and_join_are_inverse():
  params = _params()
  trainables, frozen = optimizer.split(
    params, [r'translators/.*', r'llm/.*/lora_.*']
  )
  assert sorted(trainables) == [
    'llm/blocks/attn/q/lora_a',
    'translators/motion/in/bias',
    'translators/motion/in/kernel',
  ]
  assert optimizer.join(trainables, frozen).keys() == params.keys()
  assert not set(trainables) & set(frozen)


def test_a_pattern_must_match_a_whole_path():
  with pytest.raises(ValueError, match='translators/motion/in/kernel'):
    optimizer.split(_params(), ['translators/motion/in/kern'])


def test_a_pattern_hidden_behind_an_earlier_one_is_reported():
  with pytest.raises(ValueError, match='taken by earlier'):
    optimizer.match(['llm/.*', 'llm/head/.*'], list(SHAPES))


def test_a_path_on_both_sides_is_reported():
  with pytest.raises(ValueError, match='a/b'):
    optimizer.join({'a/b': 1}, {'a/b': 2})


@pytest.mark.parametrize('kind', sorted(optimizer.KINDS))
def test_groups_get_their_learning_rates(kind):
  params, grads = _params(), _params(seed=1)

  def updates(llm_rate):
    groups = [
      optimizer.Group('llm/.*', llm_rate),
      optimizer.Group('.*', 1e-3),
    ]
    return _updates(optimizer.make(groups, steps=10, kind=kind), params, grads)

  slow, fast = updates(1e-3), updates(1e-2)
  for path in SHAPES:
    ratio = 10.0 if path.startswith('llm/') else 1.0
    np.testing.assert_allclose(fast[path], ratio * slow[path], rtol=1e-5)


def test_the_first_step_of_adam_is_its_learning_rate():
  grads = {path: jnp.ones(shape) for path, shape in SHAPES.items()}
  tx = optimizer.make([optimizer.Group('.*', 0.5)], steps=10)
  for update in _updates(tx, _params(), grads).values():
    np.testing.assert_allclose(update, -0.5, rtol=1e-4)


def test_every_trainable_needs_a_learning_rate():
  tx = optimizer.make([optimizer.Group('llm/.*', 1e-3)], steps=10)
  with pytest.raises(ValueError, match='translators/motion/in/bias'):
    tx.init(_params())


def test_gradients_are_clipped_to_a_global_norm():
  params = {'a/kernel': jnp.zeros((2, 2)), 'b/kernel': jnp.zeros((2, 2))}
  grads = {'a/kernel': jnp.full((2, 2), 3.0), 'b/kernel': jnp.zeros((2, 2))}
  # With a large eps Adam's first update is the gradient over eps.
  tx = optimizer.make([optimizer.Group('.*', 1.0)], steps=10, eps=1e6, clip=1.0)
  update = _updates(tx, params, grads)['a/kernel']
  np.testing.assert_allclose(np.linalg.norm(update) * 1e6, 1.0, rtol=1e-3)


@pytest.mark.parametrize('kind', sorted(optimizer.KINDS))
def test_weight_decay_pulls_on_matrices_only(kind):
  params, grads = _params(), _params(seed=1)
  groups = [optimizer.Group('.*', 1e-2)]

  def updates(decay):
    tx = optimizer.make(groups, steps=10, kind=kind, weight_decay=decay)
    return _updates(tx, params, grads)

  with_decay, without = updates(0.1), updates(0.0)
  for path in SHAPES:
    pull = 0.0 if path.endswith(('scale', 'bias')) else -1e-3
    np.testing.assert_allclose(
      with_decay[path] - without[path], pull * params[path], atol=1e-6
    )


def test_muon_orthogonalises_each_layer_as_one_matrix():
  tx = optimizer.make([optimizer.Group('.*', 1.0)], steps=10, kind='muon')
  updates = _updates(tx, _params(), _params(seed=1))
  matrices = {
    'llm/blocks/attn/q/kernel': (8, 8),
    'llm/blocks/attn/o/kernel': (8, 8),
    'llm/blocks/mlp/up/kernel': (8, 16),
  }
  for path, shape in matrices.items():
    for layer in updates[path]:
      singular = np.linalg.svd(layer.reshape(shape), compute_uv=False)
      # Newton-Schulz ends between 0.7 and 1.2; 0.2 sqrt(larger side) scales it.
      singular = singular / (0.2 * np.sqrt(max(shape)))
      assert 0.3 < singular.min() < singular.max() < 1.4, path
  conv = np.asarray(updates['motion/encoder/in/kernel']).reshape(12, 8)
  singular = np.linalg.svd(conv, compute_uv=False) / (0.2 * np.sqrt(12))
  assert singular.min() > 0.3


def test_muon_leaves_embeddings_head_adapters_and_vectors_to_adam():
  axes = {
    path: optimizer.matrix_axes(path, len(shape))
    for path, shape in SHAPES.items()
  }
  assert {path for path, found in axes.items() if found} == {
    'llm/blocks/attn/q/kernel',
    'llm/blocks/attn/o/kernel',
    'llm/blocks/mlp/up/kernel',
    'motion/encoder/in/kernel',
    'translators/motion/in/kernel',
  }


def test_the_warm_up_starts_above_zero_and_the_cosine_ends_at_zero():
  schedule = optimizer.make_schedule('cosine', steps=12, warmup_steps=4)
  factors = np.asarray(jax.vmap(schedule)(jnp.arange(13)))
  np.testing.assert_allclose(factors[:4], [0.25, 0.5, 0.75, 1.0])
  assert np.all(np.diff(factors[4:]) < 0.0)
  np.testing.assert_allclose(factors[[8, 12]], [0.5, 0.0], atol=1e-6)


def test_the_constant_schedule_stays():
  schedule = optimizer.make_schedule('constant', steps=5, warmup_steps=2)
  assert [float(schedule(step)) for step in (0, 1, 4)] == [0.5, 1.0, 1.0]


def test_a_warm_up_longer_than_the_run_is_reported():
  with pytest.raises(ValueError, match='warmup_steps=5'):
    optimizer.make_schedule('cosine', steps=5, warmup_steps=5)


def test_unknown_names_print_the_known_ones():
  groups = [optimizer.Group('.*', 1.0)]
  with pytest.raises(ValueError, match='adamw, muon'):
    optimizer.make(groups, steps=3, kind='sgd')
  with pytest.raises(ValueError, match='constant, cosine'):
    optimizer.make(groups, steps=3, schedule='linear')
