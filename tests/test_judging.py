"""Rules, a judge that costs money, and other systems, of one benchmark."""

import dataclasses
import json

import chat_server
import presets
import pytest
from numbered import ITEMS, RECORDS

from vimonet_jax import chat_sender, evaluation, judging
from vimonet_jax.eval import benchmarks, judge, run, scores

pytest.importorskip('openai', reason="needs pip install -e '.[api]'")
pytest.importorskip('jsonschema', reason="needs pip install -e '.[api]'")

MODEL = 'clever-2026-11-01'
BENCHMARK = benchmarks.Benchmark(
  ITEMS,
  RECORDS,
  {judge.JUDGE: benchmarks.by_rules},
  needs_judge=True,
  baselines={'always n0': ['It is n0.'] * len(ITEMS)},
)
LINES = run.as_predictions(ITEMS, [item.reference for item in ITEMS])


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  monkeypatch.setenv('VIMONET_TEST_KEY', 'sk-test')
  monkeypatch.setattr(chat_sender, '_BACKOFF_S', 0.02)


def _act(asked) -> chat_server.Act:
  """Judges that everything is right; asked a plain question, it says n1."""
  is_judge = 'pred' in str(asked.body['messages'])
  text = '{"pred": "yes", "score": 5}' if is_judge else 'It is n1.'
  return chat_server.Act(text=text, model=asked.body['model'])


@pytest.fixture
def server():
  with chat_server.Server(_act) as server:
    yield server


def _config(server, **changes):
  def service(budget_usd):
    return {
      'base_url': server.url,
      'model': MODEL,
      'input_usd': 1.0,
      'output_usd': 10.0,
      'budget_usd': budget_usd,
      'key_variable': 'VIMONET_TEST_KEY',
      'requests_per_minute': 60_000.0,
    }

  config = presets.load('tiny', 'smoke')
  config.eval.judge.service.update(service(1.0))
  config.eval.judge.mode = config.eval.text_baseline.mode = 'ask'
  config.eval.update(changes)
  return config


def _accuracies(rows):
  return {
    (row['judge'], row['system']): row['accuracy']
    for row in rows
    if row['domain'] == 'all'
  }


def test_every_judge_judges_every_system(server, tmp_path, capsys):
  config = _config(server)
  rows = judging.rows(config, str(tmp_path), BENCHMARK, LINES)
  assert _accuracies(rows) == {
    ('rule', 'model'): 1.0,
    ('rule', 'always n0'): pytest.approx(1 / 6),
    (MODEL, 'model'): 1.0,
    (MODEL, 'always n0'): 1.0,
  }
  paper = [row for row in rows if 'accuracy_as_paper' in row]
  assert {row['judge'] for row in paper} == {MODEL}
  assert all(row['score_as_paper'] == 5.0 for row in paper)
  assert server.url in capsys.readouterr().out, 'says who gets what'
  path = tmp_path / 'verdicts' / 'vimos-synth.jsonl'
  written = [json.loads(line) for line in path.read_text().splitlines()]
  assert [line['by'] for line in written] == ['rule'] * 18 + [MODEL] * 18
  assert written[-1]['reply'] == '{"pred": "yes", "score": 5}'
  asked = len(server.asked)
  judging.rows(config, str(tmp_path), BENCHMARK, LINES)
  assert len(server.asked) == asked, 'what was paid for is kept'


def _written(workdir):
  return {
    (row['judge'], row['system'], row['domain']): row
    for row in scores.read(str(workdir / 'scores.json'))
  }


