import json
import os
import shutil
import subprocess
import sys

import presets
import pytest

from vimonet_jax import (
  base,
  claim,
  cluster,
  fingerprint,
  main,
  outputs,
  signing,
  weight_files,
)
from vimonet_jax.apps import answer
from vimonet_jax.audit import provenance, signature, verify


@pytest.fixture
def config():
  return presets.load('tiny', 'smoke')


def _do(command, work=lambda: None, *, is_resumed=True):
  with signing.signed(command, is_resumed=is_resumed, is_joined=False):
    work()


def _read(path):
  return provenance.read(str(path))


@pytest.fixture
def asked(tmp_path):
  def write(*ids):
    lines = [json.dumps({'id': x, 'question': 'Why?'}) + '\n' for x in ids]
    (tmp_path / 'questions.jsonl').write_text(''.join(lines))

  write('a', 'b')
  return write


@pytest.fixture
def answering(config, tiny_model, tmp_path, asked):
  """Answers the questions as the program does, into answers.jsonl."""
  workdir = str(tmp_path / 'work')
  shutil.copytree(tiny_model.workdir, workdir)
  given = str(tmp_path / 'questions.jsonl'), str(tmp_path / 'answers.jsonl')
  command = outputs.Command('answer', config, workdir, *given)
  return command, lambda: answer.run(workdir, *given)


def test_answers_get_a_manifest_that_names_model_and_questions(
  answering, tmp_path, monkeypatch
):
  command, work = answering
  monkeypatch.setattr(sys, 'argv', ['main', '--config=a b'])
  _do(command, work)
  found = _read(tmp_path / 'answers.jsonl')
  assert found['what'] == 'answers to questions'
  assert found['is_of_this_command']
  assert found['made_by']['task'] == 'answer'
  assert found['made_by']['config']['data']['name'] == 'synthetic'
  assert "vimonet_jax.main '--config=a b'" in found['made_by']['command']
  assert found['device'] == '8 x cpu'
  model, questions = found['made_from']
  assert (model['path'], questions['path']) == (
    'work/model', 'questions.jsonl'
  )  # fmt: skip
  assert questions['sha256']
  assert model['weights']  # Of a model without a manifest, too.
  assert provenance.verify(command.output).is_intact


def test_answers_that_grow_have_one_manifest_that_tells_of_the_last(
  answering, tmp_path, asked
):
  command, work = answering
  _do(command, work)
  first = _read(command.output)
  asked('a', 'b', 'c')
  _do(command, work)
  second = _read(command.output)
  assert 'goes_on_from' not in first
  assert second['goes_on_from'] == {
    'manifest': provenance.digest(first),
    'date': first['date'],
    'was_intact': True,
  }
  # Lines that stayed may be those of another model, which is still told.
  told = second['chain'][provenance.digest(first)]
  assert told['made_from'] == first['made_from']
  assert provenance.verify(command.output).is_intact
  # It is told that the file was not as the second run had left it.
  lines = (tmp_path / 'answers.jsonl').read_text().splitlines(keepends=True)
  (tmp_path / 'answers.jsonl').write_text(''.join(lines[:-1]))
  _do(command, work)
  assert not _read(command.output)['goes_on_from']['was_intact']
  assert 'somebody had changed' in provenance.verify(command.output).sentence
  # Going on once more does not hide it.
  _do(command, work)
  assert not _read(command.output)['goes_on_from']['was_intact']


def test_a_timeline_is_made_from_all_that_was_watched(config, tmp_path):
  command = outputs.Command(
    'monitor', config, 'work', 'day.npy', str(tmp_path), 'day.mp4'
  )
  for output in outputs.of(command):
    assert output.made_from == ('work/model', 'day.npy', 'day.mp4')


def test_an_input_of_several_outputs_is_read_once(
  config, tmp_path, monkeypatch
):
  folder, day = tmp_path / 'watch', tmp_path / 'day.npy'
  folder.mkdir()
  day.write_bytes(b'abc')
  command = outputs.Command('monitor', config, 'work', str(day), str(folder))
  names = ['timeline.json', 'timeline.csv', 'windows.csv', 'alarms.csv']
  read, digest = [], provenance.file_digest
  monkeypatch.setattr(
    provenance,
    'file_digest',
    lambda path: read.append(os.path.basename(path)) or digest(path),
  )
  _do(command, lambda: [(folder / x).write_text(x) for x in names])
  assert sorted(read) == sorted(['day.npy', *names])
  for name in names:
    (given,) = _read(folder / name)['made_from']
    assert given['bytes'] == 3


def _dataset(workdir):
  folder = workdir / 'data' / 'vimos' / 'synthetic' / '1.0.0'
  folder.mkdir(parents=True)
  (folder / 'metadata.json').write_text('{"seed": 3}')
  (folder / 'a.array_record').write_bytes(b'abc')
  return folder


def _scores(workdir):
  (workdir / 'predictions').mkdir()
  (workdir / 'predictions' / 'a.jsonl').write_text('{}\n')
  (workdir / 'scores.json').write_text('[]')


