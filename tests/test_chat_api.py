"""Everything is asked of a real server, on this machine."""

import collections
import email.utils
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback

import chat_server
import pytest

from vimonet_jax import chat_api, chat_sender

pytest.importorskip('openai', reason="needs pip install -e '.[api]'")
pytest.importorskip('jsonschema', reason="needs pip install -e '.[api]'")

Act = chat_server.Act

KEY = 'sk-test-0123456789abcdef'
SCHEMA = {
  'type': 'object',
  'properties': {'score': {'type': 'integer', 'minimum': 0, 'maximum': 5}},
  'required': ['score'],
  'additionalProperties': False,
}
# Of one reply of the server, at the prices of `_service`.
USD = chat_server.PROMPT_TOKENS * 1e-6 + chat_server.COMPLETION_TOKENS * 1e-5


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  monkeypatch.setenv('VIMONET_TEST_KEY', KEY)
  monkeypatch.setattr(chat_sender, '_BACKOFF_S', 0.02)


@pytest.fixture
def server():
  with chat_server.Server() as server:
    yield server


def _service(server, **fields) -> chat_api.Service:
  return chat_api.Service(
    **{
      'base_url': server.url,
      'model': 'clever',
      'input_usd': 1.0,
      'output_usd': 10.0,
      'budget_usd': 1.0,
      'key_variable': 'VIMONET_TEST_KEY',
      'max_tokens': 20,
      'max_at_once': 4,
      'requests_per_minute': 60_000,
      'timeout_s': 10.0,
      **fields,
    }
  )


def _client(server, tmp_path, **fields) -> chat_api.Client:
  return chat_api.Client(_service(server, **fields), str(tmp_path / 'replies'))


def _request(name, text=None, **fields) -> chat_api.Request:
  message = {'role': 'user', 'content': text or f'What is {name}?'}
  return chat_api.Request(str(name), [message], **fields)


def _requests(count: int) -> list[chat_api.Request]:
  return [_request(number) for number in range(count)]


def _acts(*acts):
  """Does one after the other, and then the last one for ever."""
  return lambda asked: acts[min(asked.place, len(acts) - 1)]


def _is_one_sentence(text: str) -> bool:
  return (
    text.startswith('Expected ')
    and ', found ' in text
    and text.endswith('.')
    and '\n' not in text
  )


# --- Replies -----------------------------------------------------------------


def test_replies_come_as_they_are_ready_and_know_their_request(
  server, tmp_path
):
  server.act = lambda asked: Act(wait_s=0.3 * ('0' in asked.text))
  replies = list(_client(server, tmp_path).ask(_requests(6)))
  assert replies[-1].id == '0'
  assert {r.id: r.text for r in replies} == {
    str(number): f'What is {number}?' for number in range(6)
  }
  for reply in replies:
    assert reply.status == 'ok'
    assert reply.model == 'clever-2026-11-01'
    assert (reply.input_tokens, reply.output_tokens) == (100, 10)
    assert reply.usd == pytest.approx(USD)
    assert not reply.is_cached


def test_requests_are_taken_as_they_are_needed(server, tmp_path):
  made = []

  def make():
    for number in range(20):
      made.append(number)
      yield _request(number)

  replies = _client(server, tmp_path, max_at_once=2).ask(make(), progress=True)
  next(replies)
  assert len(made) < 5
  assert len(list(replies)) == 19


def test_who_stops_iterating_keeps_what_was_under_way(server, tmp_path):
  server.act = lambda asked: Act(wait_s=0.1 * asked.place)
  replies = _client(server, tmp_path).ask(_requests(20))
  next(replies)
  replies.close()
  asked = len(server.asked)
  assert asked < 10
  again = list(_client(server, tmp_path).ask(_requests(asked)))
  assert all(reply.is_cached for reply in again)
  assert len(server.asked) == asked


def test_two_requests_of_one_id_are_refused(server, tmp_path):
  with pytest.raises(ValueError, match='id of its own') as error:
    list(_client(server, tmp_path).ask([_request('a', 'x'), _request('a')]))
  assert _is_one_sentence(str(error.value))


# --- Cache -------------------------------------------------------------------


def test_what_was_answered_is_not_asked_and_needs_no_key(
  server, tmp_path, monkeypatch
):
  first = list(_client(server, tmp_path).ask(_requests(3)))
  monkeypatch.delenv('VIMONET_TEST_KEY')
  limits = {'max_at_once': 1, 'tries': 1, 'budget_usd': 0.1, 'input_usd': 9.0}
  client = _client(server, tmp_path, **limits)
  second = list(client.ask(_requests(3)))
  assert len(server.asked) == 3
  assert all(reply.is_cached for reply in second)
  assert {r.id: (r.text, r.usd) for r in first} == {
    r.id: (r.text, r.usd) for r in second
  }


