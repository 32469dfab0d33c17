"""Pictures of a comparison: SVG files with nothing outside themselves.

Places or steps run to the right, errors up on a logarithmic axis. Ours is a
thin line over PyTorch's broad one, so that both are seen where they agree.
"""

import html
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_WIDTH, _LEFT, _RIGHT = 880, 62, 14
_JAX, _TORCH, _APART, _BAD = '#0f766e', '#f59e5b', '#6b7280', '#b91c1c'
_GROUPS = {
  'motion': 'motion VQ-VAE',
  'video': 'video tower',
  'translators': 'translators',
  'lora': 'LoRA',
  'llm': 'decoder',
  'logits': 'logits',
}
_NARROW = {'translators': 'transl.', 'video': 'video', 'logits': 'logits'}
_STYLE = (
  'text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;'
  'fill:#687078}'
  '.head{font-size:13px;font-weight:600;fill:#1c2125}'
  '.key{fill:#1c2125}'
  '.grid{stroke:#e4e1dc}'
  '.band{fill:#f5f3ef}'
  f'.limit{{stroke:{_BAD};stroke-dasharray:4 3;stroke-width:1.3}}'
)

Key = tuple[str, str, str]  # kind of mark, colour, words


class _Panel:
  """A frame with a vertical axis; marks are added to its parts."""

  def __init__(
    self, top: float, height: float, low: float, high: float, is_log: bool
  ):
    self.top, self.height, self.parts = top, height, []
    self._low, self._high, self._scale = (
      (math.log10(low), math.log10(high), math.log10)
      if is_log
      else (low, high, float)
    )
    self._least = low
    ticks = (
      [10.0**k for k in range(round(self._low), round(self._high) + 1)]
      if is_log
      else _even_ticks(low, high)
    )
    for tick in ticks:
      y = self.y(tick)
      words = f'1e{round(math.log10(tick))}' if is_log else f'{tick:g}'
      self.parts.append(
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
        f'y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{words}'
        '</text>'
      )

  def y(self, value: float) -> float:
    """Values below the axis lie on it: zero has no logarithm."""
    if not math.isfinite(value):
      return self.top
    value = self._scale(max(value, self._least))
    share = (value - self._low) / (self._high - self._low)
    return self.top + (1 - min(share, 1.0)) * self.height

  def head(self, words: str, keys: Sequence[Key]) -> None:
    y = self.top - 14
    self.parts.append(
      f'<text class="head" x="{_LEFT}" y="{y}">{html.escape(words)}</text>'
    )
    x = _WIDTH - _RIGHT
    for kind, colour, name in reversed(keys):
      x -= 6.1 * len(name)
      self.parts.append(
        f'<text class="key" x="{x:.0f}" y="{y}">{html.escape(name)}</text>'
      )
      x -= 24
      self.parts.append(_key_mark(kind, colour, x, y - 4))
      x -= 16

  def line(self, xs, values, colour: str, width: float) -> None:
    points = ' '.join(
      f'{x:.1f},{self.y(v):.1f}' for x, v in zip(xs, values, strict=True)
    )
    self.parts.append(
      f'<polyline points="{points}" fill="none" stroke="{colour}" '
      f'stroke-width="{width}" stroke-linejoin="round"/>'
    )

  def dot(
    self, x: float, value: float, colour: str, words: str, radius=3.4
  ) -> None:
    """`words` are shown to whoever points at it."""
    self.parts.append(
      f'<circle cx="{x:.1f}" cy="{self.y(value):.1f}" r="{radius}" '
      f'fill="{colour}"><title>{html.escape(words)}: {value:.1e}</title>'
      '</circle>'
    )

  def limit(self, left: float, right: float, value: float) -> None:
    y = self.y(value)
    self.parts.append(
      f'<line class="limit" x1="{left:.1f}" x2="{right:.1f}" '
      f'y1="{y:.1f}" y2="{y:.1f}"/>'
    )


def _key_mark(kind: str, colour: str, x: float, y: float) -> str:
  if kind == 'dot':
    return f'<circle cx="{x + 13}" cy="{y}" r="3.4" fill="{colour}"/>'
  if kind == 'limit':
    return f'<line class="limit" x1="{x}" x2="{x + 19}" y1="{y}" y2="{y}"/>'
  return (
    f'<line x1="{x}" x2="{x + 19}" y1="{y}" y2="{y}" stroke="{colour}" '
    f'stroke-width="{kind}"/>'
  )


def _even_ticks(low: float, high: float) -> list[float]:
  step = 10.0 ** math.floor(math.log10((high - low) / 2))
  step = next(step * k for k in (1, 2, 5, 10) if (high - low) / (step * k) <= 5)
  first = math.ceil(low / step)
  return [k * step for k in range(first, math.floor(high / step) + 1)]


def _document(height: int, parts: Sequence[str], words: str) -> str:
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" '
    f'height="{height}" viewBox="0 0 {_WIDTH} {height}" role="img" '
    f'aria-label="{html.escape(words)}"><style>{_STYLE}</style>'
    f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#fff"/>'
    f'{"".join(parts)}</svg>\n'
  )


