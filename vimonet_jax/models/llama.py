"""The decoder: Llama (https://arxiv.org/abs/2302.13971), as in Vicuna-7B v1.5.

    B rows in a batch   L tokens in a row   S slots of a cache   V vocabulary
    D model width       N heads             K kv heads           H head size
    F feed-forward width

It takes embeddings instead of tokens, so that media can be put between them
(see vimonet.py), and reads several packed segments in a row. Rotary positions
are in the half-split form of Hugging Face's weights: dimension j turns with
dimension j + H/2.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vimonet_jax.models import attention, dtypes, lora, quantize

PROJECTIONS = ('q', 'k', 'v', 'o', 'gate', 'up', 'down')

# What the backward pass finds instead of computing it again; None: everything.
REMAT: dict[str, Callable | None] = {
  'none': None,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'full': jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of a decoder and how it is computed.

  Attributes:
    vocab_size: V.
    width: D.
    layers: number of blocks.
    heads: N.
    kv_heads: K, which divides N; K = N is plain multi-head attention.
    head_dim: H.
    mlp_width: F.
    norm_eps: of every RMSNorm.
    rope_theta: base of the rotary wavelengths.
    lora: the adapters and the projections that have them, out of
      PROJECTIONS.
    quantize: what the projections' kernels are kept in, of quantize.KINDS;
      embeddings and head stay as they are.
    dtype: of activations, one of dtypes.NAMES; parameters are made in float32.
    remat: a key of REMAT.
    attention: who computes it, of attention.BACKENDS, where no cache is read.
    unroll: blocks per iteration of the scan; `layers` leaves no loop. The
      parameters are stacked either way.
  """

  vocab_size: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp_width: int
  norm_eps: float = 1e-5
  rope_theta: float = 1e4
  lora: 'lora.LoraConfig' = lora.LoraConfig()
  quantize: str = ''
  dtype: str = 'float32'
  remat: str = 'none'
  attention: str = 'auto'
  unroll: int = 1

  def __post_init__(self):
    if self.heads % self.kv_heads:
      raise ValueError(
        f'Expected kv_heads to divide heads, found kv_heads={self.kv_heads} '
        f'and heads={self.heads}; change one of them.'
      )
    dtypes.check(self.dtype)
    quantize.check(self.quantize)
    attention.check(self.attention)
    if self.remat not in REMAT:
      raise ValueError(
        f'Expected remat to be one of {", ".join(REMAT)}, found {self.remat!r}.'
      )
    if unknown := set(self.lora.targets) - set(PROJECTIONS):
      raise ValueError(
        f'Expected lora.targets among {", ".join(PROJECTIONS)}, found '
        f'{", ".join(sorted(unknown))}.'
      )

  @classmethod
  def vicuna_7b(cls, **changes) -> 'Config':
    """Vicuna-7B v1.5: 6,738,415,616 parameters without adapters."""
    return cls(
      **{
        'vocab_size': 32000,
        'width': 4096,
        'layers': 32,
        'heads': 32,
        'kv_heads': 32,
        'head_dim': 128,
        'mlp_width': 11008,
        'dtype': 'bfloat16',
        'remat': 'full',  # 'dots' would keep 3 MB per token
        **changes,
      }
    )


class RMSNorm(nn.Module):
  """x / sqrt(mean(x^2) + eps) * scale, in float32 up to the last cast."""

  eps: float
  dtype: Any

  @nn.compact
  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    scale_D = self.param(
      'scale',
      nn.with_logical_partitioning(nn.initializers.ones, ('embed',)),
      x_BLD.shape[-1:],
      jnp.float32,
    )
    x_BLD = x_BLD.astype(jnp.float32)
    mean_BL1 = jnp.mean(jnp.square(x_BLD), axis=-1, keepdims=True)
    x_BLD = x_BLD * jax.lax.rsqrt(mean_BL1 + self.eps)
    return (x_BLD * scale_D.astype(jnp.float32)).astype(self.dtype)


