"""A stage's real step on packed rows against padded batches.

    python tests/benchmarks/packed_rows.py                 # VIMOS's lengths
    python tests/benchmarks/packed_rows.py --preset=tiny   # the tiny preset

Packed: as many conversations a row as fit. Padded: the same conversations in
batches of all kinds, one a row, and all rows as long as the longest of the
batch needs. Mixes: as the stage has it without packed rows, each batch of one
kind, in rows of that kind's length. What counts is useful tokens a second,
those that are no padding. Batches are made before the race, which is one of
steps and not of input pipelines; a turn is all of them.

VIMOS's lengths are those of configs/vicuna7b.py on VIMOS-Synth: 10 to 49 places
of a motion, 2048 of a video. Of its questions 246k are on motions alone and
100k on motions with videos (the paper's table I), and so they are drawn. The
networks around them are small.
"""

import argparse
import runpy
import sys
import tempfile

import race

# Of rows and lengths of padded batches, of which each shape is compiled.
_ROWS, _STEP = 4, 64
_CLIPS = ('motion', 'frames')


PRESETS = {
  'vimos': {
    'rows': 2, 'length': 2560, 'motion_clips': 8, 'video_clips': 1,
    'clips': 200, 'batches': 4, 'rounds': 3,
  },
  'tiny': {
    'rows': 6, 'length': 1024, 'motion_clips': 8, 'video_clips': 6,
    'clips': 800, 'batches': 10, 'rounds': 5,
  },
}  # fmt: skip


def main() -> None:
  args = _args()
  if args.side:
    _side(args)
    return
  with tempfile.TemporaryDirectory() as folder:
    workdir = args.workdir or folder
    _corpus(args, workdir)  # Built once.
    found = race.run(
      {
        side: race.side(side, f'--workdir={workdir}')
        for side in ('packed', 'padded', 'mixes')
      },
      rounds=args.rounds,
      mixed=args.mixed,
    )
  race.show(
    f'Step of stage {args.stage}, lengths of {args.preset}',
    found,
    unit='useful tokens',
    ours='packed',
    path=args.json,
    settings=vars(args),
  )
  for name, x in found.items():
    about = x['about']
    print(
      f'{name}: {about["conversations"]} conversations in '
      f'{about["batches"]} batches, '
      f'{about["share"]:.1%} of its tokens are no padding, rows of '
      f'{" or ".join(about["shapes"])}'
    )


def _args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  race.add_flags(parser, PRESETS)
  parser.add_argument('--stage', default='instruct')
  parser.add_argument('--workdir', default='', help='where the clips are kept')
  return race.parse(parser, PRESETS)


def _config(args):
  name = {'vimos': 'vicuna7b', 'tiny': 'tiny'}[args.preset]
  path = race.ROOT / 'configs' / f'{name}.py'
  config = runpy.run_path(str(path))['get_config']()
  config.data.update({'train': args.clips, 'val': 16, 'test': 16})
  stage = config[args.stage]
  stage.packed.update({name: getattr(args, name) for name in stage.packed})
  if args.preset == 'vimos':
    small = {'dtype': 'float32', 'heads': 4}
    config.text.vocab_size = 2048
    config.model.llm.update(
      {
        **small, 'width': 512, 'mlp_width': 1376, 'layers': 2, 'unroll': 2,
        'kv_heads': 4,
      }
    )  # fmt: skip
    config.model.video.update(
      {**small, 'width': 64, 'mlp_width': 128, 'layers': 1, 'remat': False}
    )
    stage.mixes = {
      name: {**stage.mixes[name], 'weight': weight, 'rows': _ROWS}
      for name, weight in (('motion', 246.0), ('both', 100.0))
    }
  return config


def _corpus(args, workdir: str):
  from vimonet_jax import corpus

  return corpus.prepare(_config(args), workdir)


def _side(args) -> None:
  import itertools

  import jax
  import numpy as np

  from vimonet_jax import allocator, pipeline, sharding
  from vimonet_jax import corpus as corpora
  from vimonet_jax.data import batches
  from vimonet_jax.train import stages
  from vimonet_jax.train import step as step_lib

  allocator.keep_freed()
  corpus = _corpus(args, args.workdir)
  config = _config(args)
  stage_config = config[args.stage]
  if args.side == 'mixes':
    stage_config.packed.rows = 0
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  model = corpora.stage_model(
    config, args.stage, vocab_size=corpus.layout.tokenizer.vocab_size
  )
  stage = stages.make(args.stage, stage_config, model)
  tx = stages.make_optimizer(stage_config)
  stream = pipeline.stage_batches(config, args.stage, corpus, mesh)
  made = [
    batches.without_ids(batch)
    for batch in itertools.islice(stream, args.batches)
  ]
  if args.side == 'padded':
    made = [_alone(batch, corpus.layout) for batch in made]
  useful = sum(int(np.sum(x['segment_ids'] > 0)) for x in made)
  with sharding.use(mesh):
    target, where = step_lib.layout(stage, tx, mesh)
    params = jax.jit(lambda key: stage.init(key)[0])(jax.random.key(0))
    trainables = {path: params[path] for path in target.trainables}
    state = step_lib.State(
      jax.numpy.int32(0), trainables, jax.jit(tx.init)(trainables), {}
    )
    frozen = {path: params[path] for path in where}
    step = step_lib.jit(stage, tx, target, where, mesh)

    def advance():
      nonlocal state
      for batch in made:
        state, metrics = step(state, frozen, batch, jax.random.key(0))
        jax.device_get(metrics)

    race.serve(
      lambda: {'seconds': race.timed(advance), 'work': useful},
      on=race.of_jax(),
      warm_up=1,  # Every shape is compiled before the race.
      shapes=sorted({str(x['tokens'].shape) for x in made}),
      share=useful / sum(x['tokens'].size for x in made),
      conversations=sum(int(x['segment_ids'].max(1).sum()) for x in made),
      batches=len(made),
    )


def _alone(batch, layout):
  """The same conversations, one a row, in rows as long as the longest needs."""
  from vimonet_jax.data import packing

  sys.path.insert(0, str(race.ROOT / 'tests' / 'data'))
  import samples

  slots = {
    'motion_slots': layout.motion_slots,
    'video_tokens': layout.video_tokens,
  }
  rows = [[made] for row in samples.unpack(batch, **slots) for made in row]
  longest = max(len(made['tokens']) for (made,) in rows)
  slots_of = [int(any(key in made for (made,) in rows)) for key in _CLIPS]
  shape = packing.RowShape(-(-longest // _STEP) * _STEP, *slots_of)
  # The last rows of a batch are empty where it has fewer conversations.
  rows += [[]] * (-len(rows) % _ROWS)
  return packing.finish(packing.pack(rows, shape), **slots)


if __name__ == '__main__':
  main()
