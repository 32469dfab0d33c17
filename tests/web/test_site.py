"""The page over HTTP, as its script uses it, and as somebody who means harm."""

import asyncio
import base64
import contextlib
import functools
import io
import json
import shutil
import socket
import subprocess
import threading
import time
import types

import numpy as np
import pytest

pytest.importorskip('gradio', reason="needs gradio: pip install -e '.[demo]'")

import httpx
import uvicorn
import visitor

from vimonet_jax.apps import inputs, uploads
from vimonet_jax.audit import log as logs
from vimonet_jax.audit import policy as policies
from vimonet_jax.infer import engine, generate, scheduler
from vimonet_jax.synthetic import world
from vimonet_jax.web import clip as clips
from vimonet_jax.web import handlers, noted, page, site

POLICY = policies.Policy('Be kind.', 'v1', required=False)
LIMITS = uploads.Limits(max_motion_bytes=1 << 20, max_video_bytes=1 << 16)
PASSWORD = 'open sésame'


@functools.cache
def _record():
  record = world.World().make_record('test', 0)
  return clips.shown_to(record, ('motion',))


@pytest.fixture(scope='module')
def made(tiny_model):
  """What all pages of this file share: a model that answers and readers."""
  asked = engine.Engine.load(f'{tiny_model.workdir}/model')
  tower = asked.bundle.model.video
  with (
    scheduler.Scheduler(asked, max_rows=8, max_length=512) as together,
    uploads.Uploads(tower, LIMITS) as reading,
  ):
    yield together, reading


@pytest.fixture(scope='module')
def opened(made):
  """Opens pages; gives a client, and who visits."""
  together, reading = made
  with contextlib.ExitStack() as ends:

    def open_page(
      *, password='', media=clips.MEDIA, policy=POLICY, hosts=('*',)
    ):
      desk = site.Desk()
      does = handlers.Handlers(
        together,
        desk.take,
        policy,
        examples=[clips.Clip(_record(), {}, question='What?', is_example=True)],
        sampling=generate.Sampling(max_new_tokens=8),
      )
      endings = {medium: uploads.ENDINGS[medium] for medium in media}
      most = site.most_bytes(LIMITS, media)
      blocks = page.build(
        does, about='A <test>.', endings=endings, most_bytes=most
      )
      app = site.build(
        blocks,
        desk,
        reading,
        limits=LIMITS,
        media=media,
        password=password,
        hosts=hosts,
      )
      url = ends.enter_context(_served(app))
      client = ends.enter_context(httpx.Client(base_url=url, timeout=60))
      return client, does.visits

    yield open_page


@contextlib.contextmanager
def _served(app):
  listening = socket.create_server(('127.0.0.1', 0))
  config = uvicorn.Config(
    app, log_level='critical', timeout_graceful_shutdown=1
  )
  server = uvicorn.Server(config)
  thread = threading.Thread(target=server.run, args=([listening],))
  thread.start()
  try:
    while not server.started:
      assert thread.is_alive()
      time.sleep(0.02)
    yield f'http://127.0.0.1:{listening.getsockname()[1]}'
  finally:
    server.should_exit = True
    thread.join()


@pytest.fixture(scope='module')
def plain(opened):
  return opened()


def _motion():
  file = io.BytesIO()
  np.save(file, _record().motion)
  return file.getvalue()


def test_a_file_becomes_a_clip_that_is_asked_about(plain):
  client, visits = plain
  reply = client.post(
    '/clip', params={'kind': 'motion', 'name': 'w.npy'}, content=_motion()
  )
  ticket = reply.json()['ticket']
  done = visitor.call(
    client, 'given', [], session='a1', told={'ticket': ticket}
  )[-1]
  shown, question, log, told = done['output']['data']
  assert shown['names'] == {'motion': 'w.npy'}
  joints = np.frombuffer(base64.b64decode(shown['motion']['joints']), '<f4')
  assert len(joints) == len(_record().motion) * 66
  assert 'Ask about' in log
  assert told == handlers.QUIET
  messages = visitor.call(
    client, 'submit', ['What?', True, False, 5], session='a1'
  )
  pages = [str(m['output']) for m in messages if 'output' in m]
  assert messages[-1]['success']
  assert 'Motion only' in ''.join(pages)
  (turn,) = visits.of('a1').turns
  assert [said.inputs for said in turn.answers] == [(), ('motion',)]
  assert all(said.end for said in turn.answers)
  # A ticket is worth something once.
  again = visitor.call(
    client, 'given', [], session='a2', told={'ticket': ticket}
  )[-1]
  assert again['success']
  # All that is shown stays, for nothing but a sentence comes.
  told = again['output']['data'][0]
  assert set(told) == {'wrong', 'once'}
  assert 'give it again' in told['wrong']
  again = visitor.call(
    client, 'given', [], session='a2', told={'ticket': ticket}
  )[-1]
  # Of what is equal to the last the page hears nothing.
  assert again['output']['data'][0] != told


