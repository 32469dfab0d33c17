import asyncio
import dataclasses
import functools
import threading

import pytest

from vimonet_jax.data import records
from vimonet_jax.infer import engine, generate, scheduler
from vimonet_jax.synthetic import world
from vimonet_jax.web import clip as clips
from vimonet_jax.web import talk, transcript

SHORT = generate.Sampling(max_new_tokens=8)


@pytest.fixture(scope='module')
def asking(tiny_model):
  return engine.Engine.load(f'{tiny_model.workdir}/model')


@pytest.fixture
def together(asking):
  with scheduler.Scheduler(asking, max_rows=8, max_length=512) as made:
    yield made


@functools.cache
def _record():
  record = world.World().make_record('test', 0)
  return dataclasses.replace(record, frames=record.frames[:, ::6, ::6])


def _visit(*media):
  shown = clips.shown_to(_record(), media)
  return talk.Visit(clips.Clip(shown, dict.fromkeys(media, 'a file')))


def _talk(together, visit, question, **settings):
  """Asks, and gives the page's words at each step."""
  settings = {'sampling': SHORT} | settings

  async def run():
    steps = talk.ask(together, visit, question, **settings)
    return [transcript.conversation(visit.turns) async for _ in steps]

  return asyncio.run(run())


def _alone(asking, visit, inputs, *turns, question):
  """What the engine says to the same, with all that was said before."""
  record = dataclasses.replace(
    clips.shown_to(visit.clip.record, inputs),
    turns=(*turns, records.Turn(question, '')),
  )
  return asking.answer([record], sampling=SHORT)[0]


def test_an_answer_hears_what_was_said_before(asking, together):
  visit = _visit('motion', 'video')
  both = ('motion', 'video')
  pages = _talk(together, visit, 'What?')
  _talk(together, visit, 'And then?')
  first, second = [turn.answers[0].text for turn in visit.turns]
  ask = functools.partial(_alone, asking, visit, both)
  assert first == ask(question='What?')
  assert second == ask(records.Turn('What?', first), question='And then?')
  assert second != ask(question='And then?')
  assert 'What?' in pages[0]
  assert 'reading' in pages[0]
  tokens = visit.turns[0].answers[0].end.prompt_tokens
  assert f' · {tokens} tokens read in ' in pages[-1]


def test_compared_answers_are_each_given_their_inputs_alone(asking, together):
  visit = _visit('motion', 'video')
  _talk(together, visit, 'What?')
  _talk(together, visit, 'Where?', compare=True)
  first = visit.turns[0].answers[0].text
  answers = {said.inputs: said.text for said in visit.turns[1].answers}
  assert list(answers) == list(talk.CHOICES)
  for inputs, found in answers.items():
    before = (
      [records.Turn('What?', first)] if inputs == ('motion', 'video') else []
    )
    assert found == _alone(asking, visit, inputs, *before, question='Where?')
  assert len(set(answers.values())) > 1


@pytest.mark.parametrize(
  ('media', 'number'), [(('motion',), 2), (('video',), 2), ((), 1)]
)
def test_what_is_not_there_is_not_compared(media, number):
  visit = _visit(*media)
  assert talk.choices(visit, compare=False) == [media]
  assert len(talk.choices(visit, compare=True)) == number


def test_an_answer_that_is_stopped_ends_where_it_is(together):
  visit = _visit('motion')
  long = generate.Sampling(temperature=2.0, max_new_tokens=300)

  async def run():
    steps = talk.ask(together, visit, 'What?', sampling=long)
    async for _ in steps:
      if visit.turns[0].answers[0].text:
        visit.stop()

  asyncio.run(run())
  said = visit.turns[0].answers[0]
  assert said.end.reason == 'cancelled'
  assert said.end.new_tokens < 300
  assert 'stopped' in transcript.how(said)


def test_who_leaves_is_not_answered_any_more(together):
  visit = _visit('motion')
  long = generate.Sampling(temperature=2.0, max_new_tokens=300)
  ends = []
  ask = together.ask_all

  def seen(asked, tell):
    def also(place, event):
      ends.append(event)
      tell(place, event)

    return ask(asked, also)

  together.ask_all = seen

  async def run():
    steps = talk.ask(together, visit, 'What?', sampling=long)
    async for _ in steps:
      if visit.turns[0].answers[0].text:
        break
    await steps.aclose()

  asyncio.run(run())  # Its loop is closed before the answer has ended.
  together.close()
  assert ends[-1].reason == 'cancelled'


def test_all_that_is_being_written_is_stopped(together):
  visit = _visit('motion')
  long = generate.Sampling(temperature=2.0, max_new_tokens=300)

  async def run():
    both = [
      talk.ask(together, visit, question, sampling=long)
      for question in ('What?', 'Where?')
    ]
    for steps in both:
      await anext(steps)
    visit.stop()
    for steps in both:
      async for _ in steps:
        pass

  asyncio.run(run())
  ends = [turn.answers[0].end.reason for turn in visit.turns]
  assert ends == ['cancelled', 'cancelled']
  assert visit.writing == []


def test_what_goes_wrong_stands_in_the_answers_place(together):
  visit = _visit('motion')
  page = _talk(together, visit, 'What ' * 600)[-1]
  assert not visit.turns[0].answers[0].is_open
  assert 'ask in fewer words' in page
  # And is not told to the model when the next question comes.
  _talk(together, visit, 'What?')
  assert visit.turns[1].answers[0].text


def test_those_before_somebody_are_counted(asking, monkeypatch):
  visit, has_seen, pages = _visit('motion'), threading.Event(), []
  with scheduler.Scheduler(asking, max_rows=1) as together:
    advance = together._advance
    monkeypatch.setattr(
      together, '_advance', lambda: (has_seen.wait(30), advance())
    )
    others = [
      together.ask(
        scheduler.Question(
          talk.record(visit, ('motion',), 'What?'),
          generate.Sampling(temperature=2.0, max_new_tokens=200),
          seed=seed,
        )
      )
      for seed in range(3)
    ]

    async def run():
      async for _ in talk.ask(together, visit, 'What?', sampling=SHORT):
        pages.append(transcript.conversation(visit.turns))
        if 'before this one' in pages[-1]:
          for other in others:
            other.cancel()
          has_seen.set()

    asyncio.run(run())
  assert any('before this one' in page for page in pages)
  assert visit.turns[0].answers[0].end
