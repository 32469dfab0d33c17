"""Weights that others have trained: the folders that config.base names.

    config.base.llm                a decoder, and its tokenizer.model
    config.base.adapter            an adapter of the decoder
    config.base.video              the video tower
    config.base.motion             the motion VQ-VAE, and its statistics.npz
    config.base.video_translator
    config.base.motion_translator

`--task=convert` writes them (see importing.py). A run starts from those that
are named; what is not named is trained, or not there.
"""

import dataclasses
import json
import os
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from vimonet_jax.audit import provenance
from vimonet_jax.convert import source_config
from vimonet_jax.models import lora, vimonet

PARTS = (
  'llm',
  'adapter',
  'video',
  'motion',
  'video_translator',
  'motion_translator',
)
_FILE = 'weights.json'
_BESIDE = ('tokenizer.model', 'statistics.npz', provenance.NAME)
# What decides how a network runs and not what it is.
_FREE = (
  'lora',
  'quantize',
  'dtype',
  'remat',
  'attention',
  'unroll',
  'keep_class_token',
  'ema_decay',
)


class Manifest(NamedTuple):
  """What lies in a folder.

  Attributes:
    part: one of PARTS.
    format: what it was converted from.
    source: path of the file or folder that it was read from.
    sizes: of the network, see `sizes`.
    adapter: of an adapter.
  """

  part: str
  format: str
  source: str
  sizes: Mapping[str, Any]
  adapter: lora.LoraConfig | None = None


def sizes(model: vimonet.Config, part: str) -> dict[str, Any]:
  """What a part's weights must have been made for."""
  if part == 'motion_translator':
    return {'features': model.motion.code_dim, 'width': model.llm.width}
  if part == 'video_translator':
    return {
      'features': model.video.width,
      'width': model.llm.width,
      # The tower does not care; who reads it does.
      'keep_class_token': model.video.keep_class_token,
    }
  config = {'video': model.video, 'motion': model.motion}.get(part, model.llm)
  fields = dataclasses.asdict(config)
  found = {name: x for name, x in fields.items() if name not in _FREE}
  if part == 'adapter':
    del found['vocab_size']  # No adapter touches it.
  return found


def part_of(path: str) -> str:
  """The one of PARTS that has a path of the model."""
  top, _, rest = path.partition('/')
  if top == 'translators':
    return f'{rest.partition("/")[0]}_translator'
  return 'adapter' if top == 'llm' and '/lora_' in path else top


def write_manifest(folder: str, manifest: Manifest) -> None:
  """Writes what `folders` looks for; last of all, so that all is there."""
  fields = manifest._asdict()
  if manifest.adapter is not None:
    fields['adapter'] = dataclasses.asdict(manifest.adapter)
  path = os.path.join(folder, _FILE)
  with open(f'{path}.part', 'w', encoding='utf-8') as f:
    json.dump(fields, f, indent=2)
  os.replace(f'{path}.part', path)


def ready(folder: str, part: str) -> None:
  """Makes a folder for new weights where it is missing; changes nothing in it.

  Raises:
    ValueError: it has those of another part, or files of somebody else.
  """
  os.makedirs(folder, exist_ok=True)
  others = [
    name
    for name in sorted(os.listdir(folder))
    if name not in _BESIDE and not name.startswith('weights')
  ]
  if others:
    raise ValueError(
      f'Expected --output to be a new folder or one that --task=convert wrote, '
      f'found {folder} with {others[0]} in it; choose another, for files there '
      'would be replaced.'
    )
  if os.path.exists(os.path.join(folder, _FILE)):
    found = _manifest(folder).part
    if found != part:
      raise ValueError(
        f'Expected --output to be a new folder or one of config.base.{part}, '
        f'found {folder} with weights for config.base.{found}; choose another.'
      )


def clear(folder: str) -> None:
  """Takes away what tells that a folder is complete, and what lies beside."""
  for name in (_FILE, *_BESIDE):
    path = os.path.join(folder, name)
    if os.path.exists(path):
      os.remove(path)


def manifest(config, part: str) -> Manifest | None:
  """What lies in a part's folder; None where none is named."""
  folder = folders(config).get(part)
  return _manifest(folder) if folder else None


