"""Overlapping windows of a recording, as it is read or as it arrives.

    frames    0 . . . 4 . . . 8 . . . 12 . 14        a hop of 4, windows of 8
    windows   [---------------)
                      [---------------)
                              [---------------)
                                  [---------------)  ends where all ends

Every window is a clip of its own: its features are taken from its own floor and
heading, as those of the clips that a model was trained on. Joints that arrive
are JSON, a frame a line: 22 times [x, y, z], in the order of skeleton.NAMES, or
null where nobody is seen. Trackers lose somebody for a frame now and then, and
each would take all windows that have it: up to a quarter of a second is filled.
"""

import collections
import datetime
import itertools
import json
import os
import select
import threading
import time
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

import numpy as np

from vimonet_jax.data import records, video
from vimonet_jax.motion import readers, skeleton

_POLL_S = 0.1
# What a pipe gives and nobody has asked for yet: most of an hour of lines.
_MOST_WAITING = 2**26
# A gap of so many frames is filled, which is less than anything takes, unless
# the pelvis is another one behind it: nobody falls or walks so fast.
_MOST_FILLED = records.FPS // 4
_FASTEST_M_S = 4.0
# Joints that are not seen are often written as zeros, upon each other.
_SHORTEST_BONE = 1e-4


class Window(NamedTuple):
  """Some seconds of a recording.

  Attributes:
    start_s, end_s: where it lies.
    joints: [T, 22, 3] metres, y up, 20 fps; None where there is no motion, or
      somebody is not seen all the time.
    frames: uint8 [I, H, W, 3], None where there is no video.
  """

  start_s: float
  end_s: float
  joints: np.ndarray | None = None
  frames: np.ndarray | None = None


class Filled:
  """Joints of a recording, with short gaps filled by straight lines.

  Attributes:
    frames: how many were filled so far.
  """

  def __init__(self, pieces: Iterable[np.ndarray]):
    """Reads nothing yet.

    Args:
      pieces: as for `of_joints`.
    """
    self.frames = 0
    self._pieces = pieces

  def __iter__(self) -> Iterator[np.ndarray]:
    """Pieces; a frame without a body waits until it is known what follows."""
    last_J3, gap = None, []
    for piece_TJ3 in self._pieces:
      if not gap and np.isfinite(piece_TJ3).all():  # Nearly all are.
        yield piece_TJ3
        last_J3 = piece_TJ3[-1] if len(piece_TJ3) else last_J3
        continue
      for frame_J3 in piece_TJ3:
        if not np.isfinite(frame_J3).all():
          gap.append(frame_J3)
          if len(gap) > _MOST_FILLED:
            last_J3 = None
          if last_J3 is None:
            yield np.stack(gap)
            gap = []
          continue
        if gap and _is_far(last_J3, frame_J3, len(gap)):
          yield np.stack(gap)
        elif gap:
          dtype = last_J3.dtype
          line = np.linspace(last_J3, frame_J3, len(gap) + 2, dtype=dtype)
          yield line[1:-1]
          self.frames += len(gap)
        yield frame_J3[None]
        last_J3, gap = frame_J3, []
    if gap:
      yield np.stack(gap)


def _is_far(last_J3: np.ndarray, next_J3: np.ndarray, number: int) -> bool:
  """Whether nobody gets from one to the other in so many frames."""
  seconds = (number + 1) / records.FPS
  return np.linalg.norm(next_J3[0] - last_J3[0]) > _FASTEST_M_S * seconds


def of_joints(
  pieces: Iterable[np.ndarray], *, length_s: float, hop_s: float
) -> Iterator[Window]:
  """Windows of joints, each as soon as its last frame is there.

  Args:
    pieces: [t, 22, 3] each, one behind the other, at 20 fps; NaN where nobody
      is seen.
    length_s: of a window; a shorter recording is one window.
    hop_s: from the start of one to the start of the next, a frame or more and
      not more than `length_s`.

  Raises:
    ValueError: the recording is shorter than the clips that models know.
  """
  # One more frame of joints than of features, which are steps between them.
  length, hop = _frames(length_s) + 1, _frames(hop_s)
  kept: collections.deque[np.ndarray] = collections.deque(maxlen=length)
  have = end = unseen = 0
  for piece in pieces:
    for frame_J3 in piece:
      kept.append(frame_J3)
      have += 1
      if not np.isfinite(frame_J3).all():
        unseen = have
      if have >= length and (have - length) % hop == 0:
        yield _window(kept, have, unseen)
        end = have
  if have > end:
    if have <= records.MIN_MOTION_FRAMES:
      raise ValueError(
        'Expected a recording of more than '
        f'{records.MIN_MOTION_FRAMES / records.FPS:g} s, found {have} frames '
        f'at {records.FPS} fps; give a longer one.'
      )
    yield _window(kept, have, unseen)


def _frames(seconds: float) -> int:
  return round(seconds * records.FPS)


