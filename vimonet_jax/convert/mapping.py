"""One engine for tables of weights: names and shapes checked, then moved.

A row of a table says which of their tensors make which of ours, and how:

    Row('model.layers.{i}.mlp.up_proj.weight', 'llm/blocks/mlp/up/kernel',
        TRANSPOSED)

`{i}` runs over the layers, which lie on axis 0 of our array. The same rows run
forwards (`to_ours`) and backwards (`to_theirs`). Nothing is moved before every
name and shape on the other side is as the table expects.
"""

import collections
import concurrent.futures
import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from vimonet_jax import sharding

# Names of each kind that an error lists before it only counts.
_LISTED = 20
# Columns of a transposed matrix that are copied at once. 45 million numbers of
# two bytes took 0.11 s so, 0.22 s number by number, and more in one go.
_COLUMNS = 128
# Of layers that are made together; a matrix of a 7B model has up to 90 MB.
_PIECE_BYTES = 32 << 20

Arrays = tuple[Any, ...]


class ConversionError(ValueError):
  """Weights that do not fit the table; names all that is wrong."""


class Transform(NamedTuple):
  """Two pure functions of arrays, one the inverse of the other.

  Attributes:
    forward: (*theirs) -> ours, a tuple of arrays.
    backward: (*ours) -> theirs, a tuple of arrays.
  """

  forward: Callable[..., Arrays]
  backward: Callable[..., Arrays]


@dataclasses.dataclass(frozen=True)
class Row:
  """Which of their tensors make which of our arrays.

  Attributes:
    theirs: names, in the order in which `transform` takes them.
    ours: paths, in the order in which it gives them.
    transform: of one layer, where the names have `{i}`.
  """

  theirs: tuple[str, ...]
  ours: tuple[str, ...]
  transform: Transform

  @property
  def is_stacked(self) -> bool:
    return '{i}' in self.theirs[0]


def row(theirs: str, ours: str, transform: Transform | None = None) -> Row:
  """One tensor of theirs that is one array of ours."""
  return Row((theirs,), (ours,), transform or SAME)


def shapes_of(
  name: str, module: nn.Module, *args, method=None, **kwargs
) -> dict[str, tuple[int, ...]]:
  """Paths under `name` -> shapes of all variables that a call makes."""

  def init():
    return module.init(jax.random.key(0), *args, method=method, **kwargs)

  flat = {}
  for collection in jax.eval_shape(init).values():
    flat |= sharding.unbox({name: collection})
  return {path: tuple(x.shape) for path, x in flat.items()}


@dataclasses.dataclass(frozen=True)
class Table:
  """All rows of a format.

  Attributes:
    name: of the format, for messages.
    rows: the table.
    shapes: our paths -> shapes, layers included; may have more than the rows.
    ignored: patterns of whole names that the format has and we do not need.
    renamed: (pattern, replacement) of spellings that mean the same.
  """

  name: str
  rows: tuple[Row, ...]
  shapes: Mapping[str, tuple[int, ...]]
  ignored: tuple[str, ...] = ()
  renamed: tuple[tuple[str, str], ...] = ()

  def layers(self, row: Row) -> int:
    return self.shapes[row.ours[0]][0] if row.is_stacked else 1

  def expected(self) -> dict[str, tuple[int, ...]]:
    """Their names -> shapes, as `to_theirs` would write them."""
    found = {}
    for row in self.rows:
      start = 1 if row.is_stacked else 0
      ours = [
        jax.ShapeDtypeStruct(self.shapes[path][start:], np.float32)
        for path in row.ours
      ]
      theirs = jax.eval_shape(row.transform.backward, *ours)
      for i in range(self.layers(row)):
        for name, x in zip(row.theirs, theirs, strict=True):
          found[name.format(i=i)] = tuple(x.shape)
    return found


# --- Transforms --------------------------------------------------------------


def one(forward, backward) -> Transform:
  """Of one array each way."""
  return Transform(lambda x: (forward(x),), lambda x: (backward(x),))


SAME = one(lambda x: x, lambda x: x)
TRANSPOSED = one(lambda x: x.T, lambda x: x.T)


def axes(*order: int) -> Transform:
  """Permutes axes: their axis order[k] becomes our axis k."""
  back = tuple(int(k) for k in np.argsort(order))
  return one(lambda x: x.transpose(order), lambda x: x.transpose(back))


