"""What each task leaves behind for others, and what it makes that of.

One table, in which paths are patterns: `signing.py` writes a manifest beside
each of these files and into each of these folders.
"""

import glob
import os
from collections.abc import Callable
from typing import Any, NamedTuple

_ALL = ('**/*',)
_DRILL = 'audit-drill'


class Output(NamedTuple):
  """Files or folders of one kind.

  Attributes:
    what: they are, in words.
    path: a pattern.
    made_from: patterns of their inputs.
    covers: patterns of the files of a folder that the task makes; empty where
      it makes a file.
  """

  what: str
  path: str
  made_from: tuple[str, ...] = ()
  covers: tuple[str, ...] = ()


class Command(NamedTuple):
  """What is asked for.

  Attributes:
    task: its name.
    config: settings.
    workdir: where it works.
    source: --input or --source, if any.
    output: --output, if any.
    video: --video, if any.
  """

  task: str
  config: Any
  workdir: str
  source: str | None = None
  output: str | None = None
  video: str | None = None


def of(command: Command) -> list[Output]:
  """What a command makes; inputs come before what is made of them."""
  find = _TASKS.get(command.task)
  return find(command) if find else []


def of_all(config, workdir: str) -> list[Output]:
  """What all tasks leave in a work folder where no --output is named."""
  found = [x for task in _TASKS for x in of(Command(task, config, workdir))]
  drill = os.path.join(workdir, _DRILL)
  return found + _audited(Command('audit', config, workdir, output=drill))


def _in(folder: str, *names: str) -> str:
  return os.path.join(glob.escape(folder), *names)


def _named(*paths: str | None) -> tuple[str, ...]:
  return tuple(glob.escape(path) for path in paths if path)


# --- In a work folder --------------------------------------------------------


def _dataset(command: Command) -> list[Output]:
  data = command.config.data
  of_sources = [x.get('path') for x in data.get('sources', {}).values()]
  folder = _in(command.workdir, 'data', 'vimos', data.name)
  built = os.path.join(folder, '[0-9]*')  # Its version.
  return [
    Output('a dataset', built, _named(data.get('path'), *of_sources), _ALL),
    Output("a dataset's card", os.path.join(folder, 'card.html'), (built,)),
    Output("a dataset's card", os.path.join(folder, 'card.json'), (built,)),
  ]


def _base(command: Command) -> tuple[str, ...]:
  return _named(*(command.config.get('base') or {}).values())


def _model(command: Command) -> list[Output]:
  inputs = (_dataset(command)[0].path, *_base(command))
  return [Output('a model', _in(command.workdir, 'model'), inputs, _ALL)]


def _predictions(command: Command) -> list[Output]:
  inputs = _model(command)[0].path, _dataset(command)[0].path
  path = _in(command.workdir, 'predictions', '*.jsonl')
  return [Output('answers to a benchmark', path, inputs)]


def _scores(command: Command) -> list[Output]:
  answers = _predictions(command)[0].path
  verdicts = _in(command.workdir, 'verdicts', '*.jsonl')
  path = _in(command.workdir, 'scores.json')
  return [
    Output('verdicts on answers', verdicts, (answers,)),
    Output('scores', path, (answers, verdicts)),
  ]


def _report(command: Command) -> list[Output]:
  scores = _in(command.workdir, 'scores.json')
  return [Output('a report', _in(command.workdir, 'report.html'), (scores,))]


def _audited(command: Command) -> list[Output]:
  drill = command.config.get('audit', {}).get('drill', '')
  named = _DRILL if drill else 'audit'
  folder = command.output or os.path.join(command.workdir, named)
  inputs = tuple(x.path for x in _predictions(command) + _scores(command))
  return [
    Output('a bias audit', _in(folder, 'audit.*'), inputs),
    Output('a model card', _in(folder, 'model_card.*'), inputs),
  ]


def _study(command: Command) -> list[Output]:
  study, found, verdicts = command.config.get('study') or {}, [], []
  for seed in study.get('seeds', ()):
    for name, _ in study.get('runs', ()):
      folder = os.path.join(command.workdir, f'{name}-{seed}')
      run = command._replace(workdir=folder)
      found += _dataset(run) + _model(run) + _predictions(run) + _scores(run)
      verdicts.append(_in(folder, 'verdicts', '*.jsonl'))
  return found + [
    Output('results of a study', _in(command.workdir, name), tuple(verdicts))
    for name in ('study.json', 'study.html')
  ]


def _all_of(*parts: Callable) -> Callable[[Command], list[Output]]:
  return lambda command: [x for part in parts for x in part(command)]


# --- In files and folders of their own ---------------------------------------


def _answers(command: Command) -> list[Output]:
  inputs = _in(command.workdir, 'model'), *_named(command.source)
  return [
    Output('answers to questions', path, inputs)
    for path in _named(command.output)
  ]


def _timeline(command: Command) -> list[Output]:
  given = _named(command.source, command.video)
  inputs = _in(command.workdir, 'model'), *given
  return [
    Output('a timeline of a recording', _in(folder, name), inputs)
    for folder in [command.output] * bool(command.output)
    for name in ('timeline.*', 'windows.csv', 'alarms.csv')
  ]


def _features(command: Command) -> list[Output]:
  folders = ('new_joint_vecs', 'joints', 'pictures')
  covers = ('features.json', *(f'{x}/**/*' for x in folders))
  return [
    Output('features of motions', path, _named(command.source), covers)
    for path in _named(command.output)
  ]


def _converted(command: Command) -> list[Output]:
  return [
    Output('converted weights', path, _named(command.source), _ALL)
    for path in _named(command.output)
  ]


def _exported(command: Command) -> list[Output]:
  folder = command.output or os.path.join(command.workdir, 'export')
  parts = ('llm', 'adapter', 'base', 'projector', 'vqvae')
  covers = tuple(f'{part}/**/*' for part in parts)
  inputs = (_in(command.workdir, 'model'),)
  return [Output('an exported model', glob.escape(folder), inputs, covers)]


def _annotations(command: Command) -> list[Output]:
  folder = command.output or os.path.join(command.workdir, 'annotation')
  inputs = _named(command.config.get('annotate', {}).get('path'))
  return [
    Output(what, _in(folder, name), inputs)
    for name, what in (
      ('captions.jsonl', 'captions of a service'),
      ('questions.jsonl', 'questions of a service'),
      ('rejected.jsonl', 'what was not kept of a service'),
    )
  ]


def _parity(command: Command) -> list[Output]:
  folder = command.output or os.path.join(command.workdir, 'parity')
  return [
    Output('a comparison with PyTorch', _in(folder, name), _base(command))
    for name in ('parity.md', 'parity.json')
  ]


def _plan(command: Command) -> list[Output]:
  folder = command.output or command.workdir
  return [Output('a plan', _in(folder, 'plan.json'))]


_TASKS: dict[str, Callable[[Command], list[Output]]] = {
  'pipeline': _all_of(_dataset, _model, _predictions, _scores, _report),
  'eval': _all_of(_predictions, _scores),
  'score': _scores,
  'report': _report,
  'show': _dataset,
  'assemble': _model,
  'audit': _all_of(_predictions, _audited),
  'study': _study,
  'answer': _answers,
  'monitor': _timeline,
  'features': _features,
  'convert': _converted,
  'export': _exported,
  'annotate': _annotations,
  'parity': _parity,
  'plan': _plan,
}
