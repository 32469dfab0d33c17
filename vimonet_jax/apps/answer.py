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
ended in an error. Each line says what its answer comes from: the question
("asked"), its files ("files"), the weights ("fingerprint") and what the
question leaves open ("decoding", "watermark"). Where any of it has changed,
nothing is asked and nothing is written, so that a file has the answers of one
model to one list of questions.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import tqdm

from vimonet_jax import fingerprint, locks
from vimonet_jax.apps import inputs
from vimonet_jax.audit import privacy, watermark
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


class _Files(NamedTuple):
  """A question's files.

  Attributes:
    given: what was read.
    digests: of each medium's bytes.
  """

  given: inputs.Given
  digests: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Settings:
  """Who answers, and how: answers of other settings are other answers.

  Attributes:
    fingerprint: of the weights.
    sampling: what a question does not say.
    seed: likewise.
    quantize: the decoder's kernels; see engine.Engine.load.
    watermark: name of the mark; '' without one.
  """

  fingerprint: str
  sampling: generate.Sampling = generate.GREEDY
  seed: int = 0
  quantize: str = ''
  watermark: str = ''

  def columns(self) -> dict[str, Any]:
    """What a line holds of them."""
    marked = {'watermark': self.watermark} if self.watermark else {}
    return {
      'fingerprint': self.fingerprint,
      'decoding': {
        **dataclasses.asdict(self.sampling),
        'seed': self.seed,
        'quantize': self.quantize,
      },
      **marked,
    }


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
  settings = Settings(
    model_folder.weights_fingerprint(folder),
    generate.preset(sampling),
    seed,
    quantize,
    mark.name if mark else '',
  )
  # Two would put their files in each other's place, and lose answers.
  with locks.held(f'{os.path.abspath(output)}.lock', f'write to {output}'):
    kept = _kept(
      output,
      asked,
      settings,
      pathlib.Path(questions).parent,
      ('motion',) if motion_only else privacy.KINDS,
    )
    left = [x for x in asked if x.fields['id'] not in kept]
    if kept:
      print(f'{output} has {len(kept)} of {len(asked)} answers.', flush=True)
    failed = 0
    if left:
      ahead = _AHEAD * max_rows
      asking = engine.Engine.load(folder, quantize=quantize)
      read = functools.lru_cache(maxsize=4)(
        functools.partial(
          _read_files, bundle.model.video, motion_only=motion_only
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
          settings,
        )
        answers = _in_order(submit, left, ahead)
        for line in tqdm.tqdm(answers, 'answer', len(left), unit='question'):
          line |= settings.columns()
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
    (given, digests), answer = submitted.result()
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
      'files': digests,
    }
  return line | {'asked': asked.digest}


def _submit(together, read, folder, settings: Settings, asked: _Asked):
  """Reads a question's files and asks it."""
  fields = asked.fields
  said = {name: fields[name] for name in _SAID if name in fields}
  files = read(**_paths(folder, fields), **said)
  turns = [records.Turn(*turn) for turn in fields.get('history', ())]
  turns.append(records.Turn(fields['question'], ''))
  changes = {name: fields[name] for name in _SAMPLING if name in fields}
  question = scheduler.Question(
    dataclasses.replace(files.given.record, turns=tuple(turns)),
    dataclasses.replace(settings.sampling, **changes),
    seed=fields.get('seed', settings.seed),
    stop=tuple(fields.get('stop', ())),
  )
  return files, together.ask(question)


# --- Files -------------------------------------------------------------------


def _paths(folder: pathlib.Path, fields: Mapping[str, Any]) -> dict[str, str]:
  return {x: str(folder / fields[x]) for x in privacy.KINDS if x in fields}


def _read_files(tower, *, motion_only: bool, **asked) -> _Files:
  """What `inputs.read` makes of files, and by what they are known again."""
  given = inputs.read(tower, motion_only=motion_only, **asked)
  digests = {x: _digest(asked[x]) for x in privacy.KINDS if x in asked}
  return _Files(given, digests)


