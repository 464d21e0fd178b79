import chex
import jax
import numpy as np
import pytest

from td_flax import parallel, step
from td_flax.config import ParallelConfig

VOCAB = 300


@pytest.mark.parametrize('name', ['adamw', 'lamb'])
def test_moments_begin_on_the_host_as_optax_begins_them(
  make_config, special, name
):
  engine = parallel.make(ParallelConfig(num_devices=1))
  config = make_config(optimizer__name=name)
  steps = step.Steps(config, VOCAB, special, engine)
  state = steps.init(np.zeros(VOCAB))
  expected = steps.tx.init(state.params)
  assert jax.tree.structure(state.opt_state) == jax.tree.structure(expected)
  pairs = zip(
    jax.tree.leaves(state.opt_state), jax.tree.leaves(expected), strict=True
  )
  for moment, leaf in pairs:
    assert isinstance(moment, np.ndarray)
    assert moment.dtype == leaf.dtype
    np.testing.assert_array_equal(moment, leaf)


def test_initial_parameters_depend_on_the_seed_alone(make_config, special):
  def begin(**overrides):
    config = make_config(**overrides)
    steps = step.Steps(
      config, VOCAB, special, parallel.make(ParallelConfig(num_devices=1))
    )
    return steps.init(np.zeros(VOCAB, np.float32)).params

  first = begin()
  chex.assert_trees_all_equal(first, begin(drop__policy='random'))
  with pytest.raises(AssertionError):
    chex.assert_trees_all_equal(first, begin(train__seed=1))
