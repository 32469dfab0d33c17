"""One step of training: what it changes, how, and where all of it lies.

The same step is run by the loop, and compiled by whoever wants to know what it
would cost on chips that are not there.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vimonet_jax import sharding
from vimonet_jax.models import quantize
from vimonet_jax.train import optimizer

Flat = dict[str, Any]
# Where a product waits for shards of its inner dimension, XLA would make a loop
# that adds one shard's part after another to the whole output in memory. For
# stage 2 at 7B on 16 chips of a v5e (8 rows of 2,560 each) that program moves
# 5,770 GB of memory and sends 243 GB a step, and without such loops 1,600 and
# 119 (libtpu 0.0.52, 2026-11-28, by the planner). Above so many MiB it may.
_TPU_OPTIONS = {'xla_jf_spmd_threshold_for_windowed_einsum_mib': 1_000_000}
# Name -> (sum, count), to be divided on the host.
Metrics = Mapping[str, tuple[jax.Array, jax.Array]]


class State(NamedTuple):
  """What a step changes, and all that it changes."""

  step: jax.Array  # int32 scalar: steps taken so far.
  trainables: Flat
  opt_state: optax.OptState
  mutable: Flat


def make_step(
  loss_fn: Callable, tx: optax.GradientTransformation, grad_accumulation=1
) -> Callable[..., tuple[State, Metrics]]:
  """A pure function (state, frozen, batch, key) -> (state, metrics).

  Gradients exist for the trainables only. Loss, weight, gradients and metrics
  are summed over micro-batches and divided once by the weight of the whole
  batch, so that it is the same mean, but for rounding. Each micro-batch draws
  its own randomness (dropout), and mutable state passes through them one after
  another.

  Args:
    loss_fn: a stage's.
    tx: optimizer over the flat trainables.
    grad_accumulation: into how many micro-batches a batch is cut. Micro-batch g
      has the rows g, g + G, g + 2G, ..., which keeps sharded rows in place.
  """
  grad_fn = jax.grad(
    lambda *args: _with_sums(*loss_fn(*args)), argnums=0, has_aux=True
  )

  def cut(x):
    if x.shape[0] % grad_accumulation:
      raise ValueError(
        f'Expected rows that divide into grad_accumulation='
        f'{grad_accumulation} micro-batches, found {x.shape[0]} rows.'
      )
    shape = (x.shape[0] // grad_accumulation, grad_accumulation)
    return jnp.swapaxes(x.reshape(*shape, *x.shape[1:]), 0, 1)

  def step(state: State, frozen: Flat, batch, key) -> tuple[State, Metrics]:
    keys = jax.random.split(
      jax.random.fold_in(key, state.step), grad_accumulation
    )

    def accumulate(carry, inputs):
      grads, mutable = carry
      micro_batch, micro_key = inputs
      more, (mutable, sums) = grad_fn(
        state.trainables, frozen, mutable, micro_batch, micro_key
      )
      return (jax.tree.map(jnp.add, grads, more), mutable), sums

    if grad_accumulation == 1:
      grads, (mutable, sums) = grad_fn(
        state.trainables, frozen, state.mutable, batch, keys[0]
      )
    else:
      zeros = jax.tree.map(jnp.zeros_like, state.trainables)
      (grads, mutable), sums = jax.lax.scan(
        accumulate,
        (zeros, state.mutable),
        (jax.tree.map(cut, batch), keys),
      )
      sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)
    _, weight = sums['loss']
    grads = jax.tree.map(lambda g: g / weight, grads)
    updates, opt_state = tx.update(grads, state.opt_state, state.trainables)
    metrics = {**sums, 'grad_norm': (optax.global_norm(grads), jnp.ones(()))}
    trainables = optax.apply_updates(state.trainables, updates)
    return State(state.step + 1, trainables, opt_state, mutable), metrics

  return step


def _with_sums(loss, aux):
  loss_sum, weight = loss
  mutable, metrics = aux
  return loss_sum, (mutable, {'loss': (loss_sum, weight), **metrics})


def layout(
  stage: Any,
  tx: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  stored: Mapping[str, Any] | None = None,
) -> tuple[State, Flat]:
  """State and frozen parameters as shapes with dtypes and shardings.

  Args:
    stage: see stages.Stage.
    tx: optimizer over the flat trainables.
    mesh: where everything is to lie.
    stored: path -> dtype of weights that the stage will be given; frozen ones
      stay as they are stored where `stage.frozen_dtype` is None.
  """
  abstract, mutable = stage.abstract()
  shapes, mutable = map(sharding.unbox, (abstract, mutable))
  shardings = sharding.state_shardings(abstract, mesh)
  whole = sharding.replicated(mesh)
  trainable, frozen = optimizer.split(shapes, stage.trainable)

  def place(path, x, dtype=None):
    # None, and numbers that may not be rounded, stay as they are.
    is_free = (
      dtype is not None
      and jnp.issubdtype(x.dtype, jnp.floating)
      and quantize.source(path) == path
    )
    return jax.ShapeDtypeStruct(
      x.shape,
      dtype if is_free else x.dtype,
      sharding=shardings.get(path, whole),
    )

  stored = stored or {}
  trainables = {
    path: place(path, x, jnp.float32) for path, x in trainable.items()
  }
  opt_state = jax.eval_shape(tx.init, trainables)
  opt_shardings = sharding.optimizer_shardings(opt_state, shardings, mesh)
  state = State(
    step=jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
    trainables=trainables,
    opt_state=jax.tree.map(
      lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
      opt_state,
      opt_shardings,
    ),
    mutable={path: place(path, x) for path, x in mutable.items()},
  )
  return state, {
    path: place(path, x, stage.frozen_dtype or stored.get(path))
    for path, x in frozen.items()
  }


def jit(
  stage: Any,
  tx: optax.GradientTransformation,
  state: State,
  frozen: Flat,
  mesh: jax.sharding.Mesh,
  grad_accumulation: int = 1,
) -> Any:
  """`make_step` with everything where it lies; the old state is given up.

  Args:
    stage: see stages.Stage.
    tx: optimizer.
    state: arrays, or what `layout` gives.
    frozen: the same.
    mesh: of both.
    grad_accumulation: micro-batches per step.
  """
  rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
  where = jax.tree.map(lambda x: x.sharding, (state, frozen))
  is_tpu = mesh.devices.flat[0].platform == 'tpu'
  return jax.jit(
    make_step(stage.loss_fn, tx, grad_accumulation),
    in_shardings=(*where, rows, whole),
    out_shardings=(where[0], whole),
    donate_argnums=0,
    compiler_options=_TPU_OPTIONS if is_tpu else None,
  )
