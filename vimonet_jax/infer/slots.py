"""Answers that begin and end at different times, in one batch.

    free    slot 0  . . . what is it </s> | . . . who walks
    places  slot 1  . . . . . . . he turns left and then
            slot 2                . . . it is

Every answer has a row of generate.Rows to itself for as long as it is written;
then another one takes its place. Prompts are read in batches of their own, and
what they leave is copied.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vimonet_jax import cluster
from vimonet_jax.data import packing, tokenizer
from vimonet_jax.infer import clips, engine, generate
from vimonet_jax.models import attention, vimonet


class New(NamedTuple):
  """How an answer is to be written; see generate.Sampling.

  Attributes:
    sampling: how its tokens are drawn, and how many there may be.
    seed: of the draws.
  """

  sampling: generate.Sampling
  seed: int = 0


class Step(NamedTuple):
  """What has been written to some slots.

  Attributes:
    tokens: of each, its new ones, int32 [n].
    is_open: bool of each, whether more will come.
    has_ended: bool of each, whether its last one is the end token.
  """

  tokens: list[np.ndarray]
  is_open: np.ndarray
  has_ended: np.ndarray


def padded(shape: packing.RowShape) -> int:
  """How long a slot has to be for what a prompt of such a shape leaves."""
  return _room(shape.length)


def _room(length: int) -> int:
  """Of a prompt's cache: a full one would end its answer at once."""
  return engine.round_up(length + 1)


class Slots:
  """Rows on the device, as many and as long as they need to be.

  `fit` makes them more or fewer, longer or shorter. Each size is compiled once.

  Attributes:
    size: S, how many there are.
    length: tokens that each has room for.
  """

  def __init__(
    self,
    asked: engine.Engine,
    *,
    logits_fn: generate.LogitsFn | None = None,
  ):
    """Begins without any.

    Args:
      asked: the model.
      logits_fn: changes scores before every draw, as a watermark does.
    """
    self._asked = asked
    self._logits_fn = generate.as_argument(logits_fn)
    self._rows: generate.Rows | None = None
    self._drawn: np.ndarray = np.zeros(0, np.int32)
    self.size = self.length = 0

  def begin(
    self,
    batch: packing.Batch,
    banks: Sequence[clips.Banks],
    new: Sequence[New],
    places: Sequence[int],
  ) -> Step:
    """Reads prompts and writes their answers' first tokens.

    Args:
      batch: from batches.words_of; rows left over are empty.
      banks: of each prompt's clips, from Clips.banks, alike in shape.
      new: how each answer is to be written.
      places: a slot for each, which nobody else has.

    Returns:
      Step of these places, in their order.
    """
    rows_in_batch, length = batch['tokens'].shape
    most_B = np.zeros(rows_in_batch, np.int32)
    most_B[: len(new)] = [x.sampling.max_new_tokens for x in new]
    # Rows left over have no place that looks at one.
    unused = [banks[0]] * (rows_in_batch - len(banks))
    begun = self._asked.call(
      functools.partial(
        _begin(self._asked.bundle.model),
        cache_length=_room(length),
      ),
      batch,
      (*banks, *unused),
      most_B,
      _how(new, rows_in_batch),
      self._logits_fn,
    )
    places_B = np.full(rows_in_batch, self.size, np.int32)
    places_B[: len(places)] = places
    self._rows = _put(self._rows, begun, places_B)
    last, drawn, is_open = cluster.fetch(
      (begun.last, begun.drawn, begun.is_open)
    )
    number = len(new)
    self._drawn[list(places)] = drawn[:number]
    return Step(
      [last[b : b + 1] for b in range(number)],
      is_open[:number],
      last[:number] == tokenizer.EOS,
    )

  def advance(self, places: Sequence[int], steps: int) -> Step:
    """Writes up to `steps` more tokens into slots that are open.

    Args:
      places: those that go on; the others are closed.
      steps: is compiled in.

    Returns:
      Step of these places, in their order.
    """
    places = list(places)
    keep = np.zeros(self.size, bool)
    keep[places] = True
    step = _advance(self._asked.bundle.model, steps)
    self._rows, tokens_BL = self._asked.call(
      step, self._rows, keep, self._logits_fn
    )
    tokens, last, drawn, is_open = cluster.fetch(
      (tokens_BL, self._rows.last, self._rows.drawn, self._rows.is_open)
    )
    counts = drawn - self._drawn
    self._drawn = drawn.copy()
    return Step(
      [tokens[i, : counts[i]] for i in places],
      is_open[places],
      last[places] == tokenizer.EOS,
    )

  def fit(self, size: int, length: int, kept: Sequence[int]) -> None:
    """As many slots of such a length, of which the first are those `kept`."""
    drawn = np.zeros(size, np.int32)
    if not kept:
      self._rows = None  # So that both are never there together.
      self._rows = _empty(self._asked.bundle.model.llm, size, length)
      if self._logits_fn is not None:
        before = generate.nothing_before(size)
        self._rows = self._rows._replace(before=before)
    else:
      places_B = np.full(size, self.size, np.int32)
      places_B[: len(kept)] = kept
      drawn[: len(kept)] = self._drawn[list(kept)]
      self._rows = _resize(self._rows, places_B, length=length)
    self._drawn, self.size, self.length = drawn, size, length


