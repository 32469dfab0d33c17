import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest

from vimonet_jax import sharding
from vimonet_jax.data import batches, records, text, tokenizer
from vimonet_jax.infer import engine, generate
from vimonet_jax.models import lora
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
  # Devices that share the rows get as many each.
  seen.clear()
  monkeypatch.setattr(engine.Engine, 'row_shards', 3)
  _ask(asking, [no_media])
  _ask(asking, [no_media] * 4)
  asking.start(_record()).ask(QUESTION)
  assert [len(batch['tokens']) for batch in seen] == [3, 24, 3]


def test_the_seed_decides_where_there_is_a_draw(asking):
  asked = [_record(1, ('motion',))]
  warm = generate.Sampling(temperature=2.0)
  first, again, other = (
    _ask(asking, asked, sampling=warm, seed=seed) for seed in (0, 0, 1)
  )
  assert first == again
  assert first != other


@pytest.mark.parametrize('ends', [False, True])
def test_a_conversation_is_one_prompt_that_grows(tiny_model, asking, ends):
  bundle = tiny_model.bundle
  record, layout = _record(), bundle.layout
  prompt = text.encode_prompt(record, layout)
  length = 64 * -(-len(prompt['tokens']) // 64)
  first = batches.prompts(
    [record], layout=layout, statistics=bundle.statistics, rows=1,
    length=length, motion_clips=1, video_clips=1,
  )  # fmt: skip
  run = functools.partial(
    engine.Engine.run,
    max_new_tokens=MAX_NEW_TOKENS,
    key=jax.random.key(0),
  )
  said = np.asarray(run(asking, first).tokens[0])
  if ends:
    # Exchanged with the end token, its third token ends the answer.
    params = dict(tiny_model.params)
    swap = np.arange(bundle.model.llm.vocab_size)
    swap[[said[2], tokenizer.EOS]] = tokenizer.EOS, said[2]
    params['llm/head/kernel'] = params['llm/head/kernel'][:, swap]
    asking = engine.Engine(bundle, params)
    output = run(asking, first)
    assert output.lengths[0] < MAX_NEW_TOKENS
    said = np.asarray(output.tokens[0, : output.lengths[0]])
    assert said[-1] == tokenizer.EOS
    history = said
  else:
    assert tokenizer.EOS not in said
    history = np.append(said, tokenizer.EOS)
  conversation = asking.start(
    record, max_new_tokens=MAX_NEW_TOKENS, room=ROOM
  )  # fmt: skip
  answers = [conversation.ask(QUESTION), conversation.ask('Why?')]

  assert answers[0] == _ask(asking, [record])[0]
  more = np.concatenate([history, text.encode_turn('Why?', layout)])
  start = len(prompt['tokens'])
  whole = {name: x.copy() for name, x in first.items()}
  assert start + len(more) <= length
  whole['tokens'][0, start : start + len(more)] = more
  whole['segment_ids'][0, start : start + len(more)] = 1
  want = run(asking, whole)
  want = layout.tokenizer.decode(np.asarray(want.tokens[0]))
  assert answers[1] == want.strip()
  assert answers[1] != _ask(asking, [dataclasses.replace(
    record, turns=(records.Turn('Why?', ''),)
  )])[0], 'the first turn is forgotten'  # fmt: skip


def test_a_turn_that_does_not_fit_changes_nothing(asking):
  start = functools.partial(
    asking.start, _record(), max_new_tokens=MAX_NEW_TOKENS, room=ROOM
  )
  want = [start().ask(QUESTION)]
  conversation = start()
  too_long = QUESTION * 30
  with pytest.raises(engine.ConversationTooLongError, match='found 0 so far'):
    conversation.ask(too_long)
  found = [conversation.ask(QUESTION)]
  assert found == want
  with pytest.raises(engine.ConversationTooLongError, match='at most 128 to'):
    conversation.ask(too_long)
  reference = start()
  want = [reference.ask(QUESTION), reference.ask('Why?')]
  assert [*found, conversation.ask('Why?')] == want
  with pytest.raises(engine.ConversationTooLongError, match='start a new one'):
    [conversation.ask('Why?') for _ in range(5)]


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
  engine.save(str(tmp_path), bundle, params)
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
  engine.save(str(tmp_path), bundle, {**tiny_model.params, **codebook})
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
  for ask in (asking.start, lambda record: asking.answer([record])):
    with pytest.raises(ValueError, match=r'on \(motion\), found video; leave'):
      ask(_record())


def test_a_folder_without_a_finished_model_is_named(tiny_model, tmp_path):
  with pytest.raises(FileNotFoundError, match='found no such folder; run'):
    engine.Engine.load(str(tmp_path / 'none'))
  with pytest.raises(FileNotFoundError, match='found no config.json in it'):
    engine.Engine.load(str(tmp_path))
  folder = tmp_path / 'model'
  shutil.copytree(f'{tiny_model.workdir}/model', folder)
  fields = json.loads((folder / 'config.json').read_text())
  del fields['model']['llm']['width']
  for content in ('{"model": ', '{}', json.dumps(fields)):
    (folder / 'config.json').write_text(content)
    with pytest.raises(ValueError, match='what engine.save writes.*again'):
      engine.Engine.load(str(folder))


def test_a_killed_save_leaves_no_finished_model(tiny_model, tmp_path):
  folder = str(tmp_path / 'model')
  shutil.copytree(f'{tiny_model.workdir}/model', folder)

  class Killed:
    def save(self, path):
      raise KeyboardInterrupt

  bundle = tiny_model.bundle._replace(statistics=Killed())
  with pytest.raises(KeyboardInterrupt):
    engine.save(folder, bundle, tiny_model.params)
  with pytest.raises(FileNotFoundError, match='finished model'):
    engine.Engine.load(folder)
