"""Attention of the decoder: masks, back ends, rotary positions and the cache.

    B rows in a batch   L tokens in a row   S keys or slots of a cache
    N heads             K kv heads          H head size

Pure functions of arrays; the projections around them are in llama.py.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import PartitionSpec

# Who computes attention within a row; `auto` takes the last one that can.
BACKENDS = ('auto', 'xla', 'cudnn', 'splash')
# Of rows that splash attention cuts; lanes of a TPU.
_BLOCKS = (512, 256, 128)
# Without a kernel: four blocks of queries have 5 / 8 of all scores. Blocks of
# fewer queries cost more than they save.
_QUERY_BLOCKS, _SMALLEST_BLOCK = 4, 64


def check(backend: str) -> None:
  """Raises a ValueError unless `backend` is one of BACKENDS."""
  if backend not in BACKENDS:
    raise ValueError(
      f'Expected attention to be one of {", ".join(BACKENDS)}, found '
      f'{backend!r}.'
    )


def mask(
  positions_BL: jax.Array,
  segment_ids_BL: jax.Array,
  key_positions_BS: jax.Array,
  key_segment_ids_BS: jax.Array,
) -> jax.Array:
  """Which keys a query sees: those of its segment that do not come later.

      segment_ids   1 1 1 2 2 0          1 | x . . . . .
      positions     0 1 2 0 1 0          1 | x x . . . .
                                         1 | x x x . . .
      rows: queries, columns: keys       2 | . . . x . .
                                         2 | . . . x x .
                                         0 | . . . . . x

  Padding, segment 0, sees only padding and is seen only by padding. A cache is
  one segment, in which a key's position is its slot: what is not in use lies
  after every token.

  Returns:
    bool [B, L, S].
  """
  same_segment = segment_ids_BL[:, :, None] == key_segment_ids_BS[:, None, :]
  not_later = positions_BL[:, :, None] >= key_positions_BS[:, None, :]
  return same_segment & not_later


def attend(
  q_BLNH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, mask_BLS: jax.Array
) -> jax.Array:
  """Softmax attention, each kv head for N / K query heads -> [B, L, N, H].

  Scores and softmax are float32. A query that sees nothing gets the mean of
  all values, which is finite.
  """
  N, H = q_BLNH.shape[2:]
  repeats = N // k_BKSH.shape[1]
  k_BNSH = jnp.repeat(k_BKSH, repeats, axis=1)
  v_BNSH = jnp.repeat(v_BKSH, repeats, axis=1)
  scores_BNLS = jnp.einsum(
    'blnh,bnsh->bnls',
    q_BLNH,
    k_BNSH,
    preferred_element_type=jnp.float32,
  )
  # Not the queries, which bfloat16 would round once more.
  scores_BNLS = scores_BNLS / math.sqrt(H)
  scores_BNLS = jnp.where(mask_BLS[:, None], scores_BNLS, -1e30)
  weights_BNLS = jax.nn.softmax(scores_BNLS).astype(v_BNSH.dtype)
  return jnp.einsum('bnls,bnsh->blnh', weights_BNLS, v_BNSH)


def attend_within(
  q_BLNH: jax.Array,
  k_BLKH: jax.Array,
  v_BLKH: jax.Array,
  mask_BLL: jax.Array,
  segment_ids_BL: jax.Array,
  backend: str = 'auto',
) -> jax.Array:
  """`attend` for rows that see themselves, as fast as the devices can.

  Args:
    q_BLNH: queries.
    k_BLKH: keys of the same tokens.
    v_BLKH: their values.
    mask_BLL: from `mask`, where positions of a segment ascend.
    segment_ids_BL: that it was made from.
    backend: one of BACKENDS. `xla` is what the others are compared with, and
      writes scores to memory. `cudnn` is FlashAttention on GPUs from Ampere
      on, in 16 bits. `splash` runs on TPUs and needs rows that are a multiple
      of 128, and heads of 128.

  Returns:
    [B, L, N, H]. Of padding, only that it is finite is promised.
  """
  if backend == 'auto':
    backend = _fastest(q_BLNH)
  if backend == 'xla':
    return _by_blocks(q_BLNH, k_BLKH, v_BLKH, mask_BLL)
  if backend == 'cudnn':
    return _cudnn(q_BLNH, k_BLKH, v_BLKH, mask_BLL, segment_ids_BL)
  return _splash(q_BLNH, k_BLKH, v_BLKH, segment_ids_BL)


def _fastest(q_BLNH: jax.Array) -> str:
  """The back end for the devices of the mesh, which need not be there."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  platform = device.platform if device else jax.default_backend()
  L, _, H = q_BLNH.shape[1:]
  if platform == 'tpu' and L % _BLOCKS[-1] == 0 and H % 128 == 0:
    return 'splash'
  if platform in ('gpu', 'cuda') and q_BLNH.dtype.itemsize == 2:
    fits = L % 2 == 0 and H % 8 == 0 and H <= 128
    return 'cudnn' if fits and _is_ampere_or_newer() else 'xla'
  return 'xla'