def _powers(values: Sequence[float]) -> tuple[float, float]:
  """Powers of ten around all values that have a logarithm."""
  shown = [x for x in values if math.isfinite(x) and x > 0] or [1.0]
  low, high = math.floor(math.log10(min(shown))), math.log10(max(shown))
  return 10.0**low, 10.0 ** max(math.ceil(high + 0.05), low + 1)


# --- Errors by place ---------------------------------------------------------


def errors(
  lines: Sequence[Mapping[str, Any]], rounded: Sequence[Mapping[str, Any]]
) -> str:
  """The largest float32 error and the bfloat16 distances of every place."""
  lines = [line for line in lines if line['spread'] is not None]
  names = [line['name'] for line in lines]
  by_name = {line['name']: line for line in rounded}
  groups = [
    (group, list(some))
    for group, some in itertools.groupby(
      range(len(names)), lambda i: names[i].split('/')[0]
    )
  ]
  step = (_WIDTH - _LEFT - _RIGHT) / len(names)

  def x(i: float) -> float:
    return _LEFT + (i + 0.5) * step

  shown = [line['relative'] for line in lines]
  low, high = _powers(shown + [line['tolerance'] for line in lines])
  upper = _Panel(46, 190, max(low, 1e-8), high, True)
  upper.head(
    'float32: largest error, in standard deviations',
    [('dot', _JAX, 'JAX from PyTorch'), ('limit', _BAD, 'tolerance')],
  )
  some = [by_name[name] for name in names]
  keys = ('jax', 'torch', 'apart')
  low, high = _powers([line[key] for line in some for key in keys])
  lower = _Panel(296, 170, max(low, 1e-4), high, True)
  lower.head(
    'bfloat16: root mean square, in standard deviations',
    [
      ('dot', _JAX, 'JAX from float32'),
      ('dot', _TORCH, 'PyTorch from float32'),
      ('dot', _APART, 'from each other'),
    ],
  )
  bands = []
  for number, (group, places) in enumerate(groups):
    left, right = x(places[0] - 0.5), x(places[-1] + 0.5)
    if number % 2 == 0:
      bands += [
        f'<rect class="band" x="{left:.1f}" y="{panel.top}" '
        f'width="{right - left:.1f}" height="{panel.height}"/>'
        for panel in (upper, lower)
      ]
    words = _GROUPS[group]
    if 6.2 * len(words) > right - left:
      words = _NARROW.get(group, words)
    for y in (upper.top + upper.height + 17, lower.top + lower.height + 17):
      upper.parts.append(
        f'<text x="{(left + right) / 2:.1f}" y="{y}" text-anchor="middle">'
        f'{words}</text>'
      )
    upper.limit(left, right, lines[places[0]]['tolerance'])
    for i in places:
      line = lines[i]
      colour = _JAX if line['is_ok'] else _BAD
      upper.dot(x(i), line['relative'], colour, names[i])
      for key, colour, shift in (
        ('apart', _APART, 0.0),
        ('torch', _TORCH, 0.18),
        ('jax', _JAX, -0.18),
      ):
        value = by_name[names[i]][key]
        lower.dot(x(i + shift), value, colour, names[i], 2.6)
  return _document(
    496, [*bands, *upper.parts, *lower.parts], 'errors of every place'
  )


# --- Loss by step ------------------------------------------------------------


def losses(name: str, run: Mapping[str, Any], tolerance: float) -> str:
  """Both loss curves, and their relative difference below."""
  ours, theirs = run['losses']['jax'], run['losses']['torch']
  steps = len(ours)

  def x(i: float) -> float:
    return _LEFT + 6 + i / max(steps - 1, 1) * (_WIDTH - _LEFT - _RIGHT - 12)

  xs = [x(i) for i in range(steps)]
  shown = [v for v in (*ours, *theirs) if math.isfinite(v)] or [0.0, 1.0]
  margin = 0.06 * (max(shown) - min(shown)) or 0.1
  upper = _Panel(46, 190, min(shown) - margin, max(shown) + margin, False)
  upper.head(
    f'{name}: loss',
    [('6', _TORCH, 'PyTorch'), ('1.6', _JAX, 'JAX')],
  )
  upper.line(xs, theirs, _TORCH, 6)
  upper.line(xs, ours, _JAX, 1.6)
  low, high = _powers([*run['relative'], tolerance])
  lower = _Panel(282, 120, max(low, 1e-9), high, True)
  lower.head(
    'relative difference',
    [('dot', _JAX, 'of a step'), ('limit', _BAD, 'tolerance')],
  )
  lower.limit(_LEFT, _WIDTH - _RIGHT, tolerance)
  for i, value in enumerate(run['relative']):
    colour = _JAX if value <= tolerance else _BAD
    lower.dot(xs[i], value, colour, f'step {i + 1}', 2.8)
  ticks = _step_labels(steps, x, lower.top + lower.height + 17)
  return _document(
    432, [*upper.parts, *lower.parts, *ticks], f'loss of {name} on both sides'
  )


def _step_labels(
  steps: int, x: Callable[[float], float], y: float
) -> list[str]:
  stride = max(1, round(steps / 5))
  shown = (
    [1, *range(stride, steps + 1, stride)]
    if stride > 1
    else [*range(1, steps + 1)]
  )
  return [
    f'<text x="{x(step - 1):.1f}" y="{y}" text-anchor="middle">'
    f'{"step " * (step == 1)}{step}</text>'
    for step in shown
  ]
