"""What tests/infer/test_likelihood.py asks, also in two processes.

`python scoring.py FILE MODEL COORDINATOR PROCESSES PROCESS` is one of them.
"""

import dataclasses
import functools
import sys

import numpy as np

from vimonet_jax import cluster, sharding
from vimonet_jax.data import records
from vimonet_jax.infer import engine, likelihood
from vimonet_jax.synthetic import world

QUESTION = 'What is the person doing?'
CANDIDATES = ('walk', 'walk back', 'he waves with the left arm', 'É!')


@functools.cache
def record(
  index: int = 0,
  media: tuple[str, ...] = ('motion', 'video'),
  *,
  begun: str = '',
  history: tuple[records.Turn, ...] = (),
) -> records.Record:
  """An open question; pictures of 8 x 8 pixels, as the tiny model reads."""
  turns = (*history, records.Turn(QUESTION, begun))
  drawn = world.World().make_record('test', index)
  return dataclasses.replace(
    drawn,
    motion=drawn.motion if 'motion' in media else None,
    frames=drawn.frames[:, ::6, ::6] if 'video' in media else None,
    motion_text='a b+c' if 'words' in media else None,
    turns=turns,
  )


ASKED = [record(0, ('motion',)), record(1, ('motion',), begun='He ')]


def numbers(found: list[tuple[likelihood.Scored, ...]]) -> np.ndarray:
  """All log-probabilities of a result, in a row."""
  return np.array([y for some in found for x in some for y in (*x[0], x.end)])


def on_eight_devices(model: str) -> np.ndarray:
  """What is found where rows and weights are cut."""
  mesh = sharding.make_mesh(2, 2, 2)
  asking = engine.Engine.load(model, mesh=mesh)
  return numbers(likelihood.score(asking, ASKED, [CANDIDATES] * len(ASKED)))


def main(path, model, coordinator, processes, process):
  cluster.join(coordinator, int(processes), int(process))
  np.save(f'{path}-{process}', on_eight_devices(model))


if __name__ == '__main__':
  main(*sys.argv[1:])
