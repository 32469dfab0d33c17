import collections
import dataclasses
import json

import numbered
import numpy as np
import pytest
from numbered import ITEMS, RECORDS

from vimonet_jax.eval import benchmarks, run, scores, scoring, tables
from vimonet_jax.motion import corrupt

SETTINGS = run.Settings('f', 'c')


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


def test_a_record_that_was_damaged_since_costs_its_answers_only(tmp_path):
  lines = run.predict(
    Reader(), ITEMS, numbered.Damaged(RECORDS, 2), str(tmp_path / 'x.jsonl'),
    settings=SETTINGS, rows=4, progress=False,
  )  # fmt: skip
  for item, line in zip(ITEMS, lines, strict=True):
    assert ('error' in line) == (item.position == 2)
    assert line['text'] == ('' if 'error' in line else item.reference)
  assert 'sound record as test:2, found' in lines[6]['error']
  again = _predict(ITEMS, tmp_path / 'x.jsonl', engine := Reader())
  assert sum(map(len, engine.calls)) == 3, 'once it can be read again'
  assert [line['text'] for line in again] == [i.reference for i in ITEMS]


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
  rows = scores.write(
    str(tmp_path / 'scores.json'),
    scoring.score(items, lines, scoring.verdicts(items, lines))
  )
  table = tables.text(rows)
  (whole,) = [line for line in table.splitlines() if line.startswith('all')]
  assert whole.split() == [
    'all', 'answers', '16.7', '100.0', '100.0', '100.0', '0.0',
  ]  # fmt: skip
  (drop,) = [
    line for line in table.splitlines() if line.startswith('vimos-synth both')
  ]
  assert drop.split()[-5:] == ['100.0', '100.0', '100.0', '100.0', '100.0']


def test_zeroed_items_are_asked_of_a_blind_engine_and_no_others(tmp_path):
  class Seeing(Reader):
    def blind(self):
      blind = Reader()
      blind._read = lambda record: 'It is dark.'
      self.blinded = blind
      return blind

  engine = Seeing()
  zeroed = benchmarks.variant(ITEMS[:6], corruption='zeroed')
  asked = [x for pair in zip(ITEMS[:6], zeroed, strict=True) for x in pair]
  lines = _predict(asked, tmp_path / 'bench.jsonl', engine)
  assert [line['text'] == 'It is dark.' for line in lines] == [False, True] * 6
  assert sum(map(len, engine.calls)) == sum(map(len, engine.blinded.calls)) == 6


def test_what_cannot_be_shown_fails_and_is_tried_again(tmp_path):
  """Two of six clips are missing; then one of them comes back."""
  absent = {1, 4}

  def reader(i):
    def read():
      if i in absent:
        raise FileNotFoundError(f'no clip {i}')
      return RECORDS[i]

    return read

  def ask(engine):
    return run.predict(
      engine,
      ITEMS,
      benchmarks.Readers([reader(i) for i in range(6)]),
      str(tmp_path / 'bench.jsonl'),
      settings=SETTINGS,
      rows=4,
      progress=False,
    )

  lines = ask(Reader())
  assert [line['id'] for line in lines] == [item.id for item in ITEMS]
  errors = {line['id']: line['error'] for line in lines if 'error' in line}
  assert set(errors) == {i.id for i in ITEMS if i.position in absent}
  assert errors['r1/0'] == 'no clip 1'
  (whole,) = [
    row
    for row in scoring.score(ITEMS, lines, scoring.verdicts(ITEMS, lines))
    if row['domain'] == 'all'
  ]
  assert (whole['n'], whole['n_failed'], whole['accuracy_valid']) == (18, 6, 1)
  assert whole['accuracy'] == pytest.approx(12 / 18)
  written = (tmp_path / 'bench.jsonl').read_text()
  ask(engine := Reader())
  assert not engine.calls
  assert (tmp_path / 'bench.jsonl').read_text() == written, 'nothing is new'
  absent.remove(4)
  lines = ask(engine)
  assert sum(map(len, engine.calls)) == 3
  assert sum('error' in line for line in lines) == 3


