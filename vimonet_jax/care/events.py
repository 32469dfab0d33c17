"""From confidences of overlapping windows to events, and how good they are.

confidence   .1 .2 .7 .9 .8 .4 .1 .0 .0      threshold .6
                    |  |     |        |
                    |  alarm |        closed: a window that begins after
                    begins   keeps      the last one that kept it up
                             it up: above half of the threshold
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vimonet_jax.data import windows
from vimonet_jax.synthetic import recordings

_KEEPS = 0.5
# What takes time to be seen is not expected before, and had begun then.
SEEN_AFTER_S = {'wandering': 45.0, 'lying still': 8.0}
# A found event and a true one are the same where they are so close, unless the
# one that was found had begun long before.
_CLOSE_S, _BEFORE_S = 2.0, 10.0


class Found(NamedTuple):
  """An event that was found.

  Attributes:
    kind: of recordings.KINDS.
    start_s, end_s: about where it lies: in all windows that saw it if they have
      a part in common, else from the first of them to the last; what takes time
      to be seen began so long before.
    confidence: the highest of these windows, 0 to 1.
    alarm_s: the end of the first of them, when it could be known.
  """

  kind: str
  start_s: float
  end_s: float
  confidence: float
  alarm_s: float


class Watch:
  """Follows the confidences of one kind of event, window by window.

  Attributes:
    found: the event that goes on, if there is one.
  """

  def __init__(self, kind: str, threshold: float, hop_s: float):
    self.found: Found | None = None
    self._kind = kind
    self._threshold = threshold
    self._hop_s = hop_s
    self._last: windows.Window | None = None
    self._first: windows.Window | None = None

  def see(self, window: windows.Window, confidence: float) -> Found | None:
    """Takes the next window; gives an event once it is over."""
    over = None
    if self.found and window.start_s > self._last.end_s:
      over = self.close()
    least = self._threshold * (_KEEPS if self.found else 1.0)
    if confidence >= least:
      if not self.found:
        self._first = window
        self.found = Found(self._kind, 0.0, 0.0, 0.0, window.end_s)
      self._last = window
      start_s, end_s = window.start_s, self._first.end_s
      if start_s > end_s:
        start_s, end_s = end_s - self._hop_s, start_s + self._hop_s
      start_s = max(start_s - SEEN_AFTER_S.get(self._kind, 0.0), 0.0)
      self.found = self.found._replace(
        start_s=start_s,
        end_s=end_s,
        confidence=max(self.found.confidence, confidence),
      )
    return over

  def close(self) -> Found | None:
    """What goes on where the recording ends."""
    over, self.found = self.found, None
    return over


def find(
  shown: Sequence[windows.Window],
  confidences_W: np.ndarray,
  kind: str,
  threshold: float,
  hop_s: float,
) -> list[Found]:
  """All events of a kind in a recording's windows."""
  watch = Watch(kind, threshold, hop_s)
  seen = [watch.see(*x) for x in zip(shown, confidences_W, strict=True)]
  return [found for found in (*seen, watch.close()) if found]


class Compared(NamedTuple):
  """Found events beside the true ones.

  Attributes:
    latency_s: of each true event, from its start to the alarm; None if missed.
    is_true: of each found event.
  """

  latency_s: list[float | None]
  is_true: list[bool]


def compare(
  found: Sequence[Found], true: Sequence[recordings.Event]
) -> Compared:
  """Which events were found, and which findings are none.

  An event is found by one of its kind that is at most two seconds away, did not
  begin more than ten before it, and whose alarm did not come before it: who
  always cries wolf finds nothing, and nobody sees what is to come.
  """
  latency_s = []
  for event in true:
    alarms = [x.alarm_s for x in found if _is_same(x, event)]
    latency_s.append(min(alarms) - event.start_s if alarms else None)
  return Compared(
    latency_s, [any(_is_same(x, event) for event in true) for x in found]
  )


def _is_same(found: Found, event: recordings.Event) -> bool:
  return (
    found.kind == event.kind
    and found.start_s <= event.end_s + _CLOSE_S
    and found.end_s >= event.start_s - _CLOSE_S
    and found.start_s >= event.start_s - _BEFORE_S
    and found.alarm_s >= event.start_s
  )
