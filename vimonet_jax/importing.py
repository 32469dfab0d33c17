"""The task `convert`: a checkpoint of PyTorch into a folder for config.base.

weights/  weights.json
tokenizer.model of a decoder, statistics.npz of a VQ-VAE
"""

import dataclasses
import functools
import json
import logging
import math
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import tqdm

from vimonet_jax import base, weight_writer
from vimonet_jax import corpus as corpora
from vimonet_jax.convert import (
  decoder_tables,
  encoder_tables,
  files,
  mapping,
  source_config,
  statistics_files,
)
from vimonet_jax.data import tokenizer
from vimonet_jax.models import lora, vimonet


class Reading(NamedTuple):
  """How a checkpoint is read.

  Attributes:
    part: the slot of config.base that the result is for.
    table: names, shapes, transforms.
    dtype: what numbers are rounded to.
    adapter: what the weights adapt with, where they are an adapter.
    note: what no file says and was taken from elsewhere, as a sentence.
  """

  part: str
  table: mapping.Table
  dtype: str
  adapter: lora.LoraConfig | None = None
  note: str = ''


class Source(NamedTuple):
  """What is read, and as what.

  Attributes:
    path: the file or folder.
    model: the sizes of the configuration, and the vocabulary of the weights.
    shapes: of all tensors, by name.
  """

  path: str
  model: vimonet.Config
  shapes: Mapping[str, tuple[int, ...]]


def _llama(source: Source) -> Reading:
  model = source.model
  source_config.check_llama(source.path, model.llm)
  return Reading('llm', decoder_tables.llama_hf(model.llm), model.llm.dtype)


def _litgpt(source: Source, *, interleaved: bool) -> Reading:
  llm = source.model.llm
  source_config.check_litgpt(source.path, llm)
  table = decoder_tables.litgpt(llm, interleaved=interleaved)
  return Reading('llm', table, llm.dtype)


def _adapter(
  source: Source, adapter: lora.LoraConfig, table, note: str
) -> Reading:
  llm = dataclasses.replace(source.model.llm, lora=adapter)
  return Reading('adapter', table(llm), 'float32', adapter, note)


def _peft(source: Source) -> Reading:
  adapter, trained_on = source_config.read_peft(source.path, source.shapes)
  note = f'It was trained on {trained_on}.' if trained_on else ''
  return _adapter(source, adapter, decoder_tables.peft, note)


def _litgpt_lora(source: Source) -> Reading:
  """Its scale lies in no file: it is that of config.instruct.lora."""
  adapter = source.model.llm.lora
  rank = _fused_rank(source) or adapter.rank
  adapter = dataclasses.replace(adapter, rank=rank, targets=('q', 'v'))
  note = (
    f'No file has its scale: alpha {adapter.alpha:g} is '
    "--config.instruct.lora.alpha. (MotionLLM's released adapter has the same "
    'names and is read with --format=motionllm-lora.)'
  )
  return _adapter(source, adapter, decoder_tables.litgpt_lora, note)


def _motionllm_lora(source: Source) -> Reading:
  """MotionLLM trained with alpha 16 and rank 64 and released nothing else."""
  rank = _fused_rank(source) or 64
  trained = lora.LoraConfig(rank=rank, alpha=rank * 16 / 64, dropout=0.05)
  adapter = decoder_tables.motionllm_adapter(trained)
  note = 'No file has its scale: alpha / rank is 16 / 64, as it was trained.'
  return _adapter(source, adapter, decoder_tables.motionllm_lora, note)


def _fused_rank(source: Source) -> int:
  """Of an adapter whose lora_A has two on top of each other."""
  rows = [x[0] for name, x in source.shapes.items() if name.endswith('.lora_A')]
  return rows[0] // 2 if rows else 0


def _languagebind(source: Source) -> Reading:
  video = source.model.video
  source_config.check_languagebind(source.path, video)
  return Reading('video', encoder_tables.languagebind(video), video.dtype)