def reshaped(theirs: Sequence[int], ours: Sequence[int]) -> Transform:
  """The same numbers in another shape."""
  return one(lambda x: x.reshape(ours), lambda x: x.reshape(theirs))


def split_outputs(*sizes: int) -> Transform:
  """torch's [out, in] and our [in, *sizes], sizes being the parts of out."""
  return one(
    lambda x: x.T.reshape(x.shape[1], *sizes),
    lambda x: x.reshape(x.shape[0], -1).T,
  )


def split_inputs(*sizes: int) -> Transform:
  """torch's [out, in] and our [*sizes, out], sizes being the parts of in."""
  return one(
    lambda x: x.T.reshape(*sizes, x.shape[0]),
    lambda x: x.reshape(-1, x.shape[-1]).T,
  )


# --- The engine --------------------------------------------------------------


def check(table: Table, shapes: Mapping[str, Sequence[int]]) -> dict[str, str]:
  """The table's names -> the checkpoint's, which may be spelt otherwise.

  Raises:
    ConversionError: with all names that are unknown or missing and all shapes
      that differ.
  """
  expected, found = table.expected(), {}
  unknown, twice = [], []
  for name in shapes:
    known = _canonical(table, name)
    if known in expected:
      (twice.append(name) if known in found else found.update({known: name}))
    elif not any(re.fullmatch(pattern, known) for pattern in table.ignored):
      unknown.append(name)
  if not found:
    more = f' and {len(shapes) - 3} more' if len(shapes) > 3 else ''
    raise ConversionError(
      f'Expected the {len(expected)} tensors of {table.name}, such as '
      f'{next(iter(expected))}, found none of them among '
      f'{", ".join(list(shapes)[:3])}{more}; choose the format that wrote them '
      'with --format.'
    )
  problems = [
    _listed('missing', [name for name in expected if name not in found]),
    _listed('unknown', unknown),
    _listed('there twice', twice),
    _listed(
      'of another shape',
      [
        f'{name} {list(shapes[found[name]])} instead of {list(shape)}'
        for name, shape in expected.items()
        if name in found and tuple(shapes[found[name]]) != shape
      ],
    ),
  ]
  if problems := [problem for problem in problems if problem]:
    raise ConversionError(
      f'Expected the {len(expected)} tensors of {table.name}, found '
      f'{len(shapes)} of which:\n' + '\n'.join(problems) + '\nChoose the '
      'format that wrote them with --format, and the sizes in config.model.'
    )
  return found


def _canonical(table: Table, name: str) -> str:
  for pattern, replacement in table.renamed:
    name = re.sub(pattern, replacement, name)
  return name


def _listed(what: str, names: Sequence[str]) -> str:
  if not names:
    return ''
  more = len(names) - _LISTED
  lines = [f'{len(names)} {what}:', *names[:_LISTED]]
  return '\n  '.join(lines + ([f'and {more} more'] if more > 0 else []))


class Piece(NamedTuple):
  """The next layers of one of our arrays, or all of it.

  Attributes:
    path: of the array.
    x: of these layers, contiguous and in memory of its own.
    of: how many layers the array has; None where `x` is all of it.
  """

  path: str
  x: np.ndarray
  of: int | None = None


def to_ours(
  table: Table,
  shapes: Mapping[str, Sequence[int]],
  read: Callable[[str], np.ndarray],
  *,
  dtype: Any = None,
) -> Iterator[Piece]:
  """Our arrays, one row of the table after the other, stacks in pieces.

  While a piece is used as many more are being made as there are threads.

  Args:
    table: the format.
    shapes: names and shapes of all tensors that there are.
    read: name -> tensor, from any thread.
    dtype: what numbers are rounded to, once; None leaves them.

  Raises:
    ConversionError: see `check`; before anything is read.
  """
  names = check(table, shapes)

  def tensor(name: str) -> np.ndarray:
    x = read(names[name])
    return x if dtype is None else x.astype(dtype, copy=False)

  itemsize = np.dtype(dtype or np.float32).itemsize
  workers = min(4, os.cpu_count() or 1)
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    making = collections.deque()
    for row in table.rows:
      for layers in _parts(table, row, itemsize):
        making.append(pool.submit(_pieces, table, row, layers, tensor))
        if len(making) > workers:
          yield from making.popleft().result()
    while making:
      yield from making.popleft().result()