def test_the_same_question_twice_in_one_run_is_paid_once(server, tmp_path):
  server.act = lambda asked: Act(wait_s=0.1)
  requests = [_request(number, f'{number % 2}?') for number in range(12)]
  replies = list(_client(server, tmp_path).ask(requests))
  assert {r.id: r.text for r in replies} == {
    str(number): f'{number % 2}?' for number in range(12)
  }
  assert len(server.asked) == 2
  assert sum(not reply.is_cached for reply in replies) == 2


def test_a_key_stands_for_all_that_decides_the_reply(server):
  service = _service(server)
  key = service.key(_request('a', 'x'))
  assert key == service.key(_request('b', 'x'))
  assert key == service.key(_request('a', 'x', parse=_even))
  for field in (
    {'model': 'other'},
    {'base_url': 'https://example.org/v1'},
    {'temperature': 0.5},
    {'temperature': None},
    {'max_tokens': 21},
  ):
    assert _service(server, **field).key(_request('a', 'x')) != key, field
  assert service.key(_request('a', 'y')) != key
  assert service.key(_request('a', 'x', schema=SCHEMA)) != key
  for field in (
    {'key_variable': 'OTHER'},
    {'tries': 9},
    {'max_at_once': 9},
    {'requests_per_minute': 9.0},
    {'budget_usd': 9.0},
    {'input_usd': 9.0},
    {'timeout_s': 9.0},
    {'temperature': 0},
    {'base_url': f'{server.url}/'},
  ):
    assert _service(server, **field).key(_request('a', 'x')) == key, field


def test_what_models_call_their_settings_can_be_told(server):
  fields = {'temperature': None, 'max_tokens_field': 'max_completion_tokens'}
  body = _service(server, **fields).body(_request('a', 'x'))
  assert body == {
    'model': 'clever',
    'messages': [{'role': 'user', 'content': 'x'}],
    'max_completion_tokens': 20,
  }


def test_the_hash_is_sent_as_idempotency_key(server, tmp_path):
  client = _client(server, tmp_path)
  list(client.ask([_request('a')]))
  assert server.asked[0].key == client.service.key(_request('a'))


def test_a_damaged_cache_file_is_named_and_asked_again(
  server, tmp_path, caplog
):
  client = _client(server, tmp_path)
  list(client.ask(_requests(2)))
  path = client.cache.path(client.service.key(_request(1)))
  pathlib.Path(path).write_text('{"request"')
  replies = list(client.ask(_requests(2)))
  assert path in caplog.text
  assert [r.status for r in replies] == ['ok', 'ok']
  assert len(server.asked) == 3


def test_a_cache_file_can_be_read(server, tmp_path):
  client = _client(server, tmp_path)
  list(client.ask([_request('a', 'Où ?')]))
  path = client.cache.path(client.service.key(_request('a', 'Où ?')))
  text = pathlib.Path(path).read_text(encoding='utf-8')
  assert 'Où ?' in text
  assert json.loads(text)['request'] == server.asked[0].body


# --- The key -----------------------------------------------------------------


def test_the_key_is_sent_and_nowhere_else(server, tmp_path, caplog):
  caplog.set_level('DEBUG')
  server.act = lambda asked: (
    Act() if asked.text == 'x' else Act(
      status=401,
      error={'message': f'no such key:\n {asked.headers["authorization"]}'},
    )
  )  # fmt: skip
  client = _client(server, tmp_path)
  list(client.ask([_request('a', 'x')]))
  with pytest.raises(chat_api.ServiceError) as error:
    list(client.ask([_request('b')]))
  assert server.asked[0].headers['authorization'] == f'Bearer {KEY}'
  told = [*traceback.format_exception(error.value), caplog.text, repr(client)]
  for folder, _, names in os.walk(tmp_path):
    told += [pathlib.Path(folder, name).read_text() for name in names]
  assert not any(KEY in text for text in told)
  assert _is_one_sentence(str(error.value))
  assert error.value.__context__ is None


@pytest.mark.parametrize('value', [None, '', ' \n', 'sk-\u00e9'])
def test_a_key_that_is_not_there_is_asked_for(
  server, tmp_path, monkeypatch, value
):
  monkeypatch.delenv('VIMONET_TEST_KEY')
  if value is not None:
    monkeypatch.setenv('VIMONET_TEST_KEY', value)
  with pytest.raises(ValueError, match='VIMONET_TEST_KEY') as error:
    list(_client(server, tmp_path).ask(_requests(1)))
  assert _is_one_sentence(str(error.value))
  assert not server.asked


@pytest.mark.parametrize('package', ['openai', 'jsonschema'])
def test_a_missing_package_is_named_with_its_extra(
  server, tmp_path, monkeypatch, package
):
  monkeypatch.setitem(sys.modules, package, None)
  chat_api.chat_messages._validator.cache_clear()
  server.act = lambda asked: Act(text='{"score": 1}')
  request = _request('a', schema=SCHEMA)
  with pytest.raises(ImportError, match=rf'{package}.*\[api\]') as error:
    list(_client(server, tmp_path).ask([request]))
  assert _is_one_sentence(str(error.value))
  assert not server.asked


# --- Failures ----------------------------------------------------------------


