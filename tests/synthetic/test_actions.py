"""What a person would look for in a clip, measured on its joints."""

import itertools

import numpy as np
import pytest

from vimonet_jax.motion import skeleton
from vimonet_jax.synthetic import actions

J = skeleton.INDEX
Action = actions.Action


def _variants(verb):
  spec = actions.VERBS[verb]
  return [
    Action(verb, *values)
    for values in itertools.product(
      spec.sides or ('',),
      spec.directions or ('',),
      spec.counts or (0,),
      spec.speeds or ('',),
    )
  ]


ALL = [action for verb in actions.VERBS for action in _variants(verb)]


def _name(action):
  return '-'.join(
    str(value)
    for value in (
      action.verb,
      action.side,
      action.direction,
      action.count,
      action.speed,
    )
    if value
  )


def _clip(*program, seed=0):
  clip = actions.animate(program, np.random.default_rng(seed))
  return clip.joints.astype(np.float64)


def _times(condition):
  """How many times a condition [T] becomes true."""
  return int(np.sum(np.diff(condition.astype(int), prepend=0) == 1))


def _facing(joints):
  """Heading [T] in radians, unwrapped, positive to the left, from 0 at +z."""
  across = joints[:, J['left_hip']] - joints[:, J['right_hip']]
  across = across + joints[:, J['left_shoulder']]
  across = across - joints[:, J['right_shoulder']]
  return np.unwrap(np.arctan2(-across[:, 2], across[:, 0]))


def _top_speed(joints):
  """Best speed over the floor that is kept for half a second, m/s."""
  moved = joints[10:, 0, [0, 2]] - joints[:-10, 0, [0, 2]]
  return np.linalg.norm(moved, axis=-1).max() * actions.FPS / 10


@pytest.mark.parametrize('action', ALL, ids=_name)
def test_a_clip_is_a_body_on_the_floor(action):
  for seed in range(3):
    clip = actions.animate([action], np.random.default_rng(seed))
    joints = clip.joints
    assert joints.dtype == np.float32
    assert joints.shape[1:] == (22, 3)
    assert np.isfinite(joints).all()
    assert actions.MIN_FRAMES <= len(joints) <= 80
    assert clip.spans == ((0, len(joints)),)

    parents = list(skeleton.PARENTS[1:])
    lengths = np.linalg.norm(joints[:, 1:] - joints[:, parents], axis=-1)
    np.testing.assert_allclose(
      lengths, skeleton.BONE_LENGTHS_J[1:] + 0 * lengths, atol=2e-6
    )

    lowest = joints[..., 1].min(axis=1)
    assert lowest.min() >= -0.03
    if action.verb not in ('jump', 'hop'):
      assert lowest.max() < (0.12 if action.verb == 'run' else 0.08)
    # A thrown hand is the fastest thing there is.
    speed = np.linalg.norm(np.diff(joints, axis=0), axis=-1) * actions.FPS
    assert speed.max() < (17 if action.verb == 'throw' else 10)


@pytest.mark.parametrize(
  'action', [a for a in ALL if a.verb in ('walk', 'turn', 'squat')], ids=_name
)
def test_a_foot_that_stands_does_not_slide(action):
  joints = _clip(action)
  for side in ('left', 'right'):
    ankle, toe = joints[:, J[f'{side}_ankle']], joints[:, J[f'{side}_foot']]
    flat = (toe[:, 1] < 0.005) & (ankle[:, 1] < ankle[0, 1] + 0.005)
    assert flat.mean() > 0.3
    starts = np.flatnonzero(np.diff(flat.astype(int), prepend=0, append=0))
    for start, end in starts.reshape(-1, 2):
      stance = ankle[start:end]
      assert np.ptp(stance, axis=0).max() < 0.02


def test_the_same_generator_gives_the_same_clip_and_another_another():
  program = (
    Action('walk', direction='forward', speed='slowly'),
    Action('bend'),
  )
  np.testing.assert_array_equal(_clip(*program), _clip(*program))
  other = _clip(*program, seed=1)
  length = min(len(other), len(_clip(*program)))
  apart = np.abs(_clip(*program)[:length] - other[:length])
  assert apart.max() > 0.05


