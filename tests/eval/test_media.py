import dataclasses

import babel_asked
import numpy as np
import pytest

from vimonet_jax.data import records, video
from vimonet_jax.eval import media
from vimonet_jax.motion import features, readers

NAMES = {'id': 'r', 'source': 's', 'split': 'val'}


def _save(path, array):
  np.save(path, array)
  return path


def _motion(path, **changes):
  return media.motion_record(path, **NAMES, **changes)


# --- Motions -----------------------------------------------------------------


def test_a_motion_is_shown_with_its_joints(tmp_path):
  path = _save(tmp_path / 'a.npy', babel_asked.slide(44))
  record = _motion(path, fps=20)
  assert (record.id, record.source, record.split) == ('r', 's', 'val')
  # 44 frames make 43 of features, of which a multiple of four is shown.
  assert record.motion.shape == (40, 263)
  assert record.joints.shape == (41, 22, 3)
  assert record.motion.dtype == record.joints.dtype == np.float32
  assert record.provenance == {'frames': [40, 44]}
  np.testing.assert_allclose(
    features.encode(record.joints), record.motion, atol=1e-5
  )


def test_a_long_motion_is_shown_from_its_start(tmp_path):
  joints_TJ3 = babel_asked.slide(300)
  record = _motion(_save(tmp_path / 'a.npy', joints_TJ3), fps=20)
  assert len(record.motion) == records.MAX_MOTION_FRAMES == 196
  np.testing.assert_allclose(record.joints, joints_TJ3[:197], atol=1e-6)
  assert record.provenance == {'frames': [196, 300]}


def test_a_name_may_say_the_frame_rate_and_the_caller_knows_better(tmp_path):
  """61 frames at 30 fps are 41 at 20 fps."""
  path = _save(tmp_path / '7_joints_30fps.npy', babel_asked.slide(61))
  assert _motion(path).provenance['frames'][1] == 41
  assert _motion(path, fps=20).provenance['frames'][1] == 61
  for name in ('joints.npy', '30fps.npy', 'a_30fps_b.npy'):
    silent = _save(tmp_path / name, babel_asked.slide(61))
    with pytest.raises(ValueError, match='expected a frame rate'):
      _motion(silent)


def test_features_are_shown_as_they_are(tmp_path):
  motion_TF = features.encode(babel_asked.slide(65)).astype(np.float32)
  record = _motion(_save(tmp_path / 'a.npy', motion_TF))
  np.testing.assert_array_equal(record.motion, motion_TF)
  np.testing.assert_allclose(record.joints, features.recover(motion_TF))


def test_which_motions_do_not_say_how_fast_they_are(tmp_path):
  joints_TJ3 = babel_asked.slide(61)
  files = {
    'a.npy': joints_TJ3,
    'a_30fps.npy': joints_TJ3,
    'features.npy': features.encode(joints_TJ3),
  }
  for name, array in files.items():
    _save(tmp_path / name, array)
  np.savez(tmp_path / 'b.npz', joints=joints_TJ3)
  np.savez(tmp_path / 'c.npz', joints=joints_TJ3, fps=30)
  (tmp_path / 'damaged.npy').write_bytes(b'none')
  names = (*files, 'b.npz', 'c.npz', 'damaged.npy', 'none.npy', 'a.bvh')
  silent = [n for n in names if not media.says_frame_rate(tmp_path / n)]
  assert silent == ['a.npy', 'b.npz']


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('a.npy', b'none', 'a.npy: expected'),
    ('a.txt', b'none', 'expected .bvh, .amc, .npy, .npz, found a file of type'),
    ('b_20fps.npy', None, 'found none there; check the path'),
  ],
)
def test_what_is_no_motion_is_refused(tmp_path, name, content, message):
  if content:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=message):
    _motion(tmp_path / name)


def test_motions_that_are_too_short_to_be_shown_are_refused(tmp_path):
  path = _save(tmp_path / 'a_20fps.npy', babel_asked.slide(10))
  with pytest.raises(ValueError, match='at least 1 s of motion, found 10'):
    _motion(path)
  path = _save(tmp_path / 'b_20fps.npy', babel_asked.slide(20))
  assert len(_motion(path).motion) == 16