def _projection(
  config: Config, name: str, features: tuple[int, ...], names, fan_in: int
) -> lora.LoraDense:
  # What is added to the residual stream starts smaller the more blocks add.
  gain = (2 * config.layers) ** -0.5 if name in ('o', 'down') else 1.0
  has_adapter = name in config.lora.targets
  return lora.LoraDense(
    features=features,
    names=names,
    stddev=gain / math.sqrt(fan_in),
    lora=config.lora if has_adapter else lora.LoraConfig(),
    quantize=config.quantize,
    dtype=config.dtype,
  )


class Attention(nn.Module):
  """Self-attention over the row, or over the cache where there is one."""

  config: Config

  def setup(self):
    c = self.config
    heads = ('embed', 'heads', 'head_dim')
    kv_heads = ('embed', 'kv_heads', 'head_dim')
    out = ('heads', 'head_dim', 'embed')
    self.q = _projection(c, 'q', (c.heads, c.head_dim), heads, c.width)
    self.k = _projection(c, 'k', (c.kv_heads, c.head_dim), kv_heads, c.width)
    self.v = _projection(c, 'v', (c.kv_heads, c.head_dim), kv_heads, c.width)
    self.o = _projection(c, 'o', (c.width,), out, c.heads * c.head_dim)

  def __call__(self, x_BLD, context, layer, kept, deterministic):
    names = ('batch', 'length', 'act_heads', None)
    q_BLNH = self.q(x_BLD, deterministic=deterministic)
    k_BLKH = self.k(x_BLD, deterministic=deterministic)
    v_BLKH = self.v(x_BLD, deterministic=deterministic)
    q_BLNH = nn.with_logical_constraint(q_BLNH, names)
    q_BLNH = attention.rotate(q_BLNH, context.turn)
    k_BLKH = attention.rotate(k_BLKH, context.turn)
    if kept is not None:
      kept = attention.write(kept, k_BLKH, v_BLKH, layer, context.slots_BL)
    if context.segment_ids_BL is not None:
      out_BLNH = attention.attend_within(
        q_BLNH,
        k_BLKH,
        v_BLKH,
        context.mask_BLS,
        context.segment_ids_BL,
        self.config.attention,
      )
    else:
      k_BKSH, v_BKSH = (
        (x if layer is None else x[layer]).astype(q_BLNH.dtype) for x in kept
      )
      out_BLNH = attention.attend(q_BLNH, k_BKSH, v_BKSH, context.mask_BLS)
    out_BLNH = nn.with_logical_constraint(out_BLNH, names)
    return self.o(out_BLNH, deterministic=deterministic), kept


class Mlp(nn.Module):
  """down(silu(gate(x)) * up(x))."""

  config: Config

  def setup(self):
    c = self.config
    names = ('embed', 'mlp')
    self.gate = _projection(c, 'gate', (c.mlp_width,), names, c.width)
    self.up = _projection(c, 'up', (c.mlp_width,), names, c.width)
    self.down = _projection(c, 'down', (c.width,), names[::-1], c.mlp_width)

  def __call__(self, x_BLD, deterministic):
    gate_BLF = nn.silu(self.gate(x_BLD, deterministic=deterministic))
    h_BLF = gate_BLF * self.up(x_BLD, deterministic=deterministic)
    h_BLF = nn.with_logical_constraint(h_BLF, ('batch', 'length', 'act_mlp'))
    return self.down(h_BLF, deterministic=deterministic)


class Context(NamedTuple):
  """What every block needs to know about the row; the same for all of them.

  Attributes:
    turn: rotary angles of the tokens.
    mask_BLS: see `attention.mask`.
    segment_ids_BL: of the row; None where the tokens see what is in a cache
      instead of the row.
    slots_BL: where the tokens go in a cache; None without one.
  """

  turn: attention.Rotary
  mask_BLS: jax.Array
  segment_ids_BL: jax.Array | None = None
  slots_BL: jax.Array | None = None


class Layer(NamedTuple):
  """What a block needs to know of its own.

  Attributes:
    number: int32, from 0; None where `kept` is of this layer alone.
    kept: its keys and values; None without a cache, or where a loop carries
      those of all layers.
  """

  number: jax.Array | None = None
  kept: attention.KeysValues | None = None


