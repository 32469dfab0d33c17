import numpy as np
import pytest

from vimonet_jax.data import amass, builder, dataset, kin, survey
from vimonet_jax.motion import features, skeleton
from vimonet_jax.synthetic import actions

TEXT = 'a man walks.#x#0.0#0.0\n'


def _walk(frames):
  """Joints [frames, 22, 3], as HumanML3D saves those of a trial."""
  program = [actions.Action('walk', direction='forward', speed='slowly')]
  joints = actions.animate(program, np.random.default_rng(0)).joints
  joints = np.pad(joints, ((0, frames), (0, 0), (0, 0)), mode='reflect')
  return joints[:frames].astype(np.float32) * np.float32([-1, 1, 1])


def _home(root, index, splits, texts=None):
  root.mkdir(exist_ok=True)
  lines = ['source_path,start_frame,end_frame,new_name']
  lines += [
    f'./pose_data/{path},{start},{stop},{name}.npy'
    for name, (path, start, stop) in index.items()
  ]
  (root / 'index.csv').write_text('\n'.join(lines) + '\n')
  for split, names in splits.items():
    (root / f'{split}.txt').write_text('\n'.join(names) + '\n')
  (root / 'texts').mkdir(exist_ok=True)
  named = [name for names in splits.values() for name in names]
  for name, text in {**dict.fromkeys(named, TEXT), **(texts or {})}.items():
    (root / 'texts' / f'{name}.txt').write_text(text)
  return root


def _trials(root, trials):
  for file, joints in trials.items():
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    np.save(root / file, joints)
  return root


@pytest.fixture
def two(tmp_path):
  """AMASS's folder and HumanML3D's, with one of everything."""
  damaged = _walk(120)
  damaged[80] = np.nan
  root = _trials(
    tmp_path / 'amass',
    {
      'KIT/3/a_poses.npy': _walk(150),
      'TotalCapture/s1/b_poses.npy': _walk(150),
      'CMU/1/damaged_poses.npy': damaged,
      'humanact12/humanact12/P01.npy': _walk(60) * [-1, 1, 1],
    },
  )
  np.savez(root / 'CMU/1/broken_poses.npz', poses=np.zeros((90, 156)))
  whole = (root / 'CMU/1/broken_poses.npz').read_bytes()
  (root / 'CMU/1/broken_poses.npz').write_bytes(whole[:5000])
  index = {
    '000000': ('KIT/3/a_poses.npy', 0, 60),
    '000001': ('KIT/3/a_poses.npy', 50, 150),
    '000002': ('TotalCapture/s1/b_poses.npy', 10, 100),
    '000003': ('humanact12/humanact12/P01.npy', 0, -1),
    '000004': ('CMU/1/damaged_poses.npy', 20, 80),
    '000005': ('CMU/1/damaged_poses.npy', 20, 90),
    '000006': ('CMU/1/broken_poses.npy', 0, 90),
    '000007': ('CMU/1/nowhere_poses.npy', 0, 90),
    '000008': ('KIT/3/a_poses.npy', 100, 190),
    '000009': ('KIT/3/a_poses.npy', 100, 152),
    '000010': ('KIT/3/a_poses.npy', 0, 40),
    '000011': ('KIT/3/a_poses.npy', 0, 60),
  }
  home = _home(
    tmp_path / 'h',
    index,
    {
      'train': ['000000', 'M000000', '000001', '000005', '000006', '000007'],
      'val': ['000002', '000008', '000009', '000010'],
      'test': ['000003', '000004', '000011', '999999'],
    },
    {
      '000001': f'{TEXT}a part.#x#1.0#3.5\n',
      'M000000': 'a man walks the other way.#x#0#0\n',
      '000011': '\n',
    },
  )
  return root, home


def _source(two, **others):
  return amass.Amass(str(two[0]), str(two[1]), licence='research', **others)


