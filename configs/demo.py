"""Where --task=demo opens its page, and how much a visitor may ask of it.

A part of every preset, as `config.demo`; see vimonet_jax/apps/demo.py. How long
files may be says configs/uploads.py.

    --config.demo.port=8080 --config.demo.password_file=FILE
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict({
    # Who may connect: this machine alone, or 0.0.0.0 for all that reach it.
    'host': '127.0.0.1',
    'port': 7860,
    # A file whose first line is the password; '' asks for none.
    'password_file': '',
    # Held-out clips to begin with.
    'examples': 6,
    # Questions that are answered at the same time, and that may wait.
    'rows': 8,
    'waiting': 64,
    'max_new_tokens': 128,
  })  # fmt: skip
