"""The PyTorch side of a comparison, a process of its own, without JAX.

    python -m vimonet_jax.parity.torch_side WORK JOB

The same jobs as in jax_side.py, on the networks of torch_networks.py.
"""

import math
import sys

import numpy as np
import torch

from vimonet_jax.parity import torch_networks, work_folder

SIDE = 'torch'
# What a loss is taken from.
_TARGET_NAMES = ('tokens', 'loss_mask', 'segment_ids', 'positions')


def main(argv: list[str]) -> None:
  _, root, job = argv
  import peft  # noqa: F401 - so that its memory is there before the model's
  import transformers

  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  # Float32 means float32, also where a device would rather round factors.
  torch.backends.cuda.matmul.allow_tf32 = False
  torch.backends.cudnn.allow_tf32 = False
  _settle_functions()
  work, memory = work_folder.Work(root), work_folder.Memory()
  run = {'forward': _forward, 'greedy': _greedy}.get(job, _train)
  facts = run(work, job, memory)
  device = torch_networks.device()
  name = torch.cuda.get_device_name() if device == 'cuda' else ''
  work.write_facts(
    SIDE,
    job,
    {
      'device': f'{device}: {name}'.strip(': '),
      'threads': torch.get_num_threads(),
      **facts,
    },
  )


def _settle_functions() -> None:
  """Calls each function of MKL once on one number, before threads share it.

  Two threads that are the first to call one may get a kernel of 11 bits, once:
  cosines were 5e-4 off so (https://github.com/pytorch/pytorch/issues/188792).
  """
  for name in (
    'cos', 'sin', 'tan', 'exp', 'expm1', 'log', 'log1p', 'log2', 'sqrt',
    'rsqrt', 'tanh', 'erf', 'erfc', 'erfinv',
  ):  # fmt: skip
    for dtype in (torch.float32, torch.float64):
      getattr(torch, name)(torch.full((1,), 0.5, dtype=dtype))


def _memory(memory: work_folder.Memory) -> dict[str, float]:
  found = memory.facts()
  if torch_networks.device() == 'cuda':
    found['device_mb'] = torch.cuda.max_memory_allocated() / 2**20
  return found


def _wait() -> None:
  if torch_networks.device() == 'cuda':
    torch.cuda.synchronize()


# --- Forward -----------------------------------------------------------------


@torch.no_grad()
def _forward(work, job, memory):
  for dtype in work_folder.DTYPES:
    adapter = 'probe' if work.settings['has_adapter'] else None
    networks, states = (
      torch_networks.Networks(work, dtype, adapter=adapter),
      {},
    )
    for _, batch in work.batches('forward'):
      found = _states(networks, batch)
      logits = found.pop('logits')
      for name, x in found.items():
        states.setdefault(name, work_folder.thin(x))
      kind = work_folder.kind(batch)
      states[f'logits/{kind}'] = work_folder.thin(logits)
    for _, given in work.batches('parts'):
      if 'codes' in given:
        states |= _decoded(networks, given['codes'])
      if adapter:
        states |= _adapted(networks, given)
      states |= _normed(networks, given)
    latents = states.get('motion/encoder/out')
    if latents is not None:
      codes = networks.parts['motion'].codes(torch_networks.to_tensor(latents))
      states['motion/codes'] = codes.cpu().numpy().astype(np.int32)
    work.write(SIDE, f'forward-{dtype}', states)
    del networks  # Before those of the other dtype are there.
  return _memory(memory)


def _states(networks, batch):
  """The same names and rows as in jax_side."""
  found, hooks = {}, []
  is_text_BL = batch['segment_ids'] > 0

  def keep(name):
    def hook(module, args, output):
      del module, args
      x = output[0] if isinstance(output, tuple) else output
      found[name] = torch_networks.to_numpy(x)[is_text_BL]

    return hook

  def keep_input(module, args, kwargs):
    del module
    x = args[0] if args else kwargs['hidden_states']
    found['llm/input'] = torch_networks.to_numpy(x)[is_text_BL]

  decoder = _decoder(networks.llama)
  hooks.append(
    decoder.layers[0].register_forward_pre_hook(keep_input, with_kwargs=True)
  )
  for i, layer in enumerate(decoder.layers, 1):
    name = f'llm/block {i:02d}'
    hooks += [
      layer.register_forward_hook(keep(name)),
      layer.self_attn.register_forward_hook(keep(f'{name} attention')),
      layer.mlp.register_forward_hook(keep(f'{name} mlp')),
    ]
  hooks.append(decoder.norm.register_forward_hook(keep('llm/norm')))
  logits = networks.logits(batch)
  for hook in hooks:
    hook.remove()
  found['logits'] = torch_networks.to_numpy(logits)[is_text_BL]
  if 'frames' in batch:
    tower = networks.parts['video']
    x = tower.embed(networks.pixels(batch))
    found['video/embed'] = torch_networks.to_numpy(x)
    for i, layer in enumerate(tower.layers, 1):
      x = layer(x)
      found[f'video/block {i:02d}'] = torch_networks.to_numpy(x)
    features = networks.video(batch)
    found['translators/video'] = torch_networks.to_numpy(
      networks.parts['video_translator'](features)
    )
  if 'motion' in batch:
    found |= _encoded(networks, batch)
  return found


