"""The decoder's tables: where rows lie, and that the networks say the same.

Tests that ask transformers or read ../shared need torch; where rows lie is
checked without it.
"""

import dataclasses
import json

import decoders
import numpy as np
import originals
import pytest

from vimonet_jax.convert import (
  decoder_tables,
  files,
  mapping,
  source_config,
)
from vimonet_jax.models import llama

HEADS = llama.Config(
  vocab_size=48,
  width=32,
  layers=3,
  heads=4,
  kv_heads=4,
  head_dim=8,
  mlp_width=40,
)
# With other settings that no shape tells.
SHARED = dataclasses.replace(
  HEADS, kv_heads=2, layers=2, rope_theta=5e5, norm_eps=1e-3
)


# --- Where rows lie, as reference-model 1.4 and 1.5 say ----------------------


@pytest.mark.parametrize('config', [HEADS, SHARED], ids=['4 of 4', '2 of 4'])
def test_heads_lie_one_after_the_other_in_hugging_faces_rows(config):
  table = decoder_tables.llama_hf(config)
  tensors = originals.drawn(table)
  flat = originals.ours(table, tensors)
  H = config.head_dim
  for i in range(config.layers):
    for name, heads in (('q', 4), ('k', config.kv_heads)):
      theirs = tensors[f'model.layers.{i}.self_attn.{name}_proj.weight']
      kernel = flat[f'llm/blocks/attn/{name}/kernel'][i]
      for n in range(heads):
        np.testing.assert_array_equal(
          kernel[:, n], theirs[n * H : (n + 1) * H].T
        )
    theirs = tensors[f'model.layers.{i}.self_attn.o_proj.weight']
    for n in range(4):
      np.testing.assert_array_equal(
        flat['llm/blocks/attn/o/kernel'][i, n],
        theirs[:, n * H : (n + 1) * H].T,
      )


def _fused(layout, config=HEADS):
  """lit-gpt's tensors, our arrays and the name of the first fused matrix."""
  table = decoder_tables.litgpt(config, interleaved=layout == 'legacy')
  tensors = originals.drawn(table)
  name = 'attn' if layout == 'legacy' else 'qkv'
  name = f'transformer.h.0.attn.{name}.weight'
  return tensors, originals.ours(table, tensors), name


def test_legacy_rows_are_head_by_head():
  tensors, flat, name = _fused('legacy')
  H = HEADS.head_dim
  for head in range(HEADS.heads):
    for c, part in enumerate('qkv'):
      for d in range(H):
        np.testing.assert_array_equal(
          flat[f'llm/blocks/attn/{part}/kernel'][0][:, head, d],
          tensors[name][3 * H * head + H * c + d],
        )


