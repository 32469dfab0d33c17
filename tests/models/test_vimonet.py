import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import traverse_util
from small import MOTION_TOKENS, VIDEO_TOKENS

from vimonet_jax import sharding
from vimonet_jax.models import (
  attention,
  clip_video,
  llama,
  lora,
  motion_vqvae,
  vimonet,
)

CONFIG = small.CONFIG
# What is compiled here runs a few times only, so it need not be fast.
QUICK = {'xla_backend_optimization_level': 0}


def text_rows(rows=1, length=24):
  shape = (rows, length)
  return {
    'tokens': np.random.default_rng(0).integers(1, 32, shape, np.int32),
    'positions': np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
    'segment_ids': np.ones(shape, np.int32),
    'media_index': np.full(shape, -1, np.int32),
  }


def motions(rows=1, clips=1, frames=16, seed=0):
  rng = np.random.default_rng(seed)
  motion = rng.normal(size=(rows, clips, 16, 263)).astype(np.float32)
  motion[:, :, frames:] = 0
  length = np.full((rows, clips), frames, np.int32)
  return {'motion': motion, 'motion_length': length}


def videos(rows=1, clips=1, seed=0):
  shape = (rows, clips, 2, 8, 8, 3)
  rng = np.random.default_rng(seed)
  return {'frames': rng.integers(0, 256, shape, np.uint8)}


def put(batch, row, start, indices):
  """Lays media tokens over the text of a row."""
  stop = start + len(indices)
  batch['media_index'][row, start:stop] = indices
  batch['tokens'][row, start:stop] = 0


def both_media():
  """One row: 3 motion tokens from position 2, a video from position 8."""
  batch = text_rows() | motions(frames=12) | videos()
  put(batch, 0, 2, np.arange(3))
  put(batch, 0, 8, MOTION_TOKENS + np.arange(VIDEO_TOKENS))
  return batch


def words_in(places, rows=1, length=24):
  """What else stands in places of words: (row, place) -> tokens, maybe none."""
  more = np.full((rows, length, 3), -1, np.int32)
  for (row, place), tokens in places.items():
    more[row, place] = 0
    more[row, place, : len(tokens)] = tokens
  return {'more_tokens': more}


def reach_everything(model, batch):
  return model.logits(model(batch))


def abstract(config, batch):
  model = vimonet.Vimonet(config)
  init = functools.partial(model.init, method=reach_everything)
  return jax.eval_shape(init, jax.random.key(0), batch)


@functools.cache
def variables(config=CONFIG):
  """Random parameters, and a codebook where the configuration reads one."""
  return {
    collection: traverse_util.unflatten_dict(small.params(tree, 0.3), sep='/')
    for collection, tree in abstract(config, both_media()).items()
  }


@functools.cache
def compiled(config=CONFIG, method='__call__'):
  model = vimonet.Vimonet(config)
  apply = functools.partial(model.apply, method=method)
  return jax.jit(apply, compiler_options=QUICK)


def run(batch, *rest, config=CONFIG, method='__call__'):
  return compiled(config, method)(variables(config), batch, *rest)


@pytest.mark.parametrize(
  ('media', 'want'),
  [
    ({}, {'llm'}),
    (motions(), {'llm', 'motion/encoder', 'translators/motion'}),
    (videos(), {'llm', 'video', 'translators/video'}),
  ],
  ids=['text', 'motion', 'video'],
)
def test_only_modules_whose_media_occur_have_parameters(media, want):
  found = abstract(CONFIG, text_rows() | media)
  assert set(found) == {'params'}
  paths = sharding.unbox(found['params'])
  for root in want:
    assert any(path.startswith(f'{root}/') for path in paths), root
  assert not [p for p in paths if not p.startswith(tuple(want))]


def test_the_motion_encoder_has_the_paths_of_its_own_stage():
  here = sharding.unbox(abstract(CONFIG, both_media())['params'])
  stage = motion_vqvae.MotionVqvae(CONFIG.motion)
  window = jax.ShapeDtypeStruct((1, 16, 263), jnp.float32)
  there = jax.eval_shape(
    lambda key, x: stage.init(key, x, train=False), jax.random.key(0), window
  )
  encoder = {
    f'motion/{path}': x.shape
    for path, x in sharding.unbox(there['params']).items()
    if path.startswith('encoder/')
  }
  assert encoder
  found = {p: x.shape for p, x in here.items() if p.startswith('motion/')}
  assert found == encoder