def _decoder(llama):
  """Embeddings, layers and norm, whether peft is around them or not."""
  return getattr(llama, 'base_model', llama).get_decoder()


def _encoded(networks, batch):
  """Each clip alone at its own length, then one after the other."""
  motion_XT263, length_X = work_folder.clips(batch)
  vqvae, rows = networks.parts['motion'], {}
  encoder = vqvae.vqvae['encoder'].model
  names = _stages(encoder, 'in', 'down', 'out')

  def keep(name):
    return lambda module, args, y: rows.setdefault(name, []).append(
      torch_networks.to_numpy(y[0].T)
    )

  hooks = [
    encoder[place].register_forward_hook(keep(f'motion/encoder/{name}'))
    for place, name in names.items()
  ]
  for motion, length in zip(motion_XT263, length_X, strict=True):
    if length:
      x = torch_networks.to_tensor(motion[None, :length]).to(networks.dtype)
      latents = networks.features(x)
      y = networks.parts['motion_translator'](latents)
      rows.setdefault('translators/motion', []).append(
        torch_networks.to_numpy(y[0])
      )
  for hook in hooks:
    hook.remove()
  return {name: np.concatenate(parts) for name, parts in rows.items()}


def _stages(sequential, first: str, middle: str, *last: str) -> dict[int, str]:
  """Place in a Sequential -> our name; activations have none."""
  places = [
    i
    for i, layer in enumerate(sequential)
    if not isinstance(layer, torch.nn.ReLU)
  ]
  count = len(places) - 1 - len(last)
  names = [first, *(f'{middle}{i + 1}' for i in range(count)), *last]
  return dict(zip(places, names, strict=True))


def _decoded(networks, codes_BT):
  vqvae, found = networks.parts['motion'], {}
  decoder = vqvae.vqvae['decoder'].model

  def keep(name):
    def hook(module, args, y):
      del module, args
      found[f'motion/decoder/{name}'] = work_folder.thin(
        torch_networks.to_numpy(y.transpose(1, 2))
      )

    return hook

  hooks = [
    decoder[place].register_forward_hook(keep(name))
    for place, name in _stages(decoder, 'in', 'up', 'mid', 'out').items()
  ]
  vqvae.decode(vqvae.vectors(torch_networks.to_tensor(codes_BT).long()))
  for hook in hooks:
    hook.remove()
  return found


def _adapted(networks, given):
  """peft's projections alone, each on the same inputs."""
  found = {}
  for target, name in networks.projections.items():
    if target not in given:
      continue
    x = torch_networks.to_tensor(given[target]).to(networks.dtype)
    outputs = [
      torch_networks.to_numpy(layer.get_submodule(name)(x))
      for layer in _decoder(networks.llama).layers
    ]
    found[f'lora/{target}'] = work_folder.thin(np.stack(outputs))
  return found


def _normed(networks, given):
  norms = {'llm': _decoder(networks.llama).norm}
  if 'video' in networks.parts:
    norms['video'] = networks.parts['video'].vision_model['pre_layrnorm']
  return {
    f'{part}/norm of faint inputs': torch_networks.to_numpy(
      norm(torch_networks.to_tensor(given[f'norm_{part}']).to(networks.dtype))
    )
    for part, norm in norms.items()
    if f'norm_{part}' in given
  }


# --- Greedy tokens -----------------------------------------------------------


