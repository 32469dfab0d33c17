"""Pictures of a body that moves and of a video's frames, for pages and files.

The skeleton is seen by a camera that stands still and sees the whole clip, so
that what moves in the picture moves in the world. Left limbs are blue, right
limbs red; the person faces the viewer, turned a little, in the first frame.
"""

import io
from collections.abc import Sequence

import numpy as np

from vimonet_jax.motion import skeleton

LEFT = (36, 104, 204)
RIGHT = (214, 62, 46)
TRUNK = (58, 58, 66)
_GRID = (206, 206, 214)
_SHADOW = (182, 182, 190)
_TRAIL = (128, 128, 138)
_WHITE = (255, 255, 255)

# The camera stands so far to the person's left, and so high.
_AZIMUTH_DEG = 30.0
_ELEVATION_DEG = 16.0
_GRID_M = 0.5
# A body that hardly moves is not drawn larger than this fits, metres.
_MIN_VIEW_M = 2.0
_BONE_M = 0.055
_HEAD_M = 0.11
# Drawn so many times larger, then averaged: smooth edges.
_SUPERSAMPLING = 2
_CORNER = (4 * _SUPERSAMPLING, 3 * _SUPERSAMPLING)  # of words
_GAP = 3


def skeleton_gif(
  joints: np.ndarray,
  path: str | None = None,
  *,
  size: int = 200,
  fps: float = 20.0,
) -> bytes:
  """An animated stick figure.

  Args:
    joints: [T, 22, 3] metres, y up.
    path: where to write it too, if anywhere.
    size: width and height, pixels.
    fps: frames a second, of the motion and of the picture.

  Returns:
    a GIF that plays again and again, 1 to 2 kB a frame.
  """
  joints = _checked(joints)
  view = _View(joints, size * _SUPERSAMPLING)
  palette = _palette()
  images = [
    view.draw(t, f'{t + 1}/{len(joints)}')
    .reduce(_SUPERSAMPLING)
    .quantize(palette=palette, dither=0)
    for t in range(len(joints))
  ]
  buffer = io.BytesIO()
  images[0].save(
    buffer,
    'GIF',
    save_all=True,
    append_images=images[1:],
    duration=max(round(1000 / fps), 20),  # Faster ones play slowly.
    loop=0,
    optimize=False,
  )
  return _written(buffer.getvalue(), path)


def skeleton_png(
  joints: np.ndarray,
  path: str | None = None,
  *,
  size: int = 200,
  moments: int = 5,
  fps: float = 20.0,
) -> bytes:
  """A stick figure at several moments, and its path from above.

  The camera follows the body and does not turn with it. The last picture is
  the floor from above, with the viewer below it: moments are numbered, and a
  line shows where the body faces.

  Args:
    joints: [T, 22, 3] metres, y up.
    path: where to write it too, if anywhere.
    size: width and height of each picture, pixels.
    moments: how many, from the first frame to the last.
    fps: frames a second.

  Returns:
    a PNG.
  """
  from PIL import Image

  joints = _checked(joints)
  shown = np.linspace(0, len(joints) - 1, moments).round().astype(int)
  large = size * _SUPERSAMPLING
  pictures = [
    _View(joints, large, seen=[t]).draw(t, f'{i}: {t / fps:.1f} s')
    for i, t in enumerate(shown, 1)
  ]
  above = _View(joints, large, elevation_deg=90.0)
  pictures.append(above.draw_path(shown))
  sheet = Image.new('RGB', ((size + _GAP) * len(pictures) - _GAP, size), _GRID)
  for i, picture in enumerate(pictures):
    sheet.paste(picture.reduce(_SUPERSAMPLING), (i * (size + _GAP), 0))
  buffer = io.BytesIO()
  sheet.save(buffer, 'PNG', optimize=True)
  return _written(buffer.getvalue(), path)


