import pytest

from vimonet_jax.apps import inputs
from vimonet_jax.data import video_file


def test_files_are_all_that_is_read_and_nothing_else(tmp_path):
  for name in ('walk.npy', '131_01.amc', '131.asf', '5.asf'):
    (tmp_path / name).touch()
  images = tmp_path / 'images'
  images.mkdir()
  for name in ('10.png', '2.png', '.DS_Store', '._2.png', 'Thumbs.db'):
    (images / name).touch()

  def names(path):
    return [x.name for x in inputs.files(str(path))]

  assert names(tmp_path / 'walk.npy') == ['walk.npy']
  assert names(tmp_path / '131_01.amc') == ['131_01.amc', '131.asf']
  assert names(images) == ['2.png', '10.png']


def test_a_folder_without_images_is_no_video(tmp_path):
  with pytest.raises(video_file.VideoFileError, match='found an empty folder'):
    inputs.files(str(tmp_path))
