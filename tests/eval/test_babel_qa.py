import collections
import dataclasses
import json
import random
import shutil

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


# --- Scores ------------------------------------------------------------------


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    (' The  person\nWalks. ', 'walks'),
    ('"They stand up!"', 'stand up'),
    ('the left arm', 'left arm'),
    ('Take/pick something up...', 'take/pick something up'),
    ('theatre', 'theatre'),
    ('then walk', 'then walk'),
    ('person', 'person'),
    ('The person.', ''),
    ('they the', 'the'),
    ('?!', ''),
  ],
)
def test_normalised_texts(text, expected):
  assert babel_qa.normalise(text) == expected


@pytest.mark.parametrize(
  ('prediction', 'answer', 'is_strict', 'is_lenient'),
  [
    ('walk', 'walk', True, True),
    ('They walk.', 'walk', True, True),
    ('They stand up after that.', 'stand up', False, True),
    ('walks', 'walk', False, False),
    ('walk and sit', 'walk', False, False),
    ('sit', 'walk', False, False),
    ('jumping jacks', 'jump', False, False),
    ('Jumping jacks, twice.', 'jumping jacks', False, True),
    ('stand', 'stand up', False, False),
    ('', 'walk', False, False),
    ('left, walk', 'walk', False, True),
  ],
)
def test_strict_and_lenient_answers(prediction, answer, is_strict, is_lenient):
  assert babel_qa.strict(prediction, answer) == is_strict
  answers = VOCABULARY['action']
  assert babel_qa.lenient(prediction, answer, answers) == is_lenient


def test_an_answer_inside_a_longer_one_is_not_named():
  answers = 'squat', 'half squat'
  assert babel_qa.lenient('A half squat.', 'half squat', answers)
  assert not babel_qa.lenient('A half squat.', 'squat', answers)


def test_the_closed_answer_has_the_best_mean_and_not_the_best_sum():
  answers = 'forward', 'left', 'right'
  likelihoods = {
    'right': babel_qa.Likelihood(-3.0, 3),
    'left': (-3.0, 3),
    'forward': (-2.0, 1),
  }
  assert babel_qa.closed(likelihoods, answers) == 'left'
  with pytest.raises(ValueError, match="differ in 'right'; score each"):
    babel_qa.closed(likelihoods, answers[:2])
  for bad in ((float('nan'), 1), (float('-inf'), 1), (-1.0, 0)):
    with pytest.raises(ValueError, match="for 'left'; check how"):
      babel_qa.closed({**likelihoods, 'left': bad}, answers)


def test_slices_are_by_type_by_relation_and_by_both():
  questions = [
    _question(0, 'action', 'before'),
    _question(1, 'action', 'in_between'),
    _question(2, 'direction', 'no_relation'),
    _question(3, 'direction', 'after'),
  ]
  found = babel_qa.slices(questions)
  assert tuple(found) == babel_qa.SLICES
  members = {k: [int(q.id) for q in v] for k, v in found.items() if v}
  assert members == {
    'all': [0, 1, 2, 3],
    'action': [0, 1],
    'direction': [2, 3],
    'before': [0],
    'after': [3],
    'in_between': [1],
    'no_relation': [2],
    'other': [1, 2],
    'action/before': [0],
    'action/in_between': [1],
    'direction/no_relation': [2],
    'direction/after': [3],
  }


def test_accuracies_count_every_question():
  questions = [_question(i, relation=r) for i, r in enumerate(
    ['before', 'before', 'after'])]  # fmt: skip
  correct = {'000000': True, '000001': False, '000002': True, 'else': False}
  rows = babel_qa.accuracies(questions, correct)
  assert rows['all'] == {'accuracy': 2 / 3, 'n_correct': 2, 'n': 3}
  assert rows['before'] == {'accuracy': 0.5, 'n_correct': 1, 'n': 2}
  assert rows['other'] == {'accuracy': None, 'n_correct': 0, 'n': 0}
  del correct['000001']
  with pytest.raises(ValueError, match='none on 1, the first 000001; give'):
    babel_qa.accuracies(questions, correct)


def test_the_majority_is_that_of_train():
  train = [_question(i, answer=a) for i, a in enumerate(['walk', 'sit'] * 2)]
  other = [_question(i, answer='walk') for i in range(3)]
  assert babel_qa.majority(train) == {'action': 'sit'}, 'the first by name'
  rows = babel_qa.majority_accuracies([*train, _question(9)], other)
  assert rows['action/before'] == {'accuracy': 1.0, 'n_correct': 3, 'n': 3}
  # A type that train lacks has no majority, and its questions stay wrong.
  rows = babel_qa.majority_accuracies(other, [_question(0, 'direction')])
  assert rows['all'] == {'accuracy': 0.0, 'n_correct': 0, 'n': 1}


