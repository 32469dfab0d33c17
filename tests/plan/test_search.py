"""The most rows that fit, for memory that grows in known ways."""

import pytest

from vimonet_jax.plan import search


@pytest.mark.parametrize(
  'known',
  [None, (25.0, 3.0), (0.0, 3.0), (25.0, 0.5), (0.0, 40.0), (60.0, 3.0)],
)
@pytest.mark.parametrize('most', [0, 1, 2, 3, 17, 400])
def test_the_most_rows_are_found_in_few_trials(known, most):
  """Where what a program keeps besides its rows is not known beforehand."""
  asked = []

  def used(rows):
    asked.append(rows)
    return 100.0 + 25.0 + 3.0 * rows

  room = 125.0 + 3.0 * most + 1.0
  rows, seen = search.most_rows(
    used, 100.0, room, known and search.Memory(*known)
  )
  assert rows == most
  assert len(asked) == len(set(asked)) <= 4
  if len(asked) > 1:
    assert seen == pytest.approx(search.Memory(25.0, 3.0))
  if known == (25.0, 3.0):
    assert len(asked) == 1


@pytest.mark.parametrize(
  'used',
  [
    lambda rows: 50.0 if rows == 1 else 1e6,
    lambda rows: 40.0 + rows**3,
    lambda rows: 90.0 + rows // 8,
    lambda rows: 99.0 if rows < 3 else 400.0 + rows,
  ],
)
@pytest.mark.parametrize('known', [None, (0.0, 0.01), (0.0, 1.0), (60.0, 9.0)])
def test_a_mesh_is_too_small_only_if_one_row_was_tried(used, known):
  """Whatever another mesh has shown, and however memory grows."""
  asked = []

  def ask(rows):
    asked.append(rows)
    return used(rows)

  memory = known and search.Memory(*known)
  rows, _ = search.most_rows(ask, 0.0, 100.0, memory)
  assert rows in asked
  assert used(rows) <= 100.0
  assert len(asked) == len(set(asked)) <= 4
  asked.clear()
  assert search.most_rows(ask, 0.0, 1.0, memory)[0] == 0
  assert asked[-1] == 1
