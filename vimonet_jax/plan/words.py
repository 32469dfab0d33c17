"""A plan as it is printed."""

from collections.abc import Iterator, Mapping
from typing import Any

from vimonet_jax.plan import cost


def title(found: Mapping[str, Any]) -> str:
  what = found['stage'] if found['step'] == 'train' else 'decode'
  bits = f', {found["quantize"]}' if found['quantize'] else ''
  return (
    f'{what}, {found["mix"]}{bits}: rows of {found["length"]} on '
    f'{found["devices"]} x {found["chip"]} ({found["topology"]})'
  )


def _mesh(found: Mapping[str, Any]) -> str:
  return ' x '.join(f'{name} {size}' for name, size in found['mesh'].items())


def row(found: Mapping[str, Any] | None) -> str:
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


def lines(found: Mapping[str, Any]) -> Iterator[str]:
  parts = f' in {found["parts"]} parts' if found['parts'] > 1 else ''
  yield f'{title(found)}'
  yield f'{found["rows"]} rows{parts}; {_mesh(found)}\n'
  if 'cost' not in found:
    yield from _table(found['memory'])
    sizes = 'more' if found['used'] is None else f'{_size(found["used"])}'
    there = '' if found['limit'] is None else f' of {_size(found["limit"])}'
    yield f'It does not fit: it would take {sizes}{there} a chip.'
    return
  step = found['cost']
  yield from _table(found['memory'])
  of = f' of {_size(found["limit"])}' if found['limit'] else ''
  yield f'in all          {_size(found["used"]):>14}{of}\n'
  yield f'products        {step["flops"] / 1e12:>10.2f} TFLOP a chip and step'
  yield f'  of the model  {found["model_flops"] / 1e12:>10.2f} TFLOP'
  if step['accessed'] is None:
    yield 'memory traffic   unknown: libtpu does not give its program back'
  else:
    yield f'memory traffic  {step["accessed"] / 1e9:>10.2f} GB'
    yield f'intensity       {found["intensity"]:>10.1f} FLOP a byte of it' + (
      f'; {found["ridge"]:.1f} keep the chip busy' if found['ridge'] else ''
    )
  for kind, size in (step['exchanged'] or {}).items():
    yield f'{kind:16}{size / 1e9:>10.2f} GB sent'
  if 'bound' in found:
    bound = found['bound']
    known = {x: bound[x] for x in cost.Bound._fields if bound[x] is not None}
    told = (
      f'{x} {known[x]:.3f}' if x in known else f'{x} unknown'
      for x in cost.Bound._fields
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
