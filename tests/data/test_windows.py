import datetime
import io
import json
import os
import socket
import struct
import threading
import time

import films
import numpy as np
import pytest

from vimonet_jax.data import video_file, windows


def _joints(frames):
  """Every frame's number in all its numbers."""
  return np.broadcast_to(
    np.arange(frames, dtype=np.float32)[:, None, None], (frames, 22, 3)
  )


def _lines(joints):
  return b''.join(json.dumps(x.tolist()).encode() + b'\n' for x in joints)


@pytest.mark.parametrize('sizes', [(290,), (7,) * 41 + (3,), (150, 140)])
def test_windows_overlap_and_the_last_ends_where_all_ends(sizes):
  pieces = np.split(_joints(290), np.cumsum(sizes)[:-1])
  made = list(windows.of_joints(pieces, length_s=6, hop_s=2))
  firsts = [int(x.joints[0, 0, 0]) for x in made]
  assert firsts == [0, 40, 80, 120, 160, 169]
  for one in made:
    assert len(one.joints) == 121
    assert one.start_s == one.joints[0, 0, 0] / 20
    assert one.end_s == one.joints[-1, 0, 0] / 20


def test_a_window_comes_with_its_last_frame():
  given = []

  def frames():
    for i, frame in enumerate(_joints(200)):
      given.append(i)
      yield frame[None]

  stream = windows.of_joints(frames(), length_s=6, hop_s=2)
  for end_s, frames_given in ((6, 121), (8, 161)):
    assert next(stream).end_s == end_s
    assert len(given) == frames_given


def test_windows_in_which_nobody_is_seen_have_no_joints():
  joints = _joints(290).copy()
  joints[165, 3] = np.nan
  made = list(windows.of_joints([joints], length_s=6, hop_s=2))
  assert [x.start_s for x in made] == [0, 2, 4, 6, 8, 8.45]
  assert [x.start_s for x in made if x.joints is None] == [4, 6, 8]
  joints[165, 3] = 0
  joints[160] = np.inf
  made = list(windows.of_joints([joints], length_s=6, hop_s=2))
  assert [x.start_s for x in made if x.joints is None] == [2, 4, 6, 8]


def test_a_gap_of_a_quarter_of_a_second_is_filled_and_no_longer_one():
  true = _joints(100) / 100
  lost = true.copy()
  for gap in (0, 30, slice(40, 45), slice(60, 66), 99):
    lost[gap] = np.nan
  lost[30, 1:] = true[30, 1:]  # Only a part of a body.
  filled = windows.Filled([lost[:42], lost[42:43], lost[43:43], lost[43:]])
  made = np.concatenate(list(filled))
  assert made.dtype == np.float32
  assert filled.frames == 6
  gone = [0, *range(60, 66), 99]
  assert np.isnan(made[gone]).any(axis=(1, 2)).all()
  seen = np.setdiff1d(np.arange(100), gone)
  np.testing.assert_allclose(made[seen], true[seen], rtol=1e-6)


@pytest.mark.parametrize(('metres', 'is_filled'), [(0.5, True), (0.7, False)])
def test_nothing_is_filled_in_between_two_people(metres, is_filled):
  body = np.random.default_rng(0).normal(size=(22, 3))
  lost = np.stack([body, body, np.full_like(body, np.nan), np.nan * body, body])
  lost[4] += [metres, 0, 0]
  made = np.concatenate(list(windows.Filled([lost])))
  assert np.isfinite(made).all() == is_filled
  np.testing.assert_array_equal(made[[0, 1, 4]], lost[[0, 1, 4]])


def test_frames_that_are_there_do_not_wait():
  def frames():
    for i, frame in enumerate(_joints(20)):
      given.append(i)
      yield np.full((1, 22, 3), np.nan) if 3 <= i < 15 else frame[None]

  given = []
  came = []
  for piece in windows.Filled(frames()):
    came += [len(given)] * len(piece)
  # Six are no gap to be filled any more, and those behind them none, either.
  assert came == [1, 2, 3, *[9] * 6, *range(10, 21)]


