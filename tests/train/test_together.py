"""One run in several processes, on other devices, and in both by turns.

Eight devices in one process, four in each of two, four, or one: all read the
same eight shares of the data, so the batches are the same, and only the order
in which sums over rows are added is another.
"""

import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
import together
import toy
import two_processes

from vimonet_jax import cluster, sharding, weight_files
from vimonet_jax.data import batches

ROOT = pathlib.Path(__file__).parents[2]


def _losses(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  found = [json.loads(line) for line in lines]
  assert [line['step'] for line in found] == list(range(1, len(found) + 1))
  return np.array([line['loss'] for line in found])


def _weights(folder):
  return weight_files.load(str(folder / 'weights'))


def _mesh(devices=8):
  return sharding.make_mesh(
    data=-1, fsdp=min(2, devices), devices=jax.devices()[:devices]
  )


@pytest.fixture(scope='module')
def runs(tmp_path_factory, tiny_model):
  """Folders of runs, of which two processes have done some."""
  root = tmp_path_factory.mktemp('runs')
  together.train(root / 'alone', 20, _mesh())
  together.train(root / 'half', 10, _mesh())
  shutil.copytree(root / 'half', root / 'half_alone')
  environment = {
    **os.environ,
    'PYTHONPATH': f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}',
    # On a busy machine one compiles for longer than the other waits: 30 s.
    'XLA_FLAGS': (
      '--xla_force_host_platform_device_count=4 '
      '--xla_cpu_collective_timeout_seconds=600'
    ),
    'JAX_PLATFORMS': 'cpu',
  }
  ended = two_processes.run(
    lambda port, i: [
      *(together.__file__, str(root), f'{tiny_model.workdir}/model'),
      *(f'localhost:{port}', '2', str(i)),
    ],
    environment=environment,
    timeout_s=900,
  )
  # Who fails first says why; the others, only that somebody was missing.
  outputs = '\n\n'.join(output[-4000:] for _, output in ended)
  assert [status for status, _ in ended] == [0, 0], outputs
  told = [json.loads((root / f'told-{i}.json').read_text()) for i in range(2)]
  assert [some['devices'] for some in told] == [[4, 8]] * 2
  return root, told


def _assert_alike(ours, theirs):
  """As one run and another that adds its sums in another order.

  Measured over 20 steps, two EPYC cores, 2026-11-28: losses from 0.09 to 32
  differ by 4e-6 at most.
  """
  np.testing.assert_allclose(_losses(ours), _losses(theirs), rtol=0, atol=1e-5)
  ours, theirs = _weights(ours), _weights(theirs)
  assert ours.keys() == theirs.keys()
  for path in ours:
    np.testing.assert_allclose(
      ours[path], theirs[path], rtol=0, atol=1e-5, err_msg=path
    )


def test_two_processes_have_the_loss_curve_of_one(runs):
  root, _ = runs
  assert len(_losses(root / 'together')) == 20
  _assert_alike(root / 'together', root / 'alone')


def test_what_eight_devices_saved_is_the_same_bits_anywhere(runs):
  root, told = runs
  found = {told[0]['restored'], told[1]['restored']}
  for devices in (8, 4, 1):
    found.add(together.restored(root / 'half', _mesh(devices)))
  assert len(found) == 1


@pytest.mark.parametrize('devices', [8, 4, 1])
def test_one_process_goes_on_from_eight_devices(runs, tmp_path, devices):
  root, _ = runs
  shutil.copytree(root / 'half', tmp_path / 'run')
  summary = together.train(tmp_path / 'run', 20, _mesh(devices))
  assert summary['started_from'] == 'its own checkpoint'
  _assert_alike(tmp_path / 'run', root / 'alone')
  if devices == 8:
    for path, x in _weights(tmp_path / 'run').items():
      assert x.tobytes() == _weights(root / 'alone')[path].tobytes(), path


def test_two_processes_go_on_from_one_and_one_from_two(runs, tmp_path):
  root, _ = runs
  _assert_alike(root / 'half_alone', root / 'alone')
  shutil.copytree(root / 'half_together', tmp_path / 'run')
  summary = together.train(tmp_path / 'run', 20, _mesh())
  assert summary['started_from'] == 'its own checkpoint'
  _assert_alike(tmp_path / 'run', root / 'alone')


def test_two_processes_answer_as_one_and_the_first_one_writes(
  runs, tiny_model, tmp_path
):
  root, told = runs
  model = f'{tiny_model.workdir}/model'
  alone = together.answers(model, _mesh(), tmp_path / 'answers.jsonl')
  assert any(alone)
  assert [some['answers'] for some in told] == [alone] * 2
  lines = (root / 'answers.jsonl').read_text()
  assert lines == (tmp_path / 'answers.jsonl').read_text()


def test_what_one_process_cannot_read_none_goes_on_with(runs):
  _, told = runs
  assert [some['unlike'] for some in told] == [['2', 'damaged-5']] * 2


def test_who_fails_does_not_leave_the_others_waiting(runs):
  _, told = runs
  first, last = (some['error'] for some in told)
  assert last == 'Expected a, found b.'
  assert first == 'Process 1 says: Expected a, found b.'


def test_a_folder_that_each_host_has_for_itself_is_said_in_all(runs):
  root, told = runs
  first, last = (some['unshared'] for some in told)
  assert f'{root}/own-1 to be one folder for all processes, found' in last
  assert first == f'Process 1 says: {last}'
  assert [*(root / 'own-0').iterdir()] == []


def test_sigterm_to_one_process_saves_in_all(runs):
  root, told = runs
  assert [some['status'] for some in told] == [143, 143]
  # All stop at one step, some time after the signal; each tenth is saved, too.
  saved = (root / 'terminated' / 'checkpoints').iterdir()
  step = max(int(path.name) for path in saved)
  assert 6 <= step == len(_losses(root / 'terminated'))


def test_other_shares_are_not_gone_on_with(tmp_path):
  """As when a run began with one share for each process."""
  mesh = _mesh()
  folder = tmp_path / 'run'
  toy.train(folder, 4, mesh=mesh)
  with pytest.raises(ValueError, match='in shares of which one is number 0'):
    together.train(folder, 8, mesh)
  shares = {i: toy.dataset(share=i, shares=2) for i in range(2)}
  toy.train(tmp_path / 'two', 4, mesh=mesh, data=batches.join(shares))
  with pytest.raises(ValueError, match='number 2, found 2;'):
    together.train(tmp_path / 'two', 8, mesh)


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (('host:1', 2, None), 'together, found no --process;'),
    ((None, 2, 1), 'together, found no --coordinator;'),
    ((None, None, 1), 'found no --coordinator and no --processes;'),
    (('host', 2, 1), "HOST:PORT, e.g. 10.0.0.1:1234, found 'host'."),
    (('host:1', 2, 2), 'from 0 to 1 for --processes=2, found 2.'),
  ],
)
def test_half_an_address_is_refused(arguments, sentence):
  with pytest.raises(ValueError, match='Expected --') as error:
    cluster.join(*arguments)
  assert sentence in str(error.value)
