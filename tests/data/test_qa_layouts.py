import pytest

from vimonet_jax.data import clips, qa_layouts


def _pairs(conversation):
  return [(turn.question, turn.answer) for turn in conversation.turns]


SAID = [
  {'from': 'human', 'value': '<video>\nWhat is this?'},
  {'from': 'gpt', 'value': 'A race.'},
  {'from': 'human', 'value': 'Who wins?'},
  {'from': 'gpt', 'value': 'Nobody yet.'},
]
IRG = {
  'id': 0,
  'motions': {
    '<Goal_Motion>': {'motion_name': '000002', 'f_tag': 0.0, 'to_tag': 5.0}
  },
  'text': {'<Goal_Caption>': ['a man jumps left.', 'a person hops.']},
  'task': 'm2t_motion_caption',
  'conversations': [
    {'from': 'system', 'value': '<General_System_Prompt>'},
    {'from': 'human', 'value': '<Motion2X_Template>'},
    {'from': 'gpt', 'value': '<Goal_Caption>'},
  ],
}


@pytest.mark.parametrize(
  ('entry', 'media', 'medium', 'pairs'),
  [
    (
      {'id': '000021', 'turns': [['Why?', 'So.'], ['And then?', 'Home.']]},
      '000021', '', [('Why?', 'So.'), ('And then?', 'Home.')],
    ),
    (
      {'id': 'a', 'source': 'clips/919.npy', 'modality': 'motion',
       'question': 'How?', 'answer': 'Fast.',
       'history': [{'question': 'Who?', 'answer': 'A man.'}]},
      'clips/919.npy', 'motion', [('Who?', 'A man.'), ('How?', 'Fast.')],
    ),
    (
      {'id': 'x', 'video': 'valley/1.mp4', 'conversations': SAID},
      'valley/1.mp4', '',
      [('What is this?', 'A race.'), ('Who wins?', 'Nobody yet.')],
    ),
    (
      {'video': ['1.mp4'], 'conversations': SAID}, '1.mp4', '',
      [('What is this?', 'A race.'), ('Who wins?', 'Nobody yet.')],
    ),
    (
      {'video': '1.mp4', 'QA': [{'i': '', 'q': 'Where? <video>', 'a': 'In.'}]},
      '1.mp4', '', [('Where?', 'In.')],
    ),
    (
      {'input': '000021', 'instruction': 'Why?', 'output': 'So.',
       'QA': [{'Q': 'Why?', 'A': 'So.'}, {'Q': 'Sure?', 'A': 'Yes.'}]},
      '000021', '', [('Why?', 'So.'), ('Sure?', 'Yes.')],
    ),
    (
      {'instruction': 'Describe it.', 'input': '000021', 'output': 'A walk.'},
      '000021', '', [('Describe it.', 'A walk.')],
    ),
    (
      {'motion': '000021', 'instruction': 'Which?', 'input': 'A) or B)',
       'output': 'B)'},
      '000021', '', [('Which?\nA) or B)', 'B)')],
    ),
    (
      {'q': 'What?', 'a': 'A violin.\nQA_GT_caption_based_noisy',
       'video_id': 'v_GqWH2IYPw6U'},
      'v_GqWH2IYPw6U', '', [('What?', 'A violin.')],
    ),
  ],
)  # fmt: skip
def test_every_layout_is_read(entry, media, medium, pairs):
  (found,) = qa_layouts.read(entry)
  assert (found.media, found.medium) == (media, medium)
  assert _pairs(found) == pairs


def test_ours_keep_what_a_turn_knows():
  turn = {
    'question': 'Left or right?',
    'answer': 'Left.',
    'domain': 'direction',
    'kind': 'side',
    'fact': 'left',
    'choices': ['left', 'right'],
  }
  entry = {'id': 'a', 'turns': [turn], 'split': 'val', 'start': 1, 'end': 2.5}
  (found,) = qa_layouts.read(entry | {'provenance': {'generator': 'me'}})
  (made,) = found.turns
  assert (made.domain, made.kind, made.fact) == ('direction', 'side', 'left')
  assert made.choices == ('left', 'right')
  assert (found.split, found.start_s, found.end_s) == ('val', 1, 2.5)
  assert found.provenance == {'generator': 'me'}


def test_of_two_names_of_a_clip_the_longer_says_more():
  entry = {'video': 'z.mp4', 'video_id': 'deep/z', 'q': 'Why?', 'a': 'So.'}
  (found,) = qa_layouts.read(entry)
  assert (found.media, found.clip) == ('deep/z', 'z')


def test_valley_says_in_which_folder_a_video_is():
  entry = {'video': 'raw.mp4', 'source': 'jukinmedia', 'conversations': SAID}
  (found,) = qa_layouts.read(entry)
  assert (found.media, found.collection) == ('raw.mp4', 'jukinmedia')
  cut = entry | {'source': 'VATEX', 'v_id': 'abc_000010_000020'}
  (found,) = qa_layouts.read(cut)
  assert (found.clip, found.collection) == ('abc_000010_000020', 'VATEX')


