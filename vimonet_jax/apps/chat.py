"""Asks a finished model about a motion file, a video, or both.

    python -m vimonet_jax.main --config=configs/tiny.py --task=chat \\
        --motion=walk.bvh --video=walk.mp4 --question='Where does he go?'

Without --question a conversation starts. Answers go to standard output; what
was found in the files and what is wrong goes to standard error, a line each.
Of the work folder only `model/` is read.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable

from vimonet_jax.apps import inputs
from vimonet_jax.audit import watermark
from vimonet_jax.infer import conversation as conversations
from vimonet_jax.infer import engine, generate, model_folder


def run(
  workdir: str,
  *,
  motion: str | None = None,
  video: str | None = None,
  question: str | None = None,
  fps: float | None = None,
  up: str | None = None,
  unit: str | None = None,
  sampling: str = 'greedy',
  seed: int = 0,
  quantize: str = '',
  motion_only: bool = False,
  mark: watermark.Watermark | None = None,
) -> int:
  """Answers one question, or all that the user types.

  Args:
    workdir: of a pipeline that has come to its end.
    motion: a file for motion.readers.
    video: a video or a folder of images, for data.video. At least one of the
      two is needed: an answer about nothing would look like one about a clip.
    question: what to ask; None starts a conversation.
    fps, up, unit: of the motion file, where it does not say; see readers.read.
    sampling: one of generate.PRESETS.
    seed: of what is drawn.
    quantize: the decoder's kernels, for less memory; see engine.Engine.load.
    motion_only: refuses videos; see audit/privacy.py.
    mark: that answers carry.

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
    if not motion and not video:
      raise ValueError(
        'Expected --motion, --video or both, found neither; give the file that '
        'the question is about.'
      )
    start = functools.partial(
      conversations.Conversation,
      sampling=generate.preset(sampling),
      seed=seed,
      logits_fn=mark,
    )
    # Files come before weights, which can take minutes to load.
    tower = model_folder.read(folder).model.video
    record, notes = inputs.read(
      tower,
      motion=motion,
      video=video,
      fps=fps,
      up=up,
      unit=unit,
      motion_only=motion_only,
    )
    for note in notes:
      _say(note)
    asked = engine.Engine.load(folder, quantize=quantize)
    asked.check(record)
  except (ValueError, OSError, ImportError) as e:
    _say(e)
    return 1
  if question is None:
    _converse(functools.partial(start, asked, record))
    return 0
  answer = _ask(start(asked, record), question.strip())
  if answer is None:
    return 1
  print(answer)
  return 0


def _ask(
  conversation: conversations.Conversation, question: str
) -> str | None:
  """The answer; None, and a line that says so, where it has no room."""
  try:
    return conversation.ask(question)
  except conversations.TooLongError as e:
    _say(e)
    return None


def _converse(start: Callable[[], conversations.Conversation]) -> None:
  """Answers until the user has had enough; what was said before counts."""
  is_terminal = sys.stdin.isatty()
  if is_terminal:
    with contextlib.suppress(ImportError):
      import readline  # noqa: F401  With it, input() knows the arrow keys.
    _say('Ask away; an empty line ends the conversation.')
  conversation = start()
  try:
    while question := _typed('> ' if is_terminal else ''):
      answer = _ask(conversation, question)
      if answer is None and conversation.turns:
        _say('A new conversation starts, about the same files.')
        conversation = start()
        answer = _ask(conversation, question)
      if answer is not None:
        print(answer, flush=True)
  except (EOFError, KeyboardInterrupt):
    if is_terminal:
      _say('')  # The prompt of the shell gets a line of its own.


def _typed(prompt: str) -> str:
  """The next line of standard input; empty where it says that this was all."""
  line = input(prompt).strip()
  return '' if line == 'exit' else line


def _say(what: object) -> None:
  """One line on standard error, whatever a library put into its message."""
  print(' '.join(str(what).split()), file=sys.stderr, flush=True)
