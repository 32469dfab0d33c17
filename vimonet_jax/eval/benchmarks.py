"""Benchmarks as lists of items, and what an item shows to the model.

An item knows the question and the right answer, and points at a record;
`prompt_record` fetches the media when the model is asked. The same items serve
every input (text, motion, video, both) and every change of the media, so
predictions can be compared one by one.
"""

import collections.abc
import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from vimonet_jax import fingerprint
from vimonet_jax.data import augment
from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import changes, judge

# Which media an input leaves in the prompt.
INPUTS = {
  'text': (),
  'motion': ('motion',),
  'video': ('video',),
  'both': ('motion', 'video'),
}
# What can be done to the media; see changes.
CLEAN = changes.CLEAN
SWAPPED = changes.SWAPPED

# How an answer is read from the model: what it writes, or which of the options
# it finds likeliest.
GENERATED = 'generated'
LIKELIHOOD = 'likelihood'

# The benchmarks of a data set's own records; see own_items.
SYNTHETIC = 'vimos-synth'
CAPTIONS = 'captions'

# Records that have been read and may be asked about again.
_KEPT_RECORDS = 64


class MediaError(ValueError):
  """A record that cannot be shown; its items fail, and say why."""


@dataclasses.dataclass(frozen=True)
class Item:
  """One question of a benchmark under one input.

  Attributes:
    id: unique in the benchmark, and the same for every input.
    benchmark: which one.
    split: of the record.
    input: a key of `INPUTS`.
    corruption: what was done to the media, of changes.TOUCHED.
    domain: what the question is about, for the table.
    kind: finer than the domain.
    question: as it is asked.
    references: right answers; one for questions, up to three for captions.
    position: which record it is about.
    media_position: which record's media are shown; the same unless swapped.
    fact: see records.Turn.
    choices: see records.Turn.
    answer_format: see judge.judge; empty where the question shows it.
    answer_start: what the answer begins with; the model goes on from there.
    options: what the model chooses from, by their likelihood after question and
      `answer_start`; empty where it writes the answer.
    slices: further groups of items that get a row of their own in the table.
    history: earlier turns, (question, answer) each.
    chance: how often guessing is right, 0 to 1; None where nobody can say.
    clip: which file is shown and how, see media.described; for records of a
      dataset, which the settings tell apart, empty, or which one where it is
      another's.
    seed: of the noise.
  """

  id: str
  benchmark: str
  split: str
  input: str
  corruption: str
  domain: str
  kind: str
  question: str
  references: tuple[str, ...]
  position: int
  media_position: int
  fact: str = ''
  choices: tuple[str, ...] = ()
  answer_format: str = ''
  answer_start: str = ''
  options: tuple[str, ...] = ()
  slices: tuple[str, ...] = ()
  history: tuple[tuple[str, str], ...] = ()
  chance: float | None = None
  clip: str = ''
  seed: int = 0

  @property
  def digest(self) -> str:
    """Of what the model is asked, about which file: another is another answer.

    References, choices and rules may change: they are looked at when answers
    are judged.
    """
    asked = (
      self.question,
      self.history,
      self.answer_start,
      self.options,
      self.clip,
    )
    return fingerprint.digest(repr(asked))

  @property
  def prompt(self) -> tuple:
    """The same for items that a model sees no difference between.

    Such are a question and the first rotation of its options.
    """
    change, seed = self.corruption, self.seed
    if change == changes.ROTATED:  # Which the question says.
      change, seed = CLEAN, 0
    return (
      self.id,
      self.input,
      self.media_position,
      change,
      seed,
      self.reading,
      self.digest,
    )

  @property
  def reference(self) -> str:
    """The first of the references."""
    return self.references[0]

  @property
  def reading(self) -> str:
    """`GENERATED` or `LIKELIHOOD`."""
    return LIKELIHOOD if self.options else GENERATED

  @property
  def key(self) -> tuple[str, str, str, str, str, int]:
    """Tells this item from every other item, also under other inputs."""
    return (
      self.benchmark,
      self.id,
      self.input,
      self.corruption,
      self.reading,
      self.seed,
    )


