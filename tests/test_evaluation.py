"""Baselines beside the model, and who waits; tests/end_to_end runs it all."""

import json
import types

import numpy as np
import presets
import pytest

from vimonet_jax import captioning, corpus, evaluation, suite
from vimonet_jax.data import batches, records
from vimonet_jax.eval import benchmarks
from vimonet_jax.eval import run as eval_run
from vimonet_jax.motion import features


def _clip(split, number):
  rng = np.random.default_rng(number)
  return records.Record(
    f'{split}{number}',
    'test',
    split,
    motion=rng.normal(number, 1.0, (40, 263)).astype(np.float32),
    joints=np.zeros((41, 22, 3), np.float32),
    turns=(
      records.Turn(
        'Describe the motion.', f'clip {number} walks.', 'motion_caption'
      ),
    ),
  )


def _source(split, length, damaged=()):
  def make(number):
    if number in damaged:
      raise records.CorruptError(f'{split}:{number}', 'hash mismatch')
    return _clip(split, number)

  return batches.FunctionSource(make, length)


def _rows(tmp_path, monkeypatch, train, limit=1):
  features.Statistics(np.zeros(263), np.ones(263)).save(
    str(tmp_path / 'statistics.npz')
  )
  monkeypatch.setattr(corpus, 'open_split', lambda *_: train)
  held_out = _source('test', 3)
  items = benchmarks.caption_items(held_out)
  lines = eval_run.as_predictions(items, ['clip 1 walks.'] * 3)
  config = presets.load('mocap', 'smoke', data__max_corrupt=limit)
  asked = benchmarks.Benchmark(items, held_out, {})
  return captioning.rows(config, str(tmp_path), asked, lines)


def test_a_training_record_that_training_may_pass_over_stops_no_evaluation(
  tmp_path, monkeypatch
):
  """Its baselines are those of a training set without it."""
  found = _rows(tmp_path, monkeypatch, _source('train', 5, damaged=[2]))
  kept = [_clip('train', i) for i in (0, 1, 3, 4)]
  assert found == _rows(tmp_path, monkeypatch, kept)
  assert len(found) == 3
  (named,) = (tmp_path / 'skipped-0.jsonl').read_text().splitlines()
  assert json.loads(named)['where'] == 'train:2'
  with pytest.raises(ValueError, match='at most 1 damaged records, found 2'):
    _rows(tmp_path, monkeypatch, _source('train', 5, damaged=[0, 2]))


@pytest.mark.parametrize('preset', ['mocap', 'tiny'])
def test_a_damaged_record_that_is_to_be_asked_about_does_not_vanish(
  monkeypatch, preset
):
  held_out = _source('test', 3, damaged=[1])
  monkeypatch.setattr(corpus, 'open_split', lambda *_: held_out)
  config = presets.load(preset, 'smoke')
  with pytest.raises(records.CorruptError, match='a sound record as test:1'):
    suite.open_all(config, '', types.SimpleNamespace(frames=8, image_size=48))


@pytest.mark.parametrize('is_first', [True, False])
def test_nobody_leaves_before_the_report_is_written(
  tmp_path, monkeypatch, is_first
):
  done = []

  def note(name):
    return lambda *args, **kwargs: done.append(name)

  cluster = types.SimpleNamespace(is_first=lambda: is_first, wait=done.append)
  monkeypatch.setattr(evaluation, 'cluster', cluster)
  monkeypatch.setattr(evaluation.claim, 'check', lambda *args, **kwargs: None)
  monkeypatch.setattr(evaluation.corpora, 'open_split', lambda *args: ())
  monkeypatch.setattr(evaluation.report, 'write', note('written'))
  monkeypatch.setattr(evaluation, 'evaluate', note('evaluated'))
  monkeypatch.setattr(evaluation, '_print_table', note('printed'))
  config = types.SimpleNamespace(to_json=lambda: '{}')
  assert evaluation.run_report(config, str(tmp_path)) == 0
  mine = ['written', 'printed'] * is_first
  assert done == [*mine, 'the report is written']
  done.clear()
  assert evaluation.run(config, str(tmp_path)) == 0
  mine = ['printed'] * is_first
  assert done == ['evaluated', *mine, 'the table is printed']
