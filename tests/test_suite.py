"""Each benchmark opened from a configuration, with files as small as can be."""

import json

import numbered
import numpy as np
import presets
import pytest

from vimonet_jax import corpus, suite
from vimonet_jax.data import records
from vimonet_jax.eval import benchmarks, mv_bench, vimonet_bench
from vimonet_jax.models import clip_video

TOWER = clip_video.Config(16, 1, 2, 16, image_size=8, patch_size=8, frames=2)
STEPS = ['[0]=scene([0])', '?=query_action([0])']
QUESTIONS = [
  {
    'question_id': f'00000{i}',
    'babel_id': str(i),
    'query_type': 'query_action',
    'relation_type': 'no_relation',
    'question': 'What action does the person do?',
    'program': STEPS,
    'answer': answer,
  }
  for i, answer in enumerate(['walk', 'sit', 'walk'])
]
VOCABULARY = {
  'action': ['sit', 'walk'],
  'direction': ['left'],
  'body_part': ['left arm'],
}


def _clip(number):
  turns = [
    records.Turn(f'{domain}?', 'It is left.', domain, 'a', 'left', ('left',))
    for domain in vimonet_bench.DOMAINS
  ]
  turns.append(records.Turn('Describe.', 'He walks.', 'motion_caption'))
  return records.Record(
    f'r{number}',
    'test',
    'test',
    motion=np.zeros((40, 263), np.float32),
    joints=np.zeros((41, 22, 3), np.float32),
    frames=np.zeros((2, 8, 8, 3), np.uint8),
    turns=tuple(turns),
  )


def _config(*names, preset='tiny', **fields):
  fields = {f'eval__{name}': value for name, value in fields.items()}
  return presets.load(preset, 'smoke', eval__benchmarks=names, **fields)


def _write(path, value):
  path.write_text(json.dumps(value))
  return str(path)


def _open(config):
  (found,) = suite.open_all(config, '', TOWER)
  return found


def _fields(folder, name):
  """Where files of one question each are, as fields of the configuration."""
  (folder / 'media').mkdir(exist_ok=True)
  shown = str(folder / 'media')
  if name == 'babel-qa':
    lines = '\n'.join(map(json.dumps, QUESTIONS))
    (folder / 'questions').write_text(lines)
    return {
      'babel_qa__questions': str(folder / 'questions'),
      'babel_qa__motions': shown,
      'babel_qa__vocabulary': _write(folder / 'vocabulary', VOCABULARY),
    }
  if name == 'activitynet-qa':
    asked = {'video_name': 'x', 'question': 'who', 'question_id': 'v_x_0'}
    answer = {'answer': 'me', 'type': 8, 'question_id': 'v_x_0'}
    return {
      'activitynet_qa__questions': _write(folder / 'q.json', [asked]),
      'activitynet_qa__answers': _write(folder / 'a.json', [answer]),
      'activitynet_qa__videos': shown,
    }
  if name == 'mvbench':
    line = {
      'video': 'a.mp4',
      'question': 'What?',
      'candidates': ['run', 'sit', 'lie'],
      'answer': 'sit',
    }
    _write(folder / 'fine_grained_pose.json', [line])
    return {'mvbench__questions': str(folder), 'mvbench__videos': shown}
  line = {
    'id': 'a',
    'modality': 'video',
    'source': 'a.mp4',
    'domain': 'direction',
    'answer_format': 'free',
    'question': 'Where?',
    'answer': 'Left.',
  }
  return {
    'vimonet_bench__questions': _write(folder / 'items.jsonl', line),
    'vimonet_bench__media': shown,
  }


@pytest.fixture
def clips(monkeypatch):
  """Two records instead of a data set, in any split that is asked for."""
  asked = []

  def open_split(config, workdir, split):
    asked.append((workdir, split))
    return [_clip(0), _clip(1)]

  monkeypatch.setattr(corpus, 'open_split', open_split)
  return asked


def test_without_names_it_is_the_data_sets_own(clips):
  found = _open(_config())
  assert found.name == 'vimos-synth'
  assert clips == [('', 'test')]
  found = _open(_config(preset='mocap'))
  assert found.name == 'captions'
  assert found.rules == {}
  assert {item.reference for item in found.items} == {'He walks.'}


