"""Sends one request until there is a valid answer, within all limits."""

import email.utils
import itertools
import logging
import os
import random
import threading
import time
from collections.abc import Mapping
from typing import Any

from vimonet_jax import chat_cache, chat_messages

Json = dict[str, Any]

# The first wait after a failure, which doubles, and the longest.
_BACKOFF_S, _MAX_BACKOFF_S = 1.0, 60.0
# A service that wants more rest than this is not coming back for this run.
_MAX_RETRY_AFTER_S = 600.0
_WORTH_ANOTHER_TRY = (408, 409, 429)  # and all from 500 on
_FILTERED = ('content_filter', 'content_policy_violation')
_NO_MONEY = 'insufficient_quota'
# By name: the client's HTTP library is not the same in all its versions.
_NEVER_CONNECTED = ('ConnectError', 'ConnectTimeout', 'PoolTimeout')


class ServiceError(RuntimeError):
  """The service refuses for a reason that another try does not mend."""


def client_and_key(service: chat_messages.Service) -> tuple[Any, str]:
  """The module openai, and the key of the service.

  Raises:
    ImportError: the package is missing.
    ValueError: the environment has no key that can be sent.
  """
  try:
    import openai
  except ImportError:
    raise chat_messages.missing('openai') from None
  key = os.environ.get(service.key_variable, '').strip()
  if not (key and key.isascii() and key.isprintable()):
    raise ValueError(
      'Expected the key of the service in the environment variable '
      f'{service.key_variable}, found none that can be sent; set it there.'
    )
  return openai, key


class _AgainError(Exception):
  """It may work another time."""

  def __init__(self, problem: str, *, may_cost: bool, rest_s: float = 0.0):
    super().__init__(problem)
    self.may_cost = may_cost
    self.rest_s = rest_s


class _StoppedError(Exception):
  """Told to stop before it was sent."""


class _Pacer:
  """Lets a request start every so often, and none while the service rests."""

  def __init__(self, per_minute: float, stopping: threading.Event):
    self._interval_s = 60 / per_minute
    self._stopping = stopping
    self._next = 0.0
    self._lock = threading.Lock()

  def wait(self) -> None:
    """Until it is one's turn."""
    while not self._stopping.is_set():
      with self._lock:
        now = time.monotonic()
        if now >= self._next:
          self._next = now + self._interval_s
          return
        delay_s = self._next - now
      self._stopping.wait(delay_s)
    raise _StoppedError

  def rest(self, seconds: float) -> None:
    """Nobody's turn comes before that."""
    with self._lock:
      self._next = max(self._next, time.monotonic() + seconds)


