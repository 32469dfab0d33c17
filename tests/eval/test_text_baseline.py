"""Questions go to a real server, on this machine."""

import dataclasses
import json

import chat_server
import pytest

from vimonet_jax import chat_api, chat_sender
from vimonet_jax.eval import benchmarks, run, scoring, text_baseline

pytest.importorskip('openai', reason="needs pip install -e '.[api]'")

Act = chat_server.Act

MODEL = 'clever-2026-11-01'
USD = chat_server.PROMPT_TOKENS * 1e-6 + chat_server.COMPLETION_TOKENS * 1e-5
ITEMS = [
  benchmarks.Item(
    id=f'i{n}',
    benchmark='b',
    split='test',
    input='text',
    corruption='none',
    domain='direction',
    kind='k',
    question=f'Where does person {n} go?',
    references=(f'To place {n}.',),
    position=n,
    media_position=n,
  )
  for n in range(6)
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  monkeypatch.setenv('VIMONET_TEST_KEY', 'sk-test')
  monkeypatch.setattr(chat_sender, '_BACKOFF_S', 0.02)


@pytest.fixture
def server():
  """Knows that person n goes to place n, and is slower for the first ones."""

  def act(asked):
    number = int(asked.text.split()[-2])
    text = f' To place {number}.\n'
    return Act(text=text, model=MODEL, wait_s=0.1 / (1 + number))

  with chat_server.Server(act) as server:
    yield server


def _client(server, tmp_path, **fields) -> chat_api.Client:
  service = chat_api.Service(
    **{
      'base_url': server.url,
      'model': 'clever',
      'input_usd': 1.0,
      'output_usd': 10.0,
      'budget_usd': 1.0,
      'key_variable': 'VIMONET_TEST_KEY',
      'max_tokens': 60,
      'requests_per_minute': 60_000,
      **fields,
    }
  )
  return chat_api.Client(service, str(tmp_path / 'replies'))


def _predict(server, tmp_path, items=ITEMS, **fields):
  return text_baseline.predict(
    _client(server, tmp_path, **fields),
    items,
    str(tmp_path / 'out' / 'text.jsonl'),
    progress=False,
  )


def _written(tmp_path) -> list[dict]:
  text = (tmp_path / 'out' / 'text.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_answers_are_predictions_that_can_be_scored(server, tmp_path):
  items = ITEMS[::-1]
  lines = _predict(server, tmp_path, items)
  assert [run.key(line) for line in lines] == [item.key for item in items]
  assert lines[0]['text'] == 'To place 5.'
  assert _written(tmp_path) == lines
  assert run.read_predictions(str(tmp_path / 'out' / 'text.jsonl')) == lines
  rows = scoring.score(items, lines, scoring.verdicts(items, lines))
  assert {row['accuracy'] for row in rows} == {1.0}
  assert {row['fingerprint'] for row in rows} == {MODEL}
  settings = run.Settings('f', 'c').columns()
  assert settings.keys() <= lines[0].keys()
  assert lines[0]['decoding']['max_new_tokens'] == 60


def test_earlier_turns_are_turns_and_nothing_is_shown(server, tmp_path):
  history = (('Who is it?', 'A man.'), ('And then?', 'He sits.'))
  item = dataclasses.replace(ITEMS[0], history=history)
  _predict(server, tmp_path, [item])
  (asked,) = server.asked
  messages = [(m['role'], m['content']) for m in asked.body['messages']]
  assert messages == [
    ('system', text_baseline.SYSTEM),
    ('user', 'Who is it?'),
    ('assistant', 'A man.'),
    ('user', 'And then?'),
    ('assistant', 'He sits.'),
    ('user', 'Where does person 0 go?'),
  ]
  assert 'response_format' not in asked.body


def test_a_question_that_two_items_ask_is_paid_once(server, tmp_path):
  twin = dataclasses.replace(ITEMS[0], id='twin')
  lines = _predict(server, tmp_path, [ITEMS[0], twin])
  assert [(line['id'], line['text']) for line in lines] == [
    ('i0', 'To place 0.'),
    ('twin', 'To place 0.'),
  ]
  assert len(server.asked) == 1


def test_items_that_show_something_are_refused(server, tmp_path):
  items = benchmarks.variant(ITEMS, input='motion')
  with pytest.raises(ValueError, match='input text, found motion for i0;'):
    _predict(server, tmp_path, items)
  assert not server.asked


def test_failures_are_lines_that_score_as_failed_and_are_asked_again(
  server, tmp_path, caplog
):
  usual = server.act
  odd = {
    '1': Act(status=500, error={'message': 'oh'}),
    '2': Act(message={'refusal': 'I cannot.', 'content': None}, model=MODEL),
    '3': Act(text='To place 3, and', finish='length', model=MODEL),
  }
  server.act = lambda asked: odd.get(asked.text.split()[-2]) or usual(asked)
  lines = _predict(server, tmp_path)
  assert [line['text'] for line in lines] == [
    'To place 0.', '', '', '', 'To place 4.', 'To place 5.'
  ]  # fmt: skip
  assert [line['status'] for line in lines] == [
    'ok', 'failed', 'refused', 'malformed', 'ok', 'ok'
  ]  # fmt: skip
  assert '500: oh' in lines[1]['problem']
  assert lines[2]['reply'] == 'I cannot.'
  assert lines[3]['reply'] == 'To place 3, and'
  assert '1 failed, 1 malformed, 1 refused without one' in caplog.text
  rows = scoring.score(ITEMS, lines, scoring.verdicts(ITEMS, lines))
  assert {row['n_failed'] for row in rows} == {3}
  server.act = usual
  asked = len(server.asked)
  again = _predict(server, tmp_path)
  assert [line['status'] for line in again][:4] == [
    'ok', 'ok', 'refused', 'malformed'
  ]  # fmt: skip
  assert len(server.asked) == asked + 1
  assert _written(tmp_path) == again


def test_a_second_run_asks_nothing(server, tmp_path, monkeypatch):
  lines = _predict(server, tmp_path)
  monkeypatch.delenv('VIMONET_TEST_KEY')
  assert _predict(server, tmp_path) == lines
  assert len(server.asked) == len(ITEMS)
  assert _written(tmp_path) == lines


def test_the_budget_stops_and_the_next_run_goes_on(server, tmp_path):
  client = _client(server, tmp_path)
  most = max(
    client.service.usd(*client.service.most_tokens(client.service.body(each)))
    for each in text_baseline.requests(ITEMS)
  )
  limits = {'budget_usd': most + 1.5 * USD, 'max_at_once': 1}
  with pytest.raises(chat_api.BudgetError, match='4 left undone'):
    _predict(server, tmp_path, **limits)
  assert not (tmp_path / 'out').exists(), 'half a file would score as failed'
  assert len(_predict(server, tmp_path)) == len(ITEMS)
  assert len(server.asked) == len(ITEMS)


def test_lines_of_others_stay_in_the_file(server, tmp_path):
  others = run.as_predictions(ITEMS, ['He.'] * len(ITEMS))
  others = [line | run.Settings('f', 'c').columns() for line in others]
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'text.jsonl').write_text(
    ''.join(f'{json.dumps(line)}\n' for line in others)
  )
  few = _predict(server, tmp_path, ITEMS[:2])
  other = _predict(server, tmp_path, ITEMS[:1], temperature=None)
  assert other[0]['config_hash'] != few[0]['config_hash']
  lines = _predict(server, tmp_path, ITEMS[1:])
  assert _written(tmp_path) == [*others, few[0], *other, *lines]


def test_a_damaged_file_is_named_before_anything_is_paid(server, tmp_path):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'text.jsonl').write_text('{"id"\n{}\n')
  with pytest.raises(ValueError, match='line 1'):
    _predict(server, tmp_path)
  assert not server.asked


def test_a_sentence_says_who_gets_what_for_how_much(server, tmp_path):
  client = _client(server, tmp_path)
  _predict(server, tmp_path, ITEMS[:1])
  notice = text_baseline.notice(client, ITEMS)
  usd = client.estimate(text_baseline.requests(ITEMS)).usd
  assert notice.startswith(f'{server.url}, a third party')
  assert 'gets questions in 5 requests, text only, no motion and' in notice
  assert f'by clever for about ${usd:.4f}; 1 more' in notice
  _predict(server, tmp_path)
  assert 'gets nothing' in text_baseline.notice(client, ITEMS)
