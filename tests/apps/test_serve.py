"""The server as its clients see it, and those who are up to no good."""

import base64
import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import films
import hostile
import numpy as np
import presets
import pytest

from vimonet_jax.apps import inputs, listening
from vimonet_jax.audit import log, policy
from vimonet_jax.data import records
from vimonet_jax.infer import engine, generate, scheduler
from vimonet_jax.synthetic import world

openai = pytest.importorskip('openai', reason="needs '.[test]'")
uvicorn = pytest.importorskip('uvicorn', reason="needs '.[serve]'")
# It needs what was looked for above.
from vimonet_jax.apps import serve, service, uploads  # noqa: E402

SHORT = generate.Sampling(max_new_tokens=8)
QUESTION = 'What is done?'
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def asking(tiny_model):
  return engine.Engine.load(f'{tiny_model.workdir}/model')


@pytest.fixture(scope='module')
def files(asking):
  tower = asking.bundle.model.video
  with uploads.Uploads(tower, hostile.LIMITS) as started:
    yield started


class Started:
  """A server in a thread of its own.

  Attributes:
    url: of it.
    together: who answers there.
    served: what answers.
  """

  def __init__(self, together, served, hosts):
    self.together, self.served = together, served
    listening = socket.create_server(('127.0.0.1', 0))
    self.url = f'http://127.0.0.1:{listening.getsockname()[1]}'
    config = uvicorn.Config(served.app(hosts), log_level='error')
    self._server = uvicorn.Server(config)
    self._thread = threading.Thread(
      target=self._server.run, args=([listening],), daemon=True
    )
    self._thread.start()

  def client(self, key='any'):
    return openai.OpenAI(
      base_url=f'{self.url}/v1', api_key=key, max_retries=0, timeout=60
    )

  def end(self):
    """As SIGTERM does; returns when the last answer was sent."""
    self._server.should_exit = True

  def join(self):
    self._thread.join(60)


@pytest.fixture
def start(asking, files):
  """Starts servers, which are ended after the test."""
  with contextlib.ExitStack() as ends:

    def start_one(
      steps=4, limits=service.Limits(), waiting=99, hosts=('*',), **offer
    ):
      together = ends.enter_context(
        scheduler.Scheduler(
          asking, max_rows=8, max_length=512, max_waiting=waiting, steps=steps
        )
      )
      offer = service.Offer(
        **{'name': 'tiny', 'weights': 'f00', 'sampling': SHORT} | offer
      )
      served = service.Service(offer, together, files, limits)
      started = Started(together, served, hosts)
      ends.callback(started.join)
      ends.callback(started.end)
      return started

    yield start_one


@functools.cache
def _clip(index):
  return world.World().make_record('test', index)


@functools.cache
def _motion(index):
  """Bytes of a motion's file."""
  file = io.BytesIO()
  np.save(file, _clip(index).motion)
  return file.getvalue()


def _part(kind, data, name):
  data = base64.b64encode(data).decode()
  return {'type': kind, kind: {'data': data, 'format': name}}


def _ask(client, content, **fields):
  """One question's completion."""
  if not isinstance(content, str):
    content = [{'type': 'text', 'text': QUESTION}, *content]
  return client.chat.completions.create(
    model='tiny', messages=[{'role': 'user', 'content': content}], **fields
  )


def _text(completion):
  return completion.choices[0].message.content


def _alone(asking, record, question=QUESTION, **settings):
  """What the engine says by itself."""
  record = dataclasses.replace(record, turns=(records.Turn(question, ''),))
  return asking.answer([record], sampling=SHORT, **settings)[0]


def _post(url, body: bytes, headers=None):
  """Status and parsed body of an answer to any bytes."""
  request = urllib.request.Request(
    f'{url}/v1/chat/completions', body, headers or {}, method='POST'
  )
  try:
    with urllib.request.urlopen(request, timeout=60) as answer:
      return answer.status, json.loads(answer.read())
  except urllib.error.HTTPError as error:
    return error.code, json.loads(error.read())


