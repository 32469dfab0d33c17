"""What is trained and how fast: path patterns, one schedule, optax.

Everything here speaks of flat dicts from a parameter's path to its array, as in
`{'translators/motion/in/kernel': ...}`, and of regular expressions that must
match a whole path.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

Flat = dict[str, Any]

# Kernels that Muon leaves to Adam: its authors orthogonalise hidden matrices
# only, so the first layer, the last layer and adapters stay outside.
_NOT_FOR_MUON = re.compile(r'.*/(head|patch)/kernel')
# The leaves that weight decay pulls on; norms, biases and positions are free.
_DECAYED = re.compile(r'(.*/)?(kernel|embedding|lora_a|lora_b)')
# Attention projections whose kernels have one input axis and split outputs.
_SPLIT_OUTPUTS = re.compile(r'.*/(q|k|v)/kernel')


@dataclasses.dataclass(frozen=True)
class Group:
  """Parameters with a learning rate of their own.

  Attributes:
    pattern: regular expression for whole paths.
    learning_rate: the peak of the schedule for these parameters.
  """

  pattern: str
  learning_rate: float


def match(
  patterns: Sequence[str], paths: Sequence[str], *, what: str = 'parameter'
) -> dict[str, int]:
  """The index of the first pattern that matches each matched path.

  Raises:
    ValueError: a pattern is the first match of no path; the message names the
      nearest ones.
  """
  compiled = [re.compile(pattern) for pattern in patterns]
  found = {}
  for path in paths:
    hits = (i for i, regex in enumerate(compiled) if regex.fullmatch(path))
    if (index := next(hits, None)) is not None:
      found[path] = index
  for i, pattern in enumerate(patterns):
    if i not in found.values():
      near = difflib.get_close_matches(pattern, paths, 5, cutoff=0.0)
      taken = any(compiled[i].fullmatch(path) for path in paths)
      reason = 'all of them taken by earlier patterns' if taken else 'none'
      raise ValueError(
        f'Expected the pattern {pattern!r} to match a {what}, found {reason}; '
        f'the nearest paths are {", ".join(near) or "missing: there are none"}.'
      )
  return found


def split(
  flat: Mapping[str, Any], patterns: Sequence[str]
) -> tuple[Flat, Flat]:
  """Splits parameters into (trainables, frozen) by patterns of paths."""
  found = match(patterns, list(flat))
  trainables = {path: x for path, x in flat.items() if path in found}
  frozen = {path: x for path, x in flat.items() if path not in found}
  return trainables, frozen


def join(trainables: Mapping[str, Any], frozen: Mapping[str, Any]) -> Flat:
  """The inverse of `split`; no path may be on both sides."""
  if both := sorted(set(trainables) & set(frozen)):
    raise ValueError(
      f'Expected each parameter to be trainable or frozen, found both for '
      f'{", ".join(both)}; split them with optimizer.split.'
    )
  return {**trainables, **frozen}


def _constant(progress):
  return jnp.ones_like(progress)


def _cosine(progress):
  return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


# From progress after the warm-up, 0 to 1, to a factor.
SCHEDULES = {'constant': _constant, 'cosine': _cosine}


def make_schedule(
  name: str, *, steps: int, warmup_steps: int = 0
) -> Callable[[jax.Array], jax.Array]:
  """From the step, counted from 0, to a factor between 0 and 1.

  The warm-up is linear and its first step already moves: with warmup_steps=4
  the factors are 1/4, 2/4, 3/4, 1 and then the named schedule from 1.
  """
  decay = _look_up(SCHEDULES, name, 'schedule')
  if not 0 <= warmup_steps < steps:
    raise ValueError(
      f'Expected 0 <= warmup_steps < steps, found warmup_steps={warmup_steps} '
      f'and steps={steps}.'
    )

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    warm = jnp.minimum(1.0, (step + 1.0) / max(warmup_steps, 1))
    progress = jnp.clip((step - warmup_steps) / (steps - warmup_steps), 0, 1)
    return warm * decay(progress)

  return schedule


def _decay_mask(flat: Flat) -> dict[str, bool]:
  return {path: bool(_DECAYED.fullmatch(path)) for path in flat}


def _adamw(*, betas, eps, weight_decay) -> optax.GradientTransformation:
  return optax.adamw(
    1.0, *betas, eps, weight_decay=weight_decay, mask=_decay_mask
  )


def matrix_axes(
  path: str, ndim: int
) -> optax.contrib.MuonDimensionNumbers | None:
  """Which axes of a parameter are a matrix's input and output; None: neither.

  Blocks are stacked on axis 0, which is no part of any matrix. A projection to
  heads is [D, N, H] with one input axis, everything else has one output axis:
  attention output [N, H, D], convolutions [width, in, out], dense [in, out].
  """
  if not path.endswith('/kernel') or _NOT_FOR_MUON.fullmatch(path):
    return None
  axes = tuple(range('/blocks/' in f'/{path}', ndim))
  if len(axes) < 2:
    return None
  cut = 1 if _SPLIT_OUTPUTS.fullmatch(path) else len(axes) - 1
  return optax.contrib.MuonDimensionNumbers(axes[:cut], axes[cut:])


def _muon(*, betas, eps, weight_decay) -> optax.GradientTransformation:
  """Muon for hidden matrices, AdamW for embeddings, head, norms and biases.

  With consistent_rms=0.2 an update is as large as Adam's usually is, so both
  halves share a learning rate (https://arxiv.org/abs/2502.16982, section 2.2).
  """

  def dimension_numbers(flat):
    # Inside optax.contrib.muon, what belongs to Adam is masked and has no axes.
    return {
      path: matrix_axes(path, getattr(x, 'ndim', 0)) for path, x in flat.items()
    }

  if weight_decay:
    # optax gives Adam's half no mask for decay; the masked rule is added after
    # both halves instead, with the sign that muon's rate of 1 has given them.
    decay = optax.add_decayed_weights(-weight_decay, mask=_decay_mask)
  else:
    decay = optax.identity()
  return optax.chain(
    optax.contrib.muon(
      1.0,
      eps=eps,
      adam_b1=betas[0],
      adam_b2=betas[1],
      consistent_rms=0.2,
      muon_weight_dimension_numbers=dimension_numbers,
    ),
    decay,
  )


# Each gives updates for a learning rate of one, sign included.
KINDS = {'adamw': _adamw, 'muon': _muon}


def _scale_by_groups(
  groups: Sequence[Group], schedule
) -> optax.GradientTransformation:
  """Multiplies each update by its group's rate and the schedule's factor."""

  def rates(flat):
    patterns = [group.pattern for group in groups]
    found = match(patterns, list(flat), what='trainable parameter')
    if left := sorted(set(flat) - set(found)):
      raise ValueError(
        f'Expected a learning rate for every trainable parameter, found none '
        f'for {", ".join(left)}; add a Group whose pattern matches.'
      )
    return {path: groups[i].learning_rate for path, i in found.items()}

  def init(flat):
    rates(flat)
    return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

  def update(updates, state, params=None):
    del params
    factor = schedule(state.count)
    rate = rates(updates)
    scaled = {
      path: (factor * rate[path] * u).astype(u.dtype)
      for path, u in updates.items()
    }
    return scaled, optax.ScaleByScheduleState(count=state.count + 1)

  return optax.GradientTransformation(init, update)


def make(
  groups: Sequence[Group],
  *,
  steps: int,
  warmup_steps: int = 0,
  schedule: str = 'cosine',
  clip: float = 1.0,
  betas: tuple[float, float] = (0.9, 0.999),
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  kind: str = 'adamw',
) -> optax.GradientTransformation:
  """The optimizer for flat dicts of trainable parameters.

  Gradients are clipped to a global norm, turned into updates by one optimizer,
  and scaled by the rate of the first group that matches times one schedule.
  Weight decay is decoupled, multiplied by the learning rate, and spares norms,
  biases and positions.

  Args:
    groups: learning rates by pattern; every trainable path must be in one.
    steps: where the schedule ends.
    warmup_steps: steps of linear warm-up.
    schedule: a key of SCHEDULES.
    clip: largest global gradient norm; 0 leaves gradients alone.
    betas: Adam's decay rates.
    eps: added to denominators.
    weight_decay: times the learning rate.
    kind: a key of KINDS.
  """
  make_kind = _look_up(KINDS, kind, 'optimizer')
  return optax.chain(
    optax.clip_by_global_norm(clip) if clip else optax.identity(),
    make_kind(betas=betas, eps=eps, weight_decay=weight_decay),
    _scale_by_groups(
      groups,
      make_schedule(schedule, steps=steps, warmup_steps=warmup_steps),
    ),
  )


def _look_up(table: Mapping[str, Any], name: str, what: str):
  if name not in table:
    raise ValueError(
      f'Expected a known {what}, one of {", ".join(sorted(table))}; '
      f'found {name!r}.'
    )
  return table[name]
