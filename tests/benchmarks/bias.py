"""How often an audit finds what is there, and what is not.

    python tests/benchmarks/bias.py
    python tests/benchmarks/bias.py --planted=0.3
    python tests/benchmarks/bias.py --unequal

Audits many simulated test sets (tests/audit/simulated.py), in which answers
about a clip go together and kinds of questions are hard and easy. Without a
planted bias every difference that is found is a false alarm, and the share of
sets with any is what the level promises. With one, that share of what is called
right about one body size is wrong.
"""

import argparse
import collections
import pathlib
import sys

import tqdm

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'audit'))
import simulated

from vimonet_jax.audit import bias
from vimonet_jax.eval import scores

# What simulated.answered makes worse.
PLANTED = 'size', 'large'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--sets', type=int, default=1000)
  parser.add_argument('--clips', type=int, default=162)
  parser.add_argument('--planted', type=float, default=0.0)
  parser.add_argument('--unequal', action='store_true')
  parser.add_argument('--level', type=float, default=bias.LEVEL)
  parser.add_argument('--draws', type=int, default=999)
  flags = parser.parse_args()
  if flags.unequal and flags.planted:
    parser.error('Expected --unequal or --planted, found both; name one.')
  counts = collections.Counter()
  for seed in tqdm.trange(flags.sets, unit='set', disable=None):
    if flags.unequal:
      made = simulated.unequal(seed, many=flags.clips - simulated.FEW)
    else:
      made = simulated.answered(seed, clips=flags.clips, planted=flags.planted)
    audit = bias.audit([made], level=flags.level, draws=flags.draws, seed=seed)
    found = {(c.test.attribute, c.test.group) for c in audit.found}
    if not flags.planted:
      counts['anything, where there is nothing'] += bool(found)
      continue
    # Whoever is compared with those that are wrong is better, too.
    counts['what is planted'] += PLANTED in found
    counts['that and nothing else'] += found == {PLANTED}
    counts['of the size another group'] += any(
      attribute == PLANTED[0] for attribute, _ in found - {PLANTED}
    )
    counts['anything else'] += any(
      attribute != PLANTED[0] for attribute, _ in found
    )
  print(
    f'{flags.sets} sets of {flags.clips} clips, {audit.number} comparisons, '
    f'level {flags.level:g}, planted {flags.planted:g}'
  )
  for what, number in counts.items():
    low, high = scores.wilson(number / flags.sets, flags.sets)
    print(
      f'found {what}: {100 * number / flags.sets:.1f} % of them '
      f'(95 %: {100 * low:.1f} to {100 * high:.1f})'
    )


if __name__ == '__main__':
  main()
