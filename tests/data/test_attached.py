import dataclasses
import json

import numpy as np
import pytest
import samples

from vimonet_jax.data import (
  attached,
  builder,
  clips,
  contents,
  conversations,
  dataset,
  records,
  sources,
  survey,
)


def _asked(media, *questions, **fields):
  turns = tuple(records.Turn(q, f'{q} Yes.') for q in questions)
  return conversations.Conversation('', media, turns, **fields)


@pytest.fixture
def base(tmp_path):
  root = tmp_path / 'clips'
  (root / 'joints').mkdir(parents=True)
  (root / 'texts').mkdir()
  for name, split in {
    'a': 'train',
    'b': 'train',
    'c': 'val',
    'd': 'test',
  }.items():
    np.save(root / 'joints' / f'{name}.npy', samples.walk(81))
    said = 'walks#x#0#0\n' + 'goes on#x#1.0#3.5\nends#x#2.0#9.9\n' * (
      name == 'b'
    )
    (root / 'texts' / f'{name}.txt').write_text(said)
    with open(root / f'{split}.txt', 'a') as f:
      f.write(f'{name}\n')
  return sources.Folder(str(root), source='mine', licence='CC0')


def _questions(path, *entries):
  path.write_text(json.dumps(list(entries)))
  return str(path)


def _of(found):
  """Split -> (clip, number, questions) of each record to be."""
  return {
    split: [
      (
        i.clip.id,
        i.number,
        ''.join(t.question for c in i.asked for t in c.turns),
      )
      for i in items
    ]
    for split, items in found.splits.items()
  }


def test_a_clip_decides_the_split_and_rounds_stay_together(base):
  asked = [
    _asked('joints/c.npy', '1'),
    _asked('a', '2'),
    _asked('a', '3', '4', '5', '6'),
    _asked('a', '7'),
    _asked('a', '8'),
  ]
  found = attached.join(base.splits(), asked, max_turns=2)
  assert _of(found) == {
    'train': [
      ('a', -1, ''), ('a', 0, '27'), ('a', 1, '8'), ('a', 2, '3456'),
      ('b', -1, ''), ('b_20-70', -1, ''), ('b_40-80', -1, ''),
    ],
    'val': [('c', -1, ''), ('c', 0, '1')],
    'test': [('d', -1, '')],
  }  # fmt: skip
  behind = attached.join(base.splits(), asked, place='behind_captions')
  assert _of(behind)['train'][:2] == [('a', -1, '278'), ('a', 0, '3456')]
  assert not found.missing + found.contrary


def test_what_has_no_clip_or_another_split_is_counted(base):
  asked = [
    _asked('nowhere', '1'),
    _asked('a', '2', split='test'),
    _asked('d', '3', split='test'),
    _asked('M000001', '4'),
  ]
  found = attached.join(base.splits(), asked)
  assert [c.media for c in found.missing] == ['nowhere', 'M000001']
  assert [c.media for c in found.contrary] == ['a']
  assert ('d', 0, '3') in _of(found)['test']


def test_a_video_of_the_same_name_is_another_clip(base):
  splits = base.splits()
  asked = [
    dataclasses.replace(_asked('a', 'What?'), medium=medium)
    for medium in ('video', 'motion', '')
  ]
  found = attached.join(splits, asked)
  assert [c.medium for c in found.missing] == ['video']
  filmed = {
    split: [dataclasses.replace(clip, video='videos/a.mp4') for clip in some]
    for split, some in splits.items()
  }
  assert not attached.join(filmed, asked).missing


def test_part_of_a_clip_has_questions_of_its_own(base):
  asked = [
    _asked('b', 'part', start_s=1.0, end_s=3.5),
    _asked('b', 'to the end', start_s=2.0, end_s=9.9),
    _asked('b', 'elsewhere', start_s=0.5, end_s=3.5),
    _asked('b', 'shorter', start_s=1.0, end_s=3.0),
  ]
  found = attached.join(base.splits(), asked)
  assert _of(found)['train'][-4:] == [
    ('b_20-70', -1, ''), ('b_20-70', 0, 'part'),
    ('b_40-80', -1, ''), ('b_40-80', 0, 'to the end'),
  ]  # fmt: skip
  missing = [c.turns[0].question for c in found.missing]
  assert missing == ['elsewhere', 'shorter']