def test_a_body_comes_behind_its_motion(plain, shared_data):
  folder = shared_data / 'mocap/raw'
  angles = (folder / '05_01.amc').read_bytes()
  body = (folder / '05.asf').read_bytes()
  query = {'kind': 'motion', 'name': '05_01.amc', 'body': '05.asf'}
  told = {'body_bytes': len(body)}
  reply = plain[0].post('/clip', params=query | told, content=angles + body)
  assert 'ticket' in reply.json(), reply.text
  for wrong in ('', '-1', 'many', str(len(angles + body) + 1)):
    told = {'body_bytes': wrong}
    reply = plain[0].post('/clip', params=query | told, content=angles + body)
    assert reply.status_code == 400
    assert 'say how long the last one is' in reply.json()['error']


@pytest.fixture
def written(made, tmp_path):
  """Handlers with an example and a log that keeps texts, and its lines."""
  secret = tmp_path / 'secret'
  secret.write_bytes(bytes(range(32)))
  path = tmp_path / 'log'
  with logs.Log(str(path), str(secret), texts=True, addresses=True) as log:

    def lines():
      return [json.loads(line) for line in path.read_text().splitlines()]

    yield _does(made[0], book=noted.Book(log, 'weights')), lines


def _does(together, *, new_tokens=8, **more):
  return handlers.Handlers(
    together,
    site.Desk().take,
    POLICY,
    examples=[clips.Clip(_record(), {}, is_example=True)],
    sampling=generate.Sampling(temperature=2.0, max_new_tokens=new_tokens),
    **more,
  )


def _somebody(session):
  return types.SimpleNamespace(
    session_hash=session, client=types.SimpleNamespace(host='10.0.0.1')
  )


def _asked(does, question, who, letters=0):
  """All that somebody is shown of an answer to all inputs."""

  async def run():
    return [x async for x in does.ask(question, True, True, letters, who)]

  return asyncio.run(run())


def test_questions_are_written_down_as_a_server_does(written):
  does, lines = written
  who = _somebody('h1')
  _asked(does, 'What?', who)
  does.choose(types.SimpleNamespace(number=0), who)
  _asked(does, 'What?', who)
  refused, begun, answered = lines()
  assert refused['outcome'] == 'refused'
  assert (begun['outcome'], begun['answer']) == (logs.BEGUN, None)
  assert begun['request'] == answered['request'] != refused['request']
  assert answered['outcome'] in ('stop', 'length')
  assert answered['question'] == 'What?'
  assert [x['kind'] for x in answered['media']] == ['motion']
  (turn,) = does.visits.of('h1').turns
  assert answered['answer'] == '\n'.join(x.text for x in turn.answers)
  assert (answered['address'], answered['policy']) == ('10.0.0.1', 'v1')


def test_nobody_is_told_an_end_that_is_not_written_down(written):
  does, lines = written
  who = _somebody('h2')
  does.choose(types.SimpleNamespace(number=0), who)

  async def run():
    known = []
    async for _, _, told in does.ask('What?', True, True, 5, who):
      known.append((bool(told['aloud']), lines()[-1]['outcome']))
    return known

  known = asyncio.run(run())
  assert known[0] == (False, logs.BEGUN)
  assert known[-1][0]
  assert all(is_over == (how != logs.BEGUN) for is_over, how in known)


def test_of_an_answer_that_is_cut_short_the_words_are_written_down(
  made, written
):
  does, lines = written
  does = _does(made[0], new_tokens=300, book=does.book)
  who = _somebody('h3')
  does.choose(types.SimpleNamespace(number=0), who)

  async def run():
    steps = does.ask('What?', True, True, 5, who)
    async for _ in steps:
      (turn,) = does.visits.of('h3').turns
      if all(said.text for said in turn.answers):
        break
    told = [said.text for said in turn.answers]
    await steps.aclose()
    return told

  told = asyncio.run(run())
  begun, gone = lines()
  assert (begun['outcome'], gone['outcome']) == (logs.BEGUN, 'gone')
  assert gone['answer'] == '\n'.join(told)


