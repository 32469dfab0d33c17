import numpy as np
import pytest

from vimonet_jax.care import detectors, events
from vimonet_jax.data import windows
from vimonet_jax.synthetic import recordings


def _shown(number, length_s=6.0, hop_s=2.0):
  return [
    windows.Window(i * hop_s, i * hop_s + length_s) for i in range(number)
  ]


def _found(confidences, threshold=0.6):
  shown = _shown(len(confidences))
  return events.find(shown, np.array(confidences), 'fall', threshold, 2.0)


def test_an_event_begins_above_the_threshold_and_is_kept_up_below_it():
  (one,) = _found([0.1, 0.2, 0.7, 0.9, 0.4, 0.1, 0.1, 0.1, 0.1])
  assert one.alarm_s == 10.0
  assert one.confidence == 0.9
  # What all three windows that saw it have in common.
  assert (one.start_s, one.end_s) == (8.0, 10.0)
  assert not _found([0.1, 0.5, 0.5, 0.1])


def test_windows_that_touch_are_one_event_and_others_are_two():
  assert len(_found([0.9, 0, 0, 0.9, 0, 0, 0, 0])) == 1
  assert len(_found([0.9, 0, 0, 0, 0, 0.9, 0])) == 2


def test_a_long_event_reaches_from_its_first_window_to_its_last():
  (one,) = _found([0, 0, *[0.9] * 8, 0, 0])
  assert (one.start_s, one.end_s) == (8.0, 20.0)
  # Nobody wanders from the moment on when that is clear.
  shown = _shown(40)
  sure = np.array([0.9 * (i >= 30) for i in range(40)])
  (one,) = events.find(shown, sure, 'wandering', 0.6, 2.0)
  assert (one.start_s, one.alarm_s) == (66.0 - 2.0 - 45.0, 66.0)
  # And one that goes on when the recording ends is not lost.
  assert len(_found([0, 0.9])) == 1


def test_found_events_are_compared_with_those_of_their_kind():
  true = [
    recordings.Event('fall', 10.0, 12.0),
    recordings.Event('fall', 40.0, 42.0),
    recordings.Event('stumble', 70.0, 73.0),
  ]
  found = [
    events.Found('fall', 13.5, 15.0, 0.9, 16.0),
    events.Found('fall', 9.0, 11.0, 0.9, 14.0),
    events.Found('fall', 70.0, 72.0, 0.9, 76.0),
  ]
  seen = events.compare(found, true)
  assert seen.latency_s == [4.0, None, None]
  assert seen.is_true == [True, True, False]
  # Who always cries wolf finds nothing.
  always = [events.Found('fall', 0.0, 90.0, 0.9, 6.0)]
  assert events.compare(always, true[1:]).is_true == [False]
  # And an alarm before a fall was none of it.
  early = [events.Found('fall', 33.0, 38.5, 0.9, 36.0)]
  assert events.compare(early, true[1:2]) == ([None], [False])


def test_windows_with_a_part_of_an_event_teach_nothing():
  true = [recordings.Event('fall', 10.0, 12.0)]
  labels = detectors.is_shown(_shown(8), true, 'fall')
  np.testing.assert_array_equal(labels, [0, 0, np.nan, 1, 1, 1, np.nan, 0])
  # Wandering is not seen at once.
  true = [recordings.Event('wandering', 0.0, 60.0)]
  labels = detectors.is_shown(_shown(30), true, 'wandering')
  assert np.isnan(labels[5])
  assert labels[24] == 1


def _noisy(rng, number=600):
  """Windows, signs of which `a` tells of three falls, and those falls."""
  shown = _shown(number)
  true = [recordings.Event('fall', s, s + 2.0) for s in (200.0, 600.0, 1000.0)]
  is_fall = detectors.is_shown(shown, true, 'fall') == 1
  told = [{'a': 3.0 * x + rng.normal(), 'b': rng.normal()} for x in is_fall]
  return shown, told, true


def test_a_detector_finds_the_sign_that_tells_and_keeps_its_limit():
  shown, told, true = _noisy(np.random.default_rng(0))
  labels = detectors.is_shown(shown, true, 'fall')
  fitted = detectors.fit(('a', 'b'), told, labels)
  assert fitted.weights[0] > 5 * abs(fitted.weights[1])
  sure = np.array([fitted(one) for one in told])
  # A probability: as many as it expects, since it was fitted to these.
  known = ~np.isnan(labels)
  assert sure[known].sum() == pytest.approx(labels[known].sum(), rel=0.1)
  for most in (0.0, 3.0):
    threshold = detectors.choose_threshold(
      shown, sure, true, 'fall', hop_s=2.0, most_false_per_hour=most
    )
    found = events.find(shown, sure, 'fall', threshold, 2.0)
    false = events.compare(found, true).is_true.count(False)
    assert false <= most * shown[-1].end_s / 3600
    assert found
  again = detectors.Detector.from_json(fitted.to_json())
  assert again == fitted
  # Where a sign is missing, nothing is seen.
  assert again({'a': 9.0}) == 0.0


def test_false_alarms_are_counted_by_time_that_was_watched():
  # Two people of 30 min each, and nobody for an hour: two false alarms, which
  # are two an hour, and not one.
  shown = _shown(898)
  shown += [
    x._replace(start_s=x.start_s + 5400, end_s=x.end_s + 5400) for x in shown
  ]
  sure = np.zeros(len(shown))
  sure[[100, 1000]] = 0.9
  threshold = detectors.choose_threshold(
    shown, sure, [], 'fall', hop_s=2.0, most_false_per_hour=1.5
  )
  assert not events.find(shown, sure, 'fall', threshold, 2.0)


def test_lying_still_knows_whether_somebody_fell():
  fall = detectors.Detector(('x',), (0.0,), (1.0,), (1.0,), 0.0)

  def told(x, lying_s):
    return {
      'x': x, 'down_s': lying_s, 'lying still': min(lying_s / 15, 1.0)
    }  # fmt: skip

  judge = detectors.Judge({'fall': fall})
  fell = []
  for i, window in enumerate(_shown(12)):
    # Falls at 6 s, and then lies.
    signs = told(5.0 if i in (1, 2) else -5.0, max(0.0, window.end_s - 8.0))
    judge.judge(window, signs)
    fell.append(signs['lying since a fall'])
  assert fell == sorted(fell)
  assert fell[0] < 0.01
  assert fell[-1] > 0.99
  rested = detectors.Judge({'fall': fall})
  for i, window in enumerate(_shown(30)):
    # Falls at 6 s, gets up, and lies down from 30 s on.
    signs = told(5.0 if i in (1, 2) else -5.0, max(0.0, window.end_s - 30.0))
    rested.judge(window, signs)
  assert signs['lying still'] == 1.0
  assert signs['lying since a fall'] < 0.01
