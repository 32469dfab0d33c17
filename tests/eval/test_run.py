import collections
import dataclasses
import json

import numpy as np
import pytest

from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import benchmarks, run, scores, tables
from vimonet_jax.motion import corrupt

SETTINGS = run.Settings('f', 'c')


def _record(i: int, **changes) -> records_lib.Record:
  """Asks for its own number, in two domains."""
  turns = tuple(
    records_lib.Turn(
      f'Which {domain}?', f'It is n{i}.', domain, kind, f'n{i}', CHOICES
    )
    for domain, kind in (('place', 'a'), ('object', 'b'), ('object', 'c'))
  )
  return records_lib.Record(
    f'r{i}',
    'test',
    'test',
    motion=np.full((40 + 4 * i, 263), i, np.float32),
    joints=np.zeros((41 + 4 * i, 22, 3), np.float32),
    frames=np.full((2, 4, 4, 3), i, np.uint8),
    turns=turns,
    **changes,
  )


CHOICES = tuple(f'n{i}' for i in range(6))
RECORDS = [_record(i) for i in range(6)]
ITEMS = benchmarks.synthetic_items(RECORDS)


class Reader:
  """An engine that reads the number of a record from its motion or frames.

  Without either it says n0. It can be killed at its n-th call.
  """

  def __init__(self, kill_at: int = 0):
    self.calls = []
    self._kill_at = kill_at

  def answer(self, records, *, sampling, max_new_tokens, max_rows):
    del sampling, max_new_tokens
    assert len(records) <= max_rows
    if len(self.calls) + 1 == self._kill_at:
      raise KeyboardInterrupt
    self.calls.append(records)
    return [self._read(record) for record in records]

  def _read(self, record):
    number = 0
    if record.motion is not None:
      number = int(record.motion[0, 0])
    elif record.frames is not None:
      number = int(record.frames[0, 0, 0, 0])
    return f'It is n{number}.'


def _predict(items, path, engine=None, **changes):
  engine = engine or Reader()
  return run.predict(
    engine,
    items,
    RECORDS,
    str(path),
    settings=dataclasses.replace(SETTINGS, **changes),
    rows=4,
    progress=False,
  )


def _rows(items, texts):
  rows = run.score(items, run.as_predictions(items, texts))
  return {(row['input'], row['corruption'], row['domain']): row for row in rows}


def test_lines_hold_what_a_reader_needs_and_follow_the_items(tmp_path):
  path = tmp_path / 'new' / 'bench.jsonl'
  lines = _predict(ITEMS[::-1], path)
  assert [line['id'] for line in lines] == [item.id for item in ITEMS[::-1]]
  written = [json.loads(line) for line in path.read_text().splitlines()]
  assert sorted(map(str, written)) == sorted(map(str, lines))
  (line,) = [line for line in lines if line['id'] == 'r3/1']
  assert line['text'] == 'It is n3.'
  assert line['benchmark'] == benchmarks.SYNTHETIC
  assert (line['input'], line['corruption'], line['seed']) == (
    'both',
    'none',
    0,
  )
  assert (line['fingerprint'], line['config_hash']) == ('f', 'c')
  assert line['decoding']['max_new_tokens'] == 24
  assert len(line['decoding']) > 1, 'how it was sampled'


@pytest.mark.parametrize('cut', [0, 7])
def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path, cut):
  path = tmp_path / 'bench.jsonl'
  with pytest.raises(KeyboardInterrupt):
    _predict(ITEMS, path, Reader(kill_at=3))
  text = path.read_text()
  assert len(text.splitlines()) == 8, 'two batches were written at once'
  path.write_text(text[: len(text) - cut])
  engine = Reader()
  lines = _predict(ITEMS, path, engine)
  assert sum(map(len, engine.calls)) == len(ITEMS) - 8 + bool(cut)
  assert [line['id'] for line in lines] == [item.id for item in ITEMS]
  undisturbed = _predict(ITEMS, tmp_path / 'other.jsonl')
  assert lines == undisturbed
  assert len(path.read_text().splitlines()) == len(ITEMS)
  _predict(ITEMS, path, engine := Reader())
  assert engine.calls == []


@pytest.mark.parametrize(
  'changes',
  [{'fingerprint': 'g'}, {'config_hash': 'd'}, {'max_new_tokens': 5}],
)
def test_answers_of_other_runs_are_kept_and_not_taken(tmp_path, changes):
  path = tmp_path / 'bench.jsonl'
  _predict(ITEMS, path)
  lines = _predict(ITEMS, path, engine := Reader(), **changes)
  assert sum(map(len, engine.calls)) == len(ITEMS)
  assert len(lines) == len(ITEMS)
  assert len(path.read_text().splitlines()) == 2 * len(ITEMS)


def test_a_broken_line_in_the_middle_is_reported(tmp_path):
  path = tmp_path / 'bench.jsonl'
  _predict(ITEMS, path)
  path.write_text(path.read_text().replace('{', '', 1))
  with pytest.raises(ValueError, match='line 1: expected one JSON object'):
    _predict(ITEMS, path)


def test_variants_share_a_file_and_a_batch_shares_its_media(tmp_path):
  items = [
    *ITEMS,
    *benchmarks.variant(ITEMS, input='text'),
    *benchmarks.variant(ITEMS, input='motion'),
    *benchmarks.variant(ITEMS, input='both', corruption='swapped'),
  ]
  lines = _predict(items, tmp_path / 'bench.jsonl', engine := Reader())
  for records in engine.calls:
    assert 0 < len(records) <= 4
    shapes = {
      (record.motion is None, record.frames is None) for record in records
    }
    assert len(shapes) == 1
  assert len(lines) == len(items)
  texts = collections.Counter(line['text'] for line in lines[18:36])
  assert texts == {'It is n0.': 18}, 'text: nothing can be read'
  assert [line['text'] for line in lines[36:54]] == [
    item.reference for item in ITEMS
  ]
  assert all(
    line['text'] != item.reference
    for line, item in zip(lines[54:], ITEMS, strict=True)
  )


