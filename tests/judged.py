"""Verdicts on eight questions, as a run's file has them."""

from vimonet_jax.eval import studies

# Four clips, each with a question about its motion and one about its video.
DOMAINS = ('direction', 'place')


def lines_of(
  right, *, by='rule', seed=0, order=1, texts=None, questions=None, **shown
):
  """Verdicts on eight questions, of which `right` are right, in any order."""
  shown = {'input': 'both', 'corruption': 'none', **shown}
  found = [
    {
      'benchmark': 'vimos-synth',
      'split': 'test',
      'id': (at := f'r{clip}/{number}'),
      'reading': 'generated',
      'seed': seed,
      'domain': domain,
      'record': clip,
      'question': (questions or {}).get(at, f'{domain}?'),
      'text': (texts or {}).get(at, 'yes' if at in right else 'no'),
      'by': by,
      'correct': at in right,
      'score': 5.0 if at in right else None,
      **shown,
    }
    for clip in range(4)
    for number, domain in enumerate(DOMAINS)
  ]
  return found[::order]


EVERY = {f'r{clip}/{number}' for clip in range(4) for number in range(2)}
MOTION = {at for at in EVERY if at.endswith('/0')}
ROWS = (
  studies.Row('a', 'a'),
  studies.Row('b', 'b', against='a'),
)
