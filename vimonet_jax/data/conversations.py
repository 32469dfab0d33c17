"""A conversation about a clip that is known by its name only.

Files of questions and answers (`qa_files`) have such; a source of clips makes
records of them. The functions make one out of the fields of a JSON object and
check each; their errors are the end of a sentence that begins with a place.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vimonet_jax.data import records, sources

Entry = Mapping[str, Any]

# Keys under which an entry names its clip. Which one tells nothing of it: MoVid
# has its motions under `video`.
_NAMES = (
  'media', 'clip', 'clip_id', 'video', 'video_id', 'video_name', 'motion',
  'motion_id', 'motion_name',
)  # fmt: skip
_IDS = ('id', 'question_id')
_STARTS, _ENDS = ('start_s', 'start', 'f_tag'), ('end_s', 'end', 'to_tag')
_MODALITIES = ('motion', 'video', 'both')
# Of what else an entry says, this is where its words come from.
_PROVENANCE = ('task', 'model', 'generator', 'licence', 'source', 'evidence')
# What the generator of Video-ChatGPT's answers left at the end of some (its
# authors call it noise: issue 69 of mbzuai-oryx/Video-ChatGPT).
_NOISE = re.compile(r'\s*\n\s*QA_GT_caption_based_noisy\s*$')


@dataclasses.dataclass(frozen=True)
class Conversation:
  """What was asked about one clip, in its order.

  Attributes:
    id: as the entry has it, or empty.
    media: the clip's name as the entry has it, maybe with folder and ending.
    turns: one or more.
    medium: `motion` or `video`, where the entry has it as its modality: a clip
      without it is another one of that name. Empty for either.
    split: `train`, `val` or `test`, or empty where the entry does not say.
    start_s, end_s: the part of the clip that it is about; both 0 for all of it.
    collection: the folder that the clip is in, as Valley's `source` names it.
    provenance: where the words come from; plain JSON values.
    in_order: whether a turn may refer to any before it. An entry whose turns
      say whether they follow the one before knows better.
  """

  id: str
  media: str
  turns: tuple[records.Turn, ...]
  medium: str = ''
  split: str = ''
  start_s: float = 0.0
  end_s: float = 0.0
  collection: str = ''
  provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
  in_order: bool = True

  @property
  def clip(self) -> str:
    """The clip's name without folder and ending."""
    return stem(self.media)


def stem(name: str) -> str:
  """'joints/000021.npy' -> '000021'; an ending begins with a letter."""
  name = name.replace('\\', '/').rstrip('/').rpartition('/')[2]
  return re.sub(r'\.[A-Za-z]\w*$', '', name)


def path_of(name: str) -> tuple[str, ...]:
  """'./idea400/Eat.npy' -> idea400, Eat."""
  folders = name.replace('\\', '/').rstrip('/').split('/')[:-1]
  return (*(x for x in folders if x not in ('', '.', '..')), stem(name))


