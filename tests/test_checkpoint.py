import logging
import shutil

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from vimonet_jax import (
  checkpoint,
  cluster,
  fingerprint,
  sharding,
  weight_files,
  weight_writer,
)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
  monkeypatch.setattr(checkpoint, '_PAUSE_S', 0.0)


def _iterator():
  dataset = grain.MapDataset.range(100).to_iter_dataset(
    grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  )
  return iter(dataset)


def _state(value):
  return {
    'step': jnp.int32(value),
    'trainables': {
      'llm/blocks/attn/q/kernel': jnp.full((2, 3), value, jnp.float32),
      'translators/motion/in/bias': jnp.full(3, value, jnp.bfloat16),
    },
    'mutable': {},
  }


def _abstract():
  whole = sharding.replicated(sharding.make_mesh(devices=jax.devices()[:1]))
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), _state(0)
  )


def _saved(folder, steps, **options):
  """Checkpoints of `steps`, with an iterator that gave as many elements."""
  saver = checkpoint.Checkpointer(folder, **options)
  iterator = _iterator()
  for step in range(1, max(steps) + 1):
    next(iterator)
    if step in steps:
      saver.save(step, _state(step), iterator)
  saver.close()


def test_a_state_comes_back_with_its_iterator(tmp_path):
  _saved(tmp_path, [3])
  saver, iterator = checkpoint.Checkpointer(tmp_path), _iterator()
  state = saver.restore(_abstract(), iterator)
  jax.tree.map(np.testing.assert_array_equal, state, _state(3))
  assert state['trainables']['translators/motion/in/bias'].dtype == jnp.bfloat16
  assert next(iterator) == 3
  saver.close()


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
  saver, iterator = checkpoint.Checkpointer(tmp_path / 'new'), _iterator()
  assert saver.restore(_abstract(), iterator) is None
  assert next(iterator) == 0
  saver.close()


def test_old_checkpoints_are_removed(tmp_path):
  _saved(tmp_path, [1, 2, 3, 4], max_to_keep=2)
  assert checkpoint.Checkpointer(tmp_path).steps == [3, 4]


def _damage(folder, how):
  files = [path for path in (folder / 'state').rglob('*') if path.is_file()]
  if how == 'emptied':
    for path in files:
      path.write_bytes(b'')
  elif how == 'overwritten':
    for path in files:
      path.write_bytes(b'x' * path.stat().st_size)
  elif how == 'cut':
    for path in files:
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  elif how == 'without iterator':
    for path in (folder / 'iterator').glob('process*'):
      path.unlink()


@pytest.mark.parametrize(
  'how', ['emptied', 'overwritten', 'cut', 'without iterator']
)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path, caplog, how):
  _saved(tmp_path, [2, 5])
  _damage(tmp_path / '5', how)
  saver, iterator = checkpoint.Checkpointer(tmp_path), _iterator()
  with caplog.at_level(logging.WARNING):
    state = saver.restore(_abstract(), iterator)
  assert state['step'] == 2
  assert next(iterator) == 2
  assert any(
    'damaged' in x.message and '5' in x.message for x in caplog.records
  )
  # The step can be saved again.
  assert saver.steps == [2]
  saver.save(5, _state(5), iterator)
  saver.wait()
  assert saver.restore(_abstract(), _iterator())['step'] == 5
  saver.close()


