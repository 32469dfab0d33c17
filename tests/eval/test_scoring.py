import dataclasses
import json

import pytest
from numbered import ITEMS

from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import (
  benchmarks,
  judge,
  own_items,
  run,
  scores,
  scoring,
  verdicts_file,
)


def _score(items, lines, **names):
  return scoring.score(items, lines, scoring.verdicts(items, lines), **names)


def _rows(items, texts):
  rows = _score(items, run.as_predictions(items, texts))
  return {(row['input'], row['corruption'], row['domain']): row for row in rows}


def test_a_row_a_domain_one_of_all_answers_and_one_of_all_domains():
  """Twelve objects, all right; six places, three of them right."""
  texts = [
    item.reference if item.domain == 'object' or item.position % 2 else 'n9'
    for item in ITEMS
  ]
  rows = _rows(ITEMS, texts)
  assert list(rows) == [
    ('both', 'none', domain) for domain in ('place', 'object', 'all', 'macro')
  ]
  place, objects, whole, macro = rows.values()
  assert (place['accuracy'], place['n']) == (0.5, 6)
  assert (objects['accuracy'], objects['n']) == (1.0, 12)
  assert whole['accuracy'] == pytest.approx(15 / 18)
  assert macro['accuracy'] == pytest.approx(0.75)
  assert whole['score'] == pytest.approx(5 * 15 / 18)
  assert macro['score'] == pytest.approx(5 * 0.75)
  assert whole['n'] == macro['n'] == 18
  assert objects['kinds'] == {
    'b': {'accuracy': 1.0, 'n': 6},
    'c': {'accuracy': 1.0, 'n': 6},
  }
  for row in rows.values():
    assert list(row)[:10] == [
      'benchmark', 'split', 'input', 'corruption', 'reading', 'domain',
      'accuracy', 'score', 'n', 'n_failed',
    ]  # fmt: skip
    assert (row['judge'], row['system']) == ('rule', 'model')
    assert row['low'] <= row['accuracy'] <= row['high']
    assert row['low'] < row['high']
  json.dumps(list(rows.values()), allow_nan=False)


def test_verdicts_are_written_in_order_and_say_what_failed(tmp_path):
  lines = run.as_predictions(ITEMS, [item.reference for item in ITEMS])
  lines[1]['text'] = ''
  path = tmp_path / 'verdicts' / 'bench.jsonl'
  found = scoring.verdicts(ITEMS, lines[::-1])
  verdicts_file.write(str(path), ITEMS, lines[::-1], {'rule': found})
  written = [json.loads(line) for line in path.read_text().splitlines()]
  assert [line['id'] for line in written] == [item.id for item in ITEMS]
  assert [line['correct'] for line in written[:3]] == [True, None, True]
  assert [line['text'] for line in written] == [line['text'] for line in lines]
  assert [line['record'] for line in written] == [i.position for i in ITEMS]
  assert (written[0]['domain'], written[0]['kind']) == ('place', 'a')
  assert written[1]['status'] == 'failed'
  assert written[0]['judge'] == 'rule'
  assert [p.name for p in path.parent.iterdir()] == ['bench.jsonl']


def test_answers_are_joined_by_key_and_what_is_missing_has_failed():
  lines = run.as_predictions(ITEMS, [item.reference for item in ITEMS])
  whole = _score(ITEMS, lines[::-1])[-2]
  assert (whole['accuracy'], whole['n_failed']) == (1.0, 0)
  lines[0]['text'] = ''
  whole = _score(ITEMS, lines[:-1])[-2]
  assert (whole['n'], whole['n_failed']) == (18, 2)
  assert whole['accuracy'] == pytest.approx(16 / 18)
  assert whole['accuracy_valid'] == 1.0
  assert whole['score'] == pytest.approx(5 * 16 / 18)
  with pytest.raises(ValueError, match='found two for'):
    _score(ITEMS, [*lines, dict(lines[0])])


def test_the_mean_of_domains_of_valid_answers_is_of_domains():
  """Of 6 places 4 fail and 1 is right; of 12 objects 3 are."""
  lines, places, objects = run.as_predictions(ITEMS, ['n9'] * 18), [], []
  for item, line in zip(ITEMS, lines, strict=True):
    some = places if item.domain == 'place' else objects
    some.append((item, line))
  for _, line in places[:4]:
    line['error'] = 'no media'
  for item, line in [*places[4:5], *objects[:3]]:
    line['text'] = item.reference
  rows = {row['domain']: row for row in _score(ITEMS, lines)}
  assert rows['place']['accuracy_valid'] == pytest.approx(1 / 2)
  assert rows['object']['accuracy_valid'] == pytest.approx(1 / 4)
  assert rows['all']['accuracy_valid'] == pytest.approx(4 / 14)
  macro = rows['macro']
  assert macro['accuracy_valid'] == pytest.approx(3 / 8)
  assert macro['low_valid'] < 3 / 8 < macro['high_valid']
  assert macro['score_valid'] == pytest.approx(
    (rows['place']['score_valid'] + rows['object']['score_valid']) / 2
  )
  # A domain of which all have failed is in no mean of valid answers.
  for _, line in places:
    line['error'] = 'no media'
  rows = {row['domain']: row for row in _score(ITEMS, lines)}
  assert rows['place']['accuracy_valid'] is None
  assert rows['macro']['accuracy_valid'] == pytest.approx(1 / 4)
  assert rows['macro']['accuracy'] == pytest.approx(1 / 8)


