"""A finished dataset: where it lies, and its records by number.

It lies in `<data_dir>/vimos/<name>/<version>/`, where `tfds` finds it too.
Reading needs neither the builder nor what it made the records of.
"""

import collections.abc
import json
import os
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from vimonet_jax.data import records

# Raise it when the same config gives other records: what was built before is
# then built anew, not mistaken for them.
VERSION = '2.0.0'
# What of a record is stored as it is; turns and provenance are JSON.
TEXTS = ('id', 'source', 'split', 'motion_text', 'video_text')
ARRAYS = ('motion', 'joints', 'frames')


class Source(collections.abc.Sequence):
  """Records by number; a Grain source that other processes can be sent.

  To read a record of average length takes 0.5 ms of a core (Xeon, 2.8 GHz) and
  no TensorFlow. Its arrays are read-only.
  """

  def __init__(self, path: str, split: str):
    self._path = path
    self._split = split
    builder = tfds.builder_from_directory(path)
    if split.partition('[')[0] not in builder.info.splits:
      raise ValueError(
        f'Expected a split of {", ".join(builder.info.splits)} in {path}, '
        f'found {split!r}.'
      )
    self._examples = builder.as_data_source(split)

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> records.Record:
    # A range knows negative numbers and raises IndexError.
    return _to_record(self._examples[range(len(self))[index]])

  def __repr__(self) -> str:
    return f'Source({self._path!r}, {self._split!r})'

  def __reduce__(self):
    return Source, (self._path, self._split)


def open(data_dir: str, split: str, *, name: str | None = None) -> Source:
  """Records of a split of a dataset that `build` made.

  Args:
    data_dir: as given to `build`.
    split: `train`, `val` or `test`, or a part as TFDS writes it: `val[:100]`.
    name: of the config; needed where the folder holds several.

  Raises:
    FileNotFoundError: there is no such dataset.
    ValueError: there are several, or the dataset has no such split.
  """
  built = (epath.Path(data_dir) / 'vimos').glob(f'*/{VERSION}')
  found = sorted(path.parent.name for path in built)
  names = [n for n in found if name in (None, n)]
  if not names:
    raise FileNotFoundError(
      f'Expected vimos/{name or "..."}/{VERSION} in {data_dir}, '
      f'found {", ".join(found) or "none"}; build it with --task=pipeline.'
    )
  if len(names) > 1:
    raise ValueError(
      f'Expected one dataset in {data_dir}, found {", ".join(names)}; choose '
      'with name=.'
    )
  return Source(os.fspath(folder(data_dir, names[0])), split)


def folder(data_dir: str, name: str) -> epath.Path:
  """Where a dataset lies that is finished."""
  return epath.Path(data_dir) / 'vimos' / name / VERSION


def _to_record(example: dict[str, Any]) -> records.Record:
  fields = {key: example[key].decode() or None for key in TEXTS}
  for key in ARRAYS:
    fields[key] = example[key] if example[f'has_{key}'] else None
  turns = json.loads(example['turns'])
  return records.Record(
    turns=tuple(records.turn_from_json(turn) for turn in turns),
    provenance=json.loads(example['provenance']),
    **fields,
  )
