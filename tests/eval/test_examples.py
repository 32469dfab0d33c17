"""The first right and the first wrong answer of each domain, by a hash."""

import dataclasses

import numpy as np
import pytest
from numbered import ITEMS, RECORDS, record

from vimonet_jax.eval import benchmarks, examples, judge, run, verdicts_file

BENCHMARK = benchmarks.Benchmark(
  ITEMS, RECORDS, {'rule': benchmarks.by_rules}
)  # fmt: skip


def _verdicts(tmp_path, texts, items=ITEMS, **rules):
  """As written and read again; each rule is what a judge calls right."""
  lines = run.as_predictions(items, texts)
  rules = rules or {'rule': lambda item, text: text == item.reference}
  by_judge = {
    name: [
      benchmarks.all_or_nothing(i, is_right(i, text), by=name)
      for i, text in zip(items, texts, strict=True)
    ]
    for name, is_right in rules.items()
  }
  path = tmp_path / 'verdicts.jsonl'
  verdicts_file.write(str(path), items, lines, by_judge)
  return verdicts_file.read(str(path))


def _half(items=ITEMS):
  """Right about even records."""
  return [i.reference if i.position % 2 == 0 else 'No idea.' for i in items]


def _first(domain, *, even):
  order = benchmarks.shuffled(ITEMS, examples.SEED)
  return next(
    item
    for item in order
    if item.domain == domain and (item.position % 2 == 0) == even
  )


def test_each_domain_has_its_first_right_and_its_first_wrong_answer(tmp_path):
  found = examples.judged(BENCHMARK, _verdicts(tmp_path, _half()))
  assert [(e.domain, e.correct) for e in found] == [
    ('object', True), ('object', False), ('place', True), ('place', False),
  ] or [(e.domain, e.correct) for e in found] == [
    ('place', True), ('place', False), ('object', True), ('object', False),
  ]  # fmt: skip
  for example in found:
    item = _first(example.domain, even=example.correct)
    assert example.reference == item.reference
    assert example.question == item.question
    assert np.all(example.frames == item.position)
    assert example.answer in (item.reference, 'No idea.')
    assert (example.judge, example.score) == (
      'rule',
      5.0 if example.correct else 0.0,
    )


def test_the_order_of_the_questions_does_not_choose(tmp_path):
  backwards = benchmarks.Benchmark(ITEMS[::-1], RECORDS, BENCHMARK.rules)
  lines = _verdicts(tmp_path, _half())

  def asked(found):
    return {(e.domain, e.correct, e.reference) for e in found}

  assert asked(examples.judged(backwards, lines[::-1])) == asked(
    examples.judged(BENCHMARK, lines)
  )


def test_where_nothing_is_right_there_is_no_success(tmp_path):
  texts = ['No idea.'] * len(ITEMS)
  found = examples.judged(BENCHMARK, _verdicts(tmp_path, texts))
  assert [e.correct for e in found] == [False, False]


def test_what_failed_is_no_example(tmp_path):
  lines = _verdicts(tmp_path, _half())
  wanted = _first('place', even=False)
  for line in lines:
    if line['id'] == wanted.id:
      line['status'], line['correct'] = 'failed', None
  found = examples.judged(BENCHMARK, lines)
  (wrong,) = [e for e in found if (e.domain, e.correct) == ('place', False)]
  assert wrong.reference != wanted.reference


def test_a_language_model_that_judged_counts_before_rules(tmp_path):
  lines = _verdicts(
    tmp_path,
    _half(),
    rule=lambda item, text: False,
    wise=lambda item, text: True,
  )
  found = examples.judged(BENCHMARK, lines)
  assert {(e.judge, e.correct) for e in found} == {('wise', True)}


def test_clips_that_cannot_be_shown_are_passed_over(tmp_path):
  lines = _verdicts(tmp_path, _half())
  first = _first('place', even=True)

  def gone():
    raise OSError('no such file')

  readers = [lambda i=i: record(i) for i in range(len(RECORDS))]
  readers[first.position] = gone
  unread = dataclasses.replace(BENCHMARK, records=benchmarks.Readers(readers))
  known = dataclasses.replace(BENCHMARK, missing={first.position: 'gone'})
  for benchmark in (unread, known):
    found = examples.judged(benchmark, lines)
    (right,) = [e for e in found if (e.domain, e.correct) == ('place', True)]
    assert right.reference != first.reference
  nothing = dataclasses.replace(
    BENCHMARK, missing=dict.fromkeys(range(len(RECORDS)), 'gone')
  )
  assert examples.judged(nothing, lines) == []


def test_only_what_was_shown_is_shown(tmp_path):
  for shown, has in (('motion', (True, False)), ('video', (False, True))):
    items = benchmarks.variant(ITEMS, input=shown)
    benchmark = benchmarks.Benchmark(items, RECORDS, BENCHMARK.rules)
    for example in examples.judged(
      benchmark, _verdicts(tmp_path, _half(items), items)
    ):
      assert (example.joints is not None, example.frames is not None) == has


def test_features_without_joints_are_drawn_from_the_features(tmp_path):
  bare = [dataclasses.replace(r, joints=None) for r in RECORDS]
  benchmark = dataclasses.replace(BENCHMARK, records=bare)
  found = examples.judged(benchmark, _verdicts(tmp_path, _half()))
  assert {e.joints.shape[1:] for e in found} == {(22, 3)}


def test_noise_and_other_readings_are_no_examples(tmp_path):
  noisy = benchmarks.variant(ITEMS, corruption='L2')
  benchmark = benchmarks.Benchmark(noisy, RECORDS, BENCHMARK.rules)
  lines = _verdicts(tmp_path, _half(noisy), noisy)
  assert examples.judged(benchmark, lines) == []


def test_captions_are_the_first_of_as_many_clips():
  clips = [record(i) for i in range(20)]
  items = [
    dataclasses.replace(ITEMS[0], id=f'c{i}', position=i, media_position=i)
    for i in range(20)
  ]
  twice = [*items, dataclasses.replace(items[3], id='c3 again')]
  benchmark = benchmarks.Benchmark(twice, clips, {})
  lines = {run.key(x): x for x in run.as_predictions(twice, ['It is.'] * 21)}
  found = examples.captions(benchmark, lines)
  assert len(found) == examples.MAX_CAPTIONS
  assert {e.correct for e in found} == {None}
  shown = [int(e.frames[0, 0, 0, 0]) for e in found]
  assert len(set(shown)) == len(shown)
  order = benchmarks.shuffled(twice, examples.SEED)
  assert shown == list(dict.fromkeys(i.position for i in order))[: len(shown)]
  lines[order[0].key]['error'] = 'no such file'
  first, *_ = examples.captions(benchmark, lines)
  assert int(first.frames[0, 0, 0, 0]) == shown[1]


def test_verdicts_without_texts_are_refused(tmp_path):
  assert verdicts_file.read(str(tmp_path / 'none')) == []
  path = tmp_path / 'old.jsonl'
  path.write_text('{"id": "a", "correct": true}\n')
  with pytest.raises(ValueError, match='earlier version; run --task=score'):
    verdicts_file.read(str(path))


def test_an_unparsed_answer_is_a_wrong_one(tmp_path):
  lines = _verdicts(tmp_path, ['No idea.'] * len(ITEMS))
  for line in lines:
    line['status'] = judge.UNPARSED
  assert len(examples.judged(BENCHMARK, lines)) == 2
