import numpy as np
import pytest
import samples

from vimonet_jax.data import packing, text

SLOTS, VIDEO = 49, 6
COUNTS = {'motion_slots': SLOTS, 'video_tokens': VIDEO}
SHAPE = packing.RowShape(length=100, motion_clips=3, video_clips=2)


def _element(number, *, motion_frames=0, video=False, words=3, spoken=False):
  """An element whose every array says which one it is.

  With `spoken`, words stand for a clip, some of them on top of each other.
  """
  rng = np.random.default_rng(number)
  motion_places = list(range(motion_frames // 4))
  start = SLOTS if motion_frames else 0
  places = [*(range(start, start + VIDEO) if video else ()), *motion_places]
  index = [text.TEXT, *places, *[text.TEXT] * words]
  length = len(index)
  example = {
    'tokens': np.where(
      np.array(index) < 0, rng.integers(3, 700, length), 0
    ).astype(np.int32),
    'loss_mask': np.arange(length) >= length - 2,
    'positions': np.arange(length, dtype=np.int32),
    'media_index': np.array(index, np.int32),
  }
  if spoken:
    more_lW = rng.integers(3, 700, (length, text.MORE_WORDS), np.int32)
    more_lW[rng.random(length) < 0.3] = text.NO_PLACE
    more_lW[0] = 1000 + number
    example['more_tokens'] = more_lW
  motion = rng.normal(size=(motion_frames, 263)) if motion_frames else None
  frames = rng.integers(0, 255, (2, 3, 3, 3), dtype=np.uint8) if video else None
  return packing.element(example, motion, frames)


def _same(found, expected):
  assert set(found) == set(expected)
  for key, x in expected.items():
    assert found[key].dtype == x.dtype, key
    np.testing.assert_array_equal(found[key], x, key)


ROWS = [
  [
    _element(1, motion_frames=8, video=True),
    _element(2),
    _element(3, motion_frames=12),
    _element(4, video=True),
  ],
  [_element(5, video=True), _element(6, motion_frames=196, words=9)],
  [],
]


def _batch(rows=ROWS, shape=SHAPE):
  return packing.finish(packing.pack(rows, shape), **COUNTS)


def test_a_batch_has_the_keys_shapes_and_types_of_the_contract():
  batch = _batch()
  assert {key: (x.dtype.name, x.shape) for key, x in batch.items()} == {
    'tokens': ('int32', (3, 100)),
    'loss_mask': ('bool', (3, 100)),
    'segment_ids': ('int32', (3, 100)),
    'positions': ('int32', (3, 100)),
    'media_index': ('int32', (3, 100)),
    'motion': ('float32', (3, 3, 196, 263)),
    'motion_length': ('int32', (3, 3)),
    'frames': ('uint8', (3, 2, 2, 3, 3, 3)),
  }


def test_without_slots_there_are_no_clips_in_the_batch():
  batch = _batch([[_element(1), _element(2)]], packing.RowShape(20))
  assert set(batch) == {
    'tokens',
    'loss_mask',
    'segment_ids',
    'positions',
    'media_index',
  }


def test_unpacking_gives_back_what_was_packed():
  rows = samples.unpack(_batch(), **COUNTS)
  assert [len(row) for row in rows] == [4, 2, 0]
  for found, expected in zip(rows, ROWS, strict=True):
    for a, b in zip(found, expected, strict=True):
      _same(a, b)


SPOKEN = [
  [_element(i, spoken=True, words=i) for i in (3, 7, 4)],
  [_element(9, spoken=True)],
  [],
]


def test_words_that_share_a_place_stay_with_it():
  batch = _batch(SPOKEN, packing.RowShape(30, has_words=True))
  more_BLW = batch['more_tokens']
  assert more_BLW.dtype == np.int32
  assert more_BLW.shape == (3, 30, text.MORE_WORDS)
  for b, starts in enumerate(((0, 4, 12), (0,), ())):
    is_first = (batch['positions'][b] == 0) & (batch['segment_ids'][b] > 0)
    assert np.flatnonzero(is_first).tolist() == list(starts)
    assert (more_BLW[b] >= 1000).all(axis=1).tolist() == is_first.tolist()
  assert (more_BLW[batch['segment_ids'] == 0] == text.NO_PLACE).all()
  rows = samples.unpack(batch, **COUNTS)
  assert [len(row) for row in rows] == [3, 1, 0]
  for found, expected in zip(rows, SPOKEN, strict=True):
    for a, b in zip(found, expected, strict=True):
      _same(a, b)


def test_words_lie_beside_clips_of_another_record():
  """A prompt with words and one with a clip, each in a row of a batch."""
  shape = packing.RowShape(60, motion_clips=1, has_words=True)
  asked = [_element(1, spoken=True), _element(2, motion_frames=8)]
  (spoken,), (shown,) = samples.unpack(
    _batch([[made] for made in asked], shape), **COUNTS
  )
  _same(spoken, asked[0])
  assert (shown.pop('more_tokens') == text.NO_PLACE).all()
  _same(shown, asked[1])


def test_words_behind_a_record_without_any_keep_their_places():
  shape = packing.RowShape(60, motion_clips=1, has_words=True)
  row = [_element(2, motion_frames=8), _element(1, spoken=True)]
  ((shown, spoken),) = samples.unpack(_batch([row], shape), **COUNTS)
  assert (shown['more_tokens'] == text.NO_PLACE).all()
  _same(spoken, row[1])


def _read(batch, b, where):
  """What a model sees at some places: a bank in which every row is unlike."""
  bank = []
  for clip in batch['motion'][b]:
    bank += [clip[4 * i : 4 * i + 4].sum() for i in range(SLOTS)]
  for clip in batch['frames'][b]:
    bank += [clip.astype(np.float32).sum() + 0.5 * i for i in range(VIDEO)]
  return np.array(bank)[batch['media_index'][b, where]]


def test_a_packed_record_reads_the_same_media_as_alone():
  batch = _batch()
  for b, row in enumerate(ROWS):
    for i, made in enumerate(row, 1):
      if not {'motion', 'frames'} & set(made):
        continue
      # Alone means with no other, in a row that may have more slots.
      for clips in ((1, 1), (3, 2)):
        filler = _element(99, motion_frames=4, video=True)
        alone = _batch([[made], [filler]], packing.RowShape(100, *clips))
        seen = alone['media_index'][0] >= 0
        packed = (batch['segment_ids'][b] == i) & (batch['media_index'][b] >= 0)
        np.testing.assert_array_equal(
          _read(batch, b, packed), _read(alone, 0, seen)
        )


def test_the_picture_of_the_shift_is_true():
  ids = np.array([[1] * 5 + [2] * 5 + [0]])
  packed = {
    'tokens': np.zeros((1, 11), np.int32),
    'tokens_positions': np.zeros((1, 11), np.int32),
    'tokens_segment_ids': ids,
    'loss_mask': np.zeros((1, 11), bool),
    'media_index': np.array([[*range(5), *range(5), -1]]),
    'motion_segment_ids': np.array([[1, 2]]),
    'frames_segment_ids': np.array([[1, 2]]),
  }
  batch = packing.finish(packed, motion_slots=2, video_tokens=3)
  assert batch['media_index'].tolist() == [[0, 1, 4, 5, 6, 2, 3, 7, 8, 9, -1]]


def test_positions_and_segments_restart_and_padding_has_none():
  batch = _batch([[_element(1), _element(2, words=1)]], packing.RowShape(8))
  assert batch['segment_ids'].tolist() == [[1, 1, 1, 1, 2, 2, 0, 0]]
  assert batch['positions'].tolist() == [[0, 1, 2, 3, 0, 1, 0, 0]]
  assert batch['media_index'].tolist() == [[text.TEXT] * 8]
  assert not batch['tokens'][0, 6:].any()
  assert not batch['loss_mask'][0, 6:].any()


def test_a_motion_is_zero_beyond_its_length_and_empty_slots_are_empty():
  batch = _batch()
  assert batch['motion_length'].tolist() == [[8, 12, 0], [196, 0, 0], [0, 0, 0]]
  for motion_CT263, lengths_C in zip(
    batch['motion'], batch['motion_length'], strict=True
  ):
    for motion_T263, length in zip(motion_CT263, lengths_C, strict=True):
      assert (motion_T263[:length] != 0).all()
      assert not motion_T263[length:].any()


@pytest.mark.parametrize(
  ('shape', 'reason'),
  [
    (packing.RowShape(12, 1, 1), ''),
    (packing.RowShape(11, 1, 1), 'it has 12 tokens and a row has room for 11'),
    (packing.RowShape(12, 0, 1), '1 motion and a row has room for 0'),
    (packing.RowShape(12, 1, 0), '1 frames and a row has room for 0'),
  ],
)
def test_what_does_not_fit_says_why(shape, reason):
  made = _element(1, motion_frames=8, video=True)
  assert bool(packing.misfit(made, shape)) == bool(reason)
  assert reason in packing.misfit(made, shape)


def test_words_that_share_places_need_room_for_it():
  made = _element(1, spoken=True)
  assert not packing.misfit(made, packing.RowShape(4, has_words=True))
  reason = 'it has 4 more_tokens and a row has room for 0'
  assert packing.misfit(made, packing.RowShape(4)) == reason


def test_slots_that_nobody_fills_have_no_shape():
  for key, slots in (
    ('frames', {'video_clips': 1}),
    ('more_tokens', {'has_words': True}),
  ):
    with pytest.raises(ValueError, match=f'at least one element with {key}'):
      packing.pack([[_element(1)]], packing.RowShape(10, **slots))
