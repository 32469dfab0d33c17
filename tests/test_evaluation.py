"""Who judges again, who waits, what is shown; end_to_end runs it all."""

import dataclasses
import types

import presets
import pytest
from numbered import ITEMS, RECORDS

from vimonet_jax import claim, evaluation, suite
from vimonet_jax.eval import benchmarks, scores


class Engine:
  """Knows the answers about even clips, and cannot be asked twice."""

  asked = 0

  def answer(self, prompts, **options):
    del options
    Engine.asked += len(prompts)
    return [
      prompt.turns[-1].question + f' n{prompt.id[1]}'
      if int(prompt.id[1]) % 2 == 0
      else 'No idea.'
      for prompt in prompts
    ]


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  """A finished run whose model is `Engine`; nothing reads its weights."""
  bundle = types.SimpleNamespace(model=types.SimpleNamespace(video=None))
  monkeypatch.setattr(evaluation.model_folder, 'read', lambda path: bundle)
  loader = types.SimpleNamespace(load=lambda *args, **options: Engine())
  monkeypatch.setattr(evaluation.engine, 'Engine', loader)
  monkeypatch.setattr(
    evaluation,
    '_settings',
    lambda config, workdir: evaluation._settings_of(config, WEIGHTS),
  )
  monkeypatch.setattr(
    suite, 'open_one', lambda config, workdir, tower, *, name: OPENED[name]
  )
  monkeypatch.setitem(suite.BENCHMARKS, 'second', None)
  monkeypatch.setattr(evaluation.corpora, 'open_split', lambda *_: RECORDS)
  (tmp_path / 'model').mkdir()
  (tmp_path / 'model' / 'config.json').write_text('{}')
  claim.write(_config(), str(tmp_path))
  return tmp_path


WEIGHTS = 'abc'
_INPUTS = ('text', 'motion', 'both')


def _opened(name):
  items = [
    dataclasses.replace(item, benchmark=name)
    for shown in _INPUTS
    for item in benchmarks.variant(ITEMS, input=shown)
  ]
  rules = {
    'rule': benchmarks.by_rules,
    'wordless': lambda item, text: benchmarks.all_or_nothing(
      item, not text, by='wordless'
    ),
  }
  return benchmarks.Benchmark(
    items, RECORDS, rules, baselines={'always n0': ['It is n0.'] * len(ITEMS)}
  )


OPENED = {name: _opened(name) for name in ('vimos-synth', 'second')}


def _config(**changes):
  return presets.load(
    'tiny', 'smoke', eval__benchmarks=('vimos-synth', 'second'), **changes
  )


def test_what_was_answered_is_judged_again_to_the_same_bytes(
  workdir, monkeypatch
):
  evaluation.evaluate(_config(), str(workdir))
  names = ['scores.json', *(f'verdicts/{name}.jsonl' for name in OPENED)]
  before = [(workdir / name).read_bytes() for name in names]
  assert b'"wordless"' in before[0]
  asked = Engine.asked
  monkeypatch.setattr(evaluation.engine, 'Engine', None)
  monkeypatch.setattr(evaluation, '_settings', None)
  evaluation.score(_config(), str(workdir))
  assert [(workdir / name).read_bytes() for name in names] == before
  for name in names:
    (workdir / name).unlink()
  evaluation.score(_config(), str(workdir))
  assert [(workdir / name).read_bytes() for name in names] == before
  assert Engine.asked == asked


def test_rows_know_how_many_records_are_damaged(workdir, monkeypatch, capsys):
  changed = dataclasses.replace(
    OPENED['second'], damaged={7}, notes=('1 is damaged.',)
  )
  monkeypatch.setitem(OPENED, 'second', changed)
  evaluation.evaluate(_config(), str(workdir))
  for row in scores.read(str(workdir / 'scores.json')):
    assert row.get('n_damaged', 0) == (row['benchmark'] == 'second')
  assert 'second: 1 is damaged.' in capsys.readouterr().out
  evaluation.run_score(_config(), str(workdir))
  said = capsys.readouterr().out
  assert 'second: 1 is damaged.' in said
  assert said.count('and n is smaller: 1.') == 2, 'once for each judge'


def test_without_answers_of_these_settings_nothing_is_judged(workdir):
  with pytest.raises(ValueError, match='answers to vimos-synth .* none of th'):
    evaluation.score(_config(), str(workdir))
  evaluation.evaluate(_config(), str(workdir))
  for changes in ({'eval__max_new_tokens': 3}, {'eval__quantize': 'int8'}):
    with pytest.raises(ValueError, match='run --task=eval with them first'):
      evaluation.score(_config(**changes), str(workdir))


