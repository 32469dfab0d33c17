"""Weights as PyTorch names them, and the way through a table and back."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from vimonet_jax.convert import files, mapping


def drawn(
  table: mapping.Table, *, deviation: float = 0.3, dtype: Any = np.float32
) -> dict[str, np.ndarray]:
  """A checkpoint of random numbers; scales of norms are around one."""
  rng = np.random.default_rng(0)
  return {
    name: (float(_is_scale(name)) + deviation * rng.normal(size=shape)).astype(
      dtype
    )
    for name, shape in table.expected().items()
  }


def _is_scale(name: str) -> bool:
  return 'norm' in name and name.endswith('weight') or 'ln_f' in name


def ours(
  table: mapping.Table, tensors: Mapping[str, np.ndarray], **options
) -> dict[str, np.ndarray]:
  """Our arrays of tensors by their names."""
  shapes = {name: x.shape for name, x in tensors.items()}
  return whole(mapping.to_ours(table, shapes, tensors.__getitem__, **options))


def read(table: mapping.Table, checkpoint: files.Checkpoint) -> dict:
  """Our arrays of a checkpoint file."""
  return whole(mapping.to_ours(table, checkpoint.shapes, checkpoint.read))


def whole(pieces: Iterable[mapping.Piece]) -> dict[str, np.ndarray]:
  """Arrays put together from their pieces."""
  flat, lengths = {}, {}
  for path, x, of in pieces:
    assert (path in flat) <= (of is not None)
    flat.setdefault(path, []).append(x)
    lengths[path] = of
  for path, xs in flat.items():
    flat[path] = xs[0] if len(xs) == 1 else np.concatenate(xs)
    assert lengths[path] in (None, len(flat[path]))
  return flat


def theirs(
  table: mapping.Table, flat: Mapping[str, np.ndarray], **options
) -> dict[str, np.ndarray]:
  """Tensors by their names of our arrays."""
  return {
    name: x
    for row in table.rows
    for name, x in mapping.to_theirs(table, row, flat.__getitem__, **options)
  }


def below(flat: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  """The tree under a prefix, as a module takes it."""
  found = {
    path.removeprefix(f'{prefix}/'): x
    for path, x in flat.items()
    if path.startswith(f'{prefix}/')
  }
  return traverse_util.unflatten_dict(found, sep='/')


def bits(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple]:
  """What is the same of two only when every bit is."""
  return {
    name: (x.shape, x.dtype.name, x.tobytes()) for name, x in tensors.items()
  }


def assert_reads_the_same(table, whole, tensors) -> None:
  """Whatever else is in a whole checkpoint, it gives the same arrays."""
  assert bits(ours(table, whole)) == bits(ours(table, tensors))
