import json

import pytest

from vimonet_jax.audit import log as logs
from vimonet_jax.infer import scheduler
from vimonet_jax.synthetic import world
from vimonet_jax.web import clip as clips
from vimonet_jax.web import noted

END = scheduler.End('He waves.', 'stop', 135, 11, 0.3, 0.02, 1.42, 0.21)


@pytest.fixture
def log(tmp_path):
  secret = tmp_path / 'secret'
  secret.write_bytes(bytes(range(32)))
  with logs.Log(str(tmp_path / 'log'), str(secret)) as opened:
    yield opened


def _lines(log, tmp_path):
  log.close()
  return [json.loads(x) for x in (tmp_path / 'log').read_text().splitlines()]


def test_a_question_is_a_line_without_what_was_shown(log, tmp_path):
  record = world.World().make_record('test', 0)
  record = clips.shown_to(record, clips.MEDIA)
  given = clips.Clip(record, {'motion': 'w.npy'}, digests={'motion': 'abc'})
  book = noted.Book(log, 'weights', watermark=True)
  book.note(
    'a',
    given,
    'What?',
    'stop',
    policy='v1',
    address='10.0.0.1',
    answer='He waves.\nHe waves.',
    ends=[END, END],
  )
  book.note('b', clips.NOTHING, '', 'refused', policy=None, address=None)
  first, second = _lines(log, tmp_path)
  assert [first['request'], second['request']] == ['a', 'b']
  assert [x['kind'] for x in first['media']] == ['motion', 'video']
  assert first['media'][0]['digest'] == 'abc'
  assert first['media'][0]['duration_s'] == len(record.motion) / 20
  assert len(first['media'][1]['digest']) == 32
  assert first['answer_characters'] == len('He waves.\nHe waves.')
  assert (first['policy'], first['watermark']) == ('v1', True)
  assert first['seconds']['prompt'] == 1.42
  text = (tmp_path / 'log').read_text()
  assert not any(x in text for x in ('What?', 'waves', 'w.npy', '10.0.0.1'))
  assert second['outcome'] == 'refused'
  assert second['answer_characters'] is None
