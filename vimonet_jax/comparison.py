"""The task `parity`: our networks beside PyTorch's, from a configuration.

Data, batches, prompts and weights come from here; parity/ has both
sides run and compares them. Weights are those that config.base names; whatever
it does not name is drawn by seed.
"""

import contextlib
import copy
import dataclasses
import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vimonet_jax import base, importing, pipeline, sharding, weight_files
from vimonet_jax import corpus as corpora
from vimonet_jax.data import batches, packing, records, text, tokenizer
from vimonet_jax.infer import engine
from vimonet_jax.models import lora, vimonet
from vimonet_jax.parity import handout, report, sides, verdicts, work_folder
from vimonet_jax.train import stages

# For configurations without a block `parity`.
SETTINGS = {
  'steps': 50,
  # Of every batch, at most.
  'rows': 8,
  # Training clips that are made where data are synthetic.
  'records': 160,
  # Of each kind: question alone, with motion, with video, with both.
  'prompts': 4,
  'max_new_tokens': 24,
}  # fmt: skip
_STAGES = ('align', 'instruct')
# Of fresh norms and biases, which would be ones and zeros and hide mistakes.
_DEVIATION = 0.1


def run(config, workdir: str, *, output: str | None = None) -> int:
  """Compares, writes the report and prints its table; 1 where a line fails.

  Args:
    config: of a model with stage `align` or `instruct`.
    workdir: data that are not synthetic are kept there.
    output: where parity.md, parity.json and pictures go; None for
      <workdir>/parity.

  Raises:
    ValueError: PyTorch's side cannot run here, or a setting does not fit.
  """
  sides.check_ready()
  _check_settings(config)
  base.folders(config)  # A wrong one is told before anything is made.
  start = time.monotonic()
  output = output or os.path.join(workdir, 'parity')
  os.makedirs(output, exist_ok=True)
  # The sides need the accelerator; this process only makes what they are given.
  jax.config.update('jax_platforms', 'cpu')
  config, changes = _comparable(config)
  with _emptied(os.path.join(output, 'parity-work')) as work:
    if config.data.name == 'synthetic':
      # A few clips of their own, so that no dataset has to be there.
      workdir = os.path.join(work, 'corpus')
    corpus = corpora.prepare(config, workdir)
    given = _given(config, corpus)
    folder = os.path.join(work, 'given')
    os.makedirs(folder)
    handout.write(folder, given)
    prepared = time.monotonic() - start
    processes = sides.measure(folder)
    findings = sides.compare(folder)
  findings['is_ok'] = all(check.is_ok for check in verdicts.checks(findings))
  findings['about'] = {
    'command': ' '.join(['python -m vimonet_jax.main', *sys.argv[1:]]),
    'weights': _origin(config, given),
    'sizes': _sizes(given),
    'changes': changes,
    'settings': dict(_settings(config)),
    'seconds': {'all': time.monotonic() - start, 'preparing': prepared},
    'processes': processes,
  }
  report.write(output, findings)
  print(verdicts.text(findings))
  print(f'\n{os.path.abspath(os.path.join(output, "parity.md"))}')
  return 0 if findings['is_ok'] else 1


@contextlib.contextmanager
def _emptied(folder: str) -> Iterator[str]:
  """A folder for a while; what a killed process has left there goes first."""
  shutil.rmtree(folder, ignore_errors=True)
  os.makedirs(folder)
  try:
    yield folder
  finally:
    shutil.rmtree(folder, ignore_errors=True)


def _settings(config) -> Mapping[str, Any]:
  return {**SETTINGS, **dict(config.get('parity') or {})}


def _check_settings(config) -> None:
  for name, value in _settings(config).items():
    if name not in SETTINGS or value < 1:
      raise ValueError(
        f'Expected config.parity to have numbers above zero for '
        f'{", ".join(SETTINGS)}, found {name}={value!r}.'
      )


