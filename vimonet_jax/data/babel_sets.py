"""BABEL-QA to train on: its questions with their motions, never those of test.

Motions of BABEL-QA may be longer than a record. Where their labelled segments
are known, a record has the frames that its questions are about; where they are
not, such a motion is left out: nobody could tell what was cut off.
"""

import collections
import dataclasses
import functools
import hashlib
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from vimonet_jax.data import (
  babel_questions,
  babel_segments,
  kin,
  qa_files,
  records,
  survey,
)
from vimonet_jax.motion import features

PUBLISHED = 'babel_qa'
# A few rows more are cut off at the end: see records.trim_motion.
_MAX_ROWS = records.MAX_MOTION_FRAMES + records.FRAMES_PER_TOKEN - 1

# Why a question becomes no record.
REASONS = {
  'test': 'questions of test',
  'unlisted': 'questions in no split',
  'missing': 'questions without their motion',
  'unreadable': 'questions about a motion that cannot be read',
  'unanswered': 'questions that the segments do not answer',
  'too_long': 'questions about more than a record has, or nobody knows which '
  'part of a long motion',
  'too_short': 'questions about a motion too short',
}


class Item(NamedTuple):
  """A record to be.

  Attributes:
    id: the motion's, and a number.
    split: `train` or `val`.
    babel_id: the motion's.
    start, stop: rows of features.
    questions: ids of those that its turns ask.
    turns: one a question.
  """

  id: str
  split: str
  babel_id: str
  start: int
  stop: int
  questions: tuple[str, ...]
  turns: tuple[records.Turn, ...]


