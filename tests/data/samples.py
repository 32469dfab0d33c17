"""Records, ids and batches that several tests of data look at."""

import dataclasses
import functools
import time

import numpy as np

from vimonet_jax.data import packing, records, text, tokenizer
from vimonet_jax.synthetic import actions, world

_TOKEN_KEYS = ('tokens', 'loss_mask', 'media_index')
_MOTION_KEYS = ('motion', 'motion_length')


def record(number, media=(), *, words=1, turns=1) -> records.Record:
  """A record whose words and clips all tell its number."""
  fields = {}
  if 'motion' in media:
    length = 40 + 4 * (number % 40)
    ramp_T1 = number + np.arange(length + 1)[:, None] / 1000
    fields['motion'] = np.tile(ramp_T1[:-1], 263).astype(np.float32)
    fields['joints'] = np.tile(ramp_T1[..., None], (22, 3)).astype(np.float32)
  if 'video' in media:
    fields['frames'] = np.full((2, 4, 4, 3), number % 256, np.uint8)
  if 'words' in media:
    fields['motion_text'] = 'walking+left ' * (1 + number % 5) + 'waving'
    fields['video_text'] = 'red+ball+two room'
  return records.Record(
    f'r{number}',
    'test',
    'train',
    turns=tuple(
      records.Turn(f'Who is number {number}?', 'It is me ' * words + f'{t}.')
      for t in range(turns)
    ),
    **fields,
  )


def walk(frames: int) -> np.ndarray:
  """Joints [frames, 22, 3] of somebody who walks, back and forth if need be."""
  program = [actions.Action('walk', direction='forward', speed='slowly')]
  joints = actions.animate(program, np.random.default_rng(0)).joints
  joints = np.pad(joints, ((0, frames), (0, 0), (0, 0)), mode='reflect')
  return joints[:frames].astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Fake:
  """What stands in for the world: quick, and every third clip lacks media."""

  name = 'synthetic'
  image_size = 4
  seed: int = 0
  num_train: int = 11
  num_val: int = 3
  sleep_s: float = 0.0
  failing: tuple[int, ...] = ()

  def splits(self):
    numbers = {'train': self.num_train, 'val': self.num_val, 'test': 0}
    return {s: [(s, i) for i in range(n)] for s, n in numbers.items()}

  def make(self, item):
    split, index = item
    time.sleep(self.sleep_s)
    if split == 'train' and index in self.failing:
      raise ValueError('a file\nis broken.')
    has = {'motion': index % 3 != 2, 'video': index % 2}
    media = [medium for medium in has if has[medium]]
    return dataclasses.replace(
      record(index + 80 * self.seed, media),
      id=f'{split}-{index}',
      split=split,
      motion_text=None if has['motion'] else 'walking walking',
      turns=(
        records.Turn('Où?', 'Left.', 'direction', 'to', 'left', ('left', 'x')),
        records.Turn('Describe.', 'Someone walks.', 'motion_caption'),
      ),
      provenance={'licence': 'none', 'seed': self.seed, 'list': [1, 2]},
    )

  def identity(self):
    return dataclasses.asdict(self)


@functools.cache
def corpus() -> tuple[str, ...]:
  """What the synthetic world says."""
  made = (world.World().text_record('train', i) for i in range(300))
  short = text.TEMPLATES['short']
  return tuple(line for r in made for line in text.texts(r, short))


@functools.cache
def pieces() -> tokenizer.Tokenizer:
  """A tokenizer for what the synthetic world says."""
  return tokenizer.Tokenizer(tokenizer.train_tokenizer(corpus(), 768))


def unpack(
  batch: packing.Batch, *, motion_slots: int, video_tokens: int
) -> list[list[packing.Element]]:
  """The elements of each row, as they were before packing.

  Which clips belong to an element is read from media_index alone, as the model
  reads it.
  """
  motions = batch['motion'].shape[1] * motion_slots if 'motion' in batch else 0
  rows = []
  for b, ids_L in enumerate(batch['segment_ids']):
    rows.append([])
    for i in range(1, ids_L.max() + 1):
      inside_L = ids_L == i
      made = {
        key: batch[key][b, inside_L]
        for key in (*_TOKEN_KEYS, 'more_tokens')
        if key in batch
      }
      index_l = made['media_index']
      is_motion_l = (index_l >= 0) & (index_l < motions)
      is_video_l = index_l >= motions
      if is_motion_l.any():
        clips = np.unique(index_l[is_motion_l] // motion_slots)
        index_l[is_motion_l] -= clips[0] * motion_slots
        made |= {key: batch[key][b, clips] for key in _MOTION_KEYS}
      if is_video_l.any():
        clips = np.unique((index_l[is_video_l] - motions) // video_tokens)
        own = motion_slots * len(made.get('motion', ()))
        index_l[is_video_l] += own - motions - clips[0] * video_tokens
        made['frames'] = batch['frames'][b, clips]
      rows[-1].append(made)
  return rows
