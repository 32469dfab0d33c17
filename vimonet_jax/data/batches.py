"""Records become batches: Grain pipelines of pure functions from next door.

    source -> shuffle -> augment -> view -> encode -> this process's share
           -> pack -> batch

Everything random comes from the seed and from a record's place in the order, so
threads and prefetching change nothing, and the iterator's state is small: a few
numbers that say where to go on.
"""

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import grain
import numpy as np
from grain import experimental

from vimonet_jax.data import augment as augment_lib
from vimonet_jax.data import packing, records, text, views
from vimonet_jax.data import skipped as skipped_lib
from vimonet_jax.motion import features

# Of what a row holds, beside what the device is given.
IDS = 'ids'
# A source of which so many records in a row are of no use will not get better.
_MOST_LEFT_OUT_IN_A_ROW = 1000


class Source(Protocol):
  """Records by index: a list, a TFDS data source, a `FunctionSource`."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> records.Record: ...


@dataclasses.dataclass(frozen=True)
class FunctionSource:
  """Records that are made when they are asked for.

  Attributes:
    fn: index -> record, always the same record.
    length: how many there are; may be larger than anybody will ever read.
  """

  fn: Callable[[int], records.Record]
  length: int

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: int) -> records.Record:
    return self.fn(index)


def without(source: Source, numbers: Collection[int]) -> FunctionSource:
  """The other records of a source, in their order."""
  return only(source, [i for i in range(len(source)) if i not in numbers])


def only(source: Source, numbers: Sequence[int]) -> FunctionSource:
  """The records of these numbers, in that order."""
  return FunctionSource(lambda i: source[numbers[i]], len(numbers))


def part(source: Source, number: int, parts: int) -> FunctionSource:
  """Every `parts`-th record of a source, beginning with `number`.

  The parts of all numbers are disjoint, and together the source.

  Raises:
    ValueError: there is no such part, or nothing in it.
  """
  if not 0 <= number < parts or number >= len(source):
    raise ValueError(
      f'Expected a part from 0 to {min(parts, len(source)) - 1}, of '
      f'{len(source)} records in {parts} parts, found {number}; correct `part` '
      'of the mix.'
    )
  length = len(range(number, len(source), parts))
  return FunctionSource(lambda i: source[number + i * parts], length)


@dataclasses.dataclass(frozen=True)
class Mix:
  """One kind of batch: where its records come from and how large it is.

  Attributes:
    source: the records.
    view: which media and turns are shown.
    rows: B, of this process.
    length: L.
    motion_clips: Cm; with slots, every record has to have a motion.
    video_clips: Cv; with slots, every record has to have frames.
    frames_shape: of a video clip, [I, H, W, 3]. With it slots are for those who
      have clips, so that conversations of all kinds share a row.
    has_words: words stand for clips in every record.
    bins: rows that are filled at the same time, at least those of a batch. Once
      nobody has room for a conversation, all are handed out, so that batches
      come in bursts.
    weight: how often such a batch comes, relative to the other mixes.
    augment: variants of a record; None shows it as it is.
  """

  source: Source
  view: views.View | views.Choice
  rows: int
  length: int
  motion_clips: int = 0
  video_clips: int = 0
  frames_shape: tuple[int, ...] | None = None
  has_words: bool = False
  bins: int = 0
  weight: float = 1.0
  augment: augment_lib.Augment | None = None

  @property
  def shape(self) -> packing.RowShape:
    return packing.RowShape(
      self.length, self.motion_clips, self.video_clips, self.has_words
    )

  @property
  def without_clips(self) -> packing.Element:
    """What a record's element has before its own clips; see `frames_shape`."""
    if self.frames_shape is None:
      return {}
    return packing.without_clips(self.shape, self.frames_shape)