@pytest.mark.parametrize(
  'act',
  [
    Act(status=429, error={'message': 'slow down'}),
    Act(status=500, error={'message': 'oh'}),
    Act(status=503),
    Act(is_cut=True),
    Act(raw='<html>We are back soon</html>'),
    Act(raw='{"choices": []}'),
    Act(raw='{"error": {"message": "upstream"}}'),
    Act(wait_s=1.0),
  ],
  ids=['429', '500', '503', 'cut', 'html', 'empty', 'error', 'slow'],
)
def test_what_may_pass_is_tried_again_and_paid_once(server, tmp_path, act):
  server.act = _acts(act, act, Act())
  client = _client(server, tmp_path, timeout_s=0.5)
  (reply,) = client.ask([_request('a')])
  assert (reply.status, reply.text) == ('ok', 'What is a?')
  assert len(server.asked) == 3
  assert len({asked.key for asked in server.asked}) == 1
  assert sum(server.paid.values()) == 1
  # What the server may have charged for counts; what it refused does not.
  is_free = act.status != 200
  assert (client.spent_usd == pytest.approx(USD)) == is_free
  assert client.spent_usd >= USD * 0.999


def test_tries_are_limited_and_a_failure_is_not_kept(server, tmp_path):
  server.act = lambda asked: Act(
    status=500 if '1' in asked.text else 200, error={'message': 'no luck'}
  )
  client = _client(server, tmp_path, tries=4)
  replies = {reply.id: reply for reply in client.ask(_requests(3))}
  assert [replies[name].status for name in '012'] == ['ok', 'failed', 'ok']
  assert 'no luck' in replies['1'].problem
  assert len(server.asked) == 2 + 4
  server.act = lambda asked: Act()
  assert {r.status for r in client.ask(_requests(3))} == {'ok'}
  assert len(server.asked) == 2 + 4 + 1


def test_a_service_that_is_not_there_costs_nothing(tmp_path):
  with chat_server.Server() as server:
    pass
  client = _client(server, tmp_path)
  (reply,) = client.ask([_request('a')])
  assert reply.status == 'failed'
  assert client.spent_usd == 0


def test_waits_double_and_differ(server, tmp_path, monkeypatch):
  monkeypatch.setattr(chat_sender, '_BACKOFF_S', 0.1)
  server.act = lambda asked: Act(status=500)
  list(_client(server, tmp_path, tries=4, max_at_once=6).ask(_requests(6)))
  waits = collections.defaultdict(list)
  for asked in server.asked:
    waits[asked.key].append(asked.time_s)
  waits = [
    [after - before for before, after in zip(times, times[1:], strict=False)]
    for times in waits.values()
  ]
  for three in waits:
    for wait_s, most_s in zip(three, (0.1, 0.2, 0.4), strict=True):
      assert most_s / 2 <= wait_s < most_s + 1.0
  assert min(three[2] for three in waits) < 0.38


@pytest.mark.parametrize('is_date', [False, True])
def test_retry_after_is_waited_for(server, tmp_path, is_date):
  # A date has whole seconds, so it says a time between 1 and 2 s from now.
  def act(asked):
    if asked.place:
      return Act()
    date = email.utils.formatdate(time.time() + 2, usegmt=True)
    return Act(status=429, headers={'Retry-After': date if is_date else '0.6'})

  server.act = act
  client = _client(server, tmp_path, max_at_once=1)
  assert {r.status for r in client.ask(_requests(3))} == {'ok'}
  first, *others = [asked.time_s for asked in server.asked]
  assert min(others) - first >= (0.9 if is_date else 0.6)


def test_a_date_to_come_back_is_by_the_clock_of_the_service():
  def date(after_s):
    return email.utils.formatdate(time.time() + after_s, usegmt=True)

  # Its clock is an hour slow, a day fast, or not told.
  for late_s in (-3600, 86400):
    headers = {'retry-after': date(late_s + 9), 'date': date(late_s)}
    assert 8 <= chat_sender._retry_after_s(headers) <= 10
  for headers in ({}, {'date': 'now'}):
    headers = {'retry-after': date(9), **headers}
    assert 7 <= chat_sender._retry_after_s(headers) <= 9
  for told in ('', 'soon', '-5', 'nan', date(-9)):
    assert chat_sender._retry_after_s({'retry-after': told}) == 0


def test_others_rest_as_well_after_retry_after(server, tmp_path):
  server.act = _acts(Act(status=429, headers={'Retry-After': '0.8'}), Act())
  client = _client(server, tmp_path, max_at_once=2, requests_per_minute=600)
  assert len(list(client.ask(_requests(6)))) == 6
  times = [asked.time_s - server.asked[0].time_s for asked in server.asked]
  # Some more may have been sent before the refusal was read.
  assert sum(time_s < 0.8 for time_s in times) <= 3
  assert len(times) == 7


