import concurrent.futures
import contextlib
import functools
import io
import json
import os
import pathlib
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from fractions import Fraction
from typing import NamedTuple

import av
import films
import numpy as np
import pytest

from vimonet_jax.apps import confined, inputs, uploads
from vimonet_jax.infer import scheduler
from vimonet_jax.models import clip_video
from vimonet_jax.motion import features, skeleton
from vimonet_jax.synthetic import actions

pytestmark = pytest.mark.skipif(
  not os.path.isdir('/proc/self'), reason='looks at processes in /proc'
)

TOWER = clip_video.Config(16, 1, 2, 16, image_size=8, patch_size=8)
LIMITS = uploads.Limits(
  max_motion_bytes=4 << 20,
  max_video_bytes=1 << 20,
  max_seconds=60,
  max_frames=100,
  wait_s=60,
  timeout_s=30,
  memory_bytes=1 << 30,
  at_once=1,
)
MARK = 'opened by a pickle'


@functools.cache
def _joints():
  return films.joints(
    actions.Action('walk', direction='forward', speed='slowly')
  )


def _npy(array):
  kept = io.BytesIO()
  np.save(kept, array, allow_pickle=True)
  return kept.getvalue()


def _npz(**arrays):
  kept = io.BytesIO()
  np.savez_compressed(kept, allow_pickle=True, **arrays)
  return kept.getvalue()


def _head(**changes):
  """An .npy of no data that claims to have some."""
  kept = io.BytesIO()
  head = {'descr': '<f8', 'fortran_order': False, 'shape': (9, 22, 3)}
  np.lib.format.write_array_header_1_0(kept, head | changes)
  return kept.getvalue()


def _zip(**members):
  kept = io.BytesIO()
  with zipfile.ZipFile(kept, 'w', zipfile.ZIP_DEFLATED) as packed:
    for name, data in members.items():
      packed.writestr(name, data)
  return kept.getvalue()


def _declared(data, size):
  """A zip file whose only member is said to unpack to this many bytes."""
  entry = data.index(b'PK\x01\x02')
  return data[: entry + 24] + struct.pack('<I', size) + data[entry + 28 :]


@functools.cache
def _film(name='a.mp4', *, codec='mpeg4', frames=31, sides=(32, 32), step=40):
  """Pictures that change; one each `step` ms."""
  kept = io.BytesIO()
  kind = {'.mp4': 'mp4', '.mkv': 'matroska'}[os.path.splitext(name)[1]]
  with av.open(kept, 'w', format=kind) as container:
    stream = container.add_stream(codec, rate=25)
    stream.width, stream.height = sides
    stream.pix_fmt = 'yuv420p'
    stream.codec_context.time_base = Fraction(1, 1000)
    for i in range(frames):
      image = np.full((sides[1], sides[0], 3), 8 * i % 256, np.uint8)
      frame = av.VideoFrame.from_ndarray(image, format='rgb24')
      frame.pts, frame.time_base = step * i, Fraction(1, 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return kept.getvalue()


def _gif(width, height):
  """Two pictures of a size that nothing has to be painted for."""
  picture = b'\x2c' + struct.pack('<HHHHB', 0, 0, 1, 1, 0) + b'\x02\x02\x4c\1\0'
  return (
    b'GIF89a'
    + struct.pack('<HHBBB', width, height, 0x80, 0, 0)
    + bytes(6)
    + (b'\x21\xf9\x04\0\x0a\0\0\0' + picture) * 2
    + b';'
  )


def _sound():
  kept = io.BytesIO()
  with av.open(kept, 'w', format='mp4') as container:
    stream = container.add_stream('aac', rate=8000)
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 1024), np.float32), format='fltp', layout='mono'
    )
    frame.sample_rate = 8000
    for _ in range(8):
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return kept.getvalue()