def _digest(path: str) -> str:
  """Of the bytes of all that is read of it, in the order of reading."""
  first, *others = inputs.files(path)
  with open(first, 'rb') as f:
    made = hashlib.file_digest(f, _short_digest)
  for file in others:
    with open(file, 'rb') as f:
      made.update(hashlib.file_digest(f, 'blake2s').digest())
  return made.hexdigest()


def _short_digest():
  return hashlib.blake2s(digest_size=8)


def _digest_now(path: str) -> str | None:
  """None where nothing is left of it, or nobody knows which its body is."""
  try:
    return _digest(path)
  except (ValueError, FileNotFoundError):
    return None


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


def _kept(
  output: str,
  asked: list[_Asked],
  settings: Settings,
  folder: pathlib.Path,
  media: Collection[str],
) -> set[str]:
  """Ids with an answer; the file then holds their lines and no others.

  Args:
    output: the file.
    asked: the questions.
    settings: of the answers that are to come.
    folder: of the questions.
    media: of which files may be opened.

  Raises:
    ValueError: it has answers to other questions or about other files, or those
      of other weights or settings.
  """
  if not os.path.exists(output):
    os.makedirs(os.path.dirname(output) or '.', exist_ok=True)
    return set()
  known, wanted = {x.fields['id']: x for x in asked}, _flat(settings.columns())
  digest = functools.cache(_digest_now)
  with open(output, encoding='utf-8') as f:
    whole = f.read().split('\n')[:-1]
  lines = []
  for number, text in enumerate(whole, start=1):
    where = f'{output}, line {number}'
    try:
      line = json.loads(text)
      question = known.get(line['id'])
      is_known = question is not None and question.digest == line['asked']
      files, found = dict(line.get('files', {})), _flat(line)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise ValueError(
        f'{where}: expected an answer, found {text[:40]!r}; choose another '
        '--output.'
      ) from error
    if not is_known:
      raise ValueError(
        f'{where}: expected an answer to a question of --input, found one to '
        f'another one, {line["id"]!r}; choose another --output, or remove the '
        'line.'
      )
    _check_settings(where, found, wanted)
    for medium, path in _paths(folder, question.fields).items():
      # What has gone since then cannot be asked about again.
      if medium in files and medium in media and digest(path):
        _check_file(where, path, digest(path), files[medium])
    if 'error' not in line:
      lines.append(text)
  part = f'{output}.part'
  with open(part, 'w', encoding='utf-8') as f:
    f.writelines(f'{line}\n' for line in lines)
  os.replace(part, output)
  return {json.loads(line)['id'] for line in lines}


def _check_file(where: str, path: str, found: str, wanted: str) -> None:
  if found != wanted:
    raise ValueError(
      f'{where}: expected {path} as it was when it was asked about, found it '
      'changed; choose another --output, or remove the line to have it asked '
      'again.'
    )


def _flat(line: Mapping[str, Any]) -> dict[str, Any]:
  """Settings of a line by name; None where it does not say."""
  return {
    'fingerprint': line.get('fingerprint'),
    'watermark': line.get('watermark', 'none'),
    **line.get('decoding', {}),
  }


def _check_settings(
  where: str, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
  """A line of another model, or one that does not say, is none of ours."""
  if found['fingerprint'] is None:
    raise ValueError(
      f'{where}: expected the fingerprint of the weights that answered, found '
      'none, as versions before this one wrote it; choose another --output.'
    )
  names = [x for x in wanted if found.get(x) != wanted[x]]
  if names:

    def said(values):
      return ', '.join(f'{x} {values.get(x)!r}' for x in names)

    raise ValueError(
      f'{where}: expected an answer with {said(wanted)}, found one with '
      f'{said(found)}; go on with the weights and settings that it was written '
      'with, or choose another --output.'
    )