def frames_png(
  frames: np.ndarray,
  path: str | None = None,
  *,
  columns: int = 8,
  min_size: int = 144,
) -> bytes:
  """A contact sheet of a video's frames, row by row.

  Args:
    frames: uint8 [I, H, W, 3].
    path: where to write it too, if anywhere.
    columns: frames in a row.
    min_size: smaller frames are enlarged a whole number of times to about
      this height, pixels.

  Returns:
    a PNG.
  """
  from PIL import Image

  frames = np.asarray(frames)
  if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
    raise ValueError(
      f'Expected frames as uint8 [I, H, W, 3], found {frames.dtype} '
      f'{list(frames.shape)}.'
    )
  count, height, width, _ = frames.shape
  columns = min(columns, count)
  rows = -(-count // columns)
  scale = max(round(min_size / height), 1)
  height, width = height * scale, width * scale
  sheet = Image.new(
    'RGB',
    (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP),
    _WHITE,
  )
  for i, frame in enumerate(frames):
    image = Image.fromarray(frame).resize((width, height), Image.NEAREST)
    row, column = divmod(i, columns)
    sheet.paste(image, (column * (width + _GAP), row * (height + _GAP)))
  buffer = io.BytesIO()
  sheet.save(buffer, 'PNG', optimize=True)
  return _written(buffer.getvalue(), path)


def _checked(joints: np.ndarray) -> np.ndarray:
  joints = np.asarray(joints, np.float64)
  if joints.ndim != 3 or joints.shape[1:] != (skeleton.NUM_JOINTS, 3):
    raise ValueError(
      f'Expected joints [T, {skeleton.NUM_JOINTS}, 3], found '
      f'{list(joints.shape)}; features become joints with features.recover.'
    )
  return joints


def _written(data: bytes, path: str | None) -> bytes:
  if path is not None:
    with open(path, 'wb') as f:
      f.write(data)
  return data


class _View:
  """A clip seen by a camera that stands still.

  Without perspective, so that nobody shrinks by walking away: pixels are a
  linear function of metres. `seen` are the frames that fit into the picture.
  """

  def __init__(
    self,
    joints_TJ3: np.ndarray,
    size: int,
    *,
    seen: Sequence[int] | slice = slice(None),
    elevation_deg: float = _ELEVATION_DEG,
  ):
    self._size = size
    across = joints_TJ3[0, skeleton.INDEX['left_hip']]
    across = across - joints_TJ3[0, skeleton.INDEX['right_hip']]
    # Left is at +x for somebody who faces +z.
    heading = np.arctan2(-across[2], across[0])
    azimuth = heading + np.radians(_AZIMUTH_DEG)
    elevation = np.radians(elevation_deg)
    c, s = np.cos(azimuth), np.sin(azimuth)
    right = np.array([c, 0, -s])
    to_viewer = np.array([s, 0, c])
    up = np.array([0, np.cos(elevation), 0]) - np.sin(elevation) * to_viewer
    self._axes = np.stack([right, -up], axis=1)
    self._nearness = np.cos(elevation) * to_viewer
    self._nearness[1] = np.sin(elevation)

    floor = joints_TJ3[..., 1].min()
    self._shadows = joints_TJ3 * [1, 0, 1] + [0, floor, 0]
    self._joints = joints_TJ3
    body = np.concatenate([joints_TJ3[seen], self._shadows[seen]]) @ self._axes
    low, high = body.min((0, 1)), body.max((0, 1))
    view = max((high - low).max() + 0.35, _MIN_VIEW_M)
    self._scale = size / view
    self._corner = (low + high - view) / 2
    self._grid = self._draw_grid(floor)

  def _pixels(self, points: np.ndarray) -> np.ndarray:
    return (points @ self._axes - self._corner) * self._scale

  def _draw_grid(self, floor: float):
    from PIL import Image, ImageDraw

    image = Image.new('RGB', (self._size, self._size), _WHITE)
    pen = ImageDraw.Draw(image)
    ground = self._joints[..., [0, 2]]
    low = np.floor(ground.min((0, 1)) / _GRID_M - 1) * _GRID_M
    high = np.ceil(ground.max((0, 1)) / _GRID_M + 1) * _GRID_M
    for axis in (0, 1):
      for value in np.arange(low[axis], high[axis] + 1e-6, _GRID_M):
        ends = np.array([low, high])
        ends[:, axis] = value
        line = np.insert(ends, 1, floor, axis=1)
        pen.line(_flat(self._pixels(line)), fill=_GRID, width=_SUPERSAMPLING)
    trail = self._pixels(self._shadows[:, 0])
    if len(trail) > 1:
      pen.line(_flat(trail), fill=_TRAIL, width=_SUPERSAMPLING)
    return image

  def draw(self, t: int, words: str):
    """The picture of frame t with words in its corner, a PIL image."""
    from PIL import ImageDraw

    image = self._grid.copy()
    pen = ImageDraw.Draw(image)
    width = max(_BONE_M * self._scale, 2 * _SUPERSAMPLING)
    shadow, body = self._pixels(self._shadows[t]), self._pixels(self._joints[t])
    for j, parent in _BONES:
      _bone(pen, shadow[[parent, j]], 0.7 * width, _SHADOW)
    depth = self._joints[t] @ self._nearness
    # The nearest bone is drawn last, in front of the others.
    for j, parent in sorted(_BONES, key=lambda bone: depth[list(bone)].sum()):
      _bone(pen, body[[parent, j]], width, _colour(j))
    head = body[skeleton.INDEX['head']]
    _disc(pen, head, max(_HEAD_M * self._scale, width), TRUNK)
    _write(pen, _CORNER, words)
    return image

  def draw_path(self, shown: Sequence[int]):
    """Where the pelvis goes, and numbered, where it is in some frames."""
    from PIL import ImageDraw

    image = self._grid.copy()
    pen = ImageDraw.Draw(image)
    _write(pen, _CORNER, f'squares of {_GRID_M} m')
    places = self._pixels(self._shadows[:, 0])
    pen.line(_flat(places), fill=_TRAIL, width=2 * _SUPERSAMPLING)
    hips = self._joints[:, [skeleton.INDEX[f'{side}_hip'] for side in _SIDES]]
    across = (hips[:, 0] - hips[:, 1]) * [1, 0, 1]
    facing = np.cross(across, [0.0, 1.0, 0.0]) @ self._axes
    facing /= np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-9)
    for number, t in enumerate(shown, 1):
      ahead = places[t] + 18 * _SUPERSAMPLING * facing[t]
      pen.line(_flat([places[t], ahead]), fill=TRUNK, width=3 * _SUPERSAMPLING)
      _disc(pen, places[t], 7 * _SUPERSAMPLING, TRUNK)
      _write(pen, places[t], str(number), fill=_WHITE, anchor='mm')
    return image


