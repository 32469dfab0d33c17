"""The processes of one run: how they find each other, and who does what alone.

Every process runs the same program. Training is done together; files that are
made once are made by the first process, while the others wait.
"""

import contextlib
import itertools
import json
import logging
import os
import platform
import signal
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

T = TypeVar('T')

# Others may wait for as long as a dataset takes to build. Who waits for a
# process that has died is stopped by JAX, not by this.
_PATIENCE_MS = 7 * 24 * 3600 * 1000
# For so long a shared file system may show a folder as it was: the most of NFS,
# unless somebody has set another time.
STALE_S = 60.0
# Between two looks at it.
_PAUSE_S = 1.0
# How long who leaves waits for those who do not; they are stopped then.
_LEAVING_S = 60
# How a process ends that was stopped by SIGTERM, and goes on if started again.
STOPPED = 128 + signal.SIGTERM

# Of `is_told_to_stop`, as long as the process lives. XLA takes 0 for one that
# has not called yet.
_calls = itertools.count(1)
_told = threading.Event()


def join(
  coordinator: str | None = None,
  processes: int | None = None,
  process: int | None = None,
) -> None:
  """Meets the other processes; before anything else that touches a device.

  Without arguments JAX finds out who they are: it knows TPU pods, GKE, Slurm
  and Open MPI. On the latter two each process gets one GPU of its host.

  Args:
    coordinator: HOST:PORT of the first process, for launchers JAX does not
      know; then all three, and each process has all devices that it sees.
    processes: how many there are.
    process: which one this is, from 0.

  Raises:
    ValueError: some are missing, or wrong, or JAX knows no such launcher.
  """
  given = {
    '--coordinator': coordinator,
    '--processes': processes,
    '--process': process,
  }
  options: dict[str, Any] = {}
  if any(x is not None for x in given.values()):
    missing = [name for name, x in given.items() if x is None]
    if missing:
      raise ValueError(
        f'Expected --coordinator, --processes and --process together, found no '
        f'{" and no ".join(missing)}; add it, or use --distributed where JAX '
        'knows the launcher.'
      )
    host, _, port = coordinator.rpartition(':')
    if not host or not port.isdecimal():
      raise ValueError(
        f'Expected --coordinator as HOST:PORT, e.g. 10.0.0.1:1234, found '
        f'{coordinator!r}.'
      )
    if not 0 <= process < processes:
      raise ValueError(
        f'Expected --process from 0 to {processes - 1} for '
        f'--processes={processes}, found {process}.'
      )
    options = {
      'coordinator_address': coordinator,
      'num_processes': processes,
      'process_id': process,
      'cluster_detection_method': 'deactivate',
    }
  try:
    jax.distributed.initialize(shutdown_timeout_seconds=_LEAVING_S, **options)
  except ValueError as e:  # No launcher that JAX knows has started us.
    raise ValueError(
      'Expected --distributed in processes of a TPU pod, GKE, Slurm or Open '
      f'MPI, found none of them ({e}); leave it out for one process, or '
      'name --coordinator, --processes and --process.'
    ) from e
  logging.info('Process %d of %d', jax.process_index(), jax.process_count())


def is_joined() -> bool:
  """Whether JAX hears SIGTERM, for all processes; see `is_told_to_stop`."""
  return jax.distributed.is_initialized()


def is_told_to_stop() -> bool:
  """Whether all processes are to stop here, for one has received a SIGTERM.

  All must call this equally often. They agree in the background on the call
  after the last one that any of them had made when the signal came:

      process 0   1   2   3   4   5*       the signal comes after 0 has made its
      process 1   1   2 !     3   4   5*   fourth call, and 1 its second

  So what counts is calls: numbers of steps begin anew with each stage, and the
  agreed one could lie behind. Nobody else may ask JAX. One process alone, which
  has not joined, is never told.
  """
  # True at the agreed call only.
  if multihost_utils.reached_preemption_sync_point(next(_calls)):
    _told.set()
  return _told.is_set()


def stop_if_told() -> None:
  """Leaves, where nothing needs to be saved for that, if told so.

  All processes must call it equally often, as `is_told_to_stop`.
  """
  if is_told_to_stop():
    leave()


def leave() -> NoReturn:
  """Ends as who was stopped by SIGTERM and has saved everything."""
  logging.warning('Stopped by SIGTERM; the same command goes on from here.')
  raise SystemExit(STOPPED)


