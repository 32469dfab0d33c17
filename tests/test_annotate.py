"""Everything is asked of a real server, on this machine."""

import collections
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import chat_server
import films
import numpy as np
import presets
import pytest

from vimonet_jax import annotate, chat_api, chat_cache, chat_sender
from vimonet_jax.annotation import key_frames
from vimonet_jax.data import video_sets, views
from vimonet_jax.synthetic import actions

pytest.importorskip('openai', reason="needs pip install -e '.[api]'")
pytest.importorskip('jsonschema', reason="needs pip install -e '.[api]'")

Act = chat_server.Act

KEY = 'sk-test-0123456789abcdef'
ROOT = pathlib.Path(__file__).parents[1]
WAVE = actions.Action('wave', side='right')
# A clip of this label is answered with no JSON at all.
BROKEN = 'broken'


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  monkeypatch.setenv('VIMONET_TEST_KEY', KEY)
  monkeypatch.setattr(chat_sender, '_BACKOFF_S', 0.02)


@pytest.fixture
def server():
  with chat_server.Server(_act()) as server:
    yield server


def _turn(question, answer, domain='sequentiality', kind='free', follows=False):
  return {
    'question': question,
    'answer': answer,
    'domain': domain,
    'kind': kind,
    'follows': follows,
  }


TURNS = [
  _turn('How does it begin?', 'The person lifts a hand.'),
  _turn('And then?', 'The hand swings.', follows=True),
  _turn('How often?', 'Three times.', kind='count'),
]


def _told(asked: chat_server.Asked) -> str:
  """All of the text that was sent."""
  content = asked.body['messages'][-1]['content']
  if isinstance(content, str):
    return content
  return content[0]['text']


def _is_caption(asked: chat_server.Asked) -> bool:
  schema = asked.body['response_format']['json_schema']['schema']
  return 'caption' in schema['properties']


def _act(
  caption='The person waves with the right hand.', turns=TURNS, **fields
):
  """Answers both steps; captions tell which frames they are of."""

  def act(asked: chat_server.Asked) -> Act:
    if not _is_caption(asked):
      return Act(text=json.dumps({'turns': turns}), **fields)
    if BROKEN in _told(asked):
      return Act(text='I see a person.', **fields)
    # Of two captions that are the same the second is not paid for.
    name = hash(json.dumps(asked.body['messages'])) % 10**15
    return Act(text=json.dumps({'caption': f'{caption} {name}'}), **fields)

  return act


def _settings(server, folder, /, **fields) -> dict:
  """Those of the tiny preset, with a service that is here."""
  model = {'model': 'clever', 'input_usd': 1.0, 'output_usd': 10.0}
  changes = {
    'path': str(folder),
    'mode': 'ask',
    'service__base_url': server.url,
    'service__key_variable': 'VIMONET_TEST_KEY',
    'service__requests_per_minute': 60_000.0,
    'service__timeout_s': 10.0,
    **{f'{step}__{k}': x for step in ('captions', 'questions')
       for k, x in model.items()},
    **fields,
  }  # fmt: skip
  named = {f'annotate__{name}': value for name, value in changes.items()}
  return presets.load('tiny', **named).annotate.to_dict()


def _rows(folder, name) -> list[dict]:
  text = (pathlib.Path(folder) / name).read_text(encoding='utf-8')
  return [json.loads(line) for line in text.splitlines()]


def _list(folder: pathlib.Path, *rows) -> pathlib.Path:
  folder.mkdir(exist_ok=True)
  text = ''.join(f'{json.dumps(row)}\n' for row in rows)
  (folder / 'clips.jsonl').write_text(text)
  return folder


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  """Three clips: a video with its motion, a video, and captions alone."""
  folder = tmp_path / 'clips'
  folder.mkdir()
  films.write(folder / 'a.mp4', 1)
  films.write_motion(folder / 'a.npy', WAVE)
  films.write(folder / 'b.mp4', 2)
  return _list(
    folder,
    {'id': 'a', 'video': 'a.mp4', 'motion': 'a.npy', 'licence': 'CC0'},
    {'id': 'b', 'video': 'b.mp4', 'label': 'greeting', 'split': 'val'},
    {'id': 'c', 'captions': ['someone waves.', 'a person greets.']},
  )