def test_words_and_clips_are_answered_as_by_the_engine(asking, start, tmp_path):
  client = start().client()
  nothing = records.Record('none', 'given', 'test')
  plain = _ask(client, QUESTION)
  assert _text(plain) == _alone(asking, nothing)
  assert plain.choices[0].finish_reason in ('stop', 'length')
  used = plain.usage
  assert used.total_tokens == used.prompt_tokens + used.completion_tokens
  # A motion, a video, both.
  path = tmp_path / 'film.mp4'
  films.write(path, 0)
  np.save(tmp_path / 'walk.npy', _clip(1).motion)
  tower = asking.bundle.model.video
  kinds = {
    'motion': _part('motion', _motion(1), 'npy'),
    'video': _part('video', path.read_bytes(), 'mp4'),
  }
  paths = {'motion': tmp_path / 'walk.npy', 'video': path}
  for media in (('motion',), ('video',), ('motion', 'video')):
    given = inputs.read(tower, **{name: str(paths[name]) for name in media})
    found = _ask(client, [kinds[name] for name in media])
    assert _text(found) == _alone(asking, given.record)
    assert found.model_extra['vimonet']['inputs'] == list(media)


def test_a_stream_is_the_answer_in_pieces(start):
  client = start(steps=1).client()
  fields = {'temperature': 2.0, 'seed': 3, 'max_tokens': 20}
  whole = _ask(client, QUESTION, **fields)
  options = {'include_usage': True}
  stream = list(
    _ask(client, QUESTION, stream=True, stream_options=options, **fields)
  )
  pieces = [x.choices[0].delta.content or '' for x in stream if x.choices]
  assert ''.join(pieces) == _text(whole)
  assert len([x for x in pieces if x]) > 3
  assert stream[-2].choices[0].finish_reason == whole.choices[0].finish_reason
  assert stream[-1].usage == whole.usage
  assert len({x.id for x in stream}) == 1


def test_several_answers_differ_and_a_seed_repeats_them(start):
  client = start().client()
  fields = {'temperature': 2.0, 'seed': 3, 'n': 3}
  first, second = (_ask(client, QUESTION, **fields) for _ in range(2))
  texts = [x.message.content for x in first.choices]
  assert texts == [x.message.content for x in second.choices]
  assert len(set(texts)) > 1
  alone = _ask(client, QUESTION, temperature=2.0, seed=4)
  assert _text(alone) == texts[1]
  stop = texts[0][3:5]
  stopped = _ask(client, QUESTION, temperature=2.0, seed=3, stop=[stop])
  assert _text(stopped) == texts[0][: texts[0].index(stop)].rstrip()
  assert stopped.choices[0].finish_reason == 'stop'


def test_many_clients_get_their_own_answers(asking, start):
  server = start()
  wanted = [
    _alone(asking, dataclasses.replace(_clip(i), frames=None), f'What {i}?')
    for i in range(6)
  ]

  def ask(i):
    client, found = server.client(), []
    for j in range(3):
      number = (i + j) % len(wanted)
      content = [
        {'type': 'text', 'text': f'What {number}?'},
        _part('motion', _motion(number), 'npy'),
      ]
      found.append(
        _text(
          client.chat.completions.create(
            model='tiny', messages=[{'role': 'user', 'content': content}]
          )
        )
        == wanted[number]
      )
    return all(found)

  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    assert all(pool.map(ask, range(16)))
  assert server.served.answered == 48


def test_a_clip_that_comes_again_is_not_read_again(start, files, monkeypatch):
  reads = []
  read = files.read

  def counted(**sent):
    reads.append(sent)
    return read(**sent)

  monkeypatch.setattr(files, 'read', counted)
  client = start().client()
  part = _part('motion', _motion(0), 'npy')
  first = _ask(client, [part])
  again = _ask(client, [part])
  assert len(reads) == 1
  assert _text(again) == _text(first)
  assert again.model_extra['vimonet']['seconds']['encode'] < 0.05
  other = {**part['motion'], 'fps': 20}
  with contextlib.suppress(openai.BadRequestError):
    _ask(client, [{'type': 'motion', 'motion': other}])
  assert len(reads) == 2


