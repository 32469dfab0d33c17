"""Text to ids and back, as Llama and Vicuna do it with SentencePiece."""

import functools
import io
import logging
from collections.abc import Iterable

import sentencepiece

PAD, BOS, EOS = 0, 1, 2
# SentencePiece leaves out lines of more than 4192 bytes, which are at least a
# quarter as many characters, and says so to nobody.
_LONGEST_LINE = 1000
# Letters of the longest text whose ids are kept; strangers send longer ones.
_LONGEST_KEPT = 1000


class Tokenizer:
  """A SentencePiece model: Vicuna's own, or one from `train_tokenizer`.

  Every text is encoded with a space in front, so ids of texts that are encoded
  one by one are not those of the joined text.

  Attributes:
    proto: the serialized model.
    vocab_size: how many ids there are.
  """

  def __init__(self, proto: bytes):
    """Takes a serialized model.

    Raises:
      ValueError: not a model, or one whose special ids are not Llama's.
    """
    try:
      self._pieces = sentencepiece.SentencePieceProcessor(model_proto=proto)
    except RuntimeError as e:
      raise ValueError(
        f'Expected a SentencePiece model, found {len(proto)} bytes that begin '
        f'with {proto[:40]!r}; give a tokenizer.model.'
      ) from e
    found = (self._pieces.bos_id(), self._pieces.eos_id())
    if found != (BOS, EOS):
      raise ValueError(
        f'Expected bos and eos to be ids {BOS} and {EOS}, found {found}; use '
        "Vicuna's tokenizer.model or train one with tokenizer.train_tokenizer."
      )
    self.proto = proto
    self.vocab_size = self._pieces.get_piece_size()
    # Questions come again and again; looking them up is ten times as fast.
    self._encode = functools.lru_cache(maxsize=1 << 14)(self._encode_anew)

  @classmethod
  def load(cls, path: str) -> 'Tokenizer':
    """Reads a tokenizer.model."""
    with open(path, 'rb') as f:
      proto = f.read()
    try:
      return cls(proto)
    except ValueError as e:
      raise ValueError(f'{path}: {e}') from e

  def save(self, path: str) -> None:
    with open(path, 'wb') as f:
      f.write(self.proto)

  def encode(self, text: str) -> list[int]:
    """Ids without bos and eos; what looks like `</s>` stays ordinary text."""
    is_kept = len(text) <= _LONGEST_KEPT
    return list(self._encode(text) if is_kept else self._encode_anew(text))

  def _encode_anew(self, text: str) -> tuple[int, ...]:
    # Half of a surrogate pair, as broken JSON files have them, has no UTF-8.
    return tuple(self._pieces.encode(text.encode('utf-8', 'replace')))

  def decode(self, ids: Iterable[int]) -> str:
    """The text of ids; bos, eos and padding say nothing."""
    return self._pieces.decode([int(i) for i in ids if i != PAD])

  def __reduce__(self):
    return Tokenizer, (self.proto,)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
  """Trains a tokenizer of Vicuna's kind on few texts.

  Byte-pair encoding, bytes for whatever the texts do not have, and a space in
  front of every text. The same texts give the same bytes.

  Args:
    texts: what shall be written with few ids. A template's words count only
      where they are among the texts: see `text.texts`.
    vocab_size: how many ids there may be. 259 of them are special or bytes. The
      texts may run out of pairs earlier; the vocabulary is smaller then.

  Returns:
    The serialized model, for `Tokenizer`.
  """
  # Like in Vicuna's model, a newline is a byte and no piece of its own.
  lines = (
    line[start : start + _LONGEST_LINE]
    for text in texts
    for line in text.split('\n')
    for start in range(0, len(line), _LONGEST_LINE)
  )
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=lines,
      model_writer=model,
      model_type='bpe',
      vocab_size=vocab_size,
      hard_vocab_limit=False,
      character_coverage=1.0,
      byte_fallback=True,
      normalization_rule_name='identity',
      add_dummy_prefix=True,
      remove_extra_whitespaces=False,
      unk_id=0,
      bos_id=BOS,
      eos_id=EOS,
      pad_id=-1,
      num_threads=1,  # Several threads break ties as they come.
      minloglevel=2,
    )
  except RuntimeError as e:
    raise ValueError(
      f'Expected texts for a vocabulary of {vocab_size}, found some that '
      f'SentencePiece cannot use; give more texts or more ids. It says: {e}'
    ) from e
  proto = model.getvalue()
  found = Tokenizer(proto).vocab_size
  if found < vocab_size:
    logging.warning(
      'The texts have pairs for %d ids only, not for %d; the vocabulary is as '
      'small as that.',
      found,
      vocab_size,
    )
  return proto
