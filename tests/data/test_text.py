import dataclasses
import itertools

import numpy as np
import pytest
import samples

from vimonet_jax.data import records, text, tokenizer
from vimonet_jax.synthetic import world

SHORT = text.TEMPLATES['short']
FIRST = records.Turn('Who is it?', 'It is he.')
SECOND = records.Turn('Why?', 'So.')
MOTION = np.zeros((44, 263), np.float32)
FRAMES = np.zeros((8, 4, 4, 3), np.uint8)


def _layout(template='short', video_tokens=6):
  return text.Layout(samples.pieces(), text.TEMPLATES[template], video_tokens)


def _record(turns=(FIRST,), **media):
  return records.Record('r', 'test', 'train', turns=tuple(turns), **media)


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


def _with(media):
  clips = (MEDIA[name] for name in media.split())
  return _record(**dict(itertools.chain(*(clip.items() for clip in clips))))


@pytest.mark.parametrize('media', SEGMENTS)
def test_the_vicuna_template_is_motionllms(media):
  written = _written(_with(media), text.TEMPLATES['vicuna'])
  assert written == [*SEGMENTS[media], 'It is he.']


MEDIA_FIRST = {
  '': ['USER: Who is it? ASSISTANT: '],
  'motion': [
    'INPUT_MOTION_TOKENS: ',
    '<motion>',
    '. USER: Who is it? ASSISTANT: ',
  ],
  'video': ['INPUT_VIDEO: ', '<video>', '. USER: Who is it? ASSISTANT: '],
  'video motion': [
    'INPUT_VIDEO: ',
    '<video>',
    '. INPUT_MOTION_TOKENS: ',
    '<motion>',
    '. USER: Who is it? ASSISTANT: ',
  ],
}


@pytest.mark.parametrize('media', MEDIA_FIRST)
def test_the_short_template_has_clips_first_and_no_system(media):
  written = _written(_with(media), SHORT)
  assert written == [*MEDIA_FIRST[media], 'It is he.']


@pytest.mark.parametrize('media', MEDIA_FIRST)
def test_a_system_stands_before_the_first_clip(media):
  template = dataclasses.replace(text.TEMPLATES['vicuna'], media_first=True)
  system = SYS_IN if media else SYS
  opening, *rest = MEDIA_FIRST[media]
  written = _written(_with(media), template)
  assert written == [system + opening, *rest, 'It is he.']


def test_braces_in_a_question_stay():
  record = _record([records.Turn('Is {question} {0} %s?', '{answer}')])
  assert _written(record, SHORT) == [
    'USER: Is {question} {0} %s? ASSISTANT: ',
    '{answer}',
  ]


# --- Layout ------------------------------------------------------------------


