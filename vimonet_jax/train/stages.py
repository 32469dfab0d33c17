"""What the five stages train: model, loss and trainable paths, for the loop.

    motion     the VQ-VAE on windows of motion
    language   the decoder on text, with words in place of media
    video      the video tower and its translator, through the frozen decoder
    align      both translators (the paper's stage 1)
    instruct   both translators and the decoder's adapters (stage 2)

The first three make what the paper downloads. Here a configuration becomes
typed dataclasses; nothing below this file ever sees one.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from vimonet_jax import sharding
from vimonet_jax.models import (
  clip_video,
  llama,
  lora,
  motion_vqvae,
  quantize,
  vimonet,
)
from vimonet_jax.train import losses, optimizer

Flat = dict[str, Any]
NAMES = ('motion', 'language', 'video', 'align', 'instruct')


@dataclasses.dataclass(frozen=True)
class Stage:
  """All that the loop knows of a stage.

  Attributes:
    name: for the log.
    trainable: patterns of whole paths; all else is frozen.
    init: key -> (parameters, mutable state), flat dicts of arrays.
    abstract: () -> the same as shapes; parameters with their logical names.
    loss_fn: (trainables, frozen, mutable, batch, key) ->
      ((loss_sum, weight), (mutable, metrics)), where a metric is (sum, count).
    frozen_dtype: what frozen parameters are kept in; None: as they are stored.
    check: host batch -> None, or a ValueError where it cannot be meant so.
  """

  name: str
  trainable: tuple[str, ...]
  init: Callable[[jax.Array], tuple[Flat, Flat]]
  abstract: Callable[[], tuple[Flat, Flat]]
  loss_fn: Callable[..., Any]
  frozen_dtype: str | None = 'float32'
  check: Callable[[Mapping[str, Any]], None] | None = None


def model_config(
  config: Mapping[str, Any],
  *,
  vocab_size: int,
  image_size: int,
  adapters: Mapping[str, Any] | None = None,
  quantize: str = '',
) -> vimonet.Config:
  """The model that the `model` part of a configuration describes.

  Args:
    config: has llm, video and motion, dicts of their Config's fields.
    vocab_size: of the tokenizer.
    image_size: of the frames, pixels.
    adapters: fields of lora.LoraConfig; None for a decoder without.
    quantize: what the decoder's kernels are kept in, of quantize.KINDS.
  """
  llm, video, motion_fields = (
    dict(config[name]) for name in ('llm', 'video', 'motion')
  )
  return vimonet.Config(
    llm=llama.Config(
      vocab_size=vocab_size,
      lora=lora.LoraConfig(**(adapters or {})),
      quantize=quantize,
      **llm,
    ),
    video=clip_video.Config(image_size=image_size, **video),
    motion=motion_vqvae.Config(**motion_fields),
    motion_feature=config['motion_feature'],
    words_noise=config['words_noise'],
  )


@dataclasses.dataclass(frozen=True)
class BatchKind:
  """Shape of the batches that a stage's configuration asks for.

  Attributes:
    rows: B, of all processes together.
    length: tokens of a row, L.
    clips: medium -> clips that a row has room for; none where words stand for
      them.
  """

  rows: int
  length: int
  clips: Mapping[str, int]


def batch_kinds(config: Mapping[str, Any]) -> dict[str, BatchKind]:
  """A kind of batch for each mix of a stage, or `packed`, which they all share.

  Args:
    config: of a stage. `mixes` may be empty, as in stage `motion`. `packed` may
      be missing or of 0 rows; else it has length, motion_clips and video_clips.

  Raises:
    ValueError: packed rows have no length, or no room for the clips of the
      mixes.
  """

  def kind(asked, clips) -> BatchKind:
    # Words that stand for clips need no room beside the tokens.
    return BatchKind(
      asked['rows'], asked['length'], {} if config.get('stand_in') else clips
    )

  mixes, packed = config['mixes'], config.get('packed')
  if not packed or not packed['rows']:
    return {
      name: kind(mix, dict.fromkeys(mix['media'], 1))
      for name, mix in mixes.items()
    }
  media = _media(config)
  clips = {medium: packed.get(f'{medium}_clips', 0) for medium in media}
  found = kind(packed, clips)
  if found.length < 1:
    raise ValueError(
      f'Expected packed rows of some length, found packed.length={found.length}'
      f' with packed.rows={found.rows}; a row needs room for the longest '
      'conversation, e.g. the length of the longest mix.'
    )
  if none := [medium for medium, number in found.clips.items() if number < 1]:
    raise ValueError(
      f'Expected packed rows with room for the {none[0]} clips of their mixes, '
      f'found packed.{none[0]}_clips={clips[none[0]]}; a row needs at least 1.'
    )
  return {'packed': found}


def _media(config: Mapping[str, Any]) -> list[str]:
  return sorted({x for mix in config['mixes'].values() for x in mix['media']})


def make(name: str, config: Mapping[str, Any], model: vimonet.Config) -> Stage:
  """The stage that a configuration's part of that name describes.

  Args:
    name: one of NAMES.
    config: has trainable, and mixes for stages that predict tokens.
    model: from `model_config`, with the stage's adapters.
  """
  if name not in NAMES:
    raise ValueError(
      f'Expected a stage of {", ".join(NAMES)}, found {name!r}.'
    )
  if name == 'motion':
    return motion(model.motion)
  return tokens(
    name,
    model,
    tuple(config['trainable']),
    # Where words stand for media there are slots for no clip.
    media=() if config.get('stand_in') else _media(config),
    frozen_dtype=config.get('frozen_dtype', 'float32') or None,
  )


def make_optimizer(config: Mapping[str, Any]) -> optax.GradientTransformation:
  """The optimizer of a stage's part of a configuration.

  Shares of all steps become numbers of steps here and nowhere else.
  """
  return optimizer.make(
    [optimizer.Group(*group) for group in config['learning_rates']],
    steps=config['steps'],
    warmup_steps=int(config['warmup_share'] * config['steps']),
    schedule=config['schedule'],
    clip=config['clip'],
    betas=tuple(config['betas']),
    weight_decay=config['weight_decay'],
    kind=config['optimizer'],
  )


def motion(
  config: motion_vqvae.Config,
  *,
  commitment_weight: float = 0.02,
  position_weight: float = 0.5,
) -> Stage:
  """The VQ-VAE; a batch is {'motion': [B, T, 263]} of normalised windows."""
  model = motion_vqvae.MotionVqvae(config, name='motion')

  def init_variables(key):
    window = jnp.zeros((2, 16, 263), jnp.float32)
    return _under('motion', model.init(key, window, train=False))

  def loss_fn(trainables, frozen, mutable, batch, key):
    variables = _inside(
      'motion',
      {
        'params': optimizer.join(trainables, frozen),
        'codebook': mutable,
      },
    )
    output, changed = model.apply(
      variables,
      batch['motion'],
      train=True,
      mutable=['codebook'],
      rngs={'codebook': key},
    )
    loss = losses.motion_loss(
      output.decoded,
      batch['motion'],
      output.commitment,
      commitment_weight=commitment_weight,
      position_weight=position_weight,
    )
    _, mutable = _flat(_under('motion', changed))
    weight = jnp.float32(len(batch['motion']))
    one = jnp.float32(1.0)
    metrics = {
      'reconstruction': (loss.reconstruction, one),
      'position': (loss.position, one),
      'commitment': (loss.commitment, one),
      'perplexity': (output.perplexity, one),
      'code_use': (output.code_use, one),
    }
    return (loss.loss * weight, weight), (mutable, metrics)

  return Stage(
    'motion',
    ('motion/.*',),
    lambda key: _flat(init_variables(key)),
    _abstract(init_variables),
    loss_fn,
  )


def tokens(
  name: str,
  config: vimonet.Config,
  trainable: Sequence[str],
  *,
  media: Sequence[str],
  loss_chunk: int = 64,
  frozen_dtype: str | None = 'float32',
) -> Stage:
  """A stage that predicts the tokens of answers.

  Args:
    name: for the log.
    config: the model; whether it trains its video tower follows from
      `trainable`.
    trainable: patterns of whole paths.
    media: of `motion` and `video`, what the batches of this stage hold; the
      encoder and translator of anything else do not exist here.
    loss_chunk: see losses.token_loss.
    frozen_dtype: see Stage.
  """
  init_variables = functools.partial(_init_tokens, media=tuple(media))
  shapes = _abstract(functools.partial(init_variables, config))()[0]
  trained = optimizer.match(trainable, list(shapes))
  if rounded := [path for path in trained if quantize.source(path) != path]:
    raise ValueError(
      f'Expected stage {name} to keep the kernels frozen that it quantises, '
      f'found that it trains {rounded[0]} and {len(rounded) - 1} more; set '
      f"--config.{name}.quantize=''."
    )
  config = dataclasses.replace(
    config, train_video_tower=any(p.startswith('video/') for p in trained)
  )
  model = vimonet.Vimonet(config)

  def loss_fn(trainables, frozen, mutable, batch, key):
    flat = optimizer.join(trainables, frozen)
    params = traverse_util.unflatten_dict(flat, sep='/')
    variables = {'params': params}
    if mutable:
      variables['codebook'] = traverse_util.unflatten_dict(mutable, sep='/')
    h_BLD = model.apply(
      variables, batch, deterministic=False, rngs={'dropout': key}
    )
    head = {'params': {'llm': params['llm']}}
    found = losses.token_loss(
      h_BLD,
      lambda h_BlD: model.apply(head, h_BlD, method='logits'),
      batch,
      chunk=loss_chunk,
    )
    metrics = {'token_accuracy': (found.correct, found.count)}
    return (found.loss_sum, found.count), (mutable, metrics)

  return Stage(
    name,
    tuple(trainable),
    lambda key: _flat(init_variables(config, key)),
    _abstract(functools.partial(init_variables, config)),
    loss_fn,
    frozen_dtype,
    functools.partial(vimonet.check_batch, config),
  )


def _init_tokens(config: vimonet.Config, key, *, media: tuple[str, ...]):
  """Variables of a model that has met a batch with these media."""
  batch = example_batch(config, BatchKind(1, 8, dict.fromkeys(media, 1)))

  def reach_everything(module, batch):
    return module.logits(module(batch, deterministic=True))

  return vimonet.Vimonet(config).init(key, batch, method=reach_everything)


def example_batch(
  config: vimonet.Config, kind: BatchKind
) -> dict[str, jax.Array]:
  """A batch of the pipeline's shapes, in which every row is full of clips."""
  rows, length = kind.rows, kind.length
  batch = {
    name: jnp.zeros((rows, length), jnp.int32)
    for name in ('tokens', 'positions', 'media_index')
  }
  batch['segment_ids'] = jnp.ones((rows, length), jnp.int32)
  batch['loss_mask'] = jnp.zeros((rows, length), bool)
  if clips := kind.clips.get('motion'):
    frames = config.max_motion_frames
    batch['motion'] = jnp.zeros((rows, clips, frames, 263), jnp.float32)
    batch['motion_length'] = jnp.full((rows, clips), frames, jnp.int32)
  if clips := kind.clips.get('video'):
    video = config.video
    shape = (rows, clips, video.frames, video.image_size, video.image_size, 3)
    batch['frames'] = jnp.zeros(shape, jnp.uint8)
  return batch


def _under(name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
  return {collection: {name: tree} for collection, tree in variables.items()}


def _inside(name: str, collections: Mapping[str, Flat]) -> dict[str, Any]:
  """Flat collections -> the nested variables of the module of that name."""
  return {
    collection: traverse_util.unflatten_dict(flat, sep='/')[name]
    for collection, flat in collections.items()
  }


def _flat(variables: Mapping[str, Any]) -> tuple[Flat, Flat]:
  """(parameters, mutable state) by path, without logical names."""
  return (
    sharding.unbox(variables.get('params', {})),
    sharding.unbox(variables.get('codebook', {})),
  )


def _abstract(init_variables) -> Callable[[], tuple[Flat, Flat]]:
  def abstract():
    variables = jax.eval_shape(init_variables, jax.random.key(0))
    return (
      sharding.flatten(variables['params']),
      sharding.unbox(variables.get('codebook', {})),
    )

  return abstract
