"""Several conversations in one row of fixed shape.

Tokens follow each other along the length of a row; clips lie on an axis of
their own, where no convolution and no attention can look from one into the
next. Grain's packer decides who goes together (see `batches.py`); here is what
it gets, and what is left to do afterwards.

An element is one conversation with its clips, as a dict:

    tokens        int32 [l]
    loss_mask     bool [l]
    media_index   int32 [l], rows of the element's own media bank
    more_tokens   int32 [l, 3], words that share a place, -1 where there is
                  no place; absent without words in place of clips
    motion        float32 [1, 196, 263], zero beyond the clip; absent without
    motion_length int32 [1], frames of the clip; absent without
    frames        uint8 [1, I, H, W, 3]; absent without

In rows that several kinds of conversations share, clips that one does not have
are arrays of no clips instead of absent.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vimonet_jax.data import records, text
from vimonet_jax.motion import features

Element = dict[str, np.ndarray]
# What Grain's packer gives: arrays of a batch, and for each axis that was
# packed, <name>_segment_ids and <name>_positions.
Packed = Mapping[str, np.ndarray]
Batch = dict[str, np.ndarray]

# Along the tokens, along the motion clips, along the video clips.
_TOKEN_KEYS = ('tokens', 'loss_mask', 'media_index')
_WORD_KEYS = ('more_tokens',)
_MOTION_KEYS = ('motion', 'motion_length')
_VIDEO_KEYS = ('frames',)


@dataclasses.dataclass(frozen=True)
class RowShape:
  """What a row has room for.

  Attributes:
    length: tokens, L.
    motion_clips: slots for motion clips, Cm.
    video_clips: slots for video clips, Cv.
    has_words: words may stand for clips.
  """

  length: int
  motion_clips: int = 0
  video_clips: int = 0
  has_words: bool = False

  @property
  def sizes(self) -> dict[str, int]:
    """The packed axis of every key; keys without slots are absent."""
    sizes = dict.fromkeys(_TOKEN_KEYS, self.length)
    if self.has_words:
      sizes |= dict.fromkeys(_WORD_KEYS, self.length)
    if self.motion_clips:
      sizes |= dict.fromkeys(_MOTION_KEYS, self.motion_clips)
    if self.video_clips:
      sizes |= dict.fromkeys(_VIDEO_KEYS, self.video_clips)
    return sizes

  @property
  def padding(self) -> dict[str, int]:
    """What stands in a row where there is nothing."""
    padding = {'media_index': text.TEXT, 'more_tokens': text.NO_PLACE}
    return {key: padding.get(key, 0) for key in self.sizes}


def element(
  example: text.Example,
  motion_T263: np.ndarray | None = None,
  frames_IHW3: np.ndarray | None = None,
) -> Element:
  """Puts a conversation and its clips together.

  Args:
    example: from text.encode_dialog or text.encode_prompt.
    motion_T263: normalised, at most 196 frames.
    frames_IHW3: uint8.
  """
  made = {
    key: example[key] for key in (*_TOKEN_KEYS, *_WORD_KEYS) if key in example
  }
  if motion_T263 is not None:
    made |= motion_clip(motion_T263)
  if frames_IHW3 is not None:
    made |= video_clip(frames_IHW3)
  return made


def motion_clip(motion_T263: np.ndarray) -> Element:
  """What an element has of a normalised motion of at most 196 frames."""
  length, width = motion_T263.shape
  padded_CT263 = np.zeros((1, records.MAX_MOTION_FRAMES, width), np.float32)
  padded_CT263[0, :length] = motion_T263
  return {
    'motion': padded_CT263,
    'motion_length': np.array([length], np.int32),
  }


def video_clip(frames_IHW3: np.ndarray) -> Element:
  """What an element has of a video, uint8."""
  return {'frames': frames_IHW3[None]}


def without_clips(shape: RowShape, frames_IHW3: tuple[int, ...]) -> Element:
  """What an element without clips has in rows that have room for some.

  Args:
    shape: of the rows.
    frames_IHW3: shape of a video clip.
  """
  clip = records.MAX_MOTION_FRAMES, features.NUM_FEATURES
  nothing = {
    'motion': np.zeros((0, *clip), np.float32),
    'motion_length': np.zeros(0, np.int32),
    'frames': np.zeros((0, *frames_IHW3), np.uint8),
  }
  return {key: x for key, x in nothing.items() if key in shape.sizes}


def misfit(made: Element, shape: RowShape) -> str:
  """Why an empty row cannot take an element; empty when it can."""
  sizes = shape.sizes
  for key, x in made.items():
    if len(x) > sizes.get(key, 0):
      return f'it has {len(x)} {key} and a row has room for {sizes.get(key, 0)}'
  return ''


def pack(rows: Sequence[Sequence[Element]], shape: RowShape) -> Packed:
  """Fills given rows, in the form that Grain's packer has.

  Args:
    rows: the elements of each row, which must fit together.
    shape: of all rows.
  """
  packed = {}
  for key, size in shape.sizes.items():
    found = [made[key] for row in rows for made in row if key in made]
    if not found:
      raise ValueError(
        f'Expected at least one element with {key}, found none; use a RowShape '
        'without slots for it.'
      )
    x = np.full(
      (len(rows), size, *found[0].shape[1:]), shape.padding[key], found[0].dtype
    )
    ids = np.zeros((len(rows), size), np.int32)
    positions = np.zeros((len(rows), size), np.int32)
    for b, row in enumerate(rows):
      start = 0
      for i, made in enumerate(row, 1):
        if key not in made:
          if key in _WORD_KEYS:  # Its tokens are there all the same.
            start += len(made['tokens'])
          continue
        end = start + len(made[key])
        x[b, start:end] = made[key]
        ids[b, start:end] = i
        positions[b, start:end] = np.arange(end - start)
        start = end
    packed[key] = x
    packed[f'{key}_segment_ids'] = ids
    packed[f'{key}_positions'] = positions
  return packed


def finish(packed: Packed, *, motion_slots: int, video_tokens: int) -> Batch:
  """Makes a batch of what a packer gives: renames, and shifts media_index.

  Each element counts in a bank of its own; a row has one bank for all, first
  the motion clips, then the video clips. With two motion clips of 2 slots, two
  videos of 3 tokens and two elements with one of each:

      alone  0 1 | 2 3 4    0 1 | 2 3 4
      packed 0 1 | 4 5 6    2 3 | 7 8 9

  Args:
    packed: arrays [..., L] and [..., C] with their segment ids.
    motion_slots: rows of the bank for a motion clip.
    video_tokens: rows of the bank for a video clip.
  """
  ids_BL = packed['tokens_segment_ids']
  none_BC = np.zeros((*ids_BL.shape[:-1], 0), np.int32)
  motion_ids_BC = packed.get('motion_segment_ids', none_BC)
  video_ids_BC = packed.get('frames_segment_ids', none_BC)
  own_motions_BL = _count(motion_ids_BC, np.equal, ids_BL)
  motions_before_BL = _count(motion_ids_BC, np.less, ids_BL)
  videos_before_BL = _count(video_ids_BC, np.less, ids_BL)
  alone_BL = packed['media_index']
  motion_BL = alone_BL + motion_slots * motions_before_BL
  video_BL = (
    alone_BL
    + motion_slots * (motion_ids_BC.shape[-1] - own_motions_BL)
    + video_tokens * videos_before_BL
  )
  is_motion_BL = alone_BL < motion_slots * own_motions_BL
  media_index_BL = np.where(is_motion_BL, motion_BL, video_BL)
  return {
    'tokens': packed['tokens'],
    'loss_mask': packed['loss_mask'],
    'segment_ids': ids_BL,
    'positions': packed['tokens_positions'],
    'media_index': np.where(
      alone_BL == text.TEXT, text.TEXT, media_index_BL
    ).astype(np.int32),
    **{
      key: packed[key]
      for key in (*_WORD_KEYS, *_MOTION_KEYS, *_VIDEO_KEYS)
      if key in packed
    },
  }


def _count(clip_ids_BC, compare, ids_BL) -> np.ndarray:
  """How many clips compare so with each token's segment; empty slots never."""
  clip_ids_BLC = clip_ids_BC[..., None, :]
  hits_BLC = compare(clip_ids_BLC, ids_BL[..., None]) & (clip_ids_BLC > 0)
  return hits_BLC.sum(-1, dtype=np.int32)
