"""Real data where they are mounted, and people who move."""

import pathlib
from collections.abc import Callable

import numpy as np
import pytest

from vimonet_jax.motion import skeleton
from vimonet_jax.synthetic import actions

# Nobody here turns by half a turn, which `features.recover` does not survive.
_PROGRAMS = (
  (actions.Action('walk', direction='forward', speed='quickly'),
   actions.Action('kick', side='left')),
  (actions.Action('turn', side='left'), actions.Action('bend')),
  (actions.Action('fall', direction='right'),),
  (actions.Action('getup'), actions.Action('jump', count=2)),
)  # fmt: skip


@pytest.fixture(scope='session')
def shared() -> Callable[[str], pathlib.Path]:
  """Path of a file among the shared test data; skips where it is absent."""
  folder = pathlib.Path(__file__).parents[3] / 'shared/data'

  def find(name: str) -> pathlib.Path:
    path = folder / name
    if not path.exists():
      pytest.skip(f'needs ../shared/data/{name}, which is not mounted')
    return path

  return find


@pytest.fixture(scope='session')
def clips() -> tuple[np.ndarray, ...]:
  """Four people of the synthetic world, float64 [T, 22, 3]; read only."""
  found = []
  for seed, program in enumerate(_PROGRAMS):
    joints = actions.animate(program, np.random.default_rng(seed)).joints
    joints = joints.astype(np.float64)
    joints.flags.writeable = False
    found.append(joints)
  return tuple(found)


@pytest.fixture(scope='session')
def walk(clips) -> np.ndarray:
  """Somebody who walks and kicks, float32 [T, 22, 3]; read only."""
  joints = clips[0].astype(np.float32)
  joints.flags.writeable = False
  return joints


@pytest.fixture(scope='session')
def stroll() -> Callable[..., np.ndarray]:
  """Makes [T, 22, 3] metres at any rate: swinging, along z on a floor at 0."""

  def make(num_frames: int = 60, fps: float = 20.0) -> np.ndarray:
    phase = 2 * np.pi * 0.8 * np.arange(num_frames) / fps
    turns = np.zeros((num_frames, skeleton.NUM_JOINTS, 3))
    for name, axis, degrees, shift in (
      ('left_hip', 0, 25, 0), ('right_hip', 0, -25, 0), ('left_knee', 0, 9, 1),
      ('right_knee', 0, -9, 1), ('left_shoulder', 0, -30, 0),
      ('right_shoulder', 0, 30, 0), ('left_elbow', 2, 15, 0.5),
      ('spine3', 1, 8, 0.3), ('pelvis', 1, 5, 0.2),
    ):  # fmt: skip
      turns[:, skeleton.INDEX[name], axis] = np.radians(degrees) * np.sin(
        phase + shift
      )
    root = np.zeros((num_frames, 3))
    root[:, 2] = 0.9 * np.arange(num_frames) / fps
    joints = skeleton.forward_kinematics(
      root, skeleton.quat_from_rotation_vector(turns)
    )
    return joints - [0.0, joints[..., 1].min(), 0.0]

  return make
