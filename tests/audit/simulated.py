"""Test sets whose differences are known, since nobody has answered anything.

Answers about a clip go together, kinds of questions are hard and easy, fast
clips are asked other kinds than slow ones, and twins answer nearly alike: all
that could make chance look like a difference.
"""

import numpy as np

from vimonet_jax.audit import compared

SIZES = ('average', 'large', 'small')
# Clips of the small group of an unequal set.
FEW = 25
_KINDS = 6
_MOST_QUESTIONS = 5
# Of the right answers to each kind of question.
_SHARES = np.linspace(0.5, 0.97, _KINDS)
# How easy questions are in an unequal set, in logits; hard ones are at 0.
_EASY = 4.0
# Of the clips of its groups so many are asked hard ones.
_HARD = {'few': 0.8, 'many': 0.2}
# How much clips differ, in logits.
_CLIPS = 0.8
# How often a twin is answered as the clip is, whatever is right.
_ALIKE = 0.8


def answered(
  seed: int, *, clips: int = 81, planted: float = 0.0
) -> compared.Set:
  """A set with slices and twins.

  Args:
    seed: of everything.
    clips: number of them.
    planted: how often what is called right about size large is wrong.
  """
  rng = np.random.default_rng(seed)
  answers, pairs = [], []
  for clip in range(clips):
    size, twin = SIZES[clip % 3], SIZES[(clip + 1) % 3]
    speed = ('fast', 'slow')[rng.integers(2)]
    groups = {
      'size': size,
      'skin': ('dark', 'light', 'medium')[clip // 3 % 3],
      'speed': speed,
      'place': f'place {rng.integers(4)}',
    }
    logits = np.log(_SHARES / (1 - _SHARES)) + rng.normal(0, _CLIPS)
    shares = 1 / (1 + np.exp(-logits))
    often = np.arange(1, _KINDS + 1)
    often = often if speed == 'fast' else often[::-1]
    number = rng.integers(1, _MOST_QUESTIONS + 1)
    for kind in rng.choice(
      _KINDS, number, replace=False, p=often / often.sum()
    ):
      is_alike, *drawn = rng.random(5)
      said = drawn[0] < shares[kind]
      other = said if is_alike < _ALIKE else drawn[1] < shares[kind]
      # What is said, and whether it counts as right.
      one = said ^ (size == 'large' and drawn[2] < planted)
      two = other ^ (twin == 'large' and drawn[3] < planted)
      groups['side'] = ('left', 'right')[rng.integers(2)]
      answers.append(
        compared.Answer(float(one), clip, f'kind {kind}', {**groups})
      )
      pairs.append(
        compared.Pair(
          'size', (size, twin), (float(one), float(two)), clip, said != other
        )
      )
  return compared.Set('simulated', answers, pairs)


def unequal(seed: int, *, many: int = 140) -> compared.Set:
  """A set of two groups, of which the small one is asked harder questions.

  About most of its clips hard kinds are asked, whose answers vary, and about
  most of the others easy ones, whose answers hardly do.

  Args:
    seed: of everything.
    many: clips of the large group; the small one has FEW.
  """
  rng = np.random.default_rng(seed)
  answers = []
  for clip in range(FEW + many):
    size = 'few' if clip < FEW else 'many'
    is_hard = rng.random() < _HARD[size]
    logit = rng.normal(0, _CLIPS) + (0.0 if is_hard else _EASY)
    right = rng.random(rng.integers(2, 4)) < 1 / (1 + np.exp(-logit))
    answers += [
      compared.Answer(
        float(x),
        clip,
        f'{"hard" if is_hard else "easy"} {kind}',
        {'size': size},
      )
      for kind, x in enumerate(right)
    ]
  return compared.Set('unequal', answers)