def _how(new: Sequence[New], rows: int) -> generate.Drawing:
  """In the order of the batch; rows left over are greedy."""
  sampling = [x.sampling for x in new]
  sampling += [generate.GREEDY] * (rows - len(new))
  seeds_B = np.zeros(rows, np.uint32)
  seeds_B[: len(new)] = [x.seed % 2**32 for x in new]
  return generate.Drawing(
    temperature=np.float32([x.temperature for x in sampling]),
    top_k=np.int32([x.top_k for x in sampling]),
    top_p=np.float32([x.top_p for x in sampling]),
    key=_keys(seeds_B),
  )


@jax.jit
def _keys(seeds_B: jax.Array) -> jax.Array:
  """That of Engine.answer for one record with such a seed."""
  return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 0))(
    seeds_B
  )


@functools.partial(jax.jit, static_argnames=('config', 'size', 'length'))
def _empty(config: Any, size: int, length: int) -> generate.Rows:
  zeros = jnp.zeros(size, jnp.int32)
  return generate.Rows(
    cache=attention.init_cache(config, size, length),
    last=zeros,
    drawn=zeros,
    most=zeros,
    is_open=jnp.zeros(size, bool),
    how=generate.Drawing(
      temperature=jnp.zeros(size, jnp.float32),
      top_k=zeros,
      top_p=jnp.ones(size, jnp.float32),
      key=jax.vmap(jax.random.key)(zeros),
    ),
  )


@functools.cache
def _begin(model: vimonet.Config):
  def begin(variables, batch, banks, most, how, logits_fn, cache_length):
    if banks[0]:
      batch |= {'bank': jnp.stack([jnp.concatenate(bank) for bank in banks])}
    return generate.begin(
      vimonet.Vimonet(model),
      variables,
      batch,
      eos_id=tokenizer.EOS,
      most=most,
      cache_length=cache_length,
      how=how,
      logits_fn=logits_fn,
    )

  return jax.jit(begin, static_argnames='cache_length')


@functools.cache
def _advance(model: vimonet.Config, steps: int):
  def advance(variables, rows, keep, logits_fn):
    return generate.advance(
      vimonet.Vimonet(model),
      variables,
      rows._replace(is_open=rows.is_open & keep),
      eos_id=tokenizer.EOS,
      steps=steps,
      logits_fn=logits_fn,
    )

  return jax.jit(advance, donate_argnames='rows')


@functools.partial(jax.jit, donate_argnames='rows')
def _put(
  rows: generate.Rows, new: generate.Rows, places_B: jax.Array
) -> generate.Rows:
  """Rows in the places of others; a place that there is not is nowhere."""
  over = functools.partial(_over, places_B=places_B)
  cache = rows.cache._replace(
    k=jax.tree.map(over, rows.cache.k, new.cache.k),
    v=jax.tree.map(over, rows.cache.v, new.cache.v),
    length=rows.cache.length.at[places_B].set(new.cache.length, mode='drop'),
  )
  others = jax.tree.map(
    lambda old, x: old.at[places_B].set(x, mode='drop'),
    rows._replace(cache=None),
    new._replace(cache=None),
  )
  return others._replace(cache=cache)


def _over(old: jax.Array, new: jax.Array, places_B: jax.Array) -> jax.Array:
  """Slots beyond those of the new are never looked at before they are set."""
  length = new.shape[3]
  return old.at[:, places_B, :, :length].set(new, mode='drop')


@functools.partial(jax.jit, static_argnames='length')
def _resize(
  rows: generate.Rows, places_B: jax.Array, *, length: int
) -> generate.Rows:
  """Rows from other places; those that there are not, `advance` closes."""

  def take(x, axis=0):
    return jnp.take(x, places_B, axis, mode='clip')

  def fit(x):
    x = take(x, axis=1)[..., :length, :]
    return jnp.pad(x, [(0, 0)] * 3 + [(0, length - x.shape[3]), (0, 0)])

  cache = rows.cache._replace(
    k=jax.tree.map(fit, rows.cache.k),
    v=jax.tree.map(fit, rows.cache.v),
    length=take(rows.cache.length),
  )
  others = jax.tree.map(take, rows._replace(cache=None))
  return others._replace(cache=cache)
