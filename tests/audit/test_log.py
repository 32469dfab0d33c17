import concurrent.futures
import json
import os

import pytest

from vimonet_jax import locks
from vimonet_jax.audit import log, provenance, verify

ENTRY = {
  'request': 'r', 'api_key': 'a key', 'question': 'Where does he go?',
  'answer': 'To the left.', 'model': 'm', 'watermark': True, 'policy': 'p',
  'outcome': 'stop', 'seconds': {'waited': 0.123456}, 'address': '192.0.2.7',
}  # fmt: skip


@pytest.fixture
def secret(tmp_path):
  path = tmp_path / 'log.secret'
  path.write_bytes(bytes(range(32)))
  return str(path)


@pytest.fixture
def path(tmp_path):
  return str(tmp_path / 'audit.jsonl')


def _add(found, **changes):
  media = [log.Medium('motion', 4.2, found.keyed(b'joints'))]
  found.add(**{'media': media, **ENTRY, **changes})


def _write(path, secret, number=1, **options):
  with log.Log(path, secret, **options) as found:
    for i in range(number):
      _add(found, request=f'r{i}')


def _lines(path):
  with open(path) as f:
    return f.readlines()


def _put(path, lines):
  with open(path, 'w') as f:
    f.writelines(lines)


def test_neither_media_nor_texts_nor_keys_are_kept(path, secret):
  _write(path, secret)
  (line,) = _lines(path)
  entry = json.loads(line)
  for kept in ('a key', 'Where', 'left', 'joints', '192.0.2.7'):
    assert kept not in line
  assert entry['question_characters'] == len(ENTRY['question'])
  assert entry['answer_characters'] == len(ENTRY['answer'])
  assert entry['media'][0]['duration_s'] == 4.2
  assert entry['seconds'] == {'waited': 0.1235}
  assert os.stat(path).st_mode & 0o077 == 0


def test_texts_and_addresses_are_kept_where_asked_for(path, secret):
  _write(path, secret, texts=True, addresses=True)
  entry = json.loads(_lines(path)[0])
  assert entry['question'] == ENTRY['question']
  assert entry['answer'] == ENTRY['answer']
  assert entry['address'] == '192.0.2.7'


def test_the_same_key_has_the_same_digest_and_another_secret_another(
  path, secret, tmp_path
):
  with log.Log(path, secret) as found:
    _add(found)
    _add(found)
    _add(found, api_key='another')
    _add(found, api_key=None)
  who = [json.loads(line)['who'] for line in _lines(path)]
  assert who[0] == who[1] != who[2]
  assert who[3] is None
  (tmp_path / 'other').write_bytes(b'x' * 32)
  other = str(tmp_path / 'other.jsonl')
  _write(other, str(tmp_path / 'other'))
  assert json.loads(_lines(other)[0])['who'] not in who


def test_what_nobody_touched_is_intact_over_several_runs(path, secret, capsys):
  for _ in range(3):
    _write(path, secret, 2)
  assert verify.run(path, secret_file=secret) == 0
  assert 'has 6 entries as they were written' in capsys.readouterr().out
  numbers = [json.loads(line)['number'] for line in _lines(path)]
  assert numbers == [1, 2, 3, 4, 5, 6]


_NO_NUMBER = '{"number": "2", "seal": "aa"}\n'
_NO_SEAL = '{"number": 3, "seal": "\u00e9"}\n'
_HALF = '{"number": 3, "question": "\\ud800", "seal": "aa"}\n'


def _edited(lines):
  return [*lines[:2], lines[2].replace('"stop"', '"none"'), *lines[3:]]


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    (_edited, 'line 3 changed'),
    (lambda x: [*x[:4], x[4].replace('"stop"', '"none"')], 'line 5 changed'),
    (lambda x: x[1:], 'lines missing before line 1'),
    (lambda x: [*x[:2], *x[3:]], 'lines missing before line 3'),
    (lambda x: [x[0], x[2], x[1], *x[3:]], 'lines missing before line 2'),
    (lambda x: [*x, x[-1]], 'line 6'),
    (lambda x: [*x[:2], 'So?\n', *x[2:]], 'line 3 is none of a log'),
    (lambda x: [*x[:2], '{"seal": 3}\n', *x[2:]], 'line 3 is none of a log'),
    (lambda x: [*x[:2], _NO_NUMBER, *x[2:]], 'line 3 is none of a log'),
    (lambda x: [*x[:2], _NO_SEAL, *x[2:]], 'line 3 is none of a log'),
    (lambda x: [*x[:2], _HALF, *x[2:]], 'line 3 is none of a log'),
    (lambda x: [*x[:2], '[' * 10**5 + '\n', *x[2:]], 'line 3 is none of a log'),
    # Other readers take the first of two fields with the same name.
    (
      lambda x: [x[0].replace('"stop"', '"x", "outcome": "stop"'), *x[1:]],
      'line 1 is none of a log',
    ),
  ],
)
def test_what_was_done_to_lines_is_noticed(path, secret, change, sentence):
  _write(path, secret, 5)
  _put(path, change(_lines(path)))
  verdict = log.verify(path, secret)
  assert not verdict.is_intact
  assert sentence in verdict.sentence


