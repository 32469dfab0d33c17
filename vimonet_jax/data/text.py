"""From a conversation to a row of ids: template, layout of media.

Training and inference lay out a conversation with the functions below and with
nothing else, and how many places a clip takes is counted here only.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vimonet_jax.data import records, tokenizer

TEXT = -1  # in media_index: an ordinary token
# Words that can stand together in one place of a clip, besides the first.
MORE_WORDS = 3
NO_PLACE = -1  # in more_tokens: an ordinary token, not a place of a clip
MOTION_SLOTS = records.MAX_MOTION_FRAMES // records.FRAMES_PER_TOKEN

# tokens, positions, media_index int32 [l] and loss_mask bool [l]; more_tokens
# int32 [l, MORE_WORDS] where words stand for a clip
Example = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Template:
  """The words around a conversation. Parts end in the space they need.

  Attributes:
    system: opens a conversation of words only.
    system_media: opens a conversation about a clip.
    user, assistant: whose words come next.
    video, motion: which clip comes next.
    stop: ends a clip.
    media_first: clips stand before the first question, not behind it.
  """

  system: str
  system_media: str
  user: str = 'USER: '
  assistant: str = 'ASSISTANT: '
  video: str = 'INPUT_VIDEO: '
  motion: str = 'INPUT_MOTION_TOKENS: '
  stop: str = '. '
  media_first: bool = False


_CHAT = 'A chat between a curious user and an artificial intelligence assistant'
_MANNERS = (
  "The assistant gives helpful, detailed, and polite answers to the user's "
  'questions. '
)
TEMPLATES = {
  # The literals of MotionLLM, so that weights trained with them stay usable.
  'vicuna': Template(
    system=f'{_CHAT}. {_MANNERS}',
    system_media=(
      f'{_CHAT}, paired with an input that provides further context. {_MANNERS}'
    ),
  ),
  # For a decoder grown from nothing, which learns nothing from a sentence that
  # is the same in every row. Clips come first, as in Video-LLaVA: then all
  # turns of a row are asked alike, and each trains the one that is asked alone.
  'short': Template(system='', system_media='', media_first=True),
}


@dataclasses.dataclass(frozen=True)
class Layout:
  """How conversations become rows.

  Attributes:
    tokenizer: writes text as ids.
    template: a value of `TEMPLATES`.
    video_tokens: places that a video clip takes: frames * patches. It has to be
      the number of vectors that the video encoder gives.
    motion_slots: rows of the media bank that a motion clip has, used or not.
  """

  tokenizer: tokenizer.Tokenizer
  template: Template
  video_tokens: int = 0
  motion_slots: int = MOTION_SLOTS


@dataclasses.dataclass(frozen=True)
class Segment:
  """Words that are encoded by themselves, or a clip.

  Attributes:
    role: `prompt`, `answer`, `video`, `motion`, or `words` in place of a clip.
    text: the words; a clip has none.
  """

  role: str
  text: str = ''


def segments(record: records.Record, template: Template) -> list[Segment]:
  """A conversation's segments; one line a segment here:

      {system_media}USER: {question} \\n
      INPUT_VIDEO:                   this line and the next only with a video
      <video>
      . INPUT_MOTION_TOKENS:         these two only with a motion; the stop in
      <motion>                       front only with a video
      . ASSISTANT:
      {answer}
      USER: {question} ASSISTANT:    these two for every later turn
      {answer}

  A conversation of words only has `{system}USER: {question} ASSISTANT: ` in
  place of all lines before the first answer. Words that stand for a clip
  (`video_text`, `motion_text`) are in the clip's place. A template with media
  first opens with the clips:

      {system_media}INPUT_VIDEO:
      <video>
      . INPUT_MOTION_TOKENS:
      <motion>
      . USER: {question} ASSISTANT:
      {answer}

  Raises:
    ValueError: there are no turns, or both a clip and words that stand for it.
  """
  if not record.turns:
    raise ValueError(
      f'Record {record.id}: expected at least one turn, found none; a question '
      'with an empty answer is a turn too.'
    )
  first, *later = record.turns
  clips = []
  if clip := _clip(record.id, 'video', record.frames, record.video_text):
    clips += [Segment('prompt', template.video), clip]
  if clip := _clip(record.id, 'motion', record.motion, record.motion_text):
    stop = template.stop if clips else ''
    clips += [Segment('prompt', stop + template.motion), clip]
  if clips and template.media_first:
    label, *clips = clips
    opening = template.system_media + label.text
    ending = template.stop + _ask(first.question, template)
    row = [Segment('prompt', opening), *clips, Segment('prompt', ending)]
  elif clips:
    opening = f'{template.system_media}{template.user}{first.question} \n'
    ending = f'{template.stop}{template.assistant}'
    row = [Segment('prompt', opening), *clips, Segment('prompt', ending)]
  else:
    row = [Segment('prompt', template.system + _ask(first.question, template))]
  row.append(Segment('answer', first.answer))
  for turn in later:
    row.append(Segment('prompt', _ask(turn.question, template)))
    row.append(Segment('answer', turn.answer))
  return row


def _ask(question: str, template: Template) -> str:
  return f'{template.user}{question} {template.assistant}'


def _clip(name: str, medium: str, clip, words: str | None) -> Segment | None:
  if clip is not None and words is not None:
    raise ValueError(
      f'Record {name}: expected a {medium} or words that stand for it, found '
      f'both; leave out one of {medium}_text and the clip.'
    )
  if clip is not None:
    return Segment(medium)
  return None if words is None else Segment('words', words)


def texts(record: records.Record, template: Template) -> Iterator[str]:
  """Every string of a conversation that is encoded by itself.

  This is what a tokenizer should be trained on.
  """
  for segment in segments(record, template):
    if segment.role == 'words':
      yield from segment.text.replace('+', ' ').split()
    elif segment.text:
      yield segment.text


def encode_dialog(record: records.Record, layout: Layout) -> Example:
  """A conversation as a row: answers and their eos are to be predicted.

      tokens      = [bos  Who  INPUT   0   0   .  He  eos  Why  So  eos]
      media_index = [ -1   -1     -1   0   1  -1  -1   -1   -1  -1   -1]
      loss_mask   = [  0    0      0   0   0   0   1    1    0   1    1]

  Words that stand for a clip have a place each. Those that are joined by a `+`
  lie on top of each other in one place, like all that an encoder says of one
  moment; their embeddings are added up:

      motion_text = 'walking+slowly waving'
      tokens      = [bos walking waving]
      more_tokens = [[-1 -1 -1] [slowly 0 0] [0 0 0]]

  The row is as long as it is: whoever has a limit asks packing.misfit.

  Returns:
    tokens, positions and media_index int32 [l], loss_mask bool [l]; with words
    that stand for a clip also more_tokens int32 [l, MORE_WORDS]. The bank that
    media_index counts in has the record's motion first, which takes
    `motion_slots` rows however short it is, then the video.
  """
  return _encode(segments(record, layout.template), record, layout)


def encode_prompt(record: records.Record, layout: Layout) -> Example:
  """`encode_dialog` up to where the last answer is to be written, or to go on.

  The last turn's answer is empty, or only begun. What it begins with is the end
  of the prompt, and no eos comes behind it:

      answer = 'Best option:('
      tokens = [bos ... ▁ASSISTANT : ▁ ▁Best ▁option :(]

  So the next token is what it would be in training, `A` and not `▁A`. Blanks at
  the end of what is begun are left out: the next word's token has its own.
  """
  *before, answer = segments(record, layout.template)
  if begun := answer.text.rstrip(' '):
    before.append(Segment('prompt', begun))
  return _encode(before, record, layout)


class Answers(NamedTuple):
  """Several ways for an open question's answer to end.

  Attributes:
    ids: int32 [l] of each, from where they and the prompt begin to differ to
      the eos.
    cut: how many tokens of encode_prompt they do without, at its end. There are
      some where the last letters of what is begun and the first of an answer
      are one token.
  """

  ids: tuple[np.ndarray, ...]
  cut: int


def encode_answers(
  record: records.Record, candidates: Sequence[str], layout: Layout
) -> Answers:
  """Ids of answers that begin as the last turn's does and go on differently.

      answer     = 'It is '
      candidates = ['he', 'heavy']
      prompt     = [bos ... ▁ASSISTANT : ▁ ▁It ▁is]
      ids        = [▁he eos], [▁he a vy eos]

  What is begun and a candidate are encoded as one text, as in training.

  Raises:
    ValueError: there are no candidates, or one adds nothing to the answer.
  """
  if isinstance(candidates, str) or not candidates:
    raise ValueError(
      f'Record {record.id}: expected a list of one candidate answer or more, '
      f'found {candidates!r}; give those that are to be compared.'
    )
  begun = segments(record, layout.template)[-1].text
  encode = layout.tokenizer.encode
  prompt = encode(begun.rstrip(' '))
  answers = [encode(begun + candidate) for candidate in candidates]
  shared = len(os.path.commonprefix([prompt, *answers]))
  for candidate, answer in zip(candidates, answers, strict=True):
    if not candidate.strip() or len(answer) == shared:
      raise ValueError(
        f'Record {record.id}: expected candidate answers of one token or more, '
        f'found {candidate!r}; leave it out.'
      )
  return Answers(
    tuple(np.array([*x[shared:], tokenizer.EOS], np.int32) for x in answers),
    len(prompt) - shared,
  )


def encode_turn(question: str, layout: Layout) -> np.ndarray:
  """What follows the eos of an answer when there is one more question.

  Returns:
    int32 [l], the same ids that encode_prompt has at the end of a longer
    conversation.
  """
  ids = layout.tokenizer.encode(_ask(question, layout.template))
  return np.array(ids, np.int32)


def _encode(
  row: Sequence[Segment], record: records.Record, layout: Layout
) -> Example:
  tokens, media_index, loss_mask = [tokenizer.BOS], [TEXT], [False]
  more_tokens = {}
  for segment in row:
    if segment.role == 'words':
      for first, *more in _words(segment.text, layout):
        more_tokens[len(tokens)] = more
        tokens.append(first)
        media_index.append(TEXT)
        loss_mask.append(False)
    elif segment.role in ('prompt', 'answer'):
      is_answer = segment.role == 'answer'
      ids = layout.tokenizer.encode(segment.text) + [tokenizer.EOS] * is_answer
      tokens += ids
      media_index += [TEXT] * len(ids)
      loss_mask += [is_answer] * len(ids)
    else:
      places = _places(segment.role, record, layout)
      tokens += [tokenizer.PAD] * len(places)
      media_index += places
      loss_mask += [False] * len(places)
  example = {
    'tokens': np.array(tokens, np.int32),
    'loss_mask': np.array(loss_mask, bool),
    'positions': np.arange(len(tokens), dtype=np.int32),
    'media_index': np.array(media_index, np.int32),
  }
  if more_tokens:
    more_lW = np.full((len(tokens), MORE_WORDS), NO_PLACE, np.int32)
    for at, ids in more_tokens.items():
      more_lW[at] = ids + [tokenizer.PAD] * (MORE_WORDS - len(ids))
    example['more_tokens'] = more_lW
  return example


def _words(words: str, layout: Layout) -> Iterator[list[int]]:
  """Ids of each place; a word by itself may take several places."""
  for place in words.split():
    parts = [word for word in place.split('+') if word] or [place]
    ids = [i for word in parts for i in layout.tokenizer.encode(word)]
    if len(parts) == 1:
      yield from ([i] for i in ids)
    elif len(ids) <= 1 + MORE_WORDS:
      yield ids
    else:
      raise ValueError(
        f'Expected at most {1 + MORE_WORDS} tokens in one place of words that '
        f'stand for a clip, found {len(ids)} in {place!r}; use fewer or '
        'shorter words, or a tokenizer that has them whole.'
      )


def _places(medium: str, record: records.Record, layout: Layout) -> range:
  """Rows of the record's own media bank that a medium takes."""
  if medium == 'motion':
    return range(len(record.motion) // records.FRAMES_PER_TOKEN)
  if not layout.video_tokens:
    raise ValueError(
      f'Record {record.id}: expected a layout with video_tokens for its '
      'frames, found 0; set it to frames * patches of the video encoder.'
    )
  start = layout.motion_slots if record.motion is not None else 0
  return range(start, start + layout.video_tokens)
