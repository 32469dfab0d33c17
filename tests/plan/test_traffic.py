"""Bytes that programs move, against those that are known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from vimonet_jax import sharding
from vimonet_jax.plan import traffic

D = 256


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

  found = traffic.of(_compiled(f, spec, spec).as_text())
  size = D * D * 4
  gathered = sum(found.exchanged.values())
  assert set(found.exchanged) == {'all-gather'}
  # Every device sends all that it has and what comes by, but its own end.
  assert gathered == 6 * size * 3 / 4
  # What is read and written goes through memory at least once a turn.
  assert found.accessed > 6 * size
  twice = traffic.of(_compiled(f, spec, spec, length=12).as_text())
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
  found = traffic.of(compiled.as_text())
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
  found = traffic.of(HLO)
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
  assert traffic.of(NESTED).accessed == layer + place + rows + out
  # A kernel of all layers would be read whole.
  whole = NESTED.replace('dynamic-slice(%q0', 'concatenate(%q0')
  assert traffic.of(whole).accessed == 32 * layer + place + rows + out


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
  found = traffic.of(ASYNC)
  assert found.exchanged == {'all-reduce': 2 * size * 7 / 8}
  assert found.accessed == 2 * size
  named = ASYNC.replace('groups={}', 'groups={{0,1},{2,3},{4,5},{6,7}}')
  assert traffic.of(named).exchanged == {'all-reduce': 2 * size * 1 / 2}
  alone = ASYNC.replace(', replica_count=2, num_partitions=4', '')
  assert traffic.of(alone).exchanged == {'all-reduce': 0.0}


def test_groups_that_nobody_can_read_are_not_taken_for_none():
  with pytest.raises(ValueError, match="found 'every second one, "):
    traffic.of(ASYNC.replace('groups={}', 'groups=every second one'))


def test_a_text_without_a_program_says_so():
  with pytest.raises(ValueError, match='found no ENTRY'):
    traffic.of('HloModule nothing')
