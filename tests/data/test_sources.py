import pathlib

import numpy as np
import pytest

from vimonet_jax.data import builder, records, sources
from vimonet_jax.motion import features
from vimonet_jax.synthetic import actions

SHARED = pathlib.Path(__file__).parents[3] / 'shared' / 'data'
WHOLE = '#0.0#0.0'


def _mocap():
  path = SHARED / 'mocap'
  if not path.exists():
    pytest.skip('needs mocap of the shared test data')
  return path


def _walk(frames):
  """Joints [frames, 22, 3] of somebody who walks, back and forth if need be."""
  program = [actions.Action('walk', direction='forward', speed='slowly')]
  joints = actions.animate(program, np.random.default_rng(0)).joints
  joints = np.pad(joints, ((0, frames), (0, 0), (0, 0)), mode='reflect')
  return joints[:frames].astype(np.float32)


def _folder(root, clips, texts, splits):
  """Writes a folder; clips by path below it, each an array."""
  for name, array in clips.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(array, dict):
      np.savez(path, **array)
    else:
      np.save(path, array)
  (root / 'texts').mkdir(exist_ok=True)
  for name, text in texts.items():
    (root / 'texts' / f'{name}.txt').write_text(text, encoding='utf-8')
  for split, names in splits.items():
    (root / f'{split}.txt').write_text('\n'.join(names) + '\n')
  return root


@pytest.fixture
def tiny(tmp_path):
  return _folder(
    tmp_path,
    {
      'joints/000000.npy': _walk(61),
      'joints/M000000.npy': _walk(61) * [-1, 1, 1],
      'joints/000001.npy': _walk(39),
      'joints/000002.npy': _walk(250),
      'joints/000003.npy': _walk(81),
      'joints/silent.npy': _walk(81),
      'joints/textless.npy': _walk(81),
    },
    {
      '000000': 'a man walks.#a/DET#0.0#0.0\nsomeone goes on#x#nan#nan\n',
      'M000000': 'a man walks.#x' + WHOLE,
      '000001': 'a man steps.#x' + WHOLE,
      '000002': 'a long walk.#x' + WHOLE,
      '000003': f'all of it#x{WHOLE}\nthe end#x#2.0#9.0\na bit#x#1.0#2.0\n',
      'silent': '\n',
      'nowhere': 'a ghost walks.#x' + WHOLE,
    },
    {
      'train': ['000000', 'M000000', '000001', '000002', 'nowhere'],
      'test': ['000003', 'textless', 'silent'],
    },
  )


def test_a_folder_is_listed_without_silent_loss(tiny):
  found = sources.humanml3d(tiny)
  ids = {split: [c.id for c in clips] for split, clips in found.splits.items()}
  assert ids == {
    'train': ['000000', 'M000000'],
    'test': ['000003', '000003_40-80'],
  }
  assert found.missing == ('nowhere', 'textless', 'silent')
  assert found.too_short == ('000001', '000003_20-40')
  assert found.too_long == ('000002',)
  assert found.summary() == (
    'present: 2 train, 2 test; missing: 3 (nowhere textless silent); '
    'too short: 2 (000001 000003_20-40); too long: 1 (000002)'
  )


def test_fewer_frames_can_be_asked_for(tiny):
  found = sources.humanml3d(tiny, min_frames=20)
  assert found.too_short == ()
  short = {clip.id: clip for clip in found.splits['train']}['000001']
  record = sources.read(short, source='s', licence='l')
  assert len(record.motion) == 36


def test_a_record_has_features_joints_and_a_turn_for_each_caption(tiny):
  clip = sources.humanml3d(tiny).splits['train'][0]
  record = sources.read(clip, source='my folder', licence='CC0')
  np.testing.assert_array_equal(record.motion, features.encode(_walk(61)))
  np.testing.assert_array_equal(record.joints, _walk(61))
  assert record.motion.dtype == record.joints.dtype == np.float32
  assert [turn.answer for turn in record.turns] == [
    'a man walks.',
    'someone goes on',
  ]
  assert {turn.domain for turn in record.turns} == {'motion_caption'}
  assert len({turn.question for turn in record.turns}) == 2
  assert record.source == 'my folder'
  assert record.provenance['licence'] == 'CC0'


def test_part_of_a_clip_is_cut_after_encoding(tiny):
  whole, part = sources.humanml3d(tiny).splits['test']
  whole = sources.read(whole, source='s', licence='l')
  part = sources.read(part, source='s', licence='l')
  np.testing.assert_array_equal(part.motion, whole.motion[40:80])
  np.testing.assert_array_equal(part.joints, whole.joints[40:81])
  assert [turn.answer for turn in part.turns] == ['the end']
  assert [turn.answer for turn in whole.turns] == ['all of it']


def test_a_mirrored_clip_says_whose_mirror_it_is(tiny):
  clip = sources.humanml3d(tiny).splits['train'][1]
  record = sources.read(clip, source='s', licence='l')
  assert record.provenance['mirror_of'] == '000000'


