import re

import numpy as np
import pytest

from vimonet_jax import curves


def _points(svg: str, kind: str) -> np.ndarray:
  (text,) = re.findall(rf'<polyline class="{kind}" points="([^"]*)"', svg)
  return np.array([pair.split(',') for pair in text.split()], float)


def _curve(values, eval_values=()):
  steps = list(range(1, len(values) + 1))
  eval_steps = [10 * (i + 1) for i in range(len(eval_values))]
  return curves.Curve(steps, list(values), eval_steps, list(eval_values))


@pytest.mark.parametrize(
  'values',
  [
    [0.0, 1.0],
    [0.31, 0.32, 0.33],
    [5.0],
    [0.0],
    [-3.0, 4000.0],
    list(np.linspace(0.001, 0.9, 1000)),
    list(np.geomspace(1e-6, 1e6, 50)),
  ],
)
@pytest.mark.parametrize('name', ['loss', 'accuracy'])
def test_curves_stay_inside_their_picture(values, name):
  svg = curves.charts({name: _curve(values)})
  points = _points(svg, 'raw')
  assert 0 < len(points) <= 160
  assert points[:, 0].min() >= 38
  assert points[:, 0].max() <= 300
  assert points[:, 1].min() >= 5.9
  assert points[:, 1].max() <= 130 - 16 + 0.1
  labels = re.findall(r'text-anchor="end">([^<]*)</text>', svg)
  assert 2 <= len(set(labels[:-1])) == len(labels[:-1]) <= 7
  assert 'nan' not in svg


def test_up_is_more_and_right_is_later():
  points = _points(curves.charts({'x': _curve([1.0, 2.0, 4.0])}), 'raw')
  assert np.all(np.diff(points[:, 0]) > 0)
  assert np.all(np.diff(points[:, 1]) < 0)


def test_only_a_loss_that_falls_far_gets_a_logarithmic_axis():
  falling = np.geomspace(5.0, 0.05, 100)

  def bend(name, values):
    y = _points(curves.charts({name: _curve(values)}), 'raw')[:, 1]
    straight = np.linspace(y[0], y[-1], len(y))
    return np.abs(y - straight).max()

  assert bend('loss', falling) < 1.0
  assert bend('perplexity', falling) > 20.0
  assert bend('loss', np.geomspace(2.0, 1.0, 100)) > 3.0


def test_evaluations_are_dots_of_their_own():
  svg = curves.charts({'loss': _curve(np.ones(40), [2.0, 1.5, 1.0])})
  assert svg.count('<circle') == 3
  assert '● 1<' in svg
  only = curves.charts({'first_turn': _curve([], [0.2, 0.4])})
  assert 'class="raw"' not in only
  assert '>first turn<' in only


def test_the_strong_line_follows_the_faint_one_and_is_calmer():
  rng = np.random.default_rng(0)
  values = np.linspace(0, 1, 400) + rng.normal(0, 0.1, 400)
  svg = curves.charts({'x': _curve(values)})
  raw, mean = _points(svg, 'raw')[:, 1], _points(svg, 'mean')[:, 1]
  assert np.abs(np.diff(mean)).mean() < 0.3 * np.abs(np.diff(raw)).mean()
  assert abs(np.mean(raw - mean)) < 1.0


def _level_points(svg: str, kind: str) -> list[np.ndarray]:
  found = re.findall(rf'<{kind} class="curve c\d" points="([^"]*)"', svg)
  return [
    np.array([pair.split(',') for pair in text.split()], float)
    for text in found
  ]


def test_levels_are_as_far_apart_as_their_places_and_bands_hold_the_line():
  first = {
    'a': curves.Point(0.9, 0.85, 0.95),
    'b': curves.Point(0.7, 0.6, 0.8),
    'd': curves.Point(0.4, 0.3, 0.5),
  }
  second = {'a': curves.Point(0.2, 0.1, 0.3)}
  svg = curves.levels('t <b>', ('a', 'b', 'c', 'd'), {'x': first, 'y': second})
  line, alone = _level_points(svg, 'polyline')
  band, _ = _level_points(svg, 'polygon')
  a, b, d = line[:, 0]
  assert a < b
  assert d - b == pytest.approx(2 * (b - a), abs=0.2)
  assert np.all(np.diff(line[:, 1]) > 0), 'less is further down'
  assert alone[0, 1] > line[-1, 1]
  upper, lower = band[:3, 1], band[:2:-1, 1]
  assert np.all(upper < line[:, 1])
  assert np.all(line[:, 1] < lower)
  everything = np.concatenate([band, alone])
  assert everything[:, 0].min() >= 38
  assert everything[:, 0].max() <= 440
  assert everything[:, 1].min() >= 0
  assert everything[:, 1].max() <= 190 - 16 + 0.1
  assert svg.count('<circle') == 4
  assert 't &lt;b&gt;' in svg
  assert '<b>' not in svg
