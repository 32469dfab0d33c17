import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from vimonet_jax import sharding


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(2, 2, 2)


def _box(names, *shape):
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  return nn.LogicallyPartitioned(x, names)


def _shard(mesh, box):
  return sharding.state_shardings({'a/kernel': box}, mesh)['a/kernel']


def test_names_become_pieces_of_an_array(mesh):
  box = _box(('layers', 'embed', 'heads', None), 3, 4, 6, 5)
  found = _shard(mesh, box)
  assert found.spec == PartitionSpec(None, 'fsdp', 'tensor', None)
  x = jax.device_put(np.arange(360.0).reshape(3, 4, 6, 5), found)
  pieces = {tuple(map(str, piece.index)) for piece in x.addressable_shards}
  assert len(pieces) == 4
  assert {p.data.shape for p in x.addressable_shards} == {(3, 2, 3, 5)}


def test_rows_are_cut_by_data_and_fsdp_and_copies_are_whole(mesh):
  x = np.zeros((8, 3))
  rows = jax.device_put(x, sharding.batch_sharding(mesh))
  assert {p.data.shape for p in rows.addressable_shards} == {(2, 3)}
  whole = jax.device_put(x, sharding.replicated(mesh))
  assert {p.data.shape for p in whole.addressable_shards} == {(8, 3)}


@pytest.mark.parametrize(
  ('box', 'message'),
  [
    (
      jax.ShapeDtypeStruct((4, 6), jnp.float32),
      r'names for a/kernel of shape \(4, 6\), found none; wrap its init',
    ),
    (
      _box(('embed',), 4, 6),
      r"one logical name per dimension of a/kernel .*\(4, 6\).*\('embed',\)",
    ),
    (
      _box(('embed', 'haeds'), 4, 6),
      r"a/kernel of shape \(4, 6\), found 'haeds'; the known ones are embed, h",
    ),
    (
      _box(('heads', 'mlp'), 4, 6),
      r"different mesh axes .* a/kernel .*\(4, 6\), found 'tensor' twice",
    ),
    (
      _box(('embed', 'mlp'), 4, 7),
      r"'mlp' of a/kernel of shape \(4, 7\) to .* 2 shards .*'tensor', found 7",
    ),
    (_box(('batch', None), 6, 7), r"'batch' .* 4 shards .*, found 6"),
  ],
  ids=[
    'no names',
    'too few names',
    'unknown name',
    'one axis twice',
    'does not divide',
    'does not divide by two axes',
  ],
)
def test_a_parameter_without_a_clear_place_is_refused(mesh, box, message):
  with pytest.raises(ValueError, match=message):
    _shard(mesh, box)


def test_a_moment_lives_with_its_parameter_and_a_counter_everywhere(mesh):
  boxes = {
    'llm/up/kernel': _box(('embed', 'mlp'), 16, 24),
    'llm/down/kernel': _box(('mlp', 'embed'), 24, 16),
  }
  shardings = sharding.state_shardings(boxes, mesh)
  state = jax.eval_shape(optax.adam(1e-3).init, sharding.unbox(boxes))
  adam = sharding.optimizer_shardings(state, shardings, mesh)[0]
  assert adam.mu == adam.nu == shardings
  assert adam.mu['llm/up/kernel'].spec == PartitionSpec('fsdp', 'tensor')
  assert adam.count == sharding.replicated(mesh)


def test_a_moment_without_an_owner_is_refused(mesh):
  x = jax.ShapeDtypeStruct((16, 24), jnp.float32)
  known = {'llm/up/kernel': sharding.replicated(mesh)}
  with pytest.raises(
    ValueError, match=r"'llm/up/kernle'.*\(16, 24\).*found no"
  ):
    sharding.optimizer_shardings({'llm/up/kernle': x}, known, mesh)


def test_one_size_of_a_mesh_takes_what_is_left():
  assert sharding.make_mesh(2, -1, 2).shape == {
    'data': 2,
    'fsdp': 2,
    'tensor': 2,
  }
  assert sharding.make_mesh(devices=jax.devices()[:1]).size == 1


@pytest.mark.parametrize(
  'sizes', [(1, 1, 1), (3, -1, 1), (-1, -1, 1), (0, -1, 1), (16, 1, 1)]
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
  found = r' \* '.join(map(str, sizes))
  with pytest.raises(ValueError, match=f'= 8 devices, found {found}; set one'):
    sharding.make_mesh(*sizes)


def test_boxes_are_taken_off_and_plain_leaves_stay():
  x = jax.ShapeDtypeStruct((2,), jnp.float32)
  nested = {'a': {'b': nn.LogicallyPartitioned(x, (None,))}, 'c': x}
  assert sharding.unbox(nested) == {'a/b': x, 'c': x}


def _placed(processes, *sizes):
  """A mesh whose devices belong to these processes; ours is number 0."""
  devices = [types.SimpleNamespace(process_index=x) for x in processes]
  names = ('data', 'fsdp', 'tensor')
  return types.SimpleNamespace(
    shape=dict(zip(names, sizes, strict=True)),
    devices=np.array(devices).reshape(sizes),
  )


@pytest.mark.parametrize(
  ('processes', 'sizes', 'number', 'expected'),
  [
    ((0,) * 8, (4, 2, 1), 0, (1, [0])),
    ((0,) * 8, (4, 2, 1), 8, (8, [0, 1, 2, 3, 4, 5, 6, 7])),
    ((0, 0, 1, 1), (2, 2, 1), 0, (2, [0])),
    ((1, 1, 0, 0), (4, 1, 1), 0, (2, [1])),
    ((1, 1, 0, 0), (4, 1, 1), 8, (8, [4, 5, 6, 7])),
    # Devices in another order than their processes.
    ((0, 1, 0, 1), (4, 1, 1), 0, (4, [0, 2])),
    # A model that is cut across processes: both read the same rows.
    ((0, 1, 0, 1), (2, 1, 2), 0, (1, [0])),
    ((0, 1, 0, 1), (1, 1, 4), 4, (4, [0, 1, 2, 3])),
  ],
)
def test_a_process_reads_the_shares_of_the_rows_that_it_holds(
  processes, sizes, number, expected
):
  assert sharding.shares(_placed(processes, *sizes), number) == expected


def test_shares_that_processes_cannot_divide_are_refused():
  with pytest.raises(ValueError, match='2 readers .* found 3; set --config'):
    sharding.shares(_placed((0, 0, 1, 1), 4, 1, 1), 3)
