
import numpy as np
import pytest

from vimonet_jax.data import (
  builder,
  clips,
  dataset,
  motion_files,
  records,
  sources,
)
from vimonet_jax.motion import features
from vimonet_jax.synthetic import actions

WHOLE = '#0.0#0.0'


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
      'joints/000004.npy': _walk(45),
      'joints/silent.npy': _walk(81),
      'joints/textless.npy': _walk(81),
    },
    {
      '000000': 'a man walks.#a/DET#0.0#0.0\nsomeone goes on#x#nan#nan\n',
      'M000000': 'a man walks.#x' + WHOLE,
      '000001': 'a man steps.#x' + WHOLE,
      '000002': 'a long walk.#x' + WHOLE,
      '000003': f'all of it#x{WHOLE}\nthe end#x#2.0#9.0\na bit#x#1.0#2.0\n',
      '000004': 'a man walks on.#x' + WHOLE,
      'silent': '\n',
      'nowhere': 'a ghost walks.#x' + WHOLE,
    },
    {
      'train': ['000000', 'M000000', '000001', '000002', 'nowhere'],
      'val': ['000004'],
      'test': ['000003', 'textless', 'silent'],
    },
  )


def test_a_folder_is_listed_without_silent_loss(tiny):
  found = sources.humanml3d(tiny)
  ids = {split: [c.id for c in clips] for split, clips in found.splits.items()}
  assert ids == {
    'train': ['000000', 'M000000'],
    'val': ['000004'],
    'test': ['000003', '000003_40-80'],
  }
  assert found.of('missing') == ('nowhere', 'textless', 'silent')
  assert found.of('too_short') == ('000001', '000003_20-40')
  assert found.of('too_long') == ('000002',)
  assert found.summary() == (
    'present: 2 train, 1 val, 2 test; '
    'missing: 3 (nowhere textless silent; the first: no motion of nowhere); '
    'unreadable: 0; damaged: 0; '
    'too short: 2 (000001 000003_20-40); too long: 1 (000002)'
  )


def test_fewer_frames_can_be_asked_for(tiny):
  found = sources.humanml3d(tiny, min_frames=20)
  assert found.of('too_short') == ()
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


def test_an_m_alone_makes_no_mirror_image(tmp_path):
  names = ('Music_01', 'M00012', 'Mona', 'ona', 'Mo')
  _folder(
    tmp_path,
    {f'joints/{name}.npy': _walk(61) for name in names},
    dict.fromkeys(names, 'walks#x' + WHOLE),
    {'train': names},
  )
  read = [
    sources.read(clip, source='s', licence='l')
    for clip in sources.humanml3d(tmp_path).splits['train']
  ]
  mirrors = {r.id: r.provenance.get('mirror_of') for r in read}
  assert mirrors == {
    'Music_01': None, 'M00012': '00012', 'Mona': 'ona', 'ona': None, 'Mo': None
  }  # fmt: skip


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


@pytest.mark.parametrize('rows', [40, 196, 199])
def test_no_row_of_vectors_is_lost(tmp_path, rows):
  vectors = features.encode(_walk(rows + 1))
  _folder(
    tmp_path,
    {'new_joint_vecs/a.npy': vectors},
    {'a': 'walks#x' + WHOLE},
    {'val': ['a']},
  )
  (clip,) = sources.humanml3d(tmp_path).splits['val']
  record = sources.read(clip, source='s', licence='l')
  kept = min(rows, 196)
  np.testing.assert_array_equal(record.motion, vectors[:kept])
  # Where the last row leads to cannot be read, so there the body stands still.
  joints = features.recover(vectors)
  expected = np.concatenate([joints, joints[-1:]])[: kept + 1]
  np.testing.assert_array_equal(record.joints, expected)


def test_what_is_wrong_is_named(tiny, tmp_path):
  with pytest.raises(ValueError, match='no such folder'):
    sources.humanml3d(tmp_path / 'missing')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match=r'train\.txt, val\.txt.*found none'):
    sources.humanml3d(tmp_path / 'empty')
  (tmp_path / 'empty' / 'val.txt').write_text('a\nb\n')
  with pytest.raises(ValueError, match=r'missing: 2 \(a b; .*texts/a\.txt\)'):
    sources.humanml3d(tmp_path / 'empty')
  (tiny / 'texts' / '000001.txt').write_text('good#x#0#0\na man walks\n')
  with pytest.raises(ValueError, match=r"000001\.txt, line 2.*'a man walks'"):
    sources.humanml3d(tiny)
  (tiny / 'texts' / '000001.txt').write_text('a#x' + WHOLE)
  (tiny / 'joints' / '000001.npy').write_bytes(b'')
  with pytest.raises(ValueError, match=r'000001\.npy: expected an array'):
    sources.humanml3d(tiny)
  np.save(tiny / 'joints' / '000001.npy', np.zeros((50, 66)))
  with pytest.raises(ValueError, match=r'000001: expected \[T, 22.*\[50, 66\]'):
    sources.humanml3d(tiny)
  (tiny / 'joints' / '000001.npy').unlink()
  (tiny / 'joints.npz').write_bytes(b'PK')
  with pytest.raises(ValueError, match=r'joints\.npz: expected an archive'):
    sources.humanml3d(tiny)


