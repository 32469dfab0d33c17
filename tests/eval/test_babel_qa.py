import babel_asked
import numpy as np
import pytest

from vimonet_jax.data import babel_questions
from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import babel_qa, benchmarks, run, scoring

ACTIONS = ('jump', 'jumping jacks', 'sit', 'stand up', 'walk')
VOCABULARY = {
  'action': ACTIONS,
  'direction': ('forward', 'left'),
  'body_part': ('left arm', 'right hand'),
}


def _benchmark(folder, questions, vocabulary=VOCABULARY, **names):
  return babel_qa.benchmark(questions, folder, vocabulary, **names)


def _item(answer, choices=ACTIONS, folder='.'):
  vocabulary = {**VOCABULARY, 'action': choices}
  asked = [babel_asked.question(1, answer=answer)]
  return _benchmark(folder, asked, vocabulary).items[0]


def _rows(items, texts, rule=babel_qa.strict, **names):
  """Domain or slice -> row, of one reading."""
  lines = run.as_predictions(items, texts)
  found = scoring.verdicts(items, lines, scoring.by_rule(rule))
  rows = scoring.score(items, lines, found, **names)
  assert len({row['reading'] for row in rows}) == 1
  return {row['domain']: row for row in rows}


def _of_majority(benchmark):
  texts = benchmark.baselines[babel_qa.MAJORITY]
  return _rows(benchmark.items[: len(texts)], texts)


def _written(benchmark):
  return [i for i in benchmark.items if i.reading == benchmarks.GENERATED]


def _num_right(row):
  return round(row['accuracy'] * row['n'])


# --- Rules -------------------------------------------------------------------


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    (' The  person\nWalks. ', 'walks'),
    ('"They stand up!"', 'stand up'),
    ('the left arm', 'left arm'),
    ('Take/pick something up...', 'take/pick something up'),
    ('theatre', 'theatre'),
    ('then walk', 'then walk'),
    ('person', 'person'),
    ('The person.', ''),
    ('they the', 'the'),
    ('?!', ''),
  ],
)
def test_normalised_texts(text, expected):
  assert babel_qa.normalise(text) == expected


@pytest.mark.parametrize(
  ('text', 'answer', 'is_strict', 'is_lenient'),
  [
    ('walk', 'walk', True, True),
    ('They walk.', 'walk', True, True),
    ('They stand up after that.', 'stand up', False, True),
    ('walks', 'walk', False, None),
    ('walk and sit', 'walk', False, False),
    ('sit', 'walk', False, False),
    ('jumping jacks', 'jump', False, False),
    ('Jumping jacks, twice.', 'jumping jacks', False, True),
    ('stand', 'stand up', False, None),
    ('', 'walk', False, None),
    ('left, walk', 'walk', False, True),
  ],
)
def test_strict_and_lenient_answers(text, answer, is_strict, is_lenient):
  """None: nothing is named, so there is nothing to be right or wrong about."""
  item = _item(answer)
  found = babel_qa.strict(item, text)
  assert (found.correct, found.status) == (is_strict, 'ok')
  assert (found.id, found.judge) == (item.id, 'strict')
  assert found.score == 5.0 * is_strict
  found = babel_qa.lenient(item, text)
  assert found.correct == bool(is_lenient)
  assert found.status == ('unparsed' if is_lenient is None else 'ok')
  assert found.judge == 'lenient'


def test_an_answer_inside_a_longer_one_is_not_named():
  squats = ('squat', 'half squat')
  text = 'A half squat.'
  assert babel_qa.lenient(_item('half squat', squats), text).correct
  assert not babel_qa.lenient(_item('squat', squats), text).correct


# --- Benchmark ---------------------------------------------------------------


def test_each_question_is_written_and_chosen_from_its_type(tmp_path):
  asked = [
    babel_asked.question(0, motion='8'),
    babel_asked.question(1, 'direction', answer='left', motion='7'),
    babel_asked.question(2, motion='8'),
  ]
  found = _benchmark(tmp_path, asked, split='val')
  assert found.name == 'babel-qa'
  assert list(found.rules) == ['strict', 'lenient']
  assert not found.needs_judge
  written = _written(found)
  assert found.items[:3] == written
  chosen = found.items[3:]
  assert [item.id for item in written] == ['000000', '000001', '000002']
  assert [item.position for item in written] == [0, 1, 0]
  assert {item.split for item in written} == {'val'}
  assert {item.input for item in written} == {'motion'}
  assert [item.id for item in chosen] == [item.id for item in written]
  assert chosen[1].options == ('forward', 'left')
  assert chosen[1].reading == benchmarks.LIKELIHOOD
  assert [item.chance for item in chosen] == [1 / 5, 1 / 2, 1 / 5]
  assert {item.chance for item in written} == {None}
  # A chosen option is judged as what is written.
  assert babel_qa.strict(chosen[1], 'left').correct


