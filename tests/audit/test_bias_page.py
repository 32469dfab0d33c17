import pytest

from vimonet_jax.audit import bias_page, compared


def _compared(**changes):
  return {
    'set': 'vimos-people',
    'kind': compared.SLICE,
    'attribute': 'size',
    'group': 'large',
    'against': compared.REST,
    'n': 1200,
    'n_clips': 54,
    'n_against': 2400,
    'share': 0.5,
    'low': 0.4,
    'high': 0.6,
    'share_against': 0.75,
    'points': -24.0,
    'points_low': -30.0,
    'points_high': -18.0,
    'changed': None,
    'p': 0.0001,
    'p_adjusted': 0.002,
    'detectable': 8.0,
    'is_found': True,
    **changes,
  }


def _told(*comparisons, **changes):
  return {
    'name': '<run>',
    'made': 'today',
    'fingerprint': 'abc',
    'drill': '',
    'level': 0.05,
    'number': len(comparisons),
    'sets': {},
    'comparisons': list(comparisons),
    'too_few': [],
    'words': {},
    **changes,
  }


def test_the_sentence_counts_or_says_what_would_have_been_seen():
  quiet = {'is_found': False, 'p_adjusted': 1.0}
  assert bias_page.sentence(_told(_compared())) == (
    '1 difference at the 5 % level among 1 comparison.'
  )
  none = bias_page.sentence(
    _told(
      _compared(**quiet),
      _compared(**quiet, detectable=2.0),
      _compared(**quiet, detectable=None),
    )
  )
  assert none.startswith('No difference at the 5 % level among 3 comparisons.')
  assert '5.0 points in the middle comparison, and 2.0 to 8.0 in all' in none
  assert bias_page.sentence(_told()).startswith('Nothing could be compared')


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    (
      {},
      'body size large: 24.0 points fewer right answers than the rest (95 %: '
      '18.0 to 30.0; 1,200 answers about 54 clips of vimos-people)',
    ),
    ({'kind': compared.TWIN}, 'fewer right answers than their twins'),
    (
      {'kind': compared.TWIN, 'against': 'mirrored', 'points': 3.0},
      '3.0 points more right answers than mirrored',
    ),
  ],
)
def test_a_difference_says_who_how_much_and_of_how_many(changes, words):
  assert words in bias_page.difference(_compared(**changes))


def test_the_page_shows_every_comparison_and_nothing_of_a_stranger():
  page = bias_page.html(
    _told(
      _compared(),
      _compared(group='<b>', is_found=False),
      _compared(kind=compared.TWIN, changed=0.25, is_found=False),
      too_few=[['vimos-synth', 'shirt', 'pink', 7]],
      drill='size=large',
    )
  )
  assert page.count('<svg') == 3
  assert page.count('class="sum"') == 1, 'what is found stands out'
  assert '<b>' not in page
  assert '<run>' not in page
  assert 'shirt colour pink (7, vimos-synth)' in page
  assert 'A drill: a third of the right answers about size=large' in page
  assert '25&#8239;% other answers' in page