@pytest.mark.parametrize(
  ('act', 'todo'),
  [
    (Act(status=401, error={'message': 'no'}), 'VIMONET_TEST_KEY'),
    (Act(status=403, error={'message': 'no'}), 'VIMONET_TEST_KEY'),
    (Act(status=404, error={'message': 'no'}), 'base_url or model'),
    (Act(status=400, error={'message': 'no'}), "request '0'"),
    (Act(status=422, error={'message': 'no'}), "request '0'"),
    (
      Act(status=429, error={'message': 'no', 'code': 'insufficient_quota'}),
      'account',
    ),
    (Act(status=429, headers={'Retry-After': '86400'}), '86400 seconds'),
  ],
)
def test_what_cannot_pass_stops_at_once_with_a_sentence(
  server, tmp_path, act, todo
):
  server.act = lambda asked: act
  client = _client(server, tmp_path, max_at_once=1)
  with pytest.raises(chat_api.ServiceError, match=todo) as error:
    list(client.ask(_requests(5)))
  assert _is_one_sentence(str(error.value))
  assert f'found {act.status}: ' in str(error.value)
  assert len(server.asked) == 1
  assert client.spent_usd == 0


@pytest.mark.parametrize(
  'usage',
  [
    None,
    [],
    'much',
    {'total_tokens': 9},
    {'prompt_tokens': '7', 'completion_tokens': 1},
    {'prompt_tokens': -7, 'completion_tokens': 1},
  ],
)
def test_a_count_that_says_nothing_counts_the_most(server, tmp_path, usage):
  body = _service(server).body(_request('a'))
  plain = chat_server.completion('a', body, Act())
  # As some services send it beside an answer.
  raw = json.dumps({**plain, 'usage': usage, 'error': None, 'model': None})
  server.act = lambda asked: Act(raw=raw)
  client = _client(server, tmp_path)
  most = client.service.most_tokens(body)
  for _ in range(2):  # From the service, and from what was kept.
    (reply,) = client.ask([_request('a')])
    assert (reply.status, reply.text, reply.model) == ('ok', 'What is a?', '')
    assert (reply.input_tokens, reply.output_tokens) == most
  assert len(server.asked) == 1
  assert client.spent_usd == pytest.approx(client.service.usd(*most))


@pytest.mark.parametrize('schema', [None, {'type': 'object'}])
def test_half_a_surrogate_pair_is_written_as_a_question_mark(
  server, tmp_path, schema
):
  text = '{"said": "ha \ud83d"}' if schema is None else r'{"said": "ha \ud83d"}'
  server.act = lambda asked: Act(text=text)
  for _ in range(2):
    (reply,) = _client(server, tmp_path).ask([_request('a', schema=schema)])
    assert reply.status == 'ok'
    if schema is None:
      assert reply.text == '{"said": "ha ?"}'
    else:
      assert reply.parsed == {'said': 'ha ?'}
  assert len(server.asked) == 1


# --- Structured output -------------------------------------------------------


def test_an_answer_is_parsed_by_its_schema(server, tmp_path):
  server.act = lambda asked: Act(text='{"score": 4}')
  (reply,) = _client(server, tmp_path).ask([_request('a', schema=SCHEMA)])
  assert (reply.status, reply.parsed) == ('ok', {'score': 4})
  assert reply.text == '{"score": 4}'
  sent = server.asked[0].body['response_format']
  assert sent['type'] == 'json_schema'
  assert sent['json_schema']['schema'] == SCHEMA


@pytest.mark.parametrize(
  ('text', 'parsed'),
  [
    ('```json\n{"score": 4}\n```', {'score': 4}),
    (' {"score": 4}\n', {'score': 4}),
    ('{"score": 6}', None),
    ('{"score": NaN}', None),
    ('{"score": 4, "why": ""}', None),
    ('{"score": 4', None),
    ('[]', None),
    ('[' * 100_000, None),
    ('four', None),
    ('', None),
  ],
)
def test_only_what_the_schema_allows_is_an_answer(
  server, tmp_path, text, parsed
):
  server.act = lambda asked: Act(text=text)
  client = _client(server, tmp_path, tries=1)
  (reply,) = client.ask([_request('a', schema=SCHEMA)])
  assert reply.parsed == parsed
  assert reply.status == ('ok' if parsed else 'malformed')
  assert reply.text == text
  assert bool(reply.problem) == (not parsed)


def test_what_is_not_valid_is_asked_again(server, tmp_path):
  server.act = _acts(Act(text='4'), Act(text='five'), Act(text='{"score": 4}'))
  client = _client(server, tmp_path)
  (reply,) = client.ask([_request('a', schema=SCHEMA)])
  assert (reply.status, reply.parsed) == ('ok', {'score': 4})
  assert reply.rejected == ('4', 'five')
  assert reply.usd == pytest.approx(3 * USD)
  assert reply.input_tokens == 300
  # The server would repeat what it has said to the same key.
  assert len({asked.key for asked in server.asked}) == 3
  (again,) = client.ask([_request('a', schema=SCHEMA)])
  assert again.is_cached
  assert again.rejected == reply.rejected


