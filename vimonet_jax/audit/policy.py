"""The usage policy: what the software is for, and who has said yes to it.

    config.policy.file       an own text in its place, a file
    config.policy.required   nothing is answered before it has been accepted

To accept it is to send its version, which is a digest of the text: whoever has
read another text has accepted another policy.
"""

import pathlib
from typing import NamedTuple

from vimonet_jax import fingerprint

HEADER = 'X-Usage-Policy'
TEXT = """\
Usage policy

This software answers questions about how people move, from motion capture and
video. It is made for research, teaching, and work with recordings of people who
agreed to it.

1. Its answers may be wrong, and sound sure when they are. Nobody should decide
   about a person by them alone.
2. It is no medical device. It does not diagnose, it does not watch over
   patients, and nothing has been tested that would let it: do not use it where
   a wrong answer, or none, can hurt somebody.
3. Do not use it to watch people who do not know of it or have not agreed, at
   work, at school, at home or in public.
4. Do not use it to find out who somebody is, or to guess their health, origin,
   religion, sexuality, feelings or intentions from how they move or look.
5. It has learnt from few and uneven data: healthy young adults, some sports and
   some rooms more than others. It describes people who move otherwise, because
   of age, disability, clothes or culture, less well. Measure that on your own
   data before you rely on it.
6. Recordings of people are personal data. Keep them no longer than you need
   them, tell the people what is kept, and remove it when they ask. Where motion
   is enough, show it no video.
7. Do not pass its answers off as somebody's own words, and leave the marks by
   which they can be told from those.
8. Whoever offers it to others is responsible for what it is used for there, for
   the law of the place, and for what it was trained on.
"""


class NotAcceptedError(ValueError):
  """The policy has to be accepted first; its text says how."""


class Policy(NamedTuple):
  """What is shown, and asked for.

  Attributes:
    text: the policy.
    version: a digest of it.
    required: whether nothing is answered to who has not accepted it.
  """

  text: str
  version: str
  required: bool


def read(config) -> Policy:
  """The policy of a configuration.

  Raises:
    ValueError: its file has no text.
    OSError: there is none, or it cannot be read.
  """
  settings = config.get('policy', {})
  file = settings.get('file', '')
  text = TEXT
  if file:
    try:
      text = pathlib.Path(file).read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
      raise ValueError(
        f'Expected the text of a policy in {file}, found bytes that are no '
        'UTF-8; save it as plain text.'
      ) from error
    if not text.strip():
      raise ValueError(
        f'Expected the text of a policy in {file}, found it empty; write it, '
        'or leave config.policy.file out for the one that comes along.'
      )
  return Policy(text, fingerprint.digest(text), settings.get('required', False))


def check(policy: Policy, accepted: str | None) -> None:
  """Refuses who has not accepted the policy where that is required.

  Args:
    policy: that is in force.
    accepted: the version that somebody says to accept; None if none.

  Raises:
    NotAcceptedError: it is required, and this is none or another one.
  """
  if not policy.required or accepted == policy.version:
    return
  found = f'that of version {accepted[:40]!r}' if accepted else 'no word of it'
  raise NotAcceptedError(
    f'Expected the usage policy, version {policy.version}, to be accepted, '
    f'found {found}; read it, and tick its box or send the header '
    f'{HEADER}: {policy.version}'
  )
