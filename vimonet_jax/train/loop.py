"""The loop that trains every stage.

It knows of a stage only its `name`, `abstract`, `init`, `trainable`, `loss_fn`,
`frozen_dtype` and, if it has one, `check` (see stages.Stage), so that a toy
with these attributes trains as well. A stage's folder ends up with

    base.json  checkpoints/<step>/  metrics.jsonl  tensorboard/
    weights/  summary.json
    skipped-<process>.jsonl  not_finite-<process>.json   where there is need

and a run that is killed at any moment and started again ends with the same
bits as one that was left alone.
"""

import contextlib
import json
import logging
import signal
import threading
from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any

import jax
import jax.numpy as jnp
import optax
from etils import epath

from vimonet_jax import (
  checkpoint,
  cluster,
  disk,
  fingerprint,
  sharding,
  weight_files,
  weight_writer,
)
from vimonet_jax.models import quantize
from vimonet_jax.train import log as log_lib
from vimonet_jax.train import optimizer
from vimonet_jax.train import step as step_lib

Flat = dict[str, Any]


def train(
  stage: Any,
  dataset: Iterable[Mapping[str, Any]],
  *,
  folder: str,
  steps: int,
  tx: optax.GradientTransformation,
  seed: int = 0,
  mesh: jax.sharding.Mesh | None = None,
  init: Sequence[str] = (),
  grad_accumulation: int = 1,
  checkpoint_steps: int = 200,
  evaluate: Callable[[Flat, Flat, int], dict[str, float]] | None = None,
  progress: bool = True,
) -> dict[str, Any]:
  """Trains a stage to its end, from wherever it stands, and returns a summary.

  A stage that is finished already returns at once. SIGTERM saves and leaves
  with SystemExit, also where the stage was just ending; after Ctrl-C the last
  checkpoint is good, and so it is when the disk is full.

  Args:
    stage: what to train; see stages.Stage.
    dataset: its iterator gives endless batches of this process's rows, and is a
      Grain iterator, so that it can be saved. `ids` among their keys, str [B],
      stays here: of each row's records, one a line.
    folder: where the stage keeps everything.
    steps: steps in all, those of earlier runs included.
    tx: from optimizer.make.
    seed: of fresh parameters and of the steps' randomness.
    mesh: from sharding.make_mesh; None puts everything on one device.
    init: folders of weights to start from; later ones override.
    grad_accumulation: micro-batches per step.
    checkpoint_steps: steps between checkpoints; the last step has one always.
    evaluate: from all parameters by path, mutable state and step to numbers,
      which the last line of metrics.jsonl has as eval/<name>. It is asked when
      the last step is saved. The arrays belong to the loop: they must not be
      kept.
    progress: draw a progress bar.

  Returns:
    What summary.json holds: name, steps, started_from, seconds (of all runs,
    compiling, evaluating and saving included), rate (steps per second), and the
    metrics of the last line of metrics.jsonl.
  """
  root = epath.Path(folder).absolute()
  summary = log_lib.finished(root, steps)
  if summary := cluster.from_first('a stage is finished', summary):
    logging.info('Stage %s is finished: %s', stage.name, root)
    return summary
  mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
  iterator = iter(dataset)
  with contextlib.ExitStack() as stack:
    stack.enter_context(disk.says_when_full(root))
    stack.enter_context(sharding.use(mesh))
    saver = checkpoint.Checkpointer(root / 'checkpoints')
    stack.callback(saver.close)
    state, frozen, source = _start(
      root, stage, tx, iterator, saver, mesh, seed=seed, init=init
    )
    first = int(state.step)
    log = stack.enter_context(
      log_lib.Log(root, stage.name, first, steps, progress)
    )
    log.say(f'{stage.name}: starts at step {first} from {source}')
    stop = stack.enter_context(_stop_on_sigterm())
    stop.leave_if_told()  # While restoring; the first step may compile long.
    step_fn = step_lib.jit(stage, tx, state, frozen, mesh, grad_accumulation)
    rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    key = jax.device_put(jax.random.fold_in(jax.random.key(seed), 1), whole)

    checked = set()
    for step in range(first + 1, steps + 1):
      batch = dict(_next(iterator, step))
      ids = batch.pop('ids', ())
      _check_once(stage, batch, checked)
      state, metrics = step_fn(state, frozen, _to_global(batch, rows), key)
      log.later(step, metrics, ids)
      stopping = stop.is_told()
      if step == steps or step % checkpoint_steps == 0 or stopping:
        log.flush()  # Numbers that are not finite must stop us before saving.
        saver.save(step, state, iterator)
      if stopping:
        saver.wait()
        log.say(f'{stage.name}: stopped by SIGTERM, saved at step {step}')
        raise SystemExit(cluster.STOPPED)

    saver.wait()
    last = int(state.step)
    if evaluate is not None and not log.is_evaluated(last):
      # Saved before: who is stopped meanwhile looks again and loses nothing.
      with stop.at_once():
        log.amend(last, _evaluation(evaluate, state, frozen, last))
    weight_writer.save(
      root / 'weights', optimizer.join(state.trainables, state.mutable)
    )
    return log.finish(name=stage.name, steps=steps, started_from=source)


