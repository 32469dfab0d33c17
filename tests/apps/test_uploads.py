import concurrent.futures
import contextlib
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time

import hostile
import numpy as np
import pytest

from vimonet_jax.apps import confined, inputs, uploads
from vimonet_jax.infer import scheduler
from vimonet_jax.motion import features

pytestmark = pytest.mark.skipif(
  not os.path.isdir('/proc/self'), reason='looks at processes in /proc'
)

@pytest.fixture(scope='module')
def temporary(tmp_path_factory):
  """Where files of all users lie."""
  folder = tmp_path_factory.mktemp('temporary')
  before, tempfile.tempdir = tempfile.tempdir, str(folder)
  yield folder
  tempfile.tempdir = before


@pytest.fixture(scope='module')
def reading(temporary):
  with uploads.Uploads(hostile.TOWER, hostile.LIMITS) as all_of_them:
    yield all_of_them


@pytest.fixture(scope='module')
def good():
  motion = features.encode(hostile.joints())
  return {
    'motion': uploads.File('walk.NPY', hostile.npy(motion)),
    'video': uploads.File('walk.mp4', hostile.film()),
  }


@pytest.fixture(scope='module')
def expected(good, tmp_path_factory):
  folder = tmp_path_factory.mktemp('given')
  paths = {}
  for medium, file in good.items():
    paths[medium] = folder / file.name.lower()
    paths[medium].write_bytes(file.data)
  paths = {medium: str(path) for medium, path in paths.items()}
  return inputs.read(hostile.TOWER, **paths)


def _check(given, expected):
  np.testing.assert_array_equal(given.record.motion, expected.record.motion)
  np.testing.assert_array_equal(given.record.frames, expected.record.frames)
  assert given.record.motion.dtype == np.float32
  assert given.record.frames.dtype == np.uint8


def _readers():
  """Processes that this one has started to read, and that run."""
  found = []
  for tasks in pathlib.Path('/proc/self/task').glob('*/children'):
    for pid in tasks.read_text().split():
      with contextlib.suppress(FileNotFoundError):
        said = pathlib.Path('/proc', pid, 'cmdline').read_bytes()
        if b'vimonet_jax.apps.confined' in said:
          found.append(int(pid))
  return found


def _peak_bytes(pid):
  status = pathlib.Path('/proc', str(pid), 'status').read_text()
  return int(status.split('VmHWM:')[1].split()[0]) << 10


def _forget_peaks(*pids):
  for pid in pids:
    pathlib.Path('/proc', str(pid), 'clear_refs').write_text('5')


def _files(folder):
  return [
    path
    for path in folder.rglob('*')
    if path.is_file() and path.suffix != '.lock'
  ]


@pytest.mark.parametrize('name', hostile.FILES)
def test_hostile_files_are_refused_with_one_sentence(
  name, reading, good, expected, temporary, monkeypatch
):
  monkeypatch.chdir(temporary)
  sent = hostile.FILES[name]
  data = sent.data()
  assert len(data) < 5 << 20
  pids = _readers()
  _forget_peaks('self', *pids)
  before = _peak_bytes('self')
  with pytest.raises(uploads.RefusedError) as error:
    reading.read(
      **{sent.medium: uploads.File(sent.name, data)}, **sent.said
    )
  assert _peak_bytes('self') - before < 16 << 20
  assert all(_peak_bytes(pid) < hostile.LIMITS.memory_bytes for pid in pids)
  sentence = str(error.value)
  assert sent.gist in sentence
  assert 'xpected ' in sentence
  assert 'found' in sentence
  assert sentence.endswith('.')
  assert sentence.isprintable()
  assert len(sentence) <= 500
  assert str(temporary) not in sentence
  # The same process reads on.
  _check(reading.read(**good), expected)
  assert _readers() == pids
  assert _files(temporary) == []


def test_a_good_file_says_what_was_found(reading, expected):
  joints = uploads.File('a.npy', hostile.npy(100 * hostile.joints()))
  given = reading.read(motion=joints, fps=20, up='y')
  assert 'Unit cm, detected' in given.notes[0]
  np.testing.assert_allclose(
    given.record.motion, expected.record.motion, atol=1e-3
  )
  assert given.record.frames is None
  assert reading.read().record.motion is None


def test_frames_that_come_at_any_time_are_read(reading):
  film = uploads.File('a.mkv', hostile.film('a.mkv', frames=9, step=7001))
  assert reading.read(video=film).record.frames.shape == (8, 8, 8, 3)


def _pair(shared_data):
  folder = shared_data / 'mocap/raw'
  return {
    'motion': uploads.File('05_01.AMC', (folder / '05_01.amc').read_bytes()),
    'body': uploads.File('mine.asf', (folder / '05.asf').read_bytes()),
  }