def test_malformed_replies_are_kept_until_more_tries_are_allowed(
  server, tmp_path
):
  server.act = _acts(*[Act(text=word) for word in 'abcd'])
  request = _request('a', schema=SCHEMA)
  for _ in range(2):
    (reply,) = _client(server, tmp_path, tries=3).ask([request])
    assert (reply.status, reply.parsed) == ('malformed', None)
    assert (*reply.rejected, reply.text) == ('a', 'b', 'c')
    assert len(server.asked) == 3
  (reply,) = _client(server, tmp_path, tries=4).ask([request])
  assert (*reply.rejected, reply.text) == ('a', 'b', 'c', 'd')
  assert len(server.asked) == 4


def test_a_number_is_a_number(server, tmp_path):
  server.act = lambda asked: Act(text='NaN')
  request = _request('a', schema={'type': 'number'})
  (reply,) = _client(server, tmp_path, tries=1).ask([request])
  assert reply.status == 'malformed'


def _even(text: str) -> int:
  if int(text) % 2:
    raise ValueError(f'{text} is odd')
  return int(text)


def test_the_caller_may_read_answers(server, tmp_path):
  server.act = _acts(Act(text='three'), Act(text='3'), Act(text='4'))
  request = _request('a', schema=SCHEMA, parse=_even)
  for is_cached in (False, True):
    (reply,) = _client(server, tmp_path).ask([request])
    assert (reply.status, reply.parsed) == ('ok', 4)
    assert reply.rejected == ('three', '3')
    assert reply.is_cached == is_cached
  assert len(server.asked) == 3
  assert server.asked[0].body['response_format']['type'] == 'json_schema'


def test_what_the_caller_cannot_read_is_malformed_and_says_why(
  server, tmp_path
):
  server.act = lambda asked: Act(text='5')
  (reply,) = _client(server, tmp_path).ask([_request('a', parse=_even)])
  assert (reply.status, reply.parsed) == ('malformed', None)
  assert reply.problem == '5 is odd'
  assert len(server.asked) == 3


def test_a_service_that_takes_no_schema_is_held_to_it(server, tmp_path):
  server.act = _acts(Act(text='{"score": 6}'), Act(text='{"score": 4}'))
  client = _client(server, tmp_path, takes_schemas=False)
  (reply,) = client.ask([_request('a', schema=SCHEMA)])
  assert (reply.status, reply.parsed) == ('ok', {'score': 4})
  assert 'response_format' not in server.asked[0].body


@pytest.mark.parametrize('act', [Act(text=''), Act(message={'content': None})])
def test_an_answer_without_a_word_is_malformed(server, tmp_path, act):
  server.act = lambda asked: act
  (reply,) = _client(server, tmp_path, tries=1).ask([_request('a')])
  assert (reply.status, reply.text) == ('malformed', '')


def test_an_answer_that_was_cut_short_is_malformed(server, tmp_path):
  server.act = lambda asked: Act(text='She walks and', finish='length')
  (reply,) = _client(server, tmp_path).ask([_request('a')])
  assert (reply.status, reply.text) == ('malformed', 'She walks and')
  assert 'max_tokens' in reply.problem


@pytest.mark.parametrize(
  'act',
  [
    Act(text='', message={'refusal': 'I cannot.', 'content': None}),
    Act(text='I cannot.', finish='content_filter'),
    Act(status=400, error={'message': 'I cannot.', 'code': 'content_filter'}),
  ],
)
def test_a_refusal_is_kept_and_not_asked_again(server, tmp_path, act):
  server.act = lambda asked: act
  request = _request('a', schema=SCHEMA)
  for _ in range(2):
    (reply,) = _client(server, tmp_path).ask([request])
    assert (reply.status, reply.parsed) == ('refused', None)
    assert 'I cannot.' in reply.text
  assert len(server.asked) == 1


def test_a_wrong_schema_is_named_before_anything_is_sent(server, tmp_path):
  request = _request('a', schema={'type': 'objekt'})
  with pytest.raises(ValueError, match='objekt') as error:
    list(_client(server, tmp_path).ask([request]))
  assert _is_one_sentence(str(error.value))
  assert not server.asked


# --- Limits ------------------------------------------------------------------


def test_the_rate_is_bounded(server, tmp_path):
  client = _client(server, tmp_path, max_at_once=8, requests_per_minute=1200)
  list(client.ask(_requests(21)))
  times = [asked.time_s for asked in server.asked]
  assert 0.95 <= times[-1] - times[0] < 3.0  # 20 gaps of 50 ms


def test_the_rate_counts_tries(server, tmp_path):
  server.act = lambda asked: Act(status=500)
  client = _client(server, tmp_path, requests_per_minute=600, tries=5)
  list(client.ask(_requests(2)))
  times = [asked.time_s for asked in server.asked]
  assert len(times) == 10
  assert times[-1] - times[0] >= 0.85  # 9 gaps of 100 ms


def test_requests_at_once_are_bounded(server, tmp_path):
  server.act = lambda asked: Act(wait_s=0.2)
  start_s = time.monotonic()
  list(_client(server, tmp_path, max_at_once=3).ask(_requests(12)))
  assert server.most_at_once == 3
  assert 0.8 <= time.monotonic() - start_s < 2.4  # one by one it is 2.4 s


