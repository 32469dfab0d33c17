"""Turns about the same clips: one prompt that grows, as far as it has room."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from vimonet_jax import sharding
from vimonet_jax.data import batches, records, text, tokenizer
from vimonet_jax.infer import conversation, engine
from vimonet_jax.synthetic import world

QUESTION = 'What is the person doing?'
# One setting for all tests: every other one is compiled anew.
MAX_NEW_TOKENS = 8
ROOM = 64


@pytest.fixture(scope='module')
def asking(tiny_model):
  return engine.Engine.load(f'{tiny_model.workdir}/model')


@functools.cache
def _record():
  """An open question; pictures of 8 x 8 pixels, as the tiny model reads."""
  record = world.World().make_record('test', 0)
  return dataclasses.replace(
    record,
    frames=record.frames[:, ::6, ::6],
    turns=(records.Turn(QUESTION, ''),),
  )


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
  talk = conversation.Conversation(
    asking, record, max_new_tokens=MAX_NEW_TOKENS, room=ROOM
  )
  answers = [talk.ask(QUESTION), talk.ask('Why?')]

  (alone,) = asking.answer([record], max_new_tokens=MAX_NEW_TOKENS)
  assert answers[0] == alone
  more = np.concatenate([history, text.encode_turn('Why?', layout)])
  start = len(prompt['tokens'])
  whole = {name: x.copy() for name, x in first.items()}
  assert start + len(more) <= length
  whole['tokens'][0, start : start + len(more)] = more
  whole['segment_ids'][0, start : start + len(more)] = 1
  want = run(asking, whole)
  want = layout.tokenizer.decode(np.asarray(want.tokens[0]))
  assert answers[1] == want.strip()
  record = dataclasses.replace(record, turns=(records.Turn('Why?', ''),))
  (alone,) = asking.answer([record], max_new_tokens=MAX_NEW_TOKENS)
  assert answers[1] != alone, 'the first turn is forgotten'


def test_a_turn_that_does_not_fit_changes_nothing(asking):
  start = functools.partial(
    conversation.Conversation,
    asking,
    _record(),
    max_new_tokens=MAX_NEW_TOKENS,
    room=ROOM,
  )
  want = [start().ask(QUESTION)]
  talk = start()
  too_long = QUESTION * 30
  with pytest.raises(conversation.TooLongError, match='found 0 so far'):
    talk.ask(too_long)
  found = [talk.ask(QUESTION)]
  assert found == want
  with pytest.raises(conversation.TooLongError, match='at most 128 to'):
    talk.ask(too_long)
  reference = start()
  want = [reference.ask(QUESTION), reference.ask('Why?')]
  assert [*found, talk.ask('Why?')] == want
  with pytest.raises(conversation.TooLongError, match='start a new one'):
    [talk.ask('Why?') for _ in range(5)]


def test_a_mesh_remembers_what_was_said(tiny_model, asking):
  mesh = sharding.make_mesh(1, 2, 2, devices=jax.devices()[:4])
  meshed = engine.Engine.load(f'{tiny_model.workdir}/model', mesh=mesh)
  found, want = (
    [talk.ask(QUESTION), talk.ask('Why?')]
    for talk in (
      conversation.Conversation(
        who, _record(), max_new_tokens=MAX_NEW_TOKENS, room=ROOM
      )
      for who in (meshed, asking)
    )
  )
  assert found == want
