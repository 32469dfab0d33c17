import logging
import pickle
import re

import numpy as np
import pytest
import samples

from vimonet_jax.data import records, text, tokenizer


@pytest.fixture(scope='module')
def vicuna(shared_data):
  folder = shared_data / 'tokenizer'
  pieces = tokenizer.Tokenizer.load(str(folder / 'tokenizer.model'))
  return pieces, list(records.read_json_lines(str(folder / 'cases.jsonl')))


def test_the_real_tokenizer_gives_the_reference_ids(vicuna):
  pieces, cases = vicuna
  assert len(cases) == 100
  for case in cases:
    assert pieces.encode(case['text']) == case['sp_ids'], case


SPECIAL = {'<unk>': 0, '<s>': tokenizer.BOS, '</s>': tokenizer.EOS}
_SPECIAL = re.compile('(' + '|'.join(SPECIAL) + ')')


def test_ids_are_those_of_hugging_face_but_for_special_strings(vicuna):
  """Of its two columns, the one that a conversation matches is `hf_legacy_ids`.

  Hugging Face takes `</s>` in a text for the end token. Here, as in MotionLLM,
  it is text like any other, so that nobody ends an answer by typing it, and
  text.py puts the token between what it encodes. So whole texts agree with both
  columns where they hold no special string, and with neither where they do. Cut
  at these strings, as a conversation is at its tokens, all agree with the
  legacy ids: whatever SentencePiece encodes begins with a space, as each string
  that MotionLLM encodes does. The other column has none right behind a token.
  """
  pieces, cases = vicuna
  differ, spaced = set(), set()
  for case in cases:
    whole = [tokenizer.BOS, *pieces.encode(case['text'])]
    cut = [tokenizer.BOS]
    for part in filter(None, _SPECIAL.split(case['text'])):
      cut += [SPECIAL[part]] if part in SPECIAL else pieces.encode(part)
    assert cut == case['hf_legacy_ids'], case
    for column in ('hf_legacy_ids', 'hf_nonlegacy_ids'):
      differs = whole != case[column]
      assert differs == bool(_SPECIAL.search(case['text'])), case
    if differs:
      differ.add(case['n'])
    if cut != case['hf_nonlegacy_ids']:
      spaced.add(case['n'])
  assert differ == {14, 21, 25, 62, 89}
  # A word right behind a special token: `</s>USER:` and `<s>Hello`.
  assert spaced == {14, 25}


def test_a_next_turn_begins_as_the_legacy_ids_do(vicuna):
  """Case 14 is a conversation with its end tokens written as text."""
  pieces, cases = vicuna
  (case,) = (case for case in cases if case['n'] == 14)
  assert '</s>USER: bye ASSISTANT: ' in case['text']
  layout = text.Layout(pieces, text.TEMPLATES['vicuna'])
  # Its last id is the space after the colon, there the answer's first.
  turn = text.encode_turn('bye', layout)[:-1].tolist()
  for column, agrees in (('hf_legacy_ids', True), ('hf_nonlegacy_ids', False)):
    start = case[column].index(tokenizer.EOS) + 1
    assert (case[column][start : start + len(turn)] == turn) == agrees


def test_the_real_tokenizer_gives_the_reference_texts(vicuna):
  pieces, cases = vicuna
  assert pieces.vocab_size == 32000
  for case in cases:
    assert pieces.decode(case['sp_ids']) == case['sp_decoded'], case


def test_special_ids_and_padding_say_nothing():
  ids = samples.pieces().encode('the left arm')
  padded = [tokenizer.BOS, *ids, tokenizer.EOS, tokenizer.PAD, tokenizer.PAD]
  assert samples.pieces().decode(np.array(padded)) == 'the left arm'


def test_every_word_of_the_synthetic_world_is_one_piece():
  words = set(re.findall(r'[A-Za-z]+', ' '.join(samples.corpus())))
  # Joined by underscores in the template, so they have no space in front.
  words -= {'INPUT', 'MOTION', 'TOKENS', 'VIDEO'}
  assert len(words) > 150
  broken = [w for w in words if len(samples.pieces().encode(w)) > 1]
  assert not broken


def test_training_is_deterministic():
  again = tokenizer.train_tokenizer(iter(samples.corpus()), 768)
  assert again == samples.pieces().proto


@pytest.mark.parametrize(
  'strange', ['', ' ', 'naïve 漢字 🎉', 'a\x00b\tc\n\nd ', '  two  ', '</s> ok']
)
def test_what_was_never_seen_is_written_in_bytes(strange):
  ids = samples.pieces().encode(strange)
  assert not {tokenizer.PAD, tokenizer.BOS, tokenizer.EOS} & set(ids)
  assert samples.pieces().decode(ids) == strange


def test_half_a_surrogate_pair_is_no_accident():
  ids = samples.pieces().encode('left \ud83d arm')
  assert samples.pieces().decode(ids) == 'left ? arm'


def test_encoding_gives_a_list_of_ones_own():
  samples.pieces().encode('the left arm').append(7)
  assert 7 not in samples.pieces().encode('the left arm')


def test_a_small_corpus_makes_a_small_vocabulary(caplog):
  with caplog.at_level(logging.WARNING):
    proto = tokenizer.train_tokenizer(['left arm'] * 5, 600)
  pieces = tokenizer.Tokenizer(proto)
  assert 259 < pieces.vocab_size < 300
  assert f'for {pieces.vocab_size} ids only, not for 600' in caplog.text
  assert len(pieces.encode('left arm')) == 2


def test_long_lines_are_not_left_out():
  """SentencePiece would leave out lines of more than 4192 bytes."""
  for line in ('left arm ' * 600, '左腕' * 2000):
    found = tokenizer.Tokenizer(tokenizer.train_tokenizer([line], 300))
    assert len(found.encode(line[:8])) < 8 * 0.7


def test_a_vocabulary_without_room_for_letters_is_refused():
  with pytest.raises(ValueError, match='vocabulary of 260'):
    tokenizer.train_tokenizer(samples.corpus(), 260)


def test_a_tokenizer_comes_back_from_its_file(tmp_path):
  path = str(tmp_path / 'tokenizer.model')
  samples.pieces().save(path)
  for found in (
    tokenizer.Tokenizer.load(path),
    pickle.loads(pickle.dumps(samples.pieces())),
  ):
    assert found.proto == samples.pieces().proto
    assert found.vocab_size == 768
    assert found.encode('walking') == samples.pieces().encode('walking')


def test_something_else_is_no_tokenizer():
  with pytest.raises(ValueError, match='SentencePiece model, found 9 bytes'):
    tokenizer.Tokenizer(b'not a one')
