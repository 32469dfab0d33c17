import dataclasses
import functools
import queue
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from vimonet_jax import sharding
from vimonet_jax.data import records, tokenizer
from vimonet_jax.infer import engine, generate, scheduler, warming
from vimonet_jax.synthetic import world

WARM = generate.Sampling(temperature=2.0, top_k=50, max_new_tokens=20)
SHORT = generate.Sampling(max_new_tokens=8)


@pytest.fixture(scope='module')
def asking(tiny_model):
  return engine.Engine.load(f'{tiny_model.workdir}/model')


@pytest.fixture
def start(asking):
  """Schedulers that are closed after the test."""
  started = []

  def start(**settings):
    settings = {'max_rows': 8, 'max_length': 512} | settings
    started.append(scheduler.Scheduler(asking, **settings))
    return started[-1]

  yield start
  for each in started:
    each.close()


@functools.cache
def _record(index=0, media=('motion', 'video'), question='What happens?'):
  record = world.World().make_record('test', index)
  return dataclasses.replace(
    record,
    motion=record.motion if 'motion' in media else None,
    frames=record.frames[:, ::6, ::6] if 'video' in media else None,
    turns=(records.Turn(question, ''),),
  )


def _asked(number, sampling=SHORT, **settings):
  kinds = (('motion', 'video'), ('motion',), ('video',), ())
  return [
    scheduler.Question(
      _record(i, kinds[i % len(kinds)], 'What ' * (1 + i % 7)),
      sampling,
      **settings,
    )
    for i in range(number)
  ]


def test_many_at_once_get_the_answer_that_each_gets_alone(asking, start):
  asked = [
    *_asked(20),
    *(dataclasses.replace(x, seed=7) for x in _asked(10, WARM)),
  ]
  alone = [
    asking.answer([x.record], sampling=x.sampling, seed=x.seed)[0]
    for x in asked
  ]
  assert len(set(alone)) > 10
  together = start()
  answers = [together.ask(x) for x in asked]
  found = [answer.result() for answer in answers]
  assert [end.text for end in found] == alone
  # Who comes one by one is written in other slots, of another number.
  assert [together.ask(x).result().text for x in asked[-3:]] == alone[-3:]


def test_pieces_come_while_it_is_written_and_are_the_answer(start):
  answer = start(steps=2).ask(_asked(1, WARM, seed=3)[0])
  found = list(answer)
  assert ''.join(found) == answer.end.text
  assert len(found) > 3
  assert answer.end.new_tokens == 20
  assert answer.end.reason == 'length'
  assert answer.end.prompt_tokens > 50


def test_it_ends_before_a_stop_text(start):
  asked = _asked(1, WARM, seed=3)[0]
  together = start(steps=1)
  whole = together.ask(asked).result()
  middle = len(whole.text) // 2
  stop = whole.text[middle : middle + 3]
  answer = together.ask(dataclasses.replace(asked, stop=('@@@', stop)))
  found = list(answer)
  assert ''.join(found) == answer.end.text
  assert answer.end.text == whole.text[: whole.text.index(stop)]
  assert answer.end.reason == 'stop'
  assert answer.end.new_tokens < whole.new_tokens


def test_who_waits_knows_his_place_and_may_go(start):
  together, (told, go_on) = start(max_rows=1), _events(2)

  def tell(event):
    told.set()
    go_on.wait()

  asked = _asked(1)[0]
  first = together.ask(asked, tell)
  told.wait()
  second, third = together.ask(asked), together.ask(asked)
  assert [together.ahead(x) for x in (first, second, third)] == [0, 1, 2]
  second.cancel()
  go_on.set()
  assert second.result().reason == 'cancelled'
  assert third.result().reason != 'cancelled'


def test_who_goes_in_the_middle_is_not_written_to_the_end(start):
  together = start(steps=1)
  asked = _asked(1, dataclasses.replace(WARM, max_new_tokens=200), seed=3)[0]
  answer = together.ask(asked)
  next(iter(answer))
  answer.cancel()
  assert answer.result().reason == 'cancelled'
  assert answer.end.new_tokens < 100


def test_too_long_too_many_and_too_late_are_refused(asking, start):
  long = generate.Sampling(max_new_tokens=500)
  together, (told, go_on) = start(max_rows=1, max_waiting=1), _events(2)
  with pytest.raises(scheduler.TooLongError, match='at most 512 tokens'):
    together.ask(scheduler.Question(_record(), long))

  def tell(event):
    told.set()
    go_on.wait()

  asked = _asked(1)[0]
  together.ask(asked, tell)
  told.wait()
  waiting = together.ask(asked)
  with pytest.raises(scheduler.BusyError, match='fewer than 1 who wait'):
    together.ask(asked)
  go_on.set()
  together.close()
  assert waiting.result().text
  with pytest.raises(scheduler.ClosedError):
    together.ask(asked)


def _events(number):
  return [threading.Event() for _ in range(number)]


def test_after_a_failure_others_are_answered(asking, start, monkeypatch):
  together = start()
  want = together.ask(_asked(1)[0]).result().text
  call, failures = asking.call, iter([True])

  def fails_once(*args):
    if next(failures, False):
      raise RuntimeError('out of memory')
    return call(*args)

  monkeypatch.setattr(asking, 'call', fails_once)
  with pytest.raises(RuntimeError, match='out of memory'):
    together.ask(_asked(1)[0]).result()
  assert together.ask(_asked(1)[0]).result().text == want


