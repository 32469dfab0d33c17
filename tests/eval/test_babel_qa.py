import dataclasses
import json

import numpy as np
import pytest

from vimonet_jax.eval import babel_qa
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
SEGMENTS = (
  babel_qa.Segment(0, 30, ('walk',), ('forward',)),
  babel_qa.Segment(30, 60, ('sit',)),
  babel_qa.Segment(60, 90, ('stand up', 'stretch')),
  babel_qa.Segment(90, 120, ('walk',), ('left',)),
)


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
  steps = babel_qa.Step('scene'), babel_qa.Step(f'query_{query}', (0,))
  name = f'{number:06d}'
  return babel_qa.Question(name, '7', query, relation, '?', steps, answer)


def _ask(*program, query='action'):
  """A question with this program, without the scene and the query."""
  steps = [babel_qa.Step('scene'), *(babel_qa.Step(*step) for step in program)]
  steps.append(babel_qa.Step(f'query_{query}', (len(steps) - 1,)))
  return dataclasses.replace(_question(1, query), program=tuple(steps))


# --- Questions ---------------------------------------------------------------


def test_all_layouts_say_the_same(tmp_path):
  (ours,) = babel_qa.read(_write_lines(tmp_path / 'a', [ROW]), VOCABULARY)
  assert (ours.id, ours.babel_id, ours.query_type) == ('000001', '7', 'action')
  assert ours.program[3] == ('filter_direction', (0,), 'left')
  assert ours.program[5] == ('intersect', (2, 4), '')
  assert ours.filter_answers == ()
  layouts = {'000001': _upstream()}, [_upstream()]
  for number, layout in enumerate(layouts):
    (theirs,) = babel_qa.read(_write(tmp_path / str(number), layout))
    assert theirs == dataclasses.replace(ours, filter_answers=(1, 3))


def test_indented_json_and_blank_lines_are_told_apart(tmp_path):
  rows = [{**ROW, 'question_id': f'00000{i}'} for i in range(3)]
  lines = tmp_path / 'lines'
  lines.write_text('\n' + '\n\n'.join(map(json.dumps, rows)))
  indented = tmp_path / 'indented'
  by_id = {row['question_id']: _upstream(row) for row in rows}
  indented.write_text(json.dumps(by_id, indent=1))
  assert [q.id for q in babel_qa.read(lines)] == list(by_id)
  assert [q.id for q in babel_qa.read(indented)] == list(by_id)


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
    babel_qa.read(path, VOCABULARY)


def test_no_answer_is_in_an_empty_vocabulary(tmp_path):
  path = _write_lines(tmp_path / 'questions', [ROW])
  with pytest.raises(ValueError, match='of the 0 answers of action'):
    babel_qa.read(path, {**VOCABULARY, 'action': ()})


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
    babel_qa.read(path)


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
    babel_qa.read(path)


def test_an_id_comes_once_in_every_layout(tmp_path):
  lines = _write_lines(tmp_path / 'lines', [ROW, ROW])
  with pytest.raises(ValueError, match='question 2: .*found 000001 again; r'):
    babel_qa.read(lines)
  row = json.dumps(_upstream())
  twice = tmp_path / 'object'
  twice.write_text(f'{{"000001": {row}, "000001": {row}}}')
  with pytest.raises(ValueError, match='key once, found 000001 again; remove'):
    babel_qa.read(twice)


def test_a_split_has_its_questions_in_its_order(tmp_path):
  questions = [_question(i) for i in range(4)]
  ids = {'train': ['000002', '000000'], 'val': ['000009'], 'test': ['1', '1']}
  path = _write(tmp_path / 'splits', ids)
  found = babel_qa.take_split(questions, path, 'train')
  assert found == [questions[2], questions[0]]
  with pytest.raises(ValueError, match='1 others in .val., the first 000009'):
    babel_qa.take_split(questions, path, 'val')
  with pytest.raises(ValueError, match="once in 'test', found 1 again"):
    babel_qa.take_split(questions, path, 'test')
  with pytest.raises(ValueError, match="under 'dev', found train, val, test"):
    babel_qa.take_split(questions, path, 'dev')


