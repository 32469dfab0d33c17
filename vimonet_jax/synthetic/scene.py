"""A place, an object, a shirt, people and a camera -> frames: the video half.

The frames show the same body that the motion gives, seen from any side. Which
place, object, shirt and how many people: only the frames tell. Which limb, how
often, how fast: eight frames hardly tell, the motion does.
"""

import dataclasses
import types
from collections.abc import Mapping

import numpy as np

from vimonet_jax.synthetic import body, figures, places, raster, things

MAX_PEOPLE = 3
PLACES = tuple(places.PLACES)
OBJECTS = tuple(things.THINGS)
# Shirts, in 0 to 255.
COLOURS = {
  'red': (214, 30, 36),
  'green': (24, 150, 60),
  'blue': (30, 70, 216),
  'yellow': (246, 222, 30),
  'purple': (132, 36, 170),
  'white': (250, 250, 250),
  'black': (18, 18, 20),
  'pink': (255, 120, 186),
}

_SUPERSAMPLING = 2
_CAMERA_HEIGHT_M = 1.5
# Half the picture's width at a distance of one: an angle of view of 40 degrees.
_HALF_VIEW = 0.36
# The middle of the picture is so high, and it shows at least so much, metres.
_AIM_HEIGHT_M = 0.95
_MIN_HALF_WIDTH_M = 1.3
# Between the person and the edge of the picture.
_AIR_M = 0.2
# Whoever gets so far to the side crosses the picture.
_CROSSING_M = 2.4
# What the others wear: no shirt.
_GREYS = ((150, 150, 156), (132, 136, 140))
_SHADOW = 0.62


@dataclasses.dataclass(frozen=True)
class Scene:
  """What a video shows.

  Attributes:
    place: of `PLACES`.
    object: of `OBJECTS`; it stands near the person.
    colour: of `COLOURS`; the person's shirt.
    people: 1 to 3, the person included.
    azimuth_deg: from where the camera looks: 0 sees the face of somebody who
      faces +z, 90 their left side.
  """

  place: str
  object: str
  colour: str
  people: int = 1
  azimuth_deg: float = 0.0

  def __post_init__(self):
    for name, known in (
      ('place', PLACES),
      ('object', OBJECTS),
      ('colour', COLOURS),
      ('people', range(1, MAX_PEOPLE + 1)),
    ):
      if getattr(self, name) not in known:
        raise ValueError(
          f'Expected as {name} one of {", ".join(map(str, known))}, found '
          f'{getattr(self, name)!r}.'
        )


def render(
  joints: np.ndarray,
  scene: Scene,
  rng: np.random.Generator,
  *,
  size: int = 48,
  frames: int = 8,
  looks: Mapping[str, raster.Colour] = types.MappingProxyType({}),
) -> np.ndarray:
  """Films a motion.

  Args:
    joints: [T, 22, 3] metres, y up.
    scene: what there is to see.
    rng: draws what no question asks about: where things stand, light, grain.
    size: width and height of the frames, pixels.
    frames: how many, evenly spaced in time, the first and last included.
    looks: colours of the person, parts of figures.LOOKS, in place of those that
      are drawn.

  Returns:
    uint8 [frames, size, size, 3].
  """
  # Truncated, as video decoders sample.
  sampled = np.linspace(0, len(joints) - 1, frames).astype(int)
  body_IJ3 = _seen_from(joints[sampled], scene.azimuth_deg)
  half_width = things.half_width(scene.object)
  thing = _put_thing(body_IJ3, half_width, rng)
  camera = _follow(body_IJ3, thing, half_width, size * _SUPERSAMPLING)
  back = body_IJ3[..., 2].max() + rng.uniform(0.5, 0.8)
  others = _put_others(body_IJ3, thing, half_width, camera, back, rng)
  stage = _Stage(
    thing,
    others[: scene.people - 1],
    wall=back + rng.uniform(0.9, 1.3),
    shift=camera.position[:, 0].mean() + rng.uniform(-0.6, 0.6),
  )

  canvas = np.empty((frames, *(size * _SUPERSAMPLING,) * 2), np.uint32)
  _paint_place(canvas, camera, stage, places.PLACES[scene.place])
  solids = _solids(body_IJ3, scene, stage, camera, rng, looks)
  raster.paint(canvas, camera, solids)
  return _develop(canvas, rng)


