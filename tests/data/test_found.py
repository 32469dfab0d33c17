from vimonet_jax.data import found


def _survey():
  return found.Found(
    {'train': ['a', 'b'], 'test': ['c']},
    left_out=(
      found.LeftOut('train', 'd', 'unreadable', 'd.npz: expected a file'),
      found.LeftOut('train', 'e', 'unreadable', 'e.npz: too'),
      *(found.LeftOut('val', str(i), 'missing') for i in range(7)),
      found.LeftOut('test', 'f', 'too_long'),
    ),
  )


def test_ids_of_a_reason_and_the_line_for_one_source():
  survey = _survey()
  assert survey.reasons() == [
    'missing: 7 (0 1 2 3 4 ...)',
    'unreadable: 2 (d e; the first: d.npz: expected a file)',
    'too long: 1 (f)',
  ]
  assert survey.of('unreadable') == ('d', 'e')
  assert survey.of('damaged') == ()
  assert survey.summary() == (
    'present: 2 train, 1 test; missing: 7 (0 1 2 3 4 ...); unreadable: 2 (d e; '
    'the first: d.npz: expected a file); damaged: 0; too short: 0; too long: 1 '
    '(f)'
  )
  assert found.Found({}).summary().startswith('present: none; missing: 0;')
