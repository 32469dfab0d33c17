"""Paints convex shapes from far to near: the rasteriser of synthetic frames.

Everything that a frame shows is a quad or a tube (a limb, a trunk, a ball: a
segment with a radius at each end). Seen through the camera both are convex
polygons, and a row of pixels cuts a convex polygon in one span. So a clip is
painted with a handful of array operations over all spans of all its frames.

World of a clip: x to the right of the picture, y up, z away from the camera,
metres. The camera looks along z and never turns; it is shifted like a view
camera's, so what is upright stays upright.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

Point = Sequence[float]
Colour = Sequence[float]

# Corners of a tube's outline: half of them around each end, as cosine and
# sine of the angle from the direction in which the tube goes.
_ARC_K2 = np.array([
  (s * np.cos(a), s * np.sin(a))
  for s in (-1, 1)
  for a in np.linspace(-0.5 * np.pi, 0.5 * np.pi, 7)
], np.float32)  # fmt: skip
# Nearer than this nothing is painted, metres.
_NEAR = 0.3
# A round shape goes from light to dark in so many steps, left to right.
_SHADES = np.linspace(1.12, 0.72, 8)


@dataclasses.dataclass(frozen=True)
class Camera:
  """Where the camera is in each frame.

  Attributes:
    position: float [I, 3] metres.
    focal: pixels per metre at one metre, of the supersampled picture.
    centre: the pixel (x, y) that lies straight ahead.
  """

  position: np.ndarray
  focal: float
  centre: tuple[float, float]

  def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [I, ..., 2] and depths [I, ...] of points [1 or I, ..., 3]."""
    position = self.position.reshape(-1, *(1,) * (points.ndim - 2), 3)
    away = points - position
    depth = away[..., 2]
    scale = self.focal / np.maximum(depth, _NEAR)
    pixels = away[..., :2]
    pixels *= scale[..., None]
    pixels *= np.array([1, -1], np.float32)
    pixels += np.array(self.centre, np.float32)
    return pixels, depth


@dataclasses.dataclass(frozen=True)
class Solids:
  """Quads and tubes of one colour each.

  Attributes:
    quads: [1 or I, N, 4, 3] corners in order, metres.
    quad_colours: [N, 3] in 0 to 255.
    tubes: [1 or I, N, 2, 3] both ends.
    radii: [N, 2] at both ends.
    tube_colours: [N, 3].
  """

  quads: np.ndarray
  quad_colours: np.ndarray
  tubes: np.ndarray
  radii: np.ndarray
  tube_colours: np.ndarray

  def moved(self, offset: Point) -> 'Solids':
    offset = np.asarray(offset, np.float32)
    return dataclasses.replace(
      self, quads=self.quads + offset, tubes=self.tubes + offset
    )


class Builder:
  """Collects the solids of a thing, which is written down once as code."""

  def __init__(self):
    self._quads, self._tubes = [], []

  def quad(self, a: Point, b: Point, c: Point, d: Point, colour: Colour):
    self._quads.append(((a, b, c, d), colour))

  def panel(self, x: float, y: float, width: float, height: float,
            colour: Colour, z: float = 0.0):  # fmt: skip
    """An upright rectangle that faces the camera; x, y is its lower left."""
    right, top = x + width, y + height
    self.quad((x, y, z), (right, y, z), (right, top, z), (x, top, z), colour)

  def tube(self, a: Point, b: Point, radius: float, colour: Colour,
           end_radius: float | None = None):  # fmt: skip
    radii = (radius, radius if end_radius is None else end_radius)
    self._tubes.append(((a, b), radii, colour))

  def ball(self, centre: Point, radius: float, colour: Colour):
    self.tube(centre, centre, radius, colour)

  def build(self) -> Solids:
    def array(rows, shape):
      return np.array(rows, np.float32).reshape(shape)

    return Solids(
      array([q[0] for q in self._quads], (1, -1, 4, 3)),
      array([q[1] for q in self._quads], (-1, 3)),
      array([t[0] for t in self._tubes], (1, -1, 2, 3)),
      array([t[1] for t in self._tubes], (-1, 2)),
      array([t[2] for t in self._tubes], (-1, 3)),
    )


