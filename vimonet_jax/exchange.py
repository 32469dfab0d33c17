"""Weights from PyTorch and back: the tasks `convert`, `assemble` and `export`.

    convert    a checkpoint of PyTorch   ->  a folder that config.base can name
    assemble   the folders of config.base ->  <workdir>/model, without training
    export     what was trained           ->  files for transformers and peft

A folder that `convert` writes:

    weights/  weights.json
    tokenizer.model of a decoder, statistics.npz of a VQ-VAE
"""

import dataclasses
import functools
import json
import logging
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import tqdm

from vimonet_jax import base, checkpoint, claim
from vimonet_jax import corpus as corpora
from vimonet_jax.convert import (
  decoder_tables,
  encoder_tables,
  files,
  mapping,
  source_config,
)
from vimonet_jax.data import tokenizer
from vimonet_jax.infer import engine
from vimonet_jax.models import lora, vimonet
from vimonet_jax.motion import features

# A shard of an exported decoder holds at most this, or one stacked array.
_SHARD_BYTES = 4_000_000_000


class Reading(NamedTuple):
  """How a checkpoint is read.

  Attributes:
    part: the slot of config.base that the result is for.
    table: names, shapes, transforms.
    dtype: what numbers are rounded to.
    adapter: what the weights adapt with, where they are an adapter.
  """

  part: str
  table: mapping.Table
  dtype: str
  adapter: lora.LoraConfig | None = None


def _llama(model: vimonet.Config, source: str) -> Reading:
  source_config.check_llama(source, model.llm)
  return Reading('llm', decoder_tables.llama_hf(model.llm), model.llm.dtype)


def _litgpt(model, source, *, interleaved: bool) -> Reading:
  source_config.check_litgpt(source, model.llm)
  table = decoder_tables.litgpt(model.llm, interleaved=interleaved)
  return Reading('llm', table, model.llm.dtype)


def _adapter(model, adapter, table) -> Reading:
  llm = dataclasses.replace(model.llm, lora=adapter)
  return Reading('adapter', table(llm), 'float32', adapter)


def _motionllm_lora(model, source) -> Reading:
  del source  # Nothing lies beside it.
  adapter = decoder_tables.motionllm_adapter(model.llm.lora)
  return _adapter(model, adapter, decoder_tables.motionllm_lora)


def _languagebind(model, source) -> Reading:
  source_config.check_languagebind(source, model.video)
  table = encoder_tables.languagebind(model.video)
  return Reading('video', table, model.video.dtype)


# Name on the command line -> (model, source) -> Reading.
FORMATS: dict[str, Callable[[vimonet.Config, str], Reading]] = {
  'llama': _llama,
  'litgpt': lambda model, source: _litgpt(model, source, interleaved=False),
  'litgpt-legacy': lambda model, source: _litgpt(
    model, source, interleaved=True
  ),
  'peft': lambda model, source: _adapter(
    model, source_config.read_peft(source), decoder_tables.peft
  ),
  'litgpt-lora': lambda model, source: _adapter(
    model, model.llm.lora, decoder_tables.litgpt_lora
  ),
  'motionllm-lora': _motionllm_lora,
  'languagebind': _languagebind,
  'vqvae': lambda model, source: Reading(
    'motion', encoder_tables.vqvae(model.motion), 'float32'
  ),
  'projector': lambda model, source: Reading(
    'video_translator',
    encoder_tables.projector(model.video.width, model.llm.width),
    'float32',
  ),
  'motion-projector': lambda model, source: Reading(
    'motion_translator',
    encoder_tables.motion_projector(model.motion.code_dim, model.llm.width),
    'float32',
  ),
}


# What tells a format from the others.
_NAMES = {
  'llama': r'^model\.embed_tokens\.',
  'litgpt': r'\.attn\.qkv\.weight$',
  'litgpt-legacy': r'\.attn\.attn\.(linear\.)?weight$',
  'peft': r'^base_model\..*\.lora_A\.',
  'litgpt-lora': r'\.attn\.attn\.lora_A$',
  'motionllm-lora': r'\.attn\.attn\.lora_A$',
  'languagebind': r'\.temporal_attn\.',
  'vqvae': r'quantizer\.codebook$',
  'projector': r'^((model\.)?mm_projector\.)?[02]\.weight$',
  'motion-projector': r'^linear_proj\.',
}


