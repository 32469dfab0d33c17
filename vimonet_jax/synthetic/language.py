"""Words for a program of actions in a scene: phrases, captions, stand-ins.

Every sentence is made from facts that the world knows, so what is said can be
checked. Questions and answers are in `asked_of_*.py` and `contrasts.py`.
"""

from collections.abc import Sequence

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.synthetic import actions
from vimonet_jax.synthetic import scene as scenes

# One word form for each verb, used in questions and answers alike.
GERUNDS = {
    'walk': 'walking', 'run': 'running', 'march': 'marching',
    'turn': 'turning', 'sidestep': 'sidestepping', 'jump': 'jumping',
    'hop': 'hopping', 'squat': 'squatting', 'bend': 'bending',
    'wave': 'waving', 'raise': 'raising', 'reach': 'reaching',
    'punch': 'punching', 'kick': 'kicking', 'clap': 'clapping',
    'push': 'pushing', 'throw': 'throwing', 'limp': 'limping',
    'stumble': 'stumbling', 'spin': 'spinning', 'sit': 'sitting',
    'lie': 'lying', 'fall': 'falling', 'rise': 'standing',
    'getup': 'getting',
}  # fmt: skip
# What follows the gerund so that the phrase is English.
_PARTICLES = {
    'bend': 'down', 'raise': 'an arm', 'reach': 'out', 'sit': 'down',
    'lie': 'down', 'rise': 'up', 'getup': 'up',
}  # fmt: skip
# What leads from the verb to its limb; waving is done with an arm.
_LINKS = {'raise': '', 'hop': 'on', 'limp': 'on'}
SIDED_LIMBS = {
    'wave': 'arm', 'raise': 'arm', 'reach': 'arm', 'punch': 'arm',
    'throw': 'arm', 'kick': 'leg', 'hop': 'leg', 'limp': 'leg',
}  # fmt: skip
_PAIRED_LIMBS = {
    'clap': 'both arms', 'push': 'both arms', 'jump': 'both legs',
    'squat': 'both legs',
}  # fmt: skip
# How an action leaves the body; every other verb ends standing.
POSTURES = {'sit': 'sitting', 'lie': 'lying', 'fall': 'lying'}
# They go one way only, so no attribute says so.
_FORWARD = ('run', 'limp', 'stumble')
DIRECTIONS = ('forward', 'backward', 'left', 'right')
_PREPOSITIONS = {'beach': 'on', 'street': 'on'}
NUMBERS = ('one', 'two', 'three')  # of people
TIMES = ('once', 'twice', 'thrice')  # of repetitions


def phrase(verb: str) -> str:
  """`walking`, `sitting down`."""
  return ' '.join(filter(None, (GERUNDS[verb], _PARTICLES.get(verb))))


def limb(action: actions.Action) -> str:
  """The limb that an action is about, or nothing."""
  if action.verb in SIDED_LIMBS:
    return f'{action.side} {SIDED_LIMBS[action.verb]}'
  return _PAIRED_LIMBS.get(action.verb, '')


def limb_phrase(action: actions.Action) -> str:
  """`the left arm`, `both legs`."""
  words = limb(action)
  return words if words.startswith('both') else f'the {words}'


def with_limb(verb: str) -> tuple[str, str, str]:
  """A sided verb before its limb: `reaching`, `out`, `with`; may be empty."""
  particle = '' if verb == 'raise' else _PARTICLES.get(verb, '')
  return GERUNDS[verb], particle, _LINKS.get(verb, 'with')


def direction(action: actions.Action) -> str:
  """Where an action goes, or nothing; a turn goes to its side."""
  if action.verb in _FORWARD:
    return 'forward'
  if action.verb in ('turn', 'sidestep', 'spin'):
    return action.side
  return action.direction


def directions(verb: str) -> tuple[str, ...]:
  """Where a verb can go: none, one, two or four directions."""
  if verb in _FORWARD:
    return ('forward',)
  spec = actions.VERBS[verb]
  return spec.sides if verb in ('turn', 'sidestep', 'spin') else spec.directions


def to_phrase(action: actions.Action) -> str:
  """`forward`, `to the left`."""
  where = direction(action)
  return f'to the {where}' if where in ('left', 'right') else where


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
  """One of the options, all alike."""
  return options[int(rng.integers(len(options)))]