def test_only_who_has_a_key_is_let_in(start):
  keys = frozenset(map(service.digest, ('one', 'two')))
  server = start(keys=keys)
  assert _text(_ask(server.client('two'), QUESTION))
  assert server.client('one').models.list().data[0].id == 'tiny'
  for ask in (
    lambda client: _ask(client, QUESTION),
    lambda client: client.models.list(),
    lambda client: client.models.retrieve('tiny'),
  ):
    with pytest.raises(openai.AuthenticationError, match='found another one'):
      ask(server.client('three'))
  status, answer = _post(server.url, b'{}')
  assert status == 401
  assert 'found no such header; ask' in answer['error']['message']
  # Whoever watches over it has none.
  with urllib.request.urlopen(f'{server.url}/healthz') as answer:
    assert json.loads(answer.read())['status'] == 'ok'


@pytest.mark.parametrize(
  ('body', 'status', 'said'),
  [
    (b'{', 400, 'Expected JSON, found its end before it is complete; send'),
    (b'', 400, 'Expected JSON, found an empty body; send an object with'),
    (b'{"model": tiny}', 400, "found 'tiny}' at character 11; send an"),
    (b'[' * 100_000, 400, 'Expected JSON'),
    (b'\xff\xfe', 400, 'Expected JSON'),
    (b'{"model": "\xed\xa0\x80"}', 400, 'Expected JSON'),
    (b'{"model": "tiny", "\\ud800": 1}', 400, "found '\\ud800', half of a"),
    (b'{"model": "gpt-4", "messages": []}', 404, "Expected model 'tiny'"),
    (b'{"model": "tiny", "messages": 7}', 400, 'messages as a list'),
    (b'{"model": "tiny", "messages": [], "x": "' + b'y' * 2**21, 413, '1 MiB'),
  ],
)
def test_what_is_no_request_is_refused_in_a_sentence(start, body, status, said):
  server = start(limits=service.Limits(max_body_mb=1))
  found, answer = _post(server.url, body)
  assert found == status
  assert said in answer['error']['message']
  assert '\n' not in answer['error']['message']
  assert _text(_ask(server.client(), QUESTION))


def test_what_another_method_or_no_key_gets_says_what_would_do(start):
  server = start(keys=frozenset([service.digest('one')]))
  for path, method, status, name, said in (
    ('chat/completions', 'GET', 405, 'Allow', 'POST'),
    ('models', 'GET', 401, 'WWW-Authenticate', 'Bearer'),
  ):
    request = urllib.request.Request(f'{server.url}/v1/{path}', method=method)
    with pytest.raises(urllib.error.HTTPError) as raised:
      urllib.request.urlopen(request)
    assert raised.value.code == status
    assert raised.value.headers[name] == said


def test_a_name_may_have_parts(start):
  client = start(name='of/us').client()
  assert client.models.retrieve('of/us').id == 'of/us'
  with pytest.raises(openai.NotFoundError, match="Expected model 'of/us'"):
    client.models.retrieve('of')


def test_a_conversation_goes_on_after_an_answer_without_words(start):
  messages = [
    {'role': 'user', 'content': QUESTION},
    {'role': 'assistant', 'content': ''},
    {'role': 'user', 'content': QUESTION},
  ]
  client = start().client()
  assert client.chat.completions.create(model='tiny', messages=messages).usage


def test_who_waits_holds_no_file(start, files, monkeypatch):
  server, read = start(), files.read
  ask, seen, held = server.together.ask_all, [], []

  def reads(**sent):
    seen.append(sent['motion'].data)
    return read(**sent)

  def asks(*args):
    held.append(sys.getrefcount(seen[0]))
    return ask(*args)

  monkeypatch.setattr(files, 'read', reads)
  monkeypatch.setattr(server.together, 'ask_all', asks)
  _ask(server.client(), [_part('motion', _motion(0), 'npy')])
  assert held == [2]  # Of `seen` and of the call.


