"""The shape of OpenAI's chat completions, with motions and videos.

    {"model": "tiny",
     "messages": [{"role": "user", "content": [
        {"type": "text", "text": "Where does he go?"},
        {"type": "motion", "motion": {"data": "<base64>", "format": "bvh"}},
        {"type": "video", "video": {"data": "<base64>", "format": "mp4"}}]}],
     "stream": true, "temperature": 0.7, "seed": 1}

A motion can also have `fps`, `up` and `unit`, where its file does not say. A
video can come as `video_url` with a `data:` URL as well; no other is opened.
Messages that follow each other from the same side are one, a line each, as of
clients that send a clip and a question about it apart. What a client asks for
and nobody here does is refused, not passed over.

Nothing here knows of HTTP: `read` makes a request of a JSON body, the others
make bodies of answers.
"""

import base64
import dataclasses
import itertools
import json
import secrets
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vimonet_jax.apps import uploads
from vimonet_jax.data import records
from vimonet_jax.infer import generate, scheduler

# What becomes of a system message.
REFUSE, LEAVE_OUT = SYSTEM_MESSAGES = ('refuse', 'leave_out')
_MOST_STOPS = 16
# Letters of each: every piece of an answer is compared with their beginnings.
_LONGEST_STOP = 256
# Fields that mean something here; null is the same as none.
_FIELDS = (
  'model', 'messages', 'stream', 'stream_options', 'n', 'temperature', 'top_p',
  'top_k', 'max_tokens', 'max_completion_tokens', 'stop', 'seed',
)  # fmt: skip
# Fields that change nothing, and values with which others do not.
_OF_NO_EFFECT = (
  'user', 'metadata', 'store', 'safety_identifier', 'prompt_cache_key',
  'prompt_cache_retention', 'service_tier',
)  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {
  'frequency_penalty': (0,),
  'presence_penalty': (0,),
  'logit_bias': ({},),
  'logprobs': (False,),
  'top_logprobs': (0,),
  'tools': ([],),
  'tool_choice': ('none', 'auto'),
  'parallel_tool_calls': (True, False),
  'functions': ([],),
  'function_call': ('none', 'auto'),
  'reasoning_effort': ('none',),
  'verbosity': ('medium',),
  'response_format': ({'type': 'text'},),
  'modalities': (['text'],),
  # Not OpenAI's, but sent by clients of other servers with their defaults.
  'min_p': (0,),
  'repetition_penalty': (1,),
}
_SYSTEM = ('system', 'developer')
_ROLES = ('user', 'assistant', *_SYSTEM)
_SAID_OF_A_MOTION = {'fps': (int, float), 'up': str, 'unit': str}


class RequestError(ValueError):
  """A request that cannot be answered, in one sentence.

  Attributes:
    status: of HTTP.
    kind: of OpenAI's error types.
    param: the field that is wrong.
    code: that programs know it by.
  """

  def __init__(
    self,
    sentence: str,
    *,
    status: int = 400,
    kind: str = 'invalid_request_error',
    param: str | None = None,
    code: str | None = None,
  ):
    super().__init__(sentence)
    self.status, self.kind, self.param, self.code = status, kind, param, code

  def body(self) -> dict[str, Any]:
    """What a client gets to read."""
    return {
      'error': {
        'message': str(self),
        'type': self.kind,
        'param': self.param,
        'code': self.code,
      }
    }


def check_unicode(text: str) -> None:
  """Raises a RequestError where half of a pair has no bytes to be told with."""
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise RequestError(
      f'Expected text in Unicode, found {ascii(text[error.start])}, half of a '
      'pair; give both halves or none.'
    ) from error


