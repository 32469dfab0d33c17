import collections
import dataclasses
import json

import babel_asked
import pytest

from vimonet_jax.data import babel_questions, babel_segments
from vimonet_jax.motion import features, skeleton

SEGMENTS = (
  babel_segments.Segment(0, 30, ('walk',), ('forward',)),
  babel_segments.Segment(30, 60, ('sit',)),
  babel_segments.Segment(60, 90, ('stand up', 'stretch')),
  babel_segments.Segment(90, 120, ('walk',), ('left',)),
)


def _write(path, value):
  path.write_text(json.dumps(value))
  return path


def _ask(*program, query='action'):
  """A question with this program, without the scene and the query."""
  steps = [babel_questions.Step(*step) for step in (('scene',), *program)]
  steps.append(babel_questions.Step(f'query_{query}', (len(steps) - 1,)))
  asked = babel_asked.question(1, query)
  return dataclasses.replace(asked, program=tuple(steps))


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
  assert babel_segments.read(path) == {
    '7': (
      babel_segments.Segment(30, 60, ('sit',), (), ('left leg', 'right leg')),
      babel_segments.Segment(0, 30, (), ('left',)),
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
  assert babel_segments.read(path) == {
    '7': (
      babel_segments.Segment(0, 9, actions, (), ('left arm',)),
      babel_segments.Segment(30, 39, ('walk',), ('backwards',)),
      babel_segments.Segment(50, 59, ('walk',), ('left',)),
      babel_segments.Segment(70, 79, ('run',), ('forward',)),
    )
  }


@pytest.mark.parametrize(
  'value', [[], {'7': [{'start_f': 0}]}, {'segments': [{}]}, {'7': 3}]
)
def test_other_files_have_no_segments(tmp_path, value):
  path = _write(tmp_path / 'segments', value)
  with pytest.raises(ValueError, match='expected segments with frames'):
    babel_segments.read(path)


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
  assert babel_segments.execute(question, SEGMENTS) == expected


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
    babel_segments.execute(_ask(*program), SEGMENTS)


def test_a_segment_without_an_answer_is_reported():
  question = _ask(('filter_action', (0,), 'sit'), query='body_part')
  with pytest.raises(ValueError, match='expected body_part of segment 1'):
    babel_segments.execute(question, SEGMENTS)


def test_programs_answer_every_question_of_humman_qa(shared_data):
  folder = shared_data / 'humman_qa'
  questions = babel_questions.read(folder / 'questions_public.json')
  motions = babel_segments.read(folder / 'motion_concepts_public.json')
  assert (len(questions), len(motions)) == (192, 60)
  kinds = collections.Counter()
  for question in questions:
    found = babel_segments.execute(question, motions[question.babel_id])
    assert question.answer in found.answers, question.id
    assert found.filter_answers == question.filter_answers, question.id
    kinds[question.relation_type] += 1
  assert [kinds[name] for name in babel_asked.RELATIONS] == [49, 68, 68, 7]


def test_three_questions_from_their_text_to_their_motion(shared_data):
  folder = shared_data / 'babel_segments'
  segments = babel_segments.read(folder / '919_segments.json')
  train = babel_asked.splits(shared_data)['train']
  asked = {q.id: q for q in train if q.babel_id in segments}
  found = {
    name: babel_segments.execute(question, segments[question.babel_id])
    for name, question in asked.items()
  }
  assert found == {
    '004019': ((0,), 0, ('walk',)),
    '004020': ((0,), 1, ('sit',)),
    '004023': ((3,), 4, ('walk',)),
  }
  answers = {'004019': 'walk', '004020': 'sit', '004023': 'walk'}
  assert {name: q.answer for name, q in asked.items()} == answers

  joints_TJ3 = babel_questions.read_motion(folder, '919').joints
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