@pytest.mark.parametrize(
  'verb', [verb for verb, spec in actions.VERBS.items() if spec.sides]
)
def test_right_is_the_mirror_image_of_left(verb):
  count = actions.VERBS[verb].counts[:1]
  left = _clip(Action(verb, 'left', '', *count))
  right = _clip(Action(verb, 'right', '', *count))
  assert len(left) == len(right)
  mirrored = np.abs(skeleton.mirror(left) - right).mean()
  same = np.abs(left - right).mean()
  assert mirrored < 0.03
  assert mirrored < 0.5 * same


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('count', [1, 2, 3])
def test_counts_can_be_counted(count, seed):
  jump = _clip(Action('jump', count=count), seed=seed)
  toes = jump[:, [J['left_foot'], J['right_foot']], 1]
  assert _times(toes.min(1) > 0.08) == count

  squat = _clip(Action('squat', count=count), seed=seed)
  assert _times(squat[:, 0, 1] < 0.68) == count

  clap = _clip(Action('clap', count=count), seed=seed)
  gap = clap[:, J['left_wrist']] - clap[:, J['right_wrist']]
  assert _times(np.linalg.norm(gap, axis=-1) < 0.12) == count

  for side, other in (('left', 'right'), ('right', 'left')):
    punch = _clip(Action('punch', side, count=count), seed=seed)
    for hand, times in ((side, count), (other, 0)):
      ahead = (
        punch[:, J[f'{hand}_wrist'], 2] - punch[:, J[f'{hand}_shoulder'], 2]
      )
      assert _times(ahead > 0.42) == times


@pytest.mark.parametrize('seed', range(3))
def test_walks_go_their_way_and_run_is_fastest(seed):
  speeds = {}
  for direction, sign in (('forward', 1), ('backward', -1)):
    for speed in ('slowly', 'quickly'):
      joints = _clip(Action('walk', '', direction, 0, speed), seed=seed)
      assert sign * (joints[-1, 0, 2] - joints[0, 0, 2]) > 0.5
      assert np.abs(joints[:, 0, 0]).max() < 0.1
      speeds[direction, speed] = _top_speed(joints)
    assert speeds[direction, 'quickly'] > 1.8 * speeds[direction, 'slowly']
  assert 0.4 < speeds['forward', 'slowly'] < 0.75
  assert 1.3 < speeds['forward', 'quickly'] < 1.8
  assert 2.4 < _top_speed(_clip(Action('run'), seed=seed)) < 3.2
  assert _top_speed(_clip(Action('march'), seed=seed)) < 0.3


def test_a_runner_flies_and_a_walker_does_not():
  toes = [J['left_foot'], J['right_foot']]
  run = _clip(Action('run'))
  walk = _clip(Action('walk', '', 'forward', 0, 'quickly'))
  assert _times(run[:, toes, 1].min(1) > 0.015) >= 2
  assert walk[:, toes, 1].min(1).max() < 0.015


def test_marching_lifts_both_knees_to_the_hips():
  march = _clip(Action('march'))
  for side in ('left', 'right'):
    below = march[:, 0, 1] - march[:, J[f'{side}_knee'], 1]
    assert _times(below < 0.25) == 2


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize(('side', 'sign'), [('left', 1), ('right', -1)])
def test_sides_are_ways_to_go(side, sign, seed):
  turned = sign * np.degrees(_facing(_clip(Action('turn', side), seed=seed)))
  assert 80 < turned[-1] < 160
  spun = sign * np.degrees(_facing(_clip(Action('spin', side), seed=seed)))
  assert 345 < spun[-1] < 375
  stepped = _clip(Action('sidestep', side), seed=seed)
  assert 0.6 < sign * (stepped[-1, 0, 0] - stepped[0, 0, 0]) < 1.4
  assert np.abs(_facing(stepped)).max() < 0.2


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize(
  ('direction', 'axis', 'sign'),
  [('forward', 2, 1), ('backward', 2, -1), ('left', 0, 1), ('right', 0, -1)],
)
def test_falls_go_their_way_and_end_on_the_floor(direction, axis, sign, seed):
  joints = _clip(Action('fall', direction=direction), seed=seed)
  moved = joints[-1, J['neck']] - joints[0, J['neck']]
  assert sign * moved[axis] > 0.8
  assert abs(moved[2 - axis]) < 0.4
  assert joints[-1, [0, J['neck']], 1].max() < 0.5
  lying = _clip(Action('lie'), seed=seed)

  def frames_of_dropping(clip):
    return np.sum((clip[:, 0, 1] < 0.85) & (clip[:, 0, 1] > 0.25))

  assert frames_of_dropping(joints) < 0.75 * frames_of_dropping(lying)


def test_postures_at_the_ends():
  def height(clip, frame):
    return clip[frame, 0, 1], clip[frame, J['head'], 1]

  sit, rise = _clip(Action('sit')), _clip(Action('rise'))
  lie, getup = _clip(Action('lie')), _clip(Action('getup'))
  for clip, frame in ((sit, -1), (rise, 0)):
    assert height(clip, frame) == pytest.approx((0.48, 1.1), abs=0.1)
  for clip, frame in ((lie, -1), (getup, 0)):
    assert max(height(clip, frame)) < 0.2
  for clip, frame in ((sit, 0), (rise, -1), (lie, 0), (getup, -1)):
    assert height(clip, frame) == pytest.approx((0.94, 1.58), abs=0.06)
  # On the back: the toes point up, the head is behind.
  assert lie[-1, J['left_foot'], 1] > lie[-1, J['left_ankle'], 1]
  assert lie[-1, J['head'], 2] < lie[-1, 0, 2] - 0.4