def test_a_motion_that_has_been_read_is_shown_likewise(tmp_path):
  path = _save(tmp_path / 'a.npy', babel_asked.slide(61))
  record = media.record_of(readers.read(path, fps=30), **NAMES)
  same = _motion(path, fps=30)
  for field in dataclasses.fields(records.Record):
    np.testing.assert_array_equal(
      getattr(record, field.name), getattr(same, field.name)
    )


def test_published_motions_are_shown(shared_data):
  """Their length and rate are in the README of the shared data."""
  record = _motion(shared_data / 'babel_segments' / '919_joints_30fps.npy')
  assert record.provenance == {'frames': [196, 211]}
  folder = shared_data / 'humanml3d' / 'new_joint_vecs'
  record = _motion(folder / '000612.npy')
  assert record.motion.dtype == np.float32, 'float64 in the file'
  np.testing.assert_allclose(
    record.motion, np.load(folder / '000612.npy')[: len(record.motion)], 1e-6
  )


# --- Videos ------------------------------------------------------------------


@pytest.fixture
def clip(tmp_path):
  """Thirty images, each of its own grey, as a folder of them is a video."""
  image = pytest.importorskip('PIL.Image', reason='needs the package pillow')
  folder = tmp_path / 'clip'
  folder.mkdir()
  for i in range(30):
    grey = np.full((16, 16, 3), 8 * i, np.uint8)
    image.fromarray(grey).save(folder / f'{i}.png')
  return folder


def _shown(record):
  """Which of the thirty images."""
  return (record.frames[:, 0, 0, 0] // 8).tolist()


def test_frames_are_spread_as_in_training_or_chosen_by_a_rule(clip):
  frames = media.Frames(4, 16)
  record = media.video_record(clip, frames, **NAMES)
  assert record.frames.shape == (4, 16, 16, 3)
  assert _shown(record) == video.choose_frames(30, 4)
  assert (record.id, record.source, record.split) == ('r', 's', 'val')
  asked = []

  def choose(number, fps):
    asked.append(number)
    return [3, 1]

  record = media.video_record(clip, frames, **NAMES, choose=choose)
  assert (_shown(record), asked) == ([3, 1], [30])


def test_size_and_averaging_are_those_of_the_tower(clip, monkeypatch):
  seen = []

  def read_clip(path, **look):
    seen.append(look)
    return np.zeros((8, 4, 4, 3), np.uint8)

  monkeypatch.setattr(media.video, 'read_clip', read_clip)
  media.video_record(
    clip, media.Frames(8, 48, True), **NAMES, start_s=1, end_s=2
  )
  assert seen == [
    {'size': 48, 'antialias': True, 'frames': 8, 'start_s': 1, 'end_s': 2}
  ]


def test_a_part_of_a_video_is_shown(shared_data):
  pytest.importorskip('av', reason='needs the package av')
  path = shared_data / 'videos' / 'cobra_push_ups.mp4'  # 53 frames, 25 fps
  every = media.video_record(
    path, media.Frames(), **NAMES, choose=lambda number, fps: range(number)
  ).frames
  assert len(every) == 53
  record = media.video_record(
    path, media.Frames(8, 224), **NAMES, start_s=0.4, end_s=1.2
  )
  # Frames 10 to 30.
  np.testing.assert_array_equal(
    record.frames, every[[10, 12, 15, 18, 21, 24, 27, 30]]
  )
  for start, end in ((9, 10), (1.5, 1)):
    with pytest.raises(ValueError, match='cobra_push_ups.*expected a start'):
      media.video_record(
        path, media.Frames(), **NAMES, start_s=start, end_s=end
      )


# --- Files -------------------------------------------------------------------


def test_the_first_place_that_has_a_file_counts(tmp_path):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a' / 'x').touch()
  (tmp_path / 'x').touch()
  (tmp_path / 'y').mkdir()
  assert media.first_file(tmp_path, ('b/x', 'a/x', 'x')) == tmp_path / 'a' / 'x'
  assert media.first_file(tmp_path, ('x', 'a/x')) == tmp_path / 'x'
  assert media.first_file(tmp_path, ('y', 'z')) is None, 'y is a folder'


def test_a_folder_that_is_not_there_is_reported(tmp_path):
  media.check_folder(tmp_path, 'clips')
  (tmp_path / 'file').touch()
  for path in (tmp_path / 'none', tmp_path / 'file'):
    with pytest.raises(FileNotFoundError, match='folder of clips, found no'):
      media.check_folder(path, 'clips')
