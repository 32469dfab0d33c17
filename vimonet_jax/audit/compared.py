"""What an audit compares: answers in groups, and answers about twins."""

import collections
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

SLICE, TWIN = 'slice', 'twin'
# What a group is compared with where there are several others.
REST = 'the rest'
# A group of fewer clips is not compared.
LEAST_CLIPS = 20


class Answer(NamedTuple):
  """An answer, and what is known of its clip and words.

  Attributes:
    value: how right it is, 0 to 1.
    clip: what it is about.
    stratum: the kind of question.
    groups: attribute -> group, of the attributes that are known.
  """

  value: float
  clip: Hashable
  stratum: str
  groups: Mapping[str, str]


class Pair(NamedTuple):
  """Two answers to the same question, about a clip and its twin.

  Attributes:
    attribute: what the two differ in.
    groups: the group of each.
    values: how right the answer about each is, 0 to 1.
    clip: which clip it is.
    is_changed: whether the answers are different texts.
  """

  attribute: str
  groups: tuple[str, str]
  values: tuple[float, float]
  clip: Hashable
  is_changed: bool


class Set(NamedTuple):
  """What was answered in one test set; attributes are its own."""

  name: str
  answers: Sequence[Answer]
  pairs: Sequence[Pair] = ()


class Test(NamedTuple):
  """What is compared: a group of an attribute, with others.

  Attributes:
    set: name of the test set.
    kind: SLICE or TWIN.
    attribute: that tells the groups apart.
    group: the one, in whose answers a difference is looked for.
    against: the other one, or REST.
  """

  set: str
  kind: str
  attribute: str
  group: str
  against: str


def alike(answers: Sequence[Answer], attribute: str) -> list[Answer]:
  """Answers whose kind of question was asked about two groups or more."""
  groups = collections.defaultdict(set)
  for answer in answers:
    if attribute in answer.groups:
      groups[answer.stratum].add(answer.groups[attribute])
  return [
    answer
    for answer in answers
    if attribute in answer.groups and len(groups[answer.stratum]) > 1
  ]


def of_group(pairs: Sequence[Pair], test: Test) -> list[Pair]:
  """The pairs with one of the group, which comes first."""
  found = []
  for pair in pairs:
    if pair.attribute == test.attribute and test.group in pair.groups:
      if pair.groups[1] == test.group:
        pair = pair._replace(groups=pair.groups[::-1], values=pair.values[::-1])
      found.append(pair)
  return found


def weights(
  answers: Sequence[Answer], attribute: str, group: str
) -> dict[str, float]:
  """Stratum -> what its difference tells (Mantel and Haenszel 1959)."""
  inside = collections.Counter(
    a.stratum for a in answers if a.groups[attribute] == group
  )
  whole = collections.Counter(a.stratum for a in answers)
  return {s: inside[s] * (n - inside[s]) / n for s, n in whole.items()}