def _start(
  root, stage, tx, iterator, saver, mesh, *, seed, init
) -> tuple[step_lib.State, Flat, str]:
  """The state to begin with, the frozen parameters, and where they came from.

  The first of these that is there decides on the state:
    1. a checkpoint of its own in the stage's folder,
    2. named weights, for the paths that they have,
    3. fresh parameters.
  Frozen parameters are in no checkpoint: 2 and 3 hold for them in every case.
  """
  stored = weight_files.Lazy(init)
  target, where = step_lib.layout(stage, tx, mesh, stored.dtypes)
  wanted = {**target.trainables, **target.mutable, **where}

  # 2. and 3.
  loaded, marks = _load(stored, wanted, where, stage.frozen_dtype)
  fresh = sorted(set(wanted) - set(loaded))
  if init and (lost := sorted(set(where) & set(fresh))):
    # Random and never trained: nobody wants that who names weights.
    raise ValueError(
      f'Expected weights for all that stage {stage.name} keeps frozen, found '
      f'none for {", ".join(lost[:3])}{" ..." * (len(lost) > 3)} in '
      f'{", ".join(map(str, init))}; name the weights that have them.'
    )

  def make(key):
    made = optimizer.join(*stage.init(key))
    return {path: made[path].astype(wanted[path].dtype) for path in fresh}

  # Under jit, what is loaded is never initialised, and nothing is ever whole.
  flat = loaded | jax.jit(
    make, out_shardings={path: wanted[path].sharding for path in fresh}
  )(jax.random.key(seed))
  trainables = {path: flat[path] for path in target.trainables}
  state = step_lib.State(
    step=jax.device_put(jnp.zeros((), jnp.int32), target.step.sharding),
    trainables=trainables,
    opt_state=jax.jit(
      tx.init,
      out_shardings=jax.tree.map(lambda x: x.sharding, target.opt_state),
    )(trainables),
    mutable={path: flat[path] for path in target.mutable},
  )
  frozen = {path: flat[path] for path in where}
  # In one order in all processes, which add them up together.
  marks += [
    fingerprint.mark(path, frozen[path]) for path in fresh if path in where
  ]
  check_base(root, stage.name, fingerprint.of_marks(marks))
  source = f'{len(wanted) - len(fresh)} named and {len(fresh)} fresh arrays'

  # 1.
  restored = saver.restore(target, iterator)
  if restored is not None:
    return restored, frozen, 'its own checkpoint'
  return state, frozen, source


def check_base(folder: str, name: str, found: str) -> None:
  """Refuses to go on upon other frozen weights than a run began with.

  Args:
    folder: of the stage; in a new one the weights are remembered.
    name: of the stage.
    found: fingerprint of what it keeps frozen, in the dtypes that it keeps it
      in, before quantisation.

  Raises:
    ValueError: these are others.
  """
  root = epath.Path(folder).absolute()
  path = root / 'base.json'
  if path.exists():
    try:
      known = json.loads(path.read_text())['frozen']
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f'Expected the fingerprint of frozen weights in {path}, found the file '
        'damaged; remove it if config.base is the one that the stage began '
        f'with, or remove {root} to begin anew.'
      ) from error
    if known != found:
      raise ValueError(
        f'Expected stage {name} to go on with the frozen weights that it began '
        f'with (fingerprint {known}), found others ({found}); bring the old '
        f'ones back, or remove {root} to begin anew.'
      )
  elif cluster.is_first():
    root.mkdir(parents=True, exist_ok=True)
    log_lib.write_atomically(path, json.dumps({'frozen': found}))


