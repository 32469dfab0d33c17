"""What a stage's run writes about itself, and what it reads of it again.

    metrics.jsonl   a line a step: loss, metrics, seconds since the beginning
    tensorboard/    the same
    summary.json    the last thing to be written: who has it is finished
"""

import json
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import tensorboardX
import tqdm
from etils import epath

from vimonet_jax.train import step as step_lib

_METRICS, _SUMMARY = 'metrics.jsonl', 'summary.json'


def finished(root: epath.Path, steps: int) -> dict[str, Any] | None:
  """The summary of a run that took as many steps; None where there is none."""
  path = root / _SUMMARY
  if not path.exists():
    return None
  summary = json.loads(path.read_text())
  return summary if summary['steps'] >= steps else None


class Log:
  """metrics.jsonl, TensorBoard and the progress bar; one line for each step.

  Metrics are fetched when the next step has been started, so the accelerator
  never waits for the log.
  """

  def __init__(self, root, name, first, steps, progress):
    self._root = root
    self._first = first
    self._progress = progress
    self._bar_args = {'desc': name, 'initial': first, 'total': steps}
    self._pending = None
    self._last = {}

  def __enter__(self):
    self._writes = jax.process_index() == 0
    self._root.mkdir(parents=True, exist_ok=True)
    before = _keep_lines(self._root / _METRICS, self._first)
    if self._writes:
      self._file = open(self._root / _METRICS, 'a', buffering=1)
      self._board = tensorboardX.SummaryWriter(
        str(self._root / 'tensorboard'), purge_step=self._first + 1
      )
    self._bar = tqdm.tqdm(
      **self._bar_args,
      disable=not (self._progress and self._writes),
      dynamic_ncols=True,
      unit='step',
    )
    self._seconds_before = before.get('seconds', 0.0)
    self._last = before
    self._began = time.monotonic()
    return self

  def __exit__(self, *error):
    self._bar.close()
    if self._writes:
      self._file.close()
      self._board.close()

  def say(self, text: str) -> None:
    """One line above the progress bar."""
    if self._writes and self._progress:
      self._bar.write(text)
    logging.info(text)

  def later(self, step: int, metrics: step_lib.Metrics) -> None:
    """Takes a step's metrics and writes those of the step before."""
    pending, self._pending = self._pending, None
    if pending:
      self._write(*pending)
    self._pending = (step, metrics)

  def flush(self, extra: Mapping[str, float] | None = None) -> None:
    """Writes what is pending now, in one line with `extra`."""
    pending, self._pending = self._pending, None
    if pending:
      self._write(*pending, extra or {})

  def finish(self, **fields: Any) -> dict[str, Any]:
    """Writes summary.json, after all else is written, and returns it."""
    seconds = time.monotonic() - self._began
    seconds += self._seconds_before
    summary = fields | {
      'seconds': seconds,
      'rate': self._bar_args['total'] / seconds,
      'metrics': {
        name: value
        for name, value in self._last.items()
        if name not in ('step', 'seconds')
      },
    }
    write_atomically(self._root / _SUMMARY, json.dumps(summary, indent=2))
    return summary

  def _write(self, step: int, metrics: step_lib.Metrics, extra=None) -> None:
    line = {'step': step, 'loss': math.nan}
    for name, (total, count) in jax.device_get(dict(metrics)).items():
      # A metric of something that this batch has none of has no value.
      if count:
        line[name] = float(total) / float(count)
    line['seconds'] = round(
      self._seconds_before + time.monotonic() - self._began, 4
    )
    line |= extra or {}
    for name, value in line.items():
      if not math.isfinite(value):
        raise FloatingPointError(
          f'Expected finite metrics, found {name} = {value} at step {step}; '
          'the last checkpoint is from before: look at the batch of that step, '
          'or lower the learning rate, in another work folder.'
        )
    self._last = line
    if self._writes:
      self._file.write(json.dumps(line) + '\n')
      for name, value in line.items():
        if name != 'step':
          self._board.add_scalar(name, value, step)
      self._bar.set_postfix_str(f'loss {line["loss"]:.4f}', refresh=False)
      self._bar.update(step - self._bar.n)


def write_atomically(path: epath.Path, text: str) -> None:
  """Writes a file that is whole at any moment; only one process does."""
  if jax.process_index() == 0:
    part = path.with_suffix('.part')
    part.write_text(text)
    part.replace(path)


def _keep_lines(path: epath.Path, step: int) -> dict[str, float]:
  """Cuts a log back to the lines up to `step`; returns the last of them."""
  kept = []
  if path.exists():
    for text in path.read_text().splitlines():
      try:
        line = json.loads(text)
      except json.JSONDecodeError:
        break  # The end of a process that was killed while writing.
      if line['step'] <= step:
        kept.append(line)
    write_atomically(path, ''.join(json.dumps(line) + '\n' for line in kept))
  return kept[-1] if kept else {}
