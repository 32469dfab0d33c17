"""Records are made by the workers of Apache Beam, here or on Dataflow.

Workers have to see the folders that records are made of, and the dataset's, at
the same paths, as on a file system that all of them mount.
"""

import pickle
from collections.abc import Iterable, Sequence
from typing import Any

from etils import epath

from vimonet_jax.data import examples

# Where a build runs: in processes of ours, with Beam here, or on Dataflow.
RUNNERS = {'': '', 'direct': 'DirectRunner', 'dataflow': 'DataflowRunner'}
_FAILED, _ITEMS = 'failed', 'items'  # files in the folder of a running build
_ITEMS_PER_FILE = 1024


def options(runner: str, flags: Sequence[str]) -> dict[str, Any]:
  """What tfds.download.DownloadConfig takes; nothing without a runner.

  Args:
    runner: one of `RUNNERS`.
    flags: of Beam's, e.g. `--project=P`.

  Raises:
    ValueError: another name, or Beam is not installed.
  """
  if runner not in RUNNERS:
    raise ValueError(
      f'Expected data.beam of {", ".join(map(repr, RUNNERS))}, found '
      f'{runner!r}; correct it.'
    )
  if not runner:
    return {}
  try:
    from apache_beam.options import pipeline_options
  except ImportError:
    raise ValueError(
      f'Expected the package apache-beam for data.beam={runner}, found none; '
      "pip install -e '.[beam]', or leave data.beam empty."
    ) from None
  return {
    'beam_runner': RUNNERS[runner],
    'beam_options': pipeline_options.PipelineOptions(list(flags)),
  }


def transform(
  source: Any, split: str, items: Iterable[Any], folder: epath.Path
):
  """A PTransform from nothing to (number, example) of each item.

  Items whose record cannot be made have none; `take_failed` tells which.

  Args:
    source: as `builder.build` takes it.
    split: of the items.
    items: that the source makes records of.
    folder: of the running build.
  """
  import apache_beam as beam

  # In files: the plan of a pipeline, which Dataflow bounds, is no place for a
  # million items.
  numbered, files = list(enumerate(items)), []
  for start in range(0, len(numbered), _ITEMS_PER_FILE):
    files.append(folder / f'{_ITEMS}.{split}.{start}')
    some = numbered[start : start + _ITEMS_PER_FILE]
    files[-1].write_bytes(pickle.dumps(some))

  def is_failed(made):
    return isinstance(made[1], str)

  def is_sound(made):
    return not is_failed(made)

  def write(failed):
    if failed:
      lines = [line for _, line in sorted(failed)]
      (folder / f'{_FAILED}.{split}').write_text('\n'.join(lines))

  def expand(pipeline):
    made = (
      pipeline
      | f'files of {split}' >> beam.Create(files)
      | f'items of {split}' >> beam.FlatMap(_read_items)
      | f'spread {split}' >> beam.Reshuffle()
      | f'make {split}' >> beam.Map(_make, source)
    )
    _ = (
      made
      | f'failed of {split}' >> beam.Filter(is_failed)
      | f'gather failed of {split}' >> beam.combiners.ToList()
      | f'name failed of {split}' >> beam.Map(write)
    )
    return made | f'sound of {split}' >> beam.Filter(is_sound)

  return beam.ptransform_fn(expand)()


def take_failed(folder: epath.Path) -> list[str]:
  """After a pipeline: a line for each failed record; removes its files."""
  for path in folder.glob(f'{_ITEMS}.*'):
    path.unlink()
  lines = []
  for path in sorted(folder.glob(f'{_FAILED}.*')):
    lines += path.read_text().split('\n')
    path.unlink()
  return lines


def _read_items(path: epath.Path) -> list[tuple[int, Any]]:
  return pickle.loads(path.read_bytes())


def _make(
  numbered: tuple[int, Any], source: Any
) -> tuple[int, examples.Example | str]:
  number, item = numbered
  return number, examples.make(source, item)
