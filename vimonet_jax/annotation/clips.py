"""What is to be annotated: clips of a folder, with what is known about them.

One of three folders:

    clips.jsonl        {"id": "a", "video": "a.mp4", "motion": "a.bvh"} a line,
                       and what else of `KEYS` is known
    texts/ train.txt   HumanML3D's layout, see data.sources; no video
    a.mp4 a.bvh b.mov  else: videos at any depth, motions by the same name
"""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vimonet_jax.data import captions as caption_files
from vimonet_jax.data import clips as clip_records
from vimonet_jax.data import records, sources, video
from vimonet_jax.motion import readers

LIST = 'clips.jsonl'
# Of a line of the list. Paths are relative to the folder; a caption is a text
# or {"text": ..., "start_s": ..., "end_s": ...}; fps, up and unit are those of
# the motion file where it does not say (see motion.readers).
KEYS = (
  'id', 'split', 'video', 'motion', 'label', 'captions', 'licence', 'fps', 'up',
  'unit',
)  # fmt: skip
_NUMBERS = ('fps',)


@dataclasses.dataclass(frozen=True)
class Clip:
  """One motion, as a film, as captured joints, or both.

  Attributes:
    id: unique in the folder.
    split: `train`, `val` or `test`.
    video: path of a video or of a folder of images; empty without.
    motion: path of a motion file; empty without.
    label: a coarse word for it that somebody gave, e.g. `jumping jack`.
    captions: that there are before anything is asked.
    licence: under which it may be used.
    fps: of the motion file, where it does not say.
    up: likewise.
    unit: likewise.
    part: of a folder in HumanML3D's layout, in place of `motion`.
  """

  id: str
  split: str = 'train'
  video: str = ''
  motion: str = ''
  label: str = ''
  captions: tuple[caption_files.Caption, ...] = ()
  licence: str = ''
  fps: float | None = None
  up: str | None = None
  unit: str | None = None
  part: clip_records.Clip | None = None


def find(path: str | os.PathLike, *, licence: str) -> list[Clip]:
  """The clips of a folder, in order; opens no video and no motion.

  Args:
    path: the folder.
    licence: of clips for which the list names none.

  Raises:
    ValueError: no such folder, nothing in it, or a list with mistakes.
  """
  root = pathlib.Path(path)
  if not str(path) or not root.is_dir():
    raise ValueError(
      'Expected the folder of the clips that are to be annotated, found '
      f'{f"none at {path}" if str(path) else "no name"}; name it with '
      '--config.annotate.path=DIR.'
    )
  if (root / LIST).exists():
    found = _listed(root)
  elif (root / 'texts').is_dir():
    found = _of_layout(root)
  else:
    found = _of_files(root)
  return [
    clip if clip.licence else dataclasses.replace(clip, licence=licence)
    for clip in found
  ]


def joints(clip: Clip) -> np.ndarray | None:
  """float [T, 22, 3], metres, y up, 20 fps; None where there is no motion.

  Raises:
    ValueError: the file cannot be read; one sentence.
  """
  if clip.part is not None:
    return sources.read(clip.part, source='', licence='').joints
  if not clip.motion:
    return None
  return readers.read(
    clip.motion, fps=clip.fps, up=clip.up, unit=clip.unit
  ).joints


def _of_files(root: pathlib.Path) -> list[Clip]:
  """Every video, and the motion that has its name; motions alone say nothing.

  Without captions there is nothing to ask about them.
  """
  motions, found = {}, []
  paths = [
    path
    for path in sorted(root.rglob('*'))
    if not any(x.startswith('.') for x in path.relative_to(root).parts)
  ]
  for path in paths:
    if path.suffix.lower() in readers.SUFFIXES:
      motions.setdefault(path.with_suffix(''), path)
  for path in paths:
    if path.suffix.lower() in video.VIDEOS:
      motion = motions.get(path.with_suffix(''), '')
      found.append(
        Clip(
          path.relative_to(root).with_suffix('').as_posix(),
          video=os.fspath(path),
          motion=os.fspath(motion),
        )
      )
  if not found:
    raise ValueError(
      f'Expected {LIST}, texts/ or videos ({" ".join(video.VIDEOS)}) in '
      f'{root}, found none; name the folder that has them.'
    )
  _check_ids(root, [(clip.id, clip.video) for clip in found])
  return found


