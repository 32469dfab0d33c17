"""Writes weights into a folder, also more of them than there is memory.

See `weight_files`, which reads them.
"""

import collections
import contextlib
import ctypes
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from absl import logging as absl_logging
from etils import epath
from jax.experimental import multihost_utils

from vimonet_jax import cluster, disk, locks, weight_files

# Of a file: a layer of a 7B model has 90 MB.
_FILE_BYTES = 96 << 20
# Of what is read together in a file: a device reads its part of a layer without
# the rest, and writing was faster than of whole files (1.8 s and 2.8 s of 0.7
# GB), which TensorStore copies first.
_CHUNK_BYTES = 2 << 20
# Files that are written at once, of which each may be in memory twice.
_FLYING = 3


def save(folder: str, flat: Mapping[str, Any]) -> None:
  """Writes arrays by path in place of what the folder held before.

  Whenever the process is killed, a complete folder is there: the new one is
  written beside the old one and then takes its place by renames. Between two
  of them `weight_files.load` reads the new one where it is, and the next save
  goes on from there.

  Args:
    folder: is made where it is missing.
    flat: path -> array, of any dtype and sharding.

  Raises:
    OSError, ValueError: see `writing`.
  """
  with writing(folder) as write:
    for path, x in flat.items():
      for rows in _rows(x):
        write(path, rows, of=x.shape[0] if x.ndim else None)


def _rows(x: Any) -> Iterator[np.ndarray]:
  """An array part by part, each as large as a file; all processes take part."""
  parts = [x]
  if x.ndim:
    number = max(1, _FILE_BYTES // max(1, x[:1].nbytes))
    parts = (x[i : i + number] for i in range(0, max(1, len(x)), number))
  for part in parts:
    if isinstance(part, jax.Array) and not part.is_fully_addressable:
      part = multihost_utils.process_allgather(part, tiled=True)
    yield np.asarray(part)


class Write(Protocol):
  """Takes the next array, or the next rows of one; see `writing`."""

  def __call__(
    self, path: str, x: np.ndarray, *, of: int | None = None
  ) -> None:
    """Writes.

    Args:
      path: of the array.
      x: all of it, or the rows that come next. It must not change any more: a
        few files are still on their way when this returns.
      of: how many rows the array has, where `x` are some of them. A file gets
        as many as the first call brings.

    Raises:
      ValueError: other rows than the first ones announced.
    """


@contextlib.contextmanager
def writing(folder: str) -> Iterator[Write]:
  """For more weights than memory: arrays arrive one by one, or in rows.

      with weight_writer.writing(folder) as write:
        write('llm/norm/scale', scale)
        for layers in sixteen_times_two_layers:  # Two in a file.
          write('llm/blocks/mlp/up/kernel', layers, of=32)

  The folder appears when all is written, in place of what it held before; after
  an error it is as it was. Arrays are not compressed, which would take longer
  than writing them.

  Raises:
    OSError: it cannot be written there; says why.
    ValueError: nothing was written, or not all rows of an array, or somebody
      else is writing there.
  """
  root = epath.Path(folder).absolute()
  with contextlib.ExitStack() as stack:
    with cluster.alike('weights are begun'), _says_where(root):
      if cluster.is_first():
        lock = os.fspath(root.with_name(f'{root.name}.lock'))
        stack.enter_context(locks.held(lock, f'write weights to {root}'))
        weight_files.take_place(root)
        for left in root.parent.glob(f'{root.name}.parts*'):
          left.rmtree()  # By a killed process.
    rows = _RowsWriter(root)
    try:
      yield rows.write
      with cluster.alike('weights are written'):
        missing = rows.finish()
    finally:
      rows.land()
    if missing or not rows.arrays:
      raise ValueError(
        f'Expected all weights to write to {folder}, found '
        f'{"not all rows of " + ", ".join(missing) if missing else "none"}.'
      )
    with cluster.alike('weights took their place'), _says_where(root):
      _name_them(_parts(root), rows.arrays)
      if cluster.is_first():
        _parts(root).rename(weight_files.newer(root))
        weight_files.take_place(root)


def _parts(root: epath.Path) -> epath.Path:
  """Where arrays are until all are there."""
  return root.with_name(f'{root.name}.parts')


def _name_them(parts: epath.Path, arrays: weight_files.Description) -> None:
  """Writes what says which arrays there are, for Orbax and for us."""
  names = parts.with_name(f'{parts.name}.names')
  # Orbax keeps arrays as TensorStore does, and beside them which there are.
  stand_ins = {path: np.zeros(1, dtype) for path, (dtype, _) in arrays.items()}
  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=True)
  level = absl_logging.get_verbosity()
  absl_logging.set_verbosity(absl_logging.ERROR)  # It looks for OCDBT's files.
  try:
    with ocp.Checkpointer(handler) as checkpointer:
      checkpointer.save(names, stand_ins)
  finally:
    absl_logging.set_verbosity(level)
  if cluster.is_first():
    for file in names.iterdir():
      if file.name.startswith('_'):  # _METADATA, _CHECKPOINT_METADATA
        file.rename(parts / file.name)
    names.rmtree()
    weight_files.write_description(parts, arrays)


