"""Bodies of requests, the good ones and the others, and bodies of answers."""

import base64

import pytest

from vimonet_jax.apps import completions
from vimonet_jax.data import records
from vimonet_jax.infer import generate, scheduler

DATA = base64.b64encode(b'HIERARCHY').decode()
MOTION = {'type': 'motion', 'motion': {'data': DATA, 'format': 'bvh'}}
VIDEO = {'type': 'video', 'video': {'data': DATA, 'format': 'mp4'}}


def _text(text='Where does he go?'):
  return {'type': 'text', 'text': text}


def _body(*contents, **fields):
  """A conversation; content of user and assistant in turn."""
  roles = ('user', 'assistant')
  messages = [
    {'role': roles[i % 2], 'content': content}
    for i, content in enumerate(contents or ('Where does he go?',))
  ]
  return {'model': 'tiny', 'messages': messages, **fields}


def _read(body, **settings):
  return completions.read(body, model='tiny', **settings)


def test_a_conversation_becomes_turns():
  asked = _read(_body('Who is it?', 'A man.', [_text('Where'), _text('to?')]))
  assert asked.turns == (
    records.Turn('Who is it?', 'A man.'), records.Turn('Where\nto?', '')
  )  # fmt: skip
  assert asked.motion is None
  assert asked.video is None
  assert not asked.is_streamed


def test_files_come_as_bytes_under_names_of_ours():
  motion = {**MOTION['motion'], 'fps': 30, 'unit': 'cm'}
  asked = _read(_body([_text(), {'type': 'motion', 'motion': motion}, VIDEO]))
  assert asked.motion.name == 'motion.bvh'
  assert asked.motion.data == b'HIERARCHY'
  assert asked.said == {'fps': 30, 'unit': 'cm'}
  assert asked.video.name == 'video.mp4'
  url = {'url': f'data:video/webm;base64,{DATA}'}
  asked = _read(_body([_text(), {'type': 'video_url', 'video_url': url}]))
  assert asked.video.name == 'video.webm'
  assert asked.video.data == b'HIERARCHY'


def test_what_is_not_said_is_as_the_server_draws():
  preset = generate.Sampling(temperature=0.5, top_k=7, max_new_tokens=30)
  assert _read(_body(), sampling=preset).sampling == preset
  body = _body(
    temperature=1, top_p=0.9, max_tokens=5, stop='.', seed=3, n=2, top_k=None
  )
  asked = _read(body, sampling=preset)
  assert asked.sampling == generate.Sampling(1, 7, 0.9, 5)
  assert asked.stop == ('.',)
  assert asked.seeds == (3, 4)
  assert _read(_body(max_completion_tokens=6)).sampling.max_new_tokens == 6


def test_without_a_seed_every_request_draws_anew():
  assert len({_read(_body()).seeds for _ in range(5)}) == 5


def test_fields_that_would_change_nothing_are_let_through():
  fields = {
    'user': 'me', 'presence_penalty': 0, 'logprobs': False, 'tools': [],
    'response_format': {'type': 'text'}, 'logit_bias': None,
    'stream': True, 'stream_options': {'include_usage': True},
  }  # fmt: skip
  asked = _read(_body(**fields))
  assert asked.is_streamed
  assert asked.includes_usage


