"""What each part of the tiny preset is worth: the paper's ablations.

    python -m vimonet_jax.main --config=configs/studies/ablation.py
    python -m vimonet_jax.main --config=configs/studies/ablation.py:smoke

Every run takes as many steps of as many rows, with the same seeds and decoding,
and is asked the same held-out questions. (Rows of one medium are shorter than
rows of both: as in the preset, they hold fewer tokens.)

Runs with the same seed share what they have in common: the dataset and the
stages before the first that differs. So `motion only` has the motion encoder of
`full`, and its decoder, which has read words in place of both media; it has met
no video, and no question about one later. A finished work folder of
configs/tiny.py gives its data, and its stages to the runs of its seed:
--config.study.start_from=workdir/tiny.

`unpaired` shows motions of one half of the clips and videos of the other half,
`paired` both of the first half, each alone: as many clips of each kind, so only
whether they are the same clips differs. The video tower is that of `full`.

Three seeds, right answers in percent of 1,200 held-out questions each, on two
EPYC cores (Zen 5) that others used as well, 2026-11-30, 1 h 21 min:

                             all   of motion   of video   of both
    full                    86.8        82.9       90.8      90.3
    no motion input         53.6        32.4       90.5      11.4
    no video input          49.7        83.9       16.3      11.7
    motion only             49.1        90.3        9.7       0.6
    video only              41.7        10.2       91.5       0.3
    no instruction tuning   73.3        64.7       87.3      60.8
    unpaired                77.1        75.1       89.7      36.9
    paired                  78.0        77.0       89.4      37.2

Both beat either alone, both are needed, and instruction tuning helps: these
hold (intervals of 5 points or less). That learning from video helps with motion
does not: shown motion, `full` answers 6.4 points less of what is asked about it
than who has learnt nothing else (95 %: 4.6 to 8.1). Whether motion helps with
video (-1.0, -2.3 to 0.1) and whether pairs teach more than others (with motion
1.9, 0.7 to 3.2; with video -0.1, -1.3 to 1.2) is not decided. Smoke took 5 min
54 s on two older EPYC cores, likewise.
"""

import pathlib
import runpy

import ml_collections


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The ablation of the tiny preset, or its short version for `smoke`."""
  if arg not in ('', 'smoke'):
    raise ValueError(
      'Expected configs/studies/ablation.py or configs/studies/ablation.py:'
      f"smoke, found ':{arg}'."
    )
  # From wherever the program is started.
  preset = pathlib.Path(__file__).parents[1] / 'tiny.py'
  config = runpy.run_path(str(preset))['get_config'](arg)
  config.task = 'study'
  config.workdir = 'workdir/ablation' + ('-smoke' if arg else '')
  # Nobody looks at the probes, and each compiles anew.
  config.eval.update({'corruptions': (), 'probe_per_domain': 0})
  config.study = ml_collections.ConfigDict({
    'name': 'Ablations',
    'seeds': (0, 1, 2) if not arg else (0,),
    'start_from': '',
    'runs': _runs(config),
    'rows': _ROWS,
    'claims': _CLAIMS,
    'notes': ('Smoke: too short to learn anything.',) if arg else (),
  })  # fmt: skip
  return config


def _runs(config):
  align = _alone(config, caption_share=config.align.mixes.motion.caption_share)
  instruct = _alone(config, caption_share=0.0)

  def shown(inputs, media, **parts):
    """Settings of runs whose rows have one medium each."""
    return (
      ('align.mixes', _mixes(align, media, parts)),
      ('instruct.mixes', _mixes(instruct, media, parts)),
      ('eval.inputs', inputs),
    )

  half = (0, 2)
  both = ('motion', 'video')
  alone = ('motion', 'video', 'both')
  without_video = tuple(x for x in config.stage_names if x != 'video')
  return (
    ('full', ()),
    (
      'motion-only',
      (
        *shown(('motion',), ('motion',)),
        ('stage_names', without_video),
      ),
    ),
    # With stage `motion`, whose weights it never sees, it begins as `full`.
    ('video-only', shown(('video',), ('video',))),
    (
      'no-instruct',
      (
        ('stage_names', tuple(config.stage_names[:-1])),
        ('eval.inputs', alone),
      ),
    ),
    ('unpaired', shown(alone, both, motion=half, video=(1, 2))),
    ('paired', shown(alone, both, motion=half, video=half)),
  )


def _alone(config, *, caption_share):
  """Rows of motion and rows of video, which come equally often."""
  return {
    medium: {
      **config.instruct.mixes[medium].to_dict(),
      'weight': 1.0,
      'caption_share': caption_share,
    }
    for medium in ('motion', 'video')
  }


def _mixes(mixes, media, parts):
  return {
    medium: mixes[medium] | ({'part': parts[medium]} if medium in parts else {})
    for medium in media
  }


def _row(label, run, input='both', against=''):
  return {'label': label, 'run': run, 'input': input, 'against': against}


_ROWS = (
  _row('full', 'full'),
  _row('no motion input', 'full', 'video', 'full'),
  _row('no video input', 'full', 'motion', 'full'),
  _row('question only', 'full', 'text', 'full'),
  _row('motion only', 'motion-only', 'motion', 'full'),
  _row('video only', 'video-only', 'video', 'full'),
  _row('no instruction tuning', 'no-instruct', 'both', 'full'),
  _row('full, shown motion', 'full', 'motion', 'motion only'),
  _row('full, shown video', 'full', 'video', 'video only'),
  _row('unpaired', 'unpaired'),
  _row('paired', 'paired', 'both', 'unpaired'),
  _row('unpaired, shown motion', 'unpaired', 'motion'),
  _row('paired, shown motion', 'paired', 'motion', 'unpaired, shown motion'),
  _row('unpaired, shown video', 'unpaired', 'video'),
  _row('paired, shown video', 'paired', 'video', 'unpaired, shown video'),
)
_CLAIMS = (
  {
    'says': 'Learning from both and seeing both beats either alone',
    'rows': ('motion only', 'video only'),
    'expects': 'lower',
  },
  {
    'says': 'Both inputs are needed when it is asked',
    'rows': ('no motion input', 'no video input'),
    'expects': 'lower',
  },
  {
    'says': 'Instruction tuning helps',
    'rows': ('no instruction tuning',),
    'expects': 'lower',
  },
  {
    'says': 'Learning from video as well helps with motion',
    'rows': ('full, shown motion',),
    'domain': 'of motion',
  },
  {
    'says': 'Learning from motion as well helps with video',
    'rows': ('full, shown video',),
    'domain': 'of video',
  },
  {
    'says': 'Motions and videos of the same clips teach more than of others',
    'rows': ('paired, shown motion', 'paired, shown video'),
  },
)
