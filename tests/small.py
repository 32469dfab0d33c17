"""A model small enough to compile in seconds, and parameters that show much."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vimonet_jax import sharding
from vimonet_jax.models import clip_video, llama, lora, motion_vqvae, vimonet

CONFIG = vimonet.Config(
  llm=llama.Config(
    vocab_size=32,
    width=16,
    layers=2,
    heads=2,
    kv_heads=2,
    head_dim=8,
    mlp_width=24,
    lora=lora.LoraConfig(rank=2),
  ),
  motion=motion_vqvae.Config(width=8, code_dim=8, num_codes=6, depth=1),
  video=clip_video.Config(
    width=8,
    layers=1,
    heads=2,
    mlp_width=16,
    image_size=8,
    patch_size=4,
    frames=2,
  ),
  max_motion_frames=16,
)
MOTION_TOKENS, VIDEO_TOKENS = 4, 8


def params(
  abstract: Mapping[str, Any], deviation: float, *, seed: int = 0
) -> dict[str, np.ndarray]:
  """Random arrays by path, around one for scales and around zero for others.

  Fresh parameters would hide mistakes (biases and adapters are zero) and make
  scores that nearly tie.

  Args:
    abstract: variables of one collection, nested or flat, boxed or not.
    deviation: of every array.
    seed: of the draw.
  """
  rng = np.random.default_rng(seed)
  return {
    path: rng.normal(path.endswith('scale'), deviation, x.shape).astype(x.dtype)
    for path, x in sorted(sharding.unbox(abstract).items())
  }
