import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from vimonet_jax.data import (
  amass,
  attached,
  builder,
  dataset,
  joined,
  kin,
  motionx,
  sources,
  survey,
  video_sets,
)
from vimonet_jax.motion import features
from vimonet_jax.synthetic import actions

# Two trials and a file of HumanAct12; frames at 20 per second.
INDEX = {
  '000000': ('CMU/01/01_01_poses.npy', 0, 60),
  '000001': ('CMU/01/01_01_poses.npy', 40, 100),
  '000002': ('CMU/01/01_01_poses.npy', 100, 160),
  '000003': ('CMU/02/02_01_poses.npy', 0, 60),
  '000004': ('CMU/02/02_01_poses.npy', 60, 120),
  '000005': ('humanact12/humanact12/P01.npy', 0, -1),
  '000006': ('KIT/3/a_poses.npy', 0, 60),
}


def _walk(frames):
  program = [actions.Action('walk', direction='forward', speed='slowly')]
  joints = actions.animate(program, np.random.default_rng(0)).joints
  joints = np.pad(joints, ((0, frames), (0, 0), (0, 0)), mode='reflect')
  return joints[:frames].astype(np.float32)


def _text(root, name, ending='#x#0.0#0.0'):
  path = root / f'{name}.txt'
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f'a man walks.{ending}\n')


def _split(root, **splits):
  for split in sources.SPLITS:
    (root / f'{split}.txt').write_text('\n'.join(splits.get(split, ())) + '\n')


def _folder(root, source='humanml3d', **splits):
  """HumanML3D's layout, with vectors of clips."""
  (root / 'new_joint_vecs').mkdir(parents=True)
  motion = features.encode(_walk(60))
  for name in (name for names in splits.values() for name in names):
    np.save(root / 'new_joint_vecs' / f'{name}.npy', motion)
    _text(root / 'texts', name)
  _split(root, **splits)
  return sources.Folder(str(root), source=source, licence='l')


def _index(path):
  lines = ['source_path,start_frame,end_frame,new_name']
  lines += [
    f'./pose_data/{file},{start},{stop},{name}.npy'
    for name, (file, start, stop) in INDEX.items()
  ]
  path.write_text('\n'.join(lines) + '\n')
  return str(path)


def _amass(root, **splits):
  home = root / 'home'
  home.mkdir(parents=True)
  for file, _, _ in INDEX.values():
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    np.save(root / file, _walk(160))
  _index(home / 'index.csv')
  for name in (name for names in splits.values() for name in names):
    _text(home / 'texts', name)
  _split(home, **splits)
  return amass.Amass(str(root), str(home), 'l')


def _motionx(root, **splits):
  rng = np.random.default_rng(0)
  for name in (name for names in splits.values() for name in names):
    path = root / 'motion_data/smplx_322' / f'{name}.npy'
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = rng.normal(scale=0.01, size=(90, 322))
    np.save(path, steps.cumsum(axis=0).astype(np.float32))
    _text(root / 'texts/semantic_labels', name, '')
  _split(root, **splits)
  return motionx.MotionX(str(root), 'l', image_size=8)


def _ids(source):
  return {
    split: [(source.parts[number].source, clip.id) for number, clip in items]
    for split, items in source.splits().items()
  }


@pytest.fixture
def three(tmp_path):
  """HumanML3D and two sources whose splits know nothing of it."""
  return (
    _folder(
      tmp_path / 'h',
      train=['000001', '000003', 'M000003'],
      val=['000006'],
      test=['000000', 'M000000'],
    ),
    _amass(
      tmp_path / 'a',
      train=['000002', '000004', '000005', 'M000006'],
      val=['000001'],
      test=['M000003'],
    ),
    _motionx(
      tmp_path / 'x',
      train=['humanml/M000000', 'idea400/Eat_clip_1', 'GRAB/s1/cup_1'],
      val=['idea400/Eat_clip_2'],
      test=['idea400/Eat_clip_3'],
    ),
  )


def test_no_clip_is_trained_on_that_another_source_tests(three):
  splits = _ids(joined.Joined(three))
  assert splits == {
    'train': [
      # Of a test clip's trial, but so HumanML3D itself may split it. None of
      # `humanml3d`: 000001 is in `amass`'s val, the mirror of 000003 in test.
      ('amass', '000002'),
      ('amass', '000004'),
      ('amass', '000005'),
      # Not the mirror image of HumanML3D's test clip.
      ('motionx', 'idea400/Eat_clip_1'),
      ('motionx', 'GRAB/s1/cup_1'),
    ],
    'val': [
      ('humanml3d', '000006'),
      ('amass', '000001'),
      ('motionx', 'idea400/Eat_clip_2'),
    ],
    'test': [
      ('humanml3d', '000000'),
      ('humanml3d', 'M000000'),
      ('amass', 'M000003'),
      ('motionx', 'idea400/Eat_clip_3'),
    ],
  }
  found = joined.Joined(three).survey()
  text = survey.text([found])
  assert 'humanml3d  train        0        0           0         3' in text
  assert 'amass      train        3        0           0         1' in text
  assert sum(row.present for row in found.rows) == 12
  assert (
    'humanml3d: 2 of train left out for a clip of test (2 the same clip; the '
    'first: 000003 for amass M000003)'
  ) in text
  assert 'motionx: 1 of train left out for a clip of test' in text


