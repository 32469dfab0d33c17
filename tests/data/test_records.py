import dataclasses

import numpy as np
import pytest

from vimonet_jax.data import records

TURN = records.Turn(
  'Which way?', 'To the left.', 'direction', 'named', 'left', ('left', 'right')
)


def _record(**fields):
  return records.Record('clip-7', 'test', 'train', turns=(TURN,), **fields)


def test_a_good_record_is_taken_as_it_is():
  motion = np.zeros((196, 263), np.float32)
  frames = np.zeros((8, 4, 4, 3), np.uint8)
  record = _record(motion=motion, frames=frames)
  assert record.motion is motion
  assert record.frames is frames


@pytest.mark.parametrize(
  ('shape', 'message'),
  [
    ((40, 251), r'\[T, 263\], found \[40, 251\]'),
    ((263,), r'found \[263\]'),
    ((42, 263), 'a multiple of 4 .* found 42'),
    ((200, 263), 'at most 196, found 200'),
    ((0, 263), 'found 0'),
  ],
)
def test_a_wrong_motion_says_what_is_wrong_and_whose_it_is(shape, message):
  with pytest.raises(ValueError, match=message) as error:
    _record(motion=np.zeros(shape, np.float32))
  assert 'clip-7' in str(error.value)


def test_a_motion_with_nan_is_refused():
  motion = np.zeros((40, 263), np.float32)
  motion[3, 5] = np.nan
  with pytest.raises(ValueError, match='finite'):
    _record(motion=motion)


@pytest.mark.parametrize(
  'frames',
  [
    np.zeros((8, 4, 4, 3), np.float32),
    np.zeros((4, 4, 3), np.uint8),
    np.zeros((8, 3, 4, 4), np.uint8),
  ],
)
def test_wrong_frames_are_refused(frames):
  with pytest.raises(ValueError, match='uint8'):
    _record(frames=frames)


@pytest.mark.parametrize(
  ('length', 'kept'), [(3, 0), (40, 40), (43, 40), (196, 196), (199, 196)]
)
def test_trimming_keeps_the_beginning_in_whole_tokens(length, kept):
  motion = np.arange(length * 263).reshape(length, 263)
  trimmed = records.trim_motion(motion)
  np.testing.assert_array_equal(trimmed, motion[:kept])


def test_a_turn_comes_back_from_json_lines(tmp_path):
  path = str(tmp_path / 'turns.jsonl')
  turns = [TURN, records.Turn('¿Qué?\n', '"漢字" </s>')]
  records.write_json_lines(path, map(records.turn_to_json, turns))
  found = list(map(records.turn_from_json, records.read_json_lines(path)))
  assert found == turns


def test_a_broken_line_is_named(tmp_path):
  path = tmp_path / 'turns.jsonl'
  path.write_text('{"question": "a"}\n\n{"question": \n')
  with pytest.raises(ValueError, match='turns.jsonl, line 3'):
    list(records.read_json_lines(str(path)))


def test_lines_that_windows_has_saved_are_read(tmp_path):
  path = tmp_path / 'turns.jsonl'
  path.write_bytes('\ufeff{"a": "é"}\r\n\r\n{"a": 2}\r\n'.encode())
  assert list(records.read_json_lines(str(path))) == [{'a': 'é'}, {'a': 2}]
  path.write_bytes(b'\xef\xbb\xbf[1]')
  assert records.read_json_list(path) == [1]


def test_lines_in_another_encoding_are_refused_in_a_sentence(tmp_path):
  path = tmp_path / 'turns.jsonl'
  path.write_bytes('{"a": "é"}\n'.encode('latin-1'))
  with pytest.raises(ValueError, match=r'turns.jsonl: expected .* in UTF-8'):
    list(records.read_json_lines(str(path)))


def test_a_record_cannot_be_changed():
  with pytest.raises(dataclasses.FrozenInstanceError):
    _record().id = 'other'


def test_turns_are_written_as_before_unless_they_follow():
  alone = records.Turn('Why?', 'So.')
  follows = records.Turn('And then?', 'Home.', follows=True)
  assert 'follows' not in records.turn_to_json(alone)
  for turn in (alone, follows):
    assert records.turn_from_json(records.turn_to_json(turn)) == turn
