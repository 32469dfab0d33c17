"""What happens when a visitor does something on the page.

Nobody's clip goes to the browser and back: a `talk.Visit` stays here, under the
name of the browser's session, and goes when the page is closed.
"""

import collections
import dataclasses
import functools
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import gradio as gr

from vimonet_jax.apps import completions
from vimonet_jax.audit import log as logs
from vimonet_jax.audit import policy as policies
from vimonet_jax.infer import generate, scheduler
from vimonet_jax.web import clip as clips
from vimonet_jax.web import noted, talk, transcript

MOST_LETTERS = 2000
HINT = (
  '<p class="hint">Ask about what is shown. With <b>compare</b> the same '
  'question is answered from its text alone, from each input, and from both.'
  '</p>'
)
_WARMING = (
  '<p class="hint">The model was started just now: until it is warm, answers '
  'take longer.</p>'
)
_UNWRITTEN = (
  'Expected a log to write this question down in, found that it cannot be '
  'written; tell who runs this page.'
)
# Nothing is wrong, and nothing to be read out.
QUIET = {'wrong': '', 'aloud': ''}
# Visits that are remembered; the one that was quiet for longest is forgotten.
_MOST_VISITS = 200


class Visits:
  """Who has the page open."""

  def __init__(self):
    self._visits: collections.OrderedDict[str, talk.Visit]
    self._visits = collections.OrderedDict()

  def __len__(self) -> int:
    return len(self._visits)

  def of(self, session: str) -> talk.Visit:
    """A session's, from its first word on."""
    visit = self._visits.setdefault(session, talk.Visit())
    self._visits.move_to_end(session)
    while len(self._visits) > _MOST_VISITS:
      self.end(next(iter(self._visits)))
    return visit

  def end(self, session: str) -> None:
    """Forgets it, and nobody writes answers for it any more."""
    if visit := self._visits.pop(session, None):
      visit.stop()


