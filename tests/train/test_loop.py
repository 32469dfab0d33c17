import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from vimonet_jax import (
  checkpoint,
  fingerprint,
  weight_files,
  weight_writer,
)
from vimonet_jax.train import log, optimizer
from vimonet_jax.train import step as step_lib

ROOT = pathlib.Path(__file__).parents[2]


def _lines(folder):
  text = (pathlib.Path(folder) / 'metrics.jsonl').read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  for line in lines:
    assert line.pop('seconds') > 0.0
  return lines


def _weights(folder):
  return weight_files.load(str(pathlib.Path(folder) / 'weights'))


def _assert_same(ours, theirs):
  assert _lines(ours) == _lines(theirs)
  ours, theirs = _weights(ours), _weights(theirs)
  assert ours.keys() == theirs.keys()
  for path in ours:
    assert ours[path].tobytes() == theirs[path].tobytes(), path


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  """Thirty steps of the toy that nobody interrupted."""
  folder = tmp_path_factory.mktemp('undisturbed')
  toy.train(folder, 30)
  return folder


class _Broken:
  """A dataset whose iterator raises, or acts, before it gives batch `at`."""

  def __init__(self, at, act):
    self._at, self._act = at, act

  def __iter__(self):
    iterator = iter(toy.dataset())
    give = type(iterator).__next__
    calls = []
    at, act = self._at, self._act

    class Breaking(type(iterator)):
      def __next__(self):
        calls.append(1)
        if len(calls) == at:
          act()
        return give(self)

    iterator.__class__ = Breaking
    return iterator


def _step_inputs(rows=8, seed=0):
  rng = np.random.default_rng(seed)
  params, mutable = toy.init(jax.random.key(seed))
  trainables, frozen = optimizer.split(params, toy.Toy().trainable)
  batch = {
    'x': rng.normal(size=(rows, 4)).astype(np.float32),
    'weight': rng.random(rows).astype(np.float32),
  }
  state = step_lib.State(
    jnp.int32(0), trainables, toy.tx().init(trainables), mutable
  )
  return state, frozen, batch, jax.random.key(1)


def test_the_step_runs_without_jit_and_leaves_its_inputs():
  state, frozen, batch, key = _step_inputs()
  before = jax.device_get(state)
  with jax.disable_jit():
    after, metrics = step_lib.make_step(toy.loss_fn, toy.tx())(
      state, frozen, batch, key
    )
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), before)
  assert after.step == 1
  assert metrics['loss'][1] == pytest.approx(batch['weight'].sum())


def test_gradients_exist_for_trainables_only():
  state, frozen, batch, key = _step_inputs()
  step = step_lib.make_step(toy.loss_fn, toy.tx())
  after, _ = step(state, frozen, batch, key)
  assert set(after.trainables) == {
    'net/blocks/in/kernel',
    'net/blocks/norm/scale',
  }
  moments = [x for x in jax.tree.leaves(after.opt_state) if x.ndim]
  # Adam keeps two arrays for each of two trainables, and none of another shape.
  assert sorted(x.shape for x in moments) == sorted(
    2 * [x.shape for x in state.trainables.values()]
  )


def test_randomness_follows_the_step():
  state, frozen, batch, key = _step_inputs()
  step = jax.jit(step_lib.make_step(toy.loss_fn, toy.tx()))
  _, first = step(state, frozen, batch, key)
  _, again = step(state, frozen, batch, key)
  _, later = step(state._replace(step=jnp.int32(5)), frozen, batch, key)
  assert first['loss'][0] == again['loss'][0] != later['loss'][0]


