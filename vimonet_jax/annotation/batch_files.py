"""Files for a service's Batch API, which asks the same for less money.

    folder/captions-001.in.jsonl    written here, for somebody to upload
    folder/captions-001.out.jsonl   what came of it, put there by them

An input without its output is pending: its requests may be on their way, so no
other file asks for them.
"""

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator

from vimonet_jax import chat_api

# Half of what one file may hold.
_REQUESTS, _BYTES = 25_000, 100_000_000
_IN, _OUT = '.in.jsonl', '.out.jsonl'


def output(path: str) -> str:
  """Where what came of an input is looked for."""
  return path.removesuffix(_IN) + _OUT


def pending(folder: str) -> list[str]:
  """Names of inputs without an output."""
  return [
    os.path.basename(path)
    for path in sorted(glob.glob(_pattern(folder, '*', _IN)))
    if not os.path.exists(output(path))
  ]


def read(
  client: chat_api.Client, folder: str, step: str
) -> Iterator[tuple[str, chat_api.BatchReport]]:
  """Keeps what outputs of a step hold; each may be read again."""
  for path in sorted(glob.glob(_pattern(folder, step, _OUT))):
    yield path, client.read_batch(path)


def write(
  client: chat_api.Client,
  requests: Iterable[chat_api.Request],
  folder: str,
  step: str,
) -> Iterator[tuple[str, chat_api.Estimate]]:
  """Writes requests of a step, as many files as it takes."""
  os.makedirs(folder, exist_ok=True)
  names = [
    os.path.basename(path) for path in glob.glob(_pattern(folder, step, _IN))
  ]
  number = max((int(re.search(r'\d+', name)[0]) for name in names), default=0)
  for group in _groups(client.service, requests):
    number += 1
    path = os.path.join(folder, f'{step}-{number:03d}{_IN}')
    yield path, client.write_batch(group, path)


def _groups(
  service: chat_api.Service, requests: Iterable[chat_api.Request]
) -> Iterator[list[chat_api.Request]]:
  group, size = [], 0
  for request in requests:
    length = len(json.dumps(service.body(request)))
    if group and (len(group) == _REQUESTS or size + length > _BYTES):
      yield group
      group, size = [], 0
    group.append(request)
    size += length
  if group:
    yield group


def _pattern(folder: str, step: str, ending: str) -> str:
  return os.path.join(glob.escape(folder), f'{step}-[0-9]*{ending}')