@pytest.mark.parametrize(
  'line',
  ['null', json.dumps([[None] * 3] * 22), json.dumps([[float('nan')] * 3] * 22),
   json.dumps([[float(i), 0, 0] for i in range(21)] + [[19.0, 0, 0]])],
)  # fmt: skip
def test_a_line_without_a_body_is_nobody(line):
  body = np.random.default_rng(0).normal(size=(2, 22, 3))
  first, last = _lines(body).splitlines(keepends=True)
  source = io.BytesIO(first + line.encode() + b'\n' + last)
  read = list(windows.joints_of(windows.Growing(source, wait_s=0), 'x'))
  np.testing.assert_allclose(np.concatenate(read)[[0, 2]], body)
  assert np.isnan(read[1]).all()


def test_a_short_recording_is_one_window_and_a_shorter_one_is_refused():
  (one,) = windows.of_joints([_joints(60)], length_s=6, hop_s=2)
  assert len(one.joints) == 60
  assert one.end_s == 2.95
  with pytest.raises(ValueError, match='more than 2 s, found 40 frames'):
    list(windows.of_joints([_joints(40)], length_s=6, hop_s=2))
  assert not list(windows.of_joints([], length_s=6, hop_s=2))


def test_a_windows_frames_are_the_last_that_were_there():
  def film(seconds, fps=10):
    for i in range(round(seconds * fps) + 1):
      yield i / fps, np.full((9, 16, 3), i, np.uint8)

  made = list(windows.of_video(film(9.6), length_s=4, hop_s=2, count=5, size=4))
  assert [x.start_s for x in made] == pytest.approx([0, 2, 4, 5.6])
  assert made[-1].end_s == pytest.approx(9.6)
  for one in made:
    assert one.frames.shape == (5, 4, 4, 3)
    at = one.frames[:, 0, 0, 0] / 10
    wanted = np.linspace(one.start_s, one.end_s, 5)
    assert (at <= wanted + 1e-6).all()
    # Of the frames one in a quarter of a second is kept.
    assert (wanted - at < 0.31).all()
  with pytest.raises(ValueError, match='more than 2 s, found 1.5 s'):
    list(windows.of_video(film(1.5), length_s=4, hop_s=2, count=5, size=4))


def test_a_film_whose_clock_begins_anew_is_not_passed_over():
  times = [i / 10 for i in range(100)] + [i / 10 for i in range(100)]
  film = ((at_s, np.zeros((4, 4, 3), np.uint8)) for at_s in times)
  shown = windows.of_video(film, length_s=4, hop_s=2, count=3, size=4)
  assert [next(shown).start_s for _ in range(3)] == [0, 2, 4]
  with pytest.raises(ValueError, match='found one at 0.0 s behind one at 9.9'):
    next(shown)


def test_joints_and_frames_go_together_as_far_as_there_are_both():
  def film():
    for i in range(101):
      yield i / 10, np.full((4, 4, 3), i, np.uint8)

  frames = windows.of_video(film(), length_s=4, hop_s=2, count=3, size=4)
  joints = windows.of_joints([_joints(330)], length_s=4, hop_s=2)
  made = list(windows.together(joints, frames))
  assert [x.start_s for x in made] == [0, 2, 4, 6]
  assert all(x.joints is not None and x.frames is not None for x in made)


def test_lines_that_arrive_become_joints(tmp_path):
  path = tmp_path / 'joints.jsonl'
  joints = np.random.default_rng(0).normal(size=(30, 22, 3))
  with open(path, 'wb') as grown, open(path, 'rb', buffering=0) as file:
    text = _lines(joints)
    grown.write(text[:1000])
    grown.flush()

    def write_on():
      for start in range(1000, len(text), 5000):
        grown.write(text[start : start + 5000])
        grown.flush()

    timer = threading.Timer(0.2, write_on)
    timer.start()
    source = windows.Growing(file, wait_s=1.0)
    read = np.concatenate(list(windows.joints_of(source, 'joints.jsonl')))
    timer.join()
  np.testing.assert_allclose(read, joints)


def test_a_file_that_is_begun_anew_is_no_end_of_the_recording(tmp_path):
  path = tmp_path / 'joints.jsonl'
  text = _lines(_joints(30))
  path.write_bytes(text)
  with open(path, 'rb', buffering=0) as file:
    read = windows.joints_of(windows.Growing(file, wait_s=9.0), 'x')
    for _ in range(30):
      next(read)
    path.write_bytes(text[:1000])
    with pytest.raises(ValueError, match='found one of 1000 bytes'):
      next(read)


