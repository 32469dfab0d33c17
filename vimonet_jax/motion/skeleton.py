"""The 22-joint body: names, tree, rest poses, quaternions and kinematics.

Joints follow SMPL's order; metres; y up; a body facing +z has its left side at
+x. Quaternions are (w, x, y, z) in the last axis. Everything broadcasts over
leading axes, so one call serves a frame, a clip or a batch of clips.

Source: HumanML3D (Guo et al. 2022), `common/skeleton.py` and `paramUtil.py`.
"""

import numpy as np

NAMES = (
    'pelvis', 'left_hip', 'right_hip', 'spine1', 'left_knee', 'right_knee',
    'spine2', 'left_ankle', 'right_ankle', 'spine3', 'left_foot',
    'right_foot', 'neck', 'left_collar', 'right_collar', 'head',
    'left_shoulder', 'right_shoulder', 'left_elbow', 'right_elbow',
    'left_wrist', 'right_wrist',
)  # fmt: skip
NUM_JOINTS = len(NAMES)
INDEX = {name: j for j, name in enumerate(NAMES)}

PARENTS = (
    -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19,
)  # fmt: skip

# HumanML3D walks the tree along these chains; both arms start at spine3.
CHAINS = (
  (0, 2, 5, 8, 11),
  (0, 1, 4, 7, 10),
  (0, 3, 6, 9, 12, 15),
  (9, 14, 17, 19, 21),
  (9, 13, 16, 18, 20),
)

# Mirroring a body negates x and swaps left and right: joints_TJ3[:, MIRROR].
MIRROR = (
    0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21,
    20,
)  # fmt: skip

# Direction of each bone in the frame that HumanML3D's rotations refer to. It
# is a convention and not a pose a person could take: the head lies forward
# and the shoulders hang straight below the collar bones.
DIRECTIONS_J3 = np.array([
    [0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, -1, 0],
    [0, 1, 0], [0, -1, 0], [0, -1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1],
    [0, 1, 0], [1, 0, 0], [-1, 0, 0], [0, 0, 1], [0, -1, 0], [0, -1, 0],
    [0, -1, 0], [0, -1, 0], [0, -1, 0], [0, -1, 0],
], np.float64)  # fmt: skip

# Metres; frame 0 of HumanML3D's clip 000021, to which all clips are retargeted.
BONE_LENGTHS_J = np.array([
    0.0, 0.103074, 0.109883, 0.131568, 0.393623, 0.390188, 0.143190, 0.432433,
    0.425643, 0.057365, 0.143382, 0.149419, 0.219360, 0.137487, 0.143383,
    0.103039, 0.131614, 0.122984, 0.256840, 0.263092, 0.266012, 0.269876,
])  # fmt: skip

OFFSETS_J3 = DIRECTIONS_J3 * BONE_LENGTHS_J[:, None]

# The same bones as a person standing upright, arms hanging, facing +z: the
# rest pose of `forward_kinematics` where we animate a body ourselves.
_STANDING_DIRECTIONS_J3 = np.array([
    [0, 0, 0], [0.75, -0.66, 0], [-0.75, -0.66, 0], [0, 1, -0.12],
    [0, -1, 0.02], [0, -1, 0.02], [0, 1, 0.05], [0, -1, -0.04],
    [0, -1, -0.04], [0, 1, 0.1], [0.12, -0.4, 0.9], [-0.12, -0.4, 0.9],
    [0, 1, -0.12], [0.55, 0.8, -0.1], [-0.55, 0.8, -0.1], [0, 0.9, 0.4],
    [0.95, 0.15, -0.1], [-0.95, 0.15, -0.1], [0.1, -1, -0.04],
    [-0.1, -1, -0.04], [0.05, -1, 0.08], [-0.05, -1, 0.08],
], np.float64)  # fmt: skip
STANDING_OFFSETS_J3 = (
  _STANDING_DIRECTIONS_J3
  / np.maximum(
    np.linalg.norm(_STANDING_DIRECTIONS_J3, axis=-1, keepdims=True), 1e-9
  )
  * BONE_LENGTHS_J[:, None]
)