def test_a_manifest_beside_a_log_does_not_vouch_for_its_lines(path, secret):
  _write(path, secret, 3)
  _put(path, _edited(_lines(path)))
  provenance.write(path, {'what': 'a log'})
  assert verify.run(path, secret_file=secret) == 1


def test_who_has_no_secret_cannot_seal(path, secret, tmp_path):
  """A line of another log, and one made with another secret."""
  (tmp_path / 'other').write_bytes(b'x' * 32)
  other = str(tmp_path / 'other.jsonl')
  _write(other, str(tmp_path / 'other'), 3)
  assert not log.verify(other, secret).is_intact
  _write(path, secret, 3)
  _put(path, [*_lines(path)[:2], _lines(other)[2]])
  assert not log.verify(path, secret).is_intact


@pytest.mark.parametrize('kept', [1, 40, -1])
@pytest.mark.parametrize('before', [0, 2])
def test_a_torn_line_is_told_and_the_chain_goes_on(path, secret, kept, before):
  _write(path, secret, before + 1)
  lines = _lines(path)
  torn = lines[-1][:kept]
  _put(path, [*lines[:-1], torn])
  verdict = log.verify(path, secret)
  assert verdict.is_intact
  assert 'the last line is torn' in verdict.sentence
  _write(path, secret, 2)
  verdict = log.verify(path, secret)
  assert verdict.is_intact
  assert f'has {before + 2} entries' in verdict.sentence
  assert f'one before line {before + 1} was torn' in verdict.sentence
  assert json.loads(_lines(path)[before])['torn'] == torn


def test_many_threads_write_whole_lines(path, secret):
  with (
    log.Log(path, secret) as found,
    concurrent.futures.ThreadPoolExecutor(8) as pool,
  ):
    for i in range(200):
      pool.submit(_add, found, request=f'r{i}')
  assert 'has 200 entries' in log.verify(path, secret).sentence
  requests = {json.loads(line)['request'] for line in _lines(path)}
  assert len(requests) == 200


def test_one_process_writes_at_a_time(path, secret):
  with log.Log(path, secret):  # noqa: SIM117  The first has to be open.
    with pytest.raises(locks.HeldError, match='Expected nobody else to write'):
      log.Log(path, secret)
  _write(path, secret)


def test_a_full_disk_leaves_no_part_of_a_line(path, secret, monkeypatch):
  write = os.write
  with log.Log(path, secret) as found:
    _add(found)
    monkeypatch.setattr(os, 'write', lambda f, data: write(f, data[:20]))
    with pytest.raises(OSError, match='No space left'):
      _add(found)
    monkeypatch.setattr(os, 'write', write)
    _add(found)
  assert 'has 2 entries as they were written.' in (
    log.verify(path, secret).sentence
  )  # fmt: skip


@pytest.mark.parametrize('text', ['notes', 'notes\n', '{"number": 1}\n'])
def test_a_file_of_somebody_else_is_left_alone(path, secret, text):
  _put(path, [text])
  with pytest.raises(ValueError, match='to be an audit log, found'):
    log.Log(path, secret)
  assert _lines(path) == [text]


def test_a_secret_is_needed(path, tmp_path):
  with pytest.raises(ValueError, match=r'Expected config\.log\.secret_file'):
    log.Log(path, '')
  (tmp_path / 'short').write_bytes(b'123')
  with pytest.raises(ValueError, match='16 bytes or more .* found 3'):
    log.Log(path, str(tmp_path / 'short'))
  assert not os.path.exists(path)
