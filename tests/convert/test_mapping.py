"""The engine on toy tables, and every table there and back; needs no torch."""

import dataclasses
import functools
import itertools
import time

import ml_dtypes
import numpy as np
import originals
import pytest

from vimonet_jax.convert import decoder_tables, encoder_tables, mapping
from vimonet_jax.models import clip_video, llama, lora, motion_vqvae

# Two of a kind of everything, and no two sizes alike.
TOY = mapping.Table(
  'a toy',
  (
    mapping.row('table.weight', 'toy/table'),
    mapping.row('{i}.up.weight', 'toy/up/kernel', mapping.TRANSPOSED),
    mapping.Row(
      ('{i}.a', '{i}.b'),
      ('toy/sum', 'toy/difference'),
      mapping.Transform(
        lambda a, b: (a + b, a - b), lambda s, d: ((s + d) / 2, (s - d) / 2)
      ),
    ),
  ),
  {
    'toy/table': (5, 4),
    'toy/up/kernel': (3, 4, 6),
    'toy/sum': (3, 2),
    'toy/difference': (3, 2),
    'toy/fresh': (7,),
  },
  ignored=(r'old\..*',),
  renamed=((r'^model\.', ''),),
)


def toy(**changes):
  return {**originals.drawn(TOY), **changes}


def test_a_table_knows_what_it_would_write():
  assert TOY.expected() == {
    'table.weight': (5, 4),
    **{f'{i}.up.weight': (6, 4) for i in range(3)},
    **{f'{i}.{name}': (2,) for i in range(3) for name in 'ab'},
  }
  names = [name for row in TOY.rows for name in mapping.names_of(TOY, row)]
  assert sorted(names) == sorted(TOY.expected())
  assert names[4:] == ['0.a', '0.b', '1.a', '1.b', '2.a', '2.b']


def test_layers_lie_on_the_first_axis_in_their_order():
  tensors = toy()
  flat = originals.ours(TOY, tensors)
  # What a table has no row for, it does not make.
  assert set(flat) == set(TOY.shapes) - {'toy/fresh'}
  np.testing.assert_array_equal(flat['toy/table'], tensors['table.weight'])
  for i in range(3):
    up = tensors[f'{i}.up.weight']
    np.testing.assert_array_equal(flat['toy/up/kernel'][i], up.T)
    a, b = tensors[f'{i}.a'], tensors[f'{i}.b']
    np.testing.assert_array_equal(flat['toy/sum'][i], a + b)
    np.testing.assert_array_equal(flat['toy/difference'][i], a - b)


