"""Client of an OpenAI-compatible chat service that costs money.

Nothing is paid twice: replies are kept in a folder (see `chat_cache`), under a
hash of all that decides them. Nothing is paid beyond a budget. What is asked
goes to whoever runs the service; `Client.preview` shows it and sends nothing.

    service = Service(
      'https://api.openai.com/v1', 'gpt-4o', input_usd=2.5, output_usd=10.0,
      budget_usd=20.0,
    )
    client = Client(service, folder)
    print(client.estimate(requests))
    replies = {reply.id: reply for reply in client.ask(requests)}
"""

import concurrent.futures
import contextlib
import json
import logging
import math
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, NamedTuple, NoReturn

import tqdm

from vimonet_jax import chat_cache, chat_messages, chat_sender

Json = dict[str, Any]

# What callers need of the files below this one.
Service = chat_messages.Service
Request = chat_messages.Request
Reply = chat_messages.Reply
ServiceError = chat_sender.ServiceError

# Share of the price that services ask for a batch.
BATCH_PRICE = 0.5
# What one batch file may hold, as OpenAI documents it.
_BATCH_LINES, _BATCH_BYTES = 50_000, 200_000_000

# Rough, and right for English; used to estimate, never to bound.
_CHARACTERS_PER_TOKEN = 4


class BudgetError(RuntimeError):
  """The next request might cost more than is left."""


class Estimate(NamedTuple):
  """What is still to be paid.

  Input is counted as one token for 4 characters and `Service.image_tokens` an
  image, output as if every answer were as long as it may be.
  """

  requests: int
  cached: int
  input_tokens: int
  output_tokens: int
  usd: float


class BatchReport(NamedTuple):
  """What an output file of a batch held."""

  added: int
  known: int  # read before
  errors: dict[str, str]  # hash or line number -> what went wrong


def check(service: Service) -> None:
  """Raises for whatever would keep a service from being asked; sends nothing.

  Raises:
    ImportError: a package is missing.
    ValueError: the environment has no key that can be sent.
  """
  chat_sender.client_and_key(service)


