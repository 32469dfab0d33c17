import collections
import json
import pathlib

import numpy as np
import pytest

from vimonet_jax.eval import judge
from vimonet_jax.synthetic import world

DATA = pathlib.Path(__file__).parents[2] / '../shared/data'


@pytest.fixture(scope='module')
def turns():
  """What the synthetic world asks in the test, without making its clips."""
  return [
    turn
    for i in range(350)
    for turn in world.World().text_record('test', i).turns
    if turn.fact
  ]


def _shared(path: str) -> pathlib.Path:
  if not (DATA / path).exists():
    pytest.skip(f'needs shared/data/{path} beside the repository')
  return DATA / path


def _is_right(turn, text: str) -> bool:
  return judge.judge(
    'x',
    text,
    turn.answer,
    question=turn.question,
    fact=turn.fact,
    choices=turn.choices,
  ).correct


def _substitutes(turn):
  """The answer with each part of its fact replaced by each other choice."""
  for part in turn.fact.split('; '):
    before, found, after = turn.answer.lower().partition(part)
    assert found, turn
    for choice in turn.choices:
      if choice not in turn.fact.split('; '):
        yield f'{before}{choice}{after}'


def test_every_reference_of_the_world_is_right_and_all_else_is_wrong(turns):
  """Also where one choice holds another's words, as 'left arm' holds 'left'."""
  kinds = {(turn.domain, turn.kind) for turn in turns}
  assert len(kinds) >= 18
  for turn in turns:
    assert _is_right(turn, turn.answer), turn
    assert _is_right(turn, turn.fact), turn
    for text in _substitutes(turn):
      assert not _is_right(turn, text), (turn, text)
    assert not _is_right(turn, ' '.join(turn.choices)), turn
    if '; ' in turn.fact:
      first, second = turn.fact.split('; ')
      assert not _is_right(turn, first)
      assert not _is_right(turn, second)
      assert _is_right(turn, f'{second}, {first}')


def test_a_constant_answerer_gets_about_chance(turns):
  kinds = collections.defaultdict(list)
  for turn in turns:
    if '; ' not in turn.fact:
      kinds[turn.domain, turn.kind, turn.choices].append(turn)
  for name, some in kinds.items():
    choices = some[0].choices
    accuracies = [
      np.mean([_is_right(turn, f'It is {choice}.') for turn in some])
      for choice in choices
    ]
    # Exactly one constant answer is right for each question ...
    assert sum(accuracies) == pytest.approx(1.0), name
    # ... and none is right much more often than the number of choices allows.
    margin = 2.5 / np.sqrt(len(some))
    assert max(accuracies) < 2.2 / len(choices) + margin, name


@pytest.mark.parametrize(
  ('fact', 'text', 'is_right'),
  [
    ('left', 'To the LEFT!', True),
    ('left', 'With the left arm.', False),
    ('left arm', 'With the left arm.', True),
    ('left arm', 'The left or the right arm.', False),
    ('left arm', 'Both, left arm and right arm.', False),
    ('getting', 'The person is getting up.', True),
    ('standing', 'The person is standing up.', True),
    ('standing', 'The person is getting up.', False),
    ('feet', 'The person ends on both feet.', True),
    ('feet', 'The person defeats everybody.', False),
    ('twice', 'Two times.', True),
    ('twice', '2', True),
    ('twice', 'Twice or thrice.', False),
    ('kitchen; left arm', 'It is the left arm, in the kitchen.', True),
    ('kitchen; left arm', 'In the kitchen.', False),
  ],
)
def test_facts_are_named_as_whole_words_and_alone(fact, text, is_right):
  choices = (
    'left', 'right', 'left arm', 'right arm', 'getting', 'standing', 'feet',
    'seat', 'once', 'twice', 'thrice', 'kitchen',
  )  # fmt: skip
  verdict = judge.judge('x', text, 'unused', fact=fact, choices=choices)
  assert verdict.correct is is_right
  assert verdict.score == (5.0 if is_right else 0.0)


