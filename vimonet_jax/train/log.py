"""What a stage's run writes about itself, and what it reads of it again.

    metrics.jsonl   a line a step: loss, metrics, seconds since the beginning
    tensorboard/    the same
    summary.json    the last thing to be written: who has it is finished
    not_finite-<process>.json
                    only where numbers were not finite: step, metrics, and of
                    a training step the ids of the records in each row of that
                    process's batch
"""

import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import tqdm
from etils import epath
from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2

from vimonet_jax import cluster
from vimonet_jax.train import step as step_lib

_METRICS, _SUMMARY = 'metrics.jsonl', 'summary.json'
_EVAL = 'eval/'


def finished(root: epath.Path, steps: int) -> dict[str, Any] | None:
  """The summary of a run that took as many steps; None where there is none."""
  path = root / _SUMMARY
  if not path.exists():
    return None
  try:
    summary = json.loads(path.read_text())
    return summary if summary['steps'] >= steps else None
  except (ValueError, KeyError, TypeError):
    # The last checkpoint is there, and says the same again.
    logging.warning('%s is damaged and will be written anew.', path)
    return None


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
    self._writes = cluster.is_first()
    self._root.mkdir(parents=True, exist_ok=True)
    lines = _lines_until(self._root / _METRICS, self._first)
    _write_lines(self._root / _METRICS, lines)
    before = lines[-1] if lines else {}
    if self._writes:
      self._file = self._open()
      self._board = _Board(self._root / 'tensorboard', self._first)
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

  def later(
    self, step: int, metrics: step_lib.Metrics, ids: Sequence[str] = ()
  ) -> None:
    """Takes a step's metrics and writes those of the step before.

    Args:
      step: number.
      metrics: of it, still on their way.
      ids: of the records in each row of this process's batch, one a line.
    """
    pending, self._pending = self._pending, None
    if pending:
      self._write(*pending)
    self._pending = (step, metrics, ids)

  def flush(self) -> None:
    """Writes what is pending now; a checkpoint must not outlive its lines."""
    pending, self._pending = self._pending, None
    if pending:
      self._write(*pending)
    if self._writes:
      os.fsync(self._file.fileno())

  def is_evaluated(self, step: int) -> bool:
    """Whether the last line is of this step and has what was evaluated."""
    return self._last.get('step') == step and any(
      name.startswith(_EVAL) for name in self._last
    )

  def amend(self, step: int, found: Mapping[str, float]) -> None:
    """Adds to the last line what an evaluation after its step found."""
    # A log that is lost, or ends earlier, gets a line of its own for it.
    line = self._last if self._last.get('step') == step else {'step': step}
    line = line | {_EVAL + name: x for name, x in found.items()}
    self._check(line)
    self._last = line
    if self._writes:
      path = self._root / _METRICS
      # At once: who is killed in between must not lose the step's line.
      _write_lines(path, [*_lines_until(path, step - 1), line])
      self._file.close()
      self._file = self._open()
      self._board.add(step, {_EVAL + k: x for k, x in found.items()})

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

  def _write(
    self, step: int, metrics: step_lib.Metrics, ids: Sequence[str]
  ) -> None:
    line = {'step': step, 'loss': math.nan}
    for name, (total, count) in jax.device_get(dict(metrics)).items():
      # A metric of something that this batch has none of has no value.
      if count:
        line[name] = float(total) / float(count)
    line['seconds'] = round(
      self._seconds_before + time.monotonic() - self._began, 4
    )
    self._check(line, ids)
    self._last = line
    if self._writes:
      self._file.write(json.dumps(line) + '\n')
      self._board.add(step, {k: x for k, x in line.items() if k != 'step'})
      self._bar.set_postfix_str(f'loss {line["loss"]:.4f}', refresh=False)
      self._bar.update(step - self._bar.n)


  def _open(self):
    return open(self._root / _METRICS, 'a', buffering=1)

  def _check(self, line: Mapping[str, float], ids: Sequence[str] = ()) -> None:
    """Stops at numbers that are not finite, and says what they were made of."""
    bad = [name for name, value in line.items() if not math.isfinite(value)]
    if not bad:
      return
    path = self._root / f'not_finite-{jax.process_index()}.json'
    found = {
      'step': line['step'],
      # JSON has no word for them.
      'metrics': {k: x if k not in bad else str(x) for k, x in line.items()},
    }
    if bad[0].startswith(_EVAL):
      told = (
        'all metrics of that step, whose checkpoint is kept: look at the '
        'evaluation, which the same command repeats, or'
      )
    else:
      found['rows'] = [row.split('\n') for row in ids]
      told = (
        'the ids of the records of that batch, and the last checkpoint is from '
        'before: look at these records, or'
      )
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False))
    raise FloatingPointError(
      f'Expected finite metrics, found {bad[0]} = {line[bad[0]]} at step '
      f'{line["step"]}; {path} has {told} lower the learning rate, in another '
      'work folder.'
    )


class _Board:
  """TensorBoard's file, written here and now.

  tensorboardX's own writer has a thread, which dies of a full disk in silence,
  and then a queue in which the next ten numbers wait for ever.
  """

  def __init__(self, folder: epath.Path, first: int):
    """Opens a new file; what older ones say of steps after `first` is void."""
    folder.mkdir(parents=True, exist_ok=True)
    self._writer = event_file_writer.EventsWriter(str(folder / 'events'))
    event = self._event(first + 1)
    event.session_log.status = event.session_log.START
    self._writer.write_event(event)

  def add(self, step: int, numbers: Mapping[str, float]) -> None:
    event = self._event(step)
    for name, x in numbers.items():
      event.summary.value.add(tag=name, simple_value=x)
    self._writer.write_event(event)

  def close(self) -> None:
    self._writer.close()

  def _event(self, step: int):
    return event_pb2.Event(wall_time=time.time(), step=step)


def write_atomically(path: epath.Path, text: str) -> None:
  """Writes a file that is whole at any moment; only one process does."""
  if cluster.is_first():
    part = path.with_suffix('.part')
    with open(part, 'w', encoding='utf-8') as f:
      f.write(text)
      f.flush()
      os.fsync(f.fileno())  # Else its name may be on the disk before it is.
    part.replace(path)


def _lines_until(path: epath.Path, step: int) -> list[dict[str, float]]:
  """The lines of a log up to `step`."""
  kept = []
  if path.exists():
    for text in path.read_text().splitlines():
      try:
        line = json.loads(text)
      except json.JSONDecodeError:
        break  # The end of a process that was killed while writing.
      if line['step'] <= step:
        kept.append(line)
  return kept


def _write_lines(
  path: epath.Path, lines: Sequence[Mapping[str, float]]
) -> None:
  write_atomically(path, ''.join(json.dumps(line) + '\n' for line in lines))
