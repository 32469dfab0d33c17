import sys
import types

import numpy as np
import pytest

from vimonet_jax.eval import retrieval
from vimonet_jax.motion import features


def _random(n, e=8, seed=0):
  return np.random.default_rng(seed).normal(size=(n, e))


def _means(found):
  return [estimate.mean for estimate in found.r_precision.values()]


def test_equal_embeddings_find_each_other_at_no_distance():
  pairs = _random(100)
  found = retrieval.scores(pairs, pairs, seed=0)
  assert found.r_precision == dict.fromkeys((1, 2, 3), (1, 1, 1))
  assert found.mm_dist == (0, 0, 0)
  assert (found.n, found.n_dropped) == (96, 4)
  assert (found.batch, found.repetitions) == (32, 20)


@pytest.mark.parametrize('batch', [8, 32])
def test_strangers_find_each_other_by_chance(batch):
  found = retrieval.scores(
    _random(6400, seed=1), _random(6400, seed=2), batch=batch, seed=0
  )
  for k, mean in zip((1, 2, 3), _means(found), strict=True):
    chance = k / batch
    # Four deviations of a share of 6400.
    assert abs(mean - chance) < 4 * np.sqrt(chance * (1 - chance) / 6400)


def test_distances_are_euclidean_and_ranks_counted_by_hand():
  # On a line: caption 0 has three motions nearer than its own, caption 1 none,
  # caption 2 one, caption 3 two.
  texts = np.array([[0, 0], [1, 0], [2, 0], [4, 0]])
  motions = np.array([[9, 0], [1, 0], [0.5, 0], [-1.0, 0]])
  motions[3, 1] = 12  # 13 from caption 3, as 5 and 12 make 13.
  found = retrieval.scores(texts, motions, batch=4, repetitions=3, seed=5)
  assert apart(texts, motions) == [9, 0, 1.5, 13]
  assert found.mm_dist.mean == np.mean([9, 0, 1.5, 13])
  assert _means(found) == [1 / 4, 2 / 4, 3 / 4]
  # Whatever the shuffle, there is one batch.
  assert found.mm_dist.low == found.mm_dist.high


def apart(texts, motions):
  return [float(np.hypot(*pair)) for pair in texts - motions]


def test_captions_rank_motions_and_not_the_other_way_round():
  # Motion 0 is nearest for both captions; each motion is nearer caption 0.
  texts = np.array([[0.0], [1.0]])
  motions = np.array([[0.0], [-5.0]])
  found = retrieval.scores(texts, motions, batch=2, repetitions=1)
  assert _means(found) == [1 / 2, 1, 1]
  texts = np.array([[0.0], [10.0]])
  motions = np.array([[4.0], [5.5]])
  found = retrieval.scores(texts, motions, batch=2, repetitions=1)
  assert _means(found)[0] == 1
  turned = retrieval.scores(motions + [[0], [-1]], texts, batch=2)
  assert _means(turned)[0] == 1 / 2


def test_ties_are_worth_their_share_and_no_more():
  alike = np.zeros((64, 5))
  found = retrieval.scores(alike, alike)
  assert _means(found) == pytest.approx([1 / 32, 2 / 32, 3 / 32])
  # One motion is nearer than the own one, which is as near as another.
  texts = np.array([[0.0], [8.0], [9.0]])
  motions = np.array([[2.0], [-2.0], [1.0]])
  own = retrieval.scores(texts, motions, batch=3, repetitions=1)
  # Captions 1 and 2: ranks 3 (2, 1, -2) and 2.
  assert _means(own) == pytest.approx([0, (1 / 2 + 1) / 3, 1])


def test_batches_are_shuffled_by_the_seed_alone():
  texts = _random(320, seed=1)
  motions = texts + _random(320, seed=2)
  first, again, other = (
    retrieval.scores(texts, motions, seed=seed) for seed in (0, 0, 1)
  )
  assert first == again != other
  low, high = first.r_precision[1][1:]
  assert low < first.r_precision[1].mean < high
  # Distances are those of the pairs in whatever order: nothing is left over.
  assert first.mm_dist.mean == pytest.approx(other.mm_dist.mean)


def test_the_interval_is_of_the_mean_of_the_repetitions(monkeypatch):
  values = iter([[0.0, 0.2, 0.4, 1.0], [0.2, 0.2, 0.8, 3.0]])
  monkeypatch.setattr(retrieval, '_once', lambda *_: np.array(next(values)))
  found = retrieval.scores(_random(32), _random(32), repetitions=2)
  half = 1.96 * 0.1 / np.sqrt(2)
  assert found.r_precision[1] == pytest.approx((0.1, 0.1 - half, 0.1 + half))
  assert found.r_precision[2] == pytest.approx((0.2, 0.2, 0.2))
  assert found.mm_dist == pytest.approx((2, 2 - 10 * half, 2 + 10 * half))


def test_what_fills_no_batch_is_dropped_and_another_each_time():
  texts = np.zeros((33, 1))
  motions = np.zeros((33, 1))
  motions[0] = 32  # Of 33 pairs, one is apart; it is dropped now and then.
  found = retrieval.scores(texts, motions, repetitions=200)
  assert (found.n, found.n_dropped) == (32, 1)
  assert found.mm_dist.low < 32 / 33 < found.mm_dist.high
  assert found.mm_dist.low > 0.9


