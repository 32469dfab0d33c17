import io

import numpy as np
import pytest
from PIL import Image

from vimonet_jax.motion import draw, skeleton


def _frames(gif):
  image = Image.open(io.BytesIO(gif))
  pictures = []
  for k in range(image.n_frames):
    image.seek(k)
    pictures.append(np.array(image.convert('RGB')).astype(int))
  return np.array(pictures), image


def _like(pictures, colour):
  return np.abs(pictures - np.array(colour)).max(-1) < 12


def test_a_gif_has_every_frame_at_its_speed(walk):
  pictures, image = _frames(draw.skeleton_gif(walk, size=120, fps=20))
  assert pictures.shape == (len(walk), 120, 120, 3)
  assert image.info['duration'] == 50
  assert image.info['loop'] == 0
  fast = Image.open(io.BytesIO(draw.skeleton_gif(walk[:5], fps=1000)))
  assert fast.info['duration'] == 20


def test_both_sides_are_seen_and_left_is_left(walk):
  """The person faces the viewer, so the left limbs are to the right."""
  pictures, _ = _frames(draw.skeleton_gif(walk[:2], size=160))
  left, right = (
    np.nonzero(_like(pictures[0], colour))[1]
    for colour in (draw.LEFT, draw.RIGHT)
  )
  assert min(len(left), len(right)) > 60
  assert np.median(left) > np.median(right) + 5


@pytest.mark.parametrize('turn_deg', [0, 90, 200])
def test_the_first_frame_faces_the_viewer_whatever_the_heading(turn_deg, walk):
  turned = skeleton.quat_rotate(
    skeleton.quat_from_axis_angle([0, 1, 0], np.radians([turn_deg]))[:, None],
    walk.astype(float),
  )
  reference, _ = _frames(draw.skeleton_gif(walk, size=100))
  pictures, _ = _frames(draw.skeleton_gif(turned, size=100))
  limbs = [
    _like(p, draw.LEFT) | _like(p, draw.RIGHT) for p in (reference, pictures)
  ]
  # The grid and rounding differ, the person does not.
  assert np.mean(limbs[0] != limbs[1]) < 0.02


def test_the_camera_stands_still_and_sees_everybody(walk):
  """Moved and stretched in time the picture is the same, and nothing is cut."""
  far = np.concatenate([walk, walk + [0, 0, 5]])
  pictures, _ = _frames(draw.skeleton_gif(far, size=150))
  bodies = sum(
    _like(pictures, colour) for colour in (draw.LEFT, draw.RIGHT, draw.TRUNK)
  )
  assert (bodies.sum((1, 2)) > 80).all()
  edge = bodies[:, [0, -1]].sum() + bodies[:, :, [0, -1]].sum()
  assert edge == 0
  rows = [np.nonzero(body)[0].mean() for body in (bodies[0], bodies[-1])]
  assert rows[1] > rows[0] + 20  # towards the viewer is down in the picture


def test_files_are_small_and_are_what_is_returned(tmp_path, walk):
  path = tmp_path / 'walk.gif'
  gif = draw.skeleton_gif(walk, str(path))
  assert path.read_bytes() == gif
  assert len(gif) < 2500 * len(walk)
  path = tmp_path / 'frames.png'
  frames = np.zeros((8, 48, 48, 3), np.uint8)
  assert draw.frames_png(frames, str(path)) == path.read_bytes()


@pytest.mark.parametrize('fps', [20, 40])
def test_moments_are_shown_side_by_side_and_the_path_behind_them(
  tmp_path, fps, walk
):
  path = tmp_path / 'walk.png'
  png = draw.skeleton_png(walk, str(path), size=120, moments=4, fps=fps)
  assert path.read_bytes() == png
  sheet = np.array(Image.open(io.BytesIO(png)).convert('RGB')).astype(int)
  assert sheet.shape == (120, 5 * 123 - 3, 3)
  panels = [sheet[:, k * 123 : k * 123 + 120] for k in range(5)]
  limbs = [
    _like(panel, draw.LEFT) | _like(panel, draw.RIGHT) for panel in panels
  ]
  for k, panel in enumerate(limbs[:4]):
    # All of a body, in the middle of the picture however far it has walked.
    assert panel.sum() > 150, k
    assert abs(np.nonzero(panel)[1].mean() - 60) < 20
    assert not panel[[0, -1]].any()
  assert not limbs[4].any()
  assert (limbs[0] != limbs[3]).any()
  # The viewer, whom the body faces, is below, where a line ends the path that
  # shows where it faces, and no disc.
  widths = _like(panels[4], draw.TRUNK).sum(axis=1)
  rows = np.flatnonzero(widths)
  assert np.ptp(rows) > 60
  assert 0 < widths[rows[-1] - 3] < 7


def test_a_contact_sheet_shows_the_frames_in_order():
  frames = np.zeros((5, 48, 40, 3), np.uint8)
  frames[:] = 40 * np.arange(1, 6)[:, None, None, None]
  sheet = np.array(Image.open(io.BytesIO(
    draw.frames_png(frames, columns=3, min_size=96))))  # fmt: skip
  height, width = 2 * 96 + 3, 3 * 80 + 2 * 3
  assert sheet.shape == (height, width, 3)
  for i in range(5):
    row, column = divmod(i, 3)
    shown = sheet[row * 99 : row * 99 + 96, column * 83 : column * 83 + 80]
    assert (shown == 40 * (i + 1)).all()
  large = np.zeros((2, 224, 224, 3), np.uint8)
  image = Image.open(io.BytesIO(draw.frames_png(large)))
  assert image.size == (2 * 224 + 3, 224)


def test_other_arrays_are_refused():
  with pytest.raises(ValueError, match=r'found \[10, 263\].*features.recover'):
    draw.skeleton_gif(np.zeros((10, 263)))
  with pytest.raises(ValueError, match=r'found \[22, 3\].*features.recover'):
    draw.skeleton_png(np.zeros((22, 3)))
  with pytest.raises(ValueError, match=r'found float64 \[8, 48, 48, 3\]'):
    draw.frames_png(np.zeros((8, 48, 48, 3)))
