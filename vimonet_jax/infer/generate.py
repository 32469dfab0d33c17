"""Text from a model: prefill once, then one token per row at a time.

Everything here is a pure function of arrays, to be jitted by the caller with
`model`, `sampling` and the lengths held fixed (see engine.py).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vimonet_jax.models import attention, vimonet

# (scores float32 [B, V], the token before int32 [B]) -> scores [B, V].
LogitsFn = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How an answer is drawn from scores.

  Attributes:
    temperature: scores are divided by it; 0 takes the best token.
    top_k: how many tokens stay in the draw, more where several tie for the
      last place; 0 keeps all.
    max_new_tokens: longest answer, where the caller names no other.
  """

  temperature: float = 0.0
  top_k: int = 0
  max_new_tokens: int = 128

  def __post_init__(self):
    if self.temperature < 0 or self.top_k < 0 or self.max_new_tokens < 1:
      raise ValueError(
        'Expected temperature and top_k to be zero or more and max_new_tokens '
        f'to be one or more, found {self}.'
      )


GREEDY = Sampling()
# What MotionLLM's command line and demo answer with.
MOTIONLLM = Sampling(temperature=0.8, top_k=200, max_new_tokens=200)
PRESETS = {'greedy': GREEDY, 'motionllm': MOTIONLLM}


def preset(name: str) -> Sampling:
  """The Sampling of that name in PRESETS."""
  if name not in PRESETS:
    raise ValueError(
      f'Expected sampling to be one of {", ".join(PRESETS)}, found {name!r}; '
      'use one of these, or make a generate.Sampling.'
    )
  return PRESETS[name]


def sample(
  logits_BV: jax.Array, sampling: Sampling, key: jax.Array
) -> jax.Array:
  """int32 [B]; `key` does not matter when the temperature is 0."""
  if sampling.temperature == 0:
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
  if 0 < sampling.top_k < logits_BV.shape[-1]:
    worst_B1 = jax.lax.top_k(logits_BV, sampling.top_k)[0][:, -1:]
    # Strictly below: ties for the last place all stay.
    logits_BV = jnp.where(logits_BV < worst_B1, -jnp.inf, logits_BV)
  scaled_BV = logits_BV / sampling.temperature
  return jax.random.categorical(key, scaled_BV).astype(jnp.int32)


class Output(NamedTuple):
  """Answers, and what it takes to go on with the conversation.

  Attributes:
    tokens: int32 [B, max_new_tokens]; zero from `lengths` on.
    lengths: int32 [B]; the end token counts where there is one. 0 for a row
      without a prompt.
    last: int32 [B], each row's newest token. The cache does not hold it yet,
      because nothing had to be predicted from it. -1 where there is none.
    cache: everything before `last`, prompt included.
  """

  tokens: jax.Array
  lengths: jax.Array
  last: jax.Array
  cache: attention.Cache


class _State(NamedTuple):
  step: jax.Array  # tokens drawn so far
  tokens_BL: jax.Array
  lengths_B: jax.Array
  last_B: jax.Array  # the newest token, not in the cache
  is_done_B: jax.Array
  cache: attention.Cache


def generate(
  model: vimonet.Vimonet,
  variables: Any,
  batch: vimonet.Batch,
  *,
  eos_id: int,
  max_new_tokens: int | None = None,
  cache_length: int | None = None,
  previous: Output | None = None,
  sampling: Sampling = GREEDY,
  key: jax.Array | None = None,
  logits_fn: LogitsFn | None = None,
) -> Output:
  """Answers each row's prompt, or next turn.

  A row stops after its end token, after max_new_tokens, or when its cache is
  full; the loop stops when all rows have.

  Args:
    model: is asked to prefill and decode.
    variables: for model.apply, or with layers from vimonet.unstack.
    batch: one segment a row, padded on the right: tokens, segment_ids,
      media_index and the media. With `previous` only what is new: the next
      turn, without what came before and without media seen before. A row that
      is all padding is left alone.
    eos_id: the end token.
    max_new_tokens: most tokens of an answer; None for those of `sampling`.
    cache_length: slots of a new cache; None is enough for this turn alone. What
      has no slot is lost, so a next turn must fit into what is left.
    previous: the output of the turn before.
    sampling: how to draw.
    key: for draws; may be None when greedy.
    logits_fn: changes scores before every draw, as a watermark does.
  """

  def apply(*args, method: str):
    return model.apply(vimonet.stack(variables), *args, method=method)

  if max_new_tokens is None:
    max_new_tokens = sampling.max_new_tokens
  B, L = batch['tokens'].shape
  prompt_B = jnp.sum(batch['segment_ids'] > 0, axis=1)
  has_prompt_B = prompt_B > 0
  if previous is None:
    length = L + max_new_tokens if cache_length is None else cache_length
    if length < L:
      raise ValueError(
        f'Expected a cache as long as the prompts, {L} tokens, found '
        f'{length}; raise cache_length or shorten the prompts.'
      )
    cache = attention.init_cache(model.config.llm, B, length)
    last_B = jnp.full(B, -1, jnp.int32)
    logits_BV, cache = apply(batch, cache, method='prefill')
  else:
    last_B = previous.last
    _, cache = apply(
      last_B,
      has_prompt_B & (last_B >= 0),
      previous.cache,
      method='decode',
    )
    logits_BV, cache = apply(batch, cache, method='prefill_more')
  key = jax.random.key(0) if key is None else key

  def draw(logits_BV: jax.Array, state: _State) -> _State:
    if logits_fn is not None:
      logits_BV = logits_fn(logits_BV, state.last_B)
    drawn_B = sample(logits_BV, sampling, jax.random.fold_in(key, state.step))
    is_active_B = ~state.is_done_B
    has_no_slot_B = state.cache.length >= state.cache.k.shape[3]
    return state._replace(
      step=state.step + 1,
      tokens_BL=state.tokens_BL.at[:, state.step].set(
        jnp.where(is_active_B, drawn_B, 0)
      ),
      lengths_B=state.lengths_B + is_active_B,
      last_B=jnp.where(is_active_B, drawn_B, state.last_B),
      is_done_B=state.is_done_B | (drawn_B == eos_id) | has_no_slot_B,
    )

  def proceed(state: _State) -> jax.Array:
    return (state.step < max_new_tokens) & ~jnp.all(state.is_done_B)

  def advance(state: _State) -> _State:
    logits_BV, cache = apply(
      state.last_B, ~state.is_done_B, state.cache, method='decode'
    )
    return draw(logits_BV, state._replace(cache=cache))

  end_B1 = jnp.maximum(prompt_B - 1, 0)[:, None]
  end_B = jnp.take_along_axis(batch['tokens'], end_B1, axis=1)[:, 0]
  start = _State(
    step=jnp.zeros((), jnp.int32),
    tokens_BL=jnp.zeros((B, max_new_tokens), jnp.int32),
    lengths_B=jnp.zeros(B, jnp.int32),
    last_B=jnp.where(has_prompt_B, end_B, last_B),
    is_done_B=~has_prompt_B,
    cache=cache,
  )
  end = jax.lax.while_loop(proceed, advance, draw(logits_BV, start))
  return Output(end.tokens_BL, end.lengths_B, end.last_B, end.cache)
