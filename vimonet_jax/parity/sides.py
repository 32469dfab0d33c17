"""Measures our networks against PyTorch on the same weights and batches.

Each side runs in processes of its own, one after the other (jax_side.py,
torch_side.py), because memory and threads of two frameworks in one process
cannot be told apart. Here they are started, and what they found is compared;
handout.py writes what they are given, report.py shows the result.
"""

import importlib.util
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from vimonet_jax.convert import mapping
from vimonet_jax.models import vimonet
from vimonet_jax.parity import handout, work_folder

SIDES = ('jax', 'torch')
PACKAGES = ('torch', 'transformers', 'peft', 'safetensors')
# Largest error, in standard deviations of what PyTorch has in that place.
TOLERANCES = {
  'motion': 1e-5,
  'video': 1e-4,
  'translators': 1e-4,
  'lora': 1e-5,
  'llm': 1e-4,
  'logits': 1e-4,
}
# Of the loss, relative, at every step; and of what was trained, at the end.
LOSS_TOLERANCE, WEIGHTS_TOLERANCE = 1e-4, 1e-3


def check_ready() -> None:
  """Raises a ValueError unless PyTorch's side can run here."""
  missing = [name for name in PACKAGES if not importlib.util.find_spec(name)]
  if missing:
    raise ValueError(
      f'Expected {", ".join(PACKAGES)} for --task=parity, found no '
      f'{", ".join(missing)}; install them with pip install '
      "'vimonet_jax[parity]'."
    )
  if not work_folder.RESTATEMENT.is_file():
    raise ValueError(
      f'Expected the PyTorch networks in {work_folder.RESTATEMENT}, found '
      'none; run --task=parity from a checkout (pip install -e .), for they '
      'are among the tests.'
    )


