import base64
import dataclasses
import functools
import io

import numpy as np
import pytest
from PIL import Image

from vimonet_jax.data import records
from vimonet_jax.motion import features, skeleton
from vimonet_jax.synthetic import world
from vimonet_jax.web import clip as clips

BOTH = ('motion', 'video')


@functools.cache
def _record(index=0):
  return world.World().make_record('test', index)


def _clip(*media, index=0, is_example=False):
  record = clips.shown_to(_record(index), media)
  names = {medium: f'{index}.{medium}' for medium in media}
  notes = {medium: [f'{medium} {index}'] for medium in media}
  return clips.Clip(record, names, notes, is_example=is_example)


def test_what_is_shown_is_what_the_model_reads():
  clip = _clip(*BOTH)
  shown = clips.as_shown(clip)
  joints = np.frombuffer(base64.b64decode(shown['motion']['joints']), '<f4')
  joints_TJ3 = joints.reshape(-1, skeleton.NUM_JOINTS, 3)
  np.testing.assert_allclose(
    joints_TJ3, features.recover(clip.record.motion), atol=1e-6
  )
  assert shown['seconds'] == len(clip.record.motion) / records.FPS
  for frame, url in zip(clip.record.frames, shown['frames'], strict=True):
    kind, coded = url.split(';base64,')
    assert kind == 'data:image/png'
    picture = Image.open(io.BytesIO(base64.b64decode(coded)))
    np.testing.assert_array_equal(np.asarray(picture), frame)


def test_every_bone_is_drawn_once_on_its_side():
  limbs = clips.as_shown(_clip('motion'))['motion']['limbs']
  bones = {
    bone: limb['side']
    for limb in limbs
    for bone in zip(limb['joints'], limb['joints'][1:], strict=False)
  }
  assert sorted(bones) == sorted(
    (parent, j) for j, parent in enumerate(skeleton.PARENTS) if parent >= 0
  )
  knee = skeleton.INDEX['left_knee']
  assert bones[skeleton.INDEX['left_hip'], knee] == 'left'
  assert sorted(limb['side'] for limb in limbs) == [
    'left', 'left', 'right', 'right', 'trunk',
  ]  # fmt: skip


def test_large_pictures_are_sent_as_photographs():
  frames = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
  record = records.Record('x', 'x', 'test', frames=frames)
  shown = clips.as_shown(clips.Clip(record, {}))
  assert all(x.startswith('data:image/jpeg;') for x in shown['frames'])
  assert 'motion' not in shown
  assert shown['seconds'] > 0


def test_nothing_is_shown_of_nothing():
  shown = clips.as_shown(clips.NOTHING)
  assert shown['seconds'] == 0
  assert not {'motion', 'frames'} & set(shown)


def test_a_file_is_added_to_a_clip_or_takes_the_place_of_its_like():
  motion, video = _clip('motion'), _clip('video', index=1)
  both = clips.joined(motion, video)
  assert clips.media(both) == BOTH
  assert both.record.motion is motion.record.motion
  assert both.names == {'motion': '0.motion', 'video': '1.video'}
  assert clips.as_shown(both)['notes'] == ['motion 0', 'video 1']
  other = clips.joined(both, _clip('motion', index=2))
  assert clips.as_shown(other)['notes'] == ['motion 2', 'video 1']
  assert len(other.record.motion) == len(_record(2).motion)
  assert other.record.frames is video.record.frames
  left = clips.without(other, 'motion')
  assert clips.media(left) == ('video',)
  assert list(left.names) == ['video']
  assert clips.as_shown(left)['notes'] == ['video 1']


def test_nothing_of_an_example_stays_beside_a_file():
  example = _clip(*BOTH, is_example=True)
  own = clips.joined(example, _clip('motion', index=1))
  assert clips.media(own) == ('motion',)
  assert not own.is_example


@pytest.mark.parametrize('allowed', [BOTH, ('motion',)])
def test_examples_ask_what_their_media_show(allowed):
  held = [_record(i) for i in range(12)]
  found = clips.examples(held, 5, allowed)
  assert len(found) == 5
  kinds = [clips.media(clip) for clip in found]
  wanted = [('motion',), BOTH, ('video',)] if 'video' in allowed else [allowed]
  assert kinds == [wanted[i % len(wanted)] for i in range(5)]
  questions = [clip.question for clip in found]
  assert len(set(questions)) == len(questions)
  for clip, kind in zip(found, kinds, strict=True):
    assert clip.is_example
    record = next(r for r in held if r.id == clip.record.id)
    turn = next(t for t in record.turns if t.question == clip.question)
    assert records.DOMAINS[turn.domain] == kind
    assert not clip.record.turns


def test_records_without_questions_are_no_examples():
  silent = dataclasses.replace(_record(), turns=())
  assert clips.examples([silent], 3, BOTH) == []
  assert clips.examples([_record()], 3, ()) == []
