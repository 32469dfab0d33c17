"""Losses as sums and counts; whoever has the whole batch divides, once."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

Batch = Mapping[str, jax.Array]


class TokenLoss(NamedTuple):
  """Sums over supervised tokens; all are float32 scalars."""

  loss_sum: jax.Array
  count: jax.Array
  correct: jax.Array


def next_token_targets(batch: Batch) -> tuple[jax.Array, jax.Array]:
  """What each position must predict, and whether it must.

      tokens      = [bos  Who  ?  He  eos | bos  Why  ?  So  eos  pad]
      segment_ids = [ 1    1   1   1   1  |  2    2   2   2   2    0 ]
      loss_mask   = [ 0    0   0   1   1  |  0    0   0   1   1    0 ]
      supervised  = [ 0    0   1   1   0  |  0    0   1   1   0    0 ]

  A token is a target only of the position right before it in its own segment,
  so the first token of a segment is nobody's target and padding neither.

  Returns:
    targets_BL int32 and supervised_BL bool.
  """

  def shift(x_BL):
    return jnp.pad(x_BL[:, 1:], ((0, 0), (0, 1)))

  segment_ids_BL = batch['segment_ids']
  positions_BL = batch['positions']
  supervised_BL = (
    shift(batch['loss_mask'])
    & (segment_ids_BL > 0)
    & (shift(segment_ids_BL) == segment_ids_BL)
    & (shift(positions_BL) == positions_BL + 1)
  )
  return shift(batch['tokens']), supervised_BL


def token_loss(
  h_BLD: jax.Array,
  logits_fn: Callable[[jax.Array], jax.Array],
  batch: Batch,
  *,
  chunk: int = 64,
) -> TokenLoss:
  """Cross-entropy of the next token, without logits of the whole row.

  In every row the supervised positions are brought to the front. Then `chunk`
  positions at a time go through the vocabulary, in float32, and are computed
  again for the gradient instead of being kept. Chunks in which no row has a
  supervised position are skipped when they are reached, so the cost follows the
  answers' length, and no answer is ever too long to be counted.

  Args:
    h_BLD: final hidden states.
    logits_fn: [B, l, D] -> float32 [B, l, V].
    batch: tokens, loss_mask, segment_ids and positions, each [B, L].
    chunk: positions per row and projection; memory is B * chunk * V floats.
  """
  targets_BL, supervised_BL = next_token_targets(batch)
  # Rows stay apart, so that rows on different devices need not talk.
  order_BL = jnp.argsort(~supervised_BL, axis=1, stable=True)
  order_BL = jnp.pad(order_BL, ((0, 0), (0, -order_BL.shape[1] % chunk)))
  count_B = jnp.sum(supervised_BL, axis=1)
  is_target_BL = jnp.arange(order_BL.shape[1]) < count_B[:, None]

  def chunks(x_BL):
    """[B, L, ...] -> [L / chunk, B, chunk, ...]"""
    shape = (x_BL.shape[0], -1, chunk, *x_BL.shape[2:])
    return jnp.swapaxes(x_BL.reshape(shape), 0, 1)

  scanned = (
    chunks(jnp.take_along_axis(h_BLD, order_BL[..., None], axis=1)),
    chunks(jnp.take_along_axis(targets_BL, order_BL, axis=1)),
    chunks(is_target_BL),
  )

  def measure(h_BlD, targets_Bl, is_target_Bl):
    logits_BlV = logits_fn(h_BlD).astype(jnp.float32)
    scores_Bl = jnp.take_along_axis(logits_BlV, targets_Bl[..., None], axis=-1)
    losses_Bl = jax.nn.logsumexp(logits_BlV, axis=-1) - scores_Bl[..., 0]
    hits_Bl = jnp.argmax(logits_BlV, axis=-1) == targets_Bl
    return jnp.stack(
      [
        jnp.sum(losses_Bl, where=is_target_Bl),
        jnp.sum(hits_Bl, where=is_target_Bl, dtype=jnp.float32),
      ]
    )

  # Around the whole body: inside, the scan would keep the head once a chunk.
  @jax.checkpoint
  def body(sums, inputs):
    _, _, is_target_Bl = inputs
    found = jax.lax.cond(
      jnp.any(is_target_Bl),
      lambda: measure(*inputs),
      lambda: jnp.zeros(2, jnp.float32),
    )
    return sums + found, None

  sums, _ = jax.lax.scan(body, jnp.zeros(2, jnp.float32), scanned)
  count = jnp.sum(count_B).astype(jnp.float32)
  return TokenLoss(loss_sum=sums[0], count=count, correct=sums[1])


def smooth_l1(prediction: jax.Array, target: jax.Array) -> jax.Array:
  """Elementwise Huber loss with its corner at 1, in float32."""
  distance = jnp.abs(
    prediction.astype(jnp.float32) - target.astype(jnp.float32)
  )
  return jnp.where(distance < 1.0, 0.5 * distance**2, distance - 0.5)


# Joint positions among the 263 features. T2M-GPT weighs them once more and
# calls that its velocity loss; the columns are positions all the same.
POSITION_COLUMNS = slice(4, 67)


class MotionLoss(NamedTuple):
  """Means over all elements of a batch of windows; float32 scalars."""

  loss: jax.Array
  reconstruction: jax.Array
  position: jax.Array
  commitment: jax.Array


def motion_loss(
  decoded_BT263: jax.Array,
  motion_BT263: jax.Array,
  commitment: jax.Array,
  *,
  commitment_weight: float = 0.02,
  position_weight: float = 0.5,
) -> MotionLoss:
  """The loss of T2M-GPT (https://arxiv.org/abs/2301.06052, section 3.1).

  Args:
    decoded_BT263: what the VQ-VAE made of the windows.
    motion_BT263: the windows, normalised.
    commitment: mean squared distance between latents and their codes.
    commitment_weight: T2M-GPT's beta.
    position_weight: T2M-GPT's alpha.
  """
  errors_BT263 = smooth_l1(decoded_BT263, motion_BT263)
  reconstruction = jnp.mean(errors_BT263)
  position = jnp.mean(errors_BT263[..., POSITION_COLUMNS])
  loss = (
    reconstruction + commitment_weight * commitment + position_weight * position
  )
  return MotionLoss(loss, reconstruction, position, commitment)
