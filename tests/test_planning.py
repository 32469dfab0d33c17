"""The real step of a configuration, planned for devices here and elsewhere."""

import json

import jax
import presets
import pytest

from vimonet_jax import plan, planning, sharding


def _config(**changes):
  return presets.load('tiny', 'smoke', mesh__data=1, mesh__fsdp=-1, **changes)


def test_a_step_for_what_is_here_is_planned(tmp_path, capsys):
  config = _config(plan__rows=8, plan__stage='align', plan__mix='motion')
  assert planning.run(config, str(tmp_path)) == 0
  found = json.loads((tmp_path / 'plan.json').read_text())
  assert (found['rows'], found['devices'], found['mix']) == (8, 8, 'motion')
  cost = found['cost']
  assert cost['temporaries'] > 0
  assert cost['exchanged']
  # Nobody knows the speed of this machine.
  assert 'bound' not in found
  told = capsys.readouterr().out
  assert told.startswith('align, motion: 8 rows of ')
  assert 'It fits.' in told


def test_products_are_those_of_the_papers_second_stage():
  """4 N a token: forwards, and back to what the adapters need."""
  config = presets.load('vicuna7b', '')
  config.model.llm.remat = 'none'
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  mix = {**config.instruct.mixes.motion, 'rows': 1, 'length': 512}
  found = plan.flops(planning.trace(config, 'instruct', mix, mesh).jaxpr)
  known = 4 * 6_738_415_616 * 512
  assert abs(found / known - 1) < 0.15


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'plan__rows': 3}, 'rows that divide among 8 shards .* found 3; set'),
    ({'plan__stage': 'motion'}, "among language, video, align, .*'motion'"),
    ({'plan__mix': 'smell'}, "config.plan.mix among .*, found 'smell'"),
  ],
)
def test_a_plan_that_cannot_be_made_says_why(tmp_path, changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    planning.run(_config(**changes), str(tmp_path))
  assert not list(tmp_path.iterdir())


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
  config.plan.topology, config.plan.rows = 'v5e:1x1', 1
  assert planning.run(config, str(tmp_path)) == 1
  found = json.loads((tmp_path / 'plan.json').read_text())
  assert not found['fits']
  assert found['used'] > found['limit'] > 15 * 2**30
  assert 'It does not fit: it would take 16.' in capsys.readouterr().out


def test_a_step_for_a_tpu_that_is_not_there_is_planned(tmp_path, capsys):
  pytest.importorskip('libtpu', reason='needs libtpu to compile for TPUs')
  config = _config(plan__topology='v5e:2x2', plan__rows=8, plan__stage='align')
  assert planning.run(config, str(tmp_path)) == 0
  found = json.loads((tmp_path / 'plan.json').read_text())
  assert (found['devices'], found['chip']) == (4, 'TPU v5 lite')
  assert found['bound']['seconds'] > 0
  assert 'MFU at most' in capsys.readouterr().out
  config.plan.topology = 'v5e:3x5x7'
  with pytest.raises(ValueError, match=r'as libtpu names it.*v5e:3x5x7'):
    planning.run(config, str(tmp_path))
