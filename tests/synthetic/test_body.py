import numpy as np

from vimonet_jax.motion import skeleton
from vimonet_jax.synthetic import body

STANDING = body.Style().standing


def _turn(pitch_deg, yaw_deg=0.0, roll_deg=0.0):
  """Quaternion: roll to the left, then pitch forward, then yaw to the left."""
  parts = (
    ((0, 1, 0), yaw_deg),
    ((1, 0, 0), pitch_deg),
    ((0, 0, -1), roll_deg),
  )
  q = np.array([1.0, 0.0, 0.0, 0.0])
  for axis, angle in parts:
    q = skeleton.quat_multiply(
      q, skeleton.quat_from_axis_angle(axis, np.radians(angle))
    )
  return q


def test_the_trunk_is_forward_kinematics():
  row = body.pose(
    STANDING,
    pelvis=(0.1, -0.4, 0.2),
    turn=(20, 30, -15),
    spine=(12, 24, 9),
    head=(10, -5),
  )
  joints = body.to_joints(row[None])[0]
  lean = STANDING[body.TURN.start + 1], STANDING[body.SPINE.start + 1]
  rotations = np.tile([1.0, 0.0, 0.0, 0.0], (skeleton.NUM_JOINTS, 1))
  rotations[0] = _turn(30 + lean[0], 20, -15)
  for j in (3, 6, 9):
    rotations[j] = _turn((24 + lean[1]) / 3, 4, 3)
  rotations[12] = _turn(-5, 10)
  expected = skeleton.forward_kinematics(joints[0].astype(float), rotations)
  trunk = [0, 1, 2, 3, 6, 9, 12, 13, 14, 15, 16, 17]
  np.testing.assert_allclose(joints[trunk], expected[trunk], atol=1e-5)


def test_feet_and_hands_go_where_they_are_told():
  row = body.pose(STANDING, pelvis=(0, -0.3, 0), left_foot=(0.1, 0.2, 0.15),
                  right_arm=(90, 0, 0.8))  # fmt: skip
  row[body.SPINE] = 0
  joints = body.to_joints(row[None])[0]
  np.testing.assert_allclose(
    joints[skeleton.INDEX['left_foot']], row[body.FEET[0]][:3], atol=1e-5
  )
  reach = skeleton.BONE_LENGTHS_J[[19, 21]].sum() * 0.8
  shoulder = joints[skeleton.INDEX['right_shoulder']]
  np.testing.assert_allclose(
    joints[skeleton.INDEX['right_wrist']], shoulder + [0, 0, reach], atol=1e-5
  )


def test_a_pelvis_comes_down_for_feet_far_apart():
  row = body.pose(STANDING, left_foot=(0, 0, 0.4), right_foot=(0, 0, -0.4))
  joints = body.to_joints(np.tile(row, (10, 1)))
  assert joints[0, 0, 1] < row[1] - 0.05
  for side, columns in enumerate(body.FEET):
    np.testing.assert_allclose(
      joints[5, 10 + side], row[columns][:3], atol=1e-5
    )


def test_knees_bend_forward_and_elbows_backward():
  row = body.pose(STANDING, pelvis=(0, -0.3, 0), arms=(10, 0, 0.7))
  joints = body.to_joints(row[None])[0]
  for side in ('left', 'right'):
    hip, knee, ankle, shoulder, elbow, wrist = (
      joints[skeleton.INDEX[f'{side}_{part}'], 2]
      for part in ('hip', 'knee', 'ankle', 'shoulder', 'elbow', 'wrist')
    )
    assert knee > max(hip, ankle) + 0.1
    assert elbow < min(shoulder, wrist) - 0.05


def test_interpolation_passes_its_keys_and_never_overshoots():
  rng = np.random.default_rng(0)
  frames = np.array([0.0, 4.0, 9.0, 11.0, 20.0])
  rows = rng.normal(size=(5, body.NUM_CONTROLS))
  rows[2] = rows[3]
  controls = body.interpolate(frames, rows)
  assert len(controls) == 21
  np.testing.assert_allclose(controls[frames.astype(int)], rows, atol=1e-12)
  np.testing.assert_allclose(controls[10], rows[2], atol=1e-12)
  for k in range(4):
    between = controls[int(frames[k]) : int(frames[k + 1]) + 1]
    assert (between >= np.minimum(rows[k], rows[k + 1]) - 1e-9).all()
    assert (between <= np.maximum(rows[k], rows[k + 1]) + 1e-9).all()


def test_mirroring_twice_changes_nothing_and_standing_has_no_mirror():
  rng = np.random.default_rng(0)
  standing = body.Style.draw(rng).standing
  controls = standing + rng.normal(size=(7, body.NUM_CONTROLS))
  once = body.mirror(controls, standing)
  assert np.abs(once - controls).max() > 0.1
  np.testing.assert_allclose(body.mirror(once, standing), controls)
  np.testing.assert_allclose(
    body.mirror(standing[None], standing), standing[None]
  )


def test_placing_turns_the_whole_body():
  rng = np.random.default_rng(0)
  controls = np.tile(body.Style.draw(rng).standing, (3, 1))
  controls[:, body.FEET[0].start + 2] += (0.0, 0.1, 0.2)
  before = body.to_joints(controls)
  after = body.to_joints(body.place(controls, 1.0, 2.0, 90.0))
  # Left by a right angle: +z goes to +x, +x to -z.
  turned = before[..., [2, 1, 0]] * [1, 1, -1] + [1.0, 0.0, 2.0]
  np.testing.assert_allclose(after, turned, atol=1e-5)
