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


FLAT = {
  'llm/blocks/attn/q/kernel': np.ones((2, 3, 4), np.float16),
  'llm/blocks/attn/q/lora_a': np.ones((2, 3, 2), np.float32),
  'llm/blocks/attn/q/lora_b': np.ones((2, 2, 4), np.float32),
  'llm/blocks/attn/k/kernel': np.ones((2, 3, 4), np.float16),
  'llm/norm/scale': np.ones(3, np.float32),
  'translators/motion/in/bias': np.ones(4, np.float32),
}


def test_what_is_kept_is_all_but_the_adapters_by_its_names_alone():
  wanted = sorted(path for path in FLAT if 'lora_' not in path)
  assert lora.kept(FLAT) == wanted
  assert lora.kept(iter(FLAT)) == wanted
  assert lora.kept(wanted) == wanted
  with pytest.raises(ValueError, match='attn/q to have a kernel.*lora_a'):
    lora.kept(path for path in FLAT if not path.endswith('q/kernel'))


class _Reads(dict):
  """Weights that are read from disk, as weight_files.Lazy."""

  def __init__(self, flat):
    super().__init__(flat)
    self.read = []

  def __getitem__(self, path):
    self.read.append(path)
    return super().__getitem__(path)


def test_one_parameter_is_merged_without_reading_the_others():
  flat = _Reads(FLAT)
  path = 'llm/blocks/attn/q/kernel'
  found = lora.merged(flat, path, ADAPTER)
  assert sorted(set(flat.read)) == sorted(p for p in FLAT if '/q/' in p)
  assert found.dtype == np.float16
  # 1 and alpha / rank times a product over two ranks, in each layer.
  np.testing.assert_array_equal(found, np.full((2, 3, 4), 1 + 3.0 * 2))
  for path in ('llm/blocks/attn/k/kernel', 'llm/norm/scale'):
    assert lora.merged(flat, path, ADAPTER) is FLAT[path]
  assert lora.merge(flat, ADAPTER).keys() == set(lora.kept(flat))


def test_each_layer_has_its_own_adapter_added():
  rng = np.random.default_rng(0)
  flat = {
    'llm/blocks/attn/o/kernel': rng.normal(size=(3, 2, 4, 5)),
    'llm/blocks/attn/o/lora_a': rng.normal(size=(3, 2, 4, 2)),
    'llm/blocks/attn/o/lora_b': rng.normal(size=(3, 2, 5)),
  }
  kernel, lora_a, lora_b = flat.values()
  wanted = kernel + 3.0 * np.einsum('inhr,ird->inhd', lora_a, lora_b)
  flat = {path: x.astype(np.float32) for path, x in flat.items()}
  found = lora.merged(flat, 'llm/blocks/attn/o/kernel', ADAPTER)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('side', ['lora_a', 'lora_b'])
def test_half_an_adapter_is_not_added(side):
  path = 'llm/blocks/attn/q/kernel'
  half = {p: x for p, x in FLAT.items() if not p.endswith(side)}
  other = {'lora_a': 'lora_b', 'lora_b': 'lora_a'}[side]
  with pytest.raises(
    ValueError, match=f'attn/q to have lora_a and lora_b.*attn/q/{other}'
  ):
    lora.merged(half, path, ADAPTER)


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
