"""Where right answers come more or less often: groups, twins, and chance.

    slice   answers about clips of one group, against those of all others
    twin    the same questions about a clip and its twin, who differs in a group

All comparisons of an audit are one family: the chance that it names any
difference that is not there is at most the stated level (Holm 1979). What
chance does is known from exchanging what a difference is about (`chance`):

    slices   clips exchange their groups; kinds of questions are looked at one
             by one, since a group with harder questions is none that the model
             is worse with, and differences in their standard errors, since its
             answers may vary more
    twins    a clip and its twin change places
"""

import collections
import dataclasses
import statistics
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from vimonet_jax.audit import chance, compared
from vimonet_jax.eval import scores

LEVEL = 0.05
# How often a difference of the size that is called detectable is found.
POWER = 0.8

_DRAWS = 9999
_NORMAL = statistics.NormalDist()


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A difference, found or not.

  Attributes:
    test: what is compared.
    n, n_clips: answers of the group, and the clips that they are about.
    n_against: answers that they are compared with.
    share, low, high: how right they are, 0 to 1, with its 95 % interval.
    share_against: how right the others are, of all kinds of questions.
    points, points_low, points_high: the difference in percentage points, with
      its 95 % interval; of slices, within kinds of questions.
    changed: share of twins with another answer; None for slices.
    p: how often chance alone makes so large a difference here.
    p_adjusted: how often anywhere in the family, at most.
    detectable: points that would be found with a chance of POWER; None where
      chance knows of no difference.
    is_found: whether `p_adjusted` is at most the level.
  """

  test: compared.Test
  n: int
  n_clips: int
  n_against: int
  share: float
  low: float
  high: float
  share_against: float
  points: float
  points_low: float
  points_high: float
  changed: float | None
  p: float
  p_adjusted: float
  detectable: float | None
  is_found: bool


class Audit(NamedTuple):
  """What `audit` finds.

  Attributes:
    comparisons: the differences that are found, in the order in which they
      were, and then the others, in that of the sets, without what was set
      aside.
    too_few: groups with fewer than LEAST_CLIPS, as (set, attribute, group,
      clips).
    level: the chance to find any difference where there is none.
    number: of comparisons in the family; those that nothing was left of when
      something was set aside are not among `comparisons`.
  """

  comparisons: tuple[Comparison, ...]
  too_few: tuple[tuple[str, str, str, int], ...]
  level: float
  number: int

  @property
  def found(self) -> tuple[Comparison, ...]:
    return tuple(c for c in self.comparisons if c.is_found)


def audit(
  sets: Sequence[compared.Set],
  *,
  level: float = LEVEL,
  draws: int = _DRAWS,
  seed: int = 0,
) -> Audit:
  """Finds differences, the clearest first.

  A group that is found is set aside, with all that was answered about it,
  before the next is looked for. So no cause is found twice under the names of
  what goes with it, and nobody is found to be better for being compared with a
  group that is worse.

  What nothing is left of then stays in the number that p-values are adjusted
  for. Of what is looked at again the new p-value counts and not the larger one:
  with it a worse group would never be found behind one that is worse still.

  Args:
    sets: of names of their own.
    level: the chance to find any difference where there is none.
    draws: that p-values are counted in.
    seed: of the draws.

  Raises:
    ValueError: the level is none, or `draws` are too few to find anything at
      it.
  """
  check_level(level)
  tests, too_few = _plan(sets)
  if tests and len(tests) > level * (draws + 1):
    raise ValueError(
      f'Expected {int(np.ceil(len(tests) / level))} draws or more for '
      f'{len(tests)} comparisons at a level of {level}, found {draws}; draw '
      'more.'
    )
  kept = {each.name: each for each in sets}
  left = chance.of_all(kept, tests, draws, seed)
  found: list[Comparison] = []

  def measured(test: compared.Test, *, is_found: bool) -> Comparison:
    p, deviation, _ = left[test]
    # A later one is not surer than those before it.
    before = found[-1].p_adjusted if found else 0.0
    adjusted = max(before, min(1.0, p * (len(tests) - len(found))))
    reach = _NORMAL.inv_cdf(1 - level / len(tests) / 2) + _NORMAL.inv_cdf(POWER)
    measure = _slice if test.kind == compared.SLICE else _twins
    return measure(
      kept[test.set],
      test,
      p=p,
      p_adjusted=adjusted,
      detectable=100 * reach * deviation if deviation else None,
      is_found=is_found,
    )

  while left:
    test = min(left, key=lambda test: _order(left[test]))
    if left[test].p * (len(tests) - len(found)) > level:
      break
    found.append(measured(test, is_found=True))
    kept[test.set] = _without(kept[test.set], test.attribute, _odd(found[-1]))
    again = [other for other in left if other.set == test.set and other != test]
    left = {other: left[other] for other in left if other.set != test.set}
    left |= chance.of_all(kept, again, draws, seed)
  others = [measured(test, is_found=False) for test in tests if test in left]
  return Audit((*found, *others), too_few, level, len(tests))


def _order(found: chance.Chance) -> tuple[float, float, float]:
  """The clearest first; of one seen from both sides, who is worse."""
  return found.p, -round(abs(found.z), 6), found.z


def check_level(level: float) -> None:
  """Raises a ValueError where a level is no chance."""
  if not 0 < level < 1:
    raise ValueError(
      f'Expected a level between 0 and 1, such as {LEVEL}, found {level}; '
      'correct it.'
    )


def _odd(found: Comparison) -> str:
  """The group that is set aside: of two the one with fewer right answers."""
  test = found.test
  if test.against == compared.REST or found.points < 0:
    return test.group
  return test.against


def _without(some: compared.Set, attribute: str, group: str) -> compared.Set:
  """The set without a group."""
  return some._replace(
    answers=[a for a in some.answers if a.groups.get(attribute) != group],
    pairs=[
      pair
      for pair in some.pairs
      if pair.attribute != attribute or group not in pair.groups
    ],
  )


# --- What is compared --------------------------------------------------------


def _plan(
  sets: Sequence[compared.Set],
) -> tuple[list[compared.Test], tuple[tuple[str, str, str, int], ...]]:
  """All comparisons that there are clips enough for, and groups without."""
  tests, too_few = [], {}
  for some in sets:
    for kind, attribute, clips in _clips(some):
      enough = [g for g in clips if len(clips[g]) >= compared.LEAST_CLIPS]
      for group in clips:
        if group not in enough:
          key = some.name, attribute, group
          too_few[key] = max(len(clips[group]), too_few.get(key, 0))
      if len(clips) == 2:
        if len(enough) == 2:
          tests.append(compared.Test(some.name, kind, attribute, *enough))
      else:
        tests += [
          compared.Test(some.name, kind, attribute, group, compared.REST)
          for group in enough
          if len(set().union(*(clips[g] for g in clips if g != group)))
          >= compared.LEAST_CLIPS
        ]
  return tests, tuple((*key, number) for key, number in too_few.items())


def _clips(some: compared.Set):
  """Kind, attribute, and group -> clips of it, of what can be compared."""
  attributes = {name for answer in some.answers for name in answer.groups}
  for attribute in sorted(attributes):
    clips = collections.defaultdict(set)
    for answer in compared.alike(some.answers, attribute):
      clips[answer.groups[attribute]].add(answer.clip)
    if clips:
      yield compared.SLICE, attribute, dict(sorted(clips.items()))
  for attribute in sorted({pair.attribute for pair in some.pairs}):
    clips = collections.defaultdict(set)
    for pair in some.pairs:
      if pair.attribute == attribute:
        for group in pair.groups:
          clips[group].add(pair.clip)
    yield compared.TWIN, attribute, dict(sorted(clips.items()))


# --- How large a difference is -----------------------------------------------


def _slice(some: compared.Set, test: compared.Test, **decided) -> Comparison:
  answers = compared.alike(some.answers, test.attribute)
  inside = [a for a in answers if a.groups[test.attribute] == test.group]
  others = [a for a in answers if a.groups[test.attribute] != test.group]
  means = scores.means(
    [a.value for a in answers],
    domains=[
      f'{a.groups[test.attribute] == test.group} {a.stratum}' for a in answers
    ],
    records=_numbered(a.clip for a in answers),
  )
  weights = compared.weights(answers, test.attribute, test.group)
  weights = {stratum: w for stratum, w in weights.items() if w}
  differences_SD = np.array(
    [means[f'True {s}'] - means[f'False {s}'] for s in weights]
  )
  weights_S1 = np.array(list(weights.values()))[:, None]
  is_there = ~np.isnan(differences_SD)  # A draw may have none of a kind.
  with np.errstate(invalid='ignore'):
    points = 100 * (
      np.nansum(differences_SD * weights_S1, 0) / (is_there * weights_S1).sum(0)
    )
  return _comparison(
    test,
    [a.value for a in inside],
    [a.value for a in others],
    [a.clip for a in inside],
    points,
    changed=None,
    **decided,
  )


def _twins(some: compared.Set, test: compared.Test, **decided) -> Comparison:
  pairs = compared.of_group(some.pairs, test)
  clips = [pair.clip for pair in pairs]
  points = scores.means(
    [100 * (pair.values[0] - pair.values[1]) for pair in pairs],
    domains=[test.attribute] * len(pairs),
    records=_numbered(clips),
  )[scores.ALL]
  return _comparison(
    test,
    [pair.values[0] for pair in pairs],
    [pair.values[1] for pair in pairs],
    clips,
    points,
    changed=float(np.mean([pair.is_changed for pair in pairs])),
    **decided,
  )


def _comparison(
  test: compared.Test, values, others, clips, points: np.ndarray, **rest
) -> Comparison:
  share = float(np.mean(values))
  low, high = scores.wilson(share, scores.effective_number(values, clips))
  points_low, points_high = scores.interval(points)
  return Comparison(
    test,
    n=len(values),
    n_clips=len(set(clips)),
    n_against=len(others),
    share=share,
    low=low,
    high=high,
    share_against=float(np.mean(others)),
    points=float(points[0]),
    points_low=points_low,
    points_high=points_high,
    **rest,
  )


def _numbered(clips) -> list[int]:
  """Clips as numbers, which can be sorted whatever their names are."""
  numbers: dict[Hashable, int] = {}
  return [numbers.setdefault(clip, len(numbers)) for clip in clips]
