"""BABEL-QA as a benchmark: questions about the parts of a motion.

Models write an answer, which has to be the right one (`strict`, the headline)
or to name it and no other (`lenient`); or they choose the likeliest of all
answers to that type of question, as models of a closed vocabulary do. Rows are
by query type, by relation, by both, and of the two relations that published
tables call `other`.
"""

import collections
import functools
import os
import re
from collections.abc import Sequence

import numpy as np

from vimonet_jax.data import babel_questions
from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import benchmarks, judge, media

NAME = 'babel-qa'
# Published tables sum up the relations that are neither before nor after.
OTHER = 'other'
MAJORITY = 'majority of train'


def benchmark(
  questions: Sequence[babel_questions.Question],
  motions: str | os.PathLike,
  vocabulary: babel_questions.Vocabulary,
  *,
  split: str = 'test',
  train: Sequence[babel_questions.Question] = (),
  up: str | None = None,
) -> benchmarks.Benchmark:
  """The questions, written and chosen by likelihood, each about its motion.

  Args:
    questions: of one split.
    motions: the folder that has their motions, or some of them.
    vocabulary: the answers of each query type: what is chosen from, and what
      `lenient` must not find besides the right one.
    split: in tables.
    train: the training questions, for the majority row; none for no such row.
    up: the axis that is up, for the few motions whose body does not show it.

  Raises:
    FileNotFoundError: there is no such folder.
  """
  media.check_folder(motions, 'motions')
  names = list(dict.fromkeys(question.babel_id for question in questions))
  positions = {name: position for position, name in enumerate(names)}
  files, missing = {}, {}
  for name, position in positions.items():
    try:
      files[name] = babel_questions.find_motion(motions, name)
    except ValueError as e:
      missing[position] = str(e)
  written = [
    _item(question, positions[question.babel_id], vocabulary, split)
    for question in questions
  ]
  clips = [media.described(files.get(name), up) for name in names]
  written = benchmarks.with_clips(written, clips)
  return benchmarks.Benchmark(
    written + benchmarks.by_likelihood(written, lambda item: item.choices),
    benchmarks.Readers(
      [functools.partial(_record, motions, name, split, up) for name in names]
    ),
    {'strict': strict, 'lenient': lenient},
    missing,
    baselines={MAJORITY: _majority_texts(train, questions)} if train else {},
    notes=_cut_off(questions, files),
  )


def strict(item: benchmarks.Item, text: str) -> judge.Verdict:
  """Whether a text is the answer, once both are normalised."""
  is_right = normalise(text) == normalise(item.reference)
  return benchmarks.all_or_nothing(item, is_right, by='strict')


def lenient(item: benchmarks.Item, text: str) -> judge.Verdict:
  """Whether a text names the answer and no other, as whole words.

      answer  walk        right   'They walk.'    wrong   'They walk and sit.'

  An answer within a longer one is not named by it: 'half squat' is no 'squat'.
  A text that names none of its type's answers is `unparsed`, and wrong.
  """
  found = judge.named(text, (*item.choices, item.reference))
  return benchmarks.all_or_nothing(
    item,
    found == {tuple(judge.normalise(item.reference))},
    by='lenient',
    status='ok' if found else judge.UNPARSED,
  )


def normalise(text: str) -> str:
  """'The person walks. ' -> 'walks': what `strict` compares.

  Lower case, single blanks, no punctuation at the ends, and no leading 'the
  person', 'they' or 'the'.
  """
  text = ' '.join(text.lower().split())
  text = re.sub(r'^[\W_]+|[\W_]+$', '', text)
  return re.sub(r'^(the person|they|the)(?: |$)', '', text)


def majority(train: Sequence[babel_questions.Question]) -> dict[str, str]:
  """Query type -> its most frequent answer; of equal ones the first by name."""
  counts = collections.Counter((q.query_type, q.answer) for q in train)
  return {
    name: max(answers, key=lambda answer: counts[name, answer])
    for name, answers in babel_questions.vocabulary_of(train).items()
    if answers
  }


def _majority_texts(train, questions) -> list[str]:
  """For each question that answer; nothing, which is wrong, for a new type."""
  answers = majority(train)
  return [answers.get(question.query_type, '') for question in questions]


def _item(
  question: babel_questions.Question,
  position: int,
  vocabulary: babel_questions.Vocabulary,
  split: str,
) -> benchmarks.Item:
  query, relation = question.query_type, question.relation_type
  slices = (relation, f'{query}/{relation}')
  if relation not in babel_questions.NEIGHBOUR:
    slices += (OTHER,)
  return benchmarks.Item(
    id=question.id,
    benchmark=NAME,
    split=split,
    input='motion',
    corruption=benchmarks.CLEAN,
    domain=query,
    kind=relation,
    question=question.question,
    references=(question.answer,),
    position=position,
    media_position=position,
    choices=vocabulary[query],
    slices=slices,
  )


def _record(
  motions: str | os.PathLike, name: str, split: str, up: str | None
) -> records_lib.Record:
  motion = babel_questions.read_motion(motions, name, up=up)
  return media.record_of(motion, id=name, source=NAME, split=split)


def _cut_off(questions, files) -> tuple[str, ...]:
  """A note on motions that are longer than what is shown of them.

  Counted from the heads of the files; what cannot be read will fail, and says
  so then.
  """
  longest, fps = records_lib.MAX_MOTION_FRAMES, records_lib.FPS
  numbers = {}
  for name, path in files.items():
    try:
      num_frames = np.lib.format.open_memmap(path, mode='r').shape[0]
    except (OSError, ValueError, IndexError):
      continue
    # Features are made of frames and the ones after them: one less.
    numbers[name] = int((num_frames - 1) * fps / babel_questions.FPS)
  over = {name: n - longest for name, n in numbers.items() if n > longest}
  if not over:
    return ()
  asked = sum(question.babel_id in over for question in questions)
  hidden, total = sum(over.values()), sum(numbers.values())
  return (
    f'{len(over)} of {len(numbers)} motions are longer than the '
    f'{longest / fps} s that a model reads, and are shown from their start: '
    f'{hidden / fps:.1f} of {total / fps:.1f} s are not shown, and {asked} of '
    f'{len(questions)} questions are about these motions.',
  )
