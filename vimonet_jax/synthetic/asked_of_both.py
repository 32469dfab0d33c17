"""Questions whose answers have one half in each medium."""

import numpy as np

from vimonet_jax.synthetic import asked_of_motion, language, question
from vimonet_jax.synthetic import scene as scenes

# Of the programs that have a limb or a direction to ask for, which most lack.
_RARE_SHARE = 0.7


def draw(
  program: question.Program, scene: scenes.Scene, rng: np.random.Generator
) -> question.Question:
  """One question about both the motion and the video."""
  made = [kind(program, scene, rng) for kind in (_limb, _direction)]
  made = [asked for asked in made if asked]
  if made and rng.random() < _RARE_SHARE:
    return made[int(rng.integers(len(made)))]
  return _action(program, scene, rng)


def _action(
  program: question.Program, scene: scenes.Scene, rng
) -> question.Question:
  name, i = (('first', 0), ('last', len(program) - 1))[int(rng.integers(2))]
  verb = program[i].verb
  return question.make(
    rng,
    f'joint/place and {name} action',
    (
      f'Where is the person, and what is the {name} action?',
      f'Which place is this, and which action comes {name}?',
    ),
    f'The place is the {scene.place} and the action is '
    f'{language.phrase(verb)}.',
    f'{scene.place}; {language.GERUNDS[verb]}',
    (*scenes.PLACES, *language.GERUNDS.values()),
    asks=question.verb_facts(program, i) | {'place'},
  )


def _limb(
  program: question.Program, scene: scenes.Scene, rng
) -> question.Question | None:
  if not asked_of_motion.is_placed(program, 0, rng):
    return None
  used = language.limb_phrase(program[0])
  return question.make(
    rng,
    'joint/object and first limb',
    (
      'Which object is near the person, and which arm or leg, or both, is '
      'used first?',
      'What is beside the person, and with which arm or leg, or both, is the '
      'first action done?',
    ),
    f'The object is a {scene.object} and the person uses {used}.',
    f'{scene.object}; {language.limb(program[0])}',
    (*scenes.OBJECTS, *asked_of_motion.PLACED_LIMBS),
    asks=question.verb_facts(program, 0) | {'object', 'side0'},
  )


def _direction(
  program: question.Program, scene: scenes.Scene, rng
) -> question.Question | None:
  i = asked_of_motion.only_mover(program, rng)
  if i is None:
    return None
  return question.make(
    rng,
    'joint/colour and direction',
    (
      'What colour is the shirt, and in which direction does the person move?',
      'Which colour is the shirt, and which way does the person go?',
    ),
    f'The shirt is {scene.colour} and the person moves '
    f'{language.to_phrase(program[i])}.',
    f'{scene.colour}; {language.direction(program[i])}',
    (*scenes.COLOURS, *language.DIRECTIONS),
    asks=question.verb_facts(program, i) | {'colour', f'direction{i}'},
  )
