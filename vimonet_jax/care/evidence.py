"""What a window of a recording tells: measures of joints, answers of a model.

Somebody who does not move does nothing that a question is about, so a model is
not asked about windows in which nobody does. That is most of the time, and no
clip that tiny models are trained on is like it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vimonet_jax.care import geometry
from vimonet_jax.data import records, windows
from vimonet_jax.infer import engine, likelihood
from vimonet_jax.motion import features
from vimonet_jax.synthetic import language

# Which verbs are likely answers to these two tells more than a question with
# yes or no for each verb, and costs less. The words are those of VIMOS-Synth.
QUESTIONS = {
  'first': ('What does the person do first?', 'First the person is'),
  'last': ('What does the person do last?', 'At the end the person is'),
}
_VERBS = tuple(language.phrase(verb) for verb in language.GERUNDS)
VERBS = tuple(f'{name}: {verb}' for name in QUESTIONS for verb in _VERBS)
# What `detectors.Judge` adds.
FELL = 'lying since a fall'
# Below this mean speed of all joints nobody moves, m/s; standing people sway
# with 0.01 to 0.03.
_STILL_M_S = 0.06
# Log-probabilities below are all as good as nothing.
_LEAST = -10.0
# Windows that are read at the same time.
ROWS = 64


class Teller:
  """Gives the signs of windows that come one behind the other."""

  def __init__(self, asking: engine.Engine, media: Sequence[str]):
    """Begins a recording.

    Args:
      asking: the model.
      media: of 'motion' and 'video', what windows have.
    """
    self._asking = asking
    self._geometry = geometry.Geometry() if 'motion' in media else None

  def tell(self, shown: Sequence[windows.Window]) -> list[dict[str, float]]:
    """Sign -> value of each window.

    VERBS, log-probabilities of what is done, are missing where nobody moves;
    what geometry.Geometry measures, where there is no motion.
    """
    told: list[dict[str, float]] = []
    for window in shown:
      told.append({})
      if self._geometry:
        told[-1] |= self._geometry.measure(window)
        told[-1]['down_s'] = self._geometry.down_s
    moving = [i for i, x in enumerate(told) if x.get('speed', 1.0) > _STILL_M_S]
    log_probs_WV = self._ask([shown[i] for i in moving])
    for i, log_probs_V in zip(moving, log_probs_WV, strict=True):
      told[i] |= dict(zip(VERBS, log_probs_V, strict=True))
    return told

  def _ask(self, shown: Sequence[windows.Window]) -> list[list[float]]:
    """Log-probabilities of VERBS for each window."""
    if not shown:
      return []
    asked = [
      dataclasses.replace(record, turns=(records.Turn(*turn),))
      for record in map(of_media, shown)
      for turn in QUESTIONS.values()
    ]
    answers = [f' {verb}' for verb in _VERBS]
    scored = likelihood.score(
      self._asking, asked, [answers] * len(asked), max_rows=ROWS
    )
    totals_AV = np.array([[one.total for one in row] for row in scored])
    # Among these verbs, each question by itself.
    totals_AV -= np.logaddexp.reduce(totals_AV, axis=1, keepdims=True)
    return np.maximum(totals_AV, _LEAST).reshape(len(shown), -1).tolist()


def of_media(window: windows.Window) -> records.Record:
  """A window as a record without a turn; features are its own.

  Raises:
    ValueError: its joints are no body, or not numbers; says when.
  """
  motion = None
  if window.joints is not None:
    try:
      motion = records.trim_motion(features.encode(window.joints))
    except ValueError as e:
      raise ValueError(f'At {window.start_s:.1f} s: {e}') from e
  name = f'{window.start_s:.2f} s'
  return records.Record(
    name, 'given', 'test', motion=motion, frames=window.frames
  )
