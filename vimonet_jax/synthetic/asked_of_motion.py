"""Questions that only the motion answers: direction, limbs, manner.

Each function makes one kind of question, or nothing where the program has no
answer to it. Answers that would come more often than others are thinned, so
that a reader without the media gains nothing from knowing which are frequent.
"""

import numpy as np

from vimonet_jax.synthetic import actions, language, question

# How often each answer is asked for where it could be, so that all come alike:
# programs go forward, or use an arm, more often than else.
_KEPT_DIRECTIONS = {'forward': 0.33}
_KEPT_LIMBS = {'left arm': 0.38, 'right arm': 0.38, 'both arms': 0.48}
PLACED_LIMBS = ('left arm', 'right arm', 'both arms', 'left leg', 'right leg')
# In these another limb moves as much as the one that they are about.
_UNPLACED = ('hop', 'limp', 'jump', 'squat')


# --- Direction ---------------------------------------------------------------


def named_direction(
  program: question.Program, rng: np.random.Generator
) -> question.Question | None:
  """The direction of a verb that is named and can go several ways."""
  i = question.pick_action(
    program, rng, lambda a: len(language.directions(a.verb)) > 1
  )
  if i is None:
    return None
  known = language.phrase(program[i].verb)
  choices = language.directions(program[i].verb)
  if choices == ('left', 'right'):
    wordings = (
      f'To which side is the person {known}?',
      f'Is the person {known} to the left or to the right?',
    )
  elif choices == ('forward', 'backward'):
    wordings = (
      f'In which direction is the person {known}?',
      f'Is the person {known} forward or backward?',
    )
  else:
    wordings = (
      f'In which direction is the person {known}?',
      f'Which way is the person {known}?',
    )
  return question.make(
    rng,
    'direction/named',
    wordings,
    f'The person is {known} {language.to_phrase(program[i])}.',
    language.direction(program[i]),
    choices,
    asks={f'direction{i}'},
    tells=question.verb_facts(program, i),
  )


def only_direction(
  program: question.Program, rng: np.random.Generator
) -> question.Question | None:
  """Where the one action goes that goes anywhere; the verb stays open."""
  i = only_mover(program, rng)
  if i is None:
    return None
  return question.make(
    rng,
    'direction/only',
    (
      'In which direction does the person move?',
      'Which way does the person go?',
    ),
    f'The person moves {language.to_phrase(program[i])}.',
    language.direction(program[i]),
    language.DIRECTIONS,
    asks=question.verb_facts(program, i) | {f'direction{i}'},
  )


def only_mover(
  program: question.Program, rng: np.random.Generator
) -> int | None:
  """The action with the one direction of a program, all directions alike."""
  directed = [i for i, a in enumerate(program) if language.direction(a)]
  # After a turn, forward is no longer where it was.
  if len(directed) != 1 or program[directed[0]].verb in ('turn', 'spin'):
    return None
  where = language.direction(program[directed[0]])
  return directed[0] if question.is_kept(_KEPT_DIRECTIONS, where, rng) else None


# --- Limbs -------------------------------------------------------------------


def named_limb(
  program: question.Program, rng: np.random.Generator
) -> question.Question | None:
  """The side of a verb that is named."""
  i = question.pick_action(
    program, rng, lambda a: a.verb in language.SIDED_LIMBS
  )
  if i is None:
    return None
  noun = language.SIDED_LIMBS[program[i].verb]
  gerund, particle, link = language.with_limb(program[i].verb)
  known = ' '.join(filter(None, (gerund, particle)))
  using = ' '.join(filter(None, (known, link)))
  return question.make(
    rng,
    'body_part/named',
    (
      f'Which {noun} is the person {using}?',
      f'Is the person {using} the left or the right {noun}?',
    ),
    f'It is {language.limb_phrase(program[i])}.',
    language.limb(program[i]),
    (f'left {noun}', f'right {noun}'),
    asks={f'side{i}'},
    tells=question.verb_facts(program, i),
  )


def placed_limb(
  program: question.Program, rng: np.random.Generator
) -> question.Question | None:
  """The limb of the first or last action; the verb stays open."""
  ends = (('first', 0), ('last', len(program) - 1))
  made = [(name, i) for name, i in ends if is_placed(program, i, rng)]
  if not made:
    return None
  name, i = made[int(rng.integers(len(made)))]
  return question.make(
    rng,
    f'body_part/{name}',
    (
      f'Which arm or leg, or both, does the person use {name}?',
      f'With which arm or leg, or both, is the {name} action done?',
    ),
    f'The person uses {language.limb_phrase(program[i])}.',
    language.limb(program[i]),
    PLACED_LIMBS,
    asks=question.verb_facts(program, i) | {f'side{i}'},
  )


def is_placed(
  program: question.Program, i: int, rng: np.random.Generator
) -> bool:
  """Whether to ask for the limb of action `i`, so that all come alike."""
  limb = language.limb(program[i])
  return (
    bool(limb)
    and program[i].verb not in _UNPLACED
    and question.is_kept(_KEPT_LIMBS, limb, rng)
  )


# --- How often and how fast --------------------------------------------------


def count(
  program: question.Program, rng: np.random.Generator
) -> question.Question | None:
  i = question.pick_action(program, rng, lambda a: a.count)
  if i is None:
    return None
  # The verb's own name is the form that follows 'does'.
  verb, times = program[i].verb, language.TIMES[program[i].count - 1]
  return question.make(
    rng,
    'reasoning/count',
    (
      f'How many times does the person {verb}?',
      f'How often does the person {verb}?',
    ),
    f'The person does it {times}.',
    times,
    language.TIMES,
    asks={f'count{i}'},
    tells=question.verb_facts(program, i),
  )


def speed(
  program: question.Program, rng: np.random.Generator
) -> question.Question | None:
  i = question.pick_action(program, rng, lambda a: a.speed)
  if i is None:
    return None
  known = language.phrase(program[i].verb)
  return question.make(
    rng,
    'reasoning/speed',
    (
      f'How fast is the person {known}?',
      f'Is the person {known} slowly or quickly?',
    ),
    f'The person is {known} {program[i].speed}.',
    program[i].speed,
    actions.VERBS[program[i].verb].speeds,
    asks={f'speed{i}'},
    tells=question.verb_facts(program, i),
  )