def test_a_flipped_bit_in_an_array_is_noticed(tmp_path, caplog):
  """Of an array large enough to have a file; neither library checks it."""
  rng = np.random.default_rng(0)
  state = {'x': jnp.asarray(rng.normal(size=(64, 64)), jnp.float32)}
  saver, iterator = checkpoint.Checkpointer(tmp_path), _iterator()
  for step in (2, 5):
    saver.save(step, state, iterator)
  saver.wait()
  files = [p for p in (tmp_path / '5' / 'state').rglob('d/*') if p.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 1
  largest.write_bytes(data)
  with caplog.at_level(logging.WARNING):
    found = saver.restore(state, _iterator())
  saver.close()
  assert 'going on from step 2' in caplog.text
  assert 'Expected the bits that were saved' in caplog.text
  np.testing.assert_array_equal(found['x'], state['x'])


def test_a_checkpoint_that_was_never_completed_does_not_count(tmp_path):
  _saved(tmp_path, [2, 5])
  # What a killed process leaves: the folder under its temporary name.
  (tmp_path / '5').rename(tmp_path / '5.orbax-checkpoint-tmp')
  saver = checkpoint.Checkpointer(tmp_path)
  assert saver.steps == [2]
  saver.close()


def test_no_good_checkpoint_is_an_error_and_not_a_fresh_start(tmp_path):
  """Nor is anybody told to remove what could be read again tomorrow."""
  _saved(tmp_path, [2])
  _damage(tmp_path / '2', 'emptied')
  saver = checkpoint.Checkpointer(tmp_path)
  with pytest.raises(ValueError, match='mend what step 2 says') as error:
    saver.restore(_abstract(), _iterator())
  saver.close()
  assert 'remove' not in str(error.value)
  assert (tmp_path / '2').exists()


def test_a_checkpoint_without_a_seal_is_said_to_be_lost_or_old(tmp_path):
  _saved(tmp_path, [2])
  shutil.rmtree(tmp_path / '2' / 'seal')
  saver = checkpoint.Checkpointer(tmp_path)
  with pytest.raises(ValueError, match='or it is of an earlier version, which'):
    saver.restore(_abstract(), _iterator())
  saver.close()


def test_what_others_have_read_each_by_itself_is_said_to_need_shares(tmp_path):
  _saved(tmp_path, [2])
  own = tmp_path / '2' / 'iterator' / 'process_0-of-1.json'
  shares = {str(i): _iterator().get_state() for i in range(2)}

  class Joined:
    def get_state(self):
      return {'shares': shares}

  own.write_bytes(checkpoint._Sealed(Joined()).get_state())
  saver = checkpoint.Checkpointer(tmp_path)
  with pytest.raises(ValueError, match='read as one, found 2 shares') as error:
    saver.restore(_abstract(), _iterator())
  assert 'begin with a --config.data.shares' in str(error.value)
  assert 'remove' not in str(error.value)
  own.rename(own.with_name('process_0-of-2.json'))
  own.with_name('process_0-of-2.json').write_bytes(
    checkpoint._Sealed(_iterator()).get_state()
  )
  with pytest.raises(ValueError, match='begin with a --config.data.shares'):
    saver.restore(_abstract(), _iterator())
  saver.close()


def test_a_checkpoint_of_another_shape_is_an_error(tmp_path):
  _saved(tmp_path, [2])
  abstract = _abstract()
  abstract['trainables']['translators/motion/in/bias'] = jax.ShapeDtypeStruct(
    (4,), jnp.bfloat16, sharding=abstract['step'].sharding
  )
  saver = checkpoint.Checkpointer(tmp_path)
  with pytest.raises(ValueError, match='configuration'):
    saver.restore(abstract, _iterator())
  saver.close()
  assert (tmp_path / '2').exists()


@pytest.mark.parametrize(
  ('path', 'stored', 'wanted'),
  [
    ('step', 'int32', 'float32'),
    ('trainables/llm/blocks/attn/q/kernel', 'float32', 'int32'),
    ('trainables/translators/motion/in/bias', 'bfloat16', 'float32'),
  ],
)
def test_a_checkpoint_of_another_dtype_is_an_error(
  tmp_path, path, stored, wanted
):
  _saved(tmp_path, [2])
  abstract = _abstract()
  part, _, name = path.partition('/')
  tree, key = (abstract[part], name) if name else (abstract, part)
  tree[key] = tree[key].update(dtype=wanted)
  saver = checkpoint.Checkpointer(tmp_path)
  with pytest.raises(
    ValueError, match=rf'{path} as {wanted}\[.*, found {stored}\['
  ):
    saver.restore(abstract, _iterator())
  saver.close()
  assert (tmp_path / '2').exists()


def _fail(monkeypatch, owner, name, times):
  """Lets a method raise OSError as often as `times`, and work from then on."""
  method, calls = getattr(owner, name), []

  def failing(*args, **kwargs):
    calls.append(args)
    if len(calls) <= times:
      raise OSError('the file system is away')
    return method(*args, **kwargs)

  monkeypatch.setattr(owner, name, failing)


def test_a_file_system_that_is_away_for_a_moment_costs_no_checkpoint(
  tmp_path, monkeypatch
):
  _saved(tmp_path, [2, 5])
  saver, iterator = checkpoint.Checkpointer(tmp_path), _iterator()
  _fail(monkeypatch, checkpoint, '_read_alone', times=1)
  assert saver.restore(_abstract(), iterator)['step'] == 5
  assert next(iterator) == 5
  assert saver.steps == [2, 5]
  # Twice in a row is damage.
  _fail(monkeypatch, checkpoint, '_read_alone', times=2)
  assert saver.restore(_abstract(), iterator)['step'] == 2
  assert (tmp_path / 'damaged-5').exists()
  saver.close()


def test_nobody_reopens_a_folder_before_the_damage_is_put_aside(
  tmp_path, monkeypatch
):
  _saved(tmp_path, [2, 5])
  saver, seen = checkpoint.Checkpointer(tmp_path), []
  open_again = saver._open
  monkeypatch.setattr(
    saver,
    '_open',
    lambda: (seen.append('opens'), open_again()),
  )
  monkeypatch.setattr(
    cluster,
    'tell',
    lambda name, words: (
      seen.append((tmp_path / 'damaged-5').exists()) or [words]
    ),
  )
  saver._put_aside([5])
  assert seen[:2] == [True, 'opens']
  saver.close()


def _told(monkeypatch, words):
  """The first process says that these checkpoints are there."""
  monkeypatch.setattr(
    cluster,
    'tell',
    lambda name, here: [words if name == 'checkpoints are listed' else here],
  )


def test_who_sees_a_folder_as_it_was_waits_until_it_is_as_the_first_sees_it(
  tmp_path, monkeypatch
):
  _saved(tmp_path, [2, 5])
  (tmp_path / '5').rename(tmp_path / 'unseen')
  _told(monkeypatch, '[2, 5]')
  monkeypatch.setattr(
    checkpoint.time,
    'sleep',
    lambda _: (tmp_path / 'unseen').rename(tmp_path / '5'),
  )
  saver = checkpoint.Checkpointer(tmp_path)
  assert saver.steps == [2, 5]
  saver.close()


def test_who_never_sees_what_the_first_process_sees_is_told(
  tmp_path, monkeypatch
):
  _saved(tmp_path, [2])
  _told(monkeypatch, '[2, 5]')
  monkeypatch.setattr(cluster, 'STALE_S', 0.0)
  with pytest.raises(ValueError, match=r'of steps \[2, 5\] in .* found \[2\];'):
    checkpoint.Checkpointer(tmp_path)


FIRST = {
  'llm/blocks/attn/q/kernel': np.ones((2, 3), np.float32),
  'llm/norm/scale': jnp.ones(4, jnp.bfloat16),
  'motion/codes/count': np.arange(3, dtype=np.int32),
}


def test_weights_keep_their_paths_bits_and_dtypes(tmp_path):
  weight_writer.save(str(tmp_path / 'a'), FIRST)
  found = weight_files.load(str(tmp_path / 'a'))
  assert found.keys() == FIRST.keys()
  for path, x in FIRST.items():
    assert found[path].dtype == x.dtype
    np.testing.assert_array_equal(found[path], x)


def test_writing_again_replaces_everything(tmp_path):
  weight_writer.save(str(tmp_path), FIRST)
  weight_writer.save(str(tmp_path), {'b': np.zeros(2)})
  assert list(weight_files.load(str(tmp_path))) == ['b']


def _killed_after(monkeypatch, operations):
  """Renames and removals in the weights' folder fail after so many.

  Orbax's own count as well. Returns a list that grows with each operation.
  """
  seen = []

  def counted(method):
    def call(self, *args):
      seen.append(method.__name__)
      if len(seen) > operations:
        raise OSError('killed')
      return method(self, *args)

    return call

  for name in ('rename', 'rmtree'):
    kind = type(epath.Path())
    monkeypatch.setattr(kind, name, counted(getattr(kind, name)))
  return seen


@pytest.mark.parametrize('interrupted_before', [False, True])
def test_weights_are_complete_whenever_the_save_is_killed(
  tmp_path, monkeypatch, interrupted_before
):
  folder = tmp_path / 'weights'
  second, third = {'b': np.zeros(2)}, {'c': np.zeros(3)}
  for operations in range(20):
    weight_writer.save(str(folder), FIRST)
    if interrupted_before:
      folder.rename(tmp_path / 'weights.old')
      weight_writer.save(str(tmp_path / 'weights.new'), FIRST)
    with monkeypatch.context() as patch:
      seen = _killed_after(patch, operations)
      try:
        weight_writer.save(str(folder), second)
        was_killed = False
      except Exception:  # Orbax wraps what its thread raised.
        was_killed = True
    found = weight_files.load(str(folder))
    assert found.keys() in (FIRST.keys(), second.keys())
    weight_writer.save(str(folder), third)
    assert list(weight_files.load(str(folder))) == ['c']
    assert [path.name for path in tmp_path.iterdir()] == ['weights']
    if not was_killed:
      break
  assert not was_killed
  assert len(seen) == operations >= 3


def test_only_one_process_moves_weights_and_the_others_wait(
  tmp_path, monkeypatch
):
  folder = tmp_path / 'weights'
  weight_writer.save(str(folder), FIRST)
  left = tmp_path / 'weights.parts'
  left.mkdir()
  waited = []
  with monkeypatch.context() as patch:
    patch.setattr(jax, 'process_index', lambda: 1)
    patch.setattr(
      cluster, 'tell', lambda name, words: waited.append(name) or [words]
    )
    patch.setattr(weight_writer, '_name_them', lambda parts, arrays: None)
    weight_writer.save(str(folder), {'b': np.zeros(2)})
  assert waited == [
    'weights are begun', 'weights are written', 'weights took their place'
  ]  # fmt: skip
  assert left.exists()
  assert weight_files.load(str(folder)).keys() == FIRST.keys()


def test_later_folders_override_and_patterns_choose(tmp_path):
  folders = [str(tmp_path / name) for name in 'ab']
  weight_writer.save(folders[0], FIRST)
  weight_writer.save(
    folders[1], {'llm/norm/scale': np.zeros(4), 'x': np.zeros(1)}
  )
  found = weight_files.load(folders, ['llm/.*'])
  assert set(found) == {'llm/blocks/attn/q/kernel', 'llm/norm/scale'}
  assert not found['llm/norm/scale'].any()


def test_weights_arrive_in_the_sharding_that_was_asked_for(tmp_path):
  weight_writer.save(str(tmp_path), FIRST)
  whole = sharding.replicated(sharding.make_mesh(devices=jax.devices()[:1]))
  found = weight_files.load(
    str(tmp_path), shardings={'llm/norm/scale': whole}
  )
  assert found['llm/norm/scale'].sharding == whole
  assert isinstance(found['motion/codes/count'], np.ndarray)


def test_missing_weights_name_the_folder(tmp_path):
  with pytest.raises(FileNotFoundError, match='language/weights'):
    weight_files.load(str(tmp_path / 'language' / 'weights'))
  (tmp_path / 'empty').mkdir()
  with pytest.raises(FileNotFoundError, match='empty'):
    weight_files.load(str(tmp_path / 'empty'))


def test_each_pattern_must_match_something(tmp_path):
  weight_writer.save(str(tmp_path), FIRST)
  for patterns in (['video/.*'], ['llm/.*', 'video/.*'], ['llm/norm']):
    with pytest.raises(ValueError, match=f'match {patterns[-1]!r}.*found none'):
      weight_files.load(str(tmp_path), patterns)
  with pytest.raises(ValueError, match='nearest paths are .*llm/norm/scale'):
    weight_files.load(str(tmp_path), ['llm/nrm/scale'])


def test_a_fingerprint_is_of_every_bit_and_of_no_sharding():
  x = np.arange(32, dtype=np.float32).reshape(8, 4)
  flat = {'a/b': x, 'c': np.ones(3, jnp.bfloat16), 'd': np.array([True])}
  usual = fingerprint.of(flat)
  mesh = sharding.make_mesh(2, 2, 2)
  where = jax.NamedSharding(mesh, jax.P(('data', 'fsdp'), 'tensor'))
  cut = {**flat, 'a/b': jax.device_put(x, where)}
  assert fingerprint.of(cut) == usual
  flipped = x.copy()
  flipped.view(np.uint32)[3, 2] ^= 1
  others = [
    {**flat, 'a/b': flipped},
    {**flat, 'a/b': x[::-1].copy()},
    {**flat, 'a/b': x.T.copy()},
    {**flat, 'a/b': x.reshape(4, 8)},
    {**flat, 'c': np.ones(3, np.float16)},
    {**flat, 'd': np.array([False])},
    {'a/b': x, 'c': flat['c'], 'e': flat['d']},
  ]
  assert len({usual, *map(fingerprint.of, others)}) == 8


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8', 'bool'])
@pytest.mark.parametrize('shape', [(), (0, 3), (7,), (5, 7), (2, 3, 4, 5)])
def test_a_fingerprint_is_the_same_on_host_and_device(shape, dtype):
  drawn = np.random.default_rng(0).normal(0, 50, size=shape)
  x = np.asarray(drawn, np.float32).astype(dtype)
  turned = x.copy(order='F')
  on_device = fingerprint.mark('a', jnp.asarray(x))
  assert fingerprint.mark('a', x) == on_device
  assert fingerprint.mark('a', turned) == on_device


@pytest.mark.parametrize('shape', [(1,), (3,), (2, 3)])
def test_every_bit_of_what_only_a_host_has_counts(shape):
  x = np.full(shape, 1.5)
  usual = fingerprint.of({'a': x})
  for bit in range(64):
    flipped = x.copy()
    flipped.view(np.uint64).flat[-1] ^= np.uint64(1 << bit)
    assert fingerprint.of({'a': flipped}) != usual, bit
  assert fingerprint.of({'a': x.copy(order='F')}) == usual
