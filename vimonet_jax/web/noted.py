"""Questions on the page in the audit log, a line each, as a server's are."""

import uuid
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
    clip: clips.Clip,
    question: str,
    outcome: str,
    *,
    policy: str | None,
    address: str | None,
    ends: Sequence[scheduler.End] = (),
  ) -> None:
    """Adds a line; all answers of a comparison are in one.

    Args:
      clip: what was shown.
      question: what was asked.
      outcome: in a word; see logs.Log.add.
      policy: version that was accepted.
      address: where it came from.
      ends: of its answers.

    Raises:
      OSError: it could not be written.
    """
    self.log.add(
      request=f'page-{uuid.uuid4().hex}',
      api_key=None,
      media=[self._medium(clip, kind) for kind in clips.media(clip)],
      question=question,
      answer='\n'.join(end.text for end in ends) if ends else None,
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
