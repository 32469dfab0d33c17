import dataclasses
import functools
import itertools
import logging
import pathlib
import pickle
import re

import numpy as np
import pytest

from vimonet_jax.data import records, text
from vimonet_jax.synthetic import world

DATA = pathlib.Path(__file__).parents[3] / 'shared' / 'data' / 'tokenizer'
SHORT = text.TEMPLATES['short']
FIRST = records.Turn('Who is it?', 'It is he.')
SECOND = records.Turn('Why?', 'So.')
MOTION = np.zeros((44, 263), np.float32)
FRAMES = np.zeros((8, 4, 4, 3), np.uint8)


@functools.cache
def _corpus() -> tuple[str, ...]:
  made = (world.World().text_record('train', i) for i in range(300))
  return tuple(s.text for r in made for s in text.segments(r, SHORT))


@functools.cache
def _tokenizer() -> text.Tokenizer:
  return text.Tokenizer(text.train_tokenizer(_corpus(), 768))


def _layout(template='short', video_tokens=6):
  return text.Layout(_tokenizer(), text.TEMPLATES[template], video_tokens)


def _record(turns=(FIRST,), **media):
  return records.Record('r', 'test', 'train', turns=tuple(turns), **media)


@pytest.fixture(scope='module')
def vicuna():
  if not DATA.exists():
    pytest.skip(f'needs the real tokenizer and its cases in {DATA}')
  tokenizer = text.Tokenizer.load(str(DATA / 'tokenizer.model'))
  return tokenizer, list(records.read_json_lines(str(DATA / 'cases.jsonl')))


# --- Tokenizer ---------------------------------------------------------------


def test_the_real_tokenizer_gives_the_reference_ids(vicuna):
  tokenizer, cases = vicuna
  assert len(cases) == 100
  for case in cases:
    assert tokenizer.encode(case['text']) == case['sp_ids'], case


def test_the_real_tokenizer_gives_the_reference_texts(vicuna):
  tokenizer, cases = vicuna
  assert tokenizer.vocab_size == 32000
  for case in cases:
    assert tokenizer.decode(case['sp_ids']) == case['sp_decoded'], case


def test_special_ids_and_padding_say_nothing():
  ids = _tokenizer().encode('the left arm')
  padded = [text.BOS, *ids, text.EOS, text.PAD, text.PAD]
  assert _tokenizer().decode(np.array(padded)) == 'the left arm'


def test_every_word_of_the_synthetic_world_is_one_piece():
  words = set(re.findall(r'[A-Za-z]+', ' '.join(_corpus())))
  # Joined by underscores in the template, so they have no space in front.
  words -= {'INPUT', 'MOTION', 'TOKENS', 'VIDEO'}
  assert len(words) > 150
  broken = [w for w in words if len(_tokenizer().encode(w)) > 1]
  assert not broken


def test_training_is_deterministic():
  assert text.train_tokenizer(iter(_corpus()), 768) == _tokenizer().proto


@pytest.mark.parametrize(
  'strange', ['', ' ', 'naïve 漢字 🎉', 'a\x00b\tc\n\nd ', '  two  ', '</s> ok']
)
def test_what_was_never_seen_is_written_in_bytes(strange):
  ids = _tokenizer().encode(strange)
  assert not {text.PAD, text.BOS, text.EOS} & set(ids)
  assert _tokenizer().decode(ids) == strange


def test_half_a_surrogate_pair_is_no_accident():
  assert _tokenizer().decode(_tokenizer().encode('left \ud83d arm')) == (
    'left ? arm'
  )


def test_encoding_gives_a_list_of_ones_own():
  _tokenizer().encode('the left arm').append(7)
  assert 7 not in _tokenizer().encode('the left arm')


def test_a_small_corpus_makes_a_small_vocabulary(caplog):
  with caplog.at_level(logging.WARNING):
    tokenizer = text.Tokenizer(text.train_tokenizer(['left arm'] * 5, 600))
  assert 259 < tokenizer.vocab_size < 300
  assert f'for {tokenizer.vocab_size} ids only, not for 600' in caplog.text
  assert len(tokenizer.encode('left arm')) == 2


def test_a_vocabulary_without_room_for_letters_is_refused():
  with pytest.raises(ValueError, match='vocabulary of 260'):
    text.train_tokenizer(_corpus(), 260)