@pytest.mark.parametrize(('side', 'other'), [('left', 'right'),
                                             ('right', 'left')])  # fmt: skip
def test_the_named_limb_is_the_one_that_acts(side, other):
  def highest(clip, joint):
    return clip[:, J[joint], 1].max()

  for verb in ('wave', 'raise', 'throw'):
    clip = _clip(Action(verb, side))
    assert (
      highest(clip, f'{side}_wrist') > highest(clip, f'{other}_wrist') + 0.2
    )
  clip = _clip(Action('kick', side))
  assert highest(clip, f'{side}_foot') > 0.5 > highest(clip, f'{other}_foot')
  clip = _clip(Action('hop', side))
  assert highest(clip, f'{other}_foot') > highest(clip, f'{side}_foot') + 0.1
  clip = _clip(Action('reach', side))
  lean = clip[:, J[f'{side}_wrist'], 2] - clip[:, J[f'{other}_wrist'], 2]
  assert lean.max() > 0.3
  # The bad leg is loaded briefly and the body dips towards it.
  clip = _clip(Action('limp', side))
  shoulders = clip[:, J[f'{side}_shoulder'], 1]
  shoulders = shoulders - clip[:, J[f'{other}_shoulder'], 1]
  assert -shoulders.min() > 0.1


def test_arms_that_wave_oscillate_and_arms_that_rise_do_not():
  def turns(verb):
    clip = _clip(Action(verb, 'left'))
    x = clip[:, J['left_wrist'], 0]
    high = clip[:, J['left_wrist'], 1] > clip[:, J['left_shoulder'], 1] + 0.1
    moves = np.diff(x[high])
    return _times(moves > 0.02)

  assert turns('wave') >= 2
  assert turns('raise') <= 1


def test_programs_run_through_without_a_jolt():
  rng = np.random.default_rng(3)
  standing = [a for a in ALL if actions.VERBS[a.verb].place == 'any']
  for _ in range(20):
    program = [standing[i] for i in rng.integers(len(standing), size=3)]
    clip = actions.animate(program, rng)
    starts, ends = zip(*clip.spans, strict=True)
    assert starts == (0, *ends[:-1])
    assert ends[-1] == len(clip.joints) <= actions.MAX_FRAMES
    assert min(np.diff((0, *ends))) >= 20
    speed = np.linalg.norm(np.diff(clip.joints, axis=0), axis=-1) * actions.FPS
    for seam in ends[:-1]:
      assert speed[seam - 1].max() < 1.0


def test_an_action_goes_on_where_and_as_the_one_before_ended():
  walk = Action('walk', direction='forward', speed='quickly')
  clip = actions.animate(
    (Action('turn', 'left'), walk), np.random.default_rng(0)
  )
  seam = clip.spans[1][0]
  heading = _facing(clip.joints)[seam]
  way = clip.joints[-1, 0] - clip.joints[seam, 0]
  assert np.hypot(way[0], way[2]) > 1.5
  off = np.arctan2(way[0], way[2]) - heading
  assert abs(np.angle(np.exp(1j * off))) < 0.15


def test_long_programs_are_played_faster():
  program = [Action('jump', count=3)] * 3
  for max_frames in (196, 120, 60):
    clip = actions.animate(program, np.random.default_rng(0), max_frames)
    assert min(max_frames, 180) - 3 <= len(clip.joints) <= max_frames
    assert clip.spans[-1][1] == len(clip.joints)


@pytest.mark.parametrize(
  ('program', 'message'),
  [
    ([], '1 to 3 actions'),
    ([Action('bend')] * 4, '1 to 3 actions'),
    ([Action('fly')], "found 'fly'"),
    ([Action('wave')], "side one of left, right, found ''"),
    ([Action('bend', side='left')], "side none, found 'left'"),
    ([Action('jump', count=4)], 'count one of 1, 2, 3, found 4'),
    ([Action('walk', direction='left', speed='slowly')], 'as direction'),
    ([Action('walk', direction='forward')], 'as speed'),
    ([Action('bend'), Action('rise')], 'expected it first'),
    ([Action('sit'), Action('bend')], 'expected it last'),
  ],
)
def test_what_cannot_be_played_is_refused(program, message):
  with pytest.raises(ValueError, match=message):
    actions.animate(program, np.random.default_rng(0))


def test_too_few_frames_are_refused():
  with pytest.raises(ValueError, match='max_frames of at least 60'):
    actions.animate([Action('bend')] * 3, np.random.default_rng(0), 50)
