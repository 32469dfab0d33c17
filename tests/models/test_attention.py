import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from vimonet_jax import sharding
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
  k, v = rng.normal(size=(2, 2, 2, 5, 8)).astype(np.float32)
  mask = rng.random((2, 3, 5)) < 0.7
  mask[..., 0] = True
  scores = np.einsum('blnh,bnsh->bnls', q, k.repeat(2, 1)) / np.sqrt(8)
  weights = np.exp(scores) * mask[:, None]
  weights /= weights.sum(-1, keepdims=True)
  want = np.einsum('bnls,bnsh->blnh', weights, v.repeat(2, 1))
  np.testing.assert_allclose(attention.attend(q, k, v, mask), want, atol=1e-5)


def test_bfloat16_scores_are_rounded_nowhere():
  rng = np.random.default_rng(0)
  q, k = jnp.asarray(rng.normal(size=(2, 1, 16, 1, 128)), jnp.bfloat16)
  # Values that give the weights back, in float32.
  v = np.eye(16, dtype=np.float32)[None, None]
  found = attention.attend(q, k[:, None, :, 0], v, np.ones((1, 16, 16), bool))
  found = found[0, :, 0]
  q, k = (np.asarray(x[0, :, 0], np.float64) for x in (q, k))
  want = special.softmax(q @ k.T / np.sqrt(128), axis=-1)
  np.testing.assert_allclose(found, want, rtol=1e-5)


def _rows(length=256, kv_heads=2, dtype=jnp.float32):
  """Packed rows with padding: queries, keys, values, gradients and ids."""
  keys = jax.random.split(jax.random.key(0), 4)
  heads = (4, kv_heads, kv_heads, 4)
  arrays = [
    jax.random.normal(key, (4, length, n, 128), dtype)
    for key, n in zip(keys, heads, strict=True)
  ]
  ends = np.array([[100, 220], [10, 256], [256, 256], [1, 130]])
  place = np.arange(length)
  ids = 1 + (place >= ends[:, :1]) - 2 * (place >= ends[:, 1:])
  ids = np.maximum(ids, 0).astype(np.int32)
  positions = np.zeros_like(ids)
  for row, out in zip(ids, positions, strict=True):
    for segment in (1, 2):
      out[row == segment] = np.arange(np.sum(row == segment))
  return arrays, jnp.asarray(ids), jnp.asarray(positions)


def _with_gradients(function, arrays, ids):
  """Outputs where there are tokens, and gradients that come from there."""
  *inputs, g = arrays
  is_token = (ids > 0)[:, :, None, None]
  y, pull = jax.vjp(lambda *x: function(*x) * is_token, *inputs)
  return y, *pull(g)


