"""The task audit: for whom a finished model is worse, and its card.

    audit/audit.html   one page: where the model differs, by how much, of how
                       many answers
    audit/audit.json   its numbers
    audit/model_card.md  model_card.html   what the model is, made of the run

Test sets are those of `suite`, each question with the most media that it is
asked with, and where the data are VIMOS-Synth one of its own, of `people`. What
the evaluation has asked is not asked again.
"""

import collections
import dataclasses
import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vimonet_jax import claim, evaluation, locks, report, suite, weight_files
from vimonet_jax import corpus as corpora
from vimonet_jax.annotation import results
from vimonet_jax.audit import (
  attributes,
  bias,
  bias_page,
  compared,
  model_card,
  wording,
)
from vimonet_jax.data import augment, contents, sources
from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import (
  benchmarks,
  changes,
  judge,
  own_items,
  scores,
  scoring,
)
from vimonet_jax.eval import run as eval_run
from vimonet_jax.infer import model_folder
from vimonet_jax.synthetic import people, world

PEOPLE = 'vimos-people'
MIRROR = 'mirror'
AS_FILMED, MIRRORED = 'as filmed', 'mirrored'
# A drill replaces one in so many of a group's right answers.
_DRILLED = 3


class _TestSet(NamedTuple):
  """What is asked, and what is known of whom it is about.

  Attributes:
    benchmark: each question once, and the twins'.
    groups: position -> attribute -> group; see attributes.grouped.
    twins: position of a twin -> that of the clip, and what they differ in.
  """

  benchmark: benchmarks.Benchmark
  groups: Mapping[int, Mapping[str, str]]
  twins: Mapping[int, tuple[int, str]]


class _Answers(NamedTuple):
  """A test set's answers, one an item.

  Attributes:
    lines: of the file of predictions.
    values: how right they are, 0 to 1.
    groups: of the clip and of the words; attribute -> group.
  """

  lines: Sequence[eval_run.Line]
  values: Sequence[float]
  groups: Sequence[Mapping[str, str]]


def run(config, workdir: str, *, output: str | None = None) -> int:
  """Asks what is missing, writes page and card, and prints what was found.

  Args:
    config: of the run; `audit` of the presets.
    workdir: with a finished model.
    output: folder to write to; `audit` of the work folder by default, or
      `audit-drill`.

  Raises:
    ValueError: the work folder is of other settings, the level is none, or the
      drill is of a group that nobody is in.
      (locks.HeldError: somebody else audits it.)
    FileNotFoundError: there is no finished model.
  """
  claim.check(config, workdir, must_exist=True)
  settings = config.get('audit')
  if settings is None:
    raise ValueError(
      'Expected a configuration with config.audit, found none; use one that '
      'has the part configs/audit.py, such as configs/tiny.py.'
    )
  bias.check_level(settings.level)
  drill = _drill(settings.drill)
  # Also of a drill and of another output: all ask for the same predictions.
  lock = os.path.join(workdir, '.audit.lock')
  with locks.held(lock, f'audit {workdir}'):
    return _audit(config, workdir, drill, output)


def _audit(
  config, workdir: str, drill: tuple[str, str] | None, output: str | None
) -> int:
  settings = config.audit
  bundle = model_folder.read(os.path.join(workdir, 'model'))
  found = [
    _of_suite(benchmark)
    for benchmark in suite.open_all(config, workdir, bundle.model.video)
  ]
  if config.data.name == 'synthetic' and settings.clips:
    found.append(_of_people(config))
  if drill:
    found = _drilled(found, *drill)
  told = evaluation.ask(config, workdir, [each.benchmark for each in found])
  answers = [
    _answers(each, lines) for each, (_, lines) in zip(found, told, strict=True)
  ]
  audited = bias.audit(
    [_for_bias(*pair) for pair in zip(found, answers, strict=True)],
    level=settings.level,
  )
  counted, words = _read(config, workdir, settings.conversations)
  for each, given in zip(found, answers, strict=True):
    words |= _words(each, given)
  page = {
    'name': os.path.basename(os.path.abspath(workdir)),
    'made': datetime.datetime.now().strftime('%Y-%m-%d %H:%M'),
    'fingerprint': _fingerprint(answers),
    'settings': claim.digest(config),
    'drill': settings.drill,
    'level': audited.level,
    'number': audited.number,
    'sets': dict(map(_amounts, found)),
    'comparisons': [_flat(each) for each in audited.comparisons],
    'too_few': [list(row) for row in audited.too_few],
    'words': words,
  }
  output = output or os.path.join(workdir, 'audit-drill' if drill else 'audit')
  os.makedirs(output, exist_ok=True)
  _write(output, 'audit.json', json.dumps(page, indent=1) + '\n')
  written = [_write(output, 'audit.html', bias_page.html(page))]
  if not drill:  # A card of wrong right answers would be none.
    card = model_card.make(
      config=_made_with(workdir),
      model=bundle.model,
      weights=weight_files.Lazy(model_folder.weights(f'{workdir}/model')),
      stages={
        name: report.read_stage(workdir, name)[0] for name in config.stage_names
      },
      data=counted,
      rows=scores.read(os.path.join(workdir, 'scores.json')),
      audit=page,
      versions=report.versions(),
    )
    written.append(_write(output, 'model_card.html', model_card.html(card)))
    _write(output, 'model_card.md', model_card.markdown(card))
  print(bias_page.text(page))
  print('\n' + '\n'.join(map(os.path.abspath, written)))
  return 0


