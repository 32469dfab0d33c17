"""Who judges the answers to a benchmark, and whose answers are judged.

The benchmark's own rules judge always. A chat service judges too where
config.eval.judge says so. Beside the model stand the benchmark's baselines,
files of other systems' predictions, and what a chat service answers to the
questions alone. Nothing is sent to anybody before it is said what and to whom.

    verdicts/<benchmark>.jsonl   of the model, by every judge
    judge/  text_baseline/       replies that were paid for
"""

import collections
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vimonet_jax import chat_api
from vimonet_jax.eval import (
  benchmarks,
  judge_replies,
  llm_judge,
  predictions_file,
  scores,
  scoring,
  text_baseline,
  verdicts_file,
)
from vimonet_jax.eval import run as eval_run

# Requests that a dry run shows of each kind.
_SHOWN = 2


class _Answers(NamedTuple):
  """What one system answers to some items, as prediction lines.

  `about` is the medium that the questions are about where it was not shown and
  the benchmark has questions about others: published tables have them apart.
  `is_paid` says that a service was paid for them.
  """

  system: str
  items: Sequence[benchmarks.Item]
  lines: Sequence[eval_run.Line]
  about: str = ''
  is_paid: bool = False


def check(config: Any, found: Sequence[benchmarks.Benchmark]) -> None:
  """Raises for whatever would stop judging after hours of answering.

  Args:
    config: see `eval` of the presets.
    found: the benchmarks that are asked.

  Raises:
    ValueError: a mode, a price, a key or a name of a system is not as it should
      be.
    ImportError: a package is missing.
    OSError: a file of predictions is not there.
  """
  names = [benchmark.name for benchmark in found]
  for entry in config.eval.systems:
    if isinstance(entry, str) or len(entry) != 3:
      raise ValueError(
        'Expected config.eval.systems as (benchmark, name, file) each, found '
        f"{entry!r}; write (('mvbench', 'theirs', 'predictions.jsonl'),)."
      )
    name, system, path = entry
    if name not in names:
      raise ValueError(
        f'Expected config.eval.systems to name a benchmark that is asked '
        f'({", ".join(names)}), found {name!r} for {system}; correct it.'
      )
    if system == scoring.MODEL:
      raise ValueError(
        f'Expected other names in config.eval.systems than {scoring.MODEL!r}, '
        'which is ours; choose one.'
      )
    items = benchmarks.fullest(found[names.index(name)].items)
    predictions_file.read(path, items)
  if not any(benchmark.needs_judge for benchmark in found):
    return
  llm_judge.check_mode(config.eval.judge.prompt)
  for asked, services in (
    (config.eval.judge, _services(config.eval.judge)),
    (config.eval.text_baseline, [config.eval.text_baseline.service]),
  ):
    for service in map(_service, services if asked.service.model else ()):
      if _may_ask(asked):
        chat_api.check(service)


