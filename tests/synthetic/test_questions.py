"""Which questions are asked, and what they give away to a mere reader."""

import collections

import numpy as np
import pytest

from vimonet_jax.synthetic import actions, language, questions, world
from vimonet_jax.synthetic import scene as scenes

WORLD = world.World()
WAVE = actions.Action('wave', side='left')
JUMP = actions.Action('jump', count=2)
FALL = actions.Action('fall', direction='backward')


def _draw(n, split='train', seed=0):
  """Programs and the questions about them, as the world draws them."""
  for i in range(n):
    rng = np.random.default_rng((seed, i))
    program, *foils = (world.draw_program(rng, split) for _ in range(3))
    scene = world.draw_scene(rng, split)
    yield program, scene, questions.draw(program, foils, scene, rng)


@pytest.fixture(name='asked', scope='module')
def _asked():
  """Split -> kind -> turns, of other conversations than the test fits on."""
  asked = {}
  for split in world.SPLITS:
    kinds = collections.defaultdict(list)
    for _, _, turns in _draw(4000, split, seed=9):
      for turn in turns:
        kinds[f'{turn.domain}/{turn.kind}'].append(turn)
    asked[split] = kinds
  return asked


def test_every_fact_stands_in_its_answer_and_among_the_choices():
  for _, _, turns in _draw(600):
    for turn in turns:
      for part in turn.fact.split('; '):
        assert part in turn.choices
        if turn.kind not in ('help', 'presence'):
          assert part in turn.answer
      assert turn.answer.endswith('.')
      assert turn.question.endswith('?')


def test_an_answer_names_no_other_choice():
  for _, _, turns in _draw(600):
    for turn in turns:
      words = turn.answer.lower().rstrip('.').replace(',', '').split()
      named = {c for c in turn.choices if ' ' not in c and c in words}
      facts = {f for f in turn.fact.split('; ') if ' ' not in f}
      assert named == facts, turn


def test_answers_are_true_of_the_program_and_the_scene():
  rng = np.random.default_rng(1)
  scene = scenes.Scene(*(next(iter(x)) for x in (
    scenes.PLACES, scenes.OBJECTS, scenes.COLOURS)), people=2)  # fmt: skip
  program = (WAVE, JUMP, FALL)
  kick, sit = actions.Action('kick', 'left'), actions.Action('sit')
  known = {
    'sequentiality/first': 'waving', 'sequentiality/last': 'falling',
    'direction/named': 'backward', 'direction/only': 'backward',
    'body_part/named': 'left arm', 'body_part/first': 'left arm',
    'reasoning/count': 'twice', 'reasoning/posture': 'lying',
    'reasoning/help': 'yes', 'people/people': 'two',
    'place/place': scene.place, 'object/object': scene.object,
    'colour/colour': scene.colour,
    'joint/place and first action': f'{scene.place}; waving',
    'joint/place and last action': f'{scene.place}; falling',
    'joint/object and first limb': f'{scene.object}; left arm',
    'joint/colour and direction': f'{scene.colour}; backward',
  }  # fmt: skip
  seen = set()
  for _ in range(400):
    # Posture is asked beside two other postures, help beside the unhurt.
    foils = ((kick,), (sit if rng.random() < 0.5 else FALL,))
    for turn in questions.draw(program, foils, scene, rng):
      name = f'{turn.domain}/{turn.kind}'
      if turn.kind in ('after', 'before'):
        i = [language.phrase(a.verb) in turn.question for a in program].index(1)
        other = program[i + (1 if turn.kind == 'after' else -1)]
        assert turn.fact == language.GERUNDS[other.verb]
      elif turn.kind == 'presence':
        assert (turn.fact == 'no') == ('kicking' in turn.question)
      else:
        seen.add(name)
        assert turn.fact == known[name], turn
  assert seen == set(known)


def test_turns_of_a_conversation_do_not_help_each_other():
  """No fact that one turn tells or answers is what another one asks."""
  phrases = {
    gerund: language.phrase(verb) for verb, gerund in language.GERUNDS.items()
  }
  for program, _, turns in _draw(400):
    for turn in turns:
      others = [t for t in turns if t is not turn]
      said = ' '.join(f'{t.question} {t.answer}' for t in others)
      if turn.domain == 'sequentiality':
        # Whole phrases: 'standing' is a posture, 'standing up' an action.
        assert phrases[turn.fact] not in said, (program, turns)
      if turn.domain in ('place', 'object', 'colour'):
        assert turn.fact not in said.replace('?', ' ').split(), turns
      if turn.kind == 'help' and turn.fact == 'yes':
        assert not any(
          word in said for word in ('limping', 'stumbling', 'falling')
        ), turns
      if turn.kind == 'only' and turn.fact == 'forward':
        assert 'running' not in said, turns


def test_a_verb_that_is_named_is_the_minority(asked):
  for domain in ('direction', 'body_part'):
    for split in world.SPLITS:
      sizes = {
        kind: len(turns)
        for kind, turns in asked[split].items()
        if kind.startswith(domain)
      }
      assert sizes[f'{domain}/named'] < 0.4 * sum(sizes.values())


def test_sides_are_asked_for_and_not_moves_of_a_turn():
  for program, _, turns in _draw(3000):
    verbs = {action.verb for action in program}
    for turn in turns:
      if turn.kind in ('only', 'colour and direction'):
        assert not verbs & {'turn', 'spin'}
      elif turn.domain == 'direction' and 'turning' in turn.question:
        assert 'side' in turn.question or 'to the left or' in turn.question
        assert turn.choices == ('left', 'right')


@pytest.mark.parametrize('split', world.SPLITS)
def test_a_reader_of_questions_alone_gains_nothing(asked, split):
  """The most frequent training answer of each question's exact wording."""
  answers = collections.defaultdict(collections.Counter)
  for _, _, turns in _draw(4000):
    for turn in turns:
      answers[turn.question][turn.fact] += 1
  assert len(asked[split]) == 22
  for kind, turns in asked[split].items():
    guesses = [
      max(answers[turn.question], key=answers[turn.question].get, default='')
      for turn in turns
    ]
    # Nearly all wordings were there in training.
    assert np.mean([guess == '' for guess in guesses]) < 0.05, kind
    right = [
      guess == turn.fact for guess, turn in zip(guesses, turns, strict=True)
    ]
    chance = np.mean([1 / len(turn.choices) for turn in turns])
    assert np.mean(right) <= chance + 0.08, kind


@pytest.mark.parametrize('split', world.SPLITS)
@pytest.mark.parametrize(
  'kind', ['direction/only', 'body_part/first', 'body_part/last',
           'reasoning/count', 'reasoning/posture', 'people/people',
           'place/place', 'object/object', 'colour/colour'],
)  # fmt: skip
def test_answers_of_a_kind_come_alike(asked, split, kind):
  turns = asked[split][kind]
  counts = collections.Counter(turn.fact for turn in turns)
  (choices,) = {turn.choices for turn in turns}
  assert counts.keys() == set(choices)
  even = len(turns) / len(choices)
  # A quarter for what is balanced by thinning only, and three deviations.
  margin = 0.25 * even + 3 * np.sqrt(even)
  assert max(counts.values()) < even + margin, counts
  assert min(counts.values()) > even - margin, counts
