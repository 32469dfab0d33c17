"""People of other builds, gaits and skins than those of the training clips.

For audits only. A clip is made for a person, and again for a twin who differs
in one thing: program, scene, camera and every question stay the same, so where
the answers differ, the person is why.

    person 5   size small   proportion average   gait usual   skin light
    its twin   size small   proportion average   gait aged    skin light

What is true of one is true of the other: nothing is asked of any of this.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.motion import features, skeleton
from vimonet_jax.synthetic import (
  actions,
  body,
  figures,
  language,
  questions,
  world,
)
from vimonet_jax.synthetic import scene as scenes

# Factors of the bones. Every training clip has the body of 1 and 1.
_SIZES = {'average': 1.0, 'small': 0.82, 'large': 1.15}
# Of the legs; the rest of the body gives what they take, so that a person is
# about as tall.
_LEGS = {'average': 1.0, 'short legs': 0.9, 'long legs': 1.1}
_LEG_JOINTS = tuple(
  skeleton.INDEX[f'{side}_{name}']
  for side in ('left', 'right')
  for name in ('hip', 'knee', 'ankle', 'foot')
)
# What is multiplied, and added, beyond what Style.draw does. People of great
# age take slower and smaller movements, stoop, and stand on a wider base.
_GAITS = {
  'usual': ({}, {}),
  'aged': (
    {'tempo': 0.82, 'vigour': 0.85, 'swing': 0.6},
    {'lean_deg': 8.0, 'slouch_m': 0.02, 'half_stance_m': 0.02},
  ),
  'brisk': ({'tempo': 1.12, 'vigour': 1.1, 'swing': 1.3}, {}),
}
_SKINS = dict(
  zip(('light', 'medium', 'dark'), figures.LOOKS['skin'], strict=True)
)
# Attribute -> its values.
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
  'size': tuple(_SIZES),
  'proportion': tuple(_LEGS),
  'gait': tuple(_GAITS),
  'skin': tuple(_SKINS),
}
_STREAM = int.from_bytes(b'peop')
# Every combination once.
ALL_PEOPLE = int(np.prod([len(values) for values in ATTRIBUTES.values()]))


@dataclasses.dataclass(frozen=True)
class Person:
  """Who is in a clip; each field has a value of `ATTRIBUTES`."""

  size: str = 'average'
  proportion: str = 'average'
  gait: str = 'usual'
  skin: str = 'medium'


def person(index: int) -> Person:
  """Of `ALL_PEOPLE` neighbours each is another one."""
  values = []
  for options in ATTRIBUTES.values():
    index, place = divmod(index, len(options))
    values.append(options[place])
  return Person(*values)


def twin(index: int, attribute: str) -> Person:
  """Person `index`, but for one attribute, which has its next value."""
  one = person(index)
  options = ATTRIBUTES[attribute]
  place = options.index(getattr(one, attribute)) + 1
  changed = options[place % len(options)]
  return dataclasses.replace(one, **{attribute: changed})


def record(
  drawn: world.World, split: str, index: int, attribute: str = ''
) -> records.Record:
  """Clip `index`, of `person(index)` or of the twin with another `attribute`.

  Its program and scene are of the split, so that those of the test were never
  seen in training; the joints are clean.
  """
  asked = conversation(drawn, split, index, attribute)
  who = Person(**asked.provenance['person'])
  program = [actions.Action(**x) for x in asked.provenance['program']]
  # A stream for each half, which may draw more or less for another person.
  moves, films = (_rng(drawn, index, half) for half in (1, 2))
  animation = actions.animate(
    program, moves, manner=lambda style: _walking(style, who.gait)
  )
  joints = built(animation.joints, who)
  motion = records.trim_motion(features.encode(joints))
  frames = scenes.render(
    joints,
    scenes.Scene(**asked.provenance['scene']),
    films,
    size=drawn.image_size,
    looks={'skin': _SKINS[who.skin]},
  )
  return dataclasses.replace(
    asked, motion=motion, joints=joints[: len(motion) + 1], frames=frames
  )


def conversation(
  drawn: world.World, split: str, index: int, attribute: str = ''
) -> records.Record:
  """The same record without its media, which take the time."""
  who = twin(index, attribute) if attribute else person(index)
  rng = _rng(drawn, index, 0)
  program, *foils = (
    world.draw_program(rng, split, drawn.max_actions) for _ in range(3)
  )
  scene = world.draw_scene(rng, split)
  turns = questions.draw(program, foils, scene, rng)
  name = f'person-{split}-{index:06d}'
  return records.Record(
    id=f'{name}-{attribute}' if attribute else name,
    source='vimos/people',
    split=split,
    turns=(*turns, *language.captions(program, scene, rng)),
    provenance={
      'generator': 'vimonet_jax.synthetic.people',
      'seed': drawn.seed,
      'licence': 'Apache-2.0',
      'program': [dataclasses.asdict(action) for action in program],
      'scene': dataclasses.asdict(scene),
      'person': dataclasses.asdict(who),
    },
  )


def _rng(drawn: world.World, index: int, part: int) -> np.random.Generator:
  # Streams of its own, so that no other set of records changes.
  return np.random.default_rng((drawn.seed, _STREAM, index, part))


def built(joints_TJ3: np.ndarray, who: Person) -> np.ndarray:
  """The same movement by another build: all bones keep their directions.

  The path grows with the legs, so that feet that stood still do so.
  """
  legs = _LEGS[who.proportion] * _SIZES[who.size]
  rest = (2 - _LEGS[who.proportion]) * _SIZES[who.size]
  if legs == rest == 1.0:
    return joints_TJ3
  joints = [joints_TJ3[:, 0] * legs]
  for j, parent in enumerate(skeleton.PARENTS[1:], start=1):
    bone = joints_TJ3[:, j] - joints_TJ3[:, parent]
    joints.append(joints[parent] + bone * (legs if j in _LEG_JOINTS else rest))
  return np.stack(joints, axis=1).astype(np.float32)


def _walking(style: body.Style, gait: str) -> body.Style:
  times, plus = _GAITS[gait]
  fields = {name: getattr(style, name) * x for name, x in times.items()}
  fields |= {name: getattr(style, name) + x for name, x in plus.items()}
  return dataclasses.replace(style, **fields)
