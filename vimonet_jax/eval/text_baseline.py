"""What a chat service answers to the questions alone: the floor of a table.

It is shown neither motion nor video. Whatever it gets right can be guessed from
how people ask, so a model that looks should be well above it.

    asked = benchmarks.variant(items, input='text')
    print(client.estimate(text_baseline.requests(asked)))
    print(text_baseline.notice(client, asked))
    lines = text_baseline.predict(client, asked, path)
    rows = scoring.score(asked, lines, scoring.verdicts(asked, lines))
"""

import json
import os
from collections.abc import Sequence

from vimonet_jax import chat_api
from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import asking, benchmarks, run

# How the published text-only rows were prompted is not known. This neither
# says that something is missing, which invites refusals that some references
# share, nor asks for a guess, which forbids them.
SYSTEM = (
  'You answer questions about how a person moves. Reply with the answer only: '
  'one short sentence in plain words, no formatting.'
)
_OPENING = {'role': 'system', 'content': SYSTEM}


def requests(items: Sequence[benchmarks.Item]) -> list[chat_api.Request]:
  """One an item: earlier turns as turns, then the open question.

  Args:
    items: of input `text`; see benchmarks.variant.
  """
  for item in items:
    if item.input != 'text':
      raise ValueError(
        f'Expected items of input text, found {item.input} for {item.id}; '
        "make them with benchmarks.variant(items, input='text')."
      )
  return [chat_api.Request(_id(item), _messages(item)) for item in items]


def notice(client: chat_api.Client, items: Sequence[benchmarks.Item]) -> str:
  """A sentence to print before `predict`: who gets to see what."""
  return asking.notice(
    client,
    requests(items),
    gets='questions',
    done='answered',
    by=client.service.model,
  )


def predict(
  client: chat_api.Client,
  items: Sequence[benchmarks.Item],
  path: str,
  *,
  progress: bool = True,
) -> list[run.Line]:
  """Asks every item, and puts the answers into a file of predictions.

  A line is as run.predict writes it, with the exact model as fingerprint and a
  hash of service and prompt as config_hash, and has a status besides. Where
  that is not `ok`, the text is empty, so the answer is scored as failed, and
  problem and reply say why; an answer that was cut short has failed, too.

  The file is written when all were asked, and keeps its lines of other models,
  prompts and items. What was paid for before is in the client's folder, so a
  run that was stopped goes on where it was, and asks again for what has failed.

  Args:
    client: its `max_tokens` should leave room for a sentence.
    items: of input `text`; see benchmarks.variant.
    path: JSON lines; is made, or added to.
    progress: draw a progress bar.

  Returns:
    One line for each item, in the items' order.

  Raises:
    BudgetError: what was paid for is kept; the same call goes on from there.
    ServiceError: the key, the model's name or a request is wrong.
  """
  known = run.read_predictions(path)
  asked = client.ask(requests(items), progress=progress)
  replies = {reply.id: reply for reply in asked}
  lines = _lines(client.service, items, replies)
  asking.warn([replies[_id(item)] for item in items], 'answers')
  ours = {(run.key(line), line['config_hash']) for line in lines}
  others = [
    line
    for line in known
    if (run.key(line), line.get('config_hash')) not in ours
  ]
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  records_lib.write_json_lines(f'{path}.part', [*others, *lines])
  os.replace(f'{path}.part', path)
  return lines


def _id(item: benchmarks.Item) -> str:
  return json.dumps(item.key)


def _messages(item: benchmarks.Item) -> list[chat_api.Json]:
  messages = [_OPENING]
  for question, answer in item.history:
    messages.append({'role': 'user', 'content': question})
    messages.append({'role': 'assistant', 'content': answer})
  return [*messages, {'role': 'user', 'content': item.question}]


def _lines(
  service: chat_api.Service,
  items: Sequence[benchmarks.Item],
  replies: dict[str, chat_api.Reply],
) -> list[run.Line]:
  found = [replies[_id(item)] for item in items]
  texts = [r.text.strip() if r.status == 'ok' else '' for r in found]
  columns = {
    'decoding': {
      'temperature': service.temperature,
      'max_new_tokens': service.max_tokens,
    },
    'config_hash': service.key(chat_api.Request('', [_OPENING])),
  }
  lines = run.as_predictions(items, texts)
  for line, reply in zip(lines, found, strict=True):
    line |= columns
    line['fingerprint'] = reply.model or service.model
    line['status'] = reply.status
    if reply.status != 'ok':
      line |= {
        'error': reply.problem or reply.status,
        'problem': reply.problem,
        'reply': reply.text,
      }
  return lines
