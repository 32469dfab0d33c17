"""How many questions a second a server answers, and whether all are right.

    python tests/benchmarks/serve_load.py --workdir=workdir/tiny

Asks the finished model in four ways, all greedy, and compares every answer with
that of --task=answer:

    one      one client, which waits for each answer
    many     64 clients at the same time, for two minutes
    openai   likewise with the client of the package openai, which needs more
             time for a question than the server does
    stop     64 clients with streams when the server is told to stop

Clients and server share the machine, so the processor time of both is told.
"""

import argparse
import asyncio
import base64
import collections
import contextlib
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import av
import numpy as np
import openai

from vimonet_jax.data import records
from vimonet_jax.synthetic import world

ROOT = pathlib.Path(__file__).parents[2]
KINDS = {
  'motion': ('motion',),
  'video': ('video',),
  'both': ('motion', 'video'),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--config', default='configs/tiny.py')
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--clients', type=int, default=64)
  parser.add_argument('--seconds', type=float, default=120)
  parser.add_argument('--clips', type=int, default=16)
  parser.add_argument('--questions', type=int, default=192)
  parser.add_argument(
    '--describe', action='store_true', help='ask for descriptions, only'
  )
  given = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    asked = _questions(folder, given)
    wanted = _answers(folder, given)
    bodies = [_body(folder, fields) for fields in asked]
    cases = [
      (body, wanted[fields['id']])
      for body, fields in zip(bodies, asked, strict=True)
    ]
    with _served(given) as (url, process):
      asyncio.run(_measure(url, process, cases, given))


def _questions(folder: pathlib.Path, given) -> list[dict]:
  """Questions about clips that lie in a folder, and the file of them."""
  made = world.World()
  clips = [made.make_record('test', i) for i in range(given.clips)]
  for i, clip in enumerate(clips):
    np.save(folder / f'{i}.npy', clip.motion)
    _film(folder / f'{i}.mp4', clip.frames)
  rng, asked = random.Random(0), []
  for number in range(given.questions):
    index = rng.randrange(len(clips))
    kind = rng.choice(sorted(KINDS))
    question = 'Describe what happens.'
    if not given.describe:
      question = rng.choice(clips[index].turns).question
    fields = {'id': str(number), 'question': question}
    for medium in KINDS[kind]:
      name = {'motion': 'npy', 'video': 'mp4'}[medium]
      fields[medium] = f'{index}.{name}'
    asked.append(fields)
  records.write_json_lines(folder / 'questions.jsonl', asked)
  return asked


def _film(path: pathlib.Path, frames: np.ndarray) -> None:
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('mpeg4', rate=4)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = 'yuv420p'
    for frame in frames:
      image = av.VideoFrame.from_ndarray(frame, format='rgb24')
      container.mux(stream.encode(image))
    container.mux(stream.encode())


def _command(given, task: str, *more: str) -> list[str]:
  return [
    sys.executable, '-m', 'vimonet_jax.main', f'--config={given.config}',
    f'--workdir={given.workdir}', f'--task={task}', *more,
  ]  # fmt: skip


def _answers(folder: pathlib.Path, given) -> dict[str, str]:
  """What --task=answer says."""
  output = folder / 'answers.jsonl'
  command = _command(
    given, 'answer', f'--input={folder / "questions.jsonl"}',
    f'--output={output}',
  )  # fmt: skip
  subprocess.run(command, check=True, cwd=ROOT)
  return {x['id']: x['answer'] for x in records.read_json_lines(output)}


def _body(folder: pathlib.Path, fields: dict) -> dict:
  parts = [{'type': 'text', 'text': fields['question']}]
  for medium, name in (('motion', 'npy'), ('video', 'mp4')):
    if medium in fields:
      data = base64.b64encode((folder / fields[medium]).read_bytes()).decode()
      parts.append({'type': medium, medium: {'data': data, 'format': name}})
  messages = [{'role': 'user', 'content': parts}]
  return {'model': 'loaded', 'messages': messages}


@contextlib.contextmanager
def _served(given) -> Iterator[tuple[str, subprocess.Popen]]:
  """A server of its own; its address and its process."""
  command = _command(
    given, 'serve', '--config.serve.port=0', '--config.serve.name=loaded'
  )
  environment = {**os.environ, 'PYTHONUNBUFFERED': '1'}
  process = subprocess.Popen(
    command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
  )
  try:
    for line in process.stdout:
      if line.startswith('Serving at'):
        yield line.split()[-1], process
        break
    print(process.stdout.read().strip() or 'The server did not start.')
    print('exit code', process.wait(60))
  finally:
    process.kill()


class _Client:
  """One connection, over and over; as little as HTTP needs."""

  def __init__(self, url: str):
    host, _, port = url.removeprefix('http://').partition('/')[0].partition(':')
    self._address = host, int(port)
    self._streams = None

  async def ask(self, body: bytes) -> str:
    """The answer; raises where it is none."""
    if self._streams is None:
      self._streams = await asyncio.open_connection(*self._address)
    reader, writer = self._streams
    writer.write(
      b'POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n'
      b'Content-Type: application/json\r\n'
      b'Content-Length: %d\r\n\r\n%b' % (len(body), body)
    )
    head = (await reader.readuntil(b'\r\n\r\n')).decode().lower()
    length = int(head.partition('content-length: ')[2].partition('\r\n')[0])
    found = json.loads(await reader.readexactly(length))
    if ' 200 ' not in head.partition('\r\n')[0]:
      raise RuntimeError(found)
    return found['choices'][0]['message']['content']


async def _measure(url, process, cases, given) -> None:
  raw = [(json.dumps(body).encode(), answer) for body, answer in cases]
  for number in (1, given.clients):  # Compiles, and reads all clips once.
    await _ask_for(20, [_Client(url).ask for _ in range(number)], raw)
  seconds = given.seconds
  one = await _timed('one', seconds / 4, [_Client(url).ask], raw, process)
  many = await _timed(
    'many', seconds, [_Client(url).ask for _ in range(given.clients)], raw,
    process,
  )  # fmt: skip
  print(f'many / one: {many / one:.2f}')
  client = openai.AsyncOpenAI(
    base_url=url, api_key='any', max_retries=0, timeout=300
  )

  async def ask(body):
    found = await client.chat.completions.create(**body)
    return found.choices[0].message.content

  await _timed('openai, one', seconds / 4, [ask], cases, process)
  await _timed('openai', seconds, [ask] * given.clients, cases, process)
  await _stop(client, process, cases, given)


async def _ask_for(seconds: float, ways, cases):
  """Asks at random from each way; what came of it."""
  end = time.monotonic() + seconds
  counts: collections.Counter = collections.Counter()
  waits: list[float] = []

  async def go_on(number: int, ask) -> None:
    rng = random.Random(number)
    while time.monotonic() < end:
      body, wanted = rng.choice(cases)
      began = time.monotonic()
      try:
        counts['right' if await ask(body) == wanted else 'wrong'] += 1
      except Exception as error:
        counts['lost'] += 1
        print(f'lost: {error!r}'[:200])
        return
      waits.append(time.monotonic() - began)

  await asyncio.gather(*(go_on(i, ask) for i, ask in enumerate(ways)))
  return counts, waits


async def _timed(name: str, seconds: float, ways, cases, process) -> float:
  """Tells and returns answers a second."""
  began, ours, theirs = time.monotonic(), time.process_time(), _cpu(process)
  counts, waits = await _ask_for(seconds, ways, cases)
  took = time.monotonic() - began
  ours, theirs = time.process_time() - ours, _cpu(process) - theirs
  rate = (counts['right'] + counts['wrong']) / took
  slowest = statistics.quantiles(waits, n=20)[-1]
  print(
    f'{name}: {rate:.1f} answers a second over {took:.0f} s, right '
    f'{counts["right"]}, wrong {counts["wrong"]}, lost {counts["lost"]}; '
    f'waits {statistics.median(waits) * 1e3:.0f} ms, the slowest 5 % '
    f'{slowest * 1e3:.0f} ms; processor: server {theirs / took:.2f} cores, '
    f'clients {ours / took:.2f}',
    flush=True,
  )
  return rate


def _cpu(process: subprocess.Popen) -> float:
  """Seconds of processor time that a process has had, without children."""
  fields = pathlib.Path(f'/proc/{process.pid}/stat').read_text().rpartition(')')
  user, system = fields[2].split()[11:13]
  return (int(user) + int(system)) / os.sysconf('SC_CLK_TCK')


async def _stop(client, process, cases, given) -> None:
  """Tells the server to stop while all clients have a stream each."""
  counts: collections.Counter = collections.Counter()

  async def go_on(number: int) -> None:
    rng = random.Random(number)
    while True:
      body, wanted = rng.choice(cases)
      try:
        stream = await client.chat.completions.create(**body, stream=True)
      except openai.APIConnectionError:
        counts['refused'] += 1
        return
      counts['accepted'] += 1
      text, reason = '', None
      with contextlib.suppress(openai.APIError):
        async for chunk in stream:
          text += chunk.choices[0].delta.content or ''
          reason = chunk.choices[0].finish_reason or reason
      counts['whole' if reason and text == wanted else 'cut'] += 1

  clients = [asyncio.ensure_future(go_on(i)) for i in range(given.clients)]
  await asyncio.sleep(10)
  process.send_signal(signal.SIGTERM)
  await asyncio.gather(*clients)
  print('stop:', dict(counts))


if __name__ == '__main__':
  main()