# --- Money -------------------------------------------------------------------


def test_an_estimate_counts_what_is_new_once(server, tmp_path, monkeypatch):
  client = _client(server, tmp_path)
  list(client.ask([_request('a', 400 * 'a')]))
  monkeypatch.delenv('VIMONET_TEST_KEY')
  requests = [_request(n, 400 * t) for n, t in zip('abcd', 'abcc', strict=True)]
  estimate = client.estimate(requests)
  assert (estimate.requests, estimate.cached) == (2, 2)
  assert 200 <= estimate.input_tokens <= 300
  assert estimate.output_tokens == 40
  assert estimate.usd == pytest.approx(estimate.input_tokens * 1e-6 + 40 * 1e-5)
  assert len(server.asked) == 1


def test_an_image_counts_as_the_service_says_whatever_its_size(server):
  def most_tokens(image_tokens: int, length: int) -> int:
    service = _service(server, image_tokens=image_tokens)
    image = {'url': f'data:image/jpeg;base64,{length * "A"}'}
    parts = [{'type': 'image_url', 'image_url': image}] * 3
    request = chat_api.Request('a', [{'role': 'user', 'content': parts}])
    return service.most_tokens(service.body(request))[0]

  assert most_tokens(85, 2000) - most_tokens(0, 2000) == 3 * 85
  assert most_tokens(85, 2000) == most_tokens(85, 9000)


def _dear(**fields):
  """A service and server whose replies cost as much as they possibly can."""

  def act(asked):
    read = len(json.dumps(asked.body, sort_keys=True, ensure_ascii=False))
    return Act(usage=(read, asked.body['max_tokens']), **fields)

  return act


def test_the_budget_stops_before_it_is_exceeded(server, tmp_path):
  server.act = _dear(wait_s=0.05)
  service = _service(server)
  most = service.usd(*service.most_tokens(service.body(_request(10))))
  budget = {'budget_usd': 5.5 * most, 'max_at_once': 8}
  client = _client(server, tmp_path, **budget)
  requests = [_request(number) for number in range(10, 30)]
  replies = []
  with pytest.raises(chat_api.BudgetError) as error:
    replies.extend(client.ask(requests))
  assert len(server.asked) == len(server.paid) == 5
  assert service.usd(*server.tokens) <= client.service.budget_usd
  assert client.spent_usd == pytest.approx(service.usd(*server.tokens))
  message = str(error.value)
  assert _is_one_sentence(message)
  assert f'${client.spent_usd:.4f} spent' in message
  assert '15 left undone' in message
  assert 'raise the budget' in message
  # Again: nothing is sent, also by another process with the same folder.
  with pytest.raises(chat_api.BudgetError):
    list(_client(server, tmp_path, **budget).ask(requests))
  assert len(server.asked) == 5
  # What is known comes before the stop, wherever it stands.
  found = []
  with pytest.raises(chat_api.BudgetError):
    found.extend(_client(server, tmp_path, **budget).ask(requests[::-1]))
  assert len(found) == 5
  more = _client(server, tmp_path, budget_usd=20.1 * most)
  assert len(list(more.ask(requests))) == 20
  assert set(server.paid.values()) == {1}


def test_cheap_replies_make_room_for_others(server, tmp_path):
  service = _service(server)
  most = service.usd(*service.most_tokens(service.body(_request(1))))
  assert 0.8 * most > USD
  client = _client(server, tmp_path, budget_usd=5 * USD + most)
  assert len(list(client.ask(_requests(6)))) == 6
  assert client.spent_usd == pytest.approx(6 * USD)


def test_a_reply_without_usage_counts_the_most(server, tmp_path):
  server.act = lambda asked: Act(usage=None)
  client = _client(server, tmp_path)
  (reply,) = client.ask([_request('a')])
  service = client.service
  most = service.most_tokens(service.body(_request('a')))
  assert (reply.input_tokens, reply.output_tokens) == most
  assert client.spent_usd == pytest.approx(service.usd(*most))


# --- Dry run and batches -----------------------------------------------------


def test_a_preview_is_what_would_be_sent(server, tmp_path, monkeypatch):
  client = _client(server, tmp_path)
  image = {'url': f'data:image/jpeg;base64,{50_000 * "A"}', 'detail': 'low'}
  parts = [
    {'type': 'text', 'text': 'What is it?'},
    {'type': 'image_url', 'image_url': image},
  ]
  pictured = chat_api.Request('b', [{'role': 'user', 'content': parts}])
  monkeypatch.delenv('VIMONET_TEST_KEY')
  plain, shortened = client.preview([_request('a', schema=SCHEMA), pictured])
  assert not server.asked
  assert not (tmp_path / 'replies').exists()
  assert KEY not in json.dumps([plain, shortened])
  assert len(json.dumps(shortened)) < 1000
  url = shortened['body']['messages'][0]['content'][1]['image_url']['url']
  assert url.startswith('data:image/jpeg;base64,AAA')
  assert '50023 characters' in url
  monkeypatch.setenv('VIMONET_TEST_KEY', KEY)
  server.act = lambda asked: Act(text='{"score": 1}')
  list(client.ask([_request('a', schema=SCHEMA)]))
  list(client.ask([pictured]))
  assert server.asked[0].body == plain['body']
  assert server.asked[0].key == plain['headers']['Idempotency-Key']
  # The server, unlike the reader, gets the whole image.
  assert server.asked[1].body['messages'][0]['content'] == parts
  path = client.cache.path(client.service.key(pictured))
  assert os.path.getsize(path) < 2000