def clause(action: actions.Action, rng: np.random.Generator) -> str:
  """`walking forward slowly`, `waving with the left arm`."""
  words = [phrase(action.verb)]
  details = []
  if direction(action):
    details.append(to_phrase(action))
  if action.verb in SIDED_LIMBS:
    gerund, particle, link = with_limb(action.verb)
    words = list(filter(None, (gerund, particle)))
    details.append(f'{link} the {limb(action)}'.strip())
  if action.speed:
    details.append(action.speed)
  if action.count:
    details.append(TIMES[action.count - 1])
  # Not 'limping on the left leg forward'.
  if len(details) > 1 and action.verb != 'limp' and rng.random() < 0.3:
    details.reverse()
  return ' '.join(words + details)


def motion_sentence(
  program: Sequence[actions.Action], rng: np.random.Generator
) -> str:
  """`The person is walking forward, then turning to the left.`"""
  subject = pick(rng, ('The person is', 'A person is', 'Someone is'))
  link = pick(rng, (', then ', ' and then ', ', after that '))
  return f'{subject} {link.join(clause(a, rng) for a in program)}.'


def people_sentence(people: int) -> str:
  """`There are two people.`"""
  if people == 1:
    return f'There is {NUMBERS[0]} person.'
  return f'There are {NUMBERS[people - 1]} people.'


def video_sentence(scene: scenes.Scene, rng: np.random.Generator) -> str:
  """`A person in the kitchen wears a red shirt near the ball. ...`"""
  who = pick(rng, ('A person', 'The person', 'Someone'))
  where = f'{_PREPOSITIONS.get(scene.place, "in")} the {scene.place}'
  main = pick(rng, (
      f'{who} {where} wears a {scene.colour} shirt near the {scene.object}.',
      f'{who} with a {scene.colour} shirt is {where} beside the '
      f'{scene.object}.',
      f'The place is the {scene.place}, the shirt is {scene.colour}, '
      f'the object is a {scene.object}.'))  # fmt: skip
  return f'{main} {people_sentence(scene.people)}'


def captions(
  program: Sequence[actions.Action],
  scene: scenes.Scene,
  rng: np.random.Generator,
) -> tuple[records.Turn, ...]:
  """One caption of the motion, one of the video, one of both."""
  motion = motion_sentence(program, rng)
  video = video_sentence(scene, rng)
  return (
      records.Turn(
          pick(rng, ('Describe the motion.', 'What does the person do?')),
          motion, 'motion_caption', 'caption',
      ),
      records.Turn(
          pick(rng, ('Describe the video.', 'What does the video show?')),
          video, 'video_caption', 'caption',
      ),
      records.Turn(
          pick(rng, ('Describe the video and the motion.',
                      'What happens, and where?')),
          f'{video} {motion}', 'joint_caption', 'caption',
      ),
  )  # fmt: skip


# How often a word is there in a place of its action, or of its scene.
_VERB_SHARE = 0.85
_FACT_SHARE = 0.7
_SCENE_SHARE = 0.35


def motion_words(
  program: Sequence[actions.Action],
  lengths: Sequence[int],
  rng: np.random.Generator,
) -> str:
  """What a motion encoder might say, place by place (see data.text).

      walking+forward+slowly walking+slowly forward waving+left+arm waving

  Args:
    program: the actions.
    lengths: how many places each action gets.
    rng: draws which words are missing where; each fact is there at least once.
  """
  places = []
  for action, length in zip(program, lengths, strict=True):
    words = [
      GERUNDS[action.verb],
      *direction(action).split(),
      *limb(action).split(),
      *action.speed.split(),
      *TIMES[action.count - 1 : action.count],
    ]
    shares = np.full(len(words), _FACT_SHARE)
    shares[0] = _VERB_SHARE
    places += _places(words, shares, length, rng)
  return ' '.join(places)


def video_words(
  scene: scenes.Scene, length: int, rng: np.random.Generator
) -> str:
  """What a video encoder might say: the scene's words here and there."""
  words = [
    scene.place,
    scene.object,
    scene.colour,
    NUMBERS[scene.people - 1],
  ]
  shares = np.full(len(words), _SCENE_SHARE)
  return ' '.join(_places(words, shares, length, rng))


def _places(words, shares, length: int, rng) -> list[str]:
  """Words joined by `+`; no place is empty, and no word is nowhere."""
  is_there = rng.random((length, len(words))) < shares
  for k in np.flatnonzero(~is_there.any(axis=0)):
    is_there[rng.integers(length), k] = True
  for i in np.flatnonzero(~is_there.any(axis=1)):
    is_there[i, rng.integers(len(words))] = True
  return [
    '+'.join(word for word, here in zip(words, row, strict=True) if here)
    for row in is_there
  ]
