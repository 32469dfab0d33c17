"""What is kept on disk: a run's state to go on from, and weights to build on.

`Checkpointer` holds everything that resuming needs and is read by nobody else.
`save_weights` and `load_weights` are for everybody else: flat dicts of arrays
by path, such as `llm/blocks/attn/q/kernel`, in a folder.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import grain.python as grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath


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
        iterator=grain.PyGrainCheckpointSave(iterator),
      ),
    )

  def restore(self, abstract: Any, iterator: Any) -> Any | None:
    """The newest state that can be read; None where there is no checkpoint.

    A damaged checkpoint is reported, put aside under another name and the one
    before is used.

    Args:
      abstract: tree of jax.ShapeDtypeStruct with shardings, as saved.
      iterator: is set to go on with the batch after the state's step.
    """
    errors = {}
    for step in reversed(self.steps):
      try:
        found = self._manager.restore(
          step,
          args=ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract),
            iterator=grain.PyGrainCheckpointRestore(iterator),
          ),
        )
      except Exception as error:  # Whatever a broken file makes Orbax raise.
        errors[step] = error
        continue
      for damaged, error in errors.items():
        logging.warning(
          'Checkpoint %s is damaged and was put aside; going on from step %d. '
          'The damage: %s',
          self._folder / str(damaged),
          step,
          _first_line(error),
        )
      self._put_aside(list(errors))
      return found.state
    if errors:
      newest = max(errors)
      raise ValueError(
        f'Expected to restore a checkpoint of {self._folder}, found none that '
        f'fits; remove the folder to start afresh, or use the configuration '
        f'that wrote it. Step {newest} says: {_first_line(errors[newest])}'
      ) from errors[newest]
    return None

  def _put_aside(self, steps: Sequence[int]) -> None:
    """Renames folders, so that their steps can be saved again."""
    if not steps:
      return
    if jax.process_index() == 0:
      for step in steps:
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


def save_weights(folder: str, flat: Mapping[str, Any]) -> None:
  """Writes arrays by path; what the folder held before is replaced at the end.

  Args:
    folder: is made where it is missing.
    flat: path -> array, of any dtype and sharding.
  """
  if not flat:
    raise ValueError(f'Expected weights to write to {folder}, found none.')
  checkpointer = ocp.StandardCheckpointer()
  checkpointer.save(epath.Path(folder).absolute(), dict(flat), force=True)
  checkpointer.wait_until_finished()
  checkpointer.close()


def load_weights(
  folders: str | Sequence[str],
  patterns: Sequence[str] | None = None,
  *,
  shardings: Mapping[str, jax.sharding.Sharding] | None = None,
) -> dict[str, Any]:
  """Reads weights, in which later folders override earlier ones.

  Args:
    folders: one or several that `save_weights` wrote.
    patterns: regular expressions for whole paths; None reads everything. What
      matches none of them is not read from disk.
    shardings: where arrays go, by path; each device reads its own part. Paths
      without one become NumPy arrays.

  Returns:
    path -> array, each with the dtype it was written with.
  """
  folders = [folders] if isinstance(folders, str) else list(folders)
  shardings = shardings or {}
  source, shapes = {}, {}
  for folder in folders:
    for path, entry in _weights_metadata(folder).items():
      if patterns is None or any(re.fullmatch(p, path) for p in patterns):
        source[path], shapes[path] = folder, entry
  if not source:
    raise ValueError(
      f'Expected weights matching {list(patterns or [".*"])} in '
      f'{", ".join(map(str, folders))}, found none.'
    )
  flat = {}
  for folder in dict.fromkeys(source.values()):
    paths = [path for path in source if source[path] == folder]
    flat.update(
      _read(folder, {path: shapes[path] for path in paths}, shardings)
    )
  return {path: flat[path] for path in sorted(flat)}


def _weights_metadata(folder: str) -> dict[str, Any]:
  root = epath.Path(folder).absolute()
  if not (root / '_METADATA').exists():
    found = 'no such folder' if not root.exists() else 'none'
    raise FileNotFoundError(
      f'Expected weights in {root}, found {found}; finish the stage that '
      'writes them or correct the path.'
    )
  with ocp.StandardCheckpointer() as checkpointer:
    return dict(checkpointer.metadata(root).item_metadata.tree)


def _read(folder: str, entries: Mapping[str, Any], shardings) -> dict[str, Any]:
  item, args = {}, {}
  for path, entry in entries.items():
    item[path] = jax.ShapeDtypeStruct(entry.shape, entry.dtype)
    if path in shardings:
      args[path] = ocp.ArrayRestoreArgs(
        sharding=shardings[path], dtype=entry.dtype, strict=True
      )
    else:
      args[path] = ocp.RestoreArgs(restore_type=np.ndarray, dtype=entry.dtype)
  with ocp.PyTreeCheckpointer() as checkpointer:
    return checkpointer.restore(
      epath.Path(folder).absolute(),
      ocp.args.PyTreeRestore(item, restore_args=args, partial_restore=True),
    )


def _first_line(error: Exception) -> str:
  return next(iter(str(error).strip().splitlines()), type(error).__name__)[:400]
