import numpy as np
import pytest

from vimonet_jax.motion import checks, features, readers, skeleton
from vimonet_jax.synthetic import actions

HORIZONTAL = np.array([1.0, 0.0, 1.0])


def _kinds(joints):
  return [kind for kind, _ in checks.find(joints)]


def _along(joints, path_T3):
  """The same body on another path over the floor."""
  return joints - joints[:, :1] * HORIZONTAL + path_T3[:, None]


def _path(joints):
  return joints[:, 0] * HORIZONTAL


# What people do.


def test_people_who_move_as_they_should_are_not_found_odd(clips, stroll):
  for joints in (*clips, stroll(), 0.8 * stroll(), stroll() - [3, 0, 2]):
    assert not checks.find(joints)


def _real(shared):
  """All real motions: name and joints as they are read."""
  with np.load(shared('mocap/joints.npz')) as cuts:
    assert len(cuts.files) == 245
    yield from cuts.items()
  for pattern, fps in (
    ('mocap/raw/*.[ab][mv][ch]', None), ('mocap/oracle/new_joint_vecs/*', None),
    ('humanml3d/new_joint_vecs/*', None), ('retargeted/*_ref.npy', None),
    ('retargeted/*joints*.npy', 20), ('babel_segments/*.npy', 30),
    ('humanml3d/004822*', 20),
  ):  # fmt: skip
    folder, _, name = pattern.rpartition('/')
    paths = sorted(shared(folder).glob(name))
    assert paths, pattern
    for path in paths:
      yield path.name, readers.read(path, fps=fps).joints


def test_no_real_motion_is_found_odd(shared):
  odd = {name: _kinds(joints) for name, joints in _real(shared)}
  assert len(odd) >= 299
  assert not {name: kinds for name, kinds in odd.items() if kinds}


def test_a_fault_of_the_path_or_the_rate_is_found_in_real_motions(shared):
  """Not in all: who stands has no path, and slow people may be fast ones."""
  with np.load(shared('mocap/joints.npz')) as cuts:
    walks = [x for x in cuts.values() if np.ptp(x[:, 0], axis=0).max() > 1]
  faults = {
    'path': [_along(x, -_path(x)) for x in walks],
    'speed': [x[::10] for x in walks if len(x) > 80],
  }
  for kind, motions in faults.items():
    share = np.mean([kind in _kinds(joints) for joints in motions])
    assert share > {'path': 0.45, 'speed': 0.9}[kind], (kind, share)


@pytest.mark.parametrize('height_m', [1.5, 1.9])
def test_a_height_is_told_from_the_legs(height_m, stroll):
  legs_m = skeleton.BONE_LENGTHS_J[[4, 5, 7, 8]].sum() / 2
  joints = stroll() * height_m * 0.491 / legs_m
  assert checks.height_m(joints) == pytest.approx(height_m)
  lying = joints @ readers.TO_Y_UP['z']
  assert checks.height_m(lying) == pytest.approx(height_m)


# What they do not; each fault has one cause, which the sentence names.


def _turned(joints, degrees):
  q = skeleton.quat_from_axis_angle((0, 1, 0), np.radians(degrees))
  return _along(joints, skeleton.quat_rotate(q, _path(joints)))


def _jumping(joints):
  joints = joints.copy()
  joints[20:] += [0.5, 0, 0.5]
  return joints


def _dipping(joints):
  joints = joints.copy()
  joints[7, skeleton.INDEX['left_foot'], 1] -= 0.4
  return joints


FAULTS = {
  'a rest pose': (
    lambda x: np.repeat(x[:1], 60, axis=0), 'still', 'animation was left out',
  ),
  'z up': (
    lambda x: x @ readers.TO_Y_UP['z'], 'axes', 'read the joints with --up=z.',
  ),
  'x up': (
    lambda x: x @ readers.TO_Y_UP['x'], 'axes', 'read the joints with --up=x.',
  ),
  'y down': (
    lambda x: x * [1, -1, -1], 'axes', 'along -y throughout',
  ),
  'a mirror image': (
    lambda x: x[:, skeleton.MIRROR], 'mirrored', 'left and right are exchanged',
  ),
  'a dwarf': (lambda x: 0.5 * x, 'size', 'found legs of one of 0.8'),
  'joints about the pelvis': (
    lambda x: x - x[:, :1] + [0, 0.9, 0], 'in place', 'relative to it',
  ),
  'a path backward': (
    lambda x: _along(x, -_path(x)), 'path', 'turned from them by 180 degrees',
  ),
  'a path aside': (
    lambda x: _turned(x, 90), 'path', 'turned from them by 90 degrees',
  ),
  'a path in inches': (
    lambda x: _along(x, _path(x) * 0.0254), 'path', 'times as long on sliding',
  ),
  'a rate off by ten': (lambda x: x[::10], 'speed', 'pass the --fps'),
  'two takes': (_jumping, 'jump', '0.71 m within 0.05 s at 0.95 s'),
  'a foot in the floor': (
    _dipping, 'floor', 'found left_foot 0.4 m below it at 0.35 s',
  ),
  'an origin in the head': (lambda x: x - [0, 1.6, 0], 'floor', '1.6 m below'),
  'somebody in the air': (lambda x: x + [0, 2, 0], 'floor', '2 m above'),
}  # fmt: skip


@pytest.fixture(scope='module')
def walking():
  """Seconds of somebody who walks straight on, upon a floor at 0."""
  program = [actions.Action('walk', direction='forward', speed='quickly')] * 3
  joints = actions.animate(program, np.random.default_rng(3)).joints
  return joints.astype(np.float64) - [0, joints[..., 1].min(), 0]


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_is_found_and_its_cause_named(fault, walking):
  make, kind, words = FAULTS[fault]
  assert not checks.find(walking)
  found = checks.find(make(walking))
  assert [finding.kind for finding in found] == [kind]
  (sentence,) = (finding.sentence for finding in found)
  assert words in sentence
  expected, found_words, rest = sentence.partition(', found ')
  assert expected.startswith('Expected ')
  assert found_words
  assert '; ' in rest, 'nothing to do is said'
  assert sentence.endswith('.')
  assert '. ' not in sentence


def test_features_of_a_faulty_body_are_found_odd(walking):
  """Joints are refused by `readers` in part; features come as they are."""
  for joints, kind in (
    (walking @ readers.TO_Y_UP['z'], 'axes'),
    (walking[:, skeleton.MIRROR], 'mirrored'),
  ):
    assert _kinds(features.recover(features.encode(joints)))[:1] == [kind]
