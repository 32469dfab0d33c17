"""The default task: data, the stages in their order, evaluation, report.

Everything lies in one work folder and every part knows when it is finished, so
that the same command goes on after an interruption.

    config.json  data/  tokenizer.model  statistics.npz
    motion/  language/  video/  align/  instruct/
    model/  predictions/  scores.json  report.html
"""

import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import jax
import tqdm
from flax import traverse_util

from vimonet_jax import checkpoint, report, sharding
from vimonet_jax import corpus as corpora
from vimonet_jax.data import batches, records, sources, views
from vimonet_jax.eval import benchmarks, scores, tables
from vimonet_jax.eval import run as eval_run
from vimonet_jax.infer import engine
from vimonet_jax.motion import features
from vimonet_jax.train import loop, stages

# Fields that say where and how, not what comes out.
_NOT_IDENTITY = ('task', 'workdir', 'xla_flags', 'data.processes')
_MAX_EXAMPLES = 12


def run(config, workdir: str) -> int:
  """Everything, from nothing to the report."""
  try:
    _claim(config, workdir)
    corpus = corpora.prepare(config, workdir)
  except ValueError as error:  # Settings or data that do not fit.
    print(error, file=sys.stderr)
    return 1
  for name in config.stage_names:
    train_stage(config, workdir, name, corpus)
  export(config, workdir, corpus)
  evaluate(config, workdir)
  return report_only(config, workdir)


def _claim(config, workdir: str) -> None:
  """Writes config.json, or refuses a folder that another config began."""
  os.makedirs(workdir, exist_ok=True)
  path = os.path.join(workdir, 'config.json')
  asked = json.loads(config.to_json())
  if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
      found = json.load(f)
    found, mine = _identity(found), _identity(asked)
    differing = [
      f'{name}={mine.get(name)!r} instead of {found.get(name)!r}'
      for name in sorted({*found, *mine})
      if found.get(name) != mine.get(name)
    ]
    if differing:
      raise ValueError(
        f'Expected {workdir} to belong to this configuration, found one with '
        f'other values: {"; ".join(differing[:5])}; choose another --workdir '
        'or remove this one.'
      )
    return
  _write_text(path, json.dumps(asked, indent=2))