def quat_multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Hamilton product a*b: the rotation that applies b first, then a."""
  aw, ax, ay, az = np.moveaxis(np.asarray(a), -1, 0)
  bw, bx, by, bz = np.moveaxis(np.asarray(b), -1, 0)
  return np.stack(
    [
      aw * bw - ax * bx - ay * by - az * bz,
      aw * bx + ax * bw + ay * bz - az * by,
      aw * by - ax * bz + ay * bw + az * bx,
      aw * bz + ax * by - ay * bx + az * bw,
    ],
    axis=-1,
  )


def quat_inverse(q: np.ndarray) -> np.ndarray:
  """Inverse of a unit quaternion."""
  return np.asarray(q) * np.array([1.0, -1.0, -1.0, -1.0])


def quat_rotate(q: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Rotates vectors `v` [..., 3] by unit quaternions `q` [..., 4]."""
  w, u = q[..., :1], q[..., 1:]
  uv = np.cross(u, v)
  return v + 2.0 * (w * uv + np.cross(u, uv))


def quat_between(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Shortest-arc unit quaternion that turns direction `u` into `v`.

  Opposite directions have no shortest arc; as in the reference, the result is
  then not a number unless rounding breaks the tie.
  """
  uv = np.sqrt(
    np.sum(u * u, -1, keepdims=True) * np.sum(v * v, -1, keepdims=True)
  )
  w = uv + np.sum(u * v, -1, keepdims=True)
  q = np.concatenate([w, np.cross(u, v)], axis=-1)
  return q / np.linalg.norm(q, axis=-1, keepdims=True)


def quat_from_axis_angle(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
  """Quaternion of a turn by `angle` [...] radians about `axis` [..., 3]."""
  half = 0.5 * np.asarray(angle, np.float64)[..., None]
  axis = np.asarray(axis, np.float64)
  return np.concatenate(
    [
      np.cos(half),
      np.sin(half) * np.broadcast_to(axis, half.shape[:-1] + (3,)),
    ],
    axis=-1,
  )


def quat_from_rotation_vector(rotvec: np.ndarray) -> np.ndarray:
  """Quaternion of a rotation vector [..., 3] (axis times radians; SMPL)."""
  rotvec = np.asarray(rotvec, np.float64)
  angle = np.linalg.norm(rotvec, axis=-1)
  axis = rotvec / np.maximum(angle, 1e-12)[..., None]
  return quat_from_axis_angle(axis, angle)


def quat_to_matrix(q: np.ndarray) -> np.ndarray:
  """Rotation matrix [..., 3, 3] of a unit quaternion; acts on columns."""
  w, x, y, z = np.moveaxis(np.asarray(q), -1, 0)
  rows = [
    [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
    [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
    [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
  ]
  return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_6d(matrix: np.ndarray) -> np.ndarray:
  """First column, then second column of a rotation matrix: [..., 6]."""
  return np.concatenate([matrix[..., :, 0], matrix[..., :, 1]], axis=-1)


def forward_kinematics(
  root_T3: np.ndarray,
  rotations_TJ4: np.ndarray,
  offsets_J3: np.ndarray = STANDING_OFFSETS_J3,
  parents: tuple[int, ...] = PARENTS,
) -> np.ndarray:
  """Joints of a body whose joint rotations are relative to their parents.

      joint = parent + G(parent) offset,  G(joint) = G(parent) rotation(joint)

  This is the convention of BVH and SMPL, where a joint's rotation moves its
  children. HumanML3D's own chain convention lives in `features.py`.

  Args:
    root_T3: root position in metres.
    rotations_TJ4: unit quaternions; index 0 is the root's global rotation.
    offsets_J3: rest position of each joint relative to its parent, metres.
    parents: parent of each joint, -1 for the root; parents come first.

  Returns:
    joints_TJ3 in metres.
  """
  joints = [np.asarray(root_T3)]
  globals_ = [rotations_TJ4[..., 0, :]]
  for j in range(1, len(parents)):
    parent = parents[j]
    joints.append(joints[parent] + quat_rotate(globals_[parent], offsets_J3[j]))
    globals_.append(quat_multiply(globals_[parent], rotations_TJ4[..., j, :]))
  return np.stack(joints, axis=-2)


def mirror(joints_TJ3: np.ndarray) -> np.ndarray:
  """The mirror image of a motion: left and right change places."""
  return joints_TJ3[..., MIRROR, :] * np.array([-1.0, 1.0, 1.0])
