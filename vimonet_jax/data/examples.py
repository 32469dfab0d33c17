"""What TFDS stores of a record: its arrays and its words, as an example."""

import json
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vimonet_jax.data import dataset, records

Example = dict[str, Any]


def features(image_size: int) -> tfds.features.FeaturesDict:
  """The fields of an example; frames have `image_size` pixels a side."""

  def array(*shape, dtype=np.float32):
    # As bytes: a list of numbers takes 50 times as long to read, and zlib, on
    # top of the file's own zstd, 5 times as long for the same size.
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding='bytes')

  return tfds.features.FeaturesDict(
    {
      **dict.fromkeys(dataset.TEXTS, tfds.features.Text()),
      **{f'has_{key}': np.bool_ for key in dataset.ARRAYS},
      'turns': tfds.features.Text(),
      'provenance': tfds.features.Text(),
      'motion': array(None, 263),
      'joints': array(None, 22, 3),
      'frames': array(None, image_size, image_size, 3, dtype=np.uint8),
    }
  )


def of(record: records.Record, image_size: int) -> Example:
  """The example of a record; `dataset.Source` has the way back."""
  absent = {
    'motion': np.zeros((0, 263), np.float32),
    'joints': np.zeros((0, 22, 3), np.float32),
    'frames': np.zeros((0, image_size, image_size, 3), np.uint8),
  }
  example = {key: getattr(record, key) or '' for key in dataset.TEXTS}
  for key in dataset.ARRAYS:
    value = getattr(record, key)
    example[f'has_{key}'] = value is not None
    example[key] = absent[key] if value is None else value
  turns = [records.turn_to_json(turn) for turn in record.turns]
  example['turns'] = json.dumps(turns, ensure_ascii=False)
  example['provenance'] = json.dumps(record.provenance, ensure_ascii=False)
  return example


def make(source: Any, item: Any) -> Example | str:
  """The example of a source's item, or one line that says why there is none.

  That line begins with the record's id. It is for files that are not as they
  should be; other errors are raised.
  """
  try:
    return of(source.make(item), source.image_size)
  except (ValueError, OSError) as error:
    if isinstance(item, tuple) and hasattr(item[-1], 'id'):
      item = item[-1]  # Of `joined.Joined`.
    name = getattr(item, 'id', item)
    return f'{name}: {" ".join(str(error).split())}'
