import numpy as np
import pytest
import samples

from vimonet_jax.data import builder, sources, survey


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
  found = survey.survey(folder)
  assert found.rows == (
    survey.Row('mine', 'train', 2, missing=1, unreadable=1, left_out=2,
               turns=3),
    survey.Row('mine', 'val', 1, left_out=1, turns=1),
    survey.Row('mine', 'test'),
  )  # fmt: skip
  where = folder.path
  assert found.notes == (
    f'1 without motion or caption in {where}: nowhere',
    f'1 with NaN or infinity in {where}: bad',
    f'2 too short in {where}: a_0-20, short',
    f'1 too long in {where}: long',
  )


def test_other_sources_are_counted_by_their_items():
  made = builder.Synthetic(num_train=3, num_val=2, num_test=1)
  assert survey.survey(made).rows == (
    survey.Row('synthetic', 'train', 3, turns=None),
    survey.Row('synthetic', 'val', 2, turns=None),
    survey.Row('synthetic', 'test', 1, turns=None),
  )


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
