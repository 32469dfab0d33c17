import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import traverse_util
from scipy import stats

from vimonet_jax.infer import generate
from vimonet_jax.models import vimonet

MODEL = vimonet.Vimonet(small.CONFIG)
LENGTHS = (5, 8, 0, 3)
NEVER = 99


@functools.cache
def variables():
  shapes = jax.eval_shape(
    functools.partial(MODEL.init, method=lambda m, b: m.logits(m(b))),
    jax.random.key(0),
    prompts(),
  )
  flat = small.params(shapes['params'], 0.4)
  return {'params': traverse_util.unflatten_dict(flat, sep='/')}


def prompts(lengths=LENGTHS, seed=0, media=True):
  """Right-padded prompts; each that is not empty has a motion token."""
  rng = np.random.default_rng(seed)
  batch = {
    'tokens': rng.integers(1, 24, (4, 8), np.int32),
    'segment_ids': np.int32(np.arange(8) < np.array(lengths)[:, None]),
    'media_index': np.full((4, 8), -1, np.int32),
  }
  batch['tokens'] *= batch['segment_ids']
  batch['positions'] = np.tile(np.arange(8, dtype=np.int32), (4, 1))
  if media:
    batch['media_index'][:, 1] = np.where(np.array(lengths) > 1, 2, -1)
    motion = rng.normal(size=(4, 1, 16, 263)).astype(np.float32)
    batch['motion'] = motion
    batch['motion_length'] = np.full((4, 1), 16, np.int32)
  return batch


@functools.cache
def compiled(**options):
  run = functools.partial(generate.generate, MODEL, **options)
  return jax.jit(run, static_argnames=('sampling',))


def run(batch, *, eos_id=NEVER, max_new_tokens=6, cache_length=32, **rest):
  fixed = {'max_new_tokens': max_new_tokens, 'cache_length': cache_length}
  return compiled(**fixed)(variables(), batch, eos_id=eos_id, **rest)


def test_layers_that_no_loop_goes_over_are_never_taken_out_of_a_stack():
  llm = dataclasses.replace(small.CONFIG.llm, unroll=small.CONFIG.llm.layers)
  config = dataclasses.replace(small.CONFIG, llm=llm)
  answer = jax.jit(
    functools.partial(
      generate.generate, vimonet.Vimonet(config), eos_id=NEVER, max_new_tokens=6
    )
  )
  flat = traverse_util.flatten_dict(variables()['params'], sep='/')
  divided = vimonet.unstack(flat, config)
  assert isinstance(divided['llm/blocks/mlp/up/kernel'], tuple)
  divided = {'params': traverse_util.unflatten_dict(divided, sep='/')}
  want = run(prompts(), cache_length=None)
  found = answer(divided, prompts())
  assert np.array_equal(found.tokens, want.tokens)
  keys = np.concatenate(found.cache.k)
  np.testing.assert_allclose(keys, want.cache.k[0], atol=1e-5)

  def stacks(variables, shape):
    text = answer.lower(variables, prompts()).compile().as_text()
    return f'f32[{",".join(map(str, shape))}]' in text

  kernel = flat['llm/blocks/mlp/up/kernel'].shape
  assert stacks(variables(), kernel)
  assert not stacks(divided, kernel)
  # Nor is its cache, which every token would copy.
  assert len(found.cache.k) == llm.layers
  assert not stacks(divided, keys.shape)


def test_a_loop_over_layers_keeps_their_stacks():
  assert small.CONFIG.llm.unroll < small.CONFIG.llm.layers
  flat = traverse_util.flatten_dict(variables()['params'], sep='/')
  kept = vimonet.unstack(flat, small.CONFIG)
  assert all(kept[path] is flat[path] for path in flat)


@functools.cache
def forward():
  return jax.jit(
    lambda v, batch: MODEL.apply(v, batch, method=lambda m, b: m.logits(m(b)))
  )