def test_the_synthetic_questions_come_with_every_input_and_change(clips):
  changes = (('motion', 'L2'), ('both', 'L1'), ('both', 'swapped'))
  found = _open(_config('vimos-synth', corruptions=changes, per_domain=1))
  variants = {(item.input, item.corruption) for item in found.items}
  assert variants == {
    ('text', 'none'),
    ('motion', 'none'),
    ('video', 'none'),
    ('both', 'none'),
    ('motion', 'L2'),
    ('both', 'L1'),
    ('both', 'swapped'),
  }
  assert len(found.items) == 5 * len(variants), 'one of each domain'
  assert found.needs_judge
  assert len(found.records) == 2


def test_noise_is_drawn_as_often_as_asked_and_inputs_are_those_asked(clips):
  config = _config(
    'vimos-synth',
    inputs=('motion',),
    corruptions=(('motion', 'L2'), ('both', 'zeroed')),
    noise_seeds=3,
    per_domain=1,
  )
  found = [(x.input, x.corruption, x.seed) for x in _open(config).items]
  assert set(found) == {
    ('motion', 'none', 0),
    *(('motion', 'L2', seed) for seed in range(3)),
    ('both', 'zeroed', 0),
  }
  assert len(found) == 5 * 5
  with pytest.raises(ValueError, match='found both empty; name an input of'):
    _open(_config('vimos-synth', inputs=(), corruptions=()))


def test_other_benchmarks_are_changed_where_they_show_that_and_if_asked(
  tmp_path, clips
):
  changes = {'corruptions': (('motion', 'L2'), ('both', 'swapped'))}
  fields = changes | {'noise_seeds': 2}
  fields |= _fields(tmp_path, 'babel-qa')
  plain = _open(_config('babel-qa', **fields))
  assert {item.corruption for item in plain.items} == {'none'}
  found = _open(_config('babel-qa', **fields, corrupt_all=True))
  assert found.items[: len(plain.items)] == plain.items
  added = found.items[len(plain.items) :]
  assert {(x.corruption, x.seed) for x in added} == {('L2', 0), ('L2', 1)}
  assert len(added) == 2 * len(QUESTIONS)
  found = _open(_config('captions', **changes, corrupt_all=True))
  assert {item.corruption for item in found.items} == {'none'}


def test_benchmarks_stand_in_the_order_of_their_names(tmp_path, clips):
  names = ('mvbench', 'captions', 'babel-qa')
  fields = _fields(tmp_path, 'mvbench') | _fields(tmp_path, 'babel-qa')
  found = suite.open_all(_config(*names, **fields), 'work', TOWER)
  assert tuple(benchmark.name for benchmark in found) == names
  assert clips == [('work', 'test')]


def test_an_unknown_name_is_refused_with_the_known_ones():
  with pytest.raises(ValueError, match="found 'mvbnch'; correct") as error:
    suite.open_all(_config('mvbench', 'mvbnch'), '', TOWER)
  for name in suite.BENCHMARKS:
    assert name in str(error.value)


@pytest.mark.parametrize(
  'name', ['babel-qa', 'activitynet-qa', 'mvbench', 'vimonet-bench']
)
def test_every_path_that_a_benchmark_needs_is_asked_for(tmp_path, name):
  fields = _fields(tmp_path, name)
  _open(_config(name, **fields))
  for field in fields:
    if field == 'vimonet_bench__questions':
      continue  # Without items there are those of VIMOS-Synth.
    said = f'config.eval.{field.replace("__", ".")}'
    with pytest.raises(ValueError, match='found it empty; give') as error:
      _open(_config(name, **{**fields, field: ''}))
    assert str(error.value).startswith(f'Expected {said}, ')
    assert f'--{said}=PATH' in str(error.value)
    with pytest.raises(OSError, match='none'):
      _open(_config(name, **{**fields, field: str(tmp_path / 'none')}))


