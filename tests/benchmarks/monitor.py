"""How many events --task=monitor finds in recordings of the test split.

    python tests/benchmarks/monitor.py --workdir=workdir/tiny --seeds=5

Detectors are fitted on recordings of the split `val`, as the task itself does
it; then the model watches two hours of each test seed, in which ordinary life
goes on and events are rare. Found events are compared with the true ones:
recall with Wilson's interval, false alarms an hour with the exact interval of
Poisson, seconds from the start of an event to its alarm. The same with the
model's answers alone, and with what is measured on joints alone, shows where it
comes from. With --keep=DIR what the model said is kept, for other settings of
what follows.
"""

import argparse
import json
import os
import pathlib
import pickle
import time

import numpy as np

KINDS_OF_SIGNS = ('model and geometry', 'model', 'geometry')


def main() -> None:
  from vimonet_jax.care import calibration
  from vimonet_jax.infer import engine
  from vimonet_jax.synthetic import recordings

  args = _args()
  settings = calibration.Settings(
    window_s=args.window_s,
    hop_s=args.hop_s,
    hours=args.fit_hours,
    false_per_hour=args.false_per_hour,
  )
  asking = engine.Engine.load(os.path.join(args.workdir, 'model'))

  def watch(split, seed, hours, per_hour):
    name = f'{split}-{seed}-{hours:g}-{per_hour:g}'
    path = pathlib.Path(
      args.keep, f'{name}-{args.window_s:g}-{args.hop_s:g}.pickle'
    )
    if args.keep and path.exists():
      return pickle.loads(path.read_bytes())
    # Made before the clock starts.
    rates = dict.fromkeys(recordings.OFTEN, per_hour)
    made = list(
      recordings.cut(
        recordings.pieces(seed, split, per_hour=rates), 3600 * hours
      )
    )
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    part = calibration.watch(
      asking,
      ('motion',),
      iter(made),
      settings,
      hours=hours,
      name=name,
    )
    took = time.perf_counter() - wall_s, time.process_time() - cpu_s
    if args.keep:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(pickle.dumps((part, took)))
    return part, took

  # What compiling takes is the same for two hours and for a year.
  watch('val', 99, 0.1, 12.0)
  fitting = [
    calibration.join(
      [
        watch('val', seed, settings.hours / len(seeds), settings.per_hour)[0]
        for seed in seeds
      ]
    )
    for seeds in calibration.seeds_of(settings)
  ]
  tests = [
    watch('test', seed, args.hours, args.per_hour) for seed in range(args.seeds)
  ]
  hours = args.hours * args.seeds
  rows = []
  for which in KINDS_OF_SIGNS:
    signs = {kind: _signs(kind, which) for kind in calibration.SIGNS}
    # A kind without such signs cannot be found with them.
    signs = {kind: names for kind, names in signs.items() if names}
    found = calibration.fit_to(*fitting, signs, settings)
    rows += _measure(which, found, [part for part, _ in tests], settings, hours)
  _show(rows, args)
  wall_s = sum(took[0] for _, took in tests)
  cpu_s = sum(took[1] for _, took in tests)
  print(
    f'{hours:g} h in {wall_s:.0f} s, {3600 * hours / wall_s:.0f} times as fast '
    f'as it was; {cpu_s:.0f} s of processors, {3600 * hours / cpu_s:.0f} times '
    'with one of them'
  )
  alone_ms = 1e3 * _alone_s(asking, settings)
  print(f'a window that arrives by itself takes {alone_ms:.0f} ms')
  if args.json:
    with open(args.json, 'w', encoding='utf-8') as f:
      fields = {'rows': rows, 'wall_s': wall_s, 'cpu_s': cpu_s, **vars(args)}
      json.dump(fields, f, indent=1)


def _alone_s(asking, settings) -> float:
  """Median seconds of a window in which somebody moves, as in a stream."""
  from vimonet_jax.care import evidence
  from vimonet_jax.data import windows
  from vimonet_jax.synthetic import recordings

  joints, _ = recordings.take(
    recordings.pieces(0, 'test', per_hour={'wandering': 400.0}), 120
  )
  shown = windows.of_joints(
    [joints], length_s=settings.window_s, hop_s=settings.hop_s
  )
  teller = evidence.Teller(asking, ('motion',))
  taken_s = []
  for window in shown:
    begun_s = time.perf_counter()
    (told,) = teller.tell([window])
    if len(told) > len(evidence.VERBS):
      taken_s.append(time.perf_counter() - begun_s)
  return float(np.median(taken_s))


