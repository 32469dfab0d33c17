"""The video tower: CLIP's ViT with attention over time in every block.

It follows LanguageBind (https://arxiv.org/abs/2310.01852, section 3): the same
patches, class token and positions for each frame; a block adds its temporal
embedding, attends over the frames at each position, then over the positions of
each frame. Letters beyond style.md: S positions of a frame (class token first,
then P patches, row by row). B counts clips here.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from vimonet_jax.models import dtypes

# Of the RGB values in 0..1 that CLIP was trained with.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of the tower.

  Attributes:
    width: E.
    layers: blocks that are computed. Features are the output of the last one,
      with no norm after it.
    heads: N, of width / heads each.
    mlp_width: F.
    image_size: side of a frame in pixels.
    patch_size: side of a patch in pixels; divides image_size.
    frames: I, frames of a clip, no more and no less.
    keep_class_token: return each frame's class token before its patches.
    norm_eps: of every layer norm.
    dtype: of the computation, one of dtypes.NAMES; norms and softmax are
      float32 in any case.
    remat: compute a block again for its gradient instead of keeping it.
    unroll: blocks per iteration of the scan over blocks.
  """

  width: int
  layers: int
  heads: int
  mlp_width: int
  image_size: int
  patch_size: int
  frames: int = 8
  keep_class_token: bool = False
  norm_eps: float = 1e-5
  dtype: str = 'float32'
  remat: bool = False
  unroll: int = 1

  def __post_init__(self):
    if self.image_size % self.patch_size or self.width % self.heads:
      raise ValueError(
        'Expected patch_size to divide image_size and heads to divide width, '
        f'found {self}; change one of them.'
      )
    dtypes.check(self.dtype)

  @classmethod
  def languagebind(cls, **changes) -> 'Config':
    """LanguageBind_Video_merge as MotionLLM reads it.

    CLIP ViT-L/14: width, heads, mlp_width, image and patch. LanguageBind:
    8 frames, eps 1e-5, exact GELU. MotionLLM: the features of the
    second-to-last of 25 hidden states, which is the output of block 23 of 24,
    and no class tokens (Video-LLaVA keeps them): 8 x 256 = 2048 tokens.
    """
    sizes = {
      'width': 1024,
      'layers': 23,
      'heads': 16,
      'mlp_width': 4096,
      'image_size': 224,
      'patch_size': 14,
      'dtype': 'bfloat16',
    }
    return cls(**{**sizes, **changes})

  @property
  def num_patches(self) -> int:
    """P, patches of one frame."""
    return (self.image_size // self.patch_size) ** 2

  @property
  def num_tokens(self) -> int:
    """Tokens of one clip."""
    return self.frames * (self.num_patches + self.keep_class_token)


# From scratch. Positions weigh as much as the patches that they are added to:
# in a toy task (one seed, 96 wide) a patch's place was hardly found after 150
# steps with 0.02 and always after 100 with 1; the direction of a movement came
# later with 1 than with 0.02. Kernels: see `_Dense`.
_POSITION_INIT = nn.initializers.truncated_normal(1.0)
_TEMPORAL_INIT = nn.initializers.truncated_normal(0.1)


class ClipVideo(nn.Module):
  """Frames to tokens."""

  config: Config

  def setup(self):
    config = self.config
    size, width = config.patch_size, config.width
    self.patch = _Dense(
      (size, size, 3),
      (width,),
      ('conv', None, None, 'embed'),
      config.dtype,
      use_bias=False,
    )
    self.class_embedding = self.param(
      'class_embedding',
      nn.with_logical_partitioning(_POSITION_INIT, ('embed',)),
      (width,),
    )
    self.position_embedding = self.param(
      'position_embedding',
      nn.with_logical_partitioning(_POSITION_INIT, (None, 'embed')),
      (config.num_patches + 1, width),
    )
    self.pre_norm = _norm(config)
    block = nn.remat(_Block, prevent_cse=False) if config.remat else _Block
    self.blocks = nn.scan(
      block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=config.layers,
      unroll=config.unroll,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )(config)

  def __call__(self, frames: jax.Array) -> jax.Array:
    """Encodes clips.

    Args:
      frames: [B, I, H, W, 3] RGB. uint8 frames are normalised here with CLIP's
        mean and deviation; floating frames are taken as normalised already.

    Returns:
      [B, I * P, E], frame after frame and row after row of patches; with
      keep_class_token [B, I * (P + 1), E].

    Raises:
      ValueError: another number or size of frames, or another dtype.
    """
    x_BISE, _ = self.blocks(self.embed(frames), None)
    if not self.config.keep_class_token:
      x_BISE = x_BISE[:, :, 1:]
    return x_BISE.reshape(x_BISE.shape[0], -1, x_BISE.shape[-1])

  def embed(self, frames: jax.Array) -> jax.Array:
    """What enters the first block, [B, I, S, E]."""
    config = self.config
    pixels_BIHW3 = _normalise(frames, config)
    # Patches do not overlap, so the convolution is a product with each.
    side, size = config.image_size // config.patch_size, config.patch_size
    pixels = pixels_BIHW3.reshape(-1, side, size, side, size, 3)
    x_BIPE = self.patch(pixels.swapaxes(2, 3)).reshape(
      len(frames), config.frames, config.num_patches, config.width
    )
    class_BI1E = jnp.broadcast_to(
      self.class_embedding.astype(x_BIPE.dtype),
      (*x_BIPE.shape[:2], 1, x_BIPE.shape[-1]),
    )
    x_BISE = jnp.concatenate([class_BI1E, x_BIPE], axis=2)
    x_BISE += self.position_embedding.astype(x_BISE.dtype)
    return _constrain(self.pre_norm(x_BISE))


def _normalise(frames: jax.Array, config: Config) -> jax.Array:
  wanted = (config.frames, config.image_size, config.image_size, 3)
  if frames.ndim != 5 or frames.shape[1:] != wanted:
    raise ValueError(
      f'Expected frames [B, {", ".join(map(str, wanted))}], found '
      f'{list(frames.shape)}; sample and resize clips with '
      'vimonet_jax.data.video.'
    )
  if frames.dtype == jnp.uint8:
    # In float32, so that bfloat16 rounds only once, at the end.
    mean, std = jnp.asarray(PIXEL_MEAN), jnp.asarray(PIXEL_STD)
    frames = (frames.astype(jnp.float32) / 255.0 - mean) / std
  elif not jnp.issubdtype(frames.dtype, jnp.floating):
    raise ValueError(
      'Expected frames as uint8, or floating and normalised, found '
      f'{frames.dtype}; convert them.'
    )
  return frames.astype(config.dtype)


def _constrain(x_BISE: jax.Array) -> jax.Array:
  return nn.with_logical_constraint(x_BISE, ('batch', None, None, 'act_embed'))


def _norm(config: Config, name: str | None = None) -> nn.LayerNorm:
  return nn.LayerNorm(
    epsilon=config.norm_eps,
    dtype=config.dtype,  # of the result; statistics are float32
    use_fast_variance=False,  # CLIP has channels far from zero
    scale_init=nn.with_logical_partitioning(nn.initializers.ones, ('embed',)),
    bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ('embed',)),
    name=name,
  )


