"""The networks once more in PyTorch, to measure ours against.

Names and shapes of a state dict are those of the original checkpoints, so that
they load as they are; the arithmetic is what LanguageBind, T2M-GPT and
MotionLLM run. `--task=parity` puts this beside the JAX networks, in float32 or
bfloat16, on any device. Letters as in style.md, and S: positions of a frame,
class token first; X: latents or frames of a batch, one after the other.
"""

import math
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional


class VideoTower(nn.Module):
  """CLIP's ViT with attention over frames in every layer.

  LanguageBind (https://arxiv.org/abs/2310.01852, section 3). The sizes are
  those that `vision_config` of its config.json names; the rest of that can be
  given as well, and only what would change the computation is looked at.
  """

  def __init__(
    self,
    *,
    hidden_size: int,
    intermediate_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    image_size: int,
    patch_size: int,
    num_frames: int = 8,
    layer_norm_eps: float = 1e-5,
    hidden_act: str = 'gelu',
    add_time_attn: bool = True,
    **unused,
  ):
    super().__init__()
    if hidden_act != 'gelu' or not add_time_attn:
      raise ValueError(
        "Expected hidden_act='gelu' (exact) and add_time_attn=True, found "
        f'{hidden_act!r} and {add_time_attn}; this tower has nothing else.'
      )
    del unused
    self.clip_shape = (3, num_frames, image_size, image_size)
    width, eps = hidden_size, layer_norm_eps
    embeddings = nn.Module()
    embeddings.class_embedding = nn.Parameter(torch.randn(width))
    embeddings.patch_embedding = nn.Conv2d(
      3, width, patch_size, stride=patch_size, bias=False
    )
    patches = (image_size // patch_size) ** 2
    embeddings.position_embedding = nn.Embedding(1 + patches, width)
    layers = nn.ModuleList(
      VideoLayer(width, intermediate_size, num_attention_heads, num_frames, eps)
      for _ in range(num_hidden_layers)
    )
    self.vision_model = nn.ModuleDict(
      {
        'embeddings': embeddings,
        'pre_layrnorm': nn.LayerNorm(width, eps),
        'encoder': nn.ModuleDict({'layers': layers}),
        # In the file, but no hidden state passes through it.
        'post_layernorm': nn.LayerNorm(width, eps),
      }
    )
    self.register_load_state_dict_pre_hook(_keep_the_tower)

  @property
  def layers(self) -> nn.ModuleList:
    """In their order; each maps [B, I, S, E] to the same shape."""
    return self.vision_model['encoder']['layers']

  def embed(self, pixels_B3IHW: torch.Tensor) -> torch.Tensor:
    """Normalised clips to what enters the first layer, [B, I, S, E]."""
    if pixels_B3IHW.shape[1:] != self.clip_shape:
      raise ValueError(
        f'Expected clips [B, {", ".join(map(str, self.clip_shape))}], found '
        f'{list(pixels_B3IHW.shape)}; put channels before frames and resize.'
      )
    part = self.vision_model['embeddings']
    pixels_X3HW = pixels_B3IHW.transpose(1, 2).flatten(0, 1)
    pixels_X3HW = pixels_X3HW.to(part.patch_embedding.weight.dtype)
    x_XEP = part.patch_embedding(pixels_X3HW).flatten(2)
    class_XE1 = part.class_embedding[:, None].expand(len(x_XEP), -1, 1)
    x_XSE = torch.cat([class_XE1, x_XEP], dim=2).transpose(1, 2)
    x_XSE = x_XSE + part.position_embedding.weight
    x_BISE = x_XSE.unflatten(0, (-1, self.clip_shape[1]))
    return self.vision_model['pre_layrnorm'](x_BISE)

  def forward(self, pixels_B3IHW: torch.Tensor) -> list[torch.Tensor]:
    """Hidden states [B, I, S, E]: the first is `embed`'s, then each layer's."""
    states = [self.embed(pixels_B3IHW)]
    for layer in self.layers:
      states.append(layer(states[-1]))
    return states

  def tokens(
    self, pixels_B3IHW, *, select_layer=-2, keep_class_token=False
  ) -> torch.Tensor:
    """One hidden state, frame after frame: [B, I * P, E], or [B, I * S, E].

    MotionLLM drops the class tokens, Video-LLaVA keeps them.
    """
    x_BISE = self(pixels_B3IHW)[select_layer]
    return x_BISE[:, :, 0 if keep_class_token else 1 :].flatten(1, 2)


def _keep_the_tower(module, state_dict, *unused) -> None:
  """LanguageBind's file has a text side as well, and a buffer of constants."""
  del module, unused
  for name in list(state_dict):
    if not name.startswith('vision_model.') or name.endswith('.position_ids'):
      del state_dict[name]


class VideoLayer(nn.Module):
  """Attends over frames, then over the positions of each frame; then MLP."""

  def __init__(self, width, mlp_width, heads, frames, eps):
    super().__init__()
    self.temporal_embedding = nn.Parameter(torch.randn(1, frames, width))
    self.temporal_layer_norm1 = nn.LayerNorm(width, eps)
    self.temporal_attn = _Attention(width, heads)
    self.layer_norm1 = nn.LayerNorm(width, eps)
    self.self_attn = _Attention(width, heads)
    self.layer_norm2 = nn.LayerNorm(width, eps)
    fc1, fc2 = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
    self.mlp = nn.Sequential(OrderedDict(fc1=fc1, act=nn.GELU(), fc2=fc2))

  def forward(self, x_BISE: torch.Tensor) -> torch.Tensor:
    # Into the stream itself, not only into what the attention reads.
    x_BISE = x_BISE + self.temporal_embedding[0, :, None]
    h_BSIE = self.temporal_layer_norm1(x_BISE).transpose(1, 2)
    x_BISE = x_BISE + self.temporal_attn(h_BSIE).transpose(1, 2)
    x_BISE = x_BISE + self.self_attn(self.layer_norm1(x_BISE))
    return x_BISE + self.mlp(self.layer_norm2(x_BISE))


class _Attention(nn.Module):
  """Full self-attention over the last axis but one."""

  def __init__(self, width, heads):
    super().__init__()
    self.heads = heads
    for name in ('q_proj', 'k_proj', 'v_proj', 'out_proj'):
      setattr(self, name, nn.Linear(width, width))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    def split(y):
      """[..., L, N * H] -> [..., N, L, H]"""
      return y.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    q, k, v = (split(f(x)) for f in (self.q_proj, self.k_proj, self.v_proj))
    # CLIP scales the query, its bias included, not the scores.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    mixed = scores.softmax(-1) @ v
    return self.out_proj(mixed.transpose(-3, -2).flatten(-2))


class Vqvae(nn.Module):
  """Encoder, codebook and decoder of T2M-GPT (arxiv.org/abs/2301.06052, 3.1).

  There are no masks, as in the original: the clips of a call have one length.
  """

  def __init__(
    self,
    *,
    width: int = 512,
    code_dim: int = 512,
    nb_code: int = 512,
    down_t: int = 2,
    depth: int = 3,
    dilation_growth_rate: int = 3,
  ):
    super().__init__()

    def conv(inputs, outputs):
      return nn.Conv1d(inputs, outputs, 3, padding=1)

    def named(*layers):
      return nn.Sequential(OrderedDict(model=nn.Sequential(*layers)))

    def residuals():
      # Largest dilation first, in both halves: the original turns its list.
      dilations = [dilation_growth_rate**i for i in reversed(range(depth))]
      return named(*(_Residual(width, dilation) for dilation in dilations))

    def halve():
      down = nn.Conv1d(width, width, 4, stride=2, padding=1)
      return nn.Sequential(down, residuals())

    def double():
      up = nn.Upsample(scale_factor=2, mode='nearest')
      return nn.Sequential(residuals(), up, conv(width, width))

    first, last = (conv(263, width), nn.ReLU()), conv(width, code_dim)
    encoder = named(*first, *(halve() for _ in range(down_t)), last)
    first = (conv(code_dim, width), nn.ReLU())
    last = (conv(width, width), nn.ReLU(), conv(width, 263))
    decoder = named(*first, *(double() for _ in range(down_t)), *last)
    self.vqvae = nn.ModuleDict({'encoder': encoder, 'decoder': decoder})
    self.vqvae['quantizer'] = Quantizer(nb_code, code_dim)

  def encode(self, motion_BT263: torch.Tensor) -> torch.Tensor:
    """Normalised features to continuous latents, [B, T // 4, E]."""
    encoder = self.vqvae['encoder']
    x_B263T = motion_BT263.to(encoder.model[0].weight.dtype).transpose(1, 2)
    return encoder(x_B263T).transpose(1, 2)

  def codes(self, latents_BTE: torch.Tensor) -> torch.Tensor:
    """The nearest codes of `encode`'s latents, int64 [B, T / 4]."""
    return self.vqvae['quantizer'].nearest(latents_BTE)

  def vectors(self, codes_BT: torch.Tensor) -> torch.Tensor:
    """Rows of the codebook, float32 [B, T / 4, E]."""
    return self.vqvae['quantizer'].codebook[codes_BT]

  def decode(self, x_BTE: torch.Tensor) -> torch.Tensor:
    """Latents or codes' vectors to normalised features, [B, T, 263]."""
    decoder = self.vqvae['decoder']
    x_BET = x_BTE.to(decoder.model[0].weight.dtype).transpose(1, 2)
    return decoder(x_BET).transpose(1, 2)

  def forward(self, motion_BT263) -> tuple[torch.Tensor, 'Quantised']:
    """Decoded motion; in training mode the codebook follows the latents."""
    found = self.vqvae['quantizer'](self.encode(motion_BT263))
    return self.decode(found.quantised), found


class _Residual(nn.Module):
  def __init__(self, width, dilation):
    super().__init__()
    self.conv1 = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
    self.conv2 = nn.Conv1d(width, width, 1)

  def forward(self, x_BET: torch.Tensor) -> torch.Tensor:
    return x_BET + self.conv2(self.conv1(x_BET.relu()).relu())


class Quantised(NamedTuple):
  """Latents snapped to their nearest codes; float32 but for the codes."""

  quantised: torch.Tensor  # [B, T, E], gradients pass straight through
  commitment: torch.Tensor  # mean squared distance of latents from their codes
  perplexity: torch.Tensor
  codes: torch.Tensor  # int64 [B, T]


class Quantizer(nn.Module):
  """A codebook by moving averages, with reset (T2M-GPT, section 3.1).

  As in the original a checkpoint holds `codebook` [Q, E] only: `total` [Q, E]
  and `count` [Q] are None until the first batch in training mode, which fills
  the codebook anew. All stay float32, or codes that lie close would flip.
  """

  def __init__(self, nb_code: int, code_dim: int, *, decay: float = 0.99):
    super().__init__()
    self.decay = decay
    self.register_buffer('codebook', torch.zeros(nb_code, code_dim))
    self.total = self.count = None

  def _apply(self, fn, recurse=True):
    # What torch calls for .to(), .half(), ...: of these, the device alone.
    return super()._apply(lambda x: x.to(fn(x).device), recurse)

  def nearest(self, x: torch.Tensor) -> torch.Tensor:
    """Of vectors [..., E], by squared distance; int64 [...]."""
    # |x|^2 is the same for all codes and only costs precision.
    square_Q = self.codebook.square().sum(1)
    return (square_Q - 2 * x.float() @ self.codebook.T).argmin(-1)

  def forward(self, x_BTE: torch.Tensor) -> Quantised:
    x_BTE = x_BTE.float()
    x_XE = x_BTE.detach().flatten(0, 1)
    if self.training and self.total is None:
      self.total = self.codebook = self._first(x_XE)
      self.count = self.codebook.new_ones(len(self.codebook))
    codes_BT = self.nearest(x_BTE)
    vectors_BTE = self.codebook[codes_BT]
    taken_XQ = functional.one_hot(codes_BT.flatten(), len(self.codebook))
    if self.training:
      self._follow(x_XE, taken_XQ.float())
    share_Q = taken_XQ.float().mean(0)
    return Quantised(
      quantised=x_BTE + (vectors_BTE - x_BTE).detach(),
      commitment=functional.mse_loss(x_BTE, vectors_BTE),
      perplexity=(-(share_Q * (share_Q + 1e-7).log()).sum()).exp(),
      codes=codes_BT,
    )

  def _follow(self, x_XE, taken_XQ) -> None:
    """A code that few latents take starts anew; its averages go on."""
    old, new = self.decay, 1 - self.decay
    self.total = old * self.total + new * (taken_XQ.T @ x_XE)
    self.count = old * self.count + new * taken_XQ.sum(0)
    mean_QE = self.total / self.count[:, None]
    is_used_Q1 = self.count[:, None] >= 1.0
    self.codebook = torch.where(is_used_Q1, mean_QE, self._first(x_XE))

  def _first(self, x_XE: torch.Tensor) -> torch.Tensor:
    """The batch's first Q latents; fewer are repeated, with noise."""
    Q, E = self.codebook.shape
    if len(x_XE) < Q:
      x_XE = x_XE.repeat(math.ceil(Q / len(x_XE)), 1)
      x_XE = x_XE + 0.01 / math.sqrt(E) * torch.randn_like(x_XE)
    return x_XE[:Q]


def video_projector(features: int, width: int) -> nn.Sequential:
  """`mlp2x_gelu` of MotionLLM and Video-LLaVA: names 0.*, 2.*; exact GELU."""
  first, second = nn.Linear(features, width), nn.Linear(width, width)
  return nn.Sequential(first, nn.GELU(), second)


def motion_projector(features: int, width: int) -> nn.Sequential:
  """MotionLLM's linear layer, named linear_proj.*; no file was released."""
  layer = nn.Linear(features, width)
  return nn.Sequential(OrderedDict(linear_proj=layer))


def splice_forward(
  llama, tokens_BL, positions_BL, segment_ids_BL, media_index_BL, bank_BMD
) -> torch.Tensor:
  """Runs a stock decoder on packed rows with media between the words.

  A query sees what does not come later in its segment, thus itself at least:
  no softmax is over nothing, not even padding's.

  Args:
    llama: a transformers LlamaForCausalLM, eager; peft may be around it.
    tokens_BL .. media_index_BL: integers, as in models/vimonet.py.
    bank_BMD: what the projectors made of each row's media; None without any.

  Returns:
    logits, float32 [B, L, V].
  """
  if (found := llama.config._attn_implementation) != 'eager':
    raise ValueError(
      f"Expected attn_implementation='eager', found {found!r}; make the model "
      'with it: others may ignore a mask that is not causal.'
    )
  x_BLD = llama.get_input_embeddings()(tokens_BL)
  if bank_BMD is not None:
    index_BL1 = media_index_BL[..., None].long()
    rows_BLD = bank_BMD.take_along_dim(index_BL1.clamp(min=0), dim=1)
    x_BLD = torch.where(index_BL1 >= 0, rows_BLD.to(x_BLD.dtype), x_BLD)
  is_same_BLL = segment_ids_BL[:, :, None] == segment_ids_BL[:, None, :]
  not_later_BLL = positions_BL[:, :, None] >= positions_BL[:, None, :]
  mask_BLL = torch.zeros_like(is_same_BLL, dtype=x_BLD.dtype).masked_fill(
    ~(is_same_BLL & not_later_BLL), torch.finfo(x_BLD.dtype).min
  )
  return llama(
    inputs_embeds=x_BLD,
    attention_mask=mask_BLL[:, None],
    position_ids=positions_BL,
    use_cache=False,
  ).logits.float()


class TokenLoss(NamedTuple):
  """Sums over supervised tokens; all are float32 scalars."""

  loss_sum: torch.Tensor
  count: torch.Tensor
  correct: torch.Tensor


def token_loss(
  logits_BLV, tokens_BL, loss_mask_BL, segment_ids_BL, positions_BL=None
) -> TokenLoss:
  """Cross-entropy of the next token, as vimonet_jax/train/losses.py means it.

  A token of the loss mask is the target of the position right before it in its
  own segment; the first of a segment is nobody's. Positions tell neighbours of
  one number apart, and may be None where there are none.
  """
  segment_BL, next_BL = segment_ids_BL[:, :-1], segment_ids_BL[:, 1:]
  supervised_BL = loss_mask_BL[:, 1:].bool() & (segment_BL > 0)
  supervised_BL = supervised_BL & (segment_BL == next_BL)
  if positions_BL is not None:
    supervised_BL = supervised_BL & (positions_BL.diff(dim=1) == 1)
  logits_XV = logits_BLV[:, :-1][supervised_BL].float()
  targets_X = tokens_BL[:, 1:][supervised_BL].long()
  return TokenLoss(
    loss_sum=functional.cross_entropy(logits_XV, targets_X, reduction='sum'),
    count=supervised_BL.sum().float(),
    correct=(logits_XV.argmax(-1) == targets_X).sum().float(),
  )
