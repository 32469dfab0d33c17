"""The folder of a finished model: all that inference needs.

    config.json  tokenizer.model  statistics.npz  weights/
"""

import dataclasses
import json
import os
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from vimonet_jax import cluster, fingerprint, weight_files, weight_writer
from vimonet_jax.data import text, tokenizer
from vimonet_jax.models import lora, vimonet
from vimonet_jax.motion import features

STATISTICS = 'statistics.npz'
_CONFIG, _TOKENIZER = 'config.json', 'tokenizer.model'


class Bundle(NamedTuple):
  """What a model needs besides its weights to read a record.

  Attributes:
    model: sizes; with adapters where the weights have them.
    layout: tokenizer, template, and the places that clips take.
    statistics: of the motion encoder's training data; None without one.
  """

  model: vimonet.Config
  layout: text.Layout
  statistics: features.Statistics | None


def save(
  folder: str,
  bundle: Bundle,
  params: Mapping[str, Any],
  *,
  merge: bool = True,
) -> None:
  """Writes a folder that engine.Engine.load needs nothing besides.

  One array at a time is in memory, where `params` reads them when asked.

  Args:
    folder: is made where it is missing.
    bundle: goes into config.json, tokenizer.model and statistics.npz.
    params: path -> parameter, and the codebook's state where it is used.
    merge: add adapters to their kernels, in float32, instead of keeping them.
  """
  model = bundle.model
  adapter = model.llm.lora if merge else lora.LoraConfig()
  if adapter.rank:
    llm = dataclasses.replace(model.llm, lora=lora.LoraConfig())
    model = dataclasses.replace(model, llm=llm)
  path = os.path.join(folder, _CONFIG)
  is_writer = cluster.is_first()
  if is_writer:
    os.makedirs(folder, exist_ok=True)
    # First it goes and last it comes: a folder that has it is complete.
    if os.path.exists(path):
      os.remove(path)
  with weight_writer.writing(weights(folder)) as write:
    for name in lora.kept(params) if adapter.rank else params:
      x = lora.merged(params, name, adapter) if adapter.rank else params[name]
      write(name, np.asarray(x))
      del x
  if is_writer:
    _save_bundle(folder, bundle._replace(model=model))
  cluster.wait('the model is written')


def weights(folder: str) -> str:
  """Where its weights lie; see weight_files."""
  return os.path.join(folder, 'weights')


def media_of(paths: Collection[str]) -> tuple[str, ...]:
  """Of `motion` and `video`, what a model with such parameters can read."""
  return tuple(
    medium
    for medium in ('motion', 'video')
    # Both, for parts that others have trained may come one by one.
    if all(
      any(path.startswith(part) for path in paths)
      for part in (f'translators/{medium}/', f'{medium}/')
    )
  )


def weights_fingerprint(folder: str) -> str:
  """A word that tells its weights from others, of which all are read."""
  return fingerprint.of(weight_files.Lazy(weights(folder)))


def _save_bundle(folder: str, bundle: Bundle) -> None:
  bundle.layout.tokenizer.save(os.path.join(folder, _TOKENIZER))
  if bundle.statistics is not None:
    bundle.statistics.save(os.path.join(folder, STATISTICS))
  fields = {
    'model': bundle.model.to_json(),
    'template': dataclasses.asdict(bundle.layout.template),
  }
  path = os.path.join(folder, _CONFIG)
  with open(f'{path}.part', 'w', encoding='utf-8') as f:
    json.dump(fields, f, indent=2)
  os.replace(f'{path}.part', path)


def read(folder: str) -> Bundle:
  """Reads what `save` wrote, but for the weights.

  Raises:
    FileNotFoundError: there is no finished model in the folder.
    ValueError: there is one that this version cannot read.
  """
  path = os.path.join(folder, _CONFIG)
  if not os.path.exists(path):
    found = f'no {_CONFIG} in it' if os.path.isdir(folder) else 'no such folder'
    raise FileNotFoundError(
      f'Expected a finished model in {folder}, found {found}; run '
      '--task=pipeline to its end or correct --workdir.'
    )
  try:
    with open(path, encoding='utf-8') as f:
      fields = json.load(f)
    model = vimonet.Config.from_json(fields['model'])
    template = text.Template(**fields['template'])
  except (ValueError, KeyError, TypeError) as e:
    raise ValueError(
      f'{path}: expected what a finished run writes, found {e!r}; copy the '
      'folder again, or remove it and repeat the command that made it.'
    ) from e
  layout = text.Layout(
    tokenizer.Tokenizer.load(os.path.join(folder, _TOKENIZER)),
    template,
    video_tokens=model.video_tokens,
    motion_slots=model.motion_tokens,
  )
  path = os.path.join(folder, STATISTICS)
  statistics = None
  if os.path.exists(path):
    try:
      statistics = features.Statistics.load(path)
    except Exception as e:  # NumPy and zipfile raise a dozen kinds.
      raise ValueError(
        f'{path}: expected what a finished run writes, found {_short(e)}; copy '
        'the folder again.'
      ) from e
  return Bundle(model, layout, statistics)


def _short(error: Exception) -> str:
  """What somebody else's error says, in a part of a line."""
  said = str(error).strip().partition('\n')[0] or type(error).__name__
  return repr(said[:100])
