import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vimonet_jax.train import losses


def _batch(segments):
  """One row; each segment is (tokens, loss_mask), then two padding tokens."""
  row = {'tokens': [], 'loss_mask': [], 'segment_ids': [], 'positions': []}
  for index, (tokens, mask) in enumerate(segments):
    row['tokens'] += tokens
    row['loss_mask'] += mask
    row['segment_ids'] += [index + 1] * len(tokens)
    row['positions'] += range(len(tokens))
  for name in row:
    row[name] += [0, 0]
  batch = {name: np.asarray([x], np.int32) for name, x in row.items()}
  return batch | {'loss_mask': batch['loss_mask'].astype(bool)}


def _random(seed=0, rows=3, length=37, width=8, vocab=11, rate=0.3):
  rng = np.random.default_rng(seed)
  segments = np.sort(rng.integers(0, 3, (rows, length)))[:, ::-1]
  positions = np.stack(
    [
      np.concatenate([np.arange((row == s).sum()) for s in (2, 1, 0)])
      for row in segments
    ]
  )
  batch = {
    'tokens': rng.integers(0, vocab, (rows, length)),
    'loss_mask': rng.random((rows, length)) < rate,
    'segment_ids': segments,
    'positions': positions,
  }
  h_BLD = rng.normal(size=(rows, length, width)).astype(np.float32)
  kernel_DV = rng.normal(size=(width, vocab)).astype(np.float32)
  return h_BLD, kernel_DV, batch


def _plain(h_BLD, kernel_DV, batch):
  """Cross-entropy of everything at once."""
  targets_BL, supervised_BL = losses.next_token_targets(batch)
  log_p_BLV = jax.nn.log_softmax(h_BLD @ kernel_DV)
  picked_BL = jnp.take_along_axis(log_p_BLV, targets_BL[..., None], -1)[..., 0]
  correct_BL = log_p_BLV.argmax(-1) == targets_BL
  return (
    -jnp.sum(picked_BL * supervised_BL),
    supervised_BL.sum(),
    jnp.sum(correct_BL & supervised_BL),
  )


def test_the_first_token_of_a_segment_is_nobodys_target():
  batch = _batch([([5, 6, 7], [0, 1, 1]), ([8, 9], [1, 1])])
  targets, supervised = losses.next_token_targets(batch)
  # 8 is marked, but the token before it belongs to somebody else.
  assert np.asarray(supervised[0]).tolist() == [1, 1, 0, 1, 0, 0, 0]
  assert np.asarray(targets[0])[:4].tolist() == [6, 7, 8, 9]


def test_segments_with_one_number_are_kept_apart_by_positions():
  batch = _batch([([5, 6, 7], [0, 1, 1]), ([8, 9], [1, 1])])
  batch['segment_ids'] = np.minimum(batch['segment_ids'], 1)
  _, supervised = losses.next_token_targets(batch)
  assert np.asarray(supervised[0]).tolist() == [1, 1, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
  ('chunk', 'rate'), [(5, 0.0), (5, 0.3), (37, 0.3), (64, 1.0)]
)
def test_chunks_change_neither_sums_nor_gradients(chunk, rate):
  h_BLD, kernel_DV, batch = _random(rate=rate)

  def chunked(h_BLD, kernel_DV):
    found = losses.token_loss(
      h_BLD, lambda h: h @ kernel_DV, batch, chunk=chunk
    )
    return found.loss_sum, found

  def plain(h_BLD, kernel_DV):
    found = _plain(h_BLD, kernel_DV, batch)
    return found[0], found

  grads, found = jax.jit(jax.grad(chunked, (0, 1), has_aux=True))(
    h_BLD, kernel_DV
  )
  wanted_grads, wanted = jax.jit(jax.grad(plain, (0, 1), has_aux=True))(
    h_BLD, kernel_DV
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  for ours, theirs in zip(grads, wanted_grads, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_packed_row_has_the_loss_of_its_parts():
  rng = np.random.default_rng(1)
  parts = [([1, 4, 2, 6], [0, 0, 1, 1]), ([3, 5, 7], [1, 1, 1])]
  kernel_DV = rng.normal(size=(4, 9)).astype(np.float32)
  table_VD = jnp.asarray(rng.normal(size=(9, 4)), jnp.float32)

  @jax.jit
  def measure_batch(batch):
    h_BLD = table_VD[batch['tokens']]
    return losses.token_loss(h_BLD, lambda h: h @ kernel_DV, batch)

  def measure(segments):
    return measure_batch(_batch(segments))

  packed = measure(parts)
  alone = [measure([part]) for part in parts]
  np.testing.assert_allclose(packed, np.sum(alone, axis=0), rtol=1e-6)
  assert packed.count == 4


def test_unsupervised_chunks_are_not_computed():
  # One supervised token in a row of 512: all but one chunk fall away.
  h_BLD, kernel_DV, batch = _random(rows=1, length=512, rate=0.0)
  batch['segment_ids'] = np.ones_like(batch['segment_ids'])
  batch['positions'] = np.arange(512)[None]
  batch['loss_mask'][0, 400] = True
  calls = []

  def logits_fn(h):
    jax.debug.callback(lambda: calls.append(1))
    return h @ kernel_DV

  found = losses.token_loss(h_BLD, logits_fn, batch, chunk=64)
  jax.effects_barrier()
  assert found.count == 1
  assert len(calls) == 1


def test_logits_are_reduced_in_float32():
  h_BLD, kernel_DV, batch = _random()
  found = losses.token_loss(
    h_BLD.astype(jnp.bfloat16),
    lambda h: h @ kernel_DV.astype(jnp.bfloat16),
    batch,
  )
  assert {x.dtype for x in found} == {jnp.dtype('float32')}
  np.testing.assert_allclose(
    found.loss_sum, _plain(h_BLD, kernel_DV, batch)[0], rtol=0.02
  )


def test_smooth_l1_is_square_inside_one_and_straight_outside():
  error = jnp.asarray([-3.0, -0.5, 0.0, 1.0, 2.0])
  found = losses.smooth_l1(error, jnp.zeros(5))
  np.testing.assert_allclose(found, [2.5, 0.125, 0.0, 0.5, 1.5])


def test_positions_are_weighed_once_more():
  motion = jnp.zeros((2, 8, 263))
  wrong_position = motion.at[..., 4].set(2.0)
  wrong_rotation = motion.at[..., 67].set(2.0)
  rotation = losses.motion_loss(wrong_rotation, motion, jnp.float32(3.0))
  position = losses.motion_loss(wrong_position, motion, jnp.float32(3.0))
  np.testing.assert_allclose(rotation.loss, 1.5 / 263 + 0.02 * 3.0, rtol=1e-6)
  np.testing.assert_allclose(
    position.loss - rotation.loss, 0.5 * 1.5 / 63, rtol=1e-4
  )


def test_the_gradient_keeps_no_head_for_every_chunk():
  """Its memory grows with the hidden states, not with copies of the head."""

  def memory(length):
    h_BLD, kernel_DV, batch = _random(length=length, width=64, vocab=1000)

    def loss(h_BLD, kernel_DV):
      return losses.token_loss(h_BLD, lambda h: h @ kernel_DV, batch).loss_sum

    compiled = jax.jit(jax.grad(loss)).lower(h_BLD, kernel_DV).compile()
    return compiled.memory_analysis().temp_size_in_bytes - 4 * h_BLD.nbytes

  assert memory(1024) < 1.5 * memory(256)
