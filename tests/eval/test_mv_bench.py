import dataclasses
import json

import numbered
import numpy as np
import pytest

from vimonet_jax.data import video
from vimonet_jax.eval import benchmarks, media, mv_bench, run, scoring

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


FRAMES = media.Frames(8, 32)


def _with(*candidates, answer):
  return dataclasses.replace(BATTING, candidates=candidates, answer=answer)


def _items(*questions, **asked):
  return mv_bench.benchmark(questions, '.', FRAMES, **asked).items


def _judge(rule, question, text):
  """Whether a text is right, and the verdict's status."""
  (item,) = _items(question)
  found = rule(item, text)
  assert found.id == question.id
  return found.correct, found.status


def _strict(question, text):
  return _judge(mv_bench.strict, question, text)


def _letter(item):
  """The letter of the right option, of which there is one."""
  return 'ABCDE'[item.choices.index(item.reference)]


def _rows(items, texts, rule=mv_bench.strict, lines=slice(None)):
  """(reading, corruption, domain) -> row."""
  lines = run.as_predictions(items, texts)[lines]
  found = scoring.verdicts(items, lines, scoring.by_rule(rule))
  return {
    (row['reading'], row['corruption'], row['domain']): row
    for row in scoring.score(items, lines, found)
  }


GENERATED = benchmarks.GENERATED, benchmarks.CLEAN
LIKELIEST = benchmarks.LIKELIHOOD, benchmarks.CLEAN
ROTATED = benchmarks.GENERATED, mv_bench.ROTATED


def _folder(folder, **tasks):
  for name, lines in tasks.items():
    (folder / f'{name}.json').write_text(json.dumps(lines))
  return folder


def test_seven_tasks_of_which_three_are_bounded():
  assert len({task.name for task in mv_bench.TASKS}) == 7
  bounded = [task.name for task in mv_bench.TASKS if task.is_bounded]
  assert bounded == [f'action_{x}' for x in ('sequence', 'prediction',
                                             'localization')]  # fmt: skip
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
    (LINE | {'video': ['a.mp4']}, r"text as video in .*, found \['a.mp4'\]"),
    (LINE | {'question': 3}, 'text as question in .*, found 3; correct'),
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
  _folder(tmp_path, action_sequence=[])
  with pytest.raises(ValueError, match='expected questions, found none; give'):
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
  (item,) = _items(BATTING)
  advice, found = item.question.split('\n', 1)
  assert found == (
    'Question: What is done?\n'
    'Options:\n'
    '(A) bowling\n'
    '(B) batting\n'
    '(C) fishing\n'
    '(D) climbing\n'
    'Only give the best option.'
  )
  for word in ('video', 'order', 'objects', 'people', 'option'):
    assert word in advice
  (turn,) = benchmarks.prompt_record(
    dataclasses.replace(item, input='text'), numbered.RECORDS
  ).turns
  assert turn.answer == 'Best option:('


# --- Rules -------------------------------------------------------------------


def test_of_equal_candidates_the_later_is_right():
  twice = _with('sit', 'run', 'sit', answer='sit')
  assert _strict(twice, 'C)') == (True, 'ok')
  assert _strict(twice, 'A)') == (False, 'ok')
  assert _strict(twice, 'They sit.') == (True, 'ok')
  assert _judge(mv_bench.compat, twice, 'C)') == (True, 'ok')
  assert _judge(mv_bench.compat, twice, 'A)') == (False, 'ok')


def test_the_first_line_is_judged_after_the_bracket():
  assert _strict(BATTING, ' B) batting\nbecause (A)') == (True, 'ok')
  assert _strict(BATTING, 'A) bowling\n(B)') == (False, 'ok')
  assert _strict(BATTING, '\n\n') == (False, 'unparsed')


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
  assert _strict(BATTING, output) == (True, 'ok')


@pytest.mark.parametrize(
  'output', ['(A) batting', 'A.', 'a', 'A', 'fishing', 'D: batting', '(d)']
)
def test_strict_is_wrong_about_another_option(output):
  assert _strict(BATTING, output) == (False, 'ok')


@pytest.mark.parametrize(
  'output',
  ['', ' ', '(', ')', 'x', '(E)', 'A man.', 'bat', 'batting or fishing', 'Be'],
)
def test_strict_tells_apart_what_names_no_option(output):
  assert _strict(BATTING, output) == (False, 'unparsed')


