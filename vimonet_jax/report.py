"""One HTML page of what a work folder holds: scores, examples, training.

The page needs nothing but itself, so it can be mailed and read without a
network. What has not run is said so.
"""

import collections
import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vimonet_jax import curves as curves_lib
from vimonet_jax import page
from vimonet_jax.eval import examples as examples_lib
from vimonet_jax.eval import paper_layout, robustness, scores, tables

# What each stage learns, for a reader who has not seen the code.
STAGES = {
  'motion': 'The motion encoder learns to rebuild motion from few codes.',
  'language': 'The decoder learns to read, with words in place of media.',
  'video': 'The video tower learns to see what the decoder is asked.',
  'align': 'The translators learn to hand both media to the decoder.',
  'instruct': 'Translators and adapters learn to answer questions.',
}
_PACKAGES = (
  'vimonet_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain',
  'tensorflow-datasets', 'numpy',
)  # fmt: skip
# Examples beyond this are left out, so that the page stays below 15 MB.
_MAX_CARD_BYTES = 12_000_000
# Frames are shown in half the width of a phone, four side by side.
_MAX_FRAME_PIXELS = 112


def write(
  workdir: str,
  path: str,
  *,
  examples: Sequence[examples_lib.Example] = (),
  told: Sequence[str] = (),
  config: Mapping[str, Any] | None = None,
  counts: Mapping[str, Mapping[str, int]] | None = None,
) -> str:
  """Writes the page and returns its path.

  Args:
    workdir: has scores.json and a folder a stage, as far as they have run.
    path: of the page; replaced as a whole or not at all.
    examples: of eval.examples; those of one clip share its pictures.
    told: sentences on what there are no examples of, and why.
    config: all settings, as JSON can hold them; `stage_names` are the stages
      to tell of.
    counts: split -> what -> how many, of the data.
  """
  rows = scores.read(os.path.join(workdir, 'scores.json'))
  asked = (config or {}).get('stage_names', STAGES)
  runs = {name: read_stage(workdir, name) for name in asked}
  name = os.path.basename(os.path.abspath(workdir))
  now = datetime.datetime.now().strftime('%Y-%m-%d %H:%M')
  text = page.document(
    f'ViMoNet: {name}',
    '<header><h1>ViMoNet</h1>'
    + page.quiet(f'{page.escape(name)}, {now}')
    + '</header>'
    + _scores(rows)
    + page.section('Examples', *_examples(examples, told))
    + page.section('Training', *_training(runs))
    + page.section('Data', _data(counts))
    + page.section('Settings', *_settings(config)),
  )
  with open(f'{path}.part', 'w', encoding='utf-8') as f:
    f.write(text)
  os.replace(f'{path}.part', path)
  return path


def _scores(rows) -> str:
  """A section for each kind of score that there is."""
  parts = {
    'Answers': tables.answers(rows),
    'Beside published numbers': paper_layout.parts(rows),
    'Changed media': robustness.parts(rows),
    'Captions': tables.captions(rows),
  }
  if not any(parts.values()):
    parts['Answers'] = [page.missing('Nothing has been scored yet.')]
  sections = [page.section(t, *part) for t, part in parts.items() if part]
  if words := tables.checkpoints(rows):
    sections.insert(0, page.missing(words))
  return ''.join(sections)


# --- Examples ----------------------------------------------------------------


def _examples(examples, told) -> list[str]:
  """Cards of each benchmark, as many as the page has room for."""
  parts = [page.missing(sentence) for sentence in told]
  if not examples:
    return [page.missing('No examples were given.'), *parts]
  parts.insert(0, page.quiet(examples_lib.RULE))
  by_benchmark = collections.defaultdict(list)
  for example in examples:
    by_benchmark[example.benchmark].append(example)
  cards = {name: _cards(some) for name, some in by_benchmark.items()}
  kept = _fitting({name: list(map(len, x)) for name, x in cards.items()})
  for name, some in cards.items():
    shown = [card for card, fits in zip(some, kept[name], strict=True) if fits]
    parts += [f'<h3>{page.escape(name)}</h3>', *shown]
    if left_out := len(some) - len(shown):
      parts.append(
        page.missing(f'{left_out} more would make this page too big.')
      )
  return parts


