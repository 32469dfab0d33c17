"""Tables of the decoder and its adapters; see mapping.py.

    llama            Hugging Face Llama and Vicuna
    litgpt           lit-gpt, both layouts of the fused queries, keys, values
    peft             Hugging Face adapters
    litgpt_lora      lit-gpt's adapters of queries and values
    motionllm_lora   those of MotionLLM, on the rows that it really changes

Each function takes the sizes of our decoder and gives a mapping.Table.
"""

import jax.numpy as jnp
import numpy as np

from vimonet_jax.convert import mapping
from vimonet_jax.models import llama, lora

# Other parts of a checkpoint that holds a whole Video-LLaVA.
_NOT_LLM = r'model\.(mm_projector|video_tower|image_tower)\..*'


def llm_shapes(config: llama.Config) -> dict[str, tuple[int, ...]]:
  """Our paths -> shapes of the decoder, adapters included."""

  def everything(module, tokens):
    h = module(module.embed(tokens), tokens, tokens)
    return module.logits(h)

  tokens = jnp.zeros((1, 8), jnp.int32)
  return mapping.shapes_of(
    'llm', llama.Llama(config), tokens, method=everything
  )


# Our projections and what Hugging Face calls them.
HF_NAMES = {
  'q': 'self_attn.q_proj',
  'k': 'self_attn.k_proj',
  'v': 'self_attn.v_proj',
  'o': 'self_attn.o_proj',
  'gate': 'mlp.gate_proj',
  'up': 'mlp.up_proj',
  'down': 'mlp.down_proj',
}


def _path(name: str) -> str:
  """'q' -> 'llm/blocks/attn/q'."""
  part = 'attn' if name in ('q', 'k', 'v', 'o') else 'mlp'
  return f'llm/blocks/{part}/{name}'


def _projection(config: llama.Config, name: str) -> mapping.Transform:
  """torch's [out, in] and our kernel of that projection."""
  heads = config.heads if name in ('q', 'o') else config.kv_heads
  if name == 'o':
    return mapping.split_inputs(heads, config.head_dim)
  if name in ('q', 'k', 'v'):
    return mapping.split_outputs(heads, config.head_dim)
  return mapping.TRANSPOSED


def llama_hf(config: llama.Config) -> mapping.Table:
  """Hugging Face's LlamaForCausalLM, in safetensors or torch files."""
  layer = 'model.layers.{i}.'
  rows = (
    mapping.row('model.embed_tokens.weight', 'llm/embed/embedding'),
    mapping.row(f'{layer}input_layernorm.weight', 'llm/blocks/norm1/scale'),
    *(
      mapping.row(
        f'{layer}{theirs}.weight',
        f'{_path(name)}/kernel',
        _projection(config, name),
      )
      for name, theirs in HF_NAMES.items()
    ),
    mapping.row(
      f'{layer}post_attention_layernorm.weight', 'llm/blocks/norm2/scale'
    ),
    mapping.row('model.norm.weight', 'llm/norm/scale'),
    mapping.row('lm_head.weight', 'llm/head/kernel', mapping.TRANSPOSED),
  )
  return mapping.Table(
    'a Hugging Face Llama',
    rows,
    llm_shapes(config),
    ignored=(r'model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq', _NOT_LLM),
  )