@pytest.mark.parametrize('place', ['new_joints/a.npy', 'joints.npz'])
def test_other_places_of_joints(tmp_path, place):
  joints = _walk(60)
  clips = {place: {'a': joints} if place.endswith('npz') else joints}
  _folder(tmp_path, clips, {'a': 'walks#x' + WHOLE}, {'val': ['a']})
  (clip,) = sources.humanml3d(tmp_path).splits['val']
  record = sources.read(clip, source='s', licence='l')
  expected = records.trim_motion(features.encode(joints))
  np.testing.assert_array_equal(record.motion, expected)
  np.testing.assert_array_equal(record.joints, joints[: len(expected) + 1])


def test_vectors_are_taken_as_they_are_and_before_joints(tmp_path):
  vectors = features.encode(_walk(62))
  clips = {
    'new_joint_vecs/a.npy': vectors.astype(np.float64),
    'joints/a.npy': _walk(90),
  }
  _folder(tmp_path, clips, {'a': 'walks#x' + WHOLE}, {'val': ['a']})
  (clip,) = sources.humanml3d(tmp_path).splits['val']
  record = sources.read(clip, source='s', licence='l')
  np.testing.assert_array_equal(record.motion, vectors[:60])
  np.testing.assert_array_equal(record.joints, features.recover(vectors)[:61])


def test_what_is_wrong_is_named(tiny, tmp_path):
  with pytest.raises(ValueError, match='no such folder'):
    sources.humanml3d(tmp_path / 'missing')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match=r'train\.txt, val\.txt.*found none'):
    sources.humanml3d(tmp_path / 'empty')
  (tmp_path / 'empty' / 'val.txt').write_text('a\nb\n')
  with pytest.raises(ValueError, match=r'missing: 2 \(a b\)'):
    sources.humanml3d(tmp_path / 'empty')
  (tiny / 'texts' / '000001.txt').write_text('good#x#0#0\na man walks\n')
  with pytest.raises(ValueError, match=r"000001\.txt, line 2.*'a man walks'"):
    sources.humanml3d(tiny)
  (tiny / 'texts' / '000001.txt').write_text('a#x' + WHOLE)
  (tiny / 'joints' / '000001.npy').write_bytes(b'')
  with pytest.raises(ValueError, match=r'000001\.npy: expected an array'):
    sources.humanml3d(tiny)
  np.save(tiny / 'joints' / '000001.npy', np.zeros((50, 66)))
  clip = sources.humanml3d(tiny).splits['train'][2]
  with pytest.raises(ValueError, match=r'joints/000001\.npy, 000001: '):
    sources.read(clip, source='s', licence='l')


def test_a_folder_becomes_a_dataset(tiny, tmp_path):
  config = sources.Folder(str(tiny), source='mine', licence='CC0')
  builder.build(config, tmp_path / 'data', processes=1, progress=False)
  train = builder.open(tmp_path / 'data', 'train')
  assert [record.id for record in train] == ['000000', 'M000000']
  clip = sources.humanml3d(tiny).splits['train'][0]
  expected = sources.read(clip, source='mine', licence='CC0')
  np.testing.assert_array_equal(train[0].motion, expected.motion)
  np.testing.assert_array_equal(train[0].joints, expected.joints)
  assert train[0].frames is None
  assert train[0].turns == expected.turns
  assert len(builder.open(tmp_path / 'data', 'test')) == 2

  moved = tiny.rename(tmp_path.parent / f'{tmp_path.name}-moved')
  config = sources.Folder(str(moved), source='mine', licence='CC0')
  data = moved / 'data'
  builder.build(config, data, processes=1, progress=False)
  (moved / 'texts' / '000000.txt').write_text('another caption#x' + WHOLE)
  with pytest.raises(ValueError, match='content=.* instead of'):
    builder.build(config, data, processes=1, progress=False)


def test_the_mocap_pack_is_whole():
  path = _mocap()
  found = sources.humanml3d(path, min_frames=20)
  sizes = {split: len(clips) for split, clips in found.splits.items()}
  assert sizes == {'train': 190, 'val': 30, 'test': 24}
  assert found.too_long == ('cmu_14_21_s000',)
  assert (found.missing, found.too_short) == ((), ())
  found = sources.humanml3d(path)
  assert sum(map(len, found.splits.values())) == 195
  assert len(found.too_short) == 49
  for clips in found.splits.values():
    record = sources.read(clips[0], source='cmu', licence='free')
    assert 40 <= len(record.motion) <= 196
    assert len(record.joints) == len(record.motion) + 1
    assert record.turns


def test_official_vectors_come_back():
  path = _mocap() / 'oracle'
  names = sorted(p.stem for p in (path / 'new_joint_vecs').glob('*.npy'))
  clip = sources.Clip(
    names[0], 'test', str(path), f'new_joint_vecs/{names[0]}.npy', names[0],
    0, 199, ('walks',),
  )  # fmt: skip
  record = sources.read(clip, source='s', licence='l')
  vectors = np.load(path / clip.file)
  np.testing.assert_array_equal(record.motion, vectors[: len(record.motion)])
