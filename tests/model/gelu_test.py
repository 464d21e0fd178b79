import jax
import jax.numpy as jnp
import numpy as np
import pytest

from td_flax.model import gelu


@pytest.mark.parametrize('approximate', [True, False])
@pytest.mark.parametrize(
  ('dtype', 'tolerance'), [('float32', 2e-6), ('bfloat16', 1e-2)]
)
def test_it_is_gelu_gradients_included(approximate, dtype, tolerance):
  x = jnp.concatenate([jnp.linspace(-12, 12, 2001), jnp.array([-1e4, 1e4])])
  x = x.astype(dtype)

  def of(function):
    y, pull = jax.vjp(function, x)
    return y, pull(jnp.cos(x))[0]

  found = of(lambda x: gelu.gelu(x, approximate))
  exact = x.astype(jnp.float32)
  y, pull = jax.vjp(lambda x: jax.nn.gelu(x, approximate), exact)
  expected = y, pull(jnp.cos(x).astype(jnp.float32))[0]
  for ours, theirs in zip(found, expected, strict=True):
    assert ours.dtype == dtype
    np.testing.assert_allclose(
      ours.astype(jnp.float32), theirs, atol=tolerance, rtol=tolerance
    )
