"""Whether answers carry a mark, and what --task=detect looks for.

A part of every preset, as `config.watermark`; see audit/watermark.py.

    --config.watermark.key_file=mark.key
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Off: no key, no mark."""
  return ml_collections.ConfigDict({
    # The file with the secret, e.g. of `openssl rand -hex 32`, readable by who
    # answers and who looks. A file and not a setting, since settings are kept
    # beside results, and not a variable of the environment, which every program
    # that is started inherits.
    'key_file': '',
    # Share of the vocabulary that is green, what is added to the scores of
    # green tokens for each nat of entropy, and how many tokens before it a
    # token's colour depends on; who looks needs the same gamma and width. For
    # the tiny preset, which is seldom uncertain and where wider marks were
    # found no more often; see README.md.
    'gamma': 0.5,
    'delta': 8.0,
    'width': 1,
  })  # fmt: skip
