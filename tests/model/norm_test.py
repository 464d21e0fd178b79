import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from td_flax.model import norm

SHAPE = (3, 5, 32)


def make(kind, dtype):
  layer = kind(
    SHAPE[-1],
    epsilon=1e-6,
    dtype=dtype,
    param_dtype=jnp.float32,
    use_fast_variance=False,
    rngs=nnx.Rngs(0),
  )
  layer.scale[...] = jnp.linspace(-1, 2, SHAPE[-1])
  layer.bias[...] = jnp.linspace(3, 1, SHAPE[-1])
  return layer


@pytest.mark.parametrize(
  ('dtype', 'offset', 'tolerance'),
  [
    ('float32', 0.0, 2e-4),
    ('float32', 100.0, 2e-4),  # one pass over x would lose digits here
    ('bfloat16', 0.0, 0.05),
  ],
)
def test_it_is_layer_norm_gradients_included(dtype, offset, tolerance):
  x = jax.random.normal(jax.random.key(1), SHAPE, dtype) + offset

  def run(kind):
    graph, params = nnx.split(make(kind, dtype))

    def loss(params, x):
      y = nnx.merge(graph, params)(x)
      assert y.dtype == dtype
      return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

  found, expected = run(norm.LayerNorm), run(nnx.LayerNorm)
  chex.assert_trees_all_close(found, expected, atol=tolerance, rtol=tolerance)
  chex.assert_trees_all_equal_dtypes(found, expected)


def test_what_does_not_vary_becomes_the_bias():
  layer = make(norm.LayerNorm, jnp.float32)
  y, pull = jax.vjp(layer, jnp.full(SHAPE, 7.0))
  np.testing.assert_allclose(y, np.broadcast_to(layer.bias[...], SHAPE))
  assert np.isfinite(pull(y)[0]).all()
