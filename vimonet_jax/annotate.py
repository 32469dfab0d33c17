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

import importlib
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import tqdm

from vimonet_jax import chat_api, chat_cache, chat_messages
from vimonet_jax.annotation import (
  batch_files,
  contradictions,
  key_frames,
  prompts,
  results,
)
from vimonet_jax.annotation import clips as clip_lib
from vimonet_jax.data import captions as caption_files

Settings = Mapping[str, Any]

# What one can do, and the packages that it takes.
_PACKAGES = {
  'dry_run': ('jsonschema',),
  'ask': ('jsonschema', 'openai'),
  'batch': ('jsonschema',),
}
# Requests of each step that a dry run shows: a thousand clips fill a terminal.
_SHOWN = 2
_SHOWN_LOST = 10
# Stands for a caption where nobody knows it yet, to tell what it may cost.
_UNKNOWN = ' '.join(['movement'] * prompts.MAX_WORDS)


def run(settings: Settings, output: str) -> int:
  """Annotates the clips of a folder, or tells what that would take.

  Args:
    settings: as configs/annotation.py has them.
    output: the folder to write to.

  Returns:
    1 where a clip is left without what it should have got, else 0; 0 for a dry
    run.

  Raises:
    ValueError: settings, clips or the environment are not as they should be,
      or another process is at work in the folder.
    ImportError: a package is missing.
  """
  _check(settings)
  # Another one would make the same frames, and write the same batches.
  with chat_cache.locked(output):
    task = _Task(settings, output)
    ways = {'dry_run': task.preview, 'ask': task.ask, 'batch': task.exchange}
    return ways[settings['mode']]()