# Whether what was answered is right.
Rule = Callable[[Item, str], judge.Verdict]


def by_rules(item: Item, text: str) -> judge.Verdict:
  """What the offline rule judge says."""
  return judge.judge(
    item.id,
    text,
    item.reference,
    question=item.question,
    fact=item.fact,
    choices=item.choices,
    answer_format=item.answer_format,
  )


def all_or_nothing(
  item: Item, is_right: bool, *, by: str, status: str = 'ok'
) -> judge.Verdict:
  """What a rule says that knows no half right answers."""
  return judge.Verdict(
    item.id, is_right, 5.0 if is_right else 0.0, status, judge=by
  )


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """What is asked about which records, and when an answer is right.

  Attributes:
    items: all that is asked.
    records: that the items' positions count in; see `Readers`.
    rules: the judge's name -> its rule; the first is the headline. None for
      captions, which are measured and not judged.
    missing: position -> why that record cannot be shown, as far as this can be
      seen without reading it. Its items fail and count as wrong.
    needs_judge: answers are sentences, so that a language model should judge.
    baselines: who else -> a text for each of the first items, which are those
      with clean media and written answers.
    notes: sentences to read before the numbers, on what is asked otherwise than
      one would think.
    damaged: positions of records that cannot be read, so that nothing is asked
      about them.
  """

  items: Sequence[Item]
  records: Sequence[records_lib.Record]
  rules: Mapping[str, Rule]
  missing: Mapping[int, str] = dataclasses.field(default_factory=dict)
  needs_judge: bool = False
  baselines: Mapping[str, Sequence[str]] = dataclasses.field(
    default_factory=dict
  )
  notes: tuple[str, ...] = ()
  damaged: Collection[int] = ()

  @property
  def name(self) -> str:
    """In files and tables."""
    return self.items[0].benchmark


class Readers(collections.abc.Sequence):
  """Records whose media are read when they are asked for.

  The newest are kept, since several questions are about one clip.
  """

  def __init__(self, readers: Sequence[Callable[[], records_lib.Record]]):
    """Takes one function for each record.

    Whatever OSError or ValueError it raises says why its record cannot be
    shown, and becomes a MediaError.
    """
    self._readers = readers
    self._read = functools.lru_cache(_KEPT_RECORDS)(self._read_anew)

  def __len__(self) -> int:
    return len(self._readers)

  def __getitem__(self, index: int) -> records_lib.Record:
    return self._read(range(len(self))[index])

  def _read_anew(self, index: int) -> records_lib.Record:
    try:
      return self._readers[index]()
    except (OSError, ValueError) as error:
      raise MediaError(str(error)) from error


def shuffled(items: Sequence[Item], seed: int) -> list[Item]:
  """In an order that depends on their ids and the seed only."""
  return sorted(items, key=lambda item: changes.digest(seed, item.id))


def fullest(items: Sequence[Item]) -> list[Item]:
  """Each question once: written, with clean media and the most of them."""
  clean = [
    item
    for item in items
    if item.corruption == CLEAN and item.reading == GENERATED
  ]
  clean.sort(key=lambda item: len(INPUTS[item.input]))
  return list({item.id: item for item in clean}.values())