def test_the_first_rotation_takes_the_answer_to_the_question_as_it_is(tmp_path):
  def turned(seed, **changes):
    return [
      dataclasses.replace(item, corruption='rotated', seed=seed, **changes)
      for item in ITEMS
    ]

  items = [*ITEMS, *turned(0), *turned(1, question='Which, the other way?')]
  path = tmp_path / 'bench.jsonl'
  lines = _predict(items, path, engine := Reader())
  assert sum(map(len, engine.calls)) == 2 * len(ITEMS)
  assert [run.key(line) for line in lines] == [item.key for item in items]
  for line, item in zip(lines, items, strict=True):
    assert line['text'] == item.reference
    assert run.is_about(line, item)
  assert len(path.read_text().splitlines()) == len(items)
  # Whether the one or the other was asked first, and in which run.
  for some, asked in ((ITEMS, 18), (items[:36], 0), (items, 18)):
    again = _predict(some, tmp_path / 'parts.jsonl', engine := Reader())
    assert sum(map(len, engine.calls)) == asked
  assert again == lines
  changed = [dataclasses.replace(i, question='Who?') for i in items[18:36]]
  _predict(changed, path, engine := Reader())
  assert sum(map(len, engine.calls)) == 18, 'another question'


def test_a_clip_is_read_once_for_all_that_is_asked_about_it(tmp_path):
  reads = collections.Counter()

  def reader(i):
    def read():
      reads[i] += 1
      return RECORDS[i]

    return read

  records = benchmarks.Readers([reader(i) for i in range(6)])
  run.predict(
    Reader(), ITEMS, records, str(tmp_path / 'bench.jsonl'),
    settings=SETTINGS, rows=4, progress=False,
  )  # fmt: skip
  assert reads == dict.fromkeys(range(6), 1)
  assert len(records) == 6
  with pytest.raises(IndexError):
    records[6]


def test_the_likeliest_option_is_an_answer_of_its_own(tmp_path, monkeypatch):
  """Written and chosen answers of an item share a file and not a line."""
  asked = []

  def score(engine, prompts, options, *, max_rows):
    del engine
    assert len(prompts) <= max_rows
    asked.extend(options)
    scored = collections.namedtuple('Scored', 'mean')
    return [
      tuple(scored(-1.0 if name in ('n2', 'n4') else -2.0) for name in names)
      for names in options
    ]

  monkeypatch.setattr(run.likelihood, 'score', score)
  chosen = benchmarks.by_likelihood(ITEMS, lambda item: item.choices)
  items = [*ITEMS, *chosen]
  path = tmp_path / 'bench.jsonl'
  lines = _predict(items, path)
  assert [line['text'] for line in lines[18:]] == ['n2'] * 18, 'the first best'
  assert lines[18]['mean_log_probs'] == [-2.0, -2.0, -1.0, -2.0, -1.0, -2.0]
  assert lines[0]['text'] == 'It is n0.'
  assert asked == [item.choices for item in chosen]
  assert [line['reading'] for line in lines] == ['generated'] * 18 + [
    'likelihood'
  ] * 18
  asked.clear()
  assert _predict(items, path) == lines
  assert not asked


def test_lines_of_before_there_was_another_reading_still_count(tmp_path):
  path = tmp_path / 'bench.jsonl'
  lines = _predict(ITEMS, path)
  for line in lines:
    del line['reading']
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  _predict(ITEMS, path, engine := Reader())
  assert not engine.calls


def test_other_questions_and_files_under_an_old_id_are_asked(tmp_path):
  path = tmp_path / 'bench.jsonl'
  _predict(ITEMS, path)
  items = list(ITEMS)
  items[0] = dataclasses.replace(items[0], question='Which one, please?')
  items[1] = dataclasses.replace(items[1], clip='another file')
  items[2] = dataclasses.replace(items[2], history=(('Who?', 'Me.'),))
  # What answers are compared with is looked at when they are judged.
  items[3] = dataclasses.replace(items[3], references=('n5',), choices=())
  lines = _predict(items, path, engine := Reader())
  assert sum(map(len, engine.calls)) == 3
  assert len(lines) == len(items)
  written = {run.key(line): line for line in run.read_predictions(str(path))}
  assert len(run.current(items, written)) == len(items)
  # Both files' answers are of old questions now.
  assert len(run.current(ITEMS, written)) == len(items) - 3
  _predict(items, path, engine := Reader())
  assert not engine.calls


def test_what_one_process_cannot_show_nobody_asks(tmp_path, monkeypatch):
  """Else the others would answer something else at the same time."""

  def tell(name, words):
    del name
    is_of_media = words.startswith('{')
    other = json.dumps({'1': 'host 1: no such file'})
    return [words, other if is_of_media else words]

  monkeypatch.setattr(run.cluster, 'tell', tell)
  lines = _predict(ITEMS[:4], tmp_path / 'bench.jsonl', engine := Reader())
  (asked,) = engine.calls
  assert [record.id for record in asked] == [
    item.id for i, item in enumerate(ITEMS[:4]) if i != 1
  ]
  assert lines[1]['error'] == 'host 1: no such file'
