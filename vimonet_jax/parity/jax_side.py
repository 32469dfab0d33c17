"""Our side of a comparison, a process of its own.

    python -m vimonet_jax.parity.jax_side WORK JOB

JOB is one of work_folder.JOBS or a stage. See sides.py, which starts it, and
work_folder.py for the folder.
"""

import dataclasses
import os
import sys

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vimonet_jax import sharding, weight_files
from vimonet_jax.infer import engine, model_folder
from vimonet_jax.models import lora, motion_vqvae, vimonet
from vimonet_jax.parity import work_folder
from vimonet_jax.train import optimizer, stages
from vimonet_jax.train import step as step_lib

SIDE = 'jax'
_CODEBOOK = 'motion/quantizer/'


def main(argv: list[str]) -> None:
  _, root, job = argv
  work, memory = work_folder.Work(root), work_folder.Memory()
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  run = {'forward': _forward, 'greedy': _greedy}.get(job, _train)
  with (
    sharding.use(mesh),
    jax.default_device(jax.devices()[0]),
    # Float32 means float32, also where a device would rather round factors.
    jax.default_matmul_precision('highest'),
  ):
    facts = run(work, job, memory)
  device = jax.devices()[0]
  work.write_facts(
    SIDE,
    job,
    {
      'device': f'{device.platform}: {device.device_kind}',
      'threads': len(os.sched_getaffinity(0)),
      **facts,
    },
  )


def _memory(memory: work_folder.Memory) -> dict[str, float]:
  stats = jax.devices()[0].memory_stats() or {}
  peak = stats.get('peak_bytes_in_use')
  return memory.facts() | ({'device_mb': peak / 2**20} if peak else {})


# --- Model and weights -------------------------------------------------------


def _model(work, dtype: str) -> vimonet.Config:
  model = vimonet.Config.from_json(work.settings['model'])
  llm, video, motion = (
    dataclasses.replace(part, dtype=dtype)
    for part in (model.llm, model.video, model.motion)
  )
  return dataclasses.replace(model, llm=llm, video=video, motion=motion)


def _weights(work, dtype: str, *, probe: bool) -> dict[str, jax.Array]:
  """What networks would cast whenever they use it is cast once."""
  folders = list(work.settings['weights'])
  if probe and (work.root / 'probe').exists():
    folders.append(str(work.root / 'probe'))
  stored, flat = weight_files.Lazy(folders), {}
  for path in stored:
    x = jnp.asarray(stored[path])
    if jnp.issubdtype(x.dtype, jnp.floating):
      whole = path.startswith(('translators/', _CODEBOOK))
      is_norm = path.endswith(('/scale', '/bias'))
      x = x.astype('float32' if whole or is_norm else dtype)
    flat[path] = x
  return flat


def _variables(flat):
  codebook = {p: x for p, x in flat.items() if p.startswith(_CODEBOOK)}
  params = {p: x for p, x in flat.items() if p not in codebook}
  return {
    'params': traverse_util.unflatten_dict(params, sep='/'),
    'codebook': traverse_util.unflatten_dict(codebook, sep='/'),
  }


# --- Forward -----------------------------------------------------------------


def _forward(work, job, memory):
  for dtype in work_folder.DTYPES:
    model, flat = _model(work, dtype), _weights(work, dtype, probe=True)
    variables, states = _variables(flat), {}

    @jax.jit
    def logits(variables, batch, network=vimonet.Vimonet(model)):
      return network.apply(
        variables, batch, method=lambda m, batch: m.logits(m(batch))
      )

    seen = set()
    for _, batch in work.batches('forward'):
      # Inside the networks once for each medium is enough: op by op is slow.
      if not seen.issuperset(batch):
        for name, x in _states(model, variables, batch).items():
          states.setdefault(name, work_folder.thin(x))
        seen |= set(batch)
      kind, is_text_BL = work_folder.kind(batch), batch['segment_ids'] > 0
      logits_BLV = np.asarray(logits(variables, batch))
      states[f'logits/{kind}'] = work_folder.thin(logits_BLV[is_text_BL])
    for _, given in work.batches('parts'):
      if 'codes' in given:
        states |= _decoded(model, variables, given['codes'])
      states |= _adapted(model, flat, given)
      states |= _normed(model, variables, given)
    latents = states.get('motion/encoder/out')
    if latents is not None:
      codes = motion_vqvae.nearest(latents, flat[f'{_CODEBOOK}codebook'])
      states['motion/codes'] = np.asarray(codes, np.int32)
    work.write(SIDE, f'forward-{dtype}', states)
    del flat, variables, latents  # Before those of the other dtype are there.
  return _memory(memory)


