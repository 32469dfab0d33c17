import dataclasses
import json

import pytest

from vimonet_jax.data import babel_questions

VOCABULARY = {
  'action': ('jump', 'jumping jacks', 'sit', 'stand up', 'walk'),
  'direction': ('forward', 'left'),
  'body_part': ('left arm', 'right hand'),
}
ROW = {
  'question_id': '000001',
  'babel_id': '7',
  'query_type': 'query_action',
  'relation_type': 'in_between',
  'question': 'What action does the person do after they sit and before they '
  'move left?',
  'program': [
    '[0]=scene([0])',
    '[1]=filter_action([0], sit)',
    '[2]=relate([1], after)',
    '[3]=filter_direction([0], left)',
    '[4]=relate([3], before)',
    '[5]=intersect([2, 4])',
    '?=query_action([5])',
  ],
  'answer': 'stand up',
}


def _step(function, inputs=(), value=None):
  values = [] if value is None else [value]
  return {'function': function, 'inputs': list(inputs), 'value_inputs': values}


def _upstream(row=ROW):
  """The same question as upstream writes it."""
  program = [
    _step('scene'),
    _step('filter_action', [0], 'sit'),
    _step('relate', [1], 'after'),
    _step('filter_direction', [0], 'left'),
    _step('relate', [3], 'before'),
    _step('intersect', [2, 4]),
    _step('query_action', [5]),
  ]
  return {**row, 'program': program, 'filter_answer_0': 1, 'filter_answer_1': 3}


def _write(path, value):
  path.write_text(json.dumps(value))
  return path


def _write_lines(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def _question(number, query='action', relation='before', answer='walk'):
  steps = (
    babel_questions.Step('scene'),
    babel_questions.Step(f'query_{query}', (0,)),
  )
  name = f'{number:06d}'
  return babel_questions.Question(
    name, '7', query, relation, '?', steps, answer
  )


def test_all_layouts_say_the_same(tmp_path):
  (ours,) = babel_questions.read(
    _write_lines(tmp_path / 'a', [ROW]), VOCABULARY
  )
  assert (ours.id, ours.babel_id, ours.query_type) == ('000001', '7', 'action')
  assert ours.program[3] == ('filter_direction', (0,), 'left')
  assert ours.program[5] == ('intersect', (2, 4), '')
  assert ours.filter_answers == ()
  layouts = {'000001': _upstream()}, [_upstream()]
  for number, layout in enumerate(layouts):
    (theirs,) = babel_questions.read(_write(tmp_path / str(number), layout))
    assert theirs == dataclasses.replace(ours, filter_answers=(1, 3))


def test_indented_json_and_blank_lines_are_told_apart(tmp_path):
  rows = [{**ROW, 'question_id': f'00000{i}'} for i in range(3)]
  lines = tmp_path / 'lines'
  lines.write_text('\n' + '\n\n'.join(map(json.dumps, rows)))
  indented = tmp_path / 'indented'
  by_id = {row['question_id']: _upstream(row) for row in rows}
  indented.write_text(json.dumps(by_id, indent=1))
  assert [q.id for q in babel_questions.read(lines)] == list(by_id)
  assert [q.id for q in babel_questions.read(indented)] == list(by_id)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'answer': None}, 'found no answer; add'),
    ({'question_id': None, 'program': None}, 'no question_id and no program'),
    ({'query_type': 'query_speed'}, "query_type to be action.*'speed'; mend"),
    ({'relation_type': 'while'}, "relation_type to be before.*'while'; mend"),
    ({'answer': 'left'}, "of the 5 answers of action, found 'left'; mend"),
    ({'program': []}, 'ends with query_action, found none; mend'),
    ({'program': ['walk']}, "found step 0 'walk'; mend"),
    ({'program': ROW['program'][:-1]}, r"found step 5 '\[5\]=intersect"),
    ({'query_type': 'query_direction'}, 'query_direction, found step 6'),
    ({'program': [_step('relate', ['0'], 'after')]}, 'found step 0'),
  ],
)
def test_a_malformed_question_is_reported(tmp_path, changes, message):
  row = {k: v for k, v in {**ROW, **changes}.items() if v is not None}
  good = {**ROW, 'question_id': '000000'}
  path = _write_lines(tmp_path / 'questions', [good, row])
  with pytest.raises(ValueError, match=f'question 2: expected .*{message}'):
    babel_questions.read(path, VOCABULARY)


