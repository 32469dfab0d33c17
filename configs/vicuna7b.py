"""The paper at its own size: Vicuna-7B, LanguageBind and T2M-GPT's VQ-VAE.

Weights of PyTorch first, once (see README.md, "From PyTorch and back"):

    for part in llama=vicuna-7b-v1.5 languagebind=LanguageBind_Video_merge; do
      python -m vimonet_jax.main --config=configs/vicuna7b.py --task=convert \
        --format=${part%=*} --source=${part#*=} --output=base/${part%=*}
    done
    python -m vimonet_jax.main --config=configs/vicuna7b.py --task=convert \
      --format=vqvae --source=t2m.pth --statistics=meta --output=base/vqvae

Then both stages, evaluation and report:

    python -m vimonet_jax.main --config=configs/vicuna7b.py \
      --config.base.llm=base/llama --config.base.video=base/languagebind \
      --config.base.motion=base/vqvae

    configs/vicuna7b.py          VIMOS-Synth at 224 pixels stands in for VIMOS
    configs/vicuna7b.py:motion   your own motions and captions, no video:
                                 --config.data.path=DIR as for configs/mocap.py

Where a number comes from is beside it: [paper], the seed paper; [MLLM],
MotionLLM's code; [VL], Video-LLaVA's scripts, whose three learning rates are
those of the paper and which say what the paper leaves open; [ours].
"""

import pathlib
import runpy

import ml_collections

# Steps of an epoch [VL: one per stage]. Motion: 44,970 captions of HumanML3D
# and 34k of Motion-X in rows of 256, 346k questions in rows of 128 [paper,
# table I]. Video as many [ours: 1:1, the paper is silent].
_ALIGN_STEPS = 2 * (44_970 + 34_000) // 256
_INSTRUCT_STEPS = 2 * 346_000 // 128


def _mix(media, rows: int, length: int, **changes):
  """Rows that show the same media; see data.batches.Mix and data.views.View."""
  return ml_collections.ConfigDict({
    'media': media,
    'weight': 1.0,  # 1:1 [ours]
    'rows': rows,
    'length': length,
    'caption_share': 0.0,
    'max_turns': 4,
    **changes,
  })  # fmt: skip


def _stage(steps, trainable, learning_rates, mixes, **changes):
  """What both stages share."""
  return ml_collections.ConfigDict({
    'steps': steps,
    'trainable': trainable,
    'learning_rates': learning_rates,
    'optimizer': 'adamw',  # [VL]
    'betas': (0.9, 0.999),  # [VL: the defaults of torch and transformers]
    'weight_decay': 0.0,  # [VL]
    'warmup_share': 0.03,  # [VL]
    'schedule': 'cosine',  # [VL]
    # None of them clips. Cheap insurance for 1e-3 in bfloat16 [ours].
    'clip': 1.0,
    'mixes': mixes,
    # With rows: all mixes share them, by weight of conversations, and a row has
    # as many as it has tokens and clips for. 0: a row for each, of its mix.
    'packed': {'rows': 0, 'length': 0, 'motion_clips': 0, 'video_clips': 0},
    # Into how many parts a batch is cut that one step sees one after another.
    'grad_accumulation': 1,
    # Decoder and tower in bfloat16, as they were converted, and the VQ-VAE in
    # float32; what is trained is float32 in any case [VL: bf16].
    'frozen_dtype': '',
    # '', 'int8' or 'nf4': what the decoder's frozen kernels are rounded to, to
    # half or a quarter of the memory; see models/quantize.py.
    'quantize': '',
    'checkpoint_steps': 200,
    **changes,
  })  # fmt: skip


