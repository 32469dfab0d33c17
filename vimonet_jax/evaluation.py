"""What a finished model answers: predictions, verdicts, scores, the report.

For each benchmark of `suite`, in their order:

    predictions/<benchmark>.jsonl  verdicts/<benchmark>.jsonl
    scores.json  report.html
"""

import json
import os
from collections.abc import Sequence
from typing import Any

import jax

from vimonet_jax import (
  claim,
  cluster,
  fingerprint,
  judging,
  report,
  sharding,
  suite,
  weight_files,
)
from vimonet_jax import corpus as corpora
from vimonet_jax.data import batches, records, sources
from vimonet_jax.eval import benchmarks, scores, scoring, tables
from vimonet_jax.eval import run as eval_run
from vimonet_jax.infer import engine
from vimonet_jax.motion import features

_MAX_EXAMPLES = 12
_SHOWN_MISSING = 10


def run(config, workdir: str) -> int:
  """Asks, judges, and prints the table."""
  claim.check(config, workdir, must_exist=True)
  evaluate(config, workdir)
  if cluster.is_first():
    _print_table(workdir)
  # JAX gives who leaves first a minute, and then stops all.
  cluster.wait('the table is printed')
  return 0


def run_report(config, workdir: str) -> int:
  """Writes report.html from what is there, and prints the table."""
  claim.check(config, workdir, must_exist=True)
  path = os.path.join(workdir, 'report.html')
  examples = _examples(config, workdir)  # Their weights are read together.
  if cluster.is_first():
    report.write(
      workdir,
      path,
      examples=examples,
      config=json.loads(config.to_json()),
      counts={
        split: {'clips': len(corpora.open_split(config, workdir, split))}
        for split in sources.SPLITS
      },
    )
    _print_table(workdir)
    print(f'\n{os.path.abspath(path)}')
  # JAX gives who leaves first a minute, and then stops all.
  cluster.wait('the report is written')
  return 0


def _print_table(workdir: str) -> None:
  print(tables.text(scores.read(os.path.join(workdir, 'scores.json'))))


def evaluate(config, workdir: str) -> None:
  """Predictions first, scores second, for every input and change of media.

  Media that are missing are said before anything is asked; their items fail.
  Several processes answer together, on all of their devices; one asks its first
  device. The first process scores what they have answered.
  """
  folder = os.path.join(workdir, 'model')
  tower = engine.load_bundle(folder).model.video
  found = suite.open_all(config, workdir, tower)
  if cluster.is_first():
    for benchmark in found:
      _say_missing(workdir, benchmark)
      for note in benchmark.notes:
        print(f'{benchmark.name}: {note}')
  # Before the engine: weights need not be in memory twice.
  settings = _settings(config, workdir)
  is_alone = jax.process_count() == 1
  mesh = None if is_alone else sharding.make_mesh(**config.mesh)
  asked = engine.Engine.load(
    folder, mesh=mesh, quantize=config.eval.get('quantize', '')
  )
  for benchmark in found:
    lines = eval_run.predict(
      asked,
      benchmark.items,
      benchmark.records,
      _predictions(workdir, benchmark.name),
      settings=settings,
      rows=config.eval.rows,
    )
    if cluster.is_first():
      _score(config, workdir, benchmark, lines)
  cluster.wait('scores are written')


def _say_missing(workdir: str, benchmark: benchmarks.Benchmark) -> None:
  """What cannot be shown, and how many items that costs."""
  if not benchmark.missing:
    return
  failing = sum(
    item.media_position in benchmark.missing for item in benchmark.items
  )
  reasons = list(benchmark.missing.values())
  path = os.path.join(workdir, 'predictions', f'{benchmark.name}-missing.txt')
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, 'w', encoding='utf-8') as f:
    f.writelines(f'{reason}\n' for reason in reasons)
  print(
    f'{benchmark.name}: {len(reasons)} of {len(benchmark.records)} clips are '
    f'missing; {failing} of {len(benchmark.items)} answers will fail, and '
    f'count as wrong. {path} names them:'
  )
  for reason in reasons[:_SHOWN_MISSING]:
    print(f'  {reason}')
  if len(reasons) > _SHOWN_MISSING:
    print(f'  ... and {len(reasons) - _SHOWN_MISSING} more')


