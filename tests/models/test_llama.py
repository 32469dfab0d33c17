import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import traverse_util

from vimonet_jax import sharding
from vimonet_jax.models import attention, llama, lora

CONFIG = llama.Config(
  vocab_size=32,
  width=16,
  layers=2,
  heads=4,
  kv_heads=2,
  head_dim=8,
  mlp_width=24,
)
# What is compiled here runs a few times only, so it need not be fast.
QUICK = {'xla_backend_optimization_level': 0}


def forward(model, tokens, positions, segment_ids):
  h_BLD = model(model.embed(tokens), positions, segment_ids)
  return model.logits(h_BLD)


def extend(model, tokens, length, cache):
  h_BLD, cache = model.extend(model.embed(tokens), length, cache)
  return model.logits(h_BLD), cache


def begin(model, tokens, length, cache):
  h_BLD, cache = model.begin(model.embed(tokens), length, cache)
  return model.logits(h_BLD), cache


@functools.cache
def variables(config):
  flat = small.params(_abstract(config), 0.3)
  return {'params': traverse_util.unflatten_dict(flat, sep='/')}


@functools.cache
def compiled(config, method):
  model = llama.Llama(config)
  apply = functools.partial(model.apply, method=method)
  return jax.jit(apply, compiler_options=QUICK)


def scores(tokens, positions=None, segment_ids=None, *, config=CONFIG):
  """Logits of [B, L] tokens, padded to one shape to compile once."""
  shape = tokens.shape
  if positions is None:
    positions, segment_ids = np.arange(shape[1])[None], np.ones(shape, int)
  rows = [np.zeros((2, 12), np.int32) for _ in range(3)]
  for row, given in zip(rows, (tokens, positions, segment_ids), strict=True):
    row[: shape[0], : shape[1]] = given
  found = compiled(config, forward)(variables(config), *rows)
  return np.asarray(found)[: shape[0], : shape[1]]


def random_tokens(shape, seed=0):
  return np.random.default_rng(seed).integers(1, 32, shape, np.int32)


def test_rms_norm_divides_by_the_root_of_the_mean_square():
  x = np.array([[3.0, 4.0]], np.float32)
  params = {'params': {'scale': jnp.array([1.0, 2.0])}}
  found = llama.RMSNorm(1e-5, jnp.float32).apply(params, x)
  root = np.sqrt(12.5 + 1e-5)
  np.testing.assert_allclose(found, [[3 / root, 8 / root]], rtol=1e-6)
  # eps decides where the input is small.
  found = llama.RMSNorm(1e-5, jnp.float32).apply(params, x * 1e-3)
  np.testing.assert_allclose(found[0, 0], 3e-3 / np.sqrt(12.5e-6 + 1e-5), 1e-6)


def test_a_later_token_changes_no_earlier_logit():
  tokens = random_tokens((1, 9))
  changed = tokens.copy()
  changed[0, 5] = tokens[0, 5] % 31 + 1
  before, after = scores(tokens)[0], scores(changed)[0]
  np.testing.assert_array_equal(before[:5], after[:5])
  assert np.abs(before[5:] - after[5:]).max(axis=1).min() > 1e-4


def test_packed_rows_do_not_see_each_other():
  first, second = random_tokens((1, 4)), random_tokens((1, 5), seed=1)
  packed = scores(
    np.concatenate([first, second], axis=1),
    np.array([[0, 1, 2, 3, 0, 1, 2, 3, 4]]),
    np.array([[1, 1, 1, 1, 2, 2, 2, 2, 2]]),
  )
  np.testing.assert_allclose(packed[:, :4], scores(first), atol=1e-5)
  np.testing.assert_allclose(packed[:, 4:], scores(second), atol=1e-5)


def test_padding_changes_nothing_and_stays_finite():
  tokens = random_tokens((1, 5))
  padded = np.pad(tokens, ((0, 0), (0, 4)), constant_values=7)
  segment_ids = np.array([[1] * 5 + [0] * 4])
  found = scores(padded, segment_ids * np.arange(9), segment_ids)
  np.testing.assert_allclose(found[:, :5], scores(tokens), atol=1e-5)
  assert np.isfinite(found).all()


