import html.parser
import json
import os
import sys
import types

import numpy as np
import pytest
import score_rows

import vimonet_jax.motion
from vimonet_jax import report
from vimonet_jax.eval import examples, scores

VOID = {'meta', 'img', 'line', 'circle', 'polyline', 'polygon', 'br'}


class Outline(html.parser.HTMLParser):
  """Words of a page, its tags, and whether they are closed in order."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.words, self.sources = [], [], [], []
    self.feed(text)
    assert not self.open, self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.sources += [v for k, v in attrs if k in ('src', 'href')]
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open[-1:] != ['style']:
      self.words.append(data)

  @property
  def text(self):
    return ' '.join(' '.join(self.words).split())


@pytest.fixture
def drawn(monkeypatch):
  """Stands in for motion.draw and remembers what was drawn."""
  calls = []

  def draw(kind):
    def draw_one(array, **kwargs):
      del kwargs
      calls.append((kind, array.shape))
      return f'{kind} {array.shape}'.encode()

    return draw_one

  module = types.SimpleNamespace(
    skeleton_gif=draw('gif'), frames_png=draw('png')
  )
  monkeypatch.setitem(sys.modules, 'vimonet_jax.motion.draw', module)
  monkeypatch.setattr(vimonet_jax.motion, 'draw', module, raising=False)
  return calls


def _write_stage(workdir, name, lines, summary=None):
  folder = workdir / name
  folder.mkdir()
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'metrics.jsonl').write_text(text)
  if summary:
    (folder / 'summary.json').write_text(json.dumps(summary))


@pytest.fixture
def workdir(tmp_path):
  """Scores, one finished stage and one that is being trained."""
  scores.write(
    str(tmp_path / 'scores.json'),
    [
      {
        'benchmark': 'vimos-synth',
        'split': 'test',
        'input': 'both',
        'corruption': 'none',
        'domain': domain,
        'accuracy': 0.8,
        'score': 4.0,
        'n': 50,
        'n_failed': 0,
      }
      for domain in ('place', scores.ALL, scores.MACRO)
    ],
  )
  lines = [
    {'step': i, 'loss': 1 / i, 'perplexity': 10.0 + i, 'seconds': 0.1 * i}
    for i in range(1, 41)
  ]
  summary = {
    'name': 'motion',
    'steps': 40,
    'started_from': '0 named and 9 fresh arrays',
    'seconds': 4000.0,
    'rate': 0.01,
    'metrics': {},
  }
  _write_stage(tmp_path, 'motion', lines, summary)
  for line in lines[::10]:
    line['eval/first_turn'] = 0.5
  _write_stage(tmp_path, 'language', lines)
  return tmp_path


def _example(**changes):
  fields = {
    'benchmark': 'vimos-synth',
    'domain': 'place',
    'input': 'video',
    'clip': 0,
    'joints': None,
    'frames': None,
    'question': 'Where?',
    'history': (),
    'reference': 'The garden.',
    'answer': 'The kitchen.',
    'correct': False,
    'judge': 'rule',
    'score': 0.0,
  }
  return examples.Example(**{**fields, **changes})


def _read(workdir, **options) -> tuple[str, Outline]:
  path = report.write(str(workdir), str(workdir / 'report.html'), **options)
  assert path == str(workdir / 'report.html')
  assert not [name for name in os.listdir(workdir) if name.endswith('.part')]
  with open(path, encoding='utf-8') as f:
    text = f.read()
  return text, Outline(text)


def test_the_stages_are_those_that_are_trained():
  from vimonet_jax.train import stages

  assert tuple(report.STAGES) == stages.NAMES


def test_the_page_needs_nothing_but_itself(workdir, drawn):
  shown = [_example(frames=np.zeros((8, 4, 4, 3), np.uint8))]
  text, outline = _read(workdir, examples=shown, config={'seed': 0})
  assert all(source.startswith('data:image/') for source in outline.sources)
  for word in ('http:', 'https:', 'url(', '@import'):
    assert word not in text
  assert not {'link', 'script', 'iframe'} & set(outline.tags)
  assert 'width=device-width' in text
  assert 'prefers-color-scheme: dark' in text
  assert str(workdir.parent) not in text


def test_an_empty_folder_gives_a_page_that_says_what_is_missing(tmp_path):
  _, outline = _read(tmp_path)
  for name in report.STAGES:
    assert f'Stage {name} has not run.' in outline.text
  for words in ('Nothing has been scored', 'No examples', 'No settings'):
    assert words in outline.text


def test_only_what_the_settings_ask_for_is_missed(workdir):
  row = dict.fromkeys(scores.METRICS, 0.5) | {
    'benchmark': 'captions',
    'split': 'test',
    'input': 'motion',
    'corruption': 'L0',
    'domain': 'motion_caption',
    'system': 'model',
    'accuracy': None,
    'n': 24,
  }
  (workdir / 'scores.json').unlink(missing_ok=True)
  scores.write(str(workdir / 'scores.json'), [row])
  _, outline = _read(workdir, config={'stage_names': ['motion', 'align']})
  assert 'Stage align has not run.' in outline.text
  assert 'Captions' in outline.text
  for absent in ('Stage video', 'Answers', 'Changed media', 'Nothing'):
    assert absent not in outline.text


def test_finished_and_unfinished_stages_are_told_apart(workdir):
  _, outline = _read(workdir)
  assert 'motion 40 0.01 1 h 06 min' in outline.text
  assert 'together 1 h 06 min' in outline.text
  assert 'Started from 0 named and 9 fresh arrays.' in outline.text
  assert 'Has not finished: at step 40.' in outline.text
  assert 'Stage video has not run.' in outline.text
  assert 'perplexity' in outline.text
  assert 'first turn ● 0.5' in outline.text
  assert outline.tags.count('svg') == 5


def test_a_line_that_is_being_written_is_left_out(workdir):
  with open(workdir / 'language' / 'metrics.jsonl', 'a') as f:
    f.write('{"step": 41, "lo')
  _, outline = _read(workdir)
  assert 'Has not finished: at step 40.' in outline.text


def test_examples_show_question_answer_and_what_was_expected(workdir, drawn):
  joints = np.zeros((9, 22, 3))
  frames = np.zeros((8, 4, 4, 3), np.uint8)
  shared = {'joints': joints, 'frames': frames, 'input': 'both'}
  right = {'answer': 'A <b>.', 'reference': 'A <b>.', 'correct': True}
  asked = [
    _example(**shared),
    _example(frames=frames, clip=1, history=(('Is it dry?', 'Yes.'),)),
    _example(**shared, question='Who?', **right, score=5.0),
  ]
  _, outline = _read(workdir, examples=asked)
  assert (
    'Where? both place ✗ The kitchen. The garden. judged by rule, score 0 of 5'
  ) in outline.text
  assert (
    'Who? both place ✓ A <b>. judged by rule, score 5 of 5'
  ) in outline.text
  assert 'Is it dry? Yes. Where? video place' in outline.text
  # Two questions about one clip share its pictures.
  assert drawn == [('gif', joints.shape), ('png', frames.shape)] + [
    ('png', frames.shape)
  ]
  assert outline.tags.count('article') == 2


def test_the_rule_and_what_has_no_examples_are_said(workdir):
  asked = [_example(), _example(benchmark='babel-qa')]
  _, outline = _read(workdir, examples=asked, told=['mvbench: no files.'])
  assert examples.RULE in outline.text
  assert 'mvbench: no files.' in outline.text
  assert outline.text.index('vimos-synth') < outline.text.index('babel-qa')
  _, outline = _read(workdir, told=['mvbench: no files.'])
  assert 'No examples were given. mvbench: no files.' in outline.text


def test_large_frames_are_averaged_down_to_what_is_shown(workdir, drawn):
  frames = np.zeros((8, 224, 336, 3), np.uint8)
  frames[:, :, ::3] = 90
  (small,) = {f.shape for f in [report._smaller(frames)]}
  assert small == (8, 74, 112, 3)
  assert set(np.unique(report._smaller(frames))) == {30}
  text, _ = _read(workdir, examples=[_example(frames=frames)])
  assert drawn == [('png', small)]
  assert 'class="photo"' in text


def test_benchmarks_share_the_page_and_what_one_leaves_over(monkeypatch):
  monkeypatch.setattr(report, '_MAX_CARD_BYTES', 100)
  assert report._fitting({'a': [30, 30, 30], 'b': [40, 20]}) == {
    'a': [True, True, False],
    'b': [True, False],
  }
  assert report._fitting({'a': [30, 30, 30, 30], 'b': [5]}) == {
    'a': [True, True, True, False],
    'b': [True],
  }
  assert report._fitting({'a': [200, 30]}) == {'a': [False, True]}


def test_a_caption_is_neither_right_nor_wrong(workdir):
  _, outline = _read(workdir, examples=[_example(correct=None)])
  assert 'Where? video place The kitchen. The garden.' in outline.text
  assert 'judged by' not in outline.text


def test_pictures_that_would_make_the_page_too_big_are_left_out(
  workdir, drawn, monkeypatch
):
  monkeypatch.setattr(report, '_MAX_CARD_BYTES', 1000)
  many = [
    _example(frames=np.zeros((8, 4, 4 + i, 3), np.uint8), clip=i)
    for i in range(5)
  ]
  text, outline = _read(workdir, examples=many)
  shown = outline.tags.count('article')
  assert 0 < shown < 5
  assert f'{5 - shown} more would make this page too big.' in outline.text
  assert text.count('data:image/png') == shown


def test_settings_counts_and_versions_are_there(workdir):
  _, outline = _read(
    workdir,
    config={'model': {'width': 128}, 'targets': ('q', 'v')},
    counts={'train': {'records': 6000, 'turns': 7}, 'test': {'records': 15}},
  )
  assert '"width": 128' in outline.text
  assert 'records turns train 6,000 7 test 15 –' in outline.text
  import jax

  assert f'jax {jax.__version__}' in outline.text
  assert f'CPU cores {os.cpu_count()}' in outline.text


def test_a_new_page_replaces_the_old_one(workdir):
  first, _ = _read(workdir, config={'seed': 1})
  second, _ = _read(workdir, config={'seed': 2})
  assert '&quot;seed&quot;: 1' in first
  assert '&quot;seed&quot;: 1' not in second


def test_rows_of_two_checkpoints_on_one_page_are_said(workdir):
  rows = [
    score_rows.row(benchmark=name, fingerprint=fingerprint)
    for name, fingerprint in (('captions', 'a'), ('mvbench', 'a'))
  ]
  scores.write(str(workdir / 'scores.json'), rows)
  text, _ = _read(workdir)
  assert 'different checkpoints' not in text
  scores.write(
    str(workdir / 'scores.json'), [{**rows[1], 'fingerprint': 'b'}]
  )
  text, _ = _read(workdir)
  assert '2 different checkpoints (a: captions; b: mvbench)' in text


def test_what_was_published_stands_beside_what_was_measured(workdir):
  row = {
    'benchmark': 'activitynet-qa',
    'split': 'test',
    'input': 'video',
    'corruption': 'none',
    'domain': 'all',
    'accuracy': 0.5,
    'score': 2.5,
    'n': 80,
    'n_failed': 0,
    'judge': 'wise',
  }
  _, outline = _read(workdir)
  assert 'Beside published numbers' not in outline.text
  scores.write(str(workdir / 'scores.json'), [row])
  _, outline = _read(workdir)
  assert 'Beside published numbers' in outline.text
  assert '53.5 score 3.53' in outline.text
  assert '50.0 score 2.50 39.3–60.7 n 80' in outline.text