class _Full:
  """A log whose disk has room for so many lines."""

  def __init__(self, room):
    self.room, self.outcomes = room, []

  def keyed(self, data):
    return ''

  def add(self, *, outcome, **entry):
    self.room -= 1
    if self.room < 0:
      raise OSError('No space left on device')
    self.outcomes.append(outcome)


def test_where_nothing_can_be_written_down_nothing_is_asked(made):
  does = _does(made[0], book=noted.Book(_Full(0), 'weights'))
  who = _somebody('h4')
  does.choose(types.SimpleNamespace(number=0), who)
  *_, (_, _, told) = _asked(does, 'What?', who)
  assert 'found that it cannot be written; tell who runs' in told['wrong']
  assert does.visits.of('h4').turns == []
  # And what is refused for another reason says which.
  *_, (_, _, told) = _asked(does, ' ', who)
  assert 'found none; write one' in told['wrong']


def test_an_end_that_cannot_be_written_down_is_none(made):
  log = _Full(1)
  does = _does(made[0], book=noted.Book(log, 'weights'))
  who = _somebody('h5')
  does.choose(types.SimpleNamespace(number=0), who)
  *_, (said, _, told) = _asked(does, 'What?', who)
  assert log.outcomes == [logs.BEGUN]
  assert 'found that it cannot be written' in told['aloud']
  assert 'class="failed"' in said
  assert 'class="said"' not in said


def test_half_of_a_pair_is_refused_before_it_is_written_down(written):
  does, lines = written
  who = _somebody('h6')
  does.choose(types.SimpleNamespace(number=0), who)
  *_, (_, _, told) = _asked(does, 'What \ud800?', who)
  assert "found '\\ud800', half of a pair; give both" in told['wrong']
  (line,) = lines()
  assert (line['outcome'], line['question']) == ('refused', 'What ??')
  assert does.visits.of('h6').turns == []


def test_a_motion_is_known_by_its_body_too():
  """And is hashed where nobody has to wait for it."""
  seen = []

  def keyed(data):
    seen.append(threading.current_thread())
    return data.decode()

  async def stream():
    yield b'angles'
    yield b'body'

  record = _record()
  clip = asyncio.run(
    site._read(
      types.SimpleNamespace(read=lambda **_: inputs.Given(record, [])),
      types.SimpleNamespace(stream=stream),
      {'kind': 'motion', 'name': '1.amc', 'body': '1.asf', 'body_bytes': '4'},
      {'motion': 99},
      types.SimpleNamespace(keyed=keyed),
    )
  )
  assert clip.digests == {'motion': 'anglesbody'}
  assert threading.current_thread() not in seen


@pytest.mark.skipif(not shutil.which('node'), reason='needs node')
@pytest.mark.parametrize('number', [2000, 2001])
def test_blanks_around_a_question_do_not_count(made, number):
  question = ' ' + 'x' * number + '\n'
  call = f'({page._COUNTED})({json.dumps(question)}, true, false, 0)'
  script = f'console.log(JSON.stringify({call}))'
  counted = subprocess.run(
    ['node', '-e', script], check=True, capture_output=True, text=True
  )
  sent, compare, agrees, letters = json.loads(counted.stdout)
  assert (compare, agrees, letters) == (True, False, number)
  *_, (_, _, told) = _asked(_does(made[0]), sent, _somebody('h7'), letters)
  # Nothing was shown, which is what is wrong where its length is not.
  is_long = 'ask in fewer words' in told['wrong']
  assert is_long == (number > handlers.MOST_LETTERS)


def test_visitors_do_not_hear_each_other(plain):
  client, visits = plain
  for session in ('b1', 'b2'):
    visitor.call(client, 'example', [], session=session, told={'number': 0})
  visitor.call(client, 'submit', ['What?', False, False, 5], session='b1')
  assert len(visits.of('b1').turns) == 1
  assert visits.of('b2').turns == []


def test_the_next_question_can_be_typed_while_an_answer_is_written(made):
  does = _does(made[0])
  who = _somebody('f1')
  does.choose(types.SimpleNamespace(number=0), who)

  async def lines():
    asked = does.ask('What?', False, False, 5, who)
    return [x async for _, x, _ in asked]

  first, *later = asyncio.run(lines())
  assert first == ''
  assert later
  assert '' not in later


def test_all_that_can_be_done_goes_through_the_queue(plain):
  # What does not is posted to a route that is not there.
  for what in visitor.config(plain[0])['dependencies']:
    is_page_end = [target[1] for target in what['targets']] == ['unload']
    assert is_page_end or what['queue'], what['targets']


def test_an_open_page_finds_that_the_server_was_started_again(plain):
  client, _ = plain
  reply = client.get('/gradio_api/app_id')
  assert reply.json() == {'app_id': visitor.config(client)['app_id']}


