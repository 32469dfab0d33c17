import os
import pathlib
import subprocess
import sys

import pytest

from vimonet_jax import main

ROOT = pathlib.Path(__file__).parents[1]
KNOWN = ', '.join(main.TASKS)
CONFIG = '--config=configs/tiny.py:smoke'
# The program, with tasks that tell what they were asked instead of doing it.
PROGRAM = """
import os, sys
from absl import app
from vimonet_jax import main
def told(name):
  def task(config, workdir):
    print(name, config.seed, workdir, os.environ['XLA_FLAGS'])
    print('has loaded jax:', 'jax' in sys.modules)
    return 3
  return task
main.TASKS.update({name: told(name) for name in main.TASKS})
app.run(main.main)
"""


def _run(*arguments):
  """Exit status and everything that was printed."""
  found = subprocess.run(
    [sys.executable, '-c', PROGRAM, *arguments],
    cwd=ROOT,
    env={**os.environ, 'XLA_FLAGS': '--xla_mine=1'},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  assert 'Traceback' not in found.stdout
  return found.returncode, found.stdout


@pytest.mark.parametrize(
  ('arguments', 'told'),
  [
    ([], 'pipeline 0 workdir/smoke'),
    (['--task=show', '--workdir=/a', '--config.seed=5'], 'show 5 /a'),
    (['--config.task=eval', '--config.workdir=b'], 'eval 0 b'),
  ],
)
def test_flags_say_otherwise_than_the_configuration(arguments, told):
  flags = '--config.xla_flags=--xla_theirs=2'
  status, output = _run(CONFIG, flags, *arguments)
  assert status == 3
  assert f'{told} --xla_theirs=2 --xla_mine=1\n' in output
  # It reads its flags when it is loaded.
  assert 'has loaded jax: False' in output


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    ([CONFIG, '--task=dance'], f"to be one of {KNOWN}, found 'dance'."),
    ([], 'Expected --config, e.g. --config=configs/tiny.py, found none.'),
    ([CONFIG, 'eval', 'now'], 'Expected flags only, found eval now.'),
  ],
)
def test_a_wrong_command_ends_with_a_sentence(arguments, sentence):
  status, output = _run(*arguments)
  assert status == 1
  assert sentence in output
  assert 'has loaded jax' not in output