def test_a_tokenizer_comes_back_from_its_file(tmp_path):
  path = str(tmp_path / 'tokenizer.model')
  _tokenizer().save(path)
  for found in (
    text.Tokenizer.load(path),
    pickle.loads(pickle.dumps(_tokenizer())),
  ):
    assert found.proto == _tokenizer().proto
    assert found.vocab_size == 768
    assert found.encode('walking') == _tokenizer().encode('walking')


def test_something_else_is_no_tokenizer():
  with pytest.raises(ValueError, match='SentencePiece model, found 9 bytes'):
    text.Tokenizer(b'not a one')


# --- Template ----------------------------------------------------------------

SYS = (
  'A chat between a curious user and an artificial intelligence assistant. The '
  "assistant gives helpful, detailed, and polite answers to the user's "
  'questions. '
)
SYS_IN = (
  'A chat between a curious user and an artificial intelligence assistant, '
  'paired with an input that provides further context. The assistant gives '
  "helpful, detailed, and polite answers to the user's questions. "
)
MEDIA = {'motion': {'motion': MOTION}, 'video': {'frames': FRAMES}}
SEGMENTS = {
  '': [f'{SYS}USER: Who is it? ASSISTANT: '],
  'motion': [
    f'{SYS_IN}USER: Who is it? \n',
    'INPUT_MOTION_TOKENS: ',
    '<motion>',
    '. ASSISTANT: ',
  ],
  'video': [
    f'{SYS_IN}USER: Who is it? \n',
    'INPUT_VIDEO: ',
    '<video>',
    '. ASSISTANT: ',
  ],
  'video motion': [
    f'{SYS_IN}USER: Who is it? \n',
    'INPUT_VIDEO: ',
    '<video>',
    '. INPUT_MOTION_TOKENS: ',
    '<motion>',
    '. ASSISTANT: ',
  ],
}


def _written(record, template):
  return [
    s.text if s.role in ('prompt', 'answer') else f'<{s.role}>'
    for s in text.segments(record, template)
  ]


@pytest.mark.parametrize('media', SEGMENTS)
def test_the_vicuna_template_is_motionllms(media):
  clips = [MEDIA[name] for name in media.split()]
  record = _record(**dict(itertools.chain(*(c.items() for c in clips))))
  written = _written(record, text.TEMPLATES['vicuna'])
  assert written == [*SEGMENTS[media], 'It is he.']


@pytest.mark.parametrize('media', SEGMENTS)
def test_the_short_template_leaves_out_the_system_only(media):
  clips = [MEDIA[name] for name in media.split()]
  record = _record(**dict(itertools.chain(*(c.items() for c in clips))))
  shortened = [
    part.replace(SYS, '').replace(SYS_IN, '') for part in SEGMENTS[media]
  ]
  assert _written(record, SHORT) == [*shortened, 'It is he.']


def test_braces_in_a_question_stay():
  record = _record([records.Turn('Is {question} {0} %s?', '{answer}')])
  assert _written(record, SHORT) == [
    'USER: Is {question} {0} %s? ASSISTANT: ',
    '{answer}',
  ]


# --- Layout ------------------------------------------------------------------


def test_the_row_is_the_segments_one_after_another():
  encode = _tokenizer().encode
  row = text.encode_dialog(
    _record([FIRST, SECOND], motion=MOTION, frames=FRAMES), _layout()
  )
  parts = [
    ([text.BOS, *encode('USER: Who is it? \n')], -1, 0),
    (encode('INPUT_VIDEO: '), -1, 0),
    ([text.PAD] * 6, range(49, 55), 0),
    (encode('. INPUT_MOTION_TOKENS: '), -1, 0),
    ([text.PAD] * 11, range(11), 0),
    (encode('. ASSISTANT: '), -1, 0),
    ([*encode('It is he.'), text.EOS], -1, 1),
    (encode('USER: Why? ASSISTANT: '), -1, 0),
    ([*encode('So.'), text.EOS], -1, 1),
  ]
  for key, column, dtype in (
    ('tokens', 0, np.int32),
    ('media_index', 1, np.int32),
    ('loss_mask', 2, bool),
  ):
    expected = [
      np.broadcast_to(np.array(part[column]), len(part[0])) for part in parts
    ]
    np.testing.assert_array_equal(row[key], np.concatenate(expected), key)
    assert row[key].dtype == dtype
  np.testing.assert_array_equal(row['positions'], np.arange(len(row['tokens'])))
  assert row['positions'].dtype == np.int32


