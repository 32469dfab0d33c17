"""Captions of a clip, as HumanML3D's text files have them.

    a man walks.#a/DET man/NOUN walk/VERB#0.0#0.0
"""

import dataclasses
import math
import os
import pathlib


@dataclasses.dataclass(frozen=True)
class Caption:
  """What is said of a clip, or of `start_s` to `end_s` where not both are 0."""

  text: str
  start_s: float = 0.0
  end_s: float = 0.0


def read(path: str | os.PathLike) -> list[Caption]:
  """All captions of a text file; lines without words say nothing.

  Raises:
    ValueError: not UTF-8, or a line that has not the four parts above.
  """
  found = []
  for number, line in enumerate(read_text(path).splitlines(), 1):
    if not line.strip():
      continue
    try:
      text, _, start, end = line.split('#')[:4]
      caption = Caption(text.strip(), _seconds(start), _seconds(end))
    except ValueError as e:
      raise ValueError(
        f'{path}, line {number}: expected caption#words#start#end with seconds '
        f'as numbers of at least 0, found {line[:60]!r}; mend or remove that '
        'line.'
      ) from e
    if caption.text:
      found.append(caption)
  return found


def read_text(path: str | os.PathLike) -> str:
  """A text file's content, without the mark that Windows puts in front.

  Raises:
    ValueError: not UTF-8.
  """
  try:
    return pathlib.Path(path).read_text(encoding='utf-8-sig')
  except UnicodeDecodeError as e:
    raise ValueError(
      f'{path}: expected text in UTF-8, found {e.object[e.start : e.end]!r} at '
      f'byte {e.start}; save the file in UTF-8.'
    ) from e


def read_lines(path: str | os.PathLike) -> list[str]:
  """The lines of a text file that have something in them, e.g. names of clips.

  Raises:
    ValueError: not UTF-8.
  """
  # Not splitlines: words may have what Python ends lines at besides.
  lines = map(str.strip, read_text(path).split('\n'))
  return [line for line in lines if line]


def _seconds(tag: str) -> float:
  seconds = float(tag)
  if math.isnan(seconds):  # A few files have NaN where others have 0.
    return 0.0
  if not 0 <= seconds < math.inf:
    raise ValueError(f'{tag} is no time of a clip')
  return seconds