class Block(nn.Module):
  """Attention, then feed-forward, each on a normed copy of the stream."""

  config: Config

  def setup(self):
    c = self.config
    self.norm1 = RMSNorm(c.norm_eps, c.dtype)
    self.attn = Attention(c)
    self.norm2 = RMSNorm(c.norm_eps, c.dtype)
    self.mlp = Mlp(c)

  def __call__(
    self, carry, layer: Layer, context: Context, deterministic: bool
  ):
    x_BLD, kept = carry
    is_carried = layer.kept is None
    names = ('batch', 'length', 'act_embed')
    x_BLD = nn.with_logical_constraint(x_BLD, names)
    out_BLD, kept = self.attn(
      self.norm1(x_BLD),
      context,
      layer.number,
      kept if is_carried else layer.kept,
      deterministic,
    )
    x_BLD = x_BLD + out_BLD
    x_BLD = x_BLD + self.mlp(self.norm2(x_BLD), deterministic)
    x_BLD = nn.with_logical_constraint(x_BLD, names)
    return ((x_BLD, kept), None) if is_carried else ((x_BLD, None), kept)


def _stack(config: Config) -> nn.Module:
  """All blocks: parameters on a leading axis, one after the other in a scan."""
  block = Block
  if (policy := REMAT[config.remat]) is not None:
    # A loop keeps XLA from merging the two computations; without one we must.
    block = nn.remat(
      Block,
      policy=policy,
      prevent_cse=config.unroll > 1,
      static_argnums=(4,),
    )
  return nn.scan(
    block,
    variable_axes={'params': 0},
    split_rngs={'params': True, 'dropout': True},
    in_axes=(0, nn.broadcast, nn.broadcast),
    length=config.layers,
    unroll=min(config.unroll, config.layers),
    metadata_params={nn.PARTITION_NAME: 'layers'},
  )(config)


class Embedding(nn.Module):
  """A table of V vectors."""

  config: Config

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    c = self.config
    # As large as what norms make of it: then tokens stay legible beneath what
    # the blocks add. Recalling one of 5 pairs in a row took 300 steps to learn
    # with 1.0, 400 with 0.5, and over 1200 with 0.02 or width^-0.5 (width 64,
    # 3 layers, AdamW at 3e-3).
    init = nn.with_logical_partitioning(
      nn.initializers.normal(1.0), ('vocab', 'embed')
    )
    shape = (c.vocab_size, c.width)
    embedding_VD = self.param('embedding', init, shape, jnp.float32)
    # Whole vectors before the look-up: XLA would otherwise give every device
    # what is found for all rows of the batch.
    embedding_VD = nn.with_logical_constraint(
      embedding_VD.astype(c.dtype), ('vocab', 'act_embed')
    )
    return jnp.take(embedding_VD, tokens, axis=0)


class Head(nn.Module):
  """Scores of all tokens, accumulated in float32."""

  config: Config

  @nn.compact
  def __call__(self, h: jax.Array) -> jax.Array:
    c = self.config
    init = nn.with_logical_partitioning(
      nn.initializers.normal(c.width**-0.5), ('embed', 'vocab')
    )
    kernel_DV = self.param('kernel', init, (c.width, c.vocab_size), jnp.float32)
    return jnp.einsum(
      '...d,dv->...v',
      h.astype(c.dtype),
      kernel_DV.astype(c.dtype),
      preferred_element_type=jnp.float32,
    )