def _bvh(*, frames='2', time='0.05', numbers=None, joints=None):
  """A body without legs or, where `joints` are told, one of so many."""
  tree = (
    'ROOT hips\n{\nOFFSET 0 0 0\nCHANNELS 3 Xrotation Yrotation Zrotation\n'
  )
  if joints:
    tree += 'JOINT a\n{\nOFFSET 0 1 0\nCHANNELS 0\n' * joints + '}\n' * joints
  numbers = '0 0 0\n0 0 0\n' if numbers is None else numbers
  text = f'MOTION\nFrames: {frames}\nFrame Time: {time}\n{numbers}'
  return f'HIERARCHY\n{tree}}}\n{text}'.encode()


def _body(**said):
  """A body of position channels, whose frames are those that are given."""
  lines = []

  def add(j):
    kind = 'JOINT' if j else 'ROOT'
    lines.append(f'{kind} {skeleton.NAMES[j]}\n{{\nOFFSET 0 1 0')
    lines.append('CHANNELS 3 Xposition Yposition Zposition')
    for child in np.flatnonzero(np.equal(skeleton.PARENTS, j)):
      add(child)
    lines.append('}')

  add(0)
  return (
    _bvh(**said)
    .replace(
      b'CHANNELS 3 Xrotation Yrotation Zrotation\n}',
      b'}',
    )
    .replace(b'ROOT hips\n{\nOFFSET 0 0 0\n}', '\n'.join(lines).encode())
  )


def _slow():
  """Seconds of work for whoever reads it."""
  frames = 240_000
  return _body(frames=str(frames), numbers='1 ' * 66 * frames)


class _Bomb:
  """Leaves a mark where a pickle of it is loaded."""

  def __reduce__(self):
    return os.system, (f'touch "{MARK}"',)


class Hostile(NamedTuple):
  """What somebody sends.

  Attributes:
    medium: it is said to be.
    name: it has.
    data: function that makes it.
    gist: of the sentence that refuses it.
    said: more about it.
  """

  medium: str
  name: str
  data: object
  gist: str
  said: dict = {}


def _damaged_joints(value):
  joints = _joints().copy()
  joints[7, 3, 1] = value
  return _npy(joints)


def _damaged_features():
  made = features.encode(_joints())
  made[7, 200] = 1e38
  return made


