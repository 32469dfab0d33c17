import pytest

from vimonet_jax.audit import wording


@pytest.mark.parametrize(
  ('text', 'gender'),
  [
    ('She waves.', wording.FEMALE),
    ("The man's arm", wording.MALE),
    ('A woman and her son', wording.BOTH),
    ('The other person there', ''),
    ('HE RUNS', wording.MALE),
  ],
)
def test_whole_words_name_a_gender(text, gender):
  assert wording.gender(text) == gender


def test_texts_with_such_words_are_counted_with_intervals():
  found = wording.count(
    ['He and his boy run.', 'An elderly woman.', 'A person.', 'He sits.']
  )
  assert found['n'] == 4
  number, share, low, high = found['male']
  assert (number, share) == (2, 0.5)
  assert 0 < low < 0.5 < high < 1
  assert found['female'][:2] == [1, 0.25]
  assert found['age'][:2] == [2, 0.5]
  assert found['words'][0] == ('he', 2)


def test_nothing_is_counted_of_no_texts():
  assert wording.count([])['female'] == [0, 0.0, 0.0, 0.0]


def test_what_the_model_brings_in_is_what_nobody_has_mentioned():
  found = wording.added(
    [
      ('What does he do? He runs.', 'He runs.'),
      ('What happens? A person runs.', 'She runs.'),
      ('What happens? A person runs.', 'A person runs.'),
    ]
  )
  assert found['gender'][:2] == [1, 0.5]
  assert found['age'][:2] == [0, 0.0]
