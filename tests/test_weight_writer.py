"""More weights than memory: written in parts, read one at a time."""

import json
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore as ts
import two_processes
from etils import epath

from vimonet_jax import (
  fingerprint,
  locks,
  sharding,
  weight_files,
  weight_writer,
)

_RNG = np.random.default_rng(0)
# Bytes of a file, and of a chunk in it.
SIZES = {
  'many files': (64, 16),
  'many chunks': (1 << 20, 16),
  'one': (1 << 20,) * 2,
}


def _normal(shape, dtype):
  return _RNG.normal(size=shape).astype(dtype)


EMPTY = {
  'first': np.zeros((0, 5), np.float32), 'last': np.zeros((5, 0), np.int32)
}  # fmt: skip
WEIGHTS = {
  'llm/blocks/attn/q/kernel': _normal((3, 8, 2, 4), ml_dtypes.bfloat16),
  'llm/blocks/norm1/scale': _normal((3, 8), np.float32),
  'llm/head/kernel': _normal((8, 32), np.float16),
  'motion/quantizer/count': np.arange(5, dtype=np.int32),
  'motion/quantizer/is_initialised': np.ones((), bool),
}
OLD = {'old': np.arange(3.0), 'llm/head/kernel': np.zeros((2, 2), np.float32)}


@pytest.fixture(params=SIZES.values(), ids=list(SIZES))
def sizes(request, monkeypatch):
  for name, size in zip(('_FILE', '_CHUNK'), request.param, strict=True):
    monkeypatch.setattr(weight_writer, f'{name}_BYTES', size)


def _write(folder, flat):
  with weight_writer.writing(str(folder)) as write:
    _write_all(write, flat)


def _write_all(write, flat):
  for path, x in flat.items():
    write(path, x)


def _same(found, wanted):
  assert set(found) == set(wanted)
  for path, x in wanted.items():
    y = np.asarray(found[path])
    assert (y.dtype, y.shape) == (x.dtype, x.shape), path
    assert y.tobytes() == x.tobytes(), path


def _names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_what_is_written_in_parts_is_read_as_if_it_were_saved(
  tmp_path, sizes, caplog
):
  _write(tmp_path / 'weights', WEIGHTS)
  _same(weight_files.load(str(tmp_path / 'weights')), WEIGHTS)
  _same(weight_files.Lazy(str(tmp_path / 'weights')), WEIGHTS)
  found = weight_files.load(str(tmp_path / 'weights'), ['llm/blocks/.*'])
  assert len(found) == 2
  assert _names(tmp_path) == ['weights']
  assert caplog.messages == []  # Such as what Orbax misses.


def test_saving_is_writing_in_parts(tmp_path, sizes):
  weight_writer.save(str(tmp_path / 'weights'), WEIGHTS | EMPTY)
  _same(weight_files.load(str(tmp_path / 'weights')), WEIGHTS | EMPTY)
  on_devices = {path: jnp.asarray(x) for path, x in WEIGHTS.items()}
  weight_writer.save(str(tmp_path / 'weights'), on_devices)
  _same(weight_files.load(str(tmp_path / 'weights')), WEIGHTS)


