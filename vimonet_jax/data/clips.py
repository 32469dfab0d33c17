"""Clips of motions, and the records that they become."""

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from vimonet_jax.data import captions, found, records
from vimonet_jax.motion import features

# What a caption answers, by the domain of the turn; empty is what can be asked
# of either medium.
QUESTIONS = {
  'motion_caption': (
    'Describe the motion.',
    'What does the person do?',
    'How does the person move?',
    'Say what happens in the motion.',
  ),
  'video_caption': (
    'Describe the video.',
    'What does the person in the video do?',
    'How does the person in the video move?',
    'Say what happens in the video.',
  ),
  '': (
    'Describe what happens.',
    'What does the person do?',
    'How does the person move?',
    'Say what is done here.',
  ),
}
# Text-to-motion models leave out what is longer (T2M-GPT, `dataset_VQ.py`): of
# a caption for more than that, part would be about frames that nobody sees.
MAX_FRAMES = 199


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
    video: where in the folder its video is, if it has one.
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
  video: str = ''


def gather(
  named: Iterable[tuple[str, str]],
  said: Callable[[str], Sequence[captions.Caption]],
  look: Callable[[str, str], Clip | found.LeftOut],
  *,
  texts: str,
  min_frames: int,
) -> tuple[dict[str, list[Clip]], list[found.LeftOut]]:
  """What becomes of all clips that split files name.

  Args:
    named: split and name of each.
    said: the captions of a name.
    look: a clip from its first row of features to its last, without captions,
      or why there is none; called where somebody said something.
    texts: the folder of the captions, for those who miss one.
    min_frames: see `parts`.

  Returns:
    Clips and parts of clips by split, of splits that have any, and the rest.
  """
  splits, left_out = {}, []
  for split, name in named:
    if not (lines := said(name)):
      why = f'no caption in {texts}/{name}.txt'
      left_out.append(found.LeftOut(split, name, 'missing', why))
      continue
    whole = look(split, name)
    if isinstance(whole, found.LeftOut):
      left_out.append(whole)
      continue
    shown, odd = parts(whole, lines, min_frames=min_frames)
    left_out += odd
    if shown:
      splits.setdefault(split, []).extend(shown)
  return splits, left_out


def parts(
  whole: Clip, said: Sequence[captions.Caption], *, min_frames: int
) -> tuple[list[Clip], list[found.LeftOut]]:
  """The clip, and parts of it that captions are about, each with its captions.

  Args:
    whole: the clip from its first row of features to its last.
    said: its captions.
    min_frames: parts with fewer rows are left out.

  Returns:
    What becomes records, and what is too short or too long to.
  """
  said_of: dict[tuple[int, int], list[str]] = {}
  for caption in said:
    rows = (0, whole.stop)
    if caption.start_s or caption.end_s:
      rows = (
        int(caption.start_s * records.FPS),
        min(int(caption.end_s * records.FPS), whole.stop),
      )
    said_of.setdefault(rows, []).append(caption.text)
  clips, left_out = [], []
  for (start, stop), texts in said_of.items():
    is_whole = (start, stop) == (0, whole.stop)
    clip = dataclasses.replace(
      whole,
      id=whole.id if is_whole else f'{whole.id}_{start}-{stop}',
      start=start,
      stop=stop,
      captions=tuple(texts),
    )
    if min_frames <= stop - start <= MAX_FRAMES:
      clips.append(clip)
    else:
      reason = 'too_short' if stop - start < min_frames else 'too_long'
      left_out.append(found.LeftOut(whole.split, clip.id, reason))
  return clips, left_out


def encode(clip: Clip, joints_TJ3: np.ndarray) -> np.ndarray:
  """Features [T - 1, 263] of a clip's joints; errors name its file."""
  try:
    return features.encode(joints_TJ3)
  except ValueError as e:
    raise ValueError(
      f'{pathlib.Path(clip.root) / clip.file}, {clip.member}: '
      f'{str(e).rstrip(".")}, or take {clip.member} out of {clip.split}.txt.'
    ) from e


def record(
  clip: Clip,
  motion_TF: np.ndarray,
  joints_TJ3: np.ndarray,
  *,
  source: str,
  licence: str,
  frames: np.ndarray | None = None,
) -> records.Record:
  """The rows of a clip with a turn for each caption, and for each medium.

  Args:
    clip: what to cut out.
    motion_TF: features [T, 263] of the whole motion.
    joints_TJ3: [T + 1, 22, 3], what they were made of.
    source: for `Record.source`.
    licence: for the provenance.
    frames: of its video, uint8 [I, H, W, 3].
  """
  # The heading is smoothed over four seconds: cut after encoding, not before.
  motion = records.trim_motion(motion_TF[clip.start : clip.stop])
  domains = ('motion_caption',) + ('video_caption',) * (frames is not None)
  return records.Record(
    id=clip.id,
    source=source,
    split=clip.split,
    motion=motion,
    joints=joints_TJ3[clip.start : clip.start + len(motion) + 1],
    frames=frames,
    turns=tuple(turn for domain in domains for turn in _turns(clip, domain)),
    provenance={
      'licence': licence,
      'file': clip.file,
      'frames': [clip.start, clip.stop],
      **({'mirror_of': clip.mirror_of} if clip.mirror_of else {}),
      **_of_video(clip),
    },
  )


def _of_video(clip: Clip) -> dict[str, Any]:
  """Which video it is, and how much of it."""
  if not clip.video:
    return {}
  duration_s = (clip.stop - clip.start) / records.FPS
  return {'video': clip.video, 'duration_s': round(duration_s, 3)}


def _turns(clip: Clip, domain: str) -> tuple[records.Turn, ...]:
  # Any question goes with any caption, and always the same one.
  first = zlib.crc32(clip.id.encode())
  questions = QUESTIONS[domain]
  return tuple(
    records.Turn(
      questions[(first + i) % len(questions)], caption, domain, 'caption'
    )
    for i, caption in enumerate(clip.captions)
  )
