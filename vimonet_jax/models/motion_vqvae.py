"""The motion VQ-VAE of T2M-GPT (https://arxiv.org/abs/2301.06052, section 3.1).

A convolutional encoder makes one latent of every four frames, a codebook snaps
latents to codes, a decoder makes motion again. The language model reads the
*continuous* latents of `Encoder`; codes exist to train it. B counts clips
here, T their frames at any resolution; E is a convolution's width.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vimonet_jax.models import dtypes

FEATURES = 263


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of encoder, codebook and decoder.

  Attributes:
    width: channels of all convolutions inside.
    code_dim: channels of a latent and of a code.
    num_codes: Q.
    depth: residual blocks at each resolution.
    dilation_growth: of the blocks' dilations, largest first: 9, 3, 1.
    down: how often time is halved.
    ema_decay: how much of the codes' running sums and counts a step keeps.
    dtype: of the convolutions, one of dtypes.NAMES; codes are looked up in
      float32 in any case.
  """

  width: int
  code_dim: int
  num_codes: int
  depth: int = 3
  dilation_growth: int = 3
  down: int = 2
  ema_decay: float = 0.99
  dtype: str = 'float32'

  def __post_init__(self):
    dtypes.check(self.dtype)

  @classmethod
  def t2m_gpt(cls, **changes) -> 'Config':
    """The published HumanML3D model, also MotionLLM's."""
    return cls(**{'width': 512, 'code_dim': 512, 'num_codes': 512, **changes})

  @property
  def frames_per_token(self) -> int:
    return 2**self.down

  @property
  def dilations(self) -> tuple[int, ...]:
    """Of the residual blocks in their order, in encoder and decoder alike.

    The published code reverses its list, so what is often quoted as 1, 3, 9
    runs as 9, 3, 1.
    """
    return tuple(self.dilation_growth**i for i in reversed(range(self.depth)))


class Output(NamedTuple):
  """What the VQ-VAE makes of a batch; scalars are float32."""

  decoded: jax.Array  # [B, T, 263]
  commitment: jax.Array  # mean squared distance of latents from their codes
  perplexity: jax.Array  # 1 (one code takes all) .. num_codes (even use)
  code_use: jax.Array  # share of the codes that somebody in the batch takes
  codes: jax.Array  # int32 [B, T / 4]


class MotionVqvae(nn.Module):
  """Encoder, quantizer and decoder, for training; mount it as `motion`."""

  config: Config

  @nn.compact
  def __call__(self, motion_BT263: jax.Array, *, train: bool) -> Output:
    """Reconstructs full windows.

    Args:
      motion_BT263: normalised features, T a multiple of four.
      train: let the codebook follow the latents; `codebook` must be mutable,
        and a batch of fewer latents than codes takes an rng `codebook`.
    """
    latents_BTE = Encoder(self.config, name='encoder')(motion_BT263)
    found = Quantizer(self.config, name='quantizer')(latents_BTE, train=train)
    decoded_BT263 = Decoder(self.config, name='decoder')(found.quantised)
    return Output(
      decoded=decoded_BT263,
      commitment=found.commitment,
      perplexity=found.perplexity,
      code_use=found.code_use,
      codes=found.codes,
    )


class Encoder(nn.Module):
  """Motion to continuous latents."""

  config: Config

  @nn.compact
  def __call__(
    self, motion_BT263: jax.Array, length_B: jax.Array | None = None
  ) -> jax.Array:
    """Encodes clips; one that is padded gives what it gives alone.

    Biases would make padding non-zero and the next convolution would carry it
    into the clip, so everything beyond a clip's length is zeroed before each
    convolution that looks beyond its own frame.

    Args:
      motion_BT263: normalised features.
      length_B: valid frames; None when every clip fills its T frames.

    Returns:
      [B, T // 4, code_dim], of which length // 4 are valid and the rest zero.
    """
    config = self.config
    x_BTE = _mask(motion_BT263.astype(config.dtype), length_B)
    x_BTE = _mask(_conv(config, config.width, 3, name='in')(x_BTE), length_B)
    x_BTE = jax.nn.relu(x_BTE)
    for i in range(config.down):
      length_B = None if length_B is None else length_B // 2
      x_BTE = _Down(config, name=f'down{i + 1}')(x_BTE, length_B)
    x_BTE = _conv(config, config.code_dim, 3, name='out')(x_BTE)
    return _mask(x_BTE, length_B)


