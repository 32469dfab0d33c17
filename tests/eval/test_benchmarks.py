import dataclasses

import numpy as np
import pytest

from vimonet_jax.data import augment
from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import benchmarks, caption_baselines, own_items
from vimonet_jax.motion import corrupt, features, skeleton
from vimonet_jax.synthetic import world


@pytest.fixture(scope='module')
def records():
  small = world.World(image_size=16)
  return [small.make_record('test', i) for i in range(24)]


@pytest.fixture(scope='module')
def items(records):
  return own_items.questions(records, per_domain=1000)


def _with_turns(*turns, name='r0', **changes):
  return records_lib.Record(name, 'test', 'test', turns=turns, **changes)


def _caption(text, question='Describe the motion.'):
  return records_lib.Turn(question, text, 'motion_caption', 'caption')


@pytest.mark.parametrize('name', benchmarks.INPUTS)
def test_a_prompt_shows_the_media_of_its_input_and_no_answer(
  records, items, name
):
  item = benchmarks.variant(items, input=name)[0]
  prompt = benchmarks.prompt_record(item, records)
  shown = benchmarks.INPUTS[name]
  assert (prompt.motion is not None) == ('motion' in shown)
  assert (prompt.frames is not None) == ('video' in shown)
  assert prompt.joints is None
  assert prompt.motion_text is None
  (turn,) = prompt.turns
  assert (turn.question, turn.answer, turn.fact) == (item.question, '', '')
  if shown:
    assert prompt.provenance == {}, 'holds the program, which is the answer'


def test_history_comes_before_the_question(records, items):
  item = dataclasses.replace(items[0], history=(('Who?', 'Me.'),))
  turns = benchmarks.prompt_record(item, records).turns
  assert [turn.question for turn in turns] == ['Who?', item.question]
  assert [turn.answer for turn in turns] == ['Me.', '']


def test_swapped_items_show_another_record_and_ask_the_same(records, items):
  swapped = benchmarks.variant(items, corruption=benchmarks.SWAPPED)
  assert [item.id for item in swapped] == [item.id for item in items]
  pairs = {(item.position, item.media_position) for item in swapped}
  positions = {item.position for item in items}
  assert len(pairs) == len(positions), 'a record keeps to one other'
  assert all(a != b for a, b in pairs)
  assert {b for _, b in pairs} == positions, 'each is shown once'
  item = swapped[0]
  prompt = benchmarks.prompt_record(item, records)
  other = records[item.media_position]
  np.testing.assert_array_equal(prompt.motion, other.motion)
  np.testing.assert_array_equal(prompt.frames, other.frames)
  assert prompt.turns[0].question == items[0].question
  alone = [item for item in items if item.position == 0]
  with pytest.raises(ValueError, match='two records or more'):
    benchmarks.variant(alone, corruption=benchmarks.SWAPPED)


def test_media_of_another_record_are_another_question(items):
  """With other items the circle is another, and so is what was answered."""
  few = [item for item in items if item.position < 20]
  swapped = benchmarks.variant(few, corruption='swapped')
  shown = {item.key: item for item in swapped}
  moved = 0
  for item in benchmarks.variant(items, corruption='swapped'):
    if before := shown.get(item.key):
      is_same = item.media_position == before.media_position
      assert (item.digest == before.digest) == is_same
      moved += not is_same
  assert moved
  clean = benchmarks.variant(items)
  assert [item.digest for item in clean] == [item.digest for item in items]


def test_noise_follows_item_and_seed_and_reaches_the_motion_only(
  records, items
):
  def prompt(item, seed=0, level='L2'):
    (noisy,) = benchmarks.variant([item], corruption=level, seed=seed)
    return benchmarks.prompt_record(noisy, records)

  clean = records[items[0].position]
  once, again = prompt(items[0]), prompt(items[0])
  np.testing.assert_array_equal(once.motion, again.motion)
  np.testing.assert_array_equal(once.frames, clean.frames)
  assert once.motion.shape == clean.motion.shape
  assert np.any(once.motion != clean.motion)
  assert np.any(once.motion != prompt(items[0], seed=1).motion)
  same_clip = next(i for i in items[1:] if i.position == items[0].position)
  assert np.any(once.motion != prompt(same_clip).motion)
  # Without noise only the way through joints and back remains.
  np.testing.assert_allclose(
    prompt(items[0], level='L0').motion,
    records_lib.trim_motion(features.encode(clean.joints)),
  )