def conversations(
  mixes: Sequence[Mix],
  *,
  layout: text.Layout,
  statistics: features.Statistics | None,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
  read_threads: int = 0,
  prefetch: int = 2,
  skipped: skipped_lib.Skipped | None = None,
) -> grain.IterDataset:
  """Endless training batches; see architecture, section 3, for their keys.

  Beside them there is `ids`, str [B]: of the records of each row, one a line.
  It is for whoever asks where numbers came from, and stays on the host.

  Every batch belongs to one mix. A record that does not fit into a row of its
  mix, has not what the mix has slots for, or has no turn that its view can
  show, is left out with a warning.

  Args:
    mixes: kinds of batches, interleaved by weight.
    layout: how conversations become rows.
    statistics: normalise motions; None where no record has one.
    seed: of the order and of the views.
    process_index: which share of every source to read.
    process_count: how many shares there are.
    read_threads: threads that make records; 0 makes them where they are used.
    prefetch: batches that a background thread keeps ready; 0 for no thread.
    skipped: takes damaged records; None stops at the first.
  """
  if not mixes:
    raise ValueError('Expected at least one mix, found none.')
  streams = []
  for number, mix in enumerate(mixes):

    def draw(record, rng, mix=mix) -> _Drawn:
      if mix.augment is not None:
        record = mix.augment(record, rng)
      try:
        record = mix.view(record, rng)
      except views.NothingToAskError as error:
        return _Drawn(record.id, {}, error.reason)
      return _draw(record, layout, statistics, mix)

    stream = _stream(
      mix.source,
      draw,
      # Mixes of one source must not go through it in step.
      seed=_fold_in(seed, number),
      process_index=process_index,
      process_count=process_count,
      read_threads=read_threads,
      skipped=skipped,
    )
    stream = experimental.FirstFitPackIterDataset(
      stream,
      length_struct=mix.shape.sizes,
      padding_struct=mix.shape.padding,
      num_packing_bins=max(mix.bins, mix.rows),
      shuffle_bins=False,
      meta_features=(IDS,),
    )
    stream = stream.map(_join_ids)
    stream = stream.batch(mix.rows, drop_remainder=True)
    streams.append(stream)
  mixed = grain.IterDataset.mix(streams, [mix.weight for mix in mixes])

  def finish(packed):
    made = packing.finish(
      packed,
      motion_slots=layout.motion_slots,
      video_tokens=layout.video_tokens,
    )
    return {**made, IDS: packed[IDS]}

  return _prefetch(mixed.map(finish), prefetch)


def motion_windows(
  source: Source,
  *,
  statistics: features.Statistics,
  rows: int,
  seed: int,
  window: int = 64,
  augment: augment_lib.Augment | None = None,
  process_index: int = 0,
  process_count: int = 1,
  read_threads: int = 0,
  prefetch: int = 2,
  skipped: skipped_lib.Skipped | None = None,
) -> grain.IterDataset:
  """Endless batches {'motion': float32 [B, window, 263]} of random crops.

  Beside them there is `ids`, as in `conversations`. Records without motion, or
  with less than a window of it, are left out with a warning. The other
  arguments are as in `conversations`.

  Raises:
    ValueError: a window that is no number of whole tokens, or longer than any
      clip.
  """
  step, longest = records.FRAMES_PER_TOKEN, records.MAX_MOTION_FRAMES
  if window % step or not step <= window <= longest:
    raise ValueError(
      f'Expected window to be a multiple of {step} from {step} to {longest}, '
      f'found {window}.'
    )

  if augment is not None:
    # A window is a cut itself, and needs all the frames there are.
    augment = dataclasses.replace(augment, least_share=1.0)

  def draw(record, rng) -> _Drawn:
    if augment is not None:
      record = augment(record, rng)
    length = 0 if record.motion is None else len(record.motion)
    if length < window:
      reason = f'it has {length} motion frames and a window takes {window}'
      return _Drawn(record.id, {}, reason)
    start = int(rng.integers(length - window + 1))
    motion_T263 = statistics.normalise(record.motion[start : start + window])
    return _Drawn(record.id, {'motion': motion_T263.astype(np.float32)})

  stream = _stream(
    source,
    draw,
    seed=_fold_in(seed, 0),
    process_index=process_index,
    process_count=process_count,
    read_threads=read_threads,
    skipped=skipped,
  )
  return _prefetch(stream.batch(rows, drop_remainder=True), prefetch)


def join(shares: Mapping[int, grain.IterDataset]) -> grain.IterDataset:
  """Batches of several datasets as one, rows below rows.

  Where a dataset has been read to is kept by its number, so that other
  processes, which have other numbers, can go on together.

  Args:
    shares: number -> batches of as many rows of the same kinds.
  """
  return _Joined(shares)


class _Joined(grain.IterDataset):
  def __init__(self, shares: Mapping[int, grain.IterDataset]):
    super().__init__([shares[number] for number in sorted(shares)])
    self._numbers = sorted(shares)

  def __iter__(self):
    return _JoinedIterator([iter(x) for x in self._parents], self._numbers)


