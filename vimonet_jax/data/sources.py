"""The folders that people have, as records: HumanML3D's layout.

    train.txt val.txt test.txt  one id a line; M and an id for a mirrored clip
    texts/<id>.txt              caption#word/POS ...#start#end, one a line
    new_joint_vecs/<id>.npy     float [T, 263], or one of
    new_joints/<id>.npy         float [T, 22, 3]
    joints/<id>.npy             float [T, 22 or more, 3]
    joints.npz                  all clips in one file, float [T, 22, 3] by id

All at 20 frames per second, in metres, y up.
"""

import collections
import dataclasses
import hashlib
import logging
import os
import pathlib
import zlib
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np

from vimonet_jax.data import captions, motion_files, records
from vimonet_jax.motion import features, skeleton

# What a caption answers.
QUESTIONS = (
  'Describe the motion.',
  'What does the person do?',
  'How does the person move?',
  'Say what happens in the motion.',
)
SPLITS = ('train', 'val', 'test')
# Text-to-motion models leave out what is longer (T2M-GPT, `dataset_VQ.py`): of
# a caption for more than that, part would be about frames that nobody sees.
_MAX_FRAMES = 199
# What a leg measures, in metres: a small child's and a giant's.
_LEG_M = (0.3, 1.3)
_LEG = ('hip', 'knee', 'ankle')
_LEFT_OUT = ('missing', 'damaged', 'too_short', 'too_long')
_ANKLES = [skeleton.INDEX['left_ankle'], skeleton.INDEX['right_ankle']]


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
    mirror_of: the clip that this one is the mirror image of, if it is one.
  """

  id: str
  split: str
  root: str
  file: str
  member: str
  start: int
  stop: int
  captions: tuple[str, ...]
  mirror_of: str = ''


@dataclasses.dataclass(frozen=True)
class Found:
  """What a folder has of what its split files name.

  Attributes:
    splits: clips that become records, by split; no split is empty.
    checksums: of the bytes of their motion files, by `Clip.file`.
    missing: ids without a motion or without a caption.
    damaged: ids of motions with NaN or infinity; HumanML3D itself has some.
    too_short: clips of less than the least number of frames.
    too_long: clips of 200 frames or more.
  """

  splits: dict[str, list[Clip]]
  checksums: dict[str, str] = dataclasses.field(default_factory=dict)
  missing: tuple[str, ...] = ()
  damaged: tuple[str, ...] = ()
  too_short: tuple[str, ...] = ()
  too_long: tuple[str, ...] = ()

  def summary(self) -> str:
    """One line; whatever was left out is counted, and named if it is little."""
    present = ', '.join(f'{len(c)} {s}' for s, c in self.splits.items())
    parts = [f'present: {present or "none"}']
    for what in _LEFT_OUT:
      names = getattr(self, what)
      shown = ' '.join(names[:5]) + (' ...' if len(names) > 5 else '')
      parts.append(
        f'{what.replace("_", " ")}: {len(names)}' + f' ({shown})' * bool(names)
      )
    return '; '.join(parts)

  def digest(self) -> str:
    """A word that changes with clips, their motions and their captions."""
    rows = [
      (clip.id, split, clip.file, clip.start, clip.stop, clip.captions)
      for split, clips in self.splits.items()
      for clip in clips
    ]
    content = repr((rows, sorted(self.checksums.items())))
    return hashlib.blake2s(content.encode(), digest_size=8).hexdigest()


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
    """What `make` is called with, for each split; says what is left out.

    Raises:
      ValueError: as `humanml3d`, or there is a split without clips.
    """
    found = humanml3d(self.path, min_frames=self.min_frames)
    logging.warning('%s: %s', self.path, found.summary())
    if empty := [split for split in SPLITS if split not in found.splits]:
      raise ValueError(
        f'{self.path}: expected clips for {", ".join(SPLITS)}, found none for '
        f'{" and ".join(empty)} ({found.summary()}); name some in '
        f'{" and ".join(f"{split}.txt" for split in empty)}, or lower '
        f'data.min_frames, which is {self.min_frames}.'
      )
    return found.splits

  def make(self, item: Clip) -> records.Record:
    """The record of a clip."""
    return read(item, source=self.source, licence=self.licence)

  def identity(self) -> dict[str, Any]:
    """What decides the content; the folder may move, its files must stay."""
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
    ValueError: no folder, no split file, no clip at all, a file that is not as
      it should be, or bodies of which most do not stand along y.
  """
  root = pathlib.Path(path)
  listed = _listed(root)
  names = {name for _, name in listed}
  splits, left_out = {}, {what: [] for what in _LEFT_OUT}
  checksums, standing, legs = {}, collections.Counter(), []
  for split, name in listed:
    file = motion_files.find(root, name)
    text = root / 'texts' / f'{name}.txt'
    said = captions.read(text) if text.exists() else []
    if file is None or not said:
      left_out['missing'].append(name)
      continue
    array = motion_files.load(root, file, name)
    if not np.isfinite(array).all():
      left_out['damaged'].append(name)
      continue
    # Joints give one row of features fewer than there are frames.
    length = len(array) - (not motion_files.holds_features(file))
    for start, stop, about in _parts(said, length):
      whole = (start, stop) == (0, length)
      clip = Clip(
        id=name if whole else f'{name}_{start}-{stop}',
        split=split,
        root=os.fspath(root),
        file=file,
        member=name,
        start=start,
        stop=stop,
        captions=about,
        mirror_of=_mirror_of(name, names),
      )
      if stop - start < min_frames:
        left_out['too_short'].append(clip.id)
      elif stop - start > _MAX_FRAMES:
        left_out['too_long'].append(clip.id)
      else:
        splits.setdefault(split, []).append(clip)
        if not motion_files.holds_features(file):
          standing[_standing_axis(array)] += 1
          legs.append(_leg_m(array))
        if file not in checksums:
          checksums[file] = motion_files.checksum(root / file)
  found = Found(splits, checksums, **{k: tuple(v) for k, v in left_out.items()})
  if not splits:
    raise ValueError(
      f'Expected clips of {min_frames} to {_MAX_FRAMES} frames with texts/ and '
      f'{", ".join(motion_files.PLACES)} or {motion_files.ARCHIVE} in {root}, '
      f'found {found.summary()}.'
    )
  _check_up(root, standing)
  _check_unit(root, legs)
  return found


