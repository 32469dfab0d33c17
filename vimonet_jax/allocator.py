"""The memory that a step has given back is kept for the next step.

XLA takes a step's temporaries from malloc on CPUs, each step anew, and glibc
hands pieces of that size back to the system at once: the next step then waits
for the system to clear its pages, a quarter of its time on two cores. What is
set here stays as long as the process does.
"""

import ctypes

import jax

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed() -> bool:
  """Keeps memory that was freed, where JAX computes on the CPU.

  To be called before anything is computed: threads that have taken memory
  before go on as they were. The process may take more memory than without, at
  worst another time a step's temporaries, and keeps what it had at its peak.

  Returns:
    Whether it is so: not with other devices, which keep memory themselves (all
    threads of their host take theirs from one place, no more is changed), nor
    where the C library is not glibc.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return False
  # Several arenas would share nothing; JAX's threads start with the backend.
  mallopt(_ARENA_MAX, 1)
  if jax.default_backend() != 'cpu':
    return False
  return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))