@pytest.fixture
def run(config, tmp_path):
  """A pipeline that makes a dataset, answers and scores."""
  return outputs.Command('pipeline', config, str(tmp_path / 'work [1]'))


def test_a_run_has_a_chain_from_its_scores_to_its_data(run, tmp_path):
  workdir = tmp_path / 'work [1]'

  def work():
    _dataset(workdir)
    _scores(workdir)

  _do(run, work)
  scores = _read(workdir / 'scores.json')
  (answers,) = scores['made_from']
  (data,) = scores['chain'][answers['manifest']]['made_from']
  assert data['path'] == '../data/vimos/synthetic/1.0.0'
  told = scores['chain'][data['manifest']]
  assert told['is_of_this_command']
  assert told['what'] == 'a dataset'
  assert told['data'] == {'version': '1.0.0', 'seed': 3}


def test_a_manifest_stays_until_its_output_is_written_again(run, tmp_path):
  workdir = tmp_path / 'work [1]'
  _do(run, lambda: (_dataset(workdir), _scores(workdir)))
  data = workdir / 'data' / 'vimos' / 'synthetic' / '1.0.0'
  before = _read(data), _read(workdir / 'scores.json')
  # Not by this program, which then does not vouch for it.
  (data / 'a.array_record').write_bytes(b'abd')
  _do(run, lambda: (workdir / 'scores.json').write_text('[1]'))
  assert _read(data) == before[0]
  assert _read(workdir / 'scores.json') != before[1]
  assert not provenance.verify(str(data)).is_intact


def test_what_was_there_without_a_manifest_is_said_to_be_found(run, tmp_path):
  """As after a kill, or of a run from before there were any."""
  folder = _dataset(tmp_path / 'work [1]')
  _do(run, is_resumed=False)
  assert _read(folder) is None
  _do(run)
  assert _read(folder)['is_of_this_command'] is False


@pytest.mark.parametrize('task', ['eval', 'audit'])
def test_who_asks_more_says_what_answers_there_are_then(run, tmp_path, task):
  workdir = tmp_path / 'work [1]'
  _do(run, lambda: (_dataset(workdir), _scores(workdir)))
  answers = workdir / 'predictions' / 'a.jsonl'
  _do(run._replace(task=task), lambda: answers.write_text('{}\n{}\n'))
  assert provenance.verify(str(answers)).is_intact


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt, SystemExit])
def test_who_is_stopped_leaves_manifests_of_files(run, tmp_path, error):
  workdir = tmp_path / 'work [1]'
  workdir.mkdir()
  (workdir / 'report.html').write_text('Not of this command.')

  def work():
    _dataset(workdir)
    _scores(workdir)
    raise error('stopped')

  with pytest.raises(error, match='stopped'):
    _do(run, work)
  assert _read(workdir / 'scores.json')['is_of_this_command']
  assert _read(workdir / 'report.html') is None
  assert _read(workdir / 'data' / 'vimos' / 'synthetic' / '1.0.0') is None


@pytest.mark.parametrize('is_first', [True, False])
def test_of_several_processes_the_first_writes(
  run, tmp_path, monkeypatch, is_first
):
  waited = []
  monkeypatch.setattr(cluster, 'is_first', lambda: is_first)
  monkeypatch.setattr(cluster, 'wait', waited.append)
  workdir = tmp_path / 'work [1]'
  workdir.mkdir()
  with signing.signed(run, is_resumed=True, is_joined=True):
    _scores(workdir)
  assert (_read(workdir / 'scores.json') is not None) == is_first
  assert waited == ['the manifests are written']


def test_weights_are_named_by_their_fingerprint(config, tiny_model, tmp_path):
  workdir = str(tmp_path / 'work')
  command = outputs.Command('assemble', config, workdir)
  _do(command, lambda: shutil.copytree(tiny_model.workdir, workdir))
  found = _read(tmp_path / 'work' / 'model')
  weights = weight_files.Lazy(os.path.join(workdir, 'model', 'weights'))
  assert found['weights'] == fingerprint.of(weights)
  assert 'tokenizer.model' in found['files']
  assert provenance.verify(f'{workdir}/model').is_intact


def test_runs_of_a_study_share_a_dataset_and_its_manifest(config, tmp_path):
  config.study = {'seeds': (0, 1), 'runs': (('a', ()),)}
  command = outputs.Command('study', config, str(tmp_path))

  def work():
    _dataset(tmp_path / 'a-0')
    (tmp_path / 'a-1').mkdir()
    (tmp_path / 'a-1' / 'data').symlink_to('../a-0/data')

  _do(command, work)
  folder = tmp_path / 'a-0' / 'data' / 'vimos' / 'synthetic' / '1.0.0'
  before = _read(folder)
  assert before['is_of_this_command']
  (tmp_path / 'a-1' / 'data').unlink()
  _do(command, lambda: (tmp_path / 'a-1' / 'data').symlink_to('../a-0/data'))
  assert _read(folder) == before