def _of_layout(root: pathlib.Path) -> list[Clip]:
  """Clips that have captions but no video.

  A mirror image goes with its clip: what is said of that one, exchanged, is
  said of it, and need not be paid for twice.
  """
  found = sources.humanml3d(root)
  logging.warning('%s: %s', root, found.summary())
  parts = [part for parts in found.splits.values() for part in parts]
  members = {part.member for part in parts}
  return [
    Clip(
      part.id,
      part.split,
      captions=tuple(map(caption_files.Caption, part.captions)),
      part=part,
    )
    for part in parts
    if part.mirror_of not in members
  ]


def _listed(root: pathlib.Path) -> list[Clip]:
  path = root / LIST
  rows = list(records.read_json_lines(os.fspath(path)))
  found = [_clip(root, number, row) for number, row in enumerate(rows, 1)]
  if not found:
    raise ValueError(f'Expected clips in {path}, found none; add a line each.')
  _check_ids(path, [(clip.id, f'clip {n}') for n, clip in enumerate(found, 1)])
  return found


def _clip(root: pathlib.Path, number: int, row: Any) -> Clip:
  """One line of the list."""
  where = f'{root / LIST}, clip {number}'
  if not isinstance(row, Mapping) or not row.get('id'):
    raise ValueError(
      f'{where}: expected an object with an id, found {str(row)[:60]!r}; give '
      'each clip an id of its own.'
    )
  for key, value in row.items():
    if key not in KEYS:
      raise ValueError(
        f'{where}: expected keys of {", ".join(KEYS)}, found {key!r}; rename '
        'or remove it.'
      )
    kind = float | int if key in _NUMBERS else str
    if key != 'captions' and not isinstance(value, kind):
      raise ValueError(
        f'{where}: expected {key} as a '
        f'{"number" if key in _NUMBERS else "text"}, found {value!r}; correct '
        'it.'
      )
  if row.get('split', 'train') not in sources.SPLITS:
    raise ValueError(
      f'{where}: expected a split of {", ".join(sources.SPLITS)}, found '
      f'{row["split"]!r}; correct it.'
    )
  paths = {
    key: os.fspath(root / row[key])
    for key in ('video', 'motion')
    if row.get(key)
  }
  said = row.get('captions', [])
  if not isinstance(said, list):
    raise ValueError(
      f'{where}: expected captions as a list, found {said!r}; put them in [].'
    )
  said = tuple(_caption(where, each) for each in said)
  return Clip(**{**row, **paths, 'captions': said})


def _caption(where: str, said: Any) -> caption_files.Caption:
  fields = {'text': said} if isinstance(said, str) else said
  try:
    caption = caption_files.Caption(**fields)
    is_right = caption.text.strip() and 0 <= caption.start_s <= caption.end_s
  except (TypeError, AttributeError):
    is_right = False
  if not is_right:
    raise ValueError(
      f'{where}: expected captions as texts, or as objects with text, start_s '
      f'and end_s in seconds, found {said!r}; correct it.'
    )
  return caption


def _check_ids(where: pathlib.Path, named: list[tuple[str, str]]) -> None:
  """Raises where two clips have one id, since replies are joined by it."""
  owners = {}
  for name, owner in named:
    if name in owners:
      raise ValueError(
        f'{where}: expected an id of its own for each clip, found {name!r} for '
        f'{owners[name]} and for {owner}; rename one.'
      )
    owners[name] = owner