# --- In ----------------------------------------------------------------------


def convert(
  config,
  *,
  source: str | None,
  format: str | None,
  output: str | None,
  statistics: str | None,
) -> int:
  """Reads a checkpoint of PyTorch into a folder for config.base.

  Args:
    config: has the sizes that the weights must have.
    source: a file or folder; see files.open_checkpoint.
    format: a key of FORMATS.
    output: the folder to write.
    statistics: of a VQ-VAE: a .npz, or a folder with mean.npy and std.npy.

  Raises:
    ValueError: an argument is missing, or weights and sizes do not fit.
  """
  if not source or not output:
    raise ValueError(
      'Expected --source=CHECKPOINT and --output=FOLDER, found '
      f'source={source!r} and output={output!r}.'
    )
  found = files.open_checkpoint(source)
  if format not in FORMATS:
    likely = looks_like(found.shapes) or ['none of them']
    raise ValueError(
      f'Expected --format to be one of {", ".join(FORMATS)}, found {format!r}; '
      f'the names in {source} look like {" or ".join(likely)}.'
    )
  model = _model(config, found)
  reading = FORMATS[format](model, source)
  mapping.check(reading.table, found.shapes)
  kept = _statistics(config, statistics) if reading.part == 'motion' else None
  words = files.beside(source, 'tokenizer.model')
  if reading.part == 'llm':
    _check_tokenizer(words, model.llm.vocab_size)
  os.makedirs(output, exist_ok=True)

  start, written = time.monotonic(), 0
  arrays = mapping.to_ours(
    reading.table,
    found.shapes,
    found.read,
    dtype=jnp.dtype(reading.dtype),
  )
  number = sum(len(row.ours) for row in reading.table.rows)
  with (
    checkpoint.weights_writer(os.path.join(output, 'weights')) as write,
    tqdm.tqdm(total=number, desc=format, dynamic_ncols=True) as bar,
  ):
    for path, x in arrays:
      write({path: x})
      written += x.nbytes
      if path == 'motion/quantizer/codebook':
        rest = encoder_tables.codebook_state(x)
        write({name: y for name, y in rest.items() if name != path})
      bar.update()
      del x  # Or it would be there while the next one is made.
  if kept is not None:
    kept.save(os.path.join(output, 'statistics.npz'))
  if reading.part == 'llm' and words is not None:
    shutil.copyfile(words, os.path.join(output, 'tokenizer.model'))
  base.write_manifest(
    output,
    base.Manifest(
      part=reading.part,
      format=format,
      source=pathlib.Path(source).name,
      sizes=base.sizes(model, reading.part),
      adapter=reading.adapter,
    ),
  )
  seconds = time.monotonic() - start
  print(
    f'{output}: {len(reading.table.expected())} tensors of {format}, '
    f'{written / 1e9:.2f} GB as {reading.dtype} in {seconds:.0f} s '
    f'({written / 1e9 / seconds:.2f} GB/s). Name it with '
    f'--config.base.{reading.part}={output}'
  )
  return 0


def looks_like(names: Iterable[str]) -> list[str]:
  """Formats that tensors of such names come in."""
  names = list(names)
  return [
    format
    for format, pattern in _NAMES.items()
    if any(re.search(pattern, name) for name in names)
  ]


def _model(config, found: files.Checkpoint) -> vimonet.Config:
  """The sizes of the configuration, and the vocabulary of the weights."""
  names = ('model.embed_tokens.weight', 'transformer.wte.weight')
  rows = [found.shapes[name][0] for name in names if name in found.shapes]
  return corpora.model(
    config,
    vocab_size=rows[0] if rows else 1,
    adapters=config.instruct.get('lora'),
  )


def _check_tokenizer(path: pathlib.Path | None, vocab_size: int) -> None:
  if path is None:
    logging.warning(
      'Found no tokenizer.model beside the decoder; put the one that it was '
      'trained with into the folder that was written before it is used.'
    )
    return
  found = tokenizer.Tokenizer.load(str(path)).vocab_size
  if found != vocab_size:
    raise ValueError(
      f'{path}: expected a tokenizer of {vocab_size} ids, as the decoder has, '
      f'found {found}; fetch the one that belongs to it.'
    )


