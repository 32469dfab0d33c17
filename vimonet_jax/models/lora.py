"""The one projection of the decoder: a dense layer that may carry an adapter.

LoRA (https://arxiv.org/abs/2106.09685) adds a product of two thin matrices to a
kernel that stays as it was. Rank 0 is an ordinary dense layer with the same
`kernel` path, so a base checkpoint loads into either; `merge` goes from one to
the other.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vimonet_jax.models import quantize


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """What the adapters of a network look like.

  Attributes:
    rank: width of the adapters; 0 means there are none.
    alpha: the adapters' output is multiplied by alpha / rank.
    dropout: share of an adapter's input that is dropped while training.
    targets: names of the projections that have one, as in `('q', 'v')`.
  """

  rank: int = 0
  alpha: float = 16.0
  dropout: float = 0.0
  targets: tuple[str, ...] = ('q', 'v')

  @property
  def scale(self) -> float:
    return self.alpha / self.rank if self.rank else 0.0

  def is_like(self, other: 'LoraConfig') -> bool:
    """Whether the same weights mean the same with both."""
    mine = self.rank, self.scale, set(self.targets)
    return mine == (other.rank, other.scale, set(other.targets))


class LoraDense(nn.Module):
  """x @ kernel, plus alpha / rank * x @ lora_a @ lora_b where rank > 0.

      kernel [*inputs, *features]   lora_a [*inputs, R]   lora_b [R, *features]

  Attributes:
    features: output axes, as in `(N, H)` for queries.
    names: logical names of the kernel's axes; as many of them as there are
      more than `features` are contracted with the last axes of the input.
    stddev: deviation of the fresh kernel's normal distribution.
    lora: the adapter; its `targets` are for the caller to look at.
    dtype: dtype of the computation. Parameters are made in float32.
    quantize: what the kernel is kept in, of quantize.KINDS.
  """

  features: tuple[int, ...]
  names: tuple[str | None, ...]
  stddev: float
  lora: LoraConfig = LoraConfig()
  dtype: Any = jnp.float32
  quantize: str = ''

  @nn.compact
  def __call__(self, x: jax.Array, *, deterministic: bool = True) -> jax.Array:
    """[..., *inputs] -> [..., *features]; only training is not deterministic.

    Dropout needs the random stream `dropout`.
    """
    num_inputs = len(self.names) - len(self.features)
    inputs = x.shape[x.ndim - num_inputs :]
    batch = x.shape[: x.ndim - num_inputs]

    def matrix(name, init, shape, names, rows):
      init = nn.with_logical_partitioning(init, names)
      array = self.param(name, init, shape, jnp.float32)
      return array.astype(self.dtype).reshape(rows, -1)

    # Products of two matrices only. In a gradient that sums over several axes
    # the CPU backend needs up to 40 % more time.
    fan_in = math.prod(inputs)
    x = x.astype(self.dtype).reshape(-1, fan_in)
    init = nn.initializers.normal(self.stddev)
    if self.quantize:
      y = quantize.dot(x, self.param('kernel', self._quantised, init, inputs))
    else:
      shape = (*inputs, *self.features)
      y = x @ matrix('kernel', init, shape, self.names, fan_in)
    if rank := self.lora.rank:
      a_shape, b_shape = (*inputs, rank), (rank, *self.features)
      a_names = (*self.names[:num_inputs], 'rank')
      b_names = ('rank', *self.names[num_inputs:])
      lora_a = matrix('lora_a', _kaiming_uniform, a_shape, a_names, fan_in)
      lora_b = matrix('lora_b', nn.initializers.zeros, b_shape, b_names, rank)
      if self.lora.dropout:
        x = nn.Dropout(self.lora.dropout)(x, deterministic=deterministic)
      y += self.lora.scale * (x @ lora_a @ lora_b)
    return y.reshape(*batch, *self.features)

  def _quantised(self, key, init, inputs):
    kind, kernel = self.quantize, init(key, (*inputs, *self.features))
    made = quantize.quantize(
      kernel, kind, quantize.scale_shape(kind, inputs, self.features)
    )
    return {
      part: nn.LogicallyPartitioned(
        x,
        # One scale for a whole axis is not divided.
        tuple(
          name if size == whole else f'{name}_blocks' if size > 1 else None
          for name, size, whole in zip(
            self.names, x.shape, kernel.shape, strict=True
          )
        ),
      )
      for part, x in made.items()
    }


def _kaiming_uniform(key, shape, dtype):
  """U(-b, b) with b = 1 / sqrt(fan_in): Kaiming's rule with a = sqrt(5)."""
  bound = 1.0 / math.sqrt(math.prod(shape[:-1]))
  return jax.random.uniform(key, shape, dtype, -bound, bound)


def merge(flat: Mapping[str, Any], lora: LoraConfig) -> dict[str, Any]:
  """Adds every adapter to its kernel; the result has kernels only.

  Args:
    flat: path -> parameter. Where the path has `/blocks/` in it, layers are
      stacked on axis 0.
    lora: the configuration that the adapters were trained with.

  Returns:
    A new flat dict without `lora_a` and `lora_b`.
  """
  return {path: merged(flat, path, lora) for path in kept(flat)}


def kept(flat: Iterable[str]) -> list[str]:
  """The paths that are left when adapters are merged.

  Raises:
    ValueError: an adapter has no kernel to be added to.
  """
  flat, parts = set(flat), ('/lora_a', '/lora_b')
  for path in flat:
    owner = path.rpartition('/')[0]
    if path.endswith(parts) and f'{owner}/kernel' not in flat:
      raise ValueError(
        f'Expected {owner} to have a kernel for its adapter, found '
        f'{sorted(p for p in flat if p.startswith(owner))}; give the decoder '
        'that the adapter was trained on, too.'
      )
  return sorted(path for path in flat if not path.endswith(parts))


def merged(flat: Mapping[str, Any], path: str, lora: LoraConfig) -> Any:
  """The parameter at a path, with its adapter added where it has one.

  The product is taken in float32, layer by layer, and the sum rounded to the
  kernel's dtype once.

  Raises:
    ValueError: half of the adapter is missing, or it has another rank.
  """
  owner = path.removesuffix('/kernel')
  names = f'{owner}/lora_a', f'{owner}/lora_b'
  if owner == path or not any(name in flat for name in names):
    return flat[path]
  if not all(name in flat for name in names):
    ranks = [name for name in names if name in flat]
  else:
    lora_a, lora_b = (jnp.asarray(flat[name]) for name in names)
    ranks = lora_a.shape[-1]
  if ranks != lora.rank:
    raise ValueError(
      f'Expected {owner} to have lora_a and lora_b of rank {lora.rank}, found '
      f'{ranks}; merge with the configuration that the adapters were trained '
      'with.'
    )

  def add(layer):
    kernel, lora_a, lora_b = layer
    product = jnp.tensordot(
      lora_a.astype(jnp.float32),
      lora_b.astype(jnp.float32),
      1,
      precision='highest',
    )
    total = kernel.astype(jnp.float32) + lora.scale * product
    return total.astype(kernel.dtype)

  layers = jnp.asarray(flat[path]), lora_a, lora_b
  return jax.lax.map(add, layers) if '/blocks/' in f'/{path}' else add(layers)