def test_babel_qa_takes_its_split_and_the_majority_of_train(tmp_path):
  fields = _fields(tmp_path, 'babel-qa')
  found = _open(_config('babel-qa', **fields))
  assert [item.id for item in found.items[:3]] == ['000000', '000001', '000002']
  assert found.items[0].choices == ('sit', 'walk')
  assert {item.split for item in found.items} == {'test'}
  assert found.baselines == {}
  ids = {'train': ['000000'], 'val': ['000002', '000001']}
  fields['babel_qa__split_ids'] = _write(tmp_path / 'split_ids', ids)
  fields['babel_qa__train'] = fields['babel_qa__questions']
  found = _open(_config('babel-qa', babel_qa__split='val', **fields))
  assert [item.id for item in found.items[:2]] == ['000002', '000001']
  assert {item.split for item in found.items} == {'val'}
  assert list(found.baselines.values()) == [['walk', 'walk']]
  bad = {**VOCABULARY, 'action': ['sit']}
  fields['babel_qa__vocabulary'] = _write(tmp_path / 'vocabulary', bad)
  with pytest.raises(ValueError, match="of action, found 'walk'"):
    _open(_config('babel-qa', **fields))


def test_activitynet_qa_is_of_the_split_that_is_named(tmp_path):
  fields = _fields(tmp_path, 'activitynet-qa')
  found = _open(
    _config('activitynet-qa', activitynet_qa__split='val', **fields)
  )
  (item,) = found.items
  assert (item.id, item.split, item.slices) == ('v_x_0', 'val', ('free',))
  assert list(found.missing) == [0]


def test_mvbench_rotates_and_chooses_where_that_is_wanted(tmp_path):
  fields = _fields(tmp_path, 'mvbench')

  def ways(**wanted):
    found = _open(_config('mvbench', **fields, **wanted))
    return [(item.reading, item.corruption) for item in found.items]

  clean = (benchmarks.GENERATED, benchmarks.CLEAN)
  chosen = (benchmarks.LIKELIHOOD, benchmarks.CLEAN)
  rotated = (benchmarks.GENERATED, mv_bench.ROTATED)
  assert ways() == [clean, chosen] + [rotated] * 3
  assert ways(mvbench__rotate=False) == [clean, chosen]
  assert ways(mvbench__choose=False) == [clean] + [rotated] * 3


def test_vimonet_bench_is_a_file_or_as_much_of_the_synthetic_world(
  tmp_path, clips, monkeypatch
):
  found = _open(_config('vimonet-bench', **_fields(tmp_path, 'vimonet-bench')))
  assert (found.name, len(found.items)) == ('items', 1)
  assert not clips
  with pytest.raises(ValueError, match='205 questions of domain body_part, fo'):
    _open(_config('vimonet-bench'))
  few = {'motion': {'direction': 1}, 'video': {'reasoning': 2}}
  monkeypatch.setattr(vimonet_bench, 'COMPOSITION', few)
  found = _open(_config('vimonet-bench'))
  assert found.name == 'vimonet-bench-synth'
  assert [item.input for item in found.items] == ['motion', 'video', 'video']
  assert found.needs_judge


def test_a_file_with_another_benchmarks_name_is_refused(tmp_path):
  fields = _fields(tmp_path, 'vimonet-bench')
  items = tmp_path / 'items.jsonl'
  for name in ('mvbench.jsonl', 'vimos-synth.jsonl', 'captions.json'):
    fields['vimonet_bench__questions'] = str(items.rename(tmp_path / name))
    items = tmp_path / name
    with pytest.raises(ValueError, match='be counted as .*, so rename the fi'):
      _open(_config('vimonet-bench', **fields))
  items = items.rename(tmp_path / 'vimonet-bench.jsonl')
  fields['vimonet_bench__questions'] = str(items)
  assert _open(_config('vimonet-bench', **fields)).name == 'vimonet-bench'