@pytest.mark.parametrize(
  ('texts', 'motions', 'options', 'message'),
  [
    (_random(32), _random(31), {}, r'found \[32, 8\] and \[31, 8\]; embed'),
    (_random(32)[0], _random(32)[0], {}, r'found \[8\] and \[8\]'),
    (_random(32) * np.nan, _random(32), {}, 'infinity in 32 of 32 captions'),
    (_random(32), _random(32) * np.inf, {}, 'infinity in 32 of 32 motions'),
    (_random(31), _random(31), {}, 'batch of 1 to 31, .* found 32; give more'),
    (_random(31), _random(31), {'batch': 0}, 'batch of 1 to 31, .* found 0'),
    (_random(32), _random(32), {'repetitions': 0}, 'one repetition or more'),
  ],
)
def test_embeddings_that_cannot_be_ranked_are_refused(
  texts, motions, options, message
):
  with pytest.raises(ValueError, match=message):
    retrieval.scores(texts, motions, **options)


LEMMAS = {'walks': 'walk', 'arms': 'arm', 'left': 'leave', 'Slowly': 'slowly'}
POS = {'walks': 'VERB', 'arms': 'NOUN', 'left': 'VERB', 'Slowly': 'ADV'}


def _tagger(sentence):
  return [
    retrieval.Word(text, LEMMAS.get(text, text), POS.get(text, 'X'))
    for text in sentence.replace('.', ' .').split()
  ]


def test_generated_captions_become_lemmas_between_marks():
  text = retrieval.generated_text(
    ' Slowly walks left arms side-ways 3rd 4 walks.\n', _tagger
  )
  assert text.words[: text.length] == (
    'sos/OTHER',
    'Slowly/ADV',
    'walk/VERB',
    'left/VERB',
    'arm/NOUN',
    'sideways/X',
    'walk/VERB',
    'eos/OTHER',
  )
  assert set(text.words[text.length :]) == {'unk/OTHER'}
  assert len(text.words) == 42


def test_long_captions_are_cut_to_their_most_words():
  for number in (39, 40, 41):
    words = ['walks'] * number
    text = retrieval.generated_text(' '.join(words), _tagger)
    assert len(text.words) == 42
    assert text.length == min(number, 40) + 2
    assert text.words[text.length - 1] == 'eos/OTHER'
  real = retrieval.real_text(['walk/VERB'] * 30)
  assert len(real.words) == real.length == 22
  assert retrieval.real_text(['go/VERB']).words[:4] == (
    'sos/OTHER', 'go/VERB', 'eos/OTHER', 'unk/OTHER',
  )  # fmt: skip


def test_motions_are_normalised_and_lose_their_contacts(shared_data):
  meta = shared_data / 'motiongpt' / 'meta'
  statistics = features.Statistics(
    np.load(meta / 'mean_eval.npy'), np.load(meta / 'std_eval.npy')
  )
  motion = np.load(shared_data / 'humanml3d/new_joint_vecs/012314.npy')[:59]
  found = retrieval.evaluator_motion(motion, statistics)
  assert found.features_T259.shape == (59, 259)
  assert found.features_T259.dtype == np.float32
  assert found.length == 14
  back = found.features_T259 * statistics.std[:259] + statistics.mean[:259]
  np.testing.assert_allclose(back, motion[:, :259], atol=1e-5)
  with pytest.raises(ValueError, match=r'\[T, 263\], found \[59, 259\]'):
    retrieval.evaluator_motion(found.features_T259, statistics)


class _Counting:
  """Embeds by numbers of words and of steps."""

  def embed_texts(self, texts):
    return np.array([[text.length] for text in texts])

  def embed_motions(self, motions):
    return np.array([[motion.length] for motion in motions])


def test_an_evaluator_meets_prepared_captions_and_motions():
  motions = [np.ones((n, 263)) for n in (16, 12)]
  statistics = features.Statistics(np.zeros(263), np.ones(263))
  texts, moved = retrieval.embed(
    ['walks left', 'walks'],
    motions,
    embedder=_Counting(),
    tagger=_tagger,
    statistics=statistics,
  )
  assert (texts.tolist(), moved.tolist()) == ([[4], [3]], [[4], [3]])
  found = retrieval.scores(texts, moved, batch=2)
  assert found.r_precision[1].mean == 1


def test_a_missing_tagger_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'spacy', None)
  with pytest.raises(ImportError, match='Expected spaCy .*; pip install spacy'):
    retrieval.spacy_tagger()

  def load(model):
    raise OSError(f'[E050] cannot find {model}')

  spacy = types.SimpleNamespace(load=load)
  monkeypatch.setitem(sys.modules, 'spacy', spacy)
  with pytest.raises(ImportError, match='spacy download en_core_web_sm'):
    retrieval.spacy_tagger()

  token = types.SimpleNamespace(text='ran', lemma_='run', pos_='VERB')
  spacy.load = lambda model: lambda sentence: [token] * len(sentence.split())
  assert retrieval.spacy_tagger()('he ran') == [('ran', 'run', 'VERB')] * 2
