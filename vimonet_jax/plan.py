"""What a compiled step asks of the chips that it is compiled for.

XLA counts the body of a loop once, so floating-point operations are counted in
the program as JAX wrote it, and bytes between chips in the program as XLA wrote
it, both with every loop as often as it runs. Memory is XLA's own account.

Nothing here needs the chips: a program can be compiled for TPUs that nobody has
at hand (jax.experimental.topologies).
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.extend import core

_GIB = 2**30


class Chip(NamedTuple):
  """Published figures of what JAX calls a device.

  Attributes:
    name: what it is sold as.
    flops: per second, of bfloat16 products.
    memory: bytes.
    bandwidth: of that memory, bytes per second.
    links: to its neighbours, all together and one way, bytes per second; 0
      where it has none, or where there is one chip only.
  """

  name: str
  flops: float
  memory: float
  bandwidth: float
  links: float

  @property
  def ridge(self) -> float:
    """Operations a byte from which on it waits for compute, not memory."""
    return self.flops / self.bandwidth


# By jax.Device.device_kind: docs.cloud.google.com/tpu/docs/v5e and .../tpu7x
# (of v5p and v6e, too), read 2026-11-28. They give links in both directions
# together.
CHIPS = {
  'TPU v5 lite': Chip('TPU v5e', 197e12, 16 * _GIB, 819e9, 200e9),
  'TPU v5': Chip('TPU v5p', 459e12, 95 * _GIB, 2765e9, 600e9),
  'TPU v6 lite': Chip('TPU v6e', 918e12, 32 * _GIB, 1638e9, 400e9),
  # Two devices a chip.
  'TPU7x': Chip('half a TPU7x', 1153.5e12, 96 * _GIB, 3690e9, 300e9),
  # NVIDIA's data sheets of A100 (1758950 r4), H100 SXM, H200 SXM and L4, as
  # others quote them on 2026-11-29. Those of the last three give products of
  # sparse matrices, which are twice as many, and all give NVLink in both
  # directions together. Of their GB, 10^9 bytes, a device shows some more.
  'NVIDIA A100-SXM4-40GB': Chip('A100 40GB', 312e12, 40e9, 1555e9, 300e9),
  'NVIDIA A100-SXM4-80GB': Chip('A100 80GB', 312e12, 80e9, 2039e9, 300e9),
  'NVIDIA H100 80GB HBM3': Chip('H100', 989.5e12, 80e9, 3350e9, 450e9),
  'NVIDIA H200': Chip('H200', 989.5e12, 141e9, 4800e9, 450e9),
  'NVIDIA L4': Chip('L4', 121e12, 24e9, 300e9, 0.0),
}


class Cost(NamedTuple):
  """Of one step, per device.

  Attributes:
    flops: of matrix products and convolutions.
    arguments: bytes of what the step is given and gives back in their place.
    temporaries: bytes of what it keeps meanwhile, at most.
    code: bytes of the program.
    accessed: bytes between memory and compute units, loops counted.
    exchanged: kind of collective -> bytes sent per device. This and `accessed`
      are None where the compiler does not give its program back.
  """

  flops: float
  arguments: int
  temporaries: int
  code: int
  accessed: float | None
  exchanged: Mapping[str, float] | None

  @property
  def memory(self) -> int:
    """Bytes that a device must have."""
    return self.arguments + self.temporaries + self.code

  @property
  def intensity(self) -> float | None:
    """Operations a byte of memory traffic; None where that is not known."""
    return self.flops / self.accessed if self.accessed else None


def flops(jaxpr: core.ClosedJaxpr) -> float:
  """Operations of all products and convolutions, on all devices together.

  A multiplication and an addition are two. Of branches the dearest counts,
  whatever the data will choose; a loop whose length depends on data counts
  once.
  """
  return _flops(jaxpr.jaxpr)


def _flops(jaxpr) -> float:
  total = 0.0
  for eqn in jaxpr.eqns:
    name = eqn.primitive.name
    if name == 'dot_general':
      total += _dot_flops(eqn)
    elif name == 'conv_general_dilated':
      total += _conv_flops(eqn)
    elif name == 'cond':
      total += max(_flops(branch.jaxpr) for branch in eqn.params['branches'])
    else:
      times = _times(name, eqn.params)
      total += times * sum(map(_flops, _inside(eqn.params)))
  return total


def _times(name: str, params: Mapping[str, Any]) -> int:
  """How often what is inside an equation runs, on all devices together."""
  if name == 'scan':
    return params['length']
  if name == 'shard_map':
    return params['mesh'].size
  if name == 'pallas_call':
    return math.prod(params['grid_mapping'].grid) * _live_share(params)
  return 1


def _live_share(params: Mapping[str, Any]) -> float:
  """The share of a kernel's grid that computes anything.

  Splash attention, as models/attention.py calls it, has a causal mask in square
  blocks, and does nothing in those above the diagonal:

      x . .
      x x .   6 of 9, (n + 1) / 2n of n * n
      x x x
  """
  if not (params['name'] or '').startswith('splash_'):
    return 1
  blocks = params['grid_mapping'].grid[-1]
  return (blocks + 1) / (2 * blocks)


def _inside(params: Mapping[str, Any]) -> Iterator[Any]:
  """The jaxprs that an equation runs."""
  for value in params.values():
    for x in value if isinstance(value, (tuple, list)) else (value,):
      x = getattr(x, 'jaxpr', x)
      if hasattr(x, 'eqns'):
        yield x


def _dot_flops(eqn) -> float:
  (contracted, _), _ = eqn.params['dimension_numbers']
  depth = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
  return 2.0 * eqn.outvars[0].aval.size * depth


def _conv_flops(eqn) -> float:
  numbers = eqn.params['dimension_numbers']
  kernel = eqn.invars[1].aval.shape
  depth = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])
  return 2.0 * eqn.outvars[0].aval.size * depth


# --- Programs as XLA writes them ---------------------------------------------

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$')
_INSTRUCTION = re.compile(
  r'^\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$'
)
_DEVICES = re.compile(r'\b(?:replica_count|num_partitions)=(\d+)')
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\](?:\{([^}]*)\})?')
_CALLED = re.compile(
  r'(?:calls=|body=|to_apply=|called_computations=\{)%?([\w.-]+)'
)
_BRANCHES = re.compile(
  r'(?:branch_computations=\{([^}]*)\}|'
  r'true_computation=%?([\w.-]+), false_computation=%?([\w.-]+))'
)
_COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
)
# What is no work of its own.
_FREE = (
  'after-all',
  'async-start',
  'bitcast',
  'call',
  'conditional',
  'constant',
  'get-tuple-element',
  'iota',
  'opt-barrier',
  'parameter',
  'partition-id',
  'replica-id',
  'tuple',
  'while',
)


class _Instruction(NamedTuple):
  name: str
  shape: str  # As it stands there: of a tuple, all of it.
  op: str
  operands: str
  attributes: str


class _Program(NamedTuple):
  computations: dict[str, list[_Instruction]]
  entry: str
  devices: int  # That run it together.


class Traffic(NamedTuple):
  """Bytes that a program moves on one device, with every loop as it runs.

  Attributes:
    accessed: between memory and compute units.
    exchanged: kind of collective -> bytes that are sent.
  """

  accessed: float
  exchanged: dict[str, float]


def traffic(hlo: str) -> Traffic:
  """Reads a program of one device, as `compiled.as_text()` gives it.

  A fusion reads its operands and writes its output, and so does everything
  else; what the compiler keeps on the chip (memory space 1) costs nothing. Of
  branches the one with most traffic counts. Bytes of collectives are those of
  rings, which every device sends once around.
  """
  program = _program(hlo)
  known: dict[str, Traffic] = {}

  def of(name: str) -> Traffic:
    if name not in known:
      known[name] = _traffic_of(program.computations[name], program, of)
    return known[name]

  return of(program.entry)


def _program(hlo: str) -> _Program:
  found, entry, current = {}, '', None
  for line in hlo.splitlines():
    if head := _COMPUTATION.match(line):
      current = found.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
    elif current is not None and (made := _INSTRUCTION.match(line)):
      current.append(_Instruction(*made.groups()[:3], *_until_closed(made[4])))
  if not entry:
    raise ValueError('Expected the text of a compiled program, found no ENTRY.')
  devices = _DEVICES.findall(hlo.partition('\n')[0])
  return _Program(found, entry, math.prod(map(int, devices)))


def _until_closed(text: str) -> tuple[str, str]:
  """What the bracket that was opened before holds, and what follows it.

  Of `f32[8]{0:T(128)} %x), to_apply=%add`, cut at the second `)`.
  """
  depth = 1
  for bracket in re.finditer('[()]', text):
    depth += 1 if bracket[0] == '(' else -1
    if not depth:
      return text[: bracket.start()], text[bracket.end() :]
  return text, ''


def _traffic_of(instructions, program: _Program, of) -> Traffic:
  computations = program.computations
  shapes = {x.name: x.shape for x in instructions}
  accessed, exchanged = 0.0, {}

  def add(more: Traffic, times: float = 1) -> None:
    nonlocal accessed
    accessed += times * more.accessed
    for kind, size in more.exchanged.items():
      exchanged[kind] = exchanged.get(kind, 0.0) + times * size

  for x in instructions:
    if x.op.endswith(('-done', '-update')):
      continue  # It was counted at its start, whose computation it names too.
    kind = x.op.removesuffix('-start')
    if kind in _COLLECTIVES:
      add(Traffic(0.0, {kind: _sent(kind, x, shapes, program.devices)}))
    elif x.op == 'while':
      add(of(_CALLED.search(x.attributes)[1]), _trips(x, computations))
    elif x.op == 'conditional':
      found = _BRANCHES.findall(x.attributes)
      names = [name for match in found for name in match]
      names = [y.strip(' %') for name in names for y in name.split(',')]
      add(max((of(y) for y in names if y), key=lambda y: y.accessed))
    elif called := _CALLED.search(x.attributes):
      inside = of(called[1])
      # A fusion's own reading and writing is that of its operands.
      is_whole = x.op in ('call', 'async-start')
      add(inside if is_whole else inside._replace(accessed=0.0))
    if x.op not in _FREE:
      accessed += _touched(x, shapes, computations)
  return Traffic(accessed, exchanged)


def _operands(x: _Instruction) -> list[str]:
  return re.findall(r'%([\w.-]+)', x.operands)


def _touched(x: _Instruction, shapes, computations) -> float:
  """Bytes that an instruction reads and writes; of slices only the slice."""
  operands = _operands(x)
  read = [_bytes(shapes.get(y, '')) for y in operands]
  if x.op in ('dynamic-slice', 'slice', 'gather'):
    return 2 * _bytes(x.shape)
  if x.op == 'dynamic-update-slice':
    return 2 * read[1]
  written = _bytes(x.shape)
  if x.op == 'slice-start':  # ((operand), slice, context)
    part = _ARRAY.findall(x.shape)[-2]
    return _bytes(f'{part[0]}[{part[1]}]') + written - sum(read)
  if x.op.endswith('-start'):
    return written  # What it reads is repeated in what it gives.
  if x.op == 'fusion':
    called = _CALLED.search(x.attributes)[1]
    read, written = _fused(called, computations, read, written)
  return written + sum(read)


def _fused(name: str, computations, read: list[float], written: float):
  """What a fusion reads and writes of its operands and its output.

  A scan reads a layer of each stack, and writes one, within the fusions of its
  body: the whole stack stands there as operand or output.
  """
  inside = computations[name]
  sizes = {x.name: _bytes(x.shape, everywhere=True) for x in inside}
  read = list(read)
  for x in inside:
    if x.op == 'parameter':
      number = int(x.operands)
      read[number] *= _share_read(x.name, name, computations, 1.0)
  updates = [x for x in inside if x.op == 'dynamic-update-slice']
  if updates and sizes[updates[-1].name] == sizes[inside[-1].name]:
    written = min(written, sizes.get(_operands(updates[-1])[1], written))
  return read, written


# What has the same elements as its operand.
_SAME = ('bitcast', 'convert', 'copy', 'reshape', 'transpose')


def _share_read(value: str, name: str, computations, of_root: float) -> float:
  """The share of a value that the output of its computation depends on.

  Args:
    value: an instruction.
    name: of its computation, which is a fusion's.
    computations: all of them.
    of_root: the share of the computation's output that somebody reads.
  """
  inside = computations[name]
  sizes = {x.name: _bytes(x.shape, everywhere=True) for x in inside}
  users = [x for x in inside if value in _operands(x)]
  share = of_root if inside[-1].name == value else 0.0
  for x in users:
    operands = _operands(x)
    if x.op == 'dynamic-slice' and operands[0] == value:
      share += sizes[x.name] / sizes[value] if sizes[value] else 1.0
    elif x.op == 'dynamic-update-slice' and operands[0] == value:
      pass  # It stays where it is.
    elif x.op in _SAME:
      share += _share_read(x.name, name, computations, of_root)
    elif x.op == 'fusion':
      called = _CALLED.search(x.attributes)[1]
      of_output = _share_read(x.name, name, computations, of_root)
      parameters = {
        int(y.operands): y.name
        for y in computations[called]
        if y.op == 'parameter'
      }
      share += sum(
        _share_read(parameters[i], called, computations, of_output)
        for i, operand in enumerate(operands)
        if operand == value
      )
    else:
      return 1.0
  return min(share, 1.0)


def _bytes(shape: str, *, everywhere: bool = False) -> float:
  """Bytes of an array or tuple; of those in main memory unless `everywhere`."""
  total = 0.0
  for dtype, sizes, layout in _ARRAY.findall(shape):
    if 'S(' in layout and not everywhere:
      continue
    bits = re.search(r'\d+', dtype)
    number = math.prod(int(size) for size in sizes.split(',') if size)
    total += number * (int(bits[0]) if bits else 8) / 8
  return total


def _trips(loop: _Instruction, computations) -> int:
  """How often a loop runs; 1 where only its data know."""
  if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
    return int(known[1])
  condition = re.search(r'condition=%?([\w.-]+)', loop.attributes)[1]
  bounds = [
    int(x.operands)
    for x in computations[condition]
    if x.op == 'constant' and re.match(r'[su](32|64)\[\]', x.shape)
  ]
  return max(bounds, default=1)


def _sent(
  kind: str, x: _Instruction, shapes: Mapping[str, str], devices: int
) -> float:
  given = sum(_bytes(shapes.get(y, ''), everywhere=True) for y in _operands(x))
  if kind == 'collective-permute':
    return given
  count = _group(x.attributes, devices)
  if count < 2:
    return 0.0
  share = (count - 1) / count
  return given * {
    'all-gather': count * share,  # Every device's part passes by.
    'all-reduce': 2 * share,
  }.get(kind, share)


def _group(attributes: str, devices: int) -> int:
  """How many of all `devices` exchange with each other."""
  told = attributes.partition('replica_groups=')[2]
  if not told or told.startswith('{}'):
    return devices
  if listed := re.match(r'\{\{([\d,]+)\}', told):
    return len(listed[1].split(','))
  if tiled := re.match(r'\[\d+,(\d+)\]<=', told):
    return int(tiled[1])
  if mesh := re.match(r'mesh\[([^\]]*)\][^{]*\{([^}]*)\}', told):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    # An axis, or a part of one: 'a':(2)4.
    axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  raise ValueError(
    f'Expected replica_groups as XLA writes them, found {told[:60]!r}; teach '
    'plan._group to read them.'
  )


# --- Verdicts ----------------------------------------------------------------


def cost(traced: Any, compiled: Any, devices: int) -> Cost:
  """What a step costs on each of its devices.

  Args:
    traced: from jax.jit(step).trace(...).
    compiled: of the same.
    devices: that it is compiled for.
  """
  memory = compiled.memory_analysis()
  try:
    moved = traffic(compiled.as_text())
  except jax.errors.JaxRuntimeError as error:
    # libtpu 0.0.52 cannot write what it has made for a v5p or a v6e.
    if 'RET_CHECK' not in str(error):
      raise
    moved = Traffic(None, None)
  return Cost(
    flops=flops(traced.jaxpr) / devices,
    arguments=memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    accessed=moved.accessed,
    exchanged=moved.exchanged,
  )


class Bound(NamedTuple):
  """Seconds that a step takes at published speeds, by what it waits for.

  Attributes:
    compute: for matrix products.
    memory: for memory traffic; None where that is not known.
    links: for other chips; None where what goes there, or how fast, is not
      known.
  """

  compute: float
  memory: float | None
  links: float | None

  @property
  def seconds(self) -> float:
    """If all that is known went on at once."""
    return max(x for x in self if x is not None)


def bound(cost: Cost, chip: Chip) -> Bound:
  """The roofline of a step on a chip."""
  memory = links = None
  if cost.accessed is not None:
    memory = cost.accessed / chip.bandwidth
  if cost.exchanged is not None:
    sent = sum(cost.exchanged.values())
    if chip.links or not sent:
      links = sent / chip.links if sent else 0.0
  return Bound(cost.flops / chip.flops, memory, links)
