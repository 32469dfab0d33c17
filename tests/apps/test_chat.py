import dataclasses
import functools
import io
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vimonet_jax.apps import chat
from vimonet_jax.data import records, video
from vimonet_jax.infer import conversation, engine, model_folder
from vimonet_jax.motion import features
from vimonet_jax.synthetic import world

REPOSITORY = pathlib.Path(__file__).parents[2]
SHARED = REPOSITORY.parent / 'shared/data'
QUESTION = 'What is the person doing?'


@functools.cache
def _large():
  return world.World().make_record('test', 5)


@functools.cache
def _record():
  """With pictures as small as the tiny model reads them."""
  frames = [video.square(x, 8, antialias=True) for x in _large().frames]
  return dataclasses.replace(_large(), frames=np.stack(frames))


@pytest.fixture
def ask(tiny_model, capfd):
  """Runs chat; returns the exit code, and what it wrote where."""

  def ask_once(motion=None, video=None, *, question=QUESTION, **changes):
    changes = {'workdir': tiny_model.workdir, **changes}
    motion, video = (path and os.fspath(path) for path in (motion, video))
    workdir = changes.pop('workdir')
    code = chat.run(
      workdir, motion=motion, video=video, question=question, **changes
    )
    return code, *capfd.readouterr()

  return ask_once


@pytest.fixture
def files(tmp_path):
  """The same clip in the forms that a test can write by itself."""
  record = _record()
  np.save(tmp_path / 'joints.npy', record.joints)
  np.save(tmp_path / 'features.npy', record.motion)
  images = [Image.fromarray(frame) for frame in _large().frames]
  images[0].save(
    tmp_path / 'clip.gif', save_all=True, append_images=images[1:]
  )  # fmt: skip
  (tmp_path / 'images').mkdir()
  for i, image in enumerate(images):
    image.save(tmp_path / 'images' / f'{i}.png')
  return tmp_path


def _sentence(code, out, err):
  """The line about what went wrong, after a look at its form."""
  assert code == 1
  assert out == ''
  assert err.count('\n') == 1
  sentence = err.rstrip('\n')
  assert 'expected ' in sentence.lower()
  assert ', found ' in sentence
  assert '; ' in sentence, 'nothing to do is said'
  assert sentence.endswith('.')
  assert 'Traceback' not in sentence
  return sentence


def _type(monkeypatch, *lines):
  monkeypatch.setattr(sys, 'stdin', io.StringIO('\n'.join(lines)))


# Answers.


def test_a_file_is_read_as_in_training(tiny_model, ask, files):
  record = _record()
  answer = functools.partial(_answers, tiny_model, [QUESTION])
  motion = dataclasses.replace(record, frames=None)
  frames = dataclasses.replace(record, motion=None)
  for paths, shown, flags in (
    (('joints.npy', None), motion, {'fps': 20.0}),
    (('features.npy', None), motion, {}),
    ((None, 'images'), frames, {}),
    (('features.npy', 'images'), record, {}),
  ):
    paths = [path and files / path for path in paths]
    code, out, _ = ask(*paths, **flags)
    assert code == 0
    assert out == answer(shown)[0] + '\n'
  assert answer(motion) != answer(frames)
  code, out, err = ask(None, files / 'clip.gif')
  assert (code, err) == (0, '')
  assert out.strip()


def _answers(tiny_model, questions, record):
  asked = engine.Engine(tiny_model.bundle, tiny_model.params)
  talk = conversation.Conversation(asked, record, max_new_tokens=128)
  return [talk.ask(question) for question in questions]


def test_what_was_converted_is_one_line_beside_the_answer(ask, files):
  path = files / 'joints.npy'
  np.save(path, 100 * np.repeat(_record().joints, 6, axis=0))
  code, out, err = ask(path, fps=120.0)
  assert code == 0
  assert 'Unit' not in out
  assert err.count('\n') == 1
  assert err.startswith(f'{path}: Unit cm, detected')
  assert 'Resampled from 120 to 20 fps.' in err


def test_a_clip_that_is_too_long_or_short_is_read_with_a_note(ask, files):
  motion = _record().motion
  path = files / 'features.npy'
  answers = []
  for copies in (3, 4):
    np.save(path, np.concatenate([motion] * copies))
    code, out, err = ask(path)
    assert code == 0
    seconds = copies * len(motion) / records.FPS
    assert f'Only the first 9.8 of {seconds:.1f} s are read: cut' in err
    answers.append(out)
  assert answers[0] == answers[1]
  np.save(path, motion[:24])
  code, _, err = ask(path)
  assert code == 0
  assert 'The clip lasts 1.2 s and models are trained on 2 s or more' in err
  np.save(path, motion[:42])
  assert 'Only' not in ask(path)[2]


