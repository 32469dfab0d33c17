"""Draws programs and scenes and writes records: the dataset VIMOS-Synth.

A record is a pure function of (seed, split, index) and of the world's image
size, longest program and share of worse cameras, so any process can make any
part of the dataset. A sequence of verbs, and a combination of place, object and
shirt, belongs to one split: nothing that is asked in the test was ever seen as
such a sequence, with other sides or counts either, or as such a combination, in
training. Clips of a single action are for training only.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.motion import corrupt, features
from vimonet_jax.synthetic import actions, language, questions
from vimonet_jax.synthetic import scene as scenes

SOURCE = 'vimos/synthetic'
SPLITS = ('train', 'val', 'test')
# Out of ten sequences of verbs, and out of eight scenes. Whatever two of the
# verbs are, the third decides, as its step has no divisor in common with ten.
_STEPS = (1, 3, 7)
_TENTHS = {8: 'val', 9: 'test'}
_EIGHTHS = {6: 'val', 7: 'test'}
# How many actions a clip has, and how often.
_NUM_ACTIONS = {1: 0.2, 2: 0.45, 3: 0.35}
# Every third clip ends off the feet; else 'where does it end' has one answer.
_LAST_POSTURE_PROBABILITY = 0.3
# Verbs that alone go backward or sideways, or use a leg, come so many times as
# often as others; else hardly a question could have these answers.
_TIMES_AS_OFTEN = {'walk': 2, 'sidestep': 2, 'kick': 2}
# Place in a program -> what can stand there, as often as it comes.
_OPTIONS = {
  place: tuple(
    verb
    for verb, spec in actions.VERBS.items()
    if spec.place in allowed
    for _ in range(_TIMES_AS_OFTEN.get(verb, 1))
  )
  for place, allowed in (
    ('first', ('any', 'first')),
    ('any', ('any',)),
    ('last', ('last',)),
  )
}
_NUMBER_OF_VERB = {verb: i for i, verb in enumerate(actions.VERBS)}
# The worst camera of a training clip; what robustness is measured with is
# corrupt.LEVELS.
_MAX_NOISE_M = 0.04


def split_of_verbs(verbs: Sequence[str]) -> str:
  """The split that a sequence of verbs belongs to.

  Sides, counts and speeds do not matter, so all their values come alike in
  every split. Numbers of verbs, not a hash: of the few pairs that val and test
  have, each verb is then in nearly as many as any other (with a hash 15 % of
  the directions asked for in the test were backward, not 22 %). A single verb
  is for training. New verbs go to the end of `actions.VERBS`, or the splits
  change.
  """
  if len(verbs) < 2:
    return 'train'
  total = sum(
    step * _NUMBER_OF_VERB[verb]
    for step, verb in zip(_STEPS, verbs, strict=False)
  )
  return _TENTHS.get(total % 10, 'train')


def split_of_scene(place: str, thing: str, colour: str) -> str:
  """The split that a place, an object and a shirt together belong to.

  A Latin square: val and test have 64 combinations each, in which every place
  comes 8 times, and so does every object and every shirt.
  """
  i, j, k = (
    tuple(options).index(value)
    for options, value in (
      (scenes.PLACES, place),
      (scenes.OBJECTS, thing),
      (scenes.COLOURS, colour),
    )
  )
  return _EIGHTHS.get((i + 3 * j + 5 * k) % 8, 'train')


@dataclasses.dataclass(frozen=True)
class World:
  """The synthetic world.

  Attributes:
    seed: another seed is another dataset.
    image_size: width and height of the frames, pixels.
    max_actions: longest program, 1 to 3. With 1 there are no sequences to keep
      apart: every split has all verbs, and only scenes are new in the test.
    noisy_share: how many of the training clips come from worse cameras, whose
      joints drift and jitter, 0 to 1; val and test are clean.
  """

  seed: int = 0
  image_size: int = 48
  max_actions: int = 3
  noisy_share: float = 0.0

  def __post_init__(self):
    longest = max(_NUM_ACTIONS)
    if not 1 <= self.max_actions <= longest or not 0 <= self.noisy_share <= 1:
      raise ValueError(
        f'Expected max_actions of 1 to {longest} and a noisy_share of 0 to 1, '
        f'found {self}.'
      )

  def make_record(self, split: str, index: int) -> records.Record:
    """Record `index` of a split, with motion, frames and all its turns."""
    rng = self._rng(split, index)
    program, scene, turns = self._draw(split, rng)
    animation = actions.animate(program, rng)
    joints = self._capture(split, index, animation.joints)
    motion = records.trim_motion(features.encode(joints))
    return records.Record(
      id=f'{split}-{index:06d}',
      source=SOURCE,
      split=split,
      motion=motion,
      joints=joints[: len(motion) + 1],
      frames=scenes.render(animation.joints, scene, rng, size=self.image_size),
      turns=turns,
      provenance=self._provenance(program, scene),
    )

  def text_record(self, split: str, index: int) -> records.Record:
    """A conversation in which words stand where media would.

    With it a decoder learns to read before there is anything to see. The
    facts are those of records of the same split; no clip is made.
    """
    rng = self._rng(f'text {split}', index)
    program, scene, turns = self._draw(split, rng)
    lengths = rng.integers(3, 9, len(program))
    return records.Record(
      id=f'text-{split}-{index:09d}',
      source=SOURCE,
      split=split,
      motion_text=language.motion_words(program, lengths, rng),
      video_text=language.video_words(scene, int(rng.integers(8, 17)), rng),
      turns=turns,
      provenance=self._provenance(program, scene),
    )

  def _capture(self, split: str, index: int, joints: np.ndarray) -> np.ndarray:
    """Joints as this clip's camera saw them; the frames show the true ones."""
    # A stream of its own: the same clips are drawn with noise or without.
    rng = self._rng(f'camera {split}', index)
    if split != 'train' or rng.random() >= self.noisy_share:
      return joints
    level = corrupt.Level(
      rng.uniform(0.0, _MAX_NOISE_M), jitter_frames=rng.uniform(0.0, 1.0)
    )
    return corrupt.corrupt(joints, level, rng)

  def _rng(self, name: str, index: int) -> np.random.Generator:
    stream = int.from_bytes(
      hashlib.blake2s(name.encode(), digest_size=4).digest()
    )
    return np.random.default_rng((self.seed, stream, index))

  def _draw(self, split: str, rng: np.random.Generator):
    """A program and a scene of the split, and what is said about them."""
    if split not in SPLITS:
      raise ValueError(
        f'Expected a split of {", ".join(SPLITS)}, found {split!r}.'
      )
    program, *foils = (
      draw_program(rng, split, self.max_actions) for _ in range(3)
    )
    scene = draw_scene(rng, split)
    turns = questions.draw(program, foils, scene, rng)
    return program, scene, (*turns, *language.captions(program, scene, rng))

  def _provenance(self, program, scene) -> dict:
    return {
      'generator': 'vimonet_jax.synthetic.world',
      'seed': self.seed,
      'licence': 'Apache-2.0',
      'program': [dataclasses.asdict(action) for action in program],
      'scene': dataclasses.asdict(scene),
    }


