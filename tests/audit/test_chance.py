"""Whether chance is as rare as its p-values say, where groups are not alike."""

import numpy as np
import simulated

from vimonet_jax.audit import chance, compared


def test_a_group_whose_questions_vary_more_has_no_smaller_p_values():
  """Nothing differs in 200 sets: 10 of them have p of at most 0.05.

  More than 21 have it once in a thousand times (binomial). Where differences
  were not divided by their standard errors, 27 had it.
  """
  test = compared.Test('unequal', compared.SLICE, 'size', 'few', 'many')
  found = [
    chance.of_all(
      {'unequal': simulated.unequal(seed, many=300)}, [test], 99, seed
    )[test].p
    for seed in range(200)
  ]
  assert 1 <= np.sum(np.array(found) <= 0.05) <= 21