class Llama(nn.Module):
  """Embeddings in, hidden states out; `embed` and `logits` are the two ends."""

  config: Config

  def setup(self):
    c = self.config
    # Module names are parameter paths, hence embed_ for the path `embed`.
    self.embedding = Embedding(c, name='embed')
    self.blocks = _stack(c)
    self.norm = RMSNorm(c.norm_eps, c.dtype)
    self.head = Head(c)

  def embed(self, tokens: jax.Array) -> jax.Array:
    """int32 [...] -> [..., D]."""
    return self.embedding(tokens)

  def __call__(
    self,
    x_BLD: jax.Array,
    positions_BL: jax.Array,
    segment_ids_BL: jax.Array,
    *,
    deterministic: bool = True,
  ) -> jax.Array:
    """Hidden states after the last norm, [B, L, D].

    Args:
      x_BLD: embeddings.
      positions_BL: int32, restart with every segment.
      segment_ids_BL: int32, 1, 2, ... in a row; 0 is padding.
      deterministic: False while training, for the adapters' dropout.
    """
    keys = positions_BL, segment_ids_BL
    context = Context(
      turn=self._turn(positions_BL),
      mask_BLS=attention.mask(positions_BL, segment_ids_BL, *keys),
      segment_ids_BL=segment_ids_BL,
    )
    x_BLD, _ = self._run(x_BLD, None, context, deterministic)
    return self.norm(x_BLD)

  def begin(
    self, x_BLD: jax.Array, length_B: jax.Array, cache: attention.Cache
  ) -> tuple[jax.Array, attention.Cache]:
    """`extend` for a cache that is empty, and has a slot for every token.

    The tokens need not look into it: they see each other as in training, as
    fast as the devices can.
    """
    offsets = jnp.broadcast_to(jnp.arange(x_BLD.shape[1]), x_BLD.shape[:2])
    is_token_BL = offsets < length_B[:, None]
    segment_ids_BL = is_token_BL.astype(jnp.int32)
    context = Context(
      turn=self._turn(offsets),
      mask_BLS=attention.mask(offsets, segment_ids_BL, offsets, segment_ids_BL),
      segment_ids_BL=segment_ids_BL,
      slots_BL=jnp.where(is_token_BL, offsets, cache.slots),
    )
    x_BLD, cache = self._run(x_BLD, cache, context, True)
    return self.norm(x_BLD), cache._replace(length=length_B)

  def extend(
    self, x_BLD: jax.Array, length_B: jax.Array, cache: attention.Cache
  ) -> tuple[jax.Array, attention.Cache]:
    """Reads on from a cache: one token, or another turn.

        cache.length = [3 0]     x = [a b -]     slots = [3 4 -]
        length       = [2 3]         [a b c]             [0 1 2]

    Args:
      x_BLD: embeddings of new tokens, padded on the right.
      length_B: int32, how many of them are tokens.
      cache: what the rows read before. Tokens for which it has no slot left
        are lost; who makes it long enough need not care.

    Returns:
      Hidden states after the last norm, [B, L, D], and the longer cache.
    """
    rows, num_slots = len(cache.length), cache.slots
    offsets = jnp.arange(x_BLD.shape[1])
    positions_BL = cache.length[:, None] + offsets
    slots_BS = jnp.broadcast_to(jnp.arange(num_slots), (rows, num_slots))
    context = Context(
      turn=self._turn(positions_BL),
      mask_BLS=attention.mask(
        positions_BL,
        jnp.ones_like(positions_BL),
        slots_BS,
        jnp.ones_like(slots_BS),
      ),
      slots_BL=jnp.where(offsets < length_B[:, None], positions_BL, num_slots),
    )
    x_BLD, cache = self._run(x_BLD, cache, context, True)
    return self.norm(x_BLD), cache._replace(length=cache.length + length_B)

  def logits(self, h: jax.Array) -> jax.Array:
    """[..., D] -> float32 [..., V]."""
    return self.head(h)

  def _turn(self, positions_BL: jax.Array) -> attention.Rotary:
    c = self.config
    return attention.rotary(positions_BL, c.head_dim, c.rope_theta)

  def _run(self, x_BLD, cache, context, deterministic):
    """Hidden states, and the cache with what is new, if there is one."""
    x_BLD = x_BLD.astype(self.config.dtype)
    numbers = jnp.arange(self.config.layers)
    if cache is None:
      (x_BLD, _), _ = self.blocks(
        (x_BLD, None), Layer(numbers), context, deterministic
      )
      return x_BLD, None
    if len(cache.k) == 1:
      kept = cache.k[0], cache.v[0]
      (x_BLD, kept), _ = self.blocks(
        (x_BLD, kept), Layer(numbers), context, deterministic
      )
      k, v = ((x,) for x in kept)
    else:
      # XLA sees that what is put together here is taken apart again.
      kept = jnp.concatenate(cache.k), jnp.concatenate(cache.v)
      (x_BLD, _), kept = self.blocks(
        (x_BLD, None), Layer(kept=kept), context, deterministic
      )
      k, v = (
        tuple(x[i : i + 1] for i in range(self.config.layers)) for x in kept
      )
    return x_BLD, cache._replace(k=k, v=v)
