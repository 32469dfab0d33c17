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
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vimonet_jax import corpus as corpora
from vimonet_jax import plan, sharding
from vimonet_jax.infer import engine
from vimonet_jax.models import attention, vimonet
from vimonet_jax.train import stages
from vimonet_jax.train import step as step_lib

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


@dataclasses.dataclass(frozen=True)
class Step:
  """What is planned.

  Attributes:
    kind: `train` or `decode`.
    stage: whose settings count.
    mix: name of its rows.
    clips: medium -> clips that a row holds.
    rows: of a batch, on all devices together.
    length: of a row, or of its cache.
    parts: of the batch, one after another (grad_accumulation).
  """

  kind: str
  stage: str
  mix: str
  clips: Mapping[str, int]
  rows: int
  length: int
  parts: int = 1


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
    'chip': plan.CHIPS[kind].name if kind in plan.CHIPS else kind,
    'step': step.kind,
    'stage': step.stage,
    'mix': step.mix,
    'length': step.length,
    'quantize': _quantize(config, step),
  }
  if settings['search']:
    print(f'{_title(about)}\n\n{_row(None)}', flush=True)
    tried = []
    for found in _search(config, step, devices):
      tried.append(found)
      print(_row(found), flush=True)
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
  print('\n'.join(_lines(found)))
  print(f'\n{os.path.abspath(path)}')
  return 1 if found['fits'] is False else 0


def _step(config, settings: Mapping[str, Any]) -> Step:
  kind = settings['step']
  if kind not in ('train', 'decode'):
    raise ValueError(
      f'Expected config.plan.step to be train or decode, found {kind!r}.'
    )
  name, mix = _stage_and_mix(config, settings)
  of = stages.batch_kinds(config[name])[mix]
  parts = config[name].get('grad_accumulation', 1) if kind == 'train' else 1
  return Step(
    kind,
    name,
    mix,
    of.clips,
    settings['rows'] or of.rows,
    settings['length'] or of.length,
    parts,
  )


def _check_rows(step: Step, mesh: jax.sharding.Mesh) -> None:
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


def trace(config, step: Step, mesh: jax.sharding.Mesh):
  """The step as jax.jit(...).trace gives it."""
  run, given = _jitted(config, step, mesh)
  # Nothing may be computed in here: the mesh may be of devices not there.
  with sharding.use(mesh):
    return run.trace(*given)


def _jitted(config, step: Step, mesh: jax.sharding.Mesh):
  """The step, and what it is given as shapes where they lie."""
  of_kind = {'train': _train_step, 'decode': _decode_step}[step.kind]
  return of_kind(config, step, mesh)


def _state(config, step: Step, mesh: jax.sharding.Mesh):
  """Stage, optimizer, and what both keep, as shapes where they lie."""
  stage_config = config[step.stage]
  model = corpora.stage_model(
    config, step.stage, vocab_size=config.text.vocab_size
  )
  stage = stages.make(step.stage, stage_config, model)
  tx = stages.make_optimizer(stage_config)
  # As --task=convert keeps them.
  dtypes = {'llm': model.llm.dtype, 'video': model.video.dtype}
  stored = {
    path: dtypes.get(path.split('/')[0], 'float32')
    for path in stage.abstract()[0]
  }
  return model, stage, tx, step_lib.layout(stage, tx, mesh, stored)


def _quantize(config, step: Step) -> str:
  """What the decoder's frozen kernels are rounded to."""
  where = config.eval if step.kind == 'decode' else config[step.stage]
  return where.get('quantize', '')


