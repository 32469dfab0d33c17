"""SIGTERM at any moment: all is saved, the status is 143, and no stage follows.

Several processes are one here, with a stand-in for XLA's agreement among them,
but for two that meet in the end; test_together.py has two that train.
"""

import itertools
import os
import pathlib
import signal
import threading

import pytest
import stopping
import toy
import two_processes
from jax.experimental import multihost_utils

from vimonet_jax import cluster, weight_files, weight_writer
from vimonet_jax.data import records
from vimonet_jax.eval import benchmarks, own_items
from vimonet_jax.eval import run as eval_run

ROOT = pathlib.Path(__file__).parents[2]


def _terminate():
  os.kill(os.getpid(), signal.SIGTERM)


class _Agreement:
  """XLA's preemption_sync_manager.cc, whose other processes are no faster.

  The first signal makes the number after the last one the agreed one.
  """

  def __init__(self):
    self.last, self.agreed = 0, None

  def signal(self):
    if self.agreed is None:
      self.agreed = self.last + 1

  def __call__(self, number):
    self.last = number
    return number == self.agreed


@pytest.fixture(name='agreement')
def _agreement(monkeypatch):
  """Of processes that have met and asked nothing yet."""
  found = _Agreement()
  monkeypatch.setattr(multihost_utils, 'reached_preemption_sync_point', found)
  monkeypatch.setattr(cluster, 'is_joined', lambda: True)
  monkeypatch.setattr(cluster, '_calls', itertools.count(1))
  monkeypatch.setattr(cluster, '_told', threading.Event())
  return found


class _Acting:
  """The toy's data, which act before the first batch or a later one."""

  def __init__(self, at, act):
    self._at, self._act = at, act

  def __iter__(self):
    iterator = iter(toy.dataset())
    given, at, act = itertools.count(1), self._at, self._act
    give = type(iterator).__next__

    class Acting(type(iterator)):
      def __next__(self):
        if next(given) == at:
          act()
        return give(self)

    if at == 0:
      act()
    iterator.__class__ = Acting
    return iterator


def _saved(folder):
  return sorted(int(path.name) for path in (folder / 'checkpoints').iterdir())


def test_who_was_told_remembers(agreement):
  agreement.signal()
  assert [cluster.is_told_to_stop() for _ in range(3)] == [True] * 3
  with pytest.raises(SystemExit) as stopped:
    cluster.stop_if_told()
  assert stopped.value.code == 143


def test_one_process_alone_is_told_nothing():
  assert not cluster.is_joined()
  assert not cluster.is_told_to_stop()


def test_a_signal_between_stages_stops_the_next_one_before_a_step(
  agreement, tmp_path
):
  """That has fewer steps than the one before had."""
  toy.train(tmp_path / 'long', 8)
  with pytest.raises(SystemExit) as stopped:
    toy.train(tmp_path / 'short', 4, data=_Acting(0, agreement.signal))
  assert stopped.value.code == 143
  assert not _saved(tmp_path / 'short')


def test_a_signal_while_a_run_goes_on_from_a_late_step(agreement, tmp_path):
  """Where no step of this process has been counted yet."""
  toy.train(tmp_path, 8)
  with pytest.raises(SystemExit) as stopped:
    toy.train(tmp_path, 12, data=_Acting(0, agreement.signal))
  assert stopped.value.code == 143
  assert _saved(tmp_path)[-1] == 8


def test_a_signal_at_a_step_saves_it(agreement, tmp_path):
  toy.train(tmp_path / 'long', 8)
  with pytest.raises(SystemExit) as stopped:
    toy.train(tmp_path / 'next', 8, data=_Acting(3, agreement.signal))
  assert stopped.value.code == 143
  assert _saved(tmp_path / 'next') == [3]


def test_a_signal_while_evaluating_stops_when_the_stage_has_ended(
  agreement, tmp_path
):
  def evaluate(flat, mutable, step):
    agreement.signal()
    return {'right': 1.0}

  with pytest.raises(SystemExit) as stopped:
    toy.train(tmp_path, 4, evaluate=evaluate)
  assert stopped.value.code == 143
  assert toy.train(tmp_path, 4)['metrics']['eval/right'] == 1.0


def test_a_signal_while_answering_stops_between_two_batches(
  agreement, tmp_path
):
  turn = records.Turn('Which?', 'It.', 'object', 'a', 'it')
  clip = records.Record('a', 'test', 'test', turns=(turn,))
  items = own_items.questions([clip] * 3)

  class Engine:
    def answer(self, asked, **how):
      agreement.signal()
      return ['It.'] * len(asked)

  with pytest.raises(SystemExit) as stopped:
    eval_run.predict(
      Engine(),
      benchmarks.variant(items, input='text'),
      [clip] * 3,
      str(tmp_path / 'answers.jsonl'),
      settings=eval_run.Settings('weights', 'config'),
      rows=1,
      progress=False,
    )
  assert stopped.value.code == 143
  assert len((tmp_path / 'answers.jsonl').read_text().splitlines()) == 1


def test_one_process_that_is_told_at_the_last_step_stops_there(tmp_path):
  with pytest.raises(SystemExit) as stopped:
    toy.train(tmp_path, 4, data=_Acting(4, _terminate))
  assert stopped.value.code == 143
  assert _saved(tmp_path) == [4]
  assert not (tmp_path / 'summary.json').exists()
  assert toy.train(tmp_path, 4)['steps'] == 4


def test_one_process_that_is_told_while_it_ends_a_stage_begins_no_other(
  tmp_path, monkeypatch
):
  save = weight_writer.save

  def save_weights(*args):
    _terminate()
    save(*args)

  monkeypatch.setattr(weight_writer, 'save', save_weights)
  with pytest.raises(SystemExit) as stopped:
    toy.train(tmp_path, 4)
  assert stopped.value.code == 143
  assert (tmp_path / 'summary.json').exists()
  assert weight_files.load(str(tmp_path / 'weights'))


def test_a_signal_that_comes_before_anybody_asks_stops_both_at_one_call():
  environment = {
    **os.environ,
    'PYTHONPATH': f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}',
    'JAX_PLATFORMS': 'cpu',
  }
  ended = two_processes.run(
    lambda port, i: [stopping.__file__, f'localhost:{port}', str(i)],
    environment=environment,
    timeout_s=300,
  )
  told = [
    [line for line in output.splitlines() if line.startswith('told at')]
    for _, output in ended
  ]
  assert told[0] == told[1] != [], ended
  assert [status for status, _ in ended] == [143, 143], ended
