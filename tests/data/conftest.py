"""A dataset that several tests read."""

import pathlib

import pytest


@pytest.fixture(scope='session')
def built(tmp_path_factory) -> pathlib.Path:
  """Where `samples.Fake()` lies; for reading only."""
  import samples

  from vimonet_jax.data import builder

  folder = tmp_path_factory.mktemp('built')
  builder.build(samples.Fake(), folder, processes=1, progress=False)
  return folder