def test_angles_are_read_with_their_body(reading, shared_data, temporary):
  given = reading.read(**_pair(shared_data))
  path = shared_data / 'mocap/raw/05_01.amc'
  wanted = inputs.read(hostile.TOWER, motion=str(path))
  np.testing.assert_array_equal(given.record.motion, wanted.record.motion)
  assert 'the only one' not in ' '.join(given.notes)
  assert _files(temporary) == []


@pytest.mark.parametrize(
  ('changes', 'gist'),
  [
    ({'body': None}, 'found .amc; convert it'),
    ({'motion': None}, 'found .asf; give both together'),
    ({'body': ('x.bvh', b'x')}, 'found .amc and .bvh; give both'),
    ({'motion': ('x.bvh', b'x')}, 'found .bvh and .asf; give both'),
    ({'body': ('x.asf', b'')}, 'found an empty file; send it again'),
    ({'body': ('x.asf', bytes(4 << 20))}, 'bytes together, found'),
    ({'body': ('x.asf', b':units\nlength 1\n')}, 'truncated, fetch it again'),
    ({'body': ('x.asf', bytes(99))}, 'xpected'),
    ({'motion': ('x.amc', b'1\nroot nan\n')}, 'xpected'),
  ],
)
def test_a_body_and_angles_that_are_none_are_refused(
  reading, good, expected, shared_data, temporary, changes, gist
):
  changes = {k: x and uploads.File(*x) for k, x in changes.items()}
  with pytest.raises(uploads.RefusedError, match=gist) as error:
    reading.read(**(_pair(shared_data) | changes))
  assert str(error.value).endswith('.')
  assert str(temporary) not in str(error.value)
  _check(reading.read(**good), expected)
  assert _files(temporary) == []


def test_a_medium_that_is_not_asked_for_is_not_looked_at(good):
  closed = uploads.Uploads(hostile.TOWER, hostile.LIMITS, media=('motion',))
  with pytest.raises(uploads.RefusedError, match='found a video, which is not'):
    closed.read(**good)
  with pytest.raises(scheduler.ClosedError):
    closed.read(motion=good['motion'])


def test_a_reader_may_write_nothing_and_knows_no_key(monkeypatch, temporary):
  monkeypatch.setenv('OPENAI_API_KEY', 'sesame')
  before = set(_readers())
  with uploads.Uploads(hostile.TOWER, hostile.LIMITS):
    (pid,) = set(_readers()) - before
    proc = pathlib.Path('/proc', str(pid))
    assert b'sesame' not in (proc / 'environ').read_bytes()
    limits = (proc / 'limits').read_text().splitlines()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits}
    assert soft['Max file size'] == '0'
    assert soft['Max core file size'] == '0'
    assert soft['Max address space'] == str(hostile.LIMITS.memory_bytes)
    assert int(soft['Max open files']) < 100
    folder = (proc / 'cwd').readlink()
    assert folder.stat().st_mode & 0o077 == 0
    assert folder.parent.stat().st_mode & 0o077 == 0


def test_what_takes_too_long_is_ended(good, temporary, expected):
  limits = uploads.Limits(timeout_s=2, at_once=1, memory_bytes=4 << 30)
  slow = hostile.slow()
  before = set(_readers())
  with uploads.Uploads(hostile.TOWER, limits) as reading:
    start = time.monotonic()
    with pytest.raises(uploads.RefusedError, match='read in 2 s, found one'):
      reading.read(motion=uploads.File('a.bvh', slow))
    assert time.monotonic() - start < 10
    assert reading.read(motion=good['motion']).record.motion is not None
    assert _files(temporary) == []
  assert set(_readers()) == before


def test_a_reader_that_dies_is_replaced(good, expected, temporary):
  before = set(_readers())
  with uploads.Uploads(hostile.TOWER, hostile.LIMITS) as reading:
    (pid,) = set(_readers()) - before
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    _check(reading.read(**good), expected)
    (pid,) = set(_readers()) - before
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(uploads.RefusedError, match='a file that ends its rea'):
      reading.read(**good)
    _check(reading.read(**good), expected)
    assert _files(temporary) == []


def test_many_are_read_at_the_same_time(temporary):
  limits = uploads.Limits(at_once=2, wait_s=60, timeout_s=60)
  clips = [features.encode(hostile.joints()[i:]) for i in range(8)]
  films_ = [hostile.film(frames=2 + i) for i in range(8)]
  with (
    uploads.Uploads(hostile.TOWER, limits) as reading,
    concurrent.futures.ThreadPoolExecutor(8) as pool,
  ):

    def read(i):
      return reading.read(
        motion=uploads.File('a.npy', hostile.npy(clips[i])),
        video=uploads.File('a.mp4', films_[i]),
      )

    for i, given in enumerate(pool.map(read, range(8))):
      motion = given.record.motion
      np.testing.assert_array_equal(motion, clips[i][: len(motion)])


