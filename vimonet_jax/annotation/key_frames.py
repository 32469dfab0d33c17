"""Key frames of a video as JPEG, kept in a folder.

What a service is sent decides under which hash its reply is kept. So the bytes
are made once: another version of a codec must not make us pay again, and who
wants to see what was sent finds it there.

    folder/<id>/000000.jpg 000015.jpg ...   made.json: of what, and how
"""

import io
import json
import os
import pathlib
import shutil
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vimonet_jax.data import video, video_file

_QUALITY = 85
_MADE = 'made.json'


class KeyFrames(NamedTuple):
  """What a model is shown of a video.

  Attributes:
    jpegs: the files' bytes, in the order of time.
    step_s: seconds from one to the next; 0 where nobody knows.
  """

  jpegs: tuple[bytes, ...]
  step_s: float


def read(
  path: str, folder: str, name: str, *, every: int, side: int, most: int
) -> KeyFrames:
  """Key frames, from the folder where they were made before.

  Args:
    path: a video, or a folder of images, see video.read_clip.
    folder: where they are kept.
    name: of the clip.
    every: which frames: 0, every, 2 * every, ...
    side: pixels of the longer side; smaller frames stay as they are.
    most: how many there may be.

  Raises:
    video_file.VideoFileError: no such file, a damaged one, or one with too
      many.
  """
  target = pathlib.Path(folder, urllib.parse.quote(name, safe=''))
  wanted = {'every': every, 'side': side, 'file': _identity(path)}
  made = _made(target)
  if {key: made.get(key) for key in wanted} != wanted:
    made = wanted | _make(path, target, every=every, side=side, most=most)
    _write(target, made)
  if made['frames'] > most:
    _refuse(path, made['frames'], every, most)
  jpegs = [path.read_bytes() for path in sorted(target.glob('*.jpg'))]
  return KeyFrames(tuple(jpegs), made['step_s'])


def _make(path: str, target: pathlib.Path, *, every, side, most) -> dict:
  """Writes the frames beside the target, and puts them in its place."""
  rate = 0.0

  def choose(number: int, fps: float) -> Sequence[int]:
    nonlocal rate
    rate = fps
    chosen = range(0, number, every)
    if len(chosen) > most:
      _refuse(path, len(chosen), every, most)
    return chosen

  jpegs = video.read_images(path, choose, lambda image: _jpeg(image, side))
  part = target.with_name(f'{target.name}.part')
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir(parents=True)
  for i, jpeg in enumerate(jpegs):
    (part / f'{i * every:06d}.jpg').write_bytes(jpeg)
  shutil.rmtree(target, ignore_errors=True)
  os.replace(part, target)
  step_s = round(every / rate, 3) if rate else 0.0
  return {'frames': len(jpegs), 'step_s': step_s}


def _refuse(path: str, found: int, every: int, most: int) -> None:
  raise video_file.VideoFileError(
    f'{path}: expected at most {most} key frames, found {found} (every '
    f'{every}th frame); cut it into clips, or raise '
    'config.annotate.max_images, for each of them is paid.'
  )


def _jpeg(image_HW3: np.ndarray, side: int) -> bytes:
  """The whole image: who stands at its edge is seen as well."""
  from PIL import Image

  image = Image.fromarray(np.ascontiguousarray(image_HW3))
  image.thumbnail((side, side), Image.Resampling.BILINEAR)
  held = io.BytesIO()
  image.save(held, 'JPEG', quality=_QUALITY)
  return held.getvalue()


def _identity(path: str) -> list:
  """Changes with the file, or with those of a folder; its place does not."""
  if not os.path.exists(path):
    raise video_file.VideoFileError(
      f'{path}: expected a video, found no such file; correct the path.'
    )
  if not os.path.isdir(path):
    return [os.stat(path).st_size, os.stat(path).st_mtime_ns]
  found = [entry.stat() for entry in os.scandir(path)]
  return [
    sum(each.st_size for each in found),
    max((each.st_mtime_ns for each in found), default=0),
  ]


def _made(target: pathlib.Path) -> dict:
  """What was made, once all of it was; nothing where that is not known."""
  try:
    made = json.loads((target / _MADE).read_text(encoding='utf-8'))
    return made if len(list(target.glob('*.jpg'))) == made['frames'] else {}
  except (OSError, ValueError, KeyError, TypeError):
    return {}


def _write(target: pathlib.Path, made: dict) -> None:
  part = target / f'{_MADE}.part'
  part.write_text(json.dumps(made), encoding='utf-8')
  os.replace(part, target / _MADE)
