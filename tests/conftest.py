"""A model of random weights that several test files ask."""

import typing

import pytest


class TinyModel(typing.NamedTuple):
  """What engine.save takes, and the finished workdir that it went into."""

  workdir: str
  bundle: typing.Any  # engine.Bundle
  params: dict[str, typing.Any]


@pytest.fixture(scope='session')
def tiny_model(tmp_path_factory) -> TinyModel:
  """Reads motion and 8 frames of 8 x 8 pixels; its answers mean nothing."""
  import numpy as np

  from vimonet_jax import sharding
  from vimonet_jax.data import text
  from vimonet_jax.infer import engine
  from vimonet_jax.models import clip_video, llama, motion_vqvae, vimonet
  from vimonet_jax.motion import features
  from vimonet_jax.synthetic import world
  from vimonet_jax.train import stages

  drawn = world.World()
  template = text.TEMPLATES['short']
  words = drawn.text_record('train', 0)
  proto = text.train_tokenizer(text.texts(words, template), 400)
  tokenizer = text.Tokenizer(proto)
  model = vimonet.Config(
    llm=llama.Config(tokenizer.vocab_size, 32, 2, 2, 2, 16, 48),
    motion=motion_vqvae.Config(width=8, code_dim=8, num_codes=6, depth=1),
    video=clip_video.Config(16, 1, 2, 16, image_size=8, patch_size=8),
  )
  stage = stages.tokens(
    'tiny', model, ('.*',), media=('motion', 'video')
  )  # fmt: skip
  rng = np.random.default_rng(0)
  # Sharp scores: parameters as small as fresh ones would nearly tie.
  params = {
    path: rng.normal(path.endswith('scale'), 0.4, x.shape).astype(np.float32)
    for path, x in sorted(sharding.unbox(stage.abstract()[0]).items())
  }
  bundle = engine.Bundle(
    model,
    text.Layout(tokenizer, template, video_tokens=model.video_tokens),
    features.Statistics.of([drawn.make_record('train', 0).motion]),
  )
  workdir = tmp_path_factory.mktemp('tiny')
  engine.save(str(workdir / 'model'), bundle, params)
  return TinyModel(str(workdir), bundle, params)
