"""Many ask at the same time, and are answered together.

One thread has the device. Between two steps it takes in those who wait, a batch
of prompts of one shape at a time, and gives out what was written:

    ask -> waiting -> begin (a batch of prompts) -> advance, advance ... -> end
                            |                              |
                            '------ events of the answer --'

What an answer says does not depend on whom it is written with: its draws follow
its own seed, and a greedy one is that of Engine.answer (but for rounding, which
differs with a batch's shape).
"""

import collections
import dataclasses
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from vimonet_jax.data import batches, packing, records
from vimonet_jax.infer import clips, engine, generate, pieces, slots

# Slots have room for this many tokens, or for 3 / 2, 2, 3, 4, 6 ... times as
# many: every step of every answer reads all of a slot.
_LEAST_LENGTH = 128
# Letters of the longest token that SentencePiece makes, unless told otherwise.
_LONGEST_TOKEN = 16
# Steps after which slots that nobody needs go.
_PATIENCE = 32


class TooLongError(ValueError):
  """A question and its longest answer have no room; says what would."""


class BusyError(RuntimeError):
  """As many wait as may; who comes later could be answered."""


class ClosedError(RuntimeError):
  """Nobody is answered any more."""


@dataclasses.dataclass(frozen=True)
class Question:
  """What somebody asks.

  Attributes:
    record: an open question, as for Engine.answer.
    sampling: how its answer's tokens are drawn, and how many there may be.
    seed: of the draws; modulo 2^32.
    stop: texts that the answer ends before.
  """

  record: records.Record
  sampling: generate.Sampling = generate.GREEDY
  seed: int = 0
  stop: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class End:
  """How an answer ended.

  Attributes:
    text: all of it.
    reason: `stop` where the model or a stop text ended it, `length` where there
      was no room for more, `cancelled` where nobody read on.
    prompt_tokens: media included.
    new_tokens: that were drawn, the end token included.
    waited_s: seconds before its clips were encoded.
    encode_s: seconds of encoding clips, those of its batch together; next to
      none where all of them had been asked about before.
    prompt_s: seconds of reading the prompt, in a batch.
    tokens_s: seconds of writing, from the first token to the last.
  """

  text: str
  reason: str
  prompt_tokens: int
  new_tokens: int
  waited_s: float
  encode_s: float
  prompt_s: float
  tokens_s: float


class Load(NamedTuple):
  """How much there is to do.

  Attributes:
    waiting: answers that have not been begun.
    active: answers that are being written.
    is_open: more are accepted.
  """

  waiting: int
  active: int
  is_open: bool


# A piece of the answer, its end, or what went wrong instead.
Event = str | End | Exception


class Answer:
  """An answer that is being written; iterating gives its pieces as they come.

  Attributes:
    end: how it ended, once iterating has.
  """

  def __init__(self):
    self.end: End | None = None
    self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    self._is_cancelled = threading.Event()

  def __iter__(self) -> Iterator[str]:
    while isinstance(event := self._events.get(), str):
      yield event
    self._events.put(event)  # For whoever asks again.
    if isinstance(event, Exception):
      raise event
    self.end = event

  def result(self) -> End:
    """Waits for the end; raises what went wrong."""
    collections.deque(self, maxlen=0)
    return self.end

  def cancel(self) -> None:
    """Nobody reads on: it ends at the next step, or is never begun."""
    self._is_cancelled.set()


