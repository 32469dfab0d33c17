import pathlib

import pytest

from vimonet_jax.apps import answer, detect
from vimonet_jax.audit import watermark
from vimonet_jax.data import records
from vimonet_jax.infer import model_folder

MARK = watermark.from_secret(b'0123456789abcdef', delta=2.0)
OTHER = watermark.from_secret(b'fedcba9876543210', delta=2.0)


@pytest.fixture
def answered(tiny_model, tmp_path):
  """Twelve answers of twenty tokens with the mark, one that failed."""
  questions = [
    {'id': str(i), 'question': 'Why?', 'temperature': 1.5, 'seed': i,
     'max_new_tokens': 20}
    for i in range(12)
  ]  # fmt: skip
  questions.append({'id': 'gone', 'question': 'Why?', 'motion': 'gone.npy'})
  records.write_json_lines(tmp_path / 'questions.jsonl', questions)
  paths = [str(tmp_path / f'{x}.jsonl') for x in ('questions', 'answers')]
  assert answer.run(tiny_model.workdir, *paths, mark=MARK) == 1
  return paths


def test_answers_are_found_to_be_marked_by_who_has_the_key(
  tiny_model, answered, tmp_path, capsys
):
  capsys.readouterr()
  _, path = answered
  assert detect.run(tiny_model.workdir, path, MARK) == 0
  numbers, sentence = capsys.readouterr().out.splitlines()
  texts = [
    line['answer']
    for line in records.read_json_lines(path)
    if 'answer' in line
  ]
  layout = model_folder.read(f'{tiny_model.workdir}/model').layout
  want = watermark.detect(map(layout.tokenizer.encode, texts), MARK)
  assert want.p < 1e-3
  assert numbers.startswith(f'z {want.z:.2f}, p {want.p:.2g}: ')
  assert f'{want.scored} of them count, {want.green} are green' in numbers
  assert sentence.startswith('It carries the mark of this key')
  # The same words as plain text.
  plain = tmp_path / 'answers.txt'
  plain.write_text('\n'.join(' '.join(x.split()) for x in texts) + '\n')
  detect.run(tiny_model.workdir, str(plain), MARK)
  assert 'It carries the mark' in capsys.readouterr().out
  detect.run(tiny_model.workdir, path, OTHER)
  assert 'No mark of this key is seen' in capsys.readouterr().out


def test_a_file_of_answers_is_not_gone_on_with_by_another_mark(
  tiny_model, answered
):
  questions, path = answered
  before = pathlib.Path(path).read_text()
  lines = list(records.read_json_lines(path))
  assert {line['watermark'] for line in lines} == {MARK.name}
  for mark in (None, OTHER):
    with pytest.raises(ValueError, match='expected an answer with waterm'):
      answer.run(tiny_model.workdir, questions, path, mark=mark)
  assert pathlib.Path(path).read_text() == before
  assert answer.run(tiny_model.workdir, questions, path, mark=MARK) == 1


def test_one_word_says_nothing(tiny_model, tmp_path, capsys):
  path = tmp_path / 'text.txt'
  path.write_text('\n\nwalking\n')
  assert detect.run(tiny_model.workdir, str(path), MARK) == 0
  assert 'No mark of this key is seen' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('name', 'written', 'sentence'),
  [
    ('text.txt', '', 'expected some text, found none'),
    ('text.txt', ' \n\n', 'expected some text, found none'),
    ('a.jsonl', '', 'expected some text, found none'),
    ('a.jsonl', '{"error": "no"}\n', 'expected some text, found none'),
    ('a.jsonl', '{"id": "1"}\n', 'line 1: expected an answer of --task=answer'),
    ('a.jsonl', '[1]\n', 'line 1: expected an answer of --task=answer'),
    ('a.jsonl', '{"answer": null}\n', 'line 1: expected an answer in words'),
    ('a.jsonl', 'walking\n', 'expected one JSON object a line'),
    ('text.txt', b'\xff\xfe\x00', 'expected text in UTF-8'),
  ],
)
def test_what_is_no_text_is_refused(
  tiny_model, tmp_path, name, written, sentence
):
  path = tmp_path / name
  path.write_bytes(written if isinstance(written, bytes) else written.encode())
  with pytest.raises(ValueError, match=sentence):
    detect.run(tiny_model.workdir, str(path), MARK)


def test_text_and_key_have_to_be_named(tiny_model):
  with pytest.raises(ValueError, match='found no --input'):
    detect.run(tiny_model.workdir, None, MARK)
  with pytest.raises(ValueError, match='config.watermark.key_file=FILE'):
    detect.run(tiny_model.workdir, 'answers.jsonl', None)
