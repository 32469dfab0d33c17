import pathlib
import re
import runpy
import subprocess
import sys
import types

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
    print(name, config.seed, workdir)
    print('has loaded jax:', 'jax' in sys.modules)
    return 3
  return task
main.TASKS.update({name: told(name) for name in main.TASKS})
app.run(main.main)
"""


# Tasks that end as the name of the configuration's work folder says.
FAILING = """
import sys
from absl import app
from vimonet_jax import main
def fail(config, workdir):
  if workdir.startswith(('import ', 'open(')):
    exec(workdir)
  raise {'value': ValueError, 'os': FileNotFoundError, 'bug': TypeError,
         'package': ImportError,
         'stop': KeyboardInterrupt}[workdir]('Expected a, found b; do c.')
main.TASKS['pipeline'] = fail
app.run(main.main)
"""

# A Ctrl-C that falls into a callback of the garbage collector.
UNHEARD = """
import gc, signal, time
from absl import app
from vimonet_jax import main
def stop(phase, info):
  if phase == 'start':
    gc.callbacks.remove(stop)
    signal.raise_signal(signal.SIGINT)
def work(config, workdir):
  gc.callbacks.append(stop)
  gc.collect()
  for _ in range(1000):
    time.sleep(0.01)
  return 0
main.TASKS['pipeline'] = work
signal.signal(signal.SIGINT, signal.default_int_handler)
app.run(main.main)
"""


def _run(*arguments, program=PROGRAM):
  """Exit status and everything that was printed."""
  found = subprocess.run(
    [sys.executable, '-c', program, *arguments],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
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
  status, output = _run(CONFIG, *arguments)
  assert status == 3
  assert f'{told}\n' in output
  # A task loads what it needs and no other's libraries.
  assert 'has loaded jax: False' in output


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    ([CONFIG, '--task=dance'], f"to be one of {KNOWN}, found 'dance'."),
    ([], 'Expected --config, e.g. --config=configs/tiny.py, found none.'),
    ([CONFIG, 'eval', 'now'], 'Expected flags only, found eval now.'),
    (
      [CONFIG, '--workdir=gs://bucket/run'],
      'a mounted file system, found gs://bucket/run; mount the bucket on every',
    ),
    ([CONFIG, '--workdir=setup.py'], '--workdir to be a folder, found the'),
    (
      [CONFIG, '--task=show', '--output=README.md'],
      'Expected --output to be a folder, found the file README.md; name',
    ),
    (
      [CONFIG, '--task=chat', '--distributed'],
      'Expected --task=chat in one process, found flags for several; start it',
    ),
    ([CONFIG, '--coordinator=host:1', '--process=0'], 'found no --processes;'),
    ([CONFIG, '--distributed'], 'Slurm or Open MPI, found none of them ('),
  ],
)
def test_a_wrong_command_ends_with_a_sentence(arguments, sentence):
  status, output = _run(*arguments)
  assert status == 1
  assert sentence in output
  assert 'has loaded jax' not in output
  assert 'Traceback' not in output


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    ([], 'Expected --config, e.g. --config=configs/tiny.py, found none.'),
    (['--config='], f'to name a file, found no name in {ROOT}; correct it'),
    (['--config'], f'to name a file, found no name in {ROOT}; correct it'),
    (
      ['--config=configs/tinny.py:smoke', '--config.seed=5'],
      f'to name a file, found no configs/tinny.py in {ROOT}; correct it',
    ),
    (
      ['--config=configs/tiny.py:smok'],
      "\nExpected configs/tiny.py or configs/tiny.py:smoke, found ':smok'.\n",
    ),
    (
      [CONFIG, '--config.instruct.step=9'],
      "Expected settings of the configuration, found 'step' Did you mean "
      '"steps" instead of "step"? among --config.instruct.step=9; its file',
    ),
    (
      [CONFIG, '--config.seed=1', '--config.eval.rose=9', '--task=eval'],
      'among --config.eval.rose=9; its file lists those that there are.',
    ),
    # Behind others, which absl would define twice to tell what is wrong.
    (
      [CONFIG, '--config.workdir=a', '--config.seed=one'],
      "of their kind, found flag --config.seed=one: invalid literal for int() "
      "with base 10: 'one'; --helpshort lists flags",
    ),
    (
      [CONFIG, '--config.workdir=a', '--quetsion=Why?'],
      "of their kind, found Unknown command line flag 'quetsion'",
    ),
  ],
)
def test_a_wrong_configuration_ends_with_a_sentence(arguments, sentence):
  found = subprocess.run(
    [sys.executable, '-m', 'vimonet_jax.main', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert found.returncode == 1
  assert sentence in found.stdout + found.stderr
  assert 'Traceback' not in found.stderr


def test_a_package_that_is_not_there_is_installed_with_its_extra():
  error = ModuleNotFoundError("No module named 'uvicorn'", name='uvicorn')
  assert main._sentence(error, 'demo') == (
    "Expected the package uvicorn, found none; pip install -e '.[demo]' gets "
    'what --task=demo needs.'
  )


@pytest.mark.parametrize(
  ('kind', 'status', 'sentence'),
  [
    ('value', 1, 'Expected a, found b; do c.\n(--verbosity=1 shows where.)'),
    ('os', 1, 'Expected a, found b; do c.\n(--verbosity=1 shows where.)'),
    ('stop', 130, 'the same command goes on from here.'),
    (
      "open('no/file')",
      1,
      'Expected to open no/file, found: No such file or directory; correct the '
      'path, or who may use it.\n(--verbosity=1 shows where.)',
    ),
    ('package', 1, 'Expected a, found b; do c.\n(--verbosity=1 shows where.)'),
    (
      'import nowhere.deeper',
      1,
      "Expected the package nowhere, found none; pip install -e '.' gets what "
      '--task=pipeline needs.\n(--verbosity=1 shows where.)',
    ),
  ],
)
def test_a_task_that_fails_or_is_stopped_ends_with_a_sentence(
  kind, status, sentence
):
  found, output = _run(CONFIG, f'--workdir={kind}', program=FAILING)
  assert found == status
  assert output.strip().endswith(sentence)
  assert 'Traceback' not in output


def test_what_can_be_installed_is_called_as_setup_calls_it(monkeypatch):
  told = {}
  # Python no longer brings setuptools, which only installs.
  stub = types.SimpleNamespace(setup=told.update, find_packages=lambda **_: [])
  monkeypatch.setitem(sys.modules, 'setuptools', stub)
  runpy.run_path(str(ROOT / 'setup.py'))
  named = {
    name
    for folder in ('vimonet_jax', 'configs', 'launch', 'README.md', 'tests')
    for path in (ROOT / folder, *(ROOT / folder).rglob('*.*'))
    if path.suffix in ('.py', '.sh', '.md')
    for name in re.findall(r"'\.\[([a-z]+)\]'", path.read_text())
  }
  assert {'api', 'parity', 'beam'} < named <= set(told['extras_require'])


def test_links_of_the_readme_lead_to_its_sections():
  text = (ROOT / 'README.md').read_text()
  titles = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
  places = {re.sub(r'[^\w -]', '', x.lower()).replace(' ', '-') for x in titles}
  links = set(re.findall(r'\]\(#([^)]*)\)', text))
  assert len(links) > 5
  assert links <= places


def test_ctrl_c_is_heard_wherever_it_falls():
  status, output = _run(CONFIG, program=UNHEARD)
  assert status == 130, output
  assert output == '\nStopped; the same command goes on from here.\n'


def test_where_it_failed_is_told_on_request_and_a_bug_always_is():
  _, output = _run(CONFIG, '--workdir=value', '--verbosity=1', program=FAILING)
  assert 'Traceback' in output
  for bug in ('bug', 'import vimonet_jax.nowhere'):
    _, output = _run(CONFIG, f'--workdir={bug}', program=FAILING)
    assert 'Traceback' in output
