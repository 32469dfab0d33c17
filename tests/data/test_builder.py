import dataclasses
import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import time

import grain.python as grain
import numpy as np
import pytest
import tensorflow_datasets as tfds

from vimonet_jax.data import builder, records
from vimonet_jax.synthetic import world


@dataclasses.dataclass(frozen=True)
class Fake:
  """What stands in for the world: quick, and every third clip lacks media."""

  name = 'synthetic'
  image_size = 16
  seed: int = 0
  num_train: int = 11
  num_val: int = 3
  sleep_s: float = 0.0

  def splits(self):
    numbers = {'train': self.num_train, 'val': self.num_val, 'test': 0}
    return {s: [(s, i) for i in range(n)] for s, n in numbers.items()}

  def make(self, item):
    split, index = item
    time.sleep(self.sleep_s)
    rng = np.random.default_rng((self.seed, index))
    length = 40 + 4 * index
    has_media = index % 3 != 2
    return records.Record(
      id=f'{split}-{index}',
      source='fake',
      split=split,
      motion=rng.normal(size=(length, 263)).astype(np.float32)
      if has_media
      else None,
      joints=rng.normal(size=(length + 1, 22, 3)).astype(np.float32)
      if has_media
      else None,
      frames=rng.integers(0, 256, (8, 16, 16, 3), np.uint8)
      if index % 2
      else None,
      motion_text=None if has_media else 'walking walking',
      turns=(
        records.Turn('Où?', 'Left.', 'direction', 'to', 'left', ('left', 'x')),
        records.Turn('Describe.', 'Someone walks.', 'motion_caption'),
      ),
      provenance={'licence': 'none', 'seed': self.seed, 'list': [1, 2]},
    )

  def identity(self):
    return dataclasses.asdict(self)


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  folder = tmp_path_factory.mktemp('built')
  builder.build(Fake(), folder, processes=1, progress=False)
  return folder


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
  source = builder.open(built, 'train')
  assert len(source) == 11
  for index, record in enumerate(source):
    _assert_same(record, Fake().make(('train', index)))
  _assert_same(source[-1], source[10])
  assert len(builder.open(built, 'train[:4]')) == 4
  assert len(builder.open(built, 'val')) == 3


def test_bytes_depend_neither_on_the_run_nor_on_processes(built, tmp_path):
  run = _start_build(tmp_path, 'Fake()', processes=2)
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
    source = builder.open(tmp_path, split)
    assert len(source) == number
    for index, record in enumerate(source):
      _assert_same(record, drawn.make_record(split, index))


def test_several_datasets_are_told_apart(built, tmp_path):
  shutil.copytree(built, tmp_path, dirs_exist_ok=True)
  shutil.copytree(tmp_path / 'vimos/synthetic', tmp_path / 'vimos/folder')
  with pytest.raises(ValueError, match='found synthetic, folder; choose'):
    builder.open(tmp_path, 'train')
  assert len(builder.open(tmp_path, 'train', name='synthetic')) == 11


def test_records_are_cut_into_files(tmp_path, monkeypatch):
  monkeypatch.setattr(builder, '_EXAMPLES_PER_FILE', 4)
  builder.build(Fake(), tmp_path, processes=1, progress=False)
  assert sum('train' in name for name in _files(tmp_path)) == 3
  source = builder.open(tmp_path, 'train')
  assert [r.id for r in source] == [f'train-{i}' for i in range(11)]


def test_another_build_changes_nothing(built):
  before = {path: path.stat().st_mtime_ns for path in built.rglob('*.array*')}
  builder.build(Fake(), built, processes=1, progress=False)
  assert before == {p: p.stat().st_mtime_ns for p in built.rglob('*.array*')}


def test_data_of_another_config_is_refused(built):
  with pytest.raises(ValueError, match='seed=0 instead of 1.*remove'):
    builder.build(Fake(seed=1), built, processes=1, progress=False)


def test_a_failed_build_leaves_no_dataset(tmp_path, monkeypatch):
  def fail(self, item):
    raise RuntimeError(f'no {item}')

  with monkeypatch.context() as patch:
    patch.setattr(Fake, 'make', fail)
    with pytest.raises(RuntimeError, match='no '):
      builder.build(Fake(), tmp_path, processes=1, progress=False)
  with pytest.raises(FileNotFoundError, match='found none'):
    builder.open(tmp_path, 'train')
  builder.build(Fake(), tmp_path, processes=1, progress=False)
  assert len(builder.open(tmp_path, 'train')) == 11


_SCRIPT = """
import test_builder
from vimonet_jax.data import builder
if __name__ == '__main__':
  config = test_builder.{config}
  builder.build(config, {data_dir!r}, processes={processes})
"""


def _start_build(folder, config, processes):
  """Another program that builds in folder/data and writes folder/log."""
  script = folder / 'build.py'
  script.write_text(
    _SCRIPT.format(
      config=config, data_dir=str(folder / 'data'), processes=processes
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
  config = 'Fake(num_train=5000, sleep_s=0.02)'
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
    builder.open(tmp_path / 'data', 'train')
  builder.build(Fake(), tmp_path / 'data', processes=1, progress=False)
  assert len(builder.open(tmp_path / 'data', 'train')) == 11
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


def test_a_source_can_be_sent_and_read_by_grain(built):
  source = pickle.loads(pickle.dumps(builder.open(built, 'train')))
  data = grain.MapDataset.source(source).seed(0).shuffle().batch(1)
  names = {batch for (batch,) in data.map(lambda rs: [rs[0].id])}
  assert names == {f'train-{i}' for i in range(11)}


def test_what_is_missing_is_named(built, tmp_path):
  with pytest.raises(ValueError, match='train, val.*dev'):
    builder.open(built, 'dev')
  with pytest.raises(FileNotFoundError, match='task=pipeline'):
    builder.open(tmp_path, 'train')
  with pytest.raises(IndexError):
    builder.open(built, 'val')[3]


def test_tfds_reads_the_dataset_without_us(built):
  folder = built / 'vimos' / 'synthetic' / str(builder.Vimos.VERSION)
  other = tfds.builder_from_directory(folder)
  example = other.as_data_source('val')[0]
  assert example['motion'].shape == (40, 263)
  assert json.loads(example['turns'])[0]['fact'] == 'left'
  assert other.info.metadata['num_train'] == 11


def test_reading_needs_neither_tensorflow_nor_the_world(built):
  code = (
    'import sys; from vimonet_jax.data import builder; '
    f'builder.open({str(built)!r}, "train")[0]; '
    'print([m for m in ("tensorflow", "torch", "jax", '
    '"vimonet_jax.synthetic.world") if m in sys.modules])'
  )
  out = subprocess.check_output([sys.executable, '-c', code], text=True)
  assert out.strip() == '[]'
