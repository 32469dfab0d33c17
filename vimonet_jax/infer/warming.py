"""Compiles what questions take before somebody waits for an answer."""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.infer import engine, generate, scheduler
from vimonet_jax.models import clip_video

# The first token comes with its prompt, the second takes a step of its own.
_TOKENS = 2
# Visitors go first: where all places are taken, this waits, seconds.
_AGAIN_S = 0.5
_QUESTION = 'What does the person do first?'


def warm(
  asked: engine.Engine,
  together: scheduler.Scheduler,
  *,
  max_rows: int,
  media: Sequence[str] | None = None,
  sampling: generate.Sampling = generate.GREEDY,
  tokens: int = _TOKENS,
  alike: int | None = None,
) -> None:
  """Asks about blank clips, of all kinds and in all numbers, then all at once.

  Longer questions, and longer answers, are compiled when they come. Others may
  ask meanwhile: they are answered between two of these.

  Args:
    asked: the model.
    together: asks it.
    max_rows: what `together` was made with.
    media: that questions will be about; None for all that the model reads.
    sampling: how most answers will be drawn.
    tokens: of an answer; more of them need longer slots.
    alike: how many will ask the same kind of question at the same time; None
      for `max_rows`.

  Raises:
    scheduler.ClosedError: it was closed meanwhile.
  """
  sampling = dataclasses.replace(sampling, max_new_tokens=tokens)
  media = asked.media if media is None else media
  sizes = _sizes(asked, max_rows, max_rows if alike is None else alike)
  # Motions of all lengths are read in the rows of these.
  lengths = (records.MIN_MOTION_FRAMES, asked.bundle.model.max_motion_frames)
  for length in lengths if 'motion' in media else (0,):
    all_kinds = [
      scheduler.Question(record, sampling)
      for record in _blank(asked.bundle.model.video, length, media)
    ]
    for question in all_kinds:
      for rows in sizes:
        _ask(together, [question] * rows)
    # Side by side one has the slots that another one needs.
    _ask(together, all_kinds)


def _ask(
  together: scheduler.Scheduler, some: Sequence[scheduler.Question]
) -> None:
  """Waits for the answers, and for places to wait in while others have them."""
  answers = None
  while answers is None and len(some) <= together.max_waiting:
    try:
      answers = together.ask_all(some)
    except scheduler.BusyError:
      time.sleep(_AGAIN_S)
  for answer in answers or ():
    answer.result()


def _blank(
  tower: clip_video.Config, length: int, media: Sequence[str]
) -> Iterator[records.Record]:
  """A record with each combination of media, the fewest first."""
  turns = (records.Turn(_QUESTION, ''),)
  motion = np.zeros((length, 263), np.float32)
  side = tower.image_size
  frames = np.zeros((tower.frames, side, side, 3), np.uint8)
  for number in range(len(media) + 1):
    for some in itertools.combinations(media, number):
      yield records.Record(
        'blank',
        'given',
        'test',
        motion=motion if 'motion' in some else None,
        frames=frames if 'video' in some else None,
        turns=turns,
      )


def _sizes(asked: engine.Engine, most: int, alike: int) -> list[int]:
  """The numbers of rows that batches of so many can have."""
  sizes = [asked.rows(1, most)]
  while sizes[-1] < alike and asked.rows(sizes[-1] + 1, most) > sizes[-1]:
    sizes.append(asked.rows(sizes[-1] + 1, most))
  return sizes