def _made_with(workdir: str) -> dict[str, Any]:
  """The settings of the work folder; a command need not repeat all of them."""
  with open(os.path.join(workdir, claim.FILE), encoding='utf-8') as f:
    return json.load(f)


def _write(folder: str, name: str, text: str) -> str:
  path = os.path.join(folder, name)
  with open(f'{path}.part', 'w', encoding='utf-8') as f:
    f.write(text)
  os.replace(f'{path}.part', path)
  return path


# --- What is asked -----------------------------------------------------------


def _of_suite(benchmark: benchmarks.Benchmark) -> _TestSet:
  """Each question once; of VIMOS-Synth in a mirror, too."""
  items = benchmarks.fullest(benchmark.items)
  if benchmark.name == benchmarks.SYNTHETIC:
    items += _mirrored(items)
  known = {}
  for position in sorted({item.position for item in items}):
    try:
      record = benchmark.records[position]
    except (benchmarks.MediaError, records_lib.CorruptError):
      continue  # Its answers fail, or nothing is asked about it.
    known[position] = attributes.of_record(record)
  groups = attributes.grouped(list(known.values()))
  return _TestSet(
    dataclasses.replace(benchmark, items=items),
    dict(zip(known, groups, strict=True)),
    {},
  )


def _of_people(config) -> _TestSet:
  """Clips of all kinds of people, each with twins; see synthetic.people."""
  data, split = config.data, config.eval.split
  drawn = world.World(data.seed, data.image_size, data.max_actions)
  number = config.audit.clips
  made = [
    (split, i, attribute)
    for attribute in ('', *people.ATTRIBUTES)
    for i in range(number)
  ]
  told = [people.conversation(drawn, *each) for each in made]
  items = own_items.questions(told, per_domain=10**9, benchmark=PEOPLE)
  readers = [lambda each=each: people.record(drawn, *each) for each in made]
  return _TestSet(
    benchmarks.Benchmark(
      items,
      benchmarks.Readers(readers),
      {judge.JUDGE: benchmarks.by_rules},
    ),
    {at: record.provenance['person'] for at, record in enumerate(told)},
    {at: (i, name) for at, (_, i, name) in enumerate(made) if name},
  )


def _mirrored(items: Sequence[benchmarks.Item]) -> list[benchmarks.Item]:
  found = []
  for shown in sorted({item.input for item in items}):
    if benchmarks.INPUTS[shown]:
      same = [item for item in items if item.input == shown]
      found += benchmarks.variant(
        same, input=shown, corruption=changes.MIRRORED
      )
  return found


# --- What is answered --------------------------------------------------------


def _answers(each: _TestSet, lines: Sequence[eval_run.Line]) -> _Answers:
  items = each.benchmark.items
  if each.benchmark.rules:
    rule = next(iter(each.benchmark.rules.values()))
    verdicts = scoring.verdicts(items, lines, scoring.by_rule(rule))
    values = [float(bool(verdict.correct)) for verdict in verdicts]
  else:
    values = judge.rouge_l(
      [line.get('text', '') for line in lines],
      [item.references for item in items],
    )
  has_people = each.benchmark.name == PEOPLE
  groups = []
  for item in items:
    # Of people only what makes them differ: all else is in the other sets.
    words = {} if has_people else _words_of(item)
    groups.append({**each.groups.get(item.position, {}), **words})
  return _Answers(lines, values, groups)


def _words_of(item: benchmarks.Item) -> dict[str, str]:
  return attributes.of_words(item.question, ' '.join(item.references))


def _for_bias(each: _TestSet, answers: _Answers) -> compared.Set:
  """Answers about clips, and pairs with their twins and mirror images."""
  singles, pairs = [], []
  first = {}
  rows = list(
    zip(
      each.benchmark.items,
      answers.lines,
      answers.values,
      answers.groups,
      strict=True,
    )
  )
  for item, line, value, groups in rows:
    if item.corruption == changes.CLEAN and item.position not in each.twins:
      first[item.position, _turn(item)] = line, value, groups
      singles.append(
        compared.Answer(
          value, item.position, f'{item.domain} {item.kind}', groups
        )
      )
  for item, line, value, groups in rows:
    if item.corruption == changes.MIRRORED:
      clip, attribute = item.position, MIRROR
      named = AS_FILMED, MIRRORED
    elif item.position in each.twins:
      clip, attribute = each.twins[item.position]
      named = first[clip, _turn(item)][2][attribute], groups[attribute]
    else:
      continue
    line_before, before, _ = first[clip, _turn(item)]
    texts = line_before.get('text'), line.get('text')
    if attribute == MIRROR:
      texts = augment.other_side(texts[0] or ''), texts[1]
    pairs.append(
      compared.Pair(
        attribute, named, (before, value), clip, texts[0] != texts[1]
      )
    )
  return compared.Set(each.benchmark.name, singles, pairs)


