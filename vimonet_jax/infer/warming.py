"""Compiles what questions take before somebody waits for an answer."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.infer import engine, generate, scheduler
from vimonet_jax.models import vimonet


def warm(
  asked: engine.Engine,
  together: scheduler.Scheduler,
  *,
  max_rows: int,
  media: Sequence[str] | None = None,
  sampling: generate.Sampling = generate.GREEDY,
) -> None:
  """Asks short questions about blank clips, of all kinds and in all numbers.

  Longer ones, and longer answers, are compiled when they come.

  Args:
    asked: the model.
    together: asks it.
    max_rows: what `together` was made with.
    media: that questions will be about; None for all that the model reads.
    sampling: how most answers will be drawn.
  """
  for record in _blank(asked, asked.media if media is None else media):
    question = scheduler.Question(record, sampling)
    for rows in _sizes(asked, max_rows):
      answers = together.ask_all([question] * rows)
      for answer in answers:
        next(iter(answer), '')
      for answer in answers:
        answer.cancel()
        answer.result()


def _blank(
  asked: engine.Engine, media: Sequence[str]
) -> Iterator[records.Record]:
  """A record with each combination of media."""
  turns = (records.Turn('What?', ''),)
  for number in range(len(media) + 1):
    for some in itertools.combinations(media, number):
      clips = {medium: _clip(asked.bundle.model, medium) for medium in some}
      yield records.Record(
        'blank',
        'given',
        'test',
        motion=clips.get('motion'),
        frames=clips.get('video'),
        turns=turns,
      )


def _clip(model: vimonet.Config, medium: str) -> np.ndarray:
  if medium == 'motion':
    return np.zeros((model.max_motion_frames, 263), np.float32)
  tower = model.video
  shape = (tower.frames, tower.image_size, tower.image_size, 3)
  return np.zeros(shape, np.uint8)


def _sizes(asked: engine.Engine, most: int) -> list[int]:
  """The numbers of rows that batches can have."""
  sizes = [asked.rows(1, most)]
  while sizes[-1] < most and asked.rows(sizes[-1] + 1, most) > sizes[-1]:
    sizes.append(asked.rows(sizes[-1] + 1, most))
  return sizes
