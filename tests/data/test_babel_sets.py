import dataclasses
import json
import math

import numpy as np
import pytest
import samples

from vimonet_jax.data import babel_questions, babel_sets, kin, survey
from vimonet_jax.motion import features


def _question(name, motion, query='action', relation='no_relation', **fields):
  program = ['[0]=scene([0])', '[1]=filter_action([0], sit)']
  last = 1
  if relation != 'no_relation':
    program.append(f'[2]=relate([1], {relation})')
    last = 2
  return {
    'question_id': name,
    'babel_id': motion,
    'query_type': f'query_{query}',
    'relation_type': relation,
    'question': f'Question {name}?',
    'program': [*program, f'?=query_{query}([{last}])'],
    'answer': 'walk',
  } | fields


def _write(path, value):
  path.write_text(json.dumps(value))
  return str(path)


@pytest.fixture
def parts(tmp_path):
  """Paths of questions, split file and motions; 7 is short, 8 is long."""
  questions = [
    _question('000001', '7'),
    _question('000002', '7', 'direction', 'after', answer='left'),
    _question('000003', '8', relation='before'),
    _question('000004', '9'),
    _question('000005', '10'),
    _question('000006', '11'),
    _question('000007', '12'),
  ]
  (tmp_path / 'motions').mkdir()
  for name, frames in {
    '7': 211,
    '8': 900,
    '9': 211,
    '10': 211,
    '12': 40,
  }.items():
    place = tmp_path / 'motions' / f'{name}_joints_30fps.npy'
    np.save(place, samples.walk(frames))
  return {
    'questions': _write(tmp_path / 'questions.json', questions),
    'split_file': _write(
      tmp_path / 'splits.json',
      {
        'train': ['000001', '000002', '000003', '000006', '000007'],
        'val': ['000004'],
        'test': ['000005'],
      },
    ),
    'motions': str(tmp_path / 'motions'),
  }


def _asked(splits):
  return {
    split: [(item.id, item.questions) for item in items]
    for split, items in splits.items()
  }


def test_questions_of_train_and_val_become_records(parts):
  source = babel_sets.BabelQa(**parts)
  items = source.splits()
  assert _asked(items) == {
    'train': [('7/0', ('000001', '000002'))],
    'val': [('9/0', ('000004',))],
    'test': [],
  }
  record = source.make(items['train'][0])
  assert (record.id, record.split, record.source) == (
    '7/0',
    'train',
    'babel_qa',
  )
  assert len(record.motion) == 140
  assert len(record.joints) == 141
  first, second = record.turns
  assert (first.question, first.answer, first.fact) == (
    'Question 000001?', 'walk', 'walk'
  )  # fmt: skip
  assert (first.domain, second.domain) == ('', 'direction')
  assert second.kind == 'direction/after'
  assert (first.choices, second.choices) == (('walk',), ('left',))
  assert record.provenance['questions'] == ['000001', '000002']
  assert not record.provenance['in_order']


def test_the_rest_is_counted(parts):
  found = babel_sets.BabelQa(**parts).survey()
  assert found.rows == (
    survey.Row('babel_qa', 'train', 1, missing=1, left_out=2, turns=2),
    survey.Row('babel_qa', 'val', 1, turns=1),
    survey.Row('babel_qa', 'test', left_out=1),
    survey.Row('babel_qa', '-'),
  )
  assert 'babel_qa, 1 questions of test: 000005' in found.notes
  assert 'babel_qa, 1 questions without their motion: 000006' in found.notes
  assert 'babel_qa, 1 questions about a motion too short: 000007' in found.notes


def test_no_question_of_test_is_trained_on(parts, tmp_path):
  """Whatever the questions' file is called, the split file is believed."""
  only = [_question('000005', '10')]
  parts['questions'] = _write(tmp_path / 'train.json', only)
  with pytest.raises(ValueError, match='found none; 1 questions of test: 0000'):
    babel_sets.BabelQa(**parts).splits()


def test_an_id_or_a_motion_of_test_and_train_is_refused(parts, tmp_path):
  both = [_question('000001', '7'), _question('000005', '7')]
  questions = parts['questions']
  parts['questions'] = _write(tmp_path / 'both.json', both)
  with pytest.raises(ValueError, match='no motion of test in train, found 1'):
    babel_sets.BabelQa(**parts).splits()
  parts['questions'] = questions
  ids = {'train': ['000001'], 'val': [], 'test': ['000001']}
  parts['split_file'] = _write(tmp_path / 'twice.json', ids)
  with pytest.raises(ValueError, match='found 000001 in train and test'):
    babel_sets.BabelQa(**parts).splits()
  del ids['test']
  _write(tmp_path / 'twice.json', ids)
  with pytest.raises(ValueError, match='train, val, test, found .*train.*val'):
    babel_sets.BabelQa(**parts).splits()


