"""Runs that differ in one thing, compared question by question.

A study has rows: what a run answers when it is shown something. Verdicts of
several runs are joined by the id of the question and by the seed that the run
was trained with, so a difference is between answers to the same questions by
models of the same luck. A claim is a sentence about differences, and their
intervals say whether it holds.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.eval import benchmarks, scores

# Domains of VIMOS-Synth by the media that an answer must be read from; of other
# benchmarks, items by the media that they show.
GROUPS = {
  ('motion',): 'of motion',
  ('video',): 'of video',
  ('motion', 'video'): 'of both',
}

Line = Mapping[str, Any]
# Run and the seed that it was trained with.
Trained = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of a study's table.

  Attributes:
    label: names it, for the reader and for other rows.
    run: whose answers.
    input: of benchmarks.INPUTS, what was shown.
    corruption: of changes.TOUCHED, what was done to it.
    against: label of the row that it is compared with; none if empty.
  """

  label: str
  run: str
  input: str = 'both'
  corruption: str = benchmarks.CLEAN
  against: str = ''


class Table(NamedTuple):
  """What one judge says of one benchmark.

  Attributes:
    benchmark: its name and split.
    judge: who judges.
    rows: label -> domain -> numbers, see `tables`; no domain where nothing was
      answered.
  """

  benchmark: str
  judge: str
  rows: Mapping[str, Mapping[str, dict[str, Any]]]


def check(rows: Sequence[Row]) -> None:
  """Raises a ValueError where a row is compared with none that there is."""
  labels = [row.label for row in rows]
  if twice := [x for x in labels if labels.count(x) > 1]:
    raise ValueError(
      f'Expected rows with labels of their own, found two of {twice[0]!r}.'
    )
  for row in rows:
    if row.against and row.against not in labels:
      raise ValueError(
        f'Expected row {row.label!r} against one of {", ".join(labels)}, found '
        f'{row.against!r}.'
      )


def tables(
  rows: Sequence[Row], verdicts: Mapping[Trained, Sequence[Line]]
) -> list[Table]:
  """What each judge says of each benchmark; judges are never mixed.

  The numbers of a row in a domain, in `scores.ALL`, scores.MACRO and those of
  GROUPS that it has:

      accuracy         0 to 1, mean over seeds of training and of noise
      low, high        its 95 % interval (Wilson's, for as many questions; of
                       `macro` by drawing records)
      score            0 to 5, likewise
      n                questions
      by_seed          seed of training -> accuracy

  and, over the questions and seeds that the compared row has as well,

      difference       to the compared row, percentage points
      difference_low, difference_high      its 95 % interval: records are drawn
      difference_by_seed                   seed of training -> points
      percent, percent_low, percent_high   the same in percent of the compared
                       row's accuracy; None where that has 0
      changed          share of answers that are another text, 0 to 1
      n_compared       questions

  Args:
    rows: see `check`.
    verdicts: lines of verdicts_file.write, of each run that has answered.

  Raises:
    ValueError: runs were asked other questions under the same id.
  """
  groups: dict[tuple, dict[Trained, list[Line]]] = {}
  for trained, lines in verdicts.items():
    for line in lines:
      if line['reading'] == benchmarks.GENERATED:
        name = f'{line["benchmark"]} {line["split"]}', line['by']
        by_run = groups.setdefault(name, collections.defaultdict(list))
        by_run[trained].append(line)
  found = []
  for (benchmark, judge), by_run in groups.items():
    _check_same(by_run)
    answers = {row.label: _answers(row, by_run) for row in rows}
    numbers = {}
    for row in rows:
      numbers[row.label] = _means(answers[row.label])
      for domain, difference in _differences(
        answers[row.label], answers.get(row.against)
      ).items():
        numbers[row.label][domain] |= difference
    found.append(Table(benchmark, judge, numbers))
  return found


# --- Answers -----------------------------------------------------------------


class _Asked(NamedTuple):
  """A question, as far as all who were asked it agree."""

  domain: str
  group: str
  record: int


class _Answers(NamedTuple):
  """What the runs of a row answered.

  Attributes:
    asked: id -> question; those that every seed of training was asked.
    right: seed of training -> id -> mean over the seeds of noise.
    points: the same of scores; what the judge gives none gets 0.
    texts: seed of training -> id -> seed of noise -> what was answered.
  """

  asked: dict[str, _Asked]
  right: dict[int, dict[str, float]]
  points: dict[int, dict[str, float]]
  texts: dict[int, dict[str, dict[int, str]]]


def _check_same(by_run: Mapping[Trained, Sequence[Line]]) -> None:
  """Raises a ValueError where an id is of two questions."""
  questions = {}
  for (run, seed), lines in by_run.items():
    for line in lines:
      asked = line['question']
      # The mirror image of a question is another one.
      known = questions.setdefault((line['corruption'], line['id']), asked)
      if known != asked:
        raise ValueError(
          f'Expected runs that were asked the same, found {line["id"]} of run '
          f'{run} with seed {seed} as {asked!r}, and before as {known!r}; '
          'compare runs of one dataset.'
        )


