"""Asks a finished model about a motion file, a video, or both.

    python -m vimonet_jax.main --config=configs/tiny.py --task=chat \\
        --motion=walk.bvh --video=walk.mp4 --question='Where does he go?'

Without --question a conversation starts. Answers go to standard output; what
was found in the files and what is wrong goes to standard error, a line each.
Of the work folder only `model/` is read.
"""

import contextlib
import os
import sys
from collections.abc import Iterator

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.data import video as videos
from vimonet_jax.infer import engine
from vimonet_jax.motion import features, readers

_MAX_NEW_TOKENS = 128
_END = ('', 'exit', 'quit')
# HumanML3D cuts its clips, which last ten seconds at most, before it computes
# features: somebody's stairs after a minute must not move the floor.
_LONGEST_CLIP_FRAMES = 200
# The reference does not average the pixels that become one, and its weights,
# which read so many, know that picture. Smaller towers never saw it.
_REFERENCE_PIXELS = 224


def run(
  workdir: str,
  *,
  motion: str | None = None,
  video: str | None = None,
  question: str | None = None,
  fps: float | None = None,
  up: str | None = None,
  unit: str | None = None,
) -> int:
  """Answers one question, or all that the user types.

  Args:
    workdir: of a pipeline that has come to its end.
    motion: a file for motion.readers.
    video: a video or a folder of images, for data.video. At least one of the
      two is needed: an answer about nothing would look like one about a clip.
    question: what to ask; None starts a conversation.
    fps, up, unit: of the motion file, where it does not say; see readers.read.

  Returns:
    The exit code: 0, or 1 after one sentence that says what is wrong.
  """
  folder = os.path.join(workdir, 'model')
  try:
    if question is not None and not question.strip():
      raise ValueError(
        'Expected a question, found an empty --question; leave it out to start '
        'a conversation.'
      )
    # Files come before weights, which can take minutes to load.
    frames = engine.load_bundle(folder).model.video
    record = records.Record(
      ' and '.join(path for path in (motion, video) if path),
      source='chat',
      split='test',
      motion=motion and _read_motion(motion, fps=fps, up=up, unit=unit),
      frames=video and _read_video(video, frames.image_size, frames.frames),
    )
    if not record.id:
      raise ValueError(
        'Expected --motion, --video or both, found neither; give the file that '
        'the question is about.'
      )
    asked = engine.Engine.load(folder)
    asked.check(record)
  except (ValueError, OSError, ImportError) as e:
    _say(e)
    return 1
  if question is None:
    _converse(asked, record)
    return 0
  try:
    print(_start(asked, record).ask(question.strip()))
  except engine.ConversationTooLongError as e:
    _say(e)
    return 1
  return 0


def _read_motion(path: str, **flags) -> np.ndarray:
  """Features [T, 263] of the first 9.8 seconds; says what was converted."""
  found = readers.read(path, **flags)
  if found.features is None:
    length = len(found.joints) - 1
    motion = _encode(path, found.joints[:_LONGEST_CLIP_FRAMES])
  else:
    length = len(found.features)
    motion = found.features
  motion = records.trim_motion(motion)
  notes = list(found.notes)
  seconds, read = length / records.FPS, len(motion) / records.FPS
  if length - len(motion) >= records.FRAMES_PER_TOKEN:
    notes.append(
      f'Only the first {read:.1f} of {seconds:.1f} s are read: cut the file to '
      'ask about a later part.'
    )
  if len(motion) < records.MIN_MOTION_FRAMES:
    shortest = records.MIN_MOTION_FRAMES / records.FPS
    notes.append(
      f'The clip lasts {seconds:.1f} s and models are trained on {shortest:g} s '
      'or more: the answer may be a guess.'
    )
  if notes:
    _say(f'{path}: {" ".join(notes)}')
  return motion


def _encode(path: str, joints_TJ3: np.ndarray) -> np.ndarray:
  try:
    return features.encode(joints_TJ3)
  except ValueError as e:
    raise readers.MotionFileError(f'{path}: {e}') from e


def _read_video(path: str, size: int, frames: int) -> np.ndarray:
  """uint8 [frames, size, size, 3], spread over the whole video."""
  return videos.read_clip(
    path, size=size, frames=frames, antialias=size < _REFERENCE_PIXELS
  )


def _start(asked: engine.Engine, record: records.Record):
  return asked.start(record, max_new_tokens=_MAX_NEW_TOKENS)


def _converse(asked: engine.Engine, record: records.Record) -> None:
  """Answers until the user ends it; what was said before counts."""
  conversation = _start(asked, record)
  with contextlib.suppress(KeyboardInterrupt):
    for question in _typed():
      try:
        print(conversation.ask(question), flush=True)
      except engine.ConversationTooLongError as e:
        if conversation.turns == 0:
          _say(e)  # It is the question that is too long.
          continue
        _say('The conversation is full: a new one starts with the same files.')
        conversation = _start(asked, record)
        print(conversation.ask(question), flush=True)


def _typed() -> Iterator[str]:
  """Lines of standard input, up to an empty one, `exit` or Ctrl-D."""
  is_terminal = sys.stdin.isatty()
  if is_terminal:
    with contextlib.suppress(ImportError):
      import readline  # noqa: F401  Arrow keys work once it is imported.
    _say('Ask away; an empty line ends the conversation.')
  with contextlib.suppress(EOFError):
    while (line := input('> ' if is_terminal else '').strip()) not in _END:
      yield line


def _say(what: object) -> None:
  """One line on standard error, whatever a library put into its message."""
  print(' '.join(str(what).split()), file=sys.stderr, flush=True)
