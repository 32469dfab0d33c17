"""The default task: data, the stages in their order, evaluation, report.

Everything lies in one work folder and every part knows when it is finished, so
that the same command goes on after an interruption.

    config.json  data/  tokenizer.model  statistics.npz
    motion/  language/  video/  align/  instruct/
    model/  predictions/  verdicts/  scores.json  report.html
"""

import functools
import os
from collections.abc import Collection, Mapping, Sequence

import jax
import tqdm

from vimonet_jax import (
  base,
  claim,
  cluster,
  disk,
  evaluation,
  outcome,
  sharding,
  weight_files,
)
from vimonet_jax import corpus as corpora
from vimonet_jax.data import (
  augment,
  batches,
  dataset,
  records,
  skipped,
  sources,
  tokenizer,
  views,
)
from vimonet_jax.eval import benchmarks, own_items, scoring
from vimonet_jax.eval import run as eval_run
from vimonet_jax.infer import engine, model_folder
from vimonet_jax.models import quantize
from vimonet_jax.train import loop, optimizer, stages

# Packed rows that are filled at the same time. Of VIMOS's lengths in rows of
# 2560, 2 leave 13 % for padding, 16 7 % and 64 5 %; whether a conversation goes
# where it fits first or best makes no difference of more than 0.5 %.
_BINS = 64


def run(config, workdir: str) -> int:
  """Everything, from nothing to the report.

  Raises:
    ValueError: settings or data do not fit; as far as can be told, before
      anything is made.
  """
  # What one process does not find, such as weights, is said in all of them.
  with cluster.alike('what is to be made is checked'):
    check(config, workdir)
  cluster.check_shared(workdir)
  with disk.says_when_full(workdir):
    make(config, workdir)
    evaluation.evaluate(config, workdir)
    return evaluation.run_report(config, workdir)


def check(config, workdir: str) -> None:
  """Raises a ValueError for what can be told before anything is made."""
  claim.check(config, workdir)
  outcome.check_not_assembled(workdir)
  mesh = sharding.make_mesh(**config.mesh)
  _check_frozen(
    config,
    {name: _check_stage(config, name, mesh) for name in config.stage_names},
  )


def make(config, workdir: str) -> None:
  """Data, all stages, and model/: all that comes before it is asked."""
  corpus = corpora.prepare(config, workdir)
  for name in config.stage_names:
    train_stage(config, workdir, name, corpus)
  export(config, workdir)


def _check_stage(config, name: str, mesh) -> tuple[set[str], set[str]]:
  """Raises a ValueError for settings that would only fail in their turn.

  Returns:
    Paths that the stage trains, and those that it keeps frozen.
  """
  if name not in config:
    there = ', '.join(name for name in stages.NAMES if name in config)
    raise ValueError(
      f'Expected config.stage_names among the stages of the configuration '
      f'({there}), found {name!r}; correct it or use another --config.'
    )
  stage = config[name]
  words = base.file(config, 'llm', 'tokenizer.model')
  model = corpora.stage_model(
    config,
    name,
    vocab_size=tokenizer.Tokenizer.load(words).vocab_size if words else 1,
  )
  base.check(config, model, stage=name)
  made = stages.make(name, stage, model)
  shapes = sharding.unbox(made.abstract()[0])
  trainable, frozen = optimizer.split(shapes, made.trainable)
  jax.eval_shape(stages.make_optimizer(stage).init, trainable)
  _augment(config)
  _check_parts(name, stage)
  shares, _ = sharding.shares(mesh, config.data.get('shares', 0))
  for rows in stages.batch_kinds(stage).values() or [stage]:
    _share_of(rows.rows, mesh, shares, stage.get('grad_accumulation', 1))
  return set(trainable), set(quantize.made_of(frozen))


