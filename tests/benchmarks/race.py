"""Contestants side by side: each in a process of its own, by turns.

A machine is fast now and slow a minute later, so nobody is measured alone: all
get ready first and then repeat, one after another, round after round, while the
others wait. What is compared is medians.

A script has both ends in it:

    def main():
      if args.side:
        race.serve(
          lambda: {'seconds': step(), 'work': tokens}, on=race.of_jax()
        )
      else:
        race.show(race.run({'ours': [...], 'theirs': [...]}, rounds=10), ...)
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
_MARK = 'race:'
_PACKAGES = (
  'jax', 'flax', 'torch', 'transformers', 'peft', 'grain', 'numpy'
)  # fmt: skip


def add_flags(parser: argparse.ArgumentParser, presets: Mapping) -> None:
  """A flag for every setting of the presets, and those of every race."""
  first = next(iter(presets))
  parser.add_argument('--preset', default=first, choices=presets)
  for name, value in presets[first].items():
    parser.add_argument(f'--{name}', type=type(value), default=None)
  parser.add_argument('--json', default=None, help='where to write all of it')
  parser.add_argument(
    '--mixed', action='store_true', help='sides may be on different platforms'
  )
  parser.add_argument('--side', default='', help=argparse.SUPPRESS)


def parse(
  parser: argparse.ArgumentParser, presets: Mapping
) -> argparse.Namespace:
  """What was given, and the preset's for the rest."""
  args = parser.parse_args()
  for name, value in presets[args.preset].items():
    if getattr(args, name) is None:
      setattr(args, name, value)
  if args.rounds < 2:
    parser.error(
      f'expected two --rounds or more to compare, found {args.rounds}'
    )
  return args


def host() -> dict[str, str]:
  """What a contestant without an accelerator is on: platform and device."""
  return {'platform': 'cpu', 'device': _processor()}


def of_jax() -> dict[str, str]:
  """As `host`, of what JAX computes on."""
  import jax

  device = jax.devices()[0]
  if device.platform == 'cpu':
    return host()
  return {'platform': device.platform, 'device': device.device_kind}


def of_torch() -> dict[str, str]:
  """As `of_jax`, of the GPU that PyTorch sees, by JAX's names."""
  import torch

  if not torch.cuda.is_available():
    return host()
  return {'platform': 'gpu', 'device': torch.cuda.get_device_name()}


def serve(
  repeat: Callable[[], Mapping[str, Any]],
  *,
  on: Mapping[str, str],
  warm_up: int = 2,
  **about: Any,
) -> None:
  """The contestant's end: repeats whenever it is asked to.

  Args:
    repeat: does the work once; `seconds` and `work`, and whatever else is to be
      in the file.
    on: where it is done, from `of_jax` and its neighbours.
    warm_up: repetitions before the first that counts.
    **about: told once, e.g. how long it took to get ready.
  """
  for _ in range(warm_up):
    repeat()
  tell(**on, **about)
  for _ in sys.stdin:
    tell(**repeat())


def tell(**fields: Any) -> None:
  """Says it to the other end, whatever else is printed."""
  print(f'\n{_MARK}{json.dumps(fields)}', flush=True)


def told(lines: Iterable[str]) -> dict[str, Any] | None:
  """What is said next, at the other end; None where nothing is."""
  for line in lines:
    if line.startswith(_MARK):
      return json.loads(line.removeprefix(_MARK))
  return None


class _Contestant:
  def __init__(self, name: str, command: Sequence[str]):
    self.name = name
    # Libraries may print whatever they like.
    self._process = subprocess.Popen(
      [sys.executable, *command],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      cwd=ROOT,
      env=environment(),
    )

  def listen(self) -> dict[str, Any]:
    if (fields := told(self._process.stdout)) is not None:
      return fields
    raise RuntimeError(
      f'Expected {self.name} to go on, found that it ended with exit code '
      f'{self._process.wait()}; see what it says above.'
    )

  def repeat(self) -> dict[str, Any]:
    self._process.stdin.write('go\n')
    self._process.stdin.flush()
    return self.listen()

  def end(self) -> None:
    self._process.stdin.close()
    self._process.terminate()
    self._process.wait()


def environment() -> dict[str, str]:
  """In which a script of these finds the package, and leaves others a GPU."""
  return {
    **os.environ,
    'PYTHONPATH': str(ROOT),
    'PYTHONUNBUFFERED': '1',
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
  }


def side(name: str, *more: str) -> list[str]:
  """The command that is running, as the contestant that --side names."""
  return [os.path.abspath(sys.argv[0]), *sys.argv[1:], f'--side={name}', *more]


