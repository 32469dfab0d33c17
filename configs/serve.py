"""What every preset has as `config.serve`, of --task=serve.

See vimonet_jax/apps/serve.py for what each of them means.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """On this machine only, without keys."""
  return ml_collections.ConfigDict({
    'host': '127.0.0.1',
    'port': 8000,
    # By which clients ask for the model; the workdir's name if not.
    'name': '',
    # A line for each API key; if not, those in VIMONET_API_KEYS.
    'keys_file': '',
    # Lets everybody in without a key, also from other machines.
    'is_open': False,
    # Answers that are written at the same time, and tokens of each, its
    # question and clips included.
    'max_rows': 64,
    'max_length': 4096,
    # Who comes when so many wait is told to come again later.
    'max_waiting': 1024,
    # Seconds, once it is told to stop, until those who do not read their
    # answers are left alone.
    'stop_s': 600.0,
    # A system message of a client's, for which the model has no place: 'refuse'
    # it or 'leave_out' and say so beside the answer.
    'system_messages': 'refuse',
    # The largest `n`.
    'max_answers': 8,
    # MiB of one request, in which files are a third longer than they are, and
    # of all that are being read; seconds that one may take to arrive. How long
    # files may be says configs/uploads.py.
    'max_body_mb': 96,
    'max_held_mb': 512,
    'receive_s': 60.0,
  })  # fmt: skip
