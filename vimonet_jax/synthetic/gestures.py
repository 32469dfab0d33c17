"""Verbs made of key poses: what the body looks like at a few moments.

Every verb returns the rows of controls of `body.py` that it takes. Sided verbs
are written for the left; `actions.py` mirrors them. Keys are (frames since the
key before at tempo 1, pose); 20 frames are a second.
"""

import numpy as np

from vimonet_jax.synthetic import body


class Sketch:
  """Collects the key poses of one action of one person."""

  def __init__(self, style: body.Style, rng: np.random.Generator):
    self.style = style
    self.rng = rng
    self.rest = style.standing
    self._frames = [0.0]
    self._rows = []

  def vary(self, value: float, share: float = 0.12) -> float:
    """A value of this execution: as given, more or less."""
    return value * self.rng.uniform(1 - share, 1 + share)

  def key(self, frames: float, **changes) -> 'Sketch':
    """Adds a pose that is reached `frames` after the one before."""
    if self._rows:
      step = self.vary(frames, 0.08) / self.style.tempo
      self._frames.append(self._frames[-1] + max(step, 1.0))
    self._rows.append(body.pose(self.rest, **changes))
    return self

  def rows(self) -> np.ndarray:
    return body.interpolate(np.array(self._frames), np.stack(self._rows))


# --- Arms ---------------------------------------------------------------------


