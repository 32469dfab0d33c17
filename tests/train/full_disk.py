"""Fills the disk under runs of the toy, and starts them again with room.

`python full_disk.py FOLDER` prints what came of it as JSON. FOLDER is a small
file system of its own; see test_full_disk.py.
"""

import json
import pathlib
import sys
import time
import traceback

import numpy as np
import toy

from vimonet_jax import fingerprint, weight_files, weight_writer

STEPS = 120


def main(folder: pathlib.Path) -> dict:
  found = {'undisturbed': _train(folder / 'undisturbed', STEPS)}
  # Room for a few lines, not for a checkpoint.
  found['background'] = _twice(
    folder, at=30, leave=3 * 4096, checkpoint_steps=24
  )
  found['metrics'] = _twice(folder, at=30, checkpoint_steps=25)
  found['weights'] = _twice(
    folder, at=None, checkpoint_steps=24, evaluate=_fill_and_look(folder)
  )
  found['no run'] = _weights_alone(folder)
  return found


def _weights_alone(folder) -> dict:
  """As --task=convert writes them."""
  before, after = {'a': np.ones(3)}, {'b': np.arange(2.0**16)}
  weight_writer.save(str(folder / 'alone'), before)
  _fill(folder, 4096)
  try:
    weight_writer.save(str(folder / 'alone'), after)
    said = {'error': None}
  except Exception as error:
    said = {'error': type(error).__name__, 'text': str(error)}
  said['left'] = list(weight_files.load(str(folder / 'alone')))
  (folder / 'filler').unlink()
  weight_writer.save(str(folder / 'alone'), after)
  return said | {'in the end': list(weight_files.load(str(folder / 'alone')))}


def _twice(folder, *, at, leave=0, **options) -> dict:
  run = folder / 'run'
  try:
    _train(run, STEPS, data=_Filling(folder, at, leave), **options)
    said = {'error': None}
  except Exception as error:
    said = {'error': type(error).__name__, 'text': str(error)}
    # The first of all that were raised; closing the log fails as well.
    while error.__cause__ or error.__context__:
      error = error.__cause__ or error.__context__
    by = ''.join(traceback.format_exception(error))
    said['by'] = 'log' if 'train/log.py' in by else 'checkpoint'
  steps = [
    int(x.name) for x in (run / 'checkpoints').iterdir() if x.name.isdigit()
  ]
  (folder / 'filler').unlink()
  options.pop('evaluate', None)
  bits = _train(run, STEPS, **options)
  for path in sorted(run.rglob('*'), reverse=True):
    path.rmdir() if path.is_dir() else path.unlink()
  return {**said, 'steps': sorted(steps), 'bits': bits}


def _train(run, steps, **options) -> str:
  toy.train(run, steps, **options)
  flat = weight_files.load(str(run / 'weights'))
  return fingerprint.of(flat)


class _Filling:
  """The toy's batches; the disk is full before the one with number `at`."""

  def __init__(self, folder, at, leave):
    self._folder, self._at, self._leave = folder, at, leave

  def __iter__(self):
    iterator = iter(toy.dataset())
    give, calls = type(iterator).__next__, []
    folder, at, leave = self._folder, self._at, self._leave

    class Filling(type(iterator)):
      def __next__(self):
        calls.append(1)
        if len(calls) == at:
          # What is still being saved would be what fails.
          while list(folder.glob('run/checkpoints/*tmp*')):
            time.sleep(0.01)
          _fill(folder, leave)
        return give(self)

    iterator.__class__ = Filling
    return iterator


def _fill_and_look(folder):
  def evaluate(flat, mutable, step):
    del flat, mutable, step
    _fill(folder, 5 * 4096)  # For the log once more, not for weights.
    return {}

  return evaluate


def _fill(folder, leave=0) -> None:
  """Leaves some bytes."""
  with open(folder / 'filler', 'ab', buffering=0) as f:
    size = 4096
    while size:
      try:
        f.write(b'x' * size)
      except OSError:
        size //= 2
    f.truncate(f.tell() - leave)


if __name__ == '__main__':
  print(json.dumps(main(pathlib.Path(sys.argv[1]))))
