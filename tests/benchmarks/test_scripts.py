"""The benchmarks themselves at toy size: they run, and both sides do the same.

What they measure here means nothing.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from concurrent import futures

import pytest
import race
import train_step

_MISSING = [
  name
  for name in ('torch', 'transformers', 'peft')
  if importlib.util.find_spec(name) is None
]
pytestmark = pytest.mark.skipif(
  bool(_MISSING),
  reason=f"needs {', '.join(_MISSING)} to race against: -e '.[parity]'",
)

SHAPE = {
  'vocab': 64, 'width': 64, 'layers': 1, 'heads': 2, 'head_dim': 32, 'mlp': 96
}  # fmt: skip
_DECODER = [f'--{name}={x}' for name, x in SHAPE.items()]
_DECODE = ['decode.py', *_DECODER, '--prompt=8', '--new=4']
# Those that take longest first.
COMMANDS = {
  'first_step': ['first_step.py', *_DECODER, '--length=16'],
  'train_step': ['train_step.py', *_DECODER, '--length=16'],
  'input_pipeline': [
    'input_pipeline.py', '--preset=tiny', '--clips=24', '--batches=2'
  ],
  'decode': _DECODE,
  'decode int8': [*_DECODE, '--quantize=int8'],
  'decode nf4': [*_DECODE, '--quantize=nf4'],
}  # fmt: skip


@pytest.fixture(scope='module')
def raced(tmp_path_factory):
  """Name of a command -> what it printed, and what it wrote as JSON.

  Two at a time: nearly all of their time they import.
  """
  folder = tmp_path_factory.mktemp('raced')

  def run(name):
    script, *flags = COMMANDS[name]
    path = folder / f'{name}.json'
    ended = subprocess.run(
      [
        sys.executable,
        str(race.ROOT / 'tests' / 'benchmarks' / script),
        *flags,
        '--rows=2',
        '--rounds=2',
        f'--json={path}',
      ],
      capture_output=True,
      text=True,
      # Two threads of OpenMP wait for one another where cores are busy, and
      # PyTorch's 4 tokens take half a second.
      env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, json.loads(path.read_text())['found']

  with futures.ThreadPoolExecutor(2) as pool:
    started = {name: pool.submit(run, name) for name in COMMANDS}
    yield lambda name: started[name].result()
    pool.shutdown(cancel_futures=True)


def _abouts(found):
  """What contestants told, who must be on the same device."""
  abouts = [x['about'] for x in found.values()]
  assert len({(x['platform'], x['device']) for x in abouts}) == 1
  return abouts


def test_first_steps_have_the_same_loss(raced):
  _, found = raced('first_step')
  assert [*found] == ['ours, cold', 'ours, warm', 'transformers + peft']
  _abouts(found)
  starts = [y for x in found.values() for y in x['repeats']]
  assert len(starts) == 6
  assert {x['float32_products'] for x in starts} == {'highest'}
  for start in starts:
    assert start['loss'] == pytest.approx(starts[0]['loss'], abs=1e-4)


def test_train_steps_have_the_same_losses(raced):
  told, found = raced('train_step')
  assert 'first losses: ours ' in told
  ours, theirs, trained = (
    found[name]
    for name in ('ours', 'transformers + peft', 'ours, all weights trained')
  )
  for about in _abouts(found):
    assert about['float32_products'] == 'highest'
  assert trained['about']['loss'] == pytest.approx(
    theirs['about']['loss'], abs=0.1
  )
  losses, others = (
    [x['about']['loss'], *(y['loss'] for y in x['repeats'])]
    for x in (ours, theirs)
  )
  assert losses == pytest.approx(others, abs=1e-3)
  assert losses[0] == pytest.approx(others[0], abs=1e-4)
  assert losses[-1] < losses[0]


@pytest.mark.parametrize(
  ('kind', 'bits', 'scales'), [('', 32, 0), ('int8', 8, 512), ('nf4', 4, 704)]
)
def test_answers_are_of_the_same_weights(raced, kind, bits, scales):
  told, found = raced(f'decode {kind}'.strip())
  name = f'ours, {kind}' if kind else 'ours'
  assert [*found] == [name, 'transformers']
  assert (f'ours rounded to {kind}' in told.splitlines()[0]) == bool(kind)
  ours, theirs = _abouts(found)
  assert ours['float32_products'] == theirs['float32_products'] == 'highest'
  kernels = 4 * 64 * 64 + 3 * 64 * 96
  full = 4 * (kernels + 64 * 64 + 3 * 64)
  assert theirs['bytes'] == full
  assert ours['bytes'] == full - kernels * (32 - bits) / 8 + 4 * scales
  first = [[row[0] for row in x['tokens']] for x in (ours, theirs)]
  assert first[0] == first[1] or kind == 'nf4'
  if not kind:
    assert ours['tokens'] == theirs['tokens']
    assert 'rows with the same answer: 2 of 2' in told


def test_loaders_hand_out_the_same_frames(raced):
  told, found = raced('input_pipeline')
  assert (
    "torch's frames in uint8, workers: 0 threads of ours and 2 processes of "
    "torch's" in told.splitlines()[0]
  )
  ours, theirs = _abouts(found)
  assert ours['platform'] == 'cpu'
  assert ours['shapes']['frames'] == 'uint8[2, 1, 8, 48, 48, 3]'
  assert theirs['shapes']['frames'] == 'uint8[2, 8, 48, 48, 3]'
  for x in found['torch, mp4']['repeats']:
    assert x['work'] == 4


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_adapters_of_torch_multiply_in_the_dtype_of_the_race(tmp_path, dtype):
  import torch
  from torch.nn.modules import module as hooks

  args = argparse.Namespace(
    **SHAPE, rows=2, length=16, dtype=dtype, remat='none', compile=False,
    quantize='', side='torch', folder=str(tmp_path),
  )  # fmt: skip
  dtypes = set()

  def see(module, inputs, output):
    # Nothing else is trained.
    if isinstance(module, torch.nn.Linear) and module.weight.requires_grad:
      dtypes.add(output.dtype)

  repeat = train_step.SIDES['torch'](args)
  with hooks.register_module_forward_hook(see):
    repeat()
  assert dtypes == {getattr(torch, dtype)}
