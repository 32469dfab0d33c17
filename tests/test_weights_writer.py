"""More weights than memory: written in parts, read one at a time."""

import asyncio
import os
import pathlib
import socket
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from etils import epath

from vimonet_jax import checkpoint, sharding

_RNG = np.random.default_rng(0)
# Bytes after which parts are written: each call is a part, or all are one.
PIECES = {'every call': 16, 'one for all': 1 << 20}


def _normal(shape, dtype):
  return _RNG.normal(size=shape).astype(dtype)


WEIGHTS = {
  'llm/blocks/attn/q/kernel': _normal((3, 8, 2, 4), ml_dtypes.bfloat16),
  'llm/blocks/norm1/scale': _normal((3, 8), np.float32),
  'llm/head/kernel': _normal((8, 32), np.float16),
  'motion/quantizer/count': np.arange(5, dtype=np.int32),
  'motion/quantizer/is_initialised': np.ones((), bool),
}
OLD = {'old': np.arange(3.0), 'llm/head/kernel': np.zeros((2, 2), np.float32)}


@pytest.fixture(params=PIECES.values(), ids=list(PIECES))
def pieces(request, monkeypatch):
  monkeypatch.setattr(checkpoint, '_PIECE_BYTES', request.param)


def _write(folder, flat):
  with checkpoint.weights_writer(str(folder)) as write:
    for path, x in flat.items():
      write({path: x})


def _same(found, wanted):
  assert set(found) == set(wanted)
  for path, x in wanted.items():
    y = np.asarray(found[path])
    assert (y.dtype, y.shape) == (x.dtype, x.shape), path
    assert y.tobytes() == x.tobytes(), path


def _names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_what_is_written_in_parts_is_read_as_if_it_were_saved(tmp_path, pieces):
  _write(tmp_path / 'weights', WEIGHTS)
  _same(checkpoint.load_weights(str(tmp_path / 'weights')), WEIGHTS)
  _same(checkpoint.LazyWeights(str(tmp_path / 'weights')), WEIGHTS)
  found = checkpoint.load_weights(str(tmp_path / 'weights'), ['llm/blocks/.*'])
  assert len(found) == 2
  assert _names(tmp_path) == ['weights']


def test_what_is_written_in_parts_arrives_in_shards(tmp_path, pieces):
  _write(tmp_path / 'weights', WEIGHTS)
  mesh = sharding.make_mesh(1, 4, 2)
  path = 'llm/blocks/attn/q/kernel'
  place = jax.NamedSharding(mesh, jax.P(None, 'fsdp', 'tensor', None))
  found = checkpoint.load_weights(
    str(tmp_path / 'weights'), shardings={path: place}
  )
  assert found[path].sharding == place
  assert found[path].addressable_shards[0].data.shape == (3, 2, 1, 4)
  _same(found, WEIGHTS)


def test_the_folder_changes_when_all_is_written_and_not_before(
  tmp_path, pieces
):
  folder = tmp_path / 'weights'
  with checkpoint.weights_writer(str(folder)) as write:
    write(WEIGHTS)
    assert not folder.exists()
    with pytest.raises(FileNotFoundError):
      checkpoint.load_weights(str(folder))
  _write(folder, OLD)
  _same(checkpoint.load_weights(str(folder)), OLD)
  with checkpoint.weights_writer(str(folder)) as write:
    write(WEIGHTS)
    _same(checkpoint.load_weights(str(folder)), OLD)
  _same(checkpoint.load_weights(str(folder)), WEIGHTS)


def test_an_error_leaves_what_was_there(tmp_path, pieces):
  folder = tmp_path / 'weights'
  _write(folder, OLD)
  path = 'llm/head/kernel'

  def source():
    yield path, WEIGHTS[path]
    raise KeyError('the source broke off')

  def write_all():
    with checkpoint.weights_writer(str(folder)) as write:
      for path, x in source():
        write({path: x})

  with pytest.raises(KeyError, match='the source broke off'):
    write_all()
  _same(checkpoint.load_weights(str(folder)), OLD)
  # What it wrote until then is not mixed with what comes after it.
  _write(folder, {'new': np.ones(2)})
  _same(checkpoint.load_weights(str(folder)), {'new': np.ones(2)})
  assert _names(tmp_path) == ['weights']


