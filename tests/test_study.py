"""Runs of a study share what they have in common, and nothing is lost."""

import collections
import json
import os
import pathlib
import shutil

import ml_collections
import presets
import pytest
from judged import EVERY, MOTION, lines_of

from vimonet_jax import claim, disk, pipeline, study
from vimonet_jax.data import records

FULL = ('motion', 'language', 'video', 'align', 'instruct')


@pytest.fixture(name='config')
def _config():
  """Three runs with two seeds: one leaves a stage out, one changes one."""
  config = presets.load('tiny', 'smoke')
  config.study = ml_collections.ConfigDict({
    'name': 'A study',
    'seeds': (0, 1),
    'start_from': '',
    'runs': (
      ('full', ()),
      ('short', (('stage_names', FULL[:-1]),)),
      ('other', (('align.mixes', {'motion': {'media': ('motion',)}}),)),
    ),
    'rows': (
      {'label': 'full', 'run': 'full'},
      {'label': 'short', 'run': 'short', 'against': 'full'},
      {'label': 'other', 'run': 'other', 'against': 'full'},
    ),
    'claims': ({'says': 'Less is less', 'rows': ('short',),
                'expects': 'lower'},),
    'notes': (),
  })  # fmt: skip
  return config.lock()


class Road:
  """In place of what trains and asks; it counts, and fails when it is told.

  Attributes:
    made: what was made, (folder, stage or `data` or `answers`) each.
    fails: (folder, what) -> error to raise there.
  """

  def __init__(self):
    self.made = []
    self.fails = {}

  def times(self):
    """How often each thing was made, in whatever folder."""
    return collections.Counter(what for _, what in self.made)

  def _make(self, folder, what):
    name = os.path.basename(folder)
    if error := self.fails.get((name, what)):
      raise error
    self.made.append((name, what))

  def prepare(self, config, workdir):
    claim.check(config, workdir)
    os.makedirs(workdir, exist_ok=True)
    claim.write(config, workdir)
    if not os.path.exists(os.path.join(workdir, 'statistics.npz.digest')):
      self._make(workdir, 'data')
      os.mkdir(os.path.join(workdir, 'data'))
      for name in study._DATA[1:]:
        pathlib.Path(workdir, name).touch()

  def train_stage(self, config, workdir, name, corpus):
    del corpus
    folder = pathlib.Path(workdir, name)
    if (folder / 'summary.json').exists():
      return
    folder.mkdir(exist_ok=True)
    self._make(workdir, name)
    steps = {'steps': config[name].steps}
    (folder / 'summary.json').write_text(json.dumps(steps))

  def evaluate(self, config, workdir):
    """Who was instructed is right always, others about motion."""
    self._make(workdir, 'answers')
    right = EVERY if 'instruct' in config.stage_names else MOTION
    path = pathlib.Path(workdir, 'verdicts', 'bench.jsonl')
    path.parent.mkdir(exist_ok=True)
    records.write_json_lines(str(path), lines_of(right))


@pytest.fixture(name='road')
def _road(monkeypatch):
  road = Road()
  monkeypatch.setattr(pipeline, 'check', claim.check)
  monkeypatch.setattr(pipeline.corpora, 'prepare', road.prepare)
  monkeypatch.setattr(pipeline, 'train_stage', road.train_stage)
  monkeypatch.setattr(pipeline, 'export', lambda *_: None)
  monkeypatch.setattr(study.evaluation, 'evaluate', road.evaluate)
  return road


def _results(workdir):
  return json.loads((workdir / 'study.json').read_text())


def test_what_runs_share_is_made_once(config, road, tmp_path, capsys):
  assert study.run(config, str(tmp_path)) == 0
  times = road.times()
  # Seeds have the same data; each has its own motion, language and video.
  assert times['data'] == 1
  assert times['motion'] == times['language'] == times['video'] == 2
  # `short` has the align of `full`, `other` another one and all after it.
  assert (times['align'], times['instruct']) == (4, 4)
  assert times['answers'] == 6
  assert not (tmp_path / 'short-0' / 'instruct').exists()
  link = tmp_path / 'other-1' / 'video'
  assert link.resolve() == (tmp_path / 'full-1' / 'video').resolve()
  (table,) = _results(tmp_path)['tables']
  assert table['rows']['short']['all']['difference'] == -50.0
  assert table['rows']['short']['all']['by_seed'] == {'0': 0.5, '1': 0.5}
  assert 'Holds: Less is less' in capsys.readouterr().out
  assert 'Holds: Less is less' in (tmp_path / 'study.html').read_text()
  # A study can be moved; its links go along.
  moved = tmp_path.with_name(f'{tmp_path.name}-moved')
  shutil.copytree(tmp_path, moved, symlinks=True)
  assert (moved / 'other-1' / 'video').resolve().is_relative_to(moved)


