"""Layouts in which conversations about clips are published.

An entry is a JSON object, and its keys tell which layout it has:

    turns              ours: {id, media, turns: [{question, answer, ...}]}
    question, answer   ours, an item of a benchmark: {id, source, modality,
                       question, answer, history: [{question, answer}]}
    conversations      LLaVA, Valley, Video-LLaVA: {id, video, conversations:
                       [{from: human or gpt, value}]}; IRG-MotionLLM's have
                       `motions` and `text`, whose tags stand in the values
    QA                 MoVid, VideoChat: {video, QA: [{Q, A}]}, or q and a
    instruction, output   MotionLLM's scripts: {instruction, input, output}
    q, a               Video-ChatGPT: {video_id, q, a}
"""

import dataclasses
import re
import zlib
from collections.abc import Sequence
from typing import Any

from vimonet_jax.data import clips, conversations, records

# The first whose keys are all there is meant: MotionLLM's entries have a QA
# beside instruction and output, and QA has all turns.
_KEYS = {
  'turns': ('turns',),
  'conversations': ('conversations',),
  'QA': ('QA',),
  'item': ('question', 'answer'),
  'instruction': ('instruction', 'output'),
  'pair': ('q', 'a'),
}
_LISTS = ('turns', 'conversations', 'QA')
_TURN_FIELDS = [field.name for field in dataclasses.fields(records.Turn)]
_TAGS = ('<video>', '<motion>')
_IMAGE = '<image>'
_PLACEHOLDER = re.compile(r'<[A-Z]\w*>')
_ROLES = {
  'human': 'question', 'user': 'question',
  'gpt': 'answer', 'assistant': 'answer',
}  # fmt: skip


def layout_of(entry: Any) -> str:
  """The name of an entry's layout: turns, conversations, QA, item, ...

  Raises:
    ValueError: it has the keys of none, or of two that cannot both be meant.
  """
  if not isinstance(entry, dict):
    raise ValueError(
      f'expected a JSON object, found {conversations.short(entry)}; mend or '
      'remove it.'
    )
  if len(twice := [name for name in _LISTS if name in entry]) > 1:
    raise ValueError(
      f'expected the turns once, found them under {" and ".join(twice)}; '
      'remove one of them.'
    )
  for name, keys in _KEYS.items():
    if set(keys) <= set(entry):
      return name
  known = '; '.join(', '.join(keys) for keys in _KEYS.values())
  raise ValueError(
    f'expected the keys of a known layout ({known}), found '
    f'{", ".join(map(str, entry)) or "none"}; rename them or remove it.'
  )


def read(
  entry: conversations.Entry, *, key: str = ''
) -> list[conversations.Conversation]:
  """The conversations of an entry: one, or one for each caption of a clip.

  Args:
    entry: a JSON object of a known layout.
    key: the name of the entry where a file is an object of entries: the clip,
      unless the entry itself names one.

  Raises:
    ValueError: it is not as its layout says; the words follow a place.
  """
  layout = layout_of(entry)
  if layout == 'conversations' and 'motions' in entry:
    return _read_tagged(entry)
  turns = _READERS[layout](entry, key)
  entry, collection = dict(entry), ''
  if layout == 'item' and not conversations.names(entry):
    entry['media'] = entry.pop('source', None) or key
  if layout in ('QA', 'instruction') and _input_is_clip(entry, key):
    entry['media'] = entry['input']
  if layout == 'conversations':
    collection = entry.get('source') or ''
    if not isinstance(collection, str):
      raise ValueError(
        'expected source to be the name of a folder, found '
        f'{conversations.short(collection)}; mend it.'
      )
    # VATEX's videos are cut; `video` is what they are cut out of.
    if collection == 'VATEX' and entry.get('v_id'):
      entry['video'] = entry['v_id']
  return [conversations.make(entry, turns, key=key, collection=collection)]


# --- Lists of questions and answers ------------------------------------------


def _turns_of_turns(entry, key: str) -> list[records.Turn]:
  del key
  turns = []
  for row in _some(entry, 'turns'):
    if isinstance(row, list) and len(row) == 2:
      row = dict(zip(('question', 'answer'), row, strict=True))
    if not isinstance(row, dict) or set(row) - set(_TURN_FIELDS):
      raise ValueError(
        f'expected turns of {", ".join(_TURN_FIELDS)}, of which question and '
        f'answer are needed, found {conversations.short(row)}; mend it.'
      )
    fields = {'question': None, 'answer': None, **row}
    fields['domain'] = row.get('domain') or entry.get('domain')
    turns.append(conversations.turn(**fields))
  if turns and turns[0].follows:
    raise ValueError(
      'expected a first turn that follows none, found follows set; take it off '
      'or add the turn before it.'
    )
  return turns


