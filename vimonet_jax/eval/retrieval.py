"""R-precision and MM-dist: whether captions and motions find each other.

Both are made of embeddings in one space, which an evaluator makes of captions
and motions (see `embedder`). A generated caption can beat real ones: these are
no accuracies.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy.spatial import distance

TOP = (1, 2, 3)


class Estimate(NamedTuple):
  """A mean of repetitions, and the 95 % interval of that mean."""

  mean: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Scores:
  """What `scores` finds.

  Attributes:
    r_precision: by k of `TOP`, 0 to 1; guessing is worth k / batch.
    mm_dist: of a caption from its own motion, in units of the embedding.
    batch: motions that a caption is compared with.
    repetitions: shuffles.
    n: pairs that each repetition compares.
    n_dropped: pairs that each repetition leaves over, other ones each time.
  """

  r_precision: dict[int, Estimate]
  mm_dist: Estimate
  batch: int
  repetitions: int
  n: int
  n_dropped: int


def scores(
  text_embeddings_NE: np.ndarray,
  motion_embeddings_NE: np.ndarray,
  *,
  batch: int = 32,
  repetitions: int = 20,
  seed: int,
) -> Scores:
  """R-precision and MM-dist of captions and the motions in the same rows.

  In each repetition the pairs are shuffled and dealt into batches. Each caption
  ranks the motions of its batch by Euclidean distance, nearest first, and hits
  when its own is among the first k. What fills no batch is dropped.

  Where other motions are exactly as near as the own one, the order among them
  is nobody's, so the caption gets the share of orders that would be a hit. An
  evaluator that embeds everything alike thus scores k / batch, as it should;
  published code lets the sort decide, which can give it anything up to 1.

  The interval is 1.96 standard errors over the repetitions, as published. It
  says how much the shuffle matters and nothing about other captions.

  Args:
    text_embeddings_NE: a caption in each row.
    motion_embeddings_NE: the motion that it is about.
    batch: how many motions a caption is compared with. Values of other sizes
      are not comparable.
    repetitions: shuffles.
    seed: of the shuffles.

  Raises:
    ValueError: the embeddings do not go together, are not finite, or fill no
      batch.
  """
  texts, motions = _checked(text_embeddings_NE, motion_embeddings_NE, batch)
  if repetitions < 1:
    raise ValueError(
      f'Expected one repetition or more, found {repetitions}; 20 are usual.'
    )
  number = len(texts) // batch * batch
  rng = np.random.default_rng(seed)
  values = np.array(
    [
      _once(texts[order], motions[order], batch)
      for order in (
        rng.permutation(len(texts))[:number] for _ in range(repetitions)
      )
    ]
  )
  means = values.mean(axis=0)
  halves = 1.96 * values.std(axis=0) / np.sqrt(repetitions)
  *hits, mm_dist = (
    Estimate(float(mean), float(mean - half), float(mean + half))
    for mean, half in zip(means, halves, strict=True)
  )
  return Scores(
    dict(zip(TOP, hits, strict=True)),
    mm_dist,
    batch,
    repetitions,
    number,
    len(texts) - number,
  )


def _once(texts, motions, batch: int) -> np.ndarray:
  """Means of one repetition: hits for each k of `TOP`, and distance."""
  rows = []
  for start in range(0, len(texts), batch):
    some = slice(start, start + batch)
    # From differences: |a|^2 + |b|^2 - 2ab would leave equal ones apart.
    apart = distance.cdist(texts[some], motions[some])
    own = np.diagonal(apart)[:, None]
    nearer = (apart < own).sum(axis=1)
    as_near = (apart == own).sum(axis=1)  # At least the own one.
    hits = [np.clip((k - nearer) / as_near, 0, 1) for k in TOP]
    rows.append(np.stack([*hits, own[:, 0]], axis=1))
  return np.concatenate(rows).mean(axis=0)


def _checked(texts, motions, batch: int) -> tuple[np.ndarray, np.ndarray]:
  texts = np.asarray(texts, np.float64)
  motions = np.asarray(motions, np.float64)
  if texts.ndim != 2 or texts.shape != motions.shape:
    raise ValueError(
      'Expected embeddings [N, E] of as many captions as motions, found '
      f'{list(texts.shape)} and {list(motions.shape)}; embed both with one '
      'evaluator.'
    )
  for name, array in (('captions', texts), ('motions', motions)):
    if bad := int((~np.isfinite(array).all(axis=1)).sum()):
      raise ValueError(
        f'Expected finite embeddings, found NaN or infinity in {bad} of '
        f'{len(array)} {name}; mend the evaluator or its input.'
      )
  if not 1 <= batch <= len(texts):
    raise ValueError(
      f'Expected a batch of 1 to {len(texts)}, which is how many pairs there '
      f'are, found {batch}; give more pairs.'
    )
  return texts, motions