def test_questions_without_an_answer_are_said_and_fail(workdir, capsys):
  evaluation.evaluate(_config(), str(workdir))
  path = workdir / 'predictions' / 'second.jsonl'
  lines = path.read_text().splitlines(keepends=True)
  path.write_text(''.join(lines[:-5]))
  evaluation.score(_config(), str(workdir))
  assert 'second: 5 of 54 questions have no answer' in capsys.readouterr().out
  rows = scores.read(str(workdir / 'scores.json'))
  failed = {
    row['benchmark']: row['n_failed']
    for row in rows
    if (row['judge'], row['domain'], row['system'])
    == ('rule', 'all', 'model')
    and row['n_failed']
  }
  assert failed == {'second': 5}


def test_answers_to_another_question_are_not_judged(workdir, monkeypatch):
  evaluation.evaluate(_config(), str(workdir))
  first, *others = OPENED['second'].items
  asked = dataclasses.replace(first, question='Which one, then?')
  changed = dataclasses.replace(OPENED['second'], items=[asked, *others])
  monkeypatch.setitem(OPENED, 'second', changed)
  evaluation.score(_config(), str(workdir))
  lines = (workdir / 'verdicts' / 'second.jsonl').read_text().splitlines()
  assert '"failed"' in lines[0]
  assert '"failed"' not in lines[1]


def test_answers_of_several_checkpoints_are_told_apart_by_the_weights(
  workdir, monkeypatch
):
  evaluation.evaluate(_config(), str(workdir))
  right = (workdir / 'scores.json').read_bytes()
  for name in OPENED:
    path = workdir / 'predictions' / f'{name}.jsonl'
    lines = path.read_text()
    other = lines.replace('"abc"', '"older"').replace('No idea.', 'It is n1.')
    path.write_text(lines + other)
  with pytest.raises(ValueError, match='those of abc, older, and no weights'):
    evaluation.score(_config(), str(workdir))
  (workdir / 'model' / 'weights').mkdir()
  evaluation.score(_config(), str(workdir))
  assert (workdir / 'scores.json').read_bytes() == right


def _report(workdir, config=None) -> str:
  assert evaluation.run_report(config or _config(), str(workdir)) == 0
  return (workdir / 'report.html').read_text()


def test_the_report_needs_no_model_and_shows_every_benchmark(
  workdir, monkeypatch
):
  evaluation.evaluate(_config(), str(workdir))
  monkeypatch.setattr(evaluation.engine, 'Engine', None)
  monkeypatch.setattr(evaluation, '_settings', None)
  text = _report(workdir)
  for name in OPENED:
    assert f'<h3>{name}</h3>' in text, 'its examples'
    assert f'<h3>{name} · test</h3>' in text, 'its answers'
  # The first right and the first wrong one of two domains, of each.
  assert text.count('judged by rule, score') == 8
  assert text.count('class="wrong"') == text.count('class="right"') == 4


def test_a_benchmark_that_cannot_be_opened_costs_its_examples_only(
  workdir, monkeypatch
):
  evaluation.evaluate(_config(), str(workdir))

  def open_one(config, workdir, tower, *, name):
    if name == 'second':
      raise FileNotFoundError('no such folder: videos')
    return OPENED[name]

  monkeypatch.setattr(suite, 'open_one', open_one)
  text = _report(workdir)
  assert 'second: no examples. no such folder: videos' in text
  assert '<h3>vimos-synth</h3>' in text
  assert '<h3>second · test</h3>' in text


def test_scores_whose_benchmark_is_not_asked_for_stay_in_the_report(workdir):
  evaluation.evaluate(_config(), str(workdir))
  config = _config()
  config.eval.benchmarks = ('second',)
  text = _report(workdir, config)
  assert '<h3>vimos-synth · test</h3>' in text
  assert 'vimos-synth: no examples, since these settings do not open it.' in (
    text
  )


@pytest.mark.parametrize('is_first', [True, False])
def test_nobody_leaves_before_the_report_is_written(
  tmp_path, monkeypatch, is_first
):
  done = []

  def note(name):
    return lambda *args, **kwargs: done.append(name)

  monkeypatch.setattr(evaluation.cluster, 'is_first', lambda: is_first)
  monkeypatch.setattr(evaluation.cluster, 'wait', done.append)
  monkeypatch.setattr(evaluation.claim, 'check', lambda *args, **kwargs: None)
  monkeypatch.setattr(evaluation.corpora, 'open_split', lambda *args: ())
  monkeypatch.setattr(evaluation.report, 'write', note('written'))
  monkeypatch.setattr(evaluation, 'evaluate', note('evaluated'))
  monkeypatch.setattr(evaluation, '_print_table', note('printed'))
  config = types.SimpleNamespace(to_json=lambda: '{}')
  assert evaluation.run_report(config, str(tmp_path)) == 0
  mine = ['written', 'printed'] * is_first
  assert done == [*mine, 'the report is written']
  done.clear()
  assert evaluation.run(config, str(tmp_path)) == 0
  mine = ['printed'] * is_first
  assert done == ['evaluated', *mine, 'the table is printed']
