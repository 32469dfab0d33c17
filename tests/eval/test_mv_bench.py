import dataclasses
import json

import numpy as np
import pytest

from vimonet_jax.data import video
from vimonet_jax.eval import mv_bench

BATTING = mv_bench.Question(
  'fine_grained_action/0',
  'fine_grained_action',
  'a.mp4',
  'What is done?',
  ('bowling', 'batting', 'fishing', 'climbing'),
  'batting',
)
LINE = {
  'video': 'a.mp4',
  'question': 'What is done?',
  'candidates': ['sit', 'run', 'sit'],
  'answer': 'run',
  'start': 0.5,
  'end': 2,
}


def _with(*candidates, answer):
  return dataclasses.replace(BATTING, candidates=candidates, answer=answer)


def _folder(folder, **tasks):
  for name, lines in tasks.items():
    (folder / f'{name}.json').write_text(json.dumps(lines))
  return folder


def test_seven_tasks_of_which_three_are_bounded():
  assert len({task.abbreviation for task in mv_bench.TASKS}) == 7
  bounded = {t.abbreviation for t in mv_bench.TASKS if t.is_bounded}
  assert bounded == {'AS', 'AP', 'AL'}
  assert mv_bench.TASKS[0].file == 'action_sequence.json'


def test_the_task_files_that_are_there_are_read(tmp_path):
  _folder(
    tmp_path,
    fine_grained_pose=[LINE],
    action_prediction=[LINE, LINE | {'video': 'b.mp4'}],
    moving_count=[LINE],
  )
  found = mv_bench.read(tmp_path)
  assert [q.id for q in found] == [
    'action_prediction/0',
    'action_prediction/1',
    'fine_grained_pose/0',
  ]
  assert [q.bound for q in found] == [(0.5, 2), (0.5, 2), None]
  assert found[1] == mv_bench.Question(
    'action_prediction/1',
    'action_prediction',
    'b.mp4',
    'What is done?',
    ('sit', 'run', 'sit'),
    'run',
    (0.5, 2),
  )


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    (LINE | {'answer': 'Run'}, "answer among the candidates .*/0, found 'Run'"),
    (LINE | {'start': 3}, 'start before the end .*, found start 3 and end 2'),
    (LINE | {'end': '2'}, "found start 0.5 and end '2'"),
    (LINE | {'end': float('nan')}, 'found start 0.5 and end nan'),
    (LINE | {'end': None}, 'expected end in action_sequence/0'),
    (LINE | {'candidates': ['run']}, 'list of 2 to 26 texts as candidates'),
    (LINE | {'candidates': 'run, sit'}, "found 'run, sit'"),
    (LINE | {'candidates': ['run', 2]}, r"found \['run', 2\]; correct"),
    ({'video': 'a.mp4', 'end': 1}, 'question, candidates, answer, start in .*'),
    ('a.mp4', 'found none; give the file'),
  ],
)
def test_questions_that_cannot_be_asked_are_refused(tmp_path, line, message):
  _folder(tmp_path, action_sequence=[line])
  with pytest.raises(ValueError, match=message) as error:
    mv_bench.read(tmp_path)
  assert '\n' not in str(error.value)
  assert 'action_sequence.json: expected' in str(error.value)


def test_folders_and_files_without_questions_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='none; give the folder'):
    mv_bench.read(tmp_path)
  _folder(tmp_path, action_sequence=LINE)
  with pytest.raises(ValueError, match='JSON list, found a dict'):
    mv_bench.read(tmp_path)
  (tmp_path / 'action_sequence.json').write_text('[{"video"')
  with pytest.raises(ValueError, match='JSON list, found Expecting'):
    mv_bench.read(tmp_path)