@pytest.mark.parametrize(
  ('body', 'said'),
  [
    ([], 'Expected a JSON object, found \\[\\]'),
    (_body(model='gpt-4'), "Expected model 'tiny', found 'gpt-4'"),
    (_body(model=7), 'Expected model as text, found 7'),
    (_body(tools=[{}]), "found 'tools', which is not done here; leave it out"),
    (_body(frequency_penalty=0.5), "found 'frequency_penalty'"),
    (_body(n=9), 'Expected n from 1 to 8, found 9'),
    (_body(n=10**400), 'Expected n as a whole number, found 1000'),
    (_body(temperature=10**400), 'Expected temperature as a number'),
    (_body(stop=['a' * 257]), 'of 1 to 256 letters each'),
    (_body(n=True), 'Expected n as a whole number, found True'),
    (_body(temperature=3), 'Expected temperature from 0 to 2, found 3'),
    (_body(temperature=float('nan')), 'Expected temperature as a number'),
    (_body(top_p=0), 'Expected top_p from 0 to 1, found 0'),
    (_body(max_tokens=0), 'Expected max_tokens from 1 '),
    (_body(max_tokens='9'), "Expected max_tokens as a whole number, found '9'"),
    (_body(seed=0.5), 'Expected seed as a whole number'),
    (_body(stop=['']), 'Expected stop as a text or a list of at most 16'),
    (_body(stop=['a'] * 17), 'at most 16'),
    (_body(stream='yes'), 'Expected stream as true or false'),
    (_body(stream_options=[]), 'Expected stream_options as an object'),
    (_body('A?', 'B.'), 'first and the last of the user, found 2'),
    ({'model': 'tiny', 'messages': []}, 'found 0 of them'),
    ({'model': 'tiny', 'messages': ['A?']}, 'message 0 to be of the user'),
    (_body(' '), 'Expected words in message 0, found none'),
    (_body(7), 'content of message 0 as text or a list of parts, found 7'),
    (_body([{'type': 'image_url'}]), "video or video_url, found 'image_url'"),
    (_body(['A?']), 'Expected parts of message 0'),
    (_body([{'type': 'text'}]), 'Expected text as text, found None'),
    (_body([MOTION]), 'Expected words in message 0'),
    (_body([_text(), MOTION, MOTION]), 'one motion in a conversation'),
    (_body('A?', 'B.', [_text(), VIDEO]), 'found one in message 2; begin a'),
    (_body([_text(), {'type': 'motion'}]), 'Expected motion as an object'),
    (
      _body([_text(), {'type': 'motion', 'motion': {'format': 'bvh'}}]),
      'Expected data as text, found None',
    ),
    (
      _body([_text(), {'type': 'video', 'video': {'data': DATA}}]),
      'Expected format as text, found None',
    ),
    (
      _body([_text(), {**VIDEO, 'video': {'data': '%', 'format': 'mp4'}}]),
      "data of the video in base64, found '%'",
    ),
  ],
)  # fmt: skip
def test_other_requests_are_refused_in_a_sentence(body, said):
  with pytest.raises(completions.RequestError, match=said) as raised:
    _read(body)
  assert 400 <= raised.value.status < 500
  assert '\n' not in str(raised.value)
  assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
  'url',
  ['http://127.0.0.1/a.mp4', 'file:///etc/passwd', 'data:text/html;base64,AA'],
)
def test_no_url_is_opened(url):
  part = {'type': 'video_url', 'video_url': {'url': url}}
  with pytest.raises(completions.RequestError, match='nothing is fetched'):
    _read(_body([_text(), part]))


def test_only_a_question_needs_words():
  assert _read(_body('A?', '', 'B?')).turns[0] == records.Turn('A?', '')
  with pytest.raises(completions.RequestError, match='words in message 2'):
    _read(_body('A?', '', ''))


@pytest.mark.parametrize('role', ['system', 'developer'])
def test_a_system_message_has_no_place(role):
  body = _body()
  body['messages'].insert(0, {'role': role, 'content': 'Be kind.'})
  with pytest.raises(completions.RequestError, match='its own: leave it') as e:
    _read(body)
  assert e.value.code == 'unsupported_system_message'
  asked = _read(body, system_messages=completions.LEAVE_OUT)
  assert asked.turns == _read(_body()).turns
  (note,) = asked.notes
  assert f'{role} message was left out' in note
  body['messages'][0]['content'] = ' '
  assert not _read(body).notes


def _end(text, **changes):
  fields = {
    'reason': 'stop', 'prompt_tokens': 90, 'new_tokens': 3, 'waited_s': 0.1,
    'encode_s': 0.2, 'prompt_s': 0.3, 'tokens_s': 0.4,
  }  # fmt: skip
  return scheduler.End(text, **(fields | changes))


def test_a_prompt_counts_once_and_the_slowest_answer_is_told():
  reply = completions.Reply('chatcmpl-1', 'tiny', 'f00', created=5)
  ends = [_end('One.'), _end('Two.', tokens_s=0.9, reason='length')]
  body = reply.whole(ends, {'inputs': ['motion']})
  assert [x['message']['content'] for x in body['choices']] == ['One.', 'Two.']
  assert [x['finish_reason'] for x in body['choices']] == ['stop', 'length']
  assert body['usage'] == {
    'prompt_tokens': 90, 'completion_tokens': 6, 'total_tokens': 96,
  }  # fmt: skip
  assert body['vimonet']['inputs'] == ['motion']
  assert body['vimonet']['seconds']['tokens'] == 0.9
