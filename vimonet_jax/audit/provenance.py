"""What an output was made of and by what: a manifest that can be signed.

    answers.jsonl    answers.jsonl.manifest.json     beside a file
    model/           model/manifest.json             in a folder

    {"manifest": {"format": ...,
                  "what": "answers to questions",
                  "files": {"answers.jsonl": {"bytes": ..., "sha256": ...}},
                  "covers": what of a folder `files` lists, as patterns
                  "made_by": {"task", "command", "config", "config_digest"},
                  "made_from": [{"path": ..., "manifest": a digest}, ...],
                  "chain": {that digest: {"what", "made_from", ...}, ...},
                  "weights": the fingerprint of a model's,
                  "data": what a dataset was built of,
                  "software": {...}, "commit", "device", "date", ...},
     "signature": "-----BEGIN SSH SIGNATURE----- ..."}

What is signed is the value of "manifest" as canonical JSON: UTF-8, sorted keys,
no spaces, as Python writes it. Without any code of ours:

    python -c "import json; x = json.load(open('a.manifest.json'))
    open('said', 'w').write(json.dumps(x['manifest'], sort_keys=True,
                            separators=(',', ':'), ensure_ascii=False))
    open('said.sig', 'w').write(x['signature'])"
    ssh-keygen -Y check-novalidate -n vimonet_jax -s said.sig < said

`made_from` has of each input its path, from the folder of the manifest, and the
digest of its own manifest, and `chain` what that and all before it say: back to
the data. What an output goes on from, such as half of the answers, is in it,
too. An input without a manifest has the digest of its file.
"""

import concurrent.futures
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vimonet_jax.audit import signature

NAME = 'manifest.json'
_FORMAT = 'vimonet_jax manifest 1'
_UNSIGNED = (
  'nobody has signed this: it tells of accidents, not of who changed a file '
  'and this as well'
)
# Keys of an input's manifest that go into `chain`.
_IN_CHAIN = (
  'what', 'is_of_this_command', 'date', 'weights', 'data', 'made_from',
  'goes_on_from',
)  # fmt: skip
# How patterns name files of a folder: one, all, or all of a folder in it.
_TREE = '**/*'
_PATTERN = re.compile(r'([^/*?\[]+/)?\*\*/\*|[^/*?\[]+')
# Its manifest, and what is left of one where the process was killed.
_OWN = re.compile(rf'{re.escape(NAME)}(\.\d+\.part)?')
_DATE = re.compile(r'[\d-]+ [\d:]+ UTC')
_READERS = 4  # Files whose digests are made at the same time.

State = Mapping[str, tuple[int, int, int]]


class Verdict(NamedTuple):
  """What has become of an output.

  Attributes:
    is_intact: as its manifest says, which is signed by whom it should be.
    sentence: what was found.
    inputs: a line for each that it was made from.
  """

  is_intact: bool
  sentence: str
  inputs: tuple[str, ...] = ()


def path(output: str) -> str:
  """Where the manifest of an output lies."""
  if os.path.isdir(output):
    return os.path.join(output, NAME)
  return f'{output}.{NAME}'


def is_manifest(path: str) -> bool:
  """Whether a path is that of a manifest, and not of an output."""
  return path.endswith(f'.{NAME}') or os.path.basename(path) == NAME


def state(output: str, covers: Sequence[str] = ()) -> State:
  """Its files, by their paths in it, and what changes when one is written.

  Args:
    output: a file, or a folder.
    covers: patterns of the files of a folder that count.
  """
  if not os.path.isdir(output):
    names = [os.path.basename(output)] if os.path.exists(output) else []
    folder = os.path.dirname(output)
  else:
    names, folder = _names(output, covers), output
  found = {name: os.stat(os.path.join(folder, name)) for name in names}
  return {
    name: (x.st_size, x.st_mtime_ns, x.st_ino) for name, x in found.items()
  }