def folders(config) -> dict[str, str]:
  """Part -> absolute folder, of those that are named.

  Raises:
    ValueError: one is none of ours, or has another part's weights.
  """
  named = {
    part: os.path.abspath(folder)
    for part, folder in config.get('base', {}).items()
    if folder
  }
  for part, folder in named.items():
    if part not in PARTS:
      raise ValueError(
        f'Expected config.base to name {", ".join(PARTS)}, found {part!r}.'
      )
    found = _manifest(folder)
    if found.part != part:
      raise ValueError(
        f'Expected weights for config.base.{part} in {folder}, found those for '
        f'config.base.{found.part} (from {found.format}); name it there.'
      )
  return {part: named[part] for part in PARTS if part in named}


def _manifest(folder: str) -> Manifest:
  path = os.path.join(folder, _FILE)
  if not os.path.isfile(path):
    found = f'no {_FILE} in it' if os.path.isdir(folder) else 'no such folder'
    raise ValueError(
      f'Expected converted weights in {folder}, found {found}; run '
      '--task=convert into a new folder and name that one, or correct the '
      'path.'
    )
  try:
    with open(path, encoding='utf-8') as f:
      fields = json.load(f)
    if fields['adapter'] is not None:
      targets = tuple(fields['adapter']['targets'])
      fields['adapter'] = lora.LoraConfig(
        **{**fields['adapter'], 'targets': targets}
      )
    return Manifest(**fields)
  except (ValueError, KeyError, TypeError) as e:
    raise ValueError(
      f'Expected {path} as --task=convert writes it, found something else '
      f'({e}); convert the weights again.'
    ) from e


def weights(config) -> list[str]:
  """The folders of weights, for weight_files.load."""
  return [
    os.path.join(folder, 'weights') for folder in folders(config).values()
  ]


def adapter(config) -> lora.LoraConfig | None:
  """The adapter that is named, if there is one."""
  found = manifest(config, 'adapter')
  return found and found.adapter


def check(config, model: vimonet.Config, *, stage: str | None = None) -> None:
  """Compares the folders with the model that shall be built on them.

  Args:
    config: has base.
    model: with the adapters of what is trained or assembled.
    stage: that trains it; None where its adapters are those of config.base.

  Raises:
    ValueError: names the sizes that differ.
  """
  for part, folder in folders(config).items():
    found, mine = _manifest(folder), sizes(model, part)
    differing = [
      f'{_override(part, name)}={found.sizes.get(name)!r} (is {mine[name]!r})'
      for name in mine
      if found.sizes.get(name) != mine[name]
    ]
    if differing:
      raise ValueError(
        f'Expected the weights of config.base.{part} in {folder} to fit '
        f'config.model, found {", ".join(differing)}; use the configuration '
        'that they were converted with.'
      )
  if stage is not None:
    _check_adapter(adapter(config), model.llm.lora, stage)


def _check_adapter(
  named: lora.LoraConfig | None, mine: lora.LoraConfig, stage: str
) -> None:
  if named is None or named.is_like(mine):
    return
  if not mine.rank:
    raise ValueError(
      f'Expected stage {stage} to go on with the adapter of '
      'config.base.adapter, found that it has none; begin with a stage that '
      'has (--config.stage_names="(\'instruct\',)"), or use --task=assemble, '
      'which adds the adapter to the decoder.'
    )
  differing = [
    f'--config.{stage}.lora.{name}={shlex.quote(str(x))} '
    f'(is {getattr(mine, name)})'
    for name, x in dataclasses.asdict(named).items()
    if name in ('rank', 'alpha', 'targets') and x != getattr(mine, name)
  ]
  raise ValueError(
    f'Expected stage {stage} to go on with the adapter of config.base.adapter, '
    f'found other settings: {", ".join(differing)}; train with the same, or '
    'use --task=assemble, which adds it to the decoder.'
  )


def _override(part: str, name: str) -> str:
  """The flag that sets one of `sizes`."""
  network = part.removesuffix('_translator')
  is_translator = part != network
  if part in ('llm', 'adapter') or (is_translator and name == 'width'):
    network = 'llm'  # The decoder's, which both translators write.
  if name == 'features':
    name = 'width' if network == 'video' else 'code_dim'
  return source_config.override(network, name)


def file(config, part: str, name: str) -> str | None:
  """A file that came with a part's weights; None where none are named.

  Raises:
    ValueError: the weights are there and the file is not.
  """
  folder = folders(config).get(part)
  if folder is None:
    return None
  path = os.path.join(folder, name)
  if not os.path.isfile(path):
    raise ValueError(
      f'Expected {name} beside the weights of config.base.{part} in {folder}, '
      'found none; copy there the one that they were trained with.'
    )
  return path
