import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vimonet_jax.apps import features as app
from vimonet_jax.data import sources
from vimonet_jax.motion import draw, features, readers, skeleton
from vimonet_jax.synthetic import actions

REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def walk():
  """Somebody who walks straight on for some seconds, float32 [T, 22, 3]."""
  program = [actions.Action('walk', direction='forward', speed='quickly')] * 2
  return actions.animate(program, np.random.default_rng(3)).joints


@pytest.fixture
def convert(tmp_path, capsys):
  """Runs the task; returns the exit code, the report by name, the output."""

  def convert_once(source, output=tmp_path / 'out', **flags):
    code = app.run(str(source), str(output), **flags)
    rows = json.loads((output / 'features.json').read_text())
    return code, {row['name']: row for row in rows}, capsys.readouterr().out

  return convert_once


def _assert_sentence(sentence):
  assert sentence.lower().startswith('expected ')
  assert '; ' in sentence.partition(', found ')[2], 'nothing to do is said'
  assert sentence.endswith('.')
  assert '. ' not in sentence
  assert '\n' not in sentence


# What is written.


def test_joints_become_features_joints_and_a_picture(tmp_path, walk, convert):
  np.save(tmp_path / 'walk.npy', walk)
  code, report, printed = convert(tmp_path / 'walk.npy', fps=20, animate=True)
  assert code == 0
  out = tmp_path / 'out'
  motion = np.load(out / 'new_joint_vecs/walk.npy')
  assert motion.dtype == np.float32
  np.testing.assert_array_equal(motion, features.encode(walk))
  joints = np.load(out / 'joints/walk.npy')
  assert joints.dtype == np.float32
  np.testing.assert_array_equal(joints, walk)
  with Image.open(out / 'pictures/walk.png') as image:
    assert image.width > 5 * image.height
  with Image.open(out / 'pictures/walk.gif') as image:
    assert image.n_frames == len(walk)
  row = report['walk']
  assert row['input'] == str(tmp_path / 'walk.npy')
  assert (row['frames'], row['fps'], row['failure']) == (len(walk), 20, '')
  assert row['warnings'] == []
  assert any('Up axis y' in note for note in row['notes'])
  header, line, end = printed.splitlines()
  assert header.split() == [
    'file', 'frames', 'fps', 'in', 'seconds', 'height', 'm', 'error', 'mm',
    'warnings',
  ]  # fmt: skip
  assert line.split() == [
    'walk.npy', f'{len(walk)}', '20', f'{len(walk) / 20:.1f}',
    f'{row["height_m"]:.2f}', '0.000,', '0.000', '-',
  ]  # fmt: skip
  assert end == f'1 of 1 are in {out}.'
  convert(tmp_path / 'walk.npy', fps=20)
  assert not list(out.rglob('*.gif')), 'a picture of an earlier run'


def test_the_error_is_of_joints_that_features_give_back(
  tmp_path, walk, convert
):
  """Who turns by half a turn is turned aside from there on: see features."""
  half_T = np.linspace(0, np.pi, len(walk))[:, None] / 2 * 1.4
  q = np.stack([np.cos(half_T), 0 * half_T, np.sin(half_T), 0 * half_T], -1)
  turning = skeleton.quat_rotate(q, walk - walk[:, :1] * [1, 0, 1])
  turning += walk[:, :1] * [1, 0, 1]
  np.save(tmp_path / 'turning.npy', turning)
  code, report, printed = convert(tmp_path / 'turning.npy', fps=20)
  assert code == 0
  made_of = features.canonicalise(turning)[:-1]
  given = features.recover(features.encode(turning))
  off_mm = 1000 * np.linalg.norm(given - made_of, axis=-1)
  assert off_mm.max() > 10
  mean_mm, most_mm = report['turning']['error_mm']
  assert mean_mm == pytest.approx(off_mm.mean(), rel=1e-3)
  assert most_mm == pytest.approx(off_mm.max(), rel=1e-3)
  assert 'joints/ has the motion as it is.' in printed


