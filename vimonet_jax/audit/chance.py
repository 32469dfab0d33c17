"""What chance alone does to a difference, by exchanging what it is about.

P-values are counted in exchanges, so they hold for few answers and for shares
near one. Answers about one clip are right and wrong together, and so they stay
together in every exchange.
"""

import collections
from collections.abc import Mapping, Sequence
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
    z: the difference in such deviations; it orders what is beyond the smallest
      p-value that there can be.
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


def _exchanged(
  answers: Sequence[compared.Answer],
  attribute: str,
  tests: Sequence[compared.Test],
  draws: int,
  rng: np.random.Generator,
) -> dict[compared.Test, Chance]:
  """Clips exchange their groups.

  The answers about a clip that are in one group are a unit, whose value is how
  much more is right than of the same kinds of questions elsewhere. A unit of
  one answer exchanges its group with others of that kind of question, one of
  several with others of as many.
  """
  some = compared.alike(answers, attribute)
  usual = _means(some)
  units = collections.defaultdict(list)
  for answer in some:
    units[answer.clip, answer.groups[attribute]].append(answer)
  blocks = collections.defaultdict(list)
  for (_, group), held in units.items():
    block = held[0].stratum if len(held) == 1 else len(held)
    excess = sum(answer.value - usual[answer.stratum] for answer in held)
    blocks[block].append((group, excess))
  groups = [test.group for test in tests]
  sums = np.zeros((draws + 1, len(groups)))  # The first is what there is.
  for held in blocks.values():
    is_in_UG = np.array([[group == g for g in groups] for group, _ in held])
    excess_U = np.array([excess for _, excess in held])
    excess_U -= excess_U.mean()
    sums[0] += excess_U @ is_in_UG
    for start in range(1, draws + 1, _CHUNK):
      stop = min(start + _CHUNK, draws + 1)
      drawn_BU = np.tile(excess_U, (stop - start, 1))
      sums[start:stop] += rng.permuted(drawn_BU, axis=1) @ is_in_UG
  clips = collections.defaultdict(set)
  for clip, group in units:
    clips[group].add(clip)
  found = {}
  for test, sums_D in zip(tests, sums.T, strict=True):
    others = set().union(*(clips[g] for g in clips if g != test.group))
    if min(len(clips[test.group]), len(others)) >= compared.LEAST_CLIPS:
      weight = sum(compared.weights(some, attribute, test.group).values())
      found[test] = _of_draws(sums_D / weight)
  return found


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
  return {test: _of_draws(sums / len(some))}


def _of_draws(differences: np.ndarray) -> Chance:
  """Of what there is, which comes first, and what chance makes."""
  real, drawn = abs(differences[0]), np.abs(differences[1:])
  p = (1 + np.sum(drawn >= real - _ROUNDING)) / len(differences)
  deviation = float(np.sqrt(np.mean(drawn**2)))
  return Chance(float(p), deviation, float(real / (deviation or 1.0)))


def _means(answers: Sequence[compared.Answer]) -> dict[str, float]:
  """Stratum -> how right its answers are."""
  values = collections.defaultdict(list)
  for answer in answers:
    values[answer.stratum].append(answer.value)
  return {stratum: float(np.mean(x)) for stratum, x in values.items()}
