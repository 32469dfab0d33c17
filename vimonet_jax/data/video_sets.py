"""Videos in a folder and what files say of them, as records with frames.

Valley's captions, Video-ChatGPT's instructions and Motion-X's videos are such
sets: `qa_files` has the words, and each names its video.
"""

import collections
import dataclasses
import functools
import hashlib
import math
import pathlib
from typing import Any, ClassVar, NamedTuple

from vimonet_jax.data import (
  attached,
  captions,
  conversations,
  kin,
  motionx,
  qa_files,
  records,
  sources,
  survey,
  video,
  video_folder,
)

# Of 1000 parts, a video's name draws one: a thousandth can be held out.
_PARTS = 1000


class Item(NamedTuple):
  """A record to be.

  Attributes:
    id: the video's path in the folder, without ending, and a number.
    split: `train`, `val` or `test`.
    file: the video's path in the folder, or that of a folder of images.
    asked: conversations that become its turns.
  """

  id: str
  split: str
  file: str
  asked: tuple[conversations.Conversation, ...]


@dataclasses.dataclass(frozen=True)
class Found:
  """What comes of the folder and the files.

  Attributes:
    splits: records to be, by split.
    missing: conversations whose video is not there, or in no split, or that
      say that they are about a motion.
    ambiguous: conversations whose video could be one of several files.
    contrary: conversations that name another split than their video is in.
    unreadable: a sentence for each video that does not open, by file.
    faults: a sentence for each malformed entry.
  """

  splits: dict[str, list[Item]]
  missing: tuple[conversations.Conversation, ...] = ()
  ambiguous: tuple[conversations.Conversation, ...] = ()
  contrary: tuple[conversations.Conversation, ...] = ()
  unreadable: dict[str, str] = dataclasses.field(default_factory=dict)
  faults: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Videos:
  """A dataset for `builder.build`, from videos and files of words.

  Attributes:
    path: the folder of the videos, with folders below it or not. A folder of
      images is a video, too.
    files: of questions and answers, or folders of captions; see `qa_files`.
    source: what records call it, e.g. `valley`.
    licence: under which it may be used; goes into every record.
    image_size: width and height of the frames, pixels.
    frames: how many frames a record has.
    antialias: see video.read_clip.
    domain: what turns are about that do not say it, e.g. `video_caption`.
    max_turns: most turns of a record, but see `attached.group`.
    held_out: which share of the videos is in `val`, and which in `test`, where
      neither files nor `split_path` say so. A video's name decides.
    split_path: a folder with train.txt, val.txt and test.txt, which name videos
      without ending; what they do not name is missing. A clip of which another
      source has the motion has to be in the same split there.
    names: whose names the videos have: `motionx`, or empty. It tells which are
      of a recording that another source has, see `kin`.
  """

  name: ClassVar[str] = 'videos'
  path: str
  files: tuple[str, ...]
  source: str
  licence: str
  image_size: int = 224
  frames: int = 8
  antialias: bool = False
  domain: str = ''
  max_turns: int = 3
  held_out: float = 0.01
  split_path: str = ''
  names: str = ''

  def __post_init__(self):
    if self.names not in ('', motionx.PUBLISHED):
      raise ValueError(
        f'Expected names of {motionx.PUBLISHED} or none, found {self.names!r}.'
      )
    if self.domain not in ('', *records.DOMAINS):
      raise ValueError(
        f'Expected a domain of {", ".join(records.DOMAINS)}, found '
        f'{self.domain!r}.'
      )
    if not 0 <= self.held_out < 0.5 or self.max_turns < 1 or self.frames < 1:
      raise ValueError(
        'Expected a share to hold out of 0 up to 0.5 and at least one turn and '
        f'frame a record, found held_out={self.held_out}, '
        f'max_turns={self.max_turns} and frames={self.frames}.'
      )

  def find(self) -> Found:
    """Joins words and videos, and opens each video that is asked about.

    Raises:
      ValueError: there is no folder, no file can be read, or nothing is left.
    """
    clips = video_folder.look(self.path)
    read = [qa_files.read(path) for path in self.files]
    missing, ambiguous, contrary = [], [], []
    by_file = collections.defaultdict(list)
    for conversation in (c for one in read for c in one.conversations):
      is_motion = conversation.medium == 'motion'
      files = () if is_motion else clips.find(conversation)
      if len(files) > 1:
        ambiguous.append(conversation)
      elif not files:
        missing.append(conversation)
      else:
        by_file[files[0]].append(conversation)
    split_of, by_clip = self._split_of(), collections.defaultdict(list)
    for file, asked in by_file.items():
      split = split_of(file, {c.split for c in asked} - {''})
      for conversation in asked:
        if not split:
          missing.append(conversation)
        elif conversation.split not in ('', split):
          contrary.append(conversation)
        else:
          bounds = conversation.start_s, conversation.end_s
          by_clip[file, split, bounds].append(conversation)
    unreadable = video_folder.unreadable(
      self.path, sorted({file for file, *_ in by_clip})
    )
    splits, numbers = {}, collections.Counter()
    for (file, split, _), asked in by_clip.items():
      if file in unreadable:
        continue
      # Of videos that differ in their endings only, too, each has its own.
      name = video_folder.without_ending(file)
      for some in attached.group(asked, self.max_turns):
        item = Item(f'{name}/{numbers[name]}', split, file, some)
        numbers[name] += 1
        splits.setdefault(split, []).append(item)
    found = Found(
      {split: splits.get(split, []) for split in sources.SPLITS},
      tuple(missing),
      tuple(ambiguous),
      tuple(contrary),
      unreadable,
      tuple(fault for one in read for fault in one.faults),
    )
    if not splits:
      raise ValueError(
        f'{self.path}: expected videos that {", ".join(self.files)} tell of, '
        f'found none; {"; ".join(_notes(found))}.'
      )
    return found

  def splits(self) -> dict[str, list[Item]]:
    """What `make` is called with, for each split; one may be empty."""
    return self.find().splits

  def make(self, item: Item) -> records.Record:
    """The record of an item.

    Raises:
      video_file.VideoFileError: the video opened and cannot be decoded.
    """
    path = pathlib.Path(self.path) / item.file
    first = item.asked[0]
    bounds = {}
    if first.end_s:
      bounds = {'start_s': first.start_s, 'end_s': first.end_s}
    frames = video.read_clip(
      path,
      size=self.image_size,
      frames=self.frames,
      antialias=self.antialias,
      **bounds,
    )
    duration_s = video.read_head(path).duration_s
    if bounds:  # A video may not say how long it is.
      end_s = min(duration_s or first.end_s, first.end_s)
      duration_s = end_s - first.start_s
    return records.Record(
      id=item.id,
      source=self.source,
      split=item.split,
      frames=frames,
      turns=tuple(
        self._of_video(turn)
        for conversation in item.asked
        for turn in conversation.turns
      ),
      provenance={
        'licence': self.licence,
        'file': item.file,
        'duration_s': round(duration_s, 3),
        **bounds,
        **attached.provenance(item.asked),
      },
    )

  def _of_video(self, turn: records.Turn) -> records.Turn:
    """A turn, whose domain may be left to us; here captions are of a video."""
    domain = turn.domain or self.domain
    if domain == 'motion_caption':
      domain = 'video_caption'
    return dataclasses.replace(turn, domain=domain)

  def identity(self) -> dict[str, Any]:
    """What decides the content; the folder may move.

    Videos are known by path and size: to read all bytes of Valley's takes
    hours.
    """
    content = hashlib.blake2s(digest_size=8)
    for file, size in sorted(video_folder.look(self.path).sizes.items()):
      content.update(f'{file}\n{size}\n'.encode())
    return {
      'source': self.source,
      'licence': self.licence,
      'image_size': self.image_size,
      'frames': self.frames,
      'antialias': self.antialias,
      'domain': self.domain,
      'max_turns': self.max_turns,
      'held_out': self.held_out,
      'split_files': [
        qa_files.checksum(path) for path in _split_files(self.split_path)
      ],
      'words': [qa_files.checksum(path) for path in self.files],
      'videos': content.hexdigest(),
    }

  def cut(self, item: Item) -> kin.Cut:
    """Which video an item shows.

    Videos of one name and size are one, whichever set or folder has them; so
    are Motion-X's and their motions, if `names` says so.
    """
    name = video_folder.without_ending(item.file)
    start, stop = 0.0, math.inf
    if item.asked[0].end_s:
      bounds = item.asked[0].start_s, item.asked[0].end_s
      start, stop = (second * records.FPS for second in bounds)
    if self.names == motionx.PUBLISHED:
      return motionx.cut(name, start=start, stop=stop)
    size = video_folder.size(pathlib.Path(self.path) / item.file)
    trial = f'video/{pathlib.PurePosixPath(name).name}/{size}'
    return kin.Cut('video', trial, trial, start, stop)

  def survey(self, found: Found | None = None) -> survey.Survey:
    """A row a split, and one for what is in none, of `find` or as given."""
    found = found or self.find()
    rows = [
      survey.Row(
        self.source,
        split,
        present=len(items),
        turns=sum(len(c.turns) for item in items for c in item.asked),
      )
      for split, items in found.splits.items()
    ]
    rest = survey.Row(
      self.source,
      survey.NO_SPLIT,
      missing=len(found.missing) + len(found.ambiguous),
      unreadable=len(found.unreadable) + len(found.faults),
      left_out=len(found.contrary),
    )
    own = (f'{self.source}, {note}' for note in _notes(found))
    notes = (*own, *found.unreadable.values(), *found.faults)
    return survey.Survey((*rows, rest), notes)

  def _split_of(self):
    """A function of a video's file and the splits that its words name."""
    if not self.split_path:
      return functools.partial(_drawn_split, self.held_out)
    named = {}
    for path in _split_files(self.split_path):
      for name in captions.read_lines(path):
        if named.setdefault(name, path.stem) != path.stem:
          raise ValueError(
            f'{self.split_path}: expected every video in one split, found '
            f'{name} in {named[name]}.txt and {path.name}; take it out of one.'
          )

    def look_up(file: str, named_splits: set[str]) -> str:
      del named_splits
      name = video_folder.without_ending(file)
      return named.get(name, named.get(pathlib.PurePosixPath(name).name, ''))

    return look_up