@dataclasses.dataclass(eq=False)
class _Job:
  """An answer on its way.

  Attributes:
    answer: what the asking thread has of it.
    asked: the question.
    prompt: the question as tokens.
    keys: of its clips.
    listener: is called with each event.
    pieces: makes text of its tokens.
    said: what was told.
    new_tokens: drawn so far.
    is_over: its last event was told.
    times: when it came, when its clips were begun, when its prompt was, and
      when that was read.
  """

  answer: Answer
  asked: Question
  prompt: engine.Prompt
  keys: clips.Keys
  listener: Callable[[Event], None]
  pieces: pieces.Pieces
  said: list[str] = dataclasses.field(default_factory=list)
  new_tokens: int = 0
  is_over: bool = False
  times: list[float] = dataclasses.field(default_factory=list)

  @property
  def shape(self) -> packing.RowShape:
    return self.prompt.shape

  @property
  def prompt_tokens(self) -> int:
    return len(self.prompt.example['tokens'])

  def room(self, more: int) -> int:
    """Tokens that a slot has to hold for so many more of the answer."""
    written = self.prompt_tokens + self.new_tokens
    # What its prompt leaves is copied as it was padded.
    return max(written + more, slots.padded(self.shape))

  @property
  def is_cancelled(self) -> bool:
    return self.answer._is_cancelled.is_set()

  def tell(self, event: Event) -> None:
    """Nothing comes after an end, and nobody's listener ends our thread."""
    if self.is_over:
      return
    self.is_over = not isinstance(event, str)
    try:
      self.listener(event)
    except Exception:
      logging.exception('Nobody could be told of an answer:')
      self.answer.cancel()

  def say(self, piece: str) -> None:
    if piece:
      self.said.append(piece)
      self.tell(piece)

  def finish(self, reason: str) -> None:
    self.say(self.pieces.end())
    now = time.monotonic()
    came, began, encoded, read = [*self.times, now, now, now][:4]
    self.tell(
      End(
        text=''.join(self.said),
        reason=reason,
        prompt_tokens=self.prompt_tokens,
        new_tokens=self.new_tokens,
        waited_s=began - came,
        encode_s=encoded - began,
        prompt_s=read - encoded,
        tokens_s=now - read,
      )
    )