class Client:
  """Asks a service; what it answers is kept in a folder.

  One folder is one purse: the budget counts all that was ever spent with it.
  """

  def __init__(self, service: Service, folder: str):
    self.service = service
    self.cache = chat_cache.Cache(folder)

  @property
  def spent_usd(self) -> float:
    """By all runs; requests that never came back count at their most."""
    return chat_cache.spent_usd(self.cache.folder)

  def ask(
    self, requests: Iterable[Request], *, progress: bool = False
  ) -> Iterator[Reply]:
    """Gives one reply for each request, as they come.

    Requests are taken as they are needed, so they may be made one by one. After
    a SIGTERM or Ctrl-C no request is sent; those under way are finished, kept
    and given, and then SystemExit or KeyboardInterrupt is raised. Who stops
    iterating waits for those under way, too.

    Args:
      requests: their ids differ; the same question may come twice, and is paid
        once.
      progress: draw a progress bar.

    Raises:
      BudgetError: after all replies that could be had.
      ServiceError: the key, the model's name or a request is wrong.
    """
    stopping = threading.Event()
    left = {}  # id -> what it may cost, where the budget has no room
    ids = set()
    total = len(requests) if isinstance(requests, Sized) else None
    with (
      tqdm.tqdm(
        desc='replies', total=total, disable=not progress, dynamic_ncols=True
      ) as bar,
      chat_cache.locked(self.cache.folder),
      chat_cache.Purse(self.cache.folder, self.service.budget_usd) as purse,
      _told_to_stop(stopping),
      chat_sender.Sender(self.service, self.cache, purse, stopping) as sender,
      _Crew(self.service.max_at_once, stopping) as crew,
    ):

      def done() -> Iterator[Reply]:
        for asked, outcome in crew.finished():
          if outcome.is_undone:
            left.update({each.id: outcome.needed_usd for each in asked})
            continue
          bar.set_postfix_str(f'${purse.spent_usd:.4f}', refresh=False)
          for place, each in enumerate(asked):
            bar.update()
            yield chat_messages.reply_of(each, outcome, is_cached=place > 0)

      for request in requests:
        if stopping.is_set():
          break
        if request.id in ids:
          raise ValueError(
            'Expected an id of its own for each request, found two of '
            f'{request.id!r}; replies are joined by it.'
          )
        ids.add(request.id)
        key = self.service.key(request)
        replies = self.cache.replies(key)
        if chat_messages.is_settled(replies, request, self.service):
          bar.update()
          outcome = chat_messages.Outcome(replies)
          yield chat_messages.reply_of(request, outcome, is_cached=True)
        elif crew.joins(key, request):
          pass
        elif left:
          left[request.id] = 0.0
        else:
          chat_messages.check_schema(request)
          sender.connect()
          crew.start(key, request, sender.outcome)
        while crew.is_full:
          yield from done()
      while crew.is_busy:
        yield from done()
      if left and not stopping.is_set():
        raise BudgetError(
          f'Expected to stay within ${self.service.budget_usd:.4f}, found '
          f'${purse.spent_usd:.4f} spent (${purse.unknown_usd:.4f} of it for '
          'replies that never came, at their most) and up to '
          f'${max(left.values()):.4f} needed for the next request, with '
          f'{len(left)} left undone; raise the budget and repeat the command: '
          f'what was answered is in {self.cache.folder} and costs nothing '
          'again.'
        )

  def estimate(self, requests: Iterable[Request]) -> Estimate:
    """What asking would cost; sends nothing and needs no key."""
    return self._estimate(requests, lambda key, request: None)

  def preview(self, requests: Iterable[Request]) -> Iterator[Json]:
    """Each request as it would be sent, with its images shortened.

    Sends nothing, and needs no key. What was answered before is in it as well.
    """
    for request in requests:
      body, _ = chat_messages.without_images(self.service.body(request))
      yield {
        'id': request.id,
        'url': f'{self.service.base_url.rstrip("/")}/chat/completions',
        'headers': {
          'Idempotency-Key': self.service.key(request),
          'Authorization': f'Bearer ${self.service.key_variable}',
        },
        'body': body,
      }

  def write_batch(self, requests: Iterable[Request], path: str) -> Estimate:
    """Writes what is not answered yet as an input file of the Batch API.

    Nothing is sent or set aside: whoever uploads the file pays for it.

    Returns:
      What it would cost as a batch.
    """
    lines, size = 0, 0
    with open(f'{path}.part', 'w', encoding='utf-8') as f:

      def write(key: str, request: Request) -> None:
        nonlocal lines, size
        chat_messages.check_schema(request)
        line = {
          'custom_id': key,
          'method': 'POST',
          'url': '/v1/chat/completions',
          'body': self.service.body(request),
        }
        lines, size = lines + 1, size + f.write(json.dumps(line) + '\n')
        if lines > _BATCH_LINES or size > _BATCH_BYTES:
          raise ValueError(
            f'Expected at most {_BATCH_LINES} requests and '
            f'{_BATCH_BYTES / 1e6:.0f} MB in one batch, found more for {path}; '
            'write several files, each with some of the requests.'
          )

      estimate = self._estimate(requests, write)
    os.replace(f'{path}.part', path)
    return estimate._replace(usd=estimate.usd * BATCH_PRICE)

  def read_batch(self, path: str) -> BatchReport:
    """Keeps the replies of a batch's output file, where `ask` finds them.

    They are paid already, so they count whether the budget has room or not.
    """
    added, known, errors = 0, 0, {}
    with (
      chat_cache.locked(self.cache.folder),
      chat_cache.Purse(self.cache.folder, self.service.budget_usd) as purse,
      open(path, encoding='utf-8') as f,
    ):
      for number, line in enumerate(f, 1):
        if not line.strip():
          continue
        key, completion, problem = _read_batch_line(line)
        if problem:
          errors[key or f'line {number}'] = problem
        elif completion in [r['completion'] for r in self.cache.replies(key)]:
          known += 1
        else:
          tokens = chat_messages.tokens_of(completion) or (0, 0)
          usd = BATCH_PRICE * self.service.usd(*tokens)
          self.cache.add(key, completion, usd)
          purse.charge(key, usd)
          added += 1
    return BatchReport(added, known, errors)

  def _estimate(
    self, requests: Iterable[Request], use: Callable[[str, Request], None]
  ) -> Estimate:
    """Counts, and gives each request that is still to be sent to `use`."""
    keys, total, input_tokens = set(), 0, 0
    for request in requests:
      total += 1
      key = self.service.key(request)
      if key in keys or chat_messages.is_settled(
        self.cache.replies(key), request, self.service
      ):
        continue
      keys.add(key)
      text, images = chat_messages.without_images(self.service.body(request))
      characters = len(chat_messages.as_text(text))
      input_tokens += math.ceil(characters / _CHARACTERS_PER_TOKEN)
      input_tokens += images * self.service.image_tokens
      use(key, request)
    output_tokens = len(keys) * self.service.max_tokens
    usd = self.service.usd(input_tokens, output_tokens)
    return Estimate(
      len(keys), total - len(keys), input_tokens, output_tokens, usd
    )