def test_verdicts_stand_in_the_order_of_the_items():
  texts = [item.reference if item.position == 2 else 'n9' for item in ITEMS]
  lines = run.as_predictions(ITEMS, texts)
  found = scoring.verdicts(ITEMS, lines[::-1])
  assert [verdict.id for verdict in found] == [item.id for item in ITEMS]
  right = [verdict.correct for verdict in found]
  assert right == [item.position == 2 for item in ITEMS]


def test_a_drop_compares_the_same_questions_and_counts_new_answers():
  """Clean 18 of 18; corrupted only positions 0 to 2 stay right."""
  noisy = benchmarks.variant(ITEMS, corruption='L2')
  texts = [item.reference for item in ITEMS]
  texts += [i.reference if i.position < 3 else 'n9' for i in noisy]
  rows = _rows([*ITEMS, *noisy], texts)
  assert 'drop_points' not in rows['both', 'none', 'all']
  for domain in ('place', 'object', 'all', 'macro'):
    row = rows['both', 'L2', domain]
    assert row['drop_points'] == pytest.approx(50.0)
    assert row['drop_percent'] == pytest.approx(50.0)
    assert row['changed'] == pytest.approx(0.5)
    assert row['drop_points_low'] < 50.0 < row['drop_points_high']
  # Of half of the questions only those are compared that both were asked.
  half = [item for item in noisy if item.position < 3]
  rows = _rows([*ITEMS, *half], [i.reference for i in [*ITEMS, *half]])
  assert rows['both', 'L2', 'all']['drop_points'] == 0.0
  assert rows['both', 'L2', 'all']['changed'] == 0.0


def test_pairing_makes_the_interval_of_a_drop_narrower():
  """The same third of the records fails on both sides, and one record more."""
  noisy = benchmarks.variant(ITEMS, corruption='L2')
  texts = [i.reference if i.position > 1 else 'n9' for i in ITEMS]
  texts += [i.reference if i.position > 2 else 'n9' for i in noisy]
  row = _rows([*ITEMS, *noisy], texts)['both', 'L2', 'all']
  assert row['drop_points'] == pytest.approx(100 / 6)
  assert row['drop_points_low'] >= 0.0, 'no record gets better'


def test_seeds_of_an_item_share_a_row():
  seeds = [benchmarks.variant(ITEMS, corruption='L1', seed=s) for s in (0, 1)]
  items = [*ITEMS, *seeds[0], *seeds[1]]
  texts = [i.reference for i in ITEMS + seeds[0]] + ['n9'] * 18
  row = _rows(items, texts)['both', 'L1', 'all']
  assert (row['n'], row['accuracy']) == (36, 0.5)
  assert row['drop_points'] == pytest.approx(50.0)
  # Asking twice is not evidence for twice as many questions, and where all of
  # a clip's are answered alike they are no more than the clips.
  assert (row['low'], row['high']) == scores.wilson(0.5, 6)


def test_each_item_counts_once_however_many_seeds_it_has():
  """Clip 0 is asked three times and always right, the others once."""
  noisy = benchmarks.variant(ITEMS, corruption='L1')
  for seed in (1, 2):
    again = benchmarks.variant(ITEMS, corruption='L1', seed=seed)
    noisy += [item for item in again if item.position == 0]
  noisy = [dataclasses.replace(item, slices=('every',)) for item in noisy]
  texts = [item.reference if item.position == 0 else 'n9' for item in noisy]
  rows = _rows(noisy, texts)
  for domain in ('place', 'object', 'all', 'macro', 'every'):
    row = rows['both', 'L1', domain]
    assert row['accuracy'] == row['accuracy_valid'] == pytest.approx(1 / 6)
    assert row['score'] == row['score_valid'] == pytest.approx(5 / 6)
  assert rows['both', 'L1', 'all']['n'] == 18 + 2 * 3
  kinds = rows['both', 'L1', 'object']['kinds']
  assert kinds['b'] == {'accuracy': pytest.approx(1 / 6), 'n': 6 + 2}


def test_nothing_right_when_clean_has_no_drop_in_percent():
  noisy = benchmarks.variant(ITEMS, corruption='L2')
  row = _rows([*ITEMS, *noisy], ['n9'] * 36)['both', 'L2', 'all']
  assert (row['drop_points'], row['drop_percent']) == (0.0, None)


