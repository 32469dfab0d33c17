"""A conversation as HTML: what was asked, what was answered, how long it took.

Everything that a visitor or the model has written is escaped.
"""

from collections.abc import Sequence

from vimonet_jax import page
from vimonet_jax.infer import scheduler
from vimonet_jax.web import talk

_HEADS = {
  (): 'Text only', ('motion',): 'Motion only', ('video',): 'Video only',
  ('motion', 'video'): 'Both',
}  # fmt: skip
_CARET = '<span class="caret" aria-hidden="true"></span>'


def conversation(turns: Sequence[talk.Turn]) -> str:
  """All turns; nothing where there are none."""
  return ''.join(_turn(turn) for turn in turns)


def _turn(turn: talk.Turn) -> str:
  several = len(turn.answers) > 1
  answers = ''.join(_answer(said, several) for said in turn.answers)
  kind = f'several n{len(turn.answers)}' if several else ''
  return (
    f'<article class="turn"><p class="asked">{page.escape(turn.question)}</p>'
    f'<div class="answers {kind}">{answers}</div></article>'
  )


def _answer(said: talk.Said, has_head: bool) -> str:
  head = f'<h3>{_HEADS[said.inputs]}</h3>' if has_head else ''
  if said.error:
    body = f'<p class="failed">{page.escape(said.error)}</p>'
  else:
    caret = _CARET if said.is_open else ''
    body = f'<p class="said">{page.escape(said.text)}{caret}</p>'
  return (
    f'<section class="answer">{head}{body}'
    f'<p class="how">{page.escape(how(said, has_head))}</p></section>'
  )


def aloud(turn: talk.Turn) -> str:
  """Its answers as plain text, to be read out; '' while one is on its way."""
  if turn.is_open:
    return ''
  several = len(turn.answers) > 1
  return ' '.join(
    (f'{_HEADS[said.inputs]}: ' if several else '') + (said.error or said.text)
    for said in turn.answers
  )


def how(said: talk.Said, has_head: bool = False) -> str:
  """The quiet line below an answer; a head says which inputs it is from."""
  if said.error:
    return ''
  if said.ahead > 1:
    return f'waiting, {said.ahead - 1} before this one'
  if said.ahead:
    return 'next in line'
  told = [] if has_head else [talk.names(said.inputs)]
  if said.end is None:
    told.append('writing' if said.text else 'reading')
  else:
    told += timings(said.end)
  return ' · '.join(told)


def timings(end: scheduler.End) -> list[str]:
  """How long each step of an answer took, in the order in which it happened."""
  told = []
  if end.waited_s >= 0.001:
    told.append(f'waited {_seconds(end.waited_s)}')
  if end.encode_s >= 0.001:
    told.append(f'clips encoded in {_seconds(end.encode_s)}')
  if end.new_tokens:  # Else it was stopped before it was read.
    told.append(f'{end.prompt_tokens} tokens read in {_seconds(end.prompt_s)}')
  if end.new_tokens > 1:
    each = 1000 * end.tokens_s / (end.new_tokens - 1)
    told.append(f'{end.new_tokens} written, {each:.0f} ms each')
  if end.reason == 'cancelled':
    told.append('stopped')
  if end.reason == 'length':
    told.append('cut short')
  return told


def _seconds(seconds: float) -> str:
  return f'{1000 * seconds:.0f} ms' if seconds < 1 else f'{seconds:.1f} s'