def litgpt(config: llama.Config, *, interleaved: bool) -> mapping.Table:
  """lit-gpt's GPT as it is kept in lit_model.pth.

  Args:
    config: the decoder.
    interleaved: how rows of the fused matrix lie. True: head by head, as
      `attn.attn`, until the end of 2024 and in MotionLLM. False: all queries,
      all keys, all values, as `attn.qkv`.
  """
  layer = 'transformer.h.{i}.'
  fused = 'attn.attn' if interleaved else 'attn.qkv'
  names = {'o': 'attn.proj', 'gate': 'mlp.fc_1', 'up': 'mlp.fc_2'}
  names['down'] = 'mlp.proj'
  rows = (
    mapping.row('transformer.wte.weight', 'llm/embed/embedding'),
    mapping.row(f'{layer}norm_1.weight', 'llm/blocks/norm1/scale'),
    mapping.Row(
      (f'{layer}{fused}.weight',),
      tuple(f'{_path(name)}/kernel' for name in ('q', 'k', 'v')),
      _fused(config, interleaved),
    ),
    *(
      mapping.row(
        f'{layer}{theirs}.weight',
        f'{_path(name)}/kernel',
        _projection(config, name),
      )
      for name, theirs in names.items()
    ),
    mapping.row(f'{layer}norm_2.weight', 'llm/blocks/norm2/scale'),
    mapping.row('transformer.ln_f.weight', 'llm/norm/scale'),
    mapping.row('lm_head.weight', 'llm/head/kernel', mapping.TRANSPOSED),
  )
  return mapping.Table(
    f'a {"legacy" if interleaved else "current"} lit-gpt',
    rows,
    llm_shapes(config),
    # Adapters have a format of their own, `litgpt_lora`.
    ignored=(r'.*\.attn\.(attn|qkv)\.lora_[AB]',),
    # With adapters in memory each layer has a `linear` inside.
    renamed=((r'\.linear\.weight$', '.weight'),),
  )


def _fused(config: llama.Config, interleaved: bool) -> mapping.Transform:
  """[(N + 2 K) H, D] and our three kernels.

  interleaved   for each kv head: its N / K queries, its key, its value
  otherwise     all queries, all keys, all values
  """
  N, K, H = config.heads, config.kv_heads, config.head_dim
  group = N // K
  parts = [_projection(config, name) for name in ('q', 'k', 'v')]

  def forward(x):
    if interleaved:
      x = x.reshape(K, group + 2, H, -1)
      split = x[:, :group], x[:, group], x[:, group + 1]
    else:
      split = x[: N * H], x[N * H : (N + K) * H], x[(N + K) * H :]
    D = x.shape[-1]
    return tuple(
      part.forward(s.reshape(-1, D))[0]
      for part, s in zip(parts, split, strict=True)
    )

  def backward(*kernels):
    q, k, v = (
      part.backward(x)[0] for part, x in zip(parts, kernels, strict=True)
    )
    xp = q.__array_namespace__()
    if not interleaved:
      return (xp.concat([q, k, v]),)
    D = q.shape[-1]
    q = q.reshape(K, group, H, D)
    k, v = (x.reshape(K, 1, H, D) for x in (k, v))
    return (xp.concat([q, k, v], axis=1).reshape(-1, D),)

  return mapping.Transform(forward, backward)


# --- Adapters ----------------------------------------------------------------


def peft(config: llama.Config) -> mapping.Table:
  """An adapter that Hugging Face's peft saved, with config.lora's targets."""
  rows = []
  for name in config.lora.targets:
    theirs = f'base_model.model.model.layers.{{i}}.{HF_NAMES[name]}'
    a = b = mapping.TRANSPOSED
    if name == 'o':
      a = mapping.split_inputs(config.heads, config.head_dim)
    elif name in ('q', 'k', 'v'):
      b = _projection(config, name)
    rows += [
      mapping.row(f'{theirs}.lora_A.weight', f'{_path(name)}/lora_a', a),
      mapping.row(f'{theirs}.lora_B.weight', f'{_path(name)}/lora_b', b),
    ]
  return mapping.Table(
    'a PEFT adapter on '
    + ', '.join(HF_NAMES[name].split('.')[1] for name in config.lora.targets),
    tuple(rows),
    llm_shapes(config),
    renamed=((r'\.default\.weight$', '.weight'),),
  )


_LITGPT_LORA = tuple(
  f'transformer.h.{{i}}.attn.attn.lora_{side}' for side in 'AB'
)
# A file may repeat what the adapters were trained on.
_LITGPT_BASE = r'(transformer|lm_head)\..*(?<!lora_[AB])'


def _adapter_paths(names: str) -> tuple[str, ...]:
  return tuple(
    f'{_path(name)}/{side}' for name in names for side in ('lora_a', 'lora_b')
  )