def _turns_of_item(entry, key: str) -> list[records.Turn]:
  """Earlier rounds come first; `qa_files` joins a conversation's rounds."""
  del key
  turns = []
  for row in conversations.listed(entry.get('history') or [], 'history'):
    if isinstance(row, dict):
      row = [row.get('question'), row.get('answer')]
    if not isinstance(row, list) or len(row) != 2:
      raise ValueError(
        'expected a history of questions with answers, found '
        f'{conversations.short(row)}; mend it.'
      )
    turns.append(conversations.turn(*row))
  last = conversations.turn(
    entry['question'],
    entry['answer'],
    domain=entry.get('domain'),
    kind=entry.get('kind') or entry.get('answer_format'),
  )
  return [*turns, last]


def _turns_of_qa(entry, key: str) -> list[records.Turn]:
  """VideoChat has an instruction for all of a list (`i`): it is no question."""
  del key
  turns = []
  for number, row in enumerate(_some(entry, 'QA')):
    upper = isinstance(row, dict) and {'Q', 'A'} <= set(row)
    lower = isinstance(row, dict) and {'q', 'a'} <= set(row)
    if upper == lower:
      raise ValueError(
        f'expected Q and A, or q and a, found {conversations.short(row)}; mend '
        'it.'
      )
    question, answer = (row['Q'], row['A']) if upper else (row['q'], row['a'])
    question = _without_tags(question, number)
    turns.append(conversations.turn(question, answer, domain=row.get('domain')))
  return turns


def _turns_of_instruction(entry, key: str) -> list[records.Turn]:
  """MotionLLM's `input` is the clip. Where that is named otherwise, it is more
  words of the question, as in the format that this one comes from.
  """
  question = _without_tags(entry['instruction'], 0)
  given = entry.get('input')
  if given and isinstance(question, str) and not _input_is_clip(entry, key):
    question = f'{question}\n{given}'
  return [
    conversations.turn(question, entry['output'], domain=entry.get('domain'))
  ]


def _input_is_clip(entry, key: str) -> bool:
  given = entry.get('input')
  is_name = isinstance(given, str) and len(given.split()) == 1
  return is_name and not key and not conversations.names(entry)


def _turns_of_pair(entry, key: str) -> list[records.Turn]:
  del key
  question = _without_tags(entry['q'], 0)
  return [conversations.turn(question, entry['a'], domain=entry.get('domain'))]


def _some(entry, name: str) -> list[Any]:
  found = conversations.listed(entry[name], name)
  if not found:
    raise ValueError(f'expected turns under {name}, found none; remove it.')
  return found


# --- Who says what -----------------------------------------------------------


def _turns_of_conversations(entry, key: str) -> list[records.Turn]:
  del key
  pairs = _pairs(entry)
  texts = [text for pair in pairs for text in pair]
  if entry.get('image') or any(_IMAGE in text for text in texts):
    raise ValueError(
      'expected a conversation about a video or a motion, found one about an '
      'image; keep those in a file of their own.'
    )
  return [
    conversations.turn(
      _without_tags(question, number), answer, domain=entry.get('domain')
    )
    for number, (question, answer) in enumerate(pairs)
  ]