def variant(
  items: Sequence[Item],
  *,
  input: str = 'both',
  corruption: str = CLEAN,
  seed: int = 0,
) -> list[Item]:
  """The same items under another input or with other media.

  Swapped items show the motion and the video of another record; the records of
  the items exchange their media in one random circle, so none keeps its own.
  Mirrored items are only those whose answer has a side, with question and
  answer as they are true of the mirror image.

  Args:
    items: of one split.
    input: a key of `INPUTS`.
    corruption: of changes.TOUCHED.
    seed: of the circle and of the noise.

  Raises:
    ValueError: a name is unknown, or the corruption changes no medium that the
      input shows.
  """
  if input not in INPUTS:
    raise ValueError(
      f'Expected an input of {", ".join(INPUTS)}, found {input!r}.'
    )
  if corruption not in changes.TOUCHED:
    raise ValueError(
      f'Expected a corruption of {", ".join(changes.TOUCHED)}, found '
      f'{corruption!r}.'
    )
  touched = changes.TOUCHED[corruption]
  if corruption != CLEAN and not set(touched) & set(INPUTS[input]):
    raise ValueError(
      f'Expected an input with {" or ".join(touched)} for corruption '
      f'{corruption}, found {input!r}; it would show what is clean.'
    )
  if corruption == changes.MIRRORED:
    items = [flipped for item in items if (flipped := _other_side(item))]
  shown = {item.position: item.position for item in items}
  clips = {item.position: item.clip for item in items}
  if corruption == SWAPPED:
    shown = _circle(list(shown), seed)
    # Other items make another circle, and other media another answer.
    clips = {at: clip or f'record {at}' for at, clip in clips.items()}
  return [
    dataclasses.replace(
      item,
      input=input,
      corruption=corruption,
      media_position=shown[item.position],
      clip=clips[shown[item.position]],
      seed=seed,
    )
    for item in items
  ]


def with_clips(items: Sequence[Item], clips: Sequence[str]) -> list[Item]:
  """The items with what they show, of `media.described`, by position."""
  return [
    dataclasses.replace(item, clip=clips[item.media_position])
    for item in items
  ]


def by_likelihood(
  items: Sequence[Item], options: Callable[[Item], Sequence[str]]
) -> list[Item]:
  """The same items, answered by choosing among options; one is right."""
  chosen = []
  for item in items:
    among = tuple(options(item))
    chosen.append(
      dataclasses.replace(item, options=among, chance=1 / len(among))
    )
  return chosen


def prompt_record(
  item: Item, records: Sequence[records_lib.Record]
) -> records_lib.Record:
  """What the model is shown: the item's media, history and open question.

  The open question's answer is what it starts with, if anything. Words that
  stand in place of media are media.

  Raises:
    ValueError: the record lacks a medium that the input shows, or joints to
      change.
  """
  media = records[item.media_position]
  kept = INPUTS[item.input]
  has = {
    'motion': media.motion is not None or media.motion_text is not None,
    'video': media.frames is not None or media.video_text is not None,
  }
  for name in kept:
    if not has[name]:
      raise ValueError(
        f'Record {media.id}: expected {name} for input {item.input!r}, found '
        'none; make items of records that have it or choose another input.'
      )
  if kept:
    media = changes.changed(
      media, item.corruption, name=item.id, seed=item.seed
    )
  turns = [records_lib.Turn(*turn) for turn in item.history]
  turns.append(
    records_lib.Turn(item.question, item.answer_start, item.domain, item.kind)
  )
  return records_lib.Record(
    id=item.id,
    source=media.source,
    split=item.split,
    motion=media.motion if 'motion' in kept else None,
    frames=media.frames if 'video' in kept else None,
    motion_text=media.motion_text if 'motion' in kept else None,
    video_text=media.video_text if 'video' in kept else None,
    turns=tuple(turns),
  )


def _other_side(item: Item) -> Item | None:
  """What is true of the mirror image; None where the answer has no side."""
  flip = augment.other_side
  references = tuple(map(flip, item.references))
  if references == item.references:
    return None
  return dataclasses.replace(
    item,
    question=flip(item.question),
    references=references,
    fact=flip(item.fact),
    choices=tuple(map(flip, item.choices)),
    options=tuple(map(flip, item.options)),
    history=tuple((flip(q), flip(a)) for q, a in item.history),
  )


def _circle(positions: list[int], seed: int) -> dict[int, int]:
  """Each position to another one: a single random cycle through all."""
  if len(positions) < 2:
    raise ValueError(
      f'Expected items of two records or more to swap media, found '
      f'{len(positions)}.'
    )
  order = [int(p) for p in np.random.default_rng(seed).permutation(positions)]
  return dict(zip(order, order[1:] + order[:1], strict=True))