# --- One road through --------------------------------------------------------


def test_captions_lead_to_questions(server, folder, tmp_path, capsys):
  out = tmp_path / 'out'
  assert annotate.run(_settings(server, folder), str(out)) == 0
  captions = {row['id']: row for row in _rows(out, 'captions.jsonl')}
  questions = {row['id']: row for row in _rows(out, 'questions.jsonl')}
  assert list(captions) == ['a', 'b']
  assert list(questions) == ['a', 'b', 'c']
  assert not _rows(out, 'rejected.jsonl')
  (turn,) = captions['b']['turns']
  assert turn['domain'] == 'motion_caption'
  assert captions['b']['split'] == 'val'
  assert questions['c']['turns'] == TURNS
  # What was asked about b holds its caption; about c, both of its own.
  told = [_told(asked) for asked in server.asked if not _is_caption(asked)]
  assert sum(turn['answer'] in text for text in told) == 1
  assert any('someone waves.#0.0#0.0\na person greets.#' in x for x in told)
  # Provenance leads back to replies, prompts and captions.
  made = questions['b']['provenance']
  assert made['generator'] == 'clever-2026-11-01'
  assert made['parents'] == ['b#video']
  assert questions['c']['provenance']['parents'] == ['c#0', 'c#1']
  assert questions['a']['provenance']['licence'] == 'CC0'
  assert made['licence'] == 'unknown'
  key = made['request']
  assert (out / 'service' / 'replies' / key[:2] / f'{key}.json').exists()
  told = capsys.readouterr().out
  assert f'{server.url} is sent key frames, labels and captions' in told


def test_what_is_written_becomes_records_and_follow_ups_stay(
  server, folder, tmp_path
):
  out = tmp_path / 'out'
  annotate.run(_settings(server, folder), str(out))
  files = (str(out / 'captions.jsonl'), str(out / 'questions.jsonl'))
  source = video_sets.Videos(
    str(folder), files, source='mine', licence='CC0', image_size=16
  )
  items = source.splits()
  assert [len(items[split]) for split in ('train', 'val', 'test')] == [2, 2, 0]
  assert 'conversations without a video in a split: c (' in '\n'.join(
    source.survey().notes
  )
  said, asked = map(source.make, items['train'])
  assert [turn.domain for turn in said.turns] == ['video_caption']
  assert [turn.follows for turn in asked.turns] == [False, True, False]
  assert not asked.provenance['in_order']
  (origin,) = asked.provenance['questions']
  assert (origin['generator'], origin['licence']) == (
    'clever-2026-11-01',
    'CC0',
  )
  view = views.View(('video',), max_turns=3)
  rng = np.random.default_rng(0)
  drawn = {
    tuple(turn.question for turn in view(asked, rng).turns) for _ in range(40)
  }
  first, then, often = (turn['question'] for turn in TURNS)
  assert drawn == {(first, then, often), (often, first, then)}


def test_a_second_run_asks_nothing_and_writes_the_same(
  server, folder, tmp_path, monkeypatch
):
  out = tmp_path / 'out'
  settings = _settings(server, folder)
  annotate.run(settings, str(out))
  before = {path: path.read_bytes() for path in out.glob('*.jsonl')}
  asked = len(server.asked)
  # Not even where another codec would make other bytes of the frames.
  monkeypatch.setattr(key_frames, '_QUALITY', 20)
  monkeypatch.delenv('VIMONET_TEST_KEY')
  assert annotate.run(settings, str(out)) == 0
  assert len(server.asked) == asked == 5
  assert {path: path.read_bytes() for path in out.glob('*.jsonl')} == before


def test_every_fifteenth_frame_is_sent_as_jpeg(server, folder, tmp_path):
  annotate.run(_settings(server, folder), str(tmp_path / 'out'))
  asked = next(x for x in server.asked if 'greeting' in _told(x))
  _, *images = asked.body['messages'][0]['content']
  assert len(images) == 3  # Frames 0, 15 and 30 of 31.
  for image in images:
    assert image['image_url']['url'].startswith('data:image/jpeg;base64,/9j/')
  assert '0.5 seconds' in _told(asked)


