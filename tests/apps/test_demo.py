"""From the command to the page, and back after a Ctrl-C."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest

pytest.importorskip('gradio', reason="needs gradio: pip install -e '.[demo]'")

import httpx
import numpy as np
import visitor

from vimonet_jax import fingerprint, weight_files
from vimonet_jax.audit import log as logs
from vimonet_jax.infer import model_folder
from vimonet_jax.synthetic import world

ROOT = pathlib.Path(__file__).parents[2]


@contextlib.contextmanager
def _start(workdir, *flags, **environment):
  """The command with that work folder; both its outputs are one."""
  command = [
    sys.executable, '-m', 'vimonet_jax.main', '--config=configs/tiny.py',
    '--task=demo', f'--workdir={workdir}', '--config.demo.examples=0', *flags,
  ]  # fmt: skip
  # One device: a mesh of eight answers eight times.
  one = {'XLA_FLAGS': ''} | environment
  process = subprocess.Popen(
    command,
    cwd=ROOT,
    env={**os.environ, **one},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  try:
    yield process
  finally:
    process.kill()
    process.communicate()


def _end(workdir, *flags):
  """Exit code and last words of a command that does not start."""
  with _start(workdir, *flags) as process:
    said, _ = process.communicate(timeout=120)
  return process.returncode, said


@pytest.mark.parametrize('ended_by', [signal.SIGINT, signal.SIGTERM])
def test_it_opens_asks_for_its_password_and_ends_quietly(
  tiny_model, tmp_path, ended_by
):
  secret = tmp_path / 'password'
  secret.write_text('sesame\n')
  with _start(
    tiny_model.workdir,
    '--config.demo.port=0',
    f'--config.demo.password_file={secret}',
    TMPDIR=str(tmp_path),
  ) as process:
    line = process.stdout.readline()
    url = re.match(r'(http://127.0.0.1:\d+) is ready; Ctrl-C', line)[1]
    assert httpx.get(url).status_code == 401
    page = httpx.get(url, auth=('', 'sesame'), timeout=60)
    assert page.status_code == 200
    assert 'Usage policy' in page.text
    query = {'kind': 'motion', 'name': 'x.npy'}
    reply = httpx.post(
      f'{url}/clip', params=query, content=b'x', auth=('', 'sesame')
    )
    assert reply.status_code == 400
    assert _files(tmp_path) <= {secret, *tmp_path.rglob('*.lock')}
    process.send_signal(ended_by)
    said, _ = process.communicate(timeout=60)
  assert process.returncode == 0
  assert said.strip() == 'The page is closed.'
  assert _files(tmp_path) == {secret}


def test_what_is_asked_of_it_is_written_down(tiny_model, tmp_path):
  paths = {x: tmp_path / x for x in ('secret', 'key', 'log', 'w.npy')}
  for name in ('secret', 'key'):
    paths[name].write_bytes(bytes(range(32)))
  np.save(paths['w.npy'], world.World().make_record('test', 0).motion)
  sent = paths['w.npy'].read_bytes()
  with (
    _start(
      tiny_model.workdir,
      '--config.demo.port=0',
      '--config.demo.max_new_tokens=4',
      f'--config.log.file={paths["log"]}',
      f'--config.log.secret_file={paths["secret"]}',
      f'--config.watermark.key_file={paths["key"]}',
    ) as process,
    httpx.Client(timeout=300) as client,
  ):
    said = process.stdout.readline()
    assert (found := re.match(r'(http\S+) is ready', said)), said
    client.base_url = found[1]
    query = {'kind': 'motion', 'name': 'w.npy'}
    ticket = client.post('/clip', params=query, content=sent).json()
    visitor.call(client, 'given', [], session='a', told=ticket)
    asked = ['What?', False, False, 5]
    assert visitor.call(client, 'submit', asked, session='a')[-1]['success']
    begun, ended = map(json.loads, paths['log'].read_text().splitlines())
  assert begun['outcome'] == logs.BEGUN
  assert ended['outcome'] in ('stop', 'length')
  weights = weight_files.Lazy(
    model_folder.weights(f'{tiny_model.workdir}/model')
  )
  with logs.Log(str(tmp_path / 'other'), str(paths['secret'])) as other:
    digest = other.keyed(sent)
  for line in (begun, ended):
    assert line['request'] == begun['request']
    assert [x['digest'] for x in line['media']] == [digest]
    assert line['model'] == fingerprint.of(weights)
    assert line['watermark'] is True
    assert line['question_characters'] == len('What?')
  assert logs.verify(str(paths['log']), str(paths['secret'])).is_intact


def _files(folder):
  return {path for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize(
  ('flag', 'sentence'),
  [
    ('--workdir=nowhere', 'Expected a finished model in nowhere/model, found'),
    ('--config.demo.password_file=nowhere', 'Expected to open nowhere, found'),
    ('--sampling=wild', "motionllm, found 'wild'"),
    ('--config.demo.port=80000', 'found 80000; choose one, or 0 for one'),
    ('--config.demo.waiting=0', 'waiting above 0, found 0; choose another'),
    ('--config.uploads.readers=0', 'readers of 1 or more, found 0; choose'),
    ('--config.demo.host=256.0.0.1', 'choose others with --config.demo.host'),
  ],
)
def test_what_is_wrong_is_said_in_a_sentence(tiny_model, flag, sentence):
  code, said = _end(tiny_model.workdir, flag)
  assert code == 1
  assert sentence in said
  assert 'Traceback' not in said


def test_a_port_that_is_taken_is_said_before_weights_are_read(tmp_path):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    from vimonet_jax.apps import listening

    with pytest.raises(OSError, match=f'127.0.0.1:{port}, found: Address'):
      listening.listen('127.0.0.1', port, section='demo')


def test_an_empty_password_is_none(tmp_path):
  from vimonet_jax.apps import demo

  path = tmp_path / 'password'
  path.write_text('\nsesame')
  with pytest.raises(ValueError, match='its first line empty; write it'):
    demo._password(str(path))
  assert demo._password('') == ''
