import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vimonet_jax.audit import watermark
from vimonet_jax.data import records, tokenizer
from vimonet_jax.infer import conversation, engine, generate, scheduler

SECRET = b'0123456789abcdef'
MARK = watermark.from_secret(SECRET, delta=2.0)
WARM = generate.Sampling(temperature=1.5, max_new_tokens=40)


@pytest.fixture(scope='module')
def asking(tiny_model):
  return engine.Engine.load(f'{tiny_model.workdir}/model')


def _asked(number):
  return [
    records.Record(str(i), 'people', 'test', turns=(records.Turn('Why?', ''),))
    for i in range(number)
  ]


@functools.cache
def _scores():
  return 3 * jax.random.normal(jax.random.key(0), (4, 300))


def test_colours_are_those_that_text_was_marked_with():
  """If these change, text of before is not found any more."""
  cipher = watermark.Watermark((0, 0), gamma=0x6B20015A / 2**32)
  # Threefry-2x32 of zeros with key zero begins with 6b200159 (Random123).
  assert cipher.is_green(0, 0)
  assert not dataclasses.replace(cipher, gamma=0x6B200159 / 2**32).is_green(
    0, 0
  )
  green = MARK.is_green(7, np.arange(300))
  assert np.flatnonzero(green)[:8].tolist() == [2, 3, 4, 5, 6, 8, 9, 14]


def test_a_share_gamma_is_green_behind_any_token_with_any_key():
  for gamma in (0.25, 0.5):
    for secret in range(20):
      mark = watermark.from_secret(b'%016d' % secret, gamma=gamma)
      green = mark.is_green(np.arange(-1, 49)[:, None], np.arange(200))
      z = (green.sum() - gamma * 1e4) / np.sqrt(gamma * (1 - gamma) * 1e4)
      assert abs(z) < 4
      # No token is green for all that come before it, or for none.
      assert green.mean(0).min() > 0
      assert green.mean(0).max() < 1


def test_green_words_are_likelier_and_the_end_is_as_likely_as_before():
  logits_BV, previous_B = _scores(), jnp.array([-1, 5, 5, 9])
  marked_BV = jax.jit(MARK)(logits_BV, previous_B)
  before_BV, after_BV = map(jax.nn.softmax, (logits_BV, marked_BV))
  end = tokenizer.EOS
  np.testing.assert_allclose(after_BV[:, end], before_BV[:, end], rtol=1e-5)
  green_BV = MARK.is_green(previous_B[:, None], np.arange(300))
  odds_BV = (after_BV / before_BV)[:, end + 1 :]
  is_green_BV = np.asarray(green_BV)[:, end + 1 :]
  assert np.all(odds_BV[is_green_BV] > 1)
  assert np.all(odds_BV[~is_green_BV] < 1)
  rise = np.log(odds_BV[0][is_green_BV[0]][0] / odds_BV[0][~is_green_BV[0]][0])
  want = MARK.delta * stats.entropy(before_BV[0])
  np.testing.assert_allclose(rise, want, rtol=1e-4)
  # Colours depend on what comes before.
  assert np.any(green_BV[0] != green_BV[1])
  assert np.all(green_BV[1] == green_BV[2])


def test_what_is_certain_is_not_touched():
  green, other = (
    int(np.flatnonzero(MARK.is_green(5, np.arange(300)) == x)[9])
    for x in (True, False)
  )
  logits_BV = jnp.zeros((2, 300)).at[:, other].set(jnp.array([4.0, 12.0]))
  before_BV = jax.nn.softmax(logits_BV)
  after_BV = jax.nn.softmax(MARK(logits_BV, jnp.array([5, 5])))
  assert after_BV[0, other] < 0.01 < before_BV[0, other]
  assert after_BV[1, other] > 0.99 * before_BV[1, other]
  assert after_BV[1, green] > before_BV[1, green]


@functools.cache
def _drawn(mark, rows=50, length=40, seed=0):
  """Sequences from a model of uncertain words, with a mark or without."""
  table_VV = 2 * jax.random.normal(jax.random.key(9), (200, 200))

  def step(last_B, key):
    logits_BV = table_VV[last_B]
    if mark is not None:
      logits_BV = mark(logits_BV, last_B)
    next_B = jax.random.categorical(key, logits_BV)
    return next_B, next_B

  keys = jax.random.split(jax.random.key(seed), length)
  first_B = jnp.arange(3, 3 + rows)
  return np.asarray(jax.lax.scan(step, first_B, keys)[1]).T


def test_marked_text_is_found_with_its_key_only():
  marked = _drawn(MARK)
  assert watermark.detect(marked, MARK).z > 20
  one = watermark.detect(marked[:1], MARK)
  assert one.p < 1e-4
  others = [watermark.from_secret(b'%016d' % i) for i in range(300)]
  p = [watermark.detect(marked[:5], x).p for x in others]
  # As uniform as p of whole numbers can be: never too small too often.
  assert stats.kstest(p, 'uniform', alternative='greater').pvalue > 0.01
  assert np.mean(np.array(p) < 0.01) <= 0.02
  assert 0.45 < np.mean(p) < 0.6


