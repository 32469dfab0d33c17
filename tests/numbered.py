"""Records that are asked for their own number, and the questions."""

import numpy as np

from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import own_items


def record(i: int, **changes) -> records_lib.Record:
  """Asks for its own number, in two domains."""
  turns = tuple(
    records_lib.Turn(
      f'Which {domain}?', f'It is n{i}.', domain, kind, f'n{i}', CHOICES
    )
    for domain, kind in (('place', 'a'), ('object', 'b'), ('object', 'c'))
  )
  return records_lib.Record(
    f'r{i}',
    'test',
    'test',
    motion=np.full((40 + 4 * i, 263), i, np.float32),
    joints=np.zeros((41 + 4 * i, 22, 3), np.float32),
    frames=np.full((2, 4, 4, 3), i, np.uint8),
    turns=turns,
    **changes,
  )


class Damaged(list):
  """Records of which some cannot be read."""

  def __init__(self, held, *numbers):
    super().__init__(held)
    self._numbers = numbers

  def __getitem__(self, index):
    if index in self._numbers:
      raise records_lib.CorruptError(f'test:{index}', 'bytes')
    return super().__getitem__(index)


CHOICES = tuple(f'n{i}' for i in range(6))
RECORDS = [record(i) for i in range(6)]
ITEMS = own_items.questions(RECORDS)
