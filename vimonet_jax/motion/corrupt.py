"""Joints as a pose estimator would have seen them: the robustness test.

Corrupt joints first and make features of them afterwards: noise on features
would tear positions, velocities and rotations apart. Bone lengths are left
broken; `features.uniform_skeleton` does what it would do in practice.

Every level draws the same random numbers in the same order, so that one seed
makes levels that differ in size only and can be compared pair by pair.
"""

import dataclasses

import numpy as np

from vimonet_jax.motion import skeleton


@dataclasses.dataclass(frozen=True)
class Level:
  """How badly a clip was seen.

  Attributes:
    sigma_m: standard deviation of the joint noise on each axis, metres; the
      mean joint error is 1.596 * 0.977 * sigma_m.
    correlation: of the noise from one frame to the next. Errors of pose
      estimators drift: 0.93 at 20 fps matches their acceleration error, 0
      (white noise) shakes seven times too much.
    jitter_frames: each frame is taken up to so many frames off its time.
    drop_probability: of a frame being lost and the last one shown again.
  """

  sigma_m: float = 0.0
  correlation: float = 0.93
  jitter_frames: float = 0.0
  drop_probability: float = 0.0

  def __post_init__(self):
    if (
      not 0 <= self.sigma_m < np.inf
      or not 0 <= self.correlation < 1
      or not 0 <= self.jitter_frames < np.inf
      or not 0 <= self.drop_probability < 1
    ):
      raise ValueError(
        'Level: expected sizes of at least zero, a correlation and a '
        f'probability below 1, found {self}; see corrupt.LEVELS for examples.'
      )


LEVELS: dict[str, Level] = {
  'L0': Level(),  # clean
  'L1': Level(0.015, jitter_frames=1),  # several cameras, or cleaned markers
  'L2': Level(0.030, jitter_frames=1),  # a good one-camera pose; the headline
  'L3': Level(0.045, jitter_frames=2),  # one camera in the wild
  'L4': Level(0.060, jitter_frames=4, drop_probability=0.05),  # stress
  'L2w': Level(0.030, correlation=0.0, jitter_frames=1),  # white noise
  'L2_noise': Level(0.030),
  'L2_jitter': Level(jitter_frames=1),
}

_SCALES = {
  'head': 0.9,
  'knee': 1.0,
  'elbow': 1.0,
  'ankle': 1.3,
  'foot': 1.3,
  'wrist': 1.3,
}
# The trunk is seen better than the ends of the limbs; mean square 1.
NOISE_SCALES_J = np.array(
  [_SCALES.get(name.split('_')[-1], 0.8) for name in skeleton.NAMES]
)


def corrupt(
  joints_TJ3: np.ndarray, level: Level, rng: np.random.Generator
) -> np.ndarray:
  """A clip as it would have been seen.

  Args:
    joints_TJ3: [T, 22, 3] at 20 fps, metres.
    level: one of `LEVELS`, or your own.
    rng: fix it by item and seed, so that a model meets the same clip again.

  Returns:
    the clip, of the same shape and dtype; with `L0` the very same numbers.

  Raises:
    ValueError: not joints of one clip.
  """
  joints_TJ3 = np.asarray(joints_TJ3)
  if joints_TJ3.ndim != 3 or joints_TJ3.shape[1:] != (skeleton.NUM_JOINTS, 3):
    raise ValueError(
      f'Expected joints [T, {skeleton.NUM_JOINTS}, 3], found '
      f'{list(joints_TJ3.shape)}; corrupt one clip at a time, before its '
      'features are made.'
    )
  # The camera is late first and the estimator errs then: jitter after noise
  # would average white noise away.
  seen_TJ3 = jitter(joints_TJ3, level.jitter_frames, rng)
  seen_TJ3 = noise(seen_TJ3, level.sigma_m, level.correlation, rng)
  seen_TJ3 = drop(seen_TJ3, level.drop_probability, rng)
  return seen_TJ3.astype(joints_TJ3.dtype)


def jitter(
  joints_TJ3: np.ndarray, jitter_frames: float, rng: np.random.Generator
) -> np.ndarray:
  """Takes each frame up to `jitter_frames` off its time, in order."""
  frames = len(joints_TJ3)
  times_T = np.arange(frames) + jitter_frames * rng.uniform(-1, 1, frames)
  times_T = np.clip(np.sort(times_T), 0, frames - 1)
  before_T = np.floor(times_T).astype(int)
  after_T = np.minimum(before_T + 1, frames - 1)
  share_T11 = (times_T - before_T)[:, None, None]
  return (1 - share_T11) * joints_TJ3[before_T] + share_T11 * joints_TJ3[
    after_T
  ]


def noise(
  joints_TJ3: np.ndarray,
  sigma_m: float,
  correlation: float,
  rng: np.random.Generator,
) -> np.ndarray:
  """Adds errors that drift, independent over joints and axes.

  n[0] = sigma e[0],  n[t] = r n[t-1] + sqrt(1 - r^2) sigma e[t]
  """
  noise_TJ3 = rng.standard_normal(joints_TJ3.shape)
  fresh = np.sqrt(1 - correlation**2)
  for t in range(1, len(noise_TJ3)):
    noise_TJ3[t] = correlation * noise_TJ3[t - 1] + fresh * noise_TJ3[t]
  return joints_TJ3 + sigma_m * NOISE_SCALES_J[:, None] * noise_TJ3


def drop(
  joints_TJ3: np.ndarray, probability: float, rng: np.random.Generator
) -> np.ndarray:
  """Loses frames and shows the last kept one; the first is never lost."""
  frames_T = np.arange(len(joints_TJ3))
  is_kept_T = rng.random(len(joints_TJ3)) >= probability
  return joints_TJ3[np.maximum.accumulate(np.where(is_kept_T, frames_T, 0))]
