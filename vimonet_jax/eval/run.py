"""Engine x items x judge -> a file of predictions and rows of scores.

Predictions come first, one line an answer, so that a run that was killed goes
on where it was, and so that judging can be repeated without the model.
"""

import collections
import dataclasses
import itertools
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from vimonet_jax import cluster
from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import benchmarks, judge, scores
from vimonet_jax.infer import generate

Line = dict[str, Any]

# Who answered, where baselines of captions stand beside the model.
MODEL = 'model'
# What tells an item, and so a line, from all others.
_KEY = ('benchmark', 'id', 'input', 'corruption', 'seed')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Who answers, and how: answers of other settings are other answers.

  Attributes:
    fingerprint: of the weights that answer.
    config_hash: of the configuration that they were trained with.
    sampling: a dataclass of generate; greedy needs no second run.
    max_new_tokens: longest answer.
  """

  fingerprint: str
  config_hash: str
  sampling: Any = generate.GREEDY
  max_new_tokens: int = 24

  def columns(self) -> Line:
    """What a line of these settings holds besides item and text."""
    return {
      'decoding': {
        **dataclasses.asdict(self.sampling),
        'max_new_tokens': self.max_new_tokens,
      },
      'fingerprint': self.fingerprint,
      'config_hash': self.config_hash,
    }


# --- Predictions -------------------------------------------------------------


def predict(
  engine: Any,
  items: Sequence[benchmarks.Item],
  records: Sequence[records_lib.Record],
  path: str,
  *,
  settings: Settings,
  rows: int = 64,
  progress: bool = True,
) -> list[Line]:
  """Asks the engine every item that the file has no answer to.

  Several processes ask together, and the first one writes. A SIGTERM to one of
  them stops all between two batches, with SystemExit.

  A line holds id, benchmark, input, corruption and seed of the item, the
  generated text, the settings of decoding, the checkpoint's fingerprint and the
  configuration's hash. Lines of other checkpoints or settings stay in the file
  and are not looked at; a last line that a kill cut short is asked again.

  Args:
    engine: has `answer` as engine.Engine.
    items: what to ask; their order is that of the result.
    records: that the items' positions count in.
    path: JSON lines; is made, or gone on with.
    settings: of the engine's weights, and how it answers.
    rows: how many records go to the engine at once, all with the same media;
      it has no more in memory.
    progress: draw a progress bar.

  Returns:
    One line for each item.
  """
  columns = settings.columns()
  # All must ask the same, so none may write while others read.
  done = cluster.in_turn(path, lambda: answered(path, settings))
  pending = [item for item in items if item.key not in done]
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  with (
    open(
      path if cluster.is_first() else os.devnull,
      'a',
      encoding='utf-8',
      buffering=1,
    ) as f,
    tqdm.tqdm(
      desc='answers',
      total=len(items),
      initial=len(items) - len(pending),
      disable=not (progress and cluster.is_first()),
      dynamic_ncols=True,
    ) as bar,
  ):
    for asked, prompts in _groups(pending, records, rows):
      cluster.stop_if_told()
      texts = engine.answer(
        prompts,
        sampling=settings.sampling,
        max_new_tokens=settings.max_new_tokens,
        max_rows=rows,
      )
      for line in as_predictions(asked, texts):
        line |= columns
        f.write(json.dumps(line, ensure_ascii=False) + '\n')
        done[key(line)] = line
      bar.update(len(asked))
  return [done[item.key] for item in items]


def answered(path: str, settings: Settings) -> dict[tuple, Line]:
  """The lines of a file that these settings gave, by `key`."""
  columns = settings.columns()
  return {
    key(line): line
    for line in read_predictions(path)
    if all(line.get(name) == value for name, value in columns.items())
  }


def read_predictions(path: str) -> list[Line]:
  """The lines of a file, none where there is no file.

  A last line without its end is cut off, in the file as well, so that the next
  answer starts on a line of its own.
  """
  if not os.path.exists(path):
    return []
  with open(path, 'rb+') as f:
    f.truncate(f.read().rfind(b'\n') + 1)
  return list(records_lib.read_json_lines(path))


def as_predictions(
  items: Sequence[benchmarks.Item], texts: Sequence[str]
) -> list[Line]:
  """Texts, from an engine or a baseline, as lines that can be scored."""
  if len(texts) != len(items):
    raise ValueError(
      f'Expected one answer for each item, found {len(texts)} answers for '
      f'{len(items)} items.'
    )
  return [
    {
      'id': item.id,
      'benchmark': item.benchmark,
      'input': item.input,
      'corruption': item.corruption,
      'seed': item.seed,
      'text': text,
    }
    for item, text in zip(items, texts, strict=True)
  ]


def key(line: Line) -> tuple[str, str, str, str, int]:
  """The key of the item that a line answers."""
  return tuple(line[name] for name in _KEY)


def _groups(items, records, rows: int):
  """(items, prompts) of the same media shapes, at most `rows` at a time.

  Items of one input are looked at a few batches at a time: media are large, and
  answers should reach the file soon. Within that, clips of like length meet.
  """
  for _, same in itertools.groupby(
    sorted(items, key=lambda item: item.input), key=lambda item: item.input
  ):
    for window in _batched(same, 4 * rows):
      pairs = [
        (item, benchmarks.prompt_record(item, records)) for item in window
      ]
      pairs.sort(key=lambda pair: (_media(pair[1]), _length(pair[1])))
      for _, alike in itertools.groupby(pairs, key=lambda p: _media(p[1])):
        for batch in _batched(alike, rows):
          yield [item for item, _ in batch], [prompt for _, prompt in batch]


def _media(record: records_lib.Record) -> tuple:
  frames = () if record.frames is None else record.frames.shape
  return record.motion is not None, frames


def _length(record: records_lib.Record) -> int:
  return 0 if record.motion is None else len(record.motion)


def _batched(things, size: int):
  things = iter(things)
  while batch := list(itertools.islice(things, size)):
    yield batch


# --- Scores ------------------------------------------------------------------


class _Answer(NamedTuple):
  item: benchmarks.Item
  text: str
  verdict: judge.Verdict
  fingerprint: str


def verdicts(
  items: Sequence[benchmarks.Item], predictions: Sequence[Line]
) -> list[judge.Verdict]:
  """What the rule judge says about each item; `failed` without an answer."""
  return [answer.verdict for answer in _answers(items, predictions)]


def write_verdicts(
  path: str, items: Sequence[benchmarks.Item], predictions: Sequence[Line]
) -> None:
  """Writes what the judge said, a JSON line an item, in the items' order.

  A line has the item's id, benchmark, input, corruption and seed, and correct,
  score, status, judge and reply of `judge.Verdict`.
  """
  lines = [
    {
      **dict(zip(_KEY, item.key, strict=True)),
      **dataclasses.asdict(verdict),
    }
    for item, verdict in zip(items, verdicts(items, predictions), strict=True)
  ]
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  records_lib.write_json_lines(f'{path}.part', lines)
  os.replace(f'{path}.part', path)


def score(
  items: Sequence[benchmarks.Item], predictions: Sequence[Line]
) -> list[scores.Row]:
  """Rows for scores.json: one a domain, `all` and `macro`, of each variant.

  A row has benchmark, split, input, corruption, domain; accuracy (0 to 1) and
  score (0 to 5), where an answer that failed is wrong and counts 0; n answers,
  n_failed of them failed; low and high, the 95 % interval of the accuracy;
  judge and fingerprint; accuracy_valid, where answers that failed do not count,
  over answers also for `macro`. A domain also has kinds: accuracy and n by kind
  of question. `all` is the mean over answers, `macro` the mean over domains.

  Where the clean items of the same input are there as well, a corrupted row
  has, over the questions that both have,

      drop_points       clean minus corrupted accuracy, percentage points
      drop_points_low, drop_points_high             its 95 % interval
      drop_percent      the same in percent of the clean accuracy, or None
      changed           share of answers that are another text, 0 to 1

  Intervals of `macro` and of drops come from drawing records with all that is
  asked about them, since questions about one clip fail together; the same draw
  serves both sides of a drop. The others are Wilson's, which also hold where
  every answer is right, and every draw would be the same.

  Args:
    items: scored by `judged`; several seeds of an item share its row.
    predictions: one line an item, joined by id and variant, never by place.
  """
  variants = collections.defaultdict(list)
  for answer in _answers(items, predictions):
    variants[_variant(answer.item)].append(answer)
  rows = []
  for variant, answers in variants.items():
    found = _rows(variant, answers)
    if variant[-1] != benchmarks.CLEAN:
      clean = variants.get((*variant[:-1], benchmarks.CLEAN), ())
      for domain, drop in _drops(clean, answers).items():
        found[domain] |= drop
    rows += found.values()
  return rows


def caption_rows(
  items: Sequence[benchmarks.Item],
  predictions: Sequence[Line],
  *,
  system: str = MODEL,
) -> list[scores.Row]:
  """Rows of BLEU_1 ... BLEU_4, ROUGE_L and CIDEr, one a variant and domain.

  Accuracy and score are None. An answer that failed stays, as an empty text.

  Args:
    items: scored by `caption`.
    predictions: one line an item; see `as_predictions` for baselines.
    system: who answered, for the table.
  """
  groups = collections.defaultdict(list)
  for answer in _answers(items, predictions):
    groups[(*_variant(answer.item), answer.item.domain)].append(answer)
  return [
    {
      **_row(variant, domain, answers, accuracy=None, score=None),
      'system': system,
      **judge.caption_metrics(
        [answer.text for answer in answers],
        [answer.item.references for answer in answers],
      ),
    }
    for (*variant, domain), answers in groups.items()
  ]


def _variant(item: benchmarks.Item) -> tuple[str, str, str, str]:
  return (item.benchmark, item.split, item.input, item.corruption)


def _answers(items, predictions) -> list[_Answer]:
  """Each item with its answer; an empty text where there is none."""
  lines = {}
  for line in predictions:
    if lines.setdefault(key(line), line) is not line:
      raise ValueError(
        f'Expected one prediction for each item, found two for {key(line)}; '
        'score one checkpoint at a time, as predict() returns it.'
      )
  answers = []
  for item in items:
    line = lines.get(item.key, {})
    text = line.get('text', '')
    verdict = judge.judge(
      item.id,
      text,
      item.reference,
      question=item.question,
      fact=item.fact,
      choices=item.choices,
    )
    answers.append(_Answer(item, text, verdict, line.get('fingerprint', '')))
  return answers


def _row(variant, domain: str, answers, *, accuracy, score) -> scores.Row:
  """The columns that every row has."""
  columns = ('benchmark', 'split', 'input', 'corruption')
  return {
    **dict(zip(columns, variant, strict=True)),
    'domain': domain,
    'accuracy': accuracy,
    'score': score,
    'n': len(answers),
    'n_failed': sum(answer.verdict.status != 'ok' for answer in answers),
    'judge': judge.JUDGE,
    'fingerprint': '+'.join(sorted({a.fingerprint for a in answers} - {''})),
  }


def _rows(variant, answers: Sequence[_Answer]) -> dict[str, scores.Row]:
  """Domain -> row."""
  accuracies = _means(answers, _correct(answers))
  points = _means(answers, [a.verdict.score or 0.0 for a in answers])
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
      row['low'], row['high'] = scores.interval(accuracy)
    else:
      num_items = len({answer.item.id for answer in some})
      row['low'], row['high'] = scores.wilson(float(accuracy[0]), num_items)
    if domain not in sums:
      row['kinds'] = _kinds(some)
    valid = [a for a in some if a.verdict.status == 'ok']
    row['accuracy_valid'] = float(np.mean(_correct(valid))) if valid else None
    rows[domain] = row
  return rows


def _kinds(answers: Sequence[_Answer]) -> dict[str, scores.Row]:
  found = {}
  for kind in sorted({answer.item.kind for answer in answers}):
    right = _correct([a for a in answers if a.item.kind == kind])
    found[kind] = {'accuracy': float(np.mean(right)), 'n': len(right)}
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
  return found


def _correct(answers: Sequence[_Answer]) -> list[bool]:
  return [bool(answer.verdict.correct) for answer in answers]


def _means(answers: Sequence[_Answer], values) -> dict[str, np.ndarray]:
  return scores.means(
    values,
    domains=[answer.item.domain for answer in answers],
    records=[answer.item.position for answer in answers],
  )