def _window(
  kept: collections.deque[np.ndarray], end: int, unseen: int
) -> Window:
  """Of frames up to `end`; `unseen` is the last of them without a body."""
  start = end - len(kept)
  joints = np.stack(list(kept)) if unseen <= start else None
  return Window(start / records.FPS, (end - 1) / records.FPS, joints)


def of_video(
  frames: Iterable[tuple[float, np.ndarray]],
  *,
  length_s: float,
  hop_s: float,
  count: int,
  size: int,
) -> Iterator[Window]:
  """Windows of a video, of each so many frames, evenly spread.

  Args:
    frames: seconds and uint8 [H, W, 3] of all frames, in order of time.
    length_s, hop_s: as for `of_joints`.
    count: frames of a window, the first and the last included.
    size: width and height of what is kept of a frame, pixels.

  Raises:
    ValueError: the video is shorter than the clips that models know, or its
      clock goes back.
  """
  # Four frames for each one that is shown: none is far from where it should be.
  step_s = length_s / (count - 1) / 4
  kept: collections.deque[tuple[float, np.ndarray]] = collections.deque()
  begun = number = 0
  end_s = now_s = 0.0

  def window(start_s: float) -> Window:
    times = np.array([at_s for at_s, _ in kept])
    wanted = np.linspace(start_s, start_s + length_s, count)
    places = np.searchsorted(times, wanted + 1e-6, side='right') - 1
    chosen = [kept[max(i, 0)][1] for i in places]
    return Window(start_s, start_s + length_s, frames=np.stack(chosen))

  for at_s, image_HW3 in frames:
    # Nothing would be seen until it is as late again.
    if at_s < now_s - hop_s:
      raise ValueError(
        f'Expected frames in order of time, found one at {at_s:.1f} s behind '
        f'one at {now_s:.1f} s, where the clock of the video begins anew; '
        'watch what follows as a recording of its own.'
      )
    now_s = at_s
    if begun and at_s < begun * step_s:
      continue
    begun = int(at_s / step_s) + 1
    small = video.square(
      image_HW3, size, antialias=size < video.REFERENCE_PIXELS
    )
    kept.append((at_s, small))
    while at_s >= number * hop_s + length_s:
      yield window(number * hop_s)
      end_s = number * hop_s + length_s
      number += 1
    while len(kept) > 2 and kept[1][0] <= at_s - length_s:
      kept.popleft()
  if now_s - end_s > step_s:
    if now_s < records.MIN_MOTION_FRAMES / records.FPS:
      raise ValueError(
        'Expected a video of more than '
        f'{records.MIN_MOTION_FRAMES / records.FPS:g} s, found {now_s:.1f} s; '
        'give a longer one.'
      )
    yield window(max(now_s - length_s, 0.0))._replace(end_s=now_s)


def together(
  motion: Iterable[Window], video_: Iterable[Window]
) -> Iterator[Window]:
  """Windows with joints and frames, as far as there are both."""
  for one, other in zip(motion, video_, strict=False):
    if abs(one.start_s - other.start_s) > 1 / records.FPS:
      return  # The last of one of them, which is the shorter.
    yield one._replace(frames=other.frames)


def groups(shown: Iterable[Window], size: int) -> Iterator[list[Window]]:
  """So many windows at a time; the last ones may be fewer."""
  shown = iter(shown)
  while group := list(itertools.islice(shown, size)):
    yield group


# --- As it arrives -----------------------------------------------------------


class Growing:
  """Bytes of a file that grows.

  `read` waits for more, and gives nothing once none has come for a while. It
  cannot go back, so a video has to be in a form that needs no going back, such
  as MPEG-TS or Matroska.

  Attributes:
    begun_at: when the first bytes came; None where some were there before it
      was read first, and nobody knows for how long.
    is_over: nothing more will be read.
  """

  def __init__(self, file: IO[bytes], wait_s: float):
    self.begun_at: datetime.datetime | None = None
    self.is_over = False
    self._file = file
    self._wait_s = wait_s
    self._is_begun = False

  def read(self, size: int) -> bytes:
    """At least a byte and at most `size`; none at the end.

    Raises:
      ValueError: the file has become shorter than what was read of it.
    """
    if self.is_over:  # FFmpeg asks four times.
      return b''
    self._is_begun |= self.has_more
    until_s = time.monotonic() + self._wait_s
    while not (some := self._file.read(size)):
      self._check_length()
      if time.monotonic() >= until_s:
        self.is_over = True
        return b''
      time.sleep(_POLL_S)
    if not self._is_begun:
      self._is_begun, self.begun_at = True, _now()
    return some

  @property
  def has_more(self) -> bool:
    """Whether more has come than was read."""
    return self._file.seekable() and self._left() > 0

  def _left(self) -> int:
    """Bytes to the end, fewer than 0 where it has become shorter."""
    read = self._file.tell()
    length = self._file.seek(0, os.SEEK_END)
    self._file.seek(read)
    return length - read

  def _check_length(self) -> None:
    """At the end of what there is, where nothing more would ever come."""
    if not self._file.seekable():
      return
    read, left = self._file.tell(), self._left()
    if left < 0:
      raise ValueError(
        f'Expected a file that grows, found one of {read + left} bytes of '
        f'which {read} were read; it was begun anew, so watch it as another.'
      )


