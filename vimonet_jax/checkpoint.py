"""A run's state on disk, to go on from.

It holds everything that resuming needs, and is read by nobody else; weights for
everybody are in `weight_files`.
"""

import contextlib
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import grain.python as grain
import jax
import orbax.checkpoint as ocp
from etils import epath

from vimonet_jax import cluster, fingerprint

# Between two attempts to read a checkpoint.
_PAUSE_S = 1.0


class Checkpointer:
  """Saves and restores {step, trainables, opt_state, mutable} and an iterator.

  Saving returns as soon as the arrays are copied from the device and goes on in
  the background. A checkpoint has its number only once it is complete, so a
  process killed in the middle of saving leaves the one before as the newest.
  """

  def __init__(self, folder: str, *, max_to_keep: int = 2):
    """Opens `folder`, an absolute or relative path, which may not exist yet."""
    self._folder = epath.Path(folder).absolute()
    self._max_to_keep = max_to_keep
    self._open()

  def _open(self) -> None:
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=self._max_to_keep, cleanup_tmp_directories=True
      ),
    )
    # Orbax asks JAX for SIGTERM itself, from its threads as well and with
    # numbers of steps, which JAX would take for the last of our calls.
    self._manager.reached_preemption = lambda step: False
    self._wait_for_listing()

  def _wait_for_listing(self) -> None:
    """Until checkpoints are listed here as in the first process."""
    steps = cluster.from_first('checkpoints are listed', self.steps)
    start = time.monotonic()
    with cluster.alike('checkpoints are listed alike'):
      while self.steps != steps:
        if time.monotonic() - start > cluster.STALE_S:
          raise ValueError(
            f'Expected all processes to see the checkpoints of steps {steps} '
            f'in {self._folder}, found {self.steps}; choose a --workdir on a '
            'file system that every host mounts.'
          )
        time.sleep(_PAUSE_S)
        self._manager.reload()

  @property
  def steps(self) -> list[int]:
    """Steps of the checkpoints that are complete, oldest first."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, state: Any, iterator: Any) -> None:
    """Saves in the background; waits only for an earlier save to finish.

    Args:
      step: how many steps led to `state`.
      state: a tree of arrays.
      iterator: a Grain iterator that has given `step` batches so far.
    """
    if step in self.steps:
      return
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        iterator=grain.PyGrainCheckpointSave(_Sealed(iterator)),
        seal=ocp.args.JsonSave({'state': _fingerprint_of_tree(state)}),
      ),
    )

  def restore(self, abstract: Any, iterator: Any) -> Any | None:
    """The newest state that can be read; None where there is no checkpoint.

    A checkpoint that cannot be read twice in a row is damaged: it is reported,
    put aside under another name, and the one before is used. What one process
    cannot read, none uses.

    Args:
      abstract: tree of jax.ShapeDtypeStruct with shardings, as saved.
      iterator: is set to go on with the batch after the state's step.

    Raises:
      ValueError: there are checkpoints, and none can be read, has the paths,
        shapes and dtypes of `abstract`, and was read in shares of the data that
        `iterator` has.
    """
    errors = {}
    for step in reversed(self.steps):
      try:
        state = self._read_twice(step, abstract, iterator)
      except Exception as error:  # Whatever a broken file makes Orbax raise.
        errors[step] = error.with_traceback(None)  # It holds what was read.
        continue
      for damaged, error in errors.items():
        logging.warning(
          'Checkpoint %s is damaged and was put aside; going on from step %d. '
          'The damage: %s',
          self._folder / str(damaged),
          step,
          cluster.line_of(error),
        )
      self._put_aside(list(errors))
      return state
    if errors:
      newest = max(errors)
      error, what = errors[newest], f'a checkpoint of {self._folder}'
      if isinstance(error, _OtherArraysError):
        raise ValueError(
          f'Expected to restore {what}, found none that fits; remove the '
          'folder to start afresh, or use the configuration that wrote it. '
          f'Step {newest} says: {cluster.line_of(error)}'
        ) from error
      raise ValueError(
        f'Expected to restore {what}, found none that can be gone on with; all '
        f'are left where they are, so mend what step {newest} says and start '
        f'again: {cluster.line_of(error)}'
      ) from error
    return None

  def _read_twice(self, step: int, abstract: Any, iterator: Any) -> Any:
    """Tries again once: a file system may be away for a moment."""
    try:
      return self._read(step, abstract, iterator)
    except Exception as error:  # Whatever a broken file makes Orbax raise.
      logging.warning(
        'Reading checkpoint %s once more after: %s',
        self._folder / str(step),
        cluster.line_of(error),
      )
    time.sleep(_PAUSE_S)
    return self._read(step, abstract, iterator)

  def _read(self, step: int, abstract: Any, iterator: Any) -> Any:
    """Raises in all processes or in none."""
    folder = self._folder / str(step)
    with cluster.alike('a checkpoint is read'):
      state, seal = _read_alone(folder, abstract)
      place = _place(folder / 'iterator', iterator)
    # A byte that changed on the disk, neither Orbax nor TensorStore notices.
    # All devices compute this together, so all have read by now.
    bits = _fingerprint_of_tree(state)
    with cluster.alike('a checkpoint is gone on with'):
      if bits != seal:
        raise ValueError(
          f'Expected the bits that were saved in {folder} (fingerprint '
          f'{seal}), found others ({bits}).'
        )
      iterator.set_state(place)
      iterator.start_prefetch()
    return state

  def _put_aside(self, steps: Sequence[int]) -> None:
    """Renames folders, so that their steps can be saved again."""
    if not steps:
      return
    # Nobody lists the folder before it is as it will be.
    with cluster.alike('damaged checkpoints are put aside'):
      for step in steps if cluster.is_first() else ():
        aside = self._folder / f'damaged-{step}'
        if aside.exists():
          aside.rmtree()
        (self._folder / str(step)).rename(aside)
    self._manager.close()
    self._open()

  def wait(self) -> None:
    """Returns when everything saved so far is complete on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, then lets go of the folder."""
    self._manager.close()


class _OtherArraysError(ValueError):
  """A checkpoint is of another model or optimizer, and not damaged."""


def _read_alone(folder: epath.Path, abstract: Any) -> tuple[Any, str]:
  """State and fingerprint as they were saved; waits for no other process.

  An ocp.Checkpointer would end with all devices in a meeting, which those whose
  files are damaged never come to.
  """
  if not (folder / 'seal').exists():
    raise ValueError(
      f'Expected {folder / "seal"}, which tells whether arrays have changed, '
      'found none: a part of the checkpoint is lost, or it is of an earlier '
      'version, which alone can go on with it.'
    )
  with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
    # Orbax casts in silence, so what it returns cannot tell.
    _check_arrays(handler.metadata(folder / 'state').tree, abstract, folder)
    state = handler.restore(
      folder / 'state', args=ocp.args.StandardRestore(abstract)
    )
  return state, ocp.JsonCheckpointHandler().restore(folder / 'seal')['state']


def _check_arrays(stored: Any, wanted: Any, folder: epath.Path) -> None:
  """Raises where paths, dtypes or shapes are others."""
  stored, wanted = map(ocp.tree.to_flat_dict, (stored, wanted))
  for keys in sorted({*stored, *wanted}):
    expected, found = (
      f'{x[keys].dtype}{list(x[keys].shape)}' if keys in x else 'nothing'
      for x in (wanted, stored)
    )
    if expected != found:
      raise _OtherArraysError(
        f'Expected {"/".join(keys)} as {expected}, found {found} in {folder}.'
      )


def _place(folder: epath.Path, iterator: Any) -> dict[str, Any]:
  """Where the data go on; as Grain's own handler, but also after others.

  Each process has written how far it has read. What is kept by the number of a
  share (see batches.join) is everybody's to go on from.
  """
  own = f'process_{jax.process_index()}-of-{jax.process_count()}.json'
  files = sorted(folder.glob('process_*-of-*.json'))
  states = {file.name: _unsealed(file.read_text()) for file in files}
  shares = {}
  for state in states.values():
    shares |= state.get('shares', {})
  if shares and 'shares' not in iterator.get_state():
    raise ValueError(
      f'Expected data read as one, found {len(shares)} shares of them, which '
      f'{len(states)} have read; go on with as many processes, or begin with a '
      '--config.data.shares that both numbers of processes divide.'
    )
  if not shares and own not in states:
    raise ValueError(
      f'Expected data read in shares, with which other processes can go on, '
      f'found what {len(states)} have read each by itself; go on with as '
      'many, or begin with a --config.data.shares that both numbers divide.'
    )
  return {'shares': shares} if shares else states[own]


class _Sealed:
  """An iterator whose state is saved so that a character that changed shows."""

  def __init__(self, iterator: Any):
    self._iterator = iterator

  def get_state(self) -> bytes:
    text = json.dumps(self._iterator.get_state())
    sealed = {'state': text, 'digest': fingerprint.digest(text)}
    return json.dumps(sealed).encode()


def _unsealed(text: str) -> dict[str, Any]:
  sealed = json.loads(text)
  if fingerprint.digest(sealed['state']) != sealed['digest']:
    raise ValueError(
      "Expected an iterator's state as it was saved, found other characters."
    )
  return json.loads(sealed['state'])


def _fingerprint_of_tree(tree: Any) -> str:
  flat = {
    '/'.join(keys): x for keys, x in ocp.tree.to_flat_dict(tree).items()
  }
  # All are on their way before the first is waited for.
  adding = {path: fingerprint.bits_of(x) for path, x in flat.items()}
  bits = jax.device_get(adding)
  return fingerprint.of_marks(
    (path, x.shape, str(x.dtype), int(bits[path])) for path, x in flat.items()
  )
