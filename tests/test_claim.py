"""Whose a work folder is."""

import functools
import json

import ml_collections
import presets
import pytest

from vimonet_jax import claim

# The smoke run's configuration, with other values for dotted names.
_config = functools.partial(presets.load, 'tiny', 'smoke')


# What says where and how, not what comes out.
ELSEWHERE = {
  'annotate__mode': 'ask',
  'task': 'eval',
  'workdir': 'other',
  'eval__per_domain': 3,
  'data__read_threads': 2,
  'mesh__fsdp': 2,
  'align__checkpoint_steps': 7,
  'data__processes': 7,
  'uploads__video_mb': 256,
}


def test_identity_is_what_decides_what_comes_out():
  fields = {
    'workdir': 'x',
    'seed': 1,
    'data': {'processes': 2, 'seed': 3},
    'align': {'mixes': {'both': {'media': ['motion', 'video']}}},
  }
  assert claim._identity(fields) == {
    'seed': 1,
    'data.seed': 3,
    'align.mixes.both.media': ['motion', 'video'],
  }


def test_a_folder_is_claimed_once_and_known_again(tmp_path):
  folder = tmp_path / 'work'
  claim.write(_config(), str(folder))
  written = (folder / 'config.json').read_text()
  assert json.loads(written)['align']['steps'] == 12
  assert [path.name for path in folder.iterdir()] == ['config.json']
  for config in (_config(), _config(**ELSEWHERE)):
    claim.check(config, str(folder))
    claim.write(config, str(folder))
    assert (folder / 'config.json').read_text() == written


def test_a_folder_of_another_configuration_is_refused_by_name(tmp_path):
  folder = str(tmp_path)
  claim.write(_config(), folder)
  before = (tmp_path / 'config.json').read_text()
  other = _config(align__clip=0.5, data__seed=7, task='eval')
  with pytest.raises(ValueError, match=f'Expected {folder} to be made') as e:
    claim.check(other, folder)
  message = str(e.value)
  assert 'align.clip=1.0 where this command has 0.5; data.seed=0' in message
  assert 'repeat the --config and the overrides that it was made' in message
  assert message.endswith('or choose another --workdir.')
  with pytest.raises(ValueError, match='that it was made with.$'):
    claim.check(other, folder, must_exist=True)
  assert 'task' not in message
  assert (tmp_path / 'config.json').read_text() == before


def test_many_differences_are_named_in_part(tmp_path):
  claim.write(_config(), str(tmp_path))
  names = ('motion', 'language', 'video', 'align', 'instruct')
  changes = {f'{name}__steps': 99 for name in names}
  with pytest.raises(ValueError, match='steps=.* has 99') as e:
    claim.check(_config(**changes, seed=5), str(tmp_path))
  assert str(e.value).count(' where this command has ') == 5


def test_what_is_not_there_is_said(tmp_path):
  claim.check(_config(), str(tmp_path))
  with pytest.raises(ValueError, match='no config.json in it; run'):
    claim.check(_config(), str(tmp_path), must_exist=True)
  with pytest.raises(ValueError, match='found none; run --task=pipeline'):
    claim.check(_config(), str(tmp_path / 'absent'), must_exist=True)


def test_folders_of_weights_are_found_from_elsewhere(tmp_path, monkeypatch):
  config = _config()
  config.base = {'llm': 'base/llm', 'video': ''}
  monkeypatch.chdir(tmp_path)
  claim.write(config, 'work')
  fields = json.loads((tmp_path / 'work' / 'config.json').read_text())
  assert fields['base'] == {'llm': str(tmp_path / 'base/llm'), 'video': ''}


def test_a_digest_is_of_what_is_trained():
  usual = claim.digest(_config())
  assert usual == claim.digest(_config(**ELSEWHERE))
  fields = json.loads(_config().to_json())
  shuffled = ml_collections.ConfigDict(dict(reversed(fields.items())))
  assert usual == claim.digest(shuffled)
  others = [_config(seed=1), _config(model__llm__layers=3)]
  digests = {usual, *map(claim.digest, others)}
  assert len(digests) == 3
  assert all(len(found) == 16 for found in digests)


def test_a_claim_is_there_at_once(tmp_path, monkeypatch):
  def fail(*names):
    raise OSError(names)

  monkeypatch.setattr(claim.os, 'replace', fail)
  with pytest.raises(OSError, match='config.json.part'):
    claim.write(_config(), str(tmp_path))
  assert not (tmp_path / 'config.json').exists()


def test_a_folder_from_before_shares_is_gone_on_with_unless_they_are_set():
  """They decide on the batches; what there was before is none for all."""
  fields = json.loads(_config().to_json())
  del fields['data']['shares']
  assert claim._identity(fields) == claim._identity(
    json.loads(_config().to_json())
  )
  shared = json.loads(_config(data__shares=2).to_json())
  assert claim._identity(shared) != claim._identity(fields)


def test_a_folder_from_before_packed_rows_is_gone_on_with_unless_there_are():
  fields = json.loads(_config().to_json())
  for stage in fields['stage_names']:
    del fields[stage]['packed']
  assert claim._identity(fields) == claim._identity(
    json.loads(_config().to_json())
  )
  longer = json.loads(_config(instruct__packed__length=512).to_json())
  assert claim._identity(longer) == claim._identity(fields)
  packed = json.loads(_config(instruct__packed__rows=8).to_json())
  assert claim._identity(packed) != claim._identity(fields)


def _fields(**changes):
  return json.loads(_config(**changes).to_json())


def test_stages_depend_on_the_data_and_the_stages_before_them():
  first = ('motion', 'language')

  def same(fields):
    return claim.of_stages(fields, first) == claim.of_stages(_fields(), first)

  assert same(_fields(align__clip=0.5, instruct__steps=1, eval__rows=3))
  assert same(_fields(stage_names=first))
  assert not same(_fields(language__clip=0.5))
  assert not same(_fields(motion__rows=4))
  assert not same(_fields(seed=1))
  assert not same(_fields(data__train=95))
  assert not same(_fields(model__llm__layers=1))
  assert not same(_fields(base__llm='elsewhere'))
  assert claim.of_stages(_fields(), first) != claim.of_stages(
    _fields(), first[::-1]
  )


def test_data_depend_on_no_stage_and_on_no_seed_of_training():
  usual = claim.of_data(_fields())
  assert usual == claim.of_data(_fields(seed=1, align__clip=0.5))
  assert usual != claim.of_data(_fields(data__seed=1))
  assert usual != claim.of_data(_fields(text__vocab_size=300))
  assert usual != claim.of_data(_fields(base__motion='elsewhere'))
  mocap = json.loads(presets.load('mocap', data__path='a').to_json())
  other = {**mocap, 'data': {**mocap['data'], 'path': 'b'}}
  assert claim.of_data(mocap) != claim.of_data(other)


def test_what_a_study_compares_is_nobody_elses_business():
  config = _config()
  config.study = {'seeds': (0, 1)}
  assert claim.digest(config) == claim.digest(_config())
