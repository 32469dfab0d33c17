"""Which media may be looked at: with `config.privacy.motion_only`, no video.

Joints show how somebody moves, and pictures who that is and where. In this mode
a video that somebody gives is refused by its name or its field, before a file
is opened: no frame is decoded, kept or written. Datasets keep their videos.
"""

KINDS = ('motion', 'video')


class RefusedError(ValueError):
  """A medium is not accepted here; its text says what is."""


def is_motion_only(config) -> bool:
  """Whether a configuration accepts motion and nothing else."""
  return bool(config.get('privacy', {}).get('motion_only', False))


def check(kind: str, *, motion_only: bool) -> None:
  """Refuses a medium that must not be looked at.

  Args:
    kind: one of KINDS.
    motion_only: see `is_motion_only`.

  Raises:
    RefusedError: it must not.
  """
  if kind not in KINDS:
    raise ValueError(
      f'Expected a medium of {", ".join(KINDS)}, found {kind!r}.'
    )
  if motion_only and kind != 'motion':
    raise RefusedError(
      f'Expected motion alone, as config.privacy.motion_only says, found '
      f'{kind}, of which nothing was read; give the motion, or leave the '
      f'{kind} out.'
    )
