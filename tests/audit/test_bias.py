import numpy as np
import pytest
import simulated

from vimonet_jax.audit import bias, compared


def _answers(clips, right, group, *, stratum='kind', start=0):
  """One answer a clip, of which the first `right` are right."""
  return [
    compared.Answer(float(i < right), start + i, stratum, {'size': group})
    for i in range(clips)
  ]


def _set(*groups, pairs=()):
  return compared.Set('test', [a for some in groups for a in some], pairs)


def _twins(values, *, attribute='size', groups=('large', 'small')):
  return [
    compared.Pair(attribute, groups, pair, clip, pair[0] != pair[1])
    for clip, pair in enumerate(values)
  ]


# --- What is there is found --------------------------------------------------


@pytest.mark.parametrize('seed', range(3))
def test_a_planted_bias_is_found_and_nothing_else_is(seed):
  found = bias.audit(
    [simulated.answered(seed, clips=240, planted=0.5)], draws=999
  ).found
  assert [(c.test.attribute, c.test.group) for c in found] == [
    ('size', 'large')
  ]
  (only,) = found
  assert only.points_high < 0
  assert only.p_adjusted <= 0.05


def test_false_alarms_are_as_rare_as_the_level_says():
  """Of 60 sets without any difference 12 are expected at this level."""
  level = 0.2
  false = sum(
    bool(
      bias.audit(
        [simulated.answered(seed)], level=level, draws=199, seed=seed
      ).found
    )
    for seed in range(60)
  )
  assert 2 <= false <= 20, 'tests/benchmarks/bias.py has the exact share'


def test_answers_about_one_clip_are_no_news():
  """Ten times the same answer about each of 21 clips tells as much as one."""
  once = _set(_answers(21, 10, 'large'), _answers(21, 15, 'small', start=50))
  often = once._replace(answers=once.answers * 10)
  (one,), (ten,) = (
    bias.audit([x], draws=999).comparisons for x in (once, often)
  )
  assert one.p == pytest.approx(ten.p, abs=0.05)
  assert ten.n == 210
  assert ten.n_clips == 21
  assert ten.low == pytest.approx(one.low, abs=0.01)
  assert ten.points_low == pytest.approx(one.points_low, abs=1.0)


@pytest.mark.parametrize('times', [1, 2])
def test_a_group_with_harder_questions_is_not_worse(times):
  """Right answers are 90 % of the easy and 30 % of the hard ones, for all."""
  easy, hard = (
    [
      *_answers(n, round(n * share), 'large', stratum=kind, start=start),
      *_answers(m, round(m * share), 'small', stratum=kind, start=start + 500),
    ]
    for kind, share, n, m, start in (
      ('easy', 0.9, 20, 100, 0),
      ('hard', 0.3, 100, 20, 1000),
    )
  )
  some = _set(*[easy, hard] * times)
  (only,) = bias.audit([some], draws=999).comparisons
  assert only.share < only.share_against - 0.3
  assert only.points == pytest.approx(0.0, abs=1e-9)
  assert only.p == 1.0


def test_points_and_interval_are_of_the_group_against_the_rest():
  some = _set(
    _answers(100, 60, 'large'), _answers(200, 180, 'small', start=200)
  )
  (only,) = bias.audit([some], draws=999).comparisons
  assert (only.test.group, only.test.against) == ('large', 'small')
  assert only.points == pytest.approx(-30.0)
  # Two standard deviations of the difference of two shares.
  half = 196 * np.sqrt(0.6 * 0.4 / 100 + 0.9 * 0.1 / 200)
  assert only.points_low == pytest.approx(-30 - half, abs=1.5)
  assert only.points_high == pytest.approx(-30 + half, abs=1.5)
  assert only.is_found


def test_what_is_detectable_is_found_four_times_of_five():
  """Half of 300 answers each; the difference that is said to be detectable."""
  level, clips, count = 0.05, 300, 40
  rng = np.random.default_rng(0)
  some = _set(_answers(clips, 150, 'a'), _answers(clips, 150, 'b', start=clips))
  points = bias.audit([some], draws=999).comparisons[0].detectable
  found = 0
  for _ in range(count):
    right = rng.binomial(clips, [0.5 - points / 200, 0.5 + points / 200])
    made = _set(
      _answers(clips, right[0], 'a'),
      _answers(clips, right[1], 'b', start=clips),
    )
    found += bool(bias.audit([made], level=level, draws=99).found)
  assert 0.65 * count < found < 0.95 * count


# --- Twins -------------------------------------------------------------------


def test_twins_are_compared_with_each_other_and_not_with_others():
  """Clips are easy or hard; of 30 the twin is right and the clip is not."""
  values = [(0.0, 1.0)] * 30 + [(1.0, 1.0)] * 100 + [(0.0, 0.0)] * 100
  (only,) = bias.audit([_set(pairs=_twins(values))], draws=999).comparisons
  assert only.is_found
  assert only.points == pytest.approx(-100 * 30 / 230)
  assert only.changed == pytest.approx(30 / 230)
  assert only.test.kind == compared.TWIN


