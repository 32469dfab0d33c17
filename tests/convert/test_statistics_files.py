"""The mean and std beside a published VQ-VAE, and what is taken for them."""

import numpy as np
import pytest

from vimonet_jax.convert import statistics_files
from vimonet_jax.motion import features

RNG = np.random.default_rng(0)
PAIR = features.Statistics(RNG.random(263), RNG.random(263) + 0.5)
read = statistics_files.read


@pytest.fixture(name='folder')
def _folder(tmp_path):
  np.save(tmp_path / 'mean.npy', PAIR.mean)
  np.save(tmp_path / 'std.npy', PAIR.std)
  return tmp_path


def _same(found):
  np.testing.assert_array_equal(found.mean, PAIR.mean)
  np.testing.assert_array_equal(found.std, PAIR.std)
  return True


@pytest.mark.parametrize('name', ['', 'mean.npy', 'std.npy'])
def test_a_folder_or_one_of_its_files_names_the_pair(folder, name):
  assert _same(read(str(folder / name), root_gain=PAIR.root_gain))


def test_other_spellings_are_read(folder):
  for name in ('mean', 'std'):
    (folder / f'{name}.npy').rename(folder / f'{name.capitalize()}.npy')
  assert _same(read(str(folder), root_gain=PAIR.root_gain))
  assert _same(read(str(folder / 'Std.npy'), root_gain=PAIR.root_gain))
  PAIR.save(str(folder / 'any.npz'))
  assert _same(read(str(folder / 'any.npz'), root_gain=PAIR.root_gain))


def _refused(path, sentence, gain=PAIR.root_gain):
  with pytest.raises(statistics_files.StatisticsError, match=sentence) as e:
    read(path and str(path), root_gain=gain)
  assert 'pickle' not in str(e.value)  # NumPy's advice is to allow them.


def test_where_published_pairs_lie_is_said(folder):
  for path in (None, folder / 'nowhere'):
    _refused(path, 'NRES3/meta, MotionGPT in assets/meta')
  _refused(folder, 'found .* times; take the pair', gain=100 * PAIR.root_gain)
  (folder / 'mean.npy').unlink()
  _refused(folder, r'found no mean\.npy; correct --statistics')
  _refused(folder / 'std.npy', r'found no mean\.npy; correct --statistics')
  _refused(folder / 'nowhere', 'found nothing there; correct')


@pytest.mark.parametrize(
  ('content', 'sentence'),
  [
    (b'0.1 0.2 0.3', r"std.npy.*begins with b'0\.1 0\.2 0\.3'; fetch"),
    (b'', "begins with b''; fetch"),
    (b'version https://git-lfs.github.com/spec/v1\n', 'pointer of git-lfs'),
    (np.ones((3, 263)), r'std.npy: expected 263 numbers, found shape \[3, 263'),
    (np.ones(251), r"\[251\], which are those of KIT-ML's joints; take"),
    (np.array(None), 'found Python objects; save them as float32'),
    (np.zeros(263), '263 bad ones'),
    (np.array(['a'] * 263), 'could not convert'),
  ],
  ids=lambda x: '',
)
def test_a_file_that_is_none_is_named(folder, content, sentence):
  path = folder / 'std.npy'
  if isinstance(content, bytes):
    path.write_bytes(content)
  else:
    np.save(path, content, allow_pickle=True)
  _refused(folder, sentence)
  _refused(folder / 'mean.npy', sentence)


def test_an_ending_that_lies_is_said(folder):
  np.savez(folder / 'any.npz', mean=PAIR.mean, std=PAIR.std)
  (folder / 'any.npz').rename(folder / 'std.npy')
  _refused(folder, 'std.npy: expected an array, .* found an archive; correct')
  (folder / 'mean.npy').rename(folder / 'mean.npz')
  _refused(folder / 'mean.npz', 'expected an archive, .* found an array; corr')


def test_an_archive_needs_both(folder):
  np.savez(folder / 'half.npz', mean=PAIR.mean)
  _refused(folder / 'half.npz', r"arrays mean and std, found \['mean'\]")
  (folder / 'text.npz').write_text('mean')
  _refused(folder / 'text.npz', "begins with b'mean'")
