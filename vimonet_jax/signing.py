"""Manifests of what a command makes, signed where there is a key.

    config.provenance.key_file   see audit/signature.py; where it is empty, what
                                 VIMONET_SIGNING_KEY names in the environment

`main` wraps this around each task, so that none of them has to know of it:

    what is there already  ->  the task  ->  manifests of what has changed
"""

import contextlib
import functools
import glob
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from vimonet_jax import outputs
from vimonet_jax.audit import provenance, signature

_KEY = 'VIMONET_SIGNING_KEY'
# Tasks that compute nothing on devices. Who asks for those takes memory there,
# which somebody else may be using.
_ON_HOST = (
  'annotate', 'convert', 'features', 'plan', 'report', 'score', 'show',
)  # fmt: skip


class _Before(NamedTuple):
  """What there was of an output when the command began.

  Attributes:
    state: of its files; see provenance.state.
    told: of its manifest; None where it had none.
  """

  state: provenance.State | None = None
  told: dict[str, Any] | None = None


@contextlib.contextmanager
def signed(
  command: outputs.Command, *, is_resumed: bool, is_joined: bool
) -> Iterator[None]:
  """Whatever a command writes within gets its manifest at the end.

  Where it is stopped or fails, files get theirs; folders have to wait until it
  comes to its end, since to read a dataset or weights takes longer than who
  stops a process waits.

  Args:
    command: what is done within.
    is_resumed: whether it goes on where it was stopped. What it then finds
      without a manifest gets one that says so.
    is_joined: whether this is one of several processes, of which the first
      writes.

  Raises:
    signature.UnusableError: the key cannot sign, before anything is done.
    ValueError: a manifest that is there is damaged, likewise.
  """
  made, key_file = outputs.of(command), _key_file(command.config)
  # Of several processes only the first needs the key, and which one that is
  # cannot be asked before devices are looked for.
  if made and key_file and not (is_joined and not os.path.exists(key_file)):
    signature.sign(b'', key_file)
  before = {
    os.path.realpath(path): _Before(
      provenance.state(path, output.covers), _told(path)
    )
    for output in made
    for path in _paths(output.path)
  }
  for path in _inputs(made):
    provenance.read(path)  # A damaged one is said now, not at the end.
  try:
    yield
  except BaseException:
    with contextlib.suppress(Exception):  # It would hide what has happened.
      if _is_writer(is_joined):
        files = [output for output in made if not output.covers]
        _write(command, files, before, key_file, is_stopped=True)
    raise
  if _is_writer(is_joined):
    _write(command, made, before, key_file, must_be_new=not is_resumed)
  if is_joined:
    from vimonet_jax import cluster

    # JAX gives who leaves first a minute, and then stops all.
    cluster.wait('the manifests are written')


def without_manifest(folder: str, config) -> list[str]:
  """What tasks leave in work folders, and there is no manifest of.

  Args:
    folder: a work folder, or one with some in it.
    config: of the first; the others have their own.

  Returns:
    paths of files and folders. Files that no task leaves are not among them.
  """
  found = {
    os.path.normpath(path)
    for workdir, its_config in [(folder, config), *_work_folders(folder)]
    for output in outputs.of_all(its_config, workdir)
    for path in _paths(output.path)
    if not _has_manifest(path) and _is_there(path, output.covers)
  }
  return sorted(found)


def _work_folders(folder: str) -> Iterator[tuple[str, Any]]:
  """Those in a folder, itself included, and where their data are.

  Whose folder it is may be a stranger's: nothing else is taken from there.
  """
  from vimonet_jax import claim

  for path in sorted(pathlib.Path(folder).rglob(claim.FILE)):
    try:
      fields = json.loads(path.read_text(encoding='utf-8'))
      name = fields['data']['name']
      is_ours = 'workdir' in fields and name == os.path.basename(name)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
      continue  # That of a model, or somebody else's.
    if is_ours:
      yield (
        str(path.parent),
        ml_collections.ConfigDict({'data': {'name': name}}),
      )


def _is_there(path: str, covers: Sequence[str]) -> bool:
  try:
    return bool(provenance.state(path, covers))
  except ValueError:
    return True  # With what no manifest can be of.