def _answers(row: Row, by_run: Mapping[Trained, Sequence[Line]]) -> _Answers:
  asked, right, points, texts = {}, {}, {}, {}
  for (run, seed), lines in by_run.items():
    wanted = [
      line for line in lines
      if (run, line['input'], line['corruption'])
      == (row.run, row.input, row.corruption)
    ]  # fmt: skip
    if not wanted:
      continue
    correct, scored = (collections.defaultdict(list) for _ in range(2))
    texts[seed] = collections.defaultdict(dict)
    for line in wanted:
      at = line['id']
      asked[at] = _Asked(line['domain'], _group(line), line['record'])
      correct[at].append(float(bool(line['correct'])))
      scored[at].append(line['score'] or 0.0)
      texts[seed][at][line['seed']] = line['text']
    right[seed] = {at: float(np.mean(x)) for at, x in correct.items()}
    points[seed] = {at: float(np.mean(x)) for at, x in scored.items()}
  common = [at for at in asked if all(at in x for x in right.values())]
  return _Answers({at: asked[at] for at in common}, right, points, texts)


def _means(answers: _Answers) -> dict[str, dict[str, Any]]:
  """Domain -> accuracy and what belongs to it."""
  ids = list(answers.asked)
  if not ids:
    return {}
  mean = _by_domain(answers.asked, _over_seeds(answers.right, ids), ids)
  points = _by_domain(answers.asked, _over_seeds(answers.points, ids), ids)
  by_seed = {
    seed: _by_domain(answers.asked, [right[at] for at in ids], ids)
    for seed, right in answers.right.items()
  }
  found = {}
  for domain, values in mean.items():
    n = len(_of(domain, answers.asked, ids))
    accuracy = float(values[0])
    if domain == scores.MACRO:
      low, high = scores.interval(values)
    else:
      low, high = scores.wilson(accuracy, n)
    found[domain] = {
      'accuracy': accuracy,
      'score': float(points[domain][0]),
      'low': low,
      'high': high,
      'n': n,
      'by_seed': {seed: float(x[domain][0]) for seed, x in by_seed.items()},
    }
  return found


def _differences(
  answers: _Answers, others: _Answers | None
) -> dict[str, dict[str, Any]]:
  """Domain -> how the answers differ from those of the compared row."""
  if others is None:
    return {}
  ids = [at for at in answers.asked if at in others.asked]
  seeds = [seed for seed in answers.right if seed in others.right]
  if not ids or not seeds:
    return {}
  ours = {seed: answers.right[seed] for seed in seeds}
  theirs = {seed: others.right[seed] for seed in seeds}
  asked = answers.asked
  mean = _by_domain(asked, _over_seeds(ours, ids), ids)
  before = _by_domain(asked, _over_seeds(theirs, ids), ids)
  by_seed = {
    seed: _by_domain(
      asked, [ours[seed][at] - theirs[seed][at] for at in ids], ids
    )
    for seed in seeds
  }
  changed = _by_domain(
    asked,
    [
      float(
        np.mean(
          [
            _changed(answers.texts[seed][at], others.texts[seed][at])
            for seed in seeds
          ]
        )
      )
      for at in ids
    ],
    ids,
  )
  found = {}
  for domain in mean:
    points = 100 * (mean[domain] - before[domain])
    low, high = scores.interval(points)
    found[domain] = {
      'difference': float(points[0]),
      'difference_low': low,
      'difference_high': high,
      'difference_by_seed': {
        seed: float(100 * x[domain][0]) for seed, x in by_seed.items()
      },
      **_percent(points, before[domain]),
      'changed': float(changed[domain][0]),
      'n_compared': len(_of(domain, asked, ids)),
    }
  return found


def _percent(points: np.ndarray, before: np.ndarray) -> dict[str, Any]:
  """Points in percent of what was right before."""
  if not before[0]:
    return dict.fromkeys(('percent', 'percent_low', 'percent_high'))
  with np.errstate(divide='ignore', invalid='ignore'):
    percent = np.where(before > 0, points / before, np.nan)
  low, high = scores.interval(percent)
  return {
    'percent': float(percent[0]), 'percent_low': low, 'percent_high': high
  }  # fmt: skip


def _changed(ours: Mapping[int, str], theirs: Mapping[int, str]) -> float:
  """Share of answers, one a seed of noise, that the other row has not."""
  clean = theirs[min(theirs)]  # What has no noise has one seed.
  return float(
    np.mean([text != theirs.get(seed, clean) for seed, text in ours.items()])
  )


def _over_seeds(
  values: Mapping[int, Mapping[str, float]], ids: Sequence[str]
) -> list[float]:
  return [float(np.mean([x[at] for x in values.values()])) for at in ids]


def _by_domain(
  asked: Mapping[str, _Asked], values: Sequence[float], ids: Sequence[str]
) -> dict[str, np.ndarray]:
  """scores.means by domain and by group; the same draws for the same ids."""
  records_of = [asked[at].record for at in ids]
  domains = [asked[at].domain for at in ids]
  found = scores.means(values, domains=domains, records=records_of)
  groups = [asked[at].group for at in ids]
  grouped = scores.means(values, domains=groups, records=records_of)
  names = [name for name in GROUPS.values() if name in grouped]
  return found | {name: grouped[name] for name in names}


def _group(line: Line) -> str:
  is_synthetic = line['benchmark'] == benchmarks.SYNTHETIC
  shown = benchmarks.INPUTS[line['input']]
  media = records.DOMAINS.get(line['domain']) if is_synthetic else shown
  return GROUPS.get(media, 'other')


def _of(
  domain: str, asked: Mapping[str, _Asked], ids: Sequence[str]
) -> list[str]:
  """The ids of a domain, a group or a sum."""
  if domain in (scores.ALL, scores.MACRO):
    return list(ids)
  return [at for at in ids if domain in (asked[at].domain, asked[at].group)]
