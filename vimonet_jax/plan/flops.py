"""Floating-point operations of a program as JAX wrote it.

XLA counts the body of a loop once; here every loop counts as often as it runs.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from jax.extend import core


def of(jaxpr: core.ClosedJaxpr) -> float:
  """Operations of all products and convolutions, on all devices together.

  A multiplication and an addition are two. Of branches the dearest counts,
  whatever the data will choose; a loop whose length depends on data counts
  once.
  """
  return _flops(jaxpr.jaxpr)


def _flops(jaxpr) -> float:
  total = 0.0
  for eqn in jaxpr.eqns:
    name = eqn.primitive.name
    if name == 'dot_general':
      total += _dot_flops(eqn)
    elif name == 'conv_general_dilated':
      total += _conv_flops(eqn)
    elif name == 'cond':
      total += max(_flops(branch.jaxpr) for branch in eqn.params['branches'])
    else:
      times = _times(name, eqn.params)
      total += times * sum(map(_flops, _inside(eqn.params)))
  return total


def _times(name: str, params: Mapping[str, Any]) -> int:
  """How often what is inside an equation runs, on all devices together."""
  if name == 'scan':
    return params['length']
  if name == 'shard_map':
    return params['mesh'].size
  if name == 'pallas_call':
    return math.prod(params['grid_mapping'].grid) * _live_share(params)
  return 1


def _live_share(params: Mapping[str, Any]) -> float:
  """The share of a kernel's grid that computes anything.

  Splash attention, as models/attention.py calls it, has a causal mask in square
  blocks, and does nothing in those above the diagonal:

      x . .
      x x .   6 of 9, (n + 1) / 2n of n * n
      x x x
  """
  if not (params['name'] or '').startswith('splash_'):
    return 1
  blocks = params['grid_mapping'].grid[-1]
  return (blocks + 1) / (2 * blocks)


def _inside(params: Mapping[str, Any]) -> Iterator[Any]:
  """The jaxprs that an equation runs."""
  for value in params.values():
    for x in value if isinstance(value, (tuple, list)) else (value,):
      x = getattr(x, 'jaxpr', x)
      if hasattr(x, 'eqns'):
        yield x


def _dot_flops(eqn) -> float:
  (contracted, _), _ = eqn.params['dimension_numbers']
  depth = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
  return 2.0 * eqn.outvars[0].aval.size * depth


def _conv_flops(eqn) -> float:
  numbers = eqn.params['dimension_numbers']
  kernel = eqn.invars[1].aval.shape
  depth = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])
  return 2.0 * eqn.outvars[0].aval.size * depth
