"""A row of scores with the columns that every row has."""


def row(domain='all', accuracy=0.5, **changes):
  return {
    'benchmark': 'b',
    'split': 'test',
    'input': 'both',
    'corruption': 'none',
    'domain': domain,
    'accuracy': accuracy,
    'score': 2.5,
    'n': 10,
    'n_failed': 0,
    **changes,
  }