def test_strict_keeps_every_cut_of_a_tested_trial_out(three):
  splits = _ids(joined.Joined(three, strict=True))
  assert splits['train'] == [
    ('amass', '000005'),
    ('motionx', 'GRAB/s1/cup_1'),
  ]
  # A val clip of a tested trial is left out as well.
  assert splits['val'] == [('humanml3d', '000006')]


@pytest.mark.parametrize('strict', [False, True])
def test_nothing_leaks_into_what_is_built(three, tmp_path, strict):
  """The records themselves, each with the trial that its id stands for."""
  source = joined.Joined(three, strict=strict)
  for _ in range(2):  # The second time it is there, and is what is asked for.
    builder.build(source, tmp_path / 'data', processes=1, progress=False)
  index = kin.read_index(_index(tmp_path / 'index.csv'))
  members = []
  for split in sources.SPLITS:
    for record in dataset.open(tmp_path / 'data', split):
      if record.source == 'motionx':
        cut = motionx.cut(record.id, start=0, stop=60)
      else:
        cut = kin.humanml3d(record.id)
      cut = kin.resolve(cut, index)
      members.append(kin.Member(record.source, record.id, split, cut))
  assert len(members) == (12 if not strict else 7)
  assert not kin.settle(members, strict=strict)
  assert bool(kin.crossings(members)) is not strict
  assert {m.source for m in members} == {'humanml3d', 'amass', 'motionx'}


def test_the_order_of_the_sources_does_not_decide_who_stays(three):
  one, other = (
    joined.Joined(parts, strict=True) for parts in (three, three[::-1])
  )
  for split in sources.SPLITS:
    assert sorted(_ids(one)[split]) == sorted(_ids(other)[split])


def test_without_an_index_the_same_clip_is_still_one_clip(tmp_path):
  parts = (
    _folder(tmp_path / 'h', train=['000001'], val=['000006'], test=['000000']),
    _motionx(tmp_path / 'x', train=['humanml/M000000', 'humanml/000002']),
  )
  source = joined.Joined(parts, strict=True)
  splits = _ids(source)
  assert splits['train'] == [
    ('humanml3d', '000001'),
    ('motionx', 'humanml/000002'),
  ]
  assert 'Without index=' in source.survey().notes[-1]
  index = _index(tmp_path / 'index.csv')
  source = joined.Joined(parts, index=index, strict=True)
  assert 'Without index=' not in survey.text([source.survey()])
  with pytest.raises(ValueError, match='found none for train: humanml3d: 1 of'):
    source.splits()


def test_folders_of_other_data_sets_have_no_kin_in_humanml3d(tmp_path):
  splits = {'train': ['000000', '000001'], 'val': ['000006'], 'test': ['9']}
  parts = (
    _folder(tmp_path / 'h', train=['000002'], val=['5'], test=['000000']),
    _folder(tmp_path / 'm', source='mine', **splits),
  )
  index = _index(tmp_path / 'index.csv')
  kept = _ids(joined.Joined(parts, index=index))
  assert kept['train'] == [
    ('humanml3d', '000002'), ('mine', '000000'), ('mine', '000001')
  ]  # fmt: skip


def test_content_follows_the_sources_and_who_is_left_out(three, tmp_path):
  source = joined.Joined(three)
  before = source.identity()
  assert joined.Joined(three).identity() == before
  assert joined.Joined(three, strict=True).identity() != before
  assert joined.Joined(three[:2]).identity() != before
  (tmp_path / 'x/texts/semantic_labels/GRAB/s1/cup_1.txt').write_text('Drink.')
  assert joined.Joined(three).identity() != before


def test_sources_of_one_name_or_two_sizes_are_refused(three):
  with pytest.raises(ValueError, match='different names, found humanml3d, hum'):
    joined.Joined((three[0], three[0]))
  other = motionx.MotionX('x', 'l', source='y', image_size=16)
  with pytest.raises(ValueError, match=r'of one size, found 2 with \[8, 16\]'):
    joined.Joined((three[2], other))
  with pytest.raises(ValueError, match='found 0 with none'):
    joined.Joined(())
  assert joined.Joined(three).image_size == 8


