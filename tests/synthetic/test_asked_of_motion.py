"""What is said about directions, sides and limbs, measured on the joints."""

import numpy as np
import pytest

from vimonet_jax.motion import skeleton
from vimonet_jax.synthetic import actions, asked_of_motion, language, world

J = skeleton.INDEX
LIMBS = {
  'left arm': ('left_shoulder', 'left_wrist'),
  'right arm': ('right_shoulder', 'right_wrist'),
  'left leg': ('left_hip', 'left_ankle'),
  'right leg': ('right_hip', 'right_ankle'),
}


def _asked(kind, n, seed=0):
  """Clips, each with a question of the kind and its answer.

  Yields n times (program, joints [T, 22, 3], spans, turn).
  """
  found = 0
  for i in range(100 * n):
    rng = np.random.default_rng((seed, i))
    program = world.draw_program(rng, 'test')
    asked = kind(program, rng)
    if asked:
      clip = actions.animate(program, rng)
      yield program, clip.joints.astype(np.float64), clip.spans, asked.turn
      found += 1
      if found == n:
        return
  raise AssertionError(f'Expected {n} questions, found {found}.')


def _heading(joints):
  """Radians [T], unwrapped, 0 at +z, positive to the left."""
  across = joints[:, J['left_hip']] - joints[:, J['right_hip']]
  return np.unwrap(np.arctan2(-across[:, 2], across[:, 0]))


def _way(joints):
  """Where the neck went over the floor, seen from the body as it began.

  The neck and not the root, because who falls stays where the feet were.
  """
  moved = joints[-1, J['neck']] - joints[0, J['neck']]
  angle = _heading(joints)[0]
  ahead = moved[0] * np.sin(angle) + moved[2] * np.cos(angle)
  leftward = moved[0] * np.cos(angle) - moved[2] * np.sin(angle)
  if abs(ahead) > abs(leftward):
    return 'forward' if ahead > 0 else 'backward'
  return 'left' if leftward > 0 else 'right'


def _paths(joints):
  """Metres that each hand or foot went about its shoulder or hip."""
  paths = {}
  for limb, (start, end) in LIMBS.items():
    reach = joints[:, J[end]] - joints[:, J[start]]
    paths[limb] = np.linalg.norm(np.diff(reach, axis=0), axis=-1).sum()
  return paths


def test_the_only_direction_is_where_the_clip_goes():
  facts = set()
  kind = asked_of_motion.only_direction
  for program, joints, spans, turn in _asked(kind, 30):
    facts.add(turn.fact)
    (i,) = (k for k, a in enumerate(program) if language.direction(a))
    assert _way(joints[slice(*spans[i])]) == turn.fact, program
    # Nothing else in the clip goes that far in any direction.
    gone = [
      np.linalg.norm(np.ptp(joints[slice(*span), 0][:, [0, 2]], axis=0))
      for span in spans
    ]
    if program[i].verb in ('walk', 'run', 'sidestep', 'limp', 'stumble'):
      assert np.argmax(gone) == i, program
  assert facts == {'forward', 'backward', 'left', 'right'}


def test_a_named_direction_is_where_its_action_goes():
  facts = set()
  kind = asked_of_motion.named_direction
  for program, joints, spans, turn in _asked(kind, 30):
    (i,) = (
      k for k, a in enumerate(program)
      if language.phrase(a.verb) in turn.question
    )  # fmt: skip
    part = joints[slice(*spans[i])]
    if program[i].verb in ('turn', 'spin'):
      turned = _heading(part)[-1] - _heading(part)[0]
      found = 'left' if turned > 0 else 'right'
    else:
      found = _way(part)
    assert found == turn.fact, program
    facts.add((program[i].verb, turn.fact))
  assert len(facts) > 8


def test_a_placed_limb_moves_more_than_the_others():
  facts = set()
  kind = asked_of_motion.placed_limb
  for program, joints, spans, turn in _asked(kind, 40):
    facts.add(turn.fact)
    i = 0 if turn.kind == 'first' else len(program) - 1
    paths = _paths(joints[slice(*spans[i])])
    if turn.fact == 'both arms':
      arms = paths['left arm'], paths['right arm']
      assert min(arms) > 0.8 * max(arms)
      assert min(arms) > 1.5 * max(paths['left leg'], paths['right leg'])
    else:
      best = max(paths, key=paths.get)
      assert best == turn.fact, (program, paths)
  assert facts == set(asked_of_motion.PLACED_LIMBS)


def test_a_named_limb_is_the_one_that_acts():
  verbs = set()
  kind = asked_of_motion.named_limb
  for program, joints, spans, turn in _asked(kind, 30):
    (i,) = (
      k for k, a in enumerate(program)
      if language.GERUNDS[a.verb] in turn.question
    )  # fmt: skip
    verb = program[i].verb
    verbs.add(verb)
    part = joints[slice(*spans[i])]
    side, noun = turn.fact.split()
    other = {'left': 'right', 'right': 'left'}[side]
    if verb == 'hop':
      # The other foot is held up.
      feet = part[:, [J[f'{side}_foot'], J[f'{other}_foot']], 1].mean(0)
      assert feet[0] < feet[1] - 0.05
    elif verb == 'limp':
      # The body dips towards the bad leg.
      dips = (
        part[:, J[f'{side}_shoulder'], 1] - part[:, J[f'{other}_shoulder'], 1]
      )
      assert -dips.min() > dips.max()
    else:
      paths = _paths(part)
      assert paths[turn.fact] > paths[f'{other} {noun}']
  assert {'hop', 'limp', 'kick'} < verbs


@pytest.mark.parametrize('verb', ['hop', 'limp', 'jump', 'squat'])
def test_limbs_that_move_no_more_than_others_are_not_placed(verb):
  spec = actions.VERBS[verb]
  action = actions.Action(
    verb,
    side=spec.sides[0] if spec.sides else '',
    count=1 if spec.counts else 0,
  )
  rng = np.random.default_rng(0)
  assert not any(
    asked_of_motion.is_placed((action,), 0, rng) for _ in range(50)
  )


def test_choices_are_what_the_wording_allows():
  rng = np.random.default_rng(0)
  turn, kick = actions.Action('turn', 'left'), actions.Action('kick', 'right')
  asked = asked_of_motion.named_direction((turn,), rng).turn
  assert asked.choices == ('left', 'right')
  asked = asked_of_motion.named_limb((kick,), rng).turn
  assert asked.choices == ('left leg', 'right leg')