def rows(
  config: Any,
  workdir: str,
  benchmark: benchmarks.Benchmark,
  lines: Sequence[eval_run.Line],
) -> list[scores.Row]:
  """Judges all answers; writes the verdicts on the model's.

  A chat service that refuses, or a budget that is spent, costs the rows of that
  judge and no others; what was paid for is kept, and the same command goes on.

  Args:
    config: see `eval` of the presets.
    workdir: of the run.
    benchmark: with rules.
    lines: the model's, one an item.
  """
  answers = _Answers(scoring.MODEL, benchmark.items, lines)
  everybody = [answers, *_others(config, workdir, benchmark)]
  counts = collections.Counter(each.system for each in everybody)
  if twice := [name for name, number in counts.items() if number > 1]:
    raise ValueError(
      f'Expected each system once, found {twice[0]} {counts[twice[0]]} times; '
      'give it another name in config.eval.systems.'
    )
  judges = {
    name: scoring.by_rule(rule) for name, rule in benchmark.rules.items()
  }
  for expert in _experts(config, workdir) if benchmark.needs_judge else ():
    for each in everybody:
      print(f'{each.system}: {expert.notice(*_given(each))}')
      if not _may_ask(config.eval.judge):
        _show(expert, each)
    if _may_ask(config.eval.judge):
      judges[expert.name] = expert.verdicts
  found, by_judge = [], {}
  for name, judged in judges.items():
    try:
      by_system = {
        each.system: scoring.verdicts(each.items, each.lines, judged)
        for each in everybody
      }
    except (chat_api.BudgetError, chat_api.ServiceError) as error:
      print(f'{benchmark.name}: not judged by {name}. {error}')
      continue
    by_judge[name] = by_system[scoring.MODEL]
    for each in everybody:
      verdicts = by_system[each.system]
      made = scoring.score(
        each.items, each.lines, verdicts, judged_by=name, system=each.system
      )
      if name not in benchmark.rules:
        made = _as_paper(made, each.items, verdicts)
      if each.about:
        made = [{**row, 'about': each.about} for row in made]
      if each.is_paid or name not in benchmark.rules:
        made = [{**row, 'is_paid': True} for row in made]
      found += made
  verdicts_file.write(
    os.path.join(workdir, 'verdicts', f'{benchmark.name}.jsonl'),
    benchmark.items,
    lines,
    by_judge,
    rules=benchmark.rules,
  )
  return found


def systems(
  config: Any, benchmark: benchmarks.Benchmark
) -> Iterator[tuple[str, list[eval_run.Line]]]:
  """Names and lines of config.eval.systems; says what a file does not have.

  The lines are of the benchmark's `fullest` items.
  """
  items = benchmarks.fullest(benchmark.items)
  for name, system, path in config.eval.systems:
    if name != benchmark.name:
      continue
    predictions = predictions_file.read(path, items)
    for report in predictions.reports():
      print(f'{path}: {report}')
    lines = eval_run.as_predictions(items, predictions.texts)
    without = {*predictions.missing, *predictions.empty}
    for item, line in zip(items, lines, strict=True):
      if item.id in without:
        line['error'] = f'no prediction in {path}'
    yield system, lines


# --- Whose answers -----------------------------------------------------------


def _others(
  config, workdir: str, benchmark: benchmarks.Benchmark
) -> list[_Answers]:
  """Baselines, files, and a chat service that is shown nothing."""
  found = []
  for system, texts in benchmark.baselines.items():
    items = benchmark.items[: len(texts)]
    found.append(
      _Answers(system, items, eval_run.as_predictions(items, texts))
    )
  items = benchmarks.fullest(benchmark.items)
  found += [
    _Answers(system, items, lines)
    for system, lines in systems(config, benchmark)
  ]
  if config.eval.text_baseline.service.model and benchmark.needs_judge:
    asked = benchmarks.variant(items, input='text')
    service = config.eval.text_baseline.service
    client = _client(service, workdir, 'text_baseline')
    print(text_baseline.notice(client, asked))
    if not _may_ask(config.eval.text_baseline):
      _print_some(client, text_baseline.requests(asked))
      return found
    path = os.path.join(
      workdir, 'predictions', f'{benchmark.name}-{client.service.model}.jsonl'
    )
    try:
      lines = text_baseline.predict(client, asked, path)
    except (chat_api.BudgetError, chat_api.ServiceError) as error:
      print(f'{benchmark.name}: no text-only baseline. {error}')
    else:
      found += _by_media(client.service.model, items, asked, lines)
  return found


def _by_media(system: str, items, asked, lines) -> list[_Answers]:
  """A service's answers to questions alone, for each medium they are about.

  Args:
    system: who answers.
    items: with their media.
    asked: the same without.
    lines: of the answers.
  """
  groups: dict[str, list[benchmarks.Item]] = {}
  for item, alone in zip(items, asked, strict=True):
    groups.setdefault(item.input, []).append(alone)
  if len(groups) == 1:
    return [_Answers(system, asked, lines, is_paid=True)]
  return [
    _Answers(f'{system}, {about} questions', some, lines, about, is_paid=True)
    for about, some in groups.items()
  ]


