"""What replies of a judge say, one by one and added up.

A judge that is a language model is asked for a dictionary of `pred`, yes or no,
and `score`. Verdicts keep its replies, so all of this can be done again.
"""

import ast
import collections
import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vimonet_jax.eval import benchmarks, judge, scores


class Reading(NamedTuple):
  """What a reply says.

  Attributes:
    correct: None where it says neither yes nor no.
    score: as it is counted.
  """

  correct: bool | None
  score: float


class Mean(NamedTuple):
  """Of some answers; None where there are none.

  Attributes:
    accuracy: 0 to 1.
    score: 0 to 5.
    n_accuracy: answers that the accuracy is about.
    n_score: answers that the score is about.
  """

  accuracy: float | None
  score: float | None
  n_accuracy: int
  n_score: int


class Summary(NamedTuple):
  """The same verdicts, counted in three ways.

  Attributes:
    of_all: every item; without a verdict it is wrong and scores 0.
    of_valid: items with a verdict.
    as_paper: what the published script makes of the replies. Whatever is a
      dictionary counts, with a score cut to an integer, or 0; the accuracy is
      yes / (yes + no).
  """

  of_all: Mean
  of_valid: Mean
  as_paper: Mean


# --- What a reply says -------------------------------------------------------


def read_valid(reply: str) -> Reading:
  """Of {'pred': 'yes' or 'no', 'score': a number from 0 to 5}, as it stands.

  JSON or a Python dictionary, with or without a code fence, and no other word.

  Raises:
    ValueError: it is something else.
  """
  found = _dictionary(reply)
  pred, score = found.get('pred'), found.get('score')
  said = pred.strip().lower() if isinstance(pred, str) else pred
  if said not in ('yes', 'no'):
    raise ValueError(f"expected 'pred' to be yes or no, found {pred!r}")
  is_number = isinstance(score, int | float) and not isinstance(score, bool)
  if not (is_number and 0 <= score <= 5):
    raise ValueError(f"expected 'score' from 0 to 5, found {score!r}")
  return Reading(said == 'yes', float(score))


def read_as_paper(reply: str) -> Reading:
  """What the published script counts, of any dictionary.

      {'pred': 'Yes, it is', 'score': 4.8}    yes, 4
      {'pred': 'maybe', 'score': 3}           neither, 3
      {'pred': 'unknown', 'score': 7}         no, because of its letters; 7
      {'pred': 'yes'}                         neither, 0: it stops at the score

  A code fence, at which the script would ask again, is taken off.

  Raises:
    ValueError: it is no dictionary; the script would ask for ever.
  """
  found = _dictionary(reply)
  try:
    score = float(int(found['score']))
  except (KeyError, TypeError, ValueError, OverflowError):
    return Reading(None, 0.0)
  pred = found.get('pred')
  said = pred.lower() if isinstance(pred, str) else ''
  if 'yes' in said:
    return Reading(True, score)
  return Reading(False if 'no' in said else None, score)


def _dictionary(reply: str) -> dict[Any, Any]:
  fenced = re.fullmatch(r'\s*```(?:\w+\s)?(.*?)```\s*', reply, re.DOTALL)
  text = (fenced.group(1) if fenced else reply).strip()
  for read in (json.loads, ast.literal_eval):
    try:
      found = read(text)
    # All that literal_eval is documented to raise, and json with it.
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
      continue
    if isinstance(found, dict):
      return found
  raise ValueError(f'expected a dictionary, found {text[:40]!r}')


# --- Sums --------------------------------------------------------------------


def summarise(
  items: Sequence[benchmarks.Item], verdicts: Sequence[judge.Verdict]
) -> dict[str, Summary]:
  """By domain, over all items (`scores.ALL`), and over domains (`MACRO`).

  Published tables print the mean over items for motion and the mean over
  domains for video. A domain that a way of counting leaves empty is not in that
  way's mean over domains.

  Args:
    items: of one benchmark and input.
    verdicts: of a `Judge`, in the items' order.
  """
  if [item.id for item in items] != [verdict.id for verdict in verdicts]:
    raise ValueError(
      f'Expected the verdicts of these {len(items)} items in their order, '
      f'found {len(verdicts)} of others; pass both as they were judged.'
    )
  by_domain = collections.defaultdict(list)
  for item, verdict in zip(items, verdicts, strict=True):
    by_domain[item.domain].append(verdict)
  domains = {name: _summary(some) for name, some in by_domain.items()}
  ways = zip(*domains.values(), strict=True)
  return {
    **domains,
    scores.ALL: _summary(verdicts),
    scores.MACRO: Summary(*map(_mean_of_means, ways)),
  }


def _summary(verdicts: Sequence[judge.Verdict]) -> Summary:
  valid = [verdict for verdict in verdicts if verdict.status == 'ok']
  counted = []
  for verdict in verdicts:
    with contextlib.suppress(ValueError):  # The script has no file of it.
      counted.append(read_as_paper(verdict.reply))
  return Summary(
    of_all=_mean(
      [bool(verdict.correct) for verdict in verdicts],
      [verdict.score or 0.0 for verdict in verdicts],
    ),
    of_valid=_mean(
      [verdict.correct for verdict in valid],
      [verdict.score for verdict in valid],
    ),
    as_paper=_mean(
      [reading.correct for reading in counted if reading.correct is not None],
      [reading.score for reading in counted],
    ),
  )


def _mean(correct: Sequence[bool], points: Sequence[float]) -> Mean:
  return Mean(
    float(np.mean(correct)) if correct else None,
    float(np.mean(points)) if points else None,
    len(correct),
    len(points),
  )


def _mean_of_means(means: Sequence[Mean]) -> Mean:
  accuracies = [m.accuracy for m in means if m.accuracy is not None]
  points = [m.score for m in means if m.score is not None]
  return _mean(accuracies, points)._replace(
    n_accuracy=sum(m.n_accuracy for m in means),
    n_score=sum(m.n_score for m in means),
  )