def is_end(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
  """Whether one of two paths is the end of the other.

  A list may begin above the folder that somebody has, or below.
  """
  number = min(len(one), len(other))
  return one[-number:] == other[-number:]


def make(
  entry: Entry,
  turns: Sequence[records.Turn],
  *,
  key: str = '',
  collection: str = '',
) -> Conversation:
  """A conversation of an entry's fields.

  Args:
    entry: names the clip under one of `_NAMES`, else by its id.
    turns: of the entry.
    key: the entry's name in its file, which is the clip's then.
    collection: see `Conversation`.

  Raises:
    ValueError: a field is not as it should be.
  """
  named = names(entry)
  name = next((entry[k] for k in _IDS if entry.get(k) is not None), key)
  media = max(map(str, named.values()), key=len, default=key or str(name))
  if not media or len({stem(str(value)) for value in named.values()}) > 1:
    raise ValueError(
      f'expected one clip under {", ".join(_NAMES)} or id, found '
      f'{short(named) if named else "none"}; name the clip.'
    )
  provenance = entry.get('provenance') or {}
  if not isinstance(provenance, dict):
    raise ValueError(
      f'expected an object under provenance, found {short(provenance)}; mend '
      'it.'
    )
  start_s, end_s = _bounds(entry)
  modality = _one_of(entry, 'modality', _MODALITIES)
  return Conversation(
    str(name),
    media,
    tuple(turns),
    medium='' if modality == 'both' else modality,
    split=_one_of(entry, 'split', sources.SPLITS),
    start_s=start_s,
    end_s=end_s,
    collection=collection,
    in_order=not _says_what_follows(entry.get('turns')),
    provenance={
      field: entry[field]
      for field in _PROVENANCE
      if isinstance(entry.get(field), str) and entry[field]
    }
    | provenance,
  )


def _says_what_follows(rows: Any) -> bool:
  """Whether each of an entry's turns says if it needs the one before it."""
  return isinstance(rows, list) and all(
    isinstance(row, dict) and 'follows' in row for row in rows
  )


def names(entry: Entry) -> dict[str, str | int]:
  """What an entry calls its clip, by key; a list of one name is that name."""
  found = {}
  for field in _NAMES:
    value = entry.get(field)
    if isinstance(value, list) and len(value) == 1:
      value = value[0]
    if value in (None, '', []) and not isinstance(value, int):
      continue
    if isinstance(value, bool) or not isinstance(value, str | int):
      raise ValueError(
        f'expected the name of one clip under {field}, found {short(value)}; '
        'keep conversations about several clips in a file of their own.'
      )
    found[field] = value
  return found


def turn(
  question: Any,
  answer: Any,
  *,
  domain: Any = '',
  kind: Any = '',
  fact: Any = '',
  choices: Any = (),
  follows: Any = False,
) -> records.Turn:
  """A turn whose parts are words; None is as good as nothing.

  Raises:
    ValueError: one is something else, or question or answer has no words.
  """
  for name, text in (('question', question), ('answer', answer)):
    if not isinstance(text, str) or not text.strip():
      raise ValueError(
        f'expected a {name} in words, found {short(text)}; write it or remove '
        'the entry.'
      )
  domain = _one_of({'domain': domain}, 'domain', records.DOMAINS)
  words = {'kind': kind or '', 'fact': fact or ''}
  for name, text in words.items():
    if not isinstance(text, str):
      raise ValueError(
        f'expected {name} in words, found {short(text)}; mend it.'
      )
  choices = listed(choices or [], 'choices')
  if not all(isinstance(choice, str) for choice in choices):
    raise ValueError(
      f'expected choices in words, found {short(choices)}; mend them.'
    )
  if not isinstance(follows or False, bool):
    raise ValueError(
      f'expected follows to be true or false, found {short(follows)}; mend it.'
    )
  return records.Turn(
    question.strip(),
    _NOISE.sub('', answer).strip(),
    domain,
    choices=tuple(choices),
    follows=bool(follows),
    **words,
  )


def listed(value: Any, name: str) -> list[Any]:
  """The value, which has to be a list.

  Raises:
    ValueError: it is not.
  """
  if not isinstance(value, list):
    raise ValueError(
      f'expected a list under {name}, found {short(value)}; mend it.'
    )
  return value


def short(value: Any) -> str:
  """What was found, for a sentence."""
  text = repr(value)
  return text if len(text) <= 60 else f'{text[:57]}...'


def _one_of(entry: Entry, field: str, known) -> str:
  value = entry.get(field) or ''
  if not isinstance(value, str) or value not in ('', *known):
    raise ValueError(
      f'expected a {field} of {", ".join(known)}, found {short(value)}; mend '
      'it or leave it out.'
    )
  return value


def _bounds(entry: Entry) -> tuple[float, float]:
  given = [
    next((entry[field] for field in fields if entry.get(field) is not None), 0)
    for fields in (_STARTS, _ENDS)
  ]
  try:
    start_s, end_s = map(float, given)
  except (TypeError, ValueError):
    start_s = end_s = math.nan
  if not (start_s == end_s == 0 or 0 <= start_s < end_s < math.inf):
    raise ValueError(
      f'expected a start before the end in seconds, found {short(given)}; mend '
      'them.'
    )
  return start_s, end_s
