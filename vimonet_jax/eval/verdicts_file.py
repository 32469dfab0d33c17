"""The file of what judges said, a JSON line a verdict.

It says all that a reader needs of question and answer, so that runs can be
compared question by question without their items; see studies.
"""

import collections
import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence

from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import benchmarks, judge, run


def read(path: str) -> list[dict]:
  """The lines of a file of verdicts, none where there is no file.

  Raises:
    ValueError: they are without the texts that they are about.
  """
  if not os.path.exists(path):
    return []
  lines = list(records_lib.read_json_lines(path))
  if any('text' not in line for line in lines):
    raise ValueError(
      f'{path}: expected the text of each answer beside its verdict, found '
      'lines of an earlier version; run --task=score.'
    )
  return lines


def write(
  path: str,
  items: Sequence[benchmarks.Item],
  predictions: Sequence[run.Line],
  by_judge: Mapping[str, Sequence[judge.Verdict]],
  rules: Collection[str] = (judge.JUDGE,),
) -> None:
  """Writes what judges said, a JSON line a verdict, in the items' order.

  A line has benchmark, id, input, corruption, reading and seed of the item, its
  split, domain, kind, question, reference and record (by position); the text
  that was judged; and correct, score, status, judge and reply of
  `judge.Verdict`. `by` is the name that the judge has in the table.

  Args:
    path: is made, or replaced.
    items: what was asked.
    predictions: what was answered, joined by `run.key`.
    by_judge: name -> verdicts in the items' order.
    rules: names of judges whose verdicts can be made again. What others have
      said before was paid for, and stays behind the new ones where nobody of
      that name judged now and all of a variant's questions and answers are
      the same.
  """
  texts = {at: line['text'] for at, line in run.by_key(predictions).items()}
  lines = [
    {
      **dict(zip(run.KEY, item.key, strict=True)),
      'split': item.split,
      'domain': item.domain,
      'kind': item.kind,
      'question': item.question,
      'reference': item.reference,
      'record': item.position,
      'text': texts.get(item.key, ''),
      'by': name,
      **dataclasses.asdict(verdict),
    }
    for name, found in by_judge.items()
    for item, verdict in zip(items, found, strict=True)
  ]
  lines += _said_before(path, items, texts, {*by_judge, *rules})
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  records_lib.write_json_lines(f'{path}.part', lines)
  os.replace(f'{path}.part', path)


def _said_before(
  path: str,
  items: Sequence[benchmarks.Item],
  texts: Mapping[tuple, str],
  without: Collection[str],
) -> list[run.Line]:
  """Lines of other judges in the file that are about these very answers."""
  if not os.path.exists(path):
    return []
  by_judge = collections.defaultdict(dict)
  for line in records_lib.read_json_lines(path):
    if line['by'] not in without:
      by_judge[line['by']][run.key(line)] = line
  found = []
  for lines in by_judge.values():
    others = {
      _variant(item)
      for item in items
      if _told(lines.get(item.key, {}))
      != (item.question, item.reference, texts.get(item.key, ''))
    }
    found += [lines[i.key] for i in items if _variant(i) not in others]
  return found


def _told(line: run.Line) -> tuple:
  """What the judge was, by a line of its verdict."""
  return tuple(line.get(name) for name in ('question', 'reference', 'text'))


def _variant(item: benchmarks.Item) -> tuple[str, ...]:
  return item.split, item.input, item.corruption, item.reading
