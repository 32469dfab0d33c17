"""What lies on the disk is damaged; nobody trains on wrong numbers for that."""

import json
import logging
import pathlib
import shutil

import damaged
import jax
import pytest
import toy

from vimonet_jax import checkpoint
from vimonet_jax.data import builder, dataset, records


@pytest.fixture(scope='module', autouse=True)
def _compile_once(tmp_path_factory):
  """Most of the time of a run of the toy is spent in XLA."""
  names = (
    'jax_compilation_cache_dir',
    'jax_persistent_cache_min_compile_time_secs',
    'jax_persistent_cache_min_entry_size_bytes',
  )
  before = {name: getattr(jax.config, name) for name in names}
  folder = str(tmp_path_factory.mktemp('compiled'))
  for name, value in zip(names, (folder, 0.0, -1), strict=True):
    jax.config.update(name, value)
  yield
  for name, value in before.items():
    jax.config.update(name, value)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
  monkeypatch.setattr(checkpoint, '_PAUSE_S', 0.0)


@pytest.fixture(scope='module', name='built')
def _built(tmp_path_factory):
  """A dataset of real files, 30 records with motion in one shard."""
  made = tmp_path_factory.mktemp('data')
  builder.build(
    builder.Synthetic(num_train=24, num_val=1, num_test=1, image_size=8),
    made,
    processes=1,
    progress=False,
  )
  return made


@pytest.fixture(scope='module', name='begun')
def _begun(tmp_path_factory, built):
  """Eight steps, with checkpoints of the fourth and the last."""
  folder = tmp_path_factory.mktemp('begun')
  damaged.train(folder, built, 8)
  (folder / 'summary.json').unlink()
  return folder


@pytest.fixture(scope='module', name='expected')
def _expected(tmp_path_factory, built):
  folder = tmp_path_factory.mktemp('undisturbed')
  damaged.train(folder, built)
  return damaged.weights(folder)


def _largest(folder: pathlib.Path) -> pathlib.Path:
  files = [path for path in folder.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def _flip(path: pathlib.Path, share: float = 0.5) -> None:
  data = bytearray(path.read_bytes())
  data[int(len(data) * share)] ^= 1
  path.write_bytes(data)


def _cut(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _change_digit(path: pathlib.Path) -> None:
  """The record that comes next, by one: still a number, still JSON."""
  text = path.read_text()
  at = text.index('next_index')
  at += next(i for i, c in enumerate(text[at:]) if c.isdigit())
  path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])


def _iterator(newest) -> pathlib.Path:
  return next((newest / 'iterator').glob('process*'))


def _other_shapes(newest) -> None:
  """A whole checkpoint, but of other arrays."""
  other = newest.parent / 'other'
  saver = checkpoint.Checkpointer(other)
  saver.save(8, {'x': jax.numpy.ones(3)}, iter(toy.dataset()))
  saver.close()
  shutil.rmtree(newest / 'state')
  shutil.copytree(other / '8' / 'state', newest / 'state')
  shutil.rmtree(other)


OF_A_CHECKPOINT = {
  'array file cut': lambda x: _cut(_largest(x / 'state')),
  'array file with a flipped bit': lambda x: _flip(_largest(x / 'state')),
  'array file missing': lambda x: _largest(x / 'state').unlink(),
  'state missing': lambda x: shutil.rmtree(x / 'state'),
  'metadata empty': lambda x: (x / 'state' / '_METADATA').write_text(''),
  'other shapes': _other_shapes,
  'iterator missing': lambda x: shutil.rmtree(x / 'iterator'),
  'iterator garbage': lambda x: _iterator(x).write_text('garbage'),
  'iterator with another number': lambda x: _change_digit(_iterator(x)),
  'seal missing': lambda x: shutil.rmtree(x / 'seal'),
  'seal of another state': lambda x: (x / 'seal' / 'metadata').write_text(
    '{"state": "0123456789abcdef"}'
  ),
}


@pytest.mark.parametrize('kind', OF_A_CHECKPOINT)
def test_a_damaged_checkpoint_costs_only_time(
  tmp_path, begun, built, expected, caplog, kind
):
  run = tmp_path / 'run'
  shutil.copytree(begun, run)
  OF_A_CHECKPOINT[kind](run / 'checkpoints' / '8')
  with caplog.at_level(logging.WARNING):
    damaged.train(run, built)
  assert 'is damaged and was put aside; going on from step 4' in caplog.text
  assert damaged.weights(run) == expected


def test_what_a_killed_save_left_is_cleared_away(
  tmp_path, begun, built, expected
):
  run = tmp_path / 'run'
  shutil.copytree(begun, run)
  left = run / 'checkpoints' / '12.orbax-checkpoint-tmp'
  shutil.copytree(run / 'checkpoints' / '8', left)
  _flip(_largest(left / 'state'))
  damaged.train(run, built)
  assert not left.exists()
  assert damaged.weights(run) == expected


