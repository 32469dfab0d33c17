"""Weights in a folder: flat dicts of arrays by path, read whole or in part.

    llm/blocks/attn/q/kernel/   one array, as TensorStore's zarr3 has it
    _SHAPES                     dtype and shape of each
    _METADATA                   what Orbax needs to read the folder

`weight_writer` makes such folders. Whoever reads an array, or a part of one,
has checksums compared. A folder is opened once, and of two saves that take each
other's place arrays are never read together.
"""

import contextlib
import copy
import difflib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from etils import epath

from vimonet_jax import cluster, fingerprint

# Dtype and shape of each array, which no checksum guards.
SHAPES = '_SHAPES'
# Of arrays that are read together: each is in memory twice for a moment.
_READ_BYTES = 1 << 30

Shardings = Mapping[str, jax.sharding.Sharding]
# Path -> name of the dtype, and shape.
Description = Mapping[str, list]


def load(
  folders: str | Sequence[str],
  patterns: Sequence[str] | None = None,
  *,
  shardings: Shardings | None = None,
  change: Callable[[str, Any], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
  """Reads weights; see `Lazy` of the folders, and `Lazy.read` of the rest."""
  return Lazy(folders).read(patterns, shardings=shardings, change=change)


class Lazy(Mapping):
  """Weights that are read when they are asked for, each time anew.

  Attributes:
    folders: path -> the folder that it is read from, as it was named.
    shapes: path -> shape.
    dtypes: path -> dtype, as stored.
  """

  def __init__(self, folders: str | Sequence[str]):
    """Opens one folder or several, of which later ones override earlier ones.

    Args:
      folders: that `weight_writer.save` wrote.

    Raises:
      FileNotFoundError: a folder has no weights.
      ValueError: files of one are damaged.
    """
    self._owner: dict[str, _Opened] = {}
    self._dtype = None
    for folder in [folders] if isinstance(folders, str) else folders:
      opened = _Opened(folder)
      self._owner |= dict.fromkeys(opened.arrays, opened)
    self._describe()

  def _describe(self) -> None:
    arrays = {path: x.arrays[path] for path, x in self._owner.items()}
    self.folders = {path: x.folder for path, x in self._owner.items()}
    self.shapes = {path: tuple(x.shape) for path, x in arrays.items()}
    self.dtypes = {
      path: jnp.dtype(x.dtype.numpy_dtype) for path, x in arrays.items()
    }

  def only(self, paths: Iterable[str], *, dtype: Any = None) -> 'Lazy':
    """Some of the paths; their real numbers are rounded to `dtype` if given."""
    found = copy.copy(self)
    found._owner = {path: self._owner[path] for path in paths}
    found._dtype = dtype or self._dtype
    found._describe()
    return found

  def read(
    self,
    patterns: Sequence[str] | None = None,
    *,
    shardings: Shardings | None = None,
    change: Callable[[str, Any], Mapping[str, Any]] | None = None,
  ) -> dict[str, Any]:
    """Many of them at once.

    Args:
      patterns: regular expressions for whole paths, each of which matches some;
        None reads everything. What matches none is not read from disk.
      shardings: where arrays go, by path; each device reads its own part. Paths
        without one become NumPy arrays.
      change: makes of a path and its array what is kept in their place. Of all
        that is changed at most some gigabytes, or one array, are there
        together.

    Returns:
      path -> array, each with the dtype it was written with, unless `only` has
      another.

    Raises:
      ValueError: a pattern matches no path, files are damaged, or another save
        took the place of the one that was opened.
    """
    paths, shardings, flat = list(self._owner), shardings or {}, {}
    if patterns is not None:
      folders = dict.fromkeys(self.folders.values())
      wanted = _matching(patterns, paths, folders)
      paths = [path for path in paths if path in wanted]
    for owner in dict.fromkeys(self._owner[path] for path in paths):
      mine = [path for path in paths if self._owner[path] is owner]
      for group in self._groups(mine):
        found = owner.read(group, shardings)
        for path in group:
          x = self._rounded(found.pop(path))  # Or it would be there twice.
          flat |= change(path, x) if change else {path: x}
          del x
    return {path: flat[path] for path in sorted(flat)}

  def __getitem__(self, path: str) -> np.ndarray:
    return self._rounded(self._owner[path].read([path], {})[path])

  def __iter__(self) -> Iterator[str]:
    return iter(sorted(self._owner))

  def __len__(self) -> int:
    return len(self._owner)

  def _rounded(self, x: Any) -> Any:
    is_real = jnp.issubdtype(x.dtype, jnp.floating)
    return x.astype(self._dtype) if self._dtype and is_real else x

  def _groups(self, paths: Iterable[str]) -> Iterator[list[str]]:
    """Arrays that are read together."""
    group, size = [], 0
    for path in paths:
      more = math.prod(self.shapes[path]) * self.dtypes[path].itemsize
      if group and size + more > _READ_BYTES:
        yield group
        group, size = [], 0
      group.append(path)
      size += more
    if group:
      yield group


def newer(root: epath.Path) -> epath.Path:
  """Where weights wait for their place; complete as soon as it exists."""
  return root.with_name(f'{root.name}.new')


def take_place(root: epath.Path) -> None:
  """Moves newer weights to `root`, from wherever an earlier move stopped."""
  new, older = newer(root), root.with_name(f'{root.name}.old')
  if new.exists() and root.exists():
    root.rename(older)
  if new.exists():
    new.rename(root)
  if older.exists():
    older.rmtree()


def _matching(
  patterns: Sequence[str], paths: Sequence[str], folders: Iterable[str]
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


class _Opened:
  """A folder whose arrays are open, all of one save.

  Attributes:
    folder: as it was named.
    arrays: path -> array, of which nothing is read yet.
  """

  def __init__(self, folder: str):
    self.folder = folder
    self._root = _complete(folder)
    # TensorStore itself, since Orbax makes a context for each call. When one of
    # those goes, TensorStore 0.1.86 may free its threads' tasks twice, and the
    # process dies: once in some ten thousand calls on a busy machine.
    self._mark = _mark(self._root)
    if self._mark is None:
      exists = self._root.exists()
      found = f'no {SHAPES} in it' if exists else 'no such folder'
      raise FileNotFoundError(
        f'Expected weights in {self._root}, found {found}; finish what writes '
        'them or correct the path.'
      )
    with _says_where(self._root), self._one_save():
      wanted = _read_description(self._root)
      opening = {
        path: ts.open(spec(self._root, path), read=True) for path in wanted
      }
      self.arrays = {path: x.result() for path, x in opening.items()}
      for path, x in self.arrays.items():
        found = described(x.dtype.numpy_dtype, x.shape)
        if found != wanted[path]:
          raise ValueError(
            f'{path} is described as {found} in its zarr.json and as '
            f'{wanted[path]} in {SHAPES}'
          )

  def read(
    self, paths: Sequence[str], shardings: Shardings
  ) -> dict[str, Any]:
    """Path -> array, all at the same time."""
    for path in shardings.keys() & {*paths}:
      _check_divides(path, self.arrays[path].shape, shardings[path])
    with _says_where(self._root), self._one_save():
      reading = {
        path: _begin_reading(self.arrays[path], shardings.get(path))
        for path in paths
      }
      read = {
        path: {name: np.asarray(part.result()) for name, part in parts.items()}
        for path, parts in reading.items()
      }
    return {
      path: _placed(parts, self.arrays[path].shape, shardings.get(path))
      for path, parts in read.items()
    }

  @contextlib.contextmanager
  def _one_save(self) -> Iterator[None]:
    """Raises where what was read in it may be of another save."""
    try:
      yield
    finally:
      if _mark(self._root) != self._mark:
        raise ValueError('another save took the place of the one opened first')


def _mark(root: epath.Path) -> tuple[int, int] | None:
  """What no two saves have alike; None where there is none."""
  try:
    found = os.stat(root / SHAPES)
  except (FileNotFoundError, NotADirectoryError):
    return None
  return found.st_ino, found.st_mtime_ns


def write_description(root: epath.Path, arrays: Description) -> None:
  """Writes _SHAPES: what is there, as `described` says it."""
  text = {'arrays': arrays, 'digest': _digest(arrays, '')}
  (root / SHAPES).write_text(json.dumps(text))


def _read_description(root: epath.Path) -> Description:
  """What `write_description` wrote."""
  found = json.loads((root / SHAPES).read_text())
  if not found or not isinstance(found, dict):
    raise ValueError(f'{SHAPES} names no array')
  # Earlier saves had a word each, which their digest is of, too.
  if found['digest'] != _digest(found['arrays'], found.get('save', '')):
    raise ValueError(f'{SHAPES} has changed since it was written')
  return found['arrays']


def _digest(arrays: Description, save: str) -> str:
  return fingerprint.digest(repr((sorted(arrays.items()), save)))


def described(dtype: Any, shape: Sequence[int]) -> list:
  """An array as _SHAPES has it: name of its dtype, and shape."""
  return [jnp.dtype(dtype).name, list(shape)]


@contextlib.contextmanager
def _says_where(root: epath.Path) -> Iterator[None]:
  """Of whatever a broken file makes TensorStore raise."""
  try:
    yield
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'Expected the weights that were written to {root}, found files that '
      'cannot be read or that have changed since; copy the folder again, or, '
      'if it is damaged, remove it and run again what wrote it. Reading says: '
      f'{cluster.line_of(error)}'
    ) from error


def _complete(folder: str) -> epath.Path:
  """The folder, or what was about to take its place when a save was killed."""
  root = epath.Path(folder).absolute()
  return root if root.exists() or not newer(root).exists() else newer(root)


def spec(root: epath.Path, path: str) -> dict[str, Any]:
  """Where TensorStore finds an array."""
  return {
    'driver': 'zarr3',
    'kvstore': {'driver': 'file', 'path': f'{os.fspath(root / path)}/'},
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


def _check_divides(
  path: str, shape: Sequence[int], place: jax.sharding.Sharding
) -> None:
  try:
    place.shard_shape(tuple(shape))
  except (IndexError, ValueError) as error:
    raise ValueError(
      f'Expected {path} {list(shape)} to divide as {place} has it, found that '
      f'it does not ({cluster.line_of(error)}); choose another mesh.'
    ) from error