def _states(model, variables, batch):
  """What leaves each part of the real network, each block by itself.

  Rows of padding and of empty slots are left out.
  """
  # What is recomputed for gradients would hide its insides.
  model = dataclasses.replace(
    model,
    llm=dataclasses.replace(model.llm, remat='none'),
    video=dataclasses.replace(model.video, remat=False),
  )
  # Flax traces a block once before the blocks run: that one is number 0.
  blocks = {'video': -1, 'llm': -1}

  def watch(found, path, method, y):
    if (path, method) == ('', 'embed'):
      found['llm/input'] = y
    elif (path, method) == ('video', 'embed'):
      found['video/embed'] = y
    elif method != '__call__':
      pass
    elif path in ('video/blocks', 'llm/blocks'):
      part = path.split('/')[0]
      blocks[part] += 1
      y = y[0] if part == 'video' else y[0][0]
      found[f'{part}/block {blocks[part]:02d}'] = y
    elif path == 'llm/blocks/attn':
      found[f'llm/block {blocks["llm"] + 1:02d} attention'] = y[0]
    elif path == 'llm/blocks/mlp':
      found[f'llm/block {blocks["llm"] + 1:02d} mlp'] = y
    elif path == 'translators/motion':
      found[path] = y.reshape(-1, model.motion_tokens, y.shape[-1])
    elif path in ('llm/norm', 'translators/video') or (
      path.startswith('motion/encoder/') and path.count('/') == 2
    ):
      found[path] = y

  def run(variables, batch):
    vimonet.Vimonet(model).apply(variables, batch)

  is_text_BL, kept = batch['segment_ids'] > 0, {}
  for name, x in _watched(run, watch, variables, batch).items():
    if name.startswith('llm/'):
      x = x[is_text_BL]
    elif 'motion' in name:
      motion_XT263, length_X = work_folder.clips(batch)
      length_X = length_X * x.shape[1] // motion_XT263.shape[1]
      x = x[np.arange(x.shape[1]) < length_X[:, None]]
    kept[name] = x
  return kept


def _decoded(model, variables, codes_BT):
  """The decoder, which nobody runs beside training, given the same codes."""

  def watch(found, path, method, y):
    if method == '__call__' and path and '/' not in path:
      found[f'motion/decoder/{path}'] = y

  def run(params, codes_BTE):
    motion_vqvae.Decoder(model.motion).apply({'params': params}, codes_BTE)

  codebook_QE = variables['codebook']['motion']['quantizer']['codebook']
  params = variables['params']['motion']['decoder']
  found = _watched(run, watch, params, codebook_QE[codes_BT])
  return {name: work_folder.thin(x) for name, x in found.items()}


def _watched(run, watch, *args) -> dict[str, np.ndarray]:
  """All that `watch(found, path, method, output)` keeps while `run` runs.

  Loops are unrolled, or nothing inside them could be taken out.
  """

  names = []

  def record(*args):
    found = {}

    def intercept(next_fun, inputs, more, context):
      y = next_fun(*inputs, **more)
      watch(found, '/'.join(context.module.path), context.method_name, y)
      return y

    with nn.intercept_methods(intercept):
      run(*args)
    names.extend(name for name in found if ' 00' not in name)
    return [found[name].astype(jnp.float32) for name in names]

  with jax.disable_jit():
    traced = jax.make_jaxpr(record)(*args)
  run_traced = jax.jit(jax.extend.core.jaxpr_as_fun(traced))
  outputs = run_traced(*jax.tree.leaves(args))
  return dict(zip(names, map(np.asarray, outputs), strict=True))


def _adapted(model, flat, given):
  """Each projection with its adapter alone; layers one after the other."""
  found, adapter = {}, model.llm.lora
  for target in adapter.targets if adapter.rank else ():
    part = 'attn' if target in ('q', 'k', 'v', 'o') else 'mlp'
    prefix = f'llm/blocks/{part}/{target}/'
    stacks = {name: flat[prefix + name] for name in _LORA_NAMES}
    inputs = 2 if target == 'o' else 1
    kernel_shape = stacks['kernel'].shape[1:]
    dense = lora.LoraDense(
      features=kernel_shape[inputs:],
      names=(None,) * len(kernel_shape),
      stddev=1.0,
      lora=adapter,
      dtype=model.llm.dtype,
    )
    x = given[target].reshape(-1, *kernel_shape[:inputs])
    outputs = [
      dense.apply({'params': {k: s[i] for k, s in stacks.items()}}, x)
      for i in range(model.llm.layers)
    ]
    y = jnp.stack(outputs).astype(jnp.float32)
    found[f'lora/{target}'] = work_folder.thin(
      np.asarray(y.reshape(model.llm.layers, len(x), -1))
    )
  return found


