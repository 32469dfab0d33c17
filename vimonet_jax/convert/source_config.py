"""What stands beside published weights: their sizes and settings, checked.

Shapes tell most of a network and not all of it: an RMSNorm's eps, the base of
the rotary wavelengths or a tower's activation change every number without
changing a shape. So they are read from the files that came with the weights,
and what our configuration says must be the same.
"""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from vimonet_jax.convert import decoder_tables, files, mapping
from vimonet_jax.models import clip_video, llama, lora

# What our decoder is, in Hugging Face's words; None: may be missing.
_LLAMA_IS = {
  # A whole Video-LLaVA has a decoder inside.
  'model_type': (None, 'llava', 'llava_llama', 'llama'),
  'hidden_act': ('silu',),
  'attention_bias': (None, False),
  'mlp_bias': (None, False),
  'tie_word_embeddings': (None, False),
}
_LITGPT_IS = {
  'norm_class_name': ('RMSNorm',),
  '_norm_class': ('RMSNorm',),
  'mlp_class_name': ('LLaMAMLP',),
  '_mlp_class': ('LLaMAMLP',),
  'parallel_residual': (False,),
  'bias': (False,),
  'rotary_percentage': (1.0,),
  'shared_attention_norm': (None, False),
  # Of other families that later versions run; none of them has a tensor.
  'rope_adjustments': (None,),
  'sliding_window_size': (None,),
  'scale_embeddings': (None, False),
  'attention_scores_scalar': (None,),
  'attention_logit_softcapping': (None,),
  'final_logit_softcapping': (None,),
}
_TOWER_IS = {
  # Not quick_gelu, which is the default of the class.
  'hidden_act': ('gelu',),
  'add_time_attn': (True,),
}
_PEFT_IS = {
  'peft_type': ('LORA',),
  'bias': (None, 'none'),
  'fan_in_fan_out': (None, False),
  'use_rslora': (None, False),
  'use_dora': (None, False),
  'modules_to_save': (None, []),
  'rank_pattern': (None, {}),
  'alpha_pattern': (None, {}),
  # Not pissa, olora, loftq and the like, which change the decoder as well.
  'init_lora_weights': (None, 'gaussian', 'eva', 'orthogonal', False, True),
}
# What else may stand there and changes nothing. All other settings must be off:
# variants of LoRA come with each version, and most have no tensor of their own.
_PEFT_FREE = (
  'auto_mapping',
  'base_model_name_or_path',
  'exclude_modules',
  'inference_mode',
  'layers_pattern',
  'layers_to_transform',  # The tensors themselves tell which layers.
  'lora_alpha',
  'lora_dropout',
  'megatron_core',
  'peft_version',
  'qalora_group_size',
  'r',
  'revision',
  'runtime_config',
  'target_modules',
  'task_type',
)
# 'q' -> 'q_proj'.
_PEFT_NAMES = {
  ours: theirs.rpartition('.')[2]
  for ours, theirs in decoder_tables.HF_NAMES.items()
}


def check_llama(source: str, config: llama.Config) -> None:
  """Compares a Hugging Face config.json with our decoder.

  Args:
    source: the checkpoint; without a config.json beside it there is a warning.
    config: what it is read as.

  Raises:
    mapping.ConversionError: names every setting that differs.
  """
  path, fields = _read(source, ('config.json',))
  if fields is None:
    return
  heads = fields.get('num_attention_heads')
  rope = fields.get('rope_parameters') or fields.get('rope_scaling') or {}
  kind = rope.get('rope_type', rope.get('type', 'default'))
  theta = rope.get('rope_theta', fields.get('rope_theta', 1e4))
  width = fields.get('hidden_size', 0)
  found = {
    'vocab_size': fields.get('vocab_size'),
    'width': width,
    'layers': fields.get('num_hidden_layers'),
    'heads': heads,
    'kv_heads': fields.get('num_key_value_heads') or heads,
    'head_dim': fields.get('head_dim') or width // (heads or 1),
    'mlp_width': fields.get('intermediate_size'),
    # Without it transformers takes 1e-6, and Vicuna v1.5 has 1e-5.
    'norm_eps': fields.get('rms_norm_eps', 1e-6),
    'rope_theta': theta,
  }
  problems = _unlike(fields, _LLAMA_IS)
  if kind != 'default':
    problems.append(f'rope of the kind {kind!r}, which this decoder has not')
  _compare(path, 'llm', found, config, problems)


