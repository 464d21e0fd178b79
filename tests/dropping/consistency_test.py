import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from flax import nnx

from td_flax import step
from td_flax.devices import OneDevice
from td_flax.dropping import consistency
from td_flax.dropping import plan as plans
from td_flax.model import bert


def test_divergence_is_that_of_the_softmaxed_states():
  dropped, full = np.random.default_rng(0).normal(size=(2, 5, 7))
  found = consistency.divergence(jnp.array(dropped), jnp.array(full))
  expected = scipy.stats.entropy(
    scipy.special.softmax(full, -1), scipy.special.softmax(dropped, -1), axis=-1
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_no_gradient_flows_into_the_reference():
  states = jax.random.normal(jax.random.key(0), (2, 3, 8))
  ours, theirs = jax.grad(
    lambda x, y: consistency.divergence(x, y).sum(), (0, 1)
  )(*states)
  assert jnp.abs(ours).max() > 0
  np.testing.assert_array_equal(theirs, 0)


@pytest.fixture(
  params=[
    ('post', 'cumulative_loss'),
    ('pre', 'cumulative_loss'),
    ('pre', 'frequency'),
    ('post', 'random'),
    ('post', 'random_ltd'),
    ('pre', 'attention'),
  ],
  ids='-'.join,
)
def made(request, make_config, make_rows, special, drawn):
  norm, policy = request.param
  config = make_config(
    drop__policy=policy,
    drop__consistency_every=1,
    model__norm=norm,
    model__init_stddev=0.3,
  )
  steps = step.Steps(config, 300, special, OneDevice(), consistent=True)
  params = nnx.split(steps._model())[1]
  table = jax.random.uniform(jax.random.key(3), (300,))
  rows = jnp.asarray(make_rows(4))
  state = dataclasses.replace(steps.init(table), step=jnp.array(4))

  def objective(params):
    return steps._loss(params, state, rows, jnp.arange(4))

  batch, router = drawn(steps, rows, step=4, table=table)
  return objective, lambda params: by_hand(steps, params, batch, router), params


def by_hand(steps, params, batch, router):
  """The paper's loss from two separate passes through all positions."""

  def passed(params, plan):
    model = nnx.merge(steps.graph, params)
    x = model.embed(batch.ids, batch.segments, None)
    *before, last = plan
    x = model.through(x, batch.segments, before, router, None, None)
    y = model.through(x, batch.segments, (last,), router, None, None)
    y = y if model.norm is None else model.norm(y)
    states = y[jnp.arange(len(y))[:, None], batch.predicted.positions]
    losses = step.loss.cross_entropy(model.predict(states), batch.labels)[0]
    return (losses * batch.weights).sum() / batch.weights.sum(), (
      x[:, 0], y[:, 0],
    )  # fmt: skip

  tail = plans.Span((2,))
  dropped, first = passed(params, (*steps.policy.plan(steps.config)[:-1], tail))
  full, whole = passed(params, (plans.Span((0, 1)), tail))
  loss = 0.5 * dropped + 0.5 * full
  for ours, theirs in zip(first, whole, strict=True):
    loss += 0.05 * consistency.divergence(ours, theirs).mean()
  return loss, dropped


def test_the_loss_is_the_papers(made):
  objective, by_hand, params = made
  found, (sums, _) = objective(params)
  expected, dropped = by_hand(params)
  assert found / sums.weight == pytest.approx(float(expected), rel=1e-5)
  # What is logged as the loss, and seen by the table, is the dropped pass.
  assert sums.loss / sums.weight == pytest.approx(float(dropped), rel=1e-5)


def test_its_gradient_is_too(made):
  objective, by_hand, params = made
  found = jax.grad(lambda p: objective(p)[0] / (4 * 4))(params)
  expected = jax.grad(lambda p: by_hand(p)[0])(params)
  for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(x, y, atol=2e-6)


def test_first_tokens_come_from_before_and_behind_the_last_layer(
  make_config, make_rows, special, drawn
):
  config = make_config()
  steps = step.Steps(config, 300, special, OneDevice(), consistent=True)
  params = nnx.split(steps._model())[1]
  model = nnx.merge(steps.graph, params)
  batch, _ = drawn(steps, make_rows(2))
  logits, (before, behind) = model.with_first(batch, steps.full)
  np.testing.assert_allclose(
    logits, model(batch, plans.full(3)), rtol=1e-4, atol=1e-5
  )
  whole = model.encode(batch.ids, batch.segments, plans.full(3))
  np.testing.assert_allclose(behind, whole[:, 0], rtol=1e-4, atol=1e-5)
  assert isinstance(model, bert.Bert)
  assert jnp.abs(before - behind).max() > 1e-3
