"""The meshes to be tried, and the most rows that fit, in few trials."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

from vimonet_jax import sharding

# Compilations of one mesh, which take minutes each.
_TRIALS = 4


class Memory(NamedTuple):
  """How the memory of a program grows.

  Attributes:
    fixed: bytes that it takes besides its arguments, without any row.
    a_row: bytes of a row.
  """

  fixed: float
  a_row: float


def most_rows(
  used: Callable[[int], float],
  kept: float,
  room: float,
  known: Memory | None = None,
) -> tuple[int, Memory | None]:
  """The most rows that fit, in few trials, where memory grows evenly.

  Args:
    used: rows -> bytes, which is dear to ask.
    kept: bytes of what there is in any case.
    room: bytes that there are.
    known: of the same program on another mesh.

  Returns:
    Rows, 0 where one was tried and does not fit, and what was seen of the
    memory.
  """
  seen: dict[int, float] = {}
  best, too_many, rows = 0, math.inf, 1
  if known:
    rows = max(1, int((room - kept - known.fixed) // known.a_row))
  for trial in range(_TRIALS):
    if trial == _TRIALS - 1 and not best:
      rows = 1  # Or nobody knows whether any fits.
    seen[rows] = used(rows)
    if seen[rows] <= room:
      best = max(best, rows)
    else:
      too_many = min(too_many, rows)
    if len(seen) > 1:
      (x, low), (y, high) = sorted(seen.items())[-2:]
      a_row = max(1.0, (high - low) / (y - x))
      known = Memory(high - kept - y * a_row, a_row)
    if known is None:
      # What one row takes is mostly not the row's.
      guess, is_sure = 2, False
    else:
      guess = int((room - kept - known.fixed) // known.a_row)
      told = kept + known.fixed + rows * known.a_row
      is_sure = abs(told - seen[rows]) < 0.01 * room
      if not is_sure:  # Another mesh told wrong.
        guess = rows + (1 if seen[rows] <= room else -1) * max(1, rows // 4)
    if best + 1 >= too_many:
      break
    guess = max(1, min(guess, too_many - 1))
    if guess <= best:
      if is_sure:
        break
      guess = best + 1
    rows = guess
  return best, known


def meshes(config, devices) -> Iterator[jax.sharding.Mesh]:
  """Copies of the weights against shards of them; `tensor` is the user's."""
  tensor = max(1, config.mesh.tensor)
  if len(devices) % tensor:
    raise ValueError(
      f'Expected config.mesh.tensor to divide {len(devices)} devices, found '
      f'{tensor}.'
    )
  rest = len(devices) // tensor
  for fsdp in range(1, rest + 1):
    if rest % fsdp == 0:
      yield sharding.make_mesh(rest // fsdp, fsdp, tensor, devices=devices)
