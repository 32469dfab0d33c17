"""What a comparison is held to: a table of checks, and the verdict on it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from vimonet_jax.parity import sides

_WHAT = {
  'motion': 'motion VQ-VAE',
  'video': 'video tower',
  'translators': 'translators',
  'lora': 'projections with LoRA',
  'llm': 'decoder',
  'logits': 'logits',
}

Findings = Mapping[str, Any]


class Check(NamedTuple):
  """A line of the table."""

  what: str
  compared: str
  error: str
  tolerance: str
  is_ok: bool


def checks(findings: Findings) -> list[Check]:
  """The worst of each part, in the order in which a batch passes them."""
  return list(_checks(findings))


def _checks(findings: Findings) -> Iterator[Check]:
  lines = findings['lines']
  for group, what in _WHAT.items():
    some = [
      line
      for line in lines
      if line['name'].startswith(f'{group}/') and line['spread'] is not None
    ]
    if some:
      places = 'kinds of batches' if group == 'logits' else 'places'
      yield Check(
        what,
        f'{len(some)} {places}',
        f'{worst(line["relative"] for line in some):.1e}',
        f'{some[0]["tolerance"]:.0e}',
        all(line['is_ok'] for line in some),
      )
    for line in lines:
      if group == 'motion' and line['spread'] is None:
        yield Check(
          'motion codes',
          f'{line["count"]:,} codes',
          f'{line["error"]} differ',
          'none',
          line['is_ok'],
        )
  rounded = [x for x in findings['rounded'] if x['ratio'] is not None]
  yield Check(
    'bfloat16, from float32',
    f'{len(rounded)} places',
    f'{worst(line["ratio"] for line in rounded):.2f} of PyTorch\'s',
    f'{sides.ROUNDED_TOLERANCE:g}',
    all(line['is_ok'] for line in rounded),
  )
  greedy = findings['greedy']['float32']
  yield Check(
    'greedy answers',
    f'{greedy["prompts"]} prompts, {greedy["tokens"]:,} tokens',
    f'{greedy["prompts"] - greedy["agree"]} differ',
    'none',
    greedy['is_ok'],
  )
  for name, run in findings['training'].items():
    for what, key in (
      ('loss', 'relative'),
      ('gradient norm', 'grad_norm_relative'),
    ):
      largest = worst(run[key])
      yield Check(
        f'{name}: {what}',
        f'{len(run[key])} steps',
        f'{largest:.1e}',
        f'{sides.LOSS_TOLERANCE:.0e}',
        largest <= sides.LOSS_TOLERANCE,
      )
    for part in run['weights']:
      yield Check(
        f'{name}: trained {part["name"].replace("_", " ")}',
        f'{part["count"]:,} weights',
        f'{worst((part["error"], part["relative"])):.1e}',
        f'{part["tolerance"]:.0e}',
        part['is_ok'],
      )


def worst(values: Iterable[float]) -> float:
  """The largest; a NaN is larger than all."""
  return max(values, key=lambda x: float('inf') if x != x else x)


def verdict(findings: Findings) -> str:
  """One sentence."""
  found = checks(findings)
  if failed := [check for check in found if not check.is_ok]:
    names = ', '.join(check.what for check in failed)
    return f'{len(failed)} of {len(found)} checks fail: {names}.'
  logits = worst(
    line['relative']
    for line in findings['lines']
    if line['name'].startswith('logits/')
  )
  runs = findings['training']
  steps = ' and '.join(
    f'{len(run["relative"])} `{name}`' for name, run in runs.items()
  )
  losses = worst(x for run in runs.values() for x in run['relative'])
  return (
    f'All {len(found)} checks pass. In float32 the logits are within '
    f'{logits:.1e} of their spread, all '
    f'{findings["greedy"]["float32"]["prompts"]} greedy answers are the same '
    f'token by token, and over {steps} steps the losses are never more than '
    f'{losses:.1e} apart, relatively.'
  )


def text(findings: Findings) -> str:
  """The verdict and the table, for a terminal."""
  cells = [('float32', 'compared', 'largest error', 'tolerance', '')]
  cells += [
    (*check[:4], 'ok' if check.is_ok else 'FAILS') for check in checks(findings)
  ]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = [
    '  '.join(
      [
        row[0].ljust(widths[0]),
        *(x.rjust(w) for x, w in zip(row[1:4], widths[1:4], strict=True)),
        row[4],
      ]
    ).rstrip()
    for row in cells
  ]
  return '\n'.join([verdict(findings).replace('`', ''), '', *lines])