# --- The data set ------------------------------------------------------------

RELATIONS = ('before', 'after', 'no_relation', 'in_between')
# Questions, motions, by query type, by relation type.
COUNTS = {
  'train': (1800, 771, (1201, 376, 223), (588, 569, 514, 129)),
  'val': (384, 167, (271, 64, 49), (134, 124, 101, 25)),
  'test': (393, 171, (261, 72, 60), (124, 124, 113, 32)),
}
# Query type x relation. That of test is published; those of train and val were
# counted from the files without this code.
CROSS = {
  'train': ((439, 384, 285, 93), (69, 107, 169, 31), (80, 78, 60, 5)),
  'val': ((106, 95, 54, 16), (11, 17, 33, 3), (17, 12, 14, 6)),
  'test': ((86, 90, 63, 22), (15, 16, 35, 6), (23, 18, 15, 4)),
}
# Right answers of the majority. Those of test are its published percentages of
# the counts above.
MAJORITY = {
  'train': dict(all=526, action=355, direction=114, body_part=57, before=170,
                after=156, other=200),
  'val': dict(all=110, action=78, direction=17, body_part=15, before=36,
              after=42, other=32),
  'test': dict(all=134, action=93, direction=23, body_part=18, before=38,
               after=47, other=49),
}  # fmt: skip


@pytest.fixture(scope='module')
def splits(shared_data):
  folder = shared_data / 'babelqa'
  vocabulary = babel_qa.read_vocabulary(folder / 'answer_vocab.json')
  files = {'train': 'train', 'val': 'val', 'test': 'test_public'}
  return {
    split: babel_qa.read(folder / f'{name}.jsonl', vocabulary)
    for split, name in files.items()
  }


def _cross(rows):
  return tuple(
    tuple(rows[f'{query}/{relation}'] for relation in RELATIONS)
    for query in babel_qa.QUERY_TYPES
  )


@pytest.mark.parametrize('split', ['train', 'val'])
def test_the_counts_are_those_of_the_data_set(splits, split):
  questions = splits[split]
  n = {name: len(rows) for name, rows in babel_qa.slices(questions).items()}
  motions = len({q.babel_id for q in questions})
  by_query = tuple(n[name] for name in babel_qa.QUERY_TYPES)
  by_relation = tuple(n[name] for name in RELATIONS)
  assert (n['all'], motions, by_query, by_relation) == COUNTS[split]
  assert n['other'] == by_relation[2] + by_relation[3]
  assert _cross(n) == CROSS[split]


def test_the_public_part_of_test_leaves_100_questions(splits):
  """Every count is at most that of the whole, and the rest adds up."""
  questions = splits['test']
  n = {name: len(rows) for name, rows in babel_qa.slices(questions).items()}
  rest = np.array(CROSS['test']) - _cross(n)
  assert (rest >= 0).all()
  by_query = [n[name] for name in babel_qa.QUERY_TYPES]
  by_relation = [n[name] for name in RELATIONS]
  assert list(COUNTS['test'][2] - rest.sum(axis=1)) == by_query
  assert list(COUNTS['test'][3] - rest.sum(axis=0)) == by_relation
  assert (n['all'], rest.sum()) == (293, COUNTS['test'][0] - 293)


def test_no_motion_is_in_two_splits(splits):
  motions = [{q.babel_id for q in questions} for questions in splits.values()]
  assert len(set.union(*motions)) == sum(map(len, motions))


def test_the_split_file_gives_the_splits_in_their_order(shared_data, splits):
  path = shared_data / 'babelqa' / 'split_question_ids_public.json'
  everything = [q for questions in splits.values() for q in questions]
  random.Random(0).shuffle(everything)
  for split, questions in splits.items():
    assert babel_qa.take_split(everything, path, split) == questions


def test_the_vocabulary_is_what_occurs_in_train(shared_data, splits):
  vocabulary = babel_qa.vocabulary_of(splits['train'])
  path = shared_data / 'babelqa' / 'answer_vocab.json'
  assert vocabulary == babel_qa.read_vocabulary(path)
  sizes = {name: len(answers) for name, answers in vocabulary.items()}
  assert sizes == {'action': 20, 'direction': 4, 'body_part': 8}


def test_each_answer_is_itself_and_no_other(splits):
  """No answer is named inside another, so the order of looking is no matter."""
  for answers in babel_qa.vocabulary_of(splits['train']).values():
    for said in answers:
      right = [babel_qa.lenient(said, answer, answers) for answer in answers]
      assert right == [babel_qa.strict(said, answer) for answer in answers]
      assert sum(right) == 1