def paint(canvas: np.ndarray, camera: Camera, groups: Sequence[Solids]):
  """Paints solids over a canvas, the farthest first.

  Args:
    canvas: uint32 [I, H, W] of packed colours; written to.
    camera: what it is seen through.
    groups: the solids; where two are equally far, the later one covers.
  """
  num_frames = len(canvas)
  quads_INK2, quad_depth = camera.project(
    _join([group.quads for group in groups], num_frames)
  )
  ends_IN22, tube_depth = camera.project(
    _join([group.tubes for group in groups], num_frames)
  )
  radii = np.concatenate([group.radii for group in groups])
  scale = camera.focal / np.maximum(tube_depth, _NEAR)
  polygons = _join_polygons(
    (quads_INK2, quad_depth), (_outline(ends_IN22, radii * scale), tube_depth)
  )

  # Quads are flat; every solid has the same number of shades all the same.
  flat = np.concatenate([group.quad_colours for group in groups])
  tubes = np.concatenate([group.tube_colours for group in groups])
  palette_NS = pack(
    np.concatenate(
      [
        np.repeat(flat[:, None], len(_SHADES), axis=1),
        tubes[:, None] * _SHADES[:, None],
      ]
    )
  )
  _fill(canvas, palette_NS, _spans(polygons, canvas.shape))


def pack(colours: np.ndarray) -> np.ndarray:
  """Colours [..., 3] in 0 to 255 as uint32 [...], one number a pixel."""
  packed = np.zeros((*np.shape(colours)[:-1], 4), np.uint8)
  packed[..., :3] = np.clip(colours, 0, 255)
  return packed.view(np.uint32)[..., 0]


def _join(points: Sequence[np.ndarray], num_frames: int) -> np.ndarray:
  """Points [1 or I, N, ...] of several groups as one, for every frame."""
  return np.concatenate(
    [np.broadcast_to(p, (num_frames, *p.shape[1:])) for p in points], axis=1
  )


