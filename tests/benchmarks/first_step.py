"""From the start of a process to the end of its first train step.

    python tests/benchmarks/first_step.py
    python tests/benchmarks/first_step.py --preset=7b

What train_step.py races, each in a fresh process every time: Python starts,
libraries are imported, weights are read, the step is compiled and taken. Ours
compiles all of it (cold) or finds it in JAX's compilation cache, as a run that
is restarted does where JAX_COMPILATION_CACHE_DIR is set (warm).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

import decoder
import race
import train_step

_CACHE = 'JAX_COMPILATION_CACHE_DIR'


def main() -> None:
  args = _args()
  if args.side:
    decoder.set_precision(args)
    first = train_step.SIDES[args.side](args)()
    place = decoder.place(args)
    race.tell(**place, loss=first['loss'], step_s=first['seconds'])
    return
  ours = decoder.ours(args)
  theirs = 'transformers + peft' + ', compiled' * args.compile
  with tempfile.TemporaryDirectory() as folder:
    decoder.share(args, folder)
    cache = {_CACHE: os.path.join(folder, 'cache')}
    contestants = {
      f'{ours}, cold': ('ours', {}),
      f'{ours}, warm': ('ours', cache),
      theirs: ('torch', {}),
    }
    found = {name: {'about': {}, 'repeats': []} for name in contestants}
    _start('ours', folder, cache)  # Fills it.
    for i in range(args.rounds):
      for name in race.in_turn(contestants, i):
        side, environment = contestants[name]
        start = _start(side, folder, environment)
        found[name]['repeats'].append(start)
        found[name]['about'] = {x: start[x] for x in ('platform', 'device')}
      race.check_platforms(found, mixed=args.mixed)
  race.show(
    f'To the first step of LoRA, {args.rows} rows of {args.length}, '
    f'{decoder.described(args)}',
    found,
    unit='starts',
    ours=f'{ours}, warm',
    path=args.json,
    settings=vars(args),
  )
  for name, x in found.items():
    print(f'{name}: {race.median(x, "step_s"):.2f} s of it in the step')


def _args() -> argparse.Namespace:
  presets = {
    name: {**preset, 'rounds': 5} for name, preset in train_step.PRESETS.items()
  }
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  decoder.add_flags(parser, presets)
  return race.parse(parser, presets)


def _start(side: str, folder: str, environment: dict[str, str]) -> dict:
  command = [sys.executable, *race.side(side, f'--folder={folder}')]
  inherited = {k: v for k, v in race.environment().items() if k != _CACHE}
  start = time.perf_counter()
  ended = subprocess.run(
    command,
    stdout=subprocess.PIPE,
    text=True,
    cwd=race.ROOT,
    env=inherited | environment,
    check=True,
  )
  seconds = time.perf_counter() - start
  return {'seconds': seconds, 'work': 1, **race.told(ended.stdout.splitlines())}


if __name__ == '__main__':
  main()
