"""What a finished model answers: predictions, verdicts, scores, the report.

For each benchmark of `suite`, in their order:

    predictions/<benchmark>.jsonl  verdicts/<benchmark>.jsonl
    scores.json  report.html
"""

import json
import os
from collections.abc import Iterator, Sequence

import jax

from vimonet_jax import (
  captioning,
  claim,
  cluster,
  fingerprint,
  judging,
  report,
  sharding,
  suite,
  weight_files,
)
from vimonet_jax import corpus as corpora
from vimonet_jax.data import sources
from vimonet_jax.eval import (
  benchmarks,
  examples,
  paper_layout,
  scores,
  tables,
  verdicts_file,
)
from vimonet_jax.eval import run as eval_run
from vimonet_jax.infer import engine, model_folder

_SHOWN_MISSING = 10


def run(config, workdir: str) -> int:
  """Asks, judges, and prints the table."""
  with cluster.alike('what is to be asked is checked'):
    claim.check(config, workdir, must_exist=True)
  cluster.check_shared(workdir)
  evaluate(config, workdir)
  if cluster.is_first():
    _print_table(workdir)
  # JAX gives who leaves first a minute, and then stops all.
  cluster.wait('the table is printed')
  return 0


def run_score(config, workdir: str) -> int:
  """Judges what has been answered, and prints the table."""
  claim.check(config, workdir, must_exist=True)
  score(config, workdir)
  _print_table(workdir)
  return 0


def run_report(config, workdir: str) -> int:
  """Writes report.html from what is there, and prints the table."""
  claim.check(config, workdir, must_exist=True)
  path = os.path.join(workdir, 'report.html')
  # All look, since whose answers they are may need all of the weights.
  chosen, told = _examples(config, workdir)
  if cluster.is_first():
    report.write(
      workdir,
      path,
      examples=chosen,
      told=told,
      config=json.loads(config.to_json()),
      counts={
        split: {'clips': len(corpora.open_split(config, workdir, split))}
        for split in sources.SPLITS
      },
    )
    _print_table(workdir)
    print(f'\n{os.path.abspath(path)}')
  # JAX gives who leaves first a minute, and then stops all.
  cluster.wait('the report is written')
  return 0


def _print_table(workdir: str) -> None:
  rows = scores.read(os.path.join(workdir, 'scores.json'))
  print(tables.text(rows))
  if beside := paper_layout.text(rows):
    print(f'\n{beside}')


def evaluate(
  config, workdir: str, *, evaluator: captioning.Evaluator | None = None
) -> None:
  """Predictions first, scores second, for every input and change of media.

  Media that are missing are said before anything is asked; their items fail.
  Several processes answer together, on all of their devices; one asks its first
  device. The first process scores what they have answered.

  Args:
    config: of the run.
    workdir: with a finished model.
    evaluator: for retrieval metrics of captions.
  """
  captioning.check(config)
  folder = os.path.join(workdir, 'model')
  tower = model_folder.read(folder).model.video
  found = suite.open_all(config, workdir, tower)
  judging.check(config, found)
  for benchmark, lines in ask(config, workdir, found):
    if cluster.is_first():
      _score(config, workdir, benchmark, lines, evaluator)
  cluster.wait('scores are written')


def ask(
  config, workdir: str, found: Sequence[benchmarks.Benchmark]
) -> Iterator[tuple[benchmarks.Benchmark, list[eval_run.Line]]]:
  """Each benchmark with the model's answers; asks what predictions/ has not.

  Args:
    config: of the run.
    workdir: with a finished model.
    found: what is asked; media that are missing are said first.
  """
  if cluster.is_first():
    for benchmark in found:
      _say_missing(workdir, benchmark)
      _say_notes(benchmark)
  # Before the engine: weights need not be in memory twice.
  settings = _settings(config, workdir)
  folder = os.path.join(workdir, 'model')
  is_alone = jax.process_count() == 1
  mesh = None if is_alone else sharding.make_mesh(**config.mesh)
  asked = engine.Engine.load(
    folder, mesh=mesh, quantize=config.eval.get('quantize', '')
  )
  for benchmark in found:
    lines = eval_run.predict(
      asked,
      benchmark.items,
      benchmark.records,
      _predictions(workdir, benchmark.name),
      settings=settings,
      rows=config.eval.rows,
    )
    yield benchmark, lines


