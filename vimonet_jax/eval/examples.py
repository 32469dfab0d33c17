"""Examples of success and failure, chosen by rule and not by hand."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from vimonet_jax.eval import benchmarks, judge, run
from vimonet_jax.motion import features

# Says nothing about a checkpoint, so that all of them show the same questions
# as far as they answer alike.
SEED = 0
MAX_CAPTIONS = 12
RULE = (
  'Chosen by rule: of each domain the first right and the first wrong answer, '
  f'in an order that a hash of the question’s id and the seed {SEED} gives, '
  'which is the same for every checkpoint. Answers that failed are no '
  'examples, and neither are those whose media cannot be shown here. Captions '
  f'are not judged: the first {MAX_CAPTIONS} in that order.'
)


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
  """An answer, with what was shown and what is said about it.

  Attributes:
    benchmark: in tables.
    domain: of the question.
    input: a key of benchmarks.INPUTS.
    clip: which record of the benchmark was shown.
    joints: [T, 22, 3] metres; None where no motion was shown.
    frames: uint8 [I, H, W, 3]; None where no video was shown.
    question: as it was asked.
    history: earlier turns, (question, answer) each.
    reference: the right answer.
    answer: what the model wrote.
    correct: None for a caption.
    judge: who says so.
    score: 0 to 5; None for a caption.
  """

  benchmark: str
  domain: str
  input: str
  clip: int
  joints: np.ndarray | None
  frames: np.ndarray | None
  question: str
  history: tuple[tuple[str, str], ...]
  reference: str
  answer: str
  correct: bool | None = None
  judge: str = ''
  score: float | None = None


def judged(
  benchmark: benchmarks.Benchmark, verdicts: Sequence[Mapping]
) -> list[Example]:
  """At most two of each domain, by `RULE`.

  Where a language model judged too, its verdicts count, else those of the
  benchmark's first rule.

  Args:
    benchmark: that was asked.
    verdicts: lines of its file; see verdicts_file.write.
  """
  names = list(dict.fromkeys(line['by'] for line in verdicts))
  experts = [name for name in names if name not in benchmark.rules]
  by = (experts or names or [''])[0]
  said = {run.key(line): line for line in verdicts if line['by'] == by}
  found = []
  in_order = _in_order(benchmark)
  domains = dict.fromkeys(item.domain for item in benchmark.items)
  for domain in domains:
    for wanted in (True, False):
      candidates = (
        (item, said[item.key])
        for item in in_order
        if item.domain == domain and _is(said.get(item.key), wanted)
      )
      found += _first(benchmark, candidates, 1)
  return found


def captions(
  benchmark: benchmarks.Benchmark, lines: Mapping[tuple, run.Line]
) -> list[Example]:
  """The first ones by `RULE`, each about another clip.

  Args:
    benchmark: that was asked.
    lines: of the model, by key.
  """
  candidates, seen = [], set()
  for item in _in_order(benchmark):
    line = lines.get(item.key, {'error': 'no answer'})
    if 'error' not in line and item.position not in seen:
      seen.add(item.position)
      candidates.append((item, line))
  return list(_first(benchmark, candidates, MAX_CAPTIONS))


def _in_order(benchmark: benchmarks.Benchmark) -> list[benchmarks.Item]:
  return benchmarks.shuffled(benchmarks.fullest(benchmark.items), SEED)


def _is(line: Mapping | None, wanted: bool) -> bool:
  there = line is not None and line['status'] in ('ok', judge.UNPARSED)
  return there and bool(line['correct']) is wanted


def _first(benchmark, candidates, number: int) -> Iterator[Example]:
  """As many of the first as can be shown."""
  for item, line in candidates:
    if number == 0:
      return
    shown = _shown(item, benchmark)
    if shown is None:
      continue
    number -= 1
    yield Example(
      item.benchmark,
      item.domain,
      item.input,
      item.media_position,
      *shown,
      item.question,
      item.history,
      item.reference,
      line['text'],
      line.get('correct'),
      line.get('judge', ''),
      line.get('score'),
    )


def _shown(item: benchmarks.Item, benchmark: benchmarks.Benchmark):
  """Joints and frames that the item shows; None where they are not there."""
  if item.media_position in benchmark.missing:
    return None
  kept = benchmarks.INPUTS[item.input]
  try:
    record = benchmark.records[item.media_position]
  except (OSError, ValueError):  # Missing or damaged by now.
    return None
  joints = frames = None
  if 'motion' in kept:
    joints = record.joints
    if joints is None and record.motion is not None:
      joints = features.recover(record.motion)
  if 'video' in kept:
    frames = record.frames
  has = {'motion': joints is not None, 'video': frames is not None}
  return (joints, frames) if all(has[name] for name in kept) else None
