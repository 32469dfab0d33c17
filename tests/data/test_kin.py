import collections
import math

import numpy as np
import pytest

from vimonet_jax.data import kin


def _member(source, name, split, *cut, published=None, part=''):
  trial, start, stop = cut
  cut = kin.Cut(published or source, name, trial, start, stop, part)
  return kin.Member(source, name, split, cut)


def _left(lost):
  return {(one.member.source, one.member.id): one.relation for one in lost}


@pytest.fixture(scope='module')
def official(shared_data):
  """HumanML3D's index, and all of its clips with the split that they have."""
  folder = shared_data / 'humanml3d'
  index = kin.read_index(folder / 'index.csv')
  members = [
    kin.Member('h', name, split, kin.resolve(kin.humanml3d(name), index))
    for split in kin.SPLITS
    for name in (folder / f'{split}.txt').read_text().split()
  ]
  return index, members


@pytest.mark.parametrize(
  'path',
  [
    './pose_data/MPI_HDM05/bd/HDM_bd_03 b_poses.npy',
    'MPI_HDM05/bd/HDM_bd_03 b_poses.npz',
    'HDM05/MPI_HDM05/bd/HDM_bd_03 b_poses.npz',
    'HDM05/bd/HDM_bd_03_b_stageii.npz',
  ],
)
def test_a_trial_has_one_name_in_all_releases(path):
  assert kin.trial(path) == 'MPI_HDM05/bd/HDM_bd_03_b'


def test_folders_of_equal_names_are_no_archives():
  # The second folder is the subject here, not the archive's content.
  assert kin.trial('CMU/01/01_01_poses.npz') == 'CMU/01/01_01'
  assert kin.trial('KIT/KIT/3/a_poses.npz') == 'KIT/3/a'


@pytest.mark.parametrize(
  ('one', 'other', 'expected'),
  [
    (('t', 0, 100), ('t', 0, 100), 'clip'),
    (('t', 0, 100), ('t', 1, 99), 'clip'),  # 20 and 30 fps round differently
    (('t', 0, math.inf), ('t', 0, math.inf), 'clip'),
    (('t', 0, 100), ('t', 99, 200), 'overlap'),
    (('t', 0, 100), ('t', 100, 200), 'trial'),
    (('t', 50, 60), ('t', 0, math.inf), 'overlap'),
    (('t', 0, 100), ('u', 0, 100), ''),
  ],
)
def test_how_close_two_cuts_are(one, other, expected):
  cuts = [kin.Cut('p', *cut) for cut in (('1', *one), ('2', *other))]
  assert kin.relation(*cuts) == kin.relation(*cuts[::-1]) == expected


def test_frames_of_parts_that_lie_nobody_knows_where_are_not_compared():
  cuts = [kin.Cut('p', part, 't', 0, 10, part=part) for part in 'ab']
  assert kin.relation(*cuts) == 'trial'


def test_what_a_data_set_gives_one_id_is_one_clip():
  cuts = [kin.Cut('p', 'id', 't', *frames) for frames in ((0, 40), (60, 99))]
  assert kin.relation(*cuts) == 'clip'


def test_a_mirror_image_and_a_part_are_of_their_clip_s_trial():
  whole = kin.Cut(kin.HUMANML3D, '000004', 'CMU/80/80_63', 516, 716)
  index = {'000004': kin.Row('', 516, 716, whole)}
  mirror = kin.resolve(kin.humanml3d('M000004', start=0, stop=199), index)
  assert kin.relation(mirror, whole) == 'clip'
  part = kin.resolve(kin.humanml3d('000004', start=40, stop=80), index)
  assert part == whole._replace(start=556, stop=596)
  other = kin.Cut('other', '000004', 'CMU/80/80_63', 540, 560)
  assert kin.resolve(other, index) == other
  # What the index does not know is still the same clip by its id.
  unknown = kin.humanml3d('M000005'), kin.humanml3d('000005')
  assert kin.relation(*(kin.resolve(cut, index) for cut in unknown)) == 'clip'


def test_no_kin_of_a_test_clip_is_trained_on():
  members = [
    _member('a', 'test', 'test', 'CMU/1', 100, 200),
    _member('b', 'overlapping', 'train', 'CMU/1', 150, 300),
    _member('b', 'another cut', 'train', 'CMU/1', 300, 400),
    _member('b', 'same clip', 'val', 'CMU/1', 100, 200),
    _member('b', 'another trial', 'train', 'CMU/2', 100, 200),
  ]
  assert _left(kin.settle(members)) == {
    ('b', 'overlapping'): 'overlap',
    ('b', 'another cut'): 'trial',
    ('b', 'same clip'): 'clip',
  }


def test_test_wins_over_val_and_val_over_train():
  members = [
    _member('a', '1', 'train', 't', 0, 9),
    _member('b', '2', 'val', 't', 0, 9),
    _member('c', '3', 'test', 't', 0, 9),
  ]
  assert set(_left(kin.settle(members))) == {('a', '1'), ('b', '2')}
  assert set(_left(kin.settle(members[:2]))) == {('a', '1')}
  assert not kin.settle(members[2:])


def test_who_is_left_out_leaves_nobody_out():
  # c2 loses its place in val to c3 and then cannot take c1's in train.
  members = [
    _member('a', 'c1', 'train', 't', 0, 9, published='x'),
    _member('b', 'c2', 'val', 't', 20, 29, published='y'),
    _member('a', 'c3', 'test', 't', 40, 49, published='x'),
  ]
  assert set(_left(kin.settle(members))) == {('b', 'c2')}