def score(
  config, workdir: str, *, evaluator: captioning.Evaluator | None = None
) -> None:
  """Judges again what is in predictions/, without the model's weights.

  The scores are those that `evaluate` writes of the same answers. Questions
  without an answer, because an evaluation was stopped, are said and fail.

  Raises:
    ValueError: nothing of these settings is there, or answers of several
      checkpoints are, and no weights that would tell which are meant.
  """
  captioning.check(config)
  tower = model_folder.read(os.path.join(workdir, 'model')).model.video
  found = suite.open_all(config, workdir, tower)
  judging.check(config, found)
  for benchmark in found:
    _say_notes(benchmark)
    lines = list(_answers(config, workdir, benchmark).values())
    if not lines:
      raise ValueError(
        f'Expected answers to {benchmark.name} in '
        f'{_predictions(workdir, benchmark.name)}, found none of these '
        'settings; run --task=eval with them first.'
      )
    if absent := len(benchmark.items) - len(lines):
      print(
        f'{benchmark.name}: {absent} of {len(benchmark.items)} questions have '
        'no answer yet, and count as wrong; --task=eval asks them.'
      )
    _score(config, workdir, benchmark, lines, evaluator)


def _say_missing(workdir: str, benchmark: benchmarks.Benchmark) -> None:
  """What cannot be shown, and how many items that costs."""
  if not benchmark.missing:
    return
  failing = sum(
    item.media_position in benchmark.missing for item in benchmark.items
  )
  reasons = list(benchmark.missing.values())
  path = os.path.join(workdir, 'predictions', f'{benchmark.name}-missing.txt')
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, 'w', encoding='utf-8') as f:
    f.writelines(f'{reason}\n' for reason in reasons)
  print(
    f'{benchmark.name}: {len(reasons)} of {len(benchmark.records)} clips are '
    f'missing; {failing} of {len(benchmark.items)} answers will fail, and '
    f'count as wrong. {path} names them:'
  )
  for reason in reasons[:_SHOWN_MISSING]:
    print(f'  {reason}')
  if len(reasons) > _SHOWN_MISSING:
    print(f'  ... and {len(reasons) - _SHOWN_MISSING} more')


def _say_notes(benchmark: benchmarks.Benchmark) -> None:
  for note in benchmark.notes:
    print(f'{benchmark.name}: {note}')


def _score(
  config,
  workdir: str,
  benchmark: benchmarks.Benchmark,
  lines: Sequence[eval_run.Line],
  evaluator: captioning.Evaluator | None,
) -> None:
  if benchmark.rules:
    rows = judging.rows(config, workdir, benchmark, lines)
  else:
    rows = captioning.rows(
      config, workdir, benchmark, lines, evaluator=evaluator
    )
  if benchmark.damaged:
    rows = [{**row, 'n_damaged': len(benchmark.damaged)} for row in rows]
  path = os.path.join(workdir, 'scores.json')
  still, gone = scores.paid_before(scores.read(path), rows)
  scores.write(path, [*rows, *still])
  _say_paid(benchmark, still, gone)


