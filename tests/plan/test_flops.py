"""Products of programs, against those that are known."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas
from jax.sharding import PartitionSpec

from vimonet_jax import sharding
from vimonet_jax.models import attention
from vimonet_jax.plan import flops

D = 256


def _traced(f, *shapes):
  args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jax.jit(f).trace(*args).jaxpr


def test_a_loop_counts_as_often_as_it_runs():
  def loop(x, w):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

  found = flops.of(_traced(loop, (8, D), (5, D, D)))
  assert found == 5 * 2 * 8 * D * D


def test_gradients_and_what_is_computed_again_count():
  def loss(x, w, remat):
    f = jax.checkpoint(lambda x: jnp.tanh(x @ w)) if remat else None
    f = f or (lambda x: jnp.tanh(x @ w))
    return jnp.sum(f(f(x)))

  one = 2 * 8 * D * D
  for remat, wanted in ((False, 4), (True, 6)):
    grad = jax.grad(lambda x, w, remat=remat: loss(x, w, remat))
    assert flops.of(_traced(grad, (8, D), (D, D))) == wanted * one


def test_of_branches_the_dearest_counts():
  def branch(i, x):
    return jax.lax.switch(
      i.astype(int), [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x], x
    )

  assert flops.of(_traced(branch, (), (D, D))) == 2 * 2 * D**3


def test_a_convolution_is_as_many_products():
  def conv(x, w):
    return jax.lax.conv_general_dilated(
      x, w, (2,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC')
    )

  found = flops.of(_traced(conv, (3, 32, 8), (5, 8, 16)))
  assert found == 2 * (3 * 16 * 16) * 5 * 8


def test_a_kernel_counts_as_often_as_its_grid_and_on_every_device():
  def kernel(x, y, out):
    out[...] = x[...] @ y[...]

  tile = pallas.BlockSpec((8, 8), lambda i, j: (0, 0))

  def product(x, y):
    return pallas.pallas_call(
      kernel,
      jax.ShapeDtypeStruct((8, 8), jnp.float32),
      grid=(3, 5),
      in_specs=[tile, tile],
      out_specs=tile,
      interpret=True,
    )(x, y)

  x = jnp.zeros((8, 8))
  one = 15 * 2 * 8**3
  assert flops.of(jax.make_jaxpr(product)(x, x)) == one
  mesh = sharding.make_mesh(devices=jax.devices()[:4], fsdp=4)
  rows = PartitionSpec('fsdp')
  with sharding.use(mesh):
    everywhere = jax.shard_map(
      product, in_specs=rows, out_specs=rows, check_vma=False
    )
    x = jnp.zeros((32, 8))
    assert flops.of(jax.make_jaxpr(everywhere)(x, x)) == 4 * one


def test_splash_attention_counts_its_live_blocks():
  """Five blocks of 512 queries and keys, of which 15 of 25 are looked at."""
  B, L, N, H = 2, 2560, 3, 128
  shape = jax.ShapeDtypeStruct((B, L, N, H), jnp.bfloat16)
  ids = jax.ShapeDtypeStruct((B, L), jnp.int32)

  def attend(q, k, v, ids):
    return attention.attend_within(q, k, v, None, ids, 'splash')

  def loss(*args):
    return jnp.sum(attend(*args).astype(jnp.float32))

  product = 2 * B * N * L * L * H * 15 / 25
  args = (shape, shape, shape, ids)
  assert flops.of(jax.make_jaxpr(attend)(*args)) == 2 * product
  # Backwards three for the queries and four for keys and values.
  found = flops.of(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(*args))
  assert found == pytest.approx((2 + 3 + 4) * product, rel=1e-3)
