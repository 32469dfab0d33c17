"""Watches a long recording: when did somebody fall, stumble, lie still, wander?

    python -m vimonet_jax.main --config=configs/tiny.py --task=monitor \\
        --input=day.npy --output=DIR

The recording is a motion file (--input), a video (--video), or both, or arrives
while it is recorded (`apps/given.py`), and is looked at in overlapping windows.
Alarms are printed as they come; DIR gets the files of `care/timeline.py`, and
an earlier watch in it is put aside. The first time, detectors are fitted on
synthetic recordings and kept beside the model (`care/calibration.py`). With
--question each window is asked it, too.
"""

import contextlib
import dataclasses
import datetime
import itertools
import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

from vimonet_jax import locks, weight_files
from vimonet_jax.apps import given, listening
from vimonet_jax.audit import privacy
from vimonet_jax.care import (
  calibration,
  detectors,
  events,
  evidence,
  figure,
  timeline,
)
from vimonet_jax.data import records, windows
from vimonet_jax.infer import engine, model_folder

_MAX_NEW_TOKENS = 32
# Of the settings, what is not about detectors.
_OF_INPUTS = ('follow_s', 'begun_at')
# Frames that arrive so much behind the clock have lost some before them.
_LATE_S = 60.0


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
    settings: `follow_s`, `begun_at`, and the fields of calibration.Settings.
    fps, up, unit: of the motion, where it does not say; a stream is taken for
      20 fps, y up and metres.
    quantize: the decoder's kernels, for less memory; see engine.Engine.load.
    motion_only: refuse a video before it is opened.

  Returns:
    0, or 128 and the signal that stopped it; the files are whole in either
    case.

  Raises:
    ValueError: what is given is not what it should be; says what to do.
    OSError: a file cannot be read or written.
  """
  follow_s, begun_at = settings['follow_s'], _begun(settings['begun_at'])
  fields = {k: v for k, v in settings.items() if k not in _OF_INPUTS}
  fitting = calibration.Settings(**fields)
  _check(recording, video, output, question, follow_s)
  if video:
    privacy.check('video', motion_only=motion_only)
  media = [
    medium for medium, path in (('motion', recording), ('video', video)) if path
  ]
  folder = os.path.join(workdir, 'model')
  tower = model_folder.read(folder).model.video
  _check_media(folder, media)
  lock = os.path.join(output, 'watch.lock')
  said = {'fps': fps, 'up': up, 'unit': unit}
  given.check(recording, video, follow_s, said)
  with contextlib.ExitStack() as files:
    # Before a pipe is opened, which another watch may be reading.
    files.enter_context(locks.held(lock, f'write to {output}'))
    # Before all that takes long: whoever writes into a pipe would wait for it.
    shown = given.opened(
      files, recording, video, fitting, follow_s, said, tower
    )
    is_live = _is_live(recording, shown, follow_s)
    paths = [path for path in (recording, video) if path]
    about = {
      'motion': recording,
      'video': video,
      'workdir': workdir,
      'is_live': is_live,
      # What goes on is another one whenever somebody looks.
      'files': [] if is_live else [timeline.state_of(path) for path in paths],
    }
    asking = engine.Engine.load(folder, quantize=quantize)
    found = calibration.ready(workdir, asking, media, fitting)
    if aside := timeline.keep(output, about):
      print(f'The earlier watch in {output} is kept in {aside}.')
    return _watch(
      asking,
      shown,
      found,
      media,
      output,
      question or '',
      fitting,
      begun_at=begun_at,
      about=about,
    )


def _begun(said: str) -> datetime.datetime | None:
  if not said:
    return None
  at = None
  with contextlib.suppress(ValueError):
    at = datetime.datetime.fromisoformat(said)
  if at is None or at.tzinfo is None:
    raise ValueError(
      'Expected begun_at with its offset, such as 2026-11-30T22:00:00+01:00, '
      f'found {said!r}; correct --config.monitor.'
    )
  return at


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


def _is_live(
  recording: str | None, shown: given.Given, follow_s: float
) -> bool:
  """Whether what is watched goes on, and cannot be watched again."""
  pipes = [isinstance(x, windows.Piped) for x in shown.arriving.values()]
  return recording == given.PIPE or follow_s > 0 or any(pipes)


def _check_media(folder: str, media: Sequence[str]) -> None:
  weights = weight_files.Lazy(model_folder.weights(folder))
  known = model_folder.media_of(weights)
  if unread := [medium for medium in media if medium not in known]:
    raise ValueError(
      'Expected only media that this model was trained on '
      f'({" and ".join(known) or "none"}), found '
      f'{" and ".join(unread)}; leave it out or use another --workdir.'
    )


# --- What is made of it ------------------------------------------------------


def _watch(
  asking: engine.Engine,
  watched: given.Given,
  found: dict[str, detectors.Detector],
  media: Sequence[str],
  output: str,
  question: str,
  fitting: calibration.Settings,
  *,
  begun_at: datetime.datetime | None,
  about: dict[str, Any],
) -> int:
  """Writes the timeline; gives the exit code."""
  thresholds = {kind: x.threshold for kind, x in found.items()}
  writer = timeline.Writer(
    output,
    {kind: calibration.source(kind, media) for kind in found},
    question,
    is_live=about['is_live'],
  )
  writer.begun_at = begun_at
  print(timeline.NOTICE, flush=True)
  teller = evidence.Teller(asking, media)
  judge = detectors.Judge(found)
  watches = {
    kind: events.Watch(kind, threshold, fitting.hop_s)
    for kind, threshold in thresholds.items()
  }
  group = 1 if about['is_live'] else calibration.GROUP
  asked_s, late_s = 0.0, 0.0
  with _stopped_by(signal.SIGTERM) as signals:
    try:
      for some in windows.groups(watched.shown, group):
        if not begun_at:
          writer.begun_at = _begun_of(watched.arriving)
        if about['is_live']:
          late_s = _late_s(watched.arriving, writer, some[-1], late_s)
        begun_s = time.perf_counter()
        is_seen = ['motion' not in media or x.joints is not None for x in some]
        seen = list(itertools.compress(some, is_seen))
        learnt = zip(
          teller.tell(seen), _answers(asking, seen, question), strict=True
        )
        asked_s += time.perf_counter() - begun_s
        for window, is_known in zip(some, is_seen, strict=True):
          if not is_known:
            _miss(watches, window, writer)
            continue
          signs, answer = next(learnt)
          sure = judge.judge(window, signs)
          writer.add_window(window, sure, answer)
          _see(watches, window, sure, writer)
    except KeyboardInterrupt:
      signals = signals or [signal.SIGINT]
    finally:
      # Who stops it twice does not stop this.
      with listening.unheard(signal.SIGINT, signal.SIGTERM):
        for watch in watches.values():
          if over := watch.close():
            writer.add_event(over)
        about |= {
          'settings': dataclasses.asdict(fitting),
          'thresholds': thresholds,
          'asked_s': round(asked_s, 3),
          'late_s': round(late_s, 3),
          'filled_frames': watched.filled.frames if watched.filled else 0,
        }
        writer.close(about)
  end_s = writer.end_s
  if not signals:
    _say_who_ended(watched.arriving, end_s)
  stopped = 'Stopped after' if signals else 'Watched'
  times = f', {end_s / asked_s:.0f} times as fast as it was' if asked_s else ''
  print(
    f'{stopped} {figure.elapsed(end_s)}{times}: {len(writer.found)} events, in '
    f'{output}.'
  )
  return 128 + signals[0] if signals else 0


@contextlib.contextmanager
def _stopped_by(number: int) -> Iterator[list[int]]:
  """A signal stops as a Ctrl-C does; gives those that came."""
  came: list[int] = []

  def stop(number, frame):
    del frame
    came.append(number)
    raise KeyboardInterrupt

  before = signal.signal(number, stop)
  try:
    yield came
  finally:
    signal.signal(number, before)


def _begun_of(arriving) -> datetime.datetime | None:
  """When what arrives began; None where that was before, or nothing does.

  A second is the same of both, so one that is known tells it of the other.
  """
  times = [source.begun_at for source in arriving.values()]
  return min(filter(None, times), default=None)


def _late_s(arriving, writer: timeline.Writer, window, late_s) -> float:
  """How much too early times of day are at the most; prints it where it grows.

  Frames are counted, so those that were left out are missing in each later
  time. What is there and not read yet, is only late.
  """
  at = writer.at(window.end_s)
  if at is None or any(source.has_more for source in arriving.values()):
    return late_s
  now_s = (datetime.datetime.now(at.tzinfo) - at).total_seconds()
  if now_s > late_s + _LATE_S:
    print(
      f'{_clock(writer, window.end_s)}  frames come {figure.elapsed(now_s)} '
      'later than those before them; if some were left out, times of day are '
      'too early by as much from here on',
      flush=True,
    )
    return now_s
  return late_s


def _say_who_ended(arriving, end_s: float) -> None:
  over = [name for name, source in arriving.items() if source.is_over]
  if len(over) == 1 < len(arriving):
    (other,) = arriving.keys() - over
    print(
      f'The {over[0]} has ended at {figure.elapsed(end_s)}, and with it the '
      f'watch, which needs both; of the {other} more may come.'
    )


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


def _miss(watches, window, writer: timeline.Writer) -> None:
  """Notes that nobody is seen, and prints it where that is new.

  Whoever is seen again is so in a window that begins later, so all events that
  go on are over.
  """
  for watch in watches.values():
    if over := watch.close():
      writer.add_event(over)
  if writer.add_unseen(window):
    print(
      f'{_clock(writer, window.end_s)}  nobody is seen for some time between '
      f'{figure.elapsed(window.start_s)} and {figure.elapsed(window.end_s)}',
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
      writer.add_alarm(kind, window, sure[kind])
      print(
        f'{_clock(writer, window.end_s)}  {kind}, {sure[kind]:.0%} sure, '
        f'between {figure.elapsed(window.start_s)} and '
        f'{figure.elapsed(window.end_s)}',
        flush=True,
      )


def _clock(writer: timeline.Writer, seconds: float) -> str:
  """The time of day, where it is known, and that of the recording."""
  at = writer.at(seconds)
  return (f'{at:%H:%M:%S}  ' if at else '') + figure.elapsed(seconds)
