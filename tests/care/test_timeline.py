import csv
import datetime
import json
import os
import re

import pytest

from vimonet_jax.care import figure, timeline
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
  drawn = figure.draw(
    shown,
    [{'fall': 0}] * 2,
    [],
    {'fall': 0.5},
    {'fall': 'model'},
    notice=timeline.NOTICE,
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


def test_no_curve_is_drawn_where_nobody_was_seen():
  shown = [windows.Window(x, x + 6.0) for x in (0.0, 2.0, 100.0, 200.0, 202.0)]
  unseen = [(8.0, 100.0), (106.0, 200.0)]
  drawn = figure.draw(
    shown,
    [{'fall': 0.9}] * 5,
    [],
    {'fall': 0.5},
    {'fall': 'model'},
    unseen=unseen,
    notice=timeline.NOTICE,
  )
  areas = [
    [float(point.split(',')[0]) for point in points.split()]
    for points in re.findall(r'<polygon points="([^"]*)"', drawn)
  ]
  assert len(areas) == 3
  grey = [
    (float(x), float(x) + float(width))
    for x, width in re.findall(
      r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)" height="\d+" '
      r'class="unseen"', drawn
    )
  ]  # fmt: skip
  assert len(grey) == 2
  for (start, end), before, after in zip(
    grey, areas, areas[1:], strict=False
  ):
    assert before[0] < max(before) < start < end < min(after) < after[-1]
  assert 'nobody was seen' in drawn


def test_an_earlier_watch_is_put_aside_or_is_the_same(tmp_path):
  path = tmp_path / 'today.npy'
  path.write_bytes(b'one')

  def of_today():
    return {'files': [timeline.state_of(str(path))], 'is_live': False}

  live = {'files': [], 'is_live': True}
  day = of_today()
  folder = str(tmp_path / 'a [1]')
  assert timeline.keep(folder, live) == ''

  def write(about, *, is_whole=True):
    writer = timeline.Writer(folder, {'fall': 'model'}, '')
    writer.add_window(windows.Window(0.0, 6.0), {'fall': 0.1})
    if is_whole:
      writer.close({'thresholds': {'fall': 0.5}} | about)

  write(day)
  assert timeline.keep(folder, day) == ''
  # Of another recording by that name, and one that cannot be watched again.
  was = path.stat()
  path.write_bytes(b'two')
  os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns + 10**9))
  first = timeline.keep(folder, of_today())
  path.write_bytes(b'three')
  os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
  write(day)
  longer = timeline.keep(folder, of_today())
  write(live)
  second = timeline.keep(folder, live)
  write(day, is_whole=False)
  third = timeline.keep(folder, day)
  kept = [first, longer, second, third]
  assert len(set(kept)) == 4
  for aside in kept:
    with open(f'{aside}/windows.csv', encoding='utf-8') as f:
      assert len(f.readlines()) == 3
  assert sorted(x.name for x in (tmp_path / 'a [1]').iterdir()) == sorted(
    aside.rpartition('/')[2] for aside in kept
  )


def test_no_old_figure_stays_beside_new_tables(tmp_path):
  def begun():
    writer = timeline.Writer(str(tmp_path), {'fall': 'model'}, '')
    writer.add_window(windows.Window(0.0, 6.0), {'fall': 0.1})
    return writer

  begun().close({'thresholds': {'fall': 0.5}})
  assert {x.suffix for x in tmp_path.iterdir()} == {'.csv', '.json', '.svg'}
  begun()  # And the power is cut.
  assert {x.suffix for x in tmp_path.iterdir()} == {'.csv'}


@pytest.mark.parametrize(
  'notice', ['Short', 'no medical device ' * 14, timeline.NOTICE]
)
def test_all_of_any_notice_stands_in_the_figure(notice):
  drawn = figure.draw(
    [windows.Window(0, 6)],
    [{'fall': 0}],
    [],
    {'fall': 0.5},
    {'fall': 'model'},
    notice=notice,
  )
  lines = re.findall(r'y="(\d+)" class="notice">([^<]*)<', drawn)
  by_place = sorted((int(y), text) for y, text in lines)
  assert ' '.join(text for _, text in by_place) == notice.strip()
  height = int(re.search(r'height="(\d+)"', drawn)[1])
  ticks = [int(y) for y in re.findall(r'y="(\d+)" text-anchor="mid', drawn)]
  assert max(ticks) < by_place[0][0] < height
  assert by_place[-1][0] < height


def test_what_is_seen_is_there_before_the_watch_ends(tmp_path):
  writer = timeline.Writer(str(tmp_path), {'fall': 'model'}, '', is_live=True)
  writer.begun_at = datetime.datetime.fromisoformat('2026-11-30T22:00:00+01:00')
  seen = windows.Window(7200.0, 7206.0)
  writer.add_window(seen, {'fall': 0.9})
  writer.add_alarm('fall', seen, 0.9)
  writer.add_unseen(windows.Window(7202.0, 7208.0))

  def rows(name):
    with open(tmp_path / name, newline='', encoding='utf-8') as f:
      next(f)
      return [dict(x) for x in csv.DictReader(f)]

  assert rows('windows.csv') == [
    {'start_s': '7200.00', 'end_s': '7206.00', 'fall': '0.9000',
     'clock': '2026-12-01T00:00:00+01:00'},
    {'start_s': '7202.00', 'end_s': '7208.00', 'fall': '',
     'clock': '2026-12-01T00:00:02+01:00'},
  ]  # fmt: skip
  assert rows('alarms.csv') == [
    {'kind': 'fall', 'alarm_s': '7206.00', 'start_s': '7200.00',
     'end_s': '7206.00', 'confidence': '0.9000',
     'clock': '2026-12-01T00:00:06+01:00'}
  ]  # fmt: skip
  assert rows('timeline.csv') == []
  writer.close({'thresholds': {'fall': 0.5}})
  fields = json.loads((tmp_path / 'timeline.json').read_text())
  assert fields['begun_at'] == '2026-11-30T22:00:00+01:00'
