import dataclasses
import functools

import numpy as np
import pytest

from vimonet_jax.data import batches, records
from vimonet_jax.infer import clips, engine
from vimonet_jax.models import vimonet
from vimonet_jax.synthetic import world


@pytest.fixture(scope='module')
def asking(tiny_model):
  return engine.Engine.load(f'{tiny_model.workdir}/model')


@pytest.fixture
def encoded(asking, monkeypatch):
  """The batches that encoders were given."""
  seen = []
  call = asking.call

  def called(function, batch):
    seen.append(batch)
    return call(function, batch)

  monkeypatch.setattr(asking, 'call', called)
  return seen


@functools.cache
def _record(index=0, media=('motion', 'video')):
  record = world.World().make_record('test', index)
  return dataclasses.replace(
    record,
    motion=record.motion if 'motion' in media else None,
    frames=record.frames[:, ::6, ::6] if 'video' in media else None,
    turns=(records.Turn('What happens?', ''),),
  )


def _banks(kept, shown):
  return kept.banks(shown, [clips.keys(record) for record in shown])


def test_a_bank_is_what_the_model_makes_of_the_whole_record(asking):
  shown = [_record(0), _record(1)]
  found = _banks(clips.Clips(asking), shown)
  shape = dataclasses.replace(asking.row_shape(shown[0]), length=256)
  batch = asking.prompts(shown, shape, rows=2)
  model = asking.bundle.model
  want = vimonet.Vimonet(model).apply(
    vimonet.stack(asking._variables), batches.without_ids(batch), method='bank'
  )
  for banks, bank_MD in zip(found, want, strict=True):
    assert [len(x) for x in banks] == [model.motion_tokens, model.video_tokens]
    np.testing.assert_allclose(
      np.concatenate(banks), bank_MD, rtol=1e-5, atol=1e-5
    )


def test_a_clip_is_encoded_once_for_all_who_ask(asking, encoded):
  kept = clips.Clips(asking)
  first = _banks(kept, [_record(0), _record(0)])
  assert [set(batch) for batch in encoded] == [
    {'motion', 'motion_length'}, {'frames'}
  ]  # fmt: skip
  assert [len(batch['motion']) for batch in encoded[:1]] == [1]
  alone = _banks(kept, [_record(0, ('motion',))])
  assert len(encoded) == 2
  np.testing.assert_array_equal(alone[0][0], first[1][0])
  # Others come with some that are known.
  _banks(kept, [_record(0), *(_record(i) for i in range(1, 4))])
  assert [len(batch.get('frames', ())) for batch in encoded[2:]] == [0, 8]
  assert not encoded[3]['frames'][3:].any()


def test_what_nobody_asked_about_for_long_goes_first(asking, encoded):
  one = _banks(clips.Clips(asking), [_record(0, ('motion',))])[0][0].nbytes
  kept = clips.Clips(asking, max_bytes=2 * one)
  motions = [_record(i, ('motion',)) for i in range(3)]
  for index in (0, 1, 0, 2):
    _banks(kept, [motions[index]])
  del encoded[:]
  _banks(kept, [motions[0], motions[2]])
  assert not encoded
  _banks(kept, [motions[1]])
  assert len(encoded) == 1


def test_those_of_one_call_may_be_more_than_are_kept(asking):
  shown = [_record(i, ('motion',)) for i in range(3)]
  found = _banks(clips.Clips(asking, max_bytes=0), shown)
  want = _banks(clips.Clips(asking), shown)
  for banks, bank in zip(found, want, strict=True):
    np.testing.assert_array_equal(banks, bank)


def test_words_have_no_bank(asking, encoded):
  assert _banks(clips.Clips(asking), [_record(0, ())]) == [()]
  assert not encoded


def test_a_clip_is_known_by_its_numbers():
  record = _record(0, ('motion',))
  moved = dataclasses.replace(record, motion=record.motion + 1)
  shorter = dataclasses.replace(record, motion=record.motion[:40])
  assert len({clips.keys(x) for x in (record, moved, shorter)}) == 3
  assert clips.keys(record) == clips.keys(dataclasses.replace(record, turns=()))
