import films
import pytest

from vimonet_jax.annotation import contradictions, replies
from vimonet_jax.synthetic import actions


@pytest.fixture(scope='module')
def waving():
  """Evidence of somebody who waves with the right hand."""
  joints = films.joints(actions.Action('wave', side='right'))
  return contradictions.measure(joints)


def _turn(question='How does it begin?', answer='With a wave.', **fields):
  return {
    'question': question,
    'answer': answer,
    'domain': 'sequentiality',
    'kind': 'free',
    'follows': False,
    **fields,
  }


@pytest.mark.parametrize(
  'text',
  [
    'The person waves with the right hand.',
    'word ' * 49,
    # These are done, and not what shows it.
    'A man steps through a door frame and takes a picture.',
  ],
)
def test_a_caption_of_a_movement_is_kept(waving, text):
  assert replies.check_caption(text, waving) is None


@pytest.mark.parametrize(
  ('text', 'told'),
  [
    ('', 'fewer than 50 words, found 0'),
    ('word ' * 50, 'fewer than 50 words, found 50'),
    ('In the first frame a person stands.', "found 'frame'"),
    ('The video shows a person.', "found 'The video'"),
    ('These pictures show a person.', "found 'These pictures'"),
  ],
)
def test_a_caption_of_something_else_is_not(waving, text, told):
  refused = replies.check_caption(text, waving)
  assert told in refused.reason
  assert not refused.is_contradicted


def test_a_caption_is_checked_where_there_is_a_motion(waving):
  text = 'The person waves with the left hand.'
  assert replies.check_caption(text, waving).is_contradicted
  assert replies.check_caption(text, None) is None


@pytest.mark.parametrize(
  ('fields', 'told'),
  [
    ({'answer': ' '}, 'found no words'),
    ({'question': ''}, 'found no words'),
    ({'answer': 'The caption says so.'}, "speaks of 'caption'"),
    ({'question': 'What do these lines tell?'}, "speaks of 'these lines'"),
    ({'kind': 'true_false', 'answer': 'Yes.'}, "true or false, found 'Yes.'"),
    ({'kind': 'yes_no', 'answer': 'It does.'}, 'yes or no, found'),
    ({'kind': 'count', 'answer': 'Often.'}, 'with a number'),
    ({'kind': 'multiple_choice', 'answer': 'A) once'}, 'options with letters'),
    (
      {
        'kind': 'multiple_choice',
        'question': 'How often? A) once B) twice',
        'answer': 'C) thrice',
      },
      'options with letters',
    ),
  ],
)
def test_a_turn_has_the_form_that_it_names(fields, told):
  kept = replies.check_turns([_turn(**fields)], None)
  assert not kept.turns
  assert told in kept.refused[0].reason


@pytest.mark.parametrize(
  'fields',
  [
    {'kind': 'true_false', 'answer': 'False, it is the right one.'},
    {'kind': 'yes_no', 'answer': 'No.'},
    {'kind': 'count', 'answer': 'The hand swings twice.'},
    {'kind': 'count', 'answer': '12 times.'},
    {
      'kind': 'multiple_choice',
      'question': 'How often? (A) once (B) twice',
      'answer': '(B) twice',
    },
  ],
)
def test_turns_of_all_kinds_are_kept(fields):
  assert replies.check_turns([_turn(**fields)], None).turns


def test_a_question_that_comes_again_is_left_out():
  turns = [_turn(), _turn('How does it BEGIN'), _turn('How does it end?')]
  kept = replies.check_turns(turns, None)
  assert kept.turns == (turns[0], turns[2])
  then = _turn('And then?', follows=True)
  assert len(replies.check_turns([turns[0], then, then], None).turns) == 3


def test_what_follows_something_left_out_is_left_out(waving):
  """Also what follows that, until a question makes sense alone."""
  turns = [
    _turn('And then?', follows=True),
    _turn('What does the left hand do?', 'The left hand waves.'),
    _turn('And then?', follows=True),
    _turn('And then?', follows=True),
    _turn('How does it end?'),
    _turn('And then?', follows=True),
  ]
  kept = replies.check_turns(turns, waving)
  assert kept.turns == tuple(turns[4:])
  assert [each.is_contradicted for each in kept.refused] == [
    False, True, False, False
  ]  # fmt: skip