class _JoinedIterator(grain.DatasetIterator):
  def __init__(self, parents, numbers: Sequence[int]):
    super().__init__(parents)
    self._numbers = [str(number) for number in numbers]

  def __next__(self) -> packing.Batch:
    parts = [next(parent) for parent in self._parents]
    return {
      name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }

  def get_state(self):
    states = [parent.get_state() for parent in self._parents]
    return {'shares': dict(zip(self._numbers, states, strict=True))}

  def set_state(self, state):
    found = state.get('shares', {})
    if missing := sorted(set(self._numbers) - set(found), key=int):
      raise ValueError(
        f'Expected data read in shares of which one is number {missing[0]}, '
        f'found {len(found) or "none"}; go on with as many processes, or begin '
        'with a --config.data.shares that both numbers of processes divide.'
      )
    for number, parent in zip(self._numbers, self._parents, strict=True):
      parent.set_state(found[number])


def prompts(
  asked: Sequence[records.Record],
  *,
  layout: text.Layout,
  statistics: features.Statistics | None,
  rows: int,
  length: int,
  motion_clips: int = 0,
  video_clips: int = 0,
  has_words: bool = False,
) -> packing.Batch:
  """One batch of open questions, a record a row; rows left over are empty.

  Args:
    asked: at most `rows` records; the answer of each one's last turn is empty,
      or begun and to go on.
    layout: as in training.
    statistics: as in training; None where no record has a motion.
    rows: B.
    length: L, a bucket that the longest prompt fits into.
    motion_clips: Cm, 0 or 1. Some records may leave their slot empty, not all.
    video_clips: Cv, likewise.

  Raises:
    ValueError: a record does not fit, or nobody fills a slot.
  """
  shape = packing.RowShape(length, motion_clips, video_clips, has_words)
  elements = []
  for record in asked:
    made = _element(text.encode_prompt(record, layout), record, statistics)
    if reason := packing.misfit(made, shape):
      raise ValueError(
        f'Record {record.id}: expected a prompt that fits into a row, but '
        f'{reason}; use a larger bucket or ask for less at once.'
      )
    elements.append(made)
  return _a_row_each(
    elements,
    shape,
    rows,
    motion_slots=layout.motion_slots,
    video_tokens=layout.video_tokens,
  )


def words_of(
  examples: Sequence[text.Example],
  *,
  rows: int,
  length: int,
  has_words: bool = False,
) -> packing.Batch:
  """`prompts` without their clips, for those whose bank has been made.

  Args:
    examples: at most `rows`, from text.encode_prompt or text.encode_turn.
    rows, length, has_words: see `prompts`.
  """
  elements = [packing.element(example) for example in examples]
  return _a_row_each(elements, packing.RowShape(length, 0, 0, has_words), rows)


def clips(
  medium: str,
  shown: Sequence[records.Record],
  *,
  statistics: features.Statistics | None,
  rows: int,
) -> packing.Batch:
  """One batch of clips without words, each in a row; rows left over are zero.

  Args:
    medium: `motion` or `video`, which all records have.
    shown: at most `rows` records.
    statistics: as in training; None for videos.
    rows: B.

  Returns:
    motion float32 [B, 1, T, 263] and motion_length int32 [B, 1], or frames
    uint8 [B, 1, I, H, W, 3].
  """
  if medium == 'motion':
    elements = [
      packing.motion_clip(statistics.normalise(record.motion))
      for record in shown
    ]
  else:
    elements = [packing.video_clip(record.frames) for record in shown]
  batch = {}
  for key, first in elements[0].items():
    batch[key] = np.zeros((rows, *first.shape), first.dtype)
    batch[key][: len(elements)] = [made[key] for made in elements]
  return batch


def _a_row_each(
  elements: Sequence[packing.Element],
  shape: packing.RowShape,
  rows: int,
  *,
  motion_slots: int = 0,
  video_tokens: int = 0,
) -> packing.Batch:
  """A batch of one element in a row; rows left over are empty."""
  if not 0 < len(elements) <= rows:
    raise ValueError(
      f'Expected 1 to {rows} records for a batch of {rows} rows, found '
      f'{len(elements)}.'
    )
  filled = [[made] for made in elements]
  empty: list[list[packing.Element]] = [[]] * (rows - len(elements))
  return packing.finish(
    packing.pack([*filled, *empty], shape),
    motion_slots=motion_slots,
    video_tokens=video_tokens,
  )


def words(ids: np.ndarray, *, length: int) -> packing.Batch:
  """One row of text: the next turn of a conversation whose clips are read.

  Args:
    ids: int32 [l], from text.encode_turn.
    length: L, at least l.
  """
  made = {
    'tokens': np.asarray(ids, np.int32),
    'loss_mask': np.zeros(len(ids), bool),
    'media_index': np.full(len(ids), text.TEXT, np.int32),
  }
  return words_of([made], rows=1, length=length)


