import numpy as np
import pytest

from vimonet_jax.eval import retrieval


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
  found = retrieval.scores(texts, motions, batch=2, repetitions=1, seed=0)
  assert _means(found) == [1 / 2, 1, 1]
  texts = np.array([[0.0], [10.0]])
  motions = np.array([[4.0], [5.5]])
  found = retrieval.scores(texts, motions, batch=2, repetitions=1, seed=0)
  assert _means(found)[0] == 1
  turned = retrieval.scores(motions + [[0], [-1]], texts, batch=2, seed=0)
  assert _means(turned)[0] == 1 / 2


def test_ties_are_worth_their_share_and_no_more():
  alike = np.zeros((64, 5))
  found = retrieval.scores(alike, alike, seed=0)
  assert _means(found) == pytest.approx([1 / 32, 2 / 32, 3 / 32])
  # One motion is nearer than the own one, which is as near as another.
  texts = np.array([[0.0], [8.0], [9.0]])
  motions = np.array([[2.0], [-2.0], [1.0]])
  own = retrieval.scores(texts, motions, batch=3, repetitions=1, seed=0)
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
  found = retrieval.scores(_random(32), _random(32), repetitions=2, seed=0)
  half = 1.96 * 0.1 / np.sqrt(2)
  assert found.r_precision[1] == pytest.approx((0.1, 0.1 - half, 0.1 + half))
  assert found.r_precision[2] == pytest.approx((0.2, 0.2, 0.2))
  assert found.mm_dist == pytest.approx((2, 2 - 10 * half, 2 + 10 * half))


def test_what_fills_no_batch_is_dropped_and_another_each_time():
  texts = np.zeros((33, 1))
  motions = np.zeros((33, 1))
  motions[0] = 32  # Of 33 pairs, one is apart; it is dropped now and then.
  found = retrieval.scores(texts, motions, repetitions=200, seed=0)
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
    retrieval.scores(texts, motions, seed=0, **options)