def _seen_from(joints: np.ndarray, azimuth_deg: float) -> np.ndarray:
  """Joints in the picture's directions: x to the right, y up, z away."""
  c, s = np.cos(np.radians(azimuth_deg)), np.sin(np.radians(azimuth_deg))
  x, y, z = np.moveaxis(joints, -1, 0)
  seen = np.stack([c * x - s * z, y, -s * x - c * z], axis=-1)
  return seen.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class _Stage:
  """Where everything stands, in the picture's directions, metres.

  Attributes:
    thing: x, y, z of the object.
    others: [people - 1, 3], the feet of the other people.
    wall: z of the backdrop.
    shift: x of the middle of the backdrop's furniture.
  """

  thing: np.ndarray
  others: np.ndarray
  wall: float
  shift: float


def _put_thing(body_IJ3, half_width: float, rng) -> np.ndarray:
  """Where the object is near the person and seldom in the way; [3]."""
  low, high = body_IJ3.min((0, 1)), body_IJ3.max((0, 1))
  side = 1 if rng.random() < 0.5 else -1
  if high[0] - low[0] < _CROSSING_M:
    # Beside the person, a little nearer to the camera.
    edge = high[0] if side > 0 else low[0]
    x = edge + side * (half_width + rng.uniform(0.0, 0.15))
    root_I = body_IJ3[:, 0, 2]
    z = (root_I.min() + root_I.max()) / 2 - rng.uniform(0.0, 0.35)
  else:
    # Whoever crosses the picture passes behind it.
    x = (low[0] + high[0]) / 2 + side * rng.uniform(0.1, 0.4)
    passing = np.abs(body_IJ3[..., 0] - x) < half_width + 0.5
    middle = np.median(body_IJ3[..., 2])
    z = np.min(body_IJ3[..., 2], where=passing, initial=middle)
    z -= rng.uniform(0.4, 0.6)
  return np.array([x, 0.0, z], np.float32)


def _follow(body_IJ3, thing, half_width: float, size: int) -> raster.Camera:
  """A camera that follows the person while the object stays in view."""
  low, high = body_IJ3.min(1), body_IJ3.max(1)
  person_I3 = (low + high) / 2
  margin = half_width + 0.1
  reach = (high - low)[:, 0] / 2 + _AIR_M
  apart = np.abs(person_I3[:, 0] - thing[0])
  shown = np.maximum(_MIN_HALF_WIDTH_M, (apart + reach + margin) / 2)
  distance = shown / _HALF_VIEW
  # Aimed between them, but so far from both that they stand in the picture.
  between = (person_I3[:, 2] + thing[2]) / 2
  nearest = np.minimum(low[:, 2], thing[2])
  z = np.minimum(between, nearest + 0.16 * distance) - distance
  leash = np.maximum(_HALF_VIEW * (thing[2] - z) - margin, 0)
  x = np.clip(person_I3[:, 0], thing[0] - leash, thing[0] + leash)
  focal = size / 2 / _HALF_VIEW
  drop = focal * (_CAMERA_HEIGHT_M - _AIM_HEIGHT_M) / distance.mean()
  return raster.Camera(
    np.stack([x, np.full_like(x, _CAMERA_HEIGHT_M), z], axis=-1),
    focal,
    (size / 2, size / 2 - drop),
  )


def _put_others(
  body_IJ3, thing, half_width: float, camera: raster.Camera, z: float, rng
) -> np.ndarray:
  """Two places [2, 3] at depth z that are best seen, apart from each other."""
  xs_K = camera.position[:, 0].mean() + np.arange(-2.4, 2.5, 0.1)
  spots_K3 = np.stack([xs_K, 0 * xs_K, np.full_like(xs_K, z)], axis=-1)

  def view(points):
    pixels, depth = camera.project(points.astype(np.float32))
    return (pixels[..., 0] - camera.centre[0]) / camera.centre[0], depth

  spots_IK, depth_IK = view(spots_K3[None])
  body_IJ, _ = view(body_IJ3)
  thing_I2, _ = view(thing[None, None] + [[[-half_width, 0, 0],
                                           [half_width, 0, 0]]])  # fmt: skip
  half_IK = 0.25 / _HALF_VIEW / depth_IK
  clear_IK = 1 - half_IK - np.abs(spots_IK)
  for low_I, high_I, weight in (
    (body_IJ.min(1), body_IJ.max(1), 1.0),
    (thing_I2[:, 0], thing_I2[:, 1], 0.5),
  ):
    gap_IK = np.maximum(low_I[:, None] - spots_IK, spots_IK - high_I[:, None])
    clear_IK = np.minimum(clear_IK, weight * (gap_IK - half_IK))
  score_K = np.clip(clear_IK / half_IK, -1.0, 0.5).mean(0)
  score_K += rng.uniform(0, 0.15, len(score_K))
  first = int(score_K.argmax())
  score_K[np.abs(xs_K - xs_K[first]) < 0.55] = -np.inf
  return spots_K3[[first, int(score_K.argmax())]]