def test_features_stay_as_they_are(tmp_path, walk, convert):
  motion = features.encode(walk)
  np.savez(tmp_path / 'walk.npz', motion)
  code, report, printed = convert(tmp_path / 'walk.npz')
  assert code == 0
  out = tmp_path / 'out'
  np.testing.assert_array_equal(
    np.load(out / 'new_joint_vecs/walk.npy'), motion
  )
  np.testing.assert_array_equal(
    np.load(out / 'joints/walk.npy'), features.recover(motion)
  )
  assert report['walk']['error_mm'] is None
  assert 'as given' in printed


def test_the_output_is_data_to_train_on(tmp_path, walk, convert):
  """With captions and split files, for configs/mocap.py."""
  folder = tmp_path / 'in'
  for name in ('one.npy', 'more/two steps.npy', 'more/three.npy'):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / name, walk)
  _, report, _ = convert(folder, fps=20)
  out = tmp_path / 'out'
  assert list(report) == ['more/three', 'more/two_steps', 'one']
  for split, name in zip(('train', 'val', 'test'), report, strict=True):
    (out / f'{split}.txt').write_text(f'{name}\n')
    text = out / 'texts' / f'{name}.txt'
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text('a person walks.#a/DET#0.0#0.0\n')
  data = sources.Folder(str(out), 'mine', 'none')
  for split, clips in data.splits().items():
    (clip,) = clips
    assert clip.file.startswith('new_joint_vecs/'), split
    record = data.make(clip)
    np.testing.assert_array_equal(
      record.motion, features.encode(walk)[: len(record.motion)]
    )
  # The joints beside them are the same motion.
  shutil.rmtree(out / 'new_joint_vecs')
  (clip,) = data.splits()['test']
  np.testing.assert_array_equal(data.make(clip).motion, record.motion)


@pytest.mark.parametrize(
  ('names', 'fps', 'count'),
  [
    ('mocap/raw', None, 16),
    ('babel_segments', 30, 2),
    ('retargeted', 20, 4),
    ('humanml3d/new_joint_vecs', None, 2),
    ('mocap/oracle/new_joint_vecs', None, 29),
  ],
)
def test_real_files_are_converted_without_a_false_alarm(
  shared_data, convert, names, fps, count
):
  code, report, _ = convert(shared_data / names, fps=fps)
  assert code == 0
  assert len(report) == count
  for row in report.values():
    # How long they are is no matter of opinion.
    assert {w['kind'] for w in row['warnings']} <= {'short', 'long'}
    assert row['error_mm'] is None or row['error_mm'][0] < 20


def test_a_raw_clip_of_humanml3d_gives_its_published_features(
  tmp_path, shared_data, convert
):
  """Everyone gets the bones of HumanML3D's target skeleton on the way."""
  official = np.load(
    shared_data / 'humanml3d/004822_raw_joints_and_features.npz'
  )
  np.save(tmp_path / '004822.npy', official['joints'])
  convert(tmp_path / '004822.npy', fps=20)
  motion = np.load(tmp_path / 'out/new_joint_vecs/004822.npy')
  np.testing.assert_allclose(motion, official['hml263'], atol=1e-4)
  target = np.load(shared_data / 'humanml3d/target_skeleton_000021_frame0.npy')[
    :22
  ]
  bones = target[1:] - target[list(skeleton.PARENTS[1:])]
  np.testing.assert_allclose(
    skeleton.BONE_LENGTHS_J[1:], np.linalg.norm(bones, axis=-1), atol=1e-5
  )


# What looks wrong, each by a file that has it: refused, or converted with a
# warning. The checks themselves are tested with the body, in motion/.


def _joints(make, **flags):
  return (lambda path, x: np.save(path, make(x))), {'fps': 20, **flags}


def _as_features(make):
  return (lambda path, x: np.save(path, features.encode(make(x)))), {}


def _backward(joints):
  path = joints[:, :1] * [1, 0, 1]
  return joints - 2 * path


