"""BABEL-QA: its questions, its answers, and the motions they are about.

The questions come from labelled segments of BABEL (Endo et al., ICML 2023,
'Motion question answering via modular motion programs'): one or two filters
name a segment by what is done there, the answer is what is done in that
segment, in the one next to it, or in the only one between two. A program says
the same as the question; see babel_segments.
"""

import collections
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from vimonet_jax.data import records as records_lib
from vimonet_jax.motion import readers

FPS = 30.0  # of the motions, and what the segments count in
QUERY_TYPES = ('action', 'direction', 'body_part')
RELATION_TYPES = ('before', 'after', 'in_between', 'no_relation')
# What `relate` adds to the number of a segment.
NEIGHBOUR = {'before': -1, 'after': 1}

# Query type -> its answers, sorted.
Vocabulary = dict[str, tuple[str, ...]]

# Function of a program -> how many earlier steps it looks at.
_FUNCTIONS = {
  'scene': 0, 'relate': 1, 'intersect': 2,
  **{f'filter_{name}': 1 for name in QUERY_TYPES},
  **{f'query_{name}': 1 for name in QUERY_TYPES},
}  # fmt: skip
# '[1]=filter_action([0], sit)': function, steps it looks at, value.
_STEP = re.compile(r'(?:\[\d+\]|\?)=(\w+)\((?:\[([\d, ]*)\])?(?:, *)?(.*)\)')
_FIELDS = (
  'babel_id', 'query_type', 'relation_type', 'question', 'program', 'answer'
)  # fmt: skip


class Step(NamedTuple):
  """A step of a program.

  Attributes:
    function: `scene`, `relate`, `intersect`, or `filter_` or `query_` and one
      of `QUERY_TYPES`.
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
  splits = read_json(path)
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
  found = read_json(path)
  fits = isinstance(found, dict) and set(found) == set(QUERY_TYPES)
  if not fits or not all(
    isinstance(answers, list) and answers for answers in found.values()
  ):
    raise ValueError(
      f'{path}: expected lists of answers for {", ".join(QUERY_TYPES)}, found '
      f'{str(found)[:40]!r}; list the answers of every query type.'
    )
  return {name: tuple(sorted(found[name])) for name in QUERY_TYPES}


def read_json(path: str | os.PathLike) -> Any:
  """What a file holds; no object may have a key twice.

  Of such keys json keeps the last, and questions would be lost.
  """

  def once(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
      counts = collections.Counter(name for name, _ in pairs)
      raise ValueError(
        f'{path}: expected each key once, found {max(counts, key=counts.get)} '
        'again; remove one of the two.'
      )
    return found

  with open(path, encoding='utf-8-sig') as f:
    try:
      return json.load(f, object_pairs_hook=once)
    except json.JSONDecodeError as e:
      raise ValueError(
        f'{path}: expected JSON, found none from line {e.lineno} on '
        f'({e.msg}); copy the file again.'
      ) from e


def _rows(path: str | os.PathLike) -> list[Any]:
  """The fields of each question; the layout shows in the first line."""
  with open(path, encoding='utf-8-sig') as f:
    first = next(filter(str.strip, f), '')
    is_alone = not any(map(str.strip, f))
  try:
    value = json.loads(first)
  except json.JSONDecodeError:
    value = None
  if isinstance(value, dict) and ('question_id' in value or not is_alone):
    return list(records_lib.read_json_lines(str(path)))
  whole = read_json(path)
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
  for name in ('question', 'answer'):
    if not isinstance(row[name], str) or not row[name].strip():
      raise ValueError(
        f'expected text as {name}, found {row[name]!r}; mend it or remove the '
        'question.'
      )
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
      or (step.function == 'relate' and step.value not in NEIGHBOUR)
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
