"""Items x predictions x judges -> verdicts and rows of scores.

Every judge looks at the same answers, and its rows carry its name: verdicts of
two judges are never added up.
"""

import collections
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vimonet_jax import fingerprint
from vimonet_jax.eval import benchmarks, changes, judge, run, scores

MODEL = scores.MODEL

# What a judge is: asked about many answers at once, since some are services.
Judge = Callable[
  [Sequence[benchmarks.Item], Sequence[str]], Sequence[judge.Verdict]
]

# Of the answers that have not failed.
_OF_VALID = ('accuracy_valid', 'low_valid', 'high_valid', 'score_valid')


class _Answer(NamedTuple):
  item: benchmarks.Item
  text: str
  verdict: judge.Verdict
  fingerprint: str


def by_rule(rule: benchmarks.Rule) -> Judge:
  """A judge that looks at one answer after the other."""
  return lambda items, texts: list(map(rule, items, texts))


RULES = {judge.JUDGE: by_rule(benchmarks.by_rules)}


def verdicts(
  items: Sequence[benchmarks.Item],
  predictions: Sequence[run.Line],
  judged: Judge = RULES[judge.JUDGE],
) -> list[judge.Verdict]:
  """What a judge says about each item, in their order.

  Without an answer it is not asked: the item has `failed`, or what its line
  says as `status`. Lines are joined by
  `run.key`, never by place.
  """
  lines = run.by_key(predictions)
  found = [lines.get(item.key, {'error': 'no answer'}) for item in items]
  there = [i for i, line in enumerate(found) if 'error' not in line]
  said = judged([items[i] for i in there], [found[i]['text'] for i in there])
  given = dict(zip(there, said, strict=True))
  return [
    given.get(
      i, judge.Verdict(item.id, None, None, found[i].get('status', 'failed'))
    )
    for i, item in enumerate(items)
  ]


def score(
  items: Sequence[benchmarks.Item],
  predictions: Sequence[run.Line],
  found: Sequence[judge.Verdict],
  *,
  judged_by: str = judge.JUDGE,
  system: str = MODEL,
) -> list[scores.Row]:
  """Rows for scores.json: one a domain, `all` and `macro`, of each variant.

  A row has benchmark, split, input, corruption, reading, domain, judge and
  system; accuracy (0 to 1) and score (0 to 5), where an answer that failed is
  wrong and counts 0; n answers, n_failed of them failed and n_unparsed of them
  saying nothing that the judge's rule could read; low and high, the 95 %
  interval of the accuracy; fingerprint; accuracy_valid with low_valid and
  high_valid, and score_valid, where answers that failed do not count; digests
  of the variant's `questions` and `answers`, by which rows of two runs are
  compared. A domain also has kinds: accuracy and n by kind of question. `all`
  is the mean over answers, `macro` the mean over domains. The items' slices
  have rows like domains, which are in no sum. Where all items know what
  guessing gets, rows have chance, too.

  Where the clean items of the same input are there as well, a corrupted row
  has, over the questions that both have,

      drop_points       clean minus corrupted accuracy, percentage points
      drop_points_low, drop_points_high             its 95 % interval
      drop_percent      the same in percent of the clean accuracy, or None
      changed           share of answers that are another text, 0 to 1

  Intervals of `macro` and of drops come from drawing records with all that is
  asked about them, since questions about one clip fail together; the same draw
  serves both sides of a drop. The others are Wilson's, which also hold where
  every answer is right, of scores.effective_number of answers.

  Args:
    items: several seeds of an item share its row, and count as one answer in
      all means.
    predictions: one line an item, joined by id and variant, never by place.
    found: the verdicts, in the items' order.
    judged_by: the judge's name in the table.
    system: who answered.
  """
  lines = run.by_key(predictions)
  variants = collections.defaultdict(list)
  for item, verdict in zip(items, found, strict=True):
    line = lines.get(item.key, {})
    answer = _Answer(
      item, line.get('text', ''), verdict, line.get('fingerprint', '')
    )
    variants[_variant(item)].append(answer)
  rows = []
  for variant, answers in variants.items():
    by_domain = _rows(variant, answers)
    judged = _digests(answers)
    if variant.corruption != benchmarks.CLEAN:
      clean = variants.get(variant._replace(corruption=benchmarks.CLEAN), ())
      for domain, drop in _drops(clean, answers).items():
        by_domain[domain] |= drop
    rows += [row | judged for row in by_domain.values()]
  return [{**row, 'judge': judged_by, 'system': system} for row in rows]


