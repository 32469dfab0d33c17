"""What is kept on disk: a run's state to go on from, and weights to build on.

`Checkpointer` holds everything that resuming needs and is read by nobody else.
`save_weights` and `load_weights` are for everybody else: flat dicts of arrays
by path, such as `llm/blocks/attn/q/kernel`, in a folder. `weights_writer` makes
the same folder of arrays that are never in memory together. Whoever reads it,
or a part of an array, has checksums compared; folders of earlier versions have
none.
"""

import collections
import contextlib
import copy
import ctypes
import difflib
import hashlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import grain.python as grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from absl import logging as absl_logging
from etils import epath
from jax.experimental import multihost_utils

from vimonet_jax import cluster

# In a folder of weights: dtype and shape of each, which no checksum guards.
_SHAPES = '_SHAPES'
# Between two attempts to read a checkpoint.
_PAUSE_S = 1.0
# For so long a shared file system may show a folder as it was: the most of NFS,
# unless somebody has set another time.
_STALE_S = 60.0
# Of a file that `weights_writer` makes: a layer of a 7B model has 90 MB.
_FILE_BYTES = 96 << 20
# Of what is read together in a file: a device reads its part of a layer without
# the rest, and writing was faster than of whole files (1.8 s and 2.8 s of 0.7
# GB), which TensorStore copies first.
_CHUNK_BYTES = 2 << 20
# Files that are written at once, of which each may be in memory twice.
_FLYING = 3
# Of arrays that are read together: each is in memory twice for a moment.
_READ_BYTES = 1 << 30
# Tell the axes of an array apart; no array here has more.
_PRIMES = (1, 40009, 2750159, 92821, 15485863, 32452843)


