import collections
import dataclasses
import json

import babel_asked
import numpy as np
import pytest

from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import (
  benchmarks,
  media,
  own_items,
  run,
  scoring,
  vimonet_bench,
)
from vimonet_jax.synthetic import world

LINE = {
  'id': 'a',
  'modality': 'motion',
  'source': 'clips/1_30fps.npy',
  'domain': 'direction',
  'answer_format': 'free',
  'question': 'Where to?',
  'answer': 'Forward.',
}
VIDEO = LINE | {'modality': 'video', 'source': 'v.mp4'}
FRAMES = media.Frames(8, 16)


def _read(folder, *lines, **names):
  path = folder / 'items.jsonl'
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return vimonet_bench.read(path, folder, FRAMES, **names)


def _save(path, num_frames=61):
  path.parent.mkdir(exist_ok=True)
  np.save(path, babel_asked.slide(num_frames))


def test_an_item_a_line_about_a_clip_of_the_folder(tmp_path):
  _save(tmp_path / 'clips' / '1_30fps.npy')
  lines = [
    LINE,
    VIDEO | {'id': 'b'},
    LINE | {'id': 'c', 'answer_format': 'count', 'evidence': 'seen'},
  ]
  found = _read(tmp_path, *lines, split='val')
  assert found.name == 'items'
  assert found.needs_judge
  assert list(found.rules) == ['rule']
  assert [item.id for item in found.items] == ['a', 'b', 'c']
  assert [item.input for item in found.items] == ['motion', 'video', 'motion']
  assert [item.position for item in found.items] == [0, 1, 0]
  assert len(found.records) == 2
  first, _, last = found.items
  assert (first.domain, first.question) == ('direction', 'Where to?')
  assert (first.references, first.split) == (('Forward.',), 'val')
  assert (last.answer_format, last.kind) == ('count', 'count')
  assert found.missing == {1: f'{tmp_path}/v.mp4: no such file'}
  prompt = benchmarks.prompt_record(first, found.records)
  assert prompt.motion.shape == (40, 263), '61 frames at 30 fps'
  assert prompt.frames is None
  with pytest.raises(benchmarks.MediaError, match='v.mp4'):
    benchmarks.prompt_record(found.items[1], found.records)
  assert _read(tmp_path, *lines, name='other').name == 'other'


def test_earlier_rounds_are_earlier_turns_of_the_prompt(tmp_path):
  _save(tmp_path / 'clips' / '1_30fps.npy')
  rounds = [['How many steps?', 'Two.'], ['And then?', 'They stop.']]
  found = _read(tmp_path, LINE, LINE | {'id': 'b', 'history': rounds})
  alone, last = (
    benchmarks.prompt_record(item, found.records).turns for item in found.items
  )
  assert [(turn.question, turn.answer) for turn in alone] == [('Where to?', '')]
  assert [(turn.question, turn.answer) for turn in last] == [
    ('How many steps?', 'Two.'),
    ('And then?', 'They stop.'),
    ('Where to?', ''),
  ]


def test_parts_of_one_video_are_clips_of_their_own(shared_data, tmp_path):
  pytest.importorskip('av', reason='needs the package av')
  path = tmp_path / 'items.jsonl'
  bounds = [
    {},
    {'start': 0.4, 'end': 1.2},
    {'start': 1.2},
    {'start': 0.4, 'end': 1.2},
    {'start': None},
  ]
  lines = [
    VIDEO | {'id': str(i), 'source': 'cobra_push_ups.mp4', **bound}
    for i, bound in enumerate(bounds)
  ]
  path.write_text('\n'.join(map(json.dumps, lines)))
  found = vimonet_bench.read(path, shared_data / 'videos', FRAMES)
  assert [item.position for item in found.items] == [0, 1, 2, 1, 0]
  whole, part, rest = (found.records[i].frames for i in range(3))
  every = media.video_record(
    shared_data / 'videos' / 'cobra_push_ups.mp4',
    FRAMES,
    id='',
    source='',
    split='',
    choose=lambda number, fps: range(number),
  ).frames
  np.testing.assert_array_equal(whole[[0, -1]], every[[0, 52]])
  np.testing.assert_array_equal(part[[0, -1]], every[[10, 30]])
  np.testing.assert_array_equal(rest[[0, -1]], every[[30, 52]])


