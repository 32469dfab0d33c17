"""Parity finds both sides the same, and what is not the same.

One small comparison in processes of its own; then a weight of one side is
changed, that side runs again, and the line that must fail fails.
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil

import ml_collections
import numpy as np
import presets
import pytest

torch = pytest.importorskip('torch', reason='needs torch')
pytest.importorskip('transformers', reason='needs transformers')
pytest.importorskip('peft', reason='needs peft')

from vimonet_jax import base, comparison  # noqa: E402
from vimonet_jax import corpus as corpora  # noqa: E402
from vimonet_jax.convert import files  # noqa: E402
from vimonet_jax.models import lora, vimonet  # noqa: E402
from vimonet_jax.parity import (  # noqa: E402
  handout,
  sides,
  torch_side,
  verdicts,
  work_folder,
)

CHANGES = {
  'stage_names': ('instruct',),
  'model__llm__layers': 1,
  'model__llm__unroll': 1,
  'model__video__layers': 1,
  'model__video__unroll': 1,
  'data__processes': 1,
  'parity__rows': 2,
  'parity__records': 12,
  'instruct__lora__dropout': 0.1,
  'instruct__weight_decay': 0.3,
}


def _config(**changes):
  config = presets.load('tiny', 'smoke', **{**CHANGES, **changes})
  for name in ('motion', 'video'):
    del config.instruct.mixes[name]
  return config


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """The report's folder, and what both sides were given and found."""
  folder = tmp_path_factory.mktemp('parity')
  output, kept = folder / 'output', folder / 'work'
  compare, prompts = sides.compare, comparison._prompts

  def keep(root):
    shutil.copytree(root, kept)
    return compare(root)

  def few_prompts(*args):
    # Each kind is compiled twice.
    return {'motion': prompts(*args)['motion']}

  flags = os.environ['XLA_FLAGS'].split()
  with pytest.MonkeyPatch.context() as patch:
    # Without the tests' pretend devices.
    real = [flag for flag in flags if 'device_count' not in flag]
    patch.setenv('XLA_FLAGS', ' '.join(real))
    # Threads that wait for each other take time on a busy machine.
    patch.setenv('OMP_NUM_THREADS', '1')
    torch.set_num_threads(1)
    patch.setattr(sides, 'compare', keep)
    patch.setattr(comparison, '_prompts', few_prompts)
    status = comparison.run(_config(), str(folder / 'none'), output=str(output))
  assert status == 0
  assert not (folder / 'none').exists()
  return output, kept


@pytest.fixture
def work(made, tmp_path):
  """A copy to spoil."""
  return pathlib.Path(shutil.copytree(made[1], tmp_path / 'work'))


def _failing(work) -> list[str]:
  return [
    check.what
    for check in verdicts.checks(sides.compare(work))
    if not check.is_ok
  ]


def test_both_sides_are_the_same(made):
  output, work = made
  findings = json.loads((output / 'parity.json').read_text())
  assert findings['is_ok']
  assert not _failing(work)
  names = {line['name'] for line in findings['lines']}
  assert names >= {
    'motion/encoder/in',
    'motion/decoder/out',
    'motion/codes',
    'video/block 01',
    'translators/motion',
    'translators/video',
    'llm/input',
    'llm/block 01 attention',
    'llm/norm',
    'logits/motion+video',
    *(f'lora/{target}' for target in ('q', 'o', 'down')),
  }
  # The probe adapters do something, and bfloat16 is not float32.
  with np.load(work / 'torch-forward-float32.npz') as states:
    assert states['lora/q'].std() > 0.5
  assert all(
    line[side] > 1e-4
    for line in findings['rounded']
    if line['name'] != 'motion/codes'
    for side in ('jax', 'torch')
  )


def test_the_report_says_what_was_changed_and_shows_its_pictures(made):
  output, _ = made
  page = (output / 'parity.md').read_text()
  assert 'AdamW instead of muon' in page
  assert 'no dropout instead of 0.1' in page
  assert 'nstruct: 2 steps instead of 12' in page
  pictures = sorted(path.name for path in output.glob('*.svg'))
  assert pictures == ['errors.svg', 'loss-instruct.svg']
  assert all(f']({name})' in page for name in pictures)
  assert sorted(path.name for path in output.iterdir()) == sorted(
    [*pictures, 'parity.json', 'parity.md']
  )  # What both sides were given is gone.


def _spoil(folder: pathlib.Path, name: str, *, add: float) -> None:
  """Changes one number of a tensor of the PyTorch side."""
  stored = files.open_checkpoint(folder)
  tensors = {key: stored.read(key).copy() for key in stored.shapes}
  tensors[name].reshape(-1)[3] += add
  path = next(folder.glob('*.safetensors'))
  files.write_safetensors(str(folder), path.stem, [tensors.items])


