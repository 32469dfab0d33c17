"""Files that strangers send, read where they can do no harm.

    File -> its name's ending, its size -> a folder of ours -> a process that
    may do little (see `confined`) -> arrays of the right sizes -> inputs.Given

The processes are started once and stay warm; one that takes too long, or that a
file ends, is replaced by another. A file lies in a folder that only this user
can look into, under a name of ours, for as long as it is read.

Of processor time a start takes 0.6 s, a small motion 1.8 ms, without all this
0.7 (two EPYC cores, Zen 4, 2026-11-30, `tests/benchmarks/uploads.py
--repeats=60`). A process has 97 MiB, with a video of 2160 lines 325 at most, by
the system's account.
"""

import contextlib
import dataclasses
import itertools
import json
import logging
import math
import multiprocessing
import os
import queue
import re
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import connection
from typing import Any, NamedTuple

import numpy as np

from vimonet_jax import locks
from vimonet_jax.apps import confined, inputs
from vimonet_jax.data import records
from vimonet_jax.data import video as videos
from vimonet_jax.infer import scheduler
from vimonet_jax.models import clip_video

ENDINGS = {'motion': ('.bvh', '.npy', '.npz'), 'video': videos.VIDEOS}
# The angles of a body, which mean nothing without the file of that body.
ANGLES, BODY = '.amc', '.asf'

_START_S = 60.0
# What a process may say besides arrays, and how much of it people are shown.
_HEAD_BYTES = 1 << 18
_SENTENCE, _NOTES = 500, 20
_FLAG = re.compile(r'--(fps|up|unit)\b')


class RefusedError(ValueError):
  """One sentence about a file: expected, found, what to do."""