def test_a_single_turn_supervises_its_answer_and_eos_only():
  #  ▁USER : ▁Why ? ▁ASSISTANT : ▁   ▁So . eos
  row = text.encode_dialog(_record([SECOND]), _layout())
  answer = [*_tokenizer().encode('So.'), text.EOS]
  assert row['tokens'][row['loss_mask']].tolist() == answer
  assert row['loss_mask'].tolist() == [False] * (
    len(row['tokens']) - len(answer)
  ) + [True] * len(answer)


def test_an_empty_answer_is_an_eos():
  row = text.encode_dialog(_record([records.Turn('Why?', '')]), _layout())
  assert row['tokens'][row['loss_mask']].tolist() == [text.EOS]


@pytest.mark.parametrize('template', text.TEMPLATES)
@pytest.mark.parametrize('turns', [[FIRST], [FIRST, SECOND, FIRST]])
@pytest.mark.parametrize(
  'media',
  [
    {},
    {'motion': MOTION},
    {'frames': FRAMES},
    {'motion': MOTION, 'frames': FRAMES},
    {'motion_text': 'walking left', 'frames': FRAMES},
  ],
)
def test_a_prompt_is_the_beginning_of_the_dialog(media, turns, template):
  layout = _layout(template)
  dialog = text.encode_dialog(_record(turns, **media), layout)
  open_turn = dataclasses.replace(turns[-1], answer='')
  for last in (turns[-1], open_turn):
    prompt = text.encode_prompt(_record([*turns[:-1], last], **media), layout)
    length = len(prompt['tokens'])
    answer = _tokenizer().encode(turns[-1].answer)
    assert length == len(dialog['tokens']) - len(answer) - 1
    for key, x in prompt.items():
      np.testing.assert_array_equal(x, dialog[key][:length], key)


def test_one_more_turn_continues_the_dialog():
  before = text.encode_dialog(_record([FIRST], motion=MOTION), _layout())
  after = text.encode_prompt(_record([FIRST, SECOND], motion=MOTION), _layout())
  turn = text.encode_turn(SECOND.question, _layout())
  assert turn.dtype == np.int32
  np.testing.assert_array_equal(
    after['tokens'], np.concatenate([before['tokens'], turn])
  )


def test_words_stand_where_a_clip_would():
  spoken = text.encode_dialog(
    _record(motion_text='walking left', video_text='red ball'), _layout()
  )
  shown = text.encode_dialog(_record(motion=MOTION, frames=FRAMES), _layout())
  assert (spoken['media_index'] == text.TEXT).all()
  is_video = shown['media_index'] >= 49
  is_motion = (shown['media_index'] >= 0) & ~is_video
  expected = []
  for clip, words in ((is_video, 'red ball'), (is_motion, 'walking left')):
    start = int(np.flatnonzero(clip)[0])
    expected.append((start, _tokenizer().encode(words), int(clip.sum())))
  tokens = shown['tokens'].tolist()
  for start, ids, length in reversed(expected):
    tokens[start : start + length] = ids
  assert spoken['tokens'].tolist() == tokens


@pytest.mark.parametrize(('frames', 'places'), [(40, 10), (44, 11), (196, 49)])
def test_a_motion_takes_a_place_for_four_frames(frames, places):
  record = _record(motion=np.zeros((frames, 263), np.float32), frames=FRAMES)
  index = text.encode_dialog(record, _layout())['media_index']
  assert index[index >= 0].tolist() == [*range(49, 55), *range(places)]


def test_a_video_alone_begins_its_own_bank():
  index = text.encode_dialog(_record(frames=FRAMES), _layout())['media_index']
  assert index[index >= 0].tolist() == list(range(6))


@pytest.mark.parametrize(
  ('record', 'message'),
  [
    (lambda: _record([]), 'at least one turn'),
    (lambda: _record(motion=MOTION, motion_text='walking'), 'found both'),
    (lambda: _record(frames=FRAMES), 'video_tokens'),
  ],
)
def test_what_cannot_be_laid_out_says_why(record, message):
  with pytest.raises(ValueError, match=f'Record r: .*{message}'):
    text.encode_dialog(record(), _layout(video_tokens=0))
