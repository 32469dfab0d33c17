"""What tables say about themselves: their sums, and the claims made of them."""

import dataclasses
import json

import numpy as np
import pytest

from vimonet_jax.eval import published, scores, vimonet_bench

ROUNDING = 0.0101  # Of two decimals, in the values and in their mean.


def _complete(benchmark, metric):
  return [
    row
    for row in published.of(benchmark, metric=metric)
    if None not in row.values.values()
  ]


def _values(row, columns):
  return [row.values[column] for column in columns]


def _by_items(row, items):
  return np.average(_values(row, items), weights=list(items.values()))


def _by_domains(row):
  return np.mean(_values(row, vimonet_bench.DOMAINS))


def _off(rows, mean, column):
  """Systems whose sum is not the mean that it should be."""
  return {
    row.system for row in rows if abs(mean(row) - row.values[column]) > ROUNDING
  }


def test_items_add_up():
  items = published.ITEMS
  assert sum(items[published.MOTION].values()) == 700
  assert sum(items[published.VIDEO].values()) == 650
  types, relations = np.array(list(items[published.BABEL].values())).reshape(
    2, 3
  )
  assert sum(types) == sum(relations) == 393


@pytest.mark.parametrize(
  'benchmark', [published.MOTION, published.ABLATION_MOTION]
)
def test_all_of_the_motion_part_is_the_mean_over_items(benchmark):
  def mean(row):
    return _by_items(row, published.ITEMS[published.MOTION])

  rows = _complete(benchmark, published.ACCURACY)
  assert len(rows) >= 3
  assert not _off(rows, mean, scores.ALL)
  assert _off(rows, _by_domains, scores.ALL) >= {
    row.system for row in rows if row.system != 'ground truth'
  }
  # Two scores are not what their domains give, and their notes say so.
  judged = _complete(benchmark, published.SCORE)
  odd = {published.MOTION: 'MotionGPT'}.get(
    benchmark, 'MotionLLM, both, unpaired'
  )
  assert _off(judged, mean, scores.ALL) == {odd}
  assert published.find(benchmark, odd, published.SCORE).note


def test_a_misprint_explains_the_score_of_motiongpt():
  row = published.find(published.MOTION, 'MotionGPT', published.SCORE)
  mended = dataclasses.replace(row, values={**row.values, 'body_part': 2.98})
  mean = _by_items(mended, published.ITEMS[published.MOTION])
  assert round(mean, 2) == row.values[scores.ALL] == 3.11


@pytest.mark.parametrize(
  ('benchmark', 'number', 'odd'),
  [
    (published.VIDEO, 5, {'VideoChat'}),
    (published.ABLATION_VIDEO, 2, set()),
  ],
)
def test_all_of_the_video_part_is_the_mean_of_domains(benchmark, number, odd):
  rows, judged = (
    [row for row in _complete(benchmark, metric) if scores.MACRO in row.values]
    for metric in (published.ACCURACY, published.SCORE)
  )
  assert len(rows) == len(judged) == number
  assert not _off(rows, _by_domains, scores.MACRO)
  assert _off(judged, _by_domains, scores.MACRO) == odd


def test_means_over_items_of_the_video_part_are_others():
  items = published.ITEMS[published.VIDEO]
  for system, mean in (('MotionLLM', 44.84), ('Video-LLaVA', 38.45)):
    row = published.find(published.VIDEO, system, published.ACCURACY)
    assert round(_by_items(row, items), 2) == mean
  for metric in (published.ACCURACY, published.SCORE):
    row = published.find(published.VIDEO, 'GPT-3.5, text only', metric)
    assert scores.MACRO not in row.values
    mean = _by_items(row, {**items, 'hallucination': 17})
    assert mean == pytest.approx(row.values[scores.ALL], abs=0.005)


def _counts(percent, n):
  """How many of n items that is, if it is any."""
  return [k for k in range(n + 1) if round(100 * k / n, 2) == percent]


def test_denominators_are_less_than_the_items():
  for system, count in (('MotionLLM', 103), ('GPT-3.5, text only', 50)):
    row = published.find(published.MOTION, system, published.ACCURACY)
    assert _counts(row.values['body_part'], 204) == [count]
    assert not _counts(row.values['body_part'], 205)
  for system, count in (('MotionLLM', 12), ('VideoChat2', 11)):
    row = published.find(published.VIDEO, system, published.ACCURACY)
    assert _counts(row.values['hallucination'], 17) == [count]
    assert not _counts(row.values['hallucination'], 39)


def test_types_of_babel_qa_give_all_but_for_motionllm():
  items = published.ITEMS[published.BABEL]
  types = {name: items[name] for name in ('action', 'direction', 'body_part')}
  relations = {name: items[name] for name in ('before', 'after', 'other')}
  rows = _complete(published.BABEL, published.ACCURACY)
  for row in rows:
    everything = row.values[scores.ALL]
    adds_up = abs(_by_items(row, types) - everything) < 0.001
    assert adds_up != row.system.startswith('MotionLLM'), row.system
    adds_up = abs(_by_items(row, relations) - everything) < 0.001
    assert adds_up == (row.system == 'most frequent answers'), row.system
  assert len(rows) == 7


