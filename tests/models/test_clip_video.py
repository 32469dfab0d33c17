import dataclasses
import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
import small
from flax import traverse_util
from jax.sharding import AbstractMesh
from scipy import special

from vimonet_jax import sharding
from vimonet_jax.models import clip_video

CONFIG = clip_video.Config(
  width=16, layers=2, heads=2, mlp_width=32, image_size=8, patch_size=4
)
ONE_BLOCK = dataclasses.replace(CONFIG, layers=1)


def _frames(clips=2, config=CONFIG, seed=0):
  size = config.image_size
  shape = (clips, config.frames, size, size, 3)
  return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def _params(config=CONFIG, scale=0.3):
  model = clip_video.ClipVideo(config)
  shapes = jax.eval_shape(model.init, jax.random.key(0), _frames(1, config))
  return small.params(shapes['params'], scale, seed=1)


@functools.cache
def _compiled(config, method):
  model = clip_video.ClipVideo(config)
  return jax.jit(lambda p, x: model.apply({'params': p}, x, method=method))


def _apply(flat, frames, config=CONFIG, method='__call__'):
  params = traverse_util.unflatten_dict(flat, sep='/')
  with jax.default_matmul_precision('highest'):
    return np.array(_compiled(config, method)(params, frames))


def _without(flat, *prefixes):
  return {
    path: x * 0 if path.startswith(prefixes) else x for path, x in flat.items()
  }


def test_the_published_tower_has_its_parameters():
  config = clip_video.Config.languagebind()
  shapes = jax.eval_shape(
    clip_video.ClipVideo(config).init, jax.random.key(0), _frames(1, config)
  )
  sizes = [x.size for x in sharding.unbox(shapes['params']).values()]
  # Without the 24th layer and the norm after it, which no feature needs.
  assert sum(sizes) == 404_187_136 - 16_804_864 - 2 * 1024
  assert config.num_tokens == 2048
  # Flax would take 1e-6.
  assert config.norm_eps == 1e-5
  kept = clip_video.Config.languagebind(keep_class_token=True)
  assert kept.num_tokens == 2056


def test_every_parameter_has_a_place_on_a_mesh():
  config = clip_video.Config.languagebind()
  shapes = jax.eval_shape(
    clip_video.ClipVideo(config).init, jax.random.key(0), _frames(1, config)
  )
  mesh = AbstractMesh((1, 8, 8), sharding.AXES)
  found = sharding.state_shardings(shapes['params'], mesh)
  assert set(found) == set(sharding.unbox(shapes['params']))
  kernel = found['blocks/spatial/q/kernel'].spec
  assert tuple(kernel) == (None, 'fsdp', 'tensor', None)


def test_a_mesh_changes_nothing():
  frames, flat = _frames(4), _params()
  wanted = _apply(flat, frames)
  model = clip_video.ClipVideo(CONFIG)
  shapes = jax.eval_shape(model.init, jax.random.key(0), frames)['params']
  mesh = sharding.make_mesh(2, 2, 2)
  flat = jax.device_put(flat, sharding.state_shardings(shapes, mesh))
  kernel = flat['blocks/mlp/in/kernel']
  assert kernel.addressable_shards[0].data.size == kernel.size // 4
  frames = jax.device_put(frames, sharding.batch_sharding(mesh))
  _compiled.cache_clear()  # or the compiled one from outside is used
  with sharding.use(mesh):
    np.testing.assert_allclose(_apply(flat, frames), wanted, atol=1e-5)
  _compiled.cache_clear()


def test_tokens_are_frame_after_frame_without_class_tokens():
  frames, flat = _frames(), _params()
  tokens = _apply(flat, frames)
  assert tokens.shape == (2, CONFIG.num_tokens, CONFIG.width)
  whole = dataclasses.replace(CONFIG, keep_class_token=True)
  kept = _apply(flat, frames, whole)
  assert kept.shape[1] == whole.num_tokens == 8 * 5
  kept = kept.reshape(2, 8, 5, -1)[:, :, 1:].reshape(tokens.shape)
  np.testing.assert_array_equal(tokens, kept)


def test_patches_go_row_by_row():
  # Only the second patch of the upper row of frame 3 changes.
  frames, flat = _frames(), _params()
  other = frames.copy()
  other[0, 3, :4, 4:] ^= 255
  first, second = (_apply(flat, x, method='embed') for x in (frames, other))
  changed = np.argwhere((first != second).any(-1))
  assert changed.tolist() == [[0, 3, 1 + 1]]


def test_bytes_are_normalised_and_floats_are_not():
  frames, flat = _frames(), _params()
  mean = np.array([0.48145466, 0.4578275, 0.40821073])
  std = np.array([0.26862954, 0.26130258, 0.27577711])
  pixels = ((frames / 255 - mean) / std).astype(np.float32)
  np.testing.assert_allclose(
    _apply(flat, frames), _apply(flat, pixels), atol=1e-4
  )


def test_frames_speak_through_temporal_attention_only():
  frames, flat = _frames(), _params()
  other = frames.copy()
  other[:, 3] ^= 255
  before, after = (
    _apply(flat, x).reshape(2, 8, -1, CONFIG.width) for x in (frames, other)
  )
  assert (abs(after - before).max((2, 3)) > 1e-3).all()
  mute = _without(flat, 'blocks/temporal/o')
  before, after = (
    _apply(mute, x).reshape(2, 8, -1, CONFIG.width) for x in (frames, other)
  )
  changed = abs(after - before).max((0, 2, 3)) > 0
  assert changed.tolist() == [i == 3 for i in range(8)]