def test_who_comes_when_all_read_is_told_to_come_again(good, temporary):
  limits = uploads.Limits(at_once=1, wait_s=0.1)
  before = set(_readers())
  with uploads.Uploads(hostile.TOWER, limits) as reading:
    (pid,) = set(_readers()) - before
    os.kill(pid, signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      first = pool.submit(reading.read, **good)
      while not _files(temporary):
        time.sleep(0.01)
      with pytest.raises(scheduler.BusyError, match='come again later'):
        reading.read(**good)
      # Who is reading does not hold up the end.
      reading.__exit__(None, None, None)
      with pytest.raises(scheduler.ClosedError):
        first.result()
    assert set(_readers()) == before


_FAKE = """
import json, sys
from multiprocessing import connection
socket = connection.Connection(int(sys.argv[1]))
socket.send_bytes(b'ready')
socket.recv_bytes()
for part in json.load(open({path!r})):
  socket.send_bytes(bytes.fromhex(part))
socket.recv_bytes()
"""


@pytest.mark.parametrize(
  'parts',
  [
    [pickle.dumps(hostile.Bomb())],
    [b'[' * 99_999],
    [b'7'],
    [b'x' * (1 << 19)],
    [b'{"notes": [], "motion": 1e9}'],
    [b'{"notes": [], "motion": 4000000000}'],
    [b'{"notes": [], "motion": -4}'],
    [b'{"notes": [], "motion": 8}', bytes(8 * 263 * 4 + 1)],
    [b'{"notes": [], "motion": 8}', bytes(8 * 263 * 4 - 1)],
    [b'{"notes": [], "motion": 8}', b'\xff' * 8 * 263 * 4],
    [b'{"notes": 5, "motion": 8}', bytes(8 * 263 * 4)],
  ],
)
def test_a_reader_that_was_taken_over_is_not_believed(
  parts, good, tmp_path, temporary, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  path = tmp_path / 'parts.json'
  path.write_text(json.dumps([part.hex() for part in parts]))
  (tmp_path / 'taken_over.py').write_text(_FAKE.format(path=str(path)))
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.setattr(confined, '__name__', 'taken_over')
  with (
    uploads.Uploads(hostile.TOWER, hostile.LIMITS) as reading,
    pytest.raises(uploads.RefusedError, match='a file that ends its reader'),
  ):
    reading.read(motion=good['motion'])
  assert not (tmp_path / hostile.MARK).exists()


def test_a_reader_that_does_not_start_is_told(temporary, monkeypatch):
  monkeypatch.setattr(confined, '__name__', 'no_such_module')
  with (
    pytest.raises(RuntimeError, match='does not start'),
    uploads.Uploads(hostile.TOWER, hostile.LIMITS),
  ):
    pass
  assert _files(temporary) == []


def test_somebody_elses_folder_is_not_used(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  (tmp_path / f'vimonet_jax-{os.getuid()}').mkdir(mode=0o755)
  with (
    pytest.raises(ValueError, match='set TMPDIR to another folder'),
    uploads.Uploads(hostile.TOWER, hostile.LIMITS),
  ):
    pass


_DIES = """
import os, signal, sys, threading, time
from vimonet_jax.apps import uploads
from vimonet_jax.models import clip_video
tower = clip_video.Config(16, 1, 2, 16, image_size=8, patch_size=8)
slow = uploads.File('a.bvh', open(sys.argv[1], 'rb').read())
with uploads.Uploads(tower, uploads.Limits(memory_bytes=4 << 30)) as reading:
  threading.Thread(target=reading.read, kwargs={'motion': slow}).start()
  time.sleep(0.3)
  print(*(process.handle.pid for process in reading._running), flush=True)
  os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_when_the_parent_dies(tmp_path, monkeypatch):
  slow = tmp_path / 'slow.bvh'
  slow.write_bytes(hostile.slow())
  temporary = tmp_path / 'temporary'
  temporary.mkdir()
  done = subprocess.run(
    [sys.executable, '-c', _DIES, str(slow)],
    env=os.environ | {'TMPDIR': str(temporary)},
    stdout=subprocess.PIPE,
    text=True,
    check=False,
  )
  assert done.returncode == -signal.SIGKILL
  pids = done.stdout.split()
  assert len(pids) == 2
  assert [path.name for path in _files(temporary)] == ['motion.bvh']
  end = time.monotonic() + 20
  while any(_runs(pid) for pid in pids):
    assert time.monotonic() < end
    time.sleep(0.05)
  monkeypatch.setattr(tempfile, 'tempdir', str(temporary))
  with uploads.Uploads(hostile.TOWER, hostile.LIMITS):
    assert _files(temporary) == []


def _runs(pid):
  try:
    status = pathlib.Path('/proc', pid, 'status').read_text()
  except (FileNotFoundError, ProcessLookupError):
    return False
  return '\nState:\tZ' not in status