def _args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--seeds', type=int, default=5)
  parser.add_argument('--hours', type=float, default=2.0)
  parser.add_argument('--per-hour', type=float, default=3.0)
  parser.add_argument('--fit-hours', type=float, default=2.0)
  parser.add_argument('--false-per-hour', type=float, default=0.5)
  parser.add_argument('--window-s', type=float, default=6.0)
  parser.add_argument('--hop-s', type=float, default=2.0)
  parser.add_argument('--keep', default='')
  parser.add_argument('--json', default='')
  return parser.parse_args()


def _signs(kind: str, which: str) -> tuple[str, ...]:
  from vimonet_jax.care import calibration

  asked, measured = calibration.SIGNS[kind]
  if which == 'model':
    return asked or measured  # Who lies still is measured in any case.
  return measured if which == 'geometry' else (*asked, *measured)


def _measure(which, found, parts, settings, hours):
  """A row for each kind of event, and one for all."""
  from vimonet_jax.care import detectors, events

  latency_s = {kind: [] for kind in found}
  false = dict.fromkeys(found, 0)
  sure = {kind: [] for kind in found}
  for part in parts:
    judge = detectors.Judge(found)
    # Signs that a judge adds are its own.
    told = [dict(one) for one in part.told]
    judged = [judge.judge(*x) for x in zip(part.shown, told, strict=True)]
    for kind, detector in found.items():
      confidences = np.array([one[kind] for one in judged])
      mine = events.find(
        part.shown, confidences, kind, detector.threshold, settings.hop_s
      )
      seen = events.compare(mine, [x for x in part.true if x.kind == kind])
      latency_s[kind] += seen.latency_s
      false[kind] += seen.is_true.count(False)
      sure[kind] += [
        (x.confidence, is_true)
        for x, is_true in zip(mine, seen.is_true, strict=True)
      ]
  latency_s['all'] = [x for rows in latency_s.values() for x in rows]
  false['all'] = sum(false.values())
  sure['all'] = [x for rows in sure.values() for x in rows]
  return [
    _row(which, kind, latency_s[kind], false[kind], sure[kind], hours)
    for kind in latency_s
  ]


def _row(which, kind, latency_s, false, sure, hours):
  from scipy import stats

  from vimonet_jax.eval import scores

  there = [x for x in latency_s if x is not None]
  share = len(there) / max(len(latency_s), 1)
  low = stats.chi2.ppf(0.025, 2 * false) / 2 if false else 0.0
  high = stats.chi2.ppf(0.975, 2 * false + 2) / 2
  median, late = np.percentile(there, [50, 95]) if there else (np.nan, np.nan)
  confidence, is_true = np.mean(sure, axis=0) if sure else (np.nan, np.nan)
  return {
    'signs': which,
    'kind': kind,
    'events': len(latency_s),
    'recall': share,
    'recall_interval': scores.wilson(share, max(len(latency_s), 1)),
    'false_per_hour': false / hours,
    'false_interval': (low / hours, high / hours),
    'latency_s': float(median),
    'latency_95_s': float(late),
    'confidence': float(confidence),
    'precision': float(is_true),
  }


def _show(rows, args) -> None:
  print(
    f'{args.seeds} test recordings of {args.hours:g} h, windows of '
    f'{args.window_s:g} s every {args.hop_s:g} s'
  )
  which = ''
  for row in rows:
    if row['signs'] != which:
      which = row['signs']
      print(f'\n{which}')
      print(
        f'{"":18} {"events":>6} {"recall":>20} {"false alarms an hour":>24} '
        f'{"latency, s":>12} {"95 %":>6} {"sure":>5} {"right":>5}'
      )
    low, high = row['recall_interval']
    least, most = row['false_interval']
    print(
      f'{row["kind"]:18} {row["events"]:6} {row["recall"]:6.0%} '
      f'({low:4.0%} to {high:4.0%}) {row["false_per_hour"]:8.2f} '
      f'({least:4.2f} to {most:4.2f}) {row["latency_s"]:12.1f} '
      f'{row["latency_95_s"]:6.1f} {row["confidence"]:5.0%} '
      f'{row["precision"]:5.0%}'
    )
  print()


if __name__ == '__main__':
  main()
