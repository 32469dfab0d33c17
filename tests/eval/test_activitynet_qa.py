import dataclasses
import json

import pytest

from vimonet_jax.eval import activitynet_qa as qa

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
    qa.read_predictions(tmp_path / 'q.json')


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
  questions = [qa.Question(f'v_{v}_0', v, '', '', 0) for v in 'ebada']
  assert qa.missing_videos(tmp_path, questions) == ['d', 'e']
  with pytest.raises(FileNotFoundError, match='found no .*nowhere; correct'):
    qa.missing_videos(tmp_path / 'nowhere', questions)


def test_a_missing_prediction_is_wrong_and_counted(tmp_path):
  questions = _read(tmp_path)
  found = qa.exact_match({'v_b_2': 'yes', 'v_a-_1_0': 'Dancing'}, questions)
  assert found.by_type[0] == qa.Accuracy(1, 0, 0), 'case counts'
  assert found.by_type[3] == qa.Accuracy(1, 1, 0)
  assert found.by_type[6] == qa.Accuracy(1, 0, 1)
  assert found.free == qa.Accuracy(2, 1, 1)
  assert found.free.accuracy == 0.5
  assert found.all == qa.Accuracy(3, 1, 1)
  assert list(found.by_type) == list(range(9))
  assert found.by_type[8].accuracy is None


def test_predictions_of_another_split_are_refused(tmp_path):
  with pytest.raises(ValueError, match='3 questions, found 1 for .* v_c_0'):
    qa.exact_match({'v_b_2': 'yes', 'v_c_0': 'no'}, _read(tmp_path))


def test_exact_match_of_the_example_predictions(shared_data):
  folder = shared_data / 'activitynetqa'
  expected = json.loads((folder / 'val_public_expected.json').read_text())
  found = qa.exact_match(
    qa.read_predictions(folder / 'val_public_pred.json'),
    qa.read(folder / 'val_public_q.json', folder / 'val_public_a.json'),
  )
  for kind, accuracy in found.by_type.items():
    row = expected['per_type'][str(kind)]
    assert (accuracy.n, accuracy.n_correct) == (row['n'], row['correct'])
    assert accuracy.accuracy == row['acc']
  assert found.all.accuracy == expected['all']
  assert found.all.n == expected['n'] == 600
  assert found.free.accuracy == expected['free']
  assert found.all.n_failed == 0


def test_free_is_pooled_and_not_what_upstream_prints(shared_data):
  path = shared_data / 'activitynetqa' / 'val_full_expected.json'
  expected = json.loads(path.read_text())
  by_type = {
    int(kind): qa.Accuracy(row['n'], row['correct'], 0)
    for kind, row in expected['per_type'].items()
  }
  free = qa.pool(by_type[kind] for kind in qa.FREE)
  assert (free.n, free.n_correct) == (12600, 6369)
  assert free.accuracy == expected['free']
  assert qa.pool(by_type.values()).n == expected['n']
  assert qa.pool(by_type.values()).accuracy == expected['all']
  for kind, row in expected['per_type'].items():
    assert by_type[int(kind)].accuracy == row['acc']


def test_every_question_of_the_test_slice_has_its_answer(shared_data):
  folder = shared_data / 'activitynetqa'
  found = qa.read(folder / 'test_public_q.json', folder / 'test_public_a.json')
  assert len(found) == 400
  videos = {question.video for question in found}
  assert len(videos) == 40
  assert qa.missing_videos(folder, found) == sorted(videos)
