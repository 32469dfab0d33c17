import pytest

from vimonet_jax.eval import benchmarks, judge, judge_replies, scores

GOOD = "{'pred': 'yes', 'score': 4}"


@pytest.mark.parametrize(
  ('reply', 'correct', 'score'),
  [
    ("{'pred': 'yes', 'score': 4}", True, 4.0),
    ('{"pred": "no", "score": 0}', False, 0.0),
    (' {"score": 5, "pred": "Yes"}\n', True, 5.0),
    ("{'pred': 'yes', 'score': 4.8}", True, 4.8),
    ('```json\n{"pred": "yes", "score": 3}\n```', True, 3.0),
    ("```python\n{'pred': 'no', 'score': 1}\n```\n", False, 1.0),
    ("```\n{'pred': 'no', 'score': 1}\n```", False, 1.0),
    ("```{'pred': 'no', 'score': 1}```", False, 1.0),
    ('{"pred": "no", "score": 2, "why": null}', False, 2.0),
  ],
)
def test_a_dictionary_is_read_however_it_is_written(reply, correct, score):
  assert judge_replies.read_valid(reply) == (correct, score)


@pytest.mark.parametrize(
  ('reply', 'why'),
  [
    ('', 'a dictionary'),
    ('yes, 4', 'a dictionary'),
    ('Here it is: {"pred": "yes", "score": 4}', 'a dictionary'),
    ('[{"pred": "yes", "score": 4}]', 'a dictionary'),
    ('4', 'a dictionary'),
    ('{"pred": "yes", "score": ', 'a dictionary'),
    ("{'pred': yes, 'score': 4}", 'a dictionary'),
    ("{['pred']: 'yes'}", 'a dictionary'),
    ('\0', 'a dictionary'),
    ('(' * 5000, 'a dictionary'),
    ('[' * 100_000, 'a dictionary'),
    ('{"pred": "maybe", "score": 4}', "'maybe'"),
    ('{"pred": "yes, mostly", "score": 4}', "'yes, mostly'"),
    ('{"pred": true, "score": 4}', 'True'),
    ('{"pred": ["yes"], "score": 4}', "'yes'"),
    ('{"score": 4}', 'yes or no, found None'),
    ('{"pred": "yes"}', '0 to 5, found None'),
    ('{"pred": "yes", "score": 7}', 'found 7'),
    ('{"pred": "yes", "score": -1}', 'found -1'),
    ('{"pred": "yes", "score": "4"}', "found '4'"),
    ('{"pred": "yes", "score": true}', 'found True'),
    ('{"pred": "yes", "score": NaN}', 'found nan'),
    ("{'pred': 'yes', 'score': 1e999}", 'found inf'),
    ("I'm sorry, but I can't judge that.", 'a dictionary'),
  ],
)
def test_anything_else_is_refused_with_a_reason(reply, why):
  with pytest.raises(ValueError, match=why):
    judge_replies.read_valid(reply)


@pytest.mark.parametrize(
  ('reply', 'correct', 'score'),
  [
    (GOOD, True, 4.0),
    ("{'pred': 'yes', 'score': 4.8}", True, 4.0),
    ("{'pred': 'No.', 'score': '2'}", False, 2.0),
    ("{'pred': 'yes and no', 'score': 3}", True, 3.0),
    ("{'pred': 'unknown', 'score': 1}", False, 1.0),
    ("{'pred': 'maybe', 'score': 3}", None, 3.0),
    ("{'pred': True, 'score': 3}", None, 3.0),
    ("{'score': 3}", None, 3.0),
    ("{'pred': 'yes', 'score': 7}", True, 7.0),
    ("{'pred': 'yes', 'score': 'four'}", None, 0.0),
    ("{'pred': 'yes', 'score': '4.8'}", None, 0.0),
    ("{'pred': 'yes', 'score': None}", None, 0.0),
    ("{'pred': 'yes', 'score': 1e999}", None, 0.0),
    ("{'pred': 'yes'}", None, 0.0),
    ('{}', None, 0.0),
  ],
)
def test_the_published_script_is_counted_after(reply, correct, score):
  assert judge_replies.read_as_paper(reply) == (correct, score)


