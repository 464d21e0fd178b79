import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from td_flax import masking
from td_flax.dropping import plan as plans
from td_flax.dropping import routing
from td_flax.model import bert


@pytest.fixture
def gradient(make_config, make_rows, special):
  """A model of 4 layers, 3 of them narrow: its gradient and parameters."""
  ids = jnp.asarray(make_rows(2), jnp.int32)
  segments = masking.segment(
    ids, special, attend_across=False, restart_positions=True
  )
  plan = plans.token_dropping(4, 0, 2, 12, cross_attend=True)
  seeds = jnp.arange(4, dtype=jnp.uint32).reshape(2, 2)
  route = routing.select(jnp.tile(jnp.arange(32), (2, 1)), 12)

  def make(**changes):
    config = make_config(model__num_layers=4, model__dropout=0.2).model
    config = dataclasses.replace(config, **changes)
    graph, params = nnx.split(bert.Bert(config, 300, nnx.Rngs(0)))

    def loss(params):
      states = nnx.merge(graph, params).encode(
        ids, segments, plan, lambda *_: route, seeds
      )
      return jnp.sum(jnp.sin(states))

    return jax.jit(jax.value_and_grad(loss)).lower(params), params

  return make


def test_how_layers_are_run_changes_nothing(gradient):
  lowered, params = gradient()
  loss, grads = lowered.compile()(params)
  for changes in (
    {'remat': 'dense'},
    {'scan_layers': True, 'remat': 'layer'},
  ):
    again, grads_again = gradient(**changes)[0].compile()(params)
    np.testing.assert_allclose(again, loss, atol=1e-4)
    chex.assert_trees_all_close(grads_again, grads, atol=1e-4)


def count(lowered, operation):
  return lowered[0].as_text().count(f'stablehlo.{operation}')


def test_layers_are_recomputed_and_dense_results_kept_if_asked(gradient):
  plain, dense, layer = (
    gradient(remat=remat) for remat in ('none', 'dense', 'layer')
  )
  assert count(plain, 'tanh') == 4
  assert count(dense, 'tanh') == count(layer, 'tanh') == 8
  # Attention's products are recomputed by both.
  products = [count(x, 'dot_general') for x in (plain, dense, layer)]
  assert products[0] < products[1] < products[2]


def test_a_scanned_range_is_compiled_once(gradient):
  unrolled, scanned = gradient(), gradient(scan_layers=True)
  # Layers 1 and 2; layer 0 attends to other keys, 3 sees all tokens.
  assert count(scanned, 'tanh') == count(unrolled, 'tanh') - 1