def test_each_run_is_a_work_folder_of_its_own_settings(config, road, tmp_path):
  study.run(config, str(tmp_path))
  fields = json.loads((tmp_path / 'other-1' / 'config.json').read_text())
  assert fields['seed'] == 1
  assert fields['task'] == 'pipeline'
  assert 'study' not in fields
  assert list(fields['align']['mixes']) == ['motion']
  assert fields['align']['mixes']['motion'] == {'media': ['motion']}
  # The next study in this folder has other settings for the same names.
  changed = config.copy_and_resolve_references()
  changed.align.clip = 0.5
  with pytest.raises(ValueError, match='Run full, seed 0: Expected .*full-0'):
    study.run(changed, str(tmp_path))


def test_who_is_killed_goes_on_where_it_was(config, road, tmp_path):
  road.fails = {('short-0', 'answers'): KeyboardInterrupt()}
  with pytest.raises(KeyboardInterrupt):
    study.run(config, str(tmp_path))
  before = list(road.made)
  road.fails = {('other-0', 'instruct'): SystemExit(143)}
  with pytest.raises(SystemExit):
    study.run(config, str(tmp_path))
  road.fails = {}
  assert study.run(config, str(tmp_path)) == 0
  stages = [x for x in road.made if x[1] in FULL]
  assert len(stages) == len(set(stages)), 'nothing is trained twice'
  assert ('full-0', 'instruct') in before
  assert road.times()['instruct'] == 4
  assert set(_results(tmp_path)['failed']) == set()


def test_a_run_that_fails_is_said_and_loses_no_other(
  config, road, tmp_path, capsys
):
  error = FloatingPointError('Expected finite metrics, found nan.')
  # What it has not trained, others have to, and do not take.
  road.fails = {('full-0', 'language'): error}
  assert study.run(config, str(tmp_path)) == 1
  found = _results(tmp_path)
  assert found['failed'] == {'full, seed 0': str(error)}
  numbers = found['tables'][0]['rows']
  assert list(numbers['full']['all']['by_seed']) == ['1']
  assert list(numbers['short']['all']['by_seed']) == ['0', '1']
  assert list(numbers['short']['all']['difference_by_seed']) == ['1']
  assert 'full, seed 0 failed: Expected finite' in capsys.readouterr().out
  assert ('short-0', 'language') in road.made
  assert ('short-0', 'motion') not in road.made
  # Repaired, it takes what the others have meanwhile.
  road.fails = {}
  assert study.run(config, str(tmp_path)) == 0
  assert ('full-0', 'align') not in road.made
  # What it has answered before it fails again is not taken for its answers.
  road.fails = {('full-0', 'answers'): error}
  assert study.run(config, str(tmp_path)) == 1
  numbers = _results(tmp_path)['tables'][0]['rows']
  assert list(numbers['full']['all']['by_seed']) == ['1']


def test_a_full_disk_ends_the_study(config, road, tmp_path):
  road.fails = {('full-0', 'motion'): OSError(28, os.strerror(28))}
  with pytest.raises(disk.FullError, match='make room and repeat'):
    study.run(config, str(tmp_path))
  assert not (tmp_path / 'short-0').exists()


@pytest.mark.parametrize('inside', ['', 'full-0'])
def test_a_finished_work_folder_gives_what_it_has(
  config, road, tmp_path, inside
):
  """Of its seed; the other one has the data only."""
  given = tmp_path / 'given' / inside
  trained = study.changed(config, {})
  road.prepare(trained, str(given))
  for name in FULL:
    road.train_stage(trained, str(given), name, None)
  road.made.clear()
  config.study.start_from = str(tmp_path / 'given')
  study.run(config, str(tmp_path / 'work'))
  assert road.times()['data'] == 0
  made = {what for folder, what in road.made if folder == 'full-0'}
  assert made == {'answers'}
  assert ('full-1', 'motion') in road.made
  assert ('other-0', 'align') in road.made
  assert ('other-0', 'video') not in road.made


def test_runs_of_other_data_have_their_own(config, road, tmp_path):
  config.study.runs = (*config.study.runs[:1], ('more', (('data.train', 97),)))
  config.study.rows, config.study.claims = (), ()
  study.run(config, str(tmp_path))
  assert road.times()['data'] == 2
  assert not (tmp_path / 'more-0' / 'data').is_symlink()
  assert (tmp_path / 'more-1' / 'data').resolve().parent.name == 'more-0'