class Sender:
  """Asks until there is a valid answer, within all limits; several threads."""

  def __init__(
    self,
    service: chat_messages.Service,
    cache: chat_cache.Cache,
    purse: chat_cache.Purse,
    stopping: threading.Event,
  ):
    self._service = service
    self._cache = cache
    self._purse = purse
    self._stopping = stopping
    self._pacer = _Pacer(service.requests_per_minute, stopping)
    self._openai = None
    self._key = ''

  def __enter__(self) -> 'Sender':
    return self

  def __exit__(self, *_):
    if self._openai:
      self._openai.close()

  def connect(self) -> None:
    """Once, as soon as something has to be sent: only that needs a key."""
    if self._openai:
      return
    service = self._service
    openai, self._key = client_and_key(service)
    logging.warning(
      'Sending requests to %s (%s), which sees all that they hold; at most '
      '$%.4f will be spent, $%.4f of it is.',
      service.base_url,
      service.model,
      service.budget_usd,
      self._purse.spent_usd,
    )
    self._openai = openai.OpenAI(
      api_key=self._key,
      base_url=service.base_url,
      timeout=service.timeout_s,
      max_retries=0,  # Ours are paced, and counted by the purse.
    )

  def outcome(
    self, key: str, request: chat_messages.Request
  ) -> chat_messages.Outcome:
    """Asks as often as it takes, and keeps each answer."""
    body = self._service.body(request)
    replies = self._cache.replies(key)
    try:
      while not chat_messages.is_settled(replies, request, self._service):
        replies = self._one_more(key, len(replies), body, request.id)
    except _AgainError as error:
      return chat_messages.Outcome(replies, problem=str(error))
    except chat_cache.NoRoomError as error:
      return chat_messages.Outcome(
        replies, is_undone=True, needed_usd=error.needed_usd
      )
    except _StoppedError:
      return chat_messages.Outcome(replies, is_undone=True)
    return chat_messages.Outcome(replies)

  def _one_more(self, key, known: int, body: Json, name: str) -> list[Json]:
    """All replies with one more, after as many tries as that may take."""
    for attempt in itertools.count(1):
      try:
        return self._try(key, known, body, name)
      except _AgainError as error:
        self._pacer.rest(error.rest_s)
        if attempt == self._service.tries:
          raise
        delay_s = min(_MAX_BACKOFF_S, _BACKOFF_S * 2 ** (attempt - 1))
        # Those that failed together do not come back together.
        delay_s = max(delay_s * random.uniform(0.5, 1.0), error.rest_s)
        if self._stopping.wait(delay_s):
          raise _StoppedError from None

  def _try(self, key, known: int, body: Json, name: str) -> list[Json]:
    most = self._service.most_tokens(body)
    with self._purse.reserved(key, self._service.usd(*most)) as costs:
      try:
        self._pacer.wait()
        # An answer that was not valid is not to come again.
        completion = self._post(body, f'{key}-{known}' if known else key, name)
      except _AgainError as error:
        if not error.may_cost:
          costs(0.0)
        raise
      except (ServiceError, _StoppedError):
        costs(0.0)
        raise
      tokens = chat_messages.tokens_of(completion)
      if tokens is None:
        tokens = most
        completion['usage'] = dict(
          zip(('prompt_tokens', 'completion_tokens'), most, strict=True)
        )
      usd = self._service.usd(*tokens)
      text, _ = chat_messages.without_images(body)
      replies = self._cache.add(key, completion, usd, text)
      costs(usd)
      return replies

  def _post(self, body: Json, idempotency_key: str, name: str) -> Json:
    """Sends once; gives a completion, or {error} of a filter."""
    import openai

    try:
      text = self._openai.chat.completions.with_raw_response.create(
        **body, extra_headers={'Idempotency-Key': idempotency_key}
      ).text
    except (openai.APIStatusError, openai.APIConnectionError) as error:
      trouble = error
    else:
      trouble = None
    # Out of the handler: these errors hold the request with its key, and would
    # be shown as the context of ours.
    if isinstance(trouble, openai.APIStatusError):
      return self._status(trouble, name)
    if trouble:  # Timeouts as well.
      cause = trouble.__cause__ or trouble
      raise _AgainError(
        self._hidden(f'no reply ({type(cause).__name__}: {cause})'),
        may_cost=type(cause).__name__ not in _NEVER_CONNECTED,
      )
    try:
      completion = chat_messages.read_json(text)
    except ValueError:
      completion = None
    if not chat_messages.is_completion(completion):
      raise _AgainError(
        self._hidden(f'no completion: {text[:80]!r}'), may_cost=True
      )
    return completion

  def _status(self, error: Any, name: str) -> Json:
    """A filter's {error}; raises whatever any other status means."""
    status = error.status_code
    body = error.body if isinstance(error.body, dict) else {}
    message = self._hidden(f'{status}: {body.get("message") or error.message}')
    rest_s = _retry_after_s(error.response.headers)
    is_final = error.code == _NO_MONEY or rest_s > _MAX_RETRY_AFTER_S
    if error.code in _FILTERED:
      return {'error': {'code': error.code, 'message': message}}
    if not is_final and (status in _WORTH_ANOTHER_TRY or status >= 500):
      raise _AgainError(message, may_cost=False, rest_s=rest_s)
    service = self._service
    if error.code == _NO_MONEY:
      todo = 'add to the account that the key belongs to'
    elif is_final:
      todo = f'go on in {rest_s:.0f} seconds, as it asks'
    elif status in (401, 403):
      todo = f'correct the key in {service.key_variable}'
    elif status == 404:
      todo = 'correct base_url or model of the service'
    else:
      todo = f'mend request {name!r} or leave it out'
    raise ServiceError(
      f'Expected {service.base_url} to answer as {service.model}, found '
      f'{message}; {todo}: what was answered is in {self._cache.folder} and '
      'costs nothing again.'
    )

  def _hidden(self, text: str) -> str:
    """One short line without the key, which some services repeat."""
    return chat_messages.one_line(text.replace(self._key, '(key)'))


def _retry_after_s(headers: Mapping[str, str]) -> float:
  """Seconds that a service wants to be left alone; a number or a date.

  A date is by the service's clock, which says in `Date` how late it is.
  """
  wanted = headers.get('retry-after', '')
  try:
    return max(0.0, float(wanted))
  except ValueError:
    pass
  try:
    until_s = email.utils.parsedate_to_datetime(wanted).timestamp()
  except ValueError:
    return 0.0
  try:
    now_s = email.utils.parsedate_to_datetime(headers['date']).timestamp()
  except (KeyError, ValueError):
    now_s = time.time()
  return max(0.0, until_s - now_s)
