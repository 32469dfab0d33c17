"""An evaluator that embeds captions and motions, and what it is given to read.

Published retrieval metrics come from one that was trained on true pairs of
HumanML3D (Guo et al. 2022, `text_mot_match`). Its weights are not part of this
package: whatever wraps them is an `Embedder`, and reads what is made here.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.motion import features

# Of a generated caption. The words of a real one come from its file and are cut
# to 20 (MotionGPT, `dataset_t2m_eval.py`).
MAX_WORDS = 40
MAX_REAL_WORDS = 20

_START, _END, _UNKNOWN = 'sos/OTHER', 'eos/OTHER', 'unk/OTHER'
_LEMMATISED = ('NOUN', 'VERB')
_CONTACTS = 4


class Text(NamedTuple):
  """A caption as an evaluator reads it.

  Attributes:
    words: `walk/VERB` and so on between `sos/OTHER` and `eos/OTHER`, then
      `unk/OTHER` up to two more than the most words.
    length: how many come before the padding.
  """

  words: tuple[str, ...]
  length: int


class Motion(NamedTuple):
  """A motion as an evaluator reads it.

  Attributes:
    features_T259: float32, normalised, without the contacts of the feet.
    length: T // 4; its convolutions halve time twice. MotionGPT's script for
      captions divides a second time, by which its evaluator reads a quarter.
  """

  features_T259: np.ndarray
  length: int


class Embedder(Protocol):
  """An evaluator. It owns its word vectors and batches as it likes."""

  def embed_texts(self, texts: Sequence[Text]) -> np.ndarray:
    """Float [N, E], in the order of the texts."""

  def embed_motions(self, motions: Sequence[Motion]) -> np.ndarray:
    """Float [N, E], in the order of the motions."""


class Word(NamedTuple):
  """A word of a sentence, as a tagger sees it; `pos` as in Universal POS."""

  text: str
  lemma: str
  pos: str


Tagger = Callable[[str], Sequence[Word]]


def embed(
  captions: Sequence[str],
  motions: Sequence[np.ndarray],
  *,
  embedder: Embedder,
  tagger: Tagger,
  statistics: features.Statistics,
) -> tuple[np.ndarray, np.ndarray]:
  """Embeddings of generated captions and of the motions that they are about.

  Args:
    captions: one a motion.
    motions: features [T, 263], not normalised.
    embedder: the evaluator.
    tagger: see `spacy_tagger`.
    statistics: the evaluator's own (`mean_eval.npy`, `std_eval.npy`).
  """
  texts = [generated_text(caption, tagger) for caption in captions]
  read = [evaluator_motion(motion, statistics) for motion in motions]
  return embedder.embed_texts(texts), embedder.embed_motions(read)


def generated_text(
  caption: str, tagger: Tagger, *, max_words: int = MAX_WORDS
) -> Text:
  """A generated caption for the evaluator.

  Hyphens are removed before the caption is split, words with anything but
  letters after it. Nouns and verbs become lemmas, except `left`, which would
  become `leave` where it is a side. Case is kept.

      'The person t-poses, left.' -> sos/OTHER The/DET person/NOUN tpose/VERB
                                     left/VERB eos/OTHER unk/OTHER ...
  """
  words = []
  for word in tagger(caption.strip().replace('-', '')):
    if word.text.isalpha():
      has_lemma = word.pos in _LEMMATISED and word.text != 'left'
      words.append(f'{word.lemma if has_lemma else word.text}/{word.pos}')
  return _framed(words, max_words)


def real_text(words: Sequence[str], *, max_words: int = MAX_REAL_WORDS) -> Text:
  """A real caption for the evaluator, from its file's `walk/VERB` words.

  Published rows of real captions take one of each motion, at random.
  """
  return _framed(words, max_words)


def evaluator_motion(
  motion_T263: np.ndarray, statistics: features.Statistics
) -> Motion:
  """Features as the evaluator was trained on them.

  Args:
    motion_T263: not normalised.
    statistics: the evaluator's own, which need not be the motion encoder's.
  """
  if motion_T263.ndim != 2 or motion_T263.shape[1] != features.NUM_FEATURES:
    raise ValueError(
      f'Expected features [T, {features.NUM_FEATURES}], found '
      f'{list(motion_T263.shape)}; extract them with motion.features.'
    )
  kept = statistics.normalise(motion_T263)[:, :-_CONTACTS]
  return Motion(
    kept.astype(np.float32), len(motion_T263) // records.FRAMES_PER_TOKEN
  )


def spacy_tagger(model: str = 'en_core_web_sm') -> Tagger:
  """The tagger of published numbers.

  Raises:
    ImportError: spaCy or its model is not installed.
  """
  install = f'pip install spacy and run python -m spacy download {model}'
  try:
    import spacy
  except ImportError as e:
    raise ImportError(
      f'Expected spaCy to find lemmas, found none; {install}.'
    ) from e
  try:
    pipeline = spacy.load(model)
  except OSError as e:
    raise ImportError(
      f'Expected the model {model} of spaCy, found none; {install}.'
    ) from e
  return lambda sentence: [
    Word(token.text, token.lemma_, token.pos_) for token in pipeline(sentence)
  ]


def _framed(words: Sequence[str], max_words: int) -> Text:
  kept = [_START, *words[:max_words], _END]
  padding = [_UNKNOWN] * (max_words + 2 - len(kept))
  return Text((*kept, *padding), len(kept))
