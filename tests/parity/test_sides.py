"""What a comparison is held to, and how it is shown; no side has to run."""

import json
import subprocess
import sys
import xml.etree.ElementTree

import numpy as np
import pytest

from vimonet_jax.parity import plots, report, sides, verdicts, work_folder


def _findings(**errors):
  """Of two steps and one place of each part; errors by part."""

  def line(group):
    theirs = np.linspace(-1, 1, 11, dtype=np.float32)
    error = np.float32(errors.get(group, 1e-6))
    return sides._line(f'{group}/place', theirs + error, theirs)

  codes = np.arange(5)
  lines = [line(group) for group in sides.TOLERANCES]
  lines.append(
    sides._line('motion/codes', codes, codes + errors.get('codes', 0))
  )
  states = np.arange(6.0).reshape(2, 3)
  both = {'llm/place': (states, states)}
  rounded = [
    {**sides._rounded(both, both)[0], 'name': x['name']} for x in lines
  ]
  far = errors.get('rounded', 1.0)
  rounded[0] |= {'ratio': far, 'is_ok': far <= 2}
  relative = [0.0, errors.get('loss', 1e-7)]
  weights = [errors.get('weights', 1e-5), errors.get('weights_norm', 1e-6)]
  run = {
    'settings': {
      'rates': {'adapter/x': 1e-3},
      'betas': [0.9, 0.98],
      'weight_decay': 0.0,
      'schedule': 'cosine',
      'warmup_steps': 1,
      'clip': 1.0,
    },
    'losses': {'jax': [3.0, 2.0], 'torch': [3.0, 2.0]},
    'relative': relative,
    'grad_norm_relative': [0.0, errors.get('norm', 1e-7)],
    'weights': [
      {
        'name': 'adapter',
        'count': 9,
        'error': weights[0],
        'relative': weights[1],
        'tolerance': 1e-3,
        'is_ok': max(weights) <= 1e-3,
      }
    ],
    'speed': dict.fromkeys(
      sides.SIDES,
      {'step_s': 0.1, 'tokens_per_s': 9.0, 'first_steps': 1, 'first_s': 1.0},
    ),
  }
  greedy = {
    'prompts': 2,
    'agree': 2,
    'tokens': 9,
    'different_tokens': 7,
    'first_difference': [None, None],
    'is_ok': True,
  }
  memory = {'before_mb': 100.0, 'peak_mb': 150.0}
  decoding = {'tokens_per_s': 5.0, 'first_s': 1.0}
  side = {
    'device': 'cpu',
    'threads': 2,
    'decoding': dict.fromkeys(work_folder.DTYPES, decoding),
    'memory': {'instruct': memory, 'greedy': memory},
  }
  found = {
    'lines': lines,
    'rounded': rounded,
    'greedy': dict.fromkeys(work_folder.DTYPES, greedy),
    'training': {'instruct': run},
    'sides': dict.fromkeys(sides.SIDES, side),
    'about': {
      'command': 'python',
      'weights': 'random',
      'sizes': {'parameters': {'llm': 5}},
      'changes': ['two steps'],
      'seconds': {'all': 61.0},
      'processes': [{'job': 'align', 'others': errors.get('others', 0.0)}],
    },
  }
  is_ok = all(check.is_ok for check in verdicts.checks(found))
  return {'is_ok': is_ok, **found}


def _failing(**errors):
  checks = verdicts.checks(_findings(**errors))
  return [check.what for check in checks if not check.is_ok]


@pytest.mark.parametrize(
  ('errors', 'failing'),
  [
    ({}, []),
    ({'logits': 5e-5, 'video': 5e-5}, []),
    ({'logits': 1e-3}, ['logits']),
    ({'lora': 5e-5}, ['projections with LoRA']),
    ({'motion': 5e-5}, ['motion VQ-VAE']),
    ({'codes': 1}, ['motion codes']),
    ({'llm': np.nan}, ['decoder']),
    ({'loss': 2e-4}, ['instruct: loss']),
    ({'loss': np.nan}, ['instruct: loss']),
    ({'norm': 2e-4}, ['instruct: gradient norm']),
    ({'norm': np.nan}, ['instruct: gradient norm']),
    ({'rounded': 2.1}, ['bfloat16, from float32']),
    ({'rounded': np.nan}, ['bfloat16, from float32']),
    ({'weights': 2e-3}, ['instruct: trained adapter']),
    ({'weights_norm': 2e-3}, ['instruct: trained adapter']),
  ],
)
def test_each_part_is_held_to_its_tolerance(errors, failing):
  assert _failing(**errors) == failing
  words = verdicts.text(_findings(**errors))
  assert words.count('FAILS') == len(failing)
  start = f'{len(failing)} of 12' if failing else 'All 12 checks pass'
  assert words.startswith(start)


def test_the_page_has_every_line_and_pictures_that_can_be_read(tmp_path):
  findings = _findings(llm=0.3, loss=np.nan)
  path = report.write(str(tmp_path), findings)
  with open(path, encoding='utf-8') as f:
    page = f.read()
  assert page.startswith('# Parity')
  assert '❌ **2 of 12 checks fail: decoder, instruct: loss.**' in page
  for line in findings['lines']:
    assert f'| {line["name"]} |' in page
  for name in ('errors.svg', 'loss-instruct.svg'):
    assert f']({name})' in page
    xml.etree.ElementTree.parse(tmp_path / name)

  def refuse(constant):
    raise AssertionError(f'{constant} is no JSON')

  words = (tmp_path / 'parity.json').read_text()
  found = json.loads(words, parse_constant=refuse)
  assert found['training']['instruct']['relative'] == [0.0, 'nan']
  assert 'Not a quiet machine' not in page


