import dataclasses

import numpy as np
import pytest

from vimonet_jax.audit import attributes
from vimonet_jax.motion import skeleton
from vimonet_jax.synthetic import actions, people, world

WORLD = world.World(image_size=24)


def _walk(speed):
  program = [actions.Action('walk', direction='forward', speed=speed)]
  return actions.animate(program, np.random.default_rng(0)).joints


def test_a_person_a_scene_and_a_walk_are_known():
  record = people.record(WORLD, 'test', 2)
  found = attributes.of_record(record)
  assert {
    name: found[name] for name in people.ATTRIBUTES
  } == dataclasses.asdict(people.person(2))
  scene = record.provenance['scene']
  assert found['shirt'] == scene['colour']
  assert found['place'] == scene['place']
  assert 'height' not in found, 'the size is known'


@pytest.mark.parametrize(
  ('azimuth', 'side'),
  [(0, 'front'), (90, 'left'), (181, 'back'), (359, 'front')],
)
def test_the_camera_stands_on_a_side(azimuth, side):
  record = world.World(image_size=24).make_record('test', 0)
  record.provenance['scene']['azimuth_deg'] = azimuth
  assert attributes.of_record(record)['camera'] == side


def test_the_build_is_measured():
  joints = _walk('quickly')
  usual = attributes.measures(joints)
  # From the ankle to the head's joint.
  assert 1.4 < usual['height'] < 1.6
  large = attributes.measures(people.built(joints, people.Person('large')))
  assert large['height'] == pytest.approx(1.15 * usual['height'], rel=1e-3)
  assert large['legs'] == pytest.approx(usual['legs'], rel=1e-3)
  long = people.Person(proportion='long legs')
  assert attributes.measures(people.built(joints, long))['legs'] == (
    pytest.approx(1.1 * usual['legs'], rel=0.02)
  )


def test_the_walk_is_measured():
  slow, quick = map(attributes.measures, map(_walk, ('slowly', 'quickly')))
  # As synthetic.gaits makes them; with the ends, where it is slower.
  assert 0.35 < slow['walking speed'] < 0.6
  assert 1.0 < quick['walking speed'] < 1.65
  assert slow['cadence'] < quick['cadence'] < 180


def test_a_walk_is_the_same_from_all_sides():
  joints = _walk('quickly')
  turned = skeleton.quat_rotate(
    skeleton.quat_from_axis_angle(np.array([0.0, 1.0, 0.0]), 1.0), joints
  )
  for name, value in attributes.measures(joints).items():
    assert attributes.measures(turned)[name] == pytest.approx(value, rel=1e-3)


def test_who_stays_where_they_are_has_no_speed():
  wave = [actions.Action('wave', side='left')]
  joints = actions.animate(wave, np.random.default_rng(0)).joints
  assert set(attributes.measures(joints)) == {'height', 'legs'}


def test_numbers_become_thirds_and_the_same_for_all_becomes_nothing():
  found = [{'height': 1.5, 'walking speed': 0.1 * i} for i in range(9)]
  found.append({'height': 1.5, 'gait': 'usual'})
  made = attributes.grouped(found)
  assert [x.get('walking speed', '')[:3] for x in made] == [
    *['1st'] * 3, *['2nd'] * 3, *['3rd'] * 3, ''
  ]  # fmt: skip
  assert made[0] == {'walking speed': '1st third, to 0.27 m/s'}
  assert made[-1] == {'gait': 'usual'}


def test_words_say_gender_age_and_one_side():
  find = attributes.of_words
  assert find('What does he do?', 'The boy waves with the left arm.') == {
    'words for gender': 'male',
    'words for age': 'some',
    'side': 'left',
  }
  assert find('Where?', 'From left to right.') == {
    'words for gender': 'none',
    'words for age': 'none',
  }
