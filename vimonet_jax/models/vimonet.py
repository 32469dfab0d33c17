"""ViMoNet: motion and video, through two translators, into one decoder.

A row's media are encoded and translated into its bank, motion clips first:

    bank        = [ clip 0: 49 rows | clip 1: 49 rows | video 0: V rows | ... ]
    tokens      = [bos  What  is  0    0   ...  0    ?   He  waves  eos]
    media_index = [-1    -1   -1  0    1   ...  48  -1   -1    -1    -1]

The decoder's input is the token's embedding where media_index is -1 and that
row of the bank elsewhere. Nobody counts anything here: what an encoder makes
of a clip has a fixed number of rows, which `Config` tells to whoever lays out
text.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vimonet_jax.models import (
  attention,
  clip_video,
  llama,
  lora,
  motion_vqvae,
  translators,
)

Batch = Mapping[str, jax.Array]
MOTION_FEATURES = ('encoder', 'codebook')


@dataclasses.dataclass(frozen=True)
class Config:
  """The parts and how they are joined.

  Attributes:
    llm: the decoder.
    motion: the motion VQ-VAE, of which the encoder is used.
    video: the video tower.
    motion_feature: `encoder` reads the encoder's continuous latents, `codebook`
      the nearest codes; the latter needs the collection `codebook`.
    words_noise: deviation of the noise on words that stand for a clip, while
      training; embeddings begin with deviation 1. Any value above 0 also makes
      each place's words fainter, by a factor drawn from U(0.5, 1); 0 turns
      both off.
    max_motion_frames: to which clips are padded.
    train_video_tower: let gradients into the tower; only stage `video` does.
  """

  llm: llama.Config
  motion: motion_vqvae.Config
  video: clip_video.Config
  motion_feature: str = 'encoder'
  words_noise: float = 0.0
  max_motion_frames: int = 196
  train_video_tower: bool = False

  def __post_init__(self):
    if self.motion_feature not in MOTION_FEATURES:
      raise ValueError(
        f'Expected motion_feature to be one of {", ".join(MOTION_FEATURES)}, '
        f'found {self.motion_feature!r}.'
      )

  def to_json(self) -> dict[str, Any]:
    """Plain JSON values that `from_json` reads."""
    fields = dataclasses.asdict(self)
    for part in ('llm', 'motion', 'video'):
      fields[part]['dtype'] = jnp.dtype(fields[part]['dtype']).name
    return fields

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> 'Config':
    """The inverse of `to_json`."""
    llm = dict(fields['llm'])
    adapters = dict(llm['lora'])
    adapters['targets'] = tuple(adapters['targets'])
    llm['lora'] = lora.LoraConfig(**adapters)
    return cls(
      **{
        **fields,
        'llm': llama.Config(**llm),
        'motion': motion_vqvae.Config(**fields['motion']),
        'video': clip_video.Config(**fields['video']),
      }
    )

  @property
  def motion_tokens(self) -> int:
    """Rows of the bank that a motion clip takes, however short it is."""
    return self.max_motion_frames // self.motion.frames_per_token

  @property
  def video_tokens(self) -> int:
    """Rows of the bank that a video clip takes, all of them in use."""
    return self.video.num_tokens


def unstack(flat: Mapping[str, Any], config: Config) -> dict[str, Any]:
  """The decoder's layers as arrays of their own, where no loop goes over them.

  A layer that is taken out of a stack is copied, which costs more than its
  product with one token: a CPU answers twice as fast without.

  Args:
    flat: path -> parameter.
    config: a decoder with a loop keeps its stacks.

  Returns:
    path -> parameter, or the tuple of its layers; for `stack`.
  """
  layers = config.llm.layers
  if config.llm.unroll < layers:
    return dict(flat)
  divide = jax.jit(lambda x: tuple(x[i] for i in range(layers)))
  return {
    path: divide(x) if path.startswith('llm/blocks/') else x
    for path, x in flat.items()
  }


def stack(variables: Any) -> Any:
  """The variables that a Vimonet takes, of a tree with tuples of layers.

  To be traced right where they are used: XLA then takes every layer as it is
  and makes no stack.
  """

  def is_divided(x) -> bool:
    return isinstance(x, tuple)

  return jax.tree.map(
    lambda x: jnp.stack(x) if is_divided(x) else x,
    variables,
    is_leaf=is_divided,
  )


class _Motion(nn.Module):
  """Encoder and codebook under the paths that stage `motion` gave them."""

  config: motion_vqvae.Config

  def setup(self):
    self.encoder = motion_vqvae.Encoder(self.config)
    self.quantizer = motion_vqvae.Quantizer(self.config)


class Vimonet(nn.Module):
  """Encode, splice, forward, prefill, decode.

  A module whose media no batch has is never called, so that initialising with
  text alone makes `llm/...` and nothing else.
  """

  config: Config

  def setup(self):
    c = self.config
    self.llm = llama.Llama(c.llm)
    self.motion = _Motion(c.motion)
    self.video = clip_video.ClipVideo(c.video)
    self.translators = translators.Translators(c.llm.width)

  def encode_motion(
    self, motion_BCT263: jax.Array, length_BC: jax.Array
  ) -> jax.Array:
    """Features of normalised clips; never trained here.

    Returns:
      [B, C * motion_tokens, E]; rows beyond a clip's length // 4 mean nothing.
    """
    c = self.config
    B, C, T, _ = motion_BCT263.shape
    if c.max_motion_frames != T:
      raise ValueError(
        f'Expected motion clips padded to max_motion_frames='
        f'{c.max_motion_frames}, found {T} frames; pad or trim them.'
      )
    x_XTE = self.motion.encoder(
      motion_BCT263.reshape(B * C, T, -1), length_BC.reshape(B * C)
    )
    if c.motion_feature == 'codebook':
      x_XTE = self.motion.quantizer(x_XTE, train=False).quantised
    # Frozen: the encoder belongs to stage `motion`.
    return jax.lax.stop_gradient(x_XTE.reshape(B, -1, x_XTE.shape[-1]))

  def encode_video(self, frames_BCIHW3: jax.Array) -> jax.Array:
    """Features of clips, [B, C * video_tokens, E]."""
    B, C = frames_BCIHW3.shape[:2]
    x_XPE = self.video(frames_BCIHW3.reshape(B * C, *frames_BCIHW3.shape[2:]))
    if not self.config.train_video_tower:
      # Frozen, except in stage `video`.
      x_XPE = jax.lax.stop_gradient(x_XPE)
    return x_XPE.reshape(B, -1, x_XPE.shape[-1])

  def bank(self, batch: Batch) -> jax.Array | None:
    """All media of each row in the decoder's space, float32 [B, M, D]."""
    c = self.config
    parts = []
    if 'motion' in batch:
      features = self.encode_motion(batch['motion'], batch['motion_length'])
      _check_count('motion', features, batch['motion'], c.motion_tokens)
      parts.append(self.translators.motion(features))
    if 'frames' in batch:
      features = self.encode_video(batch['frames'])
      _check_count('video', features, batch['frames'], c.video_tokens)
      parts.append(self.translators.video(features))
    return jnp.concatenate(parts, axis=1) if parts else None

  def embed(self, batch: Batch, *, deterministic: bool = True) -> jax.Array:
    """The decoder's input, [B, L, D]."""
    x_BLD = self.llm.embed(batch['tokens'])
    if 'more_tokens' in batch:
      x_BLD = self._overlay(x_BLD, batch['more_tokens'], deterministic)
    bank_BMD = batch['bank'] if 'bank' in batch else self.bank(batch)
    if bank_BMD is None:
      return x_BLD
    return splice(x_BLD, bank_BMD, batch['media_index'])

  def _overlay(
    self, x_BLD: jax.Array, more_BLW: jax.Array, deterministic: bool
  ) -> jax.Array:
    """Words that lie on top of each other in place of what an encoder says.

    While training they are as faint and as noisy as a linear translator leaves
    them, so that the decoder learns to weigh several places.
    """
    is_place_BL1 = more_BLW[..., :1] >= 0
    more_BLWD = self.llm.embed(jnp.maximum(more_BLW, 0))
    words_BLD = x_BLD + jnp.sum(more_BLWD * (more_BLW > 0)[..., None], axis=2)
    noise = self.config.words_noise
    if noise and not deterministic:
      scale_key, noise_key = jax.random.split(self.make_rng('dropout'))
      words_BLD *= jax.random.uniform(
        scale_key, is_place_BL1.shape, minval=0.5, maxval=1.0
      )
      words_BLD += noise * jax.random.normal(noise_key, words_BLD.shape)
    return jnp.where(is_place_BL1, words_BLD, x_BLD)

  def __call__(self, batch: Batch, *, deterministic: bool = True) -> jax.Array:
    """Final hidden states of packed rows, [B, L, D].

    Args:
      batch: tokens, segment_ids, positions and media_index, each [B, L], and
        motion with motion_length, or frames, or both, or the bank [B, M, D]
        that was made of them; more_tokens [B, L, W] where words stand for
        media, whose embeddings are added to their place's.
      deterministic: False while training, with the random stream `dropout`.
    """
    return self.llm(
      self.embed(batch, deterministic=deterministic),
      batch['positions'],
      batch['segment_ids'],
      deterministic=deterministic,
    )

  def logits(self, h: jax.Array) -> jax.Array:
    """[..., D] -> float32 [..., V]."""
    return self.llm.logits(h)

  def prefill(
    self, batch: Batch, cache: attention.Cache
  ) -> tuple[jax.Array, attention.Cache]:
    """Reads prompts, one segment a row, padded on the right.

    Args:
      batch: see `generate.generate`.
      cache: empty, and no shorter than the rows.

    Returns:
      float32 [B, V], scores of the token after each row's last, and the cache.
    """
    return self._read(batch, cache, self.llm.begin)

  def prefill_more(
    self, batch: Batch, cache: attention.Cache
  ) -> tuple[jax.Array, attention.Cache]:
    """`prefill` of the next turn, after what the cache has."""
    return self._read(batch, cache, self.llm.extend)

  def _read(self, batch, cache, read):
    length_B = jnp.sum(batch['segment_ids'] > 0, axis=1, dtype=jnp.int32)
    h_BLD, cache = read(self.embed(batch), length_B, cache)
    last_B11 = jnp.maximum(length_B - 1, 0)[:, None, None]
    h_BD = jnp.take_along_axis(h_BLD, last_B11, axis=1)[:, 0]
    return self.llm.logits(h_BD), cache

  def decode(
    self, tokens_B: jax.Array, is_active_B: jax.Array, cache: attention.Cache
  ) -> tuple[jax.Array, attention.Cache]:
    """Reads one token per row; a row that is not active stays as it was.

    Returns:
      float32 [B, V], scores of the next token, and the cache.
    """
    x_B1D = self.llm.embed(tokens_B[:, None])
    length_B = is_active_B.astype(jnp.int32)
    h_B1D, cache = self.llm.extend(x_B1D, length_B, cache)
    return self.llm.logits(h_B1D[:, 0]), cache