def test_questions_wait_for_the_caption_of_the_video(server, folder, tmp_path):
  """Asked with the captions that there are, they would be paid for twice."""
  _list(folder, {'id': 'a', 'video': 'a.mp4', 'captions': ['a man waves.']})
  plain = server.act
  server.act = lambda asked: (
    Act(status=500) if _is_caption(asked) else plain(asked)
  )
  settings, out = _settings(server, folder), tmp_path / 'out'
  assert annotate.run(settings, str(out)) == 1
  assert not server.paid
  server.act = plain
  assert annotate.run(settings, str(out)) == 0
  assert len(server.paid) == 2
  (row,) = _rows(out, 'questions.jsonl')
  assert row['provenance']['parents'] == ['a#0', 'a#video']
  told = next(_told(x) for x in server.asked if not _is_caption(x))
  assert 'a man waves.#0.0#0.0\nThe person waves' in told
  # The vision model was told as well.
  assert 'a man waves.' in _told(server.asked[0])


# --- What is not kept --------------------------------------------------------


def test_what_the_motion_contradicts_is_flagged_and_asks_nothing(
  server, folder, tmp_path
):
  server.act = _act(caption='The person waves with the left hand.')
  out = tmp_path / 'out'
  assert annotate.run(_settings(server, folder), str(out)) == 1
  # b has no motion, so nobody knows.
  assert [row['id'] for row in _rows(out, 'captions.jsonl')] == ['b']
  assert [row['id'] for row in _rows(out, 'questions.jsonl')] == ['b', 'c']
  (row,) = _rows(out, 'rejected.jsonl')
  assert (row['id'], row['step'], row['contradicted']) == (
    'a', 'captions', True
  )  # fmt: skip
  assert 'moves the right arm alone' in row['reason']


def test_captions_that_were_there_are_checked_as_well(server, tmp_path):
  folder = tmp_path / 'clips'
  folder.mkdir()
  films.write_motion(folder / 'a.npy', WAVE)
  said = ['waves with the right hand.', 'waves with the left hand.']
  _list(folder, {'id': 'a', 'motion': 'a.npy', 'captions': said})
  out = tmp_path / 'out'
  annotate.run(_settings(server, folder), str(out))
  (asked,) = server.asked
  assert said[0] in _told(asked)
  assert said[1] not in _told(asked)
  (row,) = _rows(out, 'rejected.jsonl')
  assert (row['step'], row['text']) == ('given', said[1])


def test_answers_are_checked_and_take_their_follow_ups_along(
  server, folder, tmp_path
):
  wrong = [
    _turn('Which hand waves?', 'The person waves with the left hand.'),
    _turn('And how often?', 'Twice.', kind='count', follows=True),
    *TURNS,
    _turn('Is it quick?', 'It is.', kind='yes_no'),
  ]
  server.act = _act(turns=wrong)
  out = tmp_path / 'out'
  assert annotate.run(_settings(server, folder), str(out)) == 0
  turns = {row['id']: row['turns'] for row in _rows(out, 'questions.jsonl')}
  assert turns['a'] == TURNS
  assert turns['b'] == wrong[:-1]
  rejected = [x for x in _rows(out, 'rejected.jsonl') if x['id'] == 'a']
  assert [row['contradicted'] for row in rejected] == [True, False, False]


def test_replies_that_are_not_valid_are_reported_with_their_words(
  server, folder, tmp_path, capsys
):
  _list(
    folder,
    {'id': 'a', 'video': 'a.mp4', 'label': BROKEN},
    {'id': 'b', 'video': 'b.mp4'},
  )
  out = tmp_path / 'out'
  assert annotate.run(_settings(server, folder), str(out)) == 1
  assert [row['id'] for row in _rows(out, 'questions.jsonl')] == ['b']
  (row,) = _rows(out, 'rejected.jsonl')
  assert (row['id'], row['step']) == ('a', 'captions')
  assert row['text'].count('I see a person.') == 3
  assert 'malformed (no JSON' in row['reason']
  assert 'rejected' in capsys.readouterr().out