def test_the_vocabulary_is_what_occurs_or_what_a_file_says(tmp_path):
  pairs = ('action', 'walk'), ('action', 'sit'), ('direction', 'left')
  questions = [
    _question(i, query=query, answer=answer)
    for i, (query, answer) in enumerate(pairs * 2)
  ]
  assert babel_qa.vocabulary_of(questions) == {
    'action': ('sit', 'walk'),
    'direction': ('left',),
    'body_part': (),
  }
  path = _write(tmp_path / 'all', VOCABULARY)
  assert babel_qa.read_vocabulary(path) == VOCABULARY
  path = _write(tmp_path / 'some', {'action': ['walk']})
  with pytest.raises(ValueError, match='expected lists of answers for action,'):
    babel_qa.read_vocabulary(path)


# --- Motions -----------------------------------------------------------------


def _slide(num_frames):
  """A body that stands, faces -z and slides there at 1 m/s, at 30 fps."""
  body_J3 = np.zeros((skeleton.NUM_JOINTS, 3))
  for joint, parent in list(enumerate(skeleton.PARENTS))[1:]:
    body_J3[joint] = body_J3[parent] + skeleton.STANDING_OFFSETS_J3[joint]
  body_J3 *= [-1, 1, -1]
  body_J3[:, 1] -= body_J3[:, 1].min()
  path_T3 = np.arange(num_frames)[:, None] / babel_qa.FPS * [0, 0, -1]
  return (body_J3 + path_T3[:, None]).astype(np.float32)


@pytest.mark.parametrize(
  'place', ['motion_sequences/7/joints.npy', '7_joints_30fps.npy']
)
def test_motions_are_found_and_brought_from_30_to_20_fps(tmp_path, place):
  path = tmp_path / place
  path.parent.mkdir(exist_ok=True, parents=True)
  np.save(path, _slide(61))
  assert babel_qa.find_motion(tmp_path, '7') == path
  joints_TJ3 = babel_qa.read_motion(tmp_path, '7').joints
  assert joints_TJ3.shape == (41, skeleton.NUM_JOINTS, 3)
  np.testing.assert_allclose(joints_TJ3[20], _slide(61)[30], atol=1e-5)
  # Features turn who faces -z to +z, and forward stays forward.
  path_T3 = features.recover(features.encode(joints_TJ3))[:, 0]
  np.testing.assert_allclose(path_T3[20, [0, 2]], [0, 1], atol=0.02)


def test_the_up_axis_is_known_in_one_layout_and_seen_in_the_other(tmp_path):
  z_up_TJ3 = _slide(61)[..., [0, 2, 1]] * [-1, 1, 1]
  folder = tmp_path / 'motion_sequences' / '7'
  folder.mkdir(parents=True)
  np.save(folder / 'joints.npy', z_up_TJ3)
  np.save(tmp_path / '8_joints_30fps.npy', z_up_TJ3)
  motion = babel_qa.read_motion(tmp_path, '7')
  assert 'Turned from z up to y up.' in motion.notes
  head = skeleton.INDEX['head']
  assert (motion.joints[:, head, 1] > 1.4).all()
  lying = babel_qa.read_motion(tmp_path, '8')
  assert (lying.joints[:, head, 1] < 0.3).all()
  standing = babel_qa.read_motion(tmp_path, '8', up='z')
  np.testing.assert_array_equal(standing.joints, motion.joints)


def test_a_motion_that_is_not_there_is_reported(tmp_path):
  with pytest.raises(ValueError, match='7/joints.npy or 7_joints_30fps.npy'):
    babel_qa.find_motion(tmp_path, '7')


# --- Segments ----------------------------------------------------------------