def _check_parts(name: str, stage) -> None:
  """Raises a ValueError for mixes of a part of the records that cannot be."""
  for mix, fields in stage.mixes.items():
    if not (part := fields.get('part')):
      continue
    if 'packed' in stages.batch_kinds(stage):
      raise ValueError(
        f'Expected all records in the packed rows of stage {name}, found '
        f'mixes.{mix}.part={part}; set --config.{name}.packed.rows=0.'
      )
    if len(part) != 2 or not 0 <= part[0] < part[1]:
      raise ValueError(
        f'Expected {name}.mixes.{mix}.part as (number, parts) with a number '
        f'from 0 to parts - 1, found {part}; (0, 2) is one half, (1, 2) the '
        'other.'
      )


def _check_frozen(
  config, paths: Mapping[str, tuple[set[str], set[str]]]
) -> None:
  """Raises a ValueError where a stage would keep random weights frozen.

  Args:
    config: of the run.
    paths: stage -> what it trains and what it keeps frozen, in their order.
  """
  there = set(weight_files.Lazy(base.weights(config)))
  for name, (trainable, frozen) in paths.items():
    parts = {base.part_of(path) for path in frozen - there}
    if lost := [part for part in base.PARTS if part in parts]:
      flags = ' '.join(f'--config.base.{part}=FOLDER' for part in lost)
      raise ValueError(
        f'Expected weights for all that stage {name} keeps frozen, found '
        f'none of {", ".join(lost)}; name folders that --task=convert wrote '
        f'({flags}), or a configuration whose earlier stages train them.'
      )
    there |= trainable


# --- Training ----------------------------------------------------------------


def train_stage(
  config, workdir: str, name: str, corpus: corpora.Corpus
) -> None:
  """Trains one stage to its end, on the weights of those before it."""
  stage = config[name]
  model = corpora.stage_model(
    config, name, vocab_size=corpus.layout.tokenizer.vocab_size
  )
  mesh = sharding.make_mesh(**config.mesh)
  before = config.stage_names[: config.stage_names.index(name)]
  passing_over = corpora.passing_over(config, os.path.join(workdir, name))
  loop.train(
    stages.make(name, stage, model),
    stage_batches(config, name, corpus, mesh, passing_over),
    folder=os.path.join(workdir, name),
    steps=stage.steps,
    tx=stages.make_optimizer(stage),
    seed=config.seed,
    mesh=mesh,
    init=outcome.weights(config, workdir, before),
    grad_accumulation=stage.get('grad_accumulation', 1),
    checkpoint_steps=stage.checkpoint_steps,
    evaluate=_probe(config, name, corpus, model, passing_over),
  )


def _share_of(
  rows: int, mesh: jax.sharding.Mesh, shares: int = 1, parts: int = 1
) -> int:
  """Rows of one share of the data, of those that all of them make.

  Args:
    rows: of a batch.
    mesh: among which they are divided.
    shares: of the data.
    parts: of the batch, which are divided one after another.
  """
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  if rows % (shards * parts) or rows % shares:
    times = f' times grad_accumulation={parts}' * (parts > 1)
    raise ValueError(
      f'Expected rows that divide among {shards} shards{times} and {shares} '
      f'shares of the data, found {rows}; change the rows, the mesh or '
      'data.shares.'
    )
  return rows // shares


def _augment(config) -> augment.Augment | None:
  variants = config.data.get('augment')
  return augment.Augment(**variants) if variants else None