def _segments(tmp_path, *rows):
  rows = [
    {'start_f': start, 'end_f': end, 'attributes': {'action': [action]}}
    for start, end, action in rows
  ]
  sit = [{'start_f': 0, 'end_f': 90, 'attributes': {'action': ['sit', 'walk']}}]
  every = {name: sit for name in ('7', '9')} | {'8': rows}
  return _write(tmp_path / 'motion_concepts.json', every)


def test_a_long_motion_is_cut_around_what_is_asked(parts, tmp_path):
  rows = [(0, 300, 'run'), (300, 450, 'walk'), (450, 540, 'sit'),
          (540, 900, 'run')]  # fmt: skip
  parts['segments'] = _segments(tmp_path, *rows)
  source = babel_sets.BabelQa(**parts)
  (item,) = [i for i in source.splits()['train'] if i.babel_id == '8']
  # 300 to 540 at 30 fps are 200 to 360 at 20 fps; 36 rows are left.
  assert (item.start, item.stop) == (182, 378)
  record = source.make(item)
  joints = samples.walk(900)
  assert len(record.motion) == 196
  np.testing.assert_allclose(record.joints[18], joints[300], atol=1e-4)
  read = babel_questions.read_motion(source.motions, '8')
  whole = features.encode(read.joints)
  np.testing.assert_array_equal(record.motion, whole[182:378])


def test_what_no_record_can_show_is_left_out(parts, tmp_path):
  rows = [(0, 250, 'run'), (250, 450, 'walk'), (450, 600, 'sit')]
  parts['segments'] = _segments(tmp_path, *rows)
  found = babel_sets.BabelQa(**parts).find()
  assert found.left['too_long'] == ['000003']
  # The direction that 000002 asks for is not there.
  assert found.left['unanswered'] == ['000002']
  (fault,) = found.faults
  assert 'Question 000002: expected one segment to ask about' in fault


def test_a_motion_that_cannot_be_read_is_named(parts, tmp_path):
  path = tmp_path / 'motions' / '7_joints_30fps.npy'
  path.write_bytes(b'no joints')
  source = babel_sets.BabelQa(**parts)
  with pytest.raises(ValueError, match='2 questions about a motion that cann'):
    source.splits()
  np.save(tmp_path / 'motions' / '8_joints_30fps.npy', samples.walk(211))
  found = source.survey()
  assert found.rows[0].unreadable == 2
  assert found.notes[-1].startswith(f'{path}: expected joints')


def test_other_motions_are_another_set(parts, tmp_path):
  source = babel_sets.BabelQa(**parts)
  before = source.identity()
  assert json.loads(json.dumps(before)) == before
  np.save(tmp_path / 'motions' / '7_joints_30fps.npy', samples.walk(212))
  assert {k for k in before if before[k] != source.identity()[k]} == {'motions'}


def test_real_questions_and_no_id_of_test(shared_data, tmp_path):
  folder = shared_data / 'babelqa'
  rows = [
    line
    for name in ('train', 'val', 'test_public')
    for line in (folder / f'{name}.jsonl').read_text().splitlines()
  ]
  everything = tmp_path / 'questions.jsonl'
  everything.write_text('\n'.join(rows))
  source = babel_sets.BabelQa(
    str(everything),
    str(folder / 'split_question_ids_public.json'),
    str(shared_data / 'babel_segments'),
    str(shared_data / 'babel_segments' / '919_segments.json'),
  )
  found = source.find()
  test = {q.id for q in babel_questions.read(folder / 'test_public.jsonl')}
  assert set(found.left['test']) == test
  asked = [i for item in found.splits['train'] for i in item.questions]
  # The one motion that is here is longer than a record; each question is about
  # another part of it.
  assert sorted(asked) == ['004019', '004020', '004023']
  assert not test & set(asked)
  made = [source.make(item) for item in found.splits['train']]
  answers = {t.answer for record in made for t in record.turns}
  assert answers == {'walk', 'sit'}
  without = dataclasses.replace(source, segments='')
  with pytest.raises(ValueError, match='3 questions about more than a record'):
    without.splits()


def test_motions_of_test_are_known_by_their_trials(parts, tmp_path):
  source = babel_sets.BabelQa(**parts)
  assert source.tested() == {
    '10': kin.Cut('babel_qa', '10', 'babel_qa/10', 0, math.inf)
  }
  babel = tmp_path / 'babel'
  babel.mkdir()
  entries = {'10': {'feat_p': 'CMU/CMU/01/01_02_poses.npz'}, '7': {'dur': 3}}
  _write(babel / 'val.json', entries)
  source = dataclasses.replace(source, babel=str(babel))
  assert source.tested()['10'].trial == 'CMU/01/01_02'
  (item, *_) = source.splits()['train']
  assert source.cut(item).trial == 'babel_qa/7'
  assert source.cut(item)[-3:-1] == (item.start, item.stop)
  with pytest.raises(ValueError, match="Expected BABEL's train.json"):
    dataclasses.replace(source, babel=str(tmp_path / 'motions')).tested()
