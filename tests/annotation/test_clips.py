import json

import films
import numpy as np
import pytest

from vimonet_jax.annotation import clips
from vimonet_jax.data import captions
from vimonet_jax.synthetic import actions

WAVE = actions.Action('wave', side='left')


def _list(folder, *rows):
  text = ''.join(f'{json.dumps(row)}\n' for row in rows)
  (folder / clips.LIST).write_text(text)
  return folder


def test_videos_are_found_with_the_motions_of_their_names(tmp_path):
  (tmp_path / 'day one').mkdir()
  films.write(tmp_path / 'day one' / 'a.mp4', 0)
  films.write(tmp_path / 'b.MOV', 1)
  films.write_motion(tmp_path / 'day one' / 'a.npy', WAVE)
  films.write_motion(tmp_path / 'c.npy', WAVE)
  (tmp_path / '.hidden.mp4').write_bytes(b'')
  found = clips.find(tmp_path, licence='CC0')
  assert [clip.id for clip in found] == ['b', 'day one/a']
  assert [bool(clip.motion) for clip in found] == [False, True]
  assert {clip.licence for clip in found} == {'CC0'}
  assert clips.joints(found[0]) is None
  assert clips.joints(found[1]).shape[1:] == (22, 3)


def test_a_list_says_what_is_known(tmp_path):
  said = ['waves.', {'text': 'greets.', 'start_s': 1, 'end_s': 2.5}]
  _list(
    tmp_path,
    {'id': 'a', 'video': 'v/a.mp4', 'label': 'hello', 'split': 'test'},
    {'id': 'b', 'motion': 'b.npy', 'fps': 60, 'up': 'z', 'unit': 'cm',
     'captions': said, 'licence': 'CC0'},
  )  # fmt: skip
  first, second = clips.find(tmp_path, licence='unknown')
  assert first == clips.Clip(
    'a',
    'test',
    video=str(tmp_path / 'v/a.mp4'),
    label='hello',
    licence='unknown',
  )
  assert second.captions == (
    captions.Caption('waves.'), captions.Caption('greets.', 1, 2.5)
  )  # fmt: skip
  assert (second.split, second.licence) == ('train', 'CC0')


def test_what_a_list_says_of_a_motion_file_counts(tmp_path):
  joints = films.joints(WAVE)
  slow = np.repeat(joints, 3, axis=0)  # 60 frames a second.
  z_up = slow[..., [0, 2, 1]] * [-100.0, 100.0, 100.0]
  np.save(tmp_path / 'b.npy', z_up)
  _list(tmp_path, {'id': 'b', 'motion': 'b.npy', 'fps': 60, 'up': 'z',
                   'unit': 'cm'})  # fmt: skip
  (clip,) = clips.find(tmp_path, licence='')
  found = clips.joints(clip)
  assert len(found) == len(joints)
  # The hand that waves is still the left one.
  travel = np.ptp(found - found[:, :1], axis=0).sum(-1)
  assert travel[20] > 2 * travel[21]


def test_folders_in_the_layout_of_humanml3d_have_captions(tmp_path):
  (tmp_path / 'texts').mkdir()
  (tmp_path / 'new_joints').mkdir()
  for name in ('000001', 'M000001'):
    np.save(tmp_path / 'new_joints' / f'{name}.npy', films.joints(WAVE))
    text = 'a man waves.#a/DET#0.0#0.0\nsomeone greets.#a/DET#0.0#0.0\n'
    (tmp_path / 'texts' / f'{name}.txt').write_text(text)
  (tmp_path / 'val.txt').write_text('000001\nM000001\n')
  (clip,) = clips.find(tmp_path, licence='MIT')
  assert (clip.id, clip.split, clip.video) == ('000001', 'val', '')
  assert [c.text for c in clip.captions] == ['a man waves.', 'someone greets.']
  assert clips.joints(clip).shape[1:] == (22, 3)


@pytest.mark.parametrize(
  ('row', 'told'),
  [
    ({'video': 'a.mp4'}, 'an object with an id'),
    ([], 'an object with an id'),
    ({'id': 'a', 'vidoe': 'a.mp4'}, "keys of .*, found 'vidoe'"),
    ({'id': 'a', 'video': 3}, 'video as a text, found 3'),
    ({'id': 'a', 'fps': '60'}, "fps as a number, found '60'"),
    ({'id': 'a', 'split': 'dev'}, "a split of train, val, test, found 'dev'"),
    ({'id': 'a', 'captions': 'x'}, 'captions as a list'),
    ({'id': 'a', 'captions': [3]}, 'captions as texts'),
    ({'id': 'a', 'captions': ['']}, 'captions as texts'),
    ({'id': 'a', 'captions': [{'text': 'x', 'start': 1}]}, 'captions as texts'),
    (
      {'id': 'a', 'captions': [{'text': 'x', 'start_s': 2, 'end_s': 1}]},
      'captions as texts',
    ),
    ({'id': 'b'}, "an id of its own for each clip, found 'b'"),
  ],
)
def test_mistakes_in_a_list_are_named_with_their_place(tmp_path, row, told):
  _list(tmp_path, {'id': 'b', 'video': 'b.mp4'}, row)
  with pytest.raises(ValueError, match=told) as error:
    clips.find(tmp_path, licence='')
  assert 'clips.jsonl' in str(error.value)
  assert 'clip 2' in str(error.value)


def test_two_videos_of_one_name_are_refused(tmp_path):
  films.write(tmp_path / 'a.mp4', 0)
  films.write(tmp_path / 'a.mov', 1)
  with pytest.raises(ValueError, match="found 'a' for .*a.mov and for .*mp4"):
    clips.find(tmp_path, licence='')


@pytest.mark.parametrize('has_list', [False, True])
def test_an_empty_folder_is_refused(tmp_path, has_list):
  if has_list:
    _list(tmp_path)
  with pytest.raises(ValueError, match='^Expected .* found none;'):
    clips.find(tmp_path, licence='')