def _identity(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Dotted name -> value of all settings that decide what comes out."""
  flat = traverse_util.flatten_dict(dict(fields), sep='.')
  return {name: x for name, x in flat.items() if name not in _NOT_IDENTITY}


def _config_hash(config) -> str:
  kept = _identity(json.loads(config.to_json()))
  return hashlib.blake2s(
    json.dumps(kept, sort_keys=True).encode(), digest_size=8
  ).hexdigest()


def _write_text(path: str, content: str) -> None:
  with open(f'{path}.part', 'w', encoding='utf-8') as f:
    f.write(content)
  os.replace(f'{path}.part', path)


# --- Training ----------------------------------------------------------------


def _stage_model(config, name: str, corpus: corpora.Corpus):
  return corpora.model(
    config,
    vocab_size=corpus.layout.tokenizer.vocab_size,
    adapters=config[name].get('lora'),
  )


def train_stage(
  config, workdir: str, name: str, corpus: corpora.Corpus
) -> None:
  """Trains one stage to its end, on the weights of those before it."""
  stage = config[name]
  model = _stage_model(config, name, corpus)
  before = config.stage_names[: config.stage_names.index(name)]
  loop.train(
    stages.make(name, stage, model),
    _batches(config, name, corpus),
    folder=os.path.join(workdir, name),
    steps=stage.steps,
    tx=stages.make_optimizer(stage),
    seed=config.seed,
    mesh=sharding.make_mesh(**config.mesh),
    init=[os.path.join(workdir, earlier, 'weights') for earlier in before],
    checkpoint_steps=stage.checkpoint_steps,
    evaluate=_probe(config, name, corpus, model),
  )


def _batches(config, name: str, corpus: corpora.Corpus):
  stage, train = config[name], corpus.splits['train']
  # Stages that read the same records must not do so in the same order.
  seed = config.seed + 100 * stages.NAMES.index(name)
  share = {
    'process_index': jax.process_index(),
    'process_count': jax.process_count(),
  }
  if name == 'motion':
    return batches.motion_windows(
      train,
      statistics=corpus.statistics,
      rows=stage.rows // jax.process_count(),
      window=stage.window,
      seed=seed,
      **share,
    )
  if stage.get('stand_in'):
    train = batches.FunctionSource(
      functools.partial(corpus.words, 'train'), stage.stand_in
    )
  mixes = [
    batches.Mix(
      train,
      views.View(
        media=mix.media,
        caption_share=mix.caption_share,
        max_turns=mix.max_turns,
        domain_weights=mix.get('domain_weights', {}),
      ),
      rows=mix.rows // jax.process_count(),
      length=mix.length,
      motion_clips=int('motion' in mix.media and 'stand_in' not in stage),
      video_clips=int('video' in mix.media and 'stand_in' not in stage),
      has_words='stand_in' in stage,
      weight=mix.weight,
    )
    for mix in stage.mixes.values()
  ]
  return batches.conversations(
    mixes,
    layout=corpus.layout,
    statistics=corpus.statistics,
    seed=seed,
    **share,
  )


def _probe(config, name: str, corpus: corpora.Corpus, model):
  """How a stage's weights answer validation questions; None for `motion`.

  The questions are asked first and alone: what a row's later turns can copy
  from earlier ones does not count.
  """
  if name == 'motion' or not config.eval.probe_per_domain:
    return None
  stage = config[name]
  if is_words := bool(stage.get('stand_in')):
    read = functools.partial(corpus.words, 'val')
    val = batches.FunctionSource(read, len(corpus.splits['val']))
    asked_media = ('motion', 'video')
  else:
    val = corpus.splits['val']
    asked_media = max((mix.media for mix in stage.mixes.values()), key=len)
  shown = next(k for k, v in benchmarks.INPUTS.items()
               if set(v) == set(asked_media))  # fmt: skip
  bundle = engine.Bundle(model, corpus.layout, corpus.statistics)

  def evaluate(flat, mutable, step) -> dict[str, float]:
    del step
    if not any(turn.fact for turn in val[0].turns):
      return {}
    items = [
      item
      for item in benchmarks.synthetic_items(
        val, per_domain=config.eval.probe_per_domain
      )
      if set(records.DOMAINS[item.domain]) <= set(asked_media)
    ]
    items = benchmarks.variant(items, input=shown)
    if is_words:
      asked = [
        dataclasses.replace(
          val[item.position], turns=(records.Turn(item.question, ''),)
        )
        for item in items
      ]
    else:
      asked = [benchmarks.prompt_record(item, val) for item in items]
    asking = engine.Engine(bundle, {**flat, **mutable})
    answers = []
    for start in tqdm.trange(
      0, len(asked), config.eval.rows, desc=f'{name}: probe', leave=False
    ):
      answers += asking.answer(
        asked[start : start + config.eval.rows],
        max_new_tokens=config.eval.max_new_tokens,
      )
    rows = eval_run.score(items, eval_run.as_predictions(items, answers))
    return {row['domain']: row['accuracy'] for row in rows}

  return evaluate


def export(config, workdir: str, corpus: corpora.Corpus) -> None:
  """Gathers what inference needs in model/; adapters become weights."""
  folder = os.path.join(workdir, 'model')
  if os.path.exists(os.path.join(folder, 'config.json')):
    return
  name = config.stage_names[-1]
  model = _stage_model(config, name, corpus)
  wanted, state = stages.make(name, config[name], model).abstract()
  found = checkpoint.load_weights(
    [os.path.join(workdir, n, 'weights') for n in config.stage_names]
  )
  params = {path: found[path] for path in (*wanted, *state)}
  engine.save(
    folder,
    engine.Bundle(model, corpus.layout, corpus.statistics),
    params,
  )


# --- Evaluation --------------------------------------------------------------


def evaluate(config, workdir: str) -> int:
  """Predictions first, scores second, for every input and change of media."""
  held_out = corpora.open_split(config, workdir, config.eval.split)
  if config.data.name == 'synthetic':
    items = _synthetic_variants(config, held_out)
    lines = _predict(config, workdir, items, held_out)
    rows = eval_run.score(items, lines)
  else:
    train = corpora.open_split(config, workdir, 'train')
    rows = _caption_rows(config, workdir, held_out, train)
  scores.write(os.path.join(workdir, 'scores.json'), rows)
  return 0


def _synthetic_variants(config, held_out) -> list[benchmarks.Item]:
  items = benchmarks.synthetic_items(
    held_out, per_domain=config.eval.per_domain
  )
  level = config.eval.corruption
  found = []
  for shown in ('text', 'motion', 'video', 'both'):
    found += benchmarks.variant(items, input=shown)
  for shown in ('motion', 'both'):
    found += benchmarks.variant(items, input=shown, corruption=level)
  return found + benchmarks.variant(
    items, input='both', corruption=benchmarks.SWAPPED
  )


def _predict(config, workdir, items, held_out) -> list[eval_run.Line]:
  folder = os.path.join(workdir, 'model')
  return eval_run.predict(
    engine.Engine.load(folder),
    items,
    held_out,
    os.path.join(workdir, 'predictions', f'{items[0].benchmark}.jsonl'),
    fingerprint=_fingerprint(folder),
    config_hash=_config_hash(config),
    max_new_tokens=config.eval.max_new_tokens,
    rows=config.eval.rows,
  )


def _caption_rows(config, workdir, held_out, train) -> list[scores.Row]:
  """The model's captions beside a random one and the nearest clip's."""
  items = benchmarks.caption_items(held_out)
  lines = _predict(config, workdir, items, held_out)
  statistics = features.Statistics.load(
    os.path.join(workdir, 'statistics.npz')
  )
  rows = eval_run.caption_rows(items, lines)
  for system, texts in (
    ('random training caption', benchmarks.random_captions(items, train)),
    (
      'nearest training clip',
      benchmarks.nearest_captions(items, held_out, train, statistics),
    ),
  ):
    lines = eval_run.as_predictions(items, texts)
    rows += eval_run.caption_rows(items, lines, system=system)
  return rows


def _fingerprint(folder: str) -> str:
  """Of the weights in a model folder: changes when any of them does."""
  digest = hashlib.blake2s(digest_size=8)
  flat = checkpoint.load_weights(os.path.join(folder, 'weights'))
  for path, x in flat.items():
    digest.update(path.encode())
    digest.update(x.tobytes())
  return digest.hexdigest()


# --- What a person looks at --------------------------------------------------


def report_only(config, workdir: str) -> int:
  """Writes report.html from what is there, and prints the table."""
  path = os.path.join(workdir, 'report.html')
  report.write(
    workdir,
    path,
    examples=_examples(config, workdir),
    config=json.loads(config.to_json()),
    counts=_counts(config, workdir),
  )
  print(tables.text(scores.read(os.path.join(workdir, 'scores.json'))))
  print(f'\n{os.path.abspath(path)}')
  return 0


def _counts(config, workdir: str) -> dict[str, dict[str, int]]:
  return {
    split: {'clips': len(corpora.open_split(config, workdir, split))}
    for split in sources.SPLITS
  }


def _examples(config, workdir: str) -> list[dict[str, Any]]:
  """One answer with all media from each domain, in the order of the items."""
  held_out = corpora.open_split(config, workdir, config.eval.split)
  if config.data.name == 'synthetic':
    items = benchmarks.variant(
      benchmarks.synthetic_items(held_out, per_domain=config.eval.per_domain)
    )
  else:
    items = benchmarks.caption_items(held_out)
  lines = eval_run.read_predictions(
    os.path.join(workdir, 'predictions', f'{items[0].benchmark}.jsonl')
  )
  fingerprint = _fingerprint(os.path.join(workdir, 'model'))
  lines = [line for line in lines if line['fingerprint'] == fingerprint]
  texts = {eval_run.key(line): line['text'] for line in lines}
  chosen, seen = [], set()
  for item in items:
    if item.domain not in seen or item.scoring == 'caption':
      seen.add(item.domain)
      chosen.append(item)
  chosen = [item for item in chosen if item.key in texts][:_MAX_EXAMPLES]
  verdicts = eval_run.verdicts(
    chosen, [line for line in lines if eval_run.key(line) in
             {item.key for item in chosen}]
  )  # fmt: skip
  return [
    {
      'joints': held_out[item.position].joints,
      'frames': held_out[item.position].frames,
      'question': item.question,
      'reference': item.reference,
      'answer': texts[item.key],
      'correct': None if item.scoring == 'caption' else verdict.correct,
      'input': item.input,
    }
    for item, verdict in zip(chosen, verdicts, strict=True)
  ]


def show_record(
  config, workdir: str, *, record: str, output: str | None
) -> int:
  """Writes pictures and turns of one record, given as `split:number`."""
  from vimonet_jax.apps import show

  split, _, number = record.partition(':')
  if split not in sources.SPLITS or not number.isdecimal():
    raise ValueError(
      f'Expected --record as split:number, e.g. test:0, found {record!r}.'
    )
  if config.data.name == 'synthetic':
    # Made without a dataset.
    found = corpora.dataset(config.data).make((split, int(number)))
  else:
    corpora.build(config, workdir)
    found = corpora.open_split(config, workdir, split)[int(number)]
  folder = output or os.path.join(workdir, 'show', f'{split}-{number}')
  for path in show.run(found, folder):
    print(path)
  return 0

