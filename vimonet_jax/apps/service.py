"""What a server does with a request, from its bytes to the bytes of the answer.

    key -> policy -> body -> completions.read -> uploads -> scheduler -> reply

Everything here runs in the server's loop, but for files, which other processes
read, and for answers, which the scheduler's thread writes.
"""

import asyncio
import collections
import contextlib
import dataclasses
import functools
import hashlib
import hmac
import json
import logging
import types
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

import anyio
import prometheus_client
from anyio import to_thread
from starlette import (
  applications,
  concurrency,
  middleware,
  requests,
  responses,
  routing,
)
from starlette.middleware import trustedhost

from vimonet_jax.apps import completions, inputs, uploads
from vimonet_jax.audit import log as logs
from vimonet_jax.audit import policy as policies
from vimonet_jax.data import records
from vimonet_jax.infer import generate, scheduler

# Clips that were read and are kept, since clients send a conversation's clips
# again with each of its turns.
_KEPT_BYTES = 2**28
# Files that are read, or wait for a process that reads them, at the same time.
_READERS = 16
# A larger body is parsed beside the loop, which others need.
_LARGE_BYTES = 2**16
# Of a status, what its clients look for.
_HEADERS = {
  401: {'WWW-Authenticate': 'Bearer'},
  429: {'Retry-After': '1'},
  503: {'Retry-After': '1'},
}


@dataclasses.dataclass(frozen=True)
class Limits:
  """Of requests.

  Attributes:
    max_answers: the largest `n`.
    max_body_mb: of one request.
    max_held_mb: of all requests that are being read.
    receive_s: seconds that a request may take to arrive.
    system_messages: one of completions.SYSTEM_MESSAGES.
  """

  max_answers: int = 8
  max_body_mb: int = 96
  max_held_mb: int = 512
  receive_s: float = 60.0
  system_messages: str = completions.REFUSE

  def __post_init__(self):
    if self.system_messages not in completions.SYSTEM_MESSAGES:
      raise ValueError(
        'Expected serve.system_messages to be one of '
        f'{", ".join(completions.SYSTEM_MESSAGES)}, found '
        f'{self.system_messages!r}.'
      )


class Metrics:
  """What Prometheus is told."""

  def __init__(self, together: scheduler.Scheduler):
    self._registry = prometheus_client.CollectorRegistry()
    self.requests = prometheus_client.Counter(
      'vimonet_requests', 'Requests by status', ['status'],
      registry=self._registry,
    )  # fmt: skip
    self.tokens = prometheus_client.Counter(
      'vimonet_tokens', 'Tokens read and written', ['kind'],
      registry=self._registry,
    )  # fmt: skip
    self.seconds = prometheus_client.Histogram(
      'vimonet_seconds', 'Seconds of a part of an answer', ['part'],
      registry=self._registry,
      buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
    )  # fmt: skip
    for state in ('waiting', 'active'):
      prometheus_client.Gauge(
        f'vimonet_{state}', f'Answers that are {state}', registry=self._registry
      ).set_function(lambda state=state: getattr(together.load(), state))

  def count(self, ends: Sequence[scheduler.End]) -> None:
    """Answers of one request."""
    used = completions.usage(ends)
    self.tokens.labels('prompt').inc(used['prompt_tokens'])
    self.tokens.labels('completion').inc(used['completion_tokens'])
    for part, seconds in completions.seconds(ends).items():
      self.seconds.labels(part).observe(seconds)

  def text(self) -> bytes:
    return prometheus_client.generate_latest(self._registry)


class Offer(NamedTuple):
  """What is served, to whom, and under which conditions.

  Attributes:
    name: of the model.
    weights: their fingerprint.
    keys: from `digest`, of those who may ask; none where everybody may.
    sampling: what a request does not say.
    policy: the usage policy.
    log: where requests are written down; None: nowhere.
    watermark: whether answers are marked.
  """

  name: str
  weights: str
  keys: frozenset[bytes] = frozenset()
  sampling: generate.Sampling = generate.GREEDY
  policy: policies.Policy = policies.Policy(policies.TEXT, '', False)
  log: logs.Log | None = None
  watermark: bool = False


class _Read(NamedTuple):
  """Clips that were read.

  Attributes:
    given: their record.
    size: bytes of it.
  """

  given: inputs.Given
  size: int


