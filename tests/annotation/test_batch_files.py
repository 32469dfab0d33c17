import json

import pytest

from vimonet_jax import chat_api
from vimonet_jax.annotation import batch_files


@pytest.fixture
def client(tmp_path):
  service = chat_api.Service('http://nowhere', 'clever', 1.0, 1.0, 1.0)
  return chat_api.Client(service, str(tmp_path / 'service'))


def _requests(count: int):
  message = {'role': 'user', 'content': 'x'}
  return [
    chat_api.Request(str(n), [{**message, 'content': f'What is {n}?'}])
    for n in range(count)
  ]


def _lines(path) -> list[str]:
  return [
    json.loads(line)['body']['messages'][0]['content']
    for line in open(path, encoding='utf-8')  # noqa: SIM115
  ]


@pytest.mark.parametrize('limit', ['_REQUESTS', '_BYTES'])
def test_what_is_too_much_for_one_file_takes_several(
  client, tmp_path, monkeypatch, limit
):
  pytest.importorskip('jsonschema', reason="needs pip install -e '.[api]'")
  body = json.dumps(client.service.body(_requests(1)[0]))
  monkeypatch.setattr(
    batch_files, limit, {'_REQUESTS': 3, '_BYTES': 3 * len(body)}[limit]
  )
  folder = str(tmp_path / 'batch')
  written = list(batch_files.write(client, _requests(7), folder, 'captions'))
  assert [estimate.requests for _, estimate in written] == [3, 3, 1]
  asked = [line for path, _ in written for line in _lines(path)]
  assert asked == [f'What is {n}?' for n in range(7)]
  names = batch_files.pending(folder)
  assert names == [f'captions-00{n}.in.jsonl' for n in (1, 2, 3)]


def test_no_file_is_written_over_another(client, tmp_path):
  folder = tmp_path / 'batch'
  folder.mkdir()
  (folder / 'captions-007.in.jsonl').write_text('')
  (folder / 'captions-007.out.jsonl').write_text('')
  (folder / 'questions-009.in.jsonl').write_text('')
  written = batch_files.write(client, _requests(1), str(folder), 'captions')
  assert [path for path, _ in written] == [
    str(folder / 'captions-008.in.jsonl')
  ]  # fmt: skip
  assert batch_files.pending(str(folder)) == [
    'captions-008.in.jsonl', 'questions-009.in.jsonl'
  ]  # fmt: skip
