"""Draws programs and scenes and writes records: the dataset VIMOS-Synth.

A record is a pure function of (seed, split, index), so any process can make any
part of the dataset. Whole programs and whole scenes belong to one split, found
from a hash of what they are: nothing that is asked in the test was ever seen,
as a program or as a combination of place, object and shirt, in training.
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
# Out of ten programs, and of ten scenes: eight, one and one.
_TENTHS = {8: 'val', 9: 'test'}
# How many actions a clip has, and how often.
_NUM_ACTIONS = {1: 0.2, 2: 0.45, 3: 0.35}
# Every third clip ends off the feet; else 'where does it end' has one answer.
_LAST_POSTURE_PROBABILITY = 0.3
# The worst camera of a training clip; what robustness is measured with is
# corrupt.LEVELS.
_MAX_NOISE_M = 0.04


def split_of(*facts) -> str:
  """The split that a program or a scene belongs to."""
  digest = hashlib.blake2s(repr(facts).encode(), digest_size=4).digest()
  return _TENTHS.get(int.from_bytes(digest) % 10, 'train')


@dataclasses.dataclass(frozen=True)
class World:
  """The synthetic world.

  Attributes:
    seed: another seed is another dataset.
    image_size: width and height of the frames, pixels.
    max_actions: longest program, 1 to 3.
    noisy_share: how many of the training clips come from worse cameras, whose
      joints drift and jitter, 0 to 1; val and test are clean.
  """

  seed: int = 0
  image_size: int = 48
  max_actions: int = 3
  noisy_share: float = 0.0

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
    program = draw_program(rng, split, self.max_actions)
    scene = draw_scene(rng, split)
    turns = questions.draw(
      program, scene, _absent_verb(program, rng, self.max_actions), rng
    )
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
  """One to three actions, no verb twice; all values of a fact alike."""
  counts = [n for n in _NUM_ACTIONS if n <= max_actions]
  weights = np.array([_NUM_ACTIONS[n] for n in counts])
  while True:
    length = int(rng.choice(counts, p=weights / weights.sum()))
    program = _draw_actions(rng, length)
    if split_of(*program) == split:
      return program


def _draw_actions(rng, length: int) -> tuple[actions.Action, ...]:
  by_place = {place: [] for place in ('any', 'first', 'last')}
  for verb, spec in actions.VERBS.items():
    by_place[spec.place].append(verb)
  verbs: list[str] = []
  for i in range(length):
    options = list(by_place['any'])
    if i == 0:
      options += by_place['first']
    if i == length - 1 and rng.random() < _LAST_POSTURE_PROBABILITY:
      options = by_place['last']
    options = [verb for verb in options if verb not in verbs]
    verbs.append(options[int(rng.integers(len(options)))])
  return tuple(_draw_attributes(rng, verb) for verb in verbs)


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


def _absent_verb(
  program: Sequence[actions.Action],
  rng: np.random.Generator,
  max_actions: int,
) -> str:
  """A verb of another program, so that rare verbs are denied rarely too."""
  present = {action.verb for action in program}
  while True:
    other = draw_program(rng, 'train', max_actions)
    verb = other[int(rng.integers(len(other)))].verb
    if verb not in present:
      return verb


def draw_scene(rng: np.random.Generator, split: str) -> scenes.Scene:
  """A scene whose place, object and shirt belong together in the split."""
  while True:
    place, thing, colour = (
      list(options)[int(rng.integers(len(options)))]
      for options in (scenes.PLACES, scenes.OBJECTS, scenes.COLOURS)
    )
    if split_of(place, thing, colour) == split:
      return scenes.Scene(
        place=place,
        object=thing,
        colour=colour,
        people=int(rng.integers(1, scenes.MAX_PEOPLE + 1)),
        azimuth_deg=float(rng.uniform(0.0, 360.0)),
      )
