"""Rows of scores: their means, their intervals, and their file.

scores.json is a list of rows. Each has the columns of `KEY` (no judge where
captions are measured), accuracy, score, n and n_failed, and more: see
scoring.score; where records of the data are damaged, n_damaged of them, about
which nothing is asked.
"""

import json
import os
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]

KEY = (
  'benchmark', 'split', 'input', 'corruption', 'reading', 'domain', 'judge',
  'system',
)  # fmt: skip
# Domains of rows that sum up a benchmark: all answers alike, and all domains
# alike. Published tables mix the two without saying so.
ALL = 'all'
MACRO = 'macro'
METRICS = ('BLEU_1', 'BLEU_2', 'BLEU_3', 'BLEU_4', 'ROUGE_L', 'CIDEr')

# Whose answers they are, where others stand beside them.
MODEL = 'model'

_DRAWS = 1000


def means(
  values: Sequence[float],
  *,
  domains: Sequence[str],
  records: Sequence[Hashable],
) -> dict[str, np.ndarray]:
  """Means by domain, over `all` values, and of the domains' means (`macro`).

  Each mean is an array: first the mean itself, then that of each of 1000 draws
  of as many records, with replacement; NaN where a draw has none of a domain.
  Values about the same records get the same draws, so that the difference of
  two means has draws too.

  Args:
    values: one an answer.
    domains: of each answer.
    records: what each answer is about. Records are drawn, and not answers,
      since questions about one clip fail together.
  """
  names = list(dict.fromkeys(domains))
  places = {record: i for i, record in enumerate(sorted(set(records)))}
  num = len(places)
  sums, counts = np.zeros((2, num, len(names)))
  for value, domain, record in zip(values, domains, records, strict=True):
    cell = places[record], names.index(domain)
    sums[cell] += value
    counts[cell] += 1
  times = np.random.default_rng(0).multinomial(
    num, np.full(num, 1 / num), size=_DRAWS
  )
  times = np.concatenate([np.ones((1, num)), times])
  sums, counts = times @ sums, times @ counts
  with np.errstate(invalid='ignore'):
    shares = sums / counts
  return {
    **dict(zip(names, shares.T, strict=True)),
    ALL: sums.sum(axis=1) / counts.sum(axis=1),
    MACRO: np.nanmean(shares, axis=1),
  }


def interval(mean: np.ndarray) -> tuple[float, float]:
  """What holds 95 % of the draws of one of `means`, or of a difference."""
  low, high = np.nanpercentile(mean[1:], [2.5, 97.5])
  return float(low), float(high)


def wilson(share: float, n: float) -> tuple[float, float]:
  """95 % interval of a share of n answers (Wilson 1927)."""
  z = 1.96
  middle = share + z**2 / (2 * n)
  half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
  low, high = np.array([middle - half, middle + half]) / (1 + z**2 / n)
  # Rounding must not leave the share itself outside.
  return max(min(float(low), share), 0.0), min(max(float(high), share), 1.0)


def effective_number(
  values: Sequence[float], clusters: Sequence[Hashable]
) -> float:
  """How many independent answers tell as much about a share as these do.

  Answers about one clip are right and wrong together: of ten questions about
  each of 80 videos it is 800 where they know nothing of each other and 80 where
  they all agree (Kish's design effect, from residuals summed by cluster).

  Args:
    values: 0 to 1, one an answer.
    clusters: what each is about.
  """
  mean = float(np.mean(values))
  sums: dict[Hashable, float] = {}
  for value, cluster in zip(values, clusters, strict=True):
    sums[cluster] = sums.get(cluster, 0.0) + value - mean
  spread = sum(x**2 for x in sums.values())
  alone = sum((value - mean) ** 2 for value in values)
  if not spread > 1e-12 * len(values):
    # All alike, or all clusters alike.
    return float(len(sums)) if alone < 1e-12 else float(len(values))
  return min(float(len(values)), len(values) * alone / spread)


def paid_before(
  known: Sequence[Row], rows: Sequence[Row]
) -> tuple[list[Row], list[Row]]:
  """Rows that were paid for and that new ones of their benchmark are not.

  Args:
    known: of a file.
    rows: that are to take the place of those of their benchmarks.

  Returns:
    Those that are true beside the new ones: questions and answers are the same,
    or the questions, where another system answered whom nobody judged now. And
    the others, which are not.
  """
  replaced = {_key(row) for row in rows}
  by_way = {_way(row): row for row in rows}
  asked = {(_test(row), row.get('questions')) for row in rows}
  tests = set(map(_test, rows))
  still, gone = [], []
  for row in known:
    is_left = _test(row) in tests and _key(row) not in replaced
    if not (row.get('is_paid') and is_left):
      continue
    if new := by_way.get(_way(row)):
      is_true = all(row[x] == new.get(x) for x in ('questions', 'answers'))
    else:
      is_true = row['system'] != MODEL
      is_true = is_true and (_test(row), row['questions']) in asked
    (still if is_true else gone).append(row)
  return still, gone


def write(path: str, rows: Sequence[Row]) -> list[Row]:
  """Puts rows into a file in place of those of their benchmarks; returns all.

  A benchmark's rows are compared with each other, so all of them come from one
  run and one setting, or are as true of it (`paid_before`). A process that is
  killed leaves the old file or the new one, never a half.
  """
  written = set(map(_test, rows))
  merged = {
    _key(row): row for row in read(path) if _test(row) not in written
  }
  merged |= {_key(row): row for row in rows}
  lines = ',\n '.join(json.dumps(row) for row in merged.values())
  with open(f'{path}.part', 'w', encoding='utf-8') as f:
    f.write(f'[{lines}]\n')
  os.replace(f'{path}.part', path)
  return list(merged.values())


def read(path: str) -> list[Row]:
  """The rows of a file, none where there is no file."""
  if not os.path.exists(path):
    return []
  with open(path, encoding='utf-8') as f:
    return json.load(f)


def _key(row: Row) -> tuple:
  return tuple(row.get(name) for name in KEY)


def _test(row: Row) -> tuple:
  return row['benchmark'], row['split']


def _way(row: Row) -> tuple:
  """Who answered what, whoever judged it."""
  left = (name for name in KEY if name not in ('domain', 'judge'))
  return tuple(row.get(name) for name in left)