def draw_program(
  rng: np.random.Generator, split: str, max_actions: int = 3
) -> tuple[actions.Action, ...]:
  """One to three actions, no verb twice; all values of a fact alike.

  Val and test have two actions at least, unless `max_actions` is 1.
  """
  least = 1 if split == 'train' or max_actions == 1 else 2
  counts = [n for n in _NUM_ACTIONS if least <= n <= max_actions]
  weights = np.array([_NUM_ACTIONS[n] for n in counts])
  length = int(rng.choice(counts, p=weights / weights.sum()))
  while True:
    verbs = draw_verbs(rng, length)
    if max_actions == 1 or split_of_verbs(verbs) == split:
      return tuple(_draw_attributes(rng, verb) for verb in verbs)


def draw_verbs(rng: np.random.Generator, length: int) -> list[str]:
  """A sequence of verbs of any split, none twice."""
  verbs: list[str] = []
  while len(verbs) < length:
    options = _OPTIONS['any'] if verbs else _OPTIONS['first']
    is_last = len(verbs) == length - 1
    if is_last and rng.random() < _LAST_POSTURE_PROBABILITY:
      options = _OPTIONS['last']
    verb = language.pick(rng, options)
    while verb in verbs:
      verb = language.pick(rng, options)
    verbs.append(verb)
  return verbs


def _draw_attributes(rng, verb: str) -> actions.Action:
  spec = actions.VERBS[verb]

  def one(values, default):
    return values[int(rng.integers(len(values)))] if values else default

  return actions.Action(
    verb,
    side=one(spec.sides, ''),
    direction=one(spec.directions, ''),
    count=one(spec.counts, 0),
    speed=one(spec.speeds, ''),
  )


def draw_scene(rng: np.random.Generator, split: str) -> scenes.Scene:
  """A scene whose place, object and shirt belong together in the split."""
  while True:
    place, thing, colour = (
      list(options)[int(rng.integers(len(options)))]
      for options in (scenes.PLACES, scenes.OBJECTS, scenes.COLOURS)
    )
    if split_of_scene(place, thing, colour) == split:
      return scenes.Scene(
        place=place,
        object=thing,
        colour=colour,
        people=int(rng.integers(1, scenes.MAX_PEOPLE + 1)),
        azimuth_deg=float(rng.uniform(0.0, 360.0)),
      )