def _vqvae(source: Source) -> Reading:
  motion = source.model.motion
  note = (
    'No file has its dilations: '
    f'{", ".join(map(str, motion.dilations))}, largest first, are those of '
    '--config.model.motion.depth and .dilation_growth.'
  )
  table = encoder_tables.vqvae(motion)
  return Reading('motion', table, 'float32', note=note)


def _projector(source: Source) -> Reading:
  model = source.model
  source_config.check_projector(source.path, model.video)
  table = encoder_tables.projector(model.video.width, model.llm.width)
  return Reading('video_translator', table, 'float32')


def _motion_projector(source: Source) -> Reading:
  model = source.model
  table = encoder_tables.motion_projector(
    model.motion.code_dim, model.llm.width
  )
  return Reading('motion_translator', table, 'float32')


# Name on the command line -> how it is read.
FORMATS: dict[str, Callable[[Source], Reading]] = {
  'llama': _llama,
  'litgpt': functools.partial(_litgpt, interleaved=False),
  'litgpt-legacy': functools.partial(_litgpt, interleaved=True),
  'peft': _peft,
  'litgpt-lora': _litgpt_lora,
  'motionllm-lora': _motionllm_lora,
  'languagebind': _languagebind,
  'vqvae': _vqvae,
  'projector': _projector,
  'motion-projector': _motion_projector,
}
# Files that a folder with several checkpoints is asked for first.
_PREFERRED = {
  'litgpt': ('lit_model.pth',),
  'litgpt-legacy': ('lit_model.pth',),
  'litgpt-lora': ('lit_model.pth.lora',),
  'peft': files.ADAPTER_FILES,
  # As --task=export names them.
  'projector': ('mm_projector.bin',),
  'motion-projector': ('motion_projector.bin',),
}
# Formats that PyTorch's own libraries or the originals' names read as they are,
# and the file that has to lie in a folder for that.
_AS_IT_IS = {
  'llama': 'config.json',
  'peft': 'adapter_config.json',
  'languagebind': None,
  'vqvae': None,
  'projector': None,
  'motion-projector': None,
}
# What tells a format from the others.
_NAMES = {
  'llama': r'^model\.embed_tokens\.',
  'litgpt': r'\.attn\.qkv\.(linear\.)?weight$',
  'litgpt-legacy': r'\.attn\.attn\.(linear\.)?weight$',
  'peft': r'^base_model\..*\.lora_A\.',
  'litgpt-lora': r'\.attn\.(attn|qkv)\.lora_A$',
  'motionllm-lora': r'\.attn\.attn\.lora_A$',
  'languagebind': r'\.temporal_attn\.',
  'vqvae': r'quantizer\.codebook$',
  'projector': r'^((model\.)?mm_projector\.)?[02]\.weight$',
  'motion-projector': r'^linear_proj\.',
}
_IN_BYTES = {'unit': 'B', 'unit_scale': True}  # Of a bar of progress.
# Of a LLaVA of transformers, whose Video-LLaVA has a plain CLIP as its tower.
_HF_LLAVA = r'(^|\.)multi_modal_projector\.'


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
    statistics: of a VQ-VAE; see statistics_files.read.

  Raises:
    ValueError: an argument is missing, or weights and sizes do not fit.
  """
  if not source or not output:
    raise ValueError(
      'Expected --source=CHECKPOINT, --format=FORMAT and --output=FOLDER, '
      f'found {source!r}, {format!r} and {output!r}; README.md, '
      "'From PyTorch and back', has examples."
    )
  found = files.open_checkpoint(source, prefer=_PREFERRED.get(format, ()))
  _check_format(format, found)
  print(f'Reads {found.path}.')
  model = _model(config, found)
  reading = FORMATS[format](Source(source, model, found.shapes))
  used = mapping.check(reading.table, found.shapes)
  kept = None
  if reading.part == 'motion':
    kept = statistics_files.read(statistics, root_gain=config.data.root_gain)
  words = files.beside(source, 'tokenizer.model')
  if reading.part == 'llm':
    _check_tokenizer(words, model.llm.vocab_size)
  base.ready(output, reading.part)

  start, written = time.monotonic(), 0
  pieces = mapping.to_ours(
    reading.table, found.shapes, found.read, dtype=jnp.dtype(reading.dtype)
  )
  with (
    weight_writer.writing(os.path.join(output, 'weights')) as write,
    tqdm.tqdm(
      total=_bytes(reading), desc=format, dynamic_ncols=True, **_IN_BYTES
    ) as bar,
  ):
    for path, x, of in pieces:
      write(path, x, of=of)
      written += x.nbytes
      if path == 'motion/quantizer/codebook':
        rest = encoder_tables.codebook_state(x)
        for name in sorted(set(rest) - {path}):
          write(name, rest[name])
      bar.update(x.nbytes)
      del x  # Or it would be there while others are made.
    base.clear(output)  # All is read: what was there may go.
  if kept is not None:
    kept.save(os.path.join(output, 'statistics.npz'))
  if reading.part == 'llm' and words is not None:
    shutil.copyfile(words, os.path.join(output, 'tokenizer.model'))
  base.write_manifest(
    output,
    base.Manifest(
      part=reading.part,
      format=format,
      source=os.path.abspath(source),
      sizes=base.sizes(model, reading.part),
      adapter=reading.adapter,
    ),
  )
  seconds = time.monotonic() - start
  print(
    f'{output}: {len(used)} tensors of {format}, {written / 1e9:.2f} GB as '
    f'{reading.dtype} in {seconds:.0f} s ({written / 1e9 / seconds:.2f} GB/s).'
  )
  if left := sorted(set(found.shapes) - set(used.values())):
    print(f'{len(left)} other tensors were left out, such as {left[0]}.')
  if reading.adapter:
    adapter = reading.adapter
    print(
      f'Rank {adapter.rank}, scale {adapter.scale:g}, on '
      f'{", ".join(adapter.targets)}.'
    )
  if reading.note:
    print(reading.note)
  print(f'Name it with --config.base.{reading.part}={output}')
  return 0


def _bytes(reading: Reading) -> int:
  """Of all that a table's rows make."""
  numbers = sum(
    math.prod(reading.table.shapes[path])
    for row in reading.table.rows
    for path in row.ours
  )
  return numbers * jnp.dtype(reading.dtype).itemsize