def test_media_stand_where_their_index_says_and_text_elsewhere():
  x = np.arange(6, dtype=np.float32).reshape(1, 6, 1)
  bank = np.array([[[10.0], [20.0], [30.0]]], np.float32)
  index = np.array([[-1, 2, 0, -1, 1, -1]])
  found = vimonet.splice(jnp.asarray(x, jnp.bfloat16), bank, index)
  assert found.dtype == jnp.bfloat16
  assert found[0, :, 0].tolist() == [0, 30, 10, 3, 20, 5]


def test_words_in_one_place_are_the_sum_of_their_embeddings():
  batch = text_rows(2)
  table_VD = variables()['params']['llm']['embed']['embedding']
  plain = table_VD[batch['tokens']]
  places = {(0, 4): (7, 5), (1, 9): (3, 3, 3), (1, 10): ()}
  want = plain.copy()
  want[0, 4] += table_VD[7] + table_VD[5]
  want[1, 9] += 3 * table_VD[3]
  found = run(batch | words_in(places, rows=2), method='embed')
  np.testing.assert_allclose(found, want, atol=1e-5)
  # Padding has an embedding like any token, and yet adds nothing.
  assert np.abs(table_VD[0]).max() > 0.1
  for alone in ({}, {(row, 3): () for row in range(2)}):
    found = run(batch | words_in(alone, rows=2), method='embed')
    np.testing.assert_array_equal(found, plain)


def test_words_in_place_of_clips_are_faint_and_noisy_only_while_training():
  places = {(0, i): (7,) * (i % 4) for i in range(24) if i % 3}
  batch = text_rows() | words_in(places)
  clear = np.asarray(run(batch, method='embed'))[0]
  is_place = (batch['more_tokens'][0] >= 0).all(axis=1)

  def train(noise, seed=0):
    model = vimonet.Vimonet(dataclasses.replace(CONFIG, words_noise=noise))
    key = jax.random.key(seed)
    return np.asarray(
      model.apply(
        variables(),
        batch,
        method='embed',
        deterministic=False,
        rngs={'dropout': key},
      )
    )[0]

  np.testing.assert_array_equal(train(0.0), clear)
  loud = dataclasses.replace(CONFIG, words_noise=50.0)
  answering = run(batch, config=loud, method='embed')
  np.testing.assert_array_equal(answering[0], clear)
  faint = train(1e-6)
  np.testing.assert_array_equal(faint[~is_place], clear[~is_place])
  scales = (faint * clear).sum(1)[is_place] / (clear**2).sum(1)[is_place]
  np.testing.assert_allclose(
    faint[is_place], scales[:, None] * clear[is_place], atol=1e-4
  )
  assert 0.5 <= scales.min() < 0.6 < 0.9 < scales.max() <= 1.0
  noisy = train(50.0)[is_place]
  assert noisy.std() == pytest.approx(50.0, rel=0.2)
  np.testing.assert_array_equal(train(50.0)[is_place], noisy)
  assert not np.allclose(train(50.0, seed=1)[is_place], noisy, atol=1.0)


def test_the_bank_has_motion_clips_first_and_each_clip_in_its_place():
  batch = text_rows() | motions(clips=2) | videos(clips=2)
  bank = np.asarray(run(batch, method='bank'))
  assert bank.shape == (1, 2 * MOTION_TOKENS + 2 * VIDEO_TOKENS, 16)
  assert bank.dtype == np.float32
  swapped = batch | {
    'motion': batch['motion'][:, ::-1],
    'frames': batch['frames'][:, ::-1],
  }
  want = np.concatenate(
    [bank[:, 4:8], bank[:, :4], bank[:, 16:], bank[:, 8:16]], axis=1
  )
  found = run(swapped, method='bank')  # Numbers up to some 30.
  np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-5)


