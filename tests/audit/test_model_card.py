"""The card shows what it is given; tests/test_auditing.py makes a real one."""

import types

import pytest
import score_rows

from vimonet_jax.audit import model_card
from vimonet_jax.models import clip_video, llama, motion_vqvae, vimonet

MODEL = vimonet.Config(
  llm=llama.Config(500, 32, 2, 2, 2, 16, 48),
  motion=motion_vqvae.Config(width=8, code_dim=8, num_codes=6, depth=1),
  video=clip_video.Config(16, 1, 2, 16, image_size=8, patch_size=8),
)
WEIGHTS = types.SimpleNamespace(
  shapes={'llm/a': (10, 3), 'video/b': (4,)}, dtypes={'llm/a': 'float32'}
)
AUDIT = {
  'name': 'run',
  'made': '2026-11-30 12:00',
  'fingerprint': 'abc',
  'settings': 'def',
  'level': 0.05,
  'number': 0,
  'comparisons': [],
}
DATA = {
  'splits': {'train': {'records': 5, 'motion_hours': 1.5, 'video_hours': 0.0}},
  'records': {'train': 1234},
  'licences': {'MIT': {'theirs': 4}, 'not stated': {'others': 1}},
  'generators': {'a|b': 2},
  'clips_in_two_splits': {'number': 0, 'first': []},
}


def _card(rows=(), **base):
  return model_card.make(
    config={'data': {'name': 'joined'}, 'base': base},
    model=MODEL,
    weights=WEIGHTS,
    stages={'instruct': {'steps': 600, 'seconds': 90.0}, 'video': {}},
    data=DATA,
    rows=rows,
    audit=AUDIT,
    versions={'python': '3.11'},
  )


@pytest.fixture
def rows():
  interval = {'low': 0.4, 'high': 0.6, 'judge': 'rule', 'system': 'model'}
  return [
    score_rows.row('place', 0.9, input='both', kinds={}, **interval),
    score_rows.row('colour', 0.3, input='both', kinds={}, **interval),
    score_rows.row('all', 0.6, input='both', **interval),
    score_rows.row('all', 0.2, input='text', **interval),
    score_rows.row('all', 0.1, corruption='L2', **interval),
    score_rows.row('all', 0.99, **{**interval, 'system': 'theirs'}),
  ]


def test_the_card_is_of_the_run(rows):
  text = model_card.markdown(_card(rows))
  for line in (
    '| all | 34 |',
    '| train | 1,234 | 5 | 1.50 |',
    '| MIT | theirs (4) |',
    'Of some records the licence is not stated.',
    '| instruct | 600 | 1.5 |  |',
    '| video | not trained here |  |  |',
    '| place | 90.0 (40.0 to 60.0) |  | 10 |',
    '| all answers | 60.0 (40.0 to 60.0) | 20.0 (40.0 to 60.0) | 10 |',
    'it answers, too, and 20 % right (b)',
    'With both it is worst at colour: 30.0 % (b).',
    'Nothing could be compared',
    'Weights abc, settings def.',
    'No weights of others are in it.',
  ):
    assert line in text
  assert '99.0' not in text, 'of another system'
  assert '10.0 (' not in text, 'of noisy joints'


def test_weights_of_others_are_named():
  text = model_card.markdown(_card(llm='/base/vicuna', motion=''))
  assert 'It began with weights of others: llm from /base/vicuna.' in text


def test_names_cannot_break_the_markdown_or_the_page():
  card = _card()
  assert 'a\\|b (2)' in model_card.markdown(card)
  named = card._replace(name='<script>')
  assert '<script>' not in model_card.html(named)
  assert model_card.markdown(named).startswith('# \\<script>\n')
  with_lines = card._replace(
    sections=[model_card.Section('x', ['a\n\n# b', model_card.Table(
      ('c\nd',), [('e', 'f\n|g')]
    )])]
  )  # fmt: skip
  text = model_card.markdown(with_lines)
  assert 'a \\# b\n' in text
  assert '|  | c d |\n' in text
  assert '| e | f \\|g |\n' in text


def test_both_forms_say_the_same(rows):
  card = _card(rows)
  text, page = model_card.markdown(card), model_card.html(card)
  for section in card.sections:
    assert section.title in text
    assert section.title in page
  assert page.count('<table') == text.count('| --- |')