def _read_batch_line(line: str) -> tuple[str, Json, str]:
  """(key, completion, what is wrong) of one line of an output file."""
  try:
    row = chat_messages.read_json(line)
    key = row['custom_id']
    response, error = row.get('response') or {}, row.get('error')
  except (ValueError, KeyError, TypeError, AttributeError):
    return '', {}, f'no line of a batch: {line.strip()[:60]}'
  if not re.fullmatch('[0-9a-f]{64}', str(key)):
    return str(key), {}, 'not written by write_batch'
  body = response.get('body')
  is_sound = response.get('status_code') == 200 and (
    chat_messages.is_completion(body)
  )
  if error or not is_sound:
    told = chat_messages.as_text(error or response)
    return key, {}, chat_messages.one_line(told)
  return key, body, ''


# --- Threads and signals -----------------------------------------------------


class _Crew:
  """Threads, and the requests that each of them has in hand."""

  def __init__(self, size: int, stopping: threading.Event):
    self._size = size
    self._stopping = stopping
    self._pool = concurrent.futures.ThreadPoolExecutor(size)
    self._futures = {}  # key -> future
    self._asked = {}  # key -> requests

  def __enter__(self) -> '_Crew':
    return self

  def __exit__(self, *_):
    """Waits for what is under way; nothing else is sent."""
    self._stopping.set()
    self._pool.shutdown()

  @property
  def is_busy(self) -> bool:
    return bool(self._futures)

  @property
  def is_full(self) -> bool:
    return len(self._futures) >= self._size

  def joins(self, key: str, request: Request) -> bool:
    """Whether the same is being asked, and answers this request as well."""
    if key in self._asked:
      self._asked[key].append(request)
    return key in self._asked

  def start(
    self,
    key: str,
    request: Request,
    work: Callable[[str, Request], chat_messages.Outcome],
  ) -> None:
    self._futures[key] = self._pool.submit(work, key, request)
    self._asked[key] = [request]

  def finished(self) -> list[tuple[list[Request], chat_messages.Outcome]]:
    """Who was answered; waits until somebody is."""
    concurrent.futures.wait(
      self._futures.values(), return_when=concurrent.futures.FIRST_COMPLETED
    )
    keys = [key for key, future in self._futures.items() if future.done()]
    return [
      (self._asked.pop(key), self._futures.pop(key).result()) for key in keys
    ]


@contextlib.contextmanager
def _told_to_stop(stopping: threading.Event) -> Iterator[None]:
  """SIGTERM and Ctrl-C set `stopping`, and act when the block has ended.

  A second one acts at once, as it would have without this.
  """
  heard = []
  before = {}

  def restore() -> None:
    for number, handler in before.items():
      signal.signal(number, handler)

  def hear(number, frame) -> None:
    del frame
    heard.append(number)
    stopping.set()
    restore()

  # Python hears signals in the main thread only. What others catch (None), or
  # whoever started this wants ignored, stays so.
  if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGTERM, signal.SIGINT):
      if signal.getsignal(number) not in (None, signal.SIG_IGN):
        before[number] = signal.signal(number, hear)
  try:
    yield
  finally:
    restore()
    if heard:
      _leave(heard[0])


def _leave(number: int) -> NoReturn:
  logging.warning(
    'Stopped by %s; the same command goes on from here.',
    signal.Signals(number).name,
  )
  if number == signal.SIGINT:
    raise KeyboardInterrupt
  raise SystemExit(128 + number)