def test_no_answer_is_in_an_empty_vocabulary(tmp_path):
  path = _write_lines(tmp_path / 'questions', [ROW])
  with pytest.raises(ValueError, match='of the 0 answers of action'):
    babel_questions.read(path, {**VOCABULARY, 'action': ()})


@pytest.mark.parametrize(
  'step',
  [
    '[2]=relate([1], near)',
    '[2]=relate([2], after)',
    '[2]=relate([], after)',
    '[2]=jump([1], after)',
    '[2]=query_action([1])',
  ],
)
def test_a_step_that_cannot_be_run_is_reported(tmp_path, step):
  program = [*ROW['program'][:2], step, *ROW['program'][3:]]
  path = _write_lines(tmp_path / 'questions', [{**ROW, 'program': program}])
  with pytest.raises(ValueError, match='found step 2 .*; mend that program'):
    babel_questions.read(path)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'expected JSON, found none from line 1'),
    ('{"000001": {', 'expected JSON, found none from line 1 .*; copy'),
    ('{}', 'expected questions, found none; check'),
    ('"walk"', "found 'walk'; check that it is the right file"),
    ('[7]', "question 1: expected an object of fields, found '7'; write"),
    (json.dumps(ROW) + '\n7\n', "question 2: .* found '7'; write"),
    (json.dumps(ROW) + '\n{"que\n', 'line 2: expected one JSON object a line'),
    (
      json.dumps({'2': _upstream()}),
      'expected question_id 2 under that key, found 000001; mend',
    ),
  ],
)
def test_a_malformed_file_is_reported(tmp_path, text, message):
  path = tmp_path / 'questions'
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    babel_questions.read(path)


def test_an_id_comes_once_in_every_layout(tmp_path):
  lines = _write_lines(tmp_path / 'lines', [ROW, ROW])
  with pytest.raises(ValueError, match='question 2: .*found 000001 again; r'):
    babel_questions.read(lines)
  row = json.dumps(_upstream())
  twice = tmp_path / 'object'
  twice.write_text(f'{{"000001": {row}, "000001": {row}}}')
  with pytest.raises(ValueError, match='key once, found 000001 again; remove'):
    babel_questions.read(twice)


def test_a_split_has_its_questions_in_its_order(tmp_path):
  questions = [_question(i) for i in range(4)]
  ids = {'train': ['000002', '000000'], 'val': ['000009'], 'test': ['1', '1']}
  path = _write(tmp_path / 'splits', ids)
  found = babel_questions.take_split(questions, path, 'train')
  assert found == [questions[2], questions[0]]
  with pytest.raises(ValueError, match='1 others in .val., the first 000009'):
    babel_questions.take_split(questions, path, 'val')
  with pytest.raises(ValueError, match="once in 'test', found 1 again"):
    babel_questions.take_split(questions, path, 'test')
  with pytest.raises(ValueError, match="under 'dev', found train, val, test"):
    babel_questions.take_split(questions, path, 'dev')


def test_the_vocabulary_is_what_occurs_or_what_a_file_says(tmp_path):
  pairs = ('action', 'walk'), ('action', 'sit'), ('direction', 'left')
  questions = [
    _question(i, query=query, answer=answer)
    for i, (query, answer) in enumerate(pairs * 2)
  ]
  assert babel_questions.vocabulary_of(questions) == {
    'action': ('sit', 'walk'),
    'direction': ('left',),
    'body_part': (),
  }
  path = _write(tmp_path / 'all', VOCABULARY)
  assert babel_questions.read_vocabulary(path) == VOCABULARY
  path = _write(tmp_path / 'some', {'action': ['walk']})
  with pytest.raises(ValueError, match='expected lists of answers for action,'):
    babel_questions.read_vocabulary(path)
