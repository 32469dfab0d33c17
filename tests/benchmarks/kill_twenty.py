"""Kills a run of the toy at random moments, and compares what it ends with.

    python tests/benchmarks/kill_twenty.py --kills 20 --during-saves 6

prints a line for each kill, and at the end whether the parameters are those of
a run that was left alone, bit by bit. Of the kills, `--during-saves` wait for a
checkpoint that is being written; the others come at a random moment.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from vimonet_jax import weight_files

ROOT = pathlib.Path(__file__).parents[2]
_TOY = ROOT / 'tests' / 'train' / 'toy.py'
_PATIENCE_S = 120.0


def run(kills: int, during_saves: int, steps: int, seed: int) -> dict:
  """Starts and kills; returns figures, `is_same` among them."""
  draw = random.Random(seed)
  saves = {*draw.sample(range(kills), during_saves)}
  with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    _start(scratch, scratch / 'alone', steps).wait()
    tried, cut_saves, seen = 0, 0, []
    while tried < kills:
      process = _start(scratch, scratch / 'killed', steps)
      is_save = tried in saves
      if not _wait(process, scratch / 'killed', draw, is_save=is_save):
        break  # It ran to its end before it could be killed.
      process.send_signal(signal.SIGKILL)
      if process.wait() != -signal.SIGKILL:
        raise RuntimeError(f'The toy ended with {process.returncode} by itself')
      tried += 1
      left = _unfinished(scratch / 'killed') if is_save else []
      cut_saves += bool(left)
      seen.append(_newest(scratch / 'killed'))
      print(
        f'kill {tried}: newest checkpoint {seen[-1]}'
        + (f', {left[0]} was being written' if left else ''),
        flush=True,
      )
    if _start(scratch, scratch / 'killed', steps).wait():
      raise RuntimeError('The last start ended with an error')
    return {
      'kills': tried,
      'cut_saves': cut_saves,
      'steps_seen': seen,
      'is_same': _bits(scratch / 'killed') == _bits(scratch / 'alone'),
    }


def _start(scratch, folder, steps) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, _TOY, folder, str(steps)],
    env={
      **os.environ,
      'PYTHONPATH': f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}',
      # Else nearly all of the time would go to compiling the same again.
      'JAX_COMPILATION_CACHE_DIR': str(scratch / 'compiled'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    },
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )


def _wait(process, folder, draw, *, is_save: bool) -> bool:
  """Until the moment to kill; False where the run has ended by itself.

  Some of the random moments are counted from the start of the process, so that
  they come while it restores or compiles; the others from its first new step.
  """
  deadline = time.monotonic() + _PATIENCE_S
  before = _lines(folder)
  if not is_save and draw.random() < 0.3:
    time.sleep(draw.uniform(0.0, 6.0))
    return process.poll() is None
  while _lines(folder) <= before or (is_save and not _unfinished(folder)):
    if process.poll() is not None or time.monotonic() > deadline:
      return False
    time.sleep(0.001)
  if not is_save:
    time.sleep(draw.uniform(0.0, 0.5))
  return process.poll() is None


def _lines(folder) -> int:
  path = folder / 'metrics.jsonl'
  return path.read_bytes().count(b'\n') if path.exists() else 0


def _unfinished(folder) -> list[str]:
  return [x.name for x in (folder / 'checkpoints').glob('*tmp*')]


def _newest(folder) -> int:
  found = (folder / 'checkpoints').glob('*')
  return max((int(x.name) for x in found if x.name.isdigit()), default=0)


def _bits(folder) -> dict[str, bytes]:

  flat = weight_files.load(str(folder / 'weights'))
  return {path: x.tobytes() for path, x in flat.items()}


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--during-saves', type=int, default=6)
  parser.add_argument('--steps', type=int, default=600)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  began = time.monotonic()
  found = run(args.kills, args.during_saves, args.steps, args.seed)
  print(f'{found["kills"]} kills, {found["cut_saves"]} of them during a save')
  print('same bits' if found['is_same'] else 'OTHER BITS')
  print(f'{time.monotonic() - began:.0f} s')
  return int(not found['is_same'] or found['kills'] < args.kills)


if __name__ == '__main__':
  sys.path.insert(0, str(ROOT))
  sys.exit(main())