@pytest.mark.parametrize(
  ('num_frames', 'fps', 'bound', 'expected'),
  [
    # 30.5 k: 30.5, 91.5, 152.5 and 213.5 go to the even side.
    (245, 30, None, [15, 45, 76, 107, 137, 167, 198, 229]),
    (245, 0, None, [15, 45, 76, 107, 137, 167, 198, 229]),
    # 62.5 and 137.5 are rounded to even: 62 and 138; segments are of 9.5.
    (300, 25, (2.5, 5.5), [66, 76, 85, 94, 104, 114, 123, 132]),
    (100, 10, (0, 999), [6, 18, 31, 43, 56, 68, 80, 93]),
    (100, 10, (-3, 999), [6, 18, 31, 43, 56, 68, 80, 93]),
    (100, 10, (9.9, 12), [99] * 8),
    (3, 30, None, [0, 0, 0, 1, 1, 1, 2, 2]),
    (1, 30, None, [0] * 8),
    (1, 30, (0.0, 5.0), [0] * 8),
  ],
)
def test_frames_are_the_middles_of_segments(num_frames, fps, bound, expected):
  assert mv_bench.frame_indices(num_frames, fps, bound, 8) == expected


def test_frames_are_in_order_and_within_the_bound():
  rng = np.random.default_rng(0)
  for _ in range(500):
    num_frames, number = rng.integers(1, 400), rng.integers(1, 20)
    start, end = np.sort(rng.uniform(0, num_frames / 25, 2))
    last = num_frames - 1
    if round(start * 25) > last:
      continue
    found = mv_bench.frame_indices(num_frames, 25.0, (start, end), number)
    assert len(found) == number
    assert found == sorted(found)
    assert round(start * 25) <= found[0]
    assert found[-1] <= min(round(end * 25), last)


@pytest.mark.parametrize(
  ('num_frames', 'fps', 'bound', 'message'),
  [
    (0, 30, None, 'one frame or more, found 0; count'),
    (10, 0, (0, 1), 'frame rate to cut by seconds, found 0'),
    (10, 10, (2, 3), r'within 1\.0 seconds, found 2 to 3'),
  ],
)
def test_frames_that_are_not_there_are_refused(num_frames, fps, bound, message):
  with pytest.raises(ValueError, match=message):
    mv_bench.frame_indices(num_frames, fps, bound, 8)


def test_the_prompt_holds_the_options_and_starts_the_answer():
  found = mv_bench.prompt(BATTING)
  assert found.user == (
    'Question: What is done?\n'
    'Options:\n'
    '(A) bowling\n'
    '(B) batting\n'
    '(C) fishing\n'
    '(D) climbing\n'
    'Only give the best option.'
  )
  assert found.answer_start == 'Best option:('
  for word in ('video', 'order', 'objects', 'people', 'option'):
    assert word in found.system


def test_of_equal_candidates_the_later_is_the_reference():
  assert mv_bench.reference(BATTING) == '(B) batting'
  twice = _with('sit', 'run', 'sit', answer='sit')
  assert mv_bench.reference(twice) == '(C) sit'
  assert mv_bench.strict('(C)', twice).is_right
  assert not mv_bench.strict('(A)', twice).is_right
  assert mv_bench.strict('They sit.', twice).is_right


def test_an_output_is_its_first_line_after_the_bracket():
  assert mv_bench.output_line(' B) batting\nbecause') == '(B) batting'
  assert mv_bench.output_line('') == '('
  assert mv_bench.output_line('\n\n') == '('


@pytest.mark.parametrize(
  'output',
  [
    '(B) batting',
    '(B)',
    '( b )',
    'B',
    'b',
    'B.',
    'B) batting',
    'B batting',
    '(B batting',
    '((B) batting',
    'The best option is (B), and not (A).',
    'The answer is (b).',
    'He is batting.',
    '(Batting',
    'A man is batting',
    'a batting',
    '(E) batting',
  ],
)
def test_strict_finds_the_option_that_is_named(output):
  found = mv_bench.strict(output, BATTING)
  assert found == mv_bench.Score(BATTING.id, True)


@pytest.mark.parametrize(
  'output', ['(A) batting', 'A.', 'a', 'A', 'fishing', 'D: batting', '(d)']
)
def test_strict_is_wrong_about_another_option(output):
  assert mv_bench.strict(output, BATTING) == mv_bench.Score(BATTING.id, False)