@pytest.mark.parametrize(
  ('question', 'letters', 'session', 'sentence'),
  [
    # Of an open page whose server was started again, too.
    ('What?', 5, 'c1', 'pick an example, or give a file'),
    ('  ', 2, 'c2', 'found none; write one'),
    ('x' * 2001, None, 'c3', 'found 2001; ask in fewer words'),
    # Of more the page sends the beginning, and how many there are.
    ('x' * 2001, 3_000_000, 'c4', 'found 3000000; ask in fewer words'),
  ],
)
def test_a_question_that_cannot_be_answered_says_why(
  plain, question, letters, session, sentence
):
  asked = [question, False, False, letters]
  *_, done = visitor.call(plain[0], 'submit', asked, session=session)
  assert done['success']
  assert sentence in _wrong(done)


def _wrong(done):
  """What is said beside a question."""
  return done['output']['data'][2]['wrong']


def test_a_visit_begins_anew_where_the_server_knows_nothing_of_it(plain):
  client, _ = plain
  for event, told in (('removed', {'medium': 'motion'}), ('click', None)):
    done = visitor.call(client, event, [], session=f'g-{event}', told=told)[-1]
    assert done['success'], done


def test_a_policy_has_to_be_accepted_where_it_is_required(opened):
  client, _ = opened(policy=POLICY._replace(required=True))
  visitor.call(client, 'example', [], session='d1', told={'number': 0})
  done = visitor.call(
    client, 'submit', ['What?', False, False, 5], session='d1'
  )[-1]
  assert 'tick its box' in _wrong(done)
  done = visitor.call(
    client, 'submit', ['What?', False, True, 5], session='d1'
  )[-1]
  assert 'tick its box' not in str(done['output'])


def test_who_closes_the_page_is_forgotten(plain):
  client, visits = plain
  with client.stream('GET', '/gradio_api/heartbeat/e1') as beat:
    lines = beat.iter_lines()
    next(lines)  # Dropped, it would close the line.
    visitor.call(client, 'example', [], session='e1', told={'number': 0})
    assert 'e1' in visits._visits
  deadline = time.monotonic() + 30
  while 'e1' in visits._visits and time.monotonic() < deadline:
    time.sleep(0.05)
  assert 'e1' not in visits._visits


@pytest.mark.parametrize(
  ('query', 'data', 'sentence'),
  [
    ({'kind': 'motion', 'name': '../../etc/passwd'}, b'x', 'a name without'),
    ({'kind': 'motion', 'name': 'x.npy'}, b'x' * 9, 'one that begins with'),
    ({'kind': 'sound', 'name': 'x.wav'}, b'x', 'found sound; this page'),
    ({}, b'x', 'found nothing; this page'),
    ({'kind': 'motion', 'name': 'x.bvh', 'fps': 'many'}, b'x', 'a number'),
    ({'kind': 'video', 'name': 'x.mp4'}, b'', 'send it again'),
  ],
)
def test_a_file_that_is_none_is_refused_with_a_sentence(
  plain, query, data, sentence
):
  reply = plain[0].post('/clip', params=query, content=data)
  assert reply.status_code == 400
  error = reply.json()['error']
  assert sentence in error
  assert '/tmp' not in error


def test_more_bytes_than_allowed_are_not_even_read(plain):
  client, _ = plain
  query = {'kind': 'video', 'name': 'x.mp4'}
  long = LIMITS.max_video_bytes + 1
  reply = client.post('/clip', params=query, content=bytes(long))
  assert reply.status_code == 400
  assert 'found more in x.mp4; cut it' in reply.json()['error']
  huge = max(LIMITS.max_motion_bytes, long) + 1
  assert client.post('/clip', content=bytes(huge)).status_code == 413
  body = bytes(site._MOST_BYTES + 1)
  assert client.post('/gradio_api/queue/join', content=body).status_code == 413


def test_more_bytes_than_announced_are_not_kept():
  heard = []

  async def inside(scope, receive, send):
    while (message := await receive())['type'] == 'http.request':
      heard.append(message['body'])

  async def receive():
    return {'type': 'http.request', 'body': bytes(1 << 16), 'more_body': True}

  guarded = site._guarded(inside, '', 0, ('*',))
  scope = {
    'type': 'http', 'method': 'POST', 'path': '/gradio_api/queue/join',
    'headers': [],
  }  # fmt: skip
  asyncio.run(asyncio.wait_for(guarded(scope, receive, None), 30))
  assert sum(map(len, heard)) <= site._MOST_BYTES


