import functools

import grain
import jax
import numpy as np
import pytest
import small

from vimonet_jax import sharding, weight_files, weight_writer
from vimonet_jax.train import loop, optimizer, stages

TRAINED = ('llm/.*/lora_.', 'translators/.*')


@functools.cache
def _stage():
  return stages.tokens('small', small.CONFIG, TRAINED, media=('motion',))


def _row(index):
  """A motion clip between words, of which the last ones are learnt."""
  rng = np.random.default_rng(index)
  media_index = np.full(12, -1, np.int32)
  media_index[2:6] = np.arange(small.MOTION_TOKENS)
  return {
    'tokens': rng.integers(1, 32, 12, np.int32) * (media_index < 0),
    'loss_mask': np.arange(12) >= 8,
    'segment_ids': np.ones(12, np.int32),
    'positions': np.arange(12, dtype=np.int32),
    'media_index': media_index,
    'motion': rng.normal(size=(1, 16, 263)).astype(np.float32),
    'motion_length': np.full(1, 16, np.int32),
  }


def _train(folder, start, mesh):
  """Two steps: the summary, what was learnt, and how arrays were cut."""
  dataset = grain.MapDataset.source([_row(i) for i in range(8)])
  pieces = {}

  def evaluate(flat, mutable, step):
    del mutable, step
    for path, x in flat.items():
      pieces[path] = x.size // x.addressable_shards[0].data.size
    return {}

  summary = loop.train(
    _stage(),
    dataset.repeat().to_iter_dataset().batch(4),
    folder=str(folder),
    steps=2,
    tx=optimizer.make([optimizer.Group('.*', 1e-3)], steps=2),
    mesh=mesh,
    init=[start],
    evaluate=evaluate,
    progress=False,
  )
  return summary, weight_files.load(str(folder / 'weights')), pieces


@pytest.fixture
def _compiles_quickly():
  """Two steps need not be fast."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.mark.usefixtures('_compiles_quickly')
def test_a_stage_learns_on_a_mesh_what_it_learns_on_one_device(tmp_path):
  given = small.params(_stage().abstract()[0], 0.3)
  start = str(tmp_path / 'start')
  weight_writer.save(start, given)
  alone, want, whole = _train(tmp_path / 'alone', start, None)
  mesh = sharding.make_mesh(2, 2, 2)
  shared, found, pieces = _train(tmp_path / 'mesh', start, mesh)
  assert set(whole.values()) == {1}
  # What is frozen and what is trained, by both axes and by either.
  assert pieces['llm/blocks/mlp/up/kernel'] == 4
  assert pieces['llm/blocks/attn/q/lora_a'] == 2
  assert pieces['llm/blocks/attn/q/lora_b'] == 2
  assert pieces['translators/motion/in/kernel'] == 2
  assert shared['metrics'] == pytest.approx(alone['metrics'], rel=1e-5)
  assert found.keys() == want.keys()
  for path, x in want.items():
    assert np.abs(x - given[path]).max() > 5e-4, f'{path} learnt nothing'
    np.testing.assert_allclose(found[path], x, atol=1e-5, err_msg=path)
