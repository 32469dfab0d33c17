"""A process that reads files of strangers, and may do little else.

`uploads` starts it in a folder of its own and asks over a socket:

    uploads                                    confined
                 <- "ready"                    its imports are done
    {"motion": "motion.bvh", "fps": 30, ...} ->
                 <- {"notes": [...], "motion": 196, "frames": 8}
                 <- the features' bytes
                 <- the frames' bytes
    ... or       <- {"refused": "motion.bvh: expected ..."}

Nothing but JSON and bytes of known sizes crosses, so whoever takes this process
over has no word to say in the other one. It writes no file, has an end to its
memory and time, sees none of the variables that hold keys, and goes when its
parent does. It is not a jail: it can read what the user can, and on macOS
(not tried by us), which has no limit of addresses, nothing but the time limits
its memory. A server for the public runs as a user of its own.
"""

import json
import math
import os
import pathlib
import random
import resource
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import connection
from typing import Any, NamedTuple

from vimonet_jax.apps import inputs
from vimonet_jax.data import video_file

# FFmpeg decodes in as many threads as it sees cores, each with pictures of its
# own, and the others are for who answers.
_CORES = 2
_FILES = 64
_PARENT_S = 0.5  # how often it is looked for
# Sides of a picture; of a thin one the resized side would be without end.
_LEAST_SIDE = 16
_LEAST_FRAMES = 2


class Settings(NamedTuple):
  """What a process is for and how much it may take.

  Attributes:
    image_size, frames: of the video tower; see clip_video.Config.
    max_seconds, max_frames, max_pixels: of a video, all of it and one picture.
    memory_bytes: of addresses, Python and the libraries included.
    timeout_s: seconds of each core for a request.
  """

  image_size: int
  frames: int
  max_seconds: float
  max_frames: int
  max_pixels: int
  memory_bytes: int
  timeout_s: float


def serve(socket: int, parent: int, settings: Settings) -> None:
  """Answers until the other end is closed.

  Args:
    socket: its number, as of a file.
    parent: the process that asks.
    settings: what is read, and how much that may take.
  """
  threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
  import av  # noqa: F401  # Before the first file needs it.

  _confine(settings)
  with connection.Connection(socket) as asked:
    asked.send_bytes(b'ready')
    _silence()
    while True:
      try:
        request = json.loads(asked.recv_bytes())
      except EOFError:
        return
      _allow_time(settings.timeout_s)
      for part in _answer(request, settings):
        asked.send_bytes(part)


def _answer(
  request: dict[str, Any], settings: Settings
) -> Iterator[bytes | memoryview]:
  """What is sent: a head, and the arrays that it tells of."""
  try:
    if video := request.get('video'):
      _check_video(pathlib.Path(video), settings)
    given = inputs.read(settings, **request)
  except Exception as error:
    yield json.dumps({'refused': _sentence(error, settings)}).encode()
    return
  arrays = {'motion': given.record.motion, 'frames': given.record.frames}
  arrays = {name: a for name, a in arrays.items() if a is not None}
  lengths = {name: len(array) for name, array in arrays.items()}
  yield json.dumps({'notes': given.notes} | lengths).encode()
  for array in arrays.values():
    yield array.tobytes()


def _sentence(error: Exception, settings: Settings) -> str:
  """One for people, whatever a library made of a file."""
  # FFmpeg's own is the cause of ours.
  if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
    return (
      'Expected a file that is read in '
      f'{settings.memory_bytes / 2**20:.0f} MiB of memory, found one that '
      'takes more; cut it to the part to ask about, or save it smaller.'
    )
  # A library's ValueError is no sentence for people.
  if isinstance(error, ValueError) and 'xpected' in str(error):
    return str(error)
  return (
    'Expected a motion or a video, found a file that its reader fails on '
    f'({type(error).__name__}); save it again or convert it.'
  )


def _check_video(path: pathlib.Path, settings: Settings) -> None:
  """Refuses by head and packets what would take long to decode, or is none."""
  with video_file.opened(path) as (container, stream):
    seconds = (container.duration or 0) / 1e6
    if stream.duration and stream.time_base:
      seconds = max(seconds, float(stream.duration * stream.time_base))
    sides = stream.codec_context.width, stream.codec_context.height
  if seconds > settings.max_seconds:
    raise video_file.VideoFileError(
      f'{path}: expected a video of at most {settings.max_seconds:g} s, found '
      f'{seconds:.6g} s by its head; cut it to the part to ask about.'
    )
  if not all(sides):
    raise video_file.VideoFileError(
      f'{path}: expected pictures, found none of a size that there can be; '
      'convert the video.'
    )
  if min(sides) < _LEAST_SIDE or math.prod(sides) > settings.max_pixels:
    raise video_file.VideoFileError(
      f'{path}: expected pictures with sides of {_LEAST_SIDE} pixels or more '
      f'and {settings.max_pixels} in all, found {sides[0]} x {sides[1]}; '
      'convert the video to another size.'
    )
  number = video_file.scan(path).number
  if not _LEAST_FRAMES <= number <= settings.max_frames:
    raise video_file.VideoFileError(
      f'{path}: expected a video of {_LEAST_FRAMES} to {settings.max_frames} '
      f'frames, found {number}; '
      + (
        'a picture does not move, so give a video.'
        if number < _LEAST_FRAMES
        else 'cut it to the part to ask about.'
      )
    )


# --- What the process may do -------------------------------------------------


def _confine(settings: Settings) -> None:
  """Gives up all but some memory, two cores and a few files to read."""
  limits = {
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NOFILE: _FILES,
    resource.RLIMIT_CORE: 0,
  }
  if sys.platform != 'darwin':
    limits[resource.RLIMIT_AS] = settings.memory_bytes
  for kind, limit in limits.items():
    resource.setrlimit(kind, (limit, limit))
  if hasattr(os, 'sched_setaffinity'):  # Linux
    cores = sorted(os.sched_getaffinity(0))
    some = random.sample(cores, min(_CORES, len(cores)))
    os.sched_setaffinity(0, some)


def _allow_time(seconds: float) -> None:
  """For the next file; without it the system ends the process.

  The parent does so earlier, by the clock, unless it has died.
  """
  used = resource.getrusage(resource.RUSAGE_SELF)
  limit = math.ceil(used.ru_utime + used.ru_stime + _CORES * seconds) + 1
  _, most = resource.getrlimit(resource.RLIMIT_CPU)
  resource.setrlimit(resource.RLIMIT_CPU, (limit, most))


def _silence() -> None:
  """What libraries print of a file is as long as strangers like."""
  sys.stderr.flush()
  with open(os.devnull, 'w') as nowhere:
    os.dup2(nowhere.fileno(), 2)


def _end_with(parent: int) -> None:
  """Ends with the parent, also in the middle of a file."""
  while os.getppid() == parent:
    time.sleep(_PARENT_S)
  os._exit(1)


if __name__ == '__main__':
  serve(int(sys.argv[1]), int(sys.argv[2]), Settings(*json.loads(sys.argv[3])))