def greedy_by_hand(batch, steps):
  """The best token of a full forward pass, again and again: [B, steps]."""
  rows = {
    name: np.pad(x, ((0, 0), (0, 24)), constant_values=-(name[0] == 'm'))
    if x.shape == (4, 8)
    else x
    for name, x in batch.items()
  }
  rows['positions'] = np.tile(np.arange(32, dtype=np.int32), (4, 1))
  end = rows['segment_ids'].sum(1)
  found = np.zeros((4, steps), np.int32)
  for i in range(steps):
    logits = np.asarray(forward()(variables(), rows))
    for b in np.flatnonzero(end):
      token = logits[b, end[b] - 1].argmax()
      found[b, i] = rows['tokens'][b, end[b]] = token
      rows['segment_ids'][b, end[b]] = 1
      end[b] += 1
  return found


def test_greedy_is_the_argmax_of_repeated_full_forward_passes():
  output = run(prompts())
  want = greedy_by_hand(prompts(), 6)
  np.testing.assert_array_equal(output.tokens, want)
  assert output.lengths.tolist() == [6, 6, 0, 6]
  np.testing.assert_array_equal(output.last, [*want[:2, 5], -1, want[3, 5]])
  # The newest token is not read, and padding is not kept.
  assert output.cache.length.tolist() == [10, 13, 0, 8]


def test_rows_of_very_different_lengths_answer_as_each_alone():
  lengths = (1, 8, 3, 2)
  together = prompts(lengths)
  output = run(together)
  assert output.lengths.tolist() == [6] * 4
  assert len(np.unique(output.tokens, axis=0)) == 4
  for b, length in enumerate(lengths[:2]):
    # No other rows at all, and no padding.
    alone = {
      name: x[b : b + 1, :length] if x.shape == (4, 8) else x[b : b + 1]
      for name, x in together.items()
    }
    found = run(alone)
    np.testing.assert_array_equal(found.tokens[0], output.tokens[b])
    assert found.cache.length[0] == output.cache.length[b]


def test_a_row_stops_after_its_end_token_and_the_others_go_on():
  free = np.asarray(run(prompts()).tokens)
  eos_id = int(free[0, 1])
  output = run(prompts(), eos_id=eos_id)
  for b in range(4):
    ends = np.flatnonzero(free[b] == eos_id)
    length = 0 if b == 2 else ends[0] + 1 if len(ends) else 6
    assert output.lengths[b] == length
    want = np.where(np.arange(6) < length, free[b], 0)
    np.testing.assert_array_equal(output.tokens[b], want)


def test_it_stops_when_all_rows_are_done():
  @functools.cache
  def counting():
    seen = []

    def count(logits, before):
      jax.debug.callback(lambda: seen.append(1))
      return logits.at[:, 7].set(1e9)

    return seen, jax.jit(
      functools.partial(
        generate.generate, MODEL, max_new_tokens=6, logits_fn=count
      )
    )

  seen, answer = counting()
  output = answer(variables(), prompts(), eos_id=7)
  jax.effects_barrier()
  assert output.lengths.tolist() == [1, 1, 0, 1]
  assert len(seen) == 1


def test_a_plain_function_sees_the_last_tokens_of_its_answer():
  def count_on(logits_BV, before_BN):
    # The newest three of four, each in a place of its own.
    want_B = before_BN[:, 3] + 3 * before_BN[:, 2] + 5 * before_BN[:, 1] + 11
    return jax.nn.one_hot(want_B % 20 + 1, logits_BV.shape[-1])

  def follow(number):
    said = [generate.NO_TOKEN] * 4
    for _ in range(number):
      said.append((said[-1] + 3 * said[-2] + 5 * said[-3] + 11) % 20 + 1)
    return said[4:]

  asked = generate.as_argument(count_on)
  first = run(prompts(), logits_fn=asked, max_new_tokens=8)
  second = run(
    prompts((2, 4, 0, 0), seed=1, media=False), previous=first,
    logits_fn=asked, max_new_tokens=8, cache_length=None,
  )  # fmt: skip
  for output, rows in ((first, (0, 1, 3)), (second, (0, 1))):
    for b in rows:
      assert output.tokens[b].tolist() == follow(8)