def _cards(examples) -> list[str]:
  """A card for each clip, with all that was asked about it."""
  by_clip = collections.defaultdict(list)
  for example in examples:
    by_clip[example.clip, example.input].append(example)
  return [
    f'<article><div class="media">{_pictures(clip[0])}</div>'
    f'<dl>{"".join(map(_example, clip))}</dl></article>'
    for clip in by_clip.values()
  ]


def _fitting(sizes: Mapping[str, Sequence[int]]) -> dict[str, list[bool]]:
  """Which cards fit; benchmarks share the room, and what one leaves over."""
  room, fitting = _MAX_CARD_BYTES, {}
  smallest_first = sorted(sizes, key=lambda name: sum(sizes[name]))
  for place, name in enumerate(smallest_first):
    share = room // (len(sizes) - place)
    fitting[name] = []
    for size in sizes[name]:
      fits = size <= share
      fitting[name].append(fits)
      share -= size * fits
      room -= size * fits
  return fitting


def _pictures(example: examples_lib.Example) -> str:
  from vimonet_jax.motion import draw

  pictures = []
  if example.joints is not None:
    moving = draw.skeleton_gif(example.joints)
    pictures.append(page.image('gif', moving, 'the motion'))
  if example.frames is not None:
    frames = _smaller(example.frames)
    sheet = draw.frames_png(frames, columns=4)
    is_small = frames is example.frames
    pictures.append(
      page.image('png', sheet, 'frames of the video', has_pixels=is_small)
    )
  return ''.join(pictures)