def test_each_wording_of_a_caption_is_a_conversation():
  found = qa_layouts.read(IRG)
  assert [c.turns[0].answer for c in found] == IRG['text']['<Goal_Caption>']
  assert {c.turns[0].domain for c in found} == {'motion_caption'}
  assert {c.turns[0].question for c in found} <= set(
    clips.QUESTIONS['motion_caption']
  )
  assert {(c.media, c.end_s) for c in found} == {('000002', 5.0)}


@pytest.mark.parametrize(
  ('entry', 'message'),
  [
    (['Q', 'A'], 'expected a JSON object'),
    ({}, 'known layout .* found none'),
    ({'id': 'a', 'words': 'b'}, 'known layout .* found id, words'),
    ({'id': 'a', 'QA': [], 'turns': []}, 'under turns and QA'),
    ({'id': 'a', 'QA': []}, 'expected turns under QA, found none'),
    ({'id': 'a', 'turns': {'Q': 'A'}}, 'expected a list under turns'),
    ({'id': 'a', 'turns': [['Why?']]}, r"turns of question.*found \['Why"),
    ({'id': 'a', 'QA': [{'Q': 'Why?'}]}, 'expected Q and A'),
    ({'id': 'a', 'QA': [{'Q': 'Why?', 'A': ' '}]}, 'answer in words'),
    ({'id': 'a', 'QA': [{'Q': 'Why?', 'A': 3}]}, 'answer in words, found 3'),
    ({'QA': [{'Q': 'Why?', 'A': 'So.'}]}, 'expected one clip .* found none'),
    (
      {'video': 'a', 'motion': 'b', 'QA': [{'Q': 'Why?', 'A': 'So.'}]},
      'expected one clip .*video.*motion',
    ),
    ({'video': ['a', 'b'], 'q': 'Why?', 'a': 'So.'}, 'name of one clip under'),
    ({'id': 'a', 'turns': [['Q', 'A']], 'domain': 'feet'}, 'domain of .*feet'),
    ({'id': 'a', 'turns': [['Q', 'A']], 'split': 'dev'}, 'a split of .*dev'),
    ({'id': 'a', 'turns': [['Q', 'A']], 'start': 3}, 'start before the end'),
    ({'id': 'a', 'turns': [['Q', 'A']], 'end': 'x'}, 'start before the end'),
    ({'id': 'a', 'turns': [['Q', 'A']], 'modality': 'audio'}, 'a modality of'),
    ({'id': 'a', 'turns': [['Q', 'A']], 'provenance': 'me'}, 'under prov'),
    ({'id': 'a', 'q': 'Q', 'a': 'A', 'question': 1, 'answer': 2}, 'found 1'),
    ({'id': 'a', 'question': 'Q', 'answer': 'A', 'history': 7}, 'a list under'),
    ({'id': 'a', 'conversations': SAID[:3]}, 'answer, question;'),
    ({'id': 'a', 'conversations': SAID[1:]}, 'found answer, question, answer'),
    ({'id': 'a', 'conversations': [{'from': 'me'}]}, 'expected from'),
    ({'id': 'a', 'conversations': SAID * 2}, 'as question 3'),
    ({'id': 'a', 'image': 'b.jpg', 'conversations': SAID}, 'about an image'),
    (
      {'id': 'a', 'conversations': [
        {'from': 'human', 'value': 'In <video> who wins?'}, SAID[1]]},
      "at an end .* 'In <video> who wins",
    ),
    (IRG | {'motions': {}}, 'expected one motion'),
    (IRG | {'motions': {'<Goal_Motion>': {'f_tag': 0}}}, 'a motion_name'),
    (IRG | {'text': {'<Goal_Caption>': 'a man'}}, 'a list of wordings'),
    (
      IRG | {'conversations': [
        {'from': 'human', 'value': 'Make <Goal_Caption>'},
        {'from': 'gpt', 'value': '<Goal_Motion>'}]},
      'found <Goal_Motion>; write',
    ),
    (IRG | {'task': 'else'}, 'found <Motion2X_Template>'),
  ],
)  # fmt: skip
def test_what_is_wrong_with_an_entry_is_said(entry, message):
  with pytest.raises(ValueError, match=f'^expected .*{message}|^{message}'):
    qa_layouts.read(entry)


def _turns(*follows):
  said = ({} if f is None else {'follows': f} for f in follows)
  return [
    {'question': f'Q{n}?', 'answer': 'A.', **more}
    for n, more in enumerate(said)
  ]


def test_turns_that_say_what_they_follow_may_come_in_another_order():
  (found,) = qa_layouts.read({'id': 'a', 'turns': _turns(False, True, False)})
  assert [turn.follows for turn in found.turns] == [False, True, False]
  assert not found.in_order
  # Where one does not say it, it may refer to any before it.
  (found,) = qa_layouts.read({'id': 'a', 'turns': _turns(False, None)})
  assert found.in_order
  for follows, message in (
    ((True, False), 'a first turn that follows none'),
    ((False, 'no'), "follows to be true or false, found 'no'"),
  ):
    with pytest.raises(ValueError, match=message):
      qa_layouts.read({'id': 'a', 'turns': _turns(*follows)})
