"""Signatures by OpenSSH: who has the key can sign, everybody can check.

    ssh-keygen -t ed25519 -f publisher    makes publisher and publisher.pub

The secret half stays with ssh-keygen, or in an agent or a security key where
the .pub is named: this process never reads it.
"""

import os
import re
import subprocess
import tempfile

# A signature of anything else, such as of a commit, is none of ours.
_NAMESPACE = 'vimonet_jax'
_FINGERPRINT = re.compile(r'SHA256:\S+')


class UnusableError(ValueError):
  """A key cannot be used; its text says which, and what to do."""


class ForgedError(ValueError):
  """What is signed, or its signature, is not what it was."""


def sign(data: bytes, key_file: str) -> str:
  """The signature of some bytes, as text in OpenSSH's armour.

  Args:
    data: what is signed.
    key_file: a key without a passphrase; or the .pub of one that ssh-agent has.

  Raises:
    UnusableError: it cannot be used.
  """
  if not os.path.isfile(key_file):
    raise UnusableError(
      f'Expected a key to sign with in {key_file}, found no such file; make '
      f'one: ssh-keygen -t ed25519 -N "" -f {key_file}'
    )
  done = _run('-Y', 'sign', '-n', _NAMESPACE, '-f', key_file, given=data)
  if done.returncode:
    raise UnusableError(
      f'Expected a key to sign with in {key_file}, found that ssh-keygen '
      f'cannot use it ({_said(done)}); give its file to nobody else (chmod '
      '600), and where it has a passphrase, ssh-add it and name the .pub.'
    )
  return done.stdout.decode()


def signer(data: bytes, signature: str) -> str:
  """The fingerprint of the key that has signed the bytes, SHA256:...

  Raises:
    ForgedError: the bytes or the signature have been changed.
  """
  with tempfile.NamedTemporaryFile('w', suffix='.sig') as file:
    file.write(signature)
    file.flush()
    done = _run(
      '-Y', 'check-novalidate', '-n', _NAMESPACE, '-s', file.name, given=data
    )  # fmt: skip
  found = _FINGERPRINT.search(done.stdout.decode())
  if done.returncode or not found:
    raise ForgedError(
      f'Expected a signature of what is signed, found another ({_said(done)}).'
    )
  return found[0]


def owner(public_key: str) -> tuple[str, str]:
  """The fingerprint of a file such as publisher.pub, and whose it says it is.

  Raises:
    UnusableError: it is no public key.
  """
  done = _run('-l', '-f', public_key)
  line = done.stdout.decode()
  found = _FINGERPRINT.search(line)
  if done.returncode or not found:
    raise UnusableError(
      f'Expected the public key of whom you trust in {public_key}, found '
      f'{_said(done)}; name the .pub that they gave you.'
    )
  return found[0], line[found.end() :].rpartition('(')[0].strip()


def _run(*arguments: str, given: bytes = b'') -> subprocess.CompletedProcess:
  """ssh-keygen, which can ask nobody for a passphrase."""
  try:
    return subprocess.run(
      ['ssh-keygen', *arguments],
      input=given,
      capture_output=True,
      start_new_session=True,
      env={**os.environ, 'SSH_ASKPASS_REQUIRE': 'never', 'LC_ALL': 'C'},
    )
  except FileNotFoundError as error:
    raise UnusableError(
      'Expected ssh-keygen for signatures, found none; install the OpenSSH '
      'client (8.2 or newer).'
    ) from error


def _said(done: subprocess.CompletedProcess) -> str:
  lines = (done.stderr or done.stdout).decode(errors='replace').splitlines()
  return next((x.strip(' .') for x in reversed(lines) if x.strip()), 'nothing')
