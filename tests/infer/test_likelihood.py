"""Against rows as in training, a candidate each, read from end to end."""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scoring
import two_processes

from vimonet_jax.data import packing, records, text
from vimonet_jax.infer import engine, likelihood
from vimonet_jax.models import vimonet

CANDIDATES = scoring.CANDIDATES
HISTORY = (records.Turn('Who is it?', 'A man.'), records.Turn('Why?', ''))
# The same numbers from other sums, in float32; measured 3e-5 at most.
CLOSE = {'rtol': 0, 'atol': 1e-4}


@pytest.fixture(scope='module')
def asking(tiny_model):
  return engine.Engine.load(f'{tiny_model.workdir}/model')


@functools.cache
def _forward(model):
  """Log-probabilities of each next token of rows, [B, L - 1]."""

  def run(variables, batch):
    logits_BLV = vimonet.Vimonet(model).apply(
      vimonet.stack(variables), batch, method=lambda m, b: m.logits(m(b))
    )
    log_probs_BLV = jax.nn.log_softmax(logits_BLV[:, :-1])
    next_BL1 = batch['tokens'][:, 1:, None]
    return jnp.take_along_axis(log_probs_BLV, next_BL1, axis=2)[..., 0]

  return jax.jit(run)


def _by_hand(asking, record, candidate):
  """Of the whole answer's tokens and its eos, from a row of training."""
  bundle, (*before, last) = asking.bundle, record.turns
  last = dataclasses.replace(last, answer=last.answer + candidate)
  example = text.encode_dialog(
    dataclasses.replace(record, turns=(*before, last)), bundle.layout
  )
  has_motion = record.motion is not None
  made = packing.element(
    example,
    bundle.statistics.normalise(record.motion) if has_motion else None,
    record.frames,
  )
  shape = packing.RowShape(
    256,
    int(has_motion),
    int(record.frames is not None),
    'more_tokens' in example,
  )
  batch = packing.finish(
    packing.pack([[made]], shape),
    motion_slots=bundle.layout.motion_slots,
    video_tokens=bundle.layout.video_tokens,
  )
  found_L = _forward(bundle.model)(asking._variables, batch)[0]
  # Earlier answers are supervised as well.
  length = len(bundle.layout.tokenizer.encode(last.answer)) + 1
  end = len(example['tokens']) - 1
  return np.asarray(found_L[end - length : end])


def _check(asking, record, candidates=CANDIDATES):
  (found,) = likelihood.score(asking, [record], [candidates])
  assert len(found) == len(candidates)
  lengths = []
  for candidate, scored in zip(candidates, found, strict=True):
    want_L = _by_hand(asking, record, candidate)
    length = len(scored.log_probs)
    lengths.append(len(want_L) - 1 - length)
    np.testing.assert_allclose(
      scored.log_probs, want_L[-length - 1 : -1], **CLOSE
    )
    np.testing.assert_allclose(scored.end, want_L[-1], **CLOSE)
    assert scored.total == pytest.approx(
      want_L[-length - 1 : -1].sum(), abs=1e-3
    )
    assert scored.mean == pytest.approx(scored.total / length)
  # All count from the same place on.
  assert len(set(lengths)) == 1
  return lengths[0]


@pytest.mark.parametrize(
  ('media', 'history'),
  [
    (('motion', 'video'), ()),
    (('motion',), HISTORY),
    (('video',), ()),
    (('words',), ()),
    ((), HISTORY),
  ],
)
def test_a_candidate_is_as_likely_as_in_a_row_of_training(
  asking, media, history
):
  assert _check(asking, scoring.record(0, media, history=history)) == 0


@pytest.mark.parametrize('kind', ['int8', 'nf4'])
def test_a_quantised_model_scores_what_it_would_say(tiny_model, kind):
  asking = engine.Engine.load(f'{tiny_model.workdir}/model', quantize=kind)
  _check(asking, scoring.record(0, ()))


def test_what_an_answer_is_begun_with_is_given(asking):
  encode = asking.bundle.layout.tokenizer.encode
  begun = 'Best option:('
  record = scoring.record(0, ('motion',), begun=begun)
  assert _check(asking, record, ['A', 'B', 'C']) == len(encode(begun))


def test_letters_that_join_a_candidates_token_count_for_all(asking):
  encode = asking.bundle.layout.tokenizer.encode
  # ▁The ▁person and ▁The ▁p ...: a letter is given, and a blank.
  for begun, whole, other in (
    ('The p', 'The person', 'The pzz'),
    ('The ', 'The person', 'The zz'),
  ):
    shared = os.path.commonprefix([encode(whole), encode(other)])
    assert len(shared) == 1 < len(encode(begun))
    record = scoring.record(0, ('motion',), begun=begun)
    rest = [x.removeprefix(begun) for x in (whole, other)]
    assert _check(asking, record, rest) == 1
    # And for nobody where no candidate does so.
    assert _check(asking, record, ['zz', 'zq']) == len(encode(begun.rstrip()))