def test_an_answer_that_never_came_is_asked_for_again(server, folder, tmp_path):
  server.act = lambda asked: Act(status=500, error={'message': 'oh'})
  out = tmp_path / 'out'
  settings = _settings(server, folder)
  assert annotate.run(settings, str(out)) == 1
  reasons = [row['reason'] for row in _rows(out, 'rejected.jsonl')]
  assert len(reasons) == 3
  assert all('found none (500: oh' in reason for reason in reasons)
  server.act = _act()
  assert annotate.run(settings, str(out)) == 0
  assert not _rows(out, 'rejected.jsonl')


def test_a_service_that_refuses_ends_with_a_sentence_and_what_there_is(
  server, folder, tmp_path, capsys
):
  plain = server.act
  server.act = lambda asked: (
    plain(asked) if _is_caption(asked) else Act(status=401)
  )
  out = tmp_path / 'out'
  assert annotate.run(_settings(server, folder), str(out)) == 1
  told = capsys.readouterr()
  assert 'correct the key in VIMONET_TEST_KEY' in told.err
  assert KEY not in told.err + told.out
  assert len(_rows(out, 'captions.jsonl')) == 2
  assert not _rows(out, 'questions.jsonl')


def test_what_there_was_stays_where_no_key_is_set(
  server, folder, tmp_path, monkeypatch
):
  out = tmp_path / 'out'
  annotate.run(_settings(server, folder), str(out))
  before = _rows(out, 'questions.jsonl')
  monkeypatch.delenv('VIMONET_TEST_KEY')
  with (folder / 'clips.jsonl').open('a') as f:
    f.write(json.dumps({'id': 'd', 'captions': ['walks.']}) + '\n')
  with pytest.raises(ValueError, match='variable VIMONET_TEST_KEY'):
    annotate.run(_settings(server, folder), str(out))
  assert _rows(out, 'questions.jsonl') == before


def test_files_that_cannot_be_read_are_told_before_anything_is_sent(
  server, folder, tmp_path
):
  (folder / 'cut.mp4').write_bytes((folder / 'a.mp4').read_bytes()[:300])
  (folder / 'bad.npy').write_bytes(b'nothing')
  _list(
    folder,
    {'id': 'gone', 'video': 'gone.mp4'},
    {'id': 'cut', 'video': 'cut.mp4'},
    {'id': 'bad', 'video': 'a.mp4', 'motion': 'bad.npy'},
    {'id': 'mute', 'motion': 'a.npy'},
    {'id': 'b', 'video': 'b.mp4'},
  )
  out = tmp_path / 'out'
  assert annotate.run(_settings(server, folder), str(out)) == 1
  rows = _rows(out, 'rejected.jsonl')
  assert [row['id'] for row in rows] == ['gone', 'cut', 'bad', 'mute']
  assert {row['step'] for row in rows} == {'clip'}
  assert all('xpected' in row['reason'] for row in rows)
  assert len(server.asked) == 2


def test_a_dry_run_names_what_cannot_be_asked_about(
  server, folder, tmp_path, capsys
):
  _list(folder, *(
    {'id': f'gone-{n:02d}', 'video': 'gone.mp4'} for n in range(12)
  ), {'id': 'b', 'video': 'b.mp4'})  # fmt: skip
  settings = _settings(server, folder, mode='dry_run')
  assert annotate.run(settings, str(tmp_path / 'out')) == 0
  told = capsys.readouterr().out
  assert 'Not to be asked about, 12 clips:\n  gone-00: ' in told
  assert 'gone.mp4: expected a video, found no such file' in told
  assert '  ... and 2 more\nTo be asked:' in told
  assert 'gone-09: ' in told
  assert 'gone-10: ' not in told


@pytest.mark.parametrize('mode', ['dry_run', 'ask', 'batch'])
def test_one_process_at_a_time_is_at_work_in_a_folder(
  server, folder, tmp_path, mode
):
  out = str(tmp_path / 'out')
  with (
    chat_cache.locked(out),
    pytest.raises(ValueError, match='to be the only one that asks with'),
  ):
    annotate.run(_settings(server, folder, mode=mode), out)
  assert os.listdir(out) == ['lock']  # Nor were frames made.


