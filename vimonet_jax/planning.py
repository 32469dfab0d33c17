"""The task `plan`: what a stage's step costs on chips that need not be there.

    python -m vimonet_jax.main --config=configs/vicuna7b.py --task=plan \\
      --config.plan.topology=v5e:4x4

compiles the step that `--task=pipeline` would run, for that TPU topology (with
the package libtpu, which needs no TPU) or for the devices that are there.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from vimonet_jax import corpus as corpora
from vimonet_jax import plan, sharding
from vimonet_jax.train import stages
from vimonet_jax.train import step as step_lib

# For configurations without a block `plan`.
SETTINGS = {
  # A TPU topology as libtpu names it, e.g. v5e:4x4; empty: what is there.
  'topology': '',
  # Empty: the last stage, and the mix with the longest rows and most media.
  'stage': '',
  'mix': '',
  # Of a batch, on all devices together; 0 as the mix has it.
  'rows': 0,
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
    1 where the step does not fit.

  Raises:
    ValueError: a setting names nothing that there is.
  """
  settings = {**SETTINGS, **dict(config.get('plan') or {})}
  name, mix = _stage_and_mix(config, settings)
  # Nothing is computed; a TPU in the machine is left alone.
  devices = _devices(settings['topology'])
  mesh = sharding.make_mesh(**config.mesh, devices=devices)
  mix_config = dict(config[name].mixes[mix])
  if settings['rows']:
    mix_config['rows'] = settings['rows']
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  if mix_config['rows'] % shards:
    raise ValueError(
      f'Expected rows that divide among {shards} shards of the mesh, found '
      f'{mix_config["rows"]}; set --config.plan.rows or --config.mesh.'
    )
  found = _planned(config, name, mix_config, mesh)
  found = {
    'topology': settings['topology'] or f'{len(devices)} here',
    'devices': len(devices),
    'chip': devices[0].device_kind,
    'mesh': dict(mesh.shape),
    'stage': name,
    'mix': mix,
    'rows': mix_config['rows'],
    'length': mix_config['length'],
    **found,
  }
  folder = output or workdir
  os.makedirs(folder, exist_ok=True)
  path = os.path.join(folder, 'plan.json')
  with open(path, 'w', encoding='utf-8') as f:
    json.dump(found, f, indent=2)
  print('\n'.join(_lines(found)))
  print(f'\n{os.path.abspath(path)}')
  return 0 if found['fits'] else 1


def _stage_and_mix(config, settings: Mapping[str, Any]) -> tuple[str, str]:
  name = settings['stage'] or config.stage_names[-1]
  mixes = config.get(name, {}).get('mixes', {})
  if not mixes:
    there = [x for x in config.stage_names if config[x].mixes]
    raise ValueError(
      f'Expected config.plan.stage among {", ".join(there)}, found {name!r}.'
    )
  largest = max(
    mixes, key=lambda x: (mixes[x].length, len(mixes[x].media), mixes[x].rows)
  )
  mix = settings['mix'] or largest
  if mix not in mixes:
    raise ValueError(
      f'Expected config.plan.mix among {", ".join(mixes)}, found {mix!r}.'
    )
  return name, mix


def _devices(topology: str) -> list[Any]:
  """Those of a TPU topology that is described and not there, or those here."""
  if not topology:
    return jax.devices()
  jax.config.update('jax_platforms', 'cpu')
  # Or it asks the network whether this machine has a TPU, for minutes.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
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


def trace(config, name: str, mix: Mapping[str, Any], mesh: jax.sharding.Mesh):
  """The step of a stage on batches of a mix, as jax.jit(...).trace gives it."""
  stage_config = config[name]
  model = corpora.model(
    config,
    vocab_size=config.text.vocab_size,
    adapters=stage_config.get('lora'),
    quantize=stage_config.get('quantize', ''),
  )
  stage = stages.make(name, stage_config, model)
  tx = stages.make_optimizer(stage_config)
  # As --task=convert keeps them.
  dtypes = {'llm': model.llm.dtype, 'video': model.video.dtype}
  stored = {
    path: dtypes.get(path.split('/')[0], 'float32')
    for path in stage.abstract()[0]
  }
  state, frozen = step_lib.layout(stage, tx, mesh, stored)
  step = step_lib.jit(stage, tx, state, frozen, mesh)
  rows = sharding.batch_sharding(mesh)
  shapes = jax.eval_shape(
    lambda: stages.example_batch(
      model, mix['media'], rows=mix['rows'], length=mix['length']
    )
  )
  batch = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
    for name, x in shapes.items()
  }
  key = jax.eval_shape(lambda: jax.random.key(0))
  key = jax.ShapeDtypeStruct(
    key.shape, key.dtype, sharding=sharding.replicated(mesh)
  )
  # Nothing may be computed in here: the mesh may be of devices not there.
  with sharding.use(mesh):
    return step.trace(state, frozen, batch, key)


