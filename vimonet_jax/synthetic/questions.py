"""Questions about a program of actions in a scene, with checkable answers.

A question carries the facts that its answer gives (`asks`) and those that its
wording gives away (`tells`); two questions go together in one conversation only
when neither helps with the other's answer.

Each function below makes one kind of question, or nothing where the program
has no answer to it. A kind whose answers would come unequally often by itself
is thinned, so that a reader without the media gains nothing from the prior.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.synthetic import actions, language
from vimonet_jax.synthetic import scene as scenes

Program = Sequence[actions.Action]

VERB_CHOICES = tuple(language.GERUNDS.values())
# Where an action leaves the body; every other verb ends on the feet.
_POSTURES = {'sit': 'seat', 'lie': 'floor', 'fall': 'floor'}
_POSTURE_PHRASES = {
  'feet': 'on both feet',
  'seat': 'on a seat',
  'floor': 'on the floor',
}
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


def draw(
  program: Program,
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
    At most one turn a domain, two of sequentiality. Any subset in any order
    makes a conversation in which no turn helps with another's answer.
  """
  body = []
  for kinds in _MOTION_KINDS:
    made = [q for q in (kind(program, rng) for kind in kinds) if q]
    if made:
      body.append(made[int(rng.integers(len(made)))])
  body.append(_joint(program, scene, rng))
  view = [kind(scene, rng) for kind in _VIDEO_KINDS]
  # Whoever comes first stays, in random order within a group. A 'yes' clashes
  # with more questions than a 'no' does, so presence stays out of every third
  # conversation and comes before all in the others, where it stays balanced;
  # what the video shows has the fewest clashes and comes last.
  kept = [_presence(program, absent, rng)] if rng.random() < 0.67 else []
  for group in (body, view):
    for i in rng.permutation(len(group)):
      if all(group[i].goes_with(other) for other in kept):
        kept.append(group[i])
  return tuple(question.turn for question in kept)


def _make(
  rng: np.random.Generator,
  name: str,
  wordings: Sequence[str],
  answer: str,
  fact: str,
  choices: Sequence[str],
  *,
  asks: Iterable[str],
  tells: Iterable[str] = (),
) -> Question:
  """A question called `domain/kind` in one of its wordings."""
  domain, kind = name.split('/')
  question = language.pick(rng, wordings)
  turn = records.Turn(question, answer, domain, kind, fact, tuple(choices))
  return Question(turn, frozenset(asks), frozenset(tells))


def _verb_facts(program: Program, i: int) -> frozenset[str]:
  """What is known once the verb of action `i` is."""
  verb = program[i].verb
  facts = {f'verb{i}', f'has {verb}'}
  return frozenset(facts | {'accident'} if verb in _ACCIDENTS else facts)


def _pick_action(program: Program, rng, claims) -> int | None:
  """Index of one of the actions of which `claims` holds, if there is any."""
  found = [i for i, action in enumerate(program) if claims(action)]
  return found[int(rng.integers(len(found)))] if found else None


# --- Sequentiality -----------------------------------------------------------


def _first(program: Program, rng) -> Question | None:
  if len(program) < 2:
    return None
  verb = program[0].verb
  return _make(
    rng,
    'sequentiality/first',
    ('What does the person do first?', 'Which action comes first?'),
    f'First the person is {language.phrase(verb)}.',
    language.GERUNDS[verb],
    VERB_CHOICES,
    asks=_verb_facts(program, 0),
  )


def _last(program: Program, rng) -> Question | None:
  if len(program) < 2:
    return None
  last = len(program) - 1
  verb = program[last].verb
  return _make(
    rng,
    'sequentiality/last',
    ('What does the person do last?', 'Which action comes last?'),
    f'At the end the person is {language.phrase(verb)}.',
    language.GERUNDS[verb],
    VERB_CHOICES,
    asks=_verb_facts(program, last),
  )


def _after(program: Program, rng) -> Question | None:
  if len(program) < 2:
    return None
  i = int(rng.integers(len(program) - 1))
  known, verb = language.phrase(program[i].verb), program[i + 1].verb
  return _make(
    rng,
    'sequentiality/after',
    (
      f'What does the person do right after {known}?',
      f'Which action comes after {known}?',
    ),
    f'After that the person is {language.phrase(verb)}.',
    language.GERUNDS[verb],
    VERB_CHOICES,
    asks=_verb_facts(program, i + 1),
    tells=_verb_facts(program, i),
  )


def _before(program: Program, rng) -> Question | None:
  if len(program) < 2:
    return None
  i = int(rng.integers(1, len(program)))
  known, verb = language.phrase(program[i].verb), program[i - 1].verb
  return _make(
    rng,
    'sequentiality/before',
    (
      f'What does the person do right before {known}?',
      f'Which action comes before {known}?',
    ),
    f'Before that the person is {language.phrase(verb)}.',
    language.GERUNDS[verb],
    VERB_CHOICES,
    asks=_verb_facts(program, i - 1),
    tells=_verb_facts(program, i),
  )


