"""The page on the network: what is answered there, and to whom.

Of Gradio only what the page itself asks for is reachable. Files do not go its
way, onto the disk and back by a path: they come as the body of a request here,
are read, and wait in memory under a ticket that the page takes to its visit.

    POST /clip?kind=motion&name=walk.bvh   bytes -> {"ticket": "..."}

An .amc comes with the .asf of its body behind it: `body=07.asf&body_bytes=900`.
"""

import asyncio
import base64
import collections
import hmac
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fastapi
import gradio as gr

from vimonet_jax.apps import uploads
from vimonet_jax.audit import log as logs
from vimonet_jax.infer import scheduler
from vimonet_jax.web import clip as clips
from vimonet_jax.web import page

# What the page asks for; all else is not there.
_ROUTES = re.compile(
  r'/(clip|theme\.css|favicon\.ico|(assets|static)/[^?]*|gradio_api/'
  r'(queue/join|queue/data|heartbeat/\w+|app_id|cancel|reset))?'
)
# The browser itself refuses to fetch from anywhere else. Gradio needs the rest.
_HEADERS = (
  (
    b'content-security-policy',
    b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    b"frame-ancestors 'self'",
  ),
  (b'x-content-type-options', b'nosniff'),
  (b'referrer-policy', b'no-referrer'),
)
# Of a request that brings no file.
_MOST_BYTES = 1 << 20
# Files that were read and not fetched by the page that sent them.
_MOST_TICKETS = 16
# Requests whose bytes are in memory at the same time, and how long they may be.
_AT_ONCE, _SENDING_S = 4, 120.0


class Desk:
  """Keeps what was read until the page that sent it asks for it."""

  def __init__(self):
    self._kept: collections.OrderedDict[str, clips.Clip]
    self._kept = collections.OrderedDict()

  def keep(self, clip: clips.Clip) -> str:
    """A ticket that nobody can guess; the oldest of many is worth nothing."""
    ticket = secrets.token_urlsafe(16)
    self._kept[ticket] = clip
    while len(self._kept) > _MOST_TICKETS:
      self._kept.popitem(last=False)
    return ticket

  def take(self, ticket: str) -> clips.Clip:
    """Once; a KeyError afterwards."""
    return self._kept.pop(ticket)


def most_bytes(
  limits: uploads.Limits, media: Sequence[str]
) -> dict[str, int]:
  """Medium -> bytes that a file of it may have."""
  most = {
    'motion': limits.max_motion_bytes,
    'video': limits.max_video_bytes,
  }
  return {medium: most[medium] for medium in media}


def build(
  blocks: gr.Blocks,
  desk: Desk,
  reading: uploads.Uploads,
  *,
  limits: uploads.Limits,
  media: Sequence[str],
  password: str = '',
  hosts: Sequence[str] = ('*',),
  log: logs.Log | None = None,
) -> Callable:
  """The page and its files as an ASGI application.

  Args:
    blocks: from page.build.
    desk: where its `take` looks.
    reading: reads what strangers send.
    limits: of files, their bytes among them.
    media: that may be given.
    password: which browsers ask for; '' for none.
    hosts: names by which browsers may know it, without ports. Where there is no
      password, somebody's page could lead them here under a name of its own.
    log: where files get a digest from, an .amc one of both its files, one
      behind the other; None: nowhere.
  """
  max_bytes = most_bytes(limits, media)
  inside = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
  places = asyncio.Semaphore(_AT_ONCE)

  @inside.post('/clip')
  async def read(request: fastapi.Request) -> fastapi.responses.JSONResponse:
    query = request.query_params
    try:
      async with places:
        clip = await _read(reading, request, query, max_bytes, log)
    except (
      ValueError, TimeoutError, scheduler.BusyError, scheduler.ClosedError
    ) as error:  # fmt: skip
      sentence = ' '.join(str(error).split())
      return fastapi.responses.JSONResponse({'error': sentence}, 400)
    return fastapi.responses.JSONResponse({'ticket': desk.keep(clip)})

  gr.mount_gradio_app(
    inside,
    blocks,
    '/',
    footer_links=[],
    run_history=False,
    ssr_mode=False,
    pwa=False,
    mcp_server=False,
    enable_monitoring=False,
    theme=page.theme(),
    css=page.style(),
  )
  return _guarded(inside, password, max(max_bytes.values()), hosts)


async def _read(reading, request, query, max_bytes, log) -> clips.Clip:
  kind, name = query.get('kind', ''), query.get('name', '')[-200:]
  if kind not in max_bytes:
    raise ValueError(
      f'Expected a {" or a ".join(max_bytes)}, found {kind or "nothing"}; this '
      'page reads nothing else.'
    )
  try:
    fps = float(query['fps']) if query.get('fps') else None
  except ValueError:
    raise ValueError(
      f'Expected frames a second, found {query["fps"][:40]!r}; write a number.'
    ) from None
  data = await _body(request, name, max_bytes[kind])
  files = _files(kind, name, data, query)
  given = await asyncio.to_thread(
    reading.read,
    **files,
    fps=fps,
    up=query.get('up') or None,
    unit=query.get('unit') or None,
  )
  # Of a motion and its body both, as they were sent.
  digests = {kind: await asyncio.to_thread(log.keyed, data)} if log else {}
  return clips.Clip(
    given.record, {kind: name}, {kind: given.notes}, digests=digests
  )