def test_whatever_is_named_is_a_clip_or_left_out_for_a_reason(two):
  source = _source(two)
  splits = source.splits()
  ids = {split: [clip.id for clip in clips] for split, clips in splits.items()}
  assert ids == {
    'train': ['000000', 'M000000', '000001', '000001_20-70'],
    'val': ['000002', '000009'],
    'test': ['000003', '000004'],
  }
  text = survey.text([source.survey()])
  rows = [' '.join(line.split()) for line in text.splitlines()[:4]]
  assert rows == [
    'source split present missing unreadable left out turns',
    'amass train 4 1 2 0 4',
    'amass val 2 0 1 1 2',
    'amass test 2 2 0 0 2',
  ]
  for line in (
    'missing: 3 (000007 000011 999999; the first: no file of CMU/1/nowhere)',
    'unreadable: 2 (000006 000008; the first: CMU/1/broken_poses.npz: expected '
    'a whole NumPy file',
    'damaged: 1 (000005)',
    'too short: 1 (000010)',
  ):
    assert f'amass, {line}' in text
  whys = {clip.id: clip.why for clip in source.find().left_out}
  assert whys['000008'].startswith(
    'KIT/3/a_poses.npy: expected frames 100 to 190 at 20 fps, found 150'
  )
  assert whys['999999'] == '999999 is not in index.csv'
  assert whys['000011'] == 'no caption in texts/000011.txt'


