"""Where compiled programs are kept, and where not."""

import pathlib
import subprocess
import sys

import jax
import pytest

from vimonet_jax import compiled


@pytest.fixture(name='folder')
def _folder():
  """What JAX's setting is, which is as it was afterwards."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  yield lambda: jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', before)


def test_accelerators_find_them_in_the_work_folder(monkeypatch, folder):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert compiled.keep('/work/run')
  assert folder() == '/work/run/compiled'


def test_cpus_do_not(folder):
  assert not compiled.keep('/work/run')
  assert folder() is None


def test_a_folder_that_is_set_stays(monkeypatch, folder):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  jax.config.update('jax_compilation_cache_dir', '/somewhere')
  assert not compiled.keep('/work/run')
  assert folder() == '/somewhere'


def test_meanwhile_they_are_kept_on_a_cpu_too(folder):
  before = jax.config.jax_persistent_cache_min_compile_time_secs
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  with compiled.meanwhile():
    kept = pathlib.Path(folder())
    jax.jit(lambda x: x * 3 + 1)(2.0)
    assert list(kept.iterdir())
  jax.config.update('jax_persistent_cache_min_compile_time_secs', before)
  assert folder() is None
  assert not kept.exists()
  jax.config.update('jax_compilation_cache_dir', '/somewhere')
  with compiled.meanwhile():
    assert folder() == '/somewhere'
  assert folder() == '/somewhere'


_COMPILE = """
import sys
import jax
from vimonet_jax import compiled

backend = jax.default_backend
jax.default_backend = lambda: 'tpu'
assert compiled.keep(sys.argv[1])
jax.default_backend = backend
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
hits = []
jax.monitoring.register_event_listener(
  lambda event, **_: hits.append(event.endswith('/cache_hits'))
)
jax.jit(lambda x: x @ x)(jax.numpy.ones((8, 8))).block_until_ready()
print(sum(hits))
"""


def test_a_second_process_compiles_nothing(tmp_path, monkeypatch):
  """On what is here: with the CPU taken for something else."""
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  hits = []
  for _ in range(2):
    done = subprocess.run(
      [sys.executable, '-c', _COMPILE, str(tmp_path)],
      capture_output=True,
      text=True,
      check=True,
    )
    hits.append(int(done.stdout))
  assert hits[0] == 0
  assert hits[1] >= 1
  assert [x.name for x in tmp_path.iterdir()] == ['compiled']