@dataclasses.dataclass(frozen=True)
class Found:
  """What comes of the questions.

  Attributes:
    splits: records to be; `test` has none.
    left: a key of `REASONS` -> ids of the questions that become none.
    faults: a sentence for each motion that cannot be read, and for each
      question that its motion's segments do not answer.
  """

  splits: dict[str, list[Item]]
  left: dict[str, list[str]]
  faults: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class BabelQa:
  """A dataset for `builder.build`: BABEL-QA's train and val.

  Attributes:
    questions: a file of them; see `babel_questions.read`. It may have those of
      test as well: the split file says which they are, and none becomes a
      record.
    split_file: a JSON object of train, val and test -> list of ids.
    motions: the folder with their joints; see `babel_questions.find_motion`.
    segments: upstream's motion_concepts.json, or empty.
    babel: folder of BABEL's train.json, val.json and so on, which tell the
      trial of AMASS that a motion is of, so that no other source trains on one
      of test (see `kin`); empty where nothing else is of AMASS.
    licence: goes into every record.
    max_turns: most questions of a record.
    min_frames: motions with fewer rows of features are left out.
    source: what records call it.
  """

  name: ClassVar[str] = 'babel_qa'
  image_size: ClassVar[int] = 1  # Its records have no frames.
  questions: str
  split_file: str
  motions: str
  segments: str = ''
  babel: str = ''
  licence: str = 'BABEL and AMASS, non-commercial research'
  max_turns: int = 3
  min_frames: int = records.MIN_MOTION_FRAMES
  source: str = PUBLISHED

  def find(self) -> Found:
    """Sorts the questions by what can become of them.

    Raises:
      ValueError: a file is not as it should be, a question or a motion is in
        test and in another split, or there is nothing to train on.
    """
    questions = babel_questions.read(self.questions)
    split_of = _split_of(self.split_file)
    by_split = collections.defaultdict(list)
    for question in questions:
      by_split[split_of.get(question.id, 'unlisted')].append(question)
    _check_apart(self.questions, by_split)
    left = {reason: [] for reason in REASONS}
    for name in ('test', 'unlisted'):
      left[name] = [question.id for question in by_split[name]]
    segments = {}
    if self.segments:
      segments = babel_segments.read(self.segments)
    known = babel_questions.vocabulary_of(by_split['train'] + by_split['val'])
    splits, faults = {}, []
    for split in ('train', 'val'):
      shown = collections.defaultdict(list)
      for question in by_split[split]:
        found = self._look(question, segments.get(question.babel_id))
        if isinstance(found, _Left):
          left[found.reason].append(question.id)
          faults += [found.fault] * bool(found.fault)
        else:
          shown[question.babel_id, *found].append(question)
      splits[split] = _items(split, shown, known, self.max_turns)
    splits['test'] = []
    found = Found(splits, left, tuple(dict.fromkeys(faults)))
    if not splits['train']:
      raise ValueError(
        f'{self.questions}: expected questions to train on that have a motion '
        f'in {self.motions}, found none; {"; ".join(_notes(found))}.'
      )
    return found

  def splits(self) -> dict[str, list[Item]]:
    """What `make` is called with, for each split; that of test is empty."""
    return self.find().splits

  def make(self, item: Item) -> records.Record:
    """The record of an item."""
    joints_TJ3 = babel_questions.read_motion(self.motions, item.babel_id).joints
    motion = features.encode(joints_TJ3)
    # The heading is smoothed over four seconds: cut after encoding.
    motion = records.trim_motion(motion[item.start : item.stop])
    return records.Record(
      id=item.id,
      source=self.source,
      split=item.split,
      motion=motion,
      joints=joints_TJ3[item.start : item.start + len(motion) + 1],
      turns=item.turns,
      provenance={
        'licence': self.licence,
        'babel_id': item.babel_id,
        'frames': [item.start, item.stop],
        'questions': list(item.questions),
        'in_order': False,
      },
    )

  def identity(self) -> dict[str, Any]:
    """What decides the content; files may move and must stay the same."""
    items = [item for items in self.find().splits.values() for item in items]
    motions = {
      item.babel_id: qa_files.checksum(
        babel_questions.find_motion(self.motions, item.babel_id)
      )
      for item in items
    }
    content = repr(sorted(motions.items())).encode()
    return {
      'source': self.source,
      'licence': self.licence,
      'questions': qa_files.checksum(self.questions),
      'split_file': qa_files.checksum(self.split_file),
      'segments': self.segments and qa_files.checksum(self.segments),
      'motions': hashlib.blake2s(content, digest_size=8).hexdigest(),
      'max_turns': self.max_turns,
      'min_frames': self.min_frames,
    }

  def cut(self, item: Item) -> kin.Cut:
    """The frames that an item shows, of a trial if `babel` tells which."""
    return self._cut(item.babel_id, start=item.start, stop=item.stop)

  def tested(self) -> dict[str, kin.Cut]:
    """Motions of test by their ids: other sources must not train on them."""
    split_of = _split_of(self.split_file)
    return {
      question.babel_id: self._cut(question.babel_id)
      for question in babel_questions.read(self.questions)
      if split_of.get(question.id) == 'test'
    }

  def _cut(self, name: str, start: float = 0, stop: float = math.inf):
    trial = f'{PUBLISHED}/{name}'
    if self.babel:
      trial = _trials(self.babel).get(name, trial)
    return kin.Cut(PUBLISHED, name, trial, start, stop)

  def survey(self, found: Found | None = None) -> survey.Survey:
    """A row a split, of `find` or as given; test is left out as a whole."""
    found = found or self.find()
    split_of = _split_of(self.split_file)

    def count(split, *reasons):
      ids = (name for reason in reasons for name in found.left[reason])
      return sum(split_of.get(name, survey.NO_SPLIT) == split for name in ids)

    rows = [
      survey.Row(
        self.source,
        split,
        present=len(items),
        missing=count(split, 'missing'),
        unreadable=count(split, 'unreadable', 'unanswered'),
        left_out=count(split, 'test', 'too_long', 'too_short', 'unlisted'),
        turns=sum(len(item.turns) for item in items),
      )
      for split, items in (*found.splits.items(), (survey.NO_SPLIT, []))
    ]
    own = (f'{self.source}, {note}' for note in _notes(found))
    return survey.Survey(tuple(rows), (*own, *found.faults))

  def _look(
    self,
    question: babel_questions.Question,
    segments: Sequence[babel_segments.Segment] | None,
  ) -> '_Left | tuple[int, int]':
    """The rows of a question's motion that show what it is about."""
    try:
      path = babel_questions.find_motion(self.motions, question.babel_id)
    except ValueError:
      return _Left('missing')
    try:
      rows = _num_rows(path)
    except ValueError as e:
      return _Left('unreadable', str(e))
    if rows < self.min_frames:
      return _Left('too_short')
    try:
      bounds = _bounds(question, rows, segments)
    except ValueError as e:
      return _Left('unanswered', str(e))
    return bounds or _Left('too_long')


