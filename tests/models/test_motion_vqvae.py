import dataclasses
import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import AbstractMesh

from vimonet_jax import sharding
from vimonet_jax.models import motion_vqvae

CONFIG = motion_vqvae.Config(width=16, code_dim=8, num_codes=12)
SHALLOW = dataclasses.replace(CONFIG, depth=1)


def _motion(clips, frames, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(clips, frames, 263)).astype(np.float32)


def _params(model, *args, **kwargs):
  """Flat parameters, all of them random: fresh biases would hide mistakes."""
  shapes = jax.eval_shape(
    lambda *args: model.init(*args, **kwargs), jax.random.key(0), *args
  )
  rng = np.random.default_rng(1)
  return {
    path: rng.normal(size=x.shape, scale=0.3 * x.size**-0.2).astype(np.float32)
    for path, x in sorted(sharding.unbox(shapes['params']).items())
  }


@functools.cache
def _compiled(model):
  return jax.jit(lambda p, *args: model.apply({'params': p}, *args))


def _apply(model, flat, *args):
  params = traverse_util.unflatten_dict(flat, sep='/')
  with jax.default_matmul_precision('highest'):
    return np.asarray(_compiled(model)(params, *args))


def _below(flat, prefix):
  """The parameters under a prefix, without it."""
  return {
    path.removeprefix(prefix): x
    for path, x in flat.items()
    if path.startswith(prefix)
  }


def _fresh_codebook(config):
  shape = (config.num_codes, config.code_dim)
  state = {
    'codebook': np.zeros(shape, np.float32),
    'sum': np.zeros(shape, np.float32),
    'count': np.zeros(shape[:1], np.float32),
    'is_initialised': np.array(False),
  }
  return {'codebook': state}


@functools.cache
def _quantize(config, train):
  quantizer = motion_vqvae.Quantizer(config)
  mutable = 'codebook' if train else False
  return jax.jit(
    lambda state, x: quantizer.apply(state, x, train=train, mutable=mutable)
  )


def _variables(model, motion):
  codebook = _fresh_codebook(model.config)['codebook']
  flat = _params(model, motion, train=True)
  return {
    'params': traverse_util.unflatten_dict(flat, sep='/'),
    'codebook': {'quantizer': codebook},
  }


def test_the_published_model_has_its_parameters():
  config = motion_vqvae.Config.t2m_gpt()
  model = motion_vqvae.MotionVqvae(config)
  shapes = jax.eval_shape(
    lambda key, x: model.init(key, x, train=True),
    jax.random.key(0),
    _motion(1, 64),
  )
  flat = sharding.unbox(shapes['params'])
  sizes = {path: x.size for path, x in flat.items()}
  assert sum(_below(sizes, 'encoder/').values()) == 9_587_200
  assert sum(_below(sizes, 'decoder/').values()) == 9_849_607
  assert shapes['codebook']['quantizer']['codebook'].size == 262_144


class _Mount(nn.Module):
  """What a stage does."""

  def setup(self):
    self.motion = motion_vqvae.MotionVqvae(CONFIG)

  def __call__(self, motion):
    return self.motion(motion, train=True)


def test_every_array_has_its_path_and_its_place_on_a_mesh():
  shapes = jax.eval_shape(_Mount().init, jax.random.key(0), _motion(1, 64))
  mesh = AbstractMesh((1, 8, 1), sharding.AXES)
  found = sharding.state_shardings(shapes['params'], mesh)
  assert all(
    path.startswith(('motion/encoder/', 'motion/decoder/')) for path in found
  )
  assert tuple(found['motion/encoder/in/kernel'].spec) == (None, None, 'fsdp')
  assert tuple(found['motion/decoder/out/kernel'].spec) == (None, 'fsdp', None)
  assert set(sharding.flatten(shapes['codebook'])) == {
    f'motion/quantizer/{name}'
    for name in ('codebook', 'sum', 'count', 'is_initialised')
  }


