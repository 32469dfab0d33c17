"""R-precision and MM-dist: whether captions and motions find each other.

Captions and motions are embedded into one space by an evaluator that was
trained on true pairs (Guo et al. 2022, `text_mot_match`). It comes in through
`Embedder`; what it is given, and everything after it, is below. A generated
caption can beat real ones: these are no accuracies.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from scipy.spatial import distance

from vimonet_jax.data import records
from vimonet_jax.motion import features

TOP = (1, 2, 3)
# Of a generated caption. The words of a real one come from its file and are cut
# to 20 (MotionGPT, `dataset_t2m_eval.py`).
MAX_WORDS = 40
MAX_REAL_WORDS = 20

_START, _END, _UNKNOWN = 'sos/OTHER', 'eos/OTHER', 'unk/OTHER'
_LEMMATISED = ('NOUN', 'VERB')
_CONTACTS = 4
_SPACY_MODEL = 'en_core_web_sm'


# --- Scores ------------------------------------------------------------------


class Estimate(NamedTuple):
  """A mean of repetitions, and the 95 % interval of that mean."""

  mean: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Scores:
  """What `scores` finds.

  Attributes:
    r_precision: by k of `TOP`, 0 to 1; guessing is worth k / batch.
    mm_dist: of a caption from its own motion, in units of the embedding.
    batch: motions that a caption is compared with.
    repetitions: shuffles.
    n: pairs that each repetition compares.
    n_dropped: pairs that each repetition leaves over, other ones each time.
  """

  r_precision: dict[int, Estimate]
  mm_dist: Estimate
  batch: int
  repetitions: int
  n: int
  n_dropped: int


def scores(
  text_embeddings_NE: np.ndarray,
  motion_embeddings_NE: np.ndarray,
  *,
  batch: int = 32,
  repetitions: int = 20,
  seed: int = 0,
) -> Scores:
  """R-precision and MM-dist of captions and the motions in the same rows.

  In each repetition the pairs are shuffled and dealt into batches. Each caption
  ranks the motions of its batch by Euclidean distance, nearest first, and hits
  when its own is among the first k. What fills no batch is dropped.

  Where other motions are exactly as near as the own one, the order among them
  is nobody's, so the caption gets the share of orders that would be a hit. An
  evaluator that embeds everything alike thus scores k / batch, as it should;
  published code lets the sort decide, which can give it anything up to 1.

  The interval is 1.96 standard errors over the repetitions, as published. It
  says how much the shuffle matters and nothing about other captions.

  Args:
    text_embeddings_NE: a caption in each row.
    motion_embeddings_NE: the motion that it is about.
    batch: how many motions a caption is compared with. Values of other sizes
      are not comparable.
    repetitions: shuffles.
    seed: of the shuffles.

  Raises:
    ValueError: the embeddings do not go together, are not finite, or fill no
      batch.
  """
  texts, motions = _checked(text_embeddings_NE, motion_embeddings_NE, batch)
  if repetitions < 1:
    raise ValueError(
      f'Expected one repetition or more, found {repetitions}; 20 are usual.'
    )
  number = len(texts) // batch * batch
  rng = np.random.default_rng(seed)
  values = np.array(
    [
      _once(texts[order], motions[order], batch)
      for order in (
        rng.permutation(len(texts))[:number] for _ in range(repetitions)
      )
    ]
  )
  means = values.mean(axis=0)
  halves = 1.96 * values.std(axis=0) / np.sqrt(repetitions)
  *hits, mm_dist = (
    Estimate(float(mean), float(mean - half), float(mean + half))
    for mean, half in zip(means, halves, strict=True)
  )
  return Scores(
    dict(zip(TOP, hits, strict=True)),
    mm_dist,
    batch,
    repetitions,
    number,
    len(texts) - number,
  )


def _once(texts, motions, batch: int) -> np.ndarray:
  """Means of one repetition: hits for each k of `TOP`, and distance."""
  rows = []
  for start in range(0, len(texts), batch):
    some = slice(start, start + batch)
    # From differences: |a|^2 + |b|^2 - 2ab would leave equal ones apart.
    apart = distance.cdist(texts[some], motions[some])
    own = np.diagonal(apart)[:, None]
    nearer = (apart < own).sum(axis=1)
    as_near = (apart == own).sum(axis=1)  # At least the own one.
    hits = [np.clip((k - nearer) / as_near, 0, 1) for k in TOP]
    rows.append(np.stack([*hits, own[:, 0]], axis=1))
  return np.concatenate(rows).mean(axis=0)


def _checked(texts, motions, batch: int) -> tuple[np.ndarray, np.ndarray]:
  texts = np.asarray(texts, np.float64)
  motions = np.asarray(motions, np.float64)
  if texts.ndim != 2 or texts.shape != motions.shape:
    raise ValueError(
      'Expected embeddings [N, E] of as many captions as motions, found '
      f'{list(texts.shape)} and {list(motions.shape)}; embed both with one '
      'evaluator.'
    )
  for name, array in (('captions', texts), ('motions', motions)):
    if bad := int((~np.isfinite(array).all(axis=1)).sum()):
      raise ValueError(
        f'Expected finite embeddings, found NaN or infinity in {bad} of '
        f'{len(array)} {name}; mend the evaluator or its input.'
      )
  if not 1 <= batch <= len(texts):
    raise ValueError(
      f'Expected a batch of 1 to {len(texts)}, which is how many pairs there '
      f'are, found {batch}; give more pairs.'
    )
  return texts, motions


# --- What the evaluator is given ----------------------------------------------


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
  """Embeddings of generated captions and of their motions, for `scores`.

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


def spacy_tagger(model: str = _SPACY_MODEL) -> Tagger:
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
