"""What the encoders make of clips, kept while somebody may ask about them.

    record -> keys -> banks, float [M, D] for each clip -> the decoder's input

A clip that several questions are about, or several turns of a conversation, is
encoded once; the ones that nobody has asked about for the longest time go.
"""

import collections
import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from vimonet_jax.data import batches, records
from vimonet_jax.infer import engine
from vimonet_jax.models import vimonet


class Key(NamedTuple):
  """By what a clip is known again.

  Attributes:
    medium: `motion` or `video`.
    digest: of its shape and numbers.
  """

  medium: str
  digest: bytes


# Of a record's clips, in the order of a bank.
Keys = tuple[Key, ...]
Banks = tuple[jax.Array, ...]


def keys(record: records.Record) -> Keys:
  """Of a record's clips: the motion, then the video."""
  return tuple(Key(medium, _digest(x)) for medium, x in record.clips.items())


class Clips:
  """Encodes clips and keeps the result, in the decoder's dtype."""

  def __init__(self, asked: engine.Engine, *, max_bytes: int = 2**28):
    """Begins without any.

    Args:
      asked: the model.
      max_bytes: of what is kept beyond a call, all clips together.
    """
    self._asked = asked
    self._max_bytes = max_bytes
    self._kept: collections.OrderedDict[Key, jax.Array] = (
      collections.OrderedDict()
    )

  def banks(
    self,
    shown: Sequence[records.Record],
    keys_of: Sequence[Keys],
    *,
    max_rows: int | None = None,
  ) -> list[Banks]:
    """What the decoder sees of each record; waits until it is there.

    Args:
      shown: records whose media the model reads; see Engine.check.
      keys_of: `keys` of each.
      max_rows: of a batch, at least as many as there are records.
    """
    found: dict[Key, jax.Array] = {}
    new: dict[Key, records.Record] = {}
    for record, its_keys in zip(shown, keys_of, strict=True):
      for key in its_keys:
        if key in self._kept:
          self._kept.move_to_end(key)
          found[key] = self._kept[key]
        else:
          new[key] = record
    for medium in self._asked.media:
      some = {key: x for key, x in new.items() if key.medium == medium}
      if some:
        rows = self._asked.rows(len(some), max_rows)
        banks = self._encode(medium, list(some.values()), rows)
        found |= zip(some, banks, strict=False)  # Rows left over are of nobody.
    jax.block_until_ready(found)
    self._keep({key: found[key] for key in new})
    return [tuple(found[key] for key in its_keys) for its_keys in keys_of]

  def _encode(
    self, medium: str, shown: Sequence[records.Record], rows: int
  ) -> Banks:
    batch = batches.clips(
      medium, shown, statistics=self._asked.bundle.statistics, rows=rows
    )
    return self._asked.call(_encoder(self._asked.bundle.model), batch)

  def _keep(self, new: dict[Key, jax.Array]) -> None:
    self._kept |= new
    size = sum(x.nbytes for x in self._kept.values())
    while size > self._max_bytes:
      size -= self._kept.popitem(last=False)[1].nbytes


def _digest(x: np.ndarray) -> bytes:
  made = hashlib.blake2b(repr((x.shape, x.dtype.str)).encode(), digest_size=16)
  made.update(np.ascontiguousarray(x).data)
  return made.digest()


@functools.cache
def _encoder(model: vimonet.Config):
  def encode(variables, batch):
    bank_BMD = vimonet.Vimonet(model).apply(
      vimonet.stack(variables), batch, method='bank'
    )
    return tuple(bank_BMD.astype(model.llm.dtype))

  return jax.jit(encode)
