"""Parts of the pipeline that need no training; tests/end_to_end runs it."""

import itertools
import json

import jax
import numpy as np
import presets
import pytest

from vimonet_jax import cluster, pipeline, sharding
from vimonet_jax import corpus as corpora
from vimonet_jax.data import batches, builder, dataset, records, skipped
from vimonet_jax.infer import engine
from vimonet_jax.synthetic import world


@pytest.fixture(name='config')
def _config():
  return presets.load('tiny', 'smoke')


@pytest.mark.parametrize(
  ('record', 'sentence'),
  [
    ('test:32', 'below test:32, found test:32; the split has 32 records'),
    ('tset:0', "split:number, e.g. test:0, found 'tset:0'"),
    ('test', "split:number, e.g. test:0, found 'test'"),
    ('test:-1', "split:number, e.g. test:0, found 'test:-1'"),
  ],
)
def test_a_record_that_is_not_there_is_said(config, tmp_path, record, sentence):
  with pytest.raises(ValueError, match=sentence):
    pipeline.show_record(config, str(tmp_path), record=record, output=None)
  assert not list(tmp_path.iterdir())


def test_a_record_is_shown_without_a_dataset(config, tmp_path, capsys):
  assert not pipeline.show_record(
    config, str(tmp_path), record='test:31', output=None
  )
  printed = capsys.readouterr().out.split()
  folder = tmp_path / 'show' / 'test-31'
  assert str(folder / 'test-000031.gif') in printed
  assert (folder / 'test-000031.npy').exists()


def test_rows_have_to_divide_among_shards():
  assert pipeline._share_of(8, sharding.make_mesh(2, 2, 2)) == 8
  with pytest.raises(ValueError, match='among 4 shards'):
    pipeline._share_of(6, sharding.make_mesh(2, 2, 2))
  assert pipeline._share_of(8, sharding.make_mesh(2, 2, 2), 2) == 4
  with pytest.raises(ValueError, match='and 3 shares of the data, found 8'):
    pipeline._share_of(8, sharding.make_mesh(2, 2, 2), 3)


@pytest.mark.parametrize(
  ('field', 'value', 'sentence'),
  [
    ('instruct.lora.targets', ('q', 'w'), 'lora.targets'),
    ('align.trainable', ('translator/.*',), 'translator/'),
    ('align.learning_rates', (('llm/.*', 1.0),), 'translators/'),
    ('motion.rows', 3, 'rows that divide'),
    ('align.grad_accumulation', 3, '2 shards times grad_accumulation=3 and'),
    ('data.shares', 3, '3 shares of the data, found 8'),
    ('instruct.schedule', 'sine', 'sine'),
  ],
)
def test_each_stage_is_looked_at_before_anything_is_made(
  config, field, value, sentence
):
  mesh = sharding.make_mesh(2, devices=jax.devices()[:2])
  for stage in config.stage_names:
    pipeline._check_stage(config, stage, mesh)
  stage, *_ = field.split('.')
  stage = stage if stage in config.stage_names else 'motion'
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=sentence):
    pipeline._check_stage(config, stage, mesh)


@pytest.mark.parametrize(
  ('names', 'sentence'),
  [
    (
      ('align', 'instruct'),
      'align keeps frozen, found none of llm, video, motion; .* '
      r'\(--config.base.llm=FOLDER --config.base.video=FOLDER '
      r'--config.base.motion=FOLDER\), or a configuration whose',
    ),
    (
      ('motion', 'language', 'align'),
      r'found none of video; .* \(--config.base.video=FOLDER\), or',
    ),
    (('video',), 'stage video keeps frozen, found none of llm; '),
  ],
)
def test_nothing_is_trained_on_random_frozen_weights(
  config, tmp_path, names, sentence
):
  """Of the paper's preset, too, that is what forgetting config.base gives."""
  config.stage_names = names
  for name in names:  # A row for each pretend device.
    config[name].rows = 8
    for mix in config[name].mixes.values():
      mix.rows = 8
  with pytest.raises(ValueError, match=sentence):
    pipeline.run(config, str(tmp_path / 'work'))
  assert not (tmp_path / 'work').exists()