def test_twins_that_lose_and_win_alike_are_no_difference():
  values = [(0.0, 1.0), (1.0, 0.0)] * 30
  (only,) = bias.audit([_set(pairs=_twins(values))], draws=999).comparisons
  assert only.p == 1.0
  assert only.points == 0.0


def test_where_no_answer_differs_nothing_is_detectable():
  values = [(1.0, 1.0)] * 40
  found = bias.audit([_set(pairs=_twins(values))], draws=999)
  assert found.comparisons[0].detectable is None
  assert not found.found


# --- The family --------------------------------------------------------------


def test_who_is_compared_with_a_worse_group_is_not_better():
  """Without setting large aside, both others would be better than the rest."""
  some = _set(
    _answers(100, 30, 'large'),
    _answers(100, 90, 'small', start=100),
    _answers(100, 90, 'average', start=200),
  )
  found = bias.audit([some], draws=999)
  assert [c.test.group for c in found.found] == ['large']
  others = {c.test.group: c for c in found.comparisons[1:]}
  assert set(others) == {'small', 'average'}
  assert others['small'].points == pytest.approx(0.0)
  assert others['small'].p_adjusted > 0.05


def test_a_worse_group_is_found_behind_one_that_is_worse_still():
  """Small are not worse than the rest until large are set aside."""
  some = _set(
    _answers(100, 20, 'large'),
    _answers(100, 60, 'small', start=100),
    _answers(100, 90, 'average', start=200),
  )
  found = bias.audit([some], draws=999).found
  assert [c.test.group for c in found] == ['large', 'small']
  assert found[0].p_adjusted <= found[1].p_adjusted


def test_one_cause_has_one_name():
  """All of large are in the gym, and nearly nobody else is."""
  rng = np.random.default_rng(0)
  answers = []
  for clip in range(300):
    size = ('large', 'small', 'average')[clip % 3]
    share = 0.3 if size == 'large' else 0.9
    place = 'gym' if size == 'large' or rng.random() < 0.2 else 'street'
    answers.append(
      compared.Answer(
        float(rng.random() < share), clip, 'k', {'size': size, 'place': place}
      )
    )
  found = bias.audit([compared.Set('s', answers)], draws=999).found
  assert [(c.test.attribute, c.test.group) for c in found] == [
    ('size', 'large')
  ]


def test_a_chance_that_is_enough_alone_is_not_in_a_large_family():
  """Ten attributes, in one of which p is about 0.01."""
  rng = np.random.default_rng(1)
  sides = [('a', 'b')[i % 2] for i in range(80)]
  values = [float(i % 2 == 0 or i < 22) for i in range(80)]
  noise = rng.integers(0, 2, (80, 9))

  def audit(width):
    groups = [
      {'size': side, **{f'x{k}': f'{z}' for k, z in enumerate(row[:width])}}
      for side, row in zip(sides, noise, strict=True)
    ]
    some = [
      compared.Answer(x, i, 'k', g)
      for i, (x, g) in enumerate(zip(values, groups, strict=True))
    ]
    return bias.audit([compared.Set('s', some)], draws=1999)

  del values[::7], sides[::7]
  noise = np.delete(noise, slice(None, None, 7), axis=0)
  assert audit(0).number == 1
  assert audit(9).number == 10
  alone, among = (
    next(c for c in audit(width).comparisons if c.test.attribute == 'size')
    for width in (0, 9)
  )
  assert alone.p == pytest.approx(among.p, abs=0.01)
  assert among.p_adjusted == pytest.approx(min(1.0, 10 * among.p), rel=0.2)


def test_sets_are_not_mixed():
  """Large is worse than small in neither set, but all of one are worse."""
  easy = [_answers(40, 38, g, start=s) for g, s in (('large', 0), ('b', 50))]
  hard = [_answers(40, 10, g, start=s) for g, s in (('b', 0), ('c', 50))]
  found = bias.audit(
    [_set(*easy), _set(*hard)._replace(name='other')], draws=999
  )
  assert {c.test.set for c in found.comparisons} == {'test', 'other'}
  assert not found.found


def test_small_groups_are_named_and_not_compared():
  some = _set(
    _answers(30, 25, 'large'),
    _answers(30, 25, 'small', start=50),
    _answers(compared.LEAST_CLIPS - 1, 15, 'rare', start=100),
  )
  found = bias.audit([some], draws=999)
  assert {c.test.group for c in found.comparisons} == {'large', 'small'}
  assert found.too_few == (('test', 'size', 'rare', compared.LEAST_CLIPS - 1),)


def test_nothing_to_compare_is_no_error():
  assert bias.audit([_set(_answers(30, 10, 'all'))]).number == 0
  assert bias.audit([]).comparisons == ()


def test_draws_that_cannot_decide_are_refused():
  some = _set(_answers(30, 10, 'a'), _answers(30, 20, 'b', start=50))
  with pytest.raises(ValueError, match='Expected 20 draws or more for 1 comp'):
    bias.audit([some], draws=10)
  with pytest.raises(ValueError, match='level between 0 and 1'):
    bias.audit([some], level=5)
