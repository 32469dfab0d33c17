"""Text from a model: prefill once, then one token per row at a time.

`generate` is `begin` and `advance` to the end; who streams, or lets others join
while somebody is answered, calls them one by one.

Everything here is a pure function of arrays, to be jitted by the caller with
`model`, `sampling` and the lengths held fixed (see engine.py). A LogitsFn is an
argument like the others: see `as_argument`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vimonet_jax.models import attention, vimonet

# (scores float32 [B, V], tokens before int32 [B, BEFORE]) -> scores [B, V].
# Those before are of the answer, the newest last, and NO_TOKEN where it has had
# fewer: what was asked does not count.
LogitsFn = Callable[[jax.Array, jax.Array], jax.Array]
BEFORE, NO_TOKEN = 4, -1


def as_argument(logits_fn: LogitsFn | None) -> LogitsFn | None:
  """What a jitted function takes as an argument, and does not hold fixed.

  A LogitsFn that is a pytree is one already. What it holds is data then, and in
  no compiled program, which may lie on a disk; another one with other data
  needs no other program. A plain function has no data, and is held fixed.
  """
  is_plain = jax.tree_util.all_leaves([logits_fn])
  return jax.tree_util.Partial(logits_fn) if is_plain else logits_fn


def nothing_before(rows: int) -> jax.Array:
  """What a LogitsFn sees before an answer's first token, [rows, BEFORE]."""
  return jnp.full((rows, BEFORE), NO_TOKEN, jnp.int32)


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How an answer is drawn from scores.

  Attributes:
    temperature: scores are divided by it; 0 takes the best token.
    top_k: how many tokens stay in the draw, more where several tie for the
      last place; 0 keeps all.
    top_p: the likeliest tokens that together have this probability stay in the
      draw, of those that top_k leaves; 1 keeps all.
    max_new_tokens: longest answer, where the caller names no other.
  """

  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0
  max_new_tokens: int = 128

  def __post_init__(self):
    if self.temperature < 0 or self.top_k < 0 or self.max_new_tokens < 1:
      raise ValueError(
        'Expected temperature and top_k to be zero or more and max_new_tokens '
        f'to be one or more, found {self}.'
      )
    if not 0 < self.top_p <= 1:
      raise ValueError(f'Expected top_p in (0, 1], found {self.top_p}.')


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


class Drawing(NamedTuple):
  """How each row's tokens are drawn, where rows differ; see Sampling.

  Attributes:
    temperature: float32 [B]; a row with 0 takes the best token.
    top_k: int32 [B].
    top_p: float32 [B].
    key: [B] of jax.random.key; a row's n-th token is drawn with its n-th fold,
      whoever is in the batch beside it.
  """

  temperature: jax.Array
  top_k: jax.Array
  top_p: jax.Array
  key: jax.Array


def drawing(sampling: Sampling, key: jax.Array, rows: int) -> Drawing | None:
  """Rows that draw alike; None when greedy.

  Args:
    sampling: how.
    key: one for each row, or one of which each row has a fold.
    rows: B.
  """
  if sampling.temperature == 0:
    return None
  if not key.shape:
    key = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))
  return Drawing(
    temperature=jnp.full(rows, sampling.temperature, jnp.float32),
    top_k=jnp.full(rows, sampling.top_k, jnp.int32),
    top_p=jnp.full(rows, sampling.top_p, jnp.float32),
    key=key,
  )


def sample(
  logits_BV: jax.Array, how: Drawing | None, drawn_B: jax.Array
) -> jax.Array:
  """The next token of each row, int32 [B].

  Args:
    logits_BV: float32 scores.
    how: None takes the best of each row.
    drawn_B: int32, tokens that each row has drawn before.
  """
  best_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
  if how is None:
    return best_B
  is_warm_B = how.temperature > 0

  def draw() -> jax.Array:
    warmth_B1 = jnp.where(is_warm_B, how.temperature, 1.0)[:, None]
    # Strictly below: ties for the last place all stay.
    is_out_BV = logits_BV < _worst(logits_BV, warmth_B1, how)
    scaled_BV = jnp.where(is_out_BV, -jnp.inf, logits_BV) / warmth_B1
    key_B = jax.vmap(jax.random.fold_in)(how.key, drawn_B)
    return jax.vmap(jax.random.categorical)(key_B, scaled_BV).astype(jnp.int32)

  drawn = jax.lax.cond(jnp.any(is_warm_B), draw, lambda: best_B)
  return jnp.where(is_warm_B, drawn, best_B)


def _worst(
  logits_BV: jax.Array, warmth_B1: jax.Array, how: Drawing
) -> jax.Array:
  """The score of the last token that stays in the draw, [B, 1]."""
  V = logits_BV.shape[-1]
  sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
  k_B1 = jnp.where(how.top_k > 0, jnp.minimum(how.top_k, V), V)[:, None]
  is_top_BV = jnp.arange(V) < k_B1
  share_BV = jax.nn.softmax(
    jnp.where(is_top_BV, sorted_BV / warmth_B1, -jnp.inf)
  )
  # What comes before a token in the order; the first always stays.
  before_BV = jnp.cumsum(share_BV, axis=-1) - share_BV
  is_kept_BV = is_top_BV & (before_BV < how.top_p[:, None])
  last_B1 = jnp.maximum(jnp.sum(is_kept_BV, axis=-1, keepdims=True), 1) - 1
  return jnp.take_along_axis(sorted_BV, last_B1, axis=-1)


class Rows(NamedTuple):
  """Answers that are being written, one a row.

  Attributes:
    cache: everything before `last`, prompt included.
    last: int32 [B], each row's newest token. The cache does not hold it yet,
      because nothing had to be predicted from it. -1 where there is none.
    drawn: int32 [B], tokens of the answer so far, the end token included.
    most: int32 [B], how many there may be.
    is_open: bool [B], whether another one comes.
    how: what they are drawn with; None when greedy.
    before: int32 [B, BEFORE], see LogitsFn; None where there is none.
  """

  cache: attention.Cache
  last: jax.Array
  drawn: jax.Array
  most: jax.Array
  is_open: jax.Array
  how: Drawing | None
  before: jax.Array | None = None


def begin(
  model: vimonet.Vimonet,
  variables: Any,
  batch: vimonet.Batch,
  *,
  eos_id: int,
  most: jax.Array | int,
  cache_length: int | None = None,
  previous: 'Output | None' = None,
  how: Drawing | None = None,
  logits_fn: LogitsFn | None = None,
) -> Rows:
  """Reads each row's prompt, or next turn, and draws an answer's first token.

  Args:
    model: is asked to prefill.
    variables: for model.apply, or with layers from vimonet.unstack.
    batch: see `generate`.
    eos_id: the end token.
    most: int32 [B] or one number for all, tokens of an answer.
    cache_length: slots of a new cache; None is enough for this turn alone.
    previous: the output of the turn before.
    how: what to draw with.
    logits_fn: changes scores before every draw, as a watermark does.
  """
  B, L = batch['tokens'].shape
  prompt_B = jnp.sum(batch['segment_ids'] > 0, axis=1)
  has_prompt_B = prompt_B > 0
  if previous is None:
    if cache_length is None:
      cache_length = L + int(most)
    if cache_length < L:
      raise ValueError(
        f'Expected a cache as long as the prompts, {L} tokens, found '
        f'{cache_length}; raise cache_length or shorten the prompts.'
      )
    cache = attention.init_cache(model.config.llm, B, cache_length)
    last_B = jnp.full(B, -1, jnp.int32)
    logits_BV, cache = _apply(
      model, variables, batch, cache, method='prefill'
    )
  else:
    last_B = previous.last
    _, cache = _apply(
      model, variables, last_B, has_prompt_B & (last_B >= 0), previous.cache,
      method='decode',
    )  # fmt: skip
    logits_BV, cache = _apply(
      model, variables, batch, cache, method='prefill_more'
    )
  end_B1 = jnp.maximum(prompt_B - 1, 0)[:, None]
  end_B = jnp.take_along_axis(batch['tokens'], end_B1, axis=1)[:, 0]
  rows = Rows(
    cache=cache,
    last=jnp.where(has_prompt_B, end_B, last_B),
    drawn=jnp.zeros(B, jnp.int32),
    most=jnp.broadcast_to(jnp.int32(most), B),
    is_open=has_prompt_B,
    how=how,
    before=None if logits_fn is None else nothing_before(B),
  )
  return _draw(rows, logits_BV, eos_id, logits_fn)


def advance(
  model: vimonet.Vimonet,
  variables: Any,
  rows: Rows,
  *,
  eos_id: int,
  steps: int,
  logits_fn: LogitsFn | None = None,
) -> tuple[Rows, jax.Array]:
  """Goes on with the answers that are open, until none is or `steps` are made.

  A row ends with its end token, with as many tokens as it may have, or when its
  cache is full. What ended stays as it is.

  Returns:
    The rows, and their new tokens, int32 [B, steps]: as many as `drawn` has
    grown by, then zeros.
  """

  def proceed(state) -> jax.Array:
    step, rows, _ = state
    return (step < steps) & jnp.any(rows.is_open)

  def step_on(state):
    step, rows, tokens_BL = state
    logits_BV, cache = _apply(
      model, variables, rows.last, rows.is_open, rows.cache, method='decode'
    )
    next_rows = _draw(rows._replace(cache=cache), logits_BV, eos_id, logits_fn)
    new_B = jnp.where(rows.is_open, next_rows.last, 0)
    return step + 1, next_rows, tokens_BL.at[:, step].set(new_B)

  tokens_BL = jnp.zeros((len(rows.last), steps), jnp.int32)
  if not steps:
    return rows, tokens_BL
  start = jnp.zeros((), jnp.int32), rows, tokens_BL
  _, rows, tokens_BL = jax.lax.while_loop(proceed, step_on, start)
  return rows, tokens_BL


def _apply(model: vimonet.Vimonet, variables: Any, *args, method: str):
  return model.apply(vimonet.stack(variables), *args, method=method)


def _draw(
  rows: Rows, logits_BV: jax.Array, eos_id: int, logits_fn: LogitsFn | None
) -> Rows:
  """Another token for each row that is open."""
  before_BN = rows.before
  if logits_fn is not None:
    logits_BV = logits_fn(logits_BV, before_BN)
  token_B = sample(logits_BV, rows.how, rows.drawn)
  if before_BN is not None:
    before_BN = jnp.concatenate([before_BN[:, 1:], token_B[:, None]], axis=1)
  drawn_B = rows.drawn + rows.is_open
  has_slot_B = rows.cache.length < rows.cache.slots
  return rows._replace(
    last=jnp.where(rows.is_open, token_B, rows.last),
    drawn=drawn_B,
    is_open=rows.is_open
    & (token_B != eos_id)
    & (drawn_B < rows.most)
    & has_slot_B,
    before=before_BN,
  )


class Output(NamedTuple):
  """Answers, and what it takes to go on with the conversation.

  Attributes:
    tokens: int32 [B, max_new_tokens]; zero from `lengths` on.
    lengths: int32 [B]; the end token counts where there is one. 0 for a row
      without a prompt.
    last: int32 [B], see Rows.
    cache: everything before `last`, prompt included.
  """

  tokens: jax.Array
  lengths: jax.Array
  last: jax.Array
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
  """Answers each row's prompt, or next turn, to the end.

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
    key: for draws, see `drawing`; may be None when greedy.
    logits_fn: changes scores before every draw, as a watermark does.
  """
  if max_new_tokens is None:
    max_new_tokens = sampling.max_new_tokens
  key = jax.random.key(0) if key is None else key
  rows = begin(
    model,
    variables,
    batch,
    eos_id=eos_id,
    most=max_new_tokens,
    cache_length=cache_length,
    previous=previous,
    how=drawing(sampling, key, len(batch['tokens'])),
    logits_fn=logits_fn,
  )
  first_B1 = jnp.where(rows.drawn > 0, rows.last, 0)[:, None]
  rows, more_BL = advance(
    model,
    variables,
    rows,
    eos_id=eos_id,
    steps=max_new_tokens - 1,
    logits_fn=logits_fn,
  )
  tokens_BL = jnp.concatenate([first_B1, more_BL], axis=1)
  return Output(tokens_BL, rows.drawn, rows.last, rows.cache)