def test_a_damaged_summary_is_written_anew(tmp_path, begun, built, expected):
  run = tmp_path / 'run'
  shutil.copytree(begun, run)
  damaged.train(run, built)
  before = json.loads((run / 'summary.json').read_text())
  _cut(run / 'summary.json')
  shutil.rmtree(run / 'weights')
  damaged.train(run, built)
  after = json.loads((run / 'summary.json').read_text())
  assert after['metrics'] == before['metrics']
  assert damaged.weights(run) == expected


@pytest.mark.parametrize('text', ['', '{"frozen": 1', '[]'])
def test_a_damaged_note_of_the_frozen_weights_stops(
  tmp_path, begun, built, text
):
  run = tmp_path / 'run'
  shutil.copytree(begun, run)
  (run / 'base.json').write_text(text)
  with pytest.raises(ValueError, match=r'base.json, found the file damaged;'):
    damaged.train(run, built)


# --- Data --------------------------------------------------------------------


def _folder(built) -> pathlib.Path:
  return built / 'vimos' / 'synthetic' / dataset.VERSION


def _shard(built) -> pathlib.Path:
  return next(_folder(built).glob('*-train.array_record*'))


def _replace(name, old, new):
  def damage(built):
    path = _folder(built) / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))

  return damage


OF_DATA = {
  'shard cut': lambda x: _cut(_shard(x)),
  'shard empty': lambda x: _shard(x).write_bytes(b''),
  'shard missing': lambda x: _shard(x).unlink(),
  'description cut': lambda x: _cut(_folder(x) / 'dataset_info.json'),
  'description with another number': _replace(
    'dataset_info.json', '"24"', '"23"'
  ),
  'description missing': lambda x: (_folder(x) / 'dataset_info.json').unlink(),
  'arrays cut': lambda x: _cut(_folder(x) / 'features.json'),
  'arrays of another type': _replace('features.json', 'float32', 'int32'),
}


@pytest.mark.parametrize('kind', OF_DATA)
def test_damaged_data_stop_with_a_sentence(tmp_path, built, kind):
  copied = tmp_path / 'data'
  shutil.copytree(built, copied)
  OF_DATA[kind](copied)
  with pytest.raises(
    (ValueError, FileNotFoundError),
    match=r'Expected .*(anew|at most 3 damaged records|build it)',
  ):
    damaged.train(tmp_path / 'run', copied, limit=3)
  assert not (tmp_path / 'run' / 'weights').exists()


def test_a_changed_description_of_the_arrays_is_not_gone_on_with(
  tmp_path, built
):
  """Bytes of [T, 22, 3] are some of [T, 11, 6] as well."""
  copied = tmp_path / 'data'
  shutil.copytree(built, copied)
  _replace('features.json', '"22"', '"11"')(copied)
  with pytest.raises(ValueError, match=r'features.json is damaged'):
    builder.build(
      builder.Synthetic(num_train=24, num_val=1, num_test=1, image_size=8),
      copied,
      processes=1,
      progress=False,
    )


@pytest.fixture(scope='module', name='flipped')
def _flipped(tmp_path_factory, built):
  """The dataset with two damaged records."""
  copied = tmp_path_factory.mktemp('flipped')
  shutil.copytree(built, copied, dirs_exist_ok=True)
  size = _shard(copied).read_bytes().rstrip(b'\0').__len__()
  for share in (0.2, 0.6):
    _flip(_shard(copied), share * size / _shard(copied).stat().st_size)
  return copied


def _damaged_numbers(built) -> list[int]:
  source, found = dataset.open(built, 'train'), []
  for i in range(len(source)):
    try:
      source[i]
    except records.CorruptError:
      found.append(i)
  return found


def test_damaged_records_are_named_and_passed_over_alike_after_a_restart(
  tmp_path, flipped
):
  numbers = _damaged_numbers(flipped)
  assert len(numbers) == 2
  path = tmp_path / 'run' / 'skipped-0.jsonl'
  damaged.train(tmp_path / 'run', flipped, 6, limit=2, path=path)
  damaged.train(tmp_path / 'run', flipped, limit=2, path=path)
  named = {json.loads(line)['where'] for line in path.read_text().splitlines()}
  assert named == {f'train:{n} of {_folder(flipped)}' for n in numbers}
  damaged.train(tmp_path / 'whole', flipped, limit=2)
  assert damaged.weights(tmp_path / 'run') == damaged.weights(
    tmp_path / 'whole'
  )


def test_one_damaged_record_too_many_ends_the_run(tmp_path, flipped):
  path = tmp_path / 'skipped-0.jsonl'
  with pytest.raises(
    ValueError,
    match=r'at most 1 damaged records, found 2 \(train:\d+ of .*; '
    r'train:\d+ of .* raise data.max_corrupt',
  ):
    damaged.train(tmp_path / 'run', flipped, limit=1, path=path)
  # Nor does it go on where it is started again.
  with pytest.raises(ValueError, match='at most 1 damaged records, found 2'):
    damaged.train(tmp_path / 'run', flipped, limit=1, path=path)


def test_whoever_reads_a_damaged_record_elsewhere_is_told_which(flipped):
  number, _ = _damaged_numbers(flipped)
  with pytest.raises(
    records.CorruptError,
    match=rf'a sound record as train:{number} of .*hash mismatch',
  ):
    dataset.open(flipped, 'train')[number]
