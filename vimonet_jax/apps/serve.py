"""Answers over HTTP, in the shape of OpenAI's chat completions.

    python -m vimonet_jax.main --config=configs/tiny.py --task=serve

    POST /v1/chat/completions    see completions.py
    GET  /v1/models              the one model that there is
    GET  /v1/policy              the usage policy, and its version
    GET  /healthz                200 while questions are taken
    GET  /metrics                for Prometheus

Requests of many clients are answered together (infer/scheduler.py). Files are
read in processes of their own (uploads.py). On SIGTERM or Ctrl-C nobody is let
in any more, and who was gets the whole answer.
"""

import asyncio
import collections
import contextlib
import dataclasses
import functools
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import prometheus_client
import uvicorn
from starlette import applications, concurrency, requests, responses, routing

from vimonet_jax import fingerprint, weight_files
from vimonet_jax.apps import completions, inputs, uploads
from vimonet_jax.data import records
from vimonet_jax.infer import (
  engine,
  generate,
  model_folder,
  scheduler,
  warming,
)

KEYS_VARIABLE = 'VIMONET_API_KEYS'
# Clips that were read and are kept, since clients send a conversation's clips
# again with each of its turns.
_KEPT_BYTES = 2**28
# A larger body is parsed beside the loop, which others need.
_LARGE_BYTES = 2**16
_CONNECTIONS = 2048
_KEEP_ALIVE_S = 75


@dataclasses.dataclass(frozen=True)
class Settings:
  """Of `config.serve`.

  Attributes:
    host: address that is listened on.
    port: likewise; 0 takes one that is free.
    name: of the model, by which clients ask for it; '' for the workdir's.
    keys_file: of API keys, a line each; '' takes those of the environment
      variable VIMONET_API_KEYS, with blanks between them.
    is_open: needs no key though others than this machine can reach it.
    max_rows: answers that are written at the same time.
    max_length: tokens of a question, its clips and its answer.
    max_waiting: who comes when so many answers wait is told to come again.
    max_answers: the largest `n`.
    max_body_mb: of one request.
    max_held_mb: of all requests that are being read.
    receive_s: seconds that a request may take to arrive.
  """

  host: str = '127.0.0.1'
  port: int = 8000
  name: str = ''
  keys_file: str = ''
  is_open: bool = False
  max_rows: int = 64
  max_length: int = 4096
  max_waiting: int = 1024
  max_answers: int = 8
  max_body_mb: int = 64
  max_held_mb: int = 512
  receive_s: float = 60.0


def run(
  workdir: str,
  settings: Settings,
  *,
  sampling: str = 'greedy',
  quantize: str = '',
) -> int:
  """Answers until it is told to stop.

  Args:
    workdir: of a pipeline that has come to its end.
    settings: see there.
    sampling: one of generate.PRESETS, for what a request does not say.
    quantize: the decoder's kernels, for less memory; see engine.Engine.load.

  Raises:
    ValueError: nobody would need a key, or the model cannot be read.
    OSError: the address is taken, or a file cannot be read.
  """
  keys = api_keys(settings)
  folder = os.path.join(workdir, 'model')
  bundle = model_folder.read(folder)
  preset = generate.preset(sampling)
  name = settings.name or os.path.basename(os.path.abspath(workdir))
  listening = _listen(settings)
  print(f'Loading {name} ...', flush=True)
  asking = engine.Engine.load(folder, quantize=quantize)
  with (
    listening,
    uploads.Uploads(bundle.model.video, media=asking.media) as files,
    scheduler.Scheduler(
      asking,
      max_rows=settings.max_rows,
      max_length=settings.max_length,
      max_waiting=settings.max_waiting,
    ) as together,
  ):
    print('Compiling ...', flush=True)
    warming.warm(asking, together, max_rows=settings.max_rows, sampling=preset)
    service = Service(
      together,
      files,
      name=name,
      weights=fingerprint.of(weight_files.Lazy(model_folder.weights(folder))),
      keys=keys,
      sampling=preset,
      settings=settings,
    )
    _serve(service, listening)
  print(f'Stopped; {service.answered} requests were answered.')
  return 0


