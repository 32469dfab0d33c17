"""Rows of captions: the model's beside those of who has not seen the clip.

BLEU, ROUGE-L and CIDEr always; BERTScore where config.eval.bertscore asks for
it; retrieval metrics where the caller brings an evaluator, whose weights are
not part of this package.
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vimonet_jax import corpus as corpora
from vimonet_jax import judging
from vimonet_jax.data import batches
from vimonet_jax.eval import (
  benchmarks,
  bertscore,
  caption_baselines,
  embedder,
  retrieval,
  scores,
  scoring,
)
from vimonet_jax.eval import run as eval_run
from vimonet_jax.motion import features

# Motions that a caption is compared with.
_BATCH = 32
_SEED = 0


class Evaluator(NamedTuple):
  """What retrieval metrics need; see eval.embedder."""

  embedder: embedder.Embedder
  tagger: embedder.Tagger
  statistics: features.Statistics


def check(config: Any) -> None:
  """Refuses before anything is asked what could not be measured then.

  Raises:
    ValueError: BERTScore is wanted and its package is not there.
  """
  wanted = config.eval.get('bertscore', False)
  if wanted and importlib.util.find_spec('bert_score') is None:
    raise ValueError(
      'Expected the package bert-score for config.eval.bertscore=True, found '
      "none; pip install -e '.[bertscore]' or set it to False."
    )


def rows(
  config: Any,
  workdir: str,
  benchmark: benchmarks.Benchmark,
  lines: Sequence[eval_run.Line],
  *,
  evaluator: Evaluator | None = None,
) -> list[scores.Row]:
  """The model's captions beside a random one, the nearest clip's and others'.

  Others are those of config.eval.systems. The random and the nearest one are of
  clips that training can read, and has passed over the rest.

  Args:
    config: of the run.
    workdir: has the training clips.
    benchmark: of captions.
    lines: the model's, one an item.
    evaluator: for R@1 to R@3 and MM-dist.
  """
  items, held_out = benchmark.items, benchmark.records
  train = corpora.open_split(config, workdir, 'train')
  damaged = corpora.passing_over(config, workdir).damaged(train)
  train = batches.without(train, damaged)
  statistics = features.Statistics.load(os.path.join(workdir, 'statistics.npz'))
  by_system = {
    scoring.MODEL: lines,
    'random training caption': eval_run.as_predictions(
      items, caption_baselines.random_training(items, train)
    ),
    'nearest training clip': eval_run.as_predictions(
      items,
      caption_baselines.nearest_training(items, held_out, train, statistics),
    ),
  }
  for system, theirs in judging.systems(config, benchmark):
    if system in by_system:
      raise ValueError(
        f'Expected each system once, found another {system}; give it another '
        'name in config.eval.systems.'
      )
    by_system[system] = theirs
  found = []
  for system, theirs in by_system.items():
    made = scoring.caption_rows(items, theirs, system=system)
    by_key = {eval_run.key(line): line.get('text', '') for line in theirs}
    texts = [by_key.get(item.key, '') for item in items]
    more = {}
    if config.eval.get('bertscore', False):
      references = [item.references for item in items]
      more['BERTScore'] = bertscore.score(texts, references).rescaled
    if evaluator is not None:
      more |= _retrieved(evaluator, texts, items, held_out)
    # Captions are of one domain and one input, so there is one row.
    found += [{**row, **more} for row in made]
  return found


def _retrieved(evaluator, texts, items, held_out) -> dict[str, float]:
  """R@k and MM-dist; nothing where the pairs are fewer than a batch."""
  if len(items) < _BATCH:
    print(
      f'R-precision and MM-dist: not measured, since {len(items)} captions are '
      f'fewer than the {_BATCH} that are compared with each other.'
    )
    return {}
  motions = [np.asarray(held_out[item.position].motion) for item in items]
  found = retrieval.scores(
    *embedder.embed(
      texts,
      motions,
      embedder=evaluator.embedder,
      tagger=evaluator.tagger,
      statistics=evaluator.statistics,
    ),
    batch=_BATCH,
    seed=_SEED,
  )
  return {
    **{f'R@{k}': share.mean for k, share in found.r_precision.items()},
    'MM-dist': found.mm_dist.mean,
  }