@contextlib.contextmanager
def _says_where(root: epath.Path) -> Iterator[None]:
  """Of whatever makes TensorStore and Orbax fail to write."""
  with disk.says_when_full(os.fspath(root)):
    try:
      yield
    except locks.HeldError:
      raise
    except (OSError, ValueError) as error:
      told, _, _ = cluster.line_of(error).partition(' [tensorstore_spec=')
      raise OSError(
        f'Expected to write weights to {root}, found that it cannot be done '
        f'({told}); mend that, or choose another folder.'
      ) from error


class _RowsWriter:
  """Writes arrays as files of rows, a few of them at a time.

  Given a whole stacked array at once, TensorStore holds a copy of every file of
  it until that is on the disk.

  Attributes:
    arrays: path -> dtype and shape, of what was begun so far.
  """

  def __init__(self, root: epath.Path):
    self.arrays: dict[str, list] = {}
    self._root = root
    self._rows: dict[str, int] = {}  # That were written.
    self._open: dict[str, ts.TensorStore] = {}  # Not yet complete.
    self._flying: collections.deque = collections.deque()

  def write(self, path: str, x: np.ndarray, *, of: int | None = None) -> None:
    """See `Write`."""
    if path not in self.arrays:
      self._begin(path, x, of)
    (dtype, shape), start = self.arrays[path], self._rows[path]
    rows = len(x) if x.ndim else 1
    left = (shape[0] if shape else 1) - start
    if (x.dtype.name, [*x.shape[1:]]) != (dtype, shape[1:]) or rows > left:
      raise ValueError(
        f'Expected at most {left} more rows of {path}, which is {dtype} '
        f'{shape}, found {x.dtype} {list(x.shape)}.'
      )
    if cluster.is_first():
      with _says_where(self._root):
        self._send(self._open[path], x, start)
    self._rows[path] += rows
    if rows == left:
      self._open.pop(path, None)

  def finish(self) -> list[str]:
    """Waits for what is on its way; paths of which rows are missing."""
    with _says_where(self._root):
      self._wait()
    return [
      path
      for path, (_, shape) in self.arrays.items()
      if shape and self._rows[path] < shape[0]
    ]

  def land(self) -> None:
    """Leaves nothing on its way, whatever came of it, and no memory behind."""
    while self._flying:
      self._flying.popleft().exception()
    # The C library would keep for later what TensorStore's threads have freed,
    # 0.7 GB after four arrays of 0.6 GB.
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
      trim(0)

  def _begin(self, path: str, x: np.ndarray, of: int | None) -> None:
    shape, file = list(x.shape), list(x.shape)
    if of is not None:
      shape[0] = of
    elif x.ndim:
      rows = _FILE_BYTES // max(1, x[:1].nbytes)
      file[0] = max(1, min(len(x), rows))
    file = [max(1, size) for size in file]
    self.arrays[path] = weight_files.described(x.dtype, shape)
    self._rows[path] = 0
    if not cluster.is_first():
      return
    bits = [
      {'name': 'bytes', 'configuration': {'endian': 'little'}},
      {'name': 'crc32c'},  # A bit that changes on the disk is an error then.
    ]
    chunks = {
      'chunk_shape': _chunk(file, x.itemsize),
      'codecs': bits,
      'index_codecs': bits,
    }
    spec = {
      **weight_files.spec(_parts(self._root), path),
      'store_data_equal_to_fill_value': True,  # As Orbax does.
      'metadata': {
        'chunk_grid': {
          'name': 'regular', 'configuration': {'chunk_shape': file}
        },
        'codecs': [{'name': 'sharding_indexed', 'configuration': chunks}]
      },
    }
    with _says_where(self._root):
      self._open[path] = ts.open(
        spec, create=True, dtype=x.dtype, shape=shape
      ).result()

  def _send(self, array: ts.TensorStore, x: np.ndarray, start: int) -> None:
    if not x.ndim:
      self._flying.append(array.write(x))
      return
    rows = array.chunk_layout.write_chunk.shape[0]
    for first in range(0, len(x), rows):
      self._wait(_FLYING - 1)
      part = x[first : first + rows]
      place = slice(start + first, start + first + len(part))
      self._flying.append(
        array[place].write(part, can_reference_source_data_indefinitely=True)
      )
    if len(x) > rows:  # A part that is on its way holds all of it in memory.
      self._wait()

  def _wait(self, number: int = 0) -> None:
    """Until no more than that are on their way."""
    while len(self._flying) > number:
      self._flying.popleft().result()


def _chunk(shape: Sequence[int], itemsize: int) -> list[int]:
  """A part of the shape that is small enough, if it has small divisors."""
  chunk = list(shape)
  while math.prod(chunk) * itemsize > _CHUNK_BYTES:
    steps = [
      (size, axis, factor)
      for axis, size in enumerate(chunk)
      for factor in (7, 5, 3, 2)
      if size % factor == 0
    ]
    if not steps:
      break
    _, axis, factor = max(steps, key=lambda x: (x[0], -x[2]))
    chunk[axis] //= factor
  return chunk