def test_the_start_of_a_long_clip_does_not_depend_on_its_end(ask, files):
  joints = _record().joints
  joints = np.concatenate([joints, joints[::-1], joints])
  path = files / 'joints.npy'
  np.save(path, joints)
  code, want, _ = ask(path, fps=20.0)
  assert code == 0
  # Down some stairs after what is read, so that the floor is another one.
  descent = 0.02 * np.clip(np.arange(len(joints)) - 200, 0, None)
  joints[:, :, 1] -= descent[:, None]
  np.save(path, joints)
  assert ask(path, fps=20.0, up='y')[:2] == (0, want)


# Conversations.


def test_a_conversation_remembers_what_was_said(
  tiny_model, ask, files, monkeypatch
):
  motion = dataclasses.replace(_record(), frames=None)
  want = _answers(tiny_model, [QUESTION, 'Why?'], motion)
  for end in ((), ('',), ('exit',), ('', 'Not read')):
    _type(monkeypatch, QUESTION, ' Why? ', *end)
    code, out, err = ask(files / 'features.npy', question=None)
    assert code == 0
    assert out == ''.join(f'{answer}\n' for answer in want)
    assert err.count('\n') == 1  # what the reader had to say
  _type(monkeypatch, 'Why?')
  assert ask(files / 'features.npy', question=None)[1] != want[1] + '\n'


def test_an_interrupt_ends_it_cleanly(ask, files, monkeypatch):
  def interrupt(prompt):
    raise KeyboardInterrupt

  monkeypatch.setattr('builtins.input', interrupt)
  code, out, err = ask(files / 'features.npy', question=None)
  assert (code, out) == (0, '')
  assert 'Traceback' not in err


def test_a_full_conversation_gives_way_to_a_new_one(ask, files, monkeypatch):
  class Short:
    """Has room for two turns, and never for a question of 99 letters."""

    number = 0

    def __init__(self):
      Short.number += 1
      self.turns = 0

    def ask(self, question):
      if self.turns == 2 or len(question) == 99:
        raise conversation.TooLongError('Too long.')
      self.turns += 1
      return f'{Short.number}.{self.turns}: {question}'

  monkeypatch.setattr(
    conversation, 'Conversation', lambda *_, **__: Short()
  )
  _type(monkeypatch, 'a' * 99, 'b', 'c', 'd', 'e' * 99, 'f')
  code, out, err = ask(files / 'features.npy', question=None)
  assert code == 0
  assert out.split('\n') == ['1.1: b', '1.2: c', '2.1: d', '3.1: f', '']
  assert err.count('Too long.') == 4
  assert err.count('A new conversation starts') == 2
  code, out, err = ask(files / 'features.npy', question='a' * 99)
  assert (code, out) == (1, '')
  assert err.endswith('\nToo long.\n')


# What goes wrong is one sentence and exit code 1.


def _write(path, content):
  path.write_bytes(content)
  return path


def _save(path, array):
  np.save(path, array, allow_pickle=True)
  return path


def _joints(folder, change):
  joints = _record().joints.copy()
  return _save(folder / 'bad.npy', change(joints))


def _with_nan(joints):
  joints[7, 3] = np.nan
  return joints


def _upon_each_other(joints):
  joints[40] = joints[40, 0]
  return joints


BVH = b"""HIERARCHY
ROOT Hips
{
  OFFSET 0.0 0.0 0.0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Spi"""

BAD_MOTIONS = {
  'NaN': (lambda f: _joints(f, _with_nan), {'fps': 20.0}),
  'joints upon each other': (
    lambda f: _joints(f, _upon_each_other), {'fps': 20.0}
  ),
  '21 joints': (lambda f: _joints(f, lambda x: x[:, :21]), {'fps': 20.0}),
  '3 frames': (lambda f: _joints(f, lambda x: x[:3]), {'fps': 20.0}),
  'no frame rate': (lambda f: _joints(f, lambda x: x), {}),
  'wrong unit': (
    lambda f: _joints(f, lambda x: x), {'fps': 20.0, 'unit': 'cm'}
  ),
  'truncated BVH': (lambda f: _write(f / 'bad.bvh', BVH), {}),
  'empty BVH': (lambda f: _write(f / 'bad.bvh', b''), {}),
  'another format': (lambda f: _write(f / 'bad.fbx', b'Kaydara'), {}),
  'no such file': (lambda f: f / 'none.bvh', {}),
  'a folder': (lambda f: f, {}),
  'pickled': (lambda f: _save(f / 'bad.npy', np.array([{}, None])), {}),
  'truncated npz': (lambda f: _write(f / 'bad.npz', b'PK\3\4 and so on'), {}),
  'AMC without ASF': (
    lambda f: _write(f / '16_17.amc', b':DEGREES\n1\nroot 0 0 0 0 0 0\n'), {}
  ),
  'normalised features': (
    lambda f: _save(f / 'bad.npy', np.random.default_rng(0).normal(
      0, 2, (60, features.NUM_FEATURES)
    )), {}
  ),
}  # fmt: skip


