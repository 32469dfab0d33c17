"""Operations, bytes and loops of programs, against those that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas
from jax.sharding import PartitionSpec

from vimonet_jax import plan, sharding
from vimonet_jax.models import attention

D = 256


def _traced(f, *shapes):
  args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jax.jit(f).trace(*args).jaxpr


def test_a_loop_counts_as_often_as_it_runs():
  def loop(x, w):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

  found = plan.flops(_traced(loop, (8, D), (5, D, D)))
  assert found == 5 * 2 * 8 * D * D


def test_gradients_and_what_is_computed_again_count():
  def loss(x, w, remat):
    f = jax.checkpoint(lambda x: jnp.tanh(x @ w)) if remat else None
    f = f or (lambda x: jnp.tanh(x @ w))
    return jnp.sum(f(f(x)))

  one = 2 * 8 * D * D
  for remat, wanted in ((False, 4), (True, 6)):
    grad = jax.grad(lambda x, w, remat=remat: loss(x, w, remat))
    assert plan.flops(_traced(grad, (8, D), (D, D))) == wanted * one


def test_of_branches_the_dearest_counts():
  def branch(i, x):
    return jax.lax.switch(
      i.astype(int), [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x], x
    )

  assert plan.flops(_traced(branch, (), (D, D))) == 2 * 2 * D**3


def test_a_convolution_is_as_many_products():
  def conv(x, w):
    return jax.lax.conv_general_dilated(
      x, w, (2,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC')
    )

  found = plan.flops(_traced(conv, (3, 32, 8), (5, 8, 16)))
  assert found == 2 * (3 * 16 * 16) * 5 * 8


def _compiled(f, spec, out, *, length=6):
  """A loop over x on eight devices, split so."""
  mesh = sharding.make_mesh(2, 4, 1)
  where = jax.NamedSharding(mesh, PartitionSpec(*spec))
  x = jax.ShapeDtypeStruct((D, D), jnp.float32, sharding=where)

  def loop(x):
    return jax.lax.scan(lambda x, _: (f(x), None), x, None, length=length)[0]

  with sharding.use(mesh):
    return (
      jax.jit(loop, out_shardings=jax.NamedSharding(mesh, PartitionSpec(*out)))
      .lower(x)
      .compile()
    )


def test_bytes_between_devices_count_as_often_as_they_go():
  """A ring of four in which every device has a quarter of the columns."""
  spec = (None, 'fsdp')

  def f(x):
    whole = jax.lax.with_sharding_constraint(x, PartitionSpec())
    return jax.lax.with_sharding_constraint(
      jnp.tanh(whole) * 2.0, PartitionSpec(*spec)
    )

  found = plan.traffic(_compiled(f, spec, spec).as_text())
  size = D * D * 4
  gathered = sum(found.exchanged.values())
  assert set(found.exchanged) == {'all-gather'}
  # Every device sends all that it has and what comes by, but its own end.
  assert gathered == 6 * size * 3 / 4
  # What is read and written goes through memory at least once a turn.
  assert found.accessed > 6 * size
  twice = plan.traffic(_compiled(f, spec, spec, length=12).as_text())
  assert twice.exchanged['all-gather'] == 2 * gathered
  assert twice.accessed > 1.8 * found.accessed


def test_a_sum_over_devices_goes_around_twice():
  def f(x):
    return jax.lax.with_sharding_constraint(x @ x.T, PartitionSpec())

  mesh = sharding.make_mesh(2, 4, 1)
  where = jax.NamedSharding(mesh, PartitionSpec(None, 'fsdp'))
  x = jax.ShapeDtypeStruct((D, D), jnp.float32, sharding=where)
  with sharding.use(mesh):
    compiled = jax.jit(f).lower(x).compile()
  found = plan.traffic(compiled.as_text())
  assert found.exchanged == {'all-reduce': 2 * D * D * 4 * 3 / 4}


HLO = """HloModule step, is_scheduled=true

%fused (p0: bf16[32,4096], p1: s32[]) -> bf16[1,4096] {
  %p0 = bf16[32,4096]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %ds = bf16[1,4096]{1,0} dynamic-slice(%p0, %p1)
}

