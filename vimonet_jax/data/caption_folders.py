"""Captions of clips in a folder of texts, as Motion-X has them for its videos.

<any folders>/<clip>.txt    a caption a line, in words alone or as
                            HumanML3D has them (see `captions`)
"""

import os
import pathlib
import zlib

from vimonet_jax.data import captions, clips, conversations, records


def read(
  path: str | os.PathLike,
) -> tuple[list[conversations.Conversation], list[str]]:
  """A conversation for each caption; a sentence for each text without one.

  The text's path is the clip's, and one of our questions is asked.

  Raises:
    ValueError: there is no text.
  """
  root = pathlib.Path(path)
  files = sorted(root.rglob('*.txt'))
  if not files:
    raise ValueError(
      f'{path}: expected texts (*.txt), found none; give the folder that has '
      'them, or a file of questions and answers.'
    )
  questions = clips.QUESTIONS['']
  found, faults = [], []
  for file in files:
    name = file.relative_to(root).with_suffix('').as_posix()
    try:
      said = _captions(file)
    except ValueError as e:
      faults.append(str(e))
      continue
    first = zlib.crc32(name.encode())
    for number, caption in enumerate(said):
      question = questions[(first + number) % len(questions)]
      found.append(
        conversations.Conversation(
          name,
          name,
          (records.Turn(question, caption.text, kind='caption'),),
          start_s=caption.start_s,
          end_s=caption.end_s,
          provenance={
            'file': os.path.basename(root),
            'place': file.relative_to(root).as_posix(),
          },
        )
      )
  return found, faults


def _captions(file: pathlib.Path) -> list[captions.Caption]:
  """Raises a ValueError where there is none, or one is not as it should be."""
  lines = captions.read_lines(file)
  if any('#' in line for line in lines):
    said = captions.read(file)
  else:
    said = [captions.Caption(line) for line in lines]
  if not said:
    raise ValueError(
      f'{file}: expected a caption a line, found none; write one or remove the '
      'file.'
    )
  for caption in said:
    whole = caption.start_s == caption.end_s == 0
    if not (whole or caption.start_s < caption.end_s):
      raise ValueError(
        f'{file}: expected a start before the end, found {caption.start_s} to '
        f'{caption.end_s} s; mend them.'
      )
  return said
