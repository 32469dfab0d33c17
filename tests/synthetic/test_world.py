import collections
import dataclasses
import itertools

import numpy as np
import pytest

from vimonet_jax.data import records, text
from vimonet_jax.motion import features, skeleton
from vimonet_jax.synthetic import actions, world
from vimonet_jax.synthetic import scene as scenes

WORLD = world.World()


def _program(record):
  return tuple(
    actions.Action(**action) for action in record.provenance['program']
  )


def _scene(record):
  return scenes.Scene(**record.provenance['scene'])


def _same(one, two):
  """Whether two records are equal, arrays bit by bit."""
  for field in dataclasses.fields(records.Record):
    a, b = getattr(one, field.name), getattr(two, field.name)
    if isinstance(a, np.ndarray):
      if not np.array_equal(a, b):
        return False
    elif a != b:
      return False
  return True


def test_a_record_depends_on_seed_split_and_index_only():
  in_order = [WORLD.make_record('val', i) for i in range(4)]
  for i in (3, 0, 2):
    assert _same(world.World().make_record('val', i), in_order[i])
  first = in_order[0]
  others = [
    in_order[1],
    WORLD.make_record('test', 0),
    world.World(seed=1).make_record('val', 0),
  ]
  for other in others:
    assert first.motion.shape != other.motion.shape or not np.allclose(
      first.motion, other.motion
    )
    assert not np.array_equal(first.frames, other.frames)


@pytest.mark.parametrize('split', world.SPLITS)
def test_records_keep_their_contract(split):
  for i in range(12):
    record = WORLD.make_record(split, i)
    assert record.id == f'{split}-{i:06d}'
    assert record.source == world.SOURCE
    assert record.split == split
    records.check_motion(record.motion, record.id)
    assert record.motion.dtype == np.float32
    length = len(record.motion)
    assert length % records.FRAMES_PER_TOKEN == 0
    assert records.MIN_MOTION_FRAMES <= length <= records.MAX_MOTION_FRAMES
    assert record.joints.shape == (length + 1, 22, 3)
    assert record.frames.shape == (8, 48, 48, 3)
    assert record.frames.dtype == np.uint8
    assert record.motion_text is None
    assert record.video_text is None
    for turn in record.turns:
      assert turn.domain in records.DOMAINS
      assert turn.question
      assert turn.answer
      # A caption says much and asks for nothing in particular.
      assert bool(turn.fact) != turn.domain.endswith('_caption')
    domains = [turn.domain for turn in record.turns]
    for caption in ('motion_caption', 'video_caption', 'joint_caption'):
      assert domains.count(caption) == 1
    assert len(domains) >= 5


def _in_its_frame(joints):
  """Joints [T, 22, 3] about the root, as left, up and forward of the hips."""
  left = joints[:, 1] - joints[:, 2]
  left = left * [1, 0, 1]
  left /= np.linalg.norm(left, axis=-1, keepdims=True)
  up = np.broadcast_to([0.0, 1.0, 0.0], left.shape)
  axes = np.stack([left, up, np.cross(left, up)], axis=-1)
  return (joints - joints[:, :1]) @ axes


def test_features_and_joints_are_of_one_body():
  """Joints come back from the features, moved to the origin and turned."""
  record = WORLD.make_record('train', 5)
  recovered = features.recover(record.motion).astype(np.float64)
  joints = record.joints[: len(recovered)].astype(np.float64)

  def error(body):
    return np.abs(_in_its_frame(recovered) - _in_its_frame(body)).max()

  assert error(joints) < 1e-5
  # A mirror image is another body, whether or not its sides change names.
  assert error(skeleton.mirror(joints)) > 0.05
  assert error(joints * [-1, 1, 1]) > 0.05
  apart = np.ptp(recovered[:, 0] - recovered[:1, 0], axis=0)
  gone = np.ptp(joints[:, 0] - joints[:1, 0], axis=0)
  assert np.hypot(*apart[[0, 2]]) == pytest.approx(
    np.hypot(*gone[[0, 2]]), rel=0.5, abs=0.05
  )


