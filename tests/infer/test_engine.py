import dataclasses
import functools

import jax
import numpy as np
import pytest

from vimonet_jax import sharding, weight_files
from vimonet_jax.data import batches, records
from vimonet_jax.infer import conversation, engine, generate, model_folder
from vimonet_jax.models import (
  attention,
  clip_video,
  llama,
  lora,
  motion_vqvae,
  vimonet,
)
from vimonet_jax.synthetic import world
from vimonet_jax.train import stages

QUESTION = 'What is the person doing?'
# One setting for nearly all tests: every other one is compiled anew.
MAX_NEW_TOKENS = 8
ROOM = 64


@pytest.fixture(scope='module')
def asking(tiny_model):
  return engine.Engine.load(f'{tiny_model.workdir}/model')


@functools.cache
def _record(index=0, media=('motion', 'video'), question=QUESTION):
  """An open question; pictures of 8 x 8 pixels, as the tiny model reads."""
  record = world.World().make_record('test', index)
  return dataclasses.replace(
    record,
    motion=record.motion if 'motion' in media else None,
    frames=record.frames[:, ::6, ::6] if 'video' in media else None,
    turns=(records.Turn(question, ''),),
  )


@functools.cache
def _on_a_mesh(workdir, dtype=None):
  mesh = sharding.make_mesh(1, 2, 2, devices=jax.devices()[:4])
  return engine.Engine.load(f'{workdir}/model', mesh=mesh, dtype=dtype)


def _flat(asking):
  """Path -> array of parameters and codebook, as the engine has them."""
  return {
    path: x
    for tree in asking._variables.values()
    for path, x in sharding.flatten(tree).items()
  }


def _ask(asking, asked, **settings):
  return asking.answer(asked, max_new_tokens=MAX_NEW_TOKENS, **settings)


def test_answers_do_not_depend_on_who_is_asked_together(asking):
  asked = [
    _record(0),
    _record(1, ('motion',)),
    _record(0, ('motion',), 'Why?'),
    _record(3, ('motion',)),
  ]
  assert len({len(r.motion) for r in asked if r.motion is not None}) > 2
  together = _ask(asking, asked)
  assert together == [_ask(asking, [record])[0] for record in asked]
  assert together == _ask(asking, asked[::-1])[::-1]
  assert all(isinstance(answer, str) for answer in together)
  assert len(set(together)) == len(asked), 'media or questions are not read'
  assert asking.answer([]) == []


def test_a_begun_answer_goes_on_behind_its_words(asking):
  encode = asking.bundle.layout.tokenizer.encode
  # Blanks at the end are the next word's; see text.encode_prompt.
  begun = 'He is '
  open_one = _record(0, ('motion',))
  first = records.Turn('Who is it?', 'A man.')
  last = records.Turn(QUESTION, begun)
  asked = [
    dataclasses.replace(open_one, turns=(last,)),
    dataclasses.replace(open_one, turns=(first, last)),
    open_one,
  ]
  found = _ask(asking, asked)
  assert found[2] == _ask(asking, [open_one])[0]
  assert len(set(found)) == 3
  for record, answer in zip(asked[:2], found[:2], strict=True):
    # The same words as ids, behind the prompt of an answer not begun.
    turns = (*record.turns[:-1], open_one.turns[0])
    record = dataclasses.replace(record, turns=turns)
    shape = asking.row_shape(record)
    batch = asking.prompts([record], shape, rows=1)
    ids, start = encode('He is'), int(batch['segment_ids'].sum())
    batch['tokens'][0, start : start + len(ids)] = ids
    batch['segment_ids'][0, start : start + len(ids)] = 1
    want = asking.run(batch, max_new_tokens=MAX_NEW_TOKENS)
    assert asking.decode(want) == [answer]
    assert not answer.startswith('He is')


