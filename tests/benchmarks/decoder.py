"""One decoder for both sides of a race: its flags, its weights, and PyTorch's.

Small ones have the same weights on both sides, which `share` puts into a folder
once, and ours are rounded from there; of large ones each side draws its own.
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import race

_SHAPE = ('vocab', 'width', 'layers', 'heads', 'head_dim', 'mlp')
# Rank 64 beside a width of 1024: a side product that is not for nothing.
SMALL = dict(zip(_SHAPE, (2048, 1024, 4, 16, 64, 2752), strict=True))
VICUNA = dict(zip(_SHAPE, (32000, 4096, 32, 32, 128, 11008), strict=True))
RANK, ALPHA, TARGETS = 64, 16.0, ('q', 'v')
# Parameters up to which both sides are given the same.
_SHARED = 1_000_000_000
# Deviation of what each side draws: what transformers draws Llama with.
_STDDEV = 0.02
_QUANTIZE = ('', 'int8', 'nf4')


def add_flags(parser: argparse.ArgumentParser, presets: dict) -> None:
  """Those of every race, and of races of decoders."""
  race.add_flags(parser, presets)
  parser.add_argument(
    '--quantize', default='', choices=_QUANTIZE, help="rounds ours; '': not"
  )
  parser.add_argument('--compile', action='store_true', help='torch.compile')
  parser.add_argument('--folder', default='', help=argparse.SUPPRESS)


def parameters(args: argparse.Namespace) -> int:
  """Of the decoder, without adapters."""
  heads = args.heads * args.head_dim
  layer = args.width * (4 * heads + 3 * args.mlp + 2)
  return args.layers * layer + args.width * (2 * args.vocab + 1)


def described(args: argparse.Namespace) -> str:
  """What the title of a race says of it."""
  rounded = f', ours rounded to {args.quantize}' if args.quantize else ''
  return f'{args.dtype}, {parameters(args) / 1e6:,.1f} M parameters{rounded}'


def ours(args: argparse.Namespace) -> str:
  """Our name in a race."""
  return f'ours, {args.quantize}' if args.quantize else 'ours'


def config(args: argparse.Namespace, *, adapters: bool, **changes: Any):
  """A vimonet.Config whose decoder has the shape of the flags."""
  from vimonet_jax.models import (
    clip_video,
    llama,
    lora,
    motion_vqvae,
    vimonet,
  )

  adapter = lora.LoraConfig(RANK, ALPHA, 0.0, TARGETS)
  return vimonet.Config(
    llm=llama.Config(
      **{
        'vocab_size': args.vocab,
        'width': args.width,
        'layers': args.layers,
        'heads': args.heads,
        'kv_heads': args.heads,
        'head_dim': args.head_dim,
        'mlp_width': args.mlp,
        'lora': adapter if adapters else lora.LoraConfig(),
        'quantize': args.quantize,
        'dtype': args.dtype,
        'unroll': args.unroll,
        **changes,
      }
    ),
    motion=motion_vqvae.Config.t2m_gpt(),
    video=clip_video.Config.languagebind(),
  )


def weights(args: argparse.Namespace, wanted: Mapping[str, Any]) -> dict:
  """Those that were written, or random ones, as they are wanted.

  They are made one after another, random ones in the dtype that they stay in or
  are rounded from: 7B in float32 would not fit beside themselves.

  Args:
    args: flags.
    wanted: path -> shape, dtype and sharding; in place of a kernel that is to
      be rounded there are its parts.
  """
  import jax
  import numpy as np

  from vimonet_jax.models import quantize

  path = pathlib.Path(args.folder) / 'ours.npz'
  stored = np.load(path) if path.exists() else None
  key, found = jax.random.key(0), {}
  for i, (name, parts) in enumerate(quantize.made_of(wanted).items()):
    # The first part of a rounded kernel has its shape.
    like, is_rounded = wanted[parts[0]], parts != [name]
    if stored is not None:
      x = stored[name]
    else:
      dtype = args.dtype if is_rounded else like.dtype
      x = _random(jax.random.fold_in(key, i), name, like, dtype)
    if is_rounded:
      found |= quantize.like(name, x, wanted)
    else:
      found[name] = jax.numpy.asarray(x, like.dtype, device=like.sharding)
    del x
  return found


def _random(key, name: str, like, dtype):
  """A parameter of a shape and in a place: ones where it is a norm's scale."""
  import jax

  def draw(key, shape):
    return _STDDEV * jax.random.normal(key, shape, dtype)

  def make(key):
    if name.endswith('/scale'):
      return jax.numpy.ones(like.shape, dtype)
    if '/blocks/' not in name:
      return draw(key, like.shape)
    # Layer by layer: the generator needs eight times the room of what it makes.
    layers, *shape = like.shape
    keys = jax.random.split(key, layers)
    return jax.lax.map(lambda key: draw(key, shape), keys)

  return jax.jit(make, out_shardings=like.sharding)(key)


