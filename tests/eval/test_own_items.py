"""Which questions of records become items, and with which references."""

import collections

import pytest

from vimonet_jax.data import records as records_lib
from vimonet_jax.eval import own_items
from vimonet_jax.synthetic import world


@pytest.fixture(scope='module')
def records():
  small = world.World(image_size=16)
  return [small.make_record('test', i) for i in range(24)]


@pytest.fixture(scope='module')
def items(records):
  return own_items.questions(records, per_domain=1000)


def _with_turns(*turns, name='r0', **changes):
  return records_lib.Record(name, 'test', 'test', turns=turns, **changes)


def _caption(text, question='Describe the motion.'):
  return records_lib.Turn(question, text, 'motion_caption', 'caption')


def test_every_turn_with_a_fact_is_an_item_that_points_at_its_record(
  records, items
):
  assert len({item.key for item in items}) == len(items)
  turns = [turn for record in records for turn in record.turns if turn.fact]
  assert len(items) == len(turns)
  for item in items:
    record, number = records[item.position], int(item.id.split('/')[1])
    turn = record.turns[number]
    assert item.id.startswith(f'{record.id}/')
    assert (item.question, item.reference) == (turn.question, turn.answer)
    assert (item.fact, item.choices) == (turn.fact, turn.choices)
    assert (item.domain, item.kind) == (turn.domain, turn.kind)


def test_a_domain_has_at_most_so_many_items_spread_over_its_kinds(records):
  limited = own_items.questions(records, per_domain=8)
  kinds = collections.defaultdict(collections.Counter)
  for item in limited:
    kinds[item.domain][item.kind] += 1
  assert max(counts.total() for counts in kinds.values()) == 8
  assert len(kinds['sequentiality']) == 4
  assert max(kinds['sequentiality'].values()) <= 3


def test_the_choice_of_items_follows_the_seed_and_not_the_other_records(
  records,
):
  def ids(some, **changes):
    found = own_items.questions(some, per_domain=8, **changes)
    return {item.id for item in found}

  assert ids(records) == ids(records)
  assert ids(records) != ids(records, seed=1)
  # Later records push items out of a full domain and never bring one in.
  half = {record.id for record in records[:12]}
  kept = {i for i in ids(records) if i.split('/')[0] in half}
  assert kept
  assert kept < ids(records[:12])


def test_records_without_facts_are_reported():
  record = _with_turns(_caption('A person walks.'))
  with pytest.raises(ValueError, match='use captions'):
    own_items.questions([record])


@pytest.mark.parametrize(
  ('captions', 'references'),
  [
    (['a'], ('a', 'a', 'a')),
    (['a', 'b'], ('a', 'b', 'a')),
    (['a', 'b', 'c', 'd'], ('a', 'b', 'c')),
  ],
)
def test_references_of_captions_are_padded_as_published(captions, references):
  other = records_lib.Turn('Where?', 'Here.', 'place', fact='Here')
  record = _with_turns(other, *map(_caption, captions))
  (item,) = own_items.captions([_with_turns(other, name='no'), record])
  assert item.references == references
  assert (item.position, item.input) == (1, 'motion')


def test_captions_of_both_media_show_both(records):
  items = own_items.captions(records, domain='joint_caption')
  assert len(items) == len(records)
  assert {item.input for item in items} == {'both'}
  with pytest.raises(ValueError, match='none; check the captions'):
    own_items.captions([_with_turns()], domain='video_caption')
