"""Engine x items -> a file of predictions.

One line an answer, so that a run that was killed goes on where it was, and so
that judging (see `scoring`) can be repeated without the model.
"""

import collections
import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tqdm

from vimonet_jax import cluster
from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import benchmarks, changes
from vimonet_jax.infer import generate, likelihood

Line = dict[str, Any]

# What tells an item, and so a line, from all others.
KEY = ('benchmark', 'id', 'input', 'corruption', 'reading', 'seed')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Who answers, and how: answers of other settings are other answers.

  Attributes:
    fingerprint: of the weights that answer.
    config_hash: of the configuration that they were trained with.
    sampling: a dataclass of generate; greedy needs no second run.
    max_new_tokens: longest answer.
  """

  fingerprint: str
  config_hash: str
  sampling: Any = generate.GREEDY
  max_new_tokens: int = 24

  def columns(self) -> Line:
    """What a line of these settings holds besides item and text."""
    return {
      'decoding': {
        **dataclasses.asdict(self.sampling),
        'max_new_tokens': self.max_new_tokens,
      },
      'fingerprint': self.fingerprint,
      'config_hash': self.config_hash,
    }


def predict(
  engine: Any,
  items: Sequence[benchmarks.Item],
  records: Sequence[records_lib.Record],
  path: str,
  *,
  settings: Settings,
  rows: int = 64,
  progress: bool = True,
) -> list[Line]:
  """Asks the engine every item that the file has no answer to.

  Items whose media are zeroed are asked of `engine.blind()`. Of items with the
  same `prompt` one is asked, and all have a line.

  Several processes ask together, and the first one writes. A SIGTERM to one of
  them stops all between two batches, with SystemExit.

  A line holds id, benchmark, input, corruption, reading and seed of the item,
  the generated text or the likeliest option, a digest of what was asked about
  which file, the settings of decoding, the checkpoint's fingerprint and the
  configuration's hash. Lines of other checkpoints or settings stay in the file
  and are not looked at; a last line that a kill cut short is asked again, and
  so is what has another question or file by now. Where media cannot be shown,
  the line says so as `error`; the next run tries again. What one of several
  processes cannot show, none of them asks.

  Args:
    engine: an engine.Engine.
    items: what to ask; their order is that of the result.
    records: that the items' positions count in.
    path: JSON lines; is made, or gone on with.
    settings: of the engine's weights, and how it answers.
    rows: how many records go to the engine at once, all with the same media;
      it has no more in memory.
    progress: draw a progress bar.

  Returns:
    One line for each item.
  """
  columns = settings.columns()
  # All must ask the same, so none may write while others read.
  known = cluster.in_turn(path, lambda: _lines(path, settings))
  done = current(items, known)
  pending = [item for item in items if item.key not in done]
  alike = collections.defaultdict(list)
  for item in pending:
    alike[item.prompt].append(item)
  answered = {i.prompt: done[i.key] for i in items if i.key in done}
  blind = functools.cache(lambda: engine.blind())
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  with (
    open(
      path if cluster.is_first() else os.devnull,
      'a',
      encoding='utf-8',
      buffering=1,
    ) as f,
    tqdm.tqdm(
      desc='answers',
      total=len(items),
      initial=len(items) - len(pending),
      disable=not (progress and cluster.is_first()),
      dynamic_ncols=True,
    ) as bar,
  ):

    def keep(prompt: tuple, said: Line) -> None:
      for item in alike.pop(prompt):
        line = {**said, **dict(zip(KEY, item.key, strict=True))}
        done[item.key] = line
        if known.get(item.key) != line:  # A file that is missing still.
          f.write(json.dumps(line, ensure_ascii=False) + '\n')
        bar.update()

    for prompt, line in answered.items():
      if prompt in alike:
        keep(prompt, line)
    asked_once = [some[0] for some in alike.values()]
    for batch in _batches(asked_once, records, rows):
      cluster.stop_if_told()
      asked = blind() if _is_zeroed(batch.items[0]) else engine
      lines = _ask(asked, batch, settings, rows)
      for item, line in zip(batch.items, lines, strict=True):
        keep(item.prompt, line | columns)
  return [done[item.key] for item in items]


def current(
  items: Sequence[benchmarks.Item], lines: Mapping[tuple, Line]
) -> dict[tuple, Line]:
  """The lines, by `key`, that answer what the items ask now."""
  return {
    item.key: line
    for item in items
    if (line := lines.get(item.key))
    and 'error' not in line
    and is_about(line, item)
  }


def is_about(line: Line, item: benchmarks.Item) -> bool:
  """Whether a line of that key was asked what the item asks now."""
  # Lines of before there was a digest count.
  return line.get('asked', item.digest) == item.digest


def _lines(path: str, settings: Settings) -> dict[tuple, Line]:
  """The lines of these settings, also those of media that were missing."""
  columns = settings.columns()
  return {
    key(line): line
    for line in read_predictions(path)
    if all(line.get(name) == value for name, value in columns.items())
  }


def read_predictions(path: str) -> list[Line]:
  """The lines of a file, none where there is no file.

  A last line without its end is cut off, in the file as well, so that the next
  answer starts on a line of its own.
  """
  if not os.path.exists(path):
    return []
  with open(path, 'rb+') as f:
    f.truncate(f.read().rfind(b'\n') + 1)
  return list(records_lib.read_json_lines(path))


def as_predictions(
  items: Sequence[benchmarks.Item], texts: Sequence[str]
) -> list[Line]:
  """Texts, from an engine or a baseline, as lines that can be scored."""
  if len(texts) != len(items):
    raise ValueError(
      f'Expected one answer for each item, found {len(texts)} answers for '
      f'{len(items)} items.'
    )
  return [
    {
      **dict(zip(KEY, item.key, strict=True)),
      'asked': item.digest,
      'text': text,
    }
    for item, text in zip(items, texts, strict=True)
  ]


def key(line: Line) -> tuple[str, str, str, str, str, int]:
  """The key of the item that a line answers."""
  # Lines of before there was another reading do not name it.
  return tuple({'reading': benchmarks.GENERATED, **line}[name] for name in KEY)


def by_key(predictions: Sequence[Line]) -> dict[tuple, Line]:
  """Lines by `key`; raises a ValueError where two have the same."""
  lines = {}
  for line in predictions:
    if lines.setdefault(key(line), line) is not line:
      raise ValueError(
        f'Expected one prediction for each item, found two for '
        f'{key(line)}; score one checkpoint at a time, as predict() '
        'returns it.'
      )
  return lines


class _Batch(NamedTuple):
  """Items that are asked together, or that cannot be shown.

  Attributes:
    items: of one reading, and all or none of them zeroed.
    prompts: one an item, all with the same media; empty where there are none.
    errors: one an item that cannot be shown.
  """

  items: list[benchmarks.Item]
  prompts: list[records_lib.Record]
  errors: list[str]


def _ask(engine, batch: _Batch, settings: Settings, rows: int) -> list[Line]:
  if batch.errors:
    lines = as_predictions(batch.items, [''] * len(batch.items))
    for line, error in zip(lines, batch.errors, strict=True):
      line['error'] = error
    return lines
  if batch.items[0].reading == benchmarks.LIKELIHOOD:
    return _choose(engine, batch, rows)
  texts = engine.answer(
    batch.prompts,
    sampling=settings.sampling,
    max_new_tokens=settings.max_new_tokens,
    max_rows=rows,
  )
  return as_predictions(batch.items, texts)


def _choose(engine, batch: _Batch, rows: int) -> list[Line]:
  """The option of the highest mean log-probability; the first of equal ones."""
  options = [item.options for item in batch.items]
  scored = likelihood.score(engine, batch.prompts, options, max_rows=rows)
  means = [[float(option.mean) for option in found] for found in scored]
  texts = [
    names[max(range(len(names)), key=values.__getitem__)]
    for names, values in zip(options, means, strict=True)
  ]
  lines = as_predictions(batch.items, texts)
  for line, values in zip(lines, means, strict=True):
    line['mean_log_probs'] = values
  return lines


def _batches(items, records, rows: int) -> Iterator[_Batch]:
  """At most `rows` at a time, of the same media shapes, reading and engine.

  Items of one input are looked at a few batches at a time: media are large, and
  answers should reach the file soon. Within that, clips of like length meet.
  """

  def way(item):
    return item.input, item.reading, _is_zeroed(item)

  for _, same in itertools.groupby(sorted(items, key=way), key=way):
    for window in _batched(same, 4 * rows):
      prompts, errors = {}, {}
      for i, item in enumerate(window):
        try:
          prompts[i] = benchmarks.prompt_record(item, records)
        except (benchmarks.MediaError, records_lib.CorruptError) as error:
          errors[i] = str(error)
      errors = _of_all(errors)
      if errors:
        yield _Batch([window[i] for i in errors], [], list(errors.values()))
      pairs = [
        (window[i], prompt) for i, prompt in prompts.items() if i not in errors
      ]
      pairs.sort(key=lambda pair: (_media(pair[1]), _length(pair[1])))
      for _, alike in itertools.groupby(pairs, key=lambda p: _media(p[1])):
        for some in _batched(alike, rows):
          yield _Batch([item for item, _ in some], [p for _, p in some], [])


def _of_all(errors: Mapping[int, str]) -> dict[int, str]:
  """What any process cannot show: they must ask the same together."""
  found: dict[int, str] = {}
  for words in cluster.tell('what cannot be shown', json.dumps(errors)):
    for place, error in json.loads(words).items():
      found.setdefault(int(place), error)
  return dict(sorted(found.items()))


def _is_zeroed(item: benchmarks.Item) -> bool:
  return item.corruption == changes.ZEROED


def _media(record: records_lib.Record) -> tuple:
  frames = () if record.frames is None else record.frames.shape
  return record.motion is not None, frames


def _length(record: records_lib.Record) -> int:
  return 0 if record.motion is None else len(record.motion)


def _batched(things, size: int):
  things = iter(things)
  while batch := list(itertools.islice(things, size)):
    yield batch
