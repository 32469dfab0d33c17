"""The real step of a configuration, planned for devices here and elsewhere."""

import json
import os
from typing import NamedTuple

import jax
import presets
import pytest

from vimonet_jax import planning, sharding
from vimonet_jax.plan import chips, cost, flops, steps


def _config(**changes):
  return presets.load('tiny', 'smoke', mesh__data=1, mesh__fsdp=-1, **changes)


def test_a_step_for_what_is_here_is_planned(tmp_path, capsys, monkeypatch):
  config = _config(plan__rows=8, plan__stage='align', plan__mix='motion')
  assert planning.run(config, str(tmp_path)) == 0
  found = json.loads((tmp_path / 'plan.json').read_text())
  assert (found['rows'], found['devices'], found['mix']) == (8, 8, 'motion')
  of_step = found['cost']
  assert of_step['temporaries'] > 0
  assert of_step['exchanged']
  # Nobody knows the speed of this machine, but what memory eight can share.
  assert 'bound' not in found
  assert found['ridge'] is None
  assert found['intensity'] == of_step['flops'] / of_step['accessed']
  host = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  assert found['limit'] == host // 8
  told = capsys.readouterr().out
  assert told.startswith('align, motion: rows of 160 on 8 x cpu (8 here)\n')
  assert f'intensity       {found["intensity"]:>10.1f} FLOP a byte' in told
  optimizer = found['memory']['optimizer'] / 2**20
  assert f'optimizer       {optimizer:>10.2f} MiB\n' in told
  assert 'It fits.' in told
  monkeypatch.setattr(os, 'sysconf', lambda name: 1000)
  assert planning.run(config, str(tmp_path)) == 1
  assert not json.loads((tmp_path / 'plan.json').read_text())['fits']
  assert 'It does not fit.' in capsys.readouterr().out


