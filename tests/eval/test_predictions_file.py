import json
import random

import pytest

from vimonet_jax.eval import (
  activitynet_qa,
  benchmarks,
  predictions_file,
  run,
  scoring,
)


def _item(name: str, question: str = 'Who?', reference: str = 'He.', **fields):
  return benchmarks.Item(
    **{
      'id': name,
      'benchmark': 'b',
      'split': 'test',
      'input': 'video',
      'corruption': 'none',
      'domain': 'd',
      'kind': 'k',
      'question': question,
      'references': (reference,),
      'position': 0,
      'media_position': 0,
      **fields,
    }
  )


ITEMS = [_item(name) for name in ('1', '2', 'c/0')]


def _write(path, rows, *, is_list=False):
  if is_list:
    path.write_text(json.dumps(rows, indent=1))
  else:
    path.write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
  return path


def _fails(path, items=ITEMS, error=ValueError) -> str:
  """The sentence that a file is refused with."""
  with pytest.raises(error) as raised:
    predictions_file.read(path, items)
  text = str(raised.value)
  assert '\n' not in text
  assert text.endswith('.')
  assert 'xpected ' in text
  assert ', found ' in text
  return text


LAYOUTS = [
  lambda name, text: {'id': name, 'text': text},
  lambda name, text: {'id': name, 'pred': text, 'answer': 'the right one'},
  lambda name, text: {'question_id': name, 'text': text, 'prompt': 'Who?'},
  lambda name, text: {'question_id': name, 'answer': text},
  lambda name, text: {'question_id': name, 'answer': 'right', 'pred': text},
]


@pytest.mark.parametrize('is_list', [False, True])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_is_joined_by_id_in_any_order(tmp_path, layout, is_list):
  rows = [layout(n, f'It is {n}.') for n in ('1', '2', 'c/0')]
  for seed in range(3):
    random.Random(seed).shuffle(rows)
    path = _write(tmp_path / 'p.json', rows, is_list=is_list)
    found = predictions_file.read(path, ITEMS)
    assert found.texts == ['It is 1.', 'It is 2.', 'It is c/0.']
    assert found.reports() == []


def test_ids_may_be_numbers(tmp_path):
  rows = [{'id': 2, 'text': 'two'}, {'id': 1, 'text': 'one'}]
  found = predictions_file.read(_write(tmp_path / 'p', rows), ITEMS[:2])
  assert found.texts == ['one', 'two']


def test_what_does_not_fit_is_reported_and_what_is_missing_fails(tmp_path):
  rows = [
    {'id': '2', 'text': 'He.'},
    {'id': 'x', 'text': 'a'},
    {'id': '1', 'text': None},
    {'id': 'y', 'text': 'b'},
  ]
  found = predictions_file.read(_write(tmp_path / 'p', rows), ITEMS)
  assert found == (['', 'He.', ''], ('c/0',), ('1',), ('x', 'y'))
  missing, empty, unknown = found.reports()
  assert 'each of 3 items, found none for 1, such as c/0;' in missing
  assert 'no word in 1, such as 1;' in empty
  assert 'found others for 2, such as x; they are left out.' in unknown
  lines = run.as_predictions(ITEMS, found.texts)
  rows = scoring.score(ITEMS, lines, scoring.verdicts(ITEMS, lines))
  assert {row['n_failed'] for row in rows} == {2}
  assert {row['accuracy'] for row in rows} == {1 / 3}


def test_an_id_twice_is_refused(tmp_path):
  rows = [{'id': '1', 'text': 'a'}, {'id': 2, 'text': 'b'}]
  path = _write(tmp_path / 'p', [*rows, {'id': 1, 'text': 'c'}])
  assert 'prediction 3: expected each id once, found 1 again' in _fails(path)


def test_predictions_of_another_benchmark_are_refused(tmp_path):
  path = _write(tmp_path / 'p', [{'id': '7', 'text': 'a'}])
  text = _fails(path)
  assert 'the 3 items, such as 1, found none of them, but 7;' in text


def test_items_of_two_inputs_are_refused(tmp_path):
  path = _write(tmp_path / 'p', [{'id': '1', 'text': 'a'}])
  items = [ITEMS[0], *benchmarks.variant(ITEMS[:1], input='text')]
  assert 'of one input' in _fails(path, items)


