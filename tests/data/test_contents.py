import dataclasses
import json

import numpy as np
import pytest
import samples

from vimonet_jax.data import contents, records


def _record(name, media=(), turns=(), source='s', **provenance):
  made = samples.record(0, media)
  if '/' in name:
    provenance = {'questions': []} | provenance
  return dataclasses.replace(
    made,
    id=name,
    source=source,
    turns=tuple(records.Turn(*turn) for turn in turns),
    provenance=provenance,
  )


def test_a_clip_of_several_records_is_counted_once():
  some = [
    _record('a', ['motion'], [('Q', 'A')]),
    _record('a/0', ['motion'], [('Q', 'A'), ('Q', 'B')]),
    _record('v/0', ['video'], [('Q', 'A')], duration_s=7.2),
    _record('v/1', ['video'], [('Q', 'A')], duration_s=7.2),
    _record('v/2', ['video'], duration_s=1.8, start_s=1.0, end_s=2.8),
    _record('w', ['video']),
    _record('t', ['words']),
  ]
  found = contents.count({'train': some, 'val': []})
  row = found['splits']['train']
  assert (row['records'], row['turns'], row['clips']) == (7, 5, 4)
  assert (row['motion'], row['video'], row['words only']) == (2, 4, 1)
  assert row['motion_hours'] == pytest.approx(2 / 3600)
  assert row['video_hours'] == pytest.approx(9 / 3600)
  assert row['clips of unknown duration'] == 1
  assert found['sources'] == {'s': {'train': row}}
  assert found['splits']['val']['records'] == 0
  assert json.loads(json.dumps(found)) == found


def test_a_clip_in_two_splits_is_found():
  one, other = _record('a/0'), _record('a/1')
  elsewhere = _record('a', source='another')
  found = contents.count({'train': [one, elsewhere], 'test': [other]})
  assert found['clips_in_two_splits'] == {'number': 1, 'first': ['s: a']}
  found = contents.count({'train': [one, other], 'test': [elsewhere]})
  assert found['clips_in_two_splits']['number'] == 0


def test_clips_whose_names_end_in_a_number_are_different_clips():
  one, other = _record('EgoBody/idx_0/003'), _record('EgoBody/idx_0/004')
  for record in (one, other):
    del record.provenance['questions']
  found = contents.count({'train': [one], 'test': [other]})
  assert found['clips_in_two_splits']['number'] == 0


def test_where_words_come_from_is_counted():
  said = [
    {'id': 'q', 'generator': 'gpt-4', 'file': 'a.json', 'licence': 'CC-BY'},
    {'id': 'r', 'model': 'gpt-4', 'file': 'b.json'},
  ]
  some = [
    _record('a', licence='CC0', questions=said),
    _record('b', generator='world'),
    _record('c', licence='CC0', questions=['000001']),
  ]
  found = contents.count({'train': some})
  assert found['licences'] == {
    'CC0': {'s': 2},
    'CC-BY': {'s': 1},
    contents.NOT_STATED: {'s': 1},
  }
  assert found['generators'] == {'gpt-4': 2, 'world': 1}
  assert found['files'] == {'a.json': 1, 'b.json': 1}


def test_words_and_domains_are_counted():
  turns = [
    ('What now?', "The man's left hand, left of it."),
    ('Left?', 'Yes.', 'direction'),
  ]
  found = contents.count({'train': [_record('a', (), turns)]})
  assert found['domains'] == {
    contents.NOT_STATED: {'train': 1},
    'direction': {'train': 1},
  }
  words = found['words']
  assert words['frequent'][0] == ['left', 2]
  assert 'the' not in dict(words['frequent'])
  assert words['pairs'][:2] == [
    [['left', 2], ['right', 0]],
    [['yes', 1], ['no', 0]],
  ]
  assert words['different'] == {'questions': 3, 'answers': 7}


def test_lengths_are_in_their_bars_and_the_last_bar_is_open():
  counts = [1, 2, 2, 30]
  some = [_record(str(n), (), [('Q', 'A')] * n) for n in counts]
  found = contents.count({'train': some})['lengths']['turns a record']
  assert (found['from'], found['width']) == (1, 1)
  assert found['counts'][:3] == [1, 2, 0]
  assert found['counts'][-1] == 1
  assert (found['least'], found['most'], found['median']) == (1, 30, 2)
  assert found['mean'] == pytest.approx(np.mean(counts))