def test_records_have_captions_or_questions_and_say_where_they_are_from(
  base, tmp_path
):
  path = _questions(
    tmp_path / 'qa.json',
    {'id': 'q0', 'motion': 'a', 'generator': 'g',
     'turns': [['Why?', 'So.'], ['And then?', 'Home.']]},
    {'id': 'q1', 'motion': 'c', 'turns': [{'question': 'Left?', 'answer': 'No.',
                                           'domain': 'direction'}]},
  )  # fmt: skip
  source = attached.Attached(base, (path,), domain='reasoning')
  items = source.splits()
  own, asked = [source.make(item) for item in items['train'][:2]]
  assert own.id == 'a'
  assert [turn.domain for turn in own.turns] == ['motion_caption']
  assert asked.id == 'a/0'
  assert [(t.question, t.answer, t.domain) for t in asked.turns] == [
    ('Why?', 'So.', 'reasoning'),
    ('And then?', 'Home.', 'reasoning'),
  ]
  np.testing.assert_array_equal(asked.motion, own.motion)
  assert asked.provenance['questions'] == [
    {'id': 'q0', 'generator': 'g', 'file': 'qa.json', 'place': 'entry 1'}
  ]
  assert asked.provenance['in_order']
  assert asked.provenance['licence'] == 'CC0'
  (_, turned) = [source.make(item) for item in items['val']]
  assert turned.turns[0].domain == 'direction'
  assert not turned.provenance['in_order']

  behind = attached.Attached(base, (path,), place='behind_captions')
  (record,) = map(behind.make, behind.splits()['val'])
  assert record.id == 'c'
  # Or a clip 'music/003' would be one with 'music/004'.
  assert contents.clip_of(dataclasses.replace(record, id='c/003')) == 'c/003'
  assert contents.clip_of(asked) == 'a'
  assert [turn.question for turn in record.turns[1:]] == ['Left?']
  assert not record.provenance['in_order']


def test_a_dataset_is_built_and_other_questions_are_another_one(base, tmp_path):
  entry = {'id': 'a', 'turns': [['Why?', 'So.']]}
  path = _questions(tmp_path / 'qa.json', entry)
  source = attached.Attached(base, (path,))
  data = tmp_path / 'data'
  builder.build(source, data, processes=1, progress=False)
  ids = [record.id for record in dataset.open(data, 'train')]
  assert ids == ['a', 'a/0', 'b', 'b_20-70', 'b_40-80']
  builder.build(source, data, processes=1, progress=False)
  _questions(tmp_path / 'qa.json', entry, entry | {'id': 'b'})
  with pytest.raises(ValueError, match='questions.0=.* instead of'):
    builder.build(source, data, processes=1, progress=False)


def test_clips_and_questions_are_surveyed(base, tmp_path):
  path = _questions(
    tmp_path / 'qa.json',
    {'id': 'a', 'turns': [['Why?', 'So.'], ['And then?', 'Home.']]},
    {'id': 'ghost', 'turns': [['Why?', 'So.']]},
    {'id': 'c', 'split': 'test', 'turns': [['Why?', 'So.']]},
    {'id': 'c'},
  )
  found = attached.Attached(base, (path,)).survey()
  assert found.rows[3:] == (
    survey.Row('mine + questions', 'train', 1, turns=2),
    survey.Row('mine + questions', 'val', 0),
    survey.Row('mine + questions', 'test', 0),
    survey.Row('mine + questions', '-', 0, 1, 1, 1),
  )
  where = 'ghost (qa.json, entry 2)'
  assert f'mine, 1 conversations without their clip: {where}' in found.notes
  assert found.notes[-1].startswith(f'{path}, entry 4: expected the keys')


def test_settings_that_mean_nothing_are_refused(base):
  for wrong in ({'place': 'aside'}, {'domain': 'feet'}, {'max_turns': 0}):
    with pytest.raises(ValueError, match='^Expected'):
      attached.Attached(base, (), **wrong)


def test_a_source_without_names_of_clips_is_refused():
  made = builder.Synthetic(num_train=1, num_val=1, num_test=1)
  with pytest.raises(ValueError, match='items have an id, found tuple;'):
    attached.join(made.splits(), [_asked('a', '1')])


def _clips(*names):
  return [clips.Clip(n, 'train', '', '', n, 0, 60, ('x',)) for n in names]


def test_clips_with_folders_in_their_names_are_found_by_the_end_of_a_path():
  """As Motion-X's are, of which each file may begin at another folder."""
  named = _clips('idea400/s1/Eat_clip_1', 'music/Eat_clip_1', 'aist/Jazz_1')
  asked = [
    _asked('idea400/s1/Eat_clip_1', 'whole'),
    _asked('motion_data/smplx_322/music/Eat_clip_1.npy', 'longer'),
    _asked('Jazz_1.mp4', 'shorter'),
    _asked('Jazz_1', 'part', end_s=3.0),
    _asked('Eat_clip_1', 'of two'),
    _asked('fitness/Jazz_1', 'elsewhere'),
  ]
  found = attached.join({'train': named}, asked)
  assert [row for row in _of(found)['train'] if row[1] >= 0] == [
    ('idea400/s1/Eat_clip_1', 0, 'whole'),
    ('music/Eat_clip_1', 0, 'longer'),
    ('aist/Jazz_1', 0, 'shorterpart'),
  ]
  assert [c.turns[0].question for c in found.missing] == ['of two', 'elsewhere']