def _is_writer(is_joined: bool) -> bool:
  if not is_joined:
    return True
  from vimonet_jax import cluster

  return cluster.is_first()


def _write(
  command: outputs.Command,
  made: Sequence[outputs.Output],
  before: Mapping[str, _Before],
  key_file: str,
  *,
  must_be_new: bool = False,
  is_stopped: bool = False,
) -> None:
  """Of what was written and, unless it must be new, of what has none.

  Who is stopped reads no weights and no datasets.
  """
  # Once for all outputs: a video may have the length of a night.
  known = functools.cache(
    functools.partial(_known_of_input, is_stopped=is_stopped)
  )
  done = set()
  for path, output in [(x, one) for one in made for x in _paths(one.path)]:
    real = os.path.realpath(path)  # Runs of a study link the same dataset.
    was = before.get(real, _Before())
    is_new = was.state != provenance.state(path, output.covers)
    is_found = not (must_be_new or is_stopped or _has_manifest(path))
    if real in done or not (is_new or is_found):
      continue
    done.add(real)
    said = {
      'what': output.what,
      # Else it was there without a manifest, and this is how it was found.
      'is_of_this_command': is_new,
      'made_by': _made_by(command),
      'device': _device(command.task),
      **_contents(path),
    }
    if was.told is not None:
      said['goes_on_from'] = was.told
    provenance.write(
      path,
      said,
      covers=output.covers,
      made_from={x: known(x) for x in _inputs([output])},
      key_file=key_file,
      before=was.state,
    )


def _known_of_input(path: str, *, is_stopped: bool) -> dict[str, Any]:
  if _has_manifest(path):
    return {}
  if os.path.isfile(path):
    return provenance.file_digest(path)
  return {} if is_stopped else _contents(path)


def _has_manifest(path: str) -> bool:
  return os.path.exists(provenance.path(path))


def _inputs(made: Sequence[outputs.Output]) -> list[str]:
  patterns = dict.fromkeys(x for output in made for x in output.made_from)
  return [path for pattern in patterns for path in _paths(pattern)]


def _paths(pattern: str) -> list[str]:
  found = sorted(glob.glob(pattern))
  return [x for x in found if not provenance.is_manifest(x)]


def _key_file(config) -> str:
  named = config.get('provenance', {}).get('key_file', '')
  return named or os.environ.get(_KEY, '')


def _told(path: str) -> dict[str, Any] | None:
  """What goes into the manifest of an output that grows or is replaced."""
  manifest = provenance.read(path)
  if manifest is None:
    return None
  found = {'manifest': provenance.digest(manifest), 'date': manifest['date']}
  if not os.path.isdir(path):  # Of a folder unchanged files keep their digests.
    before = manifest.get('goes_on_from', {})
    was_intact = before.get('was_intact', True)  # Once changed, always changed.
    found['was_intact'] = was_intact and provenance.verify(path).is_intact
  return found


def _made_by(command: outputs.Command) -> dict[str, Any]:
  from vimonet_jax import claim

  return {
    'task': command.task,
    'command': shlex.join(['python', '-m', 'vimonet_jax.main', *sys.argv[1:]]),
    'config_digest': claim.digest(command.config),
    'config': json.loads(command.config.to_json()),
  }


def _device(task: str) -> str | None:
  if task in _ON_HOST:
    return None
  import jax

  devices = jax.devices()
  return f'{len(devices)} x {devices[0].device_kind}'


def _contents(path: str) -> dict[str, Any]:
  """What tells weights and datasets from others, wherever they lie."""
  found = {}
  weights = os.path.join(path, 'weights')
  if os.path.isdir(weights):
    from vimonet_jax import fingerprint, weight_files

    found['weights'] = fingerprint.of(weight_files.Lazy(weights))
  metadata = os.path.join(path, 'metadata.json')  # TFDS's.
  if os.path.exists(metadata):
    with open(metadata, encoding='utf-8') as f:
      version = os.path.basename(os.path.normpath(path))
      found['data'] = {'version': version, **json.load(f)}
  return found
