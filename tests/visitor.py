"""What the page does in the browser of somebody who visits it, over HTTP."""

import json


def config(client):
  """What the page is made of, as its script reads it."""
  text = client.get('/').text
  start = text.index('window.gradio_config = ') + len('window.gradio_config = ')
  return json.JSONDecoder().raw_decode(text[start:])[0]


def call(client, event, data, *, session, told=None):
  """Does what the page does where something happens; gives what is shown."""
  found = config(client)
  number, wanted = next(
    (i, x)
    for i, x in enumerate(found['dependencies'])
    if any(target[1] == event for target in x['targets'])
  )
  body = {
    'data': data, 'event_data': told, 'session_hash': session,
    'fn_index': wanted.get('id', number),
  }  # fmt: skip
  joined = client.post('/gradio_api/queue/join', json=body)
  assert joined.status_code == 200, joined.text
  messages = []
  where = f'/gradio_api/queue/data?session_hash={session}'
  with client.stream('GET', where) as stream:
    for line in stream.iter_lines():
      if line.startswith('data: '):
        messages.append(json.loads(line[6:]))
        if messages[-1]['msg'] == 'process_completed':
          return messages
  return messages
