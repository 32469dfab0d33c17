"""ViMoNet-Bench: items in five domains about a motion or a video.

The published items (MoVid-Bench, 700 and 650) were never released. Whoever has
items writes them as JSON lines; `synthetic` draws as many of each domain from
VIMOS-Synth. A line has

    id, modality (motion, video), source (a file), domain, answer_format,
    question, answer; maybe history; of a video start and end in seconds; of a
    motion fps and the axis that is up

Multi-round items are one line a round, with the rounds before as `history`, a
list of [question, answer]. Joints of which neither the line nor the file nor
its name says the frame rate have 20 fps, as those of HumanML3D.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import benchmarks, judge, media, own_items

# Items by modality and domain (MotionLLM, appendix B).
COMPOSITION: Mapping[str, Mapping[str, int]] = {
  'motion': {
    'body_part': 205,
    'sequentiality': 171,
    'direction': 140,
    'reasoning': 148,
    'hallucination': 36,
  },
  'video': {
    'body_part': 167,
    'sequentiality': 216,
    'direction': 43,
    'reasoning': 185,
    'hallucination': 39,
  },
}
DOMAINS = tuple(COMPOSITION['motion'])
ANSWER_FORMATS = ('free', 'yes_no', 'true_false', 'multiple_choice', 'count')

_TEXTS = ('id', 'modality', 'source', 'domain', 'answer_format', 'question')
_KNOWN = {
  'modality': tuple(COMPOSITION),
  'domain': DOMAINS,
  'answer_format': ANSWER_FORMATS,
}
# What a line may say about its clip.
_ABOUT = {'motion': ('fps', 'up'), 'video': ('start', 'end')}


def read(
  path: str | os.PathLike,
  root: str | os.PathLike,
  frames: media.Frames,
  *,
  name: str = '',
  split: str = 'test',
) -> benchmarks.Benchmark:
  """The items of a file, each about a file of a folder.

  Args:
    path: JSON lines as above.
    root: the folder that `source` is relative to.
    frames: how the model looks at videos.
    name: in tables; empty for the name of the file.
    split: in tables.

  Raises:
    ValueError: one sentence about the first line that is not as it should be.
    FileNotFoundError: there is no such file or no such folder.
  """
  media.check_folder(root, 'motions and videos')
  name = name or os.path.splitext(os.path.basename(path))[0]
  clips: dict[tuple, int] = {}
  readers, missing, items, assumed, shown = [], {}, {}, [], []
  lines = records_lib.read_json_lines(os.fspath(path))
  for number, line in enumerate(lines, 1):
    try:
      history = _checked(line, items)
    except ValueError as e:
      raise ValueError(f'{path}, item {number}: {e}') from e
    modality, source = line['modality'], line['source']
    about = {key: line.get(key) for key in _ABOUT[modality]}
    position = clips.setdefault((modality, source, *about.values()), len(clips))
    if position == len(readers):
      file = os.path.join(root, source)
      if not os.path.exists(file):
        missing[position] = f'{file}: no such file'
      if 'fps' in about and not (about['fps'] or media.says_frame_rate(file)):
        about['fps'] = records_lib.FPS
        assumed.append(source)
      shown.append(media.described(file, modality, about, frames))
      read_clip = _reader(modality, file, about, frames)
      readers.append(
        functools.partial(read_clip, id=source, source=name, split=split)
      )
    items[line['id']] = benchmarks.Item(
      id=line['id'],
      benchmark=name,
      split=split,
      input=modality,
      corruption=benchmarks.CLEAN,
      domain=line['domain'],
      kind=line['answer_format'],
      question=line['question'],
      references=(line['answer'],),
      position=position,
      media_position=position,
      answer_format=line['answer_format'],
      history=history,
    )
  if not items:
    raise ValueError(f'{path}: expected one item a line, found none.')
  return benchmarks.Benchmark(
    benchmarks.with_clips(list(items.values()), shown),
    benchmarks.Readers(readers),
    {judge.JUDGE: benchmarks.by_rules},
    missing,
    needs_judge=True,
    notes=_said_of(assumed, len(readers)),
  )


def synthetic(
  records: Sequence[records_lib.Record],
  *,
  seed: int = 0,
  name: str,
  damaged: Collection[int] = (),
) -> list[benchmarks.Item]:
  """Items of VIMOS-Synth in the published numbers, by modality and domain.

  Videos are asked what motions are asked: eight frames have to do.

  Args:
    records: of one split, with motion and frames.
    seed: draws other items.
    name: in tables.
    damaged: positions of records that are not looked at.

  Raises:
    ValueError: there are too few turns of a domain.
  """
  items = own_items.questions(
    records, per_domain=max(COMPOSITION['video'].values()), seed=seed,
    benchmark=name, damaged=damaged,
  )  # fmt: skip
  by_domain: dict[str, list[benchmarks.Item]] = {}
  for item in benchmarks.shuffled(items, seed):
    by_domain.setdefault(item.domain, []).append(item)
  found = []
  for modality, wanted in COMPOSITION.items():
    for domain, number in wanted.items():
      there = by_domain.get(domain, [])
      if len(there) < number:
        raise ValueError(
          f'Expected {number} questions of domain {domain}, found '
          f'{len(there)} in {len(records)} records; build more test clips.'
        )
      # The same question of both modalities is two items.
      found += [
        dataclasses.replace(item, id=f'{modality}/{item.id}')
        for item in benchmarks.variant(there[:number], input=modality)
      ]
  return found


def _checked(line: Any, known: Mapping[str, Any]) -> tuple:
  """The history of a line, after a look at all that it needs."""
  if not isinstance(line, dict):
    raise ValueError(f'expected an object, found {str(line)[:40]!r}.')
  for key in (*_TEXTS, 'answer'):
    value = line.get(key)
    if not isinstance(value, str) or not value.strip():
      raise ValueError(f'expected text as {key}, found {value!r}; add it.')
    if value not in _KNOWN.get(key, (value,)):
      raise ValueError(
        f'expected {key} to be {", ".join(_KNOWN[key])}, found {value!r}; '
        'correct it.'
      )
  if line['id'] in known:
    raise ValueError(
      f'expected each id once, found {line["id"]} again; name one otherwise.'
    )
  for modality, names in _ABOUT.items():
    for name in names:
      _check_about(name, line.get(name), modality, line['modality'])
  start, end = line.get('start') or 0, line.get('end')
  if end is not None and end < start:
    raise ValueError(
      f'expected a start before the end, found {start} and {end}; correct them.'
    )
  rounds = line.get('history', [])
  fits = isinstance(rounds, list) and all(
    isinstance(pair, list)
    and len(pair) == 2
    and all(isinstance(text, str) for text in pair)
    for pair in rounds
  )
  if not fits:
    raise ValueError(
      f'expected history as a list of [question, answer], found {rounds!r}; '
      'correct it.'
    )
  return tuple((question, answer) for question, answer in rounds)


def _check_about(name: str, value: Any, of: str, modality: str) -> None:
  """Raises where a line says something else about its clip than it can."""
  if value is None:
    return
  if of != modality:
    raise ValueError(
      f'expected {name} of a {of} only, found it of a {modality}; take it out.'
    )
  if name == 'up':
    if value not in ('x', 'y', 'z'):
      raise ValueError(
        f'expected up to be x, y or z, found {value!r}; correct it.'
      )
    return
  least = 1 if name == 'fps' else 0
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  if not is_number or not least <= value < math.inf:
    raise ValueError(
      f'expected a number of {least} or more as {name}, found {value!r}; '
      'correct it.'
    )


def _reader(
  modality: str, file: str, about: Mapping[str, Any], frames: media.Frames
) -> Callable[..., records_lib.Record]:
  if modality == 'motion':
    return functools.partial(media.motion_record, file, **about)
  return functools.partial(
    media.video_record,
    file,
    frames,
    start_s=about['start'],
    end_s=about['end'],
  )


def _said_of(assumed: Sequence[str], num_clips: int) -> tuple[str, ...]:
  if not assumed:
    return ()
  return (
    f'The frame rate of {len(assumed)} of {num_clips} clips is said nowhere '
    f'and taken to be {records_lib.FPS} fps, the first {assumed[0]}; where '
    'that is wrong, write fps into its line.',
  )
