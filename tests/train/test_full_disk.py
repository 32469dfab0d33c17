import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from vimonet_jax import disk

ROOT = pathlib.Path(__file__).parents[2]
# A file system of 2 MB that nobody else sees and that ends with its processes.
_OWN = ('unshare', '--user', '--map-root-user', '--mount', 'sh', '-c')
_MOUNT = 'mount -t tmpfs -o size=2m tmpfs "$0"'


@pytest.fixture(scope='module', name='found')
def _found(tmp_path_factory):
  folder = tmp_path_factory.mktemp('full')
  if not shutil.which('unshare') or subprocess.call(
    [*_OWN, _MOUNT, folder], stderr=subprocess.DEVNULL
  ):
    pytest.skip('needs a Linux that lets everybody mount a tmpfs (unshare)')
  script = pathlib.Path(__file__).with_name('full_disk.py')
  environment = {
    **os.environ,
    'PYTHONPATH': f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}',
    'JAX_COMPILATION_CACHE_DIR': str(tmp_path_factory.mktemp('compiled')),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  out = subprocess.run(
    [*_OWN, f'{_MOUNT} && exec "$@"', folder, sys.executable, script, folder],
    env=environment,
    check=True,
    capture_output=True,
    text=True,
  )
  assert 'Exception in thread' not in out.stderr, out.stderr
  assert 'never retrieved' not in out.stderr, out.stderr
  return json.loads(out.stdout.splitlines()[-1])


@pytest.mark.parametrize(
  ('phase', 'steps', 'by'),
  [
    ('background', [24], 'checkpoint'),
    ('metrics', [25], 'log'),
    ('weights', [96, 120], 'checkpoint'),
  ],
)
def test_a_full_disk_is_a_sentence_and_costs_only_time(found, phase, steps, by):
  seen = found[phase]
  assert seen['error'] == 'FullError'
  assert 'its disk full (0.0 of 2.1 MB are free now); make' in seen['text']
  assert seen['by'] == by
  assert seen['steps'] == steps
  assert seen['bits'] == found['undisturbed']


def test_weights_that_no_run_writes_stay_as_they_were(found):
  seen = found['no run']
  assert seen['error'] == 'FullError'
  assert 'alone, found its disk full' in seen['text']
  assert (seen['left'], seen['in the end']) == (['a'], ['b'])


def test_other_errors_pass():
  with pytest.raises(OSError, match='not here'), disk.says_when_full('x'):
    raise OSError('not here')