def test_splits_share_no_sequence_of_verbs_and_no_scene():
  sequences = {split: set() for split in world.SPLITS}
  triples = {split: set() for split in world.SPLITS}
  for split in world.SPLITS:
    for i in range(400):
      record = WORLD.text_record(split, i)
      scene = _scene(record)
      verbs = tuple(action.verb for action in _program(record))
      sequences[split].add(verbs)
      triples[split].add((scene.place, scene.object, scene.colour))
      assert world.split_of_verbs(verbs) == split
  for one, two in itertools.combinations(world.SPLITS, 2):
    assert not sequences[one] & sequences[two]
    assert not triples[one] & triples[two]
  assert len(sequences['test']) > 150


def test_the_split_of_a_sequence_and_of_a_scene_is_pinned():
  """To change these is to make another dataset."""
  assert world.split_of_verbs(('walk', 'run')) == 'train'
  assert world.split_of_verbs(('turn', 'push')) == 'val'
  assert world.split_of_verbs(('wave', 'walk')) == 'test'
  assert world.split_of_verbs(('wave',)) == 'train'
  assert world.split_of_scene('kitchen', 'ball', 'red') == 'train'
  assert world.split_of_scene('beach', 'cone', 'blue') == 'val'
  assert world.split_of_scene('kitchen', 'ball', 'yellow') == 'test'


def test_each_verb_is_in_as_many_pairs_of_a_split():
  for split in ('val', 'test'):
    pairs = [
      pair
      for pair in itertools.product(actions.VERBS, repeat=2)
      if world.split_of_verbs(pair) == split
    ]
    for place in (0, 1):
      counts = collections.Counter(pair[place] for pair in pairs)
      assert counts.keys() == actions.VERBS.keys()
      assert set(counts.values()) <= {2, 3}


def test_scenes_of_a_split_are_a_latin_square():
  triples = {split: [] for split in world.SPLITS}
  for triple in itertools.product(
    scenes.PLACES, scenes.OBJECTS, scenes.COLOURS
  ):
    triples[world.split_of_scene(*triple)].append(triple)
  assert {split: len(found) for split, found in triples.items()} == {
    'train': 384,
    'val': 64,
    'test': 64,
  }
  for split in ('val', 'test'):
    for values in zip(*triples[split], strict=True):
      assert set(collections.Counter(values).values()) == {8}


@pytest.mark.parametrize('split', world.SPLITS)
def test_every_value_of_a_fact_is_about_as_frequent(split):
  rng = np.random.default_rng(0)
  drawn = [world.draw_scene(rng, split) for _ in range(4000)]
  for name, values in (
    ('place', scenes.PLACES),
    ('object', scenes.OBJECTS),
    ('colour', scenes.COLOURS),
    ('people', range(1, scenes.MAX_PEOPLE + 1)),
  ):
    for value in values:
      share = np.mean([getattr(scene, name) == value for scene in drawn])
      assert share == pytest.approx(1 / len(values), rel=0.15)
  azimuths = [scene.azimuth_deg for scene in drawn]
  assert np.histogram(azimuths, 4, (0, 360))[0].min() > 850


@pytest.mark.parametrize('split', world.SPLITS)
def test_sides_counts_and_speeds_come_alike(split):
  rng = np.random.default_rng(0)
  drawn = [
    action for _ in range(3000) for action in world.draw_program(rng, split)
  ]
  for name, values in (
    ('side', ('left', 'right')),
    ('count', (1, 2, 3)),
    ('speed', ('slowly', 'quickly')),
  ):
    found = [v for action in drawn if (v := getattr(action, name))]
    for value in values:
      assert found.count(value) / len(found) == pytest.approx(
        1 / len(values), rel=0.12
      )


