import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vimonet_jax.audit import watermark
from vimonet_jax.data import records, tokenizer
from vimonet_jax.infer import conversation, engine, generate, scheduler, slots

SECRET = b'0123456789abcdef'
MARK = watermark.from_secret(SECRET, delta=2.0, width=3)
WIDTHS = range(1, generate.BEFORE + 1)
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
  assert cipher.is_green([0], 0)
  assert not dataclasses.replace(cipher, gamma=0x6B200159 / 2**32).is_green(
    [0], 0
  )
  before = np.array([-1, -1, 5, 7])
  for width, want in (
    (1, [2, 3, 4, 5, 6, 8, 9, 14]),
    (2, [5, 10, 12, 13, 14, 15, 19, 20]),
    (3, [0, 3, 4, 5, 6, 10, 11, 13]),
    (4, [4, 5, 7, 8, 11, 12, 15, 16]),
  ):
    mark = dataclasses.replace(MARK, width=width)
    green = mark.is_green(before, np.arange(300))
    assert np.flatnonzero(green)[:8].tolist() == want


@pytest.mark.parametrize('width', WIDTHS)
def test_as_many_tokens_before_count_as_the_mark_is_wide(width):
  mark = dataclasses.replace(MARK, width=width)
  before, tokens = np.array([9, 9, 9, 9]), np.arange(300)
  green = mark.is_green(before, tokens)
  for back in range(1, len(before) + 1):
    changed = before.copy()
    changed[-back] = 10
    differs = np.mean(mark.is_green(changed, tokens) != green)
    assert 0.4 < differs < 0.6 if back <= width else differs == 0
  # Their order counts, too.
  if width > 1:
    a, b = (mark.is_green([9, 9, *x], tokens) for x in ([9, 10], [10, 9]))
    assert 0.4 < np.mean(a != b) < 0.6


