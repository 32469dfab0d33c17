"""Bodies of requests, the good ones and the others, and bodies of answers."""

import base64
import dataclasses

import pytest

from vimonet_jax.apps import completions
from vimonet_jax.data import records
from vimonet_jax.infer import generate, scheduler

DATA = base64.b64encode(b'HIERARCHY').decode()
MOTION = {'type': 'motion', 'motion': {'data': DATA, 'format': 'bvh'}}
VIDEO = {'type': 'video', 'video': {'data': DATA, 'format': 'mp4'}}


def _with(part, **fields):
  """A part whose file has more fields."""
  kind = part['type']
  return {**part, kind: part[kind] | fields}


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


# What clients send along that is fine, since it changes nothing here.
@pytest.mark.parametrize(
  'fields',
  [
    {'user': 'me'},
    {'store': True, 'metadata': {'a': 'b'}},
    {'service_tier': 'auto', 'safety_identifier': 'x'},
    {'prompt_cache_key': 'x', 'prompt_cache_retention': '24h'},
    {'presence_penalty': 0, 'frequency_penalty': 0.0},
    {'min_p': 0.0, 'repetition_penalty': 1.0},
    {'logprobs': False, 'top_logprobs': None},
    {'logit_bias': {}},
    {'tools': [], 'tool_choice': 'none', 'parallel_tool_calls': True},
    {'functions': [], 'function_call': 'auto'},
    {'response_format': {'type': 'text'}, 'modalities': ['text']},
    {'reasoning_effort': 'none', 'verbosity': 'medium'},
    {'seed': None, 'stop': None, 'n': None, 'max_tokens': None},
    {'stop': []},
    {'stream_options': None, 'stream': None},
    {'stream_options': {'include_usage': None, 'include_obfuscation': False}},
  ],
  ids=lambda fields: ' '.join(fields),
)
def test_fields_that_would_change_nothing_are_let_through(fields):
  asked = _read(_body(seed=3) | fields)
  plain = _read(_body(seed=3))
  seeds = asked.seeds if 'seed' in fields else plain.seeds
  assert asked == dataclasses.replace(plain, seeds=seeds)


# And what means something.
@pytest.mark.parametrize(
  ('fields', 'wanted'),
  [
    ({'stream': True}, {'is_streamed': True}),
    (
      {'stream': True, 'stream_options': {'include_usage': True}},
      {'is_streamed': True, 'includes_usage': True},
    ),
    ({'stream': True, 'n': 2}, {'is_streamed': True, 'seeds': (3, 4)}),
    ({'stop': ['a', 'b', 'c', 'd']}, {'stop': ('a', 'b', 'c', 'd')}),
    (
      {'max_completion_tokens': 5, 'max_tokens': 9},
      {'sampling': generate.Sampling(max_new_tokens=5)},
    ),
    # Of the draw only the best token is left.
    ({'top_p': 0, 'temperature': 1}, {'sampling': generate.GREEDY}),
    ({'seed': -1}, {'seeds': (-1,)}),
  ],
)
def test_fields_that_mean_something_are_kept(fields, wanted):
  plain = _read(_body(seed=3))
  assert _read(_body(seed=3) | fields) == dataclasses.replace(plain, **wanted)


def test_what_one_side_says_in_a_row_is_one_message():
  """As of clients that send a clip and a question about it apart."""
  body = _body()
  body['messages'] = [
    {'role': 'user', 'content': [MOTION]},
    {'role': 'user', 'content': [_text('Where'), VIDEO], 'name': 'me'},
    {'role': 'user', 'content': 'to?'},
    {'role': 'assistant', 'content': 'To the'},
    {'role': 'assistant', 'content': 'left.', 'refusal': None},
    {'role': 'user', 'content': 'And then?'},
  ]
  asked = _read(body)
  assert asked.turns == (
    records.Turn('Where\nto?', 'To the\nleft.'), records.Turn('And then?', ''),
  )  # fmt: skip
  assert asked.motion.name == 'motion.bvh'
  assert asked.video.name == 'video.mp4'
  body['messages'][2]['content'] = [MOTION]
  with pytest.raises(completions.RequestError, match='one motion in a conv'):
    _read(body)