def _smaller(frames_IHW3: np.ndarray) -> np.ndarray:
  """Means of squares of pixels, where frames are larger than they are shown."""
  _, height, width, _ = frames_IHW3.shape
  k = -(-max(height, width) // _MAX_FRAME_PIXELS)
  if k == 1 or min(height, width) < k:
    return frames_IHW3
  kept = frames_IHW3[:, : height // k * k, : width // k * k]
  squares = kept.reshape(len(kept), height // k, k, width // k, k, 3)
  return squares.mean(axis=(2, 4)).round().astype(np.uint8)


def _example(example: examples_lib.Example) -> str:
  # A caption is neither right nor wrong.
  mark = {
    True: '<b class="right">✓</b> ',
    False: '<b class="wrong">✗</b> ',
    None: '',
  }[example.correct]
  answer, reference = example.answer, example.reference
  expected = f'<em>{page.escape(reference)}</em>' if answer != reference else ''
  chips = [tables.HEADS[example.input], example.domain.replace('_', ' ')]
  said = ''
  if example.correct is not None:
    points = '' if example.score is None else f', score {example.score:g} of 5'
    said = f'<small>judged by {page.escape(example.judge)}{points}</small>'
  earlier = ''.join(
    f'<dt class="earlier">{page.escape(asked)}</dt>'
    f'<dd class="earlier">{page.escape(answered)}</dd>'
    for asked, answered in example.history
  )
  return (
    f'{earlier}<dt>{page.escape(example.question)} '
    + ' '.join(f'<span class="chip">{page.escape(c)}</span>' for c in chips)
    + f'</dt><dd>{mark}{page.escape(answer)}{expected}{said}</dd>'
  )


# --- Training ----------------------------------------------------------------


def read_stage(workdir: str, name: str) -> tuple[dict, list[dict]]:
  """summary.json and the lines of metrics.jsonl, as far as they are there."""
  summary, lines = {}, []
  path = os.path.join(workdir, name, 'summary.json')
  if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
      summary = json.load(f)
  path = os.path.join(workdir, name, 'metrics.jsonl')
  if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
      # A line without its end is being written at this moment.
      lines = [json.loads(line) for line in f if line.endswith('\n')]
  return summary, lines


def _training(runs) -> list[str]:
  """How long the stages took, and what each of them did meanwhile."""
  parts = [_timings({name: summary for name, (summary, _) in runs.items()})]
  for name, (summary, lines) in runs.items():
    parts += [f'<h3>{name}</h3>', page.quiet(STAGES[name])]
    if not lines:
      parts.append(page.missing(f'Stage {name} has not run.'))
      continue
    curves = _curves(lines)
    first = dict(list(curves.items())[:3])
    parts.append(curves_lib.charts(first))
    if others := {k: v for k, v in curves.items() if k not in first}:
      names = page.escape(', '.join(others).replace('_', ' '))
      parts.append(page.details(f'More: {names}', curves_lib.charts(others)))
    state = f'Started from {summary.get("started_from", "?")}.'
    if not summary:
      state = f'Has not finished: at step {lines[-1]["step"]:,}.'
    parts.append(page.quiet(page.escape(state)))
  return parts


def _curves(lines) -> dict[str, curves_lib.Curve]:
  """Metric -> curve; the loss and what was evaluated come first."""
  curves = collections.defaultdict(lambda: curves_lib.Curve([], [], [], []))
  for line in lines:
    for key, value in line.items():
      name = key.removeprefix('eval/')
      if name in ('step', 'seconds'):
        continue
      curve = curves[name]
      is_eval = name != key
      (curve.eval_steps if is_eval else curve.steps).append(line['step'])
      (curve.eval_values if is_eval else curve.values).append(value)

  def rank(item):
    name, curve = item
    order = ('loss', 'perplexity', 'token_accuracy')
    place = order.index(name) if name in order else len(order)
    return (name == 'grad_norm', place, not curve.eval_steps)

  return dict(sorted(curves.items(), key=rank))


def _timings(summaries) -> str:
  total = sum(s['seconds'] for s in summaries.values() if s)
  if not total:
    return page.missing('No stage has finished.')
  lines = []
  for name, summary in summaries.items():
    if not summary:
      cells = ('–', '–', 'not finished', '')
    else:
      share = f'<i style="width:{100 * summary["seconds"] / total:.0f}%"></i>'
      cells = (
        f'{summary["steps"]:,}',
        f'{summary["rate"]:.2f}',
        _duration(summary['seconds']),
        page.Cell(share, 'class="share"'),
      )
    lines.append(page.row(name, *cells, kind='' if summary else 'quiet'))
  lines.append(page.row('together', '', '', _duration(total), '', kind='sum'))
  return page.table(('steps', 'steps/s', 'time', ''), lines)


def _duration(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes:02d} min'
  return f'{minutes} min {rest:02d} s' if minutes else f'{rest} s'


# --- Data, settings, versions ------------------------------------------------


def _data(counts) -> str:
  if not counts:
    return page.missing('The data have not been counted.')
  columns = list(
    dict.fromkeys(name for some in counts.values() for name in some)
  )
  return page.table(
    [page.escape(name) for name in columns],
    [
      page.row(
        page.escape(split),
        *(f'{some[name]:,}' if name in some else '–' for name in columns),
      )
      for split, some in counts.items()
    ],
  )


def _settings(config) -> list[str]:
  if config:
    text = page.escape(json.dumps(config, indent=2, default=str))
    parts = [page.details('All settings', f'<pre>{text}</pre>')]
  else:
    parts = [page.missing('No settings were given.')]
  rows = [
    page.row(name, page.escape(value)) for name, value in versions().items()
  ]
  parts.append(
    page.details(
      'Versions and machine that wrote this page', page.table((), rows)
    )
  )
  return parts


def versions() -> dict[str, str]:
  """Of Python, packages and the machine that this runs on."""
  import jax

  found = {'python': platform.python_version()}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = 'not installed'
  devices = jax.devices()
  return found | {
    'system': f'{platform.system()} {platform.machine()}',
    'CPU cores': str(os.cpu_count()),
    'devices': f'{len(devices)} × {devices[0].device_kind}',
  }