def test_accumulation_equals_the_big_batch():
  # Without the toy's noise and average, which see micro-batches by design.
  def quiet(trainables, frozen, mutable, batch, key):
    h = jnp.einsum('bi,lid->bd', batch['x'], trainables['net/blocks/in/kernel'])
    y_B = (jnp.tanh(h) @ frozen['net/out/kernel'])[:, 0]
    y_B = y_B * trainables['net/blocks/norm/scale'].sum()
    loss_sum = jnp.sum(batch['weight'] * (y_B - 1.0) ** 2)
    del key
    return (loss_sum, batch['weight'].sum()), (mutable, {})

  state, frozen, batch, key = _step_inputs()
  # A fourth of the rows weighs nothing: a mean of means would differ.
  batch['weight'][::4] = 0.0
  found = [
    jax.jit(step_lib.make_step(quiet, toy.tx(), pieces))(
      state, frozen, batch, key
    )
    for pieces in (1, 4)
  ]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    *found,
  )


def test_rows_that_do_not_divide_are_reported():
  state, frozen, batch, key = _step_inputs()
  step = step_lib.make_step(toy.loss_fn, toy.tx(), 3)
  with pytest.raises(ValueError, match='grad_accumulation=3'):
    step(state, frozen, batch, key)


@pytest.mark.parametrize('kind', ['adamw', 'muon'])
def test_both_optimizers_lower_the_loss(tmp_path, kind):
  toy.train(tmp_path, 40, tx=toy.tx(kind=kind))
  losses = [line['loss'] for line in _lines(tmp_path)]
  assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:8])


def test_frozen_parameters_stay_and_reach_the_evaluation_whole(tmp_path):
  seen = []

  def evaluate(flat, mutable, step):
    seen.append((step, jax.device_get(flat), jax.device_get(mutable)))
    return {'steps_seen': step}

  toy.train(tmp_path, 3, evaluate=evaluate)
  toy.train(tmp_path, 6, evaluate=evaluate)
  assert [step for step, _, _ in seen] == [3, 6]
  (_, early, before), (_, late, after) = seen
  fresh, _ = toy.init(jax.random.key(0))
  assert set(early) == set(fresh)
  frozen = np.asarray(fresh['net/out/kernel'].astype(jnp.bfloat16))
  for flat in (early, late):
    assert flat['net/out/kernel'].dtype == jnp.bfloat16
    assert flat['net/out/kernel'].tobytes() == frozen.tobytes()
  assert np.any(early['net/blocks/in/kernel'] != late['net/blocks/in/kernel'])
  assert np.any(before['net/average'] != after['net/average'])
  found = {x['step']: x.get('eval/steps_seen') for x in _lines(tmp_path)}
  assert found == {1: None, 2: None, 3: 3.0, 4: None, 5: None, 6: 6.0}


def test_a_stage_leaves_weights_summary_and_one_line_per_step(undisturbed):
  assert [line['step'] for line in _lines(undisturbed)] == list(range(1, 31))
  assert set(_weights(undisturbed)) == {
    'net/blocks/in/kernel',
    'net/blocks/norm/scale',
    'net/average',
  }
  summary = json.loads((undisturbed / 'summary.json').read_text())
  assert summary['name'] == 'toy'
  assert summary['steps'] == 30
  assert summary['rate'] == pytest.approx(30 / summary['seconds'])
  assert summary['metrics']['loss'] == _lines(undisturbed)[-1]['loss']


def test_a_finished_stage_returns_at_once(undisturbed):
  def never():
    raise AssertionError('a finished stage asked for data')

  before = (undisturbed / 'summary.json').read_text()
  summary = toy.train(undisturbed, 30, data=_Broken(1, never))
  assert summary == json.loads(before)


@pytest.mark.parametrize('at', [1, 3, 9, 12, 30])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, undisturbed, at):
  def interrupt():
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    toy.train(tmp_path, 30, data=_Broken(at, interrupt))
  assert not (tmp_path / 'summary.json').exists()
  toy.train(tmp_path, 30)
  _assert_same(tmp_path, undisturbed)