def _turn(item: benchmarks.Item) -> str:
  """Which question about its clip it is, the same for twins."""
  return item.id.rpartition('/')[2]


# --- A drill -----------------------------------------------------------------


def _drill(said: str) -> tuple[str, str] | None:
  if not said:
    return None
  attribute, _, group = said.partition('=')
  if not attribute or not group:
    raise ValueError(
      f'Expected config.audit.drill as ATTRIBUTE=GROUP, found {said!r}; write '
      'for example size=large.'
    )
  return attribute, group


def _drilled(
  found: Sequence[_TestSet], attribute: str, group: str
) -> list[_TestSet]:
  """The same, with wrong answers for right ones of a third of a group's items.

  Which ones depends on their ids. Questions stay, and so do predictions.
  """
  made, number, known = [], 0, set()
  for each in found:
    items = []
    for item in each.benchmark.items:
      is_in = each.groups.get(item.position, {}).get(attribute)
      known.add(is_in)
      others = [x for x in item.choices if x not in item.fact.split('; ')]
      chosen = changes.digest(0, item.id) % _DRILLED == 0
      if is_in == group and others and chosen:
        item = dataclasses.replace(item, fact=others[0], references=others[:1])
        number += 1
      items.append(item)
    benchmark = dataclasses.replace(each.benchmark, items=items)
    made.append(each._replace(benchmark=benchmark))
  if not number:
    groups = ', '.join(sorted(known - {None})) or 'none'
    raise ValueError(
      'Expected config.audit.drill to name a group of clips, found '
      f'{attribute}={group}, and of {attribute} there is {groups}; correct it.'
    )
  return made


# --- Words -------------------------------------------------------------------


def _read(config, workdir: str, most: int) -> tuple[dict, dict[str, Any]]:
  """What the data set holds, and the words for gender and age in it.

  Of each split at most so many conversations are read, evenly taken.
  """
  texts = collections.defaultdict(list)
  splits, amounts = {}, {}
  for split in sources.SPLITS:
    source = corpora.open_split(config, workdir, split)
    numbers = np.linspace(0, len(source) - 1, min(len(source), most))
    amounts[split] = len(source)
    splits[split] = _sound(source, map(int, numbers), split, texts)
  counted = contents.count(splits)
  for step in results.STEPS:
    path = os.path.join(workdir, 'annotation', f'{step}.jsonl')
    if os.path.exists(path):
      for row in records_lib.read_json_lines(path):
        for turn in row['turns']:
          texts[f'{step} of a chat service'].append(turn['answer'])
  words = {name: wording.count(some) for name, some in texts.items()}
  return {**counted, 'records': amounts}, words


def _sound(source, numbers, split: str, texts) -> Iterator[records_lib.Record]:
  for number in numbers:
    try:
      record = source[number]
    except records_lib.CorruptError:
      continue  # Training has named it.
    for turn in record.turns:
      texts[f'questions, {split}'].append(turn.question)
      texts[f'answers, {split}'].append(turn.answer)
    yield record


def _words(each: _TestSet, answers: _Answers) -> dict[str, Any]:
  """Of what the model answered, and what it added to what was known."""
  name = each.benchmark.name
  said = [line.get('text', '') for line in answers.lines]
  known = [
    ' '.join((item.question, *item.references)) for item in each.benchmark.items
  ]
  counted = wording.count(said)
  added = wording.added(zip(known, said, strict=True))
  return {f"the model's answers, {name}": {**counted, 'added': added}}


# --- For the page ------------------------------------------------------------


def _amounts(each: _TestSet) -> tuple[str, dict[str, Any]]:
  items = each.benchmark.items
  singles = [
    item
    for item in items
    if item.corruption == changes.CLEAN and item.position not in each.twins
  ]
  return each.benchmark.name, {
    'answers': len(singles),
    'clips': len({item.position for item in singles}),
    'pairs': len(items) - len(singles),
    'input': '+'.join(sorted({item.input for item in singles})),
    'measure': next(iter(each.benchmark.rules), 'ROUGE-L'),
  }


def _flat(comparison: bias.Comparison) -> dict[str, Any]:
  fields = dict(vars(comparison))
  return {**fields.pop('test')._asdict(), **fields}


def _fingerprint(answers: Sequence[_Answers]) -> str:
  found = {x.get('fingerprint', '') for each in answers for x in each.lines}
  return '+'.join(sorted(found - {''}))