def test_the_rate_of_a_motion_is_said_or_taken_to_be_20_fps(tmp_path):
  for name in ('a_30fps.npy', 'b.npy', 'c.npy'):
    _save(tmp_path / name)
  np.savez(tmp_path / 'd.npz', joints=babel_asked.slide(61), fps=30)
  sources = [
    ('a_30fps.npy', {}),
    ('b.npy', {}),
    ('c.npy', {'fps': 30}),
    ('c.npy', {'fps': 20}),
    ('b.npy', {}),
    ('d.npz', {}),
  ]
  lines = [
    LINE | {'id': str(i), 'source': source, **about}
    for i, (source, about) in enumerate(sources)
  ]
  found = _read(tmp_path, *lines)
  assert [item.position for item in found.items] == [0, 1, 2, 3, 1, 4]
  lengths = [record.provenance['frames'][1] for record in found.records]
  assert lengths == [41, 61, 41, 61, 41]
  (note,) = found.notes
  assert note.startswith('The frame rate of 1 of 5 clips is said nowhere')
  assert 'the first b.npy; where that is wrong' in note
  assert _read(tmp_path, *lines[2:4]).notes == ()


def test_an_axis_is_up_that_the_line_names(tmp_path):
  still_TJ3 = babel_asked.slide(61)[:1].repeat(61, axis=0) * [-1, 1, -1]
  np.save(tmp_path / 'a_30fps.npy', still_TJ3)
  lines = [LINE | {'source': 'a_30fps.npy'}]
  lines.append(lines[0] | {'id': 'b', 'up': 'y'})
  found = _read(tmp_path, *lines)
  assert [item.position for item in found.items] == [0, 1]
  with pytest.raises(benchmarks.MediaError, match='which axis is up'):
    _ = found.records[0]
  assert found.records[1].motion.shape == (40, 263)


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('walk', "expected an object, found 'walk'"),
    (LINE | {'question': None}, 'text as question, found None; add it'),
    (LINE | {'answer': ' '}, "text as answer, found ' '; add it"),
    (LINE | {'id': 7}, 'text as id, found 7'),
    ({'id': 'b'}, 'text as modality, found None'),
    (
      LINE | {'modality': 'sound'},
      "modality to be motion, video, .*'sound'",
    ),
    (LINE | {'domain': 'place'}, "domain to be body_part, .* found 'place'"),
    (LINE | {'answer_format': 'word'}, "format to be free, .* found 'word'"),
    (LINE, 'each id once, found a again; name one otherwise'),
    (LINE | {'id': 'b', 'history': 'no'}, "history as a list .* found 'no'"),
    (LINE | {'id': 'b', 'history': [['a']]}, r"history .* found \[\['a'\]\]"),
    (LINE | {'id': 'b', 'history': [['a', 1]]}, 'history as a list'),
    (LINE | {'id': 'b', 'start': 1}, 'start of a video only, .* of a motion;'),
    (VIDEO | {'id': 'b', 'fps': 30}, 'fps of a motion only, found .* a video;'),
    (VIDEO | {'id': 'b', 'start': '1'}, "0 or more as start, found '1'; corr"),
    (VIDEO | {'id': 'b', 'end': -1}, '0 or more as end, found -1'),
    (VIDEO | {'id': 'b', 'end': float('nan')}, 'as end, found nan'),
    (
      VIDEO | {'id': 'b', 'start': 2, 'end': 1},
      'the end, found 2 and 1',
    ),
    (LINE | {'id': 'b', 'fps': True}, '1 or more as fps, found True'),
    (LINE | {'id': 'b', 'fps': 0}, '1 or more as fps, found 0'),
    (LINE | {'id': 'b', 'up': 'top'}, "up to be x, y or z, found 'top'"),
  ],
)
def test_a_line_that_cannot_be_asked_is_refused(tmp_path, line, message):
  with pytest.raises(ValueError, match=message) as error:
    _read(tmp_path, LINE, line)
  assert 'items.jsonl, item 2: ' in str(error.value)
  assert '\n' not in str(error.value)