def _train_step(config, step: Step, mesh: jax.sharding.Mesh):
  model, stage, tx, (state, frozen) = _state(config, step, mesh)
  run = step_lib.jit(stage, tx, state, frozen, mesh, step.parts)
  rows = sharding.batch_sharding(mesh)
  shapes = jax.eval_shape(
    lambda: stages.example_batch(
      model, stages.BatchKind(step.rows, step.length, step.clips)
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
  return run, (state, frozen, batch, key)


def _served(config, step: Step, mesh: jax.sharding.Mesh):
  """Model without adapters, and what an engine keeps, as shapes."""
  model = corpora.model(
    config,
    vocab_size=config.text.vocab_size,
    quantize=_quantize(config, step),
  )
  cache = jax.eval_shape(
    lambda: attention.init_cache(model.llm, step.rows, step.length)
  )
  spec = jax.sharding.PartitionSpec
  where = spec(None, ('data', 'fsdp'), 'tensor')

  def place(x, spec):
    return jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=jax.sharding.NamedSharding(mesh, spec)
    )

  return (
    model,
    engine.layout(model, mesh),
    attention.Cache(
      place(cache.k, where),
      place(cache.v, where),
      place(cache.length, spec(('data', 'fsdp'))),
    ),
  )


def _decode_step(config, step: Step, mesh: jax.sharding.Mesh):
  model, weights, cache = _served(config, step, mesh)
  network = vimonet.Vimonet(model)

  def decode(weights, tokens_B, is_active_B, cache):
    variables = engine.variables(weights)
    logits_BV, cache = network.apply(
      variables, tokens_B, is_active_B, cache, method='decode'
    )
    return jnp.argmax(logits_BV, axis=-1), cache

  rows = sharding.batch_sharding(mesh)
  where = jax.tree.map(lambda x: x.sharding, (weights, cache))
  run = jax.jit(
    decode,
    in_shardings=(where[0], rows, rows, where[1]),
    out_shardings=(rows, where[1]),
    donate_argnums=3,
    # Encoders lie beside it for the next question.
    keep_unused=True,
  )
  tokens = jax.ShapeDtypeStruct((step.rows,), jnp.int32, sharding=rows)
  active = jax.ShapeDtypeStruct((step.rows,), bool, sharding=rows)
  return run, (weights, tokens, active, cache)


def _parts(kind: str, given) -> dict[str, Any]:
  """What a step is given, by what it is; of training without the key."""
  if kind == 'decode':
    weights, tokens, active, cache = given
    return {'weights': weights, 'cache': cache, 'batch': (tokens, active)}
  state, frozen, batch, _ = given
  return {
    'frozen weights': frozen,
    'trainables': (state.trainables, state.mutable),
    'optimizer': (state.opt_state, state.step),
    'batch': batch,
  }


def _sizes(parts: Mapping[str, Any]) -> dict[str, int]:
  """Bytes a device of each part."""
  return {
    name: sum(map(_bytes_here, jax.tree.leaves(part)))
    for name, part in parts.items()
  }


def _bytes_here(x: jax.ShapeDtypeStruct) -> int:
  """Of a device's shard."""
  name = jnp.dtype(x.dtype).name
  # NumPy keeps four bits in a byte; chips do not.
  bits = 4 if name in ('int4', 'uint4') else 8 * jnp.dtype(x.dtype).itemsize
  return -(-math.prod(x.sharding.shard_shape(x.shape)) * bits // 8)


def _beside(parts: Mapping[str, Any], where: Mapping[str, Any]) -> int:
  """Bytes a device of what lies there for other steps: XLA leaves it out.

  Args:
    parts: of what the step is given.
    where: the same of compiled.input_shardings, which has None for it.
  """
  sizes = jax.tree.map(lambda x, y: 0 if y else _bytes_here(x), parts, where)
  return sum(jax.tree.leaves(sizes))


def available(device: Any) -> float | None:
  """Bytes that a program can have there, or None where nobody tells.

  A device that is here tells itself how much of it XLA may take; of others the
  published figure counts. What a CPU pretends to be shares the host's memory.
  """
  here = jax.local_devices()
  told = (device.memory_stats() or {}) if device in here else {}
  if 'bytes_limit' in told:
    return told['bytes_limit']
  if device.device_kind in plan.CHIPS:
    return plan.CHIPS[device.device_kind].memory
  if device.platform == 'cpu':
    host = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return host // len(here)
  return None


def _planned(config, step: Step, mesh) -> dict[str, Any]:
  devices = mesh.devices.size
  parts = _parts(step.kind, _jitted(config, step, mesh)[1])
  sizes = _sizes(parts)
  traced = trace(config, step, mesh)
  device = mesh.devices.flat[0]
  chip, limit = plan.CHIPS.get(device.device_kind), available(device)
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
  needed = plan.flops(trace(plain, step, mesh).jaxpr) / devices
  try:
    with _quiet() if device.platform == 'tpu' else contextlib.nullcontext():
      compiled = traced.lower(lowering_platforms=(device.platform,)).compile()
      cost = plan.cost(traced, compiled, devices)
  except jax.errors.JaxRuntimeError as e:
    if _TOO_LARGE not in str(e):
      raise
    return {**found, 'fits': False, **too_large(str(e))}
  beside = _beside(parts, _parts(step.kind, compiled.input_shardings[0]))
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
    bound = plan.bound(cost, chip)
    found['bound'] = {
      **bound._asdict(),
      'seconds': bound.seconds,
      'mfu': needed / chip.flops / bound.seconds,
      'tokens_per_second': found['tokens'] / bound.seconds,
    }
  return found


# --- Search ------------------------------------------------------------------

# Compilations of one mesh, which take minutes each.
_TRIALS = 4
# Of a chip's memory that the compiler will not give away.
_RESERVED = 2**28


def _search(config, step: Step, devices) -> Iterator[dict[str, Any]]:
  """Plans of all meshes that may fit, each with the most rows that do.

  Whatever the mesh, a row takes about the same memory: what was seen so far
  tells which number of rows is worth compiling.
  """
  chip = plan.CHIPS.get(devices[0].device_kind)
  if chip is None:
    raise ValueError(
      f'Expected chips of known memory to search for what fits, found '
      f'{devices[0].device_kind}; name a --config.plan.topology, or plan one '
      'mesh at a time.'
    )
  limit, known = available(devices[0]), None
  room = limit - _RESERVED
  for mesh in _meshes(config, devices):
    # A row a shard, and as many in every part of a batch.
    fewest = mesh.shape['data'] * mesh.shape['fsdp'] * step.parts
    smallest = dataclasses.replace(step, rows=fewest)
    sizes = _sizes(_parts(step.kind, _jitted(config, smallest, mesh)[1]))
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

    rows, known = most_rows(used, kept, room, known)
    yield tried[max(rows, 1)]


class Memory(NamedTuple):
  """How the memory of a program grows.

  Attributes:
    fixed: bytes that it takes besides its arguments, without any row.
    a_row: bytes of a row.
  """

  fixed: float
  a_row: float


def most_rows(
  used: Callable[[int], float],
  kept: float,
  room: float,
  known: Memory | None = None,
) -> tuple[int, Memory | None]:
  """The most rows that fit, in few trials, where memory grows evenly.

  Args:
    used: rows -> bytes, which is dear to ask.
    kept: bytes of what there is in any case.
    room: bytes that there are.
    known: of the same program on another mesh.

  Returns:
    Rows, 0 where one was tried and does not fit, and what was seen of the
    memory.
  """
  seen: dict[int, float] = {}
  best, too_many, rows = 0, math.inf, 1
  if known:
    rows = max(1, int((room - kept - known.fixed) // known.a_row))
  for trial in range(_TRIALS):
    if trial == _TRIALS - 1 and not best:
      rows = 1  # Or nobody knows whether any fits.
    seen[rows] = used(rows)
    if seen[rows] <= room:
      best = max(best, rows)
    else:
      too_many = min(too_many, rows)
    if len(seen) > 1:
      (x, low), (y, high) = sorted(seen.items())[-2:]
      a_row = max(1.0, (high - low) / (y - x))
      known = Memory(high - kept - y * a_row, a_row)
    if known is None:
      # What one row takes is mostly not the row's.
      guess, is_sure = 2, False
    else:
      guess = int((room - kept - known.fixed) // known.a_row)
      told = kept + known.fixed + rows * known.a_row
      is_sure = abs(told - seen[rows]) < 0.01 * room
      if not is_sure:  # Another mesh told wrong.
        guess = rows + (1 if seen[rows] <= room else -1) * max(1, rows // 4)
    if best + 1 >= too_many:
      break
    guess = max(1, min(guess, too_many - 1))
    if guess <= best:
      if is_sure:
        break
      guess = best + 1
    rows = guess
  return best, known


def _meshes(config, devices) -> Iterator[jax.sharding.Mesh]:
  """Copies of the weights against shards of them; `tensor` is the user's."""
  tensor = max(1, config.mesh.tensor)
  if len(devices) % tensor:
    raise ValueError(
      f'Expected config.mesh.tensor to divide {len(devices)} devices, found '
      f'{tensor}.'
    )
  rest = len(devices) // tensor
  for fsdp in range(1, rest + 1):
    if rest % fsdp == 0:
      yield sharding.make_mesh(rest // fsdp, fsdp, tensor, devices=devices)


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


def _title(found: Mapping[str, Any]) -> str:
  what = found['stage'] if found['step'] == 'train' else 'decode'
  bits = f', {found["quantize"]}' if found['quantize'] else ''
  return (
    f'{what}, {found["mix"]}{bits}: rows of {found["length"]} on '
    f'{found["devices"]} x {found["chip"]} ({found["topology"]})'
  )


def _mesh(found: Mapping[str, Any]) -> str:
  return ' x '.join(f'{name} {size}' for name, size in found['mesh'].items())


def _row(found: Mapping[str, Any] | None) -> str:
  """A line of the table of a search; its head for None."""
  columns = '{:32}{:>6}{:>12}{:>10}{:>12}{:>6}'.format
  if found is None:
    return columns('mesh', 'rows', 'GiB a chip', 's/step', 'tokens/s', 'MFU')
  used = '' if found['used'] is None else f'{found["used"] / 2**30:.2f}'
  if not found['fits']:
    return columns(_mesh(found), found['rows'], used, 'too large', '', '')
  bound = found['bound']
  return columns(
    _mesh(found),
    found['rows'],
    used,
    f'{bound["seconds"]:.3f}',
    f'{bound["tokens_per_second"]:,.0f}',
    f'{bound["mfu"]:.0%}',
  )


# What the roofline does not know.
_ASSUMED = (
  'Every position is counted as if it were supervised, and everything as if '
  'it went on\nat once: short answers take less, chips that wait take more.'
)
_VERDICTS = {
  True: 'It fits.',
  False: 'It does not fit.',
  None: 'It is not known whether it fits: nobody tells what memory there is.',
}


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
  parts = f' in {found["parts"]} parts' if found['parts'] > 1 else ''
  yield f'{_title(found)}'
  yield f'{found["rows"]} rows{parts}; {_mesh(found)}\n'
  if 'cost' not in found:
    yield from _table(found['memory'])
    sizes = 'more' if found['used'] is None else f'{_size(found["used"])}'
    there = '' if found['limit'] is None else f' of {_size(found["limit"])}'
    yield f'It does not fit: it would take {sizes}{there} a chip.'
    return
  cost = found['cost']
  yield from _table(found['memory'])
  of = f' of {_size(found["limit"])}' if found['limit'] else ''
  yield f'in all          {_size(found["used"]):>14}{of}\n'
  yield f'products        {cost["flops"] / 1e12:>10.2f} TFLOP a chip and step'
  yield f'  of the model  {found["model_flops"] / 1e12:>10.2f} TFLOP'
  if cost['accessed'] is None:
    yield 'memory traffic   unknown: libtpu does not give its program back'
  else:
    yield f'memory traffic  {cost["accessed"] / 1e9:>10.2f} GB'
    yield f'intensity       {found["intensity"]:>10.1f} FLOP a byte of it' + (
      f'; {found["ridge"]:.1f} keep the chip busy' if found['ridge'] else ''
    )
  for kind, size in (cost['exchanged'] or {}).items():
    yield f'{kind:16}{size / 1e9:>10.2f} GB sent'
  if 'bound' in found:
    bound = found['bound']
    known = {x: bound[x] for x in plan.Bound._fields if bound[x] is not None}
    told = (
      f'{x} {known[x]:.3f}' if x in known else f'{x} unknown'
      for x in plan.Bound._fields
    )
    yield (
      f'\nAbout {bound["seconds"]:.3f} s a step at published speeds, which '
      f'waits for {max(known, key=known.get)} ({", ".join(told)}): MFU about '
      f'{bound["mfu"]:.0%}, {bound["tokens_per_second"]:,.0f} tokens/s.'
    )
    yield _ASSUMED
  yield _VERDICTS[found['fits']]


def _table(sizes: Mapping[str, int]) -> Iterator[str]:
  for i, (name, size) in enumerate(sizes.items()):
    yield f'{name:16}{_size(size):>14}{"" if i else " a chip"}'


def _size(size: float) -> str:
  if size < 2**27:
    return f'{size / 2**20:.2f} MiB'
  return f'{size / 2**30:.2f} GiB'
