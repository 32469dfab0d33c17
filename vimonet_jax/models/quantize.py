"""Frozen kernels in fewer bits than they are computed with.

    int8   8 bits, one scale per output channel: half of bfloat16's bytes
    nf4    4 bits, 16 values at the quantiles of a normal distribution, one
           scale per block of 64 inputs (https://arxiv.org/abs/2305.14314)

A quantised kernel is two arrays in place of one, `kernel/qvalue` and
`kernel/scale`. Nothing trains them: gradients go through to the inputs only,
and the backward pass finds the few bits and not the kernel that they stand for.
The rounding itself is qwix's.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import qwix

# Name -> dtype that the values are kept in; '' is a kernel as it is.
KINDS = {'': None, 'int8': jnp.int8, 'nf4': jnp.uint4}
_BLOCK = 64
_PARTS = ('/qvalue', '/scale')

Kernel = Mapping[str, jax.Array]


def check(kind: str) -> None:
  """Raises a ValueError unless `kind` is one of KINDS."""
  if kind not in KINDS:
    raise ValueError(
      f"Expected quantize to be {', '.join(filter(None, KINDS))} or '', found "
      f'{kind!r}; choose one of them.'
    )


def scale_shape(
  kind: str, inputs: Sequence[int], features: Sequence[int]
) -> tuple[int, ...]:
  """Of a kernel [*inputs, *features]; as many axes, those of size 1 shared."""
  if kind == 'int8':
    return (*[1] * len(inputs), *features)
  blocks = inputs[-1] // math.gcd(_BLOCK, inputs[-1])
  return (*inputs[:-1], blocks, *features)


def quantize(
  kernel: jax.Array, kind: str, scale: Sequence[int]
) -> dict[str, jax.Array]:
  """Rounds a kernel to the nearest values that its kind has.

  Args:
    kernel: [*inputs, *features], of any real dtype.
    kind: of KINDS, but not ''.
    scale: its shape, from `scale_shape`.

  Returns:
    qvalue, of the kernel's shape, and scale, float32.
  """
  axes = list(enumerate(zip(kernel.shape, scale, strict=True)))
  # In bfloat16 the quotient would be rounded before it is rounded.
  made = qwix.quantize(
    kernel.astype(jnp.float32),
    KINDS[kind] if kind == 'int8' else kind,
    channelwise_axes=[axis for axis, (size, n) in axes if size == n],
    tiled_axes={axis: size // n for axis, (size, n) in axes if 1 < n < size},
  )
  return {'qvalue': made.qvalue, 'scale': made.scale}


def dot(x: jax.Array, kernel: Kernel) -> jax.Array:
  """[X, I] times a kernel of I inputs and O features in all -> [X, O].

  In the dtype of `x`, to which the values of int8 are exact; its scales follow
  the sum.
  """
  return _dot(x, kernel['qvalue'], kernel['scale'])


@jax.custom_vjp
def _dot(x, qvalue, scale):
  matrix, scale = _factors(qvalue, scale, x.shape[1], x.dtype)
  # Sums of whole numbers up to 127 may be too large for float16.
  dtype = jnp.float32 if x.dtype == jnp.float16 else x.dtype
  y = jnp.dot(x, matrix, preferred_element_type=dtype)
  return (y.astype(jnp.float32) * scale).astype(x.dtype)


def _dot_forward(x, qvalue, scale):
  return _dot(x, qvalue, scale), (qvalue, scale, x[:0])


def _dot_backward(kept, g):
  qvalue, scale, x = kept
  matrix, scale = _factors(qvalue, scale, x.shape[1], x.dtype)
  g = (g.astype(jnp.float32) * scale).astype(x.dtype)
  return jnp.dot(g, matrix.T), None, None


_dot.defvjp(_dot_forward, _dot_backward)


def _factors(qvalue, scale, fan_in, dtype):
  """A matrix and what its products are to be multiplied with."""
  if qvalue.dtype == jnp.int8:
    return qvalue.astype(dtype).reshape(fan_in, -1), scale.reshape(-1)
  kernel = qwix.dequantize(qwix.QArray(qvalue, scale, qtype='nf4'))
  return kernel.astype(dtype).reshape(fan_in, -1), jnp.float32(1.0)


# --- By path -----------------------------------------------------------------


def source(path: str) -> str:
  """The path of the kernel that a part of a quantised one is made of."""
  for part in _PARTS:
    if path.endswith(f'/kernel{part}'):
      return path.removesuffix(part)
  return path


def made_of(paths: Iterable[str]) -> dict[str, list[str]]:
  """Path of what is stored -> what a network has in its place, values first."""
  found: dict[str, list[str]] = {}
  for path in sorted(paths):
    found.setdefault(source(path), []).append(path)
  return found


def like(
  path: str, kernel: jax.Array, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
  """A stored kernel as the parts that a network wants, where it wants them.

  Args:
    path: of the kernel. Where it has `/blocks/` in it, layers are stacked on
      axis 0.
    kernel: of any real dtype.
    wanted: path of a part -> its shape, dtype and sharding.
  """
  parts = {part: wanted[path + part] for part in _PARTS}
  kind = next(k for k, x in KINDS.items() if x == parts['/qvalue'].dtype)
  shape = parts['/scale'].shape

  def make(kernel):
    if '/blocks/' not in f'/{path}':
      return quantize(kernel, kind, shape)
    # Layer by layer: all of them in float32 would not fit beside the rest.
    return jax.lax.map(lambda x: quantize(x, kind, shape[1:]), kernel)

  made = jax.jit(
    make, out_shardings={part[1:]: x.sharding for part, x in parts.items()}
  )(kernel)
  return {path + part: made[part[1:]] for part in parts}
