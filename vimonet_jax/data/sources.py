"""The folders that people have, as records: HumanML3D's layout.

    train.txt val.txt test.txt  one id a line; M and an id for a mirrored clip
    texts/<id>.txt              caption#word/POS ...#start#end, one a line
    new_joint_vecs/<id>.npy     float [T, 263], or one of
    new_joints/<id>.npy         float [T, 22, 3]
    joints/<id>.npy             float [T, 22 or more, 3]
    joints.npz                  all clips in one file, float [T, 22, 3] by id

All at 20 frames per second, in metres, y up.
"""

import dataclasses
import functools
import hashlib
import logging
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.motion import features, skeleton

# What a caption answers.
QUESTIONS = (
  'Describe the motion.',
  'What does the person do?',
  'How does the person move?',
  'Say what happens in the motion.',
)
SPLITS = ('train', 'val', 'test')
# The first place that has a clip is taken. Vectors come first because they are
# what published encoders were trained on, to the bit.
_PLACES = ('new_joint_vecs', 'new_joints', 'joints')
_ARCHIVE = 'joints.npz'
# Text-to-motion models leave out what is longer (T2M-GPT, `dataset_VQ.py`): of
# a caption for more than that, part would be about frames that nobody sees.
_MAX_FRAMES = 199


@dataclasses.dataclass(frozen=True)
class Caption:
  """What is said of a clip, or of `start_s` to `end_s` where not both are 0."""

  text: str
  start_s: float = 0.0
  end_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Clip:
  """A record to be.

  Attributes:
    id: as in the split file, with the frames behind it for a part of a clip.
    split: `train`, `val` or `test`.
    root: the folder.
    file: where in the folder the motion is.
    member: which clip of that file; of interest for an archive only.
    start: first row of the features.
    stop: the row after the last.
    captions: of these rows.
  """

  id: str
  split: str
  root: str
  file: str
  member: str
  start: int
  stop: int
  captions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Found:
  """What a folder has of what its split files name.

  Attributes:
    splits: clips that become records, by split; no split is empty.
    missing: ids without a motion or without a caption.
    too_short: clips of less than the least number of frames.
    too_long: clips of 200 frames or more.
  """

  splits: dict[str, list[Clip]]
  missing: tuple[str, ...] = ()
  too_short: tuple[str, ...] = ()
  too_long: tuple[str, ...] = ()

  def summary(self) -> str:
    """One line; whatever was left out is counted, and named if it is little."""
    present = ', '.join(f'{len(c)} {s}' for s, c in self.splits.items())
    parts = [f'present: {present}']
    for what in ('missing', 'too_short', 'too_long'):
      names = getattr(self, what)
      shown = ' '.join(names[:5]) + (' ...' if len(names) > 5 else '')
      parts.append(
        f'{what.replace("_", " ")}: {len(names)}' + f' ({shown})' * bool(names)
      )
    return '; '.join(parts)

  def digest(self) -> str:
    """A word that changes with clips, lengths and captions."""
    rows = [
      (clip.id, split, clip.file, clip.start, clip.stop, clip.captions)
      for split, clips in self.splits.items()
      for clip in clips
    ]
    return hashlib.blake2s(repr(rows).encode(), digest_size=8).hexdigest()


@dataclasses.dataclass(frozen=True)
class Folder:
  """A dataset for `builder.build`, from a folder in HumanML3D's layout.

  Attributes:
    path: the folder.
    source: what records call it, e.g. `humanml3d`.
    licence: under which it may be used; goes into every record.
    min_frames: see `humanml3d`.
  """

  name: ClassVar[str] = 'folder'
  image_size: ClassVar[int] = 1  # Its records have no frames.
  path: str
  source: str
  licence: str
  min_frames: int = records.MIN_MOTION_FRAMES

  def splits(self) -> dict[str, list[Clip]]:
    """What `make` is called with, for each split; says what is left out."""
    found = humanml3d(self.path, min_frames=self.min_frames)
    logging.warning('%s: %s', self.path, found.summary())
    return found.splits

  def make(self, item: Clip) -> records.Record:
    """The record of a clip."""
    return read(item, source=self.source, licence=self.licence)

  def identity(self) -> dict[str, Any]:
    """What decides the content; the folder may move, its clips must stay."""
    found = humanml3d(self.path, min_frames=self.min_frames)
    return {
      'source': self.source,
      'licence': self.licence,
      'min_frames': self.min_frames,
      'content': found.digest(),
    }


def humanml3d(
  path: str | os.PathLike, *, min_frames: int = records.MIN_MOTION_FRAMES
) -> Found:
  """Clips of a folder in HumanML3D's layout (see above).

  Args:
    path: the folder.
    min_frames: clips with fewer rows of features are left out. 40 is what
      published results leave out; a small set may want to keep 20, which are
      five tokens and a second.

  Raises:
    ValueError: no folder, no split file, no clip at all, or a text that is not
      as it should be.
  """
  root = pathlib.Path(path)
  listed = {
    split: (root / f'{split}.txt').read_text().split()
    for split in SPLITS
    if (root / f'{split}.txt').exists()
  }
  if not listed:
    raise ValueError(
      f'Expected train.txt, val.txt or test.txt in {root}, found '
      f'{"none" if root.is_dir() else "no such folder"}; give the folder that '
      'holds the split files of a HumanML3D layout.'
    )
  splits, left_out = {}, {'missing': [], 'too_short': [], 'too_long': []}
  for split, names in listed.items():
    for name in names:
      file = _find(root, name)
      text = root / 'texts' / f'{name}.txt'
      captions = read_captions(text) if text.exists() else []
      if file is None or not captions:
        left_out['missing'].append(name)
        continue
      length = _num_rows(root, file, name)
      for start, stop, said in _parts(captions, length):
        whole = (start, stop) == (0, length)
        clip = Clip(
          id=name if whole else f'{name}_{start}-{stop}',
          split=split,
          root=os.fspath(root),
          file=file,
          member=name,
          start=start,
          stop=stop,
          captions=said,
        )
        if stop - start < min_frames:
          left_out['too_short'].append(clip.id)
        elif stop - start > _MAX_FRAMES:
          left_out['too_long'].append(clip.id)
        else:
          splits.setdefault(split, []).append(clip)
  found = Found(splits, **{k: tuple(v) for k, v in left_out.items()})
  if not splits:
    raise ValueError(
      f'Expected clips of {min_frames} to {_MAX_FRAMES} frames with texts/ and '
      f'{", ".join(_PLACES)} or {_ARCHIVE} in {root}, found {found.summary()}.'
    )
  return found


