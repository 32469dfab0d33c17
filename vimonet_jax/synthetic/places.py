"""What places look like: furniture before a backdrop, ground with a pattern.

Written as code, metres and colours in 0 to 255. The furniture repeats every
`PERIOD_M` metres, so that a place is recognised wherever the camera goes.
Colours are muted: the bright ones belong to shirts and objects.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from vimonet_jax.synthetic import raster

PERIOD_M = 5.0


@dataclasses.dataclass(frozen=True)
class Place:
  """How a place is painted.

  Attributes:
    ground: two colours that the pattern mixes.
    pattern: (x, z) in metres -> 0 to 1, the share of the second colour.
    backdrop: colours at the horizon and high above it.
    draw: puts the furniture in front of the backdrop, z = 0, -2.5 < x < 2.5.
  """

  ground: tuple[raster.Colour, raster.Colour]
  pattern: Callable[[np.ndarray, np.ndarray], np.ndarray]
  backdrop: tuple[raster.Colour, raster.Colour]
  draw: Callable[[raster.Builder], None]


def _tiles(x, z):
  return (np.floor(x / 0.6) + np.floor(z / 0.6)) % 2


def _planks(x, z):
  del z
  return (x % 0.45) < 0.06


def _grass(x, z):
  return 0.5 + 0.5 * np.sin(9.1 * x + 3 * np.sin(5 * z)) * np.sin(13 * z + x)


def _lanes(x, z):
  return ((z % 1.6) < 0.22) & ((x % 1.4) < 0.9)


def _court(x, z):
  return ((z % 2.4) < 0.12) | ((x % 2.5) < 0.1)


def _carpet(x, z):
  return 0.5 + 0.5 * np.sin(15 * x) * np.sin(15 * z)


def _ripples(x, z):
  return 0.5 + 0.5 * np.sin(10 * z + 1.5 * np.sin(2.3 * x))


def _plain(x, z):
  return ((x % 1.2) < 0.04) | ((z % 1.2) < 0.04)


def _kitchen(b: raster.Builder):
  wood, dark, white = (150, 96, 52), (110, 66, 34), (232, 232, 226)
  for x in (-2.4, -1.6, -0.8, 0.0):
    b.panel(x, 0, 0.76, 0.85, wood)
    b.panel(x + 0.06, 0.08, 0.64, 0.66, dark)
    b.panel(x, 1.5, 0.76, 0.8, wood)
    b.panel(x + 0.06, 1.58, 0.64, 0.64, dark)
  b.panel(-2.45, 0.85, 3.3, 0.1, (70, 66, 66))
  b.panel(-0.8, 0.0, 0.76, 0.85, (60, 60, 64))
  b.panel(-0.7, 0.15, 0.56, 0.4, (20, 20, 24))
  b.panel(1.1, 0.0, 1.0, 2.1, white)
  b.panel(1.1, 1.25, 1.0, 0.04, (140, 140, 140))
  b.panel(1.2, 0.75, 0.06, 0.4, (120, 120, 124))
  b.panel(1.2, 1.4, 0.06, 0.4, (120, 120, 124))


def _bedroom(b: raster.Builder):
  frame, blanket = (92, 60, 44), (112, 104, 168)
  b.panel(-1.9, 0, 2.6, 1.25, frame)
  b.panel(-1.8, 0.3, 2.4, 0.75, (238, 232, 228))
  b.panel(-1.65, 0.72, 0.95, 0.36, (250, 250, 250))
  b.panel(-0.45, 0.72, 0.95, 0.36, (250, 250, 250))
  b.panel(-1.8, 0.1, 2.4, 0.55, blanket)
  b.panel(1.1, 1.0, 1.2, 1.3, (240, 236, 230))
  b.panel(1.18, 1.08, 1.04, 1.14, (36, 44, 92))
  b.ball((1.9, 1.95, 0), 0.14, (244, 236, 190))
  b.panel(1.0, 0, 0.6, 0.6, frame)


def _garden(b: raster.Builder):
  b.panel(-2.5, 0, 5.0, 0.95, (38, 96, 40))
  for i in range(10):
    b.ball((-2.4 + 0.5 * i, 0.93, 0), 0.24, (44, 106, 44))
  for x in (-1.6, 1.2):
    b.tube((x, 0, 0), (x, 1.6, 0), 0.14, (98, 66, 40))
    b.ball((x - 0.35, 1.9, 0), 0.5, (52, 124, 48))
    b.ball((x + 0.35, 1.9, 0), 0.5, (46, 116, 44))
    b.ball((x, 2.3, 0), 0.55, (60, 136, 54))
  for i in range(8):
    colour = ((236, 110, 150), (246, 226, 90))[i % 2]
    b.ball((-2.3 + 0.62 * i, 0.3 + 0.25 * (i % 3), -0.1), 0.1, colour)


def _street(b: raster.Builder):
  bricks = (146, 84, 66), (128, 112, 98), (166, 120, 88)
  for i, colour in enumerate(bricks):
    x = -2.5 + i * 1.68
    b.panel(x, 0, 1.66, 3.6 + 0.5 * (i % 2), colour)
    for y in (0.75, 1.65, 2.55):
      for dx in (0.2, 0.95):
        b.panel(x + dx, y, 0.5, 0.62, (66, 84, 104))
  b.panel(-2.5, 0, 5.02, 0.16, (176, 174, 170))
  b.tube((2.2, 0, -0.2), (2.2, 3.0, -0.2), 0.07, (40, 44, 44))


def _gym(b: raster.Builder):
  b.panel(-2.5, 0, 5.02, 0.9, (44, 96, 136))
  for i in range(7):
    b.panel(-2.3, 0.3 + 0.32 * i, 1.6, 0.12, (206, 160, 96))
  for x in (-2.3, -1.55, -0.8):
    b.panel(x, 0, 0.12, 2.5, (176, 128, 72))
  b.panel(0.4, 1.5, 1.5, 1.0, (244, 244, 240))
  b.panel(0.85, 1.6, 0.6, 0.45, (40, 40, 40))
  b.panel(0.92, 1.67, 0.46, 0.32, (244, 244, 240))
  b.panel(0.8, 1.45, 0.7, 0.1, (232, 96, 30))


def _office(b: raster.Builder):
  b.panel(-2.4, 1.0, 2.9, 1.4, (246, 248, 250))
  for i in range(7):
    b.panel(-2.4, 1.02 + 0.2 * i, 2.9, 0.09, (150, 170, 190))
  b.panel(-2.2, 0.68, 2.5, 0.1, (120, 92, 66))
  for x in (-2.1, 0.1):
    b.panel(x, 0, 0.1, 0.7, (96, 74, 54))
  b.panel(-1.5, 0.82, 0.9, 0.6, (26, 28, 32))
  b.panel(-1.43, 0.9, 0.76, 0.46, (90, 150, 200))
  b.panel(0.9, 0, 1.3, 2.2, (108, 84, 62))
  for k, y in enumerate((0.1, 0.62, 1.14, 1.66)):
    for i in range(6):
      colour = ((150, 60, 56), (70, 96, 130), (190, 170, 110))[(i + k) % 3]
      b.panel(0.98 + 0.19 * i, y, 0.15, 0.42, colour)


def _beach(b: raster.Builder):
  b.panel(-2.5, 0, 5.02, 1.15, (32, 112, 168))
  b.panel(-2.5, 0, 5.02, 0.16, (206, 232, 236))
  b.panel(-2.5, 0.45, 2.2, 0.06, (140, 190, 216))
  b.panel(0.2, 0.75, 1.8, 0.05, (140, 190, 216))
  b.ball((1.4, 2.4, 0), 0.36, (255, 238, 150))
  b.quad((-1.7, 0.55, 0), (-0.5, 0.55, 0), (-0.7, 0.35, 0), (-1.5, 0.35, 0),
         (120, 70, 44))  # fmt: skip
  b.quad((-1.05, 0.6, 0), (-0.5, 0.6, 0), (-1.05, 1.5, 0), (-1.05, 1.5, 0),
         (248, 246, 240))  # fmt: skip
  b.tube((-2.0, 0, -0.2), (-2.0, 2.0, -0.2), 0.04, (150, 110, 80))
  for k, x in enumerate((-2.48, -2.24, -2.0, -1.76)):
    b.quad((x, 1.5, -0.21), (x + 0.24, 1.5, -0.21), (-2.0, 2.1, -0.21),
           (-2.0, 2.1, -0.21),
           ((240, 130, 90), (250, 240, 224))[k % 2])  # fmt: skip


def _hospital(b: raster.Builder):
  b.panel(-2.5, 0, 5.02, 0.95, (140, 196, 190))
  b.panel(-2.5, 0.95, 5.02, 0.06, (90, 150, 146))
  b.panel(-2.2, 0.35, 2.2, 0.4, (248, 250, 252))
  b.panel(-2.2, 0.62, 0.6, 0.26, (226, 238, 246))
  b.panel(-2.3, 0.3, 0.1, 0.85, (150, 156, 160))
  b.panel(-0.05, 0.3, 0.1, 0.6, (150, 156, 160))
  for x in (-2.1, -0.2):
    b.panel(x, 0, 0.08, 0.35, (150, 156, 160))
  b.panel(0.5, 1.35, 1.1, 1.1, (250, 252, 252))
  b.panel(0.93, 1.45, 0.24, 0.9, (206, 40, 44))
  b.panel(0.6, 1.78, 0.9, 0.24, (206, 40, 44))
  b.tube((2.1, 0, 0), (2.1, 1.9, 0), 0.04, (130, 136, 140))
  b.panel(1.95, 1.5, 0.3, 0.45, (190, 226, 236))


PLACES = {
  'kitchen': Place(
    ((226, 222, 212), (64, 60, 58)), _tiles,
    ((232, 206, 140), (240, 218, 160)), _kitchen),
  'bedroom': Place(
    ((120, 70, 92), (136, 84, 106)), _carpet,
    ((206, 176, 196), (220, 194, 210)), _bedroom),
  'garden': Place(
    ((92, 156, 60), (70, 130, 46)), _grass,
    ((190, 220, 244), (110, 176, 236)), _garden),
  'street': Place(
    ((84, 86, 90), (232, 232, 226)), _lanes,
    ((206, 210, 214), (168, 182, 198)), _street),
  'gym': Place(
    ((206, 140, 70), (246, 240, 226)), _court,
    ((186, 204, 214), (206, 218, 226)), _gym),
  'office': Place(
    ((104, 112, 124), (120, 128, 140)), _carpet,
    ((196, 196, 190), (212, 212, 206)), _office),
  'beach': Place(
    ((236, 212, 150), (220, 192, 128)), _ripples,
    ((214, 236, 248), (120, 196, 244)), _beach),
  'hospital': Place(
    ((214, 226, 228), (176, 196, 198)), _plain,
    ((232, 242, 240), (240, 248, 246)), _hospital),
}  # fmt: skip


@functools.cache
def furniture(place: str) -> raster.Solids:
  """What one period of a place holds; the backdrop is at z = 0."""
  builder = raster.Builder()
  PLACES[place].draw(builder)
  return builder.build()