def test_a_full_cache_ends_a_row():
  output = run(prompts(), cache_length=9)
  # Slots for 4 more tokens, for 1, none asked, for 6; the newest needs none.
  assert output.lengths.tolist() == [5, 2, 0, 6]
  free = run(prompts())
  np.testing.assert_array_equal(output.tokens[0, :5], free.tokens[0, :5])
  with pytest.raises(ValueError, match='as long as the prompts, 8.*found 4'):
    run(prompts(), cache_length=4)


def test_a_next_turn_goes_on_without_encoding_media_again():
  first = run(prompts())
  turn = prompts((2, 4, 0, 0), seed=1, media=False)
  second = run(turn, previous=first)
  assert second.lengths.tolist() == [6, 6, 0, 0]
  # The same conversation, read at once.
  whole = prompts()
  whole = {
    name: np.pad(x, ((0, 0), (0, 16)), constant_values=-(name[0] == 'm'))
    if x.shape == (4, 8)
    else x
    for name, x in whole.items()
  }
  whole['positions'] = np.tile(np.arange(24, dtype=np.int32), (4, 1))
  for b, start, count in ((0, 5, 2), (1, 8, 4)):
    new = [*np.asarray(first.tokens[b]), *turn['tokens'][b, :count]]
    whole['tokens'][b, start : start + len(new)] = new
    whole['segment_ids'][b, start : start + len(new)] = 1
  want = run(whole)
  np.testing.assert_array_equal(second.tokens[:2], want.tokens[:2])
  np.testing.assert_array_equal(second.cache.length[:2], want.cache.length[:2])
  # The last row had no new turn: it can still have one later.
  assert second.last[3] == first.last[3]
  assert second.cache.length[3] == first.cache.length[3]


def _probabilities(logits_V, temperature, top_k, top_p):
  """What is drawn, in NumPy: the best and who ties with the last of them."""
  weights_V = np.exp(logits_V.astype(np.float64) / temperature)
  if 0 < top_k < len(logits_V):
    weights_V[logits_V < np.sort(logits_V)[-top_k]] = 0
  shares = np.sort(weights_V[weights_V > 0] / weights_V.sum())[::-1]
  last = int(np.searchsorted(np.cumsum(shares), top_p - 1e-6))
  weights_V[weights_V < shares[last] * weights_V.sum() * (1 - 1e-6)] = 0
  return weights_V / weights_V.sum()


def _drawn(logits_V, sampling, number):
  """So many draws from the same scores."""
  how = generate.drawing(sampling, jax.random.key(0), number)
  logits_BV = jnp.tile(logits_V, (number, 1))
  return np.asarray(generate.sample(logits_BV, how, jnp.zeros(number, int)))


@pytest.mark.parametrize(
  ('temperature', 'top_k', 'top_p', 'kept'),
  [
    (1.0, 2, 1.0, 4),  # Three tie for the second place.
    (0.8, 3, 1.0, 4),
    (0.8, 7, 1.0, 7),
    (2.0, 1, 1.0, 1),
    (1.0, 0, 1.0, 8),
    (0.5, 9, 1.0, 8),
    # Their shares are 4, 2, 2, 2, 1.5, 1, 0.5 and 0.25 of 13.25.
    (1.0, 0, 0.3, 1),
    (1.0, 0, 0.31, 4),
    (1.0, 0, 0.8, 5),
    (1.0, 0, 0.98, 7),
    # Of the five that top_k leaves, the first has 4 of 11.5.
    (1.0, 5, 0.34, 1),
    (1.0, 5, 0.9, 5),
    # Cold ones have a larger share: 16 of 31.6.
    (0.5, 0, 0.5, 1),
  ],
)
def test_draws_have_the_distribution_of_what_is_kept(
  temperature, top_k, top_p, kept
):
  logits_V = np.log(np.float32([4.0, 1.0, 2.0, 2.0, 2.0, 0.5, 1.5, 0.25]))
  number = 4000
  sampling = generate.Sampling(temperature, top_k, top_p=top_p)
  drawn = _drawn(logits_V, sampling, number)
  count_V = np.bincount(drawn, minlength=8)
  expected_V = number * _probabilities(logits_V, temperature, top_k, top_p)
  is_kept_V = expected_V > 0
  assert is_kept_V.sum() == kept
  np.testing.assert_array_equal(count_V > 0, is_kept_V)
  if kept > 1:
    # The key is fixed; of others, one in a thousand would be below.
    found = stats.chisquare(count_V[is_kept_V], expected_V[is_kept_V])
    assert found.pvalue > 1e-3