@pytest.mark.parametrize(
  ('content', 'words'),
  [
    ('', 'found none; check that the run'),
    ('[]', 'found none; check that the run'),
    ('He waves.\n', "line 1: expected one JSON object a line, found 'He wav"),
    ('{"id": "1", "te', 'expected one JSON object'),
    ('[{"id": "1", "text": "a"}', 'expected a JSON list'),
    ('{"1": "a"}', 'found 1; rename the fields'),
    ('["a"]', 'found str; rename the fields'),
    ('{"id": "1", "answer": "a"}', 'found id, answer; rename'),
    ('{"id": "1", "text": "a", "pred": "b"}', 'found text and pred'),
    (
      '{"question_id": "1", "answer": "a", "prediction": "b"}',
      'found prediction, so that answer may be the right one; rename',
    ),
    ('{"question_id": "1", "answer": "a", "type": 3}', 'found type, so that'),
    ('{"id": "1", "text": 3}', 'expected a text under text, found 3'),
    ('{"id": "1", "text": ["a"]}', 'found ["a"]'),
    ('{"id": true, "text": "a"}', 'whole number under id, found true'),
    ('{"id": null, "text": "a"}', 'whole number under id, found null'),
    ('{"id": 1.0, "text": "a"}', 'whole number under id, found 1.0'),
    (
      '{"id": "1", "pred": "a"}\n{"id": "2", "text": "b"}',
      'prediction 2: expected id, pred as in the first one, found no pred',
    ),
    ('{"id": "1", "text": "a"}\n5\n', 'prediction 2: expected id, text'),
  ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content, words):
  path = tmp_path / 'p.jsonl'
  path.write_text(content)
  assert words in _fails(path)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
  assert 'no ' in _fails(tmp_path / 'p', error=FileNotFoundError)
  (tmp_path / 'p').write_bytes(b'\x93NUMPY\x01\x00\xff')
  assert 'UTF-8' in _fails(tmp_path / 'p')


# --- Predictions without ids -------------------------------------------------

OF_VIDEOS = [
  _item('v_ab_1', 'who waves'),
  _item('v_ab_2', 'does he sit'),
  _item('v_cd_1', 'who waves'),
  _item('v_ab_x_1', 'is it warm'),
  _item('run.mp4', 'who waves'),
  _item('gh/3', 'who waves'),
  _item('v_abc_1', 'who waves'),
  _item('runxmp4', 'who waves'),
]


def _of_video(video, question, pred):
  return {'video_name': video, 'Q': question, 'A': 'right', 'pred': pred}


def test_video_and_question_are_an_id(tmp_path):
  rows = [
    _of_video('run.mp4', 'who waves', 'e'),
    _of_video('v_cd', 'who waves', 'c'),
    _of_video('v_gh', 'who waves', 'g'),
    _of_video('ab', 'Does he  sit?', 'b'),
    _of_video('ab_x', 'is it warm', 'd'),
    _of_video('ab', 'who waves', 'a'),
    _of_video('ef', 'who waves', 'f'),
  ]
  path = _write(tmp_path / 'p', rows, is_list=True)
  found = predictions_file.read(path, OF_VIDEOS)
  assert found.texts == ['a', 'b', 'c', 'd', 'e', 'g', '', '']
  assert found.unknown == ('ef: who waves',)


def test_a_question_about_a_video_that_two_items_ask_is_refused(tmp_path):
  items = [_item('v_ab_1', 'who waves'), _item('v_ab_2', 'Who waves?')]
  path = _write(tmp_path / 'p', [_of_video('ab', 'who waves', 'a')])
  assert 'v_ab_1 and v_ab_2; give each prediction its id' in _fails(path, items)


# --- Real predictions --------------------------------------------------------


def test_published_predictions_score_as_published(shared_data, tmp_path):
  folder = shared_data / 'activitynetqa'
  questions = activitynet_qa.read(
    folder / 'val_public_q.json', folder / 'val_public_a.json'
  )
  items = [_item(q.id, q.question, q.answer) for q in questions]
  path = folder / 'val_public_pred.json'
  found = predictions_file.read(path, items)
  assert found.reports() == []
  right = sum(
    text == item.reference
    for text, item in zip(found.texts, items, strict=True)
  )
  expected = json.loads((folder / 'val_public_expected.json').read_text())
  assert right == expected['all'] * expected['n'] > 0
  by_id = dict(zip((item.id for item in items), found.texts, strict=True))
  rows = [_of_video(q.video, q.question, by_id[q.id]) for q in questions]
  random.Random(0).shuffle(rows)
  assert predictions_file.read(_write(tmp_path / 'p', rows), items) == found