def test_the_published_script_needs_a_dictionary_too():
  with pytest.raises(ValueError, match='a dictionary'):
    judge_replies.read_as_paper('yes')


# --- Sums --------------------------------------------------------------------


def _item(name: str, domain: str) -> benchmarks.Item:
  return benchmarks.Item(
    name, 'b', 'test', 'motion', 'none', domain, 'k', 'Who?', ('He.',),
    'judged', 0, 0,
  )  # fmt: skip


def _verdict(name, reply='', correct=None, score=None, status='ok'):
  return judge.Verdict(name, correct, score, status, 'm', reply)


# As a paper judge would have it, cut scores and all.
VERDICTS = {
  'direction': [
    _verdict('a', "{'pred': 'yes', 'score': 4.8}", True, 4.0),
    _verdict('b', "{'pred': 'no', 'score': 1}", False, 1.0),
    # Counts for the script's score, and not for its accuracy.
    _verdict('c', "{'pred': 'maybe', 'score': 3}", status='malformed'),
    _verdict('d', status='failed'),
  ],
  'reasoning': [
    _verdict('e', "{'pred': 'yes', 'score': 5}", True, 5.0),
    _verdict('f', "{'pred': 'yes'}", status='malformed'),
    _verdict('g', 'I cannot.', status='refused'),
  ],
  'hallucination': [_verdict('h', 'yes', status='malformed')],
}


def _summaries(order=lambda pairs: pairs):
  pairs = [
    (_item(verdict.id, domain), verdict)
    for domain, verdicts in VERDICTS.items()
    for verdict in verdicts
  ]
  items, verdicts = zip(*order(pairs), strict=True)
  return judge_replies.summarise(items, verdicts)


def test_three_ways_to_count_differ_and_say_of_how_many():
  direction = _summaries()['direction']
  assert direction.of_all == (1 / 4, 5 / 4, 4, 4)
  assert direction.of_valid == (1 / 2, 5 / 2, 2, 2)
  assert direction.as_paper == (1 / 2, (4 + 1 + 3) / 3, 2, 3)


def test_the_mean_over_items_is_not_that_over_domains():
  found = _summaries()
  assert found[scores.ALL].of_all == (2 / 8, 10 / 8, 8, 8)
  assert found[scores.ALL].of_valid == (2 / 3, 10 / 3, 3, 3)
  assert found[scores.ALL].as_paper == (2 / 3, (4 + 1 + 3 + 5 + 0) / 5, 3, 5)
  macro = found[scores.MACRO]
  assert macro.of_all == pytest.approx(
    ((1 / 4 + 1 / 3 + 0) / 3, (5 / 4 + 5 / 3 + 0) / 3, 8, 8)
  )
  # Nobody knows the third domain.
  assert found['hallucination'].of_valid == (None, None, 0, 0)
  assert macro.of_valid == pytest.approx((3 / 4, (5 / 2 + 5) / 2, 3, 3))
  assert macro.as_paper == pytest.approx((3 / 4, (8 / 3 + 5 / 2) / 2, 3, 5))


def test_sums_do_not_depend_on_the_order():
  assert _summaries(lambda pairs: pairs[::-1]) == _summaries()


def test_verdicts_of_other_items_are_not_summed_up():
  items = [_item('a', 'x'), _item('b', 'x')]
  verdicts = [_verdict('b'), _verdict('a')]
  with pytest.raises(ValueError, match='in their order'):
    judge_replies.summarise(items, verdicts)
  with pytest.raises(ValueError, match='found 1 of others'):
    judge_replies.summarise(items, verdicts[:1])
