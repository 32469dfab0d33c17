"""What is known of a clip and of the words that are said about it.

Who and what is there where the clip's maker knows: person, clothes, place. Of
joints, whoever recorded them, build and walk are measured. Of a question and
its answer, the words for gender, age and side are taken.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vimonet_jax.audit import wording
from vimonet_jax.data import records
from vimonet_jax.motion import features, skeleton

# Slower is no walk. Whoever goes for less than a second has no speed.
_WALK_M_S = 0.3
_LEAST_WALK_S = 1.0
# Feet are apart so far, along the way, or stand beside each other.
_STRIDE_M = 0.05
_SMOOTHED_FRAMES = 5
_LEG = ('hip', 'knee', 'ankle')
_TRUNK = ('pelvis', 'spine1', 'spine2', 'spine3', 'neck', 'head')
_BUILD = ('height', 'legs')
# Measures that differ less, of their mean, are the same for all.
_SAME = 0.02
_UNITS = {
  'height': 'm',
  'legs': 'of the height',
  'walking speed': 'm/s',
  'cadence': 'steps a minute',
}
_CAMERAS = ('front', 'left', 'back', 'right')


def of_record(record: records.Record) -> dict[str, str | float]:
  """Attribute -> group, or a number where it was measured; see `grouped`."""
  told = record.provenance
  found: dict[str, Any] = dict(told.get('person') or {})
  if scene := told.get('scene'):
    found |= {name: str(scene[name]) for name in ('place', 'object', 'people')}
    found['shirt'] = scene['colour']
    # The people in a clip are filmed from all sides.
    quarter = round(scene['azimuth_deg'] / 90) % len(_CAMERAS)
    found['camera'] = _CAMERAS[quarter]
  measured = measures(_joints(record)) if record.motion is not None else {}
  if 'person' in told:  # What is known need not be measured.
    measured = {k: x for k, x in measured.items() if k not in _BUILD}
  return found | measured


def of_words(question: str, answer: str) -> dict[str, str]:
  """Attribute -> group, of a question and the right answer to it."""
  both = f'{question} {answer}'
  found = {
    'words for gender': wording.gender(both) or 'none',
    'words for age': 'some' if wording.ages(both) else 'none',
  }
  sides = set(re.findall(r'\b(left|right)\b', answer.lower()))
  if len(sides) == 1:
    found['side'] = sides.pop()
  return found


def measures(joints_TJ3: np.ndarray) -> dict[str, float]:
  """Build and walk of a clip at 20 fps, as far as they can be measured.

  height           of legs, trunk, neck and head, metres
  legs             their share of it
  walking speed    of the pelvis where it goes anywhere, m/s
  cadence          steps a minute meanwhile
  """

  def at(name):
    return joints_TJ3[:, skeleton.INDEX[name]]

  def length(names):
    bones = [at(b) - at(a) for a, b in zip(names, names[1:], strict=False)]
    return sum(np.median(np.linalg.norm(x, axis=-1)) for x in bones)

  sides = ('left', 'right')
  legs = np.mean([length([f'{s}_{x}' for x in _LEG]) for s in sides])
  height = legs + length(_TRUNK)
  found = {'height': float(height), 'legs': float(legs / height)}
  window = min(_SMOOTHED_FRAMES, len(joints_TJ3))
  even = np.full(window, 1 / window)
  path = np.stack(
    [np.convolve(at('pelvis')[:, k], even, 'valid') for k in (0, 2)], axis=-1
  )
  if len(path) < 2:
    return found
  velocity = np.gradient(path, axis=0) * records.FPS
  speed = np.linalg.norm(velocity, axis=-1)
  goes = speed > _WALK_M_S
  seconds = goes.sum() / records.FPS
  if seconds < _LEAST_WALK_S:
    return found
  found['walking speed'] = float(speed[goes].mean())
  start = (window - 1) // 2
  apart = (at('left_foot') - at('right_foot'))[start : start + len(path)]
  ahead = (apart[:, [0, 2]] * velocity).sum(-1)[goes] / speed[goes]
  leading = np.sign(ahead[np.abs(ahead) > _STRIDE_M])
  steps = int((np.diff(leading) != 0).sum())
  found['cadence'] = float(60 * steps / seconds)
  return found


def grouped(found: Sequence[Mapping[str, str | float]]) -> list[dict[str, str]]:
  """The same with a third of the clips in place of each number.

  Args:
    found: one of `of_record` for each clip.
  """
  made = [
    {name: x for name, x in clip.items() if isinstance(x, str)}
    for clip in found
  ]
  for name, unit in _UNITS.items():
    there = [i for i, clip in enumerate(found) if name in clip]
    values = np.array([found[i][name] for i in there])
    if not len(values) or np.ptp(values) <= _SAME * abs(values.mean()):
      continue
    low, high = np.quantile(values, [1 / 3, 2 / 3])
    digits = 0 if low >= 10 else 2
    labels = (
      f'1st third, to {low:.{digits}f} {unit}',
      f'2nd third, to {high:.{digits}f} {unit}',
      '3rd third, above',
    )
    for i, value in zip(there, values, strict=True):
      made[i][name] = labels[int(value > low) + int(value > high)]
  return made


def _joints(record: records.Record) -> np.ndarray:
  if record.joints is not None:
    return record.joints
  return features.recover(record.motion)