def test_what_costs_nothing_needs_no_budget(server, folder, tmp_path, capsys):
  free = {
    f'{step}__{field}': 0.0
    for step in ('captions', 'questions')
    for field in ('input_usd', 'output_usd')
  }
  settings = _settings(server, folder, service__budget_usd=0.0, **free)
  assert annotate.run(settings, str(tmp_path / 'out')) == 0
  assert len(server.asked) == 5
  assert '$0.0000 spent in all' in capsys.readouterr().out


def test_a_model_that_takes_no_temperature_is_told_none(
  server, folder, tmp_path
):
  settings = _settings(server, folder, service__temperature=-1.0)
  assert annotate.run(settings, str(tmp_path / 'out')) == 0
  assert not any('temperature' in asked.body for asked in server.asked)


def test_a_video_with_too_many_key_frames_is_refused(server, folder, tmp_path):
  out = tmp_path / 'out'
  annotate.run(_settings(server, folder, max_images=2), str(out))
  reasons = [row['reason'] for row in _rows(out, 'rejected.jsonl')]
  assert len(reasons) == 2
  assert all('at most 2 key frames, found 3' in reason for reason in reasons)


# --- Dry run and batches -----------------------------------------------------


def test_a_dry_run_prints_requests_and_sends_nothing(
  server, folder, tmp_path, monkeypatch, capsys
):
  monkeypatch.delenv('VIMONET_TEST_KEY')
  settings = _settings(server, folder, mode='dry_run')
  assert annotate.run(settings, str(tmp_path / 'out')) == 0
  told = capsys.readouterr().out
  assert not server.asked
  assert told.count('"Idempotency-Key"') == 3  # Of c, questions are known.
  assert told.count(' characters)') == 6  # Three frames of two videos.
  assert '2 for captions of clever' in told
  assert '3 for questions of clever' in told
  assert 'Nothing was sent' in told
  assert not (tmp_path / 'out' / 'captions.jsonl').exists()


def test_a_dry_run_of_many_clips_shows_some_and_counts_all(
  server, tmp_path, capsys
):
  rows = [{'id': str(n), 'captions': [f'waves {n} times.']} for n in range(9)]
  folder = _list(tmp_path / 'clips', *rows)
  settings = _settings(server, folder, mode='dry_run')
  assert annotate.run(settings, str(tmp_path / 'out')) == 0
  told = capsys.readouterr().out
  assert told.count('"Idempotency-Key"') == 2
  assert '9 for questions of clever' in told


def test_a_dry_run_later_shows_what_is_left(server, folder, tmp_path, capsys):
  out = str(tmp_path / 'out')
  annotate.run(_settings(server, folder), out)
  asked = len(server.asked)
  films.write(folder / 'd.mp4', 4)
  _list(folder, {'id': 'b', 'video': 'b.mp4', 'label': 'greeting'},
        {'id': 'd', 'video': 'd.mp4'})  # fmt: skip
  capsys.readouterr()
  annotate.run(_settings(server, folder, mode='dry_run'), out)
  told = capsys.readouterr().out
  assert len(server.asked) == asked
  assert told.count('"Idempotency-Key"') == 1
  assert '1 for captions of clever and 1 that were answered' in told
  assert '1 for questions of clever and 1 that were answered' in told


def _answer_batch(path: pathlib.Path) -> None:
  """What the Batch API would make of an input, beside it."""
  lines = []
  for number, line in enumerate(path.read_text().splitlines()):
    row = json.loads(line)
    asked = chat_server.Asked(row['body'], {}, 0.0, number)
    body = chat_server.completion(f'b{number}', row['body'], _act()(asked))
    response = {'status_code': 200, 'request_id': 'r', 'body': body}
    lines.append(json.dumps(
      {'custom_id': row['custom_id'], 'response': response, 'error': None}
    ))  # fmt: skip
  name = path.name.replace('.in.', '.out.')
  path.with_name(name).write_text('\n'.join(lines[::-1]) + '\n')


