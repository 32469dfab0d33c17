"""Watches a long recording: when did somebody fall, stumble, lie still, wander?

    python -m vimonet_jax.main --config=configs/tiny.py --task=monitor \\
        --input=day.npy --output=DIR

The recording is a motion file (--input), a video (--video), or both, and is
looked at in overlapping windows. What arrives while it is recorded is read as

    --input=-                joints from a pipe, a JSON line each (data/windows)
    --input=x.jsonl          the same from a file, with
    --config.monitor.follow_s=60   one that may go on growing for so long
    --video=x.ts             a video likewise, as MPEG-TS or Matroska

Alarms are printed as they come; DIR gets the files of `care/timeline.py`. The
first time, detectors are fitted on synthetic recordings and kept beside the
model (`care/calibration.py`). With --question each window is asked it, too.
"""

import contextlib
import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from vimonet_jax.audit import privacy
from vimonet_jax.care import calibration, detectors, events, evidence, timeline
from vimonet_jax.data import records, video_file, windows
from vimonet_jax.data import video as videos
from vimonet_jax.infer import engine
from vimonet_jax.motion import readers

_PIPE, _LINES = '-', '.jsonl'
_MAX_NEW_TOKENS = 32


def run(
  workdir: str,
  recording: str | None,
  output: str | None,
  *,
  video: str | None = None,
  question: str | None = None,
  settings: dict[str, Any],
  fps: float | None = None,
  up: str | None = None,
  unit: str | None = None,
  quantize: str = '',
  motion_only: bool = False,
) -> int:
  """Watches a recording to its end, or until it is stopped.

  Args:
    workdir: of a pipeline that has come to its end.
    recording: joints that arrive, or a motion file.
    output: the folder of the timeline.
    video: of the same time, or alone.
    question: for each window.
    settings: `follow_s`, and the fields of calibration.Settings.
    fps, up, unit: of the motion, where it does not say; a stream is taken for
      20 fps, y up and metres.
    quantize: the decoder's kernels, for less memory; see engine.Engine.load.
    motion_only: refuse a video before it is opened.

  Returns:
    0, or 130 where it was stopped; the files are whole in either case.

  Raises:
    ValueError: what is given is not what it should be; says what to do.
    OSError: a file cannot be read or written.
  """
  follow_s = settings['follow_s']
  fields = {k: v for k, v in settings.items() if k != 'follow_s'}
  fitting = calibration.Settings(**fields)
  _check(recording, video, output, question, follow_s)
  if video:
    privacy.check('video', motion_only=motion_only)
  media = [
    medium for medium, path in (('motion', recording), ('video', video)) if path
  ]
  asking = engine.Engine.load(os.path.join(workdir, 'model'), quantize=quantize)
  _check_media(asking, media)
  said = {'fps': fps, 'up': up, 'unit': unit}
  with contextlib.ExitStack() as files:
    shown = _windows(files, recording, video, fitting, follow_s, said, asking)
    # Behind what is read, which may be a wrong path.
    found = calibration.ready(workdir, asking, media, fitting)
    is_live = recording == _PIPE or follow_s > 0
    return _watch(
      asking,
      shown,
      found,
      media,
      output,
      question or '',
      fitting,
      group=1 if is_live else calibration.GROUP,
      about={'motion': recording, 'video': video, 'workdir': workdir},
    )


def _check(recording, video, output, question, follow_s) -> None:
  if not recording and not video:
    raise ValueError(
      'Expected --input (a motion file, or - for a pipe), --video or both, '
      'found neither; name the recording.'
    )
  if not output:
    raise ValueError(
      'Expected --output, the folder of the timeline, found none; name one.'
    )
  if follow_s < 0:
    raise ValueError(
      f'Expected follow_s of 0 or more, found {follow_s:g}; correct '
      '--config.monitor.'
    )
  if question is not None and not question.strip():
    raise ValueError(
      'Expected a question, found an empty --question; leave it out to ask '
      'nothing more.'
    )


def _check_media(asking: engine.Engine, media: Sequence[str]) -> None:
  if unread := [medium for medium in media if medium not in asking.media]:
    raise ValueError(
      'Expected only media that this model was trained on '
      f'({" and ".join(asking.media) or "none"}), found '
      f'{" and ".join(unread)}; leave it out or use another --workdir.'
    )


# --- What is read ------------------------------------------------------------


def _windows(
  files: contextlib.ExitStack,
  recording: str | None,
  video: str | None,
  fitting: calibration.Settings,
  follow_s: float,
  said: dict[str, Any],
  asking: engine.Engine,
) -> Iterator[windows.Window]:
  """Windows of all that is given, each as soon as it is whole."""
  size = {'length_s': fitting.window_s, 'hop_s': fitting.hop_s}
  shown = None
  if recording:
    pieces = _joints(files, recording, follow_s, said)
    shown = windows.of_joints(pieces, **size)
    if _arrives(recording):
      shown = _of_a_body(shown, recording)
  if video:
    if os.path.isdir(video):
      raise ValueError(
        'Expected --video to be a video, whose frames say when they are '
        f'shown, found the folder {video}; make a video of its images.'
      )
    if follow_s:
      source = _opened(files, video, follow_s)
    else:
      source = video
      videos.read_head(video)  # Says what is wrong before anything is fitted.
    tower = asking.bundle.model.video
    filmed = windows.of_video(
      video_file.in_time(source, video),
      count=tower.frames,
      size=tower.image_size,
      **size,
    )
    shown = windows.together(shown, filmed) if recording else filmed
  return shown