@pytest.mark.parametrize('width', WIDTHS)
def test_a_share_gamma_is_green_behind_any_token_with_any_key(width):
  for gamma in (0.25, 0.5):
    for secret in range(8):
      mark = watermark.from_secret(b'%016d' % secret, gamma=gamma, width=width)
      last = np.arange(-1, 49)[:, None, None]
      before = np.concatenate([last + 7, last * 3, last // 2, last], axis=-1)
      green = mark.is_green(before, np.arange(200))
      z = (green.sum() - gamma * 1e4) / np.sqrt(gamma * (1 - gamma) * 1e4)
      assert abs(z) < 4
      # No token is green for all that come before it, or for none.
      assert green.mean(0).min() > 0
      assert green.mean(0).max() < 1


def test_green_words_are_likelier_and_the_end_is_as_likely_as_before():
  logits_BV = _scores()
  before_BN = jnp.array([[-1] * 4, [5] * 4, [4, 5, 5, 5], [9] * 4])
  marked_BV = jax.jit(MARK)(logits_BV, before_BN)
  before_BV, after_BV = map(jax.nn.softmax, (logits_BV, marked_BV))
  end = tokenizer.EOS
  np.testing.assert_allclose(after_BV[:, end], before_BV[:, end], rtol=1e-5)
  green_BV = MARK.is_green(before_BN[:, None], np.arange(300))
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
    int(np.flatnonzero(MARK.is_green([5] * 4, np.arange(300)) == x)[9])
    for x in (True, False)
  )
  logits_BV = jnp.zeros((2, 300)).at[:, other].set(jnp.array([4.0, 12.0]))
  before_BV = jax.nn.softmax(logits_BV)
  after_BV = jax.nn.softmax(MARK(logits_BV, jnp.full((2, 4), 5)))
  assert after_BV[0, other] < 0.01 < before_BV[0, other]
  assert after_BV[1, other] > 0.99 * before_BV[1, other]
  assert after_BV[1, green] > before_BV[1, green]


@functools.cache
def _drawn(mark, rows=50, length=40, seed=0):
  """Sequences from a model of uncertain words, with a mark or without."""
  table_VV = 2 * jax.random.normal(jax.random.key(9), (200, 200))

  def step(before_BN, key):
    logits_BV = table_VV[before_BN[:, -1]]
    if mark is not None:
      logits_BV = mark(logits_BV, before_BN)
    next_B = jax.random.categorical(key, logits_BV)
    before_BN = jnp.concatenate([before_BN[:, 1:], next_B[:, None]], axis=1)
    return before_BN, next_B

  keys = jax.random.split(jax.random.key(seed), length)
  start = generate.nothing_before(rows)
  return np.asarray(jax.lax.scan(step, start, keys)[1]).T


@pytest.mark.parametrize('width', WIDTHS)
def test_marked_text_is_found_with_its_key_and_width_only(width):
  mark = dataclasses.replace(MARK, width=width)
  marked = _drawn(mark)
  assert watermark.detect(marked, mark).z > 20
  one = watermark.detect(marked[:1], mark)
  assert one.p < 1e-4
  # Nor by who takes it for wider, or for less wide, than it is.
  for other in set(WIDTHS) - {width}:
    wrong = dataclasses.replace(mark, width=other)
    assert watermark.detect(marked, wrong).z < 5


def test_other_keys_see_what_chance_has_them_see():
  marked = _drawn(MARK)
  others = [watermark.from_secret(b'%016d' % i, width=3) for i in range(300)]
  p = [watermark.detect(marked[:5], x).p for x in others]
  # As uniform as p of whole numbers can be: never too small too often.
  assert stats.kstest(p, 'uniform', alternative='greater').pvalue > 0.01
  assert np.mean(np.array(p) < 0.01) <= 0.02
  assert 0.45 < np.mean(p) < 0.6


def test_unmarked_text_is_green_as_often_as_chance_has_it():
  z = []
  for secret in range(200):
    mark = watermark.from_secret(b'%016d' % secret, width=2)
    z.append(watermark.detect(_drawn(None)[:5], mark).z)
  assert abs(np.mean(z)) < 4 / np.sqrt(200)
  assert 0.85 < np.std(z) < 1.15


def test_a_changed_word_spoils_as_many_colours_as_the_mark_is_wide():
  marked = _drawn(MARK)[:1]
  before = watermark.detect(marked, MARK)
  changed = marked.copy()
  changed[0, 20] = 199
  after = watermark.detect(changed, MARK)
  assert 0 < before.green - after.green <= MARK.width + 1


@pytest.mark.parametrize(('width', 'scored'), [(1, 4), (2, 5), (3, 6), (4, 7)])
def test_tokens_count_once_behind_the_same_and_what_says_nothing_does_not(
  width, scored
):
  mark = dataclasses.replace(MARK, width=width)
  assert watermark.detect([], mark) == (0.0, 1.0, 0, 0, 0)
  assert watermark.detect([[]], mark) == (0.0, 1.0, 0, 0, 0)
  assert watermark.detect([[tokenizer.EOS]], mark).scored == 0
  once = watermark.detect([[5, 6]], mark)
  assert (once.scored, once.tokens) == (2, 2)
  # No token of one answer is behind those of another.
  sequences = [[5, 6, 7, 5, 6, 7, 5], [5, 6]]
  again = watermark.detect(sequences, mark)
  assert (again.scored, again.tokens) == (scored, 9)
  assert again.p == stats.binom.sf(again.green - 1, scored, mark.gamma)


def test_who_asks_a_model_gets_marked_answers(asking):
  def answers(mark):
    with scheduler.Scheduler(asking, max_rows=8, logits_fn=mark) as together:
      asked = [
        together.ask(scheduler.Question(x, WARM, seed=i))
        for i, x in enumerate(_asked(8))
      ]
      return [x.result().text for x in asked]

  marked = answers(MARK)
  # As if each had been asked alone: slots keep what their tokens depend on.
  texts, tokens = zip(
    *(_alone(asking, x, i) for i, x in enumerate(_asked(8))), strict=True
  )
  assert marked == list(texts)
  assert watermark.detect(tokens, MARK).z > 5
  plain = answers(None)
  encode = asking.bundle.layout.tokenizer.encode
  assert abs(watermark.detect(map(encode, plain), MARK).z) < 3
  assert plain == [
    asking.answer([x], sampling=WARM, seed=i)[0]
    for i, x in enumerate(_asked(8))
  ]


def _alone(asking, record, seed):
  [(_, batch)] = asking.in_batches([record])
  key = jax.random.fold_in(jax.random.key(seed), 0)
  keys = jnp.stack([key] * len(batch['tokens']))
  output = asking.run(batch, sampling=WARM, key=keys, logits_fn=MARK)
  return asking.decode(output)[0], _tokens(output)


def _tokens(output):
  """Of an answer: what an untrained model says is read as other ones."""
  return np.asarray(output.tokens[0])[: output.lengths[0]]


def test_who_talks_gets_marked_answers(asking):
  talk, plain = (
    conversation.Conversation(
      asking, _asked(1)[0], sampling=WARM, logits_fn=mark
    )
    for mark in (MARK, None)
  )
  # A later answer begins with nothing before it, as the first one did.
  for _ in range(3):
    assert talk.ask('Why?') != plain.ask('Why?')
    assert watermark.detect([_tokens(talk._output)], MARK).p < 0.01


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


def test_the_key_is_in_no_program_and_all_keys_have_the_same(asking):
  """They may lie on a disk, where JAX keeps what it has compiled."""
  model = asking.bundle.model
  _, batch = next(asking.in_batches(_asked(1)))
  rows = len(batch['tokens'])
  empty = slots._empty(model.llm, rows, 128)
  empty = empty._replace(before=generate.nothing_before(rows))
  closed, how = np.zeros(rows, bool), slots._how([slots.New(WARM)], rows)

  def programs(mark):
    most, banks = np.zeros(rows, np.int32), ((),) * rows
    weights = asking._variables
    return [
      engine._compiled(model).lower(
        weights, batch, sampling=WARM, logits_fn=mark
      ),
      slots._begin(model).lower(
        weights, batch, banks, most, how, mark, cache_length=128
      ),
      slots._advance(model, 4).lower(weights, empty, closed, mark),
      jax.jit(lambda mark, *x: mark(*x)).lower(
        mark, _scores(), generate.nothing_before(4)
      ),
    ]

  texts = [x.as_text() for x in programs(MARK)]
  assert texts == [
    x.as_text()
    for x in programs(watermark.from_secret(SECRET[::-1], delta=2.0, width=3))
  ]
  for word in MARK.key:
    assert not any(str(word) in x for x in texts)
  # What is looked for would be there, were the key held fixed.
  held = jax.jit(lambda *x: MARK(*x)).lower(
    _scores(), generate.nothing_before(4)
  )
  assert all(str(word) in held.as_text() for word in MARK.key)


def test_another_key_compiles_nothing(asking):
  _, batch = next(asking.in_batches(_asked(1)))
  marks = [MARK, watermark.from_secret(SECRET[::-1], delta=2.0, width=3)]
  sizes, answers = [], []
  for mark in marks:
    output = asking.run(batch, sampling=WARM, logits_fn=mark)
    answers.append(np.asarray(output.tokens))
    sizes.append(engine._compiled(asking.bundle.model)._cache_size())
  assert sizes[0] == sizes[1]
  assert np.any(answers[0] != answers[1])


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
    watermark__width=2,
  )
  mark = watermark.from_config(config)
  assert mark == watermark.from_secret(SECRET, gamma=0.25, delta=3.0, width=2)
  assert SECRET.decode() not in f'{mark} {mark.name} {config}'
  assert str(mark.key[0]) not in repr(mark)
  for other in ({'gamma': 0.5}, {'delta': 2.0}, {'width': 3}):
    assert mark.name != dataclasses.replace(mark, **other).name
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
    ({'width': 0}, 'width from 1 to 4, found 0'),
    ({'width': 5}, 'width from 1 to 4, found 5'),
  ],
)
def test_settings_that_are_none_are_refused(settings, sentence):
  with pytest.raises(ValueError, match=sentence):
    watermark.from_secret(SECRET, **settings)
