"""The text of an answer while it is being written.

A token can change what those before it say: letters of several bytes come one
byte at a time, and what looks like the beginning of a stop string may be one.
So only what no later token can change is given out.
"""

from collections.abc import Iterable, Sequence

from vimonet_jax.data import tokenizer

# What SentencePiece makes of bytes that are no letter yet.
_UNKNOWN = '\ufffd'


class Pieces:
  """Turns tokens into text, piece by piece.

  All pieces together are what Engine.decode makes of all tokens, up to the
  first stop string.

  Attributes:
    is_stopped: whether there was a stop string; nothing comes after it.
  """

  def __init__(self, words: tokenizer.Tokenizer, stop: Sequence[str] = ()):
    """Begins an answer.

    Args:
      words: the model's tokenizer.
      stop: texts that an answer ends before; not empty.
    """
    self._words = words
    self._stop = tuple(stop)
    self._ids: list[int] = []
    self._said = 0
    self.is_stopped = False

  def add(self, ids: Iterable[int]) -> str:
    """What can be said after more tokens; '' where nothing is certain."""
    self._ids.extend(int(i) for i in ids)
    said = self._text().rstrip().rstrip(_UNKNOWN).rstrip()
    return self._say(said if self.is_stopped else self._without_begun(said))

  def end(self) -> str:
    """What is left to say after the last token."""
    return self._say(self._text().rstrip())

  def _say(self, text: str) -> str:
    piece = text[self._said :]
    self._said = max(self._said, len(text))
    return piece

  def _text(self) -> str:
    """All so far, up to the first stop string."""
    text = self._words.decode(self._ids).lstrip()
    found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
    if found:
      self.is_stopped = True
      text = text[: min(found)]
    return text

  def _without_begun(self, text: str) -> str:
    """Without what may be the beginning of a stop string, at its end."""
    begun = (
      length
      for stop in self._stop
      for length in range(1, min(len(stop), len(text) + 1))
      if text.endswith(stop[:length])
    )
    return text[: len(text) - max(begun, default=0)]
