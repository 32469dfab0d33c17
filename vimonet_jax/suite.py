"""The benchmarks that a configuration asks for, opened.

    config.eval.benchmarks   names of BENCHMARKS; empty for the data set's own
    config.eval.<name>       where its files are, with _ for -
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vimonet_jax import corpus as corpora
from vimonet_jax.data import babel_questions, video
from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import (
  activitynet_qa,
  babel_qa,
  benchmarks,
  humanml3d_captions,
  judge,
  media,
  mv_bench,
  own_items,
  vimonet_bench,
)
from vimonet_jax.models import clip_video
from vimonet_jax.motion import corrupt

_VIMONET_BENCH = 'vimonet-bench'


def open_all(
  config: Any, workdir: str, tower: clip_video.Config
) -> list[benchmarks.Benchmark]:
  """Every benchmark, with all that is asked about it.

  Args:
    config: see above, and `eval` of the presets.
    workdir: has the data set's own records.
    tower: of the model that is asked: how it looks at videos.

  Raises:
    ValueError: a name is unknown, or a file is not as it should be.
    OSError: a file is not there.
  """
  return [
    open_one(config, workdir, tower, name=name) for name in names(config)
  ]


def names(config: Any) -> tuple[str, ...]:
  """Which benchmarks `open_all` opens."""
  found = tuple(config.eval.benchmarks) or (own(config),)
  if unknown := [name for name in found if name not in BENCHMARKS]:
    raise ValueError(
      f'Expected config.eval.benchmarks of {", ".join(BENCHMARKS)}, found '
      f'{unknown[0]!r}; correct the name.'
    )
  return found


def open_one(
  config: Any, workdir: str, tower: clip_video.Config, *, name: str
) -> benchmarks.Benchmark:
  """One of them; see `open_all`."""
  frames = media.Frames(
    tower.frames,
    tower.image_size,
    tower.image_size < video.REFERENCE_PIXELS,
  )
  found = BENCHMARKS[name](config, workdir, frames)
  return _with_changes(config, found) if config.eval.corrupt_all else found


def own(config: Any) -> str:
  """The benchmark of the data that the model was trained on."""
  is_synthetic = config.data.name == 'synthetic'
  return benchmarks.SYNTHETIC if is_synthetic else benchmarks.CAPTIONS


class _HeldOut(NamedTuple):
  """A split of the data set's own records.

  Attributes:
    records: all of them; damaged ones raise.
    damaged: which those are.
    notes: that there are some, if any.
  """

  records: Sequence[records_lib.Record]
  damaged: set[int]
  notes: tuple[str, ...]


def _held_out(config, workdir: str) -> _HeldOut:
  """The split that is asked about, all of it read once."""
  split = config.eval.split
  found = corpora.open_split(config, workdir, split)
  damaged = corpora.damaged(found, corpora.passing_over(config, workdir))
  note = (
    f'{len(damaged)} of {len(found)} records of {split} are damaged, and named '
    f'in {workdir}/skipped-*.jsonl; nothing is asked about them.'
  )
  return _HeldOut(found, damaged, (note,) if damaged else ())


def _synthetic(config, workdir: str, frames) -> benchmarks.Benchmark:
  del frames  # Its records have them.
  held_out, damaged, notes = _held_out(config, workdir)
  items = own_items.questions(
    held_out, per_domain=config.eval.per_domain, damaged=damaged
  )
  if not (config.eval.inputs or config.eval.corruptions):
    raise ValueError(
      'Expected config.eval.inputs or config.eval.corruptions, found both '
      f'empty; name an input of {", ".join(benchmarks.INPUTS)}.'
    )
  found = []
  for shown in config.eval.inputs:
    found += benchmarks.variant(items, input=shown)
  for shown, change in config.eval.corruptions:
    found += _changed(config, items, shown, change)
  return benchmarks.Benchmark(
    found,
    held_out,
    {judge.JUDGE: benchmarks.by_rules},
    needs_judge=True,
    notes=notes,
    damaged=damaged,
  )


def _changed(
  config, items: Sequence[benchmarks.Item], shown: str, change: str
) -> list[benchmarks.Item]:
  """The items with changed media, once for each draw of the noise."""
  # What else is done to media is done in one way.
  seeds = config.eval.noise_seeds if change in corrupt.LEVELS else 1
  return [
    item
    for seed in range(seeds)
    for item in benchmarks.variant(
      items, input=shown, corruption=change, seed=seed
    )
  ]


def _with_changes(
  config, benchmark: benchmarks.Benchmark
) -> benchmarks.Benchmark:
  """A benchmark that shows what it shows with changed media as well."""
  if benchmark.name == benchmarks.SYNTHETIC or not benchmark.rules:
    return benchmark  # It has them, or answers are measured and not right.
  items = list(benchmark.items)
  for shown, change in config.eval.corruptions:
    alike = [
      item
      for item in benchmark.items
      if item.input == shown
      and item.corruption == benchmarks.CLEAN
      and item.reading == benchmarks.GENERATED
    ]
    if alike:
      items += _changed(config, alike, shown, change)
  return dataclasses.replace(benchmark, items=items)


def _captions(config, workdir: str, frames) -> benchmarks.Benchmark:
  del frames
  held_out, damaged, notes = _held_out(config, workdir)
  items = own_items.captions(held_out, damaged=damaged)
  return benchmarks.Benchmark(
    items, held_out, {}, notes=notes, damaged=damaged
  )


def _humanml3d_captions(config, workdir: str, frames) -> benchmarks.Benchmark:
  """The cases of published tables, of the folder that the data are made of."""
  del frames
  name = humanml3d_captions.BENCHMARKS[humanml3d_captions.RAW]
  if config.data.name != 'folder':
    raise ValueError(
      f"Expected data.name=folder for the benchmark {name}, found "
      f'{config.data.name}; its cases are those of a folder in '
      "HumanML3D's layout, see configs/mocap.py."
    )
  if not config.data.path:
    raise ValueError(
      f'Expected --config.data.path=DIR for the benchmark {name}, found none; '
      'give the folder that the data were made of.'
    )
  index = config.eval.humanml3d_captions.index
  without = humanml3d_captions.humanact12(index) if index else ()
  population = humanml3d_captions.of_folder(
    config.data.path, split=config.eval.split, without=without
  )
  held_out, damaged, notes = _held_out(config, workdir)
  return benchmarks.Benchmark(
    humanml3d_captions.items(population, held_out, damaged=damaged),
    held_out,
    {},
    notes=(population.summary(), *notes),
    damaged=damaged,
  )


def _vimonet_bench(config, workdir: str, frames) -> benchmarks.Benchmark:
  """The items of a file, or as many of VIMOS-Synth."""
  files = config.eval.vimonet_bench
  if files.questions:
    _check_given(files, 'vimonet_bench', 'media')
    found = vimonet_bench.read(files.questions, files.media, frames)
    if found.name in BENCHMARKS and found.name != _VIMONET_BENCH:
      raise ValueError(
        'Expected config.eval.vimonet_bench.questions with a name that is no '
        f"other benchmark's, found {files.questions}; its items would be "
        f'counted as {found.name}, so rename the file.'
      )
    return found
  held_out, damaged, notes = _held_out(config, workdir)
  return benchmarks.Benchmark(
    vimonet_bench.synthetic(
      held_out, name='vimonet-bench-synth', damaged=damaged
    ),
    held_out,
    {judge.JUDGE: benchmarks.by_rules},
    needs_judge=True,
    notes=notes,
    damaged=damaged,
  )


def _babel_qa(config, workdir: str, frames) -> benchmarks.Benchmark:
  del workdir, frames
  files = config.eval.babel_qa
  _check_given(files, 'babel_qa', 'questions', 'motions', 'vocabulary')
  vocabulary = babel_questions.read_vocabulary(files.vocabulary)
  asked = babel_questions.read(files.questions, vocabulary)
  if files.split_ids:
    asked = babel_questions.take_split(asked, files.split_ids, files.split)
  train = babel_questions.read(files.train) if files.train else ()
  if train and files.split_ids:  # A file may have the questions of all splits.
    train = babel_questions.take_split(train, files.split_ids, 'train')
  found = babel_qa.benchmark(
    asked,
    files.motions,
    vocabulary,
    split=files.split,
    train=train,
    up=files.get('up') or None,
  )
  if files.split_ids:
    return found
  note = (
    f'Without split_ids all {len(asked)} questions of {files.questions} are '
    f'taken for those of {files.split}.'
  )
  return dataclasses.replace(found, notes=(note, *found.notes))


def _activitynet_qa(config, workdir: str, frames) -> benchmarks.Benchmark:
  del workdir
  files = config.eval.activitynet_qa
  _check_given(files, 'activitynet_qa', 'questions', 'answers', 'videos')
  return activitynet_qa.benchmark(
    activitynet_qa.read(files.questions, files.answers),
    files.videos,
    frames,
    split=files.split,
  )


def _mv_bench(config, workdir: str, frames) -> benchmarks.Benchmark:
  del workdir
  files = config.eval.mvbench
  _check_given(files, 'mvbench', 'questions', 'videos')
  return mv_bench.benchmark(
    mv_bench.read(files.questions),
    files.videos,
    frames,
    rotate=files.rotate,
    choose=files.choose,
  )


def _check_given(files, name: str, *fields: str) -> None:
  if missing := [field for field in fields if not files[field]]:
    raise ValueError(
      f'Expected config.eval.{name}.{missing[0]}, found it empty; give '
      f'--config.eval.{name}.{missing[0]}=PATH.'
    )


# How each is opened: config, workdir, frames -> benchmark.
BENCHMARKS: Mapping[str, Callable[..., benchmarks.Benchmark]] = {
  benchmarks.SYNTHETIC: _synthetic,
  benchmarks.CAPTIONS: _captions,
  humanml3d_captions.BENCHMARKS[humanml3d_captions.RAW]: _humanml3d_captions,
  _VIMONET_BENCH: _vimonet_bench,
  babel_qa.NAME: _babel_qa,
  activitynet_qa.NAME: _activitynet_qa,
  mv_bench.NAME: _mv_bench,
}
