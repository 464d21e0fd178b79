import dataclasses

import jax.numpy as jnp
import pytest


@pytest.fixture
def drawn():
  """Rows as a step masks them, and what routes them."""

  def draw(steps, rows, *, step=0, table=None):
    table = jnp.zeros(steps.vocab_size) if table is None else table
    state = dataclasses.replace(steps.init(table), step=jnp.array(step))
    ids, numbers = jnp.asarray(rows), jnp.arange(len(rows))
    _, batch, router = steps._drawn(state, ids, numbers)
    return batch, router

  return draw