def test_the_longer_of_nested_candidates_is_named():
  nested = _with('sit', 'sit down', 'stand', answer='sit down')
  assert _strict(nested, 'They sit down.') == (True, 'ok')
  assert _strict(nested, 'They sit.') == (False, 'ok')
  assert _strict(nested, 'sit, stand') == (False, 'unparsed')
  # Alike once normalised, and still two options.
  alike = _with('the dog', 'a dog', 'a cat', answer='a dog')
  assert _strict(alike, 'a dog') == (False, 'unparsed')


@pytest.mark.parametrize(
  ('output', 'expected'),
  [
    ('', True),
    (' \n', True),
    ('.', True),
    ('b', True),
    ('B.', True),
    ('B) bowling', True),
    ('(B) batting', True),
    ('x\n(B)', False),
    ('(', False),
    (')', False),
    ('a', False),
    ('A) batting', False),
    ('batting', False),
    ('Best (B)', False),
  ],
)
def test_compat_keeps_what_upstream_does(output, expected):
  assert _judge(mv_bench.compat, BATTING, output) == (expected, 'ok')


def test_the_likeliest_letter_is_judged_as_one_that_is_written():
  two = dataclasses.replace(BATTING, id='x/1', candidates=('run', 'batting'))
  items = _items(BATTING, two, choose=True)
  assert [item.reading for item in items] == ['generated', 'likelihood'] * 2
  assert [''.join(item.options) for item in items] == ['', 'ABCD', '', 'AB']
  for rule in (mv_bench.strict, mv_bench.compat):
    chosen = {letter: rule(items[1], letter).correct for letter in 'ABCD'}
    assert chosen == {'A': False, 'B': True, 'C': False, 'D': False}
  rows = _rows(items, ['(A)', 'B', '(A)', 'A'])
  assert rows[*GENERATED, 'all']['accuracy'] == 0
  assert rows[*LIKELIEST, 'all']['accuracy'] == 1 / 2
  assert rows[*LIKELIEST, 'all']['chance'] == (1 / 4 + 1 / 2) / 2


# --- Rotations and sums ------------------------------------------------------


def test_every_candidate_is_at_every_letter_once():
  items = _items(BATTING, rotate=True)
  assert len({item.key for item in items}) == len(items) == 5
  assert {item.id for item in items} == {BATTING.id}
  clean, *turned = items
  assert (clean.choices, clean.corruption) == (BATTING.candidates, 'none')
  assert turned[0].question == clean.question
  assert turned[1].choices == ('batting', 'fishing', 'climbing', 'bowling')
  assert '(A) batting\n' in turned[1].question
  assert [_letter(item) for item in turned] == ['B', 'A', 'D', 'C']
  for place in range(4):
    assert {item.choices[place] for item in turned} == set(BATTING.candidates)


def test_a_taste_for_a_letter_is_worth_chance_over_rotations():
  two = dataclasses.replace(BATTING, id='x/1', candidates=('run', 'batting'))
  items = _items(BATTING, two, rotate=True)
  chance = (1 / 4 + 1 / 2) / 2
  rows = _rows(items, ['B)'] * len(items))
  assert rows[*GENERATED, 'all']['accuracy'] == 1
  assert rows[*ROTATED, 'all']['accuracy'] == chance
  assert rows[*ROTATED, 'all']['n'] == 4 + 2
  for way in (GENERATED, ROTATED):
    assert rows[*way, 'all']['chance'] == chance
  drop = rows[*ROTATED, 'all']['drop_points']
  assert drop == pytest.approx(100 * (1 - chance))
  knows = [f'{_letter(item)})' for item in items]
  assert _rows(items, knows)[*ROTATED, 'all']['accuracy'] == 1
  # Without the first rotation of the first question, which fails.
  knows[1] = ''
  rows = _rows(items, knows)
  assert rows[*ROTATED, 'all']['accuracy'] == (3 / 4 + 1) / 2