# --- Direction and body part -------------------------------------------------


def _named_direction(program: Program, rng) -> Question | None:
  i = _pick_action(program, rng, language.direction)
  if i is None:
    return None
  known = language.phrase(program[i].verb)
  return _make(
    rng,
    'direction/named',
    (
      f'In which direction is the person {known}?',
      f'Which way is the person {known}?',
    ),
    f'The person is {known} {language.to_phrase(program[i])}.',
    language.direction(program[i]),
    language.DIRECTIONS,
    asks={f'direction{i}'},
    tells=_verb_facts(program, i),
  )


def _only_direction(program: Program, rng) -> Question | None:
  """The direction of the one action that has any; the verb stays open."""
  if sum(bool(language.direction(action)) for action in program) != 1:
    return None
  i = _pick_action(program, rng, language.direction)
  return _make(
    rng,
    'direction/only',
    ('In which direction does the person move?', 'Which way does it go?'),
    f'The direction is {language.direction(program[i])}.',
    language.direction(program[i]),
    language.DIRECTIONS,
    asks={f'direction{i}'},
  )


def _named_limb(program: Program, rng) -> Question | None:
  i = _pick_action(program, rng, lambda a: a.verb in language.SIDED_LIMBS)
  if i is None:
    return None
  known = language.phrase(program[i].verb)
  return _make(
    rng,
    'body_part/named',
    (
      f'Which limb does the person use for {known}?',
      f'With which limb is the person {known}?',
    ),
    f'It is {language.limb_phrase(program[i])}.',
    language.limb(program[i]),
    language.LIMBS,
    asks={f'side{i}'},
    tells=_verb_facts(program, i),
  )


def _placed_limb(program: Program, rng) -> Question | None:
  """The limb of the first or last action; the verb stays open."""
  ends = [('first', 0), ('last', len(program) - 1)]
  ends = [(name, i) for name, i in ends if language.limb(program[i])]
  if not ends:
    return None
  name, i = ends[int(rng.integers(len(ends)))]
  return _make(
    rng,
    f'body_part/{name}',
    (
      f'Which limb does the person use {name}?',
      f'Which limb moves in the {name} action?',
    ),
    f'It is {language.limb_phrase(program[i])}.',
    language.limb(program[i]),
    language.LIMBS,
    asks=_verb_facts(program, i) | {f'side{i}'},
  )


# --- Reasoning and hallucination ---------------------------------------------


def _count(program: Program, rng) -> Question | None:
  i = _pick_action(program, rng, lambda a: a.count)
  if i is None:
    return None
  known, count = language.phrase(program[i].verb), program[i].count
  return _make(
    rng,
    'reasoning/count',
    (
      f'How many times is the person {known}?',
      f'How often is the person {known}?',
    ),
    f'The person is {known} {language.TIMES[count - 1]}.',
    language.TIMES[count - 1],
    language.TIMES,
    asks={f'count{i}'},
    tells=_verb_facts(program, i),
  )


def _speed(program: Program, rng) -> Question | None:
  i = _pick_action(program, rng, lambda a: a.speed)
  if i is None:
    return None
  known = language.phrase(program[i].verb)
  return _make(
    rng,
    'reasoning/speed',
    (
      f'How fast is the person {known}?',
      f'Is the person {known} slowly or quickly?',
    ),
    f'The person is {known} {program[i].speed}.',
    program[i].speed,
    ('slowly', 'quickly'),
    asks={f'speed{i}'},
    tells=_verb_facts(program, i),
  )


def _posture(program: Program, rng) -> Question | None:
  """Where the body ends up: feet, seat and floor about equally often."""
  last = len(program) - 1
  answer = _POSTURES.get(program[last].verb, 'feet')
  if rng.random() > {'feet': 0.15, 'seat': 1.0, 'floor': 0.5}[answer]:
    return None
  return _make(
    rng,
    'reasoning/posture',
    ('Where does the person end up?', 'How does it end for the person?'),
    f'The person ends {_POSTURE_PHRASES[answer]}.',
    answer,
    tuple(_POSTURE_PHRASES),
    asks=_verb_facts(program, last),
  )


def _help(program: Program, rng) -> Question | None:
  """Whether somebody should look after the person; both answers alike."""
  is_hurt = any(action.verb in _ACCIDENTS for action in program)
  if rng.random() > (0.8 if is_hurt else 0.18):
    return None
  return _make(
    rng,
    'reasoning/help',
    ('Does the person need help?', 'Should somebody check on the person?'),
    'Yes, the person needs help.' if is_hurt else 'No, the person is fine.',
    'yes' if is_hurt else 'no',
    ('yes', 'no'),
    asks={'accident'},
  )