def test_batches_go_out_and_come_in(server, folder, tmp_path, monkeypatch):
  monkeypatch.delenv('VIMONET_TEST_KEY')
  out = tmp_path / 'out'
  batch = _settings(server, folder, mode='batch')

  def names():
    return sorted(path.name for path in (out / 'batch').iterdir())

  assert annotate.run(batch, str(out)) == 1
  assert names() == ['captions-001.in.jsonl', 'questions-001.in.jsonl']
  # While those are on their way, nothing else asks the same.
  assert annotate.run(batch, str(out)) == 1
  assert len(names()) == 2
  with pytest.raises(ValueError, match='captions-001.in.jsonl, questions-'):
    annotate.run(_settings(server, folder), str(out))
  for path in list((out / 'batch').iterdir()):
    _answer_batch(path)
  assert annotate.run(batch, str(out)) == 1
  assert 'questions-002.in.jsonl' in names()
  assert len(_rows(out, 'captions.jsonl')) == 2
  _answer_batch(out / 'batch' / 'questions-002.in.jsonl')
  assert annotate.run(batch, str(out)) == 0
  assert [row['id'] for row in _rows(out, 'questions.jsonl')] == list('abc')
  assert not server.asked
  assert annotate.run(_settings(server, folder), str(out)) == 0
  assert not server.asked


def test_batches_beyond_the_budget_are_not_written(server, folder, tmp_path):
  settings = _settings(server, folder, mode='batch', service__budget_usd=0.001)
  with pytest.raises(ValueError, match='within the budget of'):
    annotate.run(settings, str(tmp_path / 'out'))
  assert not list((tmp_path / 'out').glob('batch/*.jsonl'))


# --- Settings ----------------------------------------------------------------


@pytest.mark.parametrize(
  ('fields', 'told'),
  [
    ({'mode': 'try'}, "to be one of dry_run, ask, batch, found 'try'"),
    ({'every': 0}, 'config.annotate.every of at least 1, found 0'),
    ({'captions__model': ''}, 'config.annotate.captions to name a model'),
    ({'questions__input_usd': -1.0}, 'config.annotate.questions to name a'),
    ({'path': '/none'}, 'the folder of the clips'),
    ({'path': ''}, 'the folder of the clips'),
    ({'service__tries': 0}, 'Expected tries of the service'),
  ],
)
def test_settings_that_cannot_be_are_refused(
  server, folder, tmp_path, fields, told
):
  with pytest.raises(ValueError, match=told) as error:
    annotate.run(_settings(server, folder, **fields), str(tmp_path / 'out'))
  assert str(error.value).startswith('Expected ')


def test_a_configuration_without_the_block_says_so(tmp_path):
  with pytest.raises(ValueError, match='a block annotate'):
    annotate.run({}, str(tmp_path))


@pytest.mark.parametrize('package', ['openai', 'jsonschema'])
def test_a_missing_package_is_named_before_any_video_is_read(
  server, folder, tmp_path, monkeypatch, package
):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ImportError, match=rf'{package}.*\[api\]'):
    annotate.run(_settings(server, folder), str(tmp_path / 'out'))
  assert not (tmp_path / 'out').exists()


def test_captions_alone_need_no_model_that_sees(server, tmp_path):
  folder = _list(tmp_path / 'clips', {'id': 'a', 'captions': ['waves.']})
  settings = _settings(server, folder, captions__model='')
  assert annotate.run(settings, str(tmp_path / 'out')) == 0
  assert len(server.asked) == 1


# --- Killed, stopped and limited ---------------------------------------------

CLIPS = 200
PER_MINUTE = 2400.0


def _start(server, folder, out, **changes) -> subprocess.Popen:
  flags = {
    'path': folder,
    'mode': 'ask',
    'service.base_url': server.url,
    'service.key_variable': 'VIMONET_TEST_KEY',
    'service.requests_per_minute': PER_MINUTE,
    **{
      f'{step}.{name}': value
      for step in ('captions', 'questions')
      for name, value in (
        ('model', 'clever'), ('input_usd', 1.0), ('output_usd', 10.0)
      )
    },
    **changes,
  }  # fmt: skip
  return subprocess.Popen(
    [
      sys.executable, '-m', 'vimonet_jax.main', '--config=configs/tiny.py',
      '--task=annotate', f'--output={out}',
      *(f'--config.annotate.{name}={x}' for name, x in flags.items()),
    ],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )  # fmt: skip


