"""A step of stage 2 on text against transformers + peft, and against itself.

    python tests/benchmarks/train_step.py                # a small decoder
    python tests/benchmarks/train_step.py --preset=7b --peak-tflops=989

The same decoder and adapter, the same full rows, AdamW, no dropout. PyTorch has
its fastest attention (sdpa), and torch.compile with --compile. A third line is
our decoder with all weights trained: what LoRA saves; for that of 7b it takes
more than one GPU, so --all asks for it. Prints a table and writes JSON; MFU is
4 N tokens/s over the peak, N the decoder's parameters.
"""

import argparse
import pathlib
import tempfile

import decoder
import race

PRESETS = {
  'small': {
    **decoder.SMALL, 'rows': 2, 'length': 512, 'dtype': 'float32',
    'remat': 'none', 'unroll': 4, 'rounds': 15,
  },
  '7b': {
    **decoder.VICUNA, 'rows': 1, 'length': 4096, 'dtype': 'bfloat16',
    'remat': 'full', 'unroll': 1, 'rounds': 20,
  },
}  # fmt: skip
LEARNING_RATE = 2e-4


def main() -> None:
  args = _args()
  if args.side:
    decoder.set_precision(args)
    repeat = SIDES[args.side](args)
    first = repeat()
    race.serve(
      repeat,
      on=decoder.place(args),
      loss=first['loss'],
      first_s=first['seconds'],
    )
    return
  names = {
    'ours': decoder.ours(args),
    'torch': 'transformers + peft' + ', compiled' * args.compile,
    'all': 'ours, all weights trained',
  }
  left_out = set(args.without)
  if not args.all and not decoder.is_small(args):
    left_out.add('all')
  with tempfile.TemporaryDirectory() as folder:
    decoder.share(args, folder)
    found = race.run(
      {
        name: race.side(side, f'--folder={folder}')
        for side, name in names.items()
        if side not in left_out
      },
      rounds=args.rounds,
      mixed=args.mixed,
    )
  race.show(
    f'Step of LoRA, {args.rows} rows of {args.length}, '
    f'{decoder.described(args)}',
    found,
    unit='tokens',
    ours=names['ours'],
    path=args.json,
    settings=vars(args),
  )
  if decoder.is_small(args):  # Of the same weights.
    losses = [
      f'{name} {x["about"]["loss"]:.6f}'
      for name, x in found.items()
      if name != names['all']
    ]
    print('first losses:', ', '.join(losses))
  if args.peak_tflops:
    for name, x in found.items():
      times = 6 if name == names['all'] else 4
      flops = times * decoder.parameters(args) * x['speed']
      mfu = flops / args.peak_tflops / 1e12
      print(f'MFU of {name}: {mfu:.1%} ({times} N a token)')


def _args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  decoder.add_flags(parser, PRESETS)
  parser.add_argument('--without', nargs='*', default=[], help='all, torch')
  parser.add_argument('--all', action='store_true', help='of 7b, too')
  parser.add_argument('--peak-tflops', type=float, default=0.0)
  return race.parse(parser, PRESETS)


def _rows(args):
  """Tokens, of which the second half of a row is the answer."""
  import numpy as np

  rng = np.random.default_rng(0)
  return rng.integers(3, args.vocab, (args.rows, args.length), np.int32)


def _ours(args):
  """Returns what advances by a step and tells of it."""
  import jax
  import jax.numpy as jnp

  from vimonet_jax import allocator, sharding
  from vimonet_jax.train import optimizer, stages
  from vimonet_jax.train import step as step_lib

  allocator.keep_freed()  # As main does.
  trains_all = args.side == 'all'
  changes = {'quantize': ''} if trains_all else {}
  stage = stages.tokens(
    'instruct',
    decoder.config(args, adapters=not trains_all, remat=args.remat, **changes),
    ('llm/.*' if trains_all else 'llm/.*/lora_.*',),
    media=(),
    # Frozen weights as they compute; what is trained is float32.
    frozen_dtype=args.dtype,
  )
  tx = optimizer.make(
    [optimizer.Group('.*', LEARNING_RATE)], steps=1000, schedule='constant'
  )
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  with sharding.use(mesh):
    target, where = step_lib.layout(stage, tx, mesh)
    flat = decoder.weights(args, {**target.trainables, **where})
    trainables = {path: flat[path] for path in target.trainables}
    state = step_lib.State(
      jnp.int32(0), trainables, jax.jit(tx.init)(trainables), {}
    )
    frozen = {path: flat[path] for path in where}
    del flat
    step = step_lib.jit(stage, tx, target, where, mesh)
    tokens = jnp.asarray(_rows(args))
    batch = {
      'tokens': tokens,
      'positions': jnp.broadcast_to(jnp.arange(args.length), tokens.shape),
      'segment_ids': jnp.ones_like(tokens),
      'media_index': jnp.full_like(tokens, -1),
      'loss_mask': jnp.broadcast_to(
        jnp.arange(args.length) >= args.length // 2, tokens.shape
      ),
    }
  key, losses = jax.random.key(0), []

  def advance():
    nonlocal state
    with sharding.use(mesh):
      state, metrics = step(state, frozen, batch, key)
    total, weight = jax.device_get(metrics['loss'])
    losses.append(float(total / weight))

  def repeat():
    seconds = race.timed(advance)
    return {'seconds': seconds, 'work': tokens.size, 'loss': losses[-1]}

  return repeat


def _torch(args):
  """As `_ours`."""
  import peft
  import torch

  llama = decoder.of_torch(args, length=args.length)
  adapter = pathlib.Path(args.folder) / 'adapter'
  if adapter.exists():
    model = peft.PeftModel.from_pretrained(llama, adapter, is_trainable=True)
  else:
    model = peft.get_peft_model(
      llama,
      peft.LoraConfig(
        r=decoder.RANK,
        lora_alpha=decoder.ALPHA,
        target_modules=[f'{name}_proj' for name in decoder.TARGETS],
      ),
    )
  if args.remat == 'full':
    llama.gradient_checkpointing_enable({'use_reentrant': False})
    model.enable_input_require_grads()
  model.train()
  tokens = torch.from_numpy(_rows(args)).long().to(llama.device)
  labels = tokens.clone()
  labels[:, : args.length // 2] = -100
  trained = [x for x in model.parameters() if x.requires_grad]
  adam = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
  forward = torch.compile(model) if args.compile else model
  losses = []

  def advance():
    adam.zero_grad(set_to_none=True)
    # As transformers' Trainer does: peft keeps adapters in float32, and without
    # it their products would be in float32, too.
    with torch.autocast(
      llama.device.type, torch.bfloat16, enabled=args.dtype == 'bfloat16'
    ):
      loss = forward(input_ids=tokens, labels=labels, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    adam.step()
    losses.append(float(loss.detach()))
    if llama.device.type == 'cuda':
      torch.cuda.synchronize()

  def repeat():
    seconds = race.timed(advance)
    return {'seconds': seconds, 'work': tokens.numel(), 'loss': losses[-1]}

  return repeat


SIDES = {'ours': _ours, 'all': _ours, 'torch': _torch}


if __name__ == '__main__':
  main()
