import re

import pytest

from vimonet_jax.infer import scheduler
from vimonet_jax.web import talk, transcript

END = scheduler.End('He <b>waves</b>.', 'stop', 135, 11, 0.3, 0.02, 1.42, 0.21)


def _said(**changes):
  fields = {'inputs': ('motion',), 'text': 'He <b>waves</b>.', 'end': END}
  return talk.Said(**(fields | changes))


def test_what_people_and_models_write_is_no_markup():
  turn = talk.Turn('<script>alert(1)</script>', [_said()])
  page = transcript.conversation([turn])
  assert '<script' not in page
  assert '<b>' not in page
  assert '&lt;b&gt;waves' in page
  failed = talk.Turn('What?', [_said(end=None, error='<img src=x>')])
  assert '<img' not in transcript.conversation([failed])


@pytest.mark.parametrize(
  ('said', 'line'),
  [
    (
      _said(),
      'motion · waited 300 ms · clips encoded in 20 ms · 135 tokens read in '
      '1.4 s · 11 written, 21 ms each',
    ),
    (
      _said(inputs=(), end=None, text='', ahead=3),
      'waiting, 2 before this one',
    ),
    (_said(inputs=(), end=None, text='', ahead=1), 'next in line'),
    (_said(inputs=(), end=None, text=''), 'text only · reading'),
    (
      _said(inputs=('motion', 'video'), end=None, text='He'),
      'motion and video · writing',
    ),
    (_said(end=None, error='Expected less.'), ''),
  ],
)
def test_the_line_below_says_what_it_took(said, line):
  assert transcript.how(said) == line


@pytest.mark.parametrize(
  ('reason', 'words'), [('cancelled', 'stopped'), ('length', 'cut short')]
)
def test_an_answer_that_is_not_whole_says_so(reason, words):
  end = scheduler.End('He', reason, 9, 1, 0.0, 0.0, 0.01, 0.0)
  assert transcript.timings(end)[-1].startswith(words)
  assert not any('each' in x for x in transcript.timings(end))


def test_what_was_stopped_while_it_waited_was_not_read():
  end = scheduler.End('', 'cancelled', 135, 0, 2.0, 0.0, 0.0, 0.0)
  assert transcript.timings(end) == ['waited 2.0 s', 'stopped']


def test_compared_answers_stand_side_by_side_under_their_inputs():
  answers = [_said(inputs=inputs) for inputs in talk.CHOICES]
  page = transcript.conversation([talk.Turn('What?', answers)])
  assert re.findall('<h3>(.*?)</h3>', page) == [
    'Text only', 'Motion only', 'Video only', 'Both',
  ]  # fmt: skip
  assert 'several n4' in page
  alone = transcript.conversation([talk.Turn('What?', answers[:1])])
  assert '<h3>' not in alone


def test_answers_are_read_out_once_all_are_whole():
  both = [_said(inputs=()), _said(end=None, text='He wa')]
  assert transcript.aloud(talk.Turn('What?', both)) == ''
  both[1] = _said(end=None, error='Expected less.')
  assert transcript.aloud(talk.Turn('What?', both)) == (
    'Text only: He <b>waves</b>. Motion only: Expected less.'
  )
  assert transcript.aloud(talk.Turn('What?', [_said()])) == 'He <b>waves</b>.'