def _comparable(config) -> tuple[ml_collections.ConfigDict, list[str]]:
  """A copy that both sides can follow, and what was changed, for the reader."""
  config = copy.deepcopy(config)
  config.unlock()
  settings, changes = _settings(config), []
  named = base.adapter(config)
  if config.data.name == 'synthetic':
    prompts = settings['prompts']
    counts = {'train': settings['records'], 'val': 2, 'test': 2 * prompts + 2}
    config.data.update(counts)
    changes.append(f'{settings["records"]} synthetic training clips')
  for name in _stages(config):
    stage = config[name]
    changes.append(
      f'{name}: {settings["steps"]} steps instead of {stage.steps}, warm-up '
      'and decay included'
    )
    stage.steps = settings['steps']
    if stage.optimizer != 'adamw':
      changes.append(
        f'{name}: AdamW instead of {stage.optimizer}, which PyTorch has not in '
        'this form'
      )
      stage.optimizer = 'adamw'
    if stage.get('packed') and stage.packed.rows:
      changes.append(f'{name}: rows of one mix each instead of packed ones')
      stage.packed.rows = 0
    rows = [mix.rows for mix in stage.mixes.values()]
    if max(rows) > settings['rows']:
      changes.append(
        f'{name}: batches of at most {settings["rows"]} rows instead of '
        f'{max(rows)}'
      )
    for mix in stage.mixes.values():
      mix.rows = min(mix.rows, settings['rows'])
    if stage.get('lora') and named:
      if not named.is_like(lora.LoraConfig(**stage.lora)):
        changes.append(
          f'{name}: the adapters that config.base.adapter has, of rank '
          f'{named.rank} and scale {named.scale:g} on '
          f'{", ".join(named.targets)}'
        )
      stage.lora = ml_collections.ConfigDict(dataclasses.asdict(named))
    if stage.get('lora') and stage.lora.dropout:
      changes.append(f'{name}: no dropout instead of {stage.lora.dropout}')
      stage.lora.dropout = 0.0
  return config, changes


def _stages(config) -> list[str]:
  found = [name for name in _STAGES if name in config.stage_names]
  if not found:
    raise ValueError(
      f'Expected a configuration with stage {" or ".join(_STAGES)}, found '
      f'{", ".join(config.stage_names)}; parity trains those.'
    )
  return found


# --- What both sides are given -----------------------------------------------


def _given(config, corpus: corpora.Corpus) -> handout.Given:
  settings, names = _settings(config), _stages(config)
  adapters = [config[name].get('lora') for name in names]
  model = corpora.model(
    config,
    vocab_size=corpus.layout.tokenizer.vocab_size,
    adapters=next(filter(None, reversed(adapters)), None),
  )
  base.check(config, model, stage=names[-1])
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  media = {name: _media(config[name]) for name in names}
  made = {
    name: list(
      itertools.islice(
        map(
          batches.without_ids,
          pipeline.stage_batches(config, name, corpus, mesh),
        ),
        settings['steps'],
      )
    )
    for name in names
  }
  everywhere = sorted({medium for some in media.values() for medium in some})
  fresh, probe = _weights(config, corpus, model, everywhere)
  return handout.Given(
    model=model,
    base=base.weights(config),
    fresh=fresh,
    probe=probe,
    stages={
      name: handout.Training(
        config[name].to_dict(), media[name], made[name]
      )
      for name in names
    },
    forward=_forward(made[names[-1]]),
    prompts=_prompts(corpus, everywhere, settings['prompts']),
    max_new_tokens=settings['max_new_tokens'],
    eos_id=tokenizer.EOS,
    originals=_originals(config),
  )


def _originals(config) -> dict[str, str]:
  """Checkpoints that are still where they were converted from."""
  paths = {part: importing.original(config, part) for part in base.PARTS}
  return {part: path for part, path in paths.items() if path}


def _media(stage) -> list[str]:
  return sorted({m for mix in stage.mixes.values() for m in mix.media})


def _forward(made: list[packing.Batch]) -> list[packing.Batch]:
  """A batch of each kind, that with most media first."""
  kinds: dict[str, packing.Batch] = {}
  for batch in made:
    kinds.setdefault(work_folder.kind(batch), batch)
  return sorted(kinds.values(), key=len, reverse=True)


def _prompts(corpus, media, count: int) -> dict[str, packing.Batch]:
  """Open questions with no media, each medium, and both."""
  kinds = [(), *((medium,) for medium in media)]
  kinds += [tuple(media)] if len(media) > 1 else []
  found = {}
  test = corpus.splits['test']
  for kind in kinds:
    asked = []
    for record in (test[i] for i in range(len(test))):
      if len(asked) < count and record.turns:
        asked += _open(record, kind, len(asked))
    if not asked:
      continue
    lengths = [
      len(text.encode_prompt(record, corpus.layout)['tokens'])
      for record in asked
    ]
    found['+'.join(kind) or 'text'] = batches.prompts(
      asked,
      layout=corpus.layout,
      statistics=corpus.statistics,
      rows=len(asked),
      length=engine.round_up(max(lengths)),
      motion_clips=int('motion' in kind),
      video_clips=int('video' in kind),
    )
  return found