def test_where_nobody_knows_the_memory_it_is_not_said_to_fit(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(planning, 'available', lambda device: None)
  config = _config(plan__step='decode', plan__rows=8, plan__length=96)
  assert planning.run(config, str(tmp_path)) == 0
  found = json.loads((tmp_path / 'plan.json').read_text())
  assert (found['fits'], found['limit']) == (None, None)
  told = capsys.readouterr().out
  assert 'It is not known whether it fits' in told
  assert 'It fits.' not in told


def test_a_device_that_is_here_tells_its_memory_itself(monkeypatch):
  class Device(NamedTuple):
    device_kind: str
    platform: str
    told: dict | None

    def memory_stats(self):
      return self.told

  # XLA takes three quarters of a GPU unless it is told otherwise.
  gpu = Device('NVIDIA H200', 'gpu', {'bytes_limit': 100})
  silent = Device('NVIDIA H200', 'gpu', None)
  other = Device('NVIDIA L40S', 'gpu', {'bytes_limit': 50})
  monkeypatch.setattr(jax, 'local_devices', lambda: [gpu, silent, other])
  assert planning.available(gpu) == 100
  assert planning.available(silent) == 141e9
  assert planning.available(other) == 50
  monkeypatch.setattr(jax, 'local_devices', list)
  assert planning.available(gpu) == 141e9
  assert planning.available(other) is None


@pytest.mark.parametrize(
  ('changes', 'names'),
  [
    (
      {'plan__stage': 'instruct', 'plan__mix': 'motion'},
      ('frozen weights', 'trainables', 'optimizer', 'batch'),
    ),
    (
      {'plan__step': 'decode', 'plan__length': 96, 'eval__quantize': 'int8'},
      ('weights', 'cache', 'batch'),
    ),
  ],
)
def test_what_a_device_holds_adds_up(tmp_path, changes, names):
  assert planning.run(_config(plan__rows=8, **changes), str(tmp_path)) == 0
  found = json.loads((tmp_path / 'plan.json').read_text())
  sizes = found['memory']
  assert sum(sizes.values()) == found['used']
  assert tuple(sizes)[:-3] == names
  assert all(sizes[name] > 0 for name in names)
  # The metrics and the key; nothing large is left out or counted twice.
  assert 0 <= sizes['results, padding'] < 1000
  if 'optimizer' in names:  # Two moments, but none of the codebook's counts.
    assert 1.9 < sizes['optimizer'] / sizes['trainables'] < 2
    # The video tower lies there for other mixes, and XLA does not count it.
    counted = cost.Cost(**found['cost']).memory
    assert 0.1 < (found['used'] - counted) / sizes['frozen weights'] < 0.9


def test_products_are_those_of_the_papers_second_stage():
  """4 N a token: forwards, and back to what the adapters need."""
  config = presets.load('vicuna7b', '')
  config.model.llm.remat = 'none'
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  step = steps.Step('train', 'instruct', 'motion', {'motion': 1}, 1, 512)
  found = flops.of(steps.trace(config, step, mesh).jaxpr)
  known = 4 * 6_738_415_616 * 512
  assert abs(found / known - 1) < 0.15


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'plan__rows': 3}, 'rows that divide among 8 shards .* found 3; set'),
    (
      {'plan__rows': 8, 'instruct__grad_accumulation': 2},
      '8 shards of the mesh times grad_accumulation=2, found 8; set',
    ),
    ({'plan__step': 'think'}, "to be train or decode, found 'think'"),
    ({'plan__search': True}, 'chips of known memory .* found cpu; name a'),
    ({'plan__stage': 'motion'}, "among language, video, align, .*'motion'"),
    ({'plan__mix': 'smell'}, "config.plan.mix among .*, found 'smell'"),
  ],
)
def test_a_plan_that_cannot_be_made_says_why(tmp_path, changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    planning.run(_config(**changes), str(tmp_path))
  assert not list(tmp_path.iterdir())


def test_a_token_of_an_answer_is_planned(tmp_path, capsys):
  config = _config(plan__step='decode', plan__rows=8, plan__length=96)
  assert planning.run(config, str(tmp_path)) == 0
  found = json.loads((tmp_path / 'plan.json').read_text())
  assert (found['tokens'], found['length']) == (8, 96)
  llm = config.model.llm
  # Two a weight and token, and scores and sums over the cache.
  kernels = llm.width * (4 * llm.heads * llm.head_dim + 3 * llm.mlp_width)
  head = llm.width * config.text.vocab_size
  attended = 2 * llm.heads * llm.head_dim * 96
  wanted = 2 * (llm.layers * (kernels + attended) + head)
  # On eight devices, a row each.
  assert found['model_flops'] == wanted
  # All weights of the model, and the cache.
  cache = 2 * llm.layers * 96 * llm.kv_heads * llm.head_dim * 4
  assert found['cost']['arguments'] > cache + llm.layers * kernels * 4 / 8
  assert capsys.readouterr().out.startswith('decode, both: rows of 96 on 8 x ')
  # As evaluation and chat round it, whatever a stage does.
  config.eval.quantize = 'int8'
  assert planning.run(config, str(tmp_path)) == 0
  rounded = json.loads((tmp_path / 'plan.json').read_text())
  assert rounded['quantize'] == 'int8'
  saved = found['cost']['arguments'] - rounded['cost']['arguments']
  assert saved > 2.5 * llm.layers * kernels / 8  # Three bytes of four.


def test_a_batch_is_planned_in_its_parts(tmp_path):
  changes = {'plan__stage': 'align', 'plan__mix': 'motion'}
  sizes = {}
  for rows, parts in ((64, 1), (64, 4)):
    config = _config(
      plan__rows=rows, align__grad_accumulation=parts, **changes
    )
    assert planning.run(config, str(tmp_path)) == 0
    found = json.loads((tmp_path / 'plan.json').read_text())
    assert (found['rows'], found['parts']) == (rows, parts)
    sizes[rows, parts] = found
  whole, cut = sizes[64, 1], sizes[64, 4]
  assert cut['cost']['temporaries'] < 0.6 * whole['cost']['temporaries']
  assert cut['model_flops'] == pytest.approx(whole['model_flops'], rel=1e-3)


def test_a_search_takes_the_mesh_with_most_tokens_a_second(
  tmp_path, capsys, monkeypatch
):
  """With a stand-in for what takes minutes: the compiler."""
  chip = chips.Chip('chip', 1e12, 2.0**30, 1e11, 1e10)
  monkeypatch.setitem(chips.CHIPS, jax.devices()[0].device_kind, chip)
  compiled = []

  def planned(config, step, mesh):
    del config
    shards = mesh.shape['data'] * mesh.shape['fsdp']
    rows, rest = divmod(step.rows, shards * step.parts)
    assert not rest
    compiled.append((mesh.shape['fsdp'], rows))
    # One mesh is not as the others.
    used = 3.1e8 + rows * (6e7 if mesh.shape['fsdp'] < 8 else 4e8)
    limit = planning.available(mesh.devices.flat[0])
    found = {
      'mesh': dict(mesh.shape), 'rows': step.rows, 'parts': step.parts,
      'used': used, 'limit': limit, 'fits': used <= limit,
      'memory': {}, 'intensity': 1e3, 'ridge': chip.ridge,
    }  # fmt: skip
    if found['fits']:
      # Shards of the weights have to be sent for.
      seconds = 1.0 + 0.1 * mesh.shape['fsdp']
      found['bound'] = {
        'compute': seconds, 'memory': 0.1, 'links': 0.0, 'seconds': seconds,
        'mfu': 0.5, 'tokens_per_second': step.rows * step.length / seconds,
      }  # fmt: skip
      of_step = cost.Cost(1e12, 2**28, 2**28, 2**20, 1e9, {})
      found |= {'cost': of_step._asdict(), 'model_flops': 1e12}
    return found

  monkeypatch.setattr(planning, '_planned', planned)
  config = _config(plan__search=True, plan__stage='align')
  assert planning.run(config, str(tmp_path)) == 0
  found = json.loads((tmp_path / 'plan.json').read_text())
  most = int((chip.memory - planning._RESERVED - 3.1e8) // 6e7)
  assert [x['mesh']['fsdp'] for x in found['tried']] == [1, 2, 4, 8]
  assert [x['rows'] for x in found['tried']] == [8 * most] * 3 + [8]
  assert (found['mesh']['fsdp'], found['rows']) == (1, 8 * most)
  # What one mesh has shown is not found out again.
  assert [fsdp for fsdp, _ in compiled] == [1] * 3 + [2, 4] + [8] * 3
  told = capsys.readouterr().out
  assert 'data 8 x fsdp 1 x tensor 1' in told
  assert 'It fits.' in told

  # With a batch in parts, as many rows are in each of them.
  config.align.grad_accumulation = 3
  assert planning.run(config, str(tmp_path)) == 0
  found = json.loads((tmp_path / 'plan.json').read_text())
  assert [x['rows'] for x in found['tried']] == [24 * most] * 3 + [24]
  assert {x['parts'] for x in found['tried']} == {3}
  assert f'\n{24 * most} rows in 3 parts; data 8' in capsys.readouterr().out
  config.align.grad_accumulation = 1

  # Where one row is too many, the line is of that trial.
  small = chip._replace(memory=3.6e8)
  monkeypatch.setitem(chips.CHIPS, jax.devices()[0].device_kind, small)
  compiled.clear()
  assert planning.run(config, str(tmp_path)) == 1
  assert {rows for _, rows in compiled} == {1}
  found = json.loads((tmp_path / 'plan.json').read_text())
  assert [x['used'] for x in found['tried']] == [3.7e8] * 3 + [7.1e8]
  assert 'It does not fit' in capsys.readouterr().out

  # Where no mesh has room for the weights, nothing is compiled.
  compiled.clear()
  tiny = chip._replace(memory=2.0**28 + 1000)
  monkeypatch.setitem(chips.CHIPS, jax.devices()[0].device_kind, tiny)
  assert planning.run(config, str(tmp_path)) == 1
  assert not compiled
  assert 'It does not fit' in capsys.readouterr().out


def test_the_compilers_words_on_what_is_too_large_are_read():
  # As libtpu 0.0.52 says it of a 7B model on one v5e chip.
  message = (
    'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, '
    'the total memory required for HLO temporaries (16.25G) exceeds available '
    'HBM (15.75G). HLO module: jit_step.'
  )
  sizes = {'used': 16.25 * 2**30, 'limit': 15.75 * 2**30}
  assert planning.too_large(message) == sizes
  assert planning.too_large('other words') == {'used': None, 'limit': None}


def test_a_step_that_is_too_large_for_a_tpu_is_an_answer(tmp_path, capsys):
  pytest.importorskip('libtpu', reason='needs libtpu to compile for TPUs')
  config = presets.load('vicuna7b', '', mesh__data=1, mesh__fsdp=-1)
  config.plan.topology, config.plan.rows = 'v5e:1x1', 8
  assert planning.run(config, str(tmp_path)) == 1
  found = json.loads((tmp_path / 'plan.json').read_text())
  assert not found['fits']
  assert found['used'] > found['limit'] > 15 * 2**30
  assert 'It does not fit: it would take ' in capsys.readouterr().out


def test_a_step_for_a_tpu_that_is_not_there_is_planned(tmp_path, capsys):
  pytest.importorskip('libtpu', reason='needs libtpu to compile for TPUs')
  config = _config(plan__topology='v5e:2x2', plan__rows=8, plan__stage='align')
  assert planning.run(config, str(tmp_path)) == 0
  found = json.loads((tmp_path / 'plan.json').read_text())
  assert (found['devices'], found['chip']) == (4, 'TPU v5e')
  assert found['bound']['seconds'] > 0
  assert found['ridge'] == 197e12 / 819e9
  # Tiles of 8 times 128, above all of kernels that are smaller.
  assert sum(found['memory'].values()) == found['used']
  assert 0 <= found['memory']['results, padding'] < 0.5 * found['used']
  assert 'MFU about' in capsys.readouterr().out
  config.plan.topology = 'v5e:3x5x7'
  with pytest.raises(ValueError, match=r'as libtpu names it.*v5e:3x5x7'):
    planning.run(config, str(tmp_path))
