import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from flax.core import meta

from vimonet_jax.models import lora

ADAPTER = lora.LoraConfig(rank=2, alpha=6.0)


def make(adapter=ADAPTER, *, features=(3, 4), names=None):
  return lora.LoraDense(
    features=features,
    names=names or ('embed', 'heads', 'head_dim'),
    stddev=0.3,
    lora=adapter,
  )


def init(layer, shape, seed=0):
  return meta.unbox(layer.init(jax.random.key(seed), jnp.zeros(shape)))


def with_b(variables, seed=1):
  """The same layer after its lora_b has learnt something."""
  params = dict(variables['params'])
  params['lora_b'] = jax.random.normal(
    jax.random.key(seed), params['lora_b'].shape
  )
  return {'params': params}


def test_a_fresh_adapter_changes_nothing():
  x = jax.random.normal(jax.random.key(2), (2, 5, 7))
  variables = init(make(), x.shape)
  base = {'params': {'kernel': variables['params']['kernel']}}
  with_adapter = make().apply(variables, x)
  without = make(lora.LoraConfig()).apply(base, x)
  np.testing.assert_array_equal(with_adapter, without)
  assert np.abs(make().apply(with_b(variables), x) - without).max() > 0.1


def test_the_adapter_is_its_two_matrices_times_alpha_over_rank():
  x = jax.random.normal(jax.random.key(2), (5, 7))
  variables = with_b(init(make(), x.shape))
  params = {k: np.asarray(p) for k, p in variables['params'].items()}
  total = params['kernel'] + 3.0 * np.einsum(
    'dr,rnh->dnh', params['lora_a'], params['lora_b']
  )
  want = np.einsum('ld,dnh->lnh', x, total)
  np.testing.assert_allclose(make().apply(variables, x), want, atol=1e-5)


def test_the_published_adapter_is_scaled_by_a_quarter():
  assert lora.LoraConfig(64).scale == 0.25
  assert lora.LoraConfig(0).scale == 0.0


def test_several_input_axes_are_contracted():
  layer = make(features=(7,), names=('heads', 'head_dim', 'embed'))
  x = jax.random.normal(jax.random.key(2), (2, 5, 3, 4))
  variables = with_b(init(layer, x.shape))
  params = variables['params']
  assert params['kernel'].shape == (3, 4, 7)
  assert params['lora_a'].shape == (3, 4, 2)
  want = np.einsum('blnh,nhd->bld', x, params['kernel']) + 3.0 * np.einsum(
    'blnh,nhr,rd->bld', x, params['lora_a'], params['lora_b']
  )
  np.testing.assert_allclose(layer.apply(variables, x), want, atol=1e-5)


def test_a_starts_uniform_within_its_fan_in_and_b_at_zero():
  layer = make(lora.LoraConfig(rank=64), features=(4, 4))
  params = init(layer, (1, 256))['params']
  lora_a = np.asarray(params['lora_a'])
  assert np.abs(lora_a).max() <= 1 / 16
  assert np.isclose(lora_a.std(), 1 / 16 / 3**0.5, rtol=0.05)
  assert not np.any(params['lora_b'])
  assert {x.dtype for x in params.values()} == {jnp.dtype('float32')}


def test_dropout_touches_only_the_adapter_and_only_in_training():
  layer = make(lora.LoraConfig(rank=2, dropout=0.5))
  x = jnp.ones((4, 7))
  variables = init(layer, x.shape)
  learnt = with_b(variables)

  def train(variables, seed):
    return layer.apply(
      variables, x, deterministic=False, rngs={'dropout': jax.random.key(seed)}
    )

  np.testing.assert_array_equal(train(variables, 0), layer.apply(variables, x))
  assert np.abs(train(learnt, 0) - train(learnt, 1)).max() > 0.01
  assert np.abs(train(learnt, 0) - layer.apply(learnt, x)).max() > 0.01


def test_it_computes_in_its_dtype_from_float32_parameters():
  layer = lora.LoraDense((4,), ('embed', 'mlp'), 1.0, ADAPTER, jnp.bfloat16)
  variables = init(layer, (2, 7))
  assert variables['params']['kernel'].dtype == jnp.float32
  assert layer.apply(variables, jnp.ones((2, 7))).dtype == jnp.bfloat16


@pytest.mark.parametrize('path', ['llm/blocks/attn/q', 'llm/one'])
def test_merged_equals_unmerged(path):
  stacked = '/blocks/' in path
  x = jax.random.normal(jax.random.key(2), (5, 7))
  layers = [with_b(init(make(), x.shape, i), i + 9) for i in range(2)]
  if stacked:
    params = jax.tree.map(lambda *p: jnp.stack(p), *layers)['params']
  else:
    params, layers = layers[0]['params'], layers[:1]
  flat = traverse_util.flatten_dict({path: dict(params)}, sep='/')
  flat['other/kernel'] = jnp.ones(3)
  merged = lora.merge(flat, ADAPTER)
  assert set(merged) == {f'{path}/kernel', 'other/kernel'}
  plain = make(lora.LoraConfig())
  for i, variables in enumerate(layers):
    kernel = merged[f'{path}/kernel']
    kernel = kernel[i] if stacked else kernel
    np.testing.assert_allclose(
      plain.apply({'params': {'kernel': kernel}}, x),
      make().apply(variables, x),
      atol=1e-5,
    )


def test_merging_rounds_once_to_the_kernels_dtype():
  # Just over half of the way from 1 to the next bfloat16. Rounded by itself,
  # the product would be exactly half, and the sum 1.
  flat = {
    'a/kernel': jnp.ones((1, 1), jnp.bfloat16),
    'a/lora_a': jnp.full((1, 1), 2**-8 + 2**-17, jnp.float32),
    'a/lora_b': jnp.ones((1, 1), jnp.float32),
  }
  merged = lora.merge(flat, lora.LoraConfig(rank=1, alpha=1.0))['a/kernel']
  assert merged.dtype == jnp.bfloat16
  assert float(merged[0, 0]) == 1 + 2**-7


def test_merging_with_another_rank_says_so():
  flat = {
    'a/kernel': jnp.ones((4, 4)),
    'a/lora_a': jnp.ones((4, 3)),
    'a/lora_b': jnp.ones((3, 4)),
  }
  with pytest.raises(ValueError, match='rank 2.*merge with the configuration'):
    lora.merge(flat, ADAPTER)
  with pytest.raises(ValueError, match='to have a kernel'):
    lora.merge({'a/lora_a': jnp.ones((4, 2))}, ADAPTER)