def original(config, part: str) -> str | None:
  """What a part of config.base came from, if PyTorch can still open it.

  A decoder that was taken out of a Video-LLaVA, or from one of several files in
  a folder, is nothing that transformers' Llama opens.
  """
  found = base.manifest(config, part)
  if found is None or found.format not in _AS_IT_IS:
    return None
  source, file = pathlib.Path(found.source), _AS_IT_IS[found.format]
  if not (source / file if file else source).exists():
    return None
  if found.format == 'llama':
    fields = json.loads((source / file).read_text(encoding='utf-8'))
    if fields.get('model_type') != 'llama':
      return None
  return found.source


def _check_format(format: str | None, found: files.Checkpoint) -> None:
  if any(re.search(_HF_LLAVA, name) for name in found.shapes):
    raise ValueError(
      f"Expected a checkpoint in its authors' form, found a LLaVA as "
      f'transformers keeps it in {found.path}; of Video-LLaVA fetch '
      'LanguageBind/Video-LLaVA-7B, for the other edition has no video tower.'
    )
  likely = looks_like(found.shapes)
  if format not in FORMATS:
    raise ValueError(
      f'Expected --format to be one of {", ".join(FORMATS)}, found {format!r}; '
      f'the names in {found.path} look like {" or ".join(likely) or "none"}.'
    )
  if likely and format not in likely:
    first = next(x for x in found.shapes if re.search(_NAMES[likely[0]], x))
    raise ValueError(
      f'Expected weights of --format={format} in {found.path}, found names of '
      f'{" and ".join(likely)}, such as {first}; choose '
      f'--format={" or ".join(likely)}, or another --source.'
    )


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
