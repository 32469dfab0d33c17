"""Questions that only the frames answer: place, object, shirt, people."""

import numpy as np

from vimonet_jax.synthetic import language, question
from vimonet_jax.synthetic import scene as scenes


def place(scene: scenes.Scene, rng: np.random.Generator) -> question.Question:
  return question.make(
    rng,
    'place/place',
    ('Where is the person?', 'Which place is this?'),
    f'The place is the {scene.place}.',
    scene.place,
    scenes.PLACES,
    asks={'place'},
  )


def thing(scene: scenes.Scene, rng: np.random.Generator) -> question.Question:
  return question.make(
    rng,
    'object/object',
    ('Which object is near the person?', 'What is beside the person?'),
    f'The object is a {scene.object}.',
    scene.object,
    scenes.OBJECTS,
    asks={'object'},
  )


def colour(scene: scenes.Scene, rng: np.random.Generator) -> question.Question:
  return question.make(
    rng,
    'colour/colour',
    ('What colour is the shirt?', 'Which colour is the shirt of the person?'),
    f'The shirt is {scene.colour}.',
    scene.colour,
    scenes.COLOURS,
    asks={'colour'},
  )


def people(scene: scenes.Scene, rng: np.random.Generator) -> question.Question:
  number = language.NUMBERS[scene.people - 1]
  return question.make(
    rng,
    'people/people',
    ('How many people are there?', 'How many people does the video show?'),
    language.people_sentence(scene.people),
    number,
    language.NUMBERS,
    asks={'people'},
  )


KINDS = (place, thing, colour, people)
