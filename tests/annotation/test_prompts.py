import json

import pytest

from vimonet_jax.annotation import prompts, replies
from vimonet_jax.data import captions, records
from vimonet_jax.eval import judge

Caption = captions.Caption


def _text(request) -> str:
  content = request.messages[0]['content']
  return content if isinstance(content, str) else content[0]['text']


def _caption_request(**changes):
  fields = {'step_s': 0.5, 'label': '', 'known': (), **changes}
  return prompts.caption_request('a', (b'one', b'two'), **fields)


def test_frames_follow_the_words_in_their_order():
  (message,) = _caption_request().messages
  kinds = [part['type'] for part in message['content']]
  assert kinds == ['text', 'image_url', 'image_url']
  urls = [part['image_url']['url'] for part in message['content'][1:]]
  assert urls == ['data:image/jpeg;base64,b25l', 'data:image/jpeg;base64,dHdv']


def test_what_is_known_is_told_and_nothing_else():
  plain = _text(_caption_request())
  assert 'at most 40 words' in plain
  assert 'noted' not in plain
  told = _text(
    _caption_request(label='kick', known=[Caption('a man kicks.')])
  )  # fmt: skip
  assert told.endswith('kick\na man kicks.')
  assert 'seconds' not in _text(_caption_request(step_s=0.0))


def test_captions_are_told_in_lines_that_nothing_breaks():
  request = prompts.question_request(
    'a', [Caption('walks #1\nand\tturns.'), Caption('turns.', 1.0, 2.5)]
  )
  assert _text(request).endswith(
    '\n\nwalks 1 and turns.#0.0#0.0\nturns.#1.0#2.5'
  )


def test_the_example_is_as_we_want_answers():
  text = _text(prompts.question_request('a', [Caption('x')]))
  found, _ = json.JSONDecoder().raw_decode(text[text.index('{\n') :])
  jsonschema = pytest.importorskip(
    'jsonschema', reason="needs pip install -e '.[api]'"
  )
  jsonschema.validate(found, prompts.QUESTION_SCHEMA)
  kept = replies.check_turns(found['turns'], None)
  assert not kept.refused
  assert any(turn['follows'] for turn in kept.turns)
  assert len({turn['kind'] for turn in kept.turns}) >= 4
  assert {turn['domain'] for turn in kept.turns} >= {
    'sequentiality', 'direction', 'body_part', 'hallucination'
  }  # fmt: skip


@pytest.mark.parametrize(
  'schema', [prompts.CAPTION_SCHEMA, prompts.QUESTION_SCHEMA]
)
def test_schemas_are_as_strict_services_want_them(schema):
  """Every property is required, no other is allowed, and nothing is fancy."""
  open_ = [schema]
  while open_:
    found = open_.pop()
    assert set(found) <= {
      'type', 'properties', 'required', 'additionalProperties', 'items', 'enum'
    }  # fmt: skip
    if found['type'] == 'object':
      assert found['additionalProperties'] is False
      assert found['required'] == list(found['properties'])
      open_ += found['properties'].values()
    if found['type'] == 'array':
      open_.append(found['items'])


def test_domains_and_kinds_are_those_that_others_read():
  assert set(prompts.DOMAINS) <= set(records.DOMAINS)
  for kind in prompts.KINDS:
    assert f'`{kind}`' in judge.judge.__doc__


def test_the_digest_changes_with_what_is_asked(monkeypatch):
  before = {step: prompts.digest(step) for step in ('captions', 'questions')}
  assert before['captions'] != before['questions']
  monkeypatch.setitem(prompts.KINDS, 'order', 'a list')
  assert prompts.digest('questions') != before['questions']
  assert prompts.digest('captions') == before['captions']
