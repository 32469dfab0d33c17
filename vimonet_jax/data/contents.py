"""What records hold, in numbers: how much, about what, from where, how long."""

import collections
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vimonet_jax.data import records

NOT_STATED = 'not stated'
_MOST_NAMED = 10
_MOST_WORDS = 16
# Histogram -> first edge, width and number of its bars; the last bar is open.
_BARS = {
  'motion, seconds': (0, 0.5, 20),
  'video, seconds': (0, 5, 24),
  'turns a record': (1, 1, 12),
  'question, words': (1, 2, 20),
  'answer, words': (1, 4, 25),
}
# Every text is full of them, so they tell nothing of this one.
_FUNCTION_WORDS = {
  'a', 'an', 'the', 'this', 'that', 'there', 'then', 'which', 'who', 'what',
  'he', 'she', 'they', 'it', 'his', 'her', 'their', 'its', 'him', 'them',
  'is', 'are', 'was', 'be', 'been', 'has', 'have', 'and', 'or', 'while',
  'of', 'to', 'in', 'on', 'at', 'as', 'by', 'for', 'from', 'with', 'into',
}  # fmt: skip
# What a model learns too well where one of the two is rare.
_PAIRS = (('left', 'right'), ('yes', 'no'), ('forward', 'backwards'))


class _Counts:
  """What has been counted of a split's, or a source's, records."""

  def __init__(self):
    self.numbers = collections.Counter(records=0, turns=0, clips=0)
    self.seconds = {'motion': 0.0, 'video': 0.0}
    self._clips = set()

  def add(self, record: records.Record) -> None:
    media = [m for m in ('motion', 'video') if _seconds(record, m) is not None]
    self.numbers['records'] += 1
    self.numbers['turns'] += len(record.turns)
    self.numbers[' and '.join(media) or 'words only'] += 1
    # A clip may be that of several records.
    key = record.source, clip_of(record), *map(str, _part(record))
    if key in self._clips:
      return
    self._clips.add(key)
    self.numbers['clips'] += bool(media)
    for medium in media:
      seconds = _seconds(record, medium)
      self.seconds[medium] += seconds
      if not seconds:
        self.numbers['clips of unknown duration'] += 1

  def to_json(self) -> dict[str, Any]:
    hours = {f'{m}_hours': s / 3600 for m, s in self.seconds.items()}
    return {**self.numbers, **hours}


def count(splits: Mapping[str, Iterable[records.Record]]) -> dict[str, Any]:
  """The numbers of a card, as JSON holds them; every record is read once."""
  by_split = {split: _Counts() for split in splits}
  by_source = collections.defaultdict(lambda: collections.defaultdict(_Counts))
  domains = collections.defaultdict(collections.Counter)
  licences = collections.defaultdict(collections.Counter)
  generators, files = collections.Counter(), collections.Counter()
  lengths = collections.defaultdict(list)
  words = {'questions': collections.Counter(), 'answers': collections.Counter()}
  places = collections.defaultdict(set)
  for split, some in splits.items():
    for record in some:
      by_split[split].add(record)
      by_source[record.source][split].add(record)
      places[record.source, clip_of(record)].add(split)
      for licence in _licences(record):
        licences[licence][record.source] += 1
      for origin in _origins(record):
        generators[origin.get('generator') or origin.get('model', '')] += 1
        files[origin.get('file', '')] += 1
      for medium in ('motion', 'video'):
        if seconds := _seconds(record, medium):
          lengths[f'{medium}, seconds'].append(seconds)
      lengths['turns a record'].append(len(record.turns))
      for turn in record.turns:
        domains[turn.domain or NOT_STATED][split] += 1
        for kind, text in (
          ('question', turn.question),
          ('answer', turn.answer),
        ):
          said = words_of(text)
          words[f'{kind}s'].update(said)
          lengths[f'{kind}, words'].append(len(said))
  both = sorted(
    f'{source}: {clip}' for (source, clip), s in places.items() if len(s) > 1
  )
  return {
    'splits': {split: c.to_json() for split, c in by_split.items()},
    'sources': {
      source: {split: c.to_json() for split, c in some.items()}
      for source, some in by_source.items()
    },
    'domains': {name: dict(some) for name, some in domains.items()},
    'licences': {name: dict(some) for name, some in licences.items()},
    'generators': {k: n for k, n in generators.most_common() if k},
    'files': {k: n for k, n in files.most_common() if k},
    'clips_in_two_splits': {'number': len(both), 'first': both[:_MOST_NAMED]},
    'lengths': {
      name: _lengths(name, lengths[name]) for name in _BARS if lengths[name]
    },
    'words': {
      'different': {kind: len(some) for kind, some in words.items()},
      'frequent': [
        [word, number]
        for word, number in words['answers'].most_common(_MOST_WORDS * 4)
        if word not in _FUNCTION_WORDS
      ][:_MOST_WORDS],
      'pairs': [
        [[word, words['answers'][word]] for word in pair] for pair in _PAIRS
      ],
    },
  }


def clip_of(record: records.Record) -> str:
  """The clip that a record is about: its id, without the number of questions.

  Motion-X has clips whose own names end in a number; see attached.Attached.
  """
  if 'questions' not in record.provenance or 'clip' in record.provenance:
    return record.id
  return re.sub(r'/\d+$', '', record.id)


def words_of(text: str) -> list[str]:
  """'The man's left.' -> the, man's, left."""
  return re.findall(r"\w+(?:'\w+)?", text.lower())


def _seconds(record: records.Record, medium: str) -> float | None:
  """How long a record's clip is; 0 where nobody knows, None without one."""
  if medium == 'motion':
    if record.motion is None:
      return None
    return len(record.motion) / records.FPS
  if record.frames is None:
    return None
  return float(record.provenance.get('duration_s') or 0)


def _part(record: records.Record) -> list[Any]:
  keys = ('frames', 'start_s', 'end_s')
  return [record.provenance.get(key) for key in keys]


def _origins(record: records.Record) -> list[dict[str, Any]]:
  """Where a record's words come from, as far as that is said."""
  questions = record.provenance.get('questions') or ()
  said = [origin for origin in questions if isinstance(origin, dict)]
  return said or [
    {k: record.provenance[k] for k in ('generator', 'model')
     if k in record.provenance}
  ]  # fmt: skip


def _licences(record: records.Record) -> set[str]:
  """Of the clip and, where they have one of their own, of the words."""
  own = {str(record.provenance.get('licence') or NOT_STATED)}
  return own | {str(o['licence']) for o in _origins(record) if o.get('licence')}


def _lengths(name: str, values: Sequence[float]) -> dict[str, Any]:
  first, width, number = _BARS[name]
  counts = [0] * number
  for value in values:
    counts[max(0, min(int((value - first) / width), number - 1))] += 1
  return {
    'least': min(values),
    'median': statistics.median(values),
    'mean': statistics.fmean(values),
    'most': max(values),
    'from': first,
    'width': width,
    'counts': counts,
  }
