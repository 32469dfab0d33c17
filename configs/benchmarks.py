"""What --task=eval asks, where the files of benchmarks are, and who judges.

A part of every preset, as `config.eval`; see vimonet_jax/suite.py, judging.py.

    --config.eval.benchmarks="('babel-qa', 'mvbench')"
    --config.eval.babel_qa.questions=DIR/questions.json ...
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Nothing but the data set's own benchmark; files are given when it runs."""
  return ml_collections.ConfigDict({
    # Names of suite.BENCHMARKS; empty for the data set's own.
    'benchmarks': (),
    # HumanML3D's index.csv, to leave out the motions of HumanAct12 as published
    # cases do; empty for all motions of the split.
    'humanml3d_captions': {'index': ''},
    # BERTScore of captions; downloads roberta-large (1.4 GB) when it is first
    # wanted. Needs pip install -e '.[bertscore]'.
    'bertscore': False,
    # Of VIMOS-Synth: which media are shown.
    'inputs': ('text', 'motion', 'video', 'both'),
    # How many draws of the noise of each of the `corruptions`.
    'noise_seeds': 1,
    # Change media of other benchmarks, too, where they are what is shown; noise
    # needs joints.
    'corrupt_all': False,
    # Items of a file about files of a folder; empty for those of VIMOS-Synth.
    'vimonet_bench': {'questions': '', 'media': ''},
    'babel_qa': {
      'questions': '',
      'motions': '',
      # For motions whose body does not show which axis is up.
      'up': '',
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
    # Other systems: (benchmark, name in the table, file of predictions) each.
    'systems': (),
    # A chat service that judges sentences, beside the rules; see llm_judge.
    'judge': {
      # dry_run: say what would be sent, and about what it costs. ask: do it.
      'mode': 'dry_run',
      # default, or paper: as published, prompt and counts.
      'prompt': 'default',
      'service': _service(max_tokens=64),
      # Models that judge the same answers beside it: (model, input_usd,
      # output_usd) each.
      'others': (),
    },
    # A chat service that answers without any media: what can be guessed.
    'text_baseline': {
      'mode': 'dry_run',
      'service': _service(max_tokens=256),
    },
  })  # fmt: skip


def _service(*, max_tokens: int) -> ml_collections.ConfigDict:
  """Fields of chat_api.Service; without a model nobody is asked."""
  return ml_collections.ConfigDict({
    'base_url': 'https://api.openai.com/v1',
    # A dated one: others are another model next month.
    'model': '',
    # US dollars a million tokens; negative: not known, and nobody is asked.
    'input_usd': -1.0,
    'output_usd': -1.0,
    # The most that may ever be spent by a work folder.
    'budget_usd': 5.0,
    # The environment variable that holds the key.
    'key_variable': 'OPENAI_API_KEY',
    # Negative: left to the service; some models take no other.
    'temperature': 0.0,
    'max_tokens': max_tokens,
    'max_tokens_field': 'max_tokens',
    'max_at_once': 8,
    'requests_per_minute': 300.0,
    'takes_schemas': True,
  })  # fmt: skip