class Decoder(nn.Module):
  """Latents or codes to motion, for full windows."""

  config: Config

  @nn.compact
  def __call__(self, x_BTE: jax.Array) -> jax.Array:
    """[B, T / 4, code_dim] to normalised features [B, T, 263]."""
    config = self.config
    x_BTE = _conv(config, config.width, 3, name='in')(x_BTE)
    x_BTE = jax.nn.relu(x_BTE)
    for i in range(config.down):
      x_BTE = _Up(config, name=f'up{i + 1}')(x_BTE)
    x_BTE = jax.nn.relu(_conv(config, config.width, 3, name='mid')(x_BTE))
    return _conv(config, FEATURES, 3, names=('embed', None), name='out')(x_BTE)


class _Down(nn.Module):
  config: Config

  @nn.compact
  def __call__(self, x_BTE, length_B):
    config = self.config
    x_BTE = _conv(config, config.width, 4, stride=2, name='conv')(x_BTE)
    x_BTE = _mask(x_BTE, length_B)
    for i, dilation in enumerate(config.dilations):
      x_BTE = _Residual(config, dilation, name=f'res{i + 1}')(x_BTE, length_B)
    return x_BTE


class _Up(nn.Module):
  config: Config

  @nn.compact
  def __call__(self, x_BTE):
    config = self.config
    for i, dilation in enumerate(config.dilations):
      x_BTE = _Residual(config, dilation, name=f'res{i + 1}')(x_BTE, None)
    x_BTE = jnp.repeat(x_BTE, 2, axis=1)
    return _conv(config, config.width, 3, name='conv')(x_BTE)


class _Residual(nn.Module):
  config: Config
  dilation: int

  @nn.compact
  def __call__(self, x_BTE, length_B):
    config, width = self.config, self.config.width
    h_BTE = _conv(config, width, 3, dilation=self.dilation, name='conv1')(
      jax.nn.relu(x_BTE)
    )
    # No mask here: a convolution of size 1 carries nothing across time.
    h_BTE = _conv(config, width, 1, name='conv2')(jax.nn.relu(h_BTE))
    return x_BTE + _mask(h_BTE, length_B)


def _mask(x_BTE: jax.Array, length_B: jax.Array | None) -> jax.Array:
  """Zeroes what lies beyond each clip's length."""
  if length_B is None:
    return x_BTE
  is_valid_BT = jnp.arange(x_BTE.shape[1]) < length_B[:, None]
  return jnp.where(is_valid_BT[..., None], x_BTE, 0)


def _conv(
  config: Config,
  width: int,
  size: int,
  *,
  stride: int = 1,
  dilation: int = 1,
  names: Sequence[str | None] = (None, 'embed'),
  name: str,
) -> nn.Module:
  # Explicit padding: SAME is one longer for size 4, stride 2 and an odd T.
  pad = dilation * (size - 1) // 2
  return nn.Conv(
    width,
    (size,),
    strides=(stride,),
    padding=[(pad, pad)],
    kernel_dilation=(dilation,),
    dtype=config.dtype,
    # What torch gives a fresh Conv1d: T2M-GPT's recipe begins there. With
    # lecun_normal the codes collapsed within 50 steps on smooth toy motion.
    kernel_init=nn.with_logical_partitioning(
      nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform'),
      ('conv', *names),
    ),
    bias_init=nn.with_logical_partitioning(nn.initializers.zeros, (names[-1],)),
    name=name,
  )


class Quantised(NamedTuple):
  """Latents snapped to their nearest codes; see `Output`."""

  quantised: jax.Array  # [B, T, code_dim], gradients pass straight through
  commitment: jax.Array
  perplexity: jax.Array
  code_use: jax.Array
  codes: jax.Array