@pytest.mark.parametrize('name', ['film.ts', 'film.mkv'])
def test_a_video_is_read_as_it_grows(tmp_path, name):
  path = films.write(tmp_path / name, 1, frames=40)
  whole = list(video_file.in_time(str(path), name))
  content, grown = path.read_bytes(), tmp_path / f'grown-{name}'
  grown.write_bytes(content[:2000])

  def write_on():
    with open(grown, 'ab') as file:
      file.write(content[2000:])

  timer = threading.Timer(0.2, write_on)
  timer.start()
  with open(grown, 'rb', buffering=0) as file:
    source = windows.Growing(file, wait_s=1.0)
    read = list(video_file.in_time(source, name))
  timer.join()
  assert len(read) == len(whole) == 40
  for (at_s, image), (wanted_s, wanted) in zip(read, whole, strict=True):
    assert at_s == pytest.approx(wanted_s)
    np.testing.assert_array_equal(image, wanted)
  assert read[-1][0] == pytest.approx(39 / films.FPS, abs=0.01)


@pytest.mark.parametrize('least', [0, 50_000])
def test_who_waits_for_a_video_can_be_stopped(tmp_path, least):
  content = films.write(tmp_path / 'film.ts', 1, frames=200).read_bytes()

  class Waiting:
    """Somebody presses Ctrl-C when so much was read."""

    place = pressed = 0

    def read(self, size):
      if self.place >= least:
        self.pressed += 1
        raise KeyboardInterrupt
      some = content[self.place : self.place + min(size, 8192)]
      self.place += len(some)
      return some

  waiting = Waiting()
  with pytest.raises(KeyboardInterrupt):
    list(video_file.in_time(waiting, 'film.ts'))
  # And nobody waits again for what is not wanted any more.
  assert waiting.pressed == 1


def test_a_video_that_is_begun_anew_is_said(tmp_path):
  path = films.write(tmp_path / 'film.ts', 1, frames=100)
  with open(path, 'rb', buffering=0) as file:
    shown = video_file.in_time(windows.Growing(file, wait_s=9.0), 'film.ts')
    next(shown)
    path.write_bytes(b'')
    with pytest.raises(ValueError, match='found one of 0 bytes'):
      list(shown)


def test_the_end_is_waited_for_once():
  file = io.BytesIO(b'ab')
  source = windows.Growing(file, wait_s=0)
  assert [source.read(9), source.read(9)] == [b'ab', b'']
  file.write(b'c')
  file.seek(2)
  assert source.read(9) == b''


def test_who_writes_into_a_pipe_never_waits_for_who_reads():
  end, begin = os.pipe()
  file = open(end, 'rb', buffering=0)  # noqa: SIM115
  source = windows.Piped(file, wait_s=9.0, name='x')
  assert source.begun_at is None
  # A pipe has room for 64 KiB.
  text = _lines(_joints(600))
  assert len(text) > 2**18

  def write():
    with open(begin, 'wb') as file:
      file.write(text)

  writing = threading.Thread(target=write, daemon=True)
  writing.start()
  writing.join(timeout=30)
  assert not writing.is_alive()
  assert source.begun_at.tzinfo
  read = np.concatenate(list(windows.joints_of(source, '-')))
  assert len(read) == 600
  assert source.is_over


def test_a_pipe_that_stalls_is_over_where_that_is_wanted():
  end, begin = os.pipe()
  file = open(end, 'rb', buffering=0)  # noqa: SIM115
  source = windows.Piped(file, wait_s=0.2, name='x')
  os.write(begin, b'ab')
  assert source.read(1) == b'a'
  assert source.has_more
  assert source.read(9) == b'b'
  assert source.read(9) == b''
  assert source.is_over
  os.close(begin)


def test_a_pipe_is_over_once_however_often_it_is_asked():
  end, begin = os.pipe()
  source = windows.Piped(open(end, 'rb', buffering=0), wait_s=0.1, name='x')  # noqa: SIM115
  assert source.read(9) == b''
  os.write(begin, b'late')
  time.sleep(0.3)
  assert source.read(9) == b''
  os.close(begin)


def test_a_connection_that_breaks_is_no_end():
  with socket.create_server(('127.0.0.1', 0)) as server:
    theirs = socket.create_connection(server.getsockname())
    ours, _ = server.accept()
  file = open(ours.detach(), 'rb', buffering=0)  # noqa: SIM115
  source = windows.Piped(file, wait_s=9.0, name='x')
  theirs.sendall(b'ab')
  assert source.read(9) == b'ab'
  # Closed so, it sends a reset.
  theirs.setsockopt(
    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
  )
  theirs.close()
  with pytest.raises(ValueError, match='found .*Connection reset by peer; con'):
    source.read(9)


