import re

import pytest
import score_rows

from vimonet_jax.eval import scores, tables

_row = score_rows.row


def test_the_table_is_aligned_and_says_what_failed():
  drop = {
    'drop_points': 12.5,
    'drop_points_low': 1.0,
    'drop_points_high': 20.0,
    'drop_percent': 25.0,
    'changed': 0.3,
  }
  metrics = dict.fromkeys(scores.METRICS, 0.25)
  lines = tables.text(
    [
      _row('body_part', 1.0),
      _row(),
      _row(
        corruption='L2',
        accuracy=0.375,
        n_failed=3,
        accuracy_valid=0.6,
        **drop,
      ),
      _row('motion_caption', None, system='model', **metrics),
    ]
  ).splitlines()
  assert lines[0].split() == ['b', 'test', 'both', 'both', 'L2']
  assert lines[1].split() == ['body_part', '100.0', '-']
  assert lines[2].split() == ['all', 'answers', '50.0', '37.5']
  assert lines[4].split() == ['failed', '0', '3']
  assert lines[5].split() == ['all', 'answers,', 'valid', '-', '60.0']
  assert len({len(line) for line in lines[:6]}) == 1
  assert lines[8].split() == ['b', 'both', 'L2', '12.5', '1.0', '20.0'] + [
    '25.0',
    '30.0',
  ]
  assert lines[11].split()[:4] == ['motion_caption', 'both,', 'model', '25.0']
  assert tables.text([]) == ''


def test_a_system_with_the_name_of_a_judge_is_not_taken_for_the_model():
  rows = [_row(judge='rule', system='model'),
          _row(judge='rule', system='rule', accuracy=0.25)]  # fmt: skip
  assert 'rule: both' in tables.text(rows).splitlines()[0]
  assert '50.0' in tables.text(rows)


@pytest.mark.parametrize(
  'changes',
  [{'judge': 'rule'},
   {'accuracy': None, 'system': 'model', 'CIDEr': 0.1,
    **dict.fromkeys(scores.METRICS, 0.1)}],
)  # fmt: skip
def test_damaged_records_are_said_wherever_a_table_is(changes):
  words = 'and n is smaller: 3.'
  rows = [_row(**changes)]
  show = tables.captions if 'CIDEr' in changes else tables.answers
  for found in (tables.text(rows), ''.join(show(rows))):
    assert words not in found
  rows = [{**row, 'n_damaged': 3} for row in rows]
  for found in (tables.text(rows), ''.join(show(rows))):
    assert words in found


def test_chance_is_a_column_where_it_is_known():
  rows = [
    _row('place', 0.5, chance=0.25),
    _row('object', 0.5, chance=0.125),
    _row(chance=0.2),
  ]
  lines = [line.split() for line in tables.text(rows).splitlines()]
  assert lines[0] == ['b', 'test', 'both', 'chance']
  assert lines[1:] == [
    ['place', '50.0', '25.0'],
    ['object', '50.0', '12.5'],
    ['all', 'answers', '50.0', '20.0'],
    ['answers', '10'],
  ]
  other = _row('place', 0.5, reading='likelihood')
  text = tables.text([_row(chance=0.2), other, _row(reading='likelihood')])
  lines = [line.split() for line in text.splitlines()]
  assert lines[1] == ['place', '-', '50.0', '-']
  assert lines[2] == ['all', 'answers', '50.0', '50.0', '20.0']
  parts = tables.answers(rows)
  cells = [re.sub('<[^>]*>', ' ', cell) for cell in _cells(parts, 'place')]
  assert [cell.split()[0] for cell in cells] == ['50', '25', '10']
  assert 'chance' in ''.join(parts)
  assert 'chance' not in ''.join(tables.answers([_row('place'), _row()]))


def _cells(parts, label: str) -> list[str]:
  """The cells of the row with this label, tags and all."""
  (row,) = re.findall(
    rf'<tr[^>]*><th scope="row">{label}<.*?</tr>', ''.join(parts)
  )
  return re.findall(r'<td[^>]*>.*?</td>', row)


def test_colour_says_that_the_input_can_have_the_answer():
  """A place stands in the video only, a direction in the motion only."""
  rows = [
    _row(domain, input=name, accuracy=0.25, benchmark='vimos-synth')
    for domain in ('place', 'direction', 'joint', 'all')
    for name in ('text', 'motion', 'video', 'both')
  ]
  parts = tables.answers(rows)

  def coloured(label):
    return ['class="heat"' in cell for cell in _cells(parts, label)[:4]]

  # Columns: both, video, motion, question.
  assert coloured('place') == [True, True, False, False]
  assert coloured('direction') == [True, False, True, False]
  assert coloured('joint') == [True, False, False, False]
  assert coloured('all answers') == [True] * 4
  cells = _cells(parts, 'place')
  assert '>25<' in cells[0]
  # Other benchmarks ask of a video what is asked of a motion here.
  rows = [_row('direction', input='video'), _row(input='video')]
  (cell, _) = _cells(tables.answers(rows), 'direction')
  assert 'class="heat"' in cell
  low, high = scores.wilson(0.25, 10)
  assert f'{100 * low:.0f}–{100 * high:.0f}' in cells[0]
  assert '>10<' in cells[4]


