"""Whose a work folder is: config.json, and who else may go on in it.

A stage that is finished is not trained again, so a folder must not be gone on
with under settings that would have made something else.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from flax import traverse_util

from vimonet_jax import cluster, fingerprint
from vimonet_jax.train import stages

FILE = 'config.json'
# Settings that say where and how, and what is asked in the end. With any of
# them the same is learnt from the same data, but not to the same bits: a mesh
# adds in another order, and each micro-batch draws its own dropout and moves a
# VQ-VAE's codebook. (What lies at a path is compared by its content.)
_FREE = (
  'task',
  'workdir',
  'data.path',
  'data.processes',
  'data.index',
  'data.max_corrupt',
  'data.max_failed',
  'data.beam',
  'data.beam_options',
  'data.read_threads',
)
# What the dataset is made of, which it remembers itself; see builder.build.
_FREE_STARTS = ('data.sources.',)
_FREE_GROUPS = (
  'annotate', 'audit', 'base', 'demo', 'eval', 'log', 'mesh', 'monitor',
  'parity', 'plan', 'policy', 'privacy', 'provenance', 'serve', 'study',
  'uploads', 'watermark',
)  # fmt: skip
_FREE_ENDS = ('checkpoint_steps', 'grad_accumulation')
# Settings that were added later, and what every run did before.
_ALWAYS = (('data.shares', 0),)


def check(config, workdir: str, *, must_exist: bool = False) -> None:
  """Refuses a folder that other settings began.

  Args:
    config: what somebody wants to do there.
    workdir: the folder.
    must_exist: refuse a folder that nobody began, too.

  Raises:
    ValueError: says which settings differ, or that there is nothing yet.
  """
  path = os.path.join(workdir, FILE)
  if not os.path.exists(path):
    if must_exist:
      raise ValueError(
        f'Expected a work folder of this program at {workdir}, found '
        f'{"no " + FILE + " in it" if os.path.isdir(workdir) else "none"}; '
        'run --task=pipeline first or correct --workdir.'
      )
    return
  with open(path, encoding='utf-8') as f:
    found = _identity(json.load(f))
  mine = _identity(json.loads(config.to_json()))
  differing = [
    f'{name}={found.get(name)!r} where this command has {mine.get(name)!r}'
    for name in sorted({*found, *mine})
    if found.get(name) != mine.get(name)
  ]
  if differing:
    more = f'; and {len(differing) - 5} more' if len(differing) > 5 else ''
    todo = 'repeat the --config and the overrides that it was made with'
    if not must_exist:
      todo += ', or choose another --workdir'
    raise ValueError(
      f'Expected {workdir} to be made with the settings of this command, found '
      f'{"; ".join(differing[:5])}{more}; {todo}.'
    )


def write(config, workdir: str) -> None:
  """Writes config.json, unless it is there.

  Folders of config.base become absolute: who reads them again may be elsewhere.
  """
  path = os.path.join(workdir, FILE)
  if not cluster.is_first() or os.path.exists(path):
    return
  fields = json.loads(config.to_json())
  if fields.get('base'):
    fields['base'] = {
      part: folder and os.path.abspath(folder)
      for part, folder in fields['base'].items()
    }
  os.makedirs(workdir, exist_ok=True)
  with open(f'{path}.part', 'w', encoding='utf-8') as f:
    json.dump(fields, f, indent=2)
  os.replace(f'{path}.part', path)


def digest(config) -> str:
  """A word that changes with any setting that decides what is trained."""
  kept = _identity(json.loads(config.to_json()))
  return fingerprint.digest(json.dumps(kept, sort_keys=True))


def of_data(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Settings that decide what the dataset, tokenizer and statistics are.

  Args:
    fields: of a configuration, as in config.json.
  """
  found = {
    name: x
    for name, x in _identity(fields).items()
    if name.split('.')[0] in ('data', 'text')
  }
  path = fields.get('data', {}).get('path')
  return found | {'path': path and os.path.abspath(path)} | _of_base(fields)


def of_stages(
  fields: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
  """Settings that decide what the first stages make, data included.

  Args:
    fields: of a configuration, as in config.json.
    names: the stages, from the first one on.
  """
  others = {*stages.NAMES, 'stage_names'} - {*names}
  found = {
    name: x
    for name, x in _identity(fields).items()
    if name.split('.')[0] not in others
  }
  return found | of_data(fields) | {'first': list(names)}


def _of_base(fields: Mapping[str, Any]) -> dict[str, str]:
  return {
    f'base.{part}': os.path.abspath(folder)
    for part, folder in (fields.get('base') or {}).items()
    if folder
  }


def _identity(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Dotted name -> value of all settings that decide what is trained."""
  flat = traverse_util.flatten_dict(dict(fields), sep='.')
  return {
    name: x
    for name, x in flat.items()
    if x != ''  # As if it were not there, so that settings can be added.
    and (name, x) not in _ALWAYS
    and not _is_of_no_packed_rows(name, flat)
    and name not in _FREE
    and not name.startswith(_FREE_STARTS)
    and name.split('.')[0] not in _FREE_GROUPS
    and name.split('.')[-1] not in _FREE_ENDS
  }


def _is_of_no_packed_rows(name: str, flat: Mapping[str, Any]) -> bool:
  """Whether a setting describes packed rows where a stage has none."""
  stage, *packed = name.split('.')
  return packed[:1] == ['packed'] and not flat.get(f'{stage}.packed.rows')