def test_programs_say_what_relation_types_say(splits):
  for question in sum(splits.values(), []):
    related = [s.value for s in question.program if s.function == 'relate']
    expected = {'no_relation': [], 'in_between': ['after', 'before']}
    relation = question.relation_type
    assert sorted(related) == expected.get(relation, [relation]), question.id
    filters = [s for s in question.program if s.function.startswith('filter')]
    assert all(step.value in question.question for step in filters)


def test_the_majority_row(splits):
  train = splits['train']
  assert babel_qa.majority(train) == {
    'action': 'walk',
    'direction': 'forward',
    'body_part': 'right hand',
  }
  for split in ('train', 'val'):
    rows = babel_qa.majority_accuracies(train, splits[split])
    found = {name: rows[name]['n_correct'] for name in MAJORITY[split]}
    assert found == MAJORITY[split]


def test_the_majority_row_of_test_fits_its_public_part(splits):
  """100 questions are not here; neither right nor wrong ones can be fewer."""
  published = {'all': 34.10, 'action': 35.63, 'direction': 31.94,
               'body_part': 30.00, 'before': 30.65, 'after': 37.90,
               'other': 33.79}  # fmt: skip
  rows = babel_qa.majority_accuracies(splits['train'], splits['test'])
  totals = dict(zip(babel_qa.QUERY_TYPES, COUNTS['test'][2], strict=True))
  totals |= {'all': 393, 'before': 124, 'after': 124, 'other': 145}
  for name, percent in published.items():
    right, total = MAJORITY['test'][name], totals[name]
    assert round(100 * right / total, 2) == pytest.approx(percent)
    row = rows[name]
    assert row['n_correct'] <= right
    assert row['n'] - row['n_correct'] <= total - right
  assert rows['all'] == {'accuracy': 102 / 293, 'n_correct': 102, 'n': 293}


def test_programs_answer_every_question_of_humman_qa(shared_data):
  folder = shared_data / 'humman_qa'
  questions = babel_qa.read(folder / 'questions_public.json')
  motions = babel_qa.read_segments(folder / 'motion_concepts_public.json')
  assert (len(questions), len(motions)) == (192, 60)
  kinds = collections.Counter()
  for question in questions:
    found = babel_qa.execute(question, motions[question.babel_id])
    assert question.answer in found.answers, question.id
    assert found.filter_answers == question.filter_answers, question.id
    kinds[question.relation_type] += 1
  assert [kinds[name] for name in RELATIONS] == [49, 68, 68, 7]


def test_three_questions_from_their_text_to_their_motion(shared_data, splits):
  folder = shared_data / 'babel_segments'
  segments = babel_qa.read_segments(folder / '919_segments.json')
  asked = {q.id: q for q in splits['train'] if q.babel_id in segments}
  found = {
    name: babel_qa.execute(question, segments[question.babel_id])
    for name, question in asked.items()
  }
  assert found == {
    '004019': ((0,), 0, ('walk',)),
    '004020': ((0,), 1, ('sit',)),
    '004023': ((3,), 4, ('walk',)),
  }
  answers = {'004019': 'walk', '004020': 'sit', '004023': 'walk'}
  assert {name: q.answer for name, q in asked.items()} == answers

  joints_TJ3 = babel_qa.read_motion(folder, '919').joints
  assert joints_TJ3.shape == (211, skeleton.NUM_JOINTS, 3)
  # Features face +z: the segments show what they are labelled with.
  pelvis_T3 = features.recover(features.encode(joints_TJ3))[:, 0]
  ends = [
    (segment.start_frame * 2 // 3, segment.end_frame * 2 // 3 - 1)
    for segment in segments['919']
  ]
  moved = [pelvis_T3[end] - pelvis_T3[start] for start, end in ends]
  assert moved[0][2] > 1.0, 'walks forward'
  assert moved[1][1] < -0.2, 'sits down'
  assert moved[3][1] > 0.2, 'stands up'
  assert moved[4][2] < -1.0, 'walks back'


def test_both_layouts_of_a_motion_folder_are_the_same(shared_data, tmp_path):
  folder = tmp_path / 'motion_sequences' / '4869'
  folder.mkdir(parents=True)
  source = shared_data / 'babel_segments'
  shutil.copy(source / '4869_joints_30fps.npy', folder / 'joints.npy')
  np.testing.assert_array_equal(
    babel_qa.read_motion(tmp_path, '4869').joints,
    babel_qa.read_motion(source, '4869').joints,
  )