def test_an_unfinished_stage_is_nobodys(config, road, tmp_path):
  mine, theirs = str(tmp_path / 'mine'), str(tmp_path / 'theirs')
  trained = study.changed(config, {})
  road.prepare(trained, theirs)
  road.train_stage(trained, theirs, 'motion', None)
  (tmp_path / 'theirs' / 'language').mkdir()
  assert study.share(trained, mine, [mine, theirs])[-1] == 'motion'
  assert not (tmp_path / 'mine' / 'language').exists()
  # A link to what somebody has removed is no stage, and nobody's place.
  shutil.rmtree(tmp_path / 'theirs' / 'motion')
  assert study.share(trained, mine, []) == []
  assert not (tmp_path / 'mine' / 'motion').is_symlink()
  road.prepare(trained, str(tmp_path / 'third'))
  road.train_stage(trained, str(tmp_path / 'third'), 'motion', None)
  study.share(trained, mine, [str(tmp_path / 'third')])
  assert (tmp_path / 'mine' / 'motion' / 'summary.json').exists()


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'runs': (('full', (('align.clap', 1),)),)}, 'found align.clap; its file'),
    ({'runs': (('full', (('clip.a', 1),)),)}, 'found clip.a; its file'),
    ({'runs': (('full', ()), ('full', ()))}, 'a name of its own each'),
    ({'runs': ()}, 'a name of its own each'),
    ({'seeds': ()}, 'a name of its own each'),
    ({'runs': (('some', ()),)}, "runs some, found row 'full' of 'full'"),
    ({'rows': ({'name': 'full'},)}, 'Expected fields label, run, input, corr'),
    ({'start_from': 'nowhere'}, 'found no config.json in nowhere'),
  ],
)
def test_a_study_that_cannot_be_is_refused_before_anything_is_made(
  config, road, tmp_path, changes, sentence
):
  only = {'rows': ({'label': 'full', 'run': 'full'},), 'claims': ()}
  for name, value in {**only, **changes}.items():
    config.study[name] = value
  with pytest.raises(ValueError, match=sentence):
    study.run(config, str(tmp_path / 'work'))
  assert not road.made
  assert not (tmp_path / 'work').exists()


def test_two_processes_do_not_work_in_one_folder(config, road, tmp_path):
  del road
  with study._alone(str(tmp_path)):
    with pytest.raises(ValueError, match='found another one at work there'):
      study.run(config, str(tmp_path))
    assert not (tmp_path / 'full-0').exists()
  assert study.run(config, str(tmp_path)) == 0


def test_a_configuration_without_a_study_is_refused(tmp_path):
  with pytest.raises(ValueError, match='configs/studies/'):
    study.run(presets.load('tiny', 'smoke'), str(tmp_path))


@pytest.mark.parametrize('arg', ['', 'smoke'])
@pytest.mark.parametrize('name', ['ablation', 'robustness', 'counterfactual'])
def test_the_studies_that_there_are_can_be_run(name, arg, road, tmp_path):
  """Their rows are asked for by their runs, and runs share what they may."""
  del road
  config = presets.load(f'studies/{name}', arg)
  rows, _ = study._read(config)
  asked = {}
  for run in study._runs(config, str(tmp_path)):
    eval_ = run.config.eval
    asked[run.name] = {(shown, 'none') for shown in eval_.inputs}
    asked[run.name] |= {tuple(x) for x in eval_.corruptions}
  for row in rows:
    assert (row.input, row.corruption) in asked[row.run], row
  with pytest.raises(ValueError, match=f'{name}.py:smoke'):
    presets.load(f'studies/{name}', 'big')


def test_runs_of_the_ablation_take_the_same_steps_in_rows_of_one_size():
  config = presets.load('studies/ablation')
  runs = {run.name: run.config for run in study._runs(config, 'work')}
  full = runs['full']
  for run in runs.values():
    for name in set(run.stage_names) & {'align', 'instruct'}:
      assert run[name].steps == full[name].steps
      sizes = {mix.rows for mix in run[name].mixes.values()}
      assert sizes == {mix.rows for mix in full[name].mixes.values()}
  halves = runs['unpaired'].instruct.mixes
  assert halves.motion.part[0] != halves.video.part[0]
  assert runs['paired'].align.mixes.motion.part == (0, 2)
  assert runs['motion-only'].instruct.mixes.keys() == ['motion']