@torch.no_grad()
def _greedy(work, job, memory):
  import transformers

  adapter, facts = 'probe' if work.settings['has_adapter'] else None, {}
  generation = transformers.GenerationConfig(
    max_new_tokens=work.settings['max_new_tokens'],
    do_sample=False,
    eos_token_id=work.settings['eos_id'],
    pad_token_id=0,
  )

  def answer(networks, batch):
    x_BLD, mask_BL = _left_padded(networks, batch)
    found = networks.llama.generate(
      inputs_embeds=x_BLD,
      attention_mask=mask_BL,
      generation_config=generation,
    )
    _wait()
    return found

  for dtype in work_folder.DTYPES:
    networks = torch_networks.Networks(work, dtype, adapter=adapter)
    tokens, times = {}, []
    for name, batch in work.batches('prompts'):
      _, first = work_folder.timed(answer, networks, batch)
      found, second = work_folder.timed(answer, networks, batch)
      tokens[name] = found.cpu().numpy().astype(np.int32)
      times.append({'kind': name, 'first': first, 'seconds': second})
    work.write(SIDE, f'greedy-{dtype}', tokens)
    facts[dtype] = {'times': times, **_memory(memory)}
    del networks
  return facts


def _left_padded(networks, batch):
  """Prompts as `generate` wants them: they all end in the last place."""
  x_BLD = networks.llama.get_input_embeddings()(
    torch_networks.to_tensor(batch['tokens'])
  )
  bank_BMD = networks.bank(batch)
  if bank_BMD is not None:
    index_BL1 = torch_networks.to_tensor(batch['media_index'])[..., None].long()
    rows_BLD = bank_BMD.take_along_dim(index_BL1.clamp(min=0), dim=1)
    x_BLD = torch.where(index_BL1 >= 0, rows_BLD.to(x_BLD.dtype), x_BLD)
  length_B = (batch['segment_ids'] > 0).sum(1)
  longest = int(length_B.max())
  padded = x_BLD.new_zeros(len(length_B), longest, x_BLD.shape[-1])
  mask_BL = torch.zeros(len(length_B), longest, dtype=torch.long)
  for b, length in enumerate(length_B):
    padded[b, longest - length :] = x_BLD[b, :length]
    mask_BL[b, longest - length :] = 1
  return padded, mask_BL.to(padded.device)


# --- Training ----------------------------------------------------------------


def _train(work, job, memory):
  settings = work.settings['stages'][job]
  adapter = 'adapter' if settings['has_adapter'] else None
  networks = torch_networks.Networks(work, 'float32', adapter=adapter)
  if work.settings['recomputes']:
    networks.recompute()
  everything, groups = networks.trained(), []
  for name, rate in settings['rates'].items():
    x = everything[name].requires_grad_(True)
    # Matrices decay; norms, biases and positions do not.
    decays = x.ndim > 1 and 'position' not in name and 'temporal_' not in name
    decay = settings['weight_decay'] if decays else 0.0
    groups.append(
      {'params': [x], 'lr': rate, 'rate': rate, 'weight_decay': decay}
    )
  adam = torch.optim.AdamW(
    groups, betas=tuple(settings['betas']), eps=settings['eps']
  )
  parameters = [x for group in groups for x in group['params']]
  log = work_folder.StepLog()

  def advance(number, batch):
    for group in adam.param_groups:
      group['lr'] = group['rate'] * _factor(settings, number)
    for x in parameters:
      # What a batch does not reach has a gradient of zero, not none.
      x.grad = torch.zeros_like(x)
    loss = torch_networks.restatement().token_loss(
      networks.logits(batch),
      *(torch_networks.to_tensor(batch[name]) for name in _TARGET_NAMES),
    )
    mean = loss.loss_sum / loss.count
    mean.backward()
    norm = torch.nn.utils.get_total_norm([x.grad for x in parameters])
    if settings['clip'] and norm > settings['clip']:
      for x in parameters:
        x.grad *= settings['clip'] / norm
    adam.step()
    _wait()
    return float(mean.detach()), float(norm)

  for number, (_, batch) in enumerate(work.batches(job)):
    (loss, norm), seconds = work_folder.timed(advance, number, batch)
    log.add(batch, loss=loss, grad_norm=norm, seconds=seconds)
  work.write(
    SIDE,
    job,
    {
      name: torch_networks.to_numpy(everything[name])
      for name in settings['rates']
    },
  )
  return {'steps': log.facts(), **_memory(memory)}


def _factor(settings, step: int) -> float:
  """Linear warm-up that moves at once, then the schedule, as a factor."""
  steps, warmup = settings['steps'], settings['warmup_steps']
  warm = min(1.0, (step + 1) / max(warmup, 1))
  progress = min(max((step - warmup) / (steps - warmup), 0.0), 1.0)
  shape = {
    'constant': lambda p: 1.0,
    'cosine': lambda p: 0.5 * (1 + math.cos(math.pi * p)),
  }[settings['schedule']]
  return warm * shape(progress)


if __name__ == '__main__':
  main(sys.argv)