def read(clip: Clip, *, source: str, licence: str) -> records.Record:
  """The record of a clip: motion, joints, and a turn for each caption.

  Args:
    clip: as `humanml3d` found it.
    source: for `Record.source`.
    licence: under which the folder may be used, for the provenance.
  """
  root = pathlib.Path(clip.root)
  array = motion_files.load(root, clip.file, clip.member)
  try:
    if motion_files.holds_features(clip.file):
      motion, joints = array, features.recover(array)
      # Rows of features come from one frame more. That last frame is in no row,
      # so the body stays as the last row has it; the row itself is kept.
      joints = np.concatenate([joints, joints[-1:]])
    else:
      motion, joints = features.encode(array), array
  except ValueError as e:
    raise ValueError(
      f'{root / clip.file}, {clip.member}: {str(e).rstrip(".")}, or take '
      f'{clip.member} out of {clip.split}.txt.'
    ) from e
  # The heading is smoothed over four seconds: cut after encoding, not before.
  motion = records.trim_motion(motion[clip.start : clip.stop])
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
      **({'mirror_of': clip.mirror_of} if clip.mirror_of else {}),
    },
  )


def _listed(root: pathlib.Path) -> list[tuple[str, str]]:
  """Split and name of every clip that the split files name."""
  files = {split: root / f'{split}.txt' for split in SPLITS}
  files = {split: file for split, file in files.items() if file.exists()}
  if not files:
    raise ValueError(
      f'Expected train.txt, val.txt or test.txt in {root}, found '
      f'{"none" if root.is_dir() else "no such folder"}; give the folder that '
      'holds the split files of a HumanML3D layout.'
    )
  listed = [
    (split, name)
    for split, file in files.items()
    for name in captions.read_text(file).split()
  ]
  counts = collections.Counter(name for _, name in listed)
  if twice := [name for name, count in counts.items() if count > 1]:
    raise ValueError(
      f'{root}: expected every clip once in the split files, found {twice[0]} '
      f'{counts[twice[0]]} times ({len(twice)} such clips); a clip of two '
      'splits would be trained on and tested: take it out of one.'
    )
  split_of = {name: split for split, name in listed}
  for split, name in listed:
    other = _mirror_of(name, split_of)
    if split_of.get(other, split) != split:
      raise ValueError(
        f'{root}: expected a clip and its mirror image in one split, found '
        f'{name} in {split}.txt and {other} in {split_of[other]}.txt; take '
        'one of them out.'
      )
  return listed


def _mirror_of(name: str, names: Collection[str]) -> str:
  """Whose mirror image a clip is by its name: M000612, but not Music_01."""
  other = name.removeprefix('M')
  is_mirrored = other != name and (other.isdecimal() or other in names)
  return other if is_mirrored else ''


def _check_up(root: pathlib.Path, standing: collections.Counter) -> None:
  """Raises where most bodies stand along another axis than y."""
  number = standing.total()
  for axis, count in standing.most_common(1):
    if axis != 'y' and count > number / 2:
      raise ValueError(
        f'{root}: expected joints with y up, found {count} of {number} clips '
        f'standing along {axis}; turn the joints until y points up, e.g. '
        '(x, y, z) to (-x, z, y) where z is up.'
      )


def _parts(
  said: Sequence[captions.Caption], length: int
) -> list[tuple[int, int, tuple[str, ...]]]:
  """Rows [start, stop) of a clip, and the captions that are about them."""
  parts: dict[tuple[int, int], list[str]] = {}
  for caption in said:
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


def _check_unit(root: pathlib.Path, legs: Sequence[float]) -> None:
  """Raises where most legs are no legs; features would not show it."""
  typical = float(np.median(legs)) if legs else _LEG_M[0]
  if not _LEG_M[0] <= typical <= _LEG_M[1]:
    raise ValueError(
      f'{root}: expected joints in metres, with legs of {_LEG_M[0]} to '
      f'{_LEG_M[1]} m, found {typical:.3g}; save the joints in metres.'
    )


def _leg_m(joints_TJ3: np.ndarray) -> float:
  """From hip over knee to ankle."""
  leg = joints_TJ3[:, [skeleton.INDEX[f'left_{x}'] for x in _LEG]]
  return float(np.linalg.norm(np.diff(leg, axis=1), axis=-1).sum(1).mean())


def _standing_axis(joints_TJ3: np.ndarray) -> str:
  """The axis from feet to neck, e.g. `y` or `-z`."""
  feet = joints_TJ3[:, _ANKLES].mean(axis=1)
  body = (joints_TJ3[:, skeleton.INDEX['neck']] - feet).mean(axis=0)
  axis = int(np.abs(body).argmax())
  return '-' * bool(body[axis] < 0) + 'xyz'[axis]
