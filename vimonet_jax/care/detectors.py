"""From what a window tells to how likely it shows an event.

One logistic regression a kind of event, on the signs that tell of it, fitted on
recordings whose events are known. Its output is a probability as long as events
are as frequent as they were there; the threshold above which an event begins
does not depend on that, for it is chosen by false alarms an hour.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vimonet_jax.care import events, evidence
from vimonet_jax.data import windows
from vimonet_jax.synthetic import recordings

# A window shows an event where it has half of it, or is half of it; one that
# has less is neither used as one with nor as one without.
_SHOWN = 0.5
# How long somebody may have been down where nobody measures it.
_DOWN_S = 20.0
# Of validation recordings 1 left more false alarms, with as many events found.
_RIDGE, _ITERATIONS = 10.0, 40


def _sigmoid(x):
  return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


_THRESHOLDS = _sigmoid(np.linspace(-6, 6, 61))


@dataclasses.dataclass(frozen=True)
class Detector:
  """Signs of a window -> probability of a kind of event.

  Attributes:
    signs: their names.
    mean, scale: of each sign, where it was fitted.
    weights: of each, once it is normalised.
    bias: is added.
    threshold: an event begins above it.
  """

  signs: tuple[str, ...]
  mean: tuple[float, ...]
  scale: tuple[float, ...]
  weights: tuple[float, ...]
  bias: float
  threshold: float = 0.5

  def __call__(self, told: Mapping[str, float]) -> float:
    """0 where a sign is missing: where nobody moves, nothing happens."""
    if not told.keys() >= set(self.signs):
      return 0.0
    signs_S = np.array([told[x] for x in self.signs])
    normal_S = (signs_S - np.array(self.mean)) / np.array(self.scale)
    return float(_sigmoid(normal_S @ np.array(self.weights) + self.bias))

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> 'Detector':
    return cls(
      **{
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
      }
    )


class Judge:
  """How sure of each kind of event windows make that follow one another."""

  def __init__(self, found: Mapping[str, Detector]):
    self._detectors = found
    self._falls: collections.deque = collections.deque()

  def judge(
    self, window: windows.Window, told: dict[str, float]
  ) -> dict[str, float]:
    """Kind -> probability; adds the sign of lying after a fall to `told`."""
    sure = {}
    for kind, detector in self._detectors.items():
      sure[kind] = detector(told)
      if kind == 'fall':  # It comes first.
        self._falls.append((window.end_s, sure[kind]))
        told[evidence.FELL] = self._lies_after_a_fall(window, told)
    return sure

  def _lies_after_a_fall(self, window, told) -> float:
    """How sure it is of the fall that brought somebody down who lies still.

    It counts the more the longer they lie still, and in full after 15 s; who
    moves and stays down has not got up since. Where nobody measures that, it is
    how sure it was of a fall lately.
    """
    since_s = window.end_s - told.get('down_s', _DOWN_S)
    while self._falls and self._falls[0][0] < since_s - 1:
      self._falls.popleft()
    highest = max((sure for _, sure in self._falls), default=0.0)
    return highest * told.get('lying still', 1.0)


def fit(
  signs: Sequence[str],
  told: Sequence[Mapping[str, float]],
  is_shown_W: np.ndarray,
) -> Detector:
  """A detector without a threshold of its own.

  Args:
    signs: names of what it looks at.
    told: of each window, by name; where some are missing, it is not used.
    is_shown_W: 1 where there is an event, 0 where there is none, NaN where
      that is not said.
  """
  used = [
    i
    for i, one in enumerate(told)
    if one.keys() >= set(signs) and not np.isnan(is_shown_W[i])
  ]
  x_WS = np.array([[told[i][x] for x in signs] for i in used])
  y_W = is_shown_W[used]
  mean, scale = x_WS.mean(0), x_WS.std(0) + 1e-6
  x_WS = np.concatenate([(x_WS - mean) / scale, np.ones((len(x_WS), 1))], 1)
  ridge = np.diag([_RIDGE] * len(signs) + [1e-6])
  w = np.zeros(len(signs) + 1)
  for _ in range(_ITERATIONS):  # Newton's.
    p_W = _sigmoid(x_WS @ w)
    slope = x_WS.T @ (p_W - y_W) + ridge @ w
    curve = (x_WS * (p_W * (1 - p_W))[:, None]).T @ x_WS + ridge
    w -= np.linalg.solve(curve, slope)
  return Detector(
    tuple(signs),
    tuple(mean.tolist()),
    tuple(scale.tolist()),
    tuple(w[:-1].tolist()),
    float(w[-1]),
  )


def is_shown(
  shown: Sequence[windows.Window], true: Sequence[recordings.Event], kind: str
) -> np.ndarray:
  """1, 0 or NaN for each window, as `fit` takes it."""
  starts, ends = np.array([(x.start_s, x.end_s) for x in shown]).T
  found = np.zeros(len(shown))
  for event in true:
    if event.kind != kind:
      continue
    seen_s = event.start_s + events.SEEN_AFTER_S.get(kind, 0.0)
    touches = (ends > event.start_s - 1) & (starts < event.end_s + 1)
    common = np.minimum(ends, event.end_s) - np.maximum(starts, event.start_s)
    least = _SHOWN * np.minimum(ends - starts, event.end_s - event.start_s)
    has = (common >= least) & (ends >= seen_s)
    found[touches & ~has & (found == 0)] = np.nan
    found[has] = 1.0
  return found


def choose_threshold(
  shown: Sequence[windows.Window],
  probabilities_W: np.ndarray,
  true: Sequence[recordings.Event],
  kind: str,
  *,
  hop_s: float,
  most_false_per_hour: float,
) -> float:
  """Where most events are found with so few false alarms an ordinary hour.

  Of thresholds that are as good it is the middle one, for other recordings have
  other edges. Where none has so few false alarms, it is where they are fewest.
  """
  # Alarms are false in ordinary life, of which a busy recording has less.
  busy_s = sum(event.end_s - event.start_s for event in true)
  hours = (_watched_s(shown) - busy_s) / 3600
  mine = [event for event in true if event.kind == kind]
  ranks = []
  for threshold in _THRESHOLDS:
    found = events.find(shown, probabilities_W, kind, threshold, hop_s)
    seen = events.compare(found, mine)
    false = seen.is_true.count(False) / hours
    hits = sum(x is not None for x in seen.latency_s)
    good = false <= most_false_per_hour
    ranks.append((good, hits if good else 0, 0.0 if good else -false))
  alike = [i for i, rank in enumerate(ranks) if rank == max(ranks)]
  return float(_THRESHOLDS[alike[len(alike) // 2]])


def _watched_s(shown: Sequence[windows.Window]) -> float:
  """What windows cover, without the time between recordings that are joined."""
  watched_s, end_s = 0.0, 0.0
  for one in shown:
    watched_s += one.end_s - max(one.start_s, end_s)
    end_s = one.end_s
  return watched_s
