"""The pipeline on your own motions: a folder in HumanML3D's layout.

    python -m vimonet_jax.main --config=configs/mocap.py --config.data.path=DIR

DIR has `joints.npz`, `joints/`, `new_joints/` or `new_joint_vecs/`, `texts/`
and train.txt, val.txt, test.txt. There is no video, so there is no stage
`video`; the decoder learns from the captions' own words, the translator to
describe what moves. Captions of the held-out clips are scored beside those of
a random training clip and of the one that moves most alike.

Measured on 245 clips of CMU motion capture (190 train, 24 test; two Xeon cores,
2026-11-25, 5 min 51 s), times 100:

    model            BLEU-4 41.4   ROUGE-L 61.8   CIDEr 353
    nearest clip            38.1           60.8         381
    random caption           0.0           23.0           6
"""

import pathlib
import runpy

import ml_collections


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The tiny preset with motion only, or its short version for `smoke`."""
  if arg not in ('', 'smoke'):
    raise ValueError(
      f"Expected configs/mocap.py or configs/mocap.py:smoke, found ':{arg}'."
    )
  # From wherever the program is started.
  tiny = runpy.run_path(str(pathlib.Path(__file__).with_name('tiny.py')))
  config = tiny['get_config'](arg)
  config.workdir = 'workdir/mocap' + ('-smoke' if arg else '')
  config.data = ml_collections.ConfigDict({
    'name': 'folder',
    'path': '',
    'source': 'mocap',
    'licence': 'unknown',
    # HumanML3D has 40 to 199 frames; small folders cannot spare short clips.
    'min_frames': 20,
    'image_size': 48,
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
    # Clips are few: each comes in a mirror, in part, or seen badly, too.
    'augment': {'mirror': 0.5, 'least_share': 0.7, 'noise_share': 0.5},
  })  # fmt: skip
  config.stage_names = ('motion', 'language', 'align', 'instruct')
  # One window that even the shortest clip fills.
  config.motion.window = 16
  config.motion.rows = 64 if arg != 'smoke' else 8
  # More steps know the training clips by heart and describe others worse.
  for name, steps in (('language', 400), ('align', 150), ('instruct', 150)):
    stage = config[name]
    stage.steps = min(stage.steps, steps)
    stage.mixes = ml_collections.ConfigDict({
      'motion': {
        'media': ('motion',),
        'weight': 1.0,
        'rows': 24 if arg != 'smoke' else 4,
        'length': 128,
        'caption_share': 1.0,
        'max_turns': 1,
      },
    })  # fmt: skip
  config.instruct.lora.dropout = 0.1
  config.text.corpus = 600
  config.eval.max_new_tokens = 48
  return config