_SIDES = ('left', 'right')
_BONES = tuple(
  (j, parent) for j, parent in enumerate(skeleton.PARENTS) if parent >= 0
)


def _colour(joint: int) -> tuple[int, int, int]:
  name = skeleton.NAMES[joint]
  sides = {'left': LEFT, 'right': RIGHT}
  # Collars and hips belong to the trunk: what moves are the limbs.
  if name.endswith(('collar', 'hip')):
    return TRUNK
  return sides.get(name.split('_')[0], TRUNK)


def _bone(pen, ends: np.ndarray, width: float, colour) -> None:
  pen.line(_flat(ends), fill=colour, width=round(width))
  for end in ends:
    _disc(pen, end, width / 2, colour)


def _write(pen, place, words: str, *, fill=TRUNK, anchor: str = 'la') -> None:
  from PIL import ImageFont

  font = ImageFont.load_default(11 * _SUPERSAMPLING)
  pen.text(tuple(place), words, fill=fill, font=font, anchor=anchor)


def _disc(pen, centre: np.ndarray, radius: float, colour) -> None:
  x, y = centre
  pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _flat(points: np.ndarray) -> list[tuple[float, float]]:
  return [(float(x), float(y)) for x, y in points]


def _palette():
  """The colours, and what lies between each and white: edges are smooth."""
  from PIL import Image

  image = Image.new('P', (1, 1))
  colours: list[Sequence[int]] = [_WHITE]
  for colour, steps in (
    (LEFT, 4), (RIGHT, 4), (TRUNK, 4), (_SHADOW, 1), (_TRAIL, 2), (_GRID, 2),
  ):  # fmt: skip
    for k in range(steps):
      mixed = np.array(colour) + (np.array(_WHITE) - colour) * k / steps
      colours.append(mixed.round().astype(int).tolist())
  image.putpalette([c for colour in colours for c in colour])
  return image
