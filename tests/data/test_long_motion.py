import numpy as np
import pytest

from vimonet_jax.data import long_motion
from vimonet_jax.motion import readers
from vimonet_jax.synthetic import recordings


@pytest.fixture(scope='module')
def lived():
  """A minute and a half in centimetres, z up."""
  joints, _ = recordings.take(recordings.pieces(0, 'val'), 90)
  return 100 * joints @ readers.TO_Y_UP['z']


@pytest.fixture
def short_pieces(monkeypatch):
  for name, value in ('_PIECE', 250), ('_PLACES', 9), ('_RUN', 40):
    monkeypatch.setattr(long_motion, name, value)


@pytest.mark.usefixtures('short_pieces')
@pytest.mark.parametrize('fps', [20.0, 60.0, 30.0, 29.97])
def test_pieces_are_what_reading_all_of_it_gives(lived, tmp_path, fps):
  path = str(tmp_path / 'day.npy')
  np.save(path, lived)
  pieces = list(long_motion.read(path, fps=fps))
  whole = readers.read(path, fps=fps).joints
  assert len(pieces) == -(-len(whole) // 250) > 2
  joints = np.concatenate(pieces)
  assert joints.dtype == np.float32
  np.testing.assert_allclose(joints, whole, rtol=0, atol=1e-5)


@pytest.mark.usefixtures('short_pieces')
def test_a_bad_frame_far_on_is_named_before_anything_is_given(lived, tmp_path):
  path = str(tmp_path / 'day.npy')
  for place, value, sentence in (
    ((1501, 3), np.nan, 'found NaN or infinity in frame 1501; mend'),
    ((1301, 0), 1e5, 'no faster than .* m/s at 65.0[05] s; mend'),
  ):
    joints = lived.copy()
    joints[place] = value
    np.save(path, joints)
    with pytest.raises(readers.MotionFileError, match=sentence):
      long_motion.read(path, fps=20.0)


@pytest.mark.usefixtures('short_pieces')
def test_a_frame_alone_is_a_piece_and_a_jump_before_it_is_seen(lived, tmp_path):
  path = str(tmp_path / 'day.npy')
  joints = lived[:501].copy()
  np.save(path, joints)
  pieces = list(long_motion.read(path, fps=20.0))
  assert [len(x) for x in pieces] == [250, 250, 1]
  joints[500:] += 500.0
  np.save(path, joints)
  with pytest.raises(readers.MotionFileError, match='m/s at 24.95 s'):
    long_motion.read(path, fps=20.0)


@pytest.mark.usefixtures('short_pieces')
@pytest.mark.parametrize('fps', [20.0, 60.0, 30.0])
def test_a_bad_joint_is_told_by_its_frame_of_the_recording(
  lived, tmp_path, fps
):
  """Whether it is in one of the frames that are looked at first, or not."""
  path = str(tmp_path / 'day.npy')
  starts = np.linspace(0, len(lived) - 40, 9).astype(int)
  for frame in (starts[7] + 3) // 3 * 3, (starts[7] + 62) // 6 * 6:
    joints = lived.copy()
    joints[frame, 3] = joints[frame, 0]
    np.save(path, joints)
    with pytest.raises(readers.MotionFileError, match=f'in frame {frame};'):
      long_motion.read(path, fps=fps)


def test_another_file_is_read_as_ever(lived, tmp_path):
  np.save(tmp_path / 'short.npy', lived[:300])
  (joints,) = long_motion.read(str(tmp_path / 'short.npy'), fps=20.0)
  assert len(joints) == 300
  (tmp_path / 'none.npy').write_bytes(b'')
  with pytest.raises(readers.MotionFileError, match='expected a NumPy file'):
    long_motion.read(str(tmp_path / 'none.npy'), fps=20.0)
