"""What a comparison found, for people: parity.md, its pictures, parity.json."""

import datetime
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vimonet_jax.parity import plots, sides, verdicts

_PACKAGES = (
  'jax', 'jaxlib', 'flax', 'optax', 'torch', 'transformers', 'peft', 'numpy',
)  # fmt: skip
_SIDES = {'jax': 'JAX', 'torch': 'PyTorch'}

# Cores that others may keep busy before times are no longer trusted.
_DISTURBING = 0.2

Findings = Mapping[str, Any]


def write(folder: str, findings: Findings) -> str:
  """Writes parity.md, parity.json and pictures; returns the page's path.

  Args:
    folder: exists; files of an earlier comparison are replaced.
    findings: from sides.compare, with `about` from comparison.run.
  """
  findings = {**findings, 'machine': _machine()}
  pictures = {
    'errors.svg': plots.errors(findings['lines'], findings['rounded'])
  }
  for name, run in findings['training'].items():
    pictures[f'loss-{name}.svg'] = plots.losses(name, run, sides.LOSS_TOLERANCE)
  for name, svg in pictures.items():
    _write(os.path.join(folder, name), svg)
  _write(
    os.path.join(folder, 'parity.json'),
    json.dumps(_as_json(findings), indent=2, allow_nan=False) + '\n',
  )
  path = os.path.join(folder, 'parity.md')
  _write(path, '\n'.join(_page(findings)) + '\n')
  return path


def _write(path: str, words: str) -> None:
  with open(f'{path}.part', 'w', encoding='utf-8') as f:
    f.write(words)
  os.replace(f'{path}.part', path)


def _as_json(value: Any) -> Any:
  """JSON has no NaN and no infinity: they become words."""
  if isinstance(value, Mapping):
    return {key: _as_json(x) for key, x in value.items()}
  if isinstance(value, (list, tuple)):
    return [_as_json(x) for x in value]
  is_number = isinstance(value, float)
  return str(value) if is_number and not math.isfinite(value) else value


# --- The page ----------------------------------------------------------------


def _page(findings: Findings) -> Iterator[str]:
  about = findings['about']
  mark = '✅' if findings['is_ok'] else '❌'
  yield '# Parity with PyTorch\n'
  yield f'{mark} **{verdicts.verdict(findings)}**\n'
  yield from _table(('', ''), _about(findings), align='ll')
  yield '\n## What is held to a tolerance\n'
  yield (
    'Same weights, same batches, float32 on both sides unless said otherwise. '
    'An error is the largest of its kind anywhere, in standard deviations of '
    'what PyTorch has in that channel, or in the median channel where that is '
    'more; of a loss or a norm it is relative, and of trained weights the '
    'larger of the largest difference and of the relative distance of an '
    'array.\n'
  )
  rows = [
    (*check[:4], '✅' if check.is_ok else '❌')
    for check in verdicts.checks(findings)
  ]
  head = ('', 'compared', 'largest error', 'tolerance', '')
  yield from _table(head, rows, align='llrrc')
  yield '\n## Layer by layer\n'
  yield '![Errors of every place, float32 and bfloat16](errors.svg)\n'
  yield (
    'In bfloat16 nobody is right: what counts is that ours lies about as far '
    'from the float32 truth as PyTorch does, and at most '
    f'{sides.ROUNDED_TOLERANCE:g} times as far. How far they are from each '
    'other follows from that and is held to nothing. Dots on the lowest line '
    'are zero, or nearly; point at one to read its name.\n'
  )
  yield from _details('Every place, float32', _exact_table(findings))
  yield from _details('Every place, bfloat16', _rounded_table(findings))
  yield '\n## Greedy answers\n'
  yield from _greedy(findings)
  yield '\n## Training\n'
  for name, run in findings['training'].items():
    yield f'![Loss of {name} on both sides](loss-{name}.svg)\n'
    yield from _training(run)
  yield '\n## Speed and memory\n'
  yield from _speed(findings)
  yield '\n## How it was measured\n'
  for line in (*about['changes'], *_NOTES):
    yield f'- {line[0].upper()}{line[1:]}.'