def test_files_that_are_none_are_refused(start):
  client = start().client()
  for part, said in (
    (_part('motion', b'no motion', 'npy'), 'expected a NumPy file'),
    (_part('motion', b'no motion', '../../etc/passwd'), 'Expected a motion'),
    (_part('video', b'no video', 'mp4'), 'xpected'),
  ):
    with pytest.raises(openai.BadRequestError, match=said) as raised:
      _ask(client, [part])
    assert raised.value.code == 'invalid_media'
  assert _text(_ask(client, QUESTION))


def test_hostile_files_are_refused_and_the_server_lives(start):
  server = start()
  client, good = server.client(), _part('motion', _motion(0), 'npy')
  wanted = _text(_ask(client, [good]))
  refused = []
  for name, sent in hostile.FILES.items():
    part = _part(sent.medium, sent.data(), sent.name.rpartition('.')[2])
    part[sent.medium] |= sent.said
    with pytest.raises(openai.BadRequestError) as raised:
      _ask(client, [part])
    sentence = raised.value.body['message']
    assert 'xpected' in sentence, name
    assert sentence.isprintable(), name
    refused.append(sentence)
  assert len(refused) > 20
  assert _text(_ask(client, [good])) == wanted
  assert server.served.answered == 2


def test_too_long_and_too_many_are_refused(start):
  server = start(waiting=1)
  client = server.client()
  with pytest.raises(openai.BadRequestError, match='at most 512 tok') as raised:
    _ask(client, QUESTION, max_tokens=510)
  assert raised.value.code == 'context_length_exceeded'
  with pytest.raises(openai.RateLimitError, match='too many wait'):
    _ask(client, QUESTION, n=2)


def test_requests_that_come_too_slowly_are_not_waited_for(start):
  server = start(limits=service.Limits(receive_s=0.3))
  host, port = server.url.removeprefix('http://').split(':')
  with socket.create_connection((host, int(port))) as slow:
    slow.sendall(
      b'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n'
      b'Connection: close\r\nContent-Length: 1000\r\n\r\n{"model":'
    )
    found = b''
    while chunk := slow.recv(4096):
      found += chunk
  assert b' 408 ' in found.splitlines()[0]
  assert b'within 0.3 s' in found


def test_who_goes_while_sending_is_no_failure(start, tmp_path, caplog):
  secret, path = tmp_path / 'secret', tmp_path / 'log.jsonl'
  secret.write_bytes(bytes(32))
  with log.Log(str(path), str(secret)) as written:
    server = start(log=written)
    host, port = server.url.removeprefix('http://').split(':')
    with socket.create_connection((host, int(port))) as client:
      client.sendall(
        b'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n'
        b'Content-Length: 1000\r\n\r\n{"model":'
      )
      time.sleep(0.2)
    end = time.monotonic() + 20
    while not path.read_text() and time.monotonic() < end:
      time.sleep(0.02)
    (line,) = path.read_text().splitlines()
  assert json.loads(line)['outcome'] == 'gone'
  assert not caplog.records


def _is_idle(together, seconds=20):
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    if together.load()[:2] == (0, 0):
      return True
    time.sleep(0.02)
  return False


@pytest.mark.parametrize('is_streamed', [False, True])
def test_nothing_is_written_for_who_has_gone(start, is_streamed, monkeypatch):
  server = start(steps=1)
  steps = []
  advance = server.together._advance
  monkeypatch.setattr(
    server.together, '_advance', lambda: (steps.append(1), advance())
  )
  body = json.dumps({
    'model': 'tiny', 'messages': [{'role': 'user', 'content': QUESTION}],
    'max_tokens': 400, 'temperature': 2.0, 'seed': 3, 'stream': is_streamed,
  }).encode()  # fmt: skip
  host, port = server.url.removeprefix('http://').split(':')
  with socket.create_connection((host, int(port))) as client:
    client.sendall(
      b'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n'
      + f'Content-Length: {len(body)}\r\n\r\n'.encode()
      + body
    )
    end = time.monotonic() + 30
    while not server.together.load().active and time.monotonic() < end:
      time.sleep(0.01)
    assert server.together.load().active
  assert _is_idle(server.together)
  assert len(steps) < 100
  assert server.served.answered == 0
  # It would have been longer.
  fields = {'max_tokens': 400, 'temperature': 2.0, 'seed': 3}
  whole = _ask(server.client(), QUESTION, **fields)
  assert whole.usage.completion_tokens > 100