def _presence(program: Program, absent: str, rng) -> Question:
  """Whether an action happens at all: yes and no are equally likely."""
  is_there = rng.random() < 0.5
  verb = program[int(rng.integers(len(program)))].verb if is_there else absent
  known = language.phrase(verb)
  return _make(
    rng,
    'hallucination/presence',
    (f'Is the person {known} at any point?', f'Does the clip show {known}?'),
    f'Yes, the person is {known}.'
    if is_there
    else f'No, the person is not {known}.',
    'yes' if is_there else 'no',
    ('yes', 'no'),
    asks={f'has {verb}'},
    tells={f'has {verb}'},
  )


# One domain a row. The order of actions is the hardest thing to read and its
# questions clash with most others, so it gets two draws.
_MOTION_KINDS = (
  (_first, _last, _after, _before),
  (_first, _last, _after, _before),
  (_named_direction, _only_direction),
  (_named_limb, _placed_limb),
  (_count, _speed, _posture, _help),
)


# --- What the video shows ----------------------------------------------------


def _place(scene: scenes.Scene, rng) -> Question:
  return _make(
    rng,
    'place/place',
    ('Where is the person?', 'Which place is this?'),
    f'The place is the {scene.place}.',
    scene.place,
    scenes.PLACES,
    asks={'place'},
  )


def _object(scene: scenes.Scene, rng) -> Question:
  return _make(
    rng,
    'object/object',
    ('Which object is near the person?', 'What stands beside the person?'),
    f'The object is the {scene.object}.',
    scene.object,
    scenes.OBJECTS,
    asks={'object'},
  )


def _colour(scene: scenes.Scene, rng) -> Question:
  return _make(
    rng,
    'colour/colour',
    ('What colour is the shirt?', 'Which colour does the person wear?'),
    f'The shirt is {scene.colour}.',
    scene.colour,
    scenes.COLOURS,
    asks={'colour'},
  )


def _people(scene: scenes.Scene, rng) -> Question:
  return _make(
    rng,
    'people/people',
    ('How many people are there?', 'How many people does the video show?'),
    f'The number of people is {language.NUMBERS[scene.people - 1]}.',
    language.NUMBERS[scene.people - 1],
    language.NUMBERS,
    asks={'people'},
  )


_VIDEO_KINDS = (_place, _object, _colour, _people)


# --- What needs both ---------------------------------------------------------


def _place_and_action(program: Program, scene: scenes.Scene, rng) -> Question:
  name, i = (('first', 0), ('last', len(program) - 1))[int(rng.integers(2))]
  verb = program[i].verb
  return _make(
    rng,
    f'joint/place and {name} action',
    (
      f'Where is the person, and what is the {name} action?',
      f'Which place is this, and which action comes {name}?',
    ),
    f'The place is the {scene.place} and it is {language.phrase(verb)}.',
    f'{scene.place}; {language.GERUNDS[verb]}',
    (*scenes.PLACES, *VERB_CHOICES),
    asks=_verb_facts(program, i) | {'place'},
  )


def _object_and_limb(program: Program, scene: scenes.Scene, rng) -> Question:
  used, phrase = language.limb(program[0]), language.limb_phrase(program[0])
  return _make(
    rng,
    'joint/object and first limb',
    (
      'Which object is near the person, and which limb is used first?',
      'What stands beside the person, and which limb moves first?',
    ),
    f'The object is the {scene.object} and it is {phrase}.',
    f'{scene.object}; {used}',
    (*scenes.OBJECTS, *language.LIMBS),
    asks=_verb_facts(program, 0) | {'object', 'side0'},
  )


def _colour_and_direction(
  program: Program, scene: scenes.Scene, rng
) -> Question:
  i = _pick_action(program, rng, language.direction)
  where = language.direction(program[i])
  return _make(
    rng,
    'joint/colour and direction',
    (
      'What colour is the shirt, and which way does it go?',
      'Which colour does the person wear, and in which direction is it?',
    ),
    f'The shirt is {scene.colour} and the direction is {where}.',
    f'{scene.colour}; {where}',
    (*scenes.COLOURS, *language.DIRECTIONS),
    asks={'colour', f'direction{i}'},
  )


def _joint(program: Program, scene: scenes.Scene, rng) -> Question:
  """A question whose answer has one half in each medium."""
  kinds = [_place_and_action]
  if language.limb(program[0]):
    kinds.append(_object_and_limb)
  if sum(bool(language.direction(action)) for action in program) == 1:
    kinds.append(_colour_and_direction)
  return kinds[int(rng.integers(len(kinds)))](program, scene, rng)