def test_slots_that_nobody_needs_go(start, monkeypatch):
  monkeypatch.setattr(scheduler, '_PATIENCE', 2)
  together = start(steps=1)
  sizes = []
  fit = together._slots.fit

  def fitted(size, length, kept):
    sizes.append((size, length, len(kept)))
    fit(size, length, kept)

  monkeypatch.setattr(together._slots, 'fit', fitted)
  long = _asked(2, dataclasses.replace(WARM, max_new_tokens=40), seed=3)[1]
  want = together.ask(long).result().text
  answers = [together.ask(long), *map(together.ask, _asked(4))]
  assert [answer.result() for answer in answers][0].text == want
  assert sizes[0][:2] == (1, 128)
  assert 8 in [size for size, *_ in sizes]
  assert sizes[-1] == (1, 128, 1)


def test_who_stops_in_the_middle_leaves_nobody_waiting(asking):
  long = dataclasses.replace(WARM, max_new_tokens=200)
  together = scheduler.Scheduler(asking, max_rows=1, max_length=512, steps=1)
  asked = _asked(1, long, seed=3)[0]
  answers = [together.ask(asked), together.ask(asked)]

  def leave():
    with together:
      next(iter(answers[0]))
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    leave()
  assert not together._worker.is_alive()
  for answer in answers:
    with pytest.raises(scheduler.ClosedError, match='found the end'):
      answer.result()


def test_who_asks_again_for_the_end_gets_it_again(asking, start, monkeypatch):
  answer = start().ask(_asked(1)[0])
  end = answer.result()
  assert answer.result() is end
  assert list(answer) == []
  monkeypatch.setattr(asking, 'call', None)
  failed = start().ask(_asked(1)[0])
  for _ in range(2):
    with pytest.raises(TypeError):
      failed.result()


def test_it_gets_warm_with_a_model_that_has_nothing_to_say(asking):
  def end(logits_BV, before_BN):
    del before_BN
    is_end_V = jnp.arange(logits_BV.shape[-1]) == tokenizer.EOS
    return jnp.where(is_end_V, 1e9, logits_BV)

  with scheduler.Scheduler(
    asking, max_rows=1, max_length=512, logits_fn=end
  ) as together:
    getting_warm = threading.Thread(
      target=warming.warm, args=(asking, together), kwargs={'max_rows': 1},
      daemon=True,
    )  # fmt: skip
    getting_warm.start()
    getting_warm.join(60)
    assert not getting_warm.is_alive()


def test_who_comes_and_goes_does_not_keep_others_waiting(start):
  together, ended = start(steps=1), queue.SimpleQueue()
  short = _asked(4, dataclasses.replace(WARM, max_new_tokens=1))[3]
  more = iter(range(400))

  def go_on(event):
    if isinstance(event, scheduler.End):
      if next(more, None) is None:
        ended.put('many')
      else:
        together.ask(short, go_on)

  def tell(event):
    if isinstance(event, scheduler.End):
      ended.put('one')

  together.ask(dataclasses.replace(_asked(4, WARM)[3], seed=3), tell)
  together.ask(short, go_on)
  assert [ended.get(timeout=60) for _ in range(2)] == ['one', 'many']


def test_slots_that_nobody_needs_go_also_while_others_come(start, monkeypatch):
  monkeypatch.setattr(scheduler, '_PATIENCE', 12)
  together, lengths = start(steps=1), []
  more = iter(range(40))

  def go_on(event):
    if isinstance(event, scheduler.End) and (i := next(more, None)) is not None:
      lengths.append(together._slots.length)
      sampling = dataclasses.replace(WARM, max_new_tokens=6 + i % 3)
      together.ask(_asked(4, sampling, seed=3)[3], go_on)

  short = dataclasses.replace(WARM, max_new_tokens=6)
  long = _record(0, (), 'What ' * 100)
  together.ask(scheduler.Question(long, short, seed=3), go_on)
  for i in range(3):
    sampling = dataclasses.replace(WARM, max_new_tokens=7 + i)
    together.ask(_asked(4, sampling, seed=3)[3], go_on)
  while together.load()[:2] != (0, 0):
    time.sleep(0.01)
  assert lengths[0] > 128
  assert lengths[-1] == 128


def test_nobody_comes_in_once_those_who_wait_are_given_up(asking, monkeypatch):
  together = scheduler.Scheduler(asking, max_rows=1, max_length=512)
  close, late = together.close, []

  def ask_first():
    with pytest.raises(scheduler.ClosedError):
      late.append(together.ask(_asked(1)[0]))
    close()

  monkeypatch.setattr(together, 'close', ask_first)

  def leave():
    with together:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    leave()
  assert not late


@pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnhandledThreadExceptionWarning'
)
def test_a_thread_that_has_ended_leaves_nobody_waiting(start, monkeypatch):
  together = start(max_rows=1, steps=1)

  def end():
    raise SystemExit

  monkeypatch.setattr(together, '_advance', end)
  for answer in together.ask_all(_asked(2)):
    with pytest.raises(scheduler.ClosedError):
      answer.result()
  assert not together.load().is_open
  with pytest.raises(scheduler.ClosedError):
    together.ask(_asked(1)[0])


def test_very_long_questions_are_refused_before_they_are_made_tokens(
  asking, start, monkeypatch
):
  together = start()
  monkeypatch.setattr(asking, 'prompt', None)
  with pytest.raises(scheduler.TooLongError, match='found 8193 letters'):
    together.ask(scheduler.Question(_record(0, (), 'a' * 8193)))


def test_on_several_devices_answers_are_those_of_the_engine(tiny_model):
  mesh = sharding.make_mesh(2, 2, 2, devices=jax.devices()[:8])
  asking = engine.Engine.load(f'{tiny_model.workdir}/model', mesh=mesh)
  asked = _asked(2)
  alone = [asking.answer([x.record], sampling=x.sampling)[0] for x in asked]
  with scheduler.Scheduler(asking, max_rows=8, max_length=512) as together:
    answers = together.ask_all(asked)
    assert [answer.result().text for answer in answers] == alone