@dataclasses.dataclass(frozen=True)
class Handlers:
  """One for each thing that can be done; what they give is shown.

  Of two kinds: clips come and go (give, remove, choose, begin_anew), which
  gives the left side, a question to begin with, an empty conversation and
  nothing beside the question; and questions are asked about them (ask, stop).
  What is wrong is said on the side where somebody did it.

  Attributes:
    together: who answers.
    take: gives what was read of a file for its ticket; a KeyError where there
      is none.
    policy: has to be accepted where it says so.
    is_warm: whether first answers take no longer than others.
    examples: clips to begin with.
    sampling: how answers are drawn.
    seed: of the draws.
    book: where questions are written down; None: nowhere.
    visits: who asks.
  """

  together: scheduler.Scheduler
  take: Callable[[str], clips.Clip]
  policy: policies.Policy
  is_warm: Callable[[], bool] = lambda: True
  examples: Sequence[clips.Clip] = ()
  sampling: generate.Sampling = generate.GREEDY
  seed: int = 0
  book: noted.Book | None = None
  visits: Visits = dataclasses.field(default_factory=Visits)

  def give(self, event: gr.EventData, request: gr.Request):
    """A file was read."""
    visit = self._visit(request)
    try:
      given = self.take(str(event.ticket))
    except KeyError:
      return _refuse(
        'Expected a file that was just read, found none; give it again.'
      )
    return _begin(visit, clips.joined(visit.clip, given))

  def remove(self, event: gr.EventData, request: gr.Request):
    """A motion or a video is taken back."""
    visit = self._visit(request)
    return _begin(visit, clips.without(visit.clip, str(event.medium)))

  def choose(self, event: gr.EventData, request: gr.Request):
    """An example is picked."""
    number = event.number
    if not isinstance(number, int) or not 0 <= number < len(self.examples):
      return _refuse(
        f'Expected one of {len(self.examples)} examples, found another; reload '
        'the page.',
      )
    return _begin(self._visit(request), self.examples[number])

  def begin_anew(self, request: gr.Request):
    """The same clip, and nothing was said."""
    visit = self._visit(request)
    return _begin(visit, visit.clip)

  async def ask(
    self,
    question: str,
    compare: bool,
    agrees: bool,
    letters: int,
    request: gr.Request,
  ) -> AsyncIterator[tuple[str, str, dict[str, str]]]:
    """The conversation as it grows, and an empty line for the next question.

    Beside it what is wrong, or the answers once all of them are whole.
    """
    visit = self._visit(request)
    question = question.strip()
    accepted = self.policy.version if agrees else None
    # Half of a pair has no bytes to be written down with.
    sayable = question.encode(errors='replace').decode()
    note = functools.partial(
      self._note,
      f'page-{uuid.uuid4().hex}',
      visit.clip,
      sayable,
      accepted,
      request,
    )
    why = ''
    try:
      policies.check(self.policy, accepted)
      _check(visit, question, max(len(question), int(letters or 0)))
    except ValueError as error:
      why = str(error)
    # Or a crash would leave words that somebody has and no log knows of.
    if not note('refused' if why else logs.BEGUN):
      why = why or _UNWRITTEN
    if why:
      # Emptied first: the same words again would not be heard again.
      yield gr.skip(), gr.skip(), QUIET
      yield gr.skip(), gr.skip(), QUIET | {'wrong': why}
      return
    turns, turn, line = visit.turns, None, ''
    is_noted = False
    steps = talk.ask(
      self.together,
      visit,
      question,
      compare=compare,
      sampling=self.sampling,
      seed=self.seed,
    )
    try:
      async for _ in steps:
        if visit.turns is not turns:
          return  # Another clip was chosen meanwhile.
        turn = turn or turns[-1]  # Others may be asked meanwhile.
        if not turn.is_open:  # Nobody is told so before the log.
          is_noted = note(*_came_to(turn))
          if not is_noted:
            _take_back(turn)
        said = transcript.conversation(turns)
        said += '' if self.is_warm() else _WARMING
        yield said, line, QUIET | {'aloud': transcript.aloud(turn)}
        line = gr.skip()  # The next question may be in it by now.
    finally:
      await steps.aclose()
      if not is_noted:
        note(*_came_to(turn))

  def stop(self, request: gr.Request) -> None:
    """Answers end where they are."""
    self._visit(request).stop()

  def leave(self, request: gr.Request) -> None:
    """The page was closed."""
    self.visits.end(request.session_hash)

  def _note(
    self,
    request_id: str,
    clip: clips.Clip,
    question: str,
    accepted: str | None,
    request: gr.Request,
    outcome: str,
    answers: Sequence[talk.Said] = (),
  ) -> bool:
    """Writes a line; False where it should be in the log and is not."""
    if self.book is None:
      return True
    client = request.client
    is_told = any(said.end or said.text for said in answers)
    try:
      self.book.note(
        request_id,
        clip,
        question,
        outcome,
        policy=accepted,
        address=client.host if client else None,
        answer='\n'.join(said.text for said in answers) if is_told else None,
        ends=[said.end for said in answers if said.end],
      )
    except OSError as error:
      logging.error('A question could not be written down:', exc_info=error)
      return False
    return True

  def _visit(self, request: gr.Request) -> talk.Visit:
    return self.visits.of(request.session_hash)


def _came_to(turn: talk.Turn | None) -> tuple[str, list[talk.Said]]:
  """An outcome in a word, and the answers as far as they have come."""
  answers = turn.answers if turn else []
  if any(said.error for said in answers):
    return 'failed', answers
  if turn is None or turn.is_open:
    return 'gone', answers
  return answers[0].end.reason, answers


def _take_back(turn: talk.Turn) -> None:
  """No answer that no log has the end of is whole."""
  for said in turn.answers:
    said.end, said.error = None, _UNWRITTEN


def _begin(
  visit: talk.Visit, clip: clips.Clip
) -> tuple[dict[str, Any], str, str, dict[str, str]]:
  visit.begin(clip)
  return clips.as_shown(clip), clip.question, HINT, QUIET


def _refuse(why: str) -> tuple[dict[str, str], Any, Any, Any]:
  """All stays as it was, what is shown and where it stands, too."""
  # Not equal to the last one: the same words again would not be heard again.
  told = {'wrong': why, 'once': uuid.uuid4().hex}
  return told, gr.skip(), gr.skip(), gr.skip()


def _check(visit: talk.Visit, question: str, letters: int) -> None:
  if not question:
    raise ValueError('Expected a question, found none; write one.')
  completions.check_unicode(question)
  if letters > MOST_LETTERS:
    raise ValueError(
      f'Expected at most {MOST_LETTERS} letters of a question, found '
      f'{letters}; ask in fewer words.'
    )
  if not clips.media(visit.clip):
    raise ValueError(
      'Expected something to ask about, found neither a motion nor a video, or '
      'one that was forgotten since; pick an example, or give a file.'
    )
