"""Decoders that the tables are asked about: ours, transformers' and lit-gpt's.

Imports neither torch nor transformers by itself.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import originals

from vimonet_jax.convert import decoder_tables, files, source_config
from vimonet_jax.models import llama, lora


def _as_they_are(x_BLD):
  return x_BLD


def scores(config, flat, tokens_BL, splice=_as_they_are) -> np.ndarray:
  """Our logits in float32 of rows that are one segment each.

  Args:
    config: of the decoder.
    flat: its parameters by whole paths.
    tokens_BL: whole numbers.
    splice: what is done to embeddings before they are read.
  """
  tokens_BL = np.asarray(tokens_BL, np.int32)
  params = originals.below(flat, 'llm')
  with jax.default_matmul_precision('highest'):
    return np.asarray(_compiled(config, splice)(params, tokens_BL))


@functools.cache
def _compiled(config, splice):
  model = llama.Llama(config)

  def run(model, tokens_BL):
    positions_BL = jnp.broadcast_to(
      jnp.arange(tokens_BL.shape[1]), tokens_BL.shape
    )
    x_BLD = splice(model.embed(tokens_BL))
    return model.logits(model(x_BLD, positions_BL, jnp.ones_like(tokens_BL)))

  return jax.jit(lambda p, x: model.apply({'params': p}, x, method=run))


def their_scores(model, tokens_BL) -> np.ndarray:
  """The same of a transformers model."""
  import torch

  with torch.no_grad():
    return model(torch.from_numpy(tokens_BL)).logits.numpy()


def apart(found, wanted) -> float:
  """The largest difference, relative to the spread of what is wanted."""
  return np.abs(found - wanted).max() / wanted.std()


def random_llama(config, *, deviation=0.25):
  """A LlamaForCausalLM in which every parameter counts."""
  import torch
  import transformers

  fields = source_config.llama_json(config, 'float32')
  # Version 5 keeps these two in one, and reads them apart from old files.
  theta = fields.pop('rope_theta')
  del fields['rope_scaling']
  settings = transformers.LlamaConfig(
    **fields,
    rope_parameters={'rope_type': 'default', 'rope_theta': theta},
  )
  with torch.device('meta'):
    theirs = transformers.LlamaForCausalLM(settings)
  # At full width most of the time would go into drawing numbers. These are
  # repeated, but so that neither two tensors nor two rows are alike.
  some = np.random.default_rng(0).normal(0, deviation, 1_000_003)
  some = some.astype(np.float32)
  tensors = {
    name: torch.from_numpy(
      ('norm' in name) + np.resize(np.roll(some, 54_321 * k), tuple(x.shape))
    )
    for k, (name, x) in enumerate(theirs.state_dict().items())
  }
  theirs.load_state_dict(tensors, assign=True)
  rotary = theirs.model.rotary_emb  # It keeps wavelengths that no file has.
  theirs.model.rotary_emb = type(rotary)(settings)
  return theirs.eval()


def export_llama(folder: pathlib.Path, config, flat) -> None:
  """Writes a decoder of ours for transformers."""
  tensors = originals.theirs(decoder_tables.llama_hf(config), flat)
  files.write_safetensors(str(folder), 'model', [lambda: tensors.items()])
  fields = source_config.llama_json(config, 'float32')
  (folder / 'config.json').write_text(json.dumps(fields))


def litgpt(parity: pathlib.Path) -> tuple[llama.Config, lora.LoraConfig]:
  """Sizes of the decoder in ../shared, and the adapter that was trained."""
  sizes = json.loads((parity / 'config.json').read_text())['litgpt']
  config = llama.Config(
    vocab_size=sizes['vocab'],
    width=sizes['n_embd'],
    layers=sizes['n_layer'],
    heads=sizes['n_head'],
    kv_heads=sizes['n_head'],
    head_dim=sizes['n_embd'] // sizes['n_head'],
    mlp_width=sizes['intermediate_size'],
    norm_eps=sizes['norm_eps'],
    rope_theta=sizes['rope_theta'],
  )
  return config, lora.LoraConfig(sizes['lora_r'], sizes['lora_alpha'])


def litgpt_base(parity: pathlib.Path) -> dict[str, np.ndarray]:
  """Its parameters by whole paths."""
  table = decoder_tables.litgpt(litgpt(parity)[0], interleaved=True)
  return originals.read(
    table, files.open_checkpoint(parity / 'litgpt_base.pth')
  )
