import dataclasses
import json

import pytest

from vimonet_jax.eval import activitynet_qa as qa
from vimonet_jax.eval import benchmarks, media, run, scoring

ASKED = [
  {'video_name': 'a-_1', 'question': 'who', 'question_id': 'v_a-_1_0'},
  {'video_name': 'b', 'question': 'where', 'question_id': 'v_b_10'},
  {'video_name': 'b', 'question': 'is it', 'question_id': 'v_b_2'},
]
ANSWERS = [
  {'answer': 'yes', 'type': 3, 'question_id': 'v_b_2'},
  {'answer': 'dancing', 'type': 0, 'question_id': 'v_a-_1_0'},
  {'answer': 'beach', 'type': 6, 'question_id': 'v_b_10'},
]


def _write(path, content):
  path.write_text(json.dumps(content))
  return path


def _read(folder, asked=ASKED, answers=ANSWERS):
  return qa.read(
    _write(folder / 'q.json', asked), _write(folder / 'a.json', answers)
  )


def _changed(lines, place, **changes):
  return [
    line | changes if i == place else line for i, line in enumerate(lines)
  ]


def test_answers_are_joined_by_id_and_not_by_place(tmp_path):
  found = _read(tmp_path)
  assert found == [
    qa.Question('v_a-_1_0', 'a-_1', 'who', 'dancing', 0),
    qa.Question('v_b_10', 'b', 'where', 'beach', 6),
    qa.Question('v_b_2', 'b', 'is it', 'yes', 3),
  ]
  assert [q.type_name for q in found] == ['motion', 'location', 'yes/no']
  assert _read(tmp_path, answers=ANSWERS[::-1]) == found
  with pytest.raises(dataclasses.FrozenInstanceError):
    found[0].answer = 'no'


@pytest.mark.parametrize(
  ('asked', 'answers', 'message'),
  [
    (ASKED, ANSWERS[1:], r'a\.json: .* 1 missing, such as v_b_2; give both'),
    (ASKED[1:], ANSWERS, r'q\.json: .* 1 missing, such as v_a-_1_0; give both'),
    (ASKED + ASKED[:1], ANSWERS, r'q\.json: .* found v_a-_1_0 twice'),
    (ASKED, ANSWERS + ANSWERS[:1], r'a\.json: .* found v_b_2 twice'),
    (
      _changed(ASKED, 1, video_name='a-_1'),
      ANSWERS,
      'expected an id v_a-_1_<number> for that video, found v_b_10',
    ),
    (ASKED, _changed(ANSWERS, 0, type=9), 'type of 0 to 8, found 9 for v_b_2'),
    (ASKED, _changed(ANSWERS, 0, type='3'), "found '3' for v_b_2"),
    (ASKED, [{'question_id': 'v_b_2', 'type': 3}], 'expected answer in line 0'),
    (
      [{'video_name': 'b'}],
      ANSWERS,
      'question_id, question in line 0 of .*, found video_name; ',
    ),
    (['v_b_2'], ANSWERS, 'found none; give'),
    ([], [], r'q\.json: .* found an empty list; give'),
    (_changed(ASKED, 0, question=7), ANSWERS, 'text as question .* found 7;'),
    (ASKED, _changed(ANSWERS, 1, answer=['no']), r"as answer .* \['no'\];"),
    ({'v_b_2': 'who'}, ANSWERS, 'expected a JSON list, found a dict'),
  ],
)
def test_files_that_do_not_go_together_are_refused(
  tmp_path, asked, answers, message
):
  with pytest.raises(ValueError, match=message) as error:
    _read(tmp_path, asked, answers)
  assert '\n' not in str(error.value)


def test_a_file_that_was_cut_off_is_refused(tmp_path):
  (tmp_path / 'q.json').write_text('[{"video_name": "b"')
  with pytest.raises(ValueError, match=r'q\.json: expected a JSON list, found'):
    qa.read(tmp_path / 'q.json', tmp_path / 'a.json')


def test_a_video_is_found_under_any_usual_ending(tmp_path):
  for name in ('v_a.mkv', 'v_b.webm', 'v_-c_.MP4', 'v_d.txt', 'e.mp4', 'v_aa'):
    (tmp_path / name).touch()
  found = {name: qa.find_video(tmp_path, name) for name in ('a', 'b', '-c_')}
  assert found == {
    'a': tmp_path / 'v_a.mkv',
    'b': tmp_path / 'v_b.webm',
    '-c_': tmp_path / 'v_-c_.MP4',
  }
  assert [qa.find_video(tmp_path, name) for name in 'deA'] == [None] * 3


def test_videos_that_are_not_there_are_known_before_anything_is_asked(tmp_path):
  (tmp_path / 'v_a.mkv').write_bytes(b'no video')
  questions = [
    qa.Question(f'v_{name}_{i}', name, 'who', 'me', 0)
    for i, name in enumerate('ebada')
  ]
  found = qa.benchmark(questions, tmp_path, media.Frames(), split='val')
  asked = {
    item.id: found.missing.get(item.media_position) for item in found.items
  }
  assert list(asked) == ['v_e_0', 'v_b_1', 'v_a_2', 'v_d_3', 'v_a_4']
  assert asked['v_a_2'] is asked['v_a_4'] is None
  for name, text in asked.items():
    if text:
      assert f'no {name[:3]}, of any ending' in text
  assert len(found.missing) == 3
  assert len(found.records) == 4, 'a clip for each video'
  for item in found.items:
    with pytest.raises(benchmarks.MediaError):
      benchmarks.prompt_record(item, found.records)
  with pytest.raises(FileNotFoundError, match='found no .*nowhere; correct'):
    qa.benchmark(questions, tmp_path / 'nowhere', media.Frames())