@dataclasses.dataclass
class _Visit:
  """A request on its way, as far as it has come.

  Attributes:
    id: of its answer.
    address: where it came from.
    api_key: of who asks.
    policy: version that was accepted.
    asked: what is asked, without files once they were read.
    files: of each that came along, how the log tells it from others.
    given: its clips.
  """

  id: str
  address: str | None
  api_key: str | None = None
  policy: str | None = None
  asked: completions.Asked | None = None
  files: Mapping[str, str] = dataclasses.field(default_factory=dict)
  given: inputs.Given | None = None

  @property
  def about(self) -> dict[str, Any]:
    """What is told beyond OpenAI's shape."""
    media = list(self.given.record.clips)
    return {'inputs': media, 'notes': [*self.asked.notes, *self.given.notes]}


class Service:
  """Everything that a request needs; its methods run in the server's loop.

  Attributes:
    answered: requests that got all their answers.
  """

  def __init__(
    self,
    offer: Offer,
    together: scheduler.Scheduler,
    files: uploads.Uploads,
    limits: Limits = Limits(),
  ):
    """Takes what others have opened, and will close.

    Args:
      offer: what is served.
      together: who answers.
      files: who reads uploads.
      limits: of requests.
    """
    self._offer = offer
    self._together = together
    self._files = files
    self._limits = limits
    self._held = 0
    # Threads of their own: whose clips are known need not wait for them.
    self._readers = anyio.CapacityLimiter(_READERS)
    self._kept: collections.OrderedDict[bytes, _Read] = (
      collections.OrderedDict()
    )
    self._metrics = Metrics(together)
    self.answered = 0

  def app(self, hosts: Sequence[str] = ('*',)) -> applications.Starlette:
    """An ASGI application.

    Args:
      hosts: names by which clients may know it. Where nobody needs a key,
        somebody's page could lead a browser here under a name of its own.
    """

    def route(path, endpoint, method):
      return routing.Route(path, endpoint, methods=[method])

    return applications.Starlette(
      routes=[
        route('/v1/chat/completions', self._complete, 'POST'),
        route('/v1/models', self._models, 'GET'),
        route('/v1/models/{name:path}', self._model, 'GET'),
        route('/v1/policy', self._tell_policy, 'GET'),
        route('/healthz', self._health, 'GET'),
        route('/metrics', self._tell_metrics, 'GET'),
      ],
      middleware=[
        middleware.Middleware(
          trustedhost.TrustedHostMiddleware, allowed_hosts=list(hosts)
        )
      ],
      exception_handlers={
        completions.RequestError: self._refuse,
        404: self._not_found,
        405: self._not_found,
        Exception: self._fail,
      },
    )

  # --- Endpoints -------------------------------------------------------------

  async def _complete(self, request: requests.Request) -> responses.Response:
    client = request.client
    visit = _Visit(
      f'chatcmpl-{uuid.uuid4().hex}', client.host if client else None
    )
    try:
      await self._receive(visit, request)
      if visit.asked.is_streamed:
        return self._streamed(visit)
      ends = await self._wait(visit, request)
    except completions.RequestError as error:
      self._note(visit, error.code or error.kind)
      raise
    self._count(visit, ends)
    return responses.JSONResponse(self._reply(visit).whole(ends, visit.about))

  async def _receive(self, visit: _Visit, request: requests.Request) -> None:
    """Lets somebody in, and reads what they ask and what they send."""
    visit.api_key = self._authorise(request)
    accepted = request.headers.get(policies.HEADER)
    try:
      policies.check(self._offer.policy, accepted)
    except policies.NotAcceptedError as error:
      raise completions.RequestError(
        str(error),
        status=403,
        kind='permission_error',
        code='policy_not_accepted',
      ) from error
    if accepted == self._offer.policy.version:
      visit.policy = accepted  # Anything else was not accepted, nor asked for.
    async with self._body(request) as body:
      visit.asked, key, visit.files = await self._parse(body)
      visit.given = await self._read(visit.asked, key)
    # Whoever waits for an answer holds no files any more.
    visit.asked = dataclasses.replace(visit.asked, motion=None, video=None)

  def _streamed(self, visit: _Visit) -> responses.Response:
    events: asyncio.Queue = asyncio.Queue()
    answers = self._ask(visit, lambda *event: events.put_nowait(event))
    try:
      # Or a crash would leave words that somebody has and no log knows of.
      self._note(visit, logs.BEGUN)
    except OSError:
      for answer in answers:
        answer.cancel()
      raise
    return responses.StreamingResponse(
      self._stream(visit, answers, events),
      media_type='text/event-stream',
      headers={'Cache-Control': 'no-cache', 'X-Accel-Buffering': 'no'},
    )

  async def _models(self, request: requests.Request) -> responses.Response:
    self._authorise(request)
    return responses.JSONResponse({'object': 'list', 'data': [self._card()]})

  async def _model(self, request: requests.Request) -> responses.Response:
    self._authorise(request)
    name = self._offer.name
    if request.path_params['name'] != name:
      raise completions.RequestError(
        f'Expected model {name!r}, found another name; ask for that one.',
        status=404,
        code='model_not_found',
      )
    return responses.JSONResponse(self._card())

  def _card(self) -> dict[str, Any]:
    return {
      'id': self._offer.name,
      'object': 'model',
      'created': 0,
      'owned_by': 'vimonet_jax',
      'fingerprint': self._offer.weights,
    }

  async def _tell_policy(self, request: requests.Request) -> responses.Response:
    del request
    return responses.JSONResponse(self._offer.policy._asdict())

  async def _health(self, request: requests.Request) -> responses.Response:
    del request
    load = self._together.load()
    return responses.JSONResponse(
      {'status': 'ok' if load.is_open else 'closed', **load._asdict()},
      status_code=200 if load.is_open else 503,
    )

  async def _tell_metrics(
    self, request: requests.Request
  ) -> responses.Response:
    del request
    return responses.Response(
      self._metrics.text(), media_type=prometheus_client.CONTENT_TYPE_LATEST
    )

  # --- A request -------------------------------------------------------------

  def _authorise(self, request: requests.Request) -> str | None:
    """The key of who asks; None where nobody needs one."""
    if not self._offer.keys:
      return None
    sent = request.headers.get('authorization', '')
    kind, _, key = sent.partition(' ')
    key = key.strip()
    # All of them, so that time does not tell which is nearly right.
    found = digest(key)
    matches = [hmac.compare_digest(found, known) for known in self._offer.keys]
    if kind.lower() != 'bearer' or not any(matches):
      raise completions.RequestError(
        'Expected the header Authorization: Bearer KEY with an API key of this '
        f'server, found {"another one" if sent else "no such header"}; ask for '
        'a key who runs it.',
        status=401,
        kind='authentication_error',
        code='invalid_api_key',
      )
    return key

  @contextlib.asynccontextmanager
  async def _body(self, request: requests.Request) -> AsyncIterator[bytearray]:
    """The bytes of a request, which count as held while they are in use."""
    body = bytearray()
    most = self._limits.max_body_mb * 2**20
    held = self._limits.max_held_mb * 2**20
    try:
      async with asyncio.timeout(self._limits.receive_s):
        async for chunk in request.stream():
          if len(body) + len(chunk) > most:
            raise completions.RequestError(
              f'Expected a request of at most {self._limits.max_body_mb} MiB,'
              ' found more; cut the clip or send it smaller.',
              status=413,
              code='request_too_large',
            )
          if self._held + len(chunk) > held:
            raise _busy('too many large requests come at the same time')
          body += chunk
          self._held += len(chunk)
      yield body
    except requests.ClientDisconnect as error:
      raise _nobody() from error
    except TimeoutError as error:
      raise completions.RequestError(
        f'Expected the whole request within {self._limits.receive_s:g} s, '
        f'found {len(body)} bytes of it; send it faster or smaller.',
        status=408,
        code='request_timeout',
      ) from error
    finally:
      self._held -= len(body)

  async def _parse(
    self, body: bytearray
  ) -> tuple[completions.Asked, bytes, dict[str, str]]:
    """A request, and by what its files are known, here and in the log."""

    def parse():
      asked = completions.read(
        _json(body),
        model=self._offer.name,
        sampling=self._offer.sampling,
        most_answers=self._limits.max_answers,
        system_messages=self._limits.system_messages,
      )
      sent = {'motion': asked.motion, 'video': asked.video}
      log = self._offer.log
      files = {
        kind: log.keyed(file.data)
        for kind, file in sent.items()
        if log is not None and file is not None
      }
      return asked, _key(asked), files

    if len(body) < _LARGE_BYTES:
      return parse()
    return await concurrency.run_in_threadpool(parse)

  async def _read(self, asked: completions.Asked, key: bytes) -> inputs.Given:
    """Clips as the model sees them, once for all turns about them."""
    if asked.motion is None and asked.video is None:
      return inputs.Given(records.Record('nothing', 'given', 'test'), [])
    if key in self._kept:
      self._kept.move_to_end(key)
      return self._kept[key].given
    try:
      given = await to_thread.run_sync(
        functools.partial(
          self._files.read,
          motion=asked.motion,
          video=asked.video,
          **asked.said,
        ),
        limiter=self._readers,
      )
    except uploads.RefusedError as error:
      raise completions.RequestError(
        str(error), param='messages', code='invalid_media'
      ) from error
    except (scheduler.BusyError, scheduler.ClosedError) as error:
      raise _said(error) from error
    clips = given.record.clips.values()
    self._kept[key] = _Read(given, sum(x.nbytes for x in clips))
    size = sum(x.size for x in self._kept.values())
    while size > _KEPT_BYTES:
      size -= self._kept.popitem(last=False)[1].size
    return given

  # --- Answers ---------------------------------------------------------------

  def _ask(self, visit: _Visit, tell) -> list[scheduler.Answer]:
    """Asks all or none; `tell(index, event)` is called in the loop."""
    asked = visit.asked
    record = dataclasses.replace(visit.given.record, turns=asked.turns)
    questions = [
      scheduler.Question(record, asked.sampling, seed=seed, stop=asked.stop)
      for seed in asked.seeds
    ]
    loop = asyncio.get_running_loop()
    try:
      return self._together.ask_all(
        questions, functools.partial(loop.call_soon_threadsafe, tell)
      )
    except (ValueError, scheduler.BusyError, scheduler.ClosedError) as error:
      raise _said(error) from error

  async def _wait(
    self, visit: _Visit, request: requests.Request
  ) -> list[scheduler.End]:
    """All ends; nothing is written on where the client has gone."""
    done: asyncio.Future = asyncio.get_running_loop().create_future()
    ends: dict[int, scheduler.End] = {}
    number = len(visit.asked.seeds)

    def tell(index: int, event: scheduler.Event) -> None:
      if isinstance(event, scheduler.End):
        ends[index] = event
      if done.done():
        return
      if isinstance(event, Exception):
        done.set_exception(_ended(event))
      elif len(ends) == number:
        done.set_result(None)

    answers = self._ask(visit, tell)
    gone = asyncio.ensure_future(_gone(request))
    try:
      await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
      if not done.done():
        raise _nobody()
      done.result()
    finally:
      gone.cancel()
      for answer in answers:
        answer.cancel()
    return [ends[i] for i in range(number)]

  async def _stream(
    self,
    visit: _Visit,
    answers: Sequence[scheduler.Answer],
    events: asyncio.Queue,
  ) -> AsyncIterator[str]:
    """Server-sent events, until all answers have ended."""
    reply, ends = self._reply(visit), {}
    told = [''] * len(answers)
    outcome, status = 'gone', '499'
    try:
      for index in range(len(answers)):
        yield _event(reply.begin(index))
      while len(ends) < len(answers):
        index, event = await events.get()
        if isinstance(event, Exception):
          outcome, status = 'failed', '500'
          yield _event(_ended(event).body())
          return
        if isinstance(event, scheduler.End):
          ends[index] = event
          if len(ends) == len(answers):  # Nobody is told so before the log.
            in_order = [ends[i] for i in range(len(answers))]
            outcome, status = 'failed', '500'
            try:
              self._count(visit, in_order)
            except OSError:
              yield _event(_failed().body())
              raise
            outcome = ''  # It was noted.
          yield _event(reply.end(index, event))
        else:
          told[index] += event
          yield _event(reply.piece(index, event))
      if visit.asked.includes_usage:
        yield _event(reply.usage(in_order, visit.about))
      yield 'data: [DONE]\n\n'
    finally:  # Also where the client has gone.
      for answer in answers:
        answer.cancel()
      if outcome:
        self._metrics.requests.labels(status).inc()
        self._note(visit, outcome, '\n'.join(told) if any(told) else None)

  def _reply(self, visit: _Visit) -> completions.Reply:
    return completions.Reply(visit.id, self._offer.name, self._offer.weights)

  def _count(self, visit: _Visit, ends: Sequence[scheduler.End]) -> None:
    self._note(
      visit,
      ends[0].reason,
      '\n'.join(end.text for end in ends),
      completions.seconds(ends),
    )
    self.answered += 1
    self._metrics.requests.labels('200').inc()
    self._metrics.count(ends)

  def _note(
    self,
    visit: _Visit,
    outcome: str,
    answer: str | None = None,
    seconds: Mapping[str, float] = types.MappingProxyType({}),
  ) -> None:
    """Writes down what came of a request; raises where that cannot be done."""
    log, asked = self._offer.log, visit.asked
    if log is None:
      return
    media = []
    for kind, keyed in visit.files.items():
      motion = visit.given and visit.given.record.motion
      is_known = kind == 'motion' and motion is not None
      length_s = len(motion) / records.FPS if is_known else None
      media.append(logs.Medium(kind, length_s, keyed))
    log.add(
      request=visit.id,
      api_key=visit.api_key,
      media=media,
      question=asked.turns[-1].question if asked else '',
      answer=answer,
      model=self._offer.weights,
      watermark=self._offer.watermark,
      policy=visit.policy,
      outcome=outcome,
      seconds=seconds,
      address=visit.address,
    )

  # --- What cannot be answered -----------------------------------------------

  async def _refuse(
    self, request: requests.Request, error: completions.RequestError
  ) -> responses.Response:
    del request
    self._metrics.requests.labels(str(error.status)).inc()
    return responses.JSONResponse(
      error.body(), error.status, _HEADERS.get(error.status)
    )

  async def _not_found(self, request, error) -> responses.Response:
    refused = await self._refuse(
      request,
      completions.RequestError(
        f'Expected POST /v1/chat/completions or GET /v1/models, found '
        f'{request.method} {request.url.path[:60]}.',
        status=error.status_code,
        code='not_found',
      ),
    )
    refused.headers.update(error.headers or {})  # What is allowed there.
    return refused

  async def _fail(self, request, error) -> responses.Response:
    logging.error('A request failed:', exc_info=error)
    return await self._refuse(request, _failed())


