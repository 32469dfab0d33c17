"""Tables of what reads media: both encoders, both translators.

    languagebind      the video tower, alone or inside a Video-LLaVA checkpoint
    vqvae             the motion VQ-VAE of T2M-GPT and MotionGPT
    projector         video translator of MotionLLM and Video-LLaVA
    motion_projector  the linear motion translator

Each function takes the sizes of our network and gives a mapping.Table.
"""

import jax.numpy as jnp
import numpy as np

from vimonet_jax.convert import mapping
from vimonet_jax.models import clip_video, motion_vqvae

# Other parts of a checkpoint that holds a whole Video-LLaVA.
_NOT_PROJECTOR = r'(model\.(?!mm_projector\.)|lm_head\.).*'
_NOT_TOWER = (
  r'(text_model|visual_projection|text_projection|lm_head)\..*',
  r'model\.(?!video_tower\.).*',
  r'logit_scale',
)


def _weight_and_bias(
  theirs: str, ours: str, transform: mapping.Transform
) -> tuple[mapping.Row, ...]:
  return (
    mapping.row(f'{theirs}.weight', f'{ours}/kernel', transform),
    mapping.row(f'{theirs}.bias', f'{ours}/bias'),
  )


def _norm(theirs: str, ours: str) -> tuple[mapping.Row, ...]:
  return (
    mapping.row(f'{theirs}.weight', f'{ours}/scale'),
    mapping.row(f'{theirs}.bias', f'{ours}/bias'),
  )


def projector(features: int, width: int) -> mapping.Table:
  """The video translator: `mlp2x_gelu`.

  Args:
    features: the tower's width.
    width: the decoder's.
  """
  rows = (
    *_weight_and_bias('0', 'translators/video/in', mapping.TRANSPOSED),
    *_weight_and_bias('2', 'translators/video/out', mapping.TRANSPOSED),
  )
  shapes = {
    'translators/video/in/kernel': (features, width),
    'translators/video/in/bias': (width,),
    'translators/video/out/kernel': (width, width),
    'translators/video/out/bias': (width,),
  }
  return mapping.Table(
    'a video projector',
    rows,
    shapes,
    ignored=(_NOT_PROJECTOR,),
    renamed=((r'^(model\.)?mm_projector\.', ''),),
  )


def motion_projector(features: int, width: int) -> mapping.Table:
  """The motion translator: one linear layer, `linear_proj` in MotionLLM.

  Args:
    features: of the motion encoder.
    width: the decoder's.
  """
  rows = _weight_and_bias(
    'linear_proj', 'translators/motion/in', mapping.TRANSPOSED
  )
  shapes = {
    'translators/motion/in/kernel': (features, width),
    'translators/motion/in/bias': (width,),
  }
  return mapping.Table('a motion projector', rows, shapes)


# --- Encoders ----------------------------------------------------------------