def check_litgpt(source: str, config: llama.Config) -> None:
  """The same with lit_config.json or model_config.yaml of lit-gpt."""
  path, fields = _read(source, ('lit_config.json', 'model_config.yaml'))
  if fields is None:
    return
  heads = fields.get('n_head')
  width = fields.get('n_embd', 0)
  found = {
    'vocab_size': fields.get('padded_vocab_size') or fields.get('vocab_size'),
    'width': width,
    'layers': fields.get('n_layer'),
    'heads': heads,
    'kv_heads': fields.get('n_query_groups') or heads,
    'head_dim': fields.get('head_size') or width // (heads or 1),
    'mlp_width': fields.get('intermediate_size'),
    'norm_eps': fields.get('norm_eps', 1e-5),
    'rope_theta': fields.get('rope_base', 1e4),
  }
  there = {key: allowed for key, allowed in _LITGPT_IS.items() if key in fields}
  problems = _unlike(fields, there)
  if fields.get('rope_condense_ratio', 1) != 1:
    problems.append('condensed rotary positions, which this decoder has not')
  _compare(path, 'llm', found, config, problems)


def check_languagebind(source: str, config: clip_video.Config) -> None:
  """The same with LanguageBind's config.json, of which `vision_config` counts.

  The features that are read are those of the last block but one.
  """
  path, fields = _read(source, ('config.json',))
  if fields is None:
    return
  if 'vision_config' not in fields and 'hidden_size' in fields:
    logging.warning(
      '%s describes a language model, not the video tower inside it; what '
      'shapes do not tell was not checked.',
      path,
    )
    return
  fields = fields.get('vision_config', fields)
  found = {
    'width': fields.get('hidden_size', 768),
    'layers': fields.get('num_hidden_layers', 12) - 1,
    'heads': fields.get('num_attention_heads', 12),
    'mlp_width': fields.get('intermediate_size', 3072),
    'image_size': fields.get('image_size', 224),
    'patch_size': fields.get('patch_size', 32),
    'frames': fields.get('num_frames', 1),
    'norm_eps': fields.get('layer_norm_eps', 1e-5),
  }
  problems = _unlike(fields, _TOWER_IS)
  _compare(path, 'video', found, config, problems)


def check_projector(source: str, config: clip_video.Config) -> None:
  """Compares a Video-LLaVA's config.json with what the translator shall read.

  MotionLLM's file has none beside it, and its tower drops the class tokens.
  """
  path, fields = _read(source, ('config.json',), warns=False)
  if not any(name.startswith('mm_') for name in fields or ()):
    return  # None, or somebody else's.
  problems = _unlike(
    fields,
    {
      'mm_projector_type': (None, 'mlp2x_gelu'),
      'mm_vision_select_layer': (None, -2),
    },
  )
  if not config.keep_class_token:
    problems.append(
      f'{override("video", "keep_class_token")}=True (is False), for the '
      'projector of a Video-LLaVA reads class tokens, too'
    )
  if problems:
    _refuse(path, problems)


def read_peft(
  source: str, names: Iterable[str]
) -> tuple[lora.LoraConfig, str | None]:
  """The adapter that adapter_config.json describes, and what it belongs to.

  Args:
    source: the adapter.
    names: its tensors', which tell the targets better than the ways to spell
      them.

  Returns:
    The adapter, and the path or name of the decoder that it was trained on,
    where the file has it.

  Raises:
    mapping.ConversionError: there is none, or it is no plain LoRA.
  """
  path, fields = _read(source, ('adapter_config.json',), warns=False)
  if fields is None:
    raise mapping.ConversionError(
      f'{source}: expected adapter_config.json beside the adapter, found none; '
      'it has the scale, which no tensor tells.'
    )
  problems = _unlike(fields, _PEFT_IS)
  problems += [
    f'{name}={x!r}, which is no plain LoRA'
    for name, x in fields.items()
    if name not in _PEFT_IS and name not in _PEFT_FREE
    if x not in (None, False, {}, [])
  ]
  problems += [
    f'no {name!r}, which has the scale'
    for name in ('r', 'lora_alpha')
    if name not in fields
  ]
  if problems:
    listed = '\n  '.join(problems)
    raise mapping.ConversionError(
      f'{path}: expected a plain LoRA on an unchanged decoder, found\n  '
      f'{listed}\nMerge the adapter with peft and convert the merged decoder.'
    )
  names = list(names)
  adapter = lora.LoraConfig(
    rank=fields['r'],
    alpha=float(fields['lora_alpha']),
    dropout=float(fields.get('lora_dropout', 0.0)),
    targets=tuple(
      ours
      for ours, theirs in _PEFT_NAMES.items()
      if any(f'.{theirs}.' in name for name in names)
    ),
  )
  return adapter, fields.get('base_model_name_or_path')


