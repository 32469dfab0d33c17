import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from scipy import special

from vimonet_jax import sharding
from vimonet_jax.models import translators


def both(module, features):
  return module.motion(features), module.video(features)


def test_they_are_as_large_as_the_published_ones():
  def count(method, width):
    features = jax.ShapeDtypeStruct((1, 1, width), jnp.float32)
    shapes = jax.eval_shape(
      lambda key, x: translators.Translators(4096).init(key, x, method=method),
      jax.random.key(0),
      features,
    )
    return sum(x.size for x in sharding.unbox(shapes['params']).values())

  assert count(lambda module, x: module.motion(x), 512) == 2_101_248
  assert count(lambda module, x: module.video(x), 1024) == 20_979_712


def test_they_begin_as_a_torch_linear_layer_does():
  init = nn.unbox(
    translators.Translators(256).init(
      jax.random.key(0), jnp.zeros((1, 64)), method=both
    )
  )
  flat = traverse_util.flatten_dict(init['params'], sep='/')
  assert sorted(flat) == [
    f'{part}/{leaf}'
    for part in ('motion/in', 'video/in', 'video/out')
    for leaf in ('bias', 'kernel')
  ]
  for path, x in flat.items():
    bound = 1 / np.sqrt(256 if path.startswith('video/out') else 64)
    assert np.abs(x).max() <= bound, path
    assert np.isclose(np.std(x), bound / 3**0.5, rtol=0.15), path


def test_they_compute_in_float32_between_bfloat16_neighbours():
  features = jnp.full((1, 8), 1 + 2**-7, jnp.bfloat16)
  params = {'in': {'kernel': jnp.full((8, 1), 1 + 2**-9), 'bias': jnp.zeros(1)}}
  found = translators.Linear(1).apply({'params': params}, features)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, 8 * (1 + 2**-7) * (1 + 2**-9), rtol=1e-6)


@pytest.mark.parametrize('kind', [translators.Linear, translators.Mlp])
def test_an_accelerator_is_asked_for_full_products(kind):
  features = jnp.zeros((1, 8))
  shapes = jax.eval_shape(kind(4).init, jax.random.key(0), features)
  params = jax.tree.map(jnp.zeros_like, nn.unbox(shapes))

  def loss(params):
    return jnp.sum(kind(4).apply(params, features))

  text = str(jax.make_jaxpr(jax.grad(loss))(params))
  products = text.count('dot_general[')
  assert products
  assert text.count('Precision.HIGHEST') in (products, 2 * products), text


def test_between_the_layers_is_the_exact_gelu():
  x = np.linspace(-4, 4, 81, dtype=np.float32)[:, None]
  one = {'kernel': jnp.ones((1, 1)), 'bias': jnp.zeros(1)}
  found = translators.Mlp(1).apply({'params': {'in': one, 'out': one}}, x)
  exact = 0.5 * x * (1 + special.erf(x / np.sqrt(2)))
  # The tanh form is off by 5e-4.
  np.testing.assert_allclose(found, exact, atol=2e-6)


def test_every_parameter_has_a_place_on_a_mesh():
  shapes = jax.eval_shape(
    lambda key: translators.Translators(64).init(
      key, jnp.zeros((1, 32)), method=both
    ),
    jax.random.key(0),
  )
  mesh = jax.sharding.AbstractMesh((2, 2, 2), sharding.AXES)
  assert len(sharding.state_shardings(shapes['params'], mesh)) == 6
