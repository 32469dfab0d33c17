import csv
import json
import pathlib

import numbered
import numpy as np
import pytest

from vimonet_jax.data import sources
from vimonet_jax.eval import humanml3d_captions as population
from vimonet_jax.eval import judge

ALL = '#0.0#0.0'


def _texts(folder, texts):
  folder.mkdir(exist_ok=True)
  for name, lines in texts.items():
    (folder / f'{name}.txt').write_text('\n'.join(lines), encoding='utf-8')
  return folder


def _names(found):
  return [(case.id, case.start, case.stop) for case in found.cases]


def test_times_make_cases_of_their_own(tmp_path):
  texts = {
    'b': [
      'all#all/DET' + ALL,
      'end#end/NOUN#2.0#9.0',
      'nan#nan/NOUN#nan#nan',
      'too short#short/ADJ#0.0#1.95',
    ],
    'a': ['only a part#only/ADV a/DET part/NOUN#0.5#3.0'],
  }
  lengths = {'b': 90, 'a': 120}
  found = population.of_texts(_texts(tmp_path / 'texts', texts), lengths)
  assert _names(found) == [
    ('a_0.500000_3.000000#0', 10, 60),
    ('b_2.000000_9.000000#0', 40, 90),
    ('b#0', 0, 90),
  ]
  assert [case.references for case in found.cases] == [
    ('only a part',) * 3,
    ('end',) * 3,
    ('all', 'nan', 'all'),
  ]
  assert found.left_out == {'part too short': ('b_0.000000_1.950000',)}
  assert found.summary() == (
    '3 cases of raw captions, 1 whole motions and 2 parts, not those of '
    'published tables; part too short: 1 (b_0.000000_1.950000)'
  )


@pytest.mark.parametrize(
  ('length', 'stop', 'reason'),
  [
    (39, None, 'motion too short'),
    (40, 40, None),
    (196, 196, None),
    (199, 196, None),
    (200, None, 'motion too long'),
  ],
)
def test_lengths_are_tested_first_and_cut_afterwards(
  tmp_path, length, stop, reason
):
  texts = _texts(tmp_path / 'texts', {'x': ['c#c/X' + ALL], 'y': ['y#y' + ALL]})
  found = population.of_texts(texts, {'x': length, 'y': 50})
  assert {case.stop for case in found.cases if case.name == 'x'} == (
    {stop} if stop else set()
  )
  assert found.left_out == ({reason: ('x',)} if reason else {})


def test_a_long_motion_takes_its_parts_along(tmp_path):
  texts = {'x': ['c#c/X' + ALL, 'p#p/X#0.0#5.0'], 'y': ['y#y/X' + ALL]}
  found = population.of_texts(
    _texts(tmp_path / 'texts', texts), {'x': 250, 'y': 50}
  )
  assert _names(found) == [('y#0', 0, 50)]
  assert found.left_out == {'motion too long': ('x',)}


def test_the_later_of_two_namesakes_counts_twice_and_the_end_is_lost(tmp_path):
  texts = {
    'a': ['first#x/X#0.0#5.0', 'whole#x/X' + ALL, 'second#x/X#0.0#5.0'],
    'b': ['part#x/X#1.0#5.0', 'last#x/X' + ALL],
  }
  found = population.of_texts(
    _texts(tmp_path / 'texts', texts), {'b': 150, 'a': 150}
  )
  assert [(case.id, case.references[0]) for case in found.cases] == [
    ('a_0.000000_5.000000#0', 'second'),
    ('a_0.000000_5.000000#1', 'second'),
    ('a#0', 'whole'),
    ('b_1.000000_5.000000#0', 'part'),
  ]
  assert found.left_out == {
    'replaced by a later caption': ('a_0.000000_5.000000',),
    'lost at the end': ('b',),
  }