@pytest.mark.filterwarnings('error::RuntimeWarning')
@pytest.mark.parametrize('name', BAD_MOTIONS)
def test_a_bad_motion_is_one_sentence(ask, tmp_path, name):
  make, flags = BAD_MOTIONS[name]
  path = make(tmp_path)
  assert _sentence(*ask(path, **flags)).startswith(f'{path}: ')


def _image(path):
  Image.new('RGB', (8, 8)).save(path)
  return path


def _empty(folder):
  folder.mkdir()
  return folder


BAD_VIDEOS = {
  'text renamed': lambda f: _write(f / 'bad.mp4', b'It was a dark night.\n'),
  'empty file': lambda f: _write(f / 'bad.mp4', b''),
  'another format': lambda f: _write(f / 'bad.txt', b'It was a dark night.\n'),
  'empty folder': lambda f: _empty(f / 'bad'),
  'one image': lambda f: _image(f / 'bad.png'),
  'damaged image': lambda f: _write(f / 'bad.png', b'\x89PNG').parent,
  'no such file': lambda f: f / 'none.mp4',
}


@pytest.mark.filterwarnings('error::RuntimeWarning')
@pytest.mark.parametrize('name', BAD_VIDEOS)
def test_a_bad_video_is_one_sentence(ask, tmp_path, name):
  path = BAD_VIDEOS[name](tmp_path)
  assert _sentence(*ask(None, path)).startswith(str(path))


def test_something_has_to_be_asked_about_something(ask, files):
  assert 'found neither' in _sentence(*ask())
  assert 'found neither' in _sentence(*ask('', ''))
  sentence = _sentence(*ask(files / 'features.npy', question=' '))
  assert 'empty --question' in sentence


def test_an_unfinished_workdir_is_one_sentence(ask, files, tmp_path):
  motion = files / 'features.npy'
  for workdir in ('none', 'images'):
    found = ask(motion, workdir=str(files / workdir))
    assert '--task=pipeline' in _sentence(*found)
  (tmp_path / 'part/model').mkdir(parents=True)
  (tmp_path / 'part/model/config.json').write_text('{"model": ')
  sentence = _sentence(*ask(motion, workdir=str(tmp_path / 'part')))
  assert sentence.startswith(str(tmp_path / 'part'))


def test_missing_parts_of_a_model_are_one_sentence(
  tiny_model, ask, files, tmp_path
):
  for part in ('weights', 'tokenizer.model'):
    workdir = tmp_path / part.partition('.')[0]
    shutil.copytree(tiny_model.workdir, workdir)
    path = workdir / 'model' / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, out, err = ask(files / 'features.npy', workdir=str(workdir))
    assert (code, out) == (1, '')
    assert part in err.splitlines()[-1]
    assert 'Traceback' not in err


def test_media_that_the_model_cannot_read_are_one_sentence(
  tiny_model, ask, files, tmp_path
):
  params = {
    path: x
    for path, x in tiny_model.params.items()
    if not path.startswith(('video/', 'translators/video/'))
  }
  model_folder.save(str(tmp_path / 'model'), tiny_model.bundle, params)
  sentence = _sentence(*ask(None, files / 'images', workdir=str(tmp_path)))
  assert 'found video; leave it out' in sentence
  assert str(files / 'images') in sentence


def test_the_process_ends_with_exit_code_1(tmp_path):
  found = subprocess.run(
    [
      sys.executable, '-m', 'vimonet_jax.main',
      f'--config={REPOSITORY / "configs/tiny.py"}', '--task=chat',
      f'--workdir={tmp_path}', '--motion=none.bvh', '--question=Why?',
    ],
    cwd=REPOSITORY, capture_output=True, text=True,
  )  # fmt: skip
  _sentence(found.returncode, found.stdout, found.stderr)


# Real files.


@pytest.mark.parametrize(
  'name',
  [
    'mocap/raw/131_01.bvh',
    'mocap/raw/16_17.amc',
    'mocap/humanml3d_official/new_joint_vecs/*.npy',
    'videos/yoga.mp4',
    'videos/cobra_push_ups.mp4',
  ],
)
def test_real_files_are_answered(ask, name):
  found = sorted(SHARED.glob(name))
  if not found:
    pytest.skip(f'no ../shared/data/{name} here')
  is_video = name.startswith('videos/')
  code, out, err = ask(**{'video' if is_video else 'motion': found[0]})
  assert code == 0
  assert out.strip()
  assert err.count('\n') == (not is_video)


def test_the_decoder_may_be_quantised_for_it(ask, files):
  shown = {'video': files / 'images', 'quantize': 'int8'}
  code, out, _ = ask(**shown)
  assert code == 0
  assert out.endswith('\n')
  shown['quantize'] = 'int9'
  sentence = _sentence(*ask(**shown))
  assert "quantize to be int8, nf4 or '', found 'int9'" in sentence
