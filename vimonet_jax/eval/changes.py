"""What a test does to media before a model sees them.

A level of motion.corrupt adds noise, as an estimator of poses would. The others
make what was asked untrue, so a model that looks must change its answer:

    swapped   another clip's media
    mirrored  left is right; items are of what has a side, and change with it
    reversed  the last frame first; what came first is asked as before
    zeroed    media tokens that hold nothing (see engine.Engine.blind)
"""

import dataclasses

import numpy as np

from vimonet_jax import fingerprint
from vimonet_jax.data import augment
from vimonet_jax.data import records as records_lib
from vimonet_jax.motion import corrupt, features

CLEAN = 'none'
SWAPPED = 'swapped'
MIRRORED = 'mirrored'
REVERSED = 'reversed'
ZEROED = 'zeroed'
# Of the question: its options in another order.
ROTATED = 'rotated'

_BOTH = ('motion', 'video')
# Each change -> the media that it is a change of.
TOUCHED = {
  CLEAN: _BOTH,
  SWAPPED: _BOTH,
  MIRRORED: _BOTH,
  REVERSED: _BOTH,
  ZEROED: _BOTH,
  **dict.fromkeys(corrupt.LEVELS, ('motion',)),
}


def changed(
  record: records_lib.Record, change: str, *, name: str, seed: int
) -> records_lib.Record:
  """The record with changed media.

  Args:
    record: as it is kept.
    change: of `TOUCHED`; some change which record is shown, or the model, and
      leave the record as it is.
    name: of the item; noise depends on it and the seed only.
    seed: of the noise.

  Raises:
    ValueError: the record has no joints to change.
  """
  if change == MIRRORED:
    _check_joints(record)
    return augment.mirrored(record)
  if change == REVERSED:
    frames = record.frames
    if frames is not None:
      frames = np.ascontiguousarray(frames[::-1])
    record = dataclasses.replace(record, frames=frames)
    if record.motion is None:
      return record
    _check_joints(record)
    return _with_joints(record, np.ascontiguousarray(record.joints[::-1]))
  if change in corrupt.LEVELS and record.motion is not None:
    _check_joints(record)
    # Joints first and features of them: that is how noise would come.
    rng = np.random.default_rng(digest(seed, name))
    level = corrupt.LEVELS[change]
    return _with_joints(record, corrupt.corrupt(record.joints, level, rng))
  return record


def digest(seed: int, name: str) -> int:
  """A number that depends on the seed and the name and nothing else."""
  return int(fingerprint.digest(f'{seed} {name}'), 16)


def _check_joints(record: records_lib.Record) -> None:
  if record.motion is not None and record.joints is None:
    raise ValueError(
      f'Record {record.id}: expected joints to change, found features only; '
      'evaluate this data without changes or build it from joints.'
    )


def _with_joints(
  record: records_lib.Record, joints_TJ3: np.ndarray
) -> records_lib.Record:
  motion = records_lib.trim_motion(features.encode(joints_TJ3))
  return dataclasses.replace(record, motion=motion, joints=joints_TJ3)