def test_unmarked_text_is_green_as_often_as_chance_has_it():
  z = []
  for secret in range(200):
    mark = watermark.from_secret(b'%016d' % secret)
    z.append(watermark.detect(_drawn(None)[:5], mark).z)
  assert abs(np.mean(z)) < 4 / np.sqrt(200)
  assert 0.85 < np.std(z) < 1.15


def test_pairs_count_once_and_what_says_nothing_does_not():
  assert watermark.detect([], MARK) == (0.0, 1.0, 0, 0, 0)
  assert watermark.detect([[], [5]], MARK) == (0.0, 1.0, 0, 0, 0)
  assert watermark.detect([[5, tokenizer.EOS]], MARK).scored == 0
  once = watermark.detect([[5, 6]], MARK)
  assert (once.scored, once.tokens) == (1, 1)
  again = watermark.detect([[5, 6, 5, 6], [5, 6]], MARK)
  assert (again.scored, again.tokens) == (2, 4)
  assert again.p == stats.binom.sf(again.green - 1, 2, MARK.gamma)


def test_who_asks_a_model_gets_marked_answers(asking):
  def answers(mark):
    with scheduler.Scheduler(asking, max_rows=8, logits_fn=mark) as together:
      asked = [
        together.ask(scheduler.Question(x, WARM, seed=i))
        for i, x in enumerate(_asked(8))
      ]
      return [x.result().text for x in asked]

  def found(texts):
    return watermark.detect(watermark.encode(texts, asking.bundle.layout), MARK)

  marked = answers(MARK)
  assert found(marked).z > 5
  # The same whoever makes the mark: it is compiled once.
  assert answers(watermark.from_secret(SECRET, delta=2.0)) == marked
  plain = answers(None)
  assert abs(found(plain).z) < 3
  assert plain == [
    asking.answer([x], sampling=WARM, seed=i)[0]
    for i, x in enumerate(_asked(8))
  ]


def test_who_talks_gets_marked_answers(asking):
  said = {
    mark: conversation.Conversation(
      asking, _asked(1)[0], sampling=WARM, logits_fn=mark
    ).ask('Why?')
    for mark in (None, MARK)
  }
  marked = watermark.encode([said[MARK]], asking.bundle.layout)
  assert watermark.detect(marked, MARK).p < 0.01
  assert said[None] != said[MARK]


def test_off_is_the_same_program(asking):
  import presets

  mark = watermark.from_config(presets.load('tiny'))
  assert mark is None
  _, batch = next(asking.in_batches(_asked(1)))

  def lowered(**settings):
    answer = engine._compiled(asking.bundle.model)
    return answer.lower(
      asking._variables, batch, sampling=WARM, **settings
    ).as_text()

  assert lowered(logits_fn=mark) == lowered()
  assert lowered(logits_fn=MARK) != lowered()


def test_settings_come_from_the_configuration_and_the_secret_from_a_file(
  tmp_path,
):
  import presets

  path = tmp_path / 'mark.key'
  path.write_bytes(SECRET + b'\n')
  config = presets.load(
    'tiny',
    watermark__key_file=str(path),
    watermark__gamma=0.25,
    watermark__delta=3.0,
  )
  mark = watermark.from_config(config)
  assert mark == watermark.from_secret(SECRET, gamma=0.25, delta=3.0)
  assert hash(mark) == hash(watermark.from_config(config))
  assert SECRET.decode() not in f'{mark} {mark.name} {config}'
  assert str(mark.key[0]) not in repr(mark)
  assert mark.name != dataclasses.replace(mark, gamma=0.5).name
  path.write_bytes(b'short')
  with pytest.raises(ValueError, match='16 bytes or more, found 5'):
    watermark.from_config(config)
  with pytest.raises(FileNotFoundError):
    watermark.from_config(
      presets.load('tiny', watermark__key_file=str(tmp_path / 'none'))
    )


@pytest.mark.parametrize(
  ('settings', 'sentence'),
  [
    ({'gamma': 0.0}, 'gamma between 0 and 1, found 0.0'),
    ({'gamma': 1.0}, 'gamma between 0 and 1, found 1.0'),
    ({'gamma': 1 - 1e-12}, 'gamma between 0 and 1, found 0.999999999999'),
    ({'delta': 0.0}, 'delta above 0, found 0.0'),
    ({'delta': float('inf')}, 'delta above 0, found inf'),
  ],
)
def test_settings_that_are_none_are_refused(settings, sentence):
  with pytest.raises(ValueError, match=sentence):
    watermark.from_secret(SECRET, **settings)
