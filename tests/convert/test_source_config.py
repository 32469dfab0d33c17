"""Settings that no shape tells are read, compared and refused by name."""

import dataclasses
import json
import logging

import pytest
import yaml

from vimonet_jax.convert import decoder_tables, mapping, source_config
from vimonet_jax.models import clip_video, llama, lora

VICUNA = llama.Config.vicuna_7b()
TOWER = clip_video.Config.languagebind()

# As they lie beside the published weights, but for what nobody here reads.
VICUNA_JSON = {
  'architectures': ['LlamaForCausalLM'],
  'hidden_act': 'silu',
  'hidden_size': 4096,
  'intermediate_size': 11008,
  'max_position_embeddings': 4096,
  'model_type': 'llama',
  'num_attention_heads': 32,
  'num_hidden_layers': 32,
  'num_key_value_heads': 32,
  'pretraining_tp': 1,
  'rms_norm_eps': 1e-05,
  'rope_scaling': None,
  'tie_word_embeddings': False,
  'vocab_size': 32000,
}
VICUNA_LITGPT = {
  'name': 'vicuna-7b-v1.5',
  'block_size': 4096,
  'vocab_size': 32000,
  'padding_multiple': 64,
  'padded_vocab_size': 32000,
  'n_layer': 32,
  'n_head': 32,
  'n_embd': 4096,
  'rotary_percentage': 1.0,
  'parallel_residual': False,
  'bias': False,
  'lm_head_bias': False,
  'n_query_groups': 32,
  'shared_attention_norm': False,
  '_norm_class': 'RMSNorm',
  'norm_eps': 1e-05,
  '_mlp_class': 'LLaMAMLP',
  'intermediate_size': 11008,
  'rope_condense_ratio': 1,
  'rope_base': 10000,
}
TOWER_JSON = {
  'hidden_size': 1024,
  'intermediate_size': 4096,
  'num_hidden_layers': 24,
  'num_attention_heads': 16,
  'image_size': 224,
  'patch_size': 14,
  'hidden_act': 'gelu',
  'layer_norm_eps': 1e-05,
  'add_time_attn': True,
  'num_frames': 8,
}
PEFT_JSON = {
  'peft_type': 'LORA',
  'task_type': 'CAUSAL_LM',
  'r': 64,
  'lora_alpha': 16,
  'lora_dropout': 0.05,
  'target_modules': ['v_proj', 'q_proj'],
  'bias': 'none',
  'fan_in_fan_out': False,
  'use_rslora': False,
  'use_dora': False,
  'modules_to_save': None,
  'rank_pattern': {},
  'alpha_pattern': {},
  'layers_to_transform': None,
}


NAMES = [
  f'base_model.model.model.layers.{i}.self_attn.{name}_proj.lora_{side}.weight'
  for i in range(2)
  for name in 'qv'
  for side in 'AB'
]


def _write(folder, name, fields, **changes):
  """Fields beside weights; a change to `...` leaves a field out."""
  fields = {k: x for k, x in {**fields, **changes}.items() if x is not ...}
  dump = yaml.safe_dump if name.endswith('.yaml') else json.dumps
  (folder / name).write_text(dump(fields))
  return folder


def _refused(check, folder, *arguments):
  """What an error says, which is one line for each thing that is wrong."""
  with pytest.raises(mapping.ConversionError) as caught:
    check(folder, *arguments)
  first, *lines, last = str(caught.value).splitlines()
  assert first.startswith(str(folder))
  assert last.startswith('Set the configuration to what the weights')
  return [line.strip() for line in lines]


def _other(field, found, ours):
  if field == 'llm.vocab_size':
    return f'vocab_size={found!r} (is {ours!r})'  # No setting.
  where = {'video.image_size': 'data.image_size'}.get(field, f'model.{field}')
  return f'--config.{where}={found!r} (is {ours!r})'


# --- The decoder -------------------------------------------------------------


