import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from td_flax.model import dense


@pytest.mark.parametrize(
  ('dtype', 'atol'), [('float32', 1e-4), ('bfloat16', 0.2)]
)
def test_it_is_a_linear_layer_gradients_included(dtype, atol):
  layer = dense.Dense(
    8, 12, dtype=dtype, param_dtype=jnp.float32, rngs=nnx.Rngs(0)
  )
  layer.bias[...] = jnp.arange(12.0)
  x = jax.random.normal(jax.random.key(1), (2, 5, 8))
  graph, params = nnx.split(layer)

  def ours(params, x):
    y = nnx.merge(graph, params)(x)
    assert y.dtype == dtype
    return jnp.sum(jnp.sin(y.astype(jnp.float32)))

  def reference(params, x):
    return jnp.sum(
      jnp.sin(x @ params['kernel'][...] + params['bias'][...][None, None])
    )

  found = jax.value_and_grad(ours, (0, 1))(params, x)
  expected = jax.value_and_grad(reference, (0, 1))(params, x)
  chex.assert_trees_all_close(found, expected, atol=atol)
  assert {g.dtype for g in jax.tree.leaves(found)} == {jnp.dtype('float32')}


def test_weight_gradients_add_up_in_float32():
  x = jnp.ones((64, 64, 8), jnp.bfloat16)
  kernel, bias = jnp.zeros((8, 8)), jnp.zeros(8)

  def loss(kernel, bias):
    return jnp.sum(dense._dense(x, kernel, bias).astype(jnp.float32))

  for gradient in jax.grad(loss, (0, 1))(kernel, bias):
    np.testing.assert_array_equal(gradient, 4096)  # bfloat16 would stop at 256


@pytest.mark.parametrize(
  ('dtype', 'atol'), [('float32', 1e-4), ('bfloat16', 0.15)]
)
def test_decoding_multiplies_with_the_embeddings_gradients_included(
  dtype, atol
):
  x = jax.random.normal(jax.random.key(1), (2, 5, 8), dtype)
  table = jax.random.normal(jax.random.key(2), (12, 8))

  def of(product):
    def loss(x, table):
      y = product(x, table)
      assert y.dtype == jnp.float32
      return jnp.sum(jnp.sin(y))

    return jax.value_and_grad(loss, (0, 1))(x, table)

  found = of(dense.decode)
  expected = of(lambda x, table: x.astype(jnp.float32) @ table.T)
  chex.assert_trees_all_close(found, expected, atol=atol, rtol=atol)
  chex.assert_trees_all_equal_dtypes(found, expected)
