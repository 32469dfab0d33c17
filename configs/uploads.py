"""What files of strangers may be, for --task=serve and --task=demo.

A part of every preset, as `config.uploads`; see vimonet_jax/apps/uploads.py.

    --config.uploads.video_mb=256 --config.serve.max_body_mb=384
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict({
    # The longest files, MiB. Of a motion the first ten seconds count, as
    # everywhere.
    'motion_mb': 32,
    'video_mb': 64,
    # The longest video, of 60 pictures a second at most, and the largest
    # picture. One of 8K has 7680 * 4320, and needs more memory.
    'video_seconds': 600.0,
    'video_pixels': 4096 * 2304,
    # Processes that read, and what each may take for a file: seconds, and MiB
    # of memory, some 400 of Python included.
    'readers': 2,
    'read_s': 20.0,
    'reader_mb': 1536,
  })  # fmt: skip