HOSTILE = {
  # Paths
  'up the tree': Hostile(
    'motion', '../../../etc/passwd', lambda: b'x', 'without an ending'
  ),
  'a program at the end of a path': Hostile(
    'motion', 'a.bvh/../../../b.exe', lambda: b'x', 'found .exe'
  ),
  'a path cut by a zero byte': Hostile(
    'motion', '/etc/passwd\0.bvh', lambda: b'root', 'begins with HIERARCHY'
  ),
  'an endless ending': Hostile(
    'video', 'a.' + '\u202e\n' * 9999, lambda: b'x', 'called .mp4'
  ),
  'members that would be unpacked elsewhere': Hostile(
    'motion', 'a.npz',
    lambda: _zip(**{'../../evil.npy': _npy(np.ones(3))}),
    'expected joints [T, 22, 3]',
  ),
  # Much in little
  'gigabytes by the list of a zip': Hostile(
    'motion', 'a.npz',
    lambda: _declared(_zip(**{'joints.npy': _npy(_joints())}), 2**32 - 2),
    'found 1 of 4096 MiB',
  ),
  'more in a zip than its list says': Hostile(
    'motion', 'a.npz',
    lambda: _declared(_zip(**{'joints.npy': _npy(_joints())}), 999),
    'damaged or truncated',
  ),
  'many zeros': Hostile(
    'motion', 'a.npz',
    lambda: _npz(joints=np.zeros((2**20, 22, 3), np.uint8)),
    'read in 1024 MiB of memory',
    {'fps': 20},
  ),
  'many arrays': Hostile(
    'motion', 'a.npz',
    lambda: _zip(**{f'{i}.npy': b'' for i in range(5000)}),
    'found 5000 of',
  ),
  'a zip in a zip': Hostile(
    'motion', 'a.npz', lambda: _zip(**{'a.zip': _zip(b='c')}), 'no array at all'
  ),
  'more than may be sent': Hostile(
    'motion', 'a.npy', lambda: bytes((4 << 20) + 1), 'at most 4194304 bytes'
  ),
  'nothing': Hostile('video', 'a.mp4', lambda: b'', 'found an empty file'),
  # Other than they are called
  'a video as a motion': Hostile('motion', 'a.bvh', _film, 'HIERARCHY'),
  'a motion as another': Hostile('motion', 'a.npz', _bvh, 'begins with'),
  'a text as a video': Hostile(
    'video', 'a.mp4', lambda: b'hello\n' * 99, 'something else by another name'
  ),
  'a zip as a video': Hostile(
    'video', 'a.avi', lambda: _zip(a='b'), 'something else by another name'
  ),
  'an .amc without its .asf': Hostile(
    'motion', 'a.amc', lambda: b'x', 'found .amc'
  ),
  # Videos
  'one picture': Hostile(
    'video', 'a.mp4', lambda: _film(frames=1),
    'found 1; a picture does not move',
  ),
  'ten hours by their head': Hostile(
    'video', 'a.mkv', lambda: _film('a.mkv', frames=3, step=18_000_000),
    'found 36000 s by its head',
  ),
  'too many frames': Hostile(
    'video', 'a.mp4', lambda: _film(frames=101), '2 to 100 frames, found 101'
  ),
  'a picture of gigabytes': Hostile(
    'video', 'a.gif', lambda: _gif(65535, 65535), 'size that there can be'
  ),
  'a picture larger than any screen': Hostile(
    'video', 'a.gif', lambda: _gif(8000, 8000), 'found 8000 x 8000'
  ),
  'a picture that is a line': Hostile(
    'video', 'a.gif', lambda: _gif(9000, 1), 'found 9000 x 1'
  ),
  'half a video': Hostile(
    'video', 'a.mp4', lambda: _film()[: len(_film()) // 2], 'whole video'
  ),
  'a video of noise': Hostile(
    'video', 'a.mp4',
    lambda: _film()[:40] + np.random.default_rng(0).bytes(9999),
    'whole video',
  ),
  'sound alone': Hostile('video', 'a.mp4', _sound, 'found only audio'),
  'a list that names a file of ours': Hostile(
    'video', 'a.mp4', lambda: b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    'something else by another name',
  ),
  'a list that names an address': Hostile(
    'video', 'a.mp4', lambda: b'#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n',
    'something else by another name',
  ),
  # Arrays
  'NaN': Hostile(
    'motion', 'a.npy', lambda: _damaged_joints(np.nan),
    'found NaN or infinity in 1 of', {'fps': 20},
  ),
  'infinity': Hostile(
    'motion', 'a.npy', lambda: _damaged_joints(np.inf),
    'found NaN or infinity in 1 of', {'fps': 20},
  ),
  'features without end': Hostile(
    'motion', 'a.npy', lambda: _npy(np.full((60, 263), 1e300)),
    'expected features in metres',
  ),
  'a feature without end': Hostile(
    'motion',
    'a.npy',
    lambda: _npy(_damaged_features()),
    'found 1e+38',
  ),
  'a pickle in an array': Hostile(
    'motion', 'a.npy', lambda: _npy(np.array([_Bomb()])),
    'pickled Python objects, which are never loaded',
  ),
  'a pickle in a zip': Hostile(
    'motion', 'a.npz', lambda: _npz(poses=np.array([_Bomb()])),
    'pickled Python objects, which are never loaded',
  ),
  'a pickle by another name': Hostile(
    'motion', 'a.npy', lambda: pickle.dumps(_Bomb()), 'begins with'
  ),
  'a shape that no memory has': Hostile(
    'motion', 'a.npy', lambda: _head(shape=(10**13, 22, 3)), 'fit into memory'
  ),
  'a shape of less than nothing': Hostile(
    'motion', 'a.npy', lambda: _head(shape=(-1, 22, 3)), 'damaged or truncated'
  ),
  'elements of gigabytes': Hostile(
    'motion', 'a.npy', lambda: _head(descr='|V2147483647'), 'expected'
  ),
  'a head that is a program': Hostile(
    'motion', 'a.npy',
    lambda: b'\x93NUMPY\1\0' + struct.pack('<H', 99) + b'(' * 99, 'damaged'
  ),
  'poses of no frames': Hostile(
    'motion', 'a.npz',
    lambda: _npz(poses=np.zeros((0, 66)), trans=np.zeros((0, 3)), fps=60),
    'found 0 frames',
  ),
  # BVH
  'a body of 30,000 joints': Hostile(
    'motion', 'a.bvh', lambda: _bvh(joints=30_000), 'at most 1000 joints'
  ),
  'brackets all the way': Hostile(
    'motion', 'a.bvh', lambda: b'HIERARCHY\n' + b'{' * 2**21 + b'\nMOTION\n',
    "found '{'",
  ),
  'a million million frames': Hostile(
    'motion', 'a.bvh', lambda: _bvh(frames='9' * 12),
    'expected 999999999999 frames of 3 numbers, found 2.0',
  ),
  'frames of ten thousand digits': Hostile(
    'motion', 'a.bvh', lambda: _bvh(frames='9' * 9999), 'below MOTION'
  ),
  'a million blank lines': Hostile(
    'motion', 'a.bvh', lambda: b'HIERARCHY' + b'\n' * 2**20, 'MOTION section'
  ),
  'numbers that are none': Hostile(
    'motion', 'a.bvh', lambda: _body(frames='30', numbers='nan ' * 66 * 30),
    'found NaN or infinity',
  ),
  'no joint of a body': Hostile(
    'motion', 'a.bvh', _bvh, 'among hips; name the joints'
  ),
  'a setting that is a text': Hostile(
    'motion', 'a.bvh', lambda: _body(frames='30', numbers='1 ' * 66 * 30),
    'expected up to be', {'up': '\x1b[31m' + 'x' * 99999},
  ),
}  # fmt: skip


@pytest.fixture(scope='module')
def temporary(tmp_path_factory):
  """Where files of all users lie."""
  folder = tmp_path_factory.mktemp('temporary')
  before, tempfile.tempdir = tempfile.tempdir, str(folder)
  yield folder
  tempfile.tempdir = before


@pytest.fixture(scope='module')
def reading(temporary):
  with uploads.Uploads(TOWER, LIMITS) as all_of_them:
    yield all_of_them


@pytest.fixture(scope='module')
def good():
  return {
    'motion': uploads.File('walk.NPY', _npy(features.encode(_joints()))),
    'video': uploads.File('walk.mp4', _film()),
  }


@pytest.fixture(scope='module')
def expected(good, tmp_path_factory):
  folder = tmp_path_factory.mktemp('given')
  paths = {}
  for medium, file in good.items():
    paths[medium] = folder / file.name.lower()
    paths[medium].write_bytes(file.data)
  return inputs.read(TOWER, **{m: str(path) for m, path in paths.items()})


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


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_files_are_refused_with_one_sentence(
  name, reading, good, expected, temporary, monkeypatch
):
  monkeypatch.chdir(temporary)
  hostile = HOSTILE[name]
  data = hostile.data()
  assert len(data) < 5 << 20
  pids = _readers()
  _forget_peaks('self', *pids)
  before = _peak_bytes('self')
  with pytest.raises(uploads.RefusedError) as error:
    reading.read(
      **{hostile.medium: uploads.File(hostile.name, data)}, **hostile.said
    )
  assert _peak_bytes('self') - before < 16 << 20
  assert all(_peak_bytes(pid) < LIMITS.memory_bytes for pid in pids)
  sentence = str(error.value)
  assert hostile.gist in sentence
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
  joints = uploads.File('a.npy', _npy(100 * _joints()))
  given = reading.read(motion=joints, fps=20, up='y')
  assert 'Unit cm, detected' in given.notes[0]
  np.testing.assert_allclose(
    given.record.motion, expected.record.motion, atol=1e-3
  )
  assert given.record.frames is None
  assert reading.read().record.motion is None


def test_frames_that_come_at_any_time_are_read(reading):
  film = uploads.File('a.mkv', _film('a.mkv', frames=9, step=7001))
  assert reading.read(video=film).record.frames.shape == (8, 8, 8, 3)


def test_a_medium_that_is_not_asked_for_is_not_looked_at(good):
  closed = uploads.Uploads(TOWER, LIMITS, media=('motion',))
  with pytest.raises(uploads.RefusedError, match='found a video, which is not'):
    closed.read(**good)
  with pytest.raises(scheduler.ClosedError):
    closed.read(motion=good['motion'])


def test_a_reader_may_write_nothing_and_knows_no_key(monkeypatch, temporary):
  monkeypatch.setenv('OPENAI_API_KEY', 'sesame')
  before = set(_readers())
  with uploads.Uploads(TOWER, LIMITS):
    (pid,) = set(_readers()) - before
    proc = pathlib.Path('/proc', str(pid))
    assert b'sesame' not in (proc / 'environ').read_bytes()
    limits = (proc / 'limits').read_text().splitlines()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits}
    assert soft['Max file size'] == '0'
    assert soft['Max core file size'] == '0'
    assert soft['Max address space'] == str(LIMITS.memory_bytes)
    assert int(soft['Max open files']) < 100
    folder = (proc / 'cwd').readlink()
    assert folder.stat().st_mode & 0o077 == 0
    assert folder.parent.stat().st_mode & 0o077 == 0


