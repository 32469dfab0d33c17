import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import samples

from vimonet_jax.data import builder, dataset, records
from vimonet_jax.synthetic import world


def _assert_same(found, expected):
  for field in dataclasses.fields(records.Record):
    ours, theirs = (getattr(r, field.name) for r in (found, expected))
    if isinstance(theirs, np.ndarray):
      assert ours.dtype == theirs.dtype, field.name
      np.testing.assert_array_equal(ours, theirs)
    else:
      assert ours == theirs, field.name


def _files(folder):
  return {
    path.name: path.read_bytes()
    for path in pathlib.Path(folder).rglob('*.array_record*')
  }


def test_records_come_back_as_they_were_made_and_in_order(built):
  source = dataset.open(built, 'train')
  assert len(source) == 11
  for index, record in enumerate(source):
    _assert_same(record, samples.Fake().make(('train', index)))
  _assert_same(source[-1], source[10])
  assert len(dataset.open(built, 'train[:4]')) == 4
  assert len(dataset.open(built, 'val')) == 3


def test_bytes_depend_neither_on_the_run_nor_on_processes(built, tmp_path):
  run = _start_build(tmp_path, 'samples.Fake()', processes=2)
  assert run.wait() == 0
  assert _files(built)
  assert _files(tmp_path) == _files(built)


def test_the_synthetic_world_is_kept_as_drawn(tmp_path):
  config = builder.Synthetic(
    seed=3, image_size=32, num_train=3, num_val=1, num_test=2
  )
  builder.build(config, tmp_path, processes=1, progress=False)
  drawn = world.World(seed=3, image_size=32)
  for split, number in (('train', 3), ('val', 1), ('test', 2)):
    source = dataset.open(tmp_path, split)
    assert len(source) == number
    for index, record in enumerate(source):
      _assert_same(record, drawn.make_record(split, index))


def test_records_are_cut_into_files(tmp_path, monkeypatch):
  monkeypatch.setattr(builder, '_EXAMPLES_PER_FILE', 4)
  builder.build(samples.Fake(), tmp_path, processes=1, progress=False)
  assert sum('train' in name for name in _files(tmp_path)) == 3
  source = dataset.open(tmp_path, 'train')
  assert [r.id for r in source] == [f'train-{i}' for i in range(11)]


def test_another_build_changes_nothing(built):
  before = {path: path.stat().st_mtime_ns for path in built.rglob('*.array*')}
  builder.build(samples.Fake(), built, processes=1, progress=False)
  assert before == {p: p.stat().st_mtime_ns for p in built.rglob('*.array*')}


def test_data_of_another_config_is_refused(built):
  with pytest.raises(ValueError, match='seed=0 instead of 1.*remove'):
    builder.build(samples.Fake(seed=1), built, processes=1, progress=False)


def test_a_failed_build_leaves_no_dataset(tmp_path, monkeypatch):
  def fail(self, item):
    raise RuntimeError(f'no {item}')

  with monkeypatch.context() as patch:
    patch.setattr(samples.Fake, 'make', fail)
    with pytest.raises(RuntimeError, match='no '):
      builder.build(samples.Fake(), tmp_path, processes=1, progress=False)
  with pytest.raises(FileNotFoundError, match='found none'):
    dataset.open(tmp_path, 'train')
  builder.build(samples.Fake(), tmp_path, processes=1, progress=False)
  assert len(dataset.open(tmp_path, 'train')) == 11


def _failed(folder):
  path = pathlib.Path(folder) / 'vimos' / 'synthetic' / builder.FAILED
  return path.read_text().splitlines()


def test_who_cannot_be_made_is_named_and_the_rest_is_built(
  tmp_path, monkeypatch
):
  # The second file would have one record, and that one fails.
  monkeypatch.setattr(builder, '_EXAMPLES_PER_FILE', 10)
  source = samples.Fake(failing=(4, 9))
  (tmp_path / 'data').mkdir()
  run = _start_build(tmp_path, 'samples.Fake(failing=(4, 9))', processes=2,
                     max_failed=2)  # fmt: skip
  builder.build(
    source, tmp_path / 'one', processes=1, progress=False, max_failed=2
  )
  ids = [record.id for record in dataset.open(tmp_path / 'one', 'train')]
  assert ids == [f'train-{i}' for i in range(11) if i not in (4, 9)]
  assert _failed(tmp_path / 'one') == [
    "('train', 4): a file is broken.", "('train', 9): a file is broken."
  ]  # fmt: skip
  assert run.wait() == 0
  assert _failed(tmp_path / 'data') == _failed(tmp_path / 'one')
  assert _files(tmp_path / 'data') == _files(tmp_path / 'one')
  assert '2 records could not be made' in (tmp_path / 'log').read_text()


def test_more_than_may_fail_end_the_build(tmp_path):
  source = samples.Fake(failing=(4, 9))
  message = (
    r"at most 1 records .* found 2, the last \('train', 9\): a file is broken"
    r'. All are in .*failed.txt: mend'
  )
  for _ in range(2):  # The second build tells of its own.
    with pytest.raises(ValueError, match=message):
      builder.build(
        source, tmp_path, processes=1, progress=False, max_failed=1
      )
    assert len(_failed(tmp_path)) == 2
  with pytest.raises(FileNotFoundError, match='found none'):
    dataset.open(tmp_path, 'train')


def test_a_split_of_which_nothing_can_be_made_ends_the_build(tmp_path):
  source = samples.Fake(num_train=2, failing=(0, 1))
  with pytest.raises(ValueError, match='for train, found that none of 2 can'):
    builder.build(source, tmp_path, processes=1, progress=False, max_failed=9)


_SCRIPT = """
import samples
from vimonet_jax.data import builder
if __name__ == '__main__':
  config = {config}
  builder.build(
    config, {data_dir!r}, processes={processes}, max_failed={max_failed}
  )
"""


def _start_build(folder, config, processes, max_failed=0):
  """Another program that builds in folder/data and writes folder/log."""
  script = folder / 'build.py'
  script.write_text(
    _SCRIPT.format(
      config=config,
      data_dir=str(folder / 'data'),
      processes=processes,
      max_failed=max_failed,
    )
  )
  path = os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path])
  with open(folder / 'log', 'w') as log:
    return subprocess.Popen(
      [sys.executable, script],
      env=os.environ | {'PYTHONPATH': path},
      stderr=log,
      start_new_session=True,
    )


def test_a_killed_build_leaves_no_dataset_and_no_process(tmp_path):
  config = 'samples.Fake(num_train=5000, sleep_s=0.02)'
  process = _start_build(tmp_path, config, processes=2)
  log = tmp_path / 'log'
  deadline = time.time() + 60
  while 'clip/s' not in log.read_text() and time.time() < deadline:
    time.sleep(0.05)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert 'vimos/synthetic' in log.read_text()
  leftover = list(tmp_path.glob('data/vimos/synthetic/incomplete.*'))
  assert len(leftover) == 1
  with pytest.raises(FileNotFoundError):
    dataset.open(tmp_path / 'data', 'train')
  builder.build(samples.Fake(), tmp_path / 'data', processes=1, progress=False)
  assert len(dataset.open(tmp_path / 'data', 'train')) == 11
  assert not list(tmp_path.glob('data/vimos/synthetic/incomplete.*'))
  deadline = time.time() + 10
  while _is_alive(process.pid) and time.time() < deadline:
    time.sleep(0.05)
  assert not _is_alive(process.pid)


def _is_alive(session):
  """Whether a process of the session is left."""
  try:
    os.killpg(session, 0)
  except ProcessLookupError:
    return False
  return True