def test_split_files_of_other_editors(tiny):
  (tiny / 'val.txt').write_bytes(b'\xef\xbb\xbf000004\r\n')
  assert sources.humanml3d(tiny).splits['val'][0].id == '000004'
  (tiny / 'val.txt').write_bytes('naïve'.encode('latin-1'))
  with pytest.raises(ValueError, match=r'val\.txt: expected text in UTF-8'):
    sources.humanml3d(tiny)


def test_names_may_have_blanks(tiny):
  for place, ending in (('joints', 'npy'), ('texts', 'txt')):
    (tiny / place / f'000004.{ending}').rename(tiny / place / f'a b.{ending}')
  (tiny / 'val.txt').write_text('a b\n')
  assert [c.id for c in sources.humanml3d(tiny).splits['val']] == ['a b']


def test_a_folder_is_read_once_and_what_was_replaced_again(tiny, monkeypatch):
  found = sources.humanml3d(tiny)
  load, read = motion_files.load, []

  def counted(root, file, member):
    read.append(member)
    return load(root, file, member)

  monkeypatch.setattr(motion_files, 'load', counted)
  assert sources.humanml3d(tiny) == found
  assert read == []
  np.save(tiny / 'joints' / '000004.npy', _walk(50))
  assert sources.humanml3d(tiny).digest() != found.digest()
  assert read == ['000004']


def test_a_clip_of_two_splits_is_refused(tiny):
  names = (tiny / 'test.txt').read_text()
  (tiny / 'test.txt').write_text(f'{names}\n000000\n')
  with pytest.raises(ValueError, match='found 000000 2 times') as e:
    sources.humanml3d(tiny)
  assert 'take it out of one' in str(e.value)


def test_a_mirror_image_in_another_split_is_refused(tiny):
  for name, split in (('train', '000000'), ('val', '000004\nM000000')):
    (tiny / f'{name}.txt').write_text(f'{split}\n')
  with pytest.raises(ValueError, match='M000000 in val.txt and 000000 in'):
    sources.humanml3d(tiny)


def test_joints_in_another_unit_are_refused(tmp_path):
  clips = {f'joints/{name}.npy': 100 * _walk(61) for name in 'abc'}
  texts = dict.fromkeys('abc', 'walks#x' + WHOLE)
  _folder(tmp_path, clips, texts, {'train': ['a'], 'val': ['b'], 'test': ['c']})
  with pytest.raises(ValueError, match='legs of 0.3 to 1.3 m, found 8'):
    sources.humanml3d(tmp_path)


@pytest.mark.parametrize('place', ['joints', 'new_joint_vecs', 'joints.npz'])
def test_a_damaged_clip_is_left_out_and_counted(tmp_path, place):
  """As 007975 of HumanML3D is, which has NaN from some frame on."""
  clip = _walk(61)
  clip = features.encode(clip) if place == 'new_joint_vecs' else clip
  broken = clip.copy()
  broken[50:] = np.nan
  clips = {name: clip for name in ('000000', '000001', '000002')}
  clips['007975'] = broken
  names = list(clips)
  if place.endswith('npz'):
    clips = {place: clips}
  else:
    clips = {f'{place}/{name}.npy': array for name, array in clips.items()}
  _folder(
    tmp_path / 'mine',
    clips,
    dict.fromkeys(names, 'walks#x' + WHOLE),
    {'train': ['000000', '007975'], 'val': ['000001'], 'test': ['000002']},
  )
  config = sources.Folder(str(tmp_path / 'mine'), source='m', licence='CC0')
  builder.build(config, tmp_path / 'data', processes=1, progress=False)
  before = (tmp_path / 'data' / 'vimos' / 'folder' / builder.SURVEY).read_text()
  assert 'damaged: 1 (007975)' in before
  train = dataset.open(tmp_path / 'data', 'train')
  assert [record.id for record in train] == ['000000']


def test_a_body_that_cannot_be_read_names_its_file_and_a_way_out(tiny):
  joints = _walk(61)
  joints[7, 5] = joints[7, 2]
  np.save(tiny / 'joints' / '000000.npy', joints)
  clip = sources.humanml3d(tiny).splits['train'][0]
  with pytest.raises(
    ValueError, match=r'joints/000000\.npy.* or take 000000 out of train\.txt'
  ):
    sources.read(clip, source='s', licence='l')