def write(
  output: str,
  said: Mapping[str, Any],
  *,
  covers: Sequence[str] = (),
  made_from: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({}),
  key_file: str = '',
  before: State | None = None,
) -> str:
  """Writes the manifest of an output, all of it or nothing.

  What an earlier manifest says of files that have not been written since stays
  as it is: who changed one is not helped by whoever adds another.

  Args:
    output: a file, or a folder.
    said: what else to say: `what`, `made_by` and so on, as JSON values.
    covers: see `state`.
    made_from: paths of its inputs, and what is known of those that have no
      manifest; a file's digest is made here where it is not among that.
    key_file: see signature.sign; nobody signs where it is empty.
    before: the state when whatever has changed it began.

  Returns:
    the manifest's path.
  """
  place = path(output)
  folder = os.path.dirname(place)
  now = state(output, covers)
  known = (_read(place) or {}).get('files', {}) if before else {}
  kept = {
    name: known[name]
    for name in now
    if name in known and before.get(name) == now[name]
  }
  files = {**kept, **_digests(folder, [x for x in now if x not in kept])}
  manifest = {
    'format': _FORMAT,
    **said,
    'files': dict(sorted(files.items())),
    **({'covers': list(covers)} if os.path.isdir(output) else {}),
    'made_from': [_input(x, folder, made_from[x]) for x in made_from],
    # Of what it goes on from, too: a part of it is still of those inputs.
    'chain': _chain([*made_from, *[output] * ('goes_on_from' in said)]),
    'software': software(),
    'commit': commit(),
    'date': _now(),
  }
  if key_file:
    signed = signature.sign(_canonical(manifest), key_file)
    fields = {'manifest': manifest, 'signature': signed}
  else:
    fields = {'manifest': manifest, 'signature': None, 'unsigned': _UNSIGNED}
  part = f'{place}.{os.getpid()}.part'
  with open(part, 'w', encoding='utf-8') as f:
    json.dump(fields, f, indent=1, ensure_ascii=False)
  os.replace(part, place)
  return place


def read(output: str) -> dict[str, Any] | None:
  """What the manifest of an output says; None without one.

  Raises:
    ValueError: it is damaged.
  """
  return _read(path(output))


def digest(manifest: Mapping[str, Any]) -> str:
  """A manifest's, by which another one names it."""
  return hashlib.sha256(_canonical(manifest)).hexdigest()


def verify(output: str, public_key: str | None = None) -> Verdict:
  """Compares an output with its manifest.

  Args:
    output: a file or folder, or its manifest.
    public_key: path of the key of whom you trust, e.g. publisher.pub; without
      one, whoever has signed it is named.

  Raises:
    ValueError: there is no manifest, or it or the key is none.
  """
  if is_manifest(output):
    output = output.removesuffix(NAME)[:-1] or os.curdir
  place = path(output)
  fields = _fields(place)
  if fields is None:
    raise ValueError(
      f'Expected {place}, which says what {output} was, found none; get it '
      'from whom you got the output.'
    )
  manifest = fields['manifest']
  changes = _changes(output, manifest)
  by, complaint = _signer(fields, public_key)
  inputs = tuple(_said_of(x, output) for x in manifest.get('made_from', ()))
  if complaint or changes:
    found = '; '.join([complaint] * bool(complaint) + changes)
    return Verdict(
      False,
      f'Expected {output} as its manifest says, found {found}; get both again '
      'from whom you trust.',
      inputs,
    )
  at = f'{manifest["date"]}, {by}; {_described(manifest)}'
  return Verdict(True, f'{output} is as it was on {at}.', inputs)


def software() -> dict[str, str]:
  """Versions of Python, of this package, and of what it is built on."""
  try:
    needed = importlib.metadata.requires('vimonet_jax') or []
  except importlib.metadata.PackageNotFoundError:
    needed = []
  names = [re.match(r'[\w.-]+', x)[0] for x in needed if 'extra ==' not in x]
  found = {'python': platform.python_version()}
  for name in ('vimonet_jax', *names, 'jaxlib'):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