def test_a_saved_array_leaves_the_devices_a_file_at_a_time(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(weight_writer, '_FILE_BYTES', 64)
  sizes_ = [len(x) for x in weight_writer._rows(jnp.zeros((7, 8)))]
  assert sizes_ == [2, 2, 2, 1]


def test_a_mesh_that_does_not_divide_an_array_is_said(tmp_path):
  weight_writer.save(str(tmp_path / 'weights'), {'x': np.ones((6, 4))})
  mesh = sharding.make_mesh(1, 8, 1)
  for spec in (jax.P('fsdp'), jax.P(None, None, 'fsdp')):
    with pytest.raises(ValueError, match=r'Expected x \[6, 4\] to divide as'):
      weight_files.load(
        str(tmp_path / 'weights'),
        shardings={'x': jax.NamedSharding(mesh, spec)},
      )


def test_what_is_written_in_parts_arrives_in_shards(tmp_path, sizes):
  _write(tmp_path / 'weights', WEIGHTS)
  mesh = sharding.make_mesh(1, 4, 2)
  path = 'llm/blocks/attn/q/kernel'
  place = jax.NamedSharding(mesh, jax.P(None, 'fsdp', 'tensor', None))
  found = weight_files.load(
    str(tmp_path / 'weights'), shardings={path: place}
  )
  assert found[path].sharding == place
  assert found[path].addressable_shards[0].data.shape == (3, 2, 1, 4)
  _same(found, WEIGHTS)


def test_the_folder_changes_when_all_is_written_and_not_before(tmp_path, sizes):
  folder = tmp_path / 'weights'
  with weight_writer.writing(str(folder)) as write:
    _write_all(write, WEIGHTS)
    assert not folder.exists()
    with pytest.raises(FileNotFoundError):
      weight_files.load(str(folder))
  _write(folder, OLD)
  _same(weight_files.load(str(folder)), OLD)
  with weight_writer.writing(str(folder)) as write:
    _write_all(write, WEIGHTS)
    _same(weight_files.load(str(folder)), OLD)
  _same(weight_files.load(str(folder)), WEIGHTS)


def test_an_error_leaves_what_was_there(tmp_path, sizes):
  folder = tmp_path / 'weights'
  _write(folder, OLD)
  path = 'llm/head/kernel'

  def source():
    yield path, WEIGHTS[path]
    raise KeyError('the source broke off')

  def write_all():
    with weight_writer.writing(str(folder)) as write:
      for path, x in source():
        write(path, x)

  with pytest.raises(KeyError, match='the source broke off'):
    write_all()
  _same(weight_files.load(str(folder)), OLD)
  # What it wrote until then is not mixed with what comes after it.
  _write(folder, {'new': np.ones(2)})
  _same(weight_files.load(str(folder)), {'new': np.ones(2)})
  assert _names(tmp_path) == ['weights']


def test_what_a_killed_writer_left_does_not_disturb(tmp_path, sizes):
  folder = tmp_path / 'weights'
  _write(tmp_path / 'weights.parts', WEIGHTS)
  (tmp_path / 'weights.lock').write_text('process 1 on another machine')
  left = tmp_path / 'weights.parts.orbax-checkpoint-tmp' / 'state'
  left.mkdir(parents=True)
  (left / 'old').write_text('x')
  neighbour = tmp_path / 'weights_of_another'
  neighbour.mkdir()
  _write(folder, OLD)
  _same(weight_files.load(str(folder)), OLD)
  assert _names(tmp_path) == ['weights', 'weights_of_another']


WRITER = """
import sys, time
import numpy as np
from vimonet_jax import weight_writer
with weight_writer.writing(sys.argv[1]) as write:
  write('theirs', np.ones((4, 5)))
  print('writes', flush=True)
  time.sleep(600)
"""


def test_who_writes_where_somebody_else_does_is_told(tmp_path):
  """They used to take each other's parts away."""
  folder = str(tmp_path / 'weights')
  _write(folder, OLD)
  command = [sys.executable, '-c', WRITER, folder]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
    assert other.stdout.readline() == 'writes\n'
    with pytest.raises(
      locks.HeldError,
      match=rf'else to write weights to {folder}, found process {other.pid} ',
    ):
      _write(folder, WEIGHTS)
    assert (tmp_path / 'weights.parts' / 'theirs').exists()
    _same(weight_files.load(folder), OLD)
    # Nor is its lock gone for that.
    with pytest.raises(locks.HeldError):
      _write(folder, WEIGHTS)
    other.kill()
  _write(folder, WEIGHTS)
  _same(weight_files.load(folder), WEIGHTS)
  assert _names(tmp_path) == ['weights']


def test_what_cannot_be_written_is_one_sentence(tmp_path):
  (tmp_path / 'file').write_text('x')
  folder = tmp_path / 'file' / 'weights'
  with pytest.raises(OSError, match='Expected to write weights to') as error:
    _write(folder, OLD)
  assert f'to {folder}, found that it cannot be done (' in str(error.value)

  def spoilt(x):
    with weight_writer.writing(str(tmp_path / 'weights')) as write:
      parts = tmp_path / 'weights.parts'
      parts.write_text('no folder')
      try:
        write('a', x)
      finally:
        parts.unlink()

  with pytest.raises(OSError, match=r'done \(.*Not a directory.*\); mend') as e:
    spoilt(np.ones((2, 3)))
  assert 'tensorstore_spec' not in str(e.value)
  assert _names(tmp_path) == ['file']


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
    found = weight_files.load(str(folder))
    _same(found, WEIGHTS if len(found) == len(WEIGHTS) else OLD)
    if not was_killed:
      break
    _write(folder, {'next': np.ones(2)})
    _same(weight_files.load(str(folder)), {'next': np.ones(2)})
    assert _names(tmp_path) == ['weights']
  assert not was_killed
  assert len(seen) == allowed >= 6


# --- Read one at a time ------------------------------------------------------


def test_lazy_weights_are_a_mapping_in_which_later_folders_override(tmp_path):
  folders = [str(tmp_path / name) for name in 'ab']
  weight_writer.save(folders[0], WEIGHTS)
  _write(folders[1], OLD)
  found = weight_files.Lazy(folders)
  _same(found, WEIGHTS | OLD)
  assert len(found) == 6
  assert list(found) == sorted(WEIGHTS | OLD)
  assert found.shapes == {path: x.shape for path, x in (WEIGHTS | OLD).items()}
  assert 'old' in found
  assert 'llm/blocks' not in found
  wanted = fingerprint.of(weight_files.load(folders))
  assert fingerprint.of(found) == wanted
  with pytest.raises(FileNotFoundError, match='nowhere'):
    weight_files.Lazy([folders[0], str(tmp_path / 'nowhere')])


def test_nothing_is_kept_of_an_array_that_was_read(tmp_path, monkeypatch):
  _write(tmp_path, WEIGHTS)
  read = []
  read_them = weight_files._Opened.read

  def counted(self, paths, shardings):
    read.extend(paths)
    return read_them(self, paths, shardings)

  monkeypatch.setattr(weight_files._Opened, 'read', counted)
  found = weight_files.Lazy(str(tmp_path))
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
  everything = weight_files.Lazy(str(tmp_path))
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
  weight_writer.save(folder, {'a': np.ones(2, np.float32)})
  with (
    pytest.raises(ValueError, match='found none'),
    weight_writer.writing(folder),
  ):
    pass
  assert set(weight_files.load(folder)) == {'a'}


def _flip(data):
  flipped = bytearray(data)
  flipped[len(data) // 2] ^= 1
  return bytes(flipped)


@pytest.mark.parametrize(
  'damage',
  [_flip, lambda data: data[: len(data) // 2], lambda data: b'', None],
  ids=['a bit', 'cut', 'emptied', 'gone'],
)
def test_no_damaged_file_is_read_as_if_nothing_were(tmp_path, sizes, damage):
  """TensorStore's checksums have to be asked for, and Orbax has none."""
  folder = tmp_path / 'weights'
  weight_writer.save(str(folder), WEIGHTS)
  files = [path for path in folder.rglob('*') if path.is_file()]
  tried = 0
  for path in files:
    if path.name == '_CHECKPOINT_METADATA':  # When it was written, and by whom.
      continue
    data = path.read_bytes()
    path.unlink()
    if damage is not None:
      path.write_bytes(damage(data))
    for read in (weight_files.load, _read_one_by_one):
      if path.name == '_METADATA':  # Orbax's: _SHAPES says what there is.
        _same(read(str(folder)), WEIGHTS)
        continue
      with pytest.raises((ValueError, FileNotFoundError)) as raised:
        read(str(folder))
      assert f'in {folder}' in str(raised.value) or (
        f'written to {folder}, found files that cannot' in str(raised.value)
      )
    path.write_bytes(data)
    tried += 1
  assert tried >= 2 * len(WEIGHTS) + 1
  _same(weight_files.load(str(folder)), WEIGHTS)


@pytest.mark.parametrize('name', ['zarr.json', '_SHAPES'])
def test_no_character_of_a_description_makes_another_array(tmp_path, name):
  """Of a shape [5, 6], one bit makes [4, 6]."""
  folder = tmp_path / 'weights'
  wanted = {'x': np.arange(30, dtype=np.float32).reshape(5, 6)}
  weight_writer.save(str(folder), wanted)
  path = folder / ('x/zarr.json' if name == 'zarr.json' else name)
  text = path.read_text()
  refused = 0
  for i, letter in enumerate(text):
    if not letter.isdigit():
      continue
    path.write_text(text[:i] + chr(ord(letter) ^ 1) + text[i + 1 :])
    try:
      found = weight_files.load(str(folder))
    except ValueError:
      refused += 1
    else:
      _same(found, wanted)
  assert refused >= 2


def _read_one_by_one(folder):
  found = weight_files.Lazy(folder)
  return {path: found[path] for path in found}


# One of two processes, which talk through gloo.
PROCESS = """
import sys
import jax, numpy as np
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
folder, port, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f'localhost:{port}', 2, index)
from vimonet_jax import weight_writer
weight_writer._FILE_BYTES = 16
with weight_writer.writing(folder) as write:
  for i in range(3):
    write(f'llm/blocks/w{i}', np.full((4, 8), i, np.float32))
mesh = jax.make_mesh((2,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))
half = jax.make_array_from_callback(
  (8, 2),
  jax.NamedSharding(mesh, jax.P('x')),
  lambda at: np.arange(16, dtype=np.float32).reshape(8, 2)[at],
)
assert not half.is_fully_addressable
weight_writer.save(f'{folder}-saved', {'half': half})
"""


def test_several_processes_write_one_folder(tmp_path):
  """They used to remove each other's parts and wait for ever."""
  folder = str(tmp_path / 'weights')
  flags = os.environ['XLA_FLAGS'].split()
  environment = {
    **os.environ,
    'XLA_FLAGS': ' '.join(x for x in flags if 'device_count' not in x),
  }
  for status, output in two_processes.run(
    lambda port, i: ['-c', PROCESS, folder, str(port), str(i)],
    environment=environment,
    timeout_s=100,
  ):
    assert status == 0, output[-3000:]
  found = weight_files.load(folder)
  assert [x[0, 0] for x in found.values()] == [0, 1, 2]
  saved = weight_files.load(f'{folder}-saved')['half']
  np.testing.assert_array_equal(saved, np.arange(16.0).reshape(8, 2))
  assert _names(tmp_path) == ['weights', 'weights-saved']


# --- Rows of an array --------------------------------------------------------

STACK = _normal((7, 4, 6), ml_dtypes.bfloat16)


@pytest.mark.parametrize('rows', [1, 2, 3, 7])
def test_rows_arrive_one_after_the_other(tmp_path, sizes, rows):
  folder = tmp_path / 'weights'
  with weight_writer.writing(str(folder)) as write:
    for start in range(0, 7, rows):
      write('net/w', STACK[start : start + rows], of=7)
  _same(weight_files.load(str(folder)), {'net/w': STACK})
  files = [path for path in (folder / 'net/w/c').rglob('*') if path.is_file()]
  assert len(files) == -(-7 // rows)


def test_views_are_written_as_what_they_show(tmp_path, sizes):
  flat = {'a': STACK.transpose(2, 0, 1), 'b': STACK[::-1], 'c': STACK[:0]}
  _write(tmp_path / 'weights', flat)
  _same(weight_files.load(str(tmp_path / 'weights')), flat)


def test_rows_that_do_not_come_are_an_error_and_leave_what_was_there(tmp_path):
  folder = str(tmp_path / 'weights')
  _write(folder, OLD)

  def most():
    with weight_writer.writing(folder) as write:
      write('net/all', STACK)
      write('net/some', STACK[:4], of=7)

  with pytest.raises(ValueError, match=r'not all rows of net/some\.'):
    most()
  _same(weight_files.load(folder), OLD)


@pytest.mark.parametrize(
  'rows',
  [STACK[:4], STACK[4:].astype(np.float32), STACK[4:, :1], STACK[0, 0]],
  ids=['too many', 'other numbers', 'narrower', 'fewer axes'],
)
def test_rows_of_another_array_are_refused(tmp_path, rows):
  def write_all():
    with weight_writer.writing(str(tmp_path / 'weights')) as write:
      write('a', STACK[:4], of=7)
      write('a', rows, of=7)

  with pytest.raises(ValueError, match=r'3 more rows of a, which is bfloat16'):
    write_all()


def test_an_array_is_written_once(tmp_path):
  def write_twice():
    with weight_writer.writing(str(tmp_path / 'weights')) as write:
      write('a', STACK)
      write('a', STACK)

  with pytest.raises(ValueError, match='Expected at most 0 more rows of a'):
    write_twice()


def test_what_was_on_its_way_at_an_error_is_not_in_the_next_folder(tmp_path):
  """TensorStore writes on, and makes folders anew that were removed."""
  folder = tmp_path / 'weights'
  x = np.ones((3, 2048, 2048), np.float32)

  def broken():
    with weight_writer.writing(str(folder)) as write:
      write('w', x[:1], of=3)
      write('w', x[1:2], of=3)
      raise KeyError('the source broke off')

  for _ in range(3):
    with pytest.raises(KeyError, match='the source broke off'):
      broken()
    _write(folder, {'other': np.ones(3)})
    assert sorted(path.name for path in folder.iterdir()) == [
      '_CHECKPOINT_METADATA',
      '_METADATA',
      '_SHAPES',
      'other',
    ]


def test_names_may_lie_in_one_another(tmp_path):
  flat = {'a': STACK, 'a/b': STACK[0], 'a/c': STACK[1], 'c': np.ones(())}
  _write(tmp_path / 'weights', flat)
  _same(weight_files.load(str(tmp_path / 'weights')), flat)


@pytest.mark.parametrize(
  ('shape', 'wanted'),
  [
    ((1, 4096, 11008), [1, 1024, 688]),
    ((2, 9), [2, 9]),
    ((1, 4099, 11009), [1, 4099, 11009]),  # Prime numbers.
    ((32001, 4096), [10667, 64]),
  ],
)
def test_a_chunk_is_small_where_sides_can_be_divided(shape, wanted):
  chunk = weight_writer._chunk(shape, 2)
  for side, part in zip(shape, chunk, strict=True):
    assert side % part == 0
  assert chunk == wanted


def test_only_a_few_files_are_on_their_way_at_once(tmp_path, monkeypatch):
  """Else a slow disk has all of a stacked array in memory twice."""
  monkeypatch.setattr(weight_writer, '_FILE_BYTES', 2 * STACK[0].nbytes)
  flying, most = set(), []

  class Writing:
    """What TensorStore promises, kept only when it is asked for."""

    def __init__(self, store, value):
      self.done = store.write(value)
      flying.add(self)
      most.append(len(flying))

    def result(self):
      flying.discard(self)
      return self.done.result()

  class Store:
    def __init__(self, store):
      self.store = store
      self.chunk_layout = store.chunk_layout

    def __getitem__(self, part):
      return Store(self.store[part])

    def write(self, value, **unused):
      assert value.base is not None  # No copy of ours.
      return Writing(self.store, value)

  open_it = weight_writer.ts.open
  with monkeypatch.context() as patch:
    patch.setattr(
      weight_writer,
      'ts',
      types.SimpleNamespace(
        ChunkLayout=weight_writer.ts.ChunkLayout,
        TensorStore=Store,
        open=lambda *args, **options: types.SimpleNamespace(
          result=lambda: Store(open_it(*args, **options).result())
        ),
      ),
    )
    with weight_writer.writing(str(tmp_path / 'weights')) as write:
      for name in 'ab':
        write(name, STACK)
        assert not flying  # Or the whole array stayed in memory.
  assert len(most) == 8
  assert max(most) == weight_writer._FLYING
  assert not flying
  _same(
    weight_files.load(str(tmp_path / 'weights')),
    {'a': STACK, 'b': STACK},
  )


def test_a_device_reads_its_part_of_a_layer_and_not_the_rest(
  tmp_path, monkeypatch
):
  """A host of a pod would else read all of a 7B model."""
  monkeypatch.setattr(weight_writer, '_CHUNK_BYTES', 1 << 10)
  x = np.arange(4 * 64 * 96, dtype=np.float32).reshape(4, 64, 96)
  folder = tmp_path / 'weights'
  with weight_writer.writing(str(folder)) as write:
    for i in range(4):
      write('net/w', x[i : i + 1], of=4)
  size = _bytes_read(folder, slice(0, 64))
  part = _bytes_read(folder, slice(0, 16))
  index = 0.05 * x.nbytes  # Of the chunks of a file.
  assert size >= x.nbytes
  assert part < x.nbytes / 4 + index


def _bytes_read(folder, rows):
  path = f'{folder / "net/w"}/'
  spec = {'driver': 'zarr3', 'kvstore': {'driver': 'file', 'path': path}}
  name = '/tensorstore/kvstore/file/bytes_read'

  def so_far():
    (metric,) = ts.experimental_collect_matching_metrics(name)
    return metric['values'][0]['value']

  array = ts.open(spec).result()
  before = so_far()
  array[:, rows].read().result()
  return so_far() - before


def test_weights_are_read_without_a_context_of_their_own(tmp_path, monkeypatch):
  """TensorStore may crash when a context goes, and Orbax makes one a call."""
  folder = str(tmp_path / 'weights')
  weight_writer.save(folder, WEIGHTS)

  def refuse(*args, **kwargs):
    raise AssertionError('Orbax was asked')

  for name in ('PyTreeCheckpointer', 'StandardCheckpointer'):
    monkeypatch.setattr(ocp, name, refuse)
  monkeypatch.setattr(weight_files.ts, 'Context', refuse)
  _same(weight_files.load(folder), WEIGHTS)
  _same(_read_one_by_one(folder), WEIGHTS)


def test_arrays_of_two_saves_are_never_read_together(tmp_path, monkeypatch):
  folder = str(tmp_path / 'weights')
  weight_writer.save(folder, {'a': np.zeros(3), 'b': np.zeros(3)})
  found = weight_files.Lazy(folder)
  _same({'a': found['a']}, {'a': np.zeros(3)})
  for other in (3, 4):
    weight_writer.save(folder, {'a': np.ones(other), 'b': np.ones(other)})
    for read in (found.read, lambda: found['b']):
      with pytest.raises(ValueError, match='another save took the place'):
        read()
  describe = weight_files._read_description

  def save_then(root):
    arrays = describe(root)
    weight_writer.save(folder, {'a': np.zeros(4), 'b': np.ones(4)})
    return arrays

  monkeypatch.setattr(weight_files, '_read_description', save_then)
  with pytest.raises(ValueError, match='another save took the place'):
    weight_files.load(folder)


def test_a_folder_is_opened_once_however_often_it_is_read(
  tmp_path, monkeypatch
):
  folder = str(tmp_path / 'weights')
  weight_writer.save(folder, WEIGHTS)
  opened, described = [], []
  open_it, describe = ts.open, weight_files._read_description

  def count(spec, **options):
    opened.append(spec['kvstore']['path'])
    return open_it(spec, **options)

  monkeypatch.setattr(weight_files.ts, 'open', count)
  monkeypatch.setattr(
    weight_files,
    '_read_description',
    lambda root: described.append(root) or describe(root),
  )
  found = weight_files.Lazy(folder)
  for _ in range(2):
    _same(found, WEIGHTS)
    _same(found.read(), WEIGHTS)
    assert set(found.only(['llm/head/kernel']).read(['llm/.*'])) == {
      'llm/head/kernel'
    }
  assert len(opened) == len(set(opened)) == len(WEIGHTS)
  assert len(described) == 1


@pytest.mark.parametrize('text', ['{}', '[]', 'null'])
def test_a_description_of_nothing_is_damage(tmp_path, text):
  folder = tmp_path / 'weights'
  weight_writer.save(str(folder), {'a': np.zeros(3)})
  (folder / '_SHAPES').write_text(text)
  with pytest.raises(ValueError, match='_SHAPES names no array'):
    weight_files.load(str(folder))


def test_folders_of_when_saves_had_words_are_read(tmp_path):
  folder = tmp_path / 'weights'
  weight_writer.save(str(folder), {'a': np.arange(3.0)})
  arrays = {'a': ['float64', [3]]}
  text = {
    'arrays': arrays,
    'save': 'word',
    'digest': fingerprint.digest(repr((sorted(arrays.items()), 'word'))),
  }
  (folder / '_SHAPES').write_text(json.dumps(text))
  _same(weight_files.load(str(folder)), {'a': np.arange(3.0)})
