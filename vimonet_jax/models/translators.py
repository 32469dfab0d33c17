"""From an encoder's features to the decoder's embeddings.

Motion goes through one linear layer, video through two with a GELU between
them (MotionLLM, https://arxiv.org/abs/2405.20340, section 3). There is nothing
around them: no norm, no position or type embedding. Parameters and computation
are float32, products included, whatever the networks on both sides use.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp


class Translators(nn.Module):
  """`motion` and `video`; one that is never called has no parameters.

  Attributes:
    width: D, the decoder's.
  """

  width: int

  def setup(self):
    self.motion = Linear(self.width)
    self.video = Mlp(self.width)


class Linear(nn.Module):
  """[..., E] -> float32 [..., D]."""

  width: int

  @nn.compact
  def __call__(self, features: jax.Array) -> jax.Array:
    return _dense(features, self.width, (None, 'embed'), 'in')


class Mlp(nn.Module):
  """[..., E] -> float32 [..., D], with D hidden units."""

  width: int

  @nn.compact
  def __call__(self, features: jax.Array) -> jax.Array:
    h = _dense(features, self.width, (None, 'mlp'), 'in')
    # Exact, as in torch: the published projector was trained with it.
    h = jax.nn.gelu(h, approximate=False)
    return _dense(h, self.width, ('mlp', 'embed'), 'out')


def _dense(x: jax.Array, width: int, names, name: str) -> jax.Array:
  """A linear layer that begins as torch's does: U(+-1 / sqrt(fan_in))."""
  bound = 1.0 / math.sqrt(x.shape[-1])

  def init(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return nn.Dense(
    width,
    dtype=jnp.float32,
    precision='highest',  # or a TPU rounds both factors to bfloat16
    kernel_init=nn.with_logical_partitioning(init, names),
    bias_init=nn.with_logical_partitioning(init, names[-1:]),
    name=name,
  )(x)
