"""Questions and answers from files, joined to the clips of a motion source."""

import collections
import dataclasses
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vimonet_jax.data import conversations, kin, qa_files, records, survey

# Where the turns of files go: behind a clip's captions in the clip's record, or
# into records of their own beside it. Several rounds always have their own, as
# turns of one record may be drawn in any order.
PLACES = ('behind_captions', 'own_records')


class Item(NamedTuple):
  """A record to be.

  Attributes:
    clip: an item of the motion source.
    asked: conversations that become its turns, in their order.
    number: of the record among those of its clip; -1 for the clip's own, which
      has the captions, too.
  """

  clip: Any
  asked: tuple[conversations.Conversation, ...]
  number: int

  @property
  def id(self) -> str:
    name = self.clip.id
    return name if self.number < 0 else f'{name}/{self.number}'


@dataclasses.dataclass(frozen=True)
class Found:
  """What comes of the files' conversations.

  Attributes:
    splits: records to be; a clip decides which split its conversations are in.
    missing: conversations whose clip the source has not, or not as a video
      where they say that it is one.
    contrary: conversations that name another split than their clip is in; they
      are left out, for somebody took care that they are.
    faults: a sentence for each malformed entry.
    base: what the motion source found.
  """

  splits: dict[str, list[Item]]
  missing: tuple[conversations.Conversation, ...]
  contrary: tuple[conversations.Conversation, ...]
  faults: tuple[str, ...] = ()
  base: Any = None


@dataclasses.dataclass(frozen=True)
class Attached:
  """A dataset for `builder.build`: a motion source, and more to say of it.

  Attributes:
    base: a source whose items have an `id`, e.g. `sources.Folder`; to find
      parts of clips they need `member`, `start` and `stop` of clips.Clip.
    files: of questions and answers; see `qa_files`.
    place: one of `PLACES`.
    max_turns: most turns of a record of its own. Conversations of one turn
      share one; a conversation of several rounds stays whole and alone.
    domain: what turns are about that do not say it; a key of records.DOMAINS.
  """

  base: Any
  files: tuple[str, ...]
  place: str = 'own_records'
  max_turns: int = 3
  domain: str = ''

  def __post_init__(self):
    if self.place not in PLACES:
      raise ValueError(
        f'Expected a place of {", ".join(PLACES)}, found {self.place!r}.'
      )
    if self.domain not in ('', *records.DOMAINS):
      raise ValueError(
        f'Expected a domain of {", ".join(records.DOMAINS)}, found '
        f'{self.domain!r}.'
      )
    if self.max_turns < 1:
      raise ValueError(
        f'Expected at least one turn a record, found {self.max_turns}.'
      )

  @property
  def name(self) -> str:
    return self.base.name

  @property
  def image_size(self) -> int:
    return self.base.image_size

  @property
  def source(self) -> str:
    return getattr(self.base, 'source', self.base.name)

  def find(self) -> Found:
    """Joins conversations and clips; see `join`. A split may be empty."""
    read = [qa_files.read(path) for path in self.files]
    asked = [c for found in read for c in found.conversations]
    there = self.base.find()
    joined = join(
      there.splits, asked, place=self.place, max_turns=self.max_turns
    )
    faults = [fault for found in read for fault in found.faults]
    return dataclasses.replace(joined, base=there, faults=tuple(faults))

  def splits(self) -> dict[str, list[Item]]:
    """What `make` is called with, for each split."""
    return self.find().splits

  def make(self, item: Item) -> records.Record:
    """The record of an item."""
    record = self.base.make(item.clip)
    turns = tuple(
      turn if turn.domain else dataclasses.replace(turn, domain=self.domain)
      for conversation in item.asked
      for turn in conversation.turns
    )
    if not item.asked:
      return record
    said = provenance(item.asked)
    if item.number < 0:
      turns = (*record.turns, *turns)
      # Its name may end in a number that is none of ours.
      said['clip'] = record.id
    else:
      record = dataclasses.replace(record, id=f'{record.id}/{item.number}')
    return dataclasses.replace(
      record, turns=turns, provenance=record.provenance | said
    )

  def identity(self) -> dict[str, Any]:
    """What decides the content; files may move and must stay the same."""
    return {
      **self.base.identity(),
      'questions': [qa_files.checksum(path) for path in self.files],
      'place': self.place,
      'max_turns': self.max_turns,
      'domain': self.domain,
    }

  def cut(self, item: Item) -> kin.Cut:
    """The frames that an item's clip shows."""
    return self.base.cut(item.clip)

  def survey(self, found: Found | None = None) -> survey.Survey:
    """The clips' rows, and those of conversations, of `find` or as given."""
    found = found or self.find()
    clips = {
      split: [item.clip for item in items if item.number < 0]
      for split, items in found.splits.items()
    }
    base = self.base.survey(dataclasses.replace(found.base, splits=clips))
    name = f'{self.source} + questions'
    rows = []
    for split, items in found.splits.items():
      asked = [c for item in items for c in item.asked]
      rows.append(
        survey.Row(
          name,
          split,
          # Behind captions they are in records that are counted already.
          present=sum(item.number >= 0 for item in items),
          turns=sum(len(c.turns) for c in asked),
        )
      )
    rows.append(
      survey.Row(
        name,
        survey.NO_SPLIT,
        missing=len(found.missing),
        unreadable=len(found.faults),
        left_out=len(found.contrary),
      )
    )
    own = (f'{self.source}, {note}' for note in _notes(found))
    notes = (*base.notes, *own, *found.faults)
    return survey.Survey((*base.rows, *rows), notes)


