import dataclasses
import functools
import json
import pathlib
import runpy

import ml_collections
import numpy as np
import pytest

from vimonet_jax import corpus, pipeline
from vimonet_jax.data import records, text

ROOT = pathlib.Path(__file__).parents[1]


def _config(**changes):
  """The smoke run's configuration, with other values for dotted names."""
  get_config = runpy.run_path(str(ROOT / 'configs' / 'tiny.py'))['get_config']
  config = get_config('smoke')
  config.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in changes.items()}
  )
  return config


# What says where and how, not what comes out.
ELSEWHERE = {
  'task': 'eval',
  'workdir': 'other',
  'xla_flags': '--xla_other=1',
  'data__processes': 7,
}


# --- Whose folder it is ------------------------------------------------------


def test_identity_is_what_decides_what_comes_out():
  fields = {
    'workdir': 'x',
    'seed': 1,
    'data': {'processes': 2, 'seed': 3},
    'align': {'mixes': {'both': {'media': ['motion', 'video']}}},
  }
  assert pipeline._identity(fields) == {
    'seed': 1,
    'data.seed': 3,
    'align.mixes.both.media': ['motion', 'video'],
  }


def test_a_folder_is_claimed_once_and_known_again(tmp_path):
  folder = tmp_path / 'work'
  pipeline._claim(_config(), str(folder))
  written = (folder / 'config.json').read_text()
  assert json.loads(written)['align']['steps'] == 12
  assert [path.name for path in folder.iterdir()] == ['config.json']
  for config in (_config(), _config(**ELSEWHERE)):
    pipeline._claim(config, str(folder))
    assert (folder / 'config.json').read_text() == written


def test_a_folder_of_another_configuration_is_refused_by_name(tmp_path):
  folder = str(tmp_path)
  pipeline._claim(_config(), folder)
  before = (tmp_path / 'config.json').read_text()
  other = _config(align__clip=0.5, data__seed=7, task='eval')
  with pytest.raises(ValueError, match=f'Expected {folder} to belong') as e:
    pipeline._claim(other, folder)
  message = str(e.value)
  assert 'align.clip=0.5 instead of 1.0; data.seed=7 instead of 0;' in message
  assert 'choose another --workdir or remove this one' in message
  assert 'task' not in message
  assert (tmp_path / 'config.json').read_text() == before


def test_many_differences_are_named_in_part(tmp_path):
  pipeline._claim(_config(), str(tmp_path))
  names = ('motion', 'language', 'video', 'align', 'instruct')
  changes = {f'{name}__steps': 99 for name in names}
  with pytest.raises(ValueError, match='steps=99') as e:
    pipeline._claim(_config(**changes, seed=5), str(tmp_path))
  assert str(e.value).count(' instead of ') == 5


def test_a_refusal_is_a_sentence_and_not_a_traceback(tmp_path, capsys):
  pipeline._claim(_config(), str(tmp_path))
  assert pipeline.run(_config(seed=5), str(tmp_path)) == 1
  assert 'seed=5 instead of 0' in capsys.readouterr().err
  assert [path.name for path in tmp_path.iterdir()] == ['config.json']


def test_a_hash_is_of_what_comes_out():
  usual = pipeline._config_hash(_config())
  assert usual == pipeline._config_hash(_config(**ELSEWHERE))
  fields = json.loads(_config().to_json())
  shuffled = ml_collections.ConfigDict(dict(reversed(fields.items())))
  assert usual == pipeline._config_hash(shuffled)
  others = [
    _config(seed=1),
    _config(model__llm__layers=3),
    _config(eval__max_new_tokens=5),
  ]
  hashes = {usual, *map(pipeline._config_hash, others)}
  assert len(hashes) == 4
  assert all(len(found) == 16 for found in hashes)


def test_what_is_written_is_there_at_once(tmp_path, monkeypatch):
  path = tmp_path / 'page'
  pipeline._write_text(str(path), 'wäre')
  assert path.read_text(encoding='utf-8') == 'wäre'

  def fail(*names):
    raise OSError(names)

  monkeypatch.setattr(pipeline.os, 'replace', fail)
  with pytest.raises(OSError, match='page.part'):
    pipeline._write_text(str(path), 'new')
  assert path.read_text(encoding='utf-8') == 'wäre'


# --- Words for clips that have captions only ---------------------------------


def _captioned(number, captions):
  motion = np.zeros((40, 263), np.float32)
  return records.Record(
    f'clip{number}',
    'test',
    'train',
    motion=motion,
    joints=np.zeros((41, 22, 3), np.float32),
    turns=tuple(
      records.Turn('Describe the motion.', caption, 'motion_caption')
      for caption in captions
    ),
  )


CLIPS = [
  _captioned(0, ['a man walks.', 'he walks left.']),
  _captioned(1, ['she jumps.']),
  _captioned(2, ['one.', 'two.', 'three.']),
]


def _words(index):
  return corpus._captions_as_words({'val': CLIPS}, 'val', index)


def test_a_caption_stands_where_its_motion_would():
  record = _words(0)
  assert record.motion_text == 'a man walks'
  assert [turn.answer for turn in record.turns] == ['a man walks.']
  assert record.motion is record.joints is record.frames is None
  assert (record.split, record.source) == ('train', 'test')
  # The clip itself is as it was.
  assert CLIPS[0].motion is not None
  assert len(CLIPS[0].turns) == 2
  encoded = list(text.texts(record, text.TEMPLATES['short']))
  assert encoded[1:4] == ['a', 'man', 'walks']


def test_every_caption_comes_once_and_then_again():
  rounds = [[_words(3 * i + clip) for i in range(6)] for clip in range(3)]
  for clip, made in zip(CLIPS, rounds, strict=True):
    said = [record.turns[0].answer for record in made]
    captions = [turn.answer for turn in clip.turns]
    assert said == (captions * 6)[:6]
  names = [record.id for made in rounds for record in made]
  assert len(set(names)) == 18
  assert dataclasses.astuple(_words(4)) == dataclasses.astuple(_words(4))


# --- What the settings name --------------------------------------------------


def test_an_unknown_dataset_is_refused():
  with pytest.raises(ValueError, match="synthetic or folder, found 'babel'"):
    corpus.dataset(_config(data__name='babel').data)


def test_the_dataset_is_the_one_that_the_settings_describe():
  found = corpus.dataset(_config(data__seed=3, data__val=17).data)
  assert (found.seed, found.num_val, found.image_size) == (3, 17, 48)


def test_a_tokenizer_is_trained_once_on_texts_and_then_read(tmp_path):
  asked = []

  def words(split, index):
    asked.append((split, index))
    return _words(index)

  make = functools.partial(
    corpus._tokenizer,
    _config(text__corpus=12, text__vocab_size=300),
    str(tmp_path),
    words,
  )
  tokenizer = make()
  assert asked == [('train', i) for i in range(12)]
  assert make().proto == tokenizer.proto
  assert len(asked) == 12
  assert [path.name for path in tmp_path.iterdir()] == ['tokenizer.model']
