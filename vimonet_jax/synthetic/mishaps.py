"""What happens in long recordings and in no clip: a hard seat, up after a fall.

None of these is a verb of `actions.VERBS`, from whose order the splits of the
clips follow, so no clip that a model is trained on shows them. Controls are
those of `body.py`, as in `gestures.py`.
"""

from collections.abc import Sequence

import numpy as np

from vimonet_jax.synthetic import body, gestures

# Of getting up, so many frames are spent on the back.
_ON_THE_BACK = 24


def sit_hard(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """The knees give way above a seat: down in a third of a second, and stays."""
  sketch = gestures.Sketch(style, rng).key(0)
  arms = (sketch.vary(70, 0.3), 40, 0.88)
  seated = gestures.SEATED
  sketch.key(3, pelvis=(0, -0.05, -0.06), turn=(0, 6, 0), arms=(30, 30, 0.92))
  sketch.key(
    sketch.vary(5.5, 0.2),
    **{**seated, 'turn': (0, 8, 0), 'spine': (0, 18, 0), 'arms': arms},
  )
  sketch.key(4, **{**seated, 'turn': (0, -12, 0), 'spine': (0, 2, 0)})
  return sketch.key(5, **seated).key(sketch.vary(12, 0.3), **seated).rows()


def up_again(
  lying: np.ndarray,
  direction: str,
  style: body.Style,
  rng: np.random.Generator,
) -> np.ndarray:
  """From where a fall ended to standing, in the frame of that fall.

  Args:
    lying: controls [31], the last of `gestures.fall`.
    direction: of the fall.
    style: who fell.
    rng: draws how.
  """
  if direction == 'right':
    lying = body.mirror(lying[None], style.standing)[0]
    rows = up_again(lying, 'left', style, rng)
    return body.mirror(rows, style.standing)
  if direction == 'forward':
    return _through(lying, _push_up(style), style, rng)
  rising = gestures.getup(style, rng)
  if direction == 'backward':
    start, x, z = 0, 0.0, -0.06
  else:  # Beside the feet, and sits up at once.
    start, x, z = _ON_THE_BACK, 0.55, 0.3
  rising = body.place(rising[start:], x, z, 0.0)
  return np.concatenate(
    [_through(lying, [(18, rising[0])], style, rng)[:-1], rising]
  )


def _push_up(style: body.Style) -> list[tuple[float, np.ndarray]]:
  """From the front onto hands and toes, the feet under the body, and up."""

  def pose(frames, **changes):
    return frames, body.pose(style.standing, **changes)

  return [
    pose(16, pelvis=(0, -0.52, 0.8), turn=(0, 66, 0), arms=(78, 12, 0.92),
         feet=(0.02, 0, 0.08, 0, 52), head=(0, -12)),
    pose(9, pelvis=(0, -0.5, 0.56), turn=(0, 54, 0), spine=(0, 22, 0),
         arms=(70, 10, 0.9), feet=(0.02, 0.02, 0.42, 0, 24), splay=12,
         head=(0, -16)),
    pose(9, pelvis=(0, -0.4, 0.5), turn=(0, 46, 0), spine=(0, 18, 0),
         arms=(50, 10, 0.85), feet=(0.01, 0, 0.62), splay=10),
    pose(9, pelvis=(0, -0.07, 0.59), turn=(0, 12, 0), arms=(20, 15, 0.95),
         feet=(0, 0, 0.62)),
    pose(7, pelvis=(0, 0, 0.62), feet=(0, 0, 0.62)),
  ]  # fmt: skip


def _through(
  first: np.ndarray,
  keys: Sequence[tuple[float, np.ndarray]],
  style: body.Style,
  rng: np.random.Generator,
) -> np.ndarray:
  """Smooth controls from a row through others (frames since, row)."""
  steps = [frames * rng.uniform(0.9, 1.2) / style.tempo for frames, _ in keys]
  frames = np.concatenate([[0.0], np.cumsum(steps)])
  # Whole, so that the last row is met.
  frames[-1] = np.ceil(frames[-1])
  return body.interpolate(frames, np.stack([first, *(row for _, row in keys)]))
