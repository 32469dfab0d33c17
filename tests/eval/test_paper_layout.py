"""The same numbers on a page and in a terminal."""

import re

from vimonet_jax.eval import paper_layout, published


def _row(**changes):
  return {
    'benchmark': 'vimonet-bench',
    'split': 'test',
    'input': 'motion',
    'corruption': 'none',
    'domain': 'all',
    'accuracy': 0.5,
    'score': 2.5,
    'n': 700,
    'n_failed': 0,
    'judge': '<wise>',
    'low': 0.4,
    'high': 0.6,
    **changes,
  }


def _cells(html: str, label: str) -> list[str]:
  (row,) = re.findall(
    rf'<tr[^>]*><th scope="row">{label}<.*?</tr>', html
  )  # fmt: skip
  found = re.findall(r'<td[^>]*>(.*?)</td>', row)
  return [' '.join(re.sub('<[^>]*>', ' ', cell).split()) for cell in found]


def test_a_page_has_counts_and_intervals_below_each_number():
  html = ''.join(paper_layout.parts([_row()]))
  assert _cells(html, 'this model')[5] == '50.0 score 2.50 40.0–60.0 n 700'
  assert _cells(html, 'MotionLLM')[5] == '49.50 score 3.49'
  assert _cells(html, 'LLaMo')[:2] == ['n/a', 'n/a']


def test_a_system_without_any_number_has_one_cell_that_says_so():
  html = ''.join(paper_layout.parts([_row()]))
  assert _cells(html, 'ViMoNet') == ['not available']
  assert 'colspan="9"' in html


def test_names_from_outside_are_escaped():
  html = ''.join(paper_layout.parts([_row(system='<b>')]))
  assert '&lt;wise&gt;' in html
  assert '<wise>' not in html
  assert '&lt;b&gt;' in html
  assert '<b>' not in html


def test_text_is_aligned_and_titles_make_no_column_wider():
  text = paper_layout.text([_row(judge='j' * 100)])
  lines = text.split('\n[a] ')[0].splitlines()
  lines = [x for x in lines if not x.startswith(('Published', 'Measured'))]
  (held,) = [line for line in lines if '40.0–60.0' in line]
  theirs = next(line for line in lines if '49.50 / 3.49' in line)
  end = held.index('40.0–60.0') + len('40.0–60.0')
  assert theirs[:end].endswith('49.50 / 3.49'), 'in the column of micro'
  assert max(map(len, lines)) < 200
  assert lines[0].split()[-4:] == ['micro', 'macro', 'n', 'failed']
  (ours,) = [line for line in lines if line.startswith('  this model')]
  assert '50.0 / 2.50' in ours
  (counts,) = [line for line in lines if line.startswith('    n ')]
  assert counts.split() == ['n', '700']


def test_notes_and_remarks_stand_below_their_table():
  text = paper_layout.text([_row()])
  assert '[2] The score 3.98 is probably a misprint' in text
  for remark in published.REMARKS[published.MOTION]:
    assert remark in text