def _statistics(config, path: str | None) -> features.Statistics:
  """The pair that a VQ-VAE was trained with, and no other.

  With HumanML3D's own Std.npy a published encoder would see the root 25 times
  too faintly, and answer all the same.
  """
  if not path:
    raise ValueError(
      'Expected --statistics=FOLDER with the mean.npy and std.npy that the '
      'VQ-VAE was trained with, found none; no file of weights has them, and '
      'with others it sees another motion.'
    )
  found = _read_statistics(pathlib.Path(path))
  wanted, gain = config.data.root_gain, found.root_gain
  if not wanted / 1.5 < gain < wanted * 1.5:
    raise ValueError(
      f'{path}: expected a std that makes the root {wanted:.0f} times as loud '
      f"as HumanML3D's own Std.npy does (config.data.root_gain), found "
      f'{gain:.1f} times; take the pair in the meta/ folder that came with the '
      'VQ-VAE, or set --config.data.root_gain for one that was trained '
      'otherwise.'
    )
  return found


def _read_statistics(path: pathlib.Path) -> features.Statistics:
  if path.is_file():
    return features.Statistics.load(str(path))
  pair = [
    next(
      (
        path / name
        for name in (f'{which}.npy', f'{which.capitalize()}.npy')
        if (path / name).is_file()
      ),
      None,
    )
    for which in ('mean', 'std')
  ]
  if None in pair:
    raise ValueError(
      f'{path}: expected a .npz, or a folder with mean.npy and std.npy, found '
      'neither; correct --statistics.'
    )
  return features.Statistics(*(np.load(file) for file in pair))


def assemble(config, workdir: str) -> int:
  """Makes <workdir>/model of the folders of config.base alone.

  For weights that others have trained; whatever is left out of config.base,
  such as a motion encoder, cannot be asked about.

  Raises:
    ValueError: a folder is missing, or does not fit the configuration.
  """
  parts = base.folders(config)
  if 'llm' not in parts:
    raise ValueError(
      'Expected --config.base.llm=FOLDER, which --task=convert wrote, found '
      'none.'
    )
  adapter = base.adapter(config)
  words = base.file(config, 'llm', 'tokenizer.model')
  layout = corpora.layout(config, tokenizer.Tokenizer.load(words))
  pair = base.file(config, 'motion', 'statistics.npz')
  model = corpora.model(
    config,
    vocab_size=layout.tokenizer.vocab_size,
    adapters=dataclasses.asdict(adapter) if adapter else None,
  )
  base.check(config, model)
  claim.check(config, workdir)
  claim.write(config, workdir)
  weights = checkpoint.LazyWeights(base.weights(config))
  engine.save(
    os.path.join(workdir, 'model'),
    engine.Bundle(
      model, layout, features.Statistics.load(pair) if pair else None
    ),
    weights,
  )
  print(f'{workdir}/model is ready: --task=chat --workdir={workdir}')
  return 0


# --- Out ---------------------------------------------------------------------


def export(config, workdir: str, *, output: str | None) -> int:
  """Writes what was trained for transformers, peft and torch.

      llm/          LlamaForCausalLM, adapters merged, and its tokenizer
      adapter/      the adapters alone, for peft
      base/         the decoder without them, where no config.base names it
      projector/    mm_projector.bin and motion_projector.bin
      vqvae/        net_last.pth as T2M-GPT's, mean.npy and std.npy

  Args:
    config: of the run.
    workdir: where it is finished.
    output: the folder to write; None is <workdir>/export.
  """
  claim.check(config, workdir, must_exist=True)
  output = output or os.path.join(workdir, 'export')
  name = config.stage_names[-1]
  words = os.path.join(workdir, 'tokenizer.model')
  model = corpora.model(
    config,
    vocab_size=tokenizer.Tokenizer.load(words).vocab_size,
    adapters=config[name].get('lora'),
  )
  made = [os.path.join(workdir, n, 'weights') for n in config.stage_names]
  weights = checkpoint.LazyWeights([*base.weights(config), *made])
  llm, adapter = model.llm, model.llm.lora
  written = ['llm']
  read = functools.partial(_merged, weights, adapter)
  _write_llama(os.path.join(output, 'llm'), llm, read, words)
  if adapter.rank:
    belongs_to = base.folders(config).get('llm')
    if belongs_to is None:
      _write_llama(
        os.path.join(output, 'base'), llm, weights.__getitem__, words
      )
      written.append('base')
    _write_adapter(os.path.join(output, 'adapter'), llm, weights, belongs_to)
    written.append('adapter')
  for part, write in (
    ('projector', _write_projectors),
    ('vqvae', _write_vqvae),
  ):
    if write(os.path.join(output, part), model, weights, workdir):
      written.append(part)
  for part in written:
    print(os.path.join(output, part))
  return 0


