"""Any motion files as HumanML3D's features, and what looks wrong with them.

    python -m vimonet_jax.main --config=configs/mocap.py --task=features \\
        --input=FILE_OR_FOLDER --output=DIR

writes, in folders as those of the input,

    new_joint_vecs/<name>.npy  float32 [T-1, 263], features of the whole file
    joints/<name>.npy          float32 [T, 22, 3], 20 fps, metres, y up
    pictures/<name>.png        the body at some moments and its path
    pictures/<name>.gif        all of it moving, with --animate
    features.json              all that is printed, and what was converted

With texts/ and split files beside them, these are data for configs/mocap.py.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from vimonet_jax.data import records
from vimonet_jax.motion import checks, draw, features, readers

# T2M-GPT and others leave out what is longer, and so does data.sources.
_MAX_ROWS = 199
_REPORT = 'features.json'
_FOLDERS = _FEATURES, _JOINTS, _PICTURES = (
  'new_joint_vecs',
  'joints',
  'pictures',
)
# Beyond rounding there is one reason for joints that do not come back.
_TURNED_MM = 1.0
_TURNED = (
  'An error above 1 mm means that somebody turned by half a turn or more: '
  "HumanML3D's features turn what follows aside there, and ours are the same; "
  'joints/ has the motion as it is.'
)


@dataclasses.dataclass(frozen=True)
class Row:
  """What became of a file.

  Attributes:
    input: its absolute path.
    name: what it is called in the output folder.
    failure: the sentence that says why nothing was written, else empty, and
      then the rest is known.
    frames: at 20 fps.
    fps: what it was recorded at.
    height_m: of the person, from the legs.
    error_mm: mean and largest distance of the joints that the features give
      back from those they were made of, which is after HumanML3D's own steps;
      None where the file held features.
    warnings: what looks wrong, as kind and sentence.
    notes: what was detected and converted.
  """

  input: str
  name: str
  failure: str = ''
  frames: int | None = None
  fps: float | None = None
  height_m: float | None = None
  error_mm: tuple[float, float] | None = None
  warnings: tuple[checks.Finding, ...] = ()
  notes: tuple[str, ...] = ()


def run(
  source: str | None,
  output: str | None,
  *,
  fps: float | None = None,
  up: str | None = None,
  unit: str | None = None,
  animate: bool = False,
) -> int:
  """Converts a file or all of a folder, and prints a table of it.

  Args:
    source: a file for motion.readers, or a folder that has some at any depth.
    output: the folder to write to. What another input or another program has
      put there stays as it is.
    fps, up, unit: of all files, where they do not say; see readers.read.
    animate: whether to draw GIFs, too.

  Returns:
    The exit code: 0, or 1 where a file could not be converted.

  Raises:
    ValueError: nothing to read, or nowhere to write.
  """
  if not source or not output:
    raise ValueError(
      'Expected --input=FILE_OR_FOLDER and --output=DIR, found no '
      f'{"--output" if source else "--input"}; name it.'
    )
  named = _list(pathlib.Path(source), pathlib.Path(output))
  report = pathlib.Path(output, _REPORT)
  before = _read_report(report)
  owners = {row['name']: row['input'] for row in before if not row['failure']}
  width = max(len(shown) for shown, _, _ in named)
  print(_line(width, *_HEADER))
  rows = []
  try:
    for shown, name, path in named:
      row = Row(os.path.abspath(path), name)
      files = _outputs(output, name)
      refusal = _refusal(row, owners.get(name), files)
      if refusal:
        row = dataclasses.replace(row, failure=refusal)
      else:
        _remove(files)
        try:
          row = _convert(row, files, fps=fps, up=up, unit=unit, animate=animate)
        except BaseException:  # Ctrl-C, too: what is half done is nobody's.
          _remove(files)
          raise
      if not row.failure:
        owners[name] = row.input
      rows.append(row)
      print(_line(width, shown, *_cells(row)), flush=True)
  finally:
    _write_report(report, before, rows)
  shown = [shown for shown, _, _ in named]
  print(*_remarks(dict(zip(shown, rows, strict=True)), output), sep='\n')
  return int(any(row.failure for row in rows))


def _list(
  source: pathlib.Path, output: pathlib.Path
) -> list[tuple[str, str, pathlib.Path]]:
  """What each file is called in the table and in the output, and its path.

  A name has no spaces, at which split files are cut.
  """
  if not source.is_dir():
    return [(source.name, '_'.join(source.stem.split()), source)]
  ours = {(output / folder).resolve() for folder in _FOLDERS}
  found = []
  for path in sorted(source.rglob('*')):
    inside = path.relative_to(source)
    is_ours = not ours.isdisjoint(path.resolve().parents)
    is_hidden = any(part.startswith('.') for part in inside.parts)
    if path.suffix.lower() in readers.SUFFIXES and not is_ours | is_hidden:
      name = '_'.join(inside.with_suffix('').as_posix().split())
      found.append((inside.as_posix(), name, path))
  if not found:
    raise ValueError(
      f'Expected files of type {", ".join(readers.SUFFIXES)} in {source}, '
      'found none; name the folder that has them, which is none that this '
      'writes to.'
    )
  return found


def _outputs(output: str, name: str) -> dict[str, pathlib.Path]:
  return {
    kind: pathlib.Path(output, folder, f'{name}{suffix}')
    for kind, folder, suffix in (
      ('features', _FEATURES, '.npy'), ('joints', _JOINTS, '.npy'),
      ('picture', _PICTURES, '.png'), ('animation', _PICTURES, '.gif'),
    )
  }  # fmt: skip


def _remove(files: dict[str, pathlib.Path]) -> None:
  for file in files.values():
    file.unlink(missing_ok=True)


def _refusal(
  row: Row, owner: str | None, files: dict[str, pathlib.Path]
) -> str:
  """Why a file must not be written: the names are taken."""
  if owner not in (None, row.input):
    return (
      f'expected a name of its own, found that {owner} is called {row.name}, '
      'too; rename one of them, or choose another --output.'
    )
  there = [file for file in files.values() if file.exists()]
  if owner is None and there:
    return (
      f'expected no {there[0]}, found one of which {_REPORT} does not tell; '
      'move it away, or choose another --output.'
    )
  return ''


def _convert(
  row: Row,
  files: dict[str, pathlib.Path],
  *,
  fps: float | None,
  up: str | None,
  unit: str | None,
  animate: bool,
) -> Row:
  """Reads a file, writes all that is made of it, and tells what was found."""
  error_mm = None
  try:
    found = readers.read(row.input, fps=fps, up=up, unit=unit)
    motion = found.features
    if motion is None:
      motion = features.encode(found.joints)
      error_mm = _error_mm(found.joints, motion)
  except (ValueError, OSError) as e:
    return dataclasses.replace(row, failure=_sentence(e, row.input))
  for file in files.values():
    file.parent.mkdir(parents=True, exist_ok=True)
  np.save(files['features'], motion)
  np.save(files['joints'], found.joints)
  draw.skeleton_png(found.joints, files['picture'])
  if animate:
    draw.skeleton_gif(found.joints, files['animation'], fps=records.FPS)
  return dataclasses.replace(
    row,
    frames=len(found.joints),
    fps=found.fps,
    height_m=checks.height_m(found.joints),
    error_mm=error_mm,
    warnings=(*_of_length(len(motion)), *checks.find(found.joints)),
    notes=found.notes,
  )


def _sentence(error: ValueError | OSError, path: str) -> str:
  if isinstance(error, OSError):
    return (
      f'expected a file that can be read, found {error.strerror or error}; see '
      'who may read it and whether the disk is there.'
    )
  return ' '.join(str(error).removeprefix(f'{path}: ').split())


def _error_mm(joints_TJ3: np.ndarray, motion_TF: np.ndarray):
  """Mean and largest distance of joints and those that features give back."""
  made_of_TJ3 = features.canonicalise(joints_TJ3)[:-1]
  off_TJ = np.linalg.norm(features.recover(motion_TF) - made_of_TJ3, axis=-1)
  return 1000 * float(off_TJ.mean()), 1000 * float(off_TJ.max())


def _of_length(rows: int) -> Iterator[checks.Finding]:
  if rows < records.MIN_MOTION_FRAMES:
    yield checks.Finding(
      'short',
      f'Expected {records.MIN_MOTION_FRAMES} rows of features or more, found '
      f'{rows}; take a longer part of the recording, or train with a lower '
      'data.min_frames, as configs/mocap.py does.',
    )
  if rows > _MAX_ROWS:
    yield checks.Finding(
      'long',
      f'Expected {_MAX_ROWS} rows of features ({_MAX_ROWS / records.FPS} s) at '
      f'most, found {rows}, more than a model reads; cut the file before it is '
      'converted, or let captions name the seconds that they are about.',
    )


def _read_report(path: pathlib.Path) -> list[dict]:
  try:
    rows = json.loads(path.read_text(encoding='utf-8'))
    return [row for row in rows if row.keys() >= {'input', 'name', 'failure'}]
  except FileNotFoundError:
    return []
  except (ValueError, AttributeError, TypeError) as e:
    raise ValueError(
      f'Expected {path} as an earlier run wrote it, found {str(e)!r}; choose '
      'another --output.'
    ) from e


def _write_report(
  path: pathlib.Path, before: list[dict], rows: list[Row]
) -> None:
  """What this run and those before it have found, each input once."""
  replaced = {(row.input, row.name) for row in rows}
  kept = [r for r in before if (r['input'], r['name']) not in replaced]
  told = [
    dataclasses.asdict(row)
    | {'warnings': [finding._asdict() for finding in row.warnings]}
    for row in rows
  ]
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(
    json.dumps(kept + told, indent=1, ensure_ascii=False) + '\n',
    encoding='utf-8',
  )


_HEADER = (
  'file', 'frames', 'fps in', 'seconds', 'height m', 'error mm', 'warnings',
)  # fmt: skip


def _cells(row: Row) -> tuple[str, ...]:
  if row.failure:
    return (row.failure,)
  error = 'as given'
  if row.error_mm is not None:
    error = '{:.3f}, {:.3f}'.format(*row.error_mm)
  return (
    str(row.frames),
    f'{row.fps:.5g}',
    f'{row.frames / records.FPS:.1f}',
    f'{row.height_m:.2f}',
    error,
    ', '.join(finding.kind for finding in row.warnings) or '-',
  )


def _line(width: int, name: str, *cells: str) -> str:
  if len(cells) < len(_HEADER) - 1:
    return f'{name:{width}}  {" ".join(cells)}'
  *numbers, error, last = cells
  columns = ''.join(f'{number:>9}' for number in numbers)
  return f'{name:{width}} {columns} {error:>17}  {last}'


def _remarks(rows: dict[str, Row], output: str) -> Iterator[str]:
  """What the table has no room for."""
  for shown, row in rows.items():
    for kind, sentence in row.warnings:
      yield f'{shown}: {kind}: {sentence}'
  largest_mm = [row.error_mm[1] for row in rows.values() if row.error_mm]
  if max(largest_mm, default=0) > _TURNED_MM:
    yield _TURNED
  failed = sum(bool(row.failure) for row in rows.values())
  lost = f', {failed} could not be converted' if failed else ''
  yield f'{len(rows) - failed} of {len(rows)} are in {output}{lost}.'
