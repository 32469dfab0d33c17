"""Other clips that a training clip might have been: mirrored, cut, seen badly.

For small sets of real motions. A caption stays true of a mirror image when left
and right change places in it too, and, more or less, of most of its clip; of
counts and of the order of actions it does not, so keep `least_share` at 1 where
these are asked for.

Videos without a motion can be flipped by themselves. The reference flips half
of all videos, of answers too, and leaves the words as they are; here the words
change sides with the picture, and what is asked is never flipped.
"""

import dataclasses
import re

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.motion import corrupt, features, skeleton

_PAIRS = (
  ('left', 'right'),
  ('lefts', 'rights'),
  ('leftward', 'rightward'),
  ('leftwards', 'rightwards'),
  ('clockwise', 'counterclockwise'),
  ('clockwise', 'counter-clockwise'),
  ('clockwise', 'counter clockwise'),
  ('clockwise', 'anticlockwise'),
  ('clockwise', 'anti-clockwise'),
  ('clockwise', 'anti clockwise'),
)
_OTHER = {b: a for a, b in _PAIRS} | {a: b for a, b in reversed(_PAIRS)}
_SIDE = re.compile(
  r'\b('
  + '|'.join(sorted(map(re.escape, _OTHER), key=len, reverse=True))
  + r')\b',
  re.IGNORECASE,
)
# What has a side's name and is none. Of what somebody left, only what cannot be
# a side: the man left of the car, has left arm raised, turns tot he left.
_NO_SIDE = re.compile(
  r'\b(?:right (?:away|now|there|where|angles?|order|answers?|choices?)|'
  r'all right|(?:order|answer|choice)s? (?:is|are) right|'
  r'(?:where|when|after|before|direction) (?:he|she|they) left|who left|'
  r'(?:person|man|woman|boy|girl) left (?:the|a|his|her|their))\b',
  re.IGNORECASE,
)
# Right after is no side, unless somebody turns right after that.
_MAYBE_NO_SIDE = re.compile(r'right (?:before|after)\b', re.IGNORECASE)
_BEFORE_A_SIDE = re.compile(
  r'\b(?:the|his|her|their|to|and|or|\w+ing|turns?|steps?|moves?|leans?|'
  r'walks?|jumps?|hops?|runs?|looks?|goes|go) $',
  re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Augment:
  """Draws a variant of a record; the default leaves every record as it is.

  Attributes:
    mirror: how often a record is shown in a mirror, 0 to 1.
    flip_share: the same for records with frames and without a motion, where it
      is more than `mirror`. A video that a motion belongs to, whether or not
      the motion is shown, is never flipped by it.
    least_share: of a motion that a cut leaves, above 0 to 1.
    noise_share: how often joints are seen badly, 0 to 1.
    noise: how badly, one of `corrupt.LEVELS`.
  """

  mirror: float = 0.0
  flip_share: float = 0.0
  least_share: float = 1.0
  noise_share: float = 0.0
  noise: str = 'L2'

  def __post_init__(self):
    if (
      not 0 <= self.mirror <= 1
      or not 0 <= self.flip_share <= 1
      or not 0 < self.least_share <= 1
      or not 0 <= self.noise_share <= 1
      or self.noise not in corrupt.LEVELS
    ):
      raise ValueError(
        'Expected shares of 0 to 1, a least share above 0 and noise out of '
        f'{", ".join(corrupt.LEVELS)}, found {self}.'
      )

  def __call__(
    self, record: records.Record, rng: np.random.Generator
  ) -> records.Record:
    """A variant; features that change are taken anew from the joints.

    Args:
      record: with or without media.
      rng: decides everything; each variant draws the same numbers.
    """
    # All numbers first, so that one setting does not shift the next one's.
    is_mirrored = rng.random() < self._mirror_share(record)
    is_noisy = rng.random() < self.noise_share
    share = rng.uniform(self.least_share, 1.0)
    place = rng.random()
    if is_mirrored:
      record = mirrored(record)
    if record.motion is None:
      return record
    if is_noisy:
      record = _with_joints(
        record,
        corrupt.corrupt(_joints(record), corrupt.LEVELS[self.noise], rng),
      )
    return _cut(record, share, place)

  def _mirror_share(self, record: records.Record) -> float:
    if record.frames is None or record.motion is not None:
      return self.mirror
    return max(self.mirror, self.flip_share)


def mirrored(record: records.Record) -> records.Record:
  """The record as a mirror shows it: motion, frames and the words for sides."""
  turns = tuple(
    dataclasses.replace(
      turn,
      question=other_side(turn.question),
      answer=other_side(turn.answer),
      fact=other_side(turn.fact),
      choices=tuple(map(other_side, turn.choices)),
    )
    for turn in record.turns
  )
  frames = record.frames
  if frames is not None:
    frames = np.ascontiguousarray(frames[:, :, ::-1])
  texts = {
    name: other_side(held)
    for name in ('motion_text', 'video_text')
    if (held := getattr(record, name)) is not None
  }
  record = dataclasses.replace(record, turns=turns, frames=frames, **texts)
  if record.motion is None:
    return record
  return _with_joints(record, skeleton.mirror(_joints(record)))


def other_side(text: str) -> str:
  """The sentence with left and right, and senses of rotation, swapped."""

  def swap(match: re.Match) -> str:
    found = match[0]
    if _is_no_side(text, match.start()):
      return found
    other = _OTHER[found.lower()]
    if found.isupper():
      return other.upper()
    return other.capitalize() if found[0].isupper() else other

  return _SIDE.sub(swap, text)


def _is_no_side(text: str, start: int) -> bool:
  if _MAYBE_NO_SIDE.match(text, start):
    return not _BEFORE_A_SIDE.search(text[:start])
  return any(
    phrase.start() <= start < phrase.end() for phrase in _NO_SIDE.finditer(text)
  )


def _joints(record: records.Record) -> np.ndarray:
  """float32 [T + 1, 22, 3] of T rows of motion."""
  if record.joints is not None:
    return record.joints
  joints_TJ3 = features.recover(record.motion)
  # The frame that the last row leads to is in no row. Without one, features of
  # these joints would be a row short, and so a token.
  return np.concatenate([joints_TJ3, joints_TJ3[-1:]])


def _with_joints(record: records.Record, joints_TJ3) -> records.Record:
  return dataclasses.replace(
    record,
    joints=joints_TJ3.astype(np.float32),
    motion=records.trim_motion(features.encode(joints_TJ3)),
  )


def _cut(record: records.Record, share: float, place: float) -> records.Record:
  """About that share of a motion, in whole tokens, at a place of 0 to 1."""
  tokens = len(record.motion) // records.FRAMES_PER_TOKEN
  kept = max(round(tokens * share), 1)
  start = round((tokens - kept) * place) * records.FRAMES_PER_TOKEN
  stop = start + kept * records.FRAMES_PER_TOKEN
  joints = record.joints
  if joints is not None:
    joints = joints[start : stop + 1]
  return dataclasses.replace(
    record, motion=record.motion[start:stop], joints=joints
  )
