"""How surely a watermark is found in a model's answers, and what it costs.

    python tests/benchmarks/watermark.py --workdir=workdir/tiny \
        --temperatures 1 1.5 --marks 0.5:5:1 0.5:5:3 --tokens 100 --draws=2
    python tests/benchmarks/watermark.py --workdir=workdir/tiny --split=test \
        --temperatures 1.5 --marks 0.5:5:3 --per-domain=400

A mark is its gamma, delta and width. A text is 100 tokens (--tokens) of one
key: descriptions of clip after clip, motion and video shown, as words that are
read again. There are 64 keys. The same clips are described without a mark, by
draws with the same seeds. Of texts are

    found        with a mark, p below 0.01 by their key
    calibrated   with a mark, z above that of 99 % of unmarked texts
    unmarked     without a mark, p below 0.01, each by all keys
    other key    with a mark, p below 0.01, each by seven keys of others

`right` are answers to questions with a fact, in percent, `lost` how many fewer
with the mark (95 %, clips drawn). `f1` compares descriptions with the clip's
own. Choose on the validation split; test says what came of it.
"""

import argparse
import collections
import dataclasses
import functools
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jax.scipy import special

from vimonet_jax.audit import watermark
from vimonet_jax.data import dataset, records, text
from vimonet_jax.eval import benchmarks, judge, own_items
from vimonet_jax.infer import engine, generate

KEYS, LEVEL = 64, 0.01


class Block(NamedTuple):
  """64 rows of a batch that answer alike, each with a key of its own.

  Attributes:
    temperature: of the draws.
    mark: None for none.
  """

  temperature: float
  mark: watermark.Watermark | None = None


class Answer(NamedTuple):
  """What was said.

  Attributes:
    place: of the question.
    key: number of the key.
    text: words.
    entropy: nats of each draw, without the mark.
  """

  place: int
  key: int
  text: str
  entropy: np.ndarray


class Blocks:
  """A LogitsFn that does with each block of rows what it says."""

  def __init__(self, blocks: Sequence[Block]):
    self._blocks = blocks
    self._entropies: list[np.ndarray] = []

  def __call__(self, logits_BV, before_BN):
    heat_B1 = jnp.repeat(jnp.array([x.temperature for x in self._blocks]), KEYS)
    heat_B1 = heat_B1[:, None]
    share_BV = jax.nn.softmax(logits_BV / heat_B1)
    entropy_B = jnp.sum(special.entr(share_BV), axis=-1)
    io_callback(self._keep, None, entropy_B, ordered=True)
    rows = zip(
      self._blocks,
      jnp.split(logits_BV, len(self._blocks)),
      jnp.split(before_BN, len(self._blocks)),
      strict=True,
    )
    return jnp.concatenate([_marked(*x) for x in rows]) / heat_B1

  def _keep(self, entropy_B):
    self._entropies.append(np.asarray(entropy_B))

  def entropies(self) -> np.ndarray:
    """Of the steps since the last call, [steps, B]."""
    jax.effects_barrier()
    found, self._entropies = np.array(self._entropies), []
    return found


def _marked(block: Block, logits_KV, before_KN):
  if block.mark is None:
    return logits_KV

  def one(key, logits_V, before_N):
    mark = dataclasses.replace(block.mark, key=tuple(key))
    return mark(logits_V[None], before_N[None])[0]

  keys_K2 = jnp.array([_key(k) for k in range(KEYS)], jnp.uint32)
  return jax.vmap(one)(keys_K2, logits_KV, before_KN)


@functools.cache
def _key(number: int) -> tuple[int, int]:
  return watermark.from_secret(b'The key of row %06d' % number).key


def main() -> None:
  args = _args()
  asking = engine.Engine.load(f'{args.workdir}/model')
  held = dataset.open(f'{args.workdir}/data', args.split, name='synthetic')
  shown = [held[i] for i in range(len(held))]
  items = own_items.questions(shown, per_domain=args.per_domain)
  # Again and again, each time with other draws and, mostly, another key.
  shown_again = shown * args.draws
  clips = [_describe(record) for record in shown_again]
  blocks = [
    Block(temperature, mark)
    for temperature in args.temperatures
    for mark in (None, *args.marks)
  ]
  start = time.monotonic()
  told = _answers(asking, blocks, clips, most=args.most)
  said = _answers(
    asking,
    blocks,
    [benchmarks.prompt_record(item, shown) for item in items],
    most=24,
  )
  plain: Any = None
  for block in blocks:
    texts = {
      tokens: _texts(told[block], asking.bundle.layout, tokens)
      for tokens in args.tokens
    }
    line = {
      'split': args.split,
      'temperature': block.temperature,
      'f1': np.mean([_f1(x, shown_again[x.place]) for x in told[block]]),
    }
    if block.mark is None:
      plain = texts, said[block]
      line |= _certainty(told[block], said[block])
    else:
      line |= {
        name: getattr(block.mark, name) for name in ('gamma', 'delta', 'width')
      }
      line |= {
        f'{tokens} tokens': _found(block.mark, texts[tokens], plain[0][tokens])
        for tokens in args.tokens
      }
    line |= _right(items, said[block], plain[1])
    _print(line, args.json)
    for answer in told[block][: args.show]:
      print(f'  {answer.text}')
  print(f'{time.monotonic() - start:.0f} s')


def _args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', default='workdir/tiny')
  parser.add_argument('--split', default='val', choices=['val', 'test'])
  parser.add_argument('--temperatures', type=float, nargs='+', default=[1.0])
  parser.add_argument(
    '--marks',
    type=_mark,
    nargs='+',
    required=True,
    metavar='GAMMA:DELTA:WIDTH',
  )
  parser.add_argument('--tokens', type=int, nargs='+', default=[100])
  parser.add_argument('--per-domain', type=int, default=100, help='questions')
  parser.add_argument('--draws', type=int, default=1, help='of descriptions')
  parser.add_argument('--most', type=int, default=64, help='of a description')
  parser.add_argument('--show', type=int, default=0, help='descriptions')
  parser.add_argument('--json', help='a file that lines are added to')
  return parser.parse_args()


