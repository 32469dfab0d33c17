"""The whole road on a handful of clips, in processes of its own."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from vimonet_jax import checkpoint

ROOT = pathlib.Path(__file__).parents[2]
# Smaller than smoke: enough steps for every stage to save in the middle.
SMALLER = {
  'data.train': 24,
  'data.val': 6,
  'data.test': 8,
  'data.processes': 1,
  'eval.per_domain': 2,
  'eval.probe_per_domain': 0,
  'eval.max_new_tokens': 4,
  **{
    f'{stage}.{field}': value
    for stage in ('motion', 'language', 'video', 'align', 'instruct')
    for field, value in (('steps', 4), ('checkpoint_steps', 2))
  },
}


def _start(workdir, cache, *flags) -> subprocess.Popen:
  environment = {
    **os.environ,
    # What one process has compiled the next one need not compile again.
    'JAX_COMPILATION_CACHE_DIR': str(cache),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.3',
  }
  command = [sys.executable, '-m', 'vimonet_jax.main']
  command += ['--config=configs/tiny.py:smoke', f'--workdir={workdir}']
  command += [f'--config.{name}={value}' for name, value in SMALLER.items()]
  return subprocess.Popen(
    [*command, *flags],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _finish(process) -> str:
  output, _ = process.communicate(timeout=600)
  assert process.returncode == 0, output[-4000:]
  return output


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, cache):
  """A finished work folder, what the run printed, and how long it took."""
  workdir = tmp_path_factory.mktemp('undisturbed') / 'work'
  began = time.monotonic()
  output = _finish(_start(workdir, cache))
  return workdir, output, time.monotonic() - began


def test_the_road_ends_with_a_table_a_report_and_all_rows(undisturbed):
  workdir, output, _ = undisturbed
  rows = json.loads((workdir / 'scores.json').read_text())
  wholes = {
    (row['input'], row['corruption']): row['n']
    for row in rows
    if row['domain'] == 'all'
  }
  inputs = ('text', 'motion', 'video', 'both')
  expected = {(name, 'none') for name in inputs}
  expected |= {('motion', 'L2'), ('both', 'L2'), ('both', 'swapped')}
  assert set(wholes) == expected
  assert len(set(wholes.values())) == 1
  for row in rows:
    assert row['n_failed'] <= row['n']
    assert {'benchmark', 'split', 'accuracy', 'score'} <= set(row)
  page = (workdir / 'report.html').read_text()
  assert '<script src' not in page
  assert 'http://' not in page.replace('http://www.w3.org', '')
  assert str(workdir / 'report.html') in output
  assert 'vimos-synth' in output


def test_what_is_finished_is_not_done_again(undisturbed, cache):
  workdir, _, _ = undisturbed
  weights = {
    path: path.stat().st_mtime_ns
    for path in workdir.glob('*/weights/_METADATA')
  }
  assert len(weights) == 6
  _finish(_start(workdir, cache))
  assert weights == {path: path.stat().st_mtime_ns for path in weights}


def test_another_configuration_is_refused(undisturbed, cache):
  workdir, _, _ = undisturbed
  process = _start(workdir, cache, '--config.align.clip=0.5')
  output, _ = process.communicate(timeout=100)
  assert process.returncode == 1
  assert 'align.clip=0.5 instead of 1.0' in output
  assert 'Traceback' not in output


def test_a_run_that_is_killed_ends_with_the_same_bits(
  undisturbed, cache, tmp_path
):
  reference, _, seconds = undisturbed
  moments = random.Random(0)
  kills = int(os.environ.get('VIMONET_KILLS', '2'))
  for _ in range(kills):
    process = _start(tmp_path / 'work', cache)
    try:
      # Compiled already, it gets further than the first run in this time.
      process.communicate(timeout=moments.uniform(0.2, 0.6) * seconds)
    except subprocess.TimeoutExpired:
      process.send_signal(signal.SIGKILL)
      process.communicate()
  _finish(_start(tmp_path / 'work', cache))
  ours, theirs = (
    checkpoint.load_weights(str(folder / 'model' / 'weights'))
    for folder in (tmp_path / 'work', reference)
  )
  assert ours.keys() == theirs.keys()
  for path in ours:
    assert ours[path].tobytes() == theirs[path].tobytes(), path
