"""Questions on the page in the audit log, as a server's streams are.

One that is asked has two lines, its begin and its end; one that is refused one.
"""

from collections.abc import Sequence
from typing import NamedTuple

from vimonet_jax.apps import completions
from vimonet_jax.audit import log as logs
from vimonet_jax.data import records
from vimonet_jax.infer import scheduler
from vimonet_jax.web import clip as clips


class Book(NamedTuple):
  """Where questions are written down, and what is the same for all of them.

  Attributes:
    log: the audit log.
    weights: their fingerprint.
    watermark: whether answers are marked.
  """

  log: logs.Log
  weights: str
  watermark: bool = False

  def note(
    self,
    request: str,
    clip: clips.Clip,
    question: str,
    outcome: str,
    *,
    policy: str | None,
    address: str | None,
    answer: str | None = None,
    ends: Sequence[scheduler.End] = (),
  ) -> None:
    """Adds a line; all answers of a comparison are in one.

    Args:
      request: id of the question.
      clip: what was shown.
      question: what was asked.
      outcome: in a word; see logs.Log.add.
      policy: version that was accepted.
      address: where it came from.
      answer: all that was told; None where nothing was.
      ends: of its answers, of those that have one.

    Raises:
      OSError: it could not be written.
    """
    self.log.add(
      request=request,
      api_key=None,
      media=[self._medium(clip, kind) for kind in clips.media(clip)],
      question=question,
      answer=answer,
      model=self.weights,
      watermark=self.watermark,
      policy=policy,
      outcome=outcome,
      seconds=completions.seconds(ends) if ends else {},
      address=address,
    )

  def _medium(self, clip: clips.Clip, kind: str) -> logs.Medium:
    """A file by its bytes; of an example there are none, but its arrays."""
    array = clip.record.clips[kind]
    seconds = len(array) / records.FPS if kind == 'motion' else None
    digest = clip.digests.get(kind) or self.log.keyed(array.tobytes())
    return logs.Medium(kind, seconds, digest)