def is_first() -> bool:
  """Whether this process is the one that draws, prints and writes."""
  return jax.process_index() == 0


def wait(name: str) -> None:
  """Until all processes are here; devices are left alone meanwhile."""
  barrier = ocp.multihost.get_barrier_sync_fn()
  barrier(key=name, timeout_ms=_PATIENCE_MS)


def in_turn(name: str, work: Callable[[], T]) -> T:
  """The first process works, then the others, which find made what it made.

  Raises:
    OSError: here nothing is wrong, but in another process.
  """
  with alike(f'{name}: the first'):
    if is_first():
      result = work()
  with alike(f'{name}: the others'):
    if not is_first():
      result = work()
  return result


@contextlib.contextmanager
def alike(name: str) -> Iterator[None]:
  """Where one process fails in it, all fail and say why.

  They agree without their devices: no computation of several could wait for one
  that takes no part in it.

  Args:
    name: of the occasion, the same in all of them.

  Raises:
    OSError: here nothing is wrong, but in another process.
  """
  error = None
  try:
    yield
  except Exception as e:
    error = e
  said = tell(name, '' if error is None else line_of(error))
  try:
    if error is not None:
      raise error
  finally:
    del error  # Else what its traceback holds would stay in memory.
  for process, words in enumerate(said):
    if words:
      raise OSError(f'Process {process} says: {words}')


def line_of(error: Exception) -> str:
  """What an error says, in a line that can be told to others."""
  return next(iter(str(error).strip().splitlines()), type(error).__name__)[:400]


def tell(name: str, words: str) -> list[str]:
  """What each process says, by its number; devices are left alone meanwhile.

  Args:
    name: of the occasion, the same in all of them.
    words: what this one says.
  """
  if jax.process_count() == 1:
    return [words]
  client = ocp.multihost.get_jax_distributed_client()
  name = urllib.parse.quote(name, safe='')  # Some name a path.
  own = f'{name}/{jax.process_index()}'
  client.key_value_set(own, words, allow_overwrite=True)
  wait(f'{name}: all have told')
  told = dict(client.key_value_dir_get(f'{name}/'))
  # Nobody tells the next thing before everybody has heard this one.
  wait(f'{name}: all have heard')
  return [told[f'{name}/{i}'] for i in range(jax.process_count())]


def from_first(name: str, here: Any) -> Any:
  """What the first process finds, in all of them; see `tell`.

  A shared file system may show others for a while how it was before.

  Args:
    name: of the occasion, the same in all of them.
    here: what this one finds, as JSON values.
  """
  return json.loads(tell(name, json.dumps(here))[0])


def check_shared(folder: str) -> None:
  """Compares what all processes see of a folder, which is made.

  Each host could have one of its own by that name, and would notice only after
  the first had made all data in it.

  Raises:
    ValueError: this one does not see what the first writes there.
    OSError: another one does not.
  """
  if jax.process_count() == 1:
    return
  name = from_first('a folder is looked for', f'.seen-{uuid.uuid4().hex}')
  path, start = os.path.join(folder, name), time.monotonic()
  with alike('the first process writes to the folder'):
    if is_first():
      os.makedirs(folder, exist_ok=True)
      open(path, 'w').close()
  try:
    with alike('all processes see the folder'):
      # Listed, since a shared disk may remember that a file was missing.
      while not (os.path.isdir(folder) and name in os.listdir(folder)):
        if time.monotonic() - start > STALE_S:
          raise ValueError(
            f'Expected {folder} to be one folder for all processes, found '
            f'another of that name on {platform.node()}; choose one on a file '
            'system that every host mounts.'
          )
        time.sleep(_PAUSE_S)
  finally:
    if is_first():
      os.remove(path)


def everywhere(tree: Any, where: jax.sharding.Sharding) -> Any:
  """Arrays that all processes have alike, on the devices of all of them."""

  def put(x):
    if jax.process_count() == 1 or where.is_fully_addressable:
      return x  # jit takes it as it is.
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      words = put(jax.random.key_data(x))
      return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, where, lambda i: x[i])

  return jax.tree.map(put, tree)


def fetch(tree: Any) -> Any:
  """Whole arrays in the host, also of devices that are not all its own."""

  def get(x):
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)

  return jax.tree.map(get, tree)