def _say_paid(
  benchmark: benchmarks.Benchmark,
  still: Sequence[scores.Row],
  gone: Sequence[scores.Row],
) -> None:
  """What an earlier run has paid for and this one has not judged."""

  def named(rows):
    pairs = dict.fromkeys((row['system'], row['judge']) for row in rows)
    return ', '.join(f'{system} by {by}' for system, by in pairs)

  if still:
    print(
      f'{benchmark.name}: not judged now, but paid for before, and kept since '
      f'the answers are the same: {named(still)}.'
    )
  if gone:
    print(
      f'{benchmark.name}: paid for before, but of other questions or answers, '
      f'and so not in scores.json any more: {named(gone)}. The replies stay in '
      'judge/ and text_baseline/: who judges again pays only for what is new.'
    )


def _predictions(workdir: str, name: str) -> str:
  return os.path.join(workdir, 'predictions', f'{name}.jsonl')


def _verdicts(workdir: str, name: str) -> str:
  return os.path.join(workdir, 'verdicts', f'{name}.jsonl')


def _answers(
  config, workdir: str, benchmark: benchmarks.Benchmark
) -> dict[tuple, eval_run.Line]:
  """What was answered to what is asked now, by key, and what failed.

  Weights are looked at only where answers of several are there.
  """
  path = _predictions(workdir, benchmark.name)
  columns = _settings_of(config, '').columns()
  del columns['fingerprint']
  bits = config.eval.get('quantize', '')
  lines = [
    line
    for line in eval_run.read_predictions(path)
    if all(line.get(column) == value for column, value in columns.items())
    and line.get('fingerprint', '').partition('-')[2] == bits
  ]
  prints = sorted({line['fingerprint'] for line in lines})
  if len(prints) > 1:
    if not os.path.exists(os.path.join(workdir, 'model', 'weights')):
      raise ValueError(
        f'Expected answers of one checkpoint in {path}, found those of '
        f'{", ".join(prints)}, and no weights in {workdir}/model that would '
        'tell which; keep the lines of one.'
      )
    prints = [_settings(config, workdir).fingerprint]
  by_key = {
    eval_run.key(line): line for line in lines if line['fingerprint'] in prints
  }
  return {
    item.key: by_key[item.key]
    for item in benchmark.items
    if item.key in by_key and eval_run.is_about(by_key[item.key], item)
  }


def _settings(config, workdir: str) -> eval_run.Settings:
  weights = os.path.join(workdir, 'model', 'weights')
  found = fingerprint.of(weight_files.Lazy(weights))
  # Rounded weights are other weights.
  bits = config.eval.get('quantize', '')
  return _settings_of(config, f'{found}-{bits}' if bits else found)


def _settings_of(config, weights: str) -> eval_run.Settings:
  return eval_run.Settings(
    fingerprint=weights,
    config_hash=claim.digest(config),
    max_new_tokens=config.eval.max_new_tokens,
  )


# --- What a person looks at --------------------------------------------------


def _examples(
  config, workdir: str
) -> tuple[list[examples.Example], list[str]]:
  """Examples of each benchmark, and why there are none of one."""
  folder = os.path.join(workdir, 'model')
  if not os.path.exists(os.path.join(folder, 'config.json')):
    return [], []  # What is written last there, so nothing has been asked yet.
  tower = model_folder.read(folder).model.video
  found, told, opened = [], [], set()
  for name in suite.names(config):
    opened.add(name)
    try:
      benchmark = suite.open_one(config, workdir, tower, name=name)
      opened.add(benchmark.name)
      if benchmark.rules:
        path = _verdicts(workdir, benchmark.name)
        some = examples.judged(benchmark, verdicts_file.read(path))
      else:
        answers = _answers(config, workdir, benchmark)
        some = examples.captions(benchmark, answers)
    except (ValueError, OSError) as error:
      told.append(f'{name}: no examples. {error}')
      continue
    if not some:
      told.append(f'{benchmark.name}: no answer of it can be shown.')
    found += some
  rows = scores.read(os.path.join(workdir, 'scores.json'))
  for name in dict.fromkeys(row['benchmark'] for row in rows):
    if name not in opened:
      told.append(f'{name}: no examples, since these settings do not open it.')
  return found, told
