"""Eight pretend devices, shared test data, and a model that several files ask.

JAX reads the flag when it looks for devices first. Processes that a test starts
see it as well: one that means to have a single device takes the flag away. What
one of all these processes has compiled, the others find.
"""

import os
import pathlib
import shutil
import tempfile
import typing

import pytest

_DEVICES = '--xla_force_host_platform_device_count=8'
os.environ['XLA_FLAGS'] = (
  f'{os.environ.get("XLA_FLAGS", "")} {_DEVICES}'.strip()
)

_CACHE = 'JAX_COMPILATION_CACHE_DIR'


def pytest_configure(config):
  """Before workers are started, which have the same environment."""
  if _CACHE not in os.environ:
    os.environ[_CACHE] = config.compiled = tempfile.mkdtemp()
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'


def pytest_unconfigure(config):
  if folder := getattr(config, 'compiled', None):
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """Real recordings and the original implementation's answers."""
  folder = pathlib.Path(__file__).parents[2] / 'shared' / 'data'
  if not folder.exists():
    pytest.skip('needs ../shared/data, next to the repository')
  return folder


class TinyModel(typing.NamedTuple):
  """What model_folder.save takes, and the finished workdir of it."""

  workdir: str
  bundle: typing.Any  # model_folder.Bundle
  params: dict[str, typing.Any]


@pytest.fixture(scope='session')
def tiny_model(tmp_path_factory) -> TinyModel:
  """Reads motion and 8 frames of 8 x 8 pixels; its answers mean nothing."""
  import small

  from vimonet_jax.data import text, tokenizer
  from vimonet_jax.infer import model_folder
  from vimonet_jax.models import clip_video, llama, motion_vqvae, vimonet
  from vimonet_jax.motion import features
  from vimonet_jax.synthetic import world
  from vimonet_jax.train import stages

  drawn = world.World()
  template = text.TEMPLATES['short']
  words = drawn.text_record('train', 0)
  proto = tokenizer.train_tokenizer(text.texts(words, template), 400)
  pieces = tokenizer.Tokenizer(proto)
  model = vimonet.Config(
    llm=llama.Config(pieces.vocab_size, 32, 2, 2, 2, 16, 48),
    motion=motion_vqvae.Config(width=8, code_dim=8, num_codes=6, depth=1),
    video=clip_video.Config(16, 1, 2, 16, image_size=8, patch_size=8),
  )
  stage = stages.tokens(
    'tiny', model, ('.*',), media=('motion', 'video')
  )  # fmt: skip
  params = small.params(stage.abstract()[0], 0.4)
  bundle = model_folder.Bundle(
    model,
    text.Layout(pieces, template, video_tokens=model.video_tokens),
    features.Statistics.of([drawn.make_record('train', 0).motion]),
  )
  workdir = tmp_path_factory.mktemp('tiny')
  model_folder.save(str(workdir / 'model'), bundle, params)
  return TinyModel(str(workdir), bundle, params)
