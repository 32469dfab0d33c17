"""Where arrays live: one mesh, one table from logical names to its axes.

The same code runs on one CPU device, where every axis has size one, and on a
pod. Nothing is replicated by accident: a parameter without names, a name
without a rule and a dimension that does not divide are errors.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ('data', 'fsdp', 'tensor')

# Logical name -> mesh axis, axes, or None for dimensions that stay whole.
RULES = (
  # Parameters.
  ('embed', 'fsdp'),
  ('heads', 'tensor'),
  ('kv_heads', 'tensor'),
  ('mlp', 'tensor'),
  ('vocab', 'tensor'),
  ('layers', None),
  ('head_dim', None),
  ('rank', None),
  ('conv', None),
  ('codes', None),
  # Scales of blocks along a kernel's inputs.
  ('embed_blocks', 'fsdp'),
  ('mlp_blocks', 'tensor'),
  ('head_dim_blocks', None),
  # Activations.
  ('batch', ('data', 'fsdp')),
  ('length', None),
  ('act_embed', None),
  ('act_heads', 'tensor'),
  ('act_mlp', 'tensor'),
  ('act_vocab', 'tensor'),
)
# Where they do not divide they stay whole: there are 64 times as few of them as
# there are inputs.
_MAY_STAY_WHOLE = ('embed_blocks', 'mlp_blocks')


def make_mesh(
  data: int = 1, fsdp: int = 1, tensor: int = 1, *, devices=None
) -> Mesh:
  """A mesh of all devices; one size may be -1 and takes what is left.

  Args:
    data: copies of the parameters that see different rows.
    fsdp: shards of the parameters that see different rows.
    tensor: shards of heads, feed-forward and vocabulary that see the same rows.
    devices: what to use instead of jax.devices().
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = [data, fsdp, tensor]
  known = int(np.prod([size for size in sizes if size != -1]))
  if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
    sizes[sizes.index(-1)] = len(devices) // known
  if min(sizes) < 1 or np.prod(sizes) != len(devices):
    raise ValueError(
      f'Expected data * fsdp * tensor = {len(devices)} devices, found '
      f'{data} * {fsdp} * {tensor}; set one of them to -1 to take the rest.'
    )
  return jax.make_mesh(
    tuple(sizes), AXES, (AxisType.Auto,) * len(AXES), devices=devices
  )


@contextlib.contextmanager
def use(mesh: Mesh) -> Iterator[None]:
  """Within it, the models' logical constraints on activations take effect."""
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
    yield


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows of a batch over data and fsdp; everything else whole."""
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def shares(mesh: Mesh, number: int = 0) -> tuple[int, list[int]]:
  """Into how many shares a batch's rows are cut, and which are read here.

  A share is a number of neighbouring rows that one process reads, or several
  where a model is cut across processes and they see the same rows. Two hosts
  of four devices each, and rows over all of them:

      shares(mesh)     2, [0] in the first process and [1] in the second
      shares(mesh, 8)  8, [0, 1, 2, 3] and [4, 5, 6, 7]

  Args:
    mesh: from `make_mesh`.
    number: how many; 0 for as few as there can be.

  Raises:
    ValueError: a share would belong to processes that read different rows.
  """
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  held = {}
  for shard, devices in enumerate(mesh.devices.reshape(shards, -1)):
    for device in devices:
      held.setdefault(device.process_index, set()).add(shard)
  readers = len({frozenset(some) for some in held.values()})

  def shards_of(share, number):
    first, end = share * shards // number, (share + 1) * shards / number
    return {*range(first, math.ceil(end))}

  def fits(number):
    return all(
      shards_of(share, number) <= some or not shards_of(share, number) & some
      for share in range(number)
      for some in held.values()
    )

  if not number:  # Devices need not be in the order of their processes.
    number = readers if fits(readers) else shards
  if not fits(number):
    raise ValueError(
      f'Expected shares of the data that {readers} readers of different rows '
      f'can divide, found {number}; set --config.data.shares to a multiple of '
      f'{readers}, or to 0, or change --config.mesh.'
    )
  mine = held.get(jax.process_index(), set())
  return number, [x for x in range(number) if shards_of(x, number) <= mine]


def replicated(mesh: Mesh) -> NamedSharding:
  """A whole copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def _is_box(x) -> bool:
  return isinstance(x, nn.Partitioned)


