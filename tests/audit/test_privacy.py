import json

import ml_collections
import numpy as np
import pytest

from vimonet_jax.apps import answer, chat, inputs
from vimonet_jax.audit import privacy
from vimonet_jax.data import video
from vimonet_jax.models import clip_video
from vimonet_jax.synthetic import world


@pytest.fixture(autouse=True)
def decoded(monkeypatch):
  """Paths of which a frame was wanted; in this mode there must be none."""
  wanted = []

  def read_clip(path, **options):
    wanted.append(path)
    raise AssertionError(f'{path} is decoded')

  monkeypatch.setattr(video, 'read_clip', read_clip)
  return wanted


@pytest.fixture
def motion(tmp_path):
  np.save(tmp_path / 'walk.npy', world.World().make_record('test', 5).motion)
  return str(tmp_path / 'walk.npy')


def test_it_is_off_unless_it_is_asked_for():
  assert not privacy.is_motion_only(ml_collections.ConfigDict())
  settings = {'privacy': {'motion_only': True}}
  assert privacy.is_motion_only(ml_collections.ConfigDict(settings))
  privacy.check('video', motion_only=False)


def test_motion_is_accepted_and_nothing_else():
  privacy.check('motion', motion_only=True)
  with pytest.raises(privacy.RefusedError, match='motion alone.* found video'):
    privacy.check('video', motion_only=True)
  with pytest.raises(ValueError, match="motion, video, found 'sound'"):
    privacy.check('sound', motion_only=False)


def test_a_video_is_refused_before_any_file_is_opened(motion, decoded):
  tower = clip_video.Config(16, 1, 2, 16, image_size=8, patch_size=8)
  given = {'motion': 'none.bvh', 'video': 'none.mp4'}
  with pytest.raises(privacy.RefusedError):
    inputs.read(tower, **given, motion_only=True)
  found = inputs.read(tower, motion=motion, motion_only=True)
  assert found.record.motion is not None
  assert not decoded
  # The trap works: without the mode the video is wanted.
  with pytest.raises(AssertionError, match='walk.mp4 is decoded'):
    inputs.read(tower, video='walk.mp4')


def test_chat_refuses_a_video_in_one_sentence(
  tiny_model, motion, decoded, capsys
):
  shown = {'motion': motion, 'video': 'walk.mp4', 'question': 'Why?'}
  assert chat.run(tiny_model.workdir, **shown, motion_only=True) == 1
  out, err = capsys.readouterr()
  assert (out, decoded) == ('', [])
  assert err.count('\n') == 1
  assert 'config.privacy.motion_only' in err
  shown['video'] = None
  assert chat.run(tiny_model.workdir, **shown, motion_only=True) == 0


def test_questions_about_videos_have_no_answer_and_others_do(
  tiny_model, motion, decoded, tmp_path
):
  asked = [
    {'id': 'a', 'question': 'Why?', 'motion': motion},
    {'id': 'b', 'question': 'Why?', 'video': 'walk.mp4'},
    {'id': 'c', 'question': 'Why?', 'motion': motion, 'video': 'walk.mp4'},
  ]
  questions, answers = tmp_path / 'asked.jsonl', tmp_path / 'answers.jsonl'
  questions.write_text(''.join(f'{json.dumps(x)}\n' for x in asked))
  code = answer.run(
    tiny_model.workdir, str(questions), str(answers), motion_only=True
  )
  first, *others = map(json.loads, answers.read_text().splitlines())
  assert (code, decoded) == (1, [])
  assert first['inputs'] == ['motion']
  for line in others:
    assert 'config.privacy.motion_only' in line['error']
    assert 'answer' not in line
