"""Variants of training records: true to their words, and to the seed."""

import dataclasses

import numpy as np
import pytest

from vimonet_jax.data import augment, records
from vimonet_jax.motion import features, skeleton
from vimonet_jax.synthetic import world


@pytest.fixture(name='record', scope='module')
def _record():
  turn = records.Turn(
    'Which hand?',
    'It is the left hand.',
    'direction',
    'side',
    'left',
    ('left', 'right'),
  )
  made = world.World().make_record('train', 0)
  joints = made.joints[:65]
  return dataclasses.replace(
    made, motion=features.encode(joints), joints=joints, turns=(turn,)
  )


def test_twice_in_the_mirror_is_the_record(record):
  again = augment.mirrored(augment.mirrored(record))
  assert again.turns == record.turns
  np.testing.assert_array_equal(again.frames, record.frames)
  np.testing.assert_allclose(again.joints, record.joints, atol=1e-6)
  np.testing.assert_allclose(again.motion, record.motion, atol=1e-3)


def test_mirror_changes_sides_everywhere(record):
  found = augment.mirrored(record)
  (turn,) = found.turns
  assert turn.answer == 'It is the right hand.'
  assert turn.fact == 'right'
  assert set(turn.choices) == {'left', 'right'}
  np.testing.assert_array_equal(found.frames[0, 0, 0], record.frames[0, 0, -1])
  left, right = (
    skeleton.NAMES.index(f'{side}_wrist') for side in ('left', 'right')
  )
  np.testing.assert_allclose(
    found.joints[:, left, 0], -record.joints[:, right, 0], atol=1e-6
  )
  # Features are those of the mirrored joints, not the old ones.
  assert np.abs(found.motion - record.motion).max() > 0.01
  np.testing.assert_allclose(
    found.motion, features.encode(found.joints)[:64], atol=1e-5
  )


@pytest.mark.parametrize(
  ('text', 'other'),
  [
    ('turns left, then Right.', 'turns right, then Left.'),
    ('walks left then turns right', 'walks right then turns left'),
    ('turns to the right then left', 'turns to the left then right'),
    ('steps left before kicking right', 'steps right before kicking left'),
    ('turns right after that', 'turns left after that'),
    ('bows right after that', 'bows right after that'),
    ('walks clockwise then stops', 'walks counterclockwise then stops'),
    ('is all right, then leans right', 'is all right, then leans left'),
    ('walks clockwise', 'walks counterclockwise'),
    ('a counter-clockwise circle', 'a clockwise circle'),
    ('walks counter clockwise', 'walks clockwise'),
    ('Anti clockwise, slowly', 'Clockwise, slowly'),
    ('upright, turns right away', 'upright, turns right away'),
    ('turns at a right angle, left', 'turns at a right angle, right'),
    ('Which order is right?', 'Which order is right?'),
    ('Which foot is right of it?', 'Which foot is left of it?'),
    ('where they left, on the left', 'where they left, on the right'),
    ('has left arm up, tot he left', 'has right arm up, tot he right'),
    ('The man left the room.', 'The man left the room.'),
    ('the man left of the car', 'the man right of the car'),
    ('LEFT leg leftwards', 'RIGHT leg rightwards'),
  ],
)  # fmt: skip
def test_words_for_sides(text, other):
  assert augment.other_side(text) == other


def test_a_cut_is_a_part_of_the_motion(record):
  cut = augment.Augment(least_share=0.5)
  starts, lengths = set(), set()
  for seed in range(50):
    found = cut(record, np.random.default_rng(seed))
    length = len(found.motion)
    assert length % records.FRAMES_PER_TOKEN == 0
    assert 32 <= length <= 64
    assert len(found.joints) == length + 1
    (start,) = (
      i
      for i in range(0, 65 - length, 4)
      if np.array_equal(record.motion[i : i + length], found.motion)
    )
    np.testing.assert_array_equal(
      found.joints, record.joints[start : start + length + 1]
    )
    starts.add(start)
    lengths.add(length)
  assert len(starts) > 3
  assert {32, 64} <= lengths


def test_the_seed_decides_and_settings_do_not_shift_each_other(record):
  cut = augment.Augment(least_share=0.5)
  both = dataclasses.replace(cut, mirror=0.5)
  kinds = set()
  for seed in range(20):
    a, b, again = (
      variant(record, np.random.default_rng(seed))
      for variant in (cut, both, both)
    )
    np.testing.assert_array_equal(b.motion, again.motion)
    assert len(a.motion) == len(b.motion)
    kinds.add(b.turns[0].fact)
  assert kinds == {'left', 'right'}


def test_noise_moves_joints_and_features(record):
  found = augment.Augment(noise_share=1.0)(record, np.random.default_rng(0))
  error = np.linalg.norm(found.joints - record.joints, axis=-1).mean()
  assert 0.03 < error < 0.08  # L2: 4.7 cm.
  assert np.abs(found.motion - record.motion).max() > 0.01


