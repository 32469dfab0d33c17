"""Detectors of a model, fitted on recordings whose events are known.

    six people      fit the detectors
    six others      choose their thresholds

Both recordings are synthetic and of the split `val`; what is measured is told
of `test`. Everybody moves in a way of their own, so there are several people. A
fit belongs to the weights, the windows and the media that it was made with, and
stays beside the model for the next time.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from vimonet_jax import fingerprint
from vimonet_jax.care import detectors, evidence
from vimonet_jax.data import records, windows
from vimonet_jax.infer import engine, model_folder
from vimonet_jax.synthetic import recordings, scene, world

# Windows that a model is asked about at once.
GROUP = 64
# In each of the two recordings that a fit takes, one after the other.
PEOPLE = 6


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a fit depends on, besides the model; all of it is in the config.

  Attributes:
    window_s, hop_s: of windows.
    false_per_hour: how many false alarms of each kind thresholds may have.
    hours: of each of the two recordings.
    per_hour: how often each kind of event happens there.
    seed: of the recordings.
  """

  window_s: float = 6.0
  hop_s: float = 2.0
  false_per_hour: float = 0.5
  hours: float = 2.0
  per_hour: float = 12.0
  seed: int = 0

  def __post_init__(self):
    least, most = (
      frames / records.FPS
      for frames in (records.MIN_MOTION_FRAMES, records.MAX_MOTION_FRAMES)
    )
    hop = 1 / records.FPS
    is_hop = hop <= self.hop_s <= self.window_s
    if not is_hop or not least <= self.window_s <= most:
      raise ValueError(
        f'Expected window_s of {least:g} to {most:g} and hop_s of {hop:g} to '
        f'that, found {self.window_s:g} and {self.hop_s:g}; correct '
        '--config.monitor.'
      )
    frames = np.array([self.window_s, self.hop_s]) * records.FPS
    # Joints come by frames and videos by seconds, and are to stay together.
    if not np.allclose(frames, np.round(frames), rtol=0, atol=1e-6):
      raise ValueError(
        f'Expected window_s and hop_s of whole frames, {hop:g} s each, found '
        f'{self.window_s:g} and {self.hop_s:g}; correct --config.monitor.'
      )
    if self.hours <= 0 or self.per_hour <= 0 or self.false_per_hour < 0:
      raise ValueError(
        'Expected hours and per_hour above 0 and false_per_hour of 0 or more, '
        f'found {self.hours:g}, {self.per_hour:g} and {self.false_per_hour:g}; '
        'correct --config.monitor.'
      )


def _verbs(*verbs: str) -> tuple[str, ...]:
  return tuple(f'{name}: {v}' for name in evidence.QUESTIONS for v in verbs)


# What tells of each kind of event: what the model says is done, and measures of
# joints. Lying still comes after falls, which it has to know of.
SIGNS = {
  'fall': (evidence.VERBS, ('drop to the floor',)),
  'stumble': (evidence.VERBS, ()),
  'lying still': ((), (evidence.FELL,)),
  'sitting down hard': (evidence.VERBS, ('hard seat',)),
  'limping': (evidence.VERBS, ()),
  'wandering': (_verbs('walking', 'turning'), ('to and fro',)),
}


def source(kind: str, media: Sequence[str]) -> str:
  """Where the confidence in a kind of event comes from, for people."""
  is_measured = 'motion' in media and bool(SIGNS[kind][1])
  return 'model and geometry' if is_measured else 'model'


def ready(
  workdir: str,
  asking: engine.Engine,
  media: Sequence[str],
  settings: Settings,
) -> dict[str, detectors.Detector]:
  """The detectors of a model: those kept beside it, or fitted now.

  Args:
    workdir: of the model; `monitor/` in it keeps them.
    asking: the model.
    media: what recordings show.
    settings: of the fit.
  """
  path = os.path.join(workdir, 'monitor', f'{"-".join(media)}.json')
  made_of = {
    'weights': model_folder.weights_fingerprint(os.path.join(workdir, 'model')),
    'settings': dataclasses.asdict(settings),
    'quantize': asking.bundle.model.llm.quantize,
    'signs': fingerprint.digest(repr((SIGNS, evidence.QUESTIONS))),
  }
  kept = _read(path)
  if kept and kept['made_of'] == made_of:
    fields = kept['detectors']
    return {k: detectors.Detector.from_json(x) for k, x in fields.items()}
  fitted = fit(asking, media, settings)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  fields = {kind: x.to_json() for kind, x in fitted.items()}
  with open(f'{path}.part', 'w', encoding='utf-8') as f:
    json.dump({'made_of': made_of, 'detectors': fields}, f, indent=1)
  os.replace(f'{path}.part', path)
  return fitted


def _read(path: str) -> dict[str, Any] | None:
  """What was kept; a file that is damaged is made again."""
  try:
    with open(path, encoding='utf-8') as f:
      kept = json.load(f)
    return kept if {'made_of', 'detectors'} <= kept.keys() else None
  except (FileNotFoundError, ValueError, AttributeError):
    return None


