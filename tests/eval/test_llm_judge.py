"""The judge asks a real server, on this machine."""

import json
import random

import chat_server
import pytest

from vimonet_jax import chat_api, chat_sender
from vimonet_jax.eval import benchmarks, judge, llm_judge

pytest.importorskip('openai', reason="needs pip install -e '.[api]'")
pytest.importorskip('jsonschema', reason="needs pip install -e '.[api]'")

Act = chat_server.Act

MODEL = 'clever-2026-11-01'
YES, NO = '{"pred": "yes", "score": 4}', '{"pred": "no", "score": 1}'


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  monkeypatch.setenv('VIMONET_TEST_KEY', 'sk-test')
  monkeypatch.setattr(chat_sender, '_BACKOFF_S', 0.02)


@pytest.fixture
def server():
  with chat_server.Server(lambda asked: Act(text=YES, model=MODEL)) as server:
    yield server


def _service(server, **fields) -> chat_api.Service:
  return chat_api.Service(
    **{
      'base_url': server.url,
      'model': MODEL,
      'input_usd': 1.0,
      'output_usd': 10.0,
      'budget_usd': 1.0,
      'key_variable': 'VIMONET_TEST_KEY',
      'max_tokens': 20,
      'requests_per_minute': 60_000,
      **fields,
    }
  )


def _judge(server, tmp_path, mode='default', **fields) -> llm_judge.Judge:
  folder = str(tmp_path / 'replies')
  client = chat_api.Client(_service(server, **fields), folder)
  return llm_judge.Judge(client, mode)


def _items(count: int, **fields) -> list[benchmarks.Item]:
  return [
    benchmarks.Item(
      **{
        'id': f'i{n}',
        'benchmark': 'b',
        'split': 'test',
        'input': 'motion',
        'corruption': 'none',
        'domain': 'direction',
        'kind': 'k',
        'question': f'Where does person {n} go?',
        'references': (f'To place {n}.',),
        'position': n,
        'media_position': n,
        **fields,
      }
    )
    for n in range(count)
  ]


def _texts(items) -> list[str]:
  return [f'Number {item.position} leaves.' for item in items]


def _acts(*acts):
  """Does one after the other, and then the last one for ever."""
  return lambda asked: acts[min(asked.place, len(acts) - 1)]


def _one(server, tmp_path, *acts, mode='default', **fields) -> judge.Verdict:
  """The verdict on one item where the server acts like that."""
  server.act = _acts(*acts)
  items = _items(1)
  expert = _judge(server, tmp_path, mode, **fields)
  (verdict,) = expert.verdicts(items, _texts(items))
  return verdict


def _says(text: str, **fields) -> Act:
  return Act(text=text, model=MODEL, **fields)


# --- What is asked -----------------------------------------------------------


def test_the_judge_is_shown_three_texts_and_asked_for_json(server, tmp_path):
  items = _items(1)
  _judge(server, tmp_path).verdicts(items, ['To "the"\nleft. {x}'])
  (asked,) = server.asked
  system, user = asked.body['messages']
  assert (system['role'], user['role']) == ('system', 'user')
  lines = user['content'].splitlines()
  assert lines[:3] == [
    'Question: "Where does person 0 go?"',
    'Correct answer: "To place 0."',
    r'Predicted answer: "To \"the\"\nleft. {x}"',
  ]
  sent = asked.body['response_format']['json_schema']['schema']
  assert sent['properties']['pred']['enum'] == ['yes', 'no']
  assert sent['required'] == ['pred', 'score']


def test_the_published_form_has_two_messages_with_three_plain_lines(
  server, tmp_path
):
  items = _items(1)
  _judge(server, tmp_path, 'paper').verdicts(items, ['Über "links".'])
  (asked,) = server.asked
  system, user = (m['content'] for m in asked.body['messages'])
  lines = user.splitlines()
  start = lines.index('Question: Where does person 0 go?')
  assert lines[start + 1 : start + 3] == [
    'Correct Answer: To place 0.',
    'Predicted Answer: Über "links".',
  ]
  assert "{'pred': 'yes', 'score': 4.8}" in user
  assert 'video-based' in user
  assert 'synonyms' in system
  assert 'response_format' not in asked.body


