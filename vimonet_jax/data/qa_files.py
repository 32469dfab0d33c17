"""Files of questions and answers: what they hold, and what in them is wrong.

A file is JSON lines, a JSON list, `{info, annotations: [...]}`, or an object of
clip -> entry or list of {Q, A}. Which of the layouts of `qa_layouts` its
entries have is seen from each entry. A folder of captions is read like a file
(`caption_folders`). What is not as it should be is named with its place and
left out; nothing else is.
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from vimonet_jax.data import (
  caption_folders,
  captions,
  conversations,
  qa_layouts,
)

_MOST_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Found:
  """What a file has.

  Attributes:
    path: the file.
    conversations: in the file's order; their ids differ from one another, and
      their provenance says in which `file` and `place` they stand.
    faults: a sentence for each entry that was left out, with file and place.
    layouts: how many entries have which layout.
  """

  path: str
  conversations: tuple[conversations.Conversation, ...]
  faults: tuple[str, ...] = ()
  layouts: dict[str, int] = dataclasses.field(default_factory=dict)

  def summary(self) -> str:
    """One line, and one more for each of the first faults."""
    turns = sum(len(c.turns) for c in self.conversations)
    kinds = ', '.join(f'{n} {name}' for name, n in self.layouts.items())
    lines = [
      f'{self.path}: {len(self.conversations)} conversations with {turns} '
      f'turns ({kinds}); {len(self.faults)} entries left out'
    ]
    lines += self.faults[:_MOST_NAMED]
    if len(self.faults) > _MOST_NAMED:
      lines.append(f'... and {len(self.faults) - _MOST_NAMED} more')
    return '\n'.join(lines)


def read(path: str | os.PathLike) -> Found:
  """Conversations of a file, or of a folder of captions, and its faults.

  An entry that says the same of the same clip as an earlier one is a fault.
  Items of a benchmark that continue each other (`history`) become the one
  conversation that they are rounds of.

  Raises:
    ValueError: the file is not JSON, or no entry of it can be read.
  """
  if os.path.isdir(path):
    return _read_folder(path)
  reading = _Reading(os.fspath(path))
  for place, key, entry in _entries(pathlib.Path(path)):
    reading.add(place, key, entry)
  if not reading.found:
    raise ValueError(
      reading.faults[0]
      if reading.faults
      else f'{path}: expected conversations, found none; check that it is the '
      'right file.'
    )
  return Found(
    os.fspath(path),
    _with_ids(reading.found),
    tuple(reading.faults),
    dict(reading.layouts),
  )


def checksum(path: str | os.PathLike) -> str:
  """Of a file's bytes, or of names and bytes of a folder's texts.

  It is for the identity of what is made of them.
  """
  if os.path.isdir(path):
    files = sorted(pathlib.Path(path).rglob('*.txt'))
    rows = [(f.relative_to(path).as_posix(), checksum(f)) for f in files]
    return hashlib.blake2b(repr(rows).encode()).hexdigest()[:32]
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'blake2b').hexdigest()[:32]


def _read_folder(path: str | os.PathLike) -> Found:
  found, faults = caption_folders.read(path)
  if not found:
    raise ValueError(faults[0])
  return Found(
    os.fspath(path), _with_ids(found), tuple(faults), {'captions': len(found)}
  )


class _Fault:
  """Stands for an entry that is no JSON; what is wrong with it."""

  def __init__(self, what: str):
    self.what = what


class _Reading:
  """What has been read of a file so far."""

  def __init__(self, path: str):
    self.path = path
    self.found: list[conversations.Conversation] = []
    self.faults: list[str] = []
    self.layouts = collections.Counter()
    self._places: dict[Any, str] = {}  # what is said -> where first
    self._rounds: dict[Any, int] = {}  # what is said -> index of `found`

  def add(self, place: str, key: str, entry: Any) -> None:
    try:
      if isinstance(entry, _Fault):
        raise ValueError(entry.what)
      layout = qa_layouts.layout_of(entry)
      new = qa_layouts.read(entry, key=key)
      for conversation in new:
        self._check_new(conversation)
    except ValueError as e:
      self.faults.append(f'{self.path}, {place}: {e}')
      return
    self.layouts[layout] += 1
    for conversation in new:
      self._places[_content(conversation)] = place
      if layout == 'item' and self._continues(conversation):
        continue
      provenance = {
        **conversation.provenance,
        'file': os.path.basename(self.path),
        'place': place,
      }
      self._rounds[_content(conversation)] = len(self.found)
      self.found.append(
        dataclasses.replace(conversation, provenance=provenance)
      )

  def _check_new(self, conversation) -> None:
    if first := self._places.get(_content(conversation)):
      raise ValueError(
        f'expected each conversation once, found the one of {first} again; '
        'remove one of the two.'
      )

  def _continues(self, conversation) -> bool:
    """Adds the last turn to the conversation that has all turns before it."""
    before = dataclasses.replace(conversation, turns=conversation.turns[:-1])
    index = self._rounds.pop(_content(before), None)
    if index is None:
      return False
    known = self.found[index]
    self.found[index] = dataclasses.replace(
      known, turns=(*known.turns, conversation.turns[-1])
    )
    self._rounds[_content(conversation)] = index
    return True


def _content(conversation: conversations.Conversation) -> Any:
  """What tells a conversation from another one, whatever its id."""
  return (
    conversation.collection,
    conversation.media,
    conversation.start_s,
    conversation.end_s,
    tuple((turn.question, turn.answer) for turn in conversation.turns),
  )


def _with_ids(
  found: list[conversations.Conversation],
) -> tuple[conversations.Conversation, ...]:
  """An id that comes again, as a video's does, gets a number."""
  named = [dataclasses.replace(c, id=c.id or c.media) for c in found]
  often = collections.Counter(c.id for c in named)
  met = collections.Counter()
  result = []
  for conversation in named:
    name = conversation.id
    if often[name] > 1:
      met[name] += 1
      conversation = dataclasses.replace(
        conversation, id=f'{name}/{met[name] - 1}'
      )
    result.append(conversation)
  return tuple(result)


