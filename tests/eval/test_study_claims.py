"""What decides whether a sentence holds."""

import pytest
from judged import ROWS

from vimonet_jax.eval import studies, study_claims


def _numbers(low, high, *seeds, **more):
  return {
    'difference': (low + high) / 2,
    'difference_low': low,
    'difference_high': high,
    'difference_by_seed': dict(enumerate(seeds or [low, high])),
    **more,
  }


@pytest.mark.parametrize(
  ('expects', 'numbers', 'verdict'),
  [
    ('higher', _numbers(1, 3), study_claims.HOLDS),
    ('higher', _numbers(-1, 3), study_claims.OPEN),
    ('higher', _numbers(-3, -1), study_claims.FAILS),
    ('lower', _numbers(-3, -1), study_claims.HOLDS),
    ('lower', _numbers(1, 3), study_claims.FAILS),
    # The interval is of records; a seed that says otherwise leaves it open.
    ('higher', _numbers(1, 3, 5, -1), study_claims.OPEN),
    ('lower', _numbers(1, 3, 5, -1), study_claims.OPEN),
    ('higher', {}, study_claims.OPEN),
  ],
)
def test_the_interval_and_all_seeds_decide(expects, numbers, verdict):
  claim = study_claims.Claim('It is so', ('x',), expects=expects)
  table = studies.Table('bench test', 'rule', {'x': {'all': numbers}})
  assert study_claims.decide(claim, table)[0] == verdict


@pytest.mark.parametrize(
  ('low', 'high', 'verdict'),
  [
    (-5, 1, study_claims.HOLDS),
    (-8, -4, study_claims.OPEN),
    (-9, -7, study_claims.FAILS),
  ],
)
def test_a_loss_is_graceful_when_its_whole_interval_is(low, high, verdict):
  percent = {
    'percent': -5.0, 'percent_low': low, 'percent_high': high, 'changed': 0.25
  }  # fmt: skip
  claim = study_claims.Claim(
    'It is so', ('x',), 'all', study_claims.GRACEFUL, 6.0
  )
  numbers = _numbers(-1, 1, **percent)
  table = studies.Table('bench test', 'rule', {'x': {'all': numbers}})
  found, (phrase,) = study_claims.decide(claim, table)
  assert found == verdict
  assert '25 % of the answers changed' in phrase


def test_a_claim_needs_all_of_its_rows():
  rows = {
    'x': {'all': _numbers(1, 3)},
    'y': {'all': _numbers(-1, 1)},
    'z': {'all': _numbers(-3, -1)},
  }
  table = studies.Table('bench test', 'rule', rows)

  def found(*labels):
    return study_claims.decide(study_claims.Claim('It is so', labels), table)[0]

  assert found('x', 'x') == study_claims.HOLDS
  assert found('x', 'y') == study_claims.OPEN
  assert found('x', 'y', 'z') == study_claims.FAILS


@pytest.mark.parametrize(
  ('claim', 'sentence'),
  [
    (study_claims.Claim('So', ('a',)), 'that are compared with another'),
    (study_claims.Claim('So', ('b',), expects='up'), "found 'up'"),
  ],
)
def test_a_claim_about_what_is_not_compared_is_refused(claim, sentence):
  with pytest.raises(ValueError, match=sentence):
    study_claims.check([claim], ROWS)
