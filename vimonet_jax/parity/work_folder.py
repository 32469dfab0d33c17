"""The folder in which both sides of a comparison find the same things.

    settings.json   sizes, stages, how many steps and tokens
    weights/        ours, as far as they were made for the comparison
    probe/          the adapters of everything but training
    torch/          the same weights as transformers, peft and the originals
                    have them
    batches/        of the forward pass, of every step, of the prompts
    jax-*  torch-*  what each side found

Nothing here needs JAX or PyTorch: a process of one side has none of the other's
memory and threads.
"""

import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

JOBS = ('forward', 'greedy')  # and the names of stages
DTYPES = ('float32', 'bfloat16')
# The networks of PyTorch's side that no package has.
RESTATEMENT = pathlib.Path(__file__).parents[2] / 'tests' / 'torch_models.py'
# Of a state that is compared; rows beyond it are left out evenly.
_MOST_NUMBERS = 4_000_000

Arrays = dict[str, np.ndarray]


class Work:
  """Reads and writes the folder.

  Attributes:
    root: the folder.
    settings: what handout.write has put into settings.json.
  """

  def __init__(self, root: str | os.PathLike):
    self.root = pathlib.Path(root)
    self.settings = read_json(self.root / 'settings.json')

  def batches(self, name: str) -> Iterator[tuple[str, Arrays]]:
    """Stem -> arrays of each batch of that name, in order."""
    for stem in self.stems(name):
      with np.load(self.root / 'batches' / name / f'{stem}.npz') as held:
        yield stem, dict(held)

  def stems(self, name: str) -> list[str]:
    """Of all batches of that name, in order."""
    return sorted(x.stem for x in (self.root / 'batches' / name).iterdir())

  def write(self, side: str, name: str, arrays: Mapping[str, Any]) -> None:
    """What a side found, as one file of float32 or integer arrays."""
    np.savez(self.root / f'{side}-{name}.npz', **arrays)

  def read(self, side: str, name: str) -> Arrays:
    with np.load(self.root / f'{side}-{name}.npz') as held:
      return dict(held)

  def write_facts(self, side: str, job: str, facts: Mapping[str, Any]) -> None:
    write_json(self.root / f'{side}-{job}.json', facts)

  def facts(self, side: str, job: str) -> dict[str, Any]:
    return read_json(self.root / f'{side}-{job}.json')


def read_json(path: str | os.PathLike) -> Any:
  with open(path, encoding='utf-8') as f:
    return json.load(f)


def write_json(path: str | os.PathLike, value: Any) -> None:
  with open(path, 'w', encoding='utf-8') as f:
    json.dump(value, f, indent=2)


def write_batch(folder: str | os.PathLike, stem: str, batch) -> None:
  os.makedirs(folder, exist_ok=True)
  np.savez(os.path.join(folder, f'{stem}.npz'), **batch)


# --- What both sides do alike ------------------------------------------------


def kind(batch: Mapping[str, Any]) -> str:
  """`motion`, `video`, `motion+video` or `text`."""
  media = {'motion': 'motion', 'frames': 'video'}
  return '+'.join(x for key, x in media.items() if key in batch) or 'text'


def thin(x: np.ndarray) -> np.ndarray:
  """[..., E] -> float32 [X, E] of evenly spaced rows, all if they are few."""
  x = np.asarray(x).reshape(-1, x.shape[-1])
  stride = -(-x.size // _MOST_NUMBERS)
  return np.ascontiguousarray(x[::stride], np.float32)


def clips(batch: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Motion clips [X, T, 263] and lengths [X], empty slots among them."""
  motion, length = batch['motion'], batch['motion_length']
  return motion.reshape(-1, *motion.shape[2:]), length.reshape(-1)


class Memory:
  """Resident memory of this process, MB; `before` is what it had at first.

  On Linux from /proc: the peak that getrusage knows begins with that of the
  process that started this one.
  """

  def __init__(self):
    self.before = self._read('VmRSS')

  def facts(self) -> dict[str, float]:
    """Before the model was there, and at most so far."""
    return {'before_mb': self.before, 'peak_mb': self._read('VmHWM')}

  def _read(self, field: str) -> float:
    try:
      with open('/proc/self/status', encoding='ascii') as f:
        lines = dict(line.split(':', 1) for line in f)
      return int(lines[field].split()[0]) / 1024
    except (OSError, KeyError):
      unit = 1 << 20 if sys.platform == 'darwin' else 1 << 10
      return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def shapes(batch: Mapping[str, Any]) -> tuple[tuple[str, tuple], ...]:
  """What decides whether a compiled step fits a batch."""
  return tuple(sorted((name, x.shape) for name, x in batch.items()))


def timed(call: Callable[..., Any], *args) -> tuple[Any, float]:
  """What a call gives, and its seconds; it has to wait for its device."""
  start = time.perf_counter()
  found = call(*args)
  return found, time.perf_counter() - start


class StepLog:
  """Losses, gradient norms and seconds of a training run."""

  def __init__(self):
    self._lines, self._seen = [], set()

  def add(self, batch, *, loss: float, grad_norm: float, seconds: float):
    """The first step of each shape is marked: it may have compiled."""
    self._lines.append(
      {
        'kind': kind(batch),
        'positions': int(batch['tokens'].size),
        'loss': loss,
        'grad_norm': grad_norm,
        'seconds': seconds,
        'is_first': shapes(batch) not in self._seen,
      }
    )
    self._seen.add(shapes(batch))

  def facts(self) -> list[dict[str, Any]]:
    return self._lines
