"""What was compiled for a work folder is found there by the next process.

A 7B step takes XLA minutes, and a run on preemptible machines starts often.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache


def keep(workdir: str) -> bool:
  """Keeps compiled programs in `workdir/compiled`, but for CPUs.

  What is compiled for one CPU may stop on another one that sees the same
  folder; JAX tells kinds of accelerators apart, and its versions.

  Args:
    workdir: a folder that all processes see.

  Returns:
    Whether it is so: not on CPUs, nor where JAX_COMPILATION_CACHE_DIR has
    named a folder already.
  """
  if jax.default_backend() == 'cpu' or jax.config.jax_compilation_cache_dir:
    return False
  folder = os.path.join(workdir, 'compiled')
  jax.config.update('jax_compilation_cache_dir', folder)
  return True


@contextlib.contextmanager
def meanwhile() -> Iterator[None]:
  """Keeps compiled programs on a CPU, too, until this process leaves.

  For one that compiles the same again, as every run of a study does: there is
  no other CPU that could find them.
  """
  if jax.config.jax_compilation_cache_dir:
    yield
    return
  with tempfile.TemporaryDirectory() as folder:
    # What has compiled before has found that there is no folder.
    compilation_cache.reset_cache()
    jax.config.update('jax_compilation_cache_dir', folder)
    try:
      yield
    finally:
      jax.config.update('jax_compilation_cache_dir', None)
      compilation_cache.reset_cache()
