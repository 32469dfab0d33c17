"""Published rows, ours below, one block a judge, and what is not there."""

import pytest

from vimonet_jax.eval import (
  paper_layout,
  paper_rows,
  paper_tables,
  published,
  scores,
)


def _row(domain='all', accuracy=0.5, **changes):
  """Of ViMoNet-Bench's motion part, judged by a service."""
  return {
    'benchmark': 'vimonet-bench',
    'split': 'test',
    'input': 'motion',
    'corruption': 'none',
    'reading': 'generated',
    'domain': domain,
    'accuracy': accuracy,
    'score': 2.5,
    'n': 700,
    'n_failed': 0,
    'judge': 'wise-2026',
    'system': 'model',
    'low': 0.4,
    'high': 0.6,
    **changes,
  }


def _only(rows, **options) -> paper_tables.Table:
  (table,) = paper_tables.build(rows, **options)
  return table


def _line(table, label, *, block=0, place=0) -> dict[str, paper_rows.Cell]:
  lines = [x for x in table.blocks[block].lines if x.label == label]
  names = [name for name, _ in table.columns]
  return dict(zip(names, lines[place].cells, strict=True))


def _mains(line) -> list[str]:
  return [cell.main for cell in line.values()]


def test_published_rows_are_as_printed_and_what_nobody_printed_is_said():
  table = _only([_row()])
  printed, *_ = table.blocks
  assert printed.title == 'Published'
  theirs = _line(table, 'MotionLLM')
  assert theirs['body part'].main == '50.49'
  assert theirs['body part'].score == '3.55'
  assert theirs['micro'].main == '49.50'
  assert theirs['macro'].main == 'n/a', 'their "all" is over items'
  assert _mains(_line(table, 'items'))[:7] == [
    '205', '171', '140', '148', '36', '700', '',
  ]  # fmt: skip
  assert set(_mains(_line(table, 'ViMoNet'))) == {'n/a', ''}
  (line,) = [x for x in printed.lines if x.label == 'ViMoNet']
  assert 'Not printed in the third version' in table.notes[line.note - 1]
  assert line.about == 'ViMoNet (arXiv 2508.09818 v3)'


def test_a_mean_over_domains_is_in_the_column_that_says_so():
  table = _only([_row(input='video')])
  theirs = _line(table, 'MotionLLM')
  assert (theirs['micro'].main, theirs['macro'].main) == ('n/a', '49.00')
  by_items = _line(table, 'GPT-3.5, text only')
  assert (by_items['micro'].main, by_items['macro'].main) == ('3.03', 'n/a')


def test_shares_become_percent_whatever_the_table_prints():
  table = _only([_row(benchmark='babel-qa', judge='strict')])
  theirs = _line(table, 'MotionLLM, tuned on BABEL-QA')
  assert (theirs['micro'].main, theirs['direction'].main) == ('43.6', '35.4')
  assert _line(table, 'most frequent answers')['micro'].main == '34.10'
  assert theirs['micro'].score == '', 'nobody scores exact answers'


def test_other_protocols_are_marked_and_say_why():
  table = _only([_row(benchmark='babel-qa', judge='strict')])
  marked = [line for line in table.blocks[0].lines if not line.is_comparable]
  assert {line.label for line in marked} == {
    'IMoRe, ten options',
    'SMD, ten options',
  }
  (number,) = {line.note for line in marked}
  assert table.notes[number - 1] == 'Every question has ten given options.'
  text = paper_layout.text([_row(benchmark='babel-qa', judge='strict')])
  assert f'IMoRe, ten options † [b] [{number}]' in text
  assert '[b] secondary: another paper or notes' in text


def test_judges_never_share_a_block():
  rows = [_row(judge='rule'), _row(), _row(judge='other-2026')]
  table = _only(rows)
  assert [block.title for block in table.blocks[1:]] == [
    'Measured here, judged by rule: rules of our own, not comparable',
    'Measured here, judged by wise-2026: compare with numbers of the same '
    'judge only',
    'Measured here, judged by other-2026: compare with numbers of the same '
    'judge only',
  ]
  assert all(len(block.lines) == 1 for block in table.blocks[1:])


def test_every_rule_of_a_benchmark_with_a_table_is_described():
  """A rule that is not would stand there as if a service had judged."""
  named = {
    published.BABEL: ('strict', 'lenient'),
    published.MVBENCH: ('strict', 'compat'),
    published.ACTIVITYNET: ('rule', 'exact'),
    published.MOTION: ('rule',),
    published.VIDEO: ('rule',),
  }
  for name, rules in named.items():
    for rule in rules:
      benchmark, shown = paper_tables.OURS[name]
      row = _row(benchmark=benchmark, judge=rule, input=shown or 'video')
      (block,) = _only([row]).blocks[1:]
      assert 'same judge only' not in block.title, block.title


def test_ours_have_an_interval_a_score_and_a_count_in_each_cell():
  rows = [_row('body_part', 0.25, n=205, low=0.2, high=0.31), _row()]
  line = _line(_only(rows), 'this model', block=1)
  assert line['body part'] == ('25.0', '2.50', '20.0–31.0', '205')
  assert line['micro'] == ('50.0', '2.50', '40.0–60.0', '700')
  assert line['direction'].main == '–', 'nobody measured it'
  assert (line['n'].main, line['failed'].main) == ('700', '0')


def test_damaged_records_are_said():
  remarks = _only([{**_row(), 'n_damaged': 2}]).remarks
  assert any('n is smaller: 2.' in remark for remark in remarks)


