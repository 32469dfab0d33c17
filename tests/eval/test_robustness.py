"""Drops and curves: both sides, intervals, and whose verdicts they are."""

import re

import score_rows

from vimonet_jax.eval import robustness

_row = score_rows.row

DROP = {
  'drop_points': 12.5,
  'drop_points_low': -1.0,
  'drop_points_high': 20.0,
  'drop_percent': 25.0,
  'changed': 0.3,
}


def _cells(parts, label: str) -> list[str]:
  """The cells of the row with this label, tags and all."""
  (row,) = re.findall(
    rf'<tr[^>]*><th scope="row">{label}<.*?</tr>', ''.join(parts)
  )
  return re.findall(r'<td[^>]*>.*?</td>', row)


def test_drops_show_both_sides_and_their_interval():
  rows = [_row(), _row(corruption='L2', accuracy=0.375, **DROP)]
  cells = _cells(robustness.parts(rows), 'both, L2')
  cells = [re.sub('<[^>]*>', ' ', cell).split() for cell in cells]
  assert cells[:3] == [['50.0'], ['37.5'], ['12.5', '−1.0', 'to', '20.0']]
  assert cells[3][0].startswith('25')
  assert cells[4][0].startswith('30')


def test_a_drop_from_nothing_has_no_percent():
  row = _row(corruption='L2', **{**DROP, 'drop_percent': None})
  assert '<td >–</td>' in ''.join(robustness.parts([row]))


def test_what_nobody_changed_has_no_part():
  assert robustness.parts([_row()]) == []


def _levels(*names, **changes):
  found = [_row(accuracy=0.9, low=0.85, high=0.95, **changes)]
  for place, name in enumerate(names, 1):
    found.append(
      _row(
        corruption=name,
        accuracy=0.9 - 0.1 * place,
        low=0.6,
        high=0.95,
        **DROP,
        **changes,
      )
    )
  return found


def _heights(text: str) -> list[float]:
  (points,) = re.findall(r'<polyline class="curve c0" points="([^"]*)"', text)
  return [float(point.split(',')[1]) for point in points.split()]


def test_a_curve_goes_down_the_levels_with_a_band_and_a_count():
  rows = _levels('L1', 'L2', 'L4', 'L2w')
  text = ''.join(robustness.parts(rows))
  assert _heights(text) == sorted(_heights(text))
  assert len(_heights(text)) == 4, 'clean, L1, L2 and L4; L2w is no step'
  (band,) = re.findall(r'<polygon class="curve c0" points="([^"]*)"', text)
  assert len(band.split()) == 8
  assert 'both, n 10' in text
  assert re.findall(r'text-anchor="middle">(L\d)<', text) == [
    'L0', 'L1', 'L2', 'L3', 'L4',
  ]  # fmt: skip


def test_two_levels_are_no_curve():
  assert '<svg' not in ''.join(robustness.parts(_levels('L2', 'L2w')))


def test_each_judge_and_each_system_has_a_curve_of_its_own():
  rows = [
    *_levels('L1', 'L2', judge='rule', system='model'),
    *_levels('L1', 'L2', judge='wise', system='model'),
    *_levels('L1', 'L2', judge='wise', system='theirs'),
  ]
  text = ''.join(robustness.parts(rows))
  assert text.count('<svg') == 3
  for words in ('judged by rule', 'judged by wise', 'theirs, judged by wise'):
    assert f'<small>b test, {words}</small>' in text