def api_keys(settings: Settings) -> frozenset[bytes]:
  """Digests of the keys that clients may use; none where they need none.

  Raises:
    ValueError: there is none, and others than this machine could ask.
    OSError: there is no such file.
  """
  if settings.keys_file:
    with open(settings.keys_file, encoding='utf-8') as f:
      keys = f.read().split()
    if not keys:
      raise ValueError(
        f'Expected an API key a line in {settings.keys_file}, found none.'
      )
  else:
    keys = os.environ.get(KEYS_VARIABLE, '').split()
  if not keys and not settings.is_open and not _is_local(settings.host):
    raise ValueError(
      f'Expected API keys where {settings.host} lets others in, found none; '
      f'name a file of them with --config.serve.keys_file, or set '
      f'{KEYS_VARIABLE}, or let everybody in with --config.serve.is_open.'
    )
  return frozenset(map(_digest, keys))


def _is_local(host: str) -> bool:
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host == 'localhost'


def _digest(key: str) -> bytes:
  return hashlib.sha256(key.encode()).digest()


# --- What is served ----------------------------------------------------------


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


class _Read(NamedTuple):
  """Clips that were read.

  Attributes:
    given: their record.
    size: bytes of it.
  """

  given: inputs.Given
  size: int


class Service:
  """Everything that a request needs; its methods run in the server's loop.

  Attributes:
    answered: requests that got all their answers.
  """

  def __init__(
    self,
    together: scheduler.Scheduler,
    files: uploads.Uploads,
    *,
    name: str,
    weights: str,
    keys: frozenset[bytes] = frozenset(),
    sampling: generate.Sampling = generate.GREEDY,
    settings: Settings = Settings(),
  ):
    """Takes what others have opened, and will close.

    Args:
      together: who answers.
      files: who reads uploads.
      name: of the model.
      weights: their fingerprint.
      keys: from `api_keys`.
      sampling: what a request does not say.
      settings: limits.
    """
    self._together = together
    self._files = files
    self._name, self._weights = name, weights
    self._keys = keys
    self._sampling = sampling
    self._settings = settings
    self._held = 0
    self._kept: collections.OrderedDict[bytes, _Read] = (
      collections.OrderedDict()
    )
    self._metrics = Metrics(together)
    self.answered = 0

  def app(self) -> applications.Starlette:
    """An ASGI application."""

    def route(path, endpoint, method):
      return routing.Route(path, endpoint, methods=[method])

    return applications.Starlette(
      routes=[
        route('/v1/chat/completions', self._complete, 'POST'),
        route('/v1/models', self._models, 'GET'),
        route('/v1/models/{name}', self._model, 'GET'),
        route('/healthz', self._health, 'GET'),
        route('/metrics', self._tell_metrics, 'GET'),
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
    self._authorise(request)
    async with self._body(request) as body:
      asked = await self._parse(body)
      given = await self._read(asked)
    reply = completions.Reply(
      f'chatcmpl-{uuid.uuid4().hex}', self._name, self._weights
    )
    about = {'inputs': _inputs(given), 'notes': given.notes}
    record = dataclasses.replace(given.record, turns=asked.turns)
    questions = [
      scheduler.Question(record, asked.sampling, seed=seed, stop=asked.stop)
      for seed in asked.seeds
    ]
    if asked.is_streamed:
      events: asyncio.Queue = asyncio.Queue()
      answers = self._ask(questions, lambda *event: events.put_nowait(event))
      return responses.StreamingResponse(
        self._stream(asked, reply, about, answers, events),
        media_type='text/event-stream',
        headers={'Cache-Control': 'no-cache', 'X-Accel-Buffering': 'no'},
      )
    ends = await self._wait(request, questions)
    self._count(ends)
    return responses.JSONResponse(reply.whole(ends, about))

  async def _models(self, request: requests.Request) -> responses.Response:
    self._authorise(request)
    return responses.JSONResponse({'object': 'list', 'data': [self._card()]})

  async def _model(self, request: requests.Request) -> responses.Response:
    self._authorise(request)
    if request.path_params['name'] != self._name:
      raise completions.RequestError(
        f'Expected model {self._name!r}, found another name; ask for that one.',
        status=404,
        code='model_not_found',
      )
    return responses.JSONResponse(self._card())

  def _card(self) -> dict[str, Any]:
    return {
      'id': self._name,
      'object': 'model',
      'created': 0,
      'owned_by': 'vimonet_jax',
      'fingerprint': self._weights,
    }

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

  def _authorise(self, request: requests.Request) -> None:
    if not self._keys:
      return
    kind, _, key = request.headers.get('authorization', '').partition(' ')
    found = _digest(key.strip())
    # All of them, so that time does not tell which is nearly right.
    matches = [hmac.compare_digest(found, known) for known in self._keys]
    if kind.lower() != 'bearer' or not any(matches):
      raise completions.RequestError(
        'Expected the header Authorization: Bearer with an API key of this '
        'server, found none or another one.',
        status=401,
        kind='authentication_error',
        code='invalid_api_key',
      )

  @contextlib.asynccontextmanager
  async def _body(self, request: requests.Request) -> AsyncIterator[bytearray]:
    """The bytes of a request, which count as held while they are in use."""
    body = bytearray()
    most = self._settings.max_body_mb * 2**20
    held = self._settings.max_held_mb * 2**20
    try:
      async with asyncio.timeout(self._settings.receive_s):
        async for chunk in request.stream():
          if len(body) + len(chunk) > most:
            raise completions.RequestError(
              f'Expected a request of at most {self._settings.max_body_mb} MiB,'
              ' found more; cut the clip or send it smaller.',
              status=413,
              code='request_too_large',
            )
          if self._held + len(chunk) > held:
            raise _busy('too many large requests come at the same time')
          body += chunk
          self._held += len(chunk)
      yield body
    except TimeoutError as error:
      raise completions.RequestError(
        f'Expected the whole request within {self._settings.receive_s:g} s, '
        f'found {len(body)} bytes of it; send it faster or smaller.',
        status=408,
        code='request_timeout',
      ) from error
    finally:
      self._held -= len(body)

  async def _parse(self, body: bytearray) -> completions.Asked:
    def parse() -> completions.Asked:
      try:
        fields = json.loads(body)
      except (ValueError, RecursionError) as error:
        raise completions.RequestError(
          f'Expected JSON, found {bytes(body[:40])!r}.'
        ) from error
      return completions.read(
        fields,
        model=self._name,
        sampling=self._sampling,
        most_answers=self._settings.max_answers,
      )

    if len(body) < _LARGE_BYTES:
      return parse()
    return await concurrency.run_in_threadpool(parse)

  async def _read(self, asked: completions.Asked) -> inputs.Given:
    """Clips as the model sees them, once for all turns about them."""
    if asked.motion is None and asked.video is None:
      return inputs.Given(records.Record('nothing', 'given', 'test'), [])
    key = _key(asked)
    if key in self._kept:
      self._kept.move_to_end(key)
      return self._kept[key].given
    try:
      given = await concurrency.run_in_threadpool(
        self._files.read, motion=asked.motion, video=asked.video, **asked.said
      )
    except uploads.RefusedError as error:
      raise completions.RequestError(
        str(error), param='messages', code='invalid_media'
      ) from error
    record = given.record
    clips = (x for x in (record.motion, record.frames) if x is not None)
    self._kept[key] = _Read(given, sum(x.nbytes for x in clips))
    size = sum(x.size for x in self._kept.values())
    while size > _KEPT_BYTES:
      size -= self._kept.popitem(last=False)[1].size
    return given

  # --- Answers ---------------------------------------------------------------

  def _ask(self, questions: Sequence[scheduler.Question], tell):
    """Asks all or none; `tell(index, event)` is called in the loop."""
    loop = asyncio.get_running_loop()
    try:
      return self._together.ask_all(
        questions, functools.partial(loop.call_soon_threadsafe, tell)
      )
    except Exception as error:
      raise _said(error) from error

  async def _wait(
    self,
    request: requests.Request,
    questions: Sequence[scheduler.Question],
  ) -> list[scheduler.End]:
    """All ends; nothing is written on where the client has gone."""
    done: asyncio.Future = asyncio.get_running_loop().create_future()
    ends: dict[int, scheduler.End] = {}

    def tell(index: int, event: scheduler.Event) -> None:
      if isinstance(event, scheduler.End):
        ends[index] = event
      if done.done():
        return
      if isinstance(event, Exception):
        done.set_exception(_said(event))
      elif len(ends) == len(questions):
        done.set_result(None)

    answers = self._ask(questions, tell)
    gone = asyncio.ensure_future(_gone(request))
    try:
      await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
      if not done.done():
        raise completions.RequestError(
          'Expected somebody to read the answer, found nobody.', status=499
        )
      done.result()
    finally:
      gone.cancel()
      for answer in answers:
        answer.cancel()
    return [ends[i] for i in range(len(questions))]

  async def _stream(
    self,
    asked: completions.Asked,
    reply: completions.Reply,
    about: Mapping[str, Any],
    answers: Sequence[scheduler.Answer],
    events: asyncio.Queue,
  ) -> AsyncIterator[str]:
    """Server-sent events, until all answers have ended."""
    ends: dict[int, scheduler.End] = {}
    try:
      for index in range(len(answers)):
        yield _event(reply.begin(index))
      while len(ends) < len(answers):
        index, event = await events.get()
        if isinstance(event, Exception):
          yield _event(_said(event).body())
          return
        if isinstance(event, scheduler.End):
          ends[index] = event
          yield _event(reply.end(index, event))
        else:
          yield _event(reply.piece(index, event))
      in_order = [ends[i] for i in range(len(answers))]
      self._count(in_order)
      if asked.includes_usage:
        yield _event(reply.usage(in_order, about))
      yield 'data: [DONE]\n\n'
    finally:  # Also where the client has gone.
      for answer in answers:
        answer.cancel()

  def _count(self, ends: Sequence[scheduler.End]) -> None:
    self.answered += 1
    self._metrics.requests.labels('200').inc()
    self._metrics.count(ends)

  # --- What cannot be answered -----------------------------------------------

  async def _refuse(
    self, request: requests.Request, error: completions.RequestError
  ) -> responses.Response:
    del request
    self._metrics.requests.labels(str(error.status)).inc()
    headers = {'Retry-After': '1'} if error.status in (429, 503) else None
    return responses.JSONResponse(error.body(), error.status, headers)

  async def _not_found(self, request, error) -> responses.Response:
    return await self._refuse(
      request,
      completions.RequestError(
        f'Expected POST /v1/chat/completions or GET /v1/models, found '
        f'{request.method} {request.url.path[:60]}.',
        status=error.status_code,
        code='not_found',
      ),
    )

  async def _fail(self, request, error) -> responses.Response:
    logging.error('A request failed:', exc_info=error)
    return await self._refuse(request, _failed())


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


def _said(error: Exception) -> completions.RequestError:
  """What a client is told of an error of the scheduler's."""
  if isinstance(error, scheduler.TooLongError):
    return completions.RequestError(
      str(error), param='messages', code='context_length_exceeded'
    )
  if isinstance(error, scheduler.BusyError):
    return _busy('too many wait')
  if isinstance(error, scheduler.ClosedError):
    return completions.RequestError(
      'Expected to be asked before the end, found the server stopping.',
      status=503,
      kind='server_error',
    )
  if isinstance(error, ValueError):
    return completions.RequestError(str(error), param='messages')
  return _failed()


def _event(body: Mapping[str, Any]) -> str:
  return f'data: {json.dumps(body, ensure_ascii=False)}\n\n'


def _inputs(given: inputs.Given) -> list[str]:
  shown = {'motion': given.record.motion, 'video': given.record.frames}
  return [medium for medium, x in shown.items() if x is not None]


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


# --- The server --------------------------------------------------------------


def _listen(settings: Settings) -> socket.socket:
  """Takes the address; nobody can connect before the server listens."""
  try:
    family = socket.getaddrinfo(settings.host, settings.port)[0][0]
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind((settings.host, settings.port))
  except OSError as error:
    raise ValueError(
      f'Expected to listen on {settings.host}, port {settings.port}, found: '
      f'{error.strerror}; choose others with --config.serve.host and .port.'
    ) from error
  return taken


class _Server(uvicorn.Server):
  """Says where it is, once it is, and that it is about to stop."""

  async def startup(self, sockets: list[socket.socket] | None = None) -> None:
    await super().startup(sockets)
    host, port = sockets[0].getsockname()[:2]
    host = f'[{host}]' if ':' in host else host
    print(f'Serving at http://{host}:{port}/v1', flush=True)

  def handle_exit(self, sig: int, frame: Any) -> None:
    if not self.should_exit:
      print('Stopping; who was accepted is answered first.', flush=True)
    super().handle_exit(sig, frame)


def _serve(service: Service, listening: socket.socket) -> None:
  """Until SIGTERM or Ctrl-C."""
  config = uvicorn.Config(
    service.app(),
    log_level='warning',
    access_log=False,
    server_header=False,
    limit_concurrency=_CONNECTIONS,
    timeout_keep_alive=_KEEP_ALIVE_S,
    ws='none',
  )
  with _unheard(signal.SIGINT, signal.SIGTERM):
    _Server(config).run(sockets=[listening])


@contextlib.contextmanager
def _unheard(*signals: int) -> Iterator[None]:
  """uvicorn sends the signal again that it has stopped for: not to us."""
  before = {sig: signal.signal(sig, lambda *_: None) for sig in signals}
  try:
    yield
  finally:
    for sig, handler in before.items():
      signal.signal(sig, handler)
