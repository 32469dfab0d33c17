"""Runs are compared question by question."""

import json

import pytest
from judged import EVERY, MOTION, ROWS, lines_of
from numbered import CHOICES

from vimonet_jax.data import records
from vimonet_jax.eval import benchmarks, judge, own_items, run, scoring, studies


def _table(rows, verdicts):
  (table,) = studies.tables(rows, verdicts)
  return table.rows


def test_means_are_over_seeds_and_groups_over_their_domains():
  rows = _table(ROWS, {('a', 0): lines_of(EVERY), ('a', 1): lines_of(MOTION)})
  a = rows['a']
  assert list(a) == [
    'direction', 'place', 'all', 'macro', 'of motion', 'of video'
  ]  # fmt: skip
  assert a['all']['accuracy'] == pytest.approx((8 + 4) / 16)
  assert a['all']['by_seed'] == {0: 1.0, 1: 0.5}
  assert a['all']['score'] == pytest.approx(5 * 0.75)
  assert (a['all']['n'], a['of motion']['n']) == (8, 4)
  assert a['of motion']['accuracy'] == 1.0
  assert a['of video']['accuracy'] == a['place']['accuracy'] == 0.5
  for numbers in a.values():
    assert numbers['low'] <= numbers['accuracy'] <= numbers['high']
  assert a['all']['low'] < 0.75 < a['all']['high']
  # Nobody has trained b, so there is nothing to say of it.
  assert rows['b'] == {}
  json.dumps(a)


def test_differences_pair_seeds_and_join_by_id_not_by_place():
  """Seeds 2 and 3 have no partner; b's lines stand the other way round."""
  verdicts = {
    ('a', 0): lines_of(EVERY),
    ('a', 1): lines_of(MOTION),
    ('a', 2): lines_of(set()),
    ('b', 0): lines_of({'r0/0', 'r0/1'}, order=-1),
    ('b', 1): lines_of(MOTION - {'r3/0'}, order=-1),
    ('b', 3): lines_of(set()),
  }
  whole = _table(ROWS, verdicts)['b']['all']
  # Seed 0: 8 become 2 of 8; seed 1: 4 become 3 of 8.
  assert whole['difference_by_seed'] == {0: -75.0, 1: -12.5}
  assert whole['difference'] == pytest.approx(-43.75)
  assert whole['percent'] == pytest.approx(100 * -43.75 / 75)
  assert whole['changed'] == pytest.approx((6 + 1) / 16)
  assert whole['n_compared'] == 8
  assert whole['difference_low'] < -43.75 < whole['difference_high'] < 0
  motion = _table(ROWS, verdicts)['b']['of motion']
  assert motion['difference_by_seed'] == {0: -75.0, 1: -25.0}


def test_of_other_benchmarks_groups_are_what_was_shown():
  lines = [x | {'benchmark': 'babel-qa'} for x in lines_of(EVERY)]
  lines = [x | {'input': 'motion'} for x in lines]
  rows = (studies.Row('a', 'a', 'motion'),)
  assert _table(rows, {('a', 0): lines})['a']['of motion']['n'] == 8


def test_only_questions_that_both_rows_have_are_compared():
  half = [x for x in lines_of(EVERY) if x['record'] < 2]
  numbers = _table(ROWS, {('a', 0): half, ('b', 0): lines_of({'r2/0'})})
  assert numbers['b']['all']['n'] == 8
  assert numbers['b']['all']['accuracy'] == pytest.approx(1 / 8)
  assert numbers['b']['all']['n_compared'] == 4
  assert numbers['b']['all']['difference'] == -100.0


def test_seeds_of_noise_are_one_answer():
  """Of two draws one changes r0/0, which was right; the clean row has one."""
  rows = (
    studies.Row('clean', 'a'),
    studies.Row('noisy', 'a', corruption='L2', against='clean'),
  )
  lines = lines_of(EVERY)
  lines += lines_of(EVERY, corruption='L2')
  lines += lines_of(EVERY - {'r0/0'}, corruption='L2', seed=1)
  noisy = _table(rows, {('a', 0): lines})['noisy']['all']
  assert noisy['n'] == 8
  assert noisy['accuracy'] == pytest.approx(15 / 16)
  assert noisy['difference'] == pytest.approx(-100 / 16)
  assert noisy['changed'] == pytest.approx(1 / 16)


def test_a_mirrored_question_is_joined_with_the_one_that_it_mirrors():
  """Items as they are made: only one of two has a side, and keeps its id."""
  turns = (
    records.Turn('Left or right?', 'It is left.', 'direction', 'a', 'left',
                 ('left', 'right')),
    records.Turn('Where?', 'It is n1.', 'place', 'a', 'n1', CHOICES),
  )  # fmt: skip
  held = [
    records.Record(f'r{i}', 'test', 'test', turns=turns) for i in range(3)
  ]
  items = own_items.questions(held)
  mirrored = benchmarks.variant(items, corruption='mirrored')
  # It answers as before, which is true no more.
  asked = [*items, *mirrored]
  lines = run.as_predictions(
    asked, [i.reference for i in items] + ['It is left.'] * len(mirrored)
  )
  found = scoring.verdicts(asked, lines)
  written = [
    {
      **dict(zip(run.KEY, item.key, strict=True)),
      'split': 'test', 'domain': item.domain, 'record': item.position,
      'question': item.question, 'text': line['text'],
      'correct': verdict.correct, 'score': verdict.score,
      'by': judge.JUDGE,
    }
    for item, line, verdict in zip(asked, lines, found, strict=True)
  ]  # fmt: skip
  rows = (
    studies.Row('clean', 'a'),
    studies.Row('mirror', 'a', corruption='mirrored', against='clean'),
  )
  numbers = _table(rows, {('a', 0): written})
  assert numbers['clean']['all']['accuracy'] == 1.0
  mirror = numbers['mirror']['all']
  assert (mirror['n'], mirror['n_compared']) == (3, 3)
  assert (mirror['difference'], mirror['changed']) == (-100.0, 0.0)


def test_judges_have_tables_of_their_own():
  lines = lines_of(EVERY) + lines_of(MOTION, by='strict')
  tables = studies.tables(ROWS, {('a', 0): lines})
  accuracy = {t.judge: t.rows['a']['all']['accuracy'] for t in tables}
  assert accuracy == {'rule': 1.0, 'strict': 0.5}


def test_other_questions_under_the_same_id_are_refused():
  other = lines_of(EVERY, questions={'r1/0': 'Whither?'})
  with pytest.raises(ValueError, match="r1/0 of run b with seed 0 as 'Whither"):
    studies.tables(ROWS, {('a', 0): lines_of(EVERY), ('b', 0): other})
  mirrored = lines_of(EVERY, questions={'r1/0': 'Whi?'}, corruption='mirrored')
  studies.tables(ROWS, {('a', 0): lines_of(EVERY), ('b', 0): mirrored})


@pytest.mark.parametrize(
  ('rows', 'sentence'),
  [
    ([studies.Row('a', 'a')] * 2, "found two of 'a'"),
    ([studies.Row('a', 'a', against='c')], "against one of a, found 'c'"),
  ],
)
def test_what_is_not_there_is_said(rows, sentence):
  with pytest.raises(ValueError, match=sentence):
    studies.check(rows)
