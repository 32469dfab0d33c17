"""The adapters' tables: the rows that they change, and the same answers."""

import dataclasses
import functools
import json

import decoders
import numpy as np
import originals
import pytest

from vimonet_jax.convert import decoder_tables, files, mapping, source_config
from vimonet_jax.models import llama, lora

# Of a width that is not heads x head_dim, which are Vicuna's.
VICUNAS_HEADS = llama.Config(
  vocab_size=4,
  width=3,
  layers=1,
  heads=32,
  kv_heads=32,
  head_dim=128,
  mlp_width=5,
)
SHARED = llama.Config(
  vocab_size=48,
  width=32,
  layers=2,
  heads=4,
  kv_heads=2,
  head_dim=8,
  mlp_width=40,
  lora=lora.LoraConfig(rank=4, alpha=6.0, targets=llama.PROJECTIONS),
)
TOKENS = np.random.default_rng(1).integers(0, 48, (2, 20))
LAYER = 'transformer.h.0.attn.attn.lora_'


def _with(config, adapter):
  return dataclasses.replace(config, lora=adapter)


# --- MotionLLM's rows, as the table in reference-model 2.3 says --------------


def _owner(row):
  """What a row of all 12288 fused ones belongs to."""
  return row // 384, 'qkv'[row % 384 // 128], row % 128


@functools.cache
def _motionllm():
  """An adapter of rank 1 in which each row of B is its own number."""
  config = _with(
    VICUNAS_HEADS,
    decoder_tables.motionllm_adapter(lora.LoraConfig(rank=1, alpha=0.25)),
  )
  table = decoder_tables.motionllm_lora(config)
  tensors = {
    f'{LAYER}A': np.array([[1, 2, 3], [4, 5, 6]], np.float32),
    f'{LAYER}B': 1 + np.arange(8192, dtype=np.float32)[:, None],
  }
  return config, table, tensors, originals.ours(table, tensors)


def test_motionllms_rows_change_what_lies_there():
  _, _, tensors, flat = _motionllm()
  wanted = {part: np.zeros((2, 32, 128)) for part in 'qkv'}
  for p in range(8192):
    block = p // 4096
    head, part, d = _owner(p if block == 0 else p + 4096)
    wanted[part][block, head, d] = 1 + p
  for part in 'qkv':
    path = f'llm/blocks/attn/{part}'
    np.testing.assert_array_equal(flat[f'{path}/lora_b'][0], wanted[part])
    np.testing.assert_array_equal(
      flat[f'{path}/lora_a'][0], tensors[f'{LAYER}A'].T
    )


def test_motionllms_adapter_leaves_a_third_of_the_heads_alone():
  changed = {
    part: [
      ''.join(str(int(half.any())) for half in _lora_b(part)[:, head])
      for head in range(32)
    ]
    for part in 'qkv'
  }
  first, none, second = ['10'], ['00'], ['01']
  assert changed == {
    'q': 11 * first + 11 * none + 10 * second,
    'k': 11 * first + 10 * none + 11 * second,
    'v': 10 * first + 11 * none + 11 * second,
  }


def _lora_b(part):
  return _motionllm()[3][f'llm/blocks/attn/{part}/lora_b'][0]


def test_motionllms_adapter_keeps_its_scale_at_twice_the_rank():
  trained = lora.LoraConfig(rank=64, alpha=16.0, dropout=0.05)
  adapter = decoder_tables.motionllm_adapter(trained)
  assert adapter == lora.LoraConfig(128, 32.0, 0.05, ('q', 'k', 'v'))
  assert adapter.scale == trained.scale == 0.25


@pytest.mark.parametrize(
  ('path', 'place'),
  [
    # A row between the halves; the other half of a row; another A.
    ('q/lora_b', (0, 0, 15, 3)),
    ('v/lora_b', (0, 1, 2, 3)),
    ('k/lora_a', (0, 1, 1)),
  ],
)
def test_an_adapter_that_changes_other_rows_is_not_written(path, place):
  _, table, tensors, flat = _motionllm()
  assert originals.bits(originals.theirs(table, flat)) == originals.bits(
    tensors
  )
  path = f'llm/blocks/attn/{path}'
  other = flat | {path: flat[path].copy()}
  other[path][place] += 1
  with pytest.raises(mapping.ConversionError, match='PEFT adapter instead'):
    originals.theirs(table, other)


def test_litgpts_own_adapter_has_queries_first_and_values_then():
  config = _with(VICUNAS_HEADS, lora.LoraConfig(rank=1))
  table = decoder_tables.litgpt_lora(config)
  _, _, tensors, _ = _motionllm()
  flat = originals.ours(table, tensors)
  a, b = tensors[f'{LAYER}A'], tensors[f'{LAYER}B'].reshape(2, 32, 128)
  for half, part in enumerate('qv'):
    path = f'llm/blocks/attn/{part}'
    np.testing.assert_array_equal(flat[f'{path}/lora_a'][0, :, 0], a[half])
    np.testing.assert_array_equal(flat[f'{path}/lora_b'][0, 0], b[half])
  assert 'llm/blocks/attn/k/lora_a' not in flat