def _batch_output(path, changes=()) -> list[dict]:
  """What the Batch API would make of an input file."""
  lines = []
  for number, line in enumerate(pathlib.Path(path).read_text().splitlines()):
    row = json.loads(line)
    assert set(row) == {'custom_id', 'method', 'url', 'body'}
    assert (row['method'], row['url']) == ('POST', '/v1/chat/completions')
    body = chat_server.completion(f'batch-{number}', row['body'], Act())
    lines.append({
      'id': f'batch_req_{number}',
      'custom_id': row['custom_id'],
      'response': {'status_code': 200, 'request_id': 'r', 'body': body},
      'error': None,
      **dict(changes).get(number, {}),
    })  # fmt: skip
  return lines


def test_a_batch_is_written_read_and_found(server, tmp_path, monkeypatch):
  client = _client(server, tmp_path)
  list(client.ask([_request(0)]))
  monkeypatch.delenv('VIMONET_TEST_KEY')
  requests = [*_requests(5), _request('twin', 'What is 4?')]
  estimate = client.write_batch(requests, str(tmp_path / 'in.jsonl'))
  assert (estimate.requests, estimate.cached) == (4, 2)
  assert estimate.usd == pytest.approx(client.estimate(requests).usd / 2)
  lines = _batch_output(tmp_path / 'in.jsonl')
  assert len(lines) == 4
  # Services answer in any order.
  text = ''.join(f'{json.dumps(line)}\n' for line in lines[::-1])
  (tmp_path / 'out.jsonl').write_text(text)
  assert client.read_batch(str(tmp_path / 'out.jsonl')) == (4, 0, {})
  assert client.spent_usd == pytest.approx(USD + 4 * USD / 2)
  assert client.read_batch(str(tmp_path / 'out.jsonl')) == (0, 4, {})
  assert client.spent_usd == pytest.approx(USD + 4 * USD / 2)
  replies = {reply.id: reply for reply in client.ask(requests)}
  assert len(server.asked) == 1
  for request in requests:
    assert replies[request.id].text == request.messages[0]['content']
    assert replies[request.id].is_cached
  assert replies['2'].usd == pytest.approx(USD / 2)


def test_lines_of_a_batch_that_failed_are_reported_and_asked(server, tmp_path):
  client = _client(server, tmp_path)
  client.write_batch(_requests(5), str(tmp_path / 'in.jsonl'))
  failed = {'status_code': 500, 'body': {'error': {'message': 'oh dear'}}}
  lines = _batch_output(
    tmp_path / 'in.jsonl',
    {
      1: {'response': failed},
      2: {'response': None, 'error': {'code': 'batch_expired'}},
      3: {'custom_id': 'somebody else'},
    },
  )
  text = ''.join(f'{json.dumps(line)}\n' for line in lines)
  (tmp_path / 'out.jsonl').write_text(f'{text}nonsense\n')
  report = client.read_batch(str(tmp_path / 'out.jsonl'))
  assert (report.added, report.known, len(report.errors)) == (2, 0, 4)
  assert 'oh dear' in report.errors[client.service.key(_request(1))]
  assert 'batch_expired' in report.errors[client.service.key(_request(2))]
  assert 'write_batch' in report.errors['somebody else']
  assert 'nonsense' in report.errors['line 6']
  assert {r.status for r in client.ask(_requests(5))} == {'ok'}
  asked = {asked.text for asked in server.asked}
  assert asked == {'What is 1?', 'What is 2?', 'What is 3?'}


def test_a_batch_that_is_too_large_is_refused(server, tmp_path, monkeypatch):
  monkeypatch.setattr(chat_api, '_BATCH_LINES', 3)
  client = _client(server, tmp_path)
  with pytest.raises(ValueError, match='several files') as error:
    client.write_batch(_requests(4), str(tmp_path / 'in.jsonl'))
  assert _is_one_sentence(str(error.value))
  assert not (tmp_path / 'in.jsonl').exists()


@pytest.mark.parametrize(
  'field',
  [
    {'base_url': 'api.openai.com'},
    {'tries': 0},
    {'max_at_once': 0},
    {'requests_per_minute': 0},
    {'timeout_s': 0},
    {'budget_usd': -1},
    {'output_usd': float('nan')},
    {'max_tokens_field': 'tokens'},
  ],
)
def test_a_service_that_cannot_be_is_refused(server, field):
  (name,) = field
  with pytest.raises(ValueError, match=f'Expected {name} ') as error:
    _service(server, **field)
  assert _is_one_sentence(str(error.value))


