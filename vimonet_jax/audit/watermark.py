"""A mark in the text of answers that only who has the key can see.

The green list of Kirchenbauer et al. 2023 (arXiv 2301.10226, algorithm 2): the
token before and a secret key paint a share `gamma` of the vocabulary green, and
green tokens are drawn more often.

    before   The        person     is         walking
    green           +          +         +            -      3 of 4
    next            person     is         walking    slowly

Without the mark gamma of the pairs of neighbours are green, whatever the text
says, so their number tells how likely it is that somebody else wrote it.
`Watermark` is a generate.LogitsFn; nothing else of a model changes.
"""

import dataclasses
import functools
import hashlib
import itertools
import math
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import random as block_cipher
from jax.scipy import special
from scipy import stats

from vimonet_jax import fingerprint
from vimonet_jax.data import text, tokenizer

# Bytes of a secret; who can try all of fewer can find it.
_LEAST_SECRET = 16


@dataclasses.dataclass(frozen=True)
class Watermark:
  """Raises the scores of green tokens; see generate.LogitsFn.

  Colours come from Threefry-2x32, a block cipher: the secret's hash is the key,
  a pair of tokens the block. It is fast enough to paint a vocabulary for every
  row and step, and 64 bits long. Nobody has broken it, but it was made for
  drawing and not for keeping secrets: the mark shows where text is from to who
  does not attack it.

  Attributes:
    key: of the colours, two numbers of 32 bits; see `from_secret`.
    gamma: share of the vocabulary that is green.
    delta: what is added to the scores of green tokens, for each nat of the
      next token's entropy. The paper's is the same for all: then what the model
      is nearly sure of, which are facts, changes as easily as how it says them.
  """

  key: tuple[int, int] = dataclasses.field(repr=False)
  gamma: float = 0.5
  delta: float = 8.0

  def __post_init__(self):
    if not 2**-32 <= self.gamma <= 1 - 2**-32:
      raise ValueError(
        f'Expected gamma between 0 and 1, found {self.gamma}; 0.25 and 0.5 are '
        'usual.'
      )
    if not (self.delta > 0 and math.isfinite(self.delta)):
      raise ValueError(
        f'Expected delta above 0, found {self.delta}; name no key file to '
        'leave text unmarked.'
      )

  @property
  def name(self) -> str:
    """A word that tells marks apart and says nothing of the key."""
    return fingerprint.digest(repr(dataclasses.astuple(self)))

  def __call__(self, logits_BV: jax.Array, previous_B: jax.Array) -> jax.Array:
    """Scores with the mark; all words together stay as likely as they were.

    So an answer ends when it would have: the end token and its like have no
    colour, since text does not show them.
    """
    tokens_V = jnp.arange(logits_BV.shape[-1])
    is_word_V = _is_word(tokens_V)
    is_green_BV = self.is_green(previous_B[:, None], tokens_V[None])
    share_BV = jax.nn.softmax(logits_BV)
    entropy_B1 = jnp.sum(special.entr(share_BV), axis=-1, keepdims=True)
    raised_BV = logits_BV + self.delta * entropy_B1 * is_green_BV
    of_words = functools.partial(
      jax.nn.logsumexp, axis=-1, keepdims=True, where=is_word_V
    )
    more_B1 = of_words(raised_BV) - of_words(logits_BV)
    return jnp.where(is_word_V, raised_BV - more_B1, logits_BV)

  def is_green(
    self, previous: jax.typing.ArrayLike, token: jax.typing.ArrayLike
  ) -> jax.Array:
    """Whether a token after another one is green; shapes are broadcast."""
    block = jnp.broadcast_arrays(jnp.asarray(previous), jnp.asarray(token))
    word, _ = block_cipher.threefry2x32_p.bind(
      *(jnp.uint32(word) for word in self.key),
      *(x.astype(jnp.uint32) for x in block),
    )
    return word < jnp.uint32(round(self.gamma * 2**32))


def _is_word(token: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
  """Whether a token says something: padding, bos and eos do not."""
  return token > max(tokenizer.PAD, tokenizer.BOS, tokenizer.EOS)


def from_config(config) -> Watermark | None:
  """The mark that `config.watermark` asks for; None where it names no key.

  Raises:
    ValueError: the key is too short, or another setting is none.
    OSError: its file cannot be read.
  """
  settings = dict(config.get('watermark', {}))
  path = settings.pop('key_file', '')
  if not path:
    return None
  with open(path, 'rb') as f:
    secret = f.read().strip()
  try:
    return from_secret(secret, **settings)
  except ValueError as error:
    raise ValueError(f'config.watermark, {path}: {error}') from error


def from_secret(secret: bytes, **settings) -> Watermark:
  """The mark of a secret.

  Args:
    secret: 16 random bytes or more, or their digits.
    **settings: fields of Watermark.
  """
  if len(secret) < _LEAST_SECRET:
    raise ValueError(
      f'Expected a secret of {_LEAST_SECRET} bytes or more, found '
      f'{len(secret)}; make one with `openssl rand -hex 32`.'
    )
  key = hashlib.blake2b(secret, digest_size=8, person=b'vimonet mark').digest()
  return Watermark(struct.unpack('>2I', key), **settings)


class Detection(NamedTuple):
  """How green some text is.

  Attributes:
    z: standard deviations above what is expected without the mark.
    p: how likely text without the mark is as green as that, or greener.
    green: pairs that are green.
    scored: pairs that were looked at, each once.
    tokens: of the text.
  """

  z: float
  p: float
  green: int
  scored: int
  tokens: int


def detect(sequences: Iterable[Sequence[int]], mark: Watermark) -> Detection:
  """Counts green pairs of neighbours, each pair once.

  A pair has the same colour wherever it is, so text that repeats itself would
  count one chance several times.

  Args:
    sequences: ids of each text behind the token before it; see `encode`. No
      pair spans two of them.
    mark: with the key and the share that are looked for.
  """
  sequences = [list(x) for x in sequences]
  pairs = {
    pair
    for x in sequences
    for pair in itertools.pairwise(x)
    if _is_word(pair[1])
  }
  scored, gamma = len(pairs), mark.gamma
  # Few sizes, so few compilations.
  pairs_N2 = np.zeros((1 << max(scored - 1, 0).bit_length(), 2), np.int32)
  pairs_N2[:scored] = sorted(pairs) if pairs else 0
  green = int(np.sum(mark.is_green(*pairs_N2.T)[:scored]))
  spread = math.sqrt(scored * gamma * (1 - gamma))
  return Detection(
    z=(green - scored * gamma) / spread if scored else 0.0,
    # Exact: with few pairs the normal distribution is not.
    p=float(stats.binom.sf(green - 1, scored, gamma)),
    green=green,
    scored=scored,
    tokens=sum(max(len(x) - 1, 0) for x in sequences),
  )


def encode(texts: Iterable[str], layout: text.Layout) -> list[list[int]]:
  """Ids of answers, as `detect` takes them, behind where a prompt ends."""
  before = layout.tokenizer.encode(layout.template.assistant)[-1:]
  return [before + layout.tokenizer.encode(answer) for answer in texts]
