"""What --task=eval asks, and where the files of benchmarks are.

A part of every preset, as `config.eval`; see vimonet_jax/suite.py.

    --config.eval.benchmarks="('babel-qa', 'mvbench')"
    --config.eval.babel_qa.questions=DIR/questions.json ...
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Nothing but the data set's own benchmark; files are given when it runs."""
  return ml_collections.ConfigDict({
    # Names of suite.BENCHMARKS; empty for the data set's own.
    'benchmarks': (),
    # Items of a file about files of a folder; empty for those of VIMOS-Synth.
    'vimonet_bench': {'questions': '', 'media': ''},
    'babel_qa': {
      'questions': '',
      'motions': '',
      'vocabulary': '',
      'split': 'test',
      # Where `questions` has those of all splits.
      'split_ids': '',
      # Questions of train, for the majority row.
      'train': '',
    },
    'activitynet_qa': {
      'questions': '',
      'answers': '',
      'videos': '',
      'split': 'test',
    },
    'mvbench': {
      'questions': '',
      'videos': '',
      # Every option comes first once, too.
      'rotate': True,
      # The likeliest letter, too.
      'choose': True,
    },
  })  # fmt: skip
