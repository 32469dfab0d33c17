import collections

import numpy as np
import pytest

from vimonet_jax.data import text
from vimonet_jax.synthetic import actions, language, questions, world
from vimonet_jax.synthetic import scene as scenes

WAVE = actions.Action('wave', side='left')
JUMP = actions.Action('jump', count=2)
FALL = actions.Action('fall', direction='backward')


def _draw(n, seed=0):
  """Programs and the questions about them, as the world draws them."""
  for i in range(n):
    rng = np.random.default_rng((seed, i))
    program = world.draw_program(rng, 'train')
    scene = world.draw_scene(rng, 'train')
    absent = next(
      verb
      for verb in rng.permutation(list(actions.VERBS))
      if verb not in {action.verb for action in program}
    )
    yield program, scene, questions.draw(program, scene, absent, rng)


def test_every_fact_stands_in_its_answer_and_among_the_choices():
  for _, _, turns in _draw(300):
    for turn in turns:
      for part in turn.fact.split('; '):
        assert part in turn.choices
        if turn.kind not in ('help', 'presence'):
          assert part in turn.answer
      assert turn.answer.endswith('.')
      assert turn.question.endswith('?')


def test_an_answer_names_no_other_choice():
  for _, _, turns in _draw(300):
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
  known = {
    'sequentiality/first': 'waving', 'sequentiality/last': 'falling',
    'direction/named': 'backward', 'direction/only': 'backward',
    'body_part/named': 'left arm', 'body_part/first': 'left arm',
    'reasoning/count': 'twice', 'reasoning/posture': 'floor',
    'reasoning/help': 'yes', 'people/people': 'two',
    'place/place': scene.place, 'object/object': scene.object,
    'colour/colour': scene.colour,
    'joint/place and first action': f'{scene.place}; waving',
    'joint/object and first limb': f'{scene.object}; left arm',
    'joint/colour and direction': f'{scene.colour}; backward',
  }  # fmt: skip
  seen = set()
  for _ in range(300):
    for turn in questions.draw(program, scene, 'kick', rng):
      name = f'{turn.domain}/{turn.kind}'
      if turn.kind in ('after', 'before'):
        i = [language.phrase(a.verb) in turn.question for a in program].index(1)
        other = program[i + (1 if turn.kind == 'after' else -1)]
        assert turn.fact == language.GERUNDS[other.verb]
      elif turn.kind == 'presence':
        assert (turn.fact == 'no') == ('kicking' in turn.question)
      elif name in known:
        seen.add(name)
        assert turn.fact == known[name], turn
  assert seen == set(known)


def test_turns_of_a_conversation_do_not_help_each_other():
  """No fact that one turn tells or answers is what another one asks."""
  for program, scene, turns in _draw(200):
    del scene
    for turn in turns:
      others = [t for t in turns if t is not turn]
      said = ' '.join(f'{t.question} {t.answer}' for t in others)
      if turn.domain == 'sequentiality':
        assert turn.fact not in said, (program, turns)
      if turn.domain in ('place', 'object', 'colour'):
        assert turn.fact not in said.replace('?', ' ').split(), turns


@pytest.mark.parametrize('kind', ['presence', 'help'])
def test_yes_and_no_are_equally_likely(kind):
  counts = collections.Counter(
    turn.fact
    for _, _, turns in _draw(4000)
    for turn in turns
    if turn.kind == kind
  )
  share = counts['yes'] / counts.total()
  assert share == pytest.approx(0.5, abs=0.06)


def test_a_reader_of_questions_alone_gains_little():
  """The most frequent training answer of each question's exact wording."""
  answers = collections.defaultdict(collections.Counter)
  for _, _, turns in _draw(4000):
    for turn in turns:
      answers[turn.question][turn.fact] += 1
  hits = collections.defaultdict(list)
  for _, _, turns in _draw(1500, seed=9):
    for turn in turns:
      if turn.question in answers:
        guess = answers[turn.question].most_common(1)[0][0]
        hits[turn.domain].append(guess == turn.fact)
  accuracy = {domain: np.mean(hit) for domain, hit in hits.items()}
  assert np.mean(list(accuracy.values())) < 0.33
  assert accuracy['sequentiality'] < 0.15
  assert accuracy['place'] < 0.2
  assert accuracy['hallucination'] < 0.56


def test_words_in_place_of_motion_hold_every_fact_in_order():
  rng = np.random.default_rng(2)
  places = language.motion_words((WAVE, JUMP), (3, 8), rng).split()
  assert len(places) == 3 + 8
  facts = [set(place.split('+')) for place in places]
  assert set.union(*facts[:3]) == {'waving', 'left', 'arm'}
  assert set.union(*facts[3:]) == {'jumping', 'twice', 'both', 'legs'}
  assert len(set(places[3:])) > 1  # Not every place says everything.


@pytest.mark.parametrize('verb', actions.VERBS)
def test_one_place_has_room_for_all_words_of_an_action(verb):
  spec = actions.VERBS[verb]
  action = actions.Action(
    verb,
    side='left' if spec.sides else '',
    direction='forward' if spec.directions else '',
    count=2 if spec.counts else 0,
    speed='slowly' if spec.speeds else '',
  )
  facts = {
    language.GERUNDS[verb],
    *language.limb(action).split(),
    *language.direction(action).split(),
    *(['twice'] if spec.counts else []),
    *(['slowly'] if spec.speeds else []),
  }
  assert len(facts) <= 1 + text.MORE_WORDS
  for seed in range(20):
    rng = np.random.default_rng(seed)
    place = language.motion_words((action,), (1,), rng)
    assert sorted(place.split('+')) == sorted(facts)


def test_words_in_place_of_a_video_leave_out_nothing():
  rng = np.random.default_rng(4)
  for _ in range(50):
    scene = world.draw_scene(rng, 'train')
    number = language.NUMBERS[scene.people - 1]
    facts = {scene.place, scene.object, scene.colour, number}
    for length in (1, 6):
      places = language.video_words(scene, length, rng).split(' ')
      assert len(places) == length
      assert {word for place in places for word in place.split('+')} == facts


def test_captions_are_english():
  rng = np.random.default_rng(3)
  assert language.clause(WAVE, rng) == 'waving with the left arm'
  assert language.clause(actions.Action('raise', 'right'), rng) == (
    'raising the right arm'
  )
  assert language.clause(FALL, rng) == 'falling backward'
  assert language.clause(actions.Action('turn', 'left'), rng) == (
    'turning to the left'
  )