@pytest.mark.parametrize('kv_heads', [2, 4])
@pytest.mark.parametrize('shape', [None, (1, 2, 2), (2, 2, 1)])
def test_splash_attends_as_the_reference(monkeypatch, kv_heads, shape):
  """The kernel itself, run by its interpreter, on devices and in rows."""
  arrays, ids, positions = _rows(kv_heads=kv_heads)
  mask = attention.mask(positions, ids, positions, ids)
  monkeypatch.setattr(
    attention,
    '_splash',
    functools.partial(attention._splash, interpret=True),
  )

  def run(backend):
    return _with_gradients(
      lambda q, k, v: attention.attend_within(q, k, v, mask, ids, backend),
      arrays,
      ids,
    )

  want = run('xla')
  if shape is None:
    found = jax.jit(run, static_argnums=0)('splash')
  else:
    mesh = sharding.make_mesh(*shape, devices=jax.devices()[:4])
    with sharding.use(mesh):
      found = jax.jit(run, static_argnums=0)('splash')
  for x, y in zip(found, want, strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize('length', [40, 256, 301])
def test_blocks_of_queries_attend_as_the_reference(length):
  arrays, ids, positions = _rows(length=length)
  mask = attention.mask(positions, ids, positions, ids)

  def blocks(q, k, v):
    return attention.attend_within(q, k, v, mask, ids, 'xla')

  def whole(q, k, v):
    return attention.attend(q, *(jnp.swapaxes(x, 1, 2) for x in (k, v)), mask)

  for x, y in zip(
    _with_gradients(blocks, arrays, ids),
    _with_gradients(whole, arrays, ids),
    strict=True,
  ):
    np.testing.assert_allclose(x, y, atol=1e-5)
  lowered = jax.jit(blocks).lower(*arrays[:3]).as_text()
  assert (f'{length}x{length}xf32' in lowered) == (length < 64)


@pytest.mark.parametrize('is_packed', [False, True])
def test_what_cudnn_is_asked_for_is_the_reference(monkeypatch, is_packed):
  """Its mask and scale, computed by XLA in its place."""
  arrays, ids, positions = _rows()
  if not is_packed:
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    ids = (positions < jnp.array([[256], [249], [9], [0]])).astype(jnp.int32)
  mask = attention.mask(positions, ids, positions, ids)
  asked, ask = [], jax.nn.dot_product_attention

  def stand_in(*args, implementation, **options):
    asked.append(implementation)
    return ask(*args, implementation='xla', **options)

  monkeypatch.setattr(jax.nn, 'dot_product_attention', stand_in)

  def run(backend):
    return _with_gradients(
      lambda q, k, v: attention.attend_within(q, k, v, mask, ids, backend),
      arrays,
      ids,
    )

  for x, y in zip(run('cudnn'), run('xla'), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)
  # Rows of one segment and of several: which they are is found out on the way.
  assert asked == ['cudnn', 'cudnn']


def test_cudnn_has_no_mask_for_rows_of_one_segment(monkeypatch):
  """It would write the gradient of a mask, as large as all scores."""
  kernels = pytest.importorskip('jax._src.cudnn.fused_attention_stablehlo')
  monkeypatch.setattr(kernels, 'check_cudnn_version', lambda: 91300)
  monkeypatch.setattr(kernels, 'check_compute_capability', lambda _: True)
  q = jnp.zeros((2, 160, 4, 64), jnp.bfloat16)
  ids = jnp.ones((2, 160), jnp.int32)

  def total(q, k, v, ids):
    mask = attention.mask(ids, ids, ids, ids)
    return attention.attend_within(q, k, v, mask, ids, 'cudnn').sum()

  traced = str(jax.make_jaxpr(jax.grad(total, (0, 1, 2)))(q, q, q, ids))
  branches = traced.split('branches=')[1:]
  assert branches
  # (is there a mask, is its gradient wanted), of both branches of each cond.
  found = [re.findall(r'variadic_args=(\(\w+)', x) for x in branches]
  assert all('(False' in x and '(True' in x for x in found if x), found
  assert any(found)


@pytest.mark.parametrize(
  ('platform', 'length', 'head_dim', 'dtype', 'want'),
  [
    ('tpu', 2560, 128, 'bfloat16', 'splash'),
    ('tpu', 512, 128, 'float32', 'splash'),
    ('tpu', 160, 128, 'bfloat16', 'xla'),
    ('tpu', 512, 64, 'bfloat16', 'xla'),
    ('cuda', 160, 64, 'bfloat16', 'cudnn'),
    ('cuda', 512, 128, 'float32', 'xla'),
    ('cuda', 512, 256, 'bfloat16', 'xla'),
    ('cuda', 161, 64, 'bfloat16', 'xla'),
    ('turing', 512, 128, 'bfloat16', 'xla'),
    ('rocm', 512, 128, 'bfloat16', 'xla'),
    ('cpu', 512, 128, 'bfloat16', 'xla'),
  ],
)
def test_the_fastest_is_what_the_mesh_can_run(
  monkeypatch, platform, length, head_dim, dtype, want
):
  is_gpu = platform not in ('cpu', 'tpu')
  device = types.SimpleNamespace(platform='gpu' if is_gpu else platform)
  here = {'cuda': '8.0', 'turing': '7.5', 'rocm': 'gfx942'}
  if is_gpu:
    gpu = types.SimpleNamespace(compute_capability=here[platform])
    monkeypatch.setattr(jax, 'local_devices', lambda: [gpu])
  mesh = types.SimpleNamespace(abstract_device=device)
  monkeypatch.setattr(jax.sharding, 'get_abstract_mesh', lambda: mesh)
  q = jax.ShapeDtypeStruct((1, length, 2, head_dim), jnp.dtype(dtype))
  assert attention._fastest(q) == want


def test_without_a_mesh_it_is_what_jax_runs_on():
  q = jax.ShapeDtypeStruct((1, 512, 2, 128), jnp.dtype('bfloat16'))
  assert attention._fastest(q) == 'xla'
  with pytest.raises(ValueError, match="of auto, xla, cudnn, splash, found 'f"):
    attention.check('flash')
