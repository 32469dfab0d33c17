"""A visitor's conversation, and how the model is asked its next question.

A question has one answer, or with `compare` one for each choice of inputs, all
written at the same time. Each remembers what was said with the same inputs:

    What is done first?   ()  (motion,)  (video,)  (motion, video)
    And then?                                      (motion, video)
    Where?                ()  (motion,)  (video,)  (motion, video)
                                                    '- has heard all three
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Sequence

from vimonet_jax.data import records
from vimonet_jax.infer import generate, scheduler
from vimonet_jax.web import clip as clips

# Text, motion, video, both: what the paper compares.
CHOICES = ((), ('motion',), ('video',), ('motion', 'video'))
# How often a place in the queue is looked up.
_LOOK_S = 0.3


@dataclasses.dataclass
class Said:
  """An answer, whole or on its way.

  Attributes:
    inputs: the media that it was shown.
    text: what is written of it.
    ahead: how many are begun before it, itself included; 0 once it is begun.
    end: how it ended, once it has.
    error: why there is none.
  """

  inputs: tuple[str, ...]
  text: str = ''
  ahead: int = 0
  end: scheduler.End | None = None
  error: str = ''

  @property
  def is_open(self) -> bool:
    return self.end is None and not self.error


@dataclasses.dataclass
class Turn:
  """A question and its answers."""

  question: str
  answers: list[Said]

  @property
  def is_open(self) -> bool:
    return any(said.is_open for said in self.answers)


@dataclasses.dataclass
class Visit:
  """What is known of somebody who has the page open.

  Attributes:
    clip: what is asked about.
    turns: what was said about it.
    writing: answers on their way.
  """

  clip: clips.Clip = clips.NOTHING
  turns: list[Turn] = dataclasses.field(default_factory=list)
  writing: list[scheduler.Answer] = dataclasses.field(default_factory=list)

  def begin(self, clip: clips.Clip) -> None:
    """Another conversation; nobody reads the answers of the last one."""
    self.stop()
    self.clip, self.turns = clip, []

  def stop(self) -> None:
    """Ends the answers that are being written where they are."""
    for answer in self.writing:
      answer.cancel()
    self.writing = []


def choices(visit: Visit, *, compare: bool) -> list[tuple[str, ...]]:
  """Inputs of the answers that a question gets."""
  has = clips.media(visit.clip)
  return [x for x in CHOICES if set(x) <= {*has}] if compare else [has]


def record(visit: Visit, inputs: tuple[str, ...], question: str):
  """The open question, behind what was said before with the same inputs."""
  turns = [
    records.Turn(turn.question, said.text)
    for turn in visit.turns
    for said in turn.answers
    if said.inputs == inputs and said.end is not None and said.text
  ]
  turns.append(records.Turn(question, ''))
  shown = clips.shown_to(visit.clip.record, inputs)
  return dataclasses.replace(shown, turns=tuple(turns))


async def ask(
  together: scheduler.Scheduler,
  visit: Visit,
  question: str,
  *,
  compare: bool = False,
  sampling: generate.Sampling = generate.GREEDY,
  seed: int = 0,
) -> AsyncIterator[None]:
  """Adds a turn to a visit, and stops whenever there is more of it to show.

  Whoever does not go on to the end ends the answers, too. What goes wrong with
  an answer stands in its place.
  """
  inputs = choices(visit, compare=compare)
  asked = [record(visit, some, question) for some in inputs]
  turn = Turn(question, [Said(some) for some in inputs])
  visit.turns.append(turn)
  loop, events = asyncio.get_running_loop(), asyncio.Queue()

  def tell(place: int, event: scheduler.Event) -> None:
    with contextlib.suppress(RuntimeError):  # The page is closed for good.
      loop.call_soon_threadsafe(events.put_nowait, (turn.answers[place], event))

  answers: list[scheduler.Answer] = []
  try:
    answers = together.ask_all(
      [scheduler.Question(some, sampling, seed) for some in asked], tell
    )
  except (ValueError, scheduler.BusyError, scheduler.ClosedError) as error:
    for said in turn.answers:
      said.error = str(error)
  # Beside those of another question, where somebody does not wait for them.
  visit.writing += answers
  try:
    yield
    while turn.is_open:
      before = [(said.ahead, said.text, said.is_open) for said in turn.answers]
      await _hear(events)
      for said, answer in zip(turn.answers, answers, strict=True):
        said.ahead = together.ahead(answer) if said.is_open else 0
      now = [(said.ahead, said.text, said.is_open) for said in turn.answers]
      if now != before:
        yield
  finally:
    for answer in answers:
      answer.cancel()
    visit.writing = [x for x in visit.writing if x not in answers]


async def _hear(events: asyncio.Queue) -> None:
  """Waits for what is said, for some time, and takes all that there is."""
  with contextlib.suppress(TimeoutError):
    async with asyncio.timeout(_LOOK_S):
      _take(*await events.get())
  while not events.empty():
    _take(*events.get_nowait())


def _take(said: Said, event: scheduler.Event) -> None:
  if isinstance(event, scheduler.End):
    said.text, said.end = event.text, event
  elif isinstance(event, Exception):
    said.error = ' '.join(str(event).split())
  else:
    said.text += event


def names(some: Sequence[str]) -> str:
  """Inputs in words: `motion and video`, `text only`."""
  return ' and '.join(some) or 'text only'