def test_domains_stand_in_the_order_of_the_record_and_sums_last():
  names = ['all', 'macro', 'place', 'unheard', 'sequentiality']
  text = ''.join(tables.answers([_row(name) for name in names]))
  labels = re.findall(r'<th scope="row">([^<]*)', text)
  assert labels == [
    'sequentiality', 'place', 'unheard', 'all answers', 'mean of domains',
  ]  # fmt: skip


def test_the_first_sentence_is_about_the_best_informed_input():
  rows = [_row(input='text', accuracy=0.2), _row(accuracy=0.755, n=1200)]
  text = ''.join(tables.answers(rows))
  lead = re.sub('<[^>]*>', '', text[text.index('<p class="lead">') :])
  assert lead.replace('&#8239;', ' ').startswith(
    'With motion and video, 75.5 % of 1,200 answers are right; '
    'question only: 20.0 %.'
  )


def test_checkpoints_are_compared_over_all_that_is_shown_together():
  rows = [
    _row(fingerprint='a'),
    _row(fingerprint='a', benchmark='babel-qa'),
    _row(fingerprint='gpt', system='gpt', benchmark='babel-qa'),
  ]
  assert 'checkpoints' not in tables.text(rows)
  rows.append(_row('place', fingerprint='a+a-int8', benchmark='babel-qa'))
  (words,) = [x for x in tables.text(rows).splitlines() if 'checkpoints' in x]
  assert words.startswith(
    'These rows come from 2 different checkpoints (a: b, babel-qa; a-int8: '
    'babel-qa): run'
  )


def test_failures_are_said():
  rows = [_row(n_failed=2), _row('place')]
  assert 'count as wrong: 2.' in ''.join(tables.answers(rows))


def test_captions_are_shown_times_a_hundred():
  metrics = {name: i / 10 for i, name in enumerate(scores.METRICS)}
  row = _row('motion_caption', None, system='model', **metrics)
  cells = _cells(tables.captions([row]), 'model')
  assert [re.sub('<[^>]*>', '', cell) for cell in cells] == [
    '0.0', '10.0', '20.0', '30.0', '40.0', '50.0', '10',
  ]  # fmt: skip


def test_captions_of_several_benchmarks_are_told_apart():
  metrics = dict.fromkeys(scores.METRICS, 0.25)
  row = _row('motion_caption', None, system='model', **metrics)
  rows = [row, {**row, 'benchmark': 'other'}]
  _, first, second = tables.text(rows).splitlines()
  assert first.startswith('b motion_caption both, model')
  assert second.startswith('other motion_caption both, model')
  html = ''.join(tables.captions(rows))
  assert '<small>b motion caption, test</small>' in html
  assert '<small>other motion caption, test</small>' in html


@pytest.mark.parametrize('part', [tables.answers, tables.captions])
def test_what_has_not_been_scored_has_no_table(part):
  assert part([]) == []


def test_babel_qa_stands_by_type_then_by_relation_then_by_both():
  """As its published table does; 'other' is there in parts, too."""
  names = [
    'all', 'body_part/after', 'other', 'after', 'action/before', 'before',
    'action/after', 'no_relation', 'in_between', 'macro',
  ]  # fmt: skip
  kinds = [_row(n, kinds={}) for n in ('direction', 'body_part', 'action')]
  rows = [_row(name) for name in names] + kinds
  rows = [{**row, 'benchmark': 'babel-qa'} for row in rows]
  order = [row['domain'] for row in tables.in_order(rows)]
  assert order == [
    'action', 'direction', 'body_part', 'before', 'after', 'other',
    'no_relation', 'in_between', 'action/before', 'action/after',
    'body_part/after', 'all', 'macro',
  ]  # fmt: skip
  lines = tables.text(rows).splitlines()
  assert [line.split()[0] for line in lines[1:4]] == order[:3]


def test_each_domain_has_a_bar_with_its_interval_and_its_count():
  rows = [
    _row(domain, input=name, accuracy=share, n=40, low=0.1, high=0.9)
    for name, share in (('motion', 0.25), ('video', 0.5))
    for domain in ('direction', 'body_part', 'all', 'macro')
  ]
  text = ''.join(tables.answers(rows))
  first, second = text.split('By domain, ')[1:]
  assert first.startswith('video only')
  bars, _ = first.split('<details>')
  assert bars.count('width:50.0%') == 2, 'no bar for sums'
  assert bars.count('left:10.0%;width:80.0%') == 2
  assert bars.count('n 40') == 2
  assert second.startswith('motion only</summary>'), 'to be opened'
  assert second.count('width:25.0%') == 2