def flatten(boxed: Mapping[str, Any]) -> dict[str, Any]:
  """A nested or flat dict as a flat one; boxes stay whole."""
  return traverse_util.flatten_dict(
    traverse_util.unflatten_dict(dict(boxed), sep='/'), sep='/'
  )


def _sharding(path: str, box, mesh: Mesh) -> NamedSharding:
  rules = dict(RULES)
  if not _is_box(box):
    raise ValueError(
      f'Expected logical names for {path} of shape {box.shape}, found none; '
      'wrap its initialiser with nn.with_logical_partitioning.'
    )
  shape, names = box.value.shape, box.names
  if len(names) != len(shape):
    raise ValueError(
      f'Expected one logical name per dimension of {path} of shape {shape}, '
      f'found {names}.'
    )
  spec = []
  for size, name in zip(shape, names, strict=True):
    if name is not None and name not in rules:
      raise ValueError(
        f'Expected a logical name of sharding.RULES for {path} of shape '
        f'{shape}, found {name!r}; the known ones are {", ".join(rules)}.'
      )
    axes = rules[name] if name is not None else None
    # One mesh axis shards one dimension of an array: the first to name it.
    if axes is not None and axes in spec:
      raise ValueError(
        f'Expected different mesh axes for the dimensions of {path} of shape '
        f'{shape}, found {axes!r} twice through the names {names}.'
      )
    among = () if axes is None else np.atleast_1d(axes)
    shards = int(np.prod([mesh.shape[axis] for axis in among], dtype=int))
    if size % shards and name in _MAY_STAY_WHOLE:
      axes, shards = None, 1
    if size % shards:
      raise ValueError(
        f'Expected dimension {name!r} of {path} of shape {shape} to divide '
        f'into {shards} shards of mesh axis {axes!r}, found {size}; change '
        'the mesh or the size.'
      )
    spec.append(axes)
  return NamedSharding(mesh, PartitionSpec(*spec))


def state_shardings(
  abstract: Mapping[str, Any], mesh: Mesh
) -> dict[str, NamedSharding]:
  """The sharding of every parameter, by path.

  Args:
    abstract: variables of one collection, nested or flat, whose leaves are
      boxes with logical names (what jax.eval_shape makes of a model's init).
    mesh: from `make_mesh`.

  Raises:
    ValueError: a parameter has no names, a name no rule, or a dimension does
      not divide; the message has path, shape and mesh axis.
  """
  return {
    path: _sharding(path, box, mesh) for path, box in flatten(abstract).items()
  }


def optimizer_shardings(
  opt_state: Any, shardings: Mapping[str, NamedSharding], mesh: Mesh
) -> Any:
  """Each moment lives with its parameter, each counter everywhere.

  Args:
    opt_state: abstract state of an optimizer over a flat dict of parameters.
    shardings: the parameters' shardings by path.
    mesh: the mesh of those.
  """

  def find(key_path, x):
    keys = [key.key for key in key_path if hasattr(key, 'key')]
    owner = next((key for key in reversed(keys) if key in shardings), None)
    if owner is None and x.size > 64:
      raise ValueError(
        f'Expected {jax.tree_util.keystr(key_path)} of shape {x.shape} in the '
        'optimizer state to belong to a parameter, found no path in its keys.'
      )
    return replicated(mesh) if owner is None else shardings[owner]

  return jax.tree_util.tree_map_with_path(find, opt_state)


def unbox(abstract: Mapping[str, Any]) -> dict[str, Any]:
  """Flat shapes and dtypes without their logical names."""
  return {
    path: box.value if _is_box(box) else box
    for path, box in flatten(abstract).items()
  }
