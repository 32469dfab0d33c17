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

import contextlib
import dataclasses
import math
import os
import signal
import socket
from typing import Any

import uvicorn

from vimonet_jax.apps import listening, service, uploads
from vimonet_jax.audit import log, policy, privacy, watermark
from vimonet_jax.infer import (
  engine,
  generate,
  model_folder,
  scheduler,
  warming,
)

KEYS_VARIABLE = 'VIMONET_API_KEYS'
_CONNECTIONS = 2048
_KEEP_ALIVE_S = 75


@dataclasses.dataclass(frozen=True)
class Settings:
  """Of `config.serve`, with service.Limits, and of `config.uploads`.

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
    stop_s: seconds that clients have, once the server is told to stop, to get
      their answers and to read them; it would wait for ever for one who does
      not read.
    limits: of requests.
    files: of what they bring.
  """

  host: str = '127.0.0.1'
  port: int = 8000
  name: str = ''
  keys_file: str = ''
  is_open: bool = False
  max_rows: int = 64
  max_length: int = 4096
  max_waiting: int = 1024
  stop_s: float = 600.0
  limits: service.Limits = service.Limits()
  files: uploads.Limits = uploads.Limits()

  def __post_init__(self):
    if not 1 <= self.max_rows <= self.max_waiting or self.max_length < 1:
      raise ValueError(
        'Expected serve.max_rows and serve.max_length of 1 or more, and '
        f'serve.max_waiting of max_rows or more, found {self.max_rows}, '
        f'{self.max_length} and {self.max_waiting}; change them.'
      )
    longest = max(self.files.max_motion_bytes, self.files.max_video_bytes)
    # In base64, with some words about it.
    least = math.ceil(longest * 4 / 3 / 2**20) + 1
    if not least <= self.limits.max_body_mb <= self.limits.max_held_mb:
      raise ValueError(
        f'Expected serve.max_body_mb of {least} or more, where a file of '
        f'{longest >> 20} MiB has room, and serve.max_held_mb of no less, '
        f'found {self.limits.max_body_mb} and {self.limits.max_held_mb}; raise '
        'them, or lower uploads.video_mb and uploads.motion_mb.'
      )


def run(config, workdir: str, *, sampling: str = 'greedy') -> int:
  """Answers until it is told to stop.

  Args:
    config: has `serve`, and what audit's modules ask for.
    workdir: of a pipeline that has come to its end.
    sampling: one of generate.PRESETS, for what a request does not say.

  Raises:
    ValueError: nobody would need a key, or the model cannot be read.
    OSError: the address is taken, or a file cannot be read.
  """
  settings = _settings(config)
  folder = os.path.join(workdir, 'model')
  bundle = model_folder.read(folder)
  name = settings.name or os.path.basename(os.path.abspath(workdir))
  keys, preset = api_keys(settings), generate.preset(sampling)
  mark, rules = watermark.from_config(config), policy.read(config)
  motion_only = privacy.is_motion_only(config)
  with contextlib.ExitStack() as open_:
    taken = open_.enter_context(
      listening.listen(settings.host, settings.port, section='serve')
    )
    if (written := log.of(config)) is not None:
      open_.enter_context(written)
    print(f'Loading {name} ...', flush=True)
    offer = service.Offer(
      name=name,
      weights=model_folder.weights_fingerprint(folder),
      keys=keys,
      sampling=preset,
      policy=rules,
      log=written,
      watermark=mark is not None,
    )
    asking = engine.Engine.load(
      folder, quantize=config.get('eval', {}).get('quantize', '')
    )
    media = ('motion',) if motion_only else asking.media
    files = open_.enter_context(
      uploads.Uploads(bundle.model.video, settings.files, media)
    )
    together = open_.enter_context(
      scheduler.Scheduler(
        asking,
        max_rows=settings.max_rows,
        max_length=settings.max_length,
        max_waiting=settings.max_waiting,
        logits_fn=mark,
      )
    )
    print('Compiling ...', flush=True)
    warming.warm(
      asking,
      together,
      media=media,
      max_rows=settings.max_rows,
      sampling=offer.sampling,
    )
    served = service.Service(offer, together, files, settings.limits)
    is_for_all = bool(offer.keys) or settings.is_open
    hosts = ('*',) if is_for_all else (*listening.LOCAL, settings.host)
    _serve(served.app(hosts), taken, stop_s=settings.stop_s)
  print(f'Stopped; {served.answered} requests were answered.')
  return 0


def _settings(config) -> Settings:
  given = dict(config.get('serve', {}))
  of_requests = {x.name for x in dataclasses.fields(service.Limits)}
  limits = {name: given.pop(name) for name in of_requests & set(given)}
  return Settings(
    **given, limits=service.Limits(**limits), files=uploads.limits(config)
  )


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
  is_local = listening.is_local(settings.host)
  if not keys and not settings.is_open and not is_local:
    raise ValueError(
      f'Expected API keys where {settings.host} lets others in, found none; '
      f'name a file of them with --config.serve.keys_file, or set '
      f'{KEYS_VARIABLE}, or let everybody in with --config.serve.is_open.'
    )
  return frozenset(map(service.digest, keys))


# --- The server --------------------------------------------------------------


class _Server(uvicorn.Server):
  """Says where it is, once it is, and that it is about to stop."""

  async def startup(self, sockets: list[socket.socket] | None = None) -> None:
    await super().startup(sockets)
    print(f'Serving at {listening.url(sockets[0])}/v1', flush=True)

  def handle_exit(self, sig: int, frame: Any) -> None:
    if not self.should_exit:
      print('Stopping; who was accepted is answered first.', flush=True)
    super().handle_exit(sig, frame)


def _serve(app: Any, taken: socket.socket, *, stop_s: float) -> None:
  """Until SIGTERM or Ctrl-C."""
  config = uvicorn.Config(
    app,
    log_level='warning',
    access_log=False,
    server_header=False,
    limit_concurrency=_CONNECTIONS,
    timeout_keep_alive=_KEEP_ALIVE_S,
    timeout_graceful_shutdown=stop_s,
    ws='none',
  )
  with listening.unheard(signal.SIGINT, signal.SIGTERM):
    _Server(config).run(sockets=[taken])
