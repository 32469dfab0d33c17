"""The task `annotate`: captions and questions from a paid chat service.

    python -m vimonet_jax.main --config=configs/tiny.py --task=annotate \\
      --config.annotate.path=DIR --config.annotate.mode=dry_run

Two steps: a vision model describes key frames of each clip's video, a language
model makes questions and answers of the captions. In the output folder are

    captions.jsonl   one line a clip: id, split, turns, provenance
    questions.jsonl  the same, with about seven turns
    rejected.jsonl   what was not kept, and why
    frames/          what the service was shown
    service/         its replies and what was spent; see chat_api
    batch/           files for the Batch API
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import tqdm

from vimonet_jax import chat_api
from vimonet_jax.annotation import batch_files, contradictions
from vimonet_jax.annotation import clips as clip_lib
from vimonet_jax.annotation import key_frames, prompts, results
from vimonet_jax.data import captions as caption_files

Settings = Mapping[str, Any]

MODES = ('dry_run', 'ask', 'batch')
# For configurations without a block `annotate`.
SETTINGS = {
  # The folder of the clips; see annotation/clips.py.
  'path': '',
  # dry_run: print what would be asked, and about what it costs. ask: do it.
  # batch: read batch/*.out.jsonl, and write *.in.jsonl of what is left.
  'mode': 'dry_run',
  # Of clips for which clips.jsonl names none.
  'licence': 'unknown',
  # Which frames of a video are shown, their longer side, and how many of a clip
  # there may be.
  'every': key_frames.EVERY,
  'side': 512,
  'max_images': 40,
  # Who is asked, see chat_api.Service; the key is in the environment only.
  'service': {
    'base_url': 'https://api.openai.com/v1',
    'key_variable': 'OPENAI_API_KEY',
    'budget_usd': 5.0,
    'max_at_once': 8,
    'requests_per_minute': 300.0,
    'timeout_s': 120.0,
    'tries': 3,
  },
  # The models of both steps, and what a million tokens cost in USD; negative:
  # not known, and then nothing is asked. An image counts as image_tokens at
  # most: 85 with gpt-4o, which sees it at low detail.
  'captions': {
    'model': '',
    'input_usd': -1.0,
    'output_usd': -1.0,
    'max_tokens': 256,
    'image_tokens': 1445,
  },
  'questions': {
    'model': '',
    'input_usd': -1.0,
    'output_usd': -1.0,
    'max_tokens': 2048,
  },
}  # fmt: skip
# How long a caption is where nobody knows it yet.
_UNKNOWN = caption_files.Caption(' '.join(['movement'] * prompts.MAX_WORDS))


def run(settings: Settings, output: str) -> int:
  """Annotates the clips of a folder, or tells what that would take.

  Args:
    settings: those of `SETTINGS` that differ.
    output: the folder to write to.

  Returns:
    1 where a clip is left without what it should have got, else 0; 0 for a dry
    run.

  Raises:
    ValueError: settings, clips or the environment are not as they should be.
  """
  settings = _complete(settings)
  task = _Task(settings, output)
  return {'dry_run': task.preview, 'ask': task.ask, 'batch': task.exchange}[
    settings['mode']
  ]()


class _Task:
  """Clips that can be asked about, whom to ask, and what came of it."""

  def __init__(self, settings: Settings, output: str):
    self.settings = settings
    self.output = output
    services = {step: _service(settings, step) for step in results.STEPS}
    # Both pay from one purse.
    self.clients = {
      step: chat_api.Client(service, os.path.join(output, 'service'))
      for step, service in services.items()
    }
    self.results = results.Results(services)
    found = clip_lib.find(settings['path'], licence=settings['licence'])
    self.clips = list(self._readable(found))

  # --- Three ways ------------------------------------------------------------

  def preview(self) -> int:
    """Prints what is left to ask and what it costs; sends nothing."""
    self._take_known()
    for step, client in self.clients.items():
      for shown in client.preview(self._left(step)):
        print(json.dumps(shown, indent=1, ensure_ascii=False))
    self._tell_plan()
    print('Nothing was sent; --config.annotate.mode=ask sends it.')
    return 0

  def ask(self) -> int:
    """Asks, and writes what came, also where something stops it."""
    self._read_batches(must_be_done=True)
    self._tell_plan()
    stopped = None
    try:
      for step, client in self.clients.items():
        for reply in client.ask(self._requests(step), progress=True):
          self._take(step, reply)
    except (chat_api.BudgetError, chat_api.ServiceError) as error:
      stopped = error
    finally:
      self._finish()
    if stopped:
      print(f'\n{stopped}', file=sys.stderr)
    return 0 if self.results.is_whole else 1

  def exchange(self) -> int:
    """Reads outputs of batches, and writes inputs of what is left."""
    self._read_batches()
    self._take_known()
    folder = self._batches
    if pending := batch_files.pending(folder):
      print(f'Not answered yet: {", ".join(pending)} in {folder}.')
    else:
      self._tell_plan(price=chat_api.BATCH_PRICE)
      for step, client in self.clients.items():
        for path, estimate in batch_files.write(
          client, self._left(step), folder, step
        ):
          print(
            f'{path}: {estimate.requests} requests, about '
            f'${estimate.usd:.4f} as a batch; put what comes of it beside it, '
            f'as {batch_files.output(path)}, and give this command again.'
          )
    self._finish()
    return 0 if self.results.is_whole else 1

  # --- Clips and requests ----------------------------------------------------

  def _readable(self, found: list[clip_lib.Clip]) -> Iterator[clip_lib.Clip]:
    """Clips of which all files can be read, before anything is paid."""
    for clip in tqdm.tqdm(found, desc='clips', dynamic_ncols=True):
      try:
        if not clip.video and not clip.captions:
          raise ValueError(
            'Expected a video or captions to ask about, found none; add one.'
          )
        joints_TJ3 = clip_lib.joints(clip)
        if clip.video:
          self._frames(clip)
      except (ValueError, OSError) as error:
        self.results.lose(clip, ' '.join(str(error).split()))
        continue
      self.results.add(
        clip,
        None if joints_TJ3 is None else contradictions.measure(joints_TJ3),
      )
      yield clip

  def _frames(self, clip: clip_lib.Clip) -> key_frames.KeyFrames:
    return key_frames.read(
      clip.video,
      os.path.join(self.output, 'frames'),
      clip.id,
      every=self.settings['every'],
      side=self.settings['side'],
      most=self.settings['max_images'],
    )

  def _requests(
    self, step: str, *, unknown: caption_files.Caption | None = None
  ) -> Iterator[chat_api.Request]:
    """One for each clip that a step is for.

    Questions about a clip wait for its caption: asked before, they would be
    others than those that are asked with it, and be paid twice.

    Args:
      step: of results.STEPS.
      unknown: stands for captions that are still to come.
    """
    for clip in self.clips:
      if step == 'captions':
        if clip.video:
          yield self._caption_request(clip)
        continue
      known = self.results.known(clip)
      if clip.video and not self.results.is_settled('captions', clip):
        known = [*known, unknown] if unknown else []
      if known:
        yield prompts.question_request(clip.id, known)

  def _caption_request(self, clip: clip_lib.Clip) -> chat_api.Request:
    jpegs, step_s = self._frames(clip)
    return prompts.caption_request(
      clip.id, jpegs, step_s=step_s, label=clip.label, known=clip.captions
    )

  def _left(self, step: str) -> Iterator[chat_api.Request]:
    """Requests without a reply that stays."""
    client = self.clients[step]
    return (
      request
      for request in self._requests(step)
      if client.estimate([request]).requests
    )

  # --- Replies ---------------------------------------------------------------

  def _take_known(self) -> None:
    """Replies that there are already; asks nothing."""
    for step, client in self.clients.items():
      known = (
        request
        for request in self._requests(step)
        if not client.estimate([request]).requests
      )
      for reply in client.ask(known):
        self._take(step, reply)

  def _take(self, step: str, reply: chat_api.Reply) -> None:
    self.results.take(step, reply)

  @property
  def _batches(self) -> str:
    return os.path.join(self.output, 'batch')

  def _read_batches(self, *, must_be_done: bool = False) -> None:
    """What came of batches, which is kept among the other replies."""
    for step, client in self.clients.items():
      for path, report in batch_files.read(client, self._batches, step):
        print(
          f'{path}: {report.added} replies are new, {report.known} were known, '
          f'{len(report.errors)} are none'
          + ''.join(f'\n  {key}: {e}' for key, e in report.errors.items())
        )
    pending = batch_files.pending(self._batches)
    if must_be_done and pending:
      raise ValueError(
        f'Expected batches to be answered before the same is asked otherwise '
        f'and paid twice, found {", ".join(pending)} in {self._batches} '
        'without an output; put it there, or remove the input if nobody '
        'uploaded it.'
      )

  # --- What is told ----------------------------------------------------------

  def _tell_plan(self, *, price: float = 1.0) -> None:
    """To whom what is sent, and about what that costs."""
    total = 0.0
    for step, client in self.clients.items():
      found = client.estimate(self._requests(step, unknown=_UNKNOWN))
      total += price * found.usd
      print(
        f'{step}: {found.requests} requests to {client.service.base_url} '
        f'({client.service.model}), {found.cached} answered before; at most '
        f'{found.input_tokens} + {found.output_tokens} tokens, '
        f'${price * found.usd:.4f}'
      )
    service = self.clients['captions'].service
    print(
      f'Whoever runs {service.base_url} is sent the key frames, labels and '
      f'captions of these clips.\nAbout ${total:.4f} in all; '
      f'${self.clients["captions"].spent_usd:.4f} of a budget of '
      f'${service.budget_usd:.4f} is spent.',
      flush=True,
    )

  def _finish(self) -> None:
    self.results.write(self.output)
    print(
      f'\n{self.results.table()}\n'
      f'${self.clients["captions"].spent_usd:.4f} spent in all\n'
      f'{os.path.abspath(self.output)}'
    )


def _complete(settings: Settings) -> Settings:
  """All settings; those that there are not, and modes likewise, are refused."""
  found = {}
  for name, default in SETTINGS.items():
    given = settings.get(name, default)
    found[name] = (
      {**default, **given} if isinstance(default, Mapping) else given
    )
  if found['mode'] not in MODES:
    raise ValueError(
      f'Expected config.annotate.mode to be one of {", ".join(MODES)}, found '
      f'{found["mode"]!r}.'
    )
  for name in ('every', 'side', 'max_images'):
    if found[name] < 1:
      raise ValueError(
        f'Expected config.annotate.{name} of at least 1, found {found[name]}.'
      )
  return found


def _service(settings: Settings, step: str) -> chat_api.Service:
  """Whom a step asks."""
  fields = settings[step]
  if not fields['model'] or min(fields['input_usd'], fields['output_usd']) < 0:
    raise ValueError(
      f'Expected config.annotate.{step} to name a model and what a million '
      f'tokens of it cost, found model={fields["model"]!r}, '
      f'input_usd={fields["input_usd"]}, output_usd={fields["output_usd"]}; '
      'set all three from its price list (0 where it costs nothing), for the '
      'budget counts with them.'
    )
  return chat_api.Service(**{**settings['service'], **fields})