def test_tracks_are_never_mixed(tmp_path):
  lines = [
    f'A man walks, quickly.#a/DET man/NOUN walk/VERB quickly/ADV{ALL}',
    f'he left#he/PRON and/or/X left/VERB{ALL}',
  ]
  texts = _texts(tmp_path / 'texts', {'a': lines})
  raw, processed = (
    population.of_texts(texts, {'a': 60}, track=track)
    for track in (population.RAW, population.PROCESSED)
  )
  assert raw.cases[0].references == (
    'A man walks, quickly.',
    'he left',
    'A man walks, quickly.',
  )
  assert processed.cases[0].references == (
    'a man walk quickly',
    'he and left',
    'a man walk quickly',
  )
  assert raw.track == raw.cases[0].track != processed.cases[0].track
  assert len(set(population.BENCHMARKS.values())) == 2
  with pytest.raises(ValueError, match="track of raw captions, .*'tokens'"):
    population.of_texts(texts, {'a': 60}, track='tokens')
  _texts(tmp_path / 'texts', {'a': ['he walks#' + ALL]})
  with pytest.raises(ValueError, match=r'a\.txt: expected words such as walk'):
    population.of_texts(texts, {'a': 60}, track=population.PROCESSED)


def test_lines_without_a_caption_take_no_words_along(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('\n #x/X#0.0#0.0\n\nhe runs#he/PRON run/VERB#0.0#0.0\n')
  (line,) = population.read(path)
  assert line == ('he runs', ('he/PRON', 'run/VERB'), 0.0, 0.0)


def test_three_references():
  assert population.padded(['a']) == ('a', 'a', 'a')
  assert population.padded(['a', 'b']) == ('a', 'b', 'a')
  assert population.padded(['a', 'b', 'c', 'd']) == ('a', 'b', 'c')
  with pytest.raises(ValueError, match='found none'):
    population.padded([])


def _folder(tmp_path):
  """Features of four motions, of which one is nowhere and one has NaN."""
  (tmp_path / 'new_joint_vecs').mkdir()
  rng = np.random.default_rng(0)
  for name in ('a', 'bad', 'act'):
    motion = rng.normal(size=(90, 263)).astype(np.float32)
    motion[0, 0] = np.nan if name == 'bad' else 0
    np.save(tmp_path / 'new_joint_vecs' / f'{name}.npy', motion)
  names = ['gone', 'bad', 'act', 'a']
  (tmp_path / 'test.txt').write_text('\n'.join(names))
  lines = ['c#c/X' + ALL, 'p#p/X#0.0#2.5', 'q#q/X#0.0#2.5', 'd#d/X#0.0#9.0']
  _texts(tmp_path / 'texts', dict.fromkeys(names, lines))
  return tmp_path


def test_a_folder_is_read_without_silent_loss(tmp_path):
  found = population.of_folder(_folder(tmp_path), without={'act'})
  assert found.left_out == {
    'without a motion': ('gone',),
    'with NaN or infinity': ('bad',),
    'left out on request': ('act',),
    'replaced by a later caption': ('a_0.000000_2.500000',),
    'lost at the end': ('a',),
  }
  with pytest.raises(ValueError, match=r'Expected val\.txt in .*, found none'):
    population.of_folder(tmp_path, split='val')
  everything = {'a', 'bad', 'act'}
  with pytest.raises(ValueError, match='Expected motions of 40 to 199 rows'):
    population.of_folder(tmp_path, without=everything)


def test_joints_have_a_row_less_than_frames(tmp_path):
  joints = {name: np.zeros((n, 22, 3)) for name, n in (('a', 41), ('b', 40))}
  np.savez(tmp_path / 'joints.npz', **joints)
  (tmp_path / 'test.txt').write_text('a b')
  _texts(tmp_path / 'texts', dict.fromkeys(joints, ['c#c/X' + ALL]))
  found = population.of_folder(tmp_path)
  assert _names(found) == [('a#0', 0, 40)]
  assert found.left_out == {'motion too short': ('b',)}


def test_cases_find_the_records_of_their_rows(tmp_path):
  folder = _folder(tmp_path)
  listed = sources.humanml3d(folder)
  clips = [
    sources.read(clip, source='x', licence='x')
    for clip in listed.splits['test']
  ]
  found = population.of_folder(folder)
  items = population.items(found, clips)
  rows = {case.id: [case.start, case.stop] for case in found.cases}
  assert len({item.position for item in items}) == 3
  for item in items:
    assert clips[item.position].provenance['frames'] == rows[item.id]
    assert item.references == found.cases[items.index(item)].references
    assert item.benchmark == 'humanml3d-captions'
    assert item.input == 'motion'
  assert len({item.key for item in items}) == len(items)
  with pytest.raises(ValueError, match='record for each of 6 cases, .* act_0'):
    population.items(found, clips[2:])
  # Cases of a record that cannot be read are left out, and of no other.
  lost = items[0].position
  held = numbered.Damaged(clips, lost)
  some = population.items(found, held, damaged={lost})
  assert some == [item for item in items if item.position != lost] != items
  others = {item.position for item in some} - {lost}
  with pytest.raises(ValueError, match='record for each of 6 cases, found no'):
    population.items(found, held[: min(others)], damaged={lost})


def test_a_motion_that_cannot_be_read_is_named_and_no_case(tmp_path):
  folder = pathlib.Path(_folder(tmp_path))
  cases = population.of_folder(folder).cases
  name = cases[0].motion
  (file,) = folder.rglob(f'{name}.npy')
  file.write_bytes(file.read_bytes()[:200])
  found = population.of_folder(folder)
  assert found.left_out['that cannot be read'] == (name,)
  assert 'that cannot be read: 1' in found.summary()
  assert {case.motion for case in found.cases} == (
    {case.motion for case in cases} - {name}
  )


def test_an_index_tells_which_motions_are_of_humanact12(tmp_path):
  index = tmp_path / 'index.csv'
  index.write_text(
    'source_path,start_frame,end_frame,new_name\n'
    './pose_data/KIT/3/kick_poses.npy,0,117,000000.npy\n'
    './pose_data/humanact12/humanact12/P11G01.npy,0,-1,000001.npy\n'
  )
  assert population.humanact12(index) == {'000001', 'M000001'}
  index.write_text('name,new_name\n')
  with pytest.raises(ValueError, match='found no source_path; give'):
    population.humanact12(index)


def _index(shared_data):
  """Rows of features that HumanML3D's own index leaves of each motion."""
  with open(shared_data / 'humanml3d' / 'index.csv', newline='') as f:
    rows = list(csv.DictReader(f))
  lengths = {}
  for row in rows:
    if (stop := int(row['end_frame'])) >= 0:
      name = row['new_name'].removesuffix('.npy')
      lengths[name] = stop - int(row['start_frame']) - 1
  return lengths | {f'M{name}': length for name, length in lengths.items()}


def _published(shared_data):
  path = shared_data / 'captions' / 'humanml3d_m2t_public.jsonl'
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_published_cases_come_out_of_their_captions(shared_data, tmp_path):
  published = _published(shared_data)
  texts = {}
  for case in published:
    name, *times = case['sample_id'].split('_')
    lines = [
      '#'.join([text, 'x/X', *(times or ['0.0', '0.0'])])
      for text in case['references']
    ]
    texts.setdefault(name, []).extend(lines)
  lengths = _index(shared_data)
  found = population.of_texts(
    _texts(tmp_path / 'texts', texts), {name: lengths[name] for name in texts}
  )
  assert not found.left_out
  assert {case.id for case in found.cases} == {c['case_id'] for c in published}

  # The references are those behind the published numbers.
  references = {case.id: case.references for case in found.cases}
  expected = shared_data / 'captions' / 'expected_metrics_public.json'
  metrics = judge.caption_metrics(
    [case['outputs']['tm2t'] for case in published],
    [references[case['case_id']] for case in published],
  )
  expected = json.loads(expected.read_text())['tm2t']['refs_padded_to_3']
  assert metrics == pytest.approx(expected, abs=1e-6)


def test_published_cases_lack_humanact12_and_the_last_name(shared_data):
  folder = shared_data / 'humanml3d'
  names = set((folder / 'test.txt').read_text().split())
  acts = population.humanact12(folder / 'index.csv')
  assert len(names & acts) == 342
  published = {case['sample_id'] for case in _published(shared_data)}
  motions = {name.split('_')[0] for name in published}
  assert motions <= names - acts

  # 3,969 whole motions: all of the right length but one. Clips are in the files
  # with their mirror images, so it is the one that is alone.
  lengths = _index(shared_data)
  fitting = {n for n in names - acts if 40 <= lengths[n] <= 199}
  assert len(fitting) == 3969 + 1
  alone = {
    name
    for name in published
    if not name.startswith('M') and f'M{name}' not in published
  }
  assert alone == {'014613', '014613_0.000000_6.000000'}
  assert max(fitting) == 'M014613'
