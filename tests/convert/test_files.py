"""Files of both kinds: whole, in shards, damaged, and not what they seem."""

import argparse
import json
import os
import pickle
import stat
import sys
import weakref

import ml_dtypes
import numpy as np
import originals
import pytest

from vimonet_jax.convert import files

torch = pytest.importorskip('torch', reason='needs torch')
safetensors = pytest.importorskip(
  'safetensors.torch', reason='needs safetensors'
)

DTYPES = {
  'float32': torch.float32,
  'float16': torch.float16,
  'bfloat16': torch.bfloat16,
}


def _tensors():
  """Names and numbers as checkpoints have them, one of each kind."""
  torch.manual_seed(0)
  return {
    'layer.weight': torch.randn(6, 4),
    'layer.bias': torch.randn(4).to(torch.bfloat16),
    'half.weight': torch.randn(2, 3, 5).to(torch.float16),
    'position_ids': torch.arange(7)[None],
    'logit_scale': torch.tensor(4.5),
  }


def _save(tensors, path):
  if path.suffix == '.safetensors':
    safetensors.save_file(tensors, path)
  else:
    torch.save(tensors, path)
  return path


def _has(checkpoint, tensors):
  """Whether shapes, size and every bit are those of the tensors."""
  assert checkpoint.shapes == {k: tuple(x.shape) for k, x in tensors.items()}
  assert checkpoint.size == sum(x.nbytes for x in tensors.values())
  for name, x in tensors.items():
    found = checkpoint.read(name)
    assert isinstance(found, np.ndarray)
    assert found.dtype.name == str(x.dtype).removeprefix('torch.')
    assert found.shape == tuple(x.shape)
    integers = x.view(torch.int16) if x.element_size() == 2 else x
    assert found.tobytes() == integers.numpy().tobytes(), name
  return True


# --- What can be opened ------------------------------------------------------


@pytest.mark.parametrize(
  'name', ['any.safetensors', 'any.bin', 'any.pth', 'any.pt', 'any.ckpt']
)
def test_one_file_is_read_as_it_is(tmp_path, name):
  path = _save(_tensors(), tmp_path / name)
  assert _has(files.open_checkpoint(path), _tensors())
  assert _has(files.open_checkpoint(str(path)), _tensors())
  # Alone in its folder, its name does not matter.
  assert _has(files.open_checkpoint(tmp_path), _tensors())


def test_a_torch_file_from_before_zip_archives_is_read(tmp_path):
  path = tmp_path / 'old.pth'
  torch.save(_tensors(), path, _use_new_zipfile_serialization=False)
  assert not path.read_bytes().startswith(b'PK')
  assert _has(files.open_checkpoint(path), _tensors())


def _shard(folder, stem, suffix):
  """Two shards and their index; which tensor is where does not follow order."""
  tensors = list(_tensors().items())
  weight_map = {}
  for k in range(2):
    part = dict(tensors[k::2])
    file = f'{stem}-{k + 1:05d}-of-00002.{suffix}'
    _save(part, folder / file)
    weight_map |= dict.fromkeys(part, file)
  index = folder / f'{stem}.{suffix}.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': weight_map}))
  return index


def test_only_so_much_of_torch_files_is_mapped_at_once(tmp_path, monkeypatch):
  """All would count as memory; but their pickles are slow to read each time."""
  weight_map = {}
  for names in ('abcd', 'efgh'):
    shard = {name: torch.full((8,), ord(name)) for name in names}
    _save(shard, tmp_path / f'{names}.bin')
    weight_map |= dict.fromkeys(names, f'{names}.bin')
  index = tmp_path / 'pytorch_model.bin.index.json'
  index.write_text(json.dumps({'weight_map': weight_map}))
  checkpoint = files.open_checkpoint(index)
  opened, open_it = [], files._torch

  def counted(shard):
    tensors = open_it(shard)
    opened.append(weakref.WeakValueDictionary(tensors))
    return tensors

  monkeypatch.setattr(files, '_MAPPED_BYTES', 100)
  monkeypatch.setattr(files, '_torch', counted)
  kept = {name: checkpoint.read(name) for name in 'abcefgh'}  # 64 bytes each.
  assert {name: set(x.tolist()) for name, x in kept.items()} == {
    name: {ord(name)} for name in 'abcefgh'
  }
  assert [len(x) for x in opened] == [0, 0, 0, 4]