def _entries(path: pathlib.Path) -> Iterator[tuple[str, str, Any]]:
  """Place, key and value of each entry."""
  text = captions.read_text(path)
  try:
    whole = json.loads(text, object_pairs_hook=_once)
  except ValueError as e:
    # Not splitlines: words may have what Python, and not JSON, ends lines at.
    lines = text.split('\n')
    if not _are_objects(lines):
      raise ValueError(f'{path}: {_what(e)}') from e
    yield from _lines(lines)
    return
  if isinstance(whole, dict) and isinstance(whole.get('annotations'), list):
    whole = whole['annotations']
  if isinstance(whole, list):
    for number, entry in enumerate(whole, 1):
      yield f'entry {number}', '', entry
  elif not isinstance(whole, dict):
    raise ValueError(
      f'{path}: expected entries, found {str(whole)[:40]!r}; check that it is '
      'the right file.'
    )
  elif _is_entry(whole):
    yield 'entry 1', '', whole
  else:
    for key, entry in whole.items():
      # MoVid's pairs may stand under the clip's name as they are.
      is_list = isinstance(entry, list)
      yield f'key {key}', key, {'QA': entry} if is_list else entry


def _is_entry(value: dict[str, Any]) -> bool:
  try:
    qa_layouts.layout_of(value)
  except ValueError:
    return False
  return True


def _are_objects(lines: list[str]) -> bool:
  """Whether most lines are JSON objects: some may be damaged."""

  def is_object(line):
    try:
      return isinstance(json.loads(line), dict)
    except ValueError:
      return False

  filled = list(filter(str.strip, lines))
  return 2 * sum(map(is_object, filled)) > len(filled)


def _lines(lines: list[str]) -> Iterator[tuple[str, str, Any]]:
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      entry = json.loads(line, object_pairs_hook=_once)
    except json.JSONDecodeError as e:
      entry = _Fault(
        f'expected a JSON object, found {line[:40]!r} ({e.msg}); mend or '
        'remove that line.'
      )
    except ValueError as e:
      entry = _Fault(str(e))
    yield f'line {number}', '', entry


def _what(error: ValueError) -> str:
  if not isinstance(error, json.JSONDecodeError):
    return str(error)
  return (
    'expected JSON, or a JSON object a line, found none from line '
    f'{error.lineno} on ({error.msg}); mend it or copy the file again.'
  )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """An object of which no key comes twice, where json keeps the last."""
  found = dict(pairs)
  if len(found) < len(pairs):
    counts = collections.Counter(name for name, _ in pairs)
    twice = max(counts, key=counts.get)
    raise ValueError(
      f'expected each key once, found {twice!r} again; remove one of the two.'
    )
  return found
