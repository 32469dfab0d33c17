"""Several runs that differ in a few settings, and one table of them all.

    <workdir>/<run>-<seed>/   a work folder each, as --task=pipeline makes them
    <workdir>/study.json  study.html

What runs have in common is made once: a run finds the dataset, and every stage
that was trained with the same settings on the same stages, as links to the
folder that has them. What is finished is not done again, so the same command
goes on; a run that fails is said, and the others go on without it.

config.study has

    name      for the page
    seeds     of training; each run has all of them
    runs      (name, ((field, value), ...)) each: settings in place of those of
              the configuration; a value that is a dict takes the place of all
              that is below the field
    rows      fields of studies.Row each
    claims    fields of study_claims.Claim each
    notes     sentences for the page
    start_from   a finished work folder, or a folder of several, whose data and
              stages are taken where their settings are the same; '' for none
"""

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
from etils import epath

from vimonet_jax import claim, compiled, disk, evaluation, pipeline
from vimonet_jax.data import records
from vimonet_jax.eval import studies, study_claims, study_tables
from vimonet_jax.train import log

# What corpus makes, the last of it last.
_DATA = (
  'data', 'tokenizer.model', 'tokenizer.model.digest', 'statistics.npz',
  'statistics.npz.digest',
)  # fmt: skip


class _Run(NamedTuple):
  """One run with one seed.

  Attributes:
    name: of the run.
    seed: of its training.
    folder: where it is done.
    config: its own, as that of a pipeline.
  """

  name: str
  seed: int
  folder: str
  config: Any


def run(config, workdir: str) -> int:
  """Trains and asks all runs, writes the results, and prints the table.

  Returns:
    0, or 1 where a run has failed.

  Raises:
    ValueError: the study names what there is not, or settings of a run do not
      fit; as far as can be told, before anything is made.
    disk.FullError: the next run would not find room either.
  """
  rows, claims = _read(config)
  runs = _runs(config, workdir)
  for each in runs:
    try:
      pipeline.check(each.config, each.folder)
    except ValueError as error:
      raise ValueError(f'Run {each.name}, seed {each.seed}: {error}') from error
  given = _given(config)
  failed = {}
  with _alone(workdir), compiled.meanwhile():
    for number, each in enumerate(runs, start=1):
      title = f'{each.name}, seed {each.seed}'
      print(f'--- {title} ({number} of {len(runs)})', flush=True)
      try:
        _finish(each, [*given, *(r.folder for r in runs)])
      except disk.FullError:
        raise
      except Exception as error:  # Whatever it is, others are not lost.
        failed[title] = str(error) or type(error).__name__
        print(f'{title} failed: {failed[title]}', flush=True)
        logging.info('It was raised here:', exc_info=True)
  verdicts = {
    (each.name, each.seed): list(_verdicts(each.folder))
    for each in runs
    if f'{each.name}, seed {each.seed}' not in failed
  }
  _write(config, workdir, rows, claims, verdicts, failed)
  return 1 if failed else 0


@contextlib.contextmanager
def _alone(workdir: str) -> Iterator[None]:
  """Two processes would train the same stage in the same folder."""
  os.makedirs(workdir, exist_ok=True)
  with open(os.path.join(workdir, '.lock'), 'w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise ValueError(
        f'Expected one process in {workdir}, found another one at work there; '
        'wait for it, or choose another --workdir.'
      ) from error
    yield


def _finish(each: _Run, folders: Sequence[str]) -> None:
  """Trains and asks one run, as far as that is not done."""
  with disk.says_when_full(each.folder):
    share(each.config, each.folder, folders)
    pipeline.make(each.config, each.folder)
    evaluation.evaluate(each.config, each.folder)


# --- What the study asks for -------------------------------------------------


def _read(config) -> tuple[list[studies.Row], list[study_claims.Claim]]:
  if 'study' not in config:
    raise ValueError(
      'Expected a configuration with config.study, found none; use one of '
      'configs/studies/.'
    )
  rows = [_made(studies.Row, row) for row in config.study.rows]
  claims = [
    _made(study_claims.Claim, {**x, 'rows': tuple(x['rows'])})
    for x in config.study.claims
  ]
  names = [name for name, _ in config.study.runs]
  if len(set(names)) < len(names) or not names or not config.study.seeds:
    raise ValueError(
      'Expected study.seeds and study.runs with a name of its own each, found '
      f'seeds {tuple(config.study.seeds)} and runs {", ".join(names)}.'
    )
  studies.check(rows)
  study_claims.check(claims, rows)
  if unknown := [row for row in rows if row.run not in names]:
    raise ValueError(
      f'Expected rows of runs {", ".join(names)}, found row '
      f'{unknown[0].label!r} of {unknown[0].run!r}.'
    )
  return rows, claims


def _made(kind, fields: Mapping[str, Any]):
  try:
    return kind(**fields)
  except TypeError as error:
    known = ', '.join(field.name for field in dataclasses.fields(kind))
    raise ValueError(
      f'Expected fields {known} for a {kind.__name__.lower()} of the study, '
      f'found {", ".join(fields)}.'
    ) from error


def _runs(config, workdir: str) -> list[_Run]:
  """All runs with the first seed, then with the next one."""
  return [
    _Run(
      name,
      seed,
      os.path.join(workdir, f'{name}-{seed}'),
      changed(config, {**dict(changes), 'seed': seed}),
    )
    for seed in config.study.seeds
    for name, changes in config.study.runs
  ]