class _Dense(nn.Module):
  """A linear map between any number of axes; kernel [*inputs, *outputs].

  Attributes:
    inputs: sizes of the axes that it takes away.
    outputs: sizes of the axes that it puts in their place.
    names: logical names of inputs and outputs.
    dtype: of the computation.
    use_bias: add one of shape outputs.
  """

  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  names: tuple[str | None, ...]
  dtype: str
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    fan_in = math.prod(self.inputs)
    kernel = self.param(
      'kernel',
      # By fan-in: CLIP's 0.02 is too small for a narrow tower.
      nn.with_logical_partitioning(
        nn.initializers.truncated_normal(fan_in**-0.5), self.names
      ),
      (*self.inputs, *self.outputs),
    )
    # One product of two matrices: outside a scan, XLA's CPU backend took ten
    # times as long for the gradient of an MLP whose products kept the axes.
    y = x.astype(self.dtype).reshape(-1, fan_in)
    y = y @ kernel.astype(self.dtype).reshape(fan_in, -1)
    if self.use_bias:
      bias = self.param(
        'bias',
        nn.with_logical_partitioning(
          nn.initializers.zeros, self.names[len(self.inputs) :]
        ),
        self.outputs,
      )
      y += bias.astype(self.dtype).reshape(-1)
    return y.reshape(*x.shape[: x.ndim - len(self.inputs)], *self.outputs)