@pytest.mark.parametrize(
  'path',
  [
    '/gradio_api/file=/etc/passwd',
    '/gradio_api/file/etc/passwd',
    '/file=/etc/passwd',
    '/gradio_api/proxy=http://example.com/',
    '/gradio_api/upload',
    '/gradio_api/info',
    '/gradio_api/runs',
    '/config',
    '/docs',
    '/assets/../../routes.py',
    '/static/%2e%2e/%2e%2e/routes.py',
    '/login',
    '/monitoring',
    '/gradio_api/call/ask',
  ],
)
def test_nothing_else_is_there(plain, path):
  for method in ('GET', 'POST'):
    reply = plain[0].request(method, path)
    assert reply.status_code in (403, 404, 405), (method, reply.status_code)
    assert 'root:' not in reply.text


def test_the_browser_is_told_to_ask_nobody_else(plain):
  reply = plain[0].get('/')
  assert "default-src 'self'" in reply.headers['content-security-policy']
  assert reply.headers['x-content-type-options'] == 'nosniff'
  assert 'A &lt;test&gt;.' in json.dumps(visitor.config(plain[0]))


@pytest.mark.parametrize(
  ('headers', 'status'),
  [
    ({}, 400),
    ({'origin': 'http://127.0.0.1:8000', 'host': '127.0.0.1'}, 400),
    ({'origin': 'https://evil.example'}, 403),
    ({'origin': 'null'}, 403),
    ({'sec-fetch-site': 'cross-site'}, 403),
    ({'sec-fetch-site': 'same-site'}, 403),
    ({'sec-fetch-site': 'same-origin'}, 400),
  ],
)
def test_another_page_sends_nothing_in_a_visitors_name(plain, headers, status):
  for path in ('/clip', '/gradio_api/queue/join'):
    reply = plain[0].post(path, content=b'x', headers=headers)
    # What is let in is no file, and no question.
    assert (reply.status_code == 403) == (status == 403), reply.text


def test_nobody_is_led_here_under_another_name(opened):
  client, _ = opened(hosts=('localhost', '127.0.0.1', '[::1]'))
  assert client.get('/').status_code == 200
  for host in ('localhost:1', '[::1]:1', 'LOCALHOST'):
    assert client.get('/', headers={'host': host}).status_code == 200
  for host in ('evil.example', 'evil.example:7860', '', 'localhost.evil'):
    assert client.get('/', headers={'host': host}).status_code == 403


def test_a_password_is_asked_for_everywhere(opened):
  client, _ = opened(password=PASSWORD)
  for path in ('/', '/theme.css', '/clip', '/gradio_api/heartbeat/x', '/x'):
    for auth in (None, ('me', 'wrong'), ('me', '')):
      reply = client.request('POST', path, auth=auth)
      assert reply.status_code == 401
      assert reply.headers['www-authenticate'].startswith('Basic')
  for wrong in ('Basic !!', 'Basic', 'Bearer x', ''):
    headers = {'authorization': wrong}
    assert client.get('/', headers=headers).status_code == 401
  assert client.get('/', auth=('me', PASSWORD)).status_code == 200


def test_videos_are_refused_where_there_is_motion_alone(opened):
  client, _ = opened(media=('motion',))
  query = {'kind': 'video', 'name': 'x.mp4'}
  reply = client.post('/clip', params=query, content=b'x')
  assert 'Expected a motion, found video' in reply.json()['error']
  props = _stage_props(client)
  assert list(props['endings']) == ['motion']
  assert props['most_bytes'] == {'motion': LIMITS.max_motion_bytes}


def _stage_props(client):
  return next(
    x['props']
    for x in visitor.config(client)['components']
    if x['props'].get('elem_id') == 'stage'
  )['props']


def test_tickets_are_few_and_worth_something_once():
  desk = site.Desk()
  tickets = [desk.keep(clips.NOTHING) for _ in range(site._MOST_TICKETS + 1)]
  assert len(set(tickets)) == len(tickets)
  with pytest.raises(KeyError):
    desk.take(tickets[0])
  assert desk.take(tickets[-1]) is clips.NOTHING
  with pytest.raises(KeyError):
    desk.take(tickets[-1])


def test_the_visit_that_was_quiet_longest_is_forgotten(monkeypatch):
  monkeypatch.setattr(handlers, '_MOST_VISITS', 2)
  visits = handlers.Visits()
  first = visits.of('1')
  second = visits.of('2')
  assert visits.of('1') is first
  visits.of('3')
  assert len(visits) == 2
  assert visits.of('1') is first
  assert visits.of('2') is not second