def test_what_a_killed_writer_left_does_not_disturb(tmp_path, pieces):
  folder = tmp_path / 'weights'
  killed = checkpoint.weights_writer(str(folder))
  killed.__enter__()(WEIGHTS)  # And no more is heard of it.
  left = tmp_path / 'weights.parts.orbax-checkpoint-tmp' / 'state'
  left.mkdir(parents=True)
  (left / 'old').write_text('x')
  neighbour = tmp_path / 'weights_of_another'
  neighbour.mkdir()
  _write(folder, OLD)
  _same(checkpoint.load_weights(str(folder)), OLD)
  assert _names(tmp_path) == ['weights', 'weights_of_another']


def test_weights_are_complete_whenever_the_writer_is_killed(
  tmp_path, monkeypatch
):
  """Before each rename and removal that it, or Orbax for it, makes."""
  folder, kind = tmp_path / 'weights', type(epath.Path())
  for allowed in range(30):
    _write(folder, OLD)
    seen = []

    def counted(method, seen=seen, allowed=allowed):
      def call(self, *args, **options):
        seen.append(method.__name__)
        if len(seen) > allowed:
          raise OSError('killed')
        return method(self, *args, **options)

      return call

    with monkeypatch.context() as patch:
      for name in ('rename', 'rmtree'):
        patch.setattr(kind, name, counted(getattr(kind, name)))
      try:
        _write(folder, WEIGHTS)
        was_killed = False
      except Exception:  # Orbax wraps what its thread raised.
        was_killed = True
    found = checkpoint.load_weights(str(folder))
    _same(found, WEIGHTS if len(found) == len(WEIGHTS) else OLD)
    if not was_killed:
      break
    _write(folder, {'next': np.ones(2)})
    _same(checkpoint.load_weights(str(folder)), {'next': np.ones(2)})
    assert _names(tmp_path) == ['weights']
  assert not was_killed
  assert len(seen) == allowed >= 6


# --- Read one at a time ------------------------------------------------------


def test_lazy_weights_are_a_mapping_in_which_later_folders_override(tmp_path):
  folders = [str(tmp_path / name) for name in 'ab']
  checkpoint.save_weights(folders[0], WEIGHTS)
  _write(folders[1], OLD)
  found = checkpoint.LazyWeights(folders)
  _same(found, WEIGHTS | OLD)
  assert len(found) == 6
  assert list(found) == sorted(WEIGHTS | OLD)
  assert found.shapes == {path: x.shape for path, x in (WEIGHTS | OLD).items()}
  assert 'old' in found
  assert 'llm/blocks' not in found
  wanted = checkpoint.fingerprint(checkpoint.load_weights(folders))
  assert checkpoint.fingerprint(found) == wanted
  with pytest.raises(FileNotFoundError, match='nowhere'):
    checkpoint.LazyWeights([folders[0], str(tmp_path / 'nowhere')])


def test_nothing_is_kept_of_an_array_that_was_read(tmp_path, monkeypatch):
  _write(tmp_path, WEIGHTS)
  read = []
  read_them = checkpoint._read

  def counted(folder, entries, *rest):
    read.extend(entries)
    return read_them(folder, entries, *rest)

  monkeypatch.setattr(checkpoint, '_read', counted)
  found = checkpoint.LazyWeights(str(tmp_path))
  assert len(found.shapes) == len(list(found)) == 5
  assert read == []  # Shapes and names cost nothing.
  path = 'llm/blocks/norm1/scale'
  first = np.array(found[path])
  found[path].fill(0)
  _same({path: found[path]}, {path: first})
  assert read == [path] * 3


