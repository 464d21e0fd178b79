import dataclasses

import jax.numpy as jnp
import pytest
from flax import nnx

from td_flax.devices import OneDevice
from td_flax.step import Steps


@pytest.fixture
def make_steps(make_config, special):
  """The steps of a policy, and a model's parameters."""

  def make(policy, **overrides):
    config = make_config(
      drop__policy=policy, **{'model__num_layers': 4, **overrides}
    )
    steps = Steps(config, 300, special, OneDevice())
    return steps, nnx.split(steps._model())[1]

  return make


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
