import collections
import dataclasses
import json
import shutil

import numpy as np
import pytest

from vimonet_jax.data import babel_motions, babel_questions
from vimonet_jax.motion import features, skeleton

RELATIONS = ('before', 'after', 'no_relation', 'in_between')
SEGMENTS = (
  babel_motions.Segment(0, 30, ('walk',), ('forward',)),
  babel_motions.Segment(30, 60, ('sit',)),
  babel_motions.Segment(60, 90, ('stand up', 'stretch')),
  babel_motions.Segment(90, 120, ('walk',), ('left',)),
)


def _write(path, value):
  path.write_text(json.dumps(value))
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


def _ask(*program, query='action'):
  """A question with this program, without the scene and the query."""
  steps = [
    babel_questions.Step('scene'),
    *(babel_questions.Step(*step) for step in program),
  ]
  steps.append(babel_questions.Step(f'query_{query}', (len(steps) - 1,)))
  return dataclasses.replace(_question(1, query), program=tuple(steps))


# --- Motions -----------------------------------------------------------------


def _slide(num_frames):
  """A body that stands, faces -z and slides there at 1 m/s, at 30 fps."""
  body_J3 = np.zeros((skeleton.NUM_JOINTS, 3))
  for joint, parent in list(enumerate(skeleton.PARENTS))[1:]:
    body_J3[joint] = body_J3[parent] + skeleton.STANDING_OFFSETS_J3[joint]
  body_J3 *= [-1, 1, -1]
  body_J3[:, 1] -= body_J3[:, 1].min()
  path_T3 = np.arange(num_frames)[:, None] / babel_motions.FPS * [0, 0, -1]
  return (body_J3 + path_T3[:, None]).astype(np.float32)


@pytest.mark.parametrize(
  'place', ['motion_sequences/7/joints.npy', '7_joints_30fps.npy']
)
def test_motions_are_found_and_brought_from_30_to_20_fps(tmp_path, place):
  path = tmp_path / place
  path.parent.mkdir(exist_ok=True, parents=True)
  np.save(path, _slide(61))
  assert babel_motions.find_motion(tmp_path, '7') == path
  joints_TJ3 = babel_motions.read_motion(tmp_path, '7').joints
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
  motion = babel_motions.read_motion(tmp_path, '7')
  assert 'Turned from z up to y up.' in motion.notes
  head = skeleton.INDEX['head']
  assert (motion.joints[:, head, 1] > 1.4).all()
  lying = babel_motions.read_motion(tmp_path, '8')
  assert (lying.joints[:, head, 1] < 0.3).all()
  standing = babel_motions.read_motion(tmp_path, '8', up='z')
  np.testing.assert_array_equal(standing.joints, motion.joints)


def test_a_motion_that_is_not_there_is_reported(tmp_path):
  with pytest.raises(ValueError, match='7/joints.npy or 7_joints_30fps.npy'):
    babel_motions.find_motion(tmp_path, '7')


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
  assert babel_motions.read_segments(path) == {
    '7': (
      babel_motions.Segment(30, 60, ('sit',), (), ('left leg', 'right leg')),
      babel_motions.Segment(0, 30, (), ('left',)),
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
  assert babel_motions.read_segments(path) == {
    '7': (
      babel_motions.Segment(0, 9, actions, (), ('left arm',)),
      babel_motions.Segment(30, 39, ('walk',), ('backwards',)),
      babel_motions.Segment(50, 59, ('walk',), ('left',)),
      babel_motions.Segment(70, 79, ('run',), ('forward',)),
    )
  }


@pytest.mark.parametrize(
  'value', [[], {'7': [{'start_f': 0}]}, {'segments': [{}]}, {'7': 3}]
)
def test_other_files_have_no_segments(tmp_path, value):
  path = _write(tmp_path / 'segments', value)
  with pytest.raises(ValueError, match='expected segments with frames'):
    babel_motions.read_segments(path)


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
  assert babel_motions.execute(question, SEGMENTS) == expected


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
    babel_motions.execute(_ask(*program), SEGMENTS)


def test_a_segment_without_an_answer_is_reported():
  question = _ask(('filter_action', (0,), 'sit'), query='body_part')
  with pytest.raises(ValueError, match='expected body_part of segment 1'):
    babel_motions.execute(question, SEGMENTS)


def test_programs_answer_every_question_of_humman_qa(shared_data):
  folder = shared_data / 'humman_qa'
  questions = babel_questions.read(folder / 'questions_public.json')
  motions = babel_motions.read_segments(folder / 'motion_concepts_public.json')
  assert (len(questions), len(motions)) == (192, 60)
  kinds = collections.Counter()
  for question in questions:
    found = babel_motions.execute(question, motions[question.babel_id])
    assert question.answer in found.answers, question.id
    assert found.filter_answers == question.filter_answers, question.id
    kinds[question.relation_type] += 1
  assert [kinds[name] for name in RELATIONS] == [49, 68, 68, 7]


def test_both_layouts_of_a_motion_folder_are_the_same(shared_data, tmp_path):
  folder = tmp_path / 'motion_sequences' / '4869'
  folder.mkdir(parents=True)
  source = shared_data / 'babel_segments'
  shutil.copy(source / '4869_joints_30fps.npy', folder / 'joints.npy')
  np.testing.assert_array_equal(
    babel_motions.read_motion(tmp_path, '4869').joints,
    babel_motions.read_motion(source, '4869').joints,
  )