def test_the_noise_has_the_size_of_its_level(records, items):
  """Seen in recovered root heights, which no heading can hide."""
  level = corrupt.LEVELS['L2_noise']
  errors = []
  for item in benchmarks.variant(items[:40], corruption='L2_noise'):
    noisy = benchmarks.prompt_record(item, records).motion
    height = features.SLICES['root_height']
    errors.append(noisy[:, height] - records[item.position].motion[:, height])
  spread = np.mean([error.std() for error in errors])
  assert 0.2 * level.sigma_m < spread < 1.2 * level.sigma_m


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'input': 'sound'}, 'text, motion, video, both'),
    ({'corruption': 'L9'}, 'none, swapped, mirrored'),
    ({'input': 'video', 'corruption': 'L2'}, 'with motion for corruption L2'),
    ({'input': 'text', 'corruption': 'swapped'}, 'motion or video'),
  ],
)
def test_variants_that_mean_nothing_are_refused(items, changes, message):
  with pytest.raises(ValueError, match=message):
    benchmarks.variant(items, **changes)


def test_missing_media_and_joints_are_reported(records, items):
  item = items[0]
  for name in ('motion', 'frames'):
    bare = [dataclasses.replace(record, **{name: None}) for record in records]
    with pytest.raises(ValueError, match="for input 'both', found none"):
      benchmarks.prompt_record(item, bare)
    benchmarks.prompt_record(benchmarks.variant([item], input='text')[0], bare)
  (noisy,) = benchmarks.variant([item], corruption='L1')
  bare = [dataclasses.replace(record, joints=None) for record in records]
  with pytest.raises(ValueError, match='expected joints to change'):
    benchmarks.prompt_record(noisy, bare)


def test_the_nearest_clip_of_a_clip_is_itself(records):
  items = own_items.captions(records)
  statistics = features.Statistics.of(record.motion for record in records)
  found = caption_baselines.nearest_training(
    items, records, records, statistics
  )
  assert found == [item.reference for item in items]


def test_random_captions_come_from_training_and_follow_the_seed(records):
  items = own_items.captions(records)
  train = [_with_turns(_caption(text)) for text in 'abcdefgh']
  found = caption_baselines.random_training(items, train)
  assert len(found) == len(items)
  assert len(set(found)) > 3
  assert set(found) <= set('abcdefgh')
  assert found == caption_baselines.random_training(items, train)
  assert found != caption_baselines.random_training(items, train, seed=1)
  with pytest.raises(ValueError, match='check the training split'):
    caption_baselines.random_training(items, [_with_turns()])


def test_a_mirrored_item_is_true_of_the_mirror_image(records, items):
  flipped = benchmarks.variant(items, corruption='mirrored')
  by_id = {item.id: item for item in items}
  assert 0 < len(flipped) < len(items), 'only what has a side'
  for item in flipped:
    before = by_id[item.id]
    assert item.reference == augment.other_side(before.reference)
    assert item.reference != before.reference
    assert set(item.fact.split('; ')) <= set(item.choices) or not item.choices
  item = flipped[0]
  shown = benchmarks.prompt_record(item, records)
  clip = records[item.position]
  np.testing.assert_array_equal(shown.frames, clip.frames[:, :, ::-1])
  twice = skeleton.mirror(skeleton.mirror(clip.joints))
  np.testing.assert_allclose(twice, clip.joints, atol=1e-6)
  np.testing.assert_allclose(
    shown.motion,
    records_lib.trim_motion(features.encode(skeleton.mirror(clip.joints))),
  )


def test_reversed_media_end_where_they_began(records, items):
  (item,) = benchmarks.variant(items[:1], corruption='reversed')
  shown = benchmarks.prompt_record(item, records)
  clip = records[item.position]
  np.testing.assert_array_equal(shown.frames, clip.frames[::-1])
  height = features.SLICES['root_height']
  ours = shown.motion[:, height].ravel()
  theirs = clip.joints[::-1][: len(ours), 0, 1]
  np.testing.assert_allclose(ours, theirs, atol=0.02)
  assert (item.question, item.reference) == (
    items[0].question,
    items[0].reference,
  )


def test_choosing_is_asked_beside_writing_and_knows_its_chance(items):
  chosen = benchmarks.by_likelihood(items[:3], lambda item: item.choices)
  for item, before in zip(chosen, items[:3], strict=True):
    assert item.options == before.choices
    assert item.chance == 1 / len(before.choices)
    assert item.key != before.key
    assert item.id == before.id
    assert before.chance is None


def test_a_rule_without_half_right_answers_gives_all_points_or_none(items):
  right = benchmarks.all_or_nothing(items[0], True, by='strict')
  assert (right.id, right.correct, right.score) == (items[0].id, True, 5.0)
  assert (right.status, right.judge) == ('ok', 'strict')
  wrong = benchmarks.all_or_nothing(items[0], False, by='x', status='unparsed')
  assert (wrong.correct, wrong.score) == (False, 0.0)
  assert wrong.status == 'unparsed'