def test_tasks_count_alike_in_macro_and_questions_in_all():
  asked = [
    dataclasses.replace(BATTING, id=f'{task}/{i}', task=task)
    for task, number in (('unexpected_action', 1), ('action_sequence', 4))
    for i in range(number)
  ]
  two = dataclasses.replace(asked[0], candidates=('run', 'batting'))
  items = _items(two, *asked[1:])
  rows = _rows(items, ['B)', 'B)', 'A)', '', 'B)'], lines=slice(-2, None, -1))
  found = {
    domain: (row['n'], row['accuracy'], row['n_unparsed'], row['n_failed'])
    for (_, _, domain), row in rows.items()
  }
  assert found == {
    'unexpected_action': (1, 1.0, 0, 0),
    'action_sequence': (4, 1 / 4, 1, 1),
    'all': (5, 2 / 5, 1, 1),
    'macro': (5, (1 / 4 + 1) / 2, 1, 1),
  }
  chances = {domain: row['chance'] for (_, _, domain), row in rows.items()}
  assert chances == {
    'unexpected_action': 1 / 2,
    'action_sequence': 1 / 4,
    'all': pytest.approx((1 / 2 + 4 / 4) / 5),
    'macro': pytest.approx((1 / 2 + 1 / 4) / 2),
  }


def test_questions_about_one_part_of_a_video_share_a_clip(tmp_path):
  (tmp_path / 'sta' / 'sta_video').mkdir(parents=True)
  (tmp_path / 'sta' / 'sta_video' / 'a.mp4').write_bytes(b'as published')
  (tmp_path / 'b.mp4').write_bytes(b'beside each other')
  parts = [
    ('action_localization', 'a.mp4', (0, 1)),
    ('action_localization', 'a.mp4', (0, 1)),
    ('action_localization', 'a.mp4', (0, 2)),
    ('fine_grained_pose', 'a.mp4', None),
    ('fine_grained_pose', 'b.mp4', None),
  ]
  questions = [
    dataclasses.replace(BATTING, id=str(i), task=task, video=name, bound=bound)
    for i, (task, name, bound) in enumerate(parts)
  ]
  found = mv_bench.benchmark(questions, tmp_path, FRAMES)
  assert [item.position for item in found.items] == [0, 0, 1, 2, 3]
  assert len(found.records) == 4
  # Tasks have folders of their own, since their names of videos may be alike.
  assert list(found.missing) == [2]
  assert 'no a.mp4 (fine_grained_pose)' in found.missing[2]
  with pytest.raises(FileNotFoundError, match='folder of videos, found no'):
    mv_bench.benchmark(questions, tmp_path / 'nowhere', FRAMES)


# --- The example files -------------------------------------------------------


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


def test_no_output_is_right_under_compat_and_wrong_under_strict(questions):
  items = _items(*questions, rotate=True)
  nothing = [''] * len(items)
  rows = _rows(items, nothing, mv_bench.compat)
  assert {row['accuracy'] for row in rows.values()} == {1.0}
  rows = _rows(items, nothing)
  assert {row['accuracy'] for row in rows.values()} == {0.0}
  whole = rows[*GENERATED, 'all']
  assert (whole['n'], whole['n_unparsed'], whole['chance']) == (7, 7, 1 / 4)
  for texts in (
    [f'{_letter(item)}) {item.reference}' for item in items],
    [_letter(item) for item in items],
    [item.reference for item in items],
  ):
    rows = _rows(items, texts)
    assert {row['accuracy'] for row in rows.values()} == {1.0}
  # The right letters of the questions as they are, of rotated ones.
  kept = {item.id: _letter(item) for item in items if item.corruption == 'none'}
  rows = _rows(items, [kept[item.id] for item in items])
  assert rows[*GENERATED, 'all']['accuracy'] == 1
  assert rows[*ROTATED, 'all']['accuracy'] == 1 / 4


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


def test_the_frames_of_a_part_reach_the_prompt(questions, shared_data):
  pytest.importorskip('av', reason='needs the package av')
  found = mv_bench.benchmark(questions, shared_data / 'videos', FRAMES)
  assert not found.missing
  item = next(i for i in found.items if i.id == 'action_prediction/0')
  prompt = benchmarks.prompt_record(item, found.records)
  every = video.read_chosen(
    shared_data / 'videos' / 'cobra_push_ups.mp4',
    lambda number, fps: range(number),
    size=32,
  )
  np.testing.assert_array_equal(
    prompt.frames, every[[1, 5, 9, 12, 16, 20, 23, 27]]
  )