# --- Exact match -------------------------------------------------------------


def _items(folder, questions):
  return qa.benchmark(questions, folder, media.Frames()).items


def _exact(items, texts):
  """Rows of those items that there is a text for by id, by domain and slice."""
  lines = [
    line
    for item in items
    if item.id in texts
    for line in run.as_predictions([item], [texts[item.id]])
  ]
  found = scoring.verdicts(items, lines, scoring.by_rule(qa.exact))
  rows = scoring.score(items, lines, found, judged_by='exact')
  return {row['domain']: row for row in rows}


def _counts(row):
  return row['n'], round(row['n'] * row['accuracy']), row['n_failed']


def test_a_missing_prediction_is_wrong_and_counted(tmp_path):
  items = _items(tmp_path, _read(tmp_path))
  rows = _exact(items, {'v_b_2': 'yes', 'v_a-_1_0': 'Dancing'})
  assert _counts(rows['motion']) == (1, 0, 0), 'case counts'
  assert _counts(rows['yes/no']) == (1, 1, 0)
  assert _counts(rows['location']) == (1, 0, 1)
  assert _counts(rows['free']) == (2, 1, 1)
  assert _counts(rows['all']) == (3, 1, 1)
  assert rows['all']['accuracy_valid'] == 1 / 2
  assert set(rows) == {'motion', 'yes/no', 'location', 'free', 'all', 'macro'}


def test_predictions_of_another_split_answer_nothing(tmp_path):
  items = _items(tmp_path, _read(tmp_path))
  lines = run.as_predictions(items, ['dancing', 'beach', 'yes'])
  lines = [line | {'id': f'{line["id"]}0'} for line in lines]
  found = scoring.verdicts(items, lines, scoring.by_rule(qa.exact))
  assert {verdict.status for verdict in found} == {'failed'}


def test_sentences_are_for_a_judge_and_words_for_exact_match(tmp_path):
  found = qa.benchmark(_read(tmp_path), tmp_path, media.Frames())
  assert list(found.rules) == ['rule', 'exact', 'contains']
  assert found.needs_judge
  item = found.items[2]
  said = {name: rule(item, 'Yes, it is.') for name, rule in found.rules.items()}
  assert {name: verdict.correct for name, verdict in said.items()} == {
    'rule': True,
    'exact': False,
    'contains': True,
  }
  assert said['exact'].judge == 'exact'


@pytest.mark.parametrize(
  ('reference', 'text', 'is_right'),
  [
    ('red', 'The man wears a red shirt.', True),
    ('red', 'He is bored.', False),
    ('two', 'There are 2 people.', True),
    ('playing the guitar', 'He is playing guitar.', True),
    ('playing guitar', 'He is playing with a guitar.', False),
    ('no', 'No, he sits.', True),
    ('no', 'Yes, with no hat.', False),
    ('yes', 'He does.', False),
    ('indoor', '', False),
    ('yes', '', False),
  ],
)
def test_an_answer_is_found_in_a_sentence(tmp_path, reference, text, is_right):
  item = _items(tmp_path, _read(tmp_path))[0]
  item = dataclasses.replace(item, references=(reference,))
  found = qa.contains(item, text)
  assert (found.correct, found.judge) == (is_right, 'contains')
  if reference == 'red' and is_right:
    assert not benchmarks.by_rules(item, text).correct, 'F1 is 2 of 7'


def test_exact_match_of_the_example_predictions(shared_data, tmp_path):
  folder = shared_data / 'activitynetqa'
  expected = json.loads((folder / 'val_public_expected.json').read_text())
  items = _items(
    tmp_path,
    qa.read(folder / 'val_public_q.json', folder / 'val_public_a.json'),
  )
  predicted = json.loads((folder / 'val_public_pred.json').read_text())
  rows = _exact(items, {x['question_id']: x['answer'] for x in predicted})
  for kind, name in enumerate(qa.TYPES):
    row = expected['per_type'][str(kind)]
    assert _counts(rows[name]) == (row['n'], row['correct'], 0)
    assert rows[name]['accuracy'] == pytest.approx(row['acc'], abs=1e-12)
  for name in ('all', 'free'):
    assert rows[name]['accuracy'] == pytest.approx(expected[name], abs=1e-12)
  assert rows['all']['n'] == expected['n'] == 600


def test_free_is_pooled_and_not_what_upstream_prints(shared_data, tmp_path):
  """Questions that are right as often as those of the whole validation set."""
  path = shared_data / 'activitynetqa' / 'val_full_expected.json'
  expected = json.loads(path.read_text())
  questions, texts = [], {}
  for kind, row in expected['per_type'].items():
    for number in range(row['n']):
      name = f'v_x_{kind}{number:05d}'
      questions.append(qa.Question(name, 'x', 'is it', 'yes', int(kind)))
      texts[name] = 'yes' if number < row['correct'] else 'no'
  rows = _exact(_items(tmp_path, questions), texts)
  assert _counts(rows['free']) == (12600, 6369, 0)
  assert rows['free']['accuracy'] == pytest.approx(expected['free'], abs=1e-12)
  assert rows['all']['n'] == expected['n']
  assert rows['all']['accuracy'] == pytest.approx(expected['all'], abs=1e-12)
  for kind, row in expected['per_type'].items():
    accuracy = rows[qa.TYPES[int(kind)]]['accuracy']
    assert accuracy == pytest.approx(row['acc'], abs=1e-12)


def test_every_question_of_the_test_slice_has_its_answer(shared_data):
  folder = shared_data / 'activitynetqa'
  found = qa.read(folder / 'test_public_q.json', folder / 'test_public_a.json')
  assert len(found) == 400
  opened = qa.benchmark(found, folder, media.Frames())
  assert len(opened.records) == len(opened.missing) == 40
