"""BABEL-QA: questions about the parts of a motion, and how answers are scored.

The questions come from labelled segments of BABEL (Endo et al., ICML 2023,
'Motion question answering via modular motion programs'): one or two filters
name a segment by what is done there, the answer is what is done in that
segment, in the one next to it, or in the only one between two. A program says
the same as the question, and `execute` runs it on the segments.
"""

import collections
import dataclasses
import functools
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import benchmarks, judge, media, scores
from vimonet_jax.motion import readers

FPS = 30.0  # of the motions, and what the segments count in
QUERY_TYPES = ('action', 'direction', 'body_part')
RELATION_TYPES = ('before', 'after', 'in_between', 'no_relation')
# Published tables sum up the last two of the relations.
OTHER = 'other'
SLICES = (
  scores.ALL, *QUERY_TYPES, *RELATION_TYPES, OTHER,
  *(f'{query}/{relation}' for query in QUERY_TYPES
    for relation in RELATION_TYPES),
)  # fmt: skip

# Query type -> its answers, sorted.
Vocabulary = dict[str, tuple[str, ...]]

# Function of a program -> how many earlier steps it looks at.
_FUNCTIONS = {
  'scene': 0, 'relate': 1, 'intersect': 2,
  **{f'filter_{name}': 1 for name in QUERY_TYPES},
  **{f'query_{name}': 1 for name in QUERY_TYPES},
}  # fmt: skip
_NEIGHBOUR = {'before': -1, 'after': 1}
# '[1]=filter_action([0], sit)': function, steps it looks at, value.
_STEP = re.compile(r'(?:\[\d+\]|\?)=(\w+)\((?:\[([\d, ]*)\])?(?:, *)?(.*)\)')
_FIELDS = (
  'babel_id', 'query_type', 'relation_type', 'question', 'program', 'answer'
)  # fmt: skip


class Step(NamedTuple):
  """A step of a program.

  Attributes:
    function: a key of `_FUNCTIONS`.
    inputs: the steps whose segments it looks at.
    value: what a filter looks for, or `before` or `after` of `relate`.
  """

  function: str
  inputs: tuple[int, ...] = ()
  value: str = ''


@dataclasses.dataclass(frozen=True)
class Question:
  """One question about one motion.

  Attributes:
    id: six digits, unique over all splits.
    babel_id: the motion's.
    query_type: one of `QUERY_TYPES`.
    relation_type: one of `RELATION_TYPES`.
    question: as it is asked.
    program: steps; the last one is the query.
    answer: one of its query type's vocabulary.
    filter_answers: which segment each filter of the program finds, in their
      order; empty where the file does not say.
  """

  id: str
  babel_id: str
  query_type: str
  relation_type: str
  question: str
  program: tuple[Step, ...]
  answer: str
  filter_answers: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Segment:
  """What is done in some frames of a motion, at 30 fps; the end is exclusive.

  Attributes:
    start_frame, end_frame: where.
    action, direction, body_part: what, several names or none of each.
  """

  start_frame: int
  end_frame: int
  action: tuple[str, ...] = ()
  direction: tuple[str, ...] = ()
  body_part: tuple[str, ...] = ()


class Execution(NamedTuple):
  """What a program comes to.

  Attributes:
    filter_answers: the segment that each filter finds.
    segment: the one that the query looks at.
    answers: what that segment says of the query's type; each is right.
  """

  filter_answers: tuple[int, ...]
  segment: int
  answers: tuple[str, ...]


# --- Questions ---------------------------------------------------------------


def read(
  path: str | os.PathLike, vocabulary: Vocabulary | None = None
) -> list[Question]:
  """Questions of a file, in its order.

  The file is JSON lines, or upstream's questions.json, an object of id ->
  fields or a list of fields. Fields are question_id, babel_id, query_type
  (`query_action`, ...), relation_type, question, program, answer and in
  upstream's layout filter_answer_0 and _1. A program is a list of strings or of
  objects:

      '[1]=filter_action([0], sit)'
      {'function': 'filter_action', 'inputs': [0], 'value_inputs': ['sit']}

  Args:
    path: the file.
    vocabulary: that answers must be in; any answer passes without it.

  Raises:
    ValueError: one sentence about what is wrong with the file.
  """
  questions: dict[str, Question] = {}
  for number, row in enumerate(_rows(path), 1):
    try:
      question = _question(row)
      if question.id in questions:
        raise ValueError(
          f'expected each id once, found {question.id} again; remove one of '
          'the two.'
        )
      _check_answer(question, vocabulary)
    except ValueError as e:
      raise ValueError(f'{path}, question {number}: {e}') from e
    questions[question.id] = question
  if not questions:
    raise ValueError(
      f'{path}: expected questions, found none; check that it is the right '
      'file.'
    )
  return list(questions.values())


