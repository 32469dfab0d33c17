import dataclasses
import functools
import json
import os
import shutil

import numpy as np
import pytest

from vimonet_jax import locks
from vimonet_jax.apps import answer, inputs
from vimonet_jax.audit import watermark
from vimonet_jax.data import records
from vimonet_jax.infer import engine, generate
from vimonet_jax.synthetic import world


@functools.cache
def _clip(index):
  return world.World().make_record('test', index)


@pytest.fixture
def files(tmp_path):
  """Two motions, a video of images, and questions upon them."""
  for i in (0, 1):
    np.save(tmp_path / f'{i}.npy', _clip(i).motion)
  (tmp_path / 'images').mkdir()
  from PIL import Image

  for i, frame in enumerate(_clip(0).frames):
    Image.fromarray(frame).save(tmp_path / 'images' / f'{i}.png')
  return tmp_path


QUESTIONS = (
  {'id': 'a', 'question': 'What is done?', 'motion': '0.npy'},
  {'id': 'b', 'question': 'Where?', 'motion': '0.npy', 'video': 'images'},
  {'id': 'c', 'question': 'Why?', 'motion': 'gone.npy'},
  {'id': 'd', 'question': 'And then?', 'motion': '1.npy',
   'history': [['What is done?', 'He walks.']]},
  {'id': 'e', 'question': 'Who?', 'temperature': 1.5, 'seed': 3,
   'max_new_tokens': 9},
)  # fmt: skip


@pytest.fixture
def ask(tiny_model, files, capsys):
  """Answers questions; gives the lines, the exit code and what was printed."""

  def ask_once(questions=QUESTIONS, **settings):
    path = files / 'questions.jsonl'
    records.write_json_lines(path, questions)
    output = files / 'out' / 'answers.jsonl'
    code = answer.run(
      tiny_model.workdir, str(path), str(output), **settings
    )
    return list(records.read_json_lines(output)), code, capsys.readouterr().out

  return ask_once


def test_one_process_writes_answers_at_a_time(ask, files):
  """A second one would put its file in the place of what the first writes."""
  lock = files / 'out' / 'answers.jsonl.lock'
  with locks.held(str(lock), 'write'), pytest.raises(locks.HeldError):
    ask()
  assert not (files / 'out' / 'answers.jsonl').exists()


def test_every_question_has_a_line_in_order(tiny_model, ask, files):
  lines, code, out = ask()
  assert [line['id'] for line in lines] == list('abcde')
  assert code == 1
  assert '4 of 5 answered' in out
  assert 'gone.npy' in lines[2]['error']
  assert 'answer' not in lines[2]
  inputs_ = [line.get('inputs') for line in lines]
  assert inputs_ == [['motion'], ['motion', 'video'], None, ['motion'], []]
  asking = engine.Engine.load(f'{tiny_model.workdir}/model')
  tower = asking.bundle.model.video
  for line, fields in zip(lines, QUESTIONS, strict=True):
    if 'error' in line:
      continue
    media = {
      name: str(files / fields[name])
      for name in ('motion', 'video')
      if name in fields
    }
    record = inputs.read(tower, **media).record
    turns = [records.Turn(*x) for x in fields.get('history', ())]
    turns.append(records.Turn(fields['question'], ''))
    sampling = generate.Sampling(
      fields.get('temperature', 0.0),
      max_new_tokens=fields.get('max_new_tokens', 128),
    )
    want = asking.answer(
      [dataclasses.replace(record, turns=tuple(turns))],
      sampling=sampling,
      seed=fields.get('seed', 0),
    )
    assert line['answer'] == want[0]
  assert lines[4]['new_tokens'] == 9
  assert lines[4]['ended_by'] == 'length'