def test_at_the_end_who_was_accepted_gets_the_whole_answer(start):
  server = start(steps=1)
  fields = {'temperature': 2.0, 'seed': 3, 'max_tokens': 100, 'stream': True}
  streams = [_ask(server.client(), QUESTION, **fields) for _ in range(4)]
  firsts = [next(stream) for stream in streams]
  assert len(firsts) == 4
  server.end()
  pieces = [list(stream) for stream in streams]
  for stream in pieces:
    assert stream[-1].choices[0].finish_reason == 'length'
  server.join()
  with pytest.raises(openai.APIConnectionError):
    _ask(server.client(), QUESTION)


@pytest.mark.parametrize(
  ('name', 'error'),
  [('call', RuntimeError), ('call', ValueError), ('prompt', TypeError)],
)
def test_a_failure_is_told_without_its_details(
  start, asking, monkeypatch, caplog, name, error
):
  server = start()
  call = getattr(asking, name)

  def fail(*args):
    raise error('secret of ours')

  monkeypatch.setattr(asking, name, fail)
  with pytest.raises(openai.InternalServerError, match='failure of the') as got:
    _ask(server.client(), QUESTION)
  assert 'secret' not in str(got.value)
  assert 'secret of ours' in caplog.text
  monkeypatch.setattr(asking, name, call)
  assert _text(_ask(server.client(), QUESTION))


def test_the_policy_is_shown_and_has_to_be_accepted_where_that_is_asked(start):
  required = policy.Policy('Be kind.', 'v1', True)
  server = start(policy=required)
  with urllib.request.urlopen(f'{server.url}/v1/policy') as answer:
    assert json.loads(answer.read()) == required._asdict()
  with pytest.raises(openai.PermissionDeniedError, match='version v1') as got:
    _ask(server.client(), QUESTION)
  assert got.value.code == 'policy_not_accepted'
  accepted = {policy.HEADER: 'v1'}
  assert _text(_ask(server.client(), QUESTION, extra_headers=accepted))


def test_requests_are_written_down_without_what_was_shown(start, tmp_path):
  secret, path = tmp_path / 'secret', tmp_path / 'log.jsonl'
  secret.write_bytes(bytes(32))
  with log.Log(str(path), str(secret)) as written:
    server = start(log=written, keys=frozenset([service.digest('one')]))
    client = server.client('one')
    found = _ask(client, [_part('motion', _motion(0), 'npy')])
    others = {policy.HEADER: 'That of somebody else.'}
    list(_ask(client, QUESTION, stream=True, extra_headers=others))
    with pytest.raises(openai.BadRequestError):
      _ask(client, [_part('video', b'no video', 'mp4')])
    with pytest.raises(openai.AuthenticationError):
      _ask(server.client('two'), QUESTION)
    lines = [json.loads(x) for x in path.read_text().splitlines()]
  outcomes = [x['outcome'] for x in lines]
  assert outcomes[0] == found.choices[0].finish_reason
  assert outcomes[1] == log.BEGUN
  assert outcomes[2] in ('stop', 'length')
  assert outcomes[3:] == ['invalid_media', 'invalid_api_key']
  assert lines[0]['request'] == found.id
  assert lines[1]['policy'] is None  # Nobody here has such a one.
  assert lines[0]['answer_characters'] == len(_text(found))
  (medium,) = lines[0]['media']
  assert medium['kind'] == 'motion'
  assert medium['duration_s'] == len(_clip(0).motion) / 20
  assert lines[0]['who'] == lines[1]['who'] != lines[4]['who']
  assert log.verify(str(path), str(secret)).is_intact