@pytest.mark.parametrize(
  'variant', [{'mirror': 1.0}, {'noise_share': 1.0}, {}]
)
def test_without_joints_no_token_is_lost(record, variant):
  bare = dataclasses.replace(record, joints=None)
  found = augment.Augment(**variant)(bare, np.random.default_rng(0))
  assert len(found.motion) == len(record.motion) == 64
  if variant:
    assert len(found.joints) == 65
  if 'mirror' in variant:  # All rows but the last are what the mirror shows.
    expected = augment.mirrored(record).motion
    np.testing.assert_allclose(found.motion[:63], expected[:63], atol=0.05)


def test_nothing_asked_nothing_changed(record):
  found = augment.Augment()(record, np.random.default_rng(0))
  np.testing.assert_array_equal(found.motion, record.motion)
  assert found.turns == record.turns


def test_records_without_media_change_their_words_only():
  record = records.Record(
    id='a',
    source='test',
    split='train',
    motion_text='raise the left arm',
    turns=(records.Turn('Describe.', 'The left arm rises.'),),
  )
  variant = augment.Augment(mirror=1.0, least_share=0.5, noise_share=1.0)
  found = variant(record, np.random.default_rng(0))
  assert found.motion_text == 'raise the right arm'
  assert found.turns[0].answer == 'The right arm rises.'


def _asked_of_video(**changes):
  """Frames whose columns differ, and turns that name sides and turns."""
  shown = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
  record = records.Record(
    id='a',
    source='test',
    split='train',
    frames=shown,
    turns=(
      records.Turn('Is the ball left of him?', 'Yes, he turns clockwise.'),
      records.Turn(
        'A) to the left B) to the right?',
        'B) to the right',
        'direction',
        'choice',
        'right',
        ('to the left', 'to the right'),
      ),
    ),
  )
  return dataclasses.replace(record, **changes)


def test_a_flipped_video_changes_sides_in_questions_and_answers():
  record = _asked_of_video()
  found = augment.Augment(flip_share=1.0)(record, np.random.default_rng(0))
  np.testing.assert_array_equal(found.frames, record.frames[:, :, ::-1])
  assert found.frames.flags.c_contiguous
  first, second = found.turns
  assert first.question == 'Is the ball right of him?'
  assert first.answer == 'Yes, he turns counterclockwise.'
  assert second.question == 'A) to the right B) to the left?'
  assert (second.answer, second.fact) == ('B) to the left', 'left')
  assert second.choices == ('to the right', 'to the left')
  assert second.domain == 'direction'


def test_a_video_of_a_motion_is_never_flipped_by_itself(record):
  flip = augment.Augment(flip_share=1.0)
  with_words = records.Record(
    id='a',
    source='test',
    split='train',
    motion_text='raise the left arm',
    turns=(records.Turn('Describe.', 'The left arm rises.'),),
  )
  for kept in (record, dataclasses.replace(record, frames=None), with_words):
    found = flip(kept, np.random.default_rng(0))
    assert found.turns == kept.turns
    if kept.frames is not None:
      np.testing.assert_array_equal(found.frames, kept.frames)
    if kept.motion is not None:
      np.testing.assert_array_equal(found.motion, kept.motion)


def test_flipping_is_off_unless_asked_for_and_shifts_no_other_draw(record):
  video = _asked_of_video()
  flipped = []
  for seed in range(200):
    rng = np.random.default_rng(seed)
    assert augment.Augment()(video, rng).turns == video.turns
    found = augment.Augment(flip_share=0.3)(video, np.random.default_rng(seed))
    flipped.append(found.turns != video.turns)
    is_flipped = not np.array_equal(found.frames, video.frames)
    assert is_flipped == flipped[-1], 'frames and words disagree'
  assert 0.2 < np.mean(flipped) < 0.4
  # Of two shares the larger counts, of motions only the mirror's.
  both = augment.Augment(mirror=0.5, flip_share=0.1, least_share=0.5)
  alone = dataclasses.replace(both, flip_share=0.0)
  for seed in range(20):
    for asked in (video, record):
      a, b = (
        variant(asked, np.random.default_rng(seed)) for variant in (both, alone)
      )
      assert a.turns == b.turns
      np.testing.assert_array_equal(a.frames, b.frames)
      if asked.motion is not None:
        np.testing.assert_array_equal(a.motion, b.motion)


@pytest.mark.parametrize(
  'wrong',
  [
    {'mirror': 1.5},
    {'flip_share': -0.1},
    {'least_share': 0.0},
    {'noise_share': -0.1},
    {'noise': 'L9'},
  ],
)
def test_wrong_settings_are_named(wrong):
  with pytest.raises(ValueError, match='Expected shares of 0 to 1'):
    augment.Augment(**wrong)