def _paint_place(canvas, camera, stage: _Stage, place: places.Place):
  """The backdrop, and the ground in front of it with its pattern."""
  size = canvas.shape[1]
  pixels = np.arange(size, dtype=np.float32) + np.float32(0.5)
  wall = stage.wall - camera.position[:, 2]
  foot_I = camera.centre[1] + camera.focal * _CAMERA_HEIGHT_M / wall
  canvas[:] = raster.pack(_mix(place.backdrop, 1 - pixels / foot_I.mean()))[
    :, None
  ]
  first = max(int(foot_I.min()), 0)
  rows = pixels[first:]
  depth = camera.focal * _CAMERA_HEIGHT_M / (rows - camera.centre[1])
  z = depth + camera.position[:, 2, None]
  x = (pixels - np.float32(camera.centre[0])) / np.float32(camera.focal)
  x = x * depth[:, None] + camera.position[:, 0, None, None]
  share = np.broadcast_to(place.pattern(x, z[..., None]), x.shape)
  ramp = raster.pack(_mix(place.ground, np.linspace(0, 1, 16)))
  ground = ramp[(15 * share).astype(np.uint8)]
  is_ground = rows >= foot_I[:, None]
  np.copyto(canvas[:, first:], ground, where=is_ground[..., None])


def _mix(two_colours, share) -> np.ndarray:
  """Colours [..., 3] between two of them; a share of 1 is the second."""
  one, two = np.array(two_colours, np.float32)
  return one + (two - one) * np.clip(share, 0, 1)[..., None]


def _solids(
  body_IJ3, scene: Scene, stage: _Stage, camera: raster.Camera, rng, looks
) -> list[raster.Solids]:
  furniture = places.furniture(scene.place)
  shade = _SHADOW * np.array(places.PLACES[scene.place].ground[0])
  # As many periods as any frame sees of the backdrop.
  half_view = _HALF_VIEW * (stage.wall - camera.position[:, 2])
  left = (camera.position[:, 0] - half_view).min() - stage.shift
  right = (camera.position[:, 0] + half_view).max() - stage.shift
  periods = np.arange(
    np.round(left / places.PERIOD_M), np.round(right / places.PERIOD_M) + 1
  )
  groups = [
    furniture.moved((stage.shift + k * places.PERIOD_M, 0, stage.wall))
    for k in periods
  ]
  groups.append(things.solids(scene.object).moved(stage.thing))
  poses = [body.Style.draw(rng).standing for _ in stage.others]
  poses = body.to_joints(np.reshape(poses, (-1, body.NUM_CONTROLS)))
  for pose, spot, grey in zip(poses, stage.others, _GREYS, strict=False):
    clothes = {'shirt': grey, 'trousers': grey, 'shade': shade}
    seen = _seen_from(pose[None], rng.uniform(0, 360)) + spot
    groups.append(_person(seen, clothes, rng))
  clothes = {'shirt': COLOURS[scene.colour], 'shade': shade, **looks}
  groups.append(_person(body_IJ3, clothes, rng))
  return groups


def _person(joints_IJ3, clothes, rng) -> raster.Solids:
  """Tubes around the bones of a body."""
  return figures.dress(
    joints_IJ3,
    {
      **{
        part: options[int(rng.integers(len(options)))]
        for part, options in figures.LOOKS.items()
      },
      **clothes,
    },
  )


def _develop(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Averages the samples of each pixel; light and grain of a real camera."""
  frames, size, _ = canvas.shape
  size //= _SUPERSAMPLING
  samples = canvas.view(np.uint8).reshape(
    frames, size, _SUPERSAMPLING, size, _SUPERSAMPLING, 4
  )
  sums = np.zeros((frames, size, size, 3), np.uint16)
  for dy in range(_SUPERSAMPLING):
    for dx in range(_SUPERSAMPLING):
      sums += samples[:, :, dy, :, dx, :3]
  light = rng.uniform(0.84, 1.0) * rng.uniform(0.97, 1.03, 3)
  pixels = sums * (light / _SUPERSAMPLING**2).astype(np.float32)
  pixels += 4 * rng.standard_normal((size, size, 1), np.float32)
  return np.clip(pixels, 0, 255).astype(np.uint8)