def test_rows_are_by_type_by_relation_and_by_both(tmp_path):
  asked = [
    babel_asked.question(0, 'action', 'before'),
    babel_asked.question(1, 'action', 'in_between'),
    babel_asked.question(2, 'direction', 'no_relation', 'left'),
    babel_asked.question(3, 'direction', 'after', 'left'),
  ]
  found = _benchmark(tmp_path, asked)
  rows = _rows(_written(found), ['walk', 'sit', 'left', 'forward'])
  right = {name: (_num_right(row), row['n']) for name, row in rows.items()}
  assert right == {
    'all': (2, 4),
    'macro': (2, 4),
    'action': (1, 2),
    'direction': (1, 2),
    'before': (1, 1),
    'after': (0, 1),
    'in_between': (0, 1),
    'no_relation': (1, 1),
    'other': (1, 2),
    'action/before': (1, 1),
    'action/in_between': (0, 1),
    'direction/no_relation': (1, 1),
    'direction/after': (0, 1),
  }


def test_the_majority_is_that_of_train(tmp_path):
  train = [
    babel_asked.question(i, answer=a) for i, a in enumerate(['walk', 'sit'] * 2)
  ]
  assert babel_qa.majority(train) == {'action': 'sit'}, 'the first by name'
  train.append(babel_asked.question(9))
  asked = [babel_asked.question(i) for i in range(3)]
  # A type that train lacks has no majority, and its questions stay wrong.
  asked.append(babel_asked.question(3, 'direction', answer='left'))
  found = _benchmark(tmp_path, asked, train=train)
  rows = _of_majority(found)
  assert (rows['action/before']['accuracy'], rows['action']['n']) == (1.0, 3)
  assert (rows['all']['accuracy'], rows['all']['n']) == (3 / 4, 4)
  assert rows['direction']['accuracy'] == 0.0
  assert _benchmark(tmp_path, asked).baselines == {}


def _save(path, num_frames):
  path.parent.mkdir(exist_ok=True, parents=True)
  np.save(path, babel_asked.slide(num_frames))


def test_motions_are_read_when_they_are_asked_about_and_missing_ones_fail(
  tmp_path,
):
  _save(tmp_path / '7_joints_30fps.npy', 61)
  _save(tmp_path / 'motion_sequences' / '9' / 'joints.npy', 61)
  (tmp_path / '10_joints_30fps.npy').write_bytes(b'none')
  asked = [babel_asked.question(i, motion=str(i)) for i in (7, 8, 9, 10)]
  found = _benchmark(tmp_path, asked)
  assert list(found.missing) == [1]
  assert 'neither; pass the folder that has the motion 8' in found.missing[1]
  for position in (0, 2):
    record = found.records[position]
    assert record.motion.shape == (40, 263)
    assert record.joints.shape == (41, 22, 3)
  prompt = benchmarks.prompt_record(found.items[0], found.records)
  assert prompt.motion.shape == (40, 263)
  assert prompt.turns[0].question == '?'
  for item in (found.items[1], found.items[3]):
    with pytest.raises(benchmarks.MediaError):
      benchmarks.prompt_record(item, found.records)
  with pytest.raises(FileNotFoundError, match='folder of motions, found no'):
    _benchmark(tmp_path / 'nowhere', asked)


def test_a_motion_that_does_not_show_what_is_up_is_told(tmp_path):
  path = tmp_path / 'motion_sequences' / '7' / 'joints.npy'
  path.parent.mkdir(parents=True)
  still_TJ3 = babel_asked.slide(61)[:1].repeat(61, axis=0)
  np.save(path, still_TJ3 * [-1, 1, -1])
  asked = [babel_asked.question(7)]
  with pytest.raises(benchmarks.MediaError, match='pass --up'):
    _ = _benchmark(tmp_path, asked).records[0]
  found = _benchmark(tmp_path, asked, up='y')
  assert found.records[0].motion.shape == (40, 263)


