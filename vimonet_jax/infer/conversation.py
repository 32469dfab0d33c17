"""Turns about the same clips, one after the other.

What was said stays in the decoder's cache, so a later turn costs its own words
only.
"""

import dataclasses

import jax
import numpy as np

from vimonet_jax.data import batches, packing, records, text, tokenizer
from vimonet_jax.infer import engine, generate


class TooLongError(ValueError):
  """The next turn would not fit; says what would."""


class Conversation:
  """Turns about the same media, which are encoded once.

  Attributes:
    turns: how many questions have been answered.
  """

  def __init__(
    self,
    asked: engine.Engine,
    record: records.Record,
    *,
    sampling: generate.Sampling = generate.GREEDY,
    max_new_tokens: int | None = None,
    seed: int = 0,
    room: int = 1024,
    logits_fn: generate.LogitsFn | None = None,
  ):
    """Starts without having asked anything.

    Args:
      asked: who answers.
      record: the media; what it has for turns does not count.
      sampling: how a token is chosen, as in generate.PRESETS.
      max_new_tokens: longest answer; None for that of `sampling`.
      seed: of the sampling.
      room: tokens that all turns together can have, besides those of clips.
      logits_fn: changes scores before every draw, as a watermark does.

    Raises:
      ValueError: the record has media that the model was not trained on.
    """
    asked.check(record)
    if max_new_tokens is None:
      max_new_tokens = sampling.max_new_tokens
    layout = asked.bundle.layout
    motion = 0 if record.motion is None else layout.motion_slots
    video = 0 if record.frames is None else layout.video_tokens
    self._asked = asked
    self._record = record
    self._sampling = sampling
    self._max_new_tokens = max_new_tokens
    self._logits_fn = logits_fn
    self._key = jax.random.key(seed)
    self._cache_length = engine.round_up(room + motion + video)
    self.turns = 0
    self._output: generate.Output | None = None

  def ask(self, question: str) -> str:
    """The answer to the next question.

    Raises:
      TooLongError: the turn may not fit into the cache; the conversation is as
        it was before.
    """
    is_first = self._output is None
    batch = self._first(question) if is_first else self._next(question)
    self._check_room(np.sum(batch['segment_ids'] > 0))
    # A mesh takes no fewer rows than it has shards for: all ask the same.
    batch = {
      name: np.repeat(x, self._asked.row_shards, axis=0)
      for name, x in batch.items()
    }
    self._output = self._asked.run(
      batch,
      max_new_tokens=self._max_new_tokens,
      sampling=self._sampling,
      key=jax.random.fold_in(self._key, self.turns),
      cache_length=self._cache_length if is_first else None,
      previous=self._output,
      logits_fn=self._logits_fn,
    )
    self.turns += 1
    return self._asked.decode(self._output)[0]

  def _first(self, question: str) -> packing.Batch:
    turn = records.Turn(question, '')
    record = dataclasses.replace(self._record, turns=(turn,))
    shape = self._asked.row_shape(record)
    return self._asked.prompts([record], shape, rows=1)

  def _next(self, question: str) -> packing.Batch:
    ids = text.encode_turn(question, self._asked.bundle.layout)
    if self._output.last[0] != tokenizer.EOS:
      # The answer was cut short. It ends here for whoever reads it.
      ids = np.concatenate([[tokenizer.EOS], ids])
    return batches.words(ids, length=engine.round_up(len(ids)))

  def _check_room(self, num_tokens: int) -> None:
    # The newest token is not in the cache yet.
    used = 0 if self._output is None else self._output.cache.length[0] + 1
    more = num_tokens + self._max_new_tokens
    if used + more > self._cache_length:
      raise TooLongError(
        f'Expected a conversation of at most {self._cache_length} tokens, '
        f'clips included, found {used} so far and {more} for another question '
        'and its answer; start a new one or ask in fewer words.'
      )