def test_what_was_paid_for_outlives_a_run_without_its_judge(
  server, tmp_path, capsys
):
  path = tmp_path / 'theirs.jsonl'
  theirs = [{'id': item.id, 'text': item.reference} for item in ITEMS]
  path.write_text(''.join(json.dumps(line) + '\n' for line in theirs))
  systems = (('vimos-synth', 'theirs', str(path)),)
  workdir, config = str(tmp_path), _config(server, systems=systems)
  config.eval.text_baseline.service.update(config.eval.judge.service)
  config.eval.text_baseline.service.model = 'guesser'
  evaluation._score(config, workdir, BENCHMARK, LINES, None)
  before = _written(tmp_path)
  verdicts = tmp_path / 'verdicts' / 'vimos-synth.jsonl'
  judged = verdicts.read_bytes()
  assert len({system for _, system, _ in before}) == 4
  capsys.readouterr()
  # No judge, no other system, no baseline: as if they had never been named.
  plain = _config(server)
  plain.eval.judge.service.model = ''
  evaluation._score(plain, workdir, BENCHMARK, LINES, None)
  kept = _written(tmp_path)
  assert {k for k in before if k not in kept} == {
    ('rule', 'theirs', domain) for domain in ('place', 'object', 'all', 'macro')
  }
  assert all(kept[k] == before[k] for k in kept)
  assert next(iter(kept))[0] == 'rule', 'the headline stays first'
  assert verdicts.read_bytes() == judged
  said = capsys.readouterr().out
  assert 'vimos-synth: not judged now, but paid for before, and kept' in said
  assert f'theirs by {MODEL}' in said
  # Other answers of the model: its own verdicts are of others now.
  others = [{**line, 'text': f'{line["text"]}!'} for line in LINES]
  evaluation._score(plain, workdir, BENCHMARK, others, None)
  found = _written(tmp_path)
  assert (MODEL, 'model', 'all') not in found
  assert (MODEL, 'theirs', 'all') in found, 'theirs are as they were'
  said = capsys.readouterr().out
  assert f'not in scores.json any more: model by {MODEL}.' in said
  assert MODEL not in verdicts.read_text()
  # Other questions: nothing of before can stand beside them.
  fewer = dataclasses.replace(
    BENCHMARK, items=ITEMS[:9], baselines={'always n0': ['It is n0.'] * 9}
  )
  evaluation._score(plain, workdir, fewer, LINES[:9], None)
  assert {judge for judge, _, _ in _written(tmp_path)} == {'rule'}
  assert f'theirs by {MODEL}' in capsys.readouterr().out
  # And what was paid for is not paid again.
  asked = len(server.asked)
  evaluation._score(config, workdir, BENCHMARK, LINES, None)
  assert _written(tmp_path) == before
  assert len(server.asked) == asked


def test_several_models_judge_the_same_answers_out_of_one_purse(
  server, tmp_path
):
  config = _config(server)
  config.eval.judge.others = (('wise-2026-11-02', 2.0, 20.0),)
  rows = judging.rows(config, str(tmp_path), BENCHMARK, LINES)
  judges = ('rule', MODEL, 'wise-2026-11-02')
  assert {judge for judge, _ in _accuracies(rows)} == set(judges)
  path = tmp_path / 'verdicts' / 'vimos-synth.jsonl'
  written = [json.loads(line) for line in path.read_text().splitlines()]
  assert tuple(dict.fromkeys(line['by'] for line in written)) == judges
  models = [each.body['model'] for each in server.asked]
  assert models.count(MODEL) == models.count('wise-2026-11-02') > 0
  assert [p.name for p in tmp_path.glob('judge*')] == ['judge']
  rows_again = judging.rows(config, str(tmp_path), BENCHMARK, LINES)
  assert rows_again == rows
  assert len(server.asked) == len(models), 'what was paid for is kept'


def test_a_spent_budget_costs_that_judge_only(server, tmp_path, capsys):
  config = _config(server)
  config.eval.judge.service.budget_usd = 0.0
  rows = judging.rows(config, str(tmp_path), BENCHMARK, LINES)
  assert {judge for judge, _ in _accuracies(rows)} == {'rule'}
  assert f'not judged by {MODEL}' in capsys.readouterr().out
  assert not server.asked


def test_a_dry_run_sends_nothing(server, tmp_path, capsys, monkeypatch):
  monkeypatch.delenv('VIMONET_TEST_KEY')
  config = _config(server)
  config.eval.judge.mode = config.eval.text_baseline.mode = 'dry_run'
  config.eval.text_baseline.service.update(config.eval.judge.service)
  rows = judging.rows(config, str(tmp_path), BENCHMARK, LINES)
  assert {judge for judge, _ in _accuracies(rows)} == {'rule'}
  said = capsys.readouterr().out
  assert said.count('Dry run: nothing was sent') == 3
  assert 'Which place?' in said
  assert not server.asked


def test_other_systems_are_joined_by_id_and_what_they_lack_fails(
  server, tmp_path, capsys
):
  path = tmp_path / 'theirs.jsonl'
  theirs = [{'id': item.id, 'text': item.reference} for item in ITEMS[:9]]
  path.write_text(''.join(json.dumps(line) + '\n' for line in theirs[::-1]))
  config = _config(
    server,
    systems=(
      ('vimos-synth', 'theirs', str(path)),
    ),
  )
  config.eval.judge.service.model = ''
  rows = judging.rows(config, str(tmp_path), BENCHMARK, LINES)
  (whole,) = [
    row for row in rows if (row['system'], row['domain']) == ('theirs', 'all')
  ]
  assert (whole['accuracy'], whole['n'], whole['n_failed']) == (0.5, 18, 9)
  assert whole['accuracy_valid'] == 1.0
  assert 'found none for 9' in capsys.readouterr().out


def test_a_service_that_sees_nothing_is_a_system(server, tmp_path):
  config = _config(server)
  config.eval.text_baseline.service.update(config.eval.judge.service)
  config.eval.judge.service.model = ''
  rows = judging.rows(config, str(tmp_path), BENCHMARK, LINES)
  whole = _accuracies(rows)
  assert whole['rule', MODEL] == pytest.approx(1 / 6)
  (shown,) = {row['input'] for row in rows if row['system'] == MODEL}
  assert shown == 'text'
  asked = [str(each.body['messages']) for each in server.asked]
  assert len(asked) == len({item.question for item in ITEMS})