@pytest.mark.parametrize(
  ('body', 'said'),
  [
    ([], 'Expected a JSON object, found \\[\\]'),
    (_body(model='gpt-4'), "Expected model 'tiny', found 'gpt-4'"),
    (_body(model=None), "Expected a model, found none; ask for 'tiny'"),
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
    (_body(top_p=1.5), 'Expected top_p from 0 to 1, found 1.5'),
    (_body(presence_penalty=1), 'leave it out, or send 0.'),
    (_body(response_format={'type': 'json_object'}), 'send {"type": "text"}.'),
    (_body(logprobs=True), "found 'logprobs', which is not done here"),
    (_body(best_of=2), "found 'best_of', which is not done here; leave it"),
    (_body(max_tokens=0), 'Expected max_tokens from 1 '),
    (_body(max_tokens='9'), "Expected max_tokens as a whole number, found '9'"),
    (_body(seed=0.5), 'Expected seed as a whole number'),
    (_body(stop=['']), 'Expected stop as a text or a list of at most 16'),
    (_body(stop=['a'] * 17), 'at most 16'),
    (_body(stream='yes'), 'Expected stream as true or false'),
    (_body(stream_options=[]), 'Expected stream_options as an object'),
    (_body('A?', 'B.'), 'the last of the user, found user assistant.'),
    ({'model': 'tiny', 'messages': []}, 'the last of the user, found none'),
    ({'model': 'tiny', 'messages': ['A?']}, 'message 0 to be of user or assis'),
    (
      {'model': 'tiny', 'messages': [{'role': 'tool', 'content': 'A'}]},
      "message 0 to be of .* found 'tool'",
    ),
    (_body(' '), 'Expected words of the user, found none'),
    (_body(7), 'content of message 0 as text or a list of parts, found 7'),
    (_body([{'type': 'image_url'}]), "found 'image_url'; send the video"),
    (_body(['A?']), 'Expected parts of message 0'),
    (_body([{'type': 'text'}]), 'Expected text as text, found None'),
    (_body([MOTION]), 'Expected words of the user'),
    (_body([_text(), MOTION, MOTION]), 'one motion in a conversation'),
    (_body('A?', 'B.', [_text(), VIDEO]), 'found one behind it; begin a'),
    (_body([_text(), {'type': 'motion'}]), 'Expected motion as {"data": '),
    (
      _body([_text(), {'type': 'video_url', 'video_url': 'data:video/mp4'}]),
      "Expected video_url as {\"url\": .* found 'data:video/mp4'",
    ),
    # A motion in centimetres would be read as one in metres.
    (
      _body([_text(), _with(MOTION, units='cm')]),
      "with data, format, fps, up, unit, found 'units'",
    ),
    (
      _body([_text(), _with(VIDEO, fps=3)]),
      "Expected video with data, format, found 'fps'",
    ),
    (
      _body([_text(), {'type': 'motion', 'motion': {'format': 'bvh'}}]),
      'Expected motion as {.*}, found its data to be None',
    ),
    (
      _body([_text(), {'type': 'video', 'video': {'data': DATA}}]),
      'Expected video as {.*}, found its format to be None',
    ),
    (
      _body([_text(), {**VIDEO, 'video': {'data': '%', 'format': 'mp4'}}]),
      "data of the video in base64, found '%'",
    ),
    (
      _body([_text(), {**VIDEO, 'video': {'data': 'ä', 'format': 'mp4'}}]),
      "data of the video in base64, found 'ä'",
    ),
    (
      _body([_text(), {'type': ['motion']}]),
      'to be text, motion, video or video_url, found .*motion',
    ),
  ],
)  # fmt: skip
def test_other_requests_are_refused_in_a_sentence(body, said):
  with pytest.raises(completions.RequestError, match=said) as raised:
    _read(body)
  assert 400 <= raised.value.status < 500
  error = raised.value.body()['error']
  assert error.keys() == {'message', 'type', 'param', 'code'}
  assert error['type'] == 'invalid_request_error'
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
  with pytest.raises(completions.RequestError, match='Expected words'):
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
  body['messages'].append({'role': role, 'content': 'Be brief.'})
  assert _read(body, system_messages=completions.LEAVE_OUT).notes == (note,)
  body['messages'] = [{'role': role, 'content': ' '}, *_body()['messages']]
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
