"""Small videos, each of which looks different, and motions beside them."""

import pathlib

import av
import numpy as np

from vimonet_jax.motion import features
from vimonet_jax.synthetic import actions

FPS = 30


def write(
  path: pathlib.Path,
  number: int,
  *,
  frames: int = 31,
  size: int = 32,
  faststart: bool = False,
) -> pathlib.Path:
  """A video whose colours tell its number.

  With `faststart` its head comes first: cut off, it still opens then.
  """
  colour = np.array([number % 16, number // 16 % 16, number // 256]) * 16
  image = np.zeros((size, size, 3), np.uint8) + colour.astype(np.uint8)
  options = {'movflags': 'faststart'} if faststart else {}
  with av.open(str(path), 'w', options=options) as container:
    stream = container.add_stream('mpeg4', rate=FPS)
    stream.height = stream.width = size
    stream.pix_fmt = 'yuv420p'
    for t in range(frames):
      image[:, : t % size] = 128
      frame = av.VideoFrame.from_ndarray(image, format='rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path


def joints(*verbs: actions.Action) -> np.ndarray:
  """float32 [T, 22, 3] of somebody who does this."""
  return actions.animate(verbs, np.random.default_rng(0)).joints


def write_motion(path: pathlib.Path, *verbs: actions.Action) -> pathlib.Path:
  """HumanML3D features, which say their frame rate by what they are."""
  np.save(path, features.encode(joints(*verbs)))
  return path