def wave(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """The left hand goes to and fro beside the head."""
  sketch = Sketch(style, rng).key(0)
  middle, width = sketch.vary(138), 19 * style.vigour
  lean = rng.uniform(-4, 2)
  for k in range(int(rng.integers(6, 9))):
    side = width if k % 2 else -width
    sketch.key(
      4.2 if k else 10,
      left_arm=(middle + side, 88, 0.8),
      spine=(0, 0, lean),
      head=(6, 0),
    )
  return sketch.key(10).rows()


def lift_arm(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """The left arm goes up straight, stays there, comes down."""
  sketch = Sketch(style, rng)
  azimuth = rng.uniform(0, 80)
  rest = style.arms[0]
  top = {'left_arm': (sketch.vary(170, 0.04), azimuth, 0.98),
         'spine': (0, -2, -5)}  # fmt: skip
  halfway = {'left_arm': (90, azimuth, 0.97)}
  near = {'left_arm': (rest + 6, azimuth, 0.97)}
  sketch.key(0).key(4, **near).key(6, **halfway).key(7, **top)
  sketch.key(sketch.vary(13, 0.3), **top)
  return sketch.key(7, **halfway).key(6, **near).key(4).rows()


def reach(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """The left hand goes out for something low in front and returns slowly."""
  sketch = Sketch(style, rng)
  low = sketch.vary(26, 0.2)
  out = {'left_arm': (88, 20, 0.99), 'right_arm': (28, 20, 0.95),
         'spine': (-18, low, 0), 'turn': (-8, 10, 0), 'head': (0, 8),
         'pelvis': (0, -0.06, -0.05)}  # fmt: skip
  sketch.key(0).key(8, left_arm=(35, 5, 0.82), spine=(-6, 8, 0))
  sketch.key(10, **out).key(sketch.vary(9, 0.3), **out)
  sketch.key(9, left_arm=(40, 5, 0.72), spine=(-6, 8, 0))
  return sketch.key(8).rows()


def punch(
  style: body.Style, rng: np.random.Generator, count: int
) -> np.ndarray:
  """The left fist shoots forward from a guard."""
  sketch = Sketch(style, rng)
  lift = sketch.vary(100, 0.06)
  guard = {'arms': (78, 8, 0.42, 25), 'pelvis': (0, -0.05, 0),
           'turn': (-6, 3, 0), 'spine': (-10, 4, 0)}  # fmt: skip
  loaded = {**guard, 'left_arm': (62, 12, 0.36, 25), 'spine': (12, 4, 0)}
  hit = {**guard, 'left_arm': (lift, 32, 1.0, 10), 'turn': (-14, 8, 0),
         'spine': (-26, 8, 0), 'pelvis': (0, -0.06, 0.06)}  # fmt: skip
  sketch.key(0).key(8, **guard)
  for _ in range(count):
    sketch.key(5, **loaded).key(3.5, **hit).key(1.5, **hit).key(5, **guard)
  return sketch.key(3, **guard).key(8).rows()


def clap(style: body.Style, rng: np.random.Generator, count: int) -> np.ndarray:
  """Both hands meet in front of the chest."""
  sketch = Sketch(style, rng)
  lift = sketch.vary(72)
  apart = {'arms': (lift, sketch.vary(22), 0.82, 20)}
  together = {'arms': (lift, -32.5, 0.72, 30)}
  sketch.key(0).key(9, **apart)
  for k in range(count):
    if k:
      sketch.key(6.5, **apart)
    sketch.key(6, **together).key(1.5, **together)
  return sketch.key(6, **apart).key(9).rows()


def push(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """Both hands press something heavy away from the chest."""
  sketch = Sketch(style, rng)
  step = sketch.vary(0.24)
  bent = {'arms': (70, 6, 0.44, 40), 'pelvis': (0, -0.08, -0.03),
          'turn': (0, 6, 0), 'spine': (0, -4, 0)}  # fmt: skip
  stretched = {'arms': (104, -4, 0.97, 15), 'turn': (0, 16, 0),
               'spine': (0, 8, 0)}  # fmt: skip
  # The left foot steps forward to push from and back again.
  there = {'left_foot': (0, 0, step), 'right_foot': (0, 0, 0, 0, 28)}
  ahead = {**stretched, 'pelvis': (0, -0.1, 0.7 * step), **there}
  sketch.key(0).key(5, arms=(45, 10, 0.6, 20), pelvis=(0, -0.03, 0))
  sketch.key(5, **bent)
  sketch.key(4, **{**bent, 'left_foot': (0, 0.06, 0.5 * step)})
  sketch.key(4, **{**bent, 'pelvis': (0, -0.09, 0.3 * step),
                   'left_foot': (0, 0, step)})  # fmt: skip
  sketch.key(9, **ahead).key(9, **ahead)
  sketch.key(5, arms=(60, 4, 0.7, 20), pelvis=(0, -0.05, 0.2 * step),
             left_foot=(0, 0.05, 0.5 * step))  # fmt: skip
  sketch.key(4, arms=(40, 10, 0.8, 10), pelvis=(0, -0.03, 0))
  return sketch.key(6).rows()


def throw(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """The left arm winds up behind and whips over the shoulder."""
  sketch = Sketch(style, rng)
  step = sketch.vary(0.3)
  twist = 32 * style.vigour
  back = {'left_arm': (112, 125, 0.62, 0), 'right_arm': (75, 15, 0.9),
          'spine': (twist, -8, 6), 'turn': (14, -3, 0),
          'pelvis': (0.03, -0.05, -0.06)}  # fmt: skip
  stepped = {'right_foot': (0, 0, step)}
  release = {'left_arm': (158, 15, 0.94, 30), 'right_arm': (40, 20, 0.6),
             'spine': (-10, 8, -4), 'turn': (-4, 6, 0),
             'pelvis': (0, -0.07, 0.65 * step)}  # fmt: skip
  through = {'left_arm': (42, -38, 0.93), 'right_arm': (15, 30, 0.85),
             'spine': (-twist, 24, 0), 'turn': (-14, 12, 0),
             'pelvis': (-0.03, -0.1, 0.8 * step),
             'left_foot': (0, 0, 0, 0, 30)}  # fmt: skip
  sketch.key(0).key(7, left_arm=(40, 95, 0.75), right_arm=(35, 15, 0.9),
                    spine=(0.5 * twist, 0, 0))  # fmt: skip
  sketch.key(7, **back)
  sketch.key(3, **{**back, 'right_foot': (0, 0.1, 0.5 * step)})
  sketch.key(3, **{**back, **stepped})
  sketch.key(3.5, **{**release, **stepped})
  sketch.key(4.5, **{**through, **stepped})
  sketch.key(6, **{**through, **stepped})
  sketch.key(5, left_arm=(20, 10, 0.9), pelvis=(0, -0.04, 0.4 * step),
             right_foot=(0, 0.05, 0.5 * step))  # fmt: skip
  return sketch.key(6).rows()


# --- Legs and trunk -----------------------------------------------------------


def kick(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """The left leg swings back, then up in front."""
  sketch = Sketch(style, rng)
  high = min(0.62 * style.vigour, 0.72)
  over = {'pelvis': (-0.06, -0.02, 0.0)}
  sketch.key(0).key(6, **over, arms=(25, 50, 0.9))
  sketch.key(7, pelvis=(-0.07, -0.03, 0.04), turn=(8, 8, 0),
             left_foot=(0, 0.24, -0.42, 0, 62), arms=(32, 60, 0.88),
             spine=(-8, 4, 0))  # fmt: skip
  sketch.key(5, pelvis=(-0.07, -0.02, 0.02), turn=(-6, -14, 0),
             left_foot=(0, high, 0.8, 0, 14), arms=(42, 65, 0.85),
             spine=(10, 2, 0))  # fmt: skip
  sketch.key(2.5, pelvis=(-0.07, -0.02, 0.02), turn=(-6, -13, 0),
             left_foot=(0, high, 0.78, 0, 14), arms=(42, 65, 0.85),
             spine=(10, 2, 0))  # fmt: skip
  sketch.key(6, **over, left_foot=(0, 0.22, 0.16, 0, 20), arms=(25, 50, 0.9))
  return sketch.key(6, **over).key(6).rows()


def squat(
  style: body.Style, rng: np.random.Generator, count: int
) -> np.ndarray:
  """Down until the thighs are level, arms forward, and up again."""
  sketch = Sketch(style, rng)
  lift = sketch.vary(82)
  up = {'arms': (25, 8, 0.95), 'pelvis': (0, -0.02, 0)}
  sketch.key(0)
  for k in range(count):
    down = {'arms': (lift, 2, 0.94),
            'pelvis': (0, -min(sketch.vary(0.45) * style.vigour, 0.5), -0.2),
            'turn': (0, 28, 0), 'spine': (0, 6, 0), 'head': (0, -14),
            'splay': 16}  # fmt: skip
    sketch.key(9 if k else 11, **down).key(2, **down)
    if k < count - 1:
      sketch.key(8, **up)
  return sketch.key(11).rows()


def bend(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """Forward at the hips until the hands hang low, a moment, and up again."""
  sketch = Sketch(style, rng)
  hip = sketch.vary(58)
  down = {'turn': (0, hip, 0), 'spine': (0, sketch.vary(34), 0),
          'pelvis': (0, -0.06, -0.16), 'arms': (hip + 26, 4, 0.97),
          'head': (0, 8)}  # fmt: skip
  sketch.key(0).key(17, **down).key(sketch.vary(7, 0.3), **down)
  return sketch.key(17).rows()


def jump(style: body.Style, rng: np.random.Generator, count: int) -> np.ndarray:
  """Straight up from both feet and down again."""
  sketch = Sketch(style, rng)
  crouch = {'pelvis': (0, -0.2 * style.vigour, -0.08), 'turn': (0, 18, 0),
            'spine': (0, 10, 0), 'arms': (-20, 12, 0.95),
            'splay': 6}  # fmt: skip
  sketch.key(0)
  for k in range(count):
    height = sketch.vary(0.27, 0.15) * style.vigour
    sketch.key(6 if k else 8, **crouch)
    sketch.key(3, pelvis=(0, 0.0, 0), arms=(45, 12, 0.9),
               feet=(0, 0, 0, 0, 42))  # fmt: skip
    sketch.key(4, pelvis=(0, height + 0.03, 0), arms=(118, 14, 0.9),
               feet=(0, height - 0.04, -0.03, 0, 45))  # fmt: skip
    sketch.key(3.6, pelvis=(0, -0.02, 0), arms=(70, 16, 0.9),
               feet=(0, 0, 0, 0, 18))  # fmt: skip
  landed = {**crouch, 'arms': (20, 20, 0.92)}
  return sketch.key(4, **landed).key(8).rows()


def hop(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """A few small jumps on the left leg, the right foot held up behind."""
  sketch = Sketch(style, rng)
  drift = rng.uniform(0.0, 0.06)
  held = {'spine': (0, 4, 3), 'arms': (34, 55, 0.86)}
  sketch.key(0)
  sketch.key(8, **held, pelvis=(0.07, -0.06, 0.0), turn=(0, 5, 0),
             right_foot=(-0.02, 0.34, -0.28, 0, 62))  # fmt: skip
  hops = int(rng.integers(3, 5))
  for k in range(hops):
    ahead = k * drift
    height = sketch.vary(0.14) * style.vigour
    back = {'right_foot': (-0.02, 0.34, ahead - 0.28, 0, 62)}
    flying = {'right_foot': (-0.02, 0.36 + height, ahead + drift / 2 - 0.28,
                             0, 62)}  # fmt: skip
    sketch.key(3.2, **held, **back, pelvis=(0.07, -0.12, ahead),
               turn=(0, 7, 0), left_foot=(0, 0, ahead))  # fmt: skip
    sketch.key(1.8, **held, **back, pelvis=(0.07, 0.0, ahead),
               turn=(0, 5, 0), left_foot=(0, 0, ahead, 0, 34))  # fmt: skip
    sketch.key(2.4, **{**held, 'arms': (48, 60, 0.86)}, **flying,
               pelvis=(0.07, height, ahead + drift / 2), turn=(0, 5, 0),
               left_foot=(0, height - 0.03, ahead + drift / 2, 0,
                          30))  # fmt: skip
    ahead += drift
    sketch.key(2.4, **held, right_foot=(-0.02, 0.34, ahead - 0.28, 0, 62),
               pelvis=(0.07, -0.03, ahead), turn=(0, 6, 0),
               left_foot=(0, 0, ahead, 0, 8))  # fmt: skip
  ahead = hops * drift
  gone = {'feet': (0, 0, ahead)}
  sketch.key(3.5, **held, pelvis=(0.07, -0.09, ahead), turn=(0, 6, 0),
             left_foot=(0, 0, ahead),
             right_foot=(0, 0.2, ahead - 0.14, 0, 40))  # fmt: skip
  return sketch.key(7, **gone, pelvis=(0, 0, ahead)).rows()


# --- Other postures -----------------------------------------------------------

# The thighs level on a seat, the hands on the knees.
SEATED = {'pelvis': (0, -0.47, -0.43), 'turn': (0, -4, 0),
          'spine': (0, 6, 0), 'arms': (38, -4, 0.86, 20)}  # fmt: skip
_LEANING = {'pelvis': (0, -0.34, -0.36), 'turn': (0, 34, 0),
            'spine': (0, 16, 0), 'arms': (52, 4, 0.8, 15),
            'head': (0, -16)}  # fmt: skip


def sit(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """Down on a seat, and stays."""
  sketch = Sketch(style, rng).key(0)
  sketch.key(6, pelvis=(0, -0.06, -0.08), turn=(0, 16, 0), arms=(30, 8, 0.9))
  sketch.key(9, **_LEANING).key(5, **SEATED)
  return sketch.key(sketch.vary(17, 0.3), **SEATED).rows()


def rise(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """Seated for a moment, then up on both feet."""
  sketch = Sketch(style, rng).key(0, **SEATED)
  sketch.key(sketch.vary(10, 0.3), **SEATED)
  sketch.key(8, **{**_LEANING, 'pelvis': (0, -0.46, -0.39)})
  sketch.key(5, **{**_LEANING, 'pelvis': (0, -0.34, -0.27)})
  sketch.key(9, pelvis=(0, -0.05, -0.04), turn=(0, 8, 0))
  return sketch.key(7).rows()


# On the back, arms along the body; the feet came out as the legs stretched.
SUPINE = {'pelvis': (0, -0.845, -0.58), 'turn': (0, -88, 0),
          'arms': (10, 70, 0.97),
          'feet': (0.02, 0.15, 0.19, 6, -62)}  # fmt: skip
_ON_FLOOR = {'pelvis': (0, -0.83, -0.52), 'turn': (0, -22, 0),
             'spine': (0, 24, 0), 'arms': (-32, 35, 0.95),
             'feet': (0.02, 0, 0.05)}  # fmt: skip


def lie(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """Sits down on the floor with care, leans back and lies on the back."""
  sketch = Sketch(style, rng).key(0)
  sketch.key(13, pelvis=(0, -0.52, -0.24), turn=(0, 32, 0), spine=(0, 16, 0),
             arms=(35, 30, 0.9), splay=10)  # fmt: skip
  sketch.key(11, **_ON_FLOOR)
  sketch.key(9, pelvis=(0, -0.83, -0.56), turn=(0, -58, 0), spine=(0, 10, 0),
             arms=(-6, 50, 0.85), feet=(0.02, 0.05, 0.1, 4, -15))  # fmt: skip
  sketch.key(10, **SUPINE)
  return sketch.key(sketch.vary(12, 0.3), **SUPINE).rows()


def getup(style: body.Style, rng: np.random.Generator) -> np.ndarray:
  """On the back on the floor, then sits up, gets the feet under and stands."""
  sketch = Sketch(style, rng).key(0, **SUPINE)
  sketch.key(sketch.vary(8, 0.3), **SUPINE)
  sketch.key(8, pelvis=(0, -0.83, -0.54), turn=(0, -48, 0), spine=(0, 26, 0),
             arms=(35, 12, 0.9), feet=(0.02, 0.02, 0.08, 4, -8))  # fmt: skip
  sketch.key(7, pelvis=(0, -0.82, -0.48), turn=(0, -2, 0), spine=(0, 34, 0),
             arms=(55, 6, 0.9), feet=(0.02, 0, 0.0), splay=8)  # fmt: skip
  sketch.key(9, pelvis=(0, -0.66, -0.2), turn=(0, 44, 0), spine=(0, 30, 0),
             arms=(70, 10, 0.85), head=(0, -20), feet=(0.02, 0, 0, 0, 12),
             splay=14)  # fmt: skip
  sketch.key(9, pelvis=(0, -0.36, -0.12), turn=(0, 46, 0), spine=(0, 18, 0),
             arms=(50, 10, 0.85), head=(0, -14), splay=8)  # fmt: skip
  sketch.key(8, pelvis=(0, -0.07, -0.03), turn=(0, 12, 0), arms=(20, 15, 0.95))
  return sketch.key(6).rows()


def fall(
  style: body.Style, rng: np.random.Generator, direction: str
) -> np.ndarray:
  """Loses balance, drops in half a second and stays down."""
  sketch = Sketch(style, rng).key(0)
  falls = {
    'forward': _fall_forward,
    'backward': _fall_backward,
    'left': _fall_left,
    'right': _fall_left,
  }
  falls[direction](sketch)
  controls = sketch.rows()
  if direction == 'right':
    return body.mirror(controls, style.standing)
  return controls


def _fall_forward(sketch: Sketch) -> None:
  arm = sketch.vary(95)
  prone = {'pelvis': (0, -0.8, 1.01), 'turn': (0, 86, 0),
           'spine': (0, -4, 0), 'arms': (arm + 40, 45, 0.62),
           'feet': (0.02, 0.0, 0, 0, 74)}  # fmt: skip
  sketch.key(6, pelvis=(0, -0.03, 0.14), turn=(0, 14, 0), spine=(0, 14, 0),
             arms=(arm - 40, 20, 0.85), feet=(0, 0, 0, 0, 20))  # fmt: skip
  sketch.key(5, pelvis=(0, -0.34, 0.46), turn=(0, 44, 0), spine=(0, 14, 0),
             arms=(arm + 15, 14, 0.85), feet=(0, 0, 0, 0, 48),
             head=(0, -20))  # fmt: skip
  sketch.key(4.5, **{**prone, 'arms': (arm + 35, 25, 0.7),
                     'pelvis': (0, -0.74, 0.97)})  # fmt: skip
  sketch.key(4, **{**prone, 'spine': (0, -12, 0)})
  sketch.key(4, **prone).key(sketch.vary(13, 0.3), **prone)


def _fall_backward(sketch: Sketch) -> None:
  supine = {**SUPINE, 'pelvis': (0, -0.865, -0.66),
            'arms': (55, 80, 0.93),
            'feet': (0.06, 0.15, 0.08, 10, -62)}  # fmt: skip
  sketch.key(5, pelvis=(0, -0.02, -0.14), turn=(0, -10, 0), spine=(0, 10, 0),
             arms=(70, 30, 0.9), feet=(0, 0.02, 0, 0, -8))  # fmt: skip
  sketch.key(5, pelvis=(0, -0.46, -0.5), turn=(0, -26, 0), spine=(0, 18, 0),
             arms=(95, 45, 0.9), feet=(0, 0.03, 0.04, 0, -14))  # fmt: skip
  sketch.key(4, pelvis=(0, -0.875, -0.64), turn=(0, -46, 0), spine=(0, 14, 0),
             arms=(70, 70, 0.9), feet=(0.02, 0.14, 0.16, 0, -40))  # fmt: skip
  sketch.key(4, **{**supine, 'feet': (0.05, 0.34, 0.04, 5, -60)})
  sketch.key(5, **supine).key(sketch.vary(14, 0.3), **supine)


def _fall_left(sketch: Sketch) -> None:
  aside = {'pelvis': (0.76, -0.78, -0.05), 'turn': (0, -4, 74),
           'spine': (0, 6, -12), 'left_arm': (88, 45, 0.97),
           'right_arm': (45, -15, 0.85), 'left_foot': (0, 0.02, -0.02, 0, 8),
           'right_foot': (-0.08, 0.14, 0.06, 0, 8)}  # fmt: skip
  sketch.key(6, pelvis=(0.12, -0.03, 0), turn=(0, 0, 10), spine=(0, 4, 10),
             arms=(50, 80, 0.92), right_foot=(0, 0.06, 0))  # fmt: skip
  sketch.key(5, pelvis=(0.42, -0.36, 0), turn=(0, 6, 40), spine=(0, 10, 6),
             left_arm=(75, 70, 0.9), right_arm=(70, 60, 0.9),
             right_foot=(0, 0.22, 0.02, 0, 10))  # fmt: skip
  sketch.key(4.5, **{**aside, 'right_foot': (-0.04, 0.34, 0.1, 0, 8)})
  sketch.key(5, **aside).key(sketch.vary(15, 0.3), **aside)