def _pairs(entry) -> list[tuple[str, str]]:
  """Questions with their answers; neither may be alone."""
  roles, texts = [], []
  for number, row in enumerate(_some(entry, 'conversations')):
    speaker = row.get('from') if isinstance(row, dict) else None
    if speaker == 'system' and number == 0:
      continue  # Our templates have a system's words of their own.
    if speaker not in _ROLES or not isinstance(row.get('value'), str):
      raise ValueError(
        f'expected from ({", ".join(_ROLES)}) and value, found '
        f'{conversations.short(row)}; mend it.'
      )
    roles.append(_ROLES[speaker])
    texts.append(row['value'])
  if not roles or roles != ['question', 'answer'] * (len(roles) // 2):
    raise ValueError(
      'expected questions with an answer each, in turn, found '
      f'{", ".join(roles) or "none"}; add what is missing.'
    )
  return list(zip(texts[::2], texts[1::2], strict=True))


def _without_tags(
  question: Any, number: int, tags: Sequence[str] = _TAGS
) -> Any:
  """A question without the tags at its ends: templates have the clip's place.

  What is no text is left to the check of turns.
  """
  if not isinstance(question, str):
    return question
  found, text = 0, question.strip()
  ends = True
  while ends:
    ends = [t for t in tags if text.startswith(t) or text.endswith(t)]
    for tag in ends[:1]:
      text = (
        text.removeprefix(tag) if text.startswith(tag) else text[: -len(tag)]
      )
      text, found = text.strip(), found + 1
  if found > (number == 0) or any(tag in text for tag in tags):
    raise ValueError(
      f'expected one of {", ".join(tags)} at an end of the first question, or '
      f'none, found {conversations.short(question)} as question {number + 1}; '
      'move it, and keep conversations about several clips in a file of their '
      'own.'
    )
  return text


# --- IRG-MotionLLM -----------------------------------------------------------


def _read_tagged(entry) -> list[conversations.Conversation]:
  """Tags stand for the motion, and for texts of one or several wordings.

  Each wording makes a conversation. What a caption answers is a template of
  another file; we have our own questions for that.
  """
  tag, motion, texts = _tagged(entry)
  pairs = _pairs(entry)
  used = [n for n in texts if any(n in text for pair in pairs for text in pair)]
  many = max((len(texts[name]) for name in used), default=1)
  if any(len(texts[name]) not in (1, many) for name in used):
    raise ValueError(
      'expected as many wordings of each text, or one, found '
      f'{", ".join(f"{len(texts[n])} of {n}" for n in used)}; mend them.'
    )
  is_caption = str(entry.get('task', '')).endswith('motion_caption')
  fields = {'domain': entry.get('domain')}
  if is_caption:
    fields = {'domain': 'motion_caption', 'kind': 'caption'}
  rest = {k: v for k, v in entry.items() if k not in ('motions', 'text')}
  made = []
  for i in range(many):
    turns = []
    for number, pair in enumerate(pairs):
      question, answer = (
        _filled(text, {n: texts[n][i % len(texts[n])] for n in used})
        for text in pair
      )
      question = _without_tags(question, number, (tag, *_TAGS))
      if is_caption and _PLACEHOLDER.fullmatch(question):
        drawn = zlib.crc32(motion['motion_name'].encode()) + i
        known = clips.QUESTIONS['motion_caption']
        question = known[drawn % len(known)]
      if left := _PLACEHOLDER.search(f'{question} {answer}'):
        raise ValueError(
          f'expected words, found {left[0]}; write what it stands for, or '
          'remove the entry where it is a motion to be made.'
        )
      turns.append(conversations.turn(question, answer, **fields))
    made.append(conversations.make(rest | motion, turns))
  return made


def _tagged(entry) -> tuple[str, dict[str, Any], dict[str, list[str]]]:
  """Tag and fields of the motion, and the wordings of each text."""
  motions, texts = entry['motions'], entry.get('text') or {}
  if not isinstance(motions, dict) or len(motions) != 1:
    raise ValueError(
      f'expected one motion, found {conversations.short(motions)}; keep '
      'conversations that compare motions in a file of their own.'
    )
  ((tag, motion),) = motions.items()
  named = isinstance(motion, dict) and motion.get('motion_name')
  if not isinstance(named, str):
    raise ValueError(
      f'expected a motion_name under {tag}, found '
      f'{conversations.short(motion)}; name the motion.'
    )
  if not isinstance(texts, dict) or not all(
    isinstance(words, list) and words and all(isinstance(w, str) for w in words)
    for words in texts.values()
  ):
    raise ValueError(
      'expected a list of wordings for each text, found '
      f'{conversations.short(texts)}; mend it.'
    )
  return tag, motion, texts


def _filled(text: str, words: dict[str, str]) -> str:
  for name, word in words.items():
    text = text.replace(name, word)
  return text


_READERS = {
  'turns': _turns_of_turns,
  'conversations': _turns_of_conversations,
  'QA': _turns_of_qa,
  'item': _turns_of_item,
  'instruction': _turns_of_instruction,
  'pair': _turns_of_pair,
}
