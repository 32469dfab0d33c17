"""The mean and std that a published motion encoder was trained with.

    statistics.npz            as features.Statistics.save writes it
    mean.npy  std.npy         one of the two, or their folder
"""

import pathlib
import zipfile

import numpy as np

from vimonet_jax.convert import files
from vimonet_jax.motion import features

_WHERE = (
  'T2M-GPT keeps them in checkpoints/t2m/VQVAEV3_CB1024_CMT_H1024_NRES3/meta, '
  'MotionGPT in assets/meta'
)
_KIT = 251  # Features of KIT-ML's 21 joints.


class StatisticsError(ValueError):
  """A pair that is missing, damaged or another encoder's; says what to do."""


def read(path: str | None, *, root_gain: float) -> features.Statistics:
  """The pair that a VQ-VAE was trained with, and no other.

  With HumanML3D's own Std.npy a published encoder would see the root 25 times
  too faintly, and answer all the same.

  Args:
    path: see above.
    root_gain: about how loud the root is in it, see Statistics.root_gain.

  Raises:
    StatisticsError: there is no such pair.
  """
  if not path:
    raise StatisticsError(
      'Expected --statistics=FOLDER with the mean.npy and std.npy that the '
      'VQ-VAE was trained with, found none; no file of weights has them, and '
      f'with others it sees another motion ({_WHERE}).'
    )
  found = _pair(pathlib.Path(path))
  gain = found.root_gain
  if not root_gain / 1.5 < gain < root_gain * 1.5:
    raise StatisticsError(
      f'{path}: expected a std that makes the root {root_gain:.0f} times as '
      "loud as HumanML3D's own Std.npy does (config.data.root_gain), found "
      f'{gain:.1f} times; take the pair that came with the VQ-VAE ({_WHERE}), '
      'or set --config.data.root_gain for one that was trained otherwise.'
    )
  return found


def _pair(path: pathlib.Path) -> features.Statistics:
  if path.suffix == '.npz' and path.is_file():
    arrays = _load(path)
    try:
      pair = [(path, arrays[name]) for name in ('mean', 'std')]
    except KeyError as e:
      raise StatisticsError(
        f'{path}: expected arrays mean and std, found {sorted(arrays)}; name '
        'another file.'
      ) from e
  else:
    is_one = path.is_file() and path.stem.lower() in ('mean', 'std')
    folder = path.parent if is_one else path
    pair = [(file, _load(file)) for file in _files(path, folder)]
  for file, x in pair:
    if x.shape != (features.NUM_FEATURES,):
      of = ", which are those of KIT-ML's joints" if x.shape == (_KIT,) else ''
      raise StatisticsError(
        f'{file}: expected {features.NUM_FEATURES} numbers, found shape '
        f'{list(x.shape)}{of}; take the pair that the VQ-VAE was trained with '
        f'({_WHERE}).'
      )
  try:
    return features.Statistics(*(x for _, x in pair))
  except ValueError as e:
    raise StatisticsError(f'{path}: {e}') from e


def _files(path: pathlib.Path, folder: pathlib.Path) -> list[pathlib.Path]:
  """mean.npy and std.npy, or with capitals as HumanML3D spells them."""
  found = []
  for name in ('mean.npy', 'std.npy'):
    spelt = [folder / name, folder / name.capitalize()]
    there = [file for file in spelt if file.is_file()]
    if not there:
      raise StatisticsError(
        f'{path}: expected a folder with mean.npy and std.npy, or a .npz, '
        f'found {"no " + name if path.exists() else "nothing there"}; correct '
        f'--statistics ({_WHERE}).'
      )
    found.append(there[0])
  return found


def _load(file: pathlib.Path):
  """An array, or those of a .npz by name."""
  try:
    found = np.load(file)  # Never pickles, of which NumPy's message speaks.
    found = found if isinstance(found, np.ndarray) else dict(found)
  except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as e:
    what = files.begins(file)
    if 'pickle' in str(e) and 'NUMPY' in what:
      what = 'Python objects; save them as float32'
    raise StatisticsError(
      f'{file}: expected numbers in a file of NumPy, found {what}.'
    ) from e
  if isinstance(found, dict) != (file.suffix == '.npz'):
    kinds = ('an archive', 'an array')
    raise StatisticsError(
      f'{file}: expected {kinds[isinstance(found, dict)]}, as its ending says, '
      f'found {kinds[not isinstance(found, dict)]}; correct the ending.'
    )
  return found
