"""Questions about a program of actions in a scene, with checkable answers.

A question carries the facts that its answer gives (`asks`) and those that its
wording gives away (`tells`); two questions go together in one conversation only
when neither helps with the other's answer.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.synthetic import actions, language
from vimonet_jax.synthetic import scene as scenes

# Where an action leaves the body; every other verb ends on the feet.
_POSTURES = {'sit': 'seat', 'lie': 'floor', 'fall': 'floor'}
POSTURES = ('feet', 'seat', 'floor')
_ACCIDENTS = ('fall', 'stumble', 'limp')


@dataclasses.dataclass(frozen=True)
class Question:
  """A turn with the facts that it asks for and those that it gives away."""

  turn: records.Turn
  asks: frozenset[str]
  tells: frozenset[str] = frozenset()

  def goes_with(self, other: 'Question') -> bool:
    """Whether neither question helps to answer the other."""
    return not (
      self.asks & (other.asks | other.tells) or other.asks & self.tells
    )


def _verb_facts(program: Sequence[actions.Action], i: int) -> frozenset[str]:
  verb = program[i].verb
  facts = {f'verb{i}', f'has {verb}'}
  return frozenset(facts | {'accident'} if verb in _ACCIDENTS else facts)


def _verb_choices() -> tuple[str, ...]:
  return tuple(language.GERUNDS.values())


# --- Questions about the motion ---------------------------------------------
#
# Each function makes one kind of question, or nothing where the program has no
# answer to it. A domain draws one of the kinds that apply.


def _first(program, rng):
  if len(program) < 2:
    return None
  return Question(
      records.Turn(
          language.pick(rng, ('What does the person do first?',
                      'Which action comes first?')),
          f'First the person is {language.phrase(program[0].verb)}.',
          'sequentiality', 'first', language.GERUNDS[program[0].verb], _verb_choices(),
      ),
      asks=_verb_facts(program, 0),
  )  # fmt: skip


def _last(program, rng):
  if len(program) < 2:
    return None
  last = len(program) - 1
  return Question(
      records.Turn(
          language.pick(rng, ('What does the person do last?',
                      'Which action comes last?')),
          f'At the end the person is {language.phrase(program[last].verb)}.',
          'sequentiality', 'last', language.GERUNDS[program[last].verb],
          _verb_choices(),
      ),
      asks=_verb_facts(program, last),
  )  # fmt: skip


def _after(program, rng):
  if len(program) < 2:
    return None
  i = int(rng.integers(len(program) - 1))
  known = language.phrase(program[i].verb)
  return Question(
      records.Turn(
          language.pick(rng, (f'What does the person do right after {known}?',
                      f'Which action comes after {known}?')),
          f'After that the person is {language.phrase(program[i + 1].verb)}.',
          'sequentiality', 'after', language.GERUNDS[program[i + 1].verb],
          _verb_choices(),
      ),
      asks=_verb_facts(program, i + 1),
      tells=_verb_facts(program, i),
  )  # fmt: skip


def _before(program, rng):
  if len(program) < 2:
    return None
  i = int(rng.integers(1, len(program)))
  known = language.phrase(program[i].verb)
  return Question(
      records.Turn(
          language.pick(rng, (f'What does the person do right before {known}?',
                      f'Which action comes before {known}?')),
          f'Before that the person is {language.phrase(program[i - 1].verb)}.',
          'sequentiality', 'before', language.GERUNDS[program[i - 1].verb],
          _verb_choices(),
      ),
      asks=_verb_facts(program, i - 1),
      tells=_verb_facts(program, i),
  )  # fmt: skip


def _named_direction(program, rng):
  moving = [i for i, action in enumerate(program) if language.direction(action)]
  if not moving:
    return None
  i = moving[int(rng.integers(len(moving)))]
  known, answer = (
    language.phrase(program[i].verb),
    language.direction(program[i]),
  )
  return Question(
      records.Turn(
          language.pick(rng, (f'In which direction is the person {known}?',
                      f'Which way is the person {known}?')),
          f'The person is {known} {language.to_phrase(program[i])}.',
          'direction', 'named', answer, language.DIRECTIONS,
      ),
      asks=frozenset({f'direction{i}'}),
      tells=_verb_facts(program, i),
  )  # fmt: skip


def _only_direction(program, rng):
  moving = [i for i, action in enumerate(program) if language.direction(action)]
  if len(moving) != 1:
    return None
  answer = language.direction(program[moving[0]])
  return Question(
      records.Turn(
          language.pick(rng, ('In which direction does the person move?',
                      'Which way does the person go?')),
          f'The direction is {answer}.',
          'direction', 'only', answer, language.DIRECTIONS,
      ),
      asks=frozenset({f'direction{moving[0]}'}),
  )  # fmt: skip


def _named_limb(program, rng):
  sided = [i for i, a in enumerate(program) if a.verb in language.SIDED_LIMBS]
  if not sided:
    return None
  i = sided[int(rng.integers(len(sided)))]
  known = language.phrase(program[i].verb)
  return Question(
      records.Turn(
          language.pick(rng, (f'Which limb does the person use for {known}?',
                      f'With which limb is the person {known}?')),
          f'It is the {language.limb(program[i])}.',
          'body_part', 'named', language.limb(program[i]), language.LIMBS,
      ),
      asks=frozenset({f'side{i}'}),
      tells=_verb_facts(program, i),
  )  # fmt: skip


def _placed_limb(program, rng):
  """The limb of the first or last action, which the question leaves open."""
  ends = [('first', 0), ('last', len(program) - 1)]
  ends = [(name, i) for name, i in ends if language.limb(program[i])]
  if not ends:
    return None
  name, i = ends[int(rng.integers(len(ends)))]
  return Question(
      records.Turn(
          language.pick(rng, (f'Which limb does the person use {name}?',
                      f'Which limb moves in the {name} action?')),
          f'It is the {language.limb(program[i])}.',
          'body_part', name, language.limb(program[i]), language.LIMBS,
      ),
      asks=_verb_facts(program, i) | {f'side{i}'},
  )  # fmt: skip


def _count(program, rng):
  counted = [i for i, action in enumerate(program) if action.count]
  if not counted:
    return None
  i = counted[int(rng.integers(len(counted)))]
  known = language.phrase(program[i].verb)
  return Question(
      records.Turn(
          language.pick(rng, (f'How many times is the person {known}?',
                      f'How often is the person {known}?')),
          f'The person is {known} {language.times(program[i].count)}.',
          'reasoning', 'count', language.NUMBERS[program[i].count - 1], language.NUMBERS,
      ),
      asks=frozenset({f'count{i}'}),
      tells=_verb_facts(program, i),
  )  # fmt: skip


def _speed(program, rng):
  timed = [i for i, action in enumerate(program) if action.speed]
  if not timed:
    return None
  i = timed[int(rng.integers(len(timed)))]
  known = language.phrase(program[i].verb)
  return Question(
      records.Turn(
          language.pick(rng, (f'How fast is the person {known}?',
                      f'Is the person {known} slowly or quickly?')),
          f'The person is {known} {program[i].speed}.',
          'reasoning', 'speed', program[i].speed, ('slowly', 'quickly'),
      ),
      asks=frozenset({f'speed{i}'}),
      tells=_verb_facts(program, i),
  )  # fmt: skip


def _posture(program, rng):
  """Where the body ends up; ends on the feet are thinned to a third."""
  last = len(program) - 1
  answer = _POSTURES.get(program[last].verb, 'feet')
  if answer == 'feet' and rng.random() > 0.15:
    return None
  if answer == 'floor' and rng.random() > 0.5:
    return None
  told = {
      'feet': 'on both feet', 'seat': 'on a seat', 'floor': 'on the floor',
  }[answer]  # fmt: skip
  return Question(
      records.Turn(
          language.pick(rng, ('Where does the person end up?',
                      'How does the clip end for the person?')),
          f'The person ends {told}.',
          'reasoning', 'posture', answer, POSTURES,
      ),
      asks=_verb_facts(program, last),
  )  # fmt: skip


def _help(program, rng):
  """Whether somebody should look after the person; both answers alike."""
  hurt = any(action.verb in _ACCIDENTS for action in program)
  if not hurt and rng.random() > 0.35:
    return None
  return Question(
      records.Turn(
          language.pick(rng, ('Does the person need help?',
                      'Should somebody check on the person?')),
          'Yes, the person needs help.' if hurt else 'No, the person is fine.',
          'reasoning', 'help', 'yes' if hurt else 'no', ('yes', 'no'),
      ),
      asks=frozenset({'accident'}),
  )  # fmt: skip


def _presence(program, absent, rng):
  """Whether an action happens at all: yes and no are equally likely."""
  if rng.random() < 0.5:
    i = int(rng.integers(len(program)))
    verb, fact = program[i].verb, 'yes'
    answer = f'Yes, the person is {language.phrase(verb)}.'
  else:
    verb, fact = absent, 'no'
    answer = f'No, the person is not {language.phrase(verb)}.'
  return Question(
      records.Turn(
          language.pick(rng, (f'Is the person {language.phrase(verb)} at any point?',
                      f'Does the clip show {language.phrase(verb)}?')),
          answer, 'hallucination', 'presence', fact, ('yes', 'no'),
      ),
      asks=frozenset({f'has {verb}'}),
      tells=frozenset({f'has {verb}'}),
  )  # fmt: skip


# One domain a row.
_MOTION_KINDS: tuple[tuple[Callable, ...], ...] = (
  (_first, _last, _after, _before),
  (_named_direction, _only_direction),
  (_named_limb, _placed_limb),
  (_count, _speed, _posture, _help),
)


# --- Questions about the video, and about both -------------------------------


def _place(scene, rng):
  return Question(
      records.Turn(
          language.pick(rng, ('Where is the person?', 'Which place is this?')),
          f'The place is the {scene.place}.',
          'place', 'place', scene.place, tuple(scenes.PLACES),
      ),
      asks=frozenset({'place'}),
  )  # fmt: skip


def _object(scene, rng):
  return Question(
      records.Turn(
          language.pick(rng, ('Which object is near the person?',
                      'What stands beside the person?')),
          f'The object is the {scene.object}.',
          'object', 'object', scene.object, tuple(scenes.OBJECTS),
      ),
      asks=frozenset({'object'}),
  )  # fmt: skip


def _colour(scene, rng):
  return Question(
      records.Turn(
          language.pick(rng, ('What colour is the shirt?',
                      'Which colour does the person wear?')),
          f'The shirt is {scene.colour}.',
          'colour', 'colour', scene.colour, tuple(scenes.COLOURS),
      ),
      asks=frozenset({'colour'}),
  )  # fmt: skip


def _people(scene, rng):
  number = language.NUMBERS[scene.people - 1]
  return Question(
      records.Turn(
          language.pick(rng, ('How many people are there?',
                      'How many people does the video show?')),
          f'The number of people is {number}.',
          'people', 'people', number, language.NUMBERS,
      ),
      asks=frozenset({'people'}),
  )  # fmt: skip


_VIDEO_KINDS = (_place, _object, _colour, _people)


def _joint(program, scene, rng):
  """A question whose answer has one half in each medium."""
  kinds = [0]
  if language.limb(program[0]):
    kinds.append(1)
  if sum(bool(language.direction(action)) for action in program) == 1:
    kinds.append(2)
  kind = kinds[int(rng.integers(len(kinds)))]
  if kind == 0:
    name, i = (('first', 0), ('last', len(program) - 1))[int(rng.integers(2))]
    question = language.pick(rng, (
        f'Where is the person, and what is the {name} action?',
        f'Which place is this, and what does the person do {name}?'))  # fmt: skip
    answer = f'The place is the {scene.place} and it is {language.phrase(program[i].verb)}.'
    parts = (scene.place, language.GERUNDS[program[i].verb])
    choices = (*scenes.PLACES, *_verb_choices())
    asks = _verb_facts(program, i) | {'place'}
    name = f'place and {name} action'
  elif kind == 1:
    question = language.pick(rng, (
        'Which object is near the person, and which limb is used first?',
        'What stands beside the person, and which limb moves first?'))  # fmt: skip
    answer = f'The object is the {scene.object} and it is the {language.limb(program[0])}.'
    parts = (scene.object, language.limb(program[0]))
    choices = (*scenes.OBJECTS, *language.LIMBS)
    asks = _verb_facts(program, 0) | {'object', 'side0'}
    name = 'object and limb'
  else:
    i = next(
      i for i, action in enumerate(program) if language.direction(action)
    )
    question = language.pick(rng, (
        'What colour is the shirt, and which way does the person go?',
        'Which colour does the person wear, and which direction is it?'))  # fmt: skip
    answer = f'The shirt is {scene.colour} and the direction is {language.direction(program[i])}.'
    parts = (scene.colour, language.direction(program[i]))
    choices = (*scenes.COLOURS, *language.DIRECTIONS)
    asks = frozenset({'colour', f'direction{i}'})
    name = 'colour and direction'
  return Question(
    records.Turn(question, answer, 'joint', name, '; '.join(parts), choices),
    asks=frozenset(asks),
  )


# --- Conversations -------------------------------------------------------------


def questions(
  program: Sequence[actions.Action],
  scene: scenes.Scene,
  absent: str,
  rng: np.random.Generator,
) -> tuple[records.Turn, ...]:
  """Questions of all domains that do not give each other's answers away.

  Args:
    program: the actions, no verb twice.
    scene: what the video shows.
    absent: a verb that is not in the program, for a question that has to be
      denied.
    rng: draws kinds, wordings and order.

  Returns:
    At most one turn a domain. Any subset in any order makes a conversation in
    which no turn helps with another's answer.
  """
  body, view = [], [ask(scene, rng) for ask in _VIDEO_KINDS]
  for kinds in _MOTION_KINDS:
    made = [q for q in (kind(program, rng) for kind in kinds) if q]
    if made:
      body.append(made[int(rng.integers(len(made)))])
  body.append(_joint(program, scene, rng))
  # Whoever comes first stays, in random order within a group. A 'yes' clashes
  # with more questions than a 'no' does, so presence comes before all to stay
  # balanced; what the video shows has the fewest clashes and comes last.
  kept = [_presence(program, absent, rng)]
  for group in (body, view):
    for i in rng.permutation(len(group)):
      if all(group[i].goes_with(other) for other in kept):
        kept.append(group[i])
  return tuple(question.turn for question in kept)
