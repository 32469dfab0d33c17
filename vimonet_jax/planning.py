"""The task `plan`: what a step costs on chips that need not be there.

    python -m vimonet_jax.main --config=configs/vicuna7b.py --task=plan \\
      --config.plan.topology=v5e:4x4

compiles the step that `--task=pipeline` would run, for that TPU topology (with
the package libtpu, which needs no TPU) or for the devices that are there. With
--config.plan.search=true it looks for the mesh and the most rows that fit.
"""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from vimonet_jax import sharding
from vimonet_jax.plan import chips, flops, search, steps, words
from vimonet_jax.plan import cost as costs
from vimonet_jax.train import stages

# For configurations without a block `plan`.
SETTINGS = {
  # A TPU topology as libtpu names it, e.g. v5e:4x4; empty: what is there.
  'topology': '',
  # `train`, or `decode` for a token of an answer to every row.
  'step': 'train',
  # Empty: the last stage, and the mix with the longest rows and most media.
  'stage': '',
  'mix': '',
  # Of a batch, on all devices together, and of a row or its cache; 0 as the mix
  # has it.
  'rows': 0,
  'length': 0,
  # Look for the mesh and the rows instead.
  'search': False,
}  # fmt: skip
# What the compiler says of a program that is too large for the chip.
_TOO_LARGE = 'CompileTimeHbmOom'
_SIZES = re.compile(
  r'\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)'
)
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def run(config, workdir: str, *, output: str | None = None) -> int:
  """Compiles, and prints and writes what the step needs.

  Args:
    config: of the run that is planned.
    workdir: plan.json goes there.
    output: another folder for it.

  Returns:
    1 where it is known that the step does not fit.

  Raises:
    ValueError: a setting names nothing that there is.
  """
  settings = {**SETTINGS, **dict(config.get('plan') or {})}
  step = _step(config, settings)
  # Nothing is computed; a TPU in the machine is left alone.
  devices = _devices(settings['topology'])
  kind = devices[0].device_kind
  about = {
    'topology': settings['topology'] or f'{len(devices)} here',
    'devices': len(devices),
    'chip': chips.CHIPS[kind].name if kind in chips.CHIPS else kind,
    'step': step.kind,
    'stage': step.stage,
    'mix': step.mix,
    'length': step.length,
    'quantize': steps.quantize(config, step),
  }
  if settings['search']:
    print(f'{words.title(about)}\n\n{words.row(None)}', flush=True)
    tried = []
    for found in _search(config, step, devices):
      tried.append(found)
      print(words.row(found), flush=True)
    fitting = [x for x in tried if x['fits']]
    best = max(fitting, key=_worth, default=tried[-1])
    found = {**about, **best, 'tried': tried}
  else:
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    _check_rows(step, mesh)
    found = {**about, **_planned(config, step, mesh)}
  folder = output or workdir
  os.makedirs(folder, exist_ok=True)
  path = os.path.join(folder, 'plan.json')
  with open(path, 'w', encoding='utf-8') as f:
    json.dump(found, f, indent=2)
  print('\n'.join(words.lines(found)))
  print(f'\n{os.path.abspath(path)}')
  return 1 if found['fits'] is False else 0


def _step(config, settings: Mapping[str, Any]) -> steps.Step:
  kind = settings['step']
  if kind not in ('train', 'decode'):
    raise ValueError(
      f'Expected config.plan.step to be train or decode, found {kind!r}.'
    )
  name, mix = _stage_and_mix(config, settings)
  of = stages.batch_kinds(config[name])[mix]
  parts = config[name].get('grad_accumulation', 1) if kind == 'train' else 1
  return steps.Step(
    kind,
    name,
    mix,
    of.clips,
    settings['rows'] or of.rows,
    settings['length'] or of.length,
    parts,
  )


def _check_rows(step: steps.Step, mesh: jax.sharding.Mesh) -> None:
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  if step.rows % (shards * step.parts):
    times = f' times grad_accumulation={step.parts}' * (step.parts > 1)
    raise ValueError(
      f'Expected rows that divide among {shards} shards of the mesh{times}, '
      f'found {step.rows}; set --config.plan.rows or --config.mesh.'
    )


def _stage_and_mix(config, settings: Mapping[str, Any]) -> tuple[str, str]:
  name = settings['stage'] or config.stage_names[-1]
  has_mixes = config.get(name, {}).get('mixes')
  kinds = stages.batch_kinds(config[name]) if has_mixes else {}
  if not kinds:
    there = [x for x in config.stage_names if config[x].mixes]
    raise ValueError(
      f'Expected config.plan.stage among {", ".join(there)}, found {name!r}.'
    )
  largest = max(
    kinds, key=lambda x: (kinds[x].length, len(kinds[x].clips), kinds[x].rows)
  )
  mix = settings['mix'] or largest
  if mix not in kinds:
    raise ValueError(
      f'Expected config.plan.mix among {", ".join(kinds)}, found {mix!r}.'
    )
  return name, mix