def join(
  splits: Mapping[str, Sequence[Any]],
  asked: Iterable[conversations.Conversation],
  *,
  place: str = 'own_records',
  max_turns: int = 3,
) -> Found:
  """Gives each conversation to the clip that it is about.

  A clip is known by its id. Of this and the name in the conversation the
  shorter path has to be the end of the longer, as of `joints/000021.npy` and
  `000021`, and of no other clip's. A conversation about part of a clip belongs
  to that part, from frame to frame.

  Args:
    splits: of a motion source.
    asked: conversations of all files.
    place: one of `PLACES`.
    max_turns: see `Attached`.

  Raises:
    ValueError: items of the source have no id.
  """
  split_of, parts = {}, collections.defaultdict(list)
  for split, clips in splits.items():
    for clip in clips:
      if not hasattr(clip, 'id'):
        raise ValueError(
          'Expected a source whose items have an id, found '
          f'{type(clip).__name__}; join questions to a source of clips.'
        )
      split_of[clip.id] = split
      if hasattr(clip, 'member'):
        parts[clip.member].append(clip)
  filmed = {
    clip.id
    for clips in splits.values()
    for clip in clips
    if getattr(clip, 'video', '')
  }
  ids, members = _by_stem(split_of), _by_stem(parts)
  by_clip = collections.defaultdict(list)
  missing, contrary = [], []
  for conversation in asked:
    name = _clip_of(conversation, ids, members, parts)
    if name is None or (conversation.medium == 'video' and name not in filmed):
      missing.append(conversation)
    elif conversation.split not in ('', split_of[name]):
      contrary.append(conversation)
    else:
      by_clip[name].append(conversation)
  found = {split: [] for split in splits}
  for split, clips in splits.items():
    for clip in clips:
      about, behind = by_clip[clip.id], ()
      if place == 'behind_captions':
        behind = tuple(c for c in about if len(c.turns) == 1)
        about = [c for c in about if len(c.turns) > 1]
      found[split].append(Item(clip, behind, -1))
      shared = group(about, max_turns)
      found[split] += [Item(clip, some, i) for i, some in enumerate(shared)]
  return Found(found, tuple(missing), tuple(contrary))


def group(
  asked: Sequence[conversations.Conversation], max_turns: int
) -> list[tuple[conversations.Conversation, ...]]:
  """Conversations about one clip as the records that they will be.

  Those of one turn are put together, `max_turns` to a record, for the clip
  costs more than its words; one of several rounds is a record of its own, so
  that what comes before a question is what it refers to.
  """
  single = [c for c in asked if len(c.turns) == 1]
  groups = [
    tuple(single[i : i + max_turns]) for i in range(0, len(single), max_turns)
  ]
  return groups + [(c,) for c in asked if len(c.turns) > 1]


def provenance(
  asked: Sequence[conversations.Conversation],
) -> dict[str, Any]:
  """Where a record's turns come from, and whether their order means something.

  It does where there are several rounds, as a question may refer to what was
  said, unless each turn says whether it follows.
  """
  return {
    'questions': [{'id': c.id, **c.provenance} for c in asked],
    'in_order': any(c.in_order and len(c.turns) > 1 for c in asked),
  }


def _by_stem(names: Iterable[str]) -> dict[str, list[str]]:
  """Names of clips by their last parts."""
  found = collections.defaultdict(list)
  for name in names:
    found[conversations.stem(name)].append(name)
  return found


def _named(
  conversation: conversations.Conversation, by_stem: Mapping[str, list[str]]
) -> str | None:
  """The name that a conversation means; None for none, or one of several."""
  wanted = conversations.path_of(conversation.media)
  for fits in (operator.eq, conversations.is_end):
    same = [
      name
      for name in by_stem.get(conversation.clip, ())
      if fits(conversations.path_of(name), wanted)
    ]
    if same:
      return same[0] if len(same) == 1 else None
  return None


def _clip_of(
  conversation: conversations.Conversation,
  ids: Mapping[str, list[str]],
  members: Mapping[str, list[str]],
  parts: Mapping[str, Sequence[Any]],
) -> str | None:
  """The id of a conversation's clip, None where there is no such clip."""
  if not conversation.end_s:
    return _named(conversation, ids)
  start, stop = (
    int(seconds * records.FPS)
    for seconds in (conversation.start_s, conversation.end_s)
  )
  shown = parts.get(_named(conversation, members), ())
  for clip in shown:
    if (clip.start, clip.stop) == (start, stop):
      return clip.id
  # What ends behind its clip's end was cut there.
  ends = [clip for clip in shown if clip.start == start]
  if len(ends) == 1 and ends[0].stop < stop:
    return ends[0].id
  return None


def _notes(found: Found) -> list[str]:
  def where(some):
    return [
      f'{c.media} ({c.provenance.get("file", "")}, '
      f'{c.provenance.get("place", "")})'
      for c in some
    ]

  return [
    *survey.named('conversations without their clip', where(found.missing)),
    *survey.named(
      'conversations of another split than their clip', where(found.contrary)
    ),
    *survey.named(
      'malformed entries', [fault.partition(': ')[0] for fault in found.faults]
    ),
  ]
