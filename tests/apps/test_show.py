import dataclasses
import pathlib

from PIL import Image

from vimonet_jax.apps import show
from vimonet_jax.synthetic import world

RECORD = world.World().make_record('test', 0)


def _named(paths):
  return [pathlib.Path(path).name for path in paths]


def test_a_record_becomes_three_files(tmp_path):
  folder = tmp_path / 'new' / 'folder'
  paths = show.run(RECORD, str(folder))
  assert _named(paths) == [
    'test-000000.gif', 'test-000000.png', 'test-000000.txt'
  ]  # fmt: skip
  with Image.open(paths[0]) as gif:
    assert gif.n_frames == len(RECORD.joints)
  with Image.open(paths[1]) as sheet:
    assert sheet.width > 8 * 48
  text = pathlib.Path(paths[2]).read_text(encoding='utf-8')
  for turn in RECORD.turns:
    assert turn.question in text
    assert turn.answer in text
    assert turn.fact in text
  assert 'Apache-2.0' in text


def test_a_body_is_drawn_from_features_where_joints_are_unknown(tmp_path):
  record = dataclasses.replace(RECORD, joints=None, frames=None)
  paths = show.run(record, str(tmp_path))
  assert _named(paths) == ['test-000000.gif', 'test-000000.txt']


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