class Checkpointer:
  """Saves and restores {step, trainables, opt_state, mutable} and an iterator.

  Saving returns as soon as the arrays are copied from the device and goes on in
  the background. A checkpoint has its number only once it is complete, so a
  process killed in the middle of saving leaves the one before as the newest.
  """

  def __init__(self, folder: str, *, max_to_keep: int = 2):
    """Opens `folder`, an absolute or relative path, which may not exist yet."""
    self._folder = epath.Path(folder).absolute()
    self._max_to_keep = max_to_keep
    self._open()

  def _open(self) -> None:
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=self._max_to_keep, cleanup_tmp_directories=True
      ),
    )
    # Orbax asks JAX for SIGTERM itself, from its threads as well and with
    # numbers of steps, which JAX would take for the last of our calls.
    self._manager.reached_preemption = lambda step: False
    self._wait_for_listing()

  def _wait_for_listing(self) -> None:
    """Until checkpoints are listed here as in the first process."""
    steps = cluster.from_first('checkpoints are listed', self.steps)
    start = time.monotonic()
    with _alike('checkpoints are listed alike'):
      while self.steps != steps:
        if time.monotonic() - start > _STALE_S:
          raise ValueError(
            f'Expected all processes to see the checkpoints of steps {steps} '
            f'in {self._folder}, found {self.steps}; choose a --workdir on a '
            'file system that every host mounts.'
          )
        time.sleep(_PAUSE_S)
        self._manager.reload()

  @property
  def steps(self) -> list[int]:
    """Steps of the checkpoints that are complete, oldest first."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, state: Any, iterator: Any) -> None:
    """Saves in the background; waits only for an earlier save to finish.

    Args:
      step: how many steps led to `state`.
      state: a tree of arrays.
      iterator: a Grain iterator that has given `step` batches so far.
    """
    if step in self.steps:
      return
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        iterator=grain.PyGrainCheckpointSave(_Sealed(iterator)),
        seal=ocp.args.JsonSave({'state': _fingerprint_of_tree(state)}),
      ),
    )

  def restore(self, abstract: Any, iterator: Any) -> Any | None:
    """The newest state that can be read; None where there is no checkpoint.

    A checkpoint that cannot be read twice in a row is damaged: it is reported,
    put aside under another name, and the one before is used. What one process
    cannot read, none uses.

    Args:
      abstract: tree of jax.ShapeDtypeStruct with shardings, as saved.
      iterator: is set to go on with the batch after the state's step.

    Raises:
      ValueError: there are checkpoints, and none can be read, has the paths,
        shapes and dtypes of `abstract`, and was read in shares of the data that
        `iterator` has.
    """
    errors = {}
    for step in reversed(self.steps):
      try:
        state = self._read_twice(step, abstract, iterator)
      except Exception as error:  # Whatever a broken file makes Orbax raise.
        errors[step] = error.with_traceback(None)  # It holds what was read.
        continue
      for damaged, error in errors.items():
        logging.warning(
          'Checkpoint %s is damaged and was put aside; going on from step %d. '
          'The damage: %s',
          self._folder / str(damaged),
          step,
          _first_line(error),
        )
      self._put_aside(list(errors))
      return state
    if errors:
      newest = max(errors)
      error, what = errors[newest], f'a checkpoint of {self._folder}'
      if isinstance(error, _OtherArraysError):
        raise ValueError(
          f'Expected to restore {what}, found none that fits; remove the '
          'folder to start afresh, or use the configuration that wrote it. '
          f'Step {newest} says: {_first_line(error)}'
        ) from error
      raise ValueError(
        f'Expected to restore {what}, found none that can be gone on with; all '
        f'are left where they are, so mend what step {newest} says and start '
        f'again: {_first_line(error)}'
      ) from error
    return None

  def _read_twice(self, step: int, abstract: Any, iterator: Any) -> Any:
    """Tries again once: a file system may be away for a moment."""
    try:
      return self._read(step, abstract, iterator)
    except Exception as error:  # Whatever a broken file makes Orbax raise.
      logging.warning(
        'Reading checkpoint %s once more after: %s',
        self._folder / str(step),
        _first_line(error),
      )
    time.sleep(_PAUSE_S)
    return self._read(step, abstract, iterator)

  def _read(self, step: int, abstract: Any, iterator: Any) -> Any:
    """Raises in all processes or in none."""
    folder = self._folder / str(step)
    with _alike('a checkpoint is read'):
      state, seal = _read_alone(folder, abstract)
      place = _place(folder / 'iterator', iterator)
    # A byte that changed on the disk, neither Orbax nor TensorStore notices.
    # All devices compute this together, so all have read by now.
    bits = _fingerprint_of_tree(state)
    with _alike('a checkpoint is gone on with'):
      if bits != seal:
        raise ValueError(
          f'Expected the bits that were saved in {folder} (fingerprint '
          f'{seal}), found others ({bits}).'
        )
      iterator.set_state(place)
      iterator.start_prefetch()
    return state

  def _put_aside(self, steps: Sequence[int]) -> None:
    """Renames folders, so that their steps can be saved again."""
    if not steps:
      return
    # Nobody lists the folder before it is as it will be.
    with _alike('damaged checkpoints are put aside'):
      for step in steps if cluster.is_first() else ():
        aside = self._folder / f'damaged-{step}'
        if aside.exists():
          aside.rmtree()
        (self._folder / str(step)).rename(aside)
    self._manager.close()
    self._open()

  def wait(self) -> None:
    """Returns when everything saved so far is complete on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, then lets go of the folder."""
    self._manager.close()


class _OtherArraysError(ValueError):
  """A checkpoint is of another model or optimizer, and not damaged."""


@contextlib.contextmanager
def _alike(what: str) -> Iterator[None]:
  """Where one process fails in it, all fail and say why.

  They agree without their devices: no computation of several could wait for one
  that takes no part in it.
  """
  error = None
  try:
    yield
  except Exception as e:  # Whatever a broken file makes Orbax raise.
    error = e
  said = cluster.tell(what, '' if error is None else _first_line(error))
  try:
    if error is not None:
      raise error
  finally:
    del error  # Else what its traceback holds would stay in memory.
  for process, words in enumerate(said):
    if words:
      raise OSError(f'Process {process} says: {words}')


def _read_alone(folder: epath.Path, abstract: Any) -> tuple[Any, str]:
  """State and fingerprint as they were saved; waits for no other process.

  An ocp.Checkpointer would end with all devices in a meeting, which those whose
  files are damaged never come to.
  """
  with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
    # Orbax casts in silence, so what it returns cannot tell.
    _check_arrays(handler.metadata(folder / 'state').tree, abstract, folder)
    state = handler.restore(
      folder / 'state', args=ocp.args.StandardRestore(abstract)
    )
  return state, ocp.JsonCheckpointHandler().restore(folder / 'seal')['state']


def _check_arrays(stored: Any, wanted: Any, folder: epath.Path) -> None:
  """Raises where paths, dtypes or shapes are others."""
  stored, wanted = map(ocp.tree.to_flat_dict, (stored, wanted))
  for keys in sorted({*stored, *wanted}):
    expected, found = (
      f'{x[keys].dtype}{list(x[keys].shape)}' if keys in x else 'nothing'
      for x in (wanted, stored)
    )
    if expected != found:
      raise _OtherArraysError(
        f'Expected {"/".join(keys)} as {expected}, found {found} in {folder}.'
      )


def _place(folder: epath.Path, iterator: Any) -> dict[str, Any]:
  """Where the data go on; as Grain's own handler, but also after others.

  Each process has written how far it has read. What is kept by the number of a
  share (see batches.join) is everybody's to go on from.
  """
  own = f'process_{jax.process_index()}-of-{jax.process_count()}.json'
  files = sorted(folder.glob('process_*-of-*.json'))
  states = {file.name: _unsealed(file.read_text()) for file in files}
  shares = {}
  for state in states.values():
    shares |= state.get('shares', {})
  if shares and 'shares' not in iterator.get_state():
    raise ValueError(
      f'Expected data read as one, found {len(shares)} shares of them, which '
      f'{len(states)} have read; go on with as many processes, or begin with a '
      '--config.data.shares that both numbers of processes divide.'
    )
  if not shares and own not in states:
    raise ValueError(
      f'Expected data read in shares, with which other processes can go on, '
      f'found what {len(states)} have read each by itself; go on with as '
      'many, or begin with a --config.data.shares that both numbers divide.'
    )
  return {'shares': shares} if shares else states[own]


class _Sealed:
  """An iterator whose state is saved so that a character that changed shows."""

  def __init__(self, iterator: Any):
    self._iterator = iterator

  def get_state(self) -> bytes:
    text = json.dumps(self._iterator.get_state())
    return json.dumps({'state': text, 'digest': _digest(text)}).encode()


def _unsealed(text: str) -> dict[str, Any]:
  sealed = json.loads(text)
  if _digest(sealed['state']) != sealed['digest']:
    raise ValueError(
      "Expected an iterator's state as it was saved, found other characters."
    )
  return json.loads(sealed['state'])


def _digest(text: str) -> str:
  return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()


def _fingerprint_of_tree(tree: Any) -> str:
  flat = {
    '/'.join(keys): x for keys, x in ocp.tree.to_flat_dict(tree).items()
  }
  # All are on their way before the first is waited for.
  bits = jax.device_get({path: _bits(x) for path, x in flat.items()})
  return fingerprint_of(
    (path, x.shape, str(x.dtype), int(bits[path])) for path, x in flat.items()
  )


def save_weights(folder: str, flat: Mapping[str, Any]) -> None:
  """Writes arrays by path in place of what the folder held before.

  Whenever the process is killed, a complete folder is there: the new one is
  written beside the old one and then takes its place by renames. Between two
  of them `load_weights` reads the new one where it is, and the next save goes
  on from there. (Object stores copy instead of renaming, and may be caught in
  the middle.)

  Args:
    folder: is made where it is missing.
    flat: path -> array, of any dtype and sharding.
  """
  with weights_writer(folder) as write:
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
  """Takes the next array, or the next rows of one; see `weights_writer`."""

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
def weights_writer(folder: str) -> Iterator[Write]:
  """For more weights than memory: arrays arrive one by one, or in rows.

      with checkpoint.weights_writer(folder) as write:
        write('llm/norm/scale', scale)
        for layers in sixteen_times_two_layers:  # Two in a file.
          write('llm/blocks/mlp/up/kernel', layers, of=32)

  The folder appears when all is written, in place of what it held before; after
  an error it is as it was. Arrays are not compressed, which would take longer
  than writing them.

  Raises:
    ValueError: nothing was written, or not all rows of an array.
  """
  root = epath.Path(folder).absolute()
  _take_place(root)
  parts = root.with_name(f'{root.name}.parts')
  names = root.with_name(f'{root.name}.parts.names')
  is_writer = cluster.is_first()
  if is_writer:
    for left in root.parent.glob(f'{parts.name}*'):  # By a killed process.
      left.rmtree()
  multihost_utils.sync_global_devices('nothing is left of earlier parts')
  rows = _RowsWriter(parts, is_writer=is_writer)
  try:
    yield rows.write
    missing = rows.finish()
  finally:
    rows.land()
  if missing or not rows.dtypes:
    raise ValueError(
      f'Expected all weights to write to {folder}, found '
      f'{"not all rows of " + ", ".join(missing) if missing else "none"}.'
    )
  # Orbax keeps arrays as TensorStore does, and beside them which there are.
  stand_ins = {path: np.zeros(1, dtype) for path, dtype in rows.dtypes.items()}
  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=True)
  level = absl_logging.get_verbosity()
  absl_logging.set_verbosity(absl_logging.ERROR)  # It looks for OCDBT's files.
  try:
    with ocp.Checkpointer(handler) as checkpointer:
      checkpointer.save(names, stand_ins)
  finally:
    absl_logging.set_verbosity(level)
  if is_writer:
    for file in names.iterdir():
      if file.name.startswith('_'):  # _METADATA, _CHECKPOINT_METADATA
        file.rename(parts / file.name)
    names.rmtree()
    (parts / _SHAPES).write_text(json.dumps(rows.shapes))
    parts.rename(_newer(root))
  _take_place(root)


class _RowsWriter:
  """Writes arrays as files of rows, a few of them at a time.

  Given a whole stacked array at once, TensorStore holds a copy of every file of
  it until that is on the disk.

  Attributes:
    dtypes: path -> dtype of what was written so far.
    shapes: path -> name of the dtype, and shape.
  """

  def __init__(self, folder: epath.Path, *, is_writer: bool):
    self.dtypes: dict[str, np.dtype] = {}
    self._folder = folder
    self._is_writer = is_writer
    self._wanted: dict[str, tuple[int, ...]] = {}  # Shapes.
    self._rows: dict[str, int] = {}  # That were written.
    self._arrays: dict[str, ts.TensorStore] = {}  # Not yet complete.
    self._flying: collections.deque = collections.deque()

  @property
  def shapes(self) -> dict[str, list]:
    return _described(
      {path: _Entry(self.dtypes[path], x) for path, x in self._wanted.items()}
    )

  def write(self, path: str, x: np.ndarray, *, of: int | None = None) -> None:
    """See `Write`."""
    if path not in self.dtypes:
      self._begin(path, x, of)
    shape, start = self._wanted[path], self._rows[path]
    rows = len(x) if x.ndim else 1
    left = (shape[0] if shape else 1) - start
    if (x.dtype, x.shape[1:]) != (self.dtypes[path], shape[1:]) or rows > left:
      raise ValueError(
        f'Expected at most {left} more rows of {path}, which is '
        f'{self.dtypes[path]} {list(shape)}, found {x.dtype} {list(x.shape)}.'
      )
    if self._is_writer:
      self._send(self._arrays[path], x, start)
    self._rows[path] += rows
    if rows == left:
      self._arrays.pop(path, None)

  def finish(self) -> list[str]:
    """Waits for what is on its way; paths of which rows are missing."""
    self._wait()
    return [
      path
      for path, shape in self._wanted.items()
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
    self.dtypes[path] = x.dtype
    self._wanted[path], self._rows[path] = tuple(shape), 0
    if not self._is_writer:
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
      **_spec(self._folder, path),
      'store_data_equal_to_fill_value': True,  # As Orbax does.
      'metadata': {
        'chunk_grid': {
          'name': 'regular', 'configuration': {'chunk_shape': file}
        },
        'codecs': [{'name': 'sharding_indexed', 'configuration': chunks}]
      },
    }
    self._arrays[path] = ts.open(
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


def _newer(root: epath.Path) -> epath.Path:
  """Where weights wait for their place; complete as soon as it exists."""
  return root.with_name(f'{root.name}.new')


def _take_place(root: epath.Path) -> None:
  """Moves newer weights to `root`, from wherever an earlier move stopped."""
  newer, older = _newer(root), root.with_name(f'{root.name}.old')
  if cluster.is_first():
    if newer.exists() and root.exists():
      root.rename(older)
    if newer.exists():
      newer.rename(root)
    if older.exists():
      older.rmtree()
  multihost_utils.sync_global_devices('weights took their place')


def load_weights(
  folders: str | Sequence[str],
  patterns: Sequence[str] | None = None,
  *,
  shardings: Mapping[str, jax.sharding.Sharding] | None = None,
  change: Callable[[str, Any], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
  """Reads weights, in which later folders override earlier ones.

  Args:
    folders: one or several that `save_weights` wrote.
    patterns: regular expressions for whole paths, each of which matches some;
      None reads everything. What matches none is not read from disk.
    shardings: where arrays go, by path; each device reads its own part. Paths
      without one become NumPy arrays.
    change: makes of a path and its array what is kept in their place. Of all
      that is changed at most some gigabytes, or one array, are there together.

  Returns:
    path -> array, each with the dtype it was written with.

  Raises:
    FileNotFoundError: a folder has no weights.
    ValueError: a pattern matches no path in any folder.
  """
  folders = [folders] if isinstance(folders, str) else list(folders)
  shardings = shardings or {}
  source, shapes = {}, {}
  for folder in folders:
    for path, entry in _weights_metadata(folder).items():
      source[path], shapes[path] = folder, entry
  if patterns is not None:
    wanted = _matching(patterns, list(source), folders)
    source = {path: source[path] for path in source if path in wanted}
  flat = {}
  for folder in dict.fromkeys(source.values()):
    paths = [path for path in source if source[path] == folder]
    flat |= _read(
      folder, {path: shapes[path] for path in paths}, shardings, change
    )
  return {path: flat[path] for path in sorted(flat)}


class LazyWeights(Mapping):
  """What `load_weights` reads, each array anew whenever it is asked for.

  Attributes:
    shapes: path -> shape.
    dtypes: path -> dtype, as stored.
  """

  def __init__(self, folders: str | Sequence[str]):
    """Opens one folder or several, of which later ones override earlier ones.

    Raises:
      FileNotFoundError: a folder has no weights.
    """
    self._owner, self._dtype = {}, None
    for folder in [folders] if isinstance(folders, str) else folders:
      for path, entry in _weights_metadata(folder).items():
        self._owner[path] = folder, entry
    self.shapes = {
      path: tuple(entry.shape) for path, (_, entry) in self._owner.items()
    }
    self.dtypes = {
      path: jnp.dtype(entry.dtype) for path, (_, entry) in self._owner.items()
    }

  def only(self, paths: Iterable[str], *, dtype: Any = None) -> 'LazyWeights':
    """Some of the paths; their real numbers are rounded to `dtype` if given."""
    found = copy.copy(self)
    found._owner = {path: self._owner[path] for path in paths}
    found.shapes = {path: self.shapes[path] for path in found._owner}
    found.dtypes = {path: self.dtypes[path] for path in found._owner}
    found._dtype = dtype or self._dtype
    return found

  def __getitem__(self, path: str) -> np.ndarray:
    folder, entry = self._owner[path]
    x = _read(folder, {path: entry}, {})[path]
    is_real = jnp.issubdtype(x.dtype, jnp.floating)
    return x.astype(self._dtype) if self._dtype and is_real else x

  def __iter__(self) -> Iterator[str]:
    return iter(sorted(self._owner))

  def __len__(self) -> int:
    return len(self._owner)


Mark = tuple[str, tuple[int, ...], str, int]


def fingerprint(flat: Mapping[str, Any]) -> str:
  """A word that changes with any path, shape, dtype or bit of the arrays.

  Only whole numbers are added, so it is the same however arrays are sharded
  and wherever they are, and nothing leaves the devices but a number an array.
  """
  return fingerprint_of(mark(path, flat[path]) for path in flat)


def mark(path: str, x: jax.Array | np.ndarray) -> Mark:
  """What a fingerprint needs to know of an array, which may then go."""
  # What a host has is added up there: devices would have to be sent it first,
  # and each shape would be compiled.
  bits = _bits_on_host(x) if isinstance(x, np.ndarray) else int(_bits(x))
  return path, x.shape, str(x.dtype), bits


def fingerprint_of(marks: Iterable[Mark]) -> str:
  """The fingerprint of arrays that were never there together."""
  rows = sorted(marks)
  return _digest(repr(rows))


@jax.jit
def _bits(x: jax.Array) -> jax.Array:
  """The sum of all bit patterns, each times a number of its place, uint32."""
  x = jnp.asarray(x)
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
  place = jnp.ones_like(bits)
  for axis in range(x.ndim):
    step = jnp.uint32(2 * _PRIMES[axis])  # Even, so that no place is even.
    place += step * jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  return jnp.sum(bits * place, dtype=jnp.uint32)


def _bits_on_host(x: np.ndarray) -> int:
  """The same number as `_bits`, without an array of products.

  A place is 1 and a step for each axis, so each axis needs only the sums over
  all the others.
  """
  bits = x.view(f'u{x.dtype.itemsize}')
  total = int(bits.sum(dtype=np.uint32))
  for axis, length in enumerate(x.shape):
    others = tuple(a for a in range(x.ndim) if a != axis)
    sums = bits.sum(axis=others, dtype=np.uint32)
    steps = np.arange(length, dtype=np.uint32) * np.uint32(2 * _PRIMES[axis])
    total += int(np.sum(sums * steps, dtype=np.uint32))
  return total % 2**32


def _matching(
  patterns: Sequence[str], paths: Sequence[str], folders: Sequence[str]
) -> set[str]:
  """The paths that some pattern matches; each pattern must match one."""
  found = set()
  for pattern in patterns:
    hits = [path for path in paths if re.fullmatch(pattern, path)]
    if not hits:
      near = difflib.get_close_matches(pattern, paths, 3, cutoff=0.0)
      raise ValueError(
        f'Expected weights that match {pattern!r} in '
        f'{", ".join(map(str, folders))}, found none; the nearest paths are '
        f'{", ".join(near)}.'
      )
    found.update(hits)
  return found


class _Entry(NamedTuple):
  """What a folder of weights says of an array."""

  dtype: np.dtype
  shape: tuple[int, ...]


def _weights_metadata(folder: str) -> dict[str, Any]:
  """Path -> dtype and shape, as the writer said and every file still says."""
  root = _complete(folder)
  if not (root / '_METADATA').exists():
    found = 'no such folder' if not root.exists() else 'none'
    raise FileNotFoundError(
      f'Expected weights in {root}, found {found}; finish the stage that '
      'writes them or correct the path.'
    )
  with _says_where(root):
    if not (root / _SHAPES).exists():
      return _metadata_of_orbax(root)
    wanted = json.loads((root / _SHAPES).read_text())
    opening = {path: ts.open(_spec(root, path), read=True) for path in wanted}
    found = _entries({path: x.result() for path, x in opening.items()})
    _check_shapes(found, wanted)
    return found


def _metadata_of_orbax(root: epath.Path) -> dict[str, Any]:
  """Of a folder that was written before there was `weights_writer`."""
  with ocp.StandardCheckpointer() as checkpointer:
    found = checkpointer.metadata(root).item_metadata
  if found is None:  # Orbax has logged why, at most.
    raise ValueError('_METADATA or a zarr.json is not as it should be')
  return dict(found.tree)


def _entries(arrays: Mapping[str, ts.TensorStore]) -> dict[str, _Entry]:
  return {
    path: _Entry(x.dtype.numpy_dtype, tuple(x.shape))
    for path, x in arrays.items()
  }


def _described(entries: Mapping[str, Any]) -> dict[str, list]:
  """As _SHAPES has it: name of the dtype, and shape."""
  return {
    path: [jnp.dtype(entry.dtype).name, list(entry.shape)]
    for path, entry in entries.items()
  }


def _check_shapes(
  entries: Mapping[str, Any], wanted: Mapping[str, list]
) -> None:
  """Raises where a description says something else than the writer."""
  found = _described(entries)
  for path in sorted({*found, *wanted}):
    if found.get(path) != wanted.get(path):
      raise ValueError(
        f'{path} is described as {found.get(path)} in its zarr.json and as '
        f'{wanted.get(path)} in {_SHAPES}'
      )


@contextlib.contextmanager
def _says_where(root: epath.Path) -> Iterator[None]:
  """Of whatever a broken file makes Orbax and TensorStore raise."""
  try:
    yield
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'Expected the weights that were written to {root}, found files that '
      'cannot be read or that have changed since; copy the folder again, or, '
      'if it is damaged, remove it and run again what wrote it. Reading says: '
      f'{_first_line(error)}'
    ) from error


def _complete(folder: str) -> epath.Path:
  """The folder, or what was about to take its place when a save was killed."""
  root = epath.Path(folder).absolute()
  return root if root.exists() or not _newer(root).exists() else _newer(root)


def _read(
  folder: str, entries: Mapping[str, Any], shardings, change=None
) -> dict[str, Any]:
  flat = {}
  for group in _groups(entries):
    found = _read_together(folder, group, shardings)
    for path in group:
      x = found.pop(path)  # Or what is changed would be there twice.
      flat |= change(path, x) if change else {path: x}
      del x
  return flat


def _groups(entries: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
  """Arrays that are read together."""
  group, size = {}, 0
  for path, entry in entries.items():
    bytes_of_entry = math.prod(entry.shape) * jnp.dtype(entry.dtype).itemsize
    if group and size + bytes_of_entry > _READ_BYTES:
      yield group
      group, size = {}, 0
    group[path] = entry
    size += bytes_of_entry
  yield group


def _read_together(folder: str, entries, shardings) -> dict[str, Any]:
  for path in entries.keys() & shardings.keys():
    _check_divides(path, entries[path].shape, shardings[path])
  root = _complete(folder)
  with _says_where(root):
    if not (root / _SHAPES).exists():
      return _read_by_orbax(root, entries, shardings)
    # TensorStore itself, since Orbax makes a context for each call. When one of
    # those goes, TensorStore 0.1.86 may free its threads' tasks twice, and the
    # process dies: once in some ten thousand calls on a busy machine.
    opening = {path: ts.open(_spec(root, path), read=True) for path in entries}
    arrays = {path: array.result() for path, array in opening.items()}
    _check_shapes(_entries(arrays), _described(entries))
    reading = {
      path: _begin_reading(array, shardings.get(path))
      for path, array in arrays.items()
    }
    return {path: finish() for path, finish in reading.items()}


def _spec(root: epath.Path, path: str) -> dict[str, Any]:
  """Where TensorStore finds an array."""
  folder = f'{os.fspath(root / path)}/'
  is_url = '://' in folder
  return {
    'driver': 'zarr3',
    'kvstore': folder if is_url else {'driver': 'file', 'path': folder},
    'fill_missing_data_reads': False,  # A missing file is no array of zeros.
  }


def _begin_reading(
  array: ts.TensorStore, place: jax.sharding.Sharding | None
) -> Callable[[], Any]:
  """Begins to read what this process needs; the result waits for it."""
  if place is None:
    whole = array.read()
    return lambda: np.asarray(whole.result())
  shape = tuple(array.shape)
  parts = place.addressable_devices_indices_map(shape)
  # Devices that hold the same part share what is read.
  reading = {}
  for part in parts.values():
    reading.setdefault(str(part), array[part].read())

  def finish() -> jax.Array:
    read = {name: np.asarray(part.result()) for name, part in reading.items()}
    shards = [
      jax.device_put(read[str(part)], device) for device, part in parts.items()
    ]
    return jax.make_array_from_single_device_arrays(shape, place, shards)

  return finish


def _read_by_orbax(root: epath.Path, entries, shardings) -> dict[str, Any]:
  """Of a folder that was written before there was `weights_writer`."""
  item, args = {}, {}
  for path, entry in entries.items():
    item[path] = jax.ShapeDtypeStruct(entry.shape, entry.dtype)
    if path in shardings:
      args[path] = ocp.ArrayRestoreArgs(
        sharding=shardings[path], dtype=entry.dtype, strict=True
      )
    else:
      args[path] = ocp.RestoreArgs(restore_type=np.ndarray, dtype=entry.dtype)
  with ocp.PyTreeCheckpointer() as checkpointer:
    return checkpointer.restore(
      root,
      ocp.args.PyTreeRestore(item, restore_args=args, partial_restore=True),
    )


def _check_divides(
  path: str, shape: Sequence[int], place: jax.sharding.Sharding
) -> None:
  try:
    place.shard_shape(tuple(shape))
  except (IndexError, ValueError) as error:
    raise ValueError(
      f'Expected {path} {list(shape)} to divide as {place} has it, found that '
      f'it does not ({_first_line(error)}); choose another mesh.'
    ) from error


def _first_line(error: Exception) -> str:
  return next(iter(str(error).strip().splitlines()), type(error).__name__)[:400]
