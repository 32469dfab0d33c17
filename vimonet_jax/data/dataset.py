"""A finished dataset: where it lies, and its records by number.

It lies in `<data_dir>/vimos/<name>/<version>/`, where `tfds` finds it too.
Reading needs neither the builder nor what it made the records of.
"""

import collections.abc
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath

from vimonet_jax.data import records

# Raise it when the same config gives other records: what was built before is
# then built anew, not mistaken for them.
VERSION = '2.0.0'
# What of a record is stored as it is; turns and provenance are JSON.
TEXTS = ('id', 'source', 'split', 'motion_text', 'video_text')
ARRAYS = {'motion': np.float32, 'joints': np.float32, 'frames': np.uint8}
# Beside the records of a split: bool [records, arrays], who has which of these.
# Whoever wants some of them need not read the others to find out.
HAS = 'has-{split}.npy'

# Of what reading may raise: that a record is fine is not said, nor that not.
_NotItsFault = (OSError, MemoryError)


class Source(collections.abc.Sequence):
  """Records by number; a Grain source that other processes can be sent.

  One that is damaged raises a records.CorruptError.

  To read a record of average length takes 0.5 ms of a core (Xeon, 2.8 GHz) and
  no TensorFlow. Its arrays are read-only.
  """

  def __init__(self, path: str, split: str, hidden: Sequence[str] = ()):
    """Opens a split.

    Args:
      path: of the dataset.
      split: its name, or a part of it.
      hidden: keys of `ARRAYS` that stay bytes, and are in no record.
    """
    self._path = path
    self._split = split
    self._hidden = tuple(hidden)
    builder = describe(path)
    name = split.partition('[')[0]
    if name not in builder.info.splits:
      raise ValueError(
        f'Expected a split of {", ".join(builder.info.splits)} in {path}, '
        f'found {split!r}.'
      )
    _check_files(builder.info.splits[name], path)
    skipped = dict.fromkeys(self._hidden, tfds.decode.SkipDecoding())
    self._examples = builder.as_data_source(split, decoders=skipped)

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> records.Record:
    # A range knows negative numbers and raises IndexError.
    number = range(len(self))[index]
    try:
      return self._read(number)
    except _NotItsFault:
      raise
    except Exception as error:  # Whatever a broken file makes its readers say.
      what = ' '.join(str(error).split())[:200]
      where = f'{self._split}:{number} of {self._path}'
      raise records.CorruptError(where, what) from error

  def having(self, *arrays: str) -> list[int] | None:
    """Numbers of the records that have all of some arrays, keys of `ARRAYS`.

    None where that is not noted: of a part of a split, or what Beam has built.
    """
    path = epath.Path(self._path) / HAS.format(split=self._split)
    if not path.exists():
      return None
    has = np.load(path)
    if has.shape != (len(self), len(ARRAYS)):
      raise ValueError(
        f'Expected {path} to tell of {len(self)} records, found '
        f'{list(has.shape)}; it is damaged: remove it, or the folder so that '
        'the dataset is built anew.'
      )
    columns = [list(ARRAYS).index(name) for name in arrays]
    return np.flatnonzero(has[:, columns].all(axis=1)).tolist()

  def _read(self, number: int) -> records.Record:
    """Tries again once: what is damaged is so every time it is read."""
    try:
      return _to_record(self._examples[number], self._hidden)
    except _NotItsFault:
      raise
    except Exception:  # As above.
      return _to_record(self._examples[number], self._hidden)

  def __repr__(self) -> str:
    return f'Source({self._path!r}, {self._split!r})'

  def __reduce__(self):
    return Source, (self._path, self._split, self._hidden)


def open(
  data_dir: str,
  split: str,
  *,
  name: str | None = None,
  hidden: Sequence[str] = (),
) -> Source:
  """Records of a split of a dataset that `build` made.

  Args:
    data_dir: as given to `build`.
    split: `train`, `val` or `test`, or a part as TFDS writes it: `val[:100]`.
    name: of the config; needed where the folder holds several.
    hidden: see Source.

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
  return Source(os.fspath(folder(data_dir, names[0])), split, hidden)


def describe(path: str) -> tfds.core.DatasetBuilder:
  """What TFDS knows of a finished dataset.

  Raises:
    ValueError: its description is damaged.
  """
  try:
    return tfds.builder_from_directory(path)
  except Exception as error:  # A parser's, for each of the files another.
    what = ' '.join(str(error).split())[:200]
    raise ValueError(
      f'Expected the description of a dataset in {path}, found it damaged '
      f'({what}); remove that folder so that it is built anew.'
    ) from error


def _check_files(split: tfds.core.SplitInfo, path: str) -> None:
  """Refuses files with other numbers of records than their description."""
  for file, length in zip(split.filepaths, split.shard_lengths, strict=True):
    try:
      reader = array_record_module.ArrayRecordReader(os.fspath(file))
      found = reader.num_records()
      reader.close()
    except Exception as error:  # Whatever a broken file makes it raise.
      found = ' '.join(str(error).split())[:200]
    if found != length:
      raise ValueError(
        f'Expected {length} records in {file}, found {found}; the file or its '
        f'description is damaged: remove {path} so that it is built anew.'
      )


def folder(data_dir: str, name: str) -> epath.Path:
  """Where a dataset lies that is finished."""
  return epath.Path(data_dir) / 'vimos' / name / VERSION


def _to_record(
  example: dict[str, Any], hidden: Sequence[str]
) -> records.Record:
  fields = {key: example[key].decode() or None for key in TEXTS}
  for key in ARRAYS:
    if key in hidden:
      continue
    fields[key] = example[key] if example[f'has_{key}'] else None
    if example[key].dtype != ARRAYS[key]:
      raise ValueError(
        f'Record {fields["id"]}: expected {key} as {np.dtype(ARRAYS[key])}, '
        f'found {example[key].dtype}.'
      )
  turns = json.loads(example['turns'])
  return records.Record(
    turns=tuple(records.turn_from_json(turn) for turn in turns),
    provenance=json.loads(example['provenance']),
    **fields,
  )