def test_the_mean_of_mvbench_is_that_of_seven_tasks():
  rows = _complete(published.MVBENCH, published.ACCURACY)
  assert len(rows) == 7
  for row in rows:
    *tasks, mean = row.values.values()
    assert len(tasks) == 7
    assert all(value % 0.5 == 0 for value in tasks)  # Of 200 items each.
    is_rounded = abs(np.mean(tasks) - mean) <= 0.05
    assert is_rounded != ('cut, not rounded' in row.note)
    assert abs(np.mean(tasks) - mean) < 0.1


def test_claims_follow_from_the_tables():
  def value(benchmark, system, column, metric=published.ACCURACY):
    return published.find(benchmark, system, metric).values[column]

  motiongpt = value(published.MOTION, 'MotionGPT', scores.ALL)
  motionllm = value(published.MOTION, 'MotionLLM', scores.ALL)
  videollava = value(published.VIDEO, 'Video-LLaVA', scores.MACRO)
  assert round(100 * (motionllm / motiongpt - 1), 1) == 34.3
  assert round(1.394 * motiongpt, 1) == 51.4
  assert round(1.156 * videollava, 1) == 49.2
  gains = [
    value(published.ACTIVITYNET, 'ViMoNet', scores.ALL, metric)
    / value(published.ACTIVITYNET, 'VideoChat2', scores.ALL, metric)
    for metric in (published.ACCURACY, published.SCORE)
  ]
  assert np.round(gains, 2).tolist() == [1.09, 1.07]


def test_rows_that_repeat_each_other_agree():
  def values(benchmark, system, metric):
    return dict(published.find(benchmark, system, metric).values)

  for metric in (published.ACCURACY, published.SCORE):
    paired = values(
      published.ABLATION_MOTION, 'MotionLLM, both, paired', metric
    )
    assert paired == values(published.MOTION, 'MotionLLM', metric)
    video = values(published.ABLATION_VIDEO, 'MotionLLM, video only', metric)
    assert video == values(published.VIDEO, 'Video-LLaVA', metric)


def test_vimonet_is_there_and_not_available():
  for benchmark in published.BENCHMARKS:
    rows = [r for r in published.of(benchmark) if r.system == 'ViMoNet']
    if 'humanml3d' in benchmark:
      assert not rows  # It was never asked for captions.
      continue
    assert rows
    known = {v for row in rows for v in row.values.values()}
    if benchmark == published.ACTIVITYNET:
      assert known == {53.5, 3.53}
    else:
      assert known == {None}
      assert all('Not printed' in row.note for row in rows)


def test_shares_are_between_nothing_and_all():
  for row in published.ROWS:
    for column in row.values:
      share = row.share(column)
      if share is None or column == 'MM-dist':
        continue
      top = 5 if row.metric == published.SCORE else 1
      assert 0 <= share <= top, (row, column)
  row = published.find(published.MVBENCH, 'MotionLLM', published.ACCURACY)
  assert row.share('unexpected_action') == 0.375
  row = published.find(published.MOTION, 'ViMoNet', published.SCORE)
  assert row.share(scores.ALL) is None


def test_captions_of_the_whole_are_near_those_of_the_slice(shared_data):
  path = shared_data / 'captions' / 'expected_metrics_public.json'
  systems = json.loads(path.read_text())
  for name, slices in systems.items():
    (row,) = (
      row
      for row in published.of(published.CAPTIONS)
      if row.system.lower() == name and set(scores.METRICS) == set(row.values)
    )
    assert dict(row.values) == pytest.approx(
      slices['refs_padded_to_3'], abs=0.012
    )


def test_tracks_of_captions_are_two_benchmarks():
  raw, tokens = (
    published.find(benchmark, 'TM2T', published.CAPTION).share('CIDEr')
    for benchmark in (published.CAPTIONS, published.TOKENS)
  )
  assert tokens > 4 * raw


def test_what_cannot_be_compared_says_why():
  odd = [row for row in published.ROWS if not row.is_comparable]
  assert {row.system for row in odd} >= {'IMoRe, ten options'}
  assert all(row.note for row in odd)
  assert set(published.REMARKS) == set(published.BENCHMARKS)


def test_rows_cannot_be_changed():
  row = published.ROWS[0]
  with pytest.raises(dataclasses.FrozenInstanceError):
    row.system = 'ours'
  with pytest.raises(TypeError):
    row.values[scores.ALL] = 99


def test_unknown_names_are_answered_with_the_known_ones():
  with pytest.raises(ValueError, match="of movid-bench-motion, .*'movid'"):
    published.of('movid')
  with pytest.raises(ValueError, match="MotionLLM, .* found 'ours'"):
    published.find(published.MOTION, 'ours', published.SCORE)
