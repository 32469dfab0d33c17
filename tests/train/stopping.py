"""One of two processes, as tests/train/test_stopping.py starts them.

`python stopping.py COORDINATOR PROCESS` is stopped at a call that it prints.
"""

import os
import signal
import sys
import time

from vimonet_jax import cluster


def main(coordinator, process):
  cluster.join(coordinator, 2, int(process))
  if not cluster.is_first():
    os.kill(os.getpid(), signal.SIGTERM)
  # A dataset is built, say: all have agreed before anybody asks.
  time.sleep(3)
  for call in range(300):
    if cluster.is_told_to_stop():
      print(f'told at call {call}', flush=True)
      cluster.leave()
    time.sleep(0.01)


if __name__ == '__main__':
  main(*sys.argv[1:])
