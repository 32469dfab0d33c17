"""The toy on real records, for tests that break what lies on the disk."""

import numpy as np
import toy

from vimonet_jax import weight_files
from vimonet_jax.data import batches, dataset, skipped
from vimonet_jax.motion import features

STEPS = 12
_STATISTICS = features.Statistics(np.full(263, 40.0), np.full(263, 40.0))


def data(built, *, limit=0, path=None, **options):
  """The toy's batches, of windows of the records in a folder."""
  windows = batches.motion_windows(
    dataset.open(built, 'train'),
    statistics=_STATISTICS,
    rows=8,
    seed=0,
    window=40,
    skipped=skipped.Skipped(limit, path and str(path)),
    **options,
  )
  return windows.map(
    lambda batch: {
      'x': batch['motion'][:, 0, :4],
      'weight': 1 + batch['motion'][:, 5, 0],
      'ids': batch['ids'],
    }
  )


def train(folder, built, steps=STEPS, **options):
  return toy.train(folder, steps, data=data(built, **options))


def weights(folder) -> dict[str, bytes]:
  flat = weight_files.load(str(folder / 'weights'))
  return {path: np.asarray(x).tobytes() for path, x in flat.items()}
