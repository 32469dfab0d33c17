"""Captions of who has not seen the clip, and metrics beyond words."""

import json
import sys
import types

import numpy as np
import presets
import pytest

from vimonet_jax import captioning, corpus
from vimonet_jax.data import batches, records
from vimonet_jax.eval import benchmarks, embedder, own_items
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


def _rows(
  tmp_path, monkeypatch, train, limit=1, number=3, evaluator=None, **changes
):
  features.Statistics(np.zeros(263), np.ones(263)).save(
    str(tmp_path / 'statistics.npz')
  )
  monkeypatch.setattr(corpus, 'open_split', lambda *_: train)
  held_out = _source('test', number)
  items = own_items.captions(held_out)
  lines = eval_run.as_predictions(items, ['clip 1 walks.'] * number)
  config = presets.load('mocap', 'smoke', data__max_corrupt=limit, **changes)
  asked = benchmarks.Benchmark(items, held_out, {})
  return captioning.rows(
    config, str(tmp_path), asked, lines, evaluator=evaluator
  )


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


def test_captions_of_other_systems_stand_beside_ours(
  tmp_path, monkeypatch, capsys
):
  path = tmp_path / 'theirs.jsonl'
  theirs = [
    {'id': item.id, 'text': item.reference}
    for item in own_items.captions(_source('test', 3))[:0:-1]
  ]
  path.write_text(''.join(json.dumps(line) + '\n' for line in theirs))
  train = _source('train', 3)
  systems = (('captions', 'theirs', str(path)),)
  found = _rows(tmp_path, monkeypatch, train, eval__systems=systems)
  rows = {row['system']: row for row in found}
  assert len(rows) == len(found) == 4
  # All words are right; six, where the references have nine.
  assert rows['theirs']['BLEU_1'] == pytest.approx(np.exp(1 - 9 / 6))
  assert (rows['theirs']['n'], rows['theirs']['n_failed']) == (3, 1)
  assert 'found none for 1' in capsys.readouterr().out
  systems = (('captions', 'nearest training clip', str(path)),)
  with pytest.raises(ValueError, match='found another nearest training clip'):
    _rows(tmp_path, monkeypatch, train, eval__systems=systems)


def _evaluator():
  """One that knows which clip a caption is about by the number in it."""

  class Knows:
    def embed_texts(self, texts):
      lengths = [len(text.words[2].split('/')[0]) - 1 for text in texts]
      return np.array([[length, 1.0] for length in lengths], float)

    def embed_motions(self, motions):
      means = [motion.features_T259.mean() for motion in motions]
      return np.array([[round(float(mean)), 1.0] for mean in means], float)

  def tagger(sentence):
    # Letters only are read, so numbers are spelt by their length.
    number = int(sentence.split()[1])
    return [embedder.Word('clip', 'clip', 'NOUN')] + [
      embedder.Word('x' * (number + 1), 'x', 'X')
    ]

  statistics = features.Statistics(np.zeros(263), np.ones(263))
  return captioning.Evaluator(Knows(), tagger, statistics)


def test_an_evaluator_adds_retrieval_and_few_captions_have_none(
  tmp_path, monkeypatch, capsys
):
  train = [_clip('train', i) for i in range(5)]
  model, random, nearest = _rows(
    tmp_path, monkeypatch, train, number=64, evaluator=_evaluator()
  )
  # It says of all clips that they are number 1, which is true of one.
  assert model['R@1'] == pytest.approx(1 / 32, abs=1e-6)
  assert model['MM-dist'] > nearest['MM-dist'] > 0
  assert {'R@2', 'R@3'} <= set(random)
  few, *_ = _rows(tmp_path, monkeypatch, train, evaluator=_evaluator())
  assert 'R@1' not in few
  assert '3 captions are fewer than the 32' in capsys.readouterr().out
  none, *_ = _rows(tmp_path, monkeypatch, train)
  assert 'R@1' not in none


def test_bertscore_is_of_the_same_texts_and_rescaled(tmp_path, monkeypatch):
  asked = []

  def score(texts, references, **options):
    asked.append((texts, references))
    return None, None, np.full(len(texts), 0.9)

  monkeypatch.setitem(
    sys.modules, 'bert_score', types.SimpleNamespace(score=score)
  )
  train = [_clip('train', i) for i in range(5)]
  rows = _rows(tmp_path, monkeypatch, train, eval__bertscore=True)
  assert [row['BERTScore'] for row in rows] == pytest.approx(
    [(0.9 - 0.83122575) / (1 - 0.83122575)] * 3
  )
  assert asked[0] == (
    ['clip 1 walks.'] * 3,
    [[f'clip {i} walks.'] * 3 for i in range(3)],
  )
  assert 'BERTScore' not in _rows(tmp_path, monkeypatch, train)[0]


def test_bertscore_without_its_package_is_refused_before_anything(monkeypatch):
  monkeypatch.setattr(captioning.importlib.util, 'find_spec', lambda name: None)
  captioning.check(presets.load('mocap', 'smoke'))
  config = presets.load('mocap', 'smoke', eval__bertscore=True)
  with pytest.raises(ValueError, match=r"pip install -e '\.\[bertscore\]'"):
    captioning.check(config)