def test_packed_rows_hold_conversations_of_all_mixes(config, tmp_path):
  config.data.processes = 1
  stage, mesh = config.instruct, sharding.make_mesh(devices=jax.devices()[:1])
  length = 2 * max(mix.length for mix in stage.mixes.values())
  stage.packed = {
    'rows': 2, 'length': length, 'motion_clips': 5, 'video_clips': 3
  }  # fmt: skip
  corpus = corpora.prepare(config, str(tmp_path))
  stream = iter(pipeline.stage_batches(config, 'instruct', corpus, mesh))
  found, used = set(), 0
  for batch in itertools.islice(stream, 16):
    assert batch['tokens'].shape == (2, length)
    assert batch['motion'].shape[:2] == (2, 5)
    size = config.data.image_size
    assert batch['frames'].shape[:2] == (2, 3)
    assert batch['frames'].shape[-3:] == (size, size, 3)
    used += (batch['segment_ids'] > 0).mean() / 16
    for segments, places in zip(
      batch['segment_ids'], batch['media_index'], strict=True
    ):
      row = set()
      for i in range(1, segments.max() + 1):
        shown = places[(segments == i) & (places >= 0)]
        motions = 5 * corpus.layout.motion_slots
        row.add((bool((shown < motions).any()), bool((shown >= motions).any())))
      found.add(frozenset(row))
  # Motion alone, video alone, and both; also in one row.
  assert set().union(*found) == {(True, False), (False, True), (True, True)}
  assert max(map(len, found)) > 1
  # 64 rows that are filled at the same time leave little room.
  assert used > 0.9

  # Words stand where clips would.
  config.language.packed = {'rows': 2, 'length': 512}
  stream = iter(pipeline.stage_batches(config, 'language', corpus, mesh))
  batch = next(stream)
  assert batch['tokens'].shape == (2, 512)
  assert not {'motion', 'frames'} & set(batch)
  assert batch['more_tokens'].shape[:2] == (2, 512)


def test_mixes_of_different_parts_have_no_clip_in_common(config, tmp_path):
  config.data.processes = 1
  with config.unlocked():
    del config.instruct.mixes.both
    config.instruct.mixes.motion.part = (0, 2)
    config.instruct.mixes.video.part = (1, 2)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  corpus = corpora.prepare(config, str(tmp_path))
  stream = iter(pipeline.stage_batches(config, 'instruct', corpus, mesh))
  clips = {True: set(), False: set()}
  # More than all of them once.
  for batch in itertools.islice(stream, 40):
    ids = '\n'.join(batch['ids']).split('\n')
    clips['motion' in batch] |= {int(at.split('-')[-1]) for at in ids}
  assert len(clips[True]) > 24
  assert len(clips[False]) > 24
  assert {number % 2 for number in clips[True]} == {0}
  assert {number % 2 for number in clips[False]} == {1}


class _Few:
  """A motion, a video, a motion, ..."""

  name, image_size = 'joined', 4

  def splits(self):
    return {'train': range(8)}

  def make(self, number):
    clip = {'frames': np.zeros((2, 4, 4, 3), np.uint8)}
    if number % 2 == 0:
      clip = {'motion': np.zeros((40, 263), np.float32)}
    return records.Record(str(number), 'few', 'train', **clip)

  def identity(self):
    return {}


def test_a_mix_reads_only_what_has_its_media(config, tmp_path):
  builder.build(_Few(), tmp_path, processes=1, progress=False)
  train = dataset.open(tmp_path, 'train')
  stage = config.instruct
  with config.unlocked():
    del stage.mixes.both
  mesh = sharding.make_mesh(devices=jax.devices()[:1])

  def shown():
    mixes = pipeline._mixes(config, stage, train, mesh, 1)
    return [[r.id for r in mix.source] for mix in mixes]

  assert list(stage.mixes) == ['motion', 'video']
  assert shown() == [['0', '2', '4', '6'], ['1', '3', '5', '7']]
  with config.unlocked():
    stage.mixes.motion.part, stage.mixes.video.part = (1, 3), (0, 3)
  assert shown() == [['4'], ['3']]
  with config.unlocked():
    del stage.mixes.motion.part, stage.mixes.video.part
    stage.mixes.motion.media = ('motion', 'video')
  with pytest.raises(ValueError, match='motion and video for mix motion, .* 8'):
    shown()
  # Where nobody noted who has what, or all have it, nothing is chosen.
  assert pipeline._with(train, [], 'words') is train
  next(tmp_path.rglob('has-train.npy')).unlink()
  assert pipeline._with(train, ['video'], 'mix video') is train


