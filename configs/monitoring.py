"""How --task=monitor looks at long recordings, and how it learns what to find.

A part of every preset, as `config.monitor`; see vimonet_jax/apps/monitor.py.

    --task=monitor --input=day.npy --output=DIR --config.monitor.hop_s=1
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Fitted anew for other values of all but follow_s and begun_at."""
  return ml_collections.ConfigDict({
    # Seconds that a window shows, and from its start to that of the next. With
    # 4 and 1 falls in 6 h of validation raised the alarm after 1.5 s instead of
    # 2.2, of 19 who wandered 10 were found instead of 16, and it took 1.7 times
    # as long (tiny preset, 2026-11-30).
    'window_s': 6.0,
    'hop_s': 2.0,
    # How long a file that grows, or a pipe, may have nothing new; 0: it does
    # not grow, and a pipe is waited for until its end.
    'follow_s': 0.0,
    # When the recording began, 2026-11-30T22:00:00+01:00; where it is empty,
    # that of what arrives is seen, and that of other files is not known.
    'begun_at': '',
    # Detectors are fitted on one synthetic recording and get their thresholds
    # on another: hours of each, events of each kind an hour there, false alarms
    # of each kind an hour that a threshold may have, and the seed of both.
    'hours': 2.0,
    'per_hour': 12.0,
    'false_per_hour': 0.5,
    'seed': 0,
  })  # fmt: skip