def test_the_note_says_how_much_of_long_motions_is_not_shown(tmp_path):
  """9.8 s are 196 frames at 20 fps; 296 at 30 fps are the most that fit."""
  for name, num_frames in (('7', 296), ('8', 298), ('9', 601), ('1', 10)):
    _save(tmp_path / f'{name}_joints_30fps.npy', num_frames)
  (tmp_path / '6_joints_30fps.npy').write_bytes(b'none')

  def notes(*motions):
    asked = [
      babel_asked.question(i, motion=name) for i, name in enumerate(motions)
    ]
    return _benchmark(tmp_path, asked).notes

  assert notes('7', '1', '5', '6') == ()
  (note,) = notes('7', '8', '8', '9', '5', '6')
  # 196, 198 and 400 frames at 20 fps, of which 196 each are shown.
  assert note == (
    '2 of 3 motions are longer than the 9.8 s that a model reads, and are '
    'shown from their start: 10.3 of 39.7 s are not shown, and 3 of 6 '
    'questions are about these motions.'
  )
  asked = [babel_asked.question(0, motion='9')]
  record = _benchmark(tmp_path, asked).records[0]
  assert len(record.motion) == records_lib.MAX_MOTION_FRAMES
  assert record.provenance == {'frames': [196, 401]}


# --- The data set ------------------------------------------------------------

RELATIONS = babel_asked.RELATIONS
COUNTS = babel_asked.COUNTS
# Query type x relation. That of test is published; those of train and val were
# counted from the files without this code.
CROSS = {
  'train': ((439, 384, 285, 93), (69, 107, 169, 31), (80, 78, 60, 5)),
  'val': ((106, 95, 54, 16), (11, 17, 33, 3), (17, 12, 14, 6)),
  'test': ((86, 90, 63, 22), (15, 16, 35, 6), (23, 18, 15, 4)),
}
# Right answers of the majority. Those of test are its published percentages of
# the counts above.
MAJORITY = {
  'train': dict(all=526, action=355, direction=114, body_part=57, before=170,
                after=156, other=200),
  'val': dict(all=110, action=78, direction=17, body_part=15, before=36,
              after=42, other=32),
  'test': dict(all=134, action=93, direction=23, body_part=18, before=38,
               after=47, other=49),
}  # fmt: skip


@pytest.fixture(scope='module')
def splits(shared_data):
  return babel_asked.splits(shared_data)


@pytest.fixture(scope='module')
def opened(splits, tmp_path_factory):
  """Split -> benchmark, whose motions are all missing."""
  vocabulary = babel_questions.vocabulary_of(splits['train'])
  folder = tmp_path_factory.mktemp('motions')
  return {
    split: _benchmark(
      folder, questions, vocabulary, split=split, train=splits['train']
    )
    for split, questions in splits.items()
  }


@pytest.fixture(scope='module')
def majority_rows(opened):
  return {split: _of_majority(found) for split, found in opened.items()}


def _cross(n):
  return tuple(
    tuple(n[f'{query}/{relation}'] for relation in RELATIONS)
    for query in babel_questions.QUERY_TYPES
  )


@pytest.mark.parametrize('split', ['train', 'val'])
def test_the_counts_are_those_of_the_data_set(opened, majority_rows, split):
  n = {name: row['n'] for name, row in majority_rows[split].items()}
  by_query = tuple(n[name] for name in babel_questions.QUERY_TYPES)
  by_relation = tuple(n[name] for name in RELATIONS)
  motions = len(opened[split].records)
  assert (n['all'], motions, by_query, by_relation) == COUNTS[split]
  assert n['other'] == by_relation[2] + by_relation[3]
  assert _cross(n) == CROSS[split]


def test_the_public_part_of_test_leaves_100_questions(majority_rows):
  """Every count is at most that of the whole, and the rest adds up."""
  n = {name: row['n'] for name, row in majority_rows['test'].items()}
  rest = np.array(CROSS['test']) - _cross(n)
  assert (rest >= 0).all()
  by_query = [n[name] for name in babel_questions.QUERY_TYPES]
  by_relation = [n[name] for name in RELATIONS]
  assert list(COUNTS['test'][2] - rest.sum(axis=1)) == by_query
  assert list(COUNTS['test'][3] - rest.sum(axis=0)) == by_relation
  assert (n['all'], rest.sum()) == (293, COUNTS['test'][0] - 293)


def test_each_answer_is_itself_and_no_other(splits):
  """No answer is named inside another, so the order of looking is no matter."""
  vocabulary = babel_questions.vocabulary_of(splits['train'])
  for answers in vocabulary.values():
    items = [_item(answer, answers) for answer in answers]
    for said in answers:
      right = [babel_qa.lenient(item, said).correct for item in items]
      assert right == [babel_qa.strict(item, said).correct for item in items]
      assert sum(right) == 1