@pytest.mark.parametrize(
  ('part', 'name', 'failing'),
  [
    ('motion', 'vqvae.decoder.model.0.bias', ['motion VQ-VAE']),
    (
      'probe',
      'base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight',
      ['projections with LoRA', 'decoder', 'logits'],
    ),
    ('llm', 'lm_head.weight', ['logits']),
  ],
)
def test_a_changed_weight_fails_its_lines_only(work, part, name, failing):
  _spoil(work / 'torch' / part, name, add=0.1)
  torch_side.main(['', str(work), 'forward'])
  # PyTorch's float32 is what both sides' bfloat16 is measured from.
  found = [what for what in _failing(work) if not what.startswith('bfloat16')]
  assert found == failing


def test_pytorch_reads_the_originals_with_their_own_settings(work):
  settings = json.loads((work / 'settings.json').read_text())
  for part in ('llm', 'video'):
    # Nothing but what lies there now can be read.
    path = (work / 'torch' / part).rename(work / f'original-{part}')
    names = {name: name for name in files.open_checkpoint(path).shapes}
    settings['checkpoints'][part] = {
      'path': str(path),
      'names': names,
      'dtype': 'float32',
    }
  (work / 'settings.json').write_text(json.dumps(settings))
  torch_side.main(['', str(work), 'forward'])
  assert not _failing(work)
  # What our configuration says does not reach PyTorch.
  path = work / 'original-llm' / 'config.json'
  fields = json.loads(path.read_text())
  path.write_text(json.dumps({**fields, 'rms_norm_eps': 1e-3}))
  # Rounded as little as the converted ones are.
  settings['checkpoints']['video']['dtype'] = 'bfloat16'
  (work / 'settings.json').write_text(json.dumps(settings))
  torch_side.main(['', str(work), 'forward'])
  assert {'decoder', 'logits', 'video tower'} <= set(_failing(work))
  path.write_text(json.dumps(fields))
  settings['checkpoints']['video']['dtype'] = 'float32'
  settings['checkpoints']['llm']['dtype'] = 'bfloat16'
  (work / 'settings.json').write_text(json.dumps(settings))
  torch_side.main(['', str(work), 'forward'])
  found = set(_failing(work))
  assert {'decoder', 'logits'} <= found
  assert 'video tower' not in found


def test_recomputing_changes_nothing_whatever_dropout_a_file_asks_for(work):
  settings = json.loads((work / 'settings.json').read_text())
  settings['recomputes'] = True
  (work / 'settings.json').write_text(json.dumps(settings))
  path = work / 'torch' / 'adapter' / 'adapter_config.json'
  fields = json.loads(path.read_text())
  path.write_text(json.dumps({**fields, 'lora_dropout': 0.5}))
  torch_side.main(['', str(work), 'instruct'])
  assert not _failing(work)


def _given(work: pathlib.Path, originals=None) -> handout.Given:
  """Weights alone, all of them from the folder that both sides were given."""
  settings = json.loads((work / 'settings.json').read_text())
  return handout.Given(
    model=vimonet.Config.from_json(settings['model']),
    base=[str(work / 'weights')],
    fresh={},
    probe={},
    stages={},
    forward=[],
    prompts={},
    max_new_tokens=1,
    eos_id=2,
    originals=originals or {},
  )


def test_nothing_has_to_be_drawn_where_every_part_is_named(made, tmp_path):
  given = _given(made[1])
  handout.write(str(tmp_path), given)
  assert {'llm', 'adapter', 'video'} <= set(os.listdir(tmp_path / 'torch'))
  found = json.loads((tmp_path / 'settings.json').read_text())['weights']
  assert found == given.base


def test_an_adapter_beside_a_decoder_is_the_adapter(made, tmp_path):
  """In a folder where both were saved."""
  folder = tmp_path / 'theirs'
  shutil.copytree(made[1] / 'torch' / 'llm', folder)
  shutil.copytree(made[1] / 'torch' / 'adapter', folder, dirs_exist_ok=True)
  given = _given(made[1], originals={'adapter': str(folder)})
  handout.write(str(tmp_path / 'work'), given)
  found = json.loads((tmp_path / 'work' / 'settings.json').read_text())
  found = found['checkpoints']['adapter']
  assert found['path'] == str(folder)
  assert all('.lora_' in name for name in found['names'].values())


def test_a_named_adapter_is_compared_as_it_is(tmp_path):
  """Whatever config.instruct.lora says: nobody trains another one here."""
  config = _config()
  adapter = lora.LoraConfig(8, 2.0, 0.05, ('q', 'k', 'v'))
  model = corpora.model(config, vocab_size=1)
  base.write_manifest(
    str(tmp_path),
    base.Manifest(
      *('adapter', 'motionllm-lora', 'lora.pth'),
      base.sizes(model, 'adapter'),
      adapter,
    ),
  )
  config.base = {'adapter': str(tmp_path)}
  changed, changes = comparison._comparable(config)
  found = lora.LoraConfig(**changed.instruct.lora)
  assert found == dataclasses.replace(adapter, dropout=0.0)
  assert any('rank 8 and scale 0.25 on q, k, v' in x for x in changes)
  assert config.instruct.lora.rank != 8


