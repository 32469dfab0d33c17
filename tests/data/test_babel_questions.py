import dataclasses
import json
import random
import shutil

import babel_asked
import numpy as np
import pytest

from vimonet_jax.data import babel_questions
from vimonet_jax.motion import features, skeleton

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


def test_all_layouts_say_the_same(tmp_path):
  path = _write_lines(tmp_path / 'a', [ROW])
  (ours,) = babel_questions.read(path, VOCABULARY)
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
    ({'answer': ['walk']}, r"text as answer, found \['walk'\]; mend"),
    ({'question': ' '}, "text as question, found ' '; mend"),
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
  questions = [babel_asked.question(i) for i in range(4)]
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
    babel_asked.question(i, query=query, answer=answer)
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


@pytest.mark.parametrize(
  'place', ['motion_sequences/7/joints.npy', '7_joints_30fps.npy']
)
def test_motions_are_found_and_brought_from_30_to_20_fps(tmp_path, place):
  path = tmp_path / place
  path.parent.mkdir(exist_ok=True, parents=True)
  np.save(path, babel_asked.slide(61))
  assert babel_questions.find_motion(tmp_path, '7') == path
  joints_TJ3 = babel_questions.read_motion(tmp_path, '7').joints
  assert joints_TJ3.shape == (41, skeleton.NUM_JOINTS, 3)
  np.testing.assert_allclose(
    joints_TJ3[20], babel_asked.slide(61)[30], atol=1e-5
  )
  # Features turn who faces -z to +z, and forward stays forward.
  path_T3 = features.recover(features.encode(joints_TJ3))[:, 0]
  np.testing.assert_allclose(path_T3[20, [0, 2]], [0, 1], atol=0.02)


def test_the_up_axis_is_known_in_one_layout_and_seen_in_the_other(tmp_path):
  z_up_TJ3 = babel_asked.slide(61)[..., [0, 2, 1]] * [-1, 1, 1]
  folder = tmp_path / 'motion_sequences' / '7'
  folder.mkdir(parents=True)
  np.save(folder / 'joints.npy', z_up_TJ3)
  np.save(tmp_path / '8_joints_30fps.npy', z_up_TJ3)
  motion = babel_questions.read_motion(tmp_path, '7')
  assert 'Turned from z up to y up.' in motion.notes
  head = skeleton.INDEX['head']
  assert (motion.joints[:, head, 1] > 1.4).all()
  lying = babel_questions.read_motion(tmp_path, '8')
  assert (lying.joints[:, head, 1] < 0.3).all()
  standing = babel_questions.read_motion(tmp_path, '8', up='z')
  np.testing.assert_array_equal(standing.joints, motion.joints)


def test_a_motion_that_is_not_there_is_reported(tmp_path):
  with pytest.raises(ValueError, match='7/joints.npy or 7_joints_30fps.npy'):
    babel_questions.find_motion(tmp_path, '7')


# --- The data set ------------------------------------------------------------


@pytest.fixture(scope='module')
def splits(shared_data):
  return babel_asked.splits(shared_data)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_the_data_set_is_complete(splits, split):
  motions = {question.babel_id for question in splits[split]}
  assert (len(splits[split]), len(motions)) == babel_asked.COUNTS[split][:2]


def test_no_motion_is_in_two_splits(splits):
  motions = [{q.babel_id for q in questions} for questions in splits.values()]
  assert len(set.union(*motions)) == sum(map(len, motions))


def test_the_split_file_gives_the_splits_in_their_order(shared_data, splits):
  path = shared_data / 'babelqa' / 'split_question_ids_public.json'
  everything = [q for questions in splits.values() for q in questions]
  random.Random(0).shuffle(everything)
  for split, questions in splits.items():
    assert babel_questions.take_split(everything, path, split) == questions


def test_the_vocabulary_is_what_occurs_in_train(shared_data, splits):
  vocabulary = babel_questions.vocabulary_of(splits['train'])
  path = shared_data / 'babelqa' / 'answer_vocab.json'
  assert vocabulary == babel_questions.read_vocabulary(path)
  sizes = {name: len(answers) for name, answers in vocabulary.items()}
  assert sizes == {'action': 20, 'direction': 4, 'body_part': 8}


def test_programs_say_what_relation_types_say(splits):
  for question in sum(splits.values(), []):
    related = [s.value for s in question.program if s.function == 'relate']
    expected = {'no_relation': [], 'in_between': ['after', 'before']}
    relation = question.relation_type
    assert sorted(related) == expected.get(relation, [relation]), question.id
    filters = [s for s in question.program if s.function.startswith('filter')]
    assert all(step.value in question.question for step in filters)


def test_both_layouts_of_a_motion_folder_are_the_same(shared_data, tmp_path):
  folder = tmp_path / 'motion_sequences' / '4869'
  folder.mkdir(parents=True)
  source = shared_data / 'babel_segments'
  shutil.copy(source / '4869_joints_30fps.npy', folder / 'joints.npy')
  np.testing.assert_array_equal(
    babel_questions.read_motion(tmp_path, '4869').joints,
    babel_questions.read_motion(source, '4869').joints,
  )