@pytest.mark.parametrize('dtype', [None, jnp.bfloat16, np.float32])
def test_some_of_the_weights_are_rounded_as_they_are_read(tmp_path, dtype):
  _write(tmp_path, WEIGHTS)
  everything = checkpoint.LazyWeights(str(tmp_path))
  paths = [path for path in WEIGHTS if path != 'llm/head/kernel']
  found = everything.only(paths, dtype=dtype)
  assert set(found.shapes) == set(found) == set(paths)
  with pytest.raises(KeyError):
    found['llm/head/kernel']
  wanted = {path: WEIGHTS[path] for path in paths}
  if dtype is not None:  # Counts and switches are no real numbers.
    for path in ('llm/blocks/attn/q/kernel', 'llm/blocks/norm1/scale'):
      wanted[path] = wanted[path].astype(dtype)
  _same(found, wanted)
  _same(everything, WEIGHTS)
  with pytest.raises(KeyError, match='stranger'):
    everything.only(['stranger'])


def test_writing_nothing_is_an_error_and_leaves_what_was_there(tmp_path):
  folder = str(tmp_path / 'weights')
  checkpoint.save_weights(folder, {'a': np.ones(2, np.float32)})
  with (
    pytest.raises(ValueError, match='found none'),
    checkpoint.weights_writer(folder),
  ):
    pass
  assert set(checkpoint.load_weights(folder)) == {'a'}


# One of two processes, which talk through gloo.
PROCESS = """
import sys
import jax, numpy as np
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
folder, port, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f'localhost:{port}', 2, index)
from vimonet_jax import checkpoint
with checkpoint.weights_writer(folder) as write:
  for i in range(3):
    write({f'llm/blocks/w{i}': np.full((4, 8), i, np.float32)})
"""


def test_several_processes_write_one_folder(tmp_path):
  """They used to remove each other's parts and wait for ever."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = str(free.getsockname()[1])
  folder = str(tmp_path / 'weights')
  flags = os.environ['XLA_FLAGS'].split()
  environment = {
    **os.environ,
    'XLA_FLAGS': ' '.join(x for x in flags if 'device_count' not in x),
  }
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', PROCESS, folder, port, str(i)],
      cwd=pathlib.Path(__file__).parents[1],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(2)
  ]
  try:
    for process in processes:
      output, _ = process.communicate(timeout=100)
      assert process.returncode == 0, output[-3000:]
  finally:
    for process in processes:
      process.kill()
  found = checkpoint.load_weights(folder)
  assert [x[0, 0] for x in found.values()] == [0, 1, 2]
  assert os.listdir(tmp_path) == ['weights']


def test_files_of_an_array_are_written_a_few_at_a_time(tmp_path, monkeypatch):
  """Else a slow disk has all of a stacked array in memory twice."""
  handler = checkpoint.ocp.type_handlers.NumpyHandler
  before = handler._open_and_write  # Of a later Orbax look for another way.
  monkeypatch.setattr(checkpoint, '_PIECE_BYTES', 64)
  x = np.arange(7 * 4 * 5, dtype=np.float32).reshape(7, 4, 5)
  seen, flying = [], set()

  class Store:
    """A TensorStore whose files take a while."""

    chunk_layout = types.SimpleNamespace(
      write_chunk=types.SimpleNamespace(shape=(2, 4, 5))
    )

    def __getitem__(self, part):
      async def write(value):
        assert value.base is not None  # No copy of ours.
        flying.add(part.start)
        seen.append((part.start, part.stop, len(flying)))
        await asyncio.sleep(0.01)
        flying.remove(part.start)

      return types.SimpleNamespace(
        write=lambda x, **unused: asyncio.ensure_future(write(x))
      )

  async def opened(*args, **kwargs):
    return Store()

  with checkpoint._part_by_part(), monkeypatch.context() as patch:
    patch.setattr(
      checkpoint, 'ts', types.SimpleNamespace(open=opened, Spec=dict)
    )
    asyncio.run(handler._open_and_write(None, x, {}, None))
  # Whole files of two rows, and what is left.
  assert [(a, b) for a, b, _ in seen] == [(0, 2), (2, 4), (4, 6), (6, 7)]
  assert max(count for *_, count in seen) == 3
  assert handler._open_and_write is before