def test_records_of_one_kind_share_few_shapes(asking, monkeypatch):
  seen = []

  def run(batch, **settings):
    del settings
    seen.append(batch)
    tokens_BL = batch['tokens'][:, :1]
    lengths_B = np.ones(len(tokens_BL), int)
    return generate.Output(tokens_BL, lengths_B, tokens_BL[:, 0], None)

  monkeypatch.setattr(asking, 'run', run)
  words = world.World().text_record('test', 0)
  words = dataclasses.replace(words, video_text=None, motion_text='a b+c')
  no_media = dataclasses.replace(words, motion_text=None, turns=words.turns[:1])
  _ask(asking, [_record(i, ('motion',)) for i in (0, 1, 3)])
  _ask(asking, [words, no_media, no_media])
  shapes = [batch['tokens'].shape for batch in seen]
  assert [rows for rows, _ in shapes] == [8, 1, 8]
  assert not any(length % 64 for _, length in shapes)
  media = {'motion', 'motion_length', 'frames', 'more_tokens'}
  assert [media & set(batch) for batch in seen] == [
    {'motion', 'motion_length'}, {'more_tokens'}, set()
  ]  # fmt: skip
  # No more than there is room for, rows left over included.
  seen.clear()
  _ask(asking, [no_media] * 2, max_rows=6)
  _ask(asking, [no_media] * 9, max_rows=6)
  assert [len(batch['tokens']) for batch in seen] == [6, 6, 6]
  # Devices that share the rows get as many each.
  seen.clear()
  monkeypatch.setattr(engine.Engine, 'row_shards', 3)
  _ask(asking, [no_media])
  _ask(asking, [no_media] * 4)
  _ask(asking, [no_media] * 4, max_rows=8)
  conversation.Conversation(asking, _record()).ask(QUESTION)
  assert [len(batch['tokens']) for batch in seen] == [3, 24, 6, 3]


def test_the_seed_decides_where_there_is_a_draw(asking):
  asked = [_record(1, ('motion',))]
  warm = generate.Sampling(temperature=2.0)
  first, again, other = (
    _ask(asking, asked, sampling=warm, seed=seed) for seed in (0, 0, 1)
  )
  assert first == again
  assert first != other


def test_a_saved_model_answers_as_before(tiny_model, asking):
  saved, loaded = tiny_model.bundle, asking.bundle
  assert loaded.model == saved.model
  assert loaded.layout.template == saved.layout.template
  assert loaded.layout.tokenizer.proto == saved.layout.tokenizer.proto
  assert loaded.layout.video_tokens == saved.layout.video_tokens
  assert loaded.statistics.mean.tolist() == saved.statistics.mean.tolist()
  assert loaded.statistics.std.tolist() == saved.statistics.std.tolist()
  assert asking.media == ('motion', 'video')
  before = engine.Engine(saved, tiny_model.params)
  asked = [_record(i, ('motion',)) for i in (0, 1, 3)]
  assert _ask(asking, asked) == _ask(before, asked)


def test_an_engine_on_a_mesh_answers_like_one_on_a_device(tiny_model, asking):
  meshed = _on_a_mesh(tiny_model.workdir)
  assert meshed.media == asking.media
  assert (meshed.row_shards, asking.row_shards) == (2, 1)
  asked = [_record(0), _record(1, ('motion',)), _record(0, ('motion',), 'Why?')]
  assert _ask(meshed, asked) == _ask(asking, asked)


def test_weights_are_read_straight_into_their_shards(tiny_model, monkeypatch):
  read, asked_for = {}, {}
  load = weight_files.load

  def spy(folder, patterns, *, shardings, change):
    read.update(load(folder, patterns, shardings=shardings, change=change))
    asked_for.update(shardings)
    return dict(read)

  monkeypatch.setattr(weight_files, 'load', spy)
  mesh = sharding.make_mesh(1, 2, 2, devices=jax.devices()[:4])
  meshed = engine.Engine.load(f'{tiny_model.workdir}/model', mesh=mesh)
  stage = stages.tokens(
    'all', tiny_model.bundle.model, ('.*',), media=('motion', 'video')
  )
  table = sharding.state_shardings(stage.abstract()[0], mesh)
  kept = _flat(meshed)
  assert set(read) == set(kept) == set(table) == set(tiny_model.params)
  for path, x in read.items():
    assert asked_for[path] == table[path], path
    for array in (x, kept[path]):
      assert isinstance(array, jax.Array), f'{path} is whole on the host'
      assert array.sharding == table[path], path
      for shard in array.addressable_shards:
        assert shard.data.shape == table[path].shard_shape(x.shape), path
    np.testing.assert_array_equal(kept[path], tiny_model.params[path])
  halves = kept['translators/video/in/kernel'], kept['llm/head/kernel']
  assert [x.addressable_shards[0].data.size / x.size for x in halves] == [
    1 / 2, 1 / 4
  ]  # fmt: skip