def test_of_a_stream_nothing_is_told_that_the_log_does_not_know(
  start, tmp_path
):
  """A crash at any moment leaves its start, who reads its end finds it there.

  Of who leaves before that, the log has as much as was written for them.
  """
  secret, path = tmp_path / 'secret', tmp_path / 'log.jsonl'
  secret.write_bytes(bytes(32))

  def entries():
    return [json.loads(line) for line in path.read_text().splitlines()]

  with log.Log(str(path), str(secret), texts=True) as written:
    server = start(steps=1, log=written)
    fields = {'stream': True, 'temperature': 2.0, 'seed': 3}
    stream = _ask(server.client(), QUESTION, max_tokens=20, **fields)
    first = next(stream)
    (begun,) = entries()[:1]
    assert (begun['outcome'], begun['answer']) == (log.BEGUN, None)
    assert begun['request'] == first.id
    text = ''
    for chunk in stream:
      text += chunk.choices[0].delta.content or ''
      if chunk.choices[0].finish_reason:
        break
    end = entries()[1]
    assert (end['request'], end['outcome']) == (first.id, 'length')
    assert end['answer'] == text
    stream = _ask(server.client(), QUESTION, max_tokens=400, **fields)
    for _ in range(5):
      next(stream)
    stream.close()
    end = time.monotonic() + 20
    while len(entries()) < 4 and time.monotonic() < end:
      time.sleep(0.02)
    *_, begun, gone = entries()
  assert (begun['outcome'], gone['outcome']) == (log.BEGUN, 'gone')
  assert gone['request'] == begun['request']
  assert gone['answer'].startswith(text[:5])
  assert log.verify(str(path), str(secret)).is_intact


def test_where_nothing_can_be_written_down_nothing_is_answered(start):
  class Full:
    keyed = staticmethod(lambda data: '')

    def add(self, **entry):
      raise OSError('No space left on device')

  server = start(log=Full())
  for is_streamed in (False, True):
    with pytest.raises(openai.InternalServerError, match='failure of the'):
      _ask(server.client(), QUESTION, stream=is_streamed)
  assert server.served.answered == 0
  assert _is_idle(server.together)


def test_a_page_elsewhere_cannot_lead_a_browser_here(start):
  server = start(hosts=('localhost', '127.0.0.1', '[::1]'))

  def status(host):
    request = urllib.request.Request(
      f'{server.url}/v1/models', headers={'Host': host}
    )
    with urllib.request.urlopen(request) as answer:
      return answer.status

  for host in ('localhost:8000', '127.0.0.1', '[::1]:8000'):
    assert status(host) == 200
  with pytest.raises(urllib.error.HTTPError, match='400'):
    status('evil.example:8000')


def test_prometheus_is_told_what_was_done(start):
  server = start()
  used = _ask(server.client(), QUESTION).usage
  _post(server.url, b'{')
  with urllib.request.urlopen(f'{server.url}/metrics') as answer:
    found = answer.read().decode()
  for line in (
    'vimonet_requests_total{status="200"} 1.0',
    'vimonet_requests_total{status="400"} 1.0',
    f'vimonet_tokens_total{{kind="completion"}} {used.completion_tokens}.0',
    'vimonet_seconds_count{part="prompt"} 1.0',
    'vimonet_active 0.0',
  ):
    assert line in found


def test_others_are_let_in_with_keys_only(tmp_path, monkeypatch):
  monkeypatch.delenv(serve.KEYS_VARIABLE, raising=False)
  for host in ('127.0.0.1', 'localhost', '::1'):
    assert not serve.api_keys(serve.Settings(host=host))
  for host in ('0.0.0.0', '192.168.1.2', 'example.com', '::'):
    with pytest.raises(ValueError, match='Expected API keys where'):
      serve.api_keys(serve.Settings(host=host))
    assert not serve.api_keys(serve.Settings(host=host, is_open=True))
  path = tmp_path / 'keys'
  path.write_text('one\ntwo\n')
  settings = serve.Settings(host='0.0.0.0', keys_file=str(path))
  assert len(serve.api_keys(settings)) == 2
  path.write_text('\n')
  with pytest.raises(ValueError, match='an API key a line'):
    serve.api_keys(settings)
  monkeypatch.setenv(serve.KEYS_VARIABLE, 'three')
  assert len(serve.api_keys(serve.Settings(host='0.0.0.0'))) == 1


