"""Captions without a model: what the prior and the nearest clip are worth."""

from collections.abc import Sequence

import numpy as np

from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import benchmarks, changes
from vimonet_jax.motion import features


def random_training(
  items: Sequence[benchmarks.Item],
  train: Sequence[records_lib.Record],
  *,
  seed: int = 0,
) -> list[str]:
  """For each item a caption of any training clip: what the prior is worth."""
  captions = [text for texts in _captions(train, items) for text in texts]
  return [
    captions[changes.digest(seed, item.id) % len(captions)] for item in items
  ]


def nearest_training(
  items: Sequence[benchmarks.Item],
  records: Sequence[records_lib.Record],
  train: Sequence[records_lib.Record],
  statistics: features.Statistics,
) -> list[str]:
  """For each item the first caption of the training clip that moves most alike.

  Clips are compared by mean and deviation over time of their normalised
  features, in Euclidean distance.
  """

  def pooled(record):
    motion = statistics.normalise(record.motion)
    return np.concatenate([motion.mean(axis=0), motion.std(axis=0)])

  captions = _captions(train, items)
  known = np.stack([pooled(train[i]) for i, c in enumerate(captions) if c])
  captions = list(filter(None, captions))
  found = []
  for item in items:
    distances = np.linalg.norm(known - pooled(records[item.position]), axis=1)
    found.append(captions[int(distances.argmin())][0])
  return found


def _captions(train, items: Sequence[benchmarks.Item]) -> list[list[str]]:
  """Captions of each training record, in the domain of the items."""
  domain = items[0].domain
  captions = [
    [turn.answer for turn in train[i].turns if turn.domain == domain]
    for i in range(len(train))
  ]
  if not any(captions):
    raise ValueError(
      f'Expected captions of domain {domain} in {len(train)} training '
      'records, found none; check the training split.'
    )
  return captions
