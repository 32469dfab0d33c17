import collections

import numpy as np
import pytest

from vimonet_jax.motion import skeleton
from vimonet_jax.synthetic import people, world

WORLD = world.World(image_size=24)


def _lengths(joints_TJ3):
  """Of the bones, metres; the first is none."""
  bones = joints_TJ3 - joints_TJ3[:, skeleton.PARENTS]
  return np.linalg.norm(bones, axis=-1).mean(0)[1:]


def test_every_person_comes_once_in_a_round():
  some = [people.person(i) for i in range(people.ALL_PEOPLE)]
  assert len(set(some)) == people.ALL_PEOPLE
  assert people.person(people.ALL_PEOPLE) == some[0]


@pytest.mark.parametrize('attribute', people.ATTRIBUTES)
def test_twins_differ_in_one_thing_and_all_pairs_come_alike(attribute):
  pairs = collections.Counter()
  for i in range(people.ALL_PEOPLE):
    one, other = vars(people.person(i)), vars(people.twin(i, attribute))
    assert {name for name in one if one[name] != other[name]} == {attribute}
    pairs[frozenset((one[attribute], other[attribute]))] += 1
  assert set(pairs.values()) == {people.ALL_PEOPLE // 3}


@pytest.mark.parametrize('attribute', people.ATTRIBUTES)
def test_twins_are_asked_the_same_in_the_same_place(attribute):
  one = people.record(WORLD, 'test', 5)
  other = people.record(WORLD, 'test', 5, attribute)
  assert one.turns == other.turns
  assert one.id != other.id
  for name in ('program', 'scene'):
    assert one.provenance[name] == other.provenance[name]
  assert not np.array_equal(one.frames, other.frames)


def test_a_build_has_its_bones_and_stands_where_it_stood():
  joints = people.record(WORLD, 'test', 0).joints
  for who, legs, rest in (
    (people.Person('large'), 1.15, 1.15),
    (people.Person(proportion='long legs'), 1.1, 0.9),
  ):
    made = people.built(joints, who)
    wanted = np.full(skeleton.NUM_JOINTS, rest)
    wanted[list(people._LEG_JOINTS)] = legs
    np.testing.assert_allclose(
      _lengths(made), _lengths(joints) * wanted[1:], rtol=1e-4
    )
    feet = [skeleton.INDEX['left_foot'], skeleton.INDEX['right_foot']]
    np.testing.assert_allclose(made[:, feet], legs * joints[:, feet], atol=1e-5)


def test_the_motion_of_a_build_is_nearly_that_of_any_other():
  """HumanML3D gives everyone the same bones, so it cannot tell."""
  one = people.record(WORLD, 'test', 5)
  for attribute in ('size', 'proportion', 'skin'):
    other = people.record(WORLD, 'test', 5, attribute)
    np.testing.assert_allclose(one.motion, other.motion, atol=1e-4)


def test_the_aged_are_slower_and_stoop():
  joints = {}
  for i in range(0, people.ALL_PEOPLE, 9):
    for attribute in ('', 'gait'):
      record = people.record(WORLD, 'test', i, attribute)
      gait = record.provenance['person']['gait']
      joints[i, gait] = record.joints
  # Every ninth person is usual, and so the twin is aged.
  lean, frames = collections.Counter(), collections.Counter()
  for (_, gait), found in joints.items():
    trunk = found[0, skeleton.INDEX['neck']] - found[0, 0]
    lean[gait] += np.hypot(*trunk[[0, 2]]) / trunk[1]
    frames[gait] += len(found)
  assert lean['aged'] > lean['usual']
  assert frames['aged'] > 1.05 * frames['usual'], 'of 196 at most'


def test_the_clip_of_a_number_stays_what_it_is():
  one, again = (people.record(WORLD, 'test', 3, 'skin') for _ in range(2))
  assert np.array_equal(one.frames, again.frames)
  assert np.array_equal(one.motion, again.motion)