class _Task:
  """Clips that can be asked about, whom to ask, and what came of it."""

  def __init__(self, settings: Settings, output: str):
    self.settings = settings
    self.output = output
    found = clip_lib.find(settings['path'], licence=settings['licence'])
    # Where nothing is filmed, nobody needs a model that sees.
    is_filmed = any(clip.video for clip in found)
    services = {
      step: _service(settings, step)
      for step in results.STEPS
      if step != 'captions' or is_filmed
    }
    # Both pay from one purse.
    self.clients = {
      step: chat_api.Client(service, os.path.join(output, 'service'))
      for step, service in services.items()
    }
    self.results = results.Results(services)
    self._keys: dict[tuple[str, str], str] = {}
    self.clips = list(self._readable(found))

  # --- Three ways ------------------------------------------------------------

  def preview(self) -> int:
    """Prints some of what is left to ask and what all costs; sends nothing."""
    self._take_known()
    for step, client in self.clients.items():
      left = client.preview(self._left(step))
      for shown in itertools.islice(left, _SHOWN):
        print(json.dumps(shown, indent=1, ensure_ascii=False))
    self._tell_plan()
    print(
      f'Nothing was sent, and of each step no more than {_SHOWN} requests are '
      'shown; --config.annotate.mode=ask sends all.'
    )
    return 0

  def ask(self) -> int:
    """Asks, and writes what came, also where something stops it."""
    self._read_batches(must_be_done=True)
    self._take_known()
    self._tell_plan()
    stopped = None
    try:
      for step, client in self.clients.items():
        for reply in client.ask(self._left(step), progress=True):
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
      self._check_budget(self._tell_plan(price=chat_api.BATCH_PRICE))
      for step, client in self.clients.items():
        for path, estimate in batch_files.write(
          client, self._left(step), folder, step
        ):
          print(
            f'{path}: {estimate.requests} requests, about '
            f'${estimate.usd:.4f}; put what comes of it beside it, as '
            f'{os.path.basename(batch_files.output(path))}, and give this '
            'command again.'
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
    self, step: str, *, stand_in: str = ''
  ) -> Iterator[chat_api.Request]:
    """One for each clip that a step is for.

    Questions about a clip wait for its caption: asked before, they would be
    others than those that are asked with it, and be paid twice.

    Args:
      step: of results.STEPS.
      stand_in: for captions that are still to come, whose clips are left out
        without it.
    """
    make = {
      'captions': self._caption_request,
      'questions': self._question_request,
    }[step]
    for clip in self.clips:
      if request := make(clip, stand_in):
        self._keys[step, clip.id] = self.clients[step].service.key(request)
        yield request

  def _caption_request(
    self, clip: clip_lib.Clip, stand_in: str
  ) -> chat_api.Request | None:
    del stand_in  # Nothing is missing here.
    if not clip.video:
      return None
    jpegs, step_s = self._frames(clip)
    return prompts.caption_request(
      clip.id, jpegs, step_s=step_s, label=clip.label, known=clip.captions
    )

  def _question_request(
    self, clip: clip_lib.Clip, stand_in: str
  ) -> chat_api.Request | None:
    known = self.results.known(clip)
    if clip.video and not self.results.is_settled('captions', clip.id):
      # With the id: no two of them are the same request.
      awaited = caption_files.Caption(f'{clip.id} {stand_in}')
      known = [*known, awaited] if stand_in else []
    return prompts.question_request(clip.id, known) if known else None

  def _left(self, step: str) -> Iterator[chat_api.Request]:
    """Requests of clips without a reply that stays."""
    return (
      request
      for request in self._requests(step)
      if not self.results.is_settled(step, request.id)
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
    self.results.take(step, reply, self._keys[step, reply.id])

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

  def _tell_plan(self, *, price: float = 1.0) -> float:
    """What cannot be asked, who is sent what, and about what all costs, USD."""
    total_usd = 0.0
    if lost := self.results.lost:
      print(f'Not to be asked about, {len(lost)} clips:')
      for told in lost[:_SHOWN_LOST]:
        print(f'  {told}')
      if len(lost) > _SHOWN_LOST:
        print(f'  ... and {len(lost) - _SHOWN_LOST} more')
    print('To be asked:')
    for step, client in self.clients.items():
      found = client.estimate(self._requests(step, stand_in=_UNKNOWN))
      total_usd += price * found.usd
      print(
        f'  {found.requests} for {step} of {client.service.model} and '
        f'{found.cached} that were answered or are the same; about '
        f'{found.input_tokens} tokens in, {found.output_tokens} out at most, '
        f'${price * found.usd:.4f}'
      )
    service = self.clients['questions'].service
    print(
      f'{service.base_url} is sent key frames, labels and captions of these '
      f'clips.\nAbout ${total_usd:.4f}; of a budget of '
      f'${service.budget_usd:.4f}, ${self._spent_usd:.4f} is spent.',
      flush=True,
    )
    return total_usd

  @property
  def _spent_usd(self) -> float:
    return self.clients['questions'].spent_usd

  def _check_budget(self, usd: float) -> None:
    """Whoever uploads a file pays for all of it."""
    budget_usd = self.settings['service']['budget_usd']
    if self._spent_usd + usd > budget_usd:
      raise ValueError(
        f'Expected batches within the budget of ${budget_usd:.4f}, found '
        f'${self._spent_usd:.4f} spent and about ${usd:.4f} to come; raise '
        'config.annotate.service.budget_usd, or annotate fewer clips.'
      )

  def _finish(self) -> None:
    self.results.write(self.output)
    print(
      f'\n{self.results.table()}\n'
      f'${self._spent_usd:.4f} spent in all\n'
      f'{os.path.abspath(self.output)}'
    )


def _check(settings: Settings) -> None:
  if not settings:
    raise ValueError(
      'Expected a configuration with a block annotate, found none; use '
      '--config=configs/tiny.py, or add the one of configs/annotation.py.'
    )
  if settings['mode'] not in _PACKAGES:
    raise ValueError(
      f'Expected config.annotate.mode to be one of {", ".join(_PACKAGES)}, '
      f'found {settings["mode"]!r}.'
    )
  for package in _PACKAGES[settings['mode']]:
    try:
      importlib.import_module(package)
    except ImportError:
      # Now, and not when all videos are read.
      raise chat_messages.missing(package) from None
  for name in ('every', 'side', 'max_images'):
    if settings[name] < 1:
      raise ValueError(
        f'Expected config.annotate.{name} of at least 1, found '
        f'{settings[name]}.'
      )


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
  fields = {**settings['service'], **fields}
  if fields['temperature'] < 0:
    fields['temperature'] = None
  return chat_api.Service(**fields)