def _arrives(recording: str) -> bool:
  return recording == _PIPE or recording.endswith(_LINES)


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
  return 'standard input' if recording == _PIPE else recording


def _joints(files, recording: str, follow_s: float, said: dict[str, Any]):
  """Pieces of joints of a file or stream, at 20 fps."""
  if not _arrives(recording):
    if follow_s:
      raise ValueError(
        f'Expected a recording that can grow, JSON lines in a {_LINES} file or '
        f'{_PIPE} for a pipe, found {recording} and follow_s={follow_s:g}; '
        'write lines, or set --config.monitor.follow_s=0.'
      )
    return [readers.read(recording, **said).joints]
  fps = records.FPS if said['fps'] is None else said['fps']
  if fps <= 0 or fps % records.FPS:
    raise ValueError(
      f'Expected joints that arrive with a multiple of {records.FPS} frames '
      f'per second, found --fps={fps:g}; resample them.'
    )
  return windows.joints_of(
    _opened(files, recording, follow_s),
    _named(recording),
    up=said['up'] or 'y',
    unit=said['unit'] or 'm',
    every=int(fps // records.FPS),
  )


def _opened(files, path: str, follow_s: float) -> windows.Growing:
  # Without a buffer: what has come is there, and nothing waits for more.
  where = os.dup(sys.stdin.fileno()) if path == _PIPE else path
  file = files.enter_context(open(where, 'rb', buffering=0))  # noqa: SIM115
  return windows.Growing(file, follow_s)


# --- What is made of it ------------------------------------------------------


def _watch(
  asking: engine.Engine,
  shown: Iterator[windows.Window],
  found: dict[str, detectors.Detector],
  media: Sequence[str],
  output: str,
  question: str,
  fitting: calibration.Settings,
  *,
  group: int,
  about: dict[str, Any],
) -> int:
  """Writes the timeline; gives the exit code."""
  thresholds = {kind: x.threshold for kind, x in found.items()}
  writer = timeline.Writer(
    output, {kind: calibration.source(kind, media) for kind in found}, question
  )
  print(timeline.NOTICE, flush=True)
  teller = evidence.Teller(asking, media)
  judge = detectors.Judge(found)
  watches = {
    kind: events.Watch(kind, threshold, fitting.hop_s)
    for kind, threshold in thresholds.items()
  }
  code, asked_s = 0, 0.0
  try:
    for some in windows.groups(shown, group):
      begun_s = time.perf_counter()
      is_seen = ['motion' not in media or x.joints is not None for x in some]
      seen = list(itertools.compress(some, is_seen))
      learnt = zip(
        teller.tell(seen), _answers(asking, seen, question), strict=True
      )
      asked_s += time.perf_counter() - begun_s
      for window, is_known in zip(some, is_seen, strict=True):
        if not is_known:
          _miss(window, writer)
          continue
        signs, answer = next(learnt)
        sure = judge.judge(window, signs)
        writer.add_window(window, sure, answer)
        _see(watches, window, sure, writer)
  except KeyboardInterrupt:
    code = 130
  finally:
    for watch in watches.values():
      if over := watch.close():
        writer.add_event(over)
    about |= {
      'settings': dataclasses.asdict(fitting),
      'thresholds': thresholds,
      'asked_s': round(asked_s, 3),
    }
    writer.close(about)
  end_s = writer.end_s
  stopped = 'Stopped after' if code else 'Watched'
  times = f', {end_s / asked_s:.0f} times as fast as it was' if asked_s else ''
  print(
    f'{stopped} {timeline.clock(end_s)}{times}: {len(writer.found)} events, in '
    f'{output}.'
  )
  return code


def _answers(asking, shown, question: str) -> list[str]:
  if not question or not shown:
    return [''] * len(shown)
  turns = (records.Turn(question, ''),)
  return asking.answer(
    [
      dataclasses.replace(evidence.of_media(window), turns=turns)
      for window in shown
    ],
    max_new_tokens=_MAX_NEW_TOKENS,
    max_rows=evidence.ROWS,
  )


def _miss(window, writer: timeline.Writer) -> None:
  """Notes that nobody is seen, and prints it where that is new."""
  if writer.add_unseen(window):
    print(
      f'{timeline.clock(window.end_s)}  nobody is seen for some time between '
      f'{timeline.clock(window.start_s)} and {timeline.clock(window.end_s)}',
      flush=True,
    )


def _see(watches, window, sure, writer: timeline.Writer) -> None:
  """Shows a window to the watch of each kind, and prints alarms."""
  for kind, watch in watches.items():
    before = watch.found
    if over := watch.see(window, sure[kind]):
      writer.add_event(over)
      before = None
    if watch.found and not before:
      print(
        f'{timeline.clock(window.end_s)}  {kind}, {sure[kind]:.0%} sure, '
        f'between {timeline.clock(window.start_s)} and '
        f'{timeline.clock(window.end_s)}',
        flush=True,
      )