def test_a_clip_is_cut_turned_and_described(two):
  source = _source(two)
  records = {
    clip.id: source.make(clip)
    for clips in source.splits().values()
    for clip in clips
  }
  trial = _walk(150) * [-1, 1, 1]
  for name, start, stop in (('000000', 0, 60), ('000002', 30, 120)):
    joints = trial[start:stop].astype(np.float32)
    motion = features.encode(joints)
    motion = motion[: len(motion) // 4 * 4]
    np.testing.assert_array_equal(records[name].motion, motion)
    np.testing.assert_array_equal(
      records[name].joints, joints[: len(motion) + 1]
    )
  # HumanAct12 is whole and neither cut nor turned.
  np.testing.assert_allclose(records['000003'].joints, trial[:57], atol=1e-6)
  part = records['000001_20-70']
  whole = features.encode(trial[50:150].astype(np.float32))
  np.testing.assert_array_equal(part.motion, whole[20:68])
  assert [turn.answer for turn in part.turns] == ['a part.']
  assert part.provenance == {
    'licence': 'research', 'file': 'KIT/3/a_poses.npy', 'frames': [20, 70]
  }  # fmt: skip


def test_an_m_in_front_is_the_mirror_image(two):
  source = _source(two)
  clip, mirrored, *_ = source.splits()['train']
  record, image = source.make(clip), source.make(mirrored)
  np.testing.assert_array_equal(image.joints, skeleton.mirror(record.joints))
  left, right = (
    np.abs(np.diff(record.joints[:, skeleton.INDEX[f'{side}_foot']], axis=0))
    for side in ('left', 'right')
  )
  other = image.joints[:, skeleton.INDEX['right_foot']]
  np.testing.assert_allclose(np.abs(np.diff(other, axis=0)), left, atol=1e-6)
  assert np.abs(left - right).max() > 0.05
  assert image.provenance['mirror_of'] == '000000'
  assert image.turns[0].answer == 'a man walks the other way.'
  whole = _walk(60)  # Saved joints are mirrored once, and here once more.
  whole = skeleton.mirror(whole * np.float32([-1, 1, 1]))
  np.testing.assert_allclose(
    image.motion, features.encode(whole)[: len(image.motion)], atol=1e-6
  )


@pytest.mark.parametrize('subset', ['KIT', 'Eyes_Japan_Dataset'])
def test_the_official_clip_comes_out_as_published(
  tmp_path, shared_data, subset
):
  """004822, put back into a trial that it is the middle of."""
  official = np.load(
    shared_data / 'humanml3d' / '004822_raw_joints_and_features.npz'
  )
  lead_in = 60 * (subset == 'Eyes_Japan_Dataset')
  trial = np.pad(
    official['joints'] * np.float32([-1, 1, 1]),
    ((lead_in + 30, 20), (0, 30), (0, 0)),
    mode='edge',
  )
  root = _trials(tmp_path / 'amass', {f'{subset}/s/a_poses.npy': trial})
  names = ['004822', 'M004822']
  home = _home(
    tmp_path / 'h',
    {'004822': (f'{subset}/s/a_poses.npy', 30, 230)},
    {'train': names},
  )
  there = amass.look(root, home)
  assert [clip.id for clip in there.of('too_long')] == []
  clip, mirrored = there.splits['train']
  assert clip.stop == len(official['hml263']) == 199
  record = amass.Amass(str(root), str(home), 'l').make(clip)
  np.testing.assert_allclose(record.motion, official['hml263'][:196], atol=1e-4)
  image = amass.Amass(str(root), str(home), 'l').make(mirrored)
  expected = features.encode(skeleton.mirror(official['joints']))[:196]
  np.testing.assert_allclose(image.motion, expected, atol=1e-5)


def test_content_follows_files_and_the_index_but_not_the_folder(two, tmp_path):
  before = _source(two).identity()
  assert _source(two).identity() == before
  (two[0] / 'KIT/3/a_poses.npy').touch()
  assert _source(two).identity() == before
  moved = two[0].rename(tmp_path / 'moved'), two[1].rename(tmp_path / 'h2')
  assert _source(moved).identity() == before
  np.save(moved[0] / 'KIT/3/a_poses.npy', _walk(151))
  changed = _source(moved).identity()
  assert changed != before
  index = moved[1] / 'index.csv'
  index.write_text(index.read_text().replace('50,150', '49,149'))
  assert _source(moved).identity() not in (before, changed)


def test_a_build_reads_the_same_whatever_makes_it(two, tmp_path):
  source = _source(two)
  builder.build(source, tmp_path / 'data', processes=1, progress=False)
  train = dataset.open(tmp_path / 'data', 'train')
  clips = source.splits()['train']
  assert [record.id for record in train] == [clip.id for clip in clips]
  np.testing.assert_array_equal(train[2].motion, source.make(clips[2]).motion)
  builder.build(source, tmp_path / 'data', processes=1, progress=False)


def test_an_index_beside_the_texts_folder_is_found(two):
  (two[1] / 'index.csv').rename(two[1].parent / 'index.csv')
  assert amass.find_index(two[1]) == two[1].parent / 'index.csv'
  (two[1].parent / 'index.csv').unlink()
  with pytest.raises(ValueError, match=r'index\.csv in it or beside it'):
    _source(two).splits()


def test_folders_without_a_clip_or_a_model_are_refused(two, tmp_path):
  with pytest.raises(ValueError, match='folder that holds CMU, KIT'):
    amass.look(tmp_path / 'nothing', two[1])
  with pytest.raises(ValueError, match=r'female/model\.npz'):
    _source(two, body_models=str(tmp_path)).splits()
  (two[1] / 'val.txt').write_text('000010\n')
  with pytest.raises(ValueError, match='found none for val'):
    _source(two).splits()


def test_cuts_are_named_by_humanml3d_s_ids(two):
  source = _source(two)
  index = kin.read_index(two[1] / 'index.csv')
  cuts = [
    kin.resolve(source.cut(clip), index) for clip in source.splits()['train']
  ]
  assert [cut[1:5] for cut in cuts] == [
    ('000000', 'KIT/3/a', 0, 59),
    ('000000', 'KIT/3/a', 0, 59),
    ('000001', 'KIT/3/a', 50, 149),
    ('000001', 'KIT/3/a', 70, 120),
  ]
