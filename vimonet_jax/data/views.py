"""What a stage shows of a record: which media, and which of its turns.

A view is a pure function of a record and a random generator. It never shows a
question whose answer lies in a medium that it hides.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from vimonet_jax.data import records


class NothingToAskError(ValueError):
  """A record that has no turn for a view to show.

  Attributes:
    reason: what was expected, and found.
  """

  def __init__(self, record: records.Record, reason: str):
    super().__init__(
      f'Record {record.id}: {reason}; leave such records out or choose other '
      'media.'
    )
    self.reason = reason


@dataclasses.dataclass(frozen=True)
class View:
  """Draws a conversation from a record.

  Attributes:
    media: the media that stay: of `motion` and `video`, none, one or both.
    caption_share: how often the conversation is one caption instead of
      questions, 0 to 1.
    max_turns: most questions in a conversation. They come in any order but for
      those that follow others, and for records whose `in_order` says that all
      do (provenance, see attached.provenance): of these the first ones.
    domain_weights: how eagerly a domain is drawn, 1 where it is not named;
      one of 0 is never drawn.
  """

  media: tuple[str, ...] = ('motion', 'video')
  caption_share: float = 0.0
  max_turns: int = 3
  domain_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if unknown := set(self.media) - {'motion', 'video'}:
      raise ValueError(
        'Expected media out of motion and video, found '
        f'{", ".join(sorted(unknown))}.'
      )
    if wrong := [d for d, w in self.domain_weights.items() if not w >= 0]:
      raise ValueError(
        'Expected weights of at least 0 for domains, found '
        f'{", ".join(f"{d}={self.domain_weights[d]}" for d in wrong)}.'
      )

  def __call__(
    self, record: records.Record, rng: np.random.Generator
  ) -> records.Record:
    """The record with the drawn media and turns only.

    Raises:
      NothingToAskError: the record has no turn that these media can answer, or
        all that it has weigh 0.
    """
    captions = [
      turn
      for turn in record.turns
      if self._answers(turn, record) and _is_caption(turn)
    ]
    asked = self._runs(record)
    if not captions and not asked:
      raise NothingToAskError(
        record,
        f'expected a turn that {" and ".join(self.media) or "text"} can '
        f'answer, found {len(record.turns)} turns of other domains or of '
        'weight 0',
      )
    if captions and (not asked or rng.random() < self.caption_share):
      drawn = [captions[int(rng.integers(len(captions)))]]
    elif record.provenance.get('in_order'):
      # Later rounds refer to earlier ones: the first ones, as they were asked.
      drawn = [turn for run in asked for turn in run][: self.max_turns]
    else:
      weights = np.array([self._weight(run[0]) for run in asked])
      order = rng.choice(
        len(asked),
        size=min(self.max_turns, len(asked)),
        replace=False,
        p=weights / weights.sum(),
      )
      drawn = [turn for i in order for turn in asked[i]][: self.max_turns]
    return self.strip(dataclasses.replace(record, turns=tuple(drawn)))

  def _runs(self, record: records.Record) -> list[list[records.Turn]]:
    """Questions, each with those behind it that follow it, as far as shown.

    What follows a turn that is not shown is not shown either.
    """
    runs, is_shown = [], False
    for turn in record.turns:
      if not turn.follows:
        is_shown = True
        runs.append([])
      is_shown &= self._answers(turn, record) and not _is_caption(turn)
      if is_shown:
        runs[-1].append(turn)
    return [run for run in runs if run]

  def strip(self, record: records.Record) -> records.Record:
    """The record without the media that this view hides."""
    hidden = {}
    if 'motion' not in self.media:
      hidden |= {'motion': None, 'joints': None, 'motion_text': None}
    if 'video' not in self.media:
      hidden |= {'frames': None, 'video_text': None}
    return dataclasses.replace(record, **hidden)

  def _answers(self, turn: records.Turn, record: records.Record) -> bool:
    needed = set(records.DOMAINS.get(turn.domain, self.media))
    has = _media(record)
    if has['video'] and not has['motion'] and 'motion' in needed:
      needed = {'video'}
    return needed <= set(self.media) and self._weight(turn) > 0

  def _weight(self, turn: records.Turn) -> float:
    return self.domain_weights.get(turn.domain, 1)


def _media(record: records.Record) -> dict[str, bool]:
  """Which media a record has, or words in their place."""
  return {
    'motion': record.motion is not None or record.motion_text is not None,
    'video': record.frames is not None or record.video_text is not None,
  }


def _is_caption(turn: records.Turn) -> bool:
  return turn.domain.endswith('_caption')


@dataclasses.dataclass(frozen=True)
class Choice:
  """Shows each record through one of several views.

  Attributes:
    views: of which those whose media a record has are drawn.
    weights: how often, relative to one another.
  """

  views: tuple[View, ...]
  weights: tuple[float, ...]

  def __call__(
    self, record: records.Record, rng: np.random.Generator
  ) -> records.Record:
    """The record through a view; raises what the view raises, too.

    Raises:
      NothingToAskError: no view's media are all there.
    """
    has = _media(record)
    weights = np.array(
      [
        weight * all(has[medium] for medium in view.media)
        for view, weight in zip(self.views, self.weights, strict=True)
      ]
    )
    if not weights.any():
      there = ' and '.join(medium for medium in has if has[medium])
      raise NothingToAskError(
        record,
        f'expected the media of one of {len(self.views)} views, found '
        f'{there or "none"}',
      )
    drawn = int(rng.choice(len(weights), p=weights / weights.sum()))
    return self.views[drawn](record, rng)