def take_split(
  questions: Sequence[Question], path: str | os.PathLike, split: str
) -> list[Question]:
  """The questions of one split, in the order of the split file.

  Args:
    questions: of all splits.
    path: a JSON object of split -> list of question ids.
    split: `train`, `val` or `test`.

  Raises:
    ValueError: the file lacks the split, or names an id twice or one that is
      not among the questions.
  """
  splits = _load(path)
  ids = splits.get(split) if isinstance(splits, dict) else None
  if not isinstance(ids, list):
    found = ', '.join(splits) if isinstance(splits, dict) else 'no object'
    raise ValueError(
      f'{path}: expected a list of ids under {split!r}, found {found}; pass '
      'the split file and one of its splits.'
    )
  twice = [name for name, n in collections.Counter(ids).items() if n > 1]
  if twice:
    raise ValueError(
      f'{path}: expected each id once in {split!r}, found {twice[0]} again; '
      'remove one of the two.'
    )
  known = {question.id: question for question in questions}
  missing = [name for name in ids if name not in known]
  if missing:
    raise ValueError(
      f'{path}: expected ids of the {len(known)} questions, found '
      f'{len(missing)} others in {split!r}, the first {missing[0]}; read the '
      'questions that belong to this split file.'
    )
  return [known[name] for name in ids]


def vocabulary_of(questions: Sequence[Question]) -> Vocabulary:
  """The answers that occur, by query type."""
  return {
    name: tuple(sorted({q.answer for q in questions if q.query_type == name}))
    for name in QUERY_TYPES
  }


def read_vocabulary(path: str | os.PathLike) -> Vocabulary:
  """The answers of a JSON object of query type -> list of answers."""
  found = _load(path)
  fits = isinstance(found, dict) and set(found) == set(QUERY_TYPES)
  if not fits or not all(
    isinstance(answers, list) and answers for answers in found.values()
  ):
    raise ValueError(
      f'{path}: expected lists of answers for {", ".join(QUERY_TYPES)}, found '
      f'{str(found)[:40]!r}; list the answers of every query type.'
    )
  return {name: tuple(sorted(found[name])) for name in QUERY_TYPES}


def _rows(path: str | os.PathLike) -> list[Any]:
  """The fields of each question; the layout shows in the first line."""
  with open(path, encoding='utf-8') as f:
    first = next(filter(str.strip, f), '')
    is_alone = not any(map(str.strip, f))
  try:
    value = json.loads(first)
  except json.JSONDecodeError:
    value = None
  if isinstance(value, dict) and ('question_id' in value or not is_alone):
    return list(records_lib.read_json_lines(str(path)))
  whole = _load(path)
  if isinstance(whole, list):
    return whole
  if not isinstance(whole, dict):
    raise ValueError(
      f'{path}: expected JSON lines, an object or a list of questions, found '
      f'{str(whole)[:40]!r}; check that it is the right file.'
    )
  rows = []
  for name, row in whole.items():
    if isinstance(row, dict) and row.get('question_id', name) != name:
      raise ValueError(
        f'{path}: expected question_id {name} under that key, found '
        f'{row["question_id"]}; mend one of the two.'
      )
    rows.append(row | {'question_id': name} if isinstance(row, dict) else row)
  return rows


