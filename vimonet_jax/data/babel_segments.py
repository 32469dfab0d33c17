"""BABEL-QA: the labelled parts of its motions, and programs run on them.

On the segments of a motion the program of a question finds its answer, so
questions and segments can be checked against each other.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vimonet_jax.data import babel_questions


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


_SIDES = re.compile(r'\b(left|right) (arm|foot|hand|leg)\b')
_DIRECTIONS = {
  'forward': 'forward', 'forwards': 'forward',
  'backward': 'backwards', 'backwards': 'backwards',
  'left': 'left', 'right': 'right',
}  # fmt: skip
_MOVEMENT = ' movement'  # 'backwards movement' is an action category of BABEL
_TRANSITION = 'transition'


def read(path: str | os.PathLike) -> dict[str, tuple[Segment, ...]]:
  """Motion -> its segments, without those that are labelled as transitions.

  The file is upstream's motion_concepts.json, an object of motion -> list of
  {start_f, end_f, attributes: {action, direction, body_part}}, whose order is
  what filter_answer counts in; or one motion's {babel_id, segments: [{
  start_frame, end_frame, raw_label, action_categories}]}, whose directions and
  body parts are read out of the labels.

  Raises:
    ValueError: one sentence about what is wrong with the file.
  """
  found = babel_questions.read_json(path)
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


def execute(
  question: babel_questions.Question, segments: Sequence[Segment]
) -> Execution:
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
  step: babel_questions.Step,
  inputs: Sequence[set[int]],
  segments: Sequence[Segment],
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
    beside = {i + babel_questions.NEIGHBOUR[step.value] for i in inputs[0]}
    return beside & set(range(len(segments)))
  return set.intersection(*inputs)


def _concepts(row: Mapping[str, Any]) -> Segment | None:
  attributes = row['attributes']
  if _TRANSITION in attributes.get('action', ()):
    return None
  names = (
    tuple(attributes.get(name, ())) for name in babel_questions.QUERY_TYPES
  )
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