def digest(api_key: str) -> bytes:
  """By which a key is known."""
  return hashlib.sha256(api_key.encode()).digest()


def _failed() -> completions.RequestError:
  return completions.RequestError(
    'Expected an answer, found a failure of the server; its log says more.',
    status=500,
    kind='server_error',
  )


def _busy(why: str) -> completions.RequestError:
  return completions.RequestError(
    f'Expected fewer at the same time, found that {why}; come again later.',
    status=429,
    kind='rate_limit_error',
    code='rate_limit_exceeded',
  )


def _nobody() -> completions.RequestError:
  return completions.RequestError(
    'Expected somebody to read the answer, found nobody.',
    status=499,
    code='gone',
  )


def _ended(error: Exception) -> completions.RequestError:
  """What a client is told where answering failed: nothing of how."""
  is_end = isinstance(error, scheduler.ClosedError)
  return _said(error) if is_end else _failed()


def _said(error: Exception) -> completions.RequestError:
  """What a client is told of a question that was not accepted."""
  if isinstance(error, scheduler.TooLongError):
    return completions.RequestError(
      str(error), param='messages', code='context_length_exceeded'
    )
  if isinstance(error, scheduler.BusyError):
    return _busy('too many wait')
  if isinstance(error, scheduler.ClosedError):
    return completions.RequestError(
      'Expected to be asked before the end, found the server stopping; come '
      'again once it has started anew.',
      status=503,
      kind='server_error',
    )
  return completions.RequestError(str(error), param='messages')


