import logging

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vimonet_jax import checkpoint, sharding


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


def test_a_checkpoint_that_was_never_completed_does_not_count(tmp_path):
  _saved(tmp_path, [2, 5])
  # What a killed process leaves: the folder under its temporary name.
  (tmp_path / '5').rename(tmp_path / '5.orbax-checkpoint-tmp')
  saver = checkpoint.Checkpointer(tmp_path)
  assert saver.steps == [2]
  saver.close()


def test_no_good_checkpoint_is_an_error_and_not_a_fresh_start(tmp_path):
  _saved(tmp_path, [2])
  _damage(tmp_path / '2', 'emptied')
  saver = checkpoint.Checkpointer(tmp_path)
  with pytest.raises(ValueError, match='remove the folder'):
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


FIRST = {
  'llm/blocks/attn/q/kernel': np.ones((2, 3), np.float32),
  'llm/norm/scale': jnp.ones(4, jnp.bfloat16),
  'motion/codes/count': np.arange(3, dtype=np.int32),
}


def test_weights_keep_their_paths_bits_and_dtypes(tmp_path):
  checkpoint.save_weights(str(tmp_path / 'a'), FIRST)
  found = checkpoint.load_weights(str(tmp_path / 'a'))
  assert found.keys() == FIRST.keys()
  for path, x in FIRST.items():
    assert found[path].dtype == x.dtype
    np.testing.assert_array_equal(found[path], x)


def test_writing_again_replaces_everything(tmp_path):
  checkpoint.save_weights(str(tmp_path), FIRST)
  checkpoint.save_weights(str(tmp_path), {'b': np.zeros(2)})
  assert list(checkpoint.load_weights(str(tmp_path))) == ['b']


def test_later_folders_override_and_patterns_choose(tmp_path):
  folders = [str(tmp_path / name) for name in 'ab']
  checkpoint.save_weights(folders[0], FIRST)
  checkpoint.save_weights(
    folders[1], {'llm/norm/scale': np.zeros(4), 'x': np.zeros(1)}
  )
  found = checkpoint.load_weights(folders, ['llm/.*'])
  assert set(found) == {'llm/blocks/attn/q/kernel', 'llm/norm/scale'}
  assert not found['llm/norm/scale'].any()


def test_weights_arrive_in_the_sharding_that_was_asked_for(tmp_path):
  checkpoint.save_weights(str(tmp_path), FIRST)
  whole = sharding.replicated(sharding.make_mesh(devices=jax.devices()[:1]))
  found = checkpoint.load_weights(
    str(tmp_path), shardings={'llm/norm/scale': whole}
  )
  assert found['llm/norm/scale'].sharding == whole
  assert isinstance(found['motion/codes/count'], np.ndarray)


def test_missing_weights_name_the_folder(tmp_path):
  with pytest.raises(FileNotFoundError, match='language/weights'):
    checkpoint.load_weights(str(tmp_path / 'language' / 'weights'))
  (tmp_path / 'empty').mkdir()
  with pytest.raises(FileNotFoundError, match='empty'):
    checkpoint.load_weights(str(tmp_path / 'empty'))


def test_patterns_that_match_nothing_are_reported(tmp_path):
  checkpoint.save_weights(str(tmp_path), FIRST)
  with pytest.raises(ValueError, match='video'):
    checkpoint.load_weights(str(tmp_path), ['video/.*'])