@pytest.mark.parametrize(
  ('stem', 'suffix'), [('model', 'safetensors'), ('pytorch_model', 'bin')]
)
def test_shards_are_read_through_their_index(tmp_path, stem, suffix):
  index = _shard(tmp_path, stem, suffix)
  assert _has(files.open_checkpoint(index), _tensors())
  assert _has(files.open_checkpoint(tmp_path), _tensors())
  second = tmp_path / f'{stem}-00002-of-00002.{suffix}'
  second.unlink()
  with pytest.raises(
    files.CheckpointFileError, match=f'2 shards.*found no {second.name}; fetch'
  ):
    files.open_checkpoint(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
  index = _shard(tmp_path, 'model', 'safetensors')
  both = tmp_path / 'model-00002-of-00002.safetensors'
  _save({'layer.weight': torch.ones(6, 4)}, both)
  with pytest.raises(files.CheckpointFileError) as caught:
    files.open_checkpoint(index)
  for word in ('layer.weight', 'model-00001-of-00002', both.name):
    assert word in str(caught.value)


@pytest.mark.parametrize(
  'text',
  ['', '{"weight_map": {"a"', '{"metadata": {}}', '[]', '{"weight_map": 1}'],
)
def test_a_damaged_index_says_so(tmp_path, text):
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(text)
  with pytest.raises(files.CheckpointFileError, match='a weight_map.*again'):
    files.open_checkpoint(tmp_path)


def test_a_folder_with_several_is_read_where_no_code_runs(tmp_path):
  torch.save({'other': torch.ones(1)}, tmp_path / 'pytorch_model.bin')
  (tmp_path / 'config.json').write_text('{}')
  _save(_tensors(), tmp_path / 'model.safetensors')
  assert _has(files.open_checkpoint(tmp_path), _tensors())
  # A whole checkpoint before its adapter; the index before a stray shard.
  torch.save({'other': torch.ones(1)}, tmp_path / 'adapter_model.safetensors')
  assert _has(files.open_checkpoint(tmp_path), _tensors())


def test_a_folder_of_which_nobody_knows_what_is_meant_is_refused(tmp_path):
  with pytest.raises(files.CheckpointFileError, match='found none; name'):
    files.open_checkpoint(tmp_path)
  for name in ('net_best_fid.pth', 'net_last.pth'):
    torch.save(_tensors(), tmp_path / name)
  with pytest.raises(
    files.CheckpointFileError,
    match='found net_best_fid.pth, net_last.pth; name',
  ):
    files.open_checkpoint(tmp_path)


@pytest.mark.parametrize(
  ('wrap', 'rest'),
  [
    (lambda x: {'net': x}, {}),  # T2M-GPT
    (lambda x: {'model': x}, {}),  # lit-gpt
    (lambda x: {'state_dict': x}, {'epoch': 3, 'optimizer_states': [{}]}),
    (lambda x: {'state_dict': {'model': x}}, {}),
    (lambda x: {**x, 'step': 7}, {}),
  ],
  ids=['net', 'model', 'lightning', 'nested', 'beside a number'],
)
def test_weights_are_found_beside_other_things(tmp_path, wrap, rest):
  path = tmp_path / 'last.ckpt'
  torch.save(wrap(_tensors()) | rest, path)
  assert _has(files.open_checkpoint(path), _tensors())


def test_parameters_and_views_are_read_as_the_numbers_they_show(tmp_path):
  base = torch.arange(12.0).reshape(3, 4)
  shown = {
    'parameter': torch.nn.Parameter(base.clone()),
    'transposed': base.T,
    'row': base[1],
    'half': base.to(torch.bfloat16).T,
  }
  torch.save(shown, tmp_path / 'a.pth')
  checkpoint = files.open_checkpoint(tmp_path)
  for name, x in shown.items():
    found = checkpoint.read(name).astype(np.float32)
    np.testing.assert_array_equal(found, x.detach().float().numpy())


def test_what_lies_beside_a_checkpoint_is_found(tmp_path):
  path = _save(_tensors(), tmp_path / 'model.safetensors')
  assert files.beside(path, 'tokenizer.model') is None
  (tmp_path / 'tokenizer.model').write_text('x')
  (tmp_path / 'config.json').mkdir()
  wanted = tmp_path / 'tokenizer.model'
  assert files.beside(path, 'tokenizer.model') == wanted
  assert files.beside(str(tmp_path), 'tokenizer.model') == wanted
  assert files.beside(tmp_path, 'config.json') is None


# --- What cannot -------------------------------------------------------------


@pytest.mark.parametrize('kind', ['safetensors', 'zip', 'before zip'])
@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.99])
def test_a_part_of_a_file_is_an_error_that_names_it(tmp_path, kind, share):
  large = {'weight': torch.randn(64, 64), **_tensors()}
  path = tmp_path / ('a.safetensors' if kind == 'safetensors' else 'a.bin')
  if kind == 'before zip':
    torch.save(large, path, _use_new_zipfile_serialization=False)
  else:
    _save(large, path)
  whole = path.read_bytes()
  path.write_bytes(whole[: int(share * len(whole))])
  with pytest.raises(files.CheckpointFileError, match='again') as caught:
    files.open_checkpoint(path)
  assert str(path) in str(caught.value)
  if kind == 'safetensors' and share:
    assert 'found a part of one (' in str(caught.value)


