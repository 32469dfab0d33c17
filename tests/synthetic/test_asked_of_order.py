"""Which answers the wording of a question about the order leaves."""

import numpy as np
import pytest

from vimonet_jax.synthetic import actions, asked_of_order, language, world

TURN, CLAP = actions.Action('turn', 'left'), actions.Action('clap', count=2)
KINDS = ('first', 'last', 'after', 'before')


def _ask(kind, program, seed=0):
  rng = np.random.default_rng(seed)
  return getattr(asked_of_order, kind)(program, rng)


def test_choices_are_what_the_wording_allows():
  choices = _ask('after', (TURN, CLAP)).turn.choices
  assert not {'turning', 'standing', 'getting'} & set(choices)
  assert {'clapping', 'sitting', 'walking'} < set(choices)
  choices = _ask('before', (TURN, CLAP)).turn.choices
  assert not {'clapping', 'sitting', 'lying', 'falling'} & set(choices)
  assert {'turning', 'standing', 'getting'} < set(choices)


@pytest.mark.parametrize('kind', KINDS)
def test_every_choice_can_be_the_answer(kind):
  named = {gerund: verb for verb, gerund in language.GERUNDS.items()}
  facts = set()
  for seed in range(3000):
    program = world.draw_program(np.random.default_rng(seed), 'train')
    asked = _ask(kind, program, seed)
    if asked:
      assert named[asked.turn.fact] in {action.verb for action in program}
      assert asked.turn.fact in asked.turn.choices
      facts.add(asked.turn.fact)
      # Nobody does a thing twice, so what is named is no answer.
      for action in program:
        if language.phrase(action.verb) in asked.turn.question:
          assert language.GERUNDS[action.verb] not in asked.turn.choices
  other = {'first': 'last', 'before': 'last'}.get(kind, 'first')
  assert facts == {
    gerund
    for verb, gerund in language.GERUNDS.items()
    if actions.VERBS[verb].place != other
  }


@pytest.mark.parametrize('kind', KINDS)
def test_one_action_has_no_order(kind):
  assert not any(_ask(kind, (CLAP,), seed) for seed in range(20))