def test_legacy_rows_of_shared_heads_have_their_queries_first():
  tensors, flat, name = _fused('legacy', SHARED)
  H, N, K = SHARED.head_dim, SHARED.heads, SHARED.kv_heads
  groups = tensors[name].reshape(K, N // K + 2, H, -1)
  for k in range(K):
    for n in range(N // K):
      q = flat['llm/blocks/attn/q/kernel'][0][:, k * (N // K) + n]
      np.testing.assert_array_equal(q, groups[k, n].T)
    for c, part in enumerate('kv', N // K):
      np.testing.assert_array_equal(
        flat[f'llm/blocks/attn/{part}/kernel'][0][:, k], groups[k, c].T
      )


def test_current_rows_are_all_queries_then_keys_then_values():
  tensors, flat, name = _fused('current', SHARED)
  assert name in tensors
  H, N, K = SHARED.head_dim, SHARED.heads, SHARED.kv_heads
  cuts = np.split(tensors[name], [N * H, (N + K) * H])
  for part, theirs in zip('qkv', cuts, strict=True):
    kernel = flat[f'llm/blocks/attn/{part}/kernel'][0]
    np.testing.assert_array_equal(kernel.reshape(len(kernel), -1), theirs.T)


def test_the_two_layouts_of_litgpt_are_not_each_others():
  tensors, flat, name = _fused('legacy')
  legacy = originals.theirs(
    decoder_tables.litgpt(HEADS, interleaved=True), flat
  )
  table = decoder_tables.litgpt(HEADS, interleaved=False)
  current = originals.theirs(table, flat)
  other = 'transformer.h.0.attn.qkv.weight'
  np.testing.assert_array_equal(legacy[name], tensors[name])
  assert name not in current
  assert other not in legacy
  # The same rows in another order, so that no shape tells.
  assert legacy[name].shape == current[other].shape
  assert not np.array_equal(legacy[name], current[other])
  np.testing.assert_array_equal(
    *(np.sort(x, axis=0) for x in (legacy[name], current[other]))
  )
  again = originals.ours(table, current)
  assert originals.bits(again) == originals.bits(flat)


# --- Which names are taken ---------------------------------------------------


def test_litgpt_with_adapters_in_memory_is_read_in_its_own_spelling():
  tensors, flat, _ = _fused('legacy')
  spelt = {
    name.replace('.weight', '.linear.weight')
    if any(part in name for part in ('attn.', 'mlp.', 'lm_head'))
    else name: x
    for name, x in tensors.items()
  }
  assert 'transformer.h.0.attn.attn.linear.weight' in spelt
  assert 'lm_head.linear.weight' in spelt
  spelt['transformer.h.0.attn.attn.lora_A'] = np.zeros((4, 32))
  table = decoder_tables.litgpt(HEADS, interleaved=True)
  found = originals.ours(table, spelt)
  assert originals.bits(found) == originals.bits(flat)


def test_a_decoder_inside_a_whole_video_llava_is_found():
  table = decoder_tables.llama_hf(HEADS)
  tensors = originals.drawn(table)
  whole = tensors | {
    'model.layers.0.self_attn.rotary_emb.inv_freq': np.zeros(4),
    'model.mm_projector.0.weight': np.zeros((32, 8)),
    'model.image_tower.image_tower.embeddings.class_embedding': np.zeros(8),
    'model.video_tower.video_tower.pre_layrnorm.bias': np.zeros(8),
  }
  found = originals.ours(table, whole)
  assert originals.bits(found) == originals.bits(originals.ours(table, tensors))
  with pytest.raises(mapping.ConversionError, match='1 unknown:\n.*some_tower'):
    originals.ours(table, whole | {'model.some_tower.weight': np.zeros(1)})


def test_what_does_not_fit_is_named_all_at_once():
  table = decoder_tables.llama_hf(HEADS)
  tensors = originals.drawn(table)
  del tensors['model.layers.2.mlp.up_proj.weight'], tensors['lm_head.weight']
  tensors['model.layers.1.self_attn.q_proj.weight'] = np.zeros((16, 32))
  tensors['model.layers.3.mlp.up_proj.weight'] = np.zeros((40, 32))
  with pytest.raises(mapping.ConversionError) as caught:
    originals.ours(table, tensors)
  text = ' '.join(str(caught.value).split())
  assert (
    '2 missing: model.layers.2.mlp.up_proj.weight lm_head.weight 1 unknown: '
    'model.layers.3.mlp.up_proj.weight 1 of another shape: '
    'model.layers.1.self_attn.q_proj.weight [16, 32] instead of [32, 32]'
  ) in text


# --- The same answers --------------------------------------------------------


@pytest.fixture(scope='module')
def transformers():
  pytest.importorskip('torch', reason='needs torch')
  pytest.importorskip('safetensors', reason='needs safetensors')
  return pytest.importorskip('transformers', reason='needs transformers')


TOKENS = np.random.default_rng(1).integers(0, 48, (2, 20))


@pytest.mark.parametrize('config', [HEADS, SHARED], ids=['4 of 4', '2 of 4'])
def test_logits_are_those_of_transformers(transformers, tmp_path, config):
  theirs = decoders.random_llama(config)
  theirs.save_pretrained(tmp_path)
  source_config.check_llama(tmp_path, config)
  checkpoint = files.open_checkpoint(tmp_path)
  flat = originals.read(decoder_tables.llama_hf(config), checkpoint)
  wanted = decoders.their_scores(theirs, TOKENS)
  assert decoders.apart(decoders.scores(config, flat, TOKENS), wanted) < 1e-4


def test_logits_are_those_of_transformers_at_full_width(transformers):
  config = llama.Config.vicuna_7b(
    vocab_size=48, layers=1, dtype='float32', remat='none'
  )
  theirs = decoders.random_llama(config, deviation=0.02)
  wanted = decoders.their_scores(theirs, TOKENS)
  tensors = {name: files.to_numpy(x) for name, x in theirs.state_dict().items()}
  del theirs
  flat = originals.ours(decoder_tables.llama_hf(config), tensors)
  tensors.clear()
  assert decoders.apart(decoders.scores(config, flat, TOKENS), wanted) < 1e-4


@pytest.mark.parametrize(
  ('config', 'shards'), [(HEADS, 1), (SHARED, 2)], ids=['one', 'two shards']
)
def test_transformers_loads_what_we_export_and_says_the_same(
  transformers, tmp_path, config, shards
):
  table = decoder_tables.llama_hf(config)
  flat = originals.ours(table, originals.drawn(table))
  tensors = list(originals.theirs(table, flat).items())
  files.write_safetensors(
    str(tmp_path),
    'model',
    [lambda k=k: iter(tensors[k::shards]) for k in range(shards)],
  )
  fields = source_config.llama_json(config, 'float32')
  (tmp_path / 'config.json').write_text(json.dumps(fields))
  theirs, loading = transformers.LlamaForCausalLM.from_pretrained(
    tmp_path, output_loading_info=True
  )
  assert not any(loading.values()), loading
  wanted = decoders.their_scores(theirs.eval(), TOKENS)
  assert decoders.apart(decoders.scores(config, flat, TOKENS), wanted) < 1e-4


# --- MotionLLM's lit-gpt on random weights, in ../shared ---------------------


@pytest.fixture(scope='module')
def parity(shared_data):
  pytest.importorskip('torch', reason='needs torch to read .pth files')
  return shared_data / 'parity'


def test_the_litgpt_base_of_shared_gives_its_logits(parity):
  io = np.load(parity / 'litgpt_io.npz')
  found = decoders.scores(
    decoders.litgpt(parity)[0], decoders.litgpt_base(parity), io['ids']
  )
  np.testing.assert_allclose(found, io['logits_base'], rtol=0, atol=1e-4)


def test_the_litgpt_base_of_shared_read_in_the_other_layout_does_not(parity):
  config, io = decoders.litgpt(parity)[0], np.load(parity / 'litgpt_io.npz')
  checkpoint = files.open_checkpoint(parity / 'litgpt_base.pth')
  renamed = {
    name.replace('attn.attn', 'attn.qkv'): checkpoint.read(name)
    for name in checkpoint.shapes
  }
  table = decoder_tables.litgpt(config, interleaved=False)
  found = decoders.scores(config, originals.ours(table, renamed), io['ids'])
  assert np.abs(found - io['logits_base']).max() > 0.1
