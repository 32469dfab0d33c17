"""The whole road on a handful of clips, in processes of its own."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from vimonet_jax import weight_files
from vimonet_jax.synthetic import actions

ROOT = pathlib.Path(__file__).parents[2]
STAGES = ('motion', 'language', 'video', 'align', 'instruct')
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
    for stage in STAGES
    for field, value in (('steps', 4), ('checkpoint_steps', 2))
  },
}


# Whoever runs the tests in the background may have shut it off.
HEAR_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def _start(
  workdir, cache, *flags, config='configs/tiny.py:smoke', changes=SMALLER
) -> subprocess.Popen:
  xla_flags = os.environ['XLA_FLAGS'].split()
  environment = {
    **os.environ,
    # Without the tests' pretend devices: the road is for what is really there.
    'XLA_FLAGS': ' '.join(x for x in xla_flags if 'device_count' not in x),
    # What one process has compiled the next one need not compile again.
    'JAX_COMPILATION_CACHE_DIR': str(cache),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.3',
  }
  command = [sys.executable, '-c', HEAR_CTRL_C, sys.executable]
  command += ['-m', 'vimonet_jax.main']
  command += [f'--config={config}', f'--workdir={workdir}']
  command += [f'--config.{name}={value}' for name, value in changes.items()]
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
  """A finished work folder, and what the run printed."""
  workdir = tmp_path_factory.mktemp('undisturbed') / 'work'
  return workdir, _finish(_start(workdir, cache))


def test_the_road_ends_with_a_table_a_report_and_all_rows(undisturbed):
  workdir, output = undisturbed
  rows = json.loads((workdir / 'scores.json').read_text())
  wholes = {
    (row['input'], row['corruption']): row['n']
    for row in rows
    if row['domain'] == 'all'
  }
  inputs = ('text', 'motion', 'video', 'both')
  expected = {(name, 'none') for name in inputs}
  expected |= {('motion', 'L2'), ('both', 'L2'), ('motion', 'L2w')}
  expected |= {('both', 'swapped')}
  assert set(wholes) == expected
  assert len(set(wholes.values())) == 1
  for row in rows:
    assert row['n_failed'] <= row['n']
    assert {'benchmark', 'split', 'accuracy', 'score'} <= set(row)
  verdicts = (workdir / 'verdicts' / 'vimos-synth.jsonl').read_text()
  assert len(verdicts.splitlines()) == sum(wholes.values())
  page = (workdir / 'report.html').read_text()
  # All that was asked about a clip stands beside its picture.
  gifs = re.findall(r'data:image/gif;base64,[^"]+', page)
  assert len(gifs) == len(set(gifs)) > 2
  assert '<script src' not in page
  assert 'http://' not in page.replace('http://www.w3.org', '')
  assert str(workdir / 'report.html') in output
  assert 'vimos-synth' in output


def test_what_is_finished_is_not_done_again(undisturbed, cache):
  workdir, _ = undisturbed
  weights = {
    path: path.stat().st_mtime_ns
    for path in workdir.glob('*/weights/_METADATA')
  }
  assert len(weights) == 6
  _finish(_start(workdir, cache))
  assert weights == {path: path.stat().st_mtime_ns for path in weights}


@pytest.mark.parametrize(
  ('setting', 'sentence'),
  [
    ('instruct.lora.targets=("q", "w")', 'Expected lora.targets among'),
    ('align.trainable=("translator/.*",)', 'translator/'),
    ('mesh.data=3', 'Expected data * fsdp * tensor = 1 devices'),
    ('text.template=alpaca', 'Expected text.template to be one of'),
  ],
)
def test_a_setting_of_a_later_stage_is_refused_at_once(
  tmp_path, cache, setting, sentence
):
  process = _start(tmp_path / 'work', cache, f'--config.{setting}')
  output, _ = process.communicate(timeout=100)
  assert process.returncode == 1, output
  assert sentence in output
  assert 'Traceback' not in output
  assert not (tmp_path / 'work' / 'config.json').exists()


def test_another_configuration_is_refused(undisturbed, cache):
  workdir, _ = undisturbed
  process = _start(workdir, cache, '--config.align.clip=0.5')
  output, _ = process.communicate(timeout=100)
  assert process.returncode == 1
  assert 'align.clip=1.0 where this command has 0.5' in output
  assert 'Traceback' not in output


def test_the_evaluation_may_be_run_again_with_other_settings(
  undisturbed, cache
):
  workdir, _ = undisturbed
  scores = (workdir / 'scores.json').read_bytes()
  output = _finish(
    _start(
      workdir,
      cache,
      '--task=eval',
      '--config.eval.max_new_tokens=2',
      '--config.eval.per_domain=1',
      '--config.eval.quantize=int8',
    )
  )
  assert 'vimos-synth test' in output
  assert (workdir / 'scores.json').read_bytes() != scores
  predictions = (workdir / 'predictions' / 'vimos-synth.jsonl').read_text()
  assert '"max_new_tokens": 2}' in predictions
  # Weights that were rounded are others.
  rounded = [line for line in predictions.splitlines() if '-int8"' in line]
  assert rounded
  assert all('"max_new_tokens": 2}' in line for line in rounded)
  for task in ('report', 'pipeline'):
    _finish(_start(workdir, cache, f'--task={task}'))
  assert (workdir / 'scores.json').read_bytes() == scores


def test_answers_are_judged_and_shown_without_the_weights(
  undisturbed, cache, tmp_path
):
  """Scores to the same bytes, and the page, from a folder without a model."""
  workdir = tmp_path / 'work'
  without = shutil.ignore_patterns('weights', 'checkpoints')
  shutil.copytree(undisturbed[0], workdir, ignore=without)
  kept = ('scores.json', 'verdicts/vimos-synth.jsonl')
  before = [(workdir / name).read_bytes() for name in kept]
  for name in (*kept, 'report.html'):
    (workdir / name).unlink()
  output = _finish(_start(workdir, cache, '--task=score'))
  assert 'vimos-synth test' in output
  assert [(workdir / name).read_bytes() for name in kept] == before
  _finish(_start(workdir, cache, '--task=report'))
  page = (workdir / 'report.html').read_text()
  assert 'Chosen by rule' in page
  assert 'judged by rule' in page
  assert 'data:image/gif' in page


@pytest.mark.parametrize('task', ['eval', 'score', 'report', 'audit'])
def test_a_task_without_a_finished_folder_says_so(tmp_path, cache, task):
  process = _start(tmp_path / 'none', cache, f'--task={task}')
  output, _ = process.communicate(timeout=100)
  assert process.returncode == 1
  assert 'run --task=pipeline first' in output
  assert 'Traceback' not in output


# What is there when a process is killed: in the middle of the first stages, of
# the last one, and of the answers.
MOMENTS = (
  'language/checkpoints/2',
  'instruct/checkpoints/2',
  'predictions/vimos-synth.jsonl',
)


def test_a_run_that_is_killed_ends_with_the_same_bits(
  undisturbed, cache, tmp_path
):
  reference, _ = undisturbed
  workdir = tmp_path / 'work'
  for moment in MOMENTS:
    process = _start(workdir, cache)
    while not (workdir / moment).exists() and process.poll() is None:
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    # Nothing would be shown by killing what has finished.
    assert process.returncode == -signal.SIGKILL, output[-4000:]
    assert not (workdir / 'report.html').exists()
  _finish(_start(workdir, cache))
  ours, theirs = (
    weight_files.load(str(folder / 'model' / 'weights'))
    for folder in (workdir, reference)
  )
  assert ours.keys() == theirs.keys()
  for path in ours:
    assert ours[path].tobytes() == theirs[path].tobytes(), path


def test_ctrl_c_says_how_to_go_on(cache, tmp_path):
  process = _start(tmp_path / 'work', cache)
  while not (tmp_path / 'work').exists() and process.poll() is None:
    time.sleep(0.01)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=100)
  assert process.returncode == 130, output[-4000:]
  assert output.strip().endswith('the same command goes on from here.')
  assert 'Traceback' not in output


def test_a_folder_of_motions_is_learnt_and_its_captions_scored(tmp_path, cache):
  folder = tmp_path / 'data'
  for name in ('joints', 'texts'):
    (folder / name).mkdir(parents=True)
  rng = np.random.default_rng(0)
  ids = [f'{i:06d}' for i in range(8)]
  for i, clip in enumerate(ids):
    verb = ('march', 'limp')[i % 2]
    action = actions.Action(verb, side='left' if verb == 'limp' else '')
    joints = actions.animate([action], rng).joints
    np.save(folder / 'joints' / f'{clip}.npy', joints[:64])
    (folder / 'texts' / f'{clip}.txt').write_text(
      f'a person {verb}s on.#a/DET person/NOUN#0.0#0.0\n'
    )
  for split, part in (('train', ids[:4]), ('val', ids[4:6]), ('test', ids[6:])):
    (folder / f'{split}.txt').write_text('\n'.join(part))
  changes = {
    'data.path': folder,
    'text.vocab_size': 300,
    'eval.max_new_tokens': 4,
    **{f'{stage}.steps': 2 for stage in STAGES if stage != 'video'},
  }
  workdir = tmp_path / 'work'
  options = {'config': 'configs/mocap.py:smoke', 'changes': changes}
  # A path that is wrong must not spoil the folder for one that is right.
  process = _start(workdir, cache, '--config.data.path=', **options)
  output, _ = process.communicate(timeout=100)
  assert process.returncode == 1
  assert '--config.data.path=DIR' in output
  assert 'Traceback' not in output
  output = _finish(_start(workdir, cache, **options))
  rows = json.loads((workdir / 'scores.json').read_text())
  assert [row['system'] for row in rows] == [
    'model',
    'random training caption',
    'nearest training clip',
  ]
  assert all(row['n'] == 2 for row in rows)
  page = (workdir / 'report.html').read_text()
  assert 'Captions' in page
  assert 'Stage video' not in page
  assert 'class="wrong"' not in page