def test_who_knows_every_answer_has_every_row_right(opened):
  found = opened['val']
  items = _written(found)
  for rule in found.rules.values():
    rows = _rows(items, [item.reference for item in items], rule)
    # Three types, four relations, other, twelve of both, and two sums.
    assert len(rows) == 22
    assert {row['accuracy'] for row in rows.values()} == {1.0}
    assert {row['n_failed'] for row in rows.values()} == {0}


def test_choosing_is_a_reading_of_its_own_whose_chance_is_known(opened):
  found = opened['val']
  items = [i for i in found.items if i.reading == benchmarks.LIKELIHOOD]
  assert len(items) == 384
  rows = _rows(items, [item.options[0] for item in items])
  chances = {name: row['chance'] for name, row in rows.items()}
  assert chances['action'] == pytest.approx(1 / 20)
  assert chances['direction'] == pytest.approx(1 / 4)
  assert chances['body_part'] == pytest.approx(1 / 8)
  assert chances['direction/after'] == pytest.approx(1 / 4)
  assert chances['macro'] == pytest.approx((1 / 20 + 1 / 4 + 1 / 8) / 3)
  whole = (271 / 20 + 64 / 4 + 49 / 8) / 384
  assert chances['all'] == pytest.approx(whole)


def test_an_answer_that_is_missing_is_wrong_in_every_row(opened):
  items = _written(opened['val'])
  lines = run.as_predictions(items, [item.reference for item in items])
  lines[0]['error'] = 'no such file'
  strict = scoring.by_rule(babel_qa.strict)
  rows = scoring.score(
    items, lines[:-1], scoring.verdicts(items, lines[:-1], strict)
  )
  for row in rows:
    held = [
      item
      for item in items
      if row['domain'] in (item.domain, *item.slices, 'all', 'macro')
    ]
    failed = sum(item in (items[0], items[-1]) for item in held)
    assert (row['n'], row['n_failed']) == (len(held), failed)
    assert row['accuracy_valid'] == 1.0
    if row['domain'] != 'macro':
      assert _num_right(row) == len(held) - failed
  assert sum(row['n_failed'] > 0 for row in rows) > 2


def test_the_majority_row(splits, majority_rows):
  assert babel_qa.majority(splits['train']) == {
    'action': 'walk',
    'direction': 'forward',
    'body_part': 'right hand',
  }
  for split in ('train', 'val'):
    rows = majority_rows[split]
    found = {name: _num_right(rows[name]) for name in MAJORITY[split]}
    assert found == MAJORITY[split]


def test_the_majority_row_of_test_fits_its_public_part(majority_rows):
  """100 questions are not here; neither right nor wrong ones can be fewer."""
  published = {'all': 34.10, 'action': 35.63, 'direction': 31.94,
               'body_part': 30.00, 'before': 30.65, 'after': 37.90,
               'other': 33.79}  # fmt: skip
  totals = {'all': 393, 'action': 261, 'direction': 72, 'body_part': 60,
            'before': 124, 'after': 124, 'other': 145}  # fmt: skip
  rows = majority_rows['test']
  for name, percent in published.items():
    right, total = MAJORITY['test'][name], totals[name]
    assert round(100 * right / total, 2) == pytest.approx(percent)
    row = rows[name]
    assert _num_right(row) <= right
    assert row['n'] - _num_right(row) <= total - right
  assert (_num_right(rows['all']), rows['all']['n']) == (102, 293)


def test_a_published_motion_is_shown_as_its_segments_are(shared_data, splits):
  """Motion 919 has three questions of train; the others' are not there."""
  asked = [q for q in splits['train'] if q.babel_id in ('919', '4869', '1')]
  found = _benchmark(
    shared_data / 'babel_segments',
    asked,
    babel_questions.vocabulary_of(splits['train']),
  )
  items = {item.id: item for item in _written(found)}
  answers = {'004019': 'walk', '004020': 'sit', '004023': 'walk'}
  for name, answer in answers.items():
    assert items[name].reference == answer
    prompt = benchmarks.prompt_record(items[name], found.records)
    assert prompt.motion.shape == (196, 263)
  record = found.records[items['004019'].position]
  assert record.provenance == {'frames': [196, 211]}
  (note,) = found.notes
  assert note.startswith('1 of ')
  assert ': 0.7 of ' in note