def test_programs_use_all_verbs_and_none_twice():
  rng = np.random.default_rng(0)
  programs = [world.draw_program(rng, 'train') for _ in range(1500)]
  for program in programs:
    actions.check(program)
    verbs = [action.verb for action in program]
    assert len(set(verbs)) == len(verbs)
  assert {a.verb for program in programs for a in program} == {*actions.VERBS}
  assert {len(program) for program in programs} == {1, 2, 3}


@pytest.mark.parametrize('split', ['val', 'test'])
def test_what_is_asked_in_the_test_has_several_actions(split):
  rng = np.random.default_rng(0)
  for longest, lengths in ((3, {2, 3}), (2, {2})):
    drawn = [world.draw_program(rng, split, longest) for _ in range(200)]
    assert {len(program) for program in drawn} == lengths
  # There is nothing to keep apart where all programs are single actions.
  drawn = [world.draw_program(rng, split, 1) for _ in range(400)]
  assert {len(program) for program in drawn} == {1}
  assert {program[0].verb for program in drawn} == actions.VERBS.keys()


def test_text_records_say_the_same_facts_without_media():
  for i in range(30):
    record = WORLD.text_record('train', i)
    assert record.motion is None
    assert record.joints is None
    assert record.frames is None
    assert record.id == f'text-train-{i:09d}'
    scene = _scene(record)
    words, deeds = (
      said.replace('+', ' ').split()
      for said in (record.video_text, record.motion_text)
    )
    assert {scene.place, scene.object, scene.colour} < set(words)
    for turn in record.turns:
      if turn.domain in ('place', 'object', 'colour', 'people'):
        assert turn.fact in words
      if turn.domain == 'sequentiality':
        assert turn.fact in deeds
  assert _same(WORLD.text_record('train', 7), WORLD.text_record('train', 7))


def test_places_of_text_records_hold_one_to_four_words():
  sizes = set()
  for i in range(100):
    record = WORLD.text_record('train', i)
    deeds, words = record.motion_text.split(' '), record.video_text.split(' ')
    program = _program(record)
    assert 3 * len(program) <= len(deeds) <= 8 * len(program)
    assert 8 <= len(words) <= 16
    for place in (*deeds, *words):
      said = place.split('+')
      assert all(word.isalpha() for word in said)
      assert len(set(said)) == len(said)
      sizes.add(len(said))
  assert sizes == {*range(1, 2 + text.MORE_WORDS)}


def test_text_records_are_not_the_records_of_the_same_number():
  same = [
    _program(WORLD.text_record('train', i))
    == _program(WORLD.make_record('train', i))
    for i in range(8)
  ]
  assert not any(same)


def test_media_do_not_tell_each_other():
  """Another scene is the same motion: what is seen is drawn apart from it."""
  facts = [
    (_program(record)[0].verb, _scene(record).place)
    for record in (WORLD.text_record('train', i) for i in range(3000))
  ]
  # The most frequent place of each verb guesses hardly better than chance.
  best = {}
  for verb, _ in facts:
    places = [p for v, p in facts[:1500] if v == verb]
    best[verb] = max(scenes.PLACES, key=places.count)
  hits = [best[verb] == place for verb, place in facts[1500:]]
  assert np.mean(hits) < 0.18


def test_an_unknown_split_is_refused():
  with pytest.raises(ValueError, match="train, val, test, found 'dev'"):
    WORLD.make_record('dev', 0)


def test_worse_cameras_change_the_motion_of_some_training_clips_only():
  noisy = world.World(noisy_share=0.5)
  changed = []
  for i in range(12):
    clean, seen = WORLD.make_record('train', i), noisy.make_record('train', i)
    assert seen.turns == clean.turns
    np.testing.assert_array_equal(seen.frames, clean.frames)
    changed.append(not np.array_equal(seen.motion, clean.motion))
    assert np.abs(seen.joints - clean.joints).max() < 0.6
  assert 1 < sum(changed) < 11
  assert _same(noisy.make_record('val', 0), WORLD.make_record('val', 0))