def test_concepts_keep_their_order_and_lose_transitions(tmp_path):
  rows = [
    (30, 60, {'action': ['sit'], 'body_part': ['left leg', 'right leg']}),
    (60, 70, {'action': ['transition']}),
    (0, 30, {'direction': ['left']}),
  ]
  rows = [
    {'start_f': start, 'end_f': end, 'attributes': attributes}
    for start, end, attributes in rows
  ]
  path = _write(tmp_path / 'motion_concepts.json', {'7': rows, '8': []})
  assert babel_qa.read_segments(path) == {
    '7': (
      babel_qa.Segment(30, 60, ('sit',), (), ('left leg', 'right leg')),
      babel_qa.Segment(0, 30, (), ('left',)),
    ),
    '8': (),
  }


def test_labels_tell_actions_directions_and_body_parts(tmp_path):
  rows = [
    (50, 'Walk to the left', ['walk']),
    (0, 'Raise Left arm', ['raising body part', 'arm movements']),
    (20, 'transition', ['transition']),
    (30, 'go back', ['backwards movement', 'walk']),
    (70, 'run forwards', ['forward movement', 'run']),
  ]
  rows = [
    {
      'start_frame': start,
      'end_frame': start + 9,
      'raw_label': label,
      'action_categories': [categories],
    }
    for start, label, categories in rows
  ]
  path = _write(tmp_path / 'one.json', {'babel_id': '7', 'segments': rows})
  actions = ('raising body part', 'arm movements')
  assert babel_qa.read_segments(path) == {
    '7': (
      babel_qa.Segment(0, 9, actions, (), ('left arm',)),
      babel_qa.Segment(30, 39, ('walk',), ('backwards',)),
      babel_qa.Segment(50, 59, ('walk',), ('left',)),
      babel_qa.Segment(70, 79, ('run',), ('forward',)),
    )
  }


@pytest.mark.parametrize(
  'value', [[], {'7': [{'start_f': 0}]}, {'segments': [{}]}, {'7': 3}]
)
def test_other_files_have_no_segments(tmp_path, value):
  path = _write(tmp_path / 'segments', value)
  with pytest.raises(ValueError, match='expected segments with frames'):
    babel_qa.read_segments(path)


@pytest.mark.parametrize(
  ('program', 'query', 'expected'),
  [
    ([('filter_action', (0,), 'sit'), ('relate', (1,), 'before')], 'direction',
     ((1,), 0, ('forward',))),
    ([('filter_action', (0,), 'sit'), ('relate', (1,), 'after')], 'action',
     ((1,), 2, ('stand up', 'stretch'))),
    ([('filter_direction', (0,), 'left')], 'action', ((3,), 3, ('walk',))),
    ([('filter_direction', (0,), 'left'), ('relate', (1,), 'before'),
      ('filter_action', (0,), 'sit'), ('relate', (3,), 'after'),
      ('intersect', (2, 4))], 'action', ((3, 1), 2, ('stand up', 'stretch'))),
  ],
)  # fmt: skip
def test_a_program_finds_its_segment(program, query, expected):
  question = _ask(*program, query=query)
  assert babel_qa.execute(question, SEGMENTS) == expected


@pytest.mark.parametrize(
  ('program', 'message'),
  [
    ([('filter_action', (0,), 'walk')], 'one segment of action walk, found 2'),
    ([('filter_action', (0,), 'run')], 'one segment of action run, found 0'),
    ([('filter_direction', (0,), 'left'), ('relate', (1,), 'after')],
     'one segment to ask about, found 0'),
    ([('filter_direction', (0,), 'forward'), ('relate', (1,), 'before')],
     'one segment to ask about, found 0'),
    ([('filter_direction', (0,), 'left'), ('relate', (1,), 'before'),
      ('filter_action', (0,), 'stand up'), ('relate', (3,), 'after'),
      ('intersect', (2, 4))], 'one segment to ask about, found 0'),
  ],
)  # fmt: skip
def test_a_program_that_finds_no_single_segment_is_reported(program, message):
  with pytest.raises(ValueError, match=f'{message} of 4; check the segments'):
    babel_qa.execute(_ask(*program), SEGMENTS)


def test_a_segment_without_an_answer_is_reported():
  question = _ask(('filter_action', (0,), 'sit'), query='body_part')
  with pytest.raises(ValueError, match='expected body_part of segment 1'):
    babel_qa.execute(question, SEGMENTS)