def test_ragged_prefill_decode_and_a_second_turn_equal_the_full_forward():
  tokens = random_tokens((2, 12))
  want = scores(tokens)
  cache = attention.init_cache(CONFIG, 2, 12)
  read = np.zeros(2, int)
  # A prompt, two tokens, a turn for the first row only, a turn for both.
  for i, lengths in enumerate(([5, 3], [1, 1], [1, 1], [3, 0], [2, 5])):
    step = compiled(CONFIG, extend if i else begin)
    chunk = np.full((2, 1 if max(lengths) == 1 else 5), 7, np.int32)
    for b, count in enumerate(lengths):
      chunk[b, :count] = tokens[b, read[b] : read[b] + count]
    logits, cache = step(variables(CONFIG), chunk, np.array(lengths), cache)
    for b, count in enumerate(lengths):
      np.testing.assert_allclose(
        logits[b, :count], want[b, read[b] : read[b] + count], atol=1e-5
      )
    read += lengths
    np.testing.assert_array_equal(cache.length, read)
  assert read.tolist() == [12, 10]


def test_tokens_without_a_slot_leave_the_cache_alone():
  step = functools.partial(compiled(CONFIG, extend), variables(CONFIG))
  cache = attention.init_cache(CONFIG, 2, 12)
  for i in range(3):
    full = cache
    _, cache = step(random_tokens((2, 5), i), np.array([5, 5]), cache)
  # The third call found two slots.
  for k, before in zip(cache.k, full.k, strict=True):
    np.testing.assert_array_equal(k[..., :10, :], before[..., :10, :])
    assert np.abs(k[..., 10:, :]).min() > 0


def test_unrolled_and_rematerialised_blocks_have_one_layout_and_one_gradient():
  rows = [random_tokens((2, 6)), np.arange(6)[None], np.ones((2, 6), int)]

  def gradient(**changes):
    model = llama.Llama(dataclasses.replace(CONFIG, **changes))

    def loss(params):
      return jnp.sum(jnp.sin(model.apply(params, *rows, method=forward)))

    return jax.jit(jax.grad(loss), compiler_options=QUICK)(variables(CONFIG))

  want = gradient()
  for changes in ({'unroll': 2, 'remat': 'full'}, {'remat': 'dots'}):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4),
      gradient(**changes),
      want,
    )


def test_dropout_reaches_the_adapters_and_follows_its_key():
  adapters = lora.LoraConfig(rank=2, dropout=0.5, targets=('q', 'down'))
  config = dataclasses.replace(CONFIG, lora=adapters)
  flat = traverse_util.flatten_dict(variables(config)['params'], sep='/')
  found = sorted(path for path in flat if 'lora_' in path)
  assert [path.split('/')[-2] for path in found] == ['q'] * 2 + ['down'] * 2
  x_BLD = np.random.default_rng(0).normal(size=(1, 6, 16)).astype(np.float32)
  positions = np.arange(6)[None]

  @jax.jit
  def train(key):
    return llama.Llama(config).apply(
      variables(config),
      x_BLD,
      positions,
      np.ones((1, 6), int),
      deterministic=False,
      rngs={'dropout': key},
    )

  keys = [jax.random.key(seed) for seed in (0, 0, 1)]
  first, again, other = (np.asarray(train(key)) for key in keys)
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1e-3


def test_no_two_layers_drop_the_same():
  adapters = lora.LoraConfig(rank=2, dropout=0.5, targets=('v',))
  config = dataclasses.replace(CONFIG, lora=adapters)
  flat = traverse_util.flatten_dict(variables(config)['params'], sep='/')
  # Both layers alike, and an adapter all that they add to the stream.
  flat |= {
    path: np.repeat(x[:1], 2, axis=0)
    for path, x in flat.items()
    if path.startswith('blocks/')
  }
  for name in ('attn/v', 'mlp/down'):
    flat[f'blocks/{name}/kernel'] = 0 * flat[f'blocks/{name}/kernel']
  rows = random_tokens((1, 6)), np.arange(6)[None], np.ones((1, 6), int)

  @functools.partial(jax.jit, static_argnames='deterministic')
  def run(params, deterministic):
    model = llama.Llama(config)
    h_BLD = model.apply({'params': params}, rows[0], method='embed')
    return model.apply(
      {'params': params},
      h_BLD,
      *rows[1:],
      deterministic=deterministic,
      rngs={'dropout': jax.random.key(0)},
    )

  def only_in(layer, deterministic):
    path = 'blocks/attn/v/lora_b'
    is_layer = np.arange(2).reshape(2, 1, 1, 1) == layer
    params = traverse_util.unflatten_dict(
      {**flat, path: flat[path] * is_layer}, sep='/'
    )
    return np.asarray(run(params, deterministic))

  np.testing.assert_array_equal(only_in(0, True), only_in(1, True))
  assert np.abs(only_in(0, False) - only_in(1, False)).max() > 1e-2