def test_vicunas_own_settings_fit(tmp_path):
  source_config.check_llama(
    _write(tmp_path, 'config.json', VICUNA_JSON), VICUNA
  )
  # Also when one of its files is named.
  source_config.check_llama(tmp_path / 'pytorch_model.bin', VICUNA)


@pytest.mark.parametrize(
  ('change', 'wanted'),
  [
    ({'hidden_act': 'gelu'}, "hidden_act='gelu' instead of 'silu'"),
    ({'hidden_act': ...}, "hidden_act=None instead of 'silu'"),
    ({'attention_bias': True}, 'attention_bias=True instead of False'),
    ({'mlp_bias': True}, 'mlp_bias=True instead of False'),
    (
      {'tie_word_embeddings': True},
      'tie_word_embeddings=True instead of False',
    ),
    (
      {'rope_scaling': {'type': 'linear', 'factor': 2.0}},
      "rope of the kind 'linear', which this decoder has not",
    ),
    (
      {'rope_scaling': {'rope_type': 'llama3', 'factor': 8.0}},
      "rope of the kind 'llama3', which this decoder has not",
    ),
    (
      {'rope_parameters': {'rope_type': 'yarn', 'rope_theta': 1e4}},
      "rope of the kind 'yarn', which this decoder has not",
    ),
    (
      {'rope_parameters': {'rope_type': 'default', 'rope_theta': 5e5}},
      _other('llm.rope_theta', 500000.0, 10000.0),
    ),
    ({'rope_theta': 1e6}, _other('llm.rope_theta', 1000000.0, 10000.0)),
    ({'rms_norm_eps': 1e-6}, _other('llm.norm_eps', 1e-06, 1e-05)),
    # Without it transformers takes another one than Vicuna has.
    ({'rms_norm_eps': ...}, _other('llm.norm_eps', 1e-06, 1e-05)),
    ({'vocab_size': 32001}, _other('llm.vocab_size', 32001, 32000)),
    ({'num_hidden_layers': 40}, _other('llm.layers', 40, 32)),
    ({'num_key_value_heads': 8}, _other('llm.kv_heads', 8, 32)),
    ({'intermediate_size': 13824}, _other('llm.mlp_width', 13824, 11008)),
    ({'head_dim': 64}, _other('llm.head_dim', 64, 128)),
  ],
  ids=lambda x: json.dumps(x, default=str) if isinstance(x, dict) else '',
)
def test_another_decoder_is_refused_by_what_differs(tmp_path, change, wanted):
  folder = _write(tmp_path, 'config.json', VICUNA_JSON, **change)
  assert _refused(source_config.check_llama, folder, VICUNA) == [wanted]


def test_all_that_differs_is_named_at_once(tmp_path):
  folder = _write(
    tmp_path,
    'config.json',
    VICUNA_JSON,
    hidden_act='relu',
    hidden_size=5120,
    num_attention_heads=40,
    rope_theta=1e6,
  )
  assert _refused(source_config.check_llama, folder, VICUNA) == [
    "hidden_act='relu' instead of 'silu'",
    _other('llm.width', 5120, 4096),
    _other('llm.heads', 40, 32),
    _other('llm.rope_theta', 1000000.0, 10000.0),
  ]


def test_an_old_file_without_shared_heads_or_theta_has_the_usual(tmp_path):
  folder = _write(
    tmp_path,
    'config.json',
    VICUNA_JSON,
    num_key_value_heads=...,
    rope_scaling=...,
  )
  source_config.check_llama(folder, VICUNA)


def test_what_transformers_itself_writes_is_understood(tmp_path):
  transformers = pytest.importorskip(
    'transformers', reason='needs transformers'
  )
  config = llama.Config(48, 32, 2, 4, 2, 16, 40, 1e-6, 5e5)
  fields = source_config.llama_json(config, 'float32')
  # It may keep rope_theta in rope_parameters.
  transformers.LlamaConfig.from_dict(fields).save_pretrained(tmp_path)
  source_config.check_llama(tmp_path, config)
  other = dataclasses.replace(config, rope_theta=1e4)
  assert _refused(source_config.check_llama, tmp_path, other) == [
    _other('llm.rope_theta', 500000.0, 10000.0)
  ]


