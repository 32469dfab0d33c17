import json
import re
import xml.etree.ElementTree

import pytest

from vimonet_jax import card
from vimonet_jax.data import builder, dataset, records


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('card')
  made = builder.Synthetic(num_train=6, num_val=2, num_test=0)
  builder.build(made, folder, processes=1, progress=False)
  return folder


def test_the_card_tells_what_the_dataset_holds(data, tmp_path):
  path = card.write(
    data, 'synthetic', str(tmp_path / 'card'), survey='<all> present',
    progress=False,
  )  # fmt: skip
  with open(tmp_path / 'card' / 'card.json', encoding='utf-8') as f:
    found = json.load(f)
  turns = {
    split: sum(len(r.turns) for r in dataset.open(data, split))
    for split in ('train', 'val')
  }
  assert {s: row['turns'] for s, row in found['splits'].items()} == turns
  assert found['settings']['num_train'] == 6
  assert not found['damaged']
  with open(path, encoding='utf-8') as f:
    text = f.read()
  assert '8 records with' in text
  assert 'No clip is in two splits' in text
  assert '8 videos do not say how long they are' in text
  assert '&lt;all&gt; present' in text
  assert 'hours of motion' in text
  assert 'hours of video' not in text
  assert not re.findall(r'(?:src|href)="(?!data:)', text)


def test_pictures_are_sound_and_their_bars_are_inside(data, tmp_path):
  path = card.write(data, 'synthetic', str(tmp_path), progress=False)
  with open(path, encoding='utf-8') as f:
    pictures = re.findall(r'<svg.*?</svg>', f.read())
  with open(tmp_path / 'card.json', encoding='utf-8') as f:
    lengths = json.load(f)['lengths']
  assert len(pictures) == len(lengths) == 4
  for picture, row in zip(pictures, lengths.values(), strict=True):
    bars = xml.etree.ElementTree.fromstring(picture).findall('rect')
    assert len(bars) <= len(row['counts'])
    heights = [float(bar.get('height')) for bar in bars]
    most = max(row['counts'])
    assert heights == pytest.approx(
      [96 * n / most for n in row['counts'][: len(bars)]], abs=0.06
    )
    assert heights[-1] > 0
    for bar in bars:
      assert float(bar.get('x')) >= 0
      assert float(bar.get('x')) + float(bar.get('width')) <= 300
      assert float(bar.get('y')) + float(bar.get('height')) <= 114.1


def test_what_is_wrong_stands_on_the_page():
  found = {
    'name': 'n', 'version': '1', 'settings': {}, 'survey': '',
    'damaged': ['train:3 of n: broken'],
    'splits': {'train': {'records': 1, 'turns': 0, 'motion_hours': 0,
                         'video_hours': 0}},
    'sources': {'a': {}, 'b': {}}, 'domains': {}, 'lengths': {},
    'licences': {'not stated': {'a': 1}}, 'generators': {}, 'files': {},
    'clips_in_two_splits': {'number': 2, 'first': ['a: x', 'a: <y>']},
    'words': {'different': {'answers': 0, 'questions': 0}, 'frequent': [],
              'pairs': []},
  }  # fmt: skip
  text = card.html(found)
  assert '2 clips are in two splits' in text
  assert 'a: x, a: &lt;y&gt;' in text
  assert '1 records cannot be read: train:3 of n: broken' in text
  assert '<b class="wrong">not stated</b>' in text
  assert 'No survey from before the build' in text


def test_a_damaged_record_is_counted_and_the_rest_is_read(data, monkeypatch):
  read = dataset.Source.__getitem__

  def broken(source, number):
    if number == 1:
      raise records.CorruptError('train:1', 'broken')
    return read(source, number)

  monkeypatch.setattr(dataset.Source, '__getitem__', broken)
  card.write(data, 'synthetic', str(data / 'card'), progress=False)
  with open(data / 'card' / 'card.json', encoding='utf-8') as f:
    found = json.load(f)
  assert found['damaged'] == ['train:1: broken', 'train:1: broken']
  assert found['splits']['train']['records'] == 5


def test_no_dataset_has_no_card(tmp_path):
  with pytest.raises(FileNotFoundError, match='Expected a dataset in .*folder'):
    card.write(tmp_path, 'folder', str(tmp_path))