def test_only_what_networks_would_cast_anyway_is_kept_in_their_dtype(
  tiny_model,
):
  model = tiny_model.bundle.model
  half = dataclasses.replace(
    model,
    llm=dataclasses.replace(model.llm, dtype='bfloat16'),
    video=dataclasses.replace(model.video, dtype='bfloat16'),
  )
  # Written in float32, as training leaves what it trains.
  whole = engine.Engine(
    tiny_model.bundle._replace(model=half), tiny_model.params
  )
  asked = [_record(i) for i in range(3)]
  want = _ask(whole, asked)
  loaded = engine.Engine.load(f'{tiny_model.workdir}/model', dtype='bfloat16')
  assert loaded.bundle.model == half
  assert _ask(loaded, asked) == want
  meshed = _on_a_mesh(tiny_model.workdir, 'bfloat16')
  for found in (loaded, meshed):
    dtypes = {path: x.dtype.name for path, x in _flat(found).items()}
    assert dtypes['llm/embed/embedding'] == 'bfloat16'
    assert dtypes['llm/blocks/attn/q/kernel'] == 'bfloat16'
    assert dtypes['video/blocks/mlp/in/kernel'] == 'bfloat16'
    assert dtypes['llm/blocks/norm1/scale'] == 'float32'
    assert dtypes['video/pre_norm/bias'] == 'float32'
    others = {p: d for p, d in dtypes.items() if p[:3] not in ('llm', 'vid')}
    assert set(others.values()) == {'float32'}
  kernel = _flat(meshed)['llm/head/kernel']
  assert kernel.addressable_shards[0].data.size == kernel.size // 4
  with pytest.raises(ValueError, match="dtype to be one of .*'float8'"):
    engine.Engine.load(f'{tiny_model.workdir}/model', dtype='float8')


def test_what_the_model_does_not_have_is_not_read(tiny_model, tmp_path):
  params = {**tiny_model.params, 'motion/decoder/out': np.zeros(3, np.float32)}
  model_folder.save(str(tmp_path), tiny_model.bundle, params)
  assert set(_flat(engine.Engine.load(str(tmp_path)))) == set(tiny_model.params)


def test_a_mesh_that_does_not_divide_the_model_is_named(tiny_model):
  mesh = sharding.make_mesh(1, 1, 8)
  with pytest.raises(ValueError, match=r'to divide into 8 shards.*change the'):
    engine.Engine.load(f'{tiny_model.workdir}/model', mesh=mesh)


def test_every_part_of_a_published_model_has_a_place():
  model = vimonet.Config(
    llm=llama.Config.vicuna_7b(),
    motion=motion_vqvae.Config.t2m_gpt(),
    video=clip_video.Config.languagebind(),
    motion_feature='codebook',
  )
  mesh = jax.sharding.AbstractMesh((1, 4, 2), sharding.AXES)
  found = engine.layout(model, mesh)
  assert found['llm/blocks/mlp/up/kernel'].sharding.spec == (
    jax.sharding.PartitionSpec(None, 'fsdp', 'tensor')
  )
  assert found['motion/quantizer/codebook'].sharding.is_fully_replicated


@pytest.mark.parametrize('kind', ['int8', 'nf4'])
def test_the_decoder_is_quantised_while_it_is_read(tiny_model, kind):
  folder = f'{tiny_model.workdir}/model'
  alone = engine.Engine.load(folder, quantize=kind)
  meshed = engine.Engine.load(
    folder,
    quantize=kind,
    mesh=sharding.make_mesh(2, 2, 1, devices=jax.devices()[:4]),
  )
  kept, cut = _flat(alone), _flat(meshed)
  name = 'llm/blocks/mlp/up/kernel'
  assert {f'{name}/qvalue', f'{name}/scale'} < set(kept) == set(cut)
  assert name not in kept
  for path, x in kept.items():
    np.testing.assert_array_equal(x, cut[path])
    if path in tiny_model.params:
      np.testing.assert_array_equal(x, tiny_model.params[path])
  assert cut[f'{name}/qvalue'].sharding.spec == (
    jax.sharding.PartitionSpec(None, 'fsdp', 'tensor')
  )
  answers = [
    x.answer([_record(), _record()], max_new_tokens=4) for x in (alone, meshed)
  ]
  assert answers[0] == answers[1]


def test_a_preset_says_how_long_an_answer_can_be(asking, monkeypatch):
  seen = []

  def run(batch, *, sampling, max_new_tokens, key, **rest):
    del key, rest
    seen.append((sampling, max_new_tokens))
    tokens_BL = batch['tokens'][:, :1]
    lengths_B = np.ones(len(tokens_BL), int)
    cache = attention.Cache(None, None, lengths_B)
    return generate.Output(tokens_BL, lengths_B, tokens_BL[:, 0], cache)

  monkeypatch.setattr(asking, 'run', run)
  sampling = generate.preset('motionllm')
  asking.answer([_record()], sampling=sampling)
  asking.answer([_record()], sampling=sampling, max_new_tokens=7)
  conversation.Conversation(asking, _record(), sampling=sampling).ask(QUESTION)
  # What answers are when None comes through: see test_generate.
  assert seen == [(sampling, None), (sampling, 7), (sampling, 200)]
  talk = conversation.Conversation(asking, _record(), sampling=sampling, room=0)
  with pytest.raises(conversation.TooLongError, match='found 0 so far'):
    talk.ask('Why?')


