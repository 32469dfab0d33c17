"""What a watch is given: a motion file, a pipe, a video, or two of them.

    --input=-                joints from a pipe, a JSON line each (data/windows)
    --input=x.jsonl          the same from a file, with
    --config.monitor.follow_s=60   one that may go on growing for so long
    --video=x.ts             a video likewise, as MPEG-TS or Matroska

Whatever else it is given has come to its end.
"""

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from vimonet_jax.care import calibration
from vimonet_jax.data import long_motion, records, video_file, windows
from vimonet_jax.data import video as videos
from vimonet_jax.models import clip_video
from vimonet_jax.motion import readers

PIPE, _LINES = '-', '.jsonl'


class Given(NamedTuple):
  """What there is to watch.

  Attributes:
    shown: windows of all of it.
    arriving: 'motion', 'video' -> what is read as it arrives.
    filled: joints that arrive, of which short gaps are filled; None without.
  """

  shown: Iterator[windows.Window]
  arriving: dict[str, windows.Growing | windows.Piped]
  filled: windows.Filled | None


def check(
  recording: str | None,
  video: str | None,
  follow_s: float,
  said: dict[str, Any],
) -> None:
  """Raises where it cannot be watched, as far as that is seen from outside.

  Raises:
    ValueError: it is of another kind, or cannot grow.
    OSError: it is not there.
  """
  if recording and _arrives(recording):
    _every(said)
  elif recording:
    _check_whole(recording, follow_s)
  if video and os.path.isdir(video):
    raise ValueError(
      'Expected --video to be a video, whose frames say when they are '
      f'shown, found the folder {video}; make a video of its images.'
    )
  for path in (recording, video):
    if path and path != PIPE:
      os.stat(path)


def opened(
  files: contextlib.ExitStack,
  recording: str | None,
  video: str | None,
  fitting: calibration.Settings,
  follow_s: float,
  said: dict[str, Any],
  tower: clip_video.Config,
) -> Given:
  """Windows of all that `check` lets pass, each as soon as it is whole.

  Pipes are emptied from now on.
  """
  size = {'length_s': fitting.window_s, 'hop_s': fitting.hop_s}
  shown, filled, arriving = None, None, {}
  if recording:
    if _arrives(recording):
      arriving['motion'] = _arriving(files, recording, follow_s)
      pieces = windows.joints_of(
        arriving['motion'],
        _named(recording),
        up=said['up'] or 'y',
        unit=said['unit'] or 'm',
        every=_every(said),
      )
      filled = windows.Filled(pieces)
      shown = _of_a_body(windows.of_joints(filled, **size), recording)
    else:
      shown = windows.of_joints(long_motion.read(recording, **said), **size)
  if video:
    if follow_s:
      source = arriving['video'] = _arriving(files, video, follow_s)
    else:
      source = video
      videos.read_head(video)  # Says what is wrong before anything is fitted.
    filmed = windows.of_video(
      video_file.in_time(source, video),
      count=tower.frames,
      size=tower.image_size,
      **size,
    )
    shown = windows.together(shown, filmed) if recording else filmed
  return Given(shown, arriving, filled)


def _arrives(recording: str) -> bool:
  return recording == PIPE or recording.endswith(_LINES)


def _of_a_body(shown, recording: str) -> Iterator[windows.Window]:
  """The windows; joints of the first body are looked at, as those of a file."""
  is_known = False
  for window in shown:
    if not is_known and window.joints is not None:
      try:
        readers.check_stream(window.joints)
      except ValueError as e:
        raise ValueError(f'{_named(recording)}: {e}') from e
      is_known = True
    yield window


def _named(recording: str) -> str:
  return 'standard input' if recording == PIPE else recording


def _check_whole(recording: str, follow_s: float) -> None:
  if follow_s:
    raise ValueError(
      f'Expected a recording that can grow, JSON lines in a {_LINES} file or '
      f'{PIPE} for a pipe, found {recording} and follow_s={follow_s:g}; '
      'write lines, or set --config.monitor.follow_s=0.'
    )


def _every(said: dict[str, Any]) -> int:
  """Of how many frames that arrive one is taken."""
  fps = records.FPS if said['fps'] is None else said['fps']
  if fps <= 0 or fps % records.FPS:
    raise ValueError(
      f'Expected joints that arrive with a multiple of {records.FPS} frames '
      f'per second, found --fps={fps:g}; resample them.'
    )
  return int(fps // records.FPS)


def _arriving(
  files: contextlib.ExitStack, path: str, follow_s: float
) -> windows.Growing | windows.Piped:
  # Without a buffer: what has come is there, and nothing waits for more.
  where = os.dup(sys.stdin.fileno()) if path == PIPE else path
  file = open(where, 'rb', buffering=0)  # noqa: SIM115
  if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
    return windows.Piped(file, follow_s, _named(path))  # Which closes it.
  return windows.Growing(files.enter_context(file), follow_s)
