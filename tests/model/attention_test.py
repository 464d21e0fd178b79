import jax
import jax.numpy as jnp
import numpy as np
import pytest

from td_flax.model import attention as module


def inputs(queries=5, keys=7):
  q, k, v = (
    jax.random.normal(jax.random.key(i), (2, n, 3, 4))
    for i, n in enumerate((queries, keys, keys))
  )
  return q, k, v


@pytest.mark.smoke
def test_it_equals_the_formula_row_by_row():
  q, k, v = (np.asarray(x, np.float64) for x in inputs())
  q_segments = np.array([[1, 1, 2, 2, 0]] * 2)
  k_segments = np.array([[1, 1, 1, 2, 2, 2, 0]] * 2)
  out = module.attention(
    *inputs(), jnp.asarray(q_segments), jnp.asarray(k_segments)
  )
  for b in range(2):
    for n in range(5):
      for h in range(3):
        seen = k_segments[b] == q_segments[b, n]
        scores = k[b, seen, h] @ q[b, n, h] / 2.0  # sqrt of width 4
        weights = np.exp(scores - scores.max())
        expected = weights @ v[b, seen, h] / weights.sum()
        np.testing.assert_allclose(out[b, n, h], expected, atol=1e-5)


def test_scores_are_summed_in_float32_whatever_the_type():
  q, k, v = (x.astype(jnp.bfloat16) for x in inputs())
  segments = jnp.ones((2, 5), int), jnp.ones((2, 7), int)
  out = module.attention(q, k, v, *segments)
  assert out.dtype == jnp.bfloat16
  exact = module.attention(
    *(x.astype(jnp.float32) for x in (q, k, v)), *segments
  )
  np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=2e-2)


def test_dropout_needs_a_key_and_keeps_the_mean():
  x = jnp.ones((200, 200))
  assert module.dropout(x, 0.1, None) is x
  assert module.dropout(x, 0.0, jax.random.key(0)) is x
  dropped = np.asarray(module.dropout(x, 0.1, jax.random.key(0)))
  assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.9)}
  assert abs((dropped == 0).mean() - 0.1) < 5 * np.sqrt(0.09 / x.size)
