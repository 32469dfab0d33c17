import json
import os
import threading

import pytest

from vimonet_jax import chat_cache

KEY = '3f' + 62 * '0'


def test_a_reply_is_kept_with_what_it_cost(tmp_path):
  cache = chat_cache.Cache(str(tmp_path))
  assert cache.replies(KEY) == []
  cache.add(KEY, {'id': 'a'}, 0.25, {'question': 'Who?'})
  cache.add(KEY, {'id': 'b'}, 0.5)
  kept = [
    {'usd': 0.25, 'completion': {'id': 'a'}},
    {'usd': 0.5, 'completion': {'id': 'b'}},
  ]
  assert chat_cache.Cache(str(tmp_path)).replies(KEY) == kept
  content = json.loads((tmp_path / 'replies/3f' / f'{KEY}.json').read_text())
  assert content == {'request': {'question': 'Who?'}, 'replies': kept}


@pytest.mark.parametrize(
  'content',
  ['', '{"request": {}, "repl', '[]', '{"request": 1, "replies": [{}]}', '\0'],
)
def test_a_damaged_file_is_named_and_answers_nothing(tmp_path, caplog, content):
  cache = chat_cache.Cache(str(tmp_path))
  cache.add(KEY, {'id': 'a'}, 0.25)
  with open(cache.path(KEY), 'w') as f:
    f.write(content)
  assert cache.replies(KEY) == []
  assert cache.path(KEY) in caplog.text
  cache.add(KEY, {'id': 'b'}, 0.25)
  assert len(cache.replies(KEY)) == 1


def test_a_file_that_is_being_written_leaves_the_old_one(tmp_path, monkeypatch):
  cache = chat_cache.Cache(str(tmp_path))
  cache.add(KEY, {'id': 'a'}, 0.25)
  monkeypatch.setattr(os, 'replace', lambda *_: 1 / 0)  # killed just there
  with pytest.raises(ZeroDivisionError):
    cache.add(KEY, {'id': 'b'}, 0.25)
  assert [r['completion']['id'] for r in cache.replies(KEY)] == ['a']


def test_a_folder_is_for_one_at_a_time(tmp_path):
  folder = str(tmp_path / 'new')
  with (
    chat_cache.locked(folder),
    pytest.raises(ValueError, match='the only one'),
    chat_cache.locked(folder),
  ):
    pass
  with chat_cache.locked(folder):
    pass


def test_a_purse_remembers(tmp_path):
  with chat_cache.Purse(str(tmp_path), 1.0) as purse:
    with purse.reserved('a', 0.5) as costs:
      assert purse.spent_usd == 0
      costs(0.125)
    with purse.reserved('b', 0.25):
      pass  # its reply never came
    purse.charge('c', 0.125)
    assert (purse.spent_usd, purse.unknown_usd) == (0.5, 0.25)
  assert chat_cache.spent_usd(str(tmp_path)) == 0.5
  with chat_cache.Purse(str(tmp_path), 1.0) as purse:
    assert (purse.spent_usd, purse.unknown_usd) == (0.5, 0.25)
    with purse.reserved('d', 0.5) as costs:
      costs(0.5)
    with (
      pytest.raises(chat_cache.NoRoomError),
      purse.reserved('e', 0.01),
    ):
      pass


def test_who_was_killed_under_way_has_spent_the_most(tmp_path):
  purse = chat_cache.Purse(str(tmp_path), 1.0)
  with purse.reserved('a', 0.5):
    assert chat_cache.spent_usd(str(tmp_path)) == 0.5
    with chat_cache.Purse(str(tmp_path), 1.0) as after:
      assert after.unknown_usd == 0.5


def test_room_is_waited_for_while_somebody_may_turn_out_cheap(tmp_path):
  with chat_cache.Purse(str(tmp_path), 1.0) as purse:
    entered = threading.Event()

    def second():
      with purse.reserved('b', 0.75) as costs:
        entered.set()
        costs(0.75)

    thread = threading.Thread(target=second)
    with purse.reserved('a', 0.75) as costs:
      thread.start()
      assert not entered.wait(0.2)
      costs(0.25)
    thread.join(5)
    assert entered.is_set()
    assert purse.spent_usd == 1.0


def test_a_line_that_a_power_cut_tore_is_cut_off(tmp_path):
  with chat_cache.Purse(str(tmp_path), 1.0) as purse:
    purse.charge('a', 0.25)
  with open(tmp_path / 'spent.jsonl', 'a') as f:
    f.write('{"number": 1, "key": "b", "us')
  assert chat_cache.spent_usd(str(tmp_path)) == 0.25
  with chat_cache.Purse(str(tmp_path), 1.0) as purse:
    purse.charge('b', 0.5)
  assert chat_cache.spent_usd(str(tmp_path)) == 0.75


@pytest.mark.parametrize('damage', ['"us', '"price"'])
def test_a_damaged_line_is_named(tmp_path, damage):
  with chat_cache.Purse(str(tmp_path), 1.0) as purse:
    purse.charge('a', 0.25)
    purse.charge('b', 0.25)
  path = tmp_path / 'spent.jsonl'
  path.write_text(path.read_text().replace('"usd"', damage, 1))
  with pytest.raises(ValueError, match='spent.jsonl, line 1: expected'):
    chat_cache.Purse(str(tmp_path), 1.0)