def test_a_key_that_cannot_sign_is_said_before_anything_is_done(run):
  run.config.provenance.key_file = '/no/such/key'
  done = []
  with pytest.raises(signature.UnusableError, match='found no such file'):
    _do(run, lambda: done.append(1))
  assert not done
  # Tasks that leave nothing need none.
  _do(run._replace(task='chat'), lambda: done.append(1))
  assert done


def test_a_damaged_manifest_of_an_input_is_said_before_anything_is_done(
  answering, tmp_path
):
  command, work = answering
  (tmp_path / 'questions.jsonl.manifest.json').write_text('{')
  with pytest.raises(ValueError, match='expected a manifest'):
    _do(command, work)
  assert not os.path.exists(command.output)


def test_the_environment_may_name_the_key(run, tmp_path, monkeypatch):
  if shutil.which('ssh-keygen') is None:
    pytest.skip('needs the OpenSSH client')
  key = tmp_path / 'key'
  subprocess.run(
    ['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', key], check=True
  )
  monkeypatch.setenv('VIMONET_SIGNING_KEY', str(key))
  workdir = tmp_path / 'work [1]'
  workdir.mkdir()
  _do(run, lambda: _scores(workdir))
  path = str(workdir / 'scores.json')
  assert provenance.verify(path, f'{key}.pub').is_intact


def test_who_takes_a_manifest_away_is_found_out(run, tmp_path, capsys):
  workdir = tmp_path / 'work [1]'

  def lacking(folder):
    return signing.without_manifest(str(folder), run.config)

  _do(run, lambda: (_dataset(workdir), _scores(workdir)))
  claim.write(run.config, str(workdir))
  # Nobody else's files, also where they are called as ours are elsewhere.
  (workdir / 'notes.txt').write_text('Mine.')
  (workdir / 'mine').mkdir()
  (workdir / 'mine' / 'scores.json').write_text('[]')
  (workdir / 'export').mkdir()
  for i, text in enumerate(
    ('{', '[]', '{"workdir": "", "data": {"name": 1}}', '[' * 100_000)
  ):
    (workdir / 'mine' / f'{i}').mkdir()
    (workdir / 'mine' / f'{i}' / 'config.json').write_text(text)
    (workdir / 'mine' / f'{i}' / 'scores.json').write_text('[]')
  assert lacking(workdir) == lacking(tmp_path) == []
  data = workdir / 'data' / 'vimos' / 'synthetic' / '1.0.0'
  os.remove(data / 'manifest.json')
  os.remove(workdir / 'scores.json.manifest.json')
  (workdir / 'audit-drill').mkdir()
  (workdir / 'audit-drill' / 'audit.json').write_text('{}')
  expected = [
    str(workdir / 'audit-drill' / 'audit.json'),
    str(data),
    str(workdir / 'scores.json'),
  ]
  assert lacking(workdir) == lacking(tmp_path) == expected
  assert verify.run(str(workdir)) == 0
  assert verify.run(str(workdir), lacking=expected) == 1
  said = capsys.readouterr().err
  assert f'Expected {data / "manifest.json"}, as every task' in said
  # One more, of something else, hides none that lack.
  provenance.write(str(workdir), {}, covers=('notes.txt',))
  assert verify.run(str(workdir), lacking=expected) == 1
  assert 'as every task' in capsys.readouterr().err
  (workdir / 'predictions' / 'a.jsonl').write_text('changed')
  assert verify.run(str(workdir)) == 1
  os.remove(workdir / 'manifest.json')
  (workdir / 'predictions' / 'a.jsonl').write_text('')
  # Also who takes all of them away.
  os.remove(workdir / 'predictions' / 'a.jsonl.manifest.json')
  assert verify.run(str(workdir), lacking=lacking(workdir)) == 1


@pytest.mark.parametrize('task', ['convert', 'plan', 'report', 'score'])
def test_what_is_made_on_the_host_names_no_device(run, tmp_path, task):
  """Who asks for devices takes their memory from whoever computes there."""
  output = str(tmp_path / 'made')
  path = {'report': 'report.html', 'score': 'scores.json', 'plan': 'plan.json'}
  command = run._replace(task=task, workdir=output, output=None)
  if task == 'convert':
    command = command._replace(output=output)

  def work():
    os.makedirs(output)
    with open(os.path.join(output, path.get(task, 'a')), 'w') as f:
      f.write('made')

  _do(command, work)
  made = os.path.join(output, path[task]) if task in path else output
  assert _read(made)['device'] is None


def test_every_task_that_leaves_something_is_in_the_table():
  assert set(main.TASKS) - set(outputs._TASKS) == {
    'chat', 'demo', 'detect', 'serve', 'verify',
  }  # fmt: skip


def test_weights_may_be_converted_again_into_a_folder_with_a_manifest(tmp_path):
  folder = str(tmp_path)
  provenance.write(folder, {}, covers=('**/*',))
  base.ready(folder, 'llm')
  base.clear(folder)  # What it says is of the weights before.
  assert _read(tmp_path) is None