def test_what_lies_beyond_a_clip_changes_nothing():
  batch = both_media()
  padded = batch | {'motion': batch['motion'].copy()}
  padded['motion'][:, :, 12:] = 9.0
  np.testing.assert_array_equal(run(padded), run(batch))
  within = batch | {'motion': batch['motion'].copy()}
  within['motion'][:, :, 11] += 1.0
  assert np.abs(run(within) - run(batch)).max() > 1e-4


def test_a_record_reads_the_same_alone_and_packed_with_its_media():
  packed = text_rows(2) | motions(2, 2) | videos(2, 2)
  alone = text_rows(2) | motions(2, 2) | videos(2, 2)
  # Row 0 holds two records of 12 tokens with one clip of each kind; in `alone`
  # the same records begin rows of their own.
  for record, start in ((0, 0), (1, 12)):
    packed['segment_ids'][0, start : start + 12] = record + 1
    packed['positions'][0, start : start + 12] = np.arange(12)
    put(packed, 0, start + 1, [MOTION_TOKENS * record])
    first_video = (2 * MOTION_TOKENS) + VIDEO_TOKENS * record
    put(packed, 0, start + 3, first_video + np.arange(VIDEO_TOKENS))
    alone['tokens'][record, :12] = packed['tokens'][0, start : start + 12]
    alone['segment_ids'][record, 12:] = 0
    put(alone, record, 1, [0])
    put(alone, record, 3, 2 * MOTION_TOKENS + np.arange(VIDEO_TOKENS))
    for name in ('motion', 'frames'):
      alone[name][record, 0] = packed[name][0, record]
  h = np.asarray(run(packed))[0].reshape(2, 12, -1)
  np.testing.assert_allclose(h, np.asarray(run(alone))[:, :12], atol=1e-4)


def test_prefill_and_decode_equal_the_forward_pass():
  batch = both_media() | words_in({(0, 17): (7, 5), (0, 19): (9,)})
  model = vimonet.Vimonet(CONFIG)
  h = run(batch)
  want = model.apply(variables(), h, method='logits')
  length = 20
  prompt = dict(batch)
  for name in set(batch) - {'motion', 'motion_length', 'frames'}:
    x = batch[name][:, :length]
    prompt[name] = np.pad(x, ((0, 0), (0, 2), (0, 0))[: x.ndim])
  cache = attention.init_cache(CONFIG.llm, 1, 24)
  logits, cache = run(prompt, cache, method='prefill')
  np.testing.assert_allclose(logits, want[:, length - 1], atol=1e-4)
  on = jnp.ones(1, bool)
  for i in range(length, 24):
    token = batch['tokens'][:, i]
    logits, cache = run(token, on, cache, method='decode')
    np.testing.assert_allclose(logits, want[:, i], atol=1e-4)
    _, same = run(token, ~on, cache, method='decode')
    jax.tree.map(np.testing.assert_array_equal, same, cache)


@pytest.mark.parametrize('train_video_tower', [False, True])
def test_no_gradient_reaches_a_frozen_encoder(train_video_tower):
  config = dataclasses.replace(CONFIG, train_video_tower=train_video_tower)
  batch = both_media()

  @functools.partial(jax.jit, compiler_options=QUICK)
  def gradient(params):
    def loss(params):
      model = vimonet.Vimonet(config)
      bank = model.apply({'params': params}, batch, method='bank')
      return jnp.sum(bank**2)

    return jax.grad(loss)(params)

  flat = traverse_util.flatten_dict(gradient(variables()['params']), sep='/')
  moved = {path.split('/')[0] for path, x in flat.items() if np.any(x)}
  assert moved == {'translators'} | ({'video'} if train_video_tower else set())


def test_codebook_features_are_the_nearest_codes():
  config = dataclasses.replace(CONFIG, motion_feature='codebook')
  given = variables(config)
  assert set(given['codebook']['motion']['quantizer']) == {
    'codebook',
    'sum',
    'count',
    'is_initialised',
  }
  clips = motions()
  find = jax.jit(
    functools.partial(vimonet.Vimonet(config).apply, method='encode_motion')
  )
  found = find(given, clips['motion'], clips['motion_length'])
  codes = given['codebook']['motion']['quantizer']['codebook']
  distance = np.abs(np.asarray(found)[0, :, None] - codes).max(-1).min(-1)
  np.testing.assert_allclose(distance, 0, atol=1e-5)