def test_the_order_of_frames_matters_through_temporal_embeddings_only():
  frames, flat = _frames(), _params()

  def gap(flat):
    forwards, backwards = (
      _apply(flat, x).reshape(2, 8, -1, CONFIG.width)
      for x in (frames, frames[:, ::-1])
    )
    return abs(forwards - backwards[:, ::-1]).max()

  assert gap(flat) > 1e-2
  assert gap(_without(flat, 'blocks/temporal_embedding')) < 1e-4


def test_temporal_embeddings_stay_in_the_residual_stream():
  frames, flat = _frames(), _params()
  flat = _without(
    flat, 'blocks/temporal/o', 'blocks/spatial/o', 'blocks/mlp/out'
  )
  grown = _apply(flat, frames).reshape(2, 8, -1, CONFIG.width)
  grown -= _apply(flat, frames, method='embed')[:, :, 1:]
  wanted = flat['blocks/temporal_embedding'].sum(0)[:, None]
  np.testing.assert_allclose(
    grown, np.broadcast_to(wanted, grown.shape), atol=1e-5
  )


def test_gelu_is_exact():
  frames, flat = _frames(), _params(ONE_BLOCK)
  flat = _without(
    flat, 'blocks/temporal', 'blocks/spatial/o'
  )  # embedding, norm and attention over time: only the MLP is left
  x = _apply(flat, frames, ONE_BLOCK, method='embed')[:, :, 1:]
  x = x.astype(np.float64).reshape(2, -1, CONFIG.width)
  h = (x - x.mean(-1, keepdims=True)) / np.sqrt(
    x.var(-1, keepdims=True) + ONE_BLOCK.norm_eps
  )
  block = {path: a[0] for path, a in flat.items() if path.startswith('blocks')}
  h = h * block['blocks/norm2/scale'] + block['blocks/norm2/bias']
  h = h @ block['blocks/mlp/in/kernel'] + block['blocks/mlp/in/bias']

  def after(h):
    h = h @ block['blocks/mlp/out/kernel'] + block['blocks/mlp/out/bias']
    return x + h

  tokens = _apply(flat, frames, ONE_BLOCK)
  exact = after(h * 0.5 * (1 + special.erf(h / np.sqrt(2))))
  rough = after(np.asarray(nn.gelu(h, approximate=True)))
  assert abs(tokens - exact).max() < 2e-5
  assert abs(rough - exact).max() > 1e-4


def test_clips_do_not_see_each_other():
  frames, flat = _frames(), _params()
  other = frames.copy()
  other[1] ^= 255
  before, after = (_apply(flat, x) for x in (frames, other))
  np.testing.assert_array_equal(before[0], after[0])
  assert abs(before[1] - after[1]).max() > 1e-2


def test_remat_and_unroll_change_no_gradient():
  frames, flat = _frames(1), _params()
  params = traverse_util.unflatten_dict(flat, sep='/')

  def gradient(**changes):
    model = clip_video.ClipVideo(dataclasses.replace(CONFIG, **changes))
    found = jax.jit(
      jax.grad(lambda p: (model.apply({'params': p}, frames) ** 2).sum())
    )(params)
    return traverse_util.flatten_dict(found, sep='/')

  plain, other = gradient(), gradient(remat=True, unroll=2)
  assert set(plain) == set(flat)
  tolerance = 1e-6 * max(abs(x).max() for x in plain.values())
  for path, x in plain.items():
    np.testing.assert_allclose(other[path], x, atol=tolerance, err_msg=path)


def test_a_bfloat16_tower_is_near_the_float32_one():
  frames, flat = _frames(), _params(scale=0.1)
  half = dataclasses.replace(CONFIG, dtype='bfloat16')
  tokens, wanted = _apply(flat, frames, half), _apply(flat, frames)
  assert tokens.dtype == 'bfloat16'
  assert 0 < abs(tokens.astype(np.float32) - wanted).max() < 0.1


@pytest.mark.parametrize(
  ('shape', 'dtype', 'message'),
  [
    ((2, 16, 8, 8, 3), np.uint8, r'8, 8, 8, 3\], found \[2, 16, 8, 8, 3\]'),
    ((2, 8, 16, 8, 3), np.uint8, r'found \[2, 8, 16, 8, 3\]'),
    ((8, 8, 8, 3), np.uint8, r'found \[8, 8, 8, 3\]'),
    ((2, 8, 8, 8, 3), np.int32, 'found int32'),
  ],
)
def test_other_frames_are_refused(shape, dtype, message):
  model = clip_video.ClipVideo(CONFIG)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), np.zeros(shape, dtype))


def test_sizes_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match='patch_size'):
    dataclasses.replace(CONFIG, patch_size=3)
  with pytest.raises(ValueError, match='heads'):
    dataclasses.replace(CONFIG, heads=3)


def test_a_misspelt_dtype_is_refused():
  with pytest.raises(ValueError, match="float32, bfloat16.*'flaot32'"):
    dataclasses.replace(CONFIG, dtype='flaot32')
