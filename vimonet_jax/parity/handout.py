"""Writes what both sides of a comparison are given; see work_folder.py."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vimonet_jax import sharding, weight_files, weight_writer
from vimonet_jax.convert import (
  decoder_tables,
  encoder_tables,
  files,
  mapping,
  source_config,
)
from vimonet_jax.models import lora, vimonet
from vimonet_jax.parity import work_folder
from vimonet_jax.train import optimizer, stages

Batch = Mapping[str, np.ndarray]
# Inputs of a projection that are tried, and codes that are decoded.
_PROBES, _CODES = 64, (2, 24)
# Of inputs so faint that a norm's epsilon counts: its square is below it.
_FAINT = 1e-3
# Parts whose training PyTorch's side follows: encoders are frozen there.
_TRAINED = ('llm', 'adapter', 'video_translator', 'motion_translator')


@dataclasses.dataclass(frozen=True)
class Training:
  """A stage that both sides train.

  Attributes:
    settings: of the stage, as in a configuration; steps of this comparison.
    media: of `motion` and `video`, what the batches hold.
    batches: one for each step, in order.
  """

  settings: Mapping[str, Any]
  media: Sequence[str]
  batches: Iterable[Batch]


@dataclasses.dataclass(frozen=True)
class Given:
  """Everything that both sides get.

  Attributes:
    model: with the adapters of the last stage, whose dropout is off.
    base: folders of weights that are there already.
    fresh: path -> array, all that they do not have; training begins there.
    probe: path -> array in place of those, for everything but training.
    stages: name -> training.
    forward: batches of different media for one forward pass.
    prompts: name -> batch of open questions.
    max_new_tokens: of every answer.
    eos_id: the end token.
    originals: part -> the checkpoint that its weights were converted from,
      which PyTorch reads itself. Other parts are written back for it.
  """

  model: vimonet.Config
  base: Sequence[str]
  fresh: Mapping[str, np.ndarray]
  probe: Mapping[str, np.ndarray]
  stages: Mapping[str, Training]
  forward: Sequence[Batch]
  prompts: Mapping[str, Batch]
  max_new_tokens: int
  eos_id: int
  originals: Mapping[str, str]


def tables(model: vimonet.Config) -> dict[str, mapping.Table]:
  """Part -> between our arrays and the tensors of the PyTorch side."""
  llm, video, motion = model.llm, model.video, model.motion
  found = {
    'llm': decoder_tables.llama_hf(llm),
    'video': encoder_tables.languagebind(video),
    'motion': encoder_tables.vqvae(motion),
    'video_translator': encoder_tables.projector(video.width, llm.width),
    'motion_translator': encoder_tables.motion_projector(
      motion.code_dim, llm.width
    ),
  }
  if llm.lora.rank:
    found['adapter'] = decoder_tables.peft(llm)
  return found


def write(root: str, given: Given) -> None:
  """Fills an empty folder.

  Raises:
    ValueError: a stage trains what PyTorch's side keeps frozen.
  """
  folder = pathlib.Path(root)
  folders = list(given.base)
  if given.fresh:  # Not where config.base names everything.
    folders.append(str(folder / 'weights'))
    weight_writer.save(folders[-1], given.fresh)
  if given.probe:
    weight_writer.save(str(folder / 'probe'), given.probe)
  stored = weight_files.Lazy(folders)
  read = stored.__getitem__
  _write_torch(folder / 'torch', given, read, set(stored))
  checkpoints = _checkpoints(folder, given, read)

  trained = {}
  for name, training in given.stages.items():
    count = 0
    for batch in training.batches:
      work_folder.write_batch(folder / 'batches' / name, f'{count:06d}', batch)
      count += 1
    trained[name] = _stage(name, given.model, training, count)
  for number, batch in enumerate(given.forward):
    work_folder.write_batch(folder / 'batches/forward', f'{number}', batch)
  for name, batch in given.prompts.items():
    work_folder.write_batch(folder / 'batches/prompts', name, batch)
  keys = {key for batch in given.forward for key in batch}
  work_folder.write_batch(
    folder / 'batches/parts', 'given', _parts(given.model, keys)
  )

  video, motion = given.model.video, given.model.motion
  work_folder.write_json(
    folder / 'settings.json',
    {
      'weights': [os.path.abspath(path) for path in folders],
      'model': given.model.to_json(),
      'has_adapter': bool(given.model.llm.lora.rank),
      'checkpoints': checkpoints,
      'recomputes': given.model.llm.remat != 'none',
      'stages': trained,
      'max_new_tokens': given.max_new_tokens,
      'eos_id': given.eos_id,
      'motion_feature': given.model.motion_feature,
      'keep_class_token': video.keep_class_token,
      'projections': decoder_tables.HF_NAMES,
      'video': {
        'hidden_size': video.width,
        'intermediate_size': video.mlp_width,
        'num_hidden_layers': video.layers,
        'num_attention_heads': video.heads,
        'image_size': video.image_size,
        'patch_size': video.patch_size,
        'num_frames': video.frames,
        'layer_norm_eps': video.norm_eps,
      },
      'motion': {
        'width': motion.width,
        'code_dim': motion.code_dim,
        'nb_code': motion.num_codes,
        'down_t': motion.down,
        'depth': motion.depth,
        'dilation_growth_rate': motion.dilation_growth,
      },
      'video_translator': [video.width, given.model.llm.width],
      'motion_translator': [motion.code_dim, given.model.llm.width],
    },
  )


def _parts(model: vimonet.Config, keys: set[str]) -> dict[str, np.ndarray]:
  """Inputs of what is tried alone: projections, norms, the motion decoder."""
  rng = np.random.default_rng(0)
  llm, found = model.llm, {}
  widths = {'o': llm.heads * llm.head_dim, 'down': llm.mlp_width}
  for target in llm.lora.targets if llm.lora.rank else ():
    shape = _PROBES, widths.get(target, llm.width)
    found[target] = rng.normal(size=shape).astype(np.float32)
  norms = {'norm_llm': llm.width}
  if 'frames' in keys:
    norms['norm_video'] = model.video.width
  for name, width in norms.items():
    found[name] = rng.normal(0, _FAINT, (_PROBES, width)).astype(np.float32)
  if 'motion' in keys:
    codes = rng.integers(model.motion.num_codes, size=_CODES)
    found['codes'] = codes.astype(np.int32)
  return found


# --- PyTorch's files ---------------------------------------------------------


def _checkpoints(folder: pathlib.Path, given: Given, read) -> dict[str, Any]:
  """What PyTorch's side reads, by part, and adapters of the probe.

  Returns:
    Part -> path, absolute or in `folder`; names, from those of the table to
    those in the file; and dtype, to which converting has rounded once.
  """
  found = {}
  for part, table in tables(given.model).items():
    names = (part, 'probe') if part == 'adapter' else (part,)
    for name in names:
      path = folder / given.originals.get(part, f'torch/{name}')
      if path.exists():
        first = files.ADAPTER_FILES if part == 'adapter' else ()
        shapes = files.open_checkpoint(path, prefer=first).shapes
        is_ours = path.is_relative_to(folder)
        found[name] = {
          'path': str(path.relative_to(folder) if is_ours else path),
          'names': mapping.check(table, shapes),
          'dtype': read(table.rows[0].ours[0]).dtype.name,
        }
  return found


def _write_torch(folder: pathlib.Path, given: Given, read, paths: set) -> None:
  model = given.model
  for part, table in tables(model).items():
    needed = {path for row in table.rows for path in row.ours}
    if not needed <= paths:
      if part in ('llm', 'adapter') or needed & paths:
        raise ValueError(
          f'Expected all of {table.name}, found nothing for '
          f'{", ".join(sorted(needed - paths)[:3])}; name the weights.'
        )
      continue  # No batch has this medium.
    if part in given.originals:
      continue
    if part == 'adapter':
      _write_part(folder / part, table, read, 'adapter_model')
      _write_part(
        folder / 'probe',
        table,
        lambda path: given.probe[path] if path in given.probe else read(path),
        'adapter_model',
      )
      for name in (part, 'probe'):
        work_folder.write_json(
          folder / name / 'adapter_config.json',
          source_config.peft_json(model.llm.lora, None),
        )
      continue
    _write_part(folder / part, table, read, 'model')
    if part == 'llm':
      plain = dataclasses.replace(model.llm, lora=lora.LoraConfig())
      work_folder.write_json(
        folder / part / 'config.json',
        source_config.llama_json(plain, read('llm/head/kernel').dtype.name),
      )


def _write_part(
  folder: pathlib.Path,
  table: mapping.Table,
  read: Callable[[str], np.ndarray],
  stem: str,
) -> None:
  folder.mkdir(parents=True)
  shards = [
    functools.partial(mapping.to_theirs, table, row, read) for row in table.rows
  ]
  sizes = [
    np.prod(table.shapes[path], dtype=np.int64)
    for row in table.rows
    for path in row.ours
  ]
  if sum(sizes) < 1 << 28:  # Small ones in one file.
    together = list(shards)
    shards = [lambda: (pair for shard in together for pair in shard())]
  files.write_safetensors(str(folder), stem, shards)


# --- Stages ------------------------------------------------------------------


def _stage(
  name: str, model: vimonet.Config, training: Training, steps: int
) -> dict[str, Any]:
  """What both sides need to know, and each tensor's learning rate."""
  settings = dict(training.settings)
  has_adapter = bool(settings.pop('lora', None))
  if not has_adapter:
    llm = dataclasses.replace(model.llm, lora=lora.LoraConfig())
    model = dataclasses.replace(model, llm=llm)
  stage = stages.tokens(
    name, model, settings['trainable'], media=training.media
  )
  shapes = sharding.unbox(stage.abstract()[0])
  trainable, _ = optimizer.split(shapes, stage.trainable)
  groups = [tuple(group) for group in settings['learning_rates']]
  which = optimizer.match([pattern for pattern, _ in groups], list(trainable))
  rates = {}
  for part, table in tables(model).items():
    for row in table.rows:
      if row.ours[0] not in trainable:
        continue
      if part not in _TRAINED:
        raise ValueError(
          f'Expected stage {name} to train {", ".join(_TRAINED)}, found '
          f'{row.ours[0]} among what it trains; the PyTorch side keeps '
          'encoders frozen, so leave them out of `trainable`.'
        )
      for theirs in mapping.names_of(table, row):
        rates[f'{part}/{theirs}'] = groups[which[row.ours[0]]][1]
  keys = ('schedule', 'clip', 'weight_decay', 'warmup_share', 'optimizer')
  return {
    **{key: settings[key] for key in keys},
    'steps': steps,
    'warmup_steps': int(settings['warmup_share'] * steps),
    'betas': list(settings['betas']),
    'eps': 1e-8,
    'trainable': list(settings['trainable']),
    'learning_rates': groups,
    'media': list(training.media),
    'has_adapter': has_adapter,
    'rates': rates,
  }
