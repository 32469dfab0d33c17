import dataclasses

import numpy as np
import pytest
import samples

from vimonet_jax.data import clips, sources, survey
from vimonet_jax.data import found as found_lib


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'joints').mkdir()
  (tmp_path / 'texts').mkdir()
  lengths = {'a': 61, 'b': 61, 'short': 30, 'c': 81, 'long': 250, 'bad': 61}
  for name, length in lengths.items():
    joints = samples.walk(length)
    if name == 'bad':
      joints[50:] = np.nan
    np.save(tmp_path / 'joints' / f'{name}.npy', joints)
    said = 'walks#x#0#0\n' + 'on#x#0#1\nand on#x#0#0\n' * (name == 'a')
    (tmp_path / 'texts' / f'{name}.txt').write_text(said)
  (tmp_path / 'train.txt').write_text('a\nb\nshort\nbad\nnowhere\n')
  (tmp_path / 'val.txt').write_text('c\nlong\n')
  return sources.Folder(str(tmp_path), source='mine', licence='CC0')


def test_a_folder_is_counted_split_by_split(folder):
  found = folder.survey()
  assert found.rows == (
    survey.Row('mine', 'train', 2, missing=1, unreadable=1, left_out=2,
               turns=3),
    survey.Row('mine', 'val', 1, left_out=1, turns=1),
    survey.Row('mine', 'test'),
  )  # fmt: skip
  assert found.notes == (
    'mine, missing: 1 (nowhere; the first: no caption in texts/nowhere.txt)',
    'mine, damaged: 1 (bad)',
    'mine, too short: 2 (a_0-20 short)',
    'mine, too long: 1 (long)',
  )


def test_captions_of_a_clip_with_a_video_are_said_of_both():
  clip = clips.Clip('a', 'val', '', '', 'a', 0, 60, ('x', 'y'), video='a.mp4')
  still = dataclasses.replace(clip, video='')
  found = survey.of_clips('s', found_lib.Found({'val': [clip, still]}))
  assert [row.turns for row in found.rows] == [0, 6, 0]


def test_the_table_has_sums_and_says_what_nobody_knows():
  one = survey.Survey(
    (survey.Row('a', 'train', 1234, 1, turns=5), survey.Row('a', 'val', 6)),
    ('A note.',),
  )
  two = survey.Survey((survey.Row('longer', 'train', 10, turns=None),))
  assert survey.text([one]).splitlines() == [
    'source  split  present  missing  unreadable  left out  turns',
    'a       train    1,234        1           0         0      5',
    'a       val          6        0           0         0      0',
    'all              1,240        1           0         0      5',
    '',
    'A note.',
  ]
  assert survey.text([one, two]).splitlines()[4].split() == [
    'all', '1,250', '1', '0', '0', '?',
  ]  # fmt: skip


def test_a_note_names_the_first_and_counts_all():
  assert survey.named('left', []) == []
  assert survey.named('left', list('abcdefg')) == ['7 left: a, b, c, d, e, ...']
