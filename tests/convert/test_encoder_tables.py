"""Tables of the tower and the translators: the same answers, strictly read.

"Shared" are the original implementations on random weights, in ../shared.
"""

import dataclasses
import shutil

import encoders
import numpy as np
import originals
import pytest

from vimonet_jax.convert import encoder_tables, files, mapping, source_config
from vimonet_jax.models import clip_video, translators

VIDEO = clip_video.Config(
  width=32,
  layers=2,
  heads=4,
  mlp_width=48,
  image_size=12,
  patch_size=4,
  frames=3,
)


@pytest.fixture(scope='module')
def torch():
  return pytest.importorskip('torch', reason='needs torch')


@pytest.fixture(scope='module')
def parity(torch, shared_data):
  pytest.importorskip('safetensors', reason='needs safetensors')
  return shared_data / 'parity'


# --- The video tower ---------------------------------------------------------


def test_the_tower_of_shared_gives_its_hidden_states_and_tokens(
  parity, tmp_path
):
  shutil.copy(parity / 'video_tower.safetensors', tmp_path)
  shutil.copy(parity / 'video_tower_config.json', tmp_path / 'config.json')
  config = clip_video.Config(
    width=64, layers=3, heads=4, mlp_width=128, image_size=42, patch_size=14
  )
  source_config.check_languagebind(tmp_path, config)
  flat = originals.read(
    encoder_tables.languagebind(config), files.open_checkpoint(tmp_path)
  )
  io = np.load(parity / 'video_tower_io.npz')
  frames = io['pixel_values'].transpose(0, 2, 3, 4, 1)
  tower = clip_video.ClipVideo(config)
  first = encoders.apply(tower, flat, 'video', frames, method='embed')
  encoders.near(first, io['hidden_first'], 1e-5)
  encoders.near(
    encoders.apply(tower, flat, 'video', frames), io['tokens'], 1e-5
  )
  whole = clip_video.ClipVideo(
    dataclasses.replace(config, keep_class_token=True)
  )
  selected = encoders.apply(whole, flat, 'video', frames)
  encoders.near(
    selected.reshape(io['hidden_selected'].shape), io['hidden_selected'], 1e-5
  )


def their_tower(config, deviation=0.25):
  """The re-statement; its last block is the one that nobody reads."""
  import torch_models

  return encoders.randomly(
    torch_models.VideoTower(
      hidden_size=config.width,
      intermediate_size=config.mlp_width,
      num_hidden_layers=config.layers + 1,
      num_attention_heads=config.heads,
      image_size=config.image_size,
      patch_size=config.patch_size,
      num_frames=config.frames,
    ),
    deviation,
  )


def clips_of(config, clips=2):
  size = config.image_size
  shape = (clips, config.frames, size, size, 3)
  return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def channels_first(clips, torch):
  return torch.from_numpy(clips.transpose(0, 4, 1, 2, 3).copy())


WIDE = clip_video.Config.languagebind(
  layers=1, image_size=28, dtype='float32'
)  # fmt: skip


@pytest.mark.parametrize(
  ('config', 'deviation'),
  [(VIDEO, 0.25), (WIDE, 0.04)],
  ids=['reduced', 'full width'],
)
def test_the_tower_says_what_its_restatement_says(torch, config, deviation):
  theirs, clips = their_tower(config, deviation), clips_of(config)
  with torch.no_grad():
    wanted = theirs.tokens(channels_first(clips, torch)).numpy()
  flat = originals.ours(
    encoder_tables.languagebind(config), encoders.tensors_of(theirs)
  )
  found = encoders.apply(clip_video.ClipVideo(config), flat, 'video', clips)
  assert encoders.apart(found, wanted) < 1e-4
  silent = flat | {
    path: x * 0 for path, x in flat.items() if 'temporal' in path
  }
  found = encoders.apply(clip_video.ClipVideo(config), silent, 'video', clips)
  assert encoders.apart(found, wanted) > 1e-2


def test_without_its_temporal_parts_the_tower_is_a_stock_clip(torch):
  transformers = pytest.importorskip(
    'transformers', reason='needs transformers'
  )
  clip = encoders.randomly(
    transformers.CLIPVisionModel(
      transformers.CLIPVisionConfig(
        hidden_size=VIDEO.width,
        intermediate_size=VIDEO.mlp_width,
        num_hidden_layers=VIDEO.layers + 1,
        num_attention_heads=VIDEO.heads,
        image_size=VIDEO.image_size,
        patch_size=VIDEO.patch_size,
        layer_norm_eps=VIDEO.norm_eps,
        hidden_act='gelu',
      )
    )
  )
  table, clips = encoder_tables.languagebind(VIDEO), clips_of(VIDEO)
  # Some versions of transformers have the level `vision_model`, others not.
  tensors = originals.drawn(table) | {
    f'vision_model.{name.removeprefix("vision_model.")}': x
    for name, x in encoders.tensors_of(clip).items()
  }
  for name, x in tensors.items():
    if name.endswith('temporal_embedding') or 'temporal_attn.out_proj' in name:
      tensors[name] = x * 0
  with torch.no_grad():
    pixels = channels_first(clips, torch).transpose(1, 2).flatten(0, 1)
    states = clip(pixels, output_hidden_states=True).hidden_states
  wanted = states[-2].numpy()[:, 1:].reshape(2, VIDEO.num_tokens, VIDEO.width)
  flat = originals.ours(table, tensors)
  found = encoders.apply(clip_video.ClipVideo(VIDEO), flat, 'video', clips)
  assert encoders.apart(found, wanted) < 1e-4