class File(NamedTuple):
  """What somebody sent.

  Attributes:
    name: as it was called there, of which only the ending counts.
    data: all of it.
  """

  name: str
  data: bytes


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a file may be, and what it may take.

  Attributes:
    max_motion_bytes, max_video_bytes: of a file.
    max_seconds, max_frames: of a video, as its head and its packets say.
    max_pixels: of one of its pictures.
    wait_s: for a process that has nothing to read.
    timeout_s: of reading.
    memory_bytes: of addresses of a process, 0.4 GiB of Python included.
    at_once: processes, each of which reads on two cores at most.
  """

  max_motion_bytes: int = 32 << 20
  max_video_bytes: int = 64 << 20
  max_seconds: float = 600.0
  max_frames: int = 36_000
  max_pixels: int = 4096 * 2304
  wait_s: float = 20.0
  timeout_s: float = 20.0
  memory_bytes: int = 3 << 29
  at_once: int = 2


# Of `config.uploads`, the least with which anything could be read.
_LEAST = {
  'motion_mb': 1, 'video_mb': 1, 'video_seconds': 1, 'video_pixels': 1 << 10,
  'readers': 1, 'read_s': 1, 'reader_mb': 768,
}  # fmt: skip
# Pictures of a second that its longest video may have.
_FPS = 60


def limits(config) -> Limits:
  """Those that `config.uploads` sets; see configs/uploads.py.

  Raises:
    ValueError: one of them would let nothing be read.
  """
  settings = dict(config.get('uploads', {}))
  for name, value in settings.items():
    if not value >= _LEAST[name]:  # NaN is not, either.
      raise ValueError(
        f'Expected --config.uploads.{name} of {_LEAST[name]} or more, found '
        f'{value}; choose another.'
      )
  if not settings:
    return Limits()
  return Limits(
    max_motion_bytes=settings['motion_mb'] << 20,
    max_video_bytes=settings['video_mb'] << 20,
    max_seconds=settings['video_seconds'],
    max_frames=int(settings['video_seconds'] * _FPS),
    max_pixels=settings['video_pixels'],
    timeout_s=settings['read_s'],
    memory_bytes=settings['reader_mb'] << 20,
    at_once=settings['readers'],
  )


@dataclasses.dataclass(eq=False)
class _Process:
  """One that reads.

  Attributes:
    handle: of the process.
    socket: to it.
    folder: where it finds files.
    is_ready: it has said so.
  """

  handle: subprocess.Popen
  socket: connection.Connection
  folder: str
  is_ready: bool = False

  def wait(self) -> None:
    """Until it is ready; raises a RuntimeError where that is never."""
    if self.is_ready:
      return
    with contextlib.suppress(EOFError, OSError):
      self.is_ready = (
        self.socket.poll(_START_S)
        and self.socket.recv_bytes(_HEAD_BYTES) == b'ready'
      )
    if not self.is_ready:
      self.handle.kill()
      raise RuntimeError(
        'Expected a process that reads uploads, found that it does not start '
        f'(exit code {self.handle.wait()}); what it printed says why.'
      )


class _DeadlyError(RefusedError):
  """About a file by which the process ended that read it, or had to."""


class Uploads:
  """Reads files of strangers; a context that owns processes and a folder."""

  def __init__(
    self,
    tower: clip_video.Config,
    limits: Limits = Limits(),
    media: Sequence[str] = ('motion', 'video'),
  ):
    """Nothing is started yet.

    Args:
      tower: what frames are for.
      limits: of files and of what reads them.
      media: what may be sent; the other is refused before it is looked at.
    """
    self._tower = tower
    self._limits = limits
    self._media = tuple(media)
    self._ends = contextlib.ExitStack()
    # Some may have died, and are restarted when it is their turn.
    self._idle: queue.Queue[_Process] = queue.Queue()
    self._numbers = itertools.count()
    self._running: set[_Process] = set()
    self._changing = threading.Lock()
    self._is_open = False
    self._folder = ''

  def __enter__(self) -> 'Uploads':
    """Starts the processes and waits for them.

    Raises:
      RuntimeError: they do not start.
      ValueError: somebody else has the folder where files would lie.
    """
    with contextlib.ExitStack() as ends:
      self._folder = ends.enter_context(_private_folder())
      ends.callback(self._end)
      self._is_open = True
      for _ in range(self._limits.at_once):
        self._idle.put(self._start())
      for process in tuple(self._running):
        process.wait()
      self._ends = ends.pop_all()
    return self

  def __exit__(self, *_) -> None:
    """Ends the processes, also those that read, and removes the folder."""
    self._ends.close()

  def read(
    self,
    *,
    motion: File | None = None,
    video: File | None = None,
    body: File | None = None,
    fps: float | None = None,
    up: str | None = None,
    unit: str | None = None,
  ) -> inputs.Given:
    """Reads what somebody sent, as `inputs.read` does; from any thread.

    Takes `wait_s` and `timeout_s` at most, and the start of a process where the
    one before has died.

    Args:
      motion: .bvh, .npy or .npz, or .amc with `body`.
      video: one of data.video.VIDEOS.
      body: .asf, of the .amc.
      fps, up, unit: of the motion file, where it does not say.

    Raises:
      RefusedError: a file is not what it should be.
      scheduler.BusyError: all processes had something to read all the time.
      scheduler.ClosedError: outside of the context.
      OSError: there is no room for a file.
    """
    sent = {'motion': motion, 'video': video}
    sent = {medium: file for medium, file in sent.items() if file is not None}
    if body is not None:
      self._check_body(motion, body)
    names = {
      medium: medium + self._ending(medium, file, has_body=body is not None)
      for medium, file in sent.items()
    }
    if not sent:
      return inputs.Given(records.Record('nothing', 'given', 'test'), [])
    said = {'fps': fps, 'up': up, 'unit': unit}
    placed = [(names[medium], file) for medium, file in sent.items()]
    if body is not None:  # Where the reader of the .amc looks for it.
      placed.append((f'motion{BODY}', body))
    process = self._take()
    try:
      with _placed(process.folder, placed):
        return self._ask(process, names | said, set(sent))
    except BaseException as error:
      # Whoever comes next must not be told what somebody else has asked for.
      if type(error) is not RefusedError:
        process = self._restarted(process)
      raise
    finally:
      self._idle.put(process)

  def _check_body(self, motion: File | None, body: File) -> None:
    """Refuses one that is none, or has no motion."""
    endings = [_ending_of(x) for x in (motion, body) if x is not None]
    if endings != [ANGLES, BODY]:
      raise RefusedError(
        _shown(
          f'Expected an {ANGLES} and the {BODY} of its body, found '
          f'{" and ".join(x[:12] or "no ending" for x in endings)}; give both '
          'together, or another motion alone.'
        )
      )
    size = len(motion.data) + len(body.data)
    most = self._limits.max_motion_bytes
    if not body.data:
      raise RefusedError(
        f'Expected a body in the {BODY}, found an empty file; send it again.'
      )
    if size > most:
      raise RefusedError(
        f'Expected an {ANGLES} and its {BODY} of at most {most} bytes '
        f'together, found {size}; cut the motion to the part to ask about.'
      )

  def _ending(self, medium: str, file: File, *, has_body: bool) -> str:
    """Of its name; raises what can be told without reading."""
    if medium not in self._media:
      raise RefusedError(
        f'Expected {" or ".join(self._media)}, found a {medium}, which is not '
        'read here; leave it out.'
      )
    ending = _ending_of(file)
    is_angles = medium == 'motion' and has_body and ending == ANGLES
    if ending not in ENDINGS[medium] and not is_angles:
      raise RefusedError(
        _shown(
          f'Expected a {medium} called {", ".join(ENDINGS[medium])}, found '
          f'{ending[:12] or "a name without an ending"}; convert it to one of '
          'these.'
        )
      )
    most = {
      'motion': self._limits.max_motion_bytes,
      'video': self._limits.max_video_bytes,
    }[medium]
    if not file.data:
      raise RefusedError(
        f'Expected a {medium}, found an empty file; send it again.'
      )
    if len(file.data) > most:
      raise RefusedError(
        f'Expected a {medium} of at most {most} bytes, found '
        f'{len(file.data)}; cut it to the part to ask about.'
      )
    return ending

  def _ask(
    self, process: _Process, request: Mapping[str, Any], sent: set[str]
  ) -> inputs.Given:
    """What a process makes of files that lie in its folder."""
    message = json.dumps(request).encode()
    is_late = threading.Event()

    def end():
      is_late.set()
      process.handle.kill()

    timer = threading.Timer(self._limits.timeout_s, end)
    timer.start()
    try:
      process.socket.send_bytes(message)
      head = json.loads(process.socket.recv_bytes(_HEAD_BYTES))
      if 'refused' in head:
        raise RefusedError(_shown(str(head['refused'])))
      arrays = _arrays(process.socket, head, sent, self._tower)
      notes = [_shown(str(note)) for note in head['notes'][:_NOTES]]
      record = records.Record('upload', 'given', 'test', **arrays)
    except RefusedError:
      raise
    # Whatever it is, it is not said by a process of ours that is well.
    except Exception as error:
      what = ' and '.join(sorted(sent))
      logging.warning('An upload of %s ended its reader: %r', what, error)
      if not self._is_open:
        raise scheduler.ClosedError(
          'Expected to read before the end, found it past.'
        ) from None
      if is_late.is_set():
        raise _DeadlyError(
          f'Expected a file that is read in {self._limits.timeout_s:g} s, '
          'found one that takes longer; cut it to the part to ask about.'
        ) from None
      raise _DeadlyError(
        'Expected a motion or a video, found a file that ends its reader, as '
        f'by needing more than {self._limits.memory_bytes / 2**20:.0f} MiB; '
        'save it again or convert it.'
      ) from error
    finally:
      timer.cancel()
      timer.join()
    if is_late.is_set():  # Between its answer and here.
      self._stop(process)
    return inputs.Given(record, notes)

  # --- Processes -------------------------------------------------------------

  def _take(self) -> _Process:
    """One that waits, or a new one in the place of one that has ended."""
    if not self._is_open:
      raise scheduler.ClosedError('Expected to be asked before the end.')
    try:
      process = self._idle.get(timeout=self._limits.wait_s)
    except queue.Empty:
      raise scheduler.BusyError(
        f'Expected a free reader within {self._limits.wait_s:g} s, found all '
        f'{self._limits.at_once} at work; come again later.'
      ) from None
    try:
      if process.handle.poll() is not None:
        process = self._restarted(process)
      process.wait()
    except BaseException:
      self._idle.put(process)
      raise
    return process

  def _start(self) -> _Process:
    """A process that is not ready yet."""
    limits = self._limits
    settings = confined.Settings(
      self._tower.image_size,
      self._tower.frames,
      limits.max_seconds,
      limits.max_frames,
      limits.max_pixels,
      limits.memory_bytes,
      limits.timeout_s,
    )
    with self._changing:
      if not self._is_open:
        raise scheduler.ClosedError('Expected to be asked before the end.')
      folder = os.path.join(self._folder, str(next(self._numbers)))
      os.mkdir(folder, 0o700)
      ours, theirs = multiprocessing.Pipe()
      with theirs:
        handle = subprocess.Popen(
          [
            sys.executable, '-P', '-B', '-m', confined.__name__,
            str(theirs.fileno()), str(os.getpid()), json.dumps(settings),
          ],
          cwd=folder,
          env=_environment(),
          pass_fds=[theirs.fileno()],
          stdin=subprocess.DEVNULL,
          stdout=subprocess.DEVNULL,
        )  # fmt: skip
      process = _Process(handle, ours, folder)
      self._running.add(process)
    return process

  def _restarted(self, process: _Process) -> _Process:
    """Another in its place, or itself, dead, where none can be started."""
    self._stop(process)
    try:
      return self._start()
    except (OSError, scheduler.ClosedError) as error:
      logging.warning('No reader of uploads could be started: %s', error)
      return process

  def _stop(self, process: _Process) -> None:
    with self._changing:
      self._running.discard(process)
    process.handle.kill()
    process.handle.wait()
    process.socket.close()
    shutil.rmtree(process.folder, ignore_errors=True)

  def _end(self) -> None:
    """Kills them all, and so ends what is read."""
    with self._changing:
      self._is_open = False
      for process in self._running:
        process.handle.kill()
    while self._running:
      self._stop(self._idle.get())


def _ending_of(file: File) -> str:
  return os.path.splitext(file.name)[1].lower()


def _environment() -> dict[str, str]:
  """Where Python finds things, and none of the keys that ours may have."""
  kept = ('PATH', 'LD_LIBRARY_PATH', 'LANG')
  return {name: os.environ[name] for name in kept if name in os.environ} | {
    'PYTHONPATH': os.pathsep.join(map(os.path.abspath, sys.path)),
    'OMP_NUM_THREADS': '1',
    'OPENBLAS_NUM_THREADS': '1',
    'MALLOC_ARENA_MAX': '2',
  }


def _arrays(
  socket: connection.Connection,
  head: Mapping[str, Any],
  sent: set[str],
  tower: clip_video.Config,
) -> dict[str, np.ndarray]:
  """The arrays that follow a head; raises where they are not what was asked."""
  side = tower.image_size
  kinds = {
    'motion': ('motion', (263,), np.float32, records.MAX_MOTION_FRAMES),
    'frames': ('video', (side, side, 3), np.uint8, tower.frames),
  }
  found = {}
  for name, (medium, shape, dtype, most) in kinds.items():
    if medium not in sent:
      continue
    length = head[name]
    if not isinstance(length, int) or not 0 <= length <= most:
      raise ValueError(f'{name} of length {length!r}')
    size = length * math.prod(shape) * np.dtype(dtype).itemsize
    data = socket.recv_bytes(size)  # Or raises.
    found[name] = np.frombuffer(data, dtype).reshape(length, *shape).copy()
  return found


def _shown(sentence: str) -> str:
  """One line of readable length, in which settings have no dashes."""
  text = ''.join(c if c.isprintable() else ' ' for c in sentence)
  text = _FLAG.sub(r'\1', ' '.join(text.split()))
  if len(text) <= _SENTENCE:
    return text
  half = _SENTENCE // 2 - 3
  return f'{text[:half]} ... {text[-half:]}'


# --- Files -------------------------------------------------------------------


@contextlib.contextmanager
def _placed(
  folder: str, files: Sequence[tuple[str, File]]
) -> Iterator[None]:
  """Puts files where their process finds them, for that long."""
  paths = [os.path.join(folder, name) for name, _ in files]
  try:
    for path, (_, file) in zip(paths, files, strict=True):
      with open(path, 'xb') as f:
        f.write(file.data)
    yield
  finally:
    for path in paths:
      with contextlib.suppress(FileNotFoundError):
        os.remove(path)


@contextlib.contextmanager
def _private_folder() -> Iterator[str]:
  """A folder that ends with the context, or else with the next one's start."""
  base = os.path.join(tempfile.gettempdir(), f'vimonet_jax-{os.getuid()}')
  with contextlib.suppress(FileExistsError):
    os.mkdir(base, 0o700)
  found = os.lstat(base)
  if (
    not stat.S_ISDIR(found.st_mode)
    or found.st_uid != os.getuid()
    or stat.S_IMODE(found.st_mode) & 0o077
  ):
    raise ValueError(
      f'Expected {base} to be a folder of this user alone, found it to be '
      "somebody else's or open to others; set TMPDIR to another folder."
    )
  for entry in os.scandir(base):
    if entry.is_dir(follow_symlinks=False):
      with contextlib.suppress(locks.HeldError), _held(entry.path):
        shutil.rmtree(entry.path)
  path = os.path.join(base, secrets.token_hex(8))
  # Held before it is there, or another process might remove it at once.
  with _held(path):
    os.mkdir(path, 0o700)
    try:
      yield path
    finally:
      shutil.rmtree(path, ignore_errors=True)


def _held(folder: str) -> contextlib.AbstractContextManager[None]:
  return locks.held(f'{folder}.lock', 'read uploads there')