%body (a: (s32[], bf16[32,4096])) -> (s32[], bf16[32,4096]) {
  %a = (s32[], bf16[32,4096]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%a), index=0
  %x = bf16[32,4096]{1,0} get-tuple-element(%a), index=1
  %row = bf16[1,4096]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused
  %near = bf16[1,4096]{1,0:S(1)} copy(%row)
  %all = bf16[4,4096]{1,0} all-gather(%row), replica_groups=[4,4]<=[16]
  %far = bf16[1,4096]{1,0} collective-permute(%row), source_target_pairs={{0,1}}
  ROOT %t = (s32[], bf16[32,4096]{1,0}) tuple(%i, %x)
}

%cond (a: (s32[], bf16[32,4096])) -> pred[] {
  %a = (s32[], bf16[32,4096]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%a), index=0
  %n = u32[] constant(32)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: bf16[32,4096]) -> bf16[32,4096] {
  %x = bf16[32,4096]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %t = (s32[], bf16[32,4096]{1,0}) tuple(%zero, %x)
  %w = (s32[], bf16[32,4096]{1,0}) while(%t), condition=%cond, body=%body
  ROOT %y = bf16[32,4096]{1,0} get-tuple-element(%w), index=1
}
"""


def test_a_layer_of_a_stack_is_read_alone_and_what_stays_on_the_chip_is_free():
  """As XLA writes a scan over stacked layers for a TPU."""
  row = 4096 * 2
  found = plan.traffic(HLO)
  assert found.exchanged == {
    'all-gather': 32 * 3 * row,
    'collective-permute': 32 * row,
  }
  fusion = row + 4 + row  # The slice, its place, and what comes out.
  wanted = fusion + row + 5 * row + 2 * row
  assert found.accessed == 32 * wanted


NESTED = """HloModule step, is_scheduled=true

%layer (q0: s8[32,64,8], q1: s32[]) -> s8[64,8] {
  %q0 = s8[32,64,8]{2,1,0} parameter(0)
  %q1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = s8[1,64,8]{2,1,0} dynamic-slice(%q0, %q1, %zero, %zero)
  ROOT %same = s8[64,8]{1,0} bitcast(%one)
}

%again (r0: s8[32,64,8]) -> s8[32,64,8] {
  %r0 = s8[32,64,8]{2,1,0} parameter(0)
  ROOT %turned = s8[32,64,8]{2,1,0:T(8,128)} copy(%r0)
}

%product (p0: s8[32,64,8], p1: s32[], p2: bf16[4,64]) -> bf16[4,8] {
  %p0 = s8[32,64,8]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = bf16[4,64]{1,0} parameter(2)
  %turned.2 = s8[32,64,8]{2,1,0:T(8,128)} fusion(%p0), kind=kLoop, calls=%again
  %kernel = s8[64,8]{1,0} fusion(%turned.2, %p1), kind=kLoop, calls=%layer
  ROOT %y = bf16[4,8]{1,0} convolution(%p2, %kernel), dim_labels=bf_io->bf
}

ENTRY %main (x: s8[32,64,8], i: s32[], h: bf16[4,64]) -> bf16[4,8] {
  %x = s8[32,64,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %h = bf16[4,64]{1,0} parameter(2)
  ROOT %out = bf16[4,8]{1,0} fusion(%x, %i, %h), kind=kOutput, calls=%product
}
"""


def test_a_layer_is_read_alone_however_deep_in_fusions_it_is_taken():
  layer, place, rows, out = 64 * 8, 4, 4 * 64 * 2, 4 * 8 * 2
  assert plan.traffic(NESTED).accessed == layer + place + rows + out
  # A kernel of all layers would be read whole.
  whole = NESTED.replace('dynamic-slice(%q0', 'concatenate(%q0')
  assert plan.traffic(whole).accessed == 32 * layer + place + rows + out


ASYNC = """HloModule step, is_scheduled=true, replica_count=2, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(f32[] %a, f32[] %b)
}

