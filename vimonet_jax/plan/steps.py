"""The steps that are planned, as shapes where they lie.

Nothing is computed in here, and no device needs to be there.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vimonet_jax import corpus as corpora
from vimonet_jax import sharding
from vimonet_jax.infer import engine
from vimonet_jax.models import attention, vimonet
from vimonet_jax.train import stages
from vimonet_jax.train import step as step_lib


@dataclasses.dataclass(frozen=True)
class Step:
  """What is planned.

  Attributes:
    kind: `train` or `decode`.
    stage: whose settings count.
    mix: name of its rows.
    clips: medium -> clips that a row holds.
    rows: of a batch, on all devices together.
    length: of a row, or of its cache.
    parts: of the batch, one after another (grad_accumulation).
  """

  kind: str
  stage: str
  mix: str
  clips: Mapping[str, int]
  rows: int
  length: int
  parts: int = 1


def jitted(config, step: Step, mesh: jax.sharding.Mesh):
  """The step from jax.jit, and what it is given."""
  of_kind = {'train': _train_step, 'decode': _decode_step}[step.kind]
  return of_kind(config, step, mesh)


def trace(config, step: Step, mesh: jax.sharding.Mesh):
  """The step as jax.jit(...).trace gives it."""
  run, given = jitted(config, step, mesh)
  # Nothing may be computed in here: the mesh may be of devices not there.
  with sharding.use(mesh):
    return run.trace(*given)


def _state(config, step: Step, mesh: jax.sharding.Mesh):
  """Stage, optimizer, and what both keep, as shapes where they lie."""
  stage_config = config[step.stage]
  model = corpora.stage_model(
    config, step.stage, vocab_size=config.text.vocab_size
  )
  stage = stages.make(step.stage, stage_config, model)
  tx = stages.make_optimizer(stage_config)
  # As --task=convert keeps them.
  dtypes = {'llm': model.llm.dtype, 'video': model.video.dtype}
  stored = {
    path: dtypes.get(path.split('/')[0], 'float32')
    for path in stage.abstract()[0]
  }
  return model, stage, tx, step_lib.layout(stage, tx, mesh, stored)


def quantize(config, step: Step) -> str:
  """What the decoder's frozen kernels are rounded to."""
  where = config.eval if step.kind == 'decode' else config[step.stage]
  return where.get('quantize', '')


def _train_step(config, step: Step, mesh: jax.sharding.Mesh):
  model, stage, tx, (state, frozen) = _state(config, step, mesh)
  run = step_lib.jit(stage, tx, state, frozen, mesh, step.parts)
  rows = sharding.batch_sharding(mesh)
  shapes = jax.eval_shape(
    lambda: stages.example_batch(
      model, stages.BatchKind(step.rows, step.length, step.clips)
    )
  )
  batch = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
    for name, x in shapes.items()
  }
  key = jax.eval_shape(lambda: jax.random.key(0))
  key = jax.ShapeDtypeStruct(
    key.shape, key.dtype, sharding=sharding.replicated(mesh)
  )
  return run, (state, frozen, batch, key)


def _served(config, step: Step, mesh: jax.sharding.Mesh):
  """Model without adapters, and what an engine keeps, as shapes."""
  model = corpora.model(
    config,
    vocab_size=config.text.vocab_size,
    quantize=quantize(config, step),
  )
  cache = jax.eval_shape(
    lambda: attention.init_cache(model.llm, step.rows, step.length)
  )
  spec = jax.sharding.PartitionSpec
  where = spec(None, ('data', 'fsdp'), 'tensor')

  def place(tree, spec):
    sharding_ = jax.sharding.NamedSharding(mesh, spec)
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding_), tree
    )

  return (
    model,
    engine.layout(model, mesh),
    attention.Cache(
      place(cache.k, where),
      place(cache.v, where),
      place(cache.length, spec(('data', 'fsdp'))),
    ),
  )


def _decode_step(config, step: Step, mesh: jax.sharding.Mesh):
  model, weights, cache = _served(config, step, mesh)
  network = vimonet.Vimonet(model)

  def decode(weights, tokens_B, is_active_B, cache):
    variables = engine.variables(weights)
    logits_BV, cache = network.apply(
      variables, tokens_B, is_active_B, cache, method='decode'
    )
    return jnp.argmax(logits_BV, axis=-1), cache

  rows = sharding.batch_sharding(mesh)
  where = jax.tree.map(lambda x: x.sharding, (weights, cache))
  run = jax.jit(
    decode,
    in_shardings=(where[0], rows, rows, where[1]),
    out_shardings=(rows, where[1]),
    donate_argnums=3,
    # Encoders lie beside it for the next question.
    keep_unused=True,
  )
  tokens = jax.ShapeDtypeStruct((step.rows,), jnp.int32, sharding=rows)
  active = jax.ShapeDtypeStruct((step.rows,), bool, sharding=rows)
  return run, (weights, tokens, active, cache)


def parts(kind: str, given) -> dict[str, Any]:
  """What a step is given, by what it is; of training without the key."""
  if kind == 'decode':
    weights, tokens, active, cache = given
    return {'weights': weights, 'cache': cache, 'batch': (tokens, active)}
  state, frozen, batch, _ = given
  return {
    'frozen weights': frozen,
    'trainables': (state.trainables, state.mutable),
    'optimizer': (state.opt_state, state.step),
    'batch': batch,
  }


def sizes(parts: Mapping[str, Any]) -> dict[str, int]:
  """Bytes a device of each part."""
  return {
    name: sum(map(_bytes_here, jax.tree.leaves(part)))
    for name, part in parts.items()
  }


def _bytes_here(x: jax.ShapeDtypeStruct) -> int:
  """Of a device's shard."""
  name = jnp.dtype(x.dtype).name
  # NumPy keeps four bits in a byte; chips do not.
  bits = 4 if name in ('int4', 'uint4') else 8 * jnp.dtype(x.dtype).itemsize
  return -(-math.prod(x.sharding.shard_shape(x.shape)) * bits // 8)


def beside(parts: Mapping[str, Any], where: Mapping[str, Any]) -> int:
  """Bytes a device of what lies there for other steps: XLA leaves it out.

  Args:
    parts: of what the step is given.
    where: the same of compiled.input_shardings, which has None for it.
  """
  sizes = jax.tree.map(lambda x, y: 0 if y else _bytes_here(x), parts, where)
  return sum(jax.tree.leaves(sizes))