def test_what_takes_too_long_is_ended(good, temporary, expected):
  limits = uploads.Limits(timeout_s=2, at_once=1, memory_bytes=4 << 30)
  slow = _slow()
  before = set(_readers())
  with uploads.Uploads(TOWER, limits) as reading:
    start = time.monotonic()
    with pytest.raises(uploads.RefusedError, match='read in 2 s, found one'):
      reading.read(motion=uploads.File('a.bvh', slow))
    assert time.monotonic() - start < 10
    assert reading.read(motion=good['motion']).record.motion is not None
    assert _files(temporary) == []
  assert set(_readers()) == before


def test_a_reader_that_dies_is_replaced(good, expected, temporary):
  before = set(_readers())
  with uploads.Uploads(TOWER, LIMITS) as reading:
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
  clips = [features.encode(_joints()[i:]) for i in range(8)]
  films_ = [_film(frames=2 + i) for i in range(8)]
  with (
    uploads.Uploads(TOWER, limits) as reading,
    concurrent.futures.ThreadPoolExecutor(8) as pool,
  ):

    def read(i):
      return reading.read(
        motion=uploads.File('a.npy', _npy(clips[i])),
        video=uploads.File('a.mp4', films_[i]),
      )

    for i, given in enumerate(pool.map(read, range(8))):
      motion = given.record.motion
      np.testing.assert_array_equal(motion, clips[i][: len(motion)])