def _jumping(joints):
  return joints + 0.5 * (np.arange(len(joints)) > 30)[:, None, None] * [1, 0, 1]


def _dipping(joints):
  joints = joints.copy()
  joints[9, skeleton.INDEX['left_foot'], 1] -= 0.5
  return joints


def _hole(joints):
  joints = joints.copy()
  joints[5] = np.inf
  return joints


ODD_FILES = {
  'z up, read as y up': (
    *_joints(lambda x: x @ readers.TO_Y_UP['z'], up='y'), 'axes', '--up=z',
  ),
  'features of joints with z up': (
    *_as_features(lambda x: x @ readers.TO_Y_UP['z']), 'axes', '--up=z',
  ),
  'left for right': (
    *_joints(lambda x: x[:, skeleton.MIRROR]), '', 'exchanges left and right',
  ),
  'features of left for right': (
    *_as_features(lambda x: x[:, skeleton.MIRROR]), 'mirrored', 'exchanged',
  ),
  'backward': (*_joints(_backward), 'path', 'by 180 degrees'),
  'centimetres, read as metres': (
    *_joints(lambda x: 100 * x, unit='m'), '', 'pass --unit=cm.',
  ),
  'metres, read as centimetres': (
    *_joints(lambda x: x, unit='cm'), '', 'pass --unit=m.',
  ),
  'a body of 1.7 cm': (*_joints(lambda x: 0.01 * x), '', 'pass --unit'),
  'half a body': (*_joints(lambda x: 0.5 * x, unit='m'), 'size', '--unit'),
  'infinity': (*_joints(_hole), '', 'in 1 of'),
  'one frame': (*_joints(lambda x: x[:1]), '', 'found 1 frames'),
  'half a second': (*_joints(lambda x: x[:10]), '', 'at least 1 s of motion'),
  'a short clip': (
    *_joints(lambda x: x[:30], up='y'), 'short', 'found 29; take a longer part',
  ),
  'a long clip': (
    *_joints(lambda x: np.concatenate([x, x[::-1]] * 3)[:300]),
    'long', 'found 299, more than a model reads; cut the file',
  ),
  '10 times too fast': (
    *_joints(lambda x: np.concatenate([x, x[::-1]] * 3)[::10]), 'speed',
    'pass the --fps',
  ),
  'a T-pose': (
    *_joints(lambda x: np.repeat(x[:1], 60, axis=0) + [1, 0, 1]), 'still',
    'animation was left out',
  ),
  'a jump': (*_joints(_jumping), 'jump', '0.71 m within 0.05 s at 1.50 s'),
  'a leap of metres': (
    *_joints(lambda x: _jumping(_jumping(_jumping(x)))), '', 'pelvis no faster',
  ),
  'a foot in the floor': (
    *_joints(_dipping, up='y'), 'floor', 'left_foot 0.5 m below',
  ),
  'feet in the air': (
    *_joints(lambda x: x + [0, 2, 0], up='y'), 'floor', '2 m above it',
  ),
  'about the pelvis': (
    *_joints(lambda x: x - x[:, :1], up='y'), 'in place', 'relative to it',
  ),
}  # fmt: skip


@pytest.mark.parametrize('fault', ODD_FILES)
def test_an_odd_file_is_told_why_and_what_to_do(tmp_path, walk, convert, fault):
  write, flags, kind, words = ODD_FILES[fault]
  floor = [0, walk[..., 1].min(), 0]
  write(tmp_path / 'a.npy', walk.astype(np.float64) - floor)
  code, report, printed = convert(tmp_path / 'a.npy', **flags)
  row = report['a']
  assert code == (not kind)
  told = {w['kind']: w['sentence'] for w in row['warnings']}
  sentence = told[kind] if kind else row['failure']
  assert words in sentence
  _assert_sentence(sentence)
  assert sentence in printed
  assert bool(list((tmp_path / 'out').rglob('a.*'))) == bool(kind)