def test_it_goes_on_behind_the_last_whole_line(ask, files, monkeypatch):
  whole, *_ = ask()
  path = files / 'out' / 'answers.jsonl'
  text = path.read_text()
  rows = text.splitlines(keepends=True)
  path.write_text(''.join(rows[:3]) + rows[3][:20])
  np.save(files / 'gone.npy', _clip(1).motion)
  asked = []
  submit = answer._submit

  def seen(*args):
    asked.append(args[-1].fields['id'])
    return submit(*args)

  monkeypatch.setattr(answer, '_submit', seen)
  lines, code, out = ask()
  assert code == 0
  assert asked == ['c', 'd', 'e']
  assert 'has 2 of 5 answers' in out
  by_id = {line['id']: line for line in lines}
  assert [by_id[x] for x in 'abde'] == [whole[i] for i in (0, 1, 3, 4)]
  assert by_id['c']['answer']
  # All is done: nothing is asked.
  assert ask()[:2] == (lines, 0)
  assert asked == ['c', 'd', 'e']


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'question': ''}, 'found no question; add it'),
    ({'id': 'a'}, "found 'a' again"),
    ({'movie': 'x'}, "found 'movie'"),
    ({'top_k': 1.5}, 'expected top_k as a whole number, found 1.5'),
    ({'seed': True}, 'expected seed as a whole number, found True'),
    ({'stop': ['']}, 'expected stop as a list of texts'),
    ({'history': [['a']]}, 'expected history as a list of'),
  ],
)
def test_wrong_questions_are_said_before_anything_is_asked(
  ask, files, changes, sentence
):
  wrong = {'id': 'z', 'question': 'Why?'} | changes
  with pytest.raises(ValueError, match='questions.jsonl, question 2: ') as info:
    ask((QUESTIONS[0], wrong))
  assert sentence in str(info.value)
  assert not (files / 'out').exists()


def test_answers_to_other_questions_are_not_touched(ask, files):
  ask(QUESTIONS[:1])
  before = (files / 'out' / 'answers.jsonl').read_text()
  other = QUESTIONS[0] | {'question': 'Something else?'}
  with pytest.raises(ValueError, match="found one to another one, 'a'"):
    ask((other,))
  assert (files / 'out' / 'answers.jsonl').read_text() == before
  assert json.loads(before)['answer']


def _mark(delta=8.0):
  return watermark.from_secret(bytes(16), delta=delta)


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'sampling': 'motionllm'}, "temperature 0.8, .* temperature 0.0"),
    ({'seed': 1}, 'with seed 1, found one with seed 0; go on with'),
    ({'quantize': 'int8'}, "with quantize 'int8', found one with quantize ''"),
    ({'mark': _mark()}, "with watermark '.{16}', found one with .* 'none'"),
  ],
)  # fmt: skip
def test_answers_of_two_settings_are_not_mixed(ask, files, changes, said):
  ask(QUESTIONS[:1])
  path = files / 'out' / 'answers.jsonl'
  before = path.read_text()
  with pytest.raises(ValueError, match=f'line 1: expected an answer .*{said}'):
    ask(QUESTIONS[:2], **changes)
  assert path.read_text() == before


def test_answers_of_other_weights_are_not_gone_on_with(ask, files, monkeypatch):
  """Nor those of versions that did not say whose they are."""
  (line,), *_ = ask(QUESTIONS[:1])
  path = files / 'out' / 'answers.jsonl'
  before = path.read_text()
  with monkeypatch.context() as patch:
    patch.setattr(answer.fingerprint, 'of', lambda flat: 'f00')
    with pytest.raises(ValueError, match=f"'f00', .*{line['fingerprint']}"):
      ask(QUESTIONS[:2])
  assert path.read_text() == before
  del line['fingerprint'], line['decoding']
  records.write_json_lines(path, [line])
  with pytest.raises(ValueError, match='found none, as versions before this'):
    ask(QUESTIONS[:2])
  assert list(records.read_json_lines(path)) == [line]


def test_an_answer_about_a_file_that_has_changed_is_not_kept_for_it(ask, files):
  ask(QUESTIONS[1:2])
  path = files / 'out' / 'answers.jsonl'
  before = path.read_text()
  # What is no picture is not looked at.
  (files / 'images' / '.DS_Store').write_bytes(b'!')
  ask(QUESTIONS[1:2])
  picture = next((files / 'images').glob('[!.]*'))
  picture.write_bytes(picture.read_bytes() + b'!')
  with pytest.raises(ValueError, match='images as it was .*found it changed'):
    ask(QUESTIONS[1:2])
  assert path.read_text() == before
  # What has gone cannot have changed into anything, and keeps its answer.
  for name in os.listdir(files / 'images'):
    os.remove(files / 'images' / name)
  ask(QUESTIONS[1:2])
  shutil.rmtree(files / 'images')
  ask(QUESTIONS[1:2])
  assert path.read_text() == before


def test_both_files_have_to_be_named(tiny_model):
  with pytest.raises(ValueError, match='found no --output'):
    answer.run(tiny_model.workdir, 'questions.jsonl', None)