@dataclasses.dataclass(frozen=True)
class Asked:
  """A request that can be answered.

  Attributes:
    turns: the conversation, of which the last answer is open.
    motion, video: files that came along.
    said: fps, up and unit of the motion, where they were given.
    sampling: how answers are drawn.
    seeds: of each of `n` answers.
    stop: texts that they end before.
    is_streamed: they are wanted while they are written.
    includes_usage: tokens are told at the end of a stream.
    notes: what was left out.
  """

  turns: tuple[records.Turn, ...]
  motion: uploads.File | None
  video: uploads.File | None
  said: Mapping[str, Any]
  sampling: generate.Sampling
  seeds: tuple[int, ...]
  stop: tuple[str, ...]
  is_streamed: bool
  includes_usage: bool
  notes: tuple[str, ...] = ()


def read(
  body: Any,
  *,
  model: str,
  sampling: generate.Sampling = generate.GREEDY,
  most_answers: int = 8,
  system_messages: str = REFUSE,
) -> Asked:
  """Makes a request of a body.

  Args:
    body: as it was parsed.
    model: the name that the client has to ask for.
    sampling: what the body does not say.
    most_answers: the largest `n`.
    system_messages: one of SYSTEM_MESSAGES, what becomes of one with words.

  Raises:
    RequestError: it is none.
  """
  if not isinstance(body, dict):
    raise RequestError(f'Expected a JSON object, found {_shown(body)}.')
  body = {name: value for name, value in body.items() if value is not None}
  _check_fields(body)
  name = _get(body, 'model', str, '')
  if not name:
    raise RequestError(
      f'Expected a model, found none; ask for {model!r}.', param='model'
    )
  if name != model:
    raise RequestError(
      f'Expected model {model!r}, found {_shown(name)}; ask for that one.',
      status=404,
      param='model',
      code='model_not_found',
    )
  messages, notes = _without_system(
    [
      _message(fields, f'message {i}')
      for i, fields in enumerate(_get(body, 'messages', list, []))
    ],
    system_messages,
  )
  turns, motion, video, said = _conversation(messages)
  number = _get(body, 'n', int, 1)
  if not 1 <= number <= most_answers:
    raise RequestError(
      f'Expected n from 1 to {most_answers}, found {_shown(number)}.',
      param='n',
    )
  seed = _get(body, 'seed', int, secrets.randbits(32))
  options = _get(body, 'stream_options', dict, {})
  return Asked(
    turns=turns,
    motion=motion,
    video=video,
    said=said,
    sampling=_sampling(body, sampling),
    seeds=tuple(seed + i for i in range(number)),
    stop=_stop(body.get('stop', ())),
    is_streamed=_get(body, 'stream', bool, False),
    includes_usage=_get(options, 'include_usage', bool, False),
    notes=notes,
  )


def _check_fields(body: Mapping[str, Any]) -> None:
  for name, value in body.items():
    if name in _FIELDS or name in _OF_NO_EFFECT:
      continue
    neutral = _NEUTRAL.get(name, ())
    if value in neutral:
      continue
    found = f'found {name[:40]!r}, which is not done here; leave it out'
    if neutral:
      found = f'{found}, or send {" or ".join(json.dumps(x) for x in neutral)}'
    raise RequestError(
      f'Expected fields {", ".join(_FIELDS)}, {found}.',
      param=name[:40],
      code='unsupported_parameter',
    )


def _get(fields: Mapping[str, Any], name: str, kind: Any, default: Any) -> Any:
  """A field of a kind; a bool is no number, and a number is finite."""
  value = fields.get(name)
  value = default if value is None else value
  is_number = kind in (int, float, (int, float))
  is_kind = isinstance(value, kind) and not (
    is_number and isinstance(value, bool)
  )
  if is_number and is_kind:  # False also of NaN, and 10^400 is no float.
    is_kind = abs(value) <= sys.float_info.max
  if not is_kind:
    raise RequestError(
      f'Expected {name} as {_KINDS[kind]}, found {_shown(value)}.', param=name
    )
  return value


_KINDS = {
  str: 'text',
  int: 'a whole number',
  (int, float): 'a number',
  bool: 'true or false',
  list: 'a list',
  dict: 'an object',
}