@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin'])
@pytest.mark.parametrize(
  ('text', 'sentence'),
  [
    (
      'version https://git-lfs.github.com/spec/v1\n',
      "found a pointer of git-lfs to it; run 'git lfs pull'",
    ),
    ('<!DOCTYPE html>', "found one that begins with b'<!DOCTYPE html>'; fetch"),
  ],
)
def test_a_pointer_or_an_error_page_is_no_dangerous_pickle(
  tmp_path, name, text, sentence
):
  (tmp_path / name).write_text(text)
  with pytest.raises(files.CheckpointFileError, match=sentence):
    files.open_checkpoint(tmp_path)


def test_shards_without_their_index_say_which_to_fetch(tmp_path):
  index = _shard(tmp_path, 'pytorch_model', 'bin')
  index.unlink()
  with pytest.raises(
    files.CheckpointFileError, match=f'without one; fetch {index.name} too'
  ):
    files.open_checkpoint(tmp_path)
  # One that is alone there is no whole checkpoint either, unless it is named.
  (tmp_path / 'pytorch_model-00001-of-00002.bin').unlink()
  with pytest.raises(files.CheckpointFileError, match=f'fetch {index.name}'):
    files.open_checkpoint(tmp_path)
  named = files.open_checkpoint(tmp_path / 'pytorch_model-00002-of-00002.bin')
  assert set(named.shapes) == set(list(_tensors())[1::2])


def test_what_is_opened_is_told(tmp_path):
  index = _shard(tmp_path, 'model', 'safetensors')
  assert files.open_checkpoint(tmp_path).path == index
  _save(_tensors(), tmp_path / 'adapter_model.bin')
  assert files.open_checkpoint(tmp_path).path == index
  first = files.open_checkpoint(tmp_path, prefer=files.ADAPTER_FILES)
  assert first.path.name == 'adapter_model.bin'


class _Attack:
  """Makes a folder when it is unpickled."""

  def __init__(self, folder):
    self.folder = folder

  def __reduce__(self):
    return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize('kind', ['zip', 'before zip', 'bare pickle'])
@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, kind):
  made, path = tmp_path / 'made', tmp_path / 'a.bin'
  hidden = {'weight': torch.ones(3), 'config': _Attack(made)}
  if kind == 'bare pickle':
    path.write_bytes(pickle.dumps(hidden))
    pickle.loads(path.read_bytes())
  else:
    is_new = kind == 'zip'
    torch.save(hidden, path, _use_new_zipfile_serialization=is_new)
    torch.load(path, weights_only=False)
  made.rmdir()  # So it does work where objects are allowed.
  with pytest.raises(files.CheckpointFileError, match='run any code') as caught:
    files.open_checkpoint(path)
  assert not made.exists()
  if kind != 'bare pickle':
    assert f'found {os.name}.mkdir in it' in str(caught.value)
  # torch's own advice is to run it all the same.
  assert 'weights_only' not in str(caught.value)


def test_a_harmless_object_is_refused_by_its_name(tmp_path):
  path = tmp_path / 'a.pth'
  torch.save({'model': _tensors(), 'args': argparse.Namespace(lr=1)}, path)
  with pytest.raises(
    files.CheckpointFileError, match='found argparse.Namespace.*state_dict'
  ):
    files.open_checkpoint(path)