def _parts(table: Table, row: Row, itemsize: int) -> Iterator[range]:
  """Layers of a row that are made together, at most `_PIECE_BYTES` or one."""
  layers = table.layers(row)
  numbers = max(math.prod(table.shapes[path]) for path in row.ours)
  step = max(1, _PIECE_BYTES * layers // max(1, numbers * itemsize))
  for start in range(0, layers, step):
    yield range(start, min(start + step, layers))


def _pieces(
  table: Table,
  row: Row,
  layers: range,
  tensor: Callable[[str], np.ndarray],
) -> list[Piece]:
  """Some layers of each array that a row makes."""
  made = []
  for i in layers:
    made.append(
      row.transform.forward(*(tensor(name.format(i=i)) for name in row.theirs))
    )
    for path, x in zip(row.ours, made[-1], strict=True):
      wanted = table.shapes[path][1 if row.is_stacked else 0 :]
      if tuple(wanted) != x.shape:
        raise ConversionError(
          f'Expected {path} of shape {list(wanted)} for {table.name}, found '
          f'{list(x.shape)}; the sizes in config.model are others.'
        )
  pieces = []
  for path, xs in zip(row.ours, zip(*made, strict=True), strict=True):
    if row.is_stacked:
      pieces.append(Piece(path, _stacked(xs), table.layers(row)))
    else:
      pieces.append(Piece(path, _contiguous(xs[0])))
  return pieces


def names_of(table: Table, row: Row) -> list[str]:
  """All names of a row, layer after layer."""
  layers = range(table.layers(row))
  return [name.format(i=i) for i in layers for name in row.theirs]


def to_theirs(
  table: Table,
  row: Row,
  read: Callable[[str], np.ndarray],
  *,
  dtype: Any = None,
) -> Iterator[tuple[str, np.ndarray]]:
  """The tensors of one row, backwards.

  Args:
    table: the format.
    row: one of its rows.
    read: our path -> array.
    dtype: what numbers are rounded to, once; None leaves them.
  """
  ours = [np.asarray(read(path)) for path in row.ours]
  for path, x in zip(row.ours, ours, strict=True):
    if x.shape != tuple(table.shapes[path]):
      raise ConversionError(
        f'Expected {path} of shape {list(table.shapes[path])} for '
        f'{table.name}, found {list(x.shape)}; convert with the configuration '
        'that the weights were made with.'
      )
  for i in range(table.layers(row)):
    parts = [x[i] for x in ours] if row.is_stacked else ours
    theirs = row.transform.backward(*parts)
    for name, x in zip(row.theirs, theirs, strict=True):
      x = x if dtype is None else x.astype(dtype, copy=False)
      yield name.format(i=i), _contiguous(x)


def _stacked(xs: Sequence[np.ndarray]) -> np.ndarray:
  y = np.empty((len(xs), *xs[0].shape), xs[0].dtype)
  for i, x in enumerate(xs):
    _copy(y[i, ...], x)
  return y


def _contiguous(x: np.ndarray) -> np.ndarray:
  return _stacked([x])[0, ...]


def _copy(target: np.ndarray, source: np.ndarray) -> None:
  """target[...] = source, in an order that the cache likes."""
  fastest = int(np.argmin(source.strides)) if source.ndim else 0
  last = source.ndim - 1
  others = [axis for axis in range(source.ndim) if axis not in (fastest, last)]
  if fastest >= last:
    np.copyto(target, source)
  elif others:
    pair = (np.moveaxis(x, others[0], 0) for x in (target, source))
    for into, out in zip(*pair, strict=True):
      _copy(into, out)
  else:
    for start in range(0, source.shape[last], _COLUMNS):
      part = ..., slice(start, start + _COLUMNS)
      _transpose(target[part], source[part].T)


def _transpose(target: np.ndarray, source: np.ndarray) -> None:
  """target[...] = source.T, in words of eight bytes where numbers fit in."""
  together = 8 // source.itemsize
  rows, columns = source.shape
  is_plain = source.strides[-1] == source.itemsize
  is_plain &= source.dtype == target.dtype
  if together < 2 or columns % together or not is_plain:
    np.copyto(target, source.T)
    return
  unsigned = np.dtype(f'u{source.itemsize}')
  words = np.ascontiguousarray(source.view(np.uint64).T)
  split = words.view(unsigned).reshape(-1, rows, together).swapaxes(1, 2)
  # Splits an axis, which makes no copy whatever the strides are.
  into = target.view(unsigned).reshape(-1, together, rows)
  np.copyto(into, split)