def test_a_bfloat16_decoder_scores_in_float32():
  config = dataclasses.replace(CONFIG, dtype='bfloat16')
  tokens = random_tokens((2, 12))
  found = scores(tokens, config=config)
  assert found.dtype == np.float32
  want = scores(tokens)
  assert 0 < np.abs(found - want).max() < 0.05 * np.abs(want).max()


def test_fresh_parameters_suit_training_from_nothing():
  config = dataclasses.replace(CONFIG, width=64, layers=4, mlp_width=128)
  tokens = jnp.zeros((1, 2), jnp.int32)
  init = functools.partial(llama.Llama(config).init, method=forward)
  init = jax.jit(init, compiler_options=QUICK)
  params = nn.unbox(init(jax.random.key(0), tokens, tokens, tokens))
  flat = traverse_util.flatten_dict(params['params'], sep='/')
  assert {x.dtype for x in flat.values()} == {jnp.dtype('float32')}
  # Tokens start as large as norms make them; what is added to them starts
  # smaller the more blocks there are.
  for path, fan_in, gain in (
    ('embed/embedding', 1, 1.0),
    ('head/kernel', 64, 1.0),
    ('blocks/attn/q/kernel', 64, 1.0),
    ('blocks/attn/o/kernel', 32, 8**-0.5),
    ('blocks/mlp/down/kernel', 128, 8**-0.5),
  ):
    want = gain * fan_in**-0.5
    assert np.isclose(np.std(flat[path]), want, rtol=0.1), path


def _abstract(config):
  tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
  init = functools.partial(llama.Llama(config).init, method=forward)
  return jax.eval_shape(init, jax.random.key(0), tokens, tokens, tokens)[
    'params'
  ]


def test_vicuna_has_its_published_number_of_parameters():
  def count(config):
    flat = sharding.unbox(_abstract(config))
    return sum(x.size for x in flat.values())

  assert count(llama.Config.vicuna_7b()) == 6_738_415_616
  adapters = lora.LoraConfig(rank=64, alpha=16.0, dropout=0.05)
  with_adapters = llama.Config.vicuna_7b(lora=adapters)
  assert count(with_adapters) - 6_738_415_616 == 33_554_432


@pytest.mark.parametrize('kind', ['', 'int8', 'nf4'])
@pytest.mark.parametrize(
  'sizes',
  [(1, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (1, 128, 1), (1, 16, 8)],
  ids=str,
)
def test_every_parameter_of_vicuna_has_a_place_on_a_mesh(sizes, kind):
  config = llama.Config.vicuna_7b(
    lora=lora.LoraConfig(rank=64, targets=llama.PROJECTIONS), quantize=kind
  )
  mesh = jax.sharding.AbstractMesh(sizes, sharding.AXES)
  found = sharding.state_shardings({'llm': _abstract(config)}, mesh)
  assert len(found) == 12 + 14 + (7 if kind else 0)
  part = '/qvalue' if kind else ''
  spec = found[f'llm/blocks/attn/q/kernel{part}'].spec
  assert tuple(spec) == (None, 'fsdp', 'tensor', None)
  if kind == 'nf4':
    # 64 blocks of 4,096 inputs.
    spec = found['llm/blocks/attn/q/kernel/scale'].spec
    fsdp = 'fsdp' if sizes[1] <= 64 else None
    assert tuple(spec) == (None, fsdp, 'tensor', None)


def test_vicuna_is_the_one_of_version_1_5():
  config = llama.Config.vicuna_7b()
  # Most Llama code, and Vicuna before 1.5, has 1e-6.
  assert config.norm_eps == 1e-5
  assert config.rope_theta == 1e4


def test_wrong_configurations_say_what_to_change():
  with pytest.raises(ValueError, match='kv_heads=3 and heads=4'):
    dataclasses.replace(CONFIG, kv_heads=3)
  with pytest.raises(ValueError, match='none, dots, full'):
    dataclasses.replace(CONFIG, remat='some')
  with pytest.raises(ValueError, match="float32, bfloat16.*'flaot32'"):
    dataclasses.replace(CONFIG, dtype='flaot32')
  with pytest.raises(ValueError, match='q, k, v, o, gate, up, down.*query'):
    dataclasses.replace(CONFIG, lora=lora.LoraConfig(targets=('query',)))