def _drawn_split(held_out: float, file: str, named_splits: set[str]) -> str:
  """What the words say, else by the video's name and nothing else.

  Where they name several, test comes before val and val before train: nothing
  that somebody wants to test with is trained on.
  """
  for split in reversed(sources.SPLITS):
    if split in named_splits:
      return split
  name = video_folder.without_ending(file).encode()
  digest = hashlib.blake2s(name, digest_size=8).digest()
  part = int.from_bytes(digest) % _PARTS
  if part < held_out * _PARTS:
    return 'test'
  return 'val' if part < 2 * held_out * _PARTS else 'train'


def _split_files(path: str) -> list[pathlib.Path]:
  if not path:
    return []
  files = [pathlib.Path(path) / f'{split}.txt' for split in sources.SPLITS]
  files = [file for file in files if file.exists()]
  if not files:
    raise ValueError(
      f'Expected train.txt, val.txt or test.txt in {path}, found none; give '
      'the folder that holds the split files.'
    )
  return files


def _notes(found: Found) -> list[str]:
  def where(some):
    return [
      f'{c.media} ({c.provenance["file"]}, {c.provenance["place"]})'
      for c in some
    ]

  return [
    *survey.named(
      'conversations without a video in a split', where(found.missing)
    ),
    *survey.named(
      'conversations whose video could be one of several',
      where(found.ambiguous),
    ),
    *survey.named(
      'conversations of another split than their video', where(found.contrary)
    ),
    *survey.named('videos that do not open', list(found.unreadable)),
    *survey.named(
      'malformed entries', [fault.partition(': ')[0] for fault in found.faults]
    ),
  ]