def size_bytes(x) -> float:
  """Of an array in a memory that packs numbers of four bits."""
  import jax.numpy as jnp

  info = jnp.iinfo if jnp.issubdtype(x.dtype, jnp.integer) else jnp.finfo
  return x.size * info(x.dtype).bits / 8


def is_small(args: argparse.Namespace) -> bool:
  """Whether both sides are given the same weights."""
  return parameters(args) <= _SHARED


def share(args: argparse.Namespace, folder: str) -> None:
  """Writes weights for both sides, in a process of its own, if they are small.

  In the folder there are ours.npz, arrays by path, and llm/ and adapter/ as
  transformers and peft read them.
  """
  if not is_small(args):
    return
  settings = {**vars(args), 'quantize': '', 'folder': folder}
  subprocess.run(
    [sys.executable, __file__, json.dumps(settings)],
    check=True,
    env=race.environment(),
  )


def _write(args: argparse.Namespace) -> None:
  import numpy as np

  from vimonet_jax import sharding
  from vimonet_jax.convert import decoder_tables, files, mapping, source_config
  from vimonet_jax.train import stages

  folder = pathlib.Path(args.folder)
  model = config(args, adapters=True)
  stage = stages.tokens('instruct', model, ('llm/.*/lora_.*',), media=())
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
  plain = dataclasses.replace(model.llm, lora=type(model.llm.lora)())
  settings = {
    'llm/config.json': source_config.llama_json(plain, 'float32'),
    'adapter/adapter_config.json': source_config.peft_json(
      model.llm.lora, str(folder / 'llm')
    ),
  }
  for name, fields in settings.items():
    (folder / name).write_text(json.dumps(fields))


def place(args: argparse.Namespace) -> dict[str, str]:
  """What the side is on, see race.of_jax, and how it multiplies float32."""
  if args.side == 'torch':
    import torch

    how = torch.get_float32_matmul_precision()
    return {**race.of_torch(), 'float32_products': how}
  import jax

  how = jax.config.jax_default_matmul_precision or 'default'
  return {**race.of_jax(), 'float32_products': how}


def set_precision(args: argparse.Namespace) -> None:
  """Products of float32 in float32 with either library, whatever it runs on.

  JAX's default is TF32 on a GPU and bfloat16 on a TPU; PyTorch's is float32 in
  most versions. To be called by a side before it computes.
  """
  if args.dtype != 'float32':
    return
  if args.side == 'torch':
    import torch

    torch.set_float32_matmul_precision('highest')
  else:
    import jax

    jax.config.update('jax_default_matmul_precision', 'highest')


def of_torch(args: argparse.Namespace, *, length: int):
  """transformers' Llama with its fastest attention, on the GPU if there is one.

  Args:
    args: flags.
    length: most tokens of a row.
  """
  import torch
  import transformers

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  dtype = getattr(torch, args.dtype)
  written = pathlib.Path(args.folder) / 'llm'
  if written.exists():
    return transformers.LlamaForCausalLM.from_pretrained(
      written, dtype=dtype, attn_implementation='sdpa'
    ).to(device)
  shape = transformers.LlamaConfig(
    vocab_size=args.vocab,
    hidden_size=args.width,
    intermediate_size=args.mlp,
    num_hidden_layers=args.layers,
    num_attention_heads=args.heads,
    head_dim=args.head_dim,
    max_position_embeddings=length,
    attn_implementation='sdpa',
  )
  with torch.device(device):
    torch.set_default_dtype(dtype)
    llama = transformers.LlamaForCausalLM(shape)
    torch.set_default_dtype(torch.float32)
  return llama


if __name__ == '__main__':
  _write(argparse.Namespace(**json.loads(sys.argv[1])))