def _json(body: bytearray) -> Any:
  """What a body says; raises where it is no JSON."""
  try:
    fields = json.loads(body.decode())
  except json.JSONDecodeError as error:
    found = f'{error.doc[error.pos :][:40]!r} at character {error.pos + 1}'
    if not error.doc.strip():
      found = 'an empty body'
    elif error.pos >= len(error.doc):
      found = 'its end before it is complete'
    raise completions.RequestError(
      f'Expected JSON, found {found}; send an object with model and messages.'
    ) from error
  except (ValueError, RecursionError) as error:
    raise completions.RequestError(
      f'Expected JSON in UTF-8, found {bytes(body[:40])!r}; send an object '
      'with model and messages.'
    ) from error
  if b'\\u' in body:
    completions.check_unicode(json.dumps(fields, ensure_ascii=False))
  return fields


def _event(body: Mapping[str, Any]) -> str:
  return f'data: {json.dumps(body, ensure_ascii=False)}\n\n'


def _key(asked: completions.Asked) -> bytes:
  """By what files are known again."""
  made = hashlib.sha256(json.dumps(asked.said, sort_keys=True).encode())
  for file in (asked.motion, asked.video):
    if file is not None:
      made.update(f'{file.name}\0{len(file.data)}\0'.encode())
      made.update(file.data)
  return made.digest()


async def _gone(request: requests.Request) -> None:
  """Returns when the client has closed the connection."""
  while (await request.receive())['type'] != 'http.disconnect':
    pass