@pytest.mark.parametrize(
  'output',
  ['', ' ', '(', ')', 'x', '(E)', 'A man.', 'bat', 'batting or fishing', 'Be'],
)
def test_strict_tells_apart_what_names_no_option(output):
  unparsed = mv_bench.Score(BATTING.id, False, 'unparsed')
  assert mv_bench.strict(output, BATTING) == unparsed


def test_the_longer_of_nested_candidates_is_named():
  nested = _with('sit', 'sit down', 'stand', answer='sit down')
  assert mv_bench.strict('They sit down.', nested).is_right
  assert not mv_bench.strict('They sit.', nested).is_right
  assert mv_bench.strict('sit, stand', nested).status == 'unparsed'
  # Alike once normalised, and still two options.
  alike = _with('the dog', 'a dog', 'a cat', answer='a dog')
  assert mv_bench.strict('a dog', alike).status == 'unparsed'


@pytest.mark.parametrize(
  ('output', 'expected'),
  [
    ('', True),
    ('(', True),
    (')', True),
    ('b', True),
    ('B.', True),
    ('(B) bowling', True),
    ('((B) batting', True),
    ('.', True),
    (' (A)', True),
    ('a', False),
    ('(A) batting', False),
    ('batting', False),
    ('Best (B)', False),
  ],
)
def test_compat_keeps_what_upstream_does(output, expected):
  assert mv_bench.compat(output, BATTING).is_right == expected
  assert mv_bench.compat(output, BATTING).status == 'ok'


def test_likelihood_takes_the_likeliest_letter():
  def is_right(*values):
    log_probs = dict(zip('ABCDE', values, strict=False))
    return mv_bench.likelihood(log_probs, BATTING).is_right

  assert is_right(-3, -1, -2, -4)
  assert not is_right(-1, -3, -2, -4)
  assert is_right(-3, -1, -2, -float('inf'), 0.0), 'E is no option'
  assert not is_right(-1, -1, -1, -1), 'of equal ones the first'
  for values in ((-1, -2, -3), (-1, -2, -3, float('nan'))):
    with pytest.raises(ValueError, match='each of ABCD .* none for D; give'):
      is_right(*values)


def test_every_candidate_is_at_every_letter_once():
  found = mv_bench.rotations(BATTING)
  assert len({q.id for q in found}) == len(found) == 4
  assert found[0].candidates == BATTING.candidates
  assert found[1].candidates == ('batting', 'fishing', 'climbing', 'bowling')
  assert [mv_bench.reference(q)[1] for q in found] == ['B', 'A', 'D', 'C']
  for place in range(4):
    assert {q.candidates[place] for q in found} == set(BATTING.candidates)


def test_a_taste_for_a_letter_is_worth_chance_over_rotations():
  two = dataclasses.replace(BATTING, id='x/1', candidates=('run', 'batting'))
  asked = [BATTING, two]
  turned = [q for question in asked for q in mv_bench.rotations(question)]
  always = [mv_bench.strict('(B)', q) for q in turned]
  assert mv_bench.chance(asked) == (1 / 4 + 1 / 2) / 2
  assert mv_bench.rotation_accuracy(asked, always) == mv_bench.chance(asked)
  knows = [mv_bench.strict(mv_bench.reference(q), q) for q in turned]
  assert mv_bench.rotation_accuracy(asked, knows) == 1
  assert mv_bench.rotation_accuracy(asked, knows[1:]) == (3 / 4 + 1) / 2
  plain = [mv_bench.strict('(B)', q) for q in asked]
  assert mv_bench.accuracies(asked, plain).pooled.accuracy == 1


