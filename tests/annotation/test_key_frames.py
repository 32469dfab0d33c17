import io
import os

import films
import numpy as np
import pytest
from PIL import Image

from vimonet_jax.annotation import key_frames
from vimonet_jax.data import video_file

SETTINGS = {'every': 15, 'side': 512, 'most': 40}


def _read(path, tmp_path, name='a', **changes):
  return key_frames.read(
    str(path), str(tmp_path / 'frames'), name, **{**SETTINGS, **changes}
  )


def _sizes(found):
  return [Image.open(io.BytesIO(jpeg)).size for jpeg in found.jpegs]


def test_the_whole_frame_is_kept_in_its_proportions(tmp_path):
  """Also the edges, where people may stand; `square` would cut them off."""
  folder = tmp_path / 'images'
  folder.mkdir()
  image = np.zeros((90, 160, 3), np.uint8)
  image[:, :20] = 255
  for number in range(16):
    Image.fromarray(image).save(folder / f'{number}.png')
  found = _read(folder, tmp_path, side=80)
  assert _sizes(found) == [(80, 45), (80, 45)]
  assert found.step_s == 0
  pixels = np.asarray(Image.open(io.BytesIO(found.jpegs[0])))
  assert pixels[20, 3].min() > 200
  assert pixels[20, 40].max() < 50


def test_the_longer_side_of_what_was_filmed_upright_is_bounded(tmp_path):
  folder = tmp_path / 'images'
  folder.mkdir()
  Image.fromarray(np.zeros((160, 90, 3), np.uint8)).save(folder / '0.png')
  assert _sizes(_read(folder, tmp_path, side=80)) == [(45, 80)]


def test_small_frames_stay_as_they_are(tmp_path):
  path = films.write(tmp_path / 'a.mp4', 0)
  assert _sizes(_read(path, tmp_path)) == [(32, 32)] * 3


def test_every_so_many_frames_one_is_taken(tmp_path):
  path = films.write(tmp_path / 'a.mp4', 0, frames=30)
  found = _read(path, tmp_path)
  assert (len(found.jpegs), found.step_s) == (2, 0.5)
  found = _read(path, tmp_path, every=10)
  assert (len(found.jpegs), found.step_s) == (3, 0.333)
  names = sorted(os.listdir(tmp_path / 'frames' / 'a'))
  assert names == ['000000.jpg', '000010.jpg', '000020.jpg', 'made.json']


def test_what_was_made_is_kept_until_the_file_changes(tmp_path, monkeypatch):
  path = films.write(tmp_path / 'a.mp4', 0)
  first = _read(path, tmp_path)
  monkeypatch.setattr(key_frames, '_QUALITY', 10)
  assert _read(path, tmp_path) == first
  films.write(path, 200)
  assert _read(path, tmp_path) != first


@pytest.mark.parametrize('lost', ['000015.jpg', 'made.json'])
def test_what_was_made_in_part_is_made_anew(tmp_path, lost):
  path = films.write(tmp_path / 'a.mp4', 0)
  first = _read(path, tmp_path)
  (tmp_path / 'frames' / 'a' / lost).unlink()
  assert _read(path, tmp_path) == first


def test_clips_of_any_name_have_folders_of_their_own(tmp_path):
  names = ['a', 'a/b', '../a', 'a%2Fb']
  films_ = [
    films.write(tmp_path / f'{number}.mp4', 16 * number)
    for number in range(len(names))
  ]
  first = [
    _read(path, tmp_path, name)
    for path, name in zip(films_, names, strict=True)
  ]
  again = [
    _read(path, tmp_path, name)
    for path, name in zip(films_, names, strict=True)
  ]
  assert first == again
  assert len(os.listdir(tmp_path / 'frames')) == len(names)


def test_too_many_are_refused_also_where_they_were_made(tmp_path):
  path = films.write(tmp_path / 'a.mp4', 0)
  told = 'at most 2 key frames, found 3 .*max_images'
  with pytest.raises(video_file.VideoFileError, match=told):
    _read(path, tmp_path, most=2)
  assert len(_read(path, tmp_path).jpegs) == 3
  with pytest.raises(video_file.VideoFileError, match=told):
    _read(path, tmp_path, most=2)


def test_a_video_that_is_not_there_is_named(tmp_path):
  message = 'gone.mp4: expected a video'
  with pytest.raises(video_file.VideoFileError, match=message):
    _read(tmp_path / 'gone.mp4', tmp_path)
