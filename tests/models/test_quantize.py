import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import traverse_util
from flax.core import meta

from vimonet_jax import sharding
from vimonet_jax.models import llama, lora, quantize, vimonet

# QLoRA, appendix E (https://arxiv.org/abs/2305.14314).
NF4 = (
  -1.0,
  -0.6961928009986877,
  -0.5250730514526367,
  -0.39491748809814453,
  -0.28444138169288635,
  -0.18477343022823334,
  -0.09105003625154495,
  0.0,
  0.07958029955625534,
  0.16093020141124725,
  0.24611230194568634,
  0.33791524171829224,
  0.44070982933044434,
  0.5626170039176941,
  0.7229568362236023,
  1.0,
)


def draw(shape, seed=0, dtype=jnp.float32):
  return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def rounded(kernel, kind, num_inputs):
  """What the bits stand for, by the definition of each kind, in float64."""
  x = np.asarray(kernel, np.float64)
  inputs, features = x.shape[:num_inputs], x.shape[num_inputs:]
  if kind == 'int8':
    scale = np.abs(x).max(tuple(range(num_inputs))) / 127.5
    return np.clip(np.round(x / scale), -128, 127) * scale
  size = np.gcd(64, inputs[-1])
  blocks = x.reshape(*inputs[:-1], inputs[-1] // size, size, *features)
  scale = np.abs(blocks).max(num_inputs, keepdims=True)
  nearest = np.abs((blocks / scale)[..., None] - NF4).argmin(-1)
  return (np.array(NF4)[nearest] * scale).reshape(x.shape)


def split(kernel, kind, num_inputs):
  shape = kernel.shape
  scale = quantize.scale_shape(kind, shape[:num_inputs], shape[num_inputs:])
  return quantize.quantize(kernel, kind, scale)


CASES = [
  (kind, shape, num_inputs)
  for kind in ('int8', 'nf4')
  for shape, num_inputs in (
    ((128, 3, 4), 1),
    ((3, 128, 5), 2),
    ((2, 64, 5), 2),
    ((96, 7), 1),
  )
]


@pytest.mark.parametrize(('kind', 'shape', 'num_inputs'), CASES)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_each_value_is_the_nearest_of_its_kind(kind, shape, num_inputs, dtype):
  kernel = draw(shape, dtype=dtype)
  made = split(kernel, kind, num_inputs)
  fan_in = np.prod(shape[:num_inputs])
  # The kernel seen through the product itself.
  seen = quantize.dot(jnp.eye(fan_in), made).reshape(shape)
  want = rounded(kernel, kind, num_inputs)
  # A channel's largest number lies halfway between 127 and 128 of int8.
  x = np.abs(np.asarray(kernel, np.float32))
  is_largest = x == x.max(tuple(range(num_inputs)), keepdims=True)
  off = np.abs(seen - want) > 1e-5
  assert not off[~is_largest].any()
  assert kind == 'int8' or not off.any()
  largest = {'int8': 0.5 / 127.5, 'nf4': 0.16}[kind] * np.abs(want).max()
  assert np.abs(seen - np.asarray(kernel, np.float32)).max() < largest * 1.01


@pytest.mark.parametrize(('kind', 'shape', 'num_inputs'), CASES)
def test_it_takes_the_bits_that_it_says(kind, shape, num_inputs):
  made = split(draw(shape), kind, num_inputs)
  assert made['qvalue'].dtype == {'int8': 'int8', 'nf4': 'uint4'}[kind]
  assert made['qvalue'].shape == shape
  assert made['scale'].dtype == jnp.float32
  if kind == 'int8':
    assert made['scale'].size == np.prod(shape[num_inputs:])
    assert np.abs(np.asarray(made['qvalue'], int)).max() in (127, 128)
  else:
    assert made['scale'].size == np.prod(shape) / np.gcd(
      64, shape[num_inputs - 1]
    )


def test_a_channel_of_zeros_stays_zero():
  kernel = draw((64, 3)).at[:, 1].set(0.0)
  for kind in ('int8', 'nf4'):
    seen = quantize.dot(jnp.eye(64), split(kernel, kind, 1))
    np.testing.assert_array_equal(seen[:, 1], 0.0)
    assert np.isfinite(seen).all()


@pytest.mark.parametrize('kind', ['int8', 'nf4'])
def test_gradients_reach_the_inputs_as_through_the_kernel_itself(kind):
  made = split(draw((64, 3, 4), dtype='bfloat16'), kind, 1)
  dense = quantize.dot(jnp.eye(64), made)
  x, g = draw((5, 64), 1), draw((5, 12), 2)
  y, pull = jax.vjp(lambda x: quantize.dot(x, made), x)
  np.testing.assert_allclose(y, x @ dense, atol=1e-4)
  np.testing.assert_allclose(pull(g)[0], g @ dense.T, atol=1e-4)


@pytest.mark.parametrize('kind', ['int8', 'nf4'])
def test_the_backward_pass_keeps_bits_and_no_kernel(kind):
  made = split(draw((64, 48)), kind, 1)

  def forward(x):
    return jax.vjp(lambda x: quantize.dot(x, made), x)

  kept = jax.tree.leaves(jax.eval_shape(forward, jnp.zeros((5, 64)))[1])
  large = [x for x in kept if x.size >= 64 * 48]
  assert all(x.dtype == made['qvalue'].dtype for x in large)


def test_large_sums_of_whole_numbers_fit_float16():
  made = split(jnp.ones((4096, 1)), 'int8', 1)
  y = quantize.dot(jnp.ones((1, 4096), jnp.float16), made)
  assert y.dtype == jnp.float16
  np.testing.assert_allclose(y, 4096.0, rtol=0.01)


def layer(kind, adapter=None):
  return lora.LoraDense(
    features=(3, 4),
    names=('embed', 'heads', 'head_dim'),
    stddev=0.3,
    lora=adapter or lora.LoraConfig(),
    quantize=kind,
  )


@pytest.mark.parametrize('kind', ['int8', 'nf4'])
def test_a_fresh_layer_is_about_as_large_as_without(kind):
  x = draw((50, 128))
  fresh = layer(kind).init(jax.random.key(0), x)
  y = layer(kind).apply(meta.unbox(fresh), x)
  assert np.std(y) == pytest.approx(0.3 * 128**0.5, rel=0.2)


def test_scales_are_divided_as_their_kernels_are():
  fresh = layer('nf4').init(jax.random.key(0), draw((1, 128)))
  names = fresh['params']['kernel']
  assert names['qvalue'].names == ('embed', 'heads', 'head_dim')
  assert names['scale'].names == ('embed_blocks', 'heads', 'head_dim')
  fresh = layer('int8').init(jax.random.key(0), draw((1, 128)))
  assert fresh['params']['kernel']['scale'].names == (None, 'heads', 'head_dim')


@pytest.mark.parametrize('kind', ['int8', 'nf4'])
def test_an_adapter_is_beside_a_quantised_kernel(kind):
  adapter = lora.LoraConfig(rank=2, alpha=6.0)
  x = draw((5, 64))
  params = meta.unbox(layer(kind, adapter).init(jax.random.key(0), x))['params']
  params['lora_b'] = draw(params['lora_b'].shape, 3)
  without = layer(kind).apply({'params': {'kernel': params['kernel']}}, x)
  added = 3.0 * jnp.einsum(
    'li,ir,rnh->lnh', x, params['lora_a'], params['lora_b']
  )
  y = layer(kind, adapter).apply({'params': params}, x)
  np.testing.assert_allclose(y, without + added, rtol=1e-4, atol=1e-4)


def test_an_unknown_kind_is_refused():
  with pytest.raises(ValueError, match="quantize to be int8, nf4 or '', found"):
    dataclasses.replace(small.CONFIG.llm, quantize='int9')


def _wanted(kind, mesh):
  llm = dataclasses.replace(
    small.CONFIG.llm, quantize=kind, lora=lora.LoraConfig()
  )
  model = llama.Llama(llm)
  rows = jnp.zeros((1, 4), jnp.int32)

  def reach(module):
    x = module.embed(rows)
    return module.logits(module(x, rows, rows))

  abstract = jax.eval_shape(
    lambda key: model.init(key, method=reach), jax.random.key(0)
  )['params']
  where = sharding.state_shardings(abstract, mesh)
  return {
    f'llm/{path}': jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where[path])
    for path, x in sharding.unbox(abstract).items()
  }