@functools.cache
def commit() -> str | None:
  """Of this code, with -dirty where it was changed; None outside git."""
  root = pathlib.Path(__file__).parents[2]
  if not (root / '.git').exists():
    return None  # Installed; a repository around it would be another one's.
  try:
    done = subprocess.run(
      ['git', 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*'],
      cwd=root,
      capture_output=True,
      text=True,
    )
  except OSError:
    return None
  return done.stdout.strip() or None


# --- What a manifest says ----------------------------------------------------


def _names(folder: str, covers: Sequence[str]) -> list[str]:
  """Files of a folder that patterns name, without its manifest.

  Raises:
    ValueError: there is a link to a folder, which may lead out or round.
  """
  found = set()
  for pattern in covers:
    start, is_tree, _ = pattern.partition(_TREE)
    if not is_tree:
      found.add(pattern)
      continue
    top = os.path.join(folder, start)
    if start and os.path.islink(top.rstrip('/')):
      raise _link_found(folder, start)
    for at, folders, files in os.walk(top):
      inside = os.path.relpath(at, folder)
      for name in folders:
        if os.path.islink(os.path.join(at, name)):
          raise _link_found(folder, os.path.join(inside, name))
      found |= {os.path.normpath(os.path.join(inside, x)) for x in files}
  return sorted(
    name.replace(os.sep, '/')
    for name in found
    if os.path.isfile(os.path.join(folder, name)) and not _OWN.fullmatch(name)
  )


def _link_found(folder: str, name: str) -> ValueError:
  return ValueError(
    f'Expected files and folders in {folder}, found {os.path.normpath(name)}, '
    f'a link to a folder; put there what it leads to, or link all of {folder}.'
  )


def _digests(folder: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    made = pool.map(lambda x: file_digest(os.path.join(folder, x)), names)
    return dict(zip(names, made, strict=True))


def file_digest(path: str) -> dict[str, Any]:
  """`bytes` and `sha256` of a file, all of which is read."""
  with open(path, 'rb') as f:
    found = hashlib.file_digest(f, 'sha256').hexdigest()
    return {'bytes': f.tell(), 'sha256': found}


def _input(given: str, folder: str, known: Mapping[str, Any]) -> dict[str, Any]:
  """Which manifest an input has, or else what is known of it."""
  found = {'path': os.path.relpath(given, folder or os.curdir)}
  told = read(given)
  if told is not None:
    return {**found, 'manifest': digest(told)}
  if os.path.isfile(given):
    return {**found, **(known or file_digest(given))}
  return {**found, 'manifest': None, **known}


def _chain(given: Iterable[str]) -> dict[str, dict[str, Any]]:
  """What the manifests of inputs say, and those of their inputs, by digest."""
  found = {}
  for told in filter(None, map(read, given)):
    found |= told['chain']
    found[digest(told)] = {key: told[key] for key in _IN_CHAIN if key in told}
  return dict(sorted(found.items()))


def _canonical(manifest: Mapping[str, Any]) -> bytes:
  return json.dumps(
    manifest, sort_keys=True, separators=(',', ':'), ensure_ascii=False
  ).encode()


def _fields(place: str) -> dict[str, Any] | None:
  """What is in the file of a manifest, as far as it has the form of one."""
  try:
    with open(place, encoding='utf-8') as f:
      fields = json.load(f)
    _check_form(fields, is_folder=os.path.basename(place) == NAME)
  except FileNotFoundError:
    return None
  except (
    ValueError, KeyError, TypeError, AttributeError, RecursionError,
  ) as error:  # fmt: skip
    raise ValueError(
      f'{place}: expected a manifest ({_FORMAT}), found {error!r}; get it '
      'again, or remove it and repeat the command that made it.'
    ) from error
  return fields


def _check_form(fields: Mapping[str, Any], *, is_folder: bool) -> None:
  """Raises where it has none; who wrote it may be anybody."""
  manifest, signed = fields['manifest'], fields['signature']
  if manifest['format'] != _FORMAT:
    raise ValueError(f'format {manifest["format"]!r}')
  for x in manifest['files'].values():
    x['bytes'], x['sha256']
  if is_folder:
    for x in manifest['covers']:
      if os.path.isabs(x) or os.pardir in x.split('/'):
        raise ValueError(f'{x!r} outside of its folder')
      if not _PATTERN.fullmatch(x):
        raise ValueError(f'{x!r} to name its files')
  elif 'covers' in manifest or len(manifest['files']) != 1:
    raise ValueError('that of a folder beside a file')
  if not _DATE.fullmatch(manifest['date']):
    raise ValueError(f'date {manifest["date"]!r}')
  for x in manifest.get('made_from', ()):
    if not isinstance(x['path'], str):
      raise ValueError(f'path {x["path"]!r}')
    x['sha256' if 'sha256' in x else 'manifest']
  if not isinstance(signed, str | None):
    raise ValueError(f'signature {signed!r}')
  manifest['chain'].keys(), manifest.get('goes_on_from', {}).keys()
  _canonical(manifest)  # Half of a pair in its text has no bytes to sign.


def _read(place: str) -> dict[str, Any] | None:
  fields = _fields(place)
  return fields and fields['manifest']


def _now() -> str:
  now = datetime.datetime.now(datetime.UTC)
  return now.isoformat(sep=' ', timespec='seconds').replace('+00:00', ' UTC')


# --- What has become of it ---------------------------------------------------


def _changes(output: str, manifest: Mapping[str, Any]) -> list[str]:
  """What differs from the files that a manifest lists, in words."""
  listed = manifest['files']
  is_folder = 'covers' in manifest
  folder = output if is_folder else os.path.dirname(output)
  if is_folder:
    there = _names(output, manifest['covers'])
  else:  # It may have been called otherwise.
    there = [os.path.basename(output)] if os.path.exists(output) else []
    listed = {os.path.basename(output): x for x in listed.values()}
  both = sorted({*there} & {*listed})
  now = _digests(folder, both)
  changed = [x for x in both if now[x] != listed[x]]
  kinds = {
    'changed': changed,
    'missing': sorted({*listed} - {*there}),
    'added': sorted({*there} - {*listed}),
  }
  return [
    f'{", ".join(names[:3])}{" and others" * (len(names) > 3)} {kind}'
    for kind, names in kinds.items()
    if names
  ]


def _described(manifest: Mapping[str, Any]) -> str:
  """What is as it was, and what of it is not said to be."""
  number = len(manifest['files'])
  said = f'{manifest.get("what", "it")}, {number} file{"s" * (number != 1)}'
  if _TREE not in manifest.get('covers', (_TREE,)):
    said += ', and nothing of others there'
  if manifest.get('goes_on_from', {}).get('was_intact') is False:
    said += '; it goes on from one that somebody had changed'
  return said


def _signer(
  fields: Mapping[str, Any], public_key: str | None
) -> tuple[str, str]:
  """Who has signed it, in words; and what is wrong with that, if anything."""
  wanted, who = signature.owner(public_key) if public_key else (None, '')
  if not fields['signature']:
    by = 'as far as a manifest tells that nobody has signed'
    return by, f'that nobody has signed it, not {wanted}' if wanted else ''
  try:
    found = signature.signer(
      _canonical(fields['manifest']), fields['signature']
    )
  except signature.ForgedError:
    return '', 'the manifest changed after it was signed'
  if wanted is None:
    return f'signed by {found} (--public_key=FILE.pub tells whose that is)', ''
  if found != wanted:
    return '', f'it signed by {found}, not by {who} ({wanted})'
  return f'signed by {who} ({found})', ''


def _said_of(made_from: Mapping[str, Any], output: str) -> str:
  """Whether an input is still what it was, as far as that is quickly seen."""
  folder = os.path.dirname(path(output))
  given = os.path.normpath(os.path.join(folder, made_from['path']))
  if not os.path.exists(given):
    now = 'is not here'
  elif 'sha256' in made_from:
    is_file = os.path.isfile(given)
    is_same = is_file and file_digest(given)['sha256'] == made_from['sha256']
    now = 'is the same' if is_same else 'is another by now'
  elif made_from['manifest'] is None:
    now = 'had no manifest'
  else:
    now = _manifest_of_input(given, made_from['manifest'])
  return f'It was made from {given}, which {now}.'


def _manifest_of_input(given: str, known: str) -> str:
  try:
    told = read(given)
  except ValueError:
    return 'has a damaged manifest'
  if told is None:
    return 'has lost its manifest'
  is_same = digest(told) == known
  return 'has the same manifest' if is_same else 'is another by now'