def test_the_synthetic_world_is_read_as_it_is(config, tmp_path):
  config.data.processes = 1
  train = corpora.prepare(config, str(tmp_path)).splits['train']
  assert train.having('motion', 'frames') == list(range(len(train)))
  assert pipeline._with(train, ['motion', 'video'], 'mix both') is train


@pytest.mark.parametrize(
  ('part', 'packed', 'sentence'),
  [
    ((2, 2), 0, r'mixes.video.part as \(number, parts\)'),
    ((1,), 0, r'mixes.video.part as \(number, parts\)'),
    ((1, 2), 2, 'packed rows of stage instruct, found mixes.video.part'),
  ],
)
def test_a_part_that_cannot_be_is_said_at_once(config, part, packed, sentence):
  with config.unlocked():
    config.instruct.mixes.video.part = part
  config.instruct.packed = {
    'rows': packed, 'length': 512, 'motion_clips': 5, 'video_clips': 3
  }  # fmt: skip
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  with pytest.raises(ValueError, match=sentence):
    pipeline._check_stage(config, 'instruct', mesh)


def test_a_stage_that_the_configuration_has_not_is_said(tmp_path):
  config = presets.load('vicuna7b')
  config.stage_names = ('motion', 'align')
  with pytest.raises(
    ValueError, match=r"the configuration \(align, instruct\), found 'motion'"
  ):
    pipeline.run(config, str(tmp_path / 'work'))


def test_the_probe_passes_over_what_training_may(config, tmp_path, monkeypatch):
  drawn = world.World()

  def make(number):
    if number == 1:
      raise records.CorruptError('val:1', 'hash mismatch')
    return drawn.make_record('val', number)

  config.eval.probe_per_domain, asked = 100, []

  class Engine:
    def __init__(self, *_):
      pass

    def answer(self, prompts, **_):
      asked.extend(prompts)
      return ['yes'] * len(prompts)

  monkeypatch.setattr(engine, 'Engine', Engine)
  held = {'val': batches.FunctionSource(make, 4)}
  corpus = corpora.Corpus(held, drawn.text_record, None, None)
  path = tmp_path / 'skipped-0.jsonl'

  def ask(limit):
    counted = skipped.Skipped(limit, str(path))
    return pipeline._probe(config, 'instruct', corpus, None, counted)({}, {}, 1)

  assert ask(limit=1)
  clips = {prompt.id.split('/')[0] for prompt in asked}
  assert clips == {held['val'][i].id for i in (0, 2, 3)}
  assert json.loads(path.read_text())['where'] == 'val:1'
  with pytest.raises(ValueError, match='at most 0 damaged records, found 1'):
    ask(limit=0)
  # What another process alone cannot read, nobody asks about.
  monkeypatch.setattr(cluster, 'tell', lambda name, here: [here, '[0]'])
  asked.clear()
  ask(limit=1)
  clips = {prompt.id.split('/')[0] for prompt in asked}
  assert clips == {held['val'][i].id for i in (2, 3)}


@pytest.mark.parametrize('is_made', [False, True])
def test_whether_a_model_is_to_be_made_the_first_process_knows(
  config, tmp_path, monkeypatch, is_made
):
  """Others may see for a while what was there before, and all make it."""
  if not is_made:
    (tmp_path / 'model').mkdir()
    (tmp_path / 'model' / 'config.json').touch()
  made = []
  monkeypatch.setattr(cluster, 'tell', lambda *_: [json.dumps(is_made), '?'])
  monkeypatch.setattr(pipeline.outcome, 'gather', lambda *_: made.append(1))
  monkeypatch.setattr(pipeline.outcome, 'save', lambda *_: None)
  pipeline.export(config, str(tmp_path))
  assert bool(made) != is_made


def test_what_another_process_does_not_find_is_said_before_anything_is_made(
  config, tmp_path, monkeypatch
):
  def tell(name, words):
    del name
    return [words, 'Expected converted weights in base/llm, found none.']

  def make(*_):
    raise AssertionError('something is made')

  monkeypatch.setattr(cluster, 'tell', tell)
  monkeypatch.setattr(pipeline, 'check', lambda *_: None)
  monkeypatch.setattr(pipeline, 'make', make)
  with pytest.raises(OSError, match='^Process 1 says: Expected converted'):
    pipeline.run(config, str(tmp_path / 'work'))
  assert not list(tmp_path.iterdir())
