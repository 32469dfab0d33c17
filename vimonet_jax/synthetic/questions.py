"""Which questions about a program of actions in a scene make a conversation.

A question carries the facts that its answer gives and those that its wording
gives away (`question.py`); two questions go together only when neither helps
with the other's answer.
"""

from collections.abc import Sequence

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.synthetic import (
  asked_of_both,
  asked_of_motion,
  asked_of_order,
  asked_of_video,
  contrasts,
  question,
)
from vimonet_jax.synthetic import scene as scenes

# The order of actions is the hardest thing to read and its questions clash with
# most others, so it gets two draws; those that name a verb clash the most.
_ORDER = (
  asked_of_order.first,
  asked_of_order.last,
  *(asked_of_order.after, asked_of_order.before) * 2,
)
_MANNER = (asked_of_motion.count, asked_of_motion.speed)
# A verb that is named leaves two answers; such questions stay the minority.
_OPEN_OR_NAMED = (
  (asked_of_motion.only_direction, asked_of_motion.named_direction),
  (asked_of_motion.placed_limb, asked_of_motion.named_limb),
)
_NAMED_SHARE = 0.15
# Of the conversations.
_JOINT_SHARE = 0.35


def draw(
  program: question.Program,
  foils: Sequence[question.Program],
  scene: scenes.Scene,
  rng: np.random.Generator,
) -> tuple[records.Turn, ...]:
  """Questions of all domains that do not give each other's answers away.

  Args:
    program: the actions, no verb twice.
    foils: two other programs, drawn as this one was; see `contrasts.py`.
    scene: what the video shows.
    rng: draws kinds, wordings and order.

  Returns:
    At most one turn a domain, two of sequentiality. Any subset in any order
    makes a conversation in which no turn helps with another's answer.
  """
  kept = contrasts.draw(program, foils, rng)
  both, rare = [], []
  if rng.random() < _JOINT_SHARE:
    both.append(asked_of_both.draw(program, scene, rng))
  for kinds in _OPEN_OR_NAMED:
    # Settled before either is made: what is left out of the open ones to
    # balance them must not turn up among the named ones.
    rare.append(kinds[rng.random() < _NAMED_SHARE](program, rng))
  common = [_any(_ORDER, program, rng), _any(_ORDER, program, rng)]
  if not any(asked.turn.domain == 'reasoning' for asked in kept):
    common.append(_any(_MANNER, program, rng))
  view = [kind(scene, rng) for kind in asked_of_video.KINDS]
  # Whoever comes first stays, in random order within a group. Joint questions
  # are about the same verbs as others, so they come early but not always; few
  # programs have a limb or a direction to ask for, so these come first in every
  # other conversation; what the video shows has the fewest clashes.
  if rng.random() < 0.5:
    groups = (both, rare, common, view)
  else:
    groups = (both, rare + common, view)
  for group in groups:
    made = [asked for asked in group if asked]
    for i in rng.permutation(len(made)):
      if all(made[i].goes_with(other) for other in kept):
        kept.append(made[i])
  return tuple(asked.turn for asked in kept)


def _any(kinds, program: question.Program, rng) -> question.Question | None:
  """One of the kinds that have an answer."""
  made = [asked for kind in kinds if (asked := kind(program, rng))]
  return made[int(rng.integers(len(made)))] if made else None
