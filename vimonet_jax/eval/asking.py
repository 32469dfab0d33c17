"""What is said before and after a chat service is asked about items."""

import collections
import logging
from collections.abc import Iterable, Sequence

from vimonet_jax import chat_api


def notice(
  client: chat_api.Client,
  requests: Iterable[chat_api.Request],
  *,
  gets: str,
  done: str,
  by: str,
) -> str:
  """A sentence to print before anything is sent: who gets to see what.

  Args:
    client: that will ask.
    requests: text only.
    gets: what is in them.
    done: to each, such as `judged`.
    by: whom, for the reader.
  """
  url, todo = client.service.base_url, client.estimate(requests)
  if not todo.requests:
    return f'{url} gets nothing: all {todo.cached} were {done} by {by} before.'
  return (
    f'{url}, a third party that may keep them, gets {gets} in {todo.requests} '
    f'requests, text only, no motion and no video, to be {done} by {by} for '
    f'about ${todo.usd:.4f}; {todo.cached} more were {done} before.'
  )


def warn(replies: Sequence[chat_api.Reply], wanted: str) -> None:
  """Of requests that nothing came of.

  Args:
    replies: to all requests.
    wanted: what each should be, such as `verdicts`.
  """
  without = [reply for reply in replies if reply.status != 'ok']
  if not without:
    return
  kinds = collections.Counter(reply.status for reply in without)
  logging.warning(
    'Expected %d %s, found %s without one, such as %s: %s; the same call asks '
    'again for those that failed.',
    len(replies),
    wanted,
    ', '.join(f'{n} {status}' for status, n in sorted(kinds.items())),
    without[0].id,
    without[0].problem,
  )