def test_originals_are_read_where_they_are_still_there(tmp_path):
  config = _config()
  config.base = ml_collections.ConfigDict()
  model = corpora.model(config, vocab_size=1)
  for part, format, file in (
    ('llm', 'llama', 'config.json'),
    ('adapter', 'peft', 'adapter_config.json'),
    ('motion', 'vqvae', 'net_last.pth'),
    ('video', 'languagebind', None),
  ):
    source = tmp_path / 'theirs' / part
    if file:
      source.mkdir(parents=True)
      (source / file).write_text('{"model_type": "llama"}')
    ours = tmp_path / part
    ours.mkdir()
    base.write_manifest(
      ours, base.Manifest(part, format, str(source), base.sizes(model, part))
    )
    config.base[part] = str(ours)
  assert set(comparison._originals(config)) == {'llm', 'adapter', 'motion'}
  # A whole Video-LLaVA is not what transformers' Llama opens.
  path = tmp_path / 'theirs' / 'llm' / 'config.json'
  path.write_text('{"model_type": "llava"}')
  assert set(comparison._originals(config)) == {'adapter', 'motion'}


@pytest.mark.parametrize(
  'change',
  [
    {'weight_decay': 10.0},
    {'clip': 0.01},
    {'schedule': 'constant'},
    {'betas': [0.5, 0.98]},
  ],
)
def test_another_optimizer_fails_the_training(work, change):
  settings = json.loads((work / 'settings.json').read_text())
  settings['stages']['instruct'].update(change)
  (work / 'settings.json').write_text(json.dumps(settings))
  torch_side.main(['', str(work), 'instruct'])
  found = _failing(work)
  assert found
  assert all(what.startswith('instruct: ') for what in found)


def _edit(path: pathlib.Path, change) -> None:
  """Has `change` spoil what a side found."""
  with np.load(path) as held:
    arrays = dict(held)
  change(arrays)
  np.savez(path, **arrays)


def test_a_number_that_is_none_fails_wherever_it_is(work):
  path = work / 'jax-instruct.npz'
  with np.load(path) as held:
    held = dict(held)
  for name, x in sorted(held.items())[::3]:
    spoilt = x.copy()
    spoilt.reshape(-1)[3] = np.nan
    np.savez(path, **{**held, name: spoilt})
    assert len(_failing(work)) == 1, name


@pytest.mark.parametrize(
  ('file', 'names'),
  [
    ('forward-float32', 'lora/.*'),
    ('forward-float32', 'motion/codes'),
    ('forward-float32', 'video/block 01'),
    ('forward-float32', '.*faint inputs'),
    ('instruct', '.*lora_[ab].*'),
    ('instruct', '.*'),
    ('greedy-float32', '.*'),
  ],
)
def test_what_no_side_has_is_missed(work, file, names):
  def drop(arrays):
    for name in list(arrays):
      if re.fullmatch(names, name.replace('lora_A', 'lora_a'), re.I):
        del arrays[name]

  for side in sides.SIDES:
    _edit(work / f'{side}-{file}.npz', drop)
    with pytest.raises(ValueError, match='found'):
      sides.compare(work)


def test_an_answer_that_differs_fails(work):
  path = work / 'torch-greedy-float32.npz'
  with np.load(path) as held:
    tokens = dict(held)
  tokens['motion'][0, 2] += 1
  np.savez(path, **tokens)
  findings = sides.compare(work)
  assert _failing(work) == ['greedy answers']
  assert findings['greedy']['float32']['first_difference'].count(2) == 1


def test_a_side_that_cannot_run_says_why(work, monkeypatch):
  monkeypatch.setattr(sides, 'SIDES', ('torch',))
  shutil.rmtree(work / 'torch' / 'llm')
  with pytest.raises(ValueError, match=r'torch side.*forward(.|\n)*llm'):
    sides.measure(work)


def test_without_the_restatement_there_is_no_parity(monkeypatch, tmp_path):
  path = tmp_path / 'torch_models.py'
  monkeypatch.setattr(work_folder, 'RESTATEMENT', path)
  with pytest.raises(ValueError, match='torch_models.py, found none; run'):
    comparison.run(_config(), str(tmp_path))
  monkeypatch.setattr(sides, 'PACKAGES', ('torch', 'no_such_package'))
  with pytest.raises(ValueError, match=r"found no no_such.*\[parity\]'"):
    comparison.run(_config(), str(tmp_path))


def test_a_configuration_without_the_stages_is_refused(tmp_path):
  with pytest.raises(ValueError, match='align or instruct, found motion'):
    comparison.run(_config(stage_names=('motion',)), str(tmp_path))