def _merged(weights, adapter: lora.LoraConfig, path: str) -> np.ndarray:
  return np.asarray(lora.merged(weights, path, adapter))


def _write_llama(folder: str, llm, read, words: str) -> None:
  table = decoder_tables.llama_hf(llm)
  os.makedirs(folder, exist_ok=True)
  dtype = read('llm/norm/scale').dtype
  files.write_safetensors(folder, 'model', _shards(table, read, dtype.itemsize))
  plain = dataclasses.replace(llm, lora=lora.LoraConfig())
  _write_json(
    os.path.join(folder, 'config.json'),
    source_config.llama_json(plain, dtype.name),
  )
  shutil.copyfile(words, os.path.join(folder, 'tokenizer.model'))
  _write_json(
    os.path.join(folder, 'tokenizer_config.json'),
    {
      'tokenizer_class': 'LlamaTokenizer',
      'legacy': False,
      'add_bos_token': True,
      'add_eos_token': False,
      'bos_token': '<s>',
      'eos_token': '</s>',
      'unk_token': '<unk>',
      'padding_side': 'right',
    },
  )


def _shards(table, read, itemsize: int) -> list[Callable[[], Iterator]]:
  """Rows of a table, as many together as a shard may hold."""
  shards, size = [[]], 0
  for row in table.rows:
    bytes_of_row = itemsize * sum(
      int(np.prod(table.shapes[path])) for path in row.ours
    )
    if shards[-1] and size + bytes_of_row > _SHARD_BYTES:
      shards.append([])
      size = 0
    shards[-1].append(row)
    size += bytes_of_row

  def tensors(rows):
    for row in rows:
      yield from mapping.to_theirs(table, row, read)

  return [lambda rows=rows: tensors(rows) for rows in shards]


def _write_adapter(folder: str, llm, weights, belongs_to: str | None) -> None:
  table = decoder_tables.peft(llm)
  os.makedirs(folder, exist_ok=True)
  files.write_safetensors(
    folder, 'adapter_model', _shards(table, weights.__getitem__, 4)
  )
  _write_json(
    os.path.join(folder, 'adapter_config.json'),
    source_config.peft_json(llm.lora, belongs_to or '../base'),
  )


def _tensors(table, weights) -> dict[str, np.ndarray] | None:
  """All tensors of a small table; None where it was never trained."""
  if not all(path in weights for row in table.rows for path in row.ours):
    return None
  return {
    name: x
    for row in table.rows
    for name, x in mapping.to_theirs(table, row, weights.__getitem__)
  }


def _write_projectors(folder: str, model, weights, workdir: str) -> bool:
  del workdir
  tables = {
    'mm_projector.bin': encoder_tables.projector(
      model.video.width, model.llm.width
    ),
    'motion_projector.bin': encoder_tables.motion_projector(
      model.motion.code_dim, model.llm.width
    ),
  }
  found = {file: _tensors(table, weights) for file, table in tables.items()}
  for file, tensors in found.items():
    if tensors is not None:
      os.makedirs(folder, exist_ok=True)
      files.write_torch(os.path.join(folder, file), tensors)
  return any(tensors is not None for tensors in found.values())


def _write_vqvae(folder: str, model, weights, workdir: str) -> bool:
  tensors = _tensors(encoder_tables.vqvae(model.motion), weights)
  if tensors is None:
    return False
  os.makedirs(folder, exist_ok=True)
  files.write_torch(os.path.join(folder, 'net_last.pth'), {'net': tensors})
  path = os.path.join(workdir, 'statistics.npz')
  statistics = features.Statistics.load(path)
  np.save(os.path.join(folder, 'mean.npy'), statistics.mean)
  np.save(os.path.join(folder, 'std.npy'), statistics.std)
  return True


def _write_json(path: str, fields: Any) -> None:
  with open(path, 'w', encoding='utf-8') as f:
    json.dump(fields, f, indent=2)
    f.write('\n')