class Piped:
  """Bytes of a pipe, taken from it as they come.

  Who writes into a pipe waits as long as nobody reads it, and whoever records
  would lose frames while a video is late, or detectors are fitted.

  Attributes:
    begun_at: when the first bytes came.
    is_over: nothing more will be read.
  """

  def __init__(self, file: IO[bytes], wait_s: float, name: str):
    """Begins to read, in a thread, until the pipe's end.

    Args:
      file: raw, and used by nobody else.
      wait_s: how long nothing may come before that is the end; 0: for ever.
      name: of the pipe, for errors.
    """
    self.begun_at: datetime.datetime | None = None
    self.is_over = False
    self._wait_s = wait_s
    self._name = name
    self._is_closed = False
    self._error: OSError | None = None
    self._waiting = bytearray()
    self._changed = threading.Condition()
    threading.Thread(target=self._take, args=(file,), daemon=True).start()

  def _take(self, file: IO[bytes]) -> None:
    try:
      with file:
        while some := _some(file):
          with self._changed:
            self.begun_at = self.begun_at or _now()
            self._changed.wait_for(lambda: len(self._waiting) < _MOST_WAITING)
            self._waiting += some
            self._changed.notify_all()
    except OSError as e:
      self._error = e
    with self._changed:
      self._is_closed = True
      self._changed.notify_all()

  def read(self, size: int) -> bytes:
    """At least a byte and at most `size`; none at the end.

    Raises:
      ValueError: it could not be read any further.
    """
    if self.is_over:  # FFmpeg asks four times.
      return b''
    with self._changed:
      self._changed.wait_for(
        lambda: self._waiting or self._is_closed, self._wait_s or None
      )
      some = bytes(self._waiting[:size])
      del self._waiting[:size]
      self._changed.notify_all()
    if not some and self._error:
      raise ValueError(
        f'Expected {self._name} to be read to its end, found {self._error}; '
        'connect it anew, and watch what follows as a recording of its own.'
      ) from self._error
    self.is_over = not some
    return some

  @property
  def has_more(self) -> bool:
    """Whether more has come than was read."""
    return bool(self._waiting)


def _some(file: IO[bytes]) -> bytes:
  """Bytes of a pipe as soon as there are some; none at its end."""
  while (some := file.read(1 << 16)) is None:  # It was opened not to wait.
    select.select([file], [], [])
  return some


def _now() -> datetime.datetime:
  return datetime.datetime.now().astimezone()


def joints_of(
  source: Growing | Piped,
  name: str,
  *,
  up: str = 'y',
  unit: str = 'm',
  every: int = 1,
) -> Iterator[np.ndarray]:
  """Joints [1, 22, 3] of each line, as soon as the line has its end.

  One bad frame does not end a night: null, and joints that are missing or upon
  each other, come as NaN, as nobody.

  Args:
    source: JSON, a frame a line. A last line without its end is left out, and
      so are blank ones.
    name: of the source, for errors.
    up: the axis that points up.
    unit: of length, one of readers.UNITS.
    every: of so many frames one is taken, to come down to 20 fps.

  Raises:
    ValueError: a line is no frame; says which.
  """
  turn_33 = readers.TO_Y_UP[up].T * readers.UNITS[unit]
  rest, number, frames = b'', 0, 0
  while some := source.read(1 << 16):
    *lines, rest = (rest + some).split(b'\n')
    for line in lines:
      number += 1
      if not line.strip():
        continue
      if frames % every == 0:
        yield (_frame(line, f'{name}, line {number}') @ turn_33)[None]
      frames += 1


def _frame(line: bytes, where: str) -> np.ndarray:
  shape = (skeleton.NUM_JOINTS, 3)
  nobody_J3 = np.full(shape, np.nan)
  try:
    found = json.loads(line)
    frame_J3 = nobody_J3 if found is None else np.array(found, np.float64)
  except (ValueError, TypeError, OverflowError, RecursionError):
    frame_J3 = None
  if frame_J3 is None or frame_J3.shape != shape:
    raise ValueError(
      f'{where}: expected a frame as JSON, {shape[0]} joints of three numbers '
      f'[x, y, z] each, or null, found '
      f'{line[:40].decode(errors="replace")!r}; write one frame a line.'
    )
  if not np.isfinite(frame_J3).all():
    return nobody_J3
  bones_J3 = frame_J3[1:] - frame_J3[list(skeleton.PARENTS[1:])]
  is_body = (np.linalg.norm(bones_J3, axis=-1) > _SHORTEST_BONE).all()
  return frame_J3 if is_body else nobody_J3