class Scheduler:
  """Answers questions of many threads, several at a time.

  Answers are complete once they are accepted: `close` waits for them.

  Attributes:
    max_waiting: who comes when so many wait is refused.
  """

  def __init__(
    self,
    asked: engine.Engine,
    *,
    max_rows: int = 64,
    max_length: int = 4096,
    max_waiting: int = 1024,
    steps: int = 4,
    logits_fn: generate.LogitsFn | None = None,
  ):
    """Starts the thread.

    Args:
      asked: the model.
      max_rows: how many are answered at the same time.
      max_length: tokens of a prompt, media included, and its answer.
      max_waiting: who comes when so many wait is refused.
      steps: tokens that are written before others may join.
      logits_fn: changes scores before every draw, as a watermark does.
    """
    self._engine = asked
    self._max_rows = max_rows
    self._max_length = max_length
    self.max_waiting = max_waiting
    self._steps = steps
    self._logits_fn = logits_fn
    self._slots = slots.Slots(asked, logits_fn=logits_fn)
    self._clips = clips.Clips(asked)
    self._waiting: list[_Job] = []
    # By slot, in the worker's hands alone.
    self._active: dict[int, _Job] = {}
    # Steps for which there were more slots, or longer ones, than needed.
    self._idle = 0
    self._changed = threading.Condition()
    self._is_open, self._is_given_up = True, False
    self._worker = threading.Thread(
      target=self._work, name='scheduler', daemon=True
    )
    self._worker.start()

  def ask(
    self, asked: Question, tell: Callable[[Event], None] | None = None
  ) -> Answer:
    """Accepts a question.

    Args:
      asked: the question.
      tell: is called by the thread that answers, with each event; None leaves
        them for who iterates over the answer.

    Raises:
      ValueError: its media are none the model reads.
      TooLongError: there is no room for it and its longest answer.
      BusyError: too many wait.
      ClosedError: after `close`.
    """
    listener = None if tell is None else lambda _, event: tell(event)
    return self.ask_all([asked], listener)[0]

  def ask_all(
    self,
    asked: Sequence[Question],
    tell: Callable[[int, Event], None] | None = None,
  ) -> list[Answer]:
    """Accepts all of several questions or none, to be begun together.

    Args:
      asked: the questions.
      tell: as for `ask`, with a question's place before the event.

    Raises:
      ValueError, TooLongError, BusyError, ClosedError: see `ask`.
    """
    jobs = []
    for i, question in enumerate(asked):
      listener = None if tell is None else functools.partial(tell, i)
      jobs.append(self._job(question, listener))
    with self._changed:
      if not self._is_open:
        raise ClosedError('Expected to be asked before the end, found it past.')
      if len(self._waiting) + len(jobs) > self.max_waiting:
        raise BusyError(
          f'Expected fewer than {self.max_waiting} who wait, found as many; '
          'come again later.'
        )
      self._waiting += jobs
      self._changed.notify()
    return [job.answer for job in jobs]

  def _job(
    self, asked: Question, listener: Callable[[Event], None] | None
  ) -> _Job:
    self._engine.check(asked.record)
    self._check_letters(asked.record)
    answer = Answer()
    job = _Job(
      answer,
      asked,
      prompt=self._engine.prompt(asked.record),
      keys=clips.keys(asked.record),
      listener=listener or answer._events.put,
      pieces=pieces.Pieces(self._engine.bundle.layout.tokenizer, asked.stop),
      times=[time.monotonic()],
    )
    if job.room(asked.sampling.max_new_tokens) > self._max_length:
      raise TooLongError(
        f'Expected at most {self._max_length} tokens of a question, its clips '
        f'and its answer, found {job.prompt_tokens} and '
        f'{asked.sampling.max_new_tokens}; ask in fewer words or for a shorter '
        'answer.'
      )
    return job

  def _check_letters(self, record: records.Record) -> None:
    """What cannot fit is not made tokens of, which takes 0.5 s a million."""
    letters = sum(len(x.question) + len(x.answer) for x in record.turns)
    if letters > _LONGEST_TOKEN * self._max_length:
      raise TooLongError(
        f'Expected at most {self._max_length} tokens of a question, its clips '
        f'and its answer, found {letters} letters; ask in fewer words.'
      )

  def ahead(self, answer: Answer) -> int:
    """How many are begun before an answer, itself included; 0 once it is."""
    with self._changed:
      for place, job in enumerate(self._waiting, start=1):
        if job.answer is answer:
          return place
    return 0

  def load(self) -> Load:
    """How much there is to do."""
    with self._changed:
      return Load(
        waiting=len(self._waiting),
        active=len(self._active),
        is_open=self._is_open and self._worker.is_alive(),
      )

  def close(self) -> None:
    """Accepts nobody any more, and finishes what it has accepted."""
    with self._changed:
      self._is_open = False
      self._changed.notify()
    self._worker.join()

  def __enter__(self) -> 'Scheduler':
    return self

  def __exit__(self, kind: type | None, *_) -> None:
    """`close`; where something was raised, those accepted are given up.

    In any case the thread ends before Python does, which it would abort.
    """
    with self._changed:  # Or somebody might come in between.
      self._is_given_up, self._is_open = kind is not None, False
    self.close()

  # --- In the thread that answers --------------------------------------------

  def _work(self) -> None:
    try:
      self._answer()
    finally:  # Whatever has ended it, nobody waits for ever.
      with self._changed:
        self._is_open = False
        left, self._waiting = self._waiting, []
      end = ClosedError('Expected to be answered, found the end.')
      self._give_up(end, left)

  def _answer(self) -> None:
    while self._is_something_to_do() and not self._is_given_up:
      some: list[_Job] = []
      try:
        # All for whom there is room: a step costs nearly the same for many. Who
        # comes and goes in the meantime does not keep the others from it.
        begun = 0
        while begun < self._max_rows and (some := self._next()):
          self._begin(some)
          begun += len(some)
        if self._active:
          self._advance()
        self._shrink()
      except Exception as error:  # Whoever asked has to know.
        logging.exception('Answering failed:')
        self._give_up(error, some)

  def _is_something_to_do(self) -> bool:
    """Waits for it; false when there will be nothing more."""
    with self._changed:
      self._changed.wait_for(
        lambda: self._waiting or self._active or not self._is_open
      )
      return bool(self._waiting or self._active)

  def _next(self) -> list[_Job]:
    """Some of those who wait for whom there is room, alike in shape."""
    room = self._max_rows - len(self._active)
    with self._changed:
      gone = [job for job in self._waiting if job.is_cancelled]
      left = [job for job in self._waiting if not job.is_cancelled]
      alike = [job for job in left if job.shape == left[0].shape][:room]
      some = alike[: self._engine.share(len(alike), self._max_rows)]
      self._waiting = [job for job in left if job not in some]
    for job in gone:
      job.finish('cancelled')
    return some

  def _begin(self, some: list[_Job]) -> None:
    places = self._places(some)
    shape, rows = some[0].shape, self._engine.rows(len(some), self._max_rows)
    _note_time(some)
    banks = self._clips.banks(
      [job.asked.record for job in some],
      [job.keys for job in some],
      max_rows=self._max_rows,
    )
    _note_time(some)
    batch = batches.words_of(
      [job.prompt.example for job in some],
      rows=rows,
      length=shape.length,
      has_words=shape.has_words,
    )
    new = [slots.New(job.asked.sampling, job.asked.seed) for job in some]
    step = self._slots.begin(batch, banks, new, places)
    _note_time(some)
    self._active |= zip(places, some, strict=True)
    self._tell(places, step)

  def _advance(self) -> None:
    _, length = self._need(self._active.values())
    if length > self._slots.length:
      self._fit(self._slots.size, length)
    step = self._slots.advance(list(self._active), self._steps)
    self._tell(list(self._active), step)

  def _tell(self, places: Sequence[int], step: slots.Step) -> None:
    """What was written, to those who asked; who is done makes room."""
    for place, ids, is_open, has_ended in zip(places, *step, strict=True):
      job = self._active[place]
      job.new_tokens += len(ids)
      job.say(job.pieces.add(ids))
      is_stopped = has_ended or job.pieces.is_stopped
      if is_stopped or job.is_cancelled or not is_open:
        del self._active[place]
        job.finish(
          'stop' if is_stopped else 'length' if not is_open else 'cancelled'
        )

  def _places(self, some: list[_Job]) -> list[int]:
    """Free slots that are long enough; makes them where there are too few."""
    size, length = self._need([*self._active.values(), *some])
    if (size, length) == (self._slots.size, self._slots.length):
      self._idle = 0
    if self._active:
      size = max(size, self._slots.size)
      length = max(length, self._slots.length)
    self._fit(size, length)
    free = (i for i in range(self._slots.size) if i not in self._active)
    return [next(free) for _ in some]

  def _need(self, jobs: Sequence[_Job]) -> tuple[int, int]:
    """How many slots they take, and how long ones for the next steps."""
    # The first token is drawn with the prompt.
    longest = max(job.room(1 + self._steps) for job in jobs)
    whole = _LEAST_LENGTH
    while whole < longest:
      whole *= 2
    length = whole * 3 // 4
    if length < max(longest, _LEAST_LENGTH):
      length = whole
    return self._engine.rows(len(jobs), self._max_rows), length

  def _fit(self, size: int, length: int) -> None:
    if (size, length) != (self._slots.size, self._slots.length):
      self._slots.fit(size, length, list(self._active))
      self._active = dict(enumerate(self._active.values()))
      self._idle = 0

  def _shrink(self) -> None:
    """Once fewer slots, or shorter ones, have been enough for some time."""
    if not self._active:
      return
    need = self._need(self._active.values())
    is_more = need != (self._slots.size, self._slots.length)
    self._idle = self._idle + 1 if is_more else 0
    if self._idle > _PATIENCE:
      self._fit(*need)

  def _give_up(self, error: Exception, some: Sequence[_Job]) -> None:
    """Those who were being answered are told why they are not."""
    for job in {*self._active.values(), *some}:
      job.tell(error)
    self._active = {}
    # What was on the device may be gone.
    self._slots = slots.Slots(self._engine, logits_fn=self._logits_fn)


def _note_time(some: Sequence[_Job]) -> None:
  now = time.monotonic()
  for job in some:
    job.times.append(now)
