import sys
import types

import numpy as np
import pytest

from vimonet_jax.eval import bertscore


def test_the_baseline_is_nothing_and_one_is_one():
  assert bertscore.rescaled(bertscore.BASELINE) == 0
  assert bertscore.rescaled(1.0) == 1
  # MotionGPT's published 32.4 by hand: .83122575 + .324 * .16877425.
  assert bertscore.rescaled(0.885908607) == pytest.approx(0.324)
  # Of means as well as of captions, for it is linear.
  values = [0.8, 0.9, 0.95]
  assert bertscore.rescaled(np.mean(values)) == pytest.approx(
    np.mean([bertscore.rescaled(value) for value in values])
  )


def test_the_package_is_asked_for_idf_weights_and_raw_values(monkeypatch):
  asked = {}

  def score(candidates, references, **options):
    asked.update(options, candidates=candidates, references=references)
    return None, None, np.array([0.9, 1.0])

  module = types.SimpleNamespace(score=score)
  monkeypatch.setitem(sys.modules, 'bert_score', module)
  found = bertscore.score(('a', 'b'), (('c', 'd'), ('e',)), device='cpu')
  assert asked == {
    'candidates': ['a', 'b'],
    'references': [['c', 'd'], ['e']],
    'model_type': 'roberta-large',
    'num_layers': 17,
    'idf': True,
    'device': 'cpu',
  }
  assert (found.raw, found.n) == (0.95, 2)
  assert found.rescaled == bertscore.rescaled(0.95)


def test_what_cannot_be_scored_is_refused_before_the_package_is(monkeypatch):
  monkeypatch.setitem(sys.modules, 'bert_score', None)
  with pytest.raises(ValueError, match='found 1 for 2 cases'):
    bertscore.score(['a'], [['b'], ['c']])
  with pytest.raises(ValueError, match='found 0 for 0 cases'):
    bertscore.score([], [])
  with pytest.raises(ValueError, match='found none for case 1'):
    bertscore.score(['a', 'b'], [['c'], []])
  with pytest.raises(ImportError, match=r"pip install -e '\.\[bertscore\]'"):
    bertscore.score(['a'], [['b']])
