"""A mark in the text of answers that only who has the key can see.

The green list of Kirchenbauer et al. 2023 (arXiv 2301.10226, algorithm 2): the
tokens before, `width` of them, and a secret key paint a share `gamma` of the
vocabulary green, and green tokens are drawn more often. With a width of 2:

    before   -   -      -   The     The person    person is
    next     The        person      is            walking
    green         +          +          -              +        3 of 4

Without the mark gamma of the tokens are green, whatever the text says, so their
number tells how likely it is that somebody else wrote it. `Watermark` is a
generate.LogitsFn; nothing else of a model changes.
"""

import dataclasses
import functools
import hashlib
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
from vimonet_jax.data import tokenizer
from vimonet_jax.infer import generate

# Bytes of a secret; who can try all of fewer can find it.
_LEAST_SECRET = 16


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['key'],
  meta_fields=['gamma', 'delta', 'width'],
)
@dataclasses.dataclass(frozen=True)
class Watermark:
  """Raises the scores of green tokens; see generate.LogitsFn.

  Colours come from Threefry-2x32, a block cipher: the secret's hash is the key,
  a token and the one before it the block. Each token before those makes another
  key of the key. It is fast enough to paint a vocabulary for every row and
  step, and 64 bits long. Nobody has broken it, but it was made for drawing and
  not for keeping secrets: the mark shows where text is from to who does not
  attack it.

  The key is data to jax.jit, so it is in no program that a disk may keep.

  Attributes:
    key: of the colours, two numbers of 32 bits, uint32; see `from_secret`.
    gamma: share of the vocabulary that is green.
    delta: what is added to the scores of green tokens, for each nat of the
      next token's entropy. The paper's is the same for all: then what the model
      is nearly sure of, which are facts, changes as easily as how it says them.
    width: how many tokens before it a token's colour depends on. With more,
      text repeats itself less, and a changed word spoils more colours.
  """

  key: tuple[int, int] = dataclasses.field(repr=False)
  gamma: float = 0.5
  delta: float = 8.0
  width: int = 1

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
    if self.width not in range(1, generate.BEFORE + 1):
      raise ValueError(
        f'Expected width from 1 to {generate.BEFORE}, found {self.width}; it '
        'is the number of tokens before that colours depend on.'
      )

  @property
  def name(self) -> str:
    """A word that tells marks apart and says nothing of the key."""
    key = tuple(map(int, self.key))
    return fingerprint.digest(repr((key, self.gamma, self.delta, self.width)))

  def __call__(self, logits_BV: jax.Array, before_BN: jax.Array) -> jax.Array:
    """Scores with the mark; all words together stay as likely as they were.

    So an answer ends when it would have: the end token and its like have no
    colour, since text does not show them.
    """
    tokens_V = jnp.arange(logits_BV.shape[-1])
    is_word_V = _is_word(tokens_V)
    is_green_BV = self.is_green(before_BN[:, None], tokens_V)
    share_BV = jax.nn.softmax(logits_BV)
    entropy_B1 = jnp.sum(special.entr(share_BV), axis=-1, keepdims=True)
    raised_BV = logits_BV + self.delta * entropy_B1 * is_green_BV
    of_words = functools.partial(
      jax.nn.logsumexp, axis=-1, keepdims=True, where=is_word_V
    )
    more_B1 = of_words(raised_BV) - of_words(logits_BV)
    return jnp.where(is_word_V, raised_BV - more_B1, logits_BV)

  def is_green(
    self, before: jax.typing.ArrayLike, token: jax.typing.ArrayLike
  ) -> jax.Array:
    """Whether a token behind others is green.

    Args:
      before: int [..., n], at least `width`; the last of them count.
      token: int [...]; shapes are broadcast.
    """
    before = jnp.asarray(before)
    key = self.key
    for back in range(self.width, 1, -1):
      key = _enciphered(key, before[..., -back], 0)
    word, _ = _enciphered(key, before[..., -1], token)
    return word < jnp.uint32(round(self.gamma * 2**32))


def _enciphered(key, *block) -> list[jax.Array]:
  """A block of two words by Threefry-2x32; shapes are broadcast."""
  words = (jnp.asarray(x).astype(jnp.uint32) for x in (*key, *block))
  return block_cipher.threefry2x32_p.bind(*jnp.broadcast_arrays(*words))


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
  return Watermark(tuple(map(np.uint32, struct.unpack('>2I', key))), **settings)


class Detection(NamedTuple):
  """How green some text is.

  Attributes:
    z: standard deviations above what is expected without the mark.
    p: how likely text without the mark is as green as that, or greener.
    green: tokens of those that are green.
    scored: tokens that were looked at: each behind the same ones once.
    tokens: of the text.
  """

  z: float
  p: float
  green: int
  scored: int
  tokens: int


def detect(sequences: Iterable[Sequence[int]], mark: Watermark) -> Detection:
  """Counts green tokens, each behind the same ones once.

  It has the same colour there wherever it is, so text that repeats itself would
  count one chance several times.

  Args:
    sequences: ids of each answer.
    mark: with the key, the share and the width that are looked for.
  """
  sequences = [list(x) for x in sequences]
  found = {
    window
    for x in sequences
    for window in _windows(x, mark.width)
    if _is_word(window[-1])
  }
  scored, gamma = len(found), mark.gamma
  # Few sizes, so few compilations.
  rows = 1 << max(scored - 1, 0).bit_length()
  windows_NW = np.zeros((rows, mark.width + 1), np.int32)
  windows_NW[:scored] = sorted(found) if found else 0
  is_green_N = mark.is_green(windows_NW[:, :-1], windows_NW[:, -1])
  green = int(np.sum(is_green_N[:scored]))
  spread = math.sqrt(scored * gamma * (1 - gamma))
  return Detection(
    z=(green - scored * gamma) / spread if scored else 0.0,
    # Exact: with few pairs the normal distribution is not.
    p=float(stats.binom.sf(green - 1, scored, gamma)),
    green=green,
    scored=scored,
    tokens=sum(map(len, sequences)),
  )


def _windows(ids: list[int], width: int) -> Iterable[tuple[int, ...]]:
  """Each token behind those before it, as a generate.LogitsFn sees them."""
  ids = [generate.NO_TOKEN] * width + ids
  return zip(*(ids[i:] for i in range(width + 1)), strict=False)
