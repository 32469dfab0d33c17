"""Video files and folders of images to a few square uint8 frames.

The choice of frames, the resizing and the crop are those of the reference
(LanguageBind's decord branch), so that its weights see what they were trained
on. The video tower normalises them; `normalised` is the road without rounding.
"""

import itertools
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vimonet_jax.data import video_file

VIDEOS = ('.mp4', '.mov', '.m4v', '.webm', '.mkv', '.avi', '.gif')
IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
# The reference's tower reads so many, and was trained on pictures whose pixels
# are not averaged; a smaller one wants them to be.
REFERENCE_PIXELS = 224


def read_clip(
  path: str | os.PathLike,
  *,
  size: int = 224,
  frames: int = 8,
  start_s: float | None = None,
  end_s: float | None = None,
  antialias: bool = False,
) -> np.ndarray:
  """Frames spread evenly over a clip, the first and the last among them.

  Only the frames that are kept are converted, so a long video takes no more
  memory than a short one. What a phone filmed upright comes out upright.

  Args:
    path: a video (`VIDEOS`), or a folder of images (`IMAGES`), which follow
      one another by the numbers in their names.
    size: width and height of the result, pixels.
    frames: how many; a shorter clip repeats some.
    start_s: where the clip starts, in seconds of a video.
    end_s: where it ends.
    antialias: averages the pixels that become one. The reference does not, and
      its weights know that picture. A tower that reads 48 pixels wants it: else
      39 of 40 columns of a wide video are never looked at.

  Returns:
    uint8 [frames, size, size, 3], RGB.

  Raises:
    video_file.VideoFileError: no such file, no video in it, a damaged one, or
      nothing between start and end.
  """
  path = pathlib.Path(path)
  if path.is_dir() and (start_s is not None or end_s is not None):
    raise video_file.VideoFileError(
      f'{path}: expected a video to cut by seconds, found a folder of '
      'images; leave out start and end and remove images instead.'
    )

  def choose(number, fps):
    first, last = _bounds(path, number, fps, start_s, end_s)
    return choose_frames(number, frames, first=first, last=last)

  return read_chosen(path, choose, size=size, antialias=antialias)


def read_chosen(
  path: str | os.PathLike,
  choose: Callable[[int, float], Sequence[int]],
  *,
  size: int = 224,
  antialias: bool = False,
) -> np.ndarray:
  """The frames of a clip that a rule chooses, as benchmarks have their own.

  Args:
    path: see `read_clip`.
    choose: from how many frames there are, at least one, and frames per second,
      0 where nobody knows, to indices, in any order. It is asked again where
      decoding finds another number of frames.
    size: width and height of the result, pixels.
    antialias: see `read_clip`.

  Returns:
    uint8 [chosen, size, size, 3], RGB, in the order of the indices.

  Raises:
    video_file.VideoFileError: see `read_clip`; or an index that the clip does
      not have.
  """
  return np.stack(
    read_images(
      path, choose, lambda image: square(image, size, antialias=antialias)
    )
  )


def read_images(
  path: str | os.PathLike,
  choose: Callable[[int, float], Sequence[int]],
  shape: Callable[[np.ndarray], Any],
) -> list[Any]:
  """What is made of the frames of a clip that a rule chooses.

  Args:
    path: see `read_clip`.
    choose: see `read_chosen`.
    shape: what is kept of a frame, uint8 [H, W, 3], RGB.

  Raises:
    video_file.VideoFileError: see `read_chosen`.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    files = image_files(path)
    chosen = _chosen(path, choose, len(files), 0.0)
    read = {i: shape(_read_image(files[i])) for i in set(chosen)}
  else:
    _check_name(path)
    packets = video_file.scan(path)
    number = packets.number
    chosen = _chosen(path, choose, number, packets.fps)
    read = video_file.decode_from_key_frames(path, packets, chosen, shape)
    while read is None:
      read, decoded = video_file.decode_in_order(path, chosen, number, shape)
      if decoded != number:  # Rare: in some codecs packets are not frames.
        read, number = None, decoded
        chosen = _chosen(path, choose, number, packets.fps)
  return [read[i] for i in chosen]


class Head(NamedTuple):
  """What the head of a video says, 0 where it does not.

  Attributes:
    duration_s: of the video.
    fps: frames per second.
  """

  duration_s: float
  fps: float


def read_head(path: str | os.PathLike) -> Head:
  """Opens a clip and reads no frame: some ms for a video, however long.

  A file whose end is cut off may still open.

  Raises:
    video_file.VideoFileError: no such file, no video in it, or one that does
      not open.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    image_files(path)
    return Head(0.0, 0.0)
  _check_name(path)
  with video_file.opened(path) as (container, stream):
    # FFmpeg counts a file's time in microseconds, a stream's in a unit of its.
    duration_s = (container.duration or 0) / 1e6
    if stream.duration and stream.time_base:
      duration_s = float(stream.duration * stream.time_base)
    return Head(duration_s, float(stream.average_rate or 0))


