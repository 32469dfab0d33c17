"""The cases of motion captioning on HumanML3D, as published tables count them.

A case is a whole motion with its captions, or the part of a motion that one
caption gives times for, and has three references. `data.sources` reads the same
folders for training and differs in four ways, each of which moves the numbers:

    here                                   data.sources
    a motion of 200 rows or more, or of    every part is measured by itself
    less than 40, is left out with all
    of its parts
    a caption with times is a case of its  captions about the same rows make one
    own, and its only reference            clip
    of two captions with the same times    both count
    the later counts twice
    motions come in the order of names     in the order of the split file

The test split has 4,400 cases this way, 3,969 whole motions and 431 parts, as
long as the folder has no motion of HumanAct12 (`humanact12`).
"""

import collections
import csv
import dataclasses
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vimonet_jax.data import captions, motion_files, records
from vimonet_jax.eval import benchmarks

# What references are made of. TM2T has 72.53 CIDEr with one and 17.19 with the
# other, so the track is part of a benchmark's name and of each case.
RAW = 'raw captions'
PROCESSED = 'processed tokens'
BENCHMARKS = {
  RAW: 'humanml3d-captions',
  PROCESSED: 'humanml3d-captions-tokens',
}
# Cases of the test split in the tables that can be made again to six digits.
PUBLISHED_CASES = 4400
NUM_REFERENCES = 3
_MAX_FRAMES = 199


class Line(NamedTuple):
  """A caption with its words, as HumanML3D's text files have them.

  Attributes:
    text: the caption as it was written.
    words: its words, lemmatised, each with its part of speech: `walk/VERB`.
    start_s: where it begins; 0 with an `end_s` of 0 is the whole motion.
    end_s: where it ends.
  """

  text: str
  words: tuple[str, ...]
  start_s: float
  end_s: float

  @property
  def is_about_all(self) -> bool:
    return not (self.start_s or self.end_s)

  @property
  def processed(self) -> str:
    """The words without their parts of speech, joined by blanks."""
    return ' '.join(word.split('/')[0] for word in self.words)


@dataclasses.dataclass(frozen=True)
class Case:
  """A motion, or a part of one, to be captioned.

  Attributes:
    id: `<name>#<n>`; n is 1 where a name comes for the second time.
    name: of the motion; with both times behind it for a part, as in
      `000086_0.000000_6.000000`.
    motion: the id in the split file.
    start: first row of the features.
    stop: the row after the last, at most 196 later.
    lines: captions of these rows, in the order of the file.
    track: which of `RAW` and `PROCESSED` its references are.
    record: id of the record that `data.sources` makes of these rows.
  """

  id: str
  name: str
  motion: str
  start: int
  stop: int
  lines: tuple[Line, ...]
  track: str
  record: str

  @property
  def references(self) -> tuple[str, ...]:
    """Three of them, in the track of the case."""
    texts = {
      RAW: [line.text for line in self.lines],
      PROCESSED: [line.processed for line in self.lines],
    }
    return padded(texts[self.track])


@dataclasses.dataclass(frozen=True)
class Population:
  """All cases of a split, and what is none.

  Attributes:
    track: of all cases.
    cases: by name of the motion, its parts before the whole.
    left_out: names by the reason why they are no case, reasons without names
      not among them.
  """

  track: str
  cases: tuple[Case, ...]
  left_out: Mapping[str, tuple[str, ...]]

  def summary(self) -> str:
    """One line: how many cases, and whether they are those of the tables."""
    number = len(self.cases)
    whole = sum(case.name == case.motion for case in self.cases)
    same = 'as in' if number == PUBLISHED_CASES else 'not those of'
    parts = [
      f'{number:,} cases of {self.track}, {whole:,} whole motions and '
      f'{number - whole:,} parts, {same} published tables'
    ]
    for reason, names in self.left_out.items():
      shown = ' '.join(names[:5]) + (' ...' if len(names) > 5 else '')
      parts.append(f'{reason}: {len(names):,} ({shown})')
    return '; '.join(parts)


def padded(texts: Sequence[str]) -> tuple[str, ...]:
  """The first three; of two the first again, one three times.

  Padding moves CIDEr by up to .002 and nothing else, but it does move it.

      one        one one one
      one two    one two one
  """
  if not texts:
    raise ValueError('Expected a caption to make references of, found none.')
  short = NUM_REFERENCES - len(texts)
  return tuple([*texts, *[texts[0]] * short][:NUM_REFERENCES])


