"""One question, what it asks for, and what its wording gives away."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.synthetic import actions, language

Program = Sequence[actions.Action]

# After which somebody should look after the person.
ACCIDENTS = ('fall', 'stumble', 'limp')


@dataclasses.dataclass(frozen=True)
class Question:
  """A turn with the facts that it asks for and those that it gives away."""

  turn: records.Turn
  asks: frozenset[str]
  tells: frozenset[str] = frozenset()

  def goes_with(self, other: 'Question') -> bool:
    """Whether neither question helps to answer the other."""
    return not (
      self.asks & (other.asks | other.tells) or other.asks & self.tells
    )


def make(
  rng: np.random.Generator,
  name: str,
  wordings: Sequence[str],
  answer: str,
  fact: str,
  choices: Sequence[str],
  *,
  asks: Iterable[str],
  tells: Iterable[str] = (),
) -> Question:
  """A question called `domain/kind` in one of its wordings.

  Args:
    rng: picks the wording.
    name: domain and kind.
    wordings: sentences that ask the same.
    answer: the reference, a sentence.
    fact: see records.Turn.
    choices: the answers that are possible once the wording is known, so that
      one in so many is what a guess gets.
    asks: facts that the answer gives.
    tells: facts that the wording gives away.
  """
  domain, kind = name.split('/')
  asked = language.pick(rng, wordings)
  turn = records.Turn(asked, answer, domain, kind, fact, tuple(choices))
  return Question(turn, frozenset(asks), frozenset(tells))


def verb_facts(program: Program, i: int) -> frozenset[str]:
  """What is known once the verb of action `i` is."""
  return frozenset({f'verb{i}'} | has(program[i].verb))


def has(verb: str) -> set[str]:
  """What is known once it is known whether a verb occurs."""
  return {f'has {verb}'} | ({'accident'} if verb in ACCIDENTS else set())


def pick_action(
  program: Program,
  rng: np.random.Generator,
  claims: Callable[[actions.Action], object],
) -> int | None:
  """Index of one of the actions of which `claims` holds, if there is any."""
  found = [i for i, action in enumerate(program) if claims(action)]
  return found[int(rng.integers(len(found)))] if found else None


def is_kept(
  shares: Mapping[str, float], answer: str, rng: np.random.Generator
) -> bool:
  """Whether to ask for an answer, those without a share always."""
  return rng.random() < shares.get(answer, 1.0)