def choose_frames(
  number: int, frames: int, *, first: int = 0, last: int | None = None
) -> list[int]:
  """Evenly spread indices, cut to integers as the reference does.

      choose_frames(30, 8) = [0, 4, 8, 12, 16, 20, 24, 29]
      choose_frames(3, 8)  = [0, 0, 0, 0, 1, 1, 1, 2]

  Args:
    number: of frames that there are.
    frames: how many to choose.
    first: of the clip.
    last: of the clip, that frame included; None for the last there is.
  """
  last = number - 1 if last is None else last
  return np.linspace(first, last, frames).astype(int).tolist()


def square(
  image_HW3: np.ndarray, size: int, *, antialias: bool = False
) -> np.ndarray:
  """The middle of a uint8 image [H, W, 3] as [size, size, 3].

  The shorter side is resized to `size`, the longer one in proportion, rounded
  down; what sticks out is cut off evenly, the odd pixel as Python rounds.

  Rounding moves a normalised pixel by 0.0075 at most. On eight real videos it
  was 0.0007 to 0.0040 in the root mean square, of pixels that are 0.8 to 1.9:
  half a percent at most. Where that matters, as in parity, see `normalised`.
  """
  resized, corner = _place(image_HW3, size)
  if antialias:
    return _shrink(image_HW3, resized, corner, size)
  return np.rint(_resize(image_HW3, resized, corner, size)).astype(np.uint8)


def normalised(
  frames_IHW3: np.ndarray,
  size: int,
  *,
  mean: Sequence[float],
  std: Sequence[float],
) -> np.ndarray:
  """The pixels that `square` rounds, as a video tower takes floating frames.

  The reference normalises first and resizes then. Both are linear and an
  output pixel's weights add up to one, so the order does not matter.

  Args:
    frames_IHW3: uint8, RGB, of any size.
    size: width and height of the result, pixels.
    mean: of the three colours in 0..1, which only the tower knows:
      clip_video.PIXEL_MEAN.
    std: their deviation, likewise: clip_video.PIXEL_STD.

  Returns:
    float32 [I, size, size, 3].
  """
  pixels_IHW3 = np.stack([
    _resize(image_HW3, *_place(image_HW3, size), size)
    for image_HW3 in frames_IHW3
  ])
  mean_3, std_3 = np.float32(mean), np.float32(std)
  return (pixels_IHW3 / np.float32(255) - mean_3) / std_3