def _devices(topology: str) -> list[Any]:
  """Those of a TPU topology that is described and not there, or those here."""
  if not topology:
    return jax.devices()
  jax.config.update('jax_platforms', 'cpu')
  # Or it asks the network whether this machine has a TPU, for minutes.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  # No TPU is touched, so that several plans may be made at once.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  from jax.experimental import topologies

  try:
    with _quiet():
      found = topologies.get_topology_desc(
        platform='tpu', topology_name=topology
      )
  except Exception as e:  # Whatever libtpu has to say.
    reason = next(iter(str(e).splitlines()), type(e).__name__)
    raise ValueError(
      f'Expected config.plan.topology as libtpu names it, e.g. v5e:4x4 or '
      f'v5p:2x2x2, found {topology!r} ({reason[:200]}); correct it, or install '
      'libtpu.'
    ) from e
  return list(found.devices)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Without what libtpu writes, past Python, where there is no TPU."""
  kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(null, 2)
  try:
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
    os.close(null)


def available(device: Any) -> float | None:
  """Bytes that a program can have there, or None where nobody tells.

  A device that is here tells itself how much of it XLA may take; of others the
  published figure counts. What a CPU pretends to be shares the host's memory.
  """
  here = jax.local_devices()
  told = (device.memory_stats() or {}) if device in here else {}
  if 'bytes_limit' in told:
    return told['bytes_limit']
  if device.device_kind in chips.CHIPS:
    return chips.CHIPS[device.device_kind].memory
  if device.platform == 'cpu':
    host = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return host // len(here)
  return None


def _planned(config, step: steps.Step, mesh) -> dict[str, Any]:
  devices = mesh.devices.size
  jitted, given = steps.jitted(config, step, mesh)
  parts = steps.parts(step.kind, given)
  sizes = steps.sizes(parts)
  with sharding.use(mesh):
    traced = jitted.trace(*given)
  device = mesh.devices.flat[0]
  chip, limit = chips.CHIPS.get(device.device_kind), available(device)
  found = {
    'mesh': dict(mesh.shape),
    'rows': step.rows,
    'parts': step.parts,
    'tokens': step.rows * (step.length if step.kind == 'train' else 1),
    'memory': sizes,
  }
  # What the model itself needs, without what is computed again.
  plain = config.copy_and_resolve_references()
  with plain.unlocked():
    plain.model.llm.update({'remat': 'none', 'attention': 'xla'})
    plain.model.video.remat = False
  needed = flops.of(steps.trace(plain, step, mesh).jaxpr) / devices
  try:
    with _quiet() if device.platform == 'tpu' else contextlib.nullcontext():
      compiled = traced.lower(lowering_platforms=(device.platform,)).compile()
      cost = costs.of(traced, compiled, devices)
  except jax.errors.JaxRuntimeError as e:
    if _TOO_LARGE not in str(e):
      raise
    return {**found, 'fits': False, **too_large(str(e))}
  where = steps.parts(step.kind, compiled.input_shardings[0])
  beside = steps.beside(parts, where)
  used = cost.memory + beside
  found |= {
    # XLA says so of TPUs only.
    'fits': None if limit is None else used <= limit,
    'used': used,
    'limit': limit,
    'memory': {
      **sizes,
      # Metrics, and what the compiler rounds up.
      'results, padding': cost.arguments + beside - sum(sizes.values()),
      'temporaries': cost.temporaries,
      'program': cost.code,
    },
    'model_flops': needed,
    'cost': cost._asdict(),
    'intensity': cost.intensity,
    'ridge': chip and chip.ridge,
  }
  if chip:
    bound = costs.bound(cost, chip)
    found['bound'] = {
      **bound._asdict(),
      'seconds': bound.seconds,
      'mfu': needed / chip.flops / bound.seconds,
      'tokens_per_second': found['tokens'] / bound.seconds,
    }
  return found


# --- Search ------------------------------------------------------------------

# Of a chip's memory that the compiler will not give away.
_RESERVED = 2**28


def _search(config, step: steps.Step, devices) -> Iterator[dict[str, Any]]:
  """Plans of all meshes that may fit, each with the most rows that do.

  Whatever the mesh, a row takes about the same memory: what was seen so far
  tells which number of rows is worth compiling.
  """
  chip = chips.CHIPS.get(devices[0].device_kind)
  if chip is None:
    raise ValueError(
      f'Expected chips of known memory to search for what fits, found '
      f'{devices[0].device_kind}; name a --config.plan.topology, or plan one '
      'mesh at a time.'
    )
  limit, known = available(devices[0]), None
  room = limit - _RESERVED
  for mesh in search.meshes(config, devices):
    # A row a shard, and as many in every part of a batch.
    fewest = mesh.shape['data'] * mesh.shape['fsdp'] * step.parts
    smallest = dataclasses.replace(step, rows=fewest)
    _, given = steps.jitted(config, smallest, mesh)
    sizes = steps.sizes(steps.parts(step.kind, given))
    kept = sum(sizes.values())
    if kept > room:
      yield {
        'mesh': dict(mesh.shape), 'rows': fewest, 'parts': step.parts,
        'memory': sizes, 'fits': False, 'used': kept, 'limit': limit,
      }  # fmt: skip
      continue
    tried = {}

    def used(rows, mesh=mesh, tried=tried, fewest=fewest):
      of = dataclasses.replace(step, rows=rows * fewest)
      tried[rows] = _planned(config, of, mesh)
      # What does not fit takes more than there is, whatever the compiler says.
      least = 0 if tried[rows]['fits'] else room + 1
      return max(least, tried[rows]['used'] or 0)

    rows, known = search.most_rows(used, kept, room, known)
    yield tried[max(rows, 1)]


def _worth(found: Mapping[str, Any]) -> tuple[float, int]:
  """Tokens a second; of equals the mesh with fewer shards of the weights."""
  return found['bound']['tokens_per_second'], -found['mesh']['fsdp']


def too_large(message: str) -> dict[str, float | None]:
  """Bytes a chip that the compiler says it would need, and those there are."""
  told = _SIZES.search(message)
  if not told:
    return {'used': None, 'limit': None}
  used, limit = (float(told[i]) * _UNITS[told[i + 1]] for i in (1, 3))
  return {'used': used, 'limit': limit}