# --- Which names are taken ---------------------------------------------------


@pytest.mark.parametrize(
  'table', [decoder_tables.litgpt_lora, decoder_tables.motionllm_lora]
)
def test_a_file_may_repeat_what_the_adapter_was_trained_on(table):
  config, _, tensors, _ = _motionllm()
  if table is decoder_tables.litgpt_lora:
    config = _with(config, lora.LoraConfig(rank=1))
  base = originals.drawn(decoder_tables.litgpt(config, interleaved=True))
  base['lm_head.linear.weight'] = base.pop('lm_head.weight')
  table = table(config)
  found = originals.ours(table, tensors | base)
  wanted = originals.ours(table, tensors)
  assert originals.bits(found) == originals.bits(wanted)
  # Nor is anything else left out, least of all other adapters.
  for stranger in (
    'transformer.h.0.attn.proj.lora_A',
    'transformer.h.1.attn.attn.lora_A',
    'projector.weight',
  ):
    with pytest.raises(mapping.ConversionError) as caught:
      originals.ours(table, tensors | {stranger: np.zeros((2, 3))})
    assert f'1 unknown:\n  {stranger}' in str(caught.value)


def test_adapters_of_other_targets_or_decoders_are_refused():
  with pytest.raises(mapping.ConversionError, match='targets q, v.*rank=4'):
    decoder_tables.litgpt_lora(SHARED)
  with pytest.raises(mapping.ConversionError, match='targets q, v.*rank=0'):
    decoder_tables.litgpt_lora(_with(SHARED, lora.LoraConfig()))
  three = lora.LoraConfig(rank=4, targets=('q', 'k', 'v'))
  with pytest.raises(mapping.ConversionError, match='found 2 of 4'):
    decoder_tables.motionllm_lora(_with(SHARED, three))
  with pytest.raises(mapping.ConversionError, match='targets q, k, v'):
    decoder_tables.motionllm_lora(_with(VICUNAS_HEADS, lora.LoraConfig(2)))


def test_pefts_names_are_read_with_and_without_the_adapters_own():
  table = decoder_tables.peft(SHARED)
  tensors = originals.drawn(table)
  spelt = {
    name.replace('.weight', '.default.weight'): x for name, x in tensors.items()
  }
  found = originals.ours(table, spelt)
  assert originals.bits(found) == originals.bits(originals.ours(table, tensors))
  extra = 'base_model.model.lm_head.lora_A.weight'
  with pytest.raises(mapping.ConversionError, match=f'1 unknown:\n  {extra}'):
    originals.ours(table, tensors | {extra: np.zeros(1)})
  # Targets that the configuration has not are not dropped in silence.
  fewer = _with(SHARED, dataclasses.replace(SHARED.lora, targets=('q', 'v')))
  with pytest.raises(mapping.ConversionError, match='20 unknown'):
    originals.ours(decoder_tables.peft(fewer), tensors)


# --- The same answers --------------------------------------------------------


@pytest.fixture(scope='module')
def peft():
  for name in ('torch', 'safetensors', 'transformers'):
    pytest.importorskip(name, reason=f'needs {name}')
  return pytest.importorskip('peft', reason='needs peft')


@pytest.fixture(scope='module')
def parity(shared_data):
  pytest.importorskip('torch', reason='needs torch to read .pth files')
  return shared_data / 'parity'


def _export_adapter(folder, config, flat):
  table = decoder_tables.peft(config)
  tensors = originals.theirs(table, flat)
  files.write_safetensors(
    str(folder), 'adapter_model', [lambda: tensors.items()]
  )
  fields = source_config.peft_json(config.lora, None)
  (folder / 'adapter_config.json').write_text(json.dumps(fields))


def _load_adapter(peft, llama, folder):
  """The adapter around a decoder, all of it."""
  model = peft.PeftModel.from_pretrained(llama, folder).eval()
  stored = set(files.open_checkpoint(folder).shapes)
  assert stored == set(peft.get_peft_model_state_dict(model))
  return model


