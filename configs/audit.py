"""What --task=audit looks at, and when it calls a difference one.

A part of every preset, as `config.audit`; see vimonet_jax/auditing.py.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Measured on the tiny preset: see the README."""
  return ml_collections.ConfigDict({
    # The chance to name any difference where there is none, of all comparisons
    # together.
    'level': 0.05,
    # Clips of people with other builds, gaits and skins, where the data are
    # VIMOS-Synth; each has four twins. 81 have every person once.
    'clips': 162,
    # Conversations of each split whose words are counted, evenly taken.
    'conversations': 10_000,
    # 'size=large': a third of the right answers about that group are replaced
    # by wrong ones, to see whether so many answers would show it.
    'drill': '',
  })  # fmt: skip