def _mark(settings: str) -> watermark.Watermark:
  gamma, delta, width = settings.split(':')
  return watermark.Watermark((0, 0), float(gamma), float(delta), int(width))


def _describe(record: records.Record) -> records.Record:
  turn = next(x for x in record.turns if x.domain == 'joint_caption')
  return dataclasses.replace(
    record, turns=(dataclasses.replace(turn, answer=''),)
  )


def _answers(
  asking: engine.Engine,
  blocks: Sequence[Block],
  asked: Sequence[records.Record],
  *,
  most: int,
) -> dict[Block, list[Answer]]:
  """What each block says; a question's draws have the same seed in all."""
  found = collections.defaultdict(list)
  logits_fn = Blocks(blocks)
  for shape, places in _alike(asking, asked):
    rows = [*places, *[places[0]] * (KEYS - len(places))] * len(blocks)
    output = asking.run(
      asking.prompts([asked[i] for i in rows], shape, rows=len(rows)),
      sampling=generate.Sampling(temperature=1.0),
      max_new_tokens=most,
      key=jax.vmap(jax.random.key)(jnp.array(rows)),
      logits_fn=logits_fn,
    )
    decoded, lengths_B = asking.decode(output), np.asarray(output.lengths)
    entropy_LB = logits_fn.entropies()
    for b, block in enumerate(blocks):
      for k, place in enumerate(places):
        row = b * KEYS + k
        entropy = entropy_LB[: lengths_B[row], row]
        found[block].append(Answer(place, k, decoded[row], entropy))
  return found


def _alike(asking, asked) -> Iterator[tuple[Any, list[int]]]:
  """Places of questions of one shape, at most as many as keys."""
  by_shape = collections.defaultdict(list)
  for place, record in enumerate(asked):
    by_shape[asking.row_shape(record)].append(place)
  for shape, places in by_shape.items():
    for start in range(0, len(places), KEYS):
      yield shape, places[start : start + KEYS]


def _texts(
  answers: Sequence[Answer], layout: text.Layout, tokens: int
) -> list[tuple[int, list[list[int]]]]:
  """The key and the sequences of each text; what fills none is left out."""
  found = []
  for number in range(KEYS):
    some, room = [], tokens
    own = [x.text for x in answers if x.key == number]
    for ids in map(layout.tokenizer.encode, own):
      some.append(ids[:room])
      room -= len(some[-1])
      if not room:
        found.append((number, some))
        some, room = [], tokens
  return found


def _certainty(told, said) -> dict[str, float]:
  """Mean entropy of draws, and the share of those above 0.7 nats."""
  descriptions, answers = (
    np.concatenate([x.entropy for x in some]) for some in (told, said)
  )
  return {
    'entropy': descriptions.mean(),
    'uncertain': np.mean(descriptions > 0.7),
    'entropy_of_answers': answers.mean(),
  }


def _found(mark, texts, unmarked) -> dict[str, float]:
  def looked_at(some, shifts):
    return [
      watermark.detect(
        x, dataclasses.replace(mark, key=_key((number + shift) % KEYS))
      )
      for number, x in some
      for shift in shifts
    ]

  if not texts or not unmarked:  # There are too few --draws for such long ones.
    return {'texts': 0}
  own, other = looked_at(texts, [0]), looked_at(texts, range(1, 8))
  without = looked_at(unmarked, range(KEYS))
  limit = np.quantile([x.z for x in without], 1 - LEVEL, method='higher')
  # A key that paints the commonest pairs green is wrong more often than others.
  by_key = np.bincount(
    [(n + shift) % KEYS for n, _ in unmarked for shift in range(KEYS)],
    [x.p < LEVEL for x in without],
  )

  def share(some):
    return np.mean([x.p < LEVEL for x in some])

  return {
    'texts': len(texts),
    'scored': np.mean([x.scored for x in own]),
    'z': np.mean([x.z for x in own]),
    'found': share(own),
    'calibrated': np.mean([x.z > limit for x in own]),
    'limit': limit,
    'unmarked': share(without),
    'unmarked_by_worst_key': by_key.max() / len(unmarked),
    'other_key': share(other),
  }


def _right(items, said, plain) -> dict[str, float]:
  right, before = (
    np.array(
      [
        benchmarks.by_rules(items[x.place], x.text).correct is True
        for x in some
      ]
    )
    for some in (said, plain)
  )
  lost = before.astype(float) - right
  of_clip = np.bincount(
    [items[x.place].position for x in said], lost - lost.mean()
  )
  return {
    'questions': len(said),
    'right': 100 * right.mean(),
    'lost': 100 * lost.mean(),
    'lost_95': 196 * np.sqrt(np.sum(of_clip**2)) / len(said),
  }


def _f1(answer: Answer, record: records.Record) -> float:
  want = next(x for x in record.turns if x.domain == 'joint_caption').answer
  return judge.token_f1(judge.normalise(answer.text), judge.normalise(want))


def _print(line: dict[str, Any], path: str | None) -> None:
  told = json.dumps(_rounded(line))
  print(told, flush=True)
  if path:
    with open(path, 'a', encoding='utf-8') as f:
      f.write(told + '\n')


def _rounded(x: Any) -> Any:
  if isinstance(x, dict):
    return {name: _rounded(value) for name, value in x.items()}
  return x if isinstance(x, str) else round(float(x), 3)


if __name__ == '__main__':
  main()