@pytest.mark.parametrize(
  'config',
  [
    VICUNA,
    # Neither the usual head size nor the usual settings.
    llama.Config(48, 32, 3, 4, 2, 16, 40, norm_eps=1e-6, rope_theta=5e5),
  ],
  ids=['vicuna', 'another'],
)
def test_what_we_write_of_a_decoder_fits_it(tmp_path, config):
  fields = source_config.llama_json(config, 'bfloat16')
  source_config.check_llama(_write(tmp_path, 'config.json', fields), config)
  assert fields['torch_dtype'] == 'bfloat16'
  wrong = dataclasses.replace(config, norm_eps=1e-3)
  assert len(_refused(source_config.check_llama, tmp_path, wrong)) == 1


@pytest.mark.parametrize('name', ['lit_config.json', 'model_config.yaml'])
def test_litgpts_own_settings_fit(tmp_path, name):
  folder = _write(tmp_path, name, VICUNA_LITGPT)
  source_config.check_litgpt(folder / 'lit_model.pth', VICUNA)


@pytest.mark.parametrize(
  ('change', 'wanted'),
  [
    (
      {'_norm_class': 'LayerNorm'},
      "_norm_class='LayerNorm' instead of 'RMSNorm'",
    ),
    (
      {'norm_class_name': 'LayerNorm'},
      "norm_class_name='LayerNorm' instead of 'RMSNorm'",
    ),
    (
      {'mlp_class_name': 'GemmaMLP'},
      "mlp_class_name='GemmaMLP' instead of 'LLaMAMLP'",
    ),
    ({'parallel_residual': True}, 'parallel_residual=True instead of False'),
    ({'bias': True}, 'bias=True instead of False'),
    ({'rotary_percentage': 0.25}, 'rotary_percentage=0.25 instead of 1.0'),
    (
      {'shared_attention_norm': True},
      'shared_attention_norm=True instead of False',
    ),
    (
      {'rope_adjustments': {'factor': 8.0}},
      "rope_adjustments={'factor': 8.0} instead of None",
    ),
    ({'scale_embeddings': True}, 'scale_embeddings=True instead of False'),
    ({'sliding_window_size': 9}, 'sliding_window_size=9 instead of None'),
    (
      {'final_logit_softcapping': 30.0},
      'final_logit_softcapping=30.0 instead of None',
    ),
    (
      {'rope_condense_ratio': 4},
      'condensed rotary positions, which this decoder has not',
    ),
    ({'norm_eps': 1e-6}, _other('llm.norm_eps', 1e-06, 1e-05)),
    ({'rope_base': 500000}, _other('llm.rope_theta', 500000, 10000.0)),
    ({'padded_vocab_size': 32064}, _other('llm.vocab_size', 32064, 32000)),
    ({'n_query_groups': 8}, _other('llm.kv_heads', 8, 32)),
    ({'head_size': 64}, _other('llm.head_dim', 64, 128)),
  ],
  ids=lambda x: next(iter(x)) if isinstance(x, dict) else '',
)
def test_another_litgpt_is_refused_by_what_differs(tmp_path, change, wanted):
  folder = _write(tmp_path, 'model_config.yaml', VICUNA_LITGPT, **change)
  assert _refused(source_config.check_litgpt, folder, VICUNA) == [wanted]


# --- The video tower ---------------------------------------------------------


def test_languagebinds_own_settings_fit(tmp_path):
  """It computes 24 blocks, of which the last one's features are not read."""
  fields = {'vision_config': TOWER_JSON, 'text_config': {'hidden_act': 'x'}}
  folder = _write(tmp_path, 'config.json', fields)
  source_config.check_languagebind(folder, TOWER)
  source_config.check_languagebind(
    _write(tmp_path, 'config.json', {'vision_config': TOWER_JSON}), TOWER
  )