# Files that cannot be read.


def _truncated(path, walk):
  np.savez(path, joints=walk, fps=20)
  path.write_bytes(path.read_bytes()[:4000])


BAD_FILES = {
  'truncated.npz': (_truncated, 'found a damaged or truncated one of 4000'),
  'pickle.npy': (
    lambda path, x: np.save(path, np.array([{}]), allow_pickle=True),
    'found pickled Python objects, which are never loaded',
  ),
  'empty.bvh': (lambda path, x: path.touch(), "found ''; export"),
  'alone.amc': (lambda path, x: path.write_text('1\n'), 'found no .asf there'),
  'count.npy': (lambda path, x: np.save(path, x[:, :19]), ', 19, 3]; save'),
  'text.bvh': (lambda path, x: path.write_text('Dear reader,'), "'Dear reader"),
  'nan.npy': (lambda path, x: np.save(path, np.nan * x), 'found NaN'),
  'none.npy': (lambda path, x: np.save(path, x[:0]), 'found 0 frames'),
  'folder.npy': (lambda path, x: path.mkdir(), 'found a folder there'),
  'missing.npy': (lambda path, x: path.symlink_to('nowhere'), 'found none'),
}


def test_a_bad_file_gets_one_sentence_and_the_others_go_on(
  tmp_path, walk, convert
):
  folder = tmp_path / 'in'
  folder.mkdir()
  for name, (write, _) in BAD_FILES.items():
    write(folder / name, walk)
  np.save(folder / 'a.npy', walk)
  np.save(folder / 'z.npy', walk)
  code, report, printed = convert(folder, fps=20)
  assert code == 1
  lines = {line.split()[0]: line for line in printed.splitlines()}
  for name, (_, words) in BAD_FILES.items():
    sentence = report[pathlib.Path(name).stem]['failure']
    assert words in sentence
    _assert_sentence(sentence)
    assert lines[name].endswith(f'  {sentence}')
  out = tmp_path / 'out'
  assert printed.endswith(f'2 of 12 are in {out}, 10 could not be converted.\n')
  assert len(list(out.rglob('*.npy'))) == 4
  assert convert(tmp_path / 'nowhere.bvh')[0] == 1


@pytest.mark.parametrize(
  ('source', 'output', 'words'),
  [
    ('', 'out', 'found no --input'),
    ('in', '', 'found no --output'),
    ('in', 'out', 'found none; name the folder'),
    ('out/joints', 'out', 'which is none that this writes to'),
  ],
)
def test_nothing_to_do_is_a_sentence(tmp_path, monkeypatch, source, output,
                                     words):  # fmt: skip
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'in').mkdir()
  (tmp_path / 'out/joints').mkdir(parents=True)
  (tmp_path / 'out/joints/a.npy').touch()
  with pytest.raises(ValueError, match=words):
    app.run(source, output)


# Names.


def test_what_another_input_has_made_is_kept(tmp_path, walk, convert):
  for folder in ('one', 'other'):
    (tmp_path / folder).mkdir()
  np.save(tmp_path / 'one/a.npy', walk)
  np.savez(tmp_path / 'one/a.npz', joints=walk[:50], fps=20)
  np.save(tmp_path / 'other/a.npy', walk[:60])
  code, _, printed = convert(tmp_path / 'one', fps=20)
  assert code == 1
  owner = tmp_path / 'one/a.npy'
  sentence = f'expected a name of its own, found that {owner} is called a, too;'
  assert f'a.npz  {sentence}' in printed
  code, _, printed = convert(tmp_path / 'other', fps=20)
  assert code == 1
  assert f'a.npy  {sentence}' in printed
  made = tmp_path / 'out/joints/a.npy'
  np.testing.assert_array_equal(np.load(made), walk)
  # The same input may be converted again, and what it was is gone if it fails.
  np.save(owner, walk[:70])
  code, report, _ = convert(owner, fps=20)
  assert (code, report['a']['frames'], len(np.load(made))) == (0, 70, 70)
  assert convert(owner)[0] == 1
  assert not made.exists()
  assert convert(tmp_path / 'other', fps=20)[0] == 0
  np.testing.assert_array_equal(np.load(made), walk[:60])