@pytest.mark.parametrize(
  ('template', 'opening', 'ending'),
  [
    ('vicuna', [f'{SYS_IN}USER: Who is it? \n', 'INPUT_VIDEO: '],
     '. ASSISTANT: '),
    ('short', ['INPUT_VIDEO: '], '. USER: Who is it? ASSISTANT: '),
  ],
)  # fmt: skip
def test_the_row_is_the_segments_one_after_another(template, opening, ending):
  encode = samples.pieces().encode
  record = _record([FIRST, SECOND], motion=MOTION, frames=FRAMES)
  row = text.encode_dialog(record, _layout(template))
  parts = [
    ([tokenizer.BOS], -1, 0),
    *((encode(words), -1, 0) for words in opening),
    ([tokenizer.PAD] * 6, range(49, 55), 0),
    (encode('. INPUT_MOTION_TOKENS: '), -1, 0),
    ([tokenizer.PAD] * 11, range(11), 0),
    (encode(ending), -1, 0),
    ([*encode('It is he.'), tokenizer.EOS], -1, 1),
    (encode('USER: Why? ASSISTANT: '), -1, 0),
    ([*encode('So.'), tokenizer.EOS], -1, 1),
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
  answer = [*samples.pieces().encode('So.'), tokenizer.EOS]
  assert row['tokens'][row['loss_mask']].tolist() == answer
  assert row['loss_mask'].tolist() == [False] * (
    len(row['tokens']) - len(answer)
  ) + [True] * len(answer)


def test_an_empty_answer_is_an_eos():
  row = text.encode_dialog(_record([records.Turn('Why?', '')]), _layout())
  assert row['tokens'][row['loss_mask']].tolist() == [tokenizer.EOS]


@pytest.mark.parametrize('template', text.TEMPLATES)
@pytest.mark.parametrize('turns', [[FIRST], [FIRST, SECOND, FIRST]])
@pytest.mark.parametrize(
  'media',
  [
    {},
    {'motion': MOTION},
    {'frames': FRAMES},
    {'motion': MOTION, 'frames': FRAMES},
    {'motion_text': 'walking+left left', 'frames': FRAMES},
  ],
)
def test_a_prompt_is_the_beginning_of_the_dialog(media, turns, template):
  layout = _layout(template)
  dialog = text.encode_dialog(_record(turns, **media), layout)
  encode = samples.pieces().encode
  tokens = len(encode(turns[-1].answer))
  for begun in ('', 'It is', 'It is he', 'It is he.'):
    last = dataclasses.replace(turns[-1], answer=begun)
    prompt = text.encode_prompt(_record([*turns[:-1], last], **media), layout)
    length = len(prompt['tokens'])
    assert length == len(dialog['tokens']) - 1 - tokens + len(encode(begun))
    assert set(prompt) == set(dialog)
    for key, x in prompt.items():
      want = dialog[key][:length].copy()
      if key == 'loss_mask':  # Of the last answer nothing is to be predicted.
        want[len(dialog['tokens']) - 1 - tokens :] = False
      np.testing.assert_array_equal(x, want, key)


def test_a_blank_is_left_to_the_word_behind_it():
  layout, encode = _layout(), samples.pieces().encode
  whole, blank, both = (
    text.encode_prompt(_record([records.Turn('Why?', begun)]), layout)
    for begun in ('It is', 'It is ', 'It is  ')
  )
  assert encode('It is ')[:-1] == encode('It is')
  for prompt in (blank, both):
    np.testing.assert_array_equal(prompt['tokens'], whole['tokens'])
  only, none = (
    text.encode_prompt(_record([records.Turn('Why?', begun)]), layout)
    for begun in (' ', '')
  )
  np.testing.assert_array_equal(only['tokens'], none['tokens'])


def _answers(begun, candidates, layout=None):
  record = _record([FIRST, records.Turn('Why?', begun)], motion=MOTION)
  return text.encode_answers(record, candidates, layout or _layout())


def _assert_goes_on(begun, candidates, layout):
  """The prompt and what follows are the row that training would have."""
  found = _answers(begun, candidates, layout)
  assert len(found.ids) == len(candidates)
  asked = _record([FIRST, records.Turn('Why?', begun)], motion=MOTION)
  prompt = text.encode_prompt(asked, layout)['tokens']
  for candidate, ids in zip(candidates, found.ids, strict=True):
    assert ids.dtype == np.int32
    turn = records.Turn('Why?', begun + candidate)
    dialog = text.encode_dialog(
      dataclasses.replace(asked, turns=(FIRST, turn)), layout
    )
    np.testing.assert_array_equal(
      np.concatenate([prompt[: len(prompt) - found.cut], ids]), dialog['tokens']
    )
  return found


def test_candidates_end_a_begun_answer_as_in_training():
  layout, encode = _layout(), samples.pieces().encode
  found = _assert_goes_on('', ['It is', 'It is he.', 'So'], layout)
  # One begins with the other: both are scored from their first token.
  assert found.cut == 0
  assert found.ids[0].tolist() == [*encode('It is'), tokenizer.EOS]
  found = _assert_goes_on('It is ', ['he.', 'so'], layout)
  assert found.cut == 0
  assert found.ids[0].tolist() == [*encode('he.'), tokenizer.EOS]
  # 'walking' is one token, 'walk' and 'w' are others.
  found = _assert_goes_on('It is walk', ['ing', 'z'], layout)
  assert found.cut == len(encode('walk'))
  assert found.ids[0].tolist() == [*encode('walking'), tokenizer.EOS]
  assert _assert_goes_on('It is walk', ['z'], layout).cut == 0


def test_a_letter_after_a_bracket_has_no_blank(shared_data):
  pieces = tokenizer.Tokenizer.load(
    str(shared_data / 'tokenizer' / 'tokenizer.model')
  )
  layout = text.Layout(pieces, text.TEMPLATES['vicuna'])
  found = _assert_goes_on('Best option:(', list('ABCDE'), layout)
  assert found.cut == 0
  letters = [pieces.encode(f'({letter}')[-1] for letter in 'ABCDE']
  assert [ids.tolist() for ids in found.ids] == [
    [letter, tokenizer.EOS] for letter in letters
  ]
  # Alone it would have one, and be another token.
  assert not {pieces.encode(letter)[-1] for letter in 'ABCDE'} & set(letters)


@pytest.mark.parametrize('candidates', [[], 'walk', [''], ['So', ' ']])
@pytest.mark.parametrize('begun', ['', 'It is', 'It is '])
def test_candidates_without_a_token_are_refused(begun, candidates):
  with pytest.raises(ValueError, match='Record r: expected .*candidate answer'):
    _answers(begun, candidates)


@pytest.mark.parametrize('template', text.TEMPLATES)
def test_one_more_turn_continues_the_dialog(template):
  layout = _layout(template)
  before = text.encode_dialog(_record([FIRST], motion=MOTION), layout)
  asked = dataclasses.replace(SECOND, answer='')
  after = text.encode_prompt(_record([FIRST, asked], motion=MOTION), layout)
  turn = text.encode_turn(SECOND.question, layout)
  assert turn.dtype == np.int32
  np.testing.assert_array_equal(
    after['tokens'], np.concatenate([before['tokens'], turn])
  )


@pytest.mark.parametrize('media', MEDIA_FIRST)
def test_with_media_first_all_turns_are_asked_alike(media):
  """So that later turns of a row train the one that is asked alone."""
  asked = text.encode_turn(FIRST.question, _layout())
  last = dataclasses.replace(FIRST, answer='')
  for turns in ((last,), (SECOND, last)):
    record = dataclasses.replace(_with(media), turns=turns)
    prompt = text.encode_prompt(record, _layout())['tokens']
    np.testing.assert_array_equal(prompt[-len(asked) :], asked)


# --- Words in place of a clip ------------------------------------------------


@pytest.mark.parametrize('template', text.TEMPLATES)
def test_words_stand_where_a_clip_would(template):
  layout, encode = _layout(template), samples.pieces().encode
  spoken = text.encode_dialog(
    _record(motion_text='walking left', video_text='red ball'), layout
  )
  shown = text.encode_dialog(_record(motion=MOTION, frames=FRAMES), layout)
  assert (spoken['media_index'] == text.TEXT).all()
  is_video = shown['media_index'] >= 49
  is_motion = (shown['media_index'] >= 0) & ~is_video
  tokens = shown['tokens'].tolist()
  more = [[text.NO_PLACE] * text.MORE_WORDS for _ in tokens]
  # The last one first, so that the places of the other stay.
  for clip, words in ((is_motion, ('walking', 'left')),
                      (is_video, ('red', 'ball'))):  # fmt: skip
    start = int(np.flatnonzero(clip)[0])
    tokens[start : start + clip.sum()] = [i for w in words for i in encode(w)]
    more[start : start + clip.sum()] = [[tokenizer.PAD] * text.MORE_WORDS] * 2
  assert spoken['tokens'].tolist() == tokens
  assert spoken['more_tokens'].tolist() == more
  assert 'more_tokens' not in shown


@pytest.mark.parametrize('template', text.TEMPLATES)
def test_words_joined_by_a_plus_share_a_place(template):
  layout = _layout(template)
  (walk, slow, left, wave) = (
    samples.pieces().encode(word)[0]
    for word in ('walking', 'slowly', 'left', 'waving')
  )
  found, single = (
    text.encode_dialog(_record(motion_text=words, frames=FRAMES), layout)
    for words in ('walking+slowly+left waving', 'walking waving')
  )
  for key in ('tokens', 'loss_mask', 'positions', 'media_index'):
    np.testing.assert_array_equal(found[key], single[key])
  more_lW = found['more_tokens']
  assert more_lW.shape == (len(found['tokens']), text.MORE_WORDS)
  assert more_lW.dtype == np.int32
  places = (more_lW >= 0).all(axis=1)
  assert found['tokens'][places].tolist() == [walk, wave]
  none = tokenizer.PAD
  assert more_lW[places].tolist() == [[slow, left, none], [none] * 3]
  assert (more_lW[~places] == text.NO_PLACE).all()


@pytest.mark.parametrize(
  ('place', 'found'),
  [('walking+slowly+left+arm+twice', 5), ('walking+漢字', 8)],
)
def test_a_place_with_too_many_tokens_is_refused(place, found):
  message = f'at most 4 tokens in one place .* found {found} in {place!r}'
  with pytest.raises(ValueError, match=message.replace('+', r'\+')):
    text.encode_dialog(_record(motion_text=f'waving {place}'), _layout())
  full = text.encode_dialog(_record(motion_text='a+b+c+d'), _layout())
  assert (full['more_tokens'] > 0).any(axis=0).all()


def test_a_word_that_the_tokenizer_breaks_takes_several_places():
  row = text.encode_dialog(_record(motion_text='he cartwheels'), _layout())
  pieces = samples.pieces().encode('cartwheels')
  assert len(pieces) > 4
  places = (row['more_tokens'] == tokenizer.PAD).all(axis=1)
  expected = [*samples.pieces().encode('he'), *pieces]
  assert row['tokens'][places].tolist() == expected


class _Listening(tokenizer.Tokenizer):
  """Keeps what it is asked to encode."""

  def __init__(self, proto):
    super().__init__(proto)
    self.heard = []

  def encode(self, words):
    self.heard.append(words)
    return super().encode(words)


@pytest.mark.parametrize('template', text.TEMPLATES)
def test_texts_are_what_is_encoded_and_no_place_comes_whole(template):
  listening = _Listening(samples.pieces().proto)
  layout = text.Layout(listening, text.TEMPLATES[template], 6)
  for record in (
    world.World().text_record('train', 0),
    _record([FIRST, SECOND], motion=MOTION, frames=FRAMES),
    _record(video_text='red+ball two'),
  ):
    listening.heard.clear()
    text.encode_dialog(record, layout)
    found = list(text.texts(record, layout.template))
    assert found == listening.heard
    assert not [line for line in found if '+' in line]


def test_an_answer_that_is_open_is_no_text():
  open_turn = _record([records.Turn('Why?', '')])
  assert list(text.texts(open_turn, SHORT)) == ['USER: Why? ASSISTANT: ']


# --- Clips -------------------------------------------------------------------


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