def test_failures_are_wrong_first_and_left_out_second():
  held = {'low_valid': 0.41, 'high_valid': 0.62}
  domain = {'accuracy_valid': 0.5, 'score_valid': 3.0, 'n_failed': 10}
  rows = [
    _row('body_part', 0.45, n=100, kinds={}, **held, **domain),
    _row('direction', 0.2, n=100, kinds={}, accuracy_valid=0.25,
         score_valid=2.0, n_failed=20),
    _row(accuracy=0.325, n=200, accuracy_valid=0.38, score_valid=2.5,
         n_failed=30),
    _row('macro', 0.325, n=200, accuracy_valid=0.375, score_valid=2.5,
         n_failed=30, **held),
  ]  # fmt: skip
  table = _only(rows)
  every, valid = table.blocks[1].lines
  assert 'of all answers, failures are wrong' in every.about
  assert 'of valid answers' in valid.about
  line = _line(table, 'this model', block=1, place=1)
  assert line['body part'] == ('50.0', '3.00', '41.0–62.0', '90')
  assert line['direction'].interval == '', 'a row of before there was one'
  assert line['micro'].main == '38.0'
  assert line['macro'] == ('37.5', '2.50', '41.0–62.0', '170')
  assert (line['n'].main, line['failed'].main) == ('170', '0')


def test_what_the_published_script_would_count_has_a_line_of_its_own():
  paper = {'accuracy_as_paper': 0.61, 'score_as_paper': 3.1, 'n_as_paper': 690}
  line = _line(_only([_row(**paper)]), 'this model', block=1, place=1)
  assert line['micro'] == ('61.0', '3.10', '', '690')


def test_readings_rotations_and_systems_are_told_apart_and_noise_is_left_out():
  row = {'benchmark': 'mvbench', 'input': 'video', 'judge': 'strict'}
  table = _only([
    _row(**row, chance=0.25),
    _row(**row, reading='likelihood', chance=0.25),
    _row(**row, corruption='rotated', n=28, chance=0.25),
    _row(**row, system='theirs', accuracy=0.3, chance=0.25),
    _row(**row, corruption='swapped'),
  ])  # fmt: skip
  assert [(x.label, x.about) for x in table.blocks[1].lines] == [
    ('this model', 'video only, written, split test; none failed'),
    ('this model', 'video only, likeliest option, split test; none failed'),
    ('this model', 'video only, options moved round, written, split test; '
     'none failed'),
    ('theirs', 'video only, written, split test; none failed'),
    ('guessing', 'any of the options'),
  ]  # fmt: skip
  assert _line(table, 'guessing', block=1)['micro'].main == '25.0'


def test_guesses_without_media_stand_with_the_questions_they_are_about():
  guess = {'system': 'gpt, motion questions', 'input': 'text'}
  table = _only([_row(), _row(**guess, about='motion')])
  assert table.title == 'ViMoNet-Bench, motion'
  _, line = table.blocks[1].lines
  assert line.label == 'gpt, motion questions'
  assert line.about.startswith('question only')


@pytest.mark.parametrize(
  'name', ['minibench_public', 'vimonet-bench-synth', 'vimos-synth']
)
def test_questions_of_another_name_are_in_no_table(name):
  assert paper_tables.build([_row(benchmark=name)]) == []
  assert paper_layout.parts([_row(benchmark=name)]) == []
  assert paper_layout.text([_row(benchmark=name)]) == ''


def test_a_table_that_is_asked_for_says_that_nothing_was_measured():
  table = _only([], asked=[published.ABLATION_MOTION])
  assert table.blocks[-1] == paper_tables.Block('Measured here: nothing', ())
  assert len(paper_tables.build([], asked=published.BENCHMARKS)) == len(
    published.BENCHMARKS
  )
  with pytest.raises(ValueError, match="found 'movid'"):
    paper_tables.build([], asked=['movid'])


def test_other_counts_and_other_splits_are_said():
  table = _only([_row(benchmark='babel-qa', judge='strict', n=384,
                      split='val')])  # fmt: skip
  said = ' '.join(table.remarks)
  assert 'Asked here: 384, where the published table has 393' in said
  assert 'Of split val, where published numbers are of test' in said
  (line,) = table.blocks[1].lines
  assert not line.is_comparable
  table = _only([_row(benchmark='babel-qa', judge='strict', n=3 * 393)])
  assert 'Asked here' not in ' '.join(table.remarks)
  assert table.blocks[1].lines[0].is_comparable


def _caption(system='model', **changes):
  return {
    **_row('motion_caption', None, benchmark='humanml3d-captions', n=4400),
    'system': system,
    'judge': None,
    **{name: i / 100 for i, name in enumerate(scores.METRICS)},
    **changes,
  }


def test_captions_stand_below_the_published_ones():
  table = _only([_caption(), _caption('nearest training clip')])
  assert _line(table, 'TM2T')['CIDEr'].main == '17.19'
  ours = _line(table, 'this model', block=1)
  assert _mains(ours) == [
    '0.0', '1.0', '2.0', '3.0', '4.0', '5.0', '–', '4,400', '0',
  ]  # fmt: skip
  said = ' '.join(table.remarks)
  assert 'R-precision and MM-dist are not available here' in said
  assert 'BERTScore is not measured' in said
  assert 'Asked here' not in said


def test_an_evaluator_and_bertscore_fill_their_places():
  more = {'BERTScore': 0.3388, 'R@1': 0.509, 'R@2': 0.688, 'R@3': 0.778}
  captions, found = paper_tables.build([_caption(**more, **{'MM-dist': 3.112})])
  assert _line(captions, 'this model', block=1)['BERTScore'].main == '33.9'
  assert 'not available' not in ' '.join(captions.remarks)
  ours, theirs = (
    _mains(_line(found, name, block=block))
    for name, block in (('this model', 1), ('MotionGPT', 0))
  )
  assert ours[:4] == theirs[:4] == ['0.509', '0.688', '0.778', '3.112']
