"""The decoder of the races: its weights are those that both sides have."""

import argparse

import decoder
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix

from vimonet_jax import sharding
from vimonet_jax.infer import engine

# Deviation of the rounded from the written ones, as a share of theirs.
ROUNDED = {'int8': 0.01, 'nf4': 0.1}


def _args(folder, **changes):
  shape = {
    'vocab': 16, 'width': 64, 'layers': 2, 'heads': 2, 'head_dim': 32, 'mlp': 96
  }  # fmt: skip
  flags = {'dtype': 'bfloat16', 'unroll': 1, 'quantize': '', 'side': 'ours'}
  return argparse.Namespace(**shape, **{**flags, **changes}, folder=str(folder))


def _wanted(args):
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  found = engine.layout(decoder.config(args, adapters=False), mesh)
  return {name: x for name, x in found.items() if name.startswith('llm/')}


@pytest.mark.parametrize('kind', ROUNDED)
def test_rounded_weights_are_the_shared_ones(tmp_path, kind):
  args, rng = _args(tmp_path, quantize=kind), np.random.default_rng(0)
  shared = {
    name: rng.normal(size=x.shape).astype(np.float32)
    for name, x in _wanted(_args(tmp_path)).items()
  }
  np.savez(tmp_path / 'ours.npz', **shared)
  found = decoder.weights(args, _wanted(args))
  for name in ('llm/blocks/attn/o/kernel', 'llm/blocks/mlp/down/kernel'):
    qvalue, scale = (found[f'{name}/{part}'] for part in ('qvalue', 'scale'))
    qtype = 'nf4' if kind == 'nf4' else jnp.int8
    made = qwix.dequantize(qwix.QArray(qvalue, scale, qtype=qtype))
    assert np.std(made - shared[name]) < ROUNDED[kind] * np.std(shared[name])
  np.testing.assert_array_equal(
    found['llm/embed/embedding'],
    shared['llm/embed/embedding'].astype(jnp.bfloat16),
  )


@pytest.mark.parametrize('kind', ['', *ROUNDED])
def test_those_that_are_not_shared_are_drawn_as_wanted(tmp_path, kind):
  args = _args(tmp_path, quantize=kind)
  wanted = _wanted(args)
  found = decoder.weights(args, wanted)
  assert found.keys() == wanted.keys()
  for name, x in found.items():
    like = wanted[name]
    assert (x.shape, x.dtype) == (like.shape, like.dtype), name
    assert x.sharding == like.sharding, name
    assert jnp.all(jnp.isfinite(x.astype(jnp.float32))), name
    is_norm = 'norm' in name
    assert (jnp.std(x.astype(jnp.float32)) == 0) == is_norm, name


@pytest.mark.parametrize('kind', ['', *ROUNDED])
def test_they_are_drawn_layer_by_layer_in_their_dtype(
  tmp_path, monkeypatch, kind
):
  args, drawn, normal = _args(tmp_path, quantize=kind), [], jax.random.normal

  def see(key, shape, dtype=float):
    drawn.append(jax.ShapeDtypeStruct(shape, dtype))
    return normal(key, shape, dtype)

  monkeypatch.setattr(jax.random, 'normal', see)
  decoder.weights(args, _wanted(args))
  assert {x.dtype for x in drawn} == {jnp.dtype(jnp.bfloat16)}
  assert max(x.size for x in drawn) == args.width * args.mlp


def test_numbers_of_four_bits_take_half_a_byte():
  assert decoder.size_bytes(jnp.zeros((3, 8), jnp.uint4)) == 12
  assert decoder.size_bytes(jnp.zeros((3, 8), jnp.int8)) == 24
  assert decoder.size_bytes(jnp.zeros((3, 8), jnp.bfloat16)) == 48