@dataclasses.dataclass
class Watched:
  """A synthetic recording that a model was asked about.

  Attributes:
    shown: its windows, without joints and frames.
    told: signs of each.
    true: the events.
  """

  shown: list[windows.Window]
  told: list[dict[str, float]]
  true: list[recordings.Event]


def fit(
  asking: engine.Engine, media: Sequence[str], settings: Settings
) -> dict[str, detectors.Detector]:
  """Detectors by kind, with thresholds; in the order of `SIGNS`."""
  per_hour = dict.fromkeys(recordings.OFTEN, settings.per_hour)
  first, second = (
    join([
      watch(
        asking,
        media,
        recordings.pieces(seed, 'val', per_hour=per_hour),
        settings,
        hours=settings.hours / PEOPLE,
        name=f'{what} {k} of {PEOPLE}',
      )
      for k, seed in enumerate(seeds, 1)
    ])
    for what, seeds in zip(
      ('detectors', 'thresholds'), seeds_of(settings), strict=True
    )
  )  # fmt: skip
  signs = {kind: signs_of(kind, media) for kind in SIGNS}
  return fit_to(first, second, signs, settings)


def seeds_of(settings: Settings) -> tuple[range, range]:
  """Of the people whom detectors are fitted to, and thresholds."""
  start = 2 * PEOPLE * settings.seed
  middle = start + PEOPLE
  return range(start, middle), range(middle, middle + PEOPLE)


def join(parts: Sequence[Watched]) -> Watched:
  """Recordings of several people as if they were one, a minute apart."""
  joined, offset_s = Watched([], [], []), 0.0
  for part in parts:
    for rows, moved in ((joined.shown, part.shown), (joined.true, part.true)):
      rows += [
        x._replace(start_s=x.start_s + offset_s, end_s=x.end_s + offset_s)
        for x in moved
      ]
    joined.told += part.told
    offset_s = joined.shown[-1].end_s + 60.0
  return joined


def fit_to(
  first: Watched,
  second: Watched,
  signs: Mapping[str, Sequence[str]],
  settings: Settings,
) -> dict[str, detectors.Detector]:
  """Detectors fitted to one recording, with thresholds from another.

  Args:
    first, second: recordings that a model was asked about.
    signs: kind -> what its detector looks at, falls first.
    settings: of windows and thresholds.
  """
  fitted: dict[str, detectors.Detector] = {}
  for kind, names in signs.items():
    detector = detectors.fit(
      names, first.told, detectors.is_shown(first.shown, first.true, kind)
    )
    threshold = detectors.choose_threshold(
      second.shown,
      np.array([detector(told) for told in second.told]),
      second.true,
      kind,
      hop_s=settings.hop_s,
      most_false_per_hour=settings.false_per_hour,
    )
    fitted[kind] = dataclasses.replace(detector, threshold=threshold)
    if kind == 'fall':
      for part in (first, second):
        # Adds to the signs of each window whether there was one before.
        judge = detectors.Judge(fitted)
        for window, told in zip(part.shown, part.told, strict=True):
          judge.judge(window, told)
  return fitted


def signs_of(kind: str, media: Sequence[str]) -> tuple[str, ...]:
  """Signs that tell of a kind of event in what there is to see."""
  asked, measured = SIGNS[kind]
  return (*asked, *measured) if 'motion' in media else asked or measured


def watch(
  asking: engine.Engine,
  media: Sequence[str],
  stream: Iterator[recordings.Piece],
  settings: Settings,
  *,
  hours: float,
  name: str,
) -> Watched:
  """Asks about the first hours of a synthetic recording."""
  seconds = 3600 * hours
  part = Watched([], [], [])

  def joints():
    for piece in recordings.cut(stream, seconds):
      part.true += piece.events
      yield piece.joints

  shown = windows.of_joints(
    joints(), length_s=settings.window_s, hop_s=settings.hop_s
  )
  if 'video' in media:
    shown = _film(shown, asking, settings)
  if 'motion' not in media:
    shown = (window._replace(joints=None) for window in shown)
  teller = evidence.Teller(asking, media)
  with tqdm.tqdm(total=round(seconds), desc=name, unit='s') as bar:
    for group in windows.groups(shown, GROUP):
      part.told += teller.tell(group)
      part.shown += [x._replace(joints=None, frames=None) for x in group]
      bar.update(round(group[-1].end_s) - bar.n)
  return part


def _film(
  shown: Iterator[windows.Window], asking: engine.Engine, settings: Settings
) -> Iterator[windows.Window]:
  """Windows with frames of a scene of the split `val`."""
  tower = asking.bundle.model.video
  rng = np.random.default_rng(settings.seed)
  place = world.draw_scene(rng, 'val')
  for window in shown:
    yield window._replace(
      frames=scene.render(
        window.joints, place, rng, size=tower.image_size, frames=tower.frames
      )
    )