def peft_json(adapter: lora.LoraConfig, base: str | None) -> dict[str, Any]:
  """adapter_config.json of an adapter of ours.

  Args:
    adapter: rank, alpha, dropout and targets.
    base: where the decoder is that it belongs to; None is left open.
  """
  return {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': base,
    'r': adapter.rank,
    'lora_alpha': adapter.alpha,
    'lora_dropout': adapter.dropout,
    'target_modules': [_PEFT_NAMES[name] for name in adapter.targets],
    'bias': 'none',
    'fan_in_fan_out': False,
    'inference_mode': True,
  }


def llama_json(config: llama.Config, dtype: str) -> dict[str, Any]:
  """config.json of a decoder of ours, for LlamaForCausalLM.

  Args:
    config: its sizes.
    dtype: what its weights are written in, as `bfloat16`.
  """
  return {
    'architectures': ['LlamaForCausalLM'],
    'model_type': 'llama',
    'hidden_act': 'silu',
    'hidden_size': config.width,
    'intermediate_size': config.mlp_width,
    'num_hidden_layers': config.layers,
    'num_attention_heads': config.heads,
    'num_key_value_heads': config.kv_heads,
    'head_dim': config.head_dim,
    'max_position_embeddings': 4096,
    'rms_norm_eps': config.norm_eps,
    'rope_theta': config.rope_theta,
    'rope_scaling': None,
    'attention_bias': False,
    'mlp_bias': False,
    'tie_word_embeddings': False,
    'vocab_size': config.vocab_size,
    'bos_token_id': 1,
    'eos_token_id': 2,
    'pad_token_id': 0,
    'torch_dtype': dtype,
  }


def override(network: str, name: str) -> str:
  """The flag that sets a size of `llm`, `video` or `motion`, if one does."""
  if name == 'vocab_size':
    return name  # It follows from the weights and their tokenizer.
  if name == 'image_size':
    return '--config.data.image_size'
  return f'--config.model.{network}.{name}'


def _read(
  source: str, names: Sequence[str], *, warns: bool = True
) -> tuple[pathlib.Path | None, Mapping[str, Any] | None]:
  """The first of the files that lies beside the weights, and its fields."""
  for name in names:
    path = files.beside(source, name)
    if path is None:
      continue
    with open(path, encoding='utf-8') as f:
      try:
        fields = yaml.safe_load(f) if path.suffix == '.yaml' else json.load(f)
      except (ValueError, yaml.YAMLError) as e:
        raise mapping.ConversionError(
          f'{path}: expected the settings of the weights, found a damaged '
          f'file ({e}); fetch it again.'
        ) from e
    if not isinstance(fields, Mapping):
      raise mapping.ConversionError(
        f'{path}: expected the settings of the weights by their names, found '
        f'{fields!r:.40}; fetch it again.'
      )
    return path, fields
  if warns:
    logging.warning(
      '%s: found no %s beside the weights, so what shapes do not tell (eps, '
      'activation, rotary base, scale) is taken from the configuration on '
      'trust.',
      source,
      ' or '.join(names),
    )
  return None, None


def _unlike(
  fields: Mapping[str, Any], allowed: Mapping[str, Sequence[Any]]
) -> list[str]:
  return [
    f'{key}={fields.get(key)!r} instead of {values[-1]!r}'
    for key, values in allowed.items()
    if fields.get(key) not in values
  ]


def _compare(path, network: str, found, config: Any, problems) -> None:
  ours = dataclasses.asdict(config)
  differ = [
    f'{override(network, key)}={value!r} (is {ours[key]!r})'
    for key, value in found.items()
    if value != ours[key]
  ]
  if problems or differ:
    _refuse(path, [*problems, *differ])


def _refuse(path: Any, problems: Sequence[str]) -> None:
  listed = '\n  '.join(problems)
  raise mapping.ConversionError(
    f'{path}: expected the network that the configuration describes, found\n'
    f'  {listed}\nSet the configuration to what the weights were trained '
    'with, or take other weights.'
  )