def test_files_of_another_program_are_kept(tmp_path, walk, convert):
  np.save(tmp_path / 'a.npy', walk)
  theirs = tmp_path / 'out/new_joint_vecs/a.npy'
  theirs.parent.mkdir(parents=True)
  theirs.write_text('theirs')
  code, report, _ = convert(tmp_path / 'a.npy', fps=20)
  assert code == 1
  assert f'expected no {theirs}, found one' in report['a']['failure']
  assert theirs.read_text() == 'theirs'
  theirs.unlink()
  for text in ('{"theirs": 1}', '[1]', 'no JSON'):
    (tmp_path / 'out/features.json').write_text(text)
    with pytest.raises(ValueError, match='as an earlier run wrote it'):
      app.run(str(tmp_path / 'a.npy'), str(tmp_path / 'out'), fps=20)
    assert (tmp_path / 'out/features.json').read_text() == text


@pytest.mark.parametrize('output', ['.', 'out', '..'])
def test_a_folder_is_walked_in_order_and_not_into_what_is_written(
  tmp_path, walk, convert, output
):
  tmp_path = tmp_path / 'in'
  tmp_path.mkdir()
  for name in ('b', 'a/c', 'a/a', '.hidden/d', '._b'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    np.save(tmp_path / f'{name}.npy', walk)
  (tmp_path / 'notes.txt').write_text('no motion')
  for _ in range(2):
    code, report, printed = convert(tmp_path, tmp_path / output, fps=20)
    assert code == 0
    assert list(report) == ['a/a', 'a/c', 'b']
    shown = [line.split()[0] for line in printed.splitlines()[1:4]]
    assert shown == ['a/a.npy', 'a/c.npy', 'b.npy']


def test_the_report_tells_of_earlier_runs_and_of_one_that_was_stopped(
  tmp_path, walk, convert, monkeypatch
):
  for name in 'abc':
    np.save(tmp_path / f'{name}.npy', walk)
  convert(tmp_path / 'c.npy', fps=20)
  skeleton_png = draw.skeleton_png

  def stop_at_b(joints, path):
    if path.name == 'b.png':
      raise KeyboardInterrupt
    return skeleton_png(joints, path)

  monkeypatch.setattr(draw, 'skeleton_png', stop_at_b)
  with pytest.raises(KeyboardInterrupt):
    app.run(str(tmp_path), str(tmp_path / 'out'), fps=20)
  rows = json.loads((tmp_path / 'out/features.json').read_text())
  assert [row['name'] for row in rows] == ['c', 'a']
  monkeypatch.undo()
  code, report, _ = convert(tmp_path, fps=20)
  assert (code, sorted(report)) == (0, ['a', 'b', 'c'])


def test_the_front_door_hands_on_its_flags(tmp_path, walk):
  np.save(tmp_path / 'a.npy', 100 * walk @ readers.TO_Y_UP['z'])
  found = subprocess.run(
    [
      sys.executable, '-m', 'vimonet_jax.main', '--config=configs/mocap.py',
      '--task=features', f'--input={tmp_path / "a.npy"}', '--animate',
      f'--output={tmp_path / "out"}', '--fps=40', '--up=z', '--unit=cm',
    ],
    cwd=REPOSITORY, capture_output=True, text=True,
  )  # fmt: skip
  assert found.returncode == 0, found.stderr
  assert found.stderr == ''
  (row,) = json.loads((tmp_path / 'out/features.json').read_text())
  assert (row['fps'], row['frames']) == (40, (len(walk) + 1) // 2)
  assert row['notes'] == [
    'Turned from z up to y up.', 'Resampled from 40 to 20 fps.'
  ]  # fmt: skip
  assert (tmp_path / 'out/pictures/a.gif').exists()