@pytest.mark.parametrize(
  ('val', 'reason'),
  [(None, 'missing: 3'), ('000001', r'too short: 2 \(000001')],
)
def test_a_split_without_clips_is_refused_before_the_build(tiny, val, reason):
  (tiny / 'val.txt').unlink()
  if val:
    (tiny / 'val.txt').write_text(val)
    (tiny / 'train.txt').write_text('000000')
  config = sources.Folder(str(tiny), source='mine', licence='CC0')
  message = rf'none for val .*{reason}.* val\.txt, or lower data\.min_frames'
  with pytest.raises(ValueError, match=message):
    config.splits()


def test_bodies_that_lie_because_z_is_up_are_refused(tiny):
  def turn(name):
    path = tiny / 'joints' / f'{name}.npy'
    x, y, z = np.moveaxis(np.load(path), -1, 0)
    np.save(path, np.stack([-x, z, y], axis=-1))

  # Some may lie, up to as many as stand.
  (tiny / 'texts' / '000003.txt').write_text('all of it#x' + WHOLE)
  for name in ('000000', 'M000000'):
    turn(name)
    assert len(sources.humanml3d(tiny).splits['train']) == 2
  turn('000003')
  with pytest.raises(ValueError, match='3 of 4 clips standing along z; turn'):
    sources.humanml3d(tiny)


@pytest.mark.parametrize('place', ['joints', 'joints.npz'])
def test_a_clip_that_was_mended_is_other_data(tmp_path, place):
  clips = {name: _walk(61) for name in 'abc'}
  if place == 'joints':
    files = {f'joints/{name}.npy': array for name, array in clips.items()}
  else:
    files = {place: clips}
  texts = dict.fromkeys(clips, 'walks#x' + WHOLE)
  splits = {'train': ['a'], 'val': ['b'], 'test': ['c']}
  _folder(tmp_path, files, texts, splits)
  config = sources.Folder(str(tmp_path), source='mine', licence='CC0')
  before = config.identity()
  assert config.identity() == before
  for file in tmp_path.rglob('*.np[yz]'):
    file.touch()  # A copy has other times.
  assert config.identity() == before
  clips['b'][30, 4] += 0.01
  _folder(tmp_path, files, texts, splits)
  assert config.identity() != before


def test_a_folder_becomes_a_dataset(tiny, tmp_path):
  config = sources.Folder(str(tiny), source='mine', licence='CC0')
  builder.build(config, tmp_path / 'data', processes=1, progress=False)
  train = dataset.open(tmp_path / 'data', 'train')
  assert [record.id for record in train] == ['000000', 'M000000']
  clip = sources.humanml3d(tiny).splits['train'][0]
  expected = sources.read(clip, source='mine', licence='CC0')
  np.testing.assert_array_equal(train[0].motion, expected.motion)
  np.testing.assert_array_equal(train[0].joints, expected.joints)
  assert train[0].frames is None
  assert train[0].turns == expected.turns
  assert len(dataset.open(tmp_path / 'data', 'test')) == 2

  moved = tiny.rename(tmp_path.parent / f'{tmp_path.name}-moved')
  config = sources.Folder(str(moved), source='mine', licence='CC0')
  data = moved / 'data'
  builder.build(config, data, processes=1, progress=False)
  (moved / 'texts' / '000000.txt').write_text('another caption#x' + WHOLE)
  with pytest.raises(ValueError, match='content=.* instead of'):
    builder.build(config, data, processes=1, progress=False)


def test_the_mocap_pack_is_whole(shared_data):
  path = shared_data / 'mocap'
  found = sources.humanml3d(path, min_frames=20)
  sizes = {split: len(clips) for split, clips in found.splits.items()}
  assert sizes == {'train': 190, 'val': 30, 'test': 24}
  assert found.of('too_long') == ('cmu_14_21_s000',)
  assert (found.of('missing'), found.of('too_short')) == ((), ())
  found = sources.humanml3d(path)
  assert sum(map(len, found.splits.values())) == 195
  assert len(found.of('too_short')) == 49
  for kept in found.splits.values():
    record = sources.read(kept[0], source='cmu', licence='free')
    assert 40 <= len(record.motion) <= 196
    assert len(record.joints) == len(record.motion) + 1
    assert record.turns


def test_official_vectors_come_back(shared_data):
  path = shared_data / 'mocap' / 'oracle'
  names = sorted(p.stem for p in (path / 'new_joint_vecs').glob('*.npy'))
  clip = clips.Clip(
    names[0], 'test', str(path), f'new_joint_vecs/{names[0]}.npy', names[0],
    0, 199, ('walks',),
  )  # fmt: skip
  record = sources.read(clip, source='s', licence='l')
  vectors = np.load(path / clip.file)
  np.testing.assert_array_equal(record.motion, vectors[: len(record.motion)])
