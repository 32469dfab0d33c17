"""TFDS builder `vimos`: makes records once and keeps them; see `dataset`.

A dataset is complete or not there: TFDS fills a folder with another name and
renames it at the end. Beside it stay two texts about its build:

    survey.txt   what was there before, see `survey`
    failed.txt   records that could not be made: id, what is wrong; a line each
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import functools
import io
import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from array_record.python import array_record_module
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from vimonet_jax.data import (
  amass,
  babel_sets,
  dataset,
  examples,
  joined,
  motionx,
  records,
  sources,
  survey,
  video_sets,
)
from vimonet_jax.data import beam as beam_build

# Some 200 MB; fixed, so that a set's files do not depend on who built them.
_EXAMPLES_PER_FILE = 1024
_CHUNK = 4  # records that a process makes before it hands them over
SURVEY, FAILED = 'survey.txt', 'failed.txt'


@dataclasses.dataclass(frozen=True)
class Synthetic:
  """VIMOS-Synth, drawn by `synthetic.world`; nothing is downloaded.

  Attributes:
    seed: another seed is another dataset.
    image_size: width and height of the frames, pixels.
    max_actions: longest program, 1 to 3.
    noisy_share: share of the training clips whose joints drift and jitter.
    num_train: clips for training.
    num_val: clips to look at during training.
    num_test: clips to score at the end.
  """

  name: ClassVar[str] = 'synthetic'
  seed: int = 0
  image_size: int = 48
  max_actions: int = 3
  noisy_share: float = 0.0
  num_train: int = 5000
  num_val: int = 500
  num_test: int = 500

  def splits(self) -> dict[str, list[tuple[str, int]]]:
    """What `make` is called with, for each split."""
    numbers = (self.num_train, self.num_val, self.num_test)
    return {
      split: [(split, index) for index in range(number)]
      for split, number in zip(sources.SPLITS, numbers, strict=True)
    }

  def make(self, item: tuple[str, int]) -> records.Record:
    """Record `index` of a split; a pure function of this and the item."""
    from vimonet_jax.synthetic import world  # Readers of data do without.

    drawn = world.World(
      self.seed, self.image_size, self.max_actions, self.noisy_share
    )
    return drawn.make_record(*item)

  def identity(self) -> dict[str, Any]:
    """What decides the content, as JSON values."""
    return dataclasses.asdict(self)


CONFIGS = {
  config.name: config
  for config in (
    Synthetic,
    sources.Folder,
    amass.Amass,
    motionx.MotionX,
    video_sets.Videos,
    babel_sets.BabelQa,
    joined.Joined,
  )
}


class Vimos(tfds.core.GeneratorBasedBuilder):
  """Conversations about motion, video or both, as `records.Record`.

  Configs, where they come from, and their examples unless said otherwise:

      synthetic   drawn by vimonet_jax.synthetic, Apache-2.0
                  5000 train, 500 val, 500 test
      folder      `sources.Folder`, under its own licence; what it has
      amass       `amass.Amass`: HumanML3D's clips, made from AMASS; licences of
                  both; with all files 29,228 named, less what is left out
      motionx     `motionx.MotionX`, under its licence; what it has
      videos      `video_sets.Videos`: a folder of videos and what files say of
                  them, as Valley and Video-ChatGPT; under its licence
      babel_qa    `babel_sets.BabelQa`: its train and val, under its licence
      joined      `joined.Joined`: several of these, no kin in two splits

  `attached.Attached` adds files of questions to one whose clips have names.

  Build command: `python -m vimonet_jax.main --config=configs/tiny.py` builds
  what is missing, or in Python

      builder.build(builder.Synthetic(num_train=5000), '/tmp/vimos')
      records = dataset.open('/tmp/vimos', 'train')

  Examples hold `motion` not normalised (see `records.Record`), `turns` and
  `provenance` as JSON, and for each array whether the record has it.
  """

  VERSION = tfds.core.Version(dataset.VERSION)
  BUILDER_CONFIGS: ClassVar = [
    tfds.core.BuilderConfig(name=name, description=config.__doc__)
    for name, config in CONFIGS.items()
  ]
  # Where TFDS would look for checksums of downloads. To find it out it takes
  # importlib_resources, which nothing installs since etils 1.15.
  code_path = None

  def __init__(
    self, *, config=None, processes=1, progress=False, max_failed=0, **kwargs
  ):
    """Prepares to build a dataset; `build` is simpler.

    Args:
      config: what to build, e.g. a `Synthetic`, or a name for its defaults.
      processes: how many make records; with 1 it is this one.
      progress: shows a bar.
      max_failed: see `build`.
      **kwargs: of any TFDS builder, e.g. `data_dir`.
    """
    config = config or Synthetic.name
    self._config = CONFIGS[config]() if isinstance(config, str) else config
    self._processes = processes
    self._progress = progress
    self._max_failed = max_failed
    self._num_failed = 0
    self._map = map
    super().__init__(config=self._config.name, **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.builder_config.description,
      features=examples.features(self._config.image_size),
      metadata=tfds.core.MetadataDict(self._config.identity()),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    """What TFDS asks of a builder, with Beam; see `_download_and_prepare`."""
    del dl_manager
    splits = self._config.splits()
    return {
      split: beam_build.transform(self._config, split, items, self.data_path)
      for split, items in splits.items()
      if items
    }

  def _generate_examples(self, items):
    """Number and example of each item, but of none that fails: it is named."""
    make = functools.partial(examples.make, self._config)
    number = 0
    for made in self._map(make, items):
      if isinstance(made, str):
        self._fail([made])
      else:
        yield number, made
        number += 1

  def _process_pipeline_result(self, pipeline_result) -> None:
    """After Beam: who failed is told as without it, if later."""
    del pipeline_result
    self._fail(beam_build.take_failed(self.data_path))

  def _fail(self, lines: Iterable[str]) -> None:
    """Names records that could not be made; a few do not end the build."""
    path = self.data_path.parent / FAILED
    for line in lines:
      self._num_failed += 1
      with open(path, 'a', encoding='utf-8') as f:
        f.write(f'{line}\n')
    if self._num_failed > self._max_failed:
      raise ValueError(
        f'Expected at most {self._max_failed} records that cannot be made, '
        f'found {self._num_failed}, the last {line.rstrip(".")}. All are in '
        f'{path}: mend or remove what they are made of, or raise '
        'data.max_failed to go on without them.'
      )

  def _download_and_prepare(self, dl_manager, download_config):
    """Writes each split in order and never holds it in memory.

    TFDS's own writer sorts a split in memory and, above 1 GB, needs TensorFlow
    to go on; it is for Beam.
    """
    if download_config.beam_runner:
      super()._download_and_prepare(dl_manager, download_config)
      return
    splits = {s: items for s, items in self._config.splits().items() if items}
    bar = tqdm.tqdm(
      desc=f'vimos/{self._config.name}',
      total=sum(map(len, splits.values())),
      unit='clip',
      disable=not self._progress,
    )
    with bar, _ordered_map(self._processes) as self._map:
      infos = [
        self._write(split, self._generate_examples(items), len(items), bar)
        for split, items in splits.items()
      ]
    self.info.set_splits(tfds.core.SplitDict(infos))

  def _write(self, split, made, number, bar) -> tfds.core.SplitInfo:
    """Writes examples into files; `number` is how many there may be."""
    template = self._get_filename_template(split)
    lengths, num_bytes, has = [], 0, []
    paths = _paths(template, -(-number // _EXAMPLES_PER_FILE))
    for path in paths:
      writer = array_record_module.ArrayRecordWriter(
        os.fspath(path), 'group_size:1'
      )
      lengths.append(0)
      for _, example in itertools.islice(made, _EXAMPLES_PER_FILE):
        data = self.info.features.serialize_example(example)
        # The order of a protobuf map varies from run to run unless it is asked
        # not to.
        data = tf_example_pb2.Example.FromString(data).SerializeToString(
          deterministic=True
        )
        writer.write(data)
        has.append([example[f'has_{name}'] for name in dataset.ARRAYS])
        lengths[-1] += 1
        num_bytes += len(data)
        bar.update()
      writer.close()
    # Some could not be made, and so may have left no record for the last file.
    lengths = [length for length in lengths if length]
    if not lengths:
      raise ValueError(
        f'Expected records for {split}, found that none of {number} can be '
        f'made; {self.data_path.parent / FAILED} says why.'
      )
    if len(lengths) < len(paths):
      for path in paths[len(lengths) :]:
        path.unlink()
      names = _paths(template, len(lengths))
      for path, name in zip(paths, names, strict=False):
        path.rename(name)
    np.save(self.data_path / dataset.HAS.format(split=split), np.array(has))
    return tfds.core.SplitInfo(
      name=split,
      shard_lengths=lengths,
      num_bytes=num_bytes,
      filename_template=template,
    )


def _paths(template, number: int) -> list[epath.Path]:
  """The names of as many files; each tells how many there are."""
  return [
    template.sharded_filepath(shard_index=i, num_shards=number)
    for i in range(number)
  ]


def build(
  config,
  data_dir: str,
  *,
  processes: int = 2,
  progress: bool = True,
  max_failed: int = 0,
  beam: str = '',
  beam_options: Sequence[str] = (),
) -> bool:
  """Makes a dataset unless it is there; its bytes depend on the config only.

  A build that was killed leaves nothing that looks finished, and the next one
  starts again. A second process waits for the first and finds the work done.
  The calling program needs `if __name__ == '__main__':` unless `processes` is
  1, as always with multiprocessing.

  Args:
    config: what to build: one of `CONFIGS`.
    data_dir: is made where it is missing.
    processes: how many make records. A synthetic clip takes 11 ms of a core
      (Xeon, 2.8 GHz), a clip of a folder 5 ms, one of Motion-X without a video
      20 ms, one of AMASS 20 to 80 ms.
    progress: prints the survey and shows a bar with rate and remaining time.
    max_failed: records that the build leaves out because they cannot be made;
      one more ends it. `failed.txt` names them.
    beam: one of `beam.RUNNERS`; needs apache-beam unless it is empty. Records
      and their order are the same then, cut into other files.
    beam_options: flags of Beam's, e.g. `--project=P`, `--temp_location=gs://B`.

  Returns:
    Whether it was made now.

  Raises:
    ValueError: the folder holds the dataset of another config, or too many
      records cannot be made.
  """
  options = beam_build.options(beam, beam_options)
  folder = dataset.folder(data_dir, config.name)
  folder.parent.mkdir(parents=True, exist_ok=True)
  with open(folder.parent / '.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if folder.exists():
      _check_identity(folder, config)
      return False
    for unfinished in folder.parent.glob('incomplete.*'):
      unfinished.rmtree()
    (folder.parent / FAILED).unlink(missing_ok=True)
    if hasattr(config, 'survey'):
      text = survey.text([config.survey()])
      (folder.parent / SURVEY).write_text(f'{text}\n')
      if progress:
        print(text, file=sys.stderr)
    builder = Vimos(
      config=config,
      data_dir=data_dir,
      processes=processes,
      progress=progress,
      max_failed=max_failed,
    )
    # TFDS speaks of downloads and makes a folder for them; there are none.
    with (
      tempfile.TemporaryDirectory() as downloads,
      contextlib.redirect_stdout(io.StringIO()),
    ):
      builder.download_and_prepare(
        file_format='array_record',
        download_dir=downloads,
        download_config=tfds.download.DownloadConfig(**options),
      )
    if progress and (failed := folder.parent / FAILED).exists():
      number = len(failed.read_text().splitlines())
      print(f'{number} records could not be made: {failed}', file=sys.stderr)
  return True


def _check_identity(folder: epath.Path, config) -> None:
  """Refuses a dataset that another config, or other files, would make."""
  info = dataset.describe(os.fspath(folder)).info
  found, expected = _flat(dict(info.metadata)), _flat(config.identity())
  if differing := [
    f'{key}={found.get(key)!r} instead of {expected.get(key)!r}'
    for key in {**found, **expected}
    if found.get(key) != expected.get(key)
  ]:
    raise ValueError(
      f'Expected {folder} to hold what the config asks for, found '
      f'{", ".join(differing)}; remove that folder, or take another workdir.'
    )
  if info.features.to_json() != examples.features(config.image_size).to_json():
    raise ValueError(
      f'Expected {folder} to describe the arrays of records, found others; '
      'features.json is damaged: remove that folder so that it is built anew.'
    )


def _flat(value: Any, name: str = '') -> dict[str, Any]:
  """Values within objects and lists by dotted names, `parts.0.licence`."""
  if isinstance(value, tuple):
    value = list(value)  # As JSON has them.
  if not value or not isinstance(value, dict | list):
    return {name: value}
  rows = value.items() if isinstance(value, dict) else enumerate(value)
  flat = {}
  for key, inner in rows:
    flat |= _flat(inner, f'{name}.{key}' if name else str(key))
  return flat


@contextlib.contextmanager
def _ordered_map(processes: int) -> Iterator[Callable]:
  """A `map` over processes, which end with the one that started them."""
  if processes == 1:
    yield map
    return
  pool = concurrent.futures.ProcessPoolExecutor(
    processes,
    # A fork would copy the threads of JAX half, and hang.
    mp_context=multiprocessing.get_context('spawn'),
    initializer=_follow_parent,
  )
  try:
    yield functools.partial(pool.map, chunksize=_CHUNK)
  finally:
    pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
  """Leaves Ctrl-C to the parent, and ends when it is gone, be it killed."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def watch():
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
