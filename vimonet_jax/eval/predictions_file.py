"""Predictions of any system, read from its file and joined to items by id.

found = predictions_file.read('theirs.jsonl', items)
print(*found.reports(), sep='\\n')
lines = run.as_predictions(items, found.texts)
"""

import collections
import json
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import benchmarks

Row = dict[str, Any]

# Who writes what. The first layout whose fields are all there is taken, so
# `answer` is a prediction only where there is no `pred`: Video-LLaVA writes
# id, question, answer and pred, and its answer is the right one.
_LAYOUTS = (
  ('id', 'text'),  # this package
  ('id', 'pred'),  # Video-LLaVA
  ('question_id', 'text'),  # LLaVA
  ('question_id', 'pred'),
  ('question_id', 'answer'),  # ActivityNet-QA, which has nothing besides
  ('video_name', 'Q', 'pred'),  # Video-ChatGPT, which has no ids
)


class Predictions(NamedTuple):
  """What a file says about some items.

  Attributes:
    texts: one an item, in the items' order; empty where there is none, which
      is scored as failed.
    missing: ids of items that the file does not have.
    empty: ids of items whose text in the file is empty or null.
    unknown: ids in the file that no item has.
  """

  texts: list[str]
  missing: tuple[str, ...]
  empty: tuple[str, ...]
  unknown: tuple[str, ...]

  def reports(self) -> list[str]:
    """A sentence for each thing that is not as it should be."""
    n = len(self.texts)
    return [
      f'Expected {expected} {len(ids)}, such as {ids[0]}; {then}.'
      for ids, expected, then in (
        (
          self.missing,
          f'a prediction for each of {n} items, found none for',
          'they count as failed',
        ),
        (
          self.empty,
          f'words in the predictions for {n} items, found no word in',
          'they count as failed',
        ),
        (
          self.unknown,
          f'predictions for these {n} items, found others for',
          'they are left out',
        ),
      )
      if ids
    ]


def read(
  path: str | os.PathLike, items: Sequence[benchmarks.Item]
) -> Predictions:
  """The text that a file has for each item.

  The file is JSON lines or a JSON list, in any order, of objects with

      id or question_id, and text or pred
      video_name, Q, pred            as Video-ChatGPT's

  and anything besides; or of nothing but

      question_id, answer            as ActivityNet-QA's predictions

  since beside anything else an answer may be the right one. Video-ChatGPT's
  has no ids: an item is its video and question, where the item's id is the
  video's name, with `v_` before it and `_` or `/` and more behind it or not.

  Args:
    path: the file.
    items: of one input, so that their ids differ.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: one sentence about what is wrong with the file; also where it
      has an id twice, since one of the two would be dropped, or none of the
      items' ids.
  """
  ids = collections.Counter(item.id for item in items)
  if twice := [name for name, n in ids.items() if n > 1]:
    raise ValueError(
      f'Expected items with an id each, found {twice[0]} twice; join the items '
      'of one input and one corruption.'
    )
  rows = _rows(path)
  layout = _layout(path, rows[0])
  name_of = _by_video(items) if layout[0] == 'video_name' else _by_id(layout[0])
  found: dict[str, str] = {}
  for number, row in enumerate(rows, 1):
    where = f'{path}, prediction {number}'
    text = _text(where, row, layout)
    try:
      name = name_of(row)
    except ValueError as e:
      raise ValueError(f'{where}: {e}') from e
    if name in found:
      raise ValueError(
        f'{where}: expected each id once, found {name} again; remove one of '
        'the two.'
      )
    found[name] = text
  unknown = tuple(name for name in found if name not in ids)
  if len(unknown) == len(found):
    raise ValueError(
      f'{path}: expected ids of the {len(ids)} items, such as '
      f'{next(iter(ids), "none")}, found none of them, but {unknown[0]}; give '
      'the predictions of this benchmark and split.'
    )
  return Predictions(
    texts=[found.get(name, '') for name in ids],
    missing=tuple(name for name in ids if name not in found),
    empty=tuple(name for name in ids if not found.get(name, 'x').strip()),
    unknown=unknown,
  )


