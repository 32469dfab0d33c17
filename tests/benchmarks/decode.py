"""Greedy answers of a decoder against transformers' generate.

    python tests/benchmarks/decode.py                    # a small decoder
    python tests/benchmarks/decode.py --preset=7b --peak-gb-s=4800

The same prompts, as many new tokens, and with a small decoder the same weights,
which ours are rounded from with --quantize. What is timed is a whole answer,
prompt included, until its tokens are on the host. What one token takes is the
difference to an answer of one token, and it reads all weights once: with
--peak-gb-s that is compared with the memory's bandwidth.
"""

import argparse
import tempfile

import decoder
import race

PRESETS = {
  'small': {
    **decoder.SMALL, 'rows': 1, 'prompt': 128, 'new': 128, 'dtype': 'float32',
    'unroll': 4, 'rounds': 10,
  },
  '7b': {
    **decoder.VICUNA, 'rows': 1, 'prompt': 512, 'new': 128,
    'dtype': 'bfloat16', 'unroll': 1, 'rounds': 10,
  },
}  # fmt: skip


def main() -> None:
  args = _args()
  if args.side:
    decoder.set_precision(args)
    {'ours': _ours, 'torch': _torch}[args.side](args)
    return
  ours = decoder.ours(args)
  theirs = 'transformers' + ', compiled' * args.compile
  with tempfile.TemporaryDirectory() as folder:
    decoder.share(args, folder)
    commands = {
      ours: race.side('ours', f'--folder={folder}'),
      theirs: race.side('torch', f'--folder={folder}'),
    }
    found = race.run(commands, rounds=args.rounds, mixed=args.mixed)
  race.show(
    f'{args.rows} greedy answers of {args.new} tokens to prompts of '
    f'{args.prompt}, {decoder.described(args)}',
    found,
    unit='new tokens',
    ours=ours,
    path=args.json,
    settings=vars(args),
  )
  for name, x in found.items():
    seconds = race.median(x, 'token_s')
    speed = x['about']['bytes'] / seconds / 1e9
    share = f', {speed / args.peak_gb_s:.1%}' if args.peak_gb_s else ''
    print(
      f'{name}: {1e3 * seconds:.2f} ms a step of {args.rows} tokens, weights '
      f'at {speed:,.1f} GB/s{share}'
    )
  if decoder.is_small(args):  # Of the same weights.
    answers = [x['about']['tokens'] for x in found.values()]
    same = sum(a == b for a, b in zip(*answers, strict=True))
    print(f'rows with the same answer: {same} of {args.rows}')


def _args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  decoder.add_flags(parser, PRESETS)
  parser.add_argument('--peak-gb-s', type=float, default=0.0)
  return race.parse(parser, PRESETS)


def _prompts(args):
  import numpy as np

  rng = np.random.default_rng(0)
  return rng.integers(3, args.vocab, (args.rows, args.prompt), np.int32)


def _serve(args, ask, size: float) -> None:
  """Answers whenever asked.

  Args:
    args: flags.
    ask: number of new tokens -> them, [rows, new], on the host.
    size: bytes of the weights that every token reads.
  """

  def repeat():
    seconds = race.timed(lambda: ask(args.new))
    one = race.timed(lambda: ask(1))
    return {
      'seconds': seconds,
      'work': args.rows * args.new,
      'token_s': (seconds - one) / (args.new - 1),
    }

  first_s = race.timed(lambda: ask(args.new))
  tokens = ask(args.new).tolist()
  race.serve(
    repeat,
    on=decoder.place(args),
    first_s=first_s,
    tokens=tokens,
    bytes=size,
  )


def _ours(args) -> None:
  import functools

  import jax
  import jax.numpy as jnp

  from vimonet_jax import sharding
  from vimonet_jax.infer import engine, generate
  from vimonet_jax.models import vimonet

  model = decoder.config(args, adapters=False)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  wanted = engine.layout(model, mesh)
  wanted = {name: x for name, x in wanted.items() if name.startswith('llm/')}
  flat = decoder.weights(args, wanted)
  variables = engine.variables(vimonet.unstack(flat, model))
  tokens = jnp.asarray(_prompts(args))
  batch = {
    'tokens': tokens,
    'positions': jnp.broadcast_to(jnp.arange(args.prompt), tokens.shape),
    'segment_ids': jnp.ones_like(tokens),
    'media_index': jnp.full_like(tokens, -1),
  }
  # As an engine answers, but that no token ends an answer.
  answer = jax.jit(
    functools.partial(generate.generate, vimonet.Vimonet(model), eos_id=-1),
    static_argnames=('max_new_tokens', 'cache_length'),
  )
  length = engine.round_up(args.prompt + args.new)
  with sharding.use(mesh):
    _serve(
      args,
      lambda new: jax.device_get(
        answer(
          variables,
          batch,
          max_new_tokens=new,
          cache_length=length,
        ).tokens
      ),
      sum(
        decoder.size_bytes(x)
        for name, x in flat.items()
        if '/embed/' not in name
      ),
    )


def _torch(args) -> None:
  import torch

  llama = decoder.of_torch(args, length=args.prompt + args.new).eval()
  tokens = torch.from_numpy(_prompts(args)).long().to(llama.device)
  llama.generation_config.eos_token_id = None
  if args.compile:
    llama.generation_config.cache_implementation = 'static'
    llama.forward = torch.compile(llama.forward)

  def ask(new):
    with torch.inference_mode():
      found = llama.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=new,
        pad_token_id=0,
      )
    return found[:, args.prompt :].cpu().numpy()

  _serve(
    args,
    ask,
    sum(
      x.numel() * x.element_size()
      for name, x in llama.named_parameters()
      if 'embed_tokens' not in name
    ),
  )


if __name__ == '__main__':
  main()
