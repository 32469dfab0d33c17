"""What a run came to: its model and all of its weights, wherever they lie.

A model is either trained, by the stages of its work folder on top of what
config.base names, or assembled of what config.base names alone.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vimonet_jax import (
  base,
  claim,
  fingerprint,
  importing,
  sharding,
  weight_files,
)
from vimonet_jax import corpus as corpora
from vimonet_jax.data import tokenizer
from vimonet_jax.infer import model_folder
from vimonet_jax.models import vimonet
from vimonet_jax.motion import features
from vimonet_jax.train import loop, optimizer, stages

_ASSEMBLED = 'assembled.json'


class Outcome(NamedTuple):
  """A model that could be asked.

  Attributes:
    model: with the adapters that the weights have.
    weights: read when asked for.
    tokenizer: path of its model.
    statistics: of the motion encoder's data; None without one.
    decoder: what the adapters belong to, as a path or name of Hugging Face;
      None where the run has grown its own.
  """

  model: vimonet.Config
  weights: weight_files.Lazy
  tokenizer: str
  statistics: features.Statistics | None
  decoder: str | None


def weights(config, workdir: str, names: Sequence[str]) -> list[str]:
  """Folders of what was there before the run and of what stages have made.

  Args:
    config: of the run.
    workdir: of the run.
    names: of the stages, in their order.
  """
  made = [os.path.join(workdir, name, 'weights') for name in names]
  return base.weights(config) + made


def gather(config, workdir: str) -> Outcome:
  """Finds all parts of a run that is finished.

  Raises:
    ValueError: it is not, or the last stage was trained on other weights than
      config.base names.
  """
  claim.check(config, workdir, must_exist=True)
  config = _with_base(config, workdir)
  if os.path.exists(os.path.join(workdir, _ASSEMBLED)):
    with open(os.path.join(workdir, _ASSEMBLED), encoding='utf-8') as f:
      of = json.load(f)
    named = base.folders(config)
    if _real(named) != _real(of):
      raise ValueError(
        f'Expected config.base as the model in {workdir} was assembled '
        f'({of}), found {named}; leave it out, or assemble the '
        'other model in another --workdir.'
      )
    return _of_base(config)
  words = os.path.join(workdir, 'tokenizer.model')
  if not os.path.exists(words):
    raise ValueError(
      f'Expected a finished run in {workdir}, found no tokenizer; run '
      '--task=pipeline to its end first.'
    )
  name = config.stage_names[-1]
  model = corpora.model(
    config,
    vocab_size=tokenizer.Tokenizer.load(words).vocab_size,
    adapters=config[name].get('lora'),
  )
  base.check(config, model, stage=name)
  # What the stage rounded in its own memory is here as it was.
  stage = stages.make(name, config[name], model)
  wanted, state = stage.abstract()
  found = weight_files.Lazy(weights(config, workdir, config.stage_names))
  if missing := sorted({*wanted, *state} - set(found)):
    raise ValueError(
      f'Expected all weights of stage {name} in {workdir} and config.base, '
      f'found no {missing[0]} and {len(missing) - 1} more; name the folders '
      'of config.base that the run began with.'
    )
  _, frozen = optimizer.split(sharding.unbox(wanted), stage.trainable)
  loop.check_base(
    os.path.join(workdir, name),
    name,
    fingerprint.of(found.only(frozen, dtype=stage.frozen_dtype)),
  )
  pair = os.path.join(workdir, 'statistics.npz')
  return Outcome(
    model,
    found,
    words,
    features.Statistics.load(pair) if os.path.exists(pair) else None,
    _decoder(config, found),
  )


def _real(folders: Mapping[str, str]) -> dict[str, str]:
  return {part: os.path.realpath(path) for part, path in folders.items()}


def _decoder(config, found: weight_files.Lazy) -> str | None:
  """What peft can load the adapters onto, if that is what they belong to."""
  given = base.weights(config)
  for path, folder in found.folders.items():
    if path.startswith('llm/') and '/lora_' not in path and folder not in given:
      return None  # A stage has made another of it.
  return importing.original(config, 'llm')


def _of_base(config) -> Outcome:
  if 'llm' not in base.folders(config):
    raise ValueError(
      'Expected --config.base.llm=FOLDER, which --task=convert wrote, found '
      'none.'
    )
  adapter = base.adapter(config)
  words = base.file(config, 'llm', 'tokenizer.model')
  model = corpora.model(
    config,
    vocab_size=tokenizer.Tokenizer.load(words).vocab_size,
    adapters=dataclasses.asdict(adapter) if adapter else None,
  )
  base.check(config, model)
  pair = base.file(config, 'motion', 'statistics.npz')
  found = weight_files.Lazy(base.weights(config))
  return Outcome(
    model,
    found,
    words,
    features.Statistics.load(pair) if pair else None,
    _decoder(config, found),
  )


def _with_base(config, workdir: str):
  """The folders that the run began with, unless others are named."""
  if base.folders(config):
    return config
  with open(os.path.join(workdir, 'config.json'), encoding='utf-8') as f:
    remembered = json.load(f).get('base') or {}
  config = config.copy_and_resolve_references()
  config.base = remembered
  return config


def save(config, found: Outcome, workdir: str) -> None:
  """Writes <workdir>/model, which is all that inference needs."""
  layout = corpora.layout(config, tokenizer.Tokenizer.load(found.tokenizer))
  # What only the training of a VQ-VAE reads.
  unread = ['motion/decoder/']
  if found.model.motion_feature == 'encoder':
    unread.append('motion/quantizer/')
  model_folder.save(
    os.path.join(workdir, 'model'),
    model_folder.Bundle(found.model, layout, found.statistics),
    found.weights.only(
      path for path in found.weights if not path.startswith(tuple(unread))
    ),
  )


def assemble(config, workdir: str) -> int:
  """Makes <workdir>/model of the folders of config.base alone.

  For weights that others have trained; whatever is left out of config.base,
  such as a motion encoder, cannot be asked about.

  Raises:
    ValueError: a folder is missing, or does not fit the configuration, or the
      work folder has a run in it.
  """
  trained = [n for n in config.stage_names if _is_there(workdir, n)]
  if trained:
    raise ValueError(
      f'Expected a work folder without a run, found {", ".join(trained)} in '
      f'{workdir}; choose another --workdir for the model that is assembled.'
    )
  found = _of_base(config)
  claim.check(config, workdir)
  claim.write(config, workdir)
  with open(os.path.join(workdir, _ASSEMBLED), 'w', encoding='utf-8') as f:
    json.dump(base.folders(config), f, indent=2)
  save(config, found, workdir)
  print(f'{workdir}/model is ready: --task=chat --workdir={workdir}')
  named = base.folders(config)
  for medium in ('motion', 'video'):
    parts = (medium, f'{medium}_translator')
    if lost := [f'config.base.{part}' for part in parts if part not in named]:
      print(f'Without {" and ".join(lost)} it reads no {medium}.')
  return 0


def check_not_assembled(workdir: str) -> None:
  """Raises a ValueError where a run would take another's model for its own."""
  if _is_there(workdir, _ASSEMBLED):
    raise ValueError(
      f'Expected a work folder for training, found a model in {workdir} that '
      '--task=assemble made; choose another --workdir.'
    )


def _is_there(workdir: str, name: str) -> bool:
  return os.path.exists(os.path.join(workdir, name))