def caption_rows(
  items: Sequence[benchmarks.Item],
  predictions: Sequence[run.Line],
  *,
  system: str = MODEL,
) -> list[scores.Row]:
  """Rows of BLEU_1 ... BLEU_4, ROUGE_L and CIDEr, one a variant and domain.

  Accuracy and score are None. An answer that failed stays, as an empty text.

  Args:
    items: of captions.
    predictions: one line an item; see `run.as_predictions` for baselines.
    system: who answered, for the table.
  """
  lines = run.by_key(predictions)
  groups = collections.defaultdict(list)
  for item in items:
    line = lines.get(item.key, {})
    text = line.get('text', '')
    verdict = judge.Verdict(item.id, None, None, 'ok' if text else 'failed')
    groups[_variant(item), item.domain].append(
      _Answer(item, text, verdict, line.get('fingerprint', ''))
    )
  return [
    {
      **_row(variant, domain, answers, accuracy=None, score=None),
      'system': system,
      **judge.caption_metrics(
        [answer.text for answer in answers],
        [answer.item.references for answer in answers],
      ),
    }
    for (variant, domain), answers in groups.items()
  ]


class _Variant(NamedTuple):
  benchmark: str
  split: str
  input: str
  corruption: str
  reading: str


def _variant(item: benchmarks.Item) -> _Variant:
  return _Variant(*(getattr(item, name) for name in _Variant._fields))


def _row(variant, domain: str, answers, *, accuracy, score) -> scores.Row:
  """The columns that every row has."""
  return {
    **variant._asdict(),
    'domain': domain,
    'accuracy': accuracy,
    'score': score,
    'n': len(answers),
    'n_failed': len(answers) - len(_valid(answers)),
    'n_unparsed': sum(a.verdict.status == judge.UNPARSED for a in answers),
    'fingerprint': '+'.join(sorted({a.fingerprint for a in answers} - {''})),
  }


def _digests(answers: Sequence[_Answer]) -> scores.Row:
  """What judges were told, whatever its order."""
  asked = {(a.item.id, a.item.question, a.item.references) for a in answers}
  given = {(a.item.id, a.item.seed, a.text) for a in answers}
  return {
    'questions': fingerprint.digest(repr(sorted(asked))),
    'answers': fingerprint.digest(repr(sorted(given))),
  }


def _valid(answers: Sequence[_Answer]) -> list[_Answer]:
  """Those that there is a verdict on."""
  return [a for a in answers if a.verdict.status in ('ok', judge.UNPARSED)]


def _rows(variant, answers: Sequence[_Answer]) -> dict[str, scores.Row]:
  """Domain -> row."""
  accuracies = _means(answers, _correct(answers))
  points = _means(answers, _points(answers))
  knows_chance = None not in _chances(answers)
  chances = _means(answers, _chances(answers)) if knows_chance else {}
  sums = (scores.ALL, scores.MACRO)
  rows = {}
  for domain, accuracy in accuracies.items():
    some = [a for a in answers if domain in (a.item.domain, *sums)]
    row = _row(
      variant,
      domain,
      some,
      accuracy=float(accuracy[0]),
      score=float(points[domain][0]),
    )
    if domain == scores.MACRO:
      row['low'], row['high'] = _drawn(accuracy, some)
    else:
      row['low'], row['high'] = _wilson(row['accuracy'], some)
    if domain not in sums:
      row['kinds'] = _kinds(some)
    if knows_chance:
      row['chance'] = float(chances[domain][0])
    of_valid = _of_valid_macro if domain == scores.MACRO else _of_valid
    rows[domain] = row | of_valid(some)
  slices = {name for answer in answers for name in answer.item.slices}
  # 'after', 'before', ... and then 'action/after', ...
  for name in sorted(slices, key=lambda name: (name.count('/'), name)):
    some = [a for a in answers if name in a.item.slices]
    row = _row(
      variant,
      name,
      some,
      accuracy=_mean(some, _correct(some)),
      score=_mean(some, _points(some)),
    )
    row['low'], row['high'] = _wilson(row['accuracy'], some)
    if knows_chance:
      row['chance'] = _mean(some, _chances(some))
    rows[name] = row | _of_valid(some)
  return rows