@pytest.mark.parametrize(
  ('change', 'wanted'),
  [
    ({'hidden_act': 'quick_gelu'}, "hidden_act='quick_gelu' instead of 'gelu'"),
    ({'hidden_act': ...}, "hidden_act=None instead of 'gelu'"),
    ({'add_time_attn': False}, 'add_time_attn=False instead of True'),
    ({'num_frames': 16}, _other('video.frames', 16, 8)),
    ({'num_frames': ...}, _other('video.frames', 1, 8)),
    ({'num_hidden_layers': 23}, _other('video.layers', 22, 23)),
    ({'layer_norm_eps': 1e-6}, _other('video.norm_eps', 1e-06, 1e-05)),
    ({'image_size': 336}, _other('video.image_size', 336, 224)),
    ({'patch_size': ...}, _other('video.patch_size', 32, 14)),
    ({'num_attention_heads': 8}, _other('video.heads', 8, 16)),
  ],
  ids=lambda x: json.dumps(x, default=str) if isinstance(x, dict) else '',
)
def test_another_tower_is_refused_by_what_differs(tmp_path, change, wanted):
  tower = {k: x for k, x in {**TOWER_JSON, **change}.items() if x is not ...}
  folder = _write(tmp_path, 'config.json', {'vision_config': tower})
  assert _refused(source_config.check_languagebind, folder, TOWER) == [wanted]


def test_a_decoders_settings_are_not_taken_for_the_towers(tmp_path, caplog):
  """Inside a whole Video-LLaVA, of which config.json tells the decoder."""
  folder = _write(tmp_path, 'config.json', VICUNA_JSON)
  with caplog.at_level(logging.WARNING):
    source_config.check_languagebind(folder, TOWER)
  assert 'not the video tower inside it' in caplog.text


# --- Adapters ----------------------------------------------------------------


def test_an_adapters_settings_are_read_in_our_words(tmp_path):
  folder = _write(tmp_path, 'adapter_config.json', PEFT_JSON)
  adapter = lora.LoraConfig(
    rank=64, alpha=16.0, dropout=0.05, targets=('q', 'v')
  )
  assert source_config.read_peft(folder, NAMES) == (adapter, None)
  changes = {'lora_dropout': ..., 'base_model_name_or_path': 'lmsys/vicuna'}
  _write(tmp_path, 'adapter_config.json', PEFT_JSON, **changes)
  found, base = source_config.read_peft(folder / 'adapter_model.bin', NAMES)
  assert found.dropout == 0.0
  assert base == 'lmsys/vicuna'


@pytest.mark.parametrize(
  ('change', 'wanted'),
  [
    ({'peft_type': 'LOHA'}, "peft_type='LOHA' instead of 'LORA'"),
    ({'bias': 'lora_only'}, "bias='lora_only' instead of 'none'"),
    ({'fan_in_fan_out': True}, 'fan_in_fan_out=True instead of False'),
    ({'use_rslora': True}, 'use_rslora=True instead of False'),
    ({'use_dora': True}, 'use_dora=True instead of False'),
    (
      {'modules_to_save': ['lm_head']},
      "modules_to_save=['lm_head'] instead of []",
    ),
    ({'rank_pattern': {'q': 8}}, "rank_pattern={'q': 8} instead of {}"),
    ({'alpha_pattern': {'q': 8}}, "alpha_pattern={'q': 8} instead of {}"),
    # Both change the decoder before they are trained.
    *(
      ({'init_lora_weights': x}, f'init_lora_weights={x!r} instead of True')
      for x in ('pissa', 'olora')
    ),
    (
      {'alora_invocation_tokens': [5]},
      'alora_invocation_tokens=[5], which is no plain LoRA',
    ),
    ({'use_qalora': True}, 'use_qalora=True, which is no plain LoRA'),
    (
      {'of_some_later_version': {'rank': 2}},
      "of_some_later_version={'rank': 2}, which is no plain LoRA",
    ),
    ({'lora_alpha': ...}, "no 'lora_alpha', which has the scale"),
  ],
  ids=lambda x: next(iter(x)) if isinstance(x, dict) else '',
)
def test_an_adapter_that_is_no_plain_lora_is_refused(tmp_path, change, wanted):
  folder = _write(tmp_path, 'adapter_config.json', PEFT_JSON, **change)
  with pytest.raises(mapping.ConversionError) as caught:
    source_config.read_peft(folder, NAMES)
  first, *lines, last = str(caught.value).splitlines()
  assert first.startswith(str(folder))
  assert last.startswith('Merge the adapter with peft')
  assert [line.strip() for line in lines] == [wanted]


