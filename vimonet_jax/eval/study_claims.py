"""Sentences about a study, and whether its numbers bear them out."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vimonet_jax.eval import scores, studies

HOLDS, FAILS, OPEN = 'holds', 'does not hold', 'not decided'
# What a claim can say of the difference to the row that is compared with.
HIGHER, LOWER, GRACEFUL = 'higher', 'lower', 'graceful'


@dataclasses.dataclass(frozen=True)
class Claim:
  """A sentence that differences to compared rows decide.

  Attributes:
    says: the sentence.
    rows: labels of rows that all have to bear it out.
    domain: of which answers: `all`, of studies.GROUPS, or a domain.
    expects: HIGHER or LOWER than the compared row; or GRACEFUL, a loss of at
      most `percent` of what the compared row gets.
    percent: see `expects`.
  """

  says: str
  rows: tuple[str, ...]
  domain: str = scores.ALL
  expects: str = HIGHER
  percent: float = 0.0


def check(claims: Sequence[Claim], rows: Sequence[studies.Row]) -> None:
  """Raises a ValueError where a claim is about what there is not."""
  against = {row.label: row.against for row in rows}
  for claim in claims:
    if claim.expects not in (HIGHER, LOWER, GRACEFUL):
      raise ValueError(
        f'Expected claims of {HIGHER}, {LOWER} or {GRACEFUL}, found '
        f'{claim.expects!r} ({claim.says}).'
      )
    for label in claim.rows:
      if not against.get(label):
        raise ValueError(
          f'Expected claims about rows that are compared with another, found '
          f'{label!r} ({claim.says}); give that row `against`.'
        )


def decide(claim: Claim, table: studies.Table) -> tuple[str, list[str]]:
  """Whether a claim holds by a table, and the numbers that say so.

  A difference counts when its interval leaves out zero and all seeds of
  training agree about its sign; a loss is graceful when its whole interval is.

  Returns:
    HOLDS, FAILS or OPEN, and a phrase for each of the claim's rows.
  """
  said, phrases = [], []
  for label in claim.rows:
    numbers = table.rows[label].get(claim.domain, {})
    if 'difference' not in numbers:
      said.append(OPEN)
      phrases.append(f'{label}: no answers to compare')
    elif claim.expects == GRACEFUL:
      said.append(_graceful(numbers, claim.percent))
      phrases.append(f'{label}: {_percent_phrase(numbers)}')
    else:
      said.append(_sign(numbers, 1 if claim.expects == HIGHER else -1))
      phrases.append(
        f'{label}: {numbers["difference"]:+.1f} points, 95 % '
        f'{numbers["difference_low"]:+.1f} to '
        f'{numbers["difference_high"]:+.1f}'
      )
  if FAILS in said:
    return FAILS, phrases
  return (HOLDS if set(said) == {HOLDS} else OPEN), phrases


def _sign(numbers: Mapping[str, Any], sign: int) -> str:
  ends = sorted(sign * numbers[f'difference_{end}'] for end in ('low', 'high'))
  seeds = [sign * x for x in numbers['difference_by_seed'].values()]
  if ends[0] > 0 and min(seeds) > 0:
    return HOLDS
  return FAILS if ends[1] < 0 and max(seeds) < 0 else OPEN


def _graceful(numbers: Mapping[str, Any], percent: float) -> str:
  if numbers['percent'] is None:
    return OPEN
  if -numbers['percent_low'] <= percent:
    return HOLDS
  return FAILS if -numbers['percent_high'] > percent else OPEN


def _percent_phrase(numbers: Mapping[str, Any]) -> str:
  if numbers['percent'] is None:
    return 'nothing right to lose'
  return (
    f'{numbers["percent"]:+.1f} % of the accuracy, 95 % '
    f'{numbers["percent_low"]:+.1f} to {numbers["percent_high"]:+.1f}; '
    f'{100 * numbers["changed"]:.0f} % of the answers changed'
  )