def test_who_comes_when_all_read_is_told_to_come_again(good, temporary):
  limits = uploads.Limits(at_once=1, wait_s=0.1)
  before = set(_readers())
  with uploads.Uploads(TOWER, limits) as reading:
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
    [pickle.dumps(_Bomb())],
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
    uploads.Uploads(TOWER, LIMITS) as reading,
    pytest.raises(uploads.RefusedError, match='a file that ends its reader'),
  ):
    reading.read(motion=good['motion'])
  assert not (tmp_path / MARK).exists()


def test_a_reader_that_does_not_start_is_told(temporary, monkeypatch):
  monkeypatch.setattr(confined, '__name__', 'no_such_module')
  with (
    pytest.raises(RuntimeError, match='does not start'),
    uploads.Uploads(TOWER, LIMITS),
  ):
    pass
  assert _files(temporary) == []


def test_somebody_elses_folder_is_not_used(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  (tmp_path / f'vimonet_jax-{os.getuid()}').mkdir(mode=0o755)
  with (
    pytest.raises(ValueError, match='set TMPDIR to another folder'),
    uploads.Uploads(TOWER, LIMITS),
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
  slow.write_bytes(_slow())
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
  with uploads.Uploads(TOWER, LIMITS):
    assert _files(temporary) == []


def _runs(pid):
  try:
    status = pathlib.Path('/proc', pid, 'status').read_text()
  except (FileNotFoundError, ProcessLookupError):
    return False
  return '\nState:\tZ' not in status