def changed(config, changes: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """A pipeline's configuration: the study's, with other values for fields.

  Args:
    config: of the study.
    changes: dotted name -> value; a dict takes the place of all that was there.

  Raises:
    ValueError: the configuration has no such field.
  """
  found = config.copy_and_resolve_references()
  with found.unlocked():
    del found.study
    found.task = 'pipeline'
    for name, value in changes.items():
      *groups, field = name.split('.')
      place = found
      for group in groups:
        place = place.get(group) if group in place else None
        if not isinstance(place, ml_collections.ConfigDict):
          break
      if not isinstance(place, ml_collections.ConfigDict) or field not in place:
        raise ValueError(
          f'Expected runs that change fields of the configuration, found '
          f'{name}; its file lists those that there are.'
        )
      del place[field]
      is_tree = isinstance(value, Mapping)
      place[field] = ml_collections.ConfigDict(value) if is_tree else value
  return found


# --- What runs have in common ------------------------------------------------


def share(config, folder: str, others: Sequence[str]) -> list[str]:
  """Links what other work folders have made with the same settings.

  What the folder has already stays as it is.

  Args:
    config: of the run that the folder is for.
    folder: is made where it is missing.
    others: work folders; those that nobody has begun are passed over.

  Returns:
    Names of what was linked, stages included.
  """
  mine = json.loads(config.to_json())
  there = {
    other: fields
    for other in others
    if os.path.abspath(other) != os.path.abspath(folder)
    and (fields := _fields(other)) is not None
  }
  os.makedirs(folder, exist_ok=True)
  for path in pathlib.Path(folder).iterdir():
    if path.is_symlink() and not path.exists():
      path.unlink()  # To what was removed: it has to be made again.
  linked = []
  data = claim.of_data(mine)
  for other, fields in there.items():
    # Whose last file is there has the others.
    if _exists(other, _DATA[-1]) and claim.of_data(fields) == data:
      linked += [x for x in _DATA if _link(other, folder, x)]
      break
  for number, name in enumerate(config.stage_names, start=1):
    first = list(config.stage_names)[:number]
    wanted = claim.of_stages(mine, first)
    for other, fields in there.items():
      if (
        fields['stage_names'][:number] == first
        and claim.of_stages(fields, first) == wanted
        and log.finished(epath.Path(other) / name, config[name].steps)
      ):
        linked += [name] * _link(other, folder, name)
        break
    else:
      # What comes later was trained on a stage that this run has to train.
      break
  if linked:
    # Files that belong to the data are nobody's business.
    names = [x for x in linked if x == _DATA[0] or x not in _DATA]
    print(f'{os.path.basename(folder)} has from others: {", ".join(names)}')
  return linked


def _fields(folder: str) -> dict[str, Any] | None:
  """The settings that a work folder was begun with; None if nobody has."""
  path = pathlib.Path(folder, claim.FILE)
  return json.loads(path.read_text('utf-8')) if path.exists() else None


def _exists(folder: str, name: str) -> bool:
  return os.path.exists(os.path.join(folder, name))


def _link(other: str, folder: str, name: str) -> bool:
  """Whether `name` was missing and is now a link to that of another folder."""
  path = os.path.join(folder, name)
  if os.path.exists(path):
    return False
  # To the folder that made it, by a name that moves along with the study.
  made = os.path.realpath(os.path.join(other, name))
  os.symlink(os.path.relpath(made, os.path.realpath(folder)), path)
  return True


def _given(config) -> list[str]:
  """Work folders that the study may begin with."""
  folder = config.study.start_from
  if not folder:
    return []
  inside = [folder, *map(str, sorted(pathlib.Path(folder).glob('*/')))]
  if found := [path for path in inside if _exists(path, claim.FILE)]:
    return found
  raise ValueError(
    f'Expected study.start_from as a work folder, or a folder of some, found '
    f'no {claim.FILE} in {folder}; correct it or leave it out.'
  )


# --- Results -----------------------------------------------------------------


def _verdicts(folder: str) -> Iterator[Mapping[str, Any]]:
  for path in sorted(pathlib.Path(folder, 'verdicts').glob('*.jsonl')):
    yield from records.read_json_lines(str(path))


def _write(config, workdir: str, rows, claims, verdicts, failed) -> None:
  """study.json, study.html, and the table on the terminal."""
  tables = studies.tables(rows, verdicts)
  found = {
    'name': config.study.name,
    'seeds': list(config.study.seeds),
    'rows': [dataclasses.asdict(row) for row in rows],
    'failed': failed,
    'tables': [table._asdict() for table in tables],
    'claims': [
      {
        **dataclasses.asdict(claimed),
        'benchmark': table.benchmark,
        'judge': table.judge,
        'verdict': verdict,
        'because': because,
      }
      for table in tables
      for claimed in claims
      for verdict, because in [study_claims.decide(claimed, table)]
    ],
  }
  os.makedirs(workdir, exist_ok=True)
  path = os.path.join(workdir, 'study.json')
  with open(f'{path}.part', 'w', encoding='utf-8') as f:
    json.dump(found, f, indent=1)
  os.replace(f'{path}.part', path)
  page = os.path.join(workdir, 'study.html')
  study_tables.write_page(
    f'{page}.part',
    config.study.name,
    rows,
    claims,
    tables,
    failed,
    notes=config.study.notes,
  )
  os.replace(f'{page}.part', page)
  print()
  print(study_tables.text(rows, claims, tables, failed, config.study.notes))
  print(f'\n{os.path.abspath(page)}')
