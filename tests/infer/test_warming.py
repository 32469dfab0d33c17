import types

import pytest

from vimonet_jax.infer import scheduler, warming

KINDS = [(), ('motion',), ('video',), ('motion', 'video')]


class _Together:
  """Answers at once, and is so often as busy as can be."""

  def __init__(self, busy=0, max_waiting=8):
    self.heard, self.asked = [], []
    self.max_waiting = max_waiting
    self._busy = busy

  def ask_all(self, asked):
    assert len(asked) <= self.max_waiting, 'They would never be let in.'
    if self._busy:
      self._busy -= 1
      raise scheduler.BusyError('Expected fewer.')
    self.asked += asked
    self.heard.append([tuple(x.record.clips) for x in asked])
    return [types.SimpleNamespace(result=lambda: None) for _ in asked]


@pytest.fixture
def asking(tiny_model):
  return types.SimpleNamespace(
    media=('motion', 'video'),
    bundle=tiny_model.bundle,
    rows=lambda number, most: min(1 << (number - 1).bit_length(), most),
  )


def test_all_kinds_are_asked_alone_in_all_numbers_and_side_by_side(asking):
  together = _Together()
  warming.warm(asking, together, max_rows=4)
  alike = [[kind] * rows for kind in KINDS for rows in (1, 2, 4)]
  assert together.heard == 2 * [*alike, KINDS]
  motions = [x.record.motion for x in together.asked if x.record.clips]
  lengths = {len(x) for x in motions if x is not None}
  assert lengths == {40, asking.bundle.model.max_motion_frames}


def test_who_waits_for_whole_answers_gets_them(asking):
  together = _Together()
  warming.warm(asking, together, max_rows=8, tokens=30, alike=1)
  assert together.heard == 2 * [*([kind] for kind in KINDS), KINDS]
  assert {x.sampling.max_new_tokens for x in together.asked} == {30}


def test_no_videos_are_made_up_where_none_can_be_given(asking):
  together = _Together()
  warming.warm(asking, together, max_rows=8, media=['motion'], alike=1)
  kinds = {kind for some in together.heard for kind in some}
  assert kinds == {(), ('motion',)}
  together = _Together()
  warming.warm(asking, together, max_rows=8, media=['video'], alike=1)
  assert together.heard == [[()], [('video',)], [(), ('video',)]]


def test_it_waits_while_visitors_have_all_places(asking, monkeypatch):
  monkeypatch.setattr(warming, '_AGAIN_S', 0)
  together = _Together(busy=2)
  warming.warm(asking, together, max_rows=8, alike=1)
  assert together.heard[0] == [()]
  assert len(together.heard) == 10


def test_it_goes_on_where_there_are_never_so_many_places(asking):
  together = _Together(max_waiting=2)
  warming.warm(asking, together, max_rows=4)
  alike = [[kind] * rows for kind in KINDS for rows in (1, 2)]
  assert together.heard == 2 * alike