def _part(name: str) -> ml_collections.ConfigDict:
  """What every preset has in a file of its own, beside this one."""
  # From wherever the program is started.
  path = pathlib.Path(__file__).with_name(f'{name}.py')
  return runpy.run_path(str(path))['get_config']()


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe of the paper; `motion` for folders without video."""
  if arg not in ('', 'motion'):
    raise ValueError(
      'Expected configs/vicuna7b.py or configs/vicuna7b.py:motion, found '
      f"':{arg}'."
    )
  config = ml_collections.ConfigDict()
  config.task = 'pipeline'
  config.workdir = 'workdir/vicuna7b' + (f'-{arg}' if arg else '')
  config.seed = 0

  # Folders that --task=convert wrote; see vimonet_jax/base.py.
  config.base = ml_collections.ConfigDict({
    'llm': '',
    'adapter': '',
    'video': '',
    'motion': '',
    'video_translator': '',
    'motion_translator': '',
  })  # fmt: skip

  # How loud the root and the contacts are in the statistics of published motion
  # encoders (reference: text-to-motion's feat_bias, applied twice).
  root_gain = 25.0
  if arg == 'motion':
    config.data = ml_collections.ConfigDict({
      'name': 'folder',
      'path': '',
      'source': 'motion',
      'licence': 'unknown',
      'min_frames': 40,  # as HumanML3D's loaders
      'image_size': 224,
      'processes': 2,
      'read_threads': 16,
      # In how many shares the processes of a cluster read them, so that another
      # number of processes sees the same batches; 0: one for each.
      'shares': 0,
      # Damaged records that training passes over, of each process's share; a
      # stage names them in skipped-<process>.jsonl, and one more ends the run.
      'max_corrupt': 10,
      'root_gain': root_gain,
    })  # fmt: skip
  else:
    config.data = ml_collections.ConfigDict({
      'name': 'synthetic',
      'seed': 0,
      'train': 7000,
      'val': 400,
      'test': 1000,
      'image_size': 224,
      'max_actions': 3,
      'noisy_share': 0.75,
      'processes': 2,
      'read_threads': 16,
      'shares': 0,
      # Damaged records that training passes over, of each process's share; a
      # stage names them in skipped-<process>.jsonl, and one more ends the run.
      'max_corrupt': 10,
      'root_gain': root_gain,
    })  # fmt: skip

  config.text = ml_collections.ConfigDict({
    'template': 'vicuna',  # [MLLM]'s literals
    # For a tokenizer of one's own; that of config.base.llm comes first.
    'vocab_size': 32000,
    'corpus': 300,
  })  # fmt: skip

  config.model = ml_collections.ConfigDict({
    # Vicuna-7B v1.5, which is LLaMA-2's architecture: [MLLM] lit_gpt/config.py.
    'llm': {
      'width': 4096,
      'layers': 32,
      'heads': 32,
      'kv_heads': 32,
      'head_dim': 128,
      'mlp_width': 11008,
      'norm_eps': 1e-5,  # 1e-6 up to v1.3
      'rope_theta': 1e4,
      'dtype': 'bfloat16',
      'remat': 'full',
      'attention': 'auto',
    },
    # LanguageBind_Video_merge: CLIP ViT-L/14 with attention over 8 frames. The
    # features are those of block 23 of 24 without class tokens [MLLM]: 2048 a
    # clip. keep_class_token=True is [VL]: 2056.
    'video': {
      'width': 1024,
      'layers': 23,
      'heads': 16,
      'mlp_width': 4096,
      'patch_size': 14,
      'frames': 8,
      'norm_eps': 1e-5,
      'keep_class_token': False,
      'dtype': 'bfloat16',
      'remat': True,
    },
    # T2M-GPT's, also [MLLM]'s.
    'motion': {
      'width': 512,
      'code_dim': 512,
      'num_codes': 512,
      'down': 2,
      'depth': 3,
      'dilation_growth': 3,
    },
    # Latents before quantisation [MLLM: encode_x].
    'motion_feature': 'encoder',
    'words_noise': 0.0,
  })  # fmt: skip

  # 10 to 49 places of a motion, 2048 of a video, and some 80 of the template.
  if arg == 'motion':
    captions = {'motion': _mix(('motion',), 256, 512, caption_share=1.0)}
    questions = {
      'motion': _mix(('motion',), 128, 512, caption_share=1.0, max_turns=1)
    }
  else:
    captions = {
      'motion': _mix(('motion',), 256, 512, caption_share=1.0),
      'video': _mix(('video',), 256, 2560, caption_share=1.0),
    }
    questions = {
      'motion': _mix(('motion',), 128, 512),
      'video': _mix(('video',), 128, 2560),
      'both': _mix(('motion', 'video'), 128, 2560),
    }
  config.stage_names = ('align', 'instruct')
  config.align = _stage(
    _ALIGN_STEPS,
    ('translators/.*',),  # [paper]
    (('.*', 1e-3),),  # [paper]
    ml_collections.ConfigDict(captions),
  )
  config.instruct = _stage(
    _INSTRUCT_STEPS,
    ('translators/.*', 'llm/.*/lora_.*'),  # [paper]
    (('translators/.*', 2e-5), ('llm/.*', 2e-4)),  # [paper]
    ml_collections.ConfigDict(questions),
    lora={
      'rank': 64,  # [paper]
      # The paper is silent on the rest: [MLLM] options/option.py, CLI.py.
      'alpha': 16.0,
      'dropout': 0.05,
      'targets': ('q', 'v'),
    },
  )

  # Shards of the frozen decoder on every device there is.
  config.mesh = ml_collections.ConfigDict({
    'data': 1,
    'fsdp': -1,
    'tensor': 1,
  })  # fmt: skip

  config.eval = ml_collections.ConfigDict({
    'split': 'test',
    'per_domain': 120,
    'max_new_tokens': 200,  # [MLLM]
    'rows': 16,
    # The decoder's kernels when it is asked: '', 'int8' or 'nf4'; chat, too.
    'quantize': '',
    'corruptions': (('motion', 'L2'), ('both', 'L2'), ('both', 'swapped')),
    'probe_per_domain': 0,
    **_part('benchmarks'),
  })  # fmt: skip
  # Of --task=parity; see vimonet_jax/comparison.py.
  config.parity = ml_collections.ConfigDict({
    'steps': 50,
    'rows': 2,
    'records': 160,
    'prompts': 4,
    'max_new_tokens': 24,
  })  # fmt: skip
  # Of --task=plan; see vimonet_jax/planning.py.
  config.plan = ml_collections.ConfigDict({
    'topology': '',
    'step': 'train',
    'stage': '',
    'mix': '',
    'rows': 0,
    'length': 0,
    'search': False,
  })  # fmt: skip
  config.annotate = _part('annotation')
  config.serve = _part('serve')
  config.demo = _part('demo')
  config.uploads = _part('uploads')
  config.update(_part('trust'))
  config.audit = _part('audit')
  config.monitor = _part('monitoring')
  config.watermark = _part('watermark')
  # As in the paper of the green list, at one nat; neither that nor the width
  # has been measured with this model [ours].
  config.watermark.delta = 2.0
  if arg == 'motion':
    config.eval.corruptions = ()
  return config