@contextlib.contextmanager
def _who_never_reads(url):
  """Asks until nothing goes through any more."""
  host, port = url.removeprefix('http://').partition('/')[0].split(':')
  with socket.socket() as client:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    client.settimeout(1.0)
    with contextlib.suppress(TimeoutError):
      while True:
        client.sendall(b'GET /v1/policy HTTP/1.1\r\nHost: x\r\n\r\n' * 1000)
    yield


@pytest.mark.parametrize(
  'wrong',
  [{'max_rows': 0}, {'max_rows': 8, 'max_waiting': 7}],
)
def test_settings_with_which_nobody_could_be_answered_are_refused(wrong):
  with pytest.raises(ValueError, match='Expected serve'):
    serve.Settings(**wrong)


def test_the_presets_say_what_files_may_be(asking):
  """What an operator changes there is what a reader goes by."""
  config = presets.load('tiny')
  assert uploads.limits(config) == uploads.Limits()
  settings = serve._settings(config)
  assert (settings.files, settings.limits) == (
    uploads.Limits(), service.Limits(),
  )  # fmt: skip
  config.uploads.update({
    'motion_mb': 1, 'video_mb': 2, 'video_seconds': 9.5, 'video_pixels': 5000,
    'readers': 1, 'read_s': 3.0, 'reader_mb': 800,
  })  # fmt: skip
  files = serve._settings(config).files
  assert files == uploads.Limits(
    max_motion_bytes=2**20,
    max_video_bytes=2**21,
    max_seconds=9.5,
    max_frames=570,
    max_pixels=5000,
    timeout_s=3.0,
    memory_bytes=800 * 2**20,
    at_once=1,
  )
  with uploads.Uploads(asking.bundle.model.video, files) as reading:
    walk = uploads.File('walk.npy', _motion(0))
    assert reading.read(motion=walk).record.motion is not None


@pytest.mark.parametrize(
  ('section', 'wrong', 'said'),
  [
    ('uploads', {'video_mb': 0}, 'uploads.video_mb of 1 or more, found 0; '),
    ('uploads', {'read_s': float('nan')}, 'uploads.read_s of 1 or more, foun'),
    ('uploads', {'reader_mb': 100}, 'uploads.reader_mb of 768 or more, found'),
    ('uploads', {'video_mb': 256}, 'serve.max_body_mb of 343 or more, where'),
    ('serve', {'max_body_mb': 8}, 'max_body_mb of 87 or more, .* found 8 and'),
    ('serve', {'max_held_mb': 90}, 'of no less, found 96 and 90; raise them'),
  ],
)
def test_limits_by_which_no_file_could_come_are_refused(section, wrong, said):
  config = presets.load('tiny')
  config[section].update(wrong)
  with pytest.raises(ValueError, match=said):
    serve._settings(config)


def test_a_port_that_there_is_not_is_refused():
  with pytest.raises(ValueError, match='serve.port below 65536, found 99999'):
    listening.listen('127.0.0.1', 99999, section='serve')


def test_the_task_serves_and_stops_when_it_is_told(tiny_model):
  environment = {**os.environ, 'XLA_FLAGS': ''}
  running = subprocess.Popen(
    [
      sys.executable, '-m', 'vimonet_jax.main', '--config=configs/tiny.py',
      '--task=serve', f'--workdir={tiny_model.workdir}',
      '--config.serve.port=0', '--config.serve.max_rows=1',
      '--config.serve.name=small', '--config.serve.stop_s=2',
    ],
    cwd=ROOT, env=environment, text=True,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
  )  # fmt: skip
  try:
    said = ''
    while 'Serving at' not in said:
      line = running.stdout.readline()
      assert line, said
      said += line
    url = said.rsplit(' ', 1)[1].strip()
    client = openai.OpenAI(base_url=url, api_key='any', max_retries=0)
    assert client.models.list().data[0].id == 'small'
    found = client.chat.completions.create(
      model='small', messages=[{'role': 'user', 'content': QUESTION}]
    )
    assert _text(found)
    with _who_never_reads(url):
      running.send_signal(signal.SIGTERM)
      said, _ = running.communicate(timeout=60)
  finally:
    running.kill()
  assert running.returncode == 0
  assert 'Stopping' in said
  assert '1 requests were answered' in said
