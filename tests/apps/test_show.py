import dataclasses
import pathlib

import numpy as np
from PIL import Image

from vimonet_jax.apps import show
from vimonet_jax.data import video
from vimonet_jax.motion import readers
from vimonet_jax.synthetic import world

RECORD = world.World().make_record('test', 0)


def _named(paths):
  return [pathlib.Path(path).name for path in paths]


def test_a_record_becomes_pictures_and_files(tmp_path):
  folder = tmp_path / 'new' / 'folder'
  paths = show.run(RECORD, str(folder))
  assert _named(paths) == [
    'test-000000.gif', 'test-000000.npy', 'test-000000.png', 'test-000000',
    'test-000000.txt',
  ]  # fmt: skip
  gif, _, sheet, _, told = paths
  with Image.open(gif) as moving:
    assert moving.n_frames == len(RECORD.joints)
  with Image.open(sheet) as image:
    assert image.width > 8 * 48
  text = pathlib.Path(told).read_text(encoding='utf-8')
  for turn in RECORD.turns:
    assert turn.question in text
    assert turn.answer in text
    assert turn.fact in text
  assert 'Apache-2.0' in text


def test_what_is_written_is_read_again_as_it_was(tmp_path):
  _, motion, _, frames, _ = show.run(RECORD, str(tmp_path))
  np.testing.assert_array_equal(readers.read(motion).features, RECORD.motion)
  found = video.read_clip(frames, size=48, antialias=True)
  np.testing.assert_array_equal(found, RECORD.frames)


def test_a_body_is_drawn_from_features_where_joints_are_unknown(tmp_path):
  record = dataclasses.replace(RECORD, joints=None, frames=None)
  paths = show.run(record, str(tmp_path))
  assert _named(paths) == [
    'test-000000.gif', 'test-000000.npy', 'test-000000.txt'
  ]  # fmt: skip


def test_words_in_place_of_media_are_written(tmp_path):
  record = world.World().text_record('val', 1)
  paths = show.run(record, str(tmp_path))
  assert _named(paths) == ['text-val-000000001.txt']
  text = pathlib.Path(paths[0]).read_text(encoding='utf-8')
  assert record.motion_text in text
  assert record.video_text in text


def test_a_name_with_folders_stays_in_the_folder(tmp_path):
  record = dataclasses.replace(RECORD, id='a/b/../c', joints=None, motion=None)
  for path in show.run(record, str(tmp_path)):
    assert pathlib.Path(path).parent == tmp_path
