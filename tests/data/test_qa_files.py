import json

import pytest

from vimonet_jax.data import qa_files


def _write(path, value) -> str:
  path.write_text(json.dumps(value), encoding='utf-8')
  return str(path)


def _write_lines(path, rows) -> str:
  path.write_text('\n'.join(map(json.dumps, rows)) + '\n', encoding='utf-8')
  return str(path)


def _pair(number, media='v_1'):
  return {'q': f'Question {number}?', 'a': f'{number}.', 'video_id': media}


def _pairs(found):
  return [
    (c.clip, [(t.question, t.answer) for t in c.turns])
    for c in found.conversations
  ]


def test_all_containers_say_the_same(tmp_path):
  rows = [{'Q': 'Why?', 'A': 'So.'}, {'Q': 'Sure?', 'A': 'Yes.'}]
  entry = {'id': '000021', 'QA': rows}
  values = {
    'list': [entry],
    'annotations': {'info': {}, 'annotations': [entry]},
    'mapping': {'000021': {'QA': rows}},
    'short': {'000021': rows},
    'alone': entry,
  }
  expected = [('000021', [('Why?', 'So.'), ('Sure?', 'Yes.')])]
  for name, value in values.items():
    assert _pairs(qa_files.read(_write(tmp_path / name, value))) == expected
  lines = _write_lines(tmp_path / 'lines', [entry, _pair(1)])
  assert _pairs(qa_files.read(lines)) == [
    *expected,
    ('v_1', [('Question 1?', '1.')]),
  ]


def test_ids_differ_and_places_are_kept(tmp_path):
  path = _write(tmp_path / 'qa.json', [_pair(1), _pair(2), _pair(3, 'v_2')])
  found = qa_files.read(path)
  assert [c.id for c in found.conversations] == ['v_1/0', 'v_1/1', 'v_2']
  assert [c.provenance for c in found.conversations] == [
    {'file': 'qa.json', 'place': f'entry {i}'} for i in (1, 2, 3)
  ]


def test_a_line_with_a_unicode_line_end_in_its_words_is_one_line(tmp_path):
  entry = {'id': 'a', 'turns': [['One\u2028two?', 'Yes\x85so.']]}
  path = tmp_path / 'lines'
  line = json.dumps(entry, ensure_ascii=False)
  path.write_text(f'{line}\n{line}\n', encoding='utf-8')
  found = qa_files.read(path)
  assert found.conversations[0].turns[0].question == 'One\u2028two?'
  assert len(found.faults) == 1  # The second says the same.


def test_no_entry_is_lost(tmp_path):
  rows = [_pair(1), {'video_id': 'v_2', 'q': 'Why?', 'a': ''}, 7, _pair(1),
          {'id': 'x', 'turns': [['Why?', 'So.']]}]  # fmt: skip
  path = _write(tmp_path / 'qa.json', rows)
  found = qa_files.read(path)
  assert len(found.conversations) == 2
  assert [fault.partition(': ')[0] for fault in found.faults] == [
    f'{path}, entry {i}' for i in (2, 3, 4)
  ]
  assert 'found the one of entry 1 again' in found.faults[2]
  assert found.layouts == {'pair': 1, 'turns': 1}
  assert found.summary().splitlines()[0] == (
    f'{path}: 2 conversations with 2 turns (1 pair, 1 turns); 3 entries left '
    'out'
  )


@pytest.mark.parametrize('damaged', [0, 1, 2])
def test_a_damaged_line_is_named_wherever_it_is(tmp_path, damaged):
  lines = [json.dumps(_pair(i)) for i in range(3)]
  lines[damaged] = lines[damaged][:20]
  path = tmp_path / 'qa.jsonl'
  path.write_text('\n'.join(lines))
  found = qa_files.read(path)
  assert len(found.conversations) == 2
  (fault,) = found.faults
  assert fault.startswith(f'{path}, line {damaged + 1}: expected a JSON object')


def test_a_key_that_comes_twice_is_no_silent_choice(tmp_path):
  path = tmp_path / 'a'
  path.write_text('{"id": "a", "q": "Why?", "q": "How?", "a": "So."}\n' * 2)
  with pytest.raises(ValueError, match="line 1: expected each key once.*'q'"):
    qa_files.read(path)
  path.write_text('{"c": {"q": "Why?", "a": "So."},\n "c": 1}')
  with pytest.raises(ValueError, match="a: expected each key once, found 'c'"):
    qa_files.read(path)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'expected JSON, or a JSON object a line, found none from line 1'),
    ('[{"q": "Why?",\n', 'found none from line 2'),
    ('[]', 'expected conversations, found none'),
    ('{}', 'expected conversations, found none'),
    ('"words"', 'expected entries, found'),
    ('{"a": "b"}', 'key a: expected a JSON object'),
    ('{"train": [1, 2]}', 'key train: expected Q and A'),
  ],
)
def test_a_file_of_something_else_is_refused(tmp_path, text, message):
  path = tmp_path / 'qa.json'
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    qa_files.read(path)


def test_captions_of_one_entry_are_conversations_each(tmp_path):
  """Two people may have said the same."""
  entry = {
    'id': 0,
    'motions': {'<Motion>': {'motion_name': '000002'}},
    'text': {'<Caption>': ['he jumps', 'he hops', 'he jumps']},
    'conversations': [
      {'from': 'human', 'value': '<Motion>\nWhat is this?'},
      {'from': 'gpt', 'value': '<Caption>'},
    ],
  }
  other = {**entry, 'id': 1, 'text': {'<Caption>': ['he leaps']}}
  path = _write(
    tmp_path / 'irg.json', {'info': {}, 'annotations': [entry, other]}
  )
  found = qa_files.read(path)
  assert [c.turns[0].answer for c in found.conversations] == [
    'he jumps', 'he hops', 'he jumps', 'he leaps',
  ]  # fmt: skip
  assert [c.id for c in found.conversations] == ['0/0', '0/1', '0/2', '1']


def _item(number, question, history=(), source='a.npy'):
  return {
    'id': f'i{number}',
    'source': source,
    'domain': 'reasoning',
    'question': question,
    'answer': f'{question} Yes.',
    'history': [{'question': q, 'answer': f'{q} Yes.'} for q in history],
  }


def test_rounds_of_a_conversation_are_joined(tmp_path):
  rows = [
    _item(0, 'A?'),
    _item(1, 'B?', ['A?']),
    _item(2, 'A?', source='b.npy'),
    _item(3, 'C?', ['A?', 'B?']),
    _item(4, 'D?', ['X?']),
  ]
  found = qa_files.read(_write_lines(tmp_path / 'items', rows))
  assert not found.faults
  asked = [
    (c.id, c.clip, ''.join(t.question for t in c.turns))
    for c in found.conversations
  ]
  assert asked == [
    ('i0', 'a', 'A?B?C?'),
    ('i2', 'b', 'A?'),
    ('i4', 'a', 'X?D?'),
  ]
  # Every round that has an item of its own has its domain.
  domains = [[t.domain for t in c.turns] for c in found.conversations]
  assert domains == [['reasoning'] * 3, ['reasoning'], ['', 'reasoning']]


def test_the_mini_bench_is_read_whole(shared_data):
  path = shared_data / 'minibench' / 'minibench_public.jsonl'
  found = qa_files.read(path)
  assert not found.faults
  assert found.layouts == {'item': 33}
  assert len(found.conversations) == 33
  assert {c.medium for c in found.conversations} == {'motion', 'video'}
  assert all(c.turns[0].domain for c in found.conversations)
