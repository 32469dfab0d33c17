"""Which clips show the same recording, and which of them may be trained on.

Data sets cut their clips out of the same trials: HumanML3D out of AMASS, and
Motion-X took over HumanML3D's. A test clip that another source, a mirror or
another cut of its trial brings into training would be a test of memory.

The rule: test wins over val, and val over train. Whoever loses is left out, and
nobody is moved, so that a published test set stays what it is. Clips of one
published data set keep the split that it gave them, unless they are the same
clip, for its published numbers were measured so. `strict` drops this exception.

HumanML3D itself splits trials. Of its 23,384 training clips, mirror images
counted, 1,762 are cut from a trial of AMASS that a test clip is cut from, 906
of them sharing frames with it, and 1,346 from such a recording of HumanAct12, 4
of them sharing frames. No mirror image is in another split than its original.
"""

import collections
import csv
import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

HUMANML3D = 'humanml3d'
SPLITS = ('test', 'val', 'train')  # in the order in which they win
# How close two cuts are, from the closest on, and how it is said.
RELATIONS = {
  'clip': 'the same clip',
  'overlap': 'sharing frames',
  'trial': 'of the same trial',
}
# HumanML3D's names of AMASS's folders, and what AMASS calls them today.
SUBSETS = {
  'BioMotionLab_NTroje': 'BMLrub',
  'DFaust_67': 'DFaust',
  'MPI_HDM05': 'HDM05',
  'MPI_Limits': 'PosePrior',
  'MPI_mosh': 'MoSh',
  'SSM_synced': 'SSM',
  'TCD_handMocap': 'TCDHands',
  'Transitions_mocap': 'Transitions',
}
_CLOSENESS = {relation: i for i, relation in enumerate(RELATIONS)}
_OLD_NAMES = {new: old for old, new in SUBSETS.items()}
_ENDINGS = ('_poses', '_stageii')
# Person, group and recording of a file, and of the recording its frames.
_HUMANACT12 = re.compile(r'/humanact12/(P\d+G\d+R\d+)F(\d+)T(\d+)A')
# Two cuts are one clip when they share this much of what either shows: data
# sets of 20 and of 30 frames per second round differently.
_SAME = 0.9


class Cut(NamedTuple):
  """Some frames of a trial.

  Attributes:
    published: the data set that gave them their split, e.g. `humanml3d`.
    clip: which clip of that data set they are of, mirror images aside.
    trial: the recording, by a name that all data sets share.
    start: first frame at 20 per second.
    stop: the frame after the last; infinite for all there are.
    part: of the trial, where frames are counted from the start of a part and
      nobody knows where that is.
  """

  published: str
  clip: str
  trial: str
  start: float = 0
  stop: float = math.inf
  part: str = ''


class Member(NamedTuple):
  """A clip of one of several sources."""

  source: str
  id: str
  split: str
  cut: Cut


class Row(NamedTuple):
  """What `index.csv` says of a clip.

  Attributes:
    source_path: the file of its trial, as it stands there.
    start: first frame in that file, at 20 per second.
    stop: the frame after the last; infinite for the whole file.
    cut: the same for `relation`.
  """

  source_path: str
  start: int
  stop: float
  cut: Cut


class Lost(NamedTuple):
  """A clip that is left out, and the clip of another split that it is kin of.

  Attributes:
    member: who is left out.
    winner: the closest of those of the split that wins.
    relation: one of `RELATIONS`.
  """

  member: Member
  winner: Member
  relation: str


def humanml3d(name: str, *, start: float = 0, stop: float = math.inf) -> Cut:
  """Frames of HumanML3D's clip `000612`, or of its mirror image `M000612`.

  They are of a trial of their own until `resolve` finds the true one.
  """
  clip = name.removeprefix('M')
  return Cut(HUMANML3D, clip, f'{HUMANML3D}/{clip}', start, stop)


def trial(path: str) -> str:
  """The name that a trial of AMASS has in all releases.

  ./pose_data/MPI_HDM05/bd/HDM_bd_03_poses.npy  MPI_HDM05/bd/HDM_bd_03
  HDM05/MPI_HDM05/bd/HDM_bd_03_poses.npz        MPI_HDM05/bd/HDM_bd_03
  HDM05/bd/HDM_bd_03_stageii.npz                MPI_HDM05/bd/HDM_bd_03
  """
  parts = [p for p in pathlib.PurePosixPath(path).parts if p != 'pose_data']
  parts = [part.replace(' ', '_') for part in parts]
  parts[0] = _OLD_NAMES.get(parts[0], parts[0])
  if len(parts) > 2 and _OLD_NAMES.get(parts[1], parts[1]) == parts[0]:
    del parts[1]  # BABEL names the archive before the folder in it.
  name = parts[-1].removesuffix('.npz').removesuffix('.npy')
  for ending in _ENDINGS:
    name = name.removesuffix(ending)
  return '/'.join([*parts[:-1], name])


