"""What the objects look like: solids and colours, written as code.

Every object is about as large as a person is wide, or larger, has its own
outline and its own colour, and stands on the origin. Metres; z points away
from the camera. No colour is that of a shirt.
"""

import functools

import numpy as np

from vimonet_jax.synthetic import raster


def _block(b: raster.Builder, y, width, height, depth, colour):
  """A block in the middle: sides, top and front; y is its lower face."""
  x, z, top = width / 2, depth / 2, y + height
  dark = tuple(0.72 * c for c in colour)
  light = tuple(1.14 * c for c in colour)
  for side in (-x, x):
    b.quad((side, y, -z), (side, y, z), (side, top, z), (side, top, -z), dark)
  b.quad((-x, top, -z), (x, top, -z), (x, top, z), (-x, top, z), light)
  b.panel(-x, y, width, height, colour, -z)


def _ball(b: raster.Builder):
  b.ball((0, 0.42, 0), 0.42, (30, 170, 176))
  for start in (20, 140, 260):
    rim = [
      (0.41 * np.cos(a), 0.42 + 0.41 * np.sin(a), -0.01)
      for a in np.radians((start, start + 30, start + 60))
    ]
    b.quad((-0.08, 0.52, -0.01), *rim, (250, 246, 226))


def _chair(b: raster.Builder):
  wood = (122, 62, 26)
  for x in (-0.28, 0.28):
    b.tube((x, 0, 0.25), (x, 1.15, 0.3), 0.055, wood)
    b.tube((x, 0, -0.25), (x, 0.5, -0.25), 0.055, wood)
  for y in (0.72, 0.9, 1.08):
    b.tube((-0.28, y, 0.28), (0.28, y, 0.28), 0.05, wood)
  _block(b, 0.46, 0.66, 0.1, 0.6, (164, 92, 44))


def _cone(b: raster.Builder):
  _block(b, 0, 0.84, 0.08, 0.6, (236, 92, 16))
  # Narrower towards the top: half of the width at each height.
  edges = ((0.08, 0.32), (0.42, 0.22), (0.66, 0.15), (1.1, 0.04))
  for k, ((y0, x0), (y1, x1)) in enumerate(
    zip(edges[:-1], edges[1:], strict=True)
  ):
    colour = (250, 246, 240) if k == 1 else (250, 112, 24)
    dark = tuple(0.8 * c for c in colour)
    b.quad((-x0, y0, 0), (x0, y0, 0), (x1, y1, 0), (-x1, y1, 0), colour)
    b.quad((0.3 * x0, y0, -0.01), (x0, y0, -0.01), (x1, y1, -0.01),
           (0.3 * x1, y1, -0.01), dark)  # fmt: skip


def _box(b: raster.Builder):
  _block(b, 0, 0.86, 0.76, 0.7, (198, 150, 92))
  b.panel(-0.07, 0, 0.14, 0.76, (238, 212, 160), -0.36)


def _ladder(b: raster.Builder):
  metal = (176, 182, 190)
  for x in (-1, 1):
    b.tube((0.4 * x, 0, 0.4), (0.2 * x, 2.0, 0), 0.05, (120, 126, 134))
    b.tube((0.4 * x, 0, -0.1), (0.2 * x, 2.0, -0.1), 0.06, metal)
  for i in range(6):
    half = 0.37 - 0.03 * i
    y = 0.25 + 0.3 * i
    b.tube((-half, y, -0.12), (half, y, -0.12), 0.05, metal)


def _bicycle(b: raster.Builder):
  tyre, frame = (24, 24, 26), (150, 206, 40)

  def at(x, y):
    # Seen at an angle, so that it is not as wide as it is long.
    return 0.84 * x, y, 0.5 * x

  for middle in (-0.52, 0.52):
    angles = np.linspace(0, 2 * np.pi, 13)
    rim = [at(middle + 0.34 * np.cos(a), 0.38 + 0.34 * np.sin(a))
           for a in angles]  # fmt: skip
    for start, end in zip(rim[:-1], rim[1:], strict=True):
      b.tube(start, end, 0.045, tyre)
  rear, crank, front = at(-0.52, 0.38), at(-0.05, 0.38), at(0.52, 0.38)
  seat, bar = at(-0.2, 0.86), at(0.36, 0.9)
  for start, end in ((seat, crank), (seat, bar), (crank, bar), (rear, crank),
                     (rear, seat), (bar, front)):  # fmt: skip
    b.tube(start, end, 0.045, frame)
  b.tube(bar, at(0.34, 1.08), 0.04, tyre)
  b.tube(at(0.28, 1.1), at(0.5, 1.04), 0.05, tyre)
  b.tube(at(-0.34, 0.94), at(-0.1, 0.94), 0.06, tyre)


def _plant(b: raster.Builder):
  b.tube((0, 0.1, 0), (0, 0.36, 0), 0.2, (190, 88, 50), 0.27)
  b.tube((-0.27, 0.46, -0.01), (0.27, 0.46, -0.01), 0.07, (206, 102, 62))
  for x, y in ((-0.52, 0.86), (0.52, 0.86), (-0.42, 1.15), (0.42, 1.15),
               (-0.2, 1.4), (0.2, 1.4), (0, 1.52)):  # fmt: skip
    middle = (0.62 * x, 0.55 * y + 0.3, 0)
    b.tube((0.15 * x, 0.5, 0), middle, 0.04, (24, 104, 48), 0.1)
    b.tube(middle, (x, y, -0.01), 0.1, (30, 120, 54), 0.02)


def _lamp(b: raster.Builder):
  metal = (66, 58, 52)
  b.tube((-0.2, 0.03, 0), (0.2, 0.03, 0), 0.04, metal)
  b.tube((0, 0, 0), (0, 1.3, 0), 0.04, metal)
  b.quad((-0.38, 1.15, -0.01), (0.38, 1.15, -0.01), (0.22, 1.75, -0.01),
         (-0.22, 1.75, -0.01), (255, 226, 134))  # fmt: skip
  b.quad((-0.38, 1.15, -0.02), (0.38, 1.15, -0.02), (0.36, 1.23, -0.02),
         (-0.36, 1.23, -0.02), (214, 160, 62))  # fmt: skip


THINGS = {
  'ball': _ball,
  'chair': _chair,
  'cone': _cone,
  'box': _box,
  'ladder': _ladder,
  'bicycle': _bicycle,
  'plant': _plant,
  'lamp': _lamp,
}


@functools.cache
def solids(name: str) -> raster.Solids:
  """An object that stands on the origin."""
  builder = raster.Builder()
  THINGS[name](builder)
  return builder.build()


@functools.cache
def half_width(name: str) -> float:
  """How far an object reaches to the left or right of its middle, metres."""
  thing = solids(name)
  reach = np.abs(thing.tubes[..., 0]) + thing.radii
  return float(max(reach.max(initial=0), np.abs(thing.quads[..., 0]).max(
    initial=0)))  # fmt: skip
