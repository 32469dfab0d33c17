"""Questions that are asked where other clips would be answered otherwise.

A program comes with foils, other programs drawn as it was. Whether a question
is asked depends on the program and its foils in a way that stays the same when
they change places; so each answer is as likely as any other, in every split,
whichever programs are frequent there. For yes and no, one foil `B`:

    asked of A   Is the person kicking?   A kicks, and B could be denied it: yes
                 Is the person hopping?   B hops, and A can be denied it:     no
"""

from collections.abc import Sequence

import numpy as np

from vimonet_jax.synthetic import language, question

# Of the conversations that can have such a question. A 'yes' tells much, so
# presence stays out of most, where others find room.
_POSTURE_SHARE = 0.8
_HELP_SHARE = 0.6
_PRESENCE_SHARE = 0.6
# Who does the first could be said to do the others too, so they are not denied.
_IMPLIED = {
  'walk': ('march', 'sidestep', 'run'),
  'run': ('walk',),
  'march': ('walk',),
  'sidestep': ('walk',),
  'limp': ('walk',),
  'stumble': ('walk', 'run', 'fall'),
  'turn': ('spin',),
  'spin': ('turn', 'raise'),
  'jump': ('hop', 'raise', 'squat'),
  'hop': ('jump',),
  'squat': ('bend', 'sit', 'raise'),
  'bend': ('reach',),
  'wave': ('raise',),
  'reach': ('raise', 'bend'),
  'push': ('reach',),
  'throw': ('raise', 'wave', 'bend'),
  'punch': ('push', 'reach'),
  'sit': ('squat', 'bend'),
  'lie': ('sit', 'squat', 'bend'),
  'fall': ('lie', 'sit', 'stumble', 'bend'),
  'rise': ('getup', 'sit', 'squat', 'bend'),
  'getup': ('rise', 'sit', 'lie', 'squat', 'bend'),
}


def draw(
  program: question.Program,
  foils: Sequence[question.Program],
  rng: np.random.Generator,
) -> list[question.Question]:
  """None to two of these questions; they go together.

  They have to come before all others: what is left out for their sake may
  depend on their answers, they themselves may not.

  Args:
    program: of the clip.
    foils: two more programs of the same split.
    rng: draws kinds and wordings.
  """
  programs = (program, *foils)
  postures = {_posture_of(p) for p in programs}
  # Not beside presence: only a 'yes' could tell the posture.
  if len(postures) == len(programs) and rng.random() < _POSTURE_SHARE:
    return [posture(program, rng)]
  made = []
  foil = foils[0]
  if _is_hurt(program) != _is_hurt(foil) and rng.random() < _HELP_SHARE:
    made.append(needs_help(program, rng))
  if rng.random() < _PRESENCE_SHARE:
    asked = presence(program, foil, rng)
    if asked and all(asked.goes_with(other) for other in made):
      made.append(asked)
  return made


def posture(
  program: question.Program, rng: np.random.Generator
) -> question.Question:
  """How the body is in the end."""
  answer = _posture_of(program)
  return question.make(
    rng,
    'reasoning/posture',
    (
      'Is the person standing, sitting or lying at the end?',
      'What is the posture of the person at the end?',
    ),
    f'At the end the person is {answer}.',
    answer,
    ('standing', 'sitting', 'lying'),
    asks=question.verb_facts(program, len(program) - 1),
  )


def needs_help(
  program: question.Program, rng: np.random.Generator
) -> question.Question:
  """Whether somebody should look after the person."""
  is_hurt = _is_hurt(program)
  return question.make(
    rng,
    'reasoning/help',
    ('Does the person need help?', 'Should somebody check on the person?'),
    'Yes, the person needs help.' if is_hurt else 'No, the person is fine.',
    'yes' if is_hurt else 'no',
    ('yes', 'no'),
    asks={'accident'},
  )


def presence(
  program: question.Program, foil: question.Program, rng: np.random.Generator
) -> question.Question | None:
  """Whether an action happens at all; as many yes as no for every verb."""
  is_there = rng.random() < 0.5
  present, absent = (program, foil) if is_there else (foil, program)
  verbs = [a.verb for a in present if is_denied(a.verb, absent)]
  if not verbs:
    return None
  verb = language.pick(rng, verbs)
  known = language.phrase(verb)
  return question.make(
    rng,
    'hallucination/presence',
    (
      f'Is the person {known} at any point?',
      f'Does the clip show the person {known}?',
    ),
    f'Yes, the person is {known}.'
    if is_there
    else f'No, the person is not {known}.',
    'yes' if is_there else 'no',
    ('yes', 'no'),
    asks=question.has(verb),
    tells=question.has(verb),
  )


def is_denied(verb: str, program: question.Program) -> bool:
  """Whether a program has nothing that could pass for a verb."""
  return all(
    action.verb != verb and verb not in _IMPLIED.get(action.verb, ())
    for action in program
  )


def _posture_of(program: question.Program) -> str:
  return language.POSTURES.get(program[-1].verb, 'standing')


def _is_hurt(program: question.Program) -> bool:
  return any(action.verb in question.ACCIDENTS for action in program)
