"""Questions about the order of actions: first, last, before, after.

Each function makes one kind of question, or nothing where the program has no
answer to it.
"""

import numpy as np

from vimonet_jax.synthetic import actions, language, question

# How often each verb is asked for where it could be, so that all come alike;
# some are drawn twice as often, and programs like to end off the feet.
_KEPT_VERBS = {'walk': 0.55, 'sidestep': 0.6, 'kick': 0.7}
_KEPT_LAST = {**_KEPT_VERBS, 'sit': 0.35, 'lie': 0.35, 'fall': 0.5}


def first(
  program: question.Program, rng: np.random.Generator
) -> question.Question | None:
  verb = program[0].verb
  if len(program) < 2 or not question.is_kept(_KEPT_VERBS, verb, rng):
    return None
  return question.make(
    rng,
    'sequentiality/first',
    ('What does the person do first?', 'Which action comes first?'),
    f'First the person is {language.phrase(verb)}.',
    language.GERUNDS[verb],
    _gerunds(but='last'),
    asks=question.verb_facts(program, 0),
  )


def last(
  program: question.Program, rng: np.random.Generator
) -> question.Question | None:
  end = len(program) - 1
  verb = program[end].verb
  if len(program) < 2 or not question.is_kept(_KEPT_LAST, verb, rng):
    return None
  return question.make(
    rng,
    'sequentiality/last',
    ('What does the person do last?', 'Which action comes last?'),
    f'At the end the person is {language.phrase(verb)}.',
    language.GERUNDS[verb],
    _gerunds(but='first'),
    asks=question.verb_facts(program, end),
  )


def after(
  program: question.Program, rng: np.random.Generator
) -> question.Question | None:
  if len(program) < 2:
    return None
  i = int(rng.integers(len(program) - 1))
  known, verb = program[i].verb, program[i + 1].verb
  if not question.is_kept(_KEPT_LAST, verb, rng):
    return None
  return question.make(
    rng,
    'sequentiality/after',
    (
      f'What does the person do right after {language.phrase(known)}?',
      f'Which action comes after {language.phrase(known)}?',
    ),
    f'After that the person is {language.phrase(verb)}.',
    language.GERUNDS[verb],
    _gerunds(known, but='first'),
    asks=question.verb_facts(program, i + 1),
    tells=question.verb_facts(program, i),
  )


def before(
  program: question.Program, rng: np.random.Generator
) -> question.Question | None:
  if len(program) < 2:
    return None
  i = int(rng.integers(1, len(program)))
  known, verb = program[i].verb, program[i - 1].verb
  if not question.is_kept(_KEPT_VERBS, verb, rng):
    return None
  return question.make(
    rng,
    'sequentiality/before',
    (
      f'What does the person do right before {language.phrase(known)}?',
      f'Which action comes before {language.phrase(known)}?',
    ),
    f'Before that the person is {language.phrase(verb)}.',
    language.GERUNDS[verb],
    _gerunds(known, but='last'),
    asks=question.verb_facts(program, i - 1),
    tells=question.verb_facts(program, i),
  )


def _gerunds(*known: str, but: str) -> tuple[str, ...]:
  """Verbs that can stand there: no verb twice, none that has its own place."""
  return tuple(
    gerund
    for verb, gerund in language.GERUNDS.items()
    if verb not in known and actions.VERBS[verb].place != but
  )