class _Attention(nn.Module):
  """Full self-attention over frames (temporal) or over positions (spatial)."""

  config: Config
  temporal: bool

  @nn.compact
  def __call__(self, x_BISE: jax.Array) -> jax.Array:
    config = self.config
    width, heads = config.width, config.heads
    size = width // heads

    def project(name):
      dense = _Dense(
        (width,),
        (heads, size),
        ('embed', 'heads', 'head_dim'),
        config.dtype,
        name=name,
      )
      return nn.with_logical_constraint(
        dense(x_BISE), ('batch', None, None, 'act_heads', None)
      )

    q_BISNH = project('q') * size**-0.5
    k_BISNH, v_BISNH = project('k'), project('v')
    if self.temporal:
      scores, mix = 'bisnh,bjsnh->bsnij', 'bsnij,bjsnh->bisnh'
    else:
      scores, mix = 'bisnh,bitnh->binst', 'binst,bitnh->bisnh'
    weights = jnp.einsum(scores, q_BISNH, k_BISNH)
    weights = jax.nn.softmax(weights.astype(jnp.float32))
    x_BISNH = jnp.einsum(mix, weights.astype(config.dtype), v_BISNH)
    return _Dense(
      (heads, size),
      (width,),
      ('heads', 'head_dim', 'embed'),
      config.dtype,
      name='o',
    )(x_BISNH)


class _Mlp(nn.Module):
  config: Config

  @nn.compact
  def __call__(self, x_BISE: jax.Array) -> jax.Array:
    config = self.config
    x_BISF = _Dense(
      (config.width,),
      (config.mlp_width,),
      ('embed', 'mlp'),
      config.dtype,
      name='in',
    )(x_BISE)
    # Exact: LanguageBind's config says gelu, not CLIP's usual quick_gelu.
    x_BISF = jax.nn.gelu(x_BISF, approximate=False)
    x_BISF = nn.with_logical_constraint(
      x_BISF, ('batch', None, None, 'act_mlp')
    )
    return _Dense(
      (config.mlp_width,),
      (config.width,),
      ('mlp', 'embed'),
      config.dtype,
      name='out',
    )(x_BISF)


class _Block(nn.Module):
  config: Config

  @nn.compact
  def __call__(self, x_BISE: jax.Array, _) -> tuple[jax.Array, None]:
    config = self.config
    temporal_IE = self.param(
      'temporal_embedding',
      nn.with_logical_partitioning(_TEMPORAL_INIT, (None, 'embed')),
      (config.frames, config.width),
    )
    # Stays in the residual stream: every block adds its own on top.
    x_BISE += temporal_IE[:, None].astype(x_BISE.dtype)
    for temporal, norm, name in (
      (True, 'temporal_norm', 'temporal'),
      (False, 'norm1', 'spatial'),
    ):
      h_BISE = _norm(config, norm)(x_BISE)
      x_BISE += _Attention(config, temporal, name=name)(h_BISE)
    x_BISE += _Mlp(config, name='mlp')(_norm(config, 'norm2')(x_BISE))
    return _constrain(x_BISE), None