@pytest.mark.parametrize(
  ('question', 'reference', 'text', 'is_right'),
  [
    ('Which? A) sits B) walks', 'B) walks', 'B', True),
    ('Which? A) sits B) walks', 'B) walks', 'The answer is (B).', True),
    ('Which? A) sits B) walks', 'B) walks', 'The person walks.', True),
    ('Which? A) sits B) walks', 'B) walks', 'A) walks', False),
    ('Which? A) sits B) walks', 'B) walks', 'A person sits.', False),
    ('Which? a) sits b) walks', 'b) walks', 'B', True),
    ('Which? a) sits b) walks', 'b) walks', 'It sits and walks.', False),
    ('Does she sit?', 'No. She walks.', 'No', True),
    ('Does she sit?', 'No. She walks.', 'False, not at all.', True),
    ('Does she sit?', 'No. She walks.', 'Yes, no doubt.', False),
    ('Does she sit?', 'No. She walks.', 'There is no way to know.', False),
    ('How many jumps?', 'Two: one before and one after.', '2', True),
    ('How many jumps?', 'Two: one before and one after.', 'One.', False),
    ('Who?', 'It cannot be determined.', "I can't tell who.", True),
    ('Who?', 'It cannot be determined.', 'There is no way to know.', True),
    ('Who?', 'It cannot be determined.', 'Her brother.', False),
    ('What?', 'They walk in place.', 'The person walks in place', True),
    ('What?', 'They walk in place.', 'They dance.', False),
  ],
)
def test_without_a_fact_the_format_decides(question, reference, text, is_right):
  verdict = judge.judge('x', text, reference, question=question)
  assert verdict.correct is is_right


def test_scores_of_free_answers_follow_their_overlap():
  def score(text):
    return judge.judge('x', text, 'walks to the red door').score

  assert score('walks to the red door') == 5.0
  assert 0.0 < score('walks to some house') < 4.0
  assert score('sleeps') == 0.0


def test_an_empty_answer_has_failed_and_is_not_judged():
  verdict = judge.judge('x', ' \n', 'No.', fact='no', choices=('yes', 'no'))
  assert verdict == judge.Verdict('x', None, None, 'failed')


def test_references_of_the_public_items_judge_themselves_right():
  path = _shared('minibench/minibench_public.jsonl')
  items = [json.loads(line) for line in path.read_text().splitlines()]
  for item in items:
    for answer_format in (item['answer_format'], ''):
      verdict = judge.judge(
        item['id'],
        item['answer'],
        item['answer'],
        question=item['question'],
        answer_format=answer_format,
      )
      assert verdict.correct, item
      assert verdict.score == 5.0


def test_another_items_reference_is_mostly_wrong():
  path = _shared('minibench/minibench_public.jsonl')
  items = [json.loads(line) for line in path.read_text().splitlines()]
  right = [
    judge.judge(
      item['id'],
      other['answer'],
      item['answer'],
      question=item['question'],
      answer_format=item['answer_format'],
    ).correct
    for item in items
    for other in items
    if other is not item
  ]
  assert np.mean(right) < 0.2


def test_caption_metrics_hit_the_expected_values():
  path = _shared('captions/humanml3d_m2t_public.jsonl')
  cases = [json.loads(line) for line in path.read_text().splitlines()]
  expected = json.loads(
    _shared('captions/expected_metrics_public.json').read_text()
  )
  padded = [
    (case['references'] + case['references'][:1] * 2)[:3] for case in cases
  ]
  found = judge.caption_metrics(
    [case['outputs']['motiongpt'] for case in cases], padded
  )
  assert found == pytest.approx(
    expected['motiongpt']['refs_padded_to_3'], abs=1e-6
  )


def test_captions_without_predictions_are_reported():
  with pytest.raises(ValueError, match='found 0 for 1 cases'):
    judge.caption_metrics([], [['a person walks']])