def languagebind(config: clip_video.Config) -> mapping.Table:
  """LanguageBind's video tower, up to the last block that we compute.

  The features are those of the last block but one, so one block beyond
  config.layers may be there, and the norm after it; neither is read.
  """
  heads, size = config.heads, config.width // config.heads
  layer, ours = 'vision_model.encoder.layers.{i}.', 'video/blocks/'
  rows = [
    mapping.row(
      'vision_model.embeddings.class_embedding', 'video/class_embedding'
    ),
    mapping.row(
      'vision_model.embeddings.patch_embedding.weight',
      'video/patch/kernel',
      mapping.axes(2, 3, 1, 0),
    ),
    mapping.row(
      'vision_model.embeddings.position_embedding.weight',
      'video/position_embedding',
    ),
    *_norm('vision_model.pre_layrnorm', 'video/pre_norm'),
    mapping.row(
      f'{layer}temporal_embedding',
      f'{ours}temporal_embedding',
      mapping.reshaped(
        (1, config.frames, config.width), (config.frames, config.width)
      ),
    ),
    *_norm(f'{layer}temporal_layer_norm1', f'{ours}temporal_norm'),
    *_norm(f'{layer}layer_norm1', f'{ours}norm1'),
    *_norm(f'{layer}layer_norm2', f'{ours}norm2'),
    *_weight_and_bias(f'{layer}mlp.fc1', f'{ours}mlp/in', mapping.TRANSPOSED),
    *_weight_and_bias(f'{layer}mlp.fc2', f'{ours}mlp/out', mapping.TRANSPOSED),
  ]
  for theirs, name in (('temporal_attn', 'temporal'), ('self_attn', 'spatial')):
    for part in ('q', 'k', 'v'):
      source, target = f'{layer}{theirs}.{part}_proj', f'{ours}{name}/{part}'
      rows += [
        mapping.row(
          f'{source}.weight',
          f'{target}/kernel',
          mapping.split_outputs(heads, size),
        ),
        mapping.row(
          f'{source}.bias',
          f'{target}/bias',
          mapping.reshaped((config.width,), (heads, size)),
        ),
      ]
    rows += _weight_and_bias(
      f'{layer}{theirs}.out_proj',
      f'{ours}{name}/o',
      mapping.split_inputs(heads, size),
    )
  clip = (1, config.frames, config.image_size, config.image_size, 3)
  shapes = mapping.shapes_of(
    'video', clip_video.ClipVideo(config), jnp.zeros(clip, jnp.uint8)
  )
  return mapping.Table(
    'a LanguageBind video tower',
    tuple(rows),
    shapes,
    ignored=(
      r'vision_model\.embeddings\.position_ids',
      r'vision_model\.post_layernorm\..*',
      rf'vision_model\.encoder\.layers\.{config.layers}\..*',
      *_NOT_TOWER,
    ),
    renamed=((r'^model\.video_tower\.video_tower\.', 'vision_model.'),),
  )


def vqvae(config: motion_vqvae.Config) -> mapping.Table:
  """The motion VQ-VAE; T2M-GPT keeps it under `vqvae.`, MotionGPT `vae.`."""
  convolution = mapping.axes(2, 1, 0)
  rows = []

  def add(theirs, ours):
    rows.extend(
      _weight_and_bias(f'vqvae.{theirs}', f'motion/{ours}', convolution)
    )

  def add_residuals(theirs, ours):
    for j in range(config.depth):
      for conv in ('conv1', 'conv2'):
        add(f'{theirs}.model.{j}.{conv}', f'{ours}/res{j + 1}/{conv}')

  # Numbers are places in a torch Sequential, activations included.
  last = 2 + config.down
  add('encoder.model.0', 'encoder/in')
  add('decoder.model.0', 'decoder/in')
  for k in range(config.down):
    add(f'encoder.model.{2 + k}.0', f'encoder/down{k + 1}/conv')
    add_residuals(f'encoder.model.{2 + k}.1', f'encoder/down{k + 1}')
    add_residuals(f'decoder.model.{2 + k}.0', f'decoder/up{k + 1}')
    add(f'decoder.model.{2 + k}.2', f'decoder/up{k + 1}/conv')
  add(f'encoder.model.{last}', 'encoder/out')
  add(f'decoder.model.{last}', 'decoder/mid')
  add(f'decoder.model.{last + 2}', 'decoder/out')
  rows.append(
    mapping.row('vqvae.quantizer.codebook', 'motion/quantizer/codebook'),
  )
  window = jnp.zeros((1, 4 * config.frames_per_token, motion_vqvae.FEATURES))
  shapes = mapping.shapes_of(
    'motion', motion_vqvae.MotionVqvae(config), window, train=False
  )
  return mapping.Table(
    'a motion VQ-VAE',
    tuple(rows),
    shapes,
    # Other parts of a MotionGPT checkpoint.
    ignored=(r'(lm|metrics|losses|_losses|t2m_\w+|text_encoder)\..*',),
    renamed=(
      (r'^(motion_)?vae\.', 'vqvae.'),
      (r'^(encoder|decoder|quantizer)\.', r'vqvae.\1.'),
    ),
  )


def codebook_state(codebook: np.ndarray) -> dict[str, np.ndarray]:
  """The rest of what our quantizer keeps, which no published file has.

  Each code counts as taken once, as after T2M-GPT's own first batch.

  Args:
    codebook: float [Q, E].
  """
  codebook = codebook.astype(np.float32)
  return {
    'motion/quantizer/codebook': codebook,
    'motion/quantizer/sum': codebook,
    'motion/quantizer/count': np.ones(len(codebook), np.float32),
    'motion/quantizer/is_initialised': np.ones((), bool),
  }
