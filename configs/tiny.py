"""The embedded default: grow a ViMoNet from nothing on two CPU cores.

    python -m vimonet_jax.main --config=configs/tiny.py
    python -m vimonet_jax.main --config=configs/tiny.py:smoke   # a few minutes

Builds VIMOS-Synth, trains the five stages one after another, evaluates on the
held-out split and writes report.html. Run it again after an interruption: it
goes on where it was.

Measured on two Xeon cores at 2.8 GHz, 2026-11-25: 20 min 29 s, 2.3 GB. Held-out
answers that are right, in percent of 1,200, greedy, judged by rules:

    both 89.5   video only 53.2   motion only 52.2   question only 22.7
    both with another clip's media 24.2
    motion only with 3 cm of joint noise that drifts 50.2, that shakes 49.4
"""

import pathlib
import runpy

import ml_collections

_BOTH = ('motion', 'video')
_OF_VIDEO = ('place', 'object', 'colour', 'people')


def _mix(media, *, weight=1.0, rows=24, length=256, **changes):
  """Rows that show the same media; see data.batches.Mix and data.views.View."""
  return ml_collections.ConfigDict({
    'media': media,
    'weight': weight,
    'rows': rows,
    'length': length,
    'caption_share': 0.0,
    'max_turns': 4,
    **changes,
  })  # fmt: skip