def _score(
  config,
  workdir: str,
  benchmark: benchmarks.Benchmark,
  lines: Sequence[eval_run.Line],
) -> None:
  if not benchmark.rules:
    rows = _caption_rows(
      config, workdir, benchmark.items, lines, benchmark.records
    )
    scores.write(os.path.join(workdir, 'scores.json'), rows)
    return
  rows = judging.rows(config, workdir, benchmark, lines)
  scores.write(os.path.join(workdir, 'scores.json'), rows)


def _predictions(workdir: str, name: str) -> str:
  return os.path.join(workdir, 'predictions', f'{name}.jsonl')


def _settings(config, workdir: str) -> eval_run.Settings:
  weights = os.path.join(workdir, 'model', 'weights')
  found = fingerprint.of(weight_files.Lazy(weights))
  # Rounded weights are other weights.
  bits = config.eval.get('quantize', '')
  return eval_run.Settings(
    fingerprint=f'{found}-{bits}' if bits else found,
    config_hash=claim.digest(config),
    max_new_tokens=config.eval.max_new_tokens,
  )


def _caption_rows(
  config, workdir, items, lines, held_out
) -> list[scores.Row]:
  """The model's captions beside a random one and the nearest clip's.

  Both are of clips that training can read, and has passed over the others.
  """
  train = corpora.open_split(config, workdir, 'train')
  damaged = corpora.passing_over(config, workdir).damaged(train)
  train = batches.without(train, damaged)
  statistics = features.Statistics.load(
    os.path.join(workdir, 'statistics.npz')
  )
  rows = scoring.caption_rows(items, lines)
  for system, texts in (
    ('random training caption', benchmarks.random_captions(items, train)),
    (
      'nearest training clip',
      benchmarks.nearest_captions(items, held_out, train, statistics),
    ),
  ):
    lines = eval_run.as_predictions(items, texts)
    rows += scoring.caption_rows(items, lines, system=system)
  return rows


# --- What a person looks at --------------------------------------------------


def _examples(config, workdir: str) -> list[dict[str, Any]]:
  """Some answers of this model with all media, each about another clip."""
  if not os.path.exists(os.path.join(workdir, 'model', 'config.json')):
    return []  # What is written last there, so nothing has been asked yet.
  held_out = corpora.open_split(config, workdir, config.eval.split)
  name = suite.own(config)
  is_caption = name == benchmarks.CAPTIONS
  if is_caption:
    items = benchmarks.caption_items(held_out)
  else:
    items = benchmarks.variant(suite.questions(config, held_out))
  found = eval_run.answered(
    _predictions(workdir, name), _settings(config, workdir), items
  )
  items = [item for item in items if item.key in found]
  chosen = _one_a_domain(items, is_caption=is_caption)
  lines = [found[item.key] for item in chosen]
  examples = []
  for item, line, verdict in zip(
    chosen, lines, scoring.verdicts(chosen, lines), strict=True
  ):
    clip: records.Record = held_out[item.position]
    examples.append({
      'joints': clip.joints,
      'frames': clip.frames,
      'question': item.question,
      'reference': item.reference,
      'answer': line['text'],
      'correct': None if is_caption else verdict.correct,
      'input': item.input,
    })
  return examples


def _one_a_domain(
  items: Sequence[benchmarks.Item], *, is_caption: bool
) -> list[benchmarks.Item]:
  """The first item of each domain about a clip that no other one is about."""
  chosen, domains, clips = [], set(), set()
  for item in items:
    if item.position in clips or (item.domain in domains and not is_caption):
      continue
    chosen.append(item)
    domains.add(item.domain)
    clips.add(item.position)
  return chosen[:_MAX_EXAMPLES]