@pytest.mark.parametrize('found', [[1, 2], {'step': 3}, {}, {'model': {}}])
def test_a_torch_file_without_named_tensors_is_refused(tmp_path, found):
  torch.save(found, tmp_path / 'a.pth')
  with pytest.raises(files.CheckpointFileError, match='save a state_dict'):
    files.open_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('none.bin', 'found no such file or folder; correct the path'),
    ('lmsys/vicuna-7b-v1.5', "'hf download NAME .* nothing is downloaded"),
    ('weights.npz', r'found a name with \.npz; name'),
    ('weights', 'found a name with no ending; name'),
    ('config.json', r'found a name with \.json; name'),
  ],
)
def test_no_checkpoint_and_another_ending_say_what_to_name(
  tmp_path, name, message
):
  if 'found a name' in message:
    (tmp_path / name).write_text('{}')
  with pytest.raises(files.CheckpointFileError, match=message):
    files.open_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
  ('name', 'package'), [('a.pth', 'torch'), ('a.safetensors', 'safetensors')]
)
def test_without_the_package_it_says_what_to_install(
  tmp_path, monkeypatch, name, package
):
  path = _save(_tensors(), tmp_path / name)
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(
    files.CheckpointFileError,
    match=rf"package {package} .*pip install -e '\.\[parity\]'",
  ):
    files.open_checkpoint(path)


# --- What is written ---------------------------------------------------------


@pytest.mark.parametrize('dtype', DTYPES)
def test_numbers_cross_between_numpy_and_torch_in_every_bit(dtype):
  x = np.random.default_rng(0).normal(size=(3, 4)).astype(dtype)
  x[0, :3] = -0.0, np.inf, np.nan
  for array in (x, x.T, x[:, ::2], x[0, 0]):
    tensor = files.to_torch(array)
    assert tensor.dtype == DTYPES[dtype]
    assert tuple(tensor.shape) == array.shape
    again = files.to_numpy(tensor.requires_grad_())
    assert originals.bits({'': again}) == originals.bits({'': array})


def test_what_torch_gets_is_not_ours_any_more():
  x = np.ones(3, np.float32)
  files.to_torch(x).zero_()
  assert x.all()


def _arrays():
  x = np.random.default_rng(0).normal(size=(5, 3))
  return {
    'plain': x.astype(np.float32),
    'transposed': x.astype(ml_dtypes.bfloat16).T,
    'strided': x.astype(np.float16)[::2],
    'scalar': np.array(2.5, np.float32),
  }


def _holds_arrays(folder):
  checkpoint = files.open_checkpoint(folder)
  found = {name: checkpoint.read(name) for name in checkpoint.shapes}
  assert originals.bits(found) == originals.bits(_arrays())


def test_written_torch_files_hold_the_same_numbers(tmp_path):
  path = tmp_path / 'net_last.pth'
  files.write_torch(str(path), {'net': _arrays()})
  _holds_arrays(path)
  assert set(torch.load(path, weights_only=True)['net']) == set(_arrays())


@pytest.mark.parametrize('shards', [1, 3])
def test_written_safetensors_hold_the_same_numbers(tmp_path, shards):
  items = list(_arrays().items())
  files.write_safetensors(
    str(tmp_path),
    'model',
    [lambda k=k: iter(items[k::shards]) for k in range(shards)],
  )
  _holds_arrays(tmp_path)
  names = sorted(os.listdir(tmp_path))
  if shards == 1:
    assert names == ['model.safetensors']
    return
  parts = [f'model-{k:05d}-of-00003.safetensors' for k in (1, 2, 3)]
  assert names == [*parts, 'model.safetensors.index.json']
  index = json.loads((tmp_path / names[-1]).read_text())
  assert index['metadata']['total_size'] == sum(
    x.nbytes for x in _arrays().values()
  )
  assert index['weight_map'] == {
    name: parts[k % 3] for k, name in enumerate(_arrays())
  }


def test_one_shard_is_made_after_the_other(tmp_path):
  seen = []

  def shard(k):
    seen.append((k, sorted(path.name[:11] for path in tmp_path.iterdir())))
    yield f'tensor{k}', np.zeros(k + 1)

  files.write_safetensors(
    str(tmp_path), 'model', [lambda k=k: shard(k) for k in range(3)]
  )
  assert seen == [
    (0, []),
    (1, ['model-00001']),
    (2, ['model-00001', 'model-00002']),
  ]


def test_others_may_read_what_was_written_and_transformers_knows_it(tmp_path):
  files.write_safetensors(str(tmp_path), 'model', [lambda: _arrays().items()])
  path = tmp_path / 'model.safetensors'
  assert stat.S_IMODE(path.stat().st_mode) == 0o644
  with safetensors.safe_open(path, 'np') as file:
    assert file.metadata() == {'format': 'pt'}
