"""The sources that config.data.sources names, as one dataset.

    config.data.sources.<name>   kind: one of KINDS; and the fields of its class

Records call their source <name>. Where its `path` (BABEL-QA: `questions`) is
empty, a source is not used, so that a preset can name all there are. To clips
with names, files of questions can be added: qa_files, qa_place, qa_max_turns,
qa_domain, which are the fields of attached.Attached.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from vimonet_jax.data import (
  amass,
  attached,
  babel_sets,
  joined,
  motionx,
  sources,
  video,
  video_sets,
)

KINDS = {
  'folder': sources.Folder,
  'amass': amass.Amass,
  'motionx': motionx.MotionX,
  'videos': video_sets.Videos,
  'babel_qa': babel_sets.BabelQa,
}
_WITH_NAMES = ('folder', 'amass', 'motionx')  # of their clips, for questions
_QUESTIONS = 'qa_'
# Fields that are files or folders.
_PATHS = (
  'path', 'humanml3d', 'body_models', 'files', 'split_path', 'questions',
  'split_file', 'motions', 'segments', 'babel', 'qa_files',
)  # fmt: skip
# Fields that all sources have from config.data itself.
_SHARED = ('source', 'image_size')


def join(data: Any) -> joined.Joined:
  """The dataset of config.data; opens nothing.

  Args:
    data: has sources, index, strict, image_size and min_frames.

  Raises:
    ValueError: no source is used, or a field is unknown, missing or wrong.
  """
  used = {
    name: fields
    for name, fields in data.sources.items()
    if fields.get(_first_field(name, fields))
  }
  if not used:
    flags = ' or '.join(
      f'--config.data.sources.{name}.{_first_field(name, fields)}=PATH'
      for name, fields in data.sources.items()
    )
    raise ValueError(
      f'Expected one or more sources with a path, found none; give {flags}.'
    )
  parts = [_source(name, fields, data) for name, fields in used.items()]
  return joined.Joined(tuple(parts), index=data.index, strict=data.strict)


def check_paths(data: Any) -> None:
  """Raises a ValueError where a file or folder of a used source is not there.

  Only who builds needs them.
  """
  for name, fields in data.sources.items():
    if not fields.get(_first_field(name, fields)):
      continue
    for field in _PATHS:
      for path in _several(fields.get(field, ())):
        if path and not os.path.exists(path):
          raise ValueError(
            f'Expected a file or folder as config.data.sources.{name}.{field}, '
            f'found none at {path}; correct the path.'
          )


def _first_field(name: str, fields: Mapping[str, Any]) -> str:
  """The field without which a source is not used."""
  kind = fields.get('kind')
  if kind not in KINDS:
    raise ValueError(
      f'Expected config.data.sources.{name}.kind of {", ".join(KINDS)}, found '
      f'{kind!r}; correct it.'
    )
  return 'questions' if kind == 'babel_qa' else 'path'


def _source(name: str, fields: Mapping[str, Any], data: Any) -> Any:
  """One source, with the questions that are added to it."""
  kind = fields['kind']
  made = dataclasses.fields(KINDS[kind])
  own = {field.name: field for field in made}
  known = ['kind', *(field for field in own if field not in _SHARED)]
  if kind in _WITH_NAMES:
    added = [f.name for f in dataclasses.fields(attached.Attached)]
    known += [f'{_QUESTIONS}{field}' for field in added if field != 'base']
  where = f'config.data.sources.{name}'
  if unknown := [field for field in fields if field not in known]:
    raise ValueError(
      f'Expected fields of {", ".join(known)} for {where}, of kind {kind}, '
      f'found {unknown[0]!r}; correct it.'
    )
  given = {
    'source': name,
    'image_size': data.image_size,
    'antialias': data.image_size < video.REFERENCE_PIXELS,
    'min_frames': data.min_frames,
  }
  given = {field: value for field, value in given.items() if field in own}
  given |= {field: fields[field] for field in own if field in fields}
  for field in made:
    is_needed = field.default is dataclasses.MISSING or field.name == 'licence'
    if is_needed and not given.get(field.name):
      raise ValueError(
        f'Expected {where}.{field.name}, found it empty; give '
        f'--config.{where.removeprefix("config.")}.{field.name}=...'
      )
  if 'files' in given:
    given['files'] = _several(given['files'])
  questions = {
    field.removeprefix(_QUESTIONS): value
    for field, value in fields.items()
    if field.startswith(_QUESTIONS)
  }
  try:
    source = KINDS[kind](**given)
    if files := _several(questions.pop('files', ())):
      source = attached.Attached(source, files, **questions)
  except ValueError as e:
    raise ValueError(f'{where}: {e}') from e
  return source


def _several(value: Any) -> tuple[Any, ...]:
  """A path alone is as good as a tuple of one."""
  if isinstance(value, str):
    return (value,) if value else ()
  return tuple(value)
