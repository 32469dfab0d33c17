"""What a reader sees of a study."""

import re

import pytest
from judged import EVERY, MOTION, ROWS, lines_of

from vimonet_jax.eval import studies, study_claims, study_tables

CLAIMS = (
  study_claims.Claim('b is worse', ('b',), expects='lower'),
  study_claims.Claim('b is better', ('b',), domain='of video'),
)


@pytest.fixture(name='tables')
def _tables():
  verdicts = {('a', 0): lines_of(EVERY), ('b', 0): lines_of(MOTION)}
  return studies.tables(ROWS, verdicts)


def test_the_terminal_has_accuracies_differences_claims_and_failures(tables):
  text = study_tables.text(ROWS, CLAIMS, tables, {'c, seed 1': 'No room.'})
  accuracy, difference, claims, failed = text.split('\n\n')
  head, a, b = accuracy.splitlines()
  assert ' '.join(head.split()) == (
    'vimos-synth test (rule), % all of motion of video n'
  )
  assert a.split()[:2] == ['a', '100.0']
  assert re.match(r'b +50\.0 \[21\.5, 78\.5\] +100\.0 \[', b)
  assert b.endswith('8 x 1')
  assert 'b - a' in difference
  assert '-50.0 [-50.0, -50.0]' in difference
  assert difference.endswith('50 %')
  assert claims.splitlines() == [
    'Holds: b is worse. b: -50.0 points, 95 % -50.0 to -50.0.',
    'Does not hold: b is better (questions of video). b: -100.0 points, 95 % '
    '-100.0 to -100.0.',
  ]
  assert failed == 'c, seed 1 failed: No room.'
  assert len({len(line) for line in accuracy.splitlines()}) == 1


def test_the_page_says_the_same_and_has_a_bar_for_each_row(tables, tmp_path):
  path = tmp_path / 'study.html'
  study_tables.write_page(
    str(path), 'A <study>', ROWS, CLAIMS, tables, {'c': 'x < y'}, ['Smoke.']
  )
  page = path.read_text()
  assert 'A &lt;study&gt;' in page
  assert 'c failed: x &lt; y' in page
  assert 'Smoke.' in page
  assert page.count('class="track"') == 2
  assert 'Does not hold: b is better' in page
  assert '−50.0<small>−50.0 to −50.0' in page


def test_levels_of_noise_are_a_curve(tmp_path):
  levels = ('none', 'L1', 'L2')
  rows = [
    studies.Row(x, 'a', corruption=x, against='' if x == 'none' else 'none')
    for x in levels
  ]
  lines = [line for x in levels for line in lines_of(EVERY, corruption=x)]
  path = tmp_path / 'study.html'
  tables = studies.tables(rows, {('a', 0): lines})
  study_tables.write_page(str(path), 'Noise', rows, (), tables, {})
  page = path.read_text()
  (points,) = re.findall(r'<polyline class="mean" points="([^"]+)"', page)
  assert len(points.split()) == 3
  assert len({point.split(',')[1] for point in points.split()}) == 1
  assert 'class="track"' not in page


def test_nothing_answered_is_said(tmp_path):
  path = tmp_path / 'study.html'
  study_tables.write_page(str(path), 'None', ROWS, CLAIMS, [], {'a': 'x'})
  assert 'No run has answered yet.' in path.read_text()
  assert study_tables.text(ROWS, CLAIMS, [], {'a': 'x'}) == 'a failed: x'
