import numpy as np
import pytest

from vimonet_jax.care import detectors, evidence, geometry
from vimonet_jax.data import windows
from vimonet_jax.synthetic import body, gestures, mishaps, recordings


def _measured(joints):
  made = windows.of_joints([joints], length_s=6, hop_s=2)
  measuring = geometry.Geometry()
  return [measuring.measure(x) for x in made]


def _held(rows):
  """Joints of controls; before and after them nothing moves for 4 s."""
  joints = body.to_joints(rows)
  return np.concatenate(
    [np.repeat(joints[:1], 80, 0), joints, np.repeat(joints[-1:], 80, 0)]
  )


@pytest.fixture
def drawn():
  rng = np.random.default_rng(0)
  return body.Style.draw(rng), rng


def test_a_fall_ends_on_the_floor_and_a_hard_seat_on_a_seat(drawn):
  falls = _measured(_held(gestures.fall(*drawn, 'left')))
  seats = _measured(_held(mishaps.sit_hard(*drawn)))
  soft = _measured(_held(gestures.sit(*drawn)))

  def most(rows, name):
    return max(row[name] for row in rows)

  assert most(falls, 'drop to the floor') > 1.2
  assert most(seats, 'drop to the floor') == 0
  assert most(seats, 'hard seat') > 1.2 * most(soft, 'hard seat') > 0.4


def test_lying_still_is_counted_over_windows_and_ends_with_a_move(drawn):
  lying = body.to_joints(gestures.lie(*drawn))
  still = np.repeat(lying[-1:], 400, 0)
  up = body.to_joints(gestures.getup(*drawn))
  standing = np.repeat(up[-1:], 200, 0)
  measured = _measured(np.concatenate([lying, still, up, standing]))
  counted = [row['lying still'] for row in measured]
  assert max(counted) == 1.0
  assert counted[-1] == 0.0
  rising = counted[: int(np.argmax(counted)) + 1]
  assert rising == sorted(rising)
  standing = _measured(np.repeat(up[-1:], 400, 0))
  assert all(row['lying still'] == 0 for row in standing)


@pytest.mark.parametrize('direction', ['left', 'forward', 'backward'])
def test_who_fell_and_moves_their_arms_still_lies_after_a_fall(
  drawn, monkeypatch, direction
):
  monkeypatch.setattr(
    evidence.Teller, '_ask', lambda self, shown: [[]] * len(shown)
  )
  monkeypatch.setattr(evidence, 'VERBS', ())
  fall = gestures.fall(*drawn, direction)
  lying = np.repeat(fall[-1:], 900, 0)
  # Five seconds after it, for three.
  waving = np.sin(np.linspace(0, 6 * np.pi, 60))
  for arm in body.ARMS:
    lying[100:160, arm.start] += 60 * waving
  drop = detectors.Detector(('drop to the floor',), (1.3,), (0.1,), (1,), 0.0)

  def told(rows):
    teller = evidence.Teller(None, ('motion',))
    judge = detectors.Judge({'fall': drop})
    rows = np.concatenate([np.repeat(rows[:1], 80, 0), rows])
    made = windows.of_joints([body.to_joints(rows)], length_s=6, hop_s=2)
    for window in made:
      (signs,) = teller.tell([window])
      judge.judge(window, signs)
      yield signs

  seen = list(told(np.concatenate([fall, lying])))
  still = [x['lying still'] for x in seen]
  # They were seen to move, which is why they did not lie still any more.
  assert any(b < a for a, b in zip(still, still[1:], strict=False))
  assert seen[-1]['lying still'] == 1.0
  assert seen[-1][evidence.FELL] > 0.9
  # Who has got up since, and lies down, has not fallen.
  rest = gestures.lie(*drawn)
  up = np.repeat(drawn[0].standing[None], 200, 0)
  rows = [fall, lying[:200], up, rest, np.repeat(rest[-1:], 500, 0)]
  seen = list(told(np.concatenate(rows)))
  assert seen[-1]['lying still'] == 1.0
  assert seen[-1][evidence.FELL] < 0.3


@pytest.mark.parametrize(
  ('unseen', 'is_gap'),
  [([300], False), ([300, 400, 500], True), (range(300, 500), True)],
)
def test_nobody_lies_on_across_a_long_time_in_which_nobody_was_seen(
  drawn, unseen, is_gap
):
  """A frame alone that is missing is none, but where no window is whole."""
  lying = np.repeat(body.to_joints(gestures.lie(*drawn))[-1:], 601, 0)
  upright = np.repeat(body.to_joints(drawn[0].standing[None]), 80, 0)
  joints = np.concatenate([upright, lying]).astype(np.float64)
  joints[list(unseen)] = np.nan
  measuring = geometry.Geometry()
  shown = [
    x
    for x in windows.of_joints([joints], length_s=6, hop_s=2)
    if x.joints is not None
  ]
  counted = []
  for window in shown:
    measuring.measure(window)
    counted.append((measuring.lying_s, measuring.down_s))
  again = next(i for i, x in enumerate(shown) if x.start_s > 15)
  length_s = shown[again].end_s - shown[again].start_s
  more_s = shown[again].end_s - shown[again - 1].end_s
  before = np.array(counted[again - 1])
  assert before.min() > 6
  expected = length_s if is_gap else before + more_s
  np.testing.assert_allclose(counted[again], expected)
  np.testing.assert_allclose(counted[again + 1], expected + 2)


def test_a_fall_is_forgotten_after_a_while_where_nobody_measures():
  judge = detectors.Judge(
    {'fall': detectors.Detector(('a',), (0.0,), (1.0,), (9.0,), 0.0)}
  )

  def judged(start_s, sign):
    told = {'a': sign}
    judge.judge(windows.Window(start_s, start_s + 6), told)
    return told[evidence.FELL]

  assert judged(0.0, 1.0) > 0.9
  assert judged(6.0, -1.0) > 0.9
  assert judged(14.0, -1.0) > 0.9
  assert judged(22.0, -1.0) < 0.1


def test_heights_are_above_the_floor_that_was_touched(drawn):
  joints = _held(gestures.fall(*drawn, 'forward'))
  raised = joints + np.array([0.0, 2.5, 0.0])
  assert [row['drop to the floor'] for row in _measured(raised)] == (
    pytest.approx([row['drop to the floor'] for row in _measured(joints)])
  )


def test_wandering_goes_to_and_fro_more_than_ordinary_life():
  def measured(rates):
    joints, events = recordings.take(
      recordings.pieces(0, 'val', per_hour=rates), 900
    )
    made = list(windows.of_joints([joints], length_s=6, hop_s=2))
    shown = detectors.is_shown(made, events, 'wandering') == 1
    return np.array([x['to and fro'] for x in _measured(joints)]), shown

  busy, shown = measured({'wandering': 60.0})
  calm, _ = measured({})
  assert np.median(busy[shown]) > np.percentile(calm, 90)
