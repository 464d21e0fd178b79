import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from td_flax.dropping import routing

SHAPE = (2, 9)
few_values = hnp.arrays(np.float32, SHAPE, elements=st.sampled_from([-1, 0, 2]))
many = hypothesis.settings(max_examples=25)


@pytest.mark.smoke
@many
@hypothesis.given(first=few_values, second=few_values)
def test_ranks_are_those_of_a_stable_sort_by_the_keys(first, second):
  ranks = np.asarray(routing.rank(jnp.asarray(first), jnp.asarray(second)))
  for row in range(SHAPE[0]):
    order = sorted(
      range(SHAPE[1]), key=lambda n: (-first[row, n], -second[row, n], n)
    )
    np.testing.assert_array_equal(ranks[row][order], np.arange(SHAPE[1]))


@many
@hypothesis.given(scores=few_values, k=st.integers(1, SHAPE[1]))
def test_a_route_lists_the_k_best_in_ascending_order(scores, k):
  ranks = routing.rank(jnp.asarray(scores))
  route = routing.select(ranks, k)
  for row in range(SHAPE[0]):
    expected = np.flatnonzero(np.asarray(ranks)[row] < k)
    np.testing.assert_array_equal(route.positions[row], expected)
    np.testing.assert_array_equal(np.flatnonzero(route.kept[row]), expected)


@many
@hypothesis.given(scores=few_values, k=st.integers(1, SHAPE[1]))
def test_restoring_what_was_gathered_changes_nothing(scores, k):
  x = jax.random.normal(jax.random.key(0), (*SHAPE, 4))
  route = routing.select(routing.rank(jnp.asarray(scores)), k)
  restored = routing.restore(routing.gather(x, route), x, route)
  np.testing.assert_array_equal(restored, x)


@many
@hypothesis.given(scores=few_values, k=st.integers(1, SHAPE[1]))
def test_restore_puts_the_kept_back_and_leaves_the_others(scores, k):
  x = jax.random.normal(jax.random.key(0), (*SHAPE, 4))
  y = jax.random.normal(jax.random.key(1), (SHAPE[0], k, 4))
  route = routing.select(routing.rank(jnp.asarray(scores)), k)
  restored = np.asarray(routing.restore(y, x, route))
  expected = np.array(x)
  for row, positions in enumerate(np.asarray(route.positions)):
    expected[row, positions] = y[row]
  np.testing.assert_array_equal(restored, expected)
  np.testing.assert_array_equal(routing.gather(restored, route), y)


def test_gradients_equal_those_of_plain_indexing():
  key = jax.random.key(3)
  x = jax.random.normal(key, (2, 9, 4))
  weights = jax.random.normal(jax.random.key(4), (2, 9, 4))
  route = routing.select(routing.rank(jax.random.normal(key, (2, 9))), 5)

  def routed(x):
    y = jnp.sin(routing.gather(x, route))
    return jnp.sum(weights * routing.restore(y, x * x, route))

  def plain(x):
    rows = jnp.arange(2)[:, None]
    y = jnp.sin(x[rows, route.positions])
    return jnp.sum(weights * (x * x).at[rows, route.positions].set(y))

  np.testing.assert_allclose(routed(x), plain(x), rtol=1e-6)
  np.testing.assert_allclose(jax.grad(routed)(x), jax.grad(plain)(x), rtol=1e-6)


def test_neither_direction_sorts_or_scatters():
  def loss(x, scores):
    chosen = routing.select(routing.rank(scores), 5)
    y = routing.gather(x, chosen)
    return jnp.sum(routing.restore(y * y, x, chosen))

  lowered = jax.jit(jax.grad(loss)).lower(jnp.ones((1, 9, 4)), jnp.ones((1, 9)))
  text = lowered.as_text()
  assert 'stablehlo.scatter' not in text
  assert 'stablehlo.sort' not in text


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_products_and_comparisons_select_what_indexing_selects(dtype):
  x = jax.random.normal(jax.random.key(0), (2, 9, 4)).astype(dtype)
  ids = jax.random.randint(jax.random.key(1), (2, 9), 0, 60_000)
  ranks = routing.rank(jax.random.normal(jax.random.key(2), (2, 9)))
  positions = routing.select(ranks, 5).positions
  np.testing.assert_array_equal(
    routing._multiply(x, positions), routing._index(x, positions)
  )
  np.testing.assert_array_equal(
    routing._compare(ids, positions), routing._index(ids, positions)
  )


@pytest.mark.parametrize(
  ('dtype', 'precision'), [('float32', 'HIGHEST'), ('bfloat16', 'DEFAULT')]
)
def test_a_tpu_moves_tokens_by_exact_products(dtype, precision):
  def loss(x, scores):
    route = routing.select(routing.rank(scores), 5)
    y = routing.gather(x, route)
    return jnp.sum(jnp.sin(routing.restore(y * y, x, route)))

  x, scores = jnp.ones((2, 9, 4), dtype), jnp.ones((2, 9))
  traced = jax.jit(jax.grad(loss)).trace(x, scores)
  text = traced.lower(lowering_platforms=('tpu',)).as_text()
  products = [line for line in text.splitlines() if 'dot_general' in line]
  assert len(products) == 4  # gather, restore, and back
  for line in products:
    # What a default product says is nothing at all.
    assert ('HIGHEST' in line) == (precision == 'HIGHEST')
  for operation in ('gather', 'scatter', 'sort'):
    assert f'stablehlo.{operation}' not in text