@pytest.mark.parametrize('name', ['vimos-synth', 'captions', 'vimonet-bench'])
def test_damaged_records_are_not_asked_about_and_said(
  name, tmp_path, monkeypatch, caplog
):
  monkeypatch.setattr(vimonet_bench, 'COMPOSITION', {
    'motion': {'direction': 2}, 'video': {'reasoning': 2},
  })  # fmt: skip
  held = numbered.Damaged([_clip(0), _clip(1), _clip(2)], 1)
  monkeypatch.setattr(corpus, 'open_split', lambda *_: held)
  config = _config(name)
  (found,) = suite.open_all(config, str(tmp_path), TOWER)
  assert {item.position for item in found.items} == {0, 2}
  assert found.damaged == {1}
  assert found.notes[-1].startswith('1 of 3 records of test are damaged, and n')
  (line,) = (tmp_path / 'skipped-0.jsonl').read_text().splitlines()
  assert json.loads(line) == {'where': 'test:1', 'what': 'bytes'}
  assert 'Record left out, test:1: bytes' in caplog.text
  # As many as training passes over, and no more.
  config.data.max_corrupt = 0
  with pytest.raises(ValueError, match='at most 0 damaged records, found 1 .*'):
    suite.open_all(config, str(tmp_path), TOWER)


def _humanml3d(folder, *names):
  """A folder in HumanML3D's layout, and its records as they are built."""
  for part in ('new_joint_vecs', 'texts'):
    (folder / part).mkdir()
  clips = []
  for number, name in enumerate(names):
    np.save(folder / 'new_joint_vecs' / f'{name}.npy', np.zeros((52, 263)))
    said = f'clip {number} walks.#clip/NOUN walk/VERB#0.0#0.0\n'
    (folder / 'texts' / f'{name}.txt').write_text(said)
    turn = records.Turn('Describe.', f'clip {number} walks.', 'motion_caption')
    clips.append(
      records.Record(
        name,
        'test',
        'test',
        motion=np.zeros((52, 263), np.float32),
        turns=(turn,),
      )
    )
  (folder / 'test.txt').write_text('\n'.join(names))
  return clips


def test_published_caption_cases_are_those_of_the_built_folder(
  tmp_path, monkeypatch
):
  clips = _humanml3d(tmp_path, '000001', '000002', '000003')
  monkeypatch.setattr(corpus, 'open_split', lambda *_: clips[::-1])
  config = _config('humanml3d-captions', preset='mocap')
  config.data.path = str(tmp_path)
  found = _open(config)
  assert found.name == 'humanml3d-captions'
  assert found.rules == {}
  assert [item.id for item in found.items] == [
    '000001#0', '000002#0', '000003#0',
  ]  # fmt: skip
  shown = [found.records[item.position].id for item in found.items]
  assert shown == ['000001', '000002', '000003'], 'joined by id'
  assert found.items[1].references == ('clip 1 walks.',) * 3
  (note,) = found.notes
  assert '3 cases of raw captions' in note
  assert 'not those of published tables' in note
  index = tmp_path / 'index.csv'
  index.write_text(
    'source_path,start_frame,end_frame,new_name\n'
    './pose_data/humanact12/x.npy,0,-1,000002.npy\n'
  )
  config.eval.humanml3d_captions.index = str(index)
  found = _open(config)
  assert [item.id for item in found.items] == ['000001#0', '000003#0']


def test_published_caption_cases_need_a_folder(tmp_path):
  with pytest.raises(ValueError, match=r'data\.name=folder .* found synthetic'):
    _open(_config('humanml3d-captions'))
  with pytest.raises(ValueError, match=r'--config\.data\.path=DIR .* none'):
    _open(_config('humanml3d-captions', preset='mocap'))


def test_videos_are_shown_as_the_tower_looks_at_them(tmp_path, monkeypatch):
  """Pixels are averaged where the tower's own weights have seen that."""
  seen = []
  monkeypatch.setattr(
    suite.activitynet_qa, 'benchmark', lambda *args, **_: seen.append(args[2])
  )
  fields = _fields(tmp_path, 'activitynet-qa')
  config = _config('activitynet-qa', **fields)
  suite.open_all(config, '', TOWER)
  large = clip_video.Config(16, 1, 2, 16, image_size=224, patch_size=14)
  suite.open_all(config, '', large)
  assert [tuple(frames) for frames in seen] == [(2, 8, True), (8, 224, False)]