def _planned(config, name: str, mix, mesh) -> dict[str, Any]:
  devices = mesh.devices.size
  traced = trace(config, name, mix, mesh)
  chip = plan.CHIPS.get(mesh.devices.flat[0].device_kind)
  platform = mesh.devices.flat[0].platform
  found = {'tokens': mix['rows'] * mix['length']}
  # What the model itself needs, without what is computed again.
  plain = config.copy_and_resolve_references()
  with plain.unlocked():
    plain.model.llm.update({'remat': 'none', 'attention': 'xla'})
    plain.model.video.remat = False
  needed = plan.flops(trace(plain, name, mix, mesh).jaxpr) / devices
  try:
    with _quiet() if platform == 'tpu' else contextlib.nullcontext():
      compiled = traced.lower(lowering_platforms=(platform,)).compile()
  except jax.errors.JaxRuntimeError as e:
    if _TOO_LARGE not in str(e):
      raise
    return {**found, 'fits': False, **too_large(str(e))}
  cost = plan.cost(traced, compiled, devices)
  found |= {
    'fits': chip is None or cost.memory <= chip.memory,
    'used': cost.memory,
    'limit': chip and chip.memory,
    'model_flops': needed,
    'cost': cost._asdict(),
  }
  if chip:
    bound = plan.bound(cost, chip)
    found['bound'] = {
      **bound._asdict(),
      'seconds': bound.seconds,
      'mfu': needed / chip.flops / bound.seconds,
      'tokens_per_second': found['tokens'] / bound.seconds,
    }
  return found


def too_large(message: str) -> dict[str, float | None]:
  """Bytes a chip that the compiler says it would need, and those there are."""
  told = _SIZES.search(message)
  if not told:
    return {'used': None, 'limit': None}
  used, limit = (float(told[i]) * _UNITS[told[i + 1]] for i in (1, 3))
  return {'used': used, 'limit': limit}


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
  mesh = ' x '.join(f'{name} {size}' for name, size in found['mesh'].items())
  yield (
    f'{found["stage"]}, {found["mix"]}: {found["rows"]} rows of '
    f'{found["length"]} on {found["devices"]} x {found["chip"]} '
    f'({found["topology"]}; {mesh})\n'
  )
  if 'cost' not in found:
    sizes = 'more' if found['used'] is None else f'{_gib(found["used"])}'
    there = '' if found['limit'] is None else f' of {_gib(found["limit"])}'
    yield f'It does not fit: it would take {sizes}{there} a chip.'
    return
  cost = found['cost']
  yield f'arguments       {_gib(cost["arguments"]):>14} a chip'
  yield f'temporaries     {_gib(cost["temporaries"]):>14}'
  yield f'program         {_gib(cost["code"]):>14}'
  of = f' of {_gib(found["limit"])}' if found['limit'] else ''
  yield f'in all          {_gib(found["used"]):>14}{of}\n'
  yield f'products        {cost["flops"] / 1e12:>10.2f} TFLOP a chip and step'
  yield f'  of the model  {found["model_flops"] / 1e12:>10.2f} TFLOP'
  yield f'memory traffic  {cost["accessed"] / 1e9:>10.2f} GB'
  for kind, size in cost['exchanged'].items():
    yield f'{kind:16}{size / 1e9:>10.2f} GB sent'
  if 'bound' in found:
    bound = found['bound']
    slowest = max(('compute', 'memory', 'links'), key=bound.get)
    yield (
      f'\nAt least {bound["seconds"]:.3f} s a step, which waits for {slowest} '
      f'(compute {bound["compute"]:.3f}, memory {bound["memory"]:.3f}, links '
      f'{bound["links"]:.3f}): MFU at most {bound["mfu"]:.0%}, '
      f'{bound["tokens_per_second"]:,.0f} tokens/s.'
    )
  yield 'It fits.' if found['fits'] else 'It does not fit.'


def _gib(size: float) -> str:
  return f'{size / 2**30:.2f} GiB'