_NOTES = (
  'each side ran alone, a process for each job, first ours and then PyTorch; '
  'with few cores anything else that runs beside them shows in the times',
  'decoder and adapters of PyTorch are transformers (eager attention, no '
  'torch.compile) and peft; tower, VQ-VAE and translators are a re-statement '
  'in PyTorch, tests/torch_models.py, which is itself tested against what the '
  "originals' code answers with small random weights",
  'products are taken at full precision (JAX `highest`, PyTorch without TF32)',
  'places inside the networks are what the real modules give, compiled with '
  'their loops unrolled; logits, answers and training run as they always do',
  'adapters do something outside training, where they begin with zero; they '
  'are not merged on either side; dropout is off',
  'a difference of exactly zero is no mistake: a CPU sums up to some 200 '
  'products in the same order on both sides',
  'norms and biases that were drawn are not ones and zeros, which would hide '
  'mistakes',
  'in bfloat16 PyTorch is all bfloat16, as `.to(torch.bfloat16)` makes it; '
  'ours keeps norms, softmax, rotary angles and translators in float32',
  'PyTorch reads motion clips of one length at a time, because the original '
  'knows no padding; ours reads all of them padded',
  'of an array beyond four million numbers evenly spaced rows are compared',
  'learning rates of each tensor, batches, prompts and the mask of the loss '
  'are made once, by our code, for both sides; what makes them, the tokenizer, '
  'accumulation of gradients and dropout are not compared here',
)


def _about(findings: Findings) -> Iterator[tuple[str, str]]:
  about, machine = findings['about'], findings['machine']
  yield 'weights', about['weights']
  sizes = about['sizes']['parameters'].items()
  yield 'parameters', ', '.join(f'{part} {count:,}' for part, count in sizes)
  yield 'machine', machine['name']
  yield (
    'devices',
    '; '.join(
      f'{words} on {side["device"]}, at most {side["threads"]} threads'
      for words, side in (
        (_SIDES[key], side) for key, side in findings['sides'].items()
      )
    ),
  )
  yield (
    'versions',
    ', '.join(f'{name} {value}' for name, value in machine['versions'].items()),
  )
  yield 'command', f'`{about["command"]}`'
  minutes, seconds = divmod(round(about['seconds']['all']), 60)
  yield 'time', f'{minutes} min {seconds:02d} s, {machine["date"]}'


def _table(head: Sequence[str], rows, *, align: str) -> Iterator[str]:
  marks = {'l': ':--', 'r': '--:', 'c': ':-:'}
  yield f'| {" | ".join(head)} |'
  yield f'|{"|".join(marks[a] for a in align)}|'
  for row in rows:
    yield f'| {" | ".join(row)} |'


def _details(summary: str, lines) -> Iterator[str]:
  yield f'<details><summary>{summary}</summary>\n'
  yield from lines
  yield '\n</details>\n'


def _exact_table(findings: Findings) -> Iterator[str]:
  rows = [
    (
      line['name'],
      f'{line["count"]:,}',
      f'{line["error"]:.1e}' if line['spread'] else str(line['error']),
      f'{line["spread"]:.3g}' if line['spread'] else '',
      f'{line["relative"]:.1e}',
      f'{line["tolerance"]:.0e}' if line['tolerance'] else '0',
      '✅' if line['is_ok'] else '❌',
    )
    for line in findings['lines']
  ]
  head = ('', 'numbers', 'largest error', 'std', 'error / std', 'tolerance', '')
  return _table(head, rows, align='lrrrrrc')


def _rounded_table(findings: Findings) -> Iterator[str]:
  rows = [
    (
      line['name'],
      *(f'{line[key]:.2e}' for key in ('jax', 'torch', 'apart')),
      '' if line['ratio'] is None else '✅' if line['is_ok'] else '❌',
    )
    for line in findings['rounded']
  ]
  head = ('rms / std', 'JAX from float32', 'PyTorch from float32', 'apart', '')
  yield from _table(head, rows, align='lrrrc')
  yield (
    '\n`motion/codes` is the share of codes that are others; as nearest of all '
    'they may tie, and are held to nothing.'
  )


def _greedy(findings: Findings) -> Iterator[str]:
  rows = []
  for dtype, found in findings['greedy'].items():
    first = sorted(x for x in found['first_difference'] if x is not None)
    where = ', '.join(str(x + 1) for x in first) or 'never'
    rows.append(
      (
        dtype,
        f'{found["agree"]} of {found["prompts"]}',
        f'{found["tokens"]:,} ({found["different_tokens"]} different ones)',
        where,
      )
    )
  head = ('', 'same answers', 'tokens', 'first other token of the rest')
  yield from _table(head, rows, align='lrrl')
  yield (
    '\nIn bfloat16 one token that nearly ties changes all that follow; these '
    'are held to nothing.'
  )


