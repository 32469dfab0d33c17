"""How likely a model finds given answers to an open question.

A prompt and its media are read once; then every candidate is read on from
there, by all rows of a batch at the same time.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vimonet_jax import cluster
from vimonet_jax.data import records, text
from vimonet_jax.infer import engine
from vimonet_jax.models import attention, vimonet

# Candidates are padded to so many tokens, or twice as many and so on, and so is
# their number: few shapes, so few compilations.
_LEAST = 8
# Of so many positions at once there are scores of the whole vocabulary.
_POSITIONS = 8


class Scored(NamedTuple):
  """What a model makes of one candidate.

  Attributes:
    log_probs: float32 [l], of each of its tokens, given the prompt and the
      tokens before it.
    end: log-probability that the answer ends behind them.
  """

  log_probs: np.ndarray
  end: float

  @property
  def total(self) -> float:
    """Log-probability of all its tokens, without that of the end."""
    return float(np.sum(self.log_probs, dtype=np.float64))

  @property
  def mean(self) -> float:
    """`total` by the number of tokens, so that long answers can compete."""
    return self.total / len(self.log_probs)


def score(
  asking: engine.Engine,
  asked: Sequence[records.Record],
  candidates: Sequence[Sequence[str]],
  *,
  max_rows: int | None = None,
) -> list[tuple[Scored, ...]]:
  """Log-probabilities of each record's candidates, in order.

      answer begun with  'Best option:('       ''
      candidates         ['A', 'B', 'C']       ['walk', 'walk backwards']

  A begun answer and a candidate are encoded as one text. If one of them has a
  token that the begun answer's last letters are a part of, then these letters'
  tokens count for all of the record's candidates, so that they can be compared.

  Args:
    asking: the model.
    asked: open questions, as for Engine.answer.
    candidates: of each record, how its last turn's answer may go on.
    max_rows: of a batch, as for Engine.answer; a row takes the memory of one
      prompt and one candidate.

  Raises:
    ValueError: a record has no candidates, or one without tokens, or media
      that the model was not trained on.
  """
  if len(candidates) != len(asked):
    raise ValueError(
      f'Expected a list of candidates for each of {len(asked)} records, found '
      f'{len(candidates)}; give every record its own.'
    )
  layout = asking.bundle.layout
  answers = [
    text.encode_answers(record, some, layout)
    for record, some in zip(asked, candidates, strict=True)
  ]
  number = _padded(max((len(x.ids) for x in answers), default=0))
  found: list[tuple[Scored, ...]] = [()] * len(asked)
  for places, batch in asking.in_batches(asked, max_rows=max_rows):
    some = [answers[i] for i in places]
    log_probs_NBL = cluster.fetch(
      asking.apply(
        _compiled(asking.bundle.model),
        batch,
        _candidates(some, number, rows=len(batch['tokens'])),
      )
    )
    for b, (i, answer) in enumerate(zip(places, some, strict=True)):
      rows = (
        log_probs_NBL[n, b, : len(ids)] for n, ids in enumerate(answer.ids)
      )
      found[i] = tuple(Scored(x_L[:-1], float(x_L[-1])) for x_L in rows)
  return found


class _Candidates(NamedTuple):
  """What the rows of a batch may go on with.

  Attributes:
    tokens_NBL: the n-th candidate of each row, eos included.
    lengths_NB: how long they are; 0 where a row has fewer.
    cut_B: tokens of the prompts that they do without.
    number: how many there are in the row with most, at most N.
  """

  tokens_NBL: np.ndarray
  lengths_NB: np.ndarray
  cut_B: np.ndarray
  number: np.ndarray


def _candidates(
  answers: Sequence[text.Answers], number: int, *, rows: int
) -> _Candidates:
  longest = max(len(ids) for answer in answers for ids in answer.ids)
  tokens_NBL = np.zeros((number, rows, _padded(longest)), np.int32)
  lengths_NB = np.zeros((number, rows), np.int32)
  cut_B = np.zeros(rows, np.int32)
  for b, answer in enumerate(answers):
    cut_B[b] = answer.cut
    for n, ids in enumerate(answer.ids):
      tokens_NBL[n, b, : len(ids)] = ids
      lengths_NB[n, b] = len(ids)
  most = np.int32(max(len(answer.ids) for answer in answers))
  return _Candidates(tokens_NBL, lengths_NB, cut_B, most)


def _padded(size: int) -> int:
  padded = _LEAST
  while padded < size:
    padded *= 2
  return padded


@functools.cache
def _compiled(model: vimonet.Config) -> Callable[..., jax.Array]:
  return jax.jit(functools.partial(_log_probs, vimonet.Vimonet(model)))


def _log_probs(
  model: vimonet.Vimonet, variables, batch: vimonet.Batch, given: _Candidates
) -> jax.Array:
  """Of every candidate's tokens, float32 [N, B, L]; of padding, anything."""

  def apply(*args, method):
    return model.apply(vimonet.stack(variables), *args, method=method)

  rows, length = batch['tokens'].shape
  slots = length + given.tokens_NBL.shape[-1]
  cache = attention.init_cache(model.config.llm, rows, slots)
  last_B1D, cache = apply(batch, given.cut_B, cache, method=_read)

  def advance(n, found):
    cache, log_probs_NBL = found
    tokens_BL = given.tokens_NBL[n]
    h_BLD, after = apply(
      last_B1D, tokens_BL, given.lengths_NB[n], cache, method=_read_on
    )

    def of_tokens(position):
      h_BD, tokens_B = position
      logits_BV = apply(h_BD, method='logits')
      scores_B1 = jnp.take_along_axis(logits_BV, tokens_B[:, None], axis=1)
      return scores_B1[:, 0] - jax.nn.logsumexp(logits_BV, axis=1)

    log_probs_LB = jax.lax.map(
      of_tokens,
      (jnp.swapaxes(h_BLD, 0, 1), tokens_BL.T),
      batch_size=_POSITIONS,
    )
    # The next candidate takes the same slots, so nothing is copied.
    cache = after._replace(length=cache.length)
    return cache, log_probs_NBL.at[n].set(log_probs_LB.T)

  none_NBL = jnp.zeros(given.tokens_NBL.shape, jnp.float32)
  _, log_probs_NBL = jax.lax.fori_loop(
    0, given.number, advance, (cache, none_NBL)
  )
  return log_probs_NBL


def _read(
  model: vimonet.Vimonet, batch: vimonet.Batch, cut_B, cache: attention.Cache
) -> tuple[jax.Array, attention.Cache]:
  """Each prompt's last embedding, and a cache with all before it."""
  x_BLD = model.embed(batch)
  length_B = jnp.sum(batch['segment_ids'] > 0, axis=1, dtype=jnp.int32)
  _, cache = model.llm.begin(x_BLD, length_B, cache)
  last_B = jnp.maximum(length_B - cut_B - 1, 0)
  last_B1D = jnp.take_along_axis(x_BLD, last_B[:, None, None], axis=1)
  return last_B1D, cache._replace(length=last_B)


def _read_on(
  model: vimonet.Vimonet,
  last_B1D,
  tokens_BL,
  length_B,
  cache: attention.Cache,
) -> tuple[jax.Array, attention.Cache]:
  """Hidden states that predict the tokens, [B, L, D].

  tokens  = [ A    )   eos ]
  read    = [last  A    )  ]
  """
  x_BLD = model.llm.embed(tokens_BL[:, :-1])
  x_BLD = jnp.concatenate([last_B1D.astype(x_BLD.dtype), x_BLD], axis=1)
  return model.llm.extend(x_BLD, length_B, cache)
