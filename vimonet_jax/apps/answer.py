"""Answers a file of questions about motions and videos, a JSON line each.

    python -m vimonet_jax.main --config=configs/tiny.py --task=answer \\
        --input=questions.jsonl --output=answers.jsonl

    {"id": "1", "question": "Where does he go?", "motion": "walk.bvh"}
    {"id": "1", "answer": "To the left.", "ended_by": "stop", ...}

A question has

    id          text of its own
    question    what is asked
    motion, video      files, from the folder of the questions; one, both, none
    history     [[question, answer], ...], what was said before
    fps, up, unit      of the motion, where the file does not say
    temperature, top_k, top_p, max_new_tokens      see generate.Sampling
    seed        of the draws
    stop        texts that the answer ends before

and all but the first two can be missing. Answers come in the order of the
questions; of one that cannot be answered the line says why ("error"). Stopped,
the same command goes on behind the last whole line, and asks again what had
ended in an error.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import tqdm

from vimonet_jax import fingerprint, locks
from vimonet_jax.apps import inputs
from vimonet_jax.audit import watermark
from vimonet_jax.data import records
from vimonet_jax.infer import engine, generate, model_folder, scheduler

# Files that are read at the same time, and questions that wait to be written.
_READERS, _AHEAD = 2, 4
_KINDS = {
  'id': str, 'question': str, 'motion': str, 'video': str, 'history': list,
  'fps': (int, float), 'up': str, 'unit': str, 'temperature': (int, float),
  'top_k': int, 'top_p': (int, float), 'max_new_tokens': int, 'seed': int,
  'stop': list,
}  # fmt: skip
_SAID = ('fps', 'up', 'unit')
_SAMPLING = ('temperature', 'top_k', 'top_p', 'max_new_tokens')


class _Asked(NamedTuple):
  """A line of the questions.

  Attributes:
    fields: as they were read.
    digest: of them, by which an answer knows what it answers.
  """

  fields: dict[str, Any]
  digest: str


def run(
  workdir: str,
  questions: str | None,
  output: str | None,
  *,
  sampling: str = 'greedy',
  seed: int = 0,
  quantize: str = '',
  max_rows: int = 64,
  motion_only: bool = False,
  mark: watermark.Watermark | None = None,
) -> int:
  """Answers what has no answer yet.

  Args:
    workdir: of a pipeline that has come to its end.
    questions: path of JSON lines.
    output: path of the answers; goes on where it is.
    sampling: one of generate.PRESETS, for what a question does not say.
    seed: of the draws, likewise.
    quantize: the decoder's kernels, for less memory; see engine.Engine.load.
    max_rows: how many are answered at the same time.
    motion_only: does not answer about videos; see audit/privacy.py.
    mark: that answers carry.

  Returns:
    0, or 1 where some could not be answered.

  Raises:
    ValueError: the questions are none, or the answers are those of others.
      (locks.HeldError: another process is writing them.)
    OSError: a file cannot be read or written.
  """
  if not questions or not output:
    raise ValueError(
      'Expected --input=questions.jsonl and --output=answers.jsonl, found '
      f'{"no --output" if questions else "no --input"}; name both.'
    )
  asked = _read(questions)
  folder = os.path.join(workdir, 'model')
  bundle = model_folder.read(folder)
  marked = mark.name if mark else ''
  # Two would put their files in each other's place, and lose answers.
  with locks.held(f'{os.path.abspath(output)}.lock', f'write to {output}'):
    kept = _kept(output, asked, marked)
    left = [x for x in asked if x.fields['id'] not in kept]
    if kept:
      print(f'{output} has {len(kept)} of {len(asked)} answers.', flush=True)
    failed = 0
    if left:
      ahead = _AHEAD * max_rows
      asking = engine.Engine.load(folder, quantize=quantize)
      read = functools.lru_cache(maxsize=4)(
        functools.partial(
          inputs.read, bundle.model.video, motion_only=motion_only
        )
      )
      with (
        open(output, 'a', encoding='utf-8') as f,
        scheduler.Scheduler(
          asking, max_rows=max_rows, max_waiting=ahead, logits_fn=mark
        ) as together,
      ):
        submit = functools.partial(
          _submit,
          together,
          read,
          pathlib.Path(questions).parent,
          generate.preset(sampling),
          seed,
        )
        answers = _in_order(submit, left, ahead)
        for line in tqdm.tqdm(answers, 'answer', len(left), unit='question'):
          if marked:
            line['watermark'] = marked
          f.write(json.dumps(line, ensure_ascii=False) + '\n')
          f.flush()
          failed += 'error' in line
    print(f'{len(asked) - failed} of {len(asked)} answered, in {output}.')
    return 1 if failed else 0


def _in_order(submit, left: list[_Asked], ahead: int) -> Iterator[dict]:
  """A line for each question; some are read while others are answered."""
  pool = concurrent.futures.ThreadPoolExecutor(_READERS)
  waiting: collections.deque = collections.deque()
  try:
    for x in left:
      waiting.append((x, pool.submit(submit, x)))
      if len(waiting) >= ahead:
        yield _line(*waiting.popleft())
    while waiting:
      yield _line(*waiting.popleft())
  finally:
    pool.shutdown(cancel_futures=True)


def _line(asked: _Asked, submitted: concurrent.futures.Future) -> dict:
  """Waits for an answer."""
  line = {'id': asked.fields['id']}
  try:
    given, answer = submitted.result()
    end = answer.result()
  except (ValueError, OSError, ImportError) as error:
    line['error'] = ' '.join(str(error).split())
  else:
    line |= {
      'answer': end.text,
      'ended_by': end.reason,
      'inputs': list(given.record.clips),
      'prompt_tokens': end.prompt_tokens,
      'new_tokens': end.new_tokens,
      'notes': given.notes,
    }
  return line | {'asked': asked.digest}


def _submit(together, read, folder, sampling, seed: int, asked: _Asked):
  """Reads a question's files and asks it."""
  fields = asked.fields
  paths = {
    medium: str(folder / fields[medium])
    for medium in ('motion', 'video')
    if medium in fields
  }
  said = {name: fields[name] for name in _SAID if name in fields}
  given = read(**paths, **said)
  turns = [records.Turn(*turn) for turn in fields.get('history', ())]
  turns.append(records.Turn(fields['question'], ''))
  changes = {name: fields[name] for name in _SAMPLING if name in fields}
  question = scheduler.Question(
    dataclasses.replace(given.record, turns=tuple(turns)),
    dataclasses.replace(sampling, **changes),
    seed=fields.get('seed', seed),
    stop=tuple(fields.get('stop', ())),
  )
  return given, together.ask(question)