def test_a_run_killed_by_sigkill_ends_with_the_same_bits(tmp_path, undisturbed):
  environment = {
    **os.environ,
    'PYTHONPATH': f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}',
  }
  command = [sys.executable, toy.__file__, str(tmp_path), '100000']
  process = subprocess.Popen(
    command,
    env=environment,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  checkpoints = tmp_path / 'checkpoints'
  try:
    # Killed while it saves one checkpoint after the other, every four steps.
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
      if checkpoints.exists() and any(
        path.name in ('8', '12', '16') for path in checkpoints.iterdir()
      ):
        break
      time.sleep(0.002)
  finally:
    process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  done = [int(p.name) for p in checkpoints.iterdir() if p.name.isdigit()]
  assert done
  assert max(done) < 30, 'the toy was too fast to be killed in time'
  toy.train(tmp_path, 30)
  _assert_same(tmp_path, undisturbed)


def test_sigterm_saves_and_stops(tmp_path, undisturbed):
  def terminate():
    os.kill(os.getpid(), signal.SIGTERM)

  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(SystemExit):
    toy.train(tmp_path, 30, data=_Broken(6, terminate), checkpoint_steps=1000)
  assert signal.getsignal(signal.SIGTERM) == before
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['6']
  toy.train(tmp_path, 30)
  _assert_same(tmp_path, undisturbed)


def test_sigterm_while_evaluating_loses_nothing(tmp_path, undisturbed):
  looked = []

  def evaluate(flat, mutable, step):
    looked.append(step)
    if len(looked) == 1:
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(60.0)
      raise AssertionError('an evaluation went on after SIGTERM')
    return {'right': float(step)}

  options = {'evaluate': evaluate, 'checkpoint_steps': 1000}
  with pytest.raises(SystemExit):
    toy.train(tmp_path, 30, **options)
  assert _lines(tmp_path) == _lines(undisturbed)
  toy.train(tmp_path, 30, **options)
  assert looked == [30, 30]
  *lines, last = _lines(tmp_path)
  assert last.pop('eval/right') == 30.0
  assert [*lines, last] == _lines(undisturbed)


@pytest.mark.parametrize('kept', [0, 3])
def test_an_evaluation_has_its_own_line_where_the_log_is_lost(tmp_path, kept):
  toy.train(tmp_path, 4)
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines(keepends=True)
  (tmp_path / 'metrics.jsonl').write_text(''.join(lines[:kept]))
  (tmp_path / 'summary.json').unlink()
  toy.train(tmp_path, 4, evaluate=lambda flat, mutable, step: {'right': 1.0})
  found = (tmp_path / 'metrics.jsonl').read_text().splitlines(keepends=True)
  assert found[:-1] == lines[:kept]
  assert json.loads(found[-1]) == {'step': 4, 'eval/right': 1.0}


def test_who_is_killed_while_an_evaluation_is_logged_loses_no_line(
  tmp_path, monkeypatch
):
  looked, opened, open_ = [], [], log.Log._open

  def evaluate(flat, mutable, step):
    looked.append(step)
    return {'right': 1.0}

  def killed_at_the_second(self):
    opened.append(1)
    if len(opened) == 2:
      raise KeyboardInterrupt
    return open_(self)

  monkeypatch.setattr(log.Log, '_open', killed_at_the_second)
  with pytest.raises(KeyboardInterrupt):
    toy.train(tmp_path, 4, evaluate=evaluate)
  assert [line['step'] for line in _lines(tmp_path)] == [1, 2, 3, 4]
  summary = toy.train(tmp_path, 4, evaluate=evaluate)
  assert looked == [4]
  assert summary['metrics']['eval/right'] == 1.0
  assert set(summary['metrics']) > {'loss', 'positive'}


def test_a_checkpoint_does_not_outlive_its_lines(tmp_path, monkeypatch):
  """What is on the disk when the power fails: lines before their checkpoint."""
  metrics, on_disk, saved = tmp_path / 'metrics.jsonl', [], []
  fsync, save = os.fsync, checkpoint.Checkpointer.save

  def note(number):
    fsync(number)
    if metrics.exists() and os.path.samestat(os.fstat(number), metrics.stat()):
      on_disk.append(len(_lines(tmp_path)))

  def note_save(self, step, *args):
    saved.append((step, on_disk[-1] if on_disk else 0))
    return save(self, step, *args)

  monkeypatch.setattr(os, 'fsync', note)
  monkeypatch.setattr(checkpoint.Checkpointer, 'save', note_save)
  toy.train(tmp_path, 8)
  assert saved == [(4, 4), (8, 8)]


def test_the_loop_runs_outside_the_main_thread(tmp_path):
  found = []
  thread = threading.Thread(target=lambda: found.append(toy.train(tmp_path, 2)))
  thread.start()
  thread.join()
  assert found[0]['steps'] == 2


def test_a_longer_run_goes_on_from_a_finished_one(tmp_path, undisturbed):
  toy.train(tmp_path, 10)
  toy.train(tmp_path, 30)
  _assert_same(tmp_path, undisturbed)


@pytest.fixture(name='base')
def _base(tmp_path_factory):
  """A folder with the weights that the toy keeps frozen."""
  folder = tmp_path_factory.mktemp('base') / 'weights'
  fresh, _ = toy.init(jax.random.key(0))
  weight_writer.save(
    str(folder), {'net/out/kernel': np.asarray(fresh['net/out/kernel'])}
  )
  return str(folder)


def test_its_own_checkpoint_goes_before_named_weights(
  tmp_path, undisturbed, base
):
  weights = [base, str(undisturbed / 'weights')]
  toy.train(tmp_path, 4, init=weights)
  before = _weights(tmp_path)
  summary = toy.train(tmp_path, 5, init=weights)
  assert summary['started_from'] == 'its own checkpoint'
  assert np.any(
    before['net/blocks/in/kernel']
    != _weights(undisturbed)['net/blocks/in/kernel']
  )


def test_named_weights_go_before_fresh_ones_for_the_paths_they_have(
  tmp_path, undisturbed, base
):
  named, first = _weights(undisturbed), {}
  scale = str(tmp_path / 'scale')
  weight_writer.save(
    scale, {'net/blocks/norm/scale': named['net/blocks/norm/scale']}
  )

  def evaluate(flat, mutable, step):
    first.update(jax.device_get(flat))
    return {}

  # A learning rate of zero shows what the run started from.
  frozen = optimizer.make([optimizer.Group('net/.*', 0.0)], steps=9)
  toy.train(
    tmp_path / 'run', 1, tx=frozen, init=[base, scale], evaluate=evaluate
  )
  fresh, _ = toy.init(jax.random.key(0))
  np.testing.assert_array_equal(
    first['net/blocks/norm/scale'], named['net/blocks/norm/scale']
  )
  np.testing.assert_allclose(
    first['net/blocks/in/kernel'], fresh['net/blocks/in/kernel'], rtol=1e-6
  )


def test_named_weights_without_what_stays_frozen_are_refused(
  tmp_path, undisturbed
):
  with pytest.raises(ValueError, match='keeps frozen, found none for net/out/'):
    toy.train(tmp_path, 3, init=[str(undisturbed / 'weights')])
  assert not (tmp_path / 'checkpoints' / '3').exists()


def test_other_frozen_weights_are_not_gone_on_with(tmp_path, base):
  toy.train(tmp_path / 'run', 4, init=[base])
  other = str(tmp_path / 'other')
  kernel = weight_files.load(base)['net/out/kernel']
  weight_writer.save(other, {'net/out/kernel': kernel + 1})
  with pytest.raises(ValueError, match='the frozen weights that it began with'):
    toy.train(tmp_path / 'run', 6, init=[other])
  toy.train(tmp_path / 'run', 6, init=[base])


def test_all_processes_add_up_frozen_weights_in_one_order(
  tmp_path, monkeypatch
):
  """Each hashes strings in its own way, so a set has another order in each."""
  names = [f'net/frozen/{i}' for i in range(12)]
  more = dict.fromkeys(names, nn.LogicallyPartitioned(jnp.ones(8), ('embed',)))

  def init(key):
    params, mutable = toy.init(key)
    return {**params, **{path: x.unbox() for path, x in more.items()}}, mutable

  def abstract():
    params, mutable = toy.abstract()
    return {**params, **jax.eval_shape(lambda: more)}, mutable

  marked, mark = [], fingerprint.mark

  def spy(path, x):
    marked.append(path)
    return mark(path, x)

  monkeypatch.setattr(fingerprint, 'mark', spy)
  toy.train(tmp_path, 1, stage=toy.Toy(init=init, abstract=abstract))
  assert marked == sorted([*names, 'net/out/kernel'])


def test_a_stage_looks_once_at_each_kind_of_batch(tmp_path):
  seen = []
  stage = types.SimpleNamespace(
    **{
      field.name: getattr(toy.Toy(), field.name)
      for field in dataclasses.fields(toy.Toy)
    },
    check=lambda batch: seen.append(batch['x'].shape),
  )
  toy.train(tmp_path, 5, stage=stage)
  assert len(seen) == 1

  def refuse(batch):
    raise ValueError(f'found {len(batch)} arrays')

  stage.check = refuse
  with pytest.raises(ValueError, match='found 2 arrays'):
    toy.train(tmp_path, 6, stage=stage)


def test_named_weights_of_another_shape_are_reported(tmp_path):
  weight_writer.save(
    str(tmp_path / 'other'), {'net/blocks/norm/scale': np.ones((3, 8))}
  )
  with pytest.raises(ValueError, match=r'net/blocks/norm/scale.*\(3, 8\)'):
    toy.train(tmp_path / 'run', 3, init=[str(tmp_path / 'other')])


def test_what_is_not_finite_stops_the_run_before_it_is_saved(tmp_path):
  def loss_fn(trainables, frozen, mutable, batch, key):
    loss, aux = toy.loss_fn(trainables, frozen, mutable, batch, key)
    # The average moves by a fixed rule, so this breaks at one certain step.
    broken = batch['x'][0, 0] == poison
    return (jnp.where(broken, jnp.nan, loss[0]), loss[1]), aux

  batches = iter(toy.dataset())
  for _ in range(8):
    poison = float(next(batches)['x'][0, 0])
  stage = dataclasses.replace(toy.Toy(), loss_fn=loss_fn)
  named = toy.dataset().map(
    lambda batch: {
      **batch,
      'ids': np.array([f'a{x:.3f}\nb{x:.3f}' for x in batch['x'][:, 0]]),
    }
  )
  # The step after it is on its way when the numbers arrive.
  with pytest.raises(
    FloatingPointError, match=r'loss = nan at step 8; .*not_finite-0.json has'
  ):
    toy.train(tmp_path, 20, stage=stage, data=named, checkpoint_steps=5)
  found = json.loads((tmp_path / 'not_finite-0.json').read_text())
  assert found['step'] == 8
  assert found['metrics']['loss'] == 'nan'
  assert len(found['rows']) == 8
  assert found['rows'][0] == [f'a{poison:.3f}', f'b{poison:.3f}']
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['5']
  assert not (tmp_path / 'weights').exists()


def test_an_evaluation_that_is_not_finite_names_no_records(tmp_path):
  def evaluate(flat, mutable, step):
    return {'right': float('nan')}

  with pytest.raises(
    FloatingPointError,
    match='eval/right = nan at step 4; .* has all metrics of that step, whose',
  ):
    toy.train(tmp_path, 4, evaluate=evaluate)
  found = json.loads((tmp_path / 'not_finite-0.json').read_text())
  assert found.keys() == {'step', 'metrics'}
  assert found['metrics']['eval/right'] == 'nan'
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['4']


def test_a_metric_without_a_count_is_left_out(tmp_path):
  def loss_fn(*args):
    loss, (mutable, _) = toy.loss_fn(*args)
    return loss, (mutable, {'rare': (jnp.zeros(()), jnp.zeros(()))})

  toy.train(tmp_path, 2, stage=dataclasses.replace(toy.Toy(), loss_fn=loss_fn))
  assert all('rare' not in line for line in _lines(tmp_path))


def test_the_end_of_a_dataset_is_reported(tmp_path):
  class Short:
    def __iter__(self):
      return iter(())

  with pytest.raises(ValueError, match='end of the dataset at step 1'):
    toy.train(tmp_path, 3, data=Short())