def read(clip: Clip, *, source: str, licence: str) -> records.Record:
  """The record of a clip: motion, joints, and a turn for each caption.

  Args:
    clip: as `humanml3d` found it.
    source: for `Record.source`.
    licence: under which the folder may be used, for the provenance.
  """
  root = pathlib.Path(clip.root)
  array = _load(root, clip.file, clip.member)
  try:
    if _holds_features(clip.file):
      motion = array.astype(np.float32)
      # One frame fewer than the features came from, so the last row is spent.
      joints = features.recover(motion)
    else:
      joints = array[:, : skeleton.NUM_JOINTS].astype(np.float32)
      motion = features.encode(joints)
  except ValueError as e:
    raise ValueError(f'{root / clip.file}, {clip.member}: {e}') from e
  # The heading is smoothed over four seconds: cut after encoding, not before.
  motion = motion[clip.start : min(clip.stop, len(joints) - 1)]
  motion = records.trim_motion(motion)
  mirrored = clip.member.startswith('M')
  return records.Record(
    id=clip.id,
    source=source,
    split=clip.split,
    motion=motion,
    joints=joints[clip.start : clip.start + len(motion) + 1],
    turns=_turns(clip),
    provenance={
      'licence': licence,
      'file': clip.file,
      'frames': [clip.start, clip.stop],
      **({'mirror_of': clip.member[1:]} if mirrored else {}),
    },
  )


def read_captions(path: str | os.PathLike) -> list[Caption]:
  """Captions of one of HumanML3D's text files.

      a man walks.#a/DET man/NOUN walk/VERB#0.0#0.0

  Raises:
    ValueError: a line that has not these four parts.
  """
  captions = []
  lines = pathlib.Path(path).read_text(encoding='utf-8').splitlines()
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      text, _, start, end = line.split('#')[:4]
      # A few files have NaN where others have 0.
      start_s, end_s = (
        0.0 if math.isnan(float(tag)) else float(tag) for tag in (start, end)
      )
    except ValueError as e:
      raise ValueError(
        f'{path}, line {number}: expected caption#words#start#end with seconds '
        f'as numbers, found {line[:60]!r}; mend or remove that line.'
      ) from e
    captions.append(Caption(text.strip(), start_s, end_s))
  return captions


def _parts(
  captions: Sequence[Caption], length: int
) -> list[tuple[int, int, tuple[str, ...]]]:
  """Rows [start, stop) of a clip, and the captions that are about them."""
  parts: dict[tuple[int, int], list[str]] = {}
  for caption in captions:
    rows = (0, length)
    if caption.start_s or caption.end_s:
      rows = (
        int(caption.start_s * records.FPS),
        min(int(caption.end_s * records.FPS), length),
      )
    parts.setdefault(rows, []).append(caption.text)
  return [(*rows, tuple(texts)) for rows, texts in parts.items()]


def _turns(clip: Clip) -> tuple[records.Turn, ...]:
  # Any question goes with any caption, and always the same one.
  first = zlib.crc32(clip.id.encode())
  return tuple(
    records.Turn(
      QUESTIONS[(first + i) % len(QUESTIONS)],
      caption,
      'motion_caption',
      'caption',
    )
    for i, caption in enumerate(clip.captions)
  )


def _holds_features(file: str) -> bool:
  return file.startswith(_PLACES[0])


def _find(root: pathlib.Path, name: str) -> str | None:
  """Where in the folder the motion of a clip is."""
  for place in _PLACES:
    if (root / place / f'{name}.npy').exists():
      return f'{place}/{name}.npy'
  if (root / _ARCHIVE).exists() and name in _archive(root / _ARCHIVE):
    return _ARCHIVE
  return None


def _num_rows(root: pathlib.Path, file: str, member: str) -> int:
  """Rows of features that a clip has; joints give one fewer than frames."""
  length = len(_load(root, file, member, mmap_mode='r'))
  return length if _holds_features(file) else length - 1


def _load(root: pathlib.Path, file: str, member: str, mmap_mode=None):
  try:
    if file == _ARCHIVE:
      return _archive(root / file)[member]
    return np.load(root / file, mmap_mode=mmap_mode)
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
    raise ValueError(
      f'{root / file}: expected an array that np.load can read, found '
      f'{str(e)[:80]!r}; copy the file again or take {member} out of the split '
      'files.'
    ) from e


@functools.lru_cache(maxsize=1)
def _archive(path: pathlib.Path):
  """An open npz file; to open one takes longer than to read a clip of it."""
  return np.load(path)