@dataclasses.dataclass(frozen=True)
class _Part:
  """A source whose clips are said to be what they are."""

  source: str
  found: video_sets.Found
  cuts: dict[str, kin.Cut]
  tests: dict[str, kin.Cut] = dataclasses.field(default_factory=dict)
  image_size: int = 1

  def find(self):
    return self.found

  def cut(self, item):
    return self.cuts[item.id]

  def tested(self):
    return self.tests


def _part(source, tests=(), **splits):
  cuts, found = {}, {}
  for split, trials in splits.items():
    for trial in trials:
      name = f'{source}-{trial}'
      cuts[name] = kin.Cut(source, name, trial)
      found.setdefault(split, []).append(video_sets.Item(name, split, '', ()))
  tested = {trial: kin.Cut(source, trial, trial) for trial in tests}
  return _Part(source, video_sets.Found(found), cuts, tested)


def test_a_source_may_lack_splits_as_long_as_all_have_each():
  one = _part('one', train=['a'])
  other = _part('other', val=['b'], test=['c'])
  assert _ids(joined.Joined((one, other))) == {
    'train': [('one', 'one-a')],
    'val': [('other', 'other-b')],
    'test': [('other', 'other-c')],
  }
  with pytest.raises(ValueError, match='one, found none for val and test'):
    joined.Joined((one,)).splits()


def test_what_is_tested_without_a_record_is_not_trained_on():
  one = _part('one', train=['a', 'b'], val=['c'], test=['d'])
  other = _part('other', tests=['a', 'c'], train=['e'])
  found = joined.Joined((one, other)).find()
  assert {s: [i.id for _, i in items] for s, items in found.splits.items()} == {
    'train': ['one-b', 'other-e'], 'val': [], 'test': ['one-d']
  }  # fmt: skip
  assert 'one-a for other a' in found.notes[0]


def _videos(folder, source, **fields):
  words = folder / f'{source}.json'
  words.write_text(json.dumps(fields.pop('words')))
  folder = fields.pop('path', folder / 'videos')
  return video_sets.Videos(
    str(folder), (str(words),), source=source, licence='CC0', held_out=0.0,
    image_size=8, **fields,
  )  # fmt: skip


def test_a_video_that_two_sets_ask_about_is_in_one_split(tmp_path):
  films = tmp_path / 'videos'
  copies = tmp_path / 'copies'
  for path, level in ((films / 'a', 20), (films / 'b', 90), (copies / 'a', 20)):
    path.mkdir(parents=True)
    Image.new('RGB', (8, 8), (level, 0, level)).save(path / '0.png')
  (copies / 'b').mkdir()
  Image.effect_noise((16, 16), 50).save(copies / 'b' / '0.png')

  def asked(media, split):
    return {'video_id': media, 'q': 'Q?', 'a': 'A.', 'split': split}

  one = _videos(
    tmp_path, 'one', words=[asked('a', 'test'), asked('b', 'test')]
  )
  other = _videos(
    tmp_path, 'other', path=copies,
    words=[asked('a', 'train'), asked('b', 'train')],
  )  # fmt: skip
  found = joined.Joined((one, other)).find()
  # Another picture, which only has the name of the other.
  assert [item.id for _, item in found.splits['train']] == ['b/0']
  assert [loss.member.id for loss in found.lost] == ['a/0']


def test_videos_of_motionx_are_kin_of_its_motions(tmp_path, three):
  path = tmp_path / 'videos' / 'idea400' / 'Eat_clip_3'
  path.mkdir(parents=True)
  Image.new('RGB', (8, 8)).save(path / '0.png')
  words = [{'video_id': 'idea400/Eat_clip_3', 'q': 'Q?', 'a': 'A.'}]
  for names, number in (('', 0), ('motionx', 1)):
    videos = _videos(tmp_path, 'v', words=words, names=names)
    found = joined.Joined((three[2], videos)).find()
    lost = [loss for loss in found.lost if loss.member.source == 'v']
    assert len(lost) == number
  with pytest.raises(ValueError, match="motionx or none, found 'movid'"):
    _videos(tmp_path, 'v', words=words, names='movid')


def test_questions_go_where_their_clip_goes(three, tmp_path):
  path = tmp_path / 'qa.json'
  rows = [{'motion': n, 'turns': [['Q?', 'A.']]} for n in ('000001', '000006')]
  path.write_text(json.dumps(rows))
  asked = attached.Attached(three[0], (str(path),))
  source = joined.Joined((asked, *three[1:]))
  splits = _ids(source)
  assert ('humanml3d', '000006/0') in splits['val']
  assert not any('000001' in name for _, name in splits['train'])
  rows = {(r.source, r.split): r for r in source.survey().rows}
  assert rows['humanml3d + questions', 'train'].present == 0
  assert rows['humanml3d + questions', 'val'].present == 1
