import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from td_flax.model import loss


@pytest.fixture
def task():
  logits = 5 * jax.random.normal(jax.random.key(0), (2, 4, 40))
  # As the model's padding of the vocabulary is.
  logits = logits.at[..., 36:].set(jnp.finfo(jnp.float32).min)
  return logits, jax.random.randint(jax.random.key(1), (2, 4), 0, 36)


def test_it_is_the_cross_entropy_gradients_included(task):
  logits, labels = task
  weights = jnp.arange(8.0).reshape(2, 4)

  def ours(logits):
    return jnp.sum(weights * loss.cross_entropy(logits, labels)[0])

  def reference(logits):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(weights * losses)

  np.testing.assert_allclose(ours(logits), reference(logits), rtol=1e-6)
  np.testing.assert_allclose(
    jax.grad(ours)(logits), jax.grad(reference)(logits), atol=1e-5
  )


def test_correct_is_where_the_label_is_the_most_likely(task):
  logits, labels = task
  best = jnp.argmax(logits, axis=-1)
  np.testing.assert_array_equal(loss.cross_entropy(logits, best)[1], True)
  np.testing.assert_array_equal(
    loss.cross_entropy(logits, labels)[1], best == labels
  )


def test_a_logit_that_is_not_finite_is_seen():
  logits = jnp.zeros((1, 1, 8)).at[0, 0, 3].set(jnp.nan)
  losses, correct = loss.cross_entropy(logits, jnp.zeros((1, 1), int))
  assert np.isnan(losses).all()
  assert not correct.any()