def test_an_adapter_of_peft_on_all_seven_gives_the_same_logits(peft, tmp_path):
  theirs = decoders.random_llama(SHARED)
  base = {n: files.to_numpy(x) for n, x in theirs.state_dict().items()}
  plain = decoders.their_scores(theirs, TOKENS)
  settings = peft.LoraConfig(
    r=4,
    lora_alpha=6,
    lora_dropout=0.1,
    target_modules=[
      'q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj',
      'down_proj'
    ],
    task_type='CAUSAL_LM',
  )  # fmt: skip
  model = peft.get_peft_model(theirs, settings).eval()
  rng = np.random.default_rng(2)
  for name, x in model.named_parameters():
    if 'lora_' in name:
      x.data.copy_(files.to_torch(rng.normal(0, 0.2, x.shape)))
  model.save_pretrained(tmp_path)
  wanted = decoders.their_scores(model, TOKENS)
  assert decoders.apart(plain, wanted) > 0.1

  shapes = files.open_checkpoint(tmp_path).shapes
  adapter, _ = source_config.read_peft(tmp_path, shapes)
  assert adapter == dataclasses.replace(SHARED.lora, dropout=0.1)
  config = _with(SHARED, adapter)
  flat = originals.read(
    decoder_tables.peft(config), files.open_checkpoint(tmp_path)
  )
  flat |= originals.ours(decoder_tables.llama_hf(SHARED), base)
  found = decoders.scores(config, flat, TOKENS)
  assert decoders.apart(found, wanted) < 1e-5
  # Of each of the seven, the adapter counts.
  for name in llama.PROJECTIONS:
    without = {
      path: x * 0 if f'/{name}/lora_b' in path else x
      for path, x in flat.items()
    }
    found = decoders.scores(config, without, TOKENS)
    assert decoders.apart(found, wanted) > 1e-2, name


def _with_adapter(parity):
  """MotionLLM's decoder with its adapter on the rows that it changes."""
  config, trained = decoders.litgpt(parity)
  config = _with(config, decoder_tables.motionllm_adapter(trained))
  checkpoint = files.open_checkpoint(parity / 'litgpt_lora.pth')
  adapter = originals.read(decoder_tables.motionllm_lora(config), checkpoint)
  return config, decoders.litgpt_base(parity) | adapter


@pytest.mark.parametrize('is_merged', [False, True], ids=['beside', 'merged'])
def test_the_legacy_adapter_of_shared_gives_its_logits(parity, is_merged):
  config, flat = _with_adapter(parity)
  if is_merged:
    flat = lora.merge(flat, config.lora)
    config = _with(config, lora.LoraConfig())
  io = np.load(parity / 'litgpt_io.npz')
  found = decoders.scores(config, flat, io['ids'])
  np.testing.assert_allclose(found, io['logits_lora'], rtol=0, atol=1e-4)


def test_with_four_heads_the_naive_reading_is_far_off(parity):
  """litgpt_lora is for adapters that were trained on the rows they mean."""
  config, trained = decoders.litgpt(parity)
  assert config.heads == 4
  config = _with(config, trained)
  checkpoint = files.open_checkpoint(parity / 'litgpt_lora.pth')
  naive = originals.read(decoder_tables.litgpt_lora(config), checkpoint)
  io = np.load(parity / 'litgpt_io.npz')
  flat = decoders.litgpt_base(parity) | naive
  found = decoders.scores(config, flat, io['ids'])
  assert np.abs(found - io['logits_lora']).max() > 1
  again = originals.theirs(decoder_tables.litgpt_lora(config), naive)
  tensors = {name: checkpoint.read(name) for name in checkpoint.shapes}
  assert originals.bits(again) == originals.bits(tensors)


def test_the_legacy_adapter_of_shared_works_in_peft(peft, parity, tmp_path):
  """From lit-gpt through ours to transformers and peft."""
  import transformers

  config, flat = _with_adapter(parity)
  decoders.export_llama(tmp_path, config, flat)
  theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
  (tmp_path / 'adapter').mkdir()
  _export_adapter(tmp_path / 'adapter', config, flat)
  io = np.load(parity / 'litgpt_io.npz')
  plain = decoders.their_scores(theirs.eval(), io['ids'])
  np.testing.assert_allclose(plain, io['logits_base'], rtol=0, atol=1e-4)
  model = _load_adapter(peft, theirs, tmp_path / 'adapter')
  found = decoders.their_scores(model, io['ids'])
  np.testing.assert_allclose(found, io['logits_lora'], rtol=0, atol=1e-4)


def test_logits_after_a_splice_are_those_of_litgpt(parity):
  config, flat = _with_adapter(parity)
  io = np.load(parity / 'litgpt_io.npz')
  features = io['splice_features']

  def splice(x_BLD):
    for b, start in enumerate(io['splice_start']):
      stop = start + features.shape[1]
      x_BLD = x_BLD.at[b, start:stop].set(features[b])
    return x_BLD

  found = decoders.scores(config, flat, io['splice_ids'], splice)
  np.testing.assert_allclose(found, io['logits_splice'], rtol=0, atol=1e-4)
  plain = decoders.scores(config, flat, io['splice_ids'])
  assert np.abs(plain - io['logits_splice']).max() > 0.1