def test_tasks_count_alike_in_the_mean_and_questions_in_the_pool():
  asked = [
    dataclasses.replace(BATTING, id=f'{task}/{i}', task=task)
    for task, number in (('unexpected_action', 1), ('action_sequence', 4))
    for i in range(number)
  ]
  outputs = ['(B)', '(B)', '(A)', '']
  scores = [
    mv_bench.strict(output, question)
    for output, question in zip(outputs, asked, strict=False)
  ]
  found = mv_bench.accuracies(asked, scores[::-1])
  assert list(found.by_task) == ['action_sequence', 'unexpected_action']
  assert found.by_task['action_sequence'] == mv_bench.Accuracy(4, 1, 1, 1)
  assert found.by_task['unexpected_action'] == mv_bench.Accuracy(1, 1, 0, 0)
  assert found.mean == (1 / 4 + 1) / 2
  assert found.pooled == mv_bench.Accuracy(5, 2, 1, 1)
  assert found.pooled.accuracy == 2 / 5
  with pytest.raises(ValueError, match='found two for unexpected_action/0'):
    mv_bench.accuracies(asked, [scores[0], *scores])
  with pytest.raises(ValueError, match='5 questions, found one of other/9'):
    mv_bench.accuracies(asked, [mv_bench.Score('other/9', True)])
  with pytest.raises(ValueError, match='one question or more, found none'):
    mv_bench.accuracies([], [])
  with pytest.raises(ValueError, match='one question or more, found none'):
    mv_bench.chance([])


@pytest.fixture
def questions(shared_data):
  return mv_bench.read(shared_data / 'mvbench_format')


def test_the_example_files_are_read(questions):
  names = [q.task for q in questions]
  assert len(names) == 7
  assert set(names) == {task.name for task in mv_bench.TASKS[:-1]}
  bounds = {q.id: q.bound for q in questions if q.bound}
  assert bounds == {
    'action_sequence/0': (0.0, 5.0),
    'action_sequence/1': (1.0, 5.0),
    'action_prediction/0': (0.0, 1.2),
    'action_localization/0': (0.0, 5.0),
  }
  assert mv_bench.chance(questions) == 1 / 4


def test_no_output_is_right_under_compat_and_wrong_under_strict(questions):
  for question in questions:
    for output in ('', '(', ')'):
      assert mv_bench.compat(output, question).is_right
      assert mv_bench.strict(output, question).status == 'unparsed'
    for named in (mv_bench.reference(question), question.answer):
      assert mv_bench.strict(named, question).is_right
    for turned in mv_bench.rotations(question):
      assert mv_bench.strict(mv_bench.reference(question), turned).is_right == (
        mv_bench.reference(question) == mv_bench.reference(turned)
      )
      assert mv_bench.strict(question.answer, turned).is_right


def _read_frames(path, bound):
  pytest.importorskip('av', reason='needs the package av')
  asked = []

  def choose(num_frames, fps):
    chosen = mv_bench.frame_indices(num_frames, fps, bound, 8)
    asked.append((num_frames, fps, chosen))
    return chosen

  return video.read_chosen(path, choose, size=32), asked


def test_eight_frames_of_a_video_whose_head_counts_none(shared_data):
  path = shared_data / 'videos' / 'languagebind_0.mp4'
  found, asked = _read_frames(path, None)
  assert found.shape == (8, 32, 32, 3)
  ((num_frames, fps, chosen),) = asked
  assert num_frames == 245
  assert fps == pytest.approx(30, abs=0.1)
  assert chosen == [15, 45, 76, 107, 137, 167, 198, 229]
  every = video.read_chosen(path, lambda n, fps: range(n), size=32)
  np.testing.assert_array_equal(found, every[chosen])


def test_the_part_of_a_prediction_ends_before_its_answer(
  questions, shared_data
):
  shown = {}
  for question in questions:
    path = shared_data / 'videos' / question.video
    found, asked = _read_frames(path, question.bound)
    assert found.shape == (8, 32, 32, 3)
    shown[question.id] = asked[-1]
  # 1.2 s of 25 frames a second, of 53 frames.
  assert shown['action_prediction/0'] == (
    53,
    25.0,
    [1, 5, 9, 12, 16, 20, 23, 27],
  )
  # The bound ends past the last of 150 frames.
  assert shown['action_sequence/1'][0] == 150
  assert 30 <= shown['action_sequence/1'][2][0] <= 38
  assert shown['action_sequence/1'][2][-1] <= 149
