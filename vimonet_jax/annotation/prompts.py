"""What a chat service is asked about a clip, and in what form it answers.

Two steps, after MotionLLM's appendix C and in our own words: a vision model
describes key frames; a language model makes questions and answers of the
captions.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from vimonet_jax import chat_api
from vimonet_jax.data import captions

# A caption has fewer words than this. Models count badly, so they are asked for
# a few less.
MAX_WORDS = 50
_ASKED_WORDS = 40
# What a question may be about, see records.DOMAINS, and what that means.
DOMAINS = {
  'sequentiality': 'what happens first, next, last, or how often',
  'direction': 'where the body goes or turns',
  'body_part': 'which part of the body moves, on which side, and how',
  'reasoning': 'why, what for, what it looks like, what would follow',
  'hallucination': 'something that does not happen or cannot be known',
}
# The form of an answer, see eval.judge, and what that means.
KINDS = {
  'free': 'a short sentence',
  'multiple_choice': 'the question lists options A), B) and C), the answer '
  'repeats the right one with its letter',
  'true_false': 'the question is a statement, the answer begins with True or '
  'False',
  'yes_no': 'the answer begins with Yes or No',
  'count': 'the answer has a number',
}

CAPTION_SCHEMA = {
  'type': 'object',
  'properties': {'caption': {'type': 'string'}},
  'required': ['caption'],
  'additionalProperties': False,
}
_TURN = {
  'question': {'type': 'string'},
  'answer': {'type': 'string'},
  'domain': {'type': 'string', 'enum': list(DOMAINS)},
  'kind': {'type': 'string', 'enum': list(KINDS)},
  'follows': {'type': 'boolean'},
}
# Only what every service can enforce; `replies` looks at the rest.
QUESTION_SCHEMA = {
  'type': 'object',
  'properties': {
    'turns': {
      'type': 'array',
      'items': {
        'type': 'object',
        'properties': _TURN,
        'required': list(_TURN),
        'additionalProperties': False,
      },
    }
  },
  'required': ['turns'],
  'additionalProperties': False,
}

_CAPTION = f"""\
You see key frames of one recording of a person in motion. They are in order \
and evenly spaced.

Look at all of them together and describe the whole movement: which parts of \
the body move, where to, and one after the other, from the beginning to the \
end. Left and right are those of the person who moves, not those of the \
picture. Forward is where that person faces.

Write plain English, at most {_ASKED_WORDS} words. Say nothing twice. Describe \
the person's movement and nothing else: no frames, pictures, cameras or \
surroundings, unless they are what the person acts on. If something cannot be \
seen, leave it out."""

_EXAMPLE_CAPTIONS = (
  captions.Caption(
    'a man takes four steps forward, turns left and waves with his right hand.'
  ),
  captions.Caption('someone walks up, faces left and then greets somebody.'),
  captions.Caption('the right hand swings from side to side.', 3.0, 5.5),
)
_EXAMPLE_TURNS = (
  ('How does the movement begin?',
   'It begins with four steps forward.', 'sequentiality', 'free', False),
  ('And what comes after that?',
   'The man turns to his left.', 'sequentiality', 'free', True),
  ('Which hand does he wave with? A) the left hand B) the right hand C) both '
   'hands', 'B) the right hand', 'body_part', 'multiple_choice', False),
  ('How does that arm move?',
   'It is lifted, and the hand swings from side to side.', 'body_part', 'free',
   True),
  ('How many steps does the man take?',
   'He takes four steps.', 'sequentiality', 'count', False),
  ('The man turns to his right before he waves.',
   'False, he turns to his left.', 'direction', 'true_false', False),
  ('Whom does he wave to?',
   'That cannot be told from the movement alone.', 'hallucination', 'free',
   False),
)  # fmt: skip

_QUESTION = """\
You write a conversation about a movement of a person. What the person does is \
told below in one or more lines, text#start#end, with seconds; 0.0 and 0.0 \
stand for the whole movement. All lines tell the same movement in different \
words.

Write about seven questions with their answers, as somebody would ask who has \
seen the movement and somebody would answer who has seen it as well. Ask what \
the lines allow to answer for certain; where they contradict each other, ask \
about something else. Never speak of lines, texts, captions or descriptions, \
nor of how many there are. No greetings, no remarks, no opinion. Left and \
right are those of the person who moves.

Each question has a domain:
{domains}

and a kind, the form of its answer:
{kinds}

Use as many domains and kinds as fit, at least one question about something \
that cannot be known or does not happen, and at least one with follows=true: a \
question that only makes sense right after the one before it, such as "And \
then?". All others must make sense alone.

An example, which shows the form and no more; do not copy its questions:

{example_captions}

{example}

The movement:

{captions}"""


def caption_request(
  name: str,
  jpegs: Sequence[bytes],
  *,
  step_s: float,
  label: str,
  known: Sequence[captions.Caption],
) -> chat_api.Request:
  """Asks what key frames show.

  Args:
    name: of the clip.
    jpegs: the frames, in the order of time.
    step_s: seconds between two of them; 0 where nobody knows.
    label: what the clip is called.
    known: captions that there are.
  """
  text = _CAPTION
  if step_s:
    text += f'\n\nFrom one frame to the next it is {step_s:g} seconds.'
  told = [*filter(None, [label]), *(caption.text for caption in known)]
  if told:
    text += (
      '\n\nSomebody has noted this about it, which is a hint and may be coarse '
      'or wrong; trust what you see:\n' + '\n'.join(told)
    )
  parts = [{'type': 'text', 'text': text}]
  for jpeg in jpegs:
    url = f'data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}'
    image = {'url': url, 'detail': 'low'}
    parts.append({'type': 'image_url', 'image_url': image})
  message = {'role': 'user', 'content': parts}
  return chat_api.Request(name, [message], CAPTION_SCHEMA)


def question_request(
  name: str, known: Sequence[captions.Caption]
) -> chat_api.Request:
  """Asks for questions and answers about a clip with these captions."""
  text = _QUESTION.format(
    domains=_listed(DOMAINS),
    kinds=_listed(KINDS),
    example_captions=_lines(_EXAMPLE_CAPTIONS),
    example=_example(),
    captions=_lines(known),
  )
  message = {'role': 'user', 'content': text}
  return chat_api.Request(name, [message], QUESTION_SCHEMA)


def digest(step: str) -> str:
  """A word that changes with the instructions or the schema of a step."""
  asked = {
    'captions': (_CAPTION, CAPTION_SCHEMA),
    'questions': (
      _QUESTION, DOMAINS, KINDS, _lines(_EXAMPLE_CAPTIONS), _EXAMPLE_TURNS,
      QUESTION_SCHEMA,
    ),
  }  # fmt: skip
  return hashlib.blake2s(
    json.dumps(asked[step]).encode(), digest_size=8
  ).hexdigest()


def _listed(meanings: dict[str, str]) -> str:
  return '\n'.join(f'- {name}: {meaning}' for name, meaning in meanings.items())


def _lines(known: Sequence[captions.Caption]) -> str:
  """HumanML3D's line style; a caption is one line."""
  return '\n'.join(
    f'{" ".join(caption.text.replace("#", " ").split())}'
    f'#{caption.start_s}#{caption.end_s}'
    for caption in known
  )


def _example() -> str:
  turns: list[dict[str, Any]] = [
    dict(zip(_TURN, turn, strict=True)) for turn in _EXAMPLE_TURNS
  ]
  return json.dumps({'turns': turns}, indent=1)
