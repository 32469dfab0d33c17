"""What is asked of a chat service, and what it answers, in OpenAI's form.

Pure functions of what `chat_api` is told and of what its cache holds.
"""

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Service:
  """Who answers, how, and within which limits.

  Attributes:
    base_url: ends before /chat/completions.
    model: as the service names it.
    input_usd: price of a million input tokens.
    output_usd: price of a million output tokens.
    budget_usd: the most that may ever be spent with one folder.
    key_variable: environment variable that holds the key, which is read from
      there, and neither written nor logged.
    temperature: None leaves it to the service; some models take no other.
    max_tokens: of one reply; what is longer is `malformed`.
    max_tokens_field: what the service calls it; OpenAI's reasoning models take
      `max_completion_tokens` only, other services know only `max_tokens`.
    image_tokens: what one image counts as, at most. 1445 is gpt-4o's figure at
      high detail (85 and 170 for each of 8 tiles); at low detail it is 85.
    max_at_once: requests under way together.
    requests_per_minute: evenly spaced, tries that fail included.
    timeout_s: longest silence of the service.
    tries: how often one request is sent at most until the service answers, and
      how many answers it may give until one is valid.
    takes_schemas: whether it can be told the JSON schema of an answer. What it
      is not told still holds for its answer, so the messages must say it.
  """

  base_url: str
  model: str
  input_usd: float
  output_usd: float
  budget_usd: float
  key_variable: str = 'OPENAI_API_KEY'
  temperature: float | None = 0.0
  max_tokens: int = 1024
  max_tokens_field: str = 'max_tokens'
  image_tokens: int = 1445
  max_at_once: int = 8
  requests_per_minute: float = 300.0
  timeout_s: float = 120.0
  tries: int = 3
  takes_schemas: bool = True

  def __post_init__(self):
    for name in ('input_usd', 'output_usd', 'budget_usd', 'image_tokens'):
      self._expect(name, getattr(self, name) >= 0, 'no less than 0')
    for name in ('max_tokens', 'max_at_once', 'tries'):
      self._expect(name, getattr(self, name) >= 1, 'at least 1')
    for name in ('requests_per_minute', 'timeout_s'):
      self._expect(name, getattr(self, name) > 0, 'above 0')
    is_url = re.match(r'https?://[^/]', self.base_url)
    self._expect('base_url', is_url, 'to begin with https:// or http://')
    fields = ('max_tokens', 'max_completion_tokens')
    is_known = self.max_tokens_field in fields
    self._expect('max_tokens_field', is_known, ' or '.join(fields))

  def body(self, request: 'Request') -> Json:
    """What is sent, in OpenAI's form."""
    body = {
      'model': self.model,
      'messages': list(request.messages),
      self.max_tokens_field: self.max_tokens,
    }
    if self.temperature is not None:
      body['temperature'] = float(self.temperature)  # 0 and 0.0 are one key.
    if request.schema is not None and self.takes_schemas:
      body['response_format'] = {
        'type': 'json_schema',
        'json_schema': {
          'name': 'answer',
          'schema': request.schema,
          'strict': True,
        },
      }
    return body

  def key(self, request: 'Request') -> str:
    """SHA-256 of all that decides the reply: who is asked, and what is sent."""
    asked = [self.base_url.rstrip('/'), self.body(request)]
    return hashlib.sha256(as_text(asked).encode()).hexdigest()

  def usd(self, input_tokens: int, output_tokens: int) -> float:
    """What tokens cost."""
    return (
      input_tokens * self.input_usd + output_tokens * self.output_usd
    ) / 1e6

  def most_tokens(self, body: Json) -> tuple[int, int]:
    """Upper bounds of (input, output): a token of text is a byte at least."""
    text, images = without_images(body)
    size = len(as_text(text).encode())
    return size + images * self.image_tokens, self.max_tokens

  def _expect(self, name: str, is_right: bool, what: str) -> None:
    if not is_right:
      raise ValueError(
        f'Expected {name} of the service {what}, found '
        f'{getattr(self, name)!r}; correct it.'
      )


