"""The task `export`: what was trained, for transformers, peft and torch.

llm/        LlamaForCausalLM, adapters merged, and its tokenizer
adapter/    the adapters alone, for peft
base/       the decoder without them, where no config.base names it
projector/  mm_projector.bin and motion_projector.bin
vqvae/      net_last.pth as T2M-GPT's, mean.npy and std.npy
"""

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vimonet_jax import outcome
from vimonet_jax.convert import (
  decoder_tables,
  encoder_tables,
  files,
  mapping,
  source_config,
)
from vimonet_jax.models import lora

# A shard of an exported decoder holds at most this, or one stacked array.
_SHARD_BYTES = 4_000_000_000


def export(config, workdir: str, *, output: str | None) -> int:
  """Writes all parts that the run has; see above.

  Args:
    config: of the run.
    workdir: where it is finished.
    output: the folder to write; None is <workdir>/export.
  """
  output = output or os.path.join(workdir, 'export')
  found = outcome.gather(config, workdir)
  model, weights = found.model, found.weights
  words = found.tokenizer
  llm, adapter = model.llm, model.llm.lora
  written = ['llm']
  read = functools.partial(_merged, weights, adapter)
  _write_llama(os.path.join(output, 'llm'), llm, read, words)
  if adapter.rank:
    belongs_to = found.decoder
    if belongs_to is None:
      belongs_to = os.path.abspath(os.path.join(output, 'base'))
      read = weights.__getitem__
      _write_llama(os.path.join(output, 'base'), llm, read, words)
      written.append('base')
    _write_adapter(os.path.join(output, 'adapter'), llm, weights, belongs_to)
    written.append('adapter')
  for part, write in (
    ('projector', _write_projectors),
    ('vqvae', _write_vqvae),
  ):
    if write(os.path.join(output, part), model, weights, found.statistics):
      written.append(part)
  for part in written:
    print(os.path.join(output, part))
  if any(path.startswith('video/') for path in weights):
    print(
      'The video tower stays here: torch wants the blocks after those that are '
      'read, too.'
    )
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
      'pad_token': '<unk>',
      'padding_side': 'right',
    },
  )
  _write_json(
    os.path.join(folder, 'generation_config.json'),
    {'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 0},
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


def _write_adapter(folder: str, llm, weights, belongs_to: str) -> None:
  table = decoder_tables.peft(llm)
  os.makedirs(folder, exist_ok=True)
  files.write_safetensors(
    folder, 'adapter_model', _shards(table, weights.__getitem__, 4)
  )
  _write_json(
    os.path.join(folder, 'adapter_config.json'),
    source_config.peft_json(llm.lora, belongs_to),
  )


def _tensors(table, weights) -> dict[str, np.ndarray] | None:
  """All tensors of a small table; None where the model has no such part."""
  paths = [path for row in table.rows for path in row.ours]
  missing = [path for path in paths if path not in weights]
  if len(missing) == len(paths):
    return None
  if missing:
    raise ValueError(
      f'Expected all weights of {table.name}, found no {", ".join(missing[:5])}'
      f'{" ..." * (len(missing) > 5)}; train or convert the whole.'
    )
  return {
    name: x
    for row in table.rows
    for name, x in mapping.to_theirs(table, row, weights.__getitem__)
  }


def _write_projectors(folder: str, model, weights, statistics) -> bool:
  del statistics
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


def _write_vqvae(folder: str, model, weights, statistics) -> bool:
  tensors = _tensors(encoder_tables.vqvae(model.motion), weights)
  if tensors is None:
    return False
  if statistics is None:
    raise ValueError(
      'Expected the statistics of the motion encoder, found none beside it; '
      'without them nobody could use it.'
    )
  os.makedirs(folder, exist_ok=True)
  files.write_torch(os.path.join(folder, 'net_last.pth'), {'net': tensors})
  np.save(os.path.join(folder, 'mean.npy'), statistics.mean)
  np.save(os.path.join(folder, 'std.npy'), statistics.std)
  return True


def _write_json(path: str, fields: Any) -> None:
  with open(path, 'w', encoding='utf-8') as f:
    json.dump(fields, f, indent=2)
    f.write('\n')