def read_index(path: str | os.PathLike) -> dict[str, Row]:
  """HumanML3D's `index.csv`, by id and without mirror images.

  The clips of HumanAct12 are whole files there, but the names of these files
  tell which frames of which recording they are.

  Raises:
    ValueError: no such file, or one with other columns or values.
  """
  columns = ('source_path', 'start_frame', 'end_frame', 'new_name')
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(
      f"{path}: expected HumanML3D's index.csv, found no such file; copy it "
      'there from the HumanML3D repository.'
    )
  index = {}
  with open(path, newline='', encoding='utf-8-sig') as f:
    reader = csv.DictReader(f)
    if missing := set(columns) - set(reader.fieldnames or ()):
      raise ValueError(
        f'{path}: expected the columns {", ".join(columns)}, found none for '
        f"{' and '.join(sorted(missing))}; take HumanML3D's index.csv."
      )
    for row in reader:
      try:
        start, stop = int(row['start_frame']), int(row['end_frame'])
      except (TypeError, ValueError) as e:
        raise ValueError(
          f'{path}, line {reader.line_num}: expected start_frame and end_frame '
          f'as whole numbers, found {row["start_frame"]!r} and '
          f'{row["end_frame"]!r}; mend or remove that line.'
        ) from e
      source, name = row['source_path'], row['new_name'].removesuffix('.npy')
      stop = stop if stop > 0 else math.inf
      cut = Cut(HUMANML3D, name, trial(source), start, stop)
      if match := _HUMANACT12.search(source):
        first, last = int(match[2]), int(match[3])
        cut = Cut(HUMANML3D, name, f'humanact12/{match[1]}', first, last)
      index[name] = Row(source, start, stop, cut)
  return index


def resolve(cut: Cut, index: Mapping[str, Row]) -> Cut:
  """A cut of HumanML3D's clip as a cut of the trial that `index.csv` names."""
  if cut.published != HUMANML3D or cut.clip not in index:
    return cut
  whole = index[cut.clip].cut
  start, stop = whole.start + cut.start, whole.start + cut.stop
  return whole._replace(start=start, stop=min(whole.stop, stop))


def relation(one: Cut, other: Cut) -> str:
  """One of `RELATIONS`, or nothing for cuts of different trials."""
  if one[:2] == other[:2]:
    return 'clip'
  if one.trial != other.trial:
    return ''
  if one.part != other.part:
    return 'trial'
  shared = min(one.stop, other.stop) - max(one.start, other.start)
  either = max(one.stop, other.stop) - min(one.start, other.start)
  if shared == either or shared > _SAME * either:
    return 'clip'
  return 'overlap' if shared > 0 else 'trial'


def settle(members: Sequence[Member], *, strict: bool = False) -> list[Lost]:
  """Who has to be left out so that no clip is kin of one in another split.

  Args:
    members: all clips of all sources.
    strict: whether published splits must follow the rule within themselves.
  """
  lost: dict[int, Lost] = {}
  families = _families(members)
  for number, winning in enumerate(SPLITS[:-1]):
    for family in families:
      # Who was left out for a test clip leaves nobody out itself.
      winners = [
        i for i in family if members[i].split == winning and i not in lost
      ]
      for i in family:
        if i in lost or members[i].split not in SPLITS[number + 1 :]:
          continue
        kin = [
          Lost(members[i], members[j], how)
          for j in winners
          if (how := _conflict(members[i].cut, members[j].cut, strict))
        ]
        if kin:
          lost[i] = min(kin, key=lambda one: _CLOSENESS[one.relation])
  return [lost[i] for i in sorted(lost)]


def crossings(
  members: Sequence[Member],
) -> collections.Counter[tuple[str, str, str]]:
  """How many clips of a split are kin of one that wins, by both and relation.

  A clip counts once for each split, with its closest kin there.
  """
  counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
  for family in _families(members):
    for i in family:
      mine = members[i]
      for winning in SPLITS[: SPLITS.index(mine.split)]:
        how = [
          relation(mine.cut, members[j].cut)
          for j in family
          if members[j].split == winning
        ]
        if how:
          counts[mine.split, winning, min(how, key=_CLOSENESS.get)] += 1
  return counts


def report(lost: Iterable[Lost]) -> str:
  """How many were left out, a line for each source, split and winner."""
  groups = collections.defaultdict(list)
  for one in lost:
    groups[one.member.source, one.member.split, one.winner.split].append(one)
  lines = []
  for (source, split, winning), ones in sorted(groups.items()):
    counts = collections.Counter(one.relation for one in ones)
    how = ', '.join(
      f'{counts[r]} {RELATIONS[r]}' for r in RELATIONS if counts[r]
    )
    first = ones[0]
    lines.append(
      f'{source}: {len(ones)} of {split} left out for a clip of {winning} '
      f'({how}; the first: {first.member.id} for {first.winner.source} '
      f'{first.winner.id})'
    )
  return '\n'.join(lines) or 'no clip is kin of one in another split'


def _families(members: Sequence[Member]) -> list[list[int]]:
  """Numbers of members by trial, where there are several."""
  families = collections.defaultdict(list)
  for i, member in enumerate(members):
    families[member.cut.trial].append(i)
  return [family for family in families.values() if len(family) > 1]


def _conflict(one: Cut, other: Cut, strict: bool) -> str:
  """The relation of two cuts that may not be in two splits, or nothing."""
  how = relation(one, other)
  if strict or one.published != other.published or how == 'clip':
    return how
  return ''