def test_files_and_folders_without_items_are_refused(tmp_path):
  with pytest.raises(ValueError, match='one item a line, found none'):
    _read(tmp_path)
  (tmp_path / 'items.jsonl').write_text('{"id"\n')
  with pytest.raises(ValueError, match='line 1: expected one JSON object'):
    vimonet_bench.read(tmp_path / 'items.jsonl', tmp_path, FRAMES)
  with pytest.raises(FileNotFoundError, match='found no .*nowhere'):
    vimonet_bench.read(tmp_path / 'x', tmp_path / 'nowhere', FRAMES)
  with pytest.raises(FileNotFoundError, match='none.jsonl'):
    vimonet_bench.read(tmp_path / 'none.jsonl', tmp_path, FRAMES)


def test_all_items_of_the_shared_data_are_shown_and_judged(shared_data):
  pytest.importorskip('av', reason='needs the package av')
  found = vimonet_bench.read(
    shared_data / 'minibench' / 'minibench_public.jsonl', shared_data, FRAMES
  )
  assert (len(found.items), len(found.records)) == (33, 12)
  assert found.missing == {}
  # Of the others the file or its name says it, or features are by definition.
  (note,) = found.notes
  assert note.startswith('The frame rate of 1 of 12 clips is said nowhere')
  assert '004822_raw_joints_and_features.npz; where' in note
  for item in found.items:
    prompt = benchmarks.prompt_record(item, found.records)
    assert (prompt.motion is None) == (item.input == 'video')
    assert (prompt.frames is None) == (item.input == 'motion')
  lines = run.as_predictions(found.items, [i.reference for i in found.items])
  rows = scoring.score(found.items, lines, scoring.verdicts(found.items, lines))
  right = {(row['input'], row['domain']): row for row in rows}
  assert {row['accuracy'] for row in rows} == {1.0}
  assert right['motion', 'all']['n'] == 21
  assert right['video', 'all']['n'] == 12
  assert set(vimonet_bench.DOMAINS) < {domain for _, domain in right}


# --- Of VIMOS-Synth ----------------------------------------------------------


def _asked_of_all(number):
  """Records that each are asked one question of each of the five domains."""
  turns = tuple(
    records_lib.Turn(f'{domain}?', 'Yes.', domain, 'a', 'yes', ('yes', 'no'))
    for domain in vimonet_bench.DOMAINS
  )
  return [
    records_lib.Record(f'r{i}', 'test', 'test', turns=turns)
    for i in range(number)
  ]


def test_the_synthetic_benchmark_has_the_published_composition():
  records = _asked_of_all(220)
  items = vimonet_bench.synthetic(records, name='synth')
  counts = collections.Counter((item.input, item.domain) for item in items)
  assert counts == {
    ('motion', 'body_part'): 205,
    ('motion', 'sequentiality'): 171,
    ('motion', 'direction'): 140,
    ('motion', 'reasoning'): 148,
    ('motion', 'hallucination'): 36,
    ('video', 'body_part'): 167,
    ('video', 'sequentiality'): 216,
    ('video', 'direction'): 43,
    ('video', 'reasoning'): 185,
    ('video', 'hallucination'): 39,
  }
  assert len({item.key for item in items}) == 1350
  assert {item.benchmark for item in items} == {'synth'}
  few = [item.position for item in items if item.domain == 'hallucination']
  assert max(few) > 150, 'drawn from all clips'
  assert items == vimonet_bench.synthetic(records, name='synth')
  other = vimonet_bench.synthetic(records, seed=1, name='synth')
  assert {item.id for item in items} != {item.id for item in other}


def test_too_few_questions_of_a_domain_are_reported():
  with pytest.raises(
    ValueError,
    match='216 questions of domain sequentiality, found 210 in 210 records; b',
  ):
    vimonet_bench.synthetic(_asked_of_all(210), name='synth')
  some = [
    dataclasses.replace(record, turns=record.turns[:3])
    for record in _asked_of_all(220)
  ]
  with pytest.raises(ValueError, match='domain reasoning, found 0 in 220'):
    vimonet_bench.synthetic(some, name='synth')


def test_the_synthetic_world_asks_in_all_five_domains():
  drawn = world.World(image_size=16)
  records = [drawn.make_record('test', i) for i in range(8)]
  items = own_items.questions(records)
  assert set(vimonet_bench.DOMAINS) <= {item.domain for item in items}
