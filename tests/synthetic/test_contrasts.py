"""Questions whose answers are balanced by foils, in every split."""

import collections

import numpy as np
import pytest

from vimonet_jax.synthetic import actions, contrasts, language, world

Action = actions.Action


def _draw(n, split, seed=0):
  for i in range(n):
    rng = np.random.default_rng((seed, i))
    program, *foils = (world.draw_program(rng, split) for _ in range(3))
    yield program, contrasts.draw(program, foils, rng)


@pytest.fixture(name='facts', scope='module', params=world.SPLITS)
def _facts(request):
  """Kind -> verb, where one is named -> answers."""
  facts = collections.defaultdict(lambda: collections.defaultdict(list))
  for _, asked in _draw(8000, request.param):
    for question in asked:
      verbs = [
        verb
        for verb in actions.VERBS
        if f'{language.phrase(verb)}' in question.turn.question
        # 'standing, sitting or lying' are postures.
        and question.turn.kind == 'presence'
      ]
      facts[question.turn.kind][''.join(verbs)].append(question.turn.fact)
  return facts


def _shares(answers):
  counts = collections.Counter(answers)
  return {answer: n / counts.total() for answer, n in counts.items()}


@pytest.mark.parametrize(
  ('kind', 'choices'),
  [
    ('presence', ('yes', 'no')),
    ('help', ('yes', 'no')),
    ('posture', ('standing', 'sitting', 'lying')),
  ],
)
def test_all_answers_are_equally_likely(facts, kind, choices):
  answers = [fact for found in facts[kind].values() for fact in found]
  assert len(answers) > 400
  shares = _shares(answers)
  for choice in choices:
    assert shares[choice] == pytest.approx(
      1 / len(choices), abs=1.7 / np.sqrt(len(answers))
    )


def test_every_verb_is_denied_as_often_as_it_is_there(facts):
  assert facts['presence'].keys() == actions.VERBS.keys()
  for verb, answers in facts['presence'].items():
    # 1.7 is 3.4 standard deviations of a fair coin.
    assert _shares(answers).get('yes', 0) == pytest.approx(
      0.5, abs=1.7 / np.sqrt(len(answers))
    ), verb


@pytest.mark.parametrize(
  ('verb', 'there'),
  [
    ('jump', Action('hop', 'left')),
    ('hop', Action('jump', count=1)),
    ('lie', Action('fall', direction='left')),
    ('lie', Action('getup')),
    ('raise', Action('wave', 'left')),
    ('turn', Action('spin', 'left')),
    ('getup', Action('rise')),
    ('rise', Action('getup')),
    ('sit', Action('lie')),
    *[('walk', Action(v, s)) for v, s in (
      ('run', ''), ('march', ''), ('stumble', ''), ('limp', 'left'))],
  ],
)  # fmt: skip
def test_what_a_clip_could_be_said_to_show_is_not_denied(verb, there):
  bend = Action('bend')
  assert not contrasts.is_denied(verb, (bend, there))
  assert contrasts.is_denied(verb, (Action('clap', count=1),))
  for seed in range(30):
    rng = np.random.default_rng(seed)
    foil = (Action(verb, *['left'] * bool(actions.VERBS[verb].sides)),)
    asked = contrasts.presence((there,), foil, rng)
    assert not asked or asked.turn.fact == 'yes'


def test_presence_is_true_of_the_program():
  for program, asked in _draw(1000, 'train'):
    phrases = [language.phrase(action.verb) for action in program]
    for question in asked:
      if question.turn.kind == 'presence':
        is_there = any(phrase in question.turn.question for phrase in phrases)
        assert question.turn.fact == ('yes' if is_there else 'no')


def test_they_go_together():
  for _, asked in _draw(1000, 'train'):
    assert len({question.turn.domain for question in asked}) == len(asked)
    for one in asked:
      assert all(one.goes_with(other) for other in asked if other is not one)
