"""A clothed body around 22 joints: tubes along the bones, head, hair, hands."""

from collections.abc import Mapping

import numpy as np

from vimonet_jax.motion import skeleton
from vimonet_jax.synthetic import raster

# One of each is drawn for a person; their shirt has its own colour.
LOOKS = {
  'trousers': ((62, 66, 84), (92, 78, 62), (72, 72, 72)),
  'skin': ((236, 188, 152), (198, 142, 104), (134, 88, 62)),
  'hair': ((44, 30, 24), (96, 62, 34), (30, 30, 32)),
}
SHOES = (34, 30, 30)

# Points beside the joints that tubes start or end at.
_EXTRA = (
  'left_hand', 'right_hand', 'chin', 'brow', 'crown', 'nape', 'shade_left',
  'shade_right',
)  # fmt: skip
# From, to, radius there and here in metres, and what covers it. Of tubes that
# are equally far away the later one is seen.
_TUBES = (
  ('shade_left', 'shade_right', 0.05, 0.05, 'shade'),
  *(
    (start.replace('*', side), end.replace('*', side), *rest)
    for side in ('left', 'right')
    for start, end, *rest in (
      ('*_hip', '*_knee', 0.1, 0.075, 'trousers'),
      ('*_knee', '*_ankle', 0.075, 0.055, 'trousers'),
      ('*_ankle', '*_foot', 0.06, 0.045, 'shoes'),
      ('*_shoulder', '*_hip', 0.11, 0.115, 'shirt'),
      ('*_shoulder', '*_elbow', 0.08, 0.07, 'shirt'),
      ('*_elbow', '*_wrist', 0.07, 0.055, 'shirt'),
      ('*_wrist', '*_hand', 0.05, 0.05, 'skin'),
    )
  ),
  ('left_hip', 'right_hip', 0.11, 0.11, 'trousers'),
  ('left_shoulder', 'right_shoulder', 0.1, 0.1, 'shirt'),
  ('pelvis', 'spine3', 0.13, 0.16, 'shirt'),
  ('neck', 'head', 0.06, 0.06, 'skin'),
  ('chin', 'brow', 0.1, 0.105, 'skin'),
  ('crown', 'nape', 0.115, 0.115, 'hair'),
)
_POINTS = {name: k for k, name in enumerate((*skeleton.NAMES, *_EXTRA))}
_ENDS_N2 = np.array(
  [(_POINTS[start], _POINTS[end]) for start, end, *_ in _TUBES]
)
_RADII_N2 = np.array([tube[2:4] for tube in _TUBES], np.float32)


def dress(
  joints_IJ3: np.ndarray, colours: Mapping[str, raster.Colour]
) -> raster.Solids:
  """The solids of a person.

  Args:
    joints_IJ3: float32 metres, in the picture's directions.
    colours: of `shirt`, of every part in `LOOKS`, and of the `shade` that the
      person throws on the ground.
  """
  points = np.concatenate([joints_IJ3, _extra(joints_IJ3)], axis=1)
  colours = {**colours, 'shoes': SHOES}
  return raster.Solids(
    quads=np.zeros((1, 0, 4, 3), np.float32),
    quad_colours=np.zeros((0, 3), np.float32),
    tubes=points[:, _ENDS_N2],
    radii=_RADII_N2,
    tube_colours=np.array([colours[tube[4]] for tube in _TUBES], np.float32),
  )


def _extra(joints_IJ3: np.ndarray) -> np.ndarray:
  """The points `_EXTRA`: where a head has its face, a hand its fingers."""

  def at(name):
    return joints_IJ3[:, skeleton.INDEX[name]]

  hands = [
    at(f'{side}_wrist') + 0.3 * (at(f'{side}_wrist') - at(f'{side}_elbow'))
    for side in ('left', 'right')
  ]
  up = at('head') - at('neck')
  # The picture's axes are left-handed: this points to where the face looks.
  ahead = np.cross(up, at('left_shoulder') - at('right_shoulder'))
  up, ahead = (
    v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-6)
    for v in (up, ahead)
  )
  chin = at('head') + 0.03 * up + 0.02 * ahead
  crown = at('head') + 0.11 * up - 0.05 * ahead
  below = at('pelvis') * np.array([1, 0, 1], np.float32)
  aside = np.array([0.24, 0, 0], np.float32)
  return np.stack(
    [
      *hands,
      chin,
      chin + 0.05 * up,
      crown,
      crown - 0.06 * up - 0.02 * ahead,
      below - aside,
      below + aside,
    ],
    axis=1,
  ).astype(np.float32)
