"""A word that tells weights from other weights, wherever their arrays are."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Tell the axes of an array apart; no array here has more.
_PRIMES = (1, 40009, 2750159, 92821, 15485863, 32452843)

Mark = tuple[str, tuple[int, ...], str, int]


def of(flat: Mapping[str, Any]) -> str:
  """A word that changes with any path, shape, dtype or bit of the arrays.

  Only whole numbers are added, so it is the same however arrays are sharded
  and wherever they are, and nothing leaves the devices but a number an array.
  """
  return of_marks(mark(path, flat[path]) for path in flat)


def mark(path: str, x: jax.Array | np.ndarray) -> Mark:
  """What a fingerprint needs to know of an array, which may then go."""
  # What a host has is added up there: devices would have to be sent it first,
  # and each shape would be compiled.
  bits = _bits_on_host(x) if isinstance(x, np.ndarray) else int(bits_of(x))
  return path, x.shape, str(x.dtype), bits


def of_marks(marks: Iterable[Mark]) -> str:
  """The fingerprint of arrays that were never there together."""
  rows = sorted(marks)
  return digest(repr(rows))


@jax.jit
def bits_of(x: jax.Array) -> jax.Array:
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
  """The same number as `bits_of`, without an array of products.

  A place is 1 and a step for each axis, so each axis needs only the sums over
  all the others.
  """
  if x.dtype.itemsize > 4:  # Which no device here has: each half counts.
    x = np.ascontiguousarray(x)[..., None].view(np.uint32)
  bits = x.view(f'u{x.dtype.itemsize}')
  total = int(bits.sum(dtype=np.uint32))
  for axis, length in enumerate(x.shape):
    others = tuple(a for a in range(x.ndim) if a != axis)
    sums = bits.sum(axis=others, dtype=np.uint32)
    steps = np.arange(length, dtype=np.uint32) * np.uint32(2 * _PRIMES[axis])
    total += int(np.sum(sums * steps, dtype=np.uint32))
  return total % 2**32


def digest(text: str) -> str:
  return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()