def test_four_frames_make_a_token_whatever_the_length():
  # Residual blocks keep lengths; one of them is quicker to trace than three.
  encoder = motion_vqvae.Encoder(dataclasses.replace(CONFIG, depth=1))
  key = jax.random.key(0)
  params = jax.eval_shape(encoder.init, key, _motion(1, 40))
  found = {
    length: jax.eval_shape(
      encoder.apply, params, jax.ShapeDtypeStruct((1, length, 263), np.float32)
    ).shape
    for length in range(40, 200)
  }
  assert found == {length: (1, length // 4, 8) for length in range(40, 200)}


def test_a_padded_clip_encodes_as_it_does_alone():
  encoder = motion_vqvae.Encoder(CONFIG)
  # Padding is noise here: whatever it holds must not matter.
  motion = _motion(4, 196)
  lengths = np.array([41, 102, 196, 0])
  flat = _params(encoder, motion)
  padded = _apply(encoder, flat, motion, lengths)
  for i, length in enumerate(lengths[:3]):
    alone = _apply(encoder, flat, motion[i : i + 1, :length])[0]
    np.testing.assert_allclose(padded[i, : length // 4], alone, atol=2e-6)
  for clip, length in zip(padded, lengths, strict=True):
    assert not clip[length // 4 :].any()
  # Without masks the same clip comes out differently, far beyond rounding.
  silence = motion * (np.arange(196) < 102)[:, None]
  careless = _apply(encoder, flat, silence)
  assert abs(careless[1, :25] - padded[1, :25]).max() > 1e-3


def _reach(model, x, *, only, stack):
  """How far apart the outputs are that one input touches, with one block on."""
  flat = _params(model, x)
  flat = {
    path: a * 0
    if path.startswith(stack) and 'conv2' in path and only not in path
    else a
    for path, a in flat.items()
  }
  other = x.copy()
  other[:, x.shape[1] // 2] += 5.0
  before, after = (_apply(model, flat, x) for x in (x, other))
  return np.ptp(np.flatnonzero((before != after).any((0, 2))))


@pytest.mark.parametrize(
  ('network', 'stack', 'step'),
  [
    (motion_vqvae.Encoder, 'down1', 1),
    (motion_vqvae.Decoder, 'up1', 2),
  ],
)
def test_dilations_fall_from_nine_to_one(network, stack, step):
  config = dataclasses.replace(CONFIG, down=1)
  features = 263 if network is motion_vqvae.Encoder else config.code_dim
  x = np.random.default_rng(0).normal(size=(4, 128, features))
  x = x.astype(np.float32)
  first, second, third = (
    _reach(network(config), x, only=f'res{i}', stack=stack) for i in (1, 2, 3)
  )
  # A block of dilation d reaches d farther to both sides.
  assert first - third == 2 * (9 - 1) * step
  assert second - third == 2 * (3 - 1) * step
  assert config.dilations == (9, 3, 1)


def _latents(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_first_batch_fills_the_codebook_with_its_first_latents():
  latents = _latents(2, 10, 8)
  found, state = _quantize(CONFIG, True)(_fresh_codebook(CONFIG), latents)
  assert np.asarray(found.codes).ravel()[:12].tolist() == list(range(12))
  np.testing.assert_allclose(found.quantised[0], latents[0], atol=1e-6)
  assert found.code_use == 1.0
  assert state['codebook']['is_initialised']


def test_an_unused_code_starts_anew_and_its_average_goes_on():
  old = {
    'codebook': _latents(12, 8, seed=1),
    'sum': _latents(12, 8, seed=2),
    'count': np.full(12, 1.005, np.float32),
    'is_initialised': np.array(True),
  }
  old['codebook'][3] = 50.0  # Nobody is near.
  latents = _latents(2, 10, 8)
  found, state = _quantize(CONFIG, True)({'codebook': old}, latents)
  new = state['codebook']
  assert 3 not in np.asarray(found.codes)
  np.testing.assert_array_equal(new['codebook'][3], latents.reshape(-1, 8)[3])
  np.testing.assert_allclose(new['sum'][3], 0.99 * old['sum'][3], rtol=1e-6)
  np.testing.assert_allclose(new['count'][3], 0.99 * 1.005, rtol=1e-6)
  # The batch itself was quantised with the codebook from before.
  wanted = old['codebook'][np.asarray(found.codes)]
  np.testing.assert_allclose(found.quantised, wanted, atol=1e-6)


def test_evaluation_leaves_the_codebook_alone():
  latents = _latents(2, 10, 8)
  _, state = _quantize(CONFIG, True)(_fresh_codebook(CONFIG), latents)
  quantizer = motion_vqvae.Quantizer(CONFIG)
  found, after = quantizer.apply(state, latents, train=False, mutable=True)
  jax.tree.map(np.testing.assert_array_equal, after, state)
  # And needs no mutable collection.
  again = _quantize(CONFIG, False)(state, latents)
  np.testing.assert_array_equal(found.codes, again.codes)


def test_making_a_model_is_not_training_it():
  quantizer = motion_vqvae.Quantizer(CONFIG)
  made = quantizer.init(jax.random.key(0), _latents(2, 10, 8), train=True)
  jax.tree.map(np.testing.assert_array_equal, made, _fresh_codebook(CONFIG))


def test_few_latents_fill_a_codebook_with_noise_or_say_what_is_missing():
  quantizer = motion_vqvae.Quantizer(CONFIG)
  state, latents = _fresh_codebook(CONFIG), _latents(1, 5, 8)
  _, new = quantizer.apply(
    state,
    latents,
    train=True,
    mutable='codebook',
    rngs={'codebook': jax.random.key(1)},
  )
  near = new['codebook']['sum'][5:10] - new['codebook']['sum'][:5]
  assert 0 < abs(near).max() < 0.1
  with pytest.raises(ValueError, match='12 latents.*found 5'):
    quantizer.apply(state, latents, train=True, mutable='codebook')


def test_gradients_pass_straight_through_to_the_latents():
  latents, weights = _latents(2, 10, 8), _latents(2, 10, 8, seed=1)
  state = _fresh_codebook(CONFIG)
  state['codebook']['codebook'] = _latents(12, 8, seed=2)

  def measure(latents):
    found = _quantize(CONFIG, False)(state, latents)
    return (found.quantised * weights).sum(), found.commitment

  through, commitment = jax.jacrev(measure)(latents)
  np.testing.assert_allclose(through, weights, rtol=1e-5)
  quantised = _quantize(CONFIG, False)(state, latents).quantised
  np.testing.assert_allclose(
    commitment, 2 * (latents - quantised) / latents.size, atol=1e-6
  )


def test_perplexity_counts_codes_in_even_use():
  state = _fresh_codebook(CONFIG)
  codebook = state['codebook']['codebook'] = _latents(12, 8)
  latents = codebook[[2, 5, 5, 7, 7, 2]].reshape(2, 3, 8)
  found = _quantize(CONFIG, False)(state, latents)
  np.testing.assert_allclose(found.perplexity, 3.0, rtol=1e-4)
  np.testing.assert_allclose(found.code_use, 3 / 12)
  np.testing.assert_array_equal(found.codes, [[2, 5, 5], [7, 7, 2]])


def test_a_mesh_changes_neither_motion_nor_codebook():
  model = motion_vqvae.MotionVqvae(SHALLOW)
  motion = _motion(8, 64)
  variables = _variables(model, motion)

  def step(variables, motion):
    return model.apply(variables, motion, train=True, mutable='codebook')

  wanted = jax.jit(step)(variables, motion)
  mesh = sharding.make_mesh(2, 2, 2)
  shapes = jax.eval_shape(
    lambda key, x: model.init(key, x, train=True), jax.random.key(0), motion
  )['params']
  places = sharding.state_shardings(shapes, mesh)
  places = traverse_util.unflatten_dict(places, sep='/')
  params = jax.device_put(variables['params'], places)
  kernel = params['encoder']['in']['kernel']
  assert kernel.addressable_shards[0].data.size == kernel.size // 2
  with sharding.use(mesh):
    rows = jax.device_put(motion, sharding.batch_sharding(mesh))
    found = jax.jit(step)({**variables, 'params': params}, rows)
  assert not found[0].decoded.sharding.is_fully_replicated
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    found,
    wanted,
  )
  output, _ = found
  assert output.decoded.shape == motion.shape
  assert output.codes.shape == (len(motion), 16)


def test_a_misspelt_dtype_is_refused():
  with pytest.raises(ValueError, match="float32, bfloat16.*'flaot32'"):
    dataclasses.replace(CONFIG, dtype='flaot32')