_LORA_NAMES = ('kernel', 'lora_a', 'lora_b')


def _normed(model, variables, given):
  """Norms of inputs that are hardly larger than their epsilon."""
  norms = {
    'llm': lambda network, x: network.llm.norm(x),
    'video': lambda network, x: network.video.pre_norm(x),
  }
  return {
    f'{part}/norm of faint inputs': work_folder.thin(
      vimonet.Vimonet(model).apply(
        variables, given[f'norm_{part}'], method=norm
      )
    )
    for part, norm in norms.items()
    if f'norm_{part}' in given
  }


# --- Greedy tokens -----------------------------------------------------------


def _greedy(work, job, memory):
  facts = {}

  def answer(answering, batch):
    output = answering.run(
      batch, max_new_tokens=work.settings['max_new_tokens']
    )
    return jax.block_until_ready(output.tokens)

  for dtype in work_folder.DTYPES:
    model = _model(work, dtype)
    bundle = model_folder.Bundle(model, None, None)
    answering = engine.Engine(bundle, _weights(work, dtype, probe=True))
    tokens, times = {}, []
    for name, batch in work.batches('prompts'):
      _, first = work_folder.timed(answer, answering, batch)
      found, second = work_folder.timed(answer, answering, batch)
      tokens[name] = np.asarray(found)
      times.append({'kind': name, 'first': first, 'seconds': second})
    work.write(SIDE, f'greedy-{dtype}', tokens)
    facts[dtype] = {'times': times, **_memory(memory)}
    del answering  # And its weights, before those of the other dtype.
  return facts


# --- Training ----------------------------------------------------------------


def _train(work, job, memory):
  settings = work.settings['stages'][job]
  model = _model(work, 'float32')
  if not settings['has_adapter']:
    llm = dataclasses.replace(model.llm, lora=lora.LoraConfig())
    model = dataclasses.replace(model, llm=llm)
  stage = stages.tokens(
    job, model, settings['trainable'], media=settings['media']
  )
  wanted, state = stage.abstract()
  flat = _weights(work, 'float32', probe=False)
  trainables, frozen = optimizer.split(
    {path: flat[path] for path in wanted}, stage.trainable
  )
  tx = stages.make_optimizer(settings)
  step = jax.jit(step_lib.make_step(stage.loss_fn, tx), donate_argnums=0)
  compiled, buffers = {}, []
  state = step_lib.State(
    step=jnp.zeros((), jnp.int32),
    trainables=trainables,
    opt_state=tx.init(trainables),
    mutable={path: flat[path] for path in state},
  )
  del flat, trainables
  log, key = work_folder.StepLog(), jax.random.key(0)

  def advance(state, batch):
    kind = work_folder.shapes(batch)
    if kind not in compiled:
      compiled[kind] = step.lower(state, frozen, batch, key).compile()
      buffers.append(_buffers_mb(compiled[kind]))
    return jax.block_until_ready(compiled[kind](state, frozen, batch, key))

  for _, batch in work.batches(job):
    (state, metrics), seconds = work_folder.timed(advance, state, batch)
    mean = {name: float(x[0] / x[1]) for name, x in metrics.items()}
    log.add(
      batch,
      loss=mean['loss'],
      grad_norm=mean['grad_norm'],
      seconds=seconds,
    )
  work.write(SIDE, job, {p: np.asarray(x) for p, x in state.trainables.items()})
  return {
    'steps': log.facts(),
    'buffers_mb': max(buffers),
    **_memory(memory),
  }


def _buffers_mb(compiled) -> float:
  """Everything that the compiled step has in memory at once."""
  found = compiled.memory_analysis()
  size = found.argument_size_in_bytes + found.output_size_in_bytes
  size += found.temp_size_in_bytes - found.alias_size_in_bytes
  return size / 2**20


if __name__ == '__main__':
  main(sys.argv)