def test_stored_kernels_are_found_by_their_parts():
  wanted = _wanted('int8', sharding.make_mesh(devices=jax.devices()[:1]))
  parts = quantize.made_of(wanted)
  stored = _wanted('', sharding.make_mesh(devices=jax.devices()[:1]))
  assert set(parts) == set(stored)
  changed = {path for path, x in parts.items() if x != [path]}
  assert changed == {
    f'llm/blocks/{owner}/kernel'
    for owner in (*(f'attn/{x}' for x in 'qkvo'), *(f'mlp/{x}' for x in MLP))
  }
  for path in changed:
    assert parts[path] == [f'{path}/qvalue', f'{path}/scale']


MLP = ('gate', 'up', 'down')


@pytest.mark.parametrize('kind', ['int8', 'nf4'])
def test_a_stack_is_rounded_layer_by_layer(kind):
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  wanted = _wanted(kind, mesh)
  path = 'llm/blocks/attn/o/kernel'
  stack = draw(wanted[f'{path}/qvalue'].shape) * jnp.array(
    [1.0, 100.0]
  ).reshape(2, 1, 1, 1)
  made = quantize.like(path, stack, wanted)
  for layer_, kernel in enumerate(stack):
    alone = split(kernel, kind, 2)
    for part, x in alone.items():
      np.testing.assert_array_equal(made[f'{path}/{part}'][layer_], x)
  assert {path: (x.shape, x.dtype) for path, x in made.items()} == {
    name: (wanted[name].shape, wanted[name].dtype) for name in made
  }


