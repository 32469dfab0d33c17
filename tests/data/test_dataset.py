import json
import pickle
import shutil
import subprocess
import sys

import grain.python as grain
import pytest
import tensorflow_datasets as tfds

from vimonet_jax.data import dataset


def test_several_datasets_are_told_apart(built, tmp_path):
  shutil.copytree(built, tmp_path, dirs_exist_ok=True)
  shutil.copytree(tmp_path / 'vimos/synthetic', tmp_path / 'vimos/folder')
  with pytest.raises(ValueError, match='found folder, synthetic; choose'):
    dataset.open(tmp_path, 'train')
  assert len(dataset.open(tmp_path, 'train', name='synthetic')) == 11


def test_a_source_can_be_sent_and_read_by_grain(built):
  source = pickle.loads(pickle.dumps(dataset.open(built, 'train')))
  data = grain.MapDataset.source(source).seed(0).shuffle().batch(1)
  names = {batch for (batch,) in data.map(lambda rs: [rs[0].id])}
  assert names == {f'train-{i}' for i in range(11)}


def test_what_is_missing_is_named(built, tmp_path):
  with pytest.raises(ValueError, match='train, val.*dev'):
    dataset.open(built, 'dev')
  with pytest.raises(FileNotFoundError, match='task=pipeline'):
    dataset.open(tmp_path, 'train')
  with pytest.raises(IndexError):
    dataset.open(built, 'val')[3]


def test_who_has_what_is_known_without_reading(built, tmp_path, monkeypatch):
  shutil.copytree(built, tmp_path, dirs_exist_ok=True)
  source = dataset.open(tmp_path, 'train')
  has = {name: [] for name in dataset.ARRAYS}
  for number, record in enumerate(source):
    for name, numbers in has.items():
      if getattr(record, name) is not None:
        numbers.append(number)
  assert 0 < len(has['frames']) < len(has['motion']) < len(source)
  monkeypatch.setattr(dataset.Source, '_read', None)
  assert source.having('motion') == has['motion'] == source.having('joints')
  both = sorted({*has['motion']} & {*has['frames']})
  assert source.having('motion', 'frames') == both
  assert source.having() == list(range(len(source)))
  assert dataset.open(tmp_path, 'train[:4]').having('motion') is None
  (path,) = tmp_path.rglob('has-train.npy')
  path.write_bytes(next(tmp_path.rglob('has-val.npy')).read_bytes())
  with pytest.raises(ValueError, match=r'tell of 11 records, found \[3, 3\]'):
    source.having('motion')
  path.unlink()
  assert source.having('motion') is None


def test_tfds_reads_the_dataset_without_us(built):
  folder = built / 'vimos' / 'synthetic' / dataset.VERSION
  other = tfds.builder_from_directory(folder)
  example = other.as_data_source('val')[0]
  assert example['motion'].shape == (40, 263)
  assert json.loads(example['turns'])[0]['fact'] == 'left'
  assert other.info.metadata['num_train'] == 11


def test_reading_needs_neither_tensorflow_nor_the_world(built):
  code = (
    'import sys; from vimonet_jax.data import dataset; '
    f'dataset.open({str(built)!r}, "train")[0]; '
    'print([m for m in ("tensorflow", "torch", "jax", '
    '"vimonet_jax.synthetic.world") if m in sys.modules])'
  )
  out = subprocess.check_output([sys.executable, '-c', code], text=True)
  assert out.strip() == '[]'


def test_what_is_hidden_is_never_decoded(built, monkeypatch):
  assert any(x.frames is not None for x in dataset.open(built, 'train'))
  decode = tfds.features.Tensor.decode_example_np

  def check(self, data):
    assert self.np_dtype != 'uint8', 'a frame is decoded'
    return decode(self, data)

  monkeypatch.setattr(tfds.features.Tensor, 'decode_example_np', check)
  opened = dataset.open(built, 'train', hidden=['frames'])
  hidden = list(pickle.loads(pickle.dumps(opened)))
  assert all(x.frames is None for x in hidden)
  assert any(x.motion is not None for x in hidden)
  with pytest.raises(ValueError, match='a frame is decoded'):
    list(dataset.open(built, 'train'))