def test_frames_of_another_size_are_another_batch(tmp_path):
  wide = [
    dataclasses.replace(r, frames=np.zeros((2, 4, 6, 3), np.uint8))
    if i % 2
    else r
    for i, r in enumerate(RECORDS)
  ]
  engine = Reader()
  path = str(tmp_path / 'bench.jsonl')
  run.predict(
    engine,
    ITEMS[::-1],
    wide,
    path,
    settings=SETTINGS,
    rows=100,
    progress=False,
  )
  assert len(engine.calls) == 2
  for records in engine.calls:
    assert len({record.frames.shape for record in records}) == 1
    lengths = [len(record.motion) for record in records]
    assert lengths == sorted(lengths), 'clips of like length are neighbours'


def test_an_engine_that_loses_answers_is_reported(tmp_path):
  class Loser(Reader):
    def answer(self, records, **options):
      return super().answer(records, **options)[1:]

  with pytest.raises(ValueError, match='found 3 answers for 4 items'):
    _predict(ITEMS, tmp_path / 'bench.jsonl', Loser())


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
    assert list(row)[:9] == [
      'benchmark', 'split', 'input', 'corruption', 'domain', 'accuracy',
      'score', 'n', 'n_failed',
    ]  # fmt: skip
    assert row['low'] <= row['accuracy'] <= row['high']
    assert row['low'] < row['high']
  json.dumps(list(rows.values()), allow_nan=False)


def test_verdicts_are_written_in_order_and_say_what_failed(tmp_path):
  lines = run.as_predictions(ITEMS, [item.reference for item in ITEMS])
  lines[1]['text'] = ''
  path = tmp_path / 'verdicts' / 'bench.jsonl'
  run.write_verdicts(str(path), ITEMS, lines[::-1])
  written = [json.loads(line) for line in path.read_text().splitlines()]
  assert [line['id'] for line in written] == [item.id for item in ITEMS]
  assert [line['correct'] for line in written[:3]] == [True, None, True]
  assert written[1]['status'] == 'failed'
  assert written[0]['judge'] == 'rule'
  assert [p.name for p in path.parent.iterdir()] == ['bench.jsonl']


def test_answers_are_joined_by_key_and_what_is_missing_has_failed():
  lines = run.as_predictions(ITEMS, [item.reference for item in ITEMS])
  whole = run.score(ITEMS, lines[::-1])[-2]
  assert (whole['accuracy'], whole['n_failed']) == (1.0, 0)
  lines[0]['text'] = ''
  whole = run.score(ITEMS, lines[:-1])[-2]
  assert (whole['n'], whole['n_failed']) == (18, 2)
  assert whole['accuracy'] == pytest.approx(16 / 18)
  assert whole['accuracy_valid'] == 1.0
  assert whole['score'] == pytest.approx(5 * 16 / 18)
  with pytest.raises(ValueError, match='found two for'):
    run.score(ITEMS, [*lines, dict(lines[0])])


def test_verdicts_stand_in_the_order_of_the_items():
  texts = [item.reference if item.position == 2 else 'n9' for item in ITEMS]
  lines = run.as_predictions(ITEMS, texts)
  found = run.verdicts(ITEMS, lines[::-1])
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
  # Asking twice is not evidence for twice as many questions.
  assert (row['low'], row['high']) == scores.wilson(0.5, 18)


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
  items = benchmarks.caption_items(records)
  (best,) = run.caption_rows(items, run.as_predictions(items, texts))
  (worst,) = run.caption_rows(
    items, run.as_predictions(items, [*texts[1:], texts[0]]), system='shuffled'
  )
  assert best['BLEU_1'] == pytest.approx(1.0, abs=1e-6)
  assert best['CIDEr'] > 2.0 > worst['CIDEr']
  assert (best['system'], worst['system']) == (run.MODEL, 'shuffled')
  assert best['accuracy'] is None
  assert (best['n'], best['n_failed'], best['domain']) == (
    3,
    0,
    'motion_caption',
  )
  (cut,) = run.caption_rows(items, run.as_predictions(items, [*texts[:2], '']))
  assert cut['n_failed'] == 1
  assert cut['BLEU_1'] < best['BLEU_1']


def test_the_whole_road_from_records_to_a_table(tmp_path):
  """Real noise, a file, a merge, and words for the terminal."""
  assert 'L2' in corrupt.LEVELS
  items = [
    item
    for name in benchmarks.INPUTS
    for item in benchmarks.variant(ITEMS, input=name)
  ]
  items += benchmarks.variant(ITEMS, corruption=benchmarks.SWAPPED)
  lines = _predict(items, tmp_path / 'bench.jsonl')
  rows = scores.write(str(tmp_path / 'scores.json'), run.score(items, lines))
  table = tables.text(rows)
  (whole,) = [line for line in table.splitlines() if line.startswith('all')]
  assert whole.split() == [
    'all', 'answers', '16.7', '100.0', '100.0', '100.0', '0.0',
  ]  # fmt: skip
  (drop,) = [
    line for line in table.splitlines() if line.startswith('vimos-synth both')
  ]
  assert drop.split()[-5:] == ['100.0', '100.0', '100.0', '100.0', '100.0']
