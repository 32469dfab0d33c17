import sys
import types

import numpy as np
import pytest

from vimonet_jax.eval import embedder, retrieval
from vimonet_jax.motion import features

LEMMAS = {'walks': 'walk', 'arms': 'arm', 'left': 'leave', 'Slowly': 'slowly'}
POS = {'walks': 'VERB', 'arms': 'NOUN', 'left': 'VERB', 'Slowly': 'ADV'}


def _tagger(sentence):
  return [
    embedder.Word(text, LEMMAS.get(text, text), POS.get(text, 'X'))
    for text in sentence.replace('.', ' .').split()
  ]


def test_generated_captions_become_lemmas_between_marks():
  text = embedder.generated_text(
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
    text = embedder.generated_text(' '.join(words), _tagger)
    assert len(text.words) == 42
    assert text.length == min(number, 40) + 2
    assert text.words[text.length - 1] == 'eos/OTHER'
  real = embedder.real_text(['walk/VERB'] * 30)
  assert len(real.words) == real.length == 22
  assert embedder.real_text(['go/VERB']).words[:4] == (
    'sos/OTHER', 'go/VERB', 'eos/OTHER', 'unk/OTHER',
  )  # fmt: skip


def test_motions_are_normalised_and_lose_their_contacts(shared_data):
  meta = shared_data / 'motiongpt' / 'meta'
  statistics = features.Statistics(
    np.load(meta / 'mean_eval.npy'), np.load(meta / 'std_eval.npy')
  )
  motion = np.load(shared_data / 'humanml3d/new_joint_vecs/012314.npy')[:59]
  found = embedder.evaluator_motion(motion, statistics)
  assert found.features_T259.shape == (59, 259)
  assert found.features_T259.dtype == np.float32
  assert found.length == 14
  back = found.features_T259 * statistics.std[:259] + statistics.mean[:259]
  np.testing.assert_allclose(back, motion[:, :259], atol=1e-5)
  with pytest.raises(ValueError, match=r'\[T, 263\], found \[59, 259\]'):
    embedder.evaluator_motion(found.features_T259, statistics)


class _Counting:
  """Embeds by numbers of words and of steps."""

  def embed_texts(self, texts):
    return np.array([[text.length] for text in texts])

  def embed_motions(self, motions):
    return np.array([[motion.length] for motion in motions])


def test_an_evaluator_meets_prepared_captions_and_motions():
  motions = [np.ones((n, 263)) for n in (16, 12)]
  statistics = features.Statistics(np.zeros(263), np.ones(263))
  texts, moved = embedder.embed(
    ['walks left', 'walks'],
    motions,
    embedder=_Counting(),
    tagger=_tagger,
    statistics=statistics,
  )
  assert (texts.tolist(), moved.tolist()) == ([[4], [3]], [[4], [3]])
  found = retrieval.scores(texts, moved, batch=2, seed=0)
  assert found.r_precision[1].mean == 1


def test_a_missing_tagger_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'spacy', None)
  with pytest.raises(ImportError, match='Expected spaCy .*; pip install spacy'):
    embedder.spacy_tagger()

  def load(model):
    raise OSError(f'[E050] cannot find {model}')

  spacy = types.SimpleNamespace(load=load)
  monkeypatch.setitem(sys.modules, 'spacy', spacy)
  with pytest.raises(ImportError, match='spacy download en_core_web_sm'):
    embedder.spacy_tagger()

  token = types.SimpleNamespace(text='ran', lemma_='run', pos_='VERB')
  spacy.load = lambda model: lambda sentence: [token] * len(sentence.split())
  assert embedder.spacy_tagger()('he ran') == [('ran', 'run', 'VERB')] * 2