@functools.cache
def _trials(folder: str) -> dict[str, str]:
  """Motion -> its trial of AMASS, as all data sets name it.

  BABEL's files are objects of id -> {"feat_p": "KIT/KIT/3/..._poses.npz", ...}.
  """
  found = {}
  for path in sorted(pathlib.Path(folder).glob('*.json')):
    entries = babel_questions.read_json(path)
    for name, entry in entries.items() if isinstance(entries, dict) else ():
      if isinstance(entry, dict) and isinstance(entry.get('feat_p'), str):
        found[str(name)] = kin.trial(entry['feat_p'])
  if not found:
    raise ValueError(
      f"Expected BABEL's train.json, val.json and so on in {folder}, found no "
      'entry with feat_p; give the folder of BABEL as it was unpacked.'
    )
  return found


class _Left(NamedTuple):
  """Why a question becomes no record."""

  reason: str
  fault: str = ''


def _num_rows(path: pathlib.Path) -> int:
  """Rows of features that a motion will have, from its file's head.

  Raises:
    ValueError: it cannot be read.
  """
  try:
    frames = len(np.load(path, mmap_mode='r'))
  except (ValueError, OSError, EOFError, TypeError) as e:
    raise ValueError(
      f'{path}: expected joints that np.load can read, found {str(e)[:80]!r}; '
      'copy the file again.'
    ) from e
  return int((frames - 1) * records.FPS / babel_questions.FPS)


def _split_of(path: str | os.PathLike) -> dict[str, str]:
  """Question -> split."""
  found = babel_questions.read_json(path)
  names = ('train', 'val', 'test')
  if not isinstance(found, dict) or any(
    not isinstance(found.get(name), list) for name in names
  ):
    raise ValueError(
      f'{path}: expected lists of ids under {", ".join(names)}, found '
      f'{str(list(found))[:60]}; without those of test nobody knows what must '
      'not be trained on.'
    )
  split_of = {}
  for split in names:
    for name in found[split]:
      if split_of.setdefault(str(name), split) != split:
        raise ValueError(
          f'{path}: expected every question in one split, found {name} in '
          f'{split_of[str(name)]} and {split}; take it out of train.'
        )
  return split_of


def _check_apart(path: str, by_split: Mapping[str, Sequence[Any]]) -> None:
  motions = {
    split: {question.babel_id for question in by_split[split]}
    for split in ('train', 'val', 'test')
  }
  for split in ('train', 'val'):
    if both := motions[split] & motions['test']:
      raise ValueError(
        f'{path}: expected no motion of test in {split}, found {len(both)}, '
        f'such as {min(both)}; give the split file that belongs to these '
        'questions.'
      )


def _bounds(
  question: babel_questions.Question,
  rows: int,
  segments: Sequence[babel_segments.Segment] | None,
) -> tuple[int, int] | None:
  """Rows that a question is about and as many around as there is room for.

  None where they are more than a record has, or nobody knows which they are.
  """
  if segments is not None:
    ran = babel_segments.execute(question, segments)
  if rows <= _MAX_ROWS:
    return 0, rows
  if segments is None:
    return None
  needed = [segments[i] for i in (*ran.filter_answers, ran.segment)]
  per_frame = records.FPS / babel_questions.FPS
  first = int(min(s.start_frame for s in needed) * per_frame)
  last = min(rows, int(np.ceil(max(s.end_frame for s in needed) * per_frame)))
  room = records.MAX_MOTION_FRAMES - (last - first)
  if room < 0:
    return None
  start = max(0, min(first - room // 2, rows - records.MAX_MOTION_FRAMES))
  return start, start + records.MAX_MOTION_FRAMES


def _items(
  split: str,
  shown: Mapping[tuple[str, int, int], Sequence[babel_questions.Question]],
  known: babel_questions.Vocabulary,
  max_turns: int,
) -> list[Item]:
  items, numbers = [], collections.Counter()
  for (name, start, stop), questions in shown.items():
    for i in range(0, len(questions), max_turns):
      some = questions[i : i + max_turns]
      items.append(
        Item(
          f'{name}/{numbers[name]}',
          split,
          name,
          start,
          stop,
          tuple(question.id for question in some),
          tuple(_turn(question, known) for question in some),
        )
      )
      numbers[name] += 1
  return items


def _turn(
  question: babel_questions.Question, known: babel_questions.Vocabulary
) -> records.Turn:
  query, relation = question.query_type, question.relation_type
  if query in ('direction', 'body_part'):
    domain = query
  else:
    domain = '' if relation == 'no_relation' else 'sequentiality'
  return records.Turn(
    question.question,
    question.answer,
    domain,
    kind=f'{query}/{relation}',
    fact=question.answer,
    choices=known[query],
  )


def _notes(found: Found) -> list[str]:
  return [
    note
    for reason, words in REASONS.items()
    for note in survey.named(words, found.left[reason])
  ]
