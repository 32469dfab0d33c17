"""Looks for the watermark in text.

    python -m vimonet_jax.main --config=configs/tiny.py --task=detect \\
        --input=answers.jsonl --config.watermark.key_file=mark.key

Reads what --task=answer has written, a `.jsonl`, or plain text of which every
line is an answer. All of it is looked at as one: the mark needs some hundred
tokens, and an answer has ten. Of the work folder only the tokenizer and the
template are read.
"""

import os

from vimonet_jax.audit import watermark
from vimonet_jax.data import records
from vimonet_jax.infer import model_folder

# Text without the mark is said to have it this often.
_LEVEL = 0.01


def run(
  workdir: str, path: str | None, mark: watermark.Watermark | None
) -> int:
  """Prints how green the text is, and what that means.

  Args:
    workdir: of the model that may have written it.
    path: of the text.
    mark: to look for.

  Returns:
    0, whatever was found.

  Raises:
    ValueError: there is no text, or nothing to look for.
    OSError: a file cannot be read.
  """
  if not path:
    raise ValueError(
      'Expected --input=answers.jsonl or a file of text, found no --input; '
      'name it.'
    )
  if mark is None:
    raise ValueError(
      'Expected the key of the watermark to look for, found none; name its '
      'file with --config.watermark.key_file=FILE.'
    )
  texts = _read(path)
  bundle = model_folder.read(os.path.join(workdir, 'model'))
  found = watermark.detect(map(bundle.layout.tokenizer.encode, texts), mark)
  print(
    f'z {found.z:.2f}, p {found.p:.2g}: {found.tokens} tokens in {len(texts)} '
    f'texts, {found.scored} of them count, {found.green} are green; without '
    f'the mark about {mark.gamma * found.scored:.0f} are.'
  )
  print(_sentence(found))
  return 0


def _sentence(found: watermark.Detection) -> str:
  if not found.scored:
    return 'There is nothing to look at: it takes one token or more.'
  if found.p < _LEVEL:
    once = f'once in {1 / found.p:,.0f} times' if found.p else 'never'
    return (
      f'It carries the mark of this key: text without it is as green as this '
      f'{once}.'
    )
  return (
    'No mark of this key is seen: text without it is as green as this '
    f'{found.p:.0%} of the time.'
  )


def _decoded(path: str, written: bytes) -> str:
  try:
    return written.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{path}: expected text in UTF-8, found {error.reason}; save it as UTF-8.'
    ) from error


def _read(path: str) -> list[str]:
  """Answers, one or more."""
  if path.endswith('.jsonl'):
    lines = list(records.read_json_lines(path))
    for number, line in enumerate(lines, start=1):
      if not isinstance(line, dict) or not {'answer', 'error'} & line.keys():
        raise ValueError(
          f'{path}, line {number}: expected an answer of --task=answer, found '
          f'{str(line)[:60]!r}; give plain text another ending than .jsonl.'
        )
      if not isinstance(line.get('answer', ''), str):
        raise ValueError(
          f'{path}, line {number}: expected an answer in words, found '
          f'{str(line["answer"])[:60]!r}; correct or remove the line.'
        )
    texts = [line['answer'] for line in lines if 'answer' in line]
  else:
    with open(path, 'rb') as f:
      texts = _decoded(path, f.read()).splitlines()
  texts = [text for text in texts if text.strip()]
  if not texts:
    raise ValueError(f'{path}: expected some text, found none.')
  return texts