def test_a_quantised_decoder_is_that_of_the_rounded_kernels():
  """The whole network, against itself with what the bits stand for."""
  plain = dataclasses.replace(small.CONFIG, words_noise=0.0)
  llm = dataclasses.replace(plain.llm, quantize='int8')
  rounding = dataclasses.replace(plain, llm=llm)
  tokens = jnp.arange(12, dtype=jnp.int32).reshape(2, 6)
  batch = {
    'tokens': tokens,
    'positions': jnp.broadcast_to(jnp.arange(6), (2, 6)),
    'segment_ids': jnp.ones_like(tokens),
    'media_index': jnp.full_like(tokens, -1),
  }
  params = small.params(
    jax.eval_shape(
      lambda: vimonet.Vimonet(plain).init(
        jax.random.key(0), batch, method=lambda m, b: m.logits(m(b))
      )
    )['params'],
    0.3,
  )
  bits, dense = {}, {}
  for path, x in params.items():
    if path.endswith('/kernel') and '/blocks/' in path:
      num_inputs = 2 if '/o/' in path else 1
      made = [split(jnp.asarray(y), 'int8', num_inputs) for y in x]
      fan_in = np.prod(x.shape[1 : 1 + num_inputs])
      for part in ('qvalue', 'scale'):
        bits[f'{path}/{part}'] = jnp.stack([y[part] for y in made])
      dense[path] = jnp.stack(
        [quantize.dot(jnp.eye(fan_in), y).reshape(x.shape[1:]) for y in made]
      )
    else:
      bits[path] = dense[path] = x

  def hidden(config, flat):
    tree = traverse_util.unflatten_dict(flat, sep='/')
    return vimonet.Vimonet(config).apply({'params': tree}, batch)

  want = hidden(plain, dense)
  np.testing.assert_allclose(hidden(rounding, bits), want, atol=2e-5)
  assert np.abs(hidden(plain, params) - want).max() > 1e-3
