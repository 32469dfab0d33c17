"""What a visitor of the page has given, and as what the page shows it.

The page draws what the model reads: the body that its features give back, and
the frames that its video tower gets, not the files that they were made of.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.motion import features, skeleton

MEDIA = ('motion', 'video')
# Small pictures are enlarged by the page and lose their squares as JPEG.
_LOSSLESS_PIXELS = 64
# What is shown of a video without a motion beside it, for no record says how
# long it lasted.
_SECONDS_A_FRAME = 0.5
_TORSO = ('left_shoulder', 'right_shoulder', 'right_hip', 'left_hip')
_LIMBS = [
  {
    'side': next(
      (x for x in ('left', 'right') if skeleton.NAMES[chain[-1]].startswith(x)),
      'trunk',
    ),
    'joints': list(chain),
  }
  for chain in skeleton.CHAINS
]


class Clip(NamedTuple):
  """A motion, a video, or both.

  Attributes:
    record: of what the model reads; its turns do not count.
    names: medium -> what the visitor calls it.
    notes: medium -> what was converted or left out of its file.
    digests: medium -> how an audit log tells its file from others.
    question: one to begin with; '' where nobody proposes one.
    is_example: whether it comes with the page.
  """

  record: records.Record
  names: dict[str, str]
  notes: Mapping[str, Sequence[str]] = {}
  digests: Mapping[str, str] = {}
  question: str = ''
  is_example: bool = False


NOTHING = Clip(records.Record('nothing', 'given', 'test'), {})


def media(clip: Clip) -> tuple[str, ...]:
  """Those of MEDIA that a clip has."""
  return tuple(clip.record.clips)


def shown_to(record: records.Record, some: Sequence[str]) -> records.Record:
  """A record with some of its media alone, and without turns."""
  return records.Record(
    record.id,
    record.source,
    record.split,
    motion=record.motion if 'motion' in some else None,
    frames=record.frames if 'video' in some else None,
  )


def joined(clip: Clip, given: Clip) -> Clip:
  """A clip to which a visitor adds what a file holds, in place of its like.

  Nothing of an example stays: who moves is not who is seen.
  """
  if clip.is_example:
    clip = NOTHING
  old, new = clip.record, given.record
  motion = old.motion if new.motion is None else new.motion
  frames = old.frames if new.frames is None else new.frames
  record = records.Record(
    'given', 'given', 'test', motion=motion, frames=frames
  )
  return Clip(
    record,
    {**clip.names, **given.names},
    {**clip.notes, **given.notes},
    {**clip.digests, **given.digests},
  )


def without(clip: Clip, medium: str) -> Clip:
  """A clip whose visitor takes something back."""
  left = [m for m in media(clip) if m != medium]
  names = {m: name for m, name in clip.names.items() if m != medium}
  notes = {m: some for m, some in clip.notes.items() if m != medium}
  record = shown_to(clip.record, left)
  return clip._replace(record=record, names=names, notes=notes, question='')


def examples(
  held: Sequence[records.Record], number: int, allowed: Sequence[str]
) -> list[Clip]:
  """Clips to begin with: motion, both, video in turn, each with a question.

  Args:
    held: records to choose from, the first that fit.
    number: of clips, or fewer where the records do not have them.
    allowed: media that may be shown.
  """
  kinds = [x for x in (('motion',), MEDIA, ('video',)) if set(x) <= {*allowed}]
  found: list[Clip] = []
  for record in held:
    if not kinds or len(found) == number:
      break
    kind = kinds[len(found) % len(kinds)]
    clip = _example(record, kind)
    if clip and clip.question not in [x.question for x in found]:
      found.append(clip)
  return found


def _example(record: records.Record, kind: Sequence[str]) -> Clip | None:
  """Some media of a record with the first question about just these."""
  if not set(kind) <= {*media(Clip(record, {}))}:
    return None
  for turn in record.turns:
    is_caption = turn.domain.endswith('caption')
    about = records.DOMAINS.get(turn.domain, ())
    if about == tuple(kind) and not is_caption and not turn.follows:
      names = dict.fromkeys(kind, f'example {record.id}')
      record = shown_to(record, kind)
      return Clip(record, names, question=turn.question, is_example=True)
  return None


def as_shown(clip: Clip) -> dict[str, Any]:
  """What the page draws, plain JSON values.

  Returns:
    `names`, `notes`, `question` and `seconds`, how long it plays; of a motion
    `motion`: `joints`, float32 [T, 22, 3] in metres as base64, and how they are
    drawn: `limbs`, chains of joints with their `side`, `torso` and `head`; of a
    video `frames`: pictures as URLs of their own, spread evenly over the clip.
  """
  shown: dict[str, Any] = {
    'names': clip.names,
    'notes': [note for some in clip.notes.values() for note in some],
    'question': clip.question,
    'seconds': 0.0,
  }
  motion, frames = clip.record.motion, clip.record.frames
  if frames is not None:
    shown['frames'] = [_as_url(frame) for frame in frames]
    shown['seconds'] = _SECONDS_A_FRAME * len(frames)
  if motion is not None:
    joints_TJ3 = features.recover(motion).astype('<f4')
    shown['motion'] = {
      'joints': base64.b64encode(joints_TJ3.tobytes()).decode(),
      'limbs': _LIMBS,
      'torso': [skeleton.INDEX[name] for name in _TORSO],
      'head': skeleton.INDEX['head'],
    }
    shown['seconds'] = len(joints_TJ3) / records.FPS
  return shown


def _as_url(frame_HW3: np.ndarray) -> str:
  from PIL import Image

  kind = 'png' if len(frame_HW3) <= _LOSSLESS_PIXELS else 'jpeg'
  buffer = io.BytesIO()
  Image.fromarray(frame_HW3).save(buffer, kind)
  coded = base64.b64encode(buffer.getvalue()).decode()
  return f'data:image/{kind};base64,{coded}'