def _files(
  kind: str, name: str, data: bytes, query: Mapping[str, str]
) -> dict[str, uploads.File]:
  """One, or a motion and the body behind it."""
  body = query.get('body', '')[-200:]
  if not body:
    return {kind: uploads.File(name, data)}
  told = query.get('body_bytes', '')
  size = int(told) if told.isdecimal() and len(told) < 12 else -1
  if not 0 <= size <= len(data):
    raise ValueError(
      f'Expected {name} and {body} in one, found body_bytes of '
      f'{told[:12] or "nothing"}; say how long the last one is.'
    )
  end = len(data) - size
  return {
    kind: uploads.File(name, data[:end]),
    'body': uploads.File(body, data[end:]),
  }


async def _body(request, name: str, most: int) -> bytes:
  """All bytes of a file; no more are read than it may have."""
  data = bytearray()
  try:
    async with asyncio.timeout(_SENDING_S):
      async for part in request.stream():
        data += part
        if len(data) > most:
          break
  except TimeoutError:
    raise TimeoutError(
      f'Expected all of {name} within {_SENDING_S:.0f} s, found it unfinished; '
      'try again on a faster line, or with a shorter file.'
    ) from None
  if len(data) > most:
    raise ValueError(
      f'Expected at most {most / 2**20:.0f} MB, found more in {name}; cut it.'
    )
  return bytes(data)


def _guarded(
  inside: Callable, password: str, most_bytes: int, hosts: Sequence[str]
) -> Callable:
  """Only what the page needs, only for who knows the password."""

  async def guard(scope, receive, send) -> None:
    if scope['type'] != 'http':
      if scope['type'] == 'lifespan':
        await inside(scope, receive, send)
      return
    headers = dict(scope['headers'])
    host = _name(headers.get(b'host', b''))
    if '*' not in hosts and host not in hosts:
      return await _say(
        send,
        403,
        f'Expected one of the names {", ".join(hosts)}, found another; use one '
        'of them, or set a password with --config.demo.password_file.',
      )
    if scope['method'] != 'GET' and _is_from_elsewhere(headers, host):
      return await _say(send, 403, 'Another page may not ask in your name.')
    if password and not _knows(headers.get(b'authorization', b''), password):
      ask = (b'www-authenticate', b'Basic realm="ViMoNet", charset="UTF-8"')
      return await _say(send, 401, 'A password is needed.', ask)
    if not _ROUTES.fullmatch(scope['path']):
      return await _say(send, 404, 'There is nothing here.')
    most = most_bytes if scope['path'] == '/clip' else _MOST_BYTES
    length = headers.get(b'content-length', b'0')
    if not length.isdigit() or int(length) > most:
      return await _say(send, 413, 'That is too long.')
    await inside(scope, _counted(receive, most), _with_headers(send))

  return guard


def _name(host: bytes) -> str:
  """Of `localhost:7860` or `[::1]:7860`, without the port."""
  return re.sub(r':\d*$', '', host.decode('latin-1')).lower()


def _is_from_elsewhere(headers: Mapping[bytes, bytes], host: str) -> bool:
  """Whether a browser says that a page of another origin sends this.

  It sends the password along. Ports are not compared: a proxy may hide them.
  """
  if headers.get(b'sec-fetch-site') in (b'cross-site', b'same-site'):
    return True
  origin = headers.get(b'origin')
  return origin is not None and _name(origin.partition(b'://')[2]) != host


def _counted(receive: Callable, most: int) -> Callable:
  """Says that who sends more than was announced has gone."""
  left = most + 1

  async def counted() -> dict[str, Any]:
    nonlocal left
    message = await receive()
    left -= len(message.get('body', b''))
    return message if left > 0 else {'type': 'http.disconnect'}

  return counted


def _with_headers(send: Callable) -> Callable:
  async def more(message: dict[str, Any]) -> None:
    if message['type'] == 'http.response.start':
      message['headers'] = [*message.get('headers', ()), *_HEADERS]
    await send(message)

  return more


def _knows(authorization: bytes, password: str) -> bool:
  """Whether a browser has the password; under whichever name."""
  kind, _, coded = authorization.partition(b' ')
  try:
    _, _, found = base64.b64decode(coded, validate=True).partition(b':')
  except ValueError:
    return False
  return kind.lower() == b'basic' and hmac.compare_digest(
    found, password.encode()
  )


async def _say(send: Callable, status: int, text: str, *headers) -> None:
  body = text.encode()
  more = [
    (b'content-type', b'text/plain; charset=utf-8'),
    (b'content-length', str(len(body)).encode()),
    *headers,
  ]
  await send({'type': 'http.response.start', 'status': status, 'headers': more})
  await send({'type': 'http.response.body', 'body': body})