def _training(run: Mapping[str, Any]) -> Iterator[str]:
  settings = run['settings']
  rates = {}
  for name, rate in settings['rates'].items():
    rates.setdefault(f'{rate:g}', set()).add(name.split('/')[0])
  of_parts = [
    f'{rate} ({", ".join(sorted(parts)).replace("_", " ")})'
    for rate, parts in rates.items()
  ]
  yield (
    f'AdamW, betas {settings["betas"][0]:g} and {settings["betas"][1]:g}, '
    f'weight decay {settings["weight_decay"]:g}, learning rates '
    f'{" and ".join(of_parts)}, {settings["schedule"]} after '
    f'{settings["warmup_steps"]} steps of warm-up, gradients clipped to '
    f'{settings["clip"]:g}. From {run["losses"]["jax"][0]:.4f} to '
    f'{run["losses"]["jax"][-1]:.4f}; gradient norms at most '
    f'{verdicts.worst(run["grad_norm_relative"]):.1e} apart, relatively.\n'
  )


def _speed(findings: Findings) -> Iterator[str]:
  busy = [
    process
    for process in findings['about']['processes']
    if (process['others'] or 0.0) > _DISTURBING
  ]
  if busy:
    most = max(process['others'] for process in busy)
    jobs = ', '.join(dict.fromkeys(process['job'] for process in busy))
    yield (
      f'⚠️ **Not a quiet machine:** during {jobs} other processes kept up to '
      f'{most:.1f} of {os.cpu_count()} cores busy. Those times say little '
      'about either side; nothing above depends on them.\n'
    )
  ran, training = findings['sides'], findings['training']
  threads = {ran[side]['threads'] for side in _SIDES}
  if len(threads) > 1 and all('cpu' in side['device'] for side in ran.values()):
    yield (
      '⚠️ **Not the same threads:** see `devices` above; a variable such as '
      'OMP_NUM_THREADS holds one side back.\n'
    )
  rows = []

  def add(what, values, form):
    rows.append(
      (what, *('too few' if x is None else form.format(x) for x in values))
    )

  for name, run in training.items():
    speed = [run['speed'][side] for side in _SIDES]
    add(
      f'{name}: a step',
      [s['step_s'] and 1e3 * s['step_s'] for s in speed],
      '{:,.0f} ms',
    )
    add(
      f'{name}: tokens per second',
      [s['tokens_per_s'] for s in speed],
      '{:,.0f}',
    )
    add(
      f'{name}: first step of each of {speed[0]["first_steps"]} shapes, '
      'together',
      [s['first_s'] for s in speed],
      '{:.1f} s',
    )
  for dtype in findings['greedy']:
    decoding = [ran[side]['decoding'][dtype] for side in _SIDES]
    add(
      f'greedy, {dtype}: new tokens per second',
      [d['tokens_per_s'] for d in decoding],
      '{:,.0f}',
    )
  for job in ran['jax']['memory']:
    memory = [ran[side]['memory'][job] for side in _SIDES]
    on_device = all('device_mb' in m for m in memory)
    own = memory[0].get('buffers_mb')
    peaks = [
      (
        f'{job}: peak of the process',
        *(
          f'{m["before_mb"]:,.0f} + {m["peak_mb"] - m["before_mb"]:,.0f} MB'
          for m in memory
        ),
      )
    ]
    if on_device:
      on = (f'{m["device_mb"]:,.0f} MB' for m in memory)
      peaks.insert(0, (f'{job}: peak on the device', *on))
    if own is not None:  # Of the peak that comes first.
      row = f'{job}: of that, arrays of a step', f'{own:,.0f} MB', ''
      peaks.insert(1, row)
    rows += peaks
  yield from _table(('', *_SIDES.values()), rows, align='lrr')
  yield (
    '\nTraining in float32. Tokens are all positions of a batch, media and '
    'padding included; of an answer the new ones, prompts read in the same '
    'time. A step counts as the median of those with batches of its kind, so '
    'that the two rows agree; the first of each shape stays apart. Memory is '
    'what the process had before the model was there, plus what it had at most '
    'on top of that; ours compiles in between, which takes some of it.'
  )


def _machine() -> dict[str, Any]:
  cpu = platform.processor() or platform.machine()
  memory = ''
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as f:
      names = [line for line in f if line.startswith('model name')]
    cpu = names[0].split(':')[1].strip() if names else cpu
    size = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    memory = f', {size / 2**30:.0f} GB'
  except (OSError, ValueError):
    pass  # Not Linux; the rest of the name is there.
  versions = {'python': platform.python_version()}
  versions |= {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {
    'name': f'{cpu}, {os.cpu_count()} cores{memory}, {platform.system()}',
    'versions': versions,
    'date': datetime.date.today().isoformat(),
  }
