import numpy as np
import pytest

from vimonet_jax.data import text
from vimonet_jax.synthetic import actions, language, world

WAVE = actions.Action('wave', side='left')
JUMP = actions.Action('jump', count=2)
FALL = actions.Action('fall', direction='backward')


def test_words_in_place_of_motion_hold_every_fact_in_order():
  rng = np.random.default_rng(2)
  places = language.motion_words((WAVE, JUMP), (3, 8), rng).split()
  assert len(places) == 3 + 8
  facts = [set(place.split('+')) for place in places]
  assert set.union(*facts[:3]) == {'waving', 'left', 'arm'}
  assert set.union(*facts[3:]) == {'jumping', 'twice', 'both', 'legs'}
  assert len(set(places[3:])) > 1  # Not every place says everything.


@pytest.mark.parametrize('verb', actions.VERBS)
def test_one_place_has_room_for_all_words_of_an_action(verb):
  spec = actions.VERBS[verb]
  action = actions.Action(
    verb,
    side='left' if spec.sides else '',
    direction='forward' if spec.directions else '',
    count=2 if spec.counts else 0,
    speed='slowly' if spec.speeds else '',
  )
  facts = {
    language.GERUNDS[verb],
    *language.limb(action).split(),
    *language.direction(action).split(),
    *(['twice'] if spec.counts else []),
    *(['slowly'] if spec.speeds else []),
  }
  assert len(facts) <= 1 + text.MORE_WORDS
  for seed in range(20):
    rng = np.random.default_rng(seed)
    place = language.motion_words((action,), (1,), rng)
    assert sorted(place.split('+')) == sorted(facts)


def test_words_in_place_of_a_video_leave_out_nothing():
  rng = np.random.default_rng(4)
  for _ in range(50):
    scene = world.draw_scene(rng, 'train')
    number = language.NUMBERS[scene.people - 1]
    facts = {scene.place, scene.object, scene.colour, number}
    for length in (1, 6):
      places = language.video_words(scene, length, rng).split(' ')
      assert len(places) == length
      assert {word for place in places for word in place.split('+')} == facts


@pytest.mark.parametrize(
  ('action', 'clause'),
  [
    (WAVE, 'waving with the left arm'),
    (actions.Action('raise', 'right'), 'raising the right arm'),
    (actions.Action('reach', 'right'), 'reaching out with the right arm'),
    (actions.Action('limp', 'left'), 'limping forward on the left leg'),
    (actions.Action('run'), 'running forward'),
    (FALL, 'falling backward'),
    (actions.Action('turn', 'left'), 'turning to the left'),
  ],
)
def test_captions_are_english(action, clause):
  for seed in range(10):
    assert language.clause(action, np.random.default_rng(seed)) == clause


def test_people_are_counted_in_english():
  assert language.people_sentence(1) == 'There is one person.'
  assert language.people_sentence(3) == 'There are three people.'


@pytest.mark.parametrize('verb', actions.VERBS)
def test_directions_of_a_verb_are_those_of_its_actions(verb):
  spec = actions.VERBS[verb]
  found = {
    language.direction(actions.Action(verb, side, direction))
    for side in spec.sides or ('',)
    for direction in spec.directions or ('',)
  }
  assert found - {''} == {*language.directions(verb)}