def _wilson(share: float, answers: Sequence[_Answer]) -> tuple[float, float]:
  """Of as many answers as there would be if they knew nothing of each other."""
  items, values = _by_item(answers, _correct(answers))
  number = scores.effective_number(values, [item.position for item in items])
  return scores.wilson(share, number)


def _drawn(
  mean: np.ndarray, answers: Sequence[_Answer]
) -> tuple[float, float]:
  """Of a mean of domains, by its draws."""
  if np.nanstd(mean[1:]) > 0:
    return scores.interval(mean)
  # Where all draws are alike, they do not know how sure that is.
  return _wilson(float(mean[0]), answers)


def _of_valid(answers: Sequence[_Answer]) -> scores.Row:
  """Means over the answers that there is a verdict on."""
  valid, rated = _valid(answers), _rated(answers)
  if not valid:
    return dict.fromkeys(_OF_VALID)
  accuracy = _mean(valid, _correct(valid))
  low, high = _wilson(accuracy, valid)
  score = _mean(rated, _points(rated)) if rated else None
  return dict(zip(_OF_VALID, (accuracy, low, high, score), strict=True))


def _of_valid_macro(answers: Sequence[_Answer]) -> scores.Row:
  """The same of domains; those without such an answer are in no mean."""
  valid, rated = _valid(answers), _rated(answers)
  if not valid:
    return dict.fromkeys(_OF_VALID)
  mean = _means(valid, _correct(valid))[scores.MACRO]
  low, high = _drawn(mean, valid)
  score = None
  if rated:
    score = float(_means(rated, _points(rated))[scores.MACRO][0])
  values = (float(mean[0]), low, high, score)
  return dict(zip(_OF_VALID, values, strict=True))


def _rated(answers: Sequence[_Answer]) -> list[_Answer]:
  """Those that a verdict gives a score."""
  return [a for a in _valid(answers) if a.verdict.score is not None]


def _kinds(answers: Sequence[_Answer]) -> dict[str, scores.Row]:
  found = {}
  for kind in sorted({answer.item.kind for answer in answers}):
    some = [a for a in answers if a.item.kind == kind]
    accuracy = _mean(some, _correct(some))
    found[kind] = {'accuracy': accuracy, 'n': len(some)}
  return found


def _drops(clean: Sequence[_Answer], answers) -> dict[str, scores.Row]:
  """Domain -> what the corruption costs, of the questions that both have."""
  by_id = {answer.item.id: answer for answer in clean}
  after = [answer for answer in answers if answer.item.id in by_id]
  before = [by_id[answer.item.id] for answer in after]
  if not after:
    return {}
  clean_means = _means(before, _correct(before))
  means = _means(after, _correct(after))
  changed = _means(
    after, [a.text != b.text for a, b in zip(after, before, strict=True)]
  )
  found = {}
  for domain, mean in clean_means.items():
    drop = 100 * (mean - means[domain])
    low, high = scores.interval(drop)
    found[domain] = {
      'drop_points': float(drop[0]),
      'drop_points_low': low,
      'drop_points_high': high,
      'drop_percent': float(drop[0] / mean[0]) if mean[0] else None,
      'changed': float(changed[domain][0]),
    }
    if after[0].item.corruption == changes.ROTATED:
      # The same option has another letter.
      found[domain]['changed'] = None
  return found


def _correct(answers: Sequence[_Answer]) -> list[bool]:
  return [bool(answer.verdict.correct) for answer in answers]


def _points(answers: Sequence[_Answer]) -> list[float]:
  return [answer.verdict.score or 0.0 for answer in answers]


def _chances(answers: Sequence[_Answer]) -> list[float | None]:
  return [answer.item.chance for answer in answers]


def _by_item(
  answers: Sequence[_Answer], values: Sequence[float]
) -> tuple[list[benchmarks.Item], list[float]]:
  """The items and, for each, the mean over its seeds."""
  items, seeds = {}, collections.defaultdict(list)
  for answer, value in zip(answers, values, strict=True):
    items.setdefault(answer.item.id, answer.item)
    seeds[answer.item.id].append(value)
  return list(items.values()), [float(np.mean(seeds[id])) for id in items]


def _mean(answers: Sequence[_Answer], values: Sequence[float]) -> float:
  return float(np.mean(_by_item(answers, values)[1]))


def _means(answers: Sequence[_Answer], values) -> dict[str, np.ndarray]:
  items, values = _by_item(answers, values)
  return scores.means(
    values,
    domains=[item.domain for item in items],
    records=[item.position for item in items],
  )
