import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from td_flax import optimizer
from td_flax.config import ModelConfig, OptimizerConfig
from td_flax.model import bert

CONFIG = OptimizerConfig(learning_rate=2.0, warmup=0.1)


def rates(config, num_steps):
  rate = optimizer.schedule(config, num_steps)
  return np.array([rate(jnp.int32(step)) for step in range(num_steps + 1)])


@pytest.mark.smoke
@pytest.mark.parametrize('decay', ['linear', 'cosine'])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(decay):
  values = rates(dataclasses.replace(CONFIG, decay=decay), 100)
  np.testing.assert_allclose(values[:10], 0.2 * np.arange(1, 11), rtol=1e-6)
  assert values.max() == pytest.approx(2.0)
  assert (np.diff(values[10:]) < 0).all()
  assert (values[:100] > 0).all()
  assert values[100] == pytest.approx(0, abs=1e-6)


def test_linear_decay_is_a_line_and_cosine_half_a_wave():
  linear = rates(CONFIG, 100)[9:]
  np.testing.assert_allclose(np.diff(linear), -2 / 91, rtol=1e-3)
  cosine = rates(dataclasses.replace(CONFIG, decay='cosine'), 100)
  expected = 1 + np.cos(np.pi * (np.arange(10, 100) - 9) / 91)
  np.testing.assert_allclose(cosine[10:100], expected, atol=1e-5)


def test_a_shorter_run_shortens_the_warmup_in_proportion():
  long, short = rates(CONFIG, 200), rates(CONFIG, 100)
  assert long.argmax() == 19
  assert short.argmax() == 9


def test_no_warmup_starts_at_the_peak():
  values = rates(dataclasses.replace(CONFIG, warmup=0.0), 10)
  assert values[0] == 2.0


def test_decay_spares_norms_biases_and_the_pooler():
  config = ModelConfig(
    num_layers=1, hidden_dim=8, num_heads=2, mlp_dim=8, pooler=True
  )
  model = nnx.eval_shape(lambda: bert.Bert(config, 128, nnx.Rngs(0)))
  mask = optimizer.decay_mask(nnx.state(model))
  decayed = {
    '/'.join(map(str, path))
    for path, variable in nnx.to_flat_state(mask)
    if variable.get_value()
  }
  layer = {
    f'layers/0/{name}/kernel'
    for name in (
      'attention/query',
      'attention/key',
      'attention/value',
      'attention/output',
      'mlp/inner',
      'mlp/outer',
    )
  }
  tables = {f'embeddings/{x}/embedding' for x in ('word', 'position', 'type')}
  assert decayed == layer | tables | {'head/dense/kernel'}


def test_a_pooler_that_a_task_trains_decays():
  params = {
    'classifier': {'kernel': jnp.ones((2, 2))},
    'pooler': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)},
  }
  assert optimizer.decay_mask(params) == {
    'classifier': {'kernel': True},
    'pooler': {'kernel': True, 'bias': False},
  }


def descend(config, params, grads, steps=3):
  tx, rate = optimizer.make(config, 100)
  state = tx.init(params)
  for step in range(steps):
    updates, state = tx.update(grads, state, params)
    params = {'w': params['w'] - rate(jnp.int32(step)) * updates['w']}
  return params['w']


@pytest.mark.parametrize(
  ('name', 'reference'), [('adamw', optax.adamw), ('lamb', optax.lamb)]
)
def test_updates_equal_optax_own_optimizers(name, reference):
  config = OptimizerConfig(
    name=name, learning_rate=0.1, warmup=0.05, weight_decay=0.3, clip_norm=0.0
  )
  params = {'w': jnp.array([[1.0, -2.0], [3.0, 0.5]])}
  grads = {'w': jnp.array([[0.3, 0.1], [-0.2, 5.0]])}
  theirs, ours = dict(params), descend(config, params, grads)
  tx = reference(
    optimizer.schedule(config, 100), 0.9, 0.999, eps=1e-6, weight_decay=0.3
  )
  state = tx.init(theirs)
  for _ in range(3):
    updates, state = tx.update(grads, state, theirs)
    theirs = optax.apply_updates(theirs, updates)
  np.testing.assert_allclose(ours, theirs['w'], rtol=1e-6)


def test_clipping_bounds_the_gradient_by_its_global_norm():
  # Of the first update Adam forgets the gradient's scale, but for eps.
  config = dataclasses.replace(CONFIG, clip_norm=1.0, weight_decay=0.0, eps=1.0)
  tx, _ = optimizer.make(config, 100)
  params = {'w': jnp.zeros((2, 2))}
  big, unit = ({'w': jnp.full((2, 2), x)} for x in (50.0, 0.5))
  clipped, _ = tx.update(big, tx.init(params), params)
  expected, _ = tx.update(unit, tx.init(params), params)
  np.testing.assert_allclose(clipped['w'], expected['w'], rtol=1e-6)
