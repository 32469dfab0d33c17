"""The harness of the benchmarks, on contestants whose speed is known."""

import argparse
import json
import sys

import pytest
import race

SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import race
seconds = iter({seconds})
race.serve(
  lambda: {{'seconds': next(seconds), 'work': 12}},
  on={on},
  warm_up=1,
  size={size},
)
"""
CPU = {'platform': 'cpu', 'device': '2 x processor'}
GPU = {'platform': 'gpu', 'device': 'H200'}


def _write(tmp_path, name, seconds, size=3, on=CPU):
  folder = str(race.ROOT / 'tests' / 'benchmarks')
  path = tmp_path / f'{name}.py'
  path.write_text(
    SCRIPT.format(folder=folder, seconds=seconds, size=size, on=on)
  )
  return [str(path)]


def test_medians_of_repetitions_are_compared(tmp_path, capsys):
  found = race.run(
    {
      # What warms up does not count.
      'ours': _write(tmp_path, 'ours', [99.0, 2.0, 1.0, 3.0]),
      'theirs': _write(tmp_path, 'theirs', [99.0, 3.0, 50.0, 3.0]),
    },
    rounds=3,
  )
  assert found['ours']['about'] == {**CPU, 'size': 3}
  assert race.median(found['ours']) == 2.0
  path = tmp_path / 'race.json'
  race.show('A race', found, unit='steps', ours='ours', path=str(path))
  told = capsys.readouterr().out
  assert told.startswith('A race\n')
  assert told.splitlines()[2] == 'all on cpu (2 x processor)'
  lines = {x.split()[0]: x.split() for x in told.splitlines() if x.strip()}
  assert lines['ours'][1:] == ['2.000', '1.500-2.500', '6.0', '1.00']
  assert lines['theirs'][1:] == ['3.000', '3.000-26.500', '4.0', '1.50']
  written = json.loads(path.read_text())
  assert written['found']['theirs']['ratio'] == 1.5
  assert written['found']['theirs']['about']['device'] == '2 x processor'
  assert written['machine']['versions']['numpy']


def test_a_contestant_that_breaks_down_is_named(tmp_path):
  broken = tmp_path / 'broken.py'
  broken.write_text('import sys; sys.exit(7)')
  with pytest.raises(RuntimeError, match='broken to go on.*exit code 7'):
    race.run({'broken': [str(broken)]}, rounds=1)
  with pytest.raises(RuntimeError, match='short to go on.*exit code 1'):
    race.run({'short': _write(tmp_path, 'short', [1.0, 1.0])}, rounds=2)


def test_contestants_on_different_platforms_do_not_race(tmp_path, capsys):
  commands = {
    'ours': _write(tmp_path, 'ours', [1.0, 2.0, 2.0]),
    'theirs': _write(tmp_path, 'theirs', [1.0, 1.0, 1.0], on=GPU),
  }
  with pytest.raises(
    SystemExit, match=r'found ours on cpu and theirs on gpu; .* --mixed\.'
  ):
    race.run(commands, rounds=2)
  found = race.run(commands, rounds=2, mixed=True)
  race.show('A race', found, unit='steps', ours='ours')
  told = capsys.readouterr().out.splitlines()
  assert told[2] == 'ours on cpu (2 x processor); theirs on gpu (H200)'


def test_it_runs_with_this_python(tmp_path):
  command = _write(tmp_path, 'who', [1.0], size='sys.executable')
  found = race.run({'who': command}, rounds=0)
  assert found['who']['about']['size'] == sys.executable


def test_one_round_is_refused(capsys, monkeypatch):
  presets = {'small': {'rounds': 10}}
  parser = argparse.ArgumentParser()
  race.add_flags(parser, presets)
  monkeypatch.setattr(sys, 'argv', ['race', '--rounds=1'])
  with pytest.raises(SystemExit):
    race.parse(parser, presets)
  assert 'expected two --rounds or more' in capsys.readouterr().err