def _stage(steps, trainable, learning_rates, mixes, **changes):
  """A stage that predicts tokens; see train.stages and train.optimizer.

  Learning rates are (pattern of paths, peak) and the first match counts.
  """
  return ml_collections.ConfigDict({
    'steps': steps,
    'trainable': trainable,
    'learning_rates': learning_rates,
    'optimizer': 'adamw',
    'betas': (0.9, 0.98),
    'weight_decay': 0.0,
    'warmup_share': 0.05,
    'schedule': 'cosine',
    'clip': 1.0,
    'mixes': mixes,
    # With rows: all mixes share them, by weight of conversations, and a row has
    # as many as it has tokens and clips for. 0: a row for each, of its mix.
    'packed': {'rows': 0, 'length': 0, 'motion_clips': 0, 'video_clips': 0},
    # Into how many parts a batch is cut that one step sees one after another.
    'grad_accumulation': 1,
    # '', 'int8' or 'nf4': what the decoder's kernels are rounded to where they
    # are frozen; see models/quantize.py.
    'quantize': '',
    'checkpoint_steps': 100,
    **changes,
  })  # fmt: skip


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The tiny preset, or its version of a few minutes for `smoke`."""
  if arg not in ('', 'smoke'):
    raise ValueError(
      f"Expected configs/tiny.py or configs/tiny.py:smoke, found ':{arg}'."
    )
  config = ml_collections.ConfigDict()
  config.task = 'pipeline'
  config.workdir = 'workdir/tiny'
  config.seed = 0

  # Folders with weights that others have trained, which --task=convert wrote;
  # see vimonet_jax/base.py. Stages that make them can be left out then.
  config.base = ml_collections.ConfigDict({
    'llm': '',
    'adapter': '',
    'video': '',
    'motion': '',
    'video_translator': '',
    'motion_translator': '',
  })  # fmt: skip

  config.data = ml_collections.ConfigDict({
    'name': 'synthetic',
    'seed': 0,
    'train': 7000,
    'val': 400,
    'test': 1000,
    'image_size': 48,
    'max_actions': 3,
    # With half of the clips seen badly, joint noise of 3 cm still cost 5 % of
    # what motion answers on val; with none, 10 %.
    'noisy_share': 0.75,
    'processes': 2,
    'read_threads': 0,
    # In how many shares the processes of a cluster read them, so that another
    # number of processes sees the same batches; 0: one for each.
    'shares': 0,
    # Damaged records that training passes over, of each process's share; a
    # stage names them in skipped-<process>.jsonl, and one more ends the run.
    'max_corrupt': 10,
    # Published VQ-VAEs amplify root and contacts 25 times; then a small one has
    # no eye for the arms.
    'root_gain': 2.0,
  })  # fmt: skip

  config.text = ml_collections.ConfigDict({
    'template': 'short',
    'vocab_size': 768,
    # Conversations that the tokenizer is trained on.
    'corpus': 300,
  })  # fmt: skip

  config.model = ml_collections.ConfigDict({
    'llm': {
      'width': 128,
      'layers': 4,
      'heads': 2,
      'kv_heads': 2,
      'head_dim': 64,
      'mlp_width': 352,
      'unroll': 4,
    },
    'video': {
      'width': 96,
      'layers': 3,
      'heads': 3,
      'mlp_width': 256,
      'patch_size': 16,
      'unroll': 3,
    },
    'motion': {
      'width': 128,
      'code_dim': 128,
      'num_codes': 256,
    },
    'motion_feature': 'encoder',
    'words_noise': 0.7,
  })  # fmt: skip

  config.stage_names = ('motion', 'language', 'video', 'align', 'instruct')
  config.motion = _stage(
    600,
    ('motion/.*',),
    (('motion/.*', 1e-3),),
    ml_collections.ConfigDict(),
    rows=32,
    window=64,
  )
  config.language = _stage(
    1200,
    ('llm/.*',),
    (('llm/.*', 4e-3),),
    ml_collections.ConfigDict({
      # What a video shows is read soon, the order of actions late.
      'motion': _mix(('motion',), weight=2.0, length=160, max_turns=5),
      'both': _mix(
        _BOTH,
        # Two conversations a row.
        rows=16,
        caption_share=0.05,
        domain_weights=dict.fromkeys(_OF_VIDEO, 0.3),
      ),
    }),
    optimizer='muon',
    # Words that the sampler of conversations makes stand in place of media.
    stand_in=1_000_000,
  )
  config.video = _stage(
    400,
    ('video/.*', 'translators/video/.*'),
    (('.*', 3e-3),),
    ml_collections.ConfigDict({
      'video': _mix(('video',), length=160, caption_share=0.1),
    }),
    optimizer='muon',
  )
  config.align = _stage(
    300,
    ('translators/.*',),
    (('.*', 5e-3),),
    ml_collections.ConfigDict({
      'motion': _mix(
        ('motion',), weight=2.0, length=160, max_turns=5, caption_share=0.3
      ),
      'both': _mix(_BOTH, max_turns=6, caption_share=0.2),
    }),
    # Its steps are as long in directions in which features vary little, and
    # one of those is which arm moves.
    optimizer='muon',
  )
  config.instruct = _stage(
    600,
    ('translators/.*', 'llm/.*/lora_.*'),
    (('translators/.*', 2e-3), ('llm/.*', 3e-3)),
    ml_collections.ConfigDict({
      'motion': _mix(('motion',), weight=2.0, length=160, max_turns=5),
      'video': _mix(('video',), weight=1.0, length=160),
      'both': _mix(_BOTH, weight=2.0, max_turns=6),
    }),
    optimizer='muon',
    lora={
      'rank': 64,
      'alpha': 128.0,
      'dropout': 0.0,
      'targets': ('q', 'k', 'v', 'o', 'gate', 'up', 'down'),
    },
  )

  config.mesh = ml_collections.ConfigDict({
    'data': -1,
    'fsdp': 1,
    'tensor': 1,
  })  # fmt: skip

  config.eval = ml_collections.ConfigDict({
    'split': 'test',
    'per_domain': 120,
    'max_new_tokens': 24,
    'rows': 64,
    # The decoder's kernels when it is asked: '', 'int8' or 'nf4'; chat, too.
    'quantize': '',
    # Input and change of its media. Training knows joints that drift, as in L2
    # (noisy_share), and none that shake, as in L2w. The protocol asks for five
    # seeds of noise (configs/studies/robustness.py); one on all questions costs
    # as much time as there is.
    'corruptions': (
      ('motion', 'L2'),
      ('both', 'L2'),
      ('motion', 'L2w'),
      ('both', 'swapped'),
    ),
    # Validation questions a domain at the end of each stage.
    'probe_per_domain': 40,
    **_part('benchmarks'),
  })  # fmt: skip

  # --task=parity: the same batches through PyTorch; see comparison.py.
  config.parity = ml_collections.ConfigDict({
    'steps': 50,
    'rows': 8,
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
  if arg == 'smoke':
    _make_smoke(config)
  return config


def _part(name: str) -> ml_collections.ConfigDict:
  """What every preset has in a file of its own, beside this one."""
  # From wherever the program is started.
  path = pathlib.Path(__file__).with_name(f'{name}.py')
  return runpy.run_path(str(path))['get_config']()


def _make_smoke(config: ml_collections.ConfigDict) -> None:
  """The same road with few steps on few clips; its scores mean nothing."""
  config.workdir = 'workdir/smoke'
  config.data.update({'train': 96, 'val': 16, 'test': 32})
  config.model.llm.update({'layers': 2, 'unroll': 2})
  config.model.video.update({'layers': 2, 'unroll': 2})
  # What a probe compiles at the end of each stage takes longer than the stage.
  config.eval.update({'per_domain': 4, 'rows': 16, 'probe_per_domain': 0})
  for name in config.stage_names:
    stage = config[name]
    stage.update({'steps': 12, 'checkpoint_steps': 4})
    for mix in stage.mixes.values():
      mix.rows = 4
  config.motion.rows = 8
  config.parity.update({'steps': 2, 'rows': 4, 'records': 24, 'prompts': 1})
  config.parity.max_new_tokens = 4
  config.audit.clips = 27
