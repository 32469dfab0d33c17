"""Weights in a folder: flat dicts of arrays by path, read whole or in part.

    llm/blocks/attn/q/kernel/   one array, as TensorStore's zarr3 has it
    _SHAPES                     dtype and shape of each, and a word of the save
    _METADATA                   what Orbax needs to read the folder

`weight_writer` makes such folders. Whoever reads an array, or a part of one,
has checksums compared; folders of earlier versions have none.
"""

import contextlib
import copy
import difflib
import json
import math
import os
import re
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from jax.experimental import multihost_utils

from vimonet_jax import cluster, fingerprint

# Dtype and shape of each array, which no checksum guards.
SHAPES = '_SHAPES'
# Of arrays that are read together: each is in memory twice for a moment.
_READ_BYTES = 1 << 30


def load(
  folders: str | Sequence[str],
  patterns: Sequence[str] | None = None,
  *,
  shardings: Mapping[str, jax.sharding.Sharding] | None = None,
  change: Callable[[str, Any], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
  """Reads weights, in which later folders override earlier ones.

  Args:
    folders: one or several that `weight_writer.save` wrote.
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


class Lazy(Mapping):
  """What `load` reads, each array anew whenever it is asked for.

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

  def only(self, paths: Iterable[str], *, dtype: Any = None) -> 'Lazy':
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


def newer(root: epath.Path) -> epath.Path:
  """Where weights wait for their place; complete as soon as it exists."""
  return root.with_name(f'{root.name}.new')


def take_place(root: epath.Path) -> None:
  """Moves newer weights to `root`, from wherever an earlier move stopped."""
  new, older = newer(root), root.with_name(f'{root.name}.old')
  if cluster.is_first():
    if new.exists() and root.exists():
      root.rename(older)
    if new.exists():
      new.rename(root)
    if older.exists():
      older.rmtree()
  multihost_utils.sync_global_devices('weights took their place')


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


class Entry(NamedTuple):
  """What a folder of weights says of an array.

  Attributes:
    dtype: as stored.
    shape: of all of it.
    save: a word of the save that wrote it; empty where the folder has none.
  """

  dtype: np.dtype
  shape: tuple[int, ...]
  save: str = ''


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
    if not (root / SHAPES).exists():
      return _metadata_of_orbax(root)
    wanted, save = _read_description(root)
    opening = {path: ts.open(spec(root, path), read=True) for path in wanted}
    found = _entries({path: x.result() for path, x in opening.items()}, save)
    _check_shapes(found, wanted)
    return found


def write_description(
  root: epath.Path, entries: Mapping[str, Entry]
) -> None:
  """Writes _SHAPES: what is there, and a word that no other save has."""
  arrays, save = described(entries), uuid.uuid4().hex
  text = {'arrays': arrays, 'save': save, 'digest': _digest(arrays, save)}
  (root / SHAPES).write_text(json.dumps(text))


def _read_description(root: epath.Path) -> tuple[dict[str, list], str]:
  """What `write_description` wrote."""
  found = json.loads((root / SHAPES).read_text())
  if not found or not isinstance(found, dict):
    raise ValueError(f'{SHAPES} names no array')
  if 'digest' not in found:  # Of before saves had words.
    return found, ''
  if found['digest'] != _digest(found['arrays'], found['save']):
    raise ValueError(f'{SHAPES} has changed since it was written')
  return found['arrays'], found['save']


def _digest(arrays: Mapping[str, list], save: str) -> str:
  return fingerprint.digest(repr((sorted(arrays.items()), save)))


def _metadata_of_orbax(root: epath.Path) -> dict[str, Any]:
  """Of a folder that was written before there was `weight_writer`."""
  with ocp.StandardCheckpointer() as checkpointer:
    found = checkpointer.metadata(root).item_metadata
  if found is None:  # Orbax has logged why, at most.
    raise ValueError('_METADATA or a zarr.json is not as it should be')
  return dict(found.tree)


def _entries(
  arrays: Mapping[str, ts.TensorStore], save: str
) -> dict[str, Entry]:
  return {
    path: Entry(x.dtype.numpy_dtype, tuple(x.shape), save)
    for path, x in arrays.items()
  }


def described(entries: Mapping[str, Any]) -> dict[str, list]:
  """As _SHAPES has it: name of the dtype, and shape."""
  return {
    path: [jnp.dtype(entry.dtype).name, list(entry.shape)]
    for path, entry in entries.items()
  }


def _check_shapes(
  entries: Mapping[str, Any], wanted: Mapping[str, list]
) -> None:
  """Raises where a description says something else than the writer."""
  found = described(entries)
  for path in sorted({*found, *wanted}):
    if found.get(path) != wanted.get(path):
      raise ValueError(
        f'{path} is described as {found.get(path)} in its zarr.json and as '
        f'{wanted.get(path)} in {SHAPES}'
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
  return root if root.exists() or not newer(root).exists() else newer(root)


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
    if not (root / SHAPES).exists():
      return _read_by_orbax(root, entries, shardings)
    # TensorStore itself, since Orbax makes a context for each call. When one of
    # those goes, TensorStore 0.1.86 may free its threads' tasks twice, and the
    # process dies: once in some ten thousand calls on a busy machine.
    opening = {path: ts.open(spec(root, path), read=True) for path in entries}
    arrays = {path: array.result() for path, array in opening.items()}
    _check_shapes(_entries(arrays, ''), described(entries))
    reading = {
      path: _begin_reading(array, shardings.get(path))
      for path, array in arrays.items()
    }
    read = {
      path: {name: np.asarray(part.result()) for name, part in parts.items()}
      for path, parts in reading.items()
    }
    _, save = _read_description(root)
    if stale := [path for path, x in entries.items() if x.save != save]:
      raise ValueError(
        f'another save took the place of the one that {stale[0]} is of'
      )
  return {
    path: _placed(parts, entries[path].shape, shardings.get(path))
    for path, parts in read.items()
  }


def spec(root: epath.Path, path: str) -> dict[str, Any]:
  """Where TensorStore finds an array."""
  folder = f'{os.fspath(root / path)}/'
  is_url = '://' in folder
  url = urllib.parse.quote(folder, safe=':/')
  return {
    'driver': 'zarr3',
    'kvstore': url if is_url else {'driver': 'file', 'path': folder},
    'fill_missing_data_reads': False,  # A missing file is no array of zeros.
  }


def _begin_reading(
  array: ts.TensorStore, place: jax.sharding.Sharding | None
) -> dict[str, ts.Future]:
  """Begins to read what this process needs; parts by their place."""
  if place is None:
    return {'': array.read()}
  parts = place.addressable_devices_indices_map(tuple(array.shape)).values()
  # Devices that hold the same part share what is read.
  return {
    name: array[part].read()
    for name, part in {str(part): part for part in parts}.items()
  }


def _placed(
  parts: Mapping[str, np.ndarray],
  shape: tuple[int, ...],
  place: jax.sharding.Sharding | None,
) -> Any:
  if place is None:
    return parts['']
  where = place.addressable_devices_indices_map(tuple(shape))
  shards = [
    jax.device_put(parts[str(part)], device) for device, part in where.items()
  ]
  return jax.make_array_from_single_device_arrays(tuple(shape), place, shards)


def _read_by_orbax(root: epath.Path, entries, shardings) -> dict[str, Any]:
  """Of a folder that was written before there was `weight_writer`."""
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