def read(path: str | os.PathLike) -> list[Line]:
  """All captions of a text file with their words.

  Raises:
    ValueError: as captions.read.
  """
  said = captions.read(path)
  # captions.read has found four parts in every line, and keeps these.
  lines = [line.split('#') for line in captions.read_text(path).splitlines()]
  words = [tuple(parts[1].split()) for parts in lines if parts[0].strip()]
  return [
    Line(caption.text, some, caption.start_s, caption.end_s)
    for caption, some in zip(said, words, strict=True)
  ]


def humanact12(index_csv: str | os.PathLike) -> frozenset[str]:
  """Names of motions that are HumanAct12's, by HumanML3D's index.csv.

  None of them is in the published 4,400 cases, though 342 are in test.txt.

  Args:
    index_csv: has columns source_path and new_name.
  """
  with open(index_csv, encoding='utf-8-sig', newline='') as f:
    reader = csv.DictReader(f)
    if absent := {'source_path', 'new_name'} - set(reader.fieldnames or ()):
      raise ValueError(
        f'{index_csv}: expected columns source_path and new_name, found no '
        f'{" and no ".join(sorted(absent))}; give the index.csv of HumanML3D.'
      )
    names = {
      row['new_name'].removesuffix('.npy')
      for row in reader
      if 'humanact12' in row['source_path'].lower()
    }
  return frozenset(names | {f'M{name}' for name in names})


def of_folder(
  path: str | os.PathLike,
  *,
  split: str = 'test',
  track: str = RAW,
  without: Collection[str] = (),
) -> Population:
  """The cases of a folder in HumanML3D's layout (see data.sources).

  Args:
    path: the folder.
    split: its file names the motions.
    track: `RAW` or `PROCESSED`.
    without: names that are no cases, e.g. those of `humanact12`.
  """
  root = pathlib.Path(path)
  listing = root / f'{split}.txt'
  if not listing.is_file():
    raise ValueError(
      f'Expected {listing.name} in {root}, found none; give the folder that '
      'holds the split files of a HumanML3D layout.'
    )
  lengths, left_out = {}, collections.defaultdict(list)
  for name in captions.read_text(listing).split():
    if name in without:
      left_out['left out on request'].append(name)
    elif (file := motion_files.find(root, name)) is None:
      left_out['without a motion'].append(name)
    else:
      try:
        array = motion_files.load(root, file, name)
      except ValueError:  # The dataset may have been built without it.
        left_out['that cannot be read'].append(name)
        continue
      if np.isfinite(array).all():
        # Joints give one row of features fewer than there are frames.
        joints = not motion_files.holds_features(file)
        lengths[name] = len(array) - joints
      else:
        left_out['with NaN or infinity'].append(name)
  found = of_texts(root / 'texts', lengths, track=track)
  merged = {reason: tuple(names) for reason, names in left_out.items()}
  return dataclasses.replace(found, left_out=merged | found.left_out)


def of_texts(
  texts: str | os.PathLike, lengths: Mapping[str, int], *, track: str = RAW
) -> Population:
  """The cases of motions of which only the lengths are known.

  Args:
    texts: folder with `<name>.txt`; see data.sources.
    lengths: rows of features, by name.
    track: `RAW` or `PROCESSED`.

  Raises:
    ValueError: the track is unknown, no motion makes a case, a text file is not
      as it should be, or has no words where the track is made of them.
  """
  if track not in BENCHMARKS:
    raise ValueError(
      f'Expected a track of {", ".join(BENCHMARKS)}, found {track!r}.'
    )
  listed, left_out = [], collections.defaultdict(list)
  for name in sorted(lengths):
    file = pathlib.Path(texts) / f'{name}.txt'
    lines = read(file) if file.is_file() else []
    if track == PROCESSED and not all(line.words for line in lines):
      raise ValueError(
        f'{file}: expected words such as walk/VERB after each caption, found '
        f'none; take the published file, or use the track {RAW!r}.'
      )
    if not lines:
      left_out['without a caption'].append(name)
    elif reason := _misfit(lengths[name]):
      left_out[f'motion {reason}'].append(name)
    else:
      for case in _cases(name, lengths[name], lines, track):
        if reason := _misfit(case.stop - case.start):
          left_out[f'part {reason}'].append(case.name)
        else:
          listed.append(case)
  cases, unread = _as_published(listed)
  left_out |= unread
  found = {reason: tuple(names) for reason, names in left_out.items() if names}
  if not cases:
    counted = ', '.join(f'{len(names)} {r}' for r, names in found.items())
    raise ValueError(
      f'Expected motions of {records.MIN_MOTION_FRAMES} to {_MAX_FRAMES} rows '
      f'with captions in {texts}, found {counted or "no motion"}; give the '
      'folder of the texts and the lengths of the motions that they describe.'
    )
  return Population(track, tuple(cases), found)