def test_a_service_without_schemas_is_told_in_words(server, tmp_path):
  verdict = _one(
    server, tmp_path, _says("{'pred': 'no', 'score': 2}"), takes_schemas=False
  )
  assert (verdict.correct, verdict.score) == (False, 2.0)
  assert 'response_format' not in server.asked[0].body
  assert '{"pred": "yes", "score": 4}' in server.asked[0].text


def test_an_unknown_mode_names_the_known_ones(server, tmp_path):
  with pytest.raises(ValueError, match="default, paper, found 'strict'"):
    _judge(server, tmp_path, 'strict')


# --- Verdicts ----------------------------------------------------------------


def test_a_verdict_says_who_judged_and_keeps_the_reply(server, tmp_path):
  verdict = _one(server, tmp_path, _says(YES))
  assert verdict == judge.Verdict('i0', True, 4.0, 'ok', MODEL, YES)
  assert verdict.judge == _judge(server, tmp_path).name


def test_names_tell_judges_apart(server, tmp_path):
  names = {
    _judge(server, tmp_path, mode, model=model).name
    for mode in ('default', 'paper')
    for model in (MODEL, 'other')
  }
  assert names == {MODEL, f'{MODEL} (paper)', 'other', 'other (paper)'}
  with pytest.raises(ValueError, match='which is the rule judge'):
    _judge(server, tmp_path, model=judge.JUDGE)


def test_a_model_that_was_not_asked_for_is_named(server, tmp_path, caplog):
  verdict = _one(server, tmp_path, _says(YES), mode='paper', model='clever')
  assert verdict.judge == f'{MODEL} (paper)'
  assert f'Expected clever to judge, found {MODEL} (1 times)' in caplog.text
  caplog.clear()
  _one(server, tmp_path, _says(YES))
  assert 'to judge' not in caplog.text


@pytest.mark.parametrize(
  ('reply', 'correct', 'score'),
  [
    ("{'pred': 'yes', 'score': 4.8}", True, 4.8),
    ('```json\n{"pred": "no", "score": 0}\n```', False, 0.0),
    ("{'pred': 'No', 'score': 2}", False, 2.0),
  ],
)
def test_valid_replies_are_taken_as_they_stand(
  server, tmp_path, reply, correct, score
):
  verdict = _one(server, tmp_path, _says(reply))
  assert (verdict.correct, verdict.score) == (correct, score)
  assert (verdict.status, verdict.reply) == ('ok', reply)
  assert len(server.asked) == 1


@pytest.mark.parametrize(
  'reply',
  [
    'They mean the same: yes, 4.',
    '{"pred": "maybe", "score": 3}',
    '{"pred": "yes", "score": 7}',
    '{"pred": "yes"}',
  ],
)
def test_nonsense_is_asked_three_times_and_is_no_verdict(
  server, tmp_path, caplog, reply
):
  verdict = _one(server, tmp_path, _says(reply))
  assert verdict == judge.Verdict('i0', None, None, 'malformed', MODEL, reply)
  assert len(server.asked) == 3
  assert 'Expected 1 verdicts, found 1 malformed' in caplog.text


def test_a_valid_reply_after_nonsense_is_the_verdict(server, tmp_path):
  acts = _says('yes'), _says('{"pred": "maybe", "score": 4}'), _says(NO)
  verdict = _one(server, tmp_path, *acts)
  assert (verdict.status, verdict.correct, verdict.score) == ('ok', False, 1.0)


@pytest.mark.parametrize('mode', ['default', 'paper'])
def test_a_refusal_is_no_verdict_and_not_asked_again(server, tmp_path, mode):
  refusal = Act(message={'refusal': 'I cannot.', 'content': None}, model=MODEL)
  verdict = _one(server, tmp_path, refusal, mode=mode)
  assert (verdict.status, verdict.reply) == ('refused', 'I cannot.')
  assert (verdict.correct, verdict.score) == (None, None)
  assert len(server.asked) == 1