def test_temperature_sharpens_the_draw():
  logits_V = np.log(np.float32([2.0, 1.0]))
  for temperature, want in ((1.0, 2 / 3), (0.5, 4 / 5)):
    drawn = _drawn(logits_V, generate.Sampling(temperature), 500)
    assert np.isclose(np.mean(drawn == 0), want, atol=0.07)


def test_draws_follow_the_key():
  sampling = generate.Sampling(temperature=2.0, top_k=20)
  first, again, other = (
    np.asarray(
      run(prompts(), sampling=sampling, key=jax.random.key(seed)).tokens
    )
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


def test_presets_carry_all_there_is_to_an_answer():
  assert generate.preset('greedy') == generate.GREEDY
  assert generate.GREEDY.temperature == 0
  found = generate.preset('motionllm')
  assert (found.temperature, found.top_k) == (0.8, 200)
  assert found.max_new_tokens == 200
  with pytest.raises(
    ValueError, match="one of greedy, motionllm, found 'beam'; use one"
  ):
    generate.preset('beam')
  for wrong in ({'temperature': -1.0}, {'top_k': -1}, {'max_new_tokens': 0}):
    with pytest.raises(ValueError, match='zero or more'):
      generate.Sampling(**wrong)


def test_how_long_an_answer_can_be_is_part_of_the_sampling():
  def shape(**options):
    run = functools.partial(generate.generate, MODEL, eos_id=NEVER, **options)
    return jax.eval_shape(run, variables(), prompts()).tokens.shape

  three = generate.Sampling(max_new_tokens=3)
  assert shape(sampling=three) == (4, 3)
  # What is asked for by name counts more.
  assert shape(sampling=three, max_new_tokens=5) == (4, 5)
  assert shape() == (4, generate.GREEDY.max_new_tokens)


def test_written_in_steps_it_is_the_same_answer():
  """Rows that draw in their own way, with a room of their own."""
  how = generate.Drawing(
    temperature=jnp.float32([0.0, 1.0, 1.0, 2.0]),
    top_k=jnp.int32([0, 0, 3, 5]),
    top_p=jnp.float32([1.0, 1.0, 0.9, 1.0]),
    key=jax.random.split(jax.random.key(4), 4),
  )
  most = np.int32([6, 4, 6, 1])

  def written(steps):
    rows = generate.begin(
      MODEL, variables(), prompts(), eos_id=NEVER, most=most,
      cache_length=32, how=how,
    )  # fmt: skip
    found = [np.where(rows.drawn > 0, rows.last, 0)[:, None]]
    for number in steps:
      rows, tokens_BL = generate.advance(
        MODEL, variables(), rows, eos_id=NEVER, steps=number
      )
      found.append(np.asarray(tokens_BL))
    return np.concatenate(found, axis=1), rows

  at_once, rows = written([5])
  assert rows.drawn.tolist() == [6, 4, 0, 1]
  assert not rows.is_open.any()
  assert np.array_equal(written([2, 1, 0, 2])[0], at_once)
  greedy = run(prompts(), max_new_tokens=6).tokens
  assert np.array_equal(at_once[0], greedy[0])
  assert (at_once[1, :4] != greedy[1, :4]).any()
