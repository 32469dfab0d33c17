"""Bytes that a program moves, as XLA wrote it: in memory, and between chips.

XLA's own account counts the body of a loop once; here every loop counts as
often as it runs.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

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


def of(hlo: str) -> Traffic:
  """Reads a program of one device, as `compiled.as_text()` gives it.

  A fusion reads its operands and writes its output, and so does everything
  else; what the compiler keeps on the chip (memory space 1) costs nothing. Of
  branches the one with most traffic counts. Bytes of collectives are those of
  rings, which every device sends once around.
  """
  program = _program(hlo)
  known: dict[str, Traffic] = {}

  def inside(name: str) -> Traffic:
    if name not in known:
      known[name] = _traffic_of(program.computations[name], program, inside)
    return known[name]

  return inside(program.entry)


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


def _traffic_of(instructions, program: _Program, inside) -> Traffic:
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
      add(inside(_CALLED.search(x.attributes)[1]), _trips(x, computations))
    elif x.op == 'conditional':
      found = _BRANCHES.findall(x.attributes)
      names = [name for match in found for name in match]
      names = [y.strip(' %') for name in names for y in name.split(',')]
      add(max((inside(y) for y in names if y), key=lambda y: y.accessed))
    elif called := _CALLED.search(x.attributes):
      moved = inside(called[1])
      # A fusion's own reading and writing is that of its operands.
      is_whole = x.op in ('call', 'async-start')
      add(moved if is_whole else moved._replace(accessed=0.0))
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
    'traffic._group to read them.'
  )