@dataclasses.dataclass(frozen=True)
class Request:
  """One thing to ask.

  Attributes:
    id: the caller's; replies come in any order and are joined by it.
    messages: in OpenAI's form, images as parts of type `image_url`.
    schema: JSON schema of the answer. OpenAI wants `additionalProperties` false
      and every property `required`; a service that does not, says so.
    parse: reads an answer in place of JSON and the schema, which then only says
      what is wished for. Gives what becomes `Reply.parsed`; raises ValueError
      with what is wrong, and the answer is not valid.
  """

  id: str
  messages: Sequence[Json]
  schema: Json | None = None
  parse: Callable[[str], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Reply:
  """What came of a request.

  Attributes:
    id: the request's.
    status: `ok`; `malformed`, where no answer was valid or it was cut short;
      `refused` by the model or a filter; `failed`, where none came at all.
    text: the last answer, word for word, or the words of the refusal.
    parsed: the answer as the schema has it or `Request.parse` reads it; None
      without either, and where no answer was valid.
    model: the exact id of what answered.
    input_tokens: of all answers that it took, as the service counted; the most
      that it can have been where the service does not say.
    output_tokens: the same of what it wrote.
    usd: what they cost, whenever they were paid.
    is_cached: nothing was paid for it now.
    problem: why it is not `ok`.
    rejected: the answers before `text`, none of them valid.
  """

  id: str
  status: str
  text: str = ''
  parsed: Any = None
  model: str = ''
  input_tokens: int = 0
  output_tokens: int = 0
  usd: float = 0.0
  is_cached: bool = False
  problem: str = ''
  rejected: tuple[str, ...] = ()


def as_text(value: Any) -> str:
  return json.dumps(value, sort_keys=True, ensure_ascii=False)


def without_images(body: Json) -> tuple[Json, int]:
  """A body for people, with 40 characters of each image, and their number."""
  images = 0

  def shorten(part: Any) -> Any:
    nonlocal images
    if not isinstance(part, dict) or part.get('type') != 'image_url':
      return part
    images += 1
    image = part['image_url']
    if len(image['url']) > 80:
      length = len(image['url'])
      image = {**image, 'url': f'{image["url"][:40]}... ({length} characters)'}
    return {**part, 'image_url': image}

  messages = [
    {**message, 'content': [shorten(part) for part in message['content']]}
    if isinstance(message.get('content'), list | tuple)
    else message
    for message in body['messages']
  ]
  return {**body, 'messages': messages}, images


# --- What is answered --------------------------------------------------------


class Outcome(NamedTuple):
  """All replies to a request, and why there are no more."""

  replies: list[Json]
  problem: str = ''  # the service did not answer
  is_undone: bool = False  # no room, or told to stop
  needed_usd: float = 0.0


class _Answer(NamedTuple):
  status: str
  text: str
  parsed: Any = None
  problem: str = ''


def reply_of(request: Request, outcome: Outcome, *, is_cached: bool) -> Reply:
  completions = [reply['completion'] for reply in outcome.replies]
  answers = [_answer(each, request) for each in completions]
  tokens = [tokens_of(each) or (0, 0) for each in completions]
  reply = Reply(
    id=request.id,
    status='failed',
    input_tokens=sum(read for read, _ in tokens),
    output_tokens=sum(written for _, written in tokens),
    usd=math.fsum(reply['usd'] for reply in outcome.replies),
    is_cached=is_cached,
    problem=outcome.problem,
    rejected=tuple(answer.text for answer in answers),
  )
  if outcome.problem:
    return reply
  return dataclasses.replace(
    reply,
    **answers[-1]._asdict(),
    model=completions[-1].get('model') or '',
    rejected=reply.rejected[:-1],
  )


def is_settled(
  replies: Sequence[Json], request: Request, service: Service
) -> bool:
  """Whether another try would not be worth its price."""
  if not replies:
    return False
  last = _answer(replies[-1]['completion'], request)
  return last.status != 'malformed' or len(replies) >= service.tries


def _answer(completion: Json, request: Request) -> _Answer:
  """What one completion says, and whether that is valid."""
  if 'choices' not in completion:
    return _Answer(
      'refused', completion['error']['message'], problem='filtered'
    )
  choice = completion['choices'][0]
  message, reason = choice['message'], choice.get('finish_reason')
  text = message.get('content') or ''
  if message.get('refusal') or reason == 'content_filter':
    return _Answer('refused', message.get('refusal') or text, problem='refused')
  if reason == 'length':
    return _Answer('malformed', text, problem='cut short by max_tokens')
  if not text.strip():
    return _Answer('malformed', text, problem='empty')
  if request.parse is not None:
    try:
      return _Answer('ok', text, request.parse(text))
    except ValueError as error:
      return _Answer('malformed', text, problem=str(error))
  if request.schema is None:
    return _Answer('ok', text)
  fenced = re.fullmatch(r'\s*```(?:json)?\s*\n(.*)\n```\s*', text, re.DOTALL)
  try:
    parsed = read_json(
      fenced.group(1) if fenced else text, parse_constant=_no_number
    )
  except ValueError as error:
    return _Answer('malformed', text, problem=f'no JSON: {error}')
  mistake = next(_validator(as_text(request.schema)).iter_errors(parsed), None)
  if mistake:
    return _Answer('malformed', text, problem=mistake.message)
  return _Answer('ok', text, parsed)


def check_schema(request: Request) -> None:
  """Raises before anything is paid, not when the reply is read."""
  if request.schema is not None:
    _validator(as_text(request.schema))


def _no_number(text: str) -> NoReturn:
  raise ValueError(f'{text} is no number')


@functools.lru_cache(maxsize=8)
def _validator(schema: str) -> Any:
  """Of a schema as text, which may be a key here."""
  try:
    import jsonschema
  except ImportError:
    raise missing('jsonschema') from None
  found = json.loads(schema)
  kind = jsonschema.validators.validator_for(
    found, default=jsonschema.Draft202012Validator
  )
  try:
    kind.check_schema(found)
  except jsonschema.SchemaError as error:
    raise ValueError(
      f'Expected a JSON schema, found {schema[:80]} with a mistake '
      f'({error.message}); mend it.'
    ) from error
  return kind(found)


def missing(package: str) -> ImportError:
  return ImportError(
    f'Expected the package {package}, found none; install what paid services '
    "need with pip install -e '.[api]'."
  )


def read_json(text: str, **how: Any) -> Any:
  """What a service says, with `?` for each half of a surrogate pair.

  Models that stop within an emoji write one, which no file of UTF-8 can hold.

  Raises:
    ValueError: it is no JSON, or one that is nested without end.
  """
  try:
    found = json.loads(text, **how)
    return json.loads(as_text(found).encode('utf-8', 'replace'))
  except RecursionError:
    raise ValueError('nested too deeply') from None


def is_completion(value: Any) -> bool:
  """Whether a service answered; some send an `error` of null as well."""
  try:
    choice = value['choices'][0]
    return (
      isinstance(choice['message'].get('content'), str | None)
      and 'finish_reason' in choice
    )
  except (KeyError, IndexError, TypeError, AttributeError):
    return False


def tokens_of(completion: Json) -> tuple[int, int] | None:
  """Input and output; None where a service does not say, in its way or at all.

  What a filter held back has none of either.
  """
  if 'choices' not in completion:
    return 0, 0
  usage = completion.get('usage')
  usage = usage if isinstance(usage, dict) else {}
  counts = usage.get('prompt_tokens'), usage.get('completion_tokens')
  is_said = all(isinstance(n, int) and n >= 0 for n in counts)
  return counts if is_said else None


def one_line(text: str) -> str:
  """The beginning of a text, for a sentence."""
  return ' '.join(text.split())[:300]