def litgpt_lora(config: llama.Config) -> mapping.Table:
  """lit-gpt's adapter of queries and values, each on its own rows.

  config.lora is the adapter that was trained: its rank, targets q and v.
  """
  _expect_lora(config, ('q', 'v'))
  block = config.heads * config.head_dim  # rows of all queries
  parts = [_projection(config, name) for name in ('q', 'v')]

  def forward(a, b):
    rank = b.shape[1]
    return (
      a[:rank].T,
      parts[0].forward(b[:block])[0],
      a[rank:].T,
      parts[1].forward(b[block:])[0],
    )

  def backward(a_q, b_q, a_v, b_v):
    xp = a_q.__array_namespace__()
    b = [part.backward(x)[0] for part, x in zip(parts, (b_q, b_v), strict=True)]
    return xp.concat([a_q.T, a_v.T]), xp.concat(b)

  rows = (
    mapping.Row(
      _LITGPT_LORA, _adapter_paths('qv'), mapping.Transform(forward, backward)
    ),
  )
  return mapping.Table(
    'a lit-gpt adapter of queries and values',
    rows,
    llm_shapes(config),
    ignored=(_LITGPT_BASE,),
    renamed=((r'\.attn\.qkv\.lora_', '.attn.attn.lora_'),),
  )


def motionllm_adapter(adapter: lora.LoraConfig) -> lora.LoraConfig:
  """The adapter of ours that says what MotionLLM's does; same scale.

  Args:
    adapter: as it was trained: rank 64, alpha 16.
  """
  return lora.LoraConfig(
    rank=2 * adapter.rank,
    alpha=2 * adapter.alpha,
    dropout=adapter.dropout,
    targets=('q', 'k', 'v'),
  )


def motionllm_lora(config: llama.Config) -> mapping.Table:
  """MotionLLM's adapter, on the rows that its code really changes.

  It was meant for queries and values of a fused matrix in three blocks, but
  the matrix lies head by head (lit-gpt issue 891). So each half of it changes
  the queries, keys and values of a third of the heads, and a third of them
  stays as it was. Both halves read all of lora_A, of which they use their own
  half: hence twice the rank on all three projections.

  config.lora is `motionllm_adapter` of what was trained.
  """
  _expect_lora(config, ('q', 'k', 'v'))
  N, H, rank = config.heads, config.head_dim, config.lora.rank // 2
  if config.kv_heads != N:
    raise mapping.ConversionError(
      f'Expected as many kv heads as heads for a MotionLLM adapter, found '
      f'{config.kv_heads} of {N}; it was only made for such decoders.'
    )

  def forward(a, b):
    xp = a.__array_namespace__()
    block = N * H
    nothing = xp.zeros((block, 2 * rank), dtype=b.dtype)
    empty = xp.zeros((block, rank), dtype=b.dtype)
    first = xp.concat([b[:block], empty], axis=1)
    second = xp.concat([empty, b[block:]], axis=1)
    fused = xp.concat([first, nothing, second]).reshape(N, 3, H, 2 * rank)
    ours = []
    for part in range(3):
      ours += [a.T, fused[:, part].transpose(2, 0, 1)]
    return tuple(ours)

  def backward(a_q, b_q, a_k, b_k, a_v, b_v):
    xp = a_q.__array_namespace__()
    parts = [b.transpose(1, 2, 0) for b in (b_q, b_k, b_v)]
    fused = xp.stack(parts, axis=1).reshape(3 * N * H, 2 * rank)
    b = xp.concat([fused[: N * H, :rank], fused[2 * N * H :, rank:]])
    if isinstance(a_q, np.ndarray):
      again = forward(a_q.T, b)
      ours = a_q, b_q, a_k, b_k, a_v, b_v
      if not all(map(np.array_equal, ours, again)):
        raise mapping.ConversionError(
          "Expected an adapter that changes MotionLLM's rows only, found one "
          'that changes others; write it as a PEFT adapter instead.'
        )
    return a_q.T, b

  rows = (
    mapping.Row(
      _LITGPT_LORA, _adapter_paths('qkv'), mapping.Transform(forward, backward)
    ),
  )
  return mapping.Table(
    'a MotionLLM adapter',
    rows,
    llm_shapes(config),
    ignored=(_LITGPT_BASE,),
  )


def _expect_lora(config: llama.Config, targets: tuple[str, ...]) -> None:
  if config.lora.targets != targets or not config.lora.rank:
    raise mapping.ConversionError(
      f'Expected lora.targets {", ".join(targets)} for this adapter, found '
      f'{config.lora}; set them so.'
    )
