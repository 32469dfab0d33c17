"""A step of stage 2 on text against transformers + peft, and against itself.

    python tests/benchmarks/train_step.py                # a small decoder
    python tests/benchmarks/train_step.py --preset=7b --peak-tflops=989

The same decoder and adapter, the same full rows, AdamW, no dropout. PyTorch has
its fastest attention (sdpa), and torch.compile with --compile. A third line is
our decoder with all weights trained: what LoRA saves. Prints a table and writes
JSON; MFU is 4 N tokens/s over the peak, N the decoder's parameters.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import race

PRESETS = {
  'small': {
    'vocab': 2048, 'width': 512, 'layers': 6, 'heads': 8, 'head_dim': 64,
    'mlp': 1376, 'rows': 4, 'length': 512, 'dtype': 'float32', 'remat': 'none',
    'unroll': 6, 'rounds': 15,
  },
  '7b': {
    'vocab': 32000, 'width': 4096, 'layers': 32, 'heads': 32, 'head_dim': 128,
    'mlp': 11008, 'rows': 1, 'length': 4096, 'dtype': 'bfloat16',
    'remat': 'full', 'unroll': 1, 'rounds': 20,
  },
}  # fmt: skip
RANK, ALPHA, TARGETS = 64, 16.0, ('q', 'v')
LEARNING_RATE = 2e-4
# Whose weights both sides are given; larger ones are random on each.
_SHARED = 1_000_000_000


def main() -> None:
  args = _args()
  if args.side:
    {'ours': _ours, 'all': _ours, 'torch': _torch, 'write': _write}[args.side](
      args
    )
    return
  with tempfile.TemporaryDirectory() as folder:
    here = [__file__, *sys.argv[1:], f'--folder={folder}']
    if _parameters(args) < _SHARED:
      _run_once([*here, '--side=write'])
    names = {
      'ours': 'ours',
      'torch': 'transformers + peft' + ', compiled' * args.compile,
      'all': 'ours, all weights trained',
    }
    found = race.run(
      {
        name: [*here, f'--side={side}']
        for side, name in names.items()
        if side not in args.without
      },
      rounds=args.rounds,
    )
  losses = [
    f'{name} {x["about"]["loss"]:.6f}'
    for name, x in found.items()
    if 'all' not in name
  ]
  race.show(
    f'Step of LoRA, {args.rows} rows of {args.length}, {args.dtype}, '
    f'{_parameters(args) / 1e6:,.1f} M parameters',
    found,
    unit='tokens',
    ours='ours',
    path=args.json,
    settings=vars(args),
  )
  print('first losses:', ', '.join(losses))
  if args.peak_tflops:
    for name, x in found.items():
      times = 6 if 'all' in name else 4
      mfu = times * _parameters(args) * x['speed'] / args.peak_tflops / 1e12
      print(f'MFU of {name}: {mfu:.1%} ({times} N a token)')


def _args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--preset', default='small', choices=PRESETS)
  for name, value in PRESETS['small'].items():
    parser.add_argument(f'--{name}', type=type(value), default=None)
  parser.add_argument('--quantize', default='', help="ours: '', int8 or nf4")
  parser.add_argument('--compile', action='store_true', help='torch.compile')
  parser.add_argument('--without', nargs='*', default=[], help='all, torch')
  parser.add_argument('--peak-tflops', type=float, default=0.0)
  parser.add_argument('--json', default=None, help='where to write all of it')
  parser.add_argument('--side', default='', help=argparse.SUPPRESS)
  parser.add_argument('--folder', default='', help=argparse.SUPPRESS)
  args = parser.parse_args()
  for name, value in PRESETS[args.preset].items():
    if getattr(args, name) is None:
      setattr(args, name, value)
  return args


def _parameters(args) -> int:
  heads = args.heads * args.head_dim
  layer = args.width * (4 * heads + 3 * args.mlp + 2)
  return args.layers * layer + args.width * (2 * args.vocab + 1)


def _rows(args):
  """Tokens, of which the second half of a row is the answer."""
  import numpy as np

  rng = np.random.default_rng(0)
  return rng.integers(3, args.vocab, (args.rows, args.length), np.int32)


# --- Ours --------------------------------------------------------------------


def _stage(args, *, trains_all: bool):
  from vimonet_jax.models import (
    clip_video,
    llama,
    lora,
    motion_vqvae,
    vimonet,
  )
  from vimonet_jax.train import stages

  adapter = lora.LoraConfig(RANK, ALPHA, 0.0, TARGETS)
  model = vimonet.Config(
    llm=llama.Config(
      vocab_size=args.vocab,
      width=args.width,
      layers=args.layers,
      heads=args.heads,
      kv_heads=args.heads,
      head_dim=args.head_dim,
      mlp_width=args.mlp,
      lora=lora.LoraConfig() if trains_all else adapter,
      quantize='' if trains_all else args.quantize,
      dtype=args.dtype,
      remat=args.remat,
      unroll=args.unroll,
    ),
    motion=motion_vqvae.Config.t2m_gpt(),
    video=clip_video.Config.languagebind(),
  )
  pattern = 'llm/.*' if trains_all else 'llm/.*/lora_.*'
  # Frozen weights as they compute; what is trained is float32.
  return model, stages.tokens(
    'instruct', model, (pattern,), media=(), frozen_dtype=args.dtype
  )


def _ours(args) -> None:
  import jax
  import jax.numpy as jnp

  from vimonet_jax import allocator, sharding
  from vimonet_jax.train import optimizer
  from vimonet_jax.train import step as step_lib

  allocator.keep_freed()  # As main does.
  trains_all = args.side == 'all'
  _, stage = _stage(args, trains_all=trains_all)
  tx = optimizer.make(
    [optimizer.Group('.*', LEARNING_RATE)], steps=1000, schedule='constant'
  )
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  with sharding.use(mesh):
    target, where = step_lib.layout(stage, tx, mesh)
    wanted = {**target.trainables, **where}
    flat = _weights(args, stage, wanted)
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

    def repeat():
      nonlocal state

      def advance():
        nonlocal state
        state, metrics = step(state, frozen, batch, key)
        total, weight = jax.device_get(metrics['loss'])
        losses.append(float(total / weight))

      seconds = race.timed(advance)
      return {'seconds': seconds, 'work': tokens.size, 'loss': losses[-1]}

    first = repeat()
    race.serve(repeat, loss=first['loss'], first_s=first['seconds'])


def _weights(args, stage, wanted):
  """Those that were written, or fresh ones."""
  import jax
  import numpy as np

  path = pathlib.Path(args.folder) / 'ours.npz'
  if path.exists() and not args.quantize:
    stored = np.load(path)
    return {
      name: jax.numpy.asarray(stored[name], x.dtype)
      for name, x in wanted.items()
    }

  def make(key):
    params, _ = stage.init(key)
    return {name: params[name].astype(x.dtype) for name, x in wanted.items()}

  return jax.jit(make)(jax.random.key(0))


# --- PyTorch -----------------------------------------------------------------


def _write(args) -> None:
  """The same weights for both: arrays of ours, and a folder of Hugging Face."""
  import numpy as np

  from vimonet_jax import sharding
  from vimonet_jax.convert import decoder_tables, files, mapping, source_config

  folder = pathlib.Path(args.folder)
  plain = argparse.Namespace(**{**vars(args), 'quantize': ''})
  model, stage = _stage(plain, trains_all=False)
  rng, flat = np.random.default_rng(0), {}
  for name, x in sharding.unbox(stage.abstract()[0]).items():
    is_scale = name.endswith('/scale')
    size = 1.0 if is_scale else x.shape[-2] ** -0.5 if x.ndim > 1 else 1.0
    flat[name] = np.ones(x.shape, np.float32) if is_scale else (
      rng.normal(0, min(size, 0.05), x.shape).astype(np.float32)
    )  # fmt: skip
  np.savez(folder / 'ours.npz', **flat)
  for part, table in (
    ('llm', decoder_tables.llama_hf(model.llm)),
    ('adapter', decoder_tables.peft(model.llm)),
  ):
    (folder / part).mkdir()
    tensors = [
      pair
      for row in table.rows
      for pair in mapping.to_theirs(table, row, flat.__getitem__)
    ]
    files.write_safetensors(
      folder / part,
      'model' if part == 'llm' else 'adapter_model',
      [lambda tensors=tensors: iter(tensors)],
    )
  settings = {
    'llm/config.json': source_config.llama_json(
      dataclasses.replace(model.llm, lora=type(model.llm.lora)()), 'float32'
    ),
    'adapter/adapter_config.json': source_config.peft_json(
      model.llm.lora, str(folder / 'llm')
    ),
  }
  for name, fields in settings.items():
    (folder / name).write_text(json.dumps(fields))


def _torch(args) -> None:
  import peft
  import torch
  import transformers

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  dtype = getattr(torch, args.dtype)
  folder = pathlib.Path(args.folder)
  if (folder / 'llm').exists():
    llama = transformers.LlamaForCausalLM.from_pretrained(
      folder / 'llm', dtype=dtype, attn_implementation='sdpa'
    ).to(device)
    model = peft.PeftModel.from_pretrained(
      llama, folder / 'adapter', is_trainable=True
    )
  else:
    config = transformers.LlamaConfig(
      vocab_size=args.vocab,
      hidden_size=args.width,
      intermediate_size=args.mlp,
      num_hidden_layers=args.layers,
      num_attention_heads=args.heads,
      head_dim=args.head_dim,
      max_position_embeddings=args.length,
      attn_implementation='sdpa',
    )
    with torch.device(device):
      torch.set_default_dtype(dtype)
      llama = transformers.LlamaForCausalLM(config)
      torch.set_default_dtype(torch.float32)
    model = peft.get_peft_model(
      llama,
      peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=['q_proj', 'v_proj']
      ),
    )
  if args.remat == 'full':
    llama.gradient_checkpointing_enable({'use_reentrant': False})
    model.enable_input_require_grads()
  model.train()
  tokens = torch.from_numpy(_rows(args)).long().to(device)
  labels = tokens.clone()
  labels[:, : args.length // 2] = -100
  trained = [x for x in model.parameters() if x.requires_grad]
  adam = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
  forward = torch.compile(model) if args.compile else model
  losses = []

  def advance():
    adam.zero_grad(set_to_none=True)
    loss = forward(input_ids=tokens, labels=labels, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    adam.step()
    losses.append(float(loss.detach()))
    if device == 'cuda':
      torch.cuda.synchronize()

  def repeat():
    seconds = race.timed(advance)
    return {'seconds': seconds, 'work': tokens.numel(), 'loss': losses[-1]}

  first = repeat()
  race.serve(repeat, loss=first['loss'], first_s=first['seconds'])


def _run_once(command) -> None:
  subprocess.run(
    [sys.executable, *command],
    check=True,
    env={**os.environ, 'PYTHONPATH': str(race.ROOT)},
  )


if __name__ == '__main__':
  main()
