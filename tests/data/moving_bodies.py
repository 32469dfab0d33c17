"""Rotations that move a body as joints were seen to move, and such files."""

import numpy as np
from scipy.spatial import transform

from vimonet_jax.motion import skeleton, smpl

CHILDREN = {
  j: [k for k, p in enumerate(skeleton.PARENTS) if p == j]
  for j in range(skeleton.NUM_JOINTS)
}


def poses(joints_TJ3, rest_J3=None) -> np.ndarray:
  """Rotation vectors [T, 66] of SMPL's joints, each relative to its parent.

  A joint with several children takes the turn that fits their bones best, one
  with a single child the shortest: for a body with these very proportions
  `smpl.from_poses` gives the joints back.

  Args:
    joints_TJ3: [T, 22, 3] metres.
    rest_J3: joints [22, 3] of the body at rest; None for `smpl`'s own.
  """
  offsets_J3 = smpl.REST_OFFSETS_J3
  if rest_J3 is not None:
    offsets_J3 = rest_J3 - rest_J3[list(skeleton.PARENTS)]
  bones_TJ3 = joints_TJ3 - joints_TJ3[:, list(skeleton.PARENTS)]
  found_TJ3 = np.zeros((len(joints_TJ3), skeleton.NUM_JOINTS, 3))
  for t, bones_J3 in enumerate(np.asarray(bones_TJ3, np.float64)):
    globals_ = {-1: transform.Rotation.identity()}
    for j, children in CHILDREN.items():
      above = globals_[skeleton.PARENTS[j]]
      globals_[j] = above
      if not children:
        continue
      seen = above.inv().apply(_unit(bones_J3[children]))
      rest = _unit(offsets_J3[children])
      if len(children) == 1:
        arc_4 = skeleton.quat_between(rest[0], seen[0])
        turn = transform.Rotation.from_quat(arc_4[[1, 2, 3, 0]])
      else:
        turn, _ = transform.Rotation.align_vectors(seen, rest)
      globals_[j] = above * turn
      found_TJ3[t, j] = turn.as_rotvec()
  return found_TJ3.reshape(len(joints_TJ3), -1)


def _unit(vectors):
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