def splice(
  x_BLD: jax.Array, bank_BMD: jax.Array, media_index_BL: jax.Array
) -> jax.Array:
  """Puts rows of the bank between embeddings: one gather, one where."""
  rows_BLD = jax.vmap(lambda bank_MD, index_L: bank_MD[index_L])(
    bank_BMD, media_index_BL
  )
  is_media_BL1 = media_index_BL[..., None] >= 0
  return jnp.where(is_media_BL1, rows_BLD.astype(x_BLD.dtype), x_BLD)


def _check_count(name: str, features, clips, tokens: int) -> None:
  """One number says how many rows a clip takes; the encoder must agree."""
  if features.shape[1] != clips.shape[1] * tokens:
    raise ValueError(
      f'Expected {tokens} {name} tokens for each of {clips.shape[1]} clips, '
      f'found {features.shape[1]} in all; the text was laid out for another '
      f'encoder: make Config.{name} the one whose {name}_tokens it used.'
    )


def check_batch(config: Config, batch: Mapping[str, np.ndarray]) -> None:
  """Raises a ValueError where text and media of a host batch do not agree.

  On the device an index beyond the bank would be clamped in silence, so the
  loop looks at the first batch of each kind and the engine at every request.
  """
  index_BL = np.asarray(batch['media_index'])
  motions = batch['motion'].shape[1] if 'motion' in batch else 0
  videos = batch['frames'].shape[1] if 'frames' in batch else 0
  start = motions * config.motion_tokens
  rows = start + videos * config.video_tokens
  if index_BL.max(initial=-1) >= rows:
    raise ValueError(
      f'Expected media_index below {rows} (motion clips: {motions} of '
      f'{config.motion_tokens} tokens, video clips: {videos} of '
      f'{config.video_tokens}), found {index_BL.max()}; lay out the text with '
      "the model's counts, and keep the clips that it refers to."
    )
  for b, index_L in enumerate(index_BL):
    used = np.bincount(index_L[index_L >= 0], minlength=rows)
    videos_used = used[start:].reshape(videos, config.video_tokens).sum(1)
    if bad := sorted(set(videos_used.tolist()) - {0, config.video_tokens}):
      raise ValueError(
        f'Expected {config.video_tokens} tokens of each video clip in row {b}, '
        f"found {bad}; lay out the text with the model's video_tokens."
      )
    if motions:
      valid = np.asarray(batch['motion_length'])[b] // (
        config.motion.frames_per_token
      )
      found = used[:start].reshape(motions, -1).sum(1)
      if (found > valid).any():
        raise ValueError(
          f'Expected at most {valid.tolist()} tokens of the motion clips in '
          f'row {b}, found {found.tolist()}; lay out one per '
          f'{config.motion.frames_per_token} valid frames.'
        )