def without_ids(batch: packing.Batch) -> packing.Batch:
  """What of a batch goes to the devices."""
  return {key: x for key, x in batch.items() if key != IDS}


def _join_ids(row: dict) -> dict:
  return {**row, IDS: np.array('\n'.join(row[IDS]))}


class _Drawn(NamedTuple):
  """What came of a record; with a reason to leave it out, or none."""

  id: str
  element: packing.Element
  misfit: str = ''
  corrupt: records.CorruptError | None = None


@dataclasses.dataclass(frozen=True)
class _Open:
  """A source of which damaged records can be passed on, and left out later."""

  source: Source

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> records.Record | records.CorruptError:
    try:
      return self.source[index]
    except records.CorruptError as error:
      return error


def _draw(
  record: records.Record,
  layout: text.Layout,
  statistics: features.Statistics | None,
  mix: Mix,
) -> _Drawn:
  made = mix.without_clips | _element(
    text.encode_dialog(record, layout), record, statistics
  )
  reason = packing.misfit(made, mix.shape)
  if missing := sorted(set(mix.shape.sizes) - set(made)):
    reason = f'it has no {missing[0]} and its mix has slots for it'
  return _Drawn(record.id, made, reason)


def _element(
  example: text.Example,
  record: records.Record,
  statistics: features.Statistics | None,
) -> packing.Element:
  if record.motion is None:
    return packing.element(example, None, record.frames)
  if statistics is None:
    raise ValueError(
      f'Record {record.id}: expected statistics to normalise its motion with, '
      'found none; pass those of the motion encoder.'
    )
  return packing.element(
    example, statistics.normalise(record.motion), record.frames
  )


def _stream(
  source: Source,
  draw: Callable[[records.Record, np.random.Generator], _Drawn],
  *,
  seed: int,
  process_index: int,
  process_count: int,
  read_threads: int,
  skipped: skipped_lib.Skipped | None,
) -> grain.IterDataset:
  """Elements of this process, endless, in an order that the seed decides.

  The shares of all processes together are one epoch's order, and a record gets
  the same randomness whoever reads it.
  """

  def draw_sound(record, rng) -> _Drawn:
    if isinstance(record, records.CorruptError):
      return _Drawn(record.where, {}, corrupt=record)
    return draw(record, rng)

  share = (
    grain.MapDataset.source(_Open(source))
    .seed(seed)
    .shuffle()
    .random_map(draw_sound)
    .slice(slice(process_index, None, process_count))
  )
  if not len(share):
    raise ValueError(
      f'Expected a record for each of {process_count} processes, found '
      f'{len(source)} records.'
    )
  options = grain.ReadOptions(
    num_threads=read_threads, prefetch_buffer_size=16 * read_threads
  )
  keep = _Keep(skipped or skipped_lib.Skipped(0))
  kept = share.repeat().to_iter_dataset(options).filter(keep)
  return kept.map(lambda drawn: {**drawn.element, IDS: drawn.id})


class _Keep:
  """Lets pass what is sound and fits, and tells of what does not."""

  def __init__(self, skipped: skipped_lib.Skipped):
    self._skipped = skipped
    self._left_out = 0
    self._in_a_row = 0

  def __call__(self, drawn: _Drawn) -> bool:
    if drawn.corrupt is not None:
      self._skipped.add(drawn.corrupt)
      return False
    if not drawn.misfit:
      self._in_a_row = 0
      return True
    self._left_out += 1
    self._in_a_row += 1
    # All of the first, then ever fewer: an endless source has endless misfits.
    if self._left_out <= 10 or not self._left_out & (self._left_out - 1):
      logging.warning(
        'Record %s is left out: %s. That makes %d so far.',
        drawn.id,
        drawn.misfit,
        self._left_out,
      )
    if self._in_a_row == _MOST_LEFT_OUT_IN_A_ROW:
      raise ValueError(
        f'Expected records that fit, found {self._in_a_row} in a row that do '
        f'not: of the last one, {drawn.id}, {drawn.misfit}. Use longer rows, '
        'fewer turns, or another view.'
      )
    return False


def _prefetch(stream: grain.IterDataset, batches: int) -> grain.IterDataset:
  return experimental.ThreadPrefetchIterDataset(
    stream, prefetch_buffer_size=batches
  )


def _fold_in(seed: int, number: int) -> int:
  # Grain counts epochs by adding to the seed, so neighbours would overlap.
  return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