def test_questions_about_motions_and_about_videos_are_guessed_apart(
  server, tmp_path
):
  """As in published tables, which have one for each."""
  config = _config(server)
  config.eval.text_baseline.service.update(config.eval.judge.service)
  config.eval.judge.service.model = ''
  halves = [
    dataclasses.replace(item, input=('motion', 'video')[item.position % 2])
    for item in ITEMS
  ]
  benchmark = dataclasses.replace(BENCHMARK, items=halves, baselines={})
  lines = run.as_predictions(halves, [item.reference for item in halves])
  rows = judging.rows(config, str(tmp_path), benchmark, lines)
  alone = {
    row['about']: (row['system'], row['input'], row['n'], row['accuracy'])
    for row in rows
    if row['domain'] == 'all' and 'about' in row
  }
  # It always says n1, which is a video's.
  assert alone == {
    'motion': (f'{MODEL}, motion questions', 'text', 9, 0.0),
    'video': (f'{MODEL}, video questions', 'text', 9, pytest.approx(1 / 3)),
  }


def test_published_items_have_the_most_media_once():
  chosen = benchmarks.by_likelihood(ITEMS, lambda item: item.choices)
  items = [
    *ITEMS,
    *benchmarks.variant(ITEMS, input='text'),
    *benchmarks.variant(ITEMS, corruption='L2'),
    *chosen,
  ]
  assert benchmarks.fullest(items) == ITEMS


def test_a_service_without_a_price_or_a_mode_is_refused(server, tmp_path):
  config = _config(server)
  config.eval.judge.mode = 'yes'
  with pytest.raises(ValueError, match='mode=dry_run or mode=ask'):
    judging.rows(config, str(tmp_path), BENCHMARK, LINES)
  config.eval.judge.service.input_usd = -1.0
  with pytest.raises(ValueError, match='input_usd'):
    judging.rows(config, str(tmp_path), BENCHMARK, LINES)


def test_what_a_system_lacks_is_right_under_no_rule(server, tmp_path):
  """Such as one that takes an empty text for right."""
  benchmark = dataclasses.replace(
    BENCHMARK,
    rules={'any': lambda item, text: judge.Verdict(item.id, True, 5.0)},
  )
  path = tmp_path / 'theirs.jsonl'
  path.write_text(json.dumps({'id': ITEMS[0].id, 'text': 'n9'}) + '\n')
  config = _config(server, systems=(('vimos-synth', 'theirs', str(path)),))
  config.eval.judge.service.model = ''
  rows = judging.rows(config, str(tmp_path), benchmark, LINES)
  assert _accuracies(rows)['any', 'theirs'] == pytest.approx(1 / 18)


def test_systems_of_one_name_are_refused(server, tmp_path):
  path = tmp_path / 'theirs.jsonl'
  path.write_text(json.dumps({'id': ITEMS[0].id, 'text': 'n9'}) + '\n')
  twice = (('vimos-synth', 'theirs', str(path)),) * 2
  config = _config(server, systems=twice)
  with pytest.raises(ValueError, match='found theirs 2 times'):
    judging.rows(config, str(tmp_path), BENCHMARK, LINES)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'systems': (('mvbench', 'they', 'x'),)}, r'asked \(vimos-synth\), found'),
    ({'systems': (('vimos-synth', 'model', 'x'),)}, 'which is ours'),
    ({'systems': ('vimos-synth', 'they', 'x')}, "each, found 'vimos-synth'"),
    ({'systems': (('vimos-synth', 'they'),)}, 'benchmark, name, file'),
    ({'judge.mode': 'yes'}, 'mode=dry_run or mode=ask'),
    ({'judge.prompt': 'short'}, 'default, paper'),
    ({'judge.service.input_usd': -1.0}, 'input_usd'),
    ({'judge.service.key_variable': 'NOBODY_SETS_THIS'}, 'NOBODY_SETS_THIS'),
    ({'text_baseline.service.model': 'm'}, 'input_usd'),
  ],
)
def test_what_would_stop_judging_stops_before_anything_is_asked(
  server, changes, message
):
  config = _config(server)
  judging.check(config, [BENCHMARK])
  config.eval.update_from_flattened_dict(changes)
  with pytest.raises(ValueError, match=message):
    judging.check(config, [BENCHMARK])


def test_a_file_of_predictions_is_looked_for_first(server):
  config = _config(server, systems=(('vimos-synth', 'they', 'nowhere.jsonl'),))
  with pytest.raises(OSError, match='nowhere'):
    judging.check(config, [BENCHMARK])


def test_a_negative_temperature_is_left_to_the_service(server):
  config = _config(server)
  config.eval.judge.service.temperature = -1.0
  assert judging._service(config.eval.judge.service).temperature is None