def _rows(path: str | os.PathLike) -> list[Any]:
  """A list begins with a bracket, whatever the name of the file."""
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f'Expected a file of predictions, found no {path}; correct the path.'
    )
  try:
    with open(path, encoding='utf-8-sig') as f:
      first = next(filter(str.strip, f), '')
    if first.lstrip().startswith('['):
      rows = records_lib.read_json_list(path)
    else:
      rows = list(records_lib.read_json_lines(str(path)))
  except UnicodeDecodeError as e:
    raise ValueError(
      f'{path}: expected JSON lines or a JSON list in UTF-8, found {e.reason} '
      f'at byte {e.start}; give the file of predictions.'
    ) from e
  if not rows:
    raise ValueError(
      f'{path}: expected predictions, found none; check that the run that '
      'wrote it has finished.'
    )
  return rows


def _layout(path, row: Any) -> tuple[str, ...]:
  held = row if isinstance(row, dict) else {}
  if 'text' in held and 'pred' in held:
    raise ValueError(
      f'{path}: expected one prediction in a line, found text and pred; remove '
      'the one that is not to be scored.'
    )
  for fields in _LAYOUTS:
    if held.keys() >= set(fields):
      others = [field for field in held if field not in fields]
      if fields[-1] == 'answer' and others:
        raise ValueError(
          f'{path}: expected nothing beside question_id and answer, found '
          f'{", ".join(others)}, so that answer may be the right one; rename '
          'what was predicted to pred.'
        )
      return fields
  raise ValueError(
    f'{path}: expected predictions with '
    f'{"; ".join(" and ".join(fields) for fields in _LAYOUTS)}, found '
    f'{", ".join(held) or type(row).__name__}; rename the fields to id and '
    'text.'
  )


def _text(where: str, row: Any, layout: Sequence[str]) -> str:
  held = row if isinstance(row, dict) else {}
  if absent := [field for field in layout if field not in held]:
    raise ValueError(
      f'{where}: expected {", ".join(layout)} as in the first one, found no '
      f'{absent[0]}; add it or remove this one.'
    )
  text = row[layout[-1]]
  if not isinstance(text, str | None):
    raise ValueError(
      f'{where}: expected a text under {layout[-1]}, found '
      f'{json.dumps(text)[:40]}; write it as one.'
    )
  return text or ''


def _by_id(field: str) -> Callable[[Row], str]:
  def name_of(row: Row) -> str:
    name = row[field]
    if isinstance(name, bool) or not isinstance(name, str | int):
      raise ValueError(
        f'expected a text or a whole number under {field}, found '
        f'{json.dumps(name)[:40]}; correct it.'
      )
    return str(name)

  return name_of


def _by_video(items: Sequence[benchmarks.Item]) -> Callable[[Row], str]:
  by_question = collections.defaultdict(list)
  for item in items:
    by_question[_words(item.question)].append(item.id)

  def name_of(row: Row) -> str:
    video = str(row['video_name']).removeprefix('v_')
    of_video = re.compile(rf'(v_)?{re.escape(video)}([_/].*)?', re.DOTALL)
    asked = by_question.get(_words(str(row['Q'])), ())
    fitting = [name for name in asked if of_video.fullmatch(name)]
    if len(fitting) > 1:
      raise ValueError(
        f'expected one item about {video} with this question, found '
        f'{" and ".join(fitting[:2])}; give each prediction its id.'
      )
    return fitting[0] if fitting else f'{video}: {row["Q"]}'

  return name_of


def _words(question: str) -> str:
  """Some scripts put a question mark or a capital where the file has none."""
  return ' '.join(question.lower().rstrip(' ?').split())