def test_a_wrong_number_of_tokens_says_what_to_change():
  class Longer(vimonet.Config):
    video_tokens = VIDEO_TOKENS + 2

  fields = {
    field.name: getattr(CONFIG, field.name)
    for field in dataclasses.fields(CONFIG)
  }
  with pytest.raises(ValueError, match='10 video tokens.*1 clips, found 8'):
    abstract(Longer(**fields), both_media())
  short = both_media()
  short['motion'] = short['motion'][:, :, :12]
  with pytest.raises(ValueError, match='max_motion_frames=16, found 12'):
    abstract(CONFIG, short)
  with pytest.raises(ValueError, match='encoder, codebook.*raw'):
    dataclasses.replace(CONFIG, motion_feature='raw')


def test_text_and_media_of_a_batch_are_compared_on_the_host():
  good = both_media()
  vimonet.check_batch(CONFIG, good)
  vimonet.check_batch(CONFIG, text_rows())

  def broken(**changes):
    return {k: np.array(x) for k, x in good.items()} | changes

  without = {k: x for k, x in good.items() if k != 'frames'}
  with pytest.raises(ValueError, match='below 4.*found 11'):
    vimonet.check_batch(CONFIG, without)
  fewer = broken()
  fewer['media_index'][0, 8] = -1
  with pytest.raises(ValueError, match=r'8 tokens of each video.*\[7\]'):
    vimonet.check_batch(CONFIG, fewer)
  shorter = broken(motion_length=np.array([[8]]))
  with pytest.raises(ValueError, match=r'at most \[2\] .*found \[3\]'):
    vimonet.check_batch(CONFIG, shorter)


def test_a_configuration_survives_json():
  text = json.dumps(CONFIG.to_json())
  found = vimonet.Config.from_json(json.loads(text))
  assert found.to_json() == CONFIG.to_json()
  assert found.llm == CONFIG.llm
  np.testing.assert_array_equal(
    jax.eval_shape(lambda: jnp.zeros(2, found.video.dtype)).dtype,
    jnp.zeros(0, CONFIG.video.dtype).dtype,
  )


def test_every_parameter_of_the_published_sizes_has_a_place_on_a_mesh():
  config = vimonet.Config(
    llm=llama.Config.vicuna_7b(lora=lora.LoraConfig(rank=64)),
    motion=motion_vqvae.Config.t2m_gpt(),
    video=clip_video.Config.languagebind(),
  )
  assert (config.motion_tokens, config.video_tokens) == (49, 2048)
  batch = text_rows() | {
    'motion': np.zeros((1, 1, 196, 263), np.float32),
    'motion_length': np.full((1, 1), 196, np.int32),
    'frames': np.zeros((1, 1, 8, 224, 224, 3), np.uint8),
  }
  shapes = abstract(config, batch)['params']
  for sizes in ((1, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)):
    mesh = jax.sharding.AbstractMesh(sizes, sharding.AXES)
    assert sharding.state_shardings(shapes, mesh)


def test_a_sharded_model_answers_like_a_whole_one(capfd):
  batch = text_rows(4) | motions(4) | videos(4)
  for row in range(4):
    put(batch, row, 2, np.arange(3))
    put(batch, row, 8, MOTION_TOKENS + np.arange(VIDEO_TOKENS))
  want = run(batch)
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  shapes = abstract(CONFIG, batch)['params']
  flat = traverse_util.flatten_dict(variables()['params'], sep='/')
  flat = jax.device_put(flat, sharding.state_shardings(shapes, mesh))
  whole = flat['llm/blocks/mlp/up/kernel']
  assert whole.addressable_shards[0].data.size == whole.size // 4
  params = {'params': traverse_util.unflatten_dict(flat, sep='/')}
  batch = jax.device_put(batch, sharding.batch_sharding(mesh))
  with sharding.use(mesh):
    found = jax.jit(vimonet.Vimonet(CONFIG).apply)(params, batch)
  assert not found.sharding.is_fully_replicated
  np.testing.assert_allclose(found, want, atol=1e-4)
  # What XLA says where a constraint makes it copy a whole array.
  assert 'Involuntary full rematerialization' not in capfd.readouterr().err