def _load(path: str | os.PathLike) -> Any:
  """JSON of which no object has a key twice, where json keeps the last."""

  def once(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
      counts = collections.Counter(name for name, _ in pairs)
      raise ValueError(
        f'{path}: expected each key once, found {max(counts, key=counts.get)} '
        'again; remove one of the two.'
      )
    return found

  with open(path, encoding='utf-8') as f:
    try:
      return json.load(f, object_pairs_hook=once)
    except json.JSONDecodeError as e:
      raise ValueError(
        f'{path}: expected JSON, found none from line {e.lineno} on '
        f'({e.msg}); copy the file again.'
      ) from e


def _question(row: Any) -> Question:
  if not isinstance(row, dict):
    raise ValueError(
      f'expected an object of fields, found {str(row)[:40]!r}; write '
      f'question_id, {", ".join(_FIELDS)}.'
    )
  missing = [name for name in ('question_id', *_FIELDS) if name not in row]
  if missing:
    raise ValueError(
      f'expected question_id, {", ".join(_FIELDS)}, found no '
      f'{" and no ".join(missing)}; add what is missing.'
    )
  query_type = str(row['query_type']).removeprefix('query_')
  _check_known('query_type', query_type, QUERY_TYPES)
  _check_known('relation_type', row['relation_type'], RELATION_TYPES)
  filter_answers = (row.get(f'filter_answer_{k}') for k in range(2))
  return Question(
    str(row['question_id']),
    str(row['babel_id']),
    query_type,
    row['relation_type'],
    row['question'],
    _program(row['program'], query_type),
    row['answer'],
    tuple(index for index in filter_answers if index is not None),
  )


def _check_known(field: str, value: Any, known: Sequence[str]) -> None:
  if value not in known:
    raise ValueError(
      f'expected {field} to be {", ".join(known)}, found {value!r}; mend it or '
      'remove the question.'
    )


def _check_answer(question: Question, vocabulary: Vocabulary | None) -> None:
  if vocabulary is None:
    return
  answers = vocabulary[question.query_type]
  if question.answer not in answers:
    raise ValueError(
      f'expected one of the {len(answers)} answers of {question.query_type}, '
      f'found {question.answer!r}; mend the answer or pass the vocabulary of '
      'this data set.'
    )


def _program(rows: Any, query_type: str) -> tuple[Step, ...]:
  steps = tuple(map(_step, rows)) if isinstance(rows, list) else ()
  for number, step in enumerate(steps):
    is_last = number == len(steps) - 1
    if (
      step is None
      or len(step.inputs) != _FUNCTIONS.get(step.function)
      or any(i not in range(number) for i in step.inputs)
      or (step.function == 'relate' and step.value not in _NEIGHBOUR)
      or (step.function == f'query_{query_type}') != is_last
    ):
      break
  else:
    if steps:
      return steps
  found = f'step {number} {str(rows[number])[:60]!r}' if steps else 'none'
  raise ValueError(
    f'expected a program of {", ".join(_FUNCTIONS)} on earlier steps that ends '
    f'with query_{query_type}, found {found}; mend that program.'
  )


def _step(row: Any) -> Step | None:
  """A step in either layout; None where it has neither."""
  if isinstance(row, dict):
    function, inputs = row.get('function'), row.get('inputs', ())
    value = ', '.join(map(str, row.get('value_inputs', ())))
  elif match := _STEP.fullmatch(str(row)):
    function, digits, value = match.groups()
    inputs = map(int, re.findall(r'\d+', digits or ''))
  else:
    return None
  # The scene is all of the motion, whatever is written between its brackets.
  if function == 'scene':
    return Step(function)
  return Step(function, tuple(inputs), value)


# --- Motions -----------------------------------------------------------------


def find_motion(root: str | os.PathLike, babel_id: str) -> pathlib.Path:
  """Where in a folder the joints of a motion are.

  Raises:
    ValueError: in none of the places.
  """
  places = f'motion_sequences/{babel_id}/joints.npy', _segmented(babel_id)
  for place in places:
    if (pathlib.Path(root) / place).is_file():
      return pathlib.Path(root) / place
  raise ValueError(
    f'{root}: expected {" or ".join(places)}, found neither; pass the folder '
    f'that has the motion {babel_id}.'
  )


def read_motion(
  root: str | os.PathLike, babel_id: str, *, up: str | None = None
) -> readers.Motion:
  """The joints of a motion, brought from 30 to 20 fps, in metres, y up.

  Which way the body faces stays as it is, -z in these data: features turn it.

  Args:
    root: the folder; see `find_motion`.
    babel_id: the motion's.
    up: which axis of the file is up, where the body does not show it.
  """
  path = find_motion(root, babel_id)
  if path.name == _segmented(babel_id):
    up = up or 'y'  # by definition of that layout
  return readers.read(path, fps=FPS, up=up)


def _segmented(babel_id: str) -> str:
  return f'{babel_id}_joints_{FPS:.0f}fps.npy'


# --- Segments ----------------------------------------------------------------

_SIDES = re.compile(r'\b(left|right) (arm|foot|hand|leg)\b')
_DIRECTIONS = {
  'forward': 'forward', 'forwards': 'forward',
  'backward': 'backwards', 'backwards': 'backwards',
  'left': 'left', 'right': 'right',
}  # fmt: skip
_MOVEMENT = ' movement'  # 'backwards movement' is an action category of BABEL
_TRANSITION = 'transition'


def read_segments(
  path: str | os.PathLike,
) -> dict[str, tuple[Segment, ...]]:
  """Motion -> its segments, without those that are labelled as transitions.

  The file is upstream's motion_concepts.json, an object of motion -> list of
  {start_f, end_f, attributes: {action, direction, body_part}}, whose order is
  what filter_answer counts in; or one motion's {babel_id, segments: [{
  start_frame, end_frame, raw_label, action_categories}]}, whose directions and
  body parts are read out of the labels.

  Raises:
    ValueError: one sentence about what is wrong with the file.
  """
  found = _load(path)
  try:
    if 'segments' in found:
      labelled = map(_labelled, found['segments'])
      kept = sorted(filter(None, labelled), key=lambda s: s.start_frame)
      return {str(found['babel_id']): tuple(kept)}
    return {
      name: tuple(filter(None, map(_concepts, rows)))
      for name, rows in found.items()
    }
  except (KeyError, TypeError, AttributeError) as e:
    raise ValueError(
      f'{path}: expected segments with frames and attributes or labels, found '
      f'some without ({type(e).__name__}: {e}); read motion_concepts.json or '
      "one motion's segments."
    ) from e


def execute(question: Question, segments: Sequence[Segment]) -> Execution:
  """Runs the program of a question on the segments of its motion.

      segments      walk forward | sit | rest | stand up | walk
      filter_action(stand up) -> 3;  relate(after) -> 4;  query_action -> walk

  Raises:
    ValueError: a filter finds no segment or several, there is no segment where
      the query looks, or that one says nothing of the query's type.
  """

  def only(found: set[int], what: str) -> int:
    if len(found) != 1:
      raise ValueError(
        f'Question {question.id}: expected one segment {what}, found '
        f'{len(found)} of {len(segments)}; check the segments of motion '
        f'{question.babel_id}.'
      )
    return next(iter(found))

  results: list[set[int]] = []
  filter_answers = []
  for step in question.program:
    function, _, attribute = step.function.partition('_')
    inputs = [results[i] for i in step.inputs]
    found = _run(step, inputs, segments)
    if function == 'filter':
      filter_answers.append(only(found, f'of {attribute} {step.value}'))
    results.append(found)
  where = only(results[-1], 'to ask about')
  answers = getattr(segments[where], question.query_type)
  if not answers:
    raise ValueError(
      f'Question {question.id}: expected {question.query_type} of segment '
      f'{where}, found none; check the segments of motion '
      f'{question.babel_id}.'
    )
  return Execution(tuple(filter_answers), where, answers)


def _run(
  step: Step, inputs: Sequence[set[int]], segments: Sequence[Segment]
) -> set[int]:
  """The segments that a step leaves of those of earlier steps."""
  function, _, attribute = step.function.partition('_')
  if function == 'scene':
    return set(range(len(segments)))
  if function == 'filter':
    return {
      i for i in inputs[0] if step.value in getattr(segments[i], attribute)
    }
  if function == 'relate':
    beside = {i + _NEIGHBOUR[step.value] for i in inputs[0]}
    return beside & set(range(len(segments)))
  return set.intersection(*inputs)


def _concepts(row: Mapping[str, Any]) -> Segment | None:
  attributes = row['attributes']
  if _TRANSITION in attributes.get('action', ()):
    return None
  names = (tuple(attributes.get(name, ())) for name in QUERY_TYPES)
  return Segment(row['start_f'], row['end_f'], *names)


def _labelled(row: Mapping[str, Any]) -> Segment | None:
  categories = [name for names in row['action_categories'] for name in names]
  label = row['raw_label'].lower()
  if _TRANSITION in (label, *categories):
    return None
  moved = [
    _DIRECTIONS[name.removesuffix(_MOVEMENT)] for name in categories
    if name.removesuffix(_MOVEMENT) in _DIRECTIONS
  ]  # fmt: skip
  # 'raise left arm' says nothing about where the person goes.
  words = _SIDES.sub('', label).split()
  moved += [_DIRECTIONS[word] for word in words if word in _DIRECTIONS]
  return Segment(
    row['start_frame'],
    row['end_frame'],
    tuple(name for name in categories if not name.endswith(_MOVEMENT)),
    tuple(dict.fromkeys(moved)),
    tuple(' '.join(part) for part in _SIDES.findall(label)),
  )


# --- Scores ------------------------------------------------------------------


class Likelihood(NamedTuple):
  """Of an answer after the prompt: the sum over its tokens, and how many."""

  log_prob: float
  num_tokens: int


def normalise(text: str) -> str:
  """'The person walks. ' -> 'walks': what `strict` compares.

  Lower case, single blanks, no punctuation at the ends, and no leading 'the
  person', 'they' or 'the'.
  """
  text = ' '.join(text.lower().split())
  text = re.sub(r'^[\W_]+|[\W_]+$', '', text)
  return re.sub(r'^(the person|they|the)(?: |$)', '', text)


def strict(prediction: str, answer: str) -> bool:
  """Whether a prediction is the answer. This is the headline."""
  return normalise(prediction) == normalise(answer)


def lenient(prediction: str, answer: str, answers: Sequence[str]) -> bool:
  """Whether a prediction names the answer and no other, as whole words.

      answer  walk        right   'They walk.'    wrong   'They walk and sit.'

  An answer within a longer one is not named by it: 'half squat' is no 'squat'.

  Args:
    prediction: what the model said.
    answer: the right one.
    answers: all of the question's type.
  """
  found = judge.named(prediction, (*answers, answer))
  return found == {tuple(judge.normalise(answer))}


def closed(
  likelihoods: Mapping[str, Likelihood | tuple[float, int]],
  answers: Sequence[str],
) -> str:
  """The answer of the highest mean log-probability of its tokens.

  Of equal ones it is the first in `answers`, so no dict's order decides.

  Args:
    likelihoods: of each answer.
    answers: all of the question's type.

  Raises:
    ValueError: the likelihoods are of other answers, or one is no number.
  """
  if set(likelihoods) != set(answers):
    differing = sorted(set(likelihoods) ^ set(answers))
    raise ValueError(
      f'Expected likelihoods of the {len(answers)} answers, found '
      f'{len(likelihoods)} that differ in {differing[0]!r}; score each answer '
      "of the question's type."
    )
  for answer, (log_prob, num_tokens) in likelihoods.items():
    if not (math.isfinite(log_prob) and num_tokens > 0):
      raise ValueError(
        'Expected a sum of log-probabilities over one token or more, found '
        f'{log_prob} over {num_tokens} for {answer!r}; check how it was scored.'
      )
  means = {
    answer: log_prob / num_tokens
    for answer, (log_prob, num_tokens) in likelihoods.items()
  }
  return max(answers, key=means.get)


def slices(questions: Sequence[Question]) -> dict[str, list[Question]]:
  """Each of `SLICES` -> its questions, maybe none: the rows of every table.

  'all', then by query type, by relation type with `other` for both that are
  neither before nor after, and by both, as in 'body_part/in_between'.
  """
  found = {name: [] for name in SLICES}
  for question in questions:
    query, relation = question.query_type, question.relation_type
    names = [scores.ALL, query, relation, f'{query}/{relation}']
    if relation not in _NEIGHBOUR:
      names.append(OTHER)
    for name in names:
      found[name].append(question)
  return found


def accuracies(
  questions: Sequence[Question], correct: Mapping[str, bool]
) -> dict[str, scores.Row]:
  """Each of `SLICES` -> accuracy (0 to 1, None where n is 0), n_correct and n.

  Args:
    questions: of one split.
    correct: id -> whether its answer is right, False where there is none.

  Raises:
    ValueError: a question has no verdict, and would leave the table silently.
  """
  missing = [q.id for q in questions if q.id not in correct]
  if missing:
    raise ValueError(
      f'Expected a verdict on each of {len(questions)} questions, found none '
      f'on {len(missing)}, the first {missing[0]}; give False where the answer '
      'failed.'
    )
  rows = {}
  for name, members in slices(questions).items():
    right, n = sum(bool(correct[q.id]) for q in members), len(members)
    rows[name] = {
      'accuracy': right / n if n else None,
      'n_correct': right,
      'n': n,
    }
  return rows


def majority(train: Sequence[Question]) -> dict[str, str]:
  """Query type -> its most frequent answer; of equal ones the first by name."""
  counts = collections.Counter((q.query_type, q.answer) for q in train)
  return {
    name: max(answers, key=lambda answer: counts[name, answer])
    for name, answers in vocabulary_of(train).items()
    if answers
  }


def majority_accuracies(
  train: Sequence[Question], questions: Sequence[Question]
) -> dict[str, scores.Row]:
  """What answering by query type alone is worth; rows as of `accuracies`."""
  answers = majority(train)
  correct = {q.id: answers.get(q.query_type) == q.answer for q in questions}
  return accuracies(questions, correct)


# --- As a benchmark ----------------------------------------------------------

NAME = 'babel-qa'


def benchmark(
  questions: Sequence[Question],
  motions: str | os.PathLike,
  vocabulary: Vocabulary,
  *,
  split: str = 'test',
  train: Sequence[Question] = (),
) -> benchmarks.Benchmark:
  """The questions, written and chosen by likelihood, each about its motion.

  Args:
    questions: of one split.
    motions: the folder that has their motions, or some of them.
    vocabulary: the answers of each query type: what is chosen from, and what
      `lenient` must not find besides the right one.
    split: in tables.
    train: the training questions, for the majority row; none for no such row.
  """
  media.check_folder(motions, 'motions')
  names = list(dict.fromkeys(question.babel_id for question in questions))
  positions = {name: position for position, name in enumerate(names)}
  missing = {}
  for name, position in positions.items():
    try:
      find_motion(motions, name)
    except ValueError as e:
      missing[position] = str(e)
  written = [
    _item(question, positions[question.babel_id], vocabulary, split)
    for question in questions
  ]
  baselines = {}
  if train:
    answers = majority(train)
    baselines['majority of train'] = [
      answers[question.query_type] for question in questions
    ]
  return benchmarks.Benchmark(
    written + benchmarks.by_likelihood(written, lambda item: item.choices),
    benchmarks.Readers(
      [
        functools.partial(_record, motions, name, split) for name in names
      ]
    ),
    {'strict': _strict, 'lenient': _lenient},
    missing,
    baselines=baselines,
  )


def _record(
  motions: str | os.PathLike, name: str, split: str
) -> records_lib.Record:
  path = find_motion(motions, name)
  up = 'y' if path.name == _segmented(name) else None
  return media.motion_record(
    path, id=name, source=NAME, split=split, fps=FPS, up=up
  )


def _item(
  question: Question, position: int, vocabulary: Vocabulary, split: str
) -> benchmarks.Item:
  query, relation = question.query_type, question.relation_type
  slices = (relation, f'{query}/{relation}')
  if relation not in _NEIGHBOUR:
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


def _strict(item: benchmarks.Item, text: str) -> judge.Verdict:
  return _verdict(item, strict(text, item.reference), 'strict')


def _lenient(item: benchmarks.Item, text: str) -> judge.Verdict:
  return _verdict(item, lenient(text, item.reference, item.choices), 'lenient')


def _verdict(item: benchmarks.Item, is_right: bool, name: str):
  return judge.Verdict(
    item.id, is_right, 5.0 if is_right else 0.0, judge=name
  )