def test_captions_get_their_metrics_for_each_system():
  texts = ['a man walks to the left', 'a person waves both arms', 'he sits']
  records = [
    records_lib.Record(
      f'r{i}',
      'test',
      'test',
      turns=(records_lib.Turn('Say.', text, 'motion_caption'),),
    )
    for i, text in enumerate(texts)
  ]
  items = own_items.captions(records)
  (best,) = scoring.caption_rows(items, run.as_predictions(items, texts))
  (worst,) = scoring.caption_rows(
    items, run.as_predictions(items, [*texts[1:], texts[0]]), system='shuffled'
  )
  assert best['BLEU_1'] == pytest.approx(1.0, abs=1e-6)
  assert best['CIDEr'] > 2.0 > worst['CIDEr']
  assert (best['system'], worst['system']) == (scoring.MODEL, 'shuffled')
  assert best['accuracy'] is None
  assert (best['n'], best['n_failed'], best['domain']) == (
    3,
    0,
    'motion_caption',
  )
  lines = run.as_predictions(items, [*texts[:2], ''])
  (cut,) = scoring.caption_rows(items, lines)
  assert cut['n_failed'] == 1
  assert cut['BLEU_1'] < best['BLEU_1']


def test_each_judge_has_rows_of_its_own():
  def strict(item, text):
    if not text.startswith('It is'):
      return judge.Verdict(item.id, False, 0.0, judge.UNPARSED, 'strict')
    return judge.Verdict(item.id, text == item.reference, None, judge='strict')

  lines = run.as_predictions(ITEMS, [item.reference for item in ITEMS])
  lines[0]['text'] = lines[0]['text'].removeprefix('It is ')
  lines[1]['text'] = ''
  found = scoring.verdicts(ITEMS, lines[:-1], scoring.by_rule(strict))
  rows = scoring.score(ITEMS, lines[:-1], found, judged_by='strict')
  whole = next(row for row in rows if row['domain'] == 'all')
  assert (whole['judge'], whole['n']) == ('strict', 18)
  assert (whole['n_failed'], whole['n_unparsed']) == (1, 2)
  assert whole['accuracy'] == pytest.approx(15 / 18)
  assert whole['accuracy_valid'] == pytest.approx(15 / 17)
  assert whole['low_valid'] < 15 / 17 < whole['high_valid']
  assert whole['high_valid'] > whole['high'], 'without the failure'
  assert _score(ITEMS, lines)[-2]['n_failed'] == 1, 'the empty one'


def test_slices_have_rows_and_are_in_no_mean():
  items = [
    dataclasses.replace(item, slices=('even',) if not item.position % 2 else ())
    for item in ITEMS
  ]
  texts = [i.reference if i.slices else 'n9' for i in items]
  rows = _rows(items, texts)
  even = rows['both', 'none', 'even']
  assert (even['accuracy'], even['n'], even['n_failed']) == (1.0, 9, 0)
  assert even['low'] < 1.0 == even['high']
  assert rows['both', 'none', 'macro']['accuracy'] == pytest.approx(0.5)
  assert list(rows)[-1] == ('both', 'none', 'even')


def test_slices_stand_in_one_order_whatever_is_asked_first():
  names = ('b', 'a/y', 'b/x', 'a')
  items = [
    dataclasses.replace(item, slices=(names[i % 4],))
    for i, item in enumerate(ITEMS)
  ]
  rows = _rows(items, ['n9'] * len(items))
  assert [key[2] for key in rows][-4:] == ['a', 'b', 'a/y', 'b/x']


def test_other_systems_and_readings_are_other_rows():
  chosen = benchmarks.by_likelihood(ITEMS, lambda item: item.choices)
  lines = run.as_predictions(
    [*ITEMS, *chosen], [i.reference for i in ITEMS] + ['n9'] * 18
  )
  rows = _score([*ITEMS, *chosen], lines, system='another')
  accuracy = {
    row['reading']: row['accuracy'] for row in rows if row['domain'] == 'all'
  }
  assert accuracy == {'generated': 1.0, 'likelihood': 0.0}
  assert {row['system'] for row in rows} == {'another'}
  keys = [tuple(row.get(name) for name in scores.KEY) for row in rows]
  assert len(set(keys)) == len(rows)


def test_chance_is_the_mean_of_that_of_the_items():
  items = [
    dataclasses.replace(
      item,
      chance=1 / 2 if item.domain == 'place' else 1 / 4,
      slices=('first',) if item.position == 0 else (),
    )
    for item in ITEMS
  ]
  texts = ['n9'] * len(items)
  chances = {key[2]: row['chance'] for key, row in _rows(items, texts).items()}
  assert chances == {
    'place': 1 / 2,
    'object': 1 / 4,
    'all': pytest.approx((6 / 2 + 12 / 4) / 18),
    'macro': (1 / 2 + 1 / 4) / 2,
    'first': pytest.approx((1 / 2 + 2 / 4) / 3),
  }
  # Where it is not known of one, the mean would be that of others.
  items[0] = dataclasses.replace(items[0], chance=None)
  rows = _rows(items, texts)
  assert not any('chance' in row for row in rows.values())


def test_no_interval_is_a_point_where_all_answers_are_alike():
  for text in ('n9', None):
    rows = _rows(ITEMS, [text or item.reference for item in ITEMS])
    for row in rows.values():
      assert row['high'] - row['low'] > 0.1, row['domain']
