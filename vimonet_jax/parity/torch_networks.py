"""The networks of the PyTorch side, with the weights of a comparison.

The decoder and its adapters are transformers' and peft's, loaded by their own
loaders. What reads media is tests/torch_models.py of the checkout. Nothing here
imports JAX.
"""

import functools
import importlib.util

import numpy as np
import torch

from vimonet_jax.convert import files
from vimonet_jax.parity import work_folder

# Of OpenAI's CLIP, which LanguageBind keeps.
_PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
_PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
_ROW_NAMES = ('tokens', 'positions', 'segment_ids', 'media_index')


def device() -> str:
  """Where everything runs."""
  return 'cuda' if torch.cuda.is_available() else 'cpu'


@functools.cache
def restatement():
  """The module tests/torch_models.py."""
  path = work_folder.RESTATEMENT
  spec = importlib.util.spec_from_file_location('torch_models', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


class Networks:
  """Everything with its weights.

  Attributes:
    llama: LlamaForCausalLM, in a PeftModel where there is an adapter.
    parts: video, motion, video_translator, motion_translator; those there are.
    dtype: of everything.
    reads_codes: whether the decoder reads codes instead of latents.
    projections: our name of a projection -> the module in a decoder layer.
  """

  def __init__(self, work, dtype: str, *, adapter: str | None):
    import peft
    import transformers

    settings = work.settings
    self.dtype = getattr(torch, dtype)
    self.projections = settings['projections']
    self.reads_codes = settings['motion_feature'] == 'codebook'
    self._keep_class_token = settings['keep_class_token']
    models, checkpoints = restatement(), settings['checkpoints']
    found = checkpoints['llm']
    # Rounded once, as when they were converted, and then as precise as asked.
    rounded = found['dtype'] if dtype == 'float32' else dtype
    self.llama, loading = transformers.LlamaForCausalLM.from_pretrained(
      work.root / found['path'],
      dtype=getattr(torch, rounded),
      attn_implementation='eager',
      output_loading_info=True,
    )
    # A published one may have more than anybody needs.
    loading['unexpected_keys'] = set(found['names'].values()).intersection(
      loading['unexpected_keys']
    )
    if wrong := {name: x for name, x in loading.items() if x}:
      raise ValueError(f'transformers did not load all as it is: {wrong}')
    if rounded != dtype:
      self.llama.to(self.dtype)
    self.llama.to(device()).requires_grad_(False)
    if adapter is not None:
      found = checkpoints[adapter]
      self.llama = peft.PeftModel.from_pretrained(
        self.llama, work.root / found['path'], autocast_adapter_dtype=False
      ).to(dtype=self.dtype)
      stored = set(found['names'].values())
      if stored != set(peft.get_peft_model_state_dict(self.llama)):
        raise ValueError('peft did not load all of the adapter as it is.')
    made = {
      'video': lambda: models.VideoTower(**settings['video']),
      'motion': lambda: models.Vqvae(**settings['motion']),
      'video_translator': lambda: models.video_projector(
        *settings['video_translator']
      ),
      'motion_translator': lambda: models.motion_projector(
        *settings['motion_translator']
      ),
    }
    self.parts = {
      name: self._load(make(), work.root, checkpoints[name])
      for name, make in made.items()
      if name in checkpoints
    }
    self.llama.eval()

  def _load(self, module, root, found):
    # Whatever follows the layer that is read may be missing.
    unread = ('vision_model.post_layernorm.',)
    tensors = {
      k: x for k, x in module.state_dict().items() if k.startswith(unread)
    }
    stored = files.open_checkpoint(root / found['path'])
    dtype = getattr(torch, found['dtype'])
    for name, theirs in found['names'].items():
      tensors[name] = files.to_torch(stored.read(theirs)).to(dtype)
    module.load_state_dict(tensors, strict=True)
    module.requires_grad_(False).eval()
    return module.to(device=device(), dtype=self.dtype)

  def recompute(self) -> None:
    """Has the decoder keep a layer's inputs only, as ours does."""
    self.llama.gradient_checkpointing_enable({'use_reentrant': False})
    self.llama.train()  # transformers recomputes nothing otherwise.
    for module in self.llama.modules():
      if isinstance(module, torch.nn.Dropout):
        module.p = 0.0  # An adapter's file may ask for some.

  def trained(self) -> dict[str, torch.Tensor]:
    """part/name -> parameter, as files name them."""
    found = {
      f'{part}/{name}': x
      for part, module in self.parts.items()
      for name, x in module.named_parameters()
    }
    for name, x in self.llama.named_parameters():
      if 'lora_' in name:
        found[f'adapter/{name.replace(".default.", ".")}'] = x
      else:
        found[f'llm/{name}'] = x
    return found

  def features(self, motion_BT263: torch.Tensor) -> torch.Tensor:
    """What the decoder reads of clips of one length."""
    vqvae = self.parts['motion']
    latents = vqvae.encode(motion_BT263)
    if self.reads_codes:
      latents = vqvae.vectors(vqvae.codes(latents)).to(latents.dtype)
    return latents

  def motion(self, batch) -> torch.Tensor:
    """Features [B, C * slots, E]; zero beyond a clip's length.

    The original knows no padding: clips of one length are read together.
    """
    motion_XT263, length_X = work_folder.clips(batch)
    outputs = None
    for length in np.unique(length_X[length_X > 0]):
      which = np.flatnonzero(length_X == length)
      x = torch.from_numpy(motion_XT263[which, :length]).to(device())
      latents = self.features(x.to(self.dtype))
      if outputs is None:
        slots = motion_XT263.shape[1] * latents.shape[1] // int(length)
        outputs = latents.new_zeros(len(length_X), slots, latents.shape[-1])
      outputs[torch.from_numpy(which), : latents.shape[1]] = latents
    return outputs.reshape(len(batch['motion']), -1, outputs.shape[-1])

  def pixels(self, batch) -> torch.Tensor:
    """[B * C, 3, I, H, W], normalised in float32."""
    frames = batch['frames']
    x = torch.from_numpy(frames.reshape(-1, *frames.shape[2:])).to(device())
    mean, std = torch.tensor(_PIXEL_MEAN), torch.tensor(_PIXEL_STD)
    x = (x.float() / 255 - mean.to(x.device)) / std.to(x.device)
    return x.permute(0, 4, 1, 2, 3).contiguous().to(self.dtype)

  def video(self, batch) -> torch.Tensor:
    """Features [B, C * tokens, E]."""
    x = self.parts['video'].tokens(
      self.pixels(batch),
      select_layer=-1,  # The tower ends with the layer that is read.
      keep_class_token=self._keep_class_token,
    )
    return x.reshape(len(batch['frames']), -1, x.shape[-1])

  def bank(self, batch) -> torch.Tensor | None:
    banks = []
    for key, encode, name in (
      ('motion', self.motion, 'motion_translator'),
      ('frames', self.video, 'video_translator'),
    ):
      if key in batch:
        with torch.no_grad():  # Encoders are frozen.
          features = encode(batch)
        banks.append(self.parts[name](features))
    return torch.cat(banks, dim=1) if banks else None

  def logits(self, batch) -> torch.Tensor:
    return restatement().splice_forward(
      self.llama,
      *(to_tensor(batch[name]) for name in _ROW_NAMES),
      self.bank(batch),
    )


def to_tensor(x: np.ndarray) -> torch.Tensor:
  """On the device that everything is on."""
  return torch.from_numpy(x).to(device())


def to_numpy(x: torch.Tensor) -> np.ndarray:
  """In float32."""
  return x.detach().float().cpu().numpy()