def test_a_busy_machine_is_said(tmp_path):
  path = report.write(str(tmp_path), _findings(others=1.4))
  with open(path, encoding='utf-8') as f:
    assert 'during align other processes kept up to 1.4 of' in f.read()


def test_a_point_that_fails_is_drawn_in_another_colour():
  good, bad = _findings(), _findings(llm=0.3)
  drawn = [
    plots.errors(x['lines'], x['rounded']) for x in (good, bad)
  ]
  count = [svg.count(f'fill="{plots._BAD}"') for svg in drawn]
  assert count == [0, 1]


def test_answers_are_compared_token_by_token(tmp_path):
  work_folder.write_json(tmp_path / 'settings.json', {})
  work = work_folder.Work(tmp_path)
  ours = np.array([[5, 6, 2, 0], [5, 6, 7, 8], [5, 6, 7, 8]])
  theirs = np.array([[5, 6, 2], [5, 6, 7], [5, 9, 7]])
  work_folder.write_batch(tmp_path / 'batches/prompts', 'motion', {'tokens': 1})
  work.write('jax', 'greedy-float32', {'motion': ours})
  work.write('torch', 'greedy-float32', {'motion': theirs})
  found = sides._greedy(work, 'float32')
  assert (found['prompts'], found['agree'], found['is_ok']) == (3, 1, False)
  assert found['first_difference'] == [None, 3, 1]
  assert found['tokens'] == 11


def test_arrays_of_one_side_only_are_refused(tmp_path):
  work_folder.write_json(tmp_path / 'settings.json', {})
  work = work_folder.Work(tmp_path)
  work.write('jax', 'x', {'llm/norm': np.ones((2, 3))})
  work.write('torch', 'x', {'llm/norm': np.ones((2, 4))})
  with pytest.raises(ValueError, match='llm/norm of one only or of two shapes'):
    sides._both(work, 'x')


def test_a_loud_channel_neither_hides_the_others_nor_is_judged_by_them():
  theirs = np.random.default_rng(0).normal(size=(50, 8))
  theirs[0, 3] = 1e4
  line = sides._line('llm/x', theirs, theirs)
  assert (line['relative'], line['is_ok']) == (0.0, True)
  # What float32 rounds of a number like that.
  ours = theirs.copy()
  ours[0, 3] += 1e-2
  assert sides._line('llm/x', ours, theirs)['relative'] < 1e-5
  # In one of the others it is an error.
  ours[0, 3], ours[0, 4] = 1e4, ours[0, 4] + 1e-2
  assert not sides._line('llm/x', ours, theirs)['is_ok']


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_what_is_no_number_is_never_within_a_tolerance(value):
  theirs = np.ones((4, 2)) * np.arange(2)
  ours = theirs.copy()
  ours[1, 1] = value
  for pair in ((ours, theirs), (theirs, ours), (ours, ours)):
    assert not sides._line('llm/x', *pair)['is_ok']
    good = {'llm/x': (theirs, theirs)}
    assert not sides._rounded(good, {'llm/x': pair})[0]['is_ok']


def test_bfloat16_may_be_as_far_from_float32_as_pytorch_and_little_more():
  truth = np.random.default_rng(0).normal(size=(50, 8))
  for far, is_ok in ((0.0, True), (0.019, True), (0.021, False)):
    pair = truth + far, truth + 0.01
    found = sides._rounded({'llm/x': (truth, truth)}, {'llm/x': pair})
    assert found[0]['is_ok'] is is_ok


def test_a_step_that_was_disturbed_does_not_count():
  steps = [
    {'kind': 'motion', 'positions': 10, 'seconds': s, 'is_first': s == 9.0}
    for s in (9.0, 1.0, 1.0, 1.0, 50.0)
  ]
  speed = sides._speed(steps)
  assert speed['step_s'] == 1.0
  assert speed['tokens_per_s'] == 10.0
  assert (speed['first_steps'], speed['first_s']) == (1, 9.0)
  # Compiling is no step: better no number than that one.
  assert sides._speed(steps[:1])['step_s'] is None


def test_a_step_agrees_with_tokens_per_second_where_mixes_differ():
  steps = [
    {'kind': k, 'positions': n, 'seconds': s, 'is_first': False}
    for k, n, s in (('a', 10, 1.0), ('a', 10, 1.0), ('b', 40, 4.0))
  ]
  speed = sides._speed(steps)
  assert (speed['step_s'], speed['tokens_per_s']) == (2.0, 10.0)


def test_few_rows_all_stay_and_many_are_thinned_evenly(monkeypatch):
  x = np.arange(24).reshape(2, 6, 2)
  np.testing.assert_array_equal(work_folder.thin(x), x.reshape(12, 2))
  monkeypatch.setattr(work_folder, '_MOST_NUMBERS', 8)
  np.testing.assert_array_equal(work_folder.thin(x)[:, 0], [0, 6, 12, 18])


def test_the_pytorch_side_knows_no_jax():
  """Nor is it there when its memory is measured."""
  pytest.importorskip('torch', reason='needs torch')
  code = (
    'import sys; from vimonet_jax.parity import torch_side; '
    'assert "jax" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_memory_is_that_of_this_process():
  memory = work_folder.Memory()
  held = np.ones(40 << 20, np.uint8)
  facts = memory.facts()
  assert held[-1] == 1
  assert facts['peak_mb'] > facts['before_mb'] > 20