# --- The translators ---------------------------------------------------------


def test_the_projector_of_shared_gives_its_outputs(parity):
  table = encoder_tables.projector(64, 64)
  flat = originals.read(
    table, files.open_checkpoint(parity / 'video_projector.pth')
  )
  io = np.load(parity / 'video_projector_io.npz')
  mlp = translators.Mlp(64)
  encoders.near(
    encoders.apply(mlp, flat, 'translators/video', io['features']),
    io['output'],
    1e-5,
  )


def test_both_translators_say_what_their_restatements_say(torch):
  import torch_models

  x = np.random.default_rng(1).normal(size=(3, 7, 6)).astype(np.float32)
  for name, module, theirs in (
    ('video', translators.Mlp(5), torch_models.video_projector(6, 5)),
    ('motion', translators.Linear(5), torch_models.motion_projector(6, 5)),
  ):
    table = {
      'video': encoder_tables.projector,
      'motion': encoder_tables.motion_projector,
    }[name](6, 5)
    flat = originals.ours(
      table, encoders.tensors_of(encoders.randomly(theirs, 0.5))
    )
    with torch.no_grad():
      wanted = theirs(torch.from_numpy(x)).numpy()
    encoders.near(
      encoders.apply(module, flat, f'translators/{name}', x), wanted, 1e-5
    )


# --- Which names are taken ---------------------------------------------------


@pytest.mark.parametrize(
  'prefix', ['vision_model.', 'model.video_tower.video_tower.']
)
def test_the_tower_is_found_in_whole_checkpoints(prefix):
  table = encoder_tables.languagebind(VIDEO)
  tensors = originals.drawn(table)
  whole = {
    name.replace('vision_model.', prefix): x for name, x in tensors.items()
  }
  # Never read: the last block, the norm after it, constants.
  for name in (
    'embeddings.position_ids',
    'post_layernorm.weight',
    'encoder.layers.2.mlp.fc1.weight',
  ):
    whole[prefix + name] = np.zeros(1)
  others = {
    'vision_model.': (
      'text_model.embeddings.weight',
      'visual_projection.weight',
      'text_projection.weight',
      'logit_scale',
    ),
  }.get(
    prefix,
    (
      'lm_head.weight',
      'model.embed_tokens.weight',
      'model.layers.0.mlp.up_proj.weight',
      'model.mm_projector.0.weight',
      'model.image_tower.image_tower.post_layernorm.weight',
    ),
  )
  originals.assert_reads_the_same(
    table, whole | dict.fromkeys(others, np.zeros(1)), tensors
  )
  del whole[f'{prefix}encoder.layers.1.mlp.fc1.weight']
  # In the last block that counts, and at the door of the tower.
  strangers = {
    f'{prefix}encoder.layers.1.temporal_mlp.weight',
    'model.video_tower.stranger',
    'stranger',
  }
  with pytest.raises(mapping.ConversionError) as caught:
    originals.ours(table, whole | dict.fromkeys(strangers, np.zeros(1)))
  text = str(caught.value)
  assert '1 missing:\n  vision_model.encoder.layers.1.mlp.fc1.weight' in text
  assert '3 unknown:' in text
  assert strangers <= set(text.split())


@pytest.mark.parametrize('prefix', ['mm_projector.', 'model.mm_projector.'])
def test_the_projector_is_found_under_video_llavas_names(prefix):
  table = encoder_tables.projector(6, 5)
  tensors = originals.drawn(table)
  whole = {f'{prefix}{name}': x for name, x in tensors.items()}
  others = (
    'lm_head.weight',
    'model.norm.weight',
    'model.video_tower.video_tower.pre_layrnorm.bias',
  )
  originals.assert_reads_the_same(
    table, whole | dict.fromkeys(others, np.zeros(1)), tensors
  )
  with pytest.raises(mapping.ConversionError, match='1 unknown:\n.*4.weight'):
    originals.ours(table, whole | {f'{prefix}4.weight': np.zeros((5, 5))})