def items(
  population: Population,
  records_: Sequence[records.Record],
  *,
  damaged: Collection[int] = (),
) -> list[benchmarks.Item]:
  """One item for each case; two cases may be about one record.

  Which cases damaged records are of cannot be read from them: cases without a
  record are left out, of as many records as are damaged.

  Args:
    population: the cases.
    records_: of the same folder and split, made by `data.sources` with at least
      40 frames. There are more of them than cases.
    damaged: positions of records that are not looked at.

  Raises:
    ValueError: a case has no record.
  """
  sound = [i for i in range(len(records_)) if i not in damaged]
  positions = {records_[i].id: i for i in sound}
  absent = [c for c in population.cases if c.record not in positions]
  if len({case.record for case in absent}) > len(damaged):
    raise ValueError(
      f'Expected a record for each of {len(population.cases)} cases, found '
      f'none for {len(absent)}, such as {absent[0].id}; build the data of the '
      'same folder and split.'
    )
  found = []
  for case in population.cases:
    if case.record not in positions:
      continue
    record = records_[positions[case.record]]
    turns = [t for t in record.turns if t.domain == 'motion_caption']
    found.append(
      benchmarks.Item(
        id=case.id,
        benchmark=BENCHMARKS[population.track],
        split=record.split,
        input='motion',
        corruption=benchmarks.CLEAN,
        domain='motion_caption',
        kind='caption',
        question=turns[0].question,
        references=case.references,
        position=positions[case.record],
        media_position=positions[case.record],
      )
    )
  return found


def _cases(
  name: str, length: int, lines: Sequence[Line], track: str
) -> list[Case]:
  """Cases of one motion, of whatever length, not yet numbered."""
  found = []
  for line in lines:
    if line.is_about_all:
      continue
    start = int(line.start_s * records.FPS)
    stop = min(int(line.end_s * records.FPS), length)
    part = f'{name}_{line.start_s:f}_{line.end_s:f}'
    whole = (start, stop) == (0, length)
    record = name if whole else f'{name}_{start}-{stop}'
    found.append(Case(part, part, name, start, stop, (line,), track, record))
  if about_all := tuple(line for line in lines if line.is_about_all):
    found.append(Case(name, name, name, 0, length, about_all, track, name))
  return found


def _as_published(
  listed: Sequence[Case],
) -> tuple[list[Case], dict[str, list[str]]]:
  """Numbered and cut, as published code reads them; and what it does not read.

  It keeps cases in a dictionary by name, so that a caption takes the place of
  an earlier one with the same times. The list of names still has both, and is
  read to the dictionary's length: the later caption counts twice, and for each
  such pair the last name is lost. The 4,400 cases have two pairs, and lack the
  two of M014613.
  """
  held = {case.name: case for case in listed}
  counts: collections.Counter[str] = collections.Counter()
  cases = []
  for name in [case.name for case in listed[: len(held)]]:
    case = held[name]
    stop = min(case.stop, case.start + records.MAX_MOTION_FRAMES)
    cases.append(
      dataclasses.replace(case, id=f'{name}#{counts[name]}', stop=stop)
    )
    counts[name] += 1
  return cases, {
    'replaced by a later caption': [
      case.name for case in listed if held[case.name] is not case
    ],
    'lost at the end': [case.name for case in listed[len(held) :]],
  }


def _misfit(length: int) -> str:
  if length < records.MIN_MOTION_FRAMES:
    return 'too short'
  return 'too long' if length > _MAX_FRAMES else ''
