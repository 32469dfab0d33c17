"""What networks can compute in; a network's own config says which it is."""

import jax.numpy as jnp

NAMES = ('float32', 'bfloat16', 'float16')


def check(dtype: str) -> None:
  """Raises a ValueError unless `dtype` is one of NAMES."""
  try:
    is_known = jnp.dtype(dtype).name in NAMES
  except TypeError:
    is_known = False
  if not is_known:
    raise ValueError(
      f'Expected dtype to be one of {", ".join(NAMES)}, found {dtype!r}.'
    )
