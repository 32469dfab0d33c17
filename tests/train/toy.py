"""A stage small enough to compile in a second, and a run to be killed.

`python toy.py FOLDER STEPS` trains it, as tests/train/test_loop.py does in a
process of its own.
"""

import dataclasses
import sys
from collections.abc import Callable

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np

from vimonet_jax.train import loop, optimizer

WIDTH = 8
NAMES = {
  'net/blocks/in/kernel': ('layers', None, 'embed'),
  'net/blocks/norm/scale': ('layers', 'embed'),
  'net/out/kernel': ('embed', None),
}


def init(key):
  inner, outer = jax.random.split(key)
  params = {
    'net/blocks/in/kernel': 0.3 * jax.random.normal(inner, (2, 4, WIDTH)),
    'net/blocks/norm/scale': jnp.ones((2, WIDTH)),
    'net/out/kernel': jax.random.normal(outer, (WIDTH, 1)),
  }
  return params, {'net/average': jnp.zeros(4)}


def abstract():
  params, mutable = jax.eval_shape(init, jax.random.key(0))
  boxed = {
    path: nn.LogicallyPartitioned(x, NAMES[path]) for path, x in params.items()
  }
  return boxed, mutable


def loss_fn(trainables, frozen, mutable, batch, key):
  params = {**trainables, **frozen}
  x_BD = batch['x'] + 0.01 * jax.random.normal(key, batch['x'].shape)
  h_BD = jnp.tanh(
    jnp.einsum('bi,lid->bd', x_BD, params['net/blocks/in/kernel'])
  )
  h_BD = h_BD * params['net/blocks/norm/scale'].sum(0)
  y_B = (h_BD @ params['net/out/kernel'].astype(jnp.float32))[:, 0]
  weights_B = batch['weight']
  loss_sum = jnp.sum(weights_B * (y_B - batch['x'].sum(-1)) ** 2)
  average = 0.9 * mutable['net/average'] + 0.1 * batch['x'].mean(0)
  metrics = {'positive': (jnp.sum(y_B > 0.0), jnp.float32(len(y_B)))}
  return (loss_sum, weights_B.sum()), ({'net/average': average}, metrics)


@dataclasses.dataclass(frozen=True)
class Toy:
  name: str = 'toy'
  trainable: tuple[str, ...] = ('net/blocks/.*',)
  init: Callable = init
  abstract: Callable = abstract
  loss_fn: Callable = loss_fn
  frozen_dtype: str = 'bfloat16'


def dataset(seed=0, share=0, shares=1):
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(64, 5)).astype(np.float32)
  return (
    grain.MapDataset.source(rows)
    .seed(seed)
    .shuffle()
    .map(lambda row: {'x': row[:4], 'weight': np.abs(row[4])})
    .slice(slice(share, None, shares))
    .repeat()
    .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    .batch(8 // shares)
  )


def tx(steps=1000, **options):
  groups = [optimizer.Group('net/.*', 1e-2)]
  return optimizer.make(groups, steps=steps, **options)


def train(folder, steps, *, stage=None, data=None, **options):
  options = {'tx': tx(), 'checkpoint_steps': 4, 'progress': False} | options
  return loop.train(
    stage or Toy(),
    data or dataset(),
    folder=str(folder),
    steps=steps,
    **options,
  )


if __name__ == '__main__':
  train(sys.argv[1], int(sys.argv[2]))
