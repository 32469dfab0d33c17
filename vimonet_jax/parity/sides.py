"""Measures our networks against PyTorch on the same weights and batches.

Each side runs in processes of its own, one after the other (jax_side.py,
torch_side.py), because memory and threads of two frameworks in one process
cannot be told apart. Here they are started, and what they found is compared;
handout.py writes what they are given, report.py shows the result.
"""

import importlib.util
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
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
# Of loss and gradient norm, relative, at every step; of what was trained, at
# the end.
LOSS_TOLERANCE, WEIGHTS_TOLERANCE = 1e-4, 1e-3
# How many times as far from float32 as PyTorch's bfloat16 ours may be.
ROUNDED_TOLERANCE = 2.0
# What rounding once to bfloat16 does, as a share; nobody is held to less.
_ROUNDED_ONCE = 1e-3
# Of a process that is asked to end.
_PATIENCE_S = 10


def check_ready() -> None:
  """Raises a ValueError unless PyTorch's side can run here."""
  missing = [name for name in PACKAGES if not importlib.util.find_spec(name)]
  if missing:
    raise ValueError(
      f'Expected {", ".join(PACKAGES)} for --task=parity, found no '
      f'{", ".join(missing)}; install them with pip install '
      "-e '.[parity]'."
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
    status, said = _run(f'vimonet_jax.parity.{side}_side', os.fspath(root), job)
    if status:
      raise ValueError(
        f'Expected the {side} side of parity to run {job}, found that it ended '
        f'with status {status}; the last it said:\n{said[-3000:]}'
      )
    seconds, others = time.monotonic() - start, None
    if busy is not None:
      others = (_busy_s() - busy - (_children_s() - own)) / seconds
    found.append(
      {'job': job, 'side': side, 'seconds': seconds, 'others': others}
    )
  return found


def _run(module: str, *args: str) -> tuple[int, str]:
  """Status and output of a process that ends with this one."""

  def end(number, frame):
    raise SystemExit(128 + number)

  process = subprocess.Popen(
    [sys.executable, '-m', module, *args],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  # Only the main thread may say what a signal does.
  is_main = threading.current_thread() is threading.main_thread()
  before = signal.signal(signal.SIGTERM, end) if is_main else None
  try:
    said, _ = process.communicate()
  finally:
    if process.poll() is None:
      process.terminate()
      try:
        process.wait(_PATIENCE_S)
      except subprocess.TimeoutExpired:
        process.kill()
    if is_main:
      signal.signal(signal.SIGTERM, before)
  return process.returncode, said


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
  """What both sides found, put beside each other; verdicts.py judges it.

  Returns:
    lines          float32: name, error, spread, relative, tolerance, is_ok
    rounded        bfloat16: name, rms distances in standard deviations, is_ok
    greedy         prompts and tokens of each dtype, and how many agree
    training       stage -> losses, weights, times
    sides          jax, torch -> device, threads, memory

  Raises:
    ValueError: a side has not found all that it should have.
  """
  work = work_folder.Work(root)
  model = vimonet.Config.from_json(work.settings['model'])
  exact = _both(work, 'forward-float32')
  if missing := sorted(_places(work, model) - set(exact)):
    raise ValueError(
      f'Expected all places of both sides, found no {", ".join(missing[:5])}; '
      'a side no longer writes what is compared.'
    )
  training = {
    name: _training(work, model, name) for name in work.settings['stages']
  }
  return {
    'lines': [_line(name, *pair) for name, pair in exact.items()],
    'rounded': _rounded(exact, _both(work, 'forward-bfloat16')),
    'greedy': {dtype: _greedy(work, dtype) for dtype in work_folder.DTYPES},
    'training': training,
    'sides': {side: _side(work, side, training) for side in SIDES},
  }


def _places(work: work_folder.Work, model: vimonet.Config) -> set[str]:
  """What must have been looked at, from what was given."""
  kinds = [work_folder.kind(batch) for _, batch in work.batches('forward')]
  media = {medium for kind in kinds for medium in kind.split('+')}
  names = {'llm/input', 'llm/norm', 'llm/norm of faint inputs'}
  names |= {f'logits/{kind}' for kind in kinds}
  for part, layers in (
    ('llm', model.llm.layers),
    ('video', model.video.layers),
  ):
    if part == 'llm' or part in media:
      names |= {f'{part}/block {i:02d}' for i in range(1, layers + 1)}
  if 'video' in media:
    names |= {'video/embed', 'video/norm of faint inputs', 'translators/video'}
  if 'motion' in media:
    ends = 'encoder/in', 'encoder/out', 'decoder/in', 'decoder/out', 'codes'
    names |= {'translators/motion', *(f'motion/{end}' for end in ends)}
  if work.settings['has_adapter']:
    names |= {f'lora/{target}' for target in model.llm.lora.targets}
  return names


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
  ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
  with np.errstate(all='ignore'):  # What is not finite fails.
    spread_E = np.sqrt(np.square(theirs - theirs.mean()).mean(axis=0))
    # Some channels of a language model are a thousand times as loud as others:
    # they must not speak for those, nor these judge them.
    spread = float(np.median(spread_E))
    away_E = np.abs(ours - theirs).max(axis=0)
    relative = float(np.max(away_E / np.maximum(spread_E, spread)))
  tolerance = TOLERANCES[name.split('/')[0]]
  return {
    'name': name,
    'count': ours.size,
    'error': float(away_E.max()),
    'spread': spread,
    'relative': relative,
    'tolerance': tolerance,
    # Said so that a NaN is none.
    'is_ok': relative <= tolerance,
  }


def _rounded(exact, rounded) -> list[dict[str, Any]]:
  """How far bfloat16 takes each side from float32, and from the other."""

  def rms(x, y, spread):
    with np.errstate(all='ignore'):  # What is not finite fails.
      mean = np.mean(np.square(x - y, dtype=np.float64))
    return float(np.sqrt(mean) / spread)

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
    jax, torch, apart = values
    # Codes are nearest of all and may tie: they are held to nothing.
    ratio = None
    if name != 'motion/codes':
      # Beside an infinity everything would look near.
      ratio = jax / max(torch, _ROUNDED_ONCE) if torch < np.inf else np.nan
    found.append(
      {
        'name': name,
        'jax': jax,
        'torch': torch,
        'apart': apart,
        'ratio': ratio,
        'is_ok': ratio is None or ratio <= ROUNDED_TOLERANCE,
      }
    )
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
    'is_ok': bool(prompts) and all(prompts) and bool((ours > 0).any()),
  }


def _both_tokens(work, dtype) -> list[tuple[np.ndarray, np.ndarray]]:
  ours, theirs = (work.read(side, f'greedy-{dtype}') for side in SIDES)
  asked = set(work.stems('prompts'))
  if unlike := sorted((asked ^ set(ours)) | (asked ^ set(theirs))):
    raise ValueError(
      'Expected answers of both sides to the same prompts, found it otherwise '
      f'for {", ".join(unlike)}.'
    )
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
  settings = work.settings['stages'][name]
  if {len(line) for line in steps.values()} != {settings['steps']}:
    raise ValueError(
      f'Expected {settings["steps"]} steps of {name} on both sides, found '
      f'{" and ".join(str(len(line)) for line in steps.values())}.'
    )
  weights = _weights(
    model, settings['rates'], work.read('jax', name), work.read('torch', name)
  )
  return {
    'settings': settings,
    'losses': losses,
    'grad_norms': norms,
    'relative': relative,
    'grad_norm_relative': norm_relative,
    'weights': weights,
    'speed': {side: _speed(steps[side]) for side in SIDES},
  }


def _weights(
  model: vimonet.Config,
  wanted: Iterable[str],
  ours: Mapping[str, np.ndarray],
  theirs: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
  """The largest differences of each part after training."""
  mine = {
    f'{part}/{name}': x
    for part, table in handout.tables(model).items()
    for row in table.rows
    if row.ours[0] in ours
    for name, x in mapping.to_theirs(table, row, ours.__getitem__)
  }
  if differ := sorted((set(wanted) ^ set(mine)) | (set(wanted) ^ set(theirs))):
    raise ValueError(
      f'Expected all trained weights of both sides, found {len(differ)} not '
      f'everywhere, such as {differ[0]}.'
    )
  parts: dict[str, list] = {}
  for name, x in mine.items():
    y = theirs[name].astype(np.float64)
    away = np.abs(x - y)
    norms = np.linalg.norm(away.ravel()), np.linalg.norm(y.ravel())
    parts.setdefault(name.split('/')[0], []).append(
      (away.max(), np.divide(*norms), y.size)
    )
  found = []
  for part, values in parts.items():
    # np.max keeps a NaN, where max may lose it.
    error, relative = (float(np.max([v[i] for v in values])) for i in (0, 1))
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
  warm = [line for line in steps if not line['is_first']]
  # The median of each mix, whose batches are of one size, leaves out what was
  # disturbed; one of all steps would be that of the commonest mix.
  kinds = {line['kind'] for line in warm}
  typical = {
    kind: float(np.median([x['seconds'] for x in warm if x['kind'] == kind]))
    for kind in kinds
  }
  seconds = sum(typical[line['kind']] for line in warm)
  return {
    'step_s': seconds / len(warm) if warm else None,
    'tokens_per_s': (
      sum(line['positions'] for line in warm) / seconds if warm else None
    ),
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
    tokens = work.read(side, f'greedy-{dtype}')
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
