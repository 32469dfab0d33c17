"""What chance alone does to a difference, by exchanging what it is about.

P-values are counted in exchanges, so they hold for few answers and for shares
near one. Answers about one clip are right and wrong together, and so they stay
together in every exchange.
"""

import collections
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vimonet_jax.audit import compared

# So many draws are in memory at once.
_CHUNK = 1000
# Sums of the same numbers in another order are equal.
_ROUNDING = 1e-9


class Chance(NamedTuple):
  """What chance alone does to a comparison.

  Attributes:
    p: how often it makes so large a difference.
    deviation: of the differences that it makes, 0 to 1.
    z: the difference in such deviations, below 0 where less is right; it orders
      what is beyond the smallest p-value that there can be.
  """

  p: float
  deviation: float
  z: float


def of_all(
  sets: Mapping[str, compared.Set],
  tests: Sequence[compared.Test],
  draws: int,
  seed: int,
) -> dict[compared.Test, Chance]:
  """What it does to each of the tests that have clips enough.

  Args:
    sets: by name.
    tests: of these sets.
    draws: how many exchanges.
    seed: of the draws.
  """
  together = collections.defaultdict(list)
  for test in tests:
    together[test.set, test.kind, test.attribute].append(test)
  found = {}
  for (name, kind, attribute), some in together.items():
    rng = np.random.default_rng(seed)
    if kind == compared.SLICE:
      found |= _exchanged(sets[name].answers, attribute, some, draws, rng)
    else:
      for test in some:
        found |= _swapped(sets[name].pairs, test, draws, rng)
  return {test: found[test] for test in tests if test in found}


class _Units(NamedTuple):
  """What exchanges its group as one: answers about a clip that are in one.

  Attributes:
    groups: of U units.
    clips: that they are about.
    blocks: of units that exchange their groups with each other.
    excess_US: how much more is right than of the same kind of question
      elsewhere; S kinds.
    shares_US: of all answers to a kind of question.
  """

  groups: np.ndarray
  clips: Sequence[Hashable]
  blocks: Sequence[Sequence[int]]
  excess_US: np.ndarray
  shares_US: np.ndarray


def _exchanged(
  answers: Sequence[compared.Answer],
  attribute: str,
  tests: Sequence[compared.Test],
  draws: int,
  rng: np.random.Generator,
) -> dict[compared.Test, Chance]:
  """Clips exchange their groups.

  A unit of one answer exchanges its group with others of that kind of question,
  one of several with others of as many. Those may hold kinds that are right
  more or less evenly, so that a difference alone would vary more or less than
  those of the exchanges. What is compared is therefore how many standard errors
  it has, which are those of each exchange (Janssen 1997; Chung and Romano
  2013).
  """
  some = compared.alike(answers, attribute)
  units = _units(some, attribute)
  tests = [test for test in tests if _has_clips(units, test)]
  if not tests:
    return {}
  is_in_UG = np.stack([units.groups == test.group for test in tests], axis=-1)
  usual_UG = np.empty(is_in_UG.shape)
  for block in units.blocks:
    usual_UG[block] = is_in_UG[block].mean(axis=0)
  sums, errors = np.empty((2, len(tests), draws + 1))
  for start in range(0, draws + 1, _CHUNK):
    at = slice(start, min(start + _CHUNK, draws + 1))
    order_BU = np.tile(np.arange(len(is_in_UG)), (at.stop - start, 1))
    for block in units.blocks:
      order_BU[:, block] = rng.permuted(order_BU[:, block], axis=1)
    if not start:
      order_BU[0] = np.arange(len(is_in_UG))  # What there is.
    for i in range(len(tests)):
      more_BU = is_in_UG[order_BU, i] - usual_UG[:, i]
      sums[i, at], errors[i, at] = _excess(more_BU, units)
  found = {}
  for test, sums_D, errors_D in zip(tests, sums, errors, strict=True):
    weight = sum(compared.weights(some, attribute, test.group).values())
    times_D = sums_D / np.maximum(errors_D, _ROUNDING)
    found[test] = _of_draws(times_D, unit=errors_D[0] / weight)
  return found


def _excess(
  more_BU: np.ndarray, units: _Units
) -> tuple[np.ndarray, np.ndarray]:
  """How much more is right in a group, and the standard error of that.

  Args:
    more_BU: how much more each unit is in it than those of its block are; B
      exchanges.
  """
  excess_U = units.excess_US.sum(axis=1)
  # A unit counts for itself and for what it makes usual of its kinds.
  own_BU = more_BU * excess_U - more_BU @ units.shares_US @ units.excess_US.T
  return own_BU.sum(axis=1), np.sqrt(np.einsum('bu,bu->b', own_BU, own_BU))


def _units(answers: Sequence[compared.Answer], attribute: str) -> _Units:
  held = collections.defaultdict(list)
  for answer in answers:
    held[answer.clip, answer.groups[attribute]].append(answer)
  means = _means(answers)
  kinds = {stratum: i for i, stratum in enumerate(means)}
  excess_US, number_US = np.zeros((2, len(held), len(kinds)))
  blocks = collections.defaultdict(list)
  for i, some in enumerate(held.values()):
    blocks[some[0].stratum if len(some) == 1 else len(some)].append(i)
    for answer in some:
      excess_US[i, kinds[answer.stratum]] += (
        answer.value - means[answer.stratum]
      )
      number_US[i, kinds[answer.stratum]] += 1
  return _Units(
    groups=np.array([group for _, group in held]),
    clips=[clip for clip, _ in held],
    blocks=list(blocks.values()),
    excess_US=excess_US,
    shares_US=number_US / number_US.sum(axis=0),
  )


def _has_clips(units: _Units, test: compared.Test) -> bool:
  """Whether there are enough on both sides."""
  sides = [set(), set()]
  for clip, group in zip(units.clips, units.groups, strict=True):
    sides[group == test.group].add(clip)
  return min(map(len, sides)) >= compared.LEAST_CLIPS


def _swapped(
  pairs: Sequence[compared.Pair],
  test: compared.Test,
  draws: int,
  rng: np.random.Generator,
) -> dict[compared.Test, Chance]:
  """A clip and its twin change places."""
  some = compared.of_group(pairs, test)
  by_clip = collections.Counter()
  for pair in some:
    by_clip[pair.clip] += pair.values[0] - pair.values[1]
  if len(by_clip) < compared.LEAST_CLIPS:
    return {}
  excess_C = np.array(list(by_clip.values()))
  signs_DC = rng.integers(0, 2, (draws, len(excess_C)), np.int8) * 2 - 1
  sums = np.concatenate([[excess_C.sum()], signs_DC @ excess_C])
  # With signs exchanged it has the same standard error: one that is no news.
  return {test: _of_draws(sums, unit=1 / len(some))}


def _of_draws(values: np.ndarray, unit: float) -> Chance:
  """Of what there is, which comes first, and what chance makes.

  Args:
    values: in any unit.
    unit: the difference that it is.
  """
  real, drawn = values[0], np.abs(values[1:])
  p = (1 + np.sum(drawn >= abs(real) - _ROUNDING)) / len(values)
  deviation = float(np.sqrt(np.mean(drawn**2)))
  return Chance(float(p), unit * deviation, float(real / (deviation or 1.0)))


def _means(answers: Sequence[compared.Answer]) -> dict[str, float]:
  """Stratum -> how right its answers are."""
  values = collections.defaultdict(list)
  for answer in answers:
    values[answer.stratum].append(answer.value)
  return {stratum: float(np.mean(x)) for stratum, x in values.items()}
