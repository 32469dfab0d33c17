"""Who signs outputs, what users agree to, what is written down, what is seen.

A part of every preset, as `config.provenance`, `config.policy`, `config.log`
and `config.privacy`; see vimonet_jax/audit/.

    --config.provenance.key_file=publisher --config.privacy.motion_only=true
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Nobody signs, the policy is shown and not asked for, nothing is logged."""
  return ml_collections.ConfigDict({
    # A key of ssh-keygen's, or the .pub of one that an agent has. Empty: what
    # the environment's VIMONET_SIGNING_KEY names, if anything.
    'provenance': {'key_file': ''},
    # An own text in place of vimonet_jax/audit/policy.py's, and whether nothing
    # is answered to who has not accepted it.
    'policy': {'file': '', 'required': False},
    # Of --task=serve and demo: what was asked and what came of it, a line each.
    # Without `texts` of questions and answers it has the lengths, without
    # `addresses` nothing of where they came from.
    'log': {
      'file': '',
      'secret_file': '',
      'texts': False,
      'addresses': False,
    },
    # Refuse video that is given to ask about, before anything of it is read.
    # Datasets, to train on or to evaluate with, keep theirs.
    'privacy': {'motion_only': False},
  })  # fmt: skip