def _is_ampere_or_newer() -> bool:
  """Of the GPUs here: NVIDIA's, and not of before 2020."""
  capability = getattr(jax.local_devices()[0], 'compute_capability', '')
  major = str(capability).partition('.')[0]
  return major.isdecimal() and int(major) >= 8


def _by_blocks(q_BLNH, k_BLKH, v_BLKH, mask_BLL):
  """Blocks of queries, each with the keys up to its end: none sees a later."""
  L = q_BLNH.shape[1]
  blocks = min(_QUERY_BLOCKS, max(1, L // _SMALLEST_BLOCK))
  size = -(-L // blocks)
  k_BKLH, v_BKLH = (jnp.swapaxes(x, 1, 2) for x in (k_BLKH, v_BLKH))
  return jnp.concatenate(
    [
      attend(
        q_BLNH[:, start : start + size],
        k_BKLH[:, :, : start + size],
        v_BKLH[:, :, : start + size],
        mask_BLL[:, start : start + size, : start + size],
      )
      for start in range(0, L, size)
    ],
    axis=1,
  )


def _cudnn(q_BLNH, k_BLKH, v_BLKH, mask_BLL, segment_ids_BL):
  """FlashAttention, without a mask where each row is one segment.

  A mask is added to the scores, and the backward pass then writes its gradient
  too, which nobody needs (jax 0.10.2; jax-ml/jax issue 34685).
  """
  attend_here = functools.partial(
    jax.nn.dot_product_attention,
    is_causal=True,  # It skips what lies above the diagonal.
    implementation='cudnn',
  )

  def alone(q_BLNH, k_BLKH, v_BLKH):
    length_B = jnp.sum(segment_ids_BL > 0, axis=1, dtype=jnp.int32)
    return attend_here(
      q_BLNH,
      k_BLKH,
      v_BLKH,
      query_seq_lengths=length_B,
      key_value_seq_lengths=length_B,
    )

  def together(q_BLNH, k_BLKH, v_BLKH):
    return attend_here(q_BLNH, k_BLKH, v_BLKH, mask=mask_BLL[:, None])

  return jax.lax.cond(
    jnp.max(segment_ids_BL) <= 1, alone, together, q_BLNH, k_BLKH, v_BLKH
  )


def _splash(q_BLNH, k_BLKH, v_BLKH, segment_ids_BL, *, interpret=False):
  """Each device its own rows and heads; scores never leave a chip."""
  repeats = q_BLNH.shape[2] // k_BLKH.shape[2]
  k_BLNH = jnp.repeat(k_BLKH, repeats, axis=2)
  v_BLNH = jnp.repeat(v_BLKH, repeats, axis=2)
  # It has no factor of its own.
  q_BLNH = (q_BLNH / math.sqrt(q_BLNH.shape[-1])).astype(q_BLNH.dtype)

  def attend_here(q_BLNH, k_BLNH, v_BLNH, segment_ids_BL):
    kernel = _splash_kernel(*q_BLNH.shape[1:3], interpret)
    heads_first = (jnp.swapaxes(x, 1, 2) for x in (q_BLNH, k_BLNH, v_BLNH))
    ids = splash.SegmentIds(segment_ids_BL, segment_ids_BL)
    return jnp.swapaxes(jax.vmap(kernel)(*heads_first, ids), 1, 2)

  mesh = jax.sharding.get_abstract_mesh()
  if not mesh.empty:
    rows = ('data', 'fsdp')
    heads = PartitionSpec(rows, None, 'tensor', None)
    attend_here = jax.shard_map(
      attend_here,
      in_specs=(heads, heads, heads, PartitionSpec(rows, None)),
      out_specs=heads,
      check_vma=False,
    )
  return attend_here(q_BLNH, k_BLNH, v_BLNH, segment_ids_BL)


def _splash_kernel(length: int, heads: int, interpret: bool):
  block = next(size for size in _BLOCKS if length % size == 0)
  causal = splash.CausalMask((length, length))
  return splash.make_splash_mha(
    splash.MultiHeadMask([causal] * heads),
    block_sizes=splash.BlockSizes(
      block_q=block,
      block_kv=block,
      block_q_dkv=block,
      block_kv_dkv=block,
      block_q_dq=block,
      block_kv_dq=block,
    ),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )


class Rotary(NamedTuple):
  """What turns each position's heads, float32 [B, L, 1, H].

  Both halves of a head have the same cosines and opposite sines.
  """

  cos: jax.Array
  sin: jax.Array


def rotary(positions_BL: jax.Array, head_dim: int, theta: float) -> Rotary:
  """Angle j of position p is p * theta^(-2j / H), in float32."""
  exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  angles = positions_BL[:, :, None, None] * theta**-exponents
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  return Rotary(
    cos=jnp.concatenate([cos, cos], axis=-1),
    sin=jnp.concatenate([-sin, sin], axis=-1),
  )


def rotate(x_BLNH: jax.Array, turn: Rotary) -> jax.Array:
  """Turns the pairs (j, j + H/2) of every head, in float32."""
  turned = x_BLNH.astype(jnp.float32)
  partner = jnp.roll(turned, x_BLNH.shape[-1] // 2, axis=-1)
  turned = turned * turn.cos + partner * turn.sin
  return turned.astype(x_BLNH.dtype)


class Cache(NamedTuple):
  """Keys and values of what was read so far; a token's slot is its position.

  Attributes:
    k: one or more stacks [layers, B, K, S, H] that are all layers together, of
      keys turned to their positions. A head's slots lie together, as they are
      read; a CPU would put them so for every token.
    v: alike.
    length: int32 [B], slots in use; the rest is never attended to.
  """

  k: tuple[jax.Array, ...]
  v: tuple[jax.Array, ...]
  length: jax.Array

  @property
  def slots(self) -> int:
    """S."""
    return self.k[0].shape[3]


# Keys and values of one layer, [B, K, S, H], or of all of them.
KeysValues = tuple[jax.Array, jax.Array]


def init_cache(config: Any, batch: int, length: int) -> Cache:
  """An empty cache of `length` slots for each of `batch` rows.

  Where no loop goes over the layers each has a stack of its own: to take one
  out of a stack of all costs as much as to attend to it.

  Args:
    config: has layers, unroll, kv_heads, head_dim and dtype, as llama.Config
      does.
    batch: B.
    length: S.
  """
  stacks = config.layers if config.unroll >= config.layers else 1
  shape = (
    config.layers // stacks, batch, config.kv_heads, length, config.head_dim
  )  # fmt: skip
  empty = tuple(jnp.zeros(shape, config.dtype) for _ in range(stacks))
  return Cache(k=empty, v=empty, length=jnp.zeros(batch, jnp.int32))


def write(
  kept: KeysValues,
  k_BLKH: jax.Array,
  v_BLKH: jax.Array,
  layer: jax.Array | None,
  slots_BL: jax.Array,
) -> KeysValues:
  """Puts each token's key and value into its slot; slot S is nowhere.

  Args:
    kept: of all layers, or of one.
    k_BLKH: new keys.
    v_BLKH: new values.
    layer: which one they are of; None where there is only one.
    slots_BL: int32.
  """
  rows_B1 = jnp.arange(len(slots_BL))[:, None]
  before = () if layer is None else (layer,)

  def put(old, new_BLKH):
    where = (*before, rows_B1, slice(None), slots_BL)
    return old.at[where].set(new_BLKH.astype(old.dtype), mode='drop')

  k, v = kept
  return put(k, k_BLKH), put(v, v_BLKH)