@pytest.mark.parametrize(
  'act',
  [
    Act(status=429, error={'message': 'slow down'}),
    Act(status=500, error={'message': 'oh'}),
    Act(raw='<html>We are back soon</html>'),
  ],
  ids=['429', '500', 'html'],
)
def test_what_may_pass_is_tried_again(server, tmp_path, act):
  assert _one(server, tmp_path, act, act, _says(YES)).correct
  assert len(server.asked) == 3


def test_a_service_that_stays_away_is_a_failure_for_this_run_only(
  server, tmp_path, caplog
):
  verdict = _one(server, tmp_path, Act(status=500, error={'message': 'oh'}))
  assert verdict == judge.Verdict('i0', None, None, 'failed', MODEL, '')
  assert 'found 1 failed without one' in caplog.text
  assert '500: oh' in caplog.text
  assert 'to judge' not in caplog.text
  assert _one(server, tmp_path, _says(YES)).status == 'ok'


def test_an_empty_prediction_fails_without_being_asked(server, tmp_path):
  items = _items(3)
  verdicts = _judge(server, tmp_path).verdicts(items, ['', 'Left.', ' \n'])
  assert [v.status for v in verdicts] == ['failed', 'ok', 'failed']
  assert {v.judge for v in verdicts} == {MODEL}
  assert len(server.asked) == 1


def test_verdicts_may_come_in_a_batch(server, tmp_path):
  items = _items(2)
  texts = _texts(items)
  expert = _judge(server, tmp_path)
  folder = str(tmp_path / 'replies')
  client = chat_api.Client(_service(server), folder)
  client.write_batch(expert.requests(items, texts), str(tmp_path / 'in'))
  rows = [json.loads(line) for line in (tmp_path / 'in').open()]
  lines = [
    {
      'custom_id': row['custom_id'],
      'response': {
        'status_code': 200,
        'body': chat_server.completion('x', row['body'], _says(reply)),
      },
    }
    for row, reply in zip(rows, (NO, YES), strict=True)
  ]
  text = ''.join(f'{json.dumps(line)}\n' for line in lines[::-1])
  (tmp_path / 'out').write_text(text)
  assert client.read_batch(str(tmp_path / 'out')).added == 2
  assert [v.correct for v in expert.verdicts(items, texts)] == [False, True]
  assert not server.asked


# --- As the paper has it -----------------------------------------------------


@pytest.mark.parametrize(
  ('reply', 'correct', 'score', 'status'),
  [
    ("{'pred': 'yes', 'score': 4.8}", True, 4.0, 'ok'),
    ("{'pred': 'Yes, it does', 'score': 5}", True, 5.0, 'ok'),
    ("{'pred': 'maybe', 'score': 3}", None, None, 'malformed'),
    ("{'pred': 'yes', 'score': 7}", None, None, 'malformed'),
    ("{'pred': 'yes'}", None, None, 'malformed'),
  ],
)
def test_any_dictionary_is_the_last_word_and_scores_are_cut(
  server, tmp_path, reply, correct, score, status
):
  verdict = _one(server, tmp_path, _says(reply), mode='paper')
  assert (verdict.correct, verdict.score, verdict.status) == (
    correct,
    score,
    status,
  )
  assert verdict.reply == reply
  assert verdict.judge == f'{MODEL} (paper)'
  assert len(server.asked) == 1


def test_what_is_no_dictionary_is_not_asked_for_ever(server, tmp_path):
  verdict = _one(server, tmp_path, _says('yes, 4'), mode='paper')
  assert verdict.status == 'malformed'
  assert len(server.asked) == 3


# --- Many items --------------------------------------------------------------


def _by_number(asked) -> Act:
  """Knows which person is asked about, and is slower for the first ones."""
  number = int(asked.text.split('person ')[1].split(' ')[0])
  reply = YES if number % 3 else NO
  return _says(reply, wait_s=0.2 / (1 + number))


def test_verdicts_follow_the_items_in_any_order(server, tmp_path):
  server.act = _by_number
  items = _items(12)
  random.Random(0).shuffle(items)
  verdicts = _judge(server, tmp_path).verdicts(items, _texts(items))
  assert [v.id for v in verdicts] == [item.id for item in items]
  right = [item.position % 3 != 0 for item in items]
  assert [v.correct for v in verdicts] == right
  ordered = _items(12)
  again = _judge(server, tmp_path).verdicts(ordered, _texts(ordered))
  assert sorted(verdicts, key=lambda v: int(v.id[1:])) == again
  assert len(server.asked) == 12


