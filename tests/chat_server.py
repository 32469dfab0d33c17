"""A chat service on this machine, that fails when told to and counts its pay.

It speaks OpenAI's chat completions over HTTP. As real ones may, it gives the
reply to an Idempotency-Key that it has answered once more, without pay.
"""

import collections
import dataclasses
import http.server
import json
import threading
import time
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]

PROMPT_TOKENS, COMPLETION_TOKENS = 100, 10


@dataclasses.dataclass(frozen=True)
class Asked:
  """What came in.

  Attributes:
    body: as it was sent.
    headers: with names in lower case.
    time_s: when.
    place: how many came before.
  """

  body: Json
  headers: dict[str, str]
  time_s: float
  place: int

  @property
  def key(self) -> str:
    return self.headers['idempotency-key']

  @property
  def text(self) -> str:
    """The last message, of text only."""
    return self.body['messages'][-1]['content']


@dataclasses.dataclass(frozen=True)
class Act:
  """What the server does; by default it says the answer and is paid.

  Attributes:
    text: of the answer; None repeats the question.
    message: more fields of the message.
    model: that answers; by default a dated one of the name that was asked.
    finish: why the model ended.
    usage: input and output tokens; None says nothing about them.
    wait_s: before anything is sent.
    is_cut: hang up in the middle of the reply.
    status: of HTTP; any but 200 is an error, and free.
    error: its fields.
    headers: more of them.
    raw: is sent instead of a completion, and is free.
  """

  text: str | None = None
  message: Json = dataclasses.field(default_factory=dict)
  model: str = ''
  finish: str = 'stop'
  usage: tuple[int, int] | None = (PROMPT_TOKENS, COMPLETION_TOKENS)
  wait_s: float = 0.0
  is_cut: bool = False
  status: int = 200
  error: Json = dataclasses.field(default_factory=dict)
  headers: dict[str, str] = dataclasses.field(default_factory=dict)
  raw: str = ''


class Server:
  """Serves while it is a context.

  Attributes:
    url: its base_url.
    asked: all that came in, in that order.
    paid: Idempotency-Key -> how often it was paid for.
    tokens: input and output tokens that were paid for.
    most_at_once: requests under way together.
  """

  def __init__(self, act: Callable[[Asked], Act] = lambda asked: Act()):
    self.act = act
    self.asked: list[Asked] = []
    self.paid = collections.Counter()
    self.tokens = (0, 0)
    self.most_at_once = 0
    self._at_once = 0
    self._replies = {}
    self._lock = threading.Lock()

  def __enter__(self) -> 'Server':
    server = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = 'HTTP/1.1'
      wbufsize = -1  # Header and body in one packet.

      def do_POST(self):  # noqa: N802
        server._serve(self)

      def log_message(self, *_):
        pass

    class Threads(http.server.ThreadingHTTPServer):
      daemon_threads = True
      request_queue_size = 64

      def handle_error(self, *_):
        """Clients are killed here on purpose."""

    self._http = Threads(('127.0.0.1', 0), Handler)
    self.url = f'http://127.0.0.1:{self._http.server_port}/v1'
    threading.Thread(
      target=self._http.serve_forever, args=(0.01,), daemon=True
    ).start()
    return self

  def __exit__(self, *_):
    self._http.shutdown()
    self._http.server_close()

  def _serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
    body = handler.rfile.read(int(handler.headers['content-length']))
    headers = {name.lower(): value for name, value in handler.headers.items()}
    with self._lock:
      asked = Asked(
        json.loads(body), headers, time.monotonic(), len(self.asked)
      )
      self.asked.append(asked)
      self._at_once += 1
      self.most_at_once = max(self.most_at_once, self._at_once)
    try:
      act = self.act(asked)
      time.sleep(act.wait_s)
      reply = self._reply(asked, act)
      handler.send_response(act.status)
      for name, value in act.headers.items():
        handler.send_header(name, value)
      handler.send_header('content-type', 'application/json')
      handler.send_header('content-length', str(len(reply)))
      handler.end_headers()
      handler.wfile.write(reply[: len(reply) // 2] if act.is_cut else reply)
      handler.wfile.flush()
      handler.close_connection = act.is_cut
    finally:
      with self._lock:
        self._at_once -= 1

  def _reply(self, asked: Asked, act: Act) -> bytes:
    if act.status != 200:
      return json.dumps({'error': act.error}).encode()
    if act.raw:
      return act.raw.encode()
    with self._lock:
      if asked.key not in self._replies:
        self.paid[asked.key] += 1
        counted = act.usage or (PROMPT_TOKENS, COMPLETION_TOKENS)
        self.tokens = tuple(map(sum, zip(self.tokens, counted, strict=True)))
        name = f'chatcmpl-{len(self._replies)}'
        self._replies[asked.key] = completion(name, asked.body, act)
      return json.dumps(self._replies[asked.key]).encode()


def completion(name: str, body: Json, act: Act) -> Json:
  """A reply in OpenAI's form."""
  text = body['messages'][-1]['content'] if act.text is None else act.text
  found = {
    'id': name,
    'object': 'chat.completion',
    'created': 0,
    'model': act.model or f'{body["model"]}-2026-11-01',
    'choices': [
      {
        'index': 0,
        'message': {'role': 'assistant', 'content': text, **act.message},
        'finish_reason': act.finish,
      }
    ],
  }
  if act.usage:
    names = ('prompt_tokens', 'completion_tokens')
    found['usage'] = dict(zip(names, act.usage, strict=True))
  return found