# --- Files -------------------------------------------------------------------


def _read(path: str) -> list[_Asked]:
  """The questions, each with an id of its own."""
  found = {}
  for number, fields in enumerate(records.read_json_lines(path), start=1):
    where = f'{path}, question {number}'
    _check(fields, where)
    if fields['id'] in found:
      raise ValueError(
        f'{where}: expected an id of its own, found {fields["id"]!r} again; '
        'give it another one.'
      )
    text = json.dumps(fields, sort_keys=True)
    found[fields['id']] = _Asked(fields, fingerprint.digest(text))
  if not found:
    raise ValueError(f'{path}: expected a question a line, found none.')
  return list(found.values())


def _check(fields: Any, where: str) -> None:
  if not isinstance(fields, dict):
    raise ValueError(
      f'{where}: expected a JSON object, found {json.dumps(fields)[:40]}.'
    )
  if missing := [x for x in ('id', 'question') if not fields.get(x)]:
    raise ValueError(
      f'{where}: expected an id and a question, found no {missing[0]}; add it.'
    )
  for name, value in fields.items():
    if name not in _KINDS:
      raise ValueError(
        f'{where}: expected fields {", ".join(_KINDS)}, found {name!r}; '
        'correct or remove it.'
      )
    if not isinstance(value, _KINDS[name]) or isinstance(value, bool):
      raise ValueError(
        f'{where}: expected {name} as {_said(_KINDS[name])}, found {value!r}.'
      )
  turns = fields.get('history', ())
  if not all(
    isinstance(turn, list)
    and len(turn) == 2
    and all(isinstance(said, str) for said in turn)
    for turn in turns
  ):
    raise ValueError(
      f'{where}: expected history as a list of [question, answer], found '
      f'{json.dumps(turns)[:60]}.'
    )
  stop = fields.get('stop', ())
  if not all(isinstance(x, str) and x for x in stop):
    raise ValueError(
      f'{where}: expected stop as a list of texts, found {stop!r}.'
    )


def _said(kind: Any) -> str:
  names = {str: 'text', list: 'a list', int: 'a whole number'}
  return names.get(kind, 'a number')


def _kept(output: str, asked: list[_Asked], marked: str) -> set[str]:
  """Ids with an answer; the file then holds their lines and no others.

  Raises:
    ValueError: it has answers to other questions, or with another watermark.
  """
  if not os.path.exists(output):
    os.makedirs(os.path.dirname(output) or '.', exist_ok=True)
    return set()
  digests = {x.fields['id']: x.digest for x in asked}
  with open(output, encoding='utf-8') as f:
    whole = f.read().split('\n')[:-1]
  lines = []
  for number, text in enumerate(whole, start=1):
    try:
      line = json.loads(text)
      is_known = digests.get(line['id']) == line['asked']
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f'{output}, line {number}: expected an answer, found {text[:40]!r}; '
        'choose another --output.'
      ) from error
    if not is_known:
      raise ValueError(
        f'{output}, line {number}: expected an answer to a question of '
        f'--input, found one to another one, {line["id"]!r}; choose another '
        '--output, or remove the line.'
      )
    if line.get('watermark', '') != marked:
      raise ValueError(
        f'{output}, line {number}: expected an answer with the watermark that '
        f'config.watermark says, found {line.get("watermark") or "none"} where '
        f'that is {marked or "none"}; go on with the settings that it was '
        'written with, or choose another --output.'
      )
    if 'error' not in line:
      lines.append(text)
  part = f'{output}.part'
  with open(part, 'w', encoding='utf-8') as f:
    f.writelines(f'{line}\n' for line in lines)
  os.replace(part, output)
  return {json.loads(line)['id'] for line in lines}