def stage_batches(
  config,
  name: str,
  corpus: corpora.Corpus,
  mesh,
  passing_over: skipped.Skipped | None = None,
):
  """Endless batches of this process's rows of a stage.

  Who reads the data in as many shares gets the same batches, in however many
  processes.

  Args:
    config: of the run.
    name: of the stage.
    corpus: its data.
    mesh: among which the rows divide.
    passing_over: takes damaged records; None names them nowhere.
  """
  shares, mine = sharding.shares(mesh, config.data.get('shares', 0))
  threads = config.data.read_threads
  passing_over = passing_over or corpora.passing_over(config, None)
  made = {
    share: _share_batches(
      config,
      name,
      corpus,
      mesh,
      process_index=share,
      process_count=shares,
      read_threads=threads and max(1, threads // len(mine)),
      skipped=passing_over,
    )
    for share in mine
  }
  return batches.join(made) if shares > 1 else made[0]


def _share_batches(
  config,
  name: str,
  corpus: corpora.Corpus,
  mesh,
  *,
  process_count: int,
  **reading,
):
  """Endless batches of one share of a stage's rows."""
  stage, train = config[name], corpus.splits['train']
  # Stages that read the same records must not do so in the same order.
  seed = config.seed + 100 * stages.NAMES.index(name)
  share = {'process_count': process_count, **reading}
  if name == 'motion':
    return batches.motion_windows(
      _with(train, ['motion'], 'stage motion'),
      statistics=corpus.statistics,
      rows=_share_of(stage.rows, mesh, process_count),
      window=stage.window,
      augment=_augment(config),
      seed=seed,
      **share,
    )
  if stage.get('stand_in'):  # Words stand where clips would.
    train = batches.FunctionSource(
      functools.partial(corpus.words, 'train'), stage.stand_in
    )
  mixes = _mixes(config, stage, train, mesh, process_count)
  return batches.conversations(
    mixes,
    layout=corpus.layout,
    statistics=corpus.statistics,
    seed=seed,
    # Training must not wait for a burst.
    prefetch=2 + max(mix.bins // mix.rows for mix in mixes),
    **share,
  )


def _mixes(config, stage, train, mesh, shares: int) -> list[batches.Mix]:
  """A kind of batch for each mix of a stage, or one that they all share."""
  kinds = stages.batch_kinds(stage)

  def made(name: str, view, **changes) -> batches.Mix:
    kind = kinds[name]
    # In packed rows slots are for those who have clips.
    needed = kind.clips if name in stage.mixes else ()
    return batches.Mix(
      _with(train, needed, f'mix {name}', _part(stage, name)),
      view,
      rows=_share_of(kind.rows, mesh, shares),
      length=kind.length,
      has_words=bool(stage.get('stand_in')),
      augment=_augment(config),
      **{f'{medium}_clips': clips for medium, clips in kind.clips.items()},
      **changes,
    )

  shown = {
    name: views.View(
      media=mix.media,
      caption_share=mix.caption_share,
      max_turns=mix.max_turns,
      domain_weights=mix.get('domain_weights', {}),
    )
    for name, mix in stage.mixes.items()
  }
  weights = {name: mix.weight for name, mix in stage.mixes.items()}
  if 'packed' not in kinds:
    return [made(name, shown[name], weight=weights[name]) for name in shown]
  video = corpora.model(config, vocab_size=1).video
  return [
    made(
      'packed',
      views.Choice(tuple(shown.values()), tuple(weights.values())),
      frames_shape=(video.frames, video.image_size, video.image_size, 3),
      bins=_BINS,
    )
  ]


def _part(stage, name: str) -> tuple[int, int]:
  """Which records a mix shows: all, or every n-th from its `part`."""
  part = name in stage.mixes and stage.mixes[name].get('part')
  return part or (0, 1)


def _with(
  train: batches.Source,
  media: Collection[str],
  shown_by: str,
  part: tuple[int, int] = (0, 1),
) -> batches.Source:
  """A part of the records, of which those without the media are not read.

  Where all have them, or nobody noted who has, it is the part as it is.
  """
  number, parts = part
  whole = batches.part(train, number, parts) if parts > 1 else train
  if not isinstance(train, dataset.Source):
    return whole
  arrays = ['frames' if medium == 'video' else medium for medium in media]
  having = train.having(*arrays)
  if having is None or len(having) == len(train):
    return whole
  kept = [i for i in having if i % parts == number]
  if not kept:
    raise ValueError(
      f'Expected records with {" and ".join(media)} for {shown_by}, found none '
      f'of {len(whole)}; leave it out, or add a source that has them.'
    )
  return batches.only(train, kept)


def _probe(
  config,
  name: str,
  corpus: corpora.Corpus,
  model,
  passing_over: skipped.Skipped,
):
  """How a stage's weights answer validation questions; None for `motion`.

  The questions are asked first and alone: what a row's later turns can copy
  from earlier ones does not count. Damaged records are passed over as those
  that are trained on.
  """
  if name == 'motion' or not config.eval.probe_per_domain:
    return None
  stage = config[name]
  media = max((mix.media for mix in stage.mixes.values()), key=len)
  shown = next(
    k for k, v in benchmarks.INPUTS.items() if set(v) == set(media)
  )
  held = corpus.splits['val']
  if stage.get('stand_in'):
    held = batches.FunctionSource(
      functools.partial(corpus.words, 'val'), len(held)
    )
  bundle = model_folder.Bundle(model, corpus.layout, corpus.statistics)

  def evaluate(flat, mutable, step) -> dict[str, float]:
    del step
    first = next(passing_over.sound(held), None)
    if first is None or not any(turn.fact for turn in first.turns):
      return {}
    val = batches.without(held, corpora.damaged(held, passing_over))
    items = [
      item
      for item in own_items.questions(
        val, per_domain=config.eval.probe_per_domain
      )
      if set(records.DOMAINS[item.domain]) <= set(media)
    ]
    items = benchmarks.variant(items, input=shown)
    asked = [benchmarks.prompt_record(item, val) for item in items]
    asking = engine.Engine(bundle, {**flat, **mutable})
    answers = []
    for start in tqdm.trange(
      0,
      len(asked),
      config.eval.rows,
      desc=f'{name}: probe',
      leave=False,
      disable=not cluster.is_first(),
    ):
      cluster.stop_if_told()
      answers += asking.answer(
        asked[start : start + config.eval.rows],
        max_new_tokens=config.eval.max_new_tokens,
        max_rows=config.eval.rows,
      )
    lines = eval_run.as_predictions(items, answers)
    rows = scoring.score(items, lines, scoring.verdicts(items, lines))
    return {row['domain']: row['accuracy'] for row in rows}

  return evaluate


def export(config, workdir: str) -> None:
  """Gathers what inference needs in model/; adapters become weights.

  Raises:
    ValueError: the last stage was trained on other weights than are there.
  """
  is_made = os.path.exists(os.path.join(workdir, 'model', 'config.json'))
  if cluster.from_first('the model is made', is_made):
    return
  outcome.save(config, outcome.gather(config, workdir), workdir)


def show_record(
  config, workdir: str, *, record: str, output: str | None
) -> int:
  """Writes pictures and turns of one record, given as `split:number`."""
  from vimonet_jax.apps import show

  split, _, number = record.partition(':')
  if split not in sources.SPLITS or not number.isdecimal():
    raise ValueError(
      f'Expected --record as split:number, e.g. test:0, found {record!r}.'
    )
  if config.data.name == 'synthetic':
    held = _made(config, split)
  else:
    corpora.build(config, workdir)
    held = corpora.open_split(config, workdir, split)
  if int(number) >= len(held):
    raise ValueError(
      f'Expected --record below {split}:{len(held)}, found {record}; the split '
      f'has {len(held)} records.'
    )
  folder = output or os.path.join(workdir, 'show', f'{split}-{number}')
  for path in show.run(held[int(number)], folder):
    print(path)
  return 0


def held_out(
  config, workdir: str, hidden: Sequence[str] = ()
) -> Sequence[records.Record]:
  """Records that no stage has trained on; none where no dataset is there.

  Of a dataset, arrays that are `hidden` are not decoded.
  """
  if config.data.name == 'synthetic':
    return _made(config, 'test')
  try:
    return corpora.open_split(config, workdir, 'test', hidden)
  except FileNotFoundError:
    return ()


def _made(config, split: str) -> batches.FunctionSource:
  """A split of VIMOS-Synth, which needs no dataset."""
  made = corpora.dataset(config.data)
  items = made.splits()[split]
  return batches.FunctionSource(lambda i: made.make(items[i]), len(items))
