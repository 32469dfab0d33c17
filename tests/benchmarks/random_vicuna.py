"""Writes a folder that looks like Vicuna-7B v1.5, with random weights.

    python tests/benchmarks/random_vicuna.py /tmp/vicuna --container=torch

Two shards of bfloat16, 13.5 GB in all, for measuring how they are converted:
see README.md, "From PyTorch and back". Takes about as much memory as a shard.
"""

import argparse
import json
import os
import pathlib

import numpy as np

LAYERS, WIDTH, MLP, VOCAB = 32, 4096, 11008, 32000


def shapes(layers: int, width: int, mlp: int, vocab: int) -> dict:
  """Names and shapes in the order in which Hugging Face writes them."""
  found = {'model.embed_tokens.weight': (vocab, width)}
  for i in range(layers):
    layer = f'model.layers.{i}.'
    for name in 'qkvo':
      found[f'{layer}self_attn.{name}_proj.weight'] = (width, width)
    for name in ('gate', 'up'):
      found[f'{layer}mlp.{name}_proj.weight'] = (mlp, width)
    found[f'{layer}mlp.down_proj.weight'] = (width, mlp)
    for name in ('input', 'post_attention'):
      found[f'{layer}{name}_layernorm.weight'] = (width,)
  found['model.norm.weight'] = (width,)
  found['lm_head.weight'] = (vocab, width)
  return found


def config(layers: int, width: int, mlp: int, vocab: int) -> dict:
  return {
    'architectures': ['LlamaForCausalLM'],
    'model_type': 'llama',
    'hidden_act': 'silu',
    'hidden_size': width,
    'intermediate_size': mlp,
    'num_hidden_layers': layers,
    'num_attention_heads': width // 128,
    'num_key_value_heads': width // 128,
    'max_position_embeddings': 4096,
    'rms_norm_eps': 1e-5,
    'rope_scaling': None,
    'tie_word_embeddings': False,
    'torch_dtype': 'bfloat16',
    'vocab_size': vocab,
    'bos_token_id': 1,
    'eos_token_id': 2,
    'pad_token_id': 0,
  }


def random_tensor(rng: np.random.Generator, shape) -> np.ndarray:
  """Bits of bfloat16 numbers between 2^-7 and 1, of both signs, as uint16."""
  bits = rng.integers(0, 2**16, shape, np.uint16)
  return (bits & 0x83FF) | 0x3C00


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument('--container', choices=('torch', 'safetensors'))
  parser.add_argument('--layers', type=int, default=LAYERS)
  arguments = parser.parse_args()
  import torch
  from safetensors import torch as safetensors_torch

  sizes = (arguments.layers, WIDTH, MLP, VOCAB)
  folder = arguments.folder
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  names = list(shapes(*sizes))
  half, weight_map = len(names) // 2, {}
  stem, suffix = 'model', 'safetensors'
  if arguments.container != 'safetensors':
    stem, suffix = 'pytorch_model', 'bin'
  for number, part in enumerate((names[:half], names[half:]), 1):
    file = f'{stem}-{number:05d}-of-00002.{suffix}'
    tensors = {
      name: torch.from_numpy(
        random_tensor(rng, shapes(*sizes)[name]).view(np.int16)
      ).view(torch.bfloat16)
      for name in part
    }
    if suffix == 'bin':
      torch.save(tensors, folder / file)
    else:
      safetensors_torch.save_file(tensors, folder / file, {'format': 'pt'})
    weight_map |= dict.fromkeys(part, file)
  files = set(weight_map.values())
  size = sum((folder / file).stat().st_size for file in files)
  index = {'metadata': {'total_size': size}, 'weight_map': weight_map}
  (folder / f'{stem}.{suffix}.index.json').write_text(json.dumps(index))
  (folder / 'config.json').write_text(json.dumps(config(*sizes), indent=2))
  os.sync()


if __name__ == '__main__':
  main()
