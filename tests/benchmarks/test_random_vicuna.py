"""The random folder is measured in place of Vicuna, so it must look like it."""

import json

import random_vicuna

from vimonet_jax.convert import decoder_tables, source_config
from vimonet_jax.models import llama

SIZES = (
  random_vicuna.LAYERS,
  random_vicuna.WIDTH,
  random_vicuna.MLP,
  random_vicuna.VOCAB,
)


def test_its_tensors_are_those_of_vicuna_at_full_size():
  table = decoder_tables.llama_hf(llama.Config.vicuna_7b())
  found = random_vicuna.shapes(*SIZES)
  assert found == table.expected()
  assert len(found) == 291


def test_its_settings_are_those_of_vicuna(tmp_path):
  fields = random_vicuna.config(*SIZES)
  (tmp_path / 'config.json').write_text(json.dumps(fields))
  source_config.check_llama(tmp_path, llama.Config.vicuna_7b())