def test_variants_of_an_item_have_verdicts_of_their_own(server, tmp_path):
  server.act = lambda asked: _says(YES if 'Left' in asked.text else NO)
  (item,) = _items(1)
  items = [item, *benchmarks.variant([item], input='text')]
  verdicts = _judge(server, tmp_path).verdicts(items, ['Left.', 'Right.'])
  assert [v.correct for v in verdicts] == [True, False]


def test_a_second_run_asks_nothing(server, tmp_path, monkeypatch):
  items = _items(5)
  first = _judge(server, tmp_path).verdicts(items, _texts(items))
  monkeypatch.delenv('VIMONET_TEST_KEY')
  assert _judge(server, tmp_path).verdicts(items, _texts(items)) == first
  assert len(server.asked) == 5


def test_two_modes_share_a_folder_and_no_verdict(server, tmp_path):
  items = _items(2)
  for mode in ('default', 'paper'):
    _judge(server, tmp_path, mode).verdicts(items, _texts(items))
  assert len(server.asked) == 4


def test_the_budget_stops_and_what_was_paid_is_kept(server, tmp_path):
  items = _items(10)
  texts = _texts(items)
  expert = _judge(server, tmp_path)
  service = _service(server)
  most = max(
    service.usd(*service.most_tokens(service.body(request)))
    for request in expert.requests(items, texts)
  )
  each = service.usd(chat_server.PROMPT_TOKENS, chat_server.COMPLETION_TOKENS)
  limits = {'budget_usd': most + 2.5 * each, 'max_at_once': 1}
  with pytest.raises(chat_api.BudgetError, match='7 left undone'):
    _judge(server, tmp_path, **limits).verdicts(items, texts)
  assert len(server.asked) == 3
  assert expert.estimate(items, texts).cached == 3
  assert {v.status for v in expert.verdicts(items, texts)} == {'ok'}
  assert len(server.asked) == 10


def test_texts_and_items_must_fit(server, tmp_path):
  items = _items(2)
  expert = _judge(server, tmp_path)
  with pytest.raises(ValueError, match='found 1 for 2 items'):
    expert.verdicts(items, ['Left.'])
  with pytest.raises(ValueError, match='each item once'):
    expert.verdicts([items[0], items[0]], ['Left.', 'Right.'])
  assert not server.asked


# --- Before anything is sent -------------------------------------------------


def test_a_dry_run_sends_nothing_and_needs_no_key(
  server, tmp_path, monkeypatch
):
  monkeypatch.delenv('VIMONET_TEST_KEY')
  items = _items(3)
  texts = ['Left.', '', 'Right.']
  expert = _judge(server, tmp_path)
  estimate = expert.estimate(items, texts)
  assert (estimate.requests, estimate.cached) == (2, 0)
  first, second = expert.preview(items, texts)
  assert 'Left.' in first['body']['messages'][-1]['content']
  assert not server.asked
  monkeypatch.setenv('VIMONET_TEST_KEY', 'sk-test')
  expert.verdicts(items[:1], texts[:1])
  assert server.asked[0].body == first['body']


def test_a_sentence_says_who_gets_what_for_how_much(server, tmp_path):
  items = _items(3)
  texts = _texts(items)
  expert = _judge(server, tmp_path, 'paper')
  expert.verdicts(items[:1], texts[:1])
  notice = expert.notice(items, texts)
  assert notice.startswith(f'{server.url}, a third party')
  assert '2 requests' in notice
  assert 'no motion and no video' in notice
  usd = expert.estimate(items, texts).usd
  assert f'by {MODEL} (paper) for about ${usd:.4f}' in notice
  assert notice.endswith('1 more were judged before.')
  expert.verdicts(items, texts)
  notice = expert.notice(items, texts)
  assert 'gets nothing' in notice
  assert f'all 3 were judged by {MODEL} (paper) before' in notice
