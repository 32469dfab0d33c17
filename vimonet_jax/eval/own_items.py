"""Questions that the records of a data set bring along, as items.

Of VIMOS-Synth they are turns with a fact, of other data the captions.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence

from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import benchmarks


def questions(
  records: Sequence[records_lib.Record],
  *,
  per_domain: int = 100,
  seed: int = 0,
  benchmark: str = benchmarks.SYNTHETIC,
  damaged: Collection[int] = (),
) -> list[benchmarks.Item]:
  """Turns with a fact, each asked as the first of a conversation.

  No domain has more than `per_domain` items, and the kinds of questions of a
  domain come equally often as far as there are enough of them. Which turns are
  taken depends on their ids and the seed only.

  Args:
    records: of one split.
    per_domain: most items a domain has.
    seed: draws other items.
    benchmark: the name in the tables.
    damaged: positions of records that are not looked at.

  Returns:
    Items with clean media of both kinds, in the order of the records.
  """
  by_kind: dict[str, dict[str, list[benchmarks.Item]]] = {}
  for position, record in _numbered(records, damaged):
    for number, turn in enumerate(record.turns):
      if not turn.fact:
        continue
      item = benchmarks.Item(
        id=f'{record.id}/{number}',
        benchmark=benchmark,
        split=record.split,
        input='both',
        corruption=benchmarks.CLEAN,
        domain=turn.domain,
        kind=turn.kind,
        question=turn.question,
        references=(turn.answer,),
        position=position,
        media_position=position,
        fact=turn.fact,
        choices=turn.choices,
        seed=seed,
      )
      kinds = by_kind.setdefault(turn.domain, {})
      kinds.setdefault(turn.kind, []).append(item)
  items = []
  for kinds in by_kind.values():
    each = [benchmarks.shuffled(kinds[kind], seed) for kind in sorted(kinds)]
    in_turn = itertools.chain(*itertools.zip_longest(*each))
    items += list(filter(None, in_turn))[:per_domain]
  if not items:
    raise ValueError(
      f'Expected turns with a fact in {len(records)} records, found none; '
      'without facts use captions.'
    )
  return sorted(items, key=lambda item: (item.position, item.id))


def captions(
  records: Sequence[records_lib.Record],
  *,
  domain: str = 'motion_caption',
  benchmark: str = benchmarks.CAPTIONS,
  damaged: Collection[int] = (),
) -> list[benchmarks.Item]:
  """One item for each record that has captions: describe the clip.

  References are the first three captions; one caption is used three times, of
  two the first is used again. This is the published protocol of HumanML3D
  captioning (MotionGPT), and padding is not without effect on CIDEr.

  Args:
    records: of one split.
    domain: of the caption turns, which also says which media are shown.
    benchmark: the name in the tables.
    damaged: positions of records that are not looked at.
  """
  media = records_lib.DOMAINS[domain]
  inputs = benchmarks.INPUTS.items()
  shown = next(name for name, held in inputs if held == media)
  items = []
  for position, record in _numbered(records, damaged):
    turns = [turn for turn in record.turns if turn.domain == domain]
    if not turns:
      continue
    captions = [turn.answer for turn in turns]
    items.append(
      benchmarks.Item(
        id=record.id,
        benchmark=benchmark,
        split=record.split,
        input=shown,
        corruption=benchmarks.CLEAN,
        domain=domain,
        kind='caption',
        question=turns[0].question,
        references=tuple((captions[:3] + captions[:1] * 2)[:3]),
        position=position,
        media_position=position,
      )
    )
  if not items:
    raise ValueError(
      f'Expected turns of domain {domain} in {len(records)} records, found '
      'none; check the captions of that split.'
    )
  return items


def _numbered(
  records: Sequence[records_lib.Record], damaged: Collection[int]
) -> Iterator[tuple[int, records_lib.Record]]:
  """The records with their positions, without the damaged ones."""
  for position in range(len(records)):
    if position not in damaged:
      yield position, records[position]
