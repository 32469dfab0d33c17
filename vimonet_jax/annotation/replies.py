"""What of a service's replies is kept: turns that are what was asked for.

A schema sees types and names. Here is looked at what it does not see: length,
what a text speaks of, the form of answers, and what a motion contradicts.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vimonet_jax.annotation import contradictions, prompts
from vimonet_jax.eval import judge

# A caption is about a movement, and not about what shows it; somebody may well
# take a picture, or walk through the frame of a door.
_OF_PICTURES = re.compile(
  r'\b((?<!door )(?<!window )frames?|images?|footage|screenshots?|'
  r'(?:the|this|these) (?:\w+ )?(?:videos?|clips?|pictures?|photos?))\b',
  re.IGNORECASE,
)
# Who speaks of these has not seen a movement but read a text.
_OF_TEXTS = re.compile(
  r'\b(captions?|descriptions?|(?:the|these|all|both) (?:lines?|texts?)|'
  r'according to)\b',
  re.IGNORECASE,
)


class Refused(NamedTuple):
  """A text that is not kept.

  Attributes:
    text: the caption, or question and answer.
    reason: why, one sentence.
    is_contradicted: the motion is the reason.
  """

  text: str
  reason: str
  is_contradicted: bool = False


class Kept(NamedTuple):
  """What a reply comes to.

  Attributes:
    turns: as `prompts` has them: question, answer, domain, kind, follows.
    refused: the rest.
  """

  turns: tuple[Mapping[str, Any], ...]
  refused: tuple[Refused, ...]


def check_caption(
  text: str, evidence: contradictions.Evidence | None
) -> Refused | None:
  """What is wrong with a caption that a model wrote; None where nothing is.

  Args:
    text: the caption.
    evidence: of the motion; None where there is none.
  """
  words = len(text.split())
  if not 0 < words < prompts.MAX_WORDS:
    return Refused(
      text,
      f'Expected a caption of fewer than {prompts.MAX_WORDS} words, found '
      f'{words}.',
    )
  if found := _OF_PICTURES.search(text):
    return Refused(
      text,
      f'Expected a caption of what a person does, found {found.group()!r} in '
      'it.',
    )
  return check_motion(text, evidence)


def check_motion(
  text: str, evidence: contradictions.Evidence | None
) -> Refused | None:
  """What of a text the motion contradicts."""
  if evidence is None:
    return None
  return _contradicted(text, contradictions.find(text, evidence))


def check_turns(
  turns: Sequence[Mapping[str, Any]], evidence: contradictions.Evidence | None
) -> Kept:
  """Sorts questions and answers; a follow-up goes with what it follows.

  Args:
    turns: as `prompts.QUESTION_SCHEMA` has them.
    evidence: of the motion; None where there is none.
  """
  kept, refused, asked = [], [], set()
  is_before_kept = False
  for turn in turns:
    text = f'{turn["question"]} | {turn["answer"]}'
    wrong = _check_turn(turn, text, evidence)
    question = ' '.join(judge.normalise(turn['question']))
    if wrong is None and turn['follows'] and not is_before_kept:
      wrong = Refused(
        text, 'Expected a follow-up behind a question, found none that is kept.'
      )
    # "And then?" may come again; it is another question each time.
    if wrong is None and question in asked and not turn['follows']:
      wrong = Refused(text, 'Expected each question once, found it again.')
    is_before_kept = wrong is None
    if wrong is None:
      asked.add(question)
      kept.append(turn)
    else:
      refused.append(wrong)
  return Kept(tuple(kept), tuple(refused))


def _check_turn(turn, text: str, evidence) -> Refused | None:
  if not (turn['question'].strip() and turn['answer'].strip()):
    return Refused(text, 'Expected a question and an answer, found no words.')
  if found := _OF_TEXTS.search(text):
    return Refused(
      text,
      'Expected a conversation about a movement, found that it speaks of '
      f'{found.group()!r}.',
    )
  if wrong := _check_kind(turn):
    return Refused(text, wrong)
  if evidence is None:
    return None
  return _contradicted(
    text,
    contradictions.find_in_turn(
      turn['question'], turn['answer'], evidence
    ),
  )  # fmt: skip


def _check_kind(turn: Mapping[str, Any]) -> str:
  """Whether an answer has the form that it should, see prompts.KINDS."""
  kind, words = turn['kind'], judge.normalise(turn['answer'])
  if kind in ('true_false', 'yes_no'):
    expected = ('true', 'false') if kind == 'true_false' else ('yes', 'no')
    if words[:1] not in ([expected[0]], [expected[1]]):
      return (
        f'Expected an answer that begins with {" or ".join(expected)}, found '
        f'{turn["answer"][:40]!r}.'
      )
  if kind == 'count' and not any(word.isdecimal() for word in words):
    return (
      f'Expected an answer with a number, found {turn["answer"][:40]!r}.'
    )  # fmt: skip
  if kind == 'multiple_choice':
    letter = re.match(r'\(?([A-Z])[).:]', turn['answer'].strip())
    options = re.findall(r'(?<!\w)\(?([A-Z])[).:](?=\s)', turn['question'])
    if len(set(options)) < 2 or not letter or letter.group(1) not in options:
      return (
        'Expected options with letters and an answer that is one of them, '
        f'found {turn["answer"][:40]!r}.'
      )
  return ''


def _contradicted(text: str, found: Sequence[str]) -> Refused | None:
  if not found:
    return None
  return Refused(text, ' '.join(found), is_contradicted=True)