def test_a_published_split_stays_but_not_for_the_same_clip():
  members = [
    _member('h', '1', 'test', 't', 0, 100),
    _member('h', '2', 'train', 't', 50, 150),
    # Another source that brings the same data set.
    _member('x', '3', 'train', 't', 50, 150, published='h'),
    _member('x', '4', 'train', 't', 0, 100, published='h'),
  ]
  assert _left(kin.settle(members)) == {('x', '4'): 'clip'}
  assert _left(kin.settle(members, strict=True)) == {
    ('h', '2'): 'overlap',
    ('x', '3'): 'overlap',
    ('x', '4'): 'clip',
  }


@pytest.mark.parametrize('seed', range(20))
def test_no_kin_crosses_splits_after_the_rule(seed):
  rng = np.random.default_rng(seed)
  members = []
  for i in range(60):
    start = int(rng.integers(0, 200))
    members.append(
      _member(
        f's{rng.integers(3)}',
        str(i),
        str(rng.choice(kin.SPLITS)),
        f'trial {rng.integers(12)}',
        start,
        start + int(rng.integers(20, 200)),
        published=f'p{rng.integers(2)}',
      )
    )
  lost = kin.settle(members, strict=True)
  kept = [m for m in members if (m.source, m.id) not in _left(lost)]
  assert not kin.crossings(kept)
  assert kin.crossings(members)
  # Nobody is left out who could have stayed, and no test clip at all.
  assert all(one.member.split != 'test' for one in lost)
  for one in lost:
    assert kin.crossings([*kept, one.member])
  # Without strict only kin of one published data set may be in two splits.
  lost = kin.settle(members)
  kept = [m for m in members if (m.source, m.id) not in _left(lost)]
  for a in kept:
    for b in kept:
      how = kin.relation(a.cut, b.cut)
      if how and a.split != b.split:
        assert a.cut.published == b.cut.published
        assert how != 'clip'


def test_the_report_counts_and_names():
  members = [
    _member('a', 'x', 'test', 't', 0, 100),
    _member('b', 'y', 'train', 't', 50, 150),
    _member('b', 'z', 'train', 't', 200, 250),
  ]
  assert kin.report(kin.settle(members)) == (
    'b: 2 of train left out for a clip of test (1 sharing frames, 1 of the '
    'same trial; the first: y for a x)'
  )
  assert 'no clip is kin' in kin.report([])


def test_the_kin_within_humanml3d_s_own_split(official):
  """The numbers that the module states."""
  _, members = official
  acted = {m for m in members if m.cut.trial.startswith('humanact12')}
  assert len(acted) == 2 * 1191
  assert kin.crossings([m for m in members if m not in acted]) == {
    ('train', 'test', 'overlap'): 906,
    ('train', 'test', 'trial'): 856,
    ('train', 'val', 'overlap'): 304,
    ('train', 'val', 'trial'): 320,
    ('val', 'test', 'overlap'): 54,
    ('val', 'test', 'trial'): 46,
  }
  assert kin.crossings([m for m in members if m in acted]) == {
    ('train', 'test', 'overlap'): 4,
    ('train', 'test', 'trial'): 1342,
    ('train', 'val', 'overlap'): 6,
    ('train', 'val', 'trial'): 768,
    ('val', 'test', 'trial'): 88,
  }
  assert not kin.settle(members)
  lost = kin.settle(members, strict=True)
  per_split = collections.Counter(one.member.split for one in lost)
  assert per_split == {'train': 3812, 'val': 188}
  gone = {one.member.id for one in lost}
  assert not kin.crossings([m for m in members if m.id not in gone])


def test_clips_that_another_source_takes_from_humanml3d_s_trials(official):
  """As Motion-X's humanml/ and BABEL's sequences do."""
  index, members = official
  test = next(m for m in members if m.split == 'test')
  whole = kin.Cut('babel', 'sequence', test.cut.trial)
  other = kin.Member('b', 'sequence', 'train', whole)
  mirror = kin.Member(
    'x', f'humanml/M{test.id}', 'train',
    kin.resolve(kin.humanml3d(f'M{test.id}', stop=150), index),
  )  # fmt: skip
  assert set(_left(kin.settle([*members, other, mirror]))) >= {
    ('b', 'sequence'),
    ('x', f'humanml/M{test.id}'),
  }


def test_every_clip_of_humanml3d_is_in_the_index(official):
  index, members = official
  assert len(index) == 14616
  assert len(members) == 29228
  assert not [m.id for m in members if m.cut.trial.startswith('humanml3d/')]
  assert len({m.cut.trial for m in members}) == 10665
  assert index['000004'] == (
    './pose_data/CMU/80/80_63_poses.npy', 516, 716,
    ('humanml3d', '000004', 'CMU/80/80_63', 516, 716, ''),
  )  # fmt: skip
  # A file of HumanAct12 is a part of a recording.
  path = './pose_data/humanact12/humanact12/P11G01R02F1812T1847A0402.npy'
  assert index['000001'] == (
    path, 0, math.inf,
    ('humanml3d', '000001', 'humanact12/P11G01R02', 1812, 1847, ''),
  )  # fmt: skip


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (None, r'index\.csv, found no such file'),
    ('source_path,new_name\n', 'none for end_frame and start_frame'),
    (
      'source_path,start_frame,end_frame,new_name\na,0,9,b.npy\na,x,9,c.npy\n',
      "line 3: expected start_frame.* found 'x'",
    ),
  ],
)
def test_what_is_wrong_with_an_index_is_named(tmp_path, content, message):
  path = tmp_path / 'index.csv'
  if content is not None:
    path.write_text(content)
  with pytest.raises(ValueError, match=message):
    kin.read_index(path)
