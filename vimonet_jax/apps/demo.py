"""A web page to ask a finished model about a motion, a video, or both.

    python -m vimonet_jax.main --config=configs/tiny.py --task=demo

It says where it is once it can answer, and ends with Ctrl-C. Of the work folder
only `model/` is read. See web/ for the page; it needs the extra `demo`.
"""

import contextlib
import dataclasses
import os
import pathlib
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import uvicorn

from vimonet_jax.apps import listening, uploads
from vimonet_jax.audit import log as logs
from vimonet_jax.audit import policy as policies
from vimonet_jax.audit import watermark
from vimonet_jax.data import records
from vimonet_jax.infer import (
  engine,
  generate,
  model_folder,
  scheduler,
  warming,
)
from vimonet_jax.web import clip as clips
from vimonet_jax.web import handlers, noted, page, site


def run(
  workdir: str,
  settings: Mapping[str, Any],
  *,
  held: Callable[[], Sequence[records.Record]],
  policy: policies.Policy,
  limits: uploads.Limits = uploads.Limits(),
  motion_only: bool = False,
  sampling: str = 'greedy',
  seed: int = 0,
  quantize: str = '',
  mark: watermark.Watermark | None = None,
  log: Callable[[], logs.Log | None] = lambda: None,
) -> int:
  """Serves the page until somebody stops it.

  Args:
    workdir: of a pipeline that has come to its end.
    settings: see configs/demo.py.
    held: gives records to choose examples from.
    policy: what it may be used for.
    limits: of files that visitors bring.
    motion_only: has no place for videos; see audit/privacy.py.
    sampling: one of generate.PRESETS.
    seed: of the draws.
    quantize: the decoder's kernels, for less memory; see engine.Engine.load.
    mark: that answers carry.
    log: opens what questions are written down in; None: nowhere.

  Returns:
    0, after a Ctrl-C.

  Raises:
    ValueError: settings that do not fit, or no finished model.
    OSError: the port is taken, or a file cannot be read.
    ImportError: the extra is not installed.
  """
  os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
  how = dataclasses.replace(
    generate.preset(sampling), max_new_tokens=settings['max_new_tokens']
  )
  password = _password(settings['password_file'])
  _check(settings)
  folder = os.path.join(workdir, 'model')
  tower = model_folder.read(folder).model.video
  is_for_all = password or not listening.is_local(settings['host'])
  hosts = ('*',) if is_for_all else (*listening.LOCAL, settings['host'])
  try:
    with contextlib.ExitStack() as ends:
      taken = ends.enter_context(
        listening.listen(settings['host'], settings['port'], section='demo')
      )
      book = _book(log(), ends, folder, is_marked=mark is not None)
      asked = engine.Engine.load(folder, quantize=quantize)
      media = [x for x in asked.media if x == 'motion' or not motion_only]
      reading = ends.enter_context(uploads.Uploads(tower, limits, media))
      together = ends.enter_context(
        scheduler.Scheduler(
          asked,
          max_rows=settings['rows'],
          max_waiting=settings['waiting'],
          logits_fn=mark,
        )
      )
      warm = threading.Thread(
        target=_warm,
        args=(asked, together, media, how, settings['rows']),
        daemon=True,
      )
      desk = site.Desk()
      does = handlers.Handlers(
        together,
        desk.take,
        policy,
        is_warm=lambda: not warm.is_alive(),
        examples=clips.examples(held(), settings['examples'], media),
        sampling=how,
        seed=seed,
        book=book,
      )
      blocks = page.build(
        does,
        about=_about(media),
        endings={medium: uploads.ENDINGS[medium] for medium in media},
        most_bytes=site.most_bytes(limits, media),
      )
      app = site.build(
        blocks,
        desk,
        reading,
        limits=limits,
        media=media,
        password=password,
        hosts=hosts,
        log=book and book.log,
      )
      warm.start()
      _serve(app, taken, has_password=bool(password))
  except KeyboardInterrupt:
    print('\nThe page is closed.')
  return 0


def _check(settings: Mapping[str, Any]) -> None:
  """Numbers with which nobody could ask anything are refused."""
  for name in ('rows', 'waiting'):
    if settings[name] <= 0:
      raise ValueError(
        f'Expected --config.demo.{name} above 0, found {settings[name]}; '
        'choose another.'
      )
  if settings['examples'] < 0:
    raise ValueError(
      f'Expected --config.demo.examples of 0 or more, found '
      f'{settings["examples"]}; choose another.'
    )


def _about(media: Sequence[str]) -> str:
  seen = {
    ('motion', 'video'): 'motion capture, video, or both',
    ('motion',): 'motion capture',
    ('video',): 'video',
  }.get(tuple(media), 'nothing')
  return f'Questions about how people move, from {seen}. Answers may be wrong.'


def _password(path: str) -> str:
  """The first line of a file; '' where none is named."""
  if not path:
    return ''
  found = pathlib.Path(path).read_text(encoding='utf-8').partition('\n')[0]
  if not (found := found.strip()):
    raise ValueError(
      f'Expected a password in {path}, found its first line empty; write it '
      'there, or leave config.demo.password_file out.'
    )
  return found


def _book(
  log: logs.Log | None,
  ends: contextlib.ExitStack,
  folder: str,
  *,
  is_marked: bool,
) -> noted.Book | None:
  """Where questions about a model are written down, until `ends`."""
  if log is None:
    return None
  ends.enter_context(log)
  return noted.Book(log, model_folder.weights_fingerprint(folder), is_marked)


def _warm(
  asked: engine.Engine,
  together: scheduler.Scheduler,
  media: Sequence[str],
  sampling: generate.Sampling,
  max_rows: int,
) -> None:
  """Compiles what a first visitor needs, who may compare all inputs."""
  with contextlib.suppress(scheduler.ClosedError):
    warming.warm(
      asked,
      together,
      max_rows=max_rows,
      media=media,
      sampling=sampling,
      tokens=sampling.max_new_tokens,
      alike=1,
    )


def _serve(app: Callable, taken: socket.socket, *, has_password: bool) -> None:
  """Answers until SIGTERM or a Ctrl-C, whoever still has the page open."""

  class Server(uvicorn.Server):
    async def startup(self, sockets=None) -> None:
      await super().startup(sockets)
      print(f'{listening.url(taken)} is ready; Ctrl-C ends it.', flush=True)
      if not (has_password or listening.is_local(taken.getsockname()[0])):
        print('Whoever reaches that address can ask: there is no password.')

  config = uvicorn.Config(
    app, log_level='critical', timeout_graceful_shutdown=1, server_header=False
  )
  with listening.unheard(signal.SIGINT, signal.SIGTERM):
    Server(config).run([taken])
  raise KeyboardInterrupt  # Who is still being answered is given up.
