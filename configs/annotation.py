"""What --task=annotate asks a paid chat service about, and within which limits.

A part of every preset, as `config.annotate`, since the model does not matter
there; see vimonet_jax/annotate.py.

    --config.annotate.path=DIR --config.annotate.captions.model=MODEL ...
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Nothing is asked until a folder, models and their prices are named."""
  return ml_collections.ConfigDict({
    # The folder of the clips; see vimonet_jax/annotation/clips.py.
    'path': '',
    # dry_run: print what would be asked, and about what it costs. ask: do it.
    # batch: read batch/*.out.jsonl, and write *.in.jsonl of what is left.
    'mode': 'dry_run',
    # Of clips for which clips.jsonl names none.
    'licence': 'unknown',
    # Which frames of a video are shown (MotionLLM's step), pixels of their
    # longer side, and how many there may be of a clip.
    'every': 15,
    'side': 512,
    'max_images': 40,
    # Who is asked; see chat_messages.Service. The key is in the environment.
    'service': {
      'base_url': 'https://api.openai.com/v1',
      'key_variable': 'OPENAI_API_KEY',
      'budget_usd': 5.0,
      'max_at_once': 8,
      'requests_per_minute': 300.0,
      'timeout_s': 120.0,
      'tries': 3,
      # Negative: left to the service; reasoning models take no other.
      'temperature': 0.0,
      'max_tokens_field': 'max_tokens',
    },
    # The model of each step, and what a million of its tokens cost; negative:
    # not known. Images are sent at low detail, where gpt-4o counts 85 tokens;
    # 1445 is more than most models count.
    'captions': {
      'model': '',
      'input_usd': -1.0,
      'output_usd': -1.0,
      'max_tokens': 256,
      'image_tokens': 1445,
    },
    'questions': {
      'model': '',
      'input_usd': -1.0,
      'output_usd': -1.0,
      'max_tokens': 2048,
    },
  })  # fmt: skip
