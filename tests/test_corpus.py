import concurrent.futures
import dataclasses
import functools
import pathlib
import time

import numpy as np
import presets
import pytest

from vimonet_jax import cluster, corpus
from vimonet_jax.data import builder, records, text, tokenizer
from vimonet_jax.infer import model_folder
from vimonet_jax.motion import features

# The smoke run's configuration, with other values for dotted names.
_config = functools.partial(presets.load, 'tiny', 'smoke')


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
  with pytest.raises(ValueError, match="folder or joined, found 'babel'"):
    corpus.dataset(_config(data__name='babel').data)


def test_the_dataset_is_the_one_that_the_settings_describe():
  found = corpus.dataset(_config(data__seed=3, data__val=17).data)
  assert (found.seed, found.num_val, found.image_size) == (3, 17, 48)


def test_a_tokenizer_is_trained_once_on_texts_and_then_read(tmp_path):
  asked = []

  def words(split, index):
    asked.append((split, index))
    return _words(index)

  config = _config(text__corpus=12, text__vocab_size=300)
  said = corpus._said(config, words, 5000)
  make = functools.partial(corpus._tokenizer, config, str(tmp_path), said)
  made = make()
  assert asked == [('train', i) for i in range(12)]
  assert make().proto == made.proto
  assert len(asked) == 12
  path = tmp_path / 'tokenizer.model'
  assert sorted(tmp_path.iterdir()) == [path, tmp_path / f'{path.name}.digest']
  # Its unknown token has another name: that still is a tokenizer.
  path.write_bytes(path.read_bytes().replace(b'<unk>', b'<unj>'))
  with pytest.raises(ValueError, match=r'tokenizer.model as the run began'):
    make()


def test_a_tokenizer_hears_every_source_of_a_dataset():
  def numbers(number, **changes):
    said = corpus._said(
      _config(text__corpus=4, **changes), lambda split, i: (split, i), number
    )
    return [said[i] for i in range(len(said))]

  own = {'data__name': 'joined'}
  assert numbers(10, **own) == [('train', i) for i in (0, 2, 5, 7)]
  # Of fewer records each comes again, with another caption.
  assert numbers(3, **own) == [('train', i) for i in range(4)]


# --- How many places a motion takes ------------------------------------------


def _small(**changes):
  """Ten clips, made in this process."""
  sizes = {'train': 6, 'val': 2, 'test': 2, 'processes': 1}
  config = _config(
    **{f'data__{name}': value for name, value in sizes.items()},
    text__corpus=20,
    text__vocab_size=400,
  )
  for name, value in changes.items():
    setattr(config.model.motion, name, value)
  return config


def test_an_encoder_that_counts_in_other_steps_is_refused(tmp_path):
  message = '4 frames per token, .* found 8; set model.motion.down to 2'
  with pytest.raises(ValueError, match=message):
    corpus.prepare(_small(down=3), str(tmp_path))
  assert not list(tmp_path.iterdir())


def test_a_motion_has_as_many_places_as_the_model_gives_it(
  tmp_path, monkeypatch, tiny_model
):
  make = corpus.model

  def shorter(*args, **options):
    return dataclasses.replace(make(*args, **options), max_motion_frames=100)

  monkeypatch.setattr(corpus, 'model', shorter)
  found = corpus.prepare(_small(), str(tmp_path / 'work'))
  assert found.layout.motion_slots == 25
  bundle = tiny_model.bundle
  model = dataclasses.replace(bundle.model, max_motion_frames=100)
  model_folder.save(
    str(tmp_path / 'model'), bundle._replace(model=model), tiny_model.params
  )
  loaded = model_folder.read(str(tmp_path / 'model'))
  assert loaded.layout.motion_slots == 25


# --- Several processes in one folder -----------------------------------------


def test_of_two_that_start_at_once_one_makes_everything(tmp_path, monkeypatch):
  trained, counted = [], []
  train, count = tokenizer.train_tokenizer, features.Statistics.of

  def slow_train(*args):
    trained.append(args)
    time.sleep(0.2)
    return train(*args)

  def slow_count(*args):
    counted.append(args)
    time.sleep(0.2)
    return count(*args)

  monkeypatch.setattr(tokenizer, 'train_tokenizer', slow_train)
  monkeypatch.setattr(features.Statistics, 'of', slow_count)
  # A lock tells threads from each other just as it does processes.
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    one, other = pool.map(
      lambda config: corpus.prepare(config, str(tmp_path)),
      [_small(), _small()],
    )
  assert len(trained) == len(counted) == 1
  assert one.layout.tokenizer.proto == other.layout.tokenizer.proto
  np.testing.assert_array_equal(one.statistics.mean, other.statistics.mean)
  assert not list(tmp_path.rglob('*.part'))


def test_only_the_first_process_reads_what_the_data_are_made_of(
  tmp_path, monkeypatch
):
  """With 64 hosts, each start would take as many turns at all the files."""
  made = corpus.prepare(_small(), str(tmp_path))

  def refuse(*_):
    raise AssertionError('the first process has done this')

  monkeypatch.setattr(cluster, 'is_first', lambda: False)
  for name in ('build', '_locked', '_write'):
    monkeypatch.setattr(corpus, name, refuse)
  monkeypatch.setattr(builder.Synthetic, 'identity', refuse)
  found = corpus.prepare(_small(), str(tmp_path))
  assert {k: len(x) for k, x in found.splits.items()} == {
    'train': 6,
    'val': 2,
    'test': 2,
  }
  assert found.layout.tokenizer.proto == made.layout.tokenizer.proto
  np.testing.assert_array_equal(found.statistics.mean, made.statistics.mean)
  assert found.words('val', 1).turns == made.words('val', 1).turns
  other = _small()
  other.seed = 5
  with pytest.raises(ValueError, match='made with the settings of this'):
    corpus.prepare(other, str(tmp_path))


@pytest.mark.parametrize(
  ('left', 'missing'),
  [
    ((), 'config.json, statistics.npz, tokenizer.model'),
    (('config.json', 'tokenizer.model'), 'statistics.npz'),
  ],
)
def test_hosts_that_do_not_see_what_the_first_one_made_are_told(
  tmp_path, monkeypatch, left, missing
):
  for name in left:
    (tmp_path / name).touch()
  monkeypatch.setattr(cluster, 'is_first', lambda: False)
  with pytest.raises(ValueError, match=f'without {missing} where the first'):
    corpus.prepare(_small(), str(tmp_path))


def test_what_two_processes_write_has_two_names_until_it_is_whole(
  tmp_path, monkeypatch
):
  path = tmp_path / 'a'
  names = set()

  def save(part):
    names.add(part)
    pathlib.Path(part).write_text('whole')

  for process in (7, 8):
    monkeypatch.setattr(corpus.os, 'getpid', lambda process=process: process)
    corpus._write(str(path), save)
  assert len(names) == 2
  assert str(path) not in names
  assert [file.name for file in tmp_path.iterdir()] == ['a']
