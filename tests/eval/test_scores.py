import numpy as np
import pytest
import score_rows

from vimonet_jax.eval import scores

_row = score_rows.row


def test_means_by_domain_over_all_and_over_domains():
  found = scores.means(
    [1, 0, 0, 1], domains=['a', 'a', 'a', 'b'], records=[0, 1, 2, 0]
  )
  point = {name: mean[0] for name, mean in found.items()}
  assert point == pytest.approx(
    {'a': 1 / 3, 'b': 1.0, scores.ALL: 0.5, scores.MACRO: 2 / 3}
  )
  # Record 0 alone has domain b, so a draw without it has no mean there ...
  share = np.isnan(found['b'][1:]).mean()
  assert share == pytest.approx((2 / 3) ** 3, abs=0.05)
  # ... and its macro is the mean of what there is.
  assert np.isfinite(found[scores.MACRO]).all()


def test_draws_have_the_spread_of_independent_records():
  right = np.random.default_rng(7).random(400) < 0.7
  found = scores.means(right, domains=['a'] * 400, records=range(400))
  spread = found['a'][1:].std()
  assert spread == pytest.approx(np.sqrt(0.7 * 0.3 / 400), rel=0.15)
  low, high = scores.interval(found['a'])
  assert (low, high) == pytest.approx(
    scores.wilson(float(right.mean()), 400), abs=0.015
  )


def test_questions_about_one_record_count_as_little_more_than_one():
  right = np.repeat(np.random.default_rng(7).random(50) < 0.5, 8)
  domains = ['a'] * 400
  alone = scores.means(right, domains=domains, records=range(400))
  clips = scores.means(right, domains=domains, records=np.repeat(range(50), 8))
  ratio = clips['a'][1:].std() / alone['a'][1:].std()
  assert ratio == pytest.approx(np.sqrt(8), rel=0.2)


def test_wilson_holds_at_both_ends():
  assert scores.wilson(0.5, 700) == pytest.approx((0.463, 0.537), abs=1e-3)
  low, high = scores.wilson(1.0, 40)
  assert 0.9 < low < 0.95
  assert high == 1.0
  assert scores.wilson(0.0, 40) == pytest.approx((0.0, 1.0 - low))


def test_rows_replace_those_of_their_benchmark_and_no_others(tmp_path):
  """Old rows of other settings beside new ones would be compared with them."""
  path = str(tmp_path / 'scores.json')
  assert scores.read(path) == []
  others = [_row(benchmark='other'), _row(split='val')]
  scores.write(path, [_row(), _row(corruption='L2'), *others])
  found = scores.write(path, [_row(accuracy=0.75), _row(system='nearest')])
  assert found == scores.read(path)
  assert found == [*others, _row(accuracy=0.75), _row(system='nearest')]
  assert [path.name for path in tmp_path.iterdir()] == ['scores.json']


def test_a_kill_while_writing_leaves_the_old_scores(tmp_path, monkeypatch):
  path = str(tmp_path / 'scores.json')
  scores.write(path, [_row()])

  def killed(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(scores.os, 'replace', killed)
  with pytest.raises(KeyboardInterrupt):
    scores.write(path, [_row(accuracy=0.9)])
  assert scores.read(path) == [_row()]


def test_answers_about_one_clip_count_as_far_as_they_differ():
  clusters = [i // 10 for i in range(800)]
  alike = [float(c % 2) for c in clusters]
  assert scores.effective_number(alike, clusters) == pytest.approx(80)
  apart = [float(i) for i in np.random.default_rng(0).integers(0, 2, 800)]
  assert 500 < scores.effective_number(apart, clusters) <= 800
  alone = list(range(800))
  assert scores.effective_number(apart, alone) == pytest.approx(800)
  # All right: as many as there are clips. Each clip half right: all of them.
  assert scores.effective_number([1.0] * 800, clusters) == 80
  assert scores.effective_number([i % 2 for i in range(800)], clusters) == 800
  low, high = scores.wilson(0.5, scores.effective_number(alike, clusters))
  assert high - low == pytest.approx(0.214, abs=0.002)
