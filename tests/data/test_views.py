import collections
import dataclasses

import numpy as np
import pytest

from vimonet_jax.data import records, views

TURNS = tuple(
  records.Turn(f'{domain}?', 'so', domain) for domain in records.DOMAINS
)
RECORD = records.Record(
  'r',
  'test',
  'train',
  motion_text='walking',
  video_text='kitchen',
  turns=TURNS,
)


def _draw(view, n=200):
  rng = np.random.default_rng(0)
  return [view(RECORD, rng) for _ in range(n)]


@pytest.mark.parametrize('media', [('motion',), ('video',)])
def test_a_view_never_asks_for_what_it_hides(media):
  for record in _draw(views.View(media, caption_share=0.3)):
    assert (record.motion_text is None) == ('motion' not in media)
    assert (record.video_text is None) == ('video' not in media)
    for turn in record.turns:
      assert set(records.DOMAINS[turn.domain]) <= set(media)


def test_no_turn_comes_twice():
  for record in _draw(views.View(max_turns=4)):
    assert len(record.turns) == 4
    assert len(set(record.turns)) == 4


def test_captions_come_alone_and_as_often_as_said():
  drawn = _draw(views.View(caption_share=0.25), 2000)
  captions = [r for r in drawn if r.turns[0].domain.endswith('_caption')]
  assert all(len(r.turns) == 1 for r in captions)
  assert 0.2 < len(captions) / len(drawn) < 0.3


def test_weights_make_a_domain_come_first_more_often():
  view = views.View(max_turns=1, domain_weights={'joint': 9.0})
  counts = collections.Counter(r.turns[0].domain for r in _draw(view, 1000))
  assert counts['joint'] == pytest.approx(500, abs=80)


def test_a_record_without_an_answerable_turn_says_so():
  record = records.Record('r', 'test', 'train', turns=TURNS[:1])
  with pytest.raises(views.NothingToAskError, match='that video can answer'):
    views.View(('video',))(record, np.random.default_rng(0))


def test_a_domain_of_weight_0_is_never_drawn():
  view = views.View(
    max_turns=9, domain_weights={'joint': 0.0, 'place': 0, 'video_caption': 0}
  )
  for record in _draw(view):
    domains = {turn.domain for turn in record.turns}
    assert len(record.turns) == 8  # All ten that are asked, but for two.
    assert not domains & {'joint', 'place'}
  view = dataclasses.replace(view, caption_share=1.0)
  domains = {record.turns[0].domain for record in _draw(view)}
  assert domains == {'motion_caption', 'joint_caption'}


def test_when_every_turn_weighs_0_there_is_nothing_to_ask():
  view = views.View(domain_weights=dict.fromkeys(records.DOMAINS, 0.0))
  with pytest.raises(views.NothingToAskError, match='of weight 0'):
    view(RECORD, np.random.default_rng(0))


@pytest.mark.parametrize('weight', [-1.0, float('nan')])
def test_weights_below_0_are_refused(weight):
  with pytest.raises(ValueError, match=f'at least 0 .*found place={weight}'):
    views.View(domain_weights={'joint': 1.0, 'place': weight})


def test_unknown_media_are_named():
  with pytest.raises(ValueError, match='sound'):
    views.View(('sound',))


def test_a_choice_draws_views_by_weight_of_those_whose_media_are_there():
  views_of = {
    ('motion',): views.View(('motion',)),
    ('motion', 'video'): views.View(),
  }
  choice = views.Choice(tuple(views_of.values()), (3.0, 1.0))
  found = collections.Counter(
    record.video_text is None for record in _draw(choice, 2000)
  )
  assert found[True] / 2000 == pytest.approx(0.75, abs=0.03)
  silent = dataclasses.replace(RECORD, video_text=None)
  rng = np.random.default_rng(0)
  for _ in range(50):
    asked = {turn.domain for turn in choice(silent, rng).turns}
    assert all(records.DOMAINS[domain] == ('motion',) for domain in asked)


def test_a_choice_says_when_no_view_has_its_media():
  choice = views.Choice((views.View(), views.View(('motion',))), (1.0, 1.0))
  record = dataclasses.replace(RECORD, motion_text=None)
  with pytest.raises(views.NothingToAskError, match='of 2 views, found video'):
    choice(record, np.random.default_rng(0))


def _asked(*names, **fields):
  """Turns by their questions; those that begin with + follow."""
  turns = tuple(
    records.Turn(name, 'so', 'direction', follows=name.startswith('+'))
    for name in names
  )
  return records.Record('r', 'test', 'train', turns=turns, **fields)


def _drawn(record, view, n=200):
  rng = np.random.default_rng(0)
  return {
    ' '.join(turn.question for turn in view(record, rng).turns)
    for _ in range(n)
  }


def test_what_follows_a_question_stays_behind_it():
  record = _asked('a', '+b', '+c', 'd')
  assert _drawn(record, views.View()) == {'a +b +c', 'd a +b'}
  assert _drawn(record, views.View(max_turns=1)) == {'a', 'd'}
  assert _drawn(record, views.View(max_turns=9)) == {'a +b +c d', 'd a +b +c'}


def test_what_follows_a_turn_that_is_not_shown_is_not_shown():
  record = _asked('a', '+b', '+c', 'd')
  hidden = dataclasses.replace(record.turns[1], domain='colour')
  turns = (record.turns[0], hidden, *record.turns[2:])
  record = dataclasses.replace(record, turns=turns)
  view = views.View(('motion',), max_turns=9)
  assert _drawn(record, view) == {'a d', 'd a'}
  caption = dataclasses.replace(record.turns[0], domain='motion_caption')
  record = dataclasses.replace(record, turns=(caption, *turns[1:]))
  assert _drawn(record, view) == {'d'}


def test_rounds_that_are_in_order_are_asked_so():
  record = _asked('a', 'b', 'c', 'd', provenance={'in_order': True})
  assert _drawn(record, views.View(max_turns=3)) == {'a b c'}


def test_a_video_alone_shows_what_a_motion_would_tell():
  turns = tuple(
    records.Turn(domain, 'so', domain)
    for domain in ('direction', 'place', 'joint')
  )
  seen = records.Record('r', 'test', 'train', video_text='x', turns=turns)
  view = views.View(('video',), max_turns=1)
  assert _drawn(seen, view) == {'direction', 'place', 'joint'}
  # With a motion it is for the motion to tell, and a motion shows no place.
  both = dataclasses.replace(seen, motion_text='x')
  assert _drawn(both, view) == {'place'}
  moved = dataclasses.replace(both, video_text=None)
  assert _drawn(moved, views.View(('motion',), max_turns=1)) == {'direction'}
