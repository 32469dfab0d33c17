"""The record: one conversation about one motion, one video, or both.

Everything upstream (readers, builders, the synthetic world, annotation) makes
records; everything downstream (batches, evaluation, the apps) reads them.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

FPS = 20
MIN_MOTION_FRAMES = 40
MAX_MOTION_FRAMES = 196
FRAMES_PER_TOKEN = 4  # the motion encoder halves time twice

# What a turn can be about, and the media that its answer must be read from.
# Where there is no motion, a video shows what it would tell.
DOMAINS = {
    'sequentiality': ('motion',),
    'direction': ('motion',),
    'body_part': ('motion',),
    'reasoning': ('motion',),
    'hallucination': ('motion',),
    'place': ('video',),
    'object': ('video',),
    'colour': ('video',),
    'people': ('video',),
    'joint': ('motion', 'video'),
    'motion_caption': ('motion',),
    'video_caption': ('video',),
    'joint_caption': ('motion', 'video'),
}


@dataclasses.dataclass(frozen=True)
class Turn:
  """One question and its answer.

  Attributes:
    question: what the user asks; for captions an instruction ("Describe ...").
    answer: the reference answer, a sentence; of an open question empty, or
      what the answer begins with.
    domain: what the turn is about, a key of `DOMAINS`; empty when unknown.
    kind: the kind of question within its domain, e.g. `first` or `count`.
    fact: the part of the answer that can be checked, as it stands in the
      answer ("left", "kitchen", "yes"); two parts that must both be there are
      joined by "; " ("left; ball"); empty where nothing can be checked.
    choices: every fact part that this wording of the question allows, the
      true ones included; a reply is right when the choices that it names are
      exactly the parts of the fact.
    follows: it only makes sense after the turn before it.
  """

  question: str
  answer: str
  domain: str = ''
  kind: str = ''
  fact: str = ''
  choices: tuple[str, ...] = ()
  follows: bool = False


@dataclasses.dataclass(frozen=True)
class Record:
  """One conversation.

  Attributes:
    id: unique within the source.
    source: where it comes from, e.g. `vimos/synthetic`.
    split: `train`, `val` or `test`.
    motion: float32 [T, 263] HumanML3D features at 20 fps, *not* normalised:
      the statistics belong to the motion encoder that will read them, so data
      built once serves every encoder. T is a multiple of 4, at most 196.
    joints: float32 [T + 1, 22, 3] metres, the body before feature extraction;
      kept where it is known, for corruption and for pictures.
    frames: uint8 [I, H, W, 3] sampled video frames.
    motion_text: words that stand in the prompt where motion tokens would; with
      them a decoder learns to read media before there are any. Never together
      with `motion`.
    video_text: the same for the video.
    turns: the conversation, in order.
    provenance: licence, generator, prompt hash, parent id; plain JSON values.
  """

  id: str
  source: str
  split: str
  motion: np.ndarray | None = None
  joints: np.ndarray | None = None
  frames: np.ndarray | None = None
  motion_text: str | None = None
  video_text: str | None = None
  turns: tuple[Turn, ...] = ()
  provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.motion is not None:
      check_motion(self.motion, self.id)
    if self.frames is not None and (
      self.frames.dtype != np.uint8
      or self.frames.ndim != 4
      or self.frames.shape[-1] != 3
    ):
      raise ValueError(
        f'Record {self.id}: expected frames as uint8 [I, H, W, 3], found '
        f'{self.frames.dtype} {self.frames.shape}; decode them with '
        'vimonet_jax.data.video.'
      )

  @property
  def clips(self) -> dict[str, np.ndarray]:
    """What there is of `motion` and `video`, in the order of a bank."""
    both = {'motion': self.motion, 'video': self.frames}
    return {medium: x for medium, x in both.items() if x is not None}


class CorruptError(ValueError):
  """A stored record that cannot be read, or is none.

  Its text is for people; training and evaluation pass over a few of them (see
  `skipped`), everybody else stops.

  Attributes:
    where: the source and the record's number in it.
    what: is wrong, with the record's id where that is known.
  """

  def __init__(self, where: str, what: str):
    super().__init__(
      f'Expected a sound record as {where}, found it damaged ({what}); bring '
      'its file back, or remove the dataset so that it is built anew.'
    )
    self.where = where
    self.what = what


def check_motion(motion: np.ndarray, name: str) -> None:
  """Raises a ValueError that says what is wrong with [T, 263] features."""
  if motion.ndim != 2 or motion.shape[1] != 263:
    raise ValueError(
      f'Record {name}: expected motion features [T, 263], found '
      f'{list(motion.shape)}; make them with vimonet_jax.motion.features.'
    )
  if motion.shape[0] % FRAMES_PER_TOKEN or not (
    0 < motion.shape[0] <= MAX_MOTION_FRAMES
  ):
    raise ValueError(
      f'Record {name}: expected a multiple of {FRAMES_PER_TOKEN} motion '
      f'frames, at most {MAX_MOTION_FRAMES}, found {motion.shape[0]}; trim '
      'it with records.trim_motion.'
    )
  if not np.isfinite(motion).all():
    raise ValueError(
      f'Record {name}: expected finite motion features, found NaN or '
      'infinity; mend the clip or leave it out.'
    )


def trim_motion(motion: np.ndarray) -> np.ndarray:
  """Cuts features [T, 263] to at most 196 frames and a multiple of 4."""
  length = min(len(motion), MAX_MOTION_FRAMES)
  return motion[: length - length % FRAMES_PER_TOKEN]


def turn_to_json(turn: Turn) -> dict[str, Any]:
  """The fields of a turn; `follows` only where it does."""
  fields = dataclasses.asdict(turn)
  if not turn.follows:
    del fields['follows']  # What was written before there was any stays so.
  return fields


def turn_from_json(fields: dict[str, Any]) -> Turn:
  return Turn(**{**fields, 'choices': tuple(fields.get('choices', ()))})


def write_json_lines(path: str, rows: Iterable[dict[str, Any]]) -> None:
  """One JSON object a line; arrays stay out of these files."""
  with open(path, 'w', encoding='utf-8') as f:
    for row in rows:
      f.write(json.dumps(row, ensure_ascii=False) + '\n')


def read_json_lines(path: str) -> Iterator[dict[str, Any]]:
  """What a file holds, also one that an editor of Windows has saved as UTF-8.

  Raises:
    ValueError: a line is no JSON, or the file no UTF-8.
  """
  try:
    with open(path, encoding='utf-8-sig') as f:
      for number, line in enumerate(f, 1):
        if line.strip():
          yield _read_line(f'{path}, line {number}', line)
  except UnicodeDecodeError as e:
    raise ValueError(
      f'{path}: expected JSON lines in UTF-8, found {e.reason}; save it as '
      'UTF-8.'
    ) from e


def _read_line(where: str, line: str) -> dict[str, Any]:
  try:
    return json.loads(line)
  except json.JSONDecodeError as e:
    raise ValueError(
      f'{where}: expected one JSON object a line, found {line[:40]!r}; mend or '
      'remove that line.'
    ) from e


def read_json_list(path: str | os.PathLike) -> list[Any]:
  """What a file holds that is one JSON list, as benchmarks are published."""
  with open(path, encoding='utf-8-sig') as f:
    try:
      found = json.load(f)
    except ValueError as e:
      raise ValueError(
        f'{path}: expected a JSON list, found {e}; fetch it again.'
      ) from e
  if not isinstance(found, list):
    raise ValueError(
      f'{path}: expected a JSON list, found a {type(found).__name__}; give the '
      'file as published.'
    )
  return found