def _outline(ends_IN22: np.ndarray, radii_IN2: np.ndarray) -> np.ndarray:
  """Corners [I, N, 12, 2] of segments with round ends, in pixels."""
  along = ends_IN22[:, :, 1] - ends_IN22[:, :, 0]
  length = np.maximum(np.sqrt((along**2).sum(-1, keepdims=True)), 1e-6)
  along = np.where(length > 1e-6, along / length, np.float32(1))[:, :, None]
  across = along[..., ::-1] * np.array([-1, 1], np.float32)
  cos, sin = _ARC_K2[:, 0, None], _ARC_K2[:, 1, None]
  turned = cos * along + sin * across
  which = np.repeat([0, 1], len(_ARC_K2) // 2)
  return ends_IN22[:, :, which] + radii_IN2[:, :, which, None] * turned


@dataclasses.dataclass(frozen=True)
class _Polygons:
  """Polygons of all frames in one list, and their edges in another.

  Attributes:
    frame, solid, depth: [P] of every polygon.
    polygon: [E] whose edge it is.
    start, end: [E, 2] pixels.
  """

  frame: np.ndarray
  solid: np.ndarray
  depth: np.ndarray
  polygon: np.ndarray
  start: np.ndarray
  end: np.ndarray


def _join_polygons(*kinds) -> _Polygons:
  """Polygons of quads and of tubes, which have more corners."""
  columns, num_polygons, num_solids = [], 0, 0
  for corners_INK2, depth_INV in kinds:
    frames, solids, corners = corners_INK2.shape[:3]
    # Behind the camera there is nothing to see: no edges, no rows.
    seen = depth_INV.min(-1).reshape(-1) > _NEAR
    start = corners_INK2.reshape(-1, corners, 2)[seen]
    number = num_polygons + np.arange(len(start))
    columns.append(
      (
        np.repeat(np.arange(frames), solids)[seen],
        num_solids + np.tile(np.arange(solids), frames)[seen],
        depth_INV.mean(-1).reshape(-1)[seen],
        np.repeat(number, corners),
        start.reshape(-1, 2),
        start[:, [*range(1, corners), 0]].reshape(-1, 2),
      )
    )
    num_polygons += len(start)
    num_solids += solids
  return _Polygons(*map(np.concatenate, zip(*columns, strict=True)))


@dataclasses.dataclass(frozen=True)
class _Spans:
  """What rows of pixels cut out of polygons, the farthest first.

  Attributes:
    solid: [R] number of the solid.
    first: [R] the first pixel, counted through the canvas.
    length: [R] how many pixels, at least one.
  """

  solid: np.ndarray
  first: np.ndarray
  length: np.ndarray


def _spans(polygons: _Polygons, shape: tuple[int, int, int]) -> _Spans:
  """A closed outline crosses a row once going up and once going down."""
  _, height, width = shape
  order = np.argsort(-polygons.depth, kind='stable')
  y0, y1 = polygons.start[:, 1], polygons.end[:, 1]
  # Rows whose middles lie between the ends of an edge.
  row0, row1 = (
    np.clip(np.ceil(y - np.float32(0.5)), 0, height).astype(np.int32)
    for y in (y0, y1)
  )
  # Rows of a polygon have consecutive places, in the order of painting.
  first = np.flatnonzero(np.diff(polygons.polygon, prepend=-1))
  top = np.minimum.reduceat(row0, first)
  rows = np.maximum.reduceat(row0, first) - top
  offset = np.empty(len(order), np.int32)
  offset[order] = np.cumsum(rows[order]) - rows[order]

  sides = []
  slope = (polygons.end[:, 0] - polygons.start[:, 0]) / np.where(
    y0 == y1, np.float32(1), y1 - y0
  )
  for lower, upper in ((row0, row1), (row1, row0)):
    counts = np.maximum(upper - lower, 0)
    edge = np.repeat(np.arange(len(counts)), counts)
    row = lower[edge] + _ranges(counts)
    x = polygons.start[:, 0][edge] + slope[edge] * (
      row + np.float32(0.5) - y0[edge]
    )
    polygon = polygons.polygon[edge]
    side = np.zeros(rows.sum(), np.float32)
    side[offset[polygon] + row - top[polygon]] = x
    sides.append(side)
  left, right = (
    np.clip(np.ceil(side - np.float32(0.5)), 0, width).astype(np.int32)
    for side in (np.minimum(*sides), np.maximum(*sides))
  )
  polygon = np.repeat(order, rows[order])
  row = top[polygon] + _ranges(rows[order])
  kept = right > left
  polygon, row, left, right = (a[kept] for a in (polygon, row, left, right))
  return _Spans(
    polygons.solid[polygon],
    (polygons.frame[polygon] * height + row) * width + left,
    right - left,
  )


def _fill(canvas: np.ndarray, palette_NS: np.ndarray, spans: _Spans):
  """Writes spans in their order: a later one covers an earlier one."""
  shades = palette_NS.shape[1]
  ends = np.cumsum(spans.length)
  starts = ends - spans.length
  step = np.arange(ends[-1] if len(ends) else 0)
  pixel = np.repeat(spans.first - starts, spans.length) + step
  # How far along its span a pixel is says which shade of the solid it has.
  rate = shades / spans.length
  shade = np.repeat(rate, spans.length) * step
  shade += np.repeat(shades * spans.solid - rate * starts, spans.length)
  canvas.reshape(-1)[pixel] = palette_NS.reshape(-1)[(shade + 1e-6).astype(int)]


def _ranges(counts: np.ndarray) -> np.ndarray:
  """0, 1, .. up to each count, one after another."""
  ends = np.cumsum(counts, dtype=np.int32)
  total = ends[-1] if len(ends) else 0
  return np.arange(total, dtype=np.int32) - np.repeat(ends - counts, counts)
