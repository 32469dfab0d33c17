"""The toy in several processes, as tests/train/test_together.py starts them.

`python together.py FOLDER MODEL COORDINATOR PROCESSES PROCESS` is one of them.
"""

import json
import os
import pathlib
import signal
import sys

import jax
import numpy as np
import toy

from vimonet_jax import checkpoint, cluster, fingerprint, sharding
from vimonet_jax.data import batches
from vimonet_jax.eval import benchmarks, own_items
from vimonet_jax.eval import run as eval_run
from vimonet_jax.infer import engine
from vimonet_jax.synthetic import world
from vimonet_jax.train import step as step_lib

SHARES = 8


def train(folder, steps, mesh, *, data=None):
  """Trains on shares of the data, as many as this process has to read."""
  number, mine = sharding.shares(mesh, SHARES)
  shares = {i: toy.dataset(share=i, shares=number) for i in mine}
  return toy.train(
    folder,
    steps,
    data=data or batches.join(shares),
    mesh=mesh,
    checkpoint_steps=10,
  )


def restored(folder, mesh):
  """A word for all bits of the state that a checkpoint gives on a mesh."""
  number, mine = sharding.shares(mesh, SHARES)
  shares = {i: toy.dataset(share=i, shares=number) for i in mine}
  with sharding.use(mesh):
    target, _ = step_lib.layout(toy.Toy(), toy.tx(), mesh)
    saver = checkpoint.Checkpointer(pathlib.Path(folder) / 'checkpoints')
    state = saver.restore(target, iter(batches.join(shares)))
    saver.close()
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return fingerprint.of(
      {jax.tree_util.keystr(path): x for path, x in leaves}
    )


class _Terminated:
  """Data of which the last process is told to stop at the sixth batch."""

  def __init__(self, mesh):
    self._mesh = mesh

  def __iter__(self):
    number, mine = sharding.shares(self._mesh, SHARES)
    iterator = iter(
      batches.join({i: toy.dataset(share=i, shares=number) for i in mine})
    )
    given = []

    class Terminating(type(iterator)):
      def __next__(self):
        given.append(1)
        if len(given) == 6 and not cluster.is_first():
          os.kill(os.getpid(), signal.SIGTERM)
        return super().__next__()

    iterator.__class__ = Terminating
    return iterator


def answers(model, mesh, path):
  """What a model says about clips without words, and to `path`."""
  drawn = world.World()
  clips = [drawn.make_record('test', i) for i in range(3)]
  items = own_items.questions(clips, per_domain=1)
  lines = eval_run.predict(
    engine.Engine.load(model, mesh=mesh),
    benchmarks.variant(items, input='motion'),
    clips,
    str(path),
    settings=eval_run.Settings('weights', 'config', max_new_tokens=4),
    rows=8,
    progress=False,
  )
  return [line['text'] for line in lines]


def unlike(root):
  """Goes on where the last process alone cannot read the newest checkpoint.

  Returns:
    The names of what is in the folder then.
  """
  mesh = sharding.make_mesh(1, -1)
  where = jax.NamedSharding(mesh, jax.P('fsdp'))
  x = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
  state = {'x': jax.make_array_from_callback(x.shape, where, lambda i: x[i])}
  number, mine = sharding.shares(mesh, SHARES)

  def data():
    shares = {i: toy.dataset(share=i, shares=number) for i in mine}
    return iter(batches.join(shares))

  saver = checkpoint.Checkpointer(root)
  for step in (2, 5):
    iterator = data()
    for _ in range(step):
      next(iterator)
    saver.save(step, state, iterator)
  saver.wait()
  cluster.wait('two checkpoints are saved')
  if cluster.is_first():
    files = (root / '5' / 'state' / 'ocdbt.process_1').rglob('d/*')
    largest = max(files, key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
  cluster.wait('one is cut')
  iterator, other = data(), data()
  abstract = {'x': jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)}
  found = saver.restore(abstract, iterator)
  saver.close()
  for part in found['x'].addressable_shards:
    np.testing.assert_array_equal(part.data, x[part.index])
  for _ in range(2):
    next(other)
  np.testing.assert_array_equal(next(iterator)['x'], next(other)['x'])
  return sorted(path.name for path in root.iterdir())


def _fail():
  if not cluster.is_first():
    raise ValueError('Expected a, found b.')


def unshared(root, process):
  """What is said of a folder that each process has for itself."""
  cluster.check_shared(str(root / 'shared'))
  cluster.wait('the first process has removed what it had written')
  assert not list((root / 'shared').iterdir())
  cluster.STALE_S = 0.0
  try:
    cluster.check_shared(str(root / f'own-{process}'))
  except (ValueError, OSError) as error:
    return str(error)


def main(folder, model, coordinator, processes, process):
  cluster.join(coordinator, int(processes), int(process))
  root = pathlib.Path(folder)
  mesh = sharding.make_mesh(4, 2)
  train(root / 'together', 20, mesh)
  train(root / 'half_together', 10, mesh)
  told = {
    'devices': [jax.local_device_count(), jax.device_count()],
    'restored': restored(root / 'half_alone', mesh),
  }
  train(root / 'half_alone', 20, mesh)
  told['unlike'] = unlike(root / 'unlike')
  told['answers'] = answers(model, mesh, root / 'answers.jsonl')
  try:
    cluster.in_turn('a test', _fail)
  except (ValueError, OSError) as error:
    told['error'] = str(error)
  told['unshared'] = unshared(root, process)
  try:
    train(root / 'terminated', 100_000, mesh, data=_Terminated(mesh))
  except SystemExit as stopped:
    told['status'] = stopped.code
  (root / f'told-{process}.json').write_text(json.dumps(told))


if __name__ == '__main__':
  main(*sys.argv[1:])