@pytest.mark.parametrize(
  'spelt',
  [
    ['q_proj', 'v_proj'],
    ['self_attn.q_proj', 'self_attn.v_proj'],
    '.*(q_proj|v_proj)',
    'all-linear',
  ],
)
def test_the_targets_are_those_that_have_tensors(tmp_path, spelt):
  change = {'target_modules': spelt, 'layers_to_transform': [0, 1]}
  folder = _write(tmp_path, 'adapter_config.json', PEFT_JSON, **change)
  adapter, _ = source_config.read_peft(folder, NAMES)
  assert adapter.targets == ('q', 'v')


def test_an_adapter_without_its_settings_has_no_scale(tmp_path, caplog):
  with pytest.raises(mapping.ConversionError, match='expected adapter_config'):
    source_config.read_peft(tmp_path, NAMES)
  assert not caplog.text  # One sentence is enough.


@pytest.mark.parametrize('targets', [('q', 'v'), llama.PROJECTIONS])
def test_what_we_write_of_an_adapter_is_read_back(tmp_path, targets):
  adapter = lora.LoraConfig(128, 32.0, 0.05, targets)
  fields = source_config.peft_json(adapter, '../base')
  assert fields['base_model_name_or_path'] == '../base'
  folder = _write(tmp_path, 'adapter_config.json', fields)
  table = decoder_tables.peft(dataclasses.replace(VICUNA, lora=adapter))
  assert source_config.read_peft(folder, table.expected()) == (
    adapter,
    '../base',
  )


# --- Files -------------------------------------------------------------------

CHECKS = {
  'config.json': lambda x: source_config.check_llama(x, VICUNA),
  'model_config.yaml': lambda x: source_config.check_litgpt(x, VICUNA),
}


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('config.json', ''),
    ('config.json', '{"hidden_size": 40'),
    ('config.json', '[1]'),
    ('model_config.yaml', 'a: [1,'),
    ('model_config.yaml', ''),
    ('model_config.yaml', 'Entry not found'),
  ],
)
def test_damaged_settings_are_not_taken_for_none(tmp_path, name, text):
  (tmp_path / name).write_text(text)
  with pytest.raises(mapping.ConversionError, match='fetch it again') as caught:
    CHECKS[name](tmp_path)
  assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize('name', CHECKS)
def test_without_settings_there_is_a_warning(tmp_path, caplog, name):
  with caplog.at_level(logging.WARNING):
    CHECKS[name](tmp_path)
  assert name in caplog.text
  assert 'on trust' in caplog.text


def test_a_projector_alone_needs_no_settings(tmp_path, caplog):
  source_config.check_projector(tmp_path, TOWER)
  assert not caplog.text
  _write(tmp_path, 'config.json', {'mm_projector_type': 'linear'})
  assert _refused(source_config.check_projector, tmp_path, TOWER) == [
    "mm_projector_type='linear' instead of 'mlp2x_gelu'",
    '--config.model.video.keep_class_token=True (is False), for the projector '
    'of a Video-LLaVA reads class tokens, too',
  ]
