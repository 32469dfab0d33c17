import csv
import json
import re

import pytest

from vimonet_jax.care import timeline
from vimonet_jax.data import windows


def test_no_answer_is_a_formula_for_who_opens_the_table(tmp_path):
  answers = ['=1+2', '+1', '-1', '@a', '\t=1', 'He walks, "#1" of = two.']
  writer = timeline.Writer(str(tmp_path), {'fall': 'model'}, 'What?')
  for i, answer in enumerate(answers):
    writer.add_window(windows.Window(2.0 * i, 2.0 * i + 6), {'fall': 0}, answer)
  writer.close({'thresholds': {'fall': 0.5}})
  with open(tmp_path / 'windows.csv', newline='', encoding='utf-8') as f:
    assert next(f).startswith('# ')
    rows = [row['answer'] for row in csv.DictReader(f)]
  assert rows == [f"'{answer}" for answer in answers[:-1]] + answers[-1:]
  fields = json.loads((tmp_path / 'timeline.json').read_text())
  assert [row['answer'] for row in fields['answers']] == answers


@pytest.mark.parametrize('end_s', [60, 3600, 86400, 3 * 86400, 8 * 86400])
def test_times_below_a_figure_have_room(end_s):
  shown = [windows.Window(0, 6), windows.Window(end_s - 6, end_s)]
  drawn = timeline.figure(
    shown, [{'fall': 0}] * 2, [], {'fall': 0.5}, {'fall': 'model'}
  )
  ticks = re.findall(
    r'<text x="([\d.]+)" y="\d+" text-anchor="middle" class="quiet">([^<]*)<',
    drawn,
  )
  assert len(ticks) > 2
  # A character of 12 pixels is about 7 wide.
  ends = [(float(x), 3.5 * len(text)) for x, text in ticks]
  for (x, half), (next_x, next_half) in zip(ends, ends[1:], strict=False):
    assert x + half < next_x - next_half