def run(
  commands: Mapping[str, Sequence[str]], *, rounds: int, mixed: bool = False
) -> dict[str, dict[str, Any]]:
  """Runs all of them by turns.

  Args:
    commands: name -> arguments of Python.
    rounds: repetitions of each that count.
    mixed: see `check_platforms`.

  Returns:
    name -> about, and repeats, what it said each time.
  """
  contestants, found = [], {}
  try:
    # Getting ready is not a race: compilers would share the processors.
    for name, command in commands.items():
      contestants.append(_Contestant(name, command))
      found[name] = {'about': contestants[-1].listen(), 'repeats': []}
      print(f'{name} is ready', file=sys.stderr)
      check_platforms(found, mixed=mixed)
    for i in range(rounds):
      for contestant in in_turn(contestants, i):
        found[contestant.name]['repeats'].append(contestant.repeat())
  finally:
    for contestant in contestants:
      contestant.end()
  return found


def check_platforms(
  found: Mapping[str, Mapping[str, Any]], *, mixed: bool
) -> None:
  """Ends a race between, say, a CPU and a GPU.

  Args:
    found: name -> about, with the platform that the contestant is on.
    mixed: whether they may differ.

  Raises:
    SystemExit: they differ.
  """
  platforms = {name: x['about']['platform'] for name, x in found.items()}
  if mixed or len({*platforms.values()}) < 2:
    return
  sides = ' and '.join(f'{name} on {x}' for name, x in platforms.items())
  raise SystemExit(
    f'Expected a race on one platform, found {sides}; install what the other '
    'side needs for it, hide it from both, or race them so with --mixed.'
  )


def in_turn(contestants: Iterable, number: int) -> list:
  """The order of a round: nobody is always the first after the other."""
  return list(contestants)[:: 1 if number % 2 == 0 else -1]


def median(found: Mapping[str, Any], field: str = 'seconds') -> float:
  """Of a contestant's repetitions."""
  return statistics.median(x[field] for x in found['repeats'])


def show(
  title: str,
  found: Mapping[str, dict[str, Any]],
  *,
  unit: str,
  ours: str,
  path: str | None = None,
  settings: Mapping[str, Any] | None = None,
) -> None:
  """Prints a table, and writes all of it as JSON.

  Args:
    title: what was raced.
    found: from `run`.
    unit: of `work`.
    ours: whose speed is divided by the others'.
    path: of the JSON file; None writes none.
    settings: of the race, for whoever reads the file.
  """
  machine = _machine()
  print(f'{title}\n{machine["processor"]}, {machine["date"]}')
  print(f'{_places(found)}\n')
  width = max(map(len, found)) + 2
  head = f'{unit}/s'
  print(f'{"":{width}}{"median s":>10}{"quartiles":>18}{head:>16}{"ratio":>8}')
  speeds = {}
  for name, x in found.items():
    seconds = sorted(y['seconds'] for y in x['repeats'])
    low, _, high = statistics.quantiles(seconds, n=4, method='inclusive')
    speeds[name] = statistics.median(
      y['work'] / y['seconds'] for y in x['repeats']
    )
    x['median_s'], x['speed'] = median(x), speeds[name]
    x['ratio'] = speeds[ours] / speeds[name] if ours in speeds else None
    ratio = '' if x['ratio'] is None else f'{x["ratio"]:.2f}'
    quartiles = f'{low:.3f}-{high:.3f}'
    print(
      f'{name:{width}}{x["median_s"]:>10.3f}{quartiles:>18}'
      f'{speeds[name]:>16,.1f}{ratio:>8}'
    )
  print(f'\nratio: how many times as fast {ours} is as that line')
  if path:
    with open(path, 'w', encoding='utf-8') as f:
      json.dump(
        {
          'title': title,
          'unit': unit,
          'settings': dict(settings or {}),
          'machine': machine,
          'found': found,
        },
        f,
        indent=2,
      )


def _places(found: Mapping[str, Mapping[str, Any]]) -> str:
  """Who was on what."""
  names: dict[str, list[str]] = {}
  for name, x in found.items():
    place = f'{x["about"]["platform"]} ({x["about"]["device"]})'
    names.setdefault(place, []).append(name)
  if len(names) == 1:
    return f'all on {next(iter(names))}'
  return '; '.join(f'{", ".join(x)} on {place}' for place, x in names.items())


def _machine() -> dict[str, Any]:
  versions = {}
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return {
    'processor': _processor(),
    'cores': os.cpu_count(),
    'python': platform.python_version(),
    'versions': versions,
    'date': datetime.date.today().isoformat(),
    'command': ' '.join(sys.argv),
  }


def _processor() -> str:
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    return platform.processor()
  lines = [x for x in lines if x.startswith('model name')]
  names = [x.partition(':')[2].strip() for x in lines]
  return f'{len(names)} x {names[0]}' if names else platform.machine()


def timed(function: Callable[[], Any]) -> float:
  """Seconds that a call takes, which must wait for its result."""
  start = time.perf_counter()
  function()
  return time.perf_counter() - start
