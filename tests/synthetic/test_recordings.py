import itertools

import numpy as np
import pytest

from vimonet_jax.synthetic import body, gestures, mishaps, recordings

_OFTEN = dict.fromkeys(recordings.OFTEN, 40.0)


@pytest.fixture(scope='module')
def hour():
  """Joints, events and what was done in each frame of a busy hour."""
  joints, events, doing = [], [], []
  stream = recordings.pieces(3, 'val', per_hour=_OFTEN)
  while len(doing) < 3600 * 20:
    piece = next(stream)
    joints.append(piece.joints)
    events += piece.events
    doing += [piece.doing] * len(piece.joints)
  return np.concatenate(joints), events, np.array(doing)


def test_all_kinds_happen_and_the_rest_is_ordinary(hour):
  joints, events, doing = hour
  assert {event.kind for event in events} == set(recordings.KINDS)
  assert {'walk', 'sit', 'rise', 'lie', 'getup', 'turn', 'reach'} <= set(doing)
  assert all(event.start_s < event.end_s for event in events)
  # One after the other, but for lying still, which begins where a fall ends.
  for one, other in itertools.pairwise(sorted(events, key=lambda e: e.start_s)):
    assert other.start_s >= one.end_s
    if other.kind == 'lying still':
      assert (one.kind, one.end_s) == ('fall', other.start_s)


def test_a_body_never_jumps_and_stays_between_the_walls(hour):
  joints, _, doing = hour
  speed_T = np.linalg.norm(np.diff(joints, axis=0), axis=-1).max(-1) * 20
  assert speed_T.max() < 9.0  # A hand that throws itself forward.
  changes = np.flatnonzero(doing[1:] != doing[:-1])
  assert speed_T[changes].max() < 2.0
  assert np.abs(joints[:, 0, [0, 2]]).max() < 5.0
  assert joints[..., 1].min() > -0.05


def test_events_are_where_the_body_does_them(hour):
  joints, events, _ = hour
  height_T = joints[:, 0, 1]
  for event in events:
    start, end = round(20 * event.start_s), round(20 * event.end_s)
    if event.kind == 'fall':
      assert height_T[start] > 0.85
      assert height_T[end - 1] < 0.3
    elif event.kind == 'lying still':
      assert height_T[start:end].max() < 0.3
      assert event.end_s - event.start_s >= 14
    elif event.kind == 'sitting down hard':
      assert height_T[end - 1] == pytest.approx(0.48, abs=0.05)
    elif event.kind == 'wandering':
      assert event.end_s - event.start_s >= 70


def test_a_recording_is_a_function_of_its_seed_and_split():
  def first(*args):
    return recordings.take(recordings.pieces(*args), 60)

  joints, events = first(0, 'val')
  again = first(0, 'val')
  np.testing.assert_array_equal(joints, again[0])
  assert events == again[1]
  assert len(joints) == 1200
  for other in ((1, 'val'), (0, 'test')):
    assert not np.array_equal(joints, first(*other)[0])


def test_a_file_holds_what_the_stream_gives(tmp_path):
  path = tmp_path / 'day.npy'
  one, other = (recordings.pieces(0, 'test', per_hour=_OFTEN) for _ in range(2))
  events = recordings.write(path, one, 95.3)
  joints, wanted = recordings.take(other, 95.3)
  np.testing.assert_array_equal(np.load(path), joints)
  assert events == wanted
  assert all(event.end_s <= 95.3 for event in events)


def test_nothing_happens_where_nothing_is_asked_for():
  stream = recordings.pieces(0, 'val', per_hour={})
  _, events = recordings.take(stream, 900)
  assert not events


def test_unknown_splits_and_kinds_are_refused():
  with pytest.raises(ValueError, match="val, test, found 'train'"):
    recordings.pieces(0, 'train')
  with pytest.raises(ValueError, match='found lying still; lying still'):
    recordings.pieces(0, 'val', per_hour={'lying still': 1.0})


@pytest.mark.parametrize('direction', ['forward', 'backward', 'left', 'right'])
def test_who_fell_gets_up_and_stands(direction):
  rng = np.random.default_rng(0)
  style = body.Style.draw(rng)
  lying = gestures.fall(style, rng, direction)[-1]
  rows = mishaps.up_again(lying, direction, style, rng)
  np.testing.assert_allclose(rows[0], lying)
  # On the feet, wherever that is.
  moved = (rows[-1] - style.standing)[[0, 2, 11, 13, 16, 18]].reshape(3, 2)
  np.testing.assert_allclose(moved, np.tile(moved[:1], (3, 1)), atol=1e-3)
  assert rows[-1, body.Y] == pytest.approx(style.standing[body.Y], abs=1e-3)


def test_a_hard_seat_is_reached_faster_than_a_soft_one():
  rng = np.random.default_rng(0)
  style = body.Style.draw(rng)

  def fastest(rows):
    height_T = body.to_joints(rows)[:, 0, 1]
    return (height_T[:-4] - height_T[4:]).max() / 0.2

  hard = [fastest(mishaps.sit_hard(style, rng)) for _ in range(5)]
  soft = [fastest(gestures.sit(style, rng)) for _ in range(5)]
  assert min(hard) > 1.2 * max(soft)