# --- Killed and told to stop -------------------------------------------------

COUNT = 40
PROGRAM = f"""
  import sys
  from vimonet_jax import chat_api

  url, folder, budget_usd = sys.argv[1:]
  service = chat_api.Service(
    url, 'clever', input_usd=1.0, output_usd=10.0, max_tokens=20,
    budget_usd=float(budget_usd), key_variable='VIMONET_TEST_KEY',
    max_at_once=4, requests_per_minute=60_000,
  )
  requests = [
    chat_api.Request(str(n), [{{'role': 'user', 'content': f'What is {{n}}?'}}])
    for n in range({COUNT})
  ]
  for reply in chat_api.Client(service, folder).ask(requests):
    print(reply.id, reply.status, reply.is_cached, flush=True)
"""


def _start(server, tmp_path, budget_usd: float) -> subprocess.Popen:
  return subprocess.Popen(
    [
      sys.executable,
      '-c',
      textwrap.dedent(PROGRAM),
      server.url,
      str(tmp_path / 'replies'),
      str(budget_usd),
    ],
    env={
      **os.environ,
      'PYTHONPATH': os.pathsep.join(
        [str(pathlib.Path(__file__).parents[1]), *sys.path]
      ),
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    # Who starts tests in the background may have it ignore Ctrl-C.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )


def _wait_for(server, asked: int) -> None:
  until_s = time.monotonic() + 20
  while len(server.asked) < asked:
    assert time.monotonic() < until_s, 'the program asks nothing'
    time.sleep(0.005)


def test_killed_twice_and_stopped_by_the_budget_all_is_paid_once(
  server, tmp_path
):
  server.act = lambda asked: Act(wait_s=0.1)
  for _ in range(2):
    program = _start(server, tmp_path, 1.0)
    _wait_for(server, len(server.asked) + 9)
    program.kill()
    program.communicate(timeout=20)
  known = len(server.paid)
  assert 5 <= known < COUNT - 10
  client = _client(server, tmp_path)
  spent_usd = client.spent_usd
  assert spent_usd >= client.service.usd(*server.tokens) * 0.999
  # Each of them might cost nearly twice as much as it will.
  program = _start(server, tmp_path, spent_usd + 10 * USD)
  out, err = program.communicate(timeout=20)
  assert program.returncode == 1
  assert 'BudgetError: Expected to stay within' in err
  assert client.spent_usd <= spent_usd + 10 * USD
  assert known < len(server.paid) < COUNT
  program = _start(server, tmp_path, 1.0)
  out, err = program.communicate(timeout=20)
  assert program.returncode == 0, err
  lines = [line.split() for line in out.splitlines()]
  assert sorted(int(line[0]) for line in lines) == list(range(COUNT))
  assert {line[1] for line in lines} == {'ok'}
  assert set(server.paid.values()) == {1}
  assert len(server.paid) == COUNT
  # Only those under way at a kill were asked again.
  assert len(server.asked) <= COUNT + 2 * 4
  assert client.spent_usd >= client.service.usd(*server.tokens) * 0.999
  assert KEY not in out + err


@pytest.mark.parametrize(
  ('number', 'code'),
  [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, -signal.SIGINT)],
)
def test_told_to_stop_it_finishes_what_is_under_way(
  server, tmp_path, number, code
):
  server.act = lambda asked: Act(wait_s=0.3)
  program = _start(server, tmp_path, 1.0)
  _wait_for(server, 8)
  asked = len(server.asked)
  program.send_signal(number)
  out, err = program.communicate(timeout=20)
  assert program.returncode == code, err
  # One may have been on its way when the signal came.
  assert len(server.asked) <= asked + 1
  assert 'goes on from here' in err
  assert len(out.splitlines()) == len(server.asked)
  client = _client(server, tmp_path)
  assert client.spent_usd == pytest.approx(len(server.asked) * USD)
  kept = list((tmp_path / 'replies').rglob('*/*.json'))
  assert len(kept) == len(server.asked)


def test_signals_are_as_before_in_the_end(server, tmp_path):
  before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  replies = _client(server, tmp_path).ask(_requests(3))
  next(replies)
  assert signal.getsignal(signal.SIGTERM) != before[0]
  replies.close()
  assert before == (
    signal.getsignal(signal.SIGTERM),
    signal.getsignal(signal.SIGINT),
  )


def test_a_signal_is_not_lost_on_who_stops_iterating(server, tmp_path):
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  replies = _client(server, tmp_path).ask(_requests(3))
  next(replies)
  signal.raise_signal(signal.SIGINT)
  with pytest.raises(KeyboardInterrupt):
    replies.close()
  signal.signal(signal.SIGINT, before)


def test_other_threads_may_ask(server, tmp_path):
  found = []
  thread = threading.Thread(
    target=lambda: found.extend(_client(server, tmp_path).ask(_requests(3)))
  )
  thread.start()
  thread.join(10)
  assert len(found) == 3