def test_a_pipe_that_was_opened_not_to_wait_is_waited_for():
  end, begin = os.pipe()
  os.set_blocking(end, False)
  file = open(end, 'rb', buffering=0)  # noqa: SIM115
  source = windows.Piped(file, wait_s=9.0, name='x')
  time.sleep(0.2)
  os.write(begin, b'ab')
  assert source.read(9) == b'ab'
  os.close(begin)
  assert source.read(9) == b''


def test_a_pipe_began_when_its_first_bytes_came_whenever_it_is_read():
  end, begin = os.pipe()
  source = windows.Piped(open(end, 'rb', buffering=0), wait_s=9.0, name='x')  # noqa: SIM115
  time.sleep(0.5)
  before = datetime.datetime.now().astimezone()
  os.write(begin, b'ab')
  time.sleep(1.0)
  assert source.read(9) == b'ab'
  assert 0 <= (source.begun_at - before).total_seconds() < 0.9
  os.close(begin)


def test_a_file_began_with_its_first_bytes_unless_they_were_there(tmp_path):
  path = tmp_path / 'joints.jsonl'
  path.touch()

  def write():
    with open(path, 'ab') as grown:
      grown.write(b'a')

  with open(path, 'rb', buffering=0) as file:
    source = windows.Growing(file, wait_s=9.0)
    timer = threading.Timer(0.5, write)
    before = datetime.datetime.now().astimezone()
    timer.start()
    assert source.read(99) == b'a'
    timer.join()
    assert 0.5 <= (source.begun_at - before).total_seconds() < 5
  # They may be there for as long as detectors were fitted.
  for is_opened_before in True, False:
    path.write_bytes(b'')
    if not is_opened_before:
      write()
    with open(path, 'rb', buffering=0) as file:
      source = windows.Growing(file, wait_s=9.0)
      if is_opened_before:
        write()
      for _ in range(2):
        assert source.read(99) == b'a'
        assert source.begun_at is None
        write()


def test_what_grows_and_is_no_video_is_said():
  source = windows.Growing(io.BytesIO(b'no video at all'), wait_s=0)
  with pytest.raises(video_file.VideoFileError, match='^x.ts: expected a'):
    list(video_file.in_time(source, 'x.ts'))


def test_blank_lines_are_no_frames():
  joints = np.random.default_rng(0).normal(size=(9, 22, 3))
  lines = _lines(joints).splitlines()
  text = b'\n' + b'\n\r\n'.join(lines) + b'\n \n'
  source = windows.Growing(io.BytesIO(text), wait_s=0)
  read = np.concatenate(list(windows.joints_of(source, 'x', every=3)))
  np.testing.assert_allclose(read, joints[::3])
  source = windows.Growing(io.BytesIO(text + b'oh\n'), wait_s=0)
  with pytest.raises(ValueError, match='^x, line 20: expected a frame'):
    list(windows.joints_of(source, 'x'))


def test_axes_units_and_rates_of_lines_are_brought_to_ours():
  joints = np.random.default_rng(0).normal(size=(9, 22, 3))
  source = windows.Growing(io.BytesIO(_lines(joints)), wait_s=0)
  read = np.concatenate(
    list(windows.joints_of(source, '-', up='z', unit='cm', every=3))
  )
  x, y, z = np.moveaxis(joints[::3] / 100, -1, 0)
  np.testing.assert_allclose(read, np.stack([-x, z, y], axis=-1))


@pytest.mark.parametrize(
  'line',
  [b'[[1, 2, 3]]', b'hello', b'{"a": 1}', b'[null]',
   b'[' * 200_000, b'[[' + b'9' * 400 + b', 0, 0]]',
   json.dumps([[float('nan')] * 3] * 21).encode()],
)  # fmt: skip
def test_a_line_that_is_no_frame_is_named(line):
  text = _lines(_joints(2)) + line + b'\n'
  source = windows.Growing(io.BytesIO(text), wait_s=0)
  with pytest.raises(ValueError, match='^x, line 3: expected a frame as JSON'):
    list(windows.joints_of(source, 'x'))