def test_merged_adapters_answer_as_unmerged_ones(tiny_model, asking, tmp_path):
  model = tiny_model.bundle.model
  adapters = lora.LoraConfig(rank=4, alpha=8.0, targets=('q', 'v'))
  llm = dataclasses.replace(model.llm, lora=adapters)
  bundle = tiny_model.bundle._replace(
    model=dataclasses.replace(model, llm=llm)
  )  # fmt: skip
  rng = np.random.default_rng(1)
  params = dict(tiny_model.params)
  for name in adapters.targets:
    kernel = f'llm/blocks/attn/{name}'
    layers, width, heads, head_dim = params[f'{kernel}/kernel'].shape
    a = rng.normal(0, 0.4, (layers, width, 4)).astype(np.float32)
    b = rng.normal(0, 0.4, (layers, 4, heads, head_dim)).astype(np.float32)
    params |= {f'{kernel}/lora_a': a, f'{kernel}/lora_b': b}
  model_folder.save(str(tmp_path), bundle, params)
  merged = engine.Engine.load(str(tmp_path))
  assert merged.bundle.model == model
  asked = [_record(1, ('motion',))]
  unmerged = _ask(engine.Engine(bundle, params), asked)
  assert _ask(merged, asked) == unmerged
  assert _ask(asking, asked) != unmerged, 'the adapters do nothing'


def test_a_model_that_reads_codes_finds_its_codebook(tiny_model, tmp_path):
  model = dataclasses.replace(
    tiny_model.bundle.model, motion_feature='codebook'
  )
  bundle = tiny_model.bundle._replace(model=model)
  stage = stages.tokens('codes', model, ('.*',), media=('motion',))
  rng = np.random.default_rng(2)
  codebook = {
    path: rng.normal(0, 1, x.shape).astype(x.dtype)
    for path, x in sharding.flatten(stage.abstract()[1]).items()
  }
  assert codebook
  model_folder.save(str(tmp_path), bundle, {**tiny_model.params, **codebook})
  loaded = engine.Engine.load(str(tmp_path))
  asked = [_record(1, ('motion',))]
  found = _ask(loaded, asked)
  negated = {path: -x if x.ndim else x for path, x in codebook.items()}
  other = engine.Engine(bundle, {**tiny_model.params, **negated})
  assert _ask(other, asked) != found


def test_media_that_it_was_not_trained_on_are_refused(tiny_model):
  params = {
    path: x
    for path, x in tiny_model.params.items()
    if not path.startswith(('video/', 'translators/video/'))
  }
  asking = engine.Engine(tiny_model.bundle, params)
  assert asking.media == ('motion',)
  for ask in (
    functools.partial(conversation.Conversation, asking),
    lambda record: asking.answer([record]),
  ):
    with pytest.raises(ValueError, match=r'on \(motion\), found video; leave'):
      ask(_record())


def test_a_blind_engine_is_shown_zeros_and_answers_the_question_alone(asking):
  blind = asking.blind()
  record = _record()
  batch = asking.prompts([record], asking.row_shape(record), rows=1)

  def bank(engine_):
    return np.asarray(
      vimonet.Vimonet(engine_.bundle.model).apply(
        vimonet.stack(engine_._variables),
        batches.without_ids(batch),
        method='bank',
      )
    )

  # Not nearly: biases are gone, too.
  assert not bank(blind).any()
  assert bank(asking).any()
  shown = [_record(0, ('video',)), _record(3, ('video',))]
  one, other = blind.answer(shown, max_new_tokens=MAX_NEW_TOKENS)
  assert one == other
  flat = _flat(asking)
  changed = {p for p, x in _flat(blind).items() if x is not flat[p]}
  assert changed == {p for p in flat if p.startswith('translators/')}


def test_frames_of_another_size_are_refused(asking):
  large = dataclasses.replace(
    _record(), frames=np.zeros((8, 64, 64, 3), np.uint8)
  )
  with pytest.raises(ValueError, match=r'frames \(8, 8, 8, 3\), found'):
    asking.check(large)