def _shown(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f'{text[:60]}...'


def _sampling(
  body: Mapping[str, Any], default: generate.Sampling
) -> generate.Sampling:
  number = (int, float)
  most = _get(body, 'max_tokens', int, default.max_new_tokens)
  fields = {
    'temperature': _get(body, 'temperature', number, default.temperature),
    'top_p': _get(body, 'top_p', number, default.top_p),
    'top_k': _get(body, 'top_k', int, default.top_k),
    'max_new_tokens': _get(body, 'max_completion_tokens', int, most),
  }
  for name, low, high in (
    ('temperature', 0, 2),
    ('top_p', 0, 1),
    ('top_k', 0, 2**31 - 1),
    ('max_new_tokens', 1, 2**31 - 1),
  ):
    if not low <= fields[name] <= high:
      asked = 'max_tokens' if name == 'max_new_tokens' else name
      raise RequestError(
        f'Expected {asked} from {low} to {high}, found {_shown(fields[name])}.',
        param=asked,
      )
  if not fields['top_p']:  # Only the best token stays in the draw.
    fields |= {'temperature': 0, 'top_p': 1}
  return generate.Sampling(**fields)


def _stop(value: Any) -> tuple[str, ...]:
  texts = [value] if isinstance(value, str) else value
  if (
    not isinstance(texts, (list, tuple))
    or len(texts) > _MOST_STOPS
    or not all(
      isinstance(x, str) and 0 < len(x) <= _LONGEST_STOP for x in texts
    )
  ):
    raise RequestError(
      f'Expected stop as a text or a list of at most {_MOST_STOPS}, of 1 to '
      f'{_LONGEST_STOP} letters each, found {_shown(value)}.',
      param='stop',
    )
  return tuple(texts)


# --- Messages ----------------------------------------------------------------


class _Message(NamedTuple):
  """What was said at once.

  Attributes:
    role: whose it is.
    text: its words.
    files: by medium, and what was said of each.
  """

  role: str
  text: str
  files: dict[str, tuple[uploads.File, dict[str, Any]]]


def _message(fields: Any, where: str) -> _Message:
  role = fields.get('role') if isinstance(fields, dict) else None
  if role not in _ROLES:
    raise _wrong(
      f'Expected {where} to be of {" or ".join(_ROLES)}, found {_shown(role)}.'
    )
  return _Message(role, *_content(fields.get('content'), where))


def _without_system(
  messages: Sequence[_Message], rule: str
) -> tuple[Sequence[_Message], tuple[str, ...]]:
  """Messages without those of the system, and notes of that."""
  left, notes = [], []
  for message in messages:
    role = message.role
    if role not in _SYSTEM:
      left.append(message)
    elif not message.text.strip() and not message.files:
      continue
    elif rule == LEAVE_OUT:
      notes.append(
        f'The {role} message was left out: the model was trained with its own.'
      )
    else:
      raise RequestError(
        f'Expected messages of user and assistant, found one of the {role}; '
        'the model was trained without any, or with its own: leave it out, or '
        'let the server do so with '
        '--config.serve.system_messages=leave_out.',
        param='messages',
        code='unsupported_system_message',
      )
  return left, tuple(dict.fromkeys(notes))


def _conversation(messages: Sequence[_Message]):
  """Turns, motion, video, and what was said of the motion."""
  said = [
    _joined(list(some))
    for _, some in itertools.groupby(messages, key=lambda x: x.role)
  ]
  if len(said) % 2 == 0 or said[0].role != 'user':
    raise _wrong(
      'Expected messages of user and assistant, the first and the last of the '
      f'user, found {" ".join(x.role for x in said[-5:]) or "none"}.'
    )
  for i, message in enumerate(said):
    if message.files and i:
      raise _wrong(
        'Expected motion and video before the first answer, where the model '
        'reads them, found one behind it; begin a new conversation.'
      )
    # A model may have answered nothing, and clients send that back.
    if message.role == 'user' and not message.text.strip():
      raise _wrong('Expected words of the user, found none; ask something.')
  texts = [message.text for message in said]
  turns = [
    records.Turn(question, answer)
    for question, answer in zip(texts[::2], [*texts[1::2], ''], strict=True)
  ]
  motion, said_of_it = said[0].files.get('motion', (None, {}))
  video, _ = said[0].files.get('video', (None, {}))
  return tuple(turns), motion, video, said_of_it


def _joined(messages: Sequence[_Message]) -> _Message:
  """One message of several that follow each other from the same side."""
  files = {}
  for message in messages:
    for medium, file in message.files.items():
      if medium in files:
        raise _several(medium)
      files[medium] = file
  texts = [x.text for x in messages if x.text]
  return _Message(messages[0].role, '\n'.join(texts), files)


def _content(content: Any, where: str):
  """Words of a message, and its files."""
  if isinstance(content, str):
    return content, {}
  if not isinstance(content, list):
    raise _wrong(
      f'Expected content of {where} as text or a list of parts, found '
      f'{_shown(content)}.'
    )
  texts, files = [], {}
  for part in content:
    kind = part.get('type') if isinstance(part, dict) else None
    if kind == 'text':
      texts.append(_get(part, 'text', str, None))
      continue
    if not isinstance(kind, str) or kind not in _FILES:
      instead = _INSTEAD.get(str(kind), 'leave it out')
      raise _wrong(
        f'Expected parts of {where} to be text, motion, video or video_url, '
        f'found {_shown(kind)}; {instead}.'
      )
    medium = kind.removesuffix('_url')
    if medium in files:
      raise _several(medium)
    fields = part.get(kind)
    if not isinstance(fields, dict):
      raise _wrong(
        f'Expected {kind} as {_SHAPES[kind]}, found {_shown(fields)}.'
      )
    files[medium] = _FILES[kind](fields)
  return '\n'.join(texts), files


def _motion(fields: Mapping[str, Any]):
  _check_names('motion', fields, ('data', 'format', *_SAID_OF_A_MOTION))
  said = {
    name: _get(fields, name, kind, None)
    for name, kind in _SAID_OF_A_MOTION.items()
    if fields.get(name) is not None
  }
  return _file('motion', fields), said


def _check_names(
  medium: str, fields: Mapping[str, Any], known: Sequence[str]
) -> None:
  """A unit under a wrong name would be taken for none."""
  for name in fields:
    if name not in known:
      raise _wrong(
        f'Expected {medium} with {", ".join(known)}, found {name[:40]!r}; '
        'correct it or leave it out.'
      )


def _video(fields: Mapping[str, Any]):
  _check_names('video', fields, ('data', 'format'))
  return _file('video', fields), {}


def _video_url(fields: Mapping[str, Any]):
  url = _get(fields, 'url', str, None)
  kind, comma, data = url.partition(';base64,')
  if not comma or not kind.startswith('data:video/'):
    raise _wrong(
      'Expected video_url as data:video/mp4;base64,..., found '
      f'{url[:40]!r}; nothing is fetched from elsewhere: send the file itself.'
    )
  kind = kind.removeprefix('data:video/')
  return _file('video', {'data': data, 'format': kind}), {}


_FILES = {'motion': _motion, 'video': _video, 'video_url': _video_url}
_SHAPES = {
  'motion': '{"data": "<base64 of the file>", "format": "bvh"}',
  'video': '{"data": "<base64 of the file>", "format": "mp4"}',
  'video_url': '{"url": "data:video/mp4;base64,..."}',
}
# What others send, and what would be read.
_INSTEAD = {
  'image_url': 'send the video that the pictures are of',
  'input_text': 'call it text',
}


def _file(medium: str, fields: Mapping[str, Any]) -> uploads.File:
  data, name = fields.get('data'), fields.get('format')
  for field, value in (('data', data), ('format', name)):
    if not isinstance(value, str):
      raise _wrong(
        f'Expected {medium} as {_SHAPES[medium]}, found its {field} to be '
        f'{_shown(value)}.'
      )
  try:
    return uploads.File(
      f'{medium}.{name}', base64.b64decode(data, validate=True)
    )
  except ValueError as error:  # Letters beyond ASCII, too.
    raise _wrong(
      f'Expected data of the {medium} in base64, found {_shown(data[:20])}; '
      'encode the bytes of the file, and put nothing before them.'
    ) from error


def _several(medium: str) -> RequestError:
  return _wrong(
    f'Expected one {medium} in a conversation, found more; ask about one at a '
    'time.'
  )


def _wrong(sentence: str) -> RequestError:
  return RequestError(sentence, param='messages')


# --- Answers -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Reply:
  """What all bodies of one request have in common.

  Attributes:
    id: of the request.
    model: its name.
    fingerprint: of its weights.
    created: seconds since 1970.
  """

  id: str
  model: str
  fingerprint: str
  created: int = dataclasses.field(default_factory=lambda: int(time.time()))

  def whole(
    self, ends: Sequence[scheduler.End], about: Mapping[str, Any]
  ) -> dict[str, Any]:
    """The body of a request that was not streamed.

    Args:
      ends: of its answers.
      about: what is told beyond OpenAI's shape, as `vimonet`.
    """
    choices = [
      {
        'index': i,
        'message': {'role': 'assistant', 'content': end.text},
        'logprobs': None,
        'finish_reason': end.reason,
      }
      for i, end in enumerate(ends)
    ]
    return {
      **self._head('chat.completion'),
      'choices': choices,
      'usage': usage(ends),
      'vimonet': {**about, 'seconds': seconds(ends)},
    }

  def begin(self, index: int) -> dict[str, Any]:
    """The first chunk of an answer."""
    return self._chunk(index, {'role': 'assistant', 'content': ''}, None)

  def piece(self, index: int, text: str) -> dict[str, Any]:
    """A chunk with words."""
    return self._chunk(index, {'content': text}, None)

  def end(self, index: int, end: scheduler.End) -> dict[str, Any]:
    """The last chunk of an answer."""
    return self._chunk(index, {}, end.reason)

  def usage(
    self, ends: Sequence[scheduler.End], about: Mapping[str, Any]
  ) -> dict[str, Any]:
    """The last chunk of all."""
    return {
      **self._head('chat.completion.chunk'),
      'choices': [],
      'usage': usage(ends),
      'vimonet': {**about, 'seconds': seconds(ends)},
    }

  def _chunk(self, index: int, delta: dict, reason: str | None):
    choice = {
      'index': index,
      'delta': delta,
      'logprobs': None,
      'finish_reason': reason,
    }
    return {**self._head('chat.completion.chunk'), 'choices': [choice]}

  def _head(self, kind: str) -> dict[str, Any]:
    return {
      'id': self.id,
      'object': kind,
      'created': self.created,
      'model': self.model,
      'system_fingerprint': self.fingerprint,
    }


def usage(ends: Iterable[scheduler.End]) -> dict[str, int]:
  """Tokens; the prompt of several answers counts once."""
  ends = list(ends)
  prompt, written = ends[0].prompt_tokens, sum(end.new_tokens for end in ends)
  return {
    'prompt_tokens': prompt,
    'completion_tokens': written,
    'total_tokens': prompt + written,
  }


def seconds(ends: Iterable[scheduler.End]) -> dict[str, float]:
  """How long each part took, for the answer that took it longest."""
  ends = list(ends)
  return {
    part: round(max(getattr(end, f'{part}_s') for end in ends), 4)
    for part in ('waited', 'encode', 'prompt', 'tokens')
  }
