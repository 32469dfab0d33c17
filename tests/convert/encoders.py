"""Encoders beside their originals."""

import functools

import jax
import numpy as np
import originals

from vimonet_jax.convert import files


@functools.cache
def _compiled(module, method):
  return jax.jit(
    lambda p, *args: module.apply({'params': p}, *args, method=method)
  )


def apply(module, flat, prefix, *args, method='__call__'):
  """The answer of a network whose paths begin with the prefix."""
  params = originals.below(flat, prefix)
  with jax.default_matmul_precision('highest'):
    return np.asarray(_compiled(module, method)(params, *args))


def tensors_of(model):
  """The state dict of a torch module."""
  return {name: files.to_numpy(x) for name, x in model.state_dict().items()}


def randomly(model, deviation=0.25):
  """Fresh parameters would hide mistakes: norms are the identity."""
  import torch

  generator = torch.Generator().manual_seed(0)
  for name, x in model.named_parameters():
    around = float('norm' in name and name.endswith('weight'))
    x.data.normal_(around, deviation, generator=generator)
  return model.eval()


def near(found, wanted, tolerance):
  """No number is further off than the tolerance, however large it is."""
  np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


def apart(found, wanted):
  """The largest difference, relative to the spread of what is wanted."""
  return np.abs(found - wanted).max() / wanted.std()