def _place(image_HW3, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
  """Height and width of the resized image, and where its middle begins."""
  height, width = image_HW3.shape[:2]
  if width < height:
    resized = (int(height / width * size), size)
  else:
    resized = (size, int(width / height * size))
  top, left = (round((side - size) / 2) for side in resized)
  return resized, (top, left)


def _resize(image_HW3, resized, corner, size: int) -> np.ndarray:
  """Levels as float32 [size, size, 3], without antialiasing."""
  height, width = image_HW3.shape[:2]
  rows, row_weights = _sample(height, resized[0], corner[0], size)
  columns, column_weights = _sample(width, resized[1], corner[1], size)
  # float32 [2, size, W, 3] -> [size, W, 3]: rows first, for they lie together.
  lines = image_HW3[rows].astype(np.float32)
  lines = lines[0] + row_weights[:, None, None] * (lines[1] - lines[0])
  start, stop = lines[:, columns[0]], lines[:, columns[1]]
  return start + column_weights[:, None] * (stop - start)


def _sample(old: int, new: int, offset: int, size: int):
  """Where `size` pixels of a resized side come from, without antialiasing.

  Returns:
    The two old pixels of each as int [2, size], and the weight of the second
    as float32 [size].
  """
  centres = (np.arange(offset, offset + size) + 0.5) * (old / new) - 0.5
  centres = np.maximum(centres, 0).astype(np.float32)
  low = np.minimum(centres.astype(int), old - 1)
  weights = (centres - low).astype(np.float32)
  return np.stack([low, np.minimum(low + 1, old - 1)]), weights


def _shrink(image_HW3, resized, corner, size: int) -> np.ndarray:
  from PIL import Image

  image = Image.fromarray(image_HW3)
  image = image.resize(resized[::-1], Image.Resampling.BILINEAR)
  top, left = corner
  return np.asarray(image.crop((left, top, left + size, top + size)))


def _check_name(path: pathlib.Path) -> None:
  """Raises where there is no file, or its ending is not that of a video."""
  if not path.exists():
    raise video_file.VideoFileError(
      f'{path}: expected a video, found no such file; correct the path.'
    )
  suffix = path.suffix.lower()
  if suffix in IMAGES:
    raise video_file.VideoFileError(
      f'{path}: expected a video, found one image; give the folder that holds '
      'the images of the clip.'
    )
  # FFmpeg would play a text file as the screen of a terminal.
  if suffix not in VIDEOS:
    raise video_file.VideoFileError(
      f'{path}: expected a video ({" ".join(VIDEOS)}) or a folder of images, '
      f'found a name with {suffix or "no ending"}; convert or rename it.'
    )


def _chosen(path, choose, number: int, fps: float) -> list[int]:
  """The indices that a rule chooses, all of them among `number` frames."""
  if number == 0:
    raise video_file.VideoFileError(
      f'{path}: expected frames, found none; the file is damaged or empty, so '
      'fetch it again.'
    )
  chosen = list(choose(number, fps))
  if not chosen or not 0 <= min(chosen) <= max(chosen) < number:
    raise video_file.VideoFileError(
      f'{path}: expected indices of 0 to {number - 1}, found '
      f'{chosen or "none"}; correct the rule that chooses frames.'
    )
  return chosen


def _bounds(path, number, fps, start_s, end_s) -> tuple[int, int]:
  """First and last frame of a clip that is given in seconds."""
  if start_s is None and end_s is None:
    return 0, number - 1
  if not fps:
    raise video_file.VideoFileError(
      f'{path}: expected a frame rate to cut by seconds, found none; cut the '
      'file itself, or leave out start and end.'
    )
  first = max(0, round((start_s or 0) * fps))
  last = number - 1
  if end_s is not None:
    last = min(last, round(end_s * fps))
  if first > last:
    raise video_file.VideoFileError(
      f'{path}: expected a start before the end within {number / fps:.1f} '
      f'seconds, found {start_s or 0} to {end_s}; correct them.'
    )
  return first, last


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Images in the order in which people count: 2 before 10.

  Raises:
    video_file.VideoFileError: there are none.
  """

  def key(path):
    parts = re.split(r'(\d+)', path.name)
    return [(int(p), '') if p.isdigit() else (-1, p) for p in parts]

  files = [
    path
    for path in folder.iterdir()
    if path.suffix.lower() in IMAGES and not path.name.startswith('.')
  ]
  if not files:
    held = itertools.islice(sorted(p.name for p in folder.iterdir()), 3)
    raise video_file.VideoFileError(
      f'{folder}: expected images ({" ".join(IMAGES)}), found '
      f'{", ".join(held) or "an empty folder"}; give the video itself, or the '
      'folder with its images.'
    )
  return sorted(files, key=key)


def _read_image(path: pathlib.Path) -> np.ndarray:
  from PIL import Image, ImageOps

  try:
    with Image.open(path) as image:
      image = ImageOps.exif_transpose(image)
      if image.mode.startswith('I'):  # 16 bits, which PIL would cut off at 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
      return np.asarray(image.convert('RGB'))
  except Image.DecompressionBombError as e:
    raise video_file.VideoFileError(
      f'{path}: expected an image of at most {2 * Image.MAX_IMAGE_PIXELS} '
      'pixels, found a larger one; make it smaller.'
    ) from e
  except OSError as e:
    raise video_file.VideoFileError(
      f'{path}: expected an image, found a damaged file or something else; '
      'replace or remove it.'
    ) from e