# Each element is its own index, so that it says where it came from.
@pytest.mark.parametrize(
  ('transform', 'theirs', 'place'),
  [
    (mapping.SAME, (2, 3), lambda a, b: (a, b)),
    (mapping.TRANSPOSED, (2, 3), lambda a, b: (b, a)),
    (mapping.axes(2, 3, 1, 0), (2, 3, 4, 5), lambda o, c, y, x: (y, x, c, o)),
    (mapping.axes(2, 1, 0), (2, 3, 4), lambda o, c, k: (k, c, o)),
    (mapping.reshaped((6,), (2, 3)), (6,), lambda a: (a // 3, a % 3)),
    (mapping.split_outputs(2, 3), (6, 5), lambda o, i: (i, o // 3, o % 3)),
    (mapping.split_inputs(2, 3), (5, 6), lambda o, i: (i // 3, i % 3, o)),
  ],
)
def test_each_number_goes_to_its_place_and_back(transform, theirs, place):
  x = np.arange(np.prod(theirs)).reshape(theirs)
  (ours,) = transform.forward(x)
  assert ours.size == x.size
  for index in np.ndindex(theirs):
    assert ours[place(*index)] == x[index], index
  (again,) = transform.backward(ours)
  np.testing.assert_array_equal(again, x)


@pytest.mark.parametrize('order', itertools.permutations(range(4)), ids=str)
def test_copies_are_whole_contiguous_and_nobody_elses(order):
  # More columns than are copied at once, and not a multiple of them.
  x = np.arange(2 * 3 * 5 * 70, dtype=np.float32).reshape(2, 3, 5, 70)
  wanted = x.transpose(order)
  table = mapping.Table(
    'one', (mapping.row('x', 'y', mapping.axes(*order)),), {'y': wanted.shape}
  )
  found = originals.ours(table, {'x': x})['y']
  np.testing.assert_array_equal(found, wanted)
  again = originals.theirs(table, {'y': found})['x']
  np.testing.assert_array_equal(again, x)
  for copy, source in ((found, x), (again, found)):
    assert copy.flags.c_contiguous
    assert not np.shares_memory(copy, source)


@pytest.mark.parametrize('dtype', [bool, np.float16, np.int32, np.float64])
@pytest.mark.parametrize('rows', [8, 130, 257])
@pytest.mark.parametrize('columns', [16, 20, 21])
def test_numbers_are_turned_several_at_a_time(dtype, rows, columns):
  x = np.arange(rows * 2 * columns).reshape(rows, 2 * columns) % 251
  x = (x % 2 if dtype is bool else x).astype(dtype)
  for source in (x, x[:, columns:], x[:, ::2], x[::-1], x.byteswap()):
    into = np.zeros((source.shape[1], 3, rows), dtype)
    mapping._copy(into[:, 1], source.T)
    assert into[:, 1].tobytes() == source.T.tobytes()
    assert not into[:, ::2].any()  # Nothing beside it.


def test_numbers_of_another_kind_are_turned_by_their_value():
  x = np.arange(12, dtype=np.float16).reshape(3, 4)
  for kind in (ml_dtypes.bfloat16, '>f2', np.float32):
    into = np.zeros((4, 3), kind)
    mapping._copy(into, x.T)
    np.testing.assert_array_equal(into.astype(np.float32), x.T)


def test_all_that_is_wrong_is_in_one_error_and_nothing_is_read():
  shapes = {name: x.shape for name, x in toy().items()}
  del shapes['1.a'], shapes['2.b']
  shapes |= {
    'stranger': (1,),
    'model.0.a': (2,),
    '2.up.weight': (4, 6),
    'old.buffer': (9,),
    'very.old.buffer': (9,),
  }

  def read(name):
    raise AssertionError(f'{name} was read')

  with pytest.raises(mapping.ConversionError) as caught:
    next(mapping.to_ours(TOY, shapes, read))
  lines = [line.strip() for line in str(caught.value).splitlines()]
  assert lines == [
    'Expected the 10 tensors of a toy, found 12 of which:',
    '2 missing:',
    '1.a',
    '2.b',
    '2 unknown:',
    'stranger',
    'very.old.buffer',
    '1 there twice:',
    'model.0.a',
    '1 of another shape:',
    '2.up.weight [4, 6] instead of [6, 4]',
    'Choose the format that wrote them with --format, and the sizes in '
    'config.model.',
  ]


def test_a_long_list_is_cut_and_counted():
  shapes = {name: x.shape for name, x in toy().items()}
  shapes |= {f'stranger.{k}': (1,) for k in range(23)}
  with pytest.raises(mapping.ConversionError) as caught:
    mapping.check(TOY, shapes)
  text = str(caught.value)
  assert '23 unknown:' in text
  assert 'stranger.19' in text
  assert 'stranger.20' not in text
  assert 'and 3 more' in text


def test_another_formats_names_are_not_listed_one_by_one():
  shapes = {f'stranger.{k}': (1,) for k in range(23)}
  with pytest.raises(
    mapping.ConversionError,
    match='a toy, such as table.weight.*stranger.0.*20 more.*--format',
  ):
    mapping.check(TOY, shapes)


def test_other_spellings_of_a_name_are_read_under_their_own():
  tensors = toy()
  wanted = originals.ours(TOY, tensors)
  renamed = {f'model.{name}': x for name, x in tensors.items()}
  found = originals.ours(TOY, {**renamed, 'old.stuff': np.zeros(3)})
  assert originals.bits(found) == originals.bits(wanted)


@pytest.mark.parametrize(
  ('limit', 'lengths'),
  [
    (4, [1, 1, 1]),  # Less than a layer.
    (4 * 6 * 4 * 2, [2, 1]),
    (4 * 6 * 4 * 3 - 1, [2, 1]),
    (4 * 6 * 4 * 3, [3]),
  ],
)
def test_stacks_come_in_pieces_of_whole_layers(monkeypatch, limit, lengths):
  tensors = toy()
  wanted = originals.ours(TOY, tensors)
  monkeypatch.setattr(mapping, '_PIECE_BYTES', limit)
  shapes = {name: x.shape for name, x in tensors.items()}
  pieces = list(mapping.to_ours(TOY, shapes, tensors.__getitem__))
  found = [piece for piece in pieces if piece.path == 'toy/up/kernel']
  assert [len(piece.x) for piece in found] == lengths
  assert {piece.of for piece in found} == {3}
  assert [piece.path for piece in pieces][0] == 'toy/table'
  assert pieces[0].of is None
  assert originals.bits(originals.whole(pieces)) == originals.bits(wanted)


def test_only_the_next_pieces_are_made_while_one_is_used(monkeypatch):
  """Else a checkpoint would be read into memory while the disk is written."""
  monkeypatch.setattr(mapping, '_PIECE_BYTES', 1)
  monkeypatch.setattr(mapping.os, 'cpu_count', lambda: 2)
  tensors, seen = toy(), []

  def read(name):
    seen.append(name)
    return tensors[name]

  pieces = mapping.to_ours(
    TOY, {name: x.shape for name, x in tensors.items()}, read
  )
  for used, number in ((1, 3), (2, 4)):
    next(pieces)
    start = time.monotonic()
    while len(seen) < number and time.monotonic() - start < 10:
      time.sleep(0.01)
    time.sleep(0.1)  # Would be enough for all of them.
    assert len(seen) == number, used
  assert set(seen) == {'table.weight', *(f'{i}.up.weight' for i in range(3))}


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_numbers_are_rounded_when_a_dtype_is_named_and_only_then(dtype):
  tensors = toy()
  kept = originals.ours(TOY, tensors)
  rounded = originals.ours(TOY, tensors, dtype=dtype)
  assert {x.dtype for x in kept.values()} == {np.dtype(np.float32)}
  assert {x.dtype for x in rounded.values()} == {np.dtype(dtype)}
  up = kept['toy/up/kernel']
  assert originals.bits({'': rounded['toy/up/kernel']}) == originals.bits(
    {'': up.astype(dtype)}
  )
  back = originals.theirs(TOY, kept, dtype=dtype)
  assert originals.bits({'': back['1.up.weight']}) == originals.bits(
    {'': np.ascontiguousarray(up[1].T).astype(dtype)}
  )
  assert originals.theirs(TOY, kept)['1.a'].dtype == np.float32


def test_our_arrays_of_another_shape_are_not_written():
  flat = originals.ours(TOY, toy())
  flat['toy/up/kernel'] = flat['toy/up/kernel'].swapaxes(1, 2)
  with pytest.raises(
    mapping.ConversionError,
    match=r'toy/up/kernel of shape \[3, 4, 6\] for a toy, found \[3, 6, 4\]',
  ):
    originals.theirs(TOY, flat)


def test_a_transform_that_breaks_its_promise_is_found_out():
  # Its backward says nothing of its forward.
  broken = mapping.one(lambda x: x[None], lambda x: x)
  table = mapping.Table('bad', (mapping.row('x', 'y', broken),), {'y': (3,)})
  with pytest.raises(mapping.ConversionError, match=r'y of shape \[3\]'):
    originals.ours(table, {'x': np.zeros(3)})


# --- Every table -------------------------------------------------------------

HEADS = llama.Config(
  vocab_size=11,
  width=12,
  layers=3,
  heads=4,
  kv_heads=4,
  head_dim=6,
  mlp_width=7,
  lora=lora.LoraConfig(rank=2, targets=('q', 'v')),
)
SHARED = dataclasses.replace(HEADS, kv_heads=2)


def _with(config, rank, *targets):
  adapter = lora.LoraConfig(rank=rank, targets=targets)
  return dataclasses.replace(config, lora=adapter)


VIDEO = clip_video.Config(
  width=12, layers=2, heads=3, mlp_width=7, image_size=8, patch_size=4, frames=3
)
TABLES = {
  'llama_hf': lambda: decoder_tables.llama_hf(HEADS),
  'llama_hf, shared heads': lambda: decoder_tables.llama_hf(SHARED),
  'litgpt, legacy': lambda: decoder_tables.litgpt(HEADS, interleaved=True),
  'litgpt, current': lambda: decoder_tables.litgpt(HEADS, interleaved=False),
  'litgpt, legacy, shared heads': lambda: decoder_tables.litgpt(
    SHARED, interleaved=True
  ),
  'litgpt, current, shared heads': lambda: decoder_tables.litgpt(
    SHARED, interleaved=False
  ),
  'peft': lambda: decoder_tables.peft(_with(SHARED, 2, *llama.PROJECTIONS)),
  'litgpt_lora': lambda: decoder_tables.litgpt_lora(HEADS),
  'litgpt_lora, shared heads': lambda: decoder_tables.litgpt_lora(SHARED),
  'motionllm_lora': lambda: decoder_tables.motionllm_lora(
    _with(HEADS, 4, 'q', 'k', 'v')
  ),
  'languagebind': lambda: encoder_tables.languagebind(VIDEO),
  'vqvae': lambda: encoder_tables.vqvae(
    motion_vqvae.Config(width=6, code_dim=5, num_codes=4, depth=2)
  ),
  'projector': lambda: encoder_tables.projector(6, 5),
  'motion_projector': lambda: encoder_tables.motion_projector(6, 5),
}


@functools.cache
def table_of(name):
  return TABLES[name]()


def _same_bits(found, wanted):
  assert found.keys() == wanted.keys()
  found, wanted = originals.bits(found), originals.bits(wanted)
  assert [name for name in wanted if found[name] != wanted[name]] == []


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
@pytest.mark.parametrize('name', TABLES)
def test_there_and_back_is_the_same_in_every_bit(name, dtype):
  table = table_of(name)
  tensors = originals.drawn(table, dtype=np.dtype(dtype))
  for x in tensors.values():
    x[..., 0] = -0.0  # Whoever calculates would lose its sign.
  flat = originals.ours(table, tensors)
  made = {path for row in table.rows for path in row.ours}
  assert {path: x.shape for path, x in flat.items()} == {
    path: shape for path, shape in table.shapes.items() if path in made
  }
  assert {x.dtype.name for x in flat.values()} == {dtype}
  _same_bits(originals.theirs(table, flat), tensors)


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
@pytest.mark.parametrize(
  # Few of our adapters are MotionLLM's: see test_decoder_tables.py.
  'name',
  [name for name in TABLES if name != 'motionllm_lora'],
)
def test_from_ours_there_and_back_is_the_same_in_every_bit(name, dtype):
  table = table_of(name)
  rng = np.random.default_rng(0)
  flat = {
    path: rng.normal(size=table.shapes[path]).astype(dtype)
    for row in table.rows
    for path in row.ours
  }
  tensors = originals.theirs(table, flat)
  assert {name: x.shape for name, x in tensors.items()} == table.expected()
  _same_bits(originals.ours(table, tensors), flat)


def test_every_parameter_of_a_network_comes_from_its_table():
  """Adapters apart, which have a table of their own."""
  for name in ('llama_hf', 'litgpt, legacy', 'languagebind', 'peft'):
    table = table_of(name)
    made = [path for row in table.rows for path in row.ours]
    assert len(made) == len(set(made)), name
    is_adapter = name == 'peft'
    assert set(made) == {
      path for path in table.shapes if ('lora_' in path) == is_adapter
    }, name
  table = table_of('vqvae')
  rest = encoder_tables.codebook_state(np.zeros((4, 5)))
  made = {path for row in table.rows for path in row.ours}
  assert made | set(rest) == set(table.shapes)
  assert {path: x.shape for path, x in rest.items()} == {
    path: table.shapes[path] for path in rest
  }