# --- Who judges --------------------------------------------------------------


def _experts(config, workdir: str) -> list[llm_judge.Judge]:
  """The models that judge, of one service and out of one purse; often none."""
  asked = config.eval.judge
  return [
    llm_judge.Judge(_client(service, workdir, 'judge'), asked.prompt)
    for service in _services(asked)
  ]


def _services(asked) -> list[dict[str, Any]]:
  """What is said of each model."""
  if not asked.service.model:
    return []
  services = [dict(asked.service)]
  for model, input_usd, output_usd in asked.others:
    prices = {'input_usd': input_usd, 'output_usd': output_usd}
    services.append({**services[0], 'model': model, **prices})
  return services


def _may_ask(asked) -> bool:
  """Whether the service is asked, or only told what it would be."""
  if asked.mode not in ('dry_run', 'ask'):
    raise ValueError(
      f'Expected mode=dry_run or mode=ask, found {asked.mode!r}; choose one.'
    )
  return asked.mode == 'ask'


def _client(
  service: Mapping[str, Any], workdir: str, name: str
) -> chat_api.Client:
  return chat_api.Client(_service(service), os.path.join(workdir, name))


def _service(fields: Mapping[str, Any]) -> chat_api.Service:
  fields = dict(fields)
  if fields['temperature'] < 0:
    fields['temperature'] = None
  return chat_api.Service(**fields)


def _given(each: _Answers) -> tuple[list[benchmarks.Item], list[str]]:
  """Items that the system has answered, and the texts."""
  lines = {eval_run.key(line): line for line in each.lines}
  there = [
    item for item in each.items
    if 'error' not in lines.get(item.key, {'error': 'no answer'})
  ]  # fmt: skip
  return there, [lines[item.key]['text'] for item in there]


def _show(expert: llm_judge.Judge, each: _Answers) -> None:
  """A dry run: what would be sent, and what it would cost."""
  items, texts = _given(each)
  for shown in itertools.islice(expert.preview(items, texts), _SHOWN):
    print(json.dumps(shown, indent=2, ensure_ascii=False))
  print(f'Dry run: nothing was sent. {expert.estimate(items, texts)}')


def _print_some(client: chat_api.Client, requests) -> None:
  requests = list(requests)
  for shown in client.preview(requests[:_SHOWN]):
    print(json.dumps(shown, indent=2, ensure_ascii=False))
  print(f'Dry run: nothing was sent. {client.estimate(requests)}')


def _as_paper(
  made: Sequence[scores.Row],
  items: Sequence[benchmarks.Item],
  verdicts: Sequence[Any],
) -> list[scores.Row]:
  """Adds accuracy and score as published scripts count them."""
  groups: dict[tuple, tuple[list, list]] = {}
  for item, verdict in zip(items, verdicts, strict=True):
    group = groups.setdefault(_way(vars(item) | {'reading': item.reading}),
                              ([], []))  # fmt: skip
    group[0].append(item)
    group[1].append(verdict)
  summaries: dict[tuple, Mapping[str, judge_replies.Summary]] = {
    way: judge_replies.summarise(*group) for way, group in groups.items()
  }
  found = []
  for row in made:
    summary = summaries[_way(row)].get(row['domain'])
    if summary is not None:
      mean = summary.as_paper
      row = {
        **row,
        'accuracy_as_paper': mean.accuracy,
        'score_as_paper': mean.score,
        'n_as_paper': mean.n_accuracy,
      }
    found.append(row)
  return found


def _way(columns: Mapping[str, Any]) -> tuple:
  return tuple(columns[name] for name in ('input', 'corruption', 'reading'))