%wrapped (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %s = f32[8,128]{1,0:T(8,128)} all-reduce(f32[8,128]{1,0:T(8,128)} %p), \
replica_groups={}, to_apply=%add
}

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %start = ((f32[8,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)}, u32[]) \
async-start(f32[8,128]{1,0:T(8,128)} %x), calls=%wrapped
  ROOT %done = f32[8,128]{1,0:T(8,128)} async-done(%start), calls=%wrapped
}
"""


def test_what_runs_meanwhile_counts_once_and_groups_without_names_are_all():
  """Operands are printed with layouts, whose brackets do not end them."""
  size = 8 * 128 * 4
  found = plan.traffic(ASYNC)
  assert found.exchanged == {'all-reduce': 2 * size * 7 / 8}
  assert found.accessed == 2 * size
  named = ASYNC.replace('groups={}', 'groups={{0,1},{2,3},{4,5},{6,7}}')
  assert plan.traffic(named).exchanged == {'all-reduce': 2 * size * 1 / 2}
  alone = ASYNC.replace(', replica_count=2, num_partitions=4', '')
  assert plan.traffic(alone).exchanged == {'all-reduce': 0.0}


def test_groups_that_nobody_can_read_are_not_taken_for_none():
  with pytest.raises(ValueError, match="found 'every second one, "):
    plan.traffic(ASYNC.replace('groups={}', 'groups=every second one'))


def test_a_program_that_is_not_given_back_is_still_known_by_its_memory():
  x = jax.ShapeDtypeStruct((D, D), jnp.float32)
  traced = jax.jit(lambda x: x @ x).trace(x)
  compiled = traced.lower().compile()

  class Silent:
    memory_analysis = compiled.memory_analysis

    def as_text(self):
      raise jax.errors.JaxRuntimeError('INTERNAL: RET_CHECK failure')

  found, whole = (plan.cost(traced, y, 1) for y in (Silent(), compiled))
  assert (found.accessed, found.exchanged) == (None, None)
  assert found.memory == whole.memory > 0
  assert found.flops == whole.flops == 2 * D**3
  assert found.intensity is None
  assert whole.intensity == 2 * D**3 / whole.accessed > 1
  chip = plan.Chip('chip', 1e12, 1e9, 1e11, 1e10)
  assert plan.bound(found, chip) == (2 * D**3 / 1e12, None, None)
  assert plan.bound(found, chip).seconds == 2 * D**3 / 1e12


def test_a_text_without_a_program_says_so():
  with pytest.raises(ValueError, match='found no ENTRY'):
    plan.traffic('HloModule nothing')


def test_a_step_takes_as_long_as_what_it_waits_for():
  chip = plan.Chip('chip', flops=1e12, memory=1e9, bandwidth=1e9, links=1e8)
  cost = plan.Cost(2e12, 0, 0, 0, 1e9, {'all-gather': 4e8, 'all-reduce': 1e8})
  found = plan.bound(cost, chip)
  assert found == (2.0, 1.0, 5.0)
  assert found.seconds == 5.0
  alone = plan.bound(cost._replace(exchanged={}), chip._replace(links=0.0))
  assert alone == (2.0, 1.0, 0.0)
  np.testing.assert_allclose(alone.seconds, 2.0)
  # Over the host's bus, whose speed the chip's data sheet does not tell.
  assert plan.bound(cost, chip._replace(links=0.0)) == (2.0, 1.0, None)


def test_published_figures_are_of_one_kind():
  """An H100's sparse products, or its links both ways, would be outside."""
  for kind, chip in plan.CHIPS.items():
    assert 150 < chip.ridge < 570, kind
    assert chip.links < chip.bandwidth / 4, kind
    assert 15e9 < chip.memory < 150e9, kind


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
  assert plan.flops(jax.make_jaxpr(product)(x, x)) == one
  mesh = sharding.make_mesh(devices=jax.devices()[:4], fsdp=4)
  rows = PartitionSpec('fsdp')
  with sharding.use(mesh):
    everywhere = jax.shard_map(
      product, in_specs=rows, out_specs=rows, check_vma=False
    )
    x = jnp.zeros((32, 8))
    assert plan.flops(jax.make_jaxpr(everywhere)(x, x)) == 4 * one


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
  assert plan.flops(jax.make_jaxpr(attend)(*args)) == 2 * product
  # Backwards three for the queries and four for keys and values.
  found = plan.flops(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(*args))
  assert found == pytest.approx((2 + 3 + 4) * product, rel=1e-3)