class Quantizer(nn.Module):
  """A codebook that follows its latents by moving averages.

  It has no parameters. The collection `codebook` holds codebook [Q, E], sum
  [Q, E], count [Q] and is_initialised; all of it is saved and restored, so that
  resumed training goes on where it stopped.
  """

  config: Config

  @nn.compact
  def __call__(self, latents_BTE: jax.Array, *, train: bool) -> Quantised:
    config = self.config
    shape = (config.num_codes, config.code_dim)
    codebook = self.variable('codebook', 'codebook', jnp.zeros, shape)
    total = self.variable('codebook', 'sum', jnp.zeros, shape)
    count = self.variable('codebook', 'count', jnp.zeros, shape[:1])
    is_initialised = self.variable(
      'codebook', 'is_initialised', lambda: jnp.zeros((), bool)
    )
    x_BTE = latents_BTE.astype(jnp.float32)
    x_XE = jax.lax.stop_gradient(x_BTE).reshape(-1, config.code_dim)
    codebook_QE, sum_QE, count_Q = codebook.value, total.value, count.value
    updating = train and not self.is_initializing()
    if updating:
      first_QE = self._first(x_XE)
      old = is_initialised.value
      codebook_QE = jnp.where(old, codebook_QE, first_QE)
      sum_QE = jnp.where(old, sum_QE, first_QE)
      count_Q = jnp.where(old, count_Q, 1.0)

    codes_X = nearest(x_XE, codebook_QE)
    taken_XQ = jax.nn.one_hot(codes_X, config.num_codes)
    taken_Q = jnp.sum(taken_XQ, axis=0)
    quantised_BTE = codebook_QE[codes_X].reshape(x_BTE.shape)

    if updating:
      batch_QE = jnp.einsum('xq,xe->qe', taken_XQ, x_XE, precision='highest')
      decay = config.ema_decay
      sum_QE = decay * sum_QE + (1 - decay) * batch_QE
      count_Q = decay * count_Q + (1 - decay) * taken_Q
      # A code that fewer than one latent takes on average starts anew at one
      # of this batch's first latents; its sum and count go on.
      codebook.value = jnp.where(
        count_Q[:, None] >= 1.0, sum_QE / count_Q[:, None], first_QE
      )
      total.value, count.value = sum_QE, count_Q
      is_initialised.value = jnp.ones((), bool)

    share_Q = taken_Q / len(x_XE)
    return Quantised(
      quantised=x_BTE + jax.lax.stop_gradient(quantised_BTE - x_BTE),
      commitment=jnp.mean((x_BTE - jax.lax.stop_gradient(quantised_BTE)) ** 2),
      perplexity=jnp.exp(-jnp.sum(share_Q * jnp.log(share_Q + 1e-7))),
      code_use=jnp.mean(taken_Q > 0),
      codes=codes_X.reshape(x_BTE.shape[:2]),
    )

  def _first(self, x_XE: jax.Array) -> jax.Array:
    """The batch's first Q latents; fewer are repeated, with noise."""
    config = self.config
    if len(x_XE) < config.num_codes:
      if not self.has_rng('codebook'):
        raise ValueError(
          f'Expected at least {config.num_codes} latents, one for each code, '
          f"found {len(x_XE)}; use a larger batch or pass an rng 'codebook' "
          'for the noise between repeated ones.'
        )
      x_XE = jnp.tile(x_XE, (math.ceil(config.num_codes / len(x_XE)), 1))
      noise_XE = jax.random.normal(self.make_rng('codebook'), x_XE.shape)
      x_XE += 0.01 / math.sqrt(config.code_dim) * noise_XE
    return x_XE[: config.num_codes]


def nearest(x_XE: jax.Array, codebook_QE: jax.Array) -> jax.Array:
  """Each latent's code by squared distance, int32 [X].

  In float32 with full products: coarser ones flip codes that lie close.
  """
  x_XE, codebook_QE = (a.astype(jnp.float32) for a in (x_XE, codebook_QE))
  dot_XQ = jnp.einsum('xe,qe->xq', x_XE, codebook_QE, precision='highest')
  # |x|^2 is the same for all codes and only costs precision.
  distance_XQ = jnp.sum(codebook_QE**2, axis=1) - 2 * dot_XQ
  return jnp.argmin(distance_XQ, axis=1).astype(jnp.int32)