def _load(
  stored: weight_files.Lazy,
  wanted: Flat,
  frozen: Collection[str],
  frozen_dtype: str | None,
) -> tuple[Flat, list[fingerprint.Mark]]:
  """Named weights for paths that the stage has, as it keeps them.

  Args:
    stored: the weights.
    wanted: what the stage has.
    frozen: which of it no step changes.
    frozen_dtype: of those; None as they are stored.

  Returns:
    path -> array, and for `check_base` what was read of the frozen ones, before
    any of it is quantised, which no two kinds of chips do alike.
  """
  takers = quantize.made_of(wanted)
  if unknown := sorted(set(stored) - set(takers)):
    logging.info('Weights that this stage has no place for: %s', unknown)
  taken = [path for path in stored if path in takers]
  for path in taken:
    shape = wanted[takers[path][0]].shape
    if stored.shapes[path] != shape:
      raise ValueError(
        f'Expected {path} of shape {shape}, found {stored.shapes[path]} in '
        f'{stored.folders[path]}; use weights of the same model.'
      )
  marks = []

  def keep(path, x):
    first = takers[path][0]
    is_whole = first == path
    dtype = wanted[path].dtype if is_whole else frozen_dtype or x.dtype
    x = x.astype(dtype)
    if first in frozen:
      marks.append(fingerprint.mark(path, x))
    return {path: x} if is_whole else quantize.like(path, x, wanted)

  shardings = {
    path: wanted[parts[0]].sharding for path, parts in takers.items()
  }
  return stored.only(taken).read(shardings=shardings, change=keep), marks


def _next(iterator: Iterator, step: int) -> Mapping[str, Any]:
  batch = next(iterator, None)
  if batch is None:
    raise ValueError(
      f'Expected endless batches, found the end of the dataset at step {step}; '
      'repeat the dataset or lower the number of steps.'
    )
  return batch


def _check_once(stage, batch, checked: set) -> None:
  """Has the stage look at the first batch of each kind."""
  kind = tuple(sorted((name, x.shape) for name, x in batch.items()))
  if kind not in checked and getattr(stage, 'check', None) is not None:
    stage.check(batch)
  checked.add(kind)


def _to_global(batch: Mapping[str, Any], rows) -> dict[str, jax.Array]:
  return {
    name: jax.make_array_from_process_local_data(rows, x)
    for name, x in batch.items()
  }


def _evaluation(evaluate, state: step_lib.State, frozen: Flat, step: int):
  found = evaluate(
    optimizer.join(state.trainables, frozen), state.mutable, step
  )
  return {name: float(value) for name, value in found.items()}


class _Stop:
  """Whether a SIGTERM asked to save and stop.

  Attributes:
    is_told: whether it did; several processes must ask equally often.
  """

  def __init__(self, is_told: Callable[[], bool]):
    self.is_told = is_told
    self._is_saved = False

  def leave_if_told(self) -> None:
    """Where everything is saved."""
    if self.is_told():
      cluster.leave()

  @contextlib.contextmanager
  def at_once(self) -> Iterator[None]:
    """While everything is saved, the signal need not wait for a step's end."""
    self._is_saved = True
    try:
      yield
    finally:
      self._is_saved = False

  def hear(self, *_) -> None:
    """What a signal does beside being remembered."""
    if self._is_saved:
      raise SystemExit(cluster.STOPPED)


@contextlib.contextmanager
def _stop_on_sigterm() -> Iterator[_Stop]:
  """Gives what knows of the signal; who heard of it until the end leaves then.

  So the next stage does not begin, if the signal came when this one had taken
  its last step.
  """
  if cluster.is_joined():
    # JAX itself catches the signal and makes all processes stop at one place.
    stop = _Stop(cluster.is_told_to_stop)
    yield stop
  elif threading.current_thread() is not threading.main_thread():
    # Python hears signals in the main thread only.
    stop = _Stop(lambda: False)
    yield stop
  else:
    received = threading.Event()
    stop = _Stop(received.is_set)

    def handle(*_):
      received.set()
      stop.hear()

    before = signal.signal(signal.SIGTERM, handle)
    try:
      yield stop
    finally:
      signal.signal(signal.SIGTERM, before)
  stop.leave_if_told()
