import dataclasses

import numpy as np
import pytest

from vimonet_jax.data import records, text
from vimonet_jax.motion import features
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


def test_features_and_joints_are_of_one_body():
  """Joints come back from the features, moved to the origin and turned."""
  record = WORLD.make_record('train', 5)
  recovered = features.recover(record.motion)
  joints = record.joints[: len(recovered)]

  def distances(body):
    return np.linalg.norm(body[:, :, None] - body[:, None], axis=-1)

  assert np.abs(distances(recovered) - distances(joints)).mean() < 0.05


def test_splits_share_no_program_and_no_scene():
  programs = {split: set() for split in world.SPLITS}
  triples = {split: set() for split in world.SPLITS}
  for split in world.SPLITS:
    for i in range(300):
      record = WORLD.text_record(split, i)
      scene = _scene(record)
      programs[split].add(_program(record))
      triples[split].add((scene.place, scene.object, scene.colour))
  for one, two in (('train', 'val'), ('train', 'test'), ('val', 'test')):
    assert not programs[one] & programs[two]
    assert not triples[one] & triples[two]
  # And yet every fact of a scene is known from training.
  for split in ('val', 'test'):
    for position in range(3):
      known = {triple[position] for triple in triples['train']}
      assert {triple[position] for triple in triples[split]} <= known


def test_a_split_is_found_from_what_a_program_is():
  for i in range(20):
    record = WORLD.make_record('test', i)
    scene = _scene(record)
    assert world.split_of(*_program(record)) == 'test'
    assert world.split_of(scene.place, scene.object, scene.colour) == 'test'
  # A hash of the words, so another machine finds the same.
  assert world.split_of('kitchen', 'ball', 'red') == 'train'
  rng = np.random.default_rng(0)
  drawn = [
    world.split_of(*world._draw_actions(rng, 2))  # noqa: SLF001
    for _ in range(2000)
  ]
  assert drawn.count('train') / 2000 == pytest.approx(0.8, abs=0.05)


def test_every_value_of_a_fact_is_about_as_frequent():
  rng = np.random.default_rng(0)
  drawn = [world.draw_scene(rng, 'train') for _ in range(4000)]
  for name, values in (
    ('place', scenes.PLACES),
    ('object', scenes.OBJECTS),
    ('colour', scenes.COLOURS),
    ('people', range(1, scenes.MAX_PEOPLE + 1)),
  ):
    for value in values:
      share = np.mean([getattr(scene, name) == value for scene in drawn])
      assert share == pytest.approx(1 / len(values), rel=0.25)
  azimuths = [scene.azimuth_deg for scene in drawn]
  assert np.histogram(azimuths, 4, (0, 360))[0].min() > 850


def test_programs_use_all_verbs_and_none_twice():
  rng = np.random.default_rng(0)
  programs = [world.draw_program(rng, 'train') for _ in range(1500)]
  for program in programs:
    actions.check(program)
    verbs = [action.verb for action in program]
    assert len(set(verbs)) == len(verbs)
  assert {a.verb for program in programs for a in program} == {*actions.VERBS}
  assert {len(program) for program in programs} == {1, 2, 3}
  short = [world.draw_program(rng, 'train', 1) for _ in range(50)]
  assert {len(program) for program in short} == {1}


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
