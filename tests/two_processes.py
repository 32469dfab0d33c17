"""Two processes of one run, on this machine."""

import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

ROOT = pathlib.Path(__file__).parents[1]


def run(
  arguments: Callable[[int, int], Sequence[str]],
  *,
  environment: Mapping[str, str],
  timeout_s: float,
) -> list[tuple[int, str]]:
  """Status and output of each, when both have ended; none is left behind.

  Args:
    arguments: (port for the first to listen at, number of the process) -> what
      Python is given.
    environment: that they get.
    timeout_s: for each of them.
  """
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  processes = [
    subprocess.Popen(
      [sys.executable, *arguments(port, i)],
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(2)
  ]
  try:
    outputs = [x.communicate(timeout=timeout_s)[0] for x in processes]
  finally:
    for process in processes:
      process.kill()
  return [(x.returncode, y) for x, y in zip(processes, outputs, strict=True)]