def measure(root: str) -> list[dict[str, Any]]:
  """Runs every job on both sides.

  Returns:
    For each process its job, side and seconds, and `others`: how many cores the
    rest of the machine kept busy meanwhile, None where that cannot be told.

  Raises:
    ValueError: a process failed; has the end of what it said.
  """
  stages = work_folder.Work(root).settings['stages']
  jobs = [(job, side) for job in (*work_folder.JOBS, *stages) for side in SIDES]
  found = []
  bar = tqdm.tqdm(jobs, dynamic_ncols=True)
  for job, side in bar:
    bar.set_description(f'parity: {job}, {side}')
    start, busy, own = time.monotonic(), _busy_s(), _children_s()
    done = subprocess.run(
      [
        sys.executable,
        '-m',
        f'vimonet_jax.parity.{side}_side',
        os.fspath(root),
        job,
      ],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    if done.returncode:
      raise ValueError(
        f'Expected the {side} side of parity to run {job}, found that it ended '
        f'with status {done.returncode}; the last it said:\n'
        f'{done.stdout[-3000:]}'
      )
    seconds, others = time.monotonic() - start, None
    if busy is not None:
      others = (_busy_s() - busy - (_children_s() - own)) / seconds
    found.append(
      {'job': job, 'side': side, 'seconds': seconds, 'others': others}
    )
  return found


def _children_s() -> float:
  """Seconds of all cores that processes started from here have taken."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def _busy_s() -> float | None:
  """Seconds that the cores of the machine have worked for anybody."""
  try:
    with open('/proc/stat', encoding='ascii') as f:
      user, nice, system, *_ = map(int, f.readline().split()[1:])
  except (OSError, ValueError):
    return None
  return (user + nice + system) / os.sysconf('SC_CLK_TCK')


def compare(root: str) -> dict[str, Any]:
  """What both sides found, put beside each other, as JSON can hold it.

  Returns:
    is_ok          whether every line that is held to a tolerance is within it
    lines          float32: name, error, spread, relative, tolerance, is_ok
    rounded        bfloat16: name, and rms distances in standard deviations
    greedy         prompts and tokens of each dtype, and how many agree
    training       stage -> losses, weights, times
    sides          jax, torch -> device, threads, memory
  """
  work = work_folder.Work(root)
  model = vimonet.Config.from_json(work.settings['model'])
  exact = _both(work, 'forward-float32')
  training = {
    name: _training(work, model, name) for name in work.settings['stages']
  }
  found = {
    'lines': [_line(name, *pair) for name, pair in exact.items()],
    'rounded': _rounded(exact, _both(work, 'forward-bfloat16')),
    'greedy': {dtype: _greedy(work, dtype) for dtype in work_folder.DTYPES},
    'training': training,
    'sides': {side: _side(work, side, training) for side in SIDES},
  }
  is_ok = all(line['is_ok'] for line in found['lines'])
  is_ok &= found['greedy']['float32']['is_ok']
  is_ok &= all(run['is_ok'] for run in training.values())
  return {'is_ok': bool(is_ok), **found}


def _both(
  work: work_folder.Work, name: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Name -> (ours, theirs), in the order of TOLERANCES."""
  ours, theirs = (work.read(side, name) for side in SIDES)
  if set(ours) != set(theirs) or (
    differ := [k for k in ours if ours[k].shape != theirs[k].shape]
  ):
    unlike = sorted(set(ours) ^ set(theirs)) or differ
    raise ValueError(
      f'Expected the same arrays of both sides in {name}, found '
      f'{", ".join(unlike[:5])} of one only or of two shapes.'
    )
  # In each part as a batch has passed them.
  order = list(TOLERANCES)
  names = sorted(ours, key=lambda name: order.index(name.split('/')[0]))
  return {name: (ours[name], theirs[name]) for name in names}


def _line(name: str, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
  if name == 'motion/codes':
    differ, tolerance = int((ours != theirs).sum()), 0
    return {
      'name': name,
      'count': ours.size,
      'error': differ,
      'spread': None,
      'relative': differ / ours.size,
      'tolerance': tolerance,
      'is_ok': differ <= tolerance,
    }
  error = float(np.abs(ours - theirs).max())
  spread = float(theirs.std())
  relative = error / spread if spread else float('inf')
  tolerance = TOLERANCES[name.split('/')[0]]
  return {
    'name': name,
    'count': ours.size,
    'error': error,
    'spread': spread,
    'relative': relative,
    'tolerance': tolerance,
    # Said so that a NaN is none.
    'is_ok': relative <= tolerance,
  }


def _rounded(exact, rounded) -> list[dict[str, Any]]:
  """How far bfloat16 takes each side from float32, and from the other."""

  def rms(x, y, spread):
    return float(np.sqrt(np.mean(np.square(x - y, dtype=np.float64))) / spread)

  found = []
  for name, (ours, theirs) in rounded.items():
    _, truth = exact[name]
    if name == 'motion/codes':
      # Shares that are another code.
      pairs = (ours, truth), (theirs, truth), (ours, theirs)
      values = [float((x != y).mean()) for x, y in pairs]
    else:
      spread = truth.std()
      pairs = (ours, truth), (theirs, truth), (ours, theirs)
      values = [rms(x, y, spread) for x, y in pairs]
    keys = ('jax', 'torch', 'apart')
    found.append({'name': name, **dict(zip(keys, values, strict=True))})
  return found


def _greedy(work: work_folder.Work, dtype: str) -> dict[str, Any]:
  both = _both_tokens(work, dtype)
  prompts, first = [], []
  for ours, theirs in both:
    width = min(ours.shape[1], theirs.shape[1])
    for a, b in zip(ours, theirs, strict=True):
      # Where one side stopped early, what is left of the other differs.
      same = a[:width] == b[:width]
      rest = a[width:].any() or b[width:].any()
      whole = bool(same.all() and not rest)
      prompts.append(whole)
      first.append(None if whole else int(np.argmin([*same, False])))
  ours = np.concatenate([a.ravel() for a, _ in both])
  return {
    'prompts': len(prompts),
    'agree': sum(prompts),
    'tokens': int((ours > 0).sum()),
    'different_tokens': len(np.unique(ours[ours > 0])),
    'first_difference': first,
    'is_ok': all(prompts),
  }


def _both_tokens(work, dtype) -> list[tuple[np.ndarray, np.ndarray]]:
  ours, theirs = (work.read(side, f'greedy-{dtype}') for side in SIDES)
  return [(ours[name], theirs[name]) for name in ours]


# --- Training ----------------------------------------------------------------


def _training(
  work: work_folder.Work, model: vimonet.Config, name: str
) -> dict[str, Any]:
  steps = {side: work.facts(side, name)['steps'] for side in SIDES}
  losses = {s: [line['loss'] for line in steps[s]] for s in SIDES}
  norms = {s: [line['grad_norm'] for line in steps[s]] for s in SIDES}
  relative, norm_relative = (
    [
      abs(a - b) / abs(b)
      for a, b in zip(found['jax'], found['torch'], strict=True)
    ]
    for found in (losses, norms)
  )
  weights = _weights(model, work.read('jax', name), work.read('torch', name))
  is_ok = all(x <= LOSS_TOLERANCE for x in relative)
  is_ok &= all(part['is_ok'] for part in weights)
  return {
    'is_ok': is_ok,
    'settings': work.settings['stages'][name],
    'losses': losses,
    'grad_norms': norms,
    'relative': relative,
    'grad_norm_relative': norm_relative,
    'weights': weights,
    'speed': {side: _speed(steps[side]) for side in SIDES},
  }


def _weights(
  model: vimonet.Config,
  ours: Mapping[str, np.ndarray],
  theirs: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
  """The largest differences of each part after training."""
  parts: dict[str, list] = {}
  for part, table in handout.tables(model).items():
    for row in table.rows:
      if row.ours[0] not in ours:
        continue
      for name, x in mapping.to_theirs(table, row, ours.__getitem__):
        y = theirs[f'{part}/{name}']
        error = float(np.abs(x - y).max())
        norm = np.linalg.norm(y.astype(np.float64).ravel())
        away = np.linalg.norm((x - y).astype(np.float64).ravel())
        parts.setdefault(part, []).append((error, float(away / norm), y.size))
  found = []
  for part, values in parts.items():
    error, relative = (max(v[i] for v in values) for i in (0, 1))
    found.append(
      {
        'name': part,
        'arrays': len(values),
        'count': sum(v[2] for v in values),
        'error': error,
        'relative': relative,
        'tolerance': WEIGHTS_TOLERANCE,
        'is_ok': error <= WEIGHTS_TOLERANCE and relative <= WEIGHTS_TOLERANCE,
      }
    )
  return found


def _speed(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Steps that compiled apart; tokens are all positions of a batch."""
  first = [line for line in steps if line['is_first']]
  warm = [line for line in steps if not line['is_first']] or steps
  # A mix's batches are of one size; what disturbed a step is left out.
  kinds = {line['kind'] for line in warm}
  typical = {
    kind: float(np.median([x['seconds'] for x in warm if x['kind'] == kind]))
    for kind in kinds
  }
  seconds = sum(typical[line['kind']] for line in warm)
  return {
    'step_s': float(np.median([line['seconds'] for line in warm])),
    'tokens_per_s': sum(line['positions'] for line in warm) / seconds,
    'first_steps': len(first),
    'first_s': sum(line['seconds'] for line in first),
  }


def _side(
  work: work_folder.Work, side: str, training: Mapping[str, Any]
) -> dict[str, Any]:
  forward, greedy = (work.facts(side, job) for job in work_folder.JOBS)
  memory = {name: work.facts(side, name) for name in training}
  decoding = {}
  for dtype in work_folder.DTYPES:
    times = greedy[dtype]['times']
    tokens = work.read('jax', f'greedy-{dtype}')
    count = sum(int((tokens[line['kind']] > 0).sum()) for line in times)
    decoding[dtype] = {
      'tokens_per_s': count / sum(line['seconds'] for line in times),
      'first_s': sum(line['first'] for line in times),
    }
  memory['greedy'] = greedy['float32']
  keys = ('before_mb', 'peak_mb', 'device_mb', 'buffers_mb')
  return {
    'device': forward['device'],
    'threads': forward['threads'],
    'decoding': decoding,
    'memory': {
      job: {key: facts[key] for key in keys if key in facts}
      for job, facts in memory.items()
    },
  }
