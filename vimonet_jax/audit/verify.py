"""The task `verify`: whether outputs and logs are still what they were.

    python -m vimonet_jax.main --config=configs/tiny.py --task=verify \\
        --input=FILE_OR_FOLDER --public_key=publisher.pub

A sentence for each: a file or folder with a manifest, all that have one in a
folder without, or an audit log. What is left in a work folder with a manifest,
and has none there, is not as it was.
"""

import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

from vimonet_jax.audit import log, provenance, signature


def run(
  path: str | None,
  public_key: str | None = None,
  *,
  secret_file: str = '',
  lacking: Sequence[str] = (),
) -> int:
  """Prints what has become of them.

  Args:
    path: what is verified.
    public_key: of whom must have signed it; None for anybody, or nobody.
    secret_file: of a log; see log.Log.
    lacking: what is in a folder and should have a manifest, but has none; see
      signing.without_manifest.

  Returns:
    0, or 1 where something is not as it was.

  Raises:
    ValueError: there is nothing to compare with.
  """
  if not path:
    raise ValueError(
      'Expected --input=FILE_OR_FOLDER that has a manifest, or an audit log, '
      'found none; name it.'
    )
  path = os.path.normpath(path)
  own = provenance.path(path)
  inside = list(_inside(path)) if os.path.isdir(path) else []
  if log.is_log(path) and (secret_file or not os.path.exists(own)):
    # A manifest beside it, which anybody can write, is no word on its seals.
    verdicts = [log.verify(path, secret_file)]
  # One of the folder is no word on what others in it are of.
  elif set(inside) <= {own} and not lacking:
    verdicts = [provenance.verify(path, public_key)]
  else:
    if public_key:
      signature.owner(public_key)  # A wrong one is wrong for all of them.
    verdicts = [_verdict(x, public_key) for x in inside]
    verdicts += map(_lacking, lacking)
  for verdict in verdicts:
    stream = sys.stdout if verdict.is_intact else sys.stderr
    lines = map(_shown, (verdict.sentence, *verdict.inputs))
    print(*lines, sep='\n  ', file=stream)
  return int(not all(verdict.is_intact for verdict in verdicts))


def _shown(words: str) -> str:
  """No name of a stranger's file starts a line or moves a terminal's cursor."""
  return ''.join(x if x.isprintable() else ascii(x)[1:-1] for x in words)


def _verdict(manifest: str, public_key: str | None) -> provenance.Verdict:
  """As provenance.verify, where one that is damaged does not hide others."""
  try:
    return provenance.verify(manifest, public_key)
  except (ValueError, OSError) as error:
    return provenance.Verdict(False, str(error))


def _lacking(path: str) -> provenance.Verdict:
  return provenance.Verdict(
    False,
    f'Expected {provenance.path(path)}, as every task leaves it that writes '
    f'{path}, found none: it was taken away, or a run was killed; get both '
    'again from whom you trust, or repeat the command.',
  )


def _inside(path: str) -> Iterator[str]:
  """Manifests in a folder, in order."""
  for found in sorted(pathlib.Path(path).rglob(f'*{provenance.NAME}')):
    if provenance.is_manifest(str(found)):
      yield str(found)