def test_who_is_asked_together_changes_nothing(asking):
  asked = [
    scoring.record(0, ('motion',)),
    scoring.record(1, ('motion',), begun='He'),
    scoring.record(3, ('motion',), history=HISTORY),
    scoring.record(0),
    scoring.record(4, ('motion',)),
  ]
  candidates = [CANDIDATES, CANDIDATES[:1], CANDIDATES[1:], CANDIDATES, ('No',)]
  together = likelihood.score(asking, asked, candidates)
  assert [len(x) for x in together] == [4, 1, 3, 4, 1]
  want = scoring.numbers(together)
  backwards = likelihood.score(asking, asked[::-1], candidates[::-1])[::-1]
  np.testing.assert_allclose(scoring.numbers(backwards), want, **CLOSE)
  few = likelihood.score(asking, asked, candidates, max_rows=1)
  np.testing.assert_allclose(scoring.numbers(few), want, **CLOSE)
  alone = [
    likelihood.score(asking, [record], [some])[0]
    for record, some in zip(asked, candidates, strict=True)
  ]
  np.testing.assert_allclose(scoring.numbers(alone), want, **CLOSE)
  assert likelihood.score(asking, [], []) == []


def test_other_candidates_change_nothing(asking):
  record = scoring.record(0, ('motion',))
  (want,) = likelihood.score(asking, [record], [CANDIDATES])
  # More than are padded anyway, longer ones, and in another order.
  more = [f'{x} and so on{"!" * 20}' for x in CANDIDATES] + ['b', 'c', 'walk']
  (found,) = likelihood.score(asking, [record], [[*more, *CANDIDATES[::-1]]])
  found_again = found[: -len(CANDIDATES) - 1 : -1]
  np.testing.assert_allclose(
    scoring.numbers([found_again]), scoring.numbers([want]), **CLOSE
  )
  assert found[6].total == pytest.approx(want[0].total, abs=1e-4)


def test_other_numbers_of_candidates_have_the_same_shape(asking, monkeypatch):
  shapes = []
  apply = engine.Engine.apply

  def spy(self, function, batch, given):
    shapes.append(jax.tree.map(np.shape, (batch, tuple(given))))
    return apply(self, function, batch, given)

  monkeypatch.setattr(engine.Engine, 'apply', spy)
  asked = [scoring.record(i, ('motion',)) for i in (0, 1, 3)]
  for candidates in (['a'], ['walk', 'wave'], ['He waves'] * 8):
    likelihood.score(asking, asked, [candidates] * 3)
  assert len(shapes) == 3
  assert shapes[0] == shapes[1] == shapes[2]


def test_prompts_and_media_are_read_once(asking, monkeypatch):
  seen = []
  embed = vimonet.Vimonet.embed

  def counting(self, batch, **rest):
    jax.debug.callback(lambda: seen.append(1))
    return embed(self, batch, **rest)

  monkeypatch.setattr(vimonet.Vimonet, 'embed', counting)
  # Compiled anew, and for nobody else.
  monkeypatch.setattr(likelihood, '_compiled', likelihood._compiled.__wrapped__)
  asked = [scoring.record(i, ('motion',)) for i in (0, 1)]
  likelihood.score(asking, asked, [CANDIDATES] * 2)
  jax.effects_barrier()
  assert len(seen) == 1


@pytest.fixture(scope='module')
def on_a_mesh(tiny_model):
  return scoring.on_eight_devices(f'{tiny_model.workdir}/model')


def test_a_mesh_finds_the_same(asking, on_a_mesh):
  asked = scoring.ASKED
  want = likelihood.score(asking, asked, [CANDIDATES] * len(asked))
  np.testing.assert_allclose(on_a_mesh, scoring.numbers(want), **CLOSE)


def test_two_processes_find_what_one_does(tiny_model, on_a_mesh, tmp_path):
  environment = {
    **os.environ,
    'PYTHONPATH': f'{two_processes.ROOT}{os.pathsep}'
    f'{os.environ.get("PYTHONPATH", "")}',
    'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
    'JAX_PLATFORMS': 'cpu',
  }
  ended = two_processes.run(
    lambda port, i: [
      *(scoring.__file__, str(tmp_path / 'found')),
      *(f'{tiny_model.workdir}/model', f'localhost:{port}', '2', str(i)),
    ],
    environment=environment,
    timeout_s=300,
  )
  for i, (status, output) in enumerate(ended):
    assert status == 0, output[-4000:]
    found = np.load(tmp_path / f'found-{i}.npy')
    np.testing.assert_allclose(found, on_a_mesh, **CLOSE)


@pytest.mark.parametrize(
  ('candidates', 'message'),
  [
    ([[]], r'Record .*one candidate answer or more, found \[\]; give'),
    (['walk'], "Record .*one candidate answer or more, found 'walk'; give"),
    ([['walk', '']], "Record .*one token or more, found ''; leave"),
    ([['walk', ' ']], "Record .*one token or more, found ' '; leave"),
    ([], r'candidates for each of 1 records, found 0; give'),
  ],
)
def test_what_cannot_be_compared_is_refused(asking, candidates, message):
  for begun in ('', 'He '):
    record = scoring.record(0, ('motion',), begun=begun)
    with pytest.raises(ValueError, match=message):
      likelihood.score(asking, [record], candidates)