def _open(record, media, number: int) -> Iterator[records.Record]:
  """The record's question of that number, with some of its media."""
  held = {'motion': record.motion, 'video': record.frames}
  if any(held[medium] is None for medium in media):
    return
  turn = record.turns[number % len(record.turns)]
  yield dataclasses.replace(
    record,
    motion=record.motion if 'motion' in media else None,
    frames=record.frames if 'video' in media else None,
    joints=None,
    turns=(dataclasses.replace(turn, answer=''),),
  )


# --- Weights -----------------------------------------------------------------


def _weights(
  config, corpus, model: vimonet.Config, media: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """All that config.base does not name, and adapters that do something."""
  folders = base.weights(config)
  stored = set(weight_files.Lazy(folders)) if folders else set()
  fresh: dict[str, np.ndarray] = {}
  mutable: dict[str, Any] = {}
  parts = [stages.tokens('parity', model, ('.*',), media=media)]
  if 'motion' in media:
    parts.append(stages.motion(model.motion))
  for part in parts:
    wanted, state = part.abstract()
    missing = [path for path in (*wanted, *state) if path not in stored]

    def make(key, part=part, missing=missing):
      params, state = part.init(key)
      return {path: {**params, **state}[path] for path in missing}

    # Under jit, what is there already is never made.
    found = jax.jit(make)(jax.random.key(config.seed))
    fresh |= {path: np.asarray(x) for path, x in found.items()}
    mutable = {path: fresh[path] for path in state if path in fresh}
  rng = np.random.default_rng(config.seed)
  for path, x in sorted(fresh.items()):
    if path.endswith(('/scale', '/bias')):
      drawn = x + _DEVIATION * rng.normal(size=x.shape)
      fresh[path] = drawn.astype(np.float32)
  if mutable:
    fresh |= _codebook(config, corpus, parts[-1], fresh, mutable)
  adapter = model.llm.lora
  probe = {}
  for path, x in sorted(fresh.items()):
    if path.endswith('/lora_b'):
      # About half as much as the kernel makes of the same inputs.
      deviation = 1 / (adapter.scale * adapter.rank**0.5)
      probe[path] = (deviation * rng.normal(size=x.shape)).astype(np.float32)
  return fresh, probe


def _codebook(config, corpus, part, fresh, mutable) -> dict[str, np.ndarray]:
  """The codebook as training's first batch fills it."""
  windows = batches.motion_windows(
    corpus.splits['train'],
    statistics=corpus.statistics,
    rows=16,
    window=64,
    seed=config.seed,
    prefetch=0,
  )
  batch = batches.without_ids(next(iter(windows)))
  trainables = {path: jnp.asarray(fresh[path]) for path in part.abstract()[0]}
  _, (changed, _) = part.loss_fn(
    trainables, {}, mutable, batch, jax.random.key(config.seed)
  )
  return {path: np.asarray(x) for path, x in changed.items()}


# --- About the comparison ----------------------------------------------------


def _origin(config, given: handout.Given) -> str:
  named = base.folders(config)
  drawn = f'{len(given.fresh)} arrays drawn by seed {config.seed}'
  if not named:
    return f'random: {drawn}'
  found = []
  written = [part for part in named if part not in given.originals]
  if given.originals:
    paths = [f'{part} {path}' for part, path in given.originals.items()]
    found.append(f'PyTorch reads the originals: {", ".join(paths)}')
  if written:
    found.append(f'PyTorch reads ours, written back: {", ".join(written)}')
  if given.fresh:
    found.append(drawn)
  return '; '.join(found)


def _sizes(given: handout.Given) -> dict[str, Any]:
  """Parameters of each part, and what the model is."""
  shapes = {path: x.shape for path, x in given.fresh.items()}
  if given.base:
    shapes |= weight_files.Lazy(given.base).shapes
  counts: dict[str, int] = {}
  for path, shape in shapes.items():
    part = 'adapter' if '/lora_' in path else path.split('/')[0]
    if not path.startswith('motion/quantizer/'):
      size = int(np.prod(shape, dtype=np.int64))
      counts[part] = counts.get(part, 0) + size
  return {
    'parameters': counts,
    'llm': {
      key: getattr(given.model.llm, key)
      for key in ('width', 'layers', 'heads', 'vocab_size')
    },
  }
