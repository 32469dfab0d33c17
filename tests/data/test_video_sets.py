import collections
import json

import numpy as np
import pytest
from PIL import Image

from vimonet_jax.data import (
  conversations,
  survey,
  video,
  video_file,
  video_folder,
  video_sets,
)

av = pytest.importorskip('av', reason='needs the package av')


def _video(path, level=128, frames=20):
  """Writes 64 x 64 pixels of one grey at 10 frames a second."""
  path.parent.mkdir(parents=True, exist_ok=True)
  # The head comes first: then a file that is cut off still opens.
  with av.open(str(path), 'w', options={'movflags': 'faststart'}) as container:
    stream = container.add_stream('libx264', rate=10)
    stream.height = stream.width = 64
    stream.pix_fmt = 'yuv420p'
    noise = np.random.default_rng(0).integers(-20, 20, (frames, 64, 64, 3))
    for image in (level + noise).astype(np.uint8):
      frame = av.VideoFrame.from_ndarray(image, format='rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _words(path, *entries):
  path.write_text(json.dumps(list(entries)))
  return str(path)


def _pair(media, number=0, **fields):
  return {'q': f'Q{number}?', 'a': f'A{number}.', 'video_id': media} | fields


def _set(tmp_path, *entries, **fields):
  files = (_words(tmp_path / 'words.json', *entries),)
  fields = {'held_out': 0.0, 'image_size': 16, 'frames': 4} | fields
  return video_sets.Videos(
    str(tmp_path / 'videos'), files, source='valley', licence='CC', **fields
  )


@pytest.fixture
def folder(tmp_path):
  root = tmp_path / 'videos'
  _video(root / 'one.mp4', 60)
  _video(root / 'deep' / 'two.mp4', 180)
  _video(root / 'x' / 'same.mp4')
  _video(root / 'y' / 'same.mp4')
  (root / 'text.mp4').write_text('no video')
  (root / 'images').mkdir()
  for i in range(3):
    level = np.full((8, 8, 3), 40 * i, np.uint8)
    Image.fromarray(level).save(root / 'images' / f'{i}.png')
  return tmp_path


def test_records_have_frames_and_what_is_said_of_them(folder):
  source = _set(
    folder,
    _pair('one', 0),
    _pair('deep/two.mp4', 1),
    _pair('one', 2),
    _pair('images', 3),
    {'video': 'one.pkl', 'conversations': [
      {'from': 'human', 'value': 'Who?\n<video>'},
      {'from': 'gpt', 'value': 'A girl.'},
      {'from': 'human', 'value': 'Why?'}, {'from': 'gpt', 'value': 'So.'}]},
    domain='people',
  )  # fmt: skip
  items = source.splits()
  assert [len(items[split]) for split in ('train', 'val', 'test')] == [4, 0, 0]
  made = {record.id: record for record in map(source.make, items['train'])}
  asked = {name: [t.question for t in r.turns] for name, r in made.items()}
  assert asked == {
    'one/0': ['Q0?', 'Q2?'],
    'one/1': ['Who?', 'Why?'],
    'deep/two/0': ['Q1?'],
    'images/0': ['Q3?'],
  }
  assert {t.domain for r in made.values() for t in r.turns} == {'people'}
  one = made['one/1']
  assert one.frames.shape == (4, 16, 16, 3)
  assert 50 < one.frames.mean() < 70 < 170 < made['deep/two/0'].frames.mean()
  assert one.provenance['duration_s'] == pytest.approx(2.0)
  assert one.provenance['licence'] == 'CC'
  assert one.provenance['in_order']
  assert not made['one/0'].provenance['in_order']
  assert (one.source, one.split) == ('valley', 'train')


def test_part_of_a_video_is_a_record_of_its_own(folder):
  source = _set(folder, _pair('one'), _pair('one', 1, start=0.5, end=1.5))
  whole, part = map(source.make, source.splits()['train'])
  assert part.provenance['duration_s'] == pytest.approx(1.0)
  read = video.read_clip(
    folder / 'videos' / 'one.mp4', size=16, frames=4, start_s=0.5, end_s=1.5
  )
  np.testing.assert_array_equal(part.frames, read)
  assert (whole.frames != part.frames).any()


def test_a_motion_of_the_same_name_is_another_clip(folder):
  item = {'source': 'one', 'question': 'Why?', 'answer': 'So.'}
  source = _set(
    folder,
    item | {'id': 'a', 'modality': 'motion'},
    item | {'id': 'b', 'modality': 'video', 'question': 'Who?'},
  )
  found = source.find()
  assert [c.id for c in found.missing] == ['a']
  assert [c.id for i in found.splits['train'] for c in i.asked] == ['b']


def test_part_of_a_video_of_unknown_length_is_as_long_as_it_is_said(
  folder, monkeypatch
):
  source = _set(folder, _pair('one', start=0.5, end=1.5))
  (item,) = source.splits()['train']
  head = video.Head(duration_s=0.0, fps=10.0)
  monkeypatch.setattr(video, 'read_head', lambda path: head)
  assert source.make(item).provenance['duration_s'] == pytest.approx(1.0)


def test_videos_that_differ_in_their_endings_have_records_of_their_own(folder):
  _video(folder / 'videos' / 'one.mkv')
  source = _set(folder, _pair('one.mp4'), _pair('one.mkv', 1))
  items = source.splits()['train']
  assert [(item.id, item.file) for item in items] == [
    ('one/0', 'one.mp4'),
    ('one/1', 'one.mkv'),
  ]


def test_what_cannot_become_a_record_is_counted_and_named(folder):
  source = _set(
    folder,
    _pair('one'),
    _pair('nowhere'),
    _pair('same'),
    _pair('x/same', 1),
    _pair('text'),
    _pair('text', 2),
    {'video_id': 'one', 'q': 'Why?'},
    _pair('one', 3, split='val'),
    _pair('one', 4, split='train'),
  )
  found = source.survey()
  assert found.rows == (
    survey.Row('valley', 'train', 1, turns=1),
    survey.Row('valley', 'val', 1, turns=2),
    survey.Row('valley', 'test'),
    survey.Row('valley', '-', missing=2, unreadable=2, left_out=1),
  )
  notes = '\n'.join(found.notes)
  assert 'nowhere (words.json, entry 2)' in notes
  assert 'one of several: same (words.json, entry 3)' in notes
  assert 'text.mp4: expected a whole video' in notes
  assert 'entry 7: expected the keys' in notes
  assert '1 videos that do not open: text.mp4' in notes


def test_a_video_that_opens_and_is_cut_off_fails_with_its_name(folder):
  path = folder / 'videos' / 'one.mp4'
  path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
  source = _set(folder, _pair('one'))
  (item,) = source.splits()['train']
  message = 'one.mp4: expected a whole'
  with pytest.raises(video_file.VideoFileError, match=message):
    source.make(item)


def test_videos_are_held_out_by_name(folder):
  entries = [_pair(f'v{i}') for i in range(400)]
  for i in range(400):
    (folder / 'videos' / f'v{i}').mkdir()
    Image.new('RGB', (2, 2)).save(folder / 'videos' / f'v{i}' / '0.png')
  source = _set(folder, *entries, held_out=0.1)
  sizes = {split: len(items) for split, items in source.splits().items()}
  assert sum(sizes.values()) == 400
  assert 20 < sizes['val'] < 60 > sizes['test'] > 20
  fewer = _set(folder, *entries[::2], held_out=0.1)
  split_of = {i.file: i.split for s in source.splits().values() for i in s}
  assert all(
    item.split == split_of[item.file]
    for items in fewer.splits().values()
    for item in items
  )


def test_a_video_is_in_one_split(folder):
  source = _set(
    folder,
    *(_pair('one', i, split=s) for i, s in enumerate(['train', 'test', 'val'])),
  )
  places = collections.Counter(
    item.split for items in source.splits().values() for item in items
  )
  assert places == {'test': 1}


def test_split_files_decide_where_there_are_some(folder):
  splits = folder / 'splits'
  splits.mkdir()
  entries = [_pair('one'), _pair('deep/two'), _pair('images')]
  with pytest.raises(ValueError, match='found none; give the folder'):
    _set(folder, *entries, split_path=str(splits)).splits()
  (splits / 'train.txt').write_text('one\n')
  (splits / 'test.txt').write_text('deep/two\n')
  source = _set(folder, *entries, split_path=str(splits))
  found = source.find()
  of = {i.file: i.split for items in found.splits.values() for i in items}
  assert of == {'one.mp4': 'train', 'deep/two.mp4': 'test'}
  assert [c.media for c in found.missing] == ['images']
  (folder / 'videos' / 'images').rename(folder / 'videos' / 'my images')
  (splits / 'val.txt').write_text('my images\n')
  (item,) = _set(
    folder, _pair('my images'), split_path=str(splits)
  ).splits()['val']
  assert item.file == 'my images'
  (splits / 'val.txt').write_text('one\n')
  with pytest.raises(ValueError, match='one in train.txt and val.txt'):
    source.splits()


@pytest.mark.parametrize(
  ('media', 'collection', 'files'),
  [
    ('one', '', ['one.mp4']),
    ('./one.avi', '', ['one.mp4']),
    ('valley/deep/two.mp4', '', ['deep/two.mp4']),
    ('/data/videos/x/same.mp4', '', ['x/same.mp4']),
    ('same.mp4', 'y', ['y/same.mp4']),
    ('same', '', ['x/same.mp4', 'y/same.mp4']),
    ('z/same', '', []),
    ('other/one', '', ['one.mp4']),
    ('one', 'webvid', ['one.mp4']),
  ],
)
def test_which_video_is_meant(folder, media, collection, files):
  asked = conversations.Conversation('', media, (), collection=collection)
  clips = video_folder.look(folder / 'videos')
  assert list(clips.find(asked)) == files


def test_other_words_or_videos_are_another_set(folder):
  source = _set(folder, _pair('one'))
  before = source.identity()
  assert json.loads(json.dumps(before)) == before
  _video(folder / 'videos' / 'one.mp4', 90, frames=25)
  other = source.identity()
  assert {k for k in before if before[k] != other[k]} == {'videos'}
  _set(folder, _pair('one', 1))
  assert {k for k in other if other[k] != source.identity()[k]} == {'words'}


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'domain': 'feet'}, 'a domain of'),
    ({'held_out': 0.5}, 'held_out=0.5'),
    ({'max_turns': 0}, 'max_turns=0'),
  ],
)
def test_settings_that_mean_nothing_are_refused(folder, fields, message):
  with pytest.raises(ValueError, match=message):
    _set(folder, _pair('one'), **fields)


def test_a_folder_without_what_the_words_tell_of_is_refused(folder):
  with pytest.raises(ValueError, match='found none; 1 conversations without'):
    _set(folder, _pair('nowhere')).splits()
  source = video_sets.Videos('/nowhere', (), source='s', licence='l')
  with pytest.raises(ValueError, match='Expected a folder of videos'):
    source.splits()


def test_real_videos(shared_data, tmp_path):
  root = shared_data / 'videos'
  names = sorted(path.name for path in root.glob('*.mp4'))
  words = _words(tmp_path / 'words.json', *map(_pair, names))
  source = video_sets.Videos(
    str(root), (words,), source='s', licence='l', image_size=32, held_out=0.0
  )
  items = source.splits()['train']
  assert [item.file for item in items] == names
  made = {i.file: source.make(i) for i in items if 'sword' in i.file}
  record = made['sword_form.mp4']
  assert record.frames.shape == (8, 32, 32, 3)
  assert record.provenance['duration_s'] == pytest.approx(5.0, abs=0.1)
