"""Steps on the CPU stop asking the system for the same memory again."""

import subprocess
import sys

import pytest

# Page faults of a call whose temporaries are larger than what malloc keeps.
_COUNT = """
import resource
import sys

from vimonet_jax import allocator

kept = sys.argv[1] == 'keep' and allocator.keep_freed()

import jax
import jax.numpy as jnp

@jax.jit
def step(x):
  scores = jax.nn.softmax(x @ x.T)  # 64 MiB
  return jnp.sum(scores @ x)

x = jnp.ones((4096, 64))
for _ in range(3):
  step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
  step(x).block_until_ready()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(int(kept), faults // 4)
"""


def _faults(what: str) -> tuple[bool, int]:
  done = subprocess.run(
    [sys.executable, '-c', _COUNT, what],
    capture_output=True,
    text=True,
    check=True,
  )
  kept, faults = done.stdout.split()
  return kept == '1', int(faults)


def test_a_step_finds_the_memory_of_the_one_before_it():
  kept, faults = _faults('keep')
  if not kept:
    pytest.skip('needs a CPU as the default device, and glibc')
  _, faults_without = _faults('leave')
  assert faults_without > 10_000  # 64 MiB in pages of 4 KiB are 16,384.
  assert faults < faults_without / 10