def _kill_when(program: subprocess.Popen, is_time) -> None:
  until_s = time.monotonic() + 120
  while not is_time():
    assert time.monotonic() < until_s, 'the program asks nothing'
    assert program.poll() is None, program.communicate()
    time.sleep(0.005)
  program.send_signal(signal.SIGKILL)
  program.communicate(timeout=20)


def test_killed_twice_and_stopped_once_every_clip_is_annotated_once(
  server, tmp_path
):
  folder, out = tmp_path / 'clips', tmp_path / 'out'
  folder.mkdir()
  rows = []
  for number in range(CLIPS):
    name = f'clip-{number:03d}'
    films.write(folder / f'{name}.mp4', number)
    rows.append({'id': name, 'video': f'{name}.mp4', 'label': str(number)})
  # Two clips whose replies are never valid, and one that fails now and then.
  broken = ['clip-007', 'clip-150']
  for row in rows:
    if row['id'] in broken:
      row['label'] = BROKEN
  _list(folder, *rows)
  plain = _act(wait_s=0.02)
  server.act = lambda asked: (
    Act(status=503) if asked.place % 50 == 13 else plain(asked)
  )
  started = []  # How many had been asked when a run began.

  def start(**changes):
    started.append(len(server.asked))
    return _start(server, folder, out, **changes)

  _kill_when(start(), lambda: len(server.asked) > 60)
  _kill_when(start(), lambda: len(server.asked) > 250)
  assert any(not _is_caption(asked) for asked in server.asked)
  spent_usd = chat_api.Client(
    chat_api.Service(server.url, 'clever', 1.0, 10.0, 1.0),
    str(out / 'service'),
  ).spent_usd
  budget_usd = spent_usd + 0.035  # For one at its most, and many as they are.
  program = start(**{'service.budget_usd': budget_usd})
  told, errors = program.communicate(timeout=120)
  assert program.returncode == 1
  assert 'Expected to stay within' in errors
  assert 'Traceback' not in errors
  done = len(_rows(out, 'questions.jsonl'))
  assert 0 < done < CLIPS - len(broken)
  assert len(_rows(out, 'captions.jsonl')) == CLIPS - len(broken)

  program = start()
  told, errors = program.communicate(timeout=120)
  assert program.returncode == 1, errors  # Two clips are left out.
  names = [row['id'] for row in rows if row['id'] not in broken]
  for file in ('captions.jsonl', 'questions.jsonl'):
    assert [row['id'] for row in _rows(out, file)] == names
  rejected = _rows(out, 'rejected.jsonl')
  assert [row['id'] for row in rejected] == broken
  assert all('malformed' in row['reason'] for row in rejected)
  # Each try of a reply that was not valid is a request of its own.
  assert set(server.paid.values()) == {1}
  assert len(server.paid) == 2 * (CLIPS - len(broken)) + 3 * len(broken)
  # Those under way at a kill, and those that failed, were sent again.
  counts = collections.Counter(asked.key for asked in server.asked)
  assert sum(counts.values()) - len(counts) <= 2 * 8 + len(server.asked) // 50
  # Within each run no more came than the rate allows, with a little for what
  # was queued on its way.
  for start_at, stop in zip(
    started, [*started[1:], len(server.asked)], strict=True
  ):
    times = [asked.time_s for asked in server.asked[start_at:stop]]
    span_s = times[-1] - times[0]
    assert len(times) <= 1.1 * span_s * PER_MINUTE / 60 + 3
  assert KEY not in told + errors


def test_told_to_stop_it_writes_what_it_has(server, folder, tmp_path):
  server.act = _act(wait_s=0.5)
  out = tmp_path / 'out'
  program = _start(server, folder, out)
  until_s = time.monotonic() + 120
  while not server.asked:
    assert time.monotonic() < until_s, 'the program asks nothing'
    time.sleep(0.01)
  program.send_signal(signal.SIGTERM)
  told, errors = program.communicate(timeout=30)
  assert program.returncode == 128 + signal.SIGTERM, errors
  assert len(_rows(out, 'captions.jsonl')) == len(server.paid)
  assert not _rows(out, 'questions.jsonl')
  assert 'to do' in told
