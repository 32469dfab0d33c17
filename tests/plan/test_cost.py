"""What a step costs on a chip."""

import jax
import jax.numpy as jnp
import numpy as np

from vimonet_jax.plan import chips, cost

D = 256


def test_a_program_that_is_not_given_back_is_still_known_by_its_memory():
  x = jax.ShapeDtypeStruct((D, D), jnp.float32)
  traced = jax.jit(lambda x: x @ x).trace(x)
  compiled = traced.lower().compile()

  class Silent:
    memory_analysis = compiled.memory_analysis

    def as_text(self):
      raise jax.errors.JaxRuntimeError('INTERNAL: RET_CHECK failure')

  found, whole = (cost.of(traced, y, 1) for y in (Silent(), compiled))
  assert (found.accessed, found.exchanged) == (None, None)
  assert found.memory == whole.memory > 0
  assert found.flops == whole.flops == 2 * D**3
  assert found.intensity is None
  assert whole.intensity == 2 * D**3 / whole.accessed > 1
  chip = chips.Chip('chip', 1e12, 1e9, 1e11, 1e10)
  assert cost.bound(found, chip) == (2 * D**3 / 1e12, None, None)
  assert cost.bound(found, chip).seconds == 2 * D**3 / 1e12


def test_a_step_takes_as_long_as_what_it_waits_for():
  chip = chips.Chip('chip', flops=1e12, memory=1e9, bandwidth=1e9, links=1e8)
  step = cost.Cost(2e12, 0, 0, 0, 1e9, {'all-gather': 4e8, 'all-reduce': 1e8})
  found = cost.bound(step, chip)
  assert found == (2.0, 1.0, 5.0)
  assert found.seconds == 5.0
  alone = cost.bound(step._replace(exchanged={}), chip._replace(links=0.0))
  assert alone == (2.0, 1.0, 0.0)
  np.testing.assert_allclose(alone.seconds, 2.0)
  # Over the host's bus, whose speed the chip's data sheet does not tell.
  assert cost.bound(step, chip._replace(links=0.0)) == (2.0, 1.0, None)


def test_published_figures_are_of_one_kind():
  """An H100's sparse products, or its links both ways, would be outside."""
  for kind, chip in chips.CHIPS.items():
    assert 150 < chip.ridge < 570, kind
    assert chip.links < chip.bandwidth / 4, kind
    assert 15e9 < chip.memory < 150e9, kind
