"""What happens when a visitor does something on the page.

Nobody's clip goes to the browser and back: a `talk.Visit` stays here, under the
name of the browser's session, and goes when the page is closed.
"""

import collections
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import gradio as gr

from vimonet_jax.audit import policy as policies
from vimonet_jax.infer import generate, scheduler
from vimonet_jax.web import clip as clips
from vimonet_jax.web import talk, transcript

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
# What is wrong covers a part of the page for so long.
_ERROR_S = 5
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
  gives the left side, a question to begin with and an empty conversation; and
  questions are asked about them (ask, stop).

  Attributes:
    together: who answers.
    take: gives what was read of a file for its ticket; a KeyError where there
      is none.
    policy: has to be accepted where it says so.
    is_warm: whether first answers take no longer than others.
    examples: clips to begin with.
    sampling: how answers are drawn.
    seed: of the draws.
    visits: who asks.
  """

  together: scheduler.Scheduler
  take: Callable[[str], clips.Clip]
  policy: policies.Policy
  is_warm: Callable[[], bool] = lambda: True
  examples: Sequence[clips.Clip] = ()
  sampling: generate.Sampling = generate.GREEDY
  seed: int = 0
  visits: Visits = dataclasses.field(default_factory=Visits)

  def give(self, event: gr.EventData, request: gr.Request):
    """A file was read."""
    try:
      given = self.take(str(event.ticket))
    except KeyError:
      raise gr.Error(
        'Expected a file that was just read, found none; give it again.'
      ) from None
    visit = self._visit(request)
    return _begin(visit, clips.joined(visit.clip, given))

  def remove(self, event: gr.EventData, request: gr.Request):
    """A motion or a video is taken back."""
    visit = self._visit(request)
    return _begin(visit, clips.without(visit.clip, str(event.medium)))

  def choose(self, event: gr.EventData, request: gr.Request):
    """An example is picked."""
    number = event.number
    if not isinstance(number, int) or not 0 <= number < len(self.examples):
      raise gr.Error(
        f'Expected one of {len(self.examples)} examples, found another.'
      )
    return _begin(self._visit(request), self.examples[number])

  def begin_anew(self, request: gr.Request):
    """The same clip, and nothing was said."""
    visit = self._visit(request)
    return _begin(visit, visit.clip)

  async def ask(
    self, question: str, compare: bool, agrees: bool, request: gr.Request
  ) -> AsyncIterator[tuple[str, str]]:
    """The conversation as it grows, and an empty line for the next question."""
    visit = self._visit(request)
    question = question.strip()
    try:
      policies.check(self.policy, self.policy.version if agrees else None)
      _check(visit, question)
    except ValueError as error:
      raise gr.Error(
        str(error), duration=_ERROR_S, print_exception=False
      ) from None
    turns, line = visit.turns, ''
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
        said = transcript.conversation(turns)
        yield said + ('' if self.is_warm() else _WARMING), line
        line = gr.skip()  # The next question may be in it by now.
    finally:
      await steps.aclose()

  def stop(self, request: gr.Request) -> None:
    """Answers end where they are."""
    self._visit(request).stop()

  def leave(self, request: gr.Request) -> None:
    """The page was closed."""
    self.visits.end(request.session_hash)

  def _visit(self, request: gr.Request) -> talk.Visit:
    return self.visits.of(request.session_hash)


def _begin(
  visit: talk.Visit, clip: clips.Clip
) -> tuple[dict[str, Any], str, str]:
  visit.begin(clip)
  return clips.as_shown(clip), clip.question, HINT


def _check(visit: talk.Visit, question: str) -> None:
  if not question:
    raise ValueError('Expected a question, found none; write one.')
  if len(question) > MOST_LETTERS:
    raise ValueError(
      f'Expected at most {MOST_LETTERS} letters of a question, found '
      f'{len(question)}; ask in fewer words.'
    )
  if not clips.media(visit.clip):
    raise ValueError(
      'Expected something to ask about, found neither a motion nor a video, or '
      'one that was forgotten since; pick an example, or give a file.'
    )
